from __future__ import annotations

import pytest

from dlrecipes.functional.metric_mode import metric_mode


@pytest.mark.parametrize("name", ["val/loss", "train/loss_bbox", "val_loss", "val/MAE", "val/nll", "val/accuracy_loss"])
def test_less_is_better(name: str) -> None:
    assert metric_mode(name) == "min"


@pytest.mark.parametrize("name", ["val/f1", "val_acc", "val/map_class/error", "val/g_mean", "accuracy", "val/ap-50"])
def test_more_is_better(name: str) -> None:
    assert metric_mode(name) == "max"


@pytest.mark.parametrize("name", ["val/x", "", "val/losses", "budget/seconds"])
def test_a_name_that_does_not_tell(name: str) -> None:
    assert metric_mode(name) is None


def test_the_tasks_own_metrics_agree() -> None:
    from dlrecipes.tasks import ClassificationTask, DetectionTask, RegressionTask

    for task in (ClassificationTask, DetectionTask, RegressionTask):
        assert metric_mode(task.monitor) == task.monitor_mode
