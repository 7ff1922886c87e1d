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
# # Depth, width, what a network sees, and how it starts
#
# Four questions about a network can be answered before it is trained, in seconds: what does it **cost**, what does a
# unit **see** of the picture, do its **starting weights** let a signal through, and, once the first steps are made, are
# its **units alive**? This notebook asks them all.
#
# What is said is checked: the lines that begin with `True` are computed, and the notebook stops at one that is false.
# It takes about twenty seconds on one CPU core.

# %%
import logging
import warnings
from dataclasses import asdict
from pathlib import Path

warnings.filterwarnings("ignore", message="IProgress not found")  # a progress bar that is not used here

import lightning as L
import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits, load_sample_image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18, resnet50

from dlrecipes.callbacks import ActivationMonitor
from dlrecipes.nn import (
    Conv1xN,
    StagedNet,
    StagePlan,
    compare_kernels,
    describe,
    effective_receptive_field,
    init_audit,
    init_weights,
    lsuv_,
    receptive_field,
)
from dlrecipes.runs.pictures.init_picture import draw_init_audit
from dlrecipes.runs.pictures.receptive_field_picture import draw_receptive_field

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message=".*treespec, LeafSpec")  # what Lightning 2.6 asks of a newer torch
torch.manual_seed(0)
torch.set_num_threads(1)
work = Path("init_and_field")  # all that this notebook writes
work.mkdir(exist_ok=True)
console = Console(width=110, force_jupyter=False, color_system=None)


def check(statement: str, holds: bool) -> None:
    print(f"{bool(holds)!s:6} {statement}")
    assert holds, statement


def shown(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB").quantize(256)  # fewer colours, a smaller file


# %% [markdown]
# ## 1. Depth and width
#
# *Depth is the ability to learn, width the information that is carried.* A `StagePlan` varies both, and `describe`
# says what each choice costs: nothing is computed for that, shapes go through a copy of the network without numbers.

# %%
base = StagePlan(depth=(2, 2, 2), width=(16, 32, 64), stride=(1, 2, 2), early_pool=False)
deeper = StagePlan(depth=(4, 4, 4), width=(16, 32, 64), stride=(1, 2, 2), early_pool=False)
wider = StagePlan(depth=(2, 2, 2), width=(32, 64, 128), stride=(1, 2, 2), early_pool=False)
pooled = StagePlan(depth=(2, 2, 2), width=(16, 32, 64), stride=(1, 2, 2), early_pool=True)
plans = {"base": base, "twice as deep": deeper, "twice as wide": wider, "early pooling": pooled}
facts = {name: describe(plan.build(num_classes=10), 64) for name, plan in plans.items()}

for name, fact in facts.items():
    costs = f"{fact.parameters:9,} parameters  {fact.flops / 1e6:7.1f} MFLOPs"
    print(f"{name:14} depth {fact.depth:2}  {costs}  field {fact.field.size[0]}")

# %%
one, deep, wide, pool = facts.values()
check("twice as wide costs four times the parameters", 3.8 < wide.parameters / one.parameters < 4)
check("twice as deep costs about twice", 2 < deep.parameters / one.parameters < 2.4)
check("width does not change what is seen", wide.field.size == one.field.size)
check("depth does", deep.field.size[0] > 2 * one.field.size[0] - 20)
check("pooling early spares nine tenths of the operations", pool.flops < one.flops / 10)
check("and the last map sees almost four times as far", pool.field.size[0] > 3.5 * one.field.size[0])

# %% [markdown]
# By stage, for the base:

# %%
console.print(one.table())

# %% [markdown]
# ## 2. The receptive field
#
# The pixels that one unit depends on. `receptive_field` follows every row and column through the network, whatever its
# branches: two that are well known come out as in the literature.

# %%
check("the last map of ResNet-18 sees 435 pixels", receptive_field(resnet18()).size == (435, 435))
check("that of ResNet-50 sees 427", receptive_field(resnet50()).size == (427, 427))

field = receptive_field(base.build(num_classes=10), 64)
print(field)

# %% [markdown]
# In theory. In fact the pixels in the middle count most, since most ways lead there, and the **effective** field is a
# good deal smaller ([Luo et al., 2016](https://arxiv.org/abs/1701.04128)). It is measured by gradients, here on crops
# of a photograph, for a network that has not been trained (in training it grows).

# %%
photo = torch.tensor(load_sample_image("china.jpg")).permute(2, 0, 1)
crops = torch.stack([photo[:, top : top + 192, left : left + 192] for top in (0, 200) for left in (0, 200, 400)])
pixels = (crops.float() / 255 - 0.45) / 0.25

net = StagedNet(**asdict(base) | {"zero_init": False}, num_outputs=10)  # else the branches would be 0 at first
field = receptive_field(net, 192)
effective = effective_receptive_field(net, pixels)
print(effective)

inner, outer = effective.widths(0.68)[0], effective.widths(0.95)[0]
check("two thirds of what counts lie within half of the field", inner < field.size[0] / 2)
check("nearly all lies within the field", outer < field.size[0])
draw_receptive_field(field, work / "field.png", effective=effective, title="Six blocks, two strides")
shown(work / "field.png")

# %% [markdown]
# And in the picture: the last unit sees the red frame and mostly uses the inner ones. Objects of 150 pixels are too
# large for it, and the advice says what would help.

# %%
draw_receptive_field(field, work / "photo.png", effective=effective, image=crops[4], title="What the middle unit sees")
shown(work / "photo.png")

# %%
for verdict in field.advice([30.0, 60.0, 150.0]):
    print(verdict)
check("objects larger than the field are told", "smaller than the objects" in field.advice([150.0])[0].title)
check("small ones are none", field.advice([10.0, 20.0])[0].level == "ok")

# %% [markdown]
# ## 3. 1 × N convolutions
#
# An N × N field costs N² weights a pair of channels; a row and a column behind one another cost 2N for the same field.

# %%
for cost in compare_kernels(64, 64, 7):
    print(f"{cost.name:12} {cost.layers} layers  {cost.weights:8,} weights  field {cost.field}")

square, pair = nn.Conv2d(64, 64, 7, padding=3, bias=False), Conv1xN(64, 64, 7)
count = {conv: sum(p.numel() for p in conv.parameters()) for conv in (square, pair)}
check("the pair has 2/7 of the weights", count[pair] * 7 == count[square] * 2)
check("and the same field", receptive_field(pair, 32).size == receptive_field(square, 32).size == (7, 7))

# %% [markdown]
# It is less than a square, though: with one channel the pair can only be a row times a column, a matrix of rank 1.

# %%
single = Conv1xN(1, 1, 7)
impulse = torch.zeros(1, 1, 13, 13)
impulse[0, 0, 6, 6] = 1
check("one channel's pair is a kernel of rank 1", torch.linalg.matrix_rank(single(impulse)[0, 0].detach()) == 1)

# %% [markdown]
# ## 4. How it starts
#
# Fifty layers without norms and shortcuts forgive nothing. A layer of n inputs multiplies the mean square of a signal
# by n · Var(w), and ReLU halves it: He's variance 2/n makes up for that exactly, Glorot's 1/n does not, so that 2⁻⁵⁰
# is left at the end. `init_audit` sends a batch forward and a gradient backward, and names the first layer where one of
# them explodes or dies. Pictures of handwritten digits are the batch.

# %%
x, y = load_digits(return_X_y=True)
digits = torch.tensor((x - x.mean()) / x.std(), dtype=torch.float32)
labels = torch.tensor(y)


def plain(activation: type[nn.Module]) -> nn.Sequential:
    layers = [layer for _ in range(49) for layer in (nn.Linear(64, 64), activation())]
    return nn.Sequential(*layers, nn.Linear(64, 10))


starts = {"He": ("he", "normal"), "Glorot": ("glorot", "normal"), "Glorot, uniform": ("glorot", "uniform")}
audits = {}
net = plain(nn.ReLU)
audits["torch's default"] = init_audit(net, digits[:256])
for name, (scheme, distribution) in starts.items():
    init_weights(net, scheme, distribution)
    audits[name] = init_audit(net, digits[:256])
lsuv_(net, digits[:256])
audits["LSUV"] = init_audit(net, digits[:256])
for name, audit in audits.items():
    print(f"{name:16} {audit.verdict.title:25} {audit.verdict.evidence}")

# %%
check("He's start is sound", audits["He"].first is None)
check("so is that of LSUV, which asks the batch", audits["LSUV"].first is None)
check("with Glorot's the signal dies", audits["Glorot"].verdict.title == "the signal dies")
died = {name: int(audit.first) for name, audit in audits.items() if audit.first is not None}
check("torch's default for linear layers is smaller still", died["torch's default"] < died["Glorot"])
draw_init_audit(audits, work / "relu.png")
shown(work / "relu.png")

# %% [markdown]
# *"Normal is better than Xavier"* is often said, and mixes two things: **He or Glorot** (Xavier is his first name) is
# the variance, **normal or uniform** the sampler. The lines of Glorot's two samplers nearly lie upon one another: the
# variance decides. `init_weights` chooses it by what follows each layer:

# %%
activations = (nn.ReLU(), nn.Tanh(), nn.SELU())
mixed = nn.Sequential(*[layer for act in activations for layer in (nn.Linear(64, 64), act)], nn.Linear(64, 10))
table = init_weights(mixed)
console.print(table.table())
check("each layer by what follows", [row.scheme for row in table.rows] == ["he", "glorot", "lecun", "lecun"])

uniform, normal = audits["Glorot, uniform"], audits["Glorot"]
ratio = uniform.rows[20].size / normal.rows[20].size
check("behind 20 layers the samplers differ by a factor below 3", 1 / 3 < ratio < 3)
check("and the schemes by one of about 1,000", 300 < audits["He"].rows[20].size / normal.rows[20].size < 3000)

# %% [markdown]
# Does it matter for learning? The same network, the same 120 steps:


# %%
def last_loss(scheme: str, steps: int = 120) -> float:
    generator = torch.Generator().manual_seed(0)
    net = plain(nn.ReLU)
    init_weights(net, scheme, generator=generator)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    losses = []
    for _ in range(steps):
        rows = torch.randint(0, len(labels), (128,), generator=generator)
        loss = F.cross_entropy(net(digits[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return sum(losses[-10:]) / 10


he, glorot = last_loss("he"), last_loss("glorot")
print(f"loss by He's start {he:.2f}, by Glorot's {glorot:.2f}, of guessing {torch.tensor(10.0).log():.2f}")
check("by Glorot's start it still guesses", abs(glorot - 2.303) < 0.02)
check("by He's it has begun to learn", he < 2.1)

# %% [markdown]
# `benchmarks/init_depth.py` measures that with a fair learning rate for each start, three seeds, and tanh beside ReLU.
# The rule *"Glorot for tanh"* turns out to be its milder half: with ReLU Glorot's start learns nothing, with tanh both
# learn, and He's does so faster there, since tanh bounds a signal that is too large.
#
# ## 5. Are its units alive?
#
# A ReLU that gives 0 for every picture gets no gradient, and never comes back. Too high a learning rate does that to
# most of a layer. `ActivationMonitor` counts on the device while a network trains, and speaks at the end of an epoch;
# in a recipe it is `--activations true`.


# %%
class Digits(L.LightningModule):
    def __init__(self, lr: float) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        init_weights(self, generator=torch.Generator().manual_seed(0))
        self.lr = lr

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.body(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


def train(lr: float) -> ActivationMonitor:
    L.seed_everything(0, verbose=False)
    monitor = ActivationMonitor(every_n_steps=2)
    unused = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=2, callbacks=[monitor], default_root_dir=work, **dict.fromkeys(unused, False)
    )
    trainer.fit(Digits(lr), DataLoader(TensorDataset(digits, labels), batch_size=64, shuffle=True))
    return monitor


healthy, ill = train(lr=0.05), train(lr=1.0)

# %%
for monitor in (healthy, ill):
    shares = ", ".join(f"{name} {found['dead']:.0%}" for name, found in monitor.layers.items())
    print(f"dead units: {shares}: {monitor.verdicts[0].level}")
check("at a sound learning rate it is silent", healthy.verdicts[0].level == "ok")
check("twenty times that kills most units, which it says", ill.verdicts[0].title == "dead units")

# %% [markdown]
# ## Where to go on
#
# - In a recipe: `--activations true`; `--model.model dlrecipes.nn.StagedNet --model.model.depth [1,1,1,1]`.
# - `init_weights(model, residual="zero_norm")` lets residual branches start as 0, `"fixup"` does without norms.
# - [`05_conv_forward_backward.ipynb`](05_conv_forward_backward.ipynb): how a convolution's gradient comes about.
