"""A transfer in flight, whatever becomes of its association meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from diptych.errors import StoreError
from diptych.receive.spool import Spool


def test_what_was_discarded_while_it_was_being_stored_is_not_taken_for_empty(
    tmp_path: Path,
) -> None:
    spool = Spool(tmp_path / "spool", ("default",))
    spool.prepare()
    part = spool.part("a" * 32, "b" * 32)
    part.write(b"what the sender sent")
    assert part.head(4) == b"what"
    # The association is aborted while its thread waits for the database.
    part.discard()
    with pytest.raises(StoreError, match="the association ended"):
        part.content()


def test_what_one_acceptor_left_unfinished_is_told_from_what_another_is_writing(
    tmp_path: Path,
) -> None:
    spool = Spool(tmp_path, ("default",))
    spool.prepare()
    dead, alive = "d" * 32, "a" * 32
    left = []
    for acceptor in (dead, alive):
        part = spool.part("b" * 32, acceptor)
        part.write(b"half")
        part.sync()
        left.append({part.path, spool.write_aside(acceptor, b"whole")})
    assert set(spool.orphans(dead)) == left[0]
    assert set(spool.orphans()) == left[0] | left[1]
    # A file that only waits for its name is no transfer that may still come to its end.
    assert set(spool.in_flight()) == {"b" * 32}
