"""DICOMDIR, manifests and URLs: what they name, and what they name that is not there."""

from __future__ import annotations

import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dicom_factory import dicom_slice, save_series
from diptych.errors import ConfigError, UsageError
from diptych.intake.materialise import materialise
from intake.deliveries import outcomes, tarred, zipped
from support import missing


@pytest.fixture
def medium(tmp_path):
    """A folder with a DICOMDIR by DCMTK that names five slices; a sixth it does not name."""
    if shutil.which("dcmmkdir") is None:
        missing("dcmmkdir (DCMTK)")
    folder = tmp_path / "medium"
    paths = save_series(
        folder,
        [
            dicom_slice(number=n, StudyID="1", StudyDate="20260101", StudyTime="1", SeriesNumber=1)
            for n in range(1, 7)
        ],
    )
    for number, path in enumerate(paths):
        path.rename(folder / f"IM{number}")
    names = [f"IM{number}" for number in range(5)]
    subprocess.run(["dcmmkdir", "-q", "--general-purpose", *names], cwd=folder, check=True)
    return folder


def test_a_dicomdir_stands_for_its_folder(medium, taken):
    assert outcomes(taken(medium / "DICOMDIR")) == {
        "readable": 6, "not-an-image: media-directory": 1,
    }  # fmt: skip


def test_what_a_dicomdir_names_and_is_not_there_is_said(medium, taken, tmp_path):
    (medium / "IM1").unlink()
    (medium / "IM3").rename(medium / "im3")
    catalogue = taken(medium)
    lacking = catalogue.db.execute("SELECT role, name FROM lacking").fetchall()
    assert lacking == [("dicomdir", "IM1")]
    assert outcomes(catalogue)["readable"] == 5
    files = {path.name: path.read_bytes() for path in medium.iterdir()}
    (tmp_path / "d.zip").write_bytes(zipped({"a.tar": tarred(files)}))
    catalogue = taken(tmp_path / "d.zip", out="zip")
    assert catalogue.db.execute("SELECT role, name FROM lacking").fetchall() == lacking


def test_a_manifest_names_files_and_what_they_cost(taken, tmp_path):
    save_series(tmp_path / "d" / "a", [dicom_slice(number=n) for n in range(1, 4)])
    save_series(tmp_path / "d" / "b", [dicom_slice(number=n) for n in range(4, 6)])
    outside = save_series(tmp_path / "elsewhere", [dicom_slice(number=9)])[0]
    (tmp_path / "d" / "escape").symlink_to(tmp_path / "elsewhere")
    manifest = tmp_path / "d" / "manifest.csv"
    manifest.write_text(
        "path, price, vendor\n"
        "a,12.50,Acme\nb/0000.dcm,3,\nnothing.dcm,,\n"
        f"../elsewhere/0000.dcm,,\n{outside},,\nescape/0000.dcm,,\n"
    )
    catalogue = taken(manifest)
    assert outcomes(catalogue) == {"readable": 4}
    rows = catalogue.db.execute("SELECT vendor, split, price FROM file ORDER BY where_").fetchall()
    assert rows == [("Acme", None, "12.50")] * 3 + [(None, None, "3")]
    absent = catalogue.db.execute("SELECT name, reason FROM absent ORDER BY 1").fetchall()
    assert absent == [
        ("../elsewhere/0000.dcm", "outside-the-inputs"), (str(outside), "outside-the-inputs"),
        ("escape/0000.dcm", "outside-the-inputs"), ("nothing.dcm", "not-there"),
    ]  # fmt: skip
    catalogue = taken(manifest, tmp_path / "elsewhere", out="both")
    assert outcomes(catalogue) == {"readable": 5}
    assert [row[0] for row in catalogue.db.execute("SELECT name FROM absent")] == ["nothing.dcm"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,price\nx,1\n", "column path"),
        ("path,price\n,1\n", "line 2 has no path"),
        ("path,price\nx,cheap\n", "is no price"),
        ("", "column path"),
    ],
)
def test_a_table_that_is_no_manifest_is_a_usage_error(text, words, taken, tmp_path):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(UsageError, match=words):
        taken(tmp_path / "m.csv")


def test_a_parquet_manifest_is_read_or_says_what_to_install(taken, tmp_path):
    save_series(tmp_path, [dicom_slice()])
    path = tmp_path / "m.parquet"
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        path.write_bytes(b"PAR1")
        with pytest.raises(ConfigError, match=r"diptych\[parquet\]"):
            taken(path)
        return
    table = pyarrow.table({"path": ["0000.dcm"], "split": ["test"], "price": [1.5]})
    pyarrow.parquet.write_table(table, path)
    catalogue = taken(path)
    assert catalogue.db.execute("SELECT vendor, split, price FROM file").fetchall() == [
        (None, "test", "1.5")
    ]


def test_urls_are_read_or_say_what_to_install(taken, tmp_path):
    served = tmp_path / "served"
    slices = save_series(served / "d" / "a", [dicom_slice(number=n) for n in range(1, 4)])
    packed = {str(n): path.read_bytes() for n, path in enumerate(slices)}
    (served / "d" / "x.zip").write_bytes(zipped({"in.tgz": tarred(packed, "gz")}))
    handler = partial(_Quiet, directory=served)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/d/"
        try:
            import aiohttp  # noqa: F401
            import fsspec  # noqa: F401
        except ImportError:
            with pytest.raises(ConfigError, match=r"diptych\[remote\]"):
                taken(url)
            server.shutdown()
            missing("fsspec and aiohttp (diptych[remote])")
        catalogue = taken(url)
        assert outcomes(catalogue) == {"readable": 6, "opened": 2}
        with materialise(catalogue.db, 1, catalogue.scratch) as paths:
            assert {path.read_bytes() for path in paths} == set(packed.values())
        with pytest.raises((UsageError, ConfigError)):
            taken(url + "nothing.dcm", out="no")
        server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass
