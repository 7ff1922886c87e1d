"""Labelled images listed in CSV or TSV files: one row an image.

| column | names, in any case |
| --- | --- |
| image | ``image``, ``image_path``, ``path``, ``file``, ``filename``, ``image_id`` ..., or whichever names files |
| target | ``label``, ``class``, ``category``, ``target`` ..., or what is left: see `choose_target` |
| split, optional | ``split``, ``subset``, ``set`` |
| weight, optional | ``weight``, ``sample_weight``: how much the image counts in the loss |

Images lie relative to the file, or in a folder ``images`` beside it, or in one named as the file or the split; the
suffix may be missing. The separator is a comma, semicolon or tab.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrecipes.data.formats.columns import DECIMAL_COMMA, column_of_text, find_column, with_point
from dlrecipes.data.formats.image_files import PathImages
from dlrecipes.data.formats.image_places import ImagePlaces
from dlrecipes.data.formats.image_source import ImageSource, ImageTable
from dlrecipes.data.formats.image_targets import NO_TARGETS, choose_target, read_targets
from dlrecipes.data.formats.layout import (
    IMAGE_SUFFIXES,
    check_split_classes,
    encoding_of,
    files_with_suffix,
    in_split_order,
    not_text,
    shown,
    split_folders,
    split_name,
)
from dlrecipes.errors import UserError
from dlrecipes.functional.words import counted

__all__ = ["IMAGE_COLUMNS", "SPLIT_COLUMNS", "WEIGHT_COLUMNS", "find_tables", "read_tables"]

IMAGE_COLUMNS = (
    *("image", "image_path", "img_path", "path", "file_path", "filepath", "file", "filename", "file_name"),
    *("image_file", "image_name", "img_name", "img", "image_id", "image_index", "picture", "photo", "id_code", "id"),
)
SPLIT_COLUMNS = ("split", "subset", "set", "partition")
WEIGHT_COLUMNS = ("weight", "sample_weight", "weights")

_CLEAR_COLUMNS = IMAGE_COLUMNS[:-2]  # the others hold images only if files are called so
_PREFERRED = ("labels", "label", "metadata", "annotations", "data")  # of several files that name no split
_WHOLE = re.compile(r"([-+]?(\d+|\d{1,3}(\.\d{3})+))?")  # or nothing
_PROBED = 32  # rows that are looked at to tell which column names files


@dataclass(frozen=True, eq=False)
class _Table:
    """The cells of one file, or of several that were put together.

    Attributes:
        cells: n cells by column.
        files, lines: where each row was read.
        splits: split of each row.
    """

    cells: dict[str, list[str]]
    files: list[Path]
    lines: list[int]
    splits: list[str]


def find_tables(root: Path) -> dict[str, Path]:
    """CSV and TSV files of a folder that list images, by split; ``{"all": file}`` for one that names none.

    Raises:
        UserError: if several files could be meant.
    """
    candidates = [p for f in (root, *split_folders(root).values()) for p in files_with_suffix(f, ".csv", ".tsv")]
    found = [p for p in candidates if not p.stem.lower().startswith("sample") and _lists_images(p)]
    splits: dict[str, Path] = {}
    for path in found:
        split = split_name(path.stem) or (split_name(path.parent.name) if path.parent != root else None)
        if split is not None:
            splits.setdefault(split, path)
    if splits and ("train" in splits or "trainval" in splits or len(found) == 1):
        return in_split_order(splits)
    unnamed = [p for p in found if p not in splits.values()]
    named = [p for p in unnamed if p.stem.lower() in _PREFERRED]
    if len(unnamed) > 1 and len(named) != 1:
        files = ", ".join(shown(p, root) for p in unnamed[:5])
        raise UserError(f"{root}: {files} all list images; give one file as the path, or name them train and val.")
    if unnamed:
        return in_split_order({"all": (named or unnamed)[0], **splits})
    return in_split_order(splits)


def read_tables(
    root: Path,
    files: dict[str, Path],
    *,
    target: str | Sequence[str] | None = None,
    kind: str = "auto",
    image_column: str | None = None,
) -> ImageSource:
    """Parse tables of images; nothing is decoded, and images that do not exist are left to the audit.

    Args:
        root: data set folder.
        files: file by split, from `find_tables`.
        target, kind, image_column: see `dlrecipes.data.formats.discover_images.read_images`.

    Raises:
        UserError: for a file that is not readable, lacks a column, or has an empty entry, and for class names that
            contradict each other between splits.
    """
    tables = {split: _read(path, split) for split, path in files.items()}
    main = next((s for s in ("train", "trainval", "all") if s in tables), next(iter(tables)))
    base, file = tables[main], shown(files[main], root)
    image = _image_column(base, root, image_column, file)
    split_column = find_column(list(base.cells), SPLIT_COLUMNS)
    weight_column = find_column(list(base.cells), WEIGHT_COLUMNS)
    roles = {image, split_column, weight_column}
    columns = {n: column_of_text(cells) for n, cells in base.cells.items() if n not in roles}
    names = choose_target(columns, target, file)
    unused = [n for n in columns if n not in names and n.strip().lower() not in NO_TARGETS]
    table, notes = _joined(tables, [image, *names, *(n for n in (split_column, weight_column) if n)], files)

    def where(row: int) -> str:
        return f"{shown(table.files[row], root)}, line {table.lines[row]}"

    chosen = {n: column_of_text(table.cells[n], labels=kind != "regression") for n in names}
    targets = read_targets(chosen, names, kind, file, where)
    if split_column:
        table.splits[:] = [
            (split_name(cell) or cell.strip()) or split
            for cell, split in zip(table.cells[split_column], table.splits, strict=True)
        ]
    weights = _numbers(table.cells[weight_column], weight_column, where) if weight_column else None
    splits = _by_split(table.splits, _paths(table, image, root, where), targets.values, weights)
    if targets.task == "classification":
        check_split_classes({s: {targets.classes[k] for k in np.unique(t.targets)} for s, t in splits.items()})
    unsplit = ("no split is given",) if "all" in splits else ()
    ignored = (f"not used: column{'s' * (len(unused) > 1)} {', '.join(map(repr, unused))}",) if unused else ()
    return ImageSource(
        root=str(next(iter(files.values())) if len(files) == 1 else root),
        format="csv",
        task=targets.task,
        splits=splits,
        classes=targets.classes,
        target_names=targets.target_names,
        notes=(f"images named by column {image!r}", *targets.notes, *ignored, *notes, *unsplit),
    )


def _delimiter(line: str, suffix: str) -> str:
    return "\t" if suffix == ".tsv" else max(",;\t", key=line.count)


def _lists_images(path: Path) -> bool:
    """Whether a file has a column of images: known by its name, or by what its first cells say."""
    with path.open(encoding=encoding_of(path), errors="replace", newline="") as file:
        line = file.readline().strip()
    header = next(csv.reader([line], delimiter=_delimiter(line, path.suffix.lower())), [])
    if find_column(header, _CLEAR_COLUMNS) is not None:
        return True
    try:
        table = _read(path, "", limit=_PROBED)
    except UserError:
        return False
    places = ImagePlaces(path.parent, path)
    return any(places.share(cells) > 0 for cells in table.cells.values())


def _read(path: Path, split: str, limit: int | None = None) -> _Table:
    """The cells of one file; the first line names the columns, unless it names an image itself."""
    try:
        with path.open(encoding=encoding_of(path), newline="") as file:
            delimiter = _delimiter(file.readline(), path.suffix.lower())
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter)
            rows, lines = [], []
            for row in reader:
                if any(cell.strip() for cell in row):
                    rows.append(row)
                    lines.append(reader.line_num)
                if limit is not None and len(rows) > limit:
                    break
    except UnicodeError as error:
        raise not_text(path, error) from error
    except csv.Error as error:
        raise UserError(f"{path}: not readable as CSV ({error}); export it again.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error
    if not rows:
        raise UserError(f"{path} is empty; export it again.")
    header = [cell.strip() for cell in rows[0]]
    if any(cell.lower().endswith(IMAGE_SUFFIXES) for cell in header):
        if len(header) != 2:
            raise UserError(f"{path}: its first line names no columns; add a line such as image,label above it.")
        header = ["image", "label"]
    else:
        rows, lines = rows[1:], lines[1:]
    if not rows:
        raise UserError(f"{path}: no rows under the header; export it again.")
    for row, line in zip(rows, lines, strict=True):
        if len(row) > len(header) and any(cell.strip() for cell in row[len(header) :]):
            raise UserError(
                f"{path}, line {line}: {counted(len(row), 'entry', 'entries')}, but its first line names "
                f"{counted(len(header), 'column')}; quote entries that hold a separator."
            )
    cells = {n: [row[k] if k < len(row) else "" for row in rows] for k, n in enumerate(header)}
    if delimiter != ",":
        cells = {name: _with_points(column) for name, column in cells.items()}
    return _Table(cells, [path] * len(rows), lines, [split] * len(rows))


def _with_points(cells: list[str]) -> list[str]:
    """Numbers with decimal commas, as spreadsheets of many countries write them, with points; others as they are."""
    stripped = [cell.strip() for cell in cells]
    decimal = [DECIMAL_COMMA.fullmatch(cell) is not None for cell in stripped]
    whole = (_WHOLE.fullmatch(cell) is not None for cell in stripped)
    if not any(decimal) or not all(a or b for a, b in zip(decimal, whole, strict=True)):
        return cells
    return [with_point(cell) for cell in stripped]


def _joined(tables: dict[str, _Table], needed: list[str], files: dict[str, Path]) -> tuple[_Table, list[str]]:
    """All rows under the needed columns; files that lack one are left out, such as a test without labels."""
    whole = _Table({n: [] for n in needed}, [], [], [])
    notes = []
    for split, table in tables.items():
        missing = next((n for n in needed if n not in table.cells), None)
        if missing is not None:
            notes.append(f"{files[split].name} has no column {missing!r}: it is left out")
            continue
        for name in needed:
            whole.cells[name].extend(table.cells[name])
        whole.files.extend(table.files)
        whole.lines.extend(table.lines)
        whole.splits.extend(table.splits)
    return whole, notes


def _image_column(table: _Table, root: Path, wanted: str | None, file: str) -> str:
    if wanted is not None:
        if wanted not in table.cells:
            raise UserError(f"{file} has no column {wanted!r}, only {', '.join(table.cells)}: choose of these.")
        return wanted
    places = ImagePlaces(root, table.files[0])
    shares = {n: places.share(cells[:_PROBED]) for n, cells in table.cells.items()}
    by_name = [n for k in IMAGE_COLUMNS if (n := find_column(list(shares), (k,))) is not None]
    fallback = find_column(list(shares), _CLEAR_COLUMNS)
    found = next((n for n in (*by_name, *shares) if shares[n] > 0.5), fallback)
    if found is None:
        raise UserError(
            f"{file}: none of the columns {', '.join(shares)} names image files; name one 'image', or choose with "
            "--data.image_column."
        )
    return found


def _paths(table: _Table, column: str, root: Path, where: Callable[[int], str]) -> list[str]:
    """The image of each row; one that does not exist keeps its name beside the file, for the audit to report."""
    places: dict[Path, ImagePlaces] = {}
    paths = []
    for row, (cell, file) in enumerate(zip(table.cells[column], table.files, strict=True)):
        if not cell.strip():
            raise UserError(f"{where(row)}: no image name; complete or remove the row.")
        if re.match(r"[a-z][a-z0-9+.-]+://", cell.strip().lower()):
            raise UserError(f"{where(row)}: {cell.strip()} is an address; download the images and name their files.")
        if file not in places:
            places[file] = ImagePlaces(root, file)
        paths.append(places[file].find(cell) or os.path.join(file.parent, cell.strip().replace("\\", "/")))
    return paths


def _numbers(cells: Sequence[str], name: str, where: Callable[[int], str]) -> NDArray[np.float32]:
    """Weights; NaN and negative ones pass: the audit names them together with their image."""
    column = column_of_text(cells, labels=False)
    if column.kind == "text":
        row = next(i for i, cell in enumerate(cells) if column_of_text([cell]).kind == "text" and cell.strip())
        raise UserError(f"{where(row)}: the weight {cells[row]!r} is not a number; correct it.")
    if column.empty.any():
        raise UserError(f"{where(int(column.empty.argmax()))}: the column {name!r} is empty; give a weight.")
    return column.values.astype(np.float32)


def _by_split(
    splits: Sequence[str], paths: Sequence[str], targets: NDArray[Any], weights: NDArray[np.float32] | None
) -> dict[str, ImageTable]:
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(splits):
        rows.setdefault(name, []).append(row)
    tables = {
        name: ImageTable(
            PathImages(paths[row] for row in chosen), targets[chosen], None if weights is None else weights[chosen]
        )
        for name, chosen in rows.items()
    }
    return in_split_order(tables)
