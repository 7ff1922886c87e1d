import itertools

import pytest
import torch

from dlrecipes.functional.kernels import NegativeDistance, RBFKernel, chunk_rows, median_distance
from dlrecipes.functional.permutation import canonical_order, pair_sums, permutation_p_value, permuted_labels
from dlrecipes.functional.precision import full_precision


def points(rows: int, width: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kernel", [RBFKernel(1.3), NegativeDistance(typical=2.0)])
@pytest.mark.parametrize("chunk", [1, 4, 11, 100])
def test_sums_over_pairs_are_those_of_the_whole_matrix(kernel: RBFKernel | NegativeDistance, chunk: int) -> None:
    x = points(11)
    labels = permuted_labels(torch.arange(11) < 4, permutations=5, seed=1)
    found = pair_sums(x, labels, kernel, chunk=chunk)
    matrix = kernel(x, x).fill_diagonal_(0)
    for index, z in enumerate(labels.double()):
        torch.testing.assert_close(found.first[index], z @ matrix @ z)
        torch.testing.assert_close(found.second[index], (1 - z) @ matrix @ (1 - z))
        torch.testing.assert_close(found.between[index], z @ matrix @ (1 - z))
    pairs = matrix[~torch.eye(11, dtype=torch.bool)]
    assert found.scale == pytest.approx(float(pairs.std(correction=0)))


def test_float32_is_as_good_as_the_pieces_it_is_summed_in() -> None:
    x = points(300, 8)
    labels = permuted_labels(torch.arange(300) < 100, permutations=3, seed=0)
    single, double = (pair_sums(x.to(dtype), labels, RBFKernel(4.0)) for dtype in (torch.float32, torch.float64))
    spread = double.scale * 300 * 10
    for name in ("first", "second", "between"):
        assert float((getattr(single, name) - getattr(double, name)).abs().max()) < 1e-5 * spread


def test_kernels_are_what_they_say() -> None:
    a, b = points(4, seed=1), points(5, seed=2)
    distance = (a[:, None] - b[None]).norm(dim=2)
    rbf, energy = RBFKernel(0.7), NegativeDistance(3.0)
    torch.testing.assert_close(rbf(a, b) + rbf.centre, torch.exp(-distance.square() / (2 * 0.49)))
    torch.testing.assert_close(energy(a, b) + energy.centre, -distance)
    with pytest.raises(ValueError, match="bandwidth=0"):
        RBFKernel(0)


def test_median_distance_of_all_pairs_and_of_a_thousand_rows() -> None:
    x = points(20)
    expected = sorted(float((x[i] - x[j]).norm()) for i, j in itertools.combinations(range(20), 2))
    assert median_distance(x) == pytest.approx(expected[(len(expected) - 1) // 2])
    many = points(3000)
    assert median_distance(many, seed=1) == median_distance(many, seed=1) != median_distance(many, seed=2)
    assert median_distance(many, seed=1) == pytest.approx(median_distance(many[:1000]), rel=0.02)
    mostly_equal = torch.zeros(10, 1)
    mostly_equal[0] = 5.0
    assert median_distance(mostly_equal) == pytest.approx(1.0)  # 9 of 45 distances are 5
    assert median_distance(torch.ones(4, 2)) == 0.0


def test_canonical_order_is_lexicographic_and_forgets_the_given_order() -> None:
    x = torch.randint(0, 3, (50, 4), generator=torch.Generator().manual_seed(0)).double()
    ordered = x[canonical_order(x)]
    assert [tuple(row) for row in ordered.tolist()] == sorted(tuple(row) for row in x.tolist())
    torch.testing.assert_close(x.flip(0)[canonical_order(x.flip(0))], ordered)


def test_permutations_keep_the_counts_and_follow_seed_and_stream() -> None:
    observed = torch.tensor([True, False, True, False, False])
    labels = permuted_labels(observed, permutations=2000, seed=3)
    assert labels[0].bool().equal(observed)
    assert labels.sum(1).eq(2).all()
    assert (labels[1:].mean(0) - 0.4).abs().max() < 0.05  # 2,000 fair draws: 4.5 standard deviations
    assert labels.equal(permuted_labels(observed, 2000, seed=3))
    assert not labels.equal(permuted_labels(observed, 2000, seed=4))
    assert not labels.equal(permuted_labels(observed, 2000, seed=3, stream=1))


def test_p_counts_what_reaches_the_observed_statistic_and_itself() -> None:
    assert permutation_p_value(torch.tensor([5.0, 1.0, 2.0, 3.0])) == 1 / 4
    assert permutation_p_value(torch.tensor([2.0, 2.0, 2.0, 3.0])) == 1.0
    assert permutation_p_value(torch.tensor([2.0, 1.9, 1.0, 1.0]), tolerance=0.2) == 1 / 2


def test_full_precision_restores_what_was_allowed() -> None:
    backend = torch.backends.cuda.matmul
    before = backend.fp32_precision
    try:
        backend.fp32_precision = "tf32"
        with full_precision(torch.device("cpu")):
            assert backend.fp32_precision == "ieee"
        assert backend.fp32_precision == "tf32"
    finally:
        backend.fp32_precision = before


def test_chunk_rows_by_memory_and_by_hand() -> None:
    assert chunk_rows(10, torch.device("cpu"), 3) == 3
    assert chunk_rows(1 << 30, torch.device("cpu")) == 1
    with pytest.raises(ValueError, match="chunk=0"):
        chunk_rows(10, torch.device("cpu"), 0)
