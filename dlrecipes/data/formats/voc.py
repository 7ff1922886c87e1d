"""Pascal VOC: one XML file an image, with or without lists of splits.

Format: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html.

**Convention of the corners.** The official devkit counts pixels from 1 and includes the last one; nearly every tool
that writes this format today (labelImg, CVAT, Roboflow) counts from 0. No file says which it is, and subtracting 1
would push the boxes of the newer tools out of the image. So the corners are taken as written, as (x1, y1, x2, y2) in
continuous coordinates, and clipped to the image; on official data that is a shift of at most one pixel.

``difficult`` and ``truncated`` objects are objects like any other.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dlrecipes.data.formats.layout import (
    IMAGE_SUFFIXES,
    check_class_names,
    files_with_suffix,
    image_index,
    in_split_order,
    parse_numbers,
    read_lines,
    shown,
    split_folders,
    split_name,
)
from dlrecipes.data.formats.records import DetectionRecord, DetectionSource, make_record
from dlrecipes.errors import UserError

__all__ = ["find_voc", "read_voc"]

_IMAGE_FOLDERS = ("JPEGImages", "images", "Images")


@dataclass(frozen=True)
class _VocFile:
    """One parsed annotation file; ``names`` are class names, not yet numbers."""

    path: Path
    image: Path
    size: tuple[int, int]
    boxes: list[list[float]]
    names: list[str]


def find_voc(root: Path) -> dict[str, list[Path]]:
    """Annotation files of a folder by split; ``{"all": files}`` if none is given; empty if there are none."""
    annotations = root / "Annotations"
    if files := files_with_suffix(annotations, ".xml"):
        return _listed_splits(root, files) or {"all": files}
    folders = {split: files_with_suffix(folder, ".xml") for split, folder in split_folders(root).items()}
    if found := {split: files for split, files in folders.items() if files}:
        return found
    if files := files_with_suffix(root, ".xml") or files_with_suffix(root / "annotations", ".xml"):
        return {"all": files}
    return _split_annotations(root)


def _split_annotations(root: Path) -> dict[str, list[Path]]:
    """The files of ``annotations/train``, ``annotations/val`` ... by split."""
    for apart in (root / "Annotations", root / "annotations"):
        folders = split_folders(apart) if apart.is_dir() else {}
        if found := {split: files for split, folder in folders.items() if (files := files_with_suffix(folder, ".xml"))}:
            return found
    return {}


def _listed_splits(root: Path, files: list[Path]) -> dict[str, list[Path]]:
    """The splits of ``ImageSets/Main``; its lists per class (``cat_train.txt``) are not splits."""
    by_stem = {f.stem: f for f in files}
    splits = {}
    for listing in files_with_suffix(root / "ImageSets" / "Main", ".txt"):
        split = split_name(listing.stem)
        if split is None or "_" in listing.stem:
            continue
        stems = [line.split()[0] for line in read_lines(listing) if line.strip()]
        known = [by_stem[s] for s in stems if s in by_stem]
        if stems and not known and split == "test":
            continue  # the official VOC2012 test split is published without annotations
        if missing := [s for s in stems if s not in by_stem]:
            raise UserError(
                f"{listing}: lists {missing[0]!r}{_more(missing)}, but Annotations/{missing[0]}.xml does not exist; "
                "add the file or remove the line."
            )
        if known:
            splits[split] = known
    return splits


def _more(items: list[str]) -> str:
    return f" (and {len(items) - 1} more)" if len(items) > 1 else ""


def read_voc(root: Path, files: dict[str, list[Path]]) -> DetectionSource:
    """Parse VOC files.

    Classes are the names that occur, sorted; VOC has no ids, so they are numbered from 1 in ``category_ids``.

    Args:
        root: data set folder.
        files: annotation files by split, from `find_voc`. A file in two splits gives one record, in both.

    Raises:
        UserError: for a file that cannot be parsed or class names that contradict each other between splits.
    """
    folders = _ImageFolders(root)
    files = in_split_order(files)
    unique = dict.fromkeys(path for paths in files.values() for path in paths)
    parsed = {path: _parse(path, folders) for path in unique}
    used = {split: {n for path in paths for n in parsed[path].names} for split, paths in files.items()}
    check_class_names(used)
    classes = sorted(set().union(*used.values()))
    label = {name: i for i, name in enumerate(classes)}
    records = {path: _record(voc, label, i) for i, (path, voc) in enumerate(parsed.items())}
    return DetectionSource(
        root=str(root),
        format="voc",
        splits={split: [records[path] for path in paths] for split, paths in files.items()},
        classes=tuple(classes),
        category_ids=tuple(range(1, len(classes) + 1)),
        notes=tuple(_notes(root, files, parsed, folders)),
    )


class _ImageFolders:
    """Finds the image of an annotation file by the file's own stem, then by the name written inside it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._index: dict[Path, dict[str, Path]] = {}

    def index(self, folder: Path) -> dict[str, Path]:
        if folder not in self._index:
            self._index[folder] = image_index(folder)
        return self._index[folder]

    def find(self, annotation: Path, written: str) -> Path:
        beside = annotation.parent
        folders = [beside, *(p / n for p in (self.root, beside) for n in _IMAGE_FOLDERS)]
        folders += [self.root / n / beside.name for n in _IMAGE_FOLDERS]
        folders.append(self.root)
        # The written name may carry the path of the author's machine, and is often stale after files were renamed.
        name = written.replace("\\", "/").rpartition("/")[2]
        for stem in dict.fromkeys((annotation.stem, Path(name).stem)):
            for folder in folders:
                if stem in self.index(folder):
                    return self.index(folder)[stem]
        # Not there: say where it would be expected.
        apart = self.root / "JPEGImages" if beside.name.lower() == "annotations" else beside
        home = next((f for f in folders[1:] if self.index(f)), apart)
        suffix = Path(name).suffix if Path(name).suffix.lower() in IMAGE_SUFFIXES else ".jpg"
        return home / f"{annotation.stem}{suffix}"


def _parse(path: Path, folders: _ImageFolders) -> _VocFile:
    try:
        tree = ET.parse(path).getroot()
    except ET.ParseError as error:
        line, column = error.position
        raise UserError(
            f"{path}: the XML breaks off or is invalid at line {line}, column {column + 1}; export the file again."
        ) from error
    boxes, names = [], []
    for number, entry in enumerate(tree.findall("object"), start=1):
        where = f"{shown(path, folders.root)}, object {number}"
        name, box = (entry.findtext("name") or "").strip(), entry.find("bndbox")
        if not name or box is None:
            raise UserError(f"{where} needs a <name> and a <bndbox>; complete it or remove the object.")
        boxes.append(parse_numbers((box.findtext(k) for k in ("xmin", "ymin", "xmax", "ymax")), where))
        names.append(name)
    width, height = parse_numbers(
        (tree.findtext("size/width") or 0, tree.findtext("size/height") or 0), f"{shown(path, folders.root)}, size"
    )
    return _VocFile(path, folders.find(path, tree.findtext("filename") or ""), (int(width), int(height)), boxes, names)


def _record(voc: _VocFile, label: dict[str, int], image_id: int) -> DetectionRecord:
    return make_record(
        str(voc.image),
        voc.size,
        voc.boxes,
        [label[n] for n in voc.names],
        image_id,
        annotation=str(voc.path),
        object_ids=tuple(f"object {i + 1}" for i in range(len(voc.names))),
    )


def _notes(
    root: Path, files: dict[str, list[Path]], parsed: Mapping[Path, _VocFile], folders: _ImageFolders
) -> Iterable[str]:
    if "all" in files:
        yield "no split is given"
    elif unlisted := len(set(files_with_suffix(root / "Annotations", ".xml")) - set(parsed)):
        yield f"annotation files in no split, left out: {unlisted}"
    used = {voc.image for voc in parsed.values()}
    if unlabelled := sum(len(set(folders.index(p).values()) - used) for p in {image.parent for image in used}):
        yield f"images without an annotation file (or in no split), left out: {unlabelled}"
