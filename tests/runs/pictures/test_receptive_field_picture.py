"""The picture of receptive fields: one panel or two, whatever is given."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dlrecipes.nn import effective_receptive_field, receptive_field
from dlrecipes.runs.pictures.receptive_field_picture import draw_receptive_field


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, (3, 7), padding=(1, 3)), nn.Conv2d(4, 4, 3, 2, 1), nn.AdaptiveAvgPool2d(1))


@pytest.mark.parametrize(("effective", "image", "panels"), [(False, False, 1), (True, False, 2), (False, True, 2)])
def test_what_is_given_is_drawn(tmp_path: Path, effective: bool, image: bool, panels: int) -> None:
    net, target = _net(), tmp_path / "field.png"
    draw_receptive_field(
        receptive_field(net, 32),
        target,
        effective=effective_receptive_field(net, 32) if effective else None,
        image=torch.full((3, 32, 32), 200, dtype=torch.uint8) if image else None,
        object_sizes=[4, 12],
        title="2 $ layers",
    )
    with Image.open(target) as drawn:
        pixels = np.asarray(drawn.convert("RGB"))
    assert pixels.shape[1] == (1430 if panels == 2 else 880)
    right = pixels[:, pixels.shape[1] * 6 // 10 :].reshape(-1, 3)
    grey = (right == 200).all(1).mean()
    assert (grey > 0.2) == image
