"""Neighbours against all pairs in float64, on data that rounding is hard on."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dlrecipes.errors import UserError
from dlrecipes.functional.neighbours import nearest_neighbours, rows_at_once


def all_pairs(queries: Tensor, points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    distance, index = (queries.double()[:, None] - points.double()).square().sum(-1).sort(dim=1, stable=True)
    return index[:, :k], distance[:, :k]


def normal(n: int, d: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


CLOUDS = {
    "normal": normal(700, 20),
    "float32": normal(700, 3).float(),
    "float16": normal(400, 8).half(),
    "bfloat16, which repeats values": normal(400, 2).bfloat16(),
    "far from the origin": (normal(600, 8) * 1e-3 + 1000).float(),
    "one column a million times the others": normal(600, 5) * torch.tensor([1e6, 1, 1, 1, 1]),
    "grid": normal(600, 4).round().long(),
    "bytes": (normal(500, 6) * 20 + 128).clamp(0, 255).byte(),
    "all alike": torch.ones(300, 5),
    "two clusters far apart": torch.cat((normal(300, 4) * 1e-4, normal(300, 4) * 1e-4 + 1e4)),
    "tiny": normal(500, 6) * 1e-30,
    "huge": normal(500, 6) * 1e30,
    "fewer than candidates": normal(9, 6),
}


@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.parametrize("k", [1, 6, "all"])
def test_neighbours_are_those_of_all_pairs_in_float64(name: str, k: int | str) -> None:
    points = CLOUDS[name]
    number = len(points) if k == "all" else int(k)
    queries = points[:60]
    index, distance = all_pairs(queries, points, number)
    found = nearest_neighbours(queries, points, number)
    assert torch.equal(found.indices, index)
    torch.testing.assert_close(found.distances, distance, rtol=1e-13, atol=0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 300), st.integers(1, 6), st.integers(1, 4), st.data())
def test_neighbours_of_small_grids(seed: int, n: int, d: int, span: int, data: st.DataObject) -> None:
    points = torch.randint(-span, span + 1, (n, d), generator=torch.Generator().manual_seed(seed)).float()
    k = data.draw(st.integers(1, n))
    assert torch.equal(nearest_neighbours(points, points, k).indices, all_pairs(points, points, k)[0])


@pytest.mark.parametrize("name", ["normal", "grid", "all alike", "far from the origin"])
def test_the_size_of_a_piece_changes_nothing(name: str) -> None:
    points = CLOUDS[name]
    whole = nearest_neighbours(points, points, 5, memory=1 << 30)
    for memory in (1, 1 << 14, 1 << 18):
        assert torch.equal(nearest_neighbours(points, points, 5, memory=memory).indices, whole.indices)


class Largest(TorchFunctionMode):
    """Remembers the most elements of any tensor that a function returned."""

    numel = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


@pytest.mark.parametrize("points", [normal(3000, 8), torch.randint(0, 2, (1500, 8))], ids=["normal", "mostly doubtful"])
def test_no_tensor_of_all_pairs_is_made(points: Tensor) -> None:
    memory = 1 << 20
    with Largest() as largest:
        nearest_neighbours(points, points, 5, memory=memory)
    assert 0 < largest.numel <= max(memory / 4, 2 * points.numel())
    assert largest.numel < len(points) ** 2 / 8


@pytest.mark.parametrize("memory", [1 << 20, 64 << 20])
def test_rows_at_once_fit_the_memory_or_are_one(memory: int) -> None:
    for numbers in (100, 7_777, 100_000, 10_000_000):
        rows = rows_at_once(numbers, memory, itemsize=8)
        assert 8 * rows * numbers <= memory < 8 * (rows + 1) * numbers or (rows == 1 and 8 * numbers > memory)


@pytest.mark.parametrize("precision", ["medium", "high"])
def test_lower_precision_for_training_is_not_used_and_left_as_it_was(precision: str) -> None:
    points = CLOUDS["normal"].float()
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        with torch.autocast("cpu", torch.bfloat16):
            found = nearest_neighbours(points[:50], points, 5)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(found.indices, all_pairs(points[:50], points, 5)[0])


def test_queries_need_not_be_points() -> None:
    points, queries = CLOUDS["normal"], normal(40, 20) * 100
    assert torch.equal(nearest_neighbours(queries, points, 3).indices, all_pairs(queries, points, 3)[0])
    assert nearest_neighbours(queries[:0], points, 3).indices.shape == (0, 3)


@pytest.mark.parametrize("k", [0, 4])
def test_more_neighbours_than_points_are_named(k: int) -> None:
    with pytest.raises(UserError, match=rf"asked for k={k} of 3 points"):
        nearest_neighbours(torch.zeros(2, 2), torch.zeros(3, 2), k)


def test_other_shapes_are_named() -> None:
    with pytest.raises(UserError, match=r"queries are \[2, 2\] and points \[3, 3\]"):
        nearest_neighbours(torch.zeros(2, 2), torch.zeros(3, 3), 1)
