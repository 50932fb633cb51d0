"""What the archive knows of earlier cases: digests, nodes, owners."""

from __future__ import annotations

import numpy as np
import pytest

from audit.builder import Archive, digests_of, keys_of, nodes_of, stack
from diptych.audit import archive, verdicts
from diptych.audit.nodes import Nodes


def owners_of(archive_: Archive, keys: list[int]) -> dict[int, int]:
    with archive_.store.read() as connection:
        found = archive.owners(connection, archive_.fingerprint, keys)
    return {key: owner.case_id for key, owner in found.items()}


def match(archive_: Archive, content: str, without: int = 0) -> int | None:
    with archive_.store.read() as connection:
        found = archive.earliest_with_digest(
            connection, digests_of(content).case_digest, 1, without
        )
    return found.case_id if found else None


def test_a_prepared_slice_has_one_node_across_the_stacks_of_a_revision(empty):
    new = empty.judge(
        "A",
        stack("one", nodes=nodes_of("x", "y", "x")),
        stack("two", "sagittal", principal=False, nodes=nodes_of("y", "z")),
        contents=["a"],
    )
    assert new == [1, 2, 3]
    assert keys_of(empty, 1) == [1, 2, 1]
    assert keys_of(empty, 2) == [2, 3]
    assert owners_of(empty, [1, 2, 3]) == {1: 1, 2: 1, 3: 2}
    assert empty.rows("SELECT case_id, shared FROM embedding") == [(1, 0), (2, 1)]


def test_a_prepared_slice_has_one_node_across_cases_owned_by_the_earliest(empty):
    empty.judge("A", stack("a", nodes=nodes_of("x", "y")), contents=["a"])
    assert empty.judge("B", stack("b", nodes=nodes_of("y", "z")), contents=["b"]) == [3]
    assert keys_of(empty, 2) == [2, 3]
    assert owners_of(empty, [1, 2, 3]) == {1: 1, 2: 1, 3: 2}


def test_a_case_that_reuses_nodes_makes_none(empty):
    keys = empty.judge("A", stack("a"), contents=["a"])
    reused = Nodes(reused=keys)
    assert empty.judge("B", stack("a", nodes=reused), contents=["a"], source="south") == []
    assert keys_of(empty, 2) == keys
    assert empty.value("SELECT count(*) FROM node") == 4


def test_owners_leaves_out_keys_that_are_no_node_and_names_the_series(filled):
    with filled.store.read() as connection:
        found = archive.owners(connection, filled.fingerprint, [1, 1, 10**12])
    assert list(found) == [1]
    assert found[1] == filled.owner(1)
    assert (found[1].source, found[1].series_id) == ("north", 1)


def test_owners_of_more_keys_than_one_list_are_all_found(empty):
    many = nodes_of(*(f"x/{i}" for i in range(archive._LIST + 10)))
    keys = empty.judge("A", stack("a", nodes=many), contents=["a"])
    assert set(owners_of(empty, keys)) == set(keys)


def test_the_earliest_other_case_with_the_digest_is_found(empty):
    for name, source in (("A", "north"), ("B", "south"), ("C", "west")):
        empty.judge(name, stack("same"), contents=[name], source=source)
    assert match(empty, "same") == 1
    assert match(empty, "same", without=1) == 2
    assert match(empty, "same", without=3) == 1
    assert match(empty, "other") is None


def test_no_stack_or_revision_of_the_own_series_is_ever_found(empty):
    empty.judge("A", stack("same"), stack("same", "sagittal", principal=False), contents=["a"])
    empty.judge("A", stack("same"), contents=["a", "b"])
    assert match(empty, "same", without=1) is None


def test_a_digest_of_an_older_revision_or_version_is_not_found(empty):
    empty.judge("A", stack("first"), contents=["a"])
    empty.judge("A", stack("second"), contents=["a", "b"])
    assert match(empty, "first") is None
    assert match(empty, "second") == 1
    with empty.store.read() as connection:
        digest = digests_of("second").case_digest
        assert archive.earliest_with_digest(connection, digest, 2, 0) is None


def test_a_case_of_constant_planes_only_is_no_evidence(empty):
    """Two blank volumes of one size have one digest and nothing in common."""
    empty.judge("A", stack("blank", digests=digests_of("blank", constant=True)), contents=["a"])
    assert match(empty, "blank") is None
    some = digests_of("some")
    partly = verdicts.Digests(1, some.case_digest, some.planes, [True, True, True, False], None)
    empty.judge("B", stack("some", digests=partly), contents=["b"])
    assert match(empty, "some") == 2


def test_slice_keys_are_those_of_the_newest_revision(empty):
    empty.judge("A", stack("a", nodes=nodes_of("x")), contents=["a"])
    empty.judge("A", stack("b", nodes=nodes_of("x", "y")), contents=["a", "b"])
    assert keys_of(empty, 1) == [1, 2]
    assert keys_of(empty, 9) == []


def test_keys_are_never_used_again_even_after_the_newest_is_forgotten(empty):
    first = empty.judge("A", stack("a"), contents=["a"])
    empty.forget(1)
    assert empty.value("SELECT count(*) FROM node") == 0
    again = empty.judge("A", stack("a"), contents=["a"])
    assert min(again) > max(first)
    with empty.store.read() as connection:
        assert archive.next_key(connection, empty.fingerprint) == max(again) + 1


@pytest.mark.parametrize("batch", [1, 3, 4, 1000])
def test_all_nodes_come_once_in_key_order_whatever_the_batch(filled, batch):
    parts = list(archive.all_nodes(filled.store, filled.fingerprint, 8, batch=batch))
    keys = np.concatenate([keys for keys, _ in parts])
    vectors = np.concatenate([vectors for _, vectors in parts])
    with filled.store.read() as connection:
        wanted = archive.node_keys(connection, filled.fingerprint)
        same = archive.vectors(connection, filled.fingerprint, keys.tolist(), 8)
    assert keys.tolist() == sorted(wanted)
    assert np.array_equal(vectors, same)
    assert all(len(keys) <= batch for keys, _ in parts)


def test_all_nodes_can_begin_in_the_middle(filled):
    parts = archive.all_nodes(filled.store, filled.fingerprint, 8, from_key=5, batch=2)
    assert min(int(key) for keys, _ in parts for key in keys) == 5


def test_all_nodes_of_an_unknown_fingerprint_are_none(filled):
    assert list(archive.all_nodes(filled.store, 99, 8)) == []


def test_vectors_come_in_the_order_asked_with_repeats_and_as_they_were_given(empty):
    nodes = nodes_of("x", "y", "z")
    assert nodes.vectors is not None
    empty.judge("A", stack("a", nodes=nodes), contents=["a"])
    with empty.store.read() as connection:
        got = archive.vectors(connection, empty.fingerprint, [3, 1, 3, 2], 8)
        none = archive.vectors(connection, empty.fingerprint, [], 8)
    assert got.dtype == np.float32
    assert np.array_equal(got, nodes.vectors[[2, 0, 2, 1]])
    assert none.shape == (0, 8)


def test_another_fingerprint_has_nodes_and_keys_of_its_own(empty):
    empty.judge("A", stack("a", nodes=nodes_of("x")), contents=["a"])
    other = archive.fingerprint_id(empty.store, "ab" * 32, "other", 8)
    assert other != empty.fingerprint
    assert archive.fingerprint_id(empty.store, "ab" * 32, "other", 8) == other
    with empty.store.read() as connection:
        assert archive.next_key(connection, other) == 1
        assert archive.nodes_by_digest(connection, other, nodes_of("x").digests) == {}
    empty.fingerprint = other
    assert empty.judge("B", stack("b", nodes=nodes_of("x")), contents=["b"]) == [1]
