"""What the Trainer, the task and the run's callbacks cost: a fit against a hand-written loop over the same batches.

python benchmarks/loop_tax.py                    # about 2 minutes on two cores; writes benchmarks/results/loop_tax.json
python benchmarks/loop_tax.py --repeats 9 --threads 1

ResNet-18 at 64 pixels on the CPU, batches sized for steps of about 80 ms, one epoch from memory without validation. The
hand-written loop takes each of its steps right after the same step of the Trainer, so that a host that becomes slower
does so for both; their times are added up apart. A ratio compares the two sums of one epoch. The first steps do
not count. Beside the time on the clock it takes the processor's, which other programs on the machine disturb less.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import timm
import torch
from numpy.typing import NDArray
from records import processor
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dlrecipes.callbacks import ExactResume, GracefulStop, NonFiniteStop
from dlrecipes.contracts import DataInfo, ImageBatch
from dlrecipes.runs import EpochLines, MetricsCSV
from dlrecipes.tasks import ClassificationTask

Times = NDArray[np.float64]
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
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]  # a list does


def now() -> Times:
    return np.array([time.perf_counter(), time.process_time()])


class HandWritten:
    """A loop as one writes it, a step at a time."""

    def __init__(self, batches: list[ImageBatch]) -> None:
        self.model = make_model().train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1.0)
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) * 255 for values in (MEAN, STD))
        self.loader = iter(DataLoader(batches, batch_size=None))  # type: ignore[arg-type]  # a list does
        self.total = torch.zeros(())

    def step(self) -> Tensor:
        batch = next(self.loader)
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(
            self.model((batch["images"].float() - self.mean) / self.std), batch["targets"]
        )
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.total += loss.detach()
        return loss.detach()


class SideBySide(L.Callback):
    """After each step of the Trainer one of the hand-written loop; seconds of both after the warm-up, added up.

    A step of the Trainer lasts from the end of the other loop's step to the last of its callbacks: what it does between
    two batches counts.

    Attributes:
        spent: of the Trainer and of the other loop, on the clock and of the processor, [2, 2].

    Raises:
        RuntimeError: the two do not compute the same.
    """

    def __init__(self, other: HandWritten) -> None:
        self.other = other
        self.spent = np.zeros((2, 2))

    def on_train_epoch_start(self, *args: Any) -> None:
        self.since = now()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        between = now()
        loss = self.other.step()
        end = now()
        if batch_idx >= WARM_UP:
            self.spent += np.stack((between - self.since, end - between))
        if trainer.is_last_batch and not torch.allclose(loss, outputs["loss"], rtol=1e-3):
            raise RuntimeError(f"the loops end with different losses: {outputs['loss']} and {loss}")
        self.since = now()


def fit(batches: list[ImageBatch], with_callbacks: bool) -> Times:
    """Milliseconds a step of ClassificationTask, on request with all that a recipe adds, and of the loop beside it."""
    both = SideBySide(HandWritten(batches))
    with tempfile.TemporaryDirectory() as folder:
        extra = [ExactResume(0), NonFiniteStop(), GracefulStop(Path(folder) / "stopped.ckpt"), EpochLines()]
        trainer = L.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=MetricsCSV(Path(folder) / "metrics.csv") if with_callbacks else False,
            callbacks=[*(extra if with_callbacks else []), both],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            log_every_n_steps=10,
        )
        task = ClassificationTask(make_model(), nn.CrossEntropyLoss(), lr=1e-3, weight_decay=0.0, schedule="constant")
        trainer.fit(task, datamodule=Data(batches))
    return 1e3 * both.spent / (len(batches) - WARM_UP)


def batch_of(milliseconds: float) -> int:
    """Images for steps of about this length."""
    loop = HandWritten(make_batches(WARM_UP + 5, 8))
    for _ in range(WARM_UP):
        loop.step()
    start = now()
    for _ in range(5):
        loop.step()
    seconds = float((now() - start)[0])
    return max(4, round(8 * milliseconds / (200 * seconds)))


def describe(name: str, times: Times) -> dict[str, Any]:
    """Print and give the figures of one arm, from [turn, Trainer or loop, kind of time]."""
    found = {}
    for place, kind in enumerate(("clock", "processor")):
        ours, loop = times[:, 0, place], times[:, 1, place]
        ratios = ours / loop
        print(
            f"{name:22} {kind:9} {np.median(ours):7.1f} ms a step, by hand {np.median(loop):7.1f} ms"
            f"   ratio {np.median(ratios):.3f} ({ratios.min():.3f} to {ratios.max():.3f})"
        )
        found[kind] = {
            "ms_a_step": ours.tolist(),
            "by_hand": loop.tolist(),
            "ratios": ratios.tolist(),
            "median_ratio": float(np.median(ratios)),
        }
    return found


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
    size = batch_of(TARGET_MS)
    batches = make_batches(WARM_UP + arguments.steps, size)
    times: dict[str, list[Times]] = {"Trainer": [], "Trainer and callbacks": []}
    for turn in range(arguments.repeats):
        for name in sorted(times, reverse=turn % 2 == 1):
            times[name].append(fit(batches, with_callbacks=name.endswith("callbacks")))
    arms = {name: describe(name, np.stack(values)) for name, values in times.items()}
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{processor()}, {arguments.threads} threads",
        "versions": {"torch": torch.__version__, "lightning": L.__version__, "timm": timm.__version__},
        "batch_size": size,
        "steps": arguments.steps,
        "arms": arms,
    }
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
