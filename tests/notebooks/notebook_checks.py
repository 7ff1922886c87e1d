"""What the tests of all notebooks share."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

WHY = "Jupyter's packages are missing: pip install 'dlrecipes[notebooks]'"
nbformat = pytest.importorskip("nbformat", reason=WHY)

ROOT = Path(__file__).parents[2]


def executed(tool: ModuleType, name: str) -> Any:
    """The notebook of that name, run from top to bottom."""
    return tool.execute(tool.read_script(ROOT / "notebooks" / f"{name}.py"))


def committed(script: Path) -> Any:
    return nbformat.read(script.with_suffix(".ipynb"), as_version=4)


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def printed(notebook: Any) -> str:
    return "".join(output.text for output in outputs(notebook) if output.output_type == "stream")


def pictures(notebook: Any) -> list[Image.Image]:
    encoded = [output.data["image/png"] for output in outputs(notebook) if "image/png" in output.get("data", {})]
    return [Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB") for text in encoded]


def check_pictures(notebook: Any) -> None:
    found = pictures(notebook)
    assert len(found) >= 3
    for picture in found:
        assert min(picture.size) >= 200
        assert len(picture.getcolors(maxcolors=1 << 24)) > 50  # something is drawn


def check_statements(notebook: Any) -> int:
    """Every line that begins with True or False is a statement of the text and holds; how many there are."""
    statements = re.findall(r"^(True|False) +(.+)$", printed(notebook), re.MULTILINE)
    assert not [statement for holds, statement in statements if holds == "False"]
    return len(statements)
