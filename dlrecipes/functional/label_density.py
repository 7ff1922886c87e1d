"""How dense the targets of a regression lie, smoothed over neighbouring values, and weights that follow from it."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

__all__ = ["DensityWeighting", "SmoothingKernel", "density_weights", "smooth_counts", "smoothing_kernel"]

SmoothingKernel = Literal["gaussian", "triangular", "laplace"]
DensityWeighting = Literal["inverse", "sqrt_inverse"]


def smoothing_kernel(kernel: SmoothingKernel = "gaussian", size: int = 5, sigma: float = 2.0) -> Tensor:
    r"""A symmetric kernel over bins at distances :math:`d = -h, \dots, h`, with ``size`` = 2 h + 1.

    ``"gaussian"``: :math:`e^{-d^2 / 2σ^2}`; ``"laplace"``: :math:`e^{-|d| / σ}`; ``"triangular"``:
    :math:`1 - |d| / (h + 1)`, without σ. (The authors' code filters a short impulse and so folds the Gaussian's tails
    back at the window's ends: its outermost values are too large.)

    Args:
        kernel: which.
        size: odd number of bins.
        sigma: σ > 0, in bins.

    Returns:
        float64 [size], of sum 1.

    Raises:
        ValueError: an unknown kernel, an even size, σ not above 0.

    Example:
        >>> smoothing_kernel("triangular", 3).tolist()
        [0.25, 0.5, 0.25]
    """
    if kernel not in get_args(SmoothingKernel):
        raise ValueError(f"kernel is {kernel!r}: use {', '.join(map(repr, get_args(SmoothingKernel)))}")
    if size < 1 or size % 2 == 0:
        raise ValueError(f"size is {size}: use an odd number above 0")
    if not sigma > 0:
        raise ValueError(f"sigma is {sigma}: use a number above 0")
    half = size // 2
    distance = torch.arange(-half, half + 1, dtype=torch.float64).abs()
    if kernel == "gaussian":
        values = torch.exp(-0.5 * (distance / sigma) ** 2)
    elif kernel == "laplace":
        values = torch.exp(-distance / sigma)
    else:
        values = 1 - distance / (half + 1)
    return values / values.sum()


def smooth_counts(counts: ArrayLike, kernel: Tensor) -> NDArray[np.float64]:
    """Counts of neighbouring bins, averaged by the kernel; beyond the ends there is nothing.

    Args:
        counts: [bins].
        kernel: [2 h + 1], as ``smoothing_kernel`` makes it.

    Returns:
        float64 [bins].

    Example:
        >>> smooth_counts([0, 4, 0, 0], smoothing_kernel("triangular", 3)).tolist()
        [1.0, 2.0, 1.0, 0.0]
    """
    half = len(kernel) // 2
    padded = np.pad(np.asarray(counts, dtype=np.float64), half)
    return np.convolve(padded, kernel.numpy(), mode="valid")


def density_weights(
    targets: ArrayLike,
    *,
    bins: int = 100,
    scheme: DensityWeighting = "sqrt_inverse",
    kernel: SmoothingKernel = "gaussian",
    kernel_size: int = 5,
    sigma: float = 2.0,
    limits: tuple[float, float] | None = None,
) -> Tensor:
    r"""Label distribution smoothing (LDS): a weight for each sample that falls with the smoothed density of its target
    (Yang et al., 2021, arXiv:2102.09554).

    Neighbouring values teach much the same, so an empty bin between full ones is not rare. With :math:`n_b` targets in
    bin b and the kernel k: ``"inverse"``: :math:`w \propto 1 / (k * n)_b`; ``"sqrt_inverse"``:
    :math:`w \propto 1 / (k * \sqrt n)_b`, both of mean 1 over the samples.

    When: a regression whose rare values count as much as the others; hand the weights to the data as its sample
    weights. ``"inverse"`` lets a few samples dominate: give ``limits``. Not together with ``BalancedMSELoss`` or a
    sampler that balances.

    Args:
        targets: [N], finite.
        bins: equally wide, from the smallest to the largest target.
        scheme: which formula.
        kernel, kernel_size, sigma: as in ``smoothing_kernel``; a size of 1 smooths nothing.
        limits: counts of bins below and above count as these (the authors: 5 and 1000 with ``"inverse"``); None: as
            they are.

    Returns:
        float32 [N].

    Raises:
        ValueError: targets that are not one finite number a sample, or an argument outside its range.

    Example:
        >>> density_weights([0.0, 0.0, 0.0, 1.0], bins=2, scheme="inverse", kernel_size=1)
        tensor([0.6667, 0.6667, 0.6667, 2.0000])
    """
    values = np.asarray(targets, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"targets of shape {values.shape}: one finite number a sample is needed")
    if scheme not in get_args(DensityWeighting):
        raise ValueError(f"scheme is {scheme!r}: use {', '.join(map(repr, get_args(DensityWeighting)))}")
    if bins < 1:
        raise ValueError(f"bins is {bins}: use 1 or more")
    window = smoothing_kernel(kernel, kernel_size, sigma)
    if len(values) == 0:
        return torch.empty(0)
    low, high = float(values.min()), float(values.max())
    index = np.minimum(((values - low) / ((high - low) or 1.0) * bins).astype(np.int64), bins - 1)
    counts = np.bincount(index, minlength=bins).astype(np.float64)
    if limits is not None:
        counts = counts.clip(*limits)
    density = smooth_counts(np.sqrt(counts) if scheme == "sqrt_inverse" else counts, window)[index]
    weights = 1 / density
    return torch.from_numpy((weights / weights.mean()).astype(np.float32))
