"""syncd keeps the SQLite files of several hosts the same."""
