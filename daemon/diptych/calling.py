"""Associations that we open, over TLS where it is asked for and then never without."""

from __future__ import annotations

from typing import Any

from pynetdicom import AE
from pynetdicom.association import Association

from diptych.errors import ConfigError, DiptychError
from diptych.tls import Caller


class NoTls(DiptychError):
    """TLS could not be agreed on with the peer; the message says why."""


def associate(
    ae: AE, host: str, port: int, ae_title: str, caller: Caller | None, **more: Any
) -> Association:
    """As ``AE.associate``; caller: how it is called over TLS, None: without. Raises NoTls."""
    try:
        secured = caller.context() if caller else None
    except ConfigError as error:
        raise NoTls(str(error)) from error
    association = ae.associate(
        host, port, ae_title=ae_title, tls_args=secured and (secured, host), **more
    )
    if secured is not None and secured.failure and not association.is_established:
        raise NoTls(f"no TLS with {host}:{port}: {secured.failure}")
    return association
