"""From a classifier's logits to the probabilities of classes of which an image has one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dlrecipes.functional.losses.noisy import tempered_log_softmax

__all__ = ["Link", "class_probabilities", "tempered_link"]

#: what a loss was learning: one distribution over the classes (``"softmax"``), a yes or no to each of them
#: (``"sigmoid"``), or a heavy-tailed distribution over them (``"tempered:1.2"``, with its temperature)
Link = str

_TEMPERED = "tempered:"


def tempered_link(t: float) -> Link:
    """The link of a softmax of temperature ``t``; 1 is the ordinary one.

    A link is text, so that a checkpoint and an export can say what it was.

    Example:
        >>> tempered_link(1.2), tempered_link(1)
        ('tempered:1.2', 'softmax')
    """
    return "softmax" if t == 1 else f"{_TEMPERED}{float(t)}"


def class_probabilities(logits: Tensor, link: Link = "softmax") -> Tensor:
    r"""Probabilities of exclusive classes; each row sums to 1.

    .. math:: \text{softmax: } p_c = \frac{e^{z_c}}{\sum_j e^{z_j}} \qquad
        \text{sigmoid: } p_c = \frac{\sigma(z_c)}{\sum_j \sigma(z_j)} \qquad
        \text{tempered:}t\text{: } p_c = \exp_t(z_c - λ)

    A binary cross entropy for each class is least where :math:`\sigma(z_c)` is the class's probability. These sum to 1
    already, and dividing only takes out what training left over; softmax of the same logits would be too sure. The
    bi-tempered loss is least where the softmax of its own temperature t is
    (``dlrecipes.functional.losses.tempered_log_softmax``); the ordinary one has lighter tails, and is too sure as well.

    Args:
        logits: float [B, C].
        link: the one that they were trained with.

    Returns:
        [B, C], in the dtype of ``logits``; a tempered softmax is computed in float32 or wider.

    Raises:
        ValueError: an unknown link.

    Example:
        >>> logits = torch.tensor([[0.8, 0.2]]).logit()
        >>> class_probabilities(logits, "sigmoid"), class_probabilities(logits)
        (tensor([[0.8000, 0.2000]]), tensor([[0.9412, 0.0588]]))
        >>> class_probabilities(torch.tensor([[5.0, 0.0]]), "tempered:1.5")
        tensor([[0.9203, 0.0797]])
    """
    if link == "softmax":
        return logits.softmax(1)
    if link == "sigmoid":
        return F.logsigmoid(logits).softmax(1)  # the share of each sigmoid, also where all of them underflow
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return tempered_log_softmax(wide, _temperature(link)).exp().to(logits.dtype)


def _temperature(link: Link) -> float:
    try:
        found = float(link.removeprefix(_TEMPERED)) if link.startswith(_TEMPERED) else 0.0
    except ValueError:
        found = 0.0
    if not found >= 1:
        raise ValueError(f"link is {link!r}: use 'softmax', 'sigmoid' or 'tempered:T' with T of 1 or more")
    return found
