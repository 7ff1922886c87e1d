"""Networks in stages: known networks by their plan, and the recipe's contract."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet18, resnet50

from dlrecipes.contracts import DataInfo
from dlrecipes.errors import UserError
from dlrecipes.nn import ResidualBlock, StagedNet, StagePlan
from dlrecipes.parts import build_part, part_spec

INFO = DataInfo(
    task="classification",
    classes=("a", "b", "c"),
    category_ids=(0, 1, 2),
    class_counts=(1, 1, 1),
    num_train=3,
    max_objects=0,
    image_size=32,
)


def _shapes(model: nn.Module) -> list[tuple[int, ...]]:
    return sorted(tuple(p.shape) for p in model.parameters())


@pytest.mark.parametrize(
    ("plan", "reference", "parameters"),
    [
        (StagePlan(width=(64, 128, 256, 512)), resnet18, 11_689_512),
        (
            StagePlan(depth=(3, 4, 6, 3), width=(256, 512, 1024, 2048), block="bottleneck"),
            resnet50,
            25_557_032,
        ),
    ],
)
def test_plans_of_known_networks(plan: StagePlan, reference, parameters: int) -> None:  # type: ignore[no-untyped-def]
    with torch.device("meta"):
        net, known = plan.build(1000), reference()
    assert _shapes(net) == _shapes(known)
    assert sum(p.numel() for p in net.parameters()) == parameters


def test_a_plan_of_resnet18_computes_what_torchvisions_does() -> None:
    torch.manual_seed(0)
    net, known = StagePlan(width=(8, 8, 16, 16)).build(5).eval(), resnet18(num_classes=5)
    known.conv1, known.bn1 = net.stem[0].conv, net.stem[0].bn  # type: ignore[assignment,union-attr]
    for index, stage in enumerate(net.stages):
        layer = getattr(known, f"layer{index + 1}")
        for mine, theirs in zip(stage, layer, strict=True):  # type: ignore[arg-type]
            theirs.conv1, theirs.bn1 = mine.branch.conv1, mine.branch.bn1
            theirs.conv2, theirs.bn2 = mine.branch.conv2, mine.branch.bn2
            nn.init.normal_(mine.branch.bn2.weight)
            theirs.downsample = mine.shortcut
    known.fc = net.head
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(net(x), known.eval()(x))


@pytest.mark.parametrize(
    ("args", "stride", "side"),
    [
        ({}, 32, 2),
        ({"early_pool": False}, 8, 8),
        ({"dilation": (1, 1, 1, 2)}, 16, 4),
        ({"stride": (2, 2, 1, 1), "early_pool": False}, 4, 16),
    ],
)
def test_strides(args: dict, stride: int, side: int) -> None:  # type: ignore[type-arg]
    plan = StagePlan(depth=(1, 1, 1, 1), width=(4, 4, 4, 4), **args)
    net = plan.build(2)
    assert plan.total_stride == stride
    assert net.stages(net.stem(torch.zeros(1, 3, 64, 64))).shape[-2:] == (side, side)


@pytest.mark.parametrize("block", ["basic", "bottleneck", "conv1xn"])
@pytest.mark.parametrize("pre_activation", [False, True])
def test_every_block_trains_and_is_made_again(block: str, pre_activation: bool) -> None:
    torch.manual_seed(0)
    net = StagedNet(
        depth=[1, 2], width=[8, 16], block=block, pre_activation=pre_activation, early_pool=False, drop_path=0.2
    )
    net.bind(INFO)
    x = torch.rand(4, 3, 16, 16)
    nn.functional.cross_entropy(net(x), torch.tensor([0, 1, 2, 0])).backward()
    assert net.head.weight.grad.abs().sum() > 0  # type: ignore[union-attr]
    again = build_part(part_spec(net))
    again.load_state_dict(net.state_dict())
    assert torch.equal(again.eval()(x), net.eval()(x))
    assert torch.equal(net.classify(net.features(x)), net(x))


def test_drop_path_grows_to_the_last_block() -> None:
    net = StagedNet(depth=(2, 3), width=(4, 4), drop_path=0.4, early_pool=False)
    blocks = [module for module in net.modules() if isinstance(module, ResidualBlock)]
    assert [getattr(block.drop_path, "p", 0.0) for block in blocks] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_every_branch_starts_as_nothing() -> None:
    net = StagedNet(depth=(1, 1), width=(8, 8), stride=(1, 1), early_pool=False).eval()
    stem = net.stem(torch.rand(2, 3, 16, 16))
    assert torch.equal(net.stages(stem), stem)


def test_the_first_loss_is_log_of_the_classes() -> None:
    torch.manual_seed(0)
    net = StagedNet(depth=(1, 1), width=(16, 32), num_outputs=10)
    loss = nn.functional.cross_entropy(net(torch.randn(20, 3, 32, 32)), torch.arange(20) % 10)
    assert float(loss.detach()) == pytest.approx(2.302585, abs=0.1)


def test_bind_needs_outputs() -> None:
    with pytest.raises(UserError, match="StagedNet needs classes"):
        StagedNet(depth=(1,), width=(4,)).bind(
            DataInfo(
                task="classification",
                classes=(),
                category_ids=(),
                class_counts=(),
                num_train=0,
                max_objects=0,
                image_size=32,
            )
        )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"depth": ()}, "depth"),
        ({"depth": (1, 2)}, "width=.*one number for each of the 2 stages"),
        ({"depth": (0, 1, 1, 1)}, "depth=.0, 1, 1, 1.: at least 1 each"),
        ({"stride": (1,)}, "stride"),
        ({"block": "wide"}, "block='wide'"),
        ({"kernel": 2}, "kernel=2"),
        ({"num_outputs": 0}, "num_outputs=0"),
    ],
)
def test_wrong_plans_are_named(args: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=message):
        StagedNet(**args)
