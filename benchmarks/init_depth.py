"""Which start lets a plain network of 50 layers learn? ReLU and tanh, He and Glorot, normal and uniform, LSUV.

nice -n 5 python benchmarks/init_depth.py       # three minutes on a core
python benchmarks/init_depth.py --draw benchmarks/results/init_depth_2026-11-23_epyc.json    # the picture alone

50 linear layers, 64 wide, no norms, no shortcuts, on scikit-learn's digits, by plain SGD: nothing makes up for a bad
start. Each arm is tried with every learning rate, and counts with the one of the least mean training loss; the test
split chooses nothing. Beside it stands what ``init_audit`` says of the start: how much samples still differ by in front
of the last layer, and the norm of the gradient behind the first one (geometric means). Networks of an arm (seeds and
learning rates) are trained at once, see the same batches, and do not see one another.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from records import RESULTS, ROOT, processor
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from dlrecipes.nn.init.audit import init_audit
from dlrecipes.nn.init.lsuv import lsuv_
from dlrecipes.nn.init.weights import init_weights
from dlrecipes.runs.pictures.curves import new_figure, save_figure

DEPTH, WIDTH, CLASSES, BATCH = 50, 64, 10, 64
RATES = (0.03, 0.01, 0.003)  # 0.1 to 0.001 were tried for 250 steps: only these were ever the best
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}
ARMS: dict[str, tuple[str, str]] = {
    "He, normal": ("he", "normal"),
    "He, uniform": ("he", "uniform"),
    "Glorot, normal": ("glorot", "normal"),
    "Glorot, uniform": ("glorot", "uniform"),
    "LSUV": ("lsuv", "normal"),
}
COLORS = {"he": "tab:blue", "glorot": "tab:orange", "lsuv": "tab:green"}


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    inputs, labels = torch.tensor((x - x.mean()) / x.std(), dtype=torch.float32)[order], torch.tensor(y)[order]
    return inputs[:1297], labels[:1297], inputs[1297:], labels[1297:]


def network(activation: str, arm: str, seed: int, batch: Tensor) -> nn.Module:
    """50 linear layers, all but the last followed by the activation; the last starts small in all arms, by LeCun."""
    hidden = [layer for _ in range(DEPTH - 1) for layer in (nn.Linear(WIDTH, WIDTH), ACTIVATIONS[activation]())]
    net = nn.Sequential(*hidden, nn.Linear(WIDTH, CLASSES))
    scheme, distribution = ARMS[arm]
    generator = torch.Generator().manual_seed(seed)
    if scheme == "lsuv":
        lsuv_(net[:-1], batch, generator=generator)
    else:
        init_weights(net[:-1], scheme, distribution, generator=generator)
    init_weights(net[-1:], "lecun", "normal", generator=generator)
    return net


def train(activation: str, arm: str, seeds: list[int], steps: int) -> list[dict[str, Any]]:
    """All seeds and learning rates of an arm; a row each."""
    x, y, test_x, test_y = digits()
    settings = [(seed, rate) for seed in seeds for rate in RATES]
    nets = [network(activation, arm, seed, x[:256]) for seed, _ in settings]
    rates = torch.tensor([rate for _, rate in settings])
    params, buffers = stack_module_state(nets)
    run = vmap(lambda p, b, images: functional_call(nets[0], (p, b), (images,)), in_dims=(0, 0, None))
    curves = []
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        rows = torch.randint(0, len(y), (BATCH,), generator=generator)
        logits = run(params, buffers, x[rows])
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), y[rows].repeat(len(nets)), reduction="none")
        losses = losses.unflatten(0, (len(nets), BATCH)).mean(1)
        gradients = torch.autograd.grad(losses.sum(), list(params.values()))
        with torch.no_grad():
            for value, gradient in zip(params.values(), gradients, strict=True):
                value -= rates.view(-1, *[1] * (value.ndim - 1)) * gradient
        curves.append(losses.detach())
    with torch.no_grad():
        correct = (run(params, buffers, test_x).argmax(-1) == test_y).float().mean(1)
    history = torch.stack(curves, 1)
    audits = {seed: init_audit(network(activation, arm, seed, x[:256]), x[:256]) for seed in seeds}
    return [
        {
            "activation": activation,
            "arm": arm,
            "seed": seed,
            "lr": rate,
            "train_loss": _number(history[i, -20:].mean()),
            "test_accuracy": float(correct[i]),
            "signal": audits[seed].rows[-1].incoming,  # of the last layer, relative to the network's input
            "gradient": audits[seed].rows[0].gradient,  # of the first layer, relative to the last one
            "curve": [_number(part.mean()) for part in history[i].split(10)],
        }
        for i, (seed, rate) in enumerate(settings)
    ]


def _number(value: Tensor) -> float | None:
    return round(float(value), 5) if bool(value.isfinite()) else None  # JSON has no NaN


def best(rows: list[dict[str, Any]], activation: str, arm: str) -> list[dict[str, Any]]:
    """Runs of all seeds at the arm's learning rate with the least mean training loss."""
    of_arm = [row for row in rows if (row["activation"], row["arm"]) == (activation, arm)]

    def loss(rate: float) -> float:
        found = [row["train_loss"] for row in of_arm if row["lr"] == rate]
        return math.inf if None in found else sum(found) / len(found)

    rate = min(dict.fromkeys(row["lr"] for row in of_arm), key=loss)
    return [row for row in of_arm if row["lr"] == rate]


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(
        "activation", "start", "signal", "gradient", "lr", "training loss", "test accuracy, each seed", box=None
    )
    for activation in ACTIVATIONS:
        for arm in ARMS:
            runs = best(rows, activation, arm)
            losses = [math.inf if run["train_loss"] is None else run["train_loss"] for run in runs]
            accuracies = "  ".join(f"{run['test_accuracy']:.3f}" for run in runs)
            start = [math.prod(run[what] for run in runs) ** (1 / len(runs)) for what in ("signal", "gradient")]
            loss = f"{sum(losses) / len(losses):.3f}"
            table.add_row(activation, arm, *(f"{x:.1e}" for x in start), f"{runs[0]['lr']:g}", loss, accuracies)
    Console(width=110).print(table)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Training loss over steps; a line is one seed."""
    figure = new_figure(11.0, 4.6)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, activation in zip(panels, ACTIVATIONS, strict=True):
        for arm, (scheme, distribution) in ARMS.items():
            runs = best(rows, activation, arm)
            for number, run in enumerate(runs):
                curve = [math.nan if loss is None else loss for loss in run["curve"]]
                axes.plot(
                    [10 * (i + 0.5) for i in range(len(curve))],
                    curve,
                    color=COLORS[scheme],
                    linestyle="-" if distribution == "normal" else "--",
                    linewidth=1.6,
                    alpha=0.85,
                    label=f"{arm} (lr {run['lr']:g})" if not number else None,
                )
        axes.axhline(math.log(CLASSES), color="0.4", linewidth=1, linestyle=":")
        axes.set_title(f"50 layers with {'ReLU' if activation == 'relu' else activation}", fontsize=14)
        axes.set_xlabel("step", fontsize=13)
        axes.set_ylim(0, 3.6)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=10)
    panels[0].set_ylabel("training loss (dotted: guessing)", fontsize=13)
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--machine", default="", help="its name, for the name of the file")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "pictures" / "init_depth.png")
    parser.add_argument("--draw", type=Path, metavar="JSON", help="draw these results instead of measuring")
    options = parser.parse_args()
    if options.draw:
        rows = json.loads(options.draw.read_text(encoding="utf-8"))["rows"]
    else:
        torch.set_num_threads(1)
        start = time.process_time()
        rows = []
        for activation in ACTIVATIONS:
            for arm in ARMS:
                rows += train(activation, arm, options.seeds, options.steps)
                print(f"{activation} {arm}: {time.process_time() - start:.0f} s of CPU", flush=True)
        found = {
            "measured": datetime.date.today().isoformat(),
            "cpu_seconds": round(time.process_time() - start, 1),
            "cpu": processor(),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
            "steps": options.steps,
            "rows": rows,
        }
        name = "_".join(filter(None, ("init_depth", found["measured"], options.machine)))
        (options.results / f"{name}.json").write_text(json.dumps(found) + "\n", encoding="utf-8")
        print(f"{found['cpu_seconds']} s of CPU")
    show(rows)
    draw(rows, options.picture)


if __name__ == "__main__":
    main()
