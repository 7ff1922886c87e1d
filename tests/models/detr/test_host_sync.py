"""A training step waits for the device once: the copy of the matching costs."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dlrecipes.models import DETR
from dlrecipes.models.detr import SetCriterion

# What makes a host wait for its device: a value read, or a shape that depends on values.
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "unique_dim", "_unique2", "is_nonzero", "equal"}
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


@pytest.mark.parametrize(("variant", "loss"), [({}, "ce"), (FAST, "focal"), (FAST, "varifocal")])
@pytest.mark.parametrize("padded", [False, True])
def test_one_copy_to_the_host_a_step(variant: dict, loss: str, padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, targets, images, mask = make(variant)
    criterion = SetCriterion(3, class_loss=loss)
    copies = Counter()
    for name in ("cpu", "item", "tolist"):
        original = getattr(torch.Tensor, name)

        def counted(self, *args, _name=name, _original=original, **kwargs):  # type: ignore[no-untyped-def]
            copies[_name] += 1
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)
    with CountWaits() as waits:
        losses = criterion(model(images, mask if padded else None), targets)
        sum(value for key, value in losses.items() if key.startswith("loss")).backward()
    assert waits.seen == {}
    assert copies == {"cpu": 1}


@pytest.mark.gpu
@pytest.mark.parametrize(("variant", "loss"), [({}, "ce"), (FAST, "varifocal")])
def test_one_copy_to_the_host_a_step_on_a_gpu(variant: dict, loss: str, recwarn: pytest.WarningsRecorder) -> None:
    model, targets, images, mask = make(variant, "cuda")
    criterion = SetCriterion(3, class_loss=loss)
    sum(v for k, v in criterion(model(images, mask), targets).items() if k.startswith("loss")).backward()  # warm-up
    torch.cuda.synchronize()
    recwarn.clear()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        losses = criterion(model(images, mask), targets)
        sum(value for key, value in losses.items() if key.startswith("loss")).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([w for w in recwarn if "synchroniz" in str(w.message)]) == 1
