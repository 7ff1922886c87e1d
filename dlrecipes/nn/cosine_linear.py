"""A last layer that knows directions only."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CosineLinear"]


class CosineLinear(nn.Linear):
    r"""Last layer without lengths: the cosine of feature and class weight, times a scale (Wang et al., 2018,
    arXiv:1801.09414). ``LDAMLoss`` needs it with the scale 1, which it brings itself.

    .. math:: z_c = s\, \frac{w_c}{\|w_c\|} \cdot \frac{x}{\|x\|}

    The weights start with length 1. Cosines are computed in the weights' dtype, under autocast too: bfloat16 would keep
    two digits of what is then multiplied by 30.

    Args:
        in_features, out_features: as in ``nn.Linear``; there is no bias.
        scale: s > 0. With 1, softmax cross entropy cannot become small: take 16 to 30 for losses that have no scale.

    Raises:
        ValueError: a scale not above 0.

    Example:
        >>> layer = CosineLinear(2, 1)
        >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 0.0]]))
        >>> layer(torch.tensor([[0.0, 5.0], [7.0, 0.0]]))
        tensor([[0.],
                [1.]], grad_fn=<MulBackward0>)
    """

    def __init__(self, in_features: int, out_features: int, scale: float = 1.0) -> None:
        super().__init__(in_features, out_features, bias=False)
        if not scale > 0:
            raise ValueError(f"scale={scale}: above 0 is needed")
        self.scale = scale

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Random directions of length 1: an optimizer's step turns a short vector too far."""
        nn.init.normal_(self.weight)
        self.weight.copy_(F.normalize(self.weight, dim=-1))

    def forward(self, input: Tensor) -> Tensor:
        """[..., in_features] → [..., out_features]."""
        if torch.is_autocast_enabled(input.device.type):
            with torch.autocast(input.device.type, enabled=False):
                return self._cosines(input.to(self.weight.dtype))
        return self._cosines(input)

    def _cosines(self, input: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(input, dim=-1), F.normalize(self.weight, dim=-1))
