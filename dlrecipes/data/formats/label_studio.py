"""Label Studio's own JSON: a list of tasks, each an image with the annotations of one or more people.

Format: https://labelstud.io/guide/task_format. A box is (x, y, width, height) in percent of the image, from the top
left corner. Rectangles are read, and the boxes around polygons; what else marks a place is refused.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from dlrecipes.data.formats.layout import (
    IMAGE_SUFFIXES,
    check_class_names,
    files_with_suffix,
    in_split_order,
    parse_numbers,
    shown,
    split_name,
)
from dlrecipes.data.formats.named_images import named_image_paths
from dlrecipes.data.formats.records import DetectionSource, make_record
from dlrecipes.errors import UserError

__all__ = ["find_label_studio", "is_label_studio", "read_label_studio", "refuse_choices"]

_UPLOAD = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before the name of an uploaded file
_PLACES = ("x", "points", "rle")  # one of them is in the value of whatever marks a place


@dataclass(frozen=True)
class _Task:
    """One image; ``boxes`` are corners as shares of it, ``names`` their classes."""

    name: str
    size: tuple[int, int]
    boxes: list[list[float]]
    names: list[str]


def is_label_studio(path: Path) -> bool:
    """Whether a JSON file is a list of tasks, by its beginning."""
    with path.open("rb") as file:
        head = file.read(4096).lstrip()
    return head.startswith(b"[") and b'"annotations"' in head and b'"result"' in head


def refuse_choices(root: Path) -> None:
    """Refuse tasks that label whole images, for which there is a table.

    Raises:
        UserError: naming the file and what to do.
    """
    for path in files_with_suffix(root, ".json"):
        if is_label_studio(path) and b'"choices"' in (text := path.read_bytes()) and b'labels"' not in text:
            raise UserError(
                f"{path}: labels of whole images are not read from Label Studio's JSON; make a CSV with the columns "
                "image and label of it, and train with recipes/train_efficientnet.py."
            )


def find_label_studio(root: Path) -> dict[str, Path]:
    """Its files by split, ``{"all": file}`` for a single one that names none; empty if there is none.

    Raises:
        UserError: if two files speak of the same split.
    """
    found = [path for path in files_with_suffix(root, ".json") if is_label_studio(path)]
    splits: dict[str, Path] = {}
    for path in found:
        split = split_name(path.stem) or ("all" if len(found) == 1 else path.stem)
        if split in splits:
            raise UserError(
                f"{root}: {splits[split].name} and {path.name} both describe the split {split!r}; remove one."
            )
        splits[split] = path
    return splits


def read_label_studio(root: Path, files: dict[str, Path]) -> DetectionSource:
    """Parse tasks. Those that nobody has annotated are left out; of several annotations the last one counts.

    Classes are the names that occur, sorted and numbered from 1: the file does not list those that no box has.

    Args:
        root: data set folder.
        files: JSON file by split, from `find_label_studio`.

    Raises:
        UserError: for a file that cannot be parsed or holds no boxes, a region that is no upright rectangle or
            polygon, or a split none of whose images is found.
    """
    refuse_choices(root)
    files = in_split_order(files)
    notes = ["no split is given"] if "all" in files else []
    parsed = {split: _tasks(path, notes) for split, path in files.items()}
    used = {split: {name for task in tasks for name in task.names} for split, tasks in parsed.items()}
    check_class_names(used)
    classes = sorted(set().union(*used.values()))
    splits = {}
    for split, tasks in parsed.items():
        names = [task.name for task in tasks]
        uploaded = [_UPLOAD.sub("", name.rpartition("/")[2]) for name in names]
        also = [uploaded] if len(set(uploaded)) == len(names) else []
        paths = named_image_paths(files[split], root, split, names, notes, also=also)
        splits[split] = [
            make_record(
                str(path),
                task.size if task.names else (0, 0),
                np.array(task.boxes).reshape(-1, 4) * np.tile(task.size, 2),
                [classes.index(name) for name in task.names],
                number,
                annotation=str(files[split]),
                object_ids=tuple(f"{shown(path, root)}, region {i + 1}" for i in range(len(task.names))),
            )
            for number, (path, task) in enumerate(zip(paths, tasks, strict=True))
        ]
    numbers = tuple(range(1, len(classes) + 1))
    return DetectionSource(str(root), "label-studio", splits, tuple(classes), numbers, tuple(notes))


def _tasks(file: Path, notes: list[str]) -> list[_Task]:
    try:
        content = json.loads(file.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: the JSON breaks off or is invalid ({error}); export the file again.") from error
    if not all(isinstance(task, dict) and isinstance(task.get("data"), dict) for task in content):
        raise UserError(f"{file} is a list, but not of Label Studio's tasks; export it as COCO, YOLO or Pascal VOC.")
    given = [[a for a in task.get("annotations", []) if not a.get("was_cancelled")] for task in content]
    if several := sum(len(annotations) > 1 for annotations in given):
        notes.append(f"{file.name}: tasks with several annotations, of which the last counts: {several}")
    if skipped := sum(not annotations for annotations in given):
        notes.append(f"{file.name}: tasks that nobody has annotated, left out: {skipped}")
    tasks = [_task(file, task, of[-1].get("result", [])) for task, of in zip(content, given, strict=True) if of]
    if polygons := sum("points" in (r.get("value") or {}) for of in given for r in (of or [{}])[-1].get("result", [])):
        notes.append(f"{file.name}: polygons, of which the box around each is used: {polygons}")
    if not any(task.names for task in tasks):
        kinds = Counter(str(r.get("type")) for of in given for a in of for r in a.get("result", []))
        raise UserError(
            f"{file}: no image has a rectangle, but {', '.join(kinds) or 'nothing'}; draw boxes, or export the data as "
            "COCO, YOLO or Pascal VOC."
        )
    return tasks


def _task(file: Path, task: dict[str, Any], regions: list[dict[str, Any]]) -> _Task:
    where = f"{file}, task {task.get('id', '?')}"
    objects = [found for region in regions for found in _objects(region, where)]
    sized = next((r for r in regions if r.get("original_width") and r.get("original_height")), {})
    size = (int(sized.get("original_width", 0)), int(sized.get("original_height", 0)))
    if objects and 0 in size:
        raise UserError(f"{where}: a region has no 'original_width'; export it as COCO, YOLO or Pascal VOC.")
    return _Task(_file_name(task, where), size, [box for box, _ in objects], [name for _, name in objects])


def _objects(region: dict[str, Any], where: str) -> Iterator[tuple[list[float], str]]:
    """Corners and class of a region, once for each of its classes."""
    value = region.get("value")
    if not isinstance(value, dict) or not any(key in value for key in _PLACES):
        return  # a choice, a text, a relation between regions
    names = value.get("rectanglelabels") or value.get("polygonlabels")
    if not names or value.get("rotation") or region.get("image_rotation"):
        kind = "rotated" if names else f"of the type {region.get('type')!r}"
        raise UserError(
            f"{where}: a region is {kind}; only upright rectangles and polygons with a class are read: change it, or "
            "export the boxes as COCO, YOLO or Pascal VOC."
        )
    if "points" in value:
        xs, ys = zip(*(parse_numbers(point, where) for point in value["points"]), strict=True)
        box = [min(xs), min(ys), max(xs), max(ys)]
    else:
        x, y, width, height = parse_numbers((value.get(key) for key in ("x", "y", "width", "height")), where)
        box = [x, y, x + width, y + height]
    yield from (([corner / 100 for corner in box], str(name)) for name in names)


def _file_name(task: dict[str, Any], where: str) -> str:
    """The image's path, out of a URL or the query of Label Studio's own server (``?d=``)."""
    for text in (str(task["data"].get("image", "")), *map(str, task["data"].values())):
        path, _, query = unquote(text).partition("?")
        name = (query.partition("d=")[2] or path).replace("\\", "/")
        if name.lower().endswith(IMAGE_SUFFIXES):
            return name
    raise UserError(f"{where}: 'data' names no image file; export it as COCO, YOLO or Pascal VOC.")
