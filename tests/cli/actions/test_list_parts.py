from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

import dlrecipes
from dlrecipes.cli.actions.list_parts import ROOMS, list_parts, parts_of
from dlrecipes.cli.commands import main


@pytest.mark.parametrize("room", [room for room in ROOMS if (Path(dlrecipes.__file__).parent / room).is_dir()])
def test_every_part_says_what_it_is(room: str) -> None:
    found = parts_of(room)
    assert found
    assert [name for name, sentence in found if not sentence] == []


def test_one_room_alone() -> None:
    out = StringIO()
    list_parts("losses", Console(file=out, width=200))
    assert "FocalLoss" in out.getvalue()
    assert "dlrecipes.models" not in out.getvalue()


def test_an_unknown_room_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "loses"]) == 2
    assert "Did you mean losses?" in capsys.readouterr().err
