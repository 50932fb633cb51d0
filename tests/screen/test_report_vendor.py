"""What goes to the vendor holds nothing that is the buyer's own."""

from __future__ import annotations

import base64
import csv
import json
import re
from html import unescape

import pyarrow.parquet as pq

from diptych.screen.groups import groups
from diptych.screen.keep import keep
from diptych.screen.report import seal
from diptych.screen.report.given import Pictures
from diptych.screen.report.vendor import copy_for
from screen import delivered

SECRETS = (
    delivered.SECRET_SET,
    "trial",
    "confidential",
    delivered.OWNED_UID,
    delivered.OWNED_SOURCE,
    delivered.OWNED_FACT,
    "1.2.276.0.7230010",
    "31,337",
    "31337",
    "51,217",
    "51217",
    "/data/in",
    "case 9 ",
    "case 4 ",
    "cross_source",
)


def everything(folder):
    """Name → all text in it, that of Parquet too."""
    found = {}
    for path in folder.iterdir():
        if path.suffix == ".parquet":
            found[path.name] = json.dumps(pq.read_table(path).to_pylist())
        elif path.suffix not in (".sig", ".pem", ".sha256"):
            found[path.name] = path.read_text("utf-8")
    # checksums, pictures and the style sheet hold digits by chance
    found["index.html"] = re.sub(r"base64,[A-Za-z0-9+/=]+|sha256-\S+", "", found["index.html"])
    found["index.html"] = re.sub(r"<style>.*?</style>", "", found["index.html"], flags=re.DOTALL)
    return found


def test_nothing_of_the_buyers_is_in_any_file(report, vendors):
    own = "\n".join(everything(report).values())
    assert [secret for secret in SECRETS if secret not in own] == []  # or this would prove nothing
    for name, text in everything(vendors).items():
        assert [secret for secret in SECRETS if secret in text] == [], name


def test_the_very_values_that_a_vendors_files_are_made_of_hold_nothing_of_the_buyers():
    given = delivered.screening()
    found = groups(given)
    decision = delivered.decision(given)
    any_picture = Pictures(lambda _: b"pixels", lambda _: delivered.vectors()["head"])
    copy = copy_for(given, decision, found, keep(given, found), any_picture, b"secret")
    values = repr((copy.screening, copy.groups, copy.kept))
    assert [secret for secret in SECRETS if secret in values] == []
    for group in copy.groups:
        own = group.representative.collection == "delivery"
        assert (copy.pictures.proxy_of(group.representative) is not None) is own
        assert (copy.pictures.vectors_of(group.representative) is not None) is own


def test_what_the_vendor_delivered_is_named(vendors):
    text = everything(vendors)
    assert "1.2.826.0.1.3680043.8.498.3" in text["pairs.csv"]
    assert "batch/part-3" in text["series.csv"]
    assert "test-set-1" in text["pairs.csv"]
    assert "copy for the vendor" in text["index.html"]


def pictures(folder):
    page = (folder / "index.html").read_text("utf-8")
    return {base64.b64decode(each) for each in re.findall(r"base64,([A-Za-z0-9+/=]+)", page)}


def test_pictures_of_owned_cases_and_what_would_give_them_away_are_left_out(report, vendors):
    hidden = pictures(report) - pictures(vendors)
    # the matrices of two pairs, and of the partial one the other side and the difference; an exact
    # copy's other side is the delivered one, and its difference is white
    assert len(hidden) == 4
    page = unescape((vendors / "index.html").read_text("utf-8"))
    assert page.count("pictures are the buyer's own") == 2
    assert page.count("laid onto it") == 2  # pairs inside the delivery keep both sides


def rows(folder, name="pairs.csv"):
    with (folder / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_case_has_one_salted_number_everywhere(vendors, make_report, tmp_path):
    found = {(row["kind"]): row["other_case"] for row in rows(vendors) if row["kind"] != "delivery"}
    assert all(len(number) > 8 for number in found.values())
    groups = json.loads((vendors / "groups.json").read_text("utf-8"))
    assert [g["representative"]["case"] for g in groups[1:]] == [
        int(found["owned"]),
        int(found["test-set"]),
    ]
    why = {row["series"]: row["why"] for row in rows(vendors, "clean_manifest.csv")}
    assert f"case {found['owned']} of owned" in why["3"]
    assert f"case {found['test-set']} of test-set-1" in why["4"]
    other = seal.signing_key(tmp_path)
    elsewhere = rows(make_report(tmp_path / "report", key=other, vendor_copy=True))
    assert {row["other_case"] for row in elsewhere} & set(found.values()) == set()
    later = delivered.screening(delivery="Lot 8")
    again = rows(make_report(tmp_path / "later", later, vendor_copy=True))
    assert {row["other_case"] for row in again} & set(found.values()) == set()


def test_only_the_relation_and_the_delivered_side_are_said_of_an_owned_case(vendors):
    row = next(row for row in rows(vendors) if row["kind"] == "owned")
    assert (row["relation"], row["first_slice"], row["last_slice"]) == ("partial", "1", "20")
    hidden = [name for name in row if name.startswith("other_") and name != "other_case"]
    assert [row[name] for name in hidden] == [""] * len(hidden)
    inside = next(row for row in rows(vendors) if row["kind"] == "delivery")
    assert inside["other_series_instance_uid"] == "1.2.826.0.1.3680043.8.498.1"
    assert (inside["other_first_slice"], inside["other_slices"]) == ("1", "40")


def test_the_verdict_and_the_counts_are_the_buyers(report, vendors):
    own, sent = (json.loads((f / "summary.json").read_text("utf-8")) for f in (report, vendors))
    for name in ("rates", "lost", "money", "series", "excluded", "not_screened"):
        assert own[name] == sent[name]
    assert sent["decision"] == own["decision"]
    assert sent["method"]["collections"] == [
        {"kind": "owned", "name": "owned", "cases": None},
        {"kind": "test-set", "name": "test-set-1", "cases": None},
    ]


def test_a_vendors_copy_is_signed_like_any(vendors):
    assert seal.check(vendors, delivered.KEY.public_key()).problems == ()
