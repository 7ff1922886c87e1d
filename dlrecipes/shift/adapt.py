"""A trained network on images of another kind, without labels: other statistics for its batch norms, and weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dlrecipes.errors import UserError
from dlrecipes.functional.links import Link, class_probabilities

__all__ = ["BATCH_NORMS", "Tent", "adapt_bn", "batch_norms", "mean_entropy"]

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""Layers that keep statistics of their inputs; timm's, which derive from them, among them."""

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
Model = TypeVar("Model", bound=nn.Module)


def batch_norms(model: nn.Module) -> dict[str, BatchNorm]:
    """The network's batch norms by name.

    Raises:
        UserError: there is none, so its statistics cannot be adapted.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, BATCH_NORMS)}
    if not found:
        raise UserError(
            f"{type(model).__name__} has no batch norm whose statistics could be adapted: train with importance "
            "weights instead, or label some of the new data"
        )
    return found


def mean_entropy(logits: Tensor, link: Link = "softmax") -> float:
    r"""Mean over samples of :math:`-\sum_c p_c \log p_c`, in nats: how unsure the network is, 0 to log C.

    Args:
        logits: [B, C].
        link: what they become p by: `dlrecipes.functional.links.class_probabilities`.

    Example:
        >>> round(mean_entropy(torch.zeros(3, 2)), 4)
        0.6931
    """
    return float(_entropy(class_probabilities(logits.float(), link)).mean())


@torch.no_grad()
def adapt_bn(model: Model, batches: Iterable[Any], *, source_samples: float = 0.0, passes: int = 1) -> Model:
    r"""A copy of a network whose batch norms have the statistics of new images (AdaBN; Li et al., 2016,
    arXiv:1603.04779), or a mix with those of training (Schneider et al., 2020, arXiv:2006.16971).

    .. math:: \bar μ = \frac{N}{N + n} μ_s + \frac{n}{N + n} μ_t, \qquad \bar σ^2 \text{ alike}

    For shifts of light, contrast, noise, camera: what moves all images of a channel alike. Not where classes occur with
    other frequencies: statistics of new classes are then taken for a change of light. It helped if ``mean_entropy`` of
    the new images fell.

    In the first pass each batch is normalised by itself, and sums over all batches give the statistics, so the first
    layer's are exact for any batch size. A further pass normalises by what the pass before found: after as many passes
    as there are layers in a row, all are those of one batch of all images.

    Args:
        model: a classifier or a task, trained; it is left as it is.
        batches: tensors or ``ImageBatch``es as the model takes them (a task: uint8), or tuples that begin with them;
            on the model's device. Hundreds of images that are well mixed.
        source_samples: N, how many images the statistics of training count as; 0: they are forgotten. Above 0 only
            for tens of images and a mild shift: of a strong one most of the gain is lost.
        passes: over ``batches``.

    Returns:
        The copy, in evaluation mode.

    Raises:
        UserError: a network without batch norms, or no images.
        ValueError: a negative ``source_samples``, or fewer than one pass.

    Example:
        >>> net = nn.Sequential(nn.BatchNorm1d(1))
        >>> adapted = adapt_bn(net, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [7.0]])])
        >>> adapted[0].running_mean, net[0].running_mean
        (tensor([4.]), tensor([0.]))
    """
    if source_samples < 0:
        raise ValueError(f"source_samples={source_samples}: not below 0")
    if passes < 1:
        raise ValueError(f"passes={passes}: at least one")
    if passes > 1 and isinstance(batches, Iterator):
        batches = list(batches)
    adapted = copy.deepcopy(model).eval()
    norms = {name: norm for name, norm in batch_norms(adapted).items() if norm.running_mean is not None}
    before = {
        name: (_known(norm.running_mean).clone(), _known(norm.running_var).clone()) for name, norm in norms.items()
    }
    for number in range(passes):
        moments = {name: _Moments() for name in norms}
        with _looking(norms, moments, by_batch=number == 0):
            count = 0
            for batch in batches:
                images = _images(batch)
                adapted(images)
                count += len(images)
        if not count:
            raise UserError("adapt_bn got no images: the data loader gave no batch")
        share = count / (count + source_samples)
        for name, norm in norms.items():
            if moments[name].count:  # a layer that is never called keeps what it has
                mean, variance = moments[name].result(unbiased=number == passes - 1)
                _known(norm.running_mean).copy_(before[name][0].double().lerp(mean, share))
                _known(norm.running_var).copy_(before[name][1].double().lerp(variance, share))
    return adapted


class _Moments:
    """Sums of a layer's inputs by channel, float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self.spread = torch.zeros(())  # sum of squared differences from the mean

    def add(self, values: Tensor) -> None:
        """Values [B, C, ...], by the pairwise update of Chan et al. (1983), which cancels no digits."""
        rows = values.detach().double().transpose(0, 1).flatten(1)
        count, mean = rows.shape[1], rows.mean(1)
        spread = (rows - mean[:, None]).square().sum(1)
        if not self.count:
            self.count, self.mean, self.spread = count, mean, spread
            return
        total, moved = self.count + count, mean - self.mean
        self.spread = self.spread + spread + moved.square() * (self.count * count / total)
        self.mean = self.mean + moved * (count / total)
        self.count = total

    def result(self, *, unbiased: bool) -> tuple[Tensor, Tensor]:
        """Mean and variance: unbiased as batch norm keeps it, or not as it normalises a batch."""
        return self.mean, self.spread / max(1, self.count - unbiased)


@contextmanager
def _looking(norms: dict[str, BatchNorm], moments: dict[str, _Moments], *, by_batch: bool) -> Iterator[None]:
    """Layers add their inputs to ``moments``, and normalise by the batch or by what they have; they learn nothing."""

    def look(name: str) -> Any:
        return lambda module, inputs: moments[name].add(inputs[0])

    kept = [(norm.running_mean, norm.running_var) for norm in norms.values()]
    handles = [norm.register_forward_pre_hook(look(name)) for name, norm in norms.items()]
    try:
        if by_batch:
            for norm in norms.values():  # then evaluation takes the batch; training would wait for other processes
                norm.running_mean = norm.running_var = None
        yield
    finally:
        for handle in handles:
            handle.remove()
        for norm, (mean, variance) in zip(norms.values(), kept, strict=True):
            norm.running_mean, norm.running_var = mean, variance


class Tent:
    """Test-time entropy minimisation (Wang et al., 2021, arXiv:2006.10726), with a guard that needs no labels.

    Each batch of new images is normalised by its own statistics and answered; then one step on the weights and biases
    of the batch norms makes the network surer of such images. Unguarded it can end with one class for everything.
    The guard:

    - Where the batch's statistics alone, with the weights of training, leave the network less sure than it was, the
      untouched network answers and nothing is learned. So it is with images of few classes, or with too few images:
      their statistics take classes for light. A shift under which the network is surer than it should be is left alone,
      too.
    - Where the weights have moved too far, or a batch's answers are spread over fewer classes than without them, they
      go back to those of training.

    Costs three passes and a gradient for each batch. Each process answers and learns by itself: ``SyncBatchNorm`` takes
    its own batch's statistics.

    Args:
        model: a trained classifier or task, called with images as it takes them, gives logits [B, C]. It is left as
            it is; ``adapted`` is a copy.
        lr: of Adam.
        steps: on each batch.
        max_distance: of the adapted weights from those of training, as a share of their length.
        min_diversity: entropy of the batch's mean prediction, as a share of what it is with the weights of training.
        guard: False: the paper's method, for comparison.
        link: what the logits become probabilities by: a task's ``info.link``, where its loss was no softmax.

    Attributes:
        adapted: the copy that learns.
        batches: seen so far.
        resets: how often the weights went back.
        declined: batches that the untouched network answered.

    Raises:
        UserError: a network without batch norms, or whose batch norms have no weights.
        ValueError: a value outside its range.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).eval()
        >>> tent = Tent(net)
        >>> tent(torch.randn(8, 2)).shape, tent.batches
        (torch.Size([8, 3]), 1)
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float = 1e-3,
        steps: int = 1,
        max_distance: float = 0.1,
        min_diversity: float = 0.9,
        guard: bool = True,
        link: Link = "softmax",
    ) -> None:
        if not lr > 0:
            raise ValueError(f"lr={lr}: above 0 is needed")
        if steps < 1:
            raise ValueError(f"steps={steps}: at least one a batch")
        if not max_distance > 0:
            raise ValueError(f"max_distance={max_distance}: above 0 is needed")
        if not 0 <= min_diversity <= 1:
            raise ValueError(f"min_diversity={min_diversity}: from 0 to 1 is needed")
        self.lr, self.steps, self.guard, self.link = lr, steps, guard, link
        self.max_distance, self.min_diversity = max_distance, min_diversity
        self.source = copy.deepcopy(model).eval()
        self._by_batch = copy.deepcopy(self.source).requires_grad_(False)
        for norm in batch_norms(self._by_batch).values():
            if isinstance(norm, nn.SyncBatchNorm):  # in training mode it would wait for other processes
                norm.running_mean = norm.running_var = None
            else:
                norm.training, norm.momentum = True, 0.0  # the running statistics stay those of training
        self.adapted = copy.deepcopy(self._by_batch)
        self._weights = [p for norm in batch_norms(self.adapted).values() for p in norm.parameters(recurse=False)]
        if not self._weights:
            raise UserError(f"the batch norms of {type(model).__name__} have no weights to learn: use adapt_bn")
        self._of_training = [p.detach().clone() for p in self._weights]
        for parameter in self._weights:
            parameter.requires_grad_(True)
        self._length = float(torch.cat([p.flatten() for p in self._of_training]).norm()) or 1.0
        self.batches = self.resets = self.declined = 0
        self._optimizer = self._new_optimizer()

    def __call__(self, images: Tensor) -> Tensor:
        """Answer a batch and learn from it.

        Args:
            images: a batch of at least two, the more the better; mixed classes.

        Returns:
            Logits [B, C], without gradient.
        """
        self.batches += 1
        if not self.guard:
            return self._step(images)
        with torch.no_grad():
            source: Tensor = self.source(images)
            by_batch: Tensor = self._by_batch(images)
        if not mean_entropy(by_batch, self.link) < mean_entropy(source, self.link):
            self.declined += 1
            return source
        answer = self._step(images)
        if self._too_far(answer, by_batch):
            self.reset()
            return by_batch
        return answer

    @property
    def distance(self) -> float:
        """Of the adapted weights from those of training, as a share of their length."""
        moved = [(p.detach() - old).flatten() for p, old in zip(self._weights, self._of_training, strict=True)]
        return float(torch.cat(moved).norm()) / self._length

    def reset(self) -> None:
        """Go back to the weights of training."""
        with torch.no_grad():
            for parameter, old in zip(self._weights, self._of_training, strict=True):
                parameter.copy_(old)
        self._optimizer = self._new_optimizer()
        self.resets += 1

    def _step(self, images: Tensor) -> Tensor:
        """Logits before the last step, as in the paper."""
        logits = torch.zeros(())
        for _ in range(self.steps):
            with torch.enable_grad():
                logits = self.adapted(images)
                loss = _entropy(class_probabilities(logits.float(), self.link)).mean()
                self._optimizer.zero_grad()
                loss.backward()
            self._optimizer.step()
        return logits.detach()

    def _too_far(self, answer: Tensor, by_batch: Tensor) -> bool:
        spread = (class_probabilities(logits.float(), self.link).mean(0) for logits in (answer, by_batch))
        now, before = (float(_entropy(probabilities)) for probabilities in spread)
        kept = now >= self.min_diversity * before  # NaN is not
        return not (kept and self.distance <= self.max_distance)

    def _new_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self._weights, lr=self.lr)


def _entropy(probabilities: Tensor) -> Tensor:
    terms: Tensor = torch.special.entr(probabilities)
    return terms.sum(-1)


def _known(statistics: Tensor | None) -> Tensor:
    if statistics is None:
        raise RuntimeError("a batch norm without running statistics")
    return statistics


def _images(batch: Any) -> Tensor:
    found = batch if isinstance(batch, Tensor) else batch["images"] if isinstance(batch, dict) else batch[0]
    if not isinstance(found, Tensor):
        raise UserError(
            f"a batch of type {type(batch).__name__} holds no tensor of images: give tensors or ImageBatches"
        )
    return found
