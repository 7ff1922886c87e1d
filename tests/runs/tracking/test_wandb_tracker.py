"""The offline files are read back with W&B's own records, so that what a sync would upload is what is tested."""

import http.server
import json
import struct
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from image_runs import GivenAnswers, make_info, make_trainer
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from dlrecipes.checkpoint_io import save_checkpoint_file
from dlrecipes.runs.folder import RunFolder
from dlrecipes.runs.metrics_csv import MetricsResume
from dlrecipes.runs.pictures.detection_pictures import DetectionTracker, PredictionPictures
from dlrecipes.runs.pictures.image_curves import ImageCurves
from dlrecipes.runs.pictures.image_pictures import ImageBatchPicture, ImagePredictions
from dlrecipes.runs.pictures.tiles import DetectionPicture
from dlrecipes.runs.tracking.tracked import ImageTracker, TableTracker
from dlrecipes.runs.tracking.wandb_tracker import WandbTracker, make_tracker


@pytest.fixture(autouse=True)
def _fresh_machine(monkeypatch, tmp_path):
    import wandb

    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_PROJECT", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def run(tmp_path):
    (tmp_path / "detr-001").mkdir()
    return RunFolder(tmp_path / "detr-001")


def records(file: Path):
    """Parse a .wandb file: 7 bytes of header, then blocks of 32 KiB with (crc, length, type) before each piece."""
    from wandb.proto import wandb_internal_pb2

    data, position, whole, found = file.read_bytes(), 7, b"", []
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        whole += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # full, or the last piece
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            found.append(record)
            whole = b""
    return found


def finished_records(file: Path, seconds: float = 20.0):
    """The records once the exit is among them: W&B's service is a process of its own and writes on for a while."""
    deadline = time.monotonic() + seconds
    found = records(file)
    while all(record.WhichOneof("record_type") != "exit" for record in found) and time.monotonic() < deadline:
        time.sleep(0.2)
        found = records(file)
    return found


class Offline:
    """What one offline W&B run holds."""

    def __init__(self, file: Path) -> None:
        self.folder = file.parent
        self.history: dict[str, list] = defaultdict(list)
        self.config: dict[str, object] = {}
        self.artifacts, self.exit_code, self.run_id, self.run = [], None, None, None
        for record in finished_records(file):
            kind = record.WhichOneof("record_type")
            if kind == "history":
                row: dict = {}
                for item in record.history.item:
                    *parents, last = list(item.nested_key) or [item.key]
                    place = row
                    for parent in parents:
                        place = place.setdefault(parent, {})
                    place[last] = json.loads(item.value_json)
                for key, value in row.items():
                    self.history[key].append(value)
            elif kind == "run":
                self.run = record.run
                self.run_id = record.run.run_id
                self.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            elif kind == "config":
                self.config |= {item.key: json.loads(item.value_json) for item in record.config.update}
            elif kind == "artifact":
                self.artifacts.append(record.artifact)
            elif kind == "request" and record.request.HasField("log_artifact"):
                self.artifacts.append(record.request.log_artifact.artifact)
            elif kind == "exit":
                self.exit_code = record.exit.exit_code


def offline_runs(run):
    return [Offline(file) for file in sorted(run.path.glob("wandb/offline-run-*/run-*.wandb"))]


def picture(n=1):
    boxes = torch.tensor([[1.0, 2.0, 11.0, 22.0]] * n)
    labels = torch.ones(n, dtype=torch.int64)
    scores = torch.full((n,), 0.75)
    return DetectionPicture(torch.zeros(3, 30, 40, dtype=torch.uint8), "a.jpg", boxes, labels, boxes, labels, scores)


def test_a_fit_offline_holds_everything(run, toy, fit):
    tracker, sentence = make_tracker("auto", run, "my project", {"lr": 1e-4, "nested": {"path": Path("x")}})
    assert isinstance(tracker, DetectionTracker)
    assert sentence.startswith("W&B: offline (no API key")
    assert sentence.endswith(f"wandb sync {run.path}/wandb/offline-run-*")
    fit(toy, 2, [PredictionPictures(run, n=20)], [tracker])
    save_checkpoint_file({"state_dict": {}}, run.best_checkpoint)
    tracker.log_checkpoint(run.best_checkpoint, {"val/map": 0.2})
    save_checkpoint_file({"state_dict": {"later": 1}}, run.best_checkpoint)
    tracker.finish(143)
    tracker.log_metrics({"late": 1.0})  # after the end: nothing happens
    [seen] = offline_runs(run)
    info = run.read_info()["wandb"]
    assert info == {"id": seen.run_id, "mode": "offline", "project": "my project"}
    assert seen.run.display_name == "detr-001"
    assert seen.run.project == "my project"
    assert seen.config["lr"] == 1e-4
    assert seen.config["nested"] == {"path": "x"}
    assert seen.history["val/map"] == pytest.approx([0.1, 0.2])
    assert set(seen.history["trainer/global_step"]) == {0, 1, 2, 3}
    assert len(seen.history["val/predictions"]) == 2
    assert "late" not in seen.history
    assert seen.exit_code == 143
    [artifact] = seen.artifacts
    assert (artifact.name, artifact.type) == (f"model-{seen.run_id}", "model")
    assert "best" in artifact.aliases
    [entry] = artifact.manifest.contents
    assert entry.path == "best.ckpt"
    assert torch.load(entry.local_path, weights_only=True) == {"state_dict": {}}  # as it was when it was logged


def test_images_have_boxes_with_names_and_scores(run, toy, fit):
    tracker, _ = make_tracker("offline", run, "p", {})
    tracker.log_detections("val/predictions", [picture(60)] * 20, ("cat", "dog"), step=5)
    tracker.finish()
    [seen] = offline_runs(run)
    [images] = seen.history["val/predictions"]
    assert images["count"] == 16
    assert (images["width"], images["height"]) == (40, 30)
    assert images["captions"] == ["a.jpg"] * 16
    file = seen.folder / "files" / images["all_boxes"][0]["predictions"]["path"]
    boxes = json.loads(file.read_text())
    assert boxes["class_labels"] == {"0": "cat", "1": "dog"}
    assert len(boxes["box_data"]) == 50
    assert boxes["box_data"][0] == {
        "position": {"minX": 1, "minY": 2, "maxX": 11, "maxY": 22}, "domain": "pixel", "class_id": 1,
        "box_caption": "dog 0.75", "scores": {"score": 0.75},
    }  # fmt: skip
    truth = json.loads((seen.folder / "files" / images["all_boxes"][0]["ground_truth"]["path"]).read_text())
    assert truth["box_data"][0]["box_caption"] == "dog"
    assert (seen.folder / "files" / images["filenames"][0]).exists()


def test_pictures_and_the_table_of_mistakes_of_a_classifier(run):
    targets = torch.arange(8) % 3
    answers = torch.nn.functional.one_hot(targets, 3).float() * 0.6 + 0.1
    answers[3] = torch.tensor([0.2, 0.5, 0.3])
    model = GivenAnswers(make_info(), targets, answers)
    tracker, _ = make_tracker("offline", run, "p", {})
    assert isinstance(tracker, ImageTracker)
    assert isinstance(tracker, TableTracker)
    trainer = make_trainer([ImageBatchPicture(run), ImagePredictions(run, n=2), ImageCurves(run)], [tracker])
    trainer.fit(model, model.loader(), model.loader())
    trainer.test(model, model.loader(), verbose=False)
    tracker.finish()
    [seen] = offline_runs(run)
    for key in ("train/batch", "test/confusion", "test/pr_curves", "test/reliability", "test/mistakes"):
        [panel] = seen.history[key]
        assert (panel["_type"], panel["count"]) == ("images/separated", 1), key
        assert (seen.folder / "files" / panel["filenames"][0]).exists()
    [predictions] = seen.history["val/predictions"]
    assert predictions["captions"] == ["2.jpg: true Käfer, said Käfer .70", "6.jpg: true cat, said cat .70"]
    assert (predictions["width"], predictions["height"]) == (16, 16)
    [entry] = seen.history["test/mistakes_table"]
    table = json.loads((seen.folder / "files" / entry["path"]).read_text())
    assert table["columns"] == ["image", "file", "true", "predicted", "probability", "probability of the true class"]
    assert table["data"][0][1:] == ["folder/3.jpg", "cat", "dog", 0.5, pytest.approx(0.2)]
    [artifact] = seen.artifacts  # where W&B keeps the pictures of a table's cells
    [thumbnail] = [entry for entry in artifact.manifest.contents if entry.path.endswith(".png")]
    with Image.open(thumbnail.local_path) as image:
        assert image.convert("RGB").getextrema() == ((3, 3),) * 3  # image 3 is filled with threes
    assert set(seen.history["trainer/global_step"]) == {0, 1, 2}


def test_a_table_without_a_place_for_its_pictures_does_not_stop_the_tracking(run, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "file"))  # where W&B puts them; often a home that is read-only
    tracker, _ = make_tracker("offline", run, "p", {})
    tracker.log_table("mistakes", ["image"], [[torch.zeros(3, 4, 4, dtype=torch.uint8)]])
    tracker.log_metrics({"loss": 1.0}, step=0)
    tracker.finish()
    assert "W&B table 'mistakes' was not logged (" in capsys.readouterr().out
    [seen] = offline_runs(run)
    assert seen.history["loss"] == [1.0]
    assert "mistakes" not in seen.history


def test_resume_goes_on_in_the_same_wandb_run(run):
    for value in (1.0, 2.0):
        tracker, _ = make_tracker("offline", RunFolder(run.path), "p", {})
        tracker.log_metrics({"loss": value}, step=int(value))
        tracker.finish()
        [folder] = run.path.glob("wandb/offline-run-2*")
        folder.rename(folder.with_name(f"offline-run-{value}"))  # W&B names folders by the second
    first, second = offline_runs(run)
    assert first.run_id == second.run_id == tracker.run_id
    assert (first.history["loss"], second.history["loss"]) == ([1.0], [2.0])
    assert make_tracker("offline", run, "p", {}, run_id="given")[0].run_id == "given"


def test_a_test_has_the_epoch_of_its_checkpoint(run):
    tracker = WandbTracker("offline", run, "detr", {}, run_id="abc")
    told = MetricsResume()
    told.on_load_checkpoint(None, None, {"epoch": 3})
    trainer = SimpleNamespace(loggers=[tracker])
    told.on_test_start(trainer, None)
    tracker.log_metrics({"test/map": 0.25, "epoch": 6}, step=8)
    told.on_test_end(trainer, None)
    tracker.log_metrics({"val/map": 0.5, "epoch": 6}, step=9)
    tracker.finalize("success")
    [seen] = offline_runs(run)
    assert seen.history["epoch"] == [3.0, 6.0]


@pytest.mark.parametrize("method", ["init", "log"])
def test_a_failure_of_wandb_does_not_stop_a_fit(run, toy, fit, monkeypatch, capsys, method):
    import wandb

    def fail(*args, **kwargs):
        calls.append(method)
        raise wandb.Error("the server\nis on fire")

    calls = []
    monkeypatch.setattr(*((wandb, "init") if method == "init" else (wandb.Run, "log")), fail)
    tracker, _ = make_tracker("offline", run, "p", {})
    trainer = fit(toy, 2, [PredictionPictures(run)], [tracker])
    tracker.log_checkpoint(run.path / "missing.ckpt")
    tracker.finish()
    assert trainer.global_step == 4
    assert len(calls) == 1  # tracking stopped, and did not fail again and again
    said = [line for line in capsys.readouterr().out.splitlines() if "W&B" in line]
    assert said == ["W&B tracking stopped (Error: the server); training goes on, metrics.csv has all numbers."]


def test_ctrl_c_is_not_swallowed(run, monkeypatch):
    import wandb

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(wandb, "init", interrupt)
    tracker, _ = make_tracker("offline", run, "p", {})
    with pytest.raises(KeyboardInterrupt):
        tracker.log_metrics({"a": 1.0})


class _Refusing(http.server.BaseHTTPRequestHandler):
    """An API that answers every request with "unauthorized"."""

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        body = b'{"errors": [{"message": "bad key"}]}'
        self.send_response(401)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST

    def log_message(self, *args):
        pass


def test_an_online_start_that_fails_goes_on_offline(run, monkeypatch, capsys):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        tracker, sentence = make_tracker("auto", run, "p", {})
        assert sentence.startswith("W&B: online")
        tracker.log_metrics({"loss": 1.5}, step=3)
        tracker.finish()
        server.shutdown()
    assert "W&B could not go online" in capsys.readouterr().out
    [seen] = offline_runs(run)
    assert seen.history["loss"] == [1.5]
    assert run.read_info()["wandb"]["mode"] == "offline"


def test_off_and_other_ranks_do_nothing(run, monkeypatch):
    assert make_tracker("off", run, "p", {}) == (None, "W&B: off (as asked).")
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    tracker, sentence = make_tracker("online", run, "p", {})
    tracker.log_metrics({"a": 1.0})
    tracker.log_detections("k", [picture()], ("a", "b"))
    tracker.finish(1)
    assert sentence == ""
    assert tracker.experiment is None
    assert not (run.path / "wandb").exists()
    assert make_tracker("off", run, "p", {}) == (None, "")


def test_bad_modes_are_named(run):
    with pytest.raises(ValueError, match="got 'on'"):
        make_tracker("on", run, "p", {})
    with pytest.raises(ValueError, match="got 'off'"):
        WandbTracker("off", run, "p", {}, "id")


def test_hyperparameters_are_added_as_text_where_json_ends(run):
    class Module(pl.LightningModule):
        pass

    tracker, _ = make_tracker("offline", run, "p", {"lr": 1})
    tracker.log_hyperparams({"lr": 2, "model": Module, "_instantiator": "x"})
    tracker.finish()
    [seen] = offline_runs(run)
    assert seen.config["lr"] == 2
    assert "Module" in seen.config["model"]
    assert "_instantiator" not in seen.config
