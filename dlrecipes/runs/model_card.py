"""A card for a trained model, as the Hugging Face hub reads it: data, metrics, versions, how to load it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from dlrecipes.contracts import DataInfo, evaluation_side
from dlrecipes.errors import UserError
from dlrecipes.functional.words import counted, in_markdown, visible
from dlrecipes.runs.folder import RunFolder
from dlrecipes.runs.metric_names import is_measured
from dlrecipes.runs.report import split_facts

__all__ = ["write_model_card"]

# The hub has no pipeline for regression from images, so that is only a tag.
_HUB = {
    "detection": "pipeline_tag: object-detection",
    "classification": "pipeline_tag: image-classification",
    "multilabel": "pipeline_tag: image-classification\ntags: [multi-label]",
    "regression": "tags: [image-regression]",
}


def write_model_card(
    run: RunFolder,
    info: DataInfo,
    *,
    model: str,
    data: str,
    metrics: Mapping[str, float],
    recipe: str,
    task_path: str = "dlrecipes.tasks.DetectionTask",
) -> None:
    """Write ``MODEL_CARD.md``: data, classes or targets, metrics, versions and how to load the model.

    Args:
        run: its ``run.json`` gives versions, command, seed and device.
        info: of the data.
        model: name and number of parameters in words.
        data: where the data came from, in words.
        metrics: names as logged (``test/map``).
        recipe: the script that made the run.
        task_path: import path of the class that loads the checkpoint.

    Raises:
        UserError: the file cannot be written.
        ValueError: ``task_path`` is no import path.
    """
    module, _, task = task_path.rpartition(".")
    if not module or not task.isidentifier():
        raise ValueError(f"task_path must be an import path such as dlrecipes.tasks.DetectionTask, got {task_path!r}")
    facts = run.read_info()
    lines = [
        "---",
        "library_name: dlrecipes",
        _HUB.get(info.task, f"tags: [{info.task}]"),
        "---",
        f"# {run.name}",
        "",
        f"{visible(model)}, trained by `{recipe}` on {facts.get('date', 'an unknown date')}.",
        "",
        *_data_lines(info, data),
        "",
        "## Metrics",
        *_measured_lines(run, metrics),
        "| metric | value |",
        "| --- | ---: |",
        *(f"| {_cell(name)} | {_number(value)} |" for name, value in metrics.items() if is_measured(name, value)),
        "",
        "## Load it",
        "```python",
        f"from {module} import {task}",
        f'task = {task}.load_from_checkpoint("{run.best_checkpoint.relative_to(run.path)}")',
        "```",
        f"`{run.best_weights.name}` holds the weights alone, in the safetensors format.",
        "",
        *_origin_lines(facts),
        "",
    ]
    try:
        run.model_card.write_text("\n".join(lines), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write '{run.model_card}' ({error.strerror}): check the disk.") from error


def _data_lines(info: DataInfo, data: str) -> list[str]:
    images = counted(info.num_train, "training image")
    if info.task == "regression":
        lines = [
            f"{visible(data)}: {images}, {counted(len(info.target_names), 'target')}, {_size(info)}.",
            "",
            "| target | mean in training | standard deviation |",
            "| --- | ---: | ---: |",
        ]
        rows = zip(info.target_names, info.target_mean, info.target_std, strict=True)
        lines += [f"| {_cell(name)} | {mean:.6g} | {std:.6g} |" for name, mean, std in rows]
    else:
        classes = counted(info.num_classes, "class", "classes")
        objects = f", {counted(sum(info.class_counts), 'training object')}" if info.task == "detection" else ""
        lines = [
            f"{visible(data)}: {images}{objects}, {classes}, {_size(info)}.",
            "",
            "| label | class | id in the data | in training |",
            "| ---: | --- | ---: | ---: |",
        ]
        named = enumerate(zip(info.classes, info.category_ids, info.class_counts, strict=True))
        lines += [f"| {label} | {_cell(name)} | {id_} | {count} |" for label, (name, id_, count) in named]
    return ["## Data", *lines]


def _measured_lines(run: RunFolder, metrics: Mapping[str, float]) -> list[str]:
    """On which images, of how many; nothing where the run's folder does not know."""
    splits = dict.fromkeys(name.partition("/")[0] for name in metrics)
    images = {split: facts["images"] for split in splits if "images" in (facts := split_facts(run, split))}
    if not images:
        return []
    where = " and ".join(f"{counted(number, 'image')} of the {split} split" for split, number in images.items())
    return [f"`{run.best_checkpoint.relative_to(run.path)}` on {where}.", ""]


def _size(info: DataInfo) -> str:
    if info.task == "detection" and info.shortest_side is not None:
        return f"evaluated at {info.shortest_side} pixels on the shorter side, at most {info.image_size} on the longer"
    if info.task == "detection":
        return f"evaluated at {info.image_size} pixels on the longest side"
    square = f"evaluated at {info.image_size} × {info.image_size} pixels"
    if info.crop_fraction == 1:
        return square
    side = evaluation_side(info.image_size, info.crop_fraction)
    return f"{square}, the central square of an image whose shorter side is {side} (Pillow's BICUBIC)"


def _origin_lines(facts: Mapping[str, Any]) -> list[str]:
    versions: Mapping[str, Any] = facts.get("versions", {})
    return [
        "## How it was made",
        f"- command: `{visible(shlex.join(facts.get('command', [])))}`",
        f"- seed: {facts.get('seed')}",
        f"- device: {facts.get('device')}",
        *([f"- git: {facts['git']}"] if facts.get("git") else []),
        f"- versions: {', '.join(f'{name} {version}' for name, version in versions.items())}",
    ]


def _number(value: float) -> str:
    """Four decimals; whole numbers from ten thousand on, and four digits of the very large and small."""
    if 10_000 <= abs(value) < 1e7:
        return f"{value:.0f}"
    return f"{value:.4f}" if value == 0 or 0.001 <= abs(value) < 10_000 else f"{value:.4g}"


def _cell(text: str) -> str:
    return in_markdown(text)
