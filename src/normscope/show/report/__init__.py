"""The report: one self-contained HTML file with every view of a study. Built from records, never from a live model."""
