"""What an archive is asked: C-FIND, C-MOVE and C-GET of the Study Root (PS3.4 annex C).

Both bring a series to the running daemon. With C-MOVE the archive sends to the daemon's listener;
with C-GET it sends over our own association, and each instance is handed on before it is answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, StoragePresentationContexts, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)
from pynetdicom.status import code_to_category

from diptych.calling import NoTls, associate
from diptych.errors import ConfigError
from diptych.log import get_logger
from diptych.pull.handing import Handing, NotTaken
from diptych.tls import Caller

log = get_logger(__name__)

# A whole series may take this long between two answers of the archive.
MOVE_SECONDS = 600.0
CONNECT_SECONDS = 30.0
# PS3.8 section 9.3.2.2: odd numbers up to 255; one is that of C-GET itself.
MOST_STORAGE_CONTEXTS = 127


class ArchiveError(ConfigError):
    """The archive refuses what it is asked; trying again will not help."""


class Unreachable(ConfigError):
    """The archive cannot be reached, or ended the association."""


@dataclass(frozen=True)
class Archive:
    """Who is asked, by which title we call it, and where it sends to: our listener's title.

    tls: how it is called, None: without TLS.
    """

    host: str
    port: int
    ae_title: str
    calling_ae_title: str
    destination: str
    tls: Caller | None = None

    @property
    def name(self) -> str:
        """What the progress of a pull is kept under."""
        return f"{self.ae_title}@{self.host}:{self.port}"


@dataclass(frozen=True)
class Series:
    """A series of an archive."""

    study: str
    uid: str


class Asking:
    """Asks one archive, over an association each. Raises ArchiveError and Unreachable."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._ae = AE(ae_title=archive.calling_ae_title)
        self._ae.acse_timeout = self._ae.connection_timeout = CONNECT_SECONDS
        self._ae.dimse_timeout = self._ae.network_timeout = MOVE_SECONDS

    def studies(self, day: date) -> list[str]:
        """The StudyInstanceUIDs of a StudyDate."""
        query = Dataset()
        query.QueryRetrieveLevel = "STUDY"
        query.StudyDate = day.strftime("%Y%m%d")
        query.StudyInstanceUID = ""
        return list(dict.fromkeys(str(found.StudyInstanceUID) for found in self._find(query)))

    def series(self, study: str, modalities: frozenset[str]) -> list[Series]:
        """The series of a study; no modalities: all."""
        query = Dataset()
        query.QueryRetrieveLevel = "SERIES"
        query.StudyInstanceUID = study
        query.SeriesInstanceUID = ""
        query.Modality = ""
        return [
            Series(study, str(found.SeriesInstanceUID))
            for found in self._find(query)
            if "SeriesInstanceUID" in found
            and (not modalities or found.get("Modality") in modalities)
        ]

    def move(self, series: Series) -> tuple[int, int]:
        """Completed and failed sub-operations of a C-MOVE (PS3.4 section C.4.2)."""
        association = self._associate([build_context(StudyRootQueryRetrieveInformationModelMove)])
        last = Dataset()
        try:
            for answer, _ in association.send_c_move(
                _of(series), self._archive.destination, StudyRootQueryRetrieveInformationModelMove
            ):
                last = answer
        except ValueError as error:
            raise ArchiveError("the archive does not offer Study Root C-MOVE") from error
        finally:
            _end(association)
        if last.get("Status") == 0xA801:
            raise ArchiveError(
                f"the archive does not know the AE title {self._archive.destination!r} to send to: "
                "add it there, with this node's address and port, or fetch with --get"
            )
        failed = _failed(last, "C-MOVE")
        return int(last.get("NumberOfCompletedSuboperations") or 0), failed

    def get(self, series: Series, handing: Handing) -> tuple[int, int]:
        """What the daemon took and what failed of a C-GET (PS3.4 section C.4.3)."""
        classes = self._sop_classes(series)
        contexts = storage_contexts(classes, handing.taken)
        association = self._associate(
            [build_context(StudyRootQueryRetrieveInformationModelGet), *contexts],
            ext_neg=[
                build_role(uid, scp_role=True)
                for uid in dict.fromkeys(context.abstract_syntax for context in contexts)
            ],
            evt_handlers=[(evt.EVT_C_STORE, handing.on_store)],
        )
        last = Dataset()
        try:
            handing.begin(association)
            for answer, _ in association.send_c_get(
                _of(series), StudyRootQueryRetrieveInformationModelGet
            ):
                last = answer
                handing.check()
            handing.check()
        except ValueError as error:
            raise ArchiveError("the archive does not offer Study Root C-GET") from error
        except NotTaken as error:
            association.abort()
            raise Unreachable(str(error)) from error
        finally:
            _end(association)
            taken = handing.end()
        return taken, _failed(last, "C-GET")

    def _sop_classes(self, series: Series) -> list[str]:
        """Those of the series' instances, as far as the archive says them (an optional key)."""
        query = _of(series)
        query.QueryRetrieveLevel = "IMAGE"
        query.SOPInstanceUID = query.SOPClassUID = ""
        said = (str(found.get("SOPClassUID") or "") for found in self._find(query))
        return [uid for uid in dict.fromkeys(said) if uid]

    def _find(self, query: Dataset) -> list[Dataset]:
        association = self._associate([build_context(StudyRootQueryRetrieveInformationModelFind)])
        try:
            return list(
                _answers(association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind))
            )
        except ValueError as error:
            raise ArchiveError("the archive does not offer Study Root C-FIND") from error
        finally:
            _end(association)

    def _associate(self, contexts: list[Any], **more: Any) -> Association:
        where = self._archive
        try:
            association = associate(
                self._ae,
                where.host,
                where.port,
                where.ae_title,
                where.tls,
                contexts=contexts,
                **more,
            )
        except NoTls as error:
            raise Unreachable(str(error)) from error
        if association.is_established:
            return association
        if association.is_rejected:
            raise Unreachable(
                f"the archive rejects {where.calling_ae_title!r}: let it in there, or name another "
                "title with --calling"
            )
        raise Unreachable(f"{where.host}:{where.port} cannot be reached")


def storage_contexts(classes: list[str], taken: Mapping[str, list[str]]) -> list[Any]:
    """taken: SOP class → transfer syntaxes that the daemon takes.

    A context for each transfer syntax, so that the archive can send what it has as it is; where
    these are too many, one for each class, and the archive chooses the syntax.
    """
    wanted = classes or [str(context.abstract_syntax) for context in StoragePresentationContexts]
    wanted = [uid for uid in wanted if uid in taken]
    one_each = [build_context(uid, [syntax]) for uid in wanted for syntax in taken[uid]]
    if len(one_each) <= MOST_STORAGE_CONTEXTS:
        return one_each
    return [build_context(uid, taken[uid]) for uid in wanted[:MOST_STORAGE_CONTEXTS]]


def _of(series: Series) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = "SERIES"
    query.StudyInstanceUID = series.study
    query.SeriesInstanceUID = series.uid
    return query


def _failed(last: Dataset, what: str) -> int:
    """Failed sub-operations by the last answer. Raises Unreachable where there was none."""
    if "Status" not in last:
        raise Unreachable(f"the archive did not finish a {what}")
    failed = int(last.get("NumberOfFailedSuboperations") or 0)
    if code_to_category(int(last.Status)) in ("Failure", "Cancel"):
        log.warning("pull-refused", status=f"0x{int(last.Status):04X}")
        return max(failed, 1)
    return failed


def _answers(responses: Iterator[tuple[Dataset, Dataset | None]]) -> Iterator[Dataset]:
    for answer, found in responses:
        if "Status" not in answer:
            raise Unreachable("the archive did not finish a C-FIND")
        category = code_to_category(int(answer.Status))
        if category == "Pending" and found is not None:
            yield found
        elif category not in ("Pending", "Success"):
            raise ArchiveError(f"the archive answers a C-FIND with 0x{int(answer.Status):04X}")


def _end(association: Association) -> None:
    if association.is_established:
        association.release()
