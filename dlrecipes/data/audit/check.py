"""``dlrecipes check-data PATH``: the audit on its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from dlrecipes.data.audit.audit_boxes import audit
from dlrecipes.data.audit.audit_images import audit_images
from dlrecipes.data.audit.audit_report import AuditReport
from dlrecipes.data.audit.image_report import ImageAuditReport
from dlrecipes.data.formats.discover import DETECTION_FORMATS, holds_detection, read_detection
from dlrecipes.data.formats.discover_images import IMAGE_FORMATS, holds_images, read_images
from dlrecipes.errors import UserError

__all__ = ["DATA_KINDS", "check_data"]

DATA_KINDS = ("auto", "detection", "images")

_OPTIONS = {
    "--data.skip_corrupt true": "--skip-corrupt",
    "--data.kind": "--target-kind",
    "--data.target": "--target",
    "--data.image_column": "--image-column",
}


def check_data(
    path: str | Path,
    *,
    kind: str = "auto",
    max_queries: int | None = None,
    skip_corrupt: bool = False,
    stride: int = 16,
    target: str | Sequence[str] | None = None,
    target_kind: str = "auto",
    image_column: str | None = None,
    json_file: str | Path | None = None,
) -> int:
    """Read and audit a data set as it is on disk, and print the table.

    Args:
        path: see `read_detection` and `read_images`.
        kind: ``"detection"``, ``"images"`` (labelled ones), or ``"auto"``: detection where there are annotations
            of boxes, otherwise labelled images.
        max_queries, stride: of detection, see `audit`.
        skip_corrupt: leave out images that are missing or cannot be decoded, counted.
        target, target_kind, image_column: of labelled images, see `read_images`, which calls the second ``kind``.
        json_file: where to write the report as JSON, too.

    Returns:
        0, the exit code: usable, as it is or with the repairs in the table.

    Raises:
        UserError: if the data cannot be used as it is, or ``json_file`` not written.
    """
    report: AuditReport | ImageAuditReport
    try:
        if _as_images(path, kind):
            source = read_images(path, target=target, kind=target_kind, image_column=image_column)
            report = audit_images(source, skip_corrupt=skip_corrupt)
        else:
            report = audit(read_detection(path), max_queries=max_queries, skip_corrupt=skip_corrupt, stride=stride)
    except UserError as error:
        raise UserError(_with_own_options(str(error))) from error
    report.print()
    if json_file is not None:
        try:
            Path(json_file).write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{json_file} cannot be written ({error.strerror}); give another file.") from error
    return 0


def _with_own_options(message: str) -> str:
    """A remedy that names an option of a recipe, with this command's name for it."""
    for theirs, ours in _OPTIONS.items():
        message = message.replace(theirs, ours)
    return message


def _as_images(path: str | Path, kind: str) -> bool:
    if kind not in DATA_KINDS:
        raise UserError(f"kind must be one of {', '.join(DATA_KINDS)}, got {kind!r}.")
    if kind != "auto":
        return kind == "images"
    if holds_detection(path):
        return False
    if holds_images(path):
        return True
    given = Path(path).expanduser()
    if not given.exists():
        raise UserError(f"{given} does not exist; give the folder or file of a data set.")
    if given.is_file():
        raise UserError(f"{given} is no data set; give a folder, or a .json, .yaml, .csv, .tsv or .parquet file.")
    raise UserError(
        f"{given} holds neither annotations of boxes nor labelled images; looked for {DETECTION_FORMATS}, and for "
        f"{IMAGE_FORMATS}."
    )
