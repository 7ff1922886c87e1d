"""Finding out by itself which format a path holds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from dlrecipes.data.formats.boxes_csv import find_csv, holds_boxes, read_csv
from dlrecipes.data.formats.coco import find_coco, read_coco
from dlrecipes.data.formats.cvat import find_cvat, is_cvat, read_cvat
from dlrecipes.data.formats.label_studio import find_label_studio, is_label_studio, read_label_studio
from dlrecipes.data.formats.layout import split_name
from dlrecipes.data.formats.records import DetectionSource
from dlrecipes.data.formats.voc import find_voc, read_voc
from dlrecipes.data.formats.yolo import find_yolo, holds_text_labels, read_yolo
from dlrecipes.errors import UserError

__all__ = ["DETECTION_FORMATS", "holds_detection", "read_detection"]

DETECTION_FORMATS = (
    "COCO JSON (annotations/instances_*.json, *.json, train/_annotations.coco.json), "
    "Label Studio JSON (*.json), CVAT XML (annotations.xml), Pascal VOC (Annotations/*.xml, *.xml), "
    "YOLO (data.yaml with 'names', obj.data or classes.txt) and CSV (*.csv with image, x1, y1, x2, y2, label)"
)
"""What is looked for, for messages."""


def holds_detection(path: str | Path) -> bool:
    """Whether something at this path looks like annotations of boxes, readable or not."""
    root: Path | None = Path(path).expanduser()
    try:
        if root is not None and root.is_file():
            name = root.suffix.lower()
            return name in (".json", ".xml", ".yaml", ".yml", ".data") or (name == ".csv" and holds_boxes(root))
        while root is not None and root.is_dir():
            if _reader(root) is not None or holds_text_labels(root):
                return True
            root = _only_folder(root)
    except UserError:  # there is something, and reading it says what is wrong
        return True
    except OSError:
        return False
    return False


def read_detection(path: str | Path) -> DetectionSource:
    """Read a detection data set of any supported format; images are not decoded.

    Args:
        path: a folder, or one annotation file (``.json``, ``.xml``, ``.yaml``, ``.data``, ``.csv``). A folder is asked
            for the formats in the order of `DETECTION_FORMATS`; one that holds nothing but one folder is entered.

    Returns:
        The records by split. Where the data names no split, all records are under ``"all"``: see
        `dlrecipes.data.splits.split_records.split_by_seed`.

    Raises:
        UserError: if the path is missing or empty, holds no known format, or holds one that cannot be parsed.
    """
    try:
        return _read(Path(path).expanduser())
    except OSError as error:
        raise UserError(f"{error.filename or path} cannot be read ({error.strerror}).") from error


def _read(given: Path) -> DetectionSource:
    if not given.exists():
        raise UserError(
            f"{given} does not exist; give the folder of a data set, or a .json, .xml, .yaml, .data or .csv file."
        )
    if given.is_file():
        return _read_file(given)
    if not any(given.iterdir()):
        raise UserError(f"{given} is empty; give a folder with images and {DETECTION_FORMATS}.")
    source = _read_folder(given)
    inner = given
    while source is None and (inner_only := _only_folder(inner)) is not None:
        inner = inner_only
        source = _read_folder(inner)
    if source is None and holds_text_labels(inner):
        raise UserError(
            f"{inner / 'labels'} holds text files as YOLO has them, but no data.yaml beside it names their classes; "
            "add one (names: [CLASS, CLASS], train: images/train, val: images/val)."
        )
    if source is None:
        raise UserError(f"{given} holds no known annotation format; looked for {DETECTION_FORMATS}.")
    return source


def _read_folder(root: Path) -> DetectionSource | None:
    read = _reader(root)
    return None if read is None else read()


def _reader(root: Path) -> Callable[[], DetectionSource] | None:
    """What reads the annotations that lie in a folder; None if none do."""
    if coco := find_coco(root):
        return partial(read_coco, root, coco)
    if tasks := find_label_studio(root):
        return partial(read_label_studio, root, tasks)
    if (cvat := find_cvat(root)) is not None:
        return partial(read_cvat, cvat)
    if voc := find_voc(root):
        return partial(read_voc, root, voc)
    if (yolo := find_yolo(root)) is not None:
        return partial(read_yolo, yolo)
    if table := find_csv(root):
        return partial(read_csv, root, table)
    return None


def _read_file(file: Path) -> DetectionSource:
    split = split_name(file.stem) or "all"
    match file.suffix.lower():
        case ".json":
            if is_label_studio(file):
                return read_label_studio(file.parent, {split: file})
            root = file.parent.parent if file.parent.name == "annotations" else file.parent
            return read_coco(root, {split: file})
        case ".xml" if is_cvat(file):
            return read_cvat(file)
        case ".yaml" | ".yml" | ".data":
            return read_yolo(file)
        case ".csv":
            return read_csv(file.parent, {split: file})
    raise UserError(
        f"{file} is no annotation file; give the folder of the data set, or a .json, .xml, .yaml, .data or .csv file."
    )


def _only_folder(folder: Path) -> Path | None:
    """The one sub-folder of a folder that holds no other, as archives often unpack (``VOCdevkit/VOC2007``)."""
    folders = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__"))]
    return folders[0] if len(folders) == 1 else None
