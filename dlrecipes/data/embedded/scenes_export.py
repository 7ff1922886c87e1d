"""The embedded scenes as files on disk, for other tools and for trying the readers."""

from __future__ import annotations

import json
from pathlib import Path

import cv2

from dlrecipes.data.embedded.scenes import CLASSES, SPLIT_SIZES, DigitScenes
from dlrecipes.errors import UserError

__all__ = ["export_coco"]


def export_coco(
    folder: str | Path,
    *,
    seed: int = 0,
    size: int = 96,
    num_images: dict[str, int] | None = None,
    long_tailed: bool = False,
) -> Path:
    """Write the scenes of epoch 0 as a COCO data set: ``annotations/instances_SPLIT.json`` and ``SPLIT/*.png``.

    Args:
        folder: made if missing; files of an earlier export are overwritten.
        seed, size: as in `DigitScenes`.
        num_images: scenes of each split to write, for example ``{"train": 100, "val": 20}``; 2400, 300, 300 if None.
        long_tailed: for the training split only, as in `DetectionData`.

    Returns:
        ``folder``.
    """
    root = Path(folder)
    for split, count in (SPLIT_SIZES if num_images is None else num_images).items():
        scenes = DigitScenes(
            split, seed=seed, size=size, num_images=count, long_tailed=long_tailed and split == "train"
        )
        _export_split(scenes, root)
    return root


def _export_split(scenes: DigitScenes, root: Path) -> None:
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / scenes.split).mkdir(parents=True, exist_ok=True)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for index in range(len(scenes)):
        image, boxes, labels = scenes.scene(0, index)
        name = f"{index:06d}.png"
        path = root / scenes.split / name
        if not cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
            raise UserError(f"{path} could not be written: check the folder's permissions and the free space.")
        images.append({"id": index + 1, "file_name": name, "width": scenes.size, "height": scenes.size})
        for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"instances_{scenes.split}.json").write_text(json.dumps(content), encoding="utf-8")
