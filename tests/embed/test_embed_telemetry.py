"""ONNX Runtime's official builds report to their maker unless told not to before they load."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_the_runtime_keeps_no_telemetry_and_no_device_id(tmp_path: Path) -> None:
    code = (
        "from diptych.embed.manifest import load_model\n"
        "from diptych.embed.session import Embedder\n"
        "Embedder(load_model(), threads=1)"
    )
    places = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment = {name: text for name, text in os.environ.items() if not name.startswith("ORT_")}
    subprocess.run([sys.executable, "-c", code], env={**environment, **places}, check=True)
    assert not list(tmp_path.rglob("*"))
