"""Where the images lie that one file for a whole split names: their folder is a matter of taste among exporters."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from dlrecipes.data.formats.layout import shown, split_folders, split_name
from dlrecipes.errors import UserError

__all__ = ["named_image_paths"]

_SAMPLE = 20  # images by which a folder is chosen


def named_image_paths(
    file: Path, root: Path, split: str, names: Sequence[str], notes: list[str], *, also: Sequence[Sequence[str]] = ()
) -> list[Path]:
    """The path of each image; one that is nowhere keeps its place in the folder of the others, for the audit to name.

    The folder that holds most of a sample counts. What is not in it is looked for in the other folders: not in those
    of another split, and not in those that hold images of the first one by the same names, as masks and thumbnails do.
    The names may carry folders of the author's machine: where no image is found by its whole name, it counts without
    the folders that all names share, then its last part, if that is unique.

    Args:
        file: COCO JSON, or what else names images.
        root: data set folder.
        split: its name, or ``"all"``.
        names: of the images, with ``/`` between folders.
        notes: gets a sentence for images that lie in another folder than the most.
        also: the same names as they may be called instead, tried last.

    Raises:
        UserError: if no image is found, or if one is in two of the other folders.
    """
    folders = _candidates(file, root, split)
    for tried in (*_spellings(names), *also):
        best = _fullest(folders, tried)
        if best is None:
            continue
        missing = [n for n in tried if not (best / n).is_file()]
        others = _extensions(folders, best, split, set(tried) - set(missing)) if missing else []
        elsewhere = {n: found for n in missing if (found := _one_of(others, n, file, root)) is not None}
        notes += [
            f"{split}: {count} of {len(names)} images from {shown(folder, root)}, others from {shown(best, root)}"
            for folder, count in Counter(elsewhere.values()).items()
        ]
        return [elsewhere.get(n, best) / n for n in tried]
    looked = ", ".join(shown(f, root) for f in folders)
    raise UserError(
        f"{file}: annotations for missing images: none of its {len(names)} images, such as {names[0]!r}, "
        f"is in {looked}; put the images into images/ beside it."
    )


def _fullest(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    """The folder that holds most of a sample, or of all images where none of the sample is found; None: no image."""
    for sample in (names[:: max(1, len(names) // _SAMPLE)], names):
        held = {folder: sum((folder / n).is_file() for n in sample) for folder in folders}
        best = max(folders, key=lambda f: held[f])
        if held[best]:
            return best
    return None


def _spellings(names: Sequence[str]) -> list[list[str]]:
    """The names as they are written, without the folders that all share, and their last parts where these differ."""
    shared = os.path.commonpath([n.rpartition("/")[0] for n in names]) if _alike(names) else ""
    shorter = [n.removeprefix(shared).lstrip("/") for n in names]
    last_parts = [n.rpartition("/")[2] for n in names]
    spellings = [list(names)] + ([shorter] if shorter != list(names) else [])
    return [*spellings, last_parts] if len(set(last_parts)) == len(names) else spellings


def _alike(names: Sequence[str]) -> bool:
    """`os.path.commonpath` takes absolute or relative paths, not both."""
    return len({n.startswith("/") for n in names}) == 1


def _candidates(file: Path, root: Path, split: str) -> list[Path]:
    """Folders in which the images may be."""
    stem = file.stem.removeprefix("instances_")
    bases = [file.parent, root, root / "images", file.parent / "images", root / "data", root / "JPEGImages"]
    candidates = [*bases, *(b / n for b in bases for n in (stem, split))]
    candidates += [found[split] for b in bases if b.is_dir() and split in (found := split_folders(b))]
    candidates += [*_sub_folders(root), *_sub_folders(root / "images"), *_sub_folders(root / "data")]
    return list(dict.fromkeys(c for c in candidates if c.is_dir()))


def _sub_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:  # without a stat for each image
        return sorted(folder / e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _extensions(folders: Sequence[Path], best: Path, split: str, found: Collection[str]) -> list[Path]:
    """Folders that may hold the rest of a split whose images ``found`` are in ``best``."""
    return [
        folder
        for folder in folders
        if folder != best
        # ``trainval`` may lie in train and val, a file without a split anywhere
        and (split == "all" or (split_name(folder.name) or split) in split)
        and not any((folder / n).is_file() for n in found)
    ]


def _one_of(folders: Sequence[Path], name: str, file: Path, root: Path) -> Path | None:
    """The folder that holds the image; None if none does."""
    holding = [folder for folder in folders if (folder / name).is_file()]
    if len(holding) > 1:
        raise UserError(
            f"{file}: image {name!r} is in {shown(holding[0], root)} and in {shown(holding[1], root)}; "
            "write its folder before its name."
        )
    return holding[0] if holding else None
