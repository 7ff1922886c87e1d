"""Targets and outputs of whole images in words: classes, several labels, numbers."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import torch
from torch import Tensor

from dlrecipes.contracts import DataInfo
from dlrecipes.runs.metric_names import format_value
from dlrecipes.runs.pictures.plots import shorten

__all__ = [
    "THRESHOLD",
    "agreement_color",
    "chosen_labels",
    "compare_lines",
    "describe_output",
    "describe_target",
    "short_number",
    "short_probability",
    "target_lines",
]

THRESHOLD = 0.5
"""Probability from which on a label counts as predicted, where there are several and nothing else is asked for."""

_RIGHT, _WRONG = (0, 170, 70), (215, 30, 40)
_LEAST_SHARE = 0.05
_MOST_NAMES = 4
_MOST_LINES = 3


def describe_target(target: Tensor, info: DataInfo) -> str:
    """The truth of one image.

    Args:
        target: on the CPU; one row of an ``ImageBatch``'s targets.
        info: of the data.

    Example:
        >>> from dlrecipes.contracts import DataInfo
        >>> info = DataInfo(task="classification", classes=("cat", "dog"), category_ids=(0, 1), class_counts=(5, 5),
        ...                 num_train=10, max_objects=0, image_size=32)
        >>> describe_target(torch.tensor(1), info), describe_target(torch.tensor([0.3, 0.7]), info)
        ('dog', 'dog .70 + cat .30')
    """
    if info.task == "regression":
        return _numbers(target, info)
    if target.dim() == 0:
        return info.classes[int(target)]
    values = target.float()
    if info.task == "multilabel" and bool(((values == 0) | (values == 1)).all()):
        return _joined([info.classes[i] for i in chosen_labels(values)], ", ") or "no label"
    order = values.argsort(descending=True, stable=True)
    shares = [(info.classes[i], float(values[i])) for i in order.tolist() if values[i] >= _LEAST_SHARE]
    whole = len(shares) == 1 and shares[0][1] > 1 - _LEAST_SHARE
    return shares[0][0] if whole else _joined([f"{name} {short_probability(share)}" for name, share in shares], " + ")


def target_lines(target: Tensor, info: DataInfo) -> list[str]:
    """`describe_target` in one line, or a line for each of the first three of several numbers."""
    if info.task != "regression" or len(info.target_names) == 1:
        return [describe_target(target, info)]
    pairs = zip(info.target_names, target.tolist(), strict=True)
    return [f"{shorten(name, 16)} {short_number(value)}" for name, value in pairs][:_MOST_LINES]


def describe_output(output: Tensor, info: DataInfo, threshold: float = THRESHOLD) -> str:
    """What was predicted for one image: the most probable class, every label from ``threshold`` on, or the values.

    Args:
        output: float32 on the CPU; one row of an ``ImageOutput``'s outputs.
        info: of the data.
        threshold: least probability of a label, where an image may have several.
    """
    if info.task == "regression":
        return _numbers(output, info)
    if info.task == "multilabel":
        labels = sorted(chosen_labels(output, threshold), key=lambda i: -float(output[i]))
        if not labels:
            best = int(output.argmax())
            return f"no label (best: {info.classes[best]} {short_probability(float(output[best]))})"
        return _joined([f"{info.classes[i]} {short_probability(float(output[i]))}" for i in labels], ", ")
    best = int(output.argmax())
    return f"{info.classes[best]} {short_probability(float(output[best]))}"


def compare_lines(target: Tensor, output: Tensor, info: DataInfo) -> list[str]:
    """Truth and prediction of one image, in as many short lines for each image of a data set."""
    if info.task == "regression" and len(info.target_names) > 1:
        pairs = zip(info.target_names, target.tolist(), output.tolist(), strict=True)
        lines = [f"{shorten(name, 10)} {short_number(true)} → {short_number(said)}" for name, true, said in pairs]
        return lines[:_MOST_LINES]
    if info.task != "multilabel":
        return [f"true {describe_target(target, info)}", f"said {describe_output(output, info)}"]
    true, said = set(chosen_labels(target.float())), set(chosen_labels(output))
    order = output.argsort(descending=True).tolist()
    groups = (("found", true & said), ("missed", true - said), ("not there", said - true))
    names = [(title, [info.classes[i] for i in order if i in group]) for title, group in groups]
    return [f"{title}: {_joined(found, ', ', most=2) or '–'}" for title, found in names]


def agreement_color(target: Tensor, output: Tensor, info: DataInfo) -> tuple[int, int, int]:
    """Green for a right prediction, red for a wrong one; numbers go from green to red at an error of one deviation.

    The deviation is that of the training split. Of several numbers the worst counts.
    """
    if info.task == "regression":
        std = torch.tensor(info.target_std or (1.0,) * len(info.target_names))
        std = torch.where(std > 0, std, 1.0)
        error = ((output.float() - target.float()).abs() / std).max().nan_to_num(1.0).clamp(0, 1)
        r, g, b, _ = matplotlib.colormaps["RdYlGn"](1 - float(error), bytes=True)
        return int(r), int(g), int(b)
    if info.task == "multilabel":
        right = chosen_labels(target.float()) == chosen_labels(output)
    else:
        right = int(output.argmax()) == int(target if target.dim() == 0 else target.argmax())
    return _RIGHT if right else _WRONG


def chosen_labels(values: Tensor, threshold: float = THRESHOLD) -> list[int]:
    """Labels with a probability of ``threshold`` or more, in ascending order."""
    found: list[int] = (values >= threshold).nonzero().reshape(-1).tolist()
    return found


def _numbers(values: Tensor, info: DataInfo) -> str:
    numbers = [short_number(value) for value in values.float().reshape(-1).tolist()]
    if len(numbers) == 1:
        return numbers[0]
    return "  ".join(f"{name} {number}" for name, number in zip(info.target_names, numbers, strict=True))


def short_number(value: float) -> str:
    """About four digits, which are enough on a picture.

    >>> [short_number(v) for v in (204.838, -43.67, 1987.3, 0.1289)]
    ['204.8', '-43.67', '1987', '0.129']
    """
    exact = format_value(value)
    if not 10 <= abs(value) < 1000:
        return exact
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"


def _joined(texts: Sequence[str], between: str, most: int = _MOST_NAMES) -> str:
    rest = len(texts) - most
    return between.join(texts[:most]) + (f" +{rest}" if rest > 0 else "")


def short_probability(probability: float) -> str:
    """``.70``: two digits are enough on a picture, and a leading 0 says nothing."""
    return f"{probability:.2f}".removeprefix("0")
