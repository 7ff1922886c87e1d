"""``dlrecipes check-data PATH``: the audit on its own."""

from __future__ import annotations

import json
from pathlib import Path

from dlrecipes.data.audit import audit
from dlrecipes.data.discover import read_detection
from dlrecipes.errors import UserError

__all__ = ["check_data"]


def check_data(
    path: str | Path,
    *,
    max_queries: int | None = None,
    skip_corrupt: bool = False,
    stride: int = 16,
    json_file: str | Path | None = None,
) -> int:
    """Read and audit a detection data set as it is on disk, and print the table.

    Args:
        path: see `read_detection`.
        max_queries, skip_corrupt, stride: see `audit`.
        json_file: where to write the report as JSON, too.

    Returns:
        0, the exit code: usable, as it is or with the repairs in the table.

    Raises:
        UserError: if the data cannot be used as it is, or ``json_file`` not written.
    """
    report = audit(read_detection(path), max_queries=max_queries, skip_corrupt=skip_corrupt, stride=stride)
    report.print()
    if json_file is not None:
        try:
            Path(json_file).write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{json_file} cannot be written ({error.strerror}); give another file.") from error
    return 0
