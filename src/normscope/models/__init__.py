"""Networks whose normalization can be chosen, how they are initialized, and batch normalization's own definition."""
