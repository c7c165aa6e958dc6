"""What every tool needs of somebody's model: its normalization layers, what wraps it, a guard, batches."""
