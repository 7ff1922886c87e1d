"""Resampled training data: the order is the sampler's, copies are augmented in their own way, loaders go on."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dlrecipes.data.classification import ClassificationData
from dlrecipes.data.formats.arrays import array_source
from dlrecipes.data.formats.image_files import ArrayImages
from dlrecipes.data.formats.image_source import ImageTable
from dlrecipes.data.loading.image_dataset import ImageDataset, unchanged
from dlrecipes.data.loading.loader import make_loader
from dlrecipes.data.loading.resample import ResampledEpochSampler, Resampling
from dlrecipes.errors import UserError
from dlrecipes.imbalance import (
    BalancedDistributedSampler,
    MPerClassSampler,
    RepeatFactorSampler,
    WeightedDistributedSampler,
    class_shares,
)
from dlrecipes.losses import SupConLoss

COUNTS = (30, 12, 3)
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(3), COUNTS))
SAMPLERS = {
    "class": lambda: BalancedDistributedSampler(LABELS, "class", seed=2, epoch_size=61),
    "m_per_class": lambda: MPerClassSampler(LABELS, 2, 4, seed=2),
    "weight": lambda: WeightedDistributedSampler(LABELS + 0.5, seed=2, epoch_size=50),
    "repeat": lambda: RepeatFactorSampler([[c] for c in LABELS.tolist()], 0.7, seed=2),
}
each = pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def data(targets=LABELS, classes=("cat", "dog", "owl"), **options):
    held_out = targets[:9]
    source = array_source((pictures(len(targets)), targets), (pictures(9, 1), held_out), classes=classes)
    return ClassificationData(source=source, **{"batch_size": 8, "num_workers": 0, **options})


def epoch(loader, number=0):
    loader.sampler.set_epoch(number)
    return list(loader)


@each
@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_follow_the_sampler_and_copies_have_their_own_numbers(make, world):
    sampler = make()
    ranks = [ResampledEpochSampler(make(), rank=rank, world_size=world) for rank in range(world)]
    for number in (0, 3):
        drawn = []
        for rank in ranks:
            rank.set_epoch(number)
            drawn.append([index for epoch, index in rank if epoch == number])
            assert len(drawn[-1]) == len(rank)
        positions = np.stack(drawn, axis=1).ravel()
        assert (positions % len(LABELS)).tolist() == sampler.positions(number, world).tolist()
        assert len(set(positions.tolist())) == len(positions)
        for index, count in zip(*np.unique(positions % len(LABELS), return_counts=True), strict=True):
            copies = positions[positions % len(LABELS) == index] // len(LABELS)
            assert copies.tolist() == list(range(count))


def test_batches_of_some_classes_for_losses_that_compare_images():
    training = data(sampler="m_per_class", samples_per_class=4)
    training.setup("fit")
    loader = training.train_dataloader()
    batches = epoch(loader)
    assert len(loader) == len(batches) == 45 // 8
    loss = SupConLoss()
    for batch in batches:
        assert np.unique(batch["targets"], return_counts=True)[1].tolist() == [4, 4]
        alike = torch.nn.functional.one_hot(batch["targets"], 3).float()
        assert loss(alike, batch["targets"]) < loss(alike.roll(1, 0), batch["targets"])
    assert "A batch holds 4 images of each of 2 classes, an epoch 5 batches." in training.notes


@each
@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_goes_on_in_mid_epoch(make, workers):
    table = ImageTable(ArrayImages(pictures(45), [f"{i}" for i in range(45)]), LABELS)

    def loader():
        dataset = ImageDataset(table, None, image_size=None)
        sampler = ResampledEpochSampler(make(), rank=1, world_size=2)
        return make_loader(dataset, sampler, batch_size=4, num_workers=workers, collate_fn=unchanged)

    whole, first = epoch(loader(), 2), loader()
    first.sampler.set_epoch(2)
    batches = iter(first)
    for _ in range(2):
        next(batches)
    second = loader()
    second.load_state_dict(first.state_dict())
    rest = list(second)
    assert len(rest) == len(whole) - 2 == len(first) - 2
    for one, other in zip(rest, whole[2:], strict=True):
        assert torch.equal(one["images"], other["images"])
        assert torch.equal(one["draw"], other["draw"])


@pytest.mark.parametrize("device_augment", [True, False])
@pytest.mark.parametrize("mix", ["none", "both"])
def test_copies_of_an_image_are_augmented_differently(device_augment, mix):
    labels = np.array([0] * 40 + [1] * 2)
    training = data(labels, ("cat", "dog"), sampler="class", device_augment=device_augment, mix=mix, batch_size=42)
    training.setup("fit")
    (batch,) = epoch(training.train_dataloader())
    rare = batch["index"] >= 40
    assert rare.sum() == 21
    assert batch["targets"].tolist() == labels[batch["index"]].tolist()
    images = training.finish(batch, training=True)["images"][rare]
    # copies of one image differ in crop and mirror, of which there are few: most of them are different
    assert len({image.numpy().tobytes() for image in images.contiguous()}) > 12
    again = training.finish(epoch(training.train_dataloader())[0], training=True)["images"][rare]
    assert torch.equal(images, again)


@pytest.mark.parametrize("mode", ["instance", "sqrt", "class", "effective"])
def test_a_datamodule_draws_as_the_mode_says(mode):
    training = data(sampler=mode, batch_size=9)
    training.setup("fit")
    labels = torch.cat([batch["targets"] for batch in epoch(training.train_dataloader(), 1)])
    expected = class_shares(COUNTS, mode) * 45
    assert np.abs(np.bincount(labels, minlength=3) - expected).max() < 1
    assert f"Images are drawn by the sampler '{mode}', 45 in an epoch." in training.notes
    held_out = torch.cat([batch["index"] for batch in epoch(training.val_dataloader(), 1)])
    assert held_out.tolist() == list(range(9))  # evaluation never resamples


def test_late_sampling_is_said_and_done():
    training = data(sampler="class", sampler_start=2, batch_size=9)
    training.setup("fit")
    loader = training.train_dataloader()
    counts = [np.bincount(torch.cat([b["targets"] for b in epoch(loader, e)]), minlength=3).tolist() for e in (1, 2)]
    assert counts == [[30, 12, 3], [15, 15, 15]]
    assert "Images are drawn by the sampler 'class' from epoch 3 on, 45 in an epoch." in training.notes


def test_a_start_below_one_is_a_share_of_the_epochs():
    options = Resampling("class", start=0.8, threshold=0.1, seed=0)
    trainer = SimpleNamespace(max_epochs=5, lightning_module=None)
    training = data()
    sampler = options.make(training.info, training.table("train").targets, trainer)
    assert [sampler.draws(e).tolist() for e in (3, 4)] == [[30, 12, 3], [15, 15, 15]]
    assert options.note(sampler) == "Images are drawn by the sampler 'class' from epoch 5 on, 45 in an epoch."
    with pytest.raises(
        UserError, match=r"sampler_start is 0\.8, a share of the run's epochs: set the trainer's max_epochs"
    ):
        options.make(training.info, training.table("train").targets, None)


def test_several_labels_an_image():
    tags = np.zeros((40, 2), dtype=np.int64)
    tags[:, 0], tags[:4, 1] = 1, 1
    training = data(tags, ("sea", "ship"), sampler="repeat", repeat_threshold=0.4, batch_size=4)
    training.setup("fit")
    index = torch.cat([batch["index"] for batch in epoch(training.train_dataloader())])
    assert np.bincount(index).tolist() == [2] * 4 + [1] * 36
    assert "An epoch draws 44 of 40 images, those with rare labels up to 2.0 times." in training.notes


def test_weights_decide_how_often_and_no_more_in_the_loss():
    weights = np.repeat([3.0, 0.0, 1.0], [10, 20, 15]).astype(np.float32)
    source = array_source((pictures(45), LABELS), (pictures(9, 1), LABELS[:9]), classes=("cat", "dog", "owl"))
    source.splits["train"] = replace(source.splits["train"], weights=weights)
    training = ClassificationData(source=source, batch_size=45, num_workers=0, sampler="weight")
    training.setup("fit")
    (batch,) = epoch(training.train_dataloader(), 2)
    assert batch["weights"] is None
    assert np.bincount(batch["index"], minlength=45).tolist() == [3] * 10 + [0] * 20 + [1] * 15
    assert "An epoch draws 45 of 45 images by their weights, which the loss leaves out." in training.notes
    plain = ClassificationData(source=source, batch_size=45, num_workers=0)
    plain.setup("fit")
    assert epoch(plain.train_dataloader())[0]["weights"] is not None
    without = data(sampler="weight")
    without.setup("fit")
    with pytest.raises(UserError, match="the training split has none: add a column weight"):
        without.train_dataloader()


def test_no_sampler_leaves_everything_as_it_was():
    training = data(batch_size=45)
    training.setup("fit")
    (batch,) = epoch(training.train_dataloader(), 3)
    assert batch["index"].tolist() == np.random.default_rng((0, 3)).permutation(45).tolist()
    assert torch.equal(batch["index"], batch["draw"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"sampler": "balanced"},
            "must be one of instance, sqrt, class, effective, progressive, m_per_class, repeat, weight, got",
        ),
        (
            {"sampler": "class", "sampler_start": -1},
            "sampler_start must be an epoch from 0 on, or a share of them below 1, got -1",
        ),
        ({"sampler": "class", "sampler_start": 1.5}, r"a share of them below 1, got 1\.5"),
        ({"sampler": "m_per_class", "samples_per_class": 3}, "samples_per_class must divide the batch size, 8, got 3"),
        ({"sampler": "m_per_class", "sampler_start": 1}, "single images: leave it out with the sampler 'm_per_class'"),
        ({"sampler": "repeat", "sampler_start": 1}, "leave it out with the sampler 'repeat'"),
        ({"sampler": "weight", "sampler_start": 1}, "leave it out with the sampler 'weight'"),
        ({"sampler": "repeat", "repeat_threshold": 0.0}, "repeat_threshold must be above 0"),
    ],
)
def test_refuses_wrong_options(options, message):
    with pytest.raises(UserError, match=message):
        data(**options)


@pytest.mark.parametrize(
    ("targets", "classes", "sampler", "message"),
    [
        (LABELS, ("cat", "dog", "owl", "yak"), "class", "cannot draw 'yak', of which no image"),
        (LABELS[LABELS > 0] - 1, ("cat", "dog"), "m_per_class", "images a class needs 8 classes, and the data has 2"),
        (LABELS, ("cat", "dog", "owl"), "repeat", "one label each: use instance, sqrt"),
        (LABELS, ("cat", "dog", "owl"), "progressive", "set the trainer's max_epochs"),
        (np.eye(2, dtype=np.int64)[LABELS % 2], ("sea", "ship"), "class", "several labels each: use repeat"),
        (LABELS.astype(np.float32) + 0.5, (), "class", "the targets are numbers"),
    ],
)
def test_refuses_data_that_the_sampler_is_not_for(targets, classes, sampler, message):
    training = data(targets, classes, sampler=sampler, samples_per_class=1)
    training.setup("fit")
    with pytest.raises(UserError, match=message):
        training.train_dataloader()
