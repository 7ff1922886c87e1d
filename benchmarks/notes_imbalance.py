"""Imbalanced labels, teachers, embeddings and new data in little; run by `notes.py`."""

from __future__ import annotations

from note_runs import Experiment

EXPERIMENTS: dict[str, Experiment] = {}
