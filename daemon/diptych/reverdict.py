"""Stored evidence judged again under another policy, without touching pixels.

Each series' newest revision, stack by stack: evidence → judgement → what is true of the whole
series. Each then names the policy it was judged again by, and the few that say something else are
told. A daemon may judge on meanwhile: what is read is a snapshot, each transaction writes a few
rows, and whoever is interrupted begins again where nothing was written yet.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection

from diptych import active
from diptych.audit import archive, reverdicts
from diptych.audit.reverdicts import Said, Stack
from diptych.audit.store import Store
from diptych.config import Config
from diptych.errors import ModelError
from diptych.judge import ladder, replay
from diptych.judge.definition import Definition
from diptych.judge.ladder import Flag, Relation
from diptych.judge.policy import Policy
from diptych.policies import resolve

BATCH = 8
"""Rows per transaction, some milliseconds with its fsync: nobody waits long for a replay."""
PAUSE_SECONDS = 0.005
"""At least so long between two of them, and as long as the last one took: SQLite's lock is not
fair, and who waits for it only looks now and then."""

_NOT_JUDGED = (Relation.NOT_SCREENABLE, Relation.NOT_AN_IMAGE)
# Set beside the judgement by the path from what the relation is; every other flag stays.
_FOLLOWS = {Flag.CROSS_SOURCE, Flag.STACKS_DIFFER}


@dataclass
class Replayed:
    """What came of it. policies: the label per model. judged: verdicts judged again; outcomes:
    (relation before, after) of all of them. changed: those that say something else. left: why
    others were not judged again, and how many. written: rows, of all that name this policy now."""

    policies: dict[str, str] = field(default_factory=dict)
    judged: int = 0
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    changed: list[Said] = field(default_factory=list)
    left: Counter[str] = field(default_factory=Counter)
    written: int = 0


def reverdict(
    config: Config,
    store: Store,
    definition: Definition,
    since: int,
    until: int | None,
    dry_run: bool,
    progress: Callable[[str, int, int | None], None],
) -> Replayed:
    """Judge again what was first judged in [since, until) (UTC microseconds).

    Evidence that no version wrote is counted and left as it is.
    """
    done, under = Replayed(), _Policies(config, store, definition)
    with store.read() as connection:
        revisions = reverdicts.revisions(connection, since, until)
    waiting: list[Said] = []
    for number, revision_id in enumerate(revisions):
        progress("judging again", number, len(revisions))
        with store.read() as connection:
            found = list(_judged_again(connection, revision_id, under, done))
        done.changed += [one for one in found if one.differs]
        waiting += [] if dry_run else [one for one in found if one.is_new]
        while len(waiting) >= BATCH:
            done.written += _write(store, waiting[:BATCH], under)
            waiting = waiting[BATCH:]
    if waiting:
        done.written += _write(store, waiting, under)
    done.policies = {model: policy.label for model, policy in under.known.items() if policy}
    return done


class _Policies:
    """The policy for each model whose evidence turns up: distances of different models do not
    compare. None: there is none."""

    def __init__(self, config: Config, store: Store, definition: Definition) -> None:
        self._config, self._store, self._definition = config, store, definition
        self._in_use = active.model_in_use(config, store).fingerprint
        self._known: dict[tuple[str, str], Policy | None] = {}
        self._written: set[Policy] = set()
        self.known: dict[str, Policy | None] = {}

    def of(self, stack: Stack) -> Policy | None:
        key = (stack.model or "", stack.fingerprint or "")
        if key not in self._known:
            self._known[key] = self.known[key[0]] = self._find(*key)
        return self._known[key]

    def write_down(self) -> None:
        """Before a verdict names them."""
        for policy in self._known.values():
            if policy is not None and policy not in self._written:
                resolve(self._store, self._definition, policy.d_max)
                self._written.add(policy)

    def _find(self, name: str, fingerprint: str) -> Policy | None:
        if not self._definition.follows_model and fingerprint != self._in_use:
            return None
        try:
            entry = active.model(self._config, name)
        except ModelError:
            return None
        return self._definition.under(entry.d_max) if entry.fingerprint == fingerprint else None


def _judged_again(
    connection: Connection, revision_id: int, under: _Policies, done: Replayed
) -> Iterator[Said]:
    """What each stack of a revision says now that can be judged again."""
    stacks = reverdicts.stacks(connection, revision_id)
    judgements: dict[int, ladder.Judgement] = {}
    for stack in stacks:
        if stack.relation in _NOT_JUDGED:
            continue
        if stack.evidence is None:
            done.left["forgotten"] += 1
            continue
        policy = under.of(stack)
        if policy is None:
            done.left[f"judged by model {stack.model}, for which the policy has no d_max"] += 1
            continue
        try:
            evidence = replay.rebuilt(stack.evidence, policy)
        except replay.UnreadableEvidence as error:
            done.left[str(error)] += 1
            continue
        judgement = ladder.judge(evidence, policy)
        match = judgement.matched_case
        if match is not None and archive.is_forgotten(connection, match):
            done.left["their match was forgotten"] += 1
            continue
        judgements[stack.verdict_id] = judgement
    relations = {
        judgements[stack.verdict_id].relation if stack.verdict_id in judgements else stack.relation
        for stack in stacks
    }
    for stack in stacks:
        if stack.verdict_id not in judgements:
            continue
        judgement = judgements[stack.verdict_id]
        done.judged += 1
        done.outcomes[stack.relation, judgement.relation.value] += 1
        flags = _flags(connection, stack, judgement, len(relations) > 1)
        policy = under.of(stack)
        assert policy is not None
        yield Said(
            replace(stack, evidence=None),  # nobody needs it any more, and there may be many
            judgement.relation.value,
            flags,
            judgement.matched_case,
            policy.threshold,
            judgement.reason,
            policy.label,
        )


def _flags(
    connection: Connection, stack: Stack, judgement: ladder.Judgement, differ: bool
) -> tuple[str, ...]:
    """As the path sets them (:mod:`diptych.pipeline`)."""
    flags: set[str] = {*judgement.flags, *(flag for flag in stack.flags if flag not in _FOLLOWS)}
    match = judgement.matched_case
    owner = None if match is None else archive.owner_of_case(connection, match)
    if owner is not None and owner.source != stack.source:
        flags.add(Flag.CROSS_SOURCE)
    if differ:
        flags.add(Flag.STACKS_DIFFER)
    return tuple(sorted(flags))


def _write(store: Store, said: list[Said], under: _Policies) -> int:
    """One transaction, and a pause in which others have their turn."""
    under.write_down()
    began = time.perf_counter()
    written = reverdicts.record(store, said)
    time.sleep(max(PAUSE_SECONDS, time.perf_counter() - began))
    return written
