"""The two image recipes without data, on two CPU cores: a balanced Mixer; a long tail with remedies and without.

python benchmarks/digits.py                       # three seeds of each, one after the other: 20 minutes
python benchmarks/digits.py --arms mixer          # what `python recipes/train_mlp_mixer.py` prints, for three seeds

The test split is balanced, so that its accuracy is the balanced accuracy; it is that of the best epoch on the
validation split. Nothing is chosen by the test split.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from recipe_runs import print_summary, run_recipe, write_results
from records import RESULTS, ROOT

EFFICIENTNET, MIXER = "recipes/train_efficientnet.py", "recipes/train_mlp_mixer.py"
ARMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "mixer": (MIXER, ()),
    "cross_entropy": (EFFICIENTNET, ("--imbalance", "none")),
    "class_weights": (EFFICIENTNET, ()),  # the default: what --imbalance auto picks
    "logit_adjusted": (EFFICIENTNET, ("--imbalance", "logit_adjust")),
}
METRICS = ("accuracy", "f1", "nll", "recall_class/eight", "recall_class/nine")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=sorted(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "digits")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options, extra = parser.parse_known_args()
    rows = [
        run_recipe(arm, seed, ARMS[arm][0], (*ARMS[arm][1], *extra), options.output, METRICS)
        for seed in options.seeds
        for arm in options.arms
    ]
    print_summary(rows, METRICS)
    write_results("digits", rows, options.results, extra=extra)


if __name__ == "__main__":
    main()
