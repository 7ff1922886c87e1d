"""What of a sample is compared: the network's features and probabilities, and the image's properties."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from dlrecipes.errors import UserError
from dlrecipes.shift.properties import image_properties

__all__ = ["PCA", "FeatureTap", "ShiftFeatures", "collect", "penultimate", "softmax"]

_ROWS = 4096  # that become float64 at a time


def softmax(outputs: Tensor) -> Tensor:
    """Probabilities of classes of which an image has one: [B, C]."""
    return outputs.softmax(1)


@dataclass(frozen=True, kw_only=True)
class ShiftFeatures:
    """What is known of some images, a row each. What is None is not compared.

    Attributes:
        embedding: float [n, D], what the classifier sees.
        probabilities: float [n, C], softmax.
        properties: float [n, P], as ``image_properties`` gives them.
        labels: int64 [n], true classes; for the reference only, where they are known.
        index: int64 [n], positions in the data set; None: 0 ... n − 1.
    """

    embedding: Tensor | None = None
    probabilities: Tensor | None = None
    properties: Tensor | None = None
    labels: Tensor | None = None
    index: Tensor | None = None

    def __post_init__(self) -> None:
        rows = {name: len(tensor) for name, tensor in self._tensors().items()}
        if len(set(rows.values())) > 1:
            raise ValueError(f"ShiftFeatures needs a row of each kind for each image, got {rows}")

    def __len__(self) -> int:
        return next((len(tensor) for tensor in self._tensors().values()), 0)

    def _tensors(self) -> dict[str, Tensor]:
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def select(self, rows: Tensor) -> ShiftFeatures:
        """These rows: bool [n] or int64 [k]."""
        return ShiftFeatures(**{name: tensor[rows.to(tensor.device)] for name, tensor in self._tensors().items()})

    def to(self, device: torch.device | str) -> ShiftFeatures:
        """On that device."""
        return ShiftFeatures(**{name: tensor.to(device) for name, tensor in self._tensors().items()})

    @staticmethod
    def join(parts: Sequence[ShiftFeatures]) -> ShiftFeatures:
        """The rows of all parts; what not all of them have is left out.

        Example:
            >>> one = ShiftFeatures(embedding=torch.zeros(2, 3), labels=torch.tensor([0, 1]))
            >>> both = ShiftFeatures.join([one, ShiftFeatures(embedding=torch.ones(1, 3))])
            >>> len(both), both.labels
            (3, None)
        """
        common = [set(part._tensors()) for part in parts]
        names = set.intersection(*common) if common else set()
        return ShiftFeatures(**{name: torch.cat([part._tensors()[name] for part in parts]) for name in names})


class FeatureTap:
    """What goes into a network's last linear layer, taken while somebody else runs the network.

    Example:
        >>> model = nn.Sequential(nn.Identity(), nn.Linear(2, 3))
        >>> with FeatureTap(model) as tap:
        ...     _ = model(torch.tensor([[1.0, 2.0]]))
        >>> tap.take()
        tensor([[1., 2.]])

    Args:
        model: any network with an ``nn.Linear``, of which the one registered last counts.

    Raises:
        UserError: a network without one.
    """

    def __init__(self, model: nn.Module) -> None:
        layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
        if not layers:
            raise UserError(
                f"{type(model).__name__} has no linear layer whose input could be compared: give it methods "
                "features(images) and classify(features)"
            )
        self._seen: Tensor | None = None
        self._handle = layers[-1].register_forward_pre_hook(self._look)

    def _look(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._seen = inputs[0].detach()

    def take(self) -> Tensor:
        """float32 [B, D] of the last batch, averaged over further dimensions such as queries; only once a batch.

        Raises:
            UserError: the layer was not called.
        """
        seen, self._seen = self._seen, None
        if seen is None:
            raise UserError(
                "the network ran without calling its last linear layer, so there are no features to compare"
            )
        return seen.float().flatten(1, -2).mean(1) if seen.ndim > 2 else seen.float()

    def close(self) -> None:
        """Leave the network as it was."""
        self._handle.remove()

    def __enter__(self) -> FeatureTap:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def penultimate(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """A network's features and outputs of a batch, in one pass: float32 [B, D], float32 [B, ...].

    Asked of ``model.features`` and ``model.classify`` where it has both as methods; otherwise taken from the input of
    its last linear layer.

    Args:
        model: the network.
        images: as it wants them.

    Raises:
        UserError: a network with neither.
    """
    features, classify = getattr(model, "features", None), getattr(model, "classify", None)
    if callable(features) and callable(classify) and not isinstance(features, nn.Module):
        found: Tensor = features(images)
        outputs: Tensor = classify(found)
        return found.float(), outputs.float()
    with FeatureTap(model) as tap:
        outputs = model(images)
        return tap.take(), outputs.float()


@torch.no_grad()
def collect(
    batches: Iterable[Any],
    model: nn.Module | None = None,
    preprocess: Callable[[Tensor], Tensor] | None = None,
    *,
    to_probabilities: Callable[[Tensor], Tensor] = softmax,
    device: torch.device | str = "cpu",
) -> ShiftFeatures:
    """Features, probabilities and properties of all images, batch by batch on the device; they stay there.

    Args:
        batches: uint8 images [B, 3, H, W], or ``ImageBatch``es, whose labels and positions are kept, or tuples of
            images and labels.
        model: a classifier, put into evaluation mode for the time; None: properties alone.
        preprocess: from uint8 images on the device to what the model wants, such as ``task.normalise``; None: scaled to
            0..1.
        to_probabilities: from outputs [B, C] to probabilities, as ``task.predictions`` is: a loss on cosines or
            sigmoids means others than softmax.
        device: of model and images.

    Raises:
        UserError: no images, or a network that has no features.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
        >>> found = collect([torch.zeros(3, 3, 4, 4, dtype=torch.uint8)], model)
        >>> found.embedding.shape, found.probabilities.shape, found.properties.shape
        (torch.Size([3, 48]), torch.Size([3, 2]), torch.Size([3, 9]))
    """
    parts: list[ShiftFeatures] = []
    modes = [] if model is None else [(module, module.training) for module in model.modules()]
    if model is not None:
        model.eval()
    try:
        parts.extend(_measure(batch, model, preprocess, to_probabilities, torch.device(device)) for batch in batches)
    finally:
        for module, training in modes:  # each its own: frozen layers stay as they were
            module.training = training
    if not parts:
        raise UserError("there are no images to compare: the data loader gave no batch")
    return ShiftFeatures.join(parts)


def _measure(
    batch: Any,
    model: nn.Module | None,
    preprocess: Callable[[Tensor], Tensor] | None,
    to_probabilities: Callable[[Tensor], Tensor],
    device: torch.device,
) -> ShiftFeatures:
    if isinstance(batch, Tensor):
        batch = {"images": batch}
    elif isinstance(batch, list | tuple):  # as torch's own data sets give them
        batch = dict(zip(("images", "targets"), batch, strict=False))
    given: dict[str, Tensor] = dict(batch)
    images = given["images"].to(device)
    labels = given.get("targets")
    found: dict[str, Any] = {
        "properties": image_properties(images),
        "labels": labels.to(device) if labels is not None and not labels.is_floating_point() else None,
        "index": given["index"].to(device) if "index" in given else None,
    }
    if model is not None:
        scaled = images.float() / 255 if preprocess is None else preprocess(images)
        embedding, outputs = penultimate(model, scaled)
        found |= {"embedding": embedding, "probabilities": to_probabilities(outputs) if outputs.ndim == 2 else None}
    return ShiftFeatures(**found)


class PCA:
    """Principal components (Pearson, 1901) of rows on any device, in float64.

    Fit it on rows that are not compared, or on both samples together: components fitted on one of the two make that one
    look wider along them, which is an alarm without a shift.

    Args:
        mean: [D].
        components: [k, D], orthonormal, of the largest variance first.

    Example:
        >>> pca = PCA.fit(torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]]), 1)
        >>> pca(torch.tensor([[1.0, 2.0], [2.0, 4.0]])).abs().round(decimals=4).tolist()
        [[0.0], [2.2361]]
    """

    def __init__(self, mean: Tensor, components: Tensor) -> None:
        self.mean, self.components = mean, components

    @classmethod
    def fit(cls, rows: Tensor, components: int = 32) -> PCA:
        """Of [n, D]; as many components as asked for, or as there are at most: min(n − 1, D).

        Raises:
            ValueError: fewer than one component, or no two rows.
        """
        if components < 1 or rows.ndim != 2 or len(rows) < 2:
            raise ValueError(f"components={components} of rows {list(rows.shape)}: one of two rows are needed at least")
        count, width = rows.shape
        mean = torch.stack([piece.double().sum(0) for piece in torch.split(rows, _ROWS)]).sum(0) / count
        keep = min(components, count - 1, width)
        if width <= count:
            covariance = torch.zeros(width, width, dtype=torch.float64, device=rows.device)
            for piece in torch.split(rows, _ROWS):
                centred = piece.double() - mean
                covariance += centred.T @ centred
            return cls(mean, torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :keep].T.contiguous())
        return cls(mean, torch.linalg.svd(rows.double() - mean, full_matrices=False).Vh[:keep])

    def __call__(self, rows: Tensor) -> Tensor:
        """[n, D] → float64 [n, k]."""
        pieces = [(piece.double() - self.mean) @ self.components.T for piece in torch.split(rows, _ROWS)]
        return torch.cat(pieces)
