"""Metrics of two gloo processes with shards of unequal size are those of one process, for every kind of target."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from toy_images import INFO, Net, ToyData, fit, make_trainer

from dlrecipes.callbacks import ExactEvaluation
from dlrecipes.contracts import ImageBatch, Prediction
from dlrecipes.imbalance import FeatureDistributionSmoothing
from dlrecipes.tasks import ClassificationTask, DetectionTask, DistillationTask, RegressionTask

SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, {tests!r})
from torch import nn
from test_two_ranks import KINDS, evaluate, features, make_task, smooth, terms, watch
from toy_images import ToyData, fit

folder = Path(sys.argv[1])
for kind in KINDS:
    evaluate(make_task(kind), folder, kind, devices=2)
task = make_task("classification")
trainer = fit(task, folder, ToyData(train=14, val=7, batch_size=2), devices=2, strategy="ddp")
(folder / f"fit_{{trainer.global_rank}}.txt").write_text(str(task.model.head.weight.tolist()))
smooth(folder, devices=2)
watch(folder)
terms(folder)
features(folder)
"""
KINDS = {
    "classification": (ClassificationTask, torch.nn.CrossEntropyLoss),
    "multilabel": (ClassificationTask, torch.nn.BCEWithLogitsLoss),
    "regression": (RegressionTask, torch.nn.HuberLoss),
}


def make_task(kind: str):  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    task, loss = KINDS[kind]
    return task(Net(), loss())


def evaluate(task, folder: Path, kind: str, devices: int) -> None:  # type: ignore[no-untyped-def]
    """17 images: in batches of 2, 9 and 8 images, 5 and 4 batches, on two ranks; at once in one process."""
    trainer = make_trainer(folder, ExactEvaluation(), devices=devices, strategy="ddp" if devices > 1 else "auto")
    (metrics,) = trainer.test(
        task, datamodule=ToyData(kind, val=17, batch_size=2 if devices > 1 else 17), verbose=False
    )
    (folder / f"{kind}_{devices}_{trainer.global_rank}.json").write_text(json.dumps(metrics))


class OneNumber(ToyData):
    """The first of the two numbers."""

    info_of_one = replace(
        INFO["regression"], target_names=("year",), target_mean=(2000.0,), target_std=(10.0,), num_train=24
    )

    def __init__(self, batch_size: int) -> None:
        super().__init__("regression", train=24, val=2, batch_size=batch_size)
        self.info = self.info_of_one

    def _collate(self, samples):  # type: ignore[no-untyped-def]
        found = super()._collate(samples)
        return found | {"targets": found["targets"][:, :1]}


def smooth(folder: Path, devices: int) -> None:
    """Two epochs of a network that stays as it is, whose features a part gathers."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
    part = FeatureDistributionSmoothing(4, bins=6, kernel_size=3)
    task = RegressionTask(network, nn.HuberLoss(), feature_part=part, lr=0.0)
    trainer = fit(
        task,
        folder,
        OneNumber(batch_size=12 // devices),
        epochs=2,
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
    )
    found = [tensor.flatten().tolist() for tensor in (part.running_mean, part.running_var, part.count, part.total)]
    (folder / f"smooth_{devices}_{trainer.global_rank}.json").write_text(json.dumps(found))


class Watched(ClassificationTask):
    """Notes what each image of its batches costs, and whether its label is found."""

    def __init__(self, model: nn.Module, loss: nn.Module) -> None:
        super().__init__(model, loss, lr=0.05)
        self.seen: list[tuple[float, float]] = []

    def log_training(self, outputs: torch.Tensor, batch: ImageBatch) -> None:
        super().log_training(outputs, batch)
        cost = nn.functional.cross_entropy(outputs, batch["targets"]).item()
        self.seen += [(cost, float(found)) for found in outputs.argmax(1) == batch["targets"]]


def watch(folder: Path) -> None:
    """15 images: 8 and 7 for the two ranks, in batches of 3."""
    torch.manual_seed(0)
    task = Watched(Net(), nn.CrossEntropyLoss())
    trainer = fit(task, folder, ToyData(train=15, val=2, batch_size=3), devices=2, strategy="ddp")
    logged = {name: trainer.callback_metrics[name].item() for name in ("train/loss", "train/accuracy")}
    (folder / f"watched_{trainer.global_rank}.json").write_text(json.dumps([task.seen, logged]))


class Brightness(nn.Module):
    """Not a detector at all, but a task of detection takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor, mask: Tensor | None) -> Tensor:
        return images.mean((1, 2, 3)) * self.factor

    def postprocess(self, outputs: Tensor, sizes: Tensor) -> list[Prediction]:
        return []


class Terms(nn.Module):
    weights: ClassVar = {"loss_ce": 1.0}

    def forward(self, outputs: Tensor, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        found = {"loss_ce": outputs.mean()}
        labels = torch.cat([target["labels"] for target in targets]).float()
        return found | ({"matched_iou": labels.mean()} if len(labels) else {})


def terms(folder: Path) -> None:
    """3 batches for each rank: 1, 2, 3 images of one brightness, with two labels each on the first rank only."""
    task = DetectionTask(Brightness(), Terms(), lr=0.0)
    task.info = replace(INFO["classification"], task="detection", mean=(0.0,) * 3, std=(1 / 255,) * 3)
    rank = int(os.environ.get("LOCAL_RANK", 0))
    batches = []
    for size in (1, 2, 3):
        images = torch.full((size, 3, 4, 4), 10 * size + rank, dtype=torch.uint8)
        target = {"labels": torch.arange(0 if rank else 2), "boxes": torch.rand(0 if rank else 2, 4)}
        batches.append({"images": images, "mask": None, "targets": [target] * size})
    trainer = make_trainer(folder, devices=2, strategy="ddp", limit_val_batches=0)
    trainer.fit(task, train_dataloaders=DataLoader(batches, batch_size=None))
    logged = {name: trainer.callback_metrics[f"train/{name}"].item() for name in ("loss_ce", "matched_iou")}
    (folder / f"terms_{trainer.global_rank}.json").write_text(json.dumps(logged))


class Spread(nn.Module):
    """An auxiliary loss."""

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return embeddings.square().mean()


class Noted(DistillationTask):
    """Notes the two losses beside the loss of each step."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.seen: dict[str, list[float]] = {"auxiliary": [], "distill": []}

    def log_auxiliary(self, loss: Tensor, batch_size: int) -> Tensor:
        assert self._auxiliary is not None
        self.seen["auxiliary"] += [self._auxiliary.item()] * batch_size
        return super().log_auxiliary(loss, batch_size)

    def log_training(self, outputs: Tensor, batch: ImageBatch) -> None:
        super().log_training(outputs, batch)
        assert self._distill_loss is not None
        self.seen["distill"] += [self._distill_loss.item()] * len(outputs)


def features(folder: Path) -> None:
    torch.manual_seed(0)
    task = Noted(Net(), nn.CrossEntropyLoss(), teacher="ema", auxiliary_loss=Spread(), lr=0.05)
    trainer = fit(task, folder, ToyData(train=15, val=2, batch_size=3), devices=2, strategy="ddp")
    logged = {name: trainer.callback_metrics[f"train/{name}_loss"].item() for name in task.seen}
    (folder / f"features_{trainer.global_rank}.json").write_text(json.dumps([task.seen, logged]))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory, run_script: Callable[[Path, str], None]) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    run_script(folder, SCRIPT.format(tests=str(Path(__file__).parent)))
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_two_ranks_measure_what_one_does(ranks: Path, kind: str, tmp_path: Path) -> None:
    evaluate(make_task(kind), tmp_path, kind, devices=1)
    expected = json.loads((tmp_path / f"{kind}_1_0.json").read_text())
    first, second = (json.loads((ranks / f"{kind}_2_{rank}.json").read_text()) for rank in (0, 1))
    assert len(expected) > 5
    assert first == pytest.approx(expected, rel=1e-5)
    assert second == first


def test_two_ranks_train_one_network(ranks: Path) -> None:
    first, second = ((ranks / f"fit_{rank}.txt").read_text() for rank in (0, 1))
    assert first == second


def test_what_training_logs_is_of_all_ranks(ranks: Path) -> None:
    first, second = (json.loads((ranks / f"watched_{rank}.json").read_text()) for rank in (0, 1))
    costs, right = zip(*first[0], *second[0], strict=True)
    assert len(costs) == 15
    assert first[1] == pytest.approx({"train/loss": sum(costs) / 15, "train/accuracy": sum(right) / 15})
    assert second[1] == first[1]


def test_terms_of_a_detectors_loss_are_of_all_ranks(ranks: Path) -> None:
    first, second = (json.loads((ranks / f"terms_{rank}.json").read_text()) for rank in (0, 1))
    images = sum(size * (2 * 10 * size + 1) for size in (1, 2, 3)) / 12
    assert first == pytest.approx({"loss_ce": images, "matched_iou": 0.5})  # the labels 0 and 1, on rank 0 only
    assert second == first


def test_losses_beside_the_loss_are_of_all_ranks(ranks: Path) -> None:
    first, second = (json.loads((ranks / f"features_{rank}.json").read_text()) for rank in (0, 1))
    for name, logged in first[1].items():
        values = first[0][name] + second[0][name]
        assert len(values) == 15
        assert logged == pytest.approx(sum(values) / 15, rel=1e-5)
    assert second[1] == first[1]


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_two_ranks_gather_the_features_that_one_does(ranks: Path, tmp_path: Path) -> None:
    """Of all samples, though DDP copies the first rank's buffers to the others before each step."""
    smooth(tmp_path, devices=1)
    expected = json.loads((tmp_path / "smooth_1_0.json").read_text())
    first, second = (json.loads((ranks / f"smooth_2_{rank}.json").read_text()) for rank in (0, 1))
    assert sum(expected[2]) == 24  # of the second epoch; the first is taken over
    for found, values in zip(first, expected, strict=True):
        assert found == pytest.approx(values, rel=1e-4, abs=1e-5)
    assert second == first
