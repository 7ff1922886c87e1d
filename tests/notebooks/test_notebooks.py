"""The notebooks are what their scripts say, and run from top to bottom."""

from __future__ import annotations

import ast
import base64
import importlib.util
import io
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

_WHY = "Jupyter's packages are missing: pip install 'dlrecipes[notebooks]'"
pytest.importorskip("jupytext", reason=_WHY)
pytest.importorskip("ipykernel", reason=_WHY)
nbformat = pytest.importorskip("nbformat", reason=_WHY)
nbclient = pytest.importorskip("nbclient", reason=_WHY)

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
MOST_BYTES = 600_000


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """``notebooks/build.py``, which is no package."""
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


@pytest.mark.usefixtures("jupyter_folders")
def test_quickstart_runs(tool: ModuleType) -> None:
    done = tool.execute(tool.read_script(ROOT / "notebooks" / "01_quickstart.py"))
    check_pictures(done)
    text = printed(done)
    assert "No problems found." in str(outputs(done))  # the audit's table
    losses = [float(value) for value in re.findall(r"epoch \d/6  train/loss (\S+)", text)]
    assert len(losses) == 6
    assert losses[-1] < 0.9 * losses[0]  # 0.73 where it was written
    assert re.search(r"^test/map_50 +0\.\d{3}$", text, re.MULTILINE)
    assert "quickstart/runs/detr-001/checkpoints/last.ckpt" in text  # the command line's run
    assert text.endswith("CountingCriterion 0.2\n")


def class_lines(source: str) -> dict[str, int]:
    """Lines of each class of a file, without empty ones."""
    lines = source.splitlines()
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    return {c.name: sum(map(bool, lines[c.lineno - 1 : c.end_lineno])) for c in classes}


def row(text: str, start: str) -> list[float]:
    """Numbers of the last line that begins so."""
    line = re.findall(rf"^{re.escape(start)} (.+)$", text, re.MULTILINE)[-1]
    return [float(value) for value in line.split()]


@pytest.mark.usefixtures("jupyter_folders")
def test_own_loss_and_task_run(tool: ModuleType) -> None:
    done = tool.execute(tool.read_script(ROOT / "notebooks" / "02_your_own_loss_and_task.py"))
    check_pictures(done)
    (project,) = [output.text for output in outputs(done) if output.get("text", "").startswith("import torch")]
    assert class_lines(project) == {"RareFocalLoss": 6, "SteadyTask": 10}  # as the title says

    text = printed(done)
    for check in ("gradient", "gamma = 0", "equal classes", "the same outputs:"):
        assert re.search(rf"^{check} +True$", text, re.MULTILINE), check
    plain, rare, steady = row(text, "f1")
    assert rare > plain + 0.05  # .666, .796 and .815 where it was written
    assert steady > plain + 0.05
    tail = [row(text, f"recall of {name}")[1:] for name in ("eight", "nine")]  # the two rarest
    assert sum(found[1] for found in tail) > sum(found[0] for found in tail) + 0.2
    assert "own_parts/mixer-001/checkpoints/last.ckpt" in text  # the command line's run
    wrong = text[text.index("NonFiniteError: ") :].splitlines()
    assert re.fullmatch(r"NonFiniteError: Training stopped at step 0 .*the loss is nan, with the images .*\.", wrong[0])
    assert re.fullmatch(r"UserError: CrossEntropyLoss gives a loss of shape \(32,\) instead of one number.*", wrong[1])
    assert re.fullmatch(r"UserError: Sequential gives outputs of shape \(32, 9\) .* needs \(32, 10\) .*", wrong[2])
    assert len(wrong) == 3


@pytest.mark.usefixtures("jupyter_folders")
def test_detr_explained_runs(tool: ModuleType) -> None:
    done = tool.execute(tool.read_script(ROOT / "notebooks" / "03_detr_explained.py"))
    check_pictures(done)
    text = printed(done)
    source = "".join(cell.source for cell in done.cells if cell.cell_type == "code")
    statements = re.findall(r"^(True|False) +(.+)$", text, re.MULTILINE)
    assert not [statement for holds, statement in statements if holds == "False"]
    assert len(statements) == len(re.findall(r"^ *check\(", source, re.MULTILINE)) + 1  # one of them stands in a loop
    learned = re.findall(r"^(finder|looker): IoU (\S+), classes right (\S+)$", text, re.MULTILINE)
    fit, right = ({name: float(pair[i]) for name, *pair in learned} for i in (0, 1))
    assert fit["finder"] > 0.6  # .76 where it was written
    assert fit["looker"] > 0.35  # .47
    assert right["finder"] > 0.5  # .8; ten classes


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
