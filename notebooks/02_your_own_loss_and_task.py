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
# # A loss of your own in six lines, a task in ten
#
# You have an idea: a loss that knows something about your data, or a training step that asks more of the network. This
# notebook takes two such ideas from the first line to a trained network, in Python and then from the command line,
# and changes nothing in the library.
#
# It takes about half a minute on one CPU core. Every number below is printed as it came out, from **one run each** of
# seconds: read large differences, and not the second digit.

# %%
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

warnings.filterwarnings("ignore", message="IProgress not found")  # a progress bar that is not used here

import lightning as L
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from dlrecipes.contracts import DataInfo, ImageBatch
from dlrecipes.data import ClassificationData
from dlrecipes.errors import DLRecipesError
from dlrecipes.losses import CrossEntropyLoss, FocalLoss, LogitAdjustedLoss
from dlrecipes.models import MLPMixer
from dlrecipes.runs import ImageCurves, RunFolder, draw_image_tile, save_grid
from dlrecipes.tasks import ClassificationTask
from dlrecipes.trainer import make_trainer

os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # for the shell cell,
os.environ.pop("FORCE_COLOR", None)  # whose output is no terminal, though Jupyter says so
work = Path("own_parts")  # all that this notebook writes

# %% [markdown]
# ## 1. The data, and what it says about itself
#
# One line. Scans of handwritten digits come with the library; with `long_tailed` most of the training scans of the
# higher digits are taken away, as in data where the interesting cases are rare. The validation and test splits keep
# all digits equally often. For pictures of yours, give a folder, a table or a Parquet file instead:
# `ClassificationData("photos")`.

# %%
data = ClassificationData(long_tailed=True, batch_size=32, num_workers=0)

print(data.report)

# %% [markdown]
# `data.info` holds the facts that parts of a network or a loss may need. You will meet it again in a moment.

# %%
info = data.info
print(f"{info.task}, {info.num_classes} classes, {info.image_size} x {info.image_size} pixels")
print("class_counts", info.class_counts)

# %% [markdown]
# And this is a training batch as the network will see it, augmented. Look at one before you train: swapped channels,
# wrong labels and augmentation that goes too far show here, in a second.


# %%
def shown(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB").quantize(256, kmeans=1)  # fewer colours, a smaller file


data.setup("fit")
batch = data.finish(next(iter(data.train_dataloader())), training=True)
tiles = [
    draw_image_tile(image, [info.classes[label]], 110)
    for image, label in zip(batch["images"][:16], batch["targets"].tolist(), strict=False)
]
save_grid(tiles, 8, work / "batch.png")
shown(work / "batch.png")

# %% [markdown]
# ## 2. The baseline
#
# A **task** is a network and a loss, and all that belongs to training and judging it. `make_trainer` gives Lightning's
# `Trainer` what a run needs: a numbered folder, exact resume, a stop at the first NaN, the checkpoint that was best by
# the task's own metric (here macro-F1, which weighs all classes alike). Everything else of Lightning's goes into
# `trainer_args`.
#
# The network is a small MLP-Mixer; any `nn.Module` from images [B, 3, S, S] to [B, classes] will do.


# %%
def train(
    task: type[ClassificationTask], loss: nn.Module, name: str, pictures: Sequence[type[ImageCurves]] = (ImageCurves,)
) -> tuple[ClassificationTask, dict[str, float]]:
    """Train for some seconds, then test what was best on the validation split."""
    L.seed_everything(0, verbose=False)  # the same first weights for all
    trained = task(MLPMixer("small", patch_size=8, blocks=2, dim=64), loss, lr=2e-3, optimizer_args={"fused": True})
    trainer = make_trainer(
        trained,
        max_epochs=16,
        output=work,
        name=name,
        pictures=pictures,
        trainer_args={"check_val_every_n_epoch": 8},
    )
    trainer.fit(trained, data)
    best = RunFolder(Path(trainer.default_root_dir)).best_checkpoint
    (metrics,) = trainer.test(trained, data, ckpt_path=best, verbose=False)
    return trained, metrics


baseline, plain = train(ClassificationTask, CrossEntropyLoss(), "plain")

# %% [markdown]
# The rows are what the digits are, the columns what they were taken for. The rare digits, at the bottom, are taken for
# frequent ones.

# %%
shown(work / "plain-001" / "confusion.png")

# %% [markdown]
# ## 3. A loss of your own
#
# A loss is any `nn.Module` that is called with the network's outputs and the targets, and returns one number. If it has
# a method `bind`, the task calls it with `data.info` before the training begins.
#
# The idea: a network that is unsure says the frequent digit, because that is right more often. So let each class have
# a head start of log(its training images) *in the loss*. The network then only has to learn what the picture adds, and
# its bare outputs, which are used for predicting, are fit for equally frequent classes
# ([Menon et al., 2021](https://arxiv.org/abs/2007.07314)). And let easy pictures count less, as the focal loss does
# ([Lin et al., 2017](https://arxiv.org/abs/1708.02002)). The library has either of the two; both together are six
# lines, and inherit all arguments of `FocalLoss`.


# %%
class RareFocalLoss(FocalLoss):
    def bind(self, info: DataInfo) -> None:
        super().bind(info)
        self.register_buffer("head_start", torch.tensor(info.class_counts).clamp(min=1).log(), persistent=False)

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        return super().forward(input + self.head_start, target, sample_weight)


# %% [markdown]
# Before it trains anything, it is checked. The gradient, against finite differences; and two cases of which the answer
# is known: without focus (`gamma=0`) it must be the library's `LogitAdjustedLoss`, and with equally frequent classes
# the head start is the same for all, so that `FocalLoss` must come out.

# %%
torch.manual_seed(0)
logits, labels = torch.randn(6, 10, dtype=torch.float64, requires_grad=True), torch.arange(6)


def bound(loss: nn.Module, info: DataInfo) -> nn.Module:
    loss.bind(info)
    return loss


own = bound(RareFocalLoss(gamma=1.0), info)
print("gradient       ", torch.autograd.gradcheck(lambda x: own(x, labels), logits))

unfocused, known = bound(RareFocalLoss(gamma=0.0), info), bound(LogitAdjustedLoss(), info)
print("gamma = 0      ", torch.allclose(unfocused(logits, labels), known(logits, labels)))

balanced = bound(RareFocalLoss(gamma=1.0), replace(info, class_counts=(40,) * 10))
print("equal classes  ", torch.allclose(balanced(logits, labels), FocalLoss(gamma=1.0)(logits, labels)))

# %% [markdown]
# Now it may train: the same network, the same first weights, the same batches.

# %%
focused, rare = train(ClassificationTask, RareFocalLoss(gamma=1.0), "rare")


# %%
def compare(**runs: dict[str, float]) -> None:
    """Recall of each class and its mean, in the test split."""
    print(f"{'test split':18} in training", *(f"{name:>12}" for name in runs))
    for name, count in zip(info.classes, info.class_counts, strict=True):
        print(f"recall of {name:8} {count:11}", *(f"{m[f'test/recall_class/{name}']:12.2f}" for m in runs.values()))
    for metric in ("balanced_accuracy", "f1"):
        print(f"{metric:30}", *(f"{m[f'test/{metric}']:12.3f}" for m in runs.values()))


compare(plain=plain, rare=rare)

# %% [markdown]
# Most sixes and sevens are found now, and some of the rarest. Others pay for it, here above all the ones: the head
# start moves the borders between classes, it brings no new pictures. (The test split has some 26 pictures of each
# digit, so one picture is .04.)

# %%
shown(work / "rare-001" / "confusion.png")

# %% [markdown]
# ## 4. A task of your own
#
# Sometimes the idea is no function of outputs and targets. This one is: *if a digit is moved a little, the answer
# should stay the same*, which holds without any label.
#
# A task is changed by overriding one hook. `step` gives a batch's outputs and the loss to minimise, in training and in
# evaluation; there are also `configure_loss`, `configure_metrics`, `predictions` and others, listed in the docstring of
# `dlrecipes.tasks.ImageTask`. The optimizer, metrics, pictures and checkpoints stay as they are. In ten lines:


# %%
class SteadyTask(ClassificationTask):
    def step(self, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        outputs, loss = super().step(batch)
        if self.training:
            x, y = torch.randint(-3, 4, (2,)).tolist()
            moved = self(F.pad(batch["images"], (x, -x, y, -y)))  # black comes in, the far edge goes out
            steady = F.kl_div(moved.log_softmax(1), outputs.log_softmax(1), log_target=True, reduction="batchmean")
            self.log("train/steady", steady.detach(), batch_size=len(outputs))
            loss = loss + 2 * steady
        return outputs, loss


# %%
steady, metrics = train(SteadyTask, RareFocalLoss(gamma=1.0), "steady", pictures=())
compare(plain=plain, rare=rare, steady=metrics)

# %% [markdown]
# Does it do what it was made for? That can be measured: how many of the answers stay the same when a test picture moves
# by three of its 32 pixels? Compare with `rare`, which has the same loss; `plain` has it easier, since it hardly ever
# names three of the ten digits.


# %%
@torch.no_grad()
def same_answers(task: ClassificationTask) -> float:
    task.eval()
    same = []
    for batch in data.test_dataloader():
        answers = task(batch["images"]).argmax(1)
        for x, y in ((3, 0), (-3, 0), (0, 3), (0, -3)):
            same.append(task(F.pad(batch["images"], (x, -x, y, -y))).argmax(1) == answers)
    return float(torch.cat(same).float().mean())


for name, task in (("plain", baseline), ("rare", focused), ("steady", steady)):
    print(f"{name:6} {same_answers(task):.3f}")

# %% [markdown]
# Each step has looked at twice as many pictures for that, which is the price. What it gains in so short a
# training is little, and single rare digits can go either way: six training pictures are few.
#
# The checkpoint needs nothing but the classes: it knows the network, the loss and their arguments, and how pictures are
# prepared. An argument of your own is in it, too, if you keep it under its name (`self.gamma = gamma`).

# %%
again = SteadyTask.load_from_checkpoint(work / "steady-001" / "checkpoints" / "best.ckpt").eval()
print(type(again.loss).__name__, "with gamma", again.loss.gamma)

pictures = next(iter(data.test_dataloader()))["images"]
with torch.no_grad():
    print("the same outputs:", torch.equal(again(pictures), steady(pictures)))

# %% [markdown]
# ## 5. The same from the command line
#
# Put the classes into a file beside you, here `my_project.py`, and every recipe takes them by their import path. (In a
# notebook, `In` holds the cells that ran; this copies those two, and the imports that they need.)

# %%
imports = """\
import torch
import torch.nn.functional as F
from torch import Tensor

from dlrecipes.contracts import DataInfo, ImageBatch
from dlrecipes.losses import FocalLoss
from dlrecipes.tasks import ClassificationTask
"""


def newest(name: str) -> str:
    """The class's cell, as it last ran."""
    return next(cell for cell in reversed(In) if cell.startswith(f"class {name}("))  # noqa: F821


source = f"{imports}\n\n{newest('RareFocalLoss')}\n\n\n{newest('SteadyTask')}\n"
Path("my_project.py").write_text(source)
print(source, end="")

# %% [markdown]
# `--model` takes the task, `--loss` the loss, and their arguments follow by name. The command checks the data, trains,
# tests and reports, and logs to Weights & Biases if you let it. Its one epoch only shows that it works; leave
# out `--epochs` for the recipe's own number.

# %% language="bash"
# python ../recipes/train_mlp_mixer.py --model my_project.SteadyTask \
#     --loss my_project.RareFocalLoss --model.loss.gamma 1.0 \
#     --model.model.blocks 2 --model.warmup_steps 0 --data.long_tailed true --epochs 1 --output own_parts --wandb off

# %% [markdown]
# ## 6. When it goes wrong
#
# A loss of one's own goes wrong sooner or later. You are told in one sentence what happened, where, and what to do.
#
# This one wants the true class to have a probability above 0.1 from the beginning, and takes the logarithm of a
# negative number. The run stops at the first such batch, and no spoilt checkpoint is written.


# %%
class DemandingLoss(nn.Module):
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        probability = input.softmax(1).gather(1, target[:, None])
        return -(probability - 0.1).log().mean()


def attempt(model: nn.Module, loss: nn.Module) -> None:
    task = ClassificationTask(model, loss)
    try:
        make_trainer(task, max_epochs=1, output=work, name="wrong").fit(task, data)
    except DLRecipesError as error:
        print(f"{type(error).__name__}: {error}")


attempt(MLPMixer("small", patch_size=8, blocks=1), DemandingLoss())

# %% [markdown]
# A loss that gives one number for each picture, and a network with a class too few:

# %%
attempt(MLPMixer("small", patch_size=8, blocks=1), nn.CrossEntropyLoss(reduction="none"))
attempt(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 9)), CrossEntropyLoss())

# %% [markdown]
# ## Where to go on
#
# - [`recipes/README.md`](../recipes/README.md): the other commands; several GPUs, resuming, presets, data of your own.
# - `dlrecipes.losses` and `dlrecipes.functional.losses`: the losses that are there, each with its formula and paper.
# - [`01_quickstart.ipynb`](01_quickstart.ipynb): the same for detection, from a folder of boxes to predictions.
# - In a shell: `dlrecipes predict own_parts/mixer-001 PICTURES` applies what was trained to pictures of yours, and
#   `dlrecipes export own_parts/mixer-001` writes the network for other programs, as ONNX or with `torch.export`.
