"""What claims need and training does not measure, one a file; `study_measurements.py` has the table."""
