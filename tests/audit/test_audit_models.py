"""Which model is in use, what it has embedded, and who may judge meanwhile."""

from __future__ import annotations

import hashlib

import pytest

from audit.builder import (
    DIMENSION,
    FINGERPRINT,
    MODEL,
    Archive,
    nodes_of,
    sha,
    slices_of,
    stack,
)
from diptych.audit import archive as archives
from diptych.audit import models, verdicts, work
from diptych.audit.models import Coverage, Use
from diptych.audit.nodes import add_nodes

OTHER = hashlib.sha256(b"another fingerprint").hexdigest()
# fill(): cases 1, 2, 3, 4 and 6 have vectors; 1 and 2 of revision 8 (the series' second one).
CASES = [1, 2, 3, 4, 6]


def coverage(archive: Archive, value: str = OTHER) -> Coverage:
    with archive.store.read() as connection:
        return models.coverage(connection, value)


def missing(archive: Archive, value: str = OTHER) -> dict[int, list[int]]:
    with archive.store.read() as connection:
        return models.missing(connection, value)


def embed(archive: Archive, *cases: int) -> int:
    """As the switch does: the newest revision of these cases, under OTHER."""
    fingerprint_id = archives.fingerprint_id(archive.store, OTHER, "other", DIMENSION)
    for revision_id, wanted in missing(archive).items():
        for case_id in set(wanted) & set(cases):
            with archive.store.write() as connection:
                nodes = nodes_of(*slices_of(f"other {case_id}"))
                add_nodes(connection, case_id, revision_id, nodes, fingerprint_id)
    return fingerprint_id


def use(archive: Archive, name: str, value: str, left_behind: int = 0) -> None:
    with archive.store.write() as connection:
        models.use(connection, name, value, left_behind)


def test_without_a_switch_no_model_is_named_and_any_may_judge(empty: Archive) -> None:
    with empty.store.read() as connection:
        assert models.in_use(connection) is None
        assert models.may_claim(connection, FINGERPRINT)


def test_the_newest_switch_names_the_model_and_the_chain_holds_it(filled: Archive) -> None:
    use(filled, "other", OTHER, 3)
    use(filled, MODEL, FINGERPRINT)
    with filled.store.read() as connection:
        assert models.in_use(connection) == Use(MODEL, FINGERPRINT, 0)
    assert filled.verify() == ()
    filled.tamper("UPDATE event SET payload = replace(payload, 'test-model', 'x') WHERE seq > 0")
    assert any("does not match its hash" in problem for problem in filled.verify())


def test_an_event_of_a_model_that_cannot_be_read_is_a_problem(filled: Archive) -> None:
    use(filled, "other", OTHER)
    filled.tamper("UPDATE event SET payload = '{}' WHERE kind = 'model-use'")
    assert any("its payload cannot be read" in problem for problem in filled.verify())


def test_what_a_fingerprint_lacks_is_the_newest_vectors_of_every_case(filled: Archive) -> None:
    assert coverage(filled, FINGERPRINT) == Coverage(5, 0)
    assert coverage(filled) == Coverage(0, 5)
    found = missing(filled)
    assert sorted(case for cases in found.values() for case in cases) == CASES
    newest = filled.value("SELECT max(id) FROM revision")
    assert found[newest] == [1, 2]
    embed(filled, 1, 4)
    assert coverage(filled) == Coverage(2, 3)
    embed(filled, *CASES)
    assert coverage(filled) == Coverage(5, 0)
    assert missing(filled) == {}


def test_a_revision_that_came_since_is_missing_again(filled: Archive) -> None:
    embed(filled, *CASES)
    filled.judge(
        "G", stack("later", nodes=nodes_of("g/0", "new")), contents=("g/0", "new"), study="A"
    )
    assert coverage(filled) == Coverage(4, 1)
    assert list(missing(filled).values()) == [[6]]


def test_what_is_needed_to_embed_again_are_the_files_up_to_that_revision(filled: Archive) -> None:
    newest = filled.value("SELECT max(id) FROM revision")
    with filled.store.read() as connection:
        wanted = models.wanted(connection, newest, [1, 2])
    assert [(case, signature) for case, signature, _ in wanted.cases] == [
        (1, "axial"),
        (2, "sagittal"),
    ]
    assert wanted.cases[0][2] == stack("late").digests.case_digest  # type: ignore[union-attr]
    assert len(wanted.locators) == 5
    assert not wanted.purged
    filled.tamper("UPDATE blob SET purged_at = 1 WHERE id = 1")
    with filled.store.read() as connection:
        wanted = models.wanted(connection, newest, [1])
    assert (len(wanted.locators), wanted.purged) == (4, True)


def test_a_forgotten_case_is_neither_embedded_nor_missing(filled: Archive) -> None:
    embed(filled, 6)
    filled.forget(6)
    filled.forget(4)
    assert coverage(filled) == Coverage(0, 3)
    assert filled.value("SELECT count(*) FROM node WHERE case_id IN (4, 6)") == 0


def test_removing_a_model_leaves_the_other_whole(filled: Archive) -> None:
    before = filled.value("SELECT count(*) FROM node")
    fingerprint_id = embed(filled, 1, 2)
    with filled.store.read() as connection:
        assert models.only_here(connection, FINGERPRINT) == 3
        assert models.only_here(connection, OTHER) == 0
        following = archives.next_key(connection, fingerprint_id)
    assert models.remove(filled.store, "other", OTHER) == 8
    assert filled.value("SELECT count(*) FROM node") == before
    assert coverage(filled) == Coverage(0, 5)
    assert coverage(filled, FINGERPRINT) == Coverage(5, 0)
    with filled.store.read() as connection:
        # 64-bit keys are never reused, even if the model comes back.
        assert archives.next_key(connection, fingerprint_id) == following
    assert filled.verify() == ()


def test_nobody_claims_while_judging_is_held_and_a_dead_holder_is_outlived(empty: Archive) -> None:
    empty.receive("A", ["a"])
    empty.seal()
    models.hold(empty.store)
    assert empty.claim() is None
    models.hold(empty.store, seconds=0.2)
    assert empty.claim() is None
    models.hold(empty.store, seconds=0)
    assert empty.claim() is not None


@pytest.mark.parametrize(("mine", "claims"), [(OTHER, True), (FINGERPRINT, False), (None, True)])
def test_only_a_worker_of_the_model_in_use_claims(
    empty: Archive, mine: str | None, claims: bool
) -> None:
    empty.receive("A", ["a"])
    empty.seal()
    use(empty, "other", OTHER)
    assert (work.claim(empty.store, "worker", 60, mine) is not None) is claims


def test_what_is_judged_now_is_known_until_its_lease_lapses(empty: Archive) -> None:
    def judging() -> bool:
        with empty.store.read() as connection:
            return models.being_judged(connection)

    empty.receive("A", ["a"])
    empty.seal()
    assert not judging()
    assert empty.claim(lease=60) is not None
    assert judging()
    empty.tamper("UPDATE revision SET lease_until = 1")
    assert not judging()


def test_strangers_are_one_case_of_each_patient_with_its_pixels(empty: Archive) -> None:
    for number, name in enumerate(("a", "b", "c", "d")):
        digests = verdicts.Digests(
            1, sha(name), [sha(name, 0)], [False], sha("patient", number // 2)
        )
        relation = "related" if name == "d" else "unique"
        empty.judge(name, stack(name, digests=digests, relation=relation), contents=[name])
    with empty.store.read() as connection:
        found = models.strangers(connection, 10)
        assert [one.cases[0][0] for one in found] == [3, 2]
        assert len(models.strangers(connection, 1)) == 1
    empty.tamper("UPDATE blob SET purged_at = 1 WHERE id = 2")
    with empty.store.read() as connection:
        assert [one.cases[0][0] for one in models.strangers(connection, 10)] == [3, 1]
