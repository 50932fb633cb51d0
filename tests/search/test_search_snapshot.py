"""The index on disk: whole or refused in words; a crash anywhere leaves the last good one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from diptych.errors import IndexCorrupt
from diptych.search import snapshot
from diptych.search.archive import SearchIndex
from diptych.search.hnsw import HnswIndex, Parameters

FINGERPRINT = "ab" * 32


@pytest.fixture
def filled(archive):
    keys, vectors = archive(10)
    index = HnswIndex(64)
    index.add(keys, vectors)
    return index


def load(directory, **changes):
    return snapshot.load(directory, **{"fingerprint": FINGERPRINT, "dimension": 64, **changes})


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_loaded_index_answers_as_the_saved_one(filled, tmp_path, archive):
    _, vectors = archive(10)
    filled.remove(np.arange(1, 6, dtype=np.uint64))
    saved = snapshot.save(filled, tmp_path, FINGERPRINT)
    index, found = load(tmp_path, newest_key=400)
    assert found == saved
    assert (found.generation, found.count, found.tombstones, found.watermark) == (1, 395, 5, 400)
    assert np.array_equal(index.keys(), filled.keys())
    for k in (1, 7):
        before, after = filled.search(vectors, k), index.search(vectors, k)
        assert np.array_equal(before.keys, after.keys)
        assert np.array_equal(before.distances, after.distances)
    assert (index.newest_key, index.tombstones) == (400, 5)


def test_a_loaded_index_searches_with_the_effort_asked_for(filled, tmp_path):
    snapshot.save(filled, tmp_path, FINGERPRINT)
    index, _ = load(tmp_path, parameters=Parameters(expansion_search=77))
    assert index._graph.expansion_search == 77
    assert index._graph.expansion_add == 256


def test_a_loaded_index_goes_on_growing(filled, tmp_path, archive):
    keys, vectors = archive(20)
    snapshot.save(filled, tmp_path, FINGERPRINT)
    index, _ = load(tmp_path)
    assert index.add(keys, vectors) == 400
    assert np.array_equal(index.search(vectors, 1).keys[:, 0], keys)


def test_a_reopened_small_archive_is_exact_again(tmp_path, archive):
    keys, vectors = archive(5)
    first = SearchIndex(64, FINGERPRINT)
    first.add(keys, vectors)
    first.save(tmp_path)
    hnsw, _ = load(snapshot.folder(tmp_path, FINGERPRINT))
    again = SearchIndex(64, FINGERPRINT, hnsw=hnsw)
    assert again.search(vectors, 1).how == "exact"
    assert np.array_equal(again.search(vectors, 1).keys[:, 0], keys)


def test_a_full_disk_leaves_the_old_generation_and_no_temporary_file(filled, tmp_path, monkeypatch):
    snapshot.save(filled, tmp_path, FINGERPRINT)
    before = names(tmp_path)
    monkeypatch.setenv("DIPTYCH_FAULT", "index.before-rename:ENOSPC@1+")
    with pytest.raises(OSError, match="No space left"):
        snapshot.save(filled, tmp_path, FINGERPRINT)
    assert names(tmp_path) == before
    assert load(tmp_path) is not None


def test_an_empty_folder_holds_no_snapshot(tmp_path):
    assert load(tmp_path) is None
    assert load(tmp_path / "absent") is None


def test_an_empty_index_survives_the_round_trip(tmp_path):
    snapshot.save(HnswIndex(64), tmp_path, FINGERPRINT)
    index, found = load(tmp_path)
    assert (len(index), found.watermark) == (0, 0)


def test_only_the_newest_generation_stays_and_orphans_go(filled, tmp_path):
    for stray in ("index-0000000009.usearch.tmp", "index-0000000004.usearch"):
        (tmp_path / stray).write_bytes(b"left by a crash")
    (tmp_path / "notes.txt").write_text("not ours")
    snapshot.save(filled, tmp_path, FINGERPRINT)
    snapshot.save(filled, tmp_path, FINGERPRINT)
    assert names(tmp_path) == ["index-0000000002.json", "index-0000000002.usearch", "notes.txt"]


def test_every_flipped_byte_of_the_sidecar_is_refused(filled, tmp_path):
    snapshot.save(filled, tmp_path, FINGERPRINT)
    sidecar = tmp_path / "index-0000000001.json"
    good = sidecar.read_bytes()
    for position in range(len(good) - 1):  # the last one is the line's end
        if chr(good[position]).isspace():
            continue
        sidecar.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        with pytest.raises(IndexCorrupt):
            load(tmp_path)
    sidecar.write_bytes(good)
    assert load(tmp_path) is not None


@pytest.mark.parametrize("where", [0.0, 0.3, 0.6, 0.999])
def test_a_flipped_byte_of_the_graph_is_refused(filled, tmp_path, where):
    snapshot.save(filled, tmp_path, FINGERPRINT)
    graph = tmp_path / "index-0000000001.usearch"
    content = bytearray(graph.read_bytes())
    content[int(where * len(content))] ^= 1
    graph.write_bytes(content)
    with pytest.raises(IndexCorrupt, match="has checksum"):
        load(tmp_path)


def test_a_torn_or_missing_graph_is_refused(filled, tmp_path):
    snapshot.save(filled, tmp_path, FINGERPRINT)
    graph = tmp_path / "index-0000000001.usearch"
    os.truncate(graph, graph.stat().st_size - 1)
    with pytest.raises(IndexCorrupt, match="bytes"):
        load(tmp_path)
    graph.unlink()
    with pytest.raises(IndexCorrupt, match="missing"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fingerprint": "cd" * 32}, "was built with fingerprint abab"),
        ({"dimension": 32}, "has 64 dimensions, the model 32"),
        ({"newest_key": 399}, "knows vector 400, the database none above 399"),
        ({"parameters": Parameters(connectivity=16)}, "was built with"),
    ],
)
def test_a_foreign_index_is_refused_in_words(filled, tmp_path, changes, words):
    snapshot.save(filled, tmp_path, FINGERPRINT)
    with pytest.raises(IndexCorrupt, match=words):
        load(tmp_path, **changes)


def test_another_format_and_a_moved_file_are_refused(filled, tmp_path):
    snapshot.save(filled, tmp_path, FINGERPRINT)
    sidecar = tmp_path / "index-0000000001.json"
    (tmp_path / "index-0000000002.json").write_bytes(sidecar.read_bytes())
    with pytest.raises(IndexCorrupt, match="written as generation 1"):
        load(tmp_path)
    (tmp_path / "index-0000000002.json").unlink()
    fields = json.loads(sidecar.read_text())
    del fields["sha256"]
    fields["format"] = 2
    sidecar.write_text(json.dumps({**fields, "sha256": snapshot._digest(fields)}))
    with pytest.raises(IndexCorrupt, match="has format 2"):
        load(tmp_path)


def test_saving_beside_adding_writes_only_whole_generations(tmp_path, archive):
    keys, vectors = archive(50)
    index = SearchIndex(64, FINGERPRINT, mode="hnsw")
    done = threading.Event()

    def add():
        for start in range(0, len(keys), 10):
            index.add(keys[start : start + 10], vectors[start : start + 10])
        done.set()

    adding = threading.Thread(target=add)
    adding.start()
    while not done.is_set():
        saved = index.save(tmp_path)
        loaded, found = load(snapshot.folder(tmp_path, FINGERPRINT))
        assert found == saved
        assert np.array_equal(loaded.keys(), keys[: saved.watermark])
        if len(loaded):
            assert np.all(loaded.search(vectors[: saved.watermark], 1).distances == 0)
    adding.join()


def test_every_fingerprint_has_its_own_snapshots_and_the_others_can_be_discarded(tmp_path, archive):
    other = "cd" * 32
    keys, vectors = archive(2)
    for fingerprint in (FINGERPRINT, other):
        index = SearchIndex(64, fingerprint)
        index.add(keys, vectors)
        index.save(tmp_path)
        index.save(tmp_path)
    assert load(snapshot.folder(tmp_path, FINGERPRINT))[1].generation == 2
    snapshot.discard_others(tmp_path, other)
    assert load(snapshot.folder(tmp_path, FINGERPRINT)) is None
    assert load(snapshot.folder(tmp_path, other), fingerprint=other) is not None


CRASH = """
import os, signal, sys
import numpy as np
from pathlib import Path
from diptych.search import snapshot
from diptych.search.hnsw import HnswIndex

directory, where = Path(sys.argv[1]), sys.argv[2]

def add(index, start):
    keys = np.arange(start + 1, start + 51, dtype=np.uint64)
    index.add(keys, np.eye(128, dtype=np.float32)[start : start + 50])

index = HnswIndex(128)
add(index, 0)
snapshot.save(index, directory, "ab" * 32)
add(index, 50)
os.environ["DIPTYCH_FAULT"] = f"{where}:kill"
if where == "between the renames":
    rename = Path.rename
    def once(self, target):
        rename(self, target)
        os.kill(os.getpid(), signal.SIGKILL)
    Path.rename = once
snapshot.save(index, directory, "ab" * 32)
"""


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("index.after-temporary-write", 50),
        ("index.before-rename", 50),
        ("between the renames", 50),
        ("index.after-rename", 100),
    ],
)
def test_killed_while_saving_leaves_one_whole_generation(tmp_path, where, count):
    bare = {name: value for name, value in os.environ.items() if not name.startswith("DIPTYCH_")}
    command = [sys.executable, "-c", CRASH, str(tmp_path), where]
    killed = subprocess.run(command, check=False, env=bare)
    assert killed.returncode == -signal.SIGKILL
    index, found = snapshot.load(tmp_path, fingerprint=FINGERPRINT, dimension=128)
    assert (len(index), found.count, found.watermark) == (count, count, count)
    snapshot.save(index, tmp_path, FINGERPRINT)
    assert len(names(tmp_path)) == 2
