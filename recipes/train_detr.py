"""Object detection with DETR: trains, tests, and leaves a folder with checkpoints, numbers and pictures.

python recipes/train_detr.py                                       # embedded scenes, a few minutes on two CPU cores
python recipes/train_detr.py --data path/to/data                   # COCO, Pascal VOC, YOLO or CSV, found by itself
python recipes/train_detr.py --data path/to/data --overfit 8       # can it learn 8 images by heart? PASS or FAIL
python recipes/train_detr.py --data path/to/data --init detr-r50-e632da11.pth    # from DETR's official weights
python recipes/train_detr.py --data path/to/coco --config detr_paper --devices 8
torchrun --nproc-per-node 8 recipes/train_detr.py --data path/to/coco --config detr_paper --devices 8
python recipes/train_detr.py --resume runs/detr-1                  # goes on exactly where it stopped
python recipes/train_detr.py --model.criterion my_project.MyCriterion --model.criterion.gamma 3
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from dlrecipes.cli import Option, Recipe, train
from dlrecipes.cli.options.detection_presets import DETECTION_REQUIREMENTS, choose_detection_preset

DETR = Recipe(
    task="dlrecipes.tasks.DetectionTask",
    data="dlrecipes.data.DetectionData",
    parts={"model": "dlrecipes.models.DETR", "criterion": "dlrecipes.models.detr.SetCriterion"},
    links={
        "seed_everything": "data.init_args.seed",
        "model.init_args.model.init_args.num_queries": "data.init_args.max_queries",
    },
    pictures=(
        "dlrecipes.runs.TrainBatchPicture",
        "dlrecipes.runs.PredictionPictures",
        "dlrecipes.runs.DetectionCurves",
    ),
    callbacks=("dlrecipes.callbacks.ConstantPredictions",),
    plain_data=(
        *("--data.transform", "none", "--data.mosaic", "0", "--data.mixup", "0"),
        *("--data.repeat_factor", "null"),
    ),
    choose=choose_detection_preset,
    requires=DETECTION_REQUIREMENTS,
    preset=Path(__file__).parent / "configs" / "detr_fast.yaml",
    name="detr",
    description="Object detection with DETR: trains, tests, leaves a folder with checkpoints, numbers and pictures.",
    data_help="COCO, Pascal VOC, YOLO or CSV; the format is found",
    options={
        "--init": Option(
            "--model.init", "weights to start from: DETR's official ones, or a checkpoint of a run", "FILE"
        ),
        "--pretrained": Option(
            "--model.model.pretrained_backbone", "ImageNet weights: package (lite0, from pip), hub or false", "P"
        ),
        "--image_size": Option("--data.image_size", "longer side of the images, in pixels", "N"),
        "--augment": Option(
            "--data.transform", "none, light, strong, paper, or the import path of a transform", "NAME"
        ),
        "--folds": Option("--folds", "cross validation: K runs, each without one part of the images", "K"),
    },
    examples=(
        ("--model.model.num_queries 30", "an argument of the model"),
        ("--model.criterion my_project.MyCriterion --model.criterion.gamma 3", ""),
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says; returns the exit code."""
    return train(DETR, argv)


if __name__ == "__main__":
    sys.exit(main())
