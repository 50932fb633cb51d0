"""Sending on: everything received, byte for byte, to whoever is owed it."""
