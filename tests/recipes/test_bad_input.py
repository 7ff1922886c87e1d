"""Whatever is wrong with what a user gives: one sentence, exit code 2, no run folder, before any training."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tiny_runs import assert_refused, call


def edit(folder: Path, change: Callable[[dict[str, Any]], object], split: str = "train") -> None:
    file = folder / "annotations" / f"instances_{split}.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def remove_everything(folder: Path) -> None:
    shutil.rmtree(folder)


def empty_the_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def remove_an_image(folder: Path) -> None:
    (folder / "train" / "train_3.png").unlink()


def truncate_an_image(folder: Path) -> None:
    from PIL import Image

    file = folder / "train" / "train_3.jpg"
    Image.open(folder / "train" / "train_3.png").resize((400, 400)).save(file)
    file.write_bytes(file.read_bytes()[:2000])
    edit(folder, lambda c: c["images"][3].update(file_name=file.name, width=400, height=400))


def write_text_as_jpg(folder: Path) -> None:
    (folder / "train" / "train_3.jpg").write_text("this is no picture")
    edit(folder, lambda c: c["images"][3].update(file_name="train_3.jpg"))


def cut_the_json(folder: Path) -> None:
    file = folder / "annotations" / "instances_train.json"
    file.write_text(file.read_text()[:300])


def name_an_unknown_category(folder: Path) -> None:
    edit(folder, lambda c: c["annotations"][5].update(category_id=99))


def make_a_box_nan(folder: Path) -> None:
    edit(folder, lambda c: c["annotations"][5].update(bbox=[float("nan"), 1, 2, 3]))


def put_all_boxes_outside(folder: Path) -> None:
    for split in ("train", "val", "test"):
        edit(folder, lambda c: [a.update(bbox=[1000, 1000, 5, 5]) for a in c["annotations"]], split)


def crowd_an_image(folder: Path) -> None:
    def crowd(content: dict[str, Any]) -> None:
        first = content["annotations"][0]
        content["annotations"] += [{**first, "id": 1000 + i, "bbox": [i, i, 9, 9]} for i in range(9)]

    edit(folder, crowd)


def rename_a_class_in_one_split(folder: Path) -> None:
    edit(folder, lambda c: c["categories"][0].update(name="ring"), "val")


DAMAGES: dict[Callable[[Path], None], str] = {
    remove_everything: "does not exist",
    empty_the_folder: "coco",
    remove_an_image: "train_3.png does not exist",
    truncate_an_image: "train_3.jpg",
    write_text_as_jpg: "train_3.jpg",
    cut_the_json: "instances_train.json",
    name_an_unknown_category: "99",
    make_a_box_nan: "instances_train.json",
    put_all_boxes_outside: "box",
    crowd_an_image: "queries",
    rename_a_class_in_one_split: "ring",
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.items(), ids=[d.__name__ for d in DAMAGES])
def test_unusable_data(
    damage: Callable[[Path], None], message: str, recipe: ModuleType, tiny: Path, coco: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(coco, tmp_path / "coco")
    damage(data)
    outcome = call(recipe.main, "--config", tiny, "--data", data, "--output", tmp_path / "runs")
    assert_refused(outcome, message)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epoch", "1"], "Did you mean --epochs?"),
        (["--output", "FILE/runs"], "--output"),
        (["--resume", "FOLDER"], "holds no checkpoint"),
        (["--resume", "FOLDER/none"], "does not exist"),
        (["--ema", "1.5"], "--ema must be between 0 and 1"),
        (["--checkpoint-every-n-steps", "0"], "--checkpoint-every-n-steps must be above 0"),
        (["--batch-size", "0"], "batch_size must be at least 1"),
        (["--data.transform", "nowhere.Transform"], "nowhere"),
        (["--model.criterion.class_loss", "hinge"], "class_loss='hinge'"),
        (["--trainer.accelerator", "abacus"], "abacus"),
        (["--trainer.strategy", "abacus"], "abacus"),
        (["--seed", "-1"], "--seed must be from 0 to"),
        (["--seed", "some"], "--seed must be int, not 'some'."),
    ],
)
def test_unusable_options(
    argv: list[str], message: str, recipe: ModuleType, tiny: Path, coco: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    words = [word.replace("FILE", str(tmp_path / "file")).replace("FOLDER", str(tmp_path)) for word in argv]
    given = [] if "--output" in argv else ["--output", tmp_path / "runs"]
    outcome = call(recipe.main, "--config", tiny, "--data", coco, *given, *words)
    assert_refused(outcome, message)
