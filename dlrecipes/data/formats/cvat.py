"""CVAT's own XML, "CVAT for images 1.1": one file with all images, their subset, boxes and polygons.

Format: https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/. Corners are in pixels. Rectangles are read,
and the boxes around polygons; what else marks a place is refused.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

from dlrecipes.data.formats.layout import files_with_suffix, in_split_order, parse_numbers, split_name
from dlrecipes.data.formats.named_images import named_image_paths
from dlrecipes.data.formats.records import DetectionRecord, DetectionSource, make_record
from dlrecipes.errors import UserError

__all__ = ["find_cvat", "is_cvat", "read_cvat"]

_REMEDY = "export the data as COCO, YOLO or Pascal VOC"


def is_cvat(path: Path) -> bool:
    """By the outermost element, which Pascal VOC calls ``annotation``."""
    with path.open("rb") as file:
        return b"<annotations>" in file.read(4096)


def find_cvat(root: Path) -> Path | None:
    """CVAT's file in a folder, as a rule ``annotations.xml``; None if there is none.

    Raises:
        UserError: if there are two.
    """
    found = [path for path in files_with_suffix(root, ".xml")[:2] if is_cvat(path)]  # Pascal VOC has thousands
    if len(found) == 2:
        raise UserError(f"{root} holds {found[0].name} and {found[1].name}, both of CVAT; give one file as the path.")
    return found[0] if found else None


def read_cvat(file: Path) -> DetectionSource:
    """Parse CVAT's XML.

    Splits are the subsets whose names speak of one (``Train``, ``Validation``); one that does not keeps its name, and a
    file with a single subset of that kind is not split. Classes are the labels that are declared, in that order, and
    numbered from 1.

    Args:
        file: from `find_cvat`.

    Raises:
        UserError: for a file that cannot be parsed or is of a video, a shape that is no upright rectangle or polygon,
            or a split none of whose images is found.
    """
    try:
        tree = ET.parse(file).getroot()
    except ET.ParseError as error:
        line, column = error.position
        raise UserError(f"{file}: the XML is invalid at line {line}, column {column + 1}; export it again.") from error
    images = tree.findall("image")
    if not images or tree.find("track") is not None:
        what = "tracks of a video" if tree.find("track") is not None else "no image"
        raise UserError(f"{file} holds {what}; {_REMEDY}, or as 'CVAT for images 1.1'.")
    labels = [label for label in tree.findall("meta/*/labels/label") if label.findtext("type") != "tag"]
    declared = [(label.findtext("name") or "").strip() for label in labels]
    drawn = sorted({shape.get("label", "") for image in images for shape in image if shape.tag in ("box", "polygon")})
    classes = tuple(dict.fromkeys([*declared, *drawn]))
    polygons = sum(len(image.findall("polygon")) for image in images)
    notes = [f"polygons, of which the box around each is used: {polygons}"] if polygons else []
    splits = {s: _records(file, s, part, classes, notes) for s, part in _by_split(images).items()}
    if "all" in splits:
        notes.append("no split is given")
    numbers = tuple(range(1, len(classes) + 1))
    return DetectionSource(str(file.parent), "cvat", in_split_order(splits), classes, numbers, tuple(notes))


def _by_split(images: list[ET.Element]) -> dict[str, list[ET.Element]]:
    splits: dict[str, list[ET.Element]] = defaultdict(list)
    for image in images:
        subset = image.get("subset", "default")
        splits[split_name(subset) or subset].append(image)
    only = next(iter(splits))
    return {"all": images} if len(splits) == 1 and split_name(only) is None else dict(splits)


def _records(
    file: Path, split: str, images: list[ET.Element], classes: tuple[str, ...], notes: list[str]
) -> list[DetectionRecord]:
    names = [image.get("name", "").replace("\\", "/") for image in images]
    paths = named_image_paths(file, file.parent, split, names, notes)
    records = []
    for number, (image, path) in enumerate(zip(images, paths, strict=True)):
        where = f"{file}, image {image.get('name')!r}"
        shapes = [shape for shape in image if shape.tag != "tag"]  # a tag is a label of the whole image
        size = parse_numbers((image.get("width", 0), image.get("height", 0)), where)
        records.append(
            make_record(
                str(path),
                (int(size[0]), int(size[1])),
                [_corners(shape, where) for shape in shapes],
                [classes.index(shape.get("label", "")) for shape in shapes],
                number,
                annotation=str(file),
                object_ids=tuple(f"image {image.get('name')!r}, shape {i + 1}" for i in range(len(shapes))),
            )
        )
    return records


def _corners(shape: ET.Element, where: str) -> list[float]:
    if shape.tag not in ("box", "polygon") or float(shape.get("rotation", 0)):
        kind = "a rotated box" if shape.tag == "box" else f"a {shape.tag}"
        raise UserError(f"{where}: {kind}; only upright boxes and polygons are read: change it, or {_REMEDY}.")
    if shape.tag == "box":
        return parse_numbers((shape.get(key) for key in ("xtl", "ytl", "xbr", "ybr")), where)
    points = [parse_numbers(point.split(","), where) for point in shape.get("points", "").split(";")]
    xs, ys = zip(*points, strict=True)
    return [min(xs), min(ys), max(xs), max(ys)]
