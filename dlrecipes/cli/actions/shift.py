"""``dlrecipes shift REFERENCE NEW``: two sets of images compared, with or without a run's network."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dlrecipes.cli.actions.predict import find_checkpoint, load_task
from dlrecipes.cli.actions.run_data import run_config, run_data
from dlrecipes.cli.actions.shift_advice import next_steps, remedies
from dlrecipes.cli.actions.shift_images import ShiftImages, common_side, read_shift_images
from dlrecipes.data import ClassificationData
from dlrecipes.data.formats.image_source import ImageTable
from dlrecipes.data.loading.image_dataset import ImageDataset, unchanged
from dlrecipes.errors import UserError
from dlrecipes.functional.words import counted, say, visible
from dlrecipes.runs.shift_report import (
    Distribution,
    ShiftPicture,
    ShiftResults,
    draw_distributions,
    draw_effects,
    draw_most_shifted,
)
from dlrecipes.shift.adapt import adapt_bn, mean_entropy
from dlrecipes.shift.features import ShiftFeatures, collect, softmax
from dlrecipes.shift.properties import PROPERTIES, image_properties
from dlrecipes.shift.report import ShiftReport, compare
from dlrecipes.tasks.base import BaseTask
from dlrecipes.tasks.images import ImageTask

__all__ = ["shift"]

_FEWEST = 20
_BATCH = 64
_SHOWN = 12  # most shifted images in the picture
_PANELS = 6
_COUNTS_AS = 16.0  # images that a batch norm's statistics of training count as


@dataclass(frozen=True)
class _View:
    """How images are looked at, the same on both sides."""

    side: int
    crop: float
    task: BaseTask | None
    device: torch.device

    def dataset(self, images: ShiftImages) -> ImageDataset:
        table = ImageTable(images.files, np.zeros(len(images.files), dtype=np.int64))
        return ImageDataset(table, None, image_size=self.side, crop_fraction=self.crop)

    def batches(self, images: ShiftImages, told: str = "") -> Iterator[Any]:
        rows = images.chosen.tolist()
        loader = DataLoader(self.dataset(images), batch_size=_BATCH, sampler=rows, collate_fn=unchanged)
        quiet = not told or not sys.stderr.isatty()
        yield from track(loader, description=told, disable=quiet, transient=True)


def shift(
    reference: str | Path,
    new: str | Path,
    *,
    run: str | Path | None = None,
    output: str | Path | None = None,
    alpha: float = 0.05,
    limit: int = 1000,
    seed: int = 0,
) -> ShiftReport:
    """Compare, print, and write ``shift.html``, ``shift.md``, ``shift.json`` and pictures.

    Args:
        reference: a folder of images, or a data set, of which the validation split is taken if it has one. With a run:
            not what that was trained on; of the run's own data its validation split is taken.
        new: a folder of images, or a data set, all of it; labels are not looked at.
        run: a folder of a run whose network is to look at them, too; None: image properties alone.
        output: folder to write to; None: ``shift-001`` ... in the run, or here.
        alpha: level of the verdict.
        limit: images of each side at most, drawn by ``seed``.
        seed: of draws and permutations.

    Raises:
        UserError: images, a run or a value that cannot be used.
    """
    _check_options(alpha, limit, seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task = None if run is None else _task(run, device)
    trained = None if run is None or task is None else _trained(run, task)
    sides = [
        read_shift_images(path, limit, seed, reference=i == 0, trained=trained)
        for i, path in enumerate((reference, new))
    ]
    for images in sides:
        if len(images.chosen) < _FEWEST:
            held = counted(len(images.chosen), "image")
            raise UserError(f"{images.path} holds {held}, and {_FEWEST} are needed to compare.")
    view = _view(task, sides, device)
    found = [_measured(view, images, told) for images, told in zip(sides, ("Reference", "New images"), strict=True)]
    classes = () if task is None or task.info is None else task.info.classes
    labels = sides[0].labels_as(classes)
    if labels is not None and found[0].probabilities is not None:
        found[0] = replace(found[0], labels=labels)
    report = compare(found[0], found[1], alpha=alpha, seed=seed)
    entropy = _entropy(view, sides[1]) if report.shifted else None
    tried = remedies(report, found[0], found[1], entropy, seed=seed)
    steps = next_steps(report, tried, run=None if run is None else str(run), classes=classes)
    folder = _folder(output, run)
    try:
        results = _results(report, view, sides, found, steps, folder)
        written = results.write(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): give another --output.") from error
    _print(results, written[0])
    return report


def _check_options(alpha: float, limit: int, seed: int) -> None:
    if not 0 < alpha < 1:
        raise UserError(f"--alpha must be between 0 and 1, got {alpha}.")
    if limit < _FEWEST:
        raise UserError(f"--limit must be at least {_FEWEST}, got {limit}.")
    if seed < 0:
        raise UserError(f"--seed must not be negative, got {seed}.")


def _view(task: BaseTask | None, sides: Sequence[ShiftImages], device: torch.device) -> _View:
    """As the network's evaluation reads images; without one, whole and in a size that both sides have."""
    if task is None or task.info is None:
        return _View(common_side(sides), 1.0, None, device)
    return _View(task.info.image_size, task.info.crop_fraction, task, device)


def _task(run: str | Path, device: torch.device) -> BaseTask:
    """The network of a run; its ``info`` is known."""
    checkpoint, _ = find_checkpoint(Path(run))
    task = load_task(checkpoint, device)
    if task.info is None or task.info.task == "detection":
        kind = "unknown" if task.info is None else task.info.task
        raise UserError(
            f"{checkpoint} is of a task of the kind {kind}, whose features are not compared: leave --run out, and the "
            "images are compared by their properties"
        )
    return task


def _trained(run: str | Path, task: BaseTask) -> ClassificationData | None:
    """What the run was trained on; None: that cannot be told any more."""
    _, home = find_checkpoint(Path(run))
    if task.info is None:
        return None
    try:
        data = run_data(run_config(home), task.info)
    except UserError:  # a checkpoint alone, or the data is gone
        return None
    return data if isinstance(data, ClassificationData) else None


def _measured(view: _View, images: ShiftImages, told: str) -> ShiftFeatures:
    """Features, probabilities (one label an image) and properties; ``index``: positions in ``images.files``."""
    parts = []
    task, sizes = view.task, images.sizes(view.side)
    for batch in view.batches(images, told):
        pixels: Tensor = batch["images"].to(view.device)
        part = _seen(pixels, task, view.device)
        parts.append(replace(part, properties=image_properties(pixels, sizes[batch["index"]]), index=batch["index"]))
    found = ShiftFeatures.join([part.to("cpu") for part in parts])
    single = task is not None and task.info is not None and task.info.task == "classification"
    return found if single else replace(found, probabilities=None)


def _seen(pixels: Tensor, task: BaseTask | None, device: torch.device) -> ShiftFeatures:
    if task is None:
        return collect([pixels], device=device)
    answers = task.predictions if isinstance(task, ImageTask) else softmax
    return collect([pixels], task.model, task.normalise, to_probabilities=answers, device=device)


@torch.no_grad()
def _entropy(view: _View, images: ShiftImages) -> tuple[float, float] | None:
    """Mean entropy of the network's answers to the new images, as it is and with adapted batch norms."""
    task = view.task
    if not isinstance(task, ImageTask) or task.info is None or task.info.task != "classification":
        return None
    pixels = [batch["images"] for batch in view.batches(images, "Adapting")]  # bytes: a quarter of what networks take

    def batches() -> Iterator[Tensor]:
        return (task.normalise(part.to(view.device)) for part in pixels)

    try:
        adapted = adapt_bn(task.model, batches(), source_samples=_COUNTS_AS)
    except UserError:  # no batch norm
        return None

    def entropy(network: nn.Module) -> float:
        # logarithms of probabilities are logits of them, whatever the loss made of its own
        return mean_entropy(torch.cat([task.predictions(network(part)) for part in batches()]).log())

    return entropy(task.model), entropy(adapted)


def _results(
    report: ShiftReport,
    view: _View,
    sides: list[ShiftImages],
    found: list[ShiftFeatures],
    steps: list[str],
    folder: Path,
) -> ShiftResults:
    """Draw everything into the folder."""
    effects, moved, sheet = (folder / f"{name}.png" for name in ("effects", "distributions", "most_shifted"))
    draw_effects(report, effects)
    draw_distributions(_distributions(report, found), moved)
    datasets = [view.dataset(images) for images in sides]
    shown = min(_SHOWN, len(report.most_shifted))
    typical = np.sort(np.random.default_rng(0).permutation(sides[0].chosen)[:shown]).tolist()
    strange = [
        ShiftPicture(datasets[1][row]["images"][0], Path(sides[1].files.name(row)).name, f"unlike by {value:.3f}")
        for row, value in zip(report.most_shifted[:shown], report.witness, strict=False)
    ]
    usual = [
        ShiftPicture(datasets[0][row]["images"][0], Path(sides[0].files.name(row)).name, "reference") for row in typical
    ]
    draw_most_shifted(strange, usual, sheet)
    headings = ("What moved, property by property", "How far each moved", "Most shifted new images, beside reference")
    return ShiftResults(
        report=report,
        reference=str(sides[0].path),
        new=str(sides[1].path),
        steps=steps,
        most_shifted=[sides[1].files.name(row) for row in report.most_shifted],
        pictures=list(zip(headings, (moved, effects, sheet), strict=True)),
        notes=[note for images in sides for note in images.notes]
        + [f"Images were compared as squares of {view.side} pixels."],
    )


def _distributions(report: ShiftReport, found: list[ShiftFeatures]) -> list[Distribution]:
    """Of the culprits; without one, of the properties that differ most, found or not."""
    values: dict[str, tuple[Tensor, Tensor]] = {}
    old, new = found
    if old.properties is not None and new.properties is not None:
        values |= {name: (old.properties[:, i], new.properties[:, i]) for i, name in enumerate(PROPERTIES)}
    if old.probabilities is not None and new.probabilities is not None:
        values["confidence"] = (old.probabilities.amax(1), new.probabilities.amax(1))
    culprits = [culprit.name for culprit in report.culprits if culprit.name in values]
    ranked = [feature.name for test in report.tests if test.test == "KS" for feature in test.features]
    names = culprits or [name for name in ranked if name in values][:3]
    return [Distribution(name, *(side.numpy() for side in values[name])) for name in names[:_PANELS]]


def _folder(output: str | Path | None, run: str | Path | None) -> Path:
    if output is None:
        home = Path() if run is None else find_checkpoint(Path(run))[1]
        number = 1
        while (home / f"shift-{number:03d}").exists():
            number += 1
        output = home / f"shift-{number:03d}"
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}): give another --output.") from error
    return folder


def _print(results: ShiftResults, html: Path) -> None:
    say(results.report)
    table = Table(title=Text(visible(f"{results.new} against {results.reference}")))
    for name in ("test", "p", "effect"):
        table.add_column(name, justify="left" if name == "test" else "right")
    for row in results.rows():
        table.add_row(*row)
    Console().print(table)
    for culprit in results.report.culprits[:5]:
        say(f"moved: {culprit.kind}: {culprit}")
    for note in results.notes:
        say(f"note: {note}")
    for step in results.steps:
        say(f"next: {step}")
    say(f"  {html}")
