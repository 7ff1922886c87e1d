"""How strange a single sample is, as a p-value: the share of ordinary samples that would look at least as strange."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from dlrecipes.checkpoint_io import save_safetensors
from dlrecipes.errors import UserError
from dlrecipes.functional.neighbours import nearest_neighbours

__all__ = ["OOD_FILE", "OOD_METHODS", "OODScorer", "conformal_p_values"]

OOD_METHODS = ("knn", "mahalanobis", "energy")

OOD_FILE = "ood.safetensors"
"""Name of a scorer's file in a run folder."""

_FORMAT = "dlrecipes ood 1"
_MOST_POINTS = 10_000  # of a kNN bank; more cost time in each prediction and change little
_LEAST = 20  # samples to calibrate with: p cannot go below 1 / 21 then


def conformal_p_values(scores: Tensor, reference: Tensor) -> Tensor:
    r"""Conformal p-values (Vovk et al., 2005; Bates et al., 2023, arXiv:2104.08279).

    .. math:: p = \frac{1 + \#\{i : r_i \ge s\}}{1 + n}

    If a sample is drawn like the n reference samples, p ≤ α happens with probability at most α, whatever the scores
    mean. That holds on average over references; with one of n samples the rate of false alarms at α is within about
    ±2 √(α (1 − α) / n) of α. NaN counts as stranger than everything.

    Args:
        scores: float [m], larger is stranger.
        reference: float [n], of ordinary samples that the scores were not fitted to.

    Returns:
        float64 [m], from 1 / (1 + n) to 1.

    Example:
        >>> conformal_p_values(torch.tensor([0.5, 2.0, 9.0]), torch.tensor([0.0, 1.0, 2.0, 3.0])).tolist()
        [0.8, 0.6, 0.2]
    """
    ordered = reference.double().sort().values
    above = len(ordered) - torch.searchsorted(ordered, scores.double().nan_to_num(nan=torch.inf).contiguous())
    return (1 + above).double() / (1 + len(ordered))


class OODScorer:
    r"""Out-of-distribution scores with p-values, from a network's features and logits on validation data.

    - ``"knn"``: distance to the k-th nearest of the fitted features, all of length 1 (Sun et al., 2022,
      arXiv:2204.06507). Assumes nothing about their shape.
    - ``"mahalanobis"``: :math:`\min_c (f - μ_c)^T Σ^{-1} (f - μ_c)`, one covariance for all classes, shrunk as
      Ledoit and Wolf (2004) do (Lee et al., 2018, arXiv:1807.03888). Needs labels.
    - ``"energy"``: :math:`-T \log \sum_c e^{z_c / T}` of the logits (Liu et al., 2020, arXiv:2010.03759). Needs no
      features, and judges by what the classifier uses alone.

    Fit it on validation data: a network's features of its training data are tighter than those of any other. What is
    fitted and what calibrates are different samples of it, so that the p-values are valid.

    Args:
        method: one of the above.
        k: neighbour of ``"knn"`` that counts; at most the number of fitted samples.
        temperature: T of ``"energy"``.
        calibration: share of the samples that calibrate; ``"energy"`` fits nothing and uses all.
        seed: which samples those are.

    Raises:
        ValueError: a value outside its range.

    Example:
        >>> features = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)) + 5
        >>> scorer = OODScorer("knn", k=5).fit(features)
        >>> bool(scorer.p_values(-features[:1]) < 0.01)
        True
    """

    def __init__(
        self,
        method: str = "knn",
        *,
        k: int = 10,
        temperature: float = 1.0,
        calibration: float = 0.5,
        seed: int = 0,
    ) -> None:
        if method not in OOD_METHODS:
            raise ValueError(f"method={method!r}: choose one of {', '.join(OOD_METHODS)}")
        if k < 1:
            raise ValueError(f"k={k}: at least 1")
        if not temperature > 0:
            raise ValueError(f"temperature={temperature}: above 0 is needed")
        if not 0 < calibration < 1:
            raise ValueError(f"calibration={calibration}: between 0 and 1 is needed")
        self.method, self.k, self.temperature = method, k, temperature
        self.calibration, self.seed = calibration, seed
        self._fitted: dict[str, Tensor] = {}

    @property
    def reference(self) -> Tensor:
        """float64 [n], the scores that calibrate, ascending."""
        if "reference" not in self._fitted:
            raise UserError("this OODScorer has not been fitted: call fit(features, logits, labels) first")
        return self._fitted["reference"]

    def fit(self, features: Tensor | None = None, logits: Tensor | None = None, labels: Tensor | None = None) -> Self:
        """Learn what is ordinary.

        Args:
            features: float [n, D], of validation data; for ``"knn"`` and ``"mahalanobis"``.
            logits: float [n, C], for ``"energy"``.
            labels: int64 [n], for ``"mahalanobis"``.

        Raises:
            UserError: what the method needs is missing, not finite, or of too few samples.
        """
        given = self._needed(features, logits)
        if not bool(torch.isfinite(given).all()):
            raise UserError(f"{self.method}: what is fitted must be finite, and row {_first_bad(given)} is not")
        order = torch.from_numpy(np.random.default_rng((self.seed, len(given))).permutation(len(given)))
        order = order.to(given.device)
        count = len(given) if self.method == "energy" else round(self.calibration * len(given))
        held_out, fitted = order[:count], order[count:]
        if count < _LEAST or (self.method != "energy" and len(fitted) < max(self.k, 2)):
            raise UserError(
                f"{self.method} has {count} samples to calibrate with and {len(fitted)} to fit: at least {_LEAST} and "
                f"{max(self.k, 2)} are needed"
            )
        if self.method == "knn":
            self._fitted = {"points": _unit_length(given[fitted[:_MOST_POINTS]])}
        elif self.method == "mahalanobis":
            self._fitted = _class_gaussians(given[fitted], self._labels(labels, len(given))[fitted])
        else:
            self._fitted = {}
        self._fitted["reference"] = self._score(given[held_out]).sort().values
        return self

    def scores(self, features: Tensor | None = None, logits: Tensor | None = None) -> Tensor:
        """float64 [m], larger is stranger; on the device of what is given.

        Raises:
            UserError: not fitted, or what the method needs is missing.
        """
        _ = self.reference
        return self._score(self._needed(features, logits))

    def p_values(self, features: Tensor | None = None, logits: Tensor | None = None) -> Tensor:
        """float64 [m], see ``conformal_p_values``.

        Raises:
            UserError: as ``scores``.
        """
        found = self.scores(features, logits)
        return conformal_p_values(found, self.reference.to(found.device))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write tensors, and arguments as JSON, into one safetensors file: nothing in it can run code.

        Raises:
            UserError: not fitted, or the file cannot be written.
        """
        _ = self.reference
        settings = {"method": self.method, "k": self.k, "temperature": self.temperature}
        settings |= {"calibration": self.calibration, "seed": self.seed}
        save_safetensors(self._fitted, path, {"format": _FORMAT, "settings": json.dumps(settings)})

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Self:
        """What ``save`` wrote.

        Raises:
            UserError: no such file, or not one of these.
        """
        from safetensors import SafetensorError, safe_open

        file = Path(path)
        if not file.is_file():
            raise UserError(f"{file} does not exist: dlrecipes fit-ood RUN makes one")
        try:
            with safe_open(file, framework="pt", device=str(device)) as content:
                metadata: Mapping[str, str] = content.metadata() or {}
                tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118  # no mapping
            settings: dict[str, Any] = json.loads(metadata["settings"]) if metadata.get("format") == _FORMAT else {}
        except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
            raise UserError(f"{file} is damaged ({error}): make it again with dlrecipes fit-ood RUN") from error
        if not settings or "reference" not in tensors:
            raise UserError(f"{file} holds no OODScorer: make one with dlrecipes fit-ood RUN")
        scorer = cls(**settings)
        scorer._fitted = tensors
        return scorer

    def _needed(self, features: Tensor | None, logits: Tensor | None) -> Tensor:
        name, given = ("logits", logits) if self.method == "energy" else ("features", features)
        if given is None or given.ndim != 2:
            found = "none" if given is None else str(list(given.shape))
            raise UserError(f"{self.method} needs {name} [n, D], got {found}")
        return given.detach()

    def _labels(self, labels: Tensor | None, count: int) -> Tensor:
        if labels is None or labels.shape != (count,) or labels.is_floating_point():
            raise UserError(f"{self.method} needs labels, one integer for each of {count} samples")
        return labels

    def _score(self, given: Tensor) -> Tensor:
        fitted = {name: tensor.to(given.device) for name, tensor in self._fitted.items()}
        if self.method == "energy":
            return -self.temperature * torch.logsumexp(given.double() / self.temperature, dim=1)
        if self.method == "knn":
            finite = torch.isfinite(given).all(1)
            rows = _unit_length(torch.where(finite[:, None], given, 1.0))
            distance = nearest_neighbours(rows, fitted["points"], self.k).distances[:, -1].sqrt()
            return torch.where(finite, distance, torch.inf)
        white = given.double() @ fitted["whiten"]
        return torch.cdist(white, fitted["means"] @ fitted["whiten"]).square().amin(1)


def _unit_length(features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(features.float(), dim=1)


def _class_gaussians(features: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Means of the classes that occur, float64 [K, D], and whiten [D, D] with whiten · whitenᵀ = Σ⁻¹."""
    from sklearn.covariance import ledoit_wolf

    classes: Tensor = torch.unique(labels)
    means = torch.stack([features[labels == c].double().mean(0) for c in classes])
    centred = features.double() - means[torch.searchsorted(classes, labels)]
    covariance = torch.from_numpy(ledoit_wolf(centred.cpu().numpy(), assume_centered=True)[0]).to(features.device)
    values, vectors = torch.linalg.eigh(covariance)
    floor = values.amax().clamp(min=torch.finfo(torch.float64).tiny) * 1e-12  # features that are always 0
    return {"means": means, "whiten": (vectors / values.clamp(min=floor).sqrt()).contiguous()}


def _first_bad(rows: Tensor) -> int:
    return int((~torch.isfinite(rows).all(1)).nonzero()[0])
