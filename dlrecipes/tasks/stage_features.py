"""Features of whole splits, as the last layer of a trained network gets them: each image once, on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from dlrecipes.errors import UserError
from dlrecipes.imbalance.decoupling import last_linear
from dlrecipes.tasks.images import ImageTask

__all__ = ["Features", "StageFeatures", "read_features", "split_features"]


@dataclass(frozen=True)
class Features:
    """What the last layer gets from the images of a split, on the CPU.

    Attributes:
        values: float32 [N, D].
        labels: int64 [N].
        index: int64 [N], positions of the images in the split, ascending.
    """

    values: Tensor
    labels: Tensor
    index: Tensor


@dataclass(frozen=True)
class StageFeatures:
    """All that a second stage needs.

    Attributes:
        train, val: features of the images as evaluation sees them.
        test: None without a test split.
        of_epoch: features of the training images, augmented for an epoch; None: as they are in each.
    """

    train: Features
    val: Features
    test: Features | None = None
    of_epoch: Callable[[int], Tensor] | None = None


def read_features(
    task: ImageTask,
    datamodule: Any,
    *,
    train_loader: Iterable[Any] | None = None,
    augment: bool = False,
) -> StageFeatures:
    """Features of every split, each image once.

    Args:
        task: trained; it is used on the device where it is.
        datamodule: a LightningDataModule with ``ImageBatch``es, such as ``ClassificationData`` without mixing.
        train_loader: the training images as evaluation sees them; None: the datamodule's own training loader, of which
            each image counts once, whatever is drawn how often. A loader that augments gives augmented images.
        augment: let ``crt`` and ``lws`` see the training images augmented anew in each epoch, which costs a pass
            through the network each time; otherwise features are computed once.

    Raises:
        UserError: no validation split, mixed labels, or a network that does not end in a linear layer.
    """
    datamodule.setup("fit")
    val = _loader(datamodule, "val")
    if val is None:
        raise UserError(
            f"{type(datamodule).__name__} has no validation split, and a second stage is judged by one: add it"
        )
    clean = split_features(task, datamodule, train_loader or datamodule.train_dataloader())
    if "test" in getattr(datamodule, "splits", ("test",)):
        datamodule.setup("test")
        test = _loader(datamodule, "test")
    else:
        test = None
    return StageFeatures(
        clean,
        split_features(task, datamodule, val),
        None if test is None else split_features(task, datamodule, test),
        partial(_augmented, task, datamodule, clean) if augment else None,
    )


@torch.no_grad()
def split_features(task: ImageTask, datamodule: Any, loader: Iterable[Any], *, training: bool = False) -> Features:
    """Features of a loader's images, in the order of their positions; one that comes several times counts once.

    Args:
        task: trained.
        datamodule: finishes the batches on the device.
        loader: of ``ImageBatch``es.
        training: finish the batches as for training.

    Raises:
        UserError: mixed labels, or a network that does not end in a linear layer.
    """
    name, linear = last_linear(task.model)
    seen: list[Tensor] = []
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    handle = linear.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().float()))
    task.eval()
    try:
        for batch in loader:
            moved = task.transfer_batch_to_device(batch, task.device, 0)
            finish = partial(datamodule.finish, training=training) if hasattr(datamodule, "finish") else None
            ready = datamodule.on_after_batch_transfer(moved, 0) if finish is None else finish(moved)
            if ready["targets"].dim() != 1:
                raise UserError("the data mixes images, whose labels are then shares of classes: set mix to none")
            seen.clear()
            logits = task(ready["images"])
            if not rows:
                _check_ends_in(name, linear, seen, logits)
            rows.append((seen[0].cpu(), ready["targets"].cpu(), ready["index"].cpu()))
    finally:
        handle.remove()
    values, labels, index = (torch.cat(column) for column in zip(*rows, strict=True))
    order = index.argsort(stable=True)
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = index[order][1:] != index[order][:-1]
    kept = order[first]
    return Features(values[kept].clone(), labels[kept].clone(), index[kept].clone())


def _augmented(task: ImageTask, datamodule: Any, clean: Features, epoch: int) -> Tensor:
    """Features of an epoch's augmented images; of those that the epoch leaves out, the others'."""
    loader = datamodule.train_dataloader()
    set_epoch = getattr(getattr(loader, "sampler", None), "set_epoch", None)
    if callable(set_epoch):
        set_epoch(epoch)
    found = split_features(task, datamodule, loader, training=True)
    values = clean.values.clone()
    values[torch.searchsorted(clean.index, found.index)] = found.values
    return values


def _check_ends_in(name: str, linear: nn.Linear, seen: list[Tensor], logits: Tensor) -> None:
    """What is exchanged must be what gives the answers."""
    again = linear(seen[0].to(linear.weight.dtype)).float() if len(seen) == 1 else None
    if again is None or again.shape != logits.shape or not torch.allclose(again, logits.float(), rtol=1e-2, atol=1e-2):
        raise UserError(
            f"the network's answers are not what its linear layer {name!r} gives, so a second stage cannot exchange "
            f"it: take a network that ends in one nn.Linear"
        )


def _loader(datamodule: Any, split: str) -> Iterable[Any] | None:
    """None where the datamodule has no such split."""
    try:
        loader: Iterable[Any] | None = getattr(datamodule, f"{split}_dataloader")()
    except (MisconfigurationException, NotImplementedError):  # Lightning's own raises where it is not overridden
        return None
    return None if isinstance(loader, list | tuple) and not loader else loader
