"""Which images an exported file takes where nobody says: those of training, not a square of them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from dlrecipes.contracts import DataInfo
from dlrecipes.runs.export import export_module

INFO = DataInfo(
    task="classification", classes=("a", "b"), category_ids=(0, 1), class_counts=(1, 1), num_train=2, max_objects=0,
    image_size=16,
)  # fmt: skip


@pytest.mark.parametrize(
    ("known", "given", "size"), [((12, 16), None, (12, 16)), ((), None, (16, 16)), ((12, 16), (8, 4), (8, 4))]
)
def test_shape_of_training_unless_another_is_given(
    known: tuple[int, ...], given: tuple[int, int] | None, size: tuple[int, int], tmp_path: Path
) -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    path = tmp_path / "model.pt2"
    export_module(network, replace(INFO, image_shape=known), path, format="torch", image_size=given)
    answer = torch.export.load(path).module()(torch.zeros(3, 3, *size, dtype=torch.uint8))
    assert answer.shape == (3, 2)
