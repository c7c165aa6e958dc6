"""The format between collecting and showing: SQLite files of scalars and arrays. Never torch."""
