"""Parts between features and classifier, and losses on features, in a task: what the head and the loss then see."""

import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from pytorch_metric_learning.losses import ArcFaceLoss, TripletMarginLoss
from pytorch_metric_learning.miners import MultiSimilarityMiner
from torch import Tensor, nn
from toy_images import INFO, Net, ToyData, batch, fit, make_trainer

from dlrecipes.errors import UserError
from dlrecipes.imbalance import FeatureDistributionSmoothing, FeatureSMOTE
from dlrecipes.losses import BalancedContrastiveLoss, CrossEntropyLoss, SmoothL1Loss, SupConLoss
from dlrecipes.models import CifarResNet
from dlrecipes.tasks import ClassificationTask, ImageTask, RegressionTask
from dlrecipes.tasks.feature_space import FeatureBody, check_split, classify, features_of, run_part

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
ONE_NUMBER = replace(INFO["regression"], target_names=("year",), target_mean=(2000.0,), target_std=(10.0,))


class Recorder(nn.Module):
    """Remembers what it was given, and gives something else."""

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.shift = shift
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, features: Tensor, targets: Tensor) -> Tensor:
        self.seen.append((features.detach(), targets))
        return features + self.shift


class Labels(nn.Module):
    """Cross entropy that remembers labels and weights."""

    def forward(self, logits: Tensor, targets: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        self.targets, self.weights, self.logits = targets, sample_weight, logits
        return nn.functional.cross_entropy(logits, targets)


def bound(task: ImageTask, info: Any = INFO["classification"]) -> ImageTask:
    task.info = info
    task.configure_model()
    task.logged = {}
    task.log = lambda name, value, **kwargs: task.logged.update({name: value})  # type: ignore[method-assign]
    task.log_each_epoch = lambda values, count: task.logged.update(values)  # type: ignore[method-assign]
    return task.train()


# ---- the split ------------------------------------------------------------------------------------------------------


def test_a_network_without_the_two_methods_is_split_at_its_last_linear_layer() -> None:
    model, images = Net(outputs=3).eval(), torch.randn(4, 3, 8, 8)
    features = features_of(model, images)
    assert torch.equal(features, model.norm(model.stem(images)).relu().mean((2, 3)))
    assert torch.equal(classify(model, features), model(images))
    assert not model.head._forward_pre_hooks
    assert check_split(model, INFO["classification"]) == 6


class TwoSteps(nn.Sequential):
    """What follows the last linear layer is not in ``classify``."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(192, 3), nn.Softplus())


class Wrong(Net):
    def features(self, images: Tensor) -> Tensor:
        return self.stem(images).mean((2, 3))

    def classify(self, features: Tensor) -> Tensor:
        return self.head(features)


class Map(Wrong):
    def features(self, images: Tensor) -> Tensor:
        return self.stem(images)


@pytest.mark.parametrize("network", [TwoSteps, Wrong, Map])
def test_features_that_are_not_all_the_outputs_follow_from_are_refused(network: type[nn.Module]) -> None:
    with pytest.raises(
        UserError, match=rf"{network.__name__}.* two methods, features\(images\) → \[B, D\] and classify"
    ):
        bound(ClassificationTask(network(), feature_part=Recorder()))


def test_looking_at_the_split_leaves_modes_and_statistics_alone() -> None:
    model = Net(outputs=3).train()
    model.norm.eval()
    before = model.norm.running_mean.clone()
    check_split(model, INFO["classification"])
    assert (model.training, model.stem.training, model.norm.training) == (True, True, False)
    assert torch.equal(model.norm.running_mean, before)


# ---- parts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [Net, lambda: CifarResNet(8)])
def test_a_part_that_changes_nothing_changes_nothing(model: Any) -> None:
    torch.manual_seed(0)
    plain = bound(ClassificationTask(model()))
    torch.manual_seed(0)
    with_part = bound(ClassificationTask(model(), feature_part=Recorder()))
    for found, expected in zip(with_part.step(batch()), plain.step(batch()), strict=True):
        assert torch.equal(found, expected)
    with_part.step(batch())[1].backward()
    assert all(p.grad is not None for p in with_part.parameters())


def test_a_part_works_in_training_only() -> None:
    part = Recorder(5.0)
    task = bound(ClassificationTask(CifarResNet(8), feature_part=part))
    task.step(batch())
    features, targets = part.seen[0]
    assert (tuple(features.shape), targets.tolist()) == ((6, 64), [0, 1, 2, 0, 1, 2])
    task.eval()
    assert torch.equal(task.step(batch())[0], task(batch()["images"]))
    assert len(part.seen) == 1


def test_synthetic_features_change_the_balance_that_the_head_sees() -> None:
    """35 of 40 images are of one class; SMOTE's rare ones come up in the loss, and in nothing else."""
    torch.manual_seed(0)
    info = replace(INFO["classification"], class_counts=(70, 6, 4))
    task: Any = bound(ClassificationTask(CifarResNet(8), Labels(), feature_part=FeatureSMOTE(64, ratio=2.0)), info)
    few = batch(size=40)
    few["targets"] = torch.tensor([0] * 35 + [1] * 3 + [2] * 2)
    for _ in range(2):  # the queues fill
        outputs, _ = task.step(few)
    counts = torch.bincount(task.loss.targets, minlength=3)
    assert counts.sum() == 120
    assert counts[0] == 35
    assert (counts[1:] > 25).all()
    assert task.loss.logits.shape == (120, 3)
    assert outputs.shape == (40, 3)
    assert torch.equal(task.loss.targets[:40], few["targets"])
    task.training_step(few, 0)
    assert task.logged["train/accuracy"] <= 1


def test_further_samples_weigh_as_the_batchs_on_average() -> None:
    task: Any = bound(
        ClassificationTask(Net(), Labels(), feature_part=FeatureSMOTE(6, class_counts=[9, 2, 1], ratio=0.5))
    )
    task.step(batch(weights=True))
    assert task.loss.weights.tolist() == [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 2.0, 2.0, 2.0]


def test_mixed_labels_and_synthetic_features_do_not_go_together() -> None:
    task = bound(ClassificationTask(Net(), feature_part=FeatureSMOTE(6, class_counts=[9, 2, 1])))
    with pytest.raises(UserError, match="use it without mixup and CutMix"):
        task.step(batch() | {"targets": torch.full((6, 3), 1 / 3)})


def test_a_part_for_other_features_is_one_sentence_before_training() -> None:
    with pytest.raises(UserError, match=r"FeatureSMOTE has dim=9 .* length 64: set --model\.feature_part\.dim 64"):
        bound(ClassificationTask(CifarResNet(8), feature_part=FeatureSMOTE(9)))


class Fewer(nn.Module):
    def forward(self, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return features[:-1], targets[:-1]


class Uneven(nn.Module):
    def forward(self, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat((features, features)), targets


@pytest.mark.parametrize(("part", "numbers"), [(Fewer(), "3 features and 3"), (Uneven(), "8 features and 4")])
def test_a_part_that_loses_samples_is_one_sentence(part: nn.Module, numbers: str) -> None:
    with pytest.raises(UserError, match=rf"{type(part).__name__} gives {numbers} targets for a batch of 4: return"):
        run_part(part, torch.zeros(4, 2), torch.zeros(4), None)


class OneNumber(ToyData):
    """The first of the two numbers."""

    def __init__(self) -> None:
        super().__init__("regression", train=12, val=6)
        self.info = ONE_NUMBER

    def _collate(self, samples: list[dict[str, Any]]) -> Any:
        found = super()._collate(samples)
        return found | {"targets": found["targets"][:, :1]}


class Watched(FeatureDistributionSmoothing):
    """Remembers whether it changed each batch."""

    def __init__(self, dim: int, bins: int = 6, momentum: float = 0.0) -> None:
        super().__init__(dim, bins=bins, momentum=momentum)
        self.changed: list[bool] = []

    def forward(self, features: Tensor, targets: Tensor | None = None) -> Tensor:
        found = super().forward(features, targets)
        self.changed.append(not torch.equal(found, features))
        return found


def test_smoothing_takes_over_statistics_between_epochs(tmp_path: Path) -> None:
    """In units of the standardised target, which the loss sees too; also where a run goes on from a checkpoint."""
    part = Watched(6)
    task = RegressionTask(Net(), SmoothL1Loss(), feature_part=part, lr=0.0)
    fit(task, tmp_path, OneNumber(), epochs=3).save_checkpoint(tmp_path / "last.ckpt")
    assert part.changed == [False, False, True, True, True, True]
    assert part.epochs == 2  # the third epoch's are for a fourth
    assert part.known.tolist() == [False, False, True, True, True, False]  # targets −1, 0 and 1 of −3 to 3
    assert part.count.tolist() == [0, 0, 4, 4, 4, 0]
    again: Any = RegressionTask.load_from_checkpoint(tmp_path / "last.ckpt")
    assert torch.equal(again.feature_part.smoothed_mean, part.smoothed_mean)
    make_trainer(tmp_path, epochs=4).fit(again, datamodule=OneNumber(), ckpt_path=tmp_path / "last.ckpt")
    assert again.feature_part.epochs == 3
    assert again.feature_part.count.tolist() == [0, 0, 4, 4, 4, 0]


# ---- auxiliary losses -----------------------------------------------------------------------------------------------


class Perceptron(nn.Module):
    """Features that can be bent to anything."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 8))
        self.head = nn.Linear(8, 3)

    def features(self, images: Tensor) -> Tensor:
        return self.body(images)

    def classify(self, features: Tensor) -> Tensor:
        return self.head(features)

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.features(images))


def test_a_contrastive_loss_draws_classes_together() -> None:
    """Angles within classes by those between them, of noisy images after 20 steps, with and without it."""
    data = batch(size=60)
    data["images"] = torch.randint(0, 200, data["images"].shape, dtype=torch.uint8)
    data["images"][torch.arange(60), data["targets"]] += 40
    same, ratio = data["targets"][:, None] == data["targets"], {}
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        task = bound(ClassificationTask(Perceptron(), auxiliary_loss=SupConLoss(), auxiliary_weight=weight))
        optimizer = torch.optim.SGD(task.parameters(), lr=0.1)
        for _ in range(20):
            optimizer.zero_grad()
            task.training_step(data, 0)["loss"].backward()
            optimizer.step()
        unit = nn.functional.normalize(task.model.features(task.normalise(data["images"])).detach())
        distance = torch.cdist(unit, unit)
        ratio[weight] = (distance[same].mean() / distance[~same].mean()).item()
    assert ratio[1.0] < 0.5 * ratio[0.0] < 0.5


def test_the_loss_is_the_sum_and_the_log_keeps_them_apart() -> None:
    torch.manual_seed(0)
    task = bound(ClassificationTask(Net(), auxiliary_loss=SupConLoss(0.5), auxiliary_weight=3.0))
    features = features_of(task.model, task.normalise(batch()["images"]))
    main = nn.functional.cross_entropy(classify(task.model, features), batch()["targets"])
    extra = SupConLoss(0.5)(features, batch()["targets"])
    total = task.training_step(batch(), 0)["loss"]
    torch.testing.assert_close(total, main + 3 * extra)
    assert task.logged["train/loss"].item() == pytest.approx(main.item(), abs=1e-5)
    assert task.logged["train/auxiliary_loss"].item() == pytest.approx(extra.item(), abs=1e-6)
    task.eval()
    torch.testing.assert_close(
        task.step(batch())[1], nn.functional.cross_entropy(task(batch()["images"]), batch()["targets"])
    )


def test_a_projection_is_made_trained_and_saved(tmp_path: Path) -> None:
    loss = BalancedContrastiveLoss(5)
    task: Any = ClassificationTask(Net(), auxiliary_loss=loss, projection_dim=5, lr=0.01)
    trainer = fit(task, tmp_path, ToyData(train=12), epochs=1, limit_val_batches=0)
    assert [tuple(p.shape) for p in task.projection_head.parameters()] == [(6, 6), (6,), (5, 6), (5,)]
    trained = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert trained >= {id(p) for p in (*task.projection_head.parameters(), loss.prototypes)}
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again: Any = ClassificationTask.load_from_checkpoint(tmp_path / "last.ckpt")
    found = again.state_dict()
    assert found.keys() == task.state_dict().keys()
    assert all(torch.equal(value, found[name]) for name, value in task.state_dict().items())
    with pytest.raises(UserError, match=r"dim=5 .* length 4: set --model\.auxiliary_loss\.dim 4"):
        bound(ClassificationTask(Net(), auxiliary_loss=BalancedContrastiveLoss(5), projection_dim=4))


@pytest.mark.parametrize("projected", [False, True])
def test_losses_and_miners_of_pytorch_metric_learning_plug_in(projected: bool, tmp_path: Path) -> None:
    projection = nn.Linear(6, 4) if projected else None
    task: Any = ClassificationTask(
        Net(),
        auxiliary_loss=TripletMarginLoss(margin=2.0),
        auxiliary_miner=MultiSimilarityMiner(epsilon=5.0),
        projection=projection,
        lr=0.01,
    )
    trainer = fit(task, tmp_path, ToyData(batch_size=15), epochs=2)
    assert trainer.callback_metrics["train/auxiliary_loss"] > 0
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again: Any = ClassificationTask.load_from_checkpoint(tmp_path / "last.ckpt")
    assert (again.auxiliary_loss.margin, again.auxiliary_miner.epsilon) == (2.0, 5.0)
    again.train().log = lambda *args, **kwargs: None
    again.model.eval()  # the same features twice
    features = features_of(again.model, again.normalise(batch()["images"]))
    x, y = features if projection is None else again.projection(features), batch()["targets"]
    expected = TripletMarginLoss(margin=2.0)(x, y, MultiSimilarityMiner(epsilon=5.0)(x, y))
    main = nn.functional.cross_entropy(classify(again.model, features), y)
    torch.testing.assert_close(again.step(batch())[1], main + expected)


def test_losses_that_do_not_keep_their_arguments_train_and_their_networks_predict(tmp_path: Path) -> None:
    """ArcFace's class weights are trained, and are in the checkpoint for a resumed run."""
    loss = ArcFaceLoss(num_classes=3, embedding_size=4)
    before = loss.W.detach().clone()
    task = ClassificationTask(Net(), auxiliary_loss=loss, projection_dim=4, lr=0.1)
    trainer = fit(task, tmp_path, ToyData(train=12), limit_val_batches=0)
    assert not torch.equal(loss.W, before)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(state["auxiliary_loss.W"], loss.W)
    again: Any = ClassificationTask.load_from_checkpoint(tmp_path / "last.ckpt")
    assert again.auxiliary_loss is again.projection_head is None
    assert torch.equal(again.eval().predict_step(batch(), 0), task.eval().predict_step(batch(), 0))
    other = ArcFaceLoss(num_classes=3, embedding_size=4)
    given: Any = ClassificationTask.load_from_checkpoint(tmp_path / "last.ckpt", auxiliary_loss=other, projection_dim=4)
    assert torch.equal(given.auxiliary_loss.W, loss.W)


class Halves(nn.Module):
    """Keeps the dtype it was given."""

    def forward(self, embeddings: Tensor, labels: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        self.dtype, self.weights = embeddings.dtype, sample_weight
        return (embeddings @ embeddings.T).mean()


def test_an_auxiliary_loss_is_computed_in_float32_and_gets_weights() -> None:
    loss = Halves()
    task = bound(ClassificationTask(Net(), CrossEntropyLoss(), auxiliary_loss=loss))
    with torch.autocast("cpu", torch.bfloat16):
        task.training_step(batch(weights=True), 0)
    assert task.logged["train/auxiliary_loss"].dtype == loss.dtype == torch.float32
    assert loss.weights.tolist() == [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]


def test_mixed_labels_have_no_positives() -> None:
    task = bound(ClassificationTask(Net(), auxiliary_loss=SupConLoss()))
    with pytest.raises(UserError, match=r"SupConLoss, the auxiliary loss, needs one label .* set --data\.mix none"):
        task.step(batch() | {"targets": torch.full((6, 3), 1 / 3)})


def test_an_auxiliary_loss_of_each_image_is_one_sentence() -> None:
    task = bound(ClassificationTask(Net(), auxiliary_loss=SupConLoss(reduction="none")))
    with pytest.raises(UserError, match="SupConLoss, the auxiliary loss, must give one number"):
        task.step(batch())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"auxiliary_loss": nn.Identity(), "auxiliary_weight": -1.0}, "auxiliary_weight=-1.0"),
        ({"auxiliary_loss": nn.Identity(), "projection_dim": 0}, "projection_dim=0"),
        ({"auxiliary_loss": nn.Identity(), "projection_dim": 4, "projection": nn.Identity()}, "not together"),
        ({"projection_dim": 4}, "projection_dim does nothing without auxiliary_loss"),
        ({"auxiliary_miner": nn.Identity()}, "auxiliary_miner does nothing without auxiliary_loss"),
    ],
)
def test_arguments_that_do_not_fit_are_named(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ClassificationTask(Net(), **args)


# ---- compiled, and a user's -----------------------------------------------------------------------------------------


def test_features_are_what_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a network split by a hook is not, and says so."""
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda module, **options: compiled.append((module, options)) or module)
    for network in (CifarResNet(8), Net()):
        compiled.clear()
        task = ClassificationTask(network, feature_part=Recorder(), compile_mode="default")
        trainer = fit(task, tmp_path, ToyData(train=6, val=6))
        assert trainer.global_step == 1
        last, options = compiled[-1]
        assert isinstance(last, FeatureBody) == isinstance(network, CifarResNet)
        assert options == {"dynamic": False, "mode": "default"}
        assert task._compiled_features is None  # let go of at the end


USERS = """
from torch import nn

class Noise(nn.Module):
    def __init__(self, scale: float = 0.1) -> None:
        super().__init__()
        self.scale = scale
    def forward(self, features, targets):
        return features + self.scale * features.detach().std(0) * features.new_empty(features.shape).normal_()
"""


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "my_features.py").write_text(textwrap.dedent(USERS))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield import_module("my_features")
    del sys.modules["my_features"]


def test_a_users_part_trains_saves_and_reloads(users: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = ClassificationTask(Net(), feature_part=users.Noise(0.3), lr=0.05)
    trainer = fit(task, tmp_path, ToyData(), epochs=8)
    assert trainer.callback_metrics["val/accuracy"] > 0.8
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again: Any = ClassificationTask.load_from_checkpoint(tmp_path / "last.ckpt")
    assert again.feature_part.scale == 0.3
