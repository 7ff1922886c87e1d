"""The box-relative bias: its formula cell by cell, no effect at the start, and attention that it draws to the box."""

import itertools

import torch

from dlrecipes.models.detr.cross_attention import GlobalAttention, Scene
from dlrecipes.models.detr.position import cell_grid
from dlrecipes.models.detr.position_bias import BoxPositionBias


def mask(columns: int) -> torch.Tensor:
    """Two images of 3 × 4 cells, the second with ``columns`` of them."""
    out = torch.zeros(2, 3, 4, dtype=torch.bool)
    out[1, :, columns:] = True
    return out


@torch.no_grad()
def test_the_formula_cell_by_cell() -> None:
    torch.manual_seed(0)
    bias = BoxPositionBias(heads=2, hidden=5).double()
    for parameter in bias.parameters():
        parameter.normal_()
    boxes = torch.rand(2, 3, 4, dtype=torch.float64)
    found = bias(boxes, cell_grid(3, 4, mask(2), torch.device("cpu"))).view(2, 2, 3, 3, 4)  # B, heads, Q, H, W
    for b, head, q, row, column in itertools.product(range(2), range(2), range(3), range(3), range(4)):
        if b == 1 and column >= 2:
            assert found[b, head, q, row, column] == -torch.inf
            continue
        x, y = (column + 0.5) / (4 if b == 0 else 2), (row + 0.5) / 3
        cx, cy, w, h = boxes[b, q].tolist()
        across = bias.across(8 * torch.tensor([cx - w / 2 - x, cx + w / 2 - x], dtype=torch.float64))[head]
        down = bias.down(8 * torch.tensor([cy - h / 2 - y, cy + h / 2 - y], dtype=torch.float64))[head]
        assert abs(found[b, head, q, row, column] - across - down) < 1e-4  # positions are float32


@torch.no_grad()
def test_at_the_start_it_changes_nothing() -> None:
    torch.manual_seed(0)
    biased, plain = GlobalAttention(8, 2, 0.0, position_bias=True), GlobalAttention(8, 2, 0.0)
    plain.attention.load_state_dict(biased.attention.state_dict())
    for padding in (None, mask(2)):
        scene = Scene(
            (), None, torch.randn(2, 12, 8), torch.randn(1, 12, 8), cell_grid(3, 4, padding, torch.device("cpu"))
        )
        asking = torch.randn(2, 5, 8), torch.randn(2, 5, 8), torch.rand(2, 5, 4)
        torch.testing.assert_close(biased(*asking, scene), plain(*asking, scene), rtol=0, atol=1e-6)


def test_it_learns_to_look_into_the_box() -> None:
    """Values are the cells' own places: the mean of what is looked at must become the box's centre."""
    torch.manual_seed(0)
    bias = BoxPositionBias(heads=1)
    grid = cell_grid(8, 8, None, torch.device("cpu"))
    y, x = grid.centres()
    places = torch.stack((x[:, None, :].expand(1, 8, 8), y[:, :, None].expand(1, 8, 8)), dim=-1).flatten(1, 2)
    optimizer = torch.optim.Adam(bias.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        centres = torch.rand(1, 32, 2) * 0.8 + 0.1
        logits = bias(torch.cat((centres, torch.full((1, 32, 2), 0.2)), dim=-1), grid)
        loss = (logits.softmax(-1) @ places - centres).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.03  # everywhere alike: .8² / 12 = .053
    assert losses[-1] < 0.004
