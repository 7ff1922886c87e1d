"""Trains and measures a network for each fold, one after another."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule

from dlrecipes.cross_validation.evaluate import evaluate_fold
from dlrecipes.cross_validation.results import DONE, CrossValidation, summarise
from dlrecipes.errors import UserError
from dlrecipes.runs import RunFolder
from dlrecipes.trainer import fresh_trainer_args, make_trainer, own_randomness

__all__ = ["CrossValidator"]


class CrossValidator:
    """Trains k times, each time without one part of the images, and measures each network on the part it has not seen.

    Everything is new for each fold: network, optimizer, statistics of the pixels, run folder and W&B run (one group).
    A fold that is finished is never trained again, so a run that was stopped goes on with the next fold.

    Args:
        folds: k ≥ 2.
        output, name: the folder is ``OUTPUT/NAME``.
        seed: of first weights, dropout and the like, which follow from (seed, fold), however often the run was stopped
            between folds. Who is in which fold follows from the data's own.

    Raises:
        UserError: fewer than two folds.

    Example:
        ::

            validator = CrossValidator(5, name="photos-5")
            validator.run(
                lambda: ClassificationTask(EfficientNet("b0")),
                lambda fold: ClassificationData("photos", fold=fold, fold_groups=r"patient_(\\d+)"),
                max_epochs=20,
            ).print()
    """

    def __init__(
        self, folds: int = 5, *, output: str | os.PathLike[str] = "runs", name: str = "folds", seed: int = 0
    ) -> None:
        if folds < 2:
            raise UserError(f"folds={folds}: at least 2 are needed")
        self.folds = folds
        self.path = Path(output).expanduser().absolute() / name
        self.seed = seed

    def run(
        self,
        make_task: Callable[[], LightningModule],
        make_data: Callable[[str], LightningDataModule],
        *,
        max_epochs: int,
        ema: float | None = None,
        trainer_args: Mapping[str, Any] | None = None,
    ) -> CrossValidation:
        """Train and measure what is not finished, and summarise.

        Args:
            make_task: → a fresh task.
            make_data: ``"2/5"`` → the data with that fold held out, as ``ClassificationData(fold=...)`` has it.
            max_epochs: of each fold.
            ema: see `dlrecipes.trainer.make_trainer`.
            trainer_args: of Lightning's Trainer; each fold gets copies of the ``callbacks``.

        Raises:
            UserError: a ``logger`` in ``trainer_args``, or a callback that cannot be copied.
        """
        fresh_trainer_args(trainer_args)  # refused before a fold is trained

        def train(fold: str, name: str) -> Path:
            with own_randomness(self.seed, int(fold.partition("/")[0])):
                task, data = make_task(), make_data(fold)
                trainer = make_trainer(
                    task,
                    max_epochs=max_epochs,
                    output=self.path,
                    name=name,
                    seed=self.seed,
                    ema=ema,
                    trainer_args=fresh_trainer_args(trainer_args),
                )
                trainer.fit(task, data)
                folder = RunFolder(Path(trainer.default_root_dir))
                best = folder.best_checkpoint if folder.best_checkpoint.is_file() else folder.last_checkpoint
                evaluate_fold(task, data, folder.path, checkpoint=best)
            return folder.path

        return self.each(train)

    def each(self, train: Callable[[str, str], Path]) -> CrossValidation:
        """Call ``train`` for each fold that is not finished, and summarise.

        Args:
            train: (``"2/5"``, ``"fold2"``) → the run folder, in which :func:`evaluate_fold` has left its files.
        """
        group = os.environ.get("WANDB_RUN_GROUP")
        os.environ["WANDB_RUN_GROUP"] = group or self.path.name  # W&B's own way to put runs together
        try:
            for number in range(1, self.folds + 1):
                if self.finished(number) is None:
                    print(f"fold {number} of {self.folds}", flush=True)
                    train(f"{number}/{self.folds}", f"fold{number}")
        finally:
            if group is None:
                del os.environ["WANDB_RUN_GROUP"]
        return self.summarise()

    def finished(self, number: int) -> Path | None:
        """Run folder of a finished fold, or None."""
        found = sorted(self.path.glob(f"fold{number}-*/{DONE}"))
        return found[-1].parent if found else None

    def summarise(self) -> CrossValidation:
        """What the finished folds say.

        Raises:
            UserError: none is finished.
        """
        paths = [path for path in map(self.finished, range(1, self.folds + 1)) if path is not None]
        if not paths:
            raise UserError(f"{self.path} holds no finished fold")
        return summarise(self.path, paths)
