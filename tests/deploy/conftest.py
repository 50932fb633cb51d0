"""The Helm chart rendered by Helm's own library, as a test asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from support import REPOSITORY, missing

CHART = REPOSITORY / "deploy" / "helm" / "diptych"
Objects = list[dict[str, Any]]


@pytest.fixture
def rendered() -> Callable[..., Objects]:
    """Kubernetes objects of the chart under values; raises what Helm says of impossible ones."""
    try:
        import helm_python
    except ImportError:
        missing("helm-python-sdk (make setup)")

    def render(**values: Any) -> Objects:
        with helm_python.Chart.load(CHART) as chart:
            chart.validate_schema(values)
            texts = chart.render(values, name="site", namespace="imaging")
        return [
            found
            for name, text in texts.items()
            if name.endswith(".yaml")
            for found in yaml.safe_load_all(text)
            if found
        ]

    return render


def of_kind(objects: Objects, kind: str) -> dict[str, Any]:
    (found,) = [one for one in objects if one["kind"] == kind]
    return found
