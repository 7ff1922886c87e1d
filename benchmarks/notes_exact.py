"""Boxes that descend, an exact penalty, and metrics against scikit-learn, in little; run by `notes.py`."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from note_runs import Arm, Experiment
from numpy.typing import NDArray
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Lasso
from torch import Tensor, nn

from dlrecipes.functional.boxes import box_iou
from dlrecipes.losses import CIoULoss, DIoULoss, GIoULoss, IoULoss, L1Loss
from dlrecipes.optim import add_proximal_l1
from dlrecipes.tasks.metrics import RegressionScores, classification_metrics

BOX_STEPS, BOXES = 200, 2000
LASSO_STRENGTH, LASSO_RATE, LASSO_STEPS = 0.1, 0.05, 3000


def moved_boxes(loss: nn.Module) -> Arm:
    """DIoU's simulation (arXiv:1911.08287, section 3.2): boxes descend to targets of area 1."""

    def run(seed: int) -> Mapping[str, float]:
        rng = np.random.default_rng(seed)
        ratio = np.sqrt(np.array([1 / 4, 1 / 3, 1 / 2, 1, 2, 3, 4]))
        area = np.array([0.5, 0.67, 0.75, 1, 1.33, 1.5, 2])
        radius, angle = 3 * np.sqrt(rng.random(BOXES)), rng.uniform(0, 2 * math.pi, BOXES)
        shape, side = rng.choice(ratio, (2, BOXES)), np.sqrt(rng.choice(area, BOXES))
        start = [10 + radius * np.cos(angle), 10 + radius * np.sin(angle), side * shape[0], side / shape[0]]
        target = [np.full(BOXES, 10.0), np.full(BOXES, 10.0), shape[1], 1 / shape[1]]
        boxes, goal = (
            torch.from_numpy(np.stack(start, 1)).float().requires_grad_(),
            _corners(torch.from_numpy(np.stack(target, 1)).float()),
        )
        apart = box_iou(_corners(boxes.detach()), goal) == 0
        for step in range(BOX_STEPS):
            corners = _corners(boxes)
            values = loss(corners, goal)
            (gradient,) = torch.autograd.grad(values.sum(), boxes)
            rate = 0.1 if step < 0.8 * BOX_STEPS else 0.01 if step < 0.9 * BOX_STEPS else 0.001
            with torch.no_grad():
                boxes -= rate * (2 - box_iou(corners, goal))[:, None] * gradient
                boxes[:, 2:].clamp_(min=1e-3)
        end = box_iou(_corners(boxes.detach()), goal)
        return {"IoU": float(end.mean()), "IoU, met": float(end[~apart].mean()), "IoU, apart": float(end[apart].mean())}

    return run


def _corners(boxes: Tensor) -> Tensor:
    return torch.cat((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), 1)


def sparse(how: str) -> Arm:
    """Lasso of scikit-learn's diabetes data and forty columns of noise, by gradient descent."""

    def run(seed: int) -> Mapping[str, float]:
        x, y = load_diabetes(return_X_y=True)
        x = np.concatenate([x, np.random.default_rng(seed).normal(size=(len(x), 40))], 1)
        x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
        lasso = Lasso(LASSO_STRENGTH, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(x, y)
        inputs, targets = torch.from_numpy(x), torch.from_numpy(y)
        torch.manual_seed(seed)
        layer = nn.Linear(50, 1, bias=False, dtype=torch.float64)
        sgd = torch.optim.SGD(layer.parameters(), lr=LASSO_RATE)
        if how == "proximal":
            add_proximal_l1(sgd, LASSO_STRENGTH)
        for _ in range(LASSO_STEPS):
            value = (layer(inputs)[:, 0] - targets).square().mean() / 2
            if how == "term":
                value = value + LASSO_STRENGTH * layer.weight.abs().sum()
            sgd.zero_grad()
            value.backward()
            sgd.step()
        found = layer.weight.detach()[0].numpy()
        return {
            "zeros": float((found == 0).sum()),
            "zeros of scikit-learn": float((lasso.coef_ == 0).sum()),
            "largest distance": float(np.abs(found - lasso.coef_).max()),
        }

    return run


def _calibration(p: NDArray[np.float64], labels: NDArray[np.int64], bins: int = 15) -> float:
    """Calibration error by scikit-learn's curve, whose points are those of bins that are not empty, in order."""
    sure, right = p.max(1), p.argmax(1) == labels
    share, mean = calibration_curve(right, sure, n_bins=bins)
    count = np.bincount(np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], sure), minlength=bins)
    return float((np.abs(share - mean) * count[count > 0]).sum() / len(p))


def against_sklearn(classes: int, images: int) -> Arm:
    """Random probabilities, half right; in batches of 64."""

    def run(seed: int) -> Mapping[str, float]:
        rng = np.random.default_rng((seed, classes))
        labels = np.concatenate([np.arange(classes), rng.integers(0, classes, images - classes)])
        logits = rng.normal(size=(images, classes)) * 2
        logits[np.arange(images), labels] += 3
        p = torch.from_numpy(logits).softmax(1).float()
        ours = classification_metrics([str(c) for c in range(classes)])
        for batch in torch.arange(images).split(64):
            ours.update(p[batch], torch.from_numpy(labels)[batch])
        guess, exact, one_hot = p.argmax(1).numpy(), p.double().numpy(), np.eye(classes)[labels]
        exact /= exact.sum(1, keepdims=True)  # fp32 rows sum to 1 only almost, which log_loss warns of
        expected = {
            "accuracy": sk.accuracy_score(labels, guess),
            "balanced_accuracy": sk.balanced_accuracy_score(labels, guess),
            "f1": sk.f1_score(labels, guess, average="macro"),
            "auprc": sk.average_precision_score(one_hot, exact, average="macro"),
            "nll": sk.log_loss(labels, exact),
            "ece": _calibration(exact, labels),
        }
        found = ours.compute()
        away = {name: abs(float(found[name]) - float(value)) for name, value in expected.items()}
        return {"AUPRC": away.pop("auprc"), "ECE": away.pop("ece"), "others": max(away.values())}

    return run


def regression_against_sklearn(offset: float) -> Arm:
    """Three targets, in batches of 64."""

    def run(seed: int) -> Mapping[str, float]:
        rng = np.random.default_rng(seed)
        target = offset + rng.normal(size=(1000, 3)) * [1, 10, 100]
        value = target + rng.normal(size=(1000, 3)) * [0.5, 20, 10]
        y, x = (torch.from_numpy(array).float() for array in (target, value))
        ours = RegressionScores(("a", "b", "c"), y.mean(0), y.std(0))
        for batch in torch.arange(len(y)).split(64):
            ours.update(x[batch], y[batch])
        found, exact = ours.compute(), (y.double().numpy(), x.double().numpy())
        expected = {"mae": sk.mean_absolute_error(*exact), "r2": sk.r2_score(*exact)}
        return {"others": max(abs(float(found[name]) - float(number)) for name, number in expected.items())}

    return run


class _L1OfBoxes(L1Loss):
    """Summed over the four numbers of a box."""

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        return super().forward(input, target, sample_weight).sum(1)


EXPERIMENTS: dict[str, Experiment] = {
    "moved_boxes": Experiment(
        about=f"{BOXES:,} boxes moved {BOX_STEPS} steps by gradient descent as in the paper of DIoU; mean IoU with the "
        "target at the end: of all, of those that met it at first and of those that did not",
        arms={
            "L1": moved_boxes(_L1OfBoxes("none")),
            "IoU": moved_boxes(IoULoss("none")),
            "GIoU": moved_boxes(GIoULoss("none")),
            "DIoU": moved_boxes(DIoULoss("none")),
            "CIoU": moved_boxes(CIoULoss("none")),
        },
    ),
    "sparse": Experiment(
        about=f"diabetes, 10 columns and 40 of noise, SGD {LASSO_RATE:g}, {LASSO_STEPS:,} steps, strength "
        f"{LASSO_STRENGTH:g}; weights that are 0, and the largest distance from scikit-learn's lasso",
        arms={"least squares": sparse("none"), "L1 in the loss": sparse("term"), "proximal": sparse("proximal")},
    ),
    "metrics": Experiment(
        about="random predictions in batches of 64, fp32; largest differences from scikit-learn in fp64; others: "
        "accuracy, balanced accuracy, macro-F1, likelihood, or MAE, R2",
        arms={
            "3 classes, 200": against_sklearn(3, 200),
            "10 classes, 2,000": against_sklearn(10, 2000),
            "100 classes, 5,000": against_sklearn(100, 5000),
            "numbers around 0": regression_against_sklearn(0.0),
            "numbers around 2,000": regression_against_sklearn(2000.0),
        },
    ),
}
