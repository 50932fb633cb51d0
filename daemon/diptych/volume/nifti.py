"""NIfTI-1 and NIfTI-2 (nifti1.h, nifti2.h), single files and pairs, packed or not.

nibabel reads the header; values are read here, one volume after the other, because of a packed 4D
file nibabel would either hold all of it or unpack it once for every volume.
"""

from __future__ import annotations

import lzma
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from nibabel.nifti1 import Nifti1Header, Nifti1PairHeader
from nibabel.nifti2 import Nifti2Header, Nifti2PairHeader

from diptych.errors import NotScreenable, Reason

from .arrays import RAS_TO_LPS, ArrayFile, check_shape
from .formats import stem_of, unpacked
from .limits import Limits
from .memory import empty
from .plane import Array

_HEADERS = {
    (348, True): Nifti1Header, (348, False): Nifti1PairHeader,
    (540, True): Nifti2Header, (540, False): Nifti2PairHeader,
}  # fmt: skip
"""(bytes, whether the values follow in the same file) → how nibabel reads it."""

_FIRST_SPACE_AXIS = 3  # of (i, j, k, …): what follows is time, direction, echo
_PIECE = 1 << 20


def open_nifti(path: Path, limits: Limits) -> ArrayFile:
    """As ``open_array``; colour, complex numbers and vectors are refused."""
    with unpacked(path) as stream:
        head = stream.read(540)
    size = next((n for n in (348, 540) if n in (_little(head), _big(head))), 348)
    single = b"n+" in (head[344:346], head[4:6])
    # Extensions, which may claim to be of any length, are not asked for.
    header = _HEADERS[size, single](head[:size], check=True)
    shape = tuple(int(n) for n in header.get_data_shape())
    kind = np.dtype(header.get_data_dtype())
    if kind.names is not None or kind.kind not in "iuf":
        raise NotScreenable(Reason.UNSUPPORTED_PIXEL_FORMAT, f"values of type {kind}"[:80])
    if any(n != 1 for n in shape[_FIRST_SPACE_AXIS + 1 :]):
        raise NotScreenable(Reason.UNSUPPORTED_PIXEL_FORMAT, "a vector at every voxel")
    volumes = math.prod(shape[_FIRST_SPACE_AXIS:])
    i, j, k = check_shape(shape, volumes, limits)
    offset = max(int(header["vox_offset"]), size + 4) if single else int(header["vox_offset"])
    if not 0 <= offset <= limits.max_inflated_bytes:
        raise NotScreenable(Reason.TOO_LARGE, "vox_offset, the length of the header")
    slope, intercept = header.get_slope_inter()
    return ArrayFile(
        (i, j, k),
        volumes,
        RAS_TO_LPS @ np.asarray(header.get_best_affine(), np.float64),
        partial(_volumes, path if single else _values_of(path), offset, kind, (k, j, i), volumes),
        1.0 if slope is None else float(slope),
        0.0 if intercept is None else float(intercept),
    )


def _little(head: bytes) -> int:
    return int.from_bytes(head[:4], "little")


def _big(head: bytes) -> int:
    return int.from_bytes(head[:4], "big")


def _values_of(header: Path) -> Path:
    """The .img beside a .hdr; packed together or not."""
    stem = stem_of(header)
    for name in (f"{stem}.img", f"{stem}.img.gz", f"{stem}.IMG", f"{stem}.img.bz2"):
        if (path := header.with_name(name)).is_file():
            return path
    raise NotScreenable(Reason.NO_PIXEL_DATA, "the .img file beside the header is missing")


@contextmanager
def _volumes(
    path: Path, offset: int, kind: np.dtype[Any], shape: tuple[int, int, int], count: int
) -> Iterator[Iterator[Array]]:
    """Column-major: each volume is a run of bytes, and each plane one of these."""
    try:
        with unpacked(path) as stream:
            _skip(stream, offset)
            yield _read(stream, kind, shape, count)
    except (zlib.error, lzma.LZMAError, OSError) as error:
        raise NotScreenable(Reason.DECODE_FAILED, f"{type(error).__name__}") from error
    except EOFError as error:
        raise NotScreenable(Reason.TRUNCATED_PIXEL_DATA, "the file ends in its values") from error


def _read(
    stream: IO[bytes], kind: np.dtype[Any], shape: tuple[int, int, int], count: int
) -> Iterator[Array]:
    size = math.prod(shape) * kind.itemsize
    for _ in range(count):
        raw = empty((size,), np.uint8)
        filled = 0
        while filled < size:
            # GzipFile has a readinto; IO[bytes] does not say so.
            got = stream.readinto(raw[filled : filled + _PIECE].data)  # type: ignore[attr-defined]
            if not got:
                raise EOFError
            filled += got
        yield raw.view(kind).reshape(shape)
    # At its end a packed file has a sum over all of it.
    stream.read(1)


def _skip(stream: IO[bytes], count: int) -> None:
    while count:
        got = len(stream.read(min(count, _PIECE)))
        if not got:
            raise EOFError
        count -= got
