"""DETR against other detectors on a few hundred images, equal seconds of training for each, and what each part gains.

python benchmarks/detr_small_data.py --parallel 3            # an H100: three arms side by side, three seeds, 17 minutes
python benchmarks/detr_small_data.py --ablation --seeds 0 --seconds 120 --parallel 4
python benchmarks/detr_small_data.py --summarise                        # the table and the picture of all runs so far
python benchmarks/detr_small_data.py --device cpu --image-size 160 --seconds 600 --parallel 2 \
    --arms faster_rcnn_small faster_rcnn_small_160 ours_scratch with_rare_classes        # two CPU cores, 70 minutes

BCCD (blood cells: 292 images to train, 72 to test), `trainval` -> `test`. Each run is a process of its own, and each is
kept as a line of the results as soon as it ends: a call begins only what is not there yet, so that the runs may be
shared out to several calls. The clock counts training alone, for everybody from the eleventh step to the last: not the
start (CUDA's takes up to a minute), not decoding, not the measurements in between that the picture is drawn from. When
it has run out, the last weights (the averaged ones, where an arm has them) are measured on the test split by
torchmetrics' COCO metric in pixels of the original images; nothing is chosen by it. Runs side by side share the device:
compare only those of one setting. On CPUs each run has one core, and the clock is its processor time, so that what else
the machine does changes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from detr_arms import ablation_arms, as_words, read_presets
from detr_peers import FREE_STEPS, METRICS, PEERS, clock_of
from detr_results import draw_curves, print_table, read_rows
from recipe_runs import Cores, newest_metrics, run_python
from records import DATA, RESULTS, ROOT, append_row

from dlrecipes.runs import read_metrics

PRESETS = [ROOT / "recipes" / "configs" / f"{name}.yaml" for name in ("detr_fast", "detr_fast_data")]
SCRATCH = ("--config", "detr_fast", "--pretrained", "false")
LITE0 = ("--config", "detr_fast", "--pretrained", "package")
ABLATION = ablation_arms(read_presets(*PRESETS))
RECIPE: dict[str, tuple[str, ...]] = {
    "ours_scratch": SCRATCH,
    "ours_lite0": LITE0,
    "ours_scratch_416": (*SCRATCH, "--image-size", "416"),  # 640 pixels take more steps than there is time for
    "ours_lite0_416": (*LITE0, "--image-size", "416"),
    **{name: (*SCRATCH, *as_words(options)) for name, options in ABLATION.items()},
    "plain_detr": (*SCRATCH, *as_words(ABLATION["base"]), "--lr", "3e-4"),  # a rate at which plain queries learn
}


def train_ours(arm: str, seed: int, options: argparse.Namespace, cores: list[int]) -> dict[str, Any]:
    """The recipe by its own command line, ended by the clock."""
    folder = options.output / f"{arm}-{seed}"
    budget = {
        "class_path": "dlrecipes.callbacks.TimeBudget",
        "init_args": {"minutes": options.seconds / 60, "free_steps": FREE_STEPS, "clock": clock_of(options.device)},
    }
    every = max(1, round(options.every))
    words = [
        *("recipes/train_detr.py", "--data", str(options.data)),
        *("--data.train_split", "trainval", "--data.val_split", "test", "--image-size", str(options.image_size)),
        *("--epochs", str(options.epochs), "--trainer.callbacks", json.dumps([budget])),
        *("--trainer.check_val_every_n_epoch", "null"),
        *("--trainer.val_check_interval", f"00:{every // 3600:02}:{every // 60 % 60:02}:{every % 60:02}"),
        *(("--trainer.accelerator", "cpu", "--data.num_workers", "0") if options.device == "cpu" else ()),
        *RECIPE[arm],
        *options.extra,
        *("--seed", str(seed), "--wandb", "off", "--output", str(folder)),
    ]
    code = run_python(words, folder.with_suffix(".log"), cores)
    file = newest_metrics(folder)
    measured = [row for row in read_metrics(file) if "val/map" in row] if file is not None else []
    if code or not measured:
        return {"exit": code or 1, "curve": []}
    last = measured[-1]
    names = [*METRICS, *(name.removeprefix("val/") for name in last if name.startswith("val/map_class/"))]
    return {
        "exit": 0,
        **{name: last[f"val/{name}"] for name in names if f"val/{name}" in last},
        "trained_seconds": last["budget/seconds"],
        "steps": int(last["step"]) + 1,
        "curve": [(row["budget/seconds"], row["val/map"], row["val/map_50"]) for row in measured],
    }


def train_peer(arm: str, seed: int, options: argparse.Namespace, cores: list[int]) -> dict[str, Any]:
    """Another library's detector."""
    file = options.output / f"{arm}-{seed}.json"
    file.unlink(missing_ok=True)
    words = [
        *("benchmarks/detr_peers.py", "--peer", arm, "--data", str(options.data), "--seed", str(seed)),
        *("--seconds", str(options.seconds), "--every", str(options.every), "--image-size", str(options.image_size)),
        *("--device", options.device, "--output", str(file)),
        *([] if options.peer_lr is None else ["--lr", str(options.peer_lr)]),
    ]
    code = run_python(words, options.output / f"{arm}-{seed}.log", cores)
    return {"exit": code, **json.loads(file.read_text())} if file.exists() else {"exit": code or 1, "curve": []}


def setting_of(options: argparse.Namespace) -> dict[str, Any]:
    """What two runs must have in common to be compared."""
    device = torch.cuda.get_device_name() if options.device == "cuda" else f"{os.cpu_count()} CPU cores"
    return {
        "seconds": options.seconds,
        "image_size": options.image_size,
        "device": device,
        "side_by_side": options.parallel,
        **({"clock": "processor"} if options.device == "cpu" else {}),
        "options": " ".join(options.extra),
    }


def run_all(options: argparse.Namespace, setting: dict[str, Any]) -> None:
    """What is not in the results yet, as long as the time that the call may take allows."""
    done = {(r["arm"], r["seed"]) for r in read_rows(options.results) if r["setting"] == setting and not r["exit"]}
    jobs = [(arm, seed) for seed in options.seeds for arm in options.arms if (arm, seed) not in done]
    started, cores = time.monotonic(), Cores(options.parallel)
    options.output.mkdir(parents=True, exist_ok=True)

    def work(job: tuple[str, int]) -> None:
        arm, seed = job
        with cores.take() as own:
            begun = time.monotonic()
            if begun - started + options.seconds + options.overhead > options.limit:
                print(f"{arm} seed {seed}: left to the next call", flush=True)
                return
            row = (train_peer if arm in PEERS else train_ours)(arm, seed, options, own)
        row = {"arm": arm, "seed": seed, **row, "seconds": round(time.monotonic() - begun, 1), "setting": setting}
        row |= {
            "log": str(options.output / f"{arm}-{seed}.log"),
            "torch": str(torch.__version__),
            "load": os.getloadavg(),
        }
        append_row(options.results, row | {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M}"})
        print(json.dumps({name: value for name, value in row.items() if name not in ("curve", "setting")}), flush=True)

    with ThreadPoolExecutor(options.parallel) as pool:
        list(pool.map(work, jobs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA / "bccd")
    known = sorted({*RECIPE, *PEERS})
    parser.add_argument("--arms", nargs="+", choices=known, metavar="ARM", help=", ".join(known))
    parser.add_argument("--ablation", action="store_true", help="also the arms of the ablation")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=240.0, help="of training, each run")
    parser.add_argument(
        "--every", type=float, help="seconds between two measurements (default: an eighth of --seconds)"
    )
    parser.add_argument("--image-size", type=int, default=640, help="longer side in pixels")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--parallel", type=int, default=1, help="runs at once on the device, each on cores of its own")
    parser.add_argument(
        "--epochs", type=int, default=-1, help="end of our runs if it comes before the clock's (-1: none)"
    )
    parser.add_argument("--peer-lr", type=float, help="another learning rate for the peers")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds that this call may take")
    parser.add_argument("--overhead", type=float, default=75.0, help="seconds of a run beside training, for --limit")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "detr_small_data")
    parser.add_argument("--results", type=Path, default=RESULTS / "detr_small_data.jsonl")
    parser.add_argument("--summarise", action="store_true", help="run nothing, only table and picture")
    options, extra = parser.parse_known_args()
    options.extra = extra
    options.output, options.results = options.output.absolute(), options.results.absolute()
    if options.arms is None:
        options.arms = [] if options.ablation else ["ours_lite0_416", "ours_scratch_416", "faster_rcnn"]
    options.arms += list(ABLATION) if options.ablation else []
    options.every = options.seconds / 8 if options.every is None else options.every
    if not options.summarise:
        run_all(options, setting_of(options))
    rows = read_rows(options.results)
    print_table(rows)
    for number, setting in enumerate(dict.fromkeys(json.dumps(row["setting"]) for row in rows)):
        picture = options.output / f"ap_against_time_{number}.png"
        draw_curves([row for row in rows if json.dumps(row["setting"]) == setting], picture)
        print(f"{picture}: {setting}")


if __name__ == "__main__":
    main()
