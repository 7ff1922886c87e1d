"""Presets that a recipe chooses by itself, and why. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

__all__ = ["Choice", "Choose", "Requirement", "Situation"]


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What a command line tells before anything is read.

    Attributes:
        options: full name -> value, of every option that was typed.
        data: data were given, on the command line or in a config.
        preset: the preset that was named first, or whose file was; another file as it was given; None: no config was.
    """

    options: Mapping[str, str] = field(default_factory=dict)
    data: bool = False
    preset: str | None = None

    @staticmethod
    def installed(module: str) -> bool:
        """Whether a top-level module could be imported; it is not."""
        return find_spec(module) is not None

    @property
    def gpu(self) -> bool:
        """Whether the run will be on a GPU. Imports torch."""
        if self.options.get("--trainer.accelerator") == "cpu":
            return False
        import torch

        return torch.cuda.is_available()


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a recipe takes in a situation.

    Attributes:
        presets: names; later ones are layers over earlier ones.
        why: end of the sentence "Preset NAME, since ...".
        options: further settings, as words of a command line; what the user types goes before them.
    """

    presets: Sequence[str]
    why: str
    options: Sequence[str] = ()


Choose = Callable[[Situation], Choice | None]
"""None: the preset that was named, or the recipe's default, as it stands."""


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """An option that a preset cannot do without.

    Attributes:
        option: its key in the parsed config, such as ``"model.init_args.init"``.
        remedy: the sentence for who has not given it.
    """

    option: str
    remedy: str
