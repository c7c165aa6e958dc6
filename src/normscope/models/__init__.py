"""Networks whose normalization can be chosen, their initialization, and batch norm's definition."""
