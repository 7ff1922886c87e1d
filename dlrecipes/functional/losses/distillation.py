"""A network's outputs as the targets of another."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from dlrecipes.functional.losses.longtail import post_hoc_logit_adjustment
from dlrecipes.functional.losses.reduce import check_same_shape, prepare_pair, reduce_loss, upcast

__all__ = ["distillation_loss", "head_to_tail_distillation_loss", "teacher_trust"]


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
    logits, target = prepare_pair(logits, target, ("logits", "target"))
    if logits.dim() < 2:
        raise ValueError(f"logits has shape {list(logits.shape)}: [batch, classes, ...] is needed")
    log_q = F.log_softmax(logits / temperature, dim=1)
    log_p = F.log_softmax(target / temperature, dim=1)
    divergence = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
    return reduce_loss(temperature**2 * divergence, reduction, sample_weight)


def head_to_tail_distillation_loss(
    logits: Tensor,
    target: Tensor,
    prior: Tensor | None = None,
    *,
    tau: float = 1.0,
    power: float = 1.0,
    trust: float = 0.0,
    labels: Tensor | None = None,
    temperature: float = 4.0,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Knowledge distillation from a teacher that saw some classes more often than others: what it believes is first
    corrected for the classes' frequencies π, flattened, and counted by how well it knows the sample.

    With the teacher's logits t, the student's s, and q = softmax(s / T):

    .. math:: p_c \propto \exp\big(γ\, (t_c - τ \log π_c) / T\big) \qquad
              \ell = \text{trust} \cdot T^2 \sum_c p_c \log \frac{p_c}{q_c}

    - τ turns the teacher's probabilities towards rare classes, as class weights on them do in balanced distillation
      (Zhang et al., 2021, arXiv:2104.10510); here before they are softened, where τ = 1 is Bayes' rule for equally
      frequent classes.
    - γ < 1 flattens the softened probabilities only of the teacher, :math:`p^γ` and normalised (DiVE: He et al., 2021,
      arXiv:2103.15042, who take .5).
    - ``trust`` is ``teacher_trust(...)``: a teacher teaches little where it is wrong, and nothing about classes that it
      has never seen.

    τ = 0, γ = 1 and trust 0 are ``distillation_loss``.

    Args:
        logits: float [B, C, ...], the student's; computed in float32 or wider.
        target: same shape, the teacher's logits. No gradient flows into them.
        prior: float or int [C], how often the *teacher* saw each class; only ratios matter. Not needed with τ = 0.
        tau: τ >= 0; 0 for a teacher that was trained for balanced classes already.
        power: γ > 0.
        trust: exponent >= 0; 0: all samples count the same.
        labels: for ``trust``: int64 [B, ...], −1 for a class that the teacher does not know, or float [B, C, ...],
            shares of the classes that it knows. They must be given where ``trust`` is above 0.
        temperature: T > 0.
        sample_weight, reduction: as in ``distillation_loss``; the trust is no weight, so the mean is over samples.

    Returns:
        A scalar, or with ``"none"`` [B, ...]; float32 for half precision.

    Raises:
        ValueError: shapes that do not fit, an argument outside its range, no ``prior`` or ``labels`` where needed.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.1972, 0.0]])  # p = .9, .1
        >>> head_to_tail_distillation_loss(student, teacher, torch.tensor([90, 10]), temperature=1.0).abs() < 1e-4
        tensor(True)
    """
    for name, value, above in (("tau", tau, False), ("power", power, True), ("trust", trust, False)):
        if value < 0 or (above and value == 0):
            raise ValueError(f"{name} is {value}: use a number {'above' if above else 'of at least'} 0")
    target = upcast(target.detach())
    if tau > 0:
        if prior is None:
            raise ValueError(f"tau is {tau} and prior is None: say how often the teacher saw each class")
        target = post_hoc_logit_adjustment(target, prior, tau=tau)
    loss = distillation_loss(logits, power * target, temperature=temperature, reduction="none")
    if trust > 0:
        if labels is None:
            raise ValueError(f"trust is {trust} and labels is None: whether the teacher is right needs the labels")
        loss = loss * teacher_trust(target, labels).to(loss.dtype).pow(trust)
    return reduce_loss(loss, reduction, sample_weight)


def teacher_trust(target: Tensor, labels: Tensor) -> Tensor:
    """Probability that a teacher gives to the label, in 0..1; 0 for a class that it does not know.

    Confidence in the right class as the weight of what a teacher says of a sample is that of Zhang et al., 2022,
    arXiv:2201.00007, for several teachers; no gradient flows into it.

    Args:
        target: float [B, C, ...], the teacher's logits.
        labels: int64 [B, ...], −1 for a class that the teacher does not know, or float [B, C, ...], shares of the
            classes that it knows.

    Returns:
        [B, ...].

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> import torch
        >>> teacher_trust(torch.zeros(3, 4), torch.tensor([0, 3, -1]))
        tensor([0.2500, 0.2500, 0.0000])
    """
    p = upcast(target.detach()).softmax(1)
    if labels.is_floating_point():
        check_same_shape(p, labels, ("target", "labels"))
        return (p * labels.to(p.dtype)).sum(1)
    if labels.shape != p[:, 0].shape:
        raise ValueError(f"labels has shape {list(labels.shape)}: {list(p[:, 0].shape)} is needed")
    found = p.gather(1, labels.clamp(min=0).unsqueeze(1)).squeeze(1)
    return found.masked_fill(labels < 0, 0.0)
