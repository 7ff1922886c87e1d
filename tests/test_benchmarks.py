"""Each benchmark stands in the table of benchmarks, and each result names the command that made it."""

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
RUN_BY_OTHERS = {"detr_peers.py", "shift_arms.py"}  # in processes of their own


def first_column(file: Path) -> list[str]:
    """Of all rows of the file's tables."""
    return [line.split("|")[1] for line in file.read_text().splitlines() if line.startswith("| ")]


def scripts() -> set[str]:
    return {path.name for path in FOLDER.glob("*.py") if '__name__ == "__main__"' in path.read_text()}


def test_the_table_has_each_script_and_no_other() -> None:
    named = {name for cell in first_column(FOLDER / "README.md") for name in re.findall(r"\((\w+\.py)\)", cell)}
    assert named == scripts() - RUN_BY_OTHERS


def test_each_script_says_what_it_measures_and_by_which_command() -> None:
    silent = {name for name in scripts() if f"python benchmarks/{name}" not in (FOLDER / name).read_text()}
    assert silent == set()


def test_each_result_names_the_command_that_made_it() -> None:
    folder = FOLDER / "results"
    known = [name for cell in first_column(folder / "README.md") for name in re.findall(r"`([^`]+)`", cell)]
    patterns = [name.replace("…", "*") for name in known]
    files = [str(path.relative_to(folder)) for path in folder.rglob("*.json*")]
    assert [name for name in files if not any(fnmatch(name, pattern) for pattern in patterns)] == []


def test_the_type_checker_reads_them() -> None:
    assert "benchmarks" in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["files"]
