"""Probes: what is measured inside a network while it runs. They write records and change nothing."""
