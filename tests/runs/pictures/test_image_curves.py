import numpy as np
import pytest
import torch
from image_runs import GivenAnswers, make_info, make_trainer
from PIL import Image
from sklearn.metrics import average_precision_score
from torchmetrics.functional.classification import binary_calibration_error

from dlrecipes.runs.folder import RunFolder
from dlrecipes.runs.pictures import image_plots
from dlrecipes.runs.pictures.image_curves import ImageCurves, shown_classes
from dlrecipes.runs.pictures.image_plots import draw_class_curves, draw_scatter, most_confused, reliability


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path)


@pytest.fixture
def plots(monkeypatch):
    """What the plots are given, instead of pictures."""
    given = {}
    for name in ("draw_class_bars", "draw_class_confusion", "draw_class_curves", "draw_reliability", "draw_scatter"):
        monkeypatch.setattr(
            f"dlrecipes.runs.pictures.image_curves.{name}", lambda *a, name=name, **k: given.__setitem__(name, (a, k))
        )
    monkeypatch.setattr(
        "dlrecipes.runs.pictures.image_curves.draw_mistakes",
        lambda worst, info, path: given.__setitem__("mistakes", worst),
    )
    return given


def classifier(count=11):
    """Image i is of class i % 3; images 3 and 8 are taken for class 0 and 1, the latter with more confidence."""
    targets = torch.arange(count) % 3
    answers = torch.nn.functional.one_hot(targets, 3).float() * 0.6 + 0.1
    answers[3], answers[8] = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.05, 0.9, 0.05])
    return GivenAnswers(make_info(), targets, answers / answers.sum(1, keepdim=True))


def test_a_test_sees_every_image_once_and_keeps_the_worst(run, plots):
    model = classifier()
    make_trainer([ImageCurves(run, n=3)]).test(model, model.loader(), verbose=False)
    (targets, labels, classes, path, split), _ = plots["draw_class_confusion"]
    assert targets.tolist() == model.targets.tolist()
    assert np.flatnonzero(targets != labels).tolist() == [3, 8]
    assert (classes, path, split) == (model.info.classes, run.confusion_picture, "test")
    (truth, found, _, kept, _, _), _ = plots["draw_class_curves"]
    assert kept == [0, 1, 2]
    assert truth.argmax(1).tolist() == model.targets.tolist()
    assert np.array_equal(found, model.answers.numpy())
    (confidence, right, _), _ = plots["draw_reliability"]
    assert np.array_equal(confidence, model.answers.max(1).values.numpy())
    assert right.tolist() == (targets == labels).tolist()
    assert [(w.path, int(w.image.unique())) for w in plots["mistakes"]] == [("folder/8.jpg", 8), ("folder/3.jpg", 3)]
    assert [w.values.tolist() for w in plots["mistakes"]] == [
        pytest.approx(v) for v in ([2, 1, 0.9, 0.05], [0, 1, 0.5, 0.2])
    ]


def test_validate_is_drawn_and_the_validations_of_a_fit_are_not(run, plots):
    model = classifier()
    trainer = make_trainer([ImageCurves(run)])
    trainer.fit(model, model.loader(), model.loader())
    assert not plots
    trainer.validate(model, model.loader(), verbose=False)
    assert plots["draw_class_confusion"][0][4] == "val"


def test_the_files_of_each_task(run, tmp_path):
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(12, 3, generator=generator) < 0.5).float()
    ages = make_info("regression", target_names=("age",), target_mean=(40.0,), target_std=(10.0,))
    numbers = torch.rand(12, 1, generator=generator) * 50
    tasks = {
        "one": classifier(),
        "several": GivenAnswers(make_info("multilabel"), labels, torch.rand(12, 3, generator=generator)),
        "numbers": GivenAnswers(ages, numbers, numbers + torch.randn(12, 1, generator=generator)),
    }
    made = {}
    for name, model in tasks.items():
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir()
        make_trainer([ImageCurves(folder)]).test(model, model.loader(), verbose=False)
        made[name] = sorted(p.name for p in folder.path.iterdir())
        for picture in folder.path.iterdir():
            with Image.open(picture) as image:
                assert min(image.size) > 250
    assert made == {
        "one": ["confusion.png", "mistakes.png", "pr_curves.png", "reliability.png"],
        "several": ["mistakes.png", "per_class.png", "pr_curves.png", "reliability.png"],
        "numbers": ["mistakes.png", "scatter.png"],
    }


def test_several_labels_are_scored_one_by_one(run, plots):
    targets = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 0]])
    answers = torch.tensor([[0.9, 0.2, 0.1], [0.1, 0.3, 0.1], [0.1, 0.1, 0.95]])
    model = GivenAnswers(make_info("multilabel"), targets, answers)
    make_trainer([ImageCurves(run)]).test(model, model.loader(2), verbose=False)
    assert [w.values.tolist() for w in plots["mistakes"]] == [pytest.approx([2, 0.95, 0]), pytest.approx([1, 0.3, 1])]
    truth, found = plots["draw_class_bars"][0][:2]
    assert np.array_equal(truth, targets.numpy() > 0)
    assert np.array_equal(found, answers.numpy())


def test_of_many_classes_probabilities_of_the_most_frequent_are_kept_and_every_prediction(run, plots):
    names = tuple(f"class {i}" for i in range(150))
    info = make_info(names=names)
    counts = tuple(1000 if i % 2 else i for i in range(150))
    info = type(info).from_dict({**info.to_dict(), "class_counts": counts})
    assert shown_classes(info) == sorted([*range(1, 150, 2), *range(100, 150, 2)])
    generator = torch.Generator().manual_seed(0)
    answers = torch.rand(20, 150, generator=generator)
    model = GivenAnswers(info, torch.arange(20) * 2, answers)
    make_trainer([ImageCurves(run)]).test(model, model.loader(), verbose=False)
    assert plots["draw_class_confusion"][0][1].tolist() == answers.argmax(1).tolist()
    found = plots["draw_class_curves"][0][1]
    assert np.array_equal(found, answers[:, shown_classes(info)].numpy())


def test_a_right_model_has_no_mistakes_and_nan_does_not_end_the_test(run):
    model = classifier()
    model.answers = torch.nn.functional.one_hot(model.targets, 3).float()
    make_trainer([ImageCurves(run)]).test(model, model.loader(), verbose=False)
    with Image.open(run.mistakes_picture) as picture:
        assert picture.size == (660, 220)
    model.answers = torch.full((11, 3), torch.nan)
    make_trainer([ImageCurves(run)]).test(model, model.loader(), verbose=False)


def test_a_full_disk_costs_the_pictures_not_the_test(run, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(image_plots, "save_figure", full)
    monkeypatch.setattr("dlrecipes.runs.pictures.plots.save_figure", full)
    model = classifier()
    make_trainer([ImageCurves(run)]).test(model, model.loader(), verbose=False)
    assert "test pictures were not written (No space left on device)" in capsys.readouterr().out


def test_reliability_agrees_with_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    confidence, right = torch.rand(500, generator=generator), torch.rand(500, generator=generator) < 0.6
    counts, mean, share, error = reliability(confidence.numpy(), right.numpy())
    assert error == pytest.approx(float(binary_calibration_error(confidence, right.long(), n_bins=15, norm="l1")))
    assert counts.sum() == 500
    inside = (confidence > 0.4) & (confidence <= 7 / 15)
    assert (counts[6], mean[6], share[6]) == pytest.approx(
        (int(inside.sum()), float(confidence[inside].mean()), float(right[inside].float().mean()))
    )
    assert reliability(np.array([0.0, 1.0]), np.array([False, True]))[0][[0, 14]].tolist() == [1, 1]


def test_the_area_under_a_drawn_curve_is_the_average_precision(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(image_plots, "draw_precision_recall", lambda p, c, labels, path, **k: drawn.update(p=p, **k))
    generator = np.random.default_rng(0)
    truth = generator.random((300, 3)) < 0.3
    truth[:, 2] = False
    found = (truth * 0.4 + generator.random((300, 3)) * 0.8).round(1).astype(np.float32)  # with ties
    draw_class_curves(truth, found, ["a", "b", "c"], [0, 1, 2], tmp_path / "p.png", "title")
    expected = [average_precision_score(truth[:, i], found[:, i]) for i in range(2)]
    assert drawn["averages"] == [*(pytest.approx(v) for v in expected), -1.0]
    assert drawn["p"][:2].mean(1).tolist() == pytest.approx(expected, abs=0.01)
    assert (drawn["p"][2] == -1).all()


def test_the_most_confused_classes_stand_side_by_side_and_the_rest_has_a_column(tmp_path, monkeypatch):
    targets = np.array([7] * 9 + [40] * 5 + [3] * 4 + list(range(50)))
    labels = np.array([44] * 9 + [2] * 5 + [3] * 4 + list(range(50)))
    assert most_confused(targets, labels, 50)[:6] == [7, 44, 40, 2, 3, 0]
    drawn = {}
    monkeypatch.setattr(image_plots, "draw_confusion", lambda m, rows, columns, path, **k: drawn.update(m=m, c=columns))
    image_plots.draw_class_confusion(targets, labels, [str(i) for i in range(50)], tmp_path / "c.png", "test")
    assert drawn["m"].shape == (30, 31)
    assert drawn["c"][:2] + drawn["c"][-1:] == ["7", "44", "all others"]
    assert drawn["m"][0, :2].tolist() == [1, 9]
    assert int(drawn["m"].sum()) == 30 + 9 + 5 + 4


def test_many_targets_and_one_image_can_be_drawn(tmp_path):
    values = np.random.default_rng(0).random((20, 6)).astype(np.float32)
    draw_scatter(values, values[::-1], [f"t{i}" for i in range(6)], tmp_path / "s.png", "test")
    draw_scatter(values[:1, :1], values[:1, :1], ["t"], tmp_path / "one.png", "test")
    with Image.open(tmp_path / "s.png") as many, Image.open(tmp_path / "one.png") as one:
        assert many.width > 3 * one.width
