"""Shared by the tests of ``diptych.volume``: decode, plan and assemble in one call each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicom_factory import save_series
from diptych.volume.assemble import assemble
from diptych.volume.instance import Instance, decode_file
from diptych.volume.plan import Plan, plan
from diptych.volume.value import Volume

Planner = Callable[[Sequence[Dataset]], Plan]


@pytest.fixture
def planned(tmp_path: Path) -> Planner:
    """Write data sets, decode them in this process, and plan them as one series."""

    def run(slices: Sequence[Dataset]) -> Plan:
        outcomes = [decode_file(path) for path in save_series(tmp_path / "series", slices)]
        instances = [outcome for outcome in outcomes if isinstance(outcome, Instance)]
        assert len(instances) == len(outcomes), outcomes
        return plan(instances)

    return run


@pytest.fixture
def volume_of(planned: Planner) -> Callable[[Sequence[Dataset]], Volume]:
    """The volume of a series that must plan to exactly one stack."""

    def run(slices: Sequence[Dataset]) -> Volume:
        (stack,) = planned(slices).stacks
        return assemble(stack)

    return run
