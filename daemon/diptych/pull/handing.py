"""Instances that come over a C-GET, handed to the running daemon before they are answered.

The daemon's listener stays the only one that writes instances and receipts: sources, limits,
back-pressure, metrics and the order fsync, rename, commit are its own, whoever brings them. What it
answers is what the archive is answered.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from pynetdicom import AE, build_context
from pynetdicom.association import Association
from pynetdicom.status import code_to_category

from diptych.calling import NoTls, associate
from diptych.config import Config
from diptych.errors import ConfigError, StoreError
from diptych.receive import pynetdicom_hooks
from diptych.receive.listener import (
    CANNOT_UNDERSTAND,
    OUT_OF_RESOURCES,
    application_entity,
    storage_sop_classes,
)
from diptych.receive.spool import Part, Spool

# The daemon is on this machine; a large instance takes long to sync.
CONNECT_SECONDS = 30.0
ANSWER_SECONDS = 300.0
# PS3.7 section 9.1.1.1.9, SOP class not supported: the daemon accepts no context for it.
NOT_SUPPORTED = 0x0122
_REJECTED_TRANSIENT = 0x02


class NotTaken(ConfigError):
    """The daemon is away, or takes nothing now."""


class Handing:
    """Hands on what comes over one association after the other: ``begin``, ``on_store`` …, ``end``.

    It calls the listener by the archive's AE title from this machine, so that the same source is
    named as if the archive had sent by itself.
    """

    def __init__(self, config: Config, archive_ae_title: str) -> None:
        """Raises ConfigError when no daemon runs on the data folder."""
        self._config, self._title = config, archive_ae_title
        storage = set(storage_sop_classes(config))
        # Storage SOP class → transfer syntaxes that the daemon takes.
        self.taken: Mapping[str, list[str]] = {
            str(context.abstract_syntax): [str(uid) for uid in context.transfer_syntax]
            for context in application_entity(config).supported_contexts
            if context.abstract_syntax in storage
        }
        self._spool = Spool(config.spool_folder, config.source_names())
        # Transfers in flight lie where the daemon's do, and go with them when they are orphans.
        self._incarnation = uuid.uuid4().hex
        self._parts: list[Part] = []
        self._lost = ""
        self._handed = 0
        self._to_daemon: Association | None = None
        pynetdicom_hooks.receive_into(self._new_part)
        pynetdicom_hooks.send_files_as_they_are()
        self._port()

    def begin(self, archive: Association) -> None:
        """Open an association to the daemon for what ``archive`` may send. Raises NotTaken, and
        ConfigError where the daemon does not let us in."""
        self._handed, self._lost = 0, ""
        ae = AE(ae_title=self._title)
        ae.acse_timeout = ae.connection_timeout = CONNECT_SECONDS
        ae.dimse_timeout = ae.network_timeout = ANSWER_SECONDS
        host = self._config.dicom.local
        contexts = [
            build_context(context.abstract_syntax, context.transfer_syntax)
            for context in archive.accepted_contexts
            if context.abstract_syntax in self.taken
        ]
        if not contexts:
            return  # the archive has nothing to send over, and says so by its failed instances
        try:
            self._to_daemon = associate(
                ae,
                host,
                self._port(),
                self._config.dicom.ae_title,
                self._config.dicom.locally,
                contexts=contexts,
            )
        except NoTls as error:
            raise NotTaken(f"our own listener: {error}") from error
        if self._to_daemon.is_established:
            return
        if not self._to_daemon.is_rejected:
            raise NotTaken("our own listener cannot be reached")
        answer = self._to_daemon.acceptor.primitive
        if answer is not None and answer.result == _REJECTED_TRANSIENT:
            raise NotTaken("our own listener takes no association for now")
        raise ConfigError(
            f"our own listener rejects {self._title!r} from {host}: what comes over C-GET is "
            "handed to it under the archive's AE title from this machine; let it in with "
            f'[[source]] name = "…", ae_titles = ["{self._title}"], networks = ["{host}"]'
        )

    def on_store(self, event: Any) -> int:
        """Hand on one instance; returns what the daemon answers."""
        part = pynetdicom_hooks.part_of(event.request)
        if part is None:
            return CANNOT_UNDERSTAND
        try:
            if self._lost or self._to_daemon is None:
                return OUT_OF_RESOURCES
            part.sync()  # the library sends a file; what is small is in memory until here
            answer = self._to_daemon.send_c_store(part.path)
            if "Status" not in answer:
                self._lost = "our own listener did not answer"
                return OUT_OF_RESOURCES
            status = int(answer.Status)
            if status & 0xFF00 == OUT_OF_RESOURCES:
                self._lost = f"our own listener answers 0x{status:04X}, out of resources"
            self._handed += code_to_category(status) in ("Success", "Warning")
            return status
        except (RuntimeError, StoreError, OSError) as error:
            self._lost = f"an instance cannot be handed on: {type(error).__name__}"
            return OUT_OF_RESOURCES
        except ValueError:
            return NOT_SUPPORTED
        finally:
            part.discard()
            self._parts.remove(part)

    def check(self) -> None:
        """Raises NotTaken after an instance that the daemon could not take for now."""
        if self._lost:
            raise NotTaken(self._lost)

    def end(self) -> int:
        """Close the association to the daemon; returns how many instances it took."""
        if self._to_daemon is not None and self._to_daemon.is_established:
            self._to_daemon.release()
        self._to_daemon = None
        for part in list(self._parts):  # cut off in the middle of one
            part.discard()
        self._parts.clear()
        return self._handed

    def _new_part(self, _: Association) -> Part:
        part = self._spool.part(self._incarnation, "pull")
        self._parts.append(part)
        return part

    def _port(self) -> int:
        path = self._config.data / "ports.json"
        try:
            return int(json.loads(path.read_text("ascii"))["dicom"])
        except (OSError, ValueError, KeyError) as error:
            raise NotTaken(
                f"no daemon is ready on {self._config.data}, and --get hands it what comes: start "
                "`diptych serve`"
            ) from error
