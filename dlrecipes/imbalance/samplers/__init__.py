"""Which sample comes when, for data loaders: pure functions of (seed, epoch), shared out to ranks."""
