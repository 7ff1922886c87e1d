from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from scipy.integrate import quad
from torch import nn

from dlrecipes.nn.init.gain import activation_gain, fans
from dlrecipes.nn.init.rule import activation_of, function_activation


@pytest.mark.parametrize(
    "activation", [nn.ReLU(), nn.LeakyReLU(0.3), nn.SiLU(), nn.GELU(), nn.ELU(), nn.SELU(), nn.Mish(), nn.Hardswish()]
)
def test_gain_is_one_over_the_root_of_the_mean_square(activation: nn.Module) -> None:
    def integrand(z: float) -> float:
        f = float(activation(torch.tensor(z, dtype=torch.float64)))
        return f * f * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    mean_square = quad(integrand, -12, 0, limit=200)[0] + quad(integrand, 0, 12, limit=200)[0]
    assert activation_gain(activation) == pytest.approx(1 / math.sqrt(mean_square), rel=1e-7)


@pytest.mark.parametrize("slope", [0.0, 0.01, 0.25, 1.0])
def test_gain_of_the_relu_family_is_hes(slope: float) -> None:
    expected = nn.init.calculate_gain("leaky_relu", slope)
    assert activation_gain(nn.LeakyReLU(slope)) == pytest.approx(expected, rel=1e-7)
    assert activation_of(nn.LeakyReLU(slope)).gain == pytest.approx(expected, rel=1e-12)


def test_selu_keeps_a_variance_of_one() -> None:
    assert activation_gain(nn.SELU()) == pytest.approx(1, abs=1e-6)  # which is what its two numbers were chosen for


@pytest.mark.parametrize("activation", [torch.zeros_like, lambda z: z / 0])
def test_what_has_no_gain_is_refused(activation: object) -> None:
    with pytest.raises(ValueError, match="mean square"):
        activation_gain(activation)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(7, 5),
        nn.Conv1d(4, 6, 3),
        nn.Conv2d(8, 12, (3, 5), groups=4),
        nn.Conv2d(6, 6, 3, stride=2, groups=6),
        nn.Conv3d(2, 3, 2),
        nn.ConvTranspose2d(8, 4, 3),
        nn.ConvTranspose2d(8, 4, 4, stride=2),
        nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2),
    ],
    ids=str,
)
@torch.no_grad()
def test_fan_in_counts_the_terms_of_an_output(layer: nn.Module) -> None:
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    sides = layer.weight.ndim - 2
    channels = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    output = layer(torch.ones(1, channels, *[12] * sides))
    middle = output[(0, 0, *[slice(4, 8)] * sides)]  # no border; a stride's period of places
    assert float(middle.mean()) == pytest.approx(fans(layer).fan_in)


@pytest.mark.parametrize("layer", [nn.Linear(7, 5), nn.Conv2d(8, 12, (3, 5)), nn.Conv1d(4, 6, 3)], ids=str)
@torch.no_grad()
def test_fans_without_groups_are_torchs(layer: nn.Module) -> None:
    torch.manual_seed(0)
    for mode, fan in zip(("fan_in", "fan_out"), fans(layer), strict=True):
        nn.init.kaiming_uniform_(layer.weight, mode=mode, nonlinearity="linear")
        bound = math.sqrt(3 / fan)
        assert 0.9 * bound < float(layer.weight.abs().max()) <= bound


@torch.no_grad()
def test_fan_out_counts_where_an_input_goes() -> None:
    layer = nn.Conv2d(8, 12, 3, groups=4, bias=False)
    nn.init.ones_(layer.weight)
    image = torch.zeros(1, 8, 9, 9)
    image[0, 0, 4, 4] = 1
    assert float(layer(image).sum()) == fans(layer).fan_out


def test_another_layer_has_no_fans() -> None:
    with pytest.raises(TypeError, match="Embedding"):
        fans(nn.Embedding(3, 3))


def test_modules_and_functions_have_the_same_names() -> None:
    assert activation_of(nn.ReLU6()).name == "relu6"
    assert activation_of(nn.RReLU(0.1, 0.3)).slope == pytest.approx(0.2)
    assert activation_of(nn.PReLU(init=0.4)).slope == pytest.approx(0.4)
    assert function_activation(F.silu, (None,), {}) == activation_of(nn.SiLU())
    assert function_activation("tanh", (None,), {}) == activation_of(nn.Tanh())
    assert function_activation(torch.cat, (None,), {}) is None
    assert str(activation_of(nn.LeakyReLU(0.2))) == "leaky_relu(0.2)"


@pytest.mark.parametrize(("gain", "per_layer"), [(1.0, "kept"), (5 / 3, "grows")])
def test_glorots_gain_before_tanh_keeps_the_gradient(gain: float, per_layer: str) -> None:
    """Mean square of a gradient from layer to layer, where the signal's variance q has settled."""

    def mean(f: Callable[[float], float]) -> float:
        return quad(lambda z: f(z) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi), -10, 10)[0]

    q = 1.0
    for _ in range(300):
        q = gain**2 * mean(lambda z, q=q: math.tanh(math.sqrt(q) * z) ** 2)
    factor = gain**2 * mean(lambda z: math.cosh(math.sqrt(q) * z) ** -4)
    assert (0.98 < factor <= 1) if per_layer == "kept" else factor > 1.2
