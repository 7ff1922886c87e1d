"""One run folder for all ranks of a job, chosen before the ranks can talk to one another.

The script builds the run folder before Lightning makes the process group, and what is known by then depends on who
started the ranks:

* a process group that runs already: rank 0 broadcasts;
* torchrun starts all ranks at once and keeps a key-value store for them: rank 0 puts the folder there;
* Lightning's launcher (``--devices 2``) runs the script again for the other ranks, after rank 0 has made the folder:
  they, and only they, have ``LOCAL_RANK`` above 0, and inherit ``DLRECIPES_RUN_FOLDER`` from rank 0. Rank 0 never reads
  the variable, so nothing is inherited by a later run of the same process or shell;
* srun starts all ranks at once and numbers each job, step and restart: rank 0 writes that number into ``.launch`` in
  the folder, and the others look for it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from dlrecipes.errors import UserError

__all__ = ["FOLDER_VARIABLE", "agree_on_folder"]

FOLDER_VARIABLE = "DLRECIPES_RUN_FOLDER"
_LAUNCH_FILE = ".launch"
_WAIT = timedelta(seconds=60)

# How often this process has asked: all ranks of a job run the same script, so they agree on it.
_calls = 0


def agree_on_folder(root: Path, name: str, make: Callable[[], Path]) -> Path:
    """The folder that rank 0 makes by ``make()``, on every rank.

    Args:
        root: folder in which ``make`` makes ``NAME-*``.
        name: NAME.
        make: called on rank 0 only.

    Raises:
        UserError: this is not rank 0, and nobody says within a minute which folder rank 0 has made.
    """
    global _calls
    _calls += 1
    environment = os.environ
    if _process_group_runs():
        return _by_process_group(make)
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return _by_torchrun_store(make)
    if "TORCHELASTIC_RUN_ID" in environment:
        key = _key("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")
        return _by_file(root, name, key, _number("RANK"), make)
    rank = _number("LOCAL_RANK") + _number("NODE_RANK")
    if rank > 0 and FOLDER_VARIABLE in environment:
        return Path(environment[FOLDER_VARIABLE])
    if _number("SLURM_NTASKS") > 1 and "SLURM_JOB_ID" in environment:
        key = _key("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
        return _by_file(root, name, key, _number("SLURM_PROCID"), make)
    if rank > 0:
        raise UserError(
            f"this is rank {rank} or above and does not know the run folder of rank 0: start the ranks with --devices, "
            f"torchrun or srun, or set {FOLDER_VARIABLE} for them."
        )
    path = make()
    environment[FOLDER_VARIABLE] = str(path)
    return path


def _process_group_runs() -> bool:
    if "torch.distributed" not in sys.modules:  # torch takes seconds to import, and without it there is no group
        return False
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _by_process_group(make: Callable[[], Path]) -> Path:
    import torch.distributed as dist

    chosen: list[str | None] = [str(make()) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(chosen, src=0)
    return Path(str(chosen[0]))


def _by_torchrun_store(make: Callable[[], Path]) -> Path:
    """The store is torchrun's own, new for each job, so no key of an earlier job can be met in it."""
    import torch.distributed as dist

    address, port = os.environ["MASTER_ADDR"], _number("MASTER_PORT")
    store = dist.TCPStore(address, port, is_master=False, timeout=_WAIT)  # type: ignore[attr-defined]  # not declared
    key = f"dlrecipes/run_folder/{_number('TORCHELASTIC_RESTART_COUNT')}/{_calls}"
    if _number("RANK") == 0:
        store.set(key, str(make()))
    try:
        return Path(store.get(key).decode())
    except dist.DistStoreError as error:
        raise UserError(f"rank {_number('RANK')} heard of no run folder within {_WAIT}: see rank 0's error.") from error


def _by_file(root: Path, name: str, key: str, rank: int, make: Callable[[], Path]) -> Path:
    if rank == 0:
        path = make()
        temporary = path / f"{_LAUNCH_FILE}.tmp"
        temporary.write_text(key, encoding="utf-8")
        os.replace(temporary, path / _LAUNCH_FILE)  # whole or not there for the ranks that look
        return path
    deadline = time.monotonic() + _WAIT.total_seconds()
    while time.monotonic() < deadline:
        for file in root.glob(f"{name}-*/{_LAUNCH_FILE}"):
            if file.read_text(encoding="utf-8") == key:
                return file.parent
        time.sleep(0.1)
    raise UserError(f"rank {rank} found no run folder of this job in '{root}' within {_WAIT}: see rank 0's error.")


def _key(*variables: str) -> str:
    return " ".join([*(os.environ.get(variable, "0") for variable in variables), str(_calls)])


def _number(variable: str) -> int:
    value = os.environ.get(variable, "")
    return int(value) if value.isdecimal() else 0
