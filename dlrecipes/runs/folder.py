"""One numbered folder a run: what was run, on what, and all that came out."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlrecipes.errors import UserError
from dlrecipes.runs.launch import agree_on_folder
from dlrecipes.runs.provenance import gather_provenance

__all__ = ["RunFolder"]


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run and the small files that describe it. Make one by :meth:`create` or :meth:`open`.

    ::

        OUTPUT/detr-001/
          config.yaml  run.json  classes.json  data_report.txt  data_report.json
          metrics.csv  verdicts.json  curves.png  batch.png  predictions/epoch_007.png  confusion.png  pr_curves.png
          reliability.png  per_class.png  scatter.png  mistakes.png  (as the task has them)
          checkpoints/last.ckpt  checkpoints/best.ckpt  checkpoints/best_loss.ckpt  best.safetensors  MODEL_CARD.md
          wandb/

    Attributes:
        path: the folder, absolute.
    """

    path: Path

    @classmethod
    def create(cls, output: str | os.PathLike[str], name: str) -> RunFolder:
        """Make ``OUTPUT/NAME-001``, or the first free number; every rank of one job gets the same folder.

        Rank 0 makes the folder and the others learn of it, however they were started: see
        :mod:`dlrecipes.runs.launch`. A later call in the same process or shell makes a new folder.

        Args:
            output: folder that holds the runs; made if missing.
            name: what the folder's name begins with.

        Raises:
            UserError: OUTPUT cannot be written, or this is not rank 0 and nobody says which folder rank 0 has made.
            ValueError: ``name`` is no plain folder name.
        """
        if not name or name != Path(name).name:
            raise ValueError(f"name must be a plain folder name, got {name!r}")
        root = Path(output).expanduser().absolute()
        _make_writable(root)
        return cls(agree_on_folder(root, name, lambda: _make_numbered(root, name)))

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """The folder of an earlier run, to resume it or to predict with it.

        Args:
            path: the run folder, or a checkpoint file in its ``checkpoints``.

        Raises:
            UserError: there is no such folder, no checkpoint in it, or it holds the runs of several folds.
        """
        given = Path(path).expanduser().absolute()
        folder = given.parent.parent if given.suffix == ".ckpt" and given.parent.name == "checkpoints" else given
        if not folder.is_dir():
            raise UserError(f"run folder '{path}' does not exist: check the path.")
        run = cls(folder)
        if fold := next(iter(sorted(folder.glob("fold*-*/checkpoints"))), None):
            raise UserError(
                f"'{path}' holds the folds of a cross validation: give one of them, such as '{fold.parent}'."
            )
        if not any(run.checkpoints.glob("*.ckpt")):
            raise UserError(
                f"run folder '{path}' holds no checkpoint (checkpoints/*.ckpt): it stopped before the first one was "
                "saved, so start a new run."
            )
        return run

    def discard(self) -> bool:
        """Remove the folder if the run ended before its first step: no checkpoint and no number is in it.

        Returns:
            Whether it was removed.
        """
        if self.metrics.exists() or any(self.checkpoints.glob("*")):
            return False
        shutil.rmtree(self.path, ignore_errors=True)
        return True

    @property
    def name(self) -> str:
        """The folder's own, such as ``detr-001``."""
        return self.path.name

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        """Of the last step that was saved."""
        return self.checkpoints / "last.ckpt"

    @property
    def best_checkpoint(self) -> Path:
        """Best by the task's ``monitor``."""
        return self.checkpoints / "best.ckpt"

    @property
    def best_loss_checkpoint(self) -> Path:
        """Best by the task's ``loss_monitor``."""
        return self.checkpoints / "best_loss.ckpt"

    @property
    def resume_checkpoint(self) -> Path:
        """``last.ckpt``; without it the newest checkpoint.

        Raises:
            UserError: there is none.
        """
        if self.last_checkpoint.exists():
            return self.last_checkpoint
        found = sorted(self.checkpoints.glob("*.ckpt"), key=lambda p: p.stat().st_mtime)
        if not found:
            raise UserError(f"run folder '{self.path}' holds no checkpoint (checkpoints/*.ckpt): start a new run.")
        return found[-1]

    @property
    def config(self) -> Path:
        """Every setting."""
        return self.path / "config.yaml"

    @property
    def info(self) -> Path:
        """Command, versions, machine and seed."""
        return self.path / "run.json"

    @property
    def classes(self) -> Path:
        """Class names with the data's own ids."""
        return self.path / "classes.json"

    @property
    def metrics(self) -> Path:
        """All numbers that were logged."""
        return self.path / "metrics.csv"

    @property
    def verdicts(self) -> Path:
        """What was found out about the run."""
        return self.path / "verdicts.json"

    @property
    def curves(self) -> Path:
        """Loss, metric and learning rate over steps."""
        return self.path / "curves.png"

    @property
    def batch_picture(self) -> Path:
        """The first training batch."""
        return self.path / "batch.png"

    @property
    def confusion_picture(self) -> Path:
        """True over predicted classes."""
        return self.path / "confusion.png"

    @property
    def precision_recall_picture(self) -> Path:
        """Precision over recall."""
        return self.path / "pr_curves.png"

    @property
    def reliability_picture(self) -> Path:
        """How far probabilities can be trusted."""
        return self.path / "reliability.png"

    @property
    def per_class_picture(self) -> Path:
        """Quality of each class, as bars."""
        return self.path / "per_class.png"

    @property
    def scatter_picture(self) -> Path:
        """Predicted over true numbers."""
        return self.path / "scatter.png"

    @property
    def mistakes_picture(self) -> Path:
        """The most confident mistakes."""
        return self.path / "mistakes.png"

    @property
    def predictions(self) -> Path:
        """Folder of the prediction sheets."""
        return self.path / "predictions"

    @property
    def best_weights(self) -> Path:
        """Weights of the best checkpoint alone."""
        return self.path / "best.safetensors"

    @property
    def model_card(self) -> Path:
        """Data, classes, metrics, versions, and how to load it."""
        return self.path / "MODEL_CARD.md"

    def prediction_picture(self, epoch: int) -> Path:
        """The sheet drawn after ``epoch`` epochs, counted from 1 as on the console."""
        return self.predictions / f"epoch_{epoch:03d}.png"

    def write_config(self, text: str) -> None:
        """Keep the resolved configuration."""
        _write_text(self.config, text)

    def write_info(self, *, seed: int | None = None, device: str | None = None, command: Sequence[str] = ()) -> None:
        """Write ``run.json``: command, versions, git commit, host, device, seed and date.

        What an earlier start of the run wrote is kept as it is; a resume adds an entry to its list ``starts``.

        Args:
            seed: of the run.
            device: in words, as ``"1 x NVIDIA H100"`` or ``"cpu"``.
            command: ``sys.argv`` unless given.
        """
        start = gather_provenance(seed=seed, device=device, command=command)
        known = self.read_info()
        earlier = known.pop("starts", [])
        starts = [*(earlier if isinstance(earlier, list) else []), start]
        self._write_json(self.info, {**start, **known, "starts": starts})

    def update_info(self, values: Mapping[str, Any]) -> None:
        """Add or replace entries of ``run.json``, such as the W&B run id."""
        self._write_json(self.info, {**self.read_info(), **values})

    def read_info(self) -> dict[str, Any]:
        """The content of ``run.json``; empty where there is none or it is damaged."""
        try:
            content = json.loads(self.info.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):  # what is no UTF-8 or no JSON is a ValueError
            return {}
        return content if isinstance(content, dict) else {}

    def write_classes(self, classes: Sequence[str], category_ids: Sequence[int]) -> None:
        """Write ``classes.json``: a list in the order of the model's labels, each with the data set's own id."""
        if len(classes) != len(category_ids):
            raise ValueError(f"classes and category_ids must be of one length, got {len(classes)}, {len(category_ids)}")
        rows = [
            {"label": i, "name": name, "category_id": id_}
            for i, (name, id_) in enumerate(zip(classes, category_ids, strict=True))
        ]
        self._write_json(self.classes, rows)

    def write_data_report(self, text: str, values: Mapping[str, Any]) -> None:
        """Write what the audit of the data found, as a table for people and as JSON for programs."""
        _write_text(self.path / "data_report.txt", text)
        self._write_json(self.path / "data_report.json", dict(values))

    def _write_json(self, path: Path, values: Any) -> None:
        _write_text(path, json.dumps(values, indent=2, ensure_ascii=False, default=str) + "\n")


def _write_text(path: Path, text: str) -> None:
    """Replace a file in one go, so that a reader or a kill never meets half of it."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write '{path}' ({error.strerror}): check the disk and its permissions.") from error


def _make_writable(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not os.access(root, os.W_OK | os.X_OK):
            raise PermissionError(0, "Permission denied")
    except OSError as error:
        raise UserError(
            f"run folders cannot be made in '{root}' ({error.strerror}): choose another place with --output."
        ) from error


def _make_numbered(root: Path, name: str) -> Path:
    """Make the first free NAME-NNN above all that exist; mkdir itself decides between processes that race."""
    taken = [p.name.removeprefix(f"{name}-") for p in root.glob(f"{name}-*")]
    number = max((int(t) for t in taken if t.isdecimal()), default=0) + 1
    while True:
        path = root / f"{name}-{number:03d}"
        try:
            path.mkdir()
            (path / "checkpoints").mkdir()
            return path
        except FileExistsError:
            number += 1
        except OSError as error:
            raise UserError(
                f"run folder '{path}' cannot be made ({error.strerror}): choose another place with --output."
            ) from error
