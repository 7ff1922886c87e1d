# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own folder of boxes → a trained detector → predictions
#
# You have a folder of images, and someone drew boxes in them. This notebook takes such a folder through checking,
# training and prediction: first in Python, then with one command, and at the end with a loss of your own.
#
# It takes about half a minute on one CPU core, so it trains for seconds: **the detector at the end is a beginner**, and
# every number below is printed as it came out. What the same settings reach in the five minutes that they are made for
# is in the project's [README](../README.md).

# %%
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

warnings.filterwarnings("ignore", message="IProgress not found")  # a progress bar that is not used here

import lightning as L
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from torch import Tensor

from dlrecipes.data import DetectionData, export_coco, predict_loader
from dlrecipes.models import DETR
from dlrecipes.models.detr import SetCriterion
from dlrecipes.runs import (
    DetectionPicture,
    EpochLines,
    RunFolder,
    class_color,
    draw_tile,
    save_grid,
)
from dlrecipes.runs.pictures.detection_pictures import picture_of
from dlrecipes.tasks import DetectionTask
from dlrecipes.trainer import make_trainer

os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # for the shell cell,
os.environ.pop("FORCE_COLOR", None)  # whose output is no terminal, though Jupyter says so
work = Path("quickstart")  # all that this notebook writes

# %% [markdown]
# ## 1. A folder
#
# To have something to run on, 120 small pictures of handwritten digits on clutter are written as a COCO data set.
# **Put your own folder here instead.** COCO JSON, Pascal VOC, YOLO and CSV are recognised by themselves in their usual
# layouts. Classes and splits are read from the data; where there is no validation split, one is made.

# %%
folder = export_coco(work / "my_images", num_images={"train": 96, "val": 12, "test": 12})

for path in sorted(folder.rglob("*.json")):
    print(path)
for split in ("train", "val", "test"):
    print(folder / split, "-", len(list((folder / split).iterdir())), "images")

# %% [markdown]
# ## 2. Is the data all right?
#
# Every file is read before anything is trained. Boxes that cross the edge or have no area are repaired or dropped, and
# counted; what cannot be repaired is one sentence that names the file and the remedy. In a shell,
# `dlrecipes check-data FOLDER` prints the same table.
#
# Two settings are particular to these pictures. They are small: without `image_size`, the longer side becomes 640
# pixels. And a mirrored digit is no digit: without `transform="none"`, pictures are flipped, zoomed and recoloured.

# %%
data = DetectionData(str(folder), batch_size=4, num_workers=0, image_size=96, transform="none")

print(data.report)

# %% [markdown]
# ## 3. What the model will see
#
# A training batch, straight from the loader. Swapped coordinates, shifted labels and augmentation that goes too far
# show here, in a second.


# %%
def show(pictures: Sequence[DetectionPicture], threshold: float | None = None) -> Image.Image:
    """True boxes; with a threshold, predicted boxes whose score is not below it."""
    tiles = []
    for picture in pictures:
        if threshold is None:
            boxes, labels = picture.true_boxes, picture.true_labels
            texts = [data.info.classes[label] for label in labels]
        else:
            kept = picture.scores >= threshold
            boxes, labels = picture.boxes[kept], picture.labels[kept]
            pairs = zip(labels, picture.scores[kept], strict=True)
            texts = [f"{data.info.classes[label]} {score:.2f}" for label, score in pairs]
        colors = [class_color(int(label)) for label in labels]
        tiles.append(draw_tile(picture.image, boxes, texts, colors, picture.title, side=220))
    save_grid(tiles, 4, work / "sheet.png")
    return Image.open(work / "sheet.png").quantize(256)  # fewer colours, a smaller file


data.setup("fit")
batch = next(iter(data.train_dataloader()))
show([picture_of(batch, i) for i in range(4)])

# %% [markdown]
# ## 4. Train, in Python
#
# Three objects: the data, a **model** and a **criterion** (its loss). The model is DETR with the switches that let it
# learn from little data; they come from the recipe's preset, so that Python and command line agree. The number of
# classes comes from the data.

# %%
preset = yaml.safe_load(Path("../recipes/configs/detr_fast.yaml").read_text())
settings = preset["model"]["model"]
print(", ".join(f"{name}={settings[name]}" for name in ("backbone", "queries", "cross_attention", "class_head")))

L.seed_everything(0, verbose=False)
task = DetectionTask(
    DETR(**settings), SetCriterion(class_loss="varifocal"), lr=2e-3, warmup_steps=20, channels_last=True
)

# %% [markdown]
# `make_trainer` gives Lightning's `Trainer` what a run needs: a numbered folder, the checkpoint that was best by mAP, a
# stop at the first NaN that names the step and the images, a checkpoint when the run is interrupted (by the notebook's
# stop button, too), and randomness that a resumed run repeats exactly. Everything else of Lightning's goes into
# `trainer_args`.

# %%
trainer = make_trainer(
    task,
    max_epochs=6,
    output=work / "runs",
    name="python",
    trainer_args={"check_val_every_n_epoch": 3, "log_every_n_steps": 4, "gradient_clip_val": 1.0},
)
trainer.fit(task, datamodule=data)

# %%
run = RunFolder(Path(trainer.default_root_dir))
Image.open(run.curves)

# %% [markdown]
# Now the test split, which had no part in anything so far, with the checkpoint that was best on the validation split.
# `map` is COCO's mAP; `map_50` is the average precision where an IoU of 0.5 makes a hit.

# %%
(metrics,) = trainer.test(task, datamodule=data, ckpt_path=run.best_checkpoint, verbose=False)

for name in ("test/map", "test/map_50", "test/mar_100"):
    print(f"{name:13} {metrics[name]:.3f}")

# %% [markdown]
# ## 5. The same from the command line
#
# One command checks, trains, tests and reports. It keeps the configuration, the numbers, pictures of the batch and of
# predictions, curves and checkpoints in a numbered folder, and logs to Weights & Biases if you let it. Here it has one
# epoch, enough to see it work, not to learn anything. For your own images leave out the last line.

# %% language="bash"
# python ../recipes/train_detr.py --data quickstart/my_images --epochs 1 --output quickstart/runs --wandb off \
#     --data.image_size 96 --data.transform none --model.warmup_steps 8

# %% [markdown]
# ## 6. Predict
#
# A checkpoint knows its classes, its settings and how images are prepared: the file is enough. `predict_loader` takes
# any folder of images. (In a shell: `dlrecipes predict RUN FOLDER` writes COCO results and the pictures.)

# %%
detector = DetectionTask.load_from_checkpoint(run.best_checkpoint)

loader = predict_loader(folder / "test", detector.info)
predictor = L.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)
predictions = predictor.predict(detector, loader)

best = predictions[0][0]
for score, label, box in zip(best["scores"][:3], best["labels"][:3], best["boxes"][:3], strict=True):
    print(f"{score:.2f}  {detector.info.classes[label]:6}", [round(value) for value in box.tolist()])

# %% [markdown]
# After these few seconds it finds some of the digits, some of them twice, and often takes one for another. It is not
# sure of anything, so the threshold is low here; 0.5 is usual for a detector that has learned.

# %%
pictures = []
for batch, found in zip(loader, predictions, strict=True):
    pictures += [picture_of(batch, i, prediction) for i, prediction in enumerate(found)]

show(pictures[:8], threshold=0.25)

# %% [markdown]
# ## 7. A loss of your own
#
# A criterion is any `nn.Module` that is called with the model's outputs and the targets, and returns one scalar or a
# dict of them with `weights`. This one adds a term to DETR's loss: the scores of an image should add up to the number
# of its objects.


# %%
class CountingCriterion(SetCriterion):
    """DETR's loss and |Σ scores − number of objects|."""

    def __init__(self, count_weight: float = 0.1) -> None:
        super().__init__(class_loss="varifocal")
        self.count_weight = count_weight
        self.weights = {**self.weights, "loss_count": count_weight}

    def forward(self, outputs: dict[str, Tensor], targets: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        scores = outputs["pred_logits"][-1].sigmoid().amax(-1)  # [images, queries]
        counts = torch.tensor([float(len(target["labels"])) for target in targets], device=scores.device)
        return super().forward(outputs, targets) | {"loss_count": F.l1_loss(scores.sum(1), counts)}


own = DetectionTask(DETR(**settings), CountingCriterion(count_weight=0.2), lr=1e-3)
trainer = L.Trainer(
    max_epochs=1,
    logger=False,
    callbacks=[EpochLines(["train/loss", "train/loss_count"])],
    enable_checkpointing=False,
    limit_train_batches=4,
    limit_val_batches=0,
    use_distributed_sampler=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(own, datamodule=data)

# %% [markdown]
# It is saved and loaded like any other: an argument that is kept under its own name (`self.count_weight`) is in the
# checkpoint.

# %%
trainer.save_checkpoint(work / "own.ckpt")
again = DetectionTask.load_from_checkpoint(work / "own.ckpt")
print(type(again.criterion).__name__, again.criterion.count_weight)

# %% [markdown]
# With the class in a file `my_project.py` beside you, the recipe takes it by its import path:
#
# ```
# python recipes/train_detr.py --data FOLDER \
#     --model.criterion my_project.CountingCriterion --model.criterion.count_weight 0.2
# ```
#
# Where to go on: [`02_your_own_loss_and_task.ipynb`](02_your_own_loss_and_task.ipynb) does that step by step, for a
# classifier, and [`recipes/README.md`](../recipes/README.md) has the other commands (several GPUs, resuming, presets, a
# model or data of your own).
