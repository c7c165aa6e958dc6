"""Records as tidy tables in parquet or CSV. Needs pyarrow, never torch."""
