"""What tests of several rooms share."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny models and tensors only wait for each other's threads."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def two_ranks(tmp_path: Path) -> Callable[[str], list[Any]]:
    """Runs a script as ranks 0 and 1, with rank and address as its arguments: what each printed last, as JSON."""

    def run(code: str) -> list[Any]:
        script = tmp_path / "rank.py"
        script.write_text(code)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        ranks = [
            subprocess.Popen([sys.executable, str(script), str(rank), address], stdout=subprocess.PIPE, text=True)
            for rank in range(2)
        ]
        return [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in ranks]

    return run


@pytest.fixture(scope="session")
def run_script() -> Callable[[Path, str], None]:
    """Runs a script that starts its ranks itself; a folder, in which the script is put, is its argument."""

    def run(folder: Path, code: str) -> None:
        script = folder / "script.py"
        script.write_text(code)
        # an earlier test may have left a seed, which Lightning would take up in the processes only
        environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "PL_GLOBAL_SEED")}
        environment |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(
            [sys.executable, script, folder], capture_output=True, text=True, env=environment, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]

    return run
