"""How many near copies of real photographs does the audit find, and how many pairs does it name that are none?

    DLRECIPES_DATA=../shared/data python benchmarks/near_copies.py          # a minute on a core

All photographs of BCCD and of the two splits of tiny COCO. For each change there are two splits: the photographs as
they are, and the same ones changed; a copy is found if the audit's `find_near_copies` pairs it with its own original.
Then the photographs are compared with one another: a pair is false unless it is in ``TRUE_PAIRS``, which were looked
at.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from records import DATA, processor
from rich.console import Console
from rich.table import Table

from dlrecipes.data.audit.near_duplicates import find_near_copies, fingerprint

FOLDERS = ("bccd/JPEGImages", "tiny_coco/train2017", "tiny_coco/val2017")
TRUE_PAIRS = {("BloodImage_00037", "BloodImage_00038")}  # one field of view in two focal planes

Pixels = NDArray[np.uint8]


def jpeg(pixels: Pixels, quality: int) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=quality)
    return np.array(Image.open(file))


def crop(pixels: Pixels, share: float) -> Pixels:
    """Without a border of this share of the sides."""
    height, width = pixels.shape[:2]
    y, x = max(1, round(share * height)), max(1, round(share * width))
    return np.ascontiguousarray(pixels[y:-y, x:-x])


CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "JPEG, quality 40": lambda p: jpeg(p, 40),
    "JPEG, quality 20": lambda p: jpeg(p, 20),
    "half as large": lambda p: np.asarray(cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8),
    "224 x 224": lambda p: np.asarray(cv2.resize(p, (224, 224), interpolation=cv2.INTER_AREA), np.uint8),
    "1 % cropped on each side": lambda p: crop(p, 0.01),
    "3 % cropped on each side": lambda p: crop(p, 0.03),
    "brightness x 0.6": lambda p: (p * 0.6).astype(np.uint8),
    "brightness x 1.2": lambda p: np.clip(p * 1.2, 0, 255).astype(np.uint8),
}


def load(file: Path) -> Pixels:
    with Image.open(file) as image:
        return np.array(image.convert("RGB"))


def facts(files: list[Path], change: Callable[[Pixels], Pixels]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Fingerprints [n] and sizes [n, 2] of the changed photographs."""
    prints, sizes = np.zeros(len(files), np.uint64), np.zeros((len(files), 2), np.int64)
    for row, file in enumerate(files):
        pixels = change(load(file))
        prints[row], sizes[row] = fingerprint(pixels), pixels.shape[:2]
    return prints, sizes


def copies(files: list[Path], change: Callable[[Pixels], Pixels]) -> set[tuple[int, int]]:
    """(changed, original) that the audit pairs, as positions in ``files``."""
    n = len(files)
    (prints, sizes), (changed, changed_sizes) = facts(files, lambda p: p), facts(files, change)
    found = find_near_copies(
        {"train": np.arange(n), "test": np.arange(n, 2 * n)},
        np.concatenate([prints, changed]),
        list(range(2 * n)),  # no two are equal
        np.concatenate([sizes, changed_sizes]),
        lambda row: load(files[row]) if row < n else change(load(files[row - n])),
        workers=1,
        show_progress=False,
    )
    return {(row - n, other) for copies in found for row, other in copies.pairs}


def strangers(files: list[Path]) -> list[tuple[str, str]]:
    """Pairs of different photographs that the audit would call near copies, each once."""
    every = np.arange(len(files))
    prints, sizes = facts(files, lambda p: p)
    found = find_near_copies(
        {"train": every, "test": every}, prints, list(range(len(files))), sizes, lambda row: load(files[row]),
        workers=1, show_progress=False,
    )  # fmt: skip
    pairs = {(min(pair), max(pair)) for copies in found for pair in copies.pairs}
    return sorted((files[a].stem, files[b].stem) for a, b in pairs)


def show(found: dict[str, Any]) -> None:
    table = Table(title=f"{found['photographs']} photographs")
    for column in ("change", "found", "share", "paired with another one"):
        table.add_column(column, justify="left" if column == "change" else "right")
    for name, row in found["changes"].items():
        table.add_row(name, str(row["found"]), f"{row['found'] / found['photographs']:.1%}", str(row["others"]))
    Console().print(table)
    named = ", ".join(" and ".join(pair) for pair in found["pairs"]) or "none"
    print(f"{found['compared']} pairs of different photographs: named {named}; false: {len(found['false'])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with bccd and tiny_coco")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    files = [file for folder in FOLDERS for file in sorted((options.data / folder).glob("*.jpg"))]
    if not files:
        parser.error(f"no photographs in {options.data}: set DLRECIPES_DATA")
    found: dict[str, Any] = {
        "measured": datetime.date.today().isoformat(),
        "cpu": processor(),
        "opencv": cv2.__version__,
        "photographs": len(files),
        "compared": len(files) * (len(files) - 1) // 2,
        "changes": {},
    }
    for name, change in CHANGES.items():
        pairs = copies(files, change)
        right = sum(a == b for a, b in pairs)
        found["changes"][name] = {"found": right, "others": len(pairs) - right}
    found["pairs"] = strangers(files)
    found["false"] = [pair for pair in found["pairs"] if pair not in TRUE_PAIRS]
    show(found)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
