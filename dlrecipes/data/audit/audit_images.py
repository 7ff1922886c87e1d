"""The audit of labelled images before training: every image is decoded once, every target is looked at.

What would fail or mislead later is one sentence now, which names the image and the remedy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dlrecipes.data.audit.image_probe import MODES, SourceFacts, probe_source
from dlrecipes.data.audit.image_report import ImageAuditReport, ImageStats
from dlrecipes.data.audit.image_warnings import audit_warnings
from dlrecipes.data.audit.near_duplicates import KEEP_TOGETHER, find_near_copies, near_copy_warnings
from dlrecipes.data.formats.image_files import take
from dlrecipes.data.formats.image_source import ImageSource, ImageTable
from dlrecipes.data.formats.layout import shown
from dlrecipes.data.formats.records import Finding
from dlrecipes.errors import UserError

__all__ = ["ImageAuditReport", "audit_images", "missing_image"]

_SKIP = "--data.skip_corrupt true"
_FORMS = {
    **dict.fromkeys(("L", "1"), "grey"),
    **dict.fromkeys(("LA", "La", "RGBA", "RGBa", "PA"), "with an alpha channel (dropped)"),
    **dict.fromkeys(("I", "I;16", "I;16L", "I;16B", "I;16N"), "of 16 bits (scaled to 8)"),
    "P": "with a palette",
    "CMYK": "in CMYK",
}


def audit_images(
    source: ImageSource,
    *,
    skip_corrupt: bool = False,
    workers: int | None = None,
    show_progress: bool = True,
) -> ImageAuditReport:
    """Check a parsed data set of labelled images.

    - Every image is decoded completely (remembered by name, size and time of change: `probe_source`).
    - Targets and weights must be finite, classes must occur in training.
    - Images are compared by content: one that is in two splits, or has two labels, is a warning; so is one that has a
      near copy in another split (`find_near_copies`).

    The training split is ``train``, ``trainval`` or ``all``, otherwise the first.

    Args:
        source: from `read_images`, with or without `split_images`.
        skip_corrupt: leave out missing and undecodable images, counted, instead of refusing them.
        workers: decoding threads; None: as many as cores.
        show_progress: a progress bar, where stderr is a terminal.

    Returns:
        The report; ``report.source`` is the data set to use, with the sizes of its images.

    Raises:
        UserError: for missing or undecodable images (unless skipped), a split without images, targets or weights that
            are not usable, a class that is only in a held-out split, or nothing to tell apart.
    """
    _refuse_empty_splits(source)
    facts = probe_source(
        [t.images for t in source.splits.values()], source.root, workers=workers, show_progress=show_progress
    )
    folder = str(Path(source.root).parent) if Path(source.root).is_file() else source.root
    findings = [*source.problems, *_unreadable(source, facts, folder, skip_corrupt)]
    done, facts = _with_sizes(source, facts)
    _refuse_empty_splits(done)
    for split, table in done.splits.items():
        _refuse_unusable_numbers(done, split, table, folder)
    train = next((name for name in ("train", "trainval", "all") if name in done.splits), next(iter(done.splits)))
    _refuse_nothing_to_learn(done, train, folder)
    forms = Counter(_FORMS.get(MODES[mode], "in another form") for mode in facts.mode.tolist() if MODES[mode] != "RGB")
    return ImageAuditReport(
        source=done,
        splits={name: ImageStats.of(table, done) for name, table in done.splits.items()},
        findings=tuple(findings),
        warnings=(
            *audit_warnings(done, facts, train, folder),
            *_near_copies(done, facts, folder, workers, show_progress),
        ),
        conversions=dict(forms.most_common()),
        turned=int(np.isin(facts.orientation, range(2, 9)).sum()),
    )


def missing_image(root: str, name: str, more: str) -> UserError:
    """The sentence about an image that does not exist.

    Args:
        root: of the data.
        name: of the image.
        more: ``" (2 more like it)"``, or nothing.
    """
    return UserError(
        f"{root} names a missing image: {name} does not exist{more}; restore it, or leave such images out with {_SKIP}."
    )


def _refuse_empty_splits(source: ImageSource) -> None:
    for name, table in source.splits.items():
        if not len(table):
            raise UserError(f"{source.root}: the split {name!r} holds no image; add images or remove the split.")
    if not source.splits:
        raise UserError(f"{source.root}: there is no image; add images.")


def _unreadable(source: ImageSource, facts: SourceFacts, folder: str, skip_corrupt: bool) -> list[Finding]:
    """Refuse images that could not be decoded, or list them."""
    names = _names(source, sorted(facts.errors))
    if names and not skip_corrupt:
        row, name = next(iter(names.items()))
        more = f" ({len(names) - 1} more like it)" if len(names) > 1 else ""
        if row in facts.missing:
            raise missing_image(source.root, name, more)
        raise UserError(f"{facts.errors[row].rstrip('.')}{more}; replace it, or leave such images out with {_SKIP}.")
    total = sum(len(table) for table in source.splits.values())
    if len(names) == total:
        raise UserError(f"{source.root}: none of the {total} images can be decoded, {names[0]} for one.")
    return [
        Finding(
            "image missing (left out)" if row in facts.missing else "image not decodable (left out)",
            shown(name, folder),
            "" if row in facts.missing else facts.errors[row],
        )
        for row, name in names.items()
    ]


def _names(source: ImageSource, rows: Iterable[int]) -> dict[int, str]:
    """Names of images by their row over all splits."""
    starts = np.cumsum([0, *(len(table) for table in source.splits.values())])
    tables = list(source.splits.values())
    found = {}
    for row in rows:
        k = int(np.searchsorted(starts, row, side="right")) - 1
        found[row] = tables[k].images.name(row - int(starts[k]))
    return found


def _with_sizes(source: ImageSource, facts: SourceFacts) -> tuple[ImageSource, SourceFacts]:
    """The source with sizes and without what could not be decoded, and the facts about what is left."""
    readable = np.ones(len(facts.sizes), dtype=np.bool_)
    readable[list(facts.errors)] = False
    splits, start = {}, 0
    for name, table in source.splits.items():
        part = slice(start, start + len(table))
        start = part.stop
        sized = replace(table, sizes=facts.sizes[part])
        keep = readable[part]
        splits[name] = sized if keep.all() else take(sized, np.flatnonzero(keep))
    left = SourceFacts(
        digest=facts.digest[readable],
        fingerprint=facts.fingerprint[readable],
        sizes=facts.sizes[readable],
        mode=facts.mode[readable],
        orientation=facts.orientation[readable],
        errors={},
        missing=frozenset(),
    )
    return replace(source, splits=splits, problems=()), left


def _near_copies(
    source: ImageSource, facts: SourceFacts, folder: str, workers: int | None, show_progress: bool
) -> Iterable[str]:
    if source.format == "digits":  # 8×8 scans, a writer each: some are alike at any size, none is a copy
        return
    places = [(table.images, index) for table in source.splits.values() for index in range(len(table))]
    ends = np.cumsum([len(table) for table in source.splits.values()])
    rows = {
        name: np.arange(end - len(table), end)
        for (name, table), end in zip(source.splits.items(), ends.tolist(), strict=True)
    }
    found = find_near_copies(
        rows,
        facts.fingerprint,
        facts.digest,
        facts.sizes,
        lambda row: places[row][0].read(places[row][1]),
        workers=workers,
        show_progress=show_progress,
    )
    yield from near_copy_warnings(
        found,
        lambda row: shown(places[row][0].name(places[row][1]), folder),
        remedy=KEEP_TOGETHER,
    )


def _refuse_unusable_numbers(source: ImageSource, split: str, table: ImageTable, folder: str) -> None:
    def place(row: int) -> str:
        name = shown(table.images.name(row), folder)
        return f"{source.root}: {name}" if split == "all" else f"{source.root}: {name} ({split})"

    if source.task == "regression":
        wrong = ~np.isfinite(table.targets)
        if wrong.any():
            row, column = (int(k) for k in np.argwhere(wrong)[0])
            raise UserError(
                f"{place(row)} has the target {source.target_names[column]} = {table.targets[row, column]:g}"
                f"{_more(wrong.any(axis=1))}; numbers to predict must be finite: correct or remove the row."
            )
    if table.weights is not None:
        wrong = ~(np.isfinite(table.weights) & (table.weights >= 0))
        if wrong.any():
            row = int(wrong.argmax())
            raise UserError(
                f"{place(row)} has the weight {table.weights[row]:g}{_more(wrong)}; weights must be finite and not "
                "negative: correct or remove the row."
            )


def _of(split: str) -> str:
    return "" if split == "all" else f" of {split}"


def _more(wrong: NDArray[np.bool_]) -> str:
    count = int(wrong.sum()) - 1
    return f" ({count} more like it)" if count else ""


def _refuse_nothing_to_learn(source: ImageSource, train: str, folder: str) -> None:
    table = source.splits[train]
    if table.weights is not None and not table.weights.any():
        raise UserError(f"{source.root}: all weights{_of(train)} are 0; there is nothing to learn from.")
    if source.task == "regression":
        if len(table) > 1 and (table.targets == table.targets[0]).all():
            values = ", ".join(f"{n} = {v:g}" for n, v in zip(source.target_names, table.targets[0], strict=True))
            raise UserError(f"{source.root}: every image{_of(train)} has the target {values}; nothing can be learnt.")
        return
    if source.task == "multilabel":
        if not table.targets.any():
            raise UserError(f"{source.root}: no image{_of(train)} has any label; there is nothing to learn.")
        return
    present = set(np.unique(table.targets).tolist())
    if len(source.classes) < 2 or len(present) < 2:
        only = source.classes[min(present)]
        raise UserError(
            f"{source.root}: all images{_of(train)} are of one class, {only!r}; there must be two to tell apart."
        )
    _refuse_unseen(source, train, present, folder)


def _refuse_unseen(source: ImageSource, train: str, present: set[int], folder: str) -> None:
    for split, table in source.splits.items():
        unseen = sorted(set(np.unique(table.targets).tolist()) - present)
        if not unseen or {split, train} == {"val", "trainval"}:
            continue
        row = int(np.argmax(table.targets == unseen[0]))
        more = f" ({len(unseen) - 1} more classes like it)" if len(unseen) > 1 else ""
        raise UserError(
            f"{source.root}: the class {source.classes[unseen[0]]!r} is in {split} but not in {train}{more}, such as "
            f"{shown(table.images.name(row), folder)}; add training images of it, or remove it from {split}."
        )
