import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import lightning as L
import numpy as np
import pytest
import torch

from dlrecipes.contracts import DataInfo
from dlrecipes.data import DetectionData, export_coco, predict_loader
from dlrecipes.data.augment.transforms import LightAugment, ResizeLongest
from dlrecipes.data.embedded.scenes import CLASSES, DigitScenes
from dlrecipes.data.loading.box_dataset import SceneDataset
from dlrecipes.data.loading.cache import ImageCache
from dlrecipes.data.loading.collate import collate_detection
from dlrecipes.data.loading.workers import planned_epochs
from dlrecipes.errors import UserError

REAL = Path(os.environ.get("DLRECIPES_DATA", "unset"))
needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason="DLRECIPES_DATA does not name the folder of real data")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DLRECIPES_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return str(export_coco(tmp_path_factory.mktemp("coco"), num_images={"train": 12, "val": 5, "test": 4}))


def scenes(**kwargs):
    return DetectionData(**{"batch_size": 4, "num_workers": 0, "scenes_train": 12, **kwargs})


def files(path, **kwargs):
    return DetectionData(path, **{"batch_size": 4, "num_workers": 0, "image_size": 96, **kwargs})


def epoch(loader, number=0):
    loader.sampler.set_epoch(number)
    return list(loader)


def same(a, b):
    return len(a) == len(b) and all(
        x["paths"] == y["paths"]
        and torch.equal(x["images"], y["images"])
        and all(torch.equal(s[k], t[k]) for s, t in zip(x["targets"], y["targets"], strict=True) for k in s)
        for x, y in zip(a, b, strict=True)
    )


def write_coco(folder, split, images, crowd=()):
    """A COCO split of grey pictures; ``images`` maps (width, height) and a list of (category id, xywh)."""
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / split).mkdir(exist_ok=True)
    content = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "dog"}, {"id": 90, "name": "cat"}]}
    for number, ((width, height), objects) in enumerate(images, start=1):
        name = f"{split}{number}.png"
        noise = np.random.default_rng(number + len(split)).integers(0, 256, (height, width, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / split / name), noise)
        content["images"].append({"id": number, "file_name": name, "width": width, "height": height})
        for category, box in objects:
            own = len(content["annotations"]) + 1
            content["annotations"].append(
                {
                    "id": own,
                    "image_id": number,
                    "category_id": category,
                    "bbox": box,
                    "area": 5.0 + own,
                    "iscrowd": int(own in crowd),
                }
            )
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


@pytest.fixture
def small(tmp_path):
    folder = tmp_path / "small"
    objects = [(90, [10, 10, 20, 10]), (7, [0, 0, 30, 30])]
    write_coco(folder, "train", [((100, 50), objects), ((50, 100), []), ((60, 60), objects)], crowd={2})
    write_coco(folder, "val", [((100, 50), objects), ((64, 64), objects)], crowd={2})
    return str(folder)


def test_embedded_batches_keep_the_contract():
    data = scenes(transform="none")
    data.setup("fit")
    batches = epoch(data.train_dataloader())
    assert len(batches) == 3
    truth = DigitScenes("train", num_images=12)
    for batch in batches:
        assert batch["images"].shape == (4, 3, 96, 96)
        assert batch["images"].dtype == torch.uint8
        assert batch["mask"] is None
        assert batch["sizes"].tolist() == batch["orig_sizes"].tolist() == [[96, 96]] * 4
        for position, index in enumerate(batch["image_ids"]):
            image, boxes, labels = truth.scene(0, index)
            target = batch["targets"][position]
            assert batch["paths"][position] == f"scene:train:{index}"
            assert np.array_equal(batch["images"][position].permute(1, 2, 0).numpy(), image)
            assert target["labels"].tolist() == labels.tolist()
            assert target["boxes"].dtype == target["area"].dtype == torch.float32
            centre, side = target["boxes"][:, :2] * 96, target["boxes"][:, 2:] * 96
            assert torch.allclose(torch.cat([centre - side / 2, centre + side / 2], 1).double(), torch.tensor(boxes))
            assert torch.allclose(target["area"], side.prod(1))
            assert not target["iscrowd"].any()
    assert sorted(i for batch in batches for i in batch["image_ids"]) == list(range(12))


def test_embedded_info_and_notes():
    data = scenes(scenes_train=300)
    assert isinstance(data.info, DataInfo)
    assert data.info.classes == CLASSES
    assert data.info.category_ids == tuple(range(1, 11))
    assert data.info.num_train == 300
    assert data.info.max_objects == 8
    assert data.info.image_size == 96
    assert sum(data.info.class_counts) == sum(len(DigitScenes("train").labels(0, i)) for i in range(300))
    assert "300 new ones each epoch" in data.notes[0]
    assert all(note.endswith(".") for note in data.notes)
    assert "zero" in data.report
    assert data.splits == ("train", "val", "test")
    tail = scenes(scenes_train=300, long_tailed=True).info.class_counts
    assert tail[0] > 5 * tail[9]


@pytest.mark.parametrize("transform", ["none", "light"])
def test_same_samples_for_any_number_of_workers_and_new_ones_each_epoch(transform):
    def run(workers):
        data = scenes(num_workers=workers, transform=transform)
        data.setup("fit")
        loader = data.train_dataloader()
        return [epoch(loader, number) for number in range(2)]

    alone, two = run(0), run(2)
    assert all(same(a, b) for a, b in zip(alone, two, strict=True))
    first, second = ({p: i for b in e for p, i in zip(b["paths"], b["images"], strict=True)} for e in alone)
    assert all(not torch.equal(first[path], second[path]) for path in first)


def test_held_out_scenes_depend_on_neither_seed_nor_epoch():
    def run(seed, number):
        data = scenes(seed=seed)
        data.setup("validate")
        return epoch(data.val_dataloader(), number)[:3]

    assert same(run(0, 0), run(5, 3))
    assert [batch["image_ids"] for batch in run(0, 0)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_exported_scenes_give_the_same_samples(exported):
    from_files, embedded = files(exported, transform="none"), scenes(transform="none")
    for data in (from_files, embedded):
        data.setup("fit")
    for a, b in zip(epoch(from_files.train_dataloader()), epoch(embedded.train_dataloader()), strict=True):
        b["paths"] = a["paths"]
        assert same([a], [b])
    assert from_files.info.category_ids == embedded.info.category_ids
    assert from_files.info.class_counts == embedded.info.class_counts


def test_ids_names_and_counts_of_files(small):
    data = files(small)
    data.setup("fit")
    assert data.info.classes == ("dog", "cat")
    assert data.info.category_ids == (7, 90)
    assert data.info.class_counts == (1, 2)  # one of the two dogs is a crowd
    assert data.info.max_objects == 2
    assert data.info.num_train == 3
    assert "dog" in data.report
    assert data.audit_report is not None
    assert [record.image_id for record in data.records("val")] == [1, 2]
    assert any("train: 3 decoded pictures" in note for note in data.notes)


def test_crowds_are_left_out_of_training_and_kept_for_evaluation(small):
    data = files(small, transform="none")
    data.setup("fit")
    train = {i: t for b in epoch(data.train_dataloader()) for i, t in zip(b["image_ids"], b["targets"], strict=True)}
    assert train[0]["labels"].tolist() == [1]
    assert train[0]["area"].tolist() == [6.0]  # the file's own, not the box's
    assert train[1]["boxes"].shape == (0, 4)
    val = next(iter(data.val_dataloader()))["targets"][0]
    assert val["labels"].tolist() == [1, 0]
    assert val["iscrowd"].tolist() == [False, True]
    assert val["area"].tolist() == [6.0, 7.0]


def test_padding_mask_and_relative_boxes(small):
    data = files(small, image_size=80, transform="none")
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    assert batch["images"].shape == (2, 3, 96, 96)  # 40 x 80 and 80 x 80, to multiples of 32
    assert batch["sizes"].tolist() == [[40, 80], [80, 80]]
    assert batch["orig_sizes"].tolist() == [[50, 100], [64, 64]]
    assert (~batch["mask"]).sum(dim=(1, 2)).tolist() == [40 * 80, 80 * 80]
    assert not batch["images"].permute(0, 2, 3, 1)[batch["mask"]].any()
    assert batch["images"][0, :, :40, :80].float().mean() > 50
    assert torch.allclose(batch["targets"][0]["boxes"][0], torch.tensor([0.2, 0.3, 0.2, 0.2]))
    assert torch.allclose(batch["targets"][1]["boxes"][0], torch.tensor([20 / 64, 15 / 64, 20 / 64, 10 / 64]))


def test_equal_sizes_are_not_padded_and_an_empty_batch_is_refused(small):
    data = files(small, image_size=80, batch_size=1)
    data.setup("validate")
    assert [b["mask"] for b in data.val_dataloader()] == [None, None]
    with pytest.raises(ValueError, match="samples must not be empty"):
        collate_detection([])


def test_paper_sizes(small):
    data = files(small, transform="paper", batch_size=1)
    data.setup("fit")
    assert (data.info.shortest_side, data.info.image_size) == (800, 1333)
    assert [b["sizes"].tolist() for b in data.val_dataloader()] == [[[666, 1333]], [[800, 800]]]
    assert any("800 by at most 1333" in note for note in data.notes)
    sizes = [tuple(b["sizes"][0].tolist()) for b in data.train_dataloader()]
    assert all(max(size) <= 1333 and min(size) > 200 for size in sizes)


def with_rank(data, rank, world):
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world, num_devices=world)
    return data


def test_ranks_share_out_evaluation_without_repeats(exported):
    seen = []
    for rank in range(2):
        data = with_rank(files(exported), rank, 2)
        data.setup("fit")
        seen += [i for batch in data.val_dataloader() for i in batch["image_ids"]]
        assert len(data.train_dataloader()) == 2
    assert sorted(seen) == [0, 1, 2, 3, 4]


def test_fewer_images_than_processes(exported):
    data = with_rank(files(exported), 0, 8)
    with pytest.raises(UserError, match="val split holds 5 images for 8 processes: use fewer devices"):
        data.val_dataloader()


def test_missing_splits_are_made_and_stated(tmp_path):
    box = [(7, [1, 1, 9, 9])]
    write_coco(tmp_path / "a", "train", [((40 + i, 40), box) for i in range(20)])
    write_coco(tmp_path / "a", "test", [((30, 40), box)])
    data = files(str(tmp_path / "a"), val_fraction=0.2)
    assert data.info.num_train == 16
    assert len(data.records("val")) == 4
    assert len(data.records("test")) == 1
    assert data.report.count("train 16, val 4") == 1
    assert not any("train 16, val 4" in note for note in data.notes)  # a run prints both
    again = files(str(tmp_path / "a"), val_fraction=0.2)
    assert [r.path for r in again.records("val")] == [r.path for r in data.records("val")]


def test_chosen_splits_must_exist(exported):
    swapped = files(exported, train_split="test", val_split="val", test_split="val")
    assert swapped.info.num_train == 4
    for name in ("train_split", "val_split", "test_split"):
        with pytest.raises(UserError, match="has no split 'dev', only train, val, test"):
            files(exported, **{name: "dev"}).prepare()
    with pytest.raises(UserError, match="has no split 'dev'"):
        files(exported).records("dev")


def test_no_test_split(small):
    data = files(small)
    data.setup("fit")
    with pytest.raises(UserError, match="has no split 'test', only train, val"):
        data.setup("test")


def test_augmentation_by_default(small):
    assert isinstance(scenes().transform, ResizeLongest)
    assert isinstance(files(small).transform, LightAugment)
    assert files(small).transform.flip is True
    assert scenes(transform="light").transform.flip is False
    assert (scenes(transform="strong").transform.flip, files(small, flip="none").transform.flip) == (False, False)
    microscope = files(small, flip="both", transform="strong").transform
    assert (microscope.flip, microscope.turn) == (True, True)


def test_setup_twice_keeps_what_is_there(small):
    data = files(small)
    data.setup("fit")
    notes = data.notes
    data.setup("fit")
    data.setup("validate")
    assert data.notes == notes


@pytest.mark.parametrize(("cores", "workers", "note"), [(2, 0, "all cores compute"), (6, 4, "4 worker processes")])
def test_number_of_workers_is_chosen_and_stated(monkeypatch, cores, workers, note):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    data = scenes(num_workers=None)
    data.setup("fit")
    assert data.train_dataloader().num_workers == workers
    assert data.val_dataloader().num_workers == workers
    assert sum(note in text for text in data.notes) == 1


def test_prediction_on_bare_pictures(small, exported):
    data = files(small, predict_paths=[f"{small}/val", f"{small}/train/train1.png"])
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert [Path(path).name for path in batch["paths"]] == ["val1.png", "val2.png", "train1.png"]
    assert batch["orig_sizes"].tolist() == [[50, 100], [64, 64], [50, 100]]
    assert all(target["boxes"].shape == (0, 4) for target in batch["targets"])
    data.setup("validate")
    assert torch.equal(next(iter(data.val_dataloader()))["images"][1], batch["images"][1])


class Predictor(L.LightningModule):
    def predict_step(self, batch, batch_idx):
        return batch["paths"]


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_prediction_through_the_trainer(exported):
    data = files(exported, predict_paths=f"{exported}/test", batch_size=3)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, use_distributed_sampler=False)
    batches = trainer.predict(Predictor(), data)
    assert [Path(path).name for paths in batches for path in paths] == [f"{i:06d}.png" for i in range(4)]


def test_nothing_to_predict_on(small, tmp_path):
    data = files(small)
    with pytest.raises(UserError, match="give predict_paths"):
        data.predict_dataloader()
    (tmp_path / "empty" / ".hidden").mkdir(parents=True)
    (tmp_path / "empty" / ".hidden" / "x.png").write_text("x")
    (tmp_path / "empty" / "._x.jpg").write_text("what an archive adds")
    for paths, message in (
        (tmp_path / "empty", "holds no image"),
        (tmp_path / "none.jpg", "does not exist"),
        ([], "No image to predict on was given"),
    ):
        with pytest.raises(UserError, match=message):
            predict_loader(paths, data.info)


def invert(image, boxes, labels, seed):
    return 255 - image, boxes, np.arange(len(boxes))


def lose_an_object(image, boxes, labels, seed):
    return image, boxes[1:], np.arange(len(boxes))


def test_own_transform_by_object_and_by_import_path(small, tmp_path, monkeypatch):
    (tmp_path / "own_transforms.py").write_text(
        "import numpy as np\ndef invert(image, boxes, labels, seed):\n"
        "    return 255 - image, boxes, np.arange(len(boxes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    by_object, by_path = files(small, transform=invert), files(small, transform="own_transforms.invert")
    for data in (by_object, by_path):
        data.setup("fit")
    picture = next(iter(by_object.train_dataloader()))
    assert same([picture], [next(iter(by_path.train_dataloader()))])
    sys.modules.pop("own_transforms")


def test_a_transform_that_breaks_the_protocol_is_named(small):
    data = files(small, transform=lose_an_object)
    data.setup("fit")
    with pytest.raises(UserError, match=r"transform function returned .* for .*train\d\.png"):
        list(data.train_dataloader())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
        ({"image_size": 8}, "image_size must be at least 32, got 8"),
        ({"val_fraction": 0.5}, "val_fraction must be between 0 and 0.5, got 0.5"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"transform": "heavy"}, "no transform 'heavy'"),
        ({"scenes_train": 0}, "scenes_train must be at least 1, got 0"),
        ({"max_queries": 0}, "max_queries must be at least 1, got 0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        DetectionData(**arguments)


def test_more_objects_than_queries(small):
    with pytest.raises(UserError, match="1 queries"):
        files(small, max_queries=1).prepare()
    with pytest.raises(UserError, match="up to 8 objects, but max_queries is 5"):
        scenes(max_queries=5).prepare()


def test_public_names_are_there():
    import dlrecipes.data as room

    for name in room.__all__:
        assert getattr(room, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Missing'"):
        _ = room.Missing


def training(data):
    data.setup("fit")
    return data.train_dataloader().dataset


def with_model(data, queries=None, **limits):
    model = SimpleNamespace() if queries is None else SimpleNamespace(num_queries=queries)
    limits = {"max_epochs": 10, "max_steps": -1, "limit_train_batches": 1.0, "accumulate_grad_batches": 1, **limits}
    data.trainer = SimpleNamespace(
        global_rank=0, world_size=1, num_devices=1, lightning_module=SimpleNamespace(model=model), **limits
    )
    return data


def test_mixed_files(small):
    data = with_model(files(small, mosaic=0.5, mixup=0.2))
    mixed = training(data)
    assert (mixed.closing_epoch, mixed.side, mixed.max_objects) == (8, 96, 2)
    assert any(note.endswith("(mosaic 0.5, mixup 0.2) up to epoch 8 of 10.") for note in data.notes)
    assert not isinstance(data.val_dataloader().dataset, type(mixed))
    assert training(with_model(files(small, mosaic=0.5), queries=11)).max_objects == 11
    assert training(with_model(files(small, mosaic=0.5, max_queries=7), queries=11)).max_objects == 7
    assert training(files(small, mosaic=0.5, max_queries=7)).closing_epoch is None
    few = with_model(files(small, mosaic=0.5), queries=11)
    few.trainer.lightning_module.model.most_objects = lambda height, width: 5  # cells that propose queries
    assert training(few).max_objects == 5
    few.trainer.lightning_module.model.most_objects = lambda height, width: 1
    with pytest.raises(UserError, match="holds 2 objects, and the model has only 1 place for"):
        few.val_dataloader()
    assert not any("decodes four pictures" in note for note in data.notes)


def test_mosaics_of_pictures_that_are_not_kept(small, monkeypatch):
    monkeypatch.setattr(ImageCache, "keeps_pictures", False)
    data = files(small, mosaic=0.5)
    data.setup("fit")
    assert sum("decodes four pictures" in note for note in data.notes) == 1


@pytest.mark.parametrize(
    ("limits", "epochs"),
    [
        ({}, 10),
        ({"max_steps": 7}, 4),  # two batches an epoch
        ({"max_steps": 700}, 10),
        ({"max_epochs": -1, "max_steps": 9}, 5),
        ({"max_epochs": -1}, None),  # max_time
        ({"max_epochs": None, "max_steps": 8, "accumulate_grad_batches": 2}, 8),
        ({"max_epochs": -1, "max_steps": 8, "limit_train_batches": 1}, 8),
        ({"max_epochs": -1, "max_steps": 8, "limit_train_batches": 0.5}, 8),
    ],
)
def test_length_of_a_run(limits, epochs):
    assert planned_epochs(with_model(scenes(), **limits).trainer, range(2)) == epochs


def test_scenes_are_neither_mixed_nor_repeated():
    data = scenes(mosaic=1.0)
    assert isinstance(training(data), SceneDataset)
    assert any("are not mixed" in note for note in data.notes)
    with pytest.raises(UserError, match="repeat_factor repeats images of your own"):
        scenes(repeat_factor=0.1)


def test_images_with_rare_classes_are_repeated(small):
    """Of three images one has the only dog that is no crowd; both classes are in 2/3 at most."""
    data = files(small, repeat_factor=1.0, mosaic=0.1)
    data.setup("fit")
    loader = data.train_dataloader()
    assert loader.sampler.sampler.factors.round(3).tolist() == [1.225, 1.0, 1.732]
    assert len(loader) == 1
    assert len(loader.sampler) == 4
    (batch,) = epoch(loader)
    assert sorted(set(batch["image_ids"])) == [0, 1, 2]
    assert loader.dataset._partners.round(3).tolist() == [0.31, 0.562, 1.0]  # rare ones are partners more often, too
    assert len(data.val_dataloader().sampler) == 2
    assert any("4 samples an epoch of 3 images" in note for note in data.notes)
    assert (data.epoch_size, files(small).epoch_size, data.info.num_train) == (4, 3, 3)


def test_what_to_expect_is_among_the_notes(small):
    data = files(small)
    data.prepare()
    assert data.notes[0].startswith("3 training images: expect")
    data.prepare()
    assert sum("training images: expect" in note for note in data.notes) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"flip": "vertical"}, "flip must be one of none, horizontal, both, got 'vertical'"),
        ({"flip": "both", "transform": "none"}, "flip='both' is for the presets light, strong, paper: leave it out"),
        ({"flip": "both", "transform": invert}, "flip='both' is for the presets"),
        ({"repeat_factor": 0.0}, "repeat_factor must be above 0 and at most 1, a share of the images, got 0"),
        ({"mosaic": 1.5}, "mosaic must be between 0 and 1, got 1.5"),
    ],
)
def test_wrong_training_options(small, arguments, message):
    with pytest.raises(UserError, match=message):
        files(small, **arguments)


@needs_real_data
def test_bccd_as_published():
    data = files(str(REAL / "bccd"), train_split="trainval", val_split="test", image_size=128)
    data.setup("fit")
    assert set(data.info.classes) == {"RBC", "WBC", "Platelets"}
    assert data.info.num_train == 292
    assert len(data.records("test")) == 72
    batch = next(iter(data.train_dataloader()))
    assert batch["images"].shape[0] == 4
    assert all(((t["boxes"] >= 0) & (t["boxes"] <= 1)).all() for t in batch["targets"])


@needs_real_data
def test_tiny_coco():
    data = files(str(REAL / "tiny_coco"), image_size=128)
    data.setup("fit")
    assert data.info.num_classes == len(data.info.category_ids) > 10
    assert data.info.category_ids != tuple(range(data.info.num_classes))
    for batch in data.val_dataloader():
        assert all((t["labels"] < data.info.num_classes).all() for t in batch["targets"])
