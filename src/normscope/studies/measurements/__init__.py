"""Measurements beside training, one a file; `study_measurements.py` has the table."""
