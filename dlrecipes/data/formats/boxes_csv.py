"""CSV: one row a box, with or without a header.

Accepted column names, in any order and case:

| column | names |
| --- | --- |
| image | ``image``, ``image_path``, ``img_path``, ``path``, ``file``, ``filename``, ``file_name``, ``file_path`` |
| x1, y1 | ``x1``, ``xmin``, ``x_min``, ``left``; ``y1``, ``ymin``, ``y_min``, ``top`` |
| x2, y2 | ``x2``, ``xmax``, ``x_max``, ``right``; ``y2``, ``ymax``, ``y_max``, ``bottom`` |
| label | ``label``, ``class``, ``class_name``, ``category``, ``name`` |
| split, optional | ``split``, ``subset``, ``set`` |
| size, optional | ``width`` and ``height`` of the image |

Without a header the order is ``image, x1, y1, x2, y2, label``. Corners are in pixels. A row with the image alone is an
image without objects. The separator is a comma, semicolon or tab. Columns that hold boxes in another way, as a corner
with width and height, are refused rather than guessed at: ``x`` may be a centre, ``width`` that of the image.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from dlrecipes.data.formats.columns import DECIMAL_COMMA, with_point
from dlrecipes.data.formats.layout import (
    check_class_names,
    encoding_of,
    files_with_suffix,
    in_split_order,
    not_text,
    parse_numbers,
    shown,
    split_folders,
    split_name,
)
from dlrecipes.data.formats.records import DetectionRecord, DetectionSource, make_record
from dlrecipes.errors import UserError

__all__ = ["find_csv", "holds_boxes", "read_csv"]

_COLUMNS = {
    "image": ("image", "image_path", "img_path", "path", "file", "filename", "file_name", "file_path"),
    "x1": ("x1", "xmin", "x_min", "left"),
    "y1": ("y1", "ymin", "y_min", "top"),
    "x2": ("x2", "xmax", "x_max", "right"),
    "y2": ("y2", "ymax", "y_max", "bottom"),
    "label": ("label", "class", "class_name", "category", "name"),
    "split": ("split", "subset", "set"),
    "width": ("width",),
    "height": ("height",),
}
_NEEDED = ("image", "x1", "y1", "x2", "y2", "label")
_OTHER_BOXES = ("bbox", "bounding_box", "box")
_FIRST_CORNERS = (("x", "y"), ("x1", "y1"), ("xmin", "ymin"), ("x_min", "y_min"), ("left", "top"), ("cx", "cy"))
_SIDES = (("w", "h"), ("width", "height"), ("bbox_width", "bbox_height"), ("box_width", "box_height"))


@dataclass
class _Rows:
    """The rows of one image in one file."""

    file: Path
    size: tuple[int, int] = (0, 0)
    boxes: list[list[float]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)


def find_csv(root: Path) -> dict[str, Path]:
    """CSV files of a folder that hold boxes, by split; ``{"all": file}`` for one that names none; empty if none."""
    found = [p for folder in (root, *split_folders(root).values()) for p in files_with_suffix(folder, ".csv")]
    found = [p for p in found if _header(p) is not None]
    if len(found) == 1 and found[0].parent == root:
        return {split_name(found[0].stem) or "all": found[0]}
    splits: dict[str, Path] = {}
    for path in found:
        split = split_name(path.stem) or split_name(path.parent.name) or path.stem
        if split in splits:
            raise UserError(
                f"{root}: {shown(splits[split], root)} and {shown(path, root)} both describe the split {split!r}; "
                "remove one, or give one file as the path."
            )
        splits[split] = path
    return splits


def holds_boxes(path: Path) -> bool:
    """Whether a CSV file has the columns of boxes."""
    return _header(path) is not None


def _delimiter(line: str) -> str:
    return max(",;\t", key=line.count)


def _refuse_other_boxes(path: Path, cells: list[str]) -> None:
    """Refuse a header that speaks of boxes in a way that is not read, which no label of a whole image would."""
    remedy = "name the columns image, x1, y1, x2, y2, label, in pixels"
    missing = [k for k in _NEEDED if not any(n in cells for n in _COLUMNS[k])]
    if not set(missing) & {"x1", "y1", "x2", "y2"}:
        raise UserError(f"{path}: it has the corners of boxes but no column {' and '.join(missing)}; {remedy}.")
    if (name := next((n for n in _OTHER_BOXES if n in cells), None)) is not None:
        raise UserError(f"{path}: the column {name!r} holds whole boxes; {remedy}.")
    corner = next((pair for pair in _FIRST_CORNERS if set(pair) <= set(cells)), None)
    sides = next((pair for pair in _SIDES if set(pair) <= set(cells)), None)
    if corner and sides:
        raise UserError(
            f"{path}: the columns {', '.join((*corner, *sides))} look like boxes by their size, where corners are due; "
            f"{remedy}."
        )


def _header(path: Path) -> dict[str, int] | None:
    """Position of each column; empty for a file without header; None for a file that holds no boxes.

    Raises:
        UserError: it holds boxes, but not by their corners.
    """
    with path.open(encoding=encoding_of(path), errors="replace", newline="") as file:
        line = file.readline().strip()
    cells = [c.strip().lower() for c in next(csv.reader([line], delimiter=_delimiter(line)), [])]
    columns = {k: next((cells.index(n) for n in names if n in cells), -1) for k, names in _COLUMNS.items()}
    if all(columns[k] >= 0 for k in _NEEDED):
        return {k: i for k, i in columns.items() if i >= 0}
    if len(cells) == 6 and (not any(cells[1:]) or all(_is_number(c) for c in cells[1:5])):
        return {}
    _refuse_other_boxes(path, cells)
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_csv(root: Path, files: dict[str, Path]) -> DetectionSource:
    """Parse CSV files.

    Classes are the names that occur, sorted, numbered from 1 in ``category_ids``. A ``split`` column decides where
    there is one; otherwise the file or folder names do.

    Args:
        root: data set folder.
        files: CSV file by split, from `find_csv`.

    Raises:
        UserError: for a file without the needed columns, a row that cannot be parsed, or class names that contradict
            each other between splits.
    """
    splits: dict[str, list[tuple[str, _Rows]]] = {}
    for split, path in files.items():
        for name, found in _read_rows(path, root, split).items():
            splits.setdefault(name, []).extend(found.items())
    splits = in_split_order(splits)
    used = {split: {n for _, rows in images for n in rows.names} for split, images in splits.items()}
    check_class_names(used)
    classes = sorted(set().union(*used.values()))
    label = {name: i for i, name in enumerate(classes)}
    records = {
        split: [_record(root, name, rows, label, i) for i, (name, rows) in enumerate(images)]
        for split, images in splits.items()
    }
    return DetectionSource(
        root=str(root),
        format="csv",
        splits=records,
        classes=tuple(classes),
        category_ids=tuple(range(1, len(classes) + 1)),
        notes=("no split is given",) if "all" in records else (),
    )


def _read_rows(path: Path, root: Path, split: str) -> dict[str, dict[str, _Rows]]:
    """Rows by split and image name."""
    header = _header(path)
    if header is None:
        raise UserError(
            f"{path}: no columns image, x1, y1, x2, y2, label (or image, xmin, ymin, xmax, ymax, class) in its first "
            "line; name them so."
        )
    columns = header or {name: i for i, name in enumerate(_NEEDED)}
    found: dict[str, dict[str, _Rows]] = defaultdict(dict)
    line = 1
    try:
        with path.open(encoding=encoding_of(path), newline="") as file:
            delimiter = _delimiter(file.readline())
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter)
            for row in reader:
                line = reader.line_num
                if (header and line == 1) or not any(cell.strip() for cell in row):
                    continue
                if delimiter != ",":
                    row = [with_point(cell) if DECIMAL_COMMA.fullmatch(cell.strip()) else cell for cell in row]
                _add_row(found, path, root, split, columns, row, line)
    except UnicodeError as error:
        raise not_text(path, error) from error
    except csv.Error as error:
        raise UserError(f"{path}, line {line}: not readable as CSV ({error}); export it again.") from error
    if not found:
        raise UserError(f"{path}: no rows under the header; export it again.")
    return found


def _add_row(
    found: dict[str, dict[str, _Rows]],
    path: Path,
    root: Path,
    split: str,
    columns: dict[str, int],
    row: list[str],
    line: int,
) -> None:
    where = f"{shown(path, root)}, line {line}"
    cells = {name: row[i].strip() if i < len(row) else "" for name, i in columns.items()}
    if not cells["image"]:
        raise UserError(f"{where}: no image name; complete or remove the row.")
    given = cells.get("split", "")
    images = found[(split_name(given) or given) if given else split]
    rows = images.setdefault(cells["image"].replace("\\", "/"), _Rows(path))
    if cells.get("width") and cells.get("height"):
        width, height = parse_numbers((cells["width"], cells["height"]), where)
        rows.size = int(width), int(height)
    corners = [cells[k] for k in ("x1", "y1", "x2", "y2")]
    if not any(corners):
        return
    if not cells["label"]:
        raise UserError(f"{where}: a box without a label; complete or remove the row.")
    rows.boxes.append(parse_numbers(corners, where))
    rows.names.append(cells["label"])
    rows.lines.append(line)


def _record(root: Path, name: str, rows: _Rows, label: dict[str, int], image_id: int) -> DetectionRecord:
    places = [rows.file.parent, root, rows.file.parent / "images", root / "images", root / "JPEGImages"]
    path = next((p / name for p in places if (p / name).is_file()), rows.file.parent / name)
    return make_record(
        str(path),
        rows.size,
        rows.boxes,
        [label[n] for n in rows.names],
        image_id,
        annotation=str(rows.file),
        object_ids=tuple(f"line {n}" for n in rows.lines),
    )
