"""Our DETR on the authors' weights gives the authors' numbers (``shared/parity``)."""

import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from dlrecipes.errors import CheckpointError
from dlrecipes.models.detr import DETR, HungarianMatcher, SetCriterion, postprocess

DATA = os.environ.get("DLRECIPES_DATA")
FILE = Path(DATA or ".").parent / "parity" / "detr_r50.npz"
pytestmark = pytest.mark.skipif(
    DATA is None or not FILE.exists(), reason="DLRECIPES_DATA with parity/ beside it is not set"
)


def weight(name: str, shape: list[int]) -> torch.Tensor:
    """The rule of parity/README.md."""
    x = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        x = 1 + 0.1 * abs(x)
    elif name.endswith(("running_mean", "bias")):
        x = 0.02 * x
    elif name.endswith("bn3.weight"):
        x = 0.2 + 0.02 * x
    elif x.ndim == 1:
        x = 1 + 0.1 * x
    elif name == "query_embed.weight":
        x = 2 * x
    else:
        x = x * gain(name, x.ndim) / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(x, dtype=np.float32))


def gain(name: str, ndim: int) -> float:
    if ".encoder." in name:
        return 0.2 if "out_proj" in name or "linear2" in name else 1.0
    if "multihead_attn" in name:
        return 4.0 if "in_proj" in name else 2.0
    return 1.4 if ndim == 4 else (2.0 if "bbox_embed" in name else 1.0)


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(FILE) as z:
        return dict(z)


@pytest.fixture(scope="module")
def state(reference: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: weight(name, shape) for name, shape in json.loads(str(reference["state_keys"])).items()}


@pytest.fixture(scope="module")
def model(state: dict[str, torch.Tensor]) -> DETR:
    model = DETR(pretrained_backbone=False)
    model.load_official({"model": state})
    return model.eval()


@pytest.fixture(scope="module")
def inputs(reference: dict[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.RandomState(int(reference["seed"]))
    images = [torch.from_numpy(rng.standard_normal((3, h, w)).astype(np.float32)) for h, w in reference["sizes"]]
    height, width = (max(sizes) for sizes in reference["sizes"].T)
    batch = torch.zeros(len(images), 3, height, width)
    mask = torch.ones(len(images), height, width, dtype=torch.bool)
    for i, image in enumerate(images):
        h, w = image.shape[1:]
        batch[i, :, :h, :w] = image
        mask[i, :h, :w] = False
    return batch, mask


@pytest.fixture(scope="module")
def outputs(model: DETR, inputs: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return model(*inputs)


@pytest.fixture(scope="module")
def targets(reference: dict[str, np.ndarray]) -> list[dict[str, torch.Tensor]]:
    return [
        {"labels": torch.from_numpy(reference[f"labels_{i}"]), "boxes": torch.from_numpy(reference[f"boxes_{i}"])}
        for i in range(2)
    ]


def test_state_dict_is_the_official_one(model: DETR, state: dict[str, torch.Tensor]) -> None:
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in state.items()}
    assert len(state) == 458
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 41_302_368


def test_outputs_of_all_layers(outputs: dict[str, torch.Tensor], reference: dict[str, np.ndarray]) -> None:
    for name in ("pred_logits", "pred_boxes"):
        torch.testing.assert_close(outputs[name], torch.from_numpy(reference[name]), atol=1e-4, rtol=0)


def test_losses(outputs: dict[str, torch.Tensor], targets: list, reference: dict[str, np.ndarray]) -> None:
    expected = json.loads(str(reference["losses"]))
    losses = SetCriterion(num_classes=91)(outputs, targets)
    assert losses.keys() == expected.keys() | {"matched_iou"}
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-5), name


def test_assignment(outputs: dict[str, torch.Tensor], targets: list, reference: dict[str, np.ndarray]) -> None:
    last = {name: value[-1] for name, value in outputs.items()}
    for i, (query, target) in enumerate(HungarianMatcher()(last, targets)):
        assert query.tolist() == reference[f"match_query_{i}"].tolist()
        assert target.tolist() == reference[f"match_target_{i}"].tolist()


def test_post_processing(outputs: dict[str, torch.Tensor], reference: dict[str, np.ndarray]) -> None:
    found = postprocess(outputs, torch.tensor([[480, 640], [500, 700]]), sort=False)
    for i, prediction in enumerate(found):
        torch.testing.assert_close(
            prediction["scores"], torch.from_numpy(reference["post_scores"][i]), atol=1e-5, rtol=0
        )
        assert prediction["labels"].tolist() == reference["post_labels"][i].tolist()
        torch.testing.assert_close(prediction["boxes"], torch.from_numpy(reference["post_boxes"][i]), atol=0.1, rtol=0)


def test_weights_of_another_model_are_refused(model: DETR, state: dict[str, torch.Tensor]) -> None:
    wrong = {k: v for k, v in state.items() if k != "query_embed.weight"}
    with pytest.raises(CheckpointError, match=r"query_embed\.weight"):
        model.load_official(wrong)


@pytest.fixture(scope="module")
def extended(state: dict[str, torch.Tensor]) -> DETR:
    """Everything that the authors' decoder can be given for training, on their weights."""
    model = DETR(pretrained_backbone=False, query_groups=2, hybrid_queries=7, position_bias=True)
    model.load_official({"model": state})
    return model.eval()


def test_switches_of_training_leave_the_authors_outputs(
    extended: DETR, inputs: tuple[torch.Tensor, torch.Tensor], reference: dict[str, np.ndarray]
) -> None:
    with torch.no_grad():
        outputs = extended(*inputs)
    assert outputs.keys() == {"pred_logits", "pred_boxes"}
    for name, value in outputs.items():
        torch.testing.assert_close(value, torch.from_numpy(reference[name]), atol=1e-4, rtol=0)


def test_switches_of_training_do_not_forgive_missing_weights(extended: DETR, state: dict[str, torch.Tensor]) -> None:
    for name in ("query_embed.weight", "transformer.decoder.norm.weight"):
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            extended.load_official({key: value for key, value in state.items() if key != name})
