"""``dlrecipes reweight DATA NEW``: training images in a table, with weights that make them stand for new ones."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlrecipes.cli.actions.run_images import open_run
from dlrecipes.data import ClassificationData
from dlrecipes.data.formats.image_source import ImageSource
from dlrecipes.data.loading.image_predict import image_predict_loader
from dlrecipes.errors import UserError
from dlrecipes.shift.density_ratio import DensityRatio, importance_weights
from dlrecipes.shift.features import PCA, collect

__all__ = ["reweight"]

_COMPONENTS = 16


def reweight(
    data: str | Path,
    new: str | Path,
    *,
    run: str | Path | None = None,
    method: str = "logistic",
    least: float = 0.1,
    output: str | Path = "weighted.csv",
    seed: int = 0,
) -> DensityRatio:
    """Write a table of all images of a data set with a column ``weight``, which every recipe reads.

    Weights come from what can be seen of the images: brightness, contrast, sharpness, noise, colours, shape. With
    ``run`` they come from 16 principal components of that network's features instead; it must not have been trained on
    these images, since it knows those better than any other, which would be taken for a shift.

    Args:
        data: image files with labels; the training split is weighted, the others get 1.
        new: an image, or a folder of images without labels.
        run: see above.
        method, least, seed: as in ``importance_weights``.
        output: the table.

    Raises:
        UserError: data that is no files, too different from the new images, or a file that cannot be written.
    """
    datamodule = ClassificationData(str(data), num_workers=0, augment="none", seed=seed)
    info = datamodule.info
    source = datamodule.audit_report.source
    _check_files(source)
    old, other = datamodule.evaluation_dataloader("train"), image_predict_loader(new, info, batch_size=64)
    features = _properties(datamodule, old, other) if run is None else _features(run, datamodule, old, other)
    ratio = importance_weights(*features, method, least=least, seed=seed)
    file = Path(output)
    _write(source, datamodule.train_split, ratio.weights, file)
    print(
        f"{len(ratio.weights)} training images count as {ratio.effective_sample_size:.0f} in effect "
        f"({ratio.efficiency:.0%}); weights from {ratio.weights.min():.3g} to {ratio.weights.max():.3g}"
    )
    print(f"  {file}\nnext:\n  python recipes/train_efficientnet.py --data {file}")
    return ratio


def _scaled(datamodule: ClassificationData, batches: Iterable[Any]) -> Iterable[Any]:
    """Images in the size that a network sees: sharpness and noise depend on it."""
    for batch in batches:
        yield datamodule.finish(batch, training=False)


def _properties(datamodule: ClassificationData, old: Iterable[Any], new: Iterable[Any]) -> tuple[Tensor, Tensor]:
    found = [collect(_scaled(datamodule, batches)).properties for batches in (old, new)]
    if found[0] is None or found[1] is None:
        raise RuntimeError("collect gave no properties")
    both = torch.cat((found[0], found[1]))
    vary = both.std(0) > 0  # all images are squares by now
    return found[0][:, vary], found[1][:, vary]


def _features(
    run: str | Path, datamodule: ClassificationData, old: Iterable[Any], new: Iterable[Any]
) -> tuple[Tensor, Tensor]:
    opened = open_run(run)
    if opened.info.image_size != datamodule.info.image_size:
        raise UserError(
            f"{opened.home} sees images of {opened.info.image_size} pixels, and the data gives "
            f"{datamodule.info.image_size}: leave --run out"
        )
    found = [
        collect(_scaled(datamodule, batches), opened.task.model, opened.task.normalise, device=opened.device).embedding
        for batches in (old, new)
    ]
    if found[0] is None or found[1] is None:
        raise RuntimeError("collect gave no features")
    pca = PCA.fit(torch.cat((found[0], found[1])), _COMPONENTS)
    return pca(found[0]), pca(found[1])


def _check_files(source: ImageSource) -> None:
    for name, table in source.splits.items():
        if len(table) and not Path(table.images.name(0)).is_file():
            raise UserError(
                f"{source.root}: the images of split {name!r} are no files ({table.images.name(0)}), so a table cannot "
                "list them: set ImageTable.weights to importance_weights(...).weights in Python"
            )


def _write(source: ImageSource, train_split: str, weights: Tensor, file: Path) -> None:
    columns = {"classification": ["label"], "multilabel": list(source.classes)}
    names = columns.get(source.task, list(source.target_names))
    try:
        with file.open("w", encoding="utf-8", newline="") as handle:
            table = csv.writer(handle)
            table.writerow(["image", "split", "weight", *names])
            for split, images in source.splits.items():
                given = weights.tolist() if split == train_split else [1.0] * len(images)
                for row in range(len(images)):
                    target = images.targets[row]
                    cells = [source.classes[target]] if source.task == "classification" else target.tolist()
                    path = os.path.abspath(images.images.name(row))
                    table.writerow([path, split, f"{given[row]:.6g}", *cells])
    except OSError as error:
        raise UserError(f"'{file}' cannot be written ({error.strerror}): give another --output.") from error
