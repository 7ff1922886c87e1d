from __future__ import annotations

import re
from types import ModuleType

import pytest
from notebook_checks import check_pictures, executed, outputs, printed


@pytest.mark.slow  # CI has 20 minutes; run with pytest -m slow after a change
@pytest.mark.usefixtures("jupyter_folders")
def test_quickstart_runs(tool: ModuleType) -> None:
    done = executed(tool, "01_quickstart")
    check_pictures(done)
    text = printed(done)
    assert "No problems found." in str(outputs(done))  # the audit's table
    losses = [float(value) for value in re.findall(r"epoch \d/6  train/loss (\S+)", text)]
    assert len(losses) == 6
    assert losses[-1] < 0.9 * losses[0]  # 0.74 where it was written
    assert re.search(r"^test/map_50 +0\.\d{3}$", text, re.MULTILINE)
    assert "quickstart/runs/detr-001/checkpoints/last.ckpt" in text  # the command line's run
    assert text.endswith("CountingCriterion 0.2\n")
