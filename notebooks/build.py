"""Make each notebook from its script, run it, keep what it printed and drew: ``python notebooks/build.py [NAME ...]``.

``NAME.py`` (jupytext's percent format) is the source, ``NAME.ipynb`` is made from it: edit the script.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

__all__ = ["build", "execute", "main", "read_script", "sources"]

HERE = Path(__file__).resolve().parent
_SECONDS_PER_CELL = 300


def sources() -> list[Path]:
    """The scripts, in order of name."""
    return sorted(HERE.glob("[0-9][0-9]_*.py"))


def read_script(source: Path) -> NotebookNode:
    """The notebook of a script, without outputs; the same script gives the same notebook, byte by byte."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"  # jupytext's are random
        cell.metadata.pop("lines_to_next_cell", None)
    notebook.metadata = NotebookNode(kernelspec=notebook.metadata.kernelspec)
    return notebook


def execute(notebook: NotebookNode) -> NotebookNode:
    """Run a notebook in a folder of its own, as if in ``notebooks/``, and fill in its outputs.

    The folder holds a copy of ``recipes``, so nothing is written into the project, and its name is taken out of the
    outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised.
    """
    with tempfile.TemporaryDirectory(prefix="notebook-") as made:
        root = Path(made).resolve()
        shutil.copytree(HERE.parent / "recipes", root / "recipes", ignore=shutil.ignore_patterns("__pycache__"))
        (root / "notebooks").mkdir()
        client = NotebookClient(
            notebook,
            timeout=_SECONDS_PER_CELL,
            kernel_name="python3",
            resources={"metadata": {"path": str(root / "notebooks")}},
            record_timing=False,
            coalesce_streams=True,
        )
        client.execute()
        for cell in notebook.cells:
            for output in cell.get("outputs", []):
                if "text" in output:
                    output.text = output.text.replace(f"{root / 'notebooks'}/", "").replace(f"{root}/", "../")
    return notebook


def build(source: Path) -> Path:
    """Write the ``.ipynb`` of a script, executed."""
    target = source.with_suffix(".ipynb")
    nbformat.write(execute(read_script(source)), target)
    return target


def main(argv: Sequence[str] | None = None) -> int:
    """Build the named notebooks, or all."""
    parser = argparse.ArgumentParser(description="Make the notebooks from their scripts and run them.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="such as 01_quickstart (default: all)")
    names = parser.parse_args(argv).names
    known = {source.stem: source for source in sources()}
    for name in names or known:
        if name not in known:
            parser.error(f"there is no notebook {name!r}: choose from {', '.join(known)}")
        print(build(known[name]).relative_to(Path.cwd()) if HERE.is_relative_to(Path.cwd()) else build(known[name]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
