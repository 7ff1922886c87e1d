"""The maps that decoder layers sample, narrowed to few channels."""

from __future__ import annotations

from torch import Tensor, nn

from dlrecipes.models.detr.backbone import resize_mask

__all__ = ["SampledMaps"]


class SampledMaps(nn.Module):
    """Project feature maps of some strides to one number of channels.

    Args:
        strides: of the maps, finest first; none: nothing is sampled.
        widths: channels of each map.
        channels: of the result.
    """

    def __init__(self, strides: list[int], widths: list[int], channels: int) -> None:
        super().__init__()
        self.strides = strides
        self.project = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in widths)

    def forward(self, features: dict[int, Tensor], mask: Tensor | None) -> tuple[Tensor, ...]:
        """{stride: [B, widths, h, w]} → [B, channels, h, w] of each.

        0 in the padding (``mask`` bool [B, H, W]), as it is beyond the border of an image that is not padded.
        """
        maps = []
        for stride, project in zip(self.strides, self.project, strict=True):
            projected: Tensor = project(features[stride])
            if mask is not None:
                outside = resize_mask(mask, (projected.shape[-2], projected.shape[-1]))
                projected = projected.masked_fill(outside[:, None], 0.0)
            maps.append(projected)
        return tuple(maps)
