"""The audit before training: every image is decoded once, every box is looked at.

What has one obvious repair is repaired and counted; for the rest there is one sentence that names the file and the
remedy, before any compute is spent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import numpy as np

from dlrecipes.data.audit.audit_report import AuditReport, SplitStats
from dlrecipes.data.audit.box_checks import (
    refuse_misread_boxes,
    refuse_non_finite_boxes,
    refuse_turned_boxes,
    repair_boxes,
)
from dlrecipes.data.audit.near_duplicates import KEEP_TOGETHER, find_near_copies, near_copy_warnings
from dlrecipes.data.audit.probe import ImageFacts, probe_images
from dlrecipes.data.audit.turned import turned_pictures
from dlrecipes.data.formats.layout import shown
from dlrecipes.data.formats.records import DetectionRecord, DetectionSource, Finding
from dlrecipes.data.loading.decode import read_image
from dlrecipes.errors import UserError
from dlrecipes.functional.words import counted

__all__ = ["audit"]

_SKIP = "--data.skip_corrupt true"


def audit(
    source: DetectionSource,
    *,
    max_queries: int | None = None,
    skip_corrupt: bool = False,
    stride: int = 16,
    workers: int | None = None,
    show_progress: bool = True,
) -> AuditReport:
    """Check a parsed data set and repair what can be repaired.

    - Every image is decoded completely (remembered by path, size and time of change: `probe_images`).
    - Sizes written in the annotations are replaced by the files' own.
    - Pictures whose boxes were drawn on them as their EXIF orientation turns them are read turned (`turned_pictures`).
    - Boxes are clipped to the image, boxes without area dropped; both are counted and named.
    - Splits are compared by content: an image in two of them is a warning, and so is one that has a near copy in
      another one (`find_near_copies`).

    Args:
        source: from `read_detection`, with or without `split_by_seed`.
        max_queries: most objects an image may hold; None: not checked.
        skip_corrupt: leave out missing and undecodable images, counted, instead of refusing them.
        stride: pixels per feature cell of the box-size histogram.
        workers: decoding threads; None: as many as cores.
        show_progress: a progress bar, where stderr is a terminal.

    Returns:
        The report; ``report.source`` is the repaired data set.

    Raises:
        UserError: for missing or undecodable images (unless skipped), boxes that are not finite, a split that was
            evidently misread, annotations made for another size, more objects than queries, or nothing to train on.
        ValueError: if ``stride`` or ``max_queries`` is below 1.
    """
    if stride < 1 or (max_queries is not None and max_queries < 1):
        raise ValueError(f"stride={stride} and max_queries={max_queries} must be at least 1")
    # A record may be in two splits (trainval): it is checked once and stays one record.
    unique = list({id(r): r for records in source.splits.values() for r in records}.values())
    refuse_non_finite_boxes(unique, source.root)
    facts = probe_images([r.path for r in unique], source.root, workers=workers, show_progress=show_progress)
    findings = list(source.problems)
    readable = _readable(unique, facts, source.root, skip_corrupt, findings)
    turned = turned_pictures(readable, facts, source.format)
    sized = _true_sizes(readable, turned, facts, source.root, findings)
    stored = [r for r in sized.values() if facts[r.path].orientation in range(5, 9) and not r.turned]
    refuse_turned_boxes(stored, source.root)
    for split, records in source.splits.items():
        refuse_misread_boxes(split, [sized[id(r)] for r in records if id(r) in sized], source.format, source.root)
    repaired = {}
    for key, record in sized.items():
        repaired[key], found = repair_boxes(record, source.root)
        findings += found
    splits = {name: [repaired[id(r)] for r in rs if id(r) in repaired] for name, rs in source.splits.items()}
    _refuse_nothing_left(source, splits)
    _refuse_crowded(repaired.values(), max_queries, source.root)
    notes = (f"images turned upright, as their EXIF orientation says: {len(turned)}",) if turned else ()
    done = replace(source, splits=splits, notes=(*source.notes, *notes), problems=())
    return AuditReport(
        source=done,
        splits={name: SplitStats.of(records, len(source.classes), stride) for name, records in splits.items()},
        total=SplitStats.of(_each_image_once(repaired.values()), len(source.classes), stride),
        findings=tuple(dict.fromkeys(findings)),
        warnings=(*_warnings(done, facts), *_near_copies(done, facts, workers, show_progress)),
        stride=stride,
    )


def _readable(
    records: list[DetectionRecord],
    facts: Mapping[str, ImageFacts],
    root: str,
    skip_corrupt: bool,
    findings: list[Finding],
) -> list[DetectionRecord]:
    """The records whose image could be decoded; the others are refused or dropped."""
    failed = [r for r in records if facts[r.path].error]
    if failed and not skip_corrupt:
        record = failed[0]
        more = f" ({len(failed) - 1} more like it)" if len(failed) > 1 else ""
        if facts[record.path].missing:
            raise UserError(
                f"{shown(record.annotation, root)} annotates a missing image: {record.path} does not exist{more}; "
                f"restore it, or leave such images out with {_SKIP}."
            )
        raise UserError(
            f"{facts[record.path].error.rstrip('.')}{more}; replace it, or leave such images out with {_SKIP}."
        )
    for record in failed:
        kind = "image missing (left out)" if facts[record.path].missing else "image not decodable (left out)"
        detail = "" if facts[record.path].missing else facts[record.path].error
        findings.append(Finding(kind, shown(record.path, root), detail))
    if failed and len(failed) == len(records):
        raise UserError(f"{root}: none of the {len(records)} images can be decoded, {records[0].path} for one.")
    return [r for r in records if not facts[r.path].error]


def _true_sizes(
    records: list[DetectionRecord],
    turned: Collection[str],
    facts: Mapping[str, ImageFacts],
    root: str,
    findings: list[Finding],
) -> dict[int, DetectionRecord]:
    """The records with the size of the decoded image, turned or not, by ``id`` of the old record.

    A wrong size in the annotation alone is harmless: the boxes are taken as written. It is refused where the boxes
    went with it: the box of an image that was resized or rotated later leaves the picture, or sizes are wrong mostly.
    """
    sized, wrong = {}, []
    for record in records:
        fact = facts[record.path]
        is_turned = record.path in turned
        true = fact.shown_size if is_turned else (fact.width, fact.height)
        written = (record.width, record.height)
        same = written == true and not is_turned
        sized[id(record)] = record if same else replace(record, width=true[0], height=true[1], turned=is_turned)
        if written == true or 0 in written:  # many tools write 0 for "unknown"
            continue
        wrong.append(record)
        sizes = f"is {true[0]}x{true[1]}, its annotation says {written[0]}x{written[1]}"
        beyond = len(record.boxes) and (record.boxes[:, 2:] > (true[0] + 1, true[1] + 1)).any()
        if beyond and not (record.boxes[:, 2:] > (written[0] + 1, written[1] + 1)).any():
            raise UserError(
                f"{record.path} {sizes}, and so do its boxes; use the images that were annotated, or scale the boxes."
            )
        findings.append(
            Finding("annotation with another image size (the file's is used)", shown(record.path, root), sizes)
        )
    if len(wrong) > len(records) / 2:
        raise UserError(
            f"{root}: {len(wrong)} of {len(records)} images have another size than their annotations say, such as "
            f"{findings[-1]}; use the images that were annotated, or scale the boxes."
        )
    return sized


def _refuse_nothing_left(source: DetectionSource, splits: Mapping[str, list[DetectionRecord]]) -> None:
    for name, records in splits.items():
        if not records:
            raise UserError(f"{source.root}: the split {name!r} holds no image; add images or remove the split.")
        had = sum(len(r.boxes) for r in source.splits[name])
        if had and not any(len(r.boxes) for r in records):
            boxes = counted(had, "box", "boxes")
            raise UserError(f"{source.root}: none of the {boxes} of {name!r} has an area inside its image.")
    if not any(len(r.boxes) for records in splits.values() for r in records):
        raise UserError(f"{source.root}: no object is annotated in any image; there is nothing to learn.")


def _refuse_crowded(records: Iterable[DetectionRecord], max_queries: int | None, root: str) -> None:
    if max_queries is None:
        return
    count, path = max((int((~r.iscrowd).sum()), r.path) for r in records)
    if count > max_queries:
        raise UserError(
            f"{shown(path, root)} holds {counted(count, 'object')}, more than the model's {max_queries} queries; "
            f"raise --model.model.num_queries to at least {count}."
        )


def _each_image_once(records: Iterable[DetectionRecord]) -> list[DetectionRecord]:
    return list({r.path: r for r in records}.values())


def _warnings(source: DetectionSource, facts: Mapping[str, ImageFacts]) -> Iterable[str]:
    yield from _leaks(source, facts)
    train = next((source.splits[n] for n in ("train", "trainval", "all") if n in source.splits), None)
    if train is not None:
        seen = {int(k) for r in train for k in r.labels[~r.iscrowd]}
        absent = [name for k, name in enumerate(source.classes) if k not in seen]
        if absent:
            yield f"no box to learn from for {_some(absent)}."
    records = _each_image_once(r for part in source.splits.values() for r in part)
    stored = [r.path for r in records if facts[r.path].orientation in range(2, 9) and not r.turned]
    if stored:
        yield (
            f"{counted(len(stored), 'image')} with an EXIF rotation, which is not applied "
            f"({shown(stored[0], source.root)}); if the boxes were drawn on the rotated pictures, save these rotated."
        )


def _near_copies(
    source: DetectionSource, facts: Mapping[str, ImageFacts], workers: int | None, show_progress: bool
) -> Iterable[str]:
    paths = list(dict.fromkeys(r.path for records in source.splits.values() for r in records))
    row_of = {path: row for row, path in enumerate(paths)}
    found = find_near_copies(
        {s: np.array([row_of[r.path] for r in records], np.int64) for s, records in source.splits.items()},
        np.array([facts[path].fingerprint for path in paths], dtype=np.uint64),
        [facts[path].digest for path in paths],
        np.array([(facts[path].height, facts[path].width) for path in paths], dtype=np.int64),
        lambda row: read_image(paths[row]),
        workers=workers,
        show_progress=show_progress,
    )
    yield from near_copy_warnings(found, lambda row: shown(paths[row], source.root), remedy=KEEP_TOGETHER)


def _leaks(source: DetectionSource, facts: Mapping[str, ImageFacts]) -> Iterable[str]:
    """Images whose pixels occur in two splits, or twice in one."""
    names = set(source.splits)
    if names >= {"train", "trainval"}:
        names.discard("trainval")  # it holds train by definition
    places: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for split in (s for s in source.splits if s in names):
        for record in source.splits[split]:
            places[facts[record.path].digest].append((split, shown(record.path, source.root)))
    across = [found for found in places.values() if len({split for split, _ in found}) > 1]
    if across:
        pairs = [" = ".join(f"{path} ({split})" for split, path in _first_per_split(found)) for found in across]
        many = counted(len(across), "image")
        yield f"{many} in more than one split, which makes results look better: {_some(pairs)}."
    copies = sum(len(found) - len({split for split, _ in found}) for found in places.values())
    if copies:
        twice = next(f for f in places.values() if len(f) > len({split for split, _ in f}))
        yield f"{counted(copies, 'copy', 'copies')} of another image in the same split, such as {twice[-1][1]}."


def _first_per_split(found: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return list({split: (split, path) for split, path in reversed(found)}.values())[::-1]


def _some(items: list[str], limit: int = 5) -> str:
    return ", ".join(items[:limit]) + (f" and {len(items) - limit} more" if len(items) > limit else "")
