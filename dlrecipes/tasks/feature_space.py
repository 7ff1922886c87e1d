"""Between a network's features and its classifier, in training: parts that change them, losses that shape them."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from dlrecipes.contracts import DataInfo
from dlrecipes.errors import UserError
from dlrecipes.imbalance import last_linear

__all__ = [
    "FeatureBody",
    "check_split",
    "check_width",
    "classify",
    "features_of",
    "has_split",
    "loss_of_embeddings",
    "projection_head",
    "run_part",
]


def has_split(model: nn.Module) -> bool:
    """Whether a model shows features and classifier apart."""
    return all(callable(getattr(model, name, None)) for name in ("features", "classify"))


def _advice(model: nn.Module) -> str:
    return (
        f"give {type(model).__name__} two methods, features(images) → [B, D] and classify(features) → what the model "
        f"itself returns, as dlrecipes.models.CifarResNet has them"
    )


def features_of(model: nn.Module, images: Tensor) -> Tensor:
    """What the model's classifier sees: ``model.features(images)``, and for a model without that method the input of
    its last ``nn.Linear``.

    Args:
        model: a network.
        images: float [B, 3, S, S], normalised.

    Returns:
        float [B, D].

    Raises:
        UserError: a model that has neither.
    """
    if has_split(model):
        found: Tensor = model.features(images)  # type: ignore[operator]  # has_split has seen that it is callable
        return found
    seen: list[Tensor] = []
    _, linear = last_linear(model)
    handle = linear.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        model(images)
    finally:
        handle.remove()
    if len(seen) != 1:
        raise UserError(f"features cannot be found: {_advice(model)}")
    return seen[0]


def classify(model: nn.Module, features: Tensor) -> Tensor:
    """Features [B, D] → outputs [B, num_outputs], by ``model.classify`` or the last ``nn.Linear``."""
    layer: Any = model.classify if has_split(model) else last_linear(model)[1]
    out: Tensor = layer(features)
    return out


class FeatureBody(nn.Module):
    """``features_of`` a model as a module, which can be compiled. Weights are the model's own.

    Args:
        model: with ``features`` and ``classify``.

    Raises:
        UserError: a model without them: a hook cannot be compiled.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if not has_split(model):
            raise UserError(f"features cannot be compiled: {_advice(model)}")
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """float [B, 3, S, S], normalised → [B, D]."""
        return features_of(self.model, images)


@torch.no_grad()
def check_split(model: nn.Module, info: DataInfo) -> int:
    """D, once it is certain that features and classifier make up the model: both ways give one image the same outputs.

    Args:
        model: a network that has met its data; its modules' modes are left as they are.
        info: for the size of images.

    Raises:
        UserError: no features [B, D], or a classifier that is not the rest of the model.
    """
    modes = {module: module.training for module in model.modules()}
    like = next(model.parameters())
    shape = (1, 3, info.image_size, info.image_size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0), device="cpu")  # whatever the default is
    image = noise.to(device=like.device, dtype=like.dtype)
    model.eval()
    try:
        features, expected = features_of(model, image), model(image)
        flat = features.dim() == 2
        found = classify(model, features) if flat else features
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not flat or found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-2, atol=1e-4):
        raise UserError(
            f"the features of {type(model).__name__}, of shape {list(features.shape)} for one image, are not all that "
            f"its outputs follow from: {_advice(model)}"
        )
    return features.shape[1]


def check_width(argument: str, part: nn.Module | None, width: int) -> None:
    """Parts of ours are made for vectors of one length, ``dim``."""
    dim = getattr(part, "dim", None)
    if isinstance(dim, int) and dim != width:
        raise UserError(
            f"{type(part).__name__} has dim={dim} and is given vectors of length {width}: set --model.{argument}.dim "
            f"{width}"
        )


def projection_head(width: int, dim: int) -> nn.Sequential:
    """Two layers with a ReLU between them, as contrastive losses are trained through (Chen et al., 2020,
    arXiv:2002.05709): [B, width] → [B, dim]."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim))


def run_part(
    part: nn.Module, features: Tensor, targets: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """What a feature part makes of a batch.

    Args:
        part: called as ``part(features, targets)`` → features, or features and targets: those of the batch's samples in
            their order, and then any number of further ones.
        features: [B, D].
        targets: as the loss wants them.
        weights: float [B]; further samples count as much as those of the batch on average.

    Returns:
        Features, targets and weights, of one length.

    Raises:
        UserError: fewer samples than before, or not as many targets as features.
    """
    found = part(features, targets)
    more, their = found if isinstance(found, tuple) else (found, targets)
    number = len(more) - len(features)
    if number < 0 or len(more) != len(their):
        raise UserError(
            f"{type(part).__name__} gives {len(more)} features and {len(their)} targets for a batch of "
            f"{len(features)}: return the batch's own, in their order, and any others behind them"
        )
    if weights is not None and number:
        weights = torch.cat((weights, weights.mean().expand(number)))
    return more, their, weights


def loss_of_embeddings(
    loss: nn.Module,
    embeddings: Tensor,
    labels: Tensor,
    *,
    miner: nn.Module | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """A loss on embeddings and labels, in float32 under autocast too: a temperature of 0.1 multiplies what bfloat16
    leaves out by 10.

    Args:
        loss: called as ``loss(embeddings, labels)``, with a miner as ``loss(embeddings, labels, mined)``; with
            ``sample_weight=`` for batches that have weights, if it takes that.
        embeddings: [B, E].
        labels: as the task's loss wants its targets.
        miner: called as ``miner(embeddings, labels)``, without gradient.
        weights: float [B]; of no effect for a loss that takes none.

    Raises:
        UserError: a loss that is not one number.
    """
    kind = embeddings.device.type
    wide = embeddings.float() if torch.is_autocast_enabled(kind) else embeddings
    with torch.autocast(kind, enabled=False):
        args: list[Any] = [wide, labels]
        if miner is not None:
            with torch.no_grad():
                args.append(miner(wide, labels))
        weighted = weights is not None and "sample_weight" in inspect.signature(loss.forward).parameters
        found: Tensor = loss(*args, sample_weight=weights) if weighted else loss(*args)
    if not isinstance(found, Tensor) or found.dim():
        raise UserError(f"{type(loss).__name__}, the auxiliary loss, must give one number: set its reduction to 'mean'")
    return found
