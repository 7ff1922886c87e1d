"""One test of one package in one process, so that packages with other needs can run in Pythons of their own.

python benchmarks/shift_arms.py alarms "dlrecipes MMD" '{"scenario": "mean", "n": 200, "d": 16, "repeats": 50}'
python benchmarks/shift_arms.py cost "frouros MMD" '{"n": 1000, "d": 16, "permutations": 1000}'
python benchmarks/shift_arms.py run "dlrecipes monitor" '{"n": 200, "d": 16, "first": 0, "repeats": 10, "checks": 10}'

Prints one line of JSON. ``benchmarks/shift.py`` calls it. It must not import dlrecipes outside the arms that are ours.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Arm = Callable[[Array, Array, int], bool]  # x, y, permutations -> whether it says that they differ

ALPHA = 0.05
SCENARIOS = ("none", "mean", "scale", "one dimension", "mixture")


def draw(scenario: str, n: int, d: int, repeat: int) -> tuple[Array, Array]:
    """Two samples of n rows: standard normal, and what the scenario makes of it.

    mean: every dimension + .2; scale: all times 1.2; one dimension: the first + .5; mixture: a tenth of the rows with
    every dimension + 1.
    """
    random = np.random.default_rng((repeat, SCENARIOS.index(scenario)))
    x, y = random.standard_normal((2, n, d))
    if scenario == "mean":
        y += 0.2
    elif scenario == "scale":
        y *= 1.2
    elif scenario == "one dimension":
        y[:, 0] += 0.5
    elif scenario == "mixture":
        y[: n // 10] += 1.0
    return x, y


def _median_distance(x: Array, y: Array) -> float:
    """Of at most 1,000 rows, as ours has it: so that the packages differ in nothing but themselves."""
    from scipy.spatial.distance import pdist

    rows = np.concatenate((x, y))
    return float(np.median(pdist(rows[np.random.default_rng(0).permutation(len(rows))[:1000]])))


def _ours(name: str, device: str) -> Arm:
    import torch

    from dlrecipes import shift

    def there(rows: Array) -> torch.Tensor:
        return torch.as_tensor(rows, device=device)

    if name == "KS":
        return lambda x, y, permutations: shift.ks_test(there(x), there(y)).rejected(ALPHA)
    tests: dict[str, Any] = {
        "MMD": shift.mmd_test,
        "energy": shift.energy_test,
        "C2ST": shift.c2st,
        "KS and MMD": shift.shift_test,
    }
    test = tests[name]
    return lambda x, y, permutations: bool(test(there(x), there(y), permutations).rejected(ALPHA))


def _frouros() -> Arm:
    from functools import partial

    from frouros.callbacks import PermutationTestDistanceBased
    from frouros.detectors.data_drift import MMD
    from frouros.utils.kernels import rbf_kernel

    def test(x: Array, y: Array, permutations: int) -> bool:
        # its own σ is 1, at which 16 dimensions are all noise; (1 + k) / (1 + B), as ours
        kernel = partial(rbf_kernel, sigma=_median_distance(x, y))
        callback = PermutationTestDistanceBased(permutations, num_jobs=1, random_state=0, method="conservative")
        detector = MMD(kernel=kernel, chunk_size=1000, callbacks=callback)
        detector.fit(X=x)
        _, logs = detector.compare(X=y)
        return bool(logs["PermutationTestDistanceBased"]["p_value"] <= ALPHA)

    return test


def _evidently(name: str) -> Arm:
    import pandas as pd
    from evidently.legacy.metrics.data_drift.embedding_drift_methods import mmd, model

    def test(x: Array, y: Array, permutations: int) -> bool:
        # the model is what it takes where nothing is said; MMD's null is 100 resamples of the reference
        few = len(x) < 1000
        method = model(bootstrap=few) if name == "model" else mmd(bootstrap=True, quantile_probability=0.95)
        return bool(method(current_emb=pd.DataFrame(y), reference_emb=pd.DataFrame(x))[1])

    return test


def _scikit_learn() -> Arm:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, permutation_test_score

    def test(x: Array, y: Array, permutations: int) -> bool:
        rows, labels = np.concatenate((x, y)), np.repeat([0, 1], [len(x), len(y)])
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        found = permutation_test_score(
            LogisticRegression(), rows, labels, cv=folds, scoring="roc_auc", n_permutations=permutations, random_state=0
        )
        return bool(found[2] <= ALPHA)

    return test


OURS = tuple(f"dlrecipes {name}" for name in ("MMD", "KS", "KS and MMD", "C2ST", "energy"))
PEERS = {
    "frouros MMD": "frouros",
    "evidently MMD": "evidently",
    "evidently model": "evidently",
    "scikit-learn permutation_test_score": "scikit-learn",
}


def make_arm(name: str, device: str = "cpu") -> Arm:
    """By its name; only ours can compute on a GPU."""
    package, _, test = name.partition(" ")
    if package == "dlrecipes":
        return _ours(test, device)
    if package == "frouros":
        return _frouros()
    return _evidently(test) if package == "evidently" else _scikit_learn()


def count_alarms(arm: Arm, job: dict[str, Any]) -> dict[str, Any]:
    started = time.process_time()
    samples = (draw(job["scenario"], job["n"], job["d"], repeat) for repeat in range(job["repeats"]))
    alarms = sum(arm(x, y, job["permutations"]) for x, y in samples)
    return {"alarms": alarms, "cpu_seconds": time.process_time() - started}


def count_false_runs(job: dict[str, Any]) -> dict[str, Any]:
    """Runs with an alarm though nothing shifted: looks of a fit and its test, as ``CovariateShiftMonitor`` makes them.

    Each run has one reference and, for each look, new samples and weights of its own: features are a random rotation
    and scale of standard normal rows, as those of a network that goes on learning.
    """
    import torch

    from dlrecipes.callbacks import CovariateShiftMonitor
    from dlrecipes.shift import ShiftFeatures, compare

    n, d, checks = job["n"], job["d"], job["checks"]
    monitor = CovariateShiftMonitor(new="test", checks=checks, alpha=ALPHA)
    levels = [monitor.level] * checks + [ALPHA / 2]
    started, fits, runs, alone = time.process_time(), 0, 0, 0
    for repeat in range(job["first"], job["first"] + job["repeats"]):
        random = np.random.default_rng((repeat, 7))
        reference, p_values = random.standard_normal((n, d)), []
        for look, level in enumerate(levels):
            weights = random.standard_normal((d, d))
            old, new = (
                ShiftFeatures(embedding=torch.from_numpy(rows @ weights))
                for rows in (reference, random.standard_normal((n, d)))
            )
            permutations = max(1000, int(10 / level))  # as the monitor has it
            p_values.append(compare(old, new, alpha=level, permutations=permutations, seed=look).p_value)
        alarms = np.array(p_values) <= levels
        fits += int(alarms[:checks].any())
        runs += int(alarms.any())
        alone += int((np.array(p_values[:checks]) <= ALPHA).any())
    seconds = time.process_time() - started
    return {"fits_alarmed": fits, "alarms": runs, "alarms_without_sharing": alone, "cpu_seconds": seconds}


def _status(key: str) -> float:
    """MiB of this process, as Linux counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def measure_cost(arm: Arm, job: dict[str, Any]) -> dict[str, Any]:
    """Seconds of one test, copies to the device included, and the MiB that it adds; a child process counts, too."""
    on_gpu = job.get("device", "cpu") != "cpu"
    # imports and first calls are not counted; a GPU loads the kernels of a size when it first meets it
    arm(*draw("none", job["n"] if on_gpu else 50, job["d"], 0), 9)
    x, y = draw("none", job["n"], job["d"], 1)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = _status("VmRSS")
    started = time.perf_counter()
    arm(x, y, job["permutations"])
    seconds = time.perf_counter() - started
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    found = {"seconds": seconds, "peak_mib": max(_status("VmHWM"), children) - before}
    return found | _on_gpu() if on_gpu else found


def _on_gpu() -> dict[str, Any]:
    import torch

    return {"gpu": torch.cuda.get_device_name(), "peak_gpu_mib": torch.cuda.max_memory_allocated() / 2**20}


def main() -> None:
    what, name, text = sys.argv[1:]
    warnings.simplefilter("ignore")
    job = {"permutations": 199, **json.loads(text)}
    if threads := os.environ.get("OMP_NUM_THREADS"):
        job["threads"] = int(threads)
    if what == "run":
        found = count_false_runs(job)
    else:
        arm = make_arm(name, job.get("device", "cpu"))
        found = count_alarms(arm, job) if what == "alarms" else measure_cost(arm, job)
    packages = {"numpy", "scipy", PEERS.get(name, "torch")}
    print(json.dumps({"arm": name, **job, **found, "versions": {key: version(key) for key in sorted(packages)}}))


if __name__ == "__main__":
    main()
