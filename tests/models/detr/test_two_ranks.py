"""Criterion and denoising on two real processes, one of which has no objects."""

from collections.abc import Callable
from typing import Any

SCRIPT = """
import json, sys
from datetime import timedelta
import torch
import torch.distributed as dist
from dlrecipes.models.detr import SetCriterion
from dlrecipes.models.detr.denoising import Denoising

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=sys.argv[2], rank=rank, world_size=2, timeout=timedelta(seconds=60))
torch.manual_seed(0)
outputs = {"pred_logits": torch.randn(1, 1, 5, 4), "pred_boxes": torch.rand(1, 1, 5, 4) * 0.4 + 0.3}
objects = 3 if rank == 0 else 0
targets = [{"labels": torch.arange(objects) % 3, "boxes": torch.full((objects, 4), 0.5)}]
criterion = SetCriterion(3)
losses = criterion(outputs, targets)
if rank == 1:
    criterion.eval()(outputs, targets)  # a batch more than the other rank has: nobody may be waited for
    criterion.train()


class Toy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.denoising = Denoising(4, 3, groups=2)
        self.classes, self.boxes = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

    def forward(self, targets):
        noised = self.denoising(targets, torch.device("cpu"), torch.float32)
        logits, boxes = self.classes(noised.query)[None], self.boxes(noised.query).sigmoid()[None]
        return {"denoising_logits": logits, "denoising_boxes": boxes, "denoising_target": noised.target}


# DDP raises in the second step if a parameter had no gradient in the first
toy = torch.nn.parallel.DistributedDataParallel(Toy())
for _ in range(2):
    further = criterion(outputs | toy(targets), targets)
    sum(value for name, value in further.items() if name.endswith("_dn")).backward()
losses |= {"loss_bbox_dn": further["loss_bbox_dn"], "moved": toy.module.denoising.label_embed.weight.grad.abs().sum()}
print(json.dumps({name: value.item() for name, value in losses.items()}))
dist.destroy_process_group()
"""


def test_both_ranks_divide_by_the_mean_number_of_objects(two_ranks: Callable[[str], list[Any]]) -> None:
    first, second = two_ranks(SCRIPT)

    import torch

    from dlrecipes.models.detr import SetCriterion

    torch.manual_seed(0)
    outputs = {"pred_logits": torch.randn(1, 1, 5, 4), "pred_boxes": torch.rand(1, 1, 5, 4) * 0.4 + 0.3}
    alone = SetCriterion(3)(outputs, [{"labels": torch.arange(3), "boxes": torch.full((3, 4), 0.5)}])
    for name in ("loss_bbox", "loss_giou"):
        assert abs(first[name] - alone[name].item() * 3 / 1.5) < 1e-5  # 3 objects alone, 1.5 a rank together
        assert second[name] == 0.0
    assert abs(first["loss_ce"] - alone["loss_ce"].item()) < 1e-6  # a local mean, as the authors have it
    assert second["loss_bbox_dn"] == 0.0 < first["loss_bbox_dn"]
    assert first["moved"] == second["moved"] > 0  # the rank without objects learns what the other one saw
