import numpy as np
import pytest
import torch
from scipy import stats

from dlrecipes.data.augment.stateless_random import uniform


def reference(seed, epoch, index, stream):
    """The same in Python's unbounded integers."""

    def mix(bits):
        bits &= 2**64 - 1
        bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
        bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB & (2**64 - 1)
        return bits ^ (bits >> 31)

    golden = 0x9E3779B97F4A7C15
    base = mix(mix(seed + golden) + epoch)
    return (mix(mix(index * golden + base) + (stream + 1) * golden) >> 40) / 2**24


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (7, 3), (2**63 + 5, 2**40)])
def test_is_the_hash_that_it_says(seed, epoch):
    index = [0, 1, 2, 49_999, 2**33]
    numbers = uniform(seed, epoch, torch.tensor(index), 3)
    assert numbers.dtype == torch.float32
    assert numbers.tolist() == [[reference(seed, epoch, i, k) for k in range(3)] for i in index]


@pytest.mark.parametrize(
    "sample",
    [
        lambda: uniform(0, 0, torch.arange(20_000), 1).flatten(),
        lambda: uniform(0, 0, torch.tensor([5]), 20_000).flatten(),
        lambda: torch.cat([uniform(0, e, torch.tensor([6]), 1) for e in range(2000)]).flatten(),
        lambda: torch.cat([uniform(s, 0, torch.tensor([6]), 1) for s in range(2000)]).flatten(),
    ],
    ids=["index", "stream", "epoch", "seed"],
)
def test_uniform_along_each_argument(sample):
    numbers = sample().double().numpy()
    assert numbers.min() >= 0.0
    assert numbers.max() < 1.0
    assert stats.kstest(numbers, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 4.0 / np.sqrt(len(numbers))


def test_independent_of_one_another():
    index = torch.arange(20_000)
    columns = [uniform(seed, epoch, index, 2).double() for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))]
    correlation = np.corrcoef(torch.cat(columns, dim=1).T.numpy())
    assert abs(correlation - np.eye(8)).max() < 5.0 / np.sqrt(20_000)
    shifted = uniform(0, 0, index + 1, 2).double()  # a sum of epoch and index would repeat itself here
    assert not torch.isin(columns[1][:100], shifted).any()


def test_a_sample_does_not_depend_on_its_batch_or_on_how_many_numbers_follow():
    whole = uniform(3, 2, torch.arange(64), 8)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(uniform(3, 2, order, 4), whole[order, :4])
    assert torch.equal(torch.cat([uniform(3, 2, torch.tensor([i]), 8) for i in range(64)]), whole)
