"""The trainings of ``python benchmarks/fit_doctor.py``: which illness each was given, or none, and how."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

HEALTHY = "healthy"
TITLES = {
    "diverged": "diverged",
    "lr_too_high": "learning rate too high",
    "lr_too_low": "learning rate too low",
    "noisy": "noisy",
    "label_noise": "label noise suspected",
    "over_fitting": "over-fitting",
    "over_confident": "over-confident",
    "unfinished": "unfinished",
    "under_fitting": "under-fitting",
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One training, and what is wrong with it.

    Attributes:
        illness: key of ``TITLES``, or ``"healthy"``.
        data: ``"digits"``, ``"cancer"`` or ``"diabetes"`` (regression).
        train, val: images, at most 70 % of the data and what is left.
        pixels: standard deviation of noise that belongs to an image for good; pixels are in 0..1.
        labels, val_labels: share of labels replaced by random ones.
        cnn, width, depth, norm, dropout: the network; an MLP unless ``cnn``.
        sgd, lr, decay, schedule: AdamW unless ``sgd`` (momentum 0.9); constant, cosine, warm (five epochs, then cosine)
            or step.
        augment: standard deviation of fresh noise, with shifts by a pixel; mixup: its alpha; smoothing: of labels.
        before: epochs in which the network was trained on one half of the training images (AdamW, 2e-3, constant); the
            training that is judged goes on with the other half, as a fine-tuning does.
    """

    illness: str
    data: str = "digits"
    train: int = 1000
    val: int = 500
    pixels: float = 0.0
    labels: float = 0.0
    val_labels: float = 0.0
    cnn: bool = False
    width: int = 64
    depth: int = 2
    norm: bool = False
    dropout: float = 0.0
    sgd: bool = False
    lr: float = 1e-3
    decay: float = 0.01
    schedule: str = "constant"
    batch: int = 64
    epochs: int = 40
    augment: float = 0.0
    mixup: float = 0.0
    smoothing: float = 0.0
    before: int = 0


def tuned() -> list[Setting]:
    """On which the thresholds were set."""
    return [*_first_tuned(), *_once_held_out(), *_fine_tuned()]


def _first_tuned() -> list[Setting]:
    S, plain = Setting, partial(Setting, decay=0.0)
    long = partial(plain, epochs=100)
    return [
        S(illness=HEALTHY, schedule="cosine", epochs=30),
        S(illness=HEALTHY, epochs=30),
        S(illness=HEALTHY, width=128, schedule="warm"),
        S(illness=HEALTHY, sgd=True, lr=0.05, decay=1e-4, schedule="cosine"),
        S(illness=HEALTHY, sgd=True, lr=0.05, decay=5e-4, schedule="step"),
        S(illness=HEALTHY, cnn=True, width=16, norm=True, lr=3e-3, schedule="cosine", epochs=20),
        S(illness=HEALTHY, augment=0.1, schedule="cosine", epochs=50, width=128),
        S(illness=HEALTHY, augment=0.3, schedule="cosine", epochs=60, width=128, lr=3e-3),
        S(illness=HEALTHY, mixup=0.2, schedule="cosine", width=128),
        S(illness=HEALTHY, smoothing=0.1, dropout=0.2, schedule="cosine", width=128),
        S(illness=HEALTHY, data="cancer", width=32, schedule="cosine", decay=0.1, epochs=30),
        S(illness=HEALTHY, data="diabetes", width=16, depth=1, schedule="cosine", lr=3e-3, decay=0.3, batch=32),
        long(illness="over_fitting", train=80, width=256, pixels=0.2),
        plain(illness="over_fitting", train=100, width=512, depth=3, epochs=60, pixels=0.3),
        long(illness="over_fitting", data="diabetes", width=256, lr=3e-3, batch=32),
        long(illness="over_confident", width=256, pixels=0.2),
        long(illness="over_confident", train=900, width=256, pixels=0.25, lr=3e-3),
        long(illness="over_confident", data="cancer", width=128, lr=3e-3),
        S(illness="under_fitting", width=2, depth=1, epochs=80, lr=0.03, schedule="cosine"),
        S(illness="under_fitting", decay=10.0, lr=0.03),
        S(illness="under_fitting", width=32, dropout=0.8, lr=0.01, epochs=60, schedule="cosine"),
        S(illness="noisy", batch=4, lr=0.01, norm=True, epochs=25, val=50, train=600),
        S(illness="noisy", data="cancer", batch=2, lr=0.01, epochs=20, val=30, decay=0.1),
        S(illness="unfinished", epochs=6, train=500),
        S(illness="unfinished", epochs=6, train=500, schedule="cosine"),
        S(illness="unfinished", cnn=True, width=16, epochs=6, train=800),
        S(illness="lr_too_high", lr=0.3, epochs=30, schedule="cosine"),
        S(illness="lr_too_high", sgd=True, lr=1.0, decay=0.0, epochs=30),
        S(illness="lr_too_high", sgd=True, lr=3.0, norm=True, decay=0.0, epochs=30),
        S(illness="lr_too_low", lr=1e-5),
        S(illness="lr_too_low", sgd=True, lr=1e-4, schedule="cosine"),
        S(illness="lr_too_low", cnn=True, width=16, lr=3e-5, epochs=20),
        S(illness="label_noise", labels=0.3, width=256, decay=0.0, epochs=80),
        S(illness="label_noise", labels=0.4, width=256, decay=0.0, epochs=80, schedule="cosine", lr=3e-3),
        S(illness="label_noise", labels=0.3, val_labels=0.3, width=256, decay=0.0, epochs=80),
        S(illness="diverged", sgd=True, lr=30.0, decay=0.0, epochs=15, depth=3),
        S(illness="diverged", data="diabetes", depth=0, sgd=True, lr=1.0, decay=0.0, epochs=15),
    ]


def _once_held_out() -> list[Setting]:
    """The first held-out set, until thresholds were set on it, too."""
    S = Setting
    return [
        S(illness=HEALTHY, width=96, depth=1, lr=2e-3, schedule="cosine", epochs=35),
        S(illness=HEALTHY, depth=3, sgd=True, lr=0.03, decay=1e-3, schedule="cosine", batch=32, epochs=25),
        S(illness=HEALTHY, cnn=True, width=12, lr=5e-3, schedule="cosine", epochs=25),
        S(illness=HEALTHY, cnn=True, width=12, norm=True, sgd=True, lr=0.1, decay=5e-4, schedule="warm", epochs=20),
        S(illness=HEALTHY, norm=True, lr=3e-3, schedule="step", epochs=30),
        S(illness=HEALTHY, augment=0.15, width=160, lr=2e-3, schedule="cosine", epochs=50),
        S(illness=HEALTHY, mixup=0.3, width=96, lr=2e-3, schedule="cosine", epochs=45),
        S(illness=HEALTHY, smoothing=0.1, augment=0.05, lr=2e-3, schedule="cosine", epochs=45),
        S(illness=HEALTHY, data="cancer", width=16, depth=1, sgd=True, lr=0.02, schedule="cosine", batch=32),
        S(illness=HEALTHY, pixels=0.1, decay=0.1, lr=2e-3, schedule="cosine"),
        S(illness=HEALTHY, batch=128, lr=3e-3, schedule="warm", epochs=45),
        S(illness=HEALTHY, dropout=0.3, width=128, lr=2e-3, schedule="cosine", epochs=50),
        S(illness=HEALTHY, train=700, val=200, batch=32, epochs=30),
        S(illness="over_fitting", cnn=True, train=70, pixels=0.3, lr=2e-3, decay=0.0, epochs=120, width=32),
        S(illness="over_fitting", train=100, pixels=0.4, width=512, depth=1, sgd=True, lr=0.05, decay=0.0, epochs=120),
        S(illness="over_confident", width=192, pixels=0.25, train=1100, sgd=True, lr=0.1, decay=0.0, epochs=100),
        S(illness="over_confident", width=128, norm=True, pixels=0.22, lr=2e-3, decay=0.0, epochs=90),
        S(illness="under_fitting", width=2, lr=0.01, schedule="cosine", epochs=60),
        S(illness="under_fitting", width=24, dropout=0.85, lr=5e-3, schedule="cosine", epochs=50),
        S(illness="noisy", batch=4, lr=8e-3, val=40, train=500, norm=True, epochs=25),
        S(illness="unfinished", width=48, sgd=True, lr=0.02, train=700, epochs=7),
        S(illness="unfinished", cnn=True, width=12, lr=2e-3, schedule="cosine", train=600, epochs=6),
        S(illness="lr_too_high", width=96, lr=0.25, schedule="cosine", epochs=30),
        S(illness="lr_too_high", depth=3, sgd=True, lr=1.2, decay=0.0, epochs=25),
        S(illness="lr_too_low", width=96, lr=8e-6, epochs=35),
        S(illness="lr_too_low", cnn=True, width=16, sgd=True, lr=2e-4, schedule="cosine", epochs=25),
        S(illness="label_noise", labels=0.35, width=320, lr=2e-3, decay=0.0, epochs=70),
        S(illness="label_noise", labels=0.3, val_labels=0.3, width=200, sgd=True, lr=0.08, decay=0.0, epochs=90),
        S(illness="diverged", sgd=True, lr=50.0, decay=0.0, epochs=15),
        S(illness="diverged", data="diabetes", depth=0, sgd=True, lr=2.0, decay=0.0, batch=50, epochs=12),
    ]


def _fine_tuned() -> list[Setting]:
    S = Setting
    return [
        S(illness=HEALTHY, before=15, lr=1e-3, schedule="cosine", epochs=15),
        S(illness=HEALTHY, before=10, lr=1e-3, schedule="warm", epochs=25),
        S(illness=HEALTHY, before=20, lr=1e-4, epochs=20),
        S(illness=HEALTHY, before=40, lr=3e-4, schedule="cosine", dropout=0.3, width=96, epochs=20),
        S(illness=HEALTHY, before=20, lr=3e-3, schedule="warm", augment=0.15, width=96, epochs=25),
        S(illness=HEALTHY, before=10, lr=5e-4, schedule="cosine", mixup=0.2, width=96, epochs=20),
        S(illness=HEALTHY, before=10, cnn=True, width=16, norm=True, sgd=True, lr=0.01, schedule="warm", epochs=15),
        S(illness=HEALTHY, before=20, data="cancer", width=32, lr=3e-4, decay=0.1, schedule="cosine", epochs=15),
        S(illness=HEALTHY, before=60, data="diabetes", width=16, depth=1, decay=0.3, batch=32, epochs=20),
        S(illness="diverged", before=20, lr=0.3, epochs=20, schedule="cosine"),
        S(illness="over_fitting", before=20, train=160, width=256, pixels=0.3, decay=0.0, epochs=80),
    ]


def held_out() -> list[Setting]:
    """Of the table: no setting, and no seed, is one of those above."""
    S = Setting
    return [
        S(illness=HEALTHY, width=48, depth=3, lr=1.5e-3, schedule="warm", epochs=40),
        S(illness=HEALTHY, cnn=True, width=10, depth=3, norm=True, lr=4e-3, schedule="cosine", epochs=18),
        S(illness=HEALTHY, width=112, sgd=True, lr=0.08, decay=3e-4, schedule="step", batch=48, epochs=30),
        S(illness=HEALTHY, width=144, augment=0.2, lr=3e-3, schedule="cosine", epochs=45),
        S(illness=HEALTHY, width=112, mixup=0.4, smoothing=0.05, lr=3e-3, schedule="warm", epochs=40),
        S(illness=HEALTHY, data="cancer", width=24, lr=2e-3, decay=0.2, schedule="cosine", epochs=30, batch=48),
        S(illness=HEALTHY, data="diabetes", width=8, depth=1, lr=5e-3, decay=0.2, schedule="cosine", batch=48),
        S(illness=HEALTHY, train=800, val=300, dropout=0.1, lr=3e-3, schedule="cosine", epochs=30, batch=40),
        S(illness="over_fitting", cnn=True, width=24, train=90, pixels=0.35, lr=3e-3, decay=0.0, epochs=100, batch=32),
        S(illness="over_fitting", data="diabetes", width=128, lr=5e-3, decay=0.0, epochs=80, batch=24),
        S(illness="over_confident", width=160, train=1100, pixels=0.2, sgd=True, lr=0.06, decay=0.0, epochs=110),
        S(illness="over_confident", data="cancer", width=96, depth=3, lr=2e-3, decay=0.0, epochs=80),
        S(illness="under_fitting", width=1, lr=0.02, schedule="cosine", epochs=50),
        S(illness="under_fitting", decay=14.0, lr=0.02, width=80, epochs=30),
        S(illness="noisy", batch=6, lr=0.012, val=45, train=550, norm=True, epochs=20),
        S(illness="noisy", data="cancer", batch=3, lr=0.012, val=25, epochs=20, decay=0.05),
        S(illness="unfinished", width=56, sgd=True, lr=0.015, train=900, epochs=6),
        S(illness="unfinished", cnn=True, width=20, lr=8e-4, schedule="cosine", train=700, epochs=7),
        S(illness="lr_too_high", width=80, depth=3, lr=0.2, epochs=20),
        S(illness="lr_too_high", sgd=True, lr=1.6, decay=0.0, schedule="cosine", epochs=25, batch=48),
        S(illness="lr_too_low", width=112, lr=6e-6, schedule="cosine", epochs=30),
        S(illness="lr_too_low", depth=3, sgd=True, lr=1.5e-4, epochs=25),
        S(illness="label_noise", labels=0.25, width=280, lr=3e-3, decay=0.0, epochs=60),
        S(illness="label_noise", labels=0.35, val_labels=0.2, width=240, sgd=True, lr=0.06, decay=0.0, epochs=90),
        S(illness="diverged", sgd=True, lr=70.0, width=96, decay=0.0, epochs=12),
        S(illness="diverged", data="diabetes", depth=0, sgd=True, lr=1.5, decay=0.0, batch=40, epochs=12),
        # fine-tuned
        S(illness=HEALTHY, before=12, width=80, lr=1e-3, schedule="warm", epochs=30),
        S(illness=HEALTHY, before=15, depth=3, width=48, lr=2e-4, schedule="cosine", batch=48, epochs=22),
        S(illness=HEALTHY, before=30, width=112, dropout=0.2, sgd=True, lr=0.02, schedule="step", epochs=20),
        S(illness=HEALTHY, before=12, cnn=True, width=12, norm=True, lr=1e-3, schedule="warm", epochs=14),
        S(illness=HEALTHY, before=25, width=128, augment=0.1, mixup=0.3, lr=1e-3, schedule="cosine", epochs=24),
        S(illness=HEALTHY, before=15, data="cancer", width=24, lr=2e-4, decay=0.2, batch=48, epochs=16),
    ]
