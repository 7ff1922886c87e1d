"""Which remedy for rare labels to begin with, from counts alone, and why.

The rules rest on few measurements, and say which:

- handwritten digits, 126 : 6 (recipes/README.md, three seeds): accuracy on balanced classes .923 to .958 with cross
  entropy, .935 to .958 with logit adjustment, .973 to .992 with inverse class weights;
- CIFAR-10-LT as published (ResNet-32, top-1 %, imbalance 100 : 1): cross entropy 70.4, class-balanced focal 74.6,
  CE-DRW 75.1, LDAM-DRW 77.0, balanced softmax and logit adjustment 77.5 to 78.6, mixup-DRW 82.1; at 10 : 1 cross
  entropy 86.4, LDAM-DRW 88.2.

Several labels and numbers have no such table yet: their rules follow from what the remedies do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dlrecipes.imbalance.class_info import ClassInfo

__all__ = ["Advice", "advise"]

_BALANCED = 2.0  # below, logit adjustment would move a logit by less than log 2
_FEW = 20  # few-shot classes, as OLTR counts them
_STEEP = 50.0  # inverse weights of few samples get noisy: nothing above 21 : 1 has been measured
_LONG = 50.0  # mixup-DRW is published for 100 : 1
_RARE_LABEL = 0.1  # share of the images below which RepeatFactorSampler repeats them
_SKEWED = 1.0  # of the third standardised moment: what textbooks call highly skewed


@dataclass(frozen=True)
class Advice:
    """A remedy.

    Attributes:
        name: as ``--imbalance`` takes it; ``"none"``: nothing is needed.
        why: end of the sentence "NAME, since ...".
        cost: what it costs, as a clause; empty for ``"none"``.
    """

    name: str
    why: str
    cost: str = ""

    @property
    def sentence(self) -> str:
        """All of it."""
        return f"{self.name}, since {self.why}" + (f"; {self.cost}" if self.cost else "") + "."


def advise(info: ClassInfo) -> Advice:
    """A remedy to begin with.

    Args:
        info: of the training split: of labels, several labels an image, or numbers in bins.

    Returns:
        For one label an image: ``"none"`` below 2 : 1 (most to fewest images, of the classes that occur);
        ``"class_weights"`` where a class has fewer than 20 images and the ratio is at most 50; ``"logit_adjust"``
        otherwise. For several labels: ``"none"`` where each occurs in a tenth of the images or nearly as often as the
        others do; ``"repeat"`` where the ratio is 10 or more; ``"asymmetric"`` otherwise. For numbers: ``"lds"`` where
        their skewness is at least 1 either way, else ``"none"``.

    Example:
        >>> advise(ClassInfo((500, 500, 480), 1480)).name, advise(ClassInfo((5000, 500, 50), 5550)).name
        ('none', 'logit_adjust')
    """
    if info.edges:
        return _of_numbers(info)
    if sum(count > 0 for count in info.counts) < 2:
        return Advice("none", "fewer than two classes have images, and there is nothing to balance")
    return _of_one_label(info) if info.exclusive else _of_several_labels(info)


def _of_one_label(info: ClassInfo) -> Advice:
    most, fewest = max(info.counts), min(count for count in info.counts if count)
    ratio = f"the most frequent class has {info.ratio:.3g} times the images of the rarest ({most} and {fewest})"
    if info.ratio < _BALANCED:
        return Advice("none", f"classes are balanced: {ratio}")
    if fewest < _FEW and info.ratio <= _STEEP:
        return Advice(
            "class_weights",
            f"{ratio}, which is fewer than {_FEW}: on digits with 126 and 6, inverse class weights reached .973 to "
            ".992, logit adjustment .935 to .958 and plain cross entropy .923 to .958 (three seeds)",
            "it costs no time, but few images weigh much, so that training is noisier, and probabilities are no longer "
            "calibrated",
        )
    longer = "; in a long run mixup_drw may do better (82.1 there)" if info.ratio >= _LONG else ""
    return Advice(
        "logit_adjust",
        f"{ratio}: on CIFAR-10-LT of 100 : 1, logit adjustment is published with 77.5 to 78.6 % where cross entropy "
        f"has 70.4{longer}",
        "it costs no time, but some accuracy on frequent classes, and hurts where the test is as unbalanced as the "
        "training set",
    )


def _of_several_labels(info: ClassInfo) -> Advice:
    present = [count for count in info.counts if count]
    rarest = min(present) / max(info.total, 1)
    facts = f"the rarest label is in {rarest:.1%} of the images, the most frequent in {max(present) / info.total:.1%}"
    if rarest >= _RARE_LABEL:
        return Advice("none", f"each label is in a tenth of the images or more: {facts}")
    if info.ratio >= 10:
        return Advice(
            "repeat",
            f"{facts}: images with rare labels come up to {np.sqrt(_RARE_LABEL / rarest):.1f} times as often (a rule "
            "of what it does, not of a measurement)",
            "it costs no time, but rare images repeat, and are learnt by heart sooner",
        )
    return Advice(
        "asymmetric",
        f"{facts}: most labels are absent from most images, and easy negatives would drown the positives (a rule of "
        "what it does, not of a measurement)",
        "it costs no time, but scores are too high to be read as probabilities",
    )


def _of_numbers(info: ClassInfo) -> Advice:
    counts, edges = np.asarray(info.counts, dtype=np.float64), np.asarray(info.edges)
    centres = (edges[1:] + edges[:-1]) / 2
    share = counts / max(counts.sum(), 1.0)
    away = centres - share @ centres
    spread = float(np.sqrt(share @ away**2))
    skew = float(share @ away**3) / spread**3 if spread > 0 else 0.0
    if abs(skew) < _SKEWED:
        return Advice("none", f"the targets are not skewed: their skewness is {skew:.2f}, within -1 and 1")
    return Advice(
        "lds",
        f"the targets are skewed ({skew:.2f}; within -1 and 1 they would not be): {'large' if skew > 0 else 'small'} "
        "values are rare, and are weighed up by how thinly they lie (a rule of what it does, not of a measurement)",
        "it costs no time, but the error where targets are frequent grows a little",
    )
