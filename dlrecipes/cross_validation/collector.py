"""What sees every validated image's prediction and leaves it in the fold's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch import LightningModule

from dlrecipes.errors import UserError

__all__ = ["Collector", "check_output"]


class Collector(pl.Callback):
    """Keeps what is predicted for every validated image, and writes it."""

    def write(self, folder: Path) -> None:
        """Leave the predictions in a fold's folder."""
        raise NotImplementedError


def check_output(task: LightningModule, outputs: object, key: str, what: str, like: str) -> None:
    """Refuse what a ``validation_step`` of one's own returns, if it does not have ``key`` as that of ``like`` has.

    Raises:
        UserError: it is no dict, or has no such key.
    """
    if not isinstance(outputs, Mapping) or key not in outputs:
        raise UserError(
            f"{type(task).__name__}.validation_step returns not {what}, so there are no out-of-fold predictions: "
            f"return a dict with loss and {key}, as {like} does"
        )
