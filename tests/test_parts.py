"""Parts as import path and arguments."""

import subprocess
import sys
import types
from collections import OrderedDict
from enum import StrEnum
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dlrecipes.checkpoint_io import load_checkpoint_file, save_checkpoint_file
from dlrecipes.errors import CheckpointError, UserError
from dlrecipes.losses import FocalLoss
from dlrecipes.models import DETR
from dlrecipes.models.detr import HungarianMatcher, SetCriterion
from dlrecipes.parts import (
    build_part,
    construct,
    constructor_parameters,
    import_named_classes,
    import_object,
    part_spec,
)


class Keeps(nn.Module):
    def __init__(self, gamma: float, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.gamma, self.inner = gamma, inner


class Forgets(nn.Module):
    def __init__(self, gamma: float) -> None:
        super().__init__()


class Acts(nn.Module):
    """Has an argument that no checkpoint can hold, and one named as a method is."""

    def __init__(self, act: object = torch.relu, train: bool = True) -> None:
        super().__init__()
        self.act = act


class Kind(StrEnum):
    SOFT = "soft"


@pytest.fixture
def module() -> types.ModuleType:
    """This file as an importable module."""
    made = types.ModuleType("their_parts")
    for cls in (Keeps, Forgets, Acts):
        setattr(made, cls.__name__, cls)
    return made


def named(cls: type, monkeypatch: pytest.MonkeyPatch, module: types.ModuleType) -> None:
    monkeypatch.setattr(cls, "__module__", "their_parts")
    monkeypatch.setitem(sys.modules, "their_parts", module)


def test_arguments_kept_as_attributes_come_back(monkeypatch: pytest.MonkeyPatch, module: types.ModuleType) -> None:
    named(Keeps, monkeypatch, module)
    part = build_part(part_spec(Keeps(2.5, inner=nn.LeakyReLU(0.3))))
    assert isinstance(part, Keeps)
    assert part.gamma == 2.5
    assert part.inner.negative_slope == 0.3


def test_an_argument_that_was_not_kept_is_named(monkeypatch: pytest.MonkeyPatch, module: types.ModuleType) -> None:
    named(Forgets, monkeypatch, module)
    spec = part_spec(Forgets(1.0))
    assert spec["missing_args"] == ["gamma"]
    with pytest.raises(CheckpointError, match=r"does not know gamma of their_parts\.Forgets"):
        build_part(spec)


@pytest.mark.parametrize(
    ("given", "recorded"),
    [
        (np.float64(2.5), 2.5),
        (np.float32(2.5), 2.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("soft"), "soft"),
        (Kind.SOFT, "soft"),
        (np.array([1.0, 2.0]), [1.0, 2.0]),
        ((1, np.float64(2)), [1, 2.0]),
        ([(1, 2)], [(1, 2)]),
        ({"a": [np.int64(1)]}, {"a": [1]}),
        (OrderedDict(a=1), {"a": 1}),
    ],
    ids=repr,
)
def test_what_derives_from_primitives_is_recorded_as_one(given: object, recorded: object, tmp_path: Path) -> None:
    spec = part_spec(Keeps(given))  # type: ignore[arg-type]
    save_checkpoint_file(spec, tmp_path / "a.ckpt")  # refuses what cannot be read back
    found = load_checkpoint_file(tmp_path / "a.ckpt")["init_args"]["gamma"]
    assert (found, type(found)) == (recorded, type(recorded))


def test_tensors_that_the_weights_do_not_hold_come_back(
    monkeypatch: pytest.MonkeyPatch, module: types.ModuleType
) -> None:
    named(Keeps, monkeypatch, module)
    assert build_part(part_spec(Keeps(torch.tensor(3.0)))).gamma == 3  # type: ignore[arg-type]
    weights = torch.tensor([1.0, 2.0])
    assert build_part(part_spec(FocalLoss(class_weights=weights))).balance().tolist() == [1, 2]  # type: ignore[arg-type]
    assert build_part(part_spec(FocalLoss(class_weights=weights.numpy()))).balance().tolist() == [1, 2]  # type: ignore[arg-type]


def test_a_part_is_not_made_with_a_default_in_the_place_of_a_function(
    monkeypatch: pytest.MonkeyPatch, module: types.ModuleType
) -> None:
    named(Acts, monkeypatch, module)
    assert build_part(part_spec(Acts())).act is torch.relu  # the default: nothing is lost
    with pytest.raises(CheckpointError, match=r"does not know act of their_parts\.Acts"):
        build_part(part_spec(Acts(torch.tanh)))


def test_containers_come_back_with_their_modules() -> None:
    body = OrderedDict(flat=nn.Flatten(), last=nn.Linear(6, 2, bias=False))
    parts = nn.Sequential(OrderedDict(body=nn.Sequential(body), heads=nn.ModuleDict({"a": nn.Linear(2, 1)})))
    parts.append(nn.ModuleList([nn.ReLU(), nn.LeakyReLU(0.3)]))
    again = build_part(part_spec(parts))
    assert str(again) == str(parts)
    assert list(again.state_dict()) == list(parts.state_dict())


def test_a_loss_of_pytorch_metric_learning_is_imported_by_itself() -> None:
    code = (
        "from dlrecipes.parts import build_part\n"
        "path = 'pytorch_metric_learning.losses.triplet_margin_loss.TripletMarginLoss'\n"
        "print(build_part({'class_path': path, 'init_args': {'margin': 0.3}}).margin)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "0.3", done.stderr[-1000:]


def test_criterion_and_matcher_round_trip() -> None:
    criterion = SetCriterion(7, class_loss="focal", matcher=HungarianMatcher(1, 2, 3, sigmoid=True))
    again = build_part(part_spec(criterion))
    assert (again.num_classes, again.class_loss) == (7, "focal")
    assert (again.matcher.cost_class, again.matcher.cost_bbox, again.matcher.cost_giou) == (1, 2, 3)
    assert again.matcher.sigmoid is True


def test_pretrained_weights_are_not_fetched_again() -> None:
    model = DETR("test_resnet", pretrained_backbone=False, hidden_dim=32, encoder_layers=0, decoder_layers=1)
    spec = part_spec(model)
    spec["init_args"]["pretrained_backbone"] = True  # as a run with the network had it
    again = build_part(spec)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert again.init_args["pretrained_backbone"] is False


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("os.system", "not a Module"),
        ("torch.load", "not a Module"),
        ("antigravity.Module", "importing it would run code"),
        ("torch.nn.NoSuchLayer", "cannot be imported"),
        ("dlrecipes.data.DetectionData", "not a Module"),
    ],
)
def test_a_checkpoint_cannot_call_or_import_what_it_likes(path: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        build_part({"class_path": path, "init_args": {}})


def test_trusted_packages_may_be_imported(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "trusted_parts.py").write_text("from torch import nn\nclass Part(nn.Module):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = {"class_path": "trusted_parts.Part", "init_args": {}}
    with pytest.raises(CheckpointError, match="import trusted_parts yourself first"):
        build_part(spec)
    assert type(build_part(spec, trust=["trusted_parts"])).__name__ == "Part"


def test_import_object() -> None:
    assert import_object("torch.optim.AdamW") is torch.optim.AdamW
    for wrong in ("AdamW", "torch.optim.AdamZ", "no_such_module.x"):
        with pytest.raises(ValueError, match=wrong.split(".")[0]):
            import_object(wrong)


def test_classes_that_a_config_names_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "named_parts.py").write_text("class Loss: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    inner = {"class_path": "named_parts.Loss", "init_args": {"gamma": 2.0}}
    import_named_classes({"class_path": "torch.nn.Module", "init_args": {"lr": 0.1, "loss": inner}})
    assert "named_parts" in sys.modules
    with pytest.raises(UserError, match=r"cannot import 'named_parts\.Net'"):
        import_named_classes({"model": inner | {"class_path": "named_parts.Net"}})
    del sys.modules["named_parts"]


class Hands(Keeps):
    """Takes one argument itself, gives its base one, and hands on the rest."""

    def __init__(self, extra: int = 1, **others: object) -> None:
        super().__init__(gamma=0.5, **others)
        self.extra = extra


class HandsOn(Hands):
    """And another class between."""

    def __init__(self, **others: object) -> None:
        super().__init__(**others)


@pytest.mark.parametrize("cls", [Hands, HandsOn])
def test_arguments_handed_on_to_a_base_come_back(
    cls: type, monkeypatch: pytest.MonkeyPatch, module: types.ModuleType
) -> None:
    for each in (Keeps, cls):
        setattr(module, each.__name__, each)
        named(each, monkeypatch, module)
    spec = part_spec(cls(extra=4, inner=nn.LeakyReLU(0.3)))
    assert set(spec["init_args"]) == {"extra", "gamma", "inner"}
    again = build_part(spec)  # gamma is in the record, and the class gives it itself
    assert (again.extra, again.gamma, again.inner.negative_slope) == (4, 0.5, 0.3)


def test_the_nearest_class_names_an_argument() -> None:
    class Near(Keeps):
        def __init__(self, gamma: float = 7.0, **others: object) -> None:
            super().__init__(gamma, **others)

    parameters = constructor_parameters(Near)
    assert list(parameters) == ["gamma", "inner"]
    assert parameters["gamma"].default == 7.0
    assert list(constructor_parameters(Keeps)) == ["gamma", "inner"]


def test_other_wrong_arguments_stay_errors() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'speed'"):
        construct(Keeps, {"gamma": 1.0, "speed": 2})
    with pytest.raises(TypeError, match="required positional argument: 'gamma'"):
        construct(Keeps, {})
