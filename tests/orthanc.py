"""Orthanc (the Debian package ``orthanc``) in a process of its own."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from running import program


class Orthanc:
    """An archive with the AE title ARCHIVE that knows one node, ``diptych``."""

    def __init__(
        self, folder: Path, dicom_port: int, http_port: int, node_port: int, **more: Any
    ) -> None:
        folder.mkdir()
        self.http_port = http_port
        node = {"AET": "DIPTYCH", "Host": "127.0.0.1", "Port": node_port}
        settings = {
            "StorageDirectory": str(folder / "db"),
            "IndexDirectory": str(folder / "db"),
            "Plugins": [],
            "DicomAet": "ARCHIVE",
            "DicomPort": dicom_port,
            "HttpPort": http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomModalities": {"diptych": node},
            **more,
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        with (folder / "log.txt").open("wb") as log:
            self.process = subprocess.Popen(
                [program("Orthanc"), folder / "orthanc.json"], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                self.get("/system")
                return
            except (urllib.error.URLError, ConnectionError):
                assert self.process.poll() is None, (folder / "log.txt").read_text()
                assert time.monotonic() < deadline, (folder / "log.txt").read_text()
                time.sleep(0.1)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}") as answer:
            return json.loads(answer.read())

    def post(self, path: str, body: Any) -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", data)
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read())

    def file(self, instance: str) -> bytes:
        """The Part 10 file of an instance, by Orthanc's own identifier."""
        url = f"http://127.0.0.1:{self.http_port}/instances/{instance}/file"
        with urllib.request.urlopen(url) as answer:
            content: bytes = answer.read()
        return content

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def orthanc(
    folder: Path, dicom_port: int, http_port: int, node_port: int, **more: Any
) -> Iterator[Orthanc]:
    """``more``: further settings of its configuration file."""
    made = Orthanc(folder, dicom_port, http_port, node_port, **more)
    try:
        yield made
    finally:
        made.close()
