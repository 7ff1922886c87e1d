"""Steps of detectors: one wait, in the matcher, which assigns on the host."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from fits import fit
from torch.utils.data import DataLoader

from dlrecipes.contracts import DataInfo
from dlrecipes.models import DETR
from dlrecipes.models.detr import SetCriterion
from dlrecipes.tasks import DetectionTask

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")

TINY = {"hidden_dim": 16, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 2, "feedforward_dim": 16}
FAST = {
    "queries": "two_stage", "cross_attention": "in_box", "class_head": "sigmoid", "feature_stride": 16,
    "sample_stride": 8, "sample_channels": 8, "sample_margin": 1.3, "mask_padding": True,
}  # fmt: skip
VARIANTS: dict[str, tuple[dict[str, Any], str]] = {
    "detr_paper": ({"mask_padding": True, "dropout": 0.1}, "ce"),
    "detr_fast": (FAST, "varifocal"),
    "detr_fast_lite0": (FAST | {"feature_norm": True}, "mal"),
    "deformable, denoising": (
        FAST | {"queries": "anchors", "cross_attention": "deformable", "sample_stride": [8, 16], "denoising": 2},
        "ia_bce",
    ),
    "groups, hybrid, position bias": (
        FAST | {"cross_attention": "global", "query_groups": 2, "hybrid_queries": 8, "position_bias": True},
        "focal",
    ),
}


def batch(padded: bool) -> dict[str, Any]:
    """Three images of 3, 0 and 2 objects, one of them padded."""
    mask = torch.zeros(3, 64, 96, dtype=torch.bool)
    mask[1, :, 64:] = True
    targets = [
        {
            "labels": torch.randint(0, 3, (n,)), "boxes": torch.rand(n, 4) * 0.3 + 0.3,
            "area": torch.full((n,), 900.0), "iscrowd": torch.zeros(n, dtype=torch.bool),
        }
        for n in (3, 0, 2)
    ]  # fmt: skip
    sizes = torch.tensor([[64, 96], [64, 64], [64, 96]])
    return {
        "images": torch.randint(0, 256, (3, 3, 64, 96), dtype=torch.uint8), "mask": mask if padded else None,
        "targets": targets, "image_ids": [0, 1, 2], "paths": ["a", "b", "c"], "sizes": sizes, "orig_sizes": 2 * sizes,
    }  # fmt: skip


class Scenes(L.LightningDataModule):
    info = DataInfo(
        task="detection",
        classes=("cat", "dog", "cow"),
        category_ids=(3, 5, 9),
        class_counts=(2, 2, 2),
        num_train=9,
        max_objects=3,
        image_size=96,
    )

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader([batch(False), batch(True), batch(False)], batch_size=None)  # type: ignore[arg-type]

    val_dataloader = train_dataloader


@pytest.mark.parametrize("name", VARIANTS)
def test_one_wait_a_step(name: str, tmp_path: Path) -> None:
    variant, loss = VARIANTS[name]
    model = DETR("test_resnet", num_queries=9, pretrained_backbone=False, **(TINY | variant))
    task = DetectionTask(model, SetCriterion(class_loss=loss))
    waits = fit(task, Scenes(), tmp_path, limit_val_batches=0)
    assert waits == {"models/detr/matcher.py:solve": 2}  # of two steps
