"""Does DETR learn 50 photographs of tiny COCO by heart, as a sanity check? PASS at a mAP of .9 on the same images.

DLRECIPES_DATA=../shared/data python benchmarks/detr_by_heart.py    # 20 minutes of one core; exit code 1 if it fails

The recipe's own ``--overfit 50``, whose goal is a mAP50 of .9, with a stricter goal, and finer maps for small objects:
160 pixels, no augmentation, no average of the weights, 2,500 steps at most, seed 0.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from records import DATA, ROOT

from dlrecipes.tasks import DetectionTask

OPTIONS = (
    *("--overfit", "50", "--image-size", "160", "--trainer.max_steps", "2500", "--wandb", "off"),
    *("--model", "detr_by_heart.ByHeart", "--model.model.feature_stride", "8", "--model.model.sample_stride", "4"),
)


class ByHeart(DetectionTask):
    """Passes at COCO's mAP, not at mAP50."""

    overfit_goal: ClassVar[Mapping[str, float]] = {"map": 0.9}


def main() -> None:
    if len(sys.argv) > 1:  # -h, or an option that is none
        print(__doc__)
        return
    words = [str(ROOT / "recipes" / "train_detr.py"), "--data", str(DATA.resolve() / "tiny_coco"), *OPTIONS]
    words += ["--output", str(ROOT / "runs")]
    raise SystemExit(subprocess.call([sys.executable, *words], cwd=Path(__file__).parent))  # where ByHeart is found


if __name__ == "__main__":
    main()
