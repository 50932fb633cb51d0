"""Archives for the audit tests: copies of an empty one and of one that holds everything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.builder import Archive, copy, fill, template


@pytest.fixture(scope="session")
def _empty_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return template(tmp_path_factory.mktemp("empty"))


@pytest.fixture(scope="session")
def _filled_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return template(tmp_path_factory.mktemp("filled"), fill)


@pytest.fixture
def empty(_empty_template: Path, tmp_path: Path) -> Iterator[Archive]:
    archive = copy(_empty_template, tmp_path)
    yield archive
    archive.close()


@pytest.fixture
def filled(_filled_template: Path, tmp_path: Path) -> Iterator[Archive]:
    archive = copy(_filled_template, tmp_path)
    yield archive
    archive.close()
