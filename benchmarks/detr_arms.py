"""Options of the DETR recipe that a benchmark compares: presets, and each technique switched on or off alone.

The presets decide what is on: a technique that ``detr_fast`` has gets an arm without it, another one an arm with it,
and each an arm in which it is the only one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

__all__ = ["SWITCHES", "Switch", "ablation_arms", "as_words", "read_presets"]

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Switch:
    """One technique.

    Attributes:
        on: options that turn it on, full name -> value.
        off: what turns it off where everything else stays; names of ``on`` that are missing here need no other value.
        needs: switches that must be on, too, where it is the only one.
        never_with: switches that it cannot be combined with: there is no arm that adds it to all.
        base: what turns it off where all are off; default ``off``.
    """

    on: Options
    off: Options
    needs: tuple[str, ...] = ()
    never_with: tuple[str, ...] = ()
    base: Options = field(default_factory=dict)


_MODEL, _LOSS = "model.model", "model.criterion"

SWITCHES: dict[str, Switch] = {
    "two_stage": Switch(
        {f"{_MODEL}.queries": "two_stage"},
        {f"{_MODEL}.queries": "anchors", f"{_MODEL}.num_queries": 100},  # what samples in boxes needs boxes
        base={f"{_MODEL}.queries": "learned", f"{_MODEL}.num_queries": 100},
    ),
    "anchors": Switch({f"{_MODEL}.queries": "anchors"}, {f"{_MODEL}.queries": "learned"}, never_with=("two_stage",)),
    "in_box": Switch(
        {f"{_MODEL}.cross_attention": "in_box"}, {f"{_MODEL}.cross_attention": "global"}, needs=("anchors",)
    ),
    "deformable": Switch(
        {f"{_MODEL}.cross_attention": "deformable"}, {f"{_MODEL}.cross_attention": "global"}, needs=("anchors",)
    ),
    "position_bias": Switch(
        {f"{_MODEL}.position_bias": True},
        {f"{_MODEL}.position_bias": False},
        never_with=("in_box", "deformable"),
    ),
    "focal": Switch(
        {f"{_MODEL}.class_head": "sigmoid", f"{_LOSS}.class_loss": "focal"},
        {f"{_MODEL}.class_head": "softmax", f"{_LOSS}.class_loss": "ce"},
    ),
    "varifocal": Switch(
        {f"{_MODEL}.class_head": "sigmoid", f"{_LOSS}.class_loss": "varifocal"},
        {f"{_MODEL}.class_head": "softmax", f"{_LOSS}.class_loss": "ce"},
    ),
    "mal": Switch(
        {f"{_MODEL}.class_head": "sigmoid", f"{_LOSS}.class_loss": "mal"},
        {f"{_MODEL}.class_head": "softmax", f"{_LOSS}.class_loss": "ce"},
    ),
    "ia_bce": Switch(
        {f"{_MODEL}.class_head": "sigmoid", f"{_LOSS}.class_loss": "ia_bce"},
        {f"{_MODEL}.class_head": "softmax", f"{_LOSS}.class_loss": "ce"},
    ),
    "denoising": Switch({f"{_MODEL}.denoising": 5}, {f"{_MODEL}.denoising": 0}, needs=("anchors",)),
    "groups": Switch({f"{_MODEL}.query_groups": 3}, {f"{_MODEL}.query_groups": 1}),
    "hybrid": Switch({f"{_MODEL}.hybrid_queries": 150}, {f"{_MODEL}.hybrid_queries": 0}),
    "ema": Switch({"ema": 0.998}, {"ema": None}),
    "flat_cosine": Switch({"model.schedule": "flat_cosine"}, {"model.schedule": "cosine"}),
    "strong": Switch({"data.transform": "strong"}, {"data.transform": "light"}),
    "mosaic": Switch({"data.mosaic": 0.5}, {"data.mosaic": 0.0}),
    "rare_classes": Switch({"data.repeat_factor": 1.0}, {"data.repeat_factor": None}),
}


def read_presets(*files: Path) -> dict[str, Any]:
    """Options of presets by full name; a later file goes before an earlier one."""
    found: dict[str, Any] = {}
    for file in files:
        found |= _dotted(yaml.safe_load(file.read_text()))
    return found


def ablation_arms(preset: Options) -> dict[str, Options]:
    """Arm -> options over the presets.

    Args:
        preset: what they set, see ``read_presets``.

    Returns:
        ``base`` (all off), ``only_X`` for each technique, ``all`` (the presets as they are), ``no_X`` for each that
        they have on, ``with_X`` for each other that goes with them.
    """
    on = [name for name, switch in SWITCHES.items() if _is_on(switch, preset)]
    base: dict[str, Any] = {}
    for name in on:
        base |= SWITCHES[name].base or SWITCHES[name].off
    arms: dict[str, Options] = {"base": base}
    for name, switch in SWITCHES.items():
        needed = {key: value for need in switch.needs for key, value in SWITCHES[need].on.items()}
        arms[f"only_{name}"] = {**base, **needed, **_as_in(switch, preset)}
    arms["all"] = {}
    for name, switch in SWITCHES.items():
        if name in on:
            arms[f"no_{name}"] = switch.off
        elif not set(switch.never_with) & set(on):
            arms[f"with_{name}"] = switch.on
    return {name: _reading_the_encoder(arm, preset) for name, arm in arms.items()}


def as_words(options: Options) -> list[str]:
    """As one types them: ``["--ema", "null"]``."""
    words = []
    for name, value in options.items():
        words += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return words


def _is_on(switch: Switch, preset: Options) -> bool:
    """The preset has these values; a number may be another one as long as it is not that of ``off``."""
    for name, value in switch.on.items():
        found = preset.get(name, switch.off.get(name))
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if (found == switch.off.get(name)) if number else (found != value):
            return False
    return True


def _reading_the_encoder(arm: Options, preset: Options) -> Options:
    """Anchors that look only into maps of the backbone would leave the encoder without a reader: sample its map too."""
    queries, looks = ({**preset, **arm}.get(f"{_MODEL}.{name}") for name in ("queries", "cross_attention"))
    if queries != "anchors" or looks not in ("in_box", "deformable"):
        return arm
    strides = [preset.get(f"{_MODEL}.{name}", 4) for name in ("sample_stride", "feature_stride")]
    flat = {stride for value in strides for stride in (value if isinstance(value, list) else [value])}
    return {**arm, f"{_MODEL}.sample_stride": sorted(flat)}


def _as_in(switch: Switch, preset: Options) -> Options:
    """How the preset has it on, or else how the switch does."""
    return {name: preset.get(name, value) for name, value in switch.on.items()} if _is_on(switch, preset) else switch.on


def _dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        found |= _dotted(value, f"{name}.") if isinstance(value, dict) and key != "backbone_args" else {name: value}
    return found
