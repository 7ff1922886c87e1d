"""Work that draws random numbers, and leaves the caller's as if it had not."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["kept_random_state"]


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Within it the generators of ``random``, NumPy and torch, on all devices, go on; afterwards they are as before.

    Lightning's ``isolate_rng`` does not put them back after an exception.

    Example:
        >>> before = torch.get_rng_state()
        >>> with kept_random_state():
        ...     _ = torch.rand(3)
        >>> bool((torch.get_rng_state() == before).all())
        True
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global generator is what is kept
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002 - as above
