"""Any network of timm as a part."""

from dataclasses import replace
from typing import Any

import pytest
import timm
import torch

from dlrecipes.contracts import DataInfo
from dlrecipes.errors import UserError
from dlrecipes.models import TimmClassifier
from dlrecipes.parts import build_part, part_spec


def info(outputs: int = 3, image_size: int = 32) -> DataInfo:
    return DataInfo(
        task="classification",
        classes=tuple(f"c{i}" for i in range(outputs)),
        category_ids=tuple(range(outputs)),
        class_counts=(5,) * outputs,
        num_train=5 * outputs,
        max_objects=0,
        image_size=image_size,
    )


def fake_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """``pretrained=True`` gives the network that seed 7 makes, as if it had been downloaded."""
    create = timm.create_model

    def create_model(name: str, *, pretrained: bool, **args: Any) -> Any:
        if pretrained:
            torch.manual_seed(7)
        return create(name, pretrained=False, **args)

    monkeypatch.setattr(timm, "create_model", create_model)
    monkeypatch.setattr("dlrecipes.models.hub.host_answers", lambda url: True)


def test_the_head_follows_the_data_and_the_rest_stays() -> None:
    model = TimmClassifier("test_resnet")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.bind(info(7))
    assert model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"net.fc.weight", "net.fc.bias"}
    assert model.num_outputs == 7


def test_binding_twice_changes_nothing() -> None:
    model = TimmClassifier("test_resnet")
    model.bind(info(7))
    head = model.net.fc.weight.clone()
    model.bind(info(7))
    assert torch.equal(model.net.fc.weight, head)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_new_head_has_the_dtype_of_the_rest(dtype: torch.dtype) -> None:
    model = TimmClassifier("test_efficientnet").to(dtype)
    model.bind(info(7))
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_a_regression_head_has_outputs_for_every_target() -> None:
    model = TimmClassifier("test_resnet")
    model.bind(replace(info(0), task="regression", target_names=("x", "y"), outputs_per_target=2))
    assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 4)


def test_data_without_outputs_is_an_error() -> None:
    with pytest.raises(UserError, match="TimmClassifier needs classes or target names"):
        TimmClassifier("test_resnet").bind(info(0))


def test_the_first_loss_is_that_of_a_guess() -> None:
    model = TimmClassifier("test_resnet", num_outputs=10).eval()
    logits = model(torch.randn(8, 3, 64, 64))
    loss = torch.nn.functional.cross_entropy(logits, torch.arange(8))
    assert loss.item() == pytest.approx(torch.tensor(10.0).log().item(), rel=0.05)


@pytest.mark.parametrize(
    ("name", "head"), [("test_resnet", "net.fc"), ("test_vit", "net.head"), ("test_convnext", "net.head.fc")]
)
def test_classifiers_are_named_as_in_the_state_dict(name: str, head: str) -> None:
    model = TimmClassifier(name)
    assert list(model.classifiers()) == [head]
    assert f"{head}.weight" in model.state_dict()


def test_pretrained_weights_bring_their_normalisation_through_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch)
    model = TimmClassifier("test_resnet", pretrained="hub")
    expected = timm.get_pretrained_cfg("test_resnet")
    assert model.normalisation == (tuple(expected.mean), tuple(expected.std))
    model.bind(info(4))
    spec = part_spec(model)
    monkeypatch.undo()
    again = build_part(spec)
    assert again.init_args["pretrained"] is False
    assert again.normalisation == model.normalisation
    again.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(again.eval()(images), model.eval()(images))


def test_pretrained_heads_are_kept_where_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch)
    model = TimmClassifier("test_resnet", pretrained=True)
    torch.manual_seed(7)
    assert torch.equal(model.net.fc.weight, timm.create_model("test_resnet", pretrained=False).fc.weight)


def test_without_pretrained_weights_the_data_decides_the_normalisation() -> None:
    assert TimmClassifier("test_resnet").normalisation is None


def test_a_download_that_fails_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError("An error happened while trying to locate the file on the Hub")

    monkeypatch.setattr(timm, "create_model", create_model)
    monkeypatch.setattr("dlrecipes.models.hub.host_answers", lambda url: True)
    with pytest.raises(UserError, match=r"'test_resnet' could not be downloaded.*pretrained=false.*pretrained=package"):
        TimmClassifier("test_resnet", pretrained=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "efficientnt_b0"}, r"'efficientnt_b0' is not a timm model: did you mean .*efficientnet_b0"),
        ({"name": "test_resnet.nope"}, r"timm cannot make 'test_resnet\.nope': Invalid pretrained tag"),
        ({"name": "efficientnet_lite1", "pretrained": True}, "No pretrained weights exist for efficientnet_lite1"),
        ({"name": "vgg11", "drop_path_rate": 0.1}, r"'vgg11' cannot be made with \{'drop_path_rate': 0\.1\}"),
        ({"name": "test_resnet", "pretrained": "packge"}, r"pretrained='packge': choose one of hub, false"),
    ],
)
def test_what_cannot_be_made_is_said_in_one_sentence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimmClassifier(**arguments)


def test_a_vision_transformer_takes_the_image_size_of_the_data() -> None:
    model = TimmClassifier("test_vit")
    model.bind(info(3, image_size=64))
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


def test_a_network_of_one_image_size_says_which() -> None:
    with torch.device("meta"):
        model = TimmClassifier("mixer_s32_224")
    with pytest.raises(
        UserError, match=r"mixer_s32_224 takes images of 224 pixels only, not 64: set --data\.image_size"
    ):
        model.bind(info(3, image_size=64))


def test_an_image_size_that_patches_do_not_fill_is_an_error() -> None:
    with pytest.raises(UserError, match=r"test_vit cannot take images of 50 pixels \(.*\): set --data\.image_size 160"):
        TimmClassifier("test_vit").bind(info(3, image_size=50))
