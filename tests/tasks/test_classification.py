"""ClassificationTask: trains with one label and with several, saves, reloads; any loss; errors in one sentence."""

import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from torch import Tensor, nn
from toy_images import CLASSES, INFO, Net, ToyData, batch, fit, make_trainer

from dlrecipes.errors import CheckpointError, UserError
from dlrecipes.losses import BCELoss, BiTemperedLoss, ClassBalancedLoss, CrossEntropyLoss, FocalLoss, LDAMLoss
from dlrecipes.models import CifarResNet
from dlrecipes.tasks import ClassificationTask

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")

ONE_LABEL = {
    *("accuracy", "balanced_accuracy", "f1", "g_mean", "auprc", "ece", "class_ece", "nll", "balanced_nll", "loss")
}
SEVERAL = {"map", "f1", "subset_accuracy", "loss"}


class Weighted(nn.Module):
    """A loss that knows sample weights."""

    def __init__(self, power: float = 1.0) -> None:
        super().__init__()
        self.power = power
        self.seen: Tensor | None = None

    def forward(self, logits: Tensor, targets: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        self.seen = sample_weight
        return nn.functional.cross_entropy(logits, targets).pow(self.power)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[ClassificationTask, dict[str, Tensor], Path]:
    torch.manual_seed(0)
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 1.0]))
    task = ClassificationTask(Net(pretrained=True), loss, lr=0.05, channels_last=True, warmup_steps=2)
    folder = tmp_path_factory.mktemp("run")
    trainer = fit(task, folder, ToyData(), epochs=12)
    trainer.save_checkpoint(folder / "last.ckpt")
    return task, dict(trainer.callback_metrics), folder / "last.ckpt"


def test_learns_and_logs_every_metric(trained: tuple) -> None:
    metrics = trained[1]
    assert {f"val/{name}" for name in ONE_LABEL} | {f"val/recall_class/{c}" for c in CLASSES} <= set(metrics)
    assert "val/top5_accuracy" not in metrics  # three classes
    assert metrics["val/accuracy"] > 0.9
    assert metrics["train/accuracy"] > 0.9
    assert trained[0].loss_monitor == "val/balanced_nll"
    assert ClassificationTask.monitor in metrics


def test_the_networks_normalisation_wins_and_is_in_the_checkpoint(trained: tuple) -> None:
    task, _, file = trained
    again = ClassificationTask.load_from_checkpoint(file)
    assert task.info == again.info == replace(INFO["classification"], mean=(0.5,) * 3, std=(0.25,) * 3)
    assert again.model.pretrained is False  # nothing to download
    assert again.normalise(batch()["images"]).min() == pytest.approx(-2.0)


def test_a_checkpoint_rebuilds_network_and_loss_bitwise(trained: tuple) -> None:
    task, _, file = trained
    again = ClassificationTask.load_from_checkpoint(file)
    assert again.loss.weight.tolist() == [1.0, 2.0, 1.0]
    assert (again.lr, again.optimizer, again.model.width) == (0.05, "adamw", 6)
    with torch.no_grad():
        expected, found = (t.eval().predict_step(batch(), 0) for t in (task, again))
    assert torch.equal(expected, found)
    assert found.sum(1).tolist() == pytest.approx([1.0] * 6)


def test_test_split_agrees_with_predictions(trained: tuple, tmp_path: Path) -> None:
    task, _, _ = trained
    data = ToyData(val=10, batch_size=4)
    trainer = make_trainer(tmp_path)
    (metrics,) = trainer.test(task, datamodule=data, verbose=False)
    found = torch.cat(trainer.predict(task, datamodule=data)).argmax(1)
    truth = torch.arange(10) % 3
    assert metrics["test/accuracy"] == pytest.approx(accuracy_score(truth, found))
    assert metrics["test/balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, found))


def test_several_labels(tmp_path: Path) -> None:
    task = ClassificationTask(Net(), nn.BCEWithLogitsLoss(), lr=0.05)
    trainer = fit(task, tmp_path, ToyData("multilabel"), epochs=12)
    names = set(trainer.callback_metrics)
    assert {f"val/{name}" for name in SEVERAL} | {f"val/ap_class/{c}" for c in CLASSES} <= names
    assert not names & {"val/accuracy", "train/accuracy"}
    assert trainer.callback_metrics["val/map"] > 0.9
    assert task.monitor in names
    assert task.eval().predict_step(batch("multilabel"), 0).sum(1).max() > 1.2  # a sigmoid each


@pytest.mark.parametrize("loss", [BCELoss(), ClassBalancedLoss(BCELoss(), class_weights=None)])
def test_one_label_under_a_sigmoid_loss_is_calibrated_at_its_optimum(loss: nn.Module) -> None:
    """Softmax of these logits would say .941."""
    frequencies = torch.tensor([0.8, 0.2])
    task = ClassificationTask(nn.Identity(), loss)
    task.info = replace(
        INFO["classification"], classes=("a", "b"), category_ids=(0, 1), class_counts=(8, 2), num_train=10
    )
    task.configure_model()
    assert task.info.link == "sigmoid"
    found = task.predictions(frequencies.logit().expand(10, 2))
    torch.testing.assert_close(found, frequencies.expand(10, 2))
    task.val_metrics.update(found, torch.tensor([0] * 8 + [1] * 2))
    metrics = task.val_metrics.compute()
    assert metrics["ece"] == pytest.approx(0, abs=1e-6)
    assert metrics["nll"] == pytest.approx(-(frequencies * frequencies.log()).sum().item())


def test_one_label_under_a_bi_tempered_loss_is_calibrated_at_its_optimum() -> None:
    """The ordinary softmax of these logits would say .903."""
    frequencies = torch.tensor([0.8, 0.2])
    task = ClassificationTask(nn.Identity(), BiTemperedLoss(t2=1.5))
    task.info = replace(
        INFO["classification"], classes=("a", "b"), category_ids=(0, 1), class_counts=(8, 2), num_train=10
    )
    task.configure_model()
    assert task.info.link == "tempered:1.5"
    found = task.predictions(((frequencies**-0.5 - 1) / -0.5).expand(10, 2))
    torch.testing.assert_close(found, frequencies.expand(10, 2))


def test_validation_gives_probabilities_to_callbacks(trained: tuple) -> None:
    task = trained[0]
    task.log = lambda *args, **kwargs: None
    out = task.eval().validation_step(batch(), 0)
    task.val_metrics.reset()
    task.val_loss.reset()
    assert out["outputs"].shape == (6, 3)
    assert out["outputs"].dtype == torch.float32
    assert out["loss"].dim() == 0


def test_soft_labels_train_without_accuracy(trained: tuple) -> None:
    task = trained[0]
    logged = {}
    task.log = lambda name, value, **kwargs: logged.update({name: value})
    task.log_each_epoch = lambda values, count: logged.update(values)
    mixed = batch() | {"targets": torch.full((6, 3), 1 / 3), "images": batch()["images"].float() * 0.9}
    assert task.train().training_step(mixed, 0)["loss"].isfinite()
    assert set(logged) == {"train/loss"}
    task.training_step(batch(), 1)
    assert set(logged) == {"train/loss", "train/accuracy"}


def bound(loss: nn.Module | None = None, model: nn.Module | None = None) -> ClassificationTask:
    task = ClassificationTask(model or Net(), loss or Weighted())
    task.info = INFO["classification"]
    task.configure_model()
    return task


def test_sample_weights_reach_the_loss() -> None:
    task = bound()
    task.step(batch(weights=True))
    assert task.loss.seen.tolist() == [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]
    task.step(batch())
    assert task.loss.seen is None


def test_weights_without_a_loss_that_takes_them() -> None:
    with pytest.raises(UserError, match=r"CrossEntropyLoss\.forward takes no sample_weight: add that argument"):
        bound(nn.CrossEntropyLoss()).step(batch(weights=True))


@pytest.mark.parametrize("outputs", [2, 7])
def test_a_network_of_another_width_is_one_sentence(outputs: int, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, outputs))
    with pytest.raises(UserError, match=rf"Sequential gives outputs of shape \(6, {outputs}\) .* needs \(6, 3\)"):
        fit(ClassificationTask(network, nn.CrossEntropyLoss()), tmp_path, ToyData())


def test_a_loss_for_each_sample_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"CrossEntropyLoss gives a loss of shape \(6,\) .* reduction to 'mean'"):
        bound(nn.CrossEntropyLoss(reduction="none")).step(batch())


def test_data_of_another_kind_is_refused() -> None:
    task = ClassificationTask(Net(), nn.CrossEntropyLoss())
    task.info = INFO["regression"]
    with pytest.raises(UserError, match=r"regression with 0 classes: take dlrecipes\.tasks\.RegressionTask"):
        task.configure_model()


def test_init_takes_weights_of_another_run(trained: tuple, capsys: pytest.CaptureFixture[str]) -> None:
    task = ClassificationTask(Net(), nn.CrossEntropyLoss(), init=str(trained[2]))
    task.info = INFO["classification"]
    task.configure_model()
    assert "weights from" in capsys.readouterr().out
    assert torch.equal(task.model.stem.weight, trained[0].model.stem.weight)


CODE = """
from torch import nn
from dlrecipes.tasks import ClassificationTask

class MarginLoss(nn.Module):
    def __init__(self, margin: float = 1.0):
        super().__init__()
        self.margin = margin

    def forward(self, logits, targets):
        return nn.functional.multi_margin_loss(logits, targets, margin=self.margin)

class MarginTask(ClassificationTask):
    def configure_loss(self, info):
        return MarginLoss(margin=len(info.classes) / 2)

class ShortTask(ClassificationTask):
    # takes what it needs, and no more

    def __init__(self, model, loss=None, *, factor=1.0, lr=1e-3):
        super().__init__(model, loss, lr=lr)
        self.factor = factor

    def step(self, batch):
        outputs, loss = super().step(batch)
        return outputs, loss * self.factor
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A user's module, in a folder that has nothing to do with dlrecipes."""
    (tmp_path / "my_margins.py").write_text(textwrap.dedent(CODE))
    monkeypatch.syspath_prepend(tmp_path)
    yield import_module("my_margins")
    sys.modules.pop("my_margins", None)


def test_a_users_loss_and_task_train_save_and_reload(project: ModuleType, tmp_path: Path) -> None:
    task = project.MarginTask(Net(), lr=0.05)
    trainer = fit(task, tmp_path, ToyData(), epochs=8)
    assert trainer.callback_metrics["val/accuracy"] > 0.9
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    again = project.MarginTask.load_from_checkpoint(tmp_path / "x.ckpt")
    assert type(again.loss) is project.MarginLoss
    assert again.loss.margin == 1.5
    assert torch.equal(again.model.head.weight, task.model.head.weight)


def test_a_task_with_few_arguments_saves_and_reloads(project: ModuleType, tmp_path: Path) -> None:
    task = project.ShortTask(Net(), project.MarginLoss(2.0), factor=3.0)
    fit(task, tmp_path, ToyData(), epochs=1).save_checkpoint(tmp_path / "x.ckpt")
    again = project.ShortTask.load_from_checkpoint(tmp_path / "x.ckpt")
    assert (again.factor, again.loss.margin) == (3.0, 2.0)


def test_a_function_as_a_loss_must_be_given_again(tmp_path: Path) -> None:
    task = ClassificationTask(Net(), nn.functional.multi_margin_loss)  # type: ignore[arg-type]
    fit(task, tmp_path, ToyData(), epochs=1).save_checkpoint(tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=r"x.ckpt does not know loss of ClassificationTask: give loss= to load"):
        ClassificationTask.load_from_checkpoint(tmp_path / "x.ckpt")
    again = ClassificationTask.load_from_checkpoint(tmp_path / "x.ckpt", loss=nn.MultiMarginLoss())
    assert torch.equal(again.model.head.weight, task.model.head.weight)


def test_a_network_of_torchs_containers_comes_back(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    fit(ClassificationTask(network), tmp_path, ToyData(), epochs=1).save_checkpoint(tmp_path / "x.ckpt")
    again = ClassificationTask.load_from_checkpoint(tmp_path / "x.ckpt")
    assert torch.equal(again.model[3].weight, network[3].weight)


def test_weights_that_do_not_fit_name_the_file_in_one_line(trained: tuple) -> None:
    with pytest.raises(CheckpointError, match=r"last.ckpt does not fit ClassificationTask: [^\n]*Missing[^\n]*$"):
        ClassificationTask.load_from_checkpoint(trained[2], model=nn.Sequential(nn.Flatten(), nn.Linear(192, 3)))


@pytest.mark.parametrize("lr", [np.float64(0.01), np.geomspace(1e-3, 1e-1, 3)[1], np.float32(0.01)])
def test_rates_from_numpy_make_no_checkpoint_that_cannot_be_read(lr: float, tmp_path: Path) -> None:
    task = ClassificationTask(Net(), lr=lr, weight_decay=np.float64(0.1))
    fit(task, tmp_path, ToyData(), epochs=1).save_checkpoint(tmp_path / "x.ckpt")  # Lightning's own writer
    assert ClassificationTask.load_from_checkpoint(tmp_path / "x.ckpt").lr == pytest.approx(0.01)


@pytest.mark.parametrize("change", [lambda x: x / 255, lambda x: (x / 255 - 0.45) / 0.22], ids=["0..1", "normalised"])
def test_images_that_are_scaled_already_are_refused(change: Any) -> None:
    task, given = bound(nn.CrossEntropyLoss()), batch()
    images = given["images"]
    with pytest.raises(UserError, match=r"normalises images itself: give uint8 images, or floats in 0\.\.255"):
        task.step({**given, "images": change(images.float())})  # type: ignore[typeddict-item]
    found = [task.eval().step({**given, "images": x})[0] for x in (images, images.float())]  # type: ignore[typeddict-item]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), CrossEntropyLoss(), FocalLoss(), BCELoss()], ids=repr)
@pytest.mark.parametrize("wrong", [3, -1])
def test_a_label_outside_the_classes_is_one_sentence(loss: nn.Module, wrong: int) -> None:
    given = batch()
    given["targets"][1] = wrong
    with pytest.raises(
        UserError, match=rf"label {wrong}, and the 3 classes are numbered from 0 to 2: number the labels"
    ):
        bound(loss).step(given)


def test_a_batch_that_is_no_dict_is_one_sentence() -> None:
    task, given = bound(nn.CrossEntropyLoss()), batch()
    for step in (task.step, lambda x: task.predict_step(x, 0)):
        with pytest.raises(
            UserError, match=r"gives a list, .* dlrecipes.contracts.ImageBatch: make it in .* collate_fn"
        ):
            step([given["images"], given["targets"]])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": "resnet18"}, "model is 'resnet18': give a network, an nn.Module"),
        ({"model": Net}, "model is the class Net: give a network"),
        ({"loss": nn.CrossEntropyLoss}, r"loss is the class CrossEntropyLoss: make it, CrossEntropyLoss\(\)"),
        (
            {"optimizer": torch.optim.SGD},
            "optimizer is <class.*SGD'>: give its name or import path, such as 'torch.optim",
        ),
        ({"schedule": lambda done: 1 - done}, "schedule is <function .*: give its name or import path"),
    ],
    ids=["name", "class", "loss", "optimizer", "schedule"],
)
def test_arguments_of_another_kind_are_one_sentence(given: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ClassificationTask(**({"model": Net()} | given))


class Terms(nn.Module):
    """A loss of named terms, as detectors have."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": logits.sum()}


def test_a_loss_of_named_terms_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"Terms gives a dict instead of one number: return their mean"):
        bound(Terms()).step(batch())


@pytest.mark.parametrize(
    ("head", "loss", "advice"),
    [
        ("linear", LDAMLoss(), "the margins of LDAMLoss are made for cosines: add --model.model.head cosine"),
        ("cosine", nn.CrossEntropyLoss(), "cosines within −1 and 1, from which CrossEntropyLoss cannot learn much"),
        ("cosine", LDAMLoss(), None),
        ("linear", nn.CrossEntropyLoss(), None),
    ],
)
def test_a_loss_and_a_last_layer_that_do_not_belong_together(
    head: Any, loss: nn.Module, advice: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(ClassificationTask(CifarResNet(8, head=head), loss), tmp_path, ToyData(train=6, val=2))
    said = capsys.readouterr().out
    assert advice in said if advice else "advice" not in said


def test_probabilities_of_cosines_are_those_of_the_loss() -> None:
    cosines, labels = torch.tensor([[0.9, 0.2, -0.3]]), torch.tensor([0])
    loss = LDAMLoss(max_margin=0.0, scale=20.0, class_counts=[1.0, 1.0, 1.0])
    task = bound(loss)
    found = task.predictions(cosines)
    assert found[0, 0] > 0.99
    torch.testing.assert_close(-found.log()[0, 0], loss(cosines, labels))  # without margins it is the cross entropy
