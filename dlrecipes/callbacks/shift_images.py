"""Some images of a data loader, chosen at random, and what a network makes of them, beside training and evaluation."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from dlrecipes.errors import UserError
from dlrecipes.functional.random_state import kept_random_state
from dlrecipes.ranks import gather_in_order
from dlrecipes.shift.features import FeatureTap, ShiftFeatures, collect, softmax
from dlrecipes.shift.properties import image_properties

__all__ = [
    "DrawnImages",
    "compared_network",
    "measure",
    "only_tried",
    "ready_batches",
    "split_images",
    "training_images",
]


class DrawnImages:
    """At most ``count`` images of a loader, whatever its batch size and order: the same for any number of ranks.

    Which ones is a function of (seed, epoch) and of the loader's samples. The loader itself is not touched: its data
    set is read by another one. Of a stream, and of anything else that is no ``DataLoader`` over a data set with a
    length, the first images are taken.

    To be made by all ranks together, since each knows its own samples only.

    Args:
        loader: of this rank's samples, or of all.
        count: of images, over all ranks.
        seed, epoch: of the choice.

    Example:
        >>> drawn = DrawnImages(DataLoader(range(100), batch_size=4), 6, seed=0, epoch=0)
        >>> [len(batch) for batch in drawn.batches()]
        [4, 2]
    """

    def __init__(self, loader: Iterable[Any], count: int, *, seed: int, epoch: int) -> None:
        self.loader, self.count, self.seed = loader, count, seed
        self.keys: list[Hashable] | None = None
        if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
            keys = list(dict.fromkeys(gather_in_order(list(loader.sampler))))
            chosen = np.random.default_rng((seed, epoch)).permutation(len(keys))[:count]
            self.keys = [keys[i] for i in np.sort(chosen)]

    def batches(self, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """A rank's share of them, as the loader's data set and ``collate_fn`` make batches."""
        if self.keys is None or not isinstance(self.loader, DataLoader):
            yield from self._first(-(-self.count // world_size))
            return
        share: list[Any] = self.keys[rank::world_size]
        if share:
            yield from DataLoader(
                self.loader.dataset,
                batch_size=min(self.loader.batch_size or 32, len(share)),
                sampler=share,
                num_workers=self.loader.num_workers,
                collate_fn=self.loader.collate_fn,
                worker_init_fn=self.loader.worker_init_fn,
                generator=torch.Generator().manual_seed(self.seed),
            )

    def _first(self, count: int) -> Iterator[Any]:
        for batch in self.loader:
            yield batch
            count -= len(_images(batch))
            if count <= 0:
                return


def only_tried(trainer: pl.Trainer) -> bool:
    """Whether the run is no real one: a few batches, or the same for training and validation."""
    return bool(trainer.fast_dev_run) or bool(trainer.overfit_batches)  # type: ignore[attr-defined]  # set, not declared


def training_images(trainer: pl.Trainer) -> Iterable[Any] | None:
    """As evaluation reads them; None: the datamodule cannot give them so."""
    make = getattr(getattr(trainer, "datamodule", None), "evaluation_dataloader", None)
    found: Iterable[Any] | None = make("train") if callable(make) else None
    return found


def split_images(trainer: pl.Trainer, role: str) -> Iterable[Any] | None:
    """Images of the ``"val"`` or ``"test"`` role: the trainer's own validation loader, else the datamodule's.

    The trainer's, where it has one, is what the network was validated on. ``setup`` of a datamodule may split its data
    anew, and then mixes that with what was trained on: a fit, which has called it, does not call it for validation
    images again; where it must be called, the run's random numbers stay as they are.

    None: there are none. Where there are several loaders, the first counts.
    """
    known: Any = trainer.val_dataloaders if role == "val" else None
    datamodule = getattr(trainer, "datamodule", None)
    if known in (None, []) and datamodule is not None:
        there = getattr(datamodule, f"{role}_split", "") in getattr(datamodule, "splits", ("",))
        if not there or not is_overridden(f"{role}_dataloader", datamodule):
            return None
        with kept_random_state():
            if role == "test" or trainer.state.fn != TrainerFn.FITTING:
                datamodule.setup("validate" if role == "val" else "test")
            known = datamodule.val_dataloader() if role == "val" else datamodule.test_dataloader()
    several = list(known.values()) if isinstance(known, Mapping) else known
    found: Iterable[Any] | None = several[0] if isinstance(several, list | tuple) and several else several
    return found


def ready_batches(batches: Iterable[Any], trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator[Any]:
    """On the device and, where the datamodule has ``finish(batch, training=False)``, as evaluation sees them."""
    finish = getattr(getattr(trainer, "datamodule", None), "finish", None)
    for batch in batches:
        moved = pl_module.transfer_batch_to_device(batch, pl_module.device, 0)
        if not isinstance(moved, Mapping):
            yield {"images": _images(moved)} | _targets(moved)
        else:
            yield finish(moved, training=False) if callable(finish) else moved


def compared_network(pl_module: pl.LightningModule) -> nn.Module | None:
    """The classifier or regressor whose features can be compared; None for a detector, or without a linear layer."""
    info = getattr(pl_module, "info", None)
    inner = getattr(pl_module, "model", None)
    network = inner if isinstance(inner, nn.Module) else pl_module
    if info is not None and info.task == "detection":
        return None
    try:
        FeatureTap(network).close()
    except UserError:
        return None
    return network


def measure(
    batches: Iterable[Any], pl_module: pl.LightningModule, network: nn.Module | None = None
) -> ShiftFeatures | None:
    """Properties of the images and, with a network, its features and probabilities, on the CPU; None: no images.

    Padding of a ``DetectionBatch`` is no part of its images.

    Args:
        batches: from `ready_batches`.
        pl_module: whose ``normalise``, if it has that, makes of images what the network takes.
        network: see `compared_network`.

    Raises:
        UserError: images that are not uint8 [B, 3, H, W].
    """
    first = next(batches := iter(batches), None)
    if first is None:
        return None
    if "sizes" in first:
        parts = [_without_padding(first), *map(_without_padding, batches)]
        return ShiftFeatures.join(parts).to("cpu")
    info, normalise = getattr(pl_module, "info", None), getattr(pl_module, "normalise", None)
    preprocess = normalise if callable(normalise) else lambda images: images
    predictions = (
        getattr(pl_module, "predictions", None) if info is not None and info.task == "classification" else None
    )
    found = collect(
        map(_checked, chain([first], batches)),
        network,
        preprocess,
        to_probabilities=predictions if callable(predictions) else softmax,
        device=pl_module.device,
    ).to("cpu")
    if info is not None and info.task != "classification":
        found = replace(found, probabilities=None, labels=None)
    if found.embedding is not None and not bool(found.embedding.isfinite().all()):
        found = replace(found, embedding=None)  # a network that is not trained yet may overflow
    if found.probabilities is not None and not bool(found.probabilities.isfinite().all()):
        found = replace(found, probabilities=None)  # softmax of infinite logits
    return found


def _without_padding(batch: Mapping[str, Any]) -> ShiftFeatures:
    images, originals = _checked(batch)["images"], batch["orig_sizes"].to("cpu")
    rows = []
    for image, (height, width), original in zip(images, batch["sizes"].tolist(), originals, strict=True):
        rows.append(image_properties(image[None, :, :height, :width], original[None]))
    return ShiftFeatures(properties=torch.cat(rows))


def _checked(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    images = _images(batch)
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 3:
        raise UserError(
            f"covariate shift is looked for in uint8 images [B, 3, H, W] of at least 3 x 3 pixels, and these are "
            f"{images.dtype} {list(images.shape)}: scale and normalise them on the device, as the tasks here do"
        )
    return batch


def _images(batch: Any) -> Tensor:
    images = batch.get("images") if isinstance(batch, Mapping) else batch
    if isinstance(images, list | tuple) and images:
        images = images[0]
    if not isinstance(images, Tensor):
        raise UserError(
            f"covariate shift is looked for in images, and a batch of type {type(batch).__name__} has none: give "
            f"ImageBatches, tensors, or tuples that begin with images"
        )
    return images


def _targets(batch: Any) -> dict[str, Tensor]:
    given = isinstance(batch, list | tuple) and len(batch) > 1 and isinstance(batch[1], Tensor) and batch[1].ndim == 1
    return {"targets": batch[1]} if given else {}
