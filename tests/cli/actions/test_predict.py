"""Names and numbers of predicted images, and damaged run folders."""

from pathlib import Path

import pytest
import torch

from dlrecipes.cli.actions.predict import _make_folder, load_task
from dlrecipes.cli.actions.predict_detection import image_ids, picture_names
from dlrecipes.errors import UserError


def test_image_ids_are_cocos_where_the_files_are_named_by_them() -> None:
    assert image_ids(["x/000000397133.jpg", "x/000000000139.jpg"]) == [397133, 139]
    assert image_ids(["x/1.jpg", "y/1.jpg"]) == [0, 1]
    assert image_ids(["x/cat.jpg", "x/2.jpg"]) == [0, 1]


def test_pictures_of_one_name_keep_apart() -> None:
    assert picture_names(["in/x/1.jpg", "in/y/1.jpg"]) == ["x_1.jpg.png", "y_1.jpg.png"]
    assert picture_names(["in/1.jpg", "in/1.png"]) == ["1.jpg.png", "1.png.png"]


@pytest.mark.parametrize("config", [b"\xff\xfe\x00", b"model: [1", b"", b"model: 3", b"model: {class_path: 3}"])
def test_a_damaged_config_is_one_sentence(config: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(config)
    with pytest.raises(UserError, match=r"config\.yaml") as caught:
        load_task(tmp_path / "checkpoints" / "best.ckpt", torch.device("cpu"))
    assert "\n" not in str(caught.value)


def test_yaml_that_would_run_code_is_refused(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    (tmp_path / "config.yaml").write_text(f"model: !!python/object/apply:os.system ['touch {witness}']")
    with pytest.raises(UserError, match="cannot be read"):
        load_task(tmp_path / "checkpoints" / "best.ckpt", torch.device("cpu"))
    assert not witness.exists()


def test_predictions_never_share_a_folder(tmp_path: Path) -> None:
    assert [_make_folder(None, tmp_path).name for _ in range(2)] == ["predict-001", "predict-002"]
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="give another --output"):
        _make_folder(tmp_path / "file", tmp_path)
