"""The one format between collecting and showing: SQLite files of scalars and arrays. Never torch; export alone needs
more than numpy.
"""
