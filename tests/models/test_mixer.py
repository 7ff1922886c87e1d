"""MLP-Mixer: sizes as published, the block by hand, and what it must not depend on."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from dlrecipes.contracts import DataInfo
from dlrecipes.errors import UserError
from dlrecipes.models import MLPMixer
from dlrecipes.models.mixer import VARIANTS
from dlrecipes.parts import build_part, part_spec


def info(image_size: int, outputs: int = 10) -> DataInfo:
    return DataInfo(
        task="classification",
        classes=tuple(f"c{i}" for i in range(outputs)),
        category_ids=tuple(range(outputs)),
        class_counts=(5,) * outputs,
        num_train=5 * outputs,
        max_objects=0,
        image_size=image_size,
    )


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "small"])
def test_variants_have_the_published_number_of_parameters(variant: str) -> None:
    with torch.device("meta"):
        model = MLPMixer(variant)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert millions == pytest.approx(VARIANTS[variant].millions, rel=0.03)


def test_the_small_one_is_small() -> None:
    model = MLPMixer("small", num_outputs=10)
    assert sum(parameter.numel() for parameter in model.parameters()) <= 700_000


@pytest.mark.parametrize("variant", ["s16", "b32"])
def test_variants_are_timms_networks_of_that_name(variant: str) -> None:
    with torch.device("meta"):
        ours, theirs = MLPMixer(variant).net.state_dict(), timm.create_model(f"mixer_{variant}_224").state_dict()
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}


def test_the_wrapper_computes_what_timm_computes() -> None:
    torch.manual_seed(0)
    model = MLPMixer("small", num_outputs=5, drop_path_rate=0.3).eval()
    images = torch.randn(2, 3, 32, 32)
    theirs = timm.models.MlpMixer(
        num_classes=5, img_size=32, patch_size=4, num_blocks=8, embed_dim=128, mlp_ratio=(1.0, 2.0)
    ).eval()
    theirs.load_state_dict(model.net.state_dict())
    assert torch.equal(model(images), theirs(images))


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight + bias


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def test_a_block_is_the_papers_formula() -> None:
    torch.manual_seed(0)
    block = MLPMixer("small").net.blocks[3].double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    w: dict[str, Tensor] = {name.replace("mlp_", ""): value.detach() for name, value in block.named_parameters()}
    x = torch.randn(2, 64, 128, dtype=torch.float64)
    y = layer_norm(x, w["norm1.weight"], w["norm1.bias"])
    hidden = gelu(torch.einsum("hs,bsc->bhc", w["tokens.fc1.weight"], y) + w["tokens.fc1.bias"][:, None])
    u = x + torch.einsum("sh,bhc->bsc", w["tokens.fc2.weight"], hidden) + w["tokens.fc2.bias"][:, None]
    z = layer_norm(u, w["norm2.weight"], w["norm2.bias"])
    hidden = gelu(z @ w["channels.fc1.weight"].T + w["channels.fc1.bias"])
    expected = u + hidden @ w["channels.fc2.weight"].T + w["channels.fc2.bias"]
    assert torch.allclose(block(x), expected, rtol=1e-12, atol=1e-12)


def test_channel_mixing_treats_every_place_alike_and_place_mixing_does_not() -> None:
    torch.manual_seed(0)
    block = MLPMixer("small").net.blocks[0]
    x, order = torch.randn(2, 64, 128), torch.randperm(64)
    assert torch.allclose(block.mlp_channels(x[:, order]), block.mlp_channels(x)[:, order], atol=1e-5)
    assert not torch.allclose(block(x[:, order]), block(x)[:, order], atol=1e-2)


def test_bind_makes_the_network_for_the_datas_image_size() -> None:
    model = MLPMixer("small", drop_path_rate=0.2).double()
    model.bind(info(48, outputs=3))
    assert model(torch.zeros(2, 3, 48, 48, dtype=torch.float64)).shape == (2, 3)
    assert model.image_size == 48
    assert [round(getattr(block.drop_path, "drop_prob", 0.0), 3) for block in model.net.blocks][::7] == [0.0, 0.2]


def test_an_image_size_that_fits_keeps_the_weights() -> None:
    model = MLPMixer("small")
    stem = model.net.stem.proj.weight.clone()
    model.bind(info(32))
    assert torch.equal(model.net.stem.proj.weight, stem)


def test_pretrained_weights_say_which_image_size_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def create_model(name: str, *, pretrained: bool, **args: Any) -> Any:
        return create(name, pretrained=False, **args)

    monkeypatch.setattr(timm, "create_model", create_model)
    monkeypatch.setattr("dlrecipes.models.hub.host_answers", lambda url: True)
    with torch.device("meta"):
        model = MLPMixer("b16", pretrained="hub")
    assert model.normalisation == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with pytest.raises(UserError, match=r"pretrained Mixer b16 takes images of 224 pixels only, not 64: set --data"):
        model.bind(info(64))


def test_a_checkpoint_rebuilds_the_size() -> None:
    model = MLPMixer("small", blocks=2, dim=57, token_dim=49).eval()
    model.bind(info(16))
    again = build_part(part_spec(model)).eval()
    again.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(again(images), model(images))
    assert again.net.blocks[0].mlp_tokens.fc1.out_features == 49


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "s8"}, r"variant='s8': choose one of s32"),
        ({"blocks": 0}, r"blocks=0: at least 1"),
        ({"image_size": 30}, r"images of 30 pixels cannot be cut into patches of 4: set --data\.image_size"),
        ({"variant": "s16", "pretrained": True}, r"there are weights of b16, l16, not of s16"),
        ({"variant": "b16", "pretrained": True, "image_size": 64}, r"image_size=64: pretrained weights have 224"),
        ({"pretrained": "package"}, r"pretrained='package': choose one of hub, false"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MLPMixer(**arguments)
