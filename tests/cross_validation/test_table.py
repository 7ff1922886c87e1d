"""The tables of all folds as one."""

from __future__ import annotations

import csv
from pathlib import Path

from dlrecipes.cross_validation.table import TABLE, join_tables


def test_cells_with_the_end_of_a_line_stay_one_row(tmp_path: Path) -> None:
    rows = {"fold-1": [["a\nb.png", "x"]], "fold-2": [["c\u2028d.png", "y, z"], ["e.png", 'q"']]}
    for name, found in rows.items():
        (tmp_path / name).mkdir()
        with (tmp_path / name / TABLE).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["image", "target"], *found])
    joined = join_tables([tmp_path / name for name in rows], tmp_path)
    with joined.open(newline="", encoding="utf-8") as file:
        read = list(csv.reader(file))
    assert read[0] == ["fold", "image", "target"]
    assert read[1:] == [[name, *row] for name, found in rows.items() for row in found]
