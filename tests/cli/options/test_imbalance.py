"""``--imbalance``: which options follow from it, and which go before it; without a training step."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import nn

from dlrecipes.callbacks import DeferredReweighting
from dlrecipes.cli import Option, Recipe, TaskChoice
from dlrecipes.cli.options.arguments import read_arguments
from dlrecipes.cli.options.kinds import read_options
from dlrecipes.cli.options.parser import RecipeCLI
from dlrecipes.cli.options.remedies import KINDS, REMEDIES
from dlrecipes.contracts import DataInfo
from dlrecipes.errors import UserError
from dlrecipes.parts import import_object

NAME = "my_project_of_remedies"

CODE = """
import numpy as np
from lightning.pytorch import LightningDataModule
from torch import nn

from dlrecipes.contracts import DataInfo


class Data(LightningDataModule):
    reads, reused = 0, 0

    def __init__(
        self,
        kind: str = "classification",
        counts: tuple[int, ...] = (9, 3, 1),
        targets: int = 1,
        sampler: str | None = None,
        sampler_start: float = 0,
        mix: str = "none",
        mix_alpha: float | None = None,
        mix_prob: float = 0.3,
        density_weights: str | None = None,
        hidden: bool = False,
    ) -> None:
        super().__init__()
        self.kind, self.counts, self.targets, self.hidden = kind, counts, targets, hidden
        self.sampler, self.mix, self.density_weights = sampler, mix, density_weights
        self.read = False

    def prepare_data(self) -> None:
        Data.reads += not self.read
        numbers = self.kind == "regression"
        self.train_split = None if self.hidden else "train"
        self.info = DataInfo(
            task=self.kind,
            classes=() if numbers else tuple("abcdefgh"[: len(self.counts)]),
            category_ids=(),
            class_counts=() if numbers else tuple(self.counts),
            num_train=sum(self.counts),
            max_objects=0,
            image_size=8,
            target_names=tuple("xyz"[: self.targets]) if numbers else (),
        )

    def reuse(self, other) -> None:
        Data.reused += 1
        self.read = True

    def table(self, split):
        return type("Table", (), {"targets": np.random.default_rng(0).exponential(size=(99, self.targets))})


class Unmixed(Data):
    def __init__(self, kind: str = "classification", sampler: str | None = None) -> None:
        super().__init__(kind, sampler=sampler)


class Net(nn.Module):
    def __init__(self, head: str = "linear", width: int = 5) -> None:
        super().__init__()
        self.head, self.last = head, nn.Linear(width, 3)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(7, 3)
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recipe]:
    (tmp_path / f"{NAME}.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "configs").mkdir()
    preset = tmp_path / "configs" / "toy.yaml"
    preset.write_text("model: {lr: 0.5, loss: {class_path: dlrecipes.losses.LogitAdjustedLoss}}\n")
    model, losses = f"{NAME}.Net", "dlrecipes.losses"
    yield Recipe(
        task="dlrecipes.tasks.ClassificationTask",
        data=f"{NAME}.Data",
        parts={"model": model, "loss": f"{losses}.CrossEntropyLoss"},
        by_data={
            "multilabel": TaskChoice(
                task="dlrecipes.tasks.ClassificationTask", parts={"model": model, "loss": f"{losses}.BCELoss"}
            ),
            "regression": TaskChoice(
                task="dlrecipes.tasks.RegressionTask", parts={"model": model, "loss": f"{losses}.SmoothL1Loss"}
            ),
        },
        links={},
        pictures=(),
        preset=preset,
        name="toy",
        description="",
        data_help="",
        options={"--imbalance": Option("--imbalance", ""), "--loss": Option("--model.loss", "")},
    )
    sys.modules.pop(NAME, None)


def read(recipe: Recipe, *argv: str) -> RecipeCLI:
    aliases = {flag: option.target for flag, option in recipe.options.items()}
    return read_options(recipe, read_arguments(argv, recipe.preset, aliases=aliases))


def loss_of(cli: RecipeCLI) -> str:
    task: Any = cli.model
    return type(task.loss).__name__


def callbacks_of(cli: RecipeCLI) -> list[Any]:
    return cli.config_init["trainer"]["callbacks"] or []


def test_nothing_asked_nothing_changed(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    cli = read(recipe)
    assert loss_of(cli) == "LogitAdjustedLoss"
    assert cli.config["imbalance"] is None
    assert "Imbalance" not in capsys.readouterr().out


def test_a_remedy_takes_the_place_of_the_presets(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    """A sampler beside the loss of the preset would balance twice."""
    cli = read(recipe, "--imbalance", "drs")
    assert loss_of(cli) == "CrossEntropyLoss"
    assert cli.datamodule.sampler == "class"
    assert cli.config["data.init_args.sampler_start"] == 0.8
    assert type(cli.datamodule).reads == 1
    assert capsys.readouterr().out == "Imbalance: drs, classes are drawn equally often from 80 % of the epochs on.\n"


def test_the_kind_of_data_decides_what_a_remedy_is(recipe: Recipe) -> None:
    assert loss_of(read(recipe, "--imbalance", "focal")) == "FocalLoss"
    assert loss_of(read(recipe, "--imbalance", "focal", "--data.kind", "multilabel")) == "SigmoidFocalLoss"
    cli = read(recipe, "--imbalance", "lds", "--data.kind", "regression")
    assert (loss_of(cli), cli.datamodule.density_weights) == ("SmoothL1Loss", "sqrt_inverse")
    assert type(cli.datamodule).reads == 3


def test_what_is_typed_goes_before_the_remedy(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    task: Any = read(recipe, "--imbalance", "focal", "--model.loss.gamma", "5").model
    assert task.loss.gamma == 5
    cli = read(recipe, "--imbalance", "class_weights", "--loss", "dlrecipes.losses.Poly1Loss")
    assert loss_of(cli) == "Poly1Loss"
    assert capsys.readouterr().out.endswith(" Kept as you gave it: --loss.\n")
    cli = read(recipe, "--imbalance", "mixup_drw", "--data.mix_alpha", "0.4")
    assert cli.datamodule.mix == "mixup"
    assert cli.config["data.init_args.mix_alpha"] == 0.4


def test_a_config_of_the_users_goes_before_a_remedy_in_it_and_behind_a_typed_one(
    recipe: Recipe, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("imbalance: class_weights\nmodel: {loss: {effective_beta: 0.5}}\n")
    task: Any = read(recipe, "--config", "toy", "--config", str(file)).model
    assert (task.loss.class_weights, task.loss.effective_beta) == ("inverse", 0.5)
    file.write_text("imbalance: class_weights\nmodel: {loss: {class_path: dlrecipes.losses.Poly1Loss}}\n")
    assert loss_of(read(recipe, "--config", str(file))) == "Poly1Loss"
    assert loss_of(read(recipe, "--config", str(file), "--imbalance", "seesaw")) == "SeesawLoss"


def test_the_config_of_a_run_makes_the_same_run(recipe: Recipe, tmp_path: Path) -> None:
    first, file = read(recipe, "--imbalance", "ldam_drw"), tmp_path / "config.yaml"
    file.write_text(first.dump())
    again = read(recipe, "--config", str(file))
    assert again.dump() == first.dump()
    assert [type(callback) for callback in callbacks_of(again)] == [DeferredReweighting]


def test_printed_settings_do_not_know_the_network_and_need_not(recipe: Recipe, tmp_path: Path) -> None:
    """``--print_config`` ends before the network is there: features of length 1, and a linear classifier."""
    file = tmp_path / "mine.yaml"
    part = "{class_path: dlrecipes.imbalance.FeatureSMOTE, init_args: {dim: 1}}"
    file.write_text(f"imbalance: feature_smote\nmodel: {{feature_part: {part}}}\n")
    task: Any = read(recipe, "--config", str(file)).model
    assert task.feature_part.dim == 5
    file.write_text("imbalance: ldam_drw\nmodel: {model: {head: linear}}\n")
    task = read(recipe, "--config", "toy", "--config", str(file)).model
    assert task.model.head == "cosine"


def test_deferred_weights_of_the_users_own_are_kept(recipe: Recipe, tmp_path: Path) -> None:
    (callback,) = callbacks_of(read(recipe, "--imbalance", "drw"))
    assert callback.share == 0.8
    file = tmp_path / "mine.yaml"
    own = "{class_path: dlrecipes.callbacks.DeferredReweighting, init_args: {share: 0.5}}"
    file.write_text(f"trainer: {{callbacks: [{own}]}}\n")
    (callback,) = callbacks_of(read(recipe, "--config", str(file), "--imbalance", "drw"))
    assert callback.share == 0.5


def test_what_depends_on_the_network(recipe: Recipe) -> None:
    task: Any = read(recipe, "--imbalance", "feature_smote", "--model.feature_part.ratio", "1.5").model
    assert (task.feature_part.dim, task.feature_part.ratio) == (5, 1.5)
    task = read(recipe, "--imbalance", "feature_smote", "--model.model", f"{NAME}.Plain").model
    assert task.feature_part.dim == 7
    task = read(recipe, "--imbalance", "ldam_drw").model
    assert task.model.head == "cosine"
    with pytest.raises(UserError, match="needs a classifier of cosines, and Plain takes no head: take drw"):
        read(recipe, "--imbalance", "ldam_drw", "--model.model", f"{NAME}.Plain")


@pytest.mark.parametrize(
    ("argv", "name", "loss"),
    [
        (("--data.counts", "[9, 9, 8]"), "none", "CrossEntropyLoss"),
        (("--data.counts", "[90, 40, 20]"), "logit_adjust", "LogitAdjustedLoss"),
        (("--data.kind", "multilabel", "--data.counts", "[990, 9]"), "repeat", "BCELoss"),
        (("--data.kind", "regression"), "lds", "SmoothL1Loss"),
    ],
)
def test_auto_reads_the_data_once_and_keeps_what_it_picks(
    argv: tuple[str, ...], name: str, loss: str, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = read(recipe, "--imbalance", "auto", *argv)
    data = type(cli.datamodule)
    assert (cli.config["imbalance"], loss_of(cli)) == (name, loss)
    assert (data.reads, data.reused) == (1, int(name in ("repeat", "lds")))
    assert capsys.readouterr().out.startswith(f"Imbalance: {name}, since ")
    if name == "repeat":
        assert cli.datamodule.sampler == "repeat"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("logit_adjst",), "--imbalance logit_adjst: there is no such remedy. Did you mean logit_adjust?"),
        (("lds",), "--imbalance lds is for numbers to predict, and this data has one label an image: take auto or one"),
        (("class_sampler", "--data.kind", "regression"), "take auto or one of none, lds, fds, balanced_mse."),
        (("asymmetric",), "--imbalance asymmetric is for several labels an image, and this data has one label"),
        (("fds", "--data.kind", "regression", "--data.targets", "2"), "fds is for one number an image, and this data"),
        (("auto", "--data.kind", "regression", "--data.hidden", "true"), "Data does not show them: name a remedy"),
        (("remix", "--model.loss.gama", "2"), "There is no option --model.loss.gama"),
    ],
)
def test_refused_in_one_sentence(argv: tuple[str, ...], message: str, recipe: Recipe) -> None:
    with pytest.raises(UserError) as caught:
        read(recipe, "--imbalance", *argv)
    assert message in str(caught.value)


def test_a_wrong_name_in_a_config_is_refused_too(recipe: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("imbalance: feature_smot\n")
    with pytest.raises(UserError, match=r"there is no such remedy\. Did you mean feature_smote\?"):
        read(recipe, "--config", str(file))


def test_every_remedy_can_be_had_and_says_what_it_is() -> None:
    for name, remedy in REMEDIES.items():
        assert all((remedy.what, remedy.when, remedy.hurts, remedy.without)), name
        assert set(remedy.options) <= set(KINDS), name
        for options in remedy.options.values():
            for value in options.values():
                if value.startswith("dlrecipes."):
                    assert issubclass(import_object(value), nn.Module)
        if remedy.callback:
            assert import_object(remedy.callback) is DeferredReweighting


COUNTS = DataInfo(
    task="classification",
    classes=("a", "b", "c"),
    category_ids=(),
    class_counts=(900, 90, 10),
    num_train=1000,
    max_objects=0,
    image_size=8,
)
CONFIGS = Path(__file__).parents[3] / "recipes" / "configs"
EXCLUDED: dict[str, Callable[[Any, Any], bool]] = {
    "label smoothing": lambda loss, data: getattr(loss, "label_smoothing", 0) == 0,
    "mixed labels": lambda loss, data: data.mix == "none",
    "mixup": lambda loss, data: data.mix == "none",
    "weights": lambda loss, data: getattr(loss, "class_weights", None) is None,
    "sampler": lambda loss, data: data.sampler is None,
}
PLAIN_LOSS = {"classification": "CrossEntropyLoss", "multilabel": "BCELoss", "regression": "SmoothL1Loss"}


@pytest.fixture
def smoothed(recipe: Recipe) -> Recipe:
    """What the image presets give the plain loss, and how they mix labels, all in one preset."""
    loss: dict[str, Any] = {}
    mixes = set()
    presets = [path for family in ("efficientnet", "mixer") for path in CONFIGS.glob(f"{family}*.yaml")]
    for path in presets:
        config = yaml.safe_load(path.read_text())
        arguments = config["model"].get("loss", {})
        loss |= {} if "class_path" in arguments else arguments
        mixes.add(config["data"].get("mix", "none"))
        assert not {"sampler", "density_weights"} & set(config["data"])
    assert loss["label_smoothing"] > 0
    assert "cutmix" in mixes
    recipe.preset.write_text(yaml.safe_dump({"model": {"loss": loss}, "data": {"mix": "cutmix"}}))
    return recipe


@pytest.mark.parametrize(
    "argv",
    [
        ("--imbalance", "class_weights"),
        ("--imbalance", "class_balanced"),
        ("--loss", "dlrecipes.losses.ClassBalancedLoss"),
        ("--loss", "ClassBalancedLoss"),
    ],
)
def test_weights_arrive_behind_a_cross_entropy_without(argv: tuple[str, ...], smoothed: Recipe) -> None:
    task: Any = read(smoothed, *argv).model
    task.loss.bind(COUNTS)
    weights = task.loss.balance()
    assert weights[2] > 2 * weights[1] > 4 * weights[0]
    if "--loss" in argv or "class_balanced" in argv:
        assert task.loss.effective_beta == 0.9999


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in REMEDIES for kind in REMEDIES[name].options])
def test_no_remedy_is_without_effect(name: str, kind: str, smoothed: Recipe) -> None:
    """Another loss, weights in the plain one, images drawn or mixed otherwise, a part, or a callback."""
    cli = read(smoothed, "--imbalance", name, "--data.kind", kind)
    task: Any = cli.model
    same_loss = type(task.loss).__name__ == PLAIN_LOSS[kind] and not getattr(task.loss, "class_weights", None)
    drawn = cli.datamodule.sampler or cli.datamodule.density_weights or cli.datamodule.mix not in ("cutmix", "none")
    effect = not same_loss or drawn or task.feature_part or task.auxiliary_loss or callbacks_of(cli)
    assert bool(effect) == (name != "none")
    if "weights" in f"{name} {REMEDIES[name].what}" and hasattr(task.loss, "balance") and not callbacks_of(cli):
        task.loss.bind(replace(COUNTS, task=kind))
        assert task.loss.balance().std() > 0
    for what, is_absent in EXCLUDED.items():
        if what in REMEDIES[name].without:
            assert is_absent(task.loss, cli.datamodule), what


def test_data_that_cannot_mix_need_not_be_told(recipe: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"data: {{class_path: {NAME}.Unmixed}}\n")
    cli = read(recipe, "--config", str(file), "--imbalance", "ldam_drw")
    assert (loss_of(cli), type(cli.datamodule).__name__) == ("LDAMLoss", "Unmixed")
    with pytest.raises(UserError, match=r"There is no option --data\.mix"):
        read(recipe, "--config", str(file), "--imbalance", "mixup_drw")


def test_defaults_of_another_class_are_left_behind_and_what_was_set_is_kept(smoothed: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("model: {loss: {class_path: dlrecipes.losses.ClassBalancedLoss}}\n")
    loss: Any = read(smoothed, "--config", "toy", "--config", str(file), "--imbalance", "drs").model.loss
    assert (type(loss).__name__, loss.class_weights, loss.effective_beta) == ("CrossEntropyLoss", None, 0.999)
    args = "{class_weights: null, effective_beta: 0.5}"
    file.write_text(f"model: {{loss: {{class_path: dlrecipes.losses.ClassBalancedLoss, init_args: {args}}}}}\n")
    loss = read(smoothed, "--config", "toy", "--config", str(file)).model.loss
    assert (loss.class_weights, loss.effective_beta) == (None, 0.5)
    typed = ("--model.loss.effective_beta", "0.999", "--loss", "dlrecipes.losses.ClassBalancedLoss")
    assert read(smoothed, *typed).model.loss.effective_beta == 0.999
    assert read(smoothed, "--loss", "dlrecipes.losses.LogitAdjustedLoss").model.loss.label_smoothing == 0.1
