"""The policies an archive knows, and the one in use.

A name and a version stand for one set of numbers, for good: other numbers need a higher version.
``bundled`` is the one that ships, and is always there.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from diptych.audit import policies as rows
from diptych.audit.store import Store
from diptych.errors import ConfigError, UsageError
from diptych.judge.definition import BUNDLED, LARGEST_VERSION, Definition, read_json
from diptych.judge.policy import Policy


@dataclass(frozen=True)
class Known:
    """One policy. definition: None when its row cannot be read, and ``problem`` says why.
    added_at: UTC microseconds; None: never written down yet, as the one that ships at first."""

    title: str
    definition: Definition | None
    sha256: str
    added_at: int | None
    problem: str = ""


def known(connection: Connection | None) -> list[Known]:
    """All of them, by name and version; without an archive the one that ships."""
    found: dict[str, Known] = {}
    for row in rows.rows(connection) if connection is not None else ():
        title = row.label.partition("+")[0]
        if title not in found:
            found[title] = _known(title, row)
    shipped = found.get(BUNDLED.title)
    found[BUNDLED.title] = Known(
        BUNDLED.title, BUNDLED, BUNDLED.sha256(), shipped.added_at if shipped else None
    )
    return sorted(found.values(), key=_order)


def find(connection: Connection | None, title: str) -> Known:
    """By NAME/VERSION. Raises UsageError; also when it cannot be read."""
    everything = {one.title: one for one in known(connection)}
    if title not in everything:
        raise UsageError(
            f"no policy {title!r}: there are {', '.join(everything)}; "
            "`diptych policy add FILE.toml` adds one"
        )
    if everything[title].definition is None:
        raise UsageError(f"policy {title}: {everything[title].problem}")
    return everything[title]


def definition(connection: Connection, title: str) -> Definition:
    """The same without what surrounds it."""
    found = find(connection, title).definition
    assert found is not None
    return found


def add(store: Store, new: Definition) -> bool:
    """Write a policy down; False: this very one is there. Raises UsageError."""
    name, version = new.key
    if name == BUNDLED.key[0]:
        raise UsageError(f"the name {name!r} is that of the policy that ships: choose another")
    with store.write() as connection:
        same = [one for one in known(connection) if one.title.rpartition("/")[0] == name]
        highest = max((_order(one)[2] for one in same), default=0)
        for one in same:
            if one.title == new.title and one.definition == new:
                return False
        if version <= highest:
            raise UsageError(_needs_a_higher_version(new, same, highest))
        rows.register(connection, new.label, new.canonical_json())
    return True


def use(store: Store, title: str) -> bool:
    """Put a policy in use; False: it was already. Raises UsageError."""
    with store.write() as connection:
        chosen = definition(connection, title)
        try:
            if in_use(connection) == chosen:
                return False
        except ConfigError:
            pass  # this is the way out
        rows.register(connection, chosen.label, chosen.canonical_json())
        rows.use(connection, chosen.label, chosen.sha256())
    return True


def in_use(connection: Connection | None) -> Definition:
    """What is judged by now. Raises ConfigError with the way out."""
    chosen = None if connection is None else rows.in_use(connection)
    if connection is None or chosen is None:
        return BUNDLED
    way_out = "put another in use with `diptych policy use NAME/VERSION`"
    for row in rows.rows(connection):
        if row.sha256 == chosen.sha256:
            try:
                return read_json(row.payload)
            except ValueError as error:
                raise ConfigError(f"policy {chosen.label}: {error}; {way_out}") from error
    raise ConfigError(f"policy {chosen.label} is in use and its row is gone; {way_out}")


def resolve(store: Store, chosen: Definition, d_max: float) -> Policy:
    """The policy to judge by under a model, written down before any verdict names it."""
    policy = chosen.under(d_max)
    with store.write() as connection:
        rows.register(connection, chosen.label, chosen.canonical_json())
        rows.register(connection, policy.label, policy.canonical_json())
    return policy


def _known(title: str, row: rows.Row) -> Known:
    try:
        return Known(title, read_json(row.payload), row.sha256, row.created_at)
    except ValueError as error:
        return Known(title, None, row.sha256, row.created_at, f"cannot be read: {error}")


def _order(one: Known) -> tuple[bool, str, int]:
    """The one that ships first, then by name and version."""
    name, _, version = one.title.rpartition("/")
    return (name != BUNDLED.key[0], name, int(version) if version.isdigit() else 0)


def _needs_a_higher_version(new: Definition, same: list[Known], highest: int) -> str:
    words = f"give it version {highest + 1}" if highest < LARGEST_VERSION else "choose a new name"
    for one in same:
        if one.title == new.title and one.definition is not None:
            theirs, ours = one.definition.values(), new.values()
            differ = ", ".join(
                f"{field} {_said(theirs[field])}, not {_said(ours[field])}"
                for field in theirs
                if theirs[field] != ours[field]
            )
            return f"{new.title} is there with other numbers ({differ}): {words}"
    return f"{new.key[0]}/{highest} is there, and a version only goes up: {words}"


def _said(value: object) -> str:
    return "the model's" if value is None else str(value)
