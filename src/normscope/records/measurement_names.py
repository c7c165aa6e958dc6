"""What may be measured beside training, by name: in a run's record, and in a study's `measure`. Imports nothing."""

from __future__ import annotations

PROPAGATION = "propagation"
"""Variances of the skip path ("skip") and of the branches ("branch") at initialization, float64 [blocks]."""

KNOWN = (PROPAGATION,)
"""Every measurement. How each is made is in `studies/study_measurements.py`."""
