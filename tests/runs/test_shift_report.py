import numpy as np
import torch

from dlrecipes.runs.shift_report import ShiftResults
from dlrecipes.shift.features import ShiftFeatures
from dlrecipes.shift.report import compare


def test_names_of_strangers_are_text_in_html_and_markdown(tmp_path):
    evil = "<img src=x onerror=alert(1)>\x1b[2J"
    rng = np.random.default_rng(0)
    reference, new = (ShiftFeatures(properties=torch.from_numpy(rng.normal(mean, 1, (40, 1)))) for mean in (0, 3))
    report = compare(reference, new, permutations=20, properties=(evil,))
    results = ShiftResults(
        report=report, reference=evil, new=f"`{evil}", steps=[f"look at {evil}"], most_shifted=[], pictures=[]
    )
    for file in results.write(tmp_path)[:2]:
        text = file.read_text(encoding="utf-8")
        assert "<img" not in text
        assert "\x1b" not in text
        assert "&lt;img src=x onerror=alert(1)&gt;\\" in text
