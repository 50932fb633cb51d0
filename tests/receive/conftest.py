"""Daemons that the tests of this folder share: a start costs more than most of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from receive.peers import PRIVATE_SOP_CLASS
from running import Daemon

CONFIGURED = f"""
[dicom]
private_sop_classes = ["{PRIVATE_SOP_CLASS}"]
deflated = true
big_endian = true
check_called_ae_title = true
acceptors = 2

[[source]]
name = "north"
ae_titles = ["NORTH", "NORTH2"]

[[source]]
name = "south"
ae_titles = ["SOUTH"]

[[source]]
name = "far"
ae_titles = ["FAR"]
networks = ["198.51.100.0/24"]
"""


@pytest.fixture(scope="package")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with its defaults, except for shorter times and a small quarantine."""
    made = Daemon(
        tmp_path_factory.mktemp("plain") / "data",
        DIPTYCH_SERIES__ASSOCIATION_SECONDS="2",
        DIPTYCH_SPOOL__QUARANTINE_FILES="3",
        DIPTYCH_SPOOL__QUARANTINE_BYTES="20000",
    )
    try:
        yield made.start()
    finally:
        made.end()


@pytest.fixture(scope="package")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a source table, two acceptors and everything that is off by default."""
    folder = tmp_path_factory.mktemp("configured")
    (folder / "diptych.toml").write_text(CONFIGURED)
    made = Daemon(folder / "data", DIPTYCH_CONFIG=str(folder / "diptych.toml"))
    try:
        yield made.start()
    finally:
        made.end()
