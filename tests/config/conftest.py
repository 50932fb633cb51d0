"""Nothing set outside may change what a test of the configuration sees."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("DIPTYCH_"):
            monkeypatch.delenv(name)
