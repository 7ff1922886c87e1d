"""What is settled before the run folder is made."""

import re
from types import SimpleNamespace

import pytest

from dlrecipes.cli.options.arguments import Arguments
from dlrecipes.cli.recipe.planning import plan
from dlrecipes.errors import UserError


@pytest.mark.parametrize(("repeats", "epochs"), [({}, 7), ({"epoch_size": 130}, 3)])
def test_epochs_follow_from_the_samples_of_an_epoch(
    repeats: dict[str, int], epochs: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images that are repeated make an epoch longer."""
    trainer = {
        "max_epochs": None, "max_steps": -1, "max_time": None, "devices": 1, "num_nodes": 1, "accelerator": "cpu",
        "accumulate_grad_batches": 1, "check_val_every_n_epoch": 1,
    }  # fmt: skip
    config = {"trainer": trainer, "overfit": None, "steps_needed": 50}
    data = SimpleNamespace(info=SimpleNamespace(num_train=64), batch_size=8, **repeats)
    cli = SimpleNamespace(config=config, config_init={"trainer": dict(trainer)}, datamodule=data, model=None)
    assert plan(cli, Arguments(argv=())) is None
    assert config["trainer"]["max_epochs"] == cli.config_init["trainer"]["max_epochs"] == epochs
    expected = f"About 50 steps are needed, which are {epochs} epochs of the 64 images.\n"
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"max_epochs": 0}, "--epochs 0 trains nothing: give 1 or more."),
        ({"max_steps": 0}, "--trainer.max_steps 0 trains nothing: give 1 or more."),
        ({"devices": 99}, "--devices 99: without a GPU each is a process, and 4 CPU cores "),
        ({"devices": "99"}, "--devices 99: without a GPU each is a process, and 4 CPU cores "),
        ({"devices": 5}, "for more than 4; take so many or fewer."),
    ],
)
def test_what_lightning_would_take_and_nobody_can_want(
    setting: dict[str, object], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No epoch; 99 processes on two cores, which stood still for a quarter of an hour."""
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    trainer = {"max_epochs": 3, "max_steps": -1, "devices": 1, "num_nodes": 1, "accelerator": "cpu", **setting}
    cli = SimpleNamespace(config={"trainer": trainer, "overfit": None, "steps_needed": None}, datamodule=None)
    with pytest.raises(UserError, match=re.escape(sentence)):
        plan(cli, Arguments(argv=()))


@pytest.mark.parametrize(("devices", "cores"), [(2, 1), (4, 4), ("auto", 1)])
def test_as_many_processes_as_cores_and_two_on_one_are_allowed(
    devices: object, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two on one core are how distributed training is tested."""
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    trainer = {"max_epochs": None, "max_steps": -1, "devices": devices, "num_nodes": 1, "accelerator": "cpu"}
    cli = SimpleNamespace(config={"trainer": trainer, "overfit": None, "steps_needed": None}, datamodule=None)
    assert plan(cli, Arguments(argv=())) is None
