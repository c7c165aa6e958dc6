"""Watching a training: the statistics of its normalization layers, recorded as it runs."""
