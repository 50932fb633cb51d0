"""Text from the wire: every column holds what it can, the same on every database."""

from __future__ import annotations

import pytest
from sqlalchemy import String, Table, insert, select

from audit.builder import Archive, stack, uid
from diptych.audit import receipts, schema
from diptych.audit.schema import Words

ODD = ["NUL\0inside", "x" * 1000, "\ud83d", "Ä" * 100, "\x1b[2J\r\n", "\0"]
COLUMNS = [
    (table, column.name)
    for table in schema.metadata.sorted_tables
    for column in table.c
    if isinstance(column.type, Words)
]


def test_every_text_column_is_bounded_and_cleaned_by_its_type() -> None:
    loose = [
        f"{table.name}.{column.name}"
        for table in schema.metadata.sorted_tables
        for column in table.c
        if isinstance(column.type, String)
    ]
    assert loose == []
    assert len(COLUMNS) > 60


@pytest.mark.parametrize("odd", ODD, ids=ascii)
def test_what_a_column_holds_is_what_its_row_was_said_to_hold(odd: str) -> None:
    for table, name in COLUMNS:
        kept = schema.fitting(table, {name: odd})[name]
        assert "\0" not in kept
        assert len(kept) <= (table.c[name].type.length or 1000)
        kept.encode()


@pytest.mark.parametrize("odd", ODD, ids=ascii)
def test_every_text_of_a_verdict_may_be_odd_and_the_chain_still_verifies(
    empty: Archive, odd: str
) -> None:
    texts = {"detail": odd, "modality": odd, "body_part": odd, "search": odd, "count_mode": odd}
    empty.judge("A", stack("a", **texts, model=odd, policy="bundled/3"), contents=["a"])
    assert empty.verify() == ()
    (kept,) = empty.rows('SELECT body_part FROM "case"')[0]
    assert kept == schema.fitting(schema.case, {"body_part": odd})["body_part"]


@pytest.mark.parametrize("odd", ODD, ids=ascii)
def test_an_association_of_any_name_is_written_down(empty: Archive, odd: str) -> None:
    opening = receipts.Opening(uid("1", odd)[:32], "acceptor", "north", odd, odd)
    empty.receive("A", ["a"], association=opening)
    with empty.store.read() as connection:
        (kept,) = connection.execute(select(schema.association.c.calling_ae_title)).scalars()
    assert kept == schema.fitting(schema.association, {"calling_ae_title": odd})["calling_ae_title"]


def test_what_is_too_long_is_found_again_by_the_same_words(empty: Archive) -> None:
    table: Table = schema.collection
    with empty.store.write() as connection:
        connection.execute(insert(table).values(name="n" * 99, kind="owned", created_at=1))
    with empty.store.read() as connection:
        found = connection.execute(select(table.c.name).where(table.c.name == "n" * 99)).scalars()
        assert list(found) == ["n" * 64]
