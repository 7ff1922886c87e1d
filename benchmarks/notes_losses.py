"""Losses, penalties and what comes before the network, in little; run by `notes.py`."""

from __future__ import annotations

from note_runs import Experiment

EXPERIMENTS: dict[str, Experiment] = {}
