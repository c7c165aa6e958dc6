"""The evidence of claims: settings, quantities and their differences, read from runs."""
