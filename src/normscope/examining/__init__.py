"""Examining a model: every fact that a rule may ask for."""
