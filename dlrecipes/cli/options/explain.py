"""jsonargparse's nested messages, turned into one sentence that names the option, the value and the remedy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import yaml

from dlrecipes.cli.options.arguments import ALIASES, suggest

__all__ = ["explain"]

_UNKNOWN = re.compile(r"unrecognized arguments: (\S+)|Option '([^']+)' is not accepted")
_NOT_IMPORTABLE = re.compile(
    r"Problem with given class_path '([^']+)':\s+(No module named .*|module .* has no attribute .*)"
)
_NO_PATH = re.compile(r"Expected a (?:path but|dot import path string:) (\S+)")
_WRONG_CLASS = re.compile(r"does not correspond to a subclass of (\w+)[\s\S]*?Given value: (.*)")
_WRONG_VALUE = re.compile(r"""Parser key "([^"]+)":\s+Expected an? (.*)\. Got value: (.*)""")
_NO_UNION_MEMBER = re.compile(
    r"""Parser key "([^"]+)":\s+Does not validate against any of the Union subtypes\s+Subtypes: .*\s+Errors:\s+"""
    r"""((?:- Expected .*\s+)+)Given value type: .*\s+Given value: (.*)"""
)
_KIND = re.compile(r"<class '([^']+)'>|typing\.Literal\[(.*)\]")
_FROM_CONSTRUCTOR = re.compile(
    r"Errors:\s+- (?!Problem|Expected)((?:(?!Errors:)[\s\S])*?)\s+- Expected a <class 'NoneType'>"
)


def explain(message: str, argv: Sequence[str], known: Iterable[str], aliases: Mapping[str, str] = ALIASES) -> str:
    """One sentence for an error of jsonargparse.

    Args:
        message: text of an ``ArgumentError``, or of an error while the classes were instantiated.
        argv: the options that were parsed, under their full names.
        known: every option that exists.
        aliases: short flag -> full name.

    Example:
        >>> explain("unrecognized arguments: --epoch 3", ["--epoch", "3"], ["--epochs"])
        'There is no option --epoch. Did you mean --epochs?'
    """
    if match := _UNKNOWN.search(message):
        return _unknown((match[1] or match[2]).lstrip("-").partition("=")[0], argv, known, aliases)
    if match := _NOT_IMPORTABLE.search(message):
        path, reason = match[1], match[2].strip()
        return f"Cannot import {path} ({reason}): give the import path of a class; the current folder is on the path."
    short = {full: flag for flag, full in aliases.items() if len(flag) > 2}
    if match := _WRONG_CLASS.search(message):
        return f"{_option(argv, '', match[2], short)} needs a subclass of {match[1]}, which {match[2]} is not."
    if match := _NO_PATH.search(message):
        return f"{_option(argv, '', match[1], short)} needs the import path of a class, which {match[1]!r} is not."
    if matches := [*_WRONG_VALUE.findall(message), *_NO_UNION_MEMBER.findall(message)]:
        key, expected, value = matches[-1]  # the innermost
        kinds = [kind or choices for kind, choices in _KIND.findall(expected) if kind != "NoneType"]
        return f"{_option(argv, key, value, short)} must be {' or '.join(kinds) or expected}, not {value!r}."
    if "Problems parsing config" in message or "Unexpected config" in message or "codec can't decode" in message:
        for name, path in pairwise(argv):
            if name == "--config" and (problem := _yaml_problem(path)):
                return problem
    if match := _FROM_CONSTRUCTOR.search(message):
        message = match[1]
    lines = [line.strip(" -") for line in message.splitlines()]
    return " ".join(line for line in lines if line)[:400]


def _unknown(name: str, argv: Sequence[str], known: Iterable[str], aliases: Mapping[str, str]) -> str:
    known = list(known)
    flag = next((token for token in argv if token.startswith("--") and token.endswith(name)), None)
    if flag is None:
        hint = re.sub(r"--\w[\w.]*", lambda found: aliases.get(found[0], found[0])[2:], suggest(f"--{name}", known))
        return f"The config sets {name}, which does not exist.{hint}"
    short = next((alias for alias, full in aliases.items() if full == flag), None)
    if short is None:
        return f"There is no option {flag}.{suggest(flag, known)}"
    part = flag.rpartition(".")[0]  # the recipe's own class takes it, so it is another class that was chosen
    chosen = next((value for given, value in reversed([*pairwise(argv)]) if given == part), "the class that was chosen")
    takes = [option.removeprefix(f"{part}.") for option in known if option.startswith(f"{part}.")]
    others = f" (it takes {', '.join(name for name in takes if '.' not in name)})" if takes else ""
    return f"{short.replace('_', '-')} sets {flag}, which {chosen.rpartition('.')[2]} does not take{others}."


def _option(argv: Sequence[str], key: str, value: str, short: Mapping[str, str]) -> str:
    """The option as the user may have typed it; the key alone where a config file set it."""
    flag = next((name for name, given in pairwise(argv) if name.endswith(key) and given == value), key)
    return short.get(flag, flag) or "the config"


def _yaml_problem(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        return f"--config {path} is no valid YAML: {' '.join(str(error).split())}."
    return "" if isinstance(content, Mapping) else f"--config {path} holds no options."
