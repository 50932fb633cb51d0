"""What a delivery is compared with: what is owned, test sets, other deliveries."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from sqlalchemy import func, select

from diptych.audit import archive, deliveries, models
from diptych.audit.deliveries import Standing
from diptych.audit.schema import case, site
from diptych.audit.store import Store
from diptych.config import Config
from diptych.embed.session import Embedder
from diptych.errors import UsageError
from diptych.screen.delivery import OWNED, TEST_SET, Folder
from diptych.screen.findings import Collection, Kind
from diptych.screen.reading import Side


def open_sides(
    config: Config,
    main: Store,
    delivery: str,
    against: Sequence[str] | None,
    embedder: Embedder,
    stack: ExitStack,
) -> dict[str, tuple[Side, Config]]:
    """What ``delivery`` is compared with, by name, and where that is kept; ``stack`` closes it.

    against: as of ``Wanted``. Raises UsageError.
    """
    with main.read() as connection:
        known = deliveries.everything(connection)
    names = _named(delivery, against, known)
    found: dict[str, tuple[Side, Config]] = {}
    for name in names:
        if name == OWNED:
            store, where = main, config
        else:
            folder = Folder(config, name)
            if not folder.has_archive:
                raise UsageError(
                    f"what was screened as {name} is not in {folder.path}: bring it back from a "
                    f"backup, `diptych forget --delivery {name}`, or leave it out by --against"
                )
            where, store = folder.config, folder.open_store(main)
            stack.callback(store.close)
        with store.read() as connection:
            left = models.coverage(connection, embedder.fingerprint).missing
            cases = connection.execute(
                select(func.count()).select_from(case).where(case.c.forgotten_at.is_(None))
            ).scalar_one()
        if left:
            raise UsageError(
                f"{left} cases of {name} are not embedded by the model in use: "
                + (
                    "`diptych model use NAME` embeds them"
                    if name == OWNED
                    else f"screen {name} again under another name"
                )
            )
        found[name] = side_of(kind_of(name, known), name, cases, store, embedder), where
    return found


def uuid_of(store: Store) -> str:
    """Of its archive: names come again."""
    with store.read() as connection:
        return str(connection.execute(select(site.c.archive_uuid)).scalar_one())


def newest_case(store: Store) -> int:
    """0: it has none."""
    with store.read() as connection:
        return int(connection.execute(select(func.max(case.c.id))).scalar_one() or 0)


def joined_since(store: Store, after: int) -> int:
    """Cases that came after that one."""
    with store.read() as connection:
        return int(
            connection.execute(
                select(func.count())
                .select_from(case)
                .where(case.c.id > after, case.c.forgotten_at.is_(None))
            ).scalar_one()
        )


def _named(
    delivery: str, against: Sequence[str] | None, known: Sequence[deliveries.Delivery]
) -> list[str]:
    tests = [one.name for one in known if one.standing == Standing.TEST_SET]
    if against is None:
        return [OWNED, *tests]
    names: list[str] = []
    for asked in against:
        if asked == TEST_SET and not tests:
            raise UsageError(
                "there is no test set: screen one as a delivery, then "
                "`diptych accept NAME --as test-set`"
            )
        if asked == delivery or asked not in (OWNED, TEST_SET, *(one.name for one in known)):
            raise UsageError(
                f"--against {asked}: owned, test-set, or another delivery that was screened"
            )
        names += tests if asked == TEST_SET else [asked]
    return list(dict.fromkeys(names))


def kind_of(name: str, known: Sequence[deliveries.Delivery]) -> Kind:
    """What is offered in another delivery would be paid for twice, as if it were owned."""
    tests = [one.name for one in known if one.standing == Standing.TEST_SET]
    return Kind.TEST_SET if name in tests else Kind.OWNED


def side_of(kind: Kind, name: str, cases: int, store: Store, embedder: Embedder) -> Side:
    """A collection as it is read; ``cases``: how many it had."""
    fingerprint_id = archive.fingerprint_id(
        store, embedder.fingerprint, embedder.model.name, embedder.dimension
    )
    return Side(Collection(kind, name, cases), store, fingerprint_id)
