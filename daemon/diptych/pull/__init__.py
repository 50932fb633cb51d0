"""Fetching what an archive holds: asked for slowly, kept like everything that is received."""
