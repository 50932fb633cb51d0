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
