"""FitDoctor on trainings that were made ill, and on healthy ones: a confusion table.

Small real trainings through Lightning (8 x 8 digits, breast cancer, diabetes of scikit-learn; MLPs and CNNs). The
rules' thresholds were set on the settings ``tuned``; the table is of ``held_out``: other networks, optimizers, rates,
noise and sizes, with other seeds, written before they were first run. A first held-out set, seeds 10 to 14, had no
alarm in 65 healthy runs, but missed over-fitting that shows by the gap alone, and under-fitting half-way; rules were
mended for that, its settings went into ``tuned``, and ``held_out`` is a second set. Fine-tuned networks came later, to
both sets: on the tuned ones the rules raised false alarms, and were mended for that before the held-out ones were run.

    python benchmarks/fit_doctor.py                                  # table of the held-out settings: 11 minutes
    python benchmarks/fit_doctor.py --settings tuned --seeds 0 1
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from fit_doctor_settings import HEALTHY, TITLES, Setting, held_out, tuned
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from dlrecipes.callbacks import FitDoctor
from dlrecipes.tasks.metrics import CalibrationError
from dlrecipes.trainer import quiet_lightning

Split = tuple[Tensor, Tensor]  # inputs and targets


def make_data(s: Setting, seed: int) -> tuple[Split, Split, int]:
    """Training and validation split, and the number of outputs."""
    rng = np.random.default_rng((seed, 1))
    x, y = {"digits": load_digits, "cancer": load_breast_cancer, "diabetes": load_diabetes}[s.data](return_X_y=True)
    x = x / 16 if s.data == "digits" else (x - x.mean(0)) / x.std(0)
    order = rng.permutation(len(x))
    x, y = x[order] + s.pixels * rng.standard_normal(x.shape), y[order]
    n = min(s.train, int(0.7 * len(x)))
    parts = [(x[:n], y[:n].copy()), (x[n : n + s.val], y[n : n + s.val].copy())]
    classes = 1 if s.data == "diabetes" else int(y.max()) + 1
    for (_, target), share in zip(parts, (s.labels, s.val_labels), strict=True):
        wrong = rng.random(len(target)) < share
        target[wrong] = rng.integers(0, classes, int(wrong.sum()))
    if classes == 1:
        mean, std = parts[0][1].mean(), parts[0][1].std()
        parts = [(inputs, (target - mean) / std) for inputs, target in parts]
    kind = torch.float32 if classes == 1 else torch.int64
    train, val = ((torch.tensor(a, dtype=torch.float32), torch.tensor(b, dtype=kind)) for a, b in parts)
    return train, val, classes


def make_network(s: Setting, inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))] if s.cnn else []
    width = 1 if s.cnn else inputs
    for i in range(s.depth):
        layers.append(nn.Conv2d(width, s.width, 3, padding=1) if s.cnn else nn.Linear(width, s.width))
        if s.norm:
            layers.append(nn.BatchNorm2d(s.width) if s.cnn else nn.BatchNorm1d(s.width))
        layers.append(nn.ReLU())
        if s.cnn and i == 0:
            layers.append(nn.MaxPool2d(2))
        if s.dropout:
            layers.append(nn.Dropout(s.dropout))
        width = s.width
    if s.cnn:
        layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4 * width if s.cnn else width, outputs))


class Batches:
    """One epoch of shuffled batches; a rest of one is left out, as the datamodules do."""

    def __init__(self, x: Tensor, y: Tensor, size: int, generator: torch.Generator | None) -> None:
        self.x, self.y, self.size, self.generator = x, y, size, generator

    def __len__(self) -> int:
        return math.ceil((len(self.x) - 1) / self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        n = len(self.x)
        order = torch.arange(n) if self.generator is None else torch.randperm(n, generator=self.generator)
        for part in order.split(self.size)[: len(self)]:
            yield self.x[part], self.y[part]


class Module(pl.LightningModule):
    """Logs what the project's tasks log, under the same names."""

    def __init__(self, s: Setting, network: nn.Module, classes: int, steps: int) -> None:
        super().__init__()
        self.s, self.network, self.classes, self.steps = s, network, classes, steps
        self.monitor, self.monitor_mode = ("val/accuracy" if classes > 1 else "val/r2"), "max"
        self.ece = CalibrationError()

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        if self.classes == 1:
            return F.mse_loss(out[:, 0], y)
        return F.cross_entropy(out, y, label_smoothing=self.s.smoothing)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        if self.s.augment:
            down, right = (int(v) for v in torch.randint(-1, 2, (2,)))
            x = x.view(-1, 8, 8).roll((down, right), (1, 2)).flatten(1) + self.s.augment * torch.randn_like(x)
        if self.s.mixup:
            share = torch.distributions.Beta(self.s.mixup, self.s.mixup).sample((len(x), 1))
            hot = F.one_hot(y, self.classes).float()
            x, y = torch.lerp(x.roll(1, 0), x, share), torch.lerp(hot.roll(1, 0), hot, share)
        out = self.network(x)
        loss = self.loss(out, y)
        self.log("train/loss", loss.detach(), on_step=True, on_epoch=True, batch_size=len(x))
        if y.dtype == torch.int64:
            self.log(
                "train/accuracy", (out.argmax(1) == y).float().mean(), on_epoch=True, on_step=False, batch_size=len(x)
            )
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        out = self.network(x)
        values: dict[str, Any] = {"val/loss": self.loss(out, y)}
        if self.classes == 1:
            values["val/r2"] = 1 - F.mse_loss(out[:, 0], y) / y.var(correction=0)
        else:
            self.ece.reset()
            self.ece.update(out.softmax(1), y)
            right = (out.argmax(1) == y).float().mean()
            values |= {"val/accuracy": right, "val/nll": F.cross_entropy(out, y), "val/ece": self.ece.compute()}
        self.log_dict(values, batch_size=len(x))

    def configure_optimizers(self) -> Any:
        s = self.s
        optimizer = (
            torch.optim.SGD(self.network.parameters(), s.lr, momentum=0.9, weight_decay=s.decay)
            if s.sgd
            else torch.optim.AdamW(self.network.parameters(), s.lr, weight_decay=s.decay)
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def factor(self, step: int) -> float:
        warm = 5 * self.steps // self.s.epochs if self.s.schedule == "warm" else 0
        if self.s.schedule == "constant":
            return 1.0
        if self.s.schedule == "step":
            return 1.0 if step < 0.6 * self.steps else 0.1 if step < 0.85 * self.steps else 0.01
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, self.steps - warm))))


def train(s: Setting, seed: int) -> FitDoctor:
    """One training under the doctor's eyes."""
    training, validation, classes = make_data(s, seed)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    network = make_network(s, training[0].shape[1], classes)
    if s.before:
        half = len(training[0]) // 2
        earlier = replace(s, sgd=False, lr=2e-3, schedule="constant", epochs=s.before)
        fit(earlier, network, (training[0][:half], training[1][:half]), validation, classes, generator, [])
        training = training[0][half:], training[1][half:]
    doctor = FitDoctor()
    fit(s, network, training, validation, classes, generator, [doctor])
    return doctor


def fit(
    s: Setting, network: nn.Module, training: Split, validation: Split, classes: int,
    generator: torch.Generator, callbacks: list[pl.Callback],
) -> None:  # fmt: skip
    batches = Batches(*training, s.batch, generator)
    module = Module(s, network, classes, len(batches) * s.epochs)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=s.epochs, callbacks=callbacks, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, batches, Batches(*validation, len(validation[0]), None))


def diagnosis(doctor: FitDoctor) -> str:
    """Key of ``TITLES``, or ``"healthy"``."""
    titles = {title: key for key, title in TITLES.items()}
    return next((titles[v.title] for v in doctor.verdicts if v.title in titles), HEALTHY)


def run(settings: Sequence[Setting], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """A row for each training; what was said within the run counts as an alarm, too."""
    rows = []
    for number, s in enumerate(settings):
        for seed in seeds:
            doctor = train(s, seed)
            said = doctor.state_dict()["said"]
            row = {"setting": number, "seed": seed, "made": s.illness, "found": diagnosis(doctor), "said": said}
            rows.append({**row, "right": row["found"] == s.illness and (s.illness != HEALTHY or not said)})
            print(json.dumps(row), file=sys.stderr, flush=True)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: made in rows, found in columns."""
    kinds = [*TITLES, HEALTHY]
    counts = Counter((row["made"], row["found"]) for row in rows)
    lines = ["| made | " + " | ".join(kinds) + " |", "| --- |" + " ---: |" * len(kinds)]
    lines += [f"| {a} | " + " | ".join(str(counts[a, b] or "") for b in kinds) + " |" for a in kinds]
    ill, well = ([row for row in rows if (row["made"] == HEALTHY) is healthy] for healthy in (False, True))
    alarms = sum(not row["right"] for row in well)
    right = sum(row["right"] for row in ill)
    return "\n".join([*lines, "", f"ill: {right} of {len(ill)} right; healthy: {alarms} of {len(well)} false alarms"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", choices=("held_out", "tuned"), default="held_out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[20, 21, 22, 23, 24])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    quiet_lightning()
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    torch.set_num_threads(1)
    settings = {"held_out": held_out, "tuned": tuned}[options.settings]()
    rows = run(settings, options.seeds)
    print(table(rows))
    if options.json is not None:
        about = {
            "command": " ".join(sys.argv), "date": datetime.now(UTC).date().isoformat(), "torch": torch.__version__,
            "lightning": version("lightning"), "machine": platform.processor() or platform.machine(),
        }  # fmt: skip
        content = {"about": about, "settings": [asdict(s) for s in settings], "runs": rows}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
