"""The detector that trains without data: what `python recipes/train_detr.py` reaches, and variants of it.

python benchmarks/detr_embedded.py                                      # three seeds, one after the other: 14 minutes
python benchmarks/detr_embedded.py --sweep --seeds 0 --parallel 8       # 16 cores: each variant for as long
python benchmarks/detr_embedded.py --sweep --only lr_2e-3 batch_4 --seeds 0 1 2 --parallel 6 --seconds 240

The scenes are composed of scanned digits; those of train, val and test show different scans. The recipe tests the
weights that were best on val. A variant is chosen by its figures on val, which are what the table is sorted by; test is
printed beside them and is to be read for the chosen one alone. GPUs are hidden. Variants are trained by the clock
(--seconds), since a step of one takes longer than a step of another; the recipe without --sweep runs as it stands.
Each run is kept as a line of the results as soon as it ends, and a call begins only what is not there yet.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from detr_results import read_rows
from recipe_runs import Cores, newest_metrics, print_summary, run_recipe
from records import RESULTS, ROOT, append_row

from dlrecipes.runs import read_metrics

RECIPE = "recipes/train_detr.py"
METRICS = ("map", "map_50")
VALIDATIONS = 5  # of a variant; the best of them is tested

_MODEL, _LOSS = "--model.model", "--model.criterion"
_SLIM = {"layers": [2, 2, 2, 1], "stem_type": "deep", "stem_width": 16}


def _backbone(**changes: Any) -> tuple[str, str]:
    return f"{_MODEL}.backbone_args", json.dumps({"channels": [32, 64, 128, 192], **_SLIM, **changes})


VARIANTS: dict[str, tuple[str, ...]] = {
    "as_it_is": (),
    "lr_5e-4": ("--lr", "5e-4"),
    "lr_2e-3": ("--lr", "2e-3"),
    "lr_3e-3": ("--lr", "3e-3"),
    "batch_4": ("--batch-size", "4"),
    "batch_16": ("--batch-size", "16"),
    "batch_16_lr_2e-3": ("--batch-size", "16", "--lr", "2e-3"),
    "batch_4_lr_7e-4": ("--batch-size", "4", "--lr", "7e-4"),
    "flat_cosine": ("--model.schedule", "flat_cosine"),
    "one_cycle": ("--model.schedule", "one_cycle", "--model.warmup_steps", "0"),
    "ema_99": ("--ema", "0.99"),
    "ema_998": ("--ema", "0.998"),
    "wd_1e-2": ("--model.weight_decay", "1e-2"),
    "decoder_2": (f"{_MODEL}.decoder_layers", "2"),
    "decoder_4": (f"{_MODEL}.decoder_layers", "4"),
    "encoder_0": (f"{_MODEL}.encoder_layers", "0"),
    "encoder_2": (f"{_MODEL}.encoder_layers", "2"),
    "dim_96": (f"{_MODEL}.hidden_dim", "96", f"{_MODEL}.feedforward_dim", "192"),
    "dim_160": (f"{_MODEL}.hidden_dim", "160", f"{_MODEL}.feedforward_dim", "320"),
    "grid_3": (f"{_MODEL}.sample_grid", "3"),
    "grid_7": (f"{_MODEL}.sample_grid", "7"),
    "margin_1.3": (f"{_MODEL}.sample_margin", "1.3"),
    "sample_2": (f"{_MODEL}.sample_stride", "2"),
    "sample_4_8": (f"{_MODEL}.sample_stride", "[4, 8]"),
    "channels_32": (f"{_MODEL}.sample_channels", "32"),
    "channels_96": (f"{_MODEL}.sample_channels", "96"),
    "stride_16": (f"{_MODEL}.feature_stride", "16"),
    "deformable": (f"{_MODEL}.cross_attention", "deformable"),
    "narrow": _backbone(channels=[24, 48, 96, 128]),
    "wide": _backbone(channels=[48, 96, 160, 192]),
    "shallow": _backbone(layers=[1, 1, 1, 1]),
    "deep": _backbone(layers=[2, 3, 3, 1]),
    "mal": (f"{_LOSS}.class_loss", "mal"),
    "ia_bce": (f"{_LOSS}.class_loss", "ia_bce"),
    "focal": (f"{_LOSS}.class_loss", "focal"),
    "repeats_1": (f"{_LOSS}.proposal_repeats", "1"),
    "repeats_5": (f"{_LOSS}.proposal_repeats", "5"),
    "giou_4": (f"{_LOSS}.weights", '{"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 4.0}'),
    "ce_2": (f"{_LOSS}.weights", '{"loss_ce": 2.0, "loss_bbox": 5.0, "loss_giou": 2.0}'),
    "denoising_2": (f"{_MODEL}.denoising", "2"),
    "groups_2": (f"{_MODEL}.query_groups", "2"),
    "hybrid": (f"{_MODEL}.hybrid_queries", "50"),
}


def by_the_clock(seconds: float) -> tuple[str, ...]:
    """Options of a run that ends after so many seconds of training, with a schedule that fits, validated in between."""
    budget = {"class_path": "dlrecipes.callbacks.TimeBudget", "init_args": {"minutes": seconds / 60}}
    every = max(1, round(seconds / VALIDATIONS))
    return (
        *("--epochs", "-1", "--trainer.callbacks", json.dumps([budget]), "--trainer.check_val_every_n_epoch", "null"),
        *("--trainer.val_check_interval", f"00:00:{every // 60:02}:{every % 60:02}"),
    )


def best_on_val(metrics_csv: Path) -> dict[str, float]:
    """Metrics of the validation that chose the weights."""
    rows = [row for row in read_metrics(metrics_csv) if "val/map" in row]
    best = max(rows, key=lambda row: row["val/map"], default={})
    return {f"val_{name}": best[f"val/{name}"] for name in METRICS if best}


def print_sweep(rows: Sequence[dict[str, Any]]) -> None:
    """Means over the seeds, best on val first."""
    names = [*(f"val_{name}" for name in METRICS), *METRICS]
    means = {}
    for arm in dict.fromkeys(row["arm"] for row in rows):
        done = [row for row in rows if row["arm"] == arm and row["exit"] == 0 and "val_map" in row]
        if done:
            means[arm] = [statistics.mean(row.get(name, float("nan")) for row in done) for name in names]
    print(f"{'variant':20}" + "".join(f"{name:>12}" for name in (*names[:2], *(f"test_{name}" for name in METRICS))))
    for arm, values in sorted(means.items(), key=lambda item: -item[1][0]):
        print(f"{arm:20}" + "".join(f"{value:12.4f}" for value in values))


def run_all(options: argparse.Namespace, setting: dict[str, Any]) -> None:
    """What is not in the results yet, as long as the time that the call may take allows."""
    variants = (options.only or list(VARIANTS)) if options.sweep else ["as_it_is"]
    clock = by_the_clock(options.seconds) if options.sweep else ()
    done = {(r["arm"], r["seed"]) for r in read_rows(options.results) if r["setting"] == setting and not r["exit"]}
    jobs = [(arm, seed) for seed in options.seeds for arm in variants if (arm, seed) not in done]
    started, cores = time.monotonic(), Cores(options.parallel, options.threads)

    def work(job: tuple[str, int]) -> None:
        arm, seed = job
        with cores.take() as own:
            if time.monotonic() - started + options.seconds + options.overhead > options.limit:
                print(f"{arm} seed {seed}: left to the next call", flush=True)
                return
            row = run_recipe(
                *(arm, seed, RECIPE, (*clock, *VARIANTS[arm], *options.extra), options.output, METRICS),
                splits=("test",),
                cores=own,
                environment={"CUDA_VISIBLE_DEVICES": ""},
            )
        file = newest_metrics(options.output / f"{arm}-{seed}")
        row |= {} if file is None else best_on_val(file)
        append_row(
            options.results, row | {"setting": setting, "torch": str(torch.__version__), "load": os.getloadavg()}
        )

    with ThreadPoolExecutor(options.parallel) as pool:
        list(pool.map(work, jobs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--sweep", action="store_true", help="variants by the clock instead of the recipe as it stands")
    parser.add_argument("--only", nargs="+", choices=sorted(VARIANTS), metavar="VARIANT", help=", ".join(VARIANTS))
    parser.add_argument("--seconds", type=float, default=300.0, help="of training, each variant")
    parser.add_argument("--parallel", type=int, default=1, help="runs at once, each on cores of its own")
    parser.add_argument("--threads", type=int, default=2, help="cores of each run")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds that this call may take")
    parser.add_argument("--overhead", type=float, default=60.0, help="seconds of a run beside training, for --limit")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "detr_embedded")
    parser.add_argument("--results", type=Path, default=RESULTS / "detr_embedded.jsonl")
    options, extra = parser.parse_known_args()
    options.extra = extra
    options.output, options.results = options.output.absolute(), options.results.absolute()
    setting = {
        "seconds": options.seconds if options.sweep else None,
        "threads": options.threads,
        "side_by_side": options.parallel,
        "options": " ".join(options.extra),
    }
    run_all(options, setting)
    rows = [row for row in read_rows(options.results) if row["setting"] == setting]
    if options.sweep:
        print_sweep(rows)
    else:
        print_summary(rows, METRICS)


if __name__ == "__main__":
    main()
