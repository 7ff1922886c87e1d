"""Stages begin when they should, change what they say, resume exactly, and switch batch norm on without a jump."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from toy_fit import ToyLoaders, same_weights

from dlrecipes.callbacks import ExactResume, StagedRecipe
from dlrecipes.callbacks.batch_norm_switch import fresh_norms, held_names
from dlrecipes.callbacks.stage_actions import (
    Augment,
    BatchNorms,
    LabelSmoothing,
    LearningRate,
    StageAction,
    StageRun,
    Train,
    WeightDecay,
)
from dlrecipes.callbacks.stages import Epochs, Reached, Stage
from dlrecipes.errors import UserError

PER_EPOCH = 6  # steps


class Module(pl.LightningModule):
    """Two layers of batch norm, groups with names, a schedule; logs what it is judged by."""

    monitor, monitor_mode = "val/loss", "min"

    def __init__(self, zero_gamma: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2))
        self.inner = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
        self.head = nn.Linear(8, 1)
        self.loss = nn.MSELoss()
        self.rates: list[list[float]] = []
        self.seen: list[Tensor] = []
        if zero_gamma:
            nn.init.zeros_(self.inner[1].weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        out: Tensor = self.head(x + self.inner(x))
        return out

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss: Tensor = self.loss(self(batch["x"]), batch["y"])
        self.log("train/loss", loss.detach(), on_epoch=True, on_step=False, batch_size=2)
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        self.rates.append([group["lr"] for group in self.trainer.optimizers[0].param_groups])
        self.seen.append(torch.cat([p.detach().flatten() for p in self.parameters()]))

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.log("val/loss", self.loss(self(batch["x"]), batch["y"]), batch_size=1)

    def configure_optimizers(self) -> Any:
        groups = [
            {"name": "backbone", "params": [*self.body.parameters(), *self.inner.parameters()], "weight_decay": 0.1},
            {"name": "main", "params": list(self.head.parameters()), "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=0.02)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.99**step)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Loaders(ToyLoaders):
    """Can be switched."""

    def __init__(self) -> None:
        super().__init__(0)
        self.switched: list[tuple[bool | None, bool | None]] = []

    def set_augmentation(self, *, augment: bool | None = None, mix: bool | None = None) -> None:
        self.switched.append((augment, mix))


class SaveAt(pl.Callback):
    def __init__(self, file: Path, step: int) -> None:
        self.file, self.step = file, step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.file)


def fit(
    recipe: StagedRecipe, *more: pl.Callback, module: Module | None = None, data: Any = None, **options: Any
) -> tuple[pl.Trainer, Module]:
    module = module or Module()
    checkpoint = options.pop("ckpt_path", None)
    trainer = pl.Trainer(
        **{"max_epochs": 3, "limit_train_batches": PER_EPOCH, **options},
        accelerator="cpu", callbacks=[ExactResume(0), recipe, *more], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=data or Loaders(), ckpt_path=checkpoint, weights_only=True)
    return trainer, module


def three() -> StagedRecipe:
    return StagedRecipe(
        [
            Stage(
                "learn", Epochs(1), [BatchNorms(on=False, batches=4), Augment(False, False), Train(["body*", "head*"])]
            ),
            Stage("harden", Epochs(1), [BatchNorms(on=True, batches=4), Augment(True, True), Train(["*"])]),
            Stage("adjust", None, [LearningRate(0.1, "backbone"), WeightDecay(0.5), Augment(mix=False)]),
        ]
    )


def test_stages_say_what_they_do_and_what_they_brought(capsys: pytest.CaptureFixture[str]) -> None:
    recipe, data = three(), Loaders()
    fit(recipe, data=data)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == ("Stage 1 of 3, learn: batch norm off; augmentation off, mixing off; only body*, head* learn.")
    assert lines[1].startswith("Stage 2 of 3, harden (1 epoch is over): batch norm on;")
    assert lines[2].startswith("Stage 3 of 3, adjust (1 epoch is over): learning rate x 0.1 of backbone; weight decay")
    assert data.switched == [(False, False), (True, True), (None, False)]
    assert [verdict.title for verdict in recipe.verdicts] == ["stage learn", "stage harden", "stage adjust"]
    ends = [verdict.evidence.split(" to ")[1].split(" in ")[0] for verdict in recipe.verdicts]
    starts = [verdict.evidence.split("from ")[1].split(" to ")[0] for verdict in recipe.verdicts]
    assert starts[1:] == ends[:-1]
    for verdict, start, end in zip(recipe.verdicts, starts, ends, strict=True):
        assert verdict.level == ("ok" if float(end) <= float(start) else "advice")


def test_only_what_should_learn_learns_and_batch_norm_is_the_identity() -> None:
    recipe = StagedRecipe([Stage("one", None, [BatchNorms(on=False), Train(["body*", "head*"])])])
    before = {name: value.clone() for name, value in Module().state_dict().items()}
    _, module = fit(recipe, max_epochs=1)
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"body.0.weight", "body.0.bias", "head.weight", "head.bias"}  # no running statistics, no decay
    assert module.body[1].training is False
    x = torch.randn(5, 8)
    torch.testing.assert_close(module.body[1](x), x, rtol=2e-5, atol=0)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_switching_batch_norm_on_changes_no_output(momentum: float | None) -> None:
    outputs = {}

    class Look(StageAction):
        def __init__(self, name: str) -> None:
            self.name = name

        def apply(self, run: StageRun) -> None:
            self._look(run, "before")

        def begin(self, run: StageRun) -> None:
            self._look(run, "after")

        def _look(self, run: StageRun, when: str) -> None:
            training = {module: module.training for module in run.module.modules()}
            run.module.eval()
            with torch.no_grad():
                outputs[when] = run.module(torch.linspace(-2, 2, 40).reshape(10, 4))
            for module, mode in training.items():
                module.training = mode

    recipe = StagedRecipe(
        [
            Stage("off", Epochs(1), [BatchNorms(on=False)]),
            Stage("on", Epochs(1), [BatchNorms(on=True, batches=7), Look("switch")]),
        ]
    )
    module = Module()
    module.body[1].momentum = module.inner[1].momentum = momentum
    _, module = fit(recipe, module=module, max_epochs=2)
    torch.testing.assert_close(outputs["after"], outputs["before"], rtol=1e-5, atol=1e-6)
    assert module.body[1].running_var.sub(1).abs().max() > 0.1  # and yet it normalises
    assert not torch.equal(module.body[1].weight, torch.ones(8))
    assert fresh_norms(module) == {}


def test_statistics_are_those_of_the_inputs() -> None:
    """Against the inputs that a hook sees in a pass over the same batches."""
    from dlrecipes.callbacks.batch_norm_switch import calibrate

    inputs: list[Tensor] = []

    class Calibrate(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            for layer in pl_module.modules():
                if isinstance(layer, nn.BatchNorm1d | nn.Dropout):
                    layer.eval()
            hook = pl_module.body[1].register_forward_pre_hook(lambda _, x: inputs.append(x[0]))
            loader = trainer.train_dataloader
            first = [loader.dataset[key] for key in list(iter(loader.sampler))[:6]]
            loader.sampler.skip(0)
            with torch.no_grad():
                pl_module(torch.stack([sample["x"] for sample in first]))
            hook.remove()
            assert calibrate(trainer, pl_module, 3) == 2

    class Plain(ToyLoaders):
        def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
            return batch

    module = Module()
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, callbacks=[Calibrate()], logger=False, enable_checkpointing=False, max_steps=1,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False,
    )  # fmt: skip
    seen: dict[str, Tensor] = {}
    module.on_train_batch_start = lambda *_: seen.update(  # type: ignore[method-assign]
        mean=module.body[1].running_mean.clone(), var=module.body[1].running_var.clone()
    )
    trainer.fit(module, datamodule=Plain(0))
    torch.testing.assert_close(seen["mean"], inputs[0].mean(0))
    torch.testing.assert_close(seen["var"], inputs[0].var(0, correction=0))


def test_a_gamma_of_zero_learns_without_batch_norm() -> None:
    assert held_names(Module(zero_gamma=True)) == ["body.1.weight", "body.1.bias"]
    _, module = fit(
        StagedRecipe([Stage("off", None, [BatchNorms(on=False)])]), module=Module(zero_gamma=True), max_epochs=1
    )
    assert module.inner[1].weight.abs().min() > 0
    assert torch.equal(module.body[1].weight, torch.ones(8))


def test_rates_follow_the_schedule_and_the_factor() -> None:
    recipe = StagedRecipe([Stage("a", Epochs(1)), Stage("b", Epochs(1), [LearningRate(0.1, "back*")]),
                           Stage("c", None, [LearningRate(0.5)])])  # fmt: skip
    trainer, module = fit(recipe)
    expected = [
        [
            0.02 * 0.99 ** (t + 1) * {0: 1.0, 1: 0.1, 2: 0.5}[t // PER_EPOCH],
            0.02 * 0.99 ** (t + 1) * (0.5 if t >= 2 * PER_EPOCH else 1),
        ]
        for t in range(3 * PER_EPOCH)
    ]
    found = torch.tensor(module.rates, dtype=torch.float64)
    # a factor is set after the epoch's last step, whose rate is noted before
    torch.testing.assert_close(found[:-1], torch.tensor(expected, dtype=torch.float64)[:-1], rtol=1e-12, atol=0)
    assert trainer.lr_scheduler_configs[0].scheduler.base_lrs == pytest.approx([0.01, 0.01])


def test_weight_decay_changes_where_there_was_some() -> None:
    trainer, _ = fit(
        StagedRecipe([Stage("a", Epochs(1), [WeightDecay(0.0)]), Stage("b", None, [WeightDecay(0.5)])]), max_epochs=2
    )
    assert [group["weight_decay"] for group in trainer.optimizers[0].param_groups] == [0.5, 0.0]


def test_label_smoothing_is_set_on_the_loss() -> None:
    module = Module()
    with pytest.raises(UserError, match="no label_smoothing"):
        fit(StagedRecipe([Stage("a", None, [LabelSmoothing(0.1)])]), module=module)
    module.loss.label_smoothing = 0.0  # type: ignore[assignment]
    fit(StagedRecipe([Stage("a", None, [LabelSmoothing(0.1)])]), module=module, max_epochs=1)
    assert module.loss.label_smoothing == 0.1


def test_a_resume_within_each_stage_is_exact(tmp_path: Path) -> None:
    reference, steps = three(), (2, 9, 14)
    _, whole = fit(reference, *(SaveAt(tmp_path / f"{step}.ckpt", step) for step in steps))
    for step in steps:
        recipe = three()
        _, resumed = fit(recipe, ckpt_path=tmp_path / f"{step}.ckpt")
        assert same_weights(whole, resumed)
        assert resumed.rates == whole.rates[step:]
        assert recipe.verdicts == reference.verdicts


def test_a_condition_ends_the_run_with_the_last_stage() -> None:
    recipe = StagedRecipe([Stage("a", Reached("train/loss", 1e9)), Stage("b", Epochs(2))])
    trainer, _ = fit(recipe, max_epochs=9)
    assert trainer.current_epoch == 3


def test_what_cannot_be_done_is_said_before_the_first_step() -> None:
    for action, words in [
        (Train(["neck*"]), "no parameter is called 'neck\\*': the first ones are body.0.weight"),
        (LearningRate(0.1, "neck"), "no parameter group is called 'neck': there are backbone, main"),
    ]:
        module = Module()
        with pytest.raises(UserError, match=words):
            fit(StagedRecipe([Stage("a", Epochs(1)), Stage("b", None, [action])]), module=module)
        assert not module.seen
    with pytest.raises(UserError, match="waits for val/f1, which is not logged: choose one of train/loss, val/loss"):
        fit(StagedRecipe([Stage("a", Reached("val/f1", 0.5)), Stage("b")]))


def test_data_without_a_switch_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    fit(StagedRecipe([Stage("a", None, [Augment(False)])]), data=ToyLoaders(0), max_epochs=1)
    assert "ToyLoaders has no set_augmentation: the augmentation stays as it is." in capsys.readouterr().out


def test_without_a_datamodule_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    Augment(False).begin(SimpleNamespace(trainer=SimpleNamespace(is_global_zero=True, datamodule=None)))
    assert capsys.readouterr().out.startswith("There is no datamodule with a set_augmentation: the augmentation stays")


def test_the_default_is_one_line() -> None:
    recipe, data = StagedRecipe.default(), Loaders()
    _, module = fit(recipe, data=data, max_epochs=5)
    assert [verdict.title for verdict in recipe.verdicts] == ["stage learn", "stage harden", "stage adjust"]
    assert [int(verdict.evidence.split()[-2]) for verdict in recipe.verdicts] == [1, 3, 1]
    assert data.switched == [(False, False), (True, True), (None, False)]
    assert module.rates[-1][0] == pytest.approx(0.002 * 0.99 ** (5 * PER_EPOCH))
    assert not math.isnan(float(module.body[1].running_mean.sum()))
    plain = [action for stage in StagedRecipe.default(batch_norm=False).stages for action in stage.actions]
    assert not any(isinstance(action, BatchNorms) for action in plain)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: StagedRecipe([]), "stages must be there"),
        (lambda: StagedRecipe([Stage("a", Epochs(1)), Stage("a")]), "names of their own"),
        (lambda: StagedRecipe([Stage("a"), Stage("b")]), "stage 'a' has no condition"),
        (lambda: BatchNorms(True, 0), "batches must be at least 1, got 0"),
        (lambda: Train([]), "names must not be empty"),
        (lambda: LearningRate(0.0), "factor must be above 0"),
        (lambda: WeightDecay(-1.0), "value must not be negative"),
        (lambda: LabelSmoothing(1.0), "value must be at least 0 and below 1"),
    ],
)
def test_arguments_are_checked(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
