import os
import subprocess
import sys
from pathlib import Path

import pytest

from dlrecipes.cli.commands import main


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "COMMAND"),
        (["chek-data", "x"], "Did you mean check-data?"),
        (["predict", "run"], "IMAGES"),
        (["predict", "run", "images", "--treshold", "1"], "Did you mean --threshold?"),
        (["predict", "run", "images", "--threshold", "high"], "invalid float value: 'high'"),
        (["predict", "no/run", "images"], "'no/run' does not exist"),
        (["check-data", "no/data"], "no/data"),
        (
            ["check-data", b"caf\xe9".decode(errors="surrogateescape")],
            "caf\\xe9: this name has bytes that are no UTF-8 text",
        ),
    ],
)
def test_one_sentence_and_exit_code_2(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("argv", [["-h"], ["predict", "-h"], ["check-data", "-h"]])
def test_help_is_short(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 0
    assert 5 < capsys.readouterr().out.count("\n") <= 40


def test_check_data_prints_the_audit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np
    from PIL import Image

    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "boxes.csv").write_text("image,xmin,ymin,xmax,ymax,class\na.png,1,2,11,12,cat\n")
    report = tmp_path / "report.json"
    assert main(["check-data", str(tmp_path), "--json", str(report)]) == 0
    assert "cat" in capsys.readouterr().out
    assert report.is_file()


RECIPE_STOPPED = (
    "error: stopped, since nobody reads the output any more; a run that had made checkpoints goes on with --resume.\n"
)
RECIPE = Path(__file__).parents[2] / "recipes" / "train_mlp_mixer.py"


@pytest.mark.parametrize(
    "words",
    [
        [str(RECIPE), "-h"],
        ["-c", "from dlrecipes.cli.commands import main; raise SystemExit(main(['list', 'losses']))"],
    ],
)
def test_a_reader_that_leaves_gets_no_traceback(words: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, *words], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert "BrokenPipeError" not in done.stderr
    if words[-1] == "-h":
        assert (done.returncode, done.stderr) == (141, RECIPE_STOPPED)
