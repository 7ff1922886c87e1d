"""What the documents name is there: links, files, import paths."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("dlrecipes", "recipes", "tests", "notebooks", "benchmarks")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] + [
    page for name in FOLDERS for page in sorted((ROOT / name).rglob("*.md"))
]
ONLY_EXAMPLES = {"my_project.py", "NAME.py"}


def exists_as_import(path: str) -> bool:
    """Whether ``path`` is a module, or what one has."""
    words = path.split(".")
    for length in range(len(words), 0, -1):
        try:
            found = importlib.import_module(".".join(words[:length]))
        except ModuleNotFoundError:
            continue
        for name in words[length:]:
            if not hasattr(found, name):
                return False
            found = getattr(found, name)
        return True
    return False


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
class TestDocument:
    def test_links_lead_somewhere(self, page: Path) -> None:
        links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
        assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []

    def test_a_link_named_as_a_file_leads_to_it(self, page: Path) -> None:
        links = re.findall(r"\[`([\w/]+\.(?:py|md|ipynb|jsonl?|ya?ml))`\]\(([^)#\s]+)\)", page.read_text())
        assert [(name, link) for name, link in links if Path(name).name != Path(link).name] == []

    def test_files_in_the_text_are_there(self, page: Path) -> None:
        named = set(re.findall(r"`([\w/]+\.py)`", page.read_text())) - ONLY_EXAMPLES
        files = [f"/{path.relative_to(ROOT)}" for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
        assert [name for name in sorted(named) if not any(file.endswith(f"/{name}") for file in files)] == []

    def test_import_paths_in_the_text_are_there(self, page: Path) -> None:
        paths = set(re.findall(r"\bdlrecipes(?:\.[A-Za-z_]\w*)+", page.read_text()))
        assert [path for path in sorted(paths) if not exists_as_import(path)] == []
