"""What all tasks share: optimizer and schedule by name, clipping, compiled training that changes nothing else."""

import functools
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn
from toy_images import Net, ToyData, fit, make_trainer

from dlrecipes.errors import UserError
from dlrecipes.tasks import ClassificationTask
from dlrecipes.tasks import compiling as compiling_module
from dlrecipes.tasks.compiling import CompiledNetwork, can_compile, compile_earns_its_time

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*WeightAveraging callback with a model that overrides.*"),
]


def make_task(**changes: Any) -> ClassificationTask:
    torch.manual_seed(0)
    return ClassificationTask(Net(), nn.CrossEntropyLoss(), **({"lr": 0.05} | changes))


class Rates(L.Callback):
    """Learning rates of the steps."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_schedule_with_arguments_and_a_floor(tmp_path: Path) -> None:
    rates = Rates()
    task = make_task(lr=1.0, schedule="step", schedule_args={"milestones": [0.6]}, min_lr_factor=0.5, warmup_steps=2)
    fit(task, tmp_path, ToyData(train=30, batch_size=3), rates)
    assert rates.seen == pytest.approx([0.5] + 6 * [1.0] + 3 * [0.55])


def test_a_warm_up_is_cut_to_a_third_and_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rates = Rates()
    fit(make_task(lr=1.0, schedule="constant", warmup_steps=50), tmp_path, ToyData(train=36, batch_size=3), rates)
    assert rates.seen[1:] == pytest.approx([0.5, 0.75] + 9 * [1.0])
    assert "rises for 4 steps, a third of the run, not 50." in capsys.readouterr().out


class Saves(L.Callback):
    """A checkpoint after so many steps, by itself at the end of a step or with the others at that of the epoch."""

    def __init__(self, file: Path, step: int, hook: str) -> None:
        self.file, self.step = file, step
        setattr(self, hook, self._save)

    def _save(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step and not self.file.exists():
            trainer.save_checkpoint(self.file)


@pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path., callbacks")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize(
    ("batch_size", "steps", "hook"),
    [(3, 8, "on_train_epoch_end"), (8, 3, "on_train_epoch_end"), (4, 6, "on_train_epoch_end"),
     (4, 6, "on_train_batch_end")],
)  # fmt: skip
def test_another_batch_size_goes_on_at_the_same_share_of_the_epochs(
    batch_size: int, steps: int, hook: str, tmp_path: Path
) -> None:
    """Two of four epochs with six steps each, and two with another number of them: the end is still 0."""

    def run(size: int, *callbacks: L.Callback, resume: Path | None = None, **options: Any) -> tuple[Rates, L.Trainer]:
        rates = Rates()
        trainer = make_trainer(tmp_path, rates, *callbacks, epochs=4, **options)
        task = make_task(lr=1.0, schedule="linear", warmup_steps=2)
        trainer.fit(task, datamodule=ToyData(train=24, batch_size=size), ckpt_path=resume, weights_only=True)
        return rates, trainer

    def linear(first: int, total: int) -> list[float]:
        return [1 - (step - 2) / (total - 2) for step in range(first, total)]

    file = tmp_path / "half.ckpt"
    before, _ = run(4, Saves(file, 12, hook))
    assert before.seen == pytest.approx([0.5, 1.0, *linear(2, 24)])
    after, trainer = run(batch_size, resume=file)
    assert after.seen[0] == before.seen[12]  # it is in the optimizer's state
    assert after.seen[1:] == pytest.approx(linear(2 * steps, 4 * steps)[1:])
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0
    if steps == 6:
        assert after.seen == before.seen[12:]  # bitwise
    if steps >= 6:  # else the epochs end before
        by_steps, _ = run(batch_size, resume=file, max_steps=18)
        assert by_steps.seen[1:] == pytest.approx(linear(13, 18))  # counted in steps, whatever an epoch is


def test_accumulated_batches_are_one_step_of_the_schedule(tmp_path: Path) -> None:
    rates = Rates()
    task = make_task(lr=1.0, schedule="linear")
    fit(task, tmp_path, ToyData(train=15, batch_size=3), rates, epochs=2, accumulate_grad_batches=2)
    assert rates.seen[::5] == pytest.approx([1.0, 0.5])
    assert [rate for rate, last in zip(rates.seen, [*rates.seen[1:], 0], strict=True) if rate != last] == pytest.approx(
        [1 - step / 6 for step in range(6)]
    )


def test_a_precision_that_rounds_the_metrics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="precision=bf16-true makes metrics wrong, whose sums are rounded: take bf16-mixed"
    ):
        fit(make_task(), tmp_path, ToyData(), precision="bf16-true")


def test_no_rate_means_the_optimizers_usual_one(tmp_path: Path) -> None:
    trainer = fit(make_task(optimizer="sgd", lr=None, schedule="constant"), tmp_path, ToyData())
    assert {g["lr"] for g in trainer.optimizers[0].param_groups} == {0.1}


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_a_fused_optimizer_clips_under_bfloat16(algorithm: str, tmp_path: Path) -> None:
    seen = []

    class Norms(L.Callback):
        def on_before_zero_grad(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
            grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
            if grads:
                norm, largest = nn.utils.get_total_norm(grads), max(g.abs().max() for g in grads)
                seen.append((norm if algorithm == "norm" else largest).item())

    options = {"precision": "bf16-mixed", "gradient_clip_val": 1e-3, "gradient_clip_algorithm": algorithm}
    trainer = fit(make_task(), tmp_path, ToyData(), Norms(), **options)
    assert trainer.optimizers[0].defaults["fused"] is True
    assert len(seen) > 3
    assert seen == pytest.approx([1e-3] * len(seen), rel=1e-3)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"layer_decay": 1.5}, "layer_decay=1.5"),
        ({"min_lr_factor": -0.1}, "min_lr_factor=-0.1"),
        ({"compile_mode": "off"}, "compile_mode='off': must be one of auto, never, default"),
        ({"backbone_lr": -1.0}, "backbone_lr=-1.0"),
    ],
)
def test_arguments_are_checked(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_task(**args)


def test_arguments_that_a_schedule_does_not_take(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"schedule=cosine with schedule_args={'speed': 2}: .*speed"):
        fit(make_task(schedule_args={"speed": 2}), tmp_path, ToyData())


def test_cuda_graphs_cannot_accumulate_gradients(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="set accumulate_grad_batches to 1, or compile_mode to default"):
        fit(make_task(compile_mode="reduce-overhead"), tmp_path, ToyData(), accumulate_grad_batches=2)


class Pays(Net):
    compile_pays = True


@pytest.mark.parametrize(
    ("network", "device", "steps", "expected"),
    [
        (Pays(), "cuda", 1e6, True),
        (Pays(), "cuda", float("inf"), True),
        (Pays(), "cuda", 10, False),
        (Pays(), "cpu", 1e6, False),
        (Net(), "cuda", 1e6, False),
    ],
)
def test_when_compiling_earns_its_time(
    network: nn.Module, device: str, steps: float, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling_module, "find_spec", lambda name: object())
    monkeypatch.setattr(compiling_module.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert compile_earns_its_time(network, torch.device(device), steps) is expected
    monkeypatch.setattr(compiling_module.shutil, "which", lambda name: None)  # no C compiler
    assert not compile_earns_its_time(network, torch.device(device), steps)


def test_a_mode_that_cannot_be_compiled_trains_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compiling_module.shutil, "which", lambda name: None)  # no compiler
    task = make_task(compile_mode="default")
    fit(task, tmp_path, ToyData(train=6))
    assert not task.compiled
    assert "Not compiled, though compile_mode is default: that needs a C++ compiler" in capsys.readouterr().out


@pytest.mark.parametrize(("device", "compiler"), [("cuda", "gcc"), ("cpu", "g++")])
def test_what_compiling_needs(device: str, compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def can() -> bool:
        return can_compile(torch.device(device))

    monkeypatch.setattr(compiling_module, "find_spec", lambda name: object())
    monkeypatch.setattr(compiling_module.shutil, "which", lambda name: name if name == compiler else None)
    assert can()
    monkeypatch.setattr(compiling_module, "find_spec", lambda name: None)  # no Triton
    assert can() == (device == "cpu")
    monkeypatch.setattr(compiling_module, "find_spec", lambda name: object())
    monkeypatch.setattr(compiling_module.shutil, "which", lambda name: None)
    assert not can()


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """torch.compile without its code generator, which takes a minute; shapes that the compiled form is called with."""
    shapes = []
    compile_ = functools.partial(torch.compile, backend="aot_eager")

    def spy(network: nn.Module, dynamic: bool, mode: str) -> Any:
        compiled = compile_(network, dynamic=dynamic)
        return lambda images: shapes.append(images.shape) or compiled(images)

    monkeypatch.setattr(torch, "compile", spy)
    return shapes


def test_compiled_training_is_the_same_training(traced: list[torch.Size], tmp_path: Path) -> None:
    """With weight averaging, which swaps weights in place for validation, and a smaller last batch."""
    found = {}
    for mode in ("never", "default"):
        task = make_task(compile_mode=mode)
        data = ToyData(train=16, batch_size=6)
        trainer = fit(task, tmp_path, data, EMAWeightAveraging(decay=0.5), epochs=3, accumulate_grad_batches=2)
        assert task.compiled == (mode == "default")
        found[mode] = (task.state_dict(), trainer.callback_metrics)
    (expected, metrics), (weights, others) = found.values()
    assert list(weights) == list(expected)
    for name in expected:
        torch.testing.assert_close(weights[name], expected[name])
    assert others["val/loss"].item() == pytest.approx(metrics["val/loss"].item(), rel=1e-4)
    assert {tuple(shape) for shape in traced} == {(6, 3, 8, 8)}  # not the last batch, and never in validation
    assert len(traced) == 3 * 2


def test_a_compiled_form_keeps_to_its_batch_size(traced: list[torch.Size]) -> None:
    net = Net()
    network = CompiledNetwork(net, "default")
    for size in (4, 4, 2, 4):
        assert network(torch.randn(size, 3, 8, 8)).shape == (size, 1)
    assert [shape[0] for shape in traced] == [4, 4, 4]
