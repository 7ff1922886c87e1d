"""Units that never answer, always say the same, or shout: told while a network trains."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from dlrecipes.contracts import Verdict
from dlrecipes.nn.unit_activity import LayerActivity, UnitActivity, merge_activities
from dlrecipes.ranks import gather_in_order

__all__ = ["ActivationMonitor"]

_SOURCE = "activations"
_FEWEST = 4  # watched steps: a unit that is silent for one batch is not dead
_ALWAYS = 0.95  # share of inputs for which a unit is saturated, if it is called so
_WHAT = {
    "dead": "gave 0 for every input",
    "saturated": "were at an end of their range for nearly every input",
    "exploding": "gave outputs that are not finite or far too large in the inputs",
}
_ADVICE = {
    "dead": "Lower the learning rate, start by init_weights(model), put a batch norm in front, or use LeakyReLU or "
    "GELU.",
    "saturated": "Start by init_weights(model), lower the learning rate, normalise the inputs, or put a batch norm in "
    "front.",
    "exploding": "Lower the learning rate, clip gradients, or put a norm in front; init_audit(model, batch) says where "
    "it begins.",
}


class ActivationMonitor(pl.Callback):
    """Watches the units of each activation: dead, saturated, exploding, by layer, with a verdict and advice.

    ============  ==========================================================  ==========================
    finding       a unit is so if, over the steps that were watched,          said from which share on
    ============  ==========================================================  ==========================
    dead          ReLU and its kin: it gave 0 for every input and place       more than ``share``
    saturated     tanh, sigmoid: it lay beyond .97 of the way to an end of     more than ``share``
                  its range for 95 % of the inputs
    exploding     the root mean square of its outputs is above ``exploding``  any unit
                  or not finite
    ============  ==========================================================  ==========================

    Every ``every_n_steps``-th training step is watched by forward hooks. The counts stay on the device and are read
    when a validation begins and when an epoch ends, if at least 4 steps were watched since; on several devices they
    are added up, so that all ranks say the same. Logged are ``activations/dead``, ``activations/saturated`` and
    ``activations/exploding``, each the share of units in the layer that has most of them.

    Only modules are watched (``nn.ReLU``, not ``F.relu``). A network that is compiled is not: hooks would break its
    graph into pieces; that is said once.

    Args:
        every_n_steps: 1 or more.
        share: of a layer's units, above 0 and below 1.
        exploding: root mean square, above 0.

    Attributes:
        verdicts: what the last reading found.
        layers: shares of the last reading: name of the layer -> finding -> share.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> trainer = pl.Trainer(callbacks=[ActivationMonitor()], logger=False)
    """

    def __init__(self, every_n_steps: int = 10, *, share: float = 0.5, exploding: float = 1000.0) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        if not 0 < share < 1:
            raise ValueError(f"share must be above 0 and below 1, got {share}")
        if not exploding > 0:
            raise ValueError(f"exploding must be above 0, got {exploding}")
        self.every_n_steps = every_n_steps
        self.share = share
        self.exploding = exploding
        self.verdicts: list[Verdict] = []
        self.layers: dict[str, dict[str, float]] = {}
        self._activity: UnitActivity | None = None
        self._steps = self._watched = 0
        self._blind = False
        self._said: list[str] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._blind, self._watched = False, 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._activity is None and not self._blind:  # not before: a task compiles when training starts
            self._attach(trainer, pl_module)
        if self._activity is not None:
            self._activity.watching = self._steps % self.every_n_steps == 0
            self._watched += self._activity.watching
        self._steps += 1

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._activity is not None:
            self._activity.watching = False

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._read(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._read(trainer)
        for finding in _WHAT if self.layers else ():
            worst = max(shares[finding] for shares in self.layers.values())
            pl_module.log(f"activations/{finding}", worst, sync_dist=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._detach()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._detach()

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps, "said": list(self._said)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._steps, self._said = state_dict["steps"], list(state_dict["said"])

    def _attach(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        names = (name for name, _ in pl_module.named_modules(remove_duplicate=False))
        wrapped = any(name.endswith("_orig_mod") for name in names)  # as torch.compile names it
        if getattr(pl_module, "compiled", False) or wrapped:
            self._give_up(trainer, "the network is compiled, and hooks would break its graph into pieces.")
            return
        self._activity = UnitActivity(pl_module)
        if not self._activity.names:
            self._detach()
            self._give_up(trainer, "the network has no activation that is a module.")

    def _give_up(self, trainer: pl.Trainer, why: str) -> None:
        self._blind = True
        advice = "Train some epochs with --model.compile_mode never to watch it." if "compiled" in why else ""
        verdict = Verdict(source=_SOURCE, title="not watched", level="advice", evidence=why.capitalize(), advice=advice)
        self.verdicts = [verdict]
        self._say(trainer, verdict)

    def _detach(self) -> None:
        if self._activity is not None:
            self._activity.remove()
        self._activity = None

    def _read(self, trainer: pl.Trainer) -> None:
        """Judge what was counted since the last reading; ranks have watched the same steps, so all come here."""
        if self._activity is None or self._watched < _FEWEST:
            return
        found = merge_activities(gather_in_order([self._activity.take()]))
        steps, self._watched = self._watched, 0
        if not found:
            return
        self.layers = {name: self._shares(layer) for name, layer in found.items()}
        self.verdicts = [verdict for finding in _WHAT if (verdict := self._judge(finding, found, steps)) is not None]
        for verdict in self.verdicts:
            self._say(trainer, verdict)
        if not self.verdicts:
            evidence = f"{len(found)} activations over {steps} steps: none is dead, saturated or exploding."
            self.verdicts = [Verdict(source=_SOURCE, title="alive", level="ok", evidence=evidence)]

    def _shares(self, layer: LayerActivity) -> dict[str, float]:
        return {
            "dead": _share(layer.dead),
            "saturated": _share(layer.saturated > _ALWAYS * layer.values),
            "exploding": _share(~(layer.rms <= self.exploding)),  # NaN is not below it either
        }

    def _judge(self, finding: str, found: dict[str, LayerActivity], steps: int) -> Verdict | None:
        limit = 0.0 if finding == "exploding" else self.share
        ill = {name: shares[finding] for name, shares in self.layers.items() if shares[finding] > limit}
        if not ill:
            return None
        worst = max(ill, key=ill.__getitem__)
        evidence = (
            f"{len(ill)} of {len(self.layers)} activations; in {worst!r} ({found[worst].kind}) {ill[worst]:.0%} of "
            f"{len(found[worst].alive)} units {_WHAT[finding]} of {steps} steps."
        )
        title = f"{finding} units"
        return Verdict(source=_SOURCE, title=title, level="warning", evidence=evidence, advice=_ADVICE[finding])

    def _say(self, trainer: pl.Trainer, verdict: Verdict) -> None:
        if verdict.title not in self._said:
            self._said.append(verdict.title)
            if trainer.is_global_zero:
                print(verdict, flush=True)


def _share(units: Tensor) -> float:
    return float(units.double().mean())
