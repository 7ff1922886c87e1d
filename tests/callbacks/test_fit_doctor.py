"""The doctor on small real trainings, ill and healthy: the short form of benchmarks/fit_doctor.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dlrecipes.callbacks import FitDoctor
from dlrecipes.cli.commands import main
from dlrecipes.errors import NonFiniteError


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "fit_doctor.py"
    spec = importlib.util.spec_from_file_location("fit_doctor_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)  # scripts there import each other by bare name
        spec.loader.exec_module(module)
    return module


SHORT: list[dict[str, Any]] = [
    {"illness": "healthy", "train": 400, "val": 200, "lr": 5e-3, "schedule": "cosine", "epochs": 15},
    {"illness": "healthy", "train": 400, "val": 200, "lr": 5e-3, "schedule": "cosine", "epochs": 14, "mixup": 0.3},
    {"illness": "over_fitting", "train": 80, "pixels": 0.3, "width": 128, "lr": 5e-3, "decay": 0.0, "epochs": 30},
    {"illness": "lr_too_high", "train": 300, "val": 200, "lr": 0.5, "epochs": 10},
    {"illness": "lr_too_low", "train": 300, "val": 200, "lr": 1e-5, "epochs": 12},
    {"illness": "unfinished", "train": 300, "val": 200, "epochs": 6},
    {"illness": "diverged", "data": "diabetes", "depth": 0, "sgd": True, "lr": 1.0, "epochs": 12},
]


@pytest.mark.parametrize("setting", SHORT, ids=lambda setting: setting["illness"])
def test_trainings_made_ill(setting: dict[str, Any], benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    doctor = benchmark.train(benchmark.Setting(**setting), seed=3)
    assert benchmark.diagnosis(doctor) == setting["illness"]
    out = capsys.readouterr().out
    if setting["illness"] == "healthy":
        assert out == ""
        assert [(verdict.title, verdict.level) for verdict in doctor.verdicts] == [("healthy", "ok")]
    else:
        title = benchmark.TITLES[setting["illness"]]
        assert out.count(f"fit doctor: {title}:") == 1  # once, however long it holds


def test_the_benchmark_keeps_its_settings_apart(benchmark: ModuleType) -> None:
    tuned, held_out = benchmark.tuned(), benchmark.held_out()
    assert not set(tuned) & set(held_out)
    assert {s.illness for s in held_out} == {s.illness for s in tuned} == {*benchmark.TITLES, "healthy"}


class Given(pl.LightningModule):
    """Logs the curves that it is given."""

    monitor, monitor_mode = "val/f1", "max"

    def __init__(self, **curves: list[float]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.curves = {name.replace("_", "/", 1): values for name, values in curves.items()}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self._log("train/")
        return self.weight + 2.0

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._log("val/")

    def _log(self, split: str) -> None:
        for name, values in self.curves.items():
            if name.startswith(split):
                self.log(name, values[self.current_epoch], on_step=False, on_epoch=True, batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


EPOCHS = 20
OVER = {
    "train_loss": [2.0 * 0.7**e for e in range(EPOCHS)],
    "val_loss": [1.0 + abs(e - 5) * 0.1 for e in range(EPOCHS)],
    "val_f1": [min(e, 3) / 6 for e in range(EPOCHS)],
}


def fit(module: Given, doctor: FitDoctor, *more: pl.Callback, **options: Any) -> pl.Trainer:
    checkpoint = options.pop("ckpt_path", None)
    trainer = pl.Trainer(
        **{"max_epochs": EPOCHS, **options}, accelerator="cpu", callbacks=[doctor, *more], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=1,
    )  # fmt: skip
    loader = DataLoader([0.0])
    trainer.fit(module, loader, loader, ckpt_path=checkpoint, weights_only=True)
    return trainer


class Marks(pl.Callback):
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        print(f"epoch {trainer.current_epoch + 1}")


def test_a_grave_finding_is_said_while_the_run_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    doctor = FitDoctor(patience=3)
    fit(Given(**OVER), doctor, Marks())
    lines = capsys.readouterr().out.splitlines()
    said = [line.split()[-1] for line in lines[: next(i for i, line in enumerate(lines) if "over-fitting" in line)]]
    # the smoothed loss is 15 % above its lowest (1.1) from epoch 10 on, whose mean with the one before is 1.35
    assert said[-1] == "12"
    assert sum("over-fitting" in line for line in lines) == 1
    assert "lowest in epoch 6" in doctor.verdicts[0].evidence
    assert len(doctor.verdicts) == 1


def test_rows_hold_what_was_measured_and_when() -> None:
    doctor = FitDoctor()
    fit(Given(**OVER), doctor, max_epochs=4, check_val_every_n_epoch=2)
    assert [sorted(row) for row in doctor.rows] == [
        ["epoch", "lr", "step", "train/loss", "train/loss_step"],
        ["epoch", "lr", "train/loss", "val/f1", "val/loss"],
        ["epoch", "lr", "train/loss"],
        ["epoch", "lr", "train/loss", "val/f1", "val/loss"],
    ]
    assert (doctor.rows[0]["step"], doctor.rows[0]["train/loss_step"]) == (0.0, 2.0)
    assert doctor.rows[3]["val/loss"] == pytest.approx(OVER["val_loss"][3])
    assert doctor.verdicts == []  # too little to judge


def test_a_resumed_run_is_judged_as_a_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, first, second = FitDoctor(), FitDoctor(), FitDoctor()
    fit(Given(**OVER), whole)
    fit(Given(**OVER), first, max_epochs=12).save_checkpoint(tmp_path / "half.ckpt")
    capsys.readouterr()
    fit(Given(**OVER), second, ckpt_path=tmp_path / "half.ckpt")
    assert second.rows == whole.rows
    assert second.verdicts == whole.verdicts
    assert capsys.readouterr().out == ""  # it was said before


def test_one_doctor_for_several_trainings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    doctor, fresh = FitDoctor(), FitDoctor()
    well = {**OVER, "val_loss": [0.1 + 0.7**e for e in range(EPOCHS)], "val_f1": [0.9] * EPOCHS}
    fit(Given(**OVER), doctor).save_checkpoint(tmp_path / "ill.ckpt")
    assert [verdict.title for verdict in doctor.verdicts] == ["over-fitting"]
    fit(Given(**well), doctor)
    fit(Given(**well), fresh)
    assert (doctor.rows, doctor.verdicts) == (fresh.rows, fresh.verdicts)
    assert [verdict.title for verdict in doctor.verdicts] == ["healthy"]
    capsys.readouterr()
    fit(Given(**OVER), doctor)
    assert capsys.readouterr().out.count("over-fitting") == 1  # said again of another training
    fit(Given(**well), doctor)
    longer = {name: values + values[-1:] for name, values in OVER.items()}
    fit(Given(**longer), doctor, max_epochs=EPOCHS + 1, ckpt_path=tmp_path / "ill.ckpt")  # a resume keeps its record
    assert len(doctor.rows) == EPOCHS + 1
    assert [verdict.title for verdict in doctor.verdicts] == ["over-fitting"]


def test_an_accumulated_loss_is_not_taken_for_a_small_one() -> None:
    doctor = FitDoctor()
    fit(Given(**OVER), doctor, max_epochs=1, accumulate_grad_batches=4)
    assert doctor.rows[0]["train/loss_step"] == 2.0


def test_a_nan_that_stops_the_run_is_a_verdict() -> None:
    class Stops(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            raise NonFiniteError("Training stopped at step 1: the loss is nan.")

    doctor = FitDoctor()
    with pytest.raises(NonFiniteError):
        fit(Given(**OVER), doctor, Stops())
    assert [(verdict.title, verdict.level) for verdict in doctor.verdicts] == [("diverged", "warning")]


def test_a_module_that_logs_nothing_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    doctor = FitDoctor()
    fit(Given(), doctor)
    assert (doctor.verdicts, capsys.readouterr().out) == ([], "")


class Tutorial(Given):
    """Names its metrics as Lightning's tutorials do, and no score."""

    monitor = monitor_mode = None

    def _log(self, split: str) -> None:
        for name, values in self.curves.items():
            if name.startswith(split):
                spelled = name.replace("/", "_").replace("f1", "acc")
                self.log(spelled, values[self.current_epoch], on_step=split == "train/", on_epoch=True, batch_size=1)


def test_names_with_underscores_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    doctor, ours = FitDoctor(), FitDoctor()
    fit(Tutorial(**OVER), doctor)
    fit(Given(**OVER), ours)
    assert [verdict.title for verdict in doctor.verdicts] == ["over-fitting"]
    assert doctor.verdicts == ours.verdicts
    assert doctor.rows[3]["val/accuracy"] == pytest.approx(OVER["val_f1"][3])
    capsys.readouterr()
    names = {"train/loss": "train_loss_epoch", "val/loss": "valid_loss", "val/f1": "val_acc"}
    text = write_csv(tmp_path / "m.csv", **OVER).read_text()
    for name, spelled in names.items():
        text = text.replace(name, spelled)
    (tmp_path / "m.csv").write_text(text)
    assert main(["doctor", str(tmp_path / "m.csv")]) == 0
    out = capsys.readouterr().out
    assert "20 epochs, 20 validated, judged by val/accuracy" in out
    assert "over-fitting: The validation loss was lowest in epoch 6" in out
    assert main(["doctor", str(tmp_path / "m.csv"), "--monitor", "val_acc"]) == 0


def test_patience_is_checked() -> None:
    with pytest.raises(ValueError, match="patience must be at least 1, got 0"):
        FitDoctor(patience=0)


def write_csv(path: Path, **curves: list[float]) -> Path:
    names = {name: name.replace("_", "/", 1) for name in curves}
    lines = [",".join(["step", "epoch", *names.values()])]
    lines += [",".join([str(e), str(e), *(repr(curves[name][e]) for name in names)]) for e in range(EPOCHS)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_command_reads_a_run_folder_or_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(tmp_path / "metrics.csv", **OVER)
    assert main(["doctor", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "20 epochs, 20 validated, judged by val/f1" in out
    assert "warning: fit doctor: over-fitting: The validation loss was lowest in epoch 6" in out
    assert main(["doctor", str(tmp_path / "metrics.csv"), "--all"]) == 0
    assert "over-confident" in capsys.readouterr().out
    well = {"train_loss": OVER["train_loss"], "val_loss": [0.1 + 0.7**e for e in range(EPOCHS)]}
    assert main(["doctor", str(write_csv(tmp_path / "well.csv", **well))]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "ok: none of the illnesses that curves tell."


def test_the_command_takes_the_first_steps_loss_from_the_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It rose to 3 in the second epoch: above the first step's 2, below the 3.5 of the step that was logged first."""
    doctor = FitDoctor()
    losses = {"train_loss": [2.1, 3.0, *[1.0] * (EPOCHS - 2)], "val_loss": [1.0] * EPOCHS}
    fit(Given(**losses), doctor).save_checkpoint(tmp_path / "last.ckpt")
    write_csv(tmp_path / "metrics.csv", **losses, train_loss_step=[3.5, *[1.0] * (EPOCHS - 1)])
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    capsys.readouterr()
    (tmp_path / "metrics.csv").write_text("\n".join([lines[0], "9" + lines[1][1:], *lines[2:]]) + "\n")
    assert main(["doctor", str(tmp_path)]) == 0
    assert "learning rate too high" not in capsys.readouterr().out
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "last.ckpt").rename(tmp_path / "checkpoints" / "last.ckpt")
    assert main(["doctor", str(tmp_path)]) == 0
    assert "learning rate too high: The training loss rose from 2 at the start to 3 in" in capsys.readouterr().out


@pytest.mark.parametrize("left_out", [(0,), (0, 1)], ids=["no step", "no step, no epoch"])
def test_the_command_reads_a_csv_of_epochs(
    left_out: tuple[int, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [line.split(",") for line in write_csv(tmp_path / "m.csv", **OVER).read_text().splitlines()]
    kept = [",".join(cell for place, cell in enumerate(line) if place not in left_out) for line in lines]
    (tmp_path / "m.csv").write_text("\n".join(kept) + "\n")
    assert main(["doctor", str(tmp_path / "m.csv")]) == 0
    out = capsys.readouterr().out
    assert "20 epochs, 20 validated, judged by val/f1" in out
    assert "over-fitting: The validation loss was lowest in epoch 6" in out


def test_a_direction_that_the_name_does_not_tell_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The share of wrong labels falls while the loss rises: less of it is better."""
    falls = [0.5 - 0.02 * e for e in range(EPOCHS)]
    ask = ["doctor", str(write_csv(tmp_path / "m.csv", **{**OVER, "val_hamming": falls})), "--monitor", "val/hamming"]
    assert main(ask) == 2
    assert capsys.readouterr().err == (
        "error: 'val/hamming' does not tell whether more or less of it is better: give the mode, --mode max or "
        "--mode min.\n"
    )
    assert main([*ask, "--mode", "min"]) == 0
    assert "over-confident" in capsys.readouterr().out
    assert main([*ask, "--mode", "max"]) == 0
    assert "over-fitting" in capsys.readouterr().out


def test_a_module_that_does_not_tell_the_direction_trains_on() -> None:
    module, doctor = Given(**{**OVER, "val_hamming": OVER["val_f1"]}), FitDoctor()
    module.monitor, module.monitor_mode = "val/hamming", None
    fit(module, doctor, max_epochs=10)
    assert len(doctor.rows) == 10
    assert doctor.curves(module).score_name == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "'nowhere' does not exist: give a run folder, or the metrics.csv in it."),
        (["m.csv", "--monitor", "val/map"], "'m.csv' has no val/map: choose one of val/f1, val/loss."),
        (["empty.csv"], "'empty.csv' holds no epoch with train/loss: train for an epoch first."),
    ],
)
def test_what_cannot_be_judged(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "m.csv", **OVER)
    write_csv(tmp_path / "empty.csv", val_loss=OVER["val_loss"])
    assert main(["doctor", *arguments]) == 2
    assert capsys.readouterr().err == f"error: {words}\n"
