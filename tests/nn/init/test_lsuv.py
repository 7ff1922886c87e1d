from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dlrecipes.errors import UserError
from dlrecipes.nn.init.lsuv import lsuv_


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def conv_net(act: type[nn.Module], norm: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = []
    for c_in, c_out in ((3, 8), (8, 8), (8, 16), (16, 16)):
        layers += [nn.Conv2d(c_in, c_out, 3, padding=1), *([nn.BatchNorm2d(c_out)] if norm else []), act()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10))


def outputs(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: found.update({name: output.detach().clone()})

    handles = [
        module.register_forward_hook(keep(name))
        for name, module in net.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    net(x)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh, nn.SiLU, lambda: nn.ReLU(inplace=True)])
def test_every_output_has_unit_variance(act: type[nn.Module]) -> None:
    net, x = conv_net(act), 5 + 3 * torch.randn(32, 3, 8, 8, generator=seeded())
    table = lsuv_(net, x, generator=seeded())
    measured = outputs(net, x)
    assert [row.name for row in table.rows] == list(measured)
    for row in table.rows:
        assert float(measured[row.name].var(unbiased=False)) == pytest.approx(1, abs=0.01)
        assert row.after == pytest.approx(float(measured[row.name].std(unbiased=False)), abs=1e-3)


@pytest.mark.parametrize(
    "layer", [nn.Linear(12, 8), nn.Linear(8, 12), nn.Conv2d(4, 8, 3), nn.Conv2d(2, 32, 3)], ids=str
)
def test_weights_are_a_multiple_of_an_orthonormal_matrix(layer: nn.Module) -> None:
    channels = layer.weight.shape[1]
    x = torch.randn(16, channels, *[5] * (layer.weight.ndim - 2), generator=seeded())
    lsuv_(layer, x, generator=seeded())
    matrix = layer.weight.detach().flatten(1).double()
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    scale = float(gram.diagonal().mean())
    torch.testing.assert_close(gram / scale, torch.eye(len(gram), dtype=torch.float64), atol=1e-5, rtol=0)


def test_layers_in_front_of_a_batch_norm_stay_orthonormal_and_nothing_else_changes() -> None:
    net, x = conv_net(nn.ReLU, norm=True), torch.randn(16, 3, 8, 8, generator=seeded())
    net[1].eval()
    table = lsuv_(net, x, generator=seeded())
    assert [math.isnan(row.after) for row in table.rows] == [True] * 4 + [False]
    matrix = net[3].weight.detach().flatten(1)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(8), atol=1e-5, rtol=0)
    assert not net[4].running_mean.any()
    assert int(net[4].num_batches_tracked) == 0
    assert [net[1].training, net[4].training, net.training] == [False, True, True]
    scaled = lsuv_(net, x, skip_normalised=False)
    assert all(row.after == pytest.approx(1, abs=0.01) for row in scaled.rows)


class Branches(nn.Module):
    """Called in another order than defined, one layer twice, with two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.second, self.first = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        y = self.first(x * scale).tanh()
        return self.second(self.first(y) + x)


def test_order_is_that_of_the_calls_and_inputs_may_be_named() -> None:
    x, scale = torch.randn(64, 6, generator=seeded()), torch.tensor(20.0)
    for batch in ((x, scale), {"x": x, "scale": scale}):
        table = lsuv_(Branches(), batch)
        assert [row.name for row in table.rows] == ["first", "second"]
        assert all(row.after == pytest.approx(1, abs=0.01) for row in table.rows)


def test_frozen_layers_are_left() -> None:
    net = nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 4))
    before = net[0].weight.clone()
    table = lsuv_(net, torch.randn(16, 4))
    assert torch.equal(net[0].weight, before)
    assert [row.name for row in table.rows] == ["1"]


def test_what_cannot_be_scaled_is_said() -> None:
    with pytest.raises(UserError, match=r"layer '0' is the same"):
        lsuv_(nn.Sequential(nn.Linear(4, 4)), torch.zeros(8, 4))
    with pytest.raises(UserError, match="not finite"):
        lsuv_(nn.Sequential(nn.Linear(4, 4)), torch.full((8, 4), torch.inf))
    with pytest.raises(UserError, match="no linear"):
        lsuv_(nn.ReLU(), torch.zeros(8, 4))
    with pytest.raises(ValueError, match="tolerance=0"):
        lsuv_(nn.Linear(1, 1), torch.zeros(8, 1), tolerance=0)
    with pytest.raises(ValueError, match="tries=0"):
        lsuv_(nn.Linear(1, 1), torch.zeros(8, 1), tries=0)


def test_table_shows_each_layer() -> None:
    assert lsuv_(conv_net(nn.ReLU, norm=True), torch.randn(8, 3, 8, 8)).table().row_count == 5
