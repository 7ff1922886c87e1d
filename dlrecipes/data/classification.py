"""The datamodule for labelled images: a path, or nothing at all, becomes batches and the facts about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from dlrecipes.contracts import ImageBatch
from dlrecipes.data.audit.audit_images import audit_images
from dlrecipes.data.audit.image_report import ImageAuditReport
from dlrecipes.data.augment.image_transforms import ImageTransform
from dlrecipes.data.formats.image_source import ImageSource, ImageTable
from dlrecipes.data.image_plan import ImageOptions, ImagePlan
from dlrecipes.data.image_reading import ImageReading
from dlrecipes.data.loading.cache import ImageCache
from dlrecipes.data.loading.density import DENSITY_WEIGHTS, with_density_weights
from dlrecipes.data.loading.image_dataset import ImageDataset, unchanged
from dlrecipes.data.loading.image_predict import image_predict_loader
from dlrecipes.data.loading.loader import ResumableDataLoader, leaves_out_rest, make_loader
from dlrecipes.data.loading.resample import ResampledEpochSampler, Resampling
from dlrecipes.data.loading.sampler import EpochSampler
from dlrecipes.data.loading.workers import at_least, choose_workers, rank_of
from dlrecipes.data.split_data import SplitData
from dlrecipes.data.splits.folds import parse_fold
from dlrecipes.data.splits.image_facts import NORMALISATIONS, Statistics, image_info, pixel_statistics
from dlrecipes.errors import UserError
from dlrecipes.functional.words import counted

__all__ = ["ClassificationData"]

_DIGIT_SIZE = 32
_MEMORY = 128 * 2**20  # bytes of decoded pictures that are not worth a file
_MOST_WORKERS = 8
_STATISTICS = 10_000  # pictures that mean and standard deviation are taken from


class ClassificationData(SplitData):
    """Images with a label, with several labels, or with numbers, from files found by itself, or embedded digits.

    What the data needs to be told about itself is worked out and stated: the task, the classes, missing splits,
    corrupt and repeated files, the size, mean and standard deviation. Pictures are decoded once. Batches are
    `dlrecipes.contracts.ImageBatch`.

    Equal squares of at most 64 pixels stay as they are until they are on the device: there they are augmented as a
    whole batch, scaled to ``image_size``, and mixed. Larger ones are augmented one by one by the data workers.

    Every sample is a pure function of (seed, epoch, index), and training batches continue after a resume in mid-epoch.
    Give ``use_distributed_sampler=False`` to the Trainer: the loaders share out samples themselves.

    Args:
        path: folder, table, Parquet file or ``torchvision:NAME``, see `dlrecipes.data.read_images`; None: the embedded
            digits, unless there is a ``source``.
        source: data that has been read already or is in memory (`dlrecipes.data.array_source`), instead of ``path``.
        batch_size: pictures a training step on each device. A rest that makes a smaller batch is left out of an epoch
            of 20 or more batches; a rest of one picture always is.
        eval_batch_size: pictures a batch in evaluation; None: ``batch_size``.
        num_workers: processes that prepare batches; None: chosen by the number of cores, 0 where a batch is one copy.
        image_size: side of the squares that the model sees; None: the pictures' own if they are equal squares of at
            most 64 pixels, otherwise 224; 32 for the embedded digits.
        crop_fraction: evaluation scales the shorter side to ``image_size / crop_fraction`` and takes the central
            square; None: 1 for small pictures, otherwise 0.875.
        augment: in training: ``"none"``, ``"light"`` (crop, mirror), ``"strong"`` (that, a change of shape or colour,
            a rectangle erased), an import path, or an `ImageTransform`; None: ``"light"``.
        mirror: whether presets may mirror; None: unless the classes are the ten digits.
        device_augment: augment whole batches on the device; None: if pictures are small and ``augment`` is a preset.
        mix: ``"none"``, ``"mixup"``, ``"cutmix"``, ``"both"`` or ``"remix"``, see `dlrecipes.data.MixSamples`.
        mix_alpha: of the Beta distribution; None: 0.2 for mixup, 1 for CutMix and Remix.
        mix_prob: of mixing a sample.
        sampler: how often training draws an image: None: once an epoch; ``"class"`` (classes equally often),
            ``"sqrt"``, ``"effective"``, ``"progressive"`` (from the data's frequencies to equal ones over the run) and
            ``"instance"`` are those of `dlrecipes.imbalance.BalancedDistributedSampler`, for one label an image;
            ``"repeat"`` is `dlrecipes.imbalance.RepeatFactorSampler`, for several; ``"weight"`` draws by the samples'
            weights (`dlrecipes.imbalance.WeightedDistributedSampler`), and leaves them out of the loss;
            ``"m_per_class"`` makes batches for losses that compare images, contrastive or triplet
            (`dlrecipes.imbalance.MPerClassSampler`), for one label an image. Each copy is augmented in its own way.
        samples_per_class: images of a class in a batch with ``sampler="m_per_class"``, a divisor of ``batch_size``.
        sampler_start: epochs before this one, from 0, draw each image once (deferred re-sampling); below 1, it is the
            share of the run's epochs that do so.
        repeat_threshold: an image whose rarest label is in a share f of the images below this one comes
            sqrt(repeat_threshold / f) times, with ``sampler="repeat"``.
        density_weights: ``"sqrt_inverse"`` or ``"inverse"``: training samples of a regression weigh the more the rarer
            their targets' values are, by `dlrecipes.functional.label_density.density_weights`; None: not.
        normalisation: mean and standard deviation in ``info``: ``"auto"`` (of the training split), ``"imagenet"`` or
            ``"half"`` (0.5). A pretrained model's own go before it.
        train_split, val_split, test_split: names of the splits to use.
        val_fraction: part of the images that becomes the validation split where there is none; where there is no split
            at all, a test split of the same size is made, too.
        fold: ``"2/5"``: the second of five folds of cross validation is held out, in the place of the validation split;
            training and validation images are put together for it, a test split stays.
        fold_groups: regular expression; images whose names have the same match are in the same fold.
        seed: of splits, order, augmentation and mixing.
        skip_corrupt: leave out images that are missing or cannot be decoded, counted, instead of refusing the data.
        target: column or columns of a table that hold the target; None: found.
        kind: ``"classification"``, ``"multilabel"`` or ``"regression"``; ``"auto"``: by what the target holds.
        image_column: column of a table that holds the images; None: found by name or content.
        long_tailed: let the training images of the embedded digits fall from 126 of ``zero`` to 6 of ``nine``.
        predict_paths: image files or folders for ``predict_dataloader``.
        cache_gb: largest file of decoded pictures, in units of 2³⁰ bytes; larger data is decoded each time.

    Raises:
        UserError: for a value outside its range; in ``prepare`` and ``setup`` for data that cannot be used.

    Example:
        >>> data = ClassificationData(batch_size=4, num_workers=0)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> tuple(batch["images"].shape), batch["targets"].dtype, data.info.num_classes
        ((4, 3, 32, 32), torch.int64, 10)
    """

    def __init__(
        self,
        path: str | None = None,
        *,
        source: ImageSource | None = None,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        num_workers: int | None = None,
        image_size: int | None = None,
        crop_fraction: float | None = None,
        augment: str | ImageTransform | None = None,
        mirror: bool | None = None,
        device_augment: bool | None = None,
        mix: str = "none",
        mix_alpha: float | None = None,
        mix_prob: float = 1.0,
        sampler: str | None = None,
        sampler_start: float = 0,
        repeat_threshold: float = 0.1,
        samples_per_class: int = 4,
        density_weights: str | None = None,
        normalisation: str = "auto",
        train_split: str = "train",
        val_split: str = "val",
        test_split: str = "test",
        val_fraction: float = 0.15,
        fold: str | None = None,
        fold_groups: str | None = None,
        seed: int = 0,
        skip_corrupt: bool = False,
        target: str | Sequence[str] | None = None,
        kind: str = "auto",
        image_column: str | None = None,
        long_tailed: bool = False,
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
        at_least("eval_batch_size", eval_batch_size, 1)
        if normalisation not in ("auto", *NORMALISATIONS):
            raise UserError(f"normalisation must be one of auto, {', '.join(NORMALISATIONS)}, got {normalisation!r}.")
        if density_weights is not None and density_weights not in DENSITY_WEIGHTS:
            raise UserError(f"density_weights must be one of {', '.join(DENSITY_WEIGHTS)}, got {density_weights!r}.")
        self.reading = ImageReading(
            path=path,
            source=source,
            target=target,
            kind=kind,
            image_column=image_column,
            long_tailed=long_tailed,
            splits=(train_split, val_split, test_split),
            val_fraction=val_fraction,
            fold=None if fold is None else parse_fold(fold),
            fold_groups=fold_groups,
            seed=seed,
        )
        self.options = ImageOptions(
            image_size=image_size,
            crop_fraction=crop_fraction,
            augment="light" if augment is None else augment,
            mirror=mirror,
            device_augment=device_augment,
            mix=mix,
            mix_alpha=mix_alpha,
            mix_prob=mix_prob,
            seed=seed,
        )
        self.resampling = None
        if sampler is not None:
            self.resampling = Resampling(
                sampler,
                start=sampler_start,
                threshold=repeat_threshold,
                seed=seed,
                samples_per_class=samples_per_class,
                batch_size=batch_size,
            )
        self.path, self.source = path, source
        self.density_weights = density_weights
        self.eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        self.normalisation = normalisation
        self._audit: ImageAuditReport | None = None
        self._plan: ImagePlan | None = None
        self._caches: dict[tuple[str, int | None], ImageCache] = {}
        self._datasets: dict[str, ImageDataset] = {}
        self._drawn_by: NDArray[np.float32] | None = None
        self._augments = self._mixes = True

    @property
    def report(self) -> str:
        """The audit's table as text."""
        return str(self.audit_report)

    @property
    def audit_report(self) -> ImageAuditReport:
        """The audit's result."""
        if self._audit is None:
            self.prepare()
        if self._audit is None:
            raise RuntimeError("prepare() did not set the audit's report")
        return self._audit

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that there are."""
        return tuple(self.audit_report.source.splits)

    def table(self, split: str) -> ImageTable:
        """A split after the audit; a batch's ``index`` are positions in it."""
        source = self.audit_report.source
        if split not in source.splits:
            raise UserError(f"{source.root} has no split {split!r}, only {', '.join(source.splits)}.")
        return source.splits[split]

    def prepare(self) -> None:
        """Read and audit the data, once. Deterministic: each rank comes to the same result."""
        if self._info is not None:
            return
        if self._audit is None:
            source = self.reading.read(self.options.image_size or _DIGIT_SIZE, skip_corrupt=self.skip_corrupt)
            self._audit = audit_images(source, skip_corrupt=self.skip_corrupt)
        source = self._audit.source
        self._plan = self.options.plan(source)
        for note in self._plan.notes:
            self._note(note)
        step = self._plan.step
        pixels = self._statistics(self._plan)
        self._info = image_info(
            source,
            self.train_split,
            image_size=step.image_size,
            crop_fraction=step.crop_fraction,
            normalisation=pixels if self.normalisation == "auto" else NORMALISATIONS[self.normalisation],
            pixels=pixels,
        )
        if step.mix is not None:
            step.mix.bind(self._info)

    def reuse(self, other: ClassificationData) -> None:
        """Take over the images that another one has read, audited and decoded, before this one is asked for any.

        Args:
            other: of the same data; it may sample, augment and mix them in another way.
        """
        self._audit, self._caches = other.audit_report, other._caches

    def evaluation_dataloader(self, role: str) -> ResumableDataLoader:
        """Images of ``"train"``, ``"val"`` or ``"test"`` as evaluation reads them: each once, in order, unchanged.

        Large training images are decoded each time, since training keeps them in another size.

        Raises:
            UserError: there is no such split.
        """
        self.prepare()
        if role != "train":
            return self._loader(role)
        plan, table = self._planned(), self.table(self.train_split)
        side = plan.cache_side(training=False)
        if side == plan.cache_side(training=True):
            cache = self._cache(self.train_split, side)
        else:
            cache = ImageCache(table.images, min_side=side, sizes=table.sizes, memory_bytes=0, limit_bytes=0)
        dataset = self._dataset(table, cache, training=False)
        rank, world_size = rank_of(self.trainer)
        sampler = EpochSampler(len(dataset), shuffle=False, seed=self.seed, rank=rank, world_size=world_size)
        return make_loader(
            dataset,
            sampler,
            batch_size=self.eval_batch_size,
            num_workers=self._workers_for(dataset),
            collate_fn=unchanged,
        )

    def predict_dataloader(self) -> DataLoader[Any]:
        """Images of ``predict_paths``, each rank its share.

        Raises:
            UserError: there are no ``predict_paths``.
        """
        paths = self._to_predict()
        rank, world_size = rank_of(self.trainer)
        workers = choose_workers(self.trainer, _MOST_WORKERS)[0] if self.num_workers is None else self.num_workers
        return image_predict_loader(
            paths,
            self.info,
            batch_size=self.eval_batch_size,
            num_workers=workers,
            rank=rank,
            world_size=world_size,
        )

    def on_after_batch_transfer(self, batch: ImageBatch, dataloader_idx: int) -> ImageBatch:
        """Called by Lightning on the device, with each batch."""
        return self.finish(batch, training=self.trainer is not None and self.trainer.training)

    def finish(self, batch: ImageBatch, *, training: bool) -> ImageBatch:
        """What a loader's batch lacks: augmentation on the device, scaling of small pictures, mixing.

        Lightning calls it; in a loop of one's own, call it with each batch once that is on the device.

        Returns:
            images uint8, or float32 after mixing, [B, 3, image_size, image_size].
        """
        step = self._planned().step
        if training and not (self._augments and self._mixes):
            step = replace(
                step, augment=step.augment if self._augments else None, mix=step.mix if self._mixes else None
            )
        return step(batch, training=training)

    def set_augmentation(self, *, augment: bool | None = None, mix: bool | None = None) -> None:
        """Switch what training does to pictures, from the next epoch on; a training in stages calls it between two.

        Args:
            augment: whether ``augment`` is used, on the device and in the data workers; None: as it was.
            mix: whether ``mix`` is; None: as it was.
        """
        self._augments = self._augments if augment is None else augment
        self._mixes = self._mixes if mix is None else mix
        if "train" in self._datasets:
            self._datasets["train"].set_augmentation(self._augments)

    def _planned(self) -> ImagePlan:
        if self._plan is None:
            self.prepare()
        if self._plan is None:
            raise RuntimeError("prepare() did not make a plan")
        return self._plan

    def _cache(self, split: str, side: int | None) -> ImageCache:
        if (split, side) not in self._caches:
            table, limit = self.table(split), self._cache_bytes
            self._caches[split, side] = ImageCache(
                table.images, min_side=side, sizes=table.sizes, memory_bytes=min(_MEMORY, limit), limit_bytes=limit
            )
            self._note(f"{split}: {self._caches[split, side].note}")
        return self._caches[split, side]

    def _statistics(self, plan: ImagePlan) -> Statistics:
        """Of the training pictures; what they are normalised by is said."""
        cache = self._cache(self.train_split, plan.cache_side(training=True))
        most = _STATISTICS if cache.keeps_pictures else _STATISTICS // 10
        statistics = pixel_statistics(cache.__getitem__, len(cache), most=most)
        if self.normalisation != "auto":
            self._note(f"Pixels are normalised as for {self.normalisation!r}, unless a pretrained model has its own.")
            return statistics
        mean, std = (", ".join(f"{value:.3f}" for value in values) for values in statistics)
        looked_at = counted(min(most, len(cache)), "training picture")
        self._note(
            f"Mean ({mean}) and standard deviation ({std}) are those of {looked_at}, unless a pretrained model has "
            "its own."
        )
        return statistics

    def _make(self, role: str) -> ImageDataset:
        if role not in self._datasets:
            training, split = role == "train", self._split_of(role)
            table = self._training_table() if training else self.table(split)
            cache = self._cache(split, self._planned().cache_side(training=training))
            self._datasets[role] = self._dataset(table, cache, training=training)
            if training:
                self._datasets[role].set_augmentation(self._augments)
        return self._datasets[role]

    def _training_table(self) -> ImageTable:
        """With the weights that the loss is to have; those that images are drawn by are put aside."""
        table = self.table(self.train_split)
        if self.density_weights is not None:
            table = with_density_weights(self.audit_report.source, table, self.density_weights)
            self._note(f"Samples are weighed by how rare their targets are ({self.density_weights}).")
        if self.resampling is not None and self.resampling.sampler == "weight":
            self._drawn_by, table = table.weights, replace(table, weights=None)
        return table

    def _dataset(self, table: ImageTable, cache: ImageCache, *, training: bool) -> ImageDataset:
        plan = self._planned()
        return ImageDataset(
            table,
            cache,
            image_size=plan.batch_side(training=training),
            crop_fraction=plan.step.crop_fraction,
            transform=plan.transform if training else None,
            seed=self.seed,
        )

    def _loader(self, role: str) -> ResumableDataLoader:
        dataset, training = self._make(role), role == "train"
        rank, world_size = rank_of(self.trainer)
        sampler = EpochSampler(len(dataset), shuffle=training, seed=self.seed, rank=rank, world_size=world_size)
        if training and self.resampling is not None:
            sampler = self._resampled(self.resampling, dataset, rank, world_size)
        batch_size = self.batch_size if training else self.eval_batch_size
        self._check_share(role, len(dataset), world_size)
        leave_out = training and leaves_out_rest(len(sampler), batch_size)
        if leave_out:
            rest = counted(len(sampler) % batch_size, "training picture")
            self._note(f"{rest}, others in each epoch, are left out: batches hold {batch_size}.")
        return make_loader(
            dataset,
            sampler,
            batch_size=batch_size,
            num_workers=self._workers_for(dataset),
            collate_fn=unchanged,
            drop_last=leave_out,
        )

    def _resampled(
        self, options: Resampling, dataset: ImageDataset, rank: int, world_size: int
    ) -> ResampledEpochSampler:
        sampler = options.make(self.info, dataset.table.targets, self.trainer, self._drawn_by)
        self._note(options.note(sampler))
        return ResampledEpochSampler(sampler, rank=rank, world_size=world_size)

    def _check_share(self, role: str, images: int, world_size: int) -> None:
        """Each rank needs an image, and in training two, because batch norm has no variance of one."""
        least = world_size if role != "train" or self.batch_size == 1 else world_size + 1
        if images < least:
            raise UserError(
                f"The {role} split holds {counted(images, 'image')} for "
                f"{counted(world_size, 'process', 'processes')}: use fewer devices or more "
                "data."
            )

    def _workers_for(self, dataset: ImageDataset) -> int:
        if self.num_workers is None and dataset.is_one_copy:
            self.num_workers = 0
            self._note("A batch is one copy out of memory, so there are no worker processes.")
        return self._workers(_MOST_WORKERS)
