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
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from dlrecipes.callbacks import FitDoctor
from dlrecipes.tasks.metrics import CalibrationError
from dlrecipes.trainer import quiet_lightning

Split = tuple[Tensor, Tensor]  # inputs and targets

HEALTHY = "healthy"
TITLES = {
    "diverged": "diverged",
    "lr_too_high": "learning rate too high",
    "lr_too_low": "learning rate too low",
    "noisy": "noisy",
    "label_noise": "label noise suspected",
    "over_fitting": "over-fitting",
    "over_confident": "over-confident",
    "unfinished": "unfinished",
    "under_fitting": "under-fitting",
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One training, and what is wrong with it.

    Attributes:
        illness: key of ``TITLES``, or ``"healthy"``.
        data: ``"digits"``, ``"cancer"`` or ``"diabetes"`` (regression).
        train, val: images, at most 70 % of the data and what is left.
        pixels: standard deviation of noise that belongs to an image for good; pixels are in 0..1.
        labels, val_labels: share of labels replaced by random ones.
        cnn, width, depth, norm, dropout: the network; an MLP unless ``cnn``.
        sgd, lr, decay, schedule: AdamW unless ``sgd`` (momentum 0.9); constant, cosine, warm (five epochs, then cosine)
            or step.
        augment: standard deviation of fresh noise, with shifts by a pixel; mixup: its alpha; smoothing: of labels.
        before: epochs in which the network was trained on one half of the training images (AdamW, 2e-3, constant); the
            training that is judged goes on with the other half, as a fine-tuning does.
    """

    illness: str
    data: str = "digits"
    train: int = 1000
    val: int = 500
    pixels: float = 0.0
    labels: float = 0.0
    val_labels: float = 0.0
    cnn: bool = False
    width: int = 64
    depth: int = 2
    norm: bool = False
    dropout: float = 0.0
    sgd: bool = False
    lr: float = 1e-3
    decay: float = 0.01
    schedule: str = "constant"
    batch: int = 64
    epochs: int = 40
    augment: float = 0.0
    mixup: float = 0.0
    smoothing: float = 0.0
    before: int = 0


def tuned() -> list[Setting]:
    """On which the thresholds were set."""
    return [*_first_tuned(), *_once_held_out(), *_fine_tuned()]


def _first_tuned() -> list[Setting]:
    S, plain = Setting, partial(Setting, decay=0.0)
    long = partial(plain, epochs=100)
    return [
        S(illness=HEALTHY, schedule="cosine", epochs=30),
        S(illness=HEALTHY, epochs=30),
        S(illness=HEALTHY, width=128, schedule="warm"),
        S(illness=HEALTHY, sgd=True, lr=0.05, decay=1e-4, schedule="cosine"),
        S(illness=HEALTHY, sgd=True, lr=0.05, decay=5e-4, schedule="step"),
        S(illness=HEALTHY, cnn=True, width=16, norm=True, lr=3e-3, schedule="cosine", epochs=20),
        S(illness=HEALTHY, augment=0.1, schedule="cosine", epochs=50, width=128),
        S(illness=HEALTHY, augment=0.3, schedule="cosine", epochs=60, width=128, lr=3e-3),
        S(illness=HEALTHY, mixup=0.2, schedule="cosine", width=128),
        S(illness=HEALTHY, smoothing=0.1, dropout=0.2, schedule="cosine", width=128),
        S(illness=HEALTHY, data="cancer", width=32, schedule="cosine", decay=0.1, epochs=30),
        S(illness=HEALTHY, data="diabetes", width=16, depth=1, schedule="cosine", lr=3e-3, decay=0.3, batch=32),
        long(illness="over_fitting", train=80, width=256, pixels=0.2),
        plain(illness="over_fitting", train=100, width=512, depth=3, epochs=60, pixels=0.3),
        long(illness="over_fitting", data="diabetes", width=256, lr=3e-3, batch=32),
        long(illness="over_confident", width=256, pixels=0.2),
        long(illness="over_confident", train=900, width=256, pixels=0.25, lr=3e-3),
        long(illness="over_confident", data="cancer", width=128, lr=3e-3),
        S(illness="under_fitting", width=2, depth=1, epochs=80, lr=0.03, schedule="cosine"),
        S(illness="under_fitting", decay=10.0, lr=0.03),
        S(illness="under_fitting", width=32, dropout=0.8, lr=0.01, epochs=60, schedule="cosine"),
        S(illness="noisy", batch=4, lr=0.01, norm=True, epochs=25, val=50, train=600),
        S(illness="noisy", data="cancer", batch=2, lr=0.01, epochs=20, val=30, decay=0.1),
        S(illness="unfinished", epochs=6, train=500),
        S(illness="unfinished", epochs=6, train=500, schedule="cosine"),
        S(illness="unfinished", cnn=True, width=16, epochs=6, train=800),
        S(illness="lr_too_high", lr=0.3, epochs=30, schedule="cosine"),
        S(illness="lr_too_high", sgd=True, lr=1.0, decay=0.0, epochs=30),
        S(illness="lr_too_high", sgd=True, lr=3.0, norm=True, decay=0.0, epochs=30),
        S(illness="lr_too_low", lr=1e-5),
        S(illness="lr_too_low", sgd=True, lr=1e-4, schedule="cosine"),
        S(illness="lr_too_low", cnn=True, width=16, lr=3e-5, epochs=20),
        S(illness="label_noise", labels=0.3, width=256, decay=0.0, epochs=80),
        S(illness="label_noise", labels=0.4, width=256, decay=0.0, epochs=80, schedule="cosine", lr=3e-3),
        S(illness="label_noise", labels=0.3, val_labels=0.3, width=256, decay=0.0, epochs=80),
        S(illness="diverged", sgd=True, lr=30.0, decay=0.0, epochs=15, depth=3),
        S(illness="diverged", data="diabetes", depth=0, sgd=True, lr=1.0, decay=0.0, epochs=15),
    ]


def _once_held_out() -> list[Setting]:
    """The first held-out set, until thresholds were set on it, too."""
    S = Setting
    return [
        S(illness=HEALTHY, width=96, depth=1, lr=2e-3, schedule="cosine", epochs=35),
        S(illness=HEALTHY, depth=3, sgd=True, lr=0.03, decay=1e-3, schedule="cosine", batch=32, epochs=25),
        S(illness=HEALTHY, cnn=True, width=12, lr=5e-3, schedule="cosine", epochs=25),
        S(illness=HEALTHY, cnn=True, width=12, norm=True, sgd=True, lr=0.1, decay=5e-4, schedule="warm", epochs=20),
        S(illness=HEALTHY, norm=True, lr=3e-3, schedule="step", epochs=30),
        S(illness=HEALTHY, augment=0.15, width=160, lr=2e-3, schedule="cosine", epochs=50),
        S(illness=HEALTHY, mixup=0.3, width=96, lr=2e-3, schedule="cosine", epochs=45),
        S(illness=HEALTHY, smoothing=0.1, augment=0.05, lr=2e-3, schedule="cosine", epochs=45),
        S(illness=HEALTHY, data="cancer", width=16, depth=1, sgd=True, lr=0.02, schedule="cosine", batch=32),
        S(illness=HEALTHY, pixels=0.1, decay=0.1, lr=2e-3, schedule="cosine"),
        S(illness=HEALTHY, batch=128, lr=3e-3, schedule="warm", epochs=45),
        S(illness=HEALTHY, dropout=0.3, width=128, lr=2e-3, schedule="cosine", epochs=50),
        S(illness=HEALTHY, train=700, val=200, batch=32, epochs=30),
        S(illness="over_fitting", cnn=True, train=70, pixels=0.3, lr=2e-3, decay=0.0, epochs=120, width=32),
        S(illness="over_fitting", train=100, pixels=0.4, width=512, depth=1, sgd=True, lr=0.05, decay=0.0, epochs=120),
        S(illness="over_confident", width=192, pixels=0.25, train=1100, sgd=True, lr=0.1, decay=0.0, epochs=100),
        S(illness="over_confident", width=128, norm=True, pixels=0.22, lr=2e-3, decay=0.0, epochs=90),
        S(illness="under_fitting", width=2, lr=0.01, schedule="cosine", epochs=60),
        S(illness="under_fitting", width=24, dropout=0.85, lr=5e-3, schedule="cosine", epochs=50),
        S(illness="noisy", batch=4, lr=8e-3, val=40, train=500, norm=True, epochs=25),
        S(illness="unfinished", width=48, sgd=True, lr=0.02, train=700, epochs=7),
        S(illness="unfinished", cnn=True, width=12, lr=2e-3, schedule="cosine", train=600, epochs=6),
        S(illness="lr_too_high", width=96, lr=0.25, schedule="cosine", epochs=30),
        S(illness="lr_too_high", depth=3, sgd=True, lr=1.2, decay=0.0, epochs=25),
        S(illness="lr_too_low", width=96, lr=8e-6, epochs=35),
        S(illness="lr_too_low", cnn=True, width=16, sgd=True, lr=2e-4, schedule="cosine", epochs=25),
        S(illness="label_noise", labels=0.35, width=320, lr=2e-3, decay=0.0, epochs=70),
        S(illness="label_noise", labels=0.3, val_labels=0.3, width=200, sgd=True, lr=0.08, decay=0.0, epochs=90),
        S(illness="diverged", sgd=True, lr=50.0, decay=0.0, epochs=15),
        S(illness="diverged", data="diabetes", depth=0, sgd=True, lr=2.0, decay=0.0, batch=50, epochs=12),
    ]


def _fine_tuned() -> list[Setting]:
    S = Setting
    return [
        S(illness=HEALTHY, before=15, lr=1e-3, schedule="cosine", epochs=15),
        S(illness=HEALTHY, before=10, lr=1e-3, schedule="warm", epochs=25),
        S(illness=HEALTHY, before=20, lr=1e-4, epochs=20),
        S(illness=HEALTHY, before=40, lr=3e-4, schedule="cosine", dropout=0.3, width=96, epochs=20),
        S(illness=HEALTHY, before=20, lr=3e-3, schedule="warm", augment=0.15, width=96, epochs=25),
        S(illness=HEALTHY, before=10, lr=5e-4, schedule="cosine", mixup=0.2, width=96, epochs=20),
        S(illness=HEALTHY, before=10, cnn=True, width=16, norm=True, sgd=True, lr=0.01, schedule="warm", epochs=15),
        S(illness=HEALTHY, before=20, data="cancer", width=32, lr=3e-4, decay=0.1, schedule="cosine", epochs=15),
        S(illness=HEALTHY, before=60, data="diabetes", width=16, depth=1, decay=0.3, batch=32, epochs=20),
        S(illness="diverged", before=20, lr=0.3, epochs=20, schedule="cosine"),
        S(illness="over_fitting", before=20, train=160, width=256, pixels=0.3, decay=0.0, epochs=80),
    ]


def held_out() -> list[Setting]:
    """Of the table: no setting, and no seed, is one of those above."""
    S = Setting
    return [
        S(illness=HEALTHY, width=48, depth=3, lr=1.5e-3, schedule="warm", epochs=40),
        S(illness=HEALTHY, cnn=True, width=10, depth=3, norm=True, lr=4e-3, schedule="cosine", epochs=18),
        S(illness=HEALTHY, width=112, sgd=True, lr=0.08, decay=3e-4, schedule="step", batch=48, epochs=30),
        S(illness=HEALTHY, width=144, augment=0.2, lr=3e-3, schedule="cosine", epochs=45),
        S(illness=HEALTHY, width=112, mixup=0.4, smoothing=0.05, lr=3e-3, schedule="warm", epochs=40),
        S(illness=HEALTHY, data="cancer", width=24, lr=2e-3, decay=0.2, schedule="cosine", epochs=30, batch=48),
        S(illness=HEALTHY, data="diabetes", width=8, depth=1, lr=5e-3, decay=0.2, schedule="cosine", batch=48),
        S(illness=HEALTHY, train=800, val=300, dropout=0.1, lr=3e-3, schedule="cosine", epochs=30, batch=40),
        S(illness="over_fitting", cnn=True, width=24, train=90, pixels=0.35, lr=3e-3, decay=0.0, epochs=100, batch=32),
        S(illness="over_fitting", data="diabetes", width=128, lr=5e-3, decay=0.0, epochs=80, batch=24),
        S(illness="over_confident", width=160, train=1100, pixels=0.2, sgd=True, lr=0.06, decay=0.0, epochs=110),
        S(illness="over_confident", data="cancer", width=96, depth=3, lr=2e-3, decay=0.0, epochs=80),
        S(illness="under_fitting", width=1, lr=0.02, schedule="cosine", epochs=50),
        S(illness="under_fitting", decay=14.0, lr=0.02, width=80, epochs=30),
        S(illness="noisy", batch=6, lr=0.012, val=45, train=550, norm=True, epochs=20),
        S(illness="noisy", data="cancer", batch=3, lr=0.012, val=25, epochs=20, decay=0.05),
        S(illness="unfinished", width=56, sgd=True, lr=0.015, train=900, epochs=6),
        S(illness="unfinished", cnn=True, width=20, lr=8e-4, schedule="cosine", train=700, epochs=7),
        S(illness="lr_too_high", width=80, depth=3, lr=0.2, epochs=20),
        S(illness="lr_too_high", sgd=True, lr=1.6, decay=0.0, schedule="cosine", epochs=25, batch=48),
        S(illness="lr_too_low", width=112, lr=6e-6, schedule="cosine", epochs=30),
        S(illness="lr_too_low", depth=3, sgd=True, lr=1.5e-4, epochs=25),
        S(illness="label_noise", labels=0.25, width=280, lr=3e-3, decay=0.0, epochs=60),
        S(illness="label_noise", labels=0.35, val_labels=0.2, width=240, sgd=True, lr=0.06, decay=0.0, epochs=90),
        S(illness="diverged", sgd=True, lr=70.0, width=96, decay=0.0, epochs=12),
        S(illness="diverged", data="diabetes", depth=0, sgd=True, lr=1.5, decay=0.0, batch=40, epochs=12),
        # fine-tuned
        S(illness=HEALTHY, before=12, width=80, lr=1e-3, schedule="warm", epochs=30),
        S(illness=HEALTHY, before=15, depth=3, width=48, lr=2e-4, schedule="cosine", batch=48, epochs=22),
        S(illness=HEALTHY, before=30, width=112, dropout=0.2, sgd=True, lr=0.02, schedule="step", epochs=20),
        S(illness=HEALTHY, before=12, cnn=True, width=12, norm=True, lr=1e-3, schedule="warm", epochs=14),
        S(illness=HEALTHY, before=25, width=128, augment=0.1, mixup=0.3, lr=1e-3, schedule="cosine", epochs=24),
        S(illness=HEALTHY, before=15, data="cancer", width=24, lr=2e-4, decay=0.2, batch=48, epochs=16),
    ]


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
