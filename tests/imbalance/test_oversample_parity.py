"""Every over-sampler against imbalanced-learn, bit by bit."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dlrecipes.errors import UserError
from dlrecipes.imbalance import ADASYN, SMOTE, SMOTENC, BorderlineSMOTE, GaussianNoise
from dlrecipes.imbalance.synthetic import same_neighbours

theirs = pytest.importorskip("imblearn.over_sampling", reason="imbalanced-learn is the reference: pip install it")

Data = tuple[NDArray[Any], NDArray[np.int64]]

PAIRS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "SMOTE": (SMOTE, theirs.SMOTE),
    "BorderlineSMOTE 1": (BorderlineSMOTE, theirs.BorderlineSMOTE),
    "BorderlineSMOTE 2": (
        lambda **k: BorderlineSMOTE(kind="borderline-2", **k),
        lambda **k: theirs.BorderlineSMOTE(kind="borderline-2", **k),
    ),
    "ADASYN": (
        lambda k_neighbors=5, **k: ADASYN(n_neighbors=k_neighbors, **k),
        lambda k_neighbors=5, **k: theirs.ADASYN(n_neighbors=k_neighbors, **k),
    ),
    "SMOTENC": (lambda **k: SMOTENC([2, 0], **k), lambda **k: theirs.SMOTENC([2, 0], **k)),
    "GaussianNoise": (
        lambda k_neighbors=1, **k: GaussianNoise(shrinkage=k_neighbors / 4, **k),
        lambda k_neighbors=1, **k: theirs.RandomOverSampler(shrinkage=k_neighbors / 4, **k),
    ),
}
KINDS = ["continuous", "repeated", "repeated across classes", "grid", "far from the origin"]


@pytest.fixture(autouse=True, params=[True])
def our_own_search(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """So few samples would be left to scikit-learn otherwise."""
    if request.param:
        monkeypatch.setattr(same_neighbours, "_FEW", 0)


def cloud(kind: str, dim: int, dtype: str = "float64", seed: int = 0) -> Data:
    """Three overlapping classes of 120, 40 and 9 samples, shuffled; columns 0 and 2 hold one of three numbers."""
    state = np.random.RandomState(seed)
    y = np.repeat([0, 1, 2], [120, 40, 9])
    x = state.randn(len(y), dim) + 0.7 * y[:, None]
    x[:, [0, 2]] = state.randint(0, 3, (len(y), 2))
    if kind == "repeated":
        x = x[np.concatenate([np.flatnonzero(y == c)[state.randint(0, n // 3, n)] for c, n in enumerate((120, 40, 9))])]
    elif kind == "repeated across classes":
        x = x[state.randint(0, 60, len(y))]
    elif kind == "grid":
        x = x.round()
    elif kind == "far from the origin":
        x[:, 1] += 1e5
    order = state.permutation(len(y))
    return x[order].astype(dtype), y[order]


def assert_same(name: str, data: Data, **arguments: Any) -> None:
    ours, reference = (make(**arguments) for make in PAIRS[name])
    x, y = reference.fit_resample(*data)
    x_new, y_new = ours.fit_resample(*data)
    assert x_new.dtype == data[0].dtype
    np.testing.assert_array_equal(x_new, x.astype(x_new.dtype), strict=True)  # its noise is float64 whatever X is
    np.testing.assert_array_equal(y_new, y, strict=True)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dim", "dtype"), [(4, "float32"), (20, "float32"), (20, "float64")])
def test_the_result_is_imbalanced_learns(name: str, kind: str, dim: int, dtype: str) -> None:
    for seed, k in ((0, 5), (1, 3)):
        assert_same(name, cloud(kind, dim, dtype, seed), k_neighbors=k, random_state=seed)


@pytest.mark.parametrize("our_own_search", [False], indirect=True)
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("kind", ["continuous", "repeated across classes"])
def test_the_result_of_scikit_learns_search_is_imbalanced_learns(name: str, kind: str) -> None:
    assert_same(name, cloud(kind, 20), random_state=0)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("k", [1, 8])
def test_one_neighbour_and_all_others(name: str, k: int) -> None:
    assert_same(name, cloud("continuous", 20), k_neighbors=k, random_state=3)


@pytest.mark.parametrize("name", PAIRS)
def test_a_random_state_goes_on_from_class_to_class_and_from_call_to_call(name: str) -> None:
    data = cloud("continuous", 20)
    ours, reference = PAIRS[name][0], PAIRS[name][1]
    one, other = ours(random_state=np.random.RandomState(5)), reference(random_state=np.random.RandomState(5))
    results = []
    for _ in range(2):
        result, expected = one.fit_resample(*data)[0], other.fit_resample(*data)[0]
        np.testing.assert_array_equal(result, expected)
        results.append(result)
    assert not np.array_equal(*results)


@pytest.mark.parametrize("name", PAIRS)
def test_no_random_state_is_numpys_global_one(name: str) -> None:
    data, results = cloud("continuous", 20), []
    for make in PAIRS[name]:
        np.random.seed(7)  # noqa: NPY002
        results.append(make(random_state=None).fit_resample(*data)[0])
    np.testing.assert_array_equal(*results)


STRATEGIES: list[Any] = ["auto", "minority", "not minority", "not majority", "all", {1: 77, 2: 30}, {2: 30}]


# a function's own name holds its address, which is another in each of the processes that share out the tests
@pytest.mark.parametrize(
    "strategy", [*STRATEGIES, lambda y: {2: int((y == 1).sum())}], ids=[*map(str, STRATEGIES), "callable"]
)
@pytest.mark.parametrize("name", PAIRS)
def test_strategies(name: str, strategy: Any) -> None:
    assert_same(name, cloud("continuous", 20), sampling_strategy=strategy, random_state=0)


def test_a_ratio_of_two_classes() -> None:
    x, y = cloud("continuous", 20)
    for ratio in (0.5, 0.77, 1.0):
        assert_same("SMOTE", (x, np.minimum(y, 1)), sampling_strategy=ratio, random_state=0)


@pytest.mark.parametrize("name", ["SMOTE", "BorderlineSMOTE 1", "ADASYN"])
@pytest.mark.parametrize("dtype", ["int64", "int32"])
def test_integers_are_truncated(name: str, dtype: str) -> None:
    x, y = cloud("continuous", 20)
    assert_same(name, ((1000 * x).astype(dtype), y), random_state=0)


def test_strings_as_labels() -> None:
    x, y = cloud("continuous", 20)
    assert_same("SMOTE", (x, np.array(["elk", "ant", "bee"])[y]), random_state=0)


def test_categories_where_the_continuous_columns_do_not_vary() -> None:
    x, y = cloud("continuous", 20)
    x[:, 1] = x[:, 3:] = 0.0
    assert_same("SMOTENC", (x, y), random_state=0)


def test_categorical_columns_as_bools_and_from_the_end() -> None:
    data = cloud("continuous", 5)
    mask = [True, False, True, False, False]
    for features, same in ((mask, mask), ([-3, 0], [2, 0])):
        ours = SMOTENC(features, random_state=0).fit_resample(*data)[0]
        np.testing.assert_array_equal(ours, theirs.SMOTENC(same, random_state=0).fit_resample(*data)[0])


def test_scikit_learn_is_asked_only_where_unlike_points_tie(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    original = same_neighbours._asked

    def counting(*arguments: Any, **named: Any) -> torch.Tensor:
        asked.append(arguments)
        return original(*arguments, **named)

    monkeypatch.setattr(same_neighbours, "_asked", counting)
    for kind, times in (("continuous", 0), ("repeated", 0), ("grid", 2)):
        asked.clear()
        assert_same("SMOTE", cloud(kind, 20), k_neighbors=2, random_state=0)
        assert len(asked) == times, kind


def test_danger_is_imbalanced_learns() -> None:
    data = cloud("continuous", 20)
    ours, reference = BorderlineSMOTE(), theirs.BorderlineSMOTE(random_state=0)
    ours.fit_resample(*data)
    reference.fit_resample(*data)
    assert ours.in_danger_.keys() == reference.in_danger_indices.keys() == {1, 2}
    for name, rows in ours.in_danger_.items():
        np.testing.assert_array_equal(rows.numpy(), reference.in_danger_indices[name])


@pytest.mark.parametrize("name", ["SMOTE", "BorderlineSMOTE 1", "ADASYN", "SMOTENC"])
def test_too_few_samples_fail_in_both(name: str) -> None:
    for make in PAIRS[name]:
        with pytest.raises(ValueError, match="9"):
            make(k_neighbors=9).fit_resample(*cloud("continuous", 20))


def test_adasyn_without_hard_samples_fails_in_both() -> None:
    x, y = cloud("continuous", 20)
    data = x + 1000.0 * y[:, None], y
    with pytest.raises(RuntimeError, match="SMOTE"):
        theirs.ADASYN().fit_resample(*data)
    with pytest.raises(UserError, match=r"no sample of class 1 with a neighbour of another class.*use SMOTE"):
        ADASYN().fit_resample(*data)


def test_nobody_in_danger_makes_nothing_and_says_so() -> None:
    x, y = cloud("continuous", 20)
    data = x + 1000.0 * np.minimum(y, 1)[:, None], np.minimum(y, 1)
    expected = theirs.BorderlineSMOTE().fit_resample(*data)[0]
    with pytest.warns(UserWarning, match="no samples of class 1"):
        result = BorderlineSMOTE().fit_resample(*data)[0]
    np.testing.assert_array_equal(result, expected)
