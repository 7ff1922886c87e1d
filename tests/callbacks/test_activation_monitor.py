from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dlrecipes.callbacks import ActivationMonitor
from dlrecipes.contracts import Verdict
from dlrecipes.nn import init_weights
from dlrecipes.nn.unit_activity import UnitActivity, merge_activities


class Net(pl.LightningModule):
    def __init__(self, act: type[nn.Module] = nn.ReLU, spoil: str = "", rate: float = 0.01) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), act(), nn.Linear(16, 16), act(), nn.Linear(16, 1))
        init_weights(self, generator=torch.Generator().manual_seed(0))
        self.rate = rate
        with torch.no_grad():
            if spoil == "dead":
                self.body[2].bias[:10] = -1000
            elif spoil == "saturated":
                self.body[2].bias[:10] = 50 * (-1.0) ** torch.arange(10)
            elif spoil == "exploding":
                self.body[2].bias[3] = 1e5

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.rate * (self.body(batch[0]) - batch[1]).square().mean()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val/loss", (self.body(batch[0]) - batch[1]).square().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-4)


def fit(folder: Path, net: pl.LightningModule, monitor: ActivationMonitor, **options: Any) -> pl.Trainer:
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    loader = DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=8)
    options = {"max_epochs": 1, "num_sanity_val_steps": 0} | options
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[monitor],
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(net, loader, loader)
    return trainer


@pytest.mark.parametrize(("finding", "act"), [("dead", nn.ReLU), ("saturated", nn.Tanh), ("exploding", nn.ReLU)])
def test_planted_units_are_found_and_said_once(
    finding: str, act: type[nn.Module], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monitor = ActivationMonitor(every_n_steps=1)
    trainer = fit(tmp_path, Net(act, finding, rate=0.0), monitor, max_epochs=3)  # weights stay as they are
    (verdict,) = monitor.verdicts
    assert (verdict.title, verdict.level) == (f"{finding} units", "warning")
    assert "1 of 2 activations; in 'body.3'" in verdict.evidence
    assert capsys.readouterr().out.count(str(verdict)) == 1
    share = 1 / 16 if finding == "exploding" else 10 / 16
    assert monitor.layers["body.3"][finding] == pytest.approx(share, abs=0.13)  # some more may be by chance
    assert float(trainer.callback_metrics[f"activations/{finding}"]) == monitor.layers["body.3"][finding]


@pytest.mark.parametrize("act", [nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU])
def test_healthy_networks_are_left_in_peace(
    act: type[nn.Module], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monitor = ActivationMonitor(every_n_steps=2)
    fit(tmp_path, Net(act), monitor)
    assert [verdict.level for verdict in monitor.verdicts] == ["ok"]
    assert "over 4 steps" in monitor.verdicts[0].evidence
    assert not capsys.readouterr().out


def test_few_steps_are_no_evidence_and_wait_for_the_next_epoch(tmp_path: Path) -> None:
    monitor = ActivationMonitor(every_n_steps=3)
    fit(tmp_path, Net(spoil="dead"), monitor, limit_train_batches=5)  # steps 0 and 3
    assert monitor.verdicts == []
    monitor = ActivationMonitor(every_n_steps=3)
    fit(tmp_path, Net(spoil="dead"), monitor, limit_train_batches=5, max_epochs=2)  # and 6 and 9
    assert [verdict.title for verdict in monitor.verdicts] == ["dead units"]


def test_a_validation_within_an_epoch_reads_too(tmp_path: Path) -> None:
    monitor = ActivationMonitor(every_n_steps=1)
    fit(tmp_path, Net(spoil="dead"), monitor, val_check_interval=5)
    assert "of 5 steps" in monitor.verdicts[0].evidence  # the 3 steps behind it are too few for another reading


def test_a_compiled_network_is_not_watched_and_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = Net(spoil="dead")
    net.compiled = True
    monitor = ActivationMonitor(every_n_steps=1)
    fit(tmp_path, net, monitor, max_epochs=2)
    assert [verdict.title for verdict in monitor.verdicts] == ["not watched"]
    assert capsys.readouterr().out.count("compiled") == 1
    assert not any(module._forward_hooks for module in net.modules())


def test_what_torch_compile_wraps_is_seen(tmp_path: Path) -> None:
    class Wrapped(Net):
        def __init__(self) -> None:
            super().__init__()
            self.fast = nn.Module()  # torch.compile itself takes 7 s to import
            self.fast._orig_mod = self.body

    monitor = ActivationMonitor(every_n_steps=1)
    fit(tmp_path, Wrapped(), monitor)
    assert [verdict.title for verdict in monitor.verdicts] == ["not watched"]


def test_a_network_without_activations(tmp_path: Path) -> None:
    net = Net()
    net.body = nn.Sequential(nn.Linear(8, 1))
    monitor = ActivationMonitor()
    fit(tmp_path, net, monitor)
    assert "no activation" in monitor.verdicts[0].evidence


def test_hooks_are_gone_after_the_fit_and_after_an_error(tmp_path: Path) -> None:
    class Failing(Net):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            raise RuntimeError("on purpose")

    net, failing = Net(), Failing()
    fit(tmp_path, net, ActivationMonitor(every_n_steps=1))
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(tmp_path, failing, ActivationMonitor(every_n_steps=1))
    assert not any(module._forward_hooks for model in (net, failing) for module in model.modules())


def test_what_was_said_survives_a_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = ActivationMonitor(every_n_steps=1), ActivationMonitor(every_n_steps=1)
    fit(tmp_path, Net(spoil="dead"), first)
    assert "dead units" in capsys.readouterr().out
    second.load_state_dict(first.state_dict())
    fit(tmp_path, Net(spoil="dead"), second)
    assert [verdict.title for verdict in second.verdicts] == ["dead units"]
    assert not capsys.readouterr().out


def test_ranks_add_up_and_decide_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit that is silent on one rank, and not on the other, is not dead."""
    other = UnitActivity(net := Net())
    other.watching = True
    net.body(torch.randn(8, 8, generator=torch.Generator().manual_seed(2)))
    seen = other.take()
    seen["body.3"] = seen["body.3"]._replace(alive=torch.ones(16, dtype=torch.bool))
    monkeypatch.setattr("dlrecipes.callbacks.activation_monitor.gather_in_order", lambda items: [*items, seen])
    monitor = ActivationMonitor(every_n_steps=1)
    fit(tmp_path, Net(spoil="dead"), monitor)
    assert [verdict.level for verdict in monitor.verdicts] == ["ok"]


@pytest.mark.parametrize("shape", [(4, 6), (4, 5, 6), (2, 3, 5, 6)])
def test_units_behind_a_linear_layer_are_its_features(shape: tuple[int, ...]) -> None:
    net = nn.Sequential(nn.Linear(6, 3), nn.ReLU())
    nn.init.zeros_(net[0].weight)
    net[0].bias.data = torch.tensor([1.0, -1.0, 3.0])
    activity = UnitActivity(net)
    activity.watching = True
    net(torch.zeros(shape))
    layer = activity.take()["1"]
    assert layer.dead.tolist() == [False, True, False]
    assert layer.rms.tolist() == [1, 0, 3]
    assert layer.values == torch.zeros(shape)[..., 0].numel()
    assert activity.take() == {}


def test_units_behind_a_convolution_are_its_channels_and_counts_add_up() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh())
    activity = UnitActivity(net)
    net[1].weight.data = torch.tensor([0.0, 100.0])
    parts = []
    for seed in range(2):
        activity.watching = True
        net(torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(seed)))
        parts.append(activity.take())
    both = merge_activities(parts)["2"]
    assert both.values == 2 * 4 * 16
    assert int(both.saturated[0]) == 0
    assert float(both.saturated[1]) / both.values > 0.9
    assert not both.dead.any()  # tanh(0) = 0 is not the end of tanh
    torch.testing.assert_close(both.square, sum(part["2"].square for part in parts))


def test_nothing_is_read_from_the_device_within_a_step() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2), nn.Sigmoid()).to("meta")
    activity = UnitActivity(net)
    activity.watching = True
    for _ in range(2):
        net(torch.zeros(4, 1, 6, 6, device="meta"))  # where there is no number to wait for


@pytest.mark.parametrize(
    ("argument", "value"), [("every_n_steps", 0), ("share", 1.0), ("share", 0.0), ("exploding", 0)]
)
def test_arguments_are_checked(argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{argument} must be"):
        ActivationMonitor(**{argument: value})


def test_verdicts_are_those_of_the_contract(tmp_path: Path) -> None:
    monitor = ActivationMonitor(every_n_steps=1)
    fit(tmp_path, Net(), monitor)
    assert all(isinstance(verdict, Verdict) for verdict in monitor.verdicts)
