"""Fixtures every folder uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from running import Daemon

if TYPE_CHECKING:
    from diptych.embed.session import Embedder
    from diptych.volume.decoders import DecoderPool
    from judged import Archive
    from postgres import Server


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "sqlite: of SQLite's own ways, not run on PostgreSQL")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What asks for a ``backend`` runs on both databases."""
    if "backend" in metafunc.fixturenames:
        only = metafunc.definition.get_closest_marker("sqlite") is not None
        metafunc.parametrize("backend", ["sqlite"] if only else ["sqlite", "postgresql"])


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A PostgreSQL server, started when the first test asks for it."""
    from postgres import Server

    server = Server()
    yield server
    server.end()


@pytest.fixture
def make_daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Makes daemons; none of their processes outlives the test."""
    made: list[Daemon] = []

    def make(name: str = "data", **environment: str) -> Daemon:
        made.append(Daemon(tmp_path / name, **environment))
        return made[-1]

    yield make
    for daemon in made:
        daemon.end()


@pytest.fixture
def daemon(make_daemon: Callable[..., Daemon]) -> Daemon:
    """A running daemon."""
    return make_daemon().start()


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    """The bundled model, loaded once: that is slow."""
    from diptych.embed.manifest import load_model
    from diptych.embed.session import Embedder

    return Embedder(load_model(), threads=1)


@pytest.fixture(scope="session")
def decoders() -> Iterator[DecoderPool]:
    """One decoder child; it starts at its first use."""
    from diptych.volume.decoders import DecoderPool

    with DecoderPool(children=1) as pool:
        yield pool


@pytest.fixture
def own(tmp_path: Path, embedder: Embedder, decoders: DecoderPool) -> Archive:
    """An empty archive that judges in this process."""
    from judged import Archive

    return Archive(tmp_path, embedder, decoders)
