"""Data: formats, audit, cache, transforms, datamodules and the embedded data."""
