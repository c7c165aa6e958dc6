"""Records as tidy tables: what `normscope export` writes to parquet or CSV. Needs pyarrow, never torch."""
