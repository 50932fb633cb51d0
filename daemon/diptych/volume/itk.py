"""NRRD (teem.sourceforge.net/nrrd/format.html) and MetaImage, attached or detached, by ITK."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everybody knows it by

from diptych.errors import NotScreenable, Reason

from .arrays import ArrayFile, check_shape
from .formats import ArrayFormat
from .limits import Limits
from .plane import Array

_READERS = {"nrrd": "NrrdImageIO", "metaimage": "MetaImageIO"}
_SPACE_AXES = 3
_TEXT_BYTES = 1 << 20
"""Of a header; real ones have one or two thousand."""

_MODALITIES = {"MET_MOD_CT": "CT", "MET_MOD_MR": "MR", "MET_MOD_PET": "PT", "MET_MOD_NM": "NM"}
_NRRD_DATA = re.compile(rb"^data ?file:[ \t]*(.*)$", re.MULTILINE | re.IGNORECASE)
_META_DATA = re.compile(rb"^[ \t]*ElementDataFile[ \t]*[=:][ \t]*(.*)$", re.MULTILINE)


def open_itk(path: Path, form: ArrayFormat, limits: Limits) -> ArrayFile:
    """As ``open_array``. Values at a voxel that NRRD calls a list are volumes of their own."""
    _check_values(path, form)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    reader = sitk.ImageFileReader()
    # By name it would choose by the suffix.
    reader.SetImageIO(_READERS[form])
    reader.SetFileName(os.fspath(path))
    reader.ReadImageInformation()
    shape = tuple(int(n) for n in reader.GetSize())
    components = int(reader.GetNumberOfComponents())
    said = {key: str(reader.GetMetaData(key)) for key in reader.GetMetaDataKeys()}
    listed = any(key.startswith("NRRD_kinds") and said[key] == "list" for key in said)
    if components > 1 and not listed:
        raise NotScreenable(
            Reason.UNSUPPORTED_PIXEL_FORMAT, f"{components} values at every voxel: a colour?"
        )
    if "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()).lower():
        raise NotScreenable(Reason.UNSUPPORTED_PIXEL_FORMAT, "complex numbers")
    volumes = components * math.prod(shape[_SPACE_AXES:])
    i, j, k = check_shape(shape, volumes, limits)
    if math.prod((i, j, k, volumes)) > limits.max_samples:
        # Unlike NIfTI it is read as a whole.
        raise NotScreenable(Reason.TOO_LARGE, f"{volumes} volumes, limit {limits.max_samples}")
    dimensions = len(shape)
    affine = np.eye(4)
    directions = np.reshape(reader.GetDirection(), (dimensions, dimensions))
    affine[:3, :3] = directions[:3, :3] * reader.GetSpacing()[:3]
    affine[:3, 3] = reader.GetOrigin()[:3]
    return ArrayFile(
        (i, j, k), volumes, affine, partial(_volumes, reader), modality=_modality(said)
    )


@contextmanager
def _volumes(reader: sitk.ImageFileReader) -> Iterator[Iterator[Array]]:
    try:
        image = reader.Execute()
    except RuntimeError as error:
        # Its words name the file: only what they are about is kept.
        words = str(error).lower()
        if "alloc" in words:
            raise NotScreenable(Reason.TOO_LARGE, "the decoder's memory limit") from error
        cut = "expected" in words or "cannot be read" in words or "end of file" in words
        reason = Reason.TRUNCATED_PIXEL_DATA if cut else Reason.DECODE_FAILED
        raise NotScreenable(reason, "ITK cannot read the values") from error
    values = sitk.GetArrayViewFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        values = np.moveaxis(values, -1, 0)
    # A view dies with the image, and what is kept outlives it.
    yield (np.array(values[index]) for index in np.ndindex(values.shape[:-_SPACE_AXES]))


def _modality(said: dict[str, str]) -> str:
    """As MetaImage defines it, or as ITK keeps (0008,0060) of the images that it was made of."""
    return said.get("0008|0060", "").strip() or _MODALITIES.get(said.get("Modality", ""), "")


def _check_values(path: Path, form: ArrayFormat) -> None:
    """Values elsewhere are read from the header's own folder only. Raises NotScreenable."""
    with path.open("rb") as file:
        text = file.read(_TEXT_BYTES)
    if form == "nrrd":
        text, ended, _ = text.replace(b"\r\n", b"\n").partition(b"\n\n")
        found = _NRRD_DATA.search(text)
    else:
        text = text.replace(b"\r", b"\n")
        found = _META_DATA.search(text)
        ended = b"" if found is None else found[0]
    if not ended and len(text) >= _TEXT_BYTES:
        raise NotScreenable(Reason.UNREADABLE, f"no end of the header in {_TEXT_BYTES} bytes")
    if found is None or (form == "metaimage" and found[1].strip().upper() == b"LOCAL"):
        return
    first = found[1].strip()
    names = text[found.end() :].splitlines() if first.startswith(b"LIST") else [first]
    for name in filter(None, map(bytes.strip, names)):
        parts = PurePosixPath(os.fsdecode(name).replace("\\", "/")).parts
        if "/" in parts or ".." in parts:
            raise NotScreenable(Reason.UNREADABLE, "the values lie outside the header's folder")
        target = path.parent.joinpath(*parts)
        if target.exists() and not target.is_file():
            raise NotScreenable(Reason.UNREADABLE, "the values are no file")
        if len(names) == 1 and b"%" not in name and not target.exists():
            raise NotScreenable(Reason.NO_PIXEL_DATA, "the file with the values is missing")
