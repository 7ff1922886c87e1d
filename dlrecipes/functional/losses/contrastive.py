"""Supervised contrastive losses: embeddings of one class attract each other, those of others repel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dlrecipes.functional.losses.reduce import check_reduction, reduce_loss, upcast

__all__ = ["balanced_contrastive_loss", "contrastive_terms", "normalise", "supervised_contrastive_loss"]


def normalise(x: Tensor) -> Tensor:
    """Vectors of length 1 along the last axis; a vector of zeros stays, with a gradient of zeros instead of 1 / eps."""
    length = x.square().sum(-1, keepdim=True)
    present = length > 0
    return x * torch.where(present, torch.where(present, length, 1).rsqrt(), 0)


def _each_view(values: Tensor, views: int) -> Tensor:
    return values[:, None].expand(-1, views).flatten()


def _flat(embeddings: Tensor, targets: Tensor, sample_weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """[B, D] or [B, V, D] as normalised rows [B · V, D], with labels and weights of each row."""
    if embeddings.dim() not in (2, 3):
        raise ValueError(
            f"embeddings has shape {list(embeddings.shape)}: [batch, dim] or [batch, views, dim] is needed"
        )
    if targets.is_floating_point() or targets.shape != embeddings.shape[:1]:
        raise ValueError(
            f"targets has shape {list(targets.shape)} and dtype {targets.dtype}: int64 labels of shape "
            f"{list(embeddings.shape[:1])} are needed"
        )
    rows = embeddings.shape[:-1]
    if sample_weight is not None and sample_weight.shape not in (rows, rows[:1]):
        raise ValueError(f"sample_weight has shape {list(sample_weight.shape)}: give one a sample, {list(rows[:1])}")
    views = rows[1] if len(rows) == 2 else 1
    if sample_weight is not None:
        sample_weight = sample_weight.flatten() if sample_weight.shape == rows else _each_view(sample_weight, views)
    x = normalise(upcast(embeddings).flatten(0, -2))
    return x, _each_view(targets.long(), views), sample_weight


def supervised_contrastive_loss(
    embeddings: Tensor,
    targets: Tensor,
    *,
    temperature: float = 0.1,
    keys: Tensor | None = None,
    key_targets: Tensor | None = None,
    first_key: int | None = None,
    chunk: int | None = None,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Supervised contrastive loss (Khosla et al., 2020, arXiv:2004.11362, eq. 2: the sum outside the logarithm).

    With unit vectors z, the other keys A(i) of an anchor and those P(i) of its label among them:

    .. math:: \ell_i = -\frac{1}{|P(i)|} \sum_{p \in P(i)} \log
        \frac{\exp(z_i \cdot z_p / T)}{\sum_{a \in A(i)} \exp(z_i \cdot z_a / T)}

    An anchor without a positive costs 0 and counts nothing in the mean. With two views and a label of its own for each
    sample it is NT-Xent (SimCLR).

    Args:
        embeddings: float [B, D], or [B, V, D] with V views of each sample; normalised here, in float32 or wider, under
            autocast too.
        targets: int64 [B].
        temperature: T > 0.
        keys: float [K, D], what the anchors are compared with, such as all ranks' embeddings or a queue; None: the
            embeddings themselves.
        key_targets: int64 [K], with ``keys``.
        first_key: where in ``keys`` the first row of ``embeddings`` is, the others following: an anchor is not compared
            with itself. None: they are not among them. Only with ``keys``.
        chunk: anchors at a time: the gradient then takes memory for chunk × K instead of B · V × K similarities, and
            the forward computation is done twice. None: all at once.
        sample_weight: float [B] or [B, V], of the anchors.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        A scalar, or with ``"none"`` [B] or [B, V]; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit, T not above 0, an unknown reduction.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> supervised_contrastive_loss(x, torch.tensor([0, 0, 1]), temperature=1.0)  # log(1 + 1 / e)
        tensor(0.3133)
    """
    check_reduction(reduction)
    loss, mass, weight = contrastive_terms(
        embeddings,
        targets,
        temperature=temperature,
        keys=keys,
        key_targets=key_targets,
        first_key=first_key,
        chunk=chunk,
        sample_weight=sample_weight,
    )
    reduced = reduce_loss(loss, reduction, weight, mass=mass)
    return reduced.reshape(embeddings.shape[:-1]) if reduction == "none" else reduced


def contrastive_terms(
    embeddings: Tensor,
    targets: Tensor,
    *,
    temperature: float,
    keys: Tensor | None = None,
    key_targets: Tensor | None = None,
    first_key: int | None = None,
    chunk: int | None = None,
    sample_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Loss, mass (1 with a positive, else 0) and weight of each anchor of ``supervised_contrastive_loss``, [B · V]."""
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}: use a number above 0")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk is {chunk}: use 1 or more, or None")
    x, labels, weight = _flat(embeddings, targets, sample_weight)
    if keys is None:
        keys, key_labels, first_key = x, labels, 0
    elif key_targets is None or keys.dim() != 2 or keys.shape[1] != x.shape[1] or key_targets.shape != keys.shape[:1]:
        raise ValueError(f"keys has shape {list(keys.shape)}: [K, {x.shape[1]}] and int64 key_targets [K] are needed")
    else:
        keys, key_labels = normalise(keys.to(x.dtype)), key_targets.long()
    rows = torch.arange(len(x), device=x.device) + (len(keys) if first_key is None else first_key)
    if chunk is None:
        return *_anchor_terms(x, labels, rows, keys, key_labels, temperature), weight
    parts = [
        checkpoint(_anchor_terms, *part, keys, key_labels, temperature, use_reentrant=False, preserve_rng_state=False)
        for part in zip(*(torch.split(t, chunk) for t in (x, labels, rows)), strict=True)
    ]
    loss, mass = (torch.cat(terms) for terms in zip(*parts, strict=True))
    return loss, mass, weight


def _anchor_terms(
    x: Tensor, labels: Tensor, rows: Tensor, keys: Tensor, key_labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Loss and mass of anchors ``x`` [A, D]; ``rows``: each one's own place among the keys, to be left out."""
    with torch.autocast(x.device.type, enabled=False):  # half-precision similarities over T are off by tenths
        similarity = x @ keys.T / temperature
    own = rows[:, None] == torch.arange(len(keys), device=x.device)
    similarity = similarity.masked_fill(own, torch.finfo(x.dtype).min)
    positive = (labels[:, None] == key_labels) & ~own
    log_p = similarity - torch.logsumexp(similarity, 1, keepdim=True)
    count = positive.sum(1)
    loss = -torch.where(positive, log_p, 0).sum(1) / count.clamp(min=1)
    return loss, (count > 0).to(x.dtype)


def balanced_contrastive_loss(
    embeddings: Tensor,
    targets: Tensor,
    prototypes: Tensor,
    *,
    temperature: float = 0.1,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Balanced contrastive loss (Zhu et al., 2022, arXiv:2207.09052): in the denominator each class counts once,
    however often the batch shows it, and a prototype stands for each, so that none is absent.

    With unit vectors z and the rows and prototypes :math:`A_c(i)` of class c without the anchor itself, y its label:

    .. math:: \ell_i = -\frac{1}{|A_y(i)|} \sum_{p \in A_y(i)} \log \frac{\exp(z_i \cdot z_p / T)}
        {\sum_c \frac{1}{|A_c(i)|} \sum_{a \in A_c(i)} \exp(z_i \cdot z_a / T)}

    Args:
        embeddings: float [B, D], or [B, V, D] with V views of each sample; normalised here, in float32 or wider.
        targets: int64 [B].
        prototypes: float [C, D], one for each class; normalised here. The gradient flows into them, too.
        temperature: T > 0.
        sample_weight: float [B] or [B, V], of the anchors.
        reduction: ``"none"``, ``"mean"`` (over all anchors, weighted: see ``reduce_loss``) or ``"sum"``.

    Returns:
        A scalar, or with ``"none"`` [B] or [B, V]; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit, T not above 0, an unknown reduction.

    Example:
        >>> x, prototypes = torch.tensor([[1.0, 0.0]]), torch.eye(2)
        >>> balanced_contrastive_loss(x, torch.tensor([0]), prototypes, temperature=1.0)  # log(1 + 1 / e)
        tensor(0.3133)
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}: use a number above 0")
    x, labels, weight = _flat(embeddings, targets, sample_weight)
    if prototypes.dim() != 2 or prototypes.shape[1] != x.shape[1]:
        raise ValueError(f"prototypes has shape {list(prototypes.shape)}: [classes, {x.shape[1]}] is needed")
    classes = torch.arange(len(prototypes), device=x.device)
    keys = torch.cat((x, normalise(prototypes.to(x.dtype))))
    key_labels = torch.cat((labels, classes))
    with torch.autocast(x.device.type, enabled=False):
        similarity = x @ keys.T / temperature
    own = torch.arange(len(x), device=x.device)[:, None] == torch.arange(len(keys), device=x.device)
    same = labels[:, None] == key_labels
    members = (key_labels[:, None] == classes).sum(0)[key_labels] - same.to(torch.int64)  # the anchor does not count
    shares = similarity - members.clamp(min=1).to(x.dtype).log()
    log_sum = torch.logsumexp(shares.masked_fill(own, torch.finfo(x.dtype).min), 1, keepdim=True)
    positive = same & ~own
    loss = -torch.where(positive, similarity - log_sum, 0).sum(1) / positive.sum(1).clamp(min=1)
    reduced = reduce_loss(loss, reduction, weight)
    return reduced.reshape(embeddings.shape[:-1]) if reduction == "none" else reduced
