"""dlrecipes: the parts of a deep-learning practitioner's notes, each pluggable, checked and measured.

Importing this package loads nothing heavy; import the room that you need (``dlrecipes.models``, ``dlrecipes.data``).
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
