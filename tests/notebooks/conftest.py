"""Fixtures of the notebooks' tests. Each notebook has a file, so that several run at once."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from notebook_checks import ROOT, WHY


@pytest.fixture(scope="session")
def tool() -> ModuleType:
    """``notebooks/build.py``, which is no package."""
    for package in ("jupytext", "ipykernel", "nbclient"):
        pytest.importorskip(package, reason=WHY)
    spec = importlib.util.spec_from_file_location("build_notebooks", ROOT / "notebooks" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def jupyter_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a user's IPython start-up files in the kernel, nor the kernel's files in a user's home."""
    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
