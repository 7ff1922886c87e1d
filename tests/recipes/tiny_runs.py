"""Small data, a small model, and a recipe's command line called in this process."""

import contextlib
import csv
import importlib.util
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[2]
CATEGORIES = {3: "disc", 17: "square"}  # ids with gaps, as COCO's
SIDE = 64

TINY = """
trainer: {max_epochs: 2, log_every_n_steps: 1}
model:
  lr: 1.0e-3
  model:
    backbone: test_resnet
    pretrained_backbone: false
    num_queries: 8
    feature_stride: 16
    hidden_dim: 16
    num_heads: 2
    encoder_layers: 1
    decoder_layers: 1
    feedforward_dim: 16
    queries: two_stage
    cross_attention: in_box
    class_head: sigmoid
    sample_channels: 8
  criterion: {class_loss: focal}
data: {batch_size: 2, num_workers: 0, image_size: 64}
wandb: "off"
"""


@dataclass
class Outcome:
    """What a call of the command line gave."""

    code: int
    out: str
    err: str


def call(main: Callable[[Sequence[str]], int], *argv: object) -> Outcome:
    """Calls a ``main`` in this process, as a shell would."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(word) for word in argv])
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


def load_recipe(name: str) -> ModuleType:
    """A recipe's script as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "recipes" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_refused(outcome: Outcome, message: str) -> None:
    """One sentence with ``message`` in it, and exit code 2."""
    assert outcome.code == 2, outcome.out + outcome.err
    assert outcome.err.startswith("error: ")
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def rows(run: Path) -> list[dict[str, str]]:
    """``metrics.csv`` of a run."""
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def write_coco(folder: Path, images: dict[str, int], empty: int = 0) -> Path:
    """A COCO folder of discs and squares.

    Args:
        folder: to make.
        images: number of images by split.
        empty: so many training images hold no object.
    """
    rng = np.random.default_rng(0)
    (folder / "annotations").mkdir(parents=True)
    for split, count in images.items():
        (folder / split).mkdir()
        content: dict[str, list[dict[str, object]]] = {"images": [], "annotations": []}
        content["categories"] = [{"id": id_, "name": name} for id_, name in CATEGORIES.items()]
        for index in range(count):
            name = f"{split}_{index}.png"
            canvas = Image.fromarray(rng.integers(0, 90, (SIDE, SIDE, 3), np.uint8))
            draw = ImageDraw.Draw(canvas)
            content["images"].append({"id": index + 1, "file_name": name, "width": SIDE, "height": SIDE})
            for number in range(0 if split == "train" and index < empty else 2):
                side = int(rng.integers(12, 24))
                x, y = (int(v) for v in rng.integers(0, SIDE - side, 2))
                shape = draw.ellipse if number == 0 else draw.rectangle
                shape((x, y, x + side - 1, y + side - 1), fill=(250, 250, 40 * number))
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": index + 1,
                        "category_id": list(CATEGORIES)[number],
                        "bbox": [x, y, side, side],
                        "area": side * side,
                        "iscrowd": 0,
                    }
                )
            canvas.save(folder / split / name)
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder
