"""Label distribution smoothing against SciPy."""

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve1d
from scipy.signal.windows import gaussian, triang

from dlrecipes.functional.label_density import density_weights, smooth_counts, smoothing_kernel

COUNTS = [3, 0, 10, 7, 0, 0, 1, 25]


def test_kernels_are_scipys() -> None:
    for size in (1, 3, 9):
        torch.testing.assert_close(
            smoothing_kernel("gaussian", size, 1.5), torch.from_numpy(gaussian(size, 1.5) / gaussian(size, 1.5).sum())
        )
        torch.testing.assert_close(
            smoothing_kernel("triangular", size), torch.from_numpy(triang(size) / triang(size).sum())
        )
    laplace = np.exp(-np.abs(np.arange(-2, 3)) / 2)
    torch.testing.assert_close(smoothing_kernel("laplace", 5, 2.0), torch.from_numpy(laplace / laplace.sum()))


@pytest.mark.parametrize("size", [1, 5, 7])
def test_smoothing_is_scipys_convolution(size: int) -> None:
    kernel = smoothing_kernel("gaussian", size, 2.0)
    expected = convolve1d(np.array(COUNTS, dtype=float), kernel.numpy(), mode="constant")
    np.testing.assert_allclose(smooth_counts(COUNTS, kernel), expected)


@pytest.mark.parametrize("scheme", ["inverse", "sqrt_inverse"])
def test_weights_are_those_of_the_authors_rule(scheme: str) -> None:
    targets = np.repeat(np.arange(8.0), COUNTS)
    counts = np.clip(COUNTS, 5, 1000) if scheme == "inverse" else np.sqrt(COUNTS)
    density = convolve1d(counts.astype(float), smoothing_kernel().numpy(), mode="constant")
    expected = 1 / density[targets.astype(int)]
    limits = (5.0, 1000.0) if scheme == "inverse" else None
    weights = density_weights(targets, bins=8, scheme=scheme, limits=limits)
    np.testing.assert_allclose(weights.numpy(), expected * len(expected) / expected.sum(), rtol=1e-6)


def test_without_smoothing_they_are_inverse_counts() -> None:
    weights = density_weights([0.0, 0.1, 0.2, 5.0], bins=2, scheme="inverse", kernel_size=1)
    torch.testing.assert_close(weights, torch.tensor([2 / 3, 2 / 3, 2 / 3, 2.0]))


def test_a_gap_between_frequent_values_is_not_rare() -> None:
    targets = [*[0.0] * 50, 1.0, *[2.0] * 50, 9.0]
    plain = density_weights(targets, bins=10, kernel_size=1)
    smooth = density_weights(targets, bins=10)
    assert plain[50] == plain[-1]
    assert smooth[50] < 0.5 * smooth[-1]
    assert smooth.mean().item() == pytest.approx(1, abs=1e-6)


def test_one_value_and_none() -> None:
    assert density_weights([2.0, 2.0, 2.0]).tolist() == pytest.approx([1, 1, 1])
    assert density_weights([]).shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": [[1.0]]}, r"targets of shape \(1, 1\)"),
        ({"targets": [1.0, float("nan")]}, "one finite number"),
        ({"targets": [1.0], "scheme": "square"}, "scheme is 'square'"),
        ({"targets": [1.0], "bins": 0}, "bins is 0"),
        ({"targets": [1.0], "kernel": "box"}, "kernel is 'box'"),
        ({"targets": [1.0], "kernel_size": 4}, "size is 4"),
        ({"targets": [1.0], "sigma": 0.0}, "sigma is 0.0"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        density_weights(**arguments)
