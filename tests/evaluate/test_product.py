"""The ladder over an archive in memory says what the daemon says over SQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from dicom_factory import save_series
from diptych.demo import copies, phantoms
from diptych.demo.series import phantom_series
from diptych.embed.manifest import load_model
from diptych.embed.session import Embedder
from diptych.evaluate.answers import TRANSFORMS
from diptych.evaluate.product import Product
from diptych.evaluate.reading import read_dicom, read_nifti
from diptych.evaluate.transforms import transformed
from diptych.judge.digest import case_digest
from diptych.judge.ladder import Relation
from diptych.lookup import Finding
from diptych.ready import Stages, make_ready
from diptych.volume.decoders import DecoderPool
from diptych.volume.value import Volume
from evaluate.volumes import body, save_nifti
from judged import Archive

Series = list[Dataset]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(load_model(), threads=1)


@pytest.fixture(scope="module")
def decoders() -> Iterator[DecoderPool]:
    with DecoderPool() as pool:
        yield pool


@pytest.fixture(scope="module")
def bodies() -> dict[str, Series]:
    recipes = [
        phantoms.Recipe(f"{kind}-{number}", kind, 70 + number, (16, 96, 96), (6.0, 3.0, 3.0))
        for kind in ("abdomen", "chest", "head")
        for number in range(2)
    ]
    return {
        recipe.name: phantom_series(phantoms.generate(recipe), seed=900 + number)
        for number, recipe in enumerate(recipes)
    }


class Asked:
    """A product that is asked like the command asks it."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.product = Product(embedder.model)

    def judge(self, volume: Volume, digest: bytes | None, keep: bool) -> Finding:
        ready = make_ready(volume, self._embedder.model.input_size, Stages())
        found = self.product.judge(ready, digest, lambda: self._embedder.embed(ready.slices))
        if keep:
            vectors = self._embedder.embed(ready.slices)
            self.product.add(ready.slice_digests, digest, vectors, ready.proxy[1])
        return found


def test_it_says_of_every_series_what_the_daemon_says(
    tmp_path: Path, embedder: Embedder, decoders: DecoderPool, bodies: dict[str, Series]
) -> None:
    daemon, asked = Archive(tmp_path, embedder, decoders), Asked(embedder)
    sent: dict[str, Series] = {
        **bodies,
        "same pixels": copies.new_uids(bodies["chest-0"], 1),
        "shuffled": copies.deidentified(bodies["head-1"], 2),
        "processed": copies.rotated_noisy(bodies["abdomen-1"], 3),
    }
    for number, (name, series) in enumerate(sent.items(), 1):
        row = daemon.add(series)
        reading = read_dicom(save_series(tmp_path / name, series), decoders)
        found = asked.judge(reading.volume, reading.digest, keep=True)
        counts = found.evidence.counts
        assert counts is not None
        said: dict[str, Any] = {
            "relation": found.judgement.relation.value,
            "matched_case_id": found.judgement.matched_case,
            "c1": counts.c1,
            "c3": counts.c3,
            "informative_slices": found.evidence.n,
            "detail": found.judgement.reason,
        }
        assert said == {key: row[key] for key in said}, name
        assert row["case_id"] == number, "both number their cases alike"


def test_a_copy_is_exact_and_its_vectors_are_those_of_its_original(
    tmp_path: Path, embedder: Embedder
) -> None:
    asked = Asked(embedder)
    first = read_nifti(save_nifti(tmp_path / "a.nii.gz", body(1, (16, 64, 64))))
    asked.judge(first.volume, first.digest, keep=True)
    found = asked.judge(first.volume, first.digest, keep=False)
    assert found.judgement.relation == Relation.EXACT
    assert found.judgement.matched_case == 1
    assert found.reused


def test_a_transformed_copy_has_a_digest_of_its_own(tmp_path: Path, embedder: Embedder) -> None:
    asked = Asked(embedder)
    reading = read_nifti(save_nifti(tmp_path / "a.nii.gz", body(1, (16, 64, 64))))
    asked.judge(reading.volume, reading.digest, keep=True)
    for transform in TRANSFORMS[1::4]:
        volume = transformed(reading.volume, transform, "a")
        found = asked.judge(volume, case_digest(volume.digests), keep=False)
        assert found.judgement.relation != Relation.EXACT, transform


def test_a_query_is_not_kept(tmp_path: Path, embedder: Embedder) -> None:
    asked = Asked(embedder)
    held, stranger = (
        read_nifti(save_nifti(tmp_path / f"{n}.nii.gz", body(n, (16, 64, 64)))) for n in (1, 2)
    )
    asked.judge(held.volume, held.digest, keep=True)
    first = asked.judge(stranger.volume, stranger.digest, keep=False)
    again = asked.judge(stranger.volume, stranger.digest, keep=False)
    assert first.judgement == again.judgement
    assert again.judgement.relation != Relation.EXACT


def test_noise_without_a_body_is_not_screenable(tmp_path: Path, embedder: Embedder) -> None:
    asked = Asked(embedder)
    noise = np.random.default_rng(0).normal(size=(8, 224, 224)).astype(np.float32)
    reading = read_nifti(save_nifti(tmp_path / "a.nii.gz", noise))
    found = asked.judge(reading.volume, reading.digest, keep=False)
    assert found.judgement.relation == Relation.NOT_SCREENABLE
    assert found.judgement.matched_case is None
