"""What becomes of a screened delivery: it joins what is owned, becomes a test set, or is forgotten.

Joining is one transaction a series, and a second try goes on where the first one was cut off.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sqlalchemy import select

from diptych.active import model_in_use
from diptych.audit import adopt, archive, chain, deliveries, forget
from diptych.audit.deliveries import Delivery, Standing
from diptych.audit.schema import case, fingerprint
from diptych.audit.store import Store
from diptych.config import Config
from diptych.data_folder import open_store
from diptych.errors import UsageError
from diptych.intake.catalogue import Catalogue
from diptych.judge import replay
from diptych.receive.spool import Spool
from diptych.screen import run
from diptych.screen.delivery import OWNED, About, Folder, Settings
from diptych.screen.sides import joined_since


@dataclass(frozen=True)
class Accepted:
    """series: that joined; cases: of these; before: series of which the same files had joined, in
    an earlier try or as another series of it. since: cases that joined what is owned after it was
    first judged, with which it was not compared."""

    series: int
    cases: int
    before: int
    since: int = 0


@dataclass(frozen=True)
class Gone:
    """What was forgotten. cases: of the main archive; joined: whether some had joined it, that an
    earlier try forgot, perhaps."""

    cases: int
    joined: bool


def everything(config: Config) -> list[Delivery]:
    """All deliveries, by name."""
    store = open_store(config)
    try:
        with store.read() as connection:
            return deliveries.everything(connection)
    finally:
        store.close()


def accept(config: Config, name: str, standing: Standing) -> Accepted:
    """candidate → owned or test set. Raises UsageError when it is none, or was not judged whole."""
    folder = Folder(config, name)
    main = open_store(config)
    try:
        found = _found(main, name)
        if found.standing != Standing.CANDIDATE:
            raise UsageError(f"{name} was accepted before, as {found.standing}")
        # Its lock: nobody screens it meanwhile.
        with Catalogue(folder.path) as catalogue:
            own = folder.open_store(main)
            try:
                _refuse_unfinished(folder, catalogue, own)
                about = folder.about()
                settings = about.settings
                if settings.fingerprint != model_in_use(config, main).fingerprint:
                    raise UsageError(
                        f"{name} was screened by another model than the one in use, which would "
                        "find nothing of it: run the same `diptych screen` again first"
                    )
                accepted = Accepted(0, 0, 0)
                if standing == Standing.OWNED:
                    since = _since(main, found, about)
                    accepted = replace(_join(main, own, found, settings), since=since)
            finally:
                own.close()
            with main.write() as connection:
                deliveries.accept(connection, found, standing)
                head = chain.head(connection)
        chain.write_head(config.data / "audit-heads.jsonl", *head)
        return accepted
    finally:
        main.close()


def forget_delivery(config: Config, name: str, promised_too: bool = False) -> Gone:
    """Remove every trace of it but the chained events; what joined what is owned goes, too.

    Raises UsageError, Promised (as ``forget.forget``).
    """
    folder = Folder(config, name)
    main = open_store(config)
    try:
        found = _found(main, name)
        with main.read() as connection:
            cases = deliveries.cases(connection, found)
            present = archive.present(connection, cases)
        spool = Spool(config.spool_folder, config.source_names())
        gone: set[int] = set()
        for case_id in sorted(present):
            if case_id not in gone:
                forgotten = forget.forget(main, case_id, promised_too)
                gone |= set(forgotten.cases)
                for locator in forgotten.locators:
                    spool.remove(locator)
        if folder.path.exists():
            with Catalogue(folder.path):
                folder.remove()
        deliveries.remove(main, found, {"cases": len(gone)})
        return Gone(len(gone), bool(cases))
    finally:
        main.close()


def _found(main: Store, name: str) -> Delivery:
    with main.read() as connection:
        found = deliveries.find(connection, name)
        known = [one.name for one in deliveries.everything(connection)]
    if found is None:
        there = f"there are {', '.join(known)}" if known else "nothing was screened yet"
        raise UsageError(f"no delivery {name}: {there}")
    return found


def _refuse_unfinished(folder: Folder, catalogue: Catalogue, own: Store) -> None:
    wanted = {row.key for row in run.rows(catalogue.db)} - catalogue.unjudged().keys()
    left = len(wanted ^ deliveries.judged_sources(own)) if folder.exists else len(wanted)
    if left or not folder.exists or not catalogue.whole:
        raise UsageError(
            f"{folder.name} was not judged whole ({left} series are left): "
            "run the same `diptych screen` again first"
        )


def _since(main: Store, found: Delivery, about: About) -> int:
    newest = dict(zip(about.settings.against, about.newest, strict=True))
    with main.read() as connection:
        ours = len(deliveries.cases(connection, found))  # of a try that was cut off
    return joined_since(main, newest[OWNED]) - ours if OWNED in newest else 0


def _join(main: Store, own: Store, found: Delivery, settings: Settings) -> Accepted:
    with own.read() as theirs:
        model = theirs.execute(
            select(fingerprint).where(fingerprint.c.fingerprint == settings.fingerprint)
        ).one()
        rows = adopt.series_of(theirs)
        sources = adopt.sources(theirs, rows, found.name)
    with main.read() as connection:
        owned = connection.execute(select(case.c.id).where(case.c.forgotten_at.is_(None))).first()
        joined = deliveries.cases(connection, found)
    if owned is not None and not joined and adopt.OWNED not in settings.against:
        raise UsageError(
            f"{found.name} was not compared with what is owned: screen it again, --against owned"
        )
    our_fingerprint = archive.fingerprint_id(main, model.fingerprint, model.model, model.dimension)
    series = cases = 0
    for row in rows:
        if row.id not in sources:
            continue
        with own.read() as theirs, main.write() as ours:
            made = adopt.adopt(
                ours, theirs, row, sources, our_fingerprint, model.id, replay.renumbered
            )
            deliveries.join(ours, found, made)
        series += bool(made)
        cases += len(made)
    return Accepted(series, cases, len(rows) - series)
