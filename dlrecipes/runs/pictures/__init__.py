"""Every picture of a run folder."""
