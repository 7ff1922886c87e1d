"""A second stage for a trained classifier: its last layer is made anew, and before and after are measured.

The maths is in `dlrecipes.imbalance.second_stage`; here features are read, τ is chosen, and results are compared.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torchmetrics import MetricCollection

from dlrecipes.contracts import DataInfo
from dlrecipes.errors import UserError
from dlrecipes.functional.prototypes import class_means
from dlrecipes.imbalance.decoupling import last_linear
from dlrecipes.imbalance.second_stage import (
    FeatureSource,
    adjust_logits,
    learn_scales,
    nearest_mean_layer,
    normalise_lengths,
    retrain,
)
from dlrecipes.tasks.class_metrics import BalancedLikelihood
from dlrecipes.tasks.classification import ClassificationTask
from dlrecipes.tasks.images import ImageTask
from dlrecipes.tasks.metrics import ClassScores, classification_metrics
from dlrecipes.tasks.stage_features import Features, StageFeatures

__all__ = ["Criterion", "Method", "SecondStage", "Trial", "check_second_stage", "second_stage"]

Method = Literal["crt", "lws", "tau", "ncm", "logit-adjust"]
Criterion = Literal["balanced_accuracy", "balanced_nll"]

_GRIDS = {"tau": [round(0.1 * i, 1) for i in range(11)], "logit-adjust": [round(0.1 * i, 1) for i in range(21)]}
_CRITERIA: dict[str, Criterion] = {"tau": "balanced_accuracy", "logit-adjust": "balanced_nll"}
_NEED_BIAS = ("ncm", "logit-adjust")
_WIDEST = math.log(1e4)  # temperatures of ncm that are tried, from the mean squared distance up and down


class Trial(NamedTuple):
    """A strength that was tried, and what it gave on the validation split."""

    tau: float
    balanced_accuracy: float
    balanced_nll: float


@dataclass(frozen=True)
class SecondStage:
    """What a second stage made, and what it changed.

    Attributes:
        method: as given.
        layer: to put in the place of the last one.
        settings: τ, temperature, epochs ...: as they were used.
        before, after: metrics by split (``val``, ``test``), as ``ClassificationTask`` names them.
        trials: the strengths that were tried, if any; the validation split alone has chosen among them.
    """

    method: Method
    layer: nn.Linear
    settings: Mapping[str, float]
    before: Mapping[str, Mapping[str, float]]
    after: Mapping[str, Mapping[str, float]]
    trials: tuple[Trial, ...] = field(default=())

    @torch.no_grad()
    def apply(self, task: ClassificationTask) -> ClassificationTask:
        """Put the layer's weights into the task's model, which can then be saved, tested and exported as before."""
        own = last_linear(task.model)[1]
        own.weight.copy_(self.layer.weight)
        if own.bias is not None and self.layer.bias is not None:
            own.bias.copy_(self.layer.bias)
        return task


def second_stage(
    task: ClassificationTask,
    features: StageFeatures,
    method: Method,
    *,
    epochs: int = 10,
    tau: float | None = None,
    choose_by: Criterion | None = None,
    seed: int = 0,
) -> SecondStage:
    """Make the last layer of a trained classifier anew, for classes that count the same; its body stays as it is.

    - ``crt``: trained anew on samples of which each class has equally many; ``lws``: only one factor a class is;
    - ``tau``: weights of one length: frequent classes have longer ones. ``logit-adjust``: minus the log frequencies;
    - ``ncm``: the nearest mean of the training features, Euclidean.

    Decoupling is Kang et al., 2020, arXiv:1910.09217; logit adjustment Menon et al., 2021, arXiv:2007.07314. When: a
    network that was trained on a long tail as it is. Not after a balancing sampler, loss or class weights: what they
    did would be done twice over (τ = 0 is among what is tried, and leaves such a network nearly alone).

    τ, and the temperature of ``ncm``, are chosen on the validation split; the test split chooses nothing.

    Args:
        task: trained, with one label an image.
        features: `read_features(task, datamodule)`; they can be used for several methods.
        method: as above.
        epochs: of ``crt`` and ``lws``.
        tau: of ``tau`` (0..1) and ``logit-adjust`` (>= 0); None: the best of 0, .1, .2 ... up to 1 or 2.
        choose_by: what is best; ``"balanced_nll"`` (default of ``logit-adjust``), or ``"balanced_accuracy"``, at the
            same accuracy the better likelihood (default of ``tau``). The smallest τ of equals is taken.
        seed: of ``crt`` and ``lws``.

    Returns:
        The layer and what it changes; ``.apply(task)`` puts it into the task.

    Raises:
        UserError: a task, last layer or data that the method is not for; an argument outside its range.

    Example:
        ::

            task = ClassificationTask.load_from_checkpoint("runs/efficientnet-001/checkpoints/best.ckpt")
            features = read_features(task, ClassificationData("photos"))
            for method in ("crt", "logit-adjust"):
                print(second_stage(task, features, method).after["test"]["balanced_accuracy"])
    """
    info, linear = check_second_stage(task, method, tau, choose_by)
    linear = copy.deepcopy(linear).cpu().float().requires_grad_(False)
    train, score = features.train, partial(_score, task, info, features.val)
    settings: dict[str, float] = {}
    trials: tuple[Trial, ...] = ()
    if method in ("crt", "lws"):
        source: FeatureSource = train.values if features.of_epoch is None else features.of_epoch
        learn = retrain if method == "crt" else learn_scales
        try:
            layer = learn(linear, source, train.labels, epochs=epochs, seed=seed)
        except ValueError as error:
            raise UserError(str(error)) from error
        settings = {"epochs": epochs, "seed": seed, "augmented": features.of_epoch is not None}
    elif method == "ncm":
        layer, settings["temperature"] = _nearest_mean(linear, train, score)
    else:
        counts = torch.bincount(train.labels, minlength=info.num_classes)

        def make(strength: float) -> nn.Linear:
            return normalise_lengths(linear, strength) if method == "tau" else adjust_logits(linear, counts, strength)

        trials = tuple(Trial(value, *score(make(value))) for value in _GRIDS[method]) if tau is None else ()
        settings["tau"] = _best(trials, choose_by or _CRITERIA[method]) if tau is None else tau
        layer = make(settings["tau"])
    splits = {"val": features.val} | ({} if features.test is None else {"test": features.test})
    before = {name: _measure(task, info, linear, split) for name, split in splits.items()}
    after = {name: _measure(task, info, layer, split) for name, split in splits.items()}
    return SecondStage(method, layer, settings, before, after, trials)


def check_second_stage(
    task: ImageTask, method: str, tau: float | None = None, choose_by: str | None = None
) -> tuple[DataInfo, nn.Linear]:
    """What the task knows of its data, and its last layer, if this second stage is possible.

    Raises:
        UserError: it is not; see `second_stage`.
    """
    info = getattr(task, "info", None)
    if info is None:
        raise UserError(f"{type(task).__name__} does not know its classes: take one that was trained")
    if info.task != "classification":
        raise UserError(f"a second stage is for classifiers of one label an image, and this is for {info.task}")
    if info.link != "softmax":
        raise UserError(
            f"a second stage makes logits for softmax, and {type(task.loss).__name__} was learning "
            f"{'a sigmoid for each class' if info.link == 'sigmoid' else 'another softmax, ' + info.link}: train with "
            f"dlrecipes.losses.CrossEntropyLoss"
        )
    name, linear = last_linear(task.model)
    if type(linear) is not nn.Linear:
        raise UserError(
            f"the last layer of {type(task.model).__name__} ({name}) is a {type(linear).__name__}, and a second stage "
            f"is for a plain nn.Linear: train without that layer"
        )
    if method not in get_args(Method):
        raise UserError(f"method is {method!r}: choose one of {', '.join(get_args(Method))}")
    if method in _NEED_BIAS and linear.bias is None:
        raise UserError(f"the last layer ({name}) has no bias, which {method} changes: choose crt, lws or tau")
    if choose_by not in (None, *get_args(Criterion)):
        raise UserError(f"choose_by is {choose_by!r}: choose one of {', '.join(get_args(Criterion))}")
    if (tau is not None or choose_by is not None) and method not in _GRIDS:
        raise UserError(f"{method} has no tau: leave out tau and choose_by, or choose {' or '.join(_GRIDS)}")
    if tau is not None and not (0 <= tau < math.inf and (method != "tau" or tau <= 1)):
        raise UserError(f"tau is {tau}: {'from 0 to 1' if method == 'tau' else '0 or more'} is needed")
    return info, linear


def _probabilities(task: ClassificationTask, layer: nn.Linear, features: Features) -> Tensor:
    with torch.inference_mode():
        return task.predictions(layer(features.values))


def _measure(task: ClassificationTask, info: DataInfo, layer: nn.Linear, features: Features) -> dict[str, float]:
    """The metrics that a run logs."""
    return _computed(classification_metrics(info.classes, info.class_counts), task, layer, features)


def _score(task: ClassificationTask, info: DataInfo, features: Features, layer: nn.Linear) -> tuple[float, float]:
    """Balanced accuracy and balanced likelihood."""
    metrics = MetricCollection(
        {"scores": ClassScores(info.classes), "balanced_nll": BalancedLikelihood(info.num_classes)},
        compute_groups=False,
    )
    found = _computed(metrics, task, layer, features)
    return found["balanced_accuracy"], found["balanced_nll"]


def _computed(
    metrics: MetricCollection, task: ClassificationTask, layer: nn.Linear, features: Features
) -> dict[str, float]:
    metrics.update(_probabilities(task, layer, features), features.labels)
    return {name: float(value) for name, value in metrics.compute().items()}


def _best(trials: Iterable[Trial], by: Criterion) -> float:
    if by == "balanced_nll":
        return min(trials, key=lambda trial: (trial.balanced_nll, trial.tau)).tau
    return min(trials, key=lambda trial: (-trial.balanced_accuracy, trial.balanced_nll, trial.tau)).tau


def _nearest_mean(
    linear: nn.Linear, train: Features, score: Callable[[nn.Linear], tuple[float, float]]
) -> tuple[nn.Linear, float]:
    """With the temperature that makes the validation labels most likely; it changes no answer."""
    means, _ = class_means(train.values, train.labels, linear.out_features)
    middle = math.log(max(float((train.values - means[train.labels]).square().sum(1).mean()), 1e-12))

    def cost(log_temperature: float) -> float:
        layer = nearest_mean_layer(linear, train.values, train.labels, temperature=math.exp(log_temperature))
        return score(layer)[1]

    found = minimize_scalar(cost, bounds=(middle - _WIDEST, middle + _WIDEST), method="bounded")
    temperature = math.exp(float(found.x))
    return nearest_mean_layer(linear, train.values, train.labels, temperature=temperature), temperature
