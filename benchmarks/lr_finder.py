"""Which learning rate is right, and who finds it: our rule against Lightning's, on noisy sweeps of real trainings.

python benchmarks/lr_finder.py                     # held-out settings: about 10 minutes on a core
python benchmarks/lr_finder.py --settings tuning   # those on which the rule's one number was chosen

A setting is a small network on scikit-learn's digits with its optimizer, batch size, input scale and share of wrong
labels. Its right learning rate is the one of 25 (four a decade, 1e-5 to 10) whose network has the least validation loss
after 200 steps, mean of two seeds. A suggestion is right within one decade of it. Both rules get 150 steps;
Lightning's is `Tuner.lr_find(...).suggestion()`. Settings for tuning and held-out ones share no combination.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.tuner.tuning import Tuner
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dlrecipes.optim.lr_finder import find_lr

LEAST, MOST, SWEEP_STEPS, TRAIN_STEPS = 1e-6, 10.0, 150, 200
GRID = np.geomspace(1e-5, 10, 25)


class Setting(NamedTuple):
    network: str
    optimizer: str
    batch: int
    scale: float
    wrong: float


ALL = [
    Setting(*values)
    for values in itertools.product(
        ("linear", "mlp", "deep", "bn"),
        ("sgd", "momentum", "adamw", "rmsprop"),
        (4, 16, 64),
        (0.3, 1.0, 3.0),
        (0.0, 0.3),
    )
]


def settings(which: str, count: int) -> list[Setting]:
    order = random.Random(0).sample(ALL, len(ALL))
    return order[:count] if which == "tuning" else order[-count:]


def network(name: str) -> nn.Module:
    bodies: dict[str, list[nn.Module]] = {
        "linear": [],
        "mlp": [nn.Linear(64, 64), nn.ReLU()],
        "deep": [layer for _ in range(4) for layer in (nn.Linear(64, 64), nn.ReLU())],
        "bn": [layer for _ in range(2) for layer in (nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU())],
    }
    return nn.Sequential(*bodies[name], nn.Linear(64, 10))


def optimizer(name: str, parameters: Iterator[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    kinds: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "sgd": lambda: torch.optim.SGD(parameters, lr),
        "momentum": lambda: torch.optim.SGD(parameters, lr, momentum=0.9),
        "adamw": lambda: torch.optim.AdamW(parameters, lr),
        "rmsprop": lambda: torch.optim.RMSprop(parameters, lr),
    }
    return kinds[name]()


class Task(pl.LightningModule):
    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.setting, self.net, self.lr = setting, network(setting.network), 1e-3

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer(self.setting.optimizer, self.parameters(), self.lr)


class Digits(pl.LightningDataModule):
    def __init__(self, setting: Setting, seed: int) -> None:
        super().__init__()
        x, y = load_digits(return_X_y=True)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(y), generator=generator)
        inputs = setting.scale * torch.tensor((x - x.mean()) / x.std(), dtype=torch.float32)[order]
        labels = torch.tensor(y)[order]
        self.held_out = inputs[1300:], labels[1300:]
        train = labels[:1300].clone()
        wrong = torch.rand(1300, generator=generator) < setting.wrong
        train[wrong] = torch.randint(0, 10, (int(wrong.sum()),), generator=generator)
        self.train = TensorDataset(inputs[:1300], train)
        self.batch, self.seed = setting.batch, seed

    def train_dataloader(self) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(self.seed)
        return DataLoader(self.train, self.batch, shuffle=True, drop_last=True, generator=generator)


def final_loss(setting: Setting, lr: float, seed: int) -> float:
    torch.manual_seed(seed)
    data, net = Digits(setting, seed), network(setting.network)
    opt = optimizer(setting.optimizer, net.parameters(), lr)
    generator = torch.Generator().manual_seed(seed)
    x, y = data.train.tensors
    for _ in range(TRAIN_STEPS):
        rows = torch.randint(0, 1300, (setting.batch,), generator=generator)
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
    net.eval()
    with torch.no_grad():
        found = float(nn.functional.cross_entropy(net(data.held_out[0]), data.held_out[1]))
    return found if np.isfinite(found) else np.inf


def lightnings(setting: Setting, seed: int, folder: str) -> float | None:
    torch.manual_seed(seed)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        max_epochs=-1,
    )
    found = Tuner(trainer).lr_find(
        Task(setting), datamodule=Digits(setting, seed), min_lr=LEAST, max_lr=MOST, num_training=SWEEP_STEPS
    )
    return None if found is None else found.suggestion()


def judge(suggested: float | None, best: float) -> str:
    if suggested is None:
        return "unsure"
    return "right" if abs(np.log10(suggested / best)) <= 1 else "wrong"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", choices=("held-out", "tuning"), default="held-out")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"  # Lightning's finder shows a bar
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, setting in enumerate(settings(options.settings, options.count)):
            losses = [np.mean([final_loss(setting, lr, seed) for seed in (0, 1)]) for lr in GRID]
            best = float(GRID[int(np.argmin(losses))])
            torch.manual_seed(100 + number)
            ours = find_lr(
                Task(setting),
                Digits(setting, 100 + number),
                least=LEAST,
                most=MOST,
                steps=SWEEP_STEPS,
                trainer_args={"accelerator": "cpu"},
            )
            theirs = lightnings(setting, 100 + number, folder)
            row = {
                "setting": setting._asdict(),
                "best": best,
                "ours": ours.suggestion.lr,
                "lightning": theirs,
                "sweep": [list(ours.lrs), list(ours.losses)],
            }
            rows.append(row)
            print(
                f"{number:3} {' '.join(map(str, setting)):32} best {best:8.2g}  ours {row['ours'] or 'unsure'!s:.9} "
                f"{judge(ours.suggestion.lr, best)}  lightning {theirs or 'none'!s:.9} {judge(theirs, best)}",
                flush=True,
            )
    for name in ("ours", "lightning"):
        verdicts = [judge(row[name], row["best"]) for row in rows]
        counts = {verdict: verdicts.count(verdict) for verdict in ("right", "wrong", "unsure")}
        said = counts["right"] + counts["wrong"]
        print(f"{name}: {counts}; right where it said something: {100 * counts['right'] / max(said, 1):.1f} %")
    if options.json:
        options.json.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
