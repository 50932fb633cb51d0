"""The figures, as files that were really drawn."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageColor

from answered import answer, answers
from diptych.evaluate.figures import GREEN, GREY, MANY, RED, draw
from diptych.evaluate.paper_results import paper_results
from diptych.evaluate.scores import collect

NAMES = ["figure-3", "roc-top1", "roc-top3"]


def drawn(out: Path, made: list) -> tuple[Path, ...]:
    lookups = collect(made)
    return draw(out, lookups, paper_results(lookups, None), "Threshold fitted on the same data")


def shares(path: Path, *colours: str) -> list[float]:
    """The share of the pixels of a PNG that has each colour."""
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    return [float((pixels == ImageColor.getrgb(c)).all(axis=1).mean()) for c in colours]


@pytest.fixture
def wrong() -> list:
    """Ten copies, two of which point at another case, and ten strangers."""
    copies = [answer(f"c{i}", (f"c{max(i, 2)}", 9)) for i in range(10)]
    return copies + [answer(f"s{i}", ("c0", 4), side="stranger") for i in range(10)]


def test_every_figure_is_a_png_and_an_svg_with_its_words(tmp_path: Path):
    paths = drawn(tmp_path, list(answers(8, 9)))
    assert sorted(p.name for p in paths) == sorted(
        f"{n}.{e}" for n in NAMES for e in ("png", "svg")
    )
    for name in NAMES:
        width, height = Image.open(tmp_path / f"{name}.png").size
        assert width >= 1200
        assert height >= 900
        text = "".join(ElementTree.parse(tmp_path / f"{name}.svg").getroot().itertext())
        assert "Threshold fitted on the same data" in text
    assert "query: copies, then strangers" in (tmp_path / "figure-3.svg").read_text("utf-8")
    curves = (tmp_path / "roc-top1.svg").read_text("utf-8")
    for words in ("1 - specificity", "sensitivity", "Gaussian noise", "quality=25%  AUC"):
        assert words in curves


def test_figure_3_paints_copies_grey_wrong_ones_red_and_strangers_green(
    tmp_path: Path, wrong: list
):
    drawn(tmp_path, wrong)
    grey, red, green = shares(tmp_path / "figure-3.png", GREY, RED, GREEN)
    # Eight grey bars against two red ones, all at 0.9; ten green ones at 0.4.
    assert grey / red == pytest.approx(4, rel=0.25)
    assert green / grey == pytest.approx(10 * 0.4 / (8 * 0.9), rel=0.25)


def test_wrong_cases_are_seen_among_thousands(tmp_path: Path):
    copies = [answer(f"c{i}", (f"c{max(i, 1)}", 9)) for i in range(MANY)]
    strangers = [answer(f"s{i}", ("c0", 4), side="stranger") for i in range(50)]
    drawn(tmp_path, copies + strangers)
    assert shares(tmp_path / "figure-3.png", RED)[0] > 0.0001
    assert (tmp_path / "figure-3.svg").stat().st_size < 500_000


def test_the_same_answers_draw_the_same_files(tmp_path: Path, wrong: list):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        drawn(tmp_path / name, wrong)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
