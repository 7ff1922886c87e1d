"""Images with boxes, drawn large enough to be read, as one picture of many tiles."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import matplotlib
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dlrecipes.runs.pictures.fonts import DEFAULT_FONT, font_for

__all__ = ["DetectionPicture", "class_color", "draw_boxes", "draw_image_tile", "draw_tile", "save_grid", "to_uint8"]

TRUE_COLOR = (0, 200, 83)
_BACKGROUND = (250, 250, 250)
_TEXT = (30, 30, 30)
_GAP = 8
_CAPTION_SIZE = 17
_LABEL_SIZE = 16


def _no_boxes() -> Tensor:
    return torch.zeros(0, 4)


def _no_labels() -> Tensor:
    return torch.zeros(0, dtype=torch.int64)


@dataclass
class DetectionPicture:
    """One image with true and predicted boxes, all on the CPU.

    Attributes:
        image: uint8 [3, H, W], RGB, without padding.
        title: file name or scene.
        true_boxes: float32 [n, 4], (x1, y1, x2, y2) in pixels of ``image``.
        true_labels: int64 [n].
        boxes, labels, scores: predictions, best first; float32 [k, 4] in pixels of ``image``, int64 [k], float32 [k].
    """

    image: Tensor
    title: str
    true_boxes: Tensor = field(default_factory=_no_boxes)
    true_labels: Tensor = field(default_factory=_no_labels)
    boxes: Tensor = field(default_factory=_no_boxes)
    labels: Tensor = field(default_factory=_no_labels)
    scores: Tensor = field(default_factory=lambda: torch.zeros(0))


def class_color(label: int) -> tuple[int, int, int]:
    """A colour for a label; the first ten are well apart (matplotlib's tab10), then tab20, then round again.

    >>> class_color(0)
    (31, 119, 180)
    """
    name, position = ("tab10", label) if label < 10 else ("tab20", label % 20)
    r, g, b, _ = matplotlib.colormaps[name](position, bytes=True)
    return int(r), int(g), int(b)


def draw_boxes(
    image: Image.Image,
    boxes: Tensor,
    texts: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    width: int = 3,
) -> None:
    """Draw boxes with labels into ``image``; a label sits above its box, or inside where there is no room above.

    Args:
        image: RGB, changed in place.
        boxes: float32 [n, 4], (x1, y1, x2, y2) in pixels of ``image``.
        texts: n labels; an empty one is left out.
        colors: n colours.
        width: of the lines, in pixels.
    """
    draw = ImageDraw.Draw(image)
    corners = boxes.tolist()
    for (x1, y1, x2, y2), color in zip(corners, colors, strict=True):
        if x2 > x1 and y2 > y1:
            # a dark rim, so that a line is seen on ground of its own colour
            draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=(0, 0, 0), width=width + 2)
            draw.rectangle((x1, y1, x2, y2), outline=color, width=width)
    # labels last, so that no line of a neighbouring box crosses them
    for (x1, y1, _, _), text, color in zip(corners, texts, colors, strict=True):
        if text:
            font = _font(_LABEL_SIZE, text)
            left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
            w, h = right - left + 6, bottom - top + 4
            x = min(max(x1, 0), image.width - w)
            y = y1 - h if y1 >= h else y1
            draw.rectangle((x, y, x + w, y + h), fill=color)
            ink = (0, 0, 0) if 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 140 else (255, 255, 255)
            draw.text((x + 3 - left, y + 2 - top), text, font=font, fill=ink)


def draw_tile(
    image: Tensor,
    boxes: Tensor,
    texts: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    caption: str,
    side: int,
) -> Image.Image:
    """One image scaled so that its longer side has ``side`` pixels, with boxes, under a line of text.

    Args:
        image: uint8 [3, H, W].
        boxes: float32 [n, 4], (x1, y1, x2, y2) in pixels of ``image``.
        texts, colors: one for each box.
        caption: one line, cut where the tile ends.
        side: of the tile, in pixels.

    Returns:
        RGB, ``side`` wide, as high as the scaled image and the line.
    """
    pixels = _enlarge(image, side)
    draw_boxes(pixels, boxes * (side / max(image.shape[1:])), texts, colors)
    return _under_lines(pixels, [caption], side)


def draw_image_tile(
    image: Tensor, lines: Sequence[str], side: int, frame: tuple[int, int, int] | None = None
) -> Image.Image:
    """One image scaled so that its longer side has ``side`` pixels, under lines of text.

    Args:
        image: uint8 [3, H, W].
        lines: each is cut where the tile ends.
        side: of the tile, in pixels.
        frame: colour of a frame around the image; it covers the image's outermost pixels.

    Returns:
        RGB, ``side`` wide.
    """
    pixels = _enlarge(image, side)
    if frame is not None:
        box = (0, 0, pixels.width - 1, pixels.height - 1)
        ImageDraw.Draw(pixels).rectangle(box, outline=frame, width=max(3, side // 40))
    return _under_lines(pixels, lines, side)


def to_uint8(images: Tensor) -> Tensor:
    """Images in 0..255 of any dtype as uint8; mixing makes them float."""
    return images if images.dtype == torch.uint8 else images.float().round().clamp(0, 255).to(torch.uint8)


def _enlarge(image: Tensor, side: int) -> Image.Image:
    _, height, width = image.shape
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    pixels = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    return pixels.resize(size, Image.Resampling.BICUBIC)


def _under_lines(pixels: Image.Image, lines: Sequence[str], side: int) -> Image.Image:
    line = _CAPTION_SIZE + 8
    top = line * len(lines)
    tile = Image.new("RGB", (side, pixels.height + top), _BACKGROUND)
    tile.paste(pixels, ((side - pixels.width) // 2, top))
    draw = ImageDraw.Draw(tile)
    for row, text in enumerate(lines):
        font = _font(_CAPTION_SIZE, text)
        draw.text((2, 2 + row * line), _cut(draw, font, text, side - 4), font=font, fill=_TEXT)
    return tile


def _cut(draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, text: str, width: int) -> str:
    """The text without as much of its middle as must go; a number at its end stays."""
    cut, keep = text, len(text)
    while cut and draw.textlength(cut, font=font) > width:
        keep -= 1
        tail = keep * 2 // 5
        cut = f"{text[: keep - tail].rstrip()}…{text[len(text) - tail :].lstrip()}" if keep > 2 else ""
    return cut


def save_grid(tiles: Sequence[Image.Image], columns: int, path: str | os.PathLike[str]) -> None:
    """Write tiles of equal width as one PNG, row by row, replacing an older one in one go.

    Args:
        tiles: at least one.
        columns: tiles in a row.
        path: file to write; its folder is made.

    Raises:
        ValueError: no tiles, or ``columns`` below 1.
        OSError: the file cannot be written.
    """
    if not tiles or columns < 1:
        raise ValueError(f"save_grid needs tiles and columns >= 1, got {len(tiles)} tiles and columns={columns}")
    columns = min(columns, len(tiles))
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    heights = [max(tile.height for tile in row) + _GAP for row in rows]
    width = max(tile.width for tile in tiles) + _GAP
    sheet = Image.new("RGB", (columns * width + _GAP, sum(heights) + _GAP), _BACKGROUND)
    y = _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            sheet.paste(tile, (_GAP + column * width, y))
        y += height
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    sheet.save(temporary, format="PNG", compress_level=1)  # a quarter of the time for a fifth more bytes
    os.replace(temporary, target)


def _font(size: int, text: str) -> ImageFont.FreeTypeFont:
    """A font that has the letters of a text, if there is one."""
    other = font_for(text)
    return _load_font(DEFAULT_FONT if other is None else other.fname, size)


@lru_cache
def _load_font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)
