"""CIFAR-10 with a long tail: each remedy for imbalanced labels on one network, by one protocol.

python benchmarks/cifar10_lt.py --parallel 4                                   # a GPU: all rows, three seeds
python benchmarks/cifar10_lt.py --rows ce ce_drw logit_adjustment --epochs 20  # a CPU: 15 minutes a run
python benchmarks/cifar10_lt.py --table                                        # of all runs so far
python benchmarks/cifar10_lt.py --picture                                      # docs/pictures/cifar10_lt.png
python benchmarks/cifar10_lt.py --train-fraction 0.02 --epochs 5 --results /tmp/try.jsonl      # does every row run?

ResNet-32 and the protocol of LDAM's authors (arXiv:1906.07413): 12,406 of the training images, class c of which has
5000 · 100^(-c/9); batches of 128, SGD, 200 epochs, crop and mirror; with fewer --epochs the learning rate falls at the
same shares of the run. An epoch has 96 batches: the 118 images that do not fill a 97th, others in each epoch, are left
out, which the authors' code takes.

The data is the JPEG re-encoding of CIFAR-10 in $DLRECIPES_DATA/cifar10_jpeg.npz, which costs 4 to 5 points: compare
only with what runs on the same copy. The test set is whole and balanced. What counts is the last epoch; no row was
stopped by the test set, and the best of its evaluations has a column that says so.

Each run is a line of the results as soon as it ends; a call begins only what is not there yet.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from cifar10_lt_results import draw_rows, print_tables, read_rows, setting_of
from cifar10_lt_rows import EPOCHS, ROWS
from records import DATA, RESULTS, ROOT, append_row, processor


def run_one(name: str, seed: int, options: argparse.Namespace) -> tuple[bool, str]:
    """One run in a process of the pool, its line written as soon as it has ended; whether it did, and a sentence."""
    from cifar10_lt_train import train_row

    started = time.perf_counter()
    torch.compiler.reset()  # of the run before, or its graphs would count against the limit of recompilations
    try:
        found = train_row(name, seed, options)
    except Exception:  # the other rows shall run
        return False, f"{name} seed {seed} failed:\n{traceback.format_exc()}"
    row = {"row": name, "seed": seed, **setting_of(options), **found}
    row |= {"minutes": round((time.perf_counter() - started) / 60, 2), **about(options)}
    append_row(options.results, row)
    figures = f"accuracy {row['accuracy']:.4f}, balanced NLL {row['balanced_nll']:.3f}"
    return True, f"{name} seed {seed}: {figures}, {row['minutes']} min"


def about(options: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on beside the setting."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "machine": gpu or f"{processor()}, {torch.get_num_threads()} of {os.cpu_count()} CPU cores",
        "side_by_side": options.parallel,
        "load": [round(value, 1) for value in os.getloadavg()],
        "torch": str(torch.__version__),
        "commit": commit.stdout.strip(),
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        "command": " ".join(["python", *sys.argv]),
    }


def run_all(options: argparse.Namespace) -> int:
    """What is not in the results yet, seed by seed, so that a call that is cut short leaves whole tables.

    Returns:
        How many runs failed.
    """
    from cifar10_lt_train import checkpoint_path

    setting = setting_of(options)
    done = {
        (row["row"], row["seed"])
        for row in read_rows(options.results)
        if all(row.get(name) == value for name, value in setting.items())
    }
    waiting = [(name, seed) for seed in options.seeds for name in options.rows if (name, seed) not in done]
    bases = dict.fromkeys((base, seed) for name, seed in waiting if (base := ROWS[name].base) is not None)
    again = [job for job in bases if job not in waiting and not checkpoint_path(*job, options).exists()]
    waiting = [*again, *waiting]  # their figures are there, but their weights were on another machine
    print(f"{len(waiting)} run(s) to do, {len(done)} done", flush=True)
    spawn = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    threads = max(1, torch.get_num_threads() // options.parallel)
    with ProcessPoolExecutor(options.parallel, spawn, torch.set_num_threads, (threads,)) as pool:
        try:
            return work_off(waiting, pool, options)
        except BaseException:  # asked to stop: the runs under way shall not go on without anybody
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def work_off(waiting: list[tuple[str, int]], pool: ProcessPoolExecutor, options: argparse.Namespace) -> int:
    """Hand the runs to the pool, those with a base after it; how many failed."""
    running: dict[Future[tuple[bool, str]], tuple[str, int]] = {}
    failed = 0
    while waiting or running:
        open_jobs = {*waiting, *running.values()}
        for name, seed in [job for job in waiting if (ROWS[job[0]].base, job[1]) not in open_jobs]:
            if len(running) < options.parallel:
                running[pool.submit(run_one, name, seed, options)] = (name, seed)
                waiting.remove((name, seed))
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            ended, sentence = future.result()
            failed += not ended
            print(sentence, flush=True)
            del running[future]
    return failed


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--data", type=Path, default=DATA / "cifar10_jpeg.npz")
    parser.add_argument(
        "--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW", help=", ".join(ROWS)
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the protocol; some rows train a multiple of it")
    parser.add_argument("--imbalance-factor", type=float, default=100.0)
    parser.add_argument("--train-fraction", type=float, default=1.0, help="of all images, to try a row quickly")
    parser.add_argument("--evaluations", type=int, default=20 if on_gpu else 4, help="on the test set, in each run")
    parser.add_argument("--parallel", type=int, default=1, help="runs at once on the device")
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--precision", default="bf16-mixed", help="as Lightning's Trainer calls it")
    parser.add_argument("--compile-mode", help="default: reduce-overhead on a GPU, never elsewhere")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "cifar10_lt")
    parser.add_argument("--results", type=Path, default=RESULTS / "cifar10_lt.jsonl")
    parser.add_argument("--table", action="store_true", help="run nothing, print the tables")
    parser.add_argument("--picture", action="store_true", help="run nothing, draw the picture")
    options = parser.parse_args()
    options.output, options.results = options.output.absolute(), options.results.absolute()
    return options


def main() -> int:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # of a time limit: as an exception, which ends the pool
    failed = 0 if options.table or options.picture else run_all(options)
    rows = read_rows(options.results)
    if options.picture:
        print(draw_rows(rows, setting_of(options), ROOT / "docs" / "pictures" / "cifar10_lt.png"))
    else:
        print_tables(rows)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
