import pytest
import torch

from dlrecipes.cli.recipe.epochs import estimate_epochs, planned_devices, steps_an_epoch

SETTINGS = {
    "max_epochs": None, "max_steps": -1, "max_time": None, "devices": "auto", "num_nodes": 1, "accelerator": "cpu",
    "accumulate_grad_batches": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("images", "batch", "changed", "each"),
    [
        (292, 8, {}, 37),
        (5, 8, {}, 1),
        (292, 8, {"devices": 4}, 10),
        (292, 8, {"devices": "2", "num_nodes": 2}, 10),
        (292, 8, {"devices": "0,3,"}, 19),
        (292, 8, {"devices": [1]}, 37),
        (292, 4, {"accumulate_grad_batches": 2}, 37),
    ],
)
def test_steps_of_an_epoch(images: int, batch: int, changed: dict, each: int) -> None:
    assert steps_an_epoch(images, batch, SETTINGS | changed) == each


def test_devices_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert planned_devices(SETTINGS | {"accelerator": "auto"}) == 8
    assert planned_devices(SETTINGS | {"accelerator": "gpu", "devices": -1}) == 8
    assert planned_devices(SETTINGS) == 1
    monkeypatch.setenv("WORLD_SIZE", "16")
    assert planned_devices(SETTINGS) == 16


def test_few_images_take_many_epochs_and_are_validated_about_thirty_times() -> None:
    found = estimate_epochs(3000, 20, 3, SETTINGS)
    assert (found.max_epochs, found.validate_every) == (1000, 33)
    assert found.sentence == "about 3,000 steps are needed, which are 1,000 epochs of the 20 images"
    assert estimate_epochs(10, 2400, 300, SETTINGS).max_epochs == 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"max_epochs": 1}, "and 1 epoch of the 292 images will be 37"),
        ({"max_steps": 500}, "and an epoch of the 292 images has 37"),
        ({"max_epochs": -1}, "and an epoch of the 292 images has 37"),
        ({"max_time": "00:00:04:00"}, "and an epoch of the 292 images has 37"),
    ],
)
def test_what_the_user_says_stays(given: dict, says: str) -> None:
    found = estimate_epochs(1000, 292, 37, SETTINGS | given)
    assert found.max_epochs is None
    assert found.sentence == f"about 1,000 steps are needed, {says}"
