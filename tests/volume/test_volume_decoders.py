"""The decoder children: what they bring, what they survive, and that they end with their parent."""

from __future__ import annotations

import contextlib
import enum
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from dicom_factory import deflated, dicom_slice, pixels, save, save_series
from diptych.errors import DiptychError, Reason
from diptych.volume import wire
from diptych.volume.decoders import DecoderPool
from diptych.volume.instance import Instance, Refusal, decode_file
from diptych.volume.limits import Limits

PATIENCE_S = 10.0
_HARMFUL = pickle.dumps(os.getcwd)


def gone(pid: int) -> bool:
    """True when the process ended within the patience (a zombie has ended)."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            with Path(f"/proc/{pid}/stat").open() as file:
                if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def endless(tmp_path):
    """A path whose reading never ends: a pipe that nobody writes to."""
    path = tmp_path / "endless"
    os.mkfifo(path)
    return path


def test_outcomes_come_in_the_order_of_the_paths(tmp_path):
    paths = save_series(tmp_path, [dicom_slice(number=n) for n in range(1, 20)])
    with DecoderPool(children=2) as pool:
        for _ in range(2):
            outcomes = list(pool.decode(paths))
            assert [outcome.path for outcome in outcomes] == list(map(str, paths))
            assert all(
                (outcome.planes[0].stored == pixels(n)).all()
                for n, outcome in enumerate(outcomes, start=1)
            )


def test_a_child_brings_what_decoding_here_would(tmp_path):
    path = save(dicom_slice(), tmp_path / "slice.dcm")
    with DecoderPool() as pool:
        (there,) = pool.decode([path])
    here = decode_file(path)
    assert isinstance(there, Instance)
    assert isinstance(here, Instance)
    assert there.header == here.header
    assert there.planes[0].digest == here.planes[0].digest
    assert (there.planes[0].stored == here.planes[0].stored).all()
    assert there.planes[0].stored.flags.writeable


def test_without_pixels_only_digests_travel(tmp_path):
    path = save(dicom_slice(), tmp_path / "slice.dcm")
    with DecoderPool() as pool:
        (bare,) = pool.decode([path], pixels=False)
    assert bare.planes[0].stored is None
    assert bare.planes[0].digest == decode_file(path).planes[0].digest


def test_refusals_travel_too(tmp_path):
    path = save(dicom_slice(Rows=0), tmp_path / "slice.dcm")
    with DecoderPool() as pool:
        (outcome,) = pool.decode([path])
    assert outcome.reason is Reason.UNSUPPORTED_PIXEL_FORMAT


def test_a_reason_is_received_whatever_way_this_python_pickles_an_enum(monkeypatch):
    """3.11.3 and older, Debian 12's among them: as ``getattr``, which a decoder may not send."""

    def as_in_3_11_2(member: enum.Enum, protocol: int) -> tuple[object, ...]:
        return getattr, (type(member), member.name)

    monkeypatch.setattr(enum.Enum, "__reduce_ex__", as_in_3_11_2)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire.send(theirs, Refusal("slice.dcm", Reason.UNREADABLE, "no DICM prefix"))
        assert wire.receive(ours, 2**20).reason is Reason.UNREADABLE


def test_an_instance_over_the_time_limit_is_refused_and_the_others_are_not(tmp_path, endless):
    paths = save_series(tmp_path / "s", [dicom_slice(number=n) for n in (1, 2, 3)])
    with DecoderPool(seconds_per_instance=1.0) as pool:
        outcomes = list(pool.decode([paths[0], endless, paths[1], paths[2]]))
    assert [isinstance(outcome, Instance) for outcome in outcomes] == [True, False, True, True]
    assert outcomes[1].reason is Reason.DECODER_TIMEOUT


def kill_children_over(pool, path, times):
    """Send SIGSEGV to the children once one of them reads the pipe ``path``, ``times`` over."""

    def run():
        for _ in range(times):
            writer = None
            while writer is None:
                # Opening for writing without blocking fails until somebody reads.
                with contextlib.suppress(OSError):
                    writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
                time.sleep(0.02)
            for pid in pool.process_ids:
                os.kill(pid, signal.SIGSEGV)
                gone(pid)
            os.close(writer)

    threading.Thread(target=run, daemon=True).start()


def test_a_crash_costs_only_the_instance_that_caused_it(tmp_path, endless):
    paths = save_series(tmp_path / "s", [dicom_slice(number=n) for n in (1, 2)])
    with DecoderPool() as pool:
        kill_children_over(pool, endless, times=2)
        good, crashed, also_good = pool.decode([paths[0], endless, paths[1]])
    assert isinstance(good, Instance)
    assert isinstance(crashed, Refusal)
    assert crashed.reason is Reason.DECODER_CRASHED
    assert isinstance(also_good, Instance)


def test_a_child_that_dies_between_two_calls_is_replaced(tmp_path):
    paths = save_series(tmp_path / "s", [dicom_slice(number=n) for n in (1, 2, 3, 4)])
    with DecoderPool() as pool:
        list(pool.decode(paths))
        os.kill(pool.process_ids[0], signal.SIGKILL)
        assert gone(pool.process_ids[0])
        assert all(isinstance(outcome, Instance) for outcome in pool.decode(paths))


def test_the_memory_limit_holds(tmp_path):
    size = 8000
    ds = dicom_slice(np.zeros((10, 10), np.uint16))
    ds.Rows = ds.Columns = size
    ds.PixelData = b"\0" * (2 * size * size)
    path = deflated(ds, tmp_path / "bomb.dcm")
    del ds
    assert path.stat().st_size < 10_000_000
    fine = save(dicom_slice(), tmp_path / "fine.dcm")
    limits = Limits(max_samples=10**12, max_inflated_bytes=10**12)
    with DecoderPool(memory_bytes=300_000_000, limits=limits) as pool:
        bomb, after = pool.decode([path, fine])
    assert bomb.reason is Reason.TOO_LARGE
    assert isinstance(after, Instance)


def test_an_abandoned_iteration_does_not_leak_into_the_next(tmp_path):
    paths = save_series(tmp_path, [dicom_slice(number=n) for n in range(1, 9)])
    with DecoderPool() as pool:
        first = pool.decode(paths)
        next(first)
        first.close()
        outcomes = list(pool.decode(paths[4:6]))
    assert [outcome.path for outcome in outcomes] == [str(paths[4]), str(paths[5])]


def test_children_ignore_the_signals_meant_for_their_parent(tmp_path):
    path = save(dicom_slice(), tmp_path / "slice.dcm")
    with DecoderPool() as pool:
        list(pool.decode([path]))
        (child,) = pool.process_ids
        os.kill(child, signal.SIGINT)
        os.kill(child, signal.SIGTERM)
        assert isinstance(next(iter(pool.decode([path]))), Instance)
        assert pool.process_ids == (child,)


def test_close_ends_the_children(tmp_path):
    path = save(dicom_slice(), tmp_path / "slice.dcm")
    pool = DecoderPool()
    list(pool.decode([path]))
    (child,) = pool.process_ids
    pool.close()
    assert gone(child)
    with pytest.raises(DiptychError):
        next(pool.decode([path]))


@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
def test_children_end_when_their_parent_is_killed(tmp_path, endless, busy):
    good = save(dicom_slice(), tmp_path / "slice.dcm")
    script = (
        "import sys, threading, time\n"
        "from pathlib import Path\n"
        "from diptych.volume.decoders import DecoderPool\n"
        "pool = DecoderPool()\n"
        # Started from a thread that ends: the child must follow the process, not the thread.
        "worker = threading.Thread(target=lambda: list(pool.decode([Path(sys.argv[1])])))\n"
        "worker.start(); worker.join()\n"
        "print(*pool.process_ids, flush=True)\n"
        "list(pool.decode([Path(sys.argv[2])])) if sys.argv[2] else time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(good), str(endless) if busy else ""],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(0.3)
    assert Path(f"/proc/{child}").exists()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(child)


@pytest.mark.parametrize(
    "message",
    [
        struct.pack("<QI", 2**60, 0),
        struct.pack("<QI", 10, 1) + struct.pack("<Q", 2**60),
        struct.pack("<QI", 4, 0) + b"oops",
        struct.pack("<QI", len(_HARMFUL), 0) + _HARMFUL,
    ],
    ids=["huge", "huge buffer", "no pickle", "a function"],
)
def test_what_is_no_message_of_ours_is_neither_allocated_nor_executed(message):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(message)
        with pytest.raises(wire.Disconnected):
            wire.receive(ours, limit=1_000_000)
