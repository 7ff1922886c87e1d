"""What a rank says of another that is gone: real processes, and only the own end is written down instead."""

from __future__ import annotations

import copy
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from dlrecipes.callbacks import LostRank, lost_rank
from dlrecipes.callbacks.lost_rank import describe_loss

WAITS, GOOD = "import time; time.sleep(60)", "pass"
BAD = "import sys; sys.exit(3)"

Start = Callable[..., Any]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """A trainer in rank 0 and its other processes, each with such code."""
    started: list[subprocess.Popen[bytes]] = []

    def make(*codes: str) -> Any:
        started.extend(subprocess.Popen([sys.executable, "-S", "-c", code]) for code in codes)
        strategy = SimpleNamespace(launcher=SimpleNamespace(procs=started), cluster_environment=None)
        return SimpleNamespace(strategy=strategy, global_rank=0, procs=started)

    yield make
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> queue.Queue[int]:
    """The codes that this process would have ended with."""
    codes: queue.Queue[int] = queue.Queue()
    monkeypatch.setattr(lost_rank, "_OWN_MESSAGE", 0.1)
    monkeypatch.setattr(lost_rank.os, "_exit", codes.put)
    return codes


def test_a_rank_that_was_killed_is_named(
    start: Start, left: queue.Queue[int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "last.ckpt"
    path.touch()
    trainer = start(WAITS, WAITS)
    callback = LostRank(path)
    for stage in ("fit", "test"):
        callback.setup(trainer, None, stage)  # type: ignore[arg-type]
    trainer.procs[1].kill()
    assert left.get(timeout=30) == 137
    said = capsys.readouterr().err
    number = trainer.procs[1].pid
    assert said.startswith(f"error: rank 2 (process {number}) was killed by SIGKILL, most likely by the system because")
    assert said.endswith(f"; go on with --resume {path}.\n")
    assert said.count("\n") == 1
    assert trainer.procs[0].wait(timeout=30) == -signal.SIGKILL  # it would wait for the other for ever
    left.get(timeout=30)  # where the process had really ended, nobody would speak of this one


def test_a_rank_that_gave_up_has_said_why(
    start: Start, left: queue.Queue[int], capsys: pytest.CaptureFixture[str]
) -> None:
    LostRank("no.ckpt").setup(start(BAD), None, "fit")  # type: ignore[arg-type]
    assert left.get(timeout=30) == 1
    assert "ended with exit code 3, as it says above, so the run has ended; there is no" in capsys.readouterr().err


def test_a_broken_connection_is_not_taken_for_the_cause(start: Start, left: queue.Queue[int]) -> None:
    trainer, callback = start(WAITS), LostRank("no.ckpt")
    callback.setup(trainer, None, "fit")  # type: ignore[arg-type]
    trainer.procs[0].kill()
    callback.on_exception(trainer, None, RuntimeError("connection closed by peer"))  # type: ignore[arg-type]
    assert left.get(timeout=30) == 137


@pytest.mark.parametrize("code", [GOOD, WAITS])
def test_what_ends_as_it_should_is_not_spoken_of(
    code: str, start: Start, left: queue.Queue[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Also what Lightning kills after an error of rank 0's own."""
    trainer, callback = start(code), LostRank("no.ckpt")
    callback.setup(trainer, None, "fit")  # type: ignore[arg-type]
    if code == WAITS:
        callback.on_exception(trainer, None, ValueError())  # type: ignore[arg-type]
        trainer.procs[0].kill()
    trainer.procs[0].wait(timeout=30)
    with pytest.raises(queue.Empty):
        left.get(timeout=0.3)
    assert capsys.readouterr().err == ""


def test_a_rank_whose_first_one_is_gone_says_so(
    monkeypatch: pytest.MonkeyPatch, left: queue.Queue[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its connection breaks, and it is somebody else's child by then."""
    strategy = SimpleNamespace(launcher=None, cluster_environment=LightningEnvironment())
    trainer: Any = SimpleNamespace(strategy=strategy, global_rank=1)
    callback, parent = LostRank("no.ckpt"), os.getppid()
    callback.setup(trainer, None, "fit")  # type: ignore[arg-type]
    callback.on_exception(trainer, None, RuntimeError("connection reset by peer"))  # type: ignore[arg-type]
    assert left.empty()
    monkeypatch.setattr(lost_rank.os, "getppid", lambda: 1)
    callback.on_exception(trainer, None, RuntimeError("connection reset by peer"))  # type: ignore[arg-type]
    assert left.get(timeout=0) == 1
    assert f"error: rank 0 (process {parent}) is gone, killed, most likely" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "said"), [(-signal.SIGSEGV, "was ended by SIGSEGV, so"), (-63, "was ended by signal 63, so")]
)
def test_other_signals(code: int, said: str) -> None:
    assert said in describe_loss(1, 7, code, Path("no.ckpt"))


def test_a_copy_watches_for_itself() -> None:
    assert copy.deepcopy(LostRank("a/last.ckpt")).path == Path("a/last.ckpt")
