"""A report is whole or not there, the same for the same findings, and signed."""

from __future__ import annotations

import json
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from diptych.cli import app
from diptych.errors import ConfigError, UsageError
from diptych.screen.report import page, seal
from screen import delivered
from screen.delivered import KEY

OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))


def verify(*arguments):
    return CliRunner().invoke(app, ["report", "verify", *map(str, arguments)])


@pytest.fixture
def mine(make_report, tmp_path):
    return make_report(tmp_path / "report")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_findings_give_the_same_bytes_but_for_times(make_report, tmp_path):
    pictures = delivered.PICTURES
    one = contents(make_report(tmp_path / "one", pictures=pictures))
    assert contents(make_report(tmp_path / "two", pictures=pictures)) == one
    later = delivered.screening(began=1_800_000_000_000_000, ended=1_800_000_100_000_000, seconds=9)
    other = contents(make_report(tmp_path / "three", later, pictures=pictures))
    assert {name for name in one if one[name] != other[name]} == {
        "index.html", "summary.json", "manifest.sha256", "manifest.sha256.sig",
    }  # fmt: skip
    lines = [zip(*(c["index.html"].splitlines() for c in (one, other)), strict=True)]
    assert [a for a, b in lines[0] if a != b] == [
        b'<p class="soft" id="times">Screened from 2026-09-21T14:13:20Z to 2026-09-21T14:28:20Z, '
        b"15 min.</p>"
    ]
    ours, theirs = (json.loads(c["summary.json"]) for c in (one, other))
    assert ours.pop("times") != theirs.pop("times")
    assert ours == theirs


def test_a_report_is_as_signed_and_other_programs_say_so_too(mine):
    found = verify(mine)
    assert found.exit_code == 0
    assert seal.fingerprint(KEY.public_key()) in found.stdout
    assert "Who signed is not shown" in found.stdout
    subprocess.run(
        ["sha256sum", "--quiet", "--strict", "-c", "manifest.sha256"], cwd=mine, check=True
    )
    command = "openssl pkeyutl -verify -pubin -inkey report.pub.pem -rawin -in manifest.sha256"
    subprocess.run(
        [*command.split(), "-sigfile", "manifest.sha256.sig"],
        cwd=mine,
        check=True,
        capture_output=True,
    )


def test_each_changed_missing_and_extra_file_is_named(mine):
    with (mine / "pairs.csv").open("a") as file:
        file.write("\n")
    (mine / "groups.json").unlink()
    (mine / "more\nfiles").touch()
    found = verify(mine)
    assert found.exit_code == 1
    assert found.stderr.splitlines() == [
        "missing: groups.json",
        "extra: more files",
        "changed: pairs.csv",
        "NOT as signed: 3 found",
    ]


def test_a_list_that_was_rewritten_is_not_what_was_signed(mine):
    (mine / "pairs.csv").write_text("series\n")
    lines = [f"{seal._sha256(mine / name)}  {name}\n" for name in sorted(seal._files(mine))]
    (mine / "manifest.sha256").write_text("".join(lines))
    found = verify(mine)
    assert found.exit_code == 1
    assert found.stderr.startswith("manifest.sha256 is not what was signed\n")


@pytest.mark.parametrize("as_file", [True, False])
def test_who_signs_anew_is_found_out_by_the_key_that_was_expected(
    mine, tmp_path, make_report, as_file
):
    make_report(tmp_path / "first")
    expected = (
        tmp_path / "first" / "report.pub.pem" if as_file else seal.fingerprint(KEY.public_key())
    )
    assert verify(mine, "--key", expected).exit_code == 0
    forged = make_report(tmp_path / "forged", key=OTHER)
    assert verify(forged).exit_code == 0  # its files fit its own key: no more is said
    found = verify(forged, "--key", expected)
    assert found.exit_code == 1
    assert "signed with another key" in found.stderr


@pytest.mark.parametrize("name", ["manifest.sha256.sig", "report.pub.pem"])
def test_without_signature_or_key_nothing_is_as_signed(mine, name):
    (mine / name).unlink()
    found = verify(mine)
    assert found.exit_code == 1
    assert f"missing: {name}" in found.stderr


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\0", b"00  ../../etc/passwd\n", b"0" * 64 + b"  /etc/passwd\n"]
)
def test_a_manifest_of_anything_is_no_crash_and_not_as_signed(mine, content):
    (mine / "manifest.sha256").write_bytes(content)
    found = verify(mine)
    assert found.exit_code == 1
    assert "is not what was signed" in found.stderr


def test_what_is_no_report_or_no_key_is_said(mine, tmp_path):
    for arguments, words in (
        ([tmp_path], "is no report"),
        ([tmp_path / "nowhere"], "is no report"),
        ([mine, "--key", tmp_path / "nowhere"], "No such file"),
        ([mine, "--key", mine / "pairs.csv"], "no public key"),
        ([mine, "--key", "SHA256:short"], "no fingerprint"),
    ):
        found = verify(*arguments)
        assert found.exit_code == 2
        assert words in found.stderr


def test_the_key_is_made_once_and_for_its_owner_alone(tmp_path):
    key = seal.signing_key(tmp_path / "data")
    path = tmp_path / "data" / seal.KEY
    assert path.stat().st_mode & 0o777 == 0o600
    assert seal.signing_key(tmp_path / "data").private_bytes_raw() == key.private_bytes_raw()
    assert [each.name for each in (tmp_path / "data").iterdir()] == [seal.KEY]
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        seal.signing_key(tmp_path / "data")
    path.chmod(0o600)
    path.write_text("no key")
    with pytest.raises(ConfigError, match="no private key"):
        seal.signing_key(tmp_path / "data")


def test_a_report_is_replaced_by_the_next_one_but_nothing_else_is(mine, make_report, tmp_path):
    make_report(mine, delivered.screening(vendor="Another"))
    assert "Another" in (mine / "summary.json").read_text("utf-8")
    assert verify(mine).exit_code == 0
    (mine / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"notes\.txt"):
        make_report(mine)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.doc").touch()
    with pytest.raises(UsageError, match=r"thesis\.doc"):
        make_report(other)
    (tmp_path / "link").symlink_to(mine)
    with pytest.raises(UsageError, match="not a folder"):
        make_report(tmp_path / "link")
    assert (mine / "notes.txt").read_text() == "mine"


def test_an_empty_folder_is_taken(make_report, tmp_path):
    (tmp_path / "report").mkdir()
    assert verify(make_report(tmp_path / "report")).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_a_report_that_could_not_be_finished_leaves_the_old_one(mine, make_report, monkeypatch):
    before = contents(mine)

    def broken(_):
        raise OSError("no space left")

    monkeypatch.setattr("diptych.screen.report.write.page", broken)
    with pytest.raises(OSError, match="no space"):
        make_report(mine)
    assert contents(mine) == before
    monkeypatch.setattr("diptych.screen.report.write.page", page.page)
    make_report(mine)
    assert [path.name for path in mine.parent.iterdir()] == ["report"]
