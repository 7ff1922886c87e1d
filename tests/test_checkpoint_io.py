import os
import pickle
import resource
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from safetensors import safe_open
from torch.utils.data import DataLoader, TensorDataset

from dlrecipes.checkpoint_io import SafeCheckpointIO, load_checkpoint_file, save_checkpoint_file, save_safetensors
from dlrecipes.errors import CheckpointError


class _Shell:
    """Pickles to a call of the shell that leaves a file behind, as a malicious checkpoint would."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.system, (f"touch {self.witness}",)


class _Toy(pl.LightningModule):
    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(width, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).pow(2).mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.1)


def test_round_trip_leaves_no_temporary_file(tmp_path):
    path = tmp_path / "new" / "last.ckpt"
    checkpoint = {"state_dict": {"w": torch.arange(3.0)}, "epoch": 2, "nested": [{"a": (1, "b", None)}]}
    SafeCheckpointIO().save_checkpoint(checkpoint, path)
    loaded = SafeCheckpointIO().load_checkpoint(path)
    assert torch.equal(loaded["state_dict"]["w"], torch.arange(3.0))
    assert loaded["nested"] == [{"a": (1, "b", None)}]
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


def test_new_file_has_the_permissions_of_any_new_file(tmp_path):
    save_checkpoint_file({"a": 1}, tmp_path / "a.ckpt")
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.ckpt").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_old_file_survives_a_write_that_fails_half_way(tmp_path):
    path = tmp_path / "last.ckpt"
    save_checkpoint_file({"epoch": 1}, path)
    before = path.read_bytes()
    # a file-size limit makes the real write fail in the middle, as a full disk does
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(CheckpointError, match=r"could not be written .* the old file is kept") as caught:
            save_checkpoint_file({"w": torch.zeros(1 << 20)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_too_little_space_is_one_sentence_and_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    save_checkpoint_file({"epoch": 1}, path)
    usage = type("Usage", (), {"free": 3 << 20})()
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    save_checkpoint_file({"w": torch.zeros(1 << 18)}, path)  # 1 MiB + overhead fits into 3
    shared = torch.zeros(1 << 18)
    save_checkpoint_file({"w": shared, "tied": shared, "view": [shared[:5]]}, path)  # one storage counts once
    with pytest.raises(CheckpointError, match=r"17 MiB are needed, 3 MiB are free; the old file is kept"):
        save_checkpoint_file({"w": torch.zeros(1 << 22)}, path)
    assert set(load_checkpoint_file(path)) == {"w", "tied", "view"}


def test_parent_that_is_a_file_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"could not be written \(.+\); check the disk"):
        save_checkpoint_file({"a": 1}, tmp_path / "file" / "a.ckpt")


def test_objects_are_refused_when_written(tmp_path):
    path = tmp_path / "last.ckpt"
    save_checkpoint_file({"epoch": 1}, path)
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear"):
        save_checkpoint_file({"model": torch.nn.Linear(2, 2)}, path)
    assert load_checkpoint_file(path) == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("write", ["torch", "pickle"])
def test_malicious_file_is_refused_and_runs_nothing(tmp_path, write, protocol):
    path, witness = tmp_path / "evil.ckpt", tmp_path / "witness"
    content = {"state_dict": {}, "x": _Shell(witness)}
    if write == "torch":
        torch.save(content, path, pickle_protocol=protocol)
    else:
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    for weights_only in (None, True, False):
        with pytest.raises(CheckpointError, match=r"would run code when loaded \(it names posix\.system\)") as caught:
            SafeCheckpointIO().load_checkpoint(path, weights_only=weights_only)
        assert caught.value.exit_code == 2
        assert "\n" not in str(caught.value)
    assert not witness.exists()
    torch.load(path, weights_only=False) if write == "torch" else pickle.loads(path.read_bytes())
    assert witness.exists()  # the file was indeed able to


@pytest.mark.parametrize("content", [b"", b"hello world", b"PK\x03\x04 cut off", b"\x80\x04\x95"])
def test_what_is_no_checkpoint_is_one_sentence(tmp_path, content):
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged or no checkpoint") as caught:
        load_checkpoint_file(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_truncated_checkpoint_is_one_sentence(tmp_path, part):
    path = tmp_path / "x.ckpt"
    save_checkpoint_file({"w": torch.randn(1000), "b": list(range(500))}, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(CheckpointError, match="is damaged or no checkpoint"):
        load_checkpoint_file(path)


def test_a_flipped_bit_in_the_weights_is_found(tmp_path):
    path = tmp_path / "x.ckpt"
    save_checkpoint_file({"w": torch.zeros(1000)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(bytes(4000)) + 2000] ^= 1
    path.write_bytes(data)
    assert torch.load(path, weights_only=True)["w"].any()  # torch says nothing
    with pytest.raises(CheckpointError, match="is damaged or no checkpoint"):
        load_checkpoint_file(path)


def test_missing_folder_and_bare_tensor(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint_file(tmp_path / "none.ckpt")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_checkpoint_file(tmp_path)
    torch.save(torch.zeros(3), tmp_path / "t.ckpt")
    with pytest.raises(CheckpointError, match="holds a Tensor, not a dictionary"):
        load_checkpoint_file(tmp_path / "t.ckpt")


def test_safetensors_with_tied_and_strided_weights(tmp_path):
    weight = torch.arange(6.0).reshape(2, 3)
    path = tmp_path / "best.safetensors"
    save_safetensors({"a": weight, "tied": weight, "t": weight.T}, path, {"classes": '["x"]'})
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"classes": '["x"]'}
        assert torch.equal(file.get_tensor("tied"), weight)
        assert torch.equal(file.get_tensor("t"), weight.T)
    with pytest.raises(TypeError, match=r"metadata\['n'\]"):
        save_safetensors({"a": weight}, path, {"n": 3})
    with pytest.raises(TypeError, match=r"state_dict\['n'\]"):
        save_safetensors({"n": 3}, path)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning 2.6.6 on torch 2.14
@pytest.mark.filterwarnings("ignore:.*exists and is not empty")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_trainer_saves_and_resumes_through_it(tmp_path):
    def fit(epochs, ckpt_path=None):
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False, enable_model_summary=False,
            plugins=[SafeCheckpointIO()],
            callbacks=[pl.callbacks.ModelCheckpoint(tmp_path, save_last=True, enable_version_counter=False)],
        )  # fmt: skip
        model = _Toy()
        trainer.fit(model, DataLoader(TensorDataset(torch.ones(4, 2)), batch_size=2), ckpt_path=ckpt_path)
        return trainer, model

    _, first = fit(1)
    assert load_checkpoint_file(tmp_path / "last.ckpt")["global_step"] == 2
    trainer, second = fit(2, tmp_path / "last.ckpt")
    assert trainer.global_step == 4
    assert not torch.equal(first.layer.weight, second.layer.weight)
    (tmp_path / "last.ckpt").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="damaged"):
        fit(3, tmp_path / "last.ckpt")
