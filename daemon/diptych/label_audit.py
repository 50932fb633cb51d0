"""The label audit of one series, at judging time: from the neighbours that the search has found.

Nothing is searched again, and the relation is not touched: what comes of it is a flag, a counter
and a line of the evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection

from diptych.audit import labels
from diptych.audit.store import Store
from diptych.audit.work import Work
from diptych.judge import labels as judging
from diptych.judge.count import CaseId
from diptych.judge.labels import Disagreement, Heard, Meaning, Vote
from diptych.judge.ladder import FEW

_MEANINGS: dict[labels.Label, Callable[[str | None], Meaning]] = {
    "modality": judging.modality,
    "body_part": judging.body_part,
}


@dataclass(frozen=True)
class Said:
    """What a series says of itself. patient_hmac: None where it names no patient."""

    modality: str | None
    body_part: str | None
    patient_hmac: bytes | None


def audited(
    store: Store,
    fingerprint_id: int,
    work: Work,
    said: Said,
    neighbours: Sequence[Sequence[CaseId]],
    copies: Collection[CaseId],
) -> dict[str, Disagreement | Heard]:
    """Label → what the neighbours agree on instead, or why nothing is said of it. Empty: nothing
    was looked up.

    neighbours: per informative slice the cases of its nearest vectors, the nearest first. copies:
    the cases that the series is a copy of. These, and whatever is of the same patient or study,
    do not vote; a neighbour that is a copy itself votes as its original's patient.
    """
    own = {label: meaning(getattr(said, label)) for label, meaning in _MEANINGS.items()}
    if not neighbours:
        return {}
    if not any(own.values()):
        return dict.fromkeys(own, Heard.UNLABELLED)
    found: dict[str, Disagreement | Heard] = {}
    with store.read() as connection:
        cases = {case for row in neighbours for case in row}
        known = labels.of_cases(connection, sorted(cases.union(copies)))
        barred = {known[case].subject for case in copies if case in known}
        barred.add(labels.subject(said.patient_hmac, work.study_instance_uid, 0))
        voters = {
            case: one
            for case, one in known.items()
            if one.subject not in barred and one.study_instance_uid != work.study_instance_uid
        }
        for label, meaning in _MEANINGS.items():
            votes = {
                case: Vote(one.subject, says)
                for case, one in voters.items()
                if (says := meaning(getattr(one, label)))
            }
            found[label] = judging.disagreement(
                own[label],
                [next((votes[case] for case in row if case in votes), None) for row in neighbours],
                partial(_known, connection, fingerprint_id, work.series_id, own),
            )
    return found


def _known(
    connection: Connection, fingerprint_id: int, series_id: int, own: dict[labels.Label, Meaning]
) -> int:
    """How many other series say all that the series says, as far as it means something."""
    return sum(
        count
        for (modality, body_part), count in labels.said(
            connection, fingerprint_id, series_id, FEW
        ).items()
        if (not own["modality"] or judging.modality(modality) & own["modality"])
        and (not own["body_part"] or judging.body_part(body_part) & own["body_part"])
    )
