"""A whole delivery with every kind of copy planted: all are found, no stranger is."""

from __future__ import annotations

from pathlib import Path

import pytest

from diptych.audit.deliveries import Standing
from diptych.screen import accepting
from diptych.screen.findings import COPIES, Screening
from screen.planted import Delivery, Planted, plant
from screen.small import screened, settings


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Delivery:
    return plant(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def found(planted: Delivery, tmp_path_factory: pytest.TempPathFactory) -> Screening:
    chosen = settings(tmp_path_factory.mktemp("vetting") / "data")
    for folder, standing in (
        (planted.owned, Standing.OWNED),
        (planted.test_set, Standing.TEST_SET),
    ):
        name = f"base-{standing.value}"
        screened(chosen, name, folder, against=())
        accepting.accept(chosen, name, standing)
    return screened(chosen, "delivered", planted.folder, planted.manifest)


def test_every_planted_copy_is_found_and_no_stranger_is(
    planted: Delivery, found: Screening
) -> None:
    assert report(planted, found) == []


def test_what_went_in_is_what_is_accounted_for(planted: Delivery, found: Screening) -> None:
    counted = {f"{o.status}: {o.reason}" if o.reason else o.status: o.count for o in found.outcomes}
    assert counted == dict(planted.outcomes)
    assert found.files == planted.files
    assert found.entries == sum(planted.outcomes.values())
    assert len(found.absent) == planted.absent
    assert found.complete


def test_vendors_splits_and_prices_are_those_of_the_manifest(
    planted: Delivery, found: Screening
) -> None:
    truth = {one.place: (one.vendor, one.split, one.price) for one in planted.series}
    said = {place(planted, one.place): (one.vendor, one.split, one.price) for one in found.series}
    assert said == truth


def report(planted: Delivery, found: Screening) -> list[str]:
    """What is not as planted."""
    wrong, earlier = [], []
    truth = {one.place: one for one in planted.series}
    for series in found.series:
        one = truth.pop(place(planted, series.place))
        stack = series.principal
        assert stack is not None
        expected = {"delivery": planted.inside(one, earlier)}
        expected |= {
            name: planted.beside(one, of)
            for name, of in (("owned", "owned"), ("base-test-set", "test-set"))
        }
        by_name = {match.collection: match for match in stack.matches}
        for name, relations in expected.items():
            match = by_name.get(name)
            relation = match.relation if match else stack.relation
            if relation not in relations:
                check = match.check if match else None
                wrong.append(
                    f"{one.place} ({one.made}) is {relation} in {name}, not {sorted(relations)}: "
                    f"{stack.reason} {match.why if match else ''} {check}"
                )
            elif relation in COPIES and match and match.other and match.other.ref.series:
                of = found.series[match.other.ref.series - 1].place
                wrong += same_scan(planted, one, place(planted, of))
        earlier.append(one)
    return wrong + [f"{missing} is not in the catalogue" for missing in truth]


def same_scan(planted: Delivery, one: Planted, other: str) -> list[str]:
    (of,) = [each for each in planted.series if each.place == other]
    return [] if of.scan == one.scan else [f"{one.place} is called a copy of {other}"]


def place(planted: Delivery, whole: str) -> str:
    return str(Path(whole).relative_to(planted.folder))
