"""Runs of recipes by their own command line, and a table of what they reached: shared by the benchmarks."""

from __future__ import annotations

import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent


def run_recipe(
    arm: str,
    seed: int,
    script: str,
    options: Sequence[str],
    output: Path,
    metrics: Sequence[str],
    splits: Sequence[str] = ("test", "val"),
) -> dict[str, Any]:
    """Train once, from start to end, by ``python SCRIPT OPTIONS --seed SEED``.

    Args:
        arm: name of the options.
        seed: of everything.
        script, options: of the recipe.
        output: gets the run folder and the log.
        metrics: names without their split; of each the last value is taken.
        splits: the first of them on which it was measured.
    """
    name = f"{arm}-{seed}"
    output.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with (output / f"{name}.log").open("w") as log:
        code = subprocess.run(
            [
                *(sys.executable, script, *options, "--seed", str(seed), "--wandb", "off"),
                *("--output", str(output / name)),
            ],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
            check=False,
        ).returncode
    row: dict[str, Any] = {"arm": arm, "seed": seed, "exit": code, "seconds": round(time.perf_counter() - started, 1)}
    for file in (output / name).glob("*/metrics.csv"):
        row |= last_values(file, metrics, splits)
    print(json.dumps(row), flush=True)
    return row


def last_values(metrics_csv: Path, metrics: Sequence[str], splits: Sequence[str]) -> dict[str, float]:
    """The last value of each metric, on the first of ``splits`` on which it was measured."""
    with metrics_csv.open() as file:
        rows = list(csv.DictReader(file))
    found: dict[str, float] = {}
    for metric in metrics:
        for split in splits:
            values = [row[f"{split}/{metric}"] for row in rows if row.get(f"{split}/{metric}")]
            if values and metric not in found:
                found[metric] = float(values[-1])
    return found


def print_summary(rows: Sequence[dict[str, Any]], metrics: Sequence[str]) -> None:
    """Mean and range of each arm over its seeds."""
    for arm in dict.fromkeys(row["arm"] for row in rows):
        done = [row for row in rows if row["arm"] == arm and row["exit"] == 0]
        words = [f"{arm:24} {len(done)} runs"]
        for metric in metrics:
            values = [row[metric] for row in done if metric in row]
            if values:
                words.append(f"{metric} {statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})")
        if done:
            seconds = [row["seconds"] for row in done]
            words.append(f"{statistics.median(seconds):.0f} s (at most {max(seconds):.0f})")
        print("  ".join(words))


def write_results(name: str, rows: Sequence[dict[str, Any]], folder: Path, **about: Any) -> Path:
    """All rows as dated JSON, with the machine and the load that it had."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} x {platform.processor()}"
    facts = {"device": device, "torch": str(torch.__version__), "load": os.getloadavg(), **about}
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}_{datetime.now(UTC).strftime('%Y-%m-%d_%H%M')}.json"
    file.write_text(json.dumps({"about": facts, "runs": list(rows)}, indent=1) + "\n")
    return file
