import sys
from pathlib import Path

import pytest

# The helpers beside the tests are also run as scripts, which find each other by the folder of the script.
sys.path.insert(0, str(Path(__file__).parent))

LIGHTNING_WARNINGS = (
    "ignore:.*isinstance\\(treespec, LeafSpec\\).*",  # lightning 2.6.6 on torch 2.14
    "ignore:.*does not have many workers.*",
    "ignore:.*exists and is not empty.*",
    "ignore:.*this process is multi-threaded, use of fork.*",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            for warning in LIGHTNING_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """In each test here."""
