"""Fixtures of the path: made once, they are slow to start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from diptych.demo import phantoms
from diptych.demo.series import phantom_series
from diptych.embed.manifest import load_model
from diptych.embed.session import Embedder
from diptych.volume.decoders import DecoderPool
from judged import Archive


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    return Embedder(load_model(), threads=1)


@pytest.fixture(scope="session")
def decoders() -> Iterator[DecoderPool]:
    with DecoderPool(children=1) as pool:
        yield pool


@pytest.fixture(scope="session")
def bodies() -> dict[str, list[Dataset]]:
    """Small phantoms of different people, as series."""
    recipes = [
        phantoms.Recipe(f"{kind}-{number}", kind, 70 + number, (16, 96, 96), (6.0, 3.0, 3.0))
        for kind in ("abdomen", "chest", "head", "limb")
        for number in range(2)
    ]
    return {
        recipe.name: phantom_series(phantoms.generate(recipe), seed=500 + number)
        for number, recipe in enumerate(recipes)
    }


@pytest.fixture
def own(tmp_path: Path, embedder: Embedder, decoders: DecoderPool) -> Archive:
    """An empty archive."""
    return Archive(tmp_path, embedder, decoders)
