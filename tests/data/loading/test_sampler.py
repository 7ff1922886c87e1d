import numpy as np
import pytest

from dlrecipes.data.loading.sampler import EpochSampler, sample_seed


def indices(size, epoch=0, **kwargs):
    sampler = EpochSampler(size, **kwargs)
    sampler.set_epoch(epoch)
    return [index for _, index in sampler]


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 100])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_training_ranks_are_equally_long_and_together_hold_everything(size, world):
    ranks = [indices(size, shuffle=True, rank=r, world_size=world) for r in range(world)]
    assert len({len(rank) for rank in ranks}) == 1
    assert len(ranks[0]) == len(EpochSampler(size, shuffle=True, world_size=world)) == -(-size // world)
    assert set().union(*ranks) == set(range(size))
    assert sum(map(len, ranks)) - size < world  # repeats


@pytest.mark.parametrize("size", [0, 1, 2, 7, 8, 9])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_ranks_are_disjoint_and_complete(size, world):
    ranks = [indices(size, shuffle=False, rank=r, world_size=world) for r in range(world)]
    assert sorted(index for rank in ranks for index in rank) == list(range(size))
    for r, rank in enumerate(ranks):
        assert rank == list(range(r, size, world))
        assert len(rank) == len(EpochSampler(size, shuffle=False, rank=r, world_size=world))


def test_two_ranks_see_in_each_step_what_one_rank_of_twice_the_batch_sees():
    one = indices(24, epoch=3, shuffle=True, seed=5)
    two = [indices(24, epoch=3, shuffle=True, seed=5, rank=r, world_size=2) for r in range(2)]
    for step in range(3):
        assert set(one[8 * step : 8 * step + 8]) == {i for rank in two for i in rank[4 * step : 4 * step + 4]}


def test_order_depends_on_seed_and_epoch_only():
    assert indices(50, epoch=2, shuffle=True, seed=1) == indices(50, epoch=2, shuffle=True, seed=1)
    assert indices(50, epoch=2, shuffle=True, seed=1) != indices(50, epoch=3, shuffle=True, seed=1)
    assert indices(50, epoch=2, shuffle=True, seed=1) != indices(50, epoch=2, shuffle=True, seed=2)
    assert indices(50, epoch=2, shuffle=True) != list(range(50))


def test_yields_the_epoch_beside_the_index_but_epoch_zero_for_evaluation():
    sampler = EpochSampler(3, shuffle=True)
    sampler.set_epoch(4)
    assert {epoch for epoch, _ in sampler} == {4}
    held_out = EpochSampler(3, shuffle=False)
    held_out.set_epoch(4)
    assert list(held_out) == [(0, 0), (0, 1), (0, 2)]


def test_skip_leaves_out_the_first_samples_once():
    sampler = EpochSampler(10, shuffle=True)
    whole = list(sampler)
    sampler.skip(4)
    assert list(sampler) == whole[4:]
    assert list(sampler) == whole
    assert len(sampler) == 10


def test_skip_is_forgotten_when_the_epoch_changes():
    sampler = EpochSampler(10, shuffle=True)
    sampler.skip(4)
    sampler.set_epoch(1)
    assert len(list(sampler)) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": -1}, "size must not be negative, got -1"),
        ({"size": 3, "seed": -2}, "seed must not be negative, got -2"),
        ({"size": 3, "rank": 2, "world_size": 2}, r"rank must be in 0\.\.1, got 2"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        EpochSampler(shuffle=True, **arguments)


def test_sample_seeds_differ():
    seeds = {sample_seed(s, e, i) for s in range(3) for e in range(10) for i in range(100)}
    assert len(seeds) == 3000
    assert np.uint64(max(seeds)) > np.uint64(2**62)
