"""The task of train_efficientnet.py with a network that has neither convolutions nor attention: an MLP-Mixer.

python recipes/train_mlp_mixer.py                                      # embedded digits, two CPU cores
python recipes/train_mlp_mixer.py --data photos --variant s16          # a folder a class, CSV, Parquet; found by itself
python recipes/train_mlp_mixer.py --data photos --variant b16 --pretrained hub
python recipes/train_mlp_mixer.py --data torchvision:CIFAR10 --config mixer_cifar
torchrun --nproc-per-node 8 recipes/train_mlp_mixer.py --data photos --devices 8
python recipes/train_mlp_mixer.py --resume runs/mixer-001              # goes on exactly where it stopped
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from dlrecipes.cli import Option, Recipe, TaskChoice, train
from dlrecipes.cli.options.image_presets import explain_image_preset

CONFIGS = Path(__file__).parent / "configs"
MODEL = "dlrecipes.models.MLPMixer"

MIXER = Recipe(
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
    choose=explain_image_preset("mixer", "mixer_digits"),
    preset=CONFIGS / "mixer.yaml",
    embedded_preset=CONFIGS / "mixer_digits.yaml",
    name="mixer",
    description="Image classification, multi-label classification or regression with an MLP-Mixer.",
    data_help="folders of classes, CSV, Parquet or torchvision:NAME, found by itself",
    options={
        "--variant": Option("--model.model.variant", "small (32-pixel images), s16, s32, b16, b32, l16", "NAME"),
        "--pretrained": Option("--model.model.pretrained", "hub or false", "P"),
        "--image_size": Option("--data.image_size", "side of the square that the model sees, in pixels", "N"),
        "--augment": Option("--data.augment", "none, light, strong, or the import path of a transform", "NAME"),
        "--mix": Option("--data.mix", "none, mixup, cutmix, both or remix", "NAME"),
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
        ("--model.optimizer lion --model.lr 1e-4", "sgd, adagrad, adadelta, rmsprop, adam, adamw, lion, muon"),
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says; returns the exit code."""
    return train(MIXER, argv)


if __name__ == "__main__":
    sys.exit(main())
