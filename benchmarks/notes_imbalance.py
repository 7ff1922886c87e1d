"""Imbalanced labels, embeddings and teachers in little; run by `notes.py`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from note_runs import Arm, Experiment, Pictures, digits, few_shot_recall, fit, make_classifier, small_network
from pytorch_metric_learning.losses import MultiSimilarityLoss
from torch import nn

from dlrecipes.callbacks import DeferredReweighting
from dlrecipes.imbalance import FeatureSMOTE, NearestClassMean
from dlrecipes.losses import (
    BalancedContrastiveLoss,
    HeadToTailDistillLoss,
    KDLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    SupConLoss,
)
from dlrecipes.nn import CosineLinear
from dlrecipes.tasks import ClassificationTask, DistillationTask

COUNTS = (100, 70, 49, 34, 24, 17, 12, 8, 6, 4)  # training images of the classes, which one is rare is the seed's
RARE = 3  # classes, those of 8, 6 and 4 images
TAIL_EPOCHS = 40
TAIL = f"digits, {COUNTS[0]} to {COUNTS[-1]} a class, the order by the seed, {TAIL_EPOCHS} epochs"
TAIL_FIGURES = f"balanced accuracy of the test digits, recall of the {RARE} rarest classes; last epoch"
FEATURES = 32  # of `small_network`

FEW, FEW_EPOCHS = 10, 60  # images a class, without a tail
TAUGHT_EPOCHS = 200  # in 60 a narrow student is far from trained, and a taught one farther

_SCRATCH = tempfile.TemporaryDirectory(prefix="notes-teachers-")


def long_tail(seed: int) -> tuple[Pictures, list[int]]:
    """Training digits, and the rarest classes."""
    order = np.random.default_rng((seed, 1)).permutation(10)
    each = [0] * 10
    for label, count in zip(order.tolist(), COUNTS, strict=True):
        each[label] = count
    return digits(seed, each=each), order[-RARE:].tolist()


def cosine_network() -> nn.Module:
    """`small_network` with the last layer that LDAM is made for."""
    network = small_network()
    network.head = CosineLinear(FEATURES, 10)
    return network


def on_tail(
    loss: Callable[[], nn.Module] | None = None,
    *,
    make: Callable[[], nn.Module] = small_network,
    callbacks: Callable[[], list[Any]] = list,
    task: Callable[[], dict[str, Any]] = dict,
    **data: Any,
) -> Arm:
    """A training on the long tail; parts are made anew for each seed."""

    def run(seed: int) -> Mapping[str, float]:
        pictures, rare = long_tail(seed)
        metrics, _ = fit(
            pictures,
            make,
            make_classifier(None if loss is None else loss(), **task()),
            seed=seed,
            epochs=TAIL_EPOCHS,
            data=data,
            callbacks=callbacks(),
        )
        return {"balanced accuracy": metrics["balanced_accuracy"], "rare": few_shot_recall(metrics, rare)}

    return run


plain_tail = lru_cache(maxsize=None)(on_tail())
"""Cross entropy, which several experiments are compared with."""


def deferred() -> Experiment:
    """Weights and sampling that balance, from the start and in the last fifth."""
    late, at_once = (lambda: [DeferredReweighting()]), (lambda: [DeferredReweighting(share=0.0)])
    return Experiment(
        about=f"{TAIL}; weights, or the class sampler, at once or in the last fifth: {TAIL_FIGURES}",
        arms={
            "cross entropy": plain_tail,
            "weights at once": on_tail(callbacks=at_once),
            "weights late (DRW)": on_tail(callbacks=late),
            "class sampler at once": on_tail(sampler="class"),
            "class sampler late (DRS)": on_tail(sampler="class", sampler_start=0.8),
            "LDAM": on_tail(LDAMLoss, make=cosine_network),
            "LDAM, weights late": on_tail(LDAMLoss, make=cosine_network, callbacks=late),
        },
    )


def mixed() -> Experiment:
    """Mixup and Remix, which differ in the labels alone."""
    return Experiment(
        about=f"{TAIL}; mixup and Remix with one α of 1: {TAIL_FIGURES}",
        arms={
            "unmixed": plain_tail,
            "mixup": on_tail(mix="mixup", mix_alpha=1.0),
            "Remix": on_tail(mix="remix", mix_alpha=1.0),
        },
    )


def tail_embeddings() -> Experiment:
    """Features that are added, and losses that shape them, behind one classifier with cross entropy."""
    branch = {"projection_dim": FEATURES}
    return Experiment(
        about=f"{TAIL}; a projection of {FEATURES} for the contrastive losses, which weigh 1: {TAIL_FIGURES}",
        arms={
            "cross entropy": plain_tail,
            "FeatureSMOTE": on_tail(task=lambda: {"feature_part": FeatureSMOTE(FEATURES)}),
            "SupCon branch": on_tail(task=lambda: {"auxiliary_loss": SupConLoss(), **branch}),
            "balanced contrastive branch": on_tail(
                task=lambda: {"auxiliary_loss": BalancedContrastiveLoss(FEATURES), **branch}
            ),
        },
    )


@torch.no_grad()
def nearest_mean_accuracy(task: ClassificationTask, pictures: Pictures) -> float:
    """Of the test digits, by the mean features of the training digits' classes."""
    task.eval()
    model: Any = task.model
    known, new = (
        model.features(task.normalise(torch.from_numpy(images)[:, None].repeat(1, 3, 1, 1)))
        for images in (pictures.images, pictures.test_images)
    )
    means = NearestClassMean(known.shape[1], 10)
    means.update(known, torch.from_numpy(pictures.labels))
    return float((means(new).argmax(1) == torch.from_numpy(pictures.test_labels)).float().mean())


def embedded(loss: Callable[[], nn.Module] | None) -> Arm:
    """Few images: a classifier, and the nearest class mean on its features."""

    def run(seed: int) -> Mapping[str, float]:
        pictures = digits(seed, each=FEW)
        parts: dict[str, Any] = {} if loss is None else {"auxiliary_loss": loss(), "projection_dim": FEATURES}
        metrics, task = fit(
            pictures,
            small_network,
            make_classifier(**parts),
            seed=seed,
            epochs=FEW_EPOCHS,
            data={"batch_size": 50, "augment": "light", "sampler": "m_per_class", "samples_per_class": 5},
        )
        return {"accuracy": metrics["accuracy"], "nearest mean": nearest_mean_accuracy(task, pictures)}

    return run


@lru_cache(maxsize=2)
def teacher(seed: int, *, tail: bool) -> str:
    """Checkpoint of a network that has seen all 1,200 digits, or the long tail as it is."""
    pictures = long_tail(seed)[0] if tail else digits(seed)
    epochs, augment = (TAIL_EPOCHS, "none") if tail else (15, "light")  # as the student's images will be
    _, task = fit(pictures, small_network, seed=seed + 100, epochs=epochs, data={"augment": augment})
    path = Path(_SCRATCH.name) / f"{'tail' if tail else 'all'}-{seed}.ckpt"
    task.trainer.save_checkpoint(path)
    return str(path)


def taught(by: Callable[[int], str] | None, **given: Any) -> Arm:
    """A narrow network with few images, alone or with a teacher."""

    def run(seed: int) -> Mapping[str, float]:
        student = None if by is None else make_classifier(kind=DistillationTask, teacher=by(seed), **given)
        metrics, _ = fit(
            digits(seed, each=FEW),
            lambda: small_network(width=(8, 16)),
            student,
            seed=seed,
            epochs=TAUGHT_EPOCHS,
            data={"augment": "light"},
        )
        return {"accuracy": metrics["accuracy"], "nll": metrics["nll"]}

    return run


def taught_tail(distill: Callable[[], nn.Module] | None) -> Arm:
    """A student on the long tail, with a loss that allows for it; its teacher was trained on the tail as it is."""

    def run(seed: int) -> Mapping[str, float]:
        pictures, rare = long_tail(seed)
        if distill is None:
            student = make_classifier(LogitAdjustedLoss())
        else:
            parts = {"teacher": teacher(seed, tail=True), "distill": distill()}
            student = make_classifier(LogitAdjustedLoss(), DistillationTask, **parts)
        metrics, _ = fit(pictures, small_network, student, seed=seed, epochs=TAIL_EPOCHS)
        return {"balanced accuracy": metrics["balanced_accuracy"], "rare": few_shot_recall(metrics, rare)}

    return run


EXPERIMENTS: dict[str, Experiment] = {
    "deferred": deferred(),
    "mixed": mixed(),
    "tail_embeddings": tail_embeddings(),
    "metric_learning": Experiment(
        about=f"{FEW} digits a class, light augmentation, batches of 5 a class, {FEW_EPOCHS} epochs; accuracy of the "
        "classifier, and of the nearest class mean on its features; test digits, last epoch",
        arms={
            "cross entropy": embedded(None),
            "and SupCon": embedded(SupConLoss),
            "and MultiSimilarity": embedded(MultiSimilarityLoss),
        },
    ),
    "teacher": Experiment(
        about=f"student of 8 and 16 channels, {FEW} digits a class, light augmentation, {TAUGHT_EPOCHS} epochs; one "
        "of 16 and 32 with all 1,200 teaches it, or the average of the student's weights; test digits, last epoch",
        arms={
            "alone": taught(None),
            "taught": taught(partial(teacher, tail=False)),
            "its own average": taught(lambda seed: "ema", ema_decay=0.99, rampup_steps=40),
        },
    ),
    "head_to_tail": Experiment(
        about=f"{TAIL}; a teacher with the same data and cross entropy: {TAIL_FIGURES}",
        arms={
            "cross entropy": plain_tail,
            "logit adjustment": taught_tail(None),
            "and KD": taught_tail(KDLoss),
            "and HeadToTail": taught_tail(HeadToTailDistillLoss),
        },
    ),
}
