"""What several test folders share: where data lie, and how a missing thing is said aloud."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


def missing(what: str) -> NoReturn:
    """Skip with the reason; where ``REQUIRE=all`` (CI) a skip is a failure."""
    if os.environ.get("REQUIRE") == "all":
        pytest.fail(f"missing: {what}")
    pytest.skip(f"missing: {what}")


def shared(*parts: str) -> Path:
    """A path below ../shared/data, or a loud skip."""
    path = SHARED_DATA.joinpath(*parts)
    if not path.exists():
        missing(f"../shared/data/{'/'.join(parts)}")
    return path
