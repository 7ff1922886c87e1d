"""The notebooks are what their scripts say, and were run from top to bottom; each is run by a file of its own."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest
from notebook_checks import ROOT, WHY, check_pictures, committed, outputs, printed

nbformat = pytest.importorskip("nbformat", reason=WHY)
nbclient = pytest.importorskip("nbclient", reason=WHY)

SCRIPTS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
MOST_BYTES = 600_000


def test_scripts_are_there() -> None:
    assert SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_notebook_is_made_from_its_script(script: Path, tool: ModuleType) -> None:
    made = tool.read_script(script)
    kept = committed(script)
    assert [(cell.id, cell.cell_type, cell.source) for cell in kept.cells] == [
        (cell.id, cell.cell_type, cell.source) for cell in made.cells
    ], "run `make notebooks`"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_committed_notebook_shows_a_run_from_top_to_bottom(script: Path) -> None:
    kept = committed(script)
    code = [cell for cell in kept.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for output in outputs(kept) if output.output_type == "error" or output.get("name") == "stderr"]
    check_pictures(kept)
    assert script.with_suffix(".ipynb").stat().st_size < MOST_BYTES
    assert not re.search(r"/tmp|/home|/Users|/work", printed(kept)), "a path of the machine that built it"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_file_runs_the_notebook(script: Path) -> None:
    test = Path(__file__).with_name(f"test_{script.stem}.py")
    assert f'executed(tool, "{script.stem}")' in test.read_text(encoding="utf-8")


@pytest.mark.usefixtures("jupyter_folders")
@pytest.mark.parametrize("cell", ["1 / 0", "%%bash\nexit 3"], ids=["python", "shell"])
def test_a_cell_that_fails_is_an_error(cell: str, tool: ModuleType) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    with pytest.raises(nbclient.exceptions.CellExecutionError):
        tool.execute(notebook)


def test_an_unknown_name_is_refused_before_anything_runs(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        tool.main(["99_nothing"])
    assert stop.value.code == 2
    assert "01_quickstart" in capsys.readouterr().err
