from __future__ import annotations

import re
from types import ModuleType

import pytest
from notebook_checks import check_pictures, check_statements, executed, printed


@pytest.mark.usefixtures("jupyter_folders")
def test_new_data_is_told_apart_and_put_right(tool: ModuleType) -> None:
    done = executed(tool, "07_is_my_new_data_different")
    check_pictures(done)
    source = "".join(cell.source for cell in done.cells if cell.cell_type == "code")
    assert check_statements(done) == len(re.findall(r"^check\(", source, re.MULTILINE))
    text = printed(done)
    assert re.search(r"^ok: covariate shift: no shift seen", text, re.MULTILINE)
    assert re.search(r"^warning: covariate shift: shifted, and accuracy falls", text, re.MULTILINE)
    estimated, true = map(float, re.findall(r"accuracy lost: estimated (\S+)%, true (\S+)%", text)[0])
    assert 2 < estimated < true + 10
