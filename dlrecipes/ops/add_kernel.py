"""The Triton kernel of the teaching example."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

__all__ = ["add_kernel"]


@triton.jit
def add_kernel(x: Any, y: Any, out: Any, numel: Any, BLOCK: tl.constexpr) -> None:
    """BLOCK elements of x + y; 64-bit offsets, since a tensor may have more than 2^31 elements."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < numel
    tl.store(out + offset, tl.load(x + offset, mask=inside) + tl.load(y + offset, mask=inside), mask=inside)
