"""What the datamodules for files have in common: three splits that are made when they are needed, and notes."""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L

from dlrecipes.contracts import DataInfo
from dlrecipes.data.loading.loader import ResumableDataLoader
from dlrecipes.data.loading.workers import at_least, choose_workers
from dlrecipes.errors import UserError

__all__ = ["SplitData"]


class SplitData(L.LightningDataModule):
    """Base of `dlrecipes.data.ClassificationData` and `dlrecipes.data.DetectionData`, which say what the options mean.

    A subclass has ``prepare``, which sets ``_info``; ``splits``; ``_make(role)``, which keeps the data set of
    ``"train"``, ``"val"`` or ``"test"``; and ``_loader(role)``.

    Raises:
        UserError: for a value outside its range.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        num_workers: int | None,
        train_split: str,
        val_split: str,
        test_split: str,
        val_fraction: float,
        seed: int,
        skip_corrupt: bool,
        predict_paths: str | Sequence[str] | None,
        cache_gb: float,
    ) -> None:
        super().__init__()
        at_least("batch_size", batch_size, 1)
        at_least("num_workers", num_workers, 0)
        at_least("seed", seed, 0)
        at_least("cache_gb", cache_gb, 0)
        if not 0.0 < val_fraction < 0.5:
            raise UserError(f"val_fraction must be between 0 and 0.5, got {val_fraction}.")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.train_split, self.val_split, self.test_split = train_split, val_split, test_split
        self.val_fraction = val_fraction
        self.seed = seed
        self.skip_corrupt = skip_corrupt
        self.predict_paths = predict_paths
        self.cache_gb = cache_gb
        self._info: DataInfo | None = None
        self._notes: list[str] = []

    def prepare(self) -> None:
        """Read and audit the data, once. Deterministic: each rank comes to the same result."""
        raise NotImplementedError

    @property
    def info(self) -> DataInfo:
        """Facts about the data; reads and checks it if that has not been done."""
        self.prepare()
        if self._info is None:
            raise RuntimeError("prepare() did not set info")
        return self._info

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that there are."""
        raise NotImplementedError

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided by itself beside what the report says, one sentence each: sizes, where pictures are kept,
        workers; and what can be expected of data such as this."""
        return tuple(self._notes)

    def prepare_data(self) -> None:
        """On one process first, so that the others find the audit's results, and pictures that are decoded."""
        self.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Make the data sets that a stage needs; those that exist are kept."""
        self.prepare()
        if stage in (None, "fit"):
            self._make("train")
        if stage in (None, "fit", "validate"):
            self._make("val")
        if stage == "test" or (stage is None and self.test_split in self.splits):
            self._make("test")

    def train_dataloader(self) -> ResumableDataLoader:
        return self._loader("train")

    def val_dataloader(self) -> ResumableDataLoader:
        return self._loader("val")

    def test_dataloader(self) -> ResumableDataLoader:
        return self._loader("test")

    def _make(self, role: str) -> object:
        raise NotImplementedError

    def _loader(self, role: str) -> ResumableDataLoader:
        raise NotImplementedError

    def _split_of(self, role: str) -> str:
        return {"train": self.train_split, "val": self.val_split, "test": self.test_split}[role]

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)

    def _to_predict(self) -> str | Sequence[str]:
        if self.predict_paths is None:
            raise UserError("There is nothing to predict on: give predict_paths, image files or a folder.")
        return self.predict_paths

    @property
    def _cache_bytes(self) -> int:
        return int(self.cache_gb * 2**30)

    def _workers(self, most: int) -> int:
        """Processes that prepare batches, at most so many; chosen once, and told."""
        if self.num_workers is None:
            self.num_workers, note = choose_workers(self.trainer, most)
            self._note(note)
        return self.num_workers
