"""Depth, width, parameters, operations and memory against counts by hand and published ones."""

from io import StringIO

import pytest
import timm
import torch
import torchvision.models as tv
from rich.console import Console
from torch import Tensor, nn

from dlrecipes.errors import UserError
from dlrecipes.nn import StagePlan, describe


def _net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(4, 2, 3, stride=2, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2, 5),
    )


def test_a_small_network_by_hand() -> None:
    facts = describe(_net(), 8)
    assert facts.depth == 3
    assert facts.parameters == facts.trainable == 3 * 4 * 9 + 4 * 2 * 9 + 2 + 2 * 5 + 5
    assert facts.parameter_bytes == 4 * facts.parameters
    first, second, head = 2 * 64 * 4 * 27, 2 * 16 * 2 * 36, 2 * 2 * 5
    assert facts.flops == first + second + head
    assert [(s.map_size, s.layers, s.width, s.flops, s.field) for s in facts.stages] == [
        ((8, 8), 1, 4, first, (3, 3)),
        ((4, 4), 1, 2, second, (5, 5)),
        (None, 1, 5, head, None),
    ]
    assert [s.parameters for s in facts.stages] == [108, 74, 15]


def test_memory_by_hand() -> None:
    facts = describe(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 1)), 8)
    image, wide, narrow = (4 * 64 * channels for channels in (3, 4, 2))
    assert facts.saved_bytes == image + wide  # each convolution keeps its input, which is ReLU's output, too
    assert facts.live_bytes == image + wide + wide  # ReLU is not in place
    in_place = describe(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(True), nn.Conv2d(4, 2, 1)), 8)
    assert in_place.live_bytes == image + wide + narrow


@pytest.mark.parametrize("make", [_net, lambda: StagePlan(depth=(1, 1), width=(4, 8)).build(3)])
def test_saved_memory_is_what_autograd_saves_with_numbers(make) -> None:  # type: ignore[no-untyped-def]
    net, kept = make(), {}
    own = {p.data_ptr() for p in [*net.parameters(), *net.buffers()]}

    def saved(images: Tensor) -> int:
        kept.clear()

        def keep(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = net.train()(images)
        assert out.requires_grad
        return sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in own)

    assert describe(net, 32).saved_bytes == saved(torch.randn(3, 3, 32, 32)) - saved(torch.randn(2, 3, 32, 32))


# parameters and multiply-adds as torchvision publishes them with its weights; depth as the names say
@pytest.mark.parametrize(
    ("make", "depth", "millions", "giga", "widths"),
    [
        (tv.resnet18, 18, 11.689512, 1.814, [64, 64, 128, 256, 512, 1000]),
        pytest.param(*(tv.resnet50, 50, 25.557032, 4.089, [64, 256, 512, 1024, 2048, 1000]), marks=pytest.mark.slow),
    ],
)
def test_known_networks(make, depth: int, millions: float, giga: float, widths: list[int]) -> None:  # type: ignore[no-untyped-def]
    with torch.device("meta"):
        net = make()
    facts = describe(net, 224)
    assert facts.depth == depth
    assert facts.parameters == round(millions * 1e6)
    assert facts.flops / 2e9 == pytest.approx(giga, abs=1e-3)
    assert [stage.width for stage in facts.stages] == widths
    assert sum(stage.flops for stage in facts.stages) == facts.flops
    assert sum(stage.parameters for stage in facts.stages) == facts.parameters


def test_attention_counts_too() -> None:
    with torch.device("meta"):
        net = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=10)
    n, d = 197, 192
    block = 2 * (n * d * 3 * d + 2 * n * n * d + n * d * d + 2 * n * d * 4 * d)  # qkv, both products, out, mlp
    facts = describe(net, 224)
    assert facts.flops == 2 * 196 * d * 768 + block + 2 * d * 10
    assert sum(stage.flops for stage in facts.stages) == facts.flops
    assert sum(stage.parameters for stage in facts.stages) == facts.parameters


def test_width_and_depth_of_a_plan() -> None:
    facts = describe(StagePlan(depth=(1, 2), width=(8, 24), early_pool=False).build(5), 32)
    assert facts.depth == 1 + 3 * 2 + 1
    assert [(stage.map_size, stage.width) for stage in facts.stages] == [((32, 32), 8), ((16, 16), 24), (None, 5)]


def test_the_model_stays_as_it_was_and_is_said_in_words() -> None:
    net = _net().train()
    net[0].requires_grad_(False)
    facts = describe(net, (8, 12))
    assert net.training
    assert all(p.device.type == "cpu" and p.grad is None for p in net.parameters())
    assert "8x12 pixels" in str(facts)
    assert "197 (89 trainable), 788 B" in str(facts)
    out = StringIO()
    Console(width=100, file=out).print(facts.table())
    assert "4x6" in out.getvalue()


def test_a_wrong_size_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"Sequential does not take an image \[1, 3, 8, 8\], at 0 \(Conv2d\)"):
        describe(nn.Sequential(nn.Conv2d(3, 4, 9)), 8)
    with pytest.raises(ValueError, match="image_size=0"):
        describe(_net(), 0)
