"""Samples that come one by one: an alarm soon after a shift, and without one only once in a time that you choose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlrecipes.errors import UserError
from dlrecipes.functional.kernels import median_distance
from dlrecipes.shift.two_sample import Sample, as_samples

__all__ = ["OnlineMMD", "run_length_thresholds", "window_statistics"]

_PER_RUN = 50  # bootstraps for each step of the expected run: a threshold's exceedances vary by 1 / √50 then
_MEMORY = 32 << 20  # bytes of kernel values of a few bootstraps at a time
_MOST_REFERENCE = 2000
_SPLIT, _BOOTSTRAP = 0x73706C6974, 0x626F6F74


class OnlineMMD:
    r"""Maximum mean discrepancy of the last W samples against a reference, after every sample (Cobb et al., 2022,
    arXiv:2108.00883).

    Testing after each sample at a level of .05 would alarm within minutes. Here the thresholds are chosen so that the
    expected run time (ERT), samples until the first alarm where nothing shifts, is what is asked for. They come from
    streams that are drawn out of the reference: threshold h_t is what a share 1/ERT of those streams exceeds at step t
    that have exceeded none before; from step W on, when all of the window is new, it stays as it is.

    The reference must be data of the same kind as the stream, such as features of validation data; of features, tens
    of principal components rather than hundreds. Its 2W samples that fill the window at first, or stay unused, are
    taken out of it.

    Args:
        reference: [n, d]; more than 4W rows. Of more than 2,000 rows that many are drawn by the seed.
        ert: expected run time, in samples; at least 10.
        window: W, samples; short ones see a large shift sooner, long ones a small one at all.
        bandwidth: σ of the Gaussian kernel; None: the reference's median distance.
        bootstraps: streams that are drawn; None: 50 · ert.
        seed: of all draws.

    Raises:
        UserError: a reference that is too small or not finite.
        ValueError: a value outside its range.

    Example:
        >>> reference = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
        >>> detector = OnlineMMD(reference, ert=100, window=10)
        >>> detector.run(reference[:50] + 2.0) < 12
        True
    """

    def __init__(
        self,
        reference: Sample,
        ert: float = 1000.0,
        window: int = 20,
        *,
        bandwidth: float | None = None,
        bootstraps: int | None = None,
        seed: int = 0,
    ) -> None:
        if not ert >= 10:
            raise ValueError(f"ert={ert}: at least 10 samples until a false alarm")
        if window < 2:
            raise ValueError(f"window={window}: at least 2")
        if bandwidth is not None and not bandwidth > 0:
            raise ValueError(f"bandwidth={bandwidth}: above 0 is needed")
        if bootstraps is not None and bootstraps < 2 * ert:
            raise ValueError(f"bootstraps={bootstraps}: at least 2 · ert, {2 * ert:.0f}, or no stream exceeds anything")
        rows, _ = as_samples(reference, reference, "OnlineMMD")
        if len(rows) <= 4 * window:
            raise UserError(f"OnlineMMD has {len(rows)} reference samples for a window of {window}: give more than 4 W")
        order = torch.from_numpy(np.random.default_rng((seed, _SPLIT)).permutation(len(rows))).to(rows.device)
        rows = rows[order[:_MOST_REFERENCE]]
        self.ert, self.window, self.seed = float(ert), window, seed
        self.bandwidth = bandwidth or median_distance(rows, seed) or 1.0
        kernel = self._kernel(rows, rows)
        count = round(_PER_RUN * ert) if bootstraps is None else bootstraps
        self.thresholds = run_length_thresholds(kernel, self.ert, window, count, seed=seed)
        self._reference = rows[2 * window :]
        self._first = rows[:window]
        inner = kernel[2 * window :, 2 * window :]
        self._within = float((inner.sum() - inner.trace()) / (len(inner) * (len(inner) - 1)))
        self.reset()

    def reset(self) -> None:
        """Begin a new run: the window holds reference samples again."""
        self.steps = 0
        self.statistic = 0.0
        self._window = self._first.clone()
        self._gram = self._kernel(self._window, self._window)
        self._cross = self._kernel(self._window, self._reference).mean(1)

    @property
    def threshold(self) -> float:
        """What the statistic was compared with at the last step."""
        return float(self.thresholds[min(max(self.steps, 1), self.window) - 1])

    def update(self, x: Sample) -> bool:
        """Take one sample [d]; whether this is an alarm. After an alarm go on, or ``reset``.

        Raises:
            UserError: a sample of another width, or one that is not finite.
        """
        row = torch.as_tensor(x).detach().to(self._window).reshape(1, -1)
        if row.shape[1] != self._window.shape[1] or not bool(torch.isfinite(row).all()):
            raise UserError(
                f"OnlineMMD got a sample of {row.shape[1]} numbers, {int((~torch.isfinite(row)).sum())} of them not "
                f"finite: {self._window.shape[1]} finite ones are needed"
            )
        place = self.steps % self.window  # the oldest
        self._window[place] = row
        against = self._kernel(row, self._window)[0]
        self._gram[place], self._gram[:, place] = against, against
        self._cross[place] = self._kernel(row, self._reference).mean()
        self.steps += 1
        pairs = (self._gram.sum() - self._gram.trace()) / (self.window * (self.window - 1))
        self.statistic = float(pairs - 2 * self._cross.mean()) + self._within
        return self.statistic > self.threshold

    def run(self, rows: Sample) -> int | None:
        """Number of samples [n, d] until the first alarm, that one included; None: there was none."""
        for number, row in enumerate(torch.as_tensor(rows), start=1):
            if self.update(row):
                return number
        return None

    def state_dict(self) -> dict[str, Any]:
        """Where the run is; the reference and thresholds follow from the arguments."""
        return {"steps": self.steps, "statistic": self.statistic, "window": self._window.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self.steps, self.statistic = int(state["steps"]), float(state["statistic"])
        self._window = state["window"].to(self._window).clone()
        self._gram = self._kernel(self._window, self._window)
        self._cross = self._kernel(self._window, self._reference).mean(1)

    def _kernel(self, first: Tensor, second: Tensor) -> Tensor:
        distance = torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")
        return distance.square_().div_(-2 * self.bandwidth**2).exp_()


def run_length_thresholds(kernel: Tensor, ert: float, window: int, bootstraps: int, *, seed: int = 0) -> Tensor:
    """Thresholds h_1 ... h_W of the windows' statistics, float64 [W], see `OnlineMMD`.

    Args:
        kernel: float64 [n, n], of the reference with itself.
        ert: expected run time.
        window: W.
        bootstraps: streams of 2W samples that are drawn out of the reference.
        seed: of the draws.
    """
    count, streams = len(kernel), []
    random = np.random.default_rng((seed, _BOOTSTRAP))
    at_once = max(1, _MEMORY // (8 * (2 * window + 1) ** 2))
    for start in range(0, bootstraps, at_once):
        rows = min(at_once, bootstraps - start)
        drawn = np.stack([random.choice(count, 2 * window, replace=False, shuffle=True) for _ in range(rows)])
        streams.append(window_statistics(kernel, torch.from_numpy(drawn).to(kernel.device), window))
    statistics = torch.cat(streams)
    found = []
    for step in range(window):
        threshold = torch.quantile(statistics[:, step], 1 - 1 / ert)
        found.append(threshold)
        statistics = statistics[statistics[:, step] <= threshold]
    return torch.stack(found)


def window_statistics(kernel: Tensor, streams: Tensor, window: int) -> Tensor:
    """Unbiased MMD² of each window of a stream against all samples that are not in the stream.

    From sums of the kernel matrix alone: O(W²) a stream, whatever the number of samples.

    Args:
        kernel: [n, n], with ones on its diagonal.
        streams: int64 [B, 2W], distinct rows of the kernel; the first W fill the window before the first step.
        window: W.

    Returns:
        [B, W]: after 1 ... W steps.
    """
    count, length = len(kernel), streams.shape[1]
    rest = count - length
    within = kernel[streams[:, :, None], streams[:, None, :]]
    row_sums = kernel.sum(1)
    cross = row_sums[streams] - within.sum(2)  # of each sample with the rest
    pairs = kernel.sum() - count - 2 * (row_sums[streams] - 1).sum(1) + within.sum((1, 2)) - length
    corner = torch.nn.functional.pad(within.cumsum(1).cumsum(2), (1, 0, 1, 0))
    line = torch.nn.functional.pad(cross.cumsum(1), (1, 0))
    low = torch.arange(1, window + 1, device=kernel.device)
    high = low + window
    square = corner[:, high, high] - corner[:, low, high] - corner[:, high, low] + corner[:, low, low]
    own = (square - window) / (window * (window - 1))
    between = (line[:, high] - line[:, low]) / (window * rest)
    return own - 2 * between + (pairs / (rest * (rest - 1)))[:, None]
