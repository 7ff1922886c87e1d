from __future__ import annotations

import re
from types import ModuleType

import pytest
from notebook_checks import check_pictures, check_statements, executed, printed


@pytest.mark.usefixtures("jupyter_folders")
def test_init_and_receptive_field_run(tool: ModuleType) -> None:
    done = executed(tool, "06_init_and_receptive_field")
    check_pictures(done)
    source = "\n".join(cell.source for cell in done.cells if cell.cell_type == "code")
    assert check_statements(done) == len(re.findall(r"^ *check\(", source, re.MULTILINE))
    text = printed(done)
    he, glorot = (float(number) for number in re.findall(r"start (\d+\.\d+), by Glorot's (\d+\.\d+)", text)[0])
    assert he < glorot - 0.2  # 1.89 and 2.30 where it was written
    assert "warning: activations: dead units" in text
