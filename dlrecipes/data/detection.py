"""The datamodule for object detection: a path, or nothing at all, becomes batches and the facts about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch.utils.data import DataLoader

from dlrecipes.data.audit.audit_boxes import audit
from dlrecipes.data.audit.audit_report import AuditReport
from dlrecipes.data.audit.copies import box_copies
from dlrecipes.data.audit.crowds import fewest_places
from dlrecipes.data.audit.expectations import expectations
from dlrecipes.data.augment.transforms import (
    TRANSFORMS,
    DetectionTransform,
    StrongAugment,
    build_transform,
    eval_transform,
)
from dlrecipes.data.embedded.scenes import SPLIT_SIZES, DigitScenes
from dlrecipes.data.formats.discover import read_detection
from dlrecipes.data.formats.records import DetectionRecord, DetectionSource
from dlrecipes.data.loading.box_dataset import RecordDataset, SceneDataset
from dlrecipes.data.loading.cache import ImageCache, RecordImages
from dlrecipes.data.loading.collate import collate_detection
from dlrecipes.data.loading.loader import ResumableDataLoader, make_loader
from dlrecipes.data.loading.mixed_dataset import MixedDataset, Mixing
from dlrecipes.data.loading.predict import predict_loader
from dlrecipes.data.loading.repeats import Repeats, plan_repeats
from dlrecipes.data.loading.resample import ResampledEpochSampler
from dlrecipes.data.loading.sampler import EpochSampler
from dlrecipes.data.loading.workers import at_least, planned_epochs, rank_of
from dlrecipes.data.split_data import SplitData
from dlrecipes.data.splits.box_facts import files_info, scenes_info, scenes_report, with_splits
from dlrecipes.data.splits.fold_records import fold_records, scarce_classes
from dlrecipes.data.splits.folds import parse_fold
from dlrecipes.errors import UserError

__all__ = ["DetectionData"]

_SCENE_SIZE = 96
_FILE_SIZE = 640  # the usual compromise of detectors for one GPU
_PAPER_SIZES = (800, 1333)  # DETR: shorter side, longer side at most
_FLIPS = ("none", "horizontal", "both")


class DetectionData(SplitData):
    """Detection data from annotations in any format of `read_detection`, found by itself, or from embedded scenes.

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
        transform: augmentation in training: ``"none"``, ``"light"``, ``"strong"`` (`StrongAugment`, for a few hundred
            images and many epochs), ``"paper"``, an import path, or a `DetectionTransform`; None: ``"light"`` for files
            and ``"none"`` for the scenes, which are new in each epoch anyway.
        flip: what a preset of ``transform`` may do: ``"none"``, ``"horizontal"``, or ``"both"``, where there is no up
            and down, as under a microscope; None: ``"horizontal"`` for files, ``"none"`` for the scenes, since digits
            would change.
        mosaic: probability that a training sample is put together from parts of four pictures.
        mixup: probability that a training sample is laid over another one, with the objects of both.
        closing_share: last part of the epochs, rounded to whole ones, without mosaic and mixup. Epochs are those of the
            trainer's ``max_epochs`` or ``max_steps``, whichever ends first, so resume with the same. With a
            `dlrecipes.callbacks.TimeBudget` it is the last share of its time, from the start of the epoch that is
            nearest, for good. Where only ``max_time`` is set, or without a trainer, the end is unknown and they stay
            on. The scenes, new in each epoch, are never mixed.
        repeat_factor: an image whose rarest class is in a share f of the training images below this one comes
            sqrt(repeat_factor / f) times an epoch (`dlrecipes.imbalance.repeat_factors`), which becomes longer; each
            copy is augmented in its own way. None: each image comes once.
        train_split, val_split, test_split: names of the splits to use; for BCCD as published
            ``train_split="trainval"``, ``val_split="test"``.
        val_fraction: part of the training images that becomes the validation split where there is none; where there is
            no split at all, a test split of the same size is made, too.
        fold: ``"2/5"``: the second of five folds of cross validation is held out, in the place of the validation split;
            training and validation images are put together for it, a test split stays. Images of your own only.
        fold_groups: regular expression; images whose paths have the same match are in the same fold.
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
        flip: str | None = None,
        mosaic: float = 0.0,
        mixup: float = 0.0,
        closing_share: float = 0.2,
        repeat_factor: float | None = None,
        train_split: str = "train",
        val_split: str = "val",
        test_split: str = "test",
        val_fraction: float = 0.15,
        fold: str | None = None,
        fold_groups: str | None = None,
        seed: int = 0,
        skip_corrupt: bool = False,
        max_queries: int | None = None,
        long_tailed: bool = False,
        scenes_train: int = SPLIT_SIZES["train"],
        predict_paths: str | Sequence[str] | None = None,
        cache_gb: float = 8.0,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            num_workers=num_workers,
            train_split=train_split,
            val_split=val_split,
            test_split=test_split,
            val_fraction=val_fraction,
            seed=seed,
            skip_corrupt=skip_corrupt,
            predict_paths=predict_paths,
            cache_gb=cache_gb,
        )
        for name, value, least in (
            ("image_size", image_size, 32),
            ("max_queries", max_queries, 1),
            ("scenes_train", scenes_train, 1),
        ):
            at_least(name, value, least)
        if flip is not None and flip not in _FLIPS:
            raise UserError(f"flip must be one of {', '.join(_FLIPS)}, got {flip!r}.")
        if repeat_factor is not None and not 0.0 < repeat_factor <= 1.0:
            raise UserError(f"repeat_factor must be above 0 and at most 1, a share of the images, got {repeat_factor}.")
        if repeat_factor is not None and path is None:
            raise UserError("repeat_factor repeats images of your own: leave it out for the embedded scenes.")
        if fold is not None and path is None:
            raise UserError(
                "fold holds out a part of images of your own: leave out --folds and --data.fold for the embedded "
                "scenes, or give --data."
            )
        default_size = _SCENE_SIZE if path is None else _FILE_SIZE
        chosen = ("none" if path is None else "light") if transform is None else transform
        if flip is not None and (chosen == "none" or chosen not in TRANSFORMS):
            raise UserError(f"flip={flip!r} is for the presets {', '.join(TRANSFORMS[1:])}: leave it out.")
        self.path = path
        self.image_size = default_size if image_size is None else image_size
        self.shortest_side: int | None = None
        if transform == "paper":
            self.shortest_side, self.image_size = _PAPER_SIZES
        self.flip = ("none" if path is None else "horizontal") if flip is None else flip
        # Built here, so that a wrong name is refused before anything is read.
        self.transform = build_transform(chosen, self.image_size, flip=self.flip != "none", turn=self.flip == "both")
        self.mixing = Mixing(mosaic, mixup, closing_share)
        self.repeat_factor = repeat_factor
        self.fold, self.fold_groups = None if fold is None else parse_fold(fold), fold_groups
        self.max_queries = max_queries
        self.long_tailed = long_tailed
        self.scenes_train = scenes_train
        self._audit: AuditReport | None = None
        self._source: DetectionSource | None = None
        self._report = ""
        self._repeats: Repeats | None = None
        self._closed_since: int | None = None  # an epoch; by the clock, which no other run has
        self._datasets: dict[str, RecordDataset | MixedDataset | SceneDataset] = {}

    @property
    def epoch_size(self) -> int:
        """Samples of a training epoch on all devices together: images, and their repeats by ``repeat_factor``."""
        info = self.info
        return info.num_train if self._repeats is None else self._repeats.sampler.epoch_size

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

    def prepare(self) -> None:
        """Read and audit the data, once. Deterministic: each rank comes to the same result."""
        if self._info is not None:
            return
        if self.path is None:
            self._prepare_scenes()
        else:
            self._prepare_files(self.path)
        if self.shortest_side is not None:
            self._note("The paper's sizes are used, 800 by at most 1333 pixels, whatever image_size says.")

    def setup(self, stage: str | None = None) -> None:
        """Make the data sets that a stage needs; those that exist are kept."""
        super().setup(stage)
        if stage in (None, "fit"):
            self._closed_since = None  # of an earlier run; a resumed one gets its own back next

    def expect_epochs(self, epoch: int, epochs: float) -> None:
        """Stop mixing if it is time: a run that ends by the clock is going to have about so many epochs.

        To be called with the last batch of the epoch before ``epoch``, on all ranks with the same numbers: a checkpoint
        that is written there must know.
        """
        dataset = self._datasets.get("train")
        if not isinstance(dataset, MixedDataset) or not self.mixing.closes(epoch, epochs):
            return
        if self._closed_since is None:
            self._closed_since = epoch
            self._note(f"From epoch {epoch + 1} on, the training samples are not mixed any more.")
        self._close(dataset)

    def _close(self, dataset: MixedDataset) -> None:
        """By the epochs that were planned, or by the clock if that was before."""
        bounds = [first for first in (dataset.closing_epoch, self._closed_since) if first is not None]
        dataset.closing_epoch = min(bounds, default=None)

    def state_dict(self) -> dict[str, Any]:
        """What the clock decided; nothing where it had nothing to decide."""
        return {} if self._closed_since is None else {"closed_since": self._closed_since}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Of a run that is resumed: its samples are mixed where they would have been."""
        self._closed_since = state_dict["closed_since"]

    def predict_dataloader(self) -> DataLoader[Any]:
        """Images of ``predict_paths``, each rank its share.

        Raises:
            UserError: there are no ``predict_paths``.
        """
        paths = self._to_predict()
        rank, world_size = rank_of(self.trainer)
        return predict_loader(
            paths,
            self.info,
            batch_size=self.batch_size,
            num_workers=self._workers(self._most_workers),
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
        self._note(
            f"No data was given: scenes of handwritten digits are composed, {self.scenes_train} new ones each epoch"
            f"{' (long-tailed)' if self.long_tailed else ''}, {SPLIT_SIZES['val']} for validation and "
            f"{SPLIT_SIZES['test']} for test, from scans of their own."
        )
        if self.mixing:
            self._note("The scenes are new in each epoch: they are not mixed, whatever mosaic and mixup say.")

    def _prepare_files(self, path: str) -> None:
        splits = (self.train_split, self.val_split, self.test_split)
        source = read_detection(path)
        if self.fold is not None:
            source = fold_records(
                source,
                self.fold,
                names=splits,
                groups=self.fold_groups,
                seed=self.seed,
                find_copies=box_copies,
            )
        source = with_splits(source, splits, val_fraction=self.val_fraction, seed=self.seed, find_copies=box_copies)
        self._audit = audit(source, max_queries=self.max_queries, skip_corrupt=self.skip_corrupt)
        if self.fold is not None:
            folded = [r for split in splits[:2] for r in self._audit.source.splits[split]]
            scarce = scarce_classes(folded, source.classes, self.fold.folds)
            self._audit = replace(self._audit, warnings=(*self._audit.warnings, *scarce))
        self._source = self._audit.source
        self._report = str(self._audit)
        self._info = files_info(
            self._source, self.train_split, image_size=self.image_size, shortest_side=self.shortest_side
        )
        strong = isinstance(self.transform, StrongAugment)
        for note in expectations(self._info, self._source.splits, self.train_split, self.batch_size, strong=strong):
            self._note(note)
        if self.repeat_factor is not None:
            records = self._source.splits[self.train_split]
            self._repeats = plan_repeats(records, self._source.classes, self.repeat_factor, seed=self.seed)
            self._note(self._repeats.note)

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
        split = self._split_of(role)
        records = self.records(split)
        side = getattr(transform, "cache_side", None)
        cache = ImageCache(RecordImages(records), side, limit_bytes=self._cache_bytes)
        self._note(f"{split}: {cache.note}")
        files = RecordDataset(records, cache, transform, seed=self.seed, drop_crowd=training)
        self._datasets[role] = self._mixed(files) if training and self.mixing else files

    def _mixed(self, files: RecordDataset) -> MixedDataset:
        weights = None if self._repeats is None else self._repeats.sampler.factors
        if not files.cache.keeps_pictures:
            self._note("A mosaic decodes four pictures: let --data.cache_gb hold them all, or expect to wait for data.")
        return MixedDataset(files, self.mixing, self.image_size, weights=weights)

    def _loader(self, role: str) -> ResumableDataLoader:
        self.prepare()
        self._make(role)
        dataset = self._datasets[role]
        places = self._fewest_places(role)
        rank, world_size = rank_of(self.trainer)
        training = role == "train"
        if not training and len(dataset) < world_size:
            raise UserError(
                f"The {role} split holds {len(dataset)} images for {world_size} processes: use fewer devices."
            )
        if training and self._repeats is not None:
            sampler: EpochSampler = ResampledEpochSampler(self._repeats.sampler, rank=rank, world_size=world_size)
        else:
            sampler = EpochSampler(len(dataset), shuffle=training, seed=self.seed, rank=rank, world_size=world_size)
        loader = make_loader(
            dataset,
            sampler,
            batch_size=self.batch_size,
            num_workers=self._workers(self._most_workers),
            collate_fn=collate_detection,
        )
        if isinstance(dataset, MixedDataset):
            epochs = planned_epochs(self.trainer, loader)
            # What the workers get: they are started, with a copy of the data set, when the first batch is asked for.
            dataset.closing_epoch = self.mixing.closing_epoch(epochs)
            self._close(dataset)
            dataset.max_objects = self._most_objects(places)
            self._note(self.mixing.note(epochs))
        return loader

    def _fewest_places(self, role: str) -> int | None:
        """Most objects that the model can find in any image of a split, each seen to hold no more; None: unknown."""
        most_objects = getattr(self._model(), "most_objects", None)
        if self._source is None or not callable(most_objects):
            return None
        return fewest_places(self.records(self._split_of(role)), most_objects, self.image_size, self.shortest_side)

    def _most_objects(self, places: int | None) -> int:
        """Of a mixed sample: as many as the model can find, or, where that is unknown, as the fullest image has."""
        known = [most for most in (places, self.max_queries) if most]
        queries = min(known) if known else getattr(self._model(), "num_queries", None)
        return queries if isinstance(queries, int) else self.info.max_objects

    def _model(self) -> Any:
        """The network that is trained on these data, if there is one."""
        task = None if self.trainer is None else getattr(self.trainer, "lightning_module", None)
        return getattr(task, "model", None)

    @property
    def _most_workers(self) -> int:
        return 4 if self.path is None else 8  # a scene takes 0.6 ms, a picture with augmentation several
