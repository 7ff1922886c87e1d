"""How many samples each class gets: imbalanced-learn's ``sampling_strategy`` for over-sampling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dlrecipes.errors import UserError

__all__ = ["SamplingStrategy", "check_strategy", "new_samples"]

SamplingStrategy = str | float | Mapping[Any, int] | Callable[[Any], Mapping[Any, int]]

_WORDS = ("auto", "not majority", "minority", "not minority", "all")


def check_strategy(strategy: SamplingStrategy) -> None:
    """Raise ValueError for what can be right for no data."""
    if isinstance(strategy, str):
        if strategy not in _WORDS:
            raise ValueError(f"sampling_strategy={strategy!r}: use {', '.join(map(repr, _WORDS))}")
    elif isinstance(strategy, bool) or not (isinstance(strategy, float | int | Mapping) or callable(strategy)):
        raise ValueError(f"sampling_strategy={strategy!r}: a word, a ratio, a dict of counts or a function is needed")
    elif isinstance(strategy, float | int) and not 0 < strategy <= 1:
        raise ValueError(f"sampling_strategy={strategy}: a ratio above 0 and at most 1 is needed")


def _by_word(word: str, counts: list[int]) -> dict[int, int]:
    most, fewest = counts.index(max(counts)), counts.index(min(counts))
    everything = range(len(counts))
    chosen = {
        "auto": [c for c in everything if c != most],
        "not majority": [c for c in everything if c != most],
        "minority": [fewest],
        "not minority": [c for c in everything if c != fewest],
        "all": list(everything),
    }[word]
    return {c: max(counts) - counts[c] for c in chosen}


def _by_ratio(ratio: float, classes: list[Any], counts: list[int]) -> dict[int, int]:
    if len(classes) != 2:
        raise UserError(
            f"sampling_strategy={ratio} is a ratio of two classes, but y has {len(classes)}: give a dict with a number "
            "for each class, or 'auto'"
        )
    most = counts.index(max(counts))
    new = int(max(counts) * ratio - counts[1 - most])
    if new <= 0:
        raise UserError(
            f"sampling_strategy={ratio} asks for fewer samples of class {classes[1 - most]!r} than its "
            f"{counts[1 - most]}: give a ratio above {counts[1 - most] / max(counts):.4g}"
        )
    return {1 - most: new}


def _by_number(wanted: Mapping[Any, int], classes: list[Any], counts: list[int]) -> dict[int, int]:
    place = {name: code for code, name in enumerate(classes)}
    new: dict[int, int] = {}
    for name, number in wanted.items():
        if name not in place:
            raise UserError(f"sampling_strategy has class {name!r}, which y has not: its classes are {classes}")
        have = counts[place[name]]
        if not isinstance(number, int | np.integer) or number < have:
            raise UserError(
                f"sampling_strategy asks for {number} samples of class {name!r}, which has {have}: over-sampling needs "
                f"a whole number of at least {have}"
            )
        new[place[name]] = int(number) - have
    return dict(sorted(new.items()))


def new_samples(strategy: SamplingStrategy, classes: list[Any], counts: list[int], y: object) -> dict[int, int]:
    """How many samples each class is to get, by its position in ``classes``, in that order.

    Args:
        strategy: ``"auto"`` or ``"not majority"``: all classes but the largest become as large as it; ``"minority"``:
            only the smallest does; ``"not minority"``, ``"all"``; a float: the smaller of two classes gets so many
            times the larger one's samples; a dict: class → samples that it shall have in the end; a function of ``y``
            that gives such a dict.
        classes, counts: the classes of ``y``, sorted, and their samples.
        y: the labels as the user gave them.

    Raises:
        UserError: one class, an unknown class, fewer samples than there are, a ratio for other than two classes.

    Example:
        >>> new_samples("auto", ["cat", "dog", "elk"], [10, 90, 30], None)
        {0: 80, 2: 60}
        >>> new_samples({"elk": 31}, ["cat", "dog", "elk"], [10, 90, 30], None)
        {2: 1}
    """
    if len(classes) < 2:
        raise UserError(f"y has one class only, {classes[0]!r}: there is nothing to balance")
    if isinstance(strategy, str):
        return _by_word(strategy, counts)
    if isinstance(strategy, Mapping):
        return _by_number(strategy, classes, counts)
    if isinstance(strategy, float | int):
        return _by_ratio(strategy, classes, counts)
    wanted = strategy(y)
    if not isinstance(wanted, Mapping):
        raise UserError(f"the function sampling_strategy gave a {type(wanted).__name__}: a dict of class → samples")
    return _by_number(wanted, classes, counts)
