"""Fonts for names in any script: DejaVu Sans, which matplotlib ships, and what the machine has for other letters."""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path

import matplotlib
from matplotlib.font_manager import FontEntry, fontManager, get_font

__all__ = ["DEFAULT_FONT", "font_for"]

DEFAULT_FONT = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
_SHIPPED = str(Path(matplotlib.get_data_path()))


def font_for(text: str) -> FontEntry | None:
    """A font of the machine with the letters that the default one lacks; None if it lacks none, or no font has all.

    Example:
        >>> font_for("Zürich → Ελλάδα") is None
        True
    """
    missing = frozenset(c for c in text if not c.isspace() and not _has(DEFAULT_FONT, c))
    return _covering(missing) if missing else None


@cache
def _covering(letters: frozenset[str]) -> FontEntry | None:
    fonts = [entry for entry in fontManager.ttflist if not entry.fname.startswith(_SHIPPED)]
    fonts.sort(key=lambda entry: ("Sans" not in entry.name, entry.style != "normal", str(entry.weight), entry.fname))
    return next((entry for entry in fonts if all(_has(entry.fname, c) for c in letters)), None)


@lru_cache(maxsize=4096)
def _has(file: str, letter: str) -> bool:
    try:
        return get_font(file).get_char_index(ord(letter)) != 0
    except (OSError, RuntimeError):  # a font that FreeType cannot read
        return False
