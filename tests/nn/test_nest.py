"""Tensors in nests."""

from collections import UserDict

import torch

from dlrecipes.nn.nest import first_tensor, tensors, with_tensors

ONE, TWO = torch.tensor(1), torch.tensor(2)


def test_order_and_kinds() -> None:
    nest = (None, [ONE], UserDict({"a": {"b": (3, TWO)}}), "text")
    assert [int(tensor) for tensor in tensors(nest)] == [1, 2]
    assert first_tensor(nest) is ONE
    assert first_tensor({"a": [], "b": "text"}) is None


def test_the_rest_stays_as_it_is() -> None:
    nest = ([ONE, 3], {"a": (TWO,), "b": None}, torch.Size([2, 3]))
    changed = with_tensors(nest, torch.Tensor.neg)
    assert changed == ([-1, 3], {"a": (-2,), "b": None}, torch.Size([2, 3]))
    assert [type(part) for part in changed] == [list, dict, torch.Size]
    assert int(ONE) == 1
