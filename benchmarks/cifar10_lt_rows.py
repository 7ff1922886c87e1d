"""The rows of the long-tail table: what each remedy changes in the protocol, by the library's own parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning.pytorch import Callback
from torch import nn

from dlrecipes.callbacks import DeferredReweighting
from dlrecipes.imbalance import FeatureSMOTE
from dlrecipes.losses import (
    BalancedContrastiveLoss,
    ClassBalancedLoss,
    CrossEntropyLoss,
    FocalLoss,
    HeadToTailDistillLoss,
    LabelAwareSmoothingLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    SeesawLoss,
    SupConLoss,
    VSLoss,
)
from dlrecipes.tasks.second_stage import Method

__all__ = ["EPOCHS", "PROTOCOL", "ROWS", "Row"]

EPOCHS = 200

# SGD with a warm-up of 5 epochs and drops to 1 % and to 0.01 % after 160 and 180 of 200, as LDAM's authors train; with
# fewer epochs at the same shares of the run.
PROTOCOL: Mapping[str, Any] = {
    "optimizer": "sgd",
    "optimizer_args": {"momentum": 0.9, "nesterov": False},
    "lr": 0.1,
    "weight_decay": 2e-4,
    "decay_all": True,
    "schedule": "piecewise",
    "schedule_args": {
        "starts": [0, 1 / 200, 2 / 200, 3 / 200, 4 / 200, 160 / 200, 180 / 200],
        "factors": [0.2, 0.4, 0.6, 0.8, 1.0, 0.01, 0.0001],
    },
}
DEFERRED = 160 / 200  # share of the run after which weights or sampling balance the classes
BETA = 0.9999  # of the effective numbers


def drw() -> list[Callback]:
    """Class weights by effective numbers for the last fifth of the epochs."""
    return [DeferredReweighting(DEFERRED, "effective", BETA)]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One remedy.

    Attributes:
        title: in the table.
        loss: makes it; told about the data by the task.
        data: arguments of ``ClassificationData``.
        task: arguments of the task beside `PROTOCOL`'s, or instead of them.
        parts: makes further parts of the task, by argument.
        callbacks: makes the run's.
        head: of the network.
        augment: ``"light"``, which is the protocol's, or ``"strong"``.
        ema: decay of an average of the weights.
        longer: times the protocol's epochs.
        base: row whose network of the same seed this one begins with, or learns from.
        stage: method of the second stage that the base's last layer goes through; nothing else is trained then.
        distilled: learns from a teacher, or is only one, so that it is no peer of the others.
        only_head: trains on, and is measured on, this many of the most frequent classes alone.
    """

    title: str
    loss: Callable[[], nn.Module] = CrossEntropyLoss
    data: Mapping[str, Any] = field(default_factory=dict)
    task: Mapping[str, Any] = field(default_factory=dict)
    parts: Callable[[], Mapping[str, Any]] = dict
    callbacks: Callable[[], list[Callback]] = list
    head: Literal["linear", "cosine"] = "linear"
    augment: str = "light"
    ema: float | None = None
    longer: int = 1
    base: str | None = None
    stage: Method | None = None
    distilled: bool = False
    only_head: int | None = None


MIXUP = {"mix": "mixup", "mix_alpha": 1.0}  # α of the papers on CIFAR
PROJECTION = 128  # numbers of an embedding

WEIGHTS = {
    "ce_inverse": Row(title="weights: inverse", loss=lambda: CrossEntropyLoss(class_weights="inverse")),
    "ce_sqrt": Row(title="weights: 1/√n", loss=lambda: CrossEntropyLoss(class_weights="sqrt_inverse")),
    "ce_effective": Row(
        title="weights: effective number",
        loss=lambda: CrossEntropyLoss(class_weights="effective", effective_beta=BETA),
    ),
    "class_balanced": Row(
        title="class-balanced focal", loss=lambda: ClassBalancedLoss(FocalLoss(1.0), effective_beta=BETA)
    ),
    "ce_drw": Row(title="CE, deferred re-weighting (DRW)", callbacks=drw),
}
SAMPLING = {
    "sample_class": Row(title="sampling: classes alike", data={"sampler": "class"}),
    "sample_sqrt": Row(title="sampling: √n", data={"sampler": "sqrt"}),
    "sample_effective": Row(title="sampling: effective number", data={"sampler": "effective"}),
    "sample_progressive": Row(title="sampling: progressive", data={"sampler": "progressive"}),
    "ce_drs": Row(title="CE, deferred re-sampling (DRS)", data={"sampler": "class", "sampler_start": DEFERRED}),
}
LOSSES = {
    "focal": Row(title="focal, γ 1", loss=lambda: FocalLoss(1.0)),
    "ldam": Row(title="LDAM", loss=LDAMLoss, head="cosine"),
    "ldam_drw": Row(title="LDAM-DRW", loss=LDAMLoss, head="cosine", callbacks=drw),
    "logit_adjustment": Row(title="logit adjustment = balanced softmax", loss=LogitAdjustedLoss),
    "vector_scaling": Row(title="vector scaling", loss=VSLoss),
    "seesaw": Row(title="seesaw", loss=SeesawLoss),
    "label_aware": Row(title="label-aware smoothing", loss=LabelAwareSmoothingLoss),
}
SAMPLES = {
    "mixup": Row(title="mixup", data=MIXUP),
    "cutmix": Row(title="CutMix", data={"mix": "cutmix"}),
    "remix": Row(title="Remix", data={"mix": "remix"}),
    "mixup_drw": Row(title="mixup-DRW", data=MIXUP, callbacks=drw),
    "feature_smote": Row(title="FeatureSMOTE", parts=lambda: {"feature_part": FeatureSMOTE(64)}),
    "strong": Row(title="strong augmentation", augment="strong"),
}
CONTRAST = {
    "supcon": Row(
        title="CE and SupCon branch",
        task={"projection_dim": PROJECTION, "auxiliary_weight": 0.3},
        parts=lambda: {"auxiliary_loss": SupConLoss()},
    ),
    "supcon_m_per_class": Row(  # batches of 8 classes with 16 images each
        title="CE and SupCon branch, M images a class",
        data={"sampler": "m_per_class", "samples_per_class": 16},
        task={"projection_dim": PROJECTION, "auxiliary_weight": 0.3},
        parts=lambda: {"auxiliary_loss": SupConLoss()},
    ),
    "balanced_contrastive": Row(  # weighed as its authors do on CIFAR, .6 to 2
        title="logit adjustment, balanced contrast",
        loss=LogitAdjustedLoss,
        task={"projection_dim": PROJECTION, "auxiliary_weight": 0.3},
        parts=lambda: {"auxiliary_loss": BalancedContrastiveLoss(PROJECTION)},
    ),
}
# The test set must not choose: τ is what theory says, 1, and no temperature is fitted to it.
STAGES = {
    "post_hoc": Row(title="CE, then logit adjustment", base="ce", stage="logit-adjust"),
    "tau_norm": Row(title="CE, then τ-normalisation", base="ce", stage="tau"),
    "ncm": Row(title="CE, then nearest class mean", base="ce", stage="ncm"),
    "crt": Row(title="CE, then cRT", base="ce", stage="crt"),
    "lws": Row(title="CE, then LWS", base="ce", stage="lws"),
    "mixup_crt": Row(title="mixup, then cRT", base="mixup", stage="crt"),
}
LONG: Mapping[str, Any] = {"augment": "strong", "ema": 0.999, "longer": 2}
LONG_TASK: Mapping[str, Any] = {
    "optimizer_args": {"momentum": 0.9, "nesterov": True},
    "weight_decay": 5e-4,
    "schedule": "cosine",
    "schedule_args": None,
    "warmup_steps": 500,
}
LONG_ROWS = {
    "long": Row(
        title="long: strong, logit adjustment, mixup, EMA",
        loss=LogitAdjustedLoss,
        data={"mix": "mixup", "mix_alpha": 0.2},
        task=LONG_TASK,
        **LONG,
    ),
    "long_drw": Row(
        title="long: strong, mixup, DRW, EMA",
        data={"mix": "mixup", "mix_alpha": 0.2},
        task=LONG_TASK,
        callbacks=drw,
        **LONG,
    ),
    "long_contrastive": Row(
        title="long: strong, logit adjustment, contrast, EMA",
        loss=LogitAdjustedLoss,
        task={**LONG_TASK, "projection_dim": PROJECTION, "auxiliary_weight": 0.3},
        parts=lambda: {"auxiliary_loss": BalancedContrastiveLoss(PROJECTION)},
        **LONG,
    ),
}
TEACHERS = {
    "head": Row(title="a teacher: CE on, and measured on, 5 frequent classes", only_head=5, distilled=True),
    "taught_by_head": Row(
        title="logit adjustment, taught by the head's teacher",
        loss=LogitAdjustedLoss,
        parts=lambda: {"distill": HeadToTailDistillLoss(trust=1.0)},
        base="head",
        distilled=True,
    ),
    "ema_teacher": Row(  # the average's weight rises over 5 of 200 epochs: it knows nothing at first
        title="logit adjustment, taught by its own average",
        loss=LogitAdjustedLoss,
        task={"teacher": "ema", "rampup_steps": 480},
        distilled=True,
    ),
    "kd": Row(title="CE, taught by CE (KD)", base="ce", distilled=True),
    "head_to_tail": Row(
        title="logit adjustment, taught by corrected CE",
        loss=LogitAdjustedLoss,
        parts=lambda: {"distill": HeadToTailDistillLoss()},
        base="ce",
        distilled=True,
    ),
    "dive": Row(
        title="DiVE of logit adjustment",
        loss=LogitAdjustedLoss,
        parts=lambda: {"distill": HeadToTailDistillLoss(tau=0.0, power=0.5)},
        base="logit_adjustment",
        distilled=True,
    ),
    "long_distilled": Row(
        title="long, taught by its like",
        loss=LogitAdjustedLoss,
        data={"mix": "mixup", "mix_alpha": 0.2},
        task=LONG_TASK,
        parts=lambda: {"distill": HeadToTailDistillLoss(tau=0.0)},
        base="long",
        distilled=True,
        **LONG,
    ),
}

ROWS: dict[str, Row] = {
    "ce": Row(title="cross entropy"),
    **WEIGHTS,
    **SAMPLING,
    **LOSSES,
    **SAMPLES,
    **CONTRAST,
    **STAGES,
    **LONG_ROWS,
    **TEACHERS,
}
