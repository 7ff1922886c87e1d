"""Models without numbers: shapes, sizes and costs in milliseconds, and the model itself untouched."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode  # documented under "Extending PyTorch", in no other place

from dlrecipes.errors import UserError
from dlrecipes.nn.nest import tensors, with_tensors

__all__ = ["OnMeta", "image_channels", "image_side", "meta_copy", "meta_image", "pair", "without_numbers"]


def meta_copy(model: nn.Module) -> nn.Module:
    """A copy whose floating-point parameters and buffers have shapes only (device ``meta``).

    Integer buffers keep their numbers, on the CPU: they are places to read from.

    Raises:
        UserError: a model that cannot be copied.
    """
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        if not tensor.is_floating_point() and not tensor.is_meta:
            memo[id(tensor)] = tensor.detach().cpu().clone()
        elif tensor.is_floating_point():
            shape = torch.empty_like(tensor, device="meta", memory_format=torch.contiguous_format)
            memo[id(tensor)] = nn.Parameter(shape, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else shape
    try:
        return copy.deepcopy(model, memo)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{type(model).__name__} cannot be copied, and so not be looked into: {error}") from error


def meta_image(model: nn.Module, channels: int, size: tuple[int, int]) -> Tensor:
    """One image without numbers, in the model's dtype: [1, channels, H, W]."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return torch.empty(1, channels, *size, device="meta", dtype=dtype)


def image_channels(model: nn.Module) -> int:
    """Channels of the images: those of the first convolution of images, or 3."""
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    return 3 if first is None else first.in_channels


def image_side(model: nn.Module) -> int | None:
    """Side of the images that a network of timm was made for, in pixels; None: it does not say."""
    for module in model.modules():
        config = getattr(module, "pretrained_cfg", None)
        if config and config.get("input_size"):
            return int(config["input_size"][-1])
    return None


def pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width.

    Raises:
        ValueError: none of at least 1 pixel.
    """
    both = (value, value) if isinstance(value, int) else tuple(value)
    if len(both) != 2 or min(both) < 1:
        raise ValueError(f"{name}={value}: one number of pixels or (height, width) is needed")
    return both


class OnMeta(TorchDispatchMode):
    """Tensors that a model keeps beside its parameters and buffers lose their numbers where they meet an activation."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = without_numbers(args, kwargs or {})
        return func(*args, **kwargs)


def without_numbers(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of an operation, all on ``meta`` if any of them is; single numbers on the CPU may stay."""
    if not any(tensor.is_meta for tensor in tensors((args, kwargs))):
        return args, kwargs

    def change(tensor: Tensor) -> Tensor:
        stays = tensor.is_meta or (tensor.is_cpu and not tensor.dim())
        return tensor if stays else torch.empty_like(tensor, device="meta")

    return with_tensors(args, change), with_tensors(kwargs, change)
