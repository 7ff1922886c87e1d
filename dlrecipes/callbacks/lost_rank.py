"""A run whose other process was killed ends with a sentence that says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import lightning.pytorch as pl
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from dlrecipes.functional.words import say

__all__ = ["LostRank", "describe_loss"]

_OTHERS_END_TOO = 0.05  # seconds; a second Ctrl-C ends all ranks, and then there is nothing to explain
_OWN_MESSAGE = 2.0  # what made one rank give up, such as wrong data, makes this one give up, too, and say why
_CONNECTION_LOST = 0.5  # a rank that waits for one that is gone may hear of it a little before the system says so


class LostRank(pl.Callback):
    """Says which of the ranks that Lightning's launcher has started (``--devices 2``) died by which signal, and ends.

    Lightning ends rank 0 by SIGKILL then, without a word: what is left of a run that needed too much memory is exit
    code 137. Here a thread in rank 0 waits for each of its processes. When a signal has ended one, it says so, ends the
    others, which wait for it, and leaves with 128 + signal; when one has given up by itself, after its own message,
    with 1. A rank whose rank 0 is gone says that instead of a broken connection's traceback. Under torchrun and srun
    those who start the ranks say it, and nothing is done here.

    Args:
        path: checkpoint to go on from; the sentence names it if it is there.

    Example:
        >>> LostRank("runs/0/checkpoints/last.ckpt").path.name
        'last.ckpt'
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._watched: set[int] = set()
        self._parent = 0  # rank 0, of a rank that it has started
        self._gives_up = threading.Event()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._gives_up = threading.Event()
        if trainer.global_rank > 0 and isinstance(
            getattr(trainer.strategy, "cluster_environment", None), LightningEnvironment
        ):
            self._parent = os.getppid()
        started: list[subprocess.Popen[bytes]] = list(getattr(trainer.strategy.launcher, "procs", ()))
        for number, process in enumerate(started, start=trainer.global_rank + 1):
            if process.pid not in self._watched:
                self._watched.add(process.pid)
                watch = threading.Thread(target=self._watch, args=(number, process, started), daemon=True)
                watch.start()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if self._watched and isinstance(exception, RuntimeError):
            time.sleep(_CONNECTION_LOST)
        self._gives_up.set()  # from now on Lightning kills the others
        if self._parent and isinstance(exception, RuntimeError) and os.getppid() != self._parent:
            say(f"error: {describe_loss(0, self._parent, None, self.path)}", error=True)
            os._exit(1)  # nobody waits for this rank; the traceback would be that of a broken connection

    def _watch(self, rank: int, process: subprocess.Popen[bytes], all_started: list[subprocess.Popen[bytes]]) -> None:
        code = process.wait()
        if code == 0 or self._gives_up.wait(_OTHERS_END_TOO if code < 0 else _OWN_MESSAGE):
            return
        sys.stdout.flush()
        say(f"error: {describe_loss(rank, process.pid, code, self.path)}", error=True)
        sys.stderr.flush()
        for other in all_started:
            other.kill()  # they wait for the one that is gone
        os._exit(128 - code if code < 0 else 1)  # the main thread may wait for it, too, in code that is not Python's

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(str(state["path"]))  # type: ignore[misc]  # a copy watches processes of its own


def describe_loss(rank: int, pid: int, code: int | None, path: Path) -> str:
    """One sentence about a rank that is gone.

    Args:
        rank, pid: of the process.
        code: its exit code, below 0 the signal's number; None: not known.
        path: checkpoint to go on from, if it is there.

    Example:
        >>> describe_loss(1, 99, 1, Path("no.ckpt"))
        'rank 1 (process 99) ended with exit code 1, as it says above, so the run has ended; there is no checkpoint.'
    """
    if code in (None, -signal.SIGKILL):
        by = "was killed by SIGKILL" if code else "is gone, killed"
        how = (
            f"{by}, most likely by the system because memory ran out (dmesg would tell): take a smaller --batch-size "
            "or fewer --data.num_workers"
        )
    elif code is not None and code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        how = f"was ended by {name}, so the run has ended"
    else:
        how = f"ended with exit code {code}, as it says above, so the run has ended"
    rest = f"go on with --resume {path}" if path.is_file() else "there is no checkpoint"
    return f"rank {rank} (process {pid}) {how}; {rest}."
