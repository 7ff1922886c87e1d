"""Random numbers of over-samplers where the data lies on a device."""

import pytest
import torch
from torch import Tensor

from dlrecipes.imbalance.synthetic.draws import Draws, TorchDraws


@pytest.mark.parametrize(
    "draw",
    [
        lambda draws: draws.integers(7, 5),
        lambda draws: draws.uniform(5, 2.0),
        lambda draws: draws.normal(3, 2),
        lambda draws: draws.one_true_a_row(draws.integers(2, 8).reshape(4, 2) >= 0),
    ],
    ids=["integers", "uniform", "normal", "one true a row"],
)
def test_a_generator_of_the_host_draws_there_for_data_elsewhere(draw) -> None:
    """CUDA refuses a generator of another device; the meta device would take it, and draw nothing from it."""

    def state_after(device: str) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        draws: Draws = TorchDraws(generator, torch.device(device))
        return draw(draws), generator.get_state()

    there, drawn = state_after("meta")
    here, expected = state_after("cpu")
    assert there.device.type == "meta"
    assert there.shape == here.shape
    assert torch.equal(drawn, expected)
