"""The detectors that DETR is compared with on small data, trained from random weights until a clock has run out.

python benchmarks/detr_peers.py --peer faster_rcnn --data path/to/bccd --seconds 240 --output row.json

``benchmarks/detr_small_data.py`` runs it beside the recipe. A peer is trained by a plain loop: all pictures lie decoded
on the device, and what augments them runs there, so that no loader is in its way. Its learning rate fits the clock.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_fpn, fasterrcnn_resnet50_fpn_v2
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes

from dlrecipes.contracts import DetectionBatch
from dlrecipes.data import DetectionData
from dlrecipes.functional.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from dlrecipes.models import DETR
from dlrecipes.optim import cosine
from dlrecipes.tasks import DetectionTask

BATCH = 8
FREE_STEPS = 10  # until CUDA has started and kernels are chosen the clock stands still, as in the recipe's runs
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
METRICS = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_100")
Target = dict[str, Tensor]  # labels int64 [n], boxes float32 [n, 4] (x1, y1, x2, y2) in pixels


@dataclass(frozen=True)
class Settings:
    """How a peer is trained.

    Attributes:
        make: (classes, height, width) -> the peer.
        lr, weight_decay: of the optimizer.
        sgd: momentum .9, as torchvision trains; else AdamW.
        backbone_share: learning rate of the backbone over that of the rest.
        warmup: steps of linear warm-up.
        clip: largest norm of the gradient; None: not clipped.
        jitter: range of the scale that pictures are zoomed by; None: not zoomed. All are mirrored half of the time.
    """

    make: Callable[[int, int, int], Peer]
    lr: float
    weight_decay: float
    sgd: bool = True
    backbone_share: float = 1.0
    warmup: int = 200
    clip: float | None = None
    jitter: tuple[float, float] | None = None


class Peer(Protocol):
    """A detector with the loss and the decoding of its own library."""

    net: nn.Module

    def loss(self, images: Tensor, targets: list[Target]) -> Tensor:
        """images: float [B, 3, H, W], 0..1."""

    def predict(self, images: Tensor, sizes: Tensor) -> list[Target]:
        """scores, labels and boxes in pixels of pictures of ``sizes`` [B, 2], (height, width)."""


class InBf16(nn.Module):
    """Runs a part in bfloat16 on CUDA and gives float32: boxes of 600 pixels have no place in eight bits."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *inputs: Any) -> Any:
        with torch.autocast("cuda", torch.bfloat16, enabled=torch.cuda.is_available()):
            return _float(self.part(*inputs))


def _float(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float()
    if isinstance(value, dict):
        return type(value)((name, _float(item)) for name, item in value.items())
    return type(value)(_float(item) for item in value)


class FasterRCNN:
    """torchvision's Faster R-CNN with feature pyramid, all layers trained.

    Args:
        classes, height, width: of the data.
        sides: shorter and longer, at most, that it scales pictures to; None: as they come. Its own: 800 and 1333.
        small: for CPUs: MobileNetV3 instead of ResNet-50 in its second version, and 64 regions an image for the heads
            to learn from instead of 512, since in these nearly all of a step's time goes.
    """

    def __init__(
        self, classes: int, height: int, width: int, *, sides: tuple[int, int] | None = None, small: bool = False
    ) -> None:
        shorter, longer = sides or (min(height, width), max(height, width))
        net: Any = (fasterrcnn_mobilenet_v3_large_fpn if small else fasterrcnn_resnet50_fpn_v2)(
            weights=None,
            weights_backbone=None,
            num_classes=classes + 1,
            min_size=shorter,
            max_size=longer,
            box_batch_size_per_image=64 if small else 512,
            box_score_thresh=0.001,  # its default, .05, cuts the ends off the precision-recall curves
        )
        net.backbone, net.rpn.head = InBf16(net.backbone), InBf16(net.rpn.head)
        net.roi_heads.box_head = InBf16(net.roi_heads.box_head)
        net.roi_heads.box_predictor = InBf16(net.roi_heads.box_predictor)
        self.net: nn.Module = net

    def loss(self, images: Tensor, targets: list[Target]) -> Tensor:
        given = [{"boxes": target["boxes"], "labels": target["labels"] + 1} for target in targets]
        losses: dict[str, Tensor] = self.net(list(images), given)
        return torch.stack(list(losses.values())).sum()

    def predict(self, images: Tensor, sizes: Tensor) -> list[Target]:
        back = sizes / sizes.new_tensor(images.shape[-2:])
        return [
            {
                "scores": found["scores"],
                "labels": found["labels"] - 1,
                "boxes": found["boxes"] * scale.flip(0).repeat(2),
            }
            for found, scale in zip(self.net(list(images)), back, strict=True)
        ]


class TransformersDETR:
    """Hugging Face's DETR, ResNet-50, with the auxiliary losses that its own default leaves out."""

    def __init__(self, classes: int, height: int, width: int) -> None:
        from transformers import DetrConfig, DetrForObjectDetection, DetrImageProcessor, ResNetConfig

        config = DetrConfig(
            use_timm_backbone=False,
            backbone_config=ResNetConfig(out_features=["stage4"]),
            num_labels=classes,
            auxiliary_loss=True,
        )
        self.net: nn.Module = DetrForObjectDetection(config)
        self._decode = DetrImageProcessor().post_process_object_detection

    def loss(self, images: Tensor, targets: list[Target]) -> Tensor:
        size = images.new_tensor([images.shape[-1], images.shape[-2]]).repeat(2)
        labels = [{"class_labels": t["labels"], "boxes": xyxy_to_cxcywh(t["boxes"]) / size} for t in targets]
        found: Tensor = self._run(images, labels).loss
        return found

    def predict(self, images: Tensor, sizes: Tensor) -> list[Target]:
        found: list[Target] = self._decode(self._run(images, None), threshold=0.0, target_sizes=sizes)
        return found

    def _run(self, images: Tensor, labels: list[Target] | None) -> Any:
        pixels = v2.functional.normalize(images, list(MEAN), list(STD))
        with torch.autocast("cuda", torch.bfloat16, enabled=images.is_cuda):
            return self.net(pixel_values=pixels, labels=labels)


_RCNN = Settings(FasterRCNN, lr=0.02, weight_decay=1e-4)
_SMALL = replace(_RCNN, warmup=20)  # a CPU takes some two hundred steps in all
PEERS: dict[str, Settings] = {
    "faster_rcnn": _RCNN,
    "faster_rcnn_800": replace(_RCNN, make=partial(FasterRCNN, sides=(800, 1333))),
    "faster_rcnn_jitter": replace(_RCNN, jitter=(0.6, 1.6)),
    "faster_rcnn_small": replace(_SMALL, make=partial(FasterRCNN, sides=(240, 320), small=True)),
    "faster_rcnn_small_160": replace(_SMALL, make=partial(FasterRCNN, small=True)),  # in the pixels that ours has
    "transformers_detr": Settings(
        TransformersDETR, lr=1e-4, weight_decay=1e-4, sgd=False, backbone_share=0.1, warmup=0, clip=0.1
    ),
}


class Pictures(NamedTuple):
    """All that a peer sees: training pictures uint8 [N, 3, H, W] and their objects; test batches as the task's."""

    images: Tensor
    targets: list[Target]
    test: list[DetectionBatch]
    classes: tuple[str, ...]


def read_pictures(path: str, image_size: int, device: torch.device) -> Pictures:
    """Decoded once, the longer side ``image_size``."""
    data = DetectionData(
        path,
        train_split="trainval",
        val_split="test",
        image_size=image_size,
        transform="none",
        batch_size=BATCH,
        num_workers=0,
    )
    data.setup("fit")
    batches, test = list(data.train_dataloader()), list(data.val_dataloader())
    if len({batch["images"].shape[1:] for batch in (*batches, *test)}) > 1:
        raise SystemExit(f"{path}: its pictures differ in shape, and the peers take only those of one.")
    images = torch.cat([batch["images"] for batch in batches]).to(device)
    size = torch.tensor([images.shape[-1], images.shape[-2]]).repeat(2)
    targets = [
        {"labels": t["labels"].to(device), "boxes": (cxcywh_to_xyxy(t["boxes"]) * size).to(device)}
        for batch in batches
        for t in batch["targets"]
    ]
    return Pictures(images, targets, test, data.info.classes)


def training_batches(data: Pictures, settings: Settings) -> Iterator[tuple[Tensor, list[Target]]]:
    """Without end; each epoch in an order of its own, augmented on the device."""
    size = (data.images.shape[-2], data.images.shape[-1])
    zoom = (
        []
        if settings.jitter is None
        else [v2.ScaleJitter(size, settings.jitter), v2.RandomCrop(size, pad_if_needed=True)]
    )
    augment = v2.Compose(
        [*zoom, v2.RandomHorizontalFlip(), v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=2)]
    )
    while True:
        for chosen in torch.randperm(len(data.images)).split(BATCH):
            images, targets = [], []
            for index in chosen.tolist():
                boxes = BoundingBoxes(data.targets[index]["boxes"], format="XYXY", canvas_size=size)
                image, target = augment(data.images[index], {"boxes": boxes, "labels": data.targets[index]["labels"]})
                images.append(image)
                targets.append({"boxes": target["boxes"].as_subclass(Tensor), "labels": target["labels"]})
            yield torch.stack(images) / 255, targets


def clock_of(device: str) -> Literal["wall", "processor"]:
    """On CPUs the processor's: other programs share them."""
    return "processor" if device == "cpu" else "wall"


class Clock:
    """Seconds of training; the device has done what was asked of it when the clock is stopped."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._now = time.process_time if clock_of(device.type) == "processor" else time.monotonic
        self._before = 0.0
        self._since: float | None = self._now()

    @property
    def seconds(self) -> float:
        return self._before + (0.0 if self._since is None else self._now() - self._since)

    def stop(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._before, self._since = self.seconds, None

    def go_on(self) -> None:
        self._since = self._now()


def coco_metric() -> Metric:
    """The one that the recipe uses."""
    return DetectionTask(DETR("test_resnet", pretrained_backbone=False)).configure_metrics()


@torch.no_grad()
def evaluate(peer: Peer, data: Pictures, device: torch.device) -> dict[str, float]:
    """COCO's metrics on the test split, in pixels of the original pictures."""
    metric = coco_metric()
    peer.net.eval()
    for batch in data.test:
        found = peer.predict(batch["images"].to(device) / 255, batch["orig_sizes"].to(device))
        truth = [
            {
                "boxes": cxcywh_to_xyxy(target["boxes"]) * size.flip(0).repeat(2),
                "labels": target["labels"],
                "area": target["area"],
                "iscrowd": target["iscrowd"].long(),
            }
            for target, size in zip(batch["targets"], batch["orig_sizes"], strict=True)
        ]
        metric.update(
            [
                {name: value.float().cpu() if name != "labels" else value.cpu() for name, value in p.items()}
                for p in found
            ],
            truth,
        )
    peer.net.train()
    values = metric.compute()
    classes = dict(
        zip(values["classes"].reshape(-1).tolist(), values["map_per_class"].reshape(-1).tolist(), strict=True)
    )
    return {name: float(values[name]) for name in METRICS} | {
        f"map_class/{name}": classes[i] for i, name in enumerate(data.classes) if i in classes
    }


def make_optimizer(net: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Backbone and rest as two groups."""
    trained = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in trained if "backbone" not in name], "base": settings.lr},
        {"params": [p for name, p in trained if "backbone" in name], "base": settings.lr * settings.backbone_share},
    ]
    if settings.sgd:
        return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, weight_decay=settings.weight_decay)
    return torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay)


def train(
    peer: Peer, data: Pictures, settings: Settings, seconds: float, every: float, device: torch.device
) -> dict[str, Any]:
    """Train until the clock has run out, measured ``every`` so many seconds while it stands still."""
    peer.net.to(device).to(memory_format=torch.channels_last).train()
    optimizer = make_optimizer(peer.net, settings)
    batches = training_batches(data, settings)
    curve: list[tuple[float, float, float]] = []
    steps, measured_at, clock = 0, 0.0, Clock(device)
    while clock.seconds < seconds:
        for group in optimizer.param_groups:
            group["lr"] = (
                group["base"] * min(1.0, (steps + 1) / (settings.warmup or 1)) * cosine(clock.seconds / seconds)
            )
        images, targets = next(batches)
        optimizer.zero_grad()
        peer.loss(images, targets).backward()
        if settings.clip is not None:
            nn.utils.clip_grad_norm_(peer.net.parameters(), settings.clip)
        optimizer.step()
        steps += 1
        if steps <= FREE_STEPS:
            clock.stop()
            clock = Clock(device)
        elif steps % 10 == 0 and device.type == "cuda":
            torch.cuda.synchronize(device)  # or the host runs ahead of a shared GPU, and the clock with it
        if every <= clock.seconds - measured_at and clock.seconds < seconds:
            clock.stop()
            values, measured_at = evaluate(peer, data, device), clock.seconds
            curve.append((clock.seconds, values["map"], values["map_50"]))
            print(f"{clock.seconds:6.1f} s  step {steps}  mAP {values['map']:.3f}", flush=True)
            clock.go_on()
    clock.stop()
    values = evaluate(peer, data, device)
    curve.append((clock.seconds, values["map"], values["map_50"]))
    return values | {"trained_seconds": clock.seconds, "steps": steps, "curve": curve}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=sorted(PEERS), required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--every", type=float, default=30.0, help="seconds between two measurements")
    parser.add_argument("--image-size", type=int, default=640)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--lr", type=float, default=None)
    parser.add_argument("--output", type=Path, required=True, help="JSON file with what was reached")
    options = parser.parse_args()
    random.seed(options.seed)
    np.random.seed(options.seed)  # noqa: NPY002 - libraries draw from the global generator
    torch.manual_seed(options.seed)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    device = torch.device(options.device)
    settings = PEERS[options.peer] if options.lr is None else replace(PEERS[options.peer], lr=options.lr)
    data = read_pictures(options.data, options.image_size, device)
    peer = settings.make(len(data.classes), data.images.shape[-2], data.images.shape[-1])
    row = train(peer, data, settings, options.seconds, options.every, device)
    options.output.write_text(json.dumps(row))
    print(json.dumps({name: value for name, value in row.items() if name != "curve"}))


if __name__ == "__main__":
    main()
