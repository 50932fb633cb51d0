"""Series made ready: what is kept of many stacks is bounded, and what comes of them is the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dicom_factory import dicom_slice, pixels, save_series
from diptych import ready
from diptych.errors import NotScreenable
from diptych.ready import Ready, Stages, make_series_ready
from diptych.volume.instance import decode_file

SIZE = 32


@pytest.fixture
def outcomes(tmp_path: Path):
    """Three stacks of four slices: axial ones with rows of their own length."""
    slices = [
        dicom_slice(pixels(10 * wide + n, columns=20 + wide), number=n)
        for wide in (1, 2, 3)
        for n in range(1, 5)
    ]
    return [decode_file(path) for path in save_series(tmp_path, slices)]


def test_no_more_is_kept_than_the_limit_and_the_rest_is_made_when_it_is_asked_for(
    outcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_series_ready(outcomes, SIZE)
    assert len(whole.stacks) == 3
    assert all(isinstance(one.made, Ready) for one in whole.stacks)
    monkeypatch.setattr(ready, "READY_BYTES", 1)
    bounded = make_series_ready(outcomes, SIZE)
    assert [one.made is None for one in bounded.stacks] == [False, True, True]
    stages = Stages()
    for one, other in zip(whole.stacks, bounded.stacks, strict=True):
        first, second = one.ready(SIZE, stages), other.ready(SIZE, stages)
        assert isinstance(first, Ready)
        assert isinstance(second, Ready)
        assert np.array_equal(first.prepared, second.prepared)
        assert (first.slice_digests, first.proxy) == (second.slice_digests, second.proxy)
    assert set(stages.seconds) == {"assemble", "prepare"}


def test_a_stack_that_cannot_be_assembled_is_an_outcome_like_others(
    outcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assemble = ready.assemble
    monkeypatch.setattr(ready, "assemble", lambda stack: assemble(stack, max_bytes=4300))
    made = [one.made for one in make_series_ready(outcomes, SIZE).stacks]
    assert any(isinstance(one, NotScreenable) for one in made)
    assert any(isinstance(one, Ready) for one in made)
