"""What a command sets up in its process: a user's modules can be imported."""

from __future__ import annotations

import os
import sys

__all__ = ["import_from_here"]


def import_from_here() -> None:
    """Make the current folder importable. Last in the search, so that a file there cannot hide a package."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
