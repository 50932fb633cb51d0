"""Diptych: a DICOM node that finds the scans you already have."""

import os

__version__ = "0.1.0"

# ONNX Runtime reads it when it loads; without it the official builds report to Microsoft.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
