"""``--devices 2`` on a CPU: the real script, Lightning's launcher and gloo, in a process of its own."""

import csv
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
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


def start(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE")}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / "recipes" / "train_detr.py"), *argv]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Two ranks, five validation images, and training images of which all but one hold no object."""
    folder = tmp_path_factory.mktemp("two_ranks")
    write_coco(folder / "coco", {"train": 6, "val": 5, "test": 3}, empty=5)
    (folder / f"{NAME}.py").write_text(textwrap.dedent(CODE))
    (folder / "tiny.yaml").write_text(TINY)
    (folder / "spy.yaml").write_text(f"trainer: {{callbacks: [{{class_path: {NAME}.Spy}}]}}\nwandb: offline\n")
    argv = ["--config", "tiny.yaml", "--config", "spy.yaml", "--data", "coco", "--devices", "2", "--batch-size", "1"]
    return folder, start(folder, *argv)


def test_run_ends_well_and_speaks_with_one_voice(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, process = finished
    assert process.returncode == 0, process.stderr
    assert "2 x cpu" in process.stdout
    assert "2 device(s) x 1 images x 1 accumulated = 2 images a step" in process.stdout
    for once in ("epoch 1/2", "epoch 2/2", "best val/map", "No data was given", "parameters"):
        assert process.stdout.count(once) == (0 if once == "No data was given" else 1), once
    assert process.stderr == ""


def test_one_run_folder_and_one_tracked_run(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = finished
    assert [path.name for path in (folder / "runs").iterdir()] == ["detr-001"]
    run = folder / "runs" / "detr-001"
    assert len(list((run / "wandb").glob("offline-run-*/run-*.wandb"))) == 1
    assert len(json.loads((run / "run.json").read_text())["starts"]) == 1


def test_equal_weights_though_a_rank_had_nothing_to_find(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = finished
    ranks = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0]["weights"] == ranks[1]["weights"]
    assert ranks[0]["empty"] + ranks[1]["empty"] == 10  # of 12 batches in two epochs


def test_every_image_is_evaluated_once(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = finished
    images = [json.loads((folder / f"rank-{rank}.json").read_text())["images"] for rank in (0, 1)]
    assert sorted(images[0] + images[1]) == [f"val_{i}.png" for i in range(5)]


def test_two_ranks_measure_what_one_process_measures(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    """The last checkpoint of the two ranks, evaluated by one process, gives the logged numbers."""
    from lightning.pytorch import Trainer

    from dlrecipes.data import DetectionData
    from dlrecipes.tasks import DetectionTask
    from dlrecipes.trainer import quiet_lightning

    quiet_lightning()
    folder, _ = finished
    run = folder / "runs" / "detr-001"
    task = DetectionTask.load_from_checkpoint(run / "checkpoints" / "last.ckpt")
    data = DetectionData(str(folder / "coco"), batch_size=5, num_workers=0, image_size=64)
    trainer = Trainer(logger=False, enable_progress_bar=False, use_distributed_sampler=False, accelerator="cpu")
    (measured,) = trainer.validate(task, datamodule=data, verbose=False)
    with (run / "metrics.csv").open() as file:
        logged = [row for row in csv.DictReader(file) if row["val/map"]][-1]
    for name in ("val/map", "val/map_50", "val/mar_100", "val/map_class/disc"):
        assert measured[name] == pytest.approx(float(logged[name]), abs=1e-6), name
