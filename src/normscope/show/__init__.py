"""Showing records: on the terminal, as figures, as a page, live, and in other dashboards."""
