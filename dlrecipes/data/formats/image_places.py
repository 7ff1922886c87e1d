"""Finding the image files that a table names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dlrecipes.data.formats.layout import IMAGE_SUFFIXES

__all__ = ["ImagePlaces"]


class ImagePlaces:
    """Where the images of a table may lie. Folders are listed once: a stat for each image takes a minute on a network.

    Args:
        root: data set folder.
        file: the table.
    """

    def __init__(self, root: Path, file: Path) -> None:
        stem = file.stem
        names = ("", "images", "imgs", "img", stem, f"{stem}_images", f"images/{stem}", "data", "train", "val", "test")
        folders = [os.path.join(parent, name) for parent in dict.fromkeys((file.parent, root)) for name in names]
        self._folders = [folder for folder in folders if os.path.isdir(folder)]
        self._listed: dict[str, dict[str, str]] = {}

    def find(self, cell: str) -> str | None:
        """The image's path, with its suffix if that was missing; None if there is no such file."""
        name = cell.strip().replace("\\", "/")
        if not name:
            return None
        for folder in self._folders:
            parent, base = os.path.split(os.path.join(folder, name))
            if base in (files := self._files(parent)):
                return os.path.join(parent, files[base])
        return None

    def _files(self, folder: str) -> dict[str, str]:
        """File names by name and by name without suffix."""
        if folder not in self._listed:
            try:
                with os.scandir(folder) as entries:
                    names = sorted(e.name for e in entries if e.name.lower().endswith(IMAGE_SUFFIXES))
            except OSError:
                names = []
            self._listed[folder] = {os.path.splitext(n)[0]: n for n in reversed(names)} | {n: n for n in names}
        return self._listed[folder]

    def share(self, cells: Sequence[str]) -> float:
        """Which part of the filled cells names image files; 0 if none is filled."""
        found = [self.find(cell) is not None for cell in cells if cell.strip()]
        return sum(found) / len(found) if found else 0.0
