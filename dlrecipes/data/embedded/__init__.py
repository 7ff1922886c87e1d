"""Data that comes with the package: real handwritten digits, and scenes of them."""
