"""Denoising queries: how far objects are moved, what each query is to become, and gradients without objects."""

import pytest
import torch

from dlrecipes.functional.boxes import box_iou, cxcywh_to_xyxy
from dlrecipes.models.detr.denoising import NEGATIVE, PADDING, Denoising

CPU = torch.device("cpu")
OBJECT = torch.tensor([0.5, 0.4, 0.2, 0.1])  # far from the image's border


def many(n: int, label: int = 1) -> list[dict[str, torch.Tensor]]:
    return [{"labels": torch.full((n,), label), "boxes": OBJECT.repeat(n, 1)}]


def batch(*counts: int) -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(3)
    return [{"labels": torch.randint(0, 4, (n,)), "boxes": torch.rand(n, 4) * 0.4 + 0.3} for n in counts]


def noise(boxes: torch.Tensor, box_noise: float) -> torch.Tensor:
    """u of each number, by the formula turned round."""
    reach = box_noise * torch.cat((OBJECT[2:] / 2, OBJECT[2:]))
    return (boxes - OBJECT) / reach


def test_boxes_move_by_the_papers_rule() -> None:
    torch.manual_seed(0)
    u = noise(Denoising(8, 4, groups=1)(many(4000), CPU, torch.float32).boxes[0], 0.4)
    assert u.abs().max() <= 1 + 1e-5
    torch.testing.assert_close(u.mean(0), torch.zeros(4), atol=0.04, rtol=0)  # uniform in (-1, 1): deviation .577
    torch.testing.assert_close(u.std(0), torch.full((4,), 3**-0.5), atol=0.02, rtol=0)
    assert (torch.corrcoef(u.T) - torch.eye(4)).abs().max() < 0.06


def test_a_contrastive_negative_is_moved_farther_than_any_positive() -> None:
    torch.manual_seed(0)
    noised = Denoising(8, 4, groups=1, contrastive=True)(many(2000), CPU, torch.float32)
    positive, negative = (noise(part, 0.4) for part in noised.boxes[0].split(2000))
    assert positive.abs().max() <= 1 + 1e-5
    assert negative.abs().min() >= 1 - 1e-4
    assert negative.abs().max() <= 2 + 1e-5
    torch.testing.assert_close(negative.abs().mean(0), torch.full((4,), 1.5), atol=0.03, rtol=0)
    assert ((negative > 0).float().mean(0) - 0.5).abs().max() < 0.05
    truth = cxcywh_to_xyxy(OBJECT)
    iou = [box_iou(cxcywh_to_xyxy(part), truth).mean() for part in noised.boxes[0].split(2000)]
    assert iou[0] > 2 * iou[1]
    assert noised.target[0, 2000:].eq(NEGATIVE).all()


@pytest.mark.parametrize(("label_noise", "kept"), [(0.0, 1.0), (0.2, 0.8 + 0.2 / 4), (1.0, 1 / 4)])
def test_labels_are_drawn_anew_from_all_classes(label_noise: float, kept: float) -> None:
    torch.manual_seed(0)
    denoising = Denoising(2, 4, groups=1, label_noise=label_noise)
    denoising.label_embed.weight.data = torch.arange(8.0).view(4, 2)
    drawn = denoising(many(4000), CPU, torch.float32).query[0, :, 0].div(2).long()
    share = torch.bincount(drawn, minlength=4) / 4000
    assert share[1].item() == pytest.approx(kept, abs=0.03)
    assert share[[0, 2, 3]].tolist() == pytest.approx([(1 - kept) / 3] * 3, abs=0.03)


def test_groups_are_noised_differently() -> None:
    torch.manual_seed(0)
    noised = Denoising(8, 4, groups=2, label_noise=1.0)(many(50), CPU, torch.float32)
    first, second = (torch.cat((noised.query, noised.boxes), dim=-1)[0, part] for part in (slice(50), slice(50, None)))
    assert not (first == second).all(1).any()
    assert not torch.equal(first[:, :8], second[:, :8])
    torch.manual_seed(0)
    again = Denoising(8, 4, groups=2, label_noise=1.0)(many(50), CPU, torch.float32)
    assert torch.equal(noised.boxes, again.boxes)


@pytest.mark.parametrize("contrastive", [False, True])
def test_without_noise_each_positive_is_its_target(contrastive: bool) -> None:
    targets = batch(3, 0, 1)
    denoising = Denoising(8, 4, groups=2, label_noise=0.0, box_noise=0.0, contrastive=contrastive)
    noised = denoising(targets, CPU, torch.bfloat16)
    per_group = 6 if contrastive else 3
    assert noised.query.shape == (3, 2 * per_group, 8)
    assert noised.query.dtype == torch.bfloat16
    assert noised.block.tolist() == [0] * per_group + [1] * per_group
    for image, target in enumerate(targets):
        n = len(target["labels"])
        group = list(range(n)) + [PADDING] * (3 - n)
        group += [NEGATIVE] * n + [PADDING] * (3 - n) if contrastive else []
        assert noised.target[image].tolist() == group * 2
        for place, index in enumerate(noised.target[image].tolist()):
            if index >= 0:
                torch.testing.assert_close(noised.boxes[image, place], target["boxes"][index])
                expected = denoising.label_embed.weight[target["labels"][index]]
                assert torch.equal(noised.query[image, place], expected.bfloat16())
            if index == PADDING:
                assert not noised.query[image, place].any()


def test_boxes_stay_inside_the_image_with_a_size() -> None:
    torch.manual_seed(0)
    corners = torch.tensor([[0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1e-3, 1e-3], [0.0, 1.0, 0.0, 0.5]])
    targets = [{"labels": torch.zeros(3, dtype=torch.int64), "boxes": corners}]
    noised = Denoising(8, 1, groups=200, box_noise=0.49, contrastive=True)(targets, CPU, torch.float32)
    assert noised.boxes.dtype == torch.float32
    assert (noised.boxes > 0).all()
    assert (noised.boxes < 1).all()
    assert torch.isfinite(noised.boxes.logit()).all()


@pytest.mark.parametrize("counts", [(0, 0), (0, 2)])
@pytest.mark.parametrize("contrastive", [False, True])
def test_every_parameter_has_a_gradient_even_without_objects(counts: tuple[int, ...], contrastive: bool) -> None:
    denoising = Denoising(8, 4, contrastive=contrastive)
    noised = denoising(batch(*counts), CPU, torch.float32)
    assert noised.query.shape[1] == noised.block.shape[0] == 5 * max(counts) * (1 + contrastive)
    noised.query.sum().backward()
    grad = denoising.label_embed.weight.grad
    assert grad is not None
    assert grad.any() == (max(counts) > 0)


def test_padding_teaches_nothing() -> None:
    denoising = Denoising(8, 4, groups=3, label_noise=0.0)
    noised = denoising(batch(2, 0), CPU, torch.float32)
    (noised.query[1] ** 2 + noised.query[1]).sum().backward()
    assert not denoising.label_embed.weight.grad.any()


def test_resize_keeps_where_the_embedding_lives() -> None:
    denoising = Denoising(8, 4).to(torch.float64)
    denoising.resize(7)
    assert denoising.num_classes == 7
    assert denoising.label_embed.weight.shape == (7, 8)
    assert denoising.label_embed.weight.dtype == torch.float64
    labels = [{"labels": torch.tensor([6]), "boxes": OBJECT[None]}]
    assert torch.isfinite(denoising(labels, CPU, torch.float32).query).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 0}, "dim=0: at least 1"),
        ({"num_classes": 0}, "num_classes=0: at least 1"),
        ({"groups": 0}, "groups=0: at least 1"),
        ({"label_noise": 1.5}, "label_noise=1.5: a probability"),
        ({"box_noise": 1.0}, "box_noise=1.0: at least 0 and below 1.0 with contrastive=False"),
        ({"box_noise": 0.5, "contrastive": True}, "box_noise=0.5: at least 0 and below 0.5 with contrastive=True"),
    ],
)
def test_arguments_are_checked(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Denoising(**({"dim": 8, "num_classes": 4} | arguments))
