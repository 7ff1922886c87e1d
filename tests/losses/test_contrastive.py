"""Losses with something to learn, losses over several ranks, and other people's metric learning."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from dlrecipes.contracts import DataInfo
from dlrecipes.errors import UserError
from dlrecipes.losses import BalancedContrastiveLoss, BalancedMSELoss, GAILoss, SupConLoss
from dlrecipes.losses.balanced_regression import fit_target_mixture
from dlrecipes.parts import build_part, part_spec

INFO = DataInfo(
    task="classification",
    classes=("cat", "dog", "owl"),
    category_ids=(0, 1, 2),
    class_counts=(60, 30, 10),
    num_train=100,
    max_objects=0,
    image_size=32,
)

SCRIPT = """
import json, sys
from datetime import timedelta
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from dlrecipes.imbalance.feature_smoothing import FeatureDistributionSmoothing
from dlrecipes.imbalance.prototypes import NearestClassMean
from dlrecipes.losses import SeesawLoss, SupConLoss

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=sys.argv[2], rank=rank, world_size=2, timeout=timedelta(seconds=60))
torch.set_num_threads(1)
torch.manual_seed(0)
model, x, y = nn.Linear(5, 4), torch.randn(8, 5), torch.tensor([0, 1, 2, 3, 0, 0, 1, 5])
weight = torch.tensor([1.0, 2.0, 1.0, 1.0, 0.5, 1.0, 3.0, 1.0])
shard = slice(4 * rank, 4 * rank + 4)
parallel = DistributedDataParallel(model)
SupConLoss(0.3, gather=True)(parallel(x[shard]), y[shard], sample_weight=weight[shard]).backward()
seesaw = SeesawLoss(accumulate=True, class_counts=[1.0] * 6)
seesaw(torch.zeros(4, 6), y[shard])
ncm = NearestClassMean(5, 6)
ncm.update(x[shard], y[shard])
fds = FeatureDistributionSmoothing(5, bins=3, target_range=(0.0, 6.0))
fds(x[shard], y[shard].float())
fds.end_epoch()
found = [model.weight.grad, seesaw.seen, ncm.means, fds.running_mean, fds.running_var]
print(json.dumps([tensor.flatten().tolist() for tensor in found]))
dist.destroy_process_group()
"""


def test_two_ranks_find_what_one_does(two_ranks: Callable[[str], list[Any]]) -> None:
    """Gradients with embeddings of all ranks, and what is counted or averaged over them."""
    from dlrecipes.imbalance.feature_smoothing import FeatureDistributionSmoothing
    from dlrecipes.imbalance.prototypes import NearestClassMean

    first, second = two_ranks(SCRIPT)

    torch.manual_seed(0)
    model, x, y = nn.Linear(5, 4), torch.randn(8, 5), torch.tensor([0, 1, 2, 3, 0, 0, 1, 5])
    weight = torch.tensor([1.0, 2.0, 1.0, 1.0, 0.5, 1.0, 3.0, 1.0])
    SupConLoss(0.3)(model(x), y, weight).backward()
    ncm, fds = NearestClassMean(5, 6), FeatureDistributionSmoothing(5, bins=3, target_range=(0.0, 6.0))
    ncm.update(x, y)
    fds(x, y.float())
    fds.end_epoch()
    expected = [model.weight.grad, torch.bincount(y, minlength=6), ncm.means, fds.running_mean, fds.running_var]
    assert first == second
    for found, tensor in zip(first, expected, strict=True):
        assert found == pytest.approx(tensor.flatten().tolist(), abs=1e-5)


def test_gathering_on_one_process_changes_nothing() -> None:
    x, y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1, 2, 2])
    assert torch.equal(SupConLoss(gather=True)(x, y), SupConLoss()(x, y))


class TestPrototypes:
    def test_bind_makes_one_for_each_class_and_keeps_what_was_learned(self) -> None:
        loss = BalancedContrastiveLoss(4)
        x, y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1, 2, 2])
        with pytest.raises(UserError, match="must see the training data first"):
            loss(x, y)
        loss.bind(INFO)
        assert loss.prototypes.shape == (3, 4)
        loss(x, y).backward()
        with torch.no_grad():
            loss.prototypes.sub_(loss.prototypes.grad)
        learned = loss.prototypes.clone()
        loss.bind(INFO)
        assert torch.equal(loss.prototypes, learned)
        again = build_part(part_spec(loss))
        again.bind(INFO)
        again.load_state_dict(loss.state_dict())
        assert torch.equal(again(x, y), loss(x, y))

    def test_another_number_of_classes_is_named(self) -> None:
        with pytest.raises(UserError, match="num_classes=7, but the data has 3"):
            BalancedContrastiveLoss(4, num_classes=7).bind(INFO)
        loss = BalancedContrastiveLoss(4)
        loss.bind(INFO)
        loss.bind(replace(INFO, classes=("a", "b"), class_counts=(1, 2), category_ids=(0, 1)))
        assert loss.prototypes.shape == (2, 4)


@pytest.mark.parametrize("name", ["SupConLoss", "TripletMarginLoss", "MultiSimilarityLoss"])
def test_pytorch_metric_learnings_losses_plug_in_as_they_are(name: str) -> None:
    """Called as ours are; with a miner, as a loss of one's own of three lines."""
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    miners = pytest.importorskip("pytorch_metric_learning.miners")

    class Mined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loss, self.miner = getattr(losses, name)(), miners.MultiSimilarityMiner()

        def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.loss(input, target, self.miner(input, target))
            return found

    generator = torch.Generator().manual_seed(0)
    y = torch.arange(24) % 3
    x = torch.randn(24, 6, generator=generator) + 2 * torch.eye(6)[y]
    for loss in (getattr(losses, name)(), Mined()):
        torch.manual_seed(0)
        model = nn.Linear(6, 4)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        values = []
        for _ in range(30):
            optimizer.zero_grad()
            value = loss(model(x), y)
            value.backward()
            optimizer.step()
            values.append(value.item())
        assert values[-1] < values[0]


class TestNoise:
    @pytest.mark.parametrize("loss", [BalancedMSELoss(0.8), GAILoss(noise=0.8)])
    def test_it_is_learned_unless_it_must_not_be(self, loss: BalancedMSELoss | GAILoss) -> None:
        x, y = torch.randn(2, 8, 1, generator=torch.Generator().manual_seed(0))
        loss(x, y).backward()
        assert loss.log_factor.grad != 0
        assert loss.sigma(x).item() == pytest.approx(0.8)
        fixed = type(loss)(noise=0.8, learn_noise=False)
        assert not any(p.requires_grad for p in fixed.parameters())
        assert torch.equal(fixed(x, y), loss(x, y))

    def test_arguments_out_of_range_are_named(self) -> None:
        with pytest.raises(ValueError, match="noise=0"):
            BalancedMSELoss(0.0)
        with pytest.raises(ValueError, match="belong together"):
            GAILoss(weights=[1.0])
        with pytest.raises(ValueError, match=r"shapes \[2\], \[1, 1\], \[1, 1\]"):
            GAILoss([0.5, 0.5], [[0.0]], [[1.0]])
        with pytest.raises(ValueError, match="above 0"):
            GAILoss([1.0], [[0.0]], [[0.0]])
        with pytest.raises(ValueError, match="temperature=0"):
            SupConLoss(0.0)
        with pytest.raises(ValueError, match="chunk=0"):
            SupConLoss(chunk=0)

    def test_a_mixture_is_fitted_and_survives_a_checkpoint(self) -> None:
        generator = torch.Generator().manual_seed(0)
        targets = torch.cat([torch.randn(300, generator=generator), 6 + 0.5 * torch.randn(100, generator=generator)])
        loss = GAILoss(**fit_target_mixture(targets, 2))
        order = torch.tensor(loss.means).flatten().argsort()
        torch.testing.assert_close(
            torch.tensor(loss.means).flatten()[order], torch.tensor([0.0, 6.0]), atol=0.2, rtol=0
        )
        torch.testing.assert_close(torch.tensor(loss.weights)[order], torch.tensor([0.75, 0.25]), atol=0.02, rtol=0)
        x = torch.zeros(3, 1)
        assert torch.equal(build_part(part_spec(loss))(x, x + 1), loss(x, x + 1))
        with pytest.raises(ValueError, match="components=8"):
            fit_target_mixture([1.0, 2.0])
