"""User models: recognized, loaded, unwrapped, guarded, and fed with batches."""
