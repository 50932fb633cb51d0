"""A delivery as it comes → a catalogue: every file and archive member once, with what it is.

Read in this order: ``entry`` (one row), ``listing`` (inputs → files), ``look`` (one file → rows),
``catalogue`` (SQLite), ``take`` (all of it, in many processes), ``relate`` (rows → series),
``estimate``, ``materialise``. Nothing is modified and nothing leaves the machine.
"""
