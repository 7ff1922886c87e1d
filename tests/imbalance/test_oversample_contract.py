"""One table of all over-samplers, and what each of them must keep to."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from imblearn.pipeline import Pipeline
from numpy.typing import NDArray
from scipy import stats
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from dlrecipes.errors import UserError
from dlrecipes.imbalance import (
    ADASYN,
    SMOTE,
    SMOTENC,
    BorderlineSMOTE,
    GaussianNoise,
    Interpolate,
    OverSampler,
    check_no_leakage,
)
from dlrecipes.imbalance.synthetic import same_neighbours


@dataclass(frozen=True)
class Row:
    make: Callable[..., OverSampler]
    least: int | None = 6  # samples that a class needs; None: it looks at all classes
    segment: bool = True  # what it makes lies between the first two sources
    own_class: bool = True  # the sources are of the class
    nominal: bool = False


ROWS = {
    "SMOTE": Row(SMOTE),
    "BorderlineSMOTE 1": Row(BorderlineSMOTE),
    "BorderlineSMOTE 2": Row(lambda **k: BorderlineSMOTE(kind="borderline-2", **k), least=None, own_class=False),
    "SMOTENC": Row(lambda **k: SMOTENC([2, 0], **k), segment=False, nominal=True),
    "ADASYN": Row(ADASYN),
    "GaussianNoise": Row(GaussianNoise, least=1, segment=False),
    "Interpolate": Row(Interpolate, least=2),
}
SEGMENTS = [name for name, row in ROWS.items() if row.segment]
COUNTS = [150, 60, 12]
every = pytest.mark.parametrize("name", ROWS)
both = pytest.mark.parametrize("rng", ["numpy", "torch"])


def cloud(dtype: str = "float64", dim: int = 18, counts: list[int] = COUNTS) -> tuple[NDArray[Any], NDArray[np.int64]]:
    random = np.random.default_rng(0)
    y = random.permutation(np.repeat(np.arange(len(counts)), counts))
    x = random.normal(size=(len(y), dim)) + 0.4 * y[:, None]
    x[:, [0, 2]] = random.integers(0, 3, (len(y), 2))
    return x.astype(dtype), y


@pytest.fixture(autouse=True)
def our_own_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few samples would be left to scikit-learn otherwise."""
    monkeypatch.setattr(same_neighbours, "_FEW", 0)


@every
@both
def test_classes_are_balanced(name: str, rng: str) -> None:
    x, y = cloud()
    sampler = ROWS[name].make(rng=rng)
    counts = np.bincount(sampler.fit_resample(x, y)[1])
    spread = [0, 0, 0] if name != "ADASYN" else [0, 30, 6]  # each sample's share is rounded
    assert (np.abs(counts - COUNTS[0]) <= spread).all()
    assert sampler.sampling_strategy_ == {1: 90, 2: 138}


@every
@both
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_originals_come_first_and_unchanged(name: str, rng: str, dtype: str) -> None:
    x, y = cloud(dtype)
    before = x.copy(), y.copy()
    sampler = ROWS[name].make(rng=rng)
    x_new, y_new = sampler.fit_resample(x, y)
    assert (x_new.dtype, y_new.dtype) == (x.dtype, y.dtype)
    np.testing.assert_array_equal(x_new[: len(x)], before[0])
    np.testing.assert_array_equal(y_new[: len(y)], before[1])
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])
    assert (np.diff(y_new[len(y) :]) >= 0).all()
    np.testing.assert_array_equal(sampler.sources_[: len(x)], np.arange(len(x))[:, None] + 0 * sampler.sources_[:1])


@pytest.mark.parametrize("name", SEGMENTS)
@both
def test_what_is_new_lies_on_the_segment_between_its_sources(name: str, rng: str) -> None:
    x, y = cloud()
    sampler = ROWS[name].make(rng=rng)
    x_new, _ = sampler.fit_resample(x, y)
    new, (one, other) = x_new[len(x) :], x[sampler.sources_[len(x) :].T]
    assert (sampler.sources_[len(x) :, 0] != sampler.sources_[len(x) :, 1]).all()
    way = other - one
    step = ((new - one) * way).sum(1) / (way**2).sum(1)
    np.testing.assert_allclose(new, one + step[:, None] * way, atol=1e-12)
    assert step.min() >= 0
    assert 0.9 < step.max() < 1


@every
@both
def test_sources_are_of_the_class(name: str, rng: str) -> None:
    x, y = cloud()
    sampler = ROWS[name].make(rng=rng)
    y_new = sampler.fit_resample(x, y)[1][len(x) :]
    of_class = y[sampler.sources_[len(x) :]] == y_new[:, None]
    assert of_class[:, 0].all()
    assert of_class.all() == ROWS[name].own_class


@both
def test_categories_are_the_neighbours_most_frequent(rng: str) -> None:
    x, y = cloud()
    sampler = SMOTENC([2, 0], rng=rng)
    x_new = sampler.fit_resample(x, y)[0][len(x) :]
    votes = x[sampler.sources_[len(x) :, 1:]][:, :, [2, 0]]
    count = (votes[:, :, None, :] == np.arange(3)[:, None]).sum(1)
    chosen = np.take_along_axis(count, x_new[:, None, [2, 0]].astype(int), 1)[:, 0]
    np.testing.assert_array_equal(chosen, count.max(1))


@every
@both
def test_the_seed_decides(name: str, rng: str) -> None:
    x, y = cloud()
    make = ROWS[name].make
    numpy_before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    one, again, other = (make(rng=rng, random_state=seed).fit_resample(x, y)[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    assert np.array_equal(numpy_before, np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(torch_before, torch.get_rng_state())


@every
def test_no_seed_draws_anew(name: str) -> None:
    sampler = ROWS[name].make(rng="torch", random_state=None)
    assert not np.array_equal(sampler.fit_resample(*cloud())[0], sampler.fit_resample(*cloud())[0])


@every
@both
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32"])
def test_tensors_give_what_arrays_give(name: str, rng: str, dtype: str) -> None:
    x, y = cloud("float64")
    x = (8 * x).astype(dtype)
    sampler = ROWS[name].make(rng=rng)
    expected = *sampler.fit_resample(x, y), sampler.sources_
    found = (*sampler.fit_resample(torch.from_numpy(x).requires_grad_(dtype[0] == "f"), torch.from_numpy(y)),)
    for ours, theirs in zip((*found, sampler.sources_), expected, strict=True):
        assert isinstance(ours, torch.Tensor)
        assert not ours.requires_grad
        np.testing.assert_array_equal(ours.numpy(), theirs, strict=True)


@every
def test_bfloat16_stays_bfloat16(name: str) -> None:
    x, y = map(torch.from_numpy, cloud())
    x_new, _ = ROWS[name].make().fit_resample(x.bfloat16(), y)
    assert x_new.dtype == torch.bfloat16
    assert x_new.isfinite().all()


@every
@pytest.mark.parametrize("change", [np.asfortranarray, lambda x: x[:, ::-1][:, ::-1], lambda x: x.astype(">f8")])
def test_the_layout_of_an_array_does_not_matter(name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    x, y = cloud()
    other = change(x)
    other.flags.writeable = False
    found = ROWS[name].make().fit_resample(other, y)[0]
    np.testing.assert_array_equal(found, ROWS[name].make().fit_resample(x, y)[0])
    assert found.dtype == other.dtype


@every
def test_unsigned_numbers_do_not_wrap(name: str) -> None:
    x, y = cloud()
    x = np.abs(20 * x).round()
    expected = ROWS[name].make().fit_resample(x.astype(np.int64), y)[0]
    for dtype in (np.uint8, np.uint16) if ROWS[name].segment else (np.uint16,):
        found = ROWS[name].make().fit_resample(x.astype(dtype), y)[0]
        np.testing.assert_array_equal(found, expected.astype(dtype), strict=True)


@every
@both
def test_survives_pickle_and_copy(name: str, rng: str) -> None:
    if ROWS[name].nominal:
        sampler: OverSampler = SMOTENC([2, 0], rng=rng)
    else:
        sampler = ROWS[name].make(rng=rng)
    expected = sampler.fit_resample(*cloud())[0]
    for twin in (pickle.loads(pickle.dumps(sampler)), copy.deepcopy(sampler)):
        np.testing.assert_array_equal(twin.fit_resample(*cloud())[0], expected)


@every
def test_labels_may_be_any_classes(name: str) -> None:
    x, y = cloud()
    expected = ROWS[name].make().fit_resample(x, y)
    for kinds in (np.array(["a", "b", "c"]), np.array([-5.0, 0.0, 7.0]), np.array([3, 300, 30000], np.int16)):
        x_new, y_new = ROWS[name].make().fit_resample(x, kinds[y])
        np.testing.assert_array_equal(x_new, expected[0])
        np.testing.assert_array_equal(y_new, kinds[expected[1]], strict=True)


@every
def test_scikit_learn_clones_it_and_searches_over_its_arguments(name: str) -> None:
    x, y = cloud()
    sampler = ROWS[name].make(random_state=3)
    again = clone(sampler)
    assert again is not sampler
    assert again.get_params() == sampler.get_params()
    pair = [each.fit_resample(x, y)[0] for each in (again, sampler)]
    assert np.array_equal(*pair)
    assert sampler.set_params(random_state=4).random_state == 4
    with pytest.raises(ValueError, match="has no argument neighbors: it has"):
        sampler.set_params(neighbors=3)


def test_a_grid_searches_over_a_step_of_a_pipeline() -> None:
    x, y = cloud()
    search = GridSearchCV(
        Pipeline([("smote", SMOTE(random_state=0)), ("classify", LogisticRegression())]),
        {"smote__k_neighbors": [2, 3]},
        cv=2,
        error_score="raise",
    )
    assert search.fit(x, y).best_params_["smote__k_neighbors"] in (2, 3)


@every
def test_balanced_data_stay_as_they_are(name: str) -> None:
    x, y = cloud(counts=[20, 20])
    sampler = ROWS[name].make()
    x_new, y_new = sampler.fit_resample(x, y)
    np.testing.assert_array_equal(x_new, x)
    np.testing.assert_array_equal(y_new, y)
    assert x_new is not x


@every
def test_a_class_with_too_few_samples_is_named_with_a_remedy(name: str) -> None:
    least = ROWS[name].least
    if least is not None:
        ROWS[name].make().fit_resample(*cloud(counts=[200, least]))  # just enough
    if least == 1:
        return
    needs, counts, whose = (11, [8, 2], "X has 10:") if least is None else (least, [200, least - 1], "class 1 has")
    with pytest.raises(UserError, match=rf"at least {needs} samples, and {whose} .*GaussianNoise"):
        ROWS[name].make().fit_resample(*cloud(counts=counts))


BAD: dict[str, tuple[Callable[[Any, Any], tuple[Any, Any]], str]] = {
    "pixels": (lambda x, y: (x[:, :12].reshape(-1, 3, 2, 2), y), r"shape \[222, 3, 2, 2\].*FeatureSMOTE.*mixup"),
    "one vector": (lambda x, y: (x[:, 0], y), r"X of shape \[222\]"),
    "nothing": (lambda x, y: (x[:0], y[:0]), r"X of shape \[0, 18\]"),
    "no features": (lambda x, y: (x[:, :0], y), r"X of shape \[222, 0\]"),
    "one class": (lambda x, y: (x, y * 0), "one class only, 0"),
    "NaN": (lambda x, y: (np.where(np.arange(len(x))[:, None] == 7, np.nan, x), y), "NaN or an infinity in row 7"),
    "infinity": (lambda x, y: (np.where(np.arange(len(x))[:, None] == 9, np.inf, x), y), "in row 9"),
    "strings": (lambda x, y: (x.astype(str), y), "dtype str.*OrdinalEncoder"),
    "objects": (lambda x, y: (x.astype(object), y), "dtype object.*OrdinalEncoder"),
    "a list": (lambda x, y: (x.tolist(), y), "X as list"),
    "labels as list": (lambda x, y: (x, y.tolist()), "y is list"),
    "fewer labels": (lambda x, y: (x, y[:-1]), r"y has shape \[221\], and X 222 samples"),
    "one-hot": (lambda x, y: (x, np.eye(3)[y]), r"y has shape \[222, 3\].*argmax"),
    "numbers to predict": (lambda x, y: (x, y + 0.5), "fractions or NaN.*bins"),
}


@every
@pytest.mark.parametrize("case", BAD)
def test_input_that_cannot_be_used_is_named(name: str, case: str) -> None:
    change, message = BAD[case]
    with pytest.raises(UserError, match=message):
        ROWS[name].make().fit_resample(*change(*cloud()))


@every
@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("sampling_strategy", "majority"),
        ("sampling_strategy", 1.5),
        ("sampling_strategy", None),
        ("sampling_strategy", True),
        ("random_state", 0.5),
        ("random_state", -1),
        ("random_state", torch.Generator()),
        ("rng", "cupy"),
    ],
)
def test_arguments_are_checked_when_it_is_made(name: str, argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{argument}="):
        ROWS[name].make(**{argument: value})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SMOTE(k_neighbors=0), "k_neighbors=0"),
        (lambda: BorderlineSMOTE(m_neighbors=2.5), "m_neighbors=2.5"),
        (lambda: BorderlineSMOTE(kind="borderline-3"), "kind='borderline-3'"),
        (lambda: ADASYN(n_neighbors=True), "n_neighbors=True"),
        (lambda: SMOTENC([]), "categorical_features="),
        (lambda: SMOTENC(["colour"]), "categorical_features="),
        (lambda: GaussianNoise(shrinkage=-1), "shrinkage=-1"),
        (lambda: SMOTE(rng="torch", random_state=np.random.RandomState(0)), "takes an int, a Generator or None"),
    ],
)
def test_own_arguments_are_checked_when_it_is_made(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([0, 0], "different columns"),
        ([18], "of X's 18"),
        ([True], "1 bools, but X has 18"),
        (range(18), "no continuous"),
    ],
)
def test_columns_that_x_has_not_are_named(features: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SMOTENC(features).fit_resample(*cloud())


def test_no_categorical_column_is_for_smote() -> None:
    with pytest.raises(UserError, match="no categorical one: use SMOTE"):
        SMOTENC([False] * 18).fit_resample(*cloud())


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (0.5, "ratio of two classes, but y has 3"),
        ({9: 10}, r"class 9, which y has not: its classes are \[0, 1, 2\]"),
        ({1: 59}, "59 samples of class 1, which has 60"),
        ({1: 70.5}, "70.5 samples of class 1"),
        (lambda y: [1, 2], "gave a list"),
    ],
)
def test_strategies_that_do_not_fit_the_data_are_named(strategy: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SMOTE(sampling_strategy=strategy).fit_resample(*cloud())


def test_a_ratio_below_what_there_is() -> None:
    with pytest.raises(UserError, match=r"fewer samples of class 1 than its 60: give a ratio above 0\.4"):
        SMOTE(sampling_strategy=0.3).fit_resample(*cloud(counts=[150, 60]))


@every
def test_a_generator_goes_on(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    sampler = ROWS[name].make(rng="torch", random_state=generator)
    first, second = (sampler.fit_resample(*cloud())[0] for _ in range(2))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(ROWS[name].make(rng="torch").fit_resample(*cloud())[0], first)


@every
def test_torchs_numbers_are_of_the_same_distribution(name: str) -> None:
    x, y = cloud()
    results = []
    for rng in ("numpy", "torch"):
        sampler = ROWS[name].make(rng=rng, random_state=1, sampling_strategy={2: 6000})
        new = sampler.fit_resample(x, y)[0][len(x) :]
        results.append((new, sampler.sources_[len(x) :]))
    (one, its), (other, theirs) = results
    for column in range(x.shape[1]):
        if ROWS[name].nominal and column in (0, 2):
            table = [np.bincount(new[:, column].astype(int), minlength=3) for new in (one, other)]
            assert stats.chi2_contingency(np.stack(table)[:, np.sum(table, 0) > 0]).pvalue > 1e-4
        else:
            assert stats.ks_2samp(one[:, column], other[:, column]).pvalue > 1e-4
    for source in range(min(2, its.shape[1])):
        table = np.stack([np.bincount(s[:, source], minlength=len(x)) for s in (its, theirs)])
        table = table[:, table.sum(0) > 0]
        assert table.shape[1] > 1
        assert stats.chi2_contingency(table).pvalue > 1e-4


@pytest.mark.parametrize("name", ["SMOTE", "Interpolate"])
@both
def test_pairs_and_steps_are_uniform(name: str, rng: str) -> None:
    x, y = cloud()
    k = 5 if name == "SMOTE" else 11
    sampler = ROWS[name].make(rng=rng, random_state=2, sampling_strategy={2: 5000})
    new = sampler.fit_resample(x, y)[0][len(x) :]
    base, other = sampler.sources_[len(x) :].T
    pairs, count = np.unique(base * len(x) + other, return_counts=True)
    assert len(pairs) == 12 * k
    assert stats.chisquare(count).pvalue > 1e-4
    step = (new[:, 1] - x[base, 1]) / (x[other, 1] - x[base, 1])
    assert stats.kstest(step, "uniform").pvalue > 1e-4


@both
def test_noise_is_normal_and_of_the_papers_width(rng: str) -> None:
    x, y = cloud()
    sampler = GaussianNoise(shrinkage=0.5, rng=rng, sampling_strategy={2: 3000})
    new = sampler.fit_resample(x, y)[0][len(x) :]
    width = (4 / (20 * 222)) ** (1 / 22)
    noise = (new - x[sampler.sources_[len(x) :, 0]]) / (0.5 * width * x[y == 2].std(0))
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-4


def test_interpolate_is_smote_with_all_others_as_neighbours() -> None:
    x, y = cloud()
    some, all_others = (
        make(random_state=0, sampling_strategy={2: 6000}).fit_resample(x, y)[0][len(x) :]
        for make in (Interpolate, lambda **k: SMOTE(k_neighbors=11, **k))
    )
    for column in range(x.shape[1]):
        assert stats.ks_2samp(some[:, column], all_others[:, column]).pvalue > 1e-4


def test_a_repeated_sample_of_another_class_is_no_reason_to_count_oneself() -> None:
    x = torch.tensor([[0.0] * 20, [0.0] * 20, [1.0] * 20, [9.0] * 20, [9.5] * 20, [8.0] * 20])
    y = torch.tensor([1, 0, 1, 0, 0, 0])
    sampler = ADASYN(n_neighbors=1, rng="torch", sampling_strategy={1: 4})
    sampler.fit_resample(x, y)  # row 0: its twin of class 0; row 2: row 0, of its own class
    assert sampler.sources_[6:, 0].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("sampler", "kept"),
    [(BorderlineSMOTE(), "in_danger_"), (SMOTENC([2, 0]), "median_std_")],
    ids=lambda x: str(x)[:20],
)
def test_what_was_found_is_of_the_last_call(sampler: OverSampler, kept: str) -> None:
    x, y = cloud()
    x[:, [0, 2]] = np.round(x[:, [0, 2]])
    sampler.fit_resample(x, y)
    first = getattr(sampler, kept)
    assert list(first) == [1, 2]
    sampler.fit_resample(x[y < 2], 10 + y[y < 2])
    assert list(getattr(sampler, kept)) == [11]
    assert list(first) == [1, 2]  # what the caller holds stays


def test_leakage_is_found() -> None:
    x, y = cloud()
    sampler = SMOTE()
    sampler.fit_resample(x, y)
    safe = np.flatnonzero(y == 0)[:10]  # nothing was made of the largest class
    check_no_leakage(sampler.sources_, safe, len(x))
    used = np.unique(sampler.sources_[len(x) :])[:3]
    leaking = np.isin(sampler.sources_[len(x) :], used).any(1).sum()
    with pytest.raises(UserError, match=f"0 of 3 held-out samples are synthetic, and {leaking} training samples"):
        check_no_leakage(sampler.sources_, used, len(x))
    with pytest.raises(UserError, match="1 of 1 held-out samples are synthetic"):
        check_no_leakage(torch.from_numpy(sampler.sources_), torch.tensor([len(x)]), len(x))
    check_no_leakage(sampler.sources_, [], len(x))


def test_a_split_given_as_a_mask_is_checked_as_one_of_row_numbers() -> None:
    x, y = cloud()
    sampler = SMOTE()
    sampler.fit_resample(x, y)
    mask = np.zeros(len(sampler.sources_), dtype=bool)
    mask[np.flatnonzero(y == 0)[:10]] = True
    check_no_leakage(sampler.sources_, mask, len(x))
    mask[len(x) : len(x) + 7] = True
    for given in (mask, torch.from_numpy(mask), np.flatnonzero(mask)):
        with pytest.raises(UserError, match="7 of 17 held-out samples are synthetic"):
            check_no_leakage(sampler.sources_, given, len(x))


@pytest.mark.parametrize(
    ("held_out", "message"),
    [
        (np.zeros(3, dtype=bool), r"held_out has shape \[3\]: a mask is one bool for each of 450 rows"),
        (np.array([1.0, 2.0]), r"held_out is float64 \[2\]: row numbers, int \[n\], or a mask, bool \[450\]"),
        (np.array([[1], [2]]), r"held_out is int64 \[2, 1\]"),
        (np.array([3, -1]), "held_out names row -1: the resampled data has rows 0 to 449"),
        (np.array([450]), "held_out names row 450: the resampled"),
    ],
)
def test_a_split_that_names_no_rows_is_refused(held_out: Any, message: str) -> None:
    x, y = cloud()
    sampler = SMOTE()
    sampler.fit_resample(x, y)
    with pytest.raises(ValueError, match=message):
        check_no_leakage(sampler.sources_, held_out, len(x))


@pytest.mark.gpu
@every
@both
def test_a_gpu_finds_the_same_neighbours(name: str, rng: str) -> None:
    x, y = map(torch.from_numpy, cloud())
    sampler = ROWS[name].make(rng=rng)
    expected = sampler.fit_resample(x, y)[0]
    found, labels = sampler.fit_resample(x.cuda(), y.cuda())
    assert found.is_cuda
    assert labels.is_cuda
    if rng == "numpy":
        assert torch.equal(found.cpu(), expected)
    assert found.shape == expected.shape
