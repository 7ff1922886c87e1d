"""Receptive fields by gradients alone: which pixels does one unit of a copy with positive weights depend on?"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def positive_copy(model: nn.Module) -> nn.Module:
    """Double precision, every weight above 0 and sums instead of maxima, so that no way is shut and no two cancel."""
    generator = torch.Generator().manual_seed(0)
    twin = copy.deepcopy(model).double().eval()
    for tensor in [*twin.parameters(), *twin.buffers()]:
        if tensor.is_floating_point():
            tensor.data.uniform_(0.1, 0.2, generator=generator)
    for module in list(twin.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.MaxPool2d):
                pool = nn.AvgPool2d(child.kernel_size, child.stride, child.padding, child.ceil_mode)
                setattr(module, name, pool)
    return twin


def edges_of(model: nn.Module, image: Tensor, *, channel: int | slice = slice(None)) -> Tensor:
    """First and last row, first and last column that each unit of the model's map depends on: [4, h, w]; −1: none."""
    image = image.double().requires_grad_()
    out = model(image)[0, channel]
    units = out.sum(0) if isinstance(channel, slice) else out
    edges = torch.full((4, *units.shape), -1)
    for i in range(units.shape[0]):
        for j in range(units.shape[1]):
            (gradient,) = torch.autograd.grad(units[i, j], image, retain_graph=True)
            hit = (gradient[0] != 0).any(0)
            if hit.any():
                rows, columns = hit.any(1).nonzero().flatten(), hit.any(0).nonzero().flatten()
                edges[:, i, j] = torch.stack([rows[0], rows[-1], columns[0], columns[-1]])
    return edges
