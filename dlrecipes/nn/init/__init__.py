"""Weights to start with, and whether signal and gradient get through them."""
