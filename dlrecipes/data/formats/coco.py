"""COCO JSON: the official layout, a bare file beside its images, Roboflow's one file per split.

Format: https://cocodataset.org/#format-data. A box is (x, y, width, height) in pixels, from the top left corner.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlrecipes.data.formats.label_studio import is_label_studio
from dlrecipes.data.formats.layout import (
    check_class_names,
    files_with_suffix,
    in_split_order,
    parse_numbers,
    shown,
    split_folders,
    split_name,
)
from dlrecipes.data.formats.named_images import named_image_paths
from dlrecipes.data.formats.records import DetectionRecord, DetectionSource, Finding, make_record
from dlrecipes.errors import UserError
from dlrecipes.functional.words import counted

__all__ = ["find_coco", "read_coco"]

# COCO ships these beside instances_*.json; they hold no boxes of their own.
_OTHER_TASKS = ("captions_", "person_keypoints_", "image_info_", "panoptic_", "stuff_")
_KEYS = ("images", "annotations", "categories")
_CLASSES_ALONE = "notes.json"  # Label Studio writes the classes into it, beside YOLO's text files


@dataclass(frozen=True)
class _CocoFile:
    path: Path
    name: str
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: dict[int, dict[str, Any]]


def find_coco(root: Path) -> dict[str, Path]:
    """COCO files of a folder by split; ``{"all": file}`` for a single one that names no split; empty if there is none.

    Raises:
        UserError: if two files speak of the same split.
    """
    places = [root / "annotations", root, *split_folders(root).values()]
    found = [p for folder in places for p in files_with_suffix(folder, ".json") if _looks_like_coco(p)]
    instances = [p for p in found if p.name.startswith("instances_")]
    found = instances or found
    if len(found) == 1:
        return {_split_of(found[0], root) or "all": found[0]}
    splits: dict[str, Path] = {}
    for path in found:
        split = _split_of(path, root) or path.stem
        if split in splits:
            raise UserError(
                f"{root}: {shown(splits[split], root)} and {shown(path, root)} both describe the split {split!r}; "
                "remove one, or give one file as the path."
            )
        splits[split] = path
    return splits


def _split_of(path: Path, root: Path) -> str | None:
    return split_name(path.stem) or (split_name(path.parent.name) if path.parent != root else None)


def _looks_like_coco(path: Path) -> bool:
    """By its name or its first keys, so that a file that is cut off is still recognised and reported as such."""
    if path.name.startswith(_OTHER_TASKS) or path.name == _CLASSES_ALONE:
        return False
    if path.parent.name == "annotations" or path.name.endswith(".coco.json"):
        return True
    if is_label_studio(path):
        return False
    with path.open("rb") as file:
        head = file.read(4096)
    return any(f'"{key}"'.encode() in head for key in _KEYS)


def read_coco(root: Path, files: dict[str, Path]) -> DetectionSource:
    """Parse COCO files.

    All declared categories become classes, also unused ones, in the order of their ids; the ids are kept in
    ``category_ids``. Roboflow's placeholder (id 0, the super-category of the others, never used) is left out.

    Args:
        root: data set folder.
        files: JSON file by split, from `find_coco`.

    Raises:
        UserError: for a file that cannot be parsed, an annotation of an unknown image or category, a category whose id
            or name means something else in another split, or a split none of whose images is found.
    """
    parsed = {split: _load(path, root) for split, path in in_split_order(files).items()}
    categories, notes = _merge_categories(list(parsed.values()))
    position = {category: label for label, category in enumerate(categories)}
    problems: list[Finding] = []
    splits = {split: _records(file, root, split, position, problems, notes) for split, file in parsed.items()}
    if "all" in splits:
        notes.append("no split is given")
    return DetectionSource(
        root=str(root),
        format="coco",
        splits=splits,
        classes=tuple(categories.values()),
        category_ids=tuple(categories),
        notes=tuple(notes),
        problems=tuple(problems),
    )


def _load(path: Path, root: Path) -> _CocoFile:
    name = shown(path, root)
    try:
        content = json.loads(path.read_bytes())  # in UTF-8 or 16, with or without a mark
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: the JSON breaks off or is invalid at line {error.lineno}, column {error.colno} ({error.msg}); "
            "copy or export the file again."
        ) from error
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); copy or export the file again.") from error
    for key in _KEYS:
        value = content.get(key) if isinstance(content, dict) else None
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise UserError(
                f"{path}: COCO JSON needs a list of objects under {key!r}; export it as COCO object detection."
            )
    if not content["images"]:
        raise UserError(f"{path}: 'images' is empty; export the file with its images.")
    categories: dict[int, dict[str, Any]] = {}
    for entry in content["categories"]:
        number = _id(entry.get("id"))
        if not isinstance(number, int) or not isinstance(entry.get("name"), str):
            raise UserError(f"{path}: category {entry!r} needs an integer 'id' and a 'name'.")
        if number in categories and categories[number]["name"] != entry["name"]:
            raise UserError(f"{path}: category id {number} is declared twice, with different names; keep one.")
        categories[number] = entry
    images = [image | {"id": _id(image.get("id"))} for image in content["images"]]
    annotations = [a | {key: _id(a.get(key)) for key in ("image_id", "category_id")} for a in content["annotations"]]
    return _CocoFile(path, name, images, annotations, categories)


def _id(value: object) -> Any:
    """A number where it was written as one, as text or with a decimal point; otherwise as it is, lists as text."""
    if isinstance(value, list | dict):
        return str(value)
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _merge_categories(files: list[_CocoFile]) -> tuple[dict[int, str], list[str]]:
    """Union of the categories over the files: name by id, sorted by id."""
    notes = []
    placeholder = _placeholder(files)
    owner: dict[int, tuple[str, str]] = {}
    for file in files:
        for number, entry in file.categories.items():
            if number == placeholder:
                continue
            name, first = owner.setdefault(number, (entry["name"], file.name))
            if name != entry["name"]:
                raise UserError(
                    f"Class names differ between splits: category id {number} is {name!r} in {first} "
                    f"and {entry['name']!r} in {file.name}; number the categories alike in all files."
                )
    merged = {number: owner[number][0] for number in sorted(owner)}
    if placeholder is not None:
        notes.append(f"category 0 is an unused super-category ({files[0].categories[0]['name']!r}): left out")
    ids: dict[str, int] = {}
    for number, name in merged.items():
        if ids.setdefault(name, number) != number:
            raise UserError(
                f"Class {name!r} has category id {ids[name]} in {owner[ids[name]][1]} and {number} in "
                f"{owner[number][1]}; give each class one id in all files."
            )
    declared = {f.name: {e["name"] for n, e in f.categories.items() if n != placeholder} for f in files}
    check_class_names(declared)
    for name_of_file, names in declared.items():
        if missing := [n for n in merged.values() if n not in names]:
            notes.append(f"{name_of_file} does not declare {', '.join(missing[:5])}: classes are the union over splits")
    if not merged:
        raise UserError(f"{files[0].path}: 'categories' is empty; export the file with its categories.")
    return merged, notes


def _placeholder(files: list[_CocoFile]) -> int | None:
    """0 if category 0 is what Roboflow adds: the parent of the others, which no annotation uses."""
    for file in files:
        entry = file.categories.get(0)
        others = [c for number, c in file.categories.items() if number != 0]
        if entry is None or not any(c.get("supercategory") == entry["name"] for c in others):
            return None
        if any(a.get("category_id") == 0 for a in file.annotations):
            return None
    return 0


def _records(
    file: _CocoFile, root: Path, split: str, position: dict[int, int], problems: list[Finding], notes: list[str]
) -> list[DetectionRecord]:
    by_image = _annotations_by_image(file, position, problems, notes)
    names = [_file_name(file, image) for image in file.images]
    paths = named_image_paths(file.path, root, split, names, notes)
    records = []
    for running, (image, path) in enumerate(zip(file.images, paths, strict=True)):
        found = by_image.get(image["id"], [])
        boxes = [_corners(a, file.name) for a in found]
        own_areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in boxes]
        areas = [_area(a.get("area"), own) for a, own in zip(found, own_areas, strict=True)]
        records.append(
            make_record(
                str(path),
                (_side(image, "width", file), _side(image, "height", file)),
                boxes,
                [position[a["category_id"]] for a in found],
                image["id"] if isinstance(image["id"], int) else running,
                areas=areas,
                iscrowd=[bool(a.get("iscrowd", 0)) for a in found],
                annotation=str(file.path),
                object_ids=tuple(f"annotation {a.get('id', '?')}" for a in found),
            )
        )
    return records


def _annotations_by_image(
    file: _CocoFile, position: dict[int, int], problems: list[Finding], notes: list[str]
) -> dict[Any, list[dict[str, Any]]]:
    known = set()
    for image in file.images:
        if image.get("id") is None or image["id"] in known:
            raise UserError(f"{file.path}: image id {image.get('id')!r} is missing or used twice; ids must be unique.")
        known.add(image["id"])
    grouped: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    polygons = 0
    for entry in file.annotations:
        name = f"annotation {entry.get('id', '?')}"
        if entry.get("image_id") not in known:
            raise UserError(
                f"{file.path}: {name} belongs to image id {entry.get('image_id')!r}, which is not under 'images'; "
                "add the image or remove the annotation."
            )
        if entry.get("category_id") not in position:
            raise UserError(
                f"{file.path}: {name} has the unknown category id {entry.get('category_id')!r}; "
                "add it to 'categories' or remove the annotation."
            )
        if not entry.get("bbox") and (around := _around(entry.get("segmentation"))) is not None:
            polygons += 1
            entry["bbox"] = around  # of this reader's own copy
        if not entry.get("bbox"):
            problems.append(Finding("annotation without a box (dropped)", f"{file.name}, {name}"))
            continue
        grouped[entry["image_id"]].append(entry)
    if file.annotations and not grouped:
        raise UserError(
            f"{file.path}: none of its {counted(len(file.annotations), 'annotation')} has a 'bbox', and masks (RLE) "
            "are not read; export it with boxes, for example by pycocotools.mask.toBbox."
        )
    if polygons:
        notes.append(f"{file.name}: polygons without a box, of which the box around each is used: {polygons}")
    return grouped


def _around(segmentation: object) -> list[float] | None:
    """The box around polygons, as COCO writes boxes; None where there are none."""
    if not isinstance(segmentation, list):
        return None
    polygons = [polygon for polygon in segmentation if isinstance(polygon, list)]
    numbers = [v for polygon in polygons for v in polygon]
    if len(numbers) < 6 or any(not isinstance(v, int | float) for v in numbers):
        return None
    xs = [v for polygon in polygons for v in polygon[0::2]]
    ys = [v for polygon in polygons for v in polygon[1::2]]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _side(image: dict[str, Any], key: str, file: _CocoFile) -> int:
    """Pixels of an image as annotated; 0 where that is not said."""
    try:
        return int(image.get(key) or 0)
    except (TypeError, ValueError, OverflowError):
        raise UserError(
            f"{file.path}: image id {image.get('id')!r} has the {key} {image.get(key)!r}; correct it, or leave it out."
        ) from None


def _corners(entry: dict[str, Any], file: str) -> tuple[float, float, float, float]:
    where = f"{file}, annotation {entry.get('id', '?')}"
    box = entry["bbox"]
    if not isinstance(box, list) or len(box) != 4:
        raise UserError(f"{where}: 'bbox' is {box!r}; it needs the four numbers [x, y, width, height].")
    x, y, width, height = parse_numbers(box, where)
    return x, y, x + width, y + height


def _area(value: object, own: float) -> float:
    """COCO's ``area`` (of the mask, where there is one); exporters that know none write 0 or leave it out."""
    return float(value) if isinstance(value, int | float) and 0 < value < float("inf") else max(own, 0.0)


def _file_name(file: _CocoFile, image: dict[str, Any]) -> str:
    name = image.get("file_name") or str(image.get("coco_url", "")).rpartition("/")[2]
    if not isinstance(name, str) or not name:
        raise UserError(f"{file.path}: image id {image.get('id')!r} has no 'file_name'.")
    return name.replace("\\", "/")
