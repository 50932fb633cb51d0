"""Decoding ahead changes when something is decoded, and nothing else."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest

from dicom_factory import dicom_slice, pixels, save_series
from diptych.errors import DiptychError
from diptych.volume.ahead import DecodeAhead
from diptych.volume.decoders import DecoderPool
from diptych.volume.instance import Instance

PATIENCE_S = 10.0


@pytest.fixture
def pool():
    with DecoderPool() as children:
        yield children


@pytest.fixture
def two(tmp_path):
    """Two series of three slices."""
    return [
        save_series(tmp_path / str(s), [dicom_slice(number=3 * s + n) for n in (1, 2, 3)])
        for s in (0, 1)
    ]


def stored(outcomes) -> np.ndarray:
    assert all(isinstance(outcome, Instance) for outcome in outcomes), outcomes
    return np.stack([outcome.planes[0].stored for outcome in outcomes])


def in_time(condition) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_what_was_expected_is_decoded_before_it_is_asked_for(pool, two, monkeypatch):
    decoders = DecodeAhead(pool, len)
    decoders.decode(two[0])
    decoders.expect(two[1])
    assert in_time(lambda: decoders._guess._found is not None)
    # Gone: what comes now was decoded before.
    for path in two[1]:
        path.unlink()
    assert (stored(decoders.decode(two[1])[0]) == [pixels(n) for n in (4, 5, 6)]).all()


def test_what_was_expected_is_made_something_of_before_it_is_asked_for(pool, two):
    threads = []

    def make(outcomes):
        threads.append(threading.current_thread().name)
        return stored(outcomes).max()

    decoders = DecodeAhead(pool, make)
    assert decoders.decode(two[0])[1] is None, "nobody expected it: whoever asks makes it"
    decoders.expect(two[1])
    outcomes, made = decoders.decode(two[1])
    assert made == stored(outcomes).max()
    assert threads == ["decode-ahead"]


def test_what_fails_ahead_is_decoded_again_and_its_caller_hears_of_it(pool, two):
    def fails(outcomes):
        raise MemoryError

    decoders = DecodeAhead(pool, fails)
    decoders.expect(two[1])
    outcomes, made = decoders.decode(two[1])
    assert made is None
    assert (stored(outcomes) == [pixels(n) for n in (4, 5, 6)]).all()


def test_a_wrong_guess_costs_nothing_but_its_work(pool, two):
    decoders = DecodeAhead(pool, len)
    decoders.expect(two[1])
    assert (stored(decoders.decode(two[0])[0]) == [pixels(n) for n in (1, 2, 3)]).all()
    assert (stored(decoders.decode(two[1])[0]) == [pixels(n) for n in (4, 5, 6)]).all()


def test_no_more_is_kept_ahead_than_the_limit_and_the_rest_follows(pool, two):
    one = pixels(1).nbytes
    decoders = DecodeAhead(pool, len, ahead_bytes=one)
    decoders.expect(two[1])
    guess = decoders._guess
    assert not guess._thread.join(0.5), "it waits for somebody to ask"
    assert guess._thread.is_alive()
    assert guess._found is None
    assert (stored(decoders.decode(two[1])[0]) == [pixels(n) for n in (4, 5, 6)]).all()


def test_a_new_guess_takes_the_place_of_an_older_one(pool, two):
    decoders = DecodeAhead(pool, len)
    for paths in (two[0], two[1], two[0]):
        decoders.expect(paths)
    assert (stored(decoders.decode(two[0])[0]) == [pixels(n) for n in (1, 2, 3)]).all()


def test_a_closed_pool_ends_the_guess_and_is_heard_of_by_who_asks(tmp_path, two):
    endless = tmp_path / "endless"
    os.mkfifo(endless)
    pool = DecoderPool()
    decoders = DecodeAhead(pool, len)
    decoders.expect([endless])
    assert in_time(lambda: bool(pool.process_ids))
    guess = decoders._guess
    threading.Timer(0.2, pool.close).start()
    guess._thread.join(PATIENCE_S)
    assert not guess._thread.is_alive()
    assert pool.process_ids == ()
    with pytest.raises(DiptychError):
        decoders.decode(two[0])
