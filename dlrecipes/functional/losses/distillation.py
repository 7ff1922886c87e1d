"""A network's outputs as the targets of another."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from dlrecipes.functional.losses.reduce import check_same_shape, reduce_loss, upcast

__all__ = ["distillation_loss"]


def distillation_loss(
    logits: Tensor,
    target: Tensor,
    *,
    temperature: float = 4.0,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Knowledge distillation: the student's softened probabilities approach the teacher's (Hinton et al., 2015,
    arXiv:1503.02531).

    With :math:`p = \text{softmax}(\text{teacher} / T)` and :math:`q = \text{softmax}(\text{student} / T)`:

    .. math:: \ell = T^2 \sum_c p_c \log \frac{p_c}{q_c}

    T² keeps the gradient's size independent of T, so that the loss can be added to one of the labels.

    Args:
        logits: float [B, C, ...], the student's; computed in float32 or wider.
        target: same shape, the teacher's logits. No gradient flows into them.
        temperature: T > 0; 1 is the plain KL divergence.
        sample_weight: float [B] or [B, ...].
        reduction: ``"none"``, ``"mean"`` (over elements [B, ...], weighted: see ``reduce_loss``) or ``"sum"``.

    Returns:
        A scalar, or with ``"none"`` [B, ...]; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit, T not above 0, an unknown reduction.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
        >>> distillation_loss(student, teacher, temperature=1.0)
        tensor(0.3278)
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}: use a number above 0")
    check_same_shape(logits, target, ("logits", "target"))
    if logits.dim() < 2:
        raise ValueError(f"logits has shape {list(logits.shape)}: [batch, classes, ...] is needed")
    logits = upcast(logits)
    log_q = F.log_softmax(logits / temperature, dim=1)
    log_p = F.log_softmax(target.detach().to(logits.dtype) / temperature, dim=1)
    divergence = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
    return reduce_loss(temperature**2 * divergence, reduction, sample_weight)
