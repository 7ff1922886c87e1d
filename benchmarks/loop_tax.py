"""What the Trainer, the task and the run's callbacks cost: a fit against a hand-written loop over the same batches.

python benchmarks/loop_tax.py                    # about 2 minutes on two cores; writes benchmarks/results/loop_tax.json
python benchmarks/loop_tax.py --repeats 9 --threads 1

ResNet-18 at 64 pixels on the CPU, batches sized for steps of about 80 ms, one epoch from memory without validation. The
arms run in turns, in a new order each time; a ratio compares two arms of the same turn. The first steps do not count.
Beside the time on the clock it takes the processor's, which other programs on the machine disturb less.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning as L
import timm
import torch
from torch import nn
from torch.utils.data import DataLoader

from dlrecipes.callbacks import ExactResume, GracefulStop, NonFiniteStop
from dlrecipes.contracts import DataInfo, ImageBatch
from dlrecipes.runs import EpochLines, MetricsCSV
from dlrecipes.tasks import ClassificationTask

RESULTS = Path(__file__).parent / "results" / "loop_tax.json"
CLASSES, SIDE, WARM_UP, TARGET_MS = 10, 64, 5, 80.0
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def make_batches(count: int, size: int) -> list[ImageBatch]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "images": torch.randint(0, 256, (size, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator),
            "targets": torch.randint(0, CLASSES, (size,), generator=generator),
            "weights": None,
            "index": torch.arange(size),
            "epoch": 0,
            "paths": [""] * size,
        }
        for _ in range(count)
    ]


def make_model() -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model("resnet18", num_classes=CLASSES)
    return model


class Data(L.LightningDataModule):
    info = DataInfo(
        task="classification",
        classes=tuple(map(str, range(CLASSES))),
        category_ids=tuple(range(CLASSES)),
        class_counts=(1,) * CLASSES,
        num_train=1,
        max_objects=0,
        image_size=SIDE,
        mean=MEAN,
        std=STD,
    )

    def __init__(self, batches: list[ImageBatch]) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]


class Clock(L.Callback):
    """Seconds from the end of the warm-up to the end of the epoch, on the clock and of the processor; the last loss."""

    start = end = (0.0, 0.0)
    loss = 0.0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == WARM_UP - 1:
            self.start = now()
        if trainer.is_last_batch:
            self.loss = outputs["loss"].item()

    def on_train_epoch_end(self, *args: Any) -> None:
        self.end = now()


def now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def each_step(start: tuple[float, float], end: tuple[float, float], batches: list[ImageBatch]) -> tuple[float, float]:
    """Milliseconds a step, on the clock and of the processor."""
    steps = len(batches) - WARM_UP
    return 1e3 * (end[0] - start[0]) / steps, 1e3 * (end[1] - start[1]) / steps


def by_hand(batches: list[ImageBatch]) -> tuple[tuple[float, float], float]:
    """Milliseconds a step and the last loss of a loop as one writes it."""
    model = make_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    mean, std = (torch.tensor(values).view(3, 1, 1) * 255 for values in (MEAN, STD))
    total = torch.zeros(())
    for index, batch in enumerate(DataLoader(batches, batch_size=None)):  # type: ignore[arg-type]
        if index == WARM_UP:
            start = now()
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model((batch["images"].float() - mean) / std), batch["targets"])
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.detach()
    return each_step(start, now(), batches), loss.item()


def by_trainer(batches: list[ImageBatch], with_callbacks: bool) -> tuple[tuple[float, float], float]:
    """The same with ClassificationTask, and on request all that a recipe adds."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        extra = [ExactResume(0), NonFiniteStop(), GracefulStop(Path(folder) / "stopped.ckpt"), EpochLines()]
        trainer = L.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=MetricsCSV(Path(folder) / "metrics.csv") if with_callbacks else False,
            callbacks=[*(extra if with_callbacks else []), clock],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            log_every_n_steps=10,
        )
        task = ClassificationTask(make_model(), nn.CrossEntropyLoss(), lr=1e-3, weight_decay=0.0, schedule="constant")
        trainer.fit(task, datamodule=Data(batches))
    return each_step(clock.start, clock.end, batches), clock.loss


ARMS: dict[str, Callable[[list[ImageBatch]], tuple[tuple[float, float], float]]] = {
    "hand-written loop": by_hand,
    "Trainer": lambda batches: by_trainer(batches, with_callbacks=False),
    "Trainer and callbacks": lambda batches: by_trainer(batches, with_callbacks=True),
}


def measure(batches: list[ImageBatch], repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Milliseconds a step of each arm, turn by turn, on the clock and of the processor.

    Raises:
        RuntimeError: an arm does not compute what the others do.
    """
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ARMS}
    names = list(ARMS)
    for turn in range(repeats):
        losses = []
        for name in names[turn % 3 :] + names[: turn % 3]:
            spent, loss = ARMS[name](batches)
            found[name].append(spent)
            losses.append(loss)
        if max(losses) - min(losses) > 1e-3 * max(losses):
            raise RuntimeError(f"the arms end with different losses: {losses}")
    return found


def compare(name: str, kind: str, values: list[float], base: list[float]) -> dict[str, Any]:
    ratios = [value / other for value, other in zip(values, base, strict=True)]
    print(
        f"{name:22} {kind:9} {statistics.median(values):7.1f} ms a step ({min(values):.1f} to {max(values):.1f})"
        f"   ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    )
    return {"ms_a_step": values, "ratios": ratios, "median_ratio": statistics.median(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50, help="an epoch, after the warm-up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    trial = by_hand(make_batches(WARM_UP + 5, 8))[0][0]
    size = max(4, round(8 * TARGET_MS / trial))
    times = measure(make_batches(WARM_UP + arguments.steps, size), arguments.repeats)
    arms = {}
    for name, values in times.items():
        arms[name] = {
            kind: compare(name, kind, [value[i] for value in values], [base[i] for base in times["hand-written loop"]])
            for i, kind in enumerate(("clock", "processor"))
        }
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {arguments.threads} threads",
        "versions": {"torch": torch.__version__, "lightning": L.__version__, "timm": timm.__version__},
        "batch_size": size,
        "steps": arguments.steps,
        "arms": arms,
    }
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
