"""Parameter groups and schedules."""

import pytest
from torch import nn

from dlrecipes.optim import constant, cosine, flat_cosine, parameter_groups, step_at_two_thirds


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


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (constant, [1.0, 1.0, 1.0, 1.0]),
        (cosine, [1.0, 0.75, 0.25, 0.0]),
        (flat_cosine, [1.0, 1.0, 0.75, 0.0]),
        (step_at_two_thirds, [1.0, 1.0, 0.1, 0.1]),
    ],
)
def test_schedules_at_known_points(schedule, values: list[float]) -> None:  # type: ignore[no-untyped-def]
    assert [schedule(p) for p in (0.0, 1 / 3, 2 / 3, 1.0)] == pytest.approx(values)
