"""Every loss of the contract table, with its buffers, inputs and targets on the device."""

import pytest
import torch
from contracts import Row, all_rows
from stand_in import on_device, stand_in

N = 6


@pytest.mark.parametrize("row", all_rows(), ids=lambda row: row.name)
def test_loss_and_gradient_without_a_wait(row: Row) -> None:
    loss = on_device(row.make(reduction="mean"))
    x, y = on_device(row.inputs(N).float().requires_grad_()), on_device(row.targets(N))
    weight = on_device(torch.ones(N))
    with stand_in() as waits:
        value = loss(x, y, weight)
        value.backward()
    assert waits == {}
    assert x.grad is not None
    assert x.grad.device == value.device == x.device
