import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # import-mode=importlib does not; two_ranks.py also runs as a script


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors only wait for each other's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
