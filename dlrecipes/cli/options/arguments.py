"""From what a user types to what jsonargparse reads: short names, presets, resume. Imports nothing heavy."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from dlrecipes.cli.options.layers import opened, section_of
from dlrecipes.cli.options.presets import Choice, Choose, Situation
from dlrecipes.errors import CheckpointError, UserError

__all__ = ["ALIASES", "OWN_FLAGS", "Arguments", "preset_names", "read_arguments", "suggest"]

ALIASES = {
    "--data": "--data.path",
    "--epochs": "--trainer.max_epochs",
    "--devices": "--trainer.devices",
    "--batch_size": "--data.batch_size",
    "--lr": "--model.lr",
    "--seed": "--seed_everything",
    "-c": "--config",
}
"""Short flag of every recipe -> the full name that it stands for."""

OWN_FLAGS = (
    *("--config", "--output", "--resume", "--ema", "--wandb", "--print_config", "--debug", "--help", "--help-all"),
    *("--checkpoint_every_n_steps", "--checkpoint_every_n_minutes", "--overfit", "--steps_needed"),
)

_OTHER_NAMES = {  # as other programs call it -> ours
    **dict.fromkeys(("learning_rate", "base_lr", "lr0"), "--lr"),
    **dict.fromkeys(("batch", "bs", "batchsize"), "--batch_size"),
    **dict.fromkeys(("imgsz", "img_size", "input_size", "resolution"), "--image_size"),
    **dict.fromkeys(("arch", "backbone", "model_name"), "--variant"),
    **dict.fromkeys(("gpus", "gpu", "nproc_per_node"), "--devices"),
    **dict.fromkeys(("max_epoch", "num_epochs", "n_epochs"), "--epochs"),
    **dict.fromkeys(("data_dir", "data_path", "dataset", "root"), "--data"),
    **dict.fromkeys(("out", "out_dir", "output_dir", "save_dir", "logdir"), "--output"),
    **dict.fromkeys(("patience", "early_stopping"), "--early_stop"),
}
_DATA = {"--data.path", "--data.init_args.path", "--data.class_path"}
_SWITCHES = {"--debug", "-h", "--help", "--help_all", "--print_config"}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """A command line, read but not yet checked against the classes' signatures.

    Attributes:
        argv: what jsonargparse parses: every ``--config`` in order, then the overrides, all under their full names.
        resume: run folder or checkpoint to go on from.
        help: ``"short"``, ``"all"`` or ``""``.
        short: short flag -> full name, those of the recipe included.
        choice: presets that the recipe has chosen by itself; None: the user's own, or the default.
        typed: the options as typed, under their full names: what is left of ``argv`` without configs and presets.
    """

    argv: tuple[str, ...]
    resume: Path | None = None
    help: str = ""
    short: Mapping[str, str] = field(default_factory=lambda: dict(ALIASES))
    choice: Choice | None = None
    typed: tuple[str, ...] = ()


def preset_names(preset: Path) -> list[str]:
    """Names of a recipe's presets: the files beside ``preset`` that begin with the same word."""
    family = preset.stem.partition("_")[0]
    return sorted(path.stem for path in preset.parent.glob("*.yaml") if path.stem.partition("_")[0] == family)


def read_arguments(
    argv: Sequence[str],
    preset: Path,
    *,
    embedded: Path | None = None,
    aliases: Mapping[str, str] | None = None,
    choose: Choose | None = None,
) -> Arguments:
    """Reads a recipe's command line.

    ``--config`` moves to the front, so that an override wins wherever it stands; without one, ``preset`` is the config,
    and with ``--resume`` the run's own ``config.yaml`` is.

    Args:
        argv: the arguments, without the program's name.
        preset: default preset; its folder is where the other presets are looked up by name.
        embedded: default preset where no data are given; None: ``preset``.
        aliases: further short flags.
        choose: may take other presets, or several in the place of the one that was named first.

    Raises:
        UserError: an option without its value, or a preset or run that does not exist.

    Example:
        >>> read_arguments(["--epochs", "3", "--batch-size=2"], Path("detr_fast.yaml")).argv
        ('--config', 'detr_fast.yaml', '--trainer.max_epochs', '3', '--data.batch_size', '2')
    """
    short = {**ALIASES, **(aliases or {})}
    named, overrides, resume, switches = _read_words(argv, short)
    if "--help_all" in switches or switches & {"-h", "--help"}:
        return Arguments(argv=tuple(overrides), help="all" if "--help_all" in switches else "short", short=short)
    typed = tuple(overrides)
    configs = [_find_config(value, preset) for value in named]
    if resume is not None and (resume / "folds.json").is_file():  # the folder of all folds has no config
        return Arguments(argv=(*_as_options(configs), *typed), resume=resume, short=short, typed=typed)
    if resume is not None:
        config = _config_of_run(resume)
        own = [config, *configs]
        return Arguments(
            argv=(*_as_options(own), *_as_it_was(config, resume), *typed), resume=resume, short=short, typed=typed
        )
    choice = None if choose is None else choose(_situation(typed, named, configs, preset))
    if choice is not None:
        taken = [preset.with_name(f"{name}.yaml") for name in choice.presets]
        words = (*_as_options(taken), *_as_options(configs[1:]), *choice.options, *typed)
        return Arguments(argv=words, short=short, choice=choice, typed=typed)
    if not configs:
        given = _DATA & set(typed)
        configs = [preset if embedded is None or given else embedded]
    return Arguments(argv=(*_as_options(configs), *typed), short=short, typed=typed)


def _read_words(argv: Sequence[str], short: Mapping[str, str]) -> tuple[list[str], list[str], Path | None, set[str]]:
    """Values of ``--config``, other options under their full names, the run to resume, and switches without a value."""
    configs: list[str] = []
    overrides: list[list[str]] = []
    resume: Path | None = None
    switches: set[str] = set()
    tokens = list(argv)
    while tokens:
        name, has_value, value = tokens.pop(0).partition("=")
        flag = _full_name(name, short)
        if flag in _SWITCHES:
            switches.add(flag)
            if flag == "--print_config":
                overrides.append([flag + has_value + value])
            continue
        if not flag.startswith("--"):
            raise UserError(_unexpected_word(name))
        if not has_value:
            if not tokens:
                raise UserError(f"{name} needs a value: see -h.")
            value = tokens.pop(0)
        if flag == "--config":
            configs.append(value)
        elif flag == "--resume":
            resume = Path(value)
        else:
            overrides.append([flag, value])
    return configs, [word for option in _classes_first(overrides) for word in option], resume, switches


def _classes_first(options: list[list[str]]) -> list[list[str]]:
    """``--model.loss CLASS`` before ``--model.loss.gamma 2``, which the parser would otherwise drop without a word."""
    names = [name for name, *_ in options]
    classes = [any(other.startswith(f"{name}.") for other in names) for name in names]
    first = [option for option, is_class in zip(options, classes, strict=True) if is_class]
    rest = [option for option, is_class in zip(options, classes, strict=True) if not is_class]
    return sorted(first, key=lambda option: option[0].count(".")) + rest


def _as_options(configs: Iterable[Path]) -> list[str]:
    return [word for path in configs for word in ("--config", str(path))]


def _situation(typed: Sequence[str], named: Sequence[str], configs: Sequence[Path], preset: Path) -> Situation:
    options = {name: value for name, value in pairwise(typed) if name.startswith("--")}
    data = bool(_DATA & options.keys())
    for config in configs:
        says = section_of(config, "data")
        data |= "class_path" in says or says.get("path") is not None
    first = named[0] if named else None
    if configs and configs[0].resolve().parent == preset.resolve().parent:
        first = configs[0].stem
    return Situation(options=options, data=data, preset=first)


def suggest(flag: str, known: Iterable[str]) -> str:
    """``" Did you mean --epochs?"`` for the known flag closest to ``flag``, or ``""`` if none is close.

    >>> suggest("--epoch", ["--epochs", "--data"]), suggest("--learning_rate", ["--lr", "--data"])
    (' Did you mean --epochs?', ' Did you mean --lr?')
    """
    known = sorted(set(known))
    close = [name for name in (_OTHER_NAMES.get(flag.lstrip("-").replace("-", "_")),) if name in known]
    close = close or [name for name in known if flag.strip("-") and name.startswith(f"{flag}_")]  # a name's beginning
    close = close or difflib.get_close_matches(flag, known, n=1, cutoff=0.6)
    if not close:  # `--num_queries` for `--model.model.num_queries`: the right name without its namespace
        tail = flag.lstrip("-").rpartition(".")[2]
        close = [name for name in known if name.rpartition(".")[2] == tail][:1]
    return f" Did you mean {close[0]}?" if close else ""


def _full_name(name: str, short: Mapping[str, str]) -> str:
    """``--batch-size`` -> ``--data.batch_size``; words that are no option stay as they are."""
    if name.startswith("--"):
        name = "--" + name[2:].replace("-", "_")
    return short.get(name, name)


def _unexpected_word(word: str) -> str:
    hint = f" Did you mean --data {word}?" if Path(word).exists() else " Options start with --; see -h."
    return f"{word!r} belongs to no option.{hint}"


def _find_config(value: str, preset: Path) -> Path:
    """A file as it stands, or one beside ``preset`` by its name."""
    named = preset.parent / value
    for path in (Path(value), named, named.with_name(named.name + ".yaml")):
        if path.is_file():
            return path
    presets = preset_names(preset)
    raise UserError(
        f"--config {value}: there is neither such a file nor a preset of that name (presets: {', '.join(presets)})."
        + suggest(value, presets)
    )


def _config_of_run(resume: Path) -> Path:
    from dlrecipes.runs.folder import RunFolder

    config = RunFolder.open(resume).config
    if not config.is_file():
        raise UserError(f"--resume {resume}: {config} is missing, so nobody knows the run's settings.")
    return config


def _as_it_was(config: Path, resume: Path) -> list[str]:
    """Overrides for a resumed run: its checkpoint brings the weights, so none are downloaded or read from elsewhere.

    What the model took from its pretrained weights, such as the mean and std of images, is in the checkpoint, too.
    """
    task = section_of(config, "model")
    model = opened(task.get("model"))
    pretrained = [name for name, value in model.items() if name.startswith("pretrained") and value]
    overrides = [word for name in pretrained for word in (f"--model.model.{name}", "false")]
    if pretrained:
        left_open = [name for name, value in model.items() if value is None]
        decided = _recorded_model(resume)
        known = {name: decided[name] for name in left_open if decided.get(name) is not None}
        overrides += [word for name, value in known.items() for word in (f"--model.model.{name}", json.dumps(value))]
    return overrides + (["--model.init", "null"] if task.get("init") is not None else [])


def _recorded_model(resume: Path) -> Mapping[str, Any]:
    """The model's arguments in a run's checkpoint; none where it cannot be read, which the resume will say."""
    from dlrecipes.checkpoint_io import load_checkpoint_file
    from dlrecipes.runs.folder import RunFolder

    try:
        content = load_checkpoint_file(resume if resume.is_file() else RunFolder.open(resume).resume_checkpoint)
        arguments: Mapping[str, Any] = content["dlrecipes"]["task"]["init_args"]["model"]["init_args"]
    except (CheckpointError, KeyError, TypeError):
        return {}
    return arguments
