import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

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
def _one_thread() -> Iterator[None]:
    """Tiny models only wait for each other's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
