"""A real fit on two processes, started as Lightning's launcher starts them: one folder, one W&B run, exact counts."""

import json
import os
import subprocess
import sys
from pathlib import Path

from dlrecipes.runs.metrics_csv import read_metrics

SCRIPT = """
import sys
from pathlib import Path

sys.path.insert(0, {tests!r})
import lightning.pytorch as pl
import torch
from conftest import ToyDetector, make_batch
from dlrecipes.checkpoint_io import SafeCheckpointIO
from dlrecipes.runs import *
from dlrecipes.runs.pictures import detection_curves
from dlrecipes.runs.pictures import image_curves
from image_runs import GivenAnswers, make_info

run = RunFolder.create(sys.argv[1], "toy")
run.write_info(seed=0, device="cpu") if pl.utilities.rank_zero_only.rank == 0 else None
tracker, sentence = make_tracker("offline", run, "p", {{}})
loader = torch.utils.data.DataLoader([0, 4], batch_size=1, collate_fn=lambda starts: make_batch(starts[0]))
trainer = pl.Trainer(
    accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, log_every_n_steps=1, enable_progress_bar=False,
    enable_model_summary=False, logger=[MetricsCSV(run.metrics), tracker], plugins=[SafeCheckpointIO()],
    callbacks=[
        pl.callbacks.ModelCheckpoint(run.checkpoints, filename="best", save_last=True), MetricsResume(), EpochLines(),
        TrainBatchPicture(run), PredictionPictures(run), CurvesPicture(run), DetectionCurves(run),
    ],
)
drawn = []
detection_curves.draw_detection_confusion = lambda matrix, classes, path, score: drawn.append(matrix.tolist())
model = ToyDetector()
trainer.fit(model, loader, loader)
trainer.test(model, loader, verbose=False)
tracker.finish()
second = RunFolder.create(sys.argv[1], "toy")
(Path(sys.argv[1]) / f"rank{{trainer.global_rank}}.txt").write_text(f"{{run.name}} {{second.name}} {{drawn}}")

class Shares(GivenAnswers):
    def test_dataloader(self):  # of 11 images rank 0 has 6 and rank 1 has 5, as our samplers share them out
        share = range(self.trainer.global_rank, 11, 2)
        return torch.utils.data.DataLoader(share, batch_size=2, collate_fn=self.collate)

targets = torch.arange(11) % 3
answers = torch.nn.functional.one_hot(targets, 3).float() * 0.6 + 0.1
answers[3], answers[8] = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.05, 0.9, 0.05])
said = []
image_curves.draw_class_confusion = lambda true, found, *rest: said.append((true.tolist(), found.tolist()))
image_curves.draw_mistakes = lambda worst, *rest: said.append([(w.path, round(w.score, 3)) for w in worst])
trainer = pl.Trainer(
    accelerator="cpu", devices=2, strategy="ddp", use_distributed_sampler=False, callbacks=[ImageCurves(second)],
    logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
)
trainer.test(Shares(make_info(), targets, answers), verbose=False)
(Path(sys.argv[1]) / f"images{{trainer.global_rank}}.txt").write_text(repr(said))
"""


def test_two_ranks_make_one_run(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "DLRECIPES_RUN_FOLDER")}
    environment |= {"OMP_NUM_THREADS": "1", "WANDB_CONSOLE": "off", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(script), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(p.name for p in (tmp_path / "out").glob("toy-*")) == ["toy-001", "toy-002"]
    # images 1, 2, 4, 5 and 7 have boxes: counted over both ranks, each once
    matrix = [[0, 0, 0, 2], [0, 3, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0]]
    assert (tmp_path / "out" / "rank0.txt").read_text() == f"toy-001 toy-002 {[matrix]}"
    assert (tmp_path / "out" / "rank1.txt").read_text() == "toy-001 toy-002 []"
    run = tmp_path / "out" / "toy-001"
    assert [row["step"] for row in read_metrics(run / "metrics.csv")] == [0, 1]
    assert len(list(run.glob("wandb/offline-run-*"))) == 1
    assert json.loads((run / "run.json").read_text())["wandb"]["mode"] == "offline"
    assert done.stdout.count("epoch 1/1") == 1
    for name in ("batch.png", "curves.png", "pr_curves.png", "predictions/epoch_001.png", "checkpoints/last.ckpt"):
        assert (run / name).exists(), name
    # the second run's test of a classifier, with unequal shares
    labels = [i % 3 for i in range(11)]
    found = [{3: 1, 8: 1}.get(i, label) for i, label in enumerate(labels)]
    expected = [(labels, found), [("folder/8.jpg", 0.9), ("folder/3.jpg", 0.5)]]
    assert (tmp_path / "out" / "images0.txt").read_text() == repr(expected)
    assert (tmp_path / "out" / "images1.txt").read_text() == "[]"
    assert (tmp_path / "out" / "toy-002" / "pr_curves.png").exists()
