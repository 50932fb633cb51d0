"""Which series were pulled from which archive, so that a pull goes on where it was cut off."""

from __future__ import annotations

import hashlib
import hmac

from sqlalchemy import Connection, insert, select, update

from diptych.audit import archive
from diptych.audit.schema import pull
from diptych.audit.store import Store, now


def is_done(store: Store, name: str, study: str, series: str) -> bool:
    """Whether this series came whole from the archive called ``name``."""
    with store.read() as connection:
        found = connection.execute(
            select(pull.c.failed).where(
                pull.c.archive == name, pull.c.series_hmac == _hmac(connection, study, series)
            )
        ).scalar_one_or_none()
        return found == 0


def write_down(
    store: Store, name: str, study: str, series: str, completed: int, failed: int
) -> None:
    """A retrieval ended: so many instances came, so many did not."""
    values = {"completed": completed, "failed": failed, "pulled_at": now()}
    with store.write() as connection:
        key = _hmac(connection, study, series)
        known = update(pull).where(pull.c.archive == name, pull.c.series_hmac == key)
        if connection.execute(known.values(**values)).rowcount == 0:
            connection.execute(insert(pull).values(archive=name, series_hmac=key, **values))


def _hmac(connection: Connection, study: str, series: str) -> str:
    """The site's key: a UID that is forgotten everywhere else must not stand here."""
    text = f"pull\n{study}\n{series}".encode()
    return hmac.new(archive.hmac_key(connection), text, hashlib.sha256).hexdigest()
