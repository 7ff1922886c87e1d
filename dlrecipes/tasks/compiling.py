"""When to compile a network for training, and its compiled form beside the network itself."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from dlrecipes.errors import UserError

__all__ = ["COMPILE_MODES", "CompiledNetwork", "can_compile", "compile_earns_its_time", "compile_for_training"]

_GRAPH_MODES = ("reduce-overhead", "max-autotune")  # those that record CUDA graphs
COMPILE_MODES = ("auto", "never", "default", "max-autotune-no-cudagraphs", *_GRAPH_MODES)

# With fewer batches a run is over sooner without compiling. On an H100 (torch 2.11) the first step takes 29 s for the
# small Mixer and 58 s for EfficientNet-B0; a step then takes 7 ms less (Mixer, 32 pixels, 512 images), 10 ms less (B0,
# 224 pixels, 256 images) or 45 ms less (Mixer-B/16, likewise): 1000 to 6000 batches.
MIN_STEPS = 5000


class CompiledNetwork:
    """A network's compiled form for training batches of one size. Other sizes run as they are, without recompiling.

    It is no ``nn.Module``, so that a task may keep it without a second set of names in its ``state_dict``. Weights are
    the network's own: what changes them in place, such as weight averaging, changes both.

    Args:
        network: called with tensors, batch first.
        mode: of ``torch.compile``.

    Example:
        >>> net = CompiledNetwork(nn.Linear(2, 1), mode="default")  # compiles at its first call
    """

    def __init__(self, network: nn.Module, mode: str) -> None:
        self._network = network
        self._compiled: Any = torch.compile(network, dynamic=False, mode=mode)
        self._graphs = mode in _GRAPH_MODES
        self._batch_size: int | None = None

    def __call__(self, batch: Tensor, *others: Any) -> Any:
        if self._batch_size is None:
            self._batch_size = len(batch)
        if len(batch) != self._batch_size:
            return self._network(batch, *others)
        if self._graphs:  # a CUDA graph writes its outputs over those of the step before
            torch.compiler.cudagraph_mark_step_begin()
        return self._compiled(batch, *others)


def compile_for_training(
    network: nn.Module, mode: str, device: torch.device, steps: float, accumulate: int
) -> CompiledNetwork | None:
    """The compiled form of a network that a run trains, or None: not wanted, or not possible here (`can_compile`).

    Args:
        network: see ``compile_earns_its_time``.
        mode: one of ``COMPILE_MODES``.
        device: of the training.
        steps: of the optimizer, still to come.
        accumulate: batches for each of them.

    Raises:
        UserError: CUDA graphs with gradient accumulation.
    """
    if mode in _GRAPH_MODES and accumulate > 1:
        raise UserError(
            f"compile_mode={mode} records CUDA graphs, which write each batch's gradients over those before: "
            f"set accumulate_grad_batches to 1, or compile_mode to default"
        )
    if mode == "never" or (mode == "auto" and not compile_earns_its_time(network, device, steps * accumulate)):
        return None
    if not can_compile(device):
        return None
    return CompiledNetwork(network, "default" if mode == "auto" else mode)


def compile_earns_its_time(network: nn.Module, device: torch.device, steps: float) -> bool:
    """Whether to compile where the user did not say: on CUDA, a network whose class says so, for long enough.

    Args:
        network: its class may have ``compile_pays = True``, which is for models that were measured.
        device: of the training.
        steps: batches still to come.
    """
    pays = getattr(type(network), "compile_pays", False) is True
    return pays and device.type == "cuda" and steps >= MIN_STEPS and can_compile(device)


def can_compile(device: torch.device) -> bool:
    """What torch's default backend needs is there: Triton and a C compiler on CUDA, a C++ compiler on the CPU."""
    if device.type == "cuda":
        return find_spec("triton") is not None and _is_there(os.environ.get("CC"), "cc", "gcc", "clang")
    return device.type != "cpu" or _is_there(os.environ.get("CXX"), "c++", "g++", "clang++")


def _is_there(*compilers: str | None) -> bool:
    return any(shutil.which(name) for name in compilers if name)
