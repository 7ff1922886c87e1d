"""A finished run of the recipe, shared by the tests of this folder."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # import-mode=importlib does not

from tiny_runs import ROOT, TINY, Outcome, call, write_coco


@pytest.fixture(scope="session")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_detr", ROOT / "recipes" / "train_detr.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data") / "coco", {"train": 8, "val": 5, "test": 4})


@pytest.fixture(scope="session")
def trained(
    recipe: ModuleType, tiny: Path, coco: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Outcome]:
    """A finished run: its folder, and what was printed."""
    output = tmp_path_factory.mktemp("runs")
    outcome = call(recipe.main, "--config", tiny, "--data", coco, "--output", output)
    return output / "detr-001", outcome
