"""What every task shares: facts about the data for its parts, optimizer, schedule, checkpoints that stand alone."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Self

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

import dlrecipes
from dlrecipes.checkpoint_io import load_checkpoint_file
from dlrecipes.contracts import DataInfo
from dlrecipes.errors import CheckpointError, UserError
from dlrecipes.optim import parameter_groups, warm_up
from dlrecipes.parts import build_part, import_object, part_spec

__all__ = ["BaseTask"]

_KEY = "dlrecipes"


class BaseTask(L.LightningModule):
    """Base of the tasks. Override one hook per change: ``bind``, ``configure_loss``, ``configure_metrics``, ``step``,
    ``configure_optimizers``.

    A subclass keeps each constructor argument as an attribute of the same name, so that a checkpoint can rebuild it.

    Args:
        model: the network.
        optimizer: import path of a class with ``(params, lr, weight_decay)``.
        optimizer_args: further arguments of it.
        lr: learning rate.
        backbone_lr: learning rate of parameters whose name starts with ``backbone``; default ``lr``.
        weight_decay: of matrices and kernels, not of norms and biases.
        decay_all: weight decay on norms and biases too.
        schedule: name of a function in ``dlrecipes.optim`` or import path of one: training done (0..1) → factor.
        warmup_steps: steps of linear warm-up.
        channels_last: memory format of the network and its images; faster for convolutions.

    Raises:
        ValueError: a negative rate or number of steps.
    """

    _mean: Tensor
    _std: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: str = "torch.optim.AdamW",
        optimizer_args: dict[str, Any] | None = None,
        lr: float = 1e-4,
        backbone_lr: float | None = None,
        weight_decay: float = 1e-4,
        decay_all: bool = False,
        schedule: str = "cosine",
        warmup_steps: int = 0,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (("lr", lr), ("backbone_lr", backbone_lr or 0.0), ("weight_decay", weight_decay)):
            if value < 0:
                raise ValueError(f"{name}={value}: not below 0")
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps={warmup_steps}: not below 0")
        self.model = model
        self.optimizer, self.optimizer_args = optimizer, optimizer_args
        self.lr, self.backbone_lr, self.weight_decay, self.decay_all = lr, backbone_lr, weight_decay, decay_all
        self.schedule, self.warmup_steps = schedule, warmup_steps
        self.channels_last = channels_last
        self.info: DataInfo | None = None
        self._bound = False
        self.register_buffer("_mean", torch.zeros(3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.ones(3, 1, 1), persistent=False)

    # ---- the data -------------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Lightning's hook before the optimizers are made: hand the facts about the data to every part, once."""
        if self._bound:
            return
        if self.info is None:
            datamodule = getattr(self._trainer, "datamodule", None) if self._trainer is not None else None
            self.info = getattr(datamodule, "info", None) or self.default_info()
        self.bind(self.info)
        self._bound = True
        if self.channels_last:
            self.model.to(memory_format=torch.channels_last)

    def default_info(self) -> DataInfo:
        """Facts about the data where no datamodule gives them."""
        raise UserError(f"{type(self).__name__} needs a datamodule with .info, or set task.info first.")

    def bind(self, info: DataInfo) -> None:
        """Hand ``info`` to the parts that have ``bind`` and set the normalisation of images."""
        self._mean.copy_(torch.tensor(info.mean).view(3, 1, 1) * 255)
        self._std.copy_(torch.tensor(info.std).view(3, 1, 1) * 255)
        for part in self.children():
            bind = getattr(part, "bind", None)
            if callable(bind):
                bind(info)

    def normalise(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """uint8 [B, 3, H, W] → float, (x / 255 − mean) / std, on the device; 0 in the padding."""
        x = (images.to(self._mean.dtype) - self._mean) / self._std
        if mask is not None:
            x = x.masked_fill(mask[:, None], 0.0)
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x

    # ---- optimizer ------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer over few parameter groups, and its schedule stepped every step.

        Raises:
            UserError: an optimizer or schedule that cannot be imported, or arguments that the optimizer does not take.
        """
        groups = parameter_groups(
            self.model,
            lr=self.lr,
            weight_decay=self.weight_decay,
            backbone_lr=self.backbone_lr,
            decay_all=self.decay_all,
        )
        extra = [p for name, p in self.named_parameters() if p.requires_grad and not name.startswith("model.")]
        if extra:  # a criterion may learn too
            groups.append({"name": "parts", "params": extra, "lr": self.lr, "weight_decay": 0.0})
        try:
            optimizer = import_object(self.optimizer)(
                groups, lr=self.lr, weight_decay=self.weight_decay, **(self.optimizer_args or {})
            )
        except TypeError as error:
            raise UserError(
                f"optimizer={self.optimizer} with optimizer_args={self.optimizer_args}: {error}."
            ) from error
        shape = import_object(self.schedule if "." in self.schedule else f"dlrecipes.optim.{self.schedule}")

        def factor(step: int) -> float:
            # Not asked before the first step: Lightning would make the training loader now, and then not give it the
            # position of a checkpoint that is restored later, so that a resumed epoch would begin anew.
            total = max(1, int(self.trainer.estimated_stepping_batches)) if step else 1
            done = (step - self.warmup_steps) / max(1, total - self.warmup_steps) if step else 0.0
            return warm_up(step, self.warmup_steps) * float(shape(min(1.0, max(0.0, done))))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    # ---- checkpoints ----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to rebuild this task: classes, preprocessing, parts and versions, all primitives."""
        checkpoint[_KEY] = {
            "version": dlrecipes.__version__,
            "torch": str(torch.__version__),
            "task": part_spec(self),
            "info": None if self.info is None else self.info.to_dict(),
        }

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # a file-like object cannot be named in an error
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **parts: Any,
    ) -> Self:
        """The task of a checkpoint, ready to predict or to be trained further; needs nothing but the file.

        Args:
            checkpoint_path: written by a run of this class.
            map_location: device; default CPU.
            hparams_file: not used.
            strict: every weight must be there; default yes.
            weights_only: always true: a checkpoint cannot run code.
            parts: constructor arguments that replace recorded ones, such as ``criterion=MyCriterion()``.

        Raises:
            CheckpointError: missing, damaged, not made by dlrecipes, or with a part that is not known here.
        """
        name = str(checkpoint_path)
        checkpoint = load_checkpoint_file(checkpoint_path, map_location=map_location or "cpu")
        if _KEY not in checkpoint:
            raise CheckpointError(
                f"{name} was not made by a dlrecipes task: use --model.init {name} to take its weights"
            )
        record = checkpoint[_KEY]
        known = inspect.signature(cls.__init__).parameters
        args = {key: value for key, value in record["task"]["init_args"].items() if key in known and key not in parts}
        args = {
            key: build_part(value) if isinstance(value, dict) and "class_path" in value else value
            for key, value in args.items()
        }
        task = cls(**(args | {"init": None} if "init" in known else args), **parts)
        if record["info"] is not None:
            task.info = DataInfo.from_dict(record["info"])
        task.configure_model()
        try:
            task.load_state_dict(checkpoint["state_dict"], strict=strict is not False)
        except RuntimeError as error:
            raise CheckpointError(f"{name} does not fit {cls.__name__}: {error}") from error
        return task.to(map_location) if map_location is not None else task
