"""Pretrained weights where there is no network."""

import socket
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file

from dlrecipes.errors import UserError
from dlrecipes.models import DETR, TimmClassifier
from dlrecipes.models.hub import host_answers, weights_source


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens, and whoever asks the hub nevertheless is noticed."""

    def download(*_: Any, **__: Any) -> None:
        pytest.fail("the hub was asked")

    monkeypatch.setattr("dlrecipes.models.hub.host_answers", lambda url: False)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", download)


@pytest.mark.usefixtures("silent")
def test_weights_that_are_nowhere_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, file: None)
    with pytest.raises(UserError, match=r"'test_resnet' could not be downloaded \(\S+ does not answer\): connect to"):
        TimmClassifier("test_resnet", pretrained=True)
    with pytest.raises(UserError, match=r"'test_resnet' could not be downloaded \(\S+ does not answer\).*_backbone=F"):
        DETR(backbone="test_resnet", pretrained_backbone=True)


@pytest.mark.usefixtures("silent")
def test_weights_of_an_earlier_download_are_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weights = timm.create_model("test_resnet", pretrained=False).state_dict()
    save_file(weights, tmp_path / "model.safetensors")

    def cached(repo: str, file: str) -> str | None:
        assert repo == "timm/test_resnet.r160_in1k"
        return str(tmp_path / file) if (tmp_path / file).exists() else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    found = TimmClassifier("test_resnet", pretrained=True).net.state_dict()
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    assert weights_source("test_resnet")["file"] == str(tmp_path / "model.safetensors")


def test_networks_without_weights_on_the_hub_are_left_to_timm() -> None:
    assert weights_source("mixer_s16_224") == {}


def test_a_host_that_listens_and_one_that_does_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert host_answers(f"http://127.0.0.1:{port}")
    assert not host_answers(f"http://127.0.0.1:{port}")
