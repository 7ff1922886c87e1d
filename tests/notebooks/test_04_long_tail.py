from __future__ import annotations

import re
from types import ModuleType

import pytest
from notebook_checks import check_pictures, check_statements, executed, printed


@pytest.mark.usefixtures("jupyter_folders")
def test_long_tail_runs(tool: ModuleType) -> None:
    done = executed(tool, "04_long_tail")
    check_pictures(done)
    source = "".join(cell.source for cell in done.cells if cell.cell_type == "code")
    assert check_statements(done) == len(re.findall(r"^ *check\(", source, re.MULTILINE))
    text = printed(done)
    assert "Imbalance: class_weights, since the most frequent class has 21 times" in text  # the command's own line
    assert "long_tail/mixer-001/checkpoints/last.ckpt" in text
    assert (
        "SMOTE was given X of shape [32, 3, 32, 32], and between pixels it lays two pictures over one another" in text
    )
    assert "1 of 4 held-out samples are synthetic" in text
    assert "The sampler ('class') and CrossEntropyLoss both balance the classes" in text
    rows = re.findall(r"^(\S+(?: \S+)?)(?: +\d\.\d\d){5}$", text, re.MULTILINE)
    remedies, stages = ["class weights", "logit adjustment", "class sampler"], ["crt", "tau", "ncm", "logit-adjust"]
    assert rows == ["plain", *remedies, "plain", *stages]
