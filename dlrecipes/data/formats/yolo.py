"""YOLO text labels: ``data.yaml`` with names and folders, one text file an image.

Format: https://docs.ultralytics.com/datasets/detect/. A line is ``class cx cy width height``, relative to the image, or
``class x1 y1 x2 y2 ...``, a polygon, of which the surrounding box is taken. Other tools write no YAML: Label Studio
writes ``classes.txt``, with a name a line, beside ``images/`` and ``labels/``, labelImg beside the images and their
labels, Darknet and CVAT write ``obj.data`` (`dlrecipes.data.formats.darknet`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dlrecipes.data.formats.darknet import find_darknet, located, read_darknet
from dlrecipes.data.formats.layout import (
    IMAGE_SUFFIXES,
    encoding_of,
    files_with_suffix,
    in_split_order,
    parse_numbers,
    read_lines,
    shown,
    split_folders,
    split_name,
)
from dlrecipes.data.formats.records import DetectionRecord, DetectionSource, make_record
from dlrecipes.data.formats.walk import image_files
from dlrecipes.data.loading.decode import image_size
from dlrecipes.errors import UserError
from dlrecipes.functional.words import counted

__all__ = ["find_yolo", "holds_text_labels", "read_yolo"]

# Slightly more than 1 is rounding, and clipped; more than this is pixels.
_LARGEST_RELATIVE = 1.5
_CLASSES = "classes.txt"
_NAMES = re.compile(r"""(\{(.*,)?\s*)?["']?names["']?\s*:""")  # a key of the file's outermost mapping


@dataclass
class _Reader:
    """What is constant while the label files of one data set are read, and what is counted."""

    root: Path
    label: dict[int, int]
    columns: int | None
    unlabelled: int = 0
    polygons: int = 0
    notes: list[str] = field(default_factory=list)


def find_yolo(root: Path) -> Path | None:
    """The file that names the classes; None if none.

    It is a YAML file with ``names``, ``data.yaml`` if there are several, Darknet's ``obj.data``, or ``classes.txt``
    beside ``labels/`` or beside images with labels.
    """
    found = [p for p in files_with_suffix(root, ".yaml", ".yml") if _has_names(p)]
    if found:
        return next((p for p in found if p.stem == "data"), found[0])
    if (darknet := find_darknet(root)) is not None:
        return darknet
    classes = root / _CLASSES
    return classes if classes.is_file() and (holds_text_labels(root) or _labels_beside(root)) else None


def holds_text_labels(root: Path) -> bool:
    """Whether there are ``images/`` and, with text files in it or in folders in it, ``labels/``."""
    labels = root / "labels"
    return (root / "images").is_dir() and labels.is_dir() and next(labels.rglob("*.txt"), None) is not None


def _labels_beside(root: Path) -> bool:
    """Whether an image of the folder has a text file of its own name beside it."""
    return any(image.with_suffix(".txt").is_file() for image in files_with_suffix(root, *IMAGE_SUFFIXES))


def _has_names(path: Path) -> bool:
    lines = path.read_text(encoding=encoding_of(path), errors="replace").splitlines()
    return any(_NAMES.match(line) for line in lines)


def read_yolo(file: Path) -> DetectionSource:
    """Parse a YOLO data set.

    An image without a label file is an image without objects, as the format has it; the notes count them.

    Args:
        file: from `find_yolo`. The ``train``, ``val`` and ``test`` of a YAML file are folders or lists of images,
            relative to its ``path``, or to the file itself where that ``path`` does not exist here; those of a
            ``.data`` file are lists. With ``classes.txt``, ``images/train``, ``images/val`` ... are the splits, or
            ``images``, or the folder itself, is not split.

    Raises:
        UserError: for a YAML or label file that cannot be parsed, a class number without a name, values in pixels, or
            a split without images or without any label file.
    """
    content = _content(file)
    names = _class_names(content, file)
    numbers = sorted(names)
    keypoints = content.get("kpt_shape") is not None
    reader = _Reader(file.parent, {n: i for i, n in enumerate(numbers)}, columns=4 if keypoints else None)
    base = _base_folder(content, file, reader)
    splits: dict[str, list[DetectionRecord]] = {}
    for key, value in content.items():
        split = split_name(str(key)) if isinstance(value, str | list) and key != "names" else None
        split = "all" if key == "all" else split
        if split is None or not value:
            continue
        records = _split_records(reader, base, file, str(key), value if isinstance(value, list) else [value])
        if records:
            splits[split] = records
    if not splits:
        raise UserError(f"{file}: neither 'train' nor 'val' names a folder of images; add them.")
    if "all" in splits:
        reader.notes.append("no split is given")
    if reader.unlabelled:
        reader.notes.append(f"images without a label file, which count as images without objects: {reader.unlabelled}")
    if reader.polygons:
        reader.notes.append(f"polygons, of which the box around each is used: {reader.polygons}")
    return DetectionSource(
        root=str(file.parent),
        format="yolo",
        splits=in_split_order(splits),
        classes=tuple(names[n] for n in numbers),
        category_ids=tuple(numbers),
        notes=tuple(reader.notes),
    )


def _content(file: Path) -> dict[str, Any]:
    """``names`` and the place of each split."""
    if file.name == _CLASSES:
        return _listed(file)
    return read_darknet(file) if file.suffix == ".data" else _load(file)


def _load(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_bytes())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise UserError(f"{file}: the YAML is invalid{place}; correct it.") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: a YOLO data.yaml needs 'names' and 'train'; correct it.")
    return content


def _listed(file: Path) -> dict[str, Any]:
    """What a YAML file would say of ``classes.txt`` and the folders beside it."""
    names = [line.strip() for line in read_lines(file) if line.strip()]
    if not names:
        raise UserError(f"{file} is empty; write the class names into it, one a line.")
    if not (file.parent / "images").is_dir():
        return {"names": names, "all": "."}
    folders = split_folders(file.parent / "images")
    places = {split: f"images/{folder.name}" for split, folder in folders.items()}
    return {"names": names, **(places or {"all": "images"})}


def _class_names(content: dict[str, Any], file: Path) -> dict[int, str]:
    """Class name by number, from a list or a mapping."""
    given = content.get("names")
    if isinstance(given, list):
        given = dict(enumerate(given))
    if not isinstance(given, dict) or not given or not all(str(k).isdecimal() for k in given):
        raise UserError(f"{file}: 'names' is {given!r}; it needs a list of class names or a mapping number: name.")
    names = {int(k): str(v) for k, v in given.items()}
    count = content.get("nc")
    if count is not None and count != len(names):
        raise UserError(
            f"{file}: 'nc' is {count!r} but 'names' has {counted(len(names), 'class', 'classes')}; correct one of them."
        )
    if len(set(names.values())) < len(names):
        twice = next(n for n in names.values() if list(names.values()).count(n) > 1)
        raise UserError(f"{file}: class {twice!r} is named twice under 'names'; give each class one number.")
    return names


def _base_folder(content: dict[str, Any], file: Path, reader: _Reader) -> Path:
    written = content.get("path")
    if not written:
        return file.parent
    base = file.parent / str(written)  # an absolute path replaces the parent
    if base.is_dir():
        return base
    reader.notes.append(f"{file.name}: path {written!r} does not exist here, its own folder is used")
    return file.parent


def _split_records(reader: _Reader, base: Path, file: Path, key: str, places: list[Any]) -> list[DetectionRecord]:
    images = [image for place in places for image in _images(base, file, key, str(place))]
    if not images:
        raise UserError(f"{file}: {key!r} is {places[0]!r}, where no image lies; correct the path.")
    if not any(image.is_file() for image in images):
        raise UserError(
            f"{file}: none of the images of {key!r}, such as {shown(images[0], base)}, is here; "
            "put them beside their text files, or export the data with its images."
        )
    labels = [_label_file(image) for image in images]
    if not any(p.is_file() for p in labels):
        if split_name(key) == "test":
            reader.notes.append(f"{key}: no image has a label file: left out")
            return []
        raise UserError(
            f"{file}: no image under {key!r} has a label file, {images[0].name} for one has no {labels[0]}; "
            "put the text files into labels/ beside images/."
        )
    return [_record(reader, image, text, i) for i, (image, text) in enumerate(zip(images, labels, strict=True))]


def _images(base: Path, file: Path, key: str, place: str) -> list[Path]:
    """Images of a folder (with its sub-folders) or of a text file that lists them."""
    # Roboflow writes ../train/images for what lies in train/images beside the file.
    written = [place, place.replace("\\", "/")]  # as Windows writes it
    options = [p for name in written for p in (base / name, file.parent / name, file.parent / name.lstrip("./"))]
    found = next((p for p in options if p.exists()), None)
    if found is None and file.suffix == ".data":
        found = located(place, file.parent, file.parent.parent)
    if found is None:
        raise UserError(f"{file}: {key!r} is {place!r}, but {options[0]} does not exist; correct the path.")
    if found.is_dir():
        return sorted(map(Path, image_files(found)))
    lines = [line.strip() for line in read_lines(found)]
    return [located(n, base, found.parent) or base / n for n in lines if n]


def _label_file(image: Path) -> Path:
    """``images`` → ``labels``, the last one in the path; beside the image where there is no such folder or file."""
    beside = image.with_suffix(".txt")
    parts = list(beside.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            apart = Path(*parts[:i], "labels", *parts[i + 1 :])
            return apart if apart.is_file() or not beside.is_file() else beside
    return beside


def _record(reader: _Reader, image: Path, text: Path, image_id: int) -> DetectionRecord:
    lines: list[str] = []
    if text.is_file():
        lines = read_lines(text)
    else:
        reader.unlabelled += 1
    found = list(_objects(reader, text, lines))
    # An unreadable image has no size here; the audit refuses or drops it before its boxes are looked at.
    width, height = image_size(image, turned=True) or (0, 0)
    boxes = np.array([box for _, _, box in found]).reshape(-1, 4) * [width, height, width, height]
    return make_record(
        str(image),
        (width, height),
        boxes,
        [label for _, label, _ in found],
        image_id,
        annotation=str(text),
        object_ids=tuple(f"line {number}" for number, _, _ in found),
    )


def _objects(reader: _Reader, text: Path, lines: list[str]) -> Iterator[tuple[int, int, list[float]]]:
    """(line number, label, relative corners) of each line."""
    for number, line in enumerate(lines, start=1):
        if not (fields := line.split()):
            continue
        where = f"{shown(text, reader.root)}, line {number}"
        category, *values = parse_numbers(fields, where)
        if category not in reader.label:
            known = f"{min(reader.label)} to {max(reader.label)}"
            raise UserError(
                f"{where}: unknown category id {fields[0]}, 'names' has {known}; correct the line or add the name."
            )
        values = values[: reader.columns]
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            given = counted(len(fields), "value")
            raise UserError(f"{where}: {given}; it needs 'class cx cy width height', or a polygon.")
        if large := [v for v in values if abs(v) > _LARGEST_RELATIVE]:
            raise UserError(
                f"{where}: {large[0]:g} looks like pixels; YOLO boxes are relative to the image, in 0..1: "
                "divide by its width and height."
            )
        if len(values) > 4:
            reader.polygons += 1
            xs, ys = values[0::2], values[1::2]
            corners = [min(xs), min(ys), max(xs), max(ys)]
        else:
            cx, cy, width, height = values
            corners = [cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2]
        yield number, reader.label[int(category)], corners
