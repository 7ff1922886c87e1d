"""A loss under DDP on two real processes: the gradient is that of the whole batch on one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from dlrecipes.losses import LogitAdjustedLoss

SCRIPT = """
import json, sys
from datetime import timedelta
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from dlrecipes.losses import LogitAdjustedLoss

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=sys.argv[2], rank=rank, world_size=2, timeout=timedelta(seconds=60))
torch.set_num_threads(1)
torch.manual_seed(0)
model, x, y = nn.Linear(5, 3), torch.randn(8, 5), torch.randint(3, (8,))
weight = torch.tensor([1.0, 2.0, 0.0, 1.0] * 2)  # the same sum on both
shard = slice(4 * rank, 4 * rank + 4)
loss = LogitAdjustedLoss(prior=[6.0, 3.0, 1.0])
parallel = DistributedDataParallel(model)  # a name of its own: without one it is gone before the backward pass
loss(parallel(x[shard]), y[shard], sample_weight=weight[shard]).backward()
print(json.dumps(model.weight.grad.flatten().tolist()))
dist.destroy_process_group()
"""


def test_gradient_of_two_ranks_is_that_of_one(two_ranks: Callable[[str], list[Any]]) -> None:
    first, second = two_ranks(SCRIPT)

    torch.manual_seed(0)
    model, x, y = nn.Linear(5, 3), torch.randn(8, 5), torch.randint(3, (8,))
    LogitAdjustedLoss(prior=[6.0, 3.0, 1.0])(model(x), y, torch.tensor([1.0, 2.0, 0.0, 1.0] * 2)).backward()
    assert model.weight.grad is not None
    assert first == second
    assert first == pytest.approx(model.weight.grad.flatten().tolist(), abs=1e-6)
