"""Words that every room needs for its sentences."""

from __future__ import annotations

__all__ = ["counted"]


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun.

    Args:
        number: 0 or more.
        noun: for one.
        plural: for others; None: with an s.

    >>> counted(1, "image"), counted(2400, "image"), counted(2, "box", "boxes")
    ('1 image', '2,400 images', '2 boxes')
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
