"""One event, one line, whatever is in it; and nothing in it that says who the patient is."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from diptych import log as logs
from support import REPOSITORY

KEY = bytes(range(32))
HOSTILE = 'a\nb\r\x1b[31m\x00\x85\u2028\u202e\ufeff"quoted" 2026-01-01T00:00:00.000Z ERROR forged'
UID = "1.2.826.0.1.3680043.8.498.77"
BOTH = pytest.mark.parametrize("form", ["console", "json"])


@pytest.fixture
def lines() -> Iterator[Any]:
    """Configure the log of this process and read what it wrote; afterwards as it was."""
    root, ours = logging.getLogger(), logging.getLogger("diptych")
    before = root.handlers[:], root.level, ours.level
    logging.disable(logging.NOTSET)  # a command that ran in this process may have
    written: list[str] = []

    def configure(form: str, **more: Any) -> list[str]:
        settings = logs.Settings("tester", format=form, **{"key": KEY, **more})
        handler = logging.Handler()
        handler.emit = lambda record: written.append(handler.format(record))  # type: ignore[method-assign]
        handler.setFormatter(logs.formatter(settings))
        root.handlers[:] = [handler]
        ours.setLevel(logging.DEBUG)
        return written

    yield configure
    root.handlers[:], root.level, ours.level = before[0], before[1], before[2]


LOG = logs.get_logger("diptych.test")


@BOTH
def test_whatever_a_field_holds_the_line_stays_one_printable_line(lines: Any, form: str) -> None:
    written = lines(form)
    LOG.warning("tried", text=HOSTILE, names=[HOSTILE, "b"], advice=HOSTILE)
    logging.getLogger("some.library").error("said %s", HOSTILE)
    assert len(written) == 2
    assert all(character.isprintable() for line in written for character in line)
    if form == "json":
        assert [json.loads(line)["event"] for line in written] == ["tried", "message"]
        assert set(json.loads(written[1])) == {
            *("timestamp", "level", "process", "event", "text", "logger")
        }


@BOTH
def test_a_value_is_bounded(lines: Any, form: str) -> None:
    (line,) = _said(lines(form), text="x" * 100_000)
    assert len(line) < 2 * logs.MOST_CHARACTERS


@BOTH
def test_a_uid_appears_only_as_its_hash_under_the_sites_key(lines: Any, form: str) -> None:
    written = lines(form)
    (line,) = _said(written, series_instance_uid=UID, error=f"cannot read {UID}: gone")
    assert UID not in line
    assert line.count(logs.identifier(KEY, UID)) == 2
    assert logs.identifier(KEY, UID) != logs.identifier(bytes(32), UID)
    # What a sender calls a UID need not look like one.
    (line,) = _said(written, sop_instance_uid="Smith^John")
    assert "Smith" not in line
    (line,) = _said(written, names=[UID])
    assert UID not in line


@BOTH
def test_public_numbers_stay_in_clear(lines: Any, form: str) -> None:
    written = lines(form)
    (line,) = _said(written, text="10.20.30.40 speaks 1.2.840.10008.1.2.1", version="1.26.0")
    assert "10.20.30.40 speaks 1.2.840.10008.1.2.1" in line
    assert "1.26.0" in line


@BOTH
def test_without_the_sites_key_identifiers_are_left_out(lines: Any, form: str) -> None:
    (line,) = _said(lines(form, key=None), series_instance_uid=UID, error=UID)
    assert UID not in line
    assert "id-unknown" in line


@BOTH
def test_identifiers_are_in_clear_where_that_is_allowed(lines: Any, form: str) -> None:
    (line,) = _said(lines(form, identifiers=True), series_instance_uid=UID)
    assert UID in line


@BOTH
def test_an_exception_is_its_type_and_where_but_not_its_words(lines: Any, form: str) -> None:
    written = lines(form)
    for allowed in (False, True):
        lines(form, identifiers=allowed)
        written.clear()
        try:
            raise ValueError("cannot read\nSmith^John")
        except ValueError:
            LOG.exception("failed")
            logging.getLogger("some.library").exception("failed too")
        assert len(written) == 2
        assert all("ValueError" in line and "test_log.py:" in line for line in written)
        assert all(("Smith" in line) is allowed for line in written)
        assert all(character.isprintable() for line in written for character in line)


def test_the_console_is_read_as_time_level_process_event_and_fields(lines: Any) -> None:
    (line,) = _said(lines("console"), source="ct1", missing=None, flags=[], seconds=0.5, slices=3)
    head = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING tester tried "
    assert re.fullmatch(head + "source=ct1 seconds=0.5 slices=3", line)


def test_json_has_numbers_lists_and_a_time_in_utc(lines: Any) -> None:
    (line,) = _said(lines("json"), associations=("a", "b"), seconds=float("nan"), slices=3)
    said = json.loads(line, parse_constant=pytest.fail)
    assert said["associations"] == ["a", "b"]
    assert said["slices"] == 3
    assert said["level"] == "WARNING"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", said["timestamp"])


def test_a_command_without_a_log_warns_on_stderr_and_keeps_stdout_clean() -> None:
    code = (
        "from diptych.log import get_logger; log = get_logger('diptych.x');"
        f"log.info('quiet'); log.warning('tried', series_instance_uid='{UID}')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == ""
    assert done.stderr.endswith("WARNING command tried series_instance_uid=id-unknown\n")


def test_the_page_of_events_lists_every_event_and_no_other() -> None:
    sources = (REPOSITORY / "daemon" / "diptych").rglob("*.py")
    call = re.compile(
        r"\b_?log(?:\.(?:debug|info|warning|error|exception|log)|\.info if [^)]*)\)?\(\s*"
        r"(?:said, )?(f?\"[^\"]*\"(?: if [^,]*else \"[^\"]*\")?|[^\s,)]+)"
    )
    used: set[str] = set()
    for path in sources:
        for found in call.findall(path.read_text("utf-8")):
            names = re.findall(r'"([^"]*)"', found)
            assert names, f"{path.name}: an event without a name: {found}"
            used |= set(names)
    table = (REPOSITORY / "deploy" / "events.md").read_text("utf-8")
    listed = re.findall(r"`([a-z0-9-]+)`", "\n".join(re.findall(r"^\|([^|]*)\|", table, re.M)))
    assert sorted(used | {"message"}) == sorted(listed)


def _said(written: list[str], **fields: Any) -> list[str]:
    written.clear()
    LOG.warning("tried", **fields)
    return written
