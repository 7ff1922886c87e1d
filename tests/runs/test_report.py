import io
from dataclasses import replace

import pytest
from rich.console import Console

from dlrecipes.contracts import DataInfo
from dlrecipes.runs.folder import RunFolder
from dlrecipes.runs.metrics_csv import MetricsCSV
from dlrecipes.runs.model_card import write_model_card
from dlrecipes.runs.report import final_block


@pytest.fixture
def run(tmp_path):
    (tmp_path / "my runs" / "detr-001").mkdir(parents=True)
    return RunFolder(tmp_path / "my runs" / "detr-001")


def text_of(run, info, **arguments):
    out = io.StringIO()
    final_block(run, info, console=Console(file=out, width=100, soft_wrap=True), **arguments)
    return out.getvalue()


def log(run):
    logger = MetricsCSV(run.metrics)
    for epoch, value in enumerate((0.1, 0.7, 0.2)):
        logger.log_metrics(
            {"val/map": value, "val/map_50": 0.9, "val/map_small": -1.0, "val/map_class/cat": value, "epoch": epoch},
            step=epoch,
        )


def test_best_epoch_table_files_and_commands(run, info):
    log(run)
    run.curves.touch()
    run.predictions.mkdir()
    run.prediction_picture(2).touch()
    text = text_of(run, info, resume_command="python train.py --resume X", sync_command="wandb sync Y")
    assert "best val/map 0.700 in epoch 2 of 3  (mAP 0.700  mAP50 0.900)" in text  # no small objects, no such number
    assert "cat" in text
    assert "20" in text
    assert "dog" not in text  # was not measured
    assert f"{run.metrics} " in text
    assert "epoch_002.png" in text
    assert "best.ckpt" not in text  # only files that are there
    assert f"dlrecipes predict '{run.path}' IMAGES" in text  # a path with a space can be pasted
    assert text.rstrip().endswith("wandb sync Y")


def test_test_metrics_come_first_in_the_table(run, info):
    log(run)
    text = text_of(run, info, test={"test/map": 0.65, "test/map_class/dog": 0.5})
    assert "test: mAP 0.650" in text
    assert "AP by class, test split" in text
    assert "dog" in text


def test_many_classes_are_cut_to_best_and_worst(run, info):
    names = tuple(f"class[{i}]" for i in range(80))
    many = replace(info, classes=names, category_ids=tuple(range(80)), class_counts=(1,) * 80)
    text = text_of(run, many, test={f"test/map_class/{name}": i / 100 for i, name in enumerate(names)})
    assert "best and worst 15 of 80" in text
    assert "class[79]" in text
    assert "class[0]" in text
    assert "class[40]" not in text


def test_a_run_without_validation_says_so(run, info):
    assert "no val/map was measured" in text_of(run, info)


def test_model_card(run, info):
    run.write_info(seed=3, device="cpu", command=["train.py", "--data", "my data"])
    odd = replace(info, classes=("cat|dog", "b", "c"))
    write_model_card(
        run, odd, model="DETR-R50, 41.3 M parameters", data="`my data`", metrics={"test/map": 0.5}, recipe="train.py"
    )
    card = run.model_card.read_text()
    assert card.startswith("---\nlibrary_name: dlrecipes\npipeline_tag: object-detection\n---\n# detr-001\n")
    assert r"| 0 | cat\|dog | 3 | 20 |" in card
    assert "| test/map | 0.5000 |" in card
    assert 'load_from_checkpoint("checkpoints/best.ckpt")' in card
    assert "train.py --data 'my data'" in card
    assert "- seed: 3" in card
    assert "torch 2" in card
    assert "26 training objects" in card


def test_model_card_leaves_out_what_was_not_there_to_measure(run, info):
    metrics = {"test/map": 0.5, "test/map_small": -1.0, "test/map_class/cat": -1.0, "test/map_class/dog": 0.25}
    write_model_card(run, info, model="m", data="d", metrics=metrics, recipe="r")
    card = run.model_card.read_text()
    assert "| test/map_class/dog | 0.2500 |" in card
    assert "-1.0" not in card


def test_model_card_says_both_sides_of_the_papers_sizes(run, info):
    paper = replace(info, image_size=1333, shortest_side=800)
    write_model_card(run, paper, model="m", data="d", metrics={}, recipe="r")
    assert "evaluated at 800 pixels on the shorter side, at most 1333 on the longer" in run.model_card.read_text()


def image_info(task, **values):
    empty = {"classes": (), "category_ids": (), "class_counts": ()} if task == "regression" else {
        "classes": ("cat", "dog"), "category_ids": (0, 1), "class_counts": (90, 10)}  # fmt: skip
    return DataInfo(task=task, num_train=100, max_objects=0, image_size=32, **empty, **values)


def test_classification_has_recall_by_class_and_its_own_headline(run):
    logger = MetricsCSV(run.metrics)
    values = {"val/balanced_accuracy": 0.6, "val/accuracy": 0.9, "val/recall_class/cat": 1.0, "val/recall_class/dog": 0}
    logger.log_metrics({**values, "epoch": 0}, step=0)
    for path in (run.confusion_picture, run.reliability_picture, run.mistakes_picture):
        path.touch()
    text = text_of(
        run, image_info("classification"), monitor="val/balanced_accuracy", headline=("balanced_accuracy", "accuracy")
    )
    assert "best val/balanced_accuracy 0.600 in epoch 1 of 1  (balanced accuracy 0.600  accuracy 0.900)" in text
    assert "recall by class, val split" in text
    assert [line.split()[1:6:2] for line in text.splitlines() if "dog" in line] == [["dog", "10", "0.000"]]
    for name in ("confusion.png", "reliability.png", "mistakes.png"):
        assert name in text


def test_the_table_says_on_how_many_images_each_number_rests(run):
    """A recall of 0.5 of 2 images is another thing than of 2000; a class without one has no number, and a row."""
    info = image_info("classification")
    test = {"test/accuracy": 0.5, "test/recall_class/cat": 0.5}
    assert "test: accuracy" in text_of(run, info, test=test, headline=("accuracy",))  # a folder that does not know
    held = {"images": 2, "class_counts": {"cat": 2, "dog": 0}}
    run.write_data_report("", {"splits": {"test": {"images": 7, "class_counts": {"cat": 7}}, "held": held}})
    run.write_config("data: {init_args: {test_split: held}}")
    text = text_of(run, info, test=test, headline=("accuracy",))
    assert "test: accuracy 0.500  (2 images)" in text
    assert "for comparison, 'cat', the most frequent class in training, for every image: accuracy 1.000" in text
    rows = {line.split()[1]: line.split()[3:8:2] for line in text.splitlines() if "│" in line}
    assert rows == {"cat": ["90", "0.500", "2"], "dog": ["10", "-", "0"]}
    write_model_card(run, info, model="m", data="d", metrics=test, recipe="r")
    assert (
        "## Metrics\n`checkpoints/best.ckpt` on 2 images of the test split.\n\n| metric" in run.model_card.read_text()
    )
    run.write_config("data: {init_args: {}}")
    assert "test: accuracy 0.500  (7 images)" in text_of(run, info, test=test, headline=("accuracy",))


def test_regression_has_a_table_of_targets_and_the_smallest_error_is_the_best(run):
    logger = MetricsCSV(run.metrics)
    for epoch, value in enumerate((20.0, 12.0, 15.0)):
        values = {"val/mae": value, "val/mae_target/age": value, "val/mae_target/height": 0.5, "val/r2": -0.5}
        logger.log_metrics({**values, "epoch": epoch}, step=epoch)
    logger.log_metrics({"train/loss_epoch": 1.0, "epoch": 4}, step=4)  # epochs without a validation follow
    info = image_info("regression", target_names=("age", "height"), target_mean=(40.0, 1.7), target_std=(11.5, 0.1))
    text = text_of(run, info, monitor="val/mae", mode="min", headline=("mae", "r2"))
    assert "best val/mae 12.000 in epoch 2 of 5  (MAE 12.000  R² -0.500)" in text
    assert [line.split()[1:6:2] for line in text.splitlines() if "age" in line] == [["age", "11.500", "12.000"]]
    write_model_card(
        run, info, model="m", data="d", metrics={"test/mae": 12345.6}, recipe="r", task_path="my.tasks.AgeTask"
    )
    card = run.model_card.read_text()
    assert "tags: [image-regression]" in card
    assert "pipeline_tag" not in card
    assert "100 training images, 2 targets, evaluated at 32 × 32 pixels." in card
    assert "| height | 1.7 | 0.1 |" in card
    assert "from my.tasks import AgeTask\ntask = AgeTask.load_from_checkpoint" in card
    assert "| test/mae | 12346 |" in card
    assert "git" not in card  # the run was started outside a repository
    with pytest.raises(ValueError, match="got 'AgeTask'"):
        write_model_card(run, info, model="m", data="d", metrics={}, recipe="r", task_path="AgeTask")


def test_a_classification_card_speaks_of_images(run):
    info = image_info("classification", crop_fraction=0.875)
    write_model_card(run, info, model="m", data="`d`", metrics={}, recipe="r", task_path="dlrecipes.tasks.X")
    card = run.model_card.read_text()
    assert "pipeline_tag: image-classification" in card
    assert "`d`: 100 training images, 2 classes, evaluated at 32 × 32 pixels, the central square of an" in card
    assert "whose shorter side is 36 (Pillow's BICUBIC)." in card  # 36.57, which evaluation rounds down
    assert "objects" not in card


def test_names_of_strangers_are_only_text(run, info):
    evil = "\x1b[2J[/red]cat<img src=x>"
    log(run)
    test = {"test/map": 0.5, f"test/map_class/{evil}": 0.5}
    strange = replace(info, classes=(evil, *info.classes[1:]))
    text = text_of(run, strange, test=test, resume_command="python \x1b]0;x\x07.py --resume X")
    assert "\x1b" not in text
    assert "\\x1b[2J[/red]cat" in text
    write_model_card(run, strange, model="DETR", data="`d`", metrics=test, recipe="train_detr.py")
    card = run.model_card.read_text(encoding="utf-8")
    assert "\x1b" not in card
    assert "<img" not in card
