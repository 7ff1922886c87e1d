"""Samples as pure functions of (seed, epoch, index), put together to batches by loaders that resume."""
