"""A run stopped in mid-epoch by Lightning and resumed goes on with exactly the batches that it would have had."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import Dataset

from dlrecipes.data.loading.loader import ResumableDataLoader, leaves_out_rest, make_loader
from dlrecipes.data.loading.sampler import EpochSampler
from dlrecipes.errors import UserError

# https://github.com/Lightning-AI/pytorch-lightning: 2.6.6 builds torch's LeafSpec, which torch 2.14 deprecates
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path., callbacks"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]


class Pairs(Dataset):
    def __getitem__(self, key):
        return torch.tensor(key)


class Recorder(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.global_step, batch_idx, [tuple(pair) for pair in batch.tolist()]))
        return self.weight * batch.float().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-6)


class ValidatedRecorder(Recorder):
    def validation_step(self, batch, batch_idx):
        self.validated = batch


def loader(size=22, batch_size=4, workers=0, shuffle=True, drop_last=False, **kwargs):
    return make_loader(
        Pairs(),
        EpochSampler(size, shuffle=shuffle, seed=3, **kwargs),
        batch_size=batch_size,
        num_workers=workers,
        drop_last=drop_last,
    )


def fit(folder, workers=0, resume=None, callbacks=(), accumulate=1, validate=False, drop_last=False, **kwargs):
    module = ValidatedRecorder() if validate else Recorder()
    trainer = L.Trainer(
        **{"max_epochs": 3, **kwargs},
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(callbacks),
        callbacks=list(callbacks),
        accumulate_grad_batches=accumulate,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(
        module,
        loader(workers=workers, drop_last=drop_last),
        loader(4, shuffle=False) if validate else None,
        ckpt_path=resume,
        weights_only=True,
    )
    return module.seen


def saved(folder, every, **kwargs):
    """Straight run that also keeps a checkpoint every so many steps; (what it saw, checkpoints by step)."""
    keep = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=every, save_top_k=-1)
    seen = fit(folder, callbacks=[keep], **kwargs)
    return seen, {int(path.stem.removeprefix("step=")): path for path in folder.glob("*.ckpt")}


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_run_sees_the_same_batches(tmp_path, workers):
    """22 samples in batches of 4: 6 batches an epoch. In mid-epoch, at an epoch's end, right after one."""
    straight, checkpoints = saved(tmp_path, every=1, workers=workers)
    assert [entry[0] for entry in straight] == list(range(18))
    assert sorted({pair for _, _, batch in straight for pair in batch}) == [(e, i) for e in range(3) for i in range(22)]
    for step in (1, 5, 6, 7, 16) if workers == 0 else (4, 6):
        assert fit(tmp_path, workers=workers, resume=checkpoints[step]) == straight[step:], step


def test_worker_count_makes_no_difference(tmp_path):
    assert fit(tmp_path, workers=0, max_epochs=2) == fit(tmp_path, workers=2, max_epochs=2)


def test_resumed_with_accumulated_gradients(tmp_path):
    straight, checkpoints = saved(tmp_path, every=2, accumulate=2, max_epochs=2)
    assert set(checkpoints) == {2, 4, 6}
    assert fit(tmp_path, accumulate=2, max_epochs=2, resume=checkpoints[2]) == straight[4:]
    assert fit(tmp_path, accumulate=2, max_epochs=2, resume=checkpoints[4]) == straight[8:]


@pytest.mark.parametrize("limits", [{"max_epochs": -1, "max_steps": 15}, {"max_epochs": 3, "limit_train_batches": 5}])
def test_resumed_under_other_limits(tmp_path, limits):
    straight, checkpoints = saved(tmp_path, every=1, **limits)
    for step in (3, 5, 6, 7, 11):
        assert fit(tmp_path, resume=checkpoints[step], **limits) == straight[step:], step


def test_resumed_from_a_checkpoint_written_after_validation(tmp_path):
    keep = ModelCheckpoint(tmp_path, filename="{epoch}", every_n_epochs=1, save_top_k=-1)
    straight = fit(tmp_path, callbacks=[keep], validate=True)
    for epoch in (0, 1):
        resumed = fit(tmp_path, resume=tmp_path / f"epoch={epoch}.ckpt", validate=True)
        assert resumed == straight[6 * (epoch + 1) :]


def test_resumed_twice_in_one_epoch(tmp_path):
    straight, checkpoints = saved(tmp_path, every=1)
    keep = ModelCheckpoint(tmp_path / "second", filename="{step}", every_n_train_steps=1, save_top_k=-1)
    fit(tmp_path, resume=checkpoints[2], callbacks=[keep])
    assert fit(tmp_path, resume=tmp_path / "second" / "step=4.ckpt") == straight[4:]


def test_resumed_without_the_smaller_last_batch(tmp_path):
    straight, checkpoints = saved(tmp_path, every=1, drop_last=True)
    assert [entry[0] for entry in straight] == list(range(15))
    assert all(len(batch) == 4 for _, _, batch in straight)
    for step in (1, 4, 5, 6, 14):
        assert fit(tmp_path, resume=checkpoints[step], drop_last=True) == straight[step:], step


def test_without_the_smaller_last_batch():
    source = loader(drop_last=True)
    assert len(source) == len(list(source)) == 5
    assert [batch.tolist() for batch in source] == [batch.tolist() for batch in loader()][:5]
    source.load_state_dict({"epoch": 0, "batches": 5, "batch_size": 4, "world_size": 1})
    assert list(source) == []
    left_out = []
    for epoch in range(3):
        source.sampler.set_epoch(epoch)
        left_out.append(set(range(22)) - {i for batch in source for _, i in batch.tolist()})
    assert all(len(rest) == 2 for rest in left_out)
    assert len(set.union(*left_out)) > 2  # others in each epoch


@pytest.mark.parametrize(
    ("samples", "batch_size", "expected"),
    [
        *((80, 4, False), (81, 4, True), (83, 4, True), (79, 4, False), (77, 4, True), (3, 4, False), (1, 4, False)),
        *((7, 1, False), (100, 1, False)),
    ],
)
def test_which_rest_is_left_out(samples, batch_size, expected):
    """From 20 full batches on any rest; before, one sample alone; never the only batch."""
    assert leaves_out_rest(samples, batch_size) is expected


def test_counts_what_was_handed_out_not_what_was_prepared():
    source = loader(workers=1)
    batches = iter(source)
    next(batches)
    next(batches)
    assert source.state_dict() == {"epoch": 0, "batches": 2, "batch_size": 4, "world_size": 1}
    assert len(source) == 6


def test_loaded_position_is_used_once_and_only_for_its_epoch():
    whole = [batch.tolist() for batch in loader()]
    source = loader()
    source.load_state_dict({"epoch": 0, "batches": 2, "batch_size": 4, "world_size": 1})
    assert source.state_dict()["batches"] == 2
    assert [batch.tolist() for batch in source] == whole[2:]
    assert [batch.tolist() for batch in source] == whole
    source.load_state_dict({"epoch": 0, "batches": 2, "batch_size": 4, "world_size": 1})
    source.sampler.set_epoch(1)
    assert source.state_dict()["batches"] == 0
    assert len(list(source)) == 6


def test_a_pass_draws_nothing_from_the_global_random_stream():
    before = torch.random.get_rng_state()
    list(loader(workers=1))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("change", [{"batch_size": 8}, {"world_size": 2}])
def test_other_batches_in_mid_epoch_are_refused(change):
    state = {"epoch": 1, "batches": 2, "batch_size": 4, "world_size": 1}
    resumed = loader()
    resumed.load_state_dict({**state, **change})
    with pytest.raises(UserError, match="middle of epoch 1 with batch size"):
        next(iter(resumed))
    resumed.load_state_dict({**state, **change, "batches": 0})  # at an epoch's start nothing can go wrong
    next(iter(resumed))


def test_after_an_epochs_end_any_batches_go_on():
    resumed = loader()
    whole = list(resumed)
    resumed.load_state_dict({"epoch": 1, "batches": len(whole), "batch_size": 2, "world_size": 1})
    resumed.sampler.set_epoch(2)
    assert len(list(resumed)) == len(whole)


@pytest.mark.parametrize(
    ("arguments", "message"), [({"batch_size": 0}, "batch_size .* 0"), ({"workers": -1}, "num_workers .* -1")]
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        loader(**arguments)


def test_needs_its_own_sampler():
    with pytest.raises(TypeError, match="EpochSampler, got SequentialSampler"):
        next(iter(ResumableDataLoader([1, 2], batch_size=1)))
