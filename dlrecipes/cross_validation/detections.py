"""Out-of-fold predictions of detectors: COCO results beside COCO annotations, which COCO's own tools read."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from dlrecipes.contracts import DataInfo, DetectionBatch, DetectionOutput, Prediction
from dlrecipes.cross_validation.collector import Collector, check_output
from dlrecipes.data.formats.layout import shown
from dlrecipes.data.formats.records import DetectionRecord
from dlrecipes.runs.coco_results import coco_results
from dlrecipes.tasks.coco_metric import coco_metric, named_metrics

__all__ = ["DETECTIONS", "TRUTH", "DetectionCollector", "coco_metrics", "join_detections"]

DETECTIONS, TRUTH = "out_of_fold.json", "out_of_fold_truth.json"


class DetectionCollector(Collector):
    """Detections by the image's place among the records; COCO results, and the records as COCO annotations.

    Args:
        info: classes and the data's own ids of them.
        records: of the held-out images; a batch's ``image_ids`` are positions among them.
        root: file names are relative to it.
    """

    def __init__(self, info: DataInfo, records: Sequence[DetectionRecord], root: str) -> None:
        self.info, self.records, self.root = info, records, root
        self.found: list[tuple[int, Prediction]] = []

    def on_validation_batch_end(  # type: ignore[override]  # Lightning types outputs as Tensor or Mapping
        self,
        trainer: pl.Trainer,
        pl_module: LightningModule,
        outputs: DetectionOutput,
        batch: DetectionBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        check_output(pl_module, outputs, "predictions", "a DetectionOutput", "DetectionTask")
        for index, prediction in zip(batch["image_ids"], outputs["predictions"], strict=True):
            scores, boxes = (prediction[name].float().cpu() for name in ("scores", "boxes"))
            self.found.append((index, Prediction(scores=scores, labels=prediction["labels"].cpu(), boxes=boxes)))

    def write(self, folder: Path) -> None:
        results: list[dict[str, Any]] = []
        for index, prediction in self.found:
            record = self.records[index]
            results += coco_results(record.image_id, shown(record.path, self.root), prediction, self.info)
        _write_json(folder / DETECTIONS, results)
        _write_json(folder / TRUTH, self._truth())

    def _truth(self) -> dict[str, list[dict[str, Any]]]:
        images, annotations = [], []
        for record in (self.records[index] for index, _ in self.found):
            size = {"width": record.width, "height": record.height}
            images.append({"id": record.image_id, "file_name": shown(record.path, self.root), **size})
            objects = zip(record.boxes.tolist(), record.labels.tolist(), record.areas, record.iscrowd, strict=True)
            annotations += [
                {
                    "id": 0,  # counted when all are there
                    "image_id": record.image_id,
                    "category_id": self.info.category_ids[label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": float(area),
                    "iscrowd": int(crowd),
                }
                for (x1, y1, x2, y2), label, area, crowd in objects
            ]
        named = zip(self.info.category_ids, self.info.classes, strict=True)
        categories = [{"id": id_, "name": name} for id_, name in named]
        return {"images": images, "annotations": _numbered(annotations), "categories": categories}


def _numbered(annotations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**annotation, "id": number} for number, annotation in enumerate(annotations, 1)]


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def join_detections(folds: Sequence[Path], root: Path) -> Path:
    """The results and annotations of all folds as one of each, whose images name the fold; returns the results."""
    results = [{"fold": path.name, **result} for path in folds for result in _read_json(path / DETECTIONS)]
    truths = [_read_json(path / TRUTH) for path in folds]
    images = [
        {"fold": path.name, **image} for path, part in zip(folds, truths, strict=True) for image in part["images"]
    ]
    annotations = _numbered([annotation for part in truths for annotation in part["annotations"]])
    _write_json(root / DETECTIONS, results)
    categories = truths[0]["categories"]
    _write_json(root / TRUTH, {"images": images, "annotations": annotations, "categories": categories})
    return root / DETECTIONS


def coco_metrics(results: Path) -> dict[str, float]:
    """COCO's metrics of results, by the annotations beside them: ``map``, ``map_50`` ..., ``map_class/NAME``."""
    truth = _read_json(results.with_name(TRUTH))
    label_of = {category["id"]: label for label, category in enumerate(truth["categories"])}
    found, true = _by_image(_read_json(results)), _by_image(truth["annotations"])
    metric = coco_metric()
    for image in truth["images"]:
        detections, objects = (_boxes_and_labels(part[image["id"]], label_of) for part in (found, true))
        detections["scores"] = torch.tensor([float(e["score"]) for e in found[image["id"]]])
        objects["area"] = torch.tensor([float(e["area"]) for e in true[image["id"]]])
        objects["iscrowd"] = torch.tensor([int(e["iscrowd"]) for e in true[image["id"]]], dtype=torch.int64)
        metric.update([detections], [objects])
    classes = [category["name"] for category in truth["categories"]]
    return {name: float(value) for name, value in named_metrics(metric.compute(), classes).items()}


def _by_image(entries: Sequence[dict[str, Any]]) -> Mapping[int, list[dict[str, Any]]]:
    images: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        images[entry["image_id"]].append(entry)
    return images


def _boxes_and_labels(entries: Sequence[Mapping[str, Any]], label_of: Mapping[int, int]) -> dict[str, Tensor]:
    """Boxes (x1, y1, x2, y2), float32 [n, 4], and labels, int64 [n]."""
    boxes = torch.tensor([entry["bbox"] for entry in entries], dtype=torch.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    labels = torch.tensor([label_of[entry["category_id"]] for entry in entries], dtype=torch.int64)
    return {"boxes": boxes.float(), "labels": labels}
