import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # import-mode=importlib does not; two_ranks.py also runs as a script


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """In each test here."""
