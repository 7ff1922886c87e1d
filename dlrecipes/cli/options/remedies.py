"""The remedies that ``--imbalance`` knows: what each is, when to take it, when it hurts. Imports nothing heavy."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

from dlrecipes.cli.options.arguments import suggest
from dlrecipes.errors import UserError

__all__ = ["FEATURES", "KINDS", "REMEDIES", "Remedy", "remedy_named", "remedy_table"]

KINDS = {
    "classification": "one label an image",
    "multilabel": "several labels an image",
    "regression": "numbers to predict",
}
"""Kind of data (``DataInfo.task``) -> what it has."""

FEATURES = "{features}"
"""In a value: the length of the features that the model's last layer sees."""

_LOSS = "dlrecipes.losses."
_PART = "dlrecipes.imbalance."
_DRW = "dlrecipes.callbacks.DeferredReweighting"
_ONE, _SEVERAL, _NUMBERS = KINDS


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """A remedy as options of a recipe.

    Attributes:
        what: it is.
        when: to take it.
        hurts: where.
        without: what it must not be combined with.
        options: kind of data -> options and their values. The loss is the kind's plain one where none is named.
        callback: import path of one that it adds; "" for none.
    """

    what: str
    when: str
    hurts: str
    without: str
    options: Mapping[str, Mapping[str, str]]
    callback: str = ""


def _loss(name: str, **arguments: str) -> dict[str, str]:
    return {"--model.loss": _LOSS + name, **{f"--model.loss.{key}": value for key, value in arguments.items()}}


REMEDIES: Mapping[str, Remedy] = {
    "none": Remedy(
        what="the plain loss: cross entropy, a sigmoid for each label, smooth L1",
        when="classes are balanced, or the test is as unbalanced as the training set",
        hurts="where rare classes count as much as frequent ones",
        without="nothing",
        options={_ONE: {}, _SEVERAL: {}, _NUMBERS: {}},
    ),
    "class_weights": Remedy(
        what="cross entropy with weights of 1 / count; of several labels, positives against negatives",
        when="some classes have only a handful of images, at moderate ratios",
        hurts="steep ratios: single images of large weight make training noisy and spoil the features",
        without="a sampler that balances, or a loss that adjusts the logits",
        options={
            _ONE: _loss("CrossEntropyLoss", class_weights="inverse"),
            _SEVERAL: _loss("BCELoss", class_weights="inverse"),
        },
    ),
    "class_balanced": Remedy(
        what="cross entropy with weights by the effective number of images (Cui 2019, beta .9999)",
        when="counts of thousands, of which each further image teaches less",
        hurts="as class_weights, which it equals where classes have far fewer than 10,000 images",
        without="a sampler that balances, or a loss that adjusts the logits",
        options={_ONE: _loss("ClassBalancedLoss", class_weights="effective", effective_beta="0.9999")},
    ),
    "focal": Remedy(
        what="easy images fade from the loss (Lin 2017, gamma 2)",
        when="most images, or most negatives of several labels, are easy",
        hurts="wrong labels, which are hard; it lifts rare classes little by itself",
        without="label smoothing",
        options={_ONE: _loss("FocalLoss", label_smoothing="0"), _SEVERAL: _loss("SigmoidFocalLoss")},
    ),
    "balanced_softmax": Remedy(
        what="counts are added to the logits as logarithms in training (Ren 2020); logit_adjust with tau 1",
        when="as logit_adjust",
        hurts="as logit_adjust",
        without="weights or a sampler that balance",
        options={_ONE: _loss("BalancedSoftmaxLoss")},
    ),
    "logit_adjust": Remedy(
        what="what the frequencies explain is added to the logits in training (Menon 2021)",
        when="the first thing to try where a balanced test counts",
        hurts="a test that is as unbalanced as the training set",
        without="weights or a sampler that balance",
        options={_ONE: _loss("LogitAdjustedLoss")},
    ),
    "seesaw": Remedy(
        what="rare classes are pushed down less, and more where they were predicted wrongly (Wang 2021)",
        when="hundreds of classes over several orders of magnitude",
        hurts="few classes, where it does no better than logit_adjust; memory with mixed labels",
        without="a sampler that balances",
        options={_ONE: _loss("SeesawLoss")},
    ),
    "label_aware_smoothing": Remedy(
        what="labels of frequent classes are smoothed more (Zhong 2021)",
        when="probabilities must be calibrated; as a second stage on the classifier",
        hurts="alone it lifts rare classes little",
        without="label smoothing or mixup in the same stage",
        options={_ONE: {**_loss("LabelAwareSmoothingLoss"), "--data.mix": "none"}},
    ),
    "ldam_drw": Remedy(
        what="larger margins for rare classes on cosines, class weights from 80 % of the epochs on (Cao 2019)",
        when="clean labels, few classes, long runs",
        hurts="short runs, wrong labels",
        without="mixed labels, label smoothing, another classifier than head: cosine, a loss of your own",
        options={
            _ONE: {**_loss("LDAMLoss", label_smoothing="0"), "--model.model.head": "cosine", "--data.mix": "none"}
        },
        callback=_DRW,
    ),
    "drw": Remedy(
        what="effective-number class weights from 80 % of the epochs on (Cao 2019)",
        when="long runs with a schedule that ends low",
        hurts="short runs: the last fifth is too little to move anything",
        without="a sampler or a loss that balances from the start",
        options={_ONE: {}, _SEVERAL: {}},
        callback=_DRW,
    ),
    "mixup_drw": Remedy(
        what="mixup (alpha 1), and class weights from 80 % of the epochs on",
        when="long runs from random weights: the best of the simple ones as published, 82.1 % on CIFAR-10-LT",
        hurts="short runs, pretrained weights",
        without="feature_smote, contrastive, a sampler that balances",
        options={_ONE: {"--data.mix": "mixup", "--data.mix_alpha": "1.0", "--data.mix_prob": "1.0"}},
        callback=_DRW,
    ),
    "remix": Remedy(
        what="mixup whose label is the rare partner's where that shows enough (Chou 2020)",
        when="long runs from random weights",
        hurts="short runs; frequent classes lose more than with mixup",
        without="weights, samplers or losses that balance",
        options={_ONE: {"--data.mix": "remix", "--data.mix_prob": "1.0"}},
    ),
    "drs": Remedy(
        what="classes are drawn equally often from 80 % of the epochs on",
        when="as drw; gentler on the loss where single images would weigh much",
        hurts="classes of a handful of images, which are then learnt by heart",
        without="class weights or a loss that balances",
        options={_ONE: {"--data.sampler": "class", "--data.sampler_start": "0.8"}},
    ),
    "class_sampler": Remedy(
        what="classes are drawn equally often",
        when="moderate ratios and strong augmentation, so that copies differ",
        hurts="steep ratios: rare images are learnt by heart, frequent ones hardly seen",
        without="class weights or a loss that balances",
        options={_ONE: {"--data.sampler": "class"}},
    ),
    "sqrt_sampler": Remedy(
        what="classes are drawn by the roots of their counts",
        when="steep ratios, as a compromise",
        hurts="half of the imbalance stays",
        without="class weights or a loss that balances",
        options={_ONE: {"--data.sampler": "sqrt"}},
    ),
    "progressive_sampler": Remedy(
        what="from the data's frequencies to equal ones over the run (Kang 2020)",
        when="features from all images, borders from balanced ones, in one stage",
        hurts="as class_sampler, later",
        without="class weights or a loss that balances",
        options={_ONE: {"--data.sampler": "progressive"}},
    ),
    "feature_smote": Remedy(
        what="synthetic features of rare classes before the last layer, between neighbours",
        when="pretrained weights, or late in training, when features have settled",
        hurts="early in training from random weights",
        without="mixed labels, weights or a sampler that balance",
        options={
            _ONE: {
                "--model.feature_part": _PART + "FeatureSMOTE",
                "--model.feature_part.dim": FEATURES,
                "--data.mix": "none",
            }
        },
    ),
    "contrastive": Remedy(
        what="a balanced contrastive loss on a projection beside logit_adjust (Zhu 2022)",
        when="strong augmentation, large batches, long runs",
        hurts="small batches, in which rare classes find no partner",
        without="mixed labels",
        options={
            _ONE: {
                **_loss("LogitAdjustedLoss"),
                "--model.auxiliary_loss": _LOSS + "BalancedContrastiveLoss",
                "--model.auxiliary_loss.dim": "128",
                "--model.projection_dim": "128",
                "--data.mix": "none",
            }
        },
    ),
    "asymmetric": Remedy(
        what="easy negatives fade faster than positives (Ridnik 2021)",
        when="many labels, most of them absent from an image",
        hurts="scores are too high to be probabilities",
        without="class weights",
        options={_SEVERAL: _loss("AsymmetricLoss")},
    ),
    "distribution_balanced": Remedy(
        what="weights that allow for labels that come together, and tolerant negatives (Wu 2020)",
        when="many labels with a long tail",
        hurts="scores are no probabilities",
        without="class weights",
        options={_SEVERAL: _loss("DistributionBalancedLoss")},
    ),
    "repeat": Remedy(
        what="images with rare labels come more often, by the root of their rarity (Gupta 2019)",
        when="labels in fewer than a tenth of the images",
        hurts="a handful of images, which are then learnt by heart",
        without="class weights",
        options={_SEVERAL: {"--data.sampler": "repeat"}},
    ),
    "lds": Remedy(
        what="images weigh more where their targets lie thinly, smoothed over neighbours (Yang 2021)",
        when="rare values count as much as frequent ones",
        hurts="the plain error, a little, where targets are frequent",
        without="balanced_mse",
        options={_NUMBERS: {"--data.density_weights": "sqrt_inverse"}},
    ),
    "fds": Remedy(
        what="features take mean and spread from those of neighbouring target values (Yang 2021)",
        when="rare values whose neighbours are frequent; with one target",
        hurts="few images: the statistics are noise",
        without="several targets",
        options={
            _NUMBERS: {
                "--model.feature_part": _PART + "FeatureDistributionSmoothing",
                "--model.feature_part.dim": FEATURES,
            }
        },
    ),
    "balanced_mse": Remedy(
        what="the batch's other targets are the classes that a prediction is told from (Ren 2022)",
        when="rare values of one or two targets, batches of some dozens",
        hurts="small batches; short runs, in which its noise stays too large and rare values are overshot",
        without="lds",
        options={_NUMBERS: _loss("BalancedMSELoss")},
    ),
}  # fmt: skip
"""Name -> remedy."""


def remedy_named(name: str) -> Remedy:
    """The remedy of that name.

    Raises:
        UserError: there is none.

    Example:
        >>> remedy_named("logit_adjst")
        Traceback (most recent call last):
        ...
        dlrecipes.errors.UserError: --imbalance logit_adjst: there is no such remedy. Did you mean logit_adjust? \
See --imbalance list.
    """
    if name not in REMEDIES:
        known = [*REMEDIES, "auto", "list"]
        raise UserError(f"--imbalance {name}: there is no such remedy.{suggest(name, known)} See --imbalance list.")
    return REMEDIES[name]


def remedy_table() -> str:
    """All remedies, for ``--imbalance list``."""
    lines = [
        "--imbalance auto picks one from the counts and says why. What you set yourself goes before a remedy's.",
        "",
    ]
    for name, remedy in REMEDIES.items():
        lines.append(f"{name}  ({', '.join(remedy.options)})")
        rows = ("", remedy.what), ("when", remedy.when), ("hurts", remedy.hurts), ("not with", remedy.without)
        for head, text in rows:
            lines += textwrap.wrap(
                f"{head}: {text}" if head else text, 116, initial_indent="  ", subsequent_indent="    "
            )
    return "\n".join(lines) + "\n"
