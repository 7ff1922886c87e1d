"""One run of the long-tail table: the data, the task, a bare Trainer, and what came out."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from cifar10_lt_rows import PROTOCOL, ROWS, Row
from torch import Tensor

from dlrecipes.callbacks import AveragedWeights, LastValidation
from dlrecipes.contracts import ImageBatch
from dlrecipes.data import ClassificationData, DeviceAugment, array_source
from dlrecipes.data.loading.decode import decode
from dlrecipes.data.loading.loader import ResumableDataLoader
from dlrecipes.imbalance import long_tail_indices
from dlrecipes.models import CifarResNet
from dlrecipes.tasks import ClassificationTask, DistillationTask
from dlrecipes.tasks.second_stage import Method, second_stage
from dlrecipes.tasks.stage_features import read_features
from dlrecipes.trainer import TRAINER_DEFAULTS, quiet_lightning, uses_cuda

__all__ = ["GROUPS", "Cifar10LT", "load_pixels", "train_row"]

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
STAGE_EPOCHS = 10  # of a second stage that trains, as Kang et al. and MiSLAS do
SUBSET_SEED = 0  # every run trains on the same images
# By training samples: more than 1000, 200 to 1000, fewer. ImageNet-LT's borders, 100 and 20, leave no few-shot class.
GROUPS = {"many": (1000, float("inf")), "medium": (200, 1000), "few": (0, 200)}

Split = tuple[np.ndarray[Any, np.dtype[np.uint8]], np.ndarray[Any, np.dtype[np.int64]]]


@lru_cache(maxsize=1)
def load_pixels(npz: Path, kept: Path) -> tuple[Split, Split, tuple[str, ...]]:
    """Training and test split as uint8 [n, 32, 32, 3] and int64 [n], and the classes' names.

    Args:
        npz: JPEG files of both splits, one after the other, with their offsets.
        kept: file for the decoded pixels, so that they are decoded once for all runs.
    """
    content = np.load(npz)
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        pixels: dict[str, Any] = {}  # numpy's types take an array for ``allow_pickle``
        for split in ("train", "test"):
            data, ends = content[f"{split}_bytes"], content[f"{split}_offsets"]
            files = (data[a:b].tobytes() for a, b in pairwise(ends))
            pixels[split] = np.stack([decode(file, f"{split}#{i}").pixels for i, file in enumerate(files)])
        unfinished = kept.with_suffix(f".{time.monotonic_ns()}.npz")
        np.savez(unfinished, **pixels)
        unfinished.replace(kept)
    decoded = np.load(kept)
    train, test = ((decoded[split], content[f"{split}_labels"].astype(np.int64)) for split in ("train", "test"))
    return train, test, tuple(map(str, content["classes"]))


class Cifar10LT(ClassificationData):
    """The long tail to train on and the whole test set, as the ``val`` split, which chooses nothing here.

    Pictures are cropped out of a black border of 4 pixels and mirrored on the device, or augmented strongly.

    Args:
        splits: of `load_pixels`.
        imbalance_factor: the largest class by the smallest.
        fraction: of each class's training images that are used, for trials.
        augment: ``"light"`` or ``"strong"``.
        only_head: the first, most frequent, classes that are kept; None: all.
        batch_size, seed: of training.
        more: further arguments of ``ClassificationData``.
    """

    def __init__(
        self,
        splits: tuple[Split, Split, tuple[str, ...]],
        *,
        imbalance_factor: float = 100,
        fraction: float = 1.0,
        augment: str = "light",
        only_head: int | None = None,
        batch_size: int = 128,
        seed: int = 0,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        (pixels, labels), test, classes = splits
        chosen = np.array(long_tail_indices(labels, imbalance_factor, SUBSET_SEED))
        if fraction < 1:
            kept = [chosen[labels[chosen] == c] for c in range(len(classes))]
            chosen = np.concatenate([rows[: max(2, round(fraction * len(rows)))] for rows in kept])
            step = round(1 / fraction)
            test = test[0][::step], test[1][::step]
        if only_head is not None:
            chosen, classes = chosen[labels[chosen] < only_head], classes[:only_head]
            of_head = test[1] < only_head
            test = test[0][of_head], test[1][of_head]
        train = (pixels[chosen], labels[chosen])
        super().__init__(
            source=array_source(train, val=test, classes=classes, name="cifar10-lt"),
            batch_size=batch_size,
            eval_batch_size=1000,
            augment="none",  # see `WholeEpochs`
            seed=seed,
            **(more or {}),
        )
        crop = DeviceAugment(augment, border="zero", seed=seed)
        self.epochs = WholeEpochs(torch.from_numpy(train[0]), torch.from_numpy(train[1]), crop)

    def train_dataloader(self) -> WholeEpochs:  # type: ignore[override]  # no DataLoader, but one to Lightning
        """The library's order of samples, in batches that are on the device already."""
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        return self.epochs.follow(super().train_dataloader(), device)


class WholeEpochs:
    """Batches out of an epoch that is augmented at once on the device: a picture's changes follow from seed, epoch and
    index alone, so that they are those of augmentation batch by batch, which would take a third of a step's host time.

    Args:
        pixels: uint8 [n, H, W, 3].
        labels: int64 [n].
        augment: of all pictures.
    """

    def __init__(self, pixels: Tensor, labels: Tensor, augment: DeviceAugment) -> None:
        self.pixels, self.labels, self.augment = pixels.permute(0, 3, 1, 2), labels, augment

    def follow(self, loader: ResumableDataLoader, device: torch.device) -> WholeEpochs:
        """Take order and batch size of this loader; Lightning tells ``sampler`` the epoch."""
        self.sampler, self.batch_size, self.batches = loader.sampler, loader.batch_size or 1, len(loader)
        self.pixels, self.labels = self.pixels.to(device), self.labels.to(device)
        return self

    def plain(self) -> Iterator[ImageBatch]:
        """Each picture once, as it is."""
        index = torch.arange(len(self.labels))
        return self._cut(self.pixels, index, index, 0, 1000)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[ImageBatch]:
        keys = list(self.sampler)
        draw, epoch = torch.tensor([key for _, key in keys], device=self.labels.device), keys[0][0]
        parts = draw.split(32 * self.batch_size)  # 4096 pictures: strong augmentation takes room
        return islice(chain.from_iterable(self._batches(part, epoch) for part in parts), self.batches)

    def _batches(self, draw: Tensor, epoch: int) -> Iterator[ImageBatch]:
        index = draw % len(self.labels)
        return self._cut(self.augment(self.pixels[index], draw, epoch), index, draw, epoch, self.batch_size)

    def _cut(self, images: Tensor, index: Tensor, draw: Tensor, epoch: int, size: int) -> Iterator[ImageBatch]:
        columns = (column.split(size) for column in (images, self.labels[index], index, draw))
        for pictures, targets, positions, draws in zip(*columns, strict=True):
            yield {
                "images": pictures,
                "targets": targets,
                "weights": None,
                "index": positions,
                "draw": draws,
                "epoch": epoch,
                "paths": [],
            }


class _Quiet(ClassificationTask):
    """Does not log each step, which would take a fifth of a small network's time."""

    def training_step(self, batch: ImageBatch, batch_idx: int) -> dict[str, Tensor]:
        return {"loss": self.step(batch)[1]}


class QuietTask(_Quiet):
    """Learns from labels."""


class QuietStudent(_Quiet, DistillationTask):
    """Learns from a teacher, too."""


class Curve(L.Callback):
    """Keeps the metrics of every evaluation and the seconds that they took, and says how far the run is.

    Args:
        name: of the run.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.points: list[dict[str, float]] = []
        self.evaluating = 0.0
        self._started = self._said = time.perf_counter()
        self._loss: Tensor | None = None

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        self._loss = outputs["loss"]

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # floats, so that the device is done
        point = {name.removeprefix("val/"): float(value) for name, value in trainer.callback_metrics.items()}
        self.points.append({"epoch": trainer.current_epoch + 1, **point})
        self.evaluating += time.perf_counter() - self._started

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        now, epoch = time.perf_counter(), trainer.current_epoch + 1
        if now - self._said < 10 and epoch != trainer.max_epochs:
            return
        self._said = now
        loss = float("nan") if self._loss is None else float(self._loss)
        last = f", test {self.points[-1]['accuracy']:.4f} at {self.points[-1]['epoch']:.0f}" if self.points else ""
        print(f"{self.name}: epoch {epoch}/{trainer.max_epochs}, loss {loss:.3f}{last}", flush=True)


def train_row(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train one row from start to end.

    Args:
        name: of `ROWS`.
        seed: of weights, order, augmentation and mixing.
        options: of the command line.
    """
    row = ROWS[name]
    quiet_lightning()
    L.seed_everything(seed, verbose=False)
    if row.stage is not None:
        return train_last_layer(row, row.stage, seed, options)
    started = time.perf_counter()
    data = make_data(row, seed, options)
    task = make_task(row, seed, options)
    epochs = row.longer * options.epochs
    every = max(1, round(epochs / options.evaluations))
    curve = Curve(f"{name}-{seed}")
    trainer = make_bare_trainer(row, options, epochs, every, [curve])
    fitting = time.perf_counter()
    trainer.fit(task, data)
    ended = time.perf_counter()
    if trainer.current_epoch < epochs:
        raise SystemExit("stopped")
    trainer.save_checkpoint(checkpoint_path(name, seed, options))
    return {
        **summary(curve.points, data.info.class_counts, data.info.classes),
        "epochs": epochs,
        "steps": trainer.global_step,
        "evaluated_every": every,
        "seconds": {
            "training": round(ended - fitting - curve.evaluating, 1),
            "evaluating": round(curve.evaluating, 1),
            "before": round(fitting - started, 1),
        },
        "precision": str(trainer.precision),
        "curve": [[point["epoch"], point["accuracy"]] for point in curve.points],
    }


def train_last_layer(row: Row, stage: Method, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Put a row's network through a second stage; neither choice nor temperature comes from the test set."""
    path = checkpoint_path(str(row.base), seed, options)
    task = QuietTask.load_from_checkpoint(path).to("cuda" if uses_cuda(options.accelerator) else "cpu")
    data = make_data(row, seed, options)
    learnt = stage in ("crt", "lws")
    started = time.perf_counter()
    features = read_features(task, data, train_loader=data.epochs.plain(), augment=learnt)
    features = replace(features, val=features.train, test=features.val)  # our ``val`` is the test set
    tau = 1.0 if stage in ("tau", "logit-adjust") else None
    found = second_stage(task, features, stage, epochs=STAGE_EPOCHS, tau=tau, seed=seed)
    figures = summary([found.after["test"]], data.info.class_counts, data.info.classes)
    del figures["best_on_test"]  # there was one evaluation
    return {
        **figures,
        "epochs": STAGE_EPOCHS if learnt else 0,
        "seconds": {"training": round(time.perf_counter() - started, 1)},
        "precision": options.precision,
        "curve": [],
    }


def make_data(row: Row, seed: int, options: argparse.Namespace) -> Cifar10LT:
    """The long tail as this row samples, augments and mixes it."""
    return Cifar10LT(
        load_pixels(options.data, options.output / "pixels.npz"),
        imbalance_factor=options.imbalance_factor,
        fraction=options.train_fraction,
        augment=row.augment,
        only_head=row.only_head,
        seed=seed,
        more=row.data,
    )


def make_task(row: Row, seed: int, options: argparse.Namespace) -> ClassificationTask:
    """A new network with this row's loss, and its teacher if it has one."""
    model = CifarResNet(32, head=row.head)
    model.normalisation = (MEAN, STD)  # type: ignore[assignment]  # goes before the data's
    on_gpu = uses_cuda(options.accelerator)
    setting = {
        **PROTOCOL,
        "channels_last": True,
        "compile_mode": options.compile_mode or ("reduce-overhead" if on_gpu else "never"),
        **row.task,
        **row.parts(),
    }
    if row.base is not None:
        setting["teacher"] = str(checkpoint_path(row.base, seed, options))
    if "teacher" in setting:
        return QuietStudent(model, row.loss(), **setting)
    return QuietTask(model, row.loss(), **setting)


def make_bare_trainer(
    row: Row, options: argparse.Namespace, epochs: int, every: int, callbacks: Sequence[L.Callback]
) -> L.Trainer:
    """Lightning's Trainer with nothing that a run of a minute does not need."""
    device = "cuda" if uses_cuda(options.accelerator) else None
    return L.Trainer(
        max_epochs=epochs,
        check_val_every_n_epoch=every,
        accelerator=options.accelerator,
        devices=1,
        precision=options.precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[
            *callbacks,
            LastValidation(),
            *row.callbacks(),
            *([] if row.ema is None else [AveragedWeights(row.ema, device)]),
        ],
        **TRAINER_DEFAULTS,
    )


def checkpoint_path(name: str, seed: int, options: argparse.Namespace) -> Path:
    """Where a row's last weights are kept, for rows that begin with them or learn from them."""
    part = "" if options.train_fraction == 1 else f"-{options.train_fraction:g}"
    path: Path = options.output / f"{name}-{seed}-{options.epochs}-{options.imbalance_factor:g}{part}.ckpt"
    return path


def summary(points: Sequence[Mapping[str, float]], counts: Sequence[int], classes: Sequence[str]) -> dict[str, Any]:
    """The last evaluation's figures, and the best accuracy of all of them.

    Args:
        points: of `Curve`.
        counts: training images of each class.
        classes: names.
    """
    last = points[-1]
    recall = {name: last[f"recall_class/{name}"] for name in classes}
    most = max(counts)
    groups = {
        group: [recall[name] for name, n in zip(classes, counts, strict=True) if low < n * 5000 / most <= high]
        for group, (low, high) in GROUPS.items()
    }
    return {
        **{name: last[name] for name in ("accuracy", "f1", "ece", "class_ece", "nll", "balanced_nll")},
        "best_on_test": max(point["accuracy"] for point in points),
        **{group: sum(values) / len(values) for group, values in groups.items() if values},
        "recall": recall,
    }
