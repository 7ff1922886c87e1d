"""``--imbalance`` by the recipe's real command line: every remedy trains, what was chosen is kept, runs go on."""

from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml
from tiny_images import CLASSES
from tiny_runs import Outcome, assert_refused, call, rows

from dlrecipes.cli.options.remedies import FEATURES, REMEDIES
from dlrecipes.tasks import ClassificationTask, RegressionTask

# what differs from another one by the name of its loss or sampler alone is trained by the slow tests
ALIKE = {
    *("class_balanced", "balanced_softmax", "seesaw", "label_aware_smoothing", "distribution_balanced"),
    *("class_sampler", "sqrt_sampler", "progressive_sampler"),
}
EACH = [
    pytest.param(
        name, kind, id=f"{name}-{kind}", marks=[pytest.mark.slow] if number or name in ALIKE else [],
    )
    for name, remedy in REMEDIES.items()
    for number, kind in enumerate(remedy.options)
]  # fmt: skip
STEPS = ["--trainer.limit_train_batches", 2, "--trainer.limit_val_batches", 1, "--trainer.limit_test_batches", 1]


@pytest.fixture(scope="module")
def data(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One label: 8, 3 and 1 training images; several labels; numbers; numbers of which the large ones are rare."""
    folder = tmp_path_factory.mktemp("data")
    tail, skewed = shutil.copytree(photos, folder / "tail"), folder / "skewed.csv"
    for name, count in zip(CLASSES, (8, 3, 1), strict=True):
        for image in sorted((tail / "train" / name).iterdir())[count:]:
            image.unlink()
    with skewed.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("image", "split", "size"))
        values = np.random.default_rng(0).permutation(np.geomspace(1, 500, 51))
        for path, value in zip(sorted(photos.glob("*/*/*.png")), values, strict=True):
            table.writerow([path, path.parts[-3], round(float(value), 3)])
    return {
        "classification": tail,
        "balanced": photos,
        "multilabel": photos.with_name("tags.csv"),
        "regression": photos.with_name("sizes.csv"),
        "skewed": skewed,
    }


@pytest.fixture(scope="module")
def plain(mixer: ModuleType) -> Iterator[ModuleType]:
    """The recipe without its pictures, which take most of the time of a run of two steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixer, "MIXER", replace(mixer.MIXER, pictures=()))
        patch.setattr("dlrecipes.cli.recipe.training.CurvesPicture", lambda *args: pl.Callback())
        yield mixer


def run(recipe: ModuleType, configs: Path, data: Path, output: Path, *options: object, epochs: int = 1) -> Outcome:
    argv = ["--config", configs / "mixer.yaml", "--data", data, "--output", output, "--epochs", epochs, *options]
    return call(recipe.main, *argv)


def config_of(output: Path, name: str = "mixer-001") -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((output / name / "config.yaml").read_text())
    return config


def value_of(config: dict[str, Any], option: str) -> Any:
    """What a run's config says for an option; of a part, its class."""
    value: Any = config
    for key in option.removeprefix("--").split("."):
        value = value.get("init_args", value)[key]
    return value["class_path"] if isinstance(value, dict) else value


@pytest.mark.parametrize(("name", "kind"), EACH)
def test_every_remedy_trains(
    name: str, kind: str, plain: ModuleType, configs: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    outcome = run(plain, configs, data[kind], tmp_path, "--imbalance", name, *STEPS)
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    assert f"Imbalance: {name}, {REMEDIES[name].what}." in outcome.out
    config = config_of(tmp_path)
    assert config["imbalance"] == name
    for option, value in REMEDIES[name].options[kind].items():
        found = value_of(config, option)
        assert found == (16 if value == FEATURES else yaml.safe_load(value)) or str(found).endswith(
            value.split(".")[-1]
        )
    trained = [float(row["train/loss_step"]) for row in rows(tmp_path / "mixer-001") if row["train/loss_step"]]
    assert len(trained) == 2
    assert all(map(math.isfinite, trained))
    assert ("classes are weighted by" in outcome.out) == (REMEDIES[name].callback != "")


def test_auto_says_what_it_picks_and_why(
    plain: ModuleType, configs: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    outcome = run(plain, configs, data["classification"], tmp_path, "--imbalance", "auto", *STEPS)
    assert outcome.code == 0, outcome.err
    why = "the most frequent class has 8 times the images of the rarest (8 and 1)"
    assert f"Imbalance: class_weights, since {why}" in outcome.out
    config = config_of(tmp_path)
    assert config["imbalance"] == "class_weights"
    assert value_of(config, "--model.loss.class_weights") == "inverse"


def test_auto_weighs_rare_numbers_in_training_only(
    plain: ModuleType, configs: Path, data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[bool, list[Any]] = {True: [], False: []}
    step = RegressionTask.step

    def recording(self: RegressionTask, batch: Any) -> Any:
        seen[self.training].append(batch["weights"])
        return step(self, batch)

    monkeypatch.setattr(RegressionTask, "step", recording)
    outcome = run(plain, configs, data["skewed"], tmp_path, "--imbalance", "auto", *STEPS)
    assert outcome.code == 0, outcome.err
    assert "Imbalance: lds, since the targets are skewed" in outcome.out
    assert outcome.out.count("Data: ") == 1  # read once, though drawn otherwise than they were asked for first
    config = config_of(tmp_path)
    assert (config["imbalance"], value_of(config, "--data.density_weights")) == ("lds", "sqrt_inverse")
    assert [bool(weights.std() > 0.1) for weights in seen[True]] == [True, True]
    assert set(seen[False]) == {None}


def test_a_run_with_late_weights_goes_on_within_an_epoch(
    plain: ModuleType, configs: Path, data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--imbalance", "mixup_drw", "--batch-size", 4, "--checkpoint-every-n-steps", 1]
    assert run(plain, configs, data["classification"], tmp_path, *options, epochs=2).code == 0
    step = ClassificationTask.training_step

    def power_cut(self: ClassificationTask, batch: Any, batch_idx: int) -> Any:
        if self.trainer.global_step == 5:
            raise RuntimeError("power cut")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(ClassificationTask, "training_step", power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            run(plain, configs, data["classification"], tmp_path, *options, epochs=2)
    refused = call(plain.main, "--resume", tmp_path / "mixer-002", "--imbalance", "drs")
    assert_refused(refused, "--imbalance drs: a run goes on with the remedy that it began with")
    outcome = call(plain.main, "--resume", tmp_path / "mixer-002")
    assert outcome.code == 0, outcome.err
    assert "Imbalance:" not in outcome.out
    first, second = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("mixer-001", "mixer-002")
    )
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert config_of(tmp_path, "mixer-002") == config_of(tmp_path)


def test_the_table_of_remedies_is_shown(efficientnet: ModuleType, mixer: ModuleType) -> None:
    for recipe in (efficientnet, mixer):
        outcome = call(recipe.main, "--imbalance", "list")
        assert outcome.code == 0
        for name, remedy in REMEDIES.items():
            assert f"\n{name}  ({', '.join(remedy.options)})\n" in outcome.out
        assert max(map(len, outcome.out.splitlines())) <= 120


def test_the_digits_take_a_remedy_by_their_counts_unless_asked(efficientnet: ModuleType, tmp_path: Path) -> None:
    limits = ["--epochs", 1, "--wandb", "off"]
    limits += [word for split in ("train", "val", "test") for word in (f"--trainer.limit_{split}_batches", 1)]
    outcome = call(efficientnet.main, *limits, "--output", tmp_path)
    assert outcome.code == 0, outcome.err
    assert "Imbalance: class_weights, since the most frequent class has 21 times" in outcome.out
    config = config_of(tmp_path, "efficientnet-001")
    assert config["model"]["init_args"]["loss"]["init_args"]["class_weights"] == "inverse"
    plain = call(efficientnet.main, "--imbalance", "none", "--print_config")
    values = yaml.safe_load(plain.out)
    assert values["imbalance"] == "none"
    assert values["model"]["init_args"]["loss"]["init_args"]["class_weights"] is None


def test_detection_has_no_such_option(recipe: ModuleType, tmp_path: Path) -> None:
    assert_refused(call(recipe.main, "--imbalance", "drw", "--output", tmp_path), "There is no option --imbalance.")
