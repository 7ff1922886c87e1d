"""Labelled images in Parquet files with encoded image bytes, as Hugging Face stores data sets.

::

    root/data/train-00000-of-00002.parquet      root/train/0000.parquet      root/train.parquet

The image column is a struct with the field ``bytes``, or plain binary. Class names are taken from the features that
the ``datasets`` library writes into the file's metadata. The needed package is an extra: ``dlrecipes[parquet]``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrecipes.data.formats.columns import Column, find_column
from dlrecipes.data.formats.image_files import take
from dlrecipes.data.formats.image_source import ImageSource, ImageTable
from dlrecipes.data.formats.image_targets import Targets, choose_target, read_targets
from dlrecipes.data.formats.layout import files_with_suffix, in_split_order, shown, split_folders, split_name
from dlrecipes.data.formats.parquet_images import ParquetImages, open_parquet
from dlrecipes.data.formats.read_tables import IMAGE_COLUMNS, SPLIT_COLUMNS, WEIGHT_COLUMNS
from dlrecipes.errors import UserError

__all__ = ["find_parquet", "read_parquet"]


def find_parquet(root: Path) -> dict[str, list[Path]]:
    """Parquet files in a folder, its ``data`` folder or folders named after splits, by split; several are shards.

    Files that name no split, beside others that do, are left out.
    """
    splits: dict[str, list[Path]] = {}
    for folder in (root, root / "data", *split_folders(root).values()):
        inherited = None if folder in (root, root / "data") else split_name(folder.name)
        for path in files_with_suffix(folder, ".parquet"):
            splits.setdefault(split_name(path.stem) or inherited or "all", []).append(path)
    if len(splits) > 1:
        splits.pop("all", None)
    return in_split_order(splits)


def read_parquet(
    root: Path,
    files: Mapping[str, Sequence[Path]],
    *,
    target: str | Sequence[str] | None = None,
    kind: str = "auto",
    image_column: str | None = None,
) -> ImageSource:
    """Parse Parquet files; images are read when they are needed.

    Args:
        root: data set folder or file.
        files: Parquet files by split, from `find_parquet`.
        target, kind, image_column: see `dlrecipes.data.formats.discover_images.read_images`.

    Raises:
        UserError: if pyarrow is missing, a file is damaged or lacks a column, or an entry is empty or has no class.
    """
    folder = root if root.is_dir() else root.parent
    base = files[next((s for s in ("train", "trainval") if s in files), next(iter(files)))][0]
    file, schema = shown(base, folder), open_parquet(base).schema_arrow
    image = _image_column(schema, image_column, file)
    split_column = find_column(schema.names, SPLIT_COLUMNS) if len(files) == 1 else None
    weight_column = find_column(schema.names, WEIGHT_COLUMNS)
    roles = (image, split_column, weight_column)
    usable = [field.name for field in schema if field.name not in roles and _kind(field.type)]
    class_names = _class_names(schema)
    sample = open_parquet(base).read_row_group(0, columns=usable)
    names = choose_target({n: _column(sample[n], class_names.get(n, ())) for n in usable}, target, file)
    needed = [*names, *(n for n in (split_column, weight_column) if n)]
    tables, notes = _tables(files, needed, {n for n in names if n in class_names}, folder)
    whole = import_module("pyarrow").concat_tables(tables.values(), promote_options="permissive")
    images = {split: ParquetImages(files[split], image) for split in tables}

    def where(row: int) -> str:
        for part in images.values():
            if row < len(part):
                return shown(part.name(row), folder)
            row -= len(part)
        return file

    targets = read_targets({n: _column(whole[n], class_names.get(n, ())) for n in names}, names, kind, file, where)
    weights = _weights(_column(whole[weight_column]), weight_column, file) if weight_column else None
    splits = _by_split(images, targets, weights, whole[split_column].to_pylist() if split_column else None)
    return ImageSource(
        root=str(root),
        format="parquet",
        task=targets.task,
        splits=splits,
        classes=targets.classes,
        target_names=targets.target_names,
        notes=(*targets.notes, *notes, *(("no split is given",) if "all" in splits else ())),
    )


def _image_column(schema: Any, wanted: str | None, file: str) -> str:
    """The wanted column; otherwise a struct with bytes or a binary one, best one that is named like images."""
    types = import_module("pyarrow.types")
    found = [
        field.name
        for field in schema
        if _is_binary(field.type)
        or (types.is_struct(field.type) and any(part.name == "bytes" and _is_binary(part.type) for part in field.type))
    ]
    if wanted is not None and wanted not in found:
        raise UserError(f"{file} has no column {wanted!r} of image bytes, only {', '.join(found) or 'none'}.")
    if not found:
        raise UserError(
            f"{file}: none of the columns {', '.join(schema.names)} holds image bytes; save the data set with its "
            "images embedded, or a table of paths as CSV."
        )
    return wanted or find_column(found, IMAGE_COLUMNS) or found[0]


def _is_binary(kind: Any) -> bool:
    types = import_module("pyarrow.types")
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _kind(kind: Any) -> str:
    """``"integer"``, ``"number"``, ``"text"`` or ``"list"`` of integers or text; empty for what is no target."""
    types = import_module("pyarrow.types")
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_integer(kind) or types.is_boolean(kind):
        return "integer"
    if types.is_floating(kind):
        return "number"
    if types.is_string(kind) or types.is_large_string(kind):
        return "text"
    if types.is_list(kind) or types.is_large_list(kind):
        return "list" if _kind(kind.value_type) in ("integer", "text") else ""
    return ""


def _class_names(schema: Any) -> dict[str, tuple[str, ...]]:
    """Class names by column, from the features of Hugging Face's ``datasets``."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    found = {}
    for column, feature in features.items():
        inner = feature[0] if isinstance(feature, list) and feature else feature
        inner = inner.get("feature", inner) if isinstance(inner, dict) else {}
        if isinstance(inner, dict) and isinstance(inner.get("names"), list):
            found[column] = tuple(str(name) for name in inner["names"])
    return found


def _tables(
    files: Mapping[str, Sequence[Path]], needed: list[str], labels: set[str], folder: Path
) -> tuple[dict[str, Any], list[str]]:
    """The needed columns by split; splits without them, or whose labels are all -1 (hidden), are left out."""
    arrow, compute = import_module("pyarrow"), import_module("pyarrow.compute")
    tables, notes = {}, []
    for split, paths in files.items():
        opened = [open_parquet(path) for path in paths]
        missing = next((n for n in needed for file in opened if n not in file.schema_arrow.names), None)
        if missing is not None:
            notes.append(f"{shown(paths[0], folder)} has no column {missing!r}: {split} is left out")
            continue
        table = arrow.concat_tables((f.read(columns=needed) for f in opened), promote_options="permissive")
        if any(arrow.types.is_integer(table[n].type) and compute.max(table[n]).as_py() == -1 for n in labels):
            notes.append(f"all labels of {split} are -1 (hidden): it is left out")
            continue
        tables[split] = table
    if not tables:
        raise UserError(f"{folder}: {notes[0]}, and no other split is there; choose the target with --data.target.")
    return tables, notes


def _column(array: Any, names: tuple[str, ...] = ()) -> Column:
    """A column of a Parquet file with one of the types of `_kind`."""
    types = import_module("pyarrow.types")
    if types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    empty = np.asarray(array.is_null().to_numpy(), dtype=np.bool_)
    kind = _kind(array.type)
    if kind in ("integer", "number"):
        dtype = np.int64 if kind == "integer" else np.float64
        return Column(
            array.fill_null(False if types.is_boolean(array.type) else 0).to_numpy().astype(dtype), empty, names
        )
    cells = np.empty(len(array), dtype=np.object_)
    for row, cell in enumerate(array.to_pylist()):
        cells[row] = "" if cell is None else tuple(cell) if kind == "list" else cell.strip()
    return Column(cells, empty | np.array([cell == "" for cell in cells], dtype=np.bool_), names)


def _weights(column: Column, name: str, file: str) -> NDArray[np.float32]:
    """NaN and negative weights pass: the audit names them together with their image."""
    if column.kind not in ("integer", "number") or column.empty.any():
        raise UserError(f"{file}: the column {name!r} must hold a number in every row, since it weighs the images.")
    return column.values.astype(np.float32)


def _by_split(
    images: Mapping[str, ParquetImages], targets: Targets, weights: NDArray[np.float32] | None, cells: list[Any] | None
) -> dict[str, ImageTable]:
    """The rows of each file list, or, where a column says it, of each split."""
    splits, start = {}, 0
    for split, part in images.items():
        rows = slice(start, start + len(part))
        splits[split] = ImageTable(part, targets.values[rows], None if weights is None else weights[rows])
        start += len(part)
    if cells is None:
        return splits
    (given, table), *_ = splits.items()
    found: dict[str, list[int]] = {}
    for row, cell in enumerate(cells):
        name = str(cell or "").strip()
        found.setdefault(split_name(name) or name or given, []).append(row)
    return in_split_order({name: take(table, np.array(rows, dtype=np.int64)) for name, rows in found.items()})
