"""Darknet's ``obj.data``, which CVAT's "YOLO 1.1" writes, too: names of classes and lists of images, each a text file.

Format: https://docs.cvat.ai/docs/dataset_management/formats/format-yolo/. Its paths are relative to where Darknet was
started on the author's machine (``data/train.txt``), so leading folders that are not here are left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dlrecipes.data.formats.layout import files_with_suffix, read_lines, split_name
from dlrecipes.errors import UserError

__all__ = ["find_darknet", "located", "read_darknet"]


def find_darknet(root: Path) -> Path | None:
    """The ``.data`` file of a folder that names classes and images, ``obj.data`` if there are several; None if none."""
    found = [p for p in files_with_suffix(root, ".data") if _names_lists(p)]
    return next((p for p in found if p.stem == "obj"), found[0] if found else None)


def read_darknet(file: Path) -> dict[str, Any]:
    """What a YAML file of YOLO would say: ``names``, and the file that lists the images under each split's key.

    A validation list that is the training list again is left out: it would measure nothing.

    Raises:
        UserError: if the file of the class names does not exist, is empty, or has another number than ``classes``.
    """
    entries = _entries(file)
    place = entries.pop("names")
    listing = located(place, file.parent, file.parent.parent)
    if listing is None:
        raise UserError(f"{file}: 'names' is {place!r}, which does not exist; put the list of class names beside it.")
    names = [line.strip() for line in read_lines(listing) if line.strip()]
    if not names:
        raise UserError(f"{listing} is empty; write the class names into it, one a line.")
    count = entries.pop("classes", str(len(names)))
    if count != str(len(names)):
        raise UserError(f"{file}: 'classes' is {count} but {listing.name} has {len(names)} names; correct one of them.")
    splits = {key: value for key, value in entries.items() if split_name(key) and value}
    again = [key for key, value in splits.items() if key != "train" and value == splits.get("train")]
    return {"names": names, **{key: value for key, value in splits.items() if key not in again}}


def located(place: str, *bases: Path) -> Path | None:
    """A file or folder by a path that was written on another machine; None if it is not here.

    Args:
        place: ``data/obj_train_data/a.jpg``: what is left of it behind its first folders is looked for, too.
        bases: folders that it may be relative to.
    """
    parts = place.replace("\\", "/").rstrip("/").split("/")
    tried = (base / "/".join(parts[start:]) for start in range(len(parts)) for base in bases)
    return next((path for path in tried if path.exists()), None)


def _names_lists(file: Path) -> bool:
    try:
        keys = _entries(file)
    except UserError:
        return False  # data of another kind has this suffix, too
    return "names" in keys and any(split_name(key) for key in keys)


def _entries(file: Path) -> dict[str, str]:
    """``key = value`` of each line."""
    pairs = (line.split("#")[0].partition("=") for line in read_lines(file))
    return {key.strip(): value.strip() for key, _, value in pairs if value.strip()}
