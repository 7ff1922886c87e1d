"""Data sets that torchvision knows by name: ``torchvision:CIFAR10``, ``torchvision:Food101@/data/food``."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from dlrecipes.data.audit.probe import cache_folder
from dlrecipes.data.formats.image_files import PathImages, TorchvisionImages
from dlrecipes.data.formats.image_source import ImageFiles, ImageSource, ImageTable
from dlrecipes.errors import UserError

__all__ = ["TORCHVISION", "read_torchvision"]

TORCHVISION = "torchvision:"

# What some data sets want to be told; FakeData gets smaller than its default, which takes seconds to draw.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "EMNIST": {"split": "balanced"},
    "FakeData": {"size": 300, "image_size": (3, 32, 32)},
}
_SPLIT_ARGUMENTS = {"train": ("train",), "val": ("val", "valid"), "test": ("test",), "trainval": ("trainval",)}
_SUGGESTED = "CIFAR10, CIFAR100, MNIST, FashionMNIST, SVHN, STL10, Flowers102, Food101, OxfordIIITPet, EuroSAT, DTD"


def read_torchvision(path: str) -> ImageSource:
    """Load a classification data set by name; it is downloaded where its files are missing.

    Args:
        path: ``torchvision:NAME`` or ``torchvision:NAME@ROOT``. Without a root, files lie in
            ``~/.cache/dlrecipes/torchvision`` (``$DLRECIPES_CACHE/torchvision``).

    Returns:
        The splits that the data set has: ``train`` and ``test`` for those with a ``train`` flag.

    Raises:
        UserError: for an unknown name, one that holds no class labels, or files that can be neither found nor
            downloaded.
    """
    name, _, folder = path.removeprefix(TORCHVISION).partition("@")
    root = Path(folder).expanduser() if folder else cache_folder() / "torchvision"
    maker = _maker(name)
    datasets = _datasets(maker, name, root)
    splits: dict[str, ImageTable] = {}
    classes: tuple[str, ...] = ()
    for split, dataset in datasets.items():
        images, labels = _images_and_labels(dataset, f"{TORCHVISION}{name}/{split}", path)
        splits[split] = ImageTable(images, labels)
        classes = classes or _classes(dataset)
    present = max((int(table.targets.max()) for table in splits.values() if len(table)), default=-1) + 1
    if len(classes) < present:
        classes = tuple(str(k) for k in range(present))
    given = _ARGUMENTS.get(name, {})
    notes = [f"{name} is taken with {', '.join(f'{k}={v}' for k, v in given.items())}"] if given else []
    if "all" in splits:
        notes.append("no split is given")
    return ImageSource(path, "torchvision", "classification", splits, classes, notes=tuple(notes))


def _maker(name: str) -> Any:
    from torchvision import datasets

    if name not in datasets.__all__ or not name.isidentifier():
        close = [n for n in datasets.__all__ if n.lower() == name.lower()]
        hint = f"did you mean {close[0]}?" if close else f"choose one such as {_SUGGESTED}."
        raise UserError(f"torchvision has no data set {name!r}; {hint}")
    return getattr(datasets, name)


def _datasets(maker: Any, name: str, root: Path) -> dict[str, Any]:
    """The data set of each split."""
    parameters = inspect.signature(maker.__init__).parameters
    accepted = set(parameters)
    if "kwargs" in parameters:  # handed on to MNIST, or to ImageFolder
        accepted |= {"loader"} if name == "ImageNet" else {"train", "download"}
    given = dict(_ARGUMENTS.get(name, {}))
    needed = [
        n
        for n, p in parameters.items()
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD and n not in ("self", "root", *given)
    ]
    if needed:
        raise UserError(f"torchvision's {name} needs {', '.join(needed)}: it cannot be named as {TORCHVISION}{name}.")
    if "loader" in accepted:
        given["loader"] = os.fspath  # gives the path instead of the picture, so that labels cost no decoding
    if "root" in accepted:
        given["root"] = str(root)
    if "train" in accepted:
        choices: dict[str, list[dict[str, Any]]] = {"train": [{"train": True}], "test": [{"train": False}]}
    elif "split" in accepted and "split" not in given:
        choices = {name: [{"split": v} for v in values] for name, values in _SPLIT_ARGUMENTS.items()}
    else:
        choices = {"all": [{}]}
    found: dict[str, Any] = {}
    for split, options in choices.items():
        if split == "trainval" and "train" in found:
            continue
        for option in options:
            try:
                found[split] = _load(maker, name, root, {**given, **option}, "download" in accepted)
                break
            except UserError:
                raise
            except ValueError:  # the data set has no split of this name
                continue
    if not found:
        raise UserError(f"torchvision's {name} has no split train, trainval, val or test: it cannot be used here.")
    return found


def _load(maker: Any, name: str, root: Path, arguments: dict[str, Any], can_download: bool) -> Any:
    """The data set from files that are there, otherwise downloaded.

    Raises:
        ValueError: if it has no such split.
        UserError: if its files are neither there nor to be had.
    """
    try:
        return maker(**arguments)
    except (RuntimeError, OSError) as error:
        reason: Exception = error
    if can_download:
        try:
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(str(root / f"{name}.lock")):
                return maker(**arguments, download=True)
        except (RuntimeError, OSError) as error:
            reason = error
    sentence = str(reason).strip().splitlines()[0].rstrip(".:") if str(reason).strip() else type(reason).__name__
    raise UserError(
        f"torchvision's {name} is not in {root} and cannot be downloaded ({sentence}); put its files there as "
        f"torchvision keeps them, or name their folder: {TORCHVISION}{name}@FOLDER."
    ) from reason


def _images_and_labels(dataset: Any, prefix: str, path: str) -> tuple[ImageFiles, NDArray[np.int64]]:
    first = dataset[0] if len(dataset) else None
    if not (isinstance(first, tuple) and len(first) == 2 and _is_label(first[1])):
        raise UserError(f"{path}: its samples are no pairs of an image and one class label, so it cannot be used here.")
    if isinstance(first[0], str):
        pairs = [dataset[i] for i in range(len(dataset))]
        return PathImages(p for p, _ in pairs), np.array([label for _, label in pairs], dtype=np.int64)
    images = TorchvisionImages(dataset, prefix)
    labels = next((v for n in ("targets", "labels", "y") if (v := getattr(dataset, n, None)) is not None), None)
    if labels is None or len(labels) != len(dataset):
        labels = [dataset[i][1] for i in range(len(dataset))]
    return images, np.asarray(labels, dtype=np.int64)


def _is_label(value: Any) -> bool:
    return isinstance(value, int | np.integer) or (getattr(value, "ndim", None) == 0 and hasattr(value, "item"))


def _classes(dataset: Any) -> tuple[str, ...]:
    """Class names; ImageNet's are tuples of synonyms."""
    given = getattr(dataset, "classes", None) or getattr(dataset, "categories", None) or ()
    return tuple(str(c[0]) if isinstance(c, tuple) else str(c) for c in given)
