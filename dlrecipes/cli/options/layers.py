"""What each config and each option of a command line says of a section, such as ``model``, in the order that counts.

jsonargparse merges them, and keeps to itself who said what; where that matters, these layers tell it. yaml is imported
where it is needed: ``-h`` reads no config.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Layer", "layers", "opened", "section_of"]


@dataclass(frozen=True)
class Layer:
    """One option of a command line, and what it, or the config that it names, says of a section.

    Attributes:
        words: the option and its value, as they stand there; a switch has no value.
        says: argument -> value, with the class as ``class_path``; empty where it is about something else.
    """

    words: tuple[str, ...]
    says: Mapping[str, Any]

    @property
    def is_config(self) -> bool:
        """Whether a file says it."""
        return self.words[0] == "--config"


def layers(argv: Sequence[str], section: str) -> list[Layer]:
    """One layer for each option, in the order of the command line; together they have all its words.

    Args:
        argv: options under their full names, each with its value in a word of its own.
        section: ``model`` or ``data``.

    Example:
        >>> argv = ["--seed_everything", "1", "--model.loss", "my.Loss", "--model.init_args.loss.gamma", "2"]
        >>> [layer.says for layer in layers(argv, "model")]
        [{}, {'loss': 'my.Loss'}, {'loss': {'gamma': 2}}]
    """
    found, left = [], list(argv)
    while left:
        length = 1 if left[1:2] and left[1].startswith("--") else 2  # a switch has no value
        words, left = tuple(left[:length]), left[length:]
        found.append(Layer(words, _says(words, section)))
    return found


def section_of(config: Path, section: str) -> Mapping[str, Any]:
    """What a config says of a section; empty where it cannot be read, and the parser says what is wrong with it.

    Args:
        config: YAML file.
        section: ``model`` or ``data``.
    """
    import yaml

    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):  # ValueError: no UTF-8, or a date that does not exist
        return {}
    return opened(content.get(section)) if isinstance(content, Mapping) else {}


def opened(given: object) -> dict[str, Any]:
    """A class with its arguments side by side, in whichever of jsonargparse's ways it is written.

    Example:
        >>> opened("my.Loss")
        {'class_path': 'my.Loss'}
        >>> opened({"class_path": "my.Loss", "init_args": {"gamma": 2}})
        {'class_path': 'my.Loss', 'gamma': 2}
        >>> opened(None)
        {}
    """
    if isinstance(given, str):
        return {"class_path": given}
    if not isinstance(given, Mapping):
        return {}
    arguments = given.get("init_args")
    plain = {name: value for name, value in given.items() if name != "init_args"}
    return {**plain, **arguments} if isinstance(arguments, Mapping) else plain


def _says(words: Sequence[str], section: str) -> Mapping[str, Any]:
    if len(words) < 2:
        return {}
    flag, text = words
    if flag == "--config":
        return section_of(Path(text), section)
    import yaml

    first, *names = flag.removeprefix("--").replace(".init_args", "").split(".")
    if first != section:
        return {}
    try:
        value = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        value = text
    for name in reversed(names):
        value = {name: value}
    return opened(value)
