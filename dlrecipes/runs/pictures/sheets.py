"""When sheets of example images are drawn: before the first step, and along the validations.

What is drawn depends on the task: see detection_pictures.py and image_pictures.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image

from dlrecipes.contracts import DataInfo
from dlrecipes.runs.folder import RunFolder
from dlrecipes.runs.pictures.tiles import save_grid
from dlrecipes.runs.tracking.tracked import track_pictures

__all__ = ["BatchSheet", "ValidationSheets", "data_info", "save_sheet"]

_MOST_SHEETS = 50
P = TypeVar("P")


class BatchSheet(Callback, ABC):
    """Before step 0, saves the first training batch as the model will see it. Not drawn again on a resume.

    Args:
        run: the picture goes to ``batch.png`` in it, and to the trackers.
        n: most images to draw.
    """

    def __init__(self, run: RunFolder, n: int = 16) -> None:
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        self.run = run
        self.n = n
        self._done = False

    @abstractmethod
    def tiles(self, batch: Any, n: int, info: DataInfo) -> list[Image.Image]:
        """The first ``n`` images of the batch, which is on any device and may be smaller."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._done:
            return
        self._done = True
        if trainer.is_global_zero and trainer.global_step == 0:
            tiles = self.tiles(batch, self.n, data_info(trainer, pl_module))
            save_sheet(tiles, min(4, len(tiles)), self.run.batch_picture)
            track_pictures(trainer, {"train/batch": self.run.batch_picture}, 0)


class ValidationSheets(Callback, ABC, Generic[P]):
    """At each validation, draws the same images with what was found in them.

    A long run is drawn about 50 times, evenly, and at its end.

    Args:
        run: pictures go to ``predictions/epoch_XXX.png`` in it, the first epoch being 1.
        n: images.
    """

    def __init__(self, run: RunFolder, n: int = 16) -> None:
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        self.run = run
        self.n = n
        self._pictures: list[P] = []
        self._positions: Collection[int] | None = None
        self._seen = 0
        self._due = False
        self._drawn: int | None = None

    @abstractmethod
    def pick(self, batch: Any, index: int, outputs: Any) -> P:
        """One image of a validation batch with what the step returned for it, on the CPU."""

    @abstractmethod
    def draw(self, pictures: Sequence[P], info: DataInfo) -> tuple[list[Image.Image], int]:
        """Tiles of equal width, and how many stand in a row."""

    @abstractmethod
    def track(self, trainer: Trainer, pictures: Sequence[P], info: DataInfo, step: int) -> None:
        """Hand the pictures to the loggers that take them."""

    def positions(self, trainer: Trainer, batch_size: int) -> Collection[int]:
        """Which of the images that rank 0 validates are drawn: the first ``n``, unless a subclass knows better."""
        return range(self.n)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epochs = max(trainer.max_epochs or 1, 1)
        wait = -(-epochs // _MOST_SHEETS)
        due = self._drawn is None or trainer.current_epoch >= min(self._drawn + wait, epochs - 1)
        in_fit = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        self._due = due and in_fit and trainer.is_global_zero
        self._pictures, self._positions, self._seen = [], None, 0

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not self._due or dataloader_idx != 0:
            return
        size = len(batch["paths"])
        if self._positions is None:
            self._positions = self.positions(trainer, size)
        self._pictures += [self.pick(batch, i, outputs) for i in range(size) if self._seen + i in self._positions]
        self._seen += size

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._pictures:
            return
        info = data_info(trainer, pl_module)
        tiles, columns = self.draw(self._pictures, info)
        save_sheet(tiles, columns, self.run.prediction_picture(trainer.current_epoch + 1))
        # the step as Lightning numbers the metrics of this validation, from 0
        self.track(trainer, self._pictures, info, max(trainer.global_step - 1, 0))
        self._pictures = []
        self._drawn = trainer.current_epoch


def data_info(trainer: Trainer, pl_module: LightningModule) -> DataInfo:
    """Facts about the data, of the task or the datamodule.

    Raises:
        ValueError: neither has ``info``.
    """
    for owner in (pl_module, getattr(trainer, "datamodule", None)):
        info: DataInfo | None = getattr(owner, "info", None)
        if info is not None:
            return info
    raise ValueError("neither the task nor the datamodule has .info: set task.info to a DataInfo")


def save_sheet(tiles: Sequence[Image.Image], columns: int, path: Path) -> None:
    """As ``save_grid``; a full disk costs the picture, not the run."""
    try:
        save_grid(tiles, columns, path)
    except OSError as error:
        print(f"picture '{path}' was not written ({error.strerror}); training goes on.", flush=True)
