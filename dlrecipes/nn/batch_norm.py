"""Batch norm set for small batches, frozen for fine-tuning, shared among devices.

One that shares its statistics among devices is torch's own: ``nn.SyncBatchNorm.convert_sync_batchnorm(model)`` returns
the model with every batch norm replaced, and ``--trainer.sync_batchnorm true`` does it for a run. It pays where a
device has few images (under about 16), and costs a wait for all devices in every layer.
"""

from __future__ import annotations

from timm.layers import freeze_batch_norm_2d  # type: ignore[attr-defined]  # public, but in no __all__
from torch import nn

__all__ = ["freeze_bn", "set_bn"]

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def set_bn(model: nn.Module, *, momentum: float | None = None, eps: float | None = None) -> int:
    """Set momentum and eps of every batch norm.

    The running mean is an exponential one with a memory of about ``1 / momentum`` batches: with 0.1 evaluation goes by
    the last ten, which are too few where batches are small. Weights that were trained with another eps (TensorFlow's
    1e-3) need that one.

    Args:
        model: changed in place.
        momentum: share of the newest batch, in 0..1; None: as it is.
        eps: added to the variance, above 0; None: as it is.

    Returns:
        How many there are.

    Raises:
        ValueError: a value outside its range.

    Example:
        >>> set_bn(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), momentum=0.01)
        1
    """
    if momentum is not None and not 0 <= momentum <= 1:
        raise ValueError(f"momentum={momentum}: must be within 0..1")
    if eps is not None and not eps > 0:
        raise ValueError(f"eps={eps}: must be above 0")
    norms = [module for module in model.modules() if isinstance(module, _BATCH_NORMS)]
    for norm in norms:
        norm.momentum = norm.momentum if momentum is None else momentum
        norm.eps = norm.eps if eps is None else eps
    return len(norms)


def freeze_bn(model: nn.Module) -> list[str]:
    """Replace every batch norm by one whose statistics, γ and β stay what they are.

    This is timm's ``FrozenBatchNorm2d``, and not the same layer in evaluation mode: the next ``model.train()`` would
    take that one back. For fine-tuning with few images a device, where a batch's own statistics are noise.

    Args:
        model: changed in place, before the optimizer is made. Its weights still load what was saved before.

    Returns:
        Names of the layers that are frozen now.

    Raises:
        ValueError: a batch norm that is not inside another module, or not of images.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8))
        >>> freeze_bn(model), [name for name, _ in model.named_parameters()]
        (['1'], ['0.weight'])
    """
    norms = {name: module for name, module in model.named_modules() if isinstance(module, _BATCH_NORMS)}
    for name, module in norms.items():
        if not name:
            raise ValueError(f"model={type(module).__name__}: give the module that holds it, where it can be replaced")
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm3d):
            raise ValueError(f"{name} is a {type(module).__name__}: only batch norms of images can be frozen")
    freeze_batch_norm_2d(model)
    return list(norms)
