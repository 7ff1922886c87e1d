"""What the benchmarks of the notes share: small trainings on scikit-learn's digits, and a table over the seeds."""

from __future__ import annotations

import json
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from numpy.typing import NDArray
from records import processor
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import nn

from dlrecipes.data import ClassificationData, ImageSource, array_source
from dlrecipes.nn import StagePlan
from dlrecipes.tasks import ClassificationTask
from dlrecipes.trainer import TRAINER_DEFAULTS, quiet_lightning

__all__ = [
    "Arm",
    "Experiment",
    "Pictures",
    "digits",
    "few_shot_recall",
    "fit",
    "make_classifier",
    "measure",
    "small_network",
]

Arm = Callable[[int], Mapping[str, float]]
TEST = 597  # digits of the test split, the last ones of the shuffled 1,797: the same for every seed


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A line of the notes in little: the same training with a part and without.

    Attributes:
        about: data, network, length, and what the figures are: one sentence for the table's head.
        arms: name -> what it reaches with a seed, metric -> value; the first one is without the part.
    """

    about: str
    arms: Mapping[str, Arm]


@dataclass(frozen=True)
class Pictures:
    """Training and test digits, uint8 [n, 8, 8], and their labels, int64 [n].

    Attributes:
        watched: of the training digits, the last so many are a validation split, for callbacks that look at one.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    watched: int = 0


@lru_cache(maxsize=1)
def _all_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    images = np.round(pixels[order].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return images, labels[order].astype(np.int64)


def digits(seed: int, *, each: Sequence[int] | int | None = None, wrong: float = 0.0, watched: int = 0) -> Pictures:
    """Digits to train on, drawn by the seed, and the 597 test digits.

    Args:
        seed: of the draw, and of wrong labels.
        each: training images of each class, one number or ten, at most 108; None: all 1,200.
        wrong: share of training labels that become another class, uniformly.
        watched: the last so many keep their right labels, and are the validation split.
    """
    images, labels = _all_digits()
    rng = np.random.default_rng((seed, 7))
    pool = np.arange(len(labels) - TEST)
    if each is None:
        chosen = rng.permutation(pool)
    else:
        counts = [each] * 10 if isinstance(each, int) else list(each)
        drawn = [rng.permutation(pool[labels[pool] == c])[:n] for c, n in enumerate(counts)]
        chosen = rng.permutation(np.concatenate(drawn))
    train = labels[chosen].copy()
    flipped = rng.random(len(train)) < wrong
    flipped[len(train) - watched :] = False
    train[flipped] = (train[flipped] + rng.integers(1, 10, int(flipped.sum()))) % 10
    return Pictures(images[chosen], train, images[-TEST:], labels[-TEST:], watched)


def small_network(**plan: Any) -> nn.Module:
    """A residual network of 2 blocks, 16 and 32 channels wide, for ten classes; ``plan`` as in ``StagePlan``."""
    small = StagePlan(depth=(1, 1), width=(16, 32), stride=(1, 2), early_pool=False)
    return replace(small, **plan).build(num_classes=10)


def make_classifier(
    loss: nn.Module | None = None, kind: Callable[..., ClassificationTask] = ClassificationTask, **options: Any
) -> Callable[[nn.Module], ClassificationTask]:
    """Makes a task of a network: AdamW at 1e-2 with a cosine.

    Args:
        loss: default: that of the task.
        kind: another class of task.
        options: further arguments of the task, or others than these.
    """
    given: dict[str, Any] = {"lr": 1e-2, "warmup_steps": 10, **options}
    return lambda network: kind(network, loss, **given)


def fit(
    pictures: Pictures,
    make: Callable[[], nn.Module],
    task: Callable[[nn.Module], ClassificationTask] | None = None,
    *,
    seed: int,
    epochs: int = 15,
    data: Mapping[str, Any] | None = None,
    callbacks: Sequence[L.Callback] = (),
    validate_every: int | None = None,
) -> tuple[dict[str, float], ClassificationTask]:
    """Train by a datamodule and a task of the library, one thread, and measure it on the test digits.

    Args:
        pictures: see `digits`.
        make: makes the network, after the seed is set.
        task: see `make_classifier`; default: with nothing else said.
        seed: of weights, order, augmentation.
        epochs: of training.
        data: further arguments of ``ClassificationData``; batches of 64, 8 pixels, no augmentation, never mirrored,
            unless they say otherwise.
        callbacks: of the run. With a ``ModelCheckpoint`` its best weights are measured instead of the last ones.
        validate_every: epochs between two validations; default: each if something is watched, else at the end.

    Returns:
        Metrics of the test digits without their prefix, those that ``ClassificationTask`` logs; and the task.
    """
    quiet_lightning()
    warnings.simplefilter("ignore")
    L.seed_everything(seed, verbose=False)
    options: dict[str, Any] = {"batch_size": 64, "image_size": 8, "augment": "none", "mirror": False, "num_workers": 0}
    datamodule = ClassificationData(source=source_of(pictures), **{**options, "seed": seed, **(data or {})})
    made = (task or make_classifier())(make())
    best = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    runner = L.Trainer(
        max_epochs=epochs,
        check_val_every_n_epoch=validate_every or (1 if pictures.watched else epochs),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=best,
        enable_progress_bar=False,
        callbacks=list(callbacks),
        **TRAINER_DEFAULTS,
    )
    runner.fit(made, datamodule)
    chosen: dict[str, Any] = {"ckpt_path": "best", "weights_only": True} if best else {}
    (found,) = runner.test(made, datamodule, verbose=False, **chosen)
    return {name.removeprefix("test/"): float(value) for name, value in found.items()}, made


def source_of(pictures: Pictures) -> ImageSource:
    """As a datamodule takes them. Where nothing is watched, the validation split is the test digits: nothing looks."""
    end = len(pictures.labels) - pictures.watched
    test = (pictures.test_images, pictures.test_labels)
    return array_source(
        (pictures.images[:end], pictures.labels[:end]),
        val=(pictures.images[end:], pictures.labels[end:]) if pictures.watched else test,
        test=test,
        classes=tuple(map(str, range(10))),
        name="digits",
    )


def few_shot_recall(metrics: Mapping[str, float], classes: Sequence[int]) -> float:
    """Mean recall of these classes."""
    return statistics.mean(metrics[f"recall_class/{c}"] for c in classes)


def measure(name: str, experiment: Experiment, seeds: Sequence[int], folder: Path) -> None:
    """Run each arm with each seed, print mean and range, and keep all values as ``FOLDER/NAME.json``."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        for arm, run in experiment.arms.items():
            rows.append({"arm": arm, "seed": seed, **{key: float(value) for key, value in run(seed).items()}})
    metrics = list(dict.fromkeys(key for row in rows for key in row if key not in ("arm", "seed")))
    table = Table(title=f"{name}: {experiment.about}", title_justify="left")
    table.add_column("")
    for metric in metrics:
        table.add_column(metric, justify="right", no_wrap=True)
    for arm in experiment.arms:
        cells = []
        for metric in metrics:
            values = [row[metric] for row in rows if row["arm"] == arm and metric in row]
            mean = statistics.mean(values) if values else float("nan")
            cells.append(f"{mean:.4g} ({min(values):.4g} to {max(values):.4g})" if values else "")
        table.add_row(arm, *cells)
    Console(width=170, highlight=False).print(table)
    about = {
        "about": experiment.about,
        "seeds": list(seeds),
        "machine": f"{processor()}, 1 thread",
        "torch": str(torch.__version__),
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": round(time.perf_counter() - started, 1),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"about": about, "runs": rows}, indent=1) + "\n")
