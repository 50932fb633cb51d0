"""Slices to vectors.

Read in this order: ``prepare`` (a volume → square slices), ``mask`` (which of them say something),
``manifest`` (the model and what is known about it), ``session`` (slices → unit vectors).
"""
