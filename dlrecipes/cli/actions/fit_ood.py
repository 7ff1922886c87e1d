"""``dlrecipes fit-ood RUN``: what images a classifier is used to, so that ``predict`` can say which are strange."""

from __future__ import annotations

from pathlib import Path

import torch

from dlrecipes.cli.actions.run_images import RunImages, open_run
from dlrecipes.errors import UserError
from dlrecipes.functional.words import counted
from dlrecipes.shift.features import penultimate
from dlrecipes.shift.ood import OOD_FILE, OODScorer

__all__ = ["fit_ood"]


def fit_ood(run: str | Path, *, data: str | None = None, method: str = "knn", k: int = 10, seed: int = 0) -> OODScorer:
    """Fit an ``OODScorer`` to the validation images and write it into the run folder, where ``predict`` finds it.

    Args:
        run: run folder, or a checkpoint in one.
        data: other data with the same classes, of which the validation split is used; None: the run's own.
        method, k, seed: as in ``OODScorer``.

    Raises:
        UserError: a run, data or value that cannot be used.
    """
    try:
        scorer = OODScorer(method, k=k, seed=seed)
    except ValueError as error:
        raise UserError(f"{error}.") from error
    opened = open_run(run, data)
    scorer.fit(*_seen(opened, "val"))
    file = opened.home / OOD_FILE
    scorer.save(file)
    count = len(scorer.reference)
    print(
        f"{method}: calibrated with {counted(count, 'validation image')}, so that ood_p is at least "
        f"{1 / (1 + count):.2g}"
    )
    if opened.data.test_split in opened.data.splits and opened.data.test_split != opened.data.val_split:
        features, logits, _ = _seen(opened, "test")
        share = (scorer.p_values(features, logits) <= 0.05).double().mean().item()
        print(f"of the {len(features)} test images {share:.1%} have an ood_p of at most 0.05; 5 % are expected")
    print(f"  {file}\nnext:\n  dlrecipes predict {opened.home} IMAGES")
    return scorer


@torch.no_grad()
def _seen(opened: RunImages, split: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, logits and labels of a split, on the device."""
    parts = []
    for batch in opened.batches(split):
        images = opened.preprocess(batch["images"].to(opened.device))
        parts.append((*penultimate(opened.task.model, images), batch["targets"].to(opened.device)))
    features, logits, labels = (torch.cat(column) for column in zip(*parts, strict=True))
    return features, logits, labels
