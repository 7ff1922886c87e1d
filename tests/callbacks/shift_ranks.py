"""A fit and a test of two gloo ranks, watched; run by test_shift_monitor.py as a script, since Lightning reruns it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from test_shift_monitor import data, task, trainer

from dlrecipes.callbacks import CovariateShiftMonitor, ExactEvaluation


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    options = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False}
    watched = data(test={"contrast": 0.15})
    monitor, model = CovariateShiftMonitor("stop", new="test", checks=3), task()
    fitting = trainer([monitor, ExactEvaluation()], max_epochs=6, **options)
    fitting.fit(model, watched)
    adapting = CovariateShiftMonitor("adapt")
    trainer([adapting, ExactEvaluation()], **options).test(model, watched, verbose=False)
    seen = {
        "epochs": fitting.current_epoch,
        "p": {name: report.p_value for m in (monitor, adapting) for name, report in m.reports.items()},
        "sizes": [report.sizes for m in (monitor, adapting) for report in m.reports.values()],
        "said": [str(verdict) for m in (monitor, adapting) for verdict in m.verdicts],
    }
    (folder / f"rank_{os.environ.get('LOCAL_RANK', '0')}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
