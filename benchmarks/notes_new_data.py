"""Data that is held out, new, changed or long-tailed, in little; run by `notes.py`."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from note_runs import Arm, Experiment, Pictures, digits, fit, small_network
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor

from dlrecipes.contracts import DataInfo
from dlrecipes.cross_validation import FoldMetric
from dlrecipes.data import DigitScenes, ImageTable, array_source, check_pixels
from dlrecipes.data.splits.folds import fold_of, parse_fold
from dlrecipes.data.splits.image_facts import pixel_statistics
from dlrecipes.imbalance import RepeatFactorSampler
from dlrecipes.shift import CORRUPTIONS, ExpandedTable, ExpandedTest, OODScorer, penultimate
from dlrecipes.tasks import ClassificationTask

FOLDS, DRAWS, DRAWN, FOLD_EPOCHS = 5, 2, 30, 20  # draws a seed, digits of each class in one
UNSEEN = 2  # classes that a network is trained without
SEVERITIES, NEAR = (1, 3, 5), 0.05  # of accuracy, about two standard errors of 298 images
PHOTOGRAPHS = {"BCCD": "bccd/JPEGImages", "COCO": "tiny_coco"}
SETS, SIDE = 20, 64  # sets of new photographs a seed; pixels that they are scaled to


def in_colour(images: NDArray[np.uint8]) -> Tensor:
    """uint8 [n, S, S] → [n, 3, S, S]."""
    return torch.from_numpy(images)[:, None].repeat(1, 3, 1, 1)


@torch.no_grad()
def see(task: ClassificationTask, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features [n, D] and logits [n, C] of uint8 images."""
    task.eval()
    return penultimate(task.model, task.normalise(images))


def accuracy(task: ClassificationTask, pictures: Pictures) -> float:
    """Of the 597 test digits."""
    logits = see(task, in_colour(pictures.test_images))[1]
    return float((logits.argmax(1).numpy() == pictures.test_labels).mean())


def arrays(table: ImageTable) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """What a split holds."""
    return np.stack([table.images.read(i)[..., 0] for i in range(len(table))]), table.targets


@lru_cache(maxsize=1)
def cross_validated(seed: int) -> tuple[tuple[FoldMetric, float, float], ...]:
    """Of each draw: accuracy over the folds, and the truth for their networks and for one trained on all."""
    found = []
    for draw in range(DRAWS):
        key = 10 * seed + draw
        pictures = digits(key, each=DRAWN)
        source = array_source((pictures.images, pictures.labels), classes=tuple(map(str, range(10))))
        values, truths = [], []
        for number in range(1, FOLDS + 1):
            split = fold_of(source, parse_fold(f"{number}/{FOLDS}"), seed=key).splits
            held_out = Pictures(*arrays(split["train"]), *arrays(split["val"]))
            metrics, task = fit(held_out, small_network, seed=key, epochs=FOLD_EPOCHS)
            values.append(metrics["accuracy"])
            truths.append(accuracy(task, pictures))
        metrics, _ = fit(pictures, small_network, seed=key, epochs=FOLD_EPOCHS)
        found.append((FoldMetric.of(values), statistics.mean(truths), metrics["accuracy"]))
    return tuple(found)


def one_split(seed: int) -> Mapping[str, float]:
    """The first fold alone."""
    found = cross_validated(seed)
    return {"error": statistics.mean(abs(folds.values[0] - whole) for folds, _, whole in found)}


def five_folds(seed: int) -> Mapping[str, float]:
    """Their mean, and their interval."""
    found = cross_validated(seed)
    return {
        "error": statistics.mean(abs(folds.mean - whole) for folds, _, whole in found),
        "interval holds theirs": statistics.mean(folds.low <= theirs <= folds.high for folds, theirs, _ in found),
        "holds whole's": statistics.mean(folds.low <= whole <= folds.high for folds, _, whole in found),
        "width": statistics.mean(folds.high - folds.low for folds, _, _ in found),
    }


@lru_cache(maxsize=1)
def partly_trained(seed: int) -> tuple[ClassificationTask, Pictures, list[int]]:
    """A network that has never seen some classes, and which ones."""
    unseen = np.random.default_rng((seed, 2)).permutation(10)[:UNSEEN].tolist()
    pictures = digits(seed, each=[0 if label in unseen else 90 for label in range(10)])
    kept = ~np.isin(pictures.test_labels, unseen)  # the audit refuses a class that only validation has
    shown = replace(pictures, test_images=pictures.test_images[kept], test_labels=pictures.test_labels[kept])
    _, task = fit(shown, small_network, seed=seed)
    return task, pictures, unseen


def strange(method: str) -> Arm:
    """How well a score tells ordinary digits from others: area under the ROC curve."""

    def run(seed: int) -> Mapping[str, float]:
        task, pictures, unseen = partly_trained(seed)
        known = ~np.isin(pictures.test_labels, unseen)
        usual, labels = in_colour(pictures.test_images[known]), torch.from_numpy(pictures.test_labels[known])
        half = len(usual) // 2
        features, logits = see(task, usual)
        scorer = OODScorer(method, seed=seed).fit(features[:half], logits[:half], labels[:half])
        ordinary = scorer.scores(features[half:], logits[half:]).numpy()
        alarms = scorer.p_values(features[half:], logits[half:]) <= 0.05
        rest = usual[half:]
        noise = torch.randint(256, rest.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
        others = {
            "inverted": 255 - rest,
            "quarter turn": torch.rot90(rest, dims=(2, 3)),
            "noise": noise,
            "unseen classes": in_colour(pictures.test_images[~known]),
        }
        found = {"p <= .05": float(alarms.double().mean())}
        for name, images in others.items():
            odd = scorer.scores(*see(task, images)).numpy()
            truth = np.repeat([0, 1], [len(ordinary), len(odd)])
            found[name] = float(roc_auc_score(truth, np.concatenate((ordinary, odd))))
        return found

    return run


@lru_cache(maxsize=1)
def expanded(seed: int) -> ExpandedTable:
    """All corruptions of half the test digits."""
    given = digits(seed, each=60)
    images, test = (
        F.interpolate(torch.from_numpy(pixels)[:, None].float(), size=16, mode="bilinear").round().byte()[:, 0].numpy()
        for pixels in (given.images, given.test_images)
    )
    pictures = Pictures(images, given.labels, test, given.test_labels)
    _, task = fit(pictures, small_network, seed=seed, data={"image_size": 16})
    batch = {"images": in_colour(test), "targets": torch.from_numpy(given.test_labels)}
    return ExpandedTest(severities=SEVERITIES, permutations=20, seed=seed)(task.model, [batch], task.normalise)


def corrupted(name: str) -> Arm:
    """Accuracy by severity, and whether the estimated range of the loss of accuracy holds the true one."""

    def run(seed: int) -> Mapping[str, float]:
        table = expanded(seed)
        rows = [table.cell(name, severity) for severity in SEVERITIES]
        found = {"clean": table.clean_accuracy} | {f"severity {row.severity}": row.accuracy for row in rows}
        found["loss"] = statistics.mean(row.drop for row in rows)
        found["estimated least"] = statistics.mean(row.least_estimated_drop for row in rows)
        found["most"] = statistics.mean(row.estimated_drop for row in rows)
        found["holds"] = statistics.mean(
            row.least_estimated_drop - NEAR <= row.drop <= row.estimated_drop + NEAR for row in rows
        )
        return found

    return run


MISTAKES: Mapping[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "inverted": (lambda x: 255 - x, "inverted"),
    "a quarter of the light": (lambda x: x // 4, "darker"),
    "0..1 as bytes": (lambda x: x // 255, "almost black"),
    "grey": (lambda x: x.float().mean(1, keepdim=True).round().byte().repeat(1, 3, 1, 1), "grey"),
    "BGR": (lambda x: x.flip(1), "Red and blue"),
}


@lru_cache
def photographs(name: str) -> Tensor:
    """uint8 [n, 3, 64, 64]."""
    folder = Path(os.environ.get("DLRECIPES_DATA", "")) / PHOTOGRAPHS[name]
    files = sorted(folder.rglob("*.jp*g"))
    read = [np.asarray(Image.open(file).convert("RGB").resize((SIDE, SIDE))) for file in files]
    return torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2)


def looked_at(name: str, number: int) -> Arm:
    """Of sets of so many new photographs: how often anything is said of untouched ones, and mistakes are named."""

    def run(seed: int) -> Mapping[str, float]:
        if "DLRECIPES_DATA" not in os.environ:
            return {}
        images, rng = photographs(name), np.random.default_rng((seed, 3))
        order = rng.permutation(len(images))
        train, new = images[order[: len(order) // 2]], images[order[len(order) // 2 :]]
        seen = train.permute(0, 2, 3, 1).numpy()
        mean, std = pixel_statistics(lambda index: seen[index], len(seen))
        info = DataInfo(
            task="classification",
            classes=("a", "b"),
            category_ids=(0, 1),
            class_counts=(1, 1),
            num_train=len(train),
            max_objects=0,
            image_size=SIDE,
            pixel_mean=mean,
            pixel_std=std,
        )
        sets = [new[rng.permutation(len(new))[:number]] for _ in range(SETS)]
        found = {"untouched": statistics.mean(check_pixels([one], info) is not None for one in sets)}
        for mistake, (change, word) in MISTAKES.items():
            said = [check_pixels([change(one)], info) or "" for one in sets]
            found[mistake] = statistics.mean(word in sentence.partition(":")[0] for sentence in said)
        return found

    return run


def scenes(*, long_tailed: bool, threshold: float = 0.0) -> Arm:
    """Digits that an epoch of training scenes shows."""

    def run(seed: int) -> Mapping[str, float]:
        made = DigitScenes("train", seed=seed, long_tailed=long_tailed)
        labels = [made.labels(0, index).tolist() for index in range(len(made))]
        order = list(RepeatFactorSampler(labels, threshold, seed=seed, rank=0, world_size=1))
        counts = np.bincount(np.concatenate([labels[index] for index in order]).astype(np.int64), minlength=10)
        return {"scenes": len(order), "zeros": counts[0], "nines": counts[9], "ratio": counts[0] / counts[9]}

    return run


EXPERIMENTS: dict[str, Experiment] = {
    "folds": Experiment(
        about=f"{DRAWS} draws a seed of {DRAWN} digits a class, {FOLD_EPOCHS} epochs; how far the estimate is "
        "from that of the 597 test digits after a training on all, and how often the 95 % interval holds that of the "
        "folds' networks, and that after a training on all",
        arms={"one split of 4 : 1": one_split, f"{FOLDS} folds": five_folds},
    ),
    "ood": Experiment(
        about=f"network trained on 90 digits of each of {10 - UNSEEN} classes; half of their test digits fit the "
        "scorer; of the others, the share with p <= .05, and area under the ROC curve against odd ones",
        arms={method: strange(method) for method in ("knn", "mahalanobis", "energy")},
    ),
    "expand_test": Experiment(
        about="60 digits a class, scaled to 16 pixels, 15 epochs; accuracy of 298 test digits; its mean loss over the "
        f"severities, the estimated range of it, and how often that range, {NEAR} wider on both sides, holds the loss",
        arms={name: corrupted(name) for name in CORRUPTIONS},
    ),
    "pixel_check": Experiment(
        about=f"{SETS} sets a seed of so many photographs, half of each data set being that of training; share of sets "
        "of which anything is said (untouched), or what was done to them (the others)",
        arms={f"{name}, {number}": looked_at(name, number) for name in PHOTOGRAPHS for number in (1, 10, 30)},
    ),
    "scenes_tail": Experiment(
        about="2,400 training scenes: digits seen in an epoch, as they come and with RepeatFactorSampler(0.3)",
        arms={
            "even": scenes(long_tailed=False),
            "long-tailed": scenes(long_tailed=True),
            "long-tailed, images repeated": scenes(long_tailed=True, threshold=0.3),
        },
    ),
}
