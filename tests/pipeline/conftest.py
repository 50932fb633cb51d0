"""Fixtures of the path: made once, they are slow to start."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset

from diptych.demo import phantoms
from diptych.demo.series import phantom_series


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
