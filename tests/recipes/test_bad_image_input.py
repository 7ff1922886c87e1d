"""Whatever is wrong with what a user gives to the image recipes: one sentence and exit code 2."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from tiny_runs import assert_refused, call


def cut_an_image(folder: Path) -> None:
    file = folder / "train" / "disc" / "train_disc_3.png"
    file.write_bytes(file.read_bytes()[:200])


def write_text_as_an_image(folder: Path) -> None:
    (folder / "val" / "ring" / "val_ring_0.png").write_text("this is no picture")


def leave_out_a_class_in_training(folder: Path) -> None:
    shutil.rmtree(folder / "train" / "bar")


def empty_the_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def keep_one_class(folder: Path) -> None:
    for name in ("bar", "disc"):
        for split in ("train", "val", "test"):
            shutil.rmtree(folder / split / name)


DAMAGES: dict[Callable[[Path], None], str] = {
    cut_an_image: "train_disc_3.png",
    write_text_as_an_image: "val_ring_0.png",
    leave_out_a_class_in_training: "bar",
    empty_the_folder: "photos",
    keep_one_class: "class",
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.items(), ids=[d.__name__ for d in DAMAGES])
def test_unusable_data(
    damage: Callable[[Path], None], message: str, mixer: ModuleType, configs: Path, photos: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(photos, tmp_path / "photos")
    damage(data)
    outcome = call(mixer.main, "--config", configs / "mixer.yaml", "--data", data, "--output", tmp_path / "runs")
    assert_refused(outcome, message)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("photos/train/bar/none.png,train,1000.5", "none.png"),
        ("photos/train/bar/train_bar_0.png,train,", "the column 'size' is empty"),
        ("photos/train/bar/train_bar_0.png,train,nan", "size"),
    ],
)
def test_unusable_table(row: str, message: str, mixer: ModuleType, configs: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").symlink_to(photos)
    lines = photos.with_name("sizes.csv").read_text().splitlines()
    (tmp_path / "sizes.csv").write_text("\n".join([*lines, row]) + "\n")
    argv = ["--config", configs / "mixer.yaml", "--data", tmp_path / "sizes.csv", "--output", tmp_path / "runs"]
    assert_refused(call(mixer.main, *argv), message)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("data", "argv", "message"),
    [
        ("photos", ["--variant", "b9"], "variant='b9'"),
        ("photos", ["--variant", "s16", "--image-size", "30"], "patches of 16: set --data.image_size"),
        ("photos", ["--pretrained", "moon"], "pretrained='moon': choose one of hub, false"),
        ("photos", ["--image-size", "0"], "image_size must be at least 8, got 0"),
        ("photos", ["--augment", "some"], "There is no augmentation 'some'"),
        ("photos", ["--mix", "well"], "mix must be one of none, mixup, cutmix, both, remix, got 'well'"),
        ("sizes.csv", ["--mix", "cutmix"], "mix 'cutmix' cannot be used for regression"),
        ("photos", ["--loss", "focal"], "--loss needs the import path of a class, which 'focal' is not"),
        ("photos", ["--loss", "dlrecipes.losses.FocalLos"], "Cannot import dlrecipes.losses.FocalLos"),
        ("photos", ["--loss", "dlrecipes.losses.FocalLoss", "--model.loss.gamma", "-1"], "gamma=-1.0"),
        ("photos", ["--loss", "dlrecipes.losses.SmoothL1Loss"], "SmoothL1Loss is not for this data"),
        ("photos", ["--loss", "dlrecipes.losses.QuantileLoss"], "QuantileLoss is not for this data"),
        ("tags.csv", ["--loss", "dlrecipes.losses.CrossEntropyLoss"], "CrossEntropyLoss is not for this data"),
        ("sizes.csv", ["--loss", "dlrecipes.losses.BCELoss"], "BCELoss is not for this data"),
        ("photos", ["--model", "dlrecipes.tasks.RegressionTask"], "RegressionTask needs data with numbers"),
        ("photos", ["--model", "dlrecipes.tasks.DetectionTask"], "--model needs a subclass of ImageTask"),
        ("photos", ["--model.optimizer", "adman"], "'adman' is not an import path"),
        ("photos", ["--model.compile_mode", "foo"], "compile_mode='foo'"),
        ("photos", ["--data.kind", "regression"], "--data.kind"),
        ("photos", ["--model.model", "dlrecipes.models.TimmClassifier", "--model.model.name", "reznet18"], "resnet18"),
    ],
)
def test_unusable_options(
    data: str, argv: list[str], message: str, mixer: ModuleType, configs: Path, photos: Path, tmp_path: Path
) -> None:
    given = ["--config", configs / "mixer.yaml", "--data", photos.with_name(data), "--output", tmp_path / "runs"]
    network = ["--model.model.patch_size", 16] if "--variant" not in argv and "--model.model" not in argv else []
    assert_refused(call(mixer.main, *given, *network, *argv), message)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--pretrained", "package", "--variant", "b0"], "the package has weights of lite0"),
        (["--variant", "b9"], "variant='b9': choose one of b0, b1"),
        (["--model.model.total_stride", "5"], "total_stride=5"),
        (["--variants", "b0"], "Did you mean --variant?"),
    ],
)
def test_unusable_options_of_efficientnet(
    argv: list[str], message: str, efficientnet: ModuleType, photos: Path, tmp_path: Path
) -> None:
    assert_refused(call(efficientnet.main, "--data", photos, "--output", tmp_path / "runs", *argv), message)
    assert not (tmp_path / "runs").exists()
