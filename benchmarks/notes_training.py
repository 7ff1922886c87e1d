"""The craft of training in little; run by `notes.py`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from note_runs import Arm, Experiment, digits, fit, make_classifier, small_network
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dlrecipes.callbacks import LossEarlyStopping, SanityChecks, StagedRecipe
from dlrecipes.models import DETR
from dlrecipes.models.detr import SetCriterion
from dlrecipes.nn import ConvBNAct, ResidualBlock, init_weights
from dlrecipes.trainer import TRAINER_DEFAULTS, quiet_lightning

FEW = 30  # images of each class
STAGED_EPOCHS = 60
LONG, PATIENCE, WATCHED = 80, 8, 100
LAYERS, WIDTH = 40, 16


def staged(stages: str) -> Arm:
    """All at once, or learning first."""

    def run(seed: int) -> Mapping[str, float]:
        callbacks = [StagedRecipe.default(batch_norm=stages == "both")] if stages else []
        metrics, _ = fit(
            digits(seed, each=FEW),
            small_network,
            seed=seed,
            epochs=STAGED_EPOCHS,
            data={"augment": "light", "mix": "mixup"},
            callbacks=callbacks,
        )
        return {"accuracy": metrics["accuracy"], "nll": metrics["nll"]}

    return run


class _Epochs(L.Callback):
    """Counts the epochs that were trained."""

    count = 0

    def on_train_epoch_end(self, *args: object) -> None:
        self.count += 1


def early_stopping(stop: bool, best: bool = False) -> Arm:
    """To the end, or until the validation loss has stood still."""

    def run(seed: int) -> Mapping[str, float]:
        epochs = _Epochs()
        callbacks: list[L.Callback] = [epochs, *([LossEarlyStopping(PATIENCE)] if stop else [])]
        with tempfile.TemporaryDirectory() as folder:
            if best:
                callbacks.append(ModelCheckpoint(folder, monitor="val/balanced_nll", save_weights_only=True))
            metrics, _ = fit(
                digits(seed, each=FEW, wrong=0.3, watched=WATCHED),
                lambda: small_network(width=(64, 128)),
                make_classifier(schedule="constant", lr=2e-3),
                seed=seed,
                epochs=LONG,
                callbacks=callbacks,
            )
        return {"epochs": epochs.count, "accuracy": metrics["accuracy"], "nll": metrics["nll"], "ece": metrics["ece"]}

    return run


def deep(block: str) -> Arm:
    """Forty convolutions of 3 x 3 one after another, each with its ReLU."""

    def layers() -> list[nn.Module]:
        if block == "plain":
            convs = [(nn.Conv2d(WIDTH if i else 3, WIDTH, 3, padding=1), nn.ReLU()) for i in range(LAYERS)]
            return [layer for pair in convs for layer in pair]
        first = ConvBNAct(3, WIDTH, 3)
        if block == "batch norm":
            return [first, *(ConvBNAct(WIDTH, WIDTH, 3) for _ in range(LAYERS - 1))]
        return [first, *(ResidualBlock(WIDTH, WIDTH, zero_init=True) for _ in range(LAYERS // 2))]

    def make() -> nn.Module:
        made = nn.Sequential(*layers(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * WIDTH, 10))
        if block == "plain":
            init_weights(made)
        return made

    def run(seed: int) -> Mapping[str, float]:
        metrics, _ = fit(digits(seed, each=FEW), make, make_classifier(lr=2e-3), seed=seed, epochs=12)
        return {"accuracy": metrics["accuracy"], "nll": metrics["nll"]}

    return run


class _Toy(L.LightningModule):
    """A small classifier of scikit-learn's digits, or one with a fault."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU())
        self.head = nn.Linear(64, 10)
        self.unused = nn.Linear(4, 4) if fault == "a layer that is never used" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.fault == "inputs are lost":
            x = x * 0
        hidden = self.body(x)
        if self.fault == "samples are mixed":
            hidden = hidden - hidden.mean(0)
        if self.fault == "gradients are cut":
            hidden = hidden.detach()
        logits: Tensor = self.head(hidden)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        if self.fault == "softmax before the loss":
            return nn.functional.cross_entropy(20 + self(images).softmax(1) * 0.1, labels)
        return nn.functional.cross_entropy(self(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


FAULTS = (
    "none",
    "inputs are lost",
    "samples are mixed",
    "gradients are cut",
    "a layer that is never used",
    "softmax before the loss",
)


def sanity(fault: str) -> Arm:
    """How many checks fail, and the seconds of all."""

    def run(seed: int) -> Mapping[str, float]:
        quiet_lightning()
        L.seed_everything(seed, verbose=False)
        pictures = digits(seed)
        images = torch.from_numpy(pictures.images).float() / 255
        checks = SanityChecks()
        trainer = L.Trainer(
            max_steps=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            callbacks=[checks],
            **TRAINER_DEFAULTS,
        )
        loader = DataLoader(TensorDataset(images, torch.from_numpy(pictures.labels)), batch_size=64, shuffle=True)
        started = time.perf_counter()
        trainer.fit(_Toy(fault), loader)
        failed = [verdict.title for verdict in checks.verdicts if verdict.level != "ok"]
        return {"checks failed": len(failed), "seconds": time.perf_counter() - started}

    return run


def detr_init(change: Callable[[DETR], None]) -> Arm:
    """The first losses of an untrained DETR on one object in each of four images."""

    def run(seed: int) -> Mapping[str, float]:
        torch.manual_seed(seed)
        model = DETR(
            "resnet18",
            num_classes=10,
            num_queries=100,
            pretrained_backbone=False,
            hidden_dim=64,
            encoder_layers=1,
            decoder_layers=3,
            feedforward_dim=128,
            queries="anchors",
            class_head="sigmoid",
        )
        change(model)
        targets = [{"labels": torch.tensor([i]), "boxes": torch.tensor([[0.5, 0.5, 0.3, 0.3]])} for i in range(4)]
        with torch.no_grad():
            outputs = model.train()(torch.rand(4, 3, 128, 128))
            losses = SetCriterion(num_classes=10, class_loss="focal")(outputs, targets)
        boxes = outputs["pred_boxes"]
        return {
            "class loss": float(losses["loss_ce"]),
            "layers move boxes by": float((boxes[-1] - boxes[0]).abs().mean()),
        }

    return run


def _even_scores(model: DETR) -> None:
    for layer in model.classifiers().values():
        nn.init.zeros_(layer.bias)


def _random_boxes(model: DETR) -> None:
    heads = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and layer.out_features == 4]
    for layer in heads:
        if not layer.weight.any():
            layer.reset_parameters()


EXPERIMENTS: dict[str, Experiment] = {
    "staged": Experiment(
        about=f"{FEW} digits a class, light augmentation and mixup, {STAGED_EPOCHS} epochs; test digits, last epoch",
        arms={
            "all at once": staged(""),
            "augmentation later": staged("augmentation"),
            "and batch norm later": staged("both"),
        },
    ),
    "early_stopping": Experiment(
        about=f"200 digits, 30 % of the labels wrong, at most {LONG} epochs, {WATCHED} with right labels to "
        "watch; test digits",
        arms={
            "to the end": early_stopping(False),
            f"LossEarlyStopping({PATIENCE})": early_stopping(True),
            "the same, best_loss.ckpt": early_stopping(True, best=True),
        },
    ),
    "deep": Experiment(
        about=f"{LAYERS} convolutions, He's weights, {FEW} digits a class, 12 epochs, the same rate; test digits",
        arms={name: deep(name) for name in ("plain", "batch norm", "residual, batch norm")},
    ),
    "sanity": Experiment(
        about="an MLP with a planted fault: how many of the checks that apply fail",
        arms={fault: sanity(fault) for fault in FAULTS},
    ),
    "detr_init": Experiment(
        about="an untrained DETR, 100 anchors, 3 layers, 4 images with an object each: its first focal loss, and how "
        "far the layers move a box, in shares of the image",
        arms={
            "as made": detr_init(lambda model: None),
            "class scores at one half": detr_init(_even_scores),
            "box heads by torch's default": detr_init(_random_boxes),
        },
    ),
}
