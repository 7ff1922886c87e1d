"""``dlrecipes shift``: silent about the same images, exit code 1 and an answer where they have moved."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from dlrecipes.cli.actions import shift as module
from dlrecipes.cli.actions.shift_advice import Remedies, next_steps, remedies
from dlrecipes.cli.actions.shift_images import read_shift_images
from dlrecipes.cli.commands import main
from dlrecipes.data import ClassificationData
from dlrecipes.models import TimmClassifier
from dlrecipes.shift import ShiftFeatures, ShiftReport, compare
from dlrecipes.tasks import ClassificationTask

SIDE = 24


def write(folder: Path, count: int, seed: int, scale: float = 1.0, classes: tuple[str, ...] = ()) -> Path:
    random = np.random.default_rng(seed)
    for index in range(count):
        inside = folder / classes[index % len(classes)] if classes else folder
        inside.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(60, 160, (SIDE, SIDE, 3)) + random.integers(-30, 30, 3)
        pixels[: SIDE // 2, :, index % 3] += 40
        Image.fromarray((pixels * scale).clip(0, 255).astype(np.uint8)).save(inside / f"{index:03d}.png")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("shift")
    write(home / "reference", 48, 1)
    write(home / "same", 44, 2)
    write(home / "dark", 44, 3, scale=0.6)
    write(home / "labelled" / "train", 24, 4, classes=("a", "b", "c"))
    write(home / "labelled" / "val", 42, 5, classes=("a", "b", "c"))
    return home


@pytest.fixture(scope="module")
def checkpoint(folders: Path) -> Path:
    torch.manual_seed(0)
    task = ClassificationTask(TimmClassifier("test_efficientnet", pretrained=False))
    data = ClassificationData(str(folders / "labelled"), batch_size=12, num_workers=0)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, default_root_dir=folders,
    )  # fmt: skip
    trainer.fit(task, data)
    file = folders / "run" / "checkpoints" / "best.ckpt"
    trainer.save_checkpoint(file)
    return file


def test_the_same_images(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["shift", str(folders / "reference"), str(folders / "same"), "--output", str(tmp_path)])
    said = capsys.readouterr().out
    assert code == 0
    assert said.startswith("ok: covariate shift: no shift seen")
    assert "next: Nothing: no shift is seen" in said


def test_darker_images_without_a_run(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["shift", str(folders / "reference"), str(folders / "dark"), "--output", str(tmp_path)])
    said = capsys.readouterr().out
    assert code == 1
    assert "harm unknown" in said
    assert re.search(r"moved: image property: brightness lower", said)
    assert "next: Look at the most shifted images" in said

    found = json.loads((tmp_path / "shift.json").read_text())
    assert ShiftReport.from_dict(found).shifted
    assert [Path(file).parent.name for file in found["most_shifted_files"]] == ["dark"] * 16
    for name in ("effects", "distributions", "most_shifted"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert min(picture.size) >= 200
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 20

    html = (tmp_path / "shift.html").read_text()
    sources = re.findall(r'src="([^"]{22})', html)
    assert sources == ["data:image/png;base64,"] * 3  # nothing else is needed to look at it
    assert html.count("<h2>") == html.count("</h2>") >= 6
    markdown = (tmp_path / "shift.md").read_text()
    assert "## What do I do now?" in markdown
    assert "| KS |" in markdown


def test_with_a_run(folders: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["shift", str(folders / "labelled"), str(folders / "dark"), "--run", str(checkpoint)]
    assert main(words) == 1
    said = capsys.readouterr().out
    assert "χ²" in said
    assert "batch norms" in said
    found = json.loads((folders / "run" / "shift-001" / "shift.json").read_text())
    assert found["harm"]["reference_accuracy"] <= 1  # the validation split's labels are known
    assert found["sizes"] == [42, 44]
    assert any("of the split val" in note for note in found["notes"])
    assert any(culprit["kind"] == "feature" for culprit in found["culprits"])


def test_bad_input_is_one_sentence(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "few", 12, 6)
    write(tmp_path / "corrupt", 24, 7)
    (tmp_path / "corrupt" / "005.png").write_bytes(b"\x89PNG no more")
    good = str(folders / "reference")
    for words, sentence in (
        ((good, "missing"), "missing does not exist"),
        ((good, str(tmp_path / "empty")), "holds no image"),
        ((good, str(tmp_path / "few")), "holds 12 images, and 20 are needed"),
        ((good, str(tmp_path / "corrupt")), "005.png cannot be decoded"),
        ((good, good, "--alpha", "2"), "--alpha must be between 0 and 1"),
        ((good, good, "--limit", "3"), "--limit must be at least 20"),
        ((good, good, "--run", str(tmp_path)), str(tmp_path)),
    ):
        assert main(["shift", *words, "--output", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert sentence in error
        assert error.startswith("error: ")
        assert error.count("\n") == 1


def test_a_detectors_run_is_refused(
    folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = SimpleNamespace(info=SimpleNamespace(task="detection"))
    monkeypatch.setattr(module, "load_task", lambda checkpoint, device: detector)
    monkeypatch.setattr(module, "find_checkpoint", lambda run: (run, run))
    assert main(["shift", str(folders / "reference"), str(folders / "dark"), "--run", "detr"]) == 2
    assert "of the kind detection, whose features are not compared: leave --run out" in capsys.readouterr().err


def test_what_is_read(folders: Path) -> None:
    bare = read_shift_images(folders / "reference", 30, 0, reference=True)
    assert (len(bare.chosen), len(bare.files), bare.targets) == (30, 48, None)
    assert (np.diff(bare.chosen) > 0).all()
    assert not np.array_equal(bare.chosen, read_shift_images(folders / "reference", 30, 1, reference=True).chosen)
    whole = read_shift_images(folders / "labelled", 1000, 0, reference=False)
    assert len(whole.chosen) == 24 + 42
    assert [Path(whole.files.name(row)).parts[-3] for row in (0, 23, 24, 65)] == ["train"] * 2 + ["val"] * 2
    assert whole.labels_as(("c", "b", "a", "d"))[:3].tolist() == [2, 2, 2]
    assert whole.labels_as(("a", "b")) is None


def test_training_images_are_no_reference(
    folders: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = write(tmp_path / "plain", 180, 8, classes=("a", "b", "c"))  # no splits: the run made its own
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    shutil.copy(checkpoint, tmp_path / "run" / "checkpoints")
    spec = {"class_path": "dlrecipes.data.ClassificationData", "init_args": {"path": str(plain), "num_workers": 0}}
    (tmp_path / "run" / "config.yaml").write_text(
        yaml.safe_dump({"model": {"class_path": "dlrecipes.tasks.ClassificationTask"}, "data": spec})
    )
    main(["shift", str(plain), str(folders / "same"), "--run", str(tmp_path / "run"), "--output", str(tmp_path)])
    assert "of the split val, which the run was not trained on" in capsys.readouterr().out

    data = ClassificationData(str(plain), num_workers=0)
    held_out = [data.table("val").images.name(row) for row in range(len(data.table("val")))]
    found = read_shift_images(plain, 1000, 0, reference=True, trained=data)
    assert [found.files.name(row) for row in found.chosen] == held_out
    assert json.loads((tmp_path / "shift.json").read_text())["sizes"][0] == len(held_out) < 40
    assert np.array_equal(found.targets, data.table("val").targets)

    copies = shutil.copytree(plain / "a", tmp_path / "copies")  # 60 images under another path
    told = read_shift_images(copies, 1000, 0, reference=True, trained=data).notes[-1]
    train = data.table("train").images
    known = sum(Path(train.name(row)).parent.name == "a" for row in range(len(train)))
    assert told.startswith(f"{known} of the 60 reference images are images that the run was trained on")
    assert len(read_shift_images(folders / "same", 1000, 0, reference=True, trained=data).notes) == 1


def clouds(
    shares: tuple[float, ...], count: int, seed: int, moved: float = 0.0, light: float = 0.0, left: float = 0.0
) -> ShiftFeatures:
    """Three classes in a plane, and a classifier that knows them; features, properties or both with answers move."""
    random = np.random.default_rng(seed)
    labels = random.choice(3, count, p=shares)
    centres = np.array([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])
    points = centres[labels] + random.normal(size=(count, 2)) - (left, 0)
    logits = torch.from_numpy(points @ centres.T)
    properties = random.normal(size=(count, 9))
    properties[:, 0] += light
    return ShiftFeatures(
        embedding=torch.from_numpy(points + moved),
        probabilities=logits.softmax(1),
        properties=torch.from_numpy(properties),
        labels=torch.from_numpy(labels),
    )


def test_advice_for_other_class_shares() -> None:
    old, new = clouds((0.4, 0.3, 0.3), 400, 2), clouds((0.1, 0.1, 0.8), 300, 3)
    report = compare(old, new, permutations=200)
    tried = remedies(report, old, new, (1.0, 0.5))
    assert report.shifted
    assert report.explained_by_labels is True
    assert report.harm.accuracy_by_transport is None  # it takes old class shares for granted
    again = ShiftReport.from_dict(json.loads(json.dumps(report.to_dict())))
    assert again.explained_by_labels is True
    steps = next_steps(report, tried, run="RUN", classes=("ant", "bee", "cow"))
    assert steps[1].startswith("Other class shares would explain it (cow ")
    assert "do not adapt batch norms" in steps[1]
    assert any(step.startswith("Adapt the batch norms") for step in steps[3:])  # if it is not that after all
    elsewhere = clouds((0.1, 0.1, 0.8), 300, 1, moved=1.5)  # the same shares, and something else
    other = compare(old, elsewhere, permutations=200)
    assert other.explained_by_labels is False
    assert other.harm.accuracy_by_transport is not None


def test_too_few_images_to_tell_do_not_say_that_class_shares_explain_it() -> None:
    shares = (0.57, 0.40, 0.03)
    old, new = clouds(shares, 400, 1), clouds(shares, 300, 101, left=0.3)  # the same classes elsewhere
    report = compare(old, new, permutations=200)
    assert report.shifted
    assert report.test("χ²").rejected(0.05)
    assert report.explained_by_labels is None
    assert report.harm.accuracy_by_transport is not None


def test_advice_by_what_was_tried() -> None:
    shares = (0.4, 0.3, 0.3)
    old, far = clouds(shares, 120, 0), clouds(shares, 120, 1, light=9.0)
    report = compare(old, far, permutations=200)
    steps = next_steps(report, remedies(report, old, far), run="RUN")
    assert any(step.startswith("Collect labels") and "AUC of 1.00" in step for step in steps)
    near = clouds(shares, 120, 1, light=0.8)
    report = compare(old, near, permutations=200)
    tried = remedies(report, old, near)
    assert tried.efficiency == pytest.approx(np.exp(-(0.8**2)), abs=0.2)  # of a normal that moves by .8
    steps = next_steps(report, replace(tried, entropy=(1.0, 0.5)), run="RUN")
    assert any(step.startswith("Adapt the batch norms") for step in steps)
    assert any(f"they rest on {tried.efficiency:.0%}" in step for step in steps)
    assert any(
        "Leave the batch norms alone" in step for step in next_steps(report, Remedies(entropy=(0.5, 1.0)), run="RUN")
    )


def test_weights_by_image_properties_are_not_advised_where_none_moved() -> None:
    old, new = clouds((0.4, 0.3, 0.3), 150, 0), clouds((0.4, 0.3, 0.3), 150, 3, moved=0.9)
    report = compare(old, new, permutations=200)
    steps = next_steps(report, remedies(report, old, new), run="RUN")
    assert any("what moved is no image property" in step for step in steps)
    assert not any("dlrecipes reweight TRAINING" in step for step in steps)


def test_no_estimate_makes_it_say_that_nothing_must_be_done() -> None:
    old, new = clouds((0.4, 0.3, 0.3), 150, 0), clouds((0.4, 0.3, 0.3), 150, 3, light=1.0)
    report = compare(old, new, permutations=200)
    assert report.shifted
    assert not report.harm.notable
    steps = next_steps(report, Remedies(), run="RUN")
    assert "draw 50 of the new images at random" in steps[0]
    assert "dlrecipes predict RUN NEW" in steps[0]
    assert "± 0.14" in steps[0]
    assert not any("nothing must be done" in step for step in steps)
