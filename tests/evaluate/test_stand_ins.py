"""The ladder in an archive full of stand-ins: what these are, and how they are put there."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import forked
from diptych.cli import app
from diptych.demo import phantoms
from diptych.embed.manifest import load_model
from diptych.embed.session import Embedder
from diptych.evaluate import crowd, standins
from diptych.evaluate.cases import find
from diptych.evaluate.product import Product
from diptych.evaluate.progress import Progress
from diptych.evaluate.reading import read_nifti
from diptych.evaluate.sources import gather
from diptych.judge import proxy
from diptych.judge.digest import case_digest
from diptych.judge.ladder import Relation, confirms
from diptych.judge.verify import verify
from diptych.ready import Ready, Stages, make_ready
from diptych.volume.decoders import DecoderPool
from diptych.volume.value import Volume
from evaluate.volumes import save_nifti

SIZE = 112
SECONDS = 240


def grown(kind: phantoms.Kind, seed: int) -> phantoms.Phantom:
    return phantoms.generate(phantoms.Recipe("p", kind, seed, (20, 80, 72), (6.0, 3.0, 3.0)))


def save(folder: Path, kind: phantoms.Kind, seed: int) -> Path:
    return save_nifti(folder / f"{kind}-{seed}.nii.gz", grown(kind, seed).pixels)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> list[Volume]:
    """A head and an abdomen, as read from a file."""
    folder = tmp_path_factory.mktemp("volumes")
    return [read_nifti(save(folder, kind, 80)).volume for kind in ("head", "abdomen")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``cases`` to be evaluated, and ``others`` to make stand-ins of."""
    folder = tmp_path_factory.mktemp("folders")
    for seed in (60, 61):
        save(folder / "cases", "head", seed)
    for kind in ("head", "limb"):
        save(folder / "others", kind, 70)
    return folder


def command(folders: Path, *arguments: object) -> list[str]:
    fixed = [folders / "cases", "--stand-ins-from", folders / "others", "--quick"]
    return ["evaluate", *map(str, [*fixed, "--index", "exact", *arguments])]


def run(folders: Path, *arguments: object) -> Result:
    result = CliRunner().invoke(app, command(folders, *arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def rows(out: Path) -> dict[int, bytes]:
    with sqlite3.connect(out / "crowd.sqlite") as file:
        return dict(file.execute("SELECT number, content FROM stand_in").fetchall())


def queries(out: Path) -> list[dict[str, Any]]:
    records = map(json.loads, (out / "answers.jsonl").read_text().splitlines())
    return [record for record in records if record["kind"] == "query"]


@pytest.fixture(scope="module")
def finished(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with 45 stand-ins: three chunks, the last one short."""
    out = tmp_path_factory.mktemp("finished") / "out"
    done = run(folders, "--out", out, "--stand-ins", 45)
    assert done.exit_code == 0, done.stderr
    (out / "stdout").write_text(done.stdout)
    return out


def test_a_stand_in_follows_from_its_number_alone(volumes: list[Volume]) -> None:
    source, frame = standins.reduced(volumes[0])
    first, again, other = (standins.stand_in(source, frame, n) for n in (3, 3, 4))
    assert first.digests == again.digests
    assert not set(first.digests) & set(other.digests)
    assert standins.body(5).digests == standins.body(5).digests
    assert not set(standins.body(5).digests) & set(standins.body(9).digests)


def test_stand_ins_are_strangers_to_their_source_and_to_each_other(volumes: list[Volume]) -> None:
    policy = Product(load_model()).policy
    for volume in volumes:
        source, frame = standins.reduced(volume)
        made = [standins.stand_in(source, frame, number) for number in range(6)]
        proxies = [proxy.decode(_ready(each).proxy[1]) for each in (volume, *made)]
        for one, other in itertools.combinations(proxies, 2):
            check = verify(1, one, other)
            assert check.impossible is None
            assert not confirms(check, policy)
            assert check.correlation < 0.88


def test_a_stand_in_comes_nearer_to_its_source_than_other_people_do(tmp_path: Path) -> None:
    embedder = Embedder(load_model(), threads=1)
    people = [read_nifti(save(tmp_path, "abdomen", seed)).volume for seed in (80, 81, 82)]
    source, frame = standins.reduced(people[0])

    def vectors(volume: Volume) -> Any:
        return embedder.embed(_ready(volume).slices)

    own, *others = (vectors(each) for each in people)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(standins, "MIRRORED", 0.0)
        stand_in = vectors(standins.stand_in(source, frame, 1))
    assert _nearest(own, stand_in) < min(_nearest(own, other) for other in others)


def test_the_ladder_calls_neither_a_source_nor_a_sibling_a_duplicate(
    volumes: list[Volume],
) -> None:
    embedder = Embedder(load_model(), threads=1)
    product = Product(embedder.model)
    for volume in volumes:
        source, frame = standins.reduced(volume)
        for number in range(4):
            stand_in = standins.stand_in(source, frame, number)
            ready = _ready(stand_in)
            vectors, digest = embedder.embed(ready.slices), case_digest(stand_in.digests)
            found = product.judge(ready, digest, lambda vectors=vectors: vectors)
            assert found.judgement.relation in (Relation.UNIQUE, Relation.RELATED)
            product.add(ready.slice_digests, digest, vectors, ready.proxy[1])
        ready = _ready(volume)
        found = product.judge(
            ready, case_digest(volume.digests), lambda ready=ready: embedder.embed(ready.slices)
        )
        assert found.judgement.relation in (Relation.UNIQUE, Relation.RELATED)
        assert found.evidence.checks, "it was near enough to be verified"


def test_sources_serve_alike_and_every_tenth_is_a_body() -> None:
    said = [standins.source_of(number, 3) for number in range(100)]
    assert [number for number, place in enumerate(said) if place is None] == list(range(0, 100, 10))
    assert [said.count(place) for place in range(3)] == [30, 30, 30]


def test_the_report_says_what_the_stand_ins_changed_and_took(finished: Path) -> None:
    figures = json.loads((finished / "results.json").read_text())
    said = figures["stand_ins"]
    assert (said["stand_ins"], said["sources"]) == (45, 2)
    assert said["nodes"] >= said["slices"] > 45 * 10
    assert said["source_confirmed"] == said["sibling_confirmed"] == 0
    assert 0 < said["source_median"] <= said["source_highest"] < 0.93
    assert said["peak_memory_bytes"] > 1e8
    assert said["bytes_on_disk"] == (finished / "crowd.sqlite").stat().st_size
    assert said["seconds_ratio"] > 0
    assert said["product"]["mean_sensitivity"] == figures["product"]["mean_sensitivity"] == 1.0
    assert said["product"]["specificity"] == 1.0
    report = (finished / "report.md").read_text()
    assert "| Cases in the archive | 1 | 46 |" in report
    assert "With 45 stand-ins of" in (finished / "stdout").read_text()
    assert {"stand-ins.csv", "stand-ins-cost.csv", "product-crowded.csv"} <= {
        path.name for path in finished.iterdir()
    }


def test_every_query_is_judged_in_both_archives(finished: Path) -> None:
    for record in queries(finished):
        assert [n for n, *_ in record["product"]] == [n for n, *_ in record["crowded"]]
        if record["side"] == "copy":
            assert record["product"][0][1:3] == record["crowded"][0][1:3]


def test_proxies_stay_in_the_file_and_sources_do_not(finished: Path) -> None:
    assert sorted(rows(finished)) == list(range(45))
    assert not list(finished.glob("sources-*"))


def test_a_run_that_was_killed_makes_only_what_is_missing_and_all_of_it_alike(
    tmp_path: Path, folders: Path, finished: Path
) -> None:
    out = tmp_path / "out"
    arguments = command(folders, "--out", out, "--stand-ins", 45, "--resume")
    process = forked.Popen(
        [sys.executable, "-m", "diptych", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < deadline and not _chunks(out):
        time.sleep(0.02)
    children = _children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=SECONDS)
    before = _chunks(out)
    assert before
    while any(map(_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(_alive, children)), "nobody goes on making stand-ins"
    with sqlite3.connect(out / "crowd.sqlite") as file:
        file.execute("UPDATE stand_in SET seconds = -1")
    done = run(folders, "--out", out, "--stand-ins", 45, "--resume")
    assert done.exit_code == 0, done.stderr
    assert rows(out) == rows(finished)
    with sqlite3.connect(out / "crowd.sqlite") as file:
        kept = file.execute("SELECT count(*) FROM stand_in WHERE seconds < 0").fetchone()[0]
    assert kept == before
    assert [[v[:3] for v in r["crowded"]] for r in queries(out)] == [
        [v[:3] for v in r["crowded"]] for r in queries(finished)
    ]


def test_stand_ins_of_other_sources_are_made_anew_and_those_of_the_same_are_not(
    tmp_path: Path, folders: Path
) -> None:
    save(tmp_path / "more", "abdomen", 72)
    (tmp_path / "more" / "limb.nii.gz").symlink_to(folders / "others" / "limb-70.nii.gz")
    found = []
    with DecoderPool() as decoders:
        for number, folder in enumerate(
            (folders / "others", folders / "others", tmp_path / "more")
        ):
            arrays = tmp_path / str(number)
            arrays.mkdir()
            sources = gather(find(folder), {}, decoders, arrays, Progress())
            with crowd.Crowd(tmp_path / "crowd.sqlite", 3, sources, load_model()) as made:
                if number == 1:
                    assert not made._missing(range(3))
                found.append([each.slice_digests for each in made])
    first, again, other = found
    assert first == again
    assert first[0] == other[0], "a body has no source"
    assert first[1:] != other[1:]


def test_a_resume_with_other_sources_is_refused(
    tmp_path: Path, folders: Path, finished: Path
) -> None:
    (tmp_path / "cases").symlink_to(folders / "cases")
    save(tmp_path / "others", "abdomen", 72)
    done = run(tmp_path, "--out", finished, "--stand-ins", 45, "--resume")
    assert done.exit_code == 2
    assert "(files differ)" in " ".join(done.stderr.split())
    again = run(folders, "--out", finished, "--stand-ins", 45, "--resume")
    assert again.exit_code == 0
    assert "queries" not in again.stderr


@pytest.mark.parametrize("how", ["link", "copy", "part"])
def test_a_source_that_is_evaluated_is_refused(tmp_path: Path, folders: Path, how: str) -> None:
    (tmp_path / "cases").symlink_to(folders / "cases")
    evaluated = sorted((folders / "cases").iterdir())[0]
    source = tmp_path / "others" / "x.nii.gz"
    source.parent.mkdir()
    if how == "link":
        source.symlink_to(evaluated)
    else:
        pixels = grown("head", 60).pixels
        save_nifti(source, pixels if how == "copy" else np.ascontiguousarray(pixels[4:14]))
    done = run(tmp_path, "--out", tmp_path / "out", "--stand-ins", 3)
    assert done.exit_code == 2
    said = " ".join(done.stderr.split())
    assert "x.nii.gz cannot be a source" in said
    assert evaluated.name in said
    assert not (tmp_path / "out" / "report.md").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--stand-ins", "0"), "--stand-ins is 1 or more"),
        ((), "give both or neither"),
        (("--stand-ins", "3", "--model", "thumbnail-16"), "which thumbnail-16 lacks"),
    ],
)
def test_a_usage_error_is_said_in_words(
    tmp_path: Path, folders: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = run(folders, "--out", tmp_path / "out", *arguments)
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.split())


def test_sources_that_cannot_be_used_are_named(tmp_path: Path, folders: Path) -> None:
    (tmp_path / "cases").symlink_to(folders / "cases")
    save_nifti(tmp_path / "others" / "short.nii.gz", grown("head", 90).pixels[:5])
    (tmp_path / "others" / "broken.nii").write_bytes(b"nothing")
    done = run(tmp_path, "--out", tmp_path / "out", "--stand-ins", 3)
    assert done.exit_code == 2
    assert "no volume there can be used, for instance broken.nii" in " ".join(done.stderr.split())


def _ready(volume: Volume) -> Ready:
    return make_ready(volume, SIZE, Stages())


def _nearest(ours: Any, theirs: Any) -> float:
    """The median distance from our slices to the nearest of theirs."""
    return float(np.median(np.linalg.norm(ours[:, None] - theirs[None], axis=2).min(axis=1)))


def _chunks(out: Path) -> int:
    try:
        return len(rows(out))
    except sqlite3.Error:
        return 0


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]
