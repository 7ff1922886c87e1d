"""Arithmetic that is exact where training may be quick."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["full_precision"]


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Products in IEEE arithmetic, whatever the user allows for training: TF32 has three digits, bfloat16 two.

    Args:
        device: where the products are; autocast is off there.

    Example:
        >>> with full_precision(torch.device("cpu")):
        ...     (torch.ones(1, 3) @ torch.ones(3, 1)).item()
        3.0
    """
    mkldnn = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # public, not declared
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, mkldnn)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
