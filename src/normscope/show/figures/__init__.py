"""Figures: each file draws one from records and writes it. numpy and matplotlib, never torch, never pyplot."""
