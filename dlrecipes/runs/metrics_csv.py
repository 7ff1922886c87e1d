"""All numbers of a run in one CSV file that outlives kills and resumes.

Lightning's CSVLogger deletes the file of an earlier start in the same folder, and keeps rows in memory for a while.
"""

from __future__ import annotations

import csv
import io
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from dlrecipes.errors import UserError

__all__ = ["MetricsCSV", "MetricsResume", "read_metrics"]

Row = dict[str, float]


class MetricsCSV(Logger):
    """A Lightning logger that writes one row for each (step, epoch), at once.

    Columns are ``step``, ``epoch``, then the metrics in the order in which they first came; a cell without value is
    empty. What Lightning logs at the same step in several calls (loss, then validation, then epoch means) becomes one
    row. A row is on disk as soon as it is logged; a new column rewrites the file, atomically. Only rank 0 writes.

    Args:
        path: the file; rows of an earlier start are kept (see :class:`MetricsResume` for those after the checkpoint).
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.path = Path(path)
        self._rows: list[Row] | None = None
        self._columns: list[str] = ["step", "epoch"]
        self._last_row_at = 0
        self._tested: float | None = None  # epoch of the checkpoint under test
        self._apart = False  # the next row begins something new

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run folder's config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write the metrics of one step; values of the same step and epoch are merged, the newer one wins."""
        rows = self._loaded()
        values = {name: float(value) for name, value in metrics.items()}
        if self._tested is not None:
            values["epoch"] = self._tested
        last = rows[-1] if rows and not self._apart else None
        self._apart = False
        at = float(step) if step is not None else (rows[-1]["step"] if rows else 0.0)
        same_epoch = last is not None and values.get("epoch", last.get("epoch")) == last.get(
            "epoch", values.get("epoch")
        )
        merge = last is not None and last["step"] == at and same_epoch
        if merge and last is not None:
            last.update(values)
        else:
            rows.append({"step": at, **values})
        new = [name for name in values if name not in self._columns]
        try:
            if new or not self.path.exists():
                self._columns += new
                self._rewrite()
            else:
                self._write_last(merge)
        except OSError as error:
            raise UserError(
                f"'{self.path}' could not be written ({error.strerror}): check the disk, then go on with --resume; "
                "checkpoints are as they were."
            ) from error

    def begin_test(self, epoch: int | None) -> None:
        """From now on rows are those of a test of a checkpoint: Lightning would count them to the epoch after the last.

        Args:
            epoch: of the checkpoint; None: it is not known, and the epoch of a row stays as it was logged.
        """
        self._tested = None if epoch is None else float(epoch)
        self._apart = True  # also where the checkpoint's epoch is the last one, whose row it is not

    def end_test(self) -> None:
        """Rows are those of a fit again."""
        self._tested, self._apart = None, True

    @rank_zero_only
    def drop_from(self, step: int) -> int:
        """Remove the rows of ``step`` and after it: a run that resumes at ``step`` writes them again.

        Returns:
            How many rows were removed.
        """
        rows = self._loaded()
        kept = [row for row in rows if row["step"] < step]
        dropped = len(rows) - len(kept)
        if dropped:
            self._rows = kept
            self._rewrite()
        return dropped

    def _loaded(self) -> list[Row]:
        if self._rows is None:
            self._rows = [row for row in read_metrics(self.path) if "step" in row] if self.path.exists() else []
            for row in self._rows:
                self._columns += [name for name in row if name not in self._columns]
            if self._rows:
                self._rewrite()  # a kill may have left half a line at the end
        return self._rows

    def _rewrite(self) -> None:
        rows = self._rows or []
        lines = [self._line(row) for row in rows]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        temporary.write_bytes(b"".join([_encode(self._columns), *lines]))
        self._last_row_at = temporary.stat().st_size - (len(lines[-1]) if lines else 0)
        os.replace(temporary, self.path)

    def _write_last(self, merge: bool) -> None:
        line = self._line((self._rows or [])[-1])
        with self.path.open("r+b") as file:
            if merge:
                file.seek(self._last_row_at)
            else:
                self._last_row_at = file.seek(0, os.SEEK_END)
            file.write(line)
            file.truncate()

    def _line(self, row: Row) -> bytes:
        return _encode([_cell(name, row.get(name)) for name in self._columns])


@runtime_checkable
class KnowsTests(Protocol):
    """A logger whose test rows have the epoch of the checkpoint that is tested."""

    def begin_test(self, epoch: int | None) -> None: ...

    def end_test(self) -> None: ...


class MetricsResume(Callback):
    """Before a resumed fit writes its first row, drops the rows that the killed run logged after the checkpoint; tells
    the file, and every other logger with ``begin_test`` and ``end_test``, which checkpoint's epoch a test is of.

    Steps count from 0 in the file, so a checkpoint of ``global_step`` n has the rows of steps 0 to n - 1 behind it.
    """

    def __init__(self) -> None:
        self._epoch: int | None = None  # of the checkpoint that was loaded

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._epoch = None

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._epoch = checkpoint.get("epoch")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, KnowsTests):
                logger.begin_test(self._epoch)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, KnowsTests):
                logger.end_test()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV):
                logger.drop_from(trainer.global_step)


def read_metrics(path: str | os.PathLike[str]) -> list[Row]:
    """Rows of a metrics.csv, without their empty cells; a last line that a kill cut off is left out, and a row without
    ``step`` where there is such a column.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     logger = MetricsCSV(f"{folder}/metrics.csv")
    ...     logger.log_metrics({"train/loss": 0.5, "epoch": 0}, step=9)
    ...     logger.log_metrics({"val/map": 0.25, "epoch": 0}, step=9)
    ...     read_metrics(f"{folder}/metrics.csv")
    [{'step': 9.0, 'epoch': 0.0, 'train/loss': 0.5, 'val/map': 0.25}]
    """
    lines = Path(path).read_bytes().decode("utf-8", errors="replace").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    rows: list[Row] = []
    reader = csv.DictReader(whole)
    for cells in reader:
        try:
            row = {name: float(text) for name, text in cells.items() if text}
        except (TypeError, ValueError):
            continue
        if "step" in row or "step" not in (reader.fieldnames or ()):
            rows.append(row)
    return rows


def _encode(cells: list[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return str(int(value)) if name in ("step", "epoch") else repr(value)
