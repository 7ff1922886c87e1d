import numpy as np
import pytest
import torch
from scipy import stats

from dlrecipes.data.mixing import MixSamples

CLASSES = 7


def batch(size=64, targets=None, weights=None, epoch=0):
    """Each picture is one level, its own position: what is left of it can be counted."""
    images = torch.arange(size, dtype=torch.uint8)[:, None, None, None].expand(size, 3, 16, 16)
    return {
        "images": images.contiguous(),
        "targets": torch.arange(size) % CLASSES if targets is None else targets,
        "weights": weights,
        "index": torch.arange(size) * 3,
        "epoch": epoch,
        "paths": [str(i) for i in range(size)],
    }


def share(mixed, given):
    """Part of each picture that is its own, from the pixels."""
    own, other = given["images"].float(), given["images"].float().roll(1, 0)
    return ((mixed["images"] - other) / (own - other)).mean((1, 2, 3))


@pytest.mark.parametrize("mix", ["mixup", "cutmix", "both"])
def test_targets_are_shared_as_the_pixels_are(mix):
    given = batch()
    mixed = MixSamples(mix, num_classes=CLASSES, alpha=1.0)(given)
    assert mixed["images"].dtype == mixed["targets"].dtype == torch.float32
    torch.testing.assert_close(mixed["targets"].sum(1), torch.ones(64))
    rows = torch.nn.functional.one_hot(given["targets"], CLASSES).float()
    own = share(mixed, given)
    expected = own[:, None] * rows + (1.0 - own[:, None]) * rows.roll(1, 0)
    torch.testing.assert_close(mixed["targets"], expected, atol=2e-6, rtol=0)
    assert own.min() < 0.2
    assert own.max() > 0.8
    assert mixed["paths"] == given["paths"]
    assert torch.equal(mixed["index"], given["index"])


def test_mixup_blends_and_cutmix_cuts():
    given = batch()
    blended = MixSamples("mixup", num_classes=CLASSES, alpha=1.0)(given)["images"]
    assert (blended == blended[:, :1, :1, :1]).all()  # flat pictures stay flat
    cut = MixSamples("cutmix", num_classes=CLASSES)(given)["images"]
    own, other = given["images"].float(), given["images"].float().roll(1, 0)
    assert ((cut == own) | (cut == other)).all()
    both = MixSamples("both", num_classes=CLASSES, alpha=1.0)(batch(200))["images"]
    flat = (both == both[:, :1, :1, :1]).flatten(1).all(1).float().mean()
    assert flat == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize(("mix", "alpha"), [("mixup", 0.2), ("mixup", 1.0), ("mixup", 3.0), ("cutmix", 1.0)])
def test_shares_follow_the_beta_distribution(mix, alpha):
    size = 4000
    given = {
        "images": torch.zeros(size, 3, 32, 32, dtype=torch.uint8),
        "targets": (torch.arange(size) % 2).float()[:, None],
        "weights": None,
        "index": torch.arange(size),
        "epoch": 0,
        "paths": [],
    }
    mixed = MixSamples(mix, alpha=alpha)(given)
    own = torch.where(given["targets"] == 1.0, mixed["targets"], 1.0 - mixed["targets"]).flatten().numpy()
    distance = stats.kstest(own, stats.beta(alpha, alpha).cdf).statistic
    assert distance < (0.05 if mix == "cutmix" else 0.03)  # rectangles are whole pixels


def test_defaults_are_those_of_the_papers():
    own = share(MixSamples("mixup", num_classes=CLASSES)(batch(200)), batch(200)).numpy()
    assert np.mean(np.minimum(own, 1 - own)) < 0.15  # Beta(.2, .2): mostly one of the two
    assert MixSamples("cutmix").alpha is None


def test_probability():
    given = batch(250)
    untouched = MixSamples("both", num_classes=CLASSES, probability=0.0)(given)
    assert torch.equal(untouched["images"], given["images"].float())
    assert torch.equal(untouched["targets"].argmax(1), given["targets"])
    assert untouched["targets"].max(1).values.eq(1.0).all()
    some = MixSamples("mixup", num_classes=CLASSES, alpha=1.0, probability=0.3)(given)
    assert share(some, given).ne(1.0).float().mean() == pytest.approx(0.3, abs=0.1)


def test_several_labels_numbers_and_weights():
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(64, 5, generator=generator) < 0.4).float()
    weights = torch.rand(64, generator=generator)
    given = batch(targets=labels, weights=weights)
    mixed = MixSamples("cutmix")(given)
    own = share(mixed, given)
    torch.testing.assert_close(mixed["targets"], torch.lerp(labels.roll(1, 0), labels, own[:, None]))
    torch.testing.assert_close(mixed["weights"], torch.lerp(weights.roll(1), weights, own))
    numbers = 1000.0 * torch.randn(64, 2, generator=generator)
    mixed = MixSamples("mixup", alpha=1.0)(batch(targets=numbers))
    own = share(mixed, batch())
    expected = torch.lerp(numbers.roll(1, 0), numbers, own[:, None])
    torch.testing.assert_close(mixed["targets"], expected, atol=0.01, rtol=0)


def test_a_function_of_seed_epoch_and_index():
    def mixed(seed=0, epoch=0):
        return MixSamples("both", num_classes=CLASSES, alpha=1.0, seed=seed)(batch(epoch=epoch))["images"]

    assert torch.equal(mixed(), mixed())
    assert not torch.equal(mixed(), mixed(epoch=1))
    assert not torch.equal(mixed(), mixed(seed=1))


def test_one_picture_and_none():
    alone = MixSamples("both", num_classes=CLASSES)(batch(1))
    assert torch.equal(alone["images"], batch(1)["images"].float())
    assert alone["targets"].tolist() == [[1.0, *[0.0] * 6]]
    assert MixSamples("both", num_classes=CLASSES)(batch(0))["targets"].shape == (0, CLASSES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mix": "none"}, "mix must be one of mixup, cutmix, both, got 'none'"),
        ({"mix": "mixup", "alpha": 0.0}, "alpha must be greater than 0, got 0.0"),
        ({"mix": "mixup", "probability": 1.1}, r"probability must be in 0\.\.1, got 1.1"),
        ({"mix": "mixup", "num_classes": 0}, "num_classes must be at least 1, got 0"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        MixSamples(**options)


@pytest.mark.parametrize("mix", ["mixup", "cutmix", "both"])
def test_nothing_waits_for_the_device(mix):
    """Meta tensors have no values: whatever asked for one would fail."""
    given = {key: value.to("meta") if torch.is_tensor(value) else value for key, value in batch(8).items()}
    mixed = MixSamples(mix, num_classes=CLASSES, alpha=0.5)(given)
    assert (mixed["images"].shape, mixed["targets"].shape) == ((8, 3, 16, 16), (8, CLASSES))
