"""Diptych: a DICOM node that finds the scans you already have."""

__version__ = "0.1.0"
