import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from dlrecipes.data.augment.device_augment import DEVICE_PRESETS, DeviceAugment
from dlrecipes.data.augment.device_ops import (
    Colours,
    change_colours,
    inside,
    rectangle,
    shift_and_mirror,
    to_bytes,
    warp,
)
from dlrecipes.data.augment.image_resize import evaluation_batch

SETTINGS = [(preset, mirror) for preset in DEVICE_PRESETS for mirror in (True, False)]


@pytest.fixture
def images():
    """Smooth colours with some noise, so that neighbours are alike as in photos."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(8, 3, 4, 4, generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")
    return (smooth + 8 * torch.rand(8, 3, 32, 32, generator=generator)).clamp(0, 255).to(torch.uint8)


def augment(images, preset, mirror=True, epoch=1, index=None, **options):
    return DeviceAugment(preset, mirror=mirror, **options)(
        images, torch.arange(len(images)) if index is None else index, epoch
    )


@pytest.mark.parametrize(("preset", "mirror"), SETTINGS)
def test_eight_at_once_are_bitwise_eight_alone(images, preset, mirror):
    together = augment(images, preset, mirror)
    alone = [augment(images[i : i + 1], preset, mirror, index=torch.tensor([i])) for i in range(8)]
    assert torch.equal(torch.cat(alone), together)
    assert torch.equal(augment(images.flip(0), preset, mirror, index=torch.arange(7, -1, -1)).flip(0), together)
    assert together.shape == images.shape
    assert together.dtype == torch.uint8


@pytest.mark.parametrize(("preset", "mirror"), SETTINGS)
def test_memory_layout_makes_no_difference(images, preset, mirror):
    channels_last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(augment(channels_last, preset, mirror), augment(images, preset, mirror))


@pytest.mark.parametrize(("preset", "mirror"), [s for s in SETTINGS if s[0] != "none"])
def test_every_epoch_and_seed_is_another(images, preset, mirror):
    first = augment(images, preset, mirror)
    assert torch.equal(augment(images, preset, mirror), first)
    for other in (augment(images, preset, mirror, epoch=2), augment(images, preset, mirror, seed=1)):
        assert (other != first).flatten(1).any(1).sum() >= 6


def test_strength_zero_is_the_identity(images):
    assert torch.equal(augment(images, "none"), images)
    for preset in ("light", "strong"):
        assert torch.equal(augment(images, preset, mirror=False, strength=0.0), images)
        changed = augment(images, preset, strength=0.0)
        mirrored = (changed != images).flatten(1).any(1)
        assert mirrored.any()
        assert torch.equal(torch.where(mirrored[:, None, None, None], changed.flip(3), changed), images)


def test_without_mirroring_left_stays_left():
    images = torch.zeros(256, 3, 32, 32, dtype=torch.uint8)
    images[..., :12] = 255
    for preset in ("light", "strong"):
        out = augment(images, preset, mirror=False, border="zero", strength=0.5).float().mean((1, 2))
        left, right = out[:, :16].mean(1), out[:, 16:].mean(1)
        assert (left > right).float().mean() > (0.99 if preset == "light" else 0.85)  # solarised ones are inverted
    assert (augment(images, "light").float().mean((1, 2))[:, 16:].mean(1) > 100).float().mean() == pytest.approx(
        0.5, abs=0.12
    )


def test_light_moves_by_up_to_an_eighth_and_each_move_is_as_likely():
    images = torch.zeros(4096, 3, 16, 16, dtype=torch.uint8)
    images[:, :, 8, 8] = 1
    out = augment(images, "light")
    counts = out[:, 0].sum(0, dtype=torch.int64)
    rows, columns = counts.sum(1), counts.sum(0)
    assert rows.nonzero().flatten().tolist() == [6, 7, 8, 9, 10]
    assert rows[6:11].min() > 4096 / 5 * 0.9
    assert columns.nonzero().flatten().tolist() == [5, 6, 7, 8, 9, 10]  # 6 to 10, and mirrored: 5 to 9


def test_no_pictures():
    for preset in DEVICE_PRESETS:
        assert augment(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), preset).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "storng"}, "preset must be one of none, light, strong, got 'storng'"),
        ({"border": "wrap"}, "border must be one of reflect, zero, got 'wrap'"),
        ({"strength": 1.5}, r"strength must be in 0\.\.1, got 1.5"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        DeviceAugment(**options)


@pytest.mark.parametrize(("border", "numpys"), [("reflect", "reflect"), ("zero", "constant")])
def test_shift_is_padding_and_cropping(images, border, numpys):
    generator = torch.Generator().manual_seed(1)
    shift = torch.randint(-4, 5, (8, 2), generator=generator)
    mirror = torch.arange(8) % 2 == 0
    out = shift_and_mirror(images, shift, mirror, border=border)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)), mode=numpys)
    for i, (dy, dx) in enumerate(shift.tolist()):
        expected = padded[i, :, 4 + dy : 36 + dy, 4 + dx : 36 + dx]
        assert np.array_equal(out[i].numpy(), expected[..., ::-1] if mirror[i] else expected)


def test_mirroring_twice_is_the_identity(images):
    still, all_of_them = torch.zeros(8, 2, dtype=torch.int64), torch.ones(8, dtype=torch.bool)
    once = shift_and_mirror(images, still, all_of_them)
    assert torch.equal(once, images.flip(3))
    assert torch.equal(shift_and_mirror(once, still, all_of_them), images)


def test_warp_turns_shifts_and_mirrors(images):
    given = images.float()

    def warped(matrix, shift=(0.0, 0.0)):
        return to_bytes(warp(given, torch.tensor(matrix).expand(8, 2, 2), torch.tensor(shift).expand(8, 2)))

    assert torch.equal(warped([[1.0, 0.0], [0.0, 1.0]]), images)
    assert torch.equal(warped([[-1.0, 0.0], [0.0, 1.0]]), images.flip(3))
    assert torch.equal(warped([[0.0, -1.0], [1.0, 0.0]]), images.rot90(1, (2, 3)))
    assert torch.equal(warped([[1.0, 0.0], [0.0, 1.0]], (3.0, -2.0))[..., 2:, :-3], images[..., :-2, 3:])


def changed(images, **change):
    zero = torch.zeros(len(images))
    names = ("brightness", "contrast", "saturation", "solarise", "stretch")
    colours = Colours(**{name: zero + change.get(name, 0.0) for name in names})
    return to_bytes(change_colours(images.float(), images.float(), colours))


@pytest.mark.parametrize("factor", [0.4, 1.6])
@pytest.mark.parametrize(
    ("name", "enhance"),
    [("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast), ("saturation", ImageEnhance.Color)],
)
def test_colours_change_as_in_pillow(images, name, enhance, factor):
    out = changed(images, **{name: factor - 1.0})
    for image, result in zip(images, out, strict=True):
        expected = enhance(Image.fromarray(image.permute(1, 2, 0).numpy())).enhance(factor)
        difference = np.abs(np.asarray(expected).astype(int) - result.permute(1, 2, 0).numpy().astype(int))
        assert difference.max() <= 2  # Pillow rounds grey to bytes first


def test_solarise_and_stretch_as_in_pillow(images):
    for image, result in zip(images, changed(images, solarise=0.5), strict=True):
        expected = ImageOps.solarize(Image.fromarray(image.permute(1, 2, 0).numpy()), 128)
        assert np.array_equal(np.asarray(expected), result.permute(1, 2, 0).numpy())
    for image, result in zip(images, changed(images, stretch=1.0), strict=True):
        expected = ImageOps.autocontrast(Image.fromarray(image.permute(1, 2, 0).numpy()))
        difference = np.abs(np.asarray(expected).astype(int) - result.permute(1, 2, 0).numpy().astype(int))
        assert difference.max() <= 1
    flat = torch.full((1, 3, 4, 4), 77, dtype=torch.uint8)
    assert changed(flat, stretch=1.0).unique().tolist() == [0]  # nothing to stretch, and nothing infinite


def test_rectangles_lie_inside_and_have_their_area():
    generator = torch.Generator().manual_seed(0)
    area, y, x = torch.rand(3, 500, generator=generator)
    boxes = rectangle(area, torch.ones(500), y, x, (32, 48))
    top, left, height, width = boxes.unbind(1)
    assert (boxes >= 0).all()
    assert (top + height <= 32).all()
    assert (left + width <= 48).all()
    masks = inside(boxes, (32, 48))
    assert torch.equal(masks.sum((1, 2, 3)), height * width)
    assert (masks.float().mean((1, 2, 3)) - area).abs().max() < 0.04
    assert not inside(rectangle(torch.zeros(1), torch.ones(1), y[:1], x[:1], (8, 8)), (8, 8)).any()


@pytest.mark.parametrize(("preset", "mirror"), SETTINGS)
@pytest.mark.parametrize("border", ["reflect", "zero"])
def test_nothing_waits_for_the_device(images, preset, mirror, border):
    """Meta tensors have no values: whatever asked for one would fail."""
    out = augment(images.to("meta"), preset, mirror, border=border, index=torch.arange(8, device="meta"))
    assert out.shape == images.shape
    assert evaluation_batch(out, 48, 0.75).shape == (8, 3, 48, 48)


@pytest.mark.gpu
@pytest.mark.parametrize(("preset", "mirror"), SETTINGS)
def test_a_gpu_comes_to_the_same(images, preset, mirror):
    there = augment(images.cuda(), preset, mirror, index=torch.arange(8, device="cuda")).cpu()
    here = augment(images, preset, mirror)
    difference = (there.int() - here.int()).abs()
    assert (difference > 1).float().mean() < 1e-3  # where a pixel is on the edge of what is solarised
    if preset == "light" and mirror:
        assert torch.equal(there, here)
    scaled = evaluation_batch(here.cuda(), 80, 1.0).cpu().int() - evaluation_batch(here, 80, 1.0).int()
    assert scaled.abs().max() <= 1
