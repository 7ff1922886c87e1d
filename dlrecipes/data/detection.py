"""The datamodule for object detection: a path, or nothing at all, becomes batches and the facts about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
from torch.utils.data import DataLoader

from dlrecipes.contracts import DataInfo
from dlrecipes.data.audit import audit
from dlrecipes.data.audit_report import AuditReport
from dlrecipes.data.cache import ImageCache, RecordImages
from dlrecipes.data.collate import collate_detection
from dlrecipes.data.dataset import RecordDataset, SceneDataset
from dlrecipes.data.discover import read_detection
from dlrecipes.data.facts import files_info, scenes_info, scenes_report, with_splits
from dlrecipes.data.loader import ResumableDataLoader, make_loader
from dlrecipes.data.predict import predict_loader
from dlrecipes.data.records import DetectionRecord, DetectionSource
from dlrecipes.data.sampler import EpochSampler
from dlrecipes.data.scenes import SPLIT_SIZES, DigitScenes
from dlrecipes.data.transforms import DetectionTransform, build_transform, eval_transform
from dlrecipes.data.workers import at_least, choose_workers, rank_of
from dlrecipes.errors import UserError

__all__ = ["DetectionData"]

_SCENE_SIZE = 96
_FILE_SIZE = 640  # the usual compromise of detectors for one GPU
_PAPER_SIZES = (800, 1333)  # DETR: shorter side, longer side at most


class DetectionData(L.LightningDataModule):
    """Detection data from COCO, VOC, YOLO or CSV annotations, found by itself, or from embedded scenes.

    What the data needs to be told about itself is worked out and stated: the classes are the union over splits, their
    ids become contiguous labels (``info.category_ids`` leads back), a missing split is made by seed, boxes are checked
    and repaired, pictures are decoded once. Batches are `dlrecipes.contracts.DetectionBatch`.

    Every sample is a pure function of (seed, epoch, index), and training batches continue after a resume in mid-epoch.
    Give ``use_distributed_sampler=False`` to the Trainer: the loaders share out samples themselves.

    Args:
        path: folder or annotation file; None: the embedded scenes.
        batch_size: pictures a step on each device.
        num_workers: processes that prepare batches; None: chosen by the number of cores.
        image_size: longer side of the pictures; None: 96 for the scenes, 640 for files. Not used by ``"paper"``.
        transform: augmentation in training: ``"none"``, ``"light"``, ``"paper"``, an import path, or a
            `DetectionTransform`; None: ``"light"`` for files and ``"none"`` for the scenes, which are new in each epoch
            anyway. The scenes are never mirrored by a preset, since digits would change.
        train_split, val_split, test_split: names of the splits to use; for BCCD as published
            ``train_split="trainval"``, ``val_split="test"``.
        val_fraction: part of the training images that becomes the validation split where there is none; where there is
            no split at all, a test split of the same size is made, too.
        seed: of splits, order, augmentation and training scenes. The held-out scenes are the same for every seed.
        skip_corrupt: leave out images that are missing or cannot be decoded, counted, instead of refusing the data.
        max_queries: the model's number of queries; an image with more objects is refused. None: not checked.
        long_tailed: 50 : 1 class frequencies in the training scenes.
        scenes_train: training scenes an epoch.
        predict_paths: image files or folders for ``predict_dataloader``.
        cache_gb: largest file of decoded pictures, in units of 2³⁰ bytes; larger data is decoded each time.

    Raises:
        UserError: for a value outside its range; in ``prepare`` and ``setup`` for data that cannot be used.

    Example:
        >>> data = DetectionData(batch_size=4, num_workers=0, scenes_train=8)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> tuple(batch["images"].shape), batch["mask"], data.info.num_classes
        ((4, 3, 96, 96), None, 10)
    """

    def __init__(
        self,
        path: str | None = None,
        *,
        batch_size: int = 8,
        num_workers: int | None = None,
        image_size: int | None = None,
        transform: str | DetectionTransform | None = None,
        train_split: str = "train",
        val_split: str = "val",
        test_split: str = "test",
        val_fraction: float = 0.15,
        seed: int = 0,
        skip_corrupt: bool = False,
        max_queries: int | None = None,
        long_tailed: bool = False,
        scenes_train: int = SPLIT_SIZES["train"],
        predict_paths: str | Sequence[str] | None = None,
        cache_gb: float = 8.0,
    ) -> None:
        super().__init__()
        at_least("batch_size", batch_size, 1)
        at_least("num_workers", num_workers, 0)
        at_least("image_size", image_size, 32)
        at_least("seed", seed, 0)
        at_least("max_queries", max_queries, 1)
        at_least("scenes_train", scenes_train, 1)
        at_least("cache_gb", cache_gb, 0)
        if not 0.0 < val_fraction < 0.5:
            raise UserError(f"val_fraction must be between 0 and 0.5, got {val_fraction}.")
        default_size = _SCENE_SIZE if path is None else _FILE_SIZE
        self.path = path
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.image_size = default_size if image_size is None else image_size
        self.shortest_side: int | None = None
        if transform == "paper":
            self.shortest_side, self.image_size = _PAPER_SIZES
        chosen = ("none" if path is None else "light") if transform is None else transform
        # Built here, so that a wrong name is refused before anything is read.
        self.transform = build_transform(chosen, self.image_size, flip=path is not None)
        self.train_split, self.val_split, self.test_split = train_split, val_split, test_split
        self.val_fraction = val_fraction
        self.seed = seed
        self.skip_corrupt = skip_corrupt
        self.max_queries = max_queries
        self.long_tailed = long_tailed
        self.scenes_train = scenes_train
        self.predict_paths = predict_paths
        self.cache_gb = cache_gb
        self._info: DataInfo | None = None
        self._audit: AuditReport | None = None
        self._source: DetectionSource | None = None
        self._report = ""
        self._notes: list[str] = []
        self._datasets: dict[str, RecordDataset | SceneDataset] = {}

    @property
    def info(self) -> DataInfo:
        """Facts about the data; reads and checks it if that has not been done."""
        self.prepare()
        if self._info is None:
            raise RuntimeError("prepare() did not set info")
        return self._info

    @property
    def report(self) -> str:
        """The audit's table as text."""
        self.prepare()
        return self._report

    @property
    def audit_report(self) -> AuditReport | None:
        """The audit's result; None for the embedded scenes."""
        self.prepare()
        return self._audit

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided by itself, one sentence each: splits, sizes, where pictures are kept, workers."""
        return tuple(self._notes)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that there are."""
        self.prepare()
        return tuple(SPLIT_SIZES) if self._source is None else tuple(self._source.splits)

    def records(self, split: str) -> list[DetectionRecord]:
        """Records of a split after the audit; ``image_ids`` of a batch are positions in this list. Files only."""
        self.prepare()
        if self._source is None:
            raise UserError("The embedded scenes have no records: they are composed when asked for.")
        if split not in self._source.splits:
            raise UserError(f"{self.path} has no split {split!r}, only {', '.join(self._source.splits)}.")
        return self._source.splits[split]

    def prepare_data(self) -> None:
        """On one process first, so that the others find the audit's results cached."""
        self.prepare()

    def prepare(self) -> None:
        """Read and audit the data, once. Deterministic: each rank comes to the same result."""
        if self._info is not None:
            return
        if self.path is None:
            self._prepare_scenes()
        else:
            self._prepare_files(self.path)
        if self.shortest_side is not None:
            self._notes.append("The paper's sizes are used, 800 by at most 1333 pixels, whatever image_size says.")

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

    def predict_dataloader(self) -> DataLoader[Any]:
        if self.predict_paths is None:
            raise UserError("There is nothing to predict on: give predict_paths, image files or a folder.")
        rank, world_size = rank_of(self.trainer)
        return predict_loader(
            self.predict_paths,
            self.info,
            batch_size=self.batch_size,
            num_workers=self._workers(),
            rank=rank,
            world_size=world_size,
        )

    def _prepare_scenes(self) -> None:
        self._info = scenes_info(
            self._scenes("train"),
            image_size=self.image_size,
            shortest_side=self.shortest_side,
            max_queries=self.max_queries,
        )
        self._report = scenes_report(self._info)
        self._notes.append(
            f"No data was given: scenes of handwritten digits are composed, {self.scenes_train} new ones each epoch"
            f"{' (long-tailed)' if self.long_tailed else ''}, {SPLIT_SIZES['val']} for validation and "
            f"{SPLIT_SIZES['test']} for test, from scans of their own."
        )

    def _prepare_files(self, path: str) -> None:
        splits = (self.train_split, self.val_split, self.test_split)
        source = with_splits(read_detection(path), splits, val_fraction=self.val_fraction, seed=self.seed)
        self._audit = audit(source, max_queries=self.max_queries, skip_corrupt=self.skip_corrupt)
        self._source = self._audit.source
        self._report = str(self._audit)
        self._info = files_info(
            self._source, self.train_split, image_size=self.image_size, shortest_side=self.shortest_side
        )
        self._notes += [note if note.endswith(".") else f"{note}." for note in source.notes]

    def _scenes(self, role: str) -> DigitScenes:
        if role == "train":
            return DigitScenes("train", seed=self.seed, num_images=self.scenes_train, long_tailed=self.long_tailed)
        return DigitScenes(role, seed=0)  # the same for all seeds, so that runs can be compared

    def _make(self, role: str) -> None:
        if role in self._datasets:
            return
        training = role == "train"
        transform = self.transform if training else eval_transform(self.image_size, self.shortest_side)
        if self.path is None:
            self._datasets[role] = SceneDataset(self._scenes(role), transform, seed=self.seed)
            return
        split = {"train": self.train_split, "val": self.val_split, "test": self.test_split}[role]
        records = self.records(split)
        side = getattr(transform, "cache_side", None)
        cache = ImageCache(RecordImages(records), side, limit_bytes=int(self.cache_gb * 2**30))
        self._notes.append(f"{split}: {cache.note}")
        self._datasets[role] = RecordDataset(records, cache, transform, seed=self.seed, drop_crowd=training)

    def _loader(self, role: str) -> ResumableDataLoader:
        self.prepare()
        self._make(role)
        dataset = self._datasets[role]
        rank, world_size = rank_of(self.trainer)
        training = role == "train"
        if not training and len(dataset) < world_size:
            raise UserError(
                f"The {role} split holds {len(dataset)} images for {world_size} processes: use fewer devices."
            )
        return make_loader(
            dataset,
            EpochSampler(len(dataset), shuffle=training, seed=self.seed, rank=rank, world_size=world_size),
            batch_size=self.batch_size,
            num_workers=self._workers(),
            collate_fn=collate_detection,
        )

    def _workers(self) -> int:
        if self.num_workers is None:
            most = 4 if self.path is None else 8  # a scene takes 0.6 ms, a picture with augmentation several
            self.num_workers, note = choose_workers(self.trainer, most)
            self._notes.append(note)
        return self.num_workers
