"""What is settled between reading the data and making the run folder: epochs, few images, parts that know the data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from dlrecipes.cli.options.arguments import Arguments
from dlrecipes.cli.options.parser import RecipeCLI
from dlrecipes.cli.recipe.epochs import estimate_epochs, planned_devices, steps_an_epoch
from dlrecipes.cli.recipe.overfit import FewImages, OverfitCheck, overfit_trainer
from dlrecipes.errors import DLRecipesError, UserError
from dlrecipes.functional.words import counted, say
from dlrecipes.tasks import BaseTask
from dlrecipes.trainer import uses_cuda

__all__ = ["plan", "tell_parts"]


def plan(cli: RecipeCLI, arguments: Arguments) -> OverfitCheck | None:
    """Settle what depends on the number of images, and say so: the epochs, or the few images of ``--overfit``.

    Raises:
        UserError: a run of no step, or of more processes than the machine can hold.
    """
    trainer, choice = cli.config["trainer"], arguments.choice
    _refuse(trainer)
    said = [] if choice is None else [f"Preset {' + '.join(choice.presets)}, since {choice.why}"]
    check = None
    if (images := cli.config["overfit"]) is not None:
        few = FewImages(cli.datamodule, images, trainer["accumulate_grad_batches"])
        check = OverfitCheck(getattr(cli.model, "overfit_goal", {}), few.images)
        cli.datamodule = few
        _set_trainer(cli, overfit_trainer(arguments))
    elif cli.config["steps_needed"] is not None and getattr(cli.datamodule, "info", None) is not None:
        info, size = cli.datamodule.info, int(getattr(cli.datamodule, "batch_size", 1))
        each = steps_an_epoch(getattr(cli.datamodule, "epoch_size", info.num_train), size, trainer)
        estimate = estimate_epochs(cli.config["steps_needed"], info.num_train, each, trainer)
        said.append(estimate.sentence)
        if estimate.max_epochs is not None:
            unless = "--trainer.check_val_every_n_epoch" in arguments.typed or trainer["check_val_every_n_epoch"] != 1
            interval = {} if unless else {"check_val_every_n_epoch": estimate.validate_every}
            _set_trainer(cli, {"max_epochs": estimate.max_epochs, **interval})
    elif said and (info := getattr(cli.datamodule, "info", None)) is not None:
        said.append(f"{counted(info.num_train, 'image')} to train on")
    if said and arguments.resume is None and getattr(rank_zero_only, "rank", 0) == 0:
        text = "; ".join(said)
        say(f"{text[0].upper()}{text[1:]}.")
    return check


def _refuse(trainer: Mapping[str, Any]) -> None:
    """Settings that Lightning takes: it would train nothing, or start 99 processes that fill the memory."""
    for option, name in (("--epochs", "max_epochs"), ("--trainer.max_steps", "max_steps")):
        if trainer[name] == 0:
            raise UserError(f"{option} 0 trains nothing: give 1 or more.")
    on_cpu = str(trainer["accelerator"]) in ("auto", "cpu") and not uses_cuda(str(trainer["accelerator"]))
    cores, devices = os.cpu_count() or 1, planned_devices({**trainer, "num_nodes": 1})
    if on_cpu and "WORLD_SIZE" not in os.environ and devices > max(2, cores):
        raise UserError(
            f"--devices {devices}: without a GPU each is a process, and {cores} CPU cores have no time or memory for "
            f"more than {max(2, cores)}; take so many or fewer."
        )


def _set_trainer(cli: RecipeCLI, values: Mapping[str, Any]) -> None:
    """Change settings of the Trainer to come, and of the config that is kept."""
    for config in (cli.config, cli.config_init):
        for name, value in values.items():
            config["trainer"][name] = value


def tell_parts(cli: RecipeCLI) -> None:
    """Let parts meet the data, and ``--init`` be read, before a folder is made: what does not fit is found here."""
    task, info = cli.model, getattr(cli.datamodule, "info", None)
    if not isinstance(task, BaseTask) or info is None:
        return
    task.info = info
    try:
        task.configure_model()
    except DLRecipesError:
        raise
    except ValueError as error:  # a part of the user's may say it so
        raise UserError(" ".join(str(error).split())) from error
