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
# # A long tail: from counts to a remedy to a table
#
# Most data sets have a few classes with many images and many classes with few. A network that is trained on them as
# they are learns that the rare classes are rare, and hardly ever names one. This notebook goes from the counts, by way
# of the remedies, to a table of what they do, on scans of handwritten digits that come with scikit-learn.
#
# It takes about half a minute on one CPU core. What is said is checked: the lines that begin with `True` are computed,
# not written. But every row of a table is **one run** of seconds: read the large differences, not the second digit.

# %%
import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path

warnings.filterwarnings("ignore", message="IProgress not found")  # a progress bar that is not used here

import lightning as L
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from dlrecipes.data import ClassificationData
from dlrecipes.errors import UserError
from dlrecipes.imbalance import SMOTE, ClassInfo, advise, check_no_leakage, double_balance
from dlrecipes.losses import CrossEntropyLoss, LogitAdjustedLoss
from dlrecipes.models import MLPMixer
from dlrecipes.tasks import ClassificationTask
from dlrecipes.tasks.second_stage import second_stage
from dlrecipes.tasks.stage_features import read_features
from dlrecipes.trainer import quiet_lightning

os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # for the shell cell,
os.environ.pop("FORCE_COLOR", None)  # whose output is no terminal, though Jupyter says so
quiet_lightning()
torch.set_num_threads(1)


def check(statement: str, holds: bool) -> None:
    print(f"{holds!s:6} {statement}")


# %% [markdown]
# ## 1. Counts
#
# With `long_tailed`, the training images of the digits fall from 126 to 6. Validation and test keep all digits equally
# often: it is the test that says whether rare classes count. For images of yours, give a folder or a table:
# `ClassificationData("photos")`.

# %%
data = ClassificationData(long_tailed=True, batch_size=32, num_workers=0)
info = data.info
counts = ClassInfo.from_data_info(info)
groups = counts.groups()  # more than 100 images: many; fewer than 20: few
colors = {"many": "tab:blue", "medium": "tab:gray", "few": "tab:red"}
color_of = {c: colors[name] for name, classes in groups.items() for c in classes}

figure, axes = plt.subplots(figsize=(8, 2.8), layout="constrained")
bars = axes.bar(info.classes, counts.counts, color=[color_of[c] for c in range(info.num_classes)])
axes.bar_label(bars)
axes.set(ylabel="training images", title=f"{counts.total} images, {counts.ratio:.0f} : 1")
axes.legend([plt.Rectangle((0, 0), 1, 1, color=color) for color in colors.values()], colors, title="group")
axes.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# ## 2. What to try, and why
#
# `advise` looks at nothing but the counts, and says on which measurements its rule rests.

# %%
for of in (counts, replace(counts, counts=(5000, 500, 50), total=5550), replace(counts, counts=(50, 40), total=90)):
    print(f"{max(of.counts)} : {min(of.counts)}\n  {advise(of).sentence}\n")

check("few images and a moderate ratio: class weights", advise(counts).name == "class_weights")

# %% [markdown]
# ## 3. Three remedies
#
# - **Class weights**: an image of a class with $n_c$ images counts $1/n_c$ in the loss, so that classes count the same.
# - **Logit adjustment** ([Menon et al., 2021](https://arxiv.org/abs/2007.07314)): $\log(n_c/n)$ is added to the logits
#   in training only. What follows from the frequencies alone need not be learned, and is absent in the test.
# - **A class sampler**: the classes are drawn equally often, so rare images repeat, augmented anew each time.

# %%
weights = counts.weights("inverse")
check(
    "with class weights each class counts the same",
    torch.allclose(weights * torch.tensor(counts.counts), weights[0] * counts.counts[0]),
)

balanced = ClassificationData(long_tailed=True, batch_size=32, num_workers=0, sampler="class")
balanced.reuse(data)
balanced.setup("fit")
drawn = sum(torch.bincount(batch["targets"], minlength=10) for batch in balanced.train_dataloader())
print("drawn in an epoch", drawn.tolist())
check("the sampler draws each class nearly as often as any other", int(drawn.max()) <= int(drawn.min()) + 3)

# %% [markdown]
# The same network, the same first weights, the same number of steps; the last epoch is tested. (The accuracies that
# `advise` quotes above are of the recipe's full runs of minutes, these here are of seconds: far lower, all of them.)


# %%
def train(loss: nn.Module, images: ClassificationData = data) -> tuple[ClassificationTask, dict[str, float]]:
    L.seed_everything(0, verbose=False)
    task = ClassificationTask(
        MLPMixer("small", patch_size=8, blocks=2, dim=64), loss, lr=3e-3, optimizer_args={"fused": True}
    )
    trainer = L.Trainer(
        max_epochs=10,
        logger=False,
        enable_checkpointing=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(task, images)
    (metrics,) = trainer.test(task, images, verbose=False)
    return task, {name.removeprefix("test/"): value for name, value in metrics.items()}


plain, of_plain = train(CrossEntropyLoss())
table = {
    "plain": of_plain,
    "class weights": train(CrossEntropyLoss(class_weights="inverse"))[1],
    "logit adjustment": train(LogitAdjustedLoss())[1],
    "class sampler": train(CrossEntropyLoss(), balanced)[1],
}

# %% [markdown]
# Accuracy of the three groups of classes, of all (the test is balanced), and the **balanced NLL**: the mean over
# classes of $-\log p$ of the true class. It changes with every image, where accuracy waits for the answer to change,
# and rare classes count as much as the others.

# %%
columns = {"accuracy_many": "many", "accuracy_medium": "medium", "accuracy_few": "few"}
columns |= {"accuracy": "all", "balanced_nll": "balanced NLL"}


def show(rows: dict[str, dict[str, float]]) -> None:
    print(f"{'test split':18}", *(f"{title:>13}" for title in columns.values()))
    for name, metrics in rows.items():
        print(f"{name:18}", *(f"{metrics[column]:13.2f}" for column in columns))


show(table)
remedies = [metrics for name, metrics in table.items() if name != "plain"]
few, nll = of_plain["accuracy_few"], of_plain["balanced_nll"]
check("plain training hardly finds the rare classes", few < of_plain["accuracy_many"] - 0.4)
check("each remedy finds more of them", min(metrics["accuracy_few"] for metrics in remedies) > few + 0.05)
check("each makes the test likelier", max(metrics["balanced_nll"] for metrics in remedies) < nll - 0.1)

# %%
figure, axes = plt.subplots(1, 2, figsize=(12, 3.4), layout="constrained", width_ratios=(3, 1))
place = np.arange(info.num_classes)
for i, (name, metrics) in enumerate(table.items()):
    recall = [metrics[f"recall_class/{c}"] for c in info.classes]
    axes[0].bar(place + 0.2 * i - 0.3, recall, 0.2, label=name, color=f"C{i}")
    axes[1].barh(-i, metrics["balanced_nll"], color=f"C{i}")
labels = [f"{name}\n{count}" for name, count in zip(info.classes, counts.counts, strict=True)]
axes[0].set(xticks=place, xticklabels=labels, ylabel="recall, test split", title="class and its training images")
axes[0].legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.18), frameon=False)
axes[1].set(yticks=[-i for i in range(len(table))], yticklabels=table, title="balanced NLL (less is better)")
for each in axes:
    each.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# ## 4. One command
#
# Every recipe for images has `--imbalance NAME`, which sets what the remedy needs, and `--imbalance auto`, which asks
# `advise`. (`--imbalance list` shows all, with when each helps, when it hurts, and what it must not be combined with.)
# The one epoch only shows that it works.

# %% language="bash"
# set -o pipefail
# python ../recipes/train_mlp_mixer.py --imbalance auto --data.long_tailed true --model.model.blocks 2 \
#     --model.warmup_steps 0 --epochs 1 --output long_tail --wandb off | grep -E "^Imbalance|last.ckpt"

# %% [markdown]
# ## 5. Synthetic samples: in feature space, not between pixels
#
# SMOTE ([Chawla et al., 2002](https://arxiv.org/abs/1106.1813)) makes new samples of a rare class: points on the line
# from one of its samples to a neighbour. Between two pictures that is a double exposure, and no digit that anybody
# would write. It is refused:

# %%
data.setup("fit")
batch = next(iter(data.train_dataloader()))
try:
    SMOTE().fit_resample(batch["images"], batch["targets"])
except UserError as error:
    print(error)

# %% [markdown]
# The input of a network's last layer is another matter: there, a class is a cloud, and what lies between two of its
# points mostly belongs to it. `read_features` gives these features of every split, each image once.

# %%
features = read_features(plain, data)
x, y = features.train.values, features.train.labels
smote = SMOTE(k_neighbors=4)
more, their = smote.fit_resample(x, y)
print(f"{len(x)} features of length {x.shape[1]} -> {len(more)}, {their.bincount().tolist()} of the classes")

made = more[len(x) :]
a, b = (x[smote.sources_[len(x) :, side]] for side in (0, 1))
detour = (made - a).norm(dim=1) + (b - made).norm(dim=1) - (b - a).norm(dim=1)
check("all classes have as many now", len(set(their.bincount().tolist())) == 1)
check("every new one lies on the segment between two of its class", bool(detour.abs().max() < 1e-2))


def few_found(samples: Tensor, labels: Tensor) -> float:
    """Share of the rare test images that a classifier on these samples finds."""
    model = LogisticRegression(max_iter=300).fit(samples.numpy(), labels.numpy())
    right = torch.from_numpy(model.predict(features.test.values.numpy())) == features.test.labels
    return float(right[torch.isin(features.test.labels, torch.tensor(groups["few"]))].float().mean())


alone, with_smote = few_found(x, y), few_found(more, their)
print(f"of the rare classes' test images, the network's own last layer finds {few:.2f},")
print(f"a linear classifier on these features {alone:.2f}, on them and the synthetic ones {with_smote:.2f}")
check("both find far more than the last layer of plain training does", min(alone, with_smote) > few + 0.2)

# %% [markdown]
# So the features are better than what the network makes of them. Most of the gain comes from fitting a classifier to
# them once more, and to the end, which is what section 6 does; the synthetic samples add less to it.

# %% [markdown]
# Left, halfway between the two pictures of the rarest class that differ most. Right, the features in the plane in which
# they are spread most widely, and in red the synthetic ones of that class.

# %%
rarest = int(np.argmin(counts.counts))
own = torch.cat([batch["images"][batch["targets"] == rarest] for batch in data.train_dataloader()]).float()
apart = torch.cdist(own.flatten(1), own.flatten(1))
one, other = divmod(int(apart.argmax()), len(own))
figure = plt.figure(figsize=(12, 3.6), layout="constrained")
grid = figure.add_gridspec(1, 4, width_ratios=(1, 1, 1, 2))
pictures = {"one": own[one], "halfway": (own[one] + own[other]) / 2, "another": own[other]}
for i, (title, picture) in enumerate(pictures.items()):
    axes = figure.add_subplot(grid[i])
    axes.imshow(picture.mean(0), cmap="gray", vmin=0)
    axes.set_title(title)
    axes.axis("off")
axes = figure.add_subplot(grid[3])
plane = PCA(2).fit(x.numpy())
axes.scatter(*plane.transform(x.numpy()).T, s=8, c=[f"C{int(label)}" for label in y], alpha=0.35)
axes.scatter(*plane.transform(made[their[len(x) :] == rarest].numpy()).T, s=10, c="red", marker="x", linewidths=0.7)
axes.scatter(*plane.transform(x[y == rarest].numpy()).T, s=60, facecolors="none", edgecolors="black")
axes.set(xticks=[], yticks=[], title=f"features; circles: the {int((y == rarest).sum())} of {info.classes[rarest]}")
plt.show()

# %% [markdown]
# Synthetic samples lie close to those they were made from: **split first**. What is made from a held-out sample, or is
# held out itself, is found by what each row was made from:

# %%
try:
    check_no_leakage(smote.sources_, torch.tensor([0, 1, 2, len(more) - 1]), len(x))
except UserError as error:
    print(error)

# %% [markdown]
# While a network trains, `--imbalance feature_smote` does this before its last layer.
#
# ## 6. A second stage for what is trained already
#
# The features of plain training are often good, and the last layer is what leans to the frequent classes
# ([Kang et al., 2020](https://arxiv.org/abs/1910.09217)). So only that is made anew, in a second:
#
# - `crt`: trained anew, classes drawn equally often,
# - `tau`: its weights brought to one length (those of frequent classes are longer),
# - `ncm`: no layer at all, but the nearest class mean (written as a linear layer),
# - `logit-adjust`: $\tau \log(n_c/n)$ taken off the logits.
#
# What has to be chosen (τ, a temperature) is chosen on the validation split. In a shell:
# `dlrecipes second-stage RUN --method crt`.

# %%
stages = {method: second_stage(plain, features, method) for method in ("crt", "tau", "ncm", "logit-adjust")}
show({"plain": of_plain} | {method: stage.after["test"] for method, stage in stages.items()})
print({method: dict(stage.settings) for method, stage in stages.items() if stage.trials})

after = {method: stage.after["test"] for method, stage in stages.items()}
check(
    "before is what the network's own test has said",
    abs(stages["crt"].before["test"]["accuracy"] - of_plain["accuracy"]) < 0.01,
)
check("crt finds more of the rare classes", after["crt"]["accuracy_few"] > few + 0.1)
check("the nearest mean does", after["ncm"]["accuracy_few"] > few + 0.1)
check("so does logit adjustment", after["logit-adjust"]["accuracy_few"] > few + 0.1)

# %% [markdown]
# ## 7. When a remedy hurts
#
# A remedy answers a question: *what if all classes were equally frequent?* Where that is not asked, it costs. Here
# logit adjustment is turned up, on the same features. Where classes are equally frequent, it helps up to a strength of
# about 1. On a **test as unbalanced as the training set** (each class weighs by its share) there is hardly anything to
# gain, since naming the frequent classes was right there. And turned up further, it hurts both.

# %%
strengths = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
turned = [second_stage(plain, features, "logit-adjust", tau=tau).after["test"] for tau in strengths]
share = counts.priors.float()
natural = [float(share @ torch.tensor([m[f"recall_class/{c}"] for c in info.classes])) for m in turned]

figure, axes = plt.subplots(figsize=(8, 3.4), layout="constrained")
for name, color in colors.items():
    axes.plot(strengths, [m[f"accuracy_{name}"] for m in turned], "o-", color=color, label=f"{name} images", alpha=0.6)
axes.plot(strengths, [m["accuracy"] for m in turned], "k-", linewidth=2.5, label="classes equally frequent")
axes.plot(strengths, natural, "k--", linewidth=2.5, label="as unbalanced as in training")
axes.set(xlabel="strength τ of logit adjustment", ylabel="accuracy, test split", ylim=(0, 1.03))
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
axes.spines[["top", "right"]].set_visible(False)
plt.show()

print("accuracy, equal   ", *(f"{m['accuracy']:.2f}" for m in turned))
print("accuracy, natural ", *(f"{value:.2f}" for value in natural))
check(
    "turned up, rare classes are found at the cost of frequent ones",
    turned[-1]["accuracy_many"] < turned[0]["accuracy_many"] - 0.1,
)
check("where the test is as unbalanced, too much of it hurts most", natural[-1] < natural[0] - 0.1)

# %% [markdown]
# τ of 2 is also what two remedies add up to that do the same work: weights **and** a sampler, say. That is warned of,
# here and in every recipe:

# %%
print(double_balance("class", CrossEntropyLoss(class_weights="inverse")))
check("one remedy is not warned of", double_balance("class", CrossEntropyLoss()) is None)

# %% [markdown]
# ## Where to go on
#
# - `--imbalance list`, or `dlrecipes.cli.options.remedies`: all remedies, each with when, and what not to combine.
# - A network that is trained on the tail as it is can teach one that balances: `dlrecipes.tasks.DistillationTask` with
#   `distill=HeadToTailDistillLoss()`.
# - [`02_your_own_loss_and_task.ipynb`](02_your_own_loss_and_task.ipynb): a loss of your own for such data.
# - `benchmarks/cifar10_lt.py`: the remedies on CIFAR-10-LT, several seeds each.
