"""Labelled images in folders that are named as their classes, with or without a folder for each split.

::

    root/cat/*.jpg                      root/train/cat/*.jpg    root/val/cat/*.jpg    root/test/cat/*.jpg

Folders within a class folder belong to that class, and so do folders that it links to (`dlrecipes.data.formats.walk`).
Hidden files and files that are no images by their suffix are left alone.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from dlrecipes.data.formats.image_files import PathImages
from dlrecipes.data.formats.image_source import ImageSource, ImageTable
from dlrecipes.data.formats.layout import (
    IMAGE_SUFFIXES,
    check_split_classes,
    files_with_suffix,
    in_split_order,
    shown,
    split_folders,
)
from dlrecipes.data.formats.records import Finding
from dlrecipes.data.formats.walk import image_files, walk_folders
from dlrecipes.errors import UserError
from dlrecipes.functional.words import counted

__all__ = ["find_folders", "read_folders"]

_UNREAD = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".dng", ".cr2", ".nef", ".arw", ".psd", ".svg", ".dcm")
_TOOLS = (".git", ".ipynb_checkpoints")  # whose images nobody takes for a class


def find_folders(root: Path) -> dict[str, Path]:
    """The folder of each split; ``{"all": root}`` if folders of classes lie in ``root`` itself; empty if none do.

    A folder named ``train`` that holds images itself, beside folders that are not named after a split, is a class.

    Raises:
        UserError: if the folders of splits hold images but no folders of classes.
    """
    named = split_folders(root)
    splits = {name: folder for name, folder in named.items() if _class_folders(folder)}
    if splits:
        return in_split_order(splits)
    classes = _class_folders(root)
    if classes and set(classes) <= set(named.values()):
        raise UserError(
            f"{root}: images lie in {shown(classes[0], root)} without class folders; move each into a folder named as "
            f"its class, such as {shown(classes[0] / 'cat', root)}, or add a CSV file with the columns image and label."
        )
    return {"all": root} if classes else {}


def read_folders(root: Path, folders: dict[str, Path]) -> ImageSource:
    """Collect images by split and class; nothing is decoded.

    Classes are the folder names of all splits, sorted, as in torchvision's ``ImageFolder``.

    Args:
        root: data set folder.
        folders: folder by split, from `find_folders`.

    Raises:
        UserError: for images that lie beside the class folders, or class names that contradict each other.
    """
    found = {split: {f.name: list(image_files(f)) for f in _children(folder)} for split, folder in folders.items()}
    filled = {split: {name for name, paths in classes.items() if paths} for split, classes in found.items()}
    _refuse_loose_images(root, folders)
    check_split_classes(filled)
    classes = tuple(sorted(set().union(*filled.values())))
    label = {name: i for i, name in enumerate(classes)}
    splits = {}
    for split, by_class in found.items():
        kept = {name: paths for name, paths in by_class.items() if name in label}
        labels = np.repeat([label[name] for name in kept], [len(paths) for paths in kept.values()])
        images = PathImages(path for paths in kept.values() for path in paths)
        splits[split] = ImageTable(images, labels.astype(np.int64))
    empty = sorted({name for by_class in found.values() for name in by_class if name not in label})
    problems = (
        *(Finding("folder without images (no class)", name) for name in empty),
        *(Finding("link to a folder that is read already (left out)", link) for link in _repeated(root, folders)),
    )
    return ImageSource(
        root=str(root),
        format="folders",
        task="classification",
        splits=splits,
        classes=classes,
        notes=(*(("no split is given",) if "all" in splits else ()), *_left_out(root, folders)),
        problems=problems,
    )


def _children(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))


def _class_folders(folder: Path) -> list[Path]:
    return [child for child in _children(folder) if next(image_files(child), None)]


def _repeated(root: Path, folders: dict[str, Path]) -> list[str]:
    """Links to folders that are not followed, as they are shown."""
    classes = [child for folder in folders.values() for child in _children(folder)]
    return [shown(link, root) for folder in classes for _, _, links in walk_folders(folder) for link in links]


def _refuse_loose_images(root: Path, folders: dict[str, Path]) -> None:
    for folder in folders.values():
        loose = files_with_suffix(folder, *IMAGE_SUFFIXES)
        if loose:
            raise UserError(
                f"{root}: {counted(len(loose), 'image')} beside the class folders of {shown(folder, root.parent)}, "
                f"such as {loose[0].name}; move each into the folder of its class."
            )


def _left_out(root: Path, folders: dict[str, Path]) -> list[str]:
    """Notes about what lies in ``root`` and is not read."""
    notes = [*_hidden_classes(root, folders), *_unread_kinds(root, folders)]
    if "all" not in folders:
        unlabelled = [
            f for f in split_folders(root).values() if f not in folders.values() and next(image_files(f), None)
        ]
        notes += [f"{f.name} holds images without class folders: it is left out" for f in unlabelled]
        others = [f.name for f in _class_folders(root) if f not in folders.values() and f not in unlabelled]
        if others:
            notes.append(f"{', '.join(others[:5])}: not named after a split, left out")
    return notes


def _unread_kinds(root: Path, folders: dict[str, Path]) -> list[str]:
    """A note about pictures of kinds that are not read."""
    classes = [child for folder in folders.values() for child in _children(folder)]
    found = [
        os.path.join(parent, name)
        for folder in classes
        for parent, names, _ in walk_folders(folder)
        for name in names
        if name.lower().endswith(_UNREAD) and not name.startswith(".")
    ]
    if not found:
        return []
    kinds = ", ".join(sorted({os.path.splitext(name)[1].lower() for name in found}))
    some = counted(len(found), "picture")
    return [f"{some} of kinds that are not read ({kinds}), such as {shown(found[0], root)}: convert to JPEG or PNG"]


def _hidden_classes(root: Path, folders: dict[str, Path]) -> list[str]:
    """A note about folders that would be classes if their names did not begin with a dot or two underscores."""
    hidden = (p for f in folders.values() for p in sorted(f.iterdir()) if p.is_dir() and p.name.startswith((".", "__")))
    found = [shown(p, root) for p in hidden if p.name not in _TOOLS and files_with_suffix(p, *IMAGE_SUFFIXES)]
    if not found:
        return []
    some = ", ".join(found[:5]) + (" ..." if len(found) > 5 else "")
    return [f"hidden folders are left out, though they hold images: {some}; rename them if they are classes"]
