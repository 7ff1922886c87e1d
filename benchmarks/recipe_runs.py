"""Runs of recipes by their own command line, and a table of what they reached: shared by the benchmarks."""

from __future__ import annotations

import csv
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from records import ROOT, processor, write_dated


def run_recipe(
    arm: str,
    seed: int,
    script: str,
    options: Sequence[str],
    output: Path,
    metrics: Sequence[str],
    splits: Sequence[str] = ("test", "val"),
    cores: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Train once, from start to end, by ``python SCRIPT OPTIONS --seed SEED``.

    Args:
        arm: name of the options.
        seed: of everything.
        script, options: of the recipe.
        output: gets the run folder and the log.
        metrics: names without their split; of each the last value is taken.
        splits: the first of them on which it was measured.
        cores, environment: as in ``run_python``.
    """
    name = f"{arm}-{seed}"
    started = time.perf_counter()
    words = [script, *options, "--seed", str(seed), "--wandb", "off", "--output", str(output / name)]
    code = run_python(words, output / f"{name}.log", cores, environment)
    row: dict[str, Any] = {"arm": arm, "seed": seed, "exit": code, "seconds": round(time.perf_counter() - started, 1)}
    file = newest_metrics(output / name)
    if file is not None:
        row |= last_values(file, metrics, splits)
    print(json.dumps(row), flush=True)
    return row


def run_python(
    words: Sequence[str], log: Path, cores: Sequence[int] = (), environment: Mapping[str, str] | None = None
) -> int:
    """Run a script of this project to its end and give its exit code.

    Args:
        words: script and arguments.
        log: gets what it prints.
        cores: it stays on these and computes with as many threads; none: as the system likes.
        environment: further variables.
    """
    threads = {"OMP_NUM_THREADS": str(len(cores))} if cores else {}
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path, **threads, **(environment or {})},
        )
        if cores:
            os.sched_setaffinity(process.pid, cores)  # before it has threads, which take it over
        return process.wait()


def newest_metrics(folder: Path) -> Path | None:
    """Of the newest of a recipe's runs in this folder; None if there is none."""
    return max(folder.glob("*/metrics.csv"), key=lambda file: file.stat().st_mtime, default=None)


class Cores:
    """Hands out cores to jobs that run side by side, so that each has its own.

    Args:
        jobs: how many at once; 1 with ``each`` None: nobody is kept from any core.
        each: cores of a job; None: as many as there are for all.
    """

    def __init__(self, jobs: int, each: int | None = None) -> None:
        there = sorted(os.sched_getaffinity(0))
        many = max(1, len(there) // jobs) if each is None else each
        if many * jobs > len(there):
            raise SystemExit(f"{jobs} jobs with {many} core(s) each need more than the {len(there)} that there are.")
        self._free: SimpleQueue[list[int]] = SimpleQueue()
        for job in range(jobs):
            self._free.put([] if jobs == 1 and each is None else there[job * many : (job + 1) * many])

    @contextmanager
    def take(self) -> Iterator[list[int]]:
        """Cores for one job; empty: any."""
        cores = self._free.get()
        try:
            yield cores
        finally:
            self._free.put(cores)


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
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} x {processor()}"
    facts = {"device": device, "torch": str(torch.__version__), "load": os.getloadavg(), **about}
    return write_dated(name, {"about": facts, "runs": list(rows)}, folder)
