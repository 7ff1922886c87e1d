"""``dlrecipes second-stage RUN``: the last layer of a trained run made anew, as a run folder of its own."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import rich.box
import torch
import yaml
from lightning.pytorch import LightningDataModule, Trainer
from rich.console import Console
from rich.table import Table

from dlrecipes.checkpoint_io import load_checkpoint_file, save_checkpoint_file, save_safetensors
from dlrecipes.cli.actions.predict import find_checkpoint, load_task
from dlrecipes.cli.actions.run_data import run_config, run_data, training_images
from dlrecipes.cli.options.remedies import REMEDIES
from dlrecipes.cli.recipe.summary import describe_model
from dlrecipes.contracts import DataInfo
from dlrecipes.imbalance import FeatureSMOTE, double_balance
from dlrecipes.runs import ImageCurves, MetricsCSV, RunFolder, final_block, write_model_card
from dlrecipes.runs.metric_names import format_value
from dlrecipes.tasks.second_stage import Criterion, Method, SecondStage, check_second_stage, second_stage
from dlrecipes.tasks.stage_features import read_features
from dlrecipes.trainer import TRAINER_DEFAULTS, quiet_lightning

__all__ = ["COLUMNS", "balance_notes", "comparison_table", "second_stage_of_run"]

COLUMNS = {
    "accuracy": "top-1",
    "balanced_accuracy": "balanced",
    "f1": "F1",
    "accuracy_many": "many",
    "accuracy_medium": "medium",
    "accuracy_few": "few",
    "ece": "ECE",
    "balanced_nll": "bal. NLL",
}
"""Metric -> its column, of a table that fits 80 characters; F1 is the mean over classes."""

# Beside these a checkpoint holds optimizer, callbacks and loops of a training that this run did not have.
_KEPT = ("epoch", "global_step", "pytorch-lightning_version", "state_dict", "dlrecipes")


def second_stage_of_run(
    run: str | Path,
    method: Method,
    *,
    data: str | None = None,
    epochs: int = 10,
    tau: float | None = None,
    choose_by: Criterion | None = None,
    augment: bool = False,
    seed: int = 0,
    output: str | Path | None = None,
) -> RunFolder:
    """Make the last layer of a run's best checkpoint anew, and a run folder with the result.

    Its checkpoint is read by ``load_from_checkpoint``, ``dlrecipes predict`` and ``export`` as any other: what was
    learnt is in the weights and bias of the same layer. It holds ``second_stage.csv``, before and after, too.

    Args:
        run: run folder of a classification recipe, or a checkpoint in it.
        method, epochs, tau, choose_by, seed: see `dlrecipes.tasks.second_stage.second_stage`.
        data: other images of the same classes; None: those of the run.
        augment: let ``crt`` and ``lws`` see images augmented as in training, a pass each epoch.
        output: parent of the new folder ``RUN-METHOD-001``; None: that of the run.

    Raises:
        UserError: no such run, or one that the method is not for; data that cannot be used.
    """
    quiet_lightning()
    checkpoint, home = find_checkpoint(Path(run))
    task: Any = load_task(checkpoint, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    info, _ = check_second_stage(task, method, tau, choose_by)
    config = run_config(home)
    datamodule = run_data(config, info, path=data)
    if data is not None:
        info = task.info = _with_counts(info, datamodule)
        config["data"]["init_args"]["path"] = str(Path(data).expanduser().absolute()) if Path(data).exists() else data
    for note in balance_notes(task, config, method):
        print(note, flush=True)
    features = read_features(task, datamodule, train_loader=training_images(config, info, path=data), augment=augment)
    found = second_stage(task, features, method, epochs=epochs, tau=tau, choose_by=choose_by, seed=seed)
    found.apply(task)
    folder = RunFolder.create(output if output is not None else home.parent, f"{home.name}-{method}")
    _write(folder, checkpoint, task, config, found, seed)
    test = _measure(folder, task, datamodule, found)
    command = f"second-stage {shlex.quote(str(run))} --method {method}"
    _report(folder, task, datamodule, found, test, command, str(config["model"]["class_path"]))
    return folder


def comparison_table(found: SecondStage) -> Table:
    """Before and after on each split."""
    title = f"{found.method}: {_settings(found)}"
    table = Table(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    rows = list(_rows(found))
    shown = [name for name in COLUMNS if any(name in values for _, _, values in rows)]
    for name in shown:
        table.add_column(COLUMNS[name], justify="right", no_wrap=True)
    for split, when, values in rows:
        cells = (format_value(values[name]) if name in values else "" for name in shown)
        table.add_row(f"{split}, {when}", *cells, end_section=when == "after")
    return table


def _with_counts(info: DataInfo, datamodule: LightningDataModule) -> DataInfo:
    """Groups of frequent and rare classes are those of the new data."""
    found: DataInfo | None = getattr(datamodule, "info", None)
    values = info.to_dict()
    if found is not None:
        values |= {"class_counts": found.class_counts, "num_train": found.num_train}
    return DataInfo.from_dict(values)


def balance_notes(task: Any, config: Mapping[str, Any], method: str) -> list[str]:
    """A sentence of advice if the run's training balanced the classes already, by whatever means; none otherwise.

    Args:
        task: of the run; its loss and ``feature_part`` are looked at.
        config: of the run; its sampler, mixing, callbacks and remedy are looked at.
        method: of the second stage.
    """
    data = config["data"].get("init_args") or {}
    trainer = config.get("trainer") or {}
    remedy = REMEDIES.get(str(config.get("imbalance") or ""))
    given = trainer.get("callbacks") or []
    callbacks = [str(each.get("class_path")) for each in (given if isinstance(given, list) else [given])]
    callbacks += [remedy.callback] if remedy is not None else []
    found = []
    if double_balance(method, task.loss) is not None:
        found.append(type(task.loss).__name__)
    if (sampler := data.get("sampler")) not in (None, "instance"):
        found.append(f"the sampler {sampler!r}")
    if data.get("mix") == "remix":
        found.append("Remix")
    if isinstance(getattr(task, "feature_part", None), FeatureSMOTE):
        found.append("FeatureSMOTE")
    if any(path.rpartition(".")[2] == "DeferredReweighting" for path in callbacks):
        found.append("deferred class weighting")
    if not found:
        return []
    return [
        f"advice: this run was trained with {' and '.join(found)}, which balance{'s' if len(found) == 1 else ''} the "
        f"classes already; {method} does so again."
    ]


def _write(
    folder: RunFolder, checkpoint: Path, task: Any, config: Mapping[str, Any], found: SecondStage, seed: int
) -> None:
    content = load_checkpoint_file(checkpoint)
    kept = {name: content[name] for name in _KEPT if name in content}
    kept["state_dict"] = {name: value.cpu() for name, value in task.state_dict().items()}
    record = {"method": found.method, "settings": dict(found.settings), "of": str(checkpoint)}
    kept["dlrecipes"] = {**kept["dlrecipes"], "info": task.info.to_dict(), "second_stage": record}
    save_checkpoint_file(kept, folder.best_checkpoint)
    save_safetensors(kept["state_dict"], folder.best_weights)
    folder.write_config(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
    folder.write_info(seed=seed, device=str(task.device))
    folder.update_info({"second_stage": record})
    folder.write_classes(task.info.classes, task.info.category_ids)
    shown = list(dict.fromkeys([*COLUMNS, *(name for _, _, values in _rows(found) for name in values)]))
    with (folder.path / "second_stage.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["split", "layer", *shown])
        for split, when, values in _rows(found):
            table.writerow([split, when, *(values.get(name, "") for name in shown)])
    if found.trials:
        with (folder.path / "tau.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([found.trials[0]._fields, *found.trials])


def _measure(folder: RunFolder, task: Any, datamodule: LightningDataModule, found: SecondStage) -> dict[str, float]:
    """Metrics of the network itself with its new layer, and the pictures of a run's end."""
    logger = MetricsCSV(folder.metrics)
    logger.log_metrics({"epoch": 0.0} | {f"val/{name}": value for name, value in found.after["val"].items()}, step=0)
    tested = "test" in found.after
    trainer = Trainer(
        **TRAINER_DEFAULTS,
        accelerator="auto",
        devices=1,
        logger=[logger] if tested else [],
        callbacks=[ImageCurves(folder)],
        enable_progress_bar=False,
        enable_checkpointing=False,
        default_root_dir=str(folder.path),
    )
    measure = trainer.test if tested else trainer.validate
    (metrics,) = measure(task, datamodule=datamodule, verbose=False)
    return dict(metrics) if tested else {}


def _report(
    folder: RunFolder,
    task: Any,
    datamodule: LightningDataModule,
    found: SecondStage,
    test: Mapping[str, float],
    command: str,
    task_path: str,
) -> None:
    info: DataInfo = task.info
    write_model_card(
        folder,
        info,
        model=describe_model(task),
        data=str(getattr(datamodule, "path", None) or f"the embedded data of {type(datamodule).__name__}"),
        metrics=test or {f"val/{name}": value for name, value in found.after["val"].items()},
        recipe=f"dlrecipes {command}",
        task_path=task_path,
    )
    with folder.model_card.open("a", encoding="utf-8") as file:
        file.write("\n".join(["", *_card_lines(found), ""]))
    console = Console(highlight=False, soft_wrap=True)
    if found.trials:
        console.print(_trials_table(found))
    console.print(comparison_table(found))
    if "test" not in found.after:
        console.print("There is no test split, and the validation split has chosen: its numbers are too good.")
    final_block(
        folder,
        info,
        test=test or None,
        monitor=task.monitor,
        mode=task.monitor_mode,
        headline=task.headline,
        console=console,
    )


def _trials_table(found: SecondStage) -> Table:
    title = "strengths that were tried on the validation split"
    table = Table(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD)
    for name in ("τ", "balanced accuracy", "balanced NLL", ""):
        table.add_column(name, justify="right")
    for trial in found.trials:
        chosen = "chosen" if trial.tau == found.settings["tau"] else ""
        table.add_row(f"{trial.tau:g}", format_value(trial.balanced_accuracy), format_value(trial.balanced_nll), chosen)
    return table


def _rows(found: SecondStage) -> Iterable[tuple[str, str, Mapping[str, float]]]:
    for split in found.before:
        yield split, "before", found.before[split]
        yield split, "after", found.after[split]


def _settings(found: SecondStage) -> str:
    words = [
        f"{name} {('yes' if value else 'no') if isinstance(value, bool) else format(value, 'g')}"
        for name, value in found.settings.items()
    ]
    chosen = "tau" if found.trials else "temperature" if "temperature" in found.settings else ""
    return ", ".join(words) + (f" ({chosen} chosen on the validation split)" if chosen else "")


def _card_lines(found: SecondStage) -> list[str]:
    rows = list(_rows(found))
    shown = [name for name in COLUMNS if any(name in values for _, _, values in rows)]
    return [
        "## Second stage",
        f"The last layer was made anew by `{found.method}`: {_settings(found)}.",
        "",
        f"| split | layer | {' | '.join(COLUMNS[name] for name in shown)} |",
        f"| --- | --- |{' ---: |' * len(shown)}",
        *(
            f"| {split} | {when} | {' | '.join(format_value(values[name]) for name in shown)} |"
            for split, when, values in rows
        ),
    ]
