"""What an installation promises: cheap imports, short help, no upper pins, two commands that do everything."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HEAVY = {"torch", "lightning", "torchvision", "numpy", "cv2", "wandb", "matplotlib", "albumentations", "timm"}
RECIPES = sorted((ROOT / "recipes").glob("train_*.py"))


def loaded_by(code: str) -> set[str]:
    """Heavy packages that a fresh interpreter has loaded after ``code``."""
    command = f"import sys\n{code}\nprint('loaded:', *{HEAVY!r}.intersection(sys.modules))"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.rpartition("loaded:")[2].split())


@pytest.mark.parametrize(
    "code",
    [
        "import dlrecipes, dlrecipes.cli, dlrecipes.cli.commands",
        "from dlrecipes.cli.commands import main; main(['check-dta'])",
        *(f"sys.argv = ['x', '-h']; import runpy; runpy.run_path({str(path)!r})['main']()" for path in RECIPES),
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(code: str) -> None:
    assert loaded_by(code) == set()


def test_the_list_of_heavy_packages_can_catch_something() -> None:
    assert loaded_by("import dlrecipes.contracts") >= {"torch"}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_help_of_a_recipe_fits_a_screen_and_names_every_preset(recipe: Path) -> None:
    command = [sys.executable, f"recipes/{recipe.name}", "-h"]  # as people type it: the usage line holds the path
    done = subprocess.run(command, cwd=recipe.parents[1], capture_output=True, text=True, check=True)
    assert 10 < done.stdout.count("\n") <= 45
    assert max(map(len, done.stdout.splitlines())) <= 120
    assert "--data PATH" in done.stdout
    assert f"python recipes/{recipe.name}" in done.stdout


def test_recipes_are_there() -> None:
    assert RECIPES


def test_dependencies_have_lower_bounds_and_no_upper_pins() -> None:
    everything = PROJECT["dependencies"] + [d for extra in PROJECT["optional-dependencies"].values() for d in extra]
    assert not [d for d in everything if re.search(r"<|==|~=", d)]
    assert not [d for d in PROJECT["dependencies"] if ">=" not in d]


def test_malicious_releases_of_lightning_are_excluded() -> None:
    """2.6.2 and 2.6.3 on PyPI carried malware."""
    (lightning,) = [d for d in PROJECT["dependencies"] if d.startswith("lightning")]
    version = tuple(int(part) for part in lightning.partition(">=")[2].split("."))
    assert version >= (2, 6, 4)


def test_console_script_exists() -> None:
    for target in PROJECT["scripts"].values():
        module, _, name = target.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("path", sorted((ROOT / "dlrecipes").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_says_what_is_public(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    names = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assert "__all__" in names or not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree.body)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("target", "extra", "runs"),
    [("demo", "--editable .", "recipes/train_detr.py"), ("test", '--editable ".[dev]"', "-m pytest")],
)
def test_make_sets_up_once_and_then_runs(target: str, extra: str, runs: str, tmp_path: Path) -> None:
    def plan() -> str:
        command = ["make", "--dry-run", "--file", str(ROOT / "Makefile"), target]
        environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment).stdout

    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    first = plan()
    assert "-m venv .venv" in first
    assert extra in first
    assert first.index(extra) < first.index(runs)

    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for stamp in ("bin/python", ".installed", ".installed-dev"):
        (tmp_path / ".venv" / stamp).touch()
    second = plan()
    assert "pip install" not in second
    assert runs in second


def test_ci_runs_what_the_readme_promises() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = script.read_text().splitlines()
    assert lines.index("make test") < lines.index("make demo")
