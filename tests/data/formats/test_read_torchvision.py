import pickle

import numpy as np
import pytest
import torchvision
from PIL import Image

from dlrecipes.data.formats.discover_images import read_images
from dlrecipes.data.formats.image_files import PathImages
from dlrecipes.errors import UserError


def test_fake_data():
    source = read_images("torchvision:FakeData")
    table = source.splits["all"]
    assert len(table) == 300
    assert source.classes == tuple("0123456789")
    image, label = torchvision.datasets.FakeData(300, (3, 32, 32))[17]
    np.testing.assert_array_equal(table.images.read(17), np.asarray(image))
    assert table.targets[17] == label
    assert table.images.name(17) == "torchvision:FakeData/all#17"


@pytest.fixture
def cifar_root(tmp_path, monkeypatch):
    """CIFAR-10's layout with two images a file; the checksums are the real files' and are not looked at."""
    base = tmp_path / "cifar-10-batches-py"
    base.mkdir()
    names = [name for name, _ in (*torchvision.datasets.CIFAR10.train_list, *torchvision.datasets.CIFAR10.test_list)]
    for k, name in enumerate(names):
        data = np.full((2, 3072), k, dtype=np.uint8)
        (base / name).write_bytes(pickle.dumps({"data": data, "labels": [k, 9 - k]}))
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {k}" for k in range(10)]}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    return tmp_path


def test_a_data_set_with_a_train_flag(cifar_root):
    source = read_images(f"torchvision:CIFAR10@{cifar_root}")
    assert {k: len(v) for k, v in source.splits.items()} == {"train": 10, "test": 2}
    assert source.classes[3] == "class 3"
    assert source.splits["train"].targets.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    assert source.splits["test"].images.read(1).tolist() == np.full((32, 32, 3), 5).tolist()
    assert source.notes == ()


def test_a_data_set_of_files_is_read_by_path_without_decoding(tmp_path):
    """EuroSAT is folders of classes; an undecodable image is no obstacle to reading the labels."""
    for name in ("Forest", "River"):
        folder = tmp_path / "eurosat" / "2750" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(folder / "1.jpg")
    (tmp_path / "eurosat/2750/River/2.jpg").write_text("no image")
    source = read_images(f"torchvision:EuroSAT@{tmp_path}")
    table = source.splits["all"]
    assert isinstance(table.images, PathImages)
    assert table.targets.tolist() == [0, 1, 1]
    assert source.classes == ("Forest", "River")
    assert table.images.name(2).endswith("River/2.jpg")
    assert source.notes == ("no split is given",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Cifar10", r"no data set 'Cifar10'; did you mean CIFAR10\?"),
        ("Nothing", r"no data set 'Nothing'; choose one such as CIFAR10"),
        ("CocoDetection", r"needs annFile"),
        ("FER2013", r"FER2013 is not in .*torchvision and cannot be downloaded \(.+\); put its files there"),
    ],
)
def test_what_cannot_be_had_is_one_sentence(name, message):
    with pytest.raises(UserError, match=message):
        read_images(f"torchvision:{name}")


def test_offline_names_the_folder(tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", unreachable)
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", unreachable)
    with pytest.raises(UserError, match=rf"CIFAR10 is not in {tmp_path} and cannot be downloaded \(no route to host\)"):
        read_images(f"torchvision:CIFAR10@{tmp_path}")
