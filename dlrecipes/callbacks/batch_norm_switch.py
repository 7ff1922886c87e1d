r"""Batch norm that is there from the start and comes into play later, without a jump.

A layer computes :math:`y = \gamma (x - m) / \sqrt{v + \epsilon} + \beta`. As it is made (m = 0, v = 1, γ = 1, β = 0)
and in evaluation mode, that is the identity (but for ε): so a network whose layers are held there trains without batch
norm, has the same parameters, optimizer and checkpoints as with it, and any program that loads such a checkpoint
computes the same. To switch a layer on, the mean μ and variance σ² of its input are measured, and

.. math:: \gamma \leftarrow a \sqrt{\sigma^2 + \epsilon}, \quad \beta \leftarrow b + a \mu, \quad m \leftarrow \mu,
    \quad v \leftarrow \sigma^2, \qquad a = \frac{\gamma}{\sqrt{v + \epsilon}}, \; b = \beta - a m

leaves the function :math:`y = a x + b` what it was in evaluation, and in training up to a batch's own statistics.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from dlrecipes.callbacks.sample_batches import sample_batches
from dlrecipes.callbacks.sanity_probes import first_loss, make_twin
from dlrecipes.functional.random_state import kept_random_state

__all__ = ["calibrate", "fresh_norms", "held_names", "switchable_norms"]

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm


def switchable_norms(module: nn.Module) -> dict[str, Norm]:
    """Layers of batch norm, by name, that have running statistics and parameters; the others cannot be the identity."""
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, _NORMS) and layer.track_running_stats and layer.affine
    }


def fresh_norms(module: nn.Module) -> dict[str, Norm]:
    """Those whose statistics were never measured: the others are pretrained, or have been switched on."""
    return {
        name: layer
        for name, layer in switchable_norms(module).items()
        if bool((layer.get_buffer("running_mean") == 0).all()) and bool((layer.get_buffer("running_var") == 1).all())
    }


def held_names(module: nn.Module) -> list[str]:
    """Parameters that must not learn for the layers to stay what they are.

    A new layer with γ = 0, the last of a residual branch, is no identity: its γ learns, as the factor in front of a
    branch does in networks without batch norm (De and Smith, 2020, arXiv:2002.10444).
    """
    fresh = fresh_norms(module)
    held = [n for n, layer in switchable_norms(module).items() if n not in fresh or bool((layer.weight != 0).any())]
    return [f"{name}.{leaf}" for name in held for leaf in ("weight", "bias")]


def calibrate(trainer: pl.Trainer, pl_module: pl.LightningModule, batches: int) -> int:
    """Give the fresh layers the statistics of their inputs, and parameters with which they compute what they did.

    The batches are the next ones of training, passed through a copy: nothing but the layers changes. Several ranks each
    pass their own and take the statistics of all.

    Args:
        trainer, pl_module: in a hook of training.
        batches: to measure on.

    Returns:
        How many layers there were.

    Raises:
        UserError: a training loader that has no single samples, or a module that cannot be copied.
    """
    layers = fresh_norms(pl_module)
    if not layers:
        return 0
    sums = _sums(trainer, pl_module, layers, batches)
    for name, layer in ((name, layer) for name, layer in layers.items() if name in sums):
        mean, square, count = sums[name]
        mean, square = (_over_ranks(trainer, value / count) for value in (mean, square))
        _keep_function(layer, mean, (square - mean.square()).clamp_min(0), batches)
    return len(layers)


def _sums(
    trainer: pl.Trainer, pl_module: pl.LightningModule, layers: Iterable[str], batches: int
) -> dict[str, tuple[Tensor, Tensor, int]]:
    """Sums of each layer's input and of its square, float64 [C], and over how many values."""
    found: dict[str, tuple[Tensor, Tensor, int]] = {}
    twin = make_twin(trainer, pl_module)
    for layer in switchable_norms(twin).values():
        layer.eval()

    def record(name: str) -> Any:
        def hook(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach().double()
            others = [d for d in range(x.dim()) if d != 1]
            old = found.get(
                name, (torch.zeros_like(x[0, :, ...].flatten(1)[:, 0] if x.dim() > 2 else x[0]),) * 2 + (0,)
            )
            found[name] = (old[0] + x.sum(others), old[1] + x.square().sum(others), old[2] + x.numel() // x.shape[1])

        return hook

    for name in layers:
        twin.get_submodule(name).register_forward_pre_hook(record(name))
    with kept_random_state(), torch.no_grad():
        for batch in sample_batches(trainer, pl_module, batches, augmented=True):
            first_loss(trainer, twin, batch)
    return found


@torch.no_grad()
def _keep_function(layer: Norm, mean: Tensor, variance: Tensor, batches: int) -> None:
    running_mean, running_var = layer.get_buffer("running_mean"), layer.get_buffer("running_var")
    old_mean, old_variance = running_mean.double(), running_var.double()
    slope = layer.weight.double() / (old_variance + layer.eps).sqrt()
    offset = layer.bias.double() - slope * old_mean
    layer.weight.copy_(slope * (variance + layer.eps).sqrt())
    layer.bias.copy_(offset + slope * mean)
    running_mean.copy_(mean)
    running_var.copy_(variance)
    layer.get_buffer("num_batches_tracked").fill_(batches)


def _over_ranks(trainer: pl.Trainer, value: Tensor) -> Tensor:
    reduced = trainer.strategy.reduce(value, reduce_op="mean")
    return reduced if isinstance(reduced, Tensor) else value
