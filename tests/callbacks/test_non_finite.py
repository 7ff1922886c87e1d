from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy_fit import Spoil, fit, same_weights

from dlrecipes.callbacks import NonFiniteStop
from dlrecipes.errors import NonFiniteError


def assert_all_checkpoints_finite(folder: Path, names: set[str]) -> None:
    files = list(folder.glob("*.ckpt"))
    assert {file.name for file in files} == names
    for file in files:
        checkpoint = torch.load(file, weights_only=True)
        for state in (checkpoint["state_dict"], checkpoint["current_model_state"]):
            assert all(bool(value.isfinite().all()) for value in state.values())


def test_nan_target_names_loss_term_step_epoch_and_images(tmp_path: Path) -> None:
    spoil = Spoil("target", batch=15)  # batch 1 of epoch 1: the first of three that are accumulated
    with pytest.raises(NonFiniteError) as error:
        fit(tmp_path, spoil, num_workers=0)
    assert str(error.value).startswith(
        "Training stopped at step 5 (epoch 1, batch 1): the loss term loss_error is nan, with the images image_"
    )
    assert str(error.value).count(".jpg") == 2
    assert spoil.seen_batches == 15  # at once, before the gradients are used
    assert error.value.exit_code == 3
    assert_all_checkpoints_finite(
        tmp_path, {"at_step=2.ckpt", "at_step=4.ckpt", "step=2.ckpt", "step=4.ckpt", "last.ckpt"}
    )


def test_infinite_gradient_is_named_before_clipping_spreads_it(tmp_path: Path) -> None:
    spoil = Spoil("gradient", batch=5)  # step 1; after it a checkpoint is due, which must not be written
    with pytest.raises(NonFiniteError, match=r"step 1 \(epoch 0, batch 5\): the gradient of head.weight is not finite"):
        fit(tmp_path, spoil, num_workers=0)
    assert spoil.seen_batches == 5
    assert_all_checkpoints_finite(tmp_path, set())


def test_no_checkpoint_holds_a_bad_weight(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"batch 11\): the weight head.bias is not finite, with the images"):
        fit(tmp_path, Spoil("weight", batch=11), num_workers=0)
    assert_all_checkpoints_finite(tmp_path, {"at_step=2.ckpt", "step=2.ckpt", "last.ckpt"})


def test_bad_weight_between_checkpoints_shows_in_the_next_loss(tmp_path: Path) -> None:
    spoil = Spoil("weight", batch=6)
    with pytest.raises(NonFiniteError, match=r"step 2 \(epoch 0, batch 7\): the loss term loss_error is nan"):
        fit(tmp_path, spoil, num_workers=0)


def test_finite_training_is_left_alone(tmp_path: Path) -> None:
    _, with_gradients = fit(tmp_path / "a", num_workers=0, max_epochs=1)
    _, plain = fit(tmp_path / "b", num_workers=0, max_epochs=1, non_finite=NonFiniteStop(check_gradients=False))
    assert same_weights(with_gradients, plain)
