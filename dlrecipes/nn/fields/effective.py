"""What of its receptive field a unit really uses: by gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dlrecipes.errors import UserError
from dlrecipes.nn.fields.theoretical import LayerField, receptive_field
from dlrecipes.nn.meta import image_channels, pair

__all__ = ["EffectiveField", "effective_receptive_field"]

_IMAGES = 8  # of noise, where none are given
_HALVES = 40  # bisections of a width: a float's digits


@dataclass(frozen=True)
class EffectiveField:
    """How much each pixel counts for the unit in the middle of a map.

    Attributes:
        map: float64 [H, W], sums to 1.
        layer: whose map it is; empty: the model's output.
        unit: row and column of the unit in that map.
        centre: row and column of the middle of its field, in pixels from the middle of the first pixel.
        theoretical: height and width of the theoretical field; None: the model's way depends on the image.
        whole: a part of what counts comes through a mean over the image or attention, and may lie outside of that.
    """

    map: Tensor
    layer: str
    unit: tuple[int, int]
    centre: tuple[float, float]
    theoretical: tuple[int, int] | None
    whole: bool

    def widths(self, share: float) -> tuple[float, float]:
        """Height and width in pixels of the strips around the centre that hold a share of what counts.

        For a bell curve 0.68 gives two standard deviations, and 0.95 four.

        Raises:
            ValueError: a share outside 0..1.
        """
        if not 0 < share < 1:
            raise ValueError(f"share={share}: must be above 0 and below 1")
        return (
            _width(self.map.sum(1), self.centre[0], share),
            _width(self.map.sum(0), self.centre[1], share),
        )

    def __str__(self) -> str:
        most, nearly_all = self.widths(0.68), self.widths(0.95)
        text = f"68 % of what counts lies within {most[0]:.0f}x{most[1]:.0f} pixels, 95 % within "
        text += f"{nearly_all[0]:.0f}x{nearly_all[1]:.0f}"
        if self.theoretical is not None:
            text += f", of {self.theoretical[0]}x{self.theoretical[1]} in theory"
        return f"{text}; a part comes from the whole image" if self.whole else text


def effective_receptive_field(
    model: nn.Module, images: Tensor | int | tuple[int, int] = 224, *, layer: str | None = None, seed: int = 0
) -> EffectiveField:
    r"""How much the pixels count for the unit in the middle of a map (Luo et al., 2016, arXiv:1701.04128).

    .. math:: e_p \propto \mathbb{E}_{x, v} \sum_{c} \left| \frac{\partial\, v^\top y_u(x)}{\partial x_{c,p}} \right|

    with the unit's channels :math:`y_u`, put together by random signs v for each image, so that no channels cancel
    out. It is a bell of width √layers where the theoretical field grows with their number, and it grows in training.

    Args:
        model: in whatever mode; it is evaluated, and left as it was.
        images: float [N, C, H, W], normalised; or a side or (height, width) for images of noise. Take images larger
            than the field, so that nothing of it is cut off.
        layer: name of the layer whose output is the map [B, C, h, w] or [B, h, w, C]; default: the last map that sees
            anything along local paths.
        seed: of noise and signs.

    Raises:
        ValueError: images of another shape.
        UserError: no such layer, no map, or a unit that no pixel has an influence on.

    Example:
        >>> conv = nn.Conv2d(1, 1, 3, bias=False)
        >>> _ = nn.init.ones_(conv.weight)
        >>> field = effective_receptive_field(nn.Sequential(conv, conv), 11)
        >>> (field.map.sum(0)[3:8] * 9).round().int().tolist(), field.theoretical
        ([1, 2, 3, 2, 1], (5, 5))
    """
    generator = torch.Generator().manual_seed(seed)
    like = next(model.parameters(), torch.zeros(()))
    if not isinstance(images, Tensor):
        shape = (_IMAGES, image_channels(model), *pair("images", images))
        images = torch.randn(shape, generator=generator)
    if images.dim() != 4 or not images.is_floating_point():
        raise ValueError(f"images: float [N, C, H, W] is needed, got {images.dtype} {list(images.shape)}")
    line = _line(model, images, layer)
    name = layer if layer is not None else line.name if line is not None else ""
    pixels = images.detach().to(like).requires_grad_()
    with _evaluated(model), torch.enable_grad():
        y = _output(model, name, pixels)
        units = _as_map(y, line, name)
        unit = (units.shape[2] // 2, units.shape[3] // 2)
        signs = torch.randint(0, 2, units.shape[:2], generator=generator).to(units) * 2 - 1
        (gradient,) = torch.autograd.grad((units[:, :, unit[0], unit[1]] * signs).sum(), pixels)
    counts = gradient.double().abs().sum((0, 1)).cpu()
    if not counts.sum() > 0:
        raise UserError(f"no pixel has an influence on the unit in the middle of {name or 'the output'}: is it dead?")
    counts = counts / counts.sum()
    return EffectiveField(counts, name, unit, _centre(counts, line, unit), line.size if line else None, _whole(line))


def _line(model: nn.Module, images: Tensor, layer: str | None) -> LayerField | None:
    """The layer's theoretical field; None: only gradients can tell."""
    try:
        field = receptive_field(model, (images.shape[2], images.shape[3]), channels=images.shape[1])
    except UserError:
        if layer is None:
            raise
        return None
    line = field.last if layer is None else field.layer(layer)
    if line.map_size is None:
        maps = [known.name for known in field.layers if known.map_size is not None]
        named = f", for example {maps[-1]}" if maps else ""
        raise UserError(f"{line.name or 'the output'} is no map of rows and columns: give layer= one that is{named}")
    return line


def _output(model: nn.Module, name: str, pixels: Tensor) -> Tensor:
    """What the layer gives when it is called last."""
    if name not in dict(model.named_modules()):
        raise UserError(f"there is no layer {name!r} in {type(model).__name__}")
    found: list[Tensor] = []

    def keep(_module: nn.Module, _args: object, output: object) -> None:
        if isinstance(output, Tensor):
            found.append(output)

    handle = model.get_submodule(name).register_forward_hook(keep)
    try:
        model(pixels)
    finally:
        handle.remove()
    if not found or found[-1].dim() != 4:
        raise UserError(f"{name or 'the model'} gives no map [B, C, h, w] or [B, h, w, C]: give layer= one that does")
    return found[-1]


def _as_map(y: Tensor, line: LayerField | None, name: str) -> Tensor:
    """[B, C, h, w]."""
    if line is None or line.dims == (2, 3):
        return y
    if line.dims == (1, 2):
        return y.permute(0, 3, 1, 2)
    raise UserError(
        f"rows and columns of {name or 'the output'} are dimensions {line.dims}: (2, 3) or (1, 2) is needed"
    )


def _centre(counts: Tensor, line: LayerField | None, unit: tuple[int, int]) -> tuple[float, float]:
    """The middle of the theoretical field, or of what counts."""
    if line is not None and line.stride is not None and line.offset is not None:
        return line.offset[0] + line.stride[0] * unit[0], line.offset[1] + line.stride[1] * unit[1]
    rows = torch.arange(counts.shape[0], dtype=torch.float64)
    columns = torch.arange(counts.shape[1], dtype=torch.float64)
    return float(counts.sum(1) @ rows), float(counts.sum(0) @ columns)


def _whole(line: LayerField | None) -> bool:
    return line is not None and any(line.whole)


def _width(line: Tensor, centre: float, share: float) -> float:
    """Width of the interval around the centre that holds the share; a pixel's part is spread over its length of 1."""
    edges = torch.arange(len(line) + 1, dtype=torch.float64) - 0.5
    below = torch.cat([line.new_zeros(1), line.cumsum(0)])

    def held(half: float) -> float:
        ends = torch.tensor([centre - half, centre + half], dtype=torch.float64).clamp(edges[0], edges[-1])
        at = (ends - edges[0]).clamp(max=len(line) - 1e-9)
        index = at.long()
        amount = below[index] + (at - index) * line[index]
        return float(amount[1] - amount[0])

    low, high = 0.0, float(len(line))
    for _ in range(_HALVES):
        middle = (low + high) / 2
        low, high = (middle, high) if held(middle) < share else (low, middle)
    return 2 * high


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and each module's own afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
