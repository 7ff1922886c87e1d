"""Finding out by itself how a path holds labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dlrecipes.data.formats.discover import holds_detection
from dlrecipes.data.formats.image_source import ImageSource
from dlrecipes.data.formats.image_targets import KINDS
from dlrecipes.data.formats.label_studio import refuse_choices
from dlrecipes.data.formats.layout import IMAGE_SUFFIXES, files_with_suffix, split_name
from dlrecipes.data.formats.read_folders import find_folders, read_folders
from dlrecipes.data.formats.read_parquet import find_parquet, read_parquet
from dlrecipes.data.formats.read_tables import find_tables, read_tables
from dlrecipes.data.formats.read_torchvision import TORCHVISION, read_torchvision
from dlrecipes.errors import UserError
from dlrecipes.functional.words import counted

__all__ = ["IMAGE_FORMATS", "holds_images", "read_images"]

IMAGE_FORMATS = (
    "folders named as classes (CLASS/*.jpg, train/CLASS/*.jpg), "
    "CSV or TSV (*.csv with the columns image and label), "
    "Parquet with image bytes (*.parquet) "
    "and torchvision:NAME"
)
"""What is looked for, for messages."""


def read_images(
    path: str | Path,
    *,
    target: str | Sequence[str] | None = None,
    kind: str = "auto",
    image_column: str | None = None,
) -> ImageSource:
    """Read labelled images of any supported format; nothing is decoded.

    Args:
        path: a folder, a ``.csv``, ``.tsv`` or ``.parquet`` file, or ``torchvision:NAME`` (``torchvision:NAME@FOLDER``
            for files that lie elsewhere than in the cache). In a folder, Parquet goes before tables, tables before
            folders of classes. A folder that holds nothing but one folder is entered.
        target: column or columns that hold the target (tables and Parquet); None: found by name, otherwise what is
            left beside the images.
        kind: ``"classification"``, ``"multilabel"`` or ``"regression"``; ``"auto"``: by what the columns hold.
        image_column: column that holds the images; None: found by name or content.

    Returns:
        Images and targets by split. Where the data names no split, all are under ``"all"``: see
        `dlrecipes.data.splits.split_images.split_images`.

    Raises:
        UserError: if the path is missing or empty, holds no known format, or holds one that cannot be parsed.
    """
    if kind not in KINDS:
        raise UserError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}.")
    if str(path).startswith(TORCHVISION):
        if target is not None or image_column is not None or kind not in ("auto", "classification"):
            raise UserError(f"{path} has one class an image: leave out --data.target, image_column and kind.")
        return read_torchvision(str(path))
    given = Path(path).expanduser()
    try:
        if not given.exists():
            raise UserError(
                f"{given} does not exist; give a folder, a .csv, .tsv or .parquet file, or torchvision:NAME."
            )
        if given.is_file():
            return _read_file(given, target, kind, image_column)
        return _read_folder(given, target, kind, image_column)
    except OSError as error:
        raise UserError(f"{error.filename or path} cannot be read ({error.strerror}).") from error


def holds_images(path: str | Path) -> bool:
    """Whether something at this path looks like labelled images, readable or not; images alone do, too."""
    given = Path(path).expanduser()
    if str(path).startswith(TORCHVISION) or given.suffix.lower() in (".csv", ".tsv", ".parquet"):
        return True
    try:
        return given.is_dir() and bool(_data_folder(given) or files_with_suffix(given, *IMAGE_SUFFIXES))
    except UserError:
        return True


def _read_file(file: Path, target: str | Sequence[str] | None, kind: str, image_column: str | None) -> ImageSource:
    split = split_name(file.stem) or "all"
    match file.suffix.lower():
        case ".csv" | ".tsv":
            return read_tables(file.parent, {split: file}, target=target, kind=kind, image_column=image_column)
        case ".parquet":
            return read_parquet(file, {split: [file]}, target=target, kind=kind, image_column=image_column)
    raise UserError(f"{file} is no table of labelled images; give a folder, or a .csv, .tsv or .parquet file.")


def _read_folder(given: Path, target: str | Sequence[str] | None, kind: str, image_column: str | None) -> ImageSource:
    if not any(given.iterdir()):
        raise UserError(f"{given} is empty; looked for {IMAGE_FORMATS}.")
    try:
        root = _data_folder(given)
    except UserError:
        _refuse_boxes(given)
        raise
    if root is None:
        _refuse_boxes(given)
        loose = files_with_suffix(given, *IMAGE_SUFFIXES)
        if loose:
            raise UserError(
                f"{given} holds {counted(len(loose), 'image')}, such as {loose[0].name}, but no labels; move each into "
                "a folder named as its class, or add a labels.csv with the columns image and label."
            )
        raise UserError(f"{given} holds no labelled images; looked for {IMAGE_FORMATS}.")
    if shards := find_parquet(root):
        return read_parquet(root, shards, target=target, kind=kind, image_column=image_column)
    if tables := find_tables(root):
        return read_tables(root, tables, target=target, kind=kind, image_column=image_column)
    if target is not None or image_column is not None:
        named = "target" if target is not None else "image_column"
        raise UserError(f"{root} holds folders of classes, which have no columns: leave out --data.{named}.")
    if kind not in ("auto", "classification"):
        raise UserError(f"{root} holds folders of classes, which cannot be read as {kind}: leave out --data.kind.")
    source = read_folders(root, find_folders(root))
    if len(source.classes) == 1:
        _refuse_boxes(given)
    return source


def _refuse_boxes(given: Path) -> None:
    """What is no data for labels of whole images may be data for boxes."""
    if holds_detection(given):
        refuse_choices(given if given.is_dir() else given.parent)
        raise UserError(
            f"{given} holds boxes of objects, not labels of whole images: train with recipes/train_detr.py, or move "
            "each image into a folder named as its class."
        )


def _data_folder(given: Path) -> Path | None:
    """The folder that holds a known format: the given one, or the only one within it, as archives often unpack."""
    if find_parquet(given) or find_tables(given):
        return given
    folders = find_folders(given)
    inner = [p for p in given.iterdir() if p.is_dir() and not p.name.startswith((".", "__"))]
    if len(inner) == 1 and set(folders) <= {"all"}:
        # As a class it would be the only one, so what it holds itself is looked at first.
        return _data_folder(inner[0]) or (given if folders else None)
    return given if folders else None
