from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from dlrecipes.contracts import Verdict
from dlrecipes.errors import UserError
from dlrecipes.runs import RunFolder, gather_verdicts, write_verdicts
from dlrecipes.runs.verdicts import print_verdicts, read_verdicts

GRAVE = Verdict(source="doctor", title="over-fitting", level="warning", evidence="Loss rose.", advice="Stop [here].")
MILD = Verdict(source="doctor", title="unfinished", level="advice", evidence="It still falls.")
FINE = Verdict(source="sanity", title="gradients", level="ok", evidence="All 8 parameters have one.")


class Judge:
    def __init__(self, *verdicts: Verdict) -> None:
        self.verdicts = list(verdicts)


def printed(*verdicts: Verdict) -> str:
    out = StringIO()
    print_verdicts(verdicts, Console(file=out, width=200, highlight=False))
    return out.getvalue()


def test_the_gravest_comes_first_whoever_found_it() -> None:
    assert gather_verdicts([Judge(FINE, MILD), object(), Judge(GRAVE)]) == [GRAVE, MILD, FINE]


def test_what_was_found_is_read_back(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert read_verdicts(run) == []
    write_verdicts(run, [])
    assert not run.verdicts.exists()
    write_verdicts(run, [GRAVE, FINE])
    assert read_verdicts(run) == [GRAVE, FINE]


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.verdicts.write_text('[{"level": 1}]')
    with pytest.raises(UserError, match=r"verdicts\.json' cannot be read"):
        read_verdicts(run)


def test_findings_are_shown_and_passed_checks_are_counted() -> None:
    shown = printed(GRAVE, MILD, FINE)
    assert "warning  doctor: over-fitting: Loss rose. Stop [here]." in shown
    assert "gradients" not in shown
    assert printed(FINE) == "findings: none, 1 check passed.\n"
    assert printed() == ""
