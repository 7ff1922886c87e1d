"""Runs a model on a batch as at the start of a training, and leaves no trace of that in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["BATCH_NORMS", "as_at_start", "call_model", "leaf_order"]

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def call_model(model: nn.Module, batch: Any) -> Any:
    """``model(batch)``; the items of a tuple or list one by one, those of a dict by name."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple | list) else model(batch)


@contextmanager
def as_at_start(model: nn.Module) -> Iterator[None]:
    """Batch norms use the batch, as in the first training step; dropout and drop path are off: nothing is drawn.

    Modes and buffers (running statistics) are put back afterwards.
    """
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        model.eval()
        for module in model.modules():
            if isinstance(module, BATCH_NORMS) and modes[module]:  # a frozen one stays as it is
                module.train()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])


def leaf_order(model: nn.Module, run: Callable[[], object]) -> list[tuple[str, nn.Module]]:
    """Modules without children in the order in which ``run`` calls them, each as often as it is called."""
    called: list[tuple[str, nn.Module]] = []

    def note(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: called.append((name, module))

    handles = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if not any(True for _ in module.children())
    ]
    try:
        with torch.no_grad(), as_at_start(model):
            run()
    finally:
        for handle in handles:
            handle.remove()
    return called
