from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from toy_fit import ToyLoaders, ToyModule

from dlrecipes.callbacks import AveragedWeights


class Seen(pl.Callback):
    """The weights after each step."""

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        self.weights.append(torch.cat([p.detach().flatten() for p in pl_module.parameters()]).double())


@pytest.mark.parametrize("decay", [0.0, 1.0, 1.5])
def test_a_decay_that_is_none(decay: float) -> None:
    with pytest.raises(ValueError, match=f"decay={decay}: must be between 0 and 1"):
        AveragedWeights(decay)


def test_the_average_follows_its_formula() -> None:
    """The first step is copied, the others are averaged by d = min(.3, (1 + t) / (10 + t)); a fit ends so."""
    seen, module = Seen(), ToyModule()
    trainer = pl.Trainer(
        accelerator="cpu", callbacks=[seen, AveragedWeights(0.3)], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, max_epochs=2,
    )  # fmt: skip
    trainer.fit(module, datamodule=ToyLoaders(0))
    expected = seen.weights[0]
    for step, current in enumerate(seen.weights[1:], start=1):
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * current
    found = torch.cat([p.detach().flatten() for p in module.parameters()]).double()
    assert len(seen.weights) > 5
    assert not torch.allclose(found, seen.weights[-1], rtol=1e-6, atol=0)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
