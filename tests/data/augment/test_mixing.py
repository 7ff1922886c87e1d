import numpy as np
import pytest
import torch
from scipy import stats

from dlrecipes.contracts import DataInfo
from dlrecipes.data.augment.mixing import MixSamples, remix_share
from dlrecipes.errors import UserError

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
        ({"mix": "none"}, "mix must be one of mixup, cutmix, both, remix, got 'none'"),
        ({"mix": "remix"}, "mix='remix' chooses between two labels: give num_classes"),
        ({"mix": "remix", "num_classes": 2, "kappa": 1.0}, "kappa must be greater than 1, got 1.0"),
        ({"mix": "remix", "num_classes": 2, "tau": 1.5}, r"tau must be in 0\.\.1, got 1.5"),
        ({"mix": "mixup", "alpha": 0.0}, "alpha must be greater than 0, got 0.0"),
        ({"mix": "mixup", "probability": 1.1}, r"probability must be in 0\.\.1, got 1.1"),
        ({"mix": "mixup", "num_classes": 0}, "num_classes must be at least 1, got 0"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        MixSamples(**options)


@pytest.mark.parametrize(
    ("share", "own", "other", "expected"),
    [
        (0.40, 30, 10, 0.0),  # three times as frequent, and less than half of the picture: the rare partner's label
        (0.40, 29, 10, 0.4),  # not three times as frequent
        (0.50, 30, 10, 0.5),  # half is not less than half
        (0.60, 30, 10, 0.6),
        (0.60, 10, 30, 1.0),  # rare, and more than half of the picture: its label alone
        (0.60, 11, 30, 0.6),
        (0.50, 10, 30, 0.5),
        (0.40, 10, 30, 0.4),
        (0.40, 20, 20, 0.4),
        (1.00, 90, 10, 1.0),  # a picture that was not mixed keeps its label
        (1.00, 10, 90, 1.0),
    ],
)
def test_remix_by_hand(share, own, other, expected):
    found = remix_share(torch.tensor([share]), torch.tensor([own]), torch.tensor([other]))
    assert found.item() == pytest.approx(expected)


def remix(counts, **options):
    return MixSamples("remix", num_classes=CLASSES, class_counts=counts, **options)


def test_remix_of_balanced_classes_and_without_a_threshold_is_mixup():
    expected = MixSamples("mixup", num_classes=CLASSES, alpha=1.0)(batch())
    for mixed in (remix([50] * CLASSES)(batch()), remix([999, *[1] * 6], tau=0.0)(batch())):
        assert torch.equal(mixed["images"], expected["images"])
        assert torch.equal(mixed["targets"], expected["targets"])


def test_remix_gives_each_sample_a_label_of_its_own():
    """Class 0 is frequent, and the others are rare; pictures are those of mixup, labels follow the rule one by one."""
    counts, weights = [60, *[20] * 6], torch.rand(64, generator=torch.Generator().manual_seed(1))
    given = batch(weights=weights)
    mixed = remix(counts)(given)
    blended = MixSamples("mixup", num_classes=CLASSES, alpha=1.0)(given)
    assert torch.equal(mixed["images"], blended["images"])
    labels = given["targets"].tolist()
    kept = []
    for own, other, part in zip(labels, labels[-1:] + labels[:-1], share(blended, given).tolist(), strict=True):
        if own == 0 and other != 0 and part < 0.5:
            part = 0.0
        if own != 0 and other == 0 and part > 0.5:
            part = 1.0
        kept.append(part)
    kept = torch.tensor(kept)
    rows = torch.nn.functional.one_hot(given["targets"], CLASSES).float()
    torch.testing.assert_close(mixed["targets"], torch.lerp(rows.roll(1, 0), rows, kept[:, None]), atol=2e-6, rtol=0)
    torch.testing.assert_close(mixed["weights"], torch.lerp(weights.roll(1), weights, kept), atol=2e-6, rtol=0)
    assert ((kept == 0) | (kept == 1)).sum() > 5


def test_remix_learns_the_counts_from_the_data():
    with pytest.raises(UserError, match="Remix must see the training data first"):
        remix(None)(batch())
    info = DataInfo(
        task="classification", classes=tuple("abcdefg"), category_ids=tuple(range(CLASSES)),
        class_counts=(60, *[20] * 6), num_train=180, max_objects=0, image_size=16,
    )  # fmt: skip
    told = remix(None)
    told.bind(info)
    assert torch.equal(told(batch())["targets"], remix(info.class_counts)(batch())["targets"])
    given = remix([1] * CLASSES)
    given.bind(info)
    assert given.class_counts == (1,) * CLASSES


@pytest.mark.parametrize("mix", ["mixup", "cutmix", "both", "remix"])
def test_nothing_waits_for_the_device(mix):
    """Meta tensors have no values: whatever asked for one would fail."""
    given = {key: value.to("meta") if torch.is_tensor(value) else value for key, value in batch(8).items()}
    mixed = MixSamples(mix, num_classes=CLASSES, alpha=0.5, class_counts=range(1, CLASSES + 1))(given)
    assert (mixed["images"].shape, mixed["targets"].shape) == ((8, 3, 16, 16), (8, CLASSES))
