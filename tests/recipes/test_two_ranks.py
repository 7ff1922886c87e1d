"""``--devices 2`` on a CPU: the real scripts, Lightning's launcher and gloo, in a process of its own."""

import csv
import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny_images import CLASSES, TINY_MIXER, write_photos
from tiny_runs import ROOT, TINY, write_coco

NAME = "spying_project"

# Each rank writes down its weights and the validation images it saw.
CODE = """
import hashlib
import json
from pathlib import Path

from lightning.pytorch import Callback


class Spy(Callback):
    def __init__(self) -> None:
        self.images = []
        self.empty = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if isinstance(batch["targets"], list):
            self.empty += sum(len(target["labels"]) for target in batch["targets"]) == 0

    def on_validation_epoch_start(self, trainer, pl_module):
        self.images = []

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.images += [Path(path).name for path in batch["paths"]]

    def on_fit_end(self, trainer, pl_module):
        digest = hashlib.sha256()
        for value in pl_module.state_dict().values():
            digest.update(value.numpy().tobytes())
        seen = {"weights": digest.hexdigest(), "images": self.images, "empty": self.empty}
        Path(f"rank-{trainer.global_rank}.json").write_text(json.dumps(seen))
"""


@dataclass
class Finished:
    """What a run on two ranks left: its folder, what was printed, and by each rank what the spy saw."""

    run: Path
    data: Path
    process: subprocess.CompletedProcess[str]

    @property
    def ranks(self) -> list[dict[str, Any]]:
        folder = self.run.parents[1]
        return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


def start(script: str, config: str, data: Path, *options: str) -> Finished:
    """Run a recipe in the folder of its data."""
    folder = data.parent
    (folder / f"{NAME}.py").write_text(textwrap.dedent(CODE))
    (folder / "tiny.yaml").write_text(config)
    (folder / "spy.yaml").write_text(f"trainer: {{callbacks: [{{class_path: {NAME}.Spy}}]}}\n")
    environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE")}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, ROOT / "recipes" / f"{script}.py", "--config", "tiny.yaml", "--config", "spy.yaml"]
    command += ["--data", data.name, "--devices", "2", "--epochs", "2", *options]
    process = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    (run,) = (folder / "runs").iterdir()
    return Finished(run, data, process)


@pytest.fixture(scope="module")
def detected(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Two ranks, five validation images, and training images of which all but one hold no object."""
    data = write_coco(tmp_path_factory.mktemp("detr") / "coco", {"train": 6, "val": 5, "test": 3}, empty=5)
    return start("train_detr", TINY, data, "--batch-size", "1", "--wandb", "offline")


@pytest.fixture(scope="module")
def classified_by_two(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Two ranks and fifteen validation images, in batches of four: one rank has more of them, and smaller batches."""
    data = write_photos(tmp_path_factory.mktemp("mixer") / "photos", {"train": 8, "val": 5, "test": 3})
    return start("train_mlp_mixer", TINY_MIXER, data, "--batch-size", "4")


@pytest.fixture(scope="module", params=["detected", "classified_by_two"])
def finished(request: pytest.FixtureRequest) -> Finished:
    run: Finished = request.getfixturevalue(request.param)
    return run


def test_run_ends_well_and_speaks_with_one_voice(finished: Finished) -> None:
    process = finished.process
    assert process.returncode == 0, process.stderr
    assert "2 x cpu" in process.stdout
    for once in ("epoch 1/2", "epoch 2/2", "best val/", "parameters", "No problems found", "images a step"):
        assert process.stdout.count(once) == 1, once
    assert "No data was given" not in process.stdout
    assert process.stderr == ""


def test_images_of_a_step_are_those_of_both(detected: Finished, classified_by_two: Finished) -> None:
    assert "2 devices x 1 image x 1 accumulated = 2 images a step" in detected.process.stdout
    assert "2 devices x 4 images x 1 accumulated = 8 images a step" in classified_by_two.process.stdout


def test_one_run_folder(finished: Finished) -> None:
    assert finished.run.name in ("detr-001", "mixer-001")
    assert len(json.loads((finished.run / "run.json").read_text())["starts"]) == 1


def test_one_tracked_run(detected: Finished) -> None:
    assert len(list((detected.run / "wandb").glob("offline-run-*/run-*.wandb"))) == 1


def test_equal_weights(finished: Finished) -> None:
    """In detection, though a rank had nothing to find in ten of twelve batches."""
    first, second = finished.ranks
    assert first["weights"] == second["weights"]
    assert first["empty"] + second["empty"] == (10 if finished.run.name == "detr-001" else 0)


def test_every_image_is_evaluated_once(finished: Finished) -> None:
    first, second = finished.ranks
    assert abs(len(first["images"]) - len(second["images"])) <= 1
    expected = sorted(path.name for path in (finished.data / "val").rglob("*.png"))
    assert sorted(first["images"] + second["images"]) == expected


@pytest.mark.parametrize(
    ("name", "metrics"),
    [
        ("detected", ("map", "map_50", "mar_100", "map_class/disc")),
        ("classified_by_two", ("loss", "accuracy", "f1", "auprc", "ece", "nll", f"recall_class/{CLASSES[2]}")),
    ],
)
def test_two_ranks_measure_what_one_process_measures(
    name: str, metrics: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    """The last checkpoint of the two ranks, evaluated by one process, gives the logged numbers."""
    from lightning.pytorch import LightningDataModule, Trainer

    from dlrecipes.data import ClassificationData, DetectionData
    from dlrecipes.tasks import ClassificationTask, DetectionTask
    from dlrecipes.trainer import quiet_lightning

    quiet_lightning()
    finished: Finished = request.getfixturevalue(name)
    task: ClassificationTask | DetectionTask
    data: LightningDataModule
    checkpoint = finished.run / "checkpoints" / "last.ckpt"
    if name == "detected":
        task = DetectionTask.load_from_checkpoint(checkpoint)
        data = DetectionData(str(finished.data), batch_size=5, num_workers=0, image_size=64)
    else:
        task = ClassificationTask.load_from_checkpoint(checkpoint)
        data = ClassificationData(str(finished.data), batch_size=5, num_workers=0)
    trainer = Trainer(logger=False, enable_progress_bar=False, use_distributed_sampler=False, accelerator="cpu")
    (measured,) = trainer.validate(task, datamodule=data, verbose=False)
    with (finished.run / "metrics.csv").open() as file:
        logged = [row for row in csv.DictReader(file) if row["val/loss"]][-1]
    for metric in metrics:
        assert measured[f"val/{metric}"] == pytest.approx(float(logged[f"val/{metric}"]), abs=1e-6), metric
