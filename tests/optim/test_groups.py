"""Parameter groups and schedules."""

import pytest
import timm
from timm.optim import param_groups_layer_decay
from torch import nn

from dlrecipes.errors import UserError
from dlrecipes.optim import (
    constant,
    cosine,
    flat_cosine,
    linear,
    one_cycle,
    parameter_groups,
    schedule_factor,
    step,
    step_at_two_thirds,
    warm_up,
)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def test_each_trained_parameter_is_in_one_of_four_groups() -> None:
    net = Net()
    groups = parameter_groups(net, lr=1e-3, weight_decay=0.1, backbone_lr=1e-4)
    assert {g["name"]: (g["lr"], g["weight_decay"], len(g["params"])) for g in groups} == {
        "backbone": (1e-4, 0.1, 1),
        "backbone/no_decay": (1e-4, 0.0, 3),
        "main": (1e-3, 0.1, 1),
        "main/no_decay": (1e-3, 0.0, 1),
    }
    grouped = sorted(id(p) for g in groups for p in g["params"])
    assert grouped == sorted(id(p) for p in net.parameters() if p.requires_grad)


def test_decay_all_is_the_papers_way() -> None:
    groups = parameter_groups(Net(), lr=1e-3, weight_decay=0.1, decay_all=True)
    assert [(g["name"], g["lr"], g["weight_decay"]) for g in groups] == [("backbone", 1e-3, 0.1), ("main", 1e-3, 0.1)]


class Wrapped(nn.Module):
    """A network inside another module, as the recipes' models have it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    return timm.create_model("test_vit", num_classes=5)


def by_parameter(groups: list[dict], scale: str) -> dict[int, tuple[float, float]]:
    return {id(p): (g[scale], g["weight_decay"]) for g in groups for p in g["params"]}


@pytest.mark.parametrize("wrap", [False, True])
def test_layer_decay_is_timms(vit: nn.Module, wrap: bool) -> None:
    model = Wrapped(vit) if wrap else vit
    ours = parameter_groups(model, lr=1.0, weight_decay=0.05, layer_decay=0.7)
    theirs = param_groups_layer_decay(vit, 0.05, no_weight_decay_list=vit.no_weight_decay(), layer_decay=0.7)
    expected = by_parameter(theirs, "lr_scale")
    found = by_parameter(ours, "lr")
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert found[key] == pytest.approx(values)
    assert len({g["name"] for g in ours}) == len(ours) > 8
    assert max(g["lr"] for g in ours) == 1.0


def test_position_tables_are_not_decayed(vit: nn.Module) -> None:
    groups = {g["name"]: g for g in parameter_groups(Wrapped(vit), lr=1.0, weight_decay=0.05)}
    assert any(p is vit.pos_embed for p in groups["main/no_decay"]["params"])
    assert len(parameter_groups(Wrapped(vit), lr=1.0, weight_decay=0.05, decay_all=True)) == 1


def test_layer_decay_without_layers_is_one_sentence() -> None:
    with pytest.raises(UserError, match="Net has none: leave layer_decay out"):
        parameter_groups(Net(), lr=1.0, weight_decay=0.1, layer_decay=0.7)


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (constant, [1.0, 1.0, 1.0, 1.0]),
        (cosine, [1.0, 0.75, 0.25, 0.0]),
        (flat_cosine, [1.0, 1.0, 0.75, 0.0]),
        (linear, [1.0, 2 / 3, 1 / 3, 0.0]),
        (one_cycle, [0.04, 0.994415, 0.462635, 0.0]),
        (step, [1.0, 1.0, 0.1, 0.01]),
        (step_at_two_thirds, [1.0, 1.0, 0.1, 0.1]),
    ],
)
def test_schedules_at_known_points(schedule, values: list[float]) -> None:  # type: ignore[no-untyped-def]
    assert [schedule(p) for p in (0.0, 1 / 3, 2 / 3, 1.0)] == pytest.approx(values)


def test_arguments_of_schedules() -> None:
    assert [step(p, milestones=(0.2, 0.4), gamma=0.5) for p in (0.1, 0.2, 0.4, 1.0)] == [1.0, 0.5, 0.25, 0.25]
    assert one_cycle(0.5, peak=0.5) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="peak=1"):
        one_cycle(0.5, peak=1)
    assert [warm_up(s, 0) for s in (0, 5)] == [1.0, 1.0]


def test_a_short_run_reaches_its_rate() -> None:
    factor = schedule_factor("cosine", warmup_steps=200, total_steps=lambda: 30)
    factors = [factor(step) for step in range(30)]
    assert factors[9] == factors[10] == 1.0 == max(factors)
    assert factors[-1] < 0.02
    assert factors[:10] == sorted(factors[:10])
