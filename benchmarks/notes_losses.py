"""Losses of classifiers and what comes before the network, in little; run by `notes.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
from note_runs import Arm, Experiment, digits, fit, make_classifier, small_network
from torch import nn

from dlrecipes.callbacks import LastValidation
from dlrecipes.losses import (
    AsymmetricLoss,
    BCELoss,
    BiTemperedLoss,
    CrossEntropyLoss,
    FocalLoss,
    GeneralizedCrossEntropyLoss,
    Poly1Loss,
    SymmetricCrossEntropyLoss,
)
from dlrecipes.models import MLPMixer
from dlrecipes.nn import init_weights

FEW, EPOCHS = 30, 30  # images of each class
WRONG, WRONG_EPOCHS = 0.4, 20
AUGMENT_EACH, AUGMENT_EPOCHS = 20, 30
SCALE_EPOCHS = 2
WARM_EPOCHS, WARM_STEPS = 8, 40
INTERVAL = 8

LossMaker = Callable[[], nn.Module]


def by_loss(make_loss: LossMaker) -> Arm:
    """Few digits, rightly labelled."""

    def run(seed: int) -> Mapping[str, float]:
        task = make_classifier(make_loss())
        metrics, _ = fit(digits(seed, each=FEW), small_network, task, seed=seed, epochs=EPOCHS)
        return {name: metrics[name] for name in ("accuracy", "nll", "ece")}

    return run


def by_wrong_labels(make_loss: LossMaker) -> Arm:
    """All digits, and many of their labels wrong."""

    def run(seed: int) -> Mapping[str, float]:
        task = make_classifier(make_loss())
        metrics, _ = fit(digits(seed, wrong=WRONG), small_network, task, seed=seed, epochs=WRONG_EPOCHS)
        return {"accuracy": metrics["accuracy"]}

    return run


def augmented(**data: Any) -> Arm:
    """Few digits, changed or mixed."""

    def run(seed: int) -> Mapping[str, float]:
        pictures = digits(seed, each=AUGMENT_EACH)
        metrics, _ = fit(pictures, small_network, seed=seed, epochs=AUGMENT_EPOCHS, data=data)
        return {"accuracy": metrics["accuracy"], "nll": metrics["nll"]}

    return run


def _plain() -> nn.Module:
    """Two convolutions as in `small_network`'s stages, no normalisation in between, He's variance."""
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 16, 10),
    )
    init_weights(network)
    return network


def scaled(make: Callable[[], nn.Module], std: float | None) -> Arm:
    """Pixels in 0..1 over ``std``; None: (x − mean) / std of the training images."""

    def run(seed: int) -> Mapping[str, float]:
        def network() -> nn.Module:
            made = make()
            if std is not None:
                made.normalisation = ([0.0] * 3, [std] * 3)  # type: ignore[assignment]  # goes before the data's
            return made

        metrics, _ = fit(digits(seed), network, seed=seed, epochs=SCALE_EPOCHS)
        return {"accuracy": metrics["accuracy"]}

    return run


def _mixer() -> nn.Module:
    return MLPMixer("small", image_size=8, patch_size=2, num_outputs=10, blocks=4, dim=64)


def warmed(warmup_steps: int) -> Arm:
    """A Mixer at two rates."""

    def run(seed: int) -> Mapping[str, float]:
        found = {}
        for lr in (1e-2, 3e-2):
            task = make_classifier(lr=lr, warmup_steps=warmup_steps)
            metrics, _ = fit(digits(seed), _mixer, task, seed=seed, epochs=WARM_EPOCHS)
            found[f"accuracy at {lr:g}"] = metrics["accuracy"]
        return found

    return run


class _LastSeen(L.Callback):
    """Keeps what the last validation saw: of later weights there is no validated checkpoint."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.metrics = {name: float(trainer.callback_metrics[f"val/{name}"]) for name in ("accuracy", "nll")}


def validated(*callbacks: Callable[[], L.Callback]) -> Arm:
    """An interval of validations that does not divide the epochs: what the last validation saw."""

    def run(seed: int) -> Mapping[str, float]:
        seen = _LastSeen()
        fit(
            digits(seed, each=FEW),
            small_network,
            seed=seed,
            epochs=EPOCHS,
            callbacks=[seen, *(make() for make in callbacks)],
            validate_every=INTERVAL,
        )
        return seen.metrics

    return run


EXPERIMENTS: dict[str, Experiment] = {
    "class_losses": Experiment(
        about=f"{FEW} digits a class, residual net, AdamW 1e-2, {EPOCHS} epochs, losses as they come; test digits",
        arms={
            "cross entropy": by_loss(CrossEntropyLoss),
            "label smoothing .1": by_loss(lambda: CrossEntropyLoss(label_smoothing=0.1)),
            "focal": by_loss(FocalLoss),
            "poly-1": by_loss(Poly1Loss),
            "BCE": by_loss(BCELoss),
            "ASL": by_loss(AsymmetricLoss),
        },
    ),
    "wrong_labels": Experiment(
        about=f"1,200 digits, {WRONG:.0%} of the labels wrong, residual net, AdamW 1e-2, {WRONG_EPOCHS} epochs, losses "
        "as they come; test digits with right labels, last epoch",
        arms={
            "cross entropy": by_wrong_labels(CrossEntropyLoss),
            "generalised (GCE)": by_wrong_labels(GeneralizedCrossEntropyLoss),
            "symmetric (SCE)": by_wrong_labels(SymmetricCrossEntropyLoss),
            "bi-tempered": by_wrong_labels(BiTemperedLoss),
        },
    ),
    "augmentation": Experiment(
        about=f"{AUGMENT_EACH} digits a class, residual net, AdamW 1e-2, {AUGMENT_EPOCHS} epochs; test digits",
        arms={
            "none": augmented(),
            "light": augmented(augment="light"),
            "strong": augmented(augment="strong"),
            "mixup": augmented(mix="mixup"),
            "CutMix": augmented(mix="cutmix"),
        },
    ),
    "data_normalisation": Experiment(
        about=f"1,200 digits, AdamW 1e-2, after {SCALE_EPOCHS} epochs; two convolutions, and the residual net with BN",
        arms={
            "0..255": scaled(_plain, 1 / 255),
            "0..1": scaled(_plain, 1.0),
            "(x - mean) / std": scaled(_plain, None),
            "BN, 0..255": scaled(small_network, 1 / 255),
            "BN, 0..1": scaled(small_network, 1.0),
            "BN, (x - mean) / std": scaled(small_network, None),
        },
    ),
    "warm_up": Experiment(
        about=f"1,200 digits, Mixer of 4 blocks, AdamW with a cosine at two rates, {WARM_EPOCHS} epochs; test digits",
        arms={"no warm-up": warmed(0), f"{WARM_STEPS} steps": warmed(WARM_STEPS)},
    ),
    "last_validation": Experiment(
        about=f"{FEW} digits a class, {EPOCHS} epochs with a cosine, a validation every {INTERVAL}; its last one",
        arms={f"every {INTERVAL}": validated(), "and LastValidation": validated(LastValidation)},
    ),
}
