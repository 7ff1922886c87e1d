"""Do new pictures look like those of training? Mean and standard deviation of each channel tell the coarse mistakes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dlrecipes.contracts import DataInfo
from dlrecipes.data.splits.image_facts import Statistics, level_shares, moments

__all__ = ["PixelCheck", "check_pixels"]

_FAR, _FAR_OF_ONE = 0.75, 1.0  # standard deviations of a training pixel; more for few pictures, whose mean varies
_CONTRAST = 2.5  # ratio of standard deviations
_MIRROR = 0.35  # how near inverted pictures come to the training mean
_COLOUR = 0.3  # red and blue of training differ by this much at least, where a swap can be told
_SWAP_PICTURES, _GREY_PICTURES = 10, 3
_BLACK = 0.02
_GREY_LEVELS = 2.0  # mean difference between channels; JPEG leaves about one
_EQUAL = 1e-3  # between the channels' statistics of grey training pictures


class PixelCheck:
    """Collects new pictures, and says in one sentence what is odd about them.

    With d the difference of mean from training in training standard deviations, averaged over channels, of n pictures:

    - too dark or bright: |d| > 0.75 + 1/√n; *inverted*, if 1 − mean lies within 0.35 of training; *almost black*, as
      pictures in 0..1 that were saved as bytes, below a mean of 0.02.
    - red and blue swapped: they differ by 0.3 or more in training, and by half to one and a half times as much the
      other way round here; the means come within 0.35 of training when swapped back; 10 pictures or more.
    - grey instead of colour: the channels of every picture differ by less than 2 levels, those of training do not
      agree; or the other way round. 3 pictures or more.
    - contrast: standard deviations 2.5 times larger or smaller on the average.

    Few pictures of one unusual kind can be far off without a mistake: it is advice. Means tell no inverted pictures
    where those of training are near a half, as many photographs are, and no swap where red and blue are alike.

    What pictures are held against is ``info.pixel_mean`` and ``pixel_std``, the training pictures' own, not what the
    network is given its images normalised by; nothing is said where ``info`` has none, as in a checkpoint from before
    they were kept.

    Args:
        info: of the run, from its checkpoint.

    Example:
        >>> import torch
        >>> info = DataInfo(task="classification", classes=("a", "b"), category_ids=(0, 1), class_counts=(9, 9),
        ...                 num_train=18, max_objects=0, image_size=8, pixel_mean=(0.1,) * 3, pixel_std=(0.2,) * 3)
        >>> check_pixels([torch.full((4, 3, 8, 8), 230, dtype=torch.uint8)], info).partition(":")[0]
        'The images look inverted'
    """

    def __init__(self, info: DataInfo) -> None:
        self.info = info
        self.applies = len(info.pixel_mean) == len(info.pixel_std) == 3
        self.count = 0
        self._shares = np.zeros((3, 256))
        self._all_grey = True

    def add(self, images: Tensor, sizes: Tensor | None = None) -> None:
        """Look at a batch.

        Args:
            images: uint8 [B, 3, H, W], RGB, as evaluation scales them.
            sizes: int64 [B, 2], (height, width) of what is no padding, which is at the right and the bottom; None: all.
        """
        if not self.applies:
            return
        whole = [images.shape[2:]] * len(images) if sizes is None else sizes.tolist()
        for padded, (height, width) in zip(images.cpu().numpy().transpose(0, 2, 3, 1), whole, strict=True):
            picture = padded[:height, :width]
            self._shares += level_shares(picture)
            self.count += 1
            self._all_grey = self._all_grey and _is_grey(picture)

    def statistics(self) -> Statistics:
        """Mean and standard deviation of each channel so far, of pixels scaled to 0..1."""
        return moments(self._shares / max(self.count, 1))

    def advice(self) -> str | None:
        """One sentence; None where nothing is odd."""
        if not self.applies or not self.count:
            return None
        (mean, std), expected = self.statistics(), (self.info.pixel_mean, self.info.pixel_std)
        finding = self._finding(np.array(mean), np.array(std), np.array(expected[0]), np.array(expected[1]))
        if finding is None:
            return None
        now, then = (f"mean {_shown(m)}, standard deviation {_shown(s)}" for m, s in ((mean, std), expected))
        return f"{finding}: {now} of red, green, blue, in training {then}; results on them may mean little."

    def _finding(
        self,
        mean: NDArray[np.float64],
        std: NDArray[np.float64],
        train: NDArray[np.float64],
        spread: NDArray[np.float64],
    ) -> str | None:
        grey_before = bool(np.ptp(train) < _EQUAL and np.ptp(spread) < _EQUAL)
        far = float(((mean - train) / spread).mean())
        if abs(far) > _FAR + _FAR_OF_ONE / np.sqrt(self.count):
            if (np.abs(1.0 - mean - train) / spread).max() <= _MIRROR:
                return "The images look inverted"
            if mean.max() < _BLACK:
                return "The images are almost black, as if saved in 0..1 instead of 0..255"
            return f"The images are much {'brighter' if far > 0 else 'darker'} than those of training"
        if self.count >= _SWAP_PICTURES and _swapped(mean, train, spread):
            return "Red and blue look swapped (BGR instead of RGB)"
        if self.count >= _GREY_PICTURES and self._all_grey != grey_before:
            return f"The images are {'grey' if self._all_grey else 'in colour'}, those of training were not"
        ratio = float(np.exp(np.log(std / spread).mean()))
        if max(ratio, 1.0 / ratio) > _CONTRAST:
            return f"The images have much {'more' if ratio > 1 else 'less'} contrast than those of training"
        return None


def check_pixels(batches: Iterable[Tensor], info: DataInfo) -> str | None:
    """What is odd about pictures, in one sentence, or None: `PixelCheck` over batches uint8 [B, 3, H, W]."""
    check = PixelCheck(info)
    for images in batches:
        check.add(images)
    return check.advice()


def _swapped(mean: NDArray[np.float64], train: NDArray[np.float64], spread: NDArray[np.float64]) -> bool:
    before, now = train[0] - train[2], mean[0] - mean[2]
    if abs(before) < _COLOUR * spread.mean():
        return False
    nearer = bool((np.abs(mean[::-1] - train) / spread).max() <= _MIRROR)
    return nearer and -1.5 <= now / before <= -0.5


def _is_grey(picture: NDArray[np.uint8]) -> bool:
    wide = picture.astype(np.int16)
    return float(np.abs(wide[..., :2] - wide[..., 1:]).mean()) < _GREY_LEVELS


def _shown(values: Iterable[float]) -> str:
    return "/".join(f"{value:.2f}" for value in values)
