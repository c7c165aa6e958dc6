"""Measurements of trained networks that claims are judged on."""
