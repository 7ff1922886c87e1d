"""A training step waits for the device once: the copy of the matching costs."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dlrecipes.models import DETR
from dlrecipes.models.detr import SetCriterion
from dlrecipes.models.detr.denoising import Denoising
from dlrecipes.models.detr.set_losses import CLASS_LOSSES

# What makes a host wait for its device: a value read, or a shape that depends on values.
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "unique_dim", "_unique2", "is_nonzero", "equal"}
EVERYTHING = {
    "queries": "two_stage",
    "class_head": "sigmoid",
    "feature_stride": 16,
    "position_bias": True,
    "query_groups": 2,
    "hybrid_queries": 5,
    "denoising": 2,
}
ANCHORS = EVERYTHING | {
    "queries": "anchors",
    "position_bias": False,
    "cross_attention": "deformable",
    "sample_stride": [8, 16],
}
FAST = {
    "queries": "two_stage",
    "cross_attention": "in_box",
    "class_head": "sigmoid",
    "feature_stride": 16,
}


class CountWaits(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = function.overloadpacket.__name__
        boolean_index = name in ("index", "index_put_") and any(
            i is not None and i.dtype == torch.bool for i in args[1]
        )
        if name in WAITING or boolean_index:
            self.seen[name] += 1
        return function(*args, **(kwargs or {}))


def make(variant: dict, device: str = "cpu") -> tuple:
    torch.manual_seed(0)
    args = {"hidden_dim": 32, "num_heads": 4, "encoder_layers": 1, "decoder_layers": 3, "feedforward_dim": 32}
    model = DETR("test_resnet", num_classes=3, num_queries=9, pretrained_backbone=False, **(args | variant)).to(device)
    targets = [
        {"labels": torch.randint(0, 3, (n,), device=device), "boxes": torch.rand(n, 4, device=device) * 0.3 + 0.3}
        for n in (3, 0, 2)
    ]
    mask = torch.zeros(3, 64, 96, dtype=torch.bool)
    mask[1, :, 64:] = True
    return model, targets, torch.randn(3, 3, 64, 96, device=device), mask.to(device)


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """How often a tensor's values were asked for."""
    copies = Counter()
    for name in ("cpu", "item", "tolist"):
        original = getattr(torch.Tensor, name)

        def counted(self, *args, _name=name, _original=original, **kwargs):  # type: ignore[no-untyped-def]
            copies[_name] += 1
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)
    return copies


VARIANTS = [({}, "ce"), (FAST, "focal"), (FAST, "varifocal"), (EVERYTHING, "focal"), (ANCHORS, "mal")]


@pytest.mark.parametrize(("variant", "loss"), VARIANTS)
@pytest.mark.parametrize("padded", [False, True])
def test_one_copy_to_the_host_a_step(variant: dict, loss: str, padded: bool, copies: Counter) -> None:
    model, targets, images, mask = make(variant)
    criterion = SetCriterion(3, class_loss=loss)
    copies.clear()  # of making the model
    with CountWaits() as waits:
        losses = criterion(model(images, mask if padded else None, targets), targets)
        sum(value for key, value in losses.items() if key.startswith("loss")).backward()
    assert waits.seen == {}
    assert copies == {"cpu": 1}


def all_sets(targets: list, loss: str, denoising: Denoising) -> dict[str, torch.Tensor]:
    """Predictions of every kind of query set, the denoising ones from noised objects."""
    device = next(denoising.parameters()).device
    noised = denoising(targets, device, torch.float32)
    shapes = {"pred": (2, 3, 9), "proposal": (3, 20), "group": (2, 3, 2, 9), "hybrid": (2, 3, 20)}
    shapes["denoising"] = (2, *noised.target.shape)
    outputs = {"denoising_target": noised.target}
    for name, shape in shapes.items():
        outputs[f"{name}_logits"] = torch.randn(*shape, 3 + (loss == "ce"), device=device, requires_grad=True)
        outputs[f"{name}_boxes"] = (torch.randn(*shape, 4, device=device, requires_grad=True)).sigmoid()
    outputs["denoising_logits"] = outputs["denoising_logits"] + noised.query.sum()
    return outputs


@pytest.mark.parametrize("loss", CLASS_LOSSES)
def test_all_query_sets_share_one_copy(loss: str, copies: Counter) -> None:
    targets = make({})[1]
    criterion = SetCriterion(3, class_loss=loss)
    denoising = Denoising(8, 3, contrastive=True)
    with CountWaits() as waits:
        losses = criterion(all_sets(targets, loss, denoising), targets)
        sum(value for key, value in losses.items() if key.startswith("loss")).backward()
    assert waits.seen == {}
    assert copies == {"cpu": 1}


@pytest.mark.gpu
@pytest.mark.parametrize(("variant", "loss"), VARIANTS)
def test_one_copy_to_the_host_a_step_on_a_gpu(variant: dict, loss: str, recwarn: pytest.WarningsRecorder) -> None:
    model, targets, images, mask = make(variant, "cuda")
    criterion = SetCriterion(3, class_loss=loss)
    sum(
        v for k, v in criterion(model(images, mask, targets), targets).items() if k.startswith("loss")
    ).backward()  # warm-up
    torch.cuda.synchronize()
    recwarn.clear()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        losses = criterion(model(images, mask, targets), targets)
        sum(value for key, value in losses.items() if key.startswith("loss")).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [f"{w.filename}:{w.lineno}" for w in recwarn if "called a synchronizing" in str(w.message)]
    assert len(waits) == 1, waits


@pytest.mark.gpu
@pytest.mark.parametrize("loss", CLASS_LOSSES)
def test_all_query_sets_share_one_copy_on_a_gpu(loss: str, recwarn: pytest.WarningsRecorder) -> None:
    targets = make({}, "cuda")[1]
    criterion = SetCriterion(3, class_loss=loss)
    denoising = Denoising(8, 3, contrastive=True).to("cuda")

    def step() -> None:
        losses = criterion(all_sets(targets, loss, denoising), targets)
        sum(value for key, value in losses.items() if key.startswith("loss")).backward()

    step()  # warm-up
    torch.cuda.synchronize()
    recwarn.clear()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [f"{w.filename}:{w.lineno}" for w in recwarn if "called a synchronizing" in str(w.message)]
    assert len(waits) == 1, waits
