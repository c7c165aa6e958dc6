"""Judging: verdicts and summaries from records. Never touches a live model, never imports torch."""
