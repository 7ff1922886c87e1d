"""CIFAR-10 by the recipes' own command lines: last-epoch test accuracy and seconds, several seeds, with any presets.

python benchmarks/cifar10.py --arms mixer efficientnet lite0 --seeds 0 1 2 --parallel 3         # an H100: 20 minutes
python benchmarks/cifar10.py --arms lite0_few scratch_few --seeds 0 1 2 --train-per-class 100   # two CPU cores, an hour

The data is the JPEG re-encoding of CIFAR-10 in $DLRECIPES_DATA/cifar10_jpeg.npz, which costs about 3.3 points of
accuracy (the 94 % speed record's script reaches 90.7 % on it): compare only with what runs on the same copy. All
training images are trained on; the test images are only looked at, no choice is made by them, and the last epoch's
figure is reported.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from recipe_runs import print_summary, run_recipe, write_results
from records import DATA, RESULTS, ROOT

EFFICIENTNET, MIXER = "recipes/train_efficientnet.py", "recipes/train_mlp_mixer.py"
METRICS = ("accuracy", "nll")
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--npz", type=Path, default=DATA / "cifar10_jpeg.npz")
    parser.add_argument("--arms", nargs="+", choices=sorted(ARMS), default=["mixer", "efficientnet", "lite0"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--parallel", type=int, default=1, help="runs at once on the same device")
    parser.add_argument("--train-per-class", type=int, default=None)
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "cifar10")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options, extra = parser.parse_known_args()
    suffix = "" if options.train_per_class is None else f"_{options.train_per_class}"
    data = write_parquet(options.npz, options.output / f"data{suffix}", options.train_per_class)
    jobs = [(arm, seed) for seed in options.seeds for arm in options.arms]

    def train(job: tuple[str, int]) -> dict[str, Any]:
        arm, seed = job
        script, preset = ARMS[arm]
        given = ("--data", str(data), *preset, "--data.val_split", "test", *extra)
        # its test is of the best epoch on these very images, the last validation of the last epoch
        return run_recipe(arm, seed, script, given, options.output, METRICS, splits=("val", "test"))

    with ThreadPoolExecutor(options.parallel) as pool:
        rows = list(pool.map(train, jobs))
    print_summary(rows, METRICS)
    write_results("cifar10", rows, options.results, parallel=options.parallel, extra=extra)


if __name__ == "__main__":
    main()
