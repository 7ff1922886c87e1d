"""What a recipe does once its options are read: run folder, fit, test, report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_only

from dlrecipes.checkpoint_io import load_checkpoint_file, save_safetensors
from dlrecipes.cli.environment import import_from_here
from dlrecipes.cli.options.arguments import Arguments
from dlrecipes.cli.options.kinds import read_options
from dlrecipes.cli.options.parser import RecipeCLI
from dlrecipes.cli.options.switches import switched_callbacks
from dlrecipes.cli.recipe.fitting import build_trainer
from dlrecipes.cli.recipe.overfit import OverfitCheck, overfit_arguments
from dlrecipes.cli.recipe.planning import plan, tell_parts
from dlrecipes.cli.recipe.resume import GoesOn, compare_data, refuse_options_of_the_optimizer, restoring
from dlrecipes.cli.recipe.summary import StartSummary, describe_devices, describe_model
from dlrecipes.contracts import DataInfo
from dlrecipes.errors import DLRecipesError, NonFiniteError, UserError
from dlrecipes.parts import import_object
from dlrecipes.runs import (
    CurvesPicture,
    MetricsCSV,
    MetricsResume,
    RunFolder,
    WandbTracker,
    final_block,
    gather_verdicts,
    make_progress,
    make_tracker,
    read_metrics,
    write_model_card,
    write_verdicts,
)
from dlrecipes.runs.pictures.curves import best_row
from dlrecipes.trainer import quiet_lightning

if TYPE_CHECKING:
    from dlrecipes.cli import Recipe

__all__ = ["run"]

_PROJECT = "dlrecipes"


class _Goal(NamedTuple):
    """What the run is judged by, as the task says; a task that says nothing is judged by its loss."""

    monitor: str
    mode: str
    headline: Sequence[str]


@dataclass(frozen=True)
class _Run:
    """What the steps of a run share."""

    recipe: Recipe
    cli: RecipeCLI
    goal: _Goal
    folder: RunFolder
    trainer: Trainer
    tracker: WandbTracker | None
    checkpoint: Path | None
    goes_on: GoesOn | None

    @property
    def info(self) -> DataInfo | None:
        """Facts about the data; None with a datamodule of the user's that has none."""
        return getattr(self.cli.datamodule, "info", None)


def run(recipe: Recipe, arguments: Arguments) -> int:
    """Train, test and report; with ``--overfit`` train and judge.

    Args:
        recipe: the parts and their defaults.
        arguments: options, read.

    Returns:
        0; 1 where ``--overfit`` failed.

    Raises:
        DLRecipesError: with the exit code in it.
        SystemExit: after a signal in training.
    """
    quiet_lightning()
    import_from_here()
    if arguments.help == "all":
        RecipeCLI.print_all_options(import_object(recipe.task), import_object(recipe.data), recipe.parts)
        return 0
    refuse_options_of_the_optimizer(arguments)
    arguments = overfit_arguments(arguments, tuple(recipe.plain_data))
    cli = read_options(recipe, arguments)
    check = plan(cli, arguments)
    tell_parts(cli)
    started = _start(recipe, cli, arguments.resume, [] if check is None else [check])
    exit_code = 1
    try:
        if check is None:
            _fit_and_report(started)
            exit_code = 0
        else:
            exit_code = _fit_and_judge(started, check)
    except SystemExit as stop:
        exit_code = stop.code if isinstance(stop.code, int) else 1
        raise
    except DLRecipesError as error:
        exit_code = error.exit_code
        raise
    finally:
        if started.tracker is not None:
            started.tracker.finish(exit_code)
        if exit_code == UserError.exit_code and arguments.resume is None and started.trainer.is_global_zero:
            started.folder.discard()
    return exit_code


def _start(recipe: Recipe, cli: RecipeCLI, resume: Path | None, more: Sequence[Callback]) -> _Run:
    switched = _switched(recipe, cli)
    folder = RunFolder.create(cli.config["output"], recipe.name) if resume is None else RunFolder.open(resume)
    checkpoint = None
    if resume is not None:
        checkpoint = resume if resume.is_file() else folder.resume_checkpoint
        if (info := getattr(cli.datamodule, "info", None)) is not None:
            compare_data(checkpoint, info)
    text = cli.dump()
    tracker, tracking = make_tracker(cli.config["wandb"], folder, _PROJECT, yaml.safe_load(text))
    shown = cli.config["trainer.enable_progress_bar"]
    terminal = sys.stdout.isatty() if shown is None else shown
    goal = _goal(cli)
    summary = StartSummary(
        folder,
        seed=cli.config["seed_everything"],
        tracking=tracking,
        resumed_from=checkpoint,
        steps_needed=cli.config["steps_needed"] if cli.config["overfit"] is None else None,
    )
    callbacks: list[Callback] = [
        summary,
        *more,
        *switched,
        *(import_object(path)(folder) for path in recipe.pictures),
        *(import_object(path)() for path in recipe.callbacks),
        CurvesPicture(folder, goal.monitor, goal.headline, goal.mode),
        MetricsResume(),
        *make_progress(terminal, goal.headline),
    ]
    goes_on = None if resume is None else GoesOn(lambda trainer: _describe(cli, folder, text, trainer))
    callbacks += [] if goes_on is None else [goes_on]
    loggers = [MetricsCSV(folder.metrics), *([] if tracker is None else [tracker])]
    try:
        trainer = build_trainer(cli, folder, goal.monitor, goal.mode, callbacks, loggers, progress_bar=terminal)
    except UserError:
        if resume is None and getattr(rank_zero_only, "rank", 0) == 0:
            folder.discard()
        raise
    if trainer.is_global_zero and resume is None:
        _describe(cli, folder, text, trainer)
    return _Run(recipe, cli, goal, folder, trainer, tracker, checkpoint, goes_on)


def _switched(recipe: Recipe, cli: RecipeCLI) -> list[Callback]:
    """Callbacks that options ask for; a check by heart judges for itself."""
    if cli.config["overfit"] is not None:
        return []
    try:
        return switched_callbacks(recipe.switches, cli.config)
    except DLRecipesError:
        raise
    except ValueError as error:
        raise UserError(" ".join(str(error).split())) from error


def _goal(cli: RecipeCLI) -> _Goal:
    task: Any = cli.model
    monitor, mode = getattr(task, "monitor", "val/loss"), getattr(task, "monitor_mode", "min")
    return _Goal(monitor, mode, tuple(getattr(task, "headline", ())))


def _describe(cli: RecipeCLI, folder: RunFolder, config: str, trainer: Trainer) -> None:
    """Everything about the run that is known before it begins."""
    folder.write_config(config)
    folder.write_info(seed=cli.config["seed_everything"], device=describe_devices(trainer))
    info = getattr(cli.datamodule, "info", None)
    if info is not None:
        folder.write_classes(info.classes, info.category_ids)
        audit = getattr(cli.datamodule, "audit_report", None)
        values = info.to_dict() if audit is None else audit.to_dict()
        folder.write_data_report(getattr(cli.datamodule, "report", ""), values)


def _fit_and_report(started: _Run) -> None:
    trainer, folder = started.trainer, started.folder
    try:
        _fit(started)
    except NonFiniteError:  # a finding, too
        if trainer.is_global_zero:
            _keep_verdicts(started)
        raise
    best = folder.best_checkpoint if folder.best_checkpoint.is_file() else folder.last_checkpoint
    test = _test(started, best)
    if not trainer.is_global_zero:
        return
    save_safetensors(load_checkpoint_file(best)["state_dict"], folder.best_weights)
    _keep_verdicts(started)
    if started.tracker is not None:
        started.tracker.log_checkpoint(best, test)
    if started.info is not None:
        _report(started, started.info, test)


def _fit(started: _Run) -> None:
    cli = started.cli
    with restoring(started.checkpoint, started.goes_on):
        started.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=started.checkpoint, weights_only=True)


def _keep_verdicts(started: _Run) -> None:
    """What callbacks have found out, into the run folder and W&B."""
    verdicts = gather_verdicts(getattr(started.trainer, "callbacks", ()))
    started.folder.verdicts.unlink(missing_ok=True)  # of the run before this one resumed it
    write_verdicts(started.folder, verdicts)
    if started.tracker is not None and verdicts:
        rows = [(v.level, v.source, v.title, v.evidence, v.advice) for v in verdicts]
        started.tracker.log_table("verdicts", ("level", "source", "title", "evidence", "advice"), rows)


def _fit_and_judge(started: _Run, check: OverfitCheck) -> int:
    """Learn the few images, and say whether that went well."""
    _fit(started)
    print(check.verdict(started.folder.path), flush=True)
    return 0 if check.passed else 1


def _test(started: _Run, checkpoint: Path) -> Mapping[str, float]:
    """Metrics of the best checkpoint on the test split. Without one, none: but the validation split is drawn."""
    trainer, model, datamodule = started.trainer, started.cli.model, started.cli.datamodule
    if getattr(datamodule, "test_split", "") in getattr(datamodule, "splits", ("",)):
        (metrics,) = trainer.test(model, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True, verbose=False)
        return metrics
    loggers = trainer.loggers  # metrics.csv has these numbers, under their own epoch
    trainer.loggers = [logger for logger in loggers if not isinstance(logger, MetricsCSV)]
    trainer.validate(model, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True, verbose=False)
    trainer.loggers = loggers
    return {}


def _report(started: _Run, info: DataInfo, test: Mapping[str, float]) -> None:
    goal, folder = started.goal, started.folder
    script = sys.argv[0]
    data: Any = started.cli.datamodule
    write_model_card(
        folder,
        info,
        model=describe_model(started.cli.model),
        data=str(getattr(data, "path", None) or f"the embedded data of {type(data).__name__}"),
        metrics=test or _best_validation(folder, goal),
        recipe=script,
        task_path=_import_path(started.cli.model),
    )
    tracker = started.tracker
    final_block(
        folder,
        info,
        test=test or None,
        monitor=goal.monitor,
        mode=goal.mode,
        headline=goal.headline,
        resume_command=f"python {shlex.quote(script)} --resume {shlex.quote(str(folder.path))}",
        sync_command=tracker.sync_command if tracker is not None and tracker.mode == "offline" else None,
    )


def _best_validation(folder: RunFolder, goal: _Goal) -> dict[str, float]:
    """Validation metrics of the epoch that the best checkpoint is from; empty if none was validated."""
    row = best_row(read_metrics(folder.metrics), goal.monitor, goal.mode) or {}
    return {name: value for name, value in row.items() if name.startswith("val/")}


def _import_path(part: object) -> str:
    """``"dlrecipes.tasks.DetectionTask"``: a class of ours by the room that exports it."""
    cls = type(part)
    room = cls.__module__.rpartition(".")[0]
    if cls.__module__.startswith("dlrecipes.") and getattr(import_module(room), cls.__name__, None) is cls:
        return f"{room}.{cls.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"
