"""Everything Diptych can say went wrong: one exception tree and one closed list of reasons.

Messages name the tag and both values. They are translated to a DIMSE status or an exit code only
at the edge (``receive.listener`` and ``cli``).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class Reason(StrEnum):
    """Why a series, a stack or an instance ended without a relation.

    The values are stored in the audit table and exported as a metric label: they are a contract.
    """

    # not-screenable: an image that could not be judged
    NO_INFORMATIVE_SLICE = "no-informative-slice"
    NO_PIXEL_DATA = "no-pixel-data"
    UNREADABLE = "unreadable"
    UNSUPPORTED_TRANSFER_SYNTAX = "unsupported-transfer-syntax"
    UNSUPPORTED_PIXEL_FORMAT = "unsupported-pixel-format"
    TRUNCATED_PIXEL_DATA = "truncated-pixel-data"
    DECODE_FAILED = "decode-failed"
    DECODER_CRASHED = "decoder-crashed"
    DECODER_TIMEOUT = "decoder-timeout"
    TOO_LARGE = "too-large"
    SPOOL_FILE_LOST = "spool-file-lost"
    INTERNAL = "internal-error"
    # not-an-image: SR, PR, KOS, PDF, raw data, waveforms …
    NOT_AN_IMAGE = "not-an-image"

    def __reduce_ex__(self, proto: object) -> tuple[Any, ...]:
        # Python before 3.11.4 names getattr, which the parent of a decoder takes from nobody.
        return Reason, (self.value,)


class DiptychError(Exception):
    """Root of every error Diptych raises on purpose."""


class ConfigError(DiptychError):
    """The configuration, the data folder or the environment cannot be used as it is."""


class UsageError(DiptychError):
    """A command was asked for what cannot be done; the message says what to do instead."""


class StoreError(DiptychError):
    """The audit database or the spool could not keep what it was given."""


class ModelError(DiptychError):
    """A model file, its manifest entry or its runtime cannot be trusted."""


class IndexCorrupt(DiptychError):
    """An index file is torn, foreign or stale: it is rebuilt, never used."""


class NotScreenable(DiptychError):
    """An image that cannot be judged, with its named reason."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
