"""From what a user types to what jsonargparse reads: short names, presets, resume. Imports nothing heavy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dlrecipes.errors import UserError

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
    *("--checkpoint_every_n_steps", "--checkpoint_every_n_minutes"),
)

_SWITCHES = {"--debug", "-h", "--help", "--help_all", "--print_config"}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """A command line, read but not yet checked against the classes' signatures.

    Attributes:
        argv: what jsonargparse parses: every ``--config`` in order, then the overrides, all under their full names.
        resume: run folder or checkpoint to go on from.
        help: ``"short"``, ``"all"`` or ``""``.
        short: short flag -> full name, those of the recipe included.
    """

    argv: tuple[str, ...]
    resume: Path | None = None
    help: str = ""
    short: Mapping[str, str] = field(default_factory=lambda: dict(ALIASES))


def preset_names(preset: Path) -> list[str]:
    """Names of a recipe's presets: the files beside ``preset`` that begin with the same word."""
    family = preset.stem.partition("_")[0]
    return sorted(path.stem for path in preset.parent.glob("*.yaml") if path.stem.partition("_")[0] == family)


def read_arguments(
    argv: Sequence[str], preset: Path, *, embedded: Path | None = None, aliases: Mapping[str, str] | None = None
) -> Arguments:
    """Reads a recipe's command line.

    ``--config`` moves to the front, so that an override wins wherever it stands; without one, ``preset`` is the config,
    and with ``--resume`` the run's own ``config.yaml`` is.

    Args:
        argv: the arguments, without the program's name.
        preset: default preset; its folder is where the other presets are looked up by name.
        embedded: default preset where no data are given; None: ``preset``.
        aliases: further short flags.

    Raises:
        UserError: an option without its value, or a preset or run that does not exist.

    Example:
        >>> read_arguments(["--epochs", "3", "--batch-size=2"], Path("detr_fast.yaml")).argv
        ('--config', 'detr_fast.yaml', '--trainer.max_epochs', '3', '--data.batch_size', '2')
    """
    configs: list[str] = []
    overrides: list[str] = []
    resume: Path | None = None
    seen: set[str] = set()
    short = {**ALIASES, **(aliases or {})}
    tokens = list(argv)
    while tokens:
        name, has_value, value = tokens.pop(0).partition("=")
        flag = _full_name(name, short)
        if flag in _SWITCHES:
            seen.add(flag)
            if flag == "--print_config":
                overrides.append(flag + has_value + value)
            continue
        if not flag.startswith("--"):
            raise UserError(_unexpected_word(name))
        if not has_value:
            if not tokens:
                raise UserError(f"{name} needs a value: see -h.")
            value = tokens.pop(0)
        if flag == "--config":
            configs += ["--config", str(_find_config(value, preset))]
        elif flag == "--resume":
            resume = Path(value)
        else:
            overrides += [flag, value]

    if "--help_all" in seen or seen & {"-h", "--help"}:
        return Arguments(argv=tuple(overrides), help="all" if "--help_all" in seen else "short", short=short)
    if resume is not None:
        config = _config_of_run(resume)
        configs = ["--config", str(config), *configs]
        overrides = [*_no_other_weights(config), *overrides]
    elif not configs:
        given = {"--data.path", "--data.init_args.path", "--data.class_path"} & set(overrides)
        configs = ["--config", str(preset if embedded is None or given else embedded)]
    return Arguments(argv=(*configs, *overrides), resume=resume, short=short)


def suggest(flag: str, known: Iterable[str]) -> str:
    """``" Did you mean --epochs?"`` for the known flag closest to ``flag``, or ``""`` if none is close.

    >>> suggest("--epoch", ["--epochs", "--data"])
    ' Did you mean --epochs?'
    """
    known = sorted(set(known))
    close = difflib.get_close_matches(flag, known, n=1, cutoff=0.6)
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


def _no_other_weights(config: Path) -> list[str]:
    """Overrides for a resumed run: its checkpoint brings the weights, so none are downloaded or read from elsewhere."""
    import yaml

    task = (yaml.safe_load(config.read_text()) or {}).get("model") or {}
    args = task.get("init_args") or {}
    model = (args.get("model") or {}).get("init_args") or {}
    pretrained = [name for name, value in model.items() if name.startswith("pretrained") and value]
    overrides = [word for name in pretrained for word in (f"--model.model.{name}", "false")]
    return overrides + (["--model.init", "null"] if args.get("init") is not None else [])
