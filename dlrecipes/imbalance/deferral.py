"""When balancing begins that is put off until the features have been learnt."""

from __future__ import annotations

__all__ = ["first_balanced_epoch"]


def first_balanced_epoch(share: float, epochs: int) -> int:
    """The first epoch, from 0, with weights or a sampler that balance (Cao et al., 2019, arXiv:1906.07413).

    Args:
        share: of the epochs that come before it, at least 0 and below 1; the paper's is .8.
        epochs: of the run, at least 1.

    Returns:
        ``share`` · ``epochs``, rounded, but not beyond the last epoch.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> first_balanced_epoch(0.8, 200), first_balanced_epoch(0.8, 1), first_balanced_epoch(0.0, 5)
        (160, 0, 0)
    """
    if not 0 <= share < 1:
        raise ValueError(f"share={share}: at least 0 and below 1 is needed, a part of the epochs")
    if epochs < 1:
        raise ValueError(f"epochs={epochs}: at least 1 is needed")
    return min(round(share * epochs), epochs - 1)
