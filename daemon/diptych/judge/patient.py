"""Whose a series is, as far as its header can be believed: a keyed hash, never the name. Pure.

PatientID (0010,0020) is required but may be empty (PS3.3 C.7.1.1, type 2), and who de-identifies a
delivery often writes one word into all of it. Such a word names nobody: believed, it would make one
patient of all.
"""

from __future__ import annotations

import hashlib
import hmac
import re

_WORDS = (
    "ANON ANONYM ANONYMOUS ANONYMIZED ANONYMISED DEIDENTIFIED REMOVED UNKNOWN UNKNOWNPATIENT NONE "
    "NULL NIL NA NAN BLANK EMPTY UNDEFINED UNSPECIFIED UNNAMED NOBODY NOID NOPATIENTID "
    "NOTAVAILABLE MISSING HIDDEN CONFIDENTIAL REDACTED DEFAULT DUMMY TEST PATIENT PATIENTID ID"
)
"""Upper case, without spaces and punctuation."""
_FILLED = re.compile(r"0*|X*|9{4,}")
"""Nothing, or one character over and over. ``111`` may be the 111th of a study."""


def is_placeholder(patient_id: str) -> bool:
    """Whether a PatientID stands for a missing one: ``anonymous``, ``0``, ``n/a``, ``XXXX`` …"""
    text = re.sub(r"[\W_]+", "", patient_id.upper())
    return text in _WORDS.split() or _FILLED.fullmatch(text) is not None


def patient_hmac(key: bytes, patient_id: str, birth_date: str) -> bytes | None:
    """HMAC-SHA256 of PatientID and PatientBirthDate; None where the header names nobody."""
    if is_placeholder(patient_id):
        return None
    return hmac.new(key, f"{patient_id}\n{birth_date}".encode(), hashlib.sha256).digest()
