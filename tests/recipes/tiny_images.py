"""Small pictures with a class, with tags and with a number each, and small networks for them."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("bar", "disc", "ring")
SIDE = 32

TINY_EFFICIENTNET = """
trainer: {max_epochs: 2, log_every_n_steps: 1}
model:
  lr: 1.0e-2
  model: {class_path: dlrecipes.models.TimmClassifier, init_args: {name: test_efficientnet}}
data: {batch_size: 6, num_workers: 0}
wandb: "off"
"""

TINY_MIXER = """
trainer: {max_epochs: 1, log_every_n_steps: 1}
model:
  lr: 1.0e-2
  model: {patch_size: 16, blocks: 1, dim: 16}
data: {batch_size: 6, num_workers: 0}
wandb: "off"
"""


def write_photos(folder: Path, images: dict[str, int]) -> Path:
    """A folder for each split, and in it one for each class.

    Args:
        folder: to make.
        images: number of images of each class by split.
    """
    rng = np.random.default_rng(0)
    for split, count in images.items():
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                canvas = Image.fromarray(rng.integers(0, 90, (SIDE, SIDE, 3), np.uint8))
                _draw(name, ImageDraw.Draw(canvas), *(int(v) for v in rng.integers(2, 12, 2)))
                canvas.save(folder / split / name / f"{split}_{name}_{index}.png")
    return folder


def write_tables(folder: Path) -> None:
    """Beside it: ``sizes.csv``, a number around 1000 of each image, and ``tags.csv``, two columns of 0 or 1."""
    files = sorted(folder.glob("*/*/*.png"))
    rng = np.random.default_rng(1)
    heads = {"sizes": ("image", "split", "size"), "tags": ("image", "split", "filled", "round")}
    for name, head in heads.items():
        with folder.with_name(f"{name}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(head)
            for path in files:
                split, shape, _ = path.relative_to(folder).parts
                size = [round(1000 + 10 * CLASSES.index(shape) + rng.random(), 2)]
                tags = [int(shape != "ring"), int(shape != "bar")]
                table.writerow([path.relative_to(folder.parent), split, *(size if name == "sizes" else tags)])


def _draw(name: str, draw: ImageDraw.ImageDraw, x: int, y: int) -> None:
    if name == "bar":
        draw.rectangle((x, y, x + 16, y + 5), fill=(250, 240, 40))
    elif name == "disc":
        draw.ellipse((x, y, x + 16, y + 16), fill=(40, 240, 250))
    else:
        draw.ellipse((x, y, x + 16, y + 16), outline=(250, 40, 250), width=3)
