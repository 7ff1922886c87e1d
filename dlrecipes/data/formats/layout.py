"""What the format readers share: names of splits, image files in a folder, names of classes that must agree."""

from __future__ import annotations

import codecs
import itertools
import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from dlrecipes.errors import UserError

__all__ = [
    "IMAGE_SUFFIXES",
    "check_class_names",
    "check_split_classes",
    "encoding_of",
    "files_with_suffix",
    "image_index",
    "in_split_order",
    "not_text",
    "parse_numbers",
    "plain_name",
    "read_lines",
    "shown",
    "split_folders",
    "split_name",
]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")

T = TypeVar("T")

_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "validate": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "trainval": "trainval",
}


def split_name(name: str) -> str | None:
    """Which split a file or folder name speaks of: ``train``, ``val``, ``test``, ``trainval``; None if of none.

    >>> [split_name(n) for n in ("instances_train2017", "valid", "test-dev2017", "train_val", "images")]
    ['train', 'val', 'test', 'trainval', None]
    """
    words = [_SPLIT_WORDS[w] for w in re.split(r"[^a-z]+", name.lower()) if w in _SPLIT_WORDS]
    if {"train", "val"} <= set(words):
        return "trainval"
    return words[0] if words else None


def in_split_order(splits: Mapping[str, T]) -> dict[str, T]:
    """The same mapping with train, trainval, val and test first, in this order."""
    order = {name: i for i, name in enumerate(("train", "trainval", "val", "test"))}
    return {name: splits[name] for name in sorted(splits, key=lambda n: order.get(n, len(order)))}


def split_folders(root: Path) -> dict[str, Path]:
    """Sub-folders of ``root`` that are named after a split, by split; the first in alphabetical order wins."""
    found: dict[str, Path] = {}
    for folder in sorted(p for p in root.iterdir() if p.is_dir()):
        name = split_name(folder.name)
        if name is not None and folder.name.lower().startswith(("train", "val", "test", "dev")):
            found.setdefault(name, folder)
    return found


def files_with_suffix(folder: Path, *suffixes: str) -> list[Path]:
    """Files directly in ``folder`` whose suffix (any case) is among ``suffixes``, sorted; no folder, no files."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if e.name.lower().endswith(suffixes) and not e.name.startswith(".")]
    return [folder / n for n in sorted(names)]


def image_index(folder: Path) -> dict[str, Path]:
    """Images directly in ``folder`` by file name without suffix; one directory listing instead of a stat per image."""
    return {p.stem: p for p in files_with_suffix(folder, *IMAGE_SUFFIXES)}


def shown(path: str | Path, root: str | Path) -> str:
    """A path as it is shown in messages: relative to the data set where it lies inside it."""
    try:
        return Path(path).relative_to(root).as_posix()
    except ValueError:
        return str(path)


def encoding_of(path: Path) -> str:
    """Encoding of a text file by its first bytes: UTF-16, as Excel's "Unicode text" has it, or UTF-8, with or without a
    mark."""
    with path.open("rb") as file:
        first = file.read(4)
    if first in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE):
        return "utf-32"
    return "utf-16" if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def not_text(path: Path, error: UnicodeError) -> UserError:
    """The sentence about a file in an encoding that nothing in it tells, as those of single countries."""
    byte = f"byte 0x{error.object[error.start]:02x}" if isinstance(error, UnicodeDecodeError) else error
    return UserError(f"{path} is no text in UTF-8 or UTF-16 ({byte}); save it as UTF-8, in Excel as 'CSV UTF-8'.")


def read_lines(path: Path) -> list[str]:
    """Lines of a text file in UTF-8 or UTF-16.

    Raises:
        UserError: if it is not text.
    """
    try:
        return path.read_text(encoding=encoding_of(path)).splitlines()
    except UnicodeError as error:
        raise not_text(path, error) from None


def parse_numbers(values: Iterable[object], where: str) -> list[float]:
    """Floats from text or numbers. NaN and infinity pass: the audit names them together with their image.

    Raises:
        UserError: if one is not a number; ``where`` says whose.
    """
    numbers = []
    for value in values:
        try:
            numbers.append(float(value))  # type: ignore[arg-type]  # what is no number is what is asked
        except (TypeError, ValueError):
            raise UserError(f"{where}: {value!r} is not a number; a box needs four numbers.") from None
    return numbers


def plain_name(name: str) -> str:
    """A class name without what people spell differently.

    >>> plain_name("Fire_Truck ") == plain_name("fire truck")
    True
    """
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def check_class_names(names: Mapping[str, Collection[str]]) -> None:
    """Refuse splits whose class names contradict each other.

    The classes of a data set are the union over its splits, so a class that one split lacks is fine. Two splits that
    share no class, or that spell one class in two ways (``Dog`` and ``dog``), were not labelled for the same task.

    Args:
        names: class names that occur, by split or file.

    Raises:
        UserError: naming both splits and both names.
    """
    spelled: dict[str, tuple[str, str]] = {}
    for split, classes in names.items():
        for name in sorted(classes):
            other_split, other = spelled.setdefault(plain_name(name), (split, name))
            if other != name:
                raise UserError(
                    f"Class names differ between splits: {other_split} has {other!r} and {split} has {name!r}; "
                    "use one spelling everywhere."
                )
    filled = [(split, set(classes)) for split, classes in names.items() if classes]
    for (first, a), (second, b) in itertools.combinations(filled, 2):
        if not a & b:
            raise UserError(
                f"Class names differ between splits: {first} has {_few(a)} and {second} has {_few(b)}, "
                "with none in common; label all splits with the same classes."
            )


def check_split_classes(names: Mapping[str, Collection[str]]) -> None:
    """`check_class_names` of each split with the training split: two small held-out ones may well share no class.

    Args:
        names: class names that occur, by split.

    Raises:
        UserError: as `check_class_names`.
    """
    train = next((s for s in ("train", "trainval", "all") if s in names), next(iter(names), None))
    for split in names:
        if train is not None and split != train:
            check_class_names({train: names[train], split: names[split]})


def _few(names: Collection[str], limit: int = 5) -> str:
    listed = ", ".join(repr(n) for n in sorted(names)[:limit])
    return listed + (f" and {len(names) - limit} more" if len(names) > limit else "")
