"""A picture of what a network sees: the field layer by layer, and the field in the image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from dlrecipes.nn.fields.effective import EffectiveField
from dlrecipes.nn.fields.theoretical import ReceptiveField
from dlrecipes.runs.pictures.curves import new_figure, save_figure

__all__ = ["draw_receptive_field"]

_THEORY, _NEARLY_ALL, _MOST = "tab:red", "tab:orange", "gold"


def draw_receptive_field(
    field: ReceptiveField,
    path: str | Path,
    *,
    effective: EffectiveField | None = None,
    image: Tensor | None = None,
    object_sizes: Sequence[float] = (),
    title: str = "Receptive field",
) -> None:
    """Draw how the field grows with the layers, beside the objects' sizes; and the last field in the image.

    Args:
        field: of ``receptive_field``.
        path: PNG to write.
        effective: of ``effective_receptive_field``; its map is shown with the widths that hold 68 and 95 % of it.
        image: uint8 [3, H, W], shown under the frames instead of that map.
        object_sizes: sides of objects in pixels, drawn as lines.
        title: text.
    """
    figure = new_figure(13.0 if effective is not None or image is not None else 8.0, 6.0)
    if effective is None and image is None:
        axes = figure.add_subplot()
    else:
        axes, frame = figure.subplots(1, 2, width_ratios=(1.25, 1))
        _draw_frames(figure, frame, field, effective, image)
    _draw_growth(axes, field, object_sizes)
    figure.suptitle(title, fontsize=15)
    save_figure(figure, path)


def _draw_growth(axes: Any, field: ReceptiveField, object_sizes: Sequence[float]) -> None:
    """Sizes by depth: of several layers at one depth the widest, as a branch may be shorter."""
    height: dict[int, float] = {}
    width: dict[int, float] = {}
    stride: dict[int, float] = {}
    for layer in field.layers:
        if layer.size is not None and layer.map_size is not None:
            height[layer.depth] = max(height.get(layer.depth, 0), layer.size[0])
            width[layer.depth] = max(width.get(layer.depth, 0), layer.size[1])
            stride[layer.depth] = max(layer.stride or (0.0, 0.0))
    depth = list(height)
    if list(height.values()) == list(width.values()):
        axes.plot(depth, list(height.values()), color=_THEORY, marker=".", label="field, in theory")
    else:
        axes.plot(depth, list(height.values()), color=_THEORY, marker=".", label="field's height, in theory")
        axes.plot(depth, list(width.values()), color="tab:purple", marker=".", label="field's width, in theory")
    axes.plot(depth, list(stride.values()), color="tab:blue", drawstyle="steps-post", label="stride")
    axes.axhline(max(field.image_size), color="0.6", linestyle=":", label=f"image, {max(field.image_size)} pixels")
    for index, size in enumerate(sorted(object_sizes)):
        axes.axhline(size, color="tab:green", linewidth=1, label=None if index else "objects")
    first = next((layer.depth for layer in field.layers if any(layer.whole)), None)
    if first is not None:
        axes.axvline(first, color="0.3", linestyle="--", label=f"whole image from {field.global_from} on")
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("layers with weights", fontsize=13)
    axes.set_ylabel("pixels", fontsize=13)
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=10, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3)


def _draw_frames(
    figure: Any, axes: Any, field: ReceptiveField, effective: EffectiveField | None, image: Tensor | None
) -> None:
    if image is not None:
        axes.imshow(image.permute(1, 2, 0).numpy())
        sides: tuple[int, int] = (image.shape[1], image.shape[2])
    else:
        counts = effective.map if effective is not None else None
        if counts is None:
            return
        shown = axes.imshow((counts / counts.max()).sqrt().numpy(), cmap="magma", vmin=0, vmax=1)
        figure.colorbar(shown, ax=axes, label="how much a pixel counts (square root)", shrink=0.8)
        sides = (counts.shape[0], counts.shape[1])
    centre = effective.centre if effective is not None else ((sides[0] - 1) / 2, (sides[1] - 1) / 2)
    seen = field.size if effective is None or effective.theoretical is None else effective.theoretical
    frames: list[tuple[str, str, tuple[float, float]]] = [("in theory", _THEORY, seen)]
    if effective is not None:
        frames += [("95 %", _NEARLY_ALL, effective.widths(0.95)), ("68 %", _MOST, effective.widths(0.68))]
    for text, color, (height, width) in frames:
        corner = (centre[1] - width / 2, centre[0] - height / 2)
        label = f"{text}: {height:.0f} x {width:.0f}"
        axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=color, linewidth=2, label=label))
    axes.set_xlim(-0.5, sides[1] - 0.5)
    axes.set_ylim(sides[0] - 0.5, -0.5)
    axes.set_xlabel("pixels", fontsize=13)
    axes.legend(fontsize=10, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3)
