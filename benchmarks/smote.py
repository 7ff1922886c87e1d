"""SMOTE against imbalanced-learn in one run: the same output, ratio of times and of peak memory.

python benchmarks/smote.py                            # CPU, and GPU if there is one
python benchmarks/smote.py --sizes 10000 --dims 64    # a part of the table; --repeats 1 for a first look

Two classes, the smaller a quarter of X, float32. The libraries take turns; a row is the median of the repeats, with the
median and range of the turns' ratios, the first turn left out. Peak memory is what a fresh process adds to the input it
holds, once each (Linux); on the GPU, what torch allocates there.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dlrecipes.imbalance import SMOTE

Result = tuple[Any, Any]


def data(size: int, dim: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    random = np.random.default_rng(0)
    y = (np.arange(size) % 4 == 0).astype(np.int64)
    x = random.standard_normal((size, dim), dtype=np.float32)
    return x + y[:, None].astype(np.float32), y


def sampler(arm: str) -> Callable[[Any, Any], Result]:
    if arm == "imbalanced-learn":
        from imblearn.over_sampling import SMOTE as Reference

        theirs: Callable[[Any, Any], Result] = Reference(random_state=0).fit_resample
        return theirs
    return SMOTE(random_state=0, rng="torch" if arm == "ours, torch's numbers" else "numpy").fit_resample


def seconds(call: Callable[[Any, Any], Result], x: Any, y: Any) -> tuple[float, Result]:
    started = time.perf_counter()
    result = call(x, y)
    if isinstance(x, torch.Tensor) and x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started, result


def status(key: str) -> float:
    """MiB of this process, as Linux counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def peak(arm: str, size: int, dim: int) -> float:
    """MiB that one call adds to a fresh process's peak."""
    command = [sys.executable, __file__, "--peak", arm, "--sizes", str(size), "--dims", str(dim)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(arm: str, size: int, dim: int) -> None:
    call = sampler(arm)
    call(*data(200, dim))  # imports are not counted
    x, y = data(size, dim)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = status("VmRSS")
    result = call(x, y)
    print(status("VmHWM") - before)
    del result


def arms(x: NDArray[Any], y: NDArray[Any]) -> dict[str, tuple[Callable[[Any, Any], Result], Any, Any]]:
    on_host = {name: (sampler(name), x, y) for name in ("imbalanced-learn", "ours")}
    if not torch.cuda.is_available():
        return on_host
    there = torch.from_numpy(x).cuda(), torch.from_numpy(y).cuda()
    return on_host | {
        "ours, GPU": (sampler("ours"), *there),
        "ours, GPU, torch's numbers": (sampler("ours, torch's numbers"), *there),
    }


def measure(size: int, dim: int, repeats: int) -> list[dict[str, Any]]:
    candidates = arms(*data(size, dim))
    times: dict[str, list[float]] = {name: [] for name in candidates}
    same, memory = {}, {}
    expected: Any = None
    for turn in range(repeats + 1):
        for name, (call, x, y) in candidates.items():
            if isinstance(x, torch.Tensor):
                torch.cuda.reset_peak_memory_stats()
                held = torch.cuda.memory_allocated()
            took, (result, _) = seconds(call, x, y)
            if turn:
                times[name].append(took)
                continue
            if isinstance(x, torch.Tensor):
                memory[name] = (torch.cuda.max_memory_allocated() - held) / 2**20
            result = result.cpu().numpy() if isinstance(result, torch.Tensor) else result
            expected = result if expected is None else expected
            same[name] = bool(np.array_equal(result, expected))
    memory |= {name: peak(name, size, dim) for name in ("imbalanced-learn", "ours")}
    rows = []
    for name, own in times.items():
        ratio = [theirs / mine for theirs, mine in zip(times["imbalanced-learn"], own, strict=True)]
        rows.append(
            {
                "n": size,
                "d": dim,
                "arm": name,
                "seconds": statistics.median(own),
                "ratio": statistics.median(ratio),
                "ratio_range": [min(ratio), max(ratio)],
                "peak_mib": memory[name],
                "identical": same[name],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", help="write the rows to this file, too")
    parser.add_argument("--peak", metavar="ARM", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print_peak(options.peak, options.sizes[0], options.dims[0])
        return
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    machine = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {device}"
    versions = ", ".join(f"{name} {version(name)}" for name in ("imbalanced-learn", "scikit-learn", "numpy", "torch"))
    print(f"{machine}; {versions}; {options.repeats} turns\n")
    print("|       n |   d | arm                        | seconds | times as fast (range) | peak MiB | identical |")
    print("| ------: | --: | :------------------------- | ------: | --------------------: | -------: | :-------- |")
    rows = []
    for size in options.sizes:
        for dim in options.dims:
            for row in measure(size, dim, options.repeats):
                rows.append(row)
                low, high = row["ratio_range"]
                print(
                    f"| {size:7} | {dim:3} | {row['arm']:26} | {row['seconds']:7.3f} | {row['ratio']:6.2f} "
                    f"({low:.2f} to {high:.2f}) | {row['peak_mib']:8.0f} | {'yes' if row['identical'] else 'no':9} |",
                    flush=True,
                )
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"machine": machine, "versions": versions, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
