"""Recorded attention: a softmax by hand, outputs that follow from the weights, padding, and a model left as it was."""

import math

import pytest
import torch
from torch import Tensor, nn

from dlrecipes.models import DETR
from dlrecipes.models.detr.attention_maps import record_attention


def small(**settings: object) -> DETR:
    torch.manual_seed(0)
    sizes = {"hidden_dim": 16, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 2, "feedforward_dim": 16}
    model = DETR("test_resnet", 3, 5, pretrained_backbone=False, **sizes, **settings)  # type: ignore[arg-type]
    return model.eval()


def perturbed(model: DETR) -> DETR:
    """Xavier's start is so even that all weights are nearly the same."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_a_softmax_by_hand() -> None:
    attention = nn.MultiheadAttention(2, 1, bias=False, batch_first=True)
    attention.in_proj_weight.copy_(torch.eye(2).repeat(3, 1))  # queries, keys and values are what comes in
    query = torch.tensor([[[math.sqrt(2) * math.log(3), 0.0], [0.0, 0.0], [0.0, -math.sqrt(2) * math.log(2)]]])
    keys = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    with record_attention(attention) as weights:
        attention(query, keys, keys, need_weights=False)
    # logits (ln 3, 0, 0), (0, 0, 0), (0, −ln 2, 0)
    expected = [[3 / 5, 1 / 5, 1 / 5], [1 / 3, 1 / 3, 1 / 3], [2 / 5, 1 / 5, 2 / 5]]
    torch.testing.assert_close(weights[""], torch.tensor([[expected]]))


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
def test_each_head_for_itself_and_the_output_follows_from_the_weights(masked: bool) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True).double()
    query, memory = torch.randn(3, 4, 8, dtype=torch.float64), torch.randn(3, 6, 8, dtype=torch.float64)
    mask = torch.randn(6, 4, 6, dtype=torch.float64) if masked else None
    with record_attention(attention) as weights:
        out = attention(query, memory, memory, attn_mask=mask, need_weights=False)[0]
    q, k, v = attention.in_proj_weight.chunk(3)
    heads = [(x @ w.T).unflatten(-1, (2, 4)).transpose(1, 2) for x, w in ((query, q), (memory, k), (memory, v))]
    logits = heads[0] @ heads[1].mT / 2 + (0 if mask is None else mask.unflatten(0, (3, 2)))
    torch.testing.assert_close(weights[""], logits.softmax(-1))
    torch.testing.assert_close(out, attention.out_proj((weights[""] @ heads[2]).transpose(1, 2).flatten(2)))


@torch.no_grad()
@pytest.mark.parametrize(
    ("settings", "decoder"),
    [
        ({}, {"transformer.decoder.layers.{}.self_attn": 5, "transformer.decoder.layers.{}.multihead_attn": 6}),
        (
            {"queries": "anchors", "position_bias": True},
            {"box_decoder.layers.{}.self_attn": 5, "box_decoder.layers.{}.look.attention": 6},
        ),
        ({"queries": "two_stage", "cross_attention": "in_box"}, {"box_decoder.layers.{}.self_attn": 5}),
    ],
    ids=["learned", "anchors", "in_box"],
)
def test_every_attention_of_a_model(settings: dict[str, object], decoder: dict[str, int], images: Tensor) -> None:
    model = perturbed(small(**settings))
    before = model(images)
    with record_attention(model) as weights:
        recorded = model(images)
    torch.testing.assert_close(recorded, before)
    shapes = {"transformer.encoder.layers.0.self_attn": (2, 2, 6, 6)}  # 2 by 3 cells of 32 pixels
    for layer in range(2):
        shapes |= {name.format(layer): (2, 2, 5, others) for name, others in decoder.items()}
    assert {name: tuple(found.shape) for name, found in weights.items()} == shapes
    for found in weights.values():
        torch.testing.assert_close(found.sum(-1), torch.ones(found.shape[:-1]))
        assert found.std(-1).mean() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("position_bias", [False, True])
def test_nobody_looks_at_padding(position_bias: bool, images: Tensor) -> None:
    model = perturbed(small(queries="anchors", position_bias=position_bias))
    mask = torch.zeros(2, 64, 96, dtype=torch.bool)
    mask[1, :, 64:] = True
    with record_attention(model) as weights:
        model(images.masked_fill(mask[:, None], 0.0), mask)
    for name in ("transformer.encoder.layers.0.self_attn", "box_decoder.layers.1.look.attention"):
        last_column = weights[name].unflatten(-1, (2, 3))[..., 2]
        assert (last_column[1] == 0).all(), name
        assert (last_column[0] > 0).all(), name


def test_afterwards_nothing_is_recorded_and_gradients_flow(images: Tensor) -> None:
    model = small(queries="anchors").train()
    with record_attention(model) as weights:
        outputs = model(images)
    assert not any(found.requires_grad for found in weights.values())
    outputs["pred_logits"].sum().backward()
    last = model.box_decoder.layers[1]
    assert last.self_attn.in_proj_weight.grad is not None
    kept = dict(weights)
    with torch.no_grad():
        model(images + 1)
    assert all(weights[name] is found for name, found in kept.items())


def test_an_error_inside_leaves_the_model_as_it_was() -> None:
    attention = nn.MultiheadAttention(2, 1, batch_first=True)
    x = torch.zeros(1, 3, 2)
    with pytest.raises(RuntimeError, match="stop"), record_attention(attention):
        raise RuntimeError("stop")
    assert attention(x, x, x, need_weights=False)[1] is None


@torch.no_grad()
def test_the_last_call_counts() -> None:
    attention = nn.MultiheadAttention(2, 1, batch_first=True)
    with record_attention(attention) as weights:
        for cells in (3, 4):
            x = torch.zeros(1, cells, 2)
            attention(x, x, x, need_weights=False)
    torch.testing.assert_close(weights[""], torch.full((1, 1, 4, 4), 0.25))
