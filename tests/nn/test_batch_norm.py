"""Batch norms: set, and frozen so that training mode does not thaw them."""

import pytest
import timm
import torch
from torch import nn

from dlrecipes.nn import ConvBNAct, ResidualBlock, freeze_bn, set_bn


def test_set_bn_sets_all_of_them() -> None:
    model = nn.Sequential(ConvBNAct(3, 8), ResidualBlock(8, 8))
    assert set_bn(model, momentum=0.01, eps=1e-3) == 3
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.01, 1e-3)}
    set_bn(model, eps=1e-5)
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.01, 1e-5)}


@pytest.mark.parametrize("args", [{"momentum": 1.5}, {"momentum": -0.1}, {"eps": 0.0}])
def test_set_bn_refuses(args: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(args))):
        set_bn(nn.BatchNorm2d(3), **args)


def test_frozen_bn_stays_so_in_training() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(ConvBNAct(3, 8), ResidualBlock(8, 8, zero_init=False))
    x = torch.randn(16, 3, 8, 8)
    model(x)  # statistics away from 0 and 1
    expected, state = model.eval()(x), {key: value.clone() for key, value in model.state_dict().items()}
    names = freeze_bn(model)
    assert names == ["0.bn", "1.branch.bn1", "1.branch.bn2"]
    torch.testing.assert_close(model.train()(x), expected)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any("bn" in name for name, _ in model.named_parameters())
    model.load_state_dict(state)  # with the number of batches, which a frozen one does not count


def test_a_fused_bn_keeps_its_activation() -> None:
    model = timm.create_model("test_resnet", pretrained=False).eval()
    fused = timm.create_model("densenet121", growth_rate=4, block_config=(1, 1), pretrained=False).eval()
    for net in (model, fused):
        x = torch.randn(2, 3, 64, 64)
        expected = net(x)
        assert len(freeze_bn(net)) > 3
        torch.testing.assert_close(net.train()(x), expected)


def test_what_cannot_be_frozen_is_refused() -> None:
    with pytest.raises(ValueError, match="give the module that holds it"):
        freeze_bn(nn.BatchNorm2d(3))
    with pytest.raises(ValueError, match="0 is a BatchNorm1d"):
        freeze_bn(nn.Sequential(nn.BatchNorm1d(3)))


def test_sync_bn_takes_the_statistics_over() -> None:
    model = ResidualBlock(4, 4)
    shared = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in shared.modules()) == 2
    assert set_bn(shared, momentum=0.01) == 2
