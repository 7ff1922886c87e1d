"""How queries look at an image: against loops in plain Python, identities, gradients, 16 bits."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from dlrecipes.models.detr.cross_attention import DeformableAttention, GlobalAttention, InBoxSampling, Scene
from dlrecipes.models.detr.position import cell_grid

DIM, HEADS, CHANNELS = 8, 2, 3
SIZES = ((6, 5), (3, 3))


def scene(dtype: torch.dtype = torch.float64, scale: Tensor | None = None, levels: int = 2) -> Scene:
    generator = torch.Generator().manual_seed(0)
    maps = tuple(torch.randn(2, CHANNELS, *size, generator=generator).to(dtype) for size in SIZES[:levels])
    memory = torch.randn(2, 12, DIM, generator=generator).to(dtype)
    grid = cell_grid(3, 4, None, memory.device)
    return Scene(maps, scale, memory, torch.randn(1, 12, DIM, generator=generator).to(dtype), grid)


def queries(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Query, position and boxes, one of which reaches beyond the border."""
    generator = torch.Generator().manual_seed(1)
    query, position = (torch.randn(2, 4, DIM, generator=generator).to(dtype) for _ in range(2))
    boxes = torch.rand(2, 4, 4, generator=generator).to(dtype) * 0.4 + 0.2
    boxes[0, 0] = torch.tensor([0.93, 0.88, 0.61, 0.53])
    return query, position, boxes


def perturbed(module: nn.Module) -> nn.Module:
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return module.double()


def bilinear(values: Tensor, x: float, y: float) -> Tensor:
    """[C, h, w] at a place in 0..1, 0 beyond the border."""
    height, width = values.shape[1:]
    column, row = x * width - 0.5, y * height - 0.5
    out = torch.zeros(values.shape[0], dtype=values.dtype)
    for i, j in itertools.product((0, 1), repeat=2):
        r, c = math.floor(row) + i, math.floor(column) + j
        if 0 <= r < height and 0 <= c < width:
            out += values[:, r, c] * (1 - abs(row - r)) * (1 - abs(column - c))
    return out


@pytest.mark.parametrize("scale", [None, (0.75, 0.5)])
@torch.no_grad()
def test_deformable_attention_is_the_papers_sum(scale: tuple[float, float] | None) -> None:
    points, levels, width = 3, 2, DIM // HEADS
    look = perturbed(DeformableAttention(DIM, CHANNELS, HEADS, levels=levels, points=points))
    padded = None if scale is None else torch.tensor(scale, dtype=torch.float64).expand(2, 1, 1, 2)
    what, (query, position, boxes) = scene(scale=padded), queries()
    share_x, share_y = (1.0, 1.0) if scale is None else scale
    asking = query + position
    expected = torch.zeros_like(query)
    for b, q in itertools.product(range(2), range(4)):
        cx, cy, w, h = boxes[b, q].tolist()
        heads = []
        for head in range(HEADS):
            logits = look.weights(asking[b, q]).view(HEADS, levels * points)[head]
            weights = logits.softmax(0).view(levels, points)
            offsets = look.offsets(asking[b, q]).view(HEADS, levels, points, 2)[head]
            total = torch.zeros(width, dtype=torch.float64)
            for level, p in itertools.product(range(levels), range(points)):
                dx, dy = offsets[level, p].tolist()
                x = (cx + dx * w / (2 * points)) * share_x
                y = (cy + dy * h / (2 * points)) * share_y
                value = look.value.weight[head * width : (head + 1) * width, :, 0, 0]
                total += weights[level, p] * (value @ bilinear(what.maps[level][b], x, y))
            heads.append(total)
        expected[b, q] = look.out(torch.cat(heads))
    torch.testing.assert_close(look(query, position, boxes, what), expected)


def test_deformable_attention_starts_with_points_out_to_the_edges_of_the_box() -> None:
    look = DeformableAttention(DIM, CHANNELS, 8, levels=2, points=4)
    start = look.offsets.bias.view(8, 2, 4, 2) / (2 * 4)  # times the box's size, from its centre
    assert torch.allclose(start.abs().amax(-1)[:, :, -1], torch.tensor(0.5))  # the last point is on the edge
    assert torch.allclose(start[0, 0, :, 0], torch.tensor([0.125, 0.25, 0.375, 0.5]))  # head 0: to the right
    assert torch.allclose(start[2, 1, :, 1], torch.tensor([0.125, 0.25, 0.375, 0.5]))  # head 2: down
    assert not look.offsets.weight.any()


@torch.no_grad()
def test_a_grid_in_the_box_reads_where_it_says() -> None:
    """A map that holds its own coordinates gives back the points' places; two maps stand side by side."""
    height, width = 16, 16
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    coordinates = torch.stack((x, y))[None].double()
    look = InBoxSampling(2 * 9 * 2, 2, levels=2, grid=3, margin=1.5).double()
    nn.init.eye_(look.join.weight)
    nn.init.zeros_(look.join.bias)
    boxes = torch.tensor([[[0.5, 0.4, 0.2, 0.4]]], dtype=torch.float64)
    what = scene()._replace(maps=(coordinates, -coordinates))
    out = look(torch.zeros(1, 1, 36, dtype=torch.float64), None, boxes, what).view(9, 4)  # points, channels
    torch.testing.assert_close(out[:, :2], -out[:, 2:])
    steps = torch.tensor([-1 / 3, 0, 1 / 3], dtype=torch.float64) * 1.5
    torch.testing.assert_close(out[:, 0], (0.5 + steps * 0.2).repeat(3))
    torch.testing.assert_close(out[:, 1], (0.4 + steps * 0.4).repeat_interleave(3))


LOOKS = {
    "global": lambda: GlobalAttention(DIM, HEADS, 0.0, position_bias=True),
    "in_box": lambda: InBoxSampling(DIM, CHANNELS, levels=2, grid=2),
    "deformable": lambda: DeformableAttention(DIM, CHANNELS, HEADS, levels=2, points=2),
}


@pytest.mark.parametrize("kind", LOOKS)
def test_gradients(kind: str) -> None:
    look, what, (query, position, boxes) = perturbed(LOOKS[kind]()), scene(), queries()
    # no point of these lies between two cells exactly, where its gradient has a step
    inputs = [query, position, boxes, *what.maps, what.memory]
    inputs = [value.clone().requires_grad_() for value in inputs]

    def call(query: Tensor, position: Tensor, boxes: Tensor, fine: Tensor, coarse: Tensor, memory: Tensor) -> Tensor:
        out: Tensor = look(query, position, boxes, what._replace(maps=(fine, coarse), memory=memory))
        return out

    assert torch.autograd.gradcheck(call, inputs, fast_mode=True)


@pytest.mark.parametrize("kind", LOOKS)
@pytest.mark.parametrize("autocast", [True, False])
@torch.no_grad()
def test_sixteen_bits_are_near_the_truth(kind: str, autocast: bool) -> None:
    look = perturbed(LOOKS[kind]())
    expected = look(*queries(), scene())
    if autocast:
        with torch.autocast("cpu", torch.bfloat16):
            found = look.float()(*queries(torch.float32), scene(torch.float32))
    else:
        query, position, _ = queries(torch.bfloat16)
        found = look.bfloat16()(query, position, queries(torch.float32)[2], scene(torch.bfloat16))
    assert (found.double() - expected).abs().max() < 0.05 * expected.abs().max()
