"""Fixtures every folder uses."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from running import Daemon

if TYPE_CHECKING:
    from diptych.embed.session import Embedder
    from diptych.volume.decoders import DecoderPool
    from judged import Archive
    from postgres import Server


# No test is timed. Where a failure stops a change that has nothing to do with it, the same examples
# every time; new ones are looked for wherever else the tests run.
settings.register_profile("diptych", deadline=None, derandomize=os.environ.get("REQUIRE") == "all")
settings.load_profile("diptych")

BACKENDS = ["sqlite", "postgresql"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "sqlite: of SQLite's own ways, or many of one kind; not on PostgreSQL"
    )
    config.addinivalue_line("markers", "both: run on PostgreSQL too (``own``, ``make_daemon``)")


# Each runs a minute or more on its own; begun last, one would keep a core idle until it ends.
_LONGEST = (
    *("service/test_crash.py", "demo/test_demo_command.py", "registry/test_registry_official.py"),
    *("models/test_models_torch.py", "evaluate/test_command.py", "evaluate/test_stand_ins.py"),
    *("receive/test_receive_storage_faults.py", "registry/test_registry_switch.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, all else in the order of the folders."""
    here = Path(__file__).parent
    longest = [here / name for name in _LONGEST]
    items.sort(key=lambda item: longest.index(item.path) if item.path in longest else len(longest))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """On which databases a test runs: those of tests/audit on both, others where they say so."""
    marked = metafunc.definition.get_closest_marker
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", ["sqlite"] if marked("sqlite") else BACKENDS)
    if "database" in metafunc.fixturenames and marked("both"):
        metafunc.parametrize("database", BACKENDS)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A PostgreSQL server, started when the first test asks for it."""
    from postgres import Server

    server = Server()
    yield server
    server.end()


@pytest.fixture
def database() -> str:
    """Which database daemons and archives get."""
    return "sqlite"


@pytest.fixture
def new_database(database: str, request: pytest.FixtureRequest) -> Iterator[Callable[[], str]]:
    """Makes databases with this version's tables; gives the URL, empty: SQLite in its folder."""
    if database == "sqlite":
        yield lambda: ""
        return
    server: Server = request.getfixturevalue("postgresql")
    made: list[str] = []

    def make() -> str:
        made.append(server.create(server.migrated()))
        return server.url(made[-1])

    yield make
    for name in made:
        server.drop(name)


@pytest.fixture
def make_daemon(tmp_path: Path, new_database: Callable[[], str]) -> Iterator[Callable[..., Daemon]]:
    """Makes daemons; none of their processes outlives the test."""
    made: list[Daemon] = []

    def make(name: str = "data", **environment: str) -> Daemon:
        if "DIPTYCH_DATABASE__URL" not in environment and (url := new_database()):
            environment["DIPTYCH_DATABASE__URL"] = url
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
def own(
    tmp_path: Path,
    embedder: Embedder,
    decoders: DecoderPool,
    new_database: Callable[[], str],
) -> Archive:
    """An empty archive that judges in this process."""
    from judged import Archive

    return Archive(tmp_path, embedder, decoders, new_database())
