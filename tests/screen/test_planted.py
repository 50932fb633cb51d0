"""The planted deliveries are what they say, before anything is said about how they are screened."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import forked
from cli.command_line import command, environment
from diptych.intake.catalogue import Catalogue
from diptych.intake.materialise import materialise
from diptych.intake.take import take_in
from diptych.judge.digest import case_digest
from diptych.judge.ladder import Relation
from diptych.screen.findings import COPIES
from diptych.volume.assemble import assemble
from diptych.volume.decoders import DecoderPool
from diptych.volume.plan import plan
from diptych.volume.plane import Instance
from intake.deliveries import outcomes
from screen.planted import NOT_SCREENABLE, Delivery, Planted, plant


@pytest.fixture(scope="module")
def delivery(tmp_path_factory: pytest.TempPathFactory) -> Delivery:
    return plant(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def catalogue(delivery: Delivery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    out = tmp_path_factory.mktemp("catalogue")
    with take_in([str(delivery.folder), str(delivery.manifest)], out, readers=1) as taken:
        yield taken


def by_place(delivery: Delivery, catalogue: Catalogue) -> dict[str, int]:
    rows = catalogue.db.execute("SELECT place, id FROM series")
    return {str(Path(place).relative_to(delivery.folder)): number for place, number in rows}


def test_the_catalogue_holds_exactly_the_planted_series(
    delivery: Delivery, catalogue: Catalogue
) -> None:
    rows = catalogue.db.execute("SELECT place, kind, files, planes FROM series").fetchall()
    found = {(str(Path(r[0]).relative_to(delivery.folder)), *r[1:]) for r in rows}
    assert found == {(one.place, one.kind, one.files, one.slices) for one in delivery.series}
    assert len(rows) == len(delivery.series) > 40


def test_every_entry_becomes_what_it_was_planted_for(
    delivery: Delivery, catalogue: Catalogue
) -> None:
    assert outcomes(catalogue) == delivery.outcomes
    (files,) = catalogue.db.execute("SELECT count(*) FROM file").fetchone()
    assert files == delivery.files
    (absent,) = catalogue.db.execute("SELECT count(*) FROM absent").fetchone()
    assert absent == delivery.absent


def test_vendor_split_and_price_are_those_of_the_manifest(
    delivery: Delivery, catalogue: Catalogue
) -> None:
    numbers = by_place(delivery, catalogue)
    for one in delivery.series:
        said = catalogue.db.execute(
            "SELECT DISTINCT vendor, split, price FROM series_entry JOIN file "
            "ON file.id = series_entry.file WHERE series_entry.series = ?",
            (numbers[one.place],),
        ).fetchall()
        assert said == [(one.vendor, one.split, str(one.price))]


def test_stored_values_are_equal_where_the_truth_says_so_and_nowhere_else(
    delivery: Delivery, catalogue: Catalogue
) -> None:
    numbers = by_place(delivery, catalogue)
    contents: dict[bytes, set[str]] = defaultdict(set)
    kept: dict[str, bytes] = {}
    with DecoderPool() as decoders:
        for one in delivery.series:
            with materialise(catalogue.db, numbers[one.place], catalogue.scratch) as paths:
                images = [o for o in decoders.decode(paths) if isinstance(o, Instance)]
            assert (not images) == (one.relations == NOT_SCREENABLE), one.place
            if not images:
                continue
            (stack,) = plan(images).stacks
            assert len(stack.planes) == one.slices
            assemble(stack)
            digest = case_digest(stack.digests)
            contents[digest].add(one.content)
            assert kept.setdefault(one.content, digest) == digest, one.place
    assert {len(those) for those in contents.values()} == {1}


def test_the_truth_of_a_series_follows_from_what_was_judged_before(delivery: Delivery) -> None:
    at = {one.place.removeprefix("batch-00/"): one for one in delivery.series}
    first, again, part = at["exam-1/CT"], at["again/exam-1"], at["g-every second slice"]
    assert Relation.EXACT not in delivery.inside(first, [part, at["g"]])
    assert not delivery.inside(first, []) & COPIES
    assert delivery.inside(again, [first]) == {Relation.EXACT}
    assert delivery.inside(part, [at["g"]]) == {Relation.NEAR_DUPLICATE, Relation.PARTIAL}
    assert {one.place for one in delivery.partners(first)} == {
        f"batch-00/{name}"
        for name in ("again/exam-1", "a-new", "archives/rest.tar.gz!/more/inner.zip!/s")
    }
    assert delivery.beside(at["m-owned"], "owned") == {Relation.PARTIAL}
    assert not delivery.beside(at["m-owned"], "test-set") & COPIES
    assert not delivery.beside(at["p-later"], "owned") & COPIES
    assert delivery.beside(at["n-tested"], "test-set") == {Relation.EXACT}
    for collection, folder in (("owned", delivery.owned), ("test-set", delivery.test_set)):
        assert {path.name for path in folder.iterdir()} == delivery.collections[collection]


def test_the_estimate_counts_what_was_planted(delivery: Delivery, tmp_path: Path) -> None:
    asked = command("screen", delivery.folder, delivery.manifest, "--estimate", "--json", "e.json")
    done = forked.run(asked, cwd=tmp_path, env=environment(), capture_output=True, check=False)
    assert done.returncode == 3, done.stderr  # some inputs are damaged
    found = json.loads((tmp_path / "e.json").read_text())
    assert found["series"] == len(delivery.series)
    assert found["slices"] == sum(one.slices for one in delivery.series)
    assert found["entries"] == sum(delivery.outcomes.values())


def test_a_larger_delivery_holds_other_scans_and_equal_seeds_the_same(tmp_path: Path) -> None:
    def of(name: str, seed: int, rounds: int) -> tuple[Delivery, dict[str, bytes]]:
        made = plant(tmp_path / name, seed, rounds)
        files = [p for p in made.folder.rglob("*") if p.is_file() and not p.is_symlink()]
        return made, {str(p.relative_to(made.folder)): p.read_bytes() for p in files}

    def scans(those: tuple[Planted, ...]) -> set[str]:
        return {one.scan for one in those}

    (one, files), (two, more) = of("one", 1, 1), of("two", 1, 2)
    half = len(two.series) // 2
    assert one.series == two.series[:half]
    assert {name for name, raw in files.items() if more[name] != raw} == {"manifest.csv"}
    assert not scans(two.series[:half]) & scans(two.series[half:])
    other, _ = of("other", 2, 1)
    assert not scans(one.series) & scans(other.series)
