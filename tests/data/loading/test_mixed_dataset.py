import pickle

import cv2
import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from dlrecipes.data import DetectionData
from dlrecipes.data.augment.strong import StrongAugment
from dlrecipes.data.augment.transforms import ResizeLongest
from dlrecipes.data.embedded.scenes_export import export_coco
from dlrecipes.data.formats.records import make_record
from dlrecipes.data.loading.box_dataset import RecordDataset
from dlrecipes.data.loading.cache import ImageCache, RecordImages
from dlrecipes.data.loading.mixed_dataset import MixedDataset, Mixing
from dlrecipes.errors import UserError


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Pictures of one grey each, 10 · (index + 1), with index + 1 objects (none in the first)."""
    folder, made = tmp_path_factory.mktemp("pictures"), []
    for index in range(8):
        path = folder / f"{index}.png"
        cv2.imwrite(str(path), np.full((48, 64, 3), 10 * (index + 1), np.uint8))
        boxes = [(6.0 * k, 8.0, 6.0 * k + 5, 30.0) for k in range(index)]
        made.append(make_record(str(path), (64, 48), boxes, [index] * index, index))
    return made


def build(records, mixing, transform=None, **arguments):
    transform = ResizeLongest(64) if transform is None else transform
    base = RecordDataset(records, ImageCache(RecordImages(records), 64), transform, seed=3)
    return MixedDataset(base, mixing, 64, **arguments)


def same(a, b):
    return a.keys() == b.keys() and all(
        np.array_equal(a[k], b[k]) if isinstance(a[k], np.ndarray) else a[k] == b[k] for k in a
    )


def greys(sample):
    return set(np.unique(sample["image"]).tolist())


def test_share_of_mosaics_and_of_mixups(records):
    n = 400
    four = build(records, Mixing(mosaic=0.3))
    several = sum(len(greys(four[0, i])) > 1 for i in range(n))
    assert 0.22 * n < several < 0.36 * n
    two = build(records, Mixing(mixup=0.3))
    changed = sum(greys(two[0, i]) != {10 * (i % 8 + 1)} for i in range(n))
    assert 0.19 * n < changed < 0.34 * n  # in one case of eight a picture's partner is itself


def test_pure_function_of_seed_epoch_and_index(records):
    data = build(records, Mixing(mosaic=0.5, mixup=0.5), StrongAugment(64))
    keys = [(epoch, index) for epoch in range(2) for index in range(16)]
    straight = {key: data[key] for key in keys}
    sent = pickle.loads(pickle.dumps(data))
    for key in reversed(keys):
        assert same(sent[key], straight[key])
    images = {sample["image"].tobytes() for sample in straight.values()}
    assert len(images) > 24  # of 32: other ones in each epoch, and for each copy of a picture
    assert all(straight[key]["image_id"] == key[1] % 8 for key in keys)


def test_mosaics_are_the_same_without_mixup(records):
    both, only = (build(records, Mixing(mosaic=0.5, mixup=mixup)) for mixup in (1e-9, 0.0))
    assert all(same(both[0, i], only[0, i]) for i in range(8))


def test_closing_epochs_are_as_without_mixing(records):
    data = build(records, Mixing(mosaic=1.0, mixup=1.0), closing_epoch=2)
    assert all(len(greys(data[epoch, 3])) > 1 for epoch in (0, 1))
    assert all(same(data[epoch, i], data.base[epoch, i]) for epoch in (2, 3) for i in range(8))


@pytest.mark.parametrize(
    ("share", "epochs", "first"),
    [(0.2, 6, 5), (0.2, 5.9, 5), (0.2, 5.2, 4), (0.5, 6, 3), (1.0, 6, 0), (0.0, 5.1, 6), (0.01, 5.5, 6)],
)
def test_closing_by_the_clock(share, epochs, first):
    """At the epoch's start that is nearest to where the last share begins."""
    closes = [Mixing(mosaic=1.0, closing_share=share).closes(epoch, epochs) for epoch in range(6)]
    assert [epoch for epoch in range(6) if closes[epoch] and epoch < epochs] == list(range(first, 6))


@pytest.mark.parametrize(
    ("share", "epochs", "first"),
    [(0.2, 50, 40), (0.2, 1, None), (0.2, 3, 2), (1.0, 4, 0), (0.0, 9, None), (0.2, None, None)],
)
def test_first_closing_epoch(share, epochs, first):
    assert Mixing(mosaic=1.0, closing_share=share).closing_epoch(epochs) == first


def test_notes():
    mixing = Mixing(mosaic=0.5, mixup=0.25)
    assert mixing.note(10) == "Training samples are mixed (mosaic 0.5, mixup 0.25) up to epoch 8 of 10."
    assert mixing.note(1).endswith("(mosaic 0.5, mixup 0.25) in 1 epoch.")
    assert "cannot be told without --epochs" in Mixing(mixup=1.0).note(None)
    assert not Mixing()
    assert mixing


def test_never_more_objects_than_queries(records):
    counts = {}
    for limit in (None, 7):
        data = build(records, Mixing(mosaic=1.0, mixup=1.0), max_objects=limit)
        counts[limit] = [len(data[0, i]["labels"]) for i in range(80)]
    assert max(counts[None]) > 10
    assert max(counts[7]) == 7


def test_a_crowded_mosaic_is_made_of_larger_parts_before_it_is_given_up(records, monkeypatch):
    def mixed():
        data = build(records, Mixing(mosaic=1.0), max_objects=7)
        return np.array([len(greys(data[0, i])) > 1 for i in range(80)])

    twice = mixed()
    monkeypatch.setattr("dlrecipes.data.loading.mixed_dataset._SCALES", ((0.5, 1.0),))
    once = mixed()
    assert twice[once].all()
    assert twice.sum() >= once.sum() + 5


def test_partners_by_weight(records):
    weights = np.ones(8)
    weights[6] = 1e9
    data = build(records, Mixing(mosaic=1.0), weights=weights)
    assert all(greys(data[0, i]) <= {10 * (i + 1), 70} for i in range(8))


def test_a_mosaic_is_not_zoomed_again(records):
    class Marked(ResizeLongest):
        def after_mosaic(self, image, boxes, labels, seed):
            return np.zeros_like(image), boxes, np.arange(len(boxes))

    data = build(records, Mixing(mosaic=0.5), Marked(64))
    black = [greys(data[0, i]) == {0} for i in range(8)]
    assert any(black)
    assert not all(black)


def test_one_picture_alone_can_be_mixed(records):
    data = build(records[3:4], Mixing(mosaic=1.0, mixup=1.0))
    assert greys(data[0, 0]) == {40}
    assert set(data[0, 0]["labels"]) <= {3}


@pytest.mark.parametrize(("name", "value"), [("mosaic", 1.1), ("mixup", -0.1), ("closing_share", 2.0)])
def test_wrong_shares(name, value):
    with pytest.raises(UserError, match=f"{name} must be between 0 and 1, got {value}"):
        Mixing(**{name: value})


# ---- in a run -----------------------------------------------------------------------------------------------------


class Recorder(L.LightningModule):
    """Remembers what each batch was."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        boxes = torch.cat([target["boxes"] for target in batch["targets"]])
        self.seen.append((tuple(batch["image_ids"]), int(batch["images"].long().sum()), float(boxes.sum())))
        return self.weight * 1.0

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-6)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return str(export_coco(tmp_path_factory.mktemp("coco"), num_images={"train": 10, "val": 2, "test": 2}))


class Tells(L.Callback):
    """What a TimeBudget does, with epochs as its clock would have them."""

    def __init__(self, *epochs):
        self.epochs = epochs

    def on_train_batch_end(self, trainer, *_):
        following = trainer.current_epoch + 1
        if trainer.is_last_batch and following < len(self.epochs):
            trainer.datamodule.expect_epochs(following, self.epochs[following])


def fit(folder, path, resume=None, keep=False, epochs=2, callbacks=(), **arguments):
    options = {
        "mosaic": 0.5,
        "mixup": 0.5,
        "closing_share": 0.5,
        "transform": "none",
        "repeat_factor": 0.6,
        **arguments,
    }
    data = DetectionData(path, batch_size=4, image_size=96, **{"num_workers": 0, **options})
    module = Recorder()
    saving = [ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)] if keep else []
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=keep,
        callbacks=[*saving, *callbacks],
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
    )
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    return module.seen, data


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path., callbacks")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*ended before the epoch ended")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_resumed_runs_go_on_with_the_same_mosaics_and_copies(tmp_path, exported):
    straight, data = fit(tmp_path, exported, keep=True)
    steps = -(-len(data.train_dataloader().sampler) // 4)
    assert len(straight) == 2 * steps > 2 * 3  # 10 images alone are 3 batches
    for step in (1, steps, steps + 1):
        resumed, _ = fit(tmp_path, exported, resume=tmp_path / f"step={step}.ckpt")
        assert resumed == straight[step:], step
    assert any("up to epoch 1 of 2" in note for note in data.notes)
    assert any("Images with rare classes are repeated" in note for note in data.notes)
    # the second epoch is the closing one: as without mixing
    plain, _ = fit(tmp_path, exported, mosaic=0.0, mixup=0.0)
    assert plain[steps:] == straight[steps:]
    assert plain[:steps] != straight[:steps]
    assert fit(tmp_path, exported, num_workers=2)[0] == straight


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path., callbacks")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*ended before the epoch ended")
def test_a_run_that_ends_by_the_clock_ends_mixing_for_good(tmp_path, exported):
    """The second epoch begins as the closing one, and the third, of a run that is slower by then, is one, too."""
    timed, data = fit(tmp_path, exported, keep=True, epochs=3, closing_share=0.4, callbacks=[Tells(9, 2.0, 9)])
    steps = len(timed) // 3
    mixed, _ = fit(tmp_path, exported, epochs=3, closing_share=0.0)
    plain, _ = fit(tmp_path, exported, epochs=3, mosaic=0.0, mixup=0.0)
    assert timed == mixed[:steps] + plain[steps:]
    assert mixed[steps:] != plain[steps:]
    assert any("From epoch 2 on, the training samples are not mixed" in note for note in data.notes)
    # workers that run already hear of it, and so does a run that is resumed
    workers, _ = fit(tmp_path, exported, num_workers=2, epochs=3, closing_share=0.4, callbacks=[Tells(9, 2.0, 9)])
    assert workers == timed
    for step in (steps, steps + 1):
        file = tmp_path / f"step={step}.ckpt"
        resumed, _ = fit(tmp_path, exported, resume=file, epochs=3, closing_share=0.4, callbacks=[Tells(9, 9, 9)])
        assert resumed == timed[step:], step
