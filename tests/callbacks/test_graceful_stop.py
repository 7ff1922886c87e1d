from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from toy_fit import SendSignal, ToyModule, fit, same_weights

from dlrecipes.callbacks import GracefulStop, StopRequested

SCRIPT = Path(__file__).with_name("toy_fit.py")
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ToyModule]:
    return fit(tmp_path_factory.mktemp("reference"), num_workers=0)


@pytest.mark.parametrize(
    ("signum", "when", "remaining"),
    [
        pytest.param(signal.SIGTERM, {"batch": 0}, (42 - 3, 30), id="waits for the optimizer step"),
        pytest.param(
            signal.SIGINT, {"batch": 19}, (42 - 20, 20 - 0), id="before a validation that is then made on resume"
        ),
        pytest.param(signal.SIGTERM, {"batch": 13}, (42 - 17, 20), id="last batch of an epoch"),
        pytest.param(signal.SIGTERM, {"batch": 41}, (0, 0), id="last batch of all"),
        pytest.param(signal.SIGTERM, {"validation": 7}, (42 - 12, 25), id="in a validation, which is repeated in full"),
        pytest.param(signal.SIGTERM, {"validation": 9}, (42 - 12, 25), id="last batch of a validation"),
    ],
)
def test_stop_saves_a_checkpoint_that_resumes_bitwise(
    reference: tuple[Any, ToyModule], tmp_path: Path, signum: int, when: dict[str, int], remaining: tuple[int, int]
) -> None:
    trainer, module = reference
    handlers = [signal.getsignal(number) for number in HANDLED]
    with pytest.raises(StopRequested) as stop:
        fit(tmp_path, SendSignal(signum, **when), num_workers=0)
    assert stop.value.code == 128 + signum
    assert [signal.getsignal(number) for number in HANDLED] == handlers

    counter = SendSignal(signal.SIGTERM)
    resumed_trainer, resumed = fit(tmp_path, counter, num_workers=0, resume=tmp_path / "stopped.ckpt")
    assert same_weights(resumed, module)
    assert (counter.seen_batches + 1, counter.seen_validation_batches + 1) == remaining
    score = resumed_trainer.checkpoint_callback.best_model_score
    assert score == trainer.checkpoint_callback.best_model_score


def test_stop_at_an_epochs_end_makes_the_validation_on_resume(tmp_path: Path) -> None:
    options: dict[str, Any] = {"num_workers": 0, "val_check_interval": 1.0}
    _, module = fit(tmp_path / "whole", **options)
    with pytest.raises(StopRequested):
        fit(tmp_path, SendSignal(signal.SIGTERM, batch=13), **options)
    counter = SendSignal(signal.SIGTERM)
    _, resumed = fit(tmp_path, counter, resume=tmp_path / "stopped.ckpt", **options)
    assert same_weights(resumed, module)
    assert (counter.seen_batches + 1, counter.seen_validation_batches + 1) == (28, 15)


def test_stop_in_the_sanity_check_saves_nothing(tmp_path: Path) -> None:
    with pytest.raises(StopRequested) as stop:
        fit(tmp_path, SendSignal(signal.SIGTERM, sanity=True), num_workers=0)
    assert stop.value.code == 143
    assert not list(tmp_path.glob("*.ckpt"))


def test_outside_of_the_main_thread_it_does_nothing(tmp_path: Path) -> None:
    handlers: list[Any] = []

    class Look(SendSignal):
        def on_train_batch_start(self, *args: Any) -> None:
            handlers.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(
        target=fit, args=(tmp_path, Look(signal.SIGTERM)), kwargs={"num_workers": 0, "max_epochs": 1}
    )
    thread.start()
    thread.join(60)
    assert len(handlers) == 14
    assert set(handlers) == {before}


def test_empty_path_is_refused() -> None:
    with pytest.raises(ValueError, match="path must name"):
        GracefulStop("")


class SignalBreaksLoader(pl.Callback):
    """A signal while the loop waits for a batch that will not come: a training or a validation batch."""

    def __init__(self, training: bool) -> None:
        self.training = training

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if self.training and trainer.fit_loop.total_batch_idx == 8:
            self._break(trainer.train_dataloader.dataset)

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if not self.training and trainer.validating and args[3] == 2:
            self._break(trainer.val_dataloaders.dataset)

    @staticmethod
    def _break(dataset: Any) -> None:
        def fail(self: Any, key: Any) -> None:
            del type(self).__getitem__
            os.kill(os.getpid(), signal.SIGTERM)
            raise RuntimeError("DataLoader worker exited unexpectedly")

        dataset.__class__ = type("Broken", (type(dataset),), {"__getitem__": fail})


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, SCRIPT, folder, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,  # its own process group, so that a signal to the group does not end pytest
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_real_process_ends_with_the_right_code(tmp_path: Path) -> None:
    twice = start(tmp_path / "twice", "--signal=SIGINT", "--batch=4", "--times=2")
    endless = start(tmp_path / "group", "--max-epochs=100000")
    try:
        deadline = time.monotonic() + 300
        while not list((tmp_path / "group").glob("at_step=4.ckpt")):
            assert endless.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(endless.pid, signal.SIGTERM)  # as a scheduler does: the loader's workers get it too
        assert endless.wait(timeout=120) == 143
        assert (tmp_path / "group" / "stopped.ckpt").exists()
        # The second signal has its default effect: no checkpoint, no waiting.
        assert twice.wait(timeout=120) == -signal.SIGINT
        assert not (tmp_path / "twice" / "stopped.ckpt").exists()
    finally:
        for process in (twice, endless):
            process.kill()
            process.wait(timeout=120)


@pytest.mark.parametrize("training", [True, False], ids=["training", "validation"])
def test_loader_that_fails_after_the_signal_does_not_cost_the_checkpoint(
    reference: tuple[Any, ToyModule], tmp_path: Path, training: bool
) -> None:
    """As when the signal has ended the loader's workers too."""
    with pytest.raises(StopRequested) as stop:
        fit(tmp_path, SignalBreaksLoader(training), num_workers=0)
    assert stop.value.code == 143
    _, resumed = fit(tmp_path, num_workers=0, resume=tmp_path / "stopped.ckpt")
    assert same_weights(resumed, reference[1])
