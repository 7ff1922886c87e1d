"""Detections of an image in COCO's results format."""

from __future__ import annotations

from typing import Any

from dlrecipes.contracts import DataInfo, Prediction

__all__ = ["coco_results"]


def coco_results(
    image_id: int, file_name: str, prediction: Prediction, info: DataInfo, threshold: float = 0.0
) -> list[dict[str, Any]]:
    """Detections of one image in COCO's results format, with the data set's own category ids.

    Args:
        image_id: of COCO.
        file_name: added to each entry.
        prediction: boxes in pixels, (x1, y1, x2, y2).
        info: of the run.
        threshold: lowest score.

    Returns:
        Dicts with ``image_id``, ``file_name``, ``category_id``, ``category``, ``bbox`` (x, y, width, height in pixels)
        and ``score``.
    """
    rows = zip(prediction["scores"].tolist(), prediction["labels"].tolist(), prediction["boxes"].tolist(), strict=True)
    return [
        {
            "image_id": image_id,
            "file_name": file_name,
            "category_id": info.category_ids[label],
            "category": info.classes[label],
            "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
            "score": float(f"{score:.6g}"),  # low scores are told apart, too: COCO's metrics rank all of them
        }
        for score, label, (x1, y1, x2, y2) in rows
        if score >= threshold
    ]
