"""What every room needs that runs a user's model: its batches taken apart, and the model left as it was."""
