import sys
from pathlib import Path

import pytest
import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "losses")]  # importlib mode does not

from stand_in import DEVICE  # noqa: E402  # found there


@pytest.fixture(autouse=True)
def _autocast_knows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where parts turn autocast off; the meta device has none."""
    autocast, is_enabled = torch.autocast, torch.is_autocast_enabled

    class Autocast(autocast):
        def __init__(self, device_type: str, *args: object, **kwargs: object) -> None:
            super().__init__("cpu" if device_type == DEVICE.type else device_type, *args, **kwargs)

    monkeypatch.setattr(torch, "autocast", Autocast)
    monkeypatch.setattr(
        torch, "is_autocast_enabled", lambda kind=None: kind != DEVICE.type and is_enabled(*[kind] if kind else [])
    )
