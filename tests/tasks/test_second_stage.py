"""The last layer of a trained task made anew: features, choices by the validation split, and what is measured."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn
from toy_images import INFO, Net, ToyData, ToyImages, fit, make_trainer

from dlrecipes.errors import UserError
from dlrecipes.imbalance import CosineLinear
from dlrecipes.losses import BCELoss, BiTemperedLoss
from dlrecipes.tasks import ClassificationTask, RegressionTask
from dlrecipes.tasks.second_stage import Method, check_second_stage, second_stage
from dlrecipes.tasks.stage_features import StageFeatures, read_features, split_features

PICKED = [*range(0, 120, 3), *range(1, 40, 3), *range(2, 12, 3)]  # 40, 13 and 4 of the classes


class LongTail(ToyData):
    """Training pictures with a long tail, drawn in any order and one of them twice."""

    def __init__(self) -> None:
        super().__init__(val=30)
        self.info = replace(INFO["classification"], class_counts=(200, 50, 4), num_train=254)

    def train_dataloader(self) -> Any:
        pictures = ToyImages("classification", 200)
        shuffled = [*PICKED[::-1], PICKED[0]]
        return torch.utils.data.DataLoader(pictures, 7, sampler=shuffled, collate_fn=self._collate)

    def test_dataloader(self) -> Any:
        return self._loader(21)


class Headless(nn.Module):
    """Answers that no linear layer gives."""

    def __init__(self, layer: nn.Module | None = None, scale: float = 2.0) -> None:
        super().__init__()
        self.net = Net(outputs=3)
        self.scale = scale
        if layer is not None:
            self.net.head = layer

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.scale * self.net(images)
        return found


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> ClassificationTask:
    torch.manual_seed(0)
    found = ClassificationTask(Net(), lr=0.02)
    fit(found, tmp_path_factory.mktemp("run"), LongTail(), epochs=2, limit_val_batches=0)
    return found.eval()


@pytest.fixture(scope="module")
def features(task: ClassificationTask) -> StageFeatures:
    return read_features(task, LongTail())


def test_features_are_what_the_last_layer_gets_in_the_order_of_the_split(
    task: ClassificationTask, features: StageFeatures
) -> None:
    assert features.train.index.tolist() == sorted(PICKED)
    assert features.train.labels.tolist() == [index % 3 for index in sorted(PICKED)]
    assert features.test is not None
    assert len(features.test.values) == 21
    pictures = ToyImages("classification", 30)
    images = torch.stack([pictures[i]["image"] for i in range(30)])
    with torch.no_grad():
        torch.testing.assert_close(task.model.head(features.val.values), task(images))


def test_features_before_are_those_that_a_validation_measures(
    task: ClassificationTask, features: StageFeatures, tmp_path: Path
) -> None:
    found = second_stage(task, features, "tau")
    trainer = make_trainer(tmp_path)
    (metrics,) = trainer.validate(task, datamodule=LongTail(), verbose=False)
    for name, value in found.before["val"].items():
        assert metrics[f"val/{name}"] == pytest.approx(value, abs=1e-5), name


@pytest.mark.parametrize("method", get_args(Method))
def test_the_network_itself_measures_what_was_promised(
    task: ClassificationTask, features: StageFeatures, method: Method, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in task.state_dict().items()}
    found = second_stage(task, features, method)
    assert all(torch.equal(task.state_dict()[name], value) for name, value in before.items())  # until it is applied
    trainer = make_trainer(tmp_path)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(tmp_path / "before.ckpt")
    changed = ClassificationTask.load_from_checkpoint(tmp_path / "before.ckpt")
    found.apply(changed)
    (metrics,) = make_trainer(tmp_path).test(changed, datamodule=LongTail(), verbose=False)
    assert "accuracy_few" in found.after["test"]
    for name, value in found.after["test"].items():
        assert metrics[f"test/{name}"] == pytest.approx(value, abs=1e-5), name
    body = {name: value for name, value in task.state_dict().items() if ".head." not in name}
    assert all(torch.equal(changed.state_dict()[name], value) for name, value in body.items())


@pytest.mark.parametrize("method", ["tau", "logit-adjust", "ncm"])
def test_the_test_split_chooses_nothing(task: ClassificationTask, features: StageFeatures, method: Method) -> None:
    assert features.test is not None
    wrong = replace(features.test, labels=(features.test.labels + 1) % 3)
    first = second_stage(task, features, method)
    other = second_stage(task, replace(features, test=wrong), method)
    assert (first.settings, first.trials) == (other.settings, other.trials)
    assert torch.equal(first.layer.weight, other.layer.weight)
    assert first.after["test"] != other.after["test"]


def test_the_best_of_the_trials_is_taken(task: ClassificationTask, features: StageFeatures) -> None:
    found = second_stage(task, features, "logit-adjust")
    assert [trial.tau for trial in found.trials] == [round(0.1 * i, 1) for i in range(21)]
    best = min(found.trials, key=lambda trial: trial.balanced_nll)
    assert found.settings["tau"] == best.tau > 0
    assert found.after["val"]["balanced_nll"] == pytest.approx(best.balanced_nll)
    assert found.after["val"]["balanced_nll"] < found.before["val"]["balanced_nll"]
    by_accuracy = second_stage(task, features, "logit-adjust", choose_by="balanced_accuracy")
    most = max(trial.balanced_accuracy for trial in found.trials)
    (chosen,) = [trial for trial in found.trials if trial.tau == by_accuracy.settings["tau"]]
    assert chosen.balanced_accuracy == most
    given = second_stage(task, features, "logit-adjust", tau=0.35)
    assert (given.settings, given.trials) == ({"tau": 0.35}, ())


def test_the_temperature_of_nearest_means_is_the_likeliest(task: ClassificationTask, features: StageFeatures) -> None:
    found = second_stage(task, features, "ncm")
    scores = found.layer(features.val.values)

    def cost(factor: float) -> float:
        loss = nn.functional.cross_entropy(scores / factor, features.val.labels, reduction="none")
        return float(torch.stack([loss[features.val.labels == c].mean() for c in range(3)]).mean())

    assert cost(1.0) == pytest.approx(found.after["val"]["balanced_nll"], rel=1e-5)
    assert cost(1.0) <= min(cost(0.9), cost(1.1)) + 1e-6


def test_images_may_be_augmented_anew_each_epoch(task: ClassificationTask) -> None:
    class Brighter(LongTail):
        epochs: list[bool]

        def __init__(self) -> None:
            super().__init__()
            self.epochs = []

        def finish(self, batch: Any, *, training: bool) -> Any:
            self.epochs.append(training)
            return batch | {"images": batch["images"] + 20} if training else batch

    data = Brighter()
    found = read_features(task, data, augment=True)
    assert found.of_epoch is not None
    assert not any(data.epochs)
    values = found.of_epoch(0)
    assert values.shape == found.train.values.shape
    assert not torch.allclose(values, found.train.values)
    assert second_stage(task, found, "crt", epochs=1).settings["augmented"] is True


def test_a_split_that_is_missing(task: ClassificationTask) -> None:
    class NoTest(LongTail):
        splits = ("train", "val")

    class NoValidation(LongTail):
        def val_dataloader(self) -> Any:
            return []

    assert list(second_stage(task, read_features(task, NoTest()), "tau", tau=0.5).after) == ["val"]
    with pytest.raises(UserError, match="NoValidation has no validation split"):
        read_features(task, NoValidation())


def test_mixed_labels_are_refused(task: ClassificationTask) -> None:
    data = ToyData("multilabel")
    with pytest.raises(UserError, match="set mix to none"):
        split_features(task, data, data.val_dataloader())


def test_what_a_second_stage_is_not_for() -> None:
    def known(task: Any, kind: str = "classification") -> Any:
        task.info = INFO[kind]
        task.configure_model()
        return task

    with pytest.raises(UserError, match="does not know its classes"):
        check_second_stage(ClassificationTask(Net()), "crt")
    for task in (known(RegressionTask(Net()), "regression"), known(ClassificationTask(Net()), "multilabel")):
        with pytest.raises(UserError, match="is for classifiers of one label an image"):
            check_second_stage(task, "crt")
    with pytest.raises(UserError, match="BCELoss was learning a sigmoid for each class"):
        check_second_stage(known(ClassificationTask(Net(), BCELoss())), "crt")
    with pytest.raises(UserError, match=r"BiTemperedLoss was learning another softmax, tempered:1\.2: train with"):
        check_second_stage(known(ClassificationTask(Net(), BiTemperedLoss())), "crt")
    with pytest.raises(UserError, match=r"the last layer of Headless \(net.head\) is a CosineLinear"):
        check_second_stage(known(ClassificationTask(Headless(CosineLinear(6, 3)))), "crt")
    unbiased = known(ClassificationTask(Headless(nn.Linear(6, 3, bias=False))))
    with pytest.raises(UserError, match="has no bias, which ncm changes: choose crt, lws or tau"):
        check_second_stage(unbiased, "ncm")
    scaled = known(ClassificationTask(Headless()))
    with pytest.raises(UserError, match=r"are not what its linear layer 'net\.head' gives"):
        read_features(scaled, LongTail())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "svm"}, "method is 'svm': choose one of crt, lws, tau, ncm, logit-adjust"),
        ({"method": "tau", "tau": 1.5}, r"tau is 1\.5: from 0 to 1"),
        ({"method": "logit-adjust", "tau": -1.0}, r"tau is -1\.0: 0 or more"),
        ({"method": "crt", "tau": 1.0}, "crt has no tau"),
        ({"method": "ncm", "choose_by": "balanced_nll"}, "ncm has no tau"),
        ({"method": "tau", "choose_by": "accuracy"}, "choose_by is 'accuracy'"),
        ({"method": "crt", "epochs": 0}, "epochs=0"),
    ],
)
def test_options_out_of_range_are_named(
    task: ClassificationTask, features: StageFeatures, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        second_stage(task, features, **options)
