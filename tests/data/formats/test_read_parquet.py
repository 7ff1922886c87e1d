import io
import json
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from dlrecipes.data.formats import parquet_images
from dlrecipes.data.formats.discover_images import read_images
from dlrecipes.data.formats.parquet_images import ParquetImages
from dlrecipes.errors import UserError

pa = pytest.importorskip("pyarrow", reason="the extra dlrecipes[parquet] is not installed")
pq = pytest.importorskip("pyarrow.parquet")

PIXELS = np.random.default_rng(0).integers(0, 255, (12, 5, 6, 3), dtype=np.uint8)


def _png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


CELLS = [{"bytes": _png(p), "path": f"{k}.png"} for k, p in enumerate(PIXELS)]


def _write(path, columns, features=None, **options):
    table = pa.table(columns)
    if features is not None:
        info = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({b"huggingface": info.encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


NAMED = {"label": {"names": ["cat", "dog", "emu"], "_type": "ClassLabel"}}


def test_shards_of_hugging_face_with_class_names(tmp_path):
    for k in range(2):
        rows = CELLS[6 * k : 6 * k + 6]
        _write(tmp_path / f"data/train-0000{k}-of-00002.parquet", {"image": rows, "label": [0, 1] * 3}, NAMED)
    _write(tmp_path / "data/validation-00000-of-00001.parquet", {"image": CELLS[:1], "label": [1]}, NAMED)
    _write(tmp_path / "data/test-00000-of-00001.parquet", {"image": CELLS[:2], "label": [-1, -1]}, NAMED)
    source = read_images(tmp_path)
    assert {k: v.targets.tolist() for k, v in source.splits.items()} == {"train": [0, 1] * 6, "val": [1]}
    assert source.classes == ("cat", "dog", "emu")
    assert "all labels of test are -1 (hidden): it is left out" in source.notes
    images = source.splits["train"].images
    assert images.name(7).endswith("train-00001-of-00002.parquet#1")
    for k, pixels in enumerate(PIXELS):
        np.testing.assert_array_equal(images.read(k), pixels)
    assert images.size(3) == (5, 6)


@pytest.mark.parametrize("layout", ["train/0.parquet", "train.parquet"])
def test_other_layouts(tmp_path, layout):
    _write(tmp_path / layout, {"image": CELLS, "label": list("ab") * 6})
    source = read_images(tmp_path)
    assert list(source.splits) == ["train"]
    assert source.classes == ("a", "b")


def test_rows_are_read_lazily_by_threads_and_after_pickling(tmp_path, monkeypatch):
    file = _write(tmp_path / "a.parquet", {"pic": [c["bytes"] for c in CELLS]}, row_group_size=5)
    monkeypatch.setattr(parquet_images, "_BUDGET", 1)  # one row group at a time
    images = ParquetImages([file], "pic")
    assert [images.name(k).rpartition("#")[2] for k in (0, 4, 5, 11)] == ["0", "4", "5", "11"]
    order = np.random.default_rng(1).integers(0, 12, 200).tolist()
    with ThreadPoolExecutor(4) as pool:
        for k, pixels in zip(order, pool.map(images.read, order), strict=True):
            np.testing.assert_array_equal(pixels, PIXELS[k])
    assert len(pickle.dumps(images)) < 2000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(images)).read(11), PIXELS[11])
    with pytest.raises(IndexError, match="image 12 of 12"):
        images.read(12)


@pytest.mark.parametrize(
    ("columns", "features", "options", "task", "classes", "targets"),
    [
        ({"y": [0.5, 1.5, 2.5]}, None, {}, "regression", (), [[0.5], [1.5], [2.5]]),
        ({"label": [7, 9, 7]}, None, {}, "classification", ("7", "9"), [0, 1, 0]),
        ({"label": [True, False, True]}, None, {}, "classification", ("0", "1"), [1, 0, 1]),
        ({"a": [1, 0, 1], "b": [1, 1, 0]}, None, {}, "multilabel", ("a", "b"), [[1, 1], [0, 1], [1, 0]]),
        ({"tags": [["x", "y"], [], ["y"]]}, None, {}, "multilabel", ("x", "y"), [[1, 1], [0, 0], [0, 1]]),
        ({"tags": [[10], [2, 10], []]}, None, {}, "multilabel", ("2", "10"), [[0, 1], [1, 1], [0, 0]]),
        ({"labels": [[0], [2], []]}, {"labels": {"feature": {"names": ["a", "b", "c"]}}}, {}, "multilabel",
         ("a", "b", "c"), [[1, 0, 0], [0, 0, 1], [0, 0, 0]]),
        ({"age": [4, 5, 6]}, None, {"kind": "regression"}, "regression", (), [[4], [5], [6]]),
    ],
)  # fmt: skip
def test_the_target_tells_the_task(tmp_path, columns, features, options, task, classes, targets):
    file = _write(tmp_path / "data.parquet", {"image": CELLS[:3], **columns}, features)
    source = read_images(file, **options)
    assert (source.task, source.classes) == (task, classes)
    assert source.splits["all"].targets.tolist() == targets


def test_dictionary_split_and_weight_columns(tmp_path):
    labels = pa.array(["b", "a", "b"]).dictionary_encode()
    columns = {"image": CELLS[:3], "label": labels, "split": ["train", "val", "train"], "weight": [1.0, 2.0, 0.5]}
    source = read_images(_write(tmp_path / "data.parquet", columns))
    assert {k: v.targets.tolist() for k, v in source.splits.items()} == {"train": [1, 1], "val": [0]}
    assert source.splits["train"].weights.tolist() == [1.0, 0.5]
    np.testing.assert_array_equal(source.splits["train"].images.read(1), PIXELS[2])


@pytest.mark.parametrize(
    ("columns", "features", "options", "message"),
    [
        ({"image": CELLS[:2], "label": ["a", None]}, None, {}, r"a\.parquet#1: the column 'label' is empty"),
        ({"image": CELLS[:2], "label": [0, 5]}, NAMED, {}, r"a\.parquet#1: the label 5 in 'label' has no class name"),
        ({"image": ["x.png", "y.png"], "label": [0, 1]}, None, {}, r"none of the columns .* holds image bytes"),
        ({"image": CELLS[:2]}, None, {}, r"no column with labels"),
        ({"image": CELLS[:2], "label": [0, 1]}, NAMED, {"image_column": "pic"}, r"no column 'pic' of image bytes"),
        ({"image": CELLS[:2], "label": [0, 1]}, NAMED, {"kind": "regression"}, r"holds no numbers but class names"),
        ({"image": CELLS[:2], "label": [[0], [1]]}, None, {"kind": "classification"}, r"holds lists of labels"),
        ({"image": CELLS[:2], "label": [0, 1], "weight": ["a", "b"]}, None, {}, r"'weight' must hold a number"),
    ],
)
def test_broken_columns_are_one_sentence(tmp_path, columns, features, options, message):
    file = _write(tmp_path / "a.parquet", columns, features)
    with pytest.raises(UserError, match=message):
        read_images(file, **options)


def test_missing_bytes_name_the_row(tmp_path):
    file = _write(tmp_path / "a.parquet", {"image": [CELLS[0], {"bytes": None, "path": "b.png"}], "label": [0, 1]})
    images = read_images(file).splits["all"].images
    assert images.size(1) is None
    with pytest.raises(UserError, match=r"a\.parquet#1 cannot be decoded as an image \(its bytes are missing\)"):
        images.read(1)


def test_damaged_file_and_missing_package(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match=r"a\.parquet cannot be read as Parquet"):
        read_images(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r'needs pyarrow; pip install "dlrecipes\[parquet\]"'):
        read_images(tmp_path)
