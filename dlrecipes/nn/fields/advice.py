"""A receptive field against the sizes of what is to be seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from dlrecipes.contracts import Verdict

if TYPE_CHECKING:
    from dlrecipes.nn.fields.theoretical import LayerField

__all__ = ["advise"]

_SMALL, _LARGE = 0.05, 0.95  # quantiles that stand for the smallest and the largest objects: the rest may be mistakes
_EFFECTIVE = 0.5  # share of the field's side that counts, at most: Luo et al., 2016, arXiv:1701.04128, figure 1


def advise(last: LayerField, object_sizes: Sequence[float], global_from: str | None) -> list[Verdict]:
    """What is too small, too large or too coarse; one verdict of level ``"ok"`` if nothing is.

    The rules, for objects of d₅ to d₉₅ pixels (quantiles of ``object_sizes``), a last map of field F and stride S:

    - F < d₉₅: no unit sees a large object as a whole (warning; advice where the whole image comes in through a mean or
      attention, which blurs places);
    - F / 2 < d₉₅ ≤ F: it does, but what counts of a field is no more than about half of it (advice);
    - S > d₅: small objects lie between the units (advice);
    - a last map of less than 3 rows or columns: what follows sees mostly padding (advice).

    Args:
        last: the last layer that sees anything along local paths.
        object_sizes: sides of objects in pixels.
        global_from: the first layer that sees the whole image, or None.

    Raises:
        ValueError: no sizes, or one not above 0.
    """
    if not object_sizes or min(object_sizes) <= 0:
        raise ValueError(f"object_sizes={list(object_sizes)[:5]}: pixels above 0 are needed")
    small, large = _quantile(object_sizes, _SMALL), _quantile(object_sizes, _LARGE)
    found = [*_field(last, large, global_from), *_stride(last, small), *_map(last)]
    if not found:
        evidence = f"A field of {_side(last)} pixels covers objects of {small:.0f} to {large:.0f} pixels."
        found = [_verdict("field and objects fit", "ok", evidence)]
    return found


def _field(last: LayerField, large: float, global_from: str | None) -> list[Verdict]:
    size = min(last.size or (0, 0))
    bound = "at least " if last.at_least else ""
    evidence = f"The last map sees {bound}{_side(last)} pixels, large objects are {large:.0f}."
    if last.at_least or size * _EFFECTIVE >= large:
        return []
    step = max(1.0, min(last.stride or (1.0, 1.0)))
    wanted = large if size < large else large / _EFFECTIVE
    more = math.ceil((wanted - size) / (2 * step))
    convs = f"{more} more 3x3 convolution{'s' if more > 1 else ''}"
    where = f"{convs} at the last stride of {step:g}, a dilation of 2 there, or one more stage with stride 2"
    if size >= large:
        advice = f"What counts of a field is about half of it (effective_receptive_field measures it): add {where}."
        return [_verdict("field just covers the objects", "advice", evidence, advice)]
    if global_from is None:
        return [_verdict("field smaller than the objects", "warning", evidence, f"Add {where}.")]
    advice = f"Only {global_from} puts their parts together, without where they lie: add {where}."
    return [_verdict("field smaller than the objects", "advice", evidence, advice)]


def _stride(last: LayerField, small: float) -> list[Verdict]:
    step = max(last.stride or (0.0, 0.0))
    if step <= small:
        return []
    evidence = f"The last map has a unit every {step:g} pixels, small objects are {small:.0f}."
    advice = "Pool later, take a dilation of 2 instead of the last stride, larger images, or an earlier map beside it."
    return [_verdict("stride larger than small objects", "advice", evidence, advice)]


def _map(last: LayerField) -> list[Verdict]:
    if last.map_size is None or min(last.map_size) >= 3:
        return []
    rows, columns = last.map_size
    evidence = f"The last map has {rows} x {columns} places, so that a 3x3 kernel reads mostly padding."
    advice = "Leave out the early pooling or a stride, or take larger images."
    return [_verdict("last map is tiny", "advice", evidence, advice)]


def _verdict(title: str, level: Literal["ok", "advice", "warning"], evidence: str, advice: str = "") -> Verdict:
    return Verdict(source="receptive field", title=title, level=level, evidence=evidence, advice=advice)


def _quantile(values: Sequence[float], share: float) -> float:
    """Linear between the sorted values, as NumPy's."""
    ordered = sorted(map(float, values))
    at = share * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def _side(last: LayerField) -> str:
    height, width = last.size or (0, 0)
    return f"{height}" if height == width else f"{height}x{width}"
