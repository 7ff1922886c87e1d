"""Tests of covariate shift: false alarms, power, and cost beside the packages that one may use instead.

python benchmarks/shift.py                                                      # level and power of ours
python benchmarks/shift.py --parts monitor --parallel 2                         # false alarms of a whole run
python benchmarks/shift.py --parts peers cost --peer-python PEERS/bin/python    # side by side
python benchmarks/shift.py --parts cost --arms "dlrecipes MMD" --sizes 10000 --device cuda    # ours on a GPU
python benchmarks/shift.py --parts cifar --run runs/cifar10/lite0-0             # corruptions: table and picture

PEERS is an environment of its own (``python -m venv PEERS; PEERS/bin/pip install frouros evidently "pandas<3"``),
since frouros wants an older numpy and evidently an older pandas. Each test runs in a process with --threads threads;
the processes take turns.

level: two samples of one distribution, 400 times: an exact test at α = .05 alarms in 7 to 36 (99.9 % of all cases), a
corrected one in no more. monitor: 400 runs without a shift, each of ten looks of a fit and one of its test by
``compare`` at the levels of ``CovariateShiftMonitor``; at most α of them may alarm. power: 300 times each of four
shifts, n = 200, d = 16. peers: the same with the other packages, fewer times. cost: seconds and MiB of one test of n +
n rows. Where a package computes each permutation anew, it runs few of them, twice, and the rest is reckoned from the
difference; the rows say so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from records import RESULTS, ROOT, processor, write_dated
from shift_arms import OURS, PEERS, SCENARIOS

N, D, PERMUTATIONS = 200, 16, 199
SIZES = (1000, 3000, 10_000, 20_000)
FULL = 1000  # permutations that the cost is of
FEW = {"frouros MMD": (2, 6), "scikit-learn permutation_test_score": (2, 12)}  # permutations that are run of them
FEWER = {"scikit-learn permutation_test_score": 99}  # permutations for its alarms: each is five fits
LARGEST = {"evidently MMD": 3000}  # rows: beyond, its matrices of all pairs do not fit 16 GB


def run_arm(what: str, arm: str, job: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """One process; its line of JSON."""
    python = options.peer_python if arm in PEERS else sys.executable
    count = str(options.threads)
    threads = {f"{name}_NUM_THREADS": count for name in ("OMP", "MKL", "OPENBLAS")}
    command = [python, str(ROOT / "benchmarks" / "shift_arms.py"), what, arm, json.dumps(job)]
    done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def alarms(
    arms: Sequence[str], scenarios: Sequence[str], repeats: dict[str, int], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row for each arm and scenario, with the share of alarms."""
    jobs = [
        (
            arm,
            {
                "scenario": scenario,
                "n": N,
                "d": D,
                "repeats": repeats[arm],
                "permutations": FEWER.get(arm, PERMUTATIONS),
            },
        )
        for scenario in scenarios
        for arm in arms
    ]

    def work(job: tuple[str, dict[str, Any]]) -> dict[str, Any]:
        row = run_arm("alarms", *job, options)
        row["share"] = row["alarms"] / row["repeats"]
        print(
            f"{row['scenario']:14} {row['arm']:36} {row['alarms']:4} of {row['repeats']} ({row['share']:.3f})",
            flush=True,
        )
        return row

    with ThreadPoolExecutor(options.parallel) as pool:
        return list(pool.map(work, jobs))


def level(options: argparse.Namespace) -> list[dict[str, Any]]:
    return alarms(OURS, ["none"], dict.fromkeys(OURS, options.repeats or 400), options)


def power(options: argparse.Namespace) -> list[dict[str, Any]]:
    return alarms(OURS, SCENARIOS[1:], dict.fromkeys(OURS, options.repeats or 300), options)


def peers(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Level and power of all, ours and theirs on the same samples."""
    arms = [arm for arm in (*OURS, *PEERS) if not options.arms or arm in options.arms]
    return alarms(arms, SCENARIOS, dict.fromkeys(arms, options.repeats or 100), options)


def monitor(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Runs that alarm at any of their looks though nothing shifted; ten runs in each process."""
    repeats = options.repeats or 400
    jobs = [
        {"n": N, "d": D, "checks": 10, "first": first, "repeats": min(10, repeats - first)}
        for first in range(0, repeats, 10)
    ]
    rows: list[dict[str, Any]] = []
    with ThreadPoolExecutor(options.parallel) as pool:
        for row in pool.map(lambda job: run_arm("run", "dlrecipes monitor", job, options), jobs):
            rows.append(row)
            print(
                f"{sum(r['repeats'] for r in rows)} of {repeats} runs, {sum(r['alarms'] for r in rows)} alarms",
                flush=True,
            )
    counts = ("alarms", "fits_alarmed", "alarms_without_sharing", "repeats")
    total = {name: sum(row[name] for row in rows) for name in counts}
    print(
        f"{total['alarms']} of {total['repeats']} runs alarm ({total['fits_alarmed']} in the fit); "
        f"{total['alarms_without_sharing']} fits would, were each look at .05"
    )
    return rows


def cost(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds and MiB of 1,000 permutations at each size, in turns; ratios to our MMD."""
    rows = []
    arms = [arm for arm in (*OURS, *PEERS) if not options.arms or arm in options.arms]
    for n in options.sizes:
        for turn in range(options.turns):
            for arm in arms:
                if n > LARGEST.get(arm, n):
                    continue
                rows.append({**_full_cost(arm, n, options), "turn": turn})
                row = rows[-1]
                note = f" (reckoned from {FEW[arm][1]})" if arm in FEW else ""
                print(f"{n:6} {arm:36} {row['seconds']:10.3f} s {row['peak_mib']:8.0f} MiB{note}", flush=True)
    return rows


def _full_cost(arm: str, n: int, options: argparse.Namespace) -> dict[str, Any]:
    job = {"n": n, "d": D, "permutations": FULL} | ({"device": options.device or "cpu"} if arm in OURS else {})
    if arm not in FEW:
        return run_arm("cost", arm, job, options)
    fewer, more = (run_arm("cost", arm, job | {"permutations": count}, options) for count in FEW[arm])
    each = (more["seconds"] - fewer["seconds"]) / (more["permutations"] - fewer["permutations"])
    return more | {
        "permutations": FULL,
        "permutations_run": more["permutations"],
        "seconds_each": each,
        "seconds": more["seconds"] + each * (FULL - more["permutations"]),
    }


def cifar(options: argparse.Namespace) -> list[dict[str, Any]]:
    from shift_cifar import measure

    return measure(options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"level": level, "power": power, "monitor": monitor, "peers": peers, "cost": cost, "cifar": cifar}
    parser.add_argument("--parts", nargs="+", choices=list(parts), default=["level", "power"])
    parser.add_argument("--repeats", type=int, help="default: 400 (level, monitor), 300 (power), 100 (peers)")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--parallel", type=int, default=1, help="processes at once; the cost is measured alone")
    parser.add_argument("--peer-python", default=sys.executable, help="where frouros and evidently are installed")
    parser.add_argument("--arms", nargs="+", choices=[*OURS, *PEERS], help="of peers and cost; default: all")
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), help="rows a sample, of the cost")
    parser.add_argument("--turns", type=int, default=3, help="of the cost")
    parser.add_argument("--run", type=Path, help="cifar: run folder or checkpoint of a classifier of CIFAR-10")
    parser.add_argument("--draws", type=int, default=200, help="cifar: a cell")
    parser.add_argument("--reference", type=int, default=1000, help="cifar: rows of the reference in each draw")
    parser.add_argument("--device", default=None, help="cost of ours: default cpu; cifar: GPU if there is one")
    parser.add_argument("--cache", type=Path, default=ROOT / "runs" / "shift_cifar", help="cifar: features")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if "cifar" in options.parts and options.run is None:
        parser.error("--parts cifar needs --run: a run folder or checkpoint of a classifier of CIFAR-10")
    for part in options.parts:
        rows = parts[part](options)
        about = {
            "part": part,
            "machine": f"{os.cpu_count()} x {processor()}",
            "python": platform.python_version(),
            "load": os.getloadavg(),
            "threads": options.threads,
            "parallel": options.parallel,
        }
        file = write_dated(f"shift_{part}", {"about": about, "runs": rows}, options.results)
        print(f"written to {file}")


if __name__ == "__main__":
    main()
