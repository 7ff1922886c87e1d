"""A teacher's outputs as targets: identities, gradients, and what a teacher is trusted with."""

from functools import partial

import pytest
import torch
from torch import Tensor

from dlrecipes.functional.losses import distillation_loss, head_to_tail_distillation_loss, teacher_trust

CLASSES = 5
COUNTS = torch.tensor([500, 120, 60, 9, 1])


@pytest.fixture
def student() -> Tensor:
    return 3 * torch.randn(12, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def teacher() -> Tensor:
    return 2 * torch.randn(12, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_gradient_is_t_times_the_difference_of_softened_probabilities(
    student: Tensor, teacher: Tensor, temperature: float
) -> None:
    """T² from the factor, 1/T from the chain rule: the size hardly depends on T (Hinton et al., section 2)."""
    student.requires_grad_()
    distillation_loss(student, teacher, temperature=temperature, reduction="sum").backward()
    q, p = (student.detach() / temperature).softmax(1), (teacher / temperature).softmax(1)
    torch.testing.assert_close(student.grad, temperature * (q - p))


def test_a_student_like_its_teacher_is_left_alone(teacher: Tensor) -> None:
    student = (teacher + 3.0).requires_grad_()
    loss = distillation_loss(student, teacher, temperature=4.0)
    loss.backward()
    torch.testing.assert_close(student.grad, torch.zeros_like(teacher), atol=1e-15, rtol=0)
    assert loss.item() == pytest.approx(0, abs=1e-15)


def test_without_correction_it_is_plain_distillation(student: Tensor, teacher: Tensor) -> None:
    plain = distillation_loss(student, teacher, temperature=3.0, reduction="none")
    for prior in (None, COUNTS):
        same = head_to_tail_distillation_loss(
            student, teacher, prior, tau=0, power=1, temperature=3.0, reduction="none"
        )
        torch.testing.assert_close(same, plain)
    equal = head_to_tail_distillation_loss(student, teacher, torch.full((CLASSES,), 7), tau=2, temperature=3.0)
    torch.testing.assert_close(equal, plain.mean())


def test_power_is_another_temperature_of_the_teacher_alone(student: Tensor, teacher: Tensor) -> None:
    value = head_to_tail_distillation_loss(student, teacher, tau=0, power=0.5, temperature=2.0)
    log_q, p = (student / 2).log_softmax(1), (teacher / 4).softmax(1)
    expected = 4 * torch.nn.functional.kl_div(log_q, p, reduction="batchmean")
    torch.testing.assert_close(value, expected)


def test_the_correction_moves_belief_to_rare_classes() -> None:
    student = torch.zeros(1, CLASSES, requires_grad=True)
    teacher = COUNTS.double().log()[None]  # knows nothing but the frequencies
    head_to_tail_distillation_loss(student, teacher, COUNTS, temperature=1.0).backward()
    torch.testing.assert_close(student.grad, torch.zeros(1, CLASSES), atol=1e-6, rtol=0)  # nothing to teach
    plain = torch.zeros(1, CLASSES, requires_grad=True)
    distillation_loss(plain, teacher.float(), temperature=1.0).backward()
    assert plain.grad is not None
    assert plain.grad[0, 0] < 0 < plain.grad[0, -1]


def test_trust_counts_a_sample_by_the_probability_of_its_label(student: Tensor, teacher: Tensor) -> None:
    labels = torch.arange(12) % CLASSES
    labels[3] = -1
    call = partial(head_to_tail_distillation_loss, student, teacher, tau=0, temperature=2.0, reduction="none")
    p = teacher.softmax(1)[torch.arange(12), labels.clamp(min=0)].where(labels >= 0, 0.0)
    torch.testing.assert_close(call(trust=2.0, labels=labels), p**2 * call())
    torch.testing.assert_close(call(trust=0.0, labels=labels), call())  # nobody is left out
    soft = torch.nn.functional.one_hot(labels.clamp(min=0), CLASSES).double() * (labels >= 0)[:, None]
    torch.testing.assert_close(call(trust=2.0, labels=soft), call(trust=2.0, labels=labels))


def test_no_gradient_reaches_the_teacher(student: Tensor, teacher: Tensor) -> None:
    student.requires_grad_()
    teacher.requires_grad_()
    labels = torch.zeros(12, dtype=torch.int64)
    head_to_tail_distillation_loss(student, teacher, COUNTS, trust=1.0, labels=labels).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_trust_of_pixels() -> None:
    logits = torch.randn(2, CLASSES, 3, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([[0, 1, -1], [4, 4, 2]])
    found = teacher_trust(logits, labels)
    assert found.shape == (2, 3)
    assert found[0, 2] == 0
    torch.testing.assert_close(found[1, 0], logits[1, :, 0].softmax(0)[4])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": -1.0}, "tau is -1.0"),
        ({"tau": 0.0, "power": 0.0}, "power is 0.0"),
        ({"tau": 0.0, "trust": -0.5}, "trust is -0.5"),
        ({"tau": 1.0}, "prior is None"),
        ({"tau": 1.0, "prior": COUNTS[:3]}, r"prior has shape \[3\]"),
        ({"tau": 0.0, "trust": 1.0}, "labels is None"),
        ({"tau": 0.0, "trust": 1.0, "labels": torch.zeros(3).long()}, r"labels has shape \[3\]: \[2\]"),
        ({"tau": 0.0, "temperature": 0.0}, "temperature is 0.0"),
    ],
)
def test_mistakes_are_named(options: dict[str, object], message: str) -> None:
    x = torch.zeros(2, CLASSES)
    with pytest.raises(ValueError, match=message):
        head_to_tail_distillation_loss(x, x, **options)  # type: ignore[arg-type]
