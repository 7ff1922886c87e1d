"""A test set expanded by corruptions: what accuracy is left, whether the shift is seen, and how harmful it looks."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from dlrecipes.errors import UserError
from dlrecipes.functional.words import counted
from dlrecipes.shift.combined import shift_test
from dlrecipes.shift.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from dlrecipes.shift.features import PCA, penultimate, softmax
from dlrecipes.shift.harm import estimate_harm

__all__ = ["CLEAN", "ExpandedRow", "ExpandedTable", "ExpandedTest"]

CLEAN = "none"
"""The row of the images as they are: a test of the test, whose p should be large."""

_BATCH = 128
_LEAST = 100  # images: accuracy of half of them has a standard error of up to .07
_COMPONENTS = 32


@dataclass(frozen=True)
class ExpandedRow:
    """One corruption at one severity.

    Attributes:
        corruption: its name; `CLEAN`: none.
        severity: 1 to 5; 0 for none.
        accuracy: of the corrupted images.
        drop: by how much it is below that of the same images as they are.
        estimated_drop: what ``estimate_harm`` says of it, without the corrupted images' labels: by the lowest estimate
            of the accuracy.
        least_estimated_drop: by the highest one; the two far apart: neither is to be believed.
        p_value: of ``shift_test`` between features of the corrupted images and of others as they are.
        effect: MMD² of the two.
    """

    corruption: str
    severity: int
    accuracy: float
    drop: float
    estimated_drop: float
    least_estimated_drop: float
    p_value: float
    effect: float


@dataclass(frozen=True)
class ExpandedTable:
    """What ``ExpandedTest`` found.

    Attributes:
        rows: `CLEAN` first, then corruption by corruption.
        images: of the test set that were corrupted; as many others were the reference.
    """

    rows: tuple[ExpandedRow, ...]
    images: int

    @property
    def clean_accuracy(self) -> float:
        """Of the images as they are."""
        return self.rows[0].accuracy

    @property
    def mean_accuracy(self) -> float:
        """Over all corruptions and severities."""
        return float(np.mean([row.accuracy for row in self.rows[1:]]))

    @property
    def corruptions(self) -> tuple[str, ...]:
        """Their names, in the order of the rows."""
        return tuple(dict.fromkeys(row.corruption for row in self.rows[1:]))

    @property
    def severities(self) -> tuple[int, ...]:
        """Ascending."""
        return tuple(sorted({row.severity for row in self.rows[1:]}))

    def cell(self, corruption: str, severity: int) -> ExpandedRow:
        """One row.

        Raises:
            KeyError: it was not measured.
        """
        for row in self.rows:
            if (row.corruption, row.severity) == (corruption, severity):
                return row
        raise KeyError((corruption, severity))

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a line for each row.

        Raises:
            UserError: the file cannot be written.
        """
        try:
            with Path(path).open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, [field.name for field in fields(ExpandedRow)])
                writer.writeheader()
                for row in self.rows:
                    writer.writerow({key: _rounded(value) for key, value in asdict(row).items()})
        except OSError as error:
            raise UserError(f"'{path}' cannot be written ({error.strerror}): choose another folder") from error


class ExpandedTest:
    """Corrupts a test set in every way and severity, and measures a classifier on each.

    One half of the images is corrupted. The other half stays as it is and is the reference of the shift test and of the
    estimated harm, so that no image is compared with itself.

    Args:
        corruptions: names, see ``CORRUPTIONS``.
        severities: of 1 to 5.
        samples: images of the test set to use, drawn by the seed; each is seen once for each corruption and severity.
        permutations: of the shift test.
        seed: of the draw, the corruptions and the permutations.

    Raises:
        ValueError: a value outside its range.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        >>> images = torch.randint(256, (120, 3, 8, 8), dtype=torch.uint8)
        >>> batch = {"images": images, "targets": torch.zeros(120, dtype=torch.int64)}
        >>> table = ExpandedTest(("contrast",), (1, 5), permutations=50)(model, [batch])
        >>> [(row.corruption, row.severity) for row in table.rows]
        [('none', 0), ('contrast', 1), ('contrast', 5)]
    """

    def __init__(
        self,
        corruptions: Sequence[str] = CORRUPTIONS,
        severities: Sequence[int] = SEVERITIES,
        *,
        samples: int = 1000,
        permutations: int = 200,
        seed: int = 0,
    ) -> None:
        unknown = [name for name in corruptions if name not in CORRUPTIONS]
        if unknown or not corruptions:
            raise ValueError(f"corruptions={list(corruptions)}: choose from {', '.join(CORRUPTIONS)}")
        if not severities or any(severity not in SEVERITIES for severity in severities):
            raise ValueError(f"severities={list(severities)}: choose from 1 to 5")
        if samples < _LEAST:
            raise ValueError(f"samples={samples}: at least {_LEAST}")
        if permutations < 1:
            raise ValueError(f"permutations={permutations}: at least 1")
        self.corruptions, self.severities = tuple(corruptions), tuple(severities)
        self.samples, self.permutations, self.seed = samples, permutations, seed

    def __call__(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        preprocess: Callable[[Tensor], Tensor] | None = None,
        *,
        to_probabilities: Callable[[Tensor], Tensor] = softmax,
        device: torch.device | str = "cpu",
        progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
    ) -> ExpandedTable:
        """Measure.

        Args:
            model: a classifier, uint8 images behind ``preprocess`` → logits [B, C]; put into evaluation mode for the
                time.
            batches: ``ImageBatch``es of the test set: uint8 images of one size, one label each. Of a ``DataLoader``
                only the images to use are read, of anything else all.
            preprocess: from uint8 images on the device to what the model takes; None: scaled to 0..1.
            to_probabilities: from logits to probabilities, as ``task.predictions`` is.
            device: of the model.
            progress: wraps the list of corruptions and severities, to show how far it is.

        Raises:
            UserError: fewer than 100 images, images without one label each, or a network without features.
        """
        images, labels = self._draw(batches)
        half = len(images) // 2
        reference_images, reference_labels = images[:half], labels[:half].numpy()
        tested, index = images[half : 2 * half], torch.arange(half, 2 * half)
        truth = labels[half : 2 * half]
        network = _Network(model, preprocess, to_probabilities, torch.device(device))
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            reference, clean = network(reference_images), network(tested)
            clean_accuracy = _accuracy(clean, truth)
            cells = [(CLEAN, 0), *((name, level) for name in self.corruptions for level in self.severities)]
            rows = []
            for name, level in progress(cells):
                found = clean if name == CLEAN else network(corrupt(tested, name, level, index, seed=self.seed))
                accuracy = _accuracy(found, truth)
                harm = estimate_harm(reference.probabilities, reference_labels, found.probabilities)
                test = self._test(reference, found)
                drops = (clean_accuracy - accuracy, harm.drop, harm.reference_accuracy - harm.highest)
                rows.append(ExpandedRow(name, level, accuracy, *drops, test.p_value, test.effect))
        finally:
            for module, training in modes:
                module.training = training
        return ExpandedTable(tuple(rows), half)

    def _test(self, reference: _Seen, found: _Seen) -> Any:
        pca = PCA.fit(torch.cat((reference.features, found.features)), _COMPONENTS)
        return shift_test(pca(reference.features), pca(found.features), self.permutations, self.seed)

    def _draw(self, batches: Iterable[Any]) -> tuple[Tensor, Tensor]:
        """uint8 [n, 3, H, W] and int64 [n] on the CPU, in a random order; no others of a data set are read."""
        known = isinstance(batches, DataLoader) and not isinstance(batches.dataset, IterableDataset)
        if isinstance(batches, DataLoader) and known:
            keys = list(batches.sampler)
            batches = _only(batches, [keys[row] for row in self._order(len(keys))])
        images, labels = [], []
        for batch in batches:
            if batch["targets"].dim() != 1 or batch["targets"].is_floating_point():
                raise UserError("ExpandedTest measures accuracy, so images must have one label each")
            images.append(batch["images"].cpu())
            labels.append(batch["targets"].cpu())
        count = sum(map(len, images))
        order = torch.arange(count) if known else torch.from_numpy(self._order(count))
        return torch.cat(images)[order], torch.cat(labels)[order]

    def _order(self, count: int) -> NDArray[np.int64]:
        """Positions of the images to use."""
        if count < _LEAST:
            held = counted(count, "image")
            raise UserError(f"the test set has {held}: at least {_LEAST} are needed to measure anything")
        return np.random.default_rng((self.seed, count)).permutation(count)[: self.samples].astype(np.int64)


def _only(loader: DataLoader[Any], keys: list[Any]) -> DataLoader[Any]:
    """The same data set, read at these keys."""
    return DataLoader(
        loader.dataset,
        batch_size=_BATCH,
        sampler=keys,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
    )


class _Seen(NamedTuple):
    """What a network makes of images: float32 [n, D] and [n, C]."""

    features: Tensor
    probabilities: Tensor


class _Network:
    """A network, run over uint8 images in batches."""

    def __init__(
        self,
        model: nn.Module,
        preprocess: Callable[[Tensor], Tensor] | None,
        to_probabilities: Callable[[Tensor], Tensor],
        device: torch.device,
    ) -> None:
        self.model, self.preprocess, self.device = model, preprocess, device
        self.to_probabilities = to_probabilities

    @torch.no_grad()
    def __call__(self, images: Tensor) -> _Seen:
        parts = []
        for piece in torch.split(images, _BATCH):
            on_device = piece.to(self.device)
            scaled = on_device.float() / 255 if self.preprocess is None else self.preprocess(on_device)
            features, logits = penultimate(self.model, scaled)
            parts.append(_Seen(features, self.to_probabilities(logits)))
        return _Seen(torch.cat([part.features for part in parts]), torch.cat([part.probabilities for part in parts]))


def _accuracy(seen: _Seen, labels: Tensor) -> float:
    return (seen.probabilities.argmax(1).cpu() == labels).double().mean().item()


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value
