"""Recipes, small data, and finished runs, shared by the tests of this folder."""

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from matplotlib.figure import Figure
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))  # import-mode=importlib does not

from tiny_images import TINY_EFFICIENTNET, TINY_MIXER, write_photos, write_tables
from tiny_runs import TINY, Outcome, call, load_recipe, write_coco


def _save_blank(figure: Figure, path: Path, **_: object) -> None:
    Image.new("RGB", (1, 1)).save(path, format="png")


@pytest.fixture(autouse=True)
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and not drawn, which is a third of a tiny run's time.

    Runs that tests share are drawn, since this fixture begins after theirs, and a module that overrides it with an
    empty one draws everything.
    """
    monkeypatch.setattr(Figure, "savefig", _save_blank)


@pytest.fixture(scope="session")
def recipe() -> ModuleType:
    return load_recipe("train_detr")


@pytest.fixture(scope="session")
def efficientnet() -> ModuleType:
    return load_recipe("train_efficientnet")


@pytest.fixture(scope="session")
def mixer() -> ModuleType:
    return load_recipe("train_mlp_mixer")


@pytest.fixture
def users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Path]]:
    """Writes a module of the user's own, by name and code, into a folder that is the current one from then on."""
    written = []

    def write(name: str, code: str) -> Path:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", list(sys.path))  # recipes add the current folder
        written.append(name)
        return tmp_path

    yield write
    for name in written:
        sys.modules.pop(name, None)


@pytest.fixture(scope="session")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small network for each recipe."""
    folder = tmp_path_factory.mktemp("config")
    for name, text in (("detr", TINY), ("efficientnet", TINY_EFFICIENTNET), ("mixer", TINY_MIXER)):
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="session")
def tiny(configs: Path) -> Path:
    return configs / "detr.yaml"


@pytest.fixture(scope="session")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data") / "coco", {"train": 8, "val": 5, "test": 4})


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes in folders, and beside the folder the same images in tables: sizes.csv and tags.csv."""
    folder = write_photos(tmp_path_factory.mktemp("data") / "photos", {"train": 8, "val": 5, "test": 4})
    write_tables(folder)
    return folder


@pytest.fixture(scope="session")
def trained(
    recipe: ModuleType, tiny: Path, coco: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Outcome]:
    """A finished run: its folder, and what was printed."""
    output = tmp_path_factory.mktemp("runs")
    outcome = call(recipe.main, "--config", tiny, "--data", coco, "--output", output)
    return output / "detr-001", outcome


@pytest.fixture(scope="session")
def classified(
    efficientnet: ModuleType, configs: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Outcome]:
    """A finished run of a classifier: its folder, and what was printed."""
    output = tmp_path_factory.mktemp("runs")
    argv = ["--config", configs / "efficientnet.yaml", "--data", photos, "--output", output]
    return output / "efficientnet-001", call(efficientnet.main, *argv)


@pytest.fixture(scope="session")
def regressed(mixer: ModuleType, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A finished run on a column of numbers, of which nothing but the data says so; with the recipe's own preset."""
    output = tmp_path_factory.mktemp("runs")
    network = ["--variant", "small", "--model.model.patch_size", 16, "--model.model.blocks", 1]
    argv = [*network, "--epochs", 2, "--batch-size", 6, "--data.num_workers", 0, "--wandb", "off"]
    outcome = call(mixer.main, "--data", photos.with_name("sizes.csv"), *argv, "--lr", 0.01, "--output", output)
    return output / "mixer-001", outcome
