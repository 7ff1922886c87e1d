from itertools import pairwise
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from dlrecipes.contracts import DataInfo
from dlrecipes.data.audit.pixel_check import PixelCheck, check_pixels
from dlrecipes.data.classification import ClassificationData
from dlrecipes.data.detection import DetectionData
from dlrecipes.data.embedded.scenes import DigitScenes
from dlrecipes.data.formats.arrays import array_source
from dlrecipes.data.splits.image_facts import NORMALISATIONS, pixel_statistics
from dlrecipes.tasks import ClassificationTask


def _pictures(count, seed=0, tint=(0.85, 0.6, 0.55)):
    """uint8 [count, 24, 24, 3]: smooth and of different brightness, redder than blue."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (count, 4, 4), dtype=np.uint8)
    grey = np.stack([cv2.resize(c, (24, 24), interpolation=cv2.INTER_LINEAR) for c in coarse])
    return (grey[..., None] * rng.uniform(0.8, 1.0, (count, 1, 1, 1)) * np.array(tint)).astype(np.uint8)


def _batch(pixels):
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)


def _info(pixels):
    mean, std = pixel_statistics(pixels.__getitem__, len(pixels))
    return DataInfo(
        task="classification", classes=("a", "b"), category_ids=(0, 1), class_counts=(1, 1), num_train=len(pixels),
        max_objects=0, image_size=24, pixel_mean=mean, pixel_std=std,
    )  # fmt: skip


TRAIN = _pictures(200)
DARK = (_pictures(200, tint=(1, 1, 1)) * 0.3).astype(np.uint8)  # grey, as a scan: inversion can be told
MISTAKES = {
    "much darker": (TRAIN, lambda p: (p * 0.1).astype(np.uint8)),
    "much brighter": (TRAIN, lambda p: np.clip(p * 1.0 + 170, 0, 255).astype(np.uint8)),
    "inverted": (DARK, lambda p: 255 - p),
    "almost black": (TRAIN, lambda p: np.rint(p / 255).astype(np.uint8)),
    "BGR instead of RGB": (TRAIN, lambda p: p[..., ::-1]),
    "are grey": (TRAIN, lambda p: p.mean(-1, keepdims=True).astype(np.uint8).repeat(3, -1)),
    "are in colour": (DARK, lambda p: np.stack([p[..., 0], p[..., 1], p[..., 2] // 2 + 20], -1)),
    "less contrast": (TRAIN, lambda p: (p * 0.2 + p.mean((0, 1, 2)) * 0.8).astype(np.uint8)),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_is_named_in_one_sentence_and_not_seen_in_healthy_pictures(name):
    train, spoil = MISTAKES[name]
    info = _info(train)
    new = train[::2]
    assert check_pixels([_batch(new)], info) is None
    sentence = check_pixels([_batch(spoil(new[:50])), _batch(spoil(new[50:]))], info)
    assert name in sentence
    assert sentence.endswith("results on them may mean little.")
    assert sentence.count(". ") == 0


def test_few_healthy_pictures_are_silent():
    info = _info(TRAIN)
    new = _pictures(100, seed=1)
    assert [k for k in range(100) if check_pixels([_batch(new[k : k + 1])], info)] == []
    assert [k for k in range(0, 100, 4) if check_pixels([_batch(new[k : k + 4])], info)] == []


def test_cifar_classes_are_silent_and_their_negatives_of_dark_ones_are_not(data_root):
    """Each class alone is a shift of its own, but no mistake."""
    data = np.load(data_root / "cifar10_jpeg.npz")
    content, offsets, labels = data["test_bytes"], data["test_offsets"], data["test_labels"][:600]
    pixels = np.stack([
        cv2.cvtColor(cv2.imdecode(content[a:b], cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        for a, b in pairwise(offsets[:601])
    ])  # fmt: skip
    info = _info(pixels[:300])
    assert [k for k in range(10) if check_pixels([_batch(pixels[labels == k])], info)] == []
    assert "almost black" in check_pixels([_batch(pixels // 255)], info)


class Pretrained(torch.nn.Linear):
    normalisation = ((0.481, 0.458, 0.408), (0.269, 0.261, 0.276))  # CLIP's


@pytest.mark.parametrize("normalisation", ["auto", *NORMALISATIONS])
@pytest.mark.parametrize("network", [torch.nn.Linear, Pretrained])
def test_pictures_are_held_against_those_of_training_whatever_they_are_normalised_by(normalisation, network):
    source = array_source((DARK, np.arange(200) % 2), val=(DARK[:10], np.arange(10) % 2))
    data = ClassificationData(source=source, normalisation=normalisation, num_workers=0)
    task = ClassificationTask(network(2, 2))
    task.bind(data.info)
    checkpoint = {}
    task.on_save_checkpoint(checkpoint)
    info = DataInfo.from_dict(checkpoint["dlrecipes"]["info"])
    assert check_pixels([_batch(DARK)], info) is None
    assert "inverted" in check_pixels([_batch(255 - DARK)], info)


def test_nothing_is_said_without_statistics_or_pictures():
    old = _info(TRAIN).to_dict()
    del old["pixel_mean"], old["pixel_std"]  # a checkpoint from before they were kept
    assert check_pixels([_batch(TRAIN * 0)], DataInfo.from_dict(old)) is None
    assert PixelCheck(_info(TRAIN)).advice() is None


def test_detectors_know_their_training_pictures_and_padding_is_none_of_them():
    scenes = DetectionData(num_workers=0, scenes_train=60)
    scenes.prepare_data()
    train = DigitScenes("train", num_images=60)
    first = [train.scene(0, index)[0] for index in range(60)]
    np.testing.assert_allclose(scenes.info.pixel_mean, np.stack(first).mean((0, 1, 2)) / 255, atol=0.02)
    check = PixelCheck(_info(TRAIN))
    padded = torch.zeros(100, 3, 96, 64, dtype=torch.uint8)
    padded[:, :, :24, :24] = _batch(TRAIN[:100])
    check.add(padded, torch.full((100, 2), 24))
    assert check.advice() is None
    np.testing.assert_allclose(check.statistics()[0], TRAIN[:100].mean((0, 1, 2)) / 255)


def test_one_pass_equals_two_passes_in_double_precision_in_any_order():
    pixels = np.concatenate([TRAIN, DARK, np.full_like(TRAIN, 254)])
    values = pixels.reshape(-1, 3) / 255.0
    mean, std = pixel_statistics(pixels.__getitem__, len(pixels))
    for channel, value in enumerate(np.ascontiguousarray(values.T)):  # in one piece: numpy then sums pairwise
        np.testing.assert_allclose(mean[channel], value.mean(), rtol=1e-13)
        np.testing.assert_allclose(std[channel], np.sqrt(((value - value.mean()) ** 2).mean()), rtol=1e-13)
    turned = pixels[np.random.default_rng(0).permutation(len(pixels))]
    np.testing.assert_allclose(pixel_statistics(turned.__getitem__, len(turned)), (mean, std), rtol=1e-13)
    check = PixelCheck(_info(TRAIN))
    check.add(_batch(pixels))
    np.testing.assert_allclose(check.statistics(), (mean, std), rtol=1e-13)


def test_a_constant_far_from_zero_does_not_cancel():
    """E[x²] − E[x]² of a bright, nearly flat picture would lose every digit in float32."""
    flat = np.full((50, 100, 100, 3), 200, dtype=np.uint8)
    flat[:, 0, 0] = 201
    _, std = pixel_statistics(flat.__getitem__, len(flat))
    assert std == (1 / 255,) * 3  # the floor: the true one is 0.01 levels


def test_ranks_come_to_the_same_statistics_bit_by_bit():
    """Nothing in them depends on the process: each counts all training pictures, not its share."""
    infos = []
    for rank, workers in enumerate((0, 2)):
        source = array_source((TRAIN, np.arange(200) % 2), val=(TRAIN[:10] // 2, np.arange(10) % 2))
        data = ClassificationData(source=source, batch_size=8, num_workers=workers)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)
        infos.append(data.info)
    assert (infos[0].mean, infos[0].std) == (infos[1].mean, infos[1].std)
    assert DataInfo.from_dict(infos[0].to_dict()) == infos[0]  # as a checkpoint keeps it
