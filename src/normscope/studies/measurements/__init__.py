"""What claims need and training does not measure, one subject a file; `study_measurements.py` has the table."""
