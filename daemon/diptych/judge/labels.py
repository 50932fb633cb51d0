"""The label audit: does a series say of itself what its neighbours say? Pure, no I/O.

A flag, never a verdict: Modality (0008,0060) and BodyPartExamined (0018,0015) are typed in by
people and de-identified by programs, and a series whose neighbours agree on another one deserves a
look. What is compared is what a text *means*, as far as it is known here: a set of modalities or
of body regions. Two labels disagree only where the sets have nothing in common; a text that is not
known means nothing, votes for nothing and is never flagged.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

Meaning = frozenset[str]
NOTHING: Meaning = frozenset()

MIN_SUBJECTS = 3
"""Patients that must agree on another label: two may both be mislabelled."""
MIN_AGREEMENT = 0.8
"""Of the slices whose neighbour has a label, the share whose neighbours agree on another one."""
MIN_HEARD = 0.5
"""Of all informative slices, the share that must have a neighbour with a label at all."""
MAX_ONE = 2 / 3
"""Of the slices that agree, the share that one patient may hold: nobody carries it alone."""
MIN_KNOWN = 3
"""Other volumes of the archive that must say what the series says, modality and body part, and not
fewer than the patients that say otherwise: the first CT among MR, or the first CT of a knee, has no
neighbours like it, and that is no finding."""

_MODALITIES = {
    **{name: name for name in ("CT", "MR", "PT", "NM", "US", "MG")},
    "CR": "radiograph",
    "DX": "radiograph",
    "XA": "fluoroscopy",
    "RF": "fluoroscopy",
}
"""OT, SC and whatever else says nothing of how the image was made."""

_WORDS = {
    "head": (
        "HEAD BRAIN SKULL CRANIUM FACE ORBIT ORBITS EYE EAR IAC NOSE SINUS SINUSES JAW MANDIBLE "
        "MAXILLA TMJ PITUITARY SELLA HIPPOCAMPUS HEADNECK"
    ),
    "neck": "NECK THYROID LARYNX PHARYNX CAROTID CSPINE CTSPINE SPINE HEADNECK NECKCHEST "
    "NECKCHESTABDOMEN NECKCHESTABDPELV",
    "chest": "CHEST THORAX LUNG LUNGS HEART CARDIAC BREAST MEDIASTINUM STERNUM RIB RIBS TSPINE "
    "CTSPINE TLSPINE SPINE CLAVICLE SCAPULA SHOULDER AORTA ESOPHAGUS NECKCHEST CHESTABDOMEN "
    "CHESTABDPELVIS NECKCHESTABDOMEN NECKCHESTABDPELV",
    "abdomen": "ABDOMEN ABD LIVER SPLEEN PANCREAS KIDNEY KIDNEYS ADRENAL GALLBLADDER STOMACH "
    "COLON TLSPINE LSPINE LSSPINE SPINE AORTA CHESTABDOMEN CHESTABDPELVIS ABDOMENPELVIS "
    "NECKCHESTABDOMEN NECKCHESTABDPELV",
    "pelvis": "PELVIS PROSTATE BLADDER UTERUS OVARY RECTUM COLON SACRUM COCCYX SSPINE LSPINE "
    "LSSPINE SPINE HIP ABDOMEN ABD ABDOMENPELVIS CHESTABDOMEN CHESTABDPELVIS NECKCHESTABDOMEN "
    "NECKCHESTABDPELV",
    "arm": "ARM SHOULDER SCAPULA CLAVICLE HUMERUS ELBOW FOREARM RADIUS ULNA WRIST HAND FINGER "
    "THUMB EXTREMITY",
    "leg": "LEG HIP FEMUR THIGH KNEE PATELLA TIBIA CALF ANKLE FOOT TOE HEEL CALCANEUS EXTREMITY",
}
"""Region → the defined terms (PS3.16 Annex L) and a few plain words that show some of it. An
abdomen often goes down to the pelvis, and a lumbar spine shows both: such terms are in each."""

_REGIONS: dict[str, Meaning] = {
    word: frozenset(region for region, words in _WORDS.items() if word in words.split())
    for word in " ".join(_WORDS.values()).split()
}
_SIDES = frozenset(("LEFT", "RIGHT", "LT", "RT", "L", "R", "BILATERAL", "BOTH", "AND"))


def modality(text: str | None) -> Meaning:
    """What a Modality says; CR and DX are one, and XA and RF."""
    name = _MODALITIES.get((text or "").strip().upper())
    return frozenset((name,)) if name else NOTHING


def body_part(text: str | None) -> Meaning:
    """The regions that a BodyPartExamined names: ``brain``, ``HEAD`` and ``Skull`` say the same.

    Case, spaces, punctuation and sides do not matter. WHOLEBODY, and a text with any word that is
    not known, say nothing.
    """
    words = [word for word in re.split(r"[\W_]+", (text or "").upper()) if word not in _SIDES]
    words = [word for word in words if word]
    whole = _REGIONS.get("".join(words))
    if whole is not None:
        return whole
    if not words or any(word not in _REGIONS for word in words):
        return NOTHING
    return NOTHING.union(*(_REGIONS[word] for word in words))


@dataclass(frozen=True)
class Vote:
    """The neighbour of one slice. subject: the patient it is of; says: what its label means."""

    subject: str
    says: Meaning


@dataclass(frozen=True)
class Disagreement:
    """What the neighbours agree on instead. subjects: patients that do; slices: of how many of the
    informative ones, ``of``, that is the nearest neighbour with a label."""

    neighbours: str
    subjects: int
    slices: int
    of: int


class Heard(StrEnum):
    """What else an audit comes to. Exported: a contract."""

    AGREES = "agrees"
    """The neighbours do not agree on another label."""
    UNLABELLED = "unlabelled"
    """The series' own label is missing, or means nothing that is known here."""
    TOO_FEW = "too-few"
    """Too few neighbours have a label, or too few volumes are labelled alike, to say anything."""


def disagreement(
    own: Meaning, votes: Sequence[Vote | None], known: Callable[[], int]
) -> Disagreement | Heard:
    """Whether the neighbours agree on a label that excludes the series' own; if not, why not.

    votes: one per informative slice, of the nearest neighbour that may vote; None: there was none.
    Copies of the series, and what is of the same patient, may not: the caller leaves them out.
    known: how many other volumes of the archive are labelled like the series; asked last.
    """
    heard = [vote for vote in votes if vote is not None and vote.says]
    if not own:
        return Heard.UNLABELLED
    if not heard or len(heard) < MIN_HEARD * len(votes):
        return Heard.TOO_FEW
    backing: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for vote in heard:
        if not vote.says & own:
            for meaning in vote.says:
                backing[meaning][vote.subject] += 1
    if not backing:
        return Heard.AGREES
    # The most slices; of equal ones the first in the alphabet, so that the answer is one.
    other, subjects = min(backing.items(), key=lambda item: (-item[1].total(), item[0]))
    slices = subjects.total()
    if slices < MIN_AGREEMENT * len(heard):
        return Heard.AGREES
    if (
        len(subjects) < MIN_SUBJECTS
        or max(subjects.values()) > MAX_ONE * slices
        or known() < max(MIN_KNOWN, len(subjects))
    ):
        return Heard.TOO_FEW
    return Disagreement(other, len(subjects), slices, len(votes))
