"""Image files in a folder and all folders below it: one rule for training, prediction and comparison.

Folders that are linked to are read as folders are; one is read once, and a link to a folder around the first one is not
followed. What is hidden is left out: ``._photo.jpg`` of an archive is no picture.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from dlrecipes.data.formats.layout import IMAGE_SUFFIXES

__all__ = ["image_files", "walk_folders"]


def image_files(folder: Path) -> Iterator[str]:
    """Paths of the images in a folder and the folders within it."""
    for parent, names, _ in walk_folders(folder):
        for name in names:
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                yield os.path.join(parent, name)


def walk_folders(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """A folder and those within it, each once: its path, its files, and links that would lead to one of them again.

    A link to a folder around ``folder`` would bring what lies beside it, and it again, without end.
    """
    top = os.path.realpath(folder)
    entered = {top}
    for parent, children, names in os.walk(folder, followlinks=True):
        kept, repeated = [], []
        for child in sorted(c for c in children if not c.startswith((".", "__"))):
            path = os.path.join(parent, child)
            real = os.path.realpath(path)
            if real in entered or Path(top).is_relative_to(real):
                repeated.append(path)
            else:
                entered.add(real)
                kept.append(child)
        children[:] = kept
        yield parent, sorted(names), repeated
