"""What the over-samplers share: checked input, how many samples a class gets, originals first, NumPy or torch out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlrecipes.errors import UserError
from dlrecipes.imbalance.synthetic.draws import Draws, RandomState, Rng, check_random_state, make_draws
from dlrecipes.imbalance.synthetic.plan import Synthetic
from dlrecipes.imbalance.synthetic.strategy import SamplingStrategy, check_strategy, new_samples
from dlrecipes.parts import constructor_parameters

__all__ = ["OfClass", "OverSampler", "check_neighbours", "check_no_leakage"]

Array = TypeVar("Array", NDArray[Any], Tensor)

_DTYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")


@dataclass(frozen=True)
class OfClass:
    """A class that is to grow.

    Attributes:
        x: [N, D], all samples.
        codes: int64 [N], the classes' positions.
        code, name: of this class.
        rows: int64 [n], its samples.
    """

    x: Tensor
    codes: Tensor
    code: int
    name: object
    rows: Tensor


def check_neighbours(name: str, value: int) -> int:
    """Raise ValueError unless ``value`` is a whole number above 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r}: a whole number of at least 1 is needed")
    return value


class OverSampler(ABC):
    """Base of the over-samplers: ``fit_resample(X, y)`` returns X and y with synthetic samples behind the originals.

    A subclass has ``_synthesise``, which decides what is made of one class.

    Args:
        sampling_strategy: how many samples each class gets; ``dlrecipes.imbalance.synthetic.strategy.new_samples``
            lists what it may be. ``"auto"`` raises all classes to the largest.
        random_state: seed. A ``RandomState`` (``rng="numpy"``) or ``Generator`` (``"torch"``) goes on from call to
            call; None draws anew each time.
        rng: ``"numpy"`` draws what imbalanced-learn draws, on the host; ``"torch"`` draws on the data's device, other
            numbers from the same distribution.

    Attributes:
        sampling_strategy_: class → new samples asked for, after ``fit_resample``.
        sources_: int64 [N', s], as X is NumPy or torch: rows of X that each row of the result was made from; of an
            original: itself, s times.

    Raises:
        ValueError: an argument outside its range.
    """

    _why_no_pixels: ClassVar[str] = "between pixels it lays two pictures over one another: ghosts, no new pictures"
    _of_classes: ClassVar[tuple[str, ...]] = ()  # attributes, dicts, that ``_synthesise`` fills class by class

    def __init__(self, sampling_strategy: SamplingStrategy, random_state: RandomState, rng: Rng) -> None:
        check_strategy(sampling_strategy)
        check_random_state(random_state, rng)
        self.sampling_strategy, self.random_state, self.rng = sampling_strategy, random_state, rng

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments, as scikit-learn asks for them: to clone, and to search over those of a pipeline's step.

        Args:
            deep: not used; no argument has parameters of its own.
        """
        return {name: getattr(self, name) for name in constructor_parameters(type(self))}

    def set_params(self, **params: Any) -> Self:
        """Exchange arguments.

        Raises:
            ValueError: one that does not exist, or outside its range; nothing is changed then.
        """
        known = self.get_params()
        for name in params.keys() - known.keys():
            raise ValueError(f"{type(self).__name__} has no argument {name}: it has {', '.join(known)}")
        vars(self).update(vars(type(self)(**known | params)))
        return self

    @abstractmethod
    def _synthesise(self, target: OfClass, wanted: int, draws: Draws) -> Synthetic | None:
        """Decide what ``wanted`` samples of a class are made of; None: there is nothing to make them of."""

    def fit_resample(self, X: Array, y: Array) -> tuple[Array, Array]:
        """The samples and labels, unchanged, and the synthetic ones behind them, class by class.

        Split first, and give only the training part: a synthetic sample lies next to those it was made from, and
        what is held out must not be next to what is trained on (``check_no_leakage``).

        Args:
            X: [N, D], numbers, finite; NumPy or torch, on any device. Integers are interpolated as numbers and
                truncated, as imbalanced-learn does.
            y: [N], one class each; strings and floats without a fraction will do in NumPy.

        Returns:
            Of X's and y's own kind, dtype and device.

        Raises:
            UserError: pixels, NaN, one class, a class of too few samples, an unknown class in ``sampling_strategy``.
        """
        x: Tensor
        codes: Tensor
        x, restore_x = _read_samples(X, type(self).__name__, self._why_no_pixels)
        codes, classes, restore_y = _read_labels(y, x)
        counts = torch.bincount(codes, minlength=len(classes)).tolist()
        wanted = new_samples(self.sampling_strategy, classes, counts, y)
        self.sampling_strategy_: dict[Any, int] = {classes[code]: number for code, number in wanted.items()}
        draws = make_draws(self.random_state, self.rng, x.device)
        for name in self._of_classes:
            setattr(self, name, {})  # not of an earlier call
        made: list[tuple[int, Synthetic, Tensor]] = []
        with torch.no_grad():
            for code, number in wanted.items():
                if number:
                    rows = (codes == code).nonzero().flatten()
                    part = self._synthesise(OfClass(x, codes, code, classes[code], rows), number, draws)
                    made += [(code, part, part.sources)] if part is not None else []
            width = max((sources.shape[1] for _, _, sources in made), default=1)
            sources = [torch.arange(len(x), device=x.device)[:, None].expand(-1, width), *(s for _, _, s in made)]
            out = x.new_empty(sum(map(len, sources)), x.shape[1])
            out[: len(x)] = x
            start = len(x)
            for _, part, own in made:
                part.write(x, out[start : start + len(own)])
                start += len(own)
        labels = torch.cat([codes, *(torch.full((len(own),), code, device=x.device) for code, _, own in made)])
        every = torch.cat(sources)
        self.sources_: NDArray[np.int64] | Tensor = every if isinstance(X, Tensor) else every.numpy()
        return restore_x(out), restore_y(labels)

    def _check_size(self, target: OfClass, argument: str, others: int, *, of_all: bool = False) -> None:
        """Raise UserError unless each sample has so many others; ``argument`` is what asks for them, if anything."""
        have = len(target.x) if of_all else len(target.rows)
        if have > others:
            return
        asks = f"({argument}={others})" if argument else ""
        whose = "X" if of_all else f"class {target.name!r}"
        smaller = f"give {argument}={have - 1}, " if argument and have > 1 else ""
        raise UserError(
            f"{type(self).__name__}{asks} needs at least {others + 1} samples, and {whose} has {have}: {smaller}leave "
            "the class out of sampling_strategy, or repeat its samples with GaussianNoise"
        )


def _read_samples(X: Array, sampler: str, why: str) -> tuple[Tensor, Callable[[Tensor], Array]]:
    if not isinstance(X, np.ndarray | Tensor):
        raise UserError(f"{sampler} was given X as {type(X).__name__}: pass a NumPy array or a tensor")
    if X.ndim > 2:
        raise UserError(
            f"{sampler} was given X of shape {list(X.shape)}, and {why}; use FeatureSMOTE in a network's feature space "
            "or mixup, or flatten X to [N, D] yourself if these are no pixels"
        )
    if X.ndim != 2 or 0 in X.shape:
        raise UserError(
            f"{sampler} was given X of shape {list(X.shape)}: [samples, features] with one of each is needed"
        )
    dtype = X.dtype.name if isinstance(X, np.ndarray) else str(X.dtype).removeprefix("torch.")
    if dtype not in (*_DTYPES, "bfloat16"):
        raise UserError(
            f"{sampler} was given X of dtype {dtype}: turn it into numbers first, categories by scikit-learn's "
            "OrdinalEncoder, and use SMOTENC for them"
        )
    if isinstance(X, Tensor):
        x, restore = X.detach(), lambda out: out
    else:
        own, plain = X.dtype, "int64" if X.dtype.kind == "u" else X.dtype.newbyteorder("=")
        x, restore = torch.from_numpy(np.require(X, plain, ["C", "W"])), lambda out: out.numpy().astype(own, copy=False)
    if x.is_floating_point() and not bool(torch.stack(x.aminmax()).isfinite().all()):
        row = int((~x.isfinite()).any(1).nonzero()[0])
        raise UserError(
            f"{sampler} was given X with a NaN or an infinity in row {row}: no distance to it exists; fill missing "
            "values first, as scikit-learn's SimpleImputer does"
        )
    return x, restore


def _read_labels(y: Array, x: Tensor) -> tuple[Tensor, list[Any], Callable[[Tensor], Array]]:
    """The position of each sample's class, the classes, and the way back."""
    if isinstance(y, np.ndarray):
        _check_labels(list(y.shape), len(x), y.dtype.kind == "c" or (y.dtype.kind == "f" and bool((y % 1 != 0).any())))
        names, codes = np.unique(y, return_inverse=True)
        here = torch.from_numpy(codes.astype(np.int64)).to(x.device)
        return here, names.tolist(), lambda labels: names[labels.cpu().numpy()]
    if not isinstance(y, Tensor):
        raise UserError(f"y is {type(y).__name__}: pass a NumPy array or a tensor")
    _check_labels(list(y.shape), len(x), y.is_complex() or (y.is_floating_point() and bool((y % 1 != 0).any())))
    values, codes = torch.unique(y.detach(), return_inverse=True)
    return codes.to(x.device), values.tolist(), lambda labels: values[labels.to(values.device)]


def _check_labels(shape: list[int], samples: int, fractions: bool) -> None:
    if shape != [samples]:
        raise UserError(
            f"y has shape {shape}, and X {samples} samples: one class a sample is needed (one-hot: y.argmax(1); for "
            "several labels a sample use RepeatFactorSampler)"
        )
    if fractions:
        raise UserError("y has fractions or NaN: it must hold classes; put numbers to predict into bins first")


def check_no_leakage(sources: Array, held_out: Array, num_original: int) -> None:
    """Refuse a split that was made after resampling.

    Args:
        sources: an over-sampler's ``sources_``.
        held_out: int [n], rows of the resampled data that are to validate or test; or bool, one for each of its rows.
        num_original: samples before resampling.

    Raises:
        UserError: a held-out row is synthetic, or a row that is trained on was made from a held-out one.
        ValueError: ``held_out`` is neither, or names rows that are not there.

    Example:
        >>> X, y = torch.tensor([[0.0], [1.0], [5.0], [6.0], [7.0]]), torch.tensor([0, 0, 1, 1, 1])
        >>> from dlrecipes.imbalance import SMOTE
        >>> smote = SMOTE(k_neighbors=1)
        >>> X_all, y_all = smote.fit_resample(X, y)
        >>> check_no_leakage(smote.sources_, torch.tensor([2, 3]), len(X))
        >>> check_no_leakage(smote.sources_, torch.tensor([0]), len(X))
        Traceback (most recent call last):
        dlrecipes.errors.UserError: ...
    """
    origin = torch.as_tensor(sources).cpu()
    held = _rows(torch.as_tensor(held_out).cpu(), len(origin))
    is_held = torch.zeros(len(origin), dtype=torch.bool)
    is_held[held] = True
    synthetic = int((held >= num_original).sum())
    leaking = int((is_held[origin].any(1) & ~is_held).sum())
    if synthetic or leaking:
        raise UserError(
            f"{synthetic} of {len(held)} held-out samples are synthetic, and {leaking} training samples were made from "
            "held-out ones, so the score would be of what was trained on: split first, then resample the training part"
        )


def _rows(held_out: Tensor, length: int) -> Tensor:
    """int64 [n], of a mask or of row numbers."""
    if held_out.dtype == torch.bool:
        if held_out.shape != (length,):
            raise ValueError(f"held_out has shape {list(held_out.shape)}: a mask is one bool for each of {length} rows")
        return held_out.nonzero().flatten()
    if held_out.numel() == 0:
        return torch.empty(0, dtype=torch.int64)
    if held_out.is_floating_point() or held_out.is_complex() or held_out.dim() != 1:
        raise ValueError(
            f"held_out is {str(held_out.dtype).removeprefix('torch.')} {list(held_out.shape)}: row numbers, int [n], "
            f"or a mask, bool [{length}], are needed"
        )
    low, high = int(held_out.min()), int(held_out.max())
    if low < 0 or high >= length:
        raise ValueError(
            f"held_out names row {low if low < 0 else high}: the resampled data has rows 0 to {length - 1}"
        )
    return held_out.long()
