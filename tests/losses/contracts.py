"""The contract table: one row for each loss. ``test_contract.py`` puts every row through the same questions."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from torch import Tensor, nn

__all__ = ["Row", "all_rows"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A loss, what it is fed, and an independent word on what it should say.

    Attributes:
        name: of the row; the class's name, with the variant where there are several.
        make: the loss, given ``reduction=``.
        inputs: n -> float64 [n, ...], the same at every call, with ordinary values.
        targets: n -> targets of those inputs.
        reference: (input, target) -> float64, the loss of each element, by other code than ours.
        mass: target -> what each element counts in the mean's divisor; None: 1 each.
        gradcheck: whether the loss is smooth where ``inputs`` lie.
        huge: inputs of ± this size must leave value and gradient finite; None: inputs of that size mean nothing.
        of_batch: the loss of an element depends on the others in its batch, so a weight of 0 does not make it absent,
            and shards are not the whole.
    """

    name: str
    make: Callable[..., nn.Module]
    inputs: Callable[[int], Tensor]
    targets: Callable[[int], Tensor]
    reference: Callable[[Tensor, Tensor], Tensor]
    mass: Callable[[Tensor], Tensor] | None = None
    gradcheck: bool = True
    huge: float | None = 1e4
    of_batch: bool = False


def all_rows() -> list[Row]:
    """The rows of every ``rows_*.py`` beside this file."""
    return [row for path in sorted(Path(__file__).parent.glob("rows_*.py")) for row in import_module(path.stem).ROWS]
