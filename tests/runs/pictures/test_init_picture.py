from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from dlrecipes.nn.init.audit import init_audit
from dlrecipes.nn.init.weights import init_weights
from dlrecipes.runs.pictures.init_picture import draw_init_audit


def test_one_picture_of_several_audits(tmp_path: Path) -> None:
    net = nn.Sequential(*[layer for _ in range(30) for layer in (nn.Linear(32, 32), nn.ReLU())], nn.Linear(32, 4))
    x = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    audits = {}
    for scheme in ("he", "glorot"):
        init_weights(net, scheme, generator=torch.Generator().manual_seed(0))
        audits[scheme] = init_audit(net, x)
    with torch.no_grad():
        net[20].weight.fill_(torch.inf)
    audits["broken"] = init_audit(net, x)
    assert [audit.first is None for audit in audits.values()] == [True, False, False]
    draw_init_audit(audits, tmp_path / "audit.png")
    picture = Image.open(tmp_path / "audit.png").convert("RGB")
    assert picture.size == (1210, 506)
    assert len(picture.getcolors(maxcolors=1 << 24)) > 50
    with pytest.raises(ValueError, match="at least one"):
        draw_init_audit({}, tmp_path / "none.png")
