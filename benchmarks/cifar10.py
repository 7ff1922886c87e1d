"""CIFAR-10 by the recipes' own command lines: last-epoch test accuracy and seconds, several seeds, with any presets.

python benchmarks/cifar10.py --arms mixer efficientnet lite0 --seeds 0 1 2 --parallel 3         # an H100: 20 minutes
python benchmarks/cifar10.py --arms lite0_few scratch_few --seeds 0 1 2 --train-per-class 100   # two CPU cores

The data is the JPEG re-encoding of CIFAR-10 in $DLRECIPES_DATA/cifar10_jpeg.npz, which costs about 3.3 points of
accuracy (the 94 % speed record's script reaches 90.7 % on it): compare only with what runs on the same copy. All
training images are trained on; the test images are only looked at, no choice is made by them, and the last epoch's
figure is reported.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

ROOT = Path(__file__).resolve().parent.parent
EFFICIENTNET, MIXER = "recipes/train_efficientnet.py", "recipes/train_mlp_mixer.py"
FEW = ("--config", "efficientnet_finetune", "--image_size", "96", "--epochs", "10")
ONLY_TEST = ("--trainer.check_val_every_n_epoch", "1000")  # 10,000 test images take two cores longer than an epoch
ARMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "mixer": (MIXER, ("--config", "mixer_cifar")),
    "efficientnet": (EFFICIENTNET, ("--config", "efficientnet_cifar")),
    "lite0": (EFFICIENTNET, ("--config", "efficientnet_cifar_finetune")),
    "lite0_few": (EFFICIENTNET, (*FEW, *ONLY_TEST)),
    "scratch_few": (EFFICIENTNET, (*FEW, *ONLY_TEST, "--pretrained", "false")),
}


def write_parquet(npz: Path, folder: Path, train_per_class: int | None) -> Path:
    """The data as Hugging Face stores images: a column of bytes, a column of labels, the class names in the schema.

    Args:
        npz: the JPEG files of both splits, one after the other, with their offsets.
        folder: gets ``train.parquet`` and ``test.parquet``; what is there already is kept.
        train_per_class: only the first so many training images of each class; None: all.
    """
    content = np.load(npz)
    names = [str(name) for name in content["classes"]]
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        file = folder / f"{split}.parquet"
        if file.exists():
            continue
        data, offsets, labels = (content[f"{split}_{part}"] for part in ("bytes", "offsets", "labels"))
        rows = np.arange(len(labels))
        if split == "train" and train_per_class is not None:
            rows = np.sort(np.concatenate([np.flatnonzero(labels == c)[:train_per_class] for c in range(len(names))]))
        images = [{"bytes": data[offsets[i] : offsets[i + 1]].tobytes(), "path": f"{split}_{i:05d}.jpg"} for i in rows]
        schema = pa.schema(
            [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
            metadata=metadata,
        )
        pq.write_table(pa.table({"image": images, "label": labels[rows].astype(np.int64)}, schema=schema), file)
    return folder


def run(arm: str, seed: int, data: Path, output: Path, extra: list[str]) -> dict[str, Any]:
    """Train once; the accuracy is that of the last epoch on the test images."""
    script, options = ARMS[arm]
    name = f"{arm}-{seed}"
    started = time.perf_counter()
    with (output / f"{name}.log").open("w") as log:
        code = subprocess.run(
            [
                *(sys.executable, script, "--data", str(data), *options, "--seed", str(seed), "--wandb", "off"),
                *("--data.val_split", "test", "--output", str(output / name), *extra),
            ],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
            check=False,
        ).returncode
    row: dict[str, Any] = {"arm": arm, "seed": seed, "exit": code, "seconds": time.perf_counter() - started}
    for metrics in (output / name).glob("*/metrics.csv"):
        row |= last_accuracy(metrics)
    print(json.dumps(row), flush=True)
    return row


def last_accuracy(metrics: Path) -> dict[str, Any]:
    """Of the last validation; where a run only tests, of its test, which then is of the last checkpoint."""
    with metrics.open() as file:
        rows = list(csv.DictReader(file))
    for name in ("val/accuracy", "test/accuracy"):
        measured = [row for row in rows if row.get(name)]
        if measured:
            return {"accuracy": float(measured[-1][name]), "epochs": int(measured[-1]["epoch"] or 0) + 1}
    return {}


def summary(rows: list[dict[str, Any]]) -> None:
    print(f"{'arm':14} {'runs':>4} {'accuracy, mean (min to max)':>30} {'seconds, median (max)':>24}")
    for arm in dict.fromkeys(row["arm"] for row in rows):
        done = [row for row in rows if row["arm"] == arm and "accuracy" in row]
        if done:
            accuracy, seconds = [100 * row["accuracy"] for row in done], [row["seconds"] for row in done]
            spread = f"{statistics.mean(accuracy):.2f} ({min(accuracy):.2f} to {max(accuracy):.2f})"
            print(f"{arm:14} {len(done):4d} {spread:>30} {statistics.median(seconds):15.0f} ({max(seconds):.0f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("DLRECIPES_DATA", ROOT.parent / "shared" / "data")) / "cifar10_jpeg.npz"
    parser.add_argument("--npz", type=Path, default=default)
    parser.add_argument("--arms", nargs="+", choices=sorted(ARMS), default=["mixer", "efficientnet", "lite0"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--parallel", type=int, default=1, help="runs at once on the same device")
    parser.add_argument("--train-per-class", type=int, default=None)
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "cifar10")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    options, extra = parser.parse_known_args()
    suffix = "" if options.train_per_class is None else f"_{options.train_per_class}"
    data = write_parquet(options.npz, options.output / f"data{suffix}", options.train_per_class)
    jobs = [(arm, seed) for seed in options.seeds for arm in options.arms]
    with ThreadPoolExecutor(options.parallel) as pool:
        rows = list(pool.map(lambda job: run(*job, data, options.output, extra), jobs))
    summary(rows)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} x {platform.processor()}"
    about = {"device": device, "torch": str(torch.__version__), "parallel": options.parallel, "extra": extra}
    options.results.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y-%m-%d_%H%M")
    (options.results / f"cifar10_{stamp}.json").write_text(json.dumps({"about": about, "runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
