"""Random numbers of the over-samplers: NumPy's, as imbalanced-learn draws them, or torch's, on the data's device."""

from __future__ import annotations

from typing import Literal, Protocol, cast, get_args

import numpy as np
import torch
from torch import Tensor

__all__ = ["Draws", "NumpyDraws", "RandomState", "Rng", "TorchDraws", "check_random_state", "make_draws"]

Rng = Literal["numpy", "torch"]
RandomState = int | np.random.RandomState | torch.Generator | None


class Draws(Protocol):
    """Where an over-sampler gets its random numbers; all of them lie on the data's device."""

    def restarted(self) -> Draws:
        """Where imbalanced-learn starts its generator anew: with an int as seed it repeats its numbers there."""
        ...

    def integers(self, high: int, size: int) -> Tensor:
        """int64 [size] in 0..high − 1."""
        ...

    def uniform(self, size: int, high: float = 1.0) -> Tensor:
        """float64 [size] in [0, high)."""
        ...

    def normal(self, rows: int, columns: int) -> Tensor:
        """float64 [rows, columns], standard normal."""
        ...

    def one_true_a_row(self, mask: Tensor) -> Tensor:
        """The column of one True in each row of bool [N, C], each as likely: int64 [N]."""
        ...


class NumpyDraws:
    """The legacy ``RandomState``, call by call as imbalanced-learn uses it.

    Args:
        random_state: a seed; a ``RandomState``, which then goes on; None: NumPy's global one.
        device: where the numbers go.
    """

    def __init__(self, random_state: int | np.random.RandomState | None, device: torch.device) -> None:
        from sklearn.utils import check_random_state

        self._random_state, self._device = random_state, device
        self._state: np.random.RandomState = check_random_state(random_state)

    def restarted(self) -> NumpyDraws:
        return NumpyDraws(self._random_state, self._device)

    def integers(self, high: int, size: int) -> Tensor:
        return torch.from_numpy(self._state.randint(0, high, size=size).astype(np.int64)).to(self._device)

    def uniform(self, size: int, high: float = 1.0) -> Tensor:
        return torch.from_numpy(self._state.uniform(0.0, high, size=size)).to(self._device)

    def normal(self, rows: int, columns: int) -> Tensor:
        return torch.from_numpy(self._state.randn(rows, columns)).to(self._device)

    def one_true_a_row(self, mask: Tensor) -> Tensor:
        places = self._state.permutation(np.argwhere(mask.cpu().numpy()))
        return torch.from_numpy(places[np.unique(places[:, 0], return_index=True)[1], 1]).to(self._device)


class TorchDraws:
    """A torch generator on the data's device, or a given one, whose numbers are moved there.

    Args:
        random_state: a seed; a generator, which then goes on, such as a CPU's for data on a GPU; None: a seed from the
            system.
        device: of the data.
    """

    def __init__(self, random_state: int | torch.Generator | None, device: torch.device) -> None:
        self._device = device
        if isinstance(random_state, torch.Generator):
            self._generator = random_state
            return
        self._generator = torch.Generator(device)
        if random_state is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(random_state)

    def restarted(self) -> TorchDraws:
        return self  # numbers that repeat from class to class are nothing to wish for

    def integers(self, high: int, size: int) -> Tensor:
        drawn = torch.randint(high, (size,), generator=self._generator, device=self._generator.device)
        return drawn.to(self._device)

    def uniform(self, size: int, high: float = 1.0) -> Tensor:
        return high * self._rand(size)

    def normal(self, rows: int, columns: int) -> Tensor:
        at = self._generator.device  # torch refuses a generator of another device
        return torch.randn(rows, columns, generator=self._generator, device=at, dtype=torch.float64).to(self._device)

    def one_true_a_row(self, mask: Tensor) -> Tensor:
        return self._rand(*mask.shape).masked_fill(~mask, -1.0).argmax(1)

    def _rand(self, *shape: int) -> Tensor:
        at = self._generator.device
        return torch.rand(shape, generator=self._generator, device=at, dtype=torch.float64).to(self._device)


def check_random_state(random_state: RandomState, rng: Rng) -> None:
    """Raise ValueError, naming argument and value, unless the two fit."""
    if rng not in get_args(Rng):
        raise ValueError(f"rng={rng!r}: use 'numpy' or 'torch'")
    own = np.random.RandomState if rng == "numpy" else torch.Generator
    whole = isinstance(random_state, int | np.integer) and not isinstance(random_state, bool)
    if not (random_state is None or whole or isinstance(random_state, own)):
        raise ValueError(f"random_state={random_state!r}: rng={rng!r} takes an int, a {own.__name__} or None")
    if isinstance(random_state, int | np.integer) and not 0 <= random_state < 2**32:
        raise ValueError(f"random_state={random_state}: a seed in 0..2**32 - 1 is needed")


def make_draws(random_state: RandomState, rng: Rng, device: torch.device) -> Draws:
    """What draws for ``rng``; ``check_random_state`` has passed."""
    if rng == "numpy":
        return NumpyDraws(cast("int | np.random.RandomState | None", random_state), device)
    return TorchDraws(cast("int | torch.Generator | None", random_state), device)
