import shutil
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.font_manager import FontEntry, fontManager
from PIL import Image

from dlrecipes.runs.pictures import fonts
from dlrecipes.runs.pictures.fonts import DEFAULT_FONT, font_for
from dlrecipes.runs.pictures.plots import draw_confusion
from dlrecipes.runs.pictures.tiles import draw_image_tile

BOLD_A = "\U0001d400"  # in STIX, not in DejaVu Sans
NOWHERE = "\U0001f9ff\u8840"


@pytest.fixture
def other_font(monkeypatch, tmp_path):
    """A machine with one font of its own."""
    file = shutil.copy(Path(matplotlib.get_data_path()) / "fonts/ttf/STIXGeneral.ttf", tmp_path / "own.ttf")
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    entries = [FontEntry(str(broken), name="A Sans"), FontEntry(str(file), name="Own")]
    shipped = [entry for entry in fontManager.ttflist if entry.fname.startswith(matplotlib.get_data_path())]
    monkeypatch.setattr(fontManager, "ttflist", [*shipped, *entries])
    fonts._covering.cache_clear()
    yield file
    fonts._covering.cache_clear()


def test_a_font_is_looked_for_where_letters_are_missing(other_font):
    assert font_for("plain ÄÖÜ ελλάδα русский") is None
    assert font_for(f"x {BOLD_A}").fname == str(other_font)
    assert font_for(NOWHERE) is None


def test_captions_use_it(other_font):
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    found = np.asarray(draw_image_tile(image, [BOLD_A], 40))
    lacking = np.asarray(draw_image_tile(image, [NOWHERE[1]], 40))
    assert not np.array_equal(found, lacking)  # the latter is the default font's empty box
    assert Path(DEFAULT_FONT).is_file()


@pytest.mark.parametrize("name", [NOWHERE, BOLD_A, "$\\nothing$", "a$b_{$", "[b]x[/b]", ""])
def test_any_name_can_be_drawn(tmp_path, name, other_font):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_confusion(torch.eye(2, dtype=torch.int64), [name, "b"], [name, "b"], tmp_path / "a.png", title=name)
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 300
