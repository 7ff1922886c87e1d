from dataclasses import replace

import cv2
import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image

from dlrecipes.data import classification
from dlrecipes.data.augment.image_resize import evaluation_image
from dlrecipes.data.classification import ClassificationData
from dlrecipes.data.formats.arrays import array_source
from dlrecipes.data.loading.density import with_density_weights
from dlrecipes.data.loading.image_predict import image_predict_loader
from dlrecipes.errors import UserError
from dlrecipes.functional.label_density import density_weights

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path., callbacks"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]


def pictures(count, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape, 3), dtype=np.uint8)


def small(count=45, targets=None, classes=("cat", "dog", "owl"), **options):
    """Equal squares of 16 pixels, in memory."""
    labels = np.arange(count) % len(classes) if targets is None else targets
    source = array_source(
        (pictures(count, 16, 16), labels),
        (pictures(9, 16, 16, seed=1), labels[:9]),
        (pictures(7, 16, 16, seed=2), labels[:7]),
        classes=classes if targets is None else (),
    )
    return ClassificationData(source=source, **{"batch_size": 8, **options})


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder a class, pictures of many sizes."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 5)):
        for label, name in enumerate(("cat", "dog")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                height, width = rng.integers(70, 120, 2)
                noise = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
                image = cv2.resize(noise, (int(width), int(height)), interpolation=cv2.INTER_CUBIC)
                image[:9] = 200 * label
                cv2.imwrite(str(folder / f"{number}.png"), image)
    return root


def epoch(loader, number=0):
    loader.sampler.set_epoch(number)
    return list(loader)


def same(a, b):
    keys = ("images", "targets", "index", "paths", "epoch")
    return len(a) == len(b) and all(
        all(torch.equal(x[k], y[k]) if torch.is_tensor(x[k]) else x[k] == y[k] for k in keys)
        for x, y in zip(a, b, strict=True)
    )


def test_embedded_digits():
    data = ClassificationData(batch_size=32)
    assert data.info.task == "classification"
    assert data.info.num_classes == 10
    assert data.info.num_train == sum(data.info.class_counts)
    assert (data.info.image_size, data.info.crop_fraction) == (32, 1.0)
    batch = next(iter(data.train_dataloader()))
    assert batch["images"].shape == (32, 3, 32, 32)
    assert (batch["images"].dtype, batch["targets"].dtype) == (torch.uint8, torch.int64)
    assert data.num_workers == 0
    assert "does not mirror, because the classes are called as the digits" in " ".join(data.notes)
    assert all(note.endswith(".") for note in data.notes)
    assert "zero" in data.report
    assert data.splits == ("train", "val", "test")
    tail = ClassificationData(long_tailed=True, image_size=24).info
    assert tail.class_counts[0] >= 20 * tail.class_counts[9]
    assert tail.image_size == 24


def test_a_batch_holds_the_pictures_that_it_names():
    data = small()
    data.setup()
    for role, count in (("train", 45), ("val", 9), ("test", 7)):
        batches = epoch(getattr(data, f"{role}_dataloader")())
        table = data.table(role)
        index = torch.cat([b["index"] for b in batches])
        assert sorted(index.tolist()) == list(range(count))
        images = torch.cat([b["images"] for b in batches]).permute(0, 2, 3, 1).numpy()
        assert all(np.array_equal(image, table.images.read(i)) for image, i in zip(images, index.tolist(), strict=True))
        assert np.array_equal(torch.cat([b["targets"] for b in batches]).numpy(), table.targets[index])
        assert [p for b in batches for p in b["paths"]] == [table.images.name(i) for i in index.tolist()]
        assert all(b["weights"] is None for b in batches)
    with pytest.raises(UserError, match=r"array has no split 'extra', only train, val, test"):
        data.table("extra")


def test_statistics_are_those_of_the_training_split():
    data = small()
    pixels = pictures(45, 16, 16).astype(np.float64) / 255.0
    np.testing.assert_allclose(data.info.mean, pixels.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(data.info.std, pixels.std((0, 1, 2)), rtol=1e-12)
    assert "are those of 45 training pictures" in " ".join(data.notes)
    assert small(normalisation="half").info.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("options", [{}, {"device_augment": False}, {"augment": "none"}])
def test_workers_change_nothing(options):
    def run(workers):
        data = small(num_workers=workers, **options)
        return [epoch(data.train_dataloader(), number) for number in (0, 1)]

    assert all(same(a, b) for a, b in zip(run(0), run(2), strict=True))


def test_two_ranks_see_what_one_sees(monkeypatch):
    def run(rank, world_size, batch_size):
        monkeypatch.setattr(classification, "rank_of", lambda trainer: (rank, world_size))
        data = small(48, batch_size=batch_size, augment="strong")
        batches = [data.finish(b, training=True) for b in epoch(data.train_dataloader(), 3)]
        return [dict(zip(b["index"].tolist(), b["images"], strict=True)) for b in batches]

    alone = run(0, 1, 8)
    shares = [run(rank, 2, 4) for rank in range(2)]
    for step, together in enumerate(alone):
        shared = shares[0][step] | shares[1][step]
        assert shared.keys() == together.keys()
        assert all(torch.equal(shared[i], together[i]) for i in shared)


class Recorder(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.validated = [], []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.global_step, batch["images"].clone(), batch["targets"].clone()))
        return self.weight * batch["images"].float().mean()

    def validation_step(self, batch, batch_idx):
        self.validated.append(batch["images"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-6)


def fit(folder, data, resume=None, callbacks=(), **options):
    module = Recorder()
    trainer = L.Trainer(
        **{"max_epochs": 2, **options},
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(callbacks),
        callbacks=list(callbacks),
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    return module


@pytest.mark.parametrize("device_augment", [True, False])
def test_a_resumed_run_sees_the_same_batches(tmp_path, device_augment):
    """Augmented and mixed, resumed in mid-epoch: to the bit."""

    def data():
        return small(augment="strong", mix="both", device_augment=device_augment, num_workers=0)

    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    straight = fit(tmp_path, data(), callbacks=[keep])
    assert len(straight.seen) == 12
    for step in (3, 6, 8):
        resumed = fit(tmp_path, data(), resume=tmp_path / f"step={step}.ckpt")
        assert [s[0] for s in resumed.seen] == list(range(step, 12))
        for before, after in zip(straight.seen[step:], resumed.seen, strict=True):
            assert torch.equal(before[1], after[1])
            assert torch.equal(before[2], after[2])


def test_training_is_augmented_mixed_and_scaled_and_validation_scaled_only(tmp_path):
    data = small(image_size=24, mix="mixup", mix_alpha=1.0)
    module = fit(tmp_path, data, max_epochs=1)
    images = torch.cat([s[1] for s in module.seen])
    assert images.shape == (45, 3, 24, 24)
    assert images.dtype == torch.float32
    assert 0.0 <= images.min() <= images.max() <= 255.0
    assert all(s[2].shape[1] == 3 for s in module.seen)
    validated = torch.cat(module.validated[-2:]).permute(0, 2, 3, 1).numpy()
    expected = np.stack([evaluation_image(p, 24, 1.0) for p in pictures(9, 16, 16, seed=1)])
    assert validated.dtype == np.uint8
    assert np.abs(validated.astype(int) - expected.astype(int)).max() <= 1


def test_remix_knows_the_classes_counts():
    labels = np.repeat([0, 1], [40, 5])
    data = ClassificationData(
        source=array_source((pictures(45, 16, 16), labels), (pictures(9, 16, 16), labels[-9:]), classes=("cat", "dog")),
        mix="remix",
        augment="none",
        batch_size=45,
    )
    batch = data.finish(epoch(data.train_dataloader())[0], training=True)
    beside = (batch["targets"] > 0).all(1)  # a cat and a dog, mixed: only half of them keep a part of both labels
    pairs = (labels[batch["index"]] != np.roll(labels[batch["index"]], 1)).sum()
    assert 0 < beside.sum() < pairs
    with pytest.raises(UserError, match="mix 'remix' is for one label an image"):
        _ = small(targets=np.eye(45, 3, dtype=np.int64), mix="remix").info


def test_rare_targets_weigh_more_in_training_only():
    targets = np.concatenate([np.linspace(0, 1, 40), np.linspace(5, 9, 5)])[:, None].astype(np.float32)
    data = small(targets=targets, density_weights="sqrt_inverse", batch_size=45)
    batch = epoch(data.train_dataloader())[0]
    expected = density_weights(targets[:, 0], scheme="sqrt_inverse")
    torch.testing.assert_close(batch["weights"], expected[batch["index"]])
    assert expected[40:].min() > 2 * expected[:40].max()
    assert all(held_out["weights"] is None for held_out in data.val_dataloader())
    assert "Samples are weighed by how rare their targets are (sqrt_inverse)." in data.notes
    with pytest.raises(UserError, match="density_weights are for numbers to predict"):
        small(density_weights="inverse").train_dataloader()


def test_weights_of_the_data_and_of_several_targets():
    targets = np.stack([np.repeat([0.0, 1.0], [8, 2]), np.repeat([0.0, 1.0], [5, 5])], axis=1).astype(np.float32)
    source = array_source((pictures(10, 16, 16), targets), (pictures(4, 16, 16), targets[:4]))
    table = replace(source.splits["train"], weights=np.arange(1, 11, dtype=np.float32))
    weights = with_density_weights(source, table, "inverse").weights
    first, second = (density_weights(column, scheme="inverse").numpy() for column in targets.T)
    np.testing.assert_allclose(weights, np.arange(1, 11) * (first + second) / 2, rtol=1e-6)


def test_another_one_takes_over_what_was_read_and_decoded():
    first = small()
    first.setup("fit")
    second = small(sampler="class", mix="mixup", augment="strong")
    second.source = None  # nothing left to read
    second.reuse(first)
    assert second.info == first.info
    assert second.report == first.report
    assert len(epoch(second.train_dataloader())) == 6


def test_a_rest_of_one_is_left_out_and_said():
    data = small(41)
    batches = epoch(data.train_dataloader())
    assert [len(b["index"]) for b in batches] == [8] * 5
    assert "1 training picture, others in each epoch, are left out: batches hold 8." in data.notes
    assert [len(b["index"]) for b in epoch(small(43).train_dataloader())] == [8] * 5 + [3]
    assert [len(b["index"]) for b in epoch(small(43, batch_size=2).train_dataloader())] == [2] * 21
    assert sum(len(b["index"]) for b in epoch(small(41, batch_size=4).val_dataloader())) == 9


def test_photos_are_cut_to_squares(photos):
    data = ClassificationData(str(photos), batch_size=6, image_size=64, num_workers=0)
    data.setup("fit")
    assert data.info.classes == ("cat", "dog")
    assert data.info.class_counts == (12, 12)
    assert data.info.crop_fraction == 0.875
    for batch in epoch(data.val_dataloader()):
        for image, index in zip(batch["images"], batch["index"].tolist(), strict=True):
            expected = evaluation_image(data.table("val").images.read(index), 64, 0.875)
            assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)  # through the cache, to the bit
    first, second = (epoch(data.train_dataloader(), number) for number in (0, 1))
    assert all(b["images"].shape[1:] == (3, 64, 64) and b["images"].dtype == torch.uint8 for b in first)
    assert not same(first, second)
    uncached = ClassificationData(str(photos), batch_size=6, image_size=64, num_workers=0, cache_gb=0)
    uncached.setup("fit")
    assert same(epoch(data.val_dataloader()), epoch(uncached.val_dataloader()))
    assert "each is decoded when needed" in " ".join(uncached.notes)


def test_workers_change_nothing_for_photos(photos):
    def run(workers):
        data = ClassificationData(str(photos), batch_size=6, image_size=48, num_workers=workers, augment="strong")
        return epoch(data.train_dataloader(), 1)

    assert same(run(0), run(2))


def test_prediction_sees_what_evaluation_sees(photos):
    data = ClassificationData(str(photos), image_size=64, num_workers=0, predict_paths=str(photos / "val"))
    (batch,) = data.predict_dataloader()
    (evaluated,) = data.val_dataloader()
    assert batch["paths"] == evaluated["paths"]
    assert torch.equal(batch["images"], evaluated["images"])
    assert batch["targets"].tolist() == [0] * 10
    halves = [list(image_predict_loader(photos / "val", data.info, rank=r, world_size=2)) for r in range(2)]
    assert [b["index"].tolist() for h in halves for b in h] == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]
    assert torch.equal(data.finish(batch, training=False)["images"], batch["images"])
    with pytest.raises(UserError, match="nothing to predict on"):
        small().predict_dataloader()


def test_prediction_finds_what_training_reads(photos, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.GIF", "b.webp", "c.jpeg", ".d.png", "notes.txt"):
        Image.fromarray(pictures(1, 20, 20)[0]).save(tmp_path / "in" / name, format="PNG")
    data = ClassificationData(str(photos), num_workers=0, predict_paths=str(tmp_path / "in"))
    (batch,) = data.predict_dataloader()
    assert [path.rsplit("/", 1)[1] for path in batch["paths"]] == ["a.GIF", "b.webp", "c.jpeg"]


def test_several_labels():
    labels = (np.random.default_rng(0).random((45, 4)) < 0.5).astype(int)
    data = small(targets=labels, mix="cutmix")
    assert data.info.task == "multilabel"
    assert data.info.class_counts == tuple(labels.sum(0))
    batch = next(iter(data.train_dataloader()))
    assert batch["targets"].dtype == torch.float32
    assert torch.equal(batch["targets"], torch.tensor(labels[batch["index"]]).float())
    mixed = data.finish(batch, training=True)
    assert mixed["targets"].shape == (8, 4)
    assert not torch.equal(mixed["targets"], batch["targets"])


def test_numbers():
    numbers = np.random.default_rng(0).normal(50.0, 9.0, (45, 2))
    data = small(targets=numbers, mix="mixup")
    info = data.info
    assert (info.task, info.target_names, info.classes) == ("regression", ("target0", "target1"), ())
    np.testing.assert_allclose(info.target_mean, numbers.mean(0), rtol=1e-6)
    np.testing.assert_allclose(info.target_std, numbers.std(0), rtol=1e-6)
    np.testing.assert_allclose((info.target_min, info.target_max), (numbers.min(0), numbers.max(0)), rtol=1e-6)
    batch = next(iter(data.train_dataloader()))
    assert batch["targets"].shape == (8, 2)
    assert data.finish(batch, training=True)["targets"].mean() == pytest.approx(50.0, abs=15.0)
    for mix in ("cutmix", "both"):
        with pytest.raises(UserError, match=f"mix '{mix}' cannot be used for regression"):
            _ = small(targets=numbers, mix=mix).info


def brighter(image, seed):
    return np.minimum(image, 200) + np.uint8(seed % 50)


def wrong(image, seed):
    return image.astype(np.float32)


def test_a_users_own_augmentation(photos):
    data = ClassificationData(str(photos), image_size=64, num_workers=0, augment=f"{__name__}.brighter")
    assert epoch(data.train_dataloader())[0]["images"].shape == (24, 3, 64, 64)
    assert next(iter(small(augment=brighter).train_dataloader()))["images"].shape == (8, 3, 16, 16)
    with pytest.raises(UserError, match="needs a preset"):
        small(augment=brighter, device_augment=True)
    with pytest.raises(UserError, match=r"returned float32 \[16, 16, 3\] for array:train#\d+"):
        next(iter(small(augment=wrong).train_dataloader()))


def test_splits_are_made_by_seed(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(20):
            picture = pictures(1, 20, 20, seed=number + 100 * (name == "dog"))[0]
            cv2.imwrite(str(tmp_path / name / f"{number}.png"), picture)

    def files(**options):
        data = ClassificationData(str(tmp_path), num_workers=0, **options)
        tables = {split: data.table(split) for split in data.splits}
        return {split: {table.images.name(i) for i in range(len(table))} for split, table in tables.items()}

    made = files(val_fraction=0.2)
    assert {split: len(names) for split, names in made.items()} == {"train": 24, "val": 8, "test": 8}
    assert made == files(val_fraction=0.2)
    assert made != files(val_fraction=0.2, seed=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"image_size": 4}, "image_size must be at least 8, got 4"),
        ({"val_fraction": 0.5}, "val_fraction must be between 0 and 0.5, got 0.5"),
        ({"crop_fraction": 1.2}, "crop_fraction must be above 0 and at most 1, got 1.2"),
        ({"mix": "mix"}, "mix must be one of none, mixup, cutmix, both, remix, got 'mix'"),
        ({"density_weights": "linear"}, "density_weights must be one of inverse, sqrt_inverse, got 'linear'"),
        ({"mix_alpha": 0.0}, "mix_alpha must be greater than 0, got 0.0"),
        ({"mix_prob": 2.0}, r"mix_prob must be in 0\.\.1, got 2.0"),
        ({"normalisation": "x"}, "normalisation must be one of auto, imagenet, half, got 'x'"),
        ({"augment": "stong"}, "There is no augmentation 'stong'"),
        ({"target": "label"}, "target, kind and image_column say how to read a path"),
        ({"path": "somewhere", "long_tailed": True}, "long_tailed thins out the embedded digits only"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UserError, match=message):
        ClassificationData(**options)


def test_options_that_do_not_go_with_the_data(photos, monkeypatch):
    with pytest.raises(UserError, match="device_augment needs pictures that are equal squares of at most 64 pixels"):
        _ = ClassificationData(str(photos), device_augment=True).info
    with pytest.raises(UserError, match="no split 'holdout'"):
        _ = ClassificationData(str(photos), val_split="holdout").info
    with pytest.raises(UserError, match="path 'x' and source cannot both be given"):
        ClassificationData("x", source=small().source)
    monkeypatch.setattr(classification, "rank_of", lambda trainer: (0, 45))
    with pytest.raises(UserError, match=r"train split holds 45 images for 45 processes"):
        small().train_dataloader()
    assert len(small(batch_size=1).train_dataloader()) == 1
    with pytest.raises(UserError, match=r"val split holds 9 images for 45 processes"):
        small().val_dataloader()


def test_columns_are_chosen_and_splits_that_are_not_used_named(photos, tmp_path):
    lines = [f"{path},no.png,{path.parent.name},{k % 3}" for k, path in enumerate(sorted(photos.rglob("*.png")))]
    table = tmp_path / "table.csv"
    table.write_text("photo_b,image,a,b\n" + "\n".join(lines))
    data = ClassificationData(str(table), image_column="photo_b", target="b", kind="regression", num_workers=0)
    assert data.info.task == "regression"
    assert data.info.target_names == ("b",)
    table.write_text("image,label,split\n" + "".join(f"{line.split(',')[0]},{k % 2},{s}\n" for k, line in
                     enumerate(lines) for s in [("train", "val", "extra")[k // 2 % 3]]))  # fmt: skip
    data = ClassificationData(str(table), num_workers=0)
    assert data.splits == ("train", "val")
    assert "the split 'extra' (" in data.report


def test_no_class_with_a_second_image(tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "0.png"), pictures(1, 20, 20, seed=ord(name))[0])
    with pytest.raises(UserError, match=r"none of the 3 images can be held out .* no class has a second one; add"):
        _ = ClassificationData(str(tmp_path)).info


@pytest.mark.parametrize("workers", [0, 1])
def test_augmentation_can_be_switched_between_two_epochs(photos, workers):
    """Off: what evaluation shows; on again: the pure function of seed, epoch and index that it was."""
    data = ClassificationData(str(photos), batch_size=6, num_workers=workers, image_size=32, augment="strong")
    data.setup("fit")
    loader = data.train_dataloader()
    plain = ClassificationData(str(photos), batch_size=6, num_workers=0, image_size=32, augment="none")
    plain.setup("fit")
    seen = []
    for on in (True, False, True):
        data.set_augmentation(augment=on)
        seen.append([batch["images"] for batch in loader])
    bare = [batch["images"] for batch in plain.train_dataloader()]
    assert all(torch.equal(a, b) for a, b in zip(seen[0], seen[2], strict=True))
    # pictures that are to be cropped are kept larger, so the two are scaled down from different sizes
    away, off = ((torch.cat(images).float() - torch.cat(bare).float()).abs().mean() for images in seen[:2])
    assert off < 4 < 20 < away


def test_what_is_done_on_the_device_can_be_switched():
    data = small(augment="strong", mix="both")
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    both = data.finish(batch, training=True)
    data.set_augmentation(mix=False)
    unmixed = data.finish(batch, training=True)
    data.set_augmentation(augment=False)
    assert torch.equal(data.finish(batch, training=True)["images"], batch["images"])
    data.set_augmentation(augment=True, mix=True)
    assert torch.equal(data.finish(batch, training=True)["images"], both["images"])
    assert both["images"].dtype == torch.float32
    assert unmixed["images"].dtype == torch.uint8
    assert not torch.equal(unmixed["images"], batch["images"])


@pytest.mark.parametrize("side", [24, 90])
def test_training_images_as_evaluation_reads_them(side: int) -> None:
    random = np.random.default_rng(0)
    pixels, labels = random.integers(0, 255, (12, side, side, 3), dtype=np.uint8), np.arange(12) % 2
    source = array_source((pixels, labels), (pixels, labels), classes=("a", "b"))
    data = ClassificationData(source=source, batch_size=5, num_workers=0, augment="strong", mix="mixup", image_size=32)
    data.setup("fit")
    train, val = (
        [data.finish(batch, training=False) for batch in data.evaluation_dataloader(role)] for role in ("train", "val")
    )
    assert torch.equal(torch.cat([b["images"] for b in train]), torch.cat([b["images"] for b in val]))
    assert torch.cat([b["targets"] for b in train]).tolist() == labels.tolist()


@pytest.mark.parametrize("fold", [None, "1/3"])
def test_images_that_are_missing_are_told_before_there_are_too_few(tmp_path, fold):
    (tmp_path / "labels.csv").write_text("image,label\na.png,cat\nb.png,dog\nc.png,eel\n", encoding="utf-8")
    options = {"path": str(tmp_path / "labels.csv"), "fold": fold}
    with pytest.raises(UserError, match=r"labels.csv names a missing image: .*a.png does not exist \(2 more like it\)"):
        ClassificationData(**options).prepare()
    with pytest.raises(UserError, match=r"add images"):
        ClassificationData(**options, skip_corrupt=True).prepare()
