"""The one format between collecting and showing: SQLite files of scalars and arrays. numpy only, never torch."""
