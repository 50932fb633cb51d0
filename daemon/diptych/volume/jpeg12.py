"""Lossy JPEG beyond 8 bits, and the retired processes, by GDCM directly.

pydicom's GDCM plug-in refuses 12-bit JPEG Extended and knows neither the retired spectral selection
(…4.53) nor full progression (…4.55); GDCM itself decodes all three (PS3.5 §A.4.1).
"""

from __future__ import annotations

import numpy as np

from .bitstream import FrameSize
from .plane import Array

EXTENDED = "1.2.840.10008.1.2.4.51"
RETIRED = ("1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55")


def needs_gdcm(transfer_syntax: str, size: FrameSize | None) -> bool:
    """True for the frames that pydicom's decoders leave out."""
    if size is None or size.components != 1:
        return False
    return transfer_syntax in RETIRED or (transfer_syntax == EXTENDED and size.precision > 8)


def decode_jpeg(frame: bytes, transfer_syntax: str, size: FrameSize) -> Array:
    """One grey frame of shape (rows, columns), uint8 or uint16; ``ValueError`` when it fails."""
    import gdcm  # rarely needed, and 20 MB

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((size.columns, size.rows, 1))
    image.SetDataElement(element)
    grey = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
    syntax = gdcm.TransferSyntax.GetTSType(transfer_syntax)
    image.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    width = 16 if size.precision > 8 else 8
    image.SetPixelFormat(gdcm.PixelFormat(1, width, size.precision, size.precision - 1, 0))
    # GDCM hands char* over as text.
    buffer = image.GetBuffer()
    raw = buffer.encode("utf-8", "surrogateescape") if buffer else b""
    if len(raw) < size.rows * size.columns * width // 8:
        raise ValueError("GDCM could not decode the frame")
    values = np.frombuffer(raw, f"<u{width // 8}", size.rows * size.columns)
    return values.reshape(size.rows, size.columns)
