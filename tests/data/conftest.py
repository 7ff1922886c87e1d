"""Tiny detection data sets, written in every layout that dlrecipes reads."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

CLASSES = ("bird", "cat", "dog")
CATEGORY_IDS = (3, 7, 9)


@dataclass
class Item:
    """One image: what is written, and what must be read."""

    stem: str
    split: str
    size: tuple[int, int]
    boxes: list[list[float]]
    names: list[str]
    seed: int

    @property
    def number(self) -> int:
        return int(self.stem.split()[1])


@dataclass
class Tiny:
    """Eight images with up to three boxes each; image 2 is empty. Boxes are multiples of 1/4, exact in every format."""

    root: Path
    items: list[Item] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        for i in range(8):
            width, height = 64, (32, 64)[i % 2]
            boxes = []
            for _ in range(0 if i == 2 else 1 + i % 3):
                x, y = rng.integers(0, width * 2, 1)[0] / 4, rng.integers(0, height * 2, 1)[0] / 4
                boxes.append([x, y, x + rng.integers(16, width * 2) / 4, y + rng.integers(16, height * 2) / 4])
            names = [CLASSES[(i + k) % 3] for k in range(len(boxes))]
            split = "train" if i < 5 else "val" if i < 7 else "test"
            self.items.append(Item(f"im {i}", split, (width, height), boxes, names, i))

    def of(self, split: str) -> list[Item]:
        return [i for i in self.items if split in ("all", i.split)]

    def write_images(self, folder: Path, items: Iterable[Item], suffix: str = ".png") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for item in items:
            write_image(folder / f"{item.stem}{suffix}", item.size, item.seed)

    def write_text(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text, encoding="utf-8")

    def coco_json(self, items: Iterable[Item], **changes: Any) -> str:
        """COCO JSON; a keyword replaces the entry of that name, or is called with it."""
        items = list(items)
        images = [
            {"id": 100 + i.number, "file_name": f"{i.stem}.png", "width": i.size[0], "height": i.size[1]} for i in items
        ]
        annotations = [
            {
                "id": 1000 + 10 * item.number + k,
                "image_id": 100 + item.number,
                "category_id": CATEGORY_IDS[CLASSES.index(name)],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": 5.5,
                "iscrowd": 0,
            }
            for item in items
            for k, ((x1, y1, x2, y2), name) in enumerate(zip(item.boxes, item.names, strict=True))
        ]
        categories = [
            {"id": n, "name": c, "supercategory": "animal"} for n, c in zip(CATEGORY_IDS, CLASSES, strict=True)
        ]
        content: dict[str, Any] = {"images": images, "annotations": annotations, "categories": categories}
        for key, change in changes.items():
            content[key] = change(content[key]) if callable(change) else change
        return json.dumps(content)

    def voc_xml(self, item: Item, **changes: Any) -> str:
        width, height = changes.get("size", item.size)
        objects = "".join(
            f"<object><name>{n}</name><difficult>0</difficult><bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin>"
            f"<xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
            for b, n in zip(item.boxes, item.names, strict=True)
        )
        return (
            f"<annotation><filename>{item.stem}.png</filename>"
            f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>{objects}</annotation>"
        )

    def yolo_text(self, item: Item) -> str:
        width, height = item.size
        lines = []
        for (x1, y1, x2, y2), name in zip(item.boxes, item.names, strict=True):
            values = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
            lines.append(f"{CLASSES.index(name)} " + " ".join(map(repr, map(float, values))))
        return "\n".join(lines) + "\n"

    def write_coco(self) -> Path:
        """The official layout."""
        for split in ("train", "val", "test"):
            self.write_images(self.root / f"{split}2017", self.of(split))
            self.write_text(f"annotations/instances_{split}2017.json", self.coco_json(self.of(split)))
        return self.root

    def write_voc(self) -> Path:
        """The official layout."""
        self.write_images(self.root / "JPEGImages", self.items)
        for item in self.items:
            self.write_text(f"Annotations/{item.stem.replace(' ', '_')}.xml", self.voc_xml(item))
        for split in ("train", "val", "test"):
            lines = "".join(f"{i.stem.replace(' ', '_')}\n" for i in self.of(split))
            self.write_text(f"ImageSets/Main/{split}.txt", lines)
        return self.root

    def write_yolo(self) -> Path:
        """``images/train`` and ``labels/train``; empty images have no label file."""
        for split in ("train", "val", "test"):
            self.write_images(self.root / "images" / split, self.of(split))
            for item in self.of(split):
                if item.boxes:
                    self.write_text(f"labels/{split}/{item.stem}.txt", self.yolo_text(item))
        content = {"train": "images/train", "val": "images/val", "test": "images/test", "names": list(CLASSES)}
        self.write_text("data.yaml", yaml.safe_dump(content))
        return self.root

    def csv_text(self, items: Iterable[Item], header: str = "image,x1,y1,x2,y2,label", separator: str = ",") -> str:
        lines = [header.replace(",", separator)] if header else []
        for item in items:
            rows = [[*b, n] for b, n in zip(item.boxes, item.names, strict=True)] or [[""] * 5]
            lines += [separator.join(map(str, (f"{item.stem}.png", *row))) for row in rows]
        return "\n".join(lines) + "\n"

    def write_csv(self) -> Path:
        """One file a split, images in ``images/``."""
        self.write_images(self.root / "images", self.items)
        for split in ("train", "val", "test"):
            self.write_text(f"{split}.csv", self.csv_text(self.of(split)))
        return self.root

    def write(self, layout: str) -> Path:
        return {"coco": self.write_coco, "voc": self.write_voc, "yolo": self.write_yolo, "csv": self.write_csv}[
            layout
        ]()

    def check(self, source: Any, splits: Iterable[str] = ("train", "val", "test"), category_ids: Any = None) -> None:
        """The parsed data set holds exactly these items, in these splits."""
        assert set(source.splits) == set(splits)
        assert source.classes == CLASSES
        if category_ids is not None:
            assert source.category_ids == category_ids
        for split in splits:
            records = {Path(r.path).stem: r for r in source.splits[split]}
            assert len(records) == len(source.splits[split]) == len(self.of(split))
            for item in self.of(split):
                record = records[item.stem]
                assert Path(record.path).is_file()
                # Until the audit has decoded the picture.
                unstated = source.format in ("csv", "label-studio") and record.width == 0
                assert unstated or (record.width, record.height) == item.size
                assert [source.classes[k] for k in record.labels] == item.names
                np.testing.assert_allclose(record.boxes, np.reshape(item.boxes, (-1, 4)), rtol=0, atol=1e-9)
                assert record.boxes.dtype == np.float64
                assert record.labels.dtype == np.int64
                assert record.iscrowd.dtype == np.bool_
                assert len(record.areas) == len(record.iscrowd) == len(item.boxes)


def write_image(path: Path, size: tuple[int, int], seed: int) -> None:
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLRECIPES_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    root = tmp_path / "data"
    root.mkdir()
    return Tiny(root)


@pytest.fixture
def image_writer() -> Callable[[Path, tuple[int, int], int], None]:
    return write_image


@pytest.fixture
def data_root() -> Path:
    """Real data for development, which is not part of the project."""
    root = os.environ.get("DLRECIPES_DATA")
    if not root:
        pytest.skip("DLRECIPES_DATA is not set: real data is not part of the project")
    return Path(root)
