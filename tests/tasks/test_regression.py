"""RegressionTask: learns in standardised units, speaks in the data's; losses with several numbers a target."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from toy_images import INFO, Net, ToyData, batch, fit

from dlrecipes.errors import UserError
from dlrecipes.tasks import RegressionTask

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")


class Gaussian(nn.Module):
    """A user's loss with a mean and a log-variance for each target."""

    outputs_per_target = 2

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        mean, log_variance = outputs.unbind(-1)
        return 0.5 * (log_variance + (mean - targets).square() / log_variance.exp()).mean()

    def point(self, outputs: Tensor) -> Tensor:
        return outputs[..., 0]


def bound(loss: nn.Module, **changes: object) -> RegressionTask:
    task = RegressionTask(Net(), loss)
    task.info = replace(INFO["regression"], **changes)
    task.configure_model()
    return task


def test_learns_logs_and_reloads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = RegressionTask(Net(), nn.HuberLoss(delta=2.0), lr=0.05)
    trainer = fit(task, tmp_path, ToyData("regression"), epochs=15)
    metrics = trainer.callback_metrics
    assert {f"val/{n}" for n in ("loss", "mae", "rmse", "r2", "mae_target/year", "mae_target/price")} <= set(metrics)
    assert metrics["val/r2"] > 0.9
    assert RegressionTask.monitor in metrics
    assert task.monitor in metrics
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    again = RegressionTask.load_from_checkpoint(tmp_path / "x.ckpt")
    assert again.loss.delta == 2.0
    with torch.no_grad():
        expected, found = (t.eval().predict_step(batch("regression"), 0) for t in (task, again))
    assert torch.equal(expected, found)
    assert (found - batch("regression")["targets"]).abs().mean(0).tolist() < [
        5.0,
        1.0,
    ]  # years, not standard deviations


def test_the_loss_sees_standardised_targets() -> None:
    task = bound(nn.MSELoss())
    assert task.targets_for_loss(torch.tensor([[2010.0, 5.0], [1990.0, 9.0]])).tolist() == [[1.0, 0.0], [-1.0, 2.0]]
    assert task.predictions(torch.tensor([[1.0, 0.0], [-1.0, 2.0]])).tolist() == [[2010.0, 5.0], [1990.0, 9.0]]


def test_several_numbers_a_target(tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = RegressionTask(Net(), Gaussian(), lr=0.05)
    trainer = fit(task, tmp_path, ToyData("regression"), epochs=15)
    assert task.model.head.out_features == 4
    assert task.outputs_for_loss(torch.arange(4.0)[None]).tolist() == [[[0.0, 1.0], [2.0, 3.0]]]
    assert task.eval().predict_step(batch("regression"), 0).shape == (6, 2)
    assert trainer.callback_metrics["val/r2"] > 0.9
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    again = RegressionTask.load_from_checkpoint(tmp_path / "x.ckpt", loss=Gaussian())
    assert again.info.outputs_per_target == 2


def test_without_point_the_first_number_is_the_prediction() -> None:
    loss = nn.L1Loss()
    loss.outputs_per_target = 3
    task = bound(loss)
    assert task.predictions(torch.arange(6.0)[None]).tolist() == [[2000.0, 5.0 + 2 * 3]]


def test_a_target_that_never_changes_is_not_divided_by_zero() -> None:
    task = bound(nn.L1Loss(), target_std=(0.0, 2.0))
    assert task.targets_for_loss(torch.tensor([[2003.0, 7.0]])).tolist() == [[3.0, 1.0]]


def test_data_of_another_kind_is_refused() -> None:
    task = RegressionTask(Net(), nn.L1Loss())
    task.info = INFO["classification"]
    with pytest.raises(UserError, match=r"for classification: take dlrecipes\.tasks\.ClassificationTask"):
        task.configure_model()


def test_of_several_targets_none_chooses_the_best_checkpoint_by_its_unit() -> None:
    """A mean over years and prices is one of years; a single target is judged in its own unit."""
    task = bound(nn.MSELoss())
    assert (task.monitor, task.monitor_mode, task.headline) == ("val/scaled_mae", "min", ("scaled_mae", "r2"))
    metric = task.configure_metrics(task.info)
    years_off = torch.tensor([[2010.0, 5.0], [1990.0, 9.0]])
    metric.update(years_off + torch.tensor([5.0, 0.0]), years_off)
    years = metric.compute()["scaled_mae"]
    metric.reset()
    metric.update(years_off + torch.tensor([0.0, 2.0]), years_off)
    prices = metric.compute()["scaled_mae"]
    assert years.item() == pytest.approx(0.25)  # half a standard deviation of one of two
    assert prices.item() == pytest.approx(0.5)
    one = bound(nn.MSELoss(), target_names=("year",), target_mean=(2000.0,), target_std=(10.0,))
    assert (one.monitor, one.headline) == ("val/mae", ("mae", "r2", "rmse"))
