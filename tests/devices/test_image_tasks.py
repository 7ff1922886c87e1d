"""Steps of classifiers and regressors, with what can be plugged into them, on the device: nothing waits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fits import fit, pictures
from torch import nn

from dlrecipes.imbalance import FeatureDistributionSmoothing, FeatureSMOTE
from dlrecipes.losses import BalancedContrastiveLoss, FocalLoss, HeadToTailDistillLoss, LDAMLoss, SupConLoss
from dlrecipes.models import CifarResNet, EfficientNet, MLPMixer
from dlrecipes.tasks import ClassificationTask, DistillationTask, RegressionTask

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")


def small(**options: Any) -> nn.Module:
    return CifarResNet(8, **options)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "efficientnet": (lambda: EfficientNet("lite0", total_stride=8, drop_rate=0.2), {"augment": "light"}),
    "mixer": (lambda: MLPMixer("small", blocks=1, dim=16), {"augment": "strong", "mix": "cutmix"}),
    "cifar_resnet": (small, {"augment": "light", "mirror": False, "mix": "both"}),
    "another size": (small, {"image_size": 24, "mix": "mixup", "mix_alpha": 0.3}),
    "remix": (small, {"mix": "remix", "augment": "none"}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_augmentation_and_mixing(name: str, tmp_path: Path) -> None:
    network, options = NETWORKS[name]
    assert fit(ClassificationTask(network()), pictures(**options), tmp_path) == {}


@pytest.mark.parametrize(
    ("kind", "task", "options"),
    [
        ("multilabel", lambda: ClassificationTask(small(), channels_last=True), {}),
        ("regression", lambda: RegressionTask(small()), {"density_weights": "inverse"}),
        ("classification", lambda: ClassificationTask(small(), FocalLoss(class_weights="effective")), {}),
        ("classification", lambda: ClassificationTask(small(head="cosine"), LDAMLoss()), {}),
    ],
)
def test_kinds_of_targets_and_losses(
    kind: str, task: Callable[[], Any], options: dict[str, Any], tmp_path: Path
) -> None:
    assert fit(task(), pictures(kind, **options), tmp_path) == {}


PARTS: dict[str, tuple[str, dict[str, Callable[[], Any]]]] = {
    "FeatureSMOTE": ("classification", {"feature_part": lambda: FeatureSMOTE(64, class_counts=[90, 3, 4])}),
    "FDS": ("regression", {"feature_part": lambda: FeatureDistributionSmoothing(64, bins=5)}),
    "SupCon": ("classification", {"auxiliary_loss": SupConLoss, "projection_dim": lambda: 16}),
    "BalancedContrastive": ("classification", {"auxiliary_loss": lambda: BalancedContrastiveLoss(64)}),
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_between_features_and_classifier(name: str, tmp_path: Path) -> None:
    kind, parts = PARTS[name]
    made = {key: make() for key, make in parts.items()}
    task = (RegressionTask if kind == "regression" else ClassificationTask)(small(), **made)
    assert fit(task, pictures(kind), tmp_path, max_epochs=2) == {}


def test_an_average_of_the_weights_teaches(tmp_path: Path) -> None:
    assert fit(DistillationTask(small(), teacher="ema", rampup_steps=5), pictures(), tmp_path) == {}


def test_a_run_of_other_classes_and_another_size_teaches(tmp_path: Path) -> None:
    import lightning as L

    teacher, told = ClassificationTask(small()), pictures(side=24, classes=("2", "7", "0"))
    trainer = L.Trainer(fast_dev_run=1, accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.fit(teacher, datamodule=told)
    trainer.save_checkpoint(tmp_path / "teacher.ckpt")
    task = DistillationTask(small(), teacher=str(tmp_path / "teacher.ckpt"), distill=HeadToTailDistillLoss())
    assert fit(task, pictures(), tmp_path) == {}
