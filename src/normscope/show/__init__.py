"""Showing: figures, tables and pages from records. Never touches a live model, never imports torch."""
