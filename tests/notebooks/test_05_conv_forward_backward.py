from __future__ import annotations

import re
from types import ModuleType

import pytest
from notebook_checks import check_pictures, check_statements, executed, printed


@pytest.mark.usefixtures("jupyter_folders")
def test_convolution_by_hand_runs(tool: ModuleType) -> None:
    done = executed(tool, "05_conv_forward_backward")
    check_pictures(done)
    source = "".join(cell.source for cell in done.cells if cell.cell_type == "code")
    calls = len(re.findall(r"^ *check\(", source, re.MULTILINE))
    assert check_statements(done) == calls + 2 + 2  # two stand in loops over three
    text = printed(done)
    right = [float(value) for value in re.findall(r"right on (\S+) %", text)]
    assert len(right) == 2
    assert min(right) > 80
    assert text.count("ValueError: x and y must have one ") == 2
