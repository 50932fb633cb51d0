"""The page: readable by everybody, safe to open, as good on paper."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import axe_core_python
import pytest

from diptych.judge.ladder import Relation
from diptych.screen.report import words
from screen import delivered

AXE = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text("utf-8")
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Document(HTMLParser):
    """Its elements with their attributes, its text, and what was left open."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.words, self.open = [], [], []
        self.feed(html)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module", params=["own", "vendor's"])
def path(request, report, vendors):
    return (report if request.param == "own" else vendors) / "index.html"


@pytest.fixture(scope="module")
def document(path):
    return Document(path.read_text("utf-8"))


@pytest.fixture(scope="module")
def own(report):
    return Document((report / "index.html").read_text("utf-8"))


def test_axe_finds_nothing(browser, path):
    found = browser.axe(path, AXE)
    assert found["violations"] == []
    assert {"color-contrast", "heading-order", "image-alt", "region"} <= set(found["rules"])


def test_axe_would_find_something(browser, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text("<html><body><img src='data:,'><p style='color:#ccc'>pale</p></body></html>")
    rules = {rule for rule, _ in browser.axe(bad, AXE)["violations"]}
    assert {"image-alt", "color-contrast", "html-has-lang"} <= rules


def test_the_console_stays_empty_and_nothing_is_fetched(browser, path, tmp_path):
    assert browser.console(path) == []
    assert browser.requests(path) == set()
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='http://127.0.0.1:9/x.png'><script>console.error('oh')</script>")
    assert any("oh" in line for line in browser.console(bad))
    assert browser.requests(bad) == {"http://127.0.0.1:9/x.png"}


def test_it_prints_to_several_pages(browser, path):
    pdf = browser.pdf(path)
    assert pdf.startswith(b"%PDF")
    assert 5 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 20


def test_every_element_is_closed_and_no_script_style_attribute_or_handler_is_there(document):
    assert document.open == []
    assert document.all("script") == []
    for _, attributes in document.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,"))


def test_the_headings_are_in_order_and_all_contents_lead_somewhere(document):
    levels = [int(tag[1]) for tag, _ in document.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    ids = [a["id"] for _, a in document.elements if "id" in a]
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for a in document.all("a")}
    assert targets <= set(ids)
    assert len(targets) == 11


def test_every_table_has_a_caption_and_headers_and_every_picture_words(document):
    assert len(document.all("caption")) == len(document.all("table"))
    assert all(a.get("scope") in ("col", "row") for a in document.all("th"))
    assert len(document.all("img")) >= 4
    assert all(len(a["alt"]) > 10 and a["width"] and a["height"] for a in document.all("img"))
    for svg in document.all("svg"):
        assert svg.get("aria-hidden") == "true" or len(svg["aria-label"]) > 10


def test_hostile_text_is_text(own):
    assert '<img src=x onerror="alert(1)">' in own.text
    assert not [a for a in own.all("img") if a["src"] == "x"]
    assert "\u202e" not in own.text
    assert "\x07" not in own.text


def test_senders_texts_are_bounded(make_report, tmp_path):
    long = "x" * 100_000
    first, *rest = delivered.delivered()
    given = delivered.screening(
        delivery=long,
        vendor=long,
        inputs=(long,) * 1000,
        model=long,
        stopped=long,
        absent=((long, long, long),) * 10_000,
        series=(
            type(first)(**{**vars(first), "place": long, "vendor": long, "modality": long}),
            *rest,
        ),
    )
    folder = make_report(tmp_path / "report", given)
    page = (folder / "index.html").read_text("utf-8")
    assert len(page) < 200_000
    assert max(map(len, re.findall("x+", page))) <= words.WHOLE


def test_the_verdict_is_the_first_thing_said(own, report):
    decision = delivered.decision(delivered.screening())
    assert decision.sentence in own.text
    assert own.text.index(decision.sentence) < own.text.index("Series delivered")
    assert (
        "REJECT" in re.search('<p class="verdict no.*</p>', (report / "index.html").read_text())[0]
    )


def test_what_is_accepted_or_not_finished_says_so(make_report, tmp_path):
    good = [series for series in delivered.delivered() if series.number > 7]
    accepted = make_report(tmp_path / "good", delivered.screening(series=tuple(good)))
    html = (accepted / "index.html").read_text("utf-8")
    assert re.search('<p class="verdict yes.*ACCEPT', html)
    assert "There is no duplicate to show" in html
    cut = delivered.screening(series=tuple(good), complete=False, stopped="stopped by a signal")
    stopped = make_report(tmp_path / "stopped", cut)
    html = (stopped / "index.html").read_text("utf-8")
    assert "Not complete." in html
    assert "Stopped by a signal." in html


def test_every_relation_is_explained_and_related_is_named_as_no_duplicate(own):
    for relation in Relation:
        assert f"{relation} " in own.text
    assert "The same patient in another exam" in own.text
    assert "This is not a duplicate and is counted in no rate." in own.text
    assert "is not a Duplicate, however similar it looks" in own.text  # the clause


def test_the_clause_has_the_limits_of_the_policy(own):
    assert "at most 0.5 % may be Duplicates of other Series of the Delivery" in own.text
    assert "at most 0 may be Duplicates of Series of the Buyer's test sets" in own.text


def test_a_pair_says_how_one_lies_on_the_other_and_what_the_headers_say(own):
    check = delivered.checked("abdomen turned", "abdomen")
    assert "Pair 4. Series 2 is a near-duplicate of series 1" in own.text
    assert words.transform(check, "of the other") in own.text
    assert "Turned by 8.0° about the slice axis" in own.text
    assert f"{check.correlation:.3f} ± {check.error:.3f}" in own.text
    assert "What the headers say differently; 3 others agree" in own.text
    assert "40 of 40 slices have their most similar slice on one straight line" in own.text


def test_where_the_other_headers_are_not_kept_no_agreement_is_claimed(make_report, tmp_path):
    second = delivered.delivered()[1]
    match = second.stacks[0].matches[0]
    bare = replace(match, other=replace(match.other, facts={}))
    stack = replace(second.stacks[0], matches=(bare, *second.stacks[0].matches[1:]))
    given = delivered.screening(series=(replace(second, stacks=(stack,)),))
    html = (make_report(tmp_path / "report", given) / "index.html").read_text("utf-8")
    assert "say differently; of the other one only identifiers are kept" in html
    assert "others agree" not in html


def test_percentages_keep_two_digits_that_count():
    said = [words.percent(share).replace("\u00a0", " ") for share in (0, 1, 7 / 1204, 0.5, 1e-6)]
    assert said == ["0 %", "100 %", "0.58 %", "50.00 %", "0.0001 %"]
