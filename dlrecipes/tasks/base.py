"""What every task shares: facts about the data for its parts, optimizer, schedule, checkpoints that stand alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric

from dlrecipes.contracts import DataInfo
from dlrecipes.errors import UserError
from dlrecipes.models.initialise import initialise
from dlrecipes.optim import default_lr, make_optimizer, parameter_groups, schedule_factor, warmup_length
from dlrecipes.tasks.compiling import COMPILE_MODES, CompiledNetwork, compile_for_training
from dlrecipes.tasks.position import schedule_position
from dlrecipes.tasks.task_record import RECORD, rebuild_task, task_record
from dlrecipes.tasks.training_log import TrainingLog

__all__ = ["BaseTask", "check_batch"]

_NORMALISED = 5.0  # of 255; normalised images reach 2.7, and a whole batch is hardly as dark


class BaseTask(TrainingLog):
    """Base of the tasks. Override one hook per change: ``bind``, ``configure_loss``, ``configure_metrics``, ``step``,
    ``configure_optimizers``.

    A subclass keeps each constructor argument as an attribute of the same name, so that a checkpoint can rebuild it.

    Attributes:
        monitor: metric that chooses the best checkpoint.
        monitor_mode: ``"max"`` or ``"min"``.
        headline: names of metrics without their split, most important first, for console, curves and report. One that
            begins with its split, as ``train/accuracy``, is drawn as it is.
        overfit_goal: metric without its split → the least value that shows that a network has learnt a few images by
            heart; the first of them that the data's kind measures counts (``--overfit``).
        compiled: the network was compiled for training.

    Args:
        model: the network. ``bind(info)`` tells it about the data, if it has that. ``normalisation``, if it is a pair
            ``(mean, std)`` for images in 0..1, replaces the data's own: pretrained weights want what they have learnt
            with.
        init: a checkpoint to take weights from; what does not fit is left as it is, and rows of the class head are
            copied by class name. To go on with a run is another thing: ``--resume``.
        optimizer: name of ``dlrecipes.optim.OPTIMIZERS``, or import path of a class with ``(params, lr,
            weight_decay)``.
        optimizer_args: further arguments of it.
        lr: learning rate; None: a usual one of the optimizer.
        backbone_lr: learning rate of parameters whose name starts with ``backbone``; default ``lr``.
        weight_decay: of matrices and kernels, not of norms and biases.
        decay_all: weight decay on norms and biases too.
        layer_decay: factor on the learning rate from each layer to the one below, for fine-tuning; needs a model with
            timm's ``group_matcher``.
        schedule: name of a function in ``dlrecipes.optim`` or import path of one: training done (0..1) → factor.
        schedule_args: further arguments of it.
        min_lr_factor: share m of the learning rate that the schedule s ends with instead of 0: m + (1 − m) · s.
        warmup_steps: steps of linear warm-up; at most a third of all steps.
        channels_last: memory format of the network and its images; faster for convolutions.
        compile_mode: ``"auto"``: compile the network for training on CUDA if its class has ``compile_pays`` and there
            are steps enough; ``"never"``; or a mode of ``torch.compile``: ``"default"``,
            ``"max-autotune-no-cudagraphs"``, and with CUDA graphs, which spare small images most of the host's time
            but cannot accumulate gradients, ``"reduce-overhead"`` and ``"max-autotune"``. Without the compilers that
            torch needs, training goes on as with ``"never"``. Evaluation and export use the network as it is.

    Raises:
        ValueError: a negative rate or number of steps, a factor outside 0..1, a ``compile_mode`` that is none; a model
            that is no ``nn.Module``, an optimizer or schedule that is not named.
    """

    monitor: str = "val/loss"
    monitor_mode: str = "min"
    headline: tuple[str, ...] = ()
    overfit_goal: ClassVar[Mapping[str, float]] = {}

    @property
    def loss_monitor(self) -> str:
        """Logged name of what is watched as the loss: by early stopping, and for ``best_loss.ckpt``."""
        return "val/loss"

    _mean: Tensor
    _std: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        init: str | None = None,
        optimizer: str = "torch.optim.AdamW",
        optimizer_args: dict[str, Any] | None = None,
        lr: float | None = 1e-4,
        backbone_lr: float | None = None,
        weight_decay: float = 1e-4,
        decay_all: bool = False,
        layer_decay: float | None = None,
        schedule: str = "cosine",
        schedule_args: dict[str, Any] | None = None,
        min_lr_factor: float = 0.0,
        warmup_steps: int = 0,
        channels_last: bool = False,
        compile_mode: str = "auto",
    ) -> None:
        super().__init__()
        _check_kinds(model, optimizer, schedule)
        for name, value in (("lr", lr), ("backbone_lr", backbone_lr), ("weight_decay", weight_decay)):
            if value is not None and value < 0:
                raise ValueError(f"{name}={value}: not below 0")
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps={warmup_steps}: not below 0")
        for name, value in (("layer_decay", layer_decay), ("min_lr_factor", min_lr_factor)):
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name}={value}: must be within 0..1")
        if compile_mode not in COMPILE_MODES:
            raise ValueError(f"compile_mode={compile_mode!r}: must be one of {', '.join(COMPILE_MODES)}")
        self.model = model
        self.init = init
        self.optimizer, self.optimizer_args = optimizer, optimizer_args
        # floats: NumPy's would go into the optimizer's state, and a checkpoint that holds them cannot be read
        self.lr = None if lr is None else float(lr)
        self.backbone_lr = None if backbone_lr is None else float(backbone_lr)
        self.weight_decay, self.decay_all = float(weight_decay), decay_all
        self.layer_decay = layer_decay
        self.schedule, self.schedule_args, self.min_lr_factor = schedule, schedule_args, min_lr_factor
        self.warmup_steps = warmup_steps
        self.channels_last = channels_last
        self.compile_mode = compile_mode
        self.compiled = False
        self.info: DataInfo | None = None
        self._bound = False
        self._range_seen = False
        self._compiled_network: CompiledNetwork | None = None
        # Lightning's own mean over ranks rounds the number of images of a rank down
        self.val_loss, self.test_loss = MeanMetric(nan_strategy="disable"), MeanMetric(nan_strategy="disable")
        self.train_loss = MeanMetric(nan_strategy="disable")
        self.register_buffer("_mean", torch.zeros(3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.ones(3, 1, 1), persistent=False)

    # ---- the data -------------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Lightning's hook before the optimizers are made: hand the facts about the data to every part, once."""
        if self._bound:
            return
        self._check_precision()
        if self.info is None:
            datamodule = getattr(self._trainer, "datamodule", None) if self._trainer is not None else None
            self.info = getattr(datamodule, "info", None) or self.default_info()
        # Lightning makes a GPU the default device here, and moves what there is already only afterwards.
        with self._mean.device:
            self.bind(self.info)
        self._bound = True
        if self.init is not None:
            report = initialise(self.model, self.init, classes=self.info.classes)
            if getattr(rank_zero_only, "rank", 0) == 0:  # there may be no trainer yet
                print(report)
        if self.channels_last:
            self.model.to(memory_format=torch.channels_last)

    def _check_precision(self) -> None:
        """Lightning converts metrics, too, and a sum in bfloat16 does not count beyond 256."""
        precision = "" if self._trainer is None else str(self._trainer.precision)
        if precision in ("bf16-true", "16-true"):
            mixed = precision.replace("true", "mixed")
            raise UserError(f"precision={precision} makes metrics wrong, whose sums are rounded: take {mixed}")

    def default_info(self) -> DataInfo:
        """Facts about the data where no datamodule gives them."""
        raise UserError(f"{type(self).__name__} needs a datamodule with .info, or set task.info first.")

    def bind(self, info: DataInfo) -> None:
        """Hand ``info`` to the parts that have ``bind``, set the normalisation of images, and keep ``info``."""
        for part in self.children():
            bind = getattr(part, "bind", None)
            if callable(bind):
                bind(info)
        wanted = getattr(self.model, "normalisation", None)
        if isinstance(wanted, tuple | list):
            mean, std = wanted
            info = replace(info, mean=tuple(mean), std=tuple(std))
        self._mean.copy_(torch.tensor(info.mean).view(3, 1, 1) * 255)
        self._std.copy_(torch.tensor(info.std).view(3, 1, 1) * 255)
        self.info = info

    def normalise(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """uint8 [B, 3, H, W], or floats in 0..255 → float, (x / 255 − mean) / std, on the device; 0 in the padding.

        Raises:
            UserError: the task's first floats are in 0..1, or normalised already: all images would look almost black.
        """
        if images.is_floating_point() and not self._range_seen:
            self._check_range(images)
        x = (images.to(self._mean.dtype) - self._mean) / self._std
        if mask is not None:
            x = x.masked_fill(mask[:, None], 0.0)
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x

    def _check_range(self, images: Tensor) -> None:
        """Once, since it waits for the device."""
        top = float(images.detach().abs().max()) if images.numel() else 0.0
        if 0 < top <= _NORMALISED:
            raise UserError(
                f"the images are floats of at most {top:.3g}, and {type(self).__name__} normalises images itself: give "
                f"uint8 images, or floats in 0..255"
            )
        self._range_seen = True

    def network(self, batch: Tensor, *others: Any) -> Any:
        """``self.model``, in training its compiled form if there is one."""
        run = self.model if self._compiled_network is None or not self.training else self._compiled_network
        return run(batch, *others)

    def on_train_start(self) -> None:
        """Compile the network if that was asked for or is worth the time; it happens in the first step."""
        # Here, since earlier Lightning would make the training loader for the number of steps: see ``schedule_factor``.
        steps = self.trainer.estimated_stepping_batches - self.trainer.global_step
        self._compiled_network = compile_for_training(
            self.model, self.compile_mode, self.device, steps, self.trainer.accumulate_grad_batches
        )
        self.compiled = self._compiled_network is not None
        warm = warmup_length(self.warmup_steps, self.trainer.estimated_stepping_batches)
        if 0 < warm < self.warmup_steps:
            self._say(f"The learning rate rises for {warm} steps, a third of the run, not {self.warmup_steps}.")
        if self.compiled:
            self._say(f"Compiling {type(self.model).__name__}: the first step takes up to a minute or two.")
        elif self.compile_mode not in ("auto", "never"):
            wants = "Triton and a C compiler" if self.device.type == "cuda" else "a C++ compiler"
            self._say(f"Not compiled, though compile_mode is {self.compile_mode}: that needs {wants}, not found here.")

    def _say(self, sentence: str) -> None:
        if self.trainer.is_global_zero:
            print(sentence, flush=True)

    def on_train_end(self) -> None:
        """Let go of the compiled network."""
        self._compiled_network = None

    # ---- optimizer ------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer over few parameter groups, and its schedule stepped every step.

        Raises:
            UserError: an optimizer or schedule that cannot be imported, or arguments that the optimizer does not take.
        """
        lr = default_lr(self.optimizer) if self.lr is None else self.lr
        groups = parameter_groups(
            self.model,
            lr=lr,
            weight_decay=self.weight_decay,
            backbone_lr=self.backbone_lr,
            decay_all=self.decay_all,
            layer_decay=self.layer_decay,
        )
        extra = [p for name, p in self.named_parameters() if p.requires_grad and not name.startswith("model.")]
        if extra:  # a criterion may learn too
            groups.append({"name": "parts", "params": extra, "lr": lr, "weight_decay": 0.0})
        optimizer = make_optimizer(
            self.optimizer,
            groups,
            lr=lr,
            weight_decay=self.weight_decay,
            args=self.optimizer_args,
            fused=self.device.type in ("cpu", "cuda") and str(self.trainer.precision) != "16-mixed",
        )
        factor = schedule_factor(
            self.schedule,
            self.schedule_args,
            min_factor=self.min_lr_factor,
            warmup_steps=self.warmup_steps,
            total_steps=lambda: self.trainer.estimated_stepping_batches,
            position=lambda step: schedule_position(self.trainer, step),
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """As Lightning does, but also for fused optimizers in bfloat16, where no scale is in the way."""
        if str(self.trainer.precision) != "bf16-mixed" or not gradient_clip_val:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        if gradient_clip_algorithm == "value":
            nn.utils.clip_grad_value_(trained, gradient_clip_val)
        else:
            nn.utils.clip_grad_norm_(trained, gradient_clip_val)

    # ---- checkpoints ----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to rebuild this task: classes, preprocessing, parts and versions, all primitives."""
        checkpoint[RECORD] = task_record(self) | self.means_so_far()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the means of an epoch that was cut off."""
        self.go_on_with_means(checkpoint.get(RECORD, {}))

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
        return rebuild_task(cls, checkpoint_path, parts, map_location=map_location, strict=strict is not False)


def check_batch(batch: object, kind: str) -> None:
    """Refuse what is no dict, before its keys are asked for.

    Raises:
        UserError: a tuple, say, as torch's data sets give.
    """
    if not isinstance(batch, Mapping):
        raise UserError(
            f"the data loader gives a {type(batch).__name__}, and a task takes a dict with the keys of "
            f"dlrecipes.contracts.{kind}: make it in the loader's collate_fn"
        )


def _check_kinds(model: object, optimizer: object, schedule: object) -> None:
    if isinstance(model, type) or not isinstance(model, nn.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else repr(model)
        raise ValueError(f"model is {what}: give a network, an nn.Module such as EfficientNet('b0')")
    for name, value, like in (("optimizer", optimizer, "torch.optim.AdamW"), ("schedule", schedule, "my.schedule")):
        if not isinstance(value, str):
            raise ValueError(f"{name} is {value!r}: give its name or import path, such as '{like}'")
