"""Pictures changed, with their boxes and labels: one at a time on the host, whole batches on the device."""
