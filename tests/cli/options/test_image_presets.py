from pathlib import Path

import pytest

from dlrecipes.cli.options.arguments import read_arguments
from dlrecipes.cli.options.image_presets import explain_image_preset
from dlrecipes.cli.options.presets import Situation

CONFIGS = Path(__file__).parents[3] / "recipes" / "configs"
CHOOSE = explain_image_preset("efficientnet", "efficientnet_digits", finetune="efficientnet_finetune")


@pytest.fixture
def package(request, monkeypatch):
    monkeypatch.setattr(Situation, "installed", staticmethod(lambda module: request.param))


@pytest.mark.parametrize(
    ("package", "options", "why"),
    [
        (
            True,
            {},
            "weights are random: --config efficientnet_finetune takes the ImageNet weights found, those of effi",
        ),
        (
            False,
            {},
            "random: no pretrained ones were found, and --config efficientnet_finetune needs efficientnet-lite0",
        ),
        (True, {"--model.model.pretrained": "hub"}, "weights are pretrained ones (--pretrained hub)"),
        (True, {"--model.model.pretrained": "false"}, "; weights are random"),
        (True, {"--model.model": "my.Net"}, "; weights are random"),
        (True, {"--model.init": "a.ckpt"}, "weights are those of a.ckpt"),
    ],
    indirect=["package"],
)
def test_the_weights_are_the_reason(package, options, why):
    choice = CHOOSE(Situation(data=True, options=options))
    assert choice.presets == ["efficientnet"]
    assert choice.why.startswith("--config names no other; weights are")
    assert why in choice.why


def test_a_preset_that_was_named_needs_no_reason():
    assert CHOOSE(Situation(data=True, preset="efficientnet_cifar")) is None


@pytest.mark.parametrize(
    "argv", [[], ["--data", "photos"], ["--data", "p", "--config", "efficientnet_cifar"], ["--epochs", "3"]]
)
def test_nothing_else_is_chosen_for_it(argv):
    presets = {"preset": CONFIGS / "efficientnet.yaml", "embedded": CONFIGS / "efficientnet_digits.yaml"}
    assert read_arguments(argv, **presets, choose=CHOOSE).argv == read_arguments(argv, **presets).argv
