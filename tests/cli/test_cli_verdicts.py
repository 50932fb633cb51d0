"""``diptych verdicts``; while a daemon runs it is asked in ``test_cli_archive``."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import forked
from cli.command_line import Archive, Diptych, command, environment

# The contract of the JSON array, in this order.
FIELDS = (
    "case_id", "revision", "source", "study_instance_uid", "series_instance_uid", "modality",
    "slices", "informative_slices", "c1", "c3", "count_mode", "threshold", "relation", "flags",
    "matched_case_id", "matched_series_instance_uid", "search", "reason", "model", "policy",
    "seconds", "created_at",
)  # fmt: skip


def _json(diptych: Diptych, deposited: Archive, *arguments: object) -> list[dict[str, Any]]:
    done = diptych("verdicts", "--data", deposited.data, "--format", "json", *arguments)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def test_json_is_one_object_per_series_with_exactly_the_promised_fields_in_order(
    diptych: Diptych, deposited: Archive
) -> None:
    rows = _json(diptych, deposited)
    assert all(tuple(row) == FIELDS for row in rows)
    original, copy, stranger = (
        str(one[0].SeriesInstanceUID)
        for one in (deposited.original, deposited.copy, deposited.stranger)
    )
    found = {row["series_instance_uid"]: row for row in rows}
    assert len(found) == len(rows) == 6
    assert found[original]["relation"] == "unique"
    assert found[copy]["relation"] == "exact"
    assert found[copy]["matched_series_instance_uid"] == original
    assert found[copy]["matched_case_id"] == found[original]["case_id"]
    assert found[stranger]["relation"] == "unique"
    for row in (found[original], found[copy], found[stranger]):
        assert (row["modality"], row["slices"], row["revision"]) == ("CT", 6, 0)
        assert row["c3"] is not None
        assert isinstance(row["flags"], list)
    said = {
        str(one.SeriesInstanceUID): (one.Modality, relation, reason)
        for one, relation, reason in (
            (deposited.report, "not-an-image", "not-an-image"),
            (deposited.document, "not-an-image", "not-an-image"),
            (deposited.without_pixels, "not-screenable", "no-pixel-data"),
        )
    }
    for uid, wanted in said.items():
        row = found[uid]
        assert (row["modality"], row["relation"], row["reason"]) == wanted
        assert (row["c1"], row["c3"], row["matched_case_id"]) == (None, None, None)
    assert all(row["created_at"].endswith("Z") for row in rows)


def test_csv_says_the_same_as_json(diptych: Diptych, deposited: Archive) -> None:
    done = diptych("verdicts", "--data", deposited.data, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert tuple(rows[0]) == FIELDS
    wanted = _json(diptych, deposited)
    assert len(rows) == len(wanted)
    for row, one in zip(rows, wanted, strict=True):
        for name in FIELDS:
            value = " ".join(one[name]) if name == "flags" else one[name]
            assert row[name] == ("" if value is None else str(value))


def test_relation_chooses(diptych: Diptych, deposited: Archive) -> None:
    rows = _json(diptych, deposited, "--relation", "exact")
    assert [row["series_instance_uid"] for row in rows] == [
        str(deposited.copy[0].SeriesInstanceUID)
    ]
    assert _json(diptych, deposited, "--relation", "partial") == []


def test_an_unknown_relation_is_a_usage_error(diptych: Diptych, deposited: Archive) -> None:
    done = diptych("verdicts", "--data", deposited.data, "--relation", "twin")
    assert done.returncode == 2
    assert "near-duplicate" in done.stderr


def test_since_takes_an_iso_time_with_or_without_zone_and_an_age(
    diptych: Diptych, deposited: Archive
) -> None:
    rows = _json(diptych, deposited)
    third = datetime.fromisoformat(rows[2]["created_at"])
    for text in (
        third.replace(tzinfo=None).isoformat(),
        third.astimezone(timezone(timedelta(hours=5))).isoformat(),
    ):
        assert _json(diptych, deposited, "--since", text) == rows[2:]
    assert len(_json(diptych, deposited, "--since", "1h")) == len(rows)
    assert _json(diptych, deposited, "--since", "0s") == []


@pytest.mark.parametrize("text", ["yesterday", "²d", "9" * 400 + "d"])
def test_a_bad_since_is_a_usage_error_in_words(
    diptych: Diptych, deposited: Archive, text: str
) -> None:
    done = diptych("verdicts", "--data", deposited.data, "--since", text)
    assert done.returncode == 2
    assert "neither an ISO time nor an age" in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize("columns", [80, 120, 220])
def test_the_table_fits_its_width_and_keeps_what_matters(
    diptych: Diptych, deposited: Archive, columns: int
) -> None:
    done = diptych("verdicts", "--data", deposited.data, COLUMNS=str(columns))
    lines = done.stdout.splitlines()
    assert all(len(line) <= columns for line in lines)
    heading, rows = lines[0], lines[1:]
    assert all(word in heading for word in ("series", "relation", "matched series"))
    matched = next(line for line in rows if "exact" in line)
    assert str(deposited.original[0].SeriesInstanceUID)[-12:] in matched
    assert str(deposited.copy[0].SeriesInstanceUID)[-12:] in matched
    assert sum("not-screenable" in line for line in rows) == 1
    if columns == 220:
        assert sum("not-screenable (no-pixel-data)" in line for line in rows) == 1
        assert all(word in heading for word in ("c(1)", "c(3)", "threshold", "seconds"))
        assert len(lines) == 7
    else:
        assert any(line.startswith("no room for: ") for line in lines[7:])


def test_in_a_pipe_the_table_is_whole(diptych: Diptych, deposited: Archive) -> None:
    done = diptych("verdicts", "--data", deposited.data, COLUMNS="")
    assert "threshold" in done.stdout
    assert "no room for" not in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("verdicts", "--format", "csv"),
        ("config", "show"),
        ("verdicts", "--help"),
        ("audit", "verify"),
    ],
)
def test_a_reader_that_goes_away_sees_no_traceback(
    deposited: Archive, arguments: tuple[str, ...]
) -> None:
    named = () if "--help" in arguments else ("--data", deposited.data)
    done = subprocess.run(
        ["bash", "-c", '"$@" | head -c 1 > /dev/null', "-", *command(*arguments, *named)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""


def test_nobody_reading_at_all_ends_it_silently(deposited: Archive) -> None:
    for how in ("json", "csv", "table"):
        child = forked.Popen(
            command("verdicts", "--data", deposited.data, "--format", how),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert child.stdout
        assert child.stderr
        child.stdout.close()
        assert child.stderr.read() == b""
        child.stderr.close()
        assert child.wait(60) == 141


def test_a_full_disk_under_the_output_is_said_in_words(deposited: Archive) -> None:
    with Path("/dev/full").open("w") as full:
        done = forked.run(
            command("verdicts", "--data", deposited.data, "--format", "json"),
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 4
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
