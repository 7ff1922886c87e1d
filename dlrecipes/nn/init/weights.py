"""Starting weights by the activation that follows each layer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from rich.table import Table
from torch import Tensor, nn

from dlrecipes.errors import UserError
from dlrecipes.nn.init.gain import fans
from dlrecipes.nn.init.graph import NORMS, Followers, find_followers
from dlrecipes.nn.init.rule import Activation

__all__ = ["InitRow", "InitTable", "init_weights"]

_SCHEMES = ("auto", "he", "glorot", "lecun", "orthogonal")
_DISTRIBUTIONS = ("normal", "uniform")
_MODES = ("fan_in", "fan_out")
_RESIDUALS = ("plain", "zero_norm", "fixup")


class InitRow(NamedTuple):
    """How one layer was started.

    Attributes:
        name, kind: of the layer.
        activation: what follows it, ``"leaky_relu(0.2)"``.
        scheme: ``"he"``, ``"glorot"``, ``"lecun"``, ``"computed"`` or ``"orthogonal"``; ``"zero"`` where a residual
            branch ends.
        gain: standard deviation times the root of the fan.
        std: of the weights.
    """

    name: str
    kind: str
    activation: str
    scheme: str
    gain: float
    std: float


class InitTable(NamedTuple):
    """What ``init_weights`` did; ``str()`` sums it up, ``table()`` shows each layer.

    Attributes:
        rows: layers in the order in which they are called, or defined.
        zeroed: layers and norms whose weights are 0, so that a residual branch starts as 0.
        left: modules whose parameters were not touched: embeddings, attention, frozen and parametrized layers, and
            parameters that stand alone.
        found_by: see ``Followers.found_by``.
    """

    rows: tuple[InitRow, ...]
    zeroed: tuple[str, ...]
    left: tuple[str, ...]
    found_by: str

    def table(self) -> Table:
        """For rich's ``print``."""
        table = Table("layer", "kind", "then", "scheme", box=None, pad_edge=False)
        table.add_column("gain", justify="right")
        table.add_column("std", justify="right")
        for row in self.rows:
            table.add_row(row.name, row.kind, row.activation, row.scheme, f"{row.gain:.3f}", f"{row.std:.4f}")
        return table

    def __str__(self) -> str:
        counts: dict[str, int] = {}
        for row in self.rows:
            key = f"{row.scheme} before {row.activation}"
            counts[key] = counts.get(key, 0) + 1
        ways = {"graph": "the graph", "execution": "the order of calls", "modules": "the order of definition"}
        lines = [f"{count} x {key}" for key, count in counts.items()]
        lines += [f"{len(self.zeroed)} residual branches or heads start at 0"] if self.zeroed else []
        lines += [f"left as they were: {', '.join(self.left)}"] if self.left else []
        return "\n".join([f"{len(self.rows)} layers started, activations by {ways[self.found_by]}", *lines])


def init_weights(
    model: nn.Module,
    scheme: str = "auto",
    distribution: str = "normal",
    *,
    mode: str = "fan_in",
    residual: str = "plain",
    batch: Any = None,
    generator: torch.Generator | None = None,
) -> InitTable:
    r"""Start all linear and convolution layers anew, each by the activation that follows it.

    ==================  ============================================  ===============================================
    scheme              variance of the weights                       ``"auto"`` takes it before
    ==================  ============================================  ===============================================
    ``"he"``            :math:`2 / ((1 + a^2)\,n)`                    ReLU, LeakyReLU and PReLU of slope a, RReLU
    ``"glorot"``        :math:`2 / (n_{in} + n_{out})`                tanh, sigmoid and their hard and soft kin
    ``"lecun"``         :math:`1 / n`                                 SELU, and where no activation follows
    (computed)          :math:`1 / (n\,E[f(z)^2])`                    SiLU, GELU, ELU, Mish, Hardswish, Softplus
    ``"orthogonal"``    orthonormal rows or columns times the gain    never
    ==================  ============================================  ===============================================

    n is ``fan_in``, which keeps the size of the signal, or ``fan_out``, which keeps that of the gradient. The variance
    decides; normal or uniform, :math:`U(-\sqrt{3}\sigma, \sqrt{3}\sigma)`, hardly matters.

    Before tanh the gain is Glorot and Bengio's 1, not the 5/3 of ``torch.nn.init.calculate_gain``: that keeps the size
    of the signal, but the gradient grows with every layer. It matters less than before ReLU, where a variance that is
    too small is fatal to depth: fifty plain tanh layers learn from He's, too (``benchmarks/init_depth.py``). Before a
    sigmoid the gain is 1 as there: most are gates or outputs, which should start undecided, and a deep stack of them
    loses the signal from any start.

    Norms start as 1 and 0, with new running statistics; biases as 0.

    Args:
        model: changed in place. Frozen layers, embeddings and ``nn.MultiheadAttention`` are left as they are.
        scheme: ``"auto"``, or one for all layers; ``"he"`` and ``"orthogonal"`` still take a slope and a gain from what
            follows.
        distribution: ``"normal"`` or ``"uniform"``; ``"orthogonal"`` has neither.
        mode: ``"fan_in"`` or ``"fan_out"``.
        residual: ``"plain"``; ``"zero_norm"``: the last norm of each residual branch, or the last layer if none comes
            behind it, starts as 0, and the block as its shortcut (Goyal et al., 2017, arXiv:1706.02677); ``"fixup"``:
            for networks without norms, the last layer of each branch and the last of all are 0, and the other m − 1 of
            a branch are scaled by :math:`L^{-1/(2m-2)}` for L branches (Zhang et al., 2019, arXiv:1901.09321; the
            scalar biases and multipliers of that paper are parts of a network, and not added).
        batch: input of a model that ``torch.fx`` cannot trace; without it the order of definition tells what follows.
        generator: of the numbers; default: torch's own.

    Returns:
        A row for each layer.

    Raises:
        ValueError: an unknown choice.
        UserError: no layer to start, one whose shape is not known yet, or residual branches that cannot be found.

    References:
        He et al., 2015, arXiv:1502.01852; Glorot and Bengio, 2010, AISTATS; Klambauer et al., 2017, arXiv:1706.02515;
        Saxe et al., 2014, arXiv:1312.6120.

    Example:
        >>> net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10))
        >>> [(row.scheme, round(row.std, 4)) for row in init_weights(net).rows]
        [('he', 0.1768), ('glorot', 0.1768), ('lecun', 0.1768)]
    """
    for name, value, choices in (
        ("scheme", scheme, _SCHEMES),
        ("distribution", distribution, _DISTRIBUTIONS),
        ("mode", mode, _MODES),
        ("residual", residual, _RESIDUALS),
    ):
        if value not in choices:
            raise ValueError(f"{name}={value!r}: choose one of {', '.join(choices)}")
    found = find_followers(model, batch)
    layers = dict(_layers(model, found))
    if residual != "plain" and found.found_by != "graph":
        raise UserError(
            f"residual={residual!r}: the branches of {type(model).__name__} cannot be found, since torch.fx cannot "
            f"trace it ({found.why}): use residual='plain' and set its last norms to 0 yourself"
        )
    rows = {}
    with torch.no_grad():
        for name, layer in layers.items():
            rows[name] = _start(name, layer, found.activation[name], scheme, distribution, mode, generator)
        norms = list(_start_norms(model))
        zeroed = _start_branches(model, found, layers, rows, residual)
    left = tuple(_untouched(model, {*layers, *norms}))
    return InitTable(tuple(rows.values()), tuple(zeroed), left, found.found_by)


def _layers(model: nn.Module, found: Followers) -> Iterator[tuple[str, nn.Module]]:
    """Those to start, in the order in which they were found; a layer that has two names once."""
    modules = dict(model.named_modules())
    inside = tuple(f"{name}." for name, module in modules.items() if isinstance(module, nn.MultiheadAttention))
    some = False
    for name in found.activation:
        weight = modules[name].weight
        if isinstance(weight, nn.parameter.UninitializedParameter):
            raise UserError(f"the layer {name!r} has no shape yet: run a batch through the model first")
        if name.startswith(inside) or "weight" not in dict(modules[name].named_parameters(recurse=False)):
            continue  # attention starts itself; a parametrized weight is made from others
        some = True
        if weight.requires_grad:
            yield name, modules[name]
    if not some:
        raise UserError(f"{type(model).__name__} has no linear or convolution layer that could be started")


def _start(
    name: str,
    layer: nn.Module,
    activation: Activation,
    scheme: str,
    distribution: str,
    mode: str,
    generator: torch.Generator | None,
) -> InitRow:
    weight = layer.get_parameter("weight")
    chosen = activation.scheme if scheme == "auto" else scheme
    fan_in, fan_out = fans(layer)
    fan = (fan_in + fan_out) / 2 if chosen == "glorot" else fan_in if mode == "fan_in" else fan_out
    gain = activation.gain if chosen in ("computed", "orthogonal") else 1.0
    if chosen == "he":
        gain = math.sqrt(2 / (1 + activation.slope**2))
    std = gain / math.sqrt(fan)
    if chosen == "orthogonal":
        nn.init.orthogonal_(weight, gain, generator=generator)
        std = float(weight.std(unbiased=False))
    elif distribution == "normal":
        nn.init.normal_(weight, std=std, generator=generator)
    else:
        bound = math.sqrt(3) * std
        nn.init.uniform_(weight, -bound, bound, generator=generator)
    if isinstance(layer.bias, Tensor):
        nn.init.zeros_(layer.bias)
    return InitRow(name, type(layer).__name__, str(activation), chosen, gain, std)


def _start_norms(model: nn.Module) -> Iterator[str]:
    for name, module in model.named_modules():
        if not isinstance(module, NORMS) or not all(p.requires_grad for p in module.parameters(recurse=False)):
            continue
        weight, bias = (getattr(module, leaf, None) for leaf in ("weight", "bias"))
        if isinstance(weight, Tensor):
            nn.init.ones_(weight)
        if isinstance(bias, Tensor):
            nn.init.zeros_(bias)
        reset = getattr(module, "reset_running_stats", None)
        if reset is not None:
            reset()
        yield name


def _start_branches(
    model: nn.Module, found: Followers, layers: dict[str, nn.Module], rows: dict[str, InitRow], residual: str
) -> list[str]:
    """Zero what ends each branch; for Fixup also scale the rest of it, and zero the head."""
    if residual == "plain":
        return []
    modules = dict(model.named_modules())
    ends = [branch.end if residual == "zero_norm" else branch.layers[-1] for branch in found.branches]
    if residual == "fixup":
        for branch in found.branches:
            inner = [name for name in branch.layers[:-1] if name in layers]
            for name in inner:
                scale = len(found.branches) ** (-1 / (2 * len(inner)))
                modules[name].get_parameter("weight").mul_(scale)
                rows[name] = rows[name]._replace(gain=rows[name].gain * scale, std=rows[name].std * scale)
        ends.append(next(reversed(found.activation)))
    ends = [name for name in ends if all(p.requires_grad for p in modules[name].parameters(recurse=False))]
    for name in ends:
        for parameter in modules[name].parameters(recurse=False):
            nn.init.zeros_(parameter)
        if name in rows:
            rows[name] = rows[name]._replace(scheme="zero", gain=0.0, std=0.0)
    return ends


def _untouched(model: nn.Module, done: set[str]) -> Iterator[str]:
    for name, module in model.named_modules():
        if name not in done and next(iter(module.parameters(recurse=False)), None) is not None:
            yield name or type(model).__name__
