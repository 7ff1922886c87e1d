"""The craft of training in little; run by `notes.py`."""

from __future__ import annotations

from collections.abc import Mapping

import lightning as L
from note_runs import Arm, Experiment, digits, fit, small_network

from dlrecipes.callbacks import StagedRecipe

FEW = 30  # images of each class
STAGED_EPOCHS = 60


def staged(*, stages: str) -> Arm:
    """All at once, or learning first."""

    def run(seed: int) -> Mapping[str, float]:
        callbacks: list[L.Callback] = []
        if stages:
            callbacks.append(StagedRecipe.default(batch_norm=stages == "batch norm, too"))
        metrics, _ = fit(
            digits(seed, each=FEW),
            small_network,
            seed=seed,
            epochs=STAGED_EPOCHS,
            data={"augment": "light", "mix": "mixup"},
            callbacks=callbacks,
        )
        return {"accuracy": metrics["accuracy"], "nll": metrics["nll"]}

    return run


EXPERIMENTS: dict[str, Experiment] = {
    "staged": Experiment(
        about=f"{FEW} digits a class, light augmentation and mixup, {STAGED_EPOCHS} epochs; test digits, last epoch",
        arms={
            "all at once": staged(stages=""),
            "augmentation later": staged(stages="augmentation"),
            "and batch norm later": staged(stages="batch norm, too"),
        },
    ),
}
