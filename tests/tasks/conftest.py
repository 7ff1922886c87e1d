import sys
from pathlib import Path

import pytest

# The helper beside the tests is also imported by a script, which finds it by the folder of the script.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """In each test here."""
