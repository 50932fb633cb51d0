"""Archives for the audit tests: copies of an empty one and of one that holds everything.

Every test of them runs on SQLite and on PostgreSQL, but those marked ``sqlite``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from audit.builder import Archive, Template, fill


@pytest.fixture(scope="session")
def _template(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Callable[[str, bool], Template]:
    made: dict[tuple[str, bool], Template] = {}

    def make(backend: str, filled: bool) -> Template:
        if (backend, filled) not in made:
            server = request.getfixturevalue("postgresql") if backend == "postgresql" else None
            folder = tmp_path_factory.mktemp("filled" if filled else "empty")
            made[backend, filled] = Template(folder, server, fill if filled else None)
        return made[backend, filled]

    return make


@pytest.fixture
def empty(
    _template: Callable[[str, bool], Template], backend: str, tmp_path: Path
) -> Iterator[Archive]:
    with _template(backend, False).copy(tmp_path) as archive:
        yield archive


@pytest.fixture
def filled(
    _template: Callable[[str, bool], Template], backend: str, tmp_path: Path
) -> Iterator[Archive]:
    with _template(backend, True).copy(tmp_path) as archive:
        yield archive
