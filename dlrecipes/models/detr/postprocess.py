"""From a model's last layer to detections in pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from dlrecipes.contracts import Prediction
from dlrecipes.functional.boxes import cxcywh_to_xyxy

__all__ = ["detections", "postprocess"]


def detections(
    outputs: dict[str, Tensor], *, sigmoid: bool = False, top_k: int = 100, sort: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, labels and boxes of a batch, as many for each image.

    Softmax head: each query's best class but no-object, all queries. Sigmoid head: the ``top_k`` best of all
    (query, class) pairs, as in Deformable DETR.

    Args:
        outputs: ``pred_logits`` [L, B, Q, C'] or [B, Q, C'] and ``pred_boxes`` likewise, cxcywh relative to the image.
        sigmoid: kind of class head.
        top_k: detections an image with a sigmoid head.
        sort: best first; with False and a softmax head, the order of the queries.

    Returns:
        Scores [B, k], labels [B, k] and boxes [B, k, 4] (x1, y1, x2, y2) relative to the image.
    """
    logits, boxes = outputs["pred_logits"], outputs["pred_boxes"]
    if logits.dim() == 4:
        logits, boxes = logits[-1], boxes[-1]
    logits, boxes = logits.float(), cxcywh_to_xyxy(boxes.float())
    if sigmoid:
        classes = logits.shape[-1]
        scores, index = logits.sigmoid().flatten(1).topk(min(top_k, logits.shape[1] * classes), dim=1)
        labels, query = index % classes, torch.div(index, classes, rounding_mode="floor")
        boxes = boxes.gather(1, query[..., None].expand(-1, -1, 4))
    else:
        scores, labels = logits.softmax(-1)[..., :-1].max(-1)
        if sort:
            scores, order = scores.sort(dim=1, descending=True)
            labels = labels.gather(1, order)
            boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    return scores, labels, boxes


def postprocess(
    outputs: dict[str, Tensor], orig_sizes: Tensor, *, sigmoid: bool = False, top_k: int = 100, sort: bool = True
) -> list[Prediction]:
    """``detections`` in pixels, image by image.

    Args:
        outputs, sigmoid, top_k, sort: as in ``detections``.
        orig_sizes: int64 [B, 2], (height, width) of each original image.

    Returns:
        Per image scores [k], labels [k], boxes [k, 4] (x1, y1, x2, y2) in pixels, float32.
    """
    scores, labels, boxes = detections(outputs, sigmoid=sigmoid, top_k=top_k, sort=sort)
    scale = orig_sizes.to(boxes.device).flip(1).repeat(1, 2)[:, None].float()
    return [
        Prediction(scores=score, labels=label, boxes=box)
        for score, label, box in zip(scores, labels, boxes * scale, strict=True)
    ]
