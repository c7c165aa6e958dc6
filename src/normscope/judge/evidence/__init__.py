"""What claims read of runs: settings, quantities, and how they differ."""
