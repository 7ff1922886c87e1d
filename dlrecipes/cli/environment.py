"""What a command sets up in its process: a user's modules can be imported, Lightning is quiet."""

from __future__ import annotations

import logging
import os
import sys
import warnings

__all__ = ["import_from_here", "quiet_lightning"]

_WARNINGS = (
    r"The '\w+' does not have many workers",  # the datamodule chooses
    r"The number of training batches \(\d+\) is smaller than the logging interval",  # small data is allowed
    r"Checkpoint directory .* exists and is not empty",  # a resumed run goes on in its folder
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning 2.6.6 with torch 2.14
    r"You're using the WeightAveraging callback with a model that overrides",  # ours makes no layers there
    r"It is recommended to use `self\.log\(.*sync_dist=True\)`",  # metrics are reduced by torchmetrics
    r"You're resuming from a checkpoint that ended before the epoch ended",  # ExactResume and the loader see to it
)


class _NotLightningsChatter(logging.Filter):
    """Passes warnings, and what our own callbacks say through Lightning's rank-zero logger."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or f"{os.sep}dlrecipes{os.sep}" in record.pathname


_FILTER = _NotLightningsChatter()


def quiet_lightning() -> None:
    """Drop Lightning's tips and notices; warnings that a user can act on stay. Calling it again changes nothing."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_FILTER)
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message=f"(?s).*{message}")


def import_from_here() -> None:
    """Make the current folder importable. Last in the search, so that a file there cannot hide a package."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
