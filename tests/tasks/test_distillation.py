"""A student and its teacher: what the teacher adds, what it stays out of, and that a run goes on exactly."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from toy_images import INFO, Net, ToyData, batch, fit, make_trainer

from dlrecipes.checkpoint_io import load_checkpoint_file
from dlrecipes.errors import UserError
from dlrecipes.losses import CrossEntropyLoss, HeadToTailDistillLoss, KDLoss, LDAMLoss
from dlrecipes.tasks import ClassificationTask, DistillationTask, RegressionTask
from dlrecipes.tasks.teachers import EMATeacher, load_teacher, shared_classes


class Renamed(ToyData):
    """The same pictures with other class names, sizes or numbers of classes."""

    def __init__(self, **changes: Any) -> None:
        super().__init__()
        self.info = replace(INFO["classification"], **changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a teacher's run: two classes of its own order, with other frequencies."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("teacher")
    data = Renamed(classes=("cow", "dog", "ant"), class_counts=(70, 20, 10), mean=(0.1, 0.2, 0.3))
    trainer = fit(ClassificationTask(Net(width=9), lr=0.01), folder, data)
    trainer.save_checkpoint(folder / "checkpoints" / "best.ckpt")
    return folder


def _student(**options: Any) -> DistillationTask:
    torch.manual_seed(1)
    return DistillationTask(Net(width=4), **({"lr": 0.01} | options))


def _started(task: DistillationTask, folder: Path, data: L.LightningDataModule | None = None) -> DistillationTask:
    """Fitted for no step, so that teacher and student have met."""
    fit(task, folder, data or ToyData(), epochs=1, limit_train_batches=1, limit_val_batches=0)
    return task.train()


def test_the_loss_is_that_of_the_labels_and_of_the_shared_classes(run: Path, tmp_path: Path) -> None:
    """The teacher knows "cow" and "ant", as its labels 0 and 2, and normalises by its own statistics."""
    task = _started(_student(teacher=str(run), weight=0.3, temperature=2.0), tmp_path)
    samples = batch()
    teacher = ClassificationTask.load_from_checkpoint(run / "checkpoints" / "best.ckpt").eval()
    told = teacher(samples["images"])[:, [2, 0]]
    outputs, loss = task.step(samples)
    plain = CrossEntropyLoss()(outputs, samples["targets"])
    torch.testing.assert_close(loss, plain + 0.3 * KDLoss(2.0)(outputs[:, [0, 2]], told))
    (gradient,) = torch.autograd.grad(task.distillation(outputs, samples), outputs)
    assert gradient[:, 1].abs().max() == 0  # nothing is said of "bee"
    assert gradient[:, 0].abs().max() > 0
    torch.testing.assert_close(gradient.sum(1), torch.zeros(6), atol=1e-7, rtol=0)


def test_cosines_are_taught_and_learnt_as_the_logits_that_their_loss_makes_of_them(tmp_path: Path) -> None:
    """At T = 1 the target is what the teacher predicts; bare cosines would teach almost the same for all classes."""
    teacher = ClassificationTask(Net(), LDAMLoss(scale=20.0), lr=0.01)
    fit(teacher, tmp_path, ToyData(), limit_train_batches=1).save_checkpoint(tmp_path / "cosines.ckpt")
    task = _started(_student(loss=LDAMLoss(), teacher=str(tmp_path / "cosines.ckpt"), temperature=1.0), tmp_path)
    samples = batch()
    assert task._teacher is not None
    told = teacher.predictions(teacher.eval()(samples["images"])).detach()
    torch.testing.assert_close(task._teacher(samples["images"]).softmax(1), told)
    outputs = task(samples["images"])
    expected = nn.functional.kl_div(task.predictions(outputs).log(), told, reduction="batchmean")
    torch.testing.assert_close(task.distillation(outputs, samples), expected)


def test_an_average_of_cosines_teaches_as_the_student_predicts(tmp_path: Path) -> None:
    task = _started(_student(loss=LDAMLoss(), teacher="ema", temperature=1.0), tmp_path)
    samples = batch()
    assert task.ema is not None
    told = task.predictions(task.ema(task.normalise(samples["images"])))
    outputs = task(samples["images"])
    expected = nn.functional.kl_div(task.predictions(outputs).log(), told, reduction="batchmean")
    torch.testing.assert_close(task.distillation(outputs, samples), expected)


def test_evaluation_measures_the_labels_alone(run: Path, tmp_path: Path) -> None:
    task = _started(_student(teacher=str(run)), tmp_path).eval()
    samples = batch()
    outputs, loss = task.step(samples)
    torch.testing.assert_close(loss, CrossEntropyLoss()(outputs, samples["targets"]))


def test_a_student_that_is_its_teacher_learns_nothing_from_it(run: Path, tmp_path: Path) -> None:
    data = Renamed(classes=("cow", "dog", "ant"), mean=(0.1, 0.2, 0.3))
    torch.manual_seed(1)
    task = DistillationTask(
        Net(width=9), lr=0.0, weight_decay=0.0, teacher=str(run), init=str(run / "checkpoints" / "best.ckpt")
    )
    fit(task, tmp_path, data, limit_val_batches=0, limit_train_batches=1)
    task.model.load_state_dict(load_teacher(run).task.model.state_dict())
    task.train()
    task.model.eval()  # the statistics that the teacher uses
    outputs = task(batch()["images"])
    (gradient,) = torch.autograd.grad(task.distillation(outputs, batch()), outputs)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-7, rtol=0)


def test_the_teacher_is_frozen_and_nobody_elses(run: Path, tmp_path: Path) -> None:
    before = load_checkpoint_file(run / "checkpoints" / "best.ckpt")["state_dict"]
    task = _student(teacher=str(run))
    trainer = fit(task, tmp_path, ToyData())
    assert task._teacher is not None
    teacher = task._teacher.task
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    after = teacher.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    trained = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert trained == {id(p) for p in task.model.parameters()}
    trainer.save_checkpoint(tmp_path / "student.ckpt")
    state = load_checkpoint_file(tmp_path / "student.ckpt")["state_dict"]
    assert not any("teacher" in name for name in state)
    assert {name.split(".")[0] for name in state} == {"model"}


def test_the_student_predicts_without_its_teacher(run: Path, tmp_path: Path) -> None:
    task = _student(teacher=str(run), distill=HeadToTailDistillLoss(2.0, trust=1.0))
    trainer = fit(task, tmp_path, ToyData())
    trainer.save_checkpoint(tmp_path / "student.ckpt")
    checkpoint = load_checkpoint_file(tmp_path / "student.ckpt")
    checkpoint["dlrecipes"]["task"]["init_args"]["teacher"] = str(tmp_path / "gone")
    torch.save(checkpoint, tmp_path / "student.ckpt")
    loaded = DistillationTask.load_from_checkpoint(tmp_path / "student.ckpt").eval()
    assert isinstance(loaded.distill, HeadToTailDistillLoss)
    images = batch()["images"]
    torch.testing.assert_close(loaded(images), task.eval()(images))


def test_frequencies_are_those_that_the_teacher_was_trained_with(run: Path, tmp_path: Path) -> None:
    distill = HeadToTailDistillLoss(2.0)
    _started(_student(teacher=str(run), distill=distill), tmp_path)
    assert distill.counts().tolist() == [10.0, 70.0]  # "ant" and "cow"


def test_labels_that_the_teacher_does_not_know_earn_no_trust(run: Path, tmp_path: Path) -> None:
    distill = HeadToTailDistillLoss(2.0, tau=0.0, trust=1.0, reduction="none")
    task = _started(_student(teacher=str(run), distill=HeadToTailDistillLoss(2.0, trust=1.0)), tmp_path)
    task.distill = distill
    samples = batch()  # labels 0, 1, 2, 0, 1, 2
    found = task.distillation(task(samples["images"]), samples)
    assert (found == 0).tolist() == [False, True, False, False, True, False]
    soft = samples | {"targets": nn.functional.one_hot(samples["targets"], 3).float()}
    torch.testing.assert_close(task.distillation(task(samples["images"]), soft), found)


def test_images_are_scaled_to_the_teachers_size(run: Path, tmp_path: Path) -> None:
    trainer = fit(ClassificationTask(Net()), tmp_path, Renamed(image_size=12))
    trainer.save_checkpoint(tmp_path / "large.ckpt")
    teacher = load_teacher(tmp_path / "large.ckpt")
    seen: list[torch.Size] = []
    teacher.task.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    teacher(batch()["images"])
    assert seen == [torch.Size((6, 3, 12, 12))]


def test_a_ramp_and_sample_weights(run: Path, tmp_path: Path) -> None:
    task = _student(teacher=str(run), weight=2.0, rampup_steps=10)
    fit(task, tmp_path, ToyData(weights=True), limit_val_batches=0, limit_train_batches=4)
    assert task._weight_now() == pytest.approx(2.0 * 4 / 10)
    samples = batch(weights=True)
    outputs = task(samples["images"])
    told = load_teacher(run)(samples["images"])[:, [2, 0]]
    expected = KDLoss()(outputs[:, [0, 2]], told, samples["weights"])
    torch.testing.assert_close(task.distillation(outputs, samples), expected)
    task.distill, task._distill_takes = nn.MSELoss(), frozenset({"input", "target"})
    with pytest.raises(UserError, match=r"MSELoss\.forward takes no sample_weight"):
        task.distillation(outputs, samples)


def test_the_mean_teacher_follows_the_student() -> None:
    torch.manual_seed(0)
    student = Net(width=4, outputs=3)
    teacher = EMATeacher(student, decay=0.5)
    expected = {name: p.clone() for name, p in student.named_parameters()}
    for step in range(30):
        for p in student.parameters():
            p.data.add_(torch.randn_like(p))
        teacher.update(student, step)
        d = min(0.5, (1 + step) / (10 + step))
        expected = {name: d * expected[name] + (1 - d) * p for name, p in student.named_parameters()}
    for name, p in teacher.average.named_parameters():
        torch.testing.assert_close(p, expected[name])
    student.norm.running_mean.fill_(7.0)
    teacher.update(student, 30)
    assert (teacher.average.norm.running_mean == 7).all()
    teacher.train()
    images = torch.rand(6, 3, 8, 8)
    torch.testing.assert_close(teacher(images), teacher.average.eval()(images))  # not the statistics of this batch


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty")
def test_a_run_with_a_mean_teacher_goes_on_bit_by_bit(tmp_path: Path) -> None:
    options: dict[str, Any] = {"teacher": "ema", "ema_decay": 0.8, "rampup_steps": 3}

    def each() -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, every_n_epochs=1)

    whole = _student(**options)
    fit(whole, tmp_path, ToyData(), each(), epochs=2, enable_checkpointing=True)
    torch.manual_seed(99)
    resumed = DistillationTask(Net(width=4), lr=0.01, **options)
    trainer = make_trainer(tmp_path, each(), epochs=2, enable_checkpointing=True)
    trainer.fit(resumed, datamodule=ToyData(), ckpt_path=tmp_path / "epoch=0.ckpt", weights_only=True)
    assert trainer.global_step == 10
    theirs, ours = whole.state_dict(), resumed.state_dict()
    assert any(name.startswith("ema.average.") for name in ours)
    assert not torch.equal(ours["ema.average.head.weight"], ours["model.head.weight"])
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


def test_the_mean_teacher_is_not_trained_and_travels_with_the_checkpoint(tmp_path: Path) -> None:
    task = _student(teacher="ema")
    trainer = fit(task, tmp_path, ToyData())
    trained = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert trained == {id(p) for p in task.model.parameters()}
    trainer.save_checkpoint(tmp_path / "student.ckpt")
    loaded = DistillationTask.load_from_checkpoint(tmp_path / "student.ckpt")
    assert loaded.ema is not None
    assert task.ema is not None
    for name, value in task.ema.state_dict().items():
        assert torch.equal(loaded.ema.state_dict()[name], value)


def test_classes_are_matched_by_name() -> None:
    found = shared_classes(("a", "b", "c", "d"), ("d", "x", "b"))
    assert (found.names, found.student.tolist(), found.teacher.tolist()) == (("b", "d"), [1, 3], [2, 0])
    assert found.position.tolist() == [-1, 0, -1, 1]
    with pytest.raises(UserError, match=r"knows 1 of the data's classes \(a, b\), and two are needed; it knows b, c"):
        shared_classes(("a", "b"), ("b", "c"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1.0}, "weight=-1.0: not below 0"),
        ({"rampup_steps": -2}, "rampup_steps=-2: not below 0"),
        ({"ema_decay": 1.0}, "ema_decay=1.0: must be between 0 and 1"),
        ({"temperature": 0.0}, "temperature=0.0: above 0"),
    ],
)
def test_arguments_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _student(teacher="ema", **options)


def test_a_teacher_is_named_by_a_path_and_not_a_network(tmp_path: Path) -> None:
    assert _student(teacher=tmp_path).teacher == str(tmp_path)
    with pytest.raises(ValueError, match="teacher is a Linear: give its run folder or checkpoint, or 'ema'"):
        _student(teacher=nn.Linear(2, 2))


def test_teachers_that_cannot_teach_are_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere' does not exist"):
        fit(_student(teacher=str(tmp_path / "nowhere")), tmp_path, ToyData())
    with pytest.raises(UserError, match="holds no checkpoint"):
        load_teacher(tmp_path)
    damaged = tmp_path / "damaged"
    shutil.copytree(run, damaged)
    (damaged / "config.yaml").write_text("model: [1")
    with pytest.raises(UserError, match=r"damaged/config\.yaml cannot be read"):
        load_teacher(damaged)
    trainer = fit(RegressionTask(Net()), tmp_path, ToyData("regression"))
    trainer.save_checkpoint(tmp_path / "numbers.ckpt")
    with pytest.raises(UserError, match="is a RegressionTask of regression data: a teacher must be a classifier"):
        load_teacher(tmp_path / "numbers.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(UserError, match="was not made by a dlrecipes task"):
        load_teacher(tmp_path / "foreign.ckpt")
    checkpoint = load_checkpoint_file(run / "checkpoints" / "best.ckpt")
    checkpoint["dlrecipes"]["task"]["class_path"] = "their_project.Task"
    torch.save(checkpoint, tmp_path / "theirs.ckpt")
    with pytest.raises(UserError, match=r"names the task their_project.Task: give the folder of its run"):
        load_teacher(tmp_path / "theirs.ckpt")
    with pytest.raises(UserError, match="this data has several: take"):
        fit(_student(teacher="ema"), tmp_path, ToyData("multilabel"))
