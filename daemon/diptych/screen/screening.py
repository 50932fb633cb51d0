"""One screening from beginning to end: inputs → catalogue → verdicts → a ``Screening``.

The main archive is only read, but for the row of the delivery and one chained event; a daemon may
run beside it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic

from diptych import policies
from diptych.active import model_in_use
from diptych.audit import archive, chain, deliveries
from diptych.audit.deliveries import Standing
from diptych.audit.store import Store
from diptych.beside import Beside
from diptych.config import Config
from diptych.data_folder import open_store
from diptych.embed.session import Embedder
from diptych.errors import UsageError
from diptych.intake.catalogue import Catalogue
from diptych.intake.limits import Limits
from diptych.intake.listing import list_inputs
from diptych.intake.take import Progress as Reading
from diptych.intake.take import take_in
from diptych.lookup import Indexes
from diptych.screen import reading, run
from diptych.screen.delivery import OWNED, Folder, Settings
from diptych.screen.findings import Collection, Kind, Screening
from diptych.screen.headers import Headers
from diptych.screen.report.given import Pictures
from diptych.screen.sides import (
    joined_since,
    kind_of,
    newest_case,
    open_sides,
    side_of,
    uuid_of,
)
from diptych.worker import open_index, open_layouts

STOPPED = "the limits were exceeded, whatever would have followed"
# How often it is asked whether the limits are exceeded: not before so many seconds, nor before so
# many times what the last answer took, as each reads all that was found.
_ASK_SECONDS = 10.0
_ASK_TIMES = 20


@dataclass(frozen=True)
class Wanted:
    """What is asked for. against: "owned", "test-set" (all there are), or a delivery's name; None:
    all that there is. pass_over: folders inside the inputs that are ours, such as the report's.
    splits: (input, split)."""

    name: str
    vendor: str
    inputs: tuple[str, ...]
    against: tuple[str, ...] | None = None
    pass_over: tuple[Path, ...] = ()
    splits: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Done:
    """A screening, and the pictures of its cases while its archives are open."""

    screening: Screening
    pictures: Pictures


@contextmanager
def screen(
    config: Config,
    wanted: Wanted,
    *,
    tell_reading: Callable[[Reading], None] = lambda _: None,
    tell: Callable[[run.Progress], None] = lambda _: None,
    warn: Callable[[str], None] = lambda _: None,
    enough: Callable[[Screening], bool] | None = None,
    limits: Limits | None = None,
) -> Iterator[Done]:
    """Judge what is not judged yet. ``enough`` hears the findings so far, and may end it; ``warn``
    what is not as who runs it again may think.

    After Ctrl-C, too, what is known is given, with ``stopped`` saying so. Raises UsageError,
    ConfigError, ModelError, StoreError.
    """
    folder = Folder(config, wanted.name)
    config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ExitStack() as stack:
        main = open_store(config)
        stack.callback(main.close)
        _check_name(config, main, wanted.name)
        embedder = Embedder(model_in_use(config, main), threads=os.cpu_count() or 1)
        with main.read() as connection:
            chosen = policies.in_use(connection)
        sides = open_sides(config, main, wanted.name, wanted.against, embedder, stack)
        inputs, ours = list(wanted.inputs), (config.data, *wanted.pass_over)
        list_inputs(inputs, (folder.path, *ours), dict(wanted.splits))  # before there is a delivery
        found = deliveries.register(main, wanted.name, wanted.vendor)
        folder.make()
        catalogue = stack.enter_context(
            take_in(
                inputs,
                folder.path,
                limits,
                readers=os.cpu_count(),
                tell=tell_reading,
                pass_over=ours,
                splits=dict(wanted.splits),
            )
        )
        policy = chosen.under(embedder.model.d_max)
        stores = [side.store for side, _ in sides.values()]
        settings = Settings(
            embedder.fingerprint, policy.label, tuple(sides), tuple(map(uuid_of, stores))
        )
        newest = tuple(map(newest_case, stores))
        about, anew = folder.begin(settings, wanted.inputs, newest)
        own = folder.open_store(main)
        rows = run.rows(catalogue.db)
        if deliveries.judged_sources(own) - {row.key for row in rows}:
            # Others were called copies of what is not there any more.
            own.close()
            folder.clear()
            about, _ = folder.begin(settings, wanted.inputs, newest)
            anew, own = True, folder.open_store(main)
        stack.callback(own.close)
        if anew:
            warn(
                f"all of {wanted.name} is judged again: since the last run files changed or went, "
                "or the model, the policy or what it is compared with is another one"
            )
        for name, store, known in zip(sides, stores, about.newest, strict=True):
            if joined := joined_since(store, known):
                cases = "1 case" if joined == 1 else f"{joined:,} cases"
                warn(
                    f"{cases} of {name} joined it since {wanted.name} was first judged; "
                    "what was judged before is not compared with them: "
                    f"`diptych forget --delivery {wanted.name}` and this again would"
                )
        policies.resolve(own, chosen, embedder.model.d_max)
        of = reading.Delivery(
            name=wanted.name,
            vendor=found.vendor,
            about=about,
            catalogue=catalogue,
            rows=rows,
            own=side_of(Kind.DELIVERY, reading.DELIVERY, 0, own, embedder),
            sides={name: side for name, (side, _) in sides.items()},
            headers=Headers(config),
            policy=policy,
            model=embedder.model.name,
        )
        others = [
            Beside(
                name,
                side.store,
                Indexes(
                    open_index(where, side.store, embedder, side.fingerprint_id),
                    open_layouts(where, side.store),
                ),
                side.fingerprint_id,
            )
            for name, (side, where) in sides.items()
        ]
        begun = monotonic()
        stopped = ""
        try:
            tools = run.Tools(embedder, policy, others)
            asked = _Every(
                _ASK_SECONDS, lambda: enough is not None and enough(reading.screening(of))
            )
            if not run.judge(folder, catalogue, rows, own, tools, tell, asked):
                stopped = STOPPED
        except KeyboardInterrupt:
            stopped = "interrupted"
        about = replace(about, seconds=about.seconds + monotonic() - begun)
        folder.write(about)
        screening = reading.screening(replace(of, about=about, stopped=stopped))
        _say(main, own, screening)
        yield Done(screening, reading.pictures(of, embedder.dimension))


def past(config: Config, name: str) -> Screening:
    """A delivery that was screened, as it stands. Raises UsageError, ConfigError."""
    folder = Folder(config, name)
    with ExitStack() as stack:
        main = open_store(config)
        stack.callback(main.close)
        with main.read() as connection:
            known = deliveries.everything(connection)
            chosen = policies.in_use(connection)
        found = next((one for one in known if one.name == name), None)
        if found is None or not folder.exists:
            raise UsageError(f"no delivery {name} was screened: `diptych deliveries` lists them")
        about = folder.about()
        entry = model_in_use(config, main)
        catalogue = stack.enter_context(Catalogue(folder.path))
        if not catalogue.whole:
            raise UsageError(
                f"{name} was being read when `diptych screen` was cut off: "
                "run the same `diptych screen` again first"
            )
        stores = {name: folder.open_store(main)}
        stack.callback(stores[name].close)
        for other, archive_uuid in zip(
            about.settings.against, about.settings.archives, strict=True
        ):
            store = main
            if other != OWNED:
                there = Folder(config, other)
                if not there.has_archive:
                    continue
                store = there.open_store(main)
                stack.callback(store.close)
            if uuid_of(store) == archive_uuid:
                stores[other] = store
        sides = {}
        for other, store in stores.items():
            with store.read() as connection:
                fingerprint_id = archive.known_fingerprint(connection, about.settings.fingerprint)
            kept = Collection(kind_of(other, known), other, 0)
            sides[other] = reading.Side(kept, store, fingerprint_id or 0)
        own = sides.pop(name)
        return reading.screening(
            reading.Delivery(
                name=name,
                vendor=found.vendor,
                about=about,
                catalogue=catalogue,
                rows=run.rows(catalogue.db),
                own=own,
                sides=sides,
                headers=Headers(config),
                policy=chosen.under(entry.d_max),
                model=entry.name,
            )
        )


def _check_name(config: Config, main: Store, name: str) -> None:
    """Raises UsageError when nothing can be screened under this name any more."""
    if name in config.source_names():
        raise UsageError(f"{name} is a source of the configuration: choose another name")
    with main.read() as connection:
        found = deliveries.find(connection, name)
        if found is None:
            return
        if found.standing != Standing.CANDIDATE:
            raise UsageError(
                f"{name} was accepted as {found.standing}: screen under another name, or "
                f"`diptych forget --delivery {name}` first"
            )
        if deliveries.cases(connection, found):
            raise UsageError(
                f"a part of {name} is owned, as `diptych accept` was cut off: `diptych accept "
                f"{name}` ends that, `diptych forget --delivery {name}` undoes it"
            )


def _say(main: Store, own: Store, screening: Screening) -> None:
    """One event in the main chain: the head of the delivery's own, which it binds."""
    with own.read() as connection:
        seq, head = chain.head(connection)
    with main.write() as connection:
        deliveries.say(
            connection,
            "screened",
            screening.delivery,
            {
                "series": len(screening.series),
                "judged": sum(one.judged for one in screening.series),
                "events": seq,
                "head": head,
            },
        )


class _Every:
    """Asks at most so often; says no in between."""

    def __init__(self, seconds: float, ask: Callable[[], bool]) -> None:
        self._seconds, self._ask, self._next = seconds, ask, monotonic() + seconds

    def __call__(self) -> bool:
        begun = monotonic()
        if begun < self._next:
            return False
        answer = self._ask()
        ended = monotonic()
        self._next = ended + max(self._seconds, _ASK_TIMES * (ended - begun))
        return answer
