"""What an ONNX file is, found by running it: its own words may be missing or wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from diptych.embed.session import refuse_two_runtimes
from diptych.errors import ModelError


def dimension_of(path: Path, name: str, channels: int, size: int) -> int:
    """d of the output (n, d), found by running the file once; ModelError when it is no encoder."""
    refuse_two_runtimes()
    where = f"model {name!r}"
    try:
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        inputs = session.get_inputs()
        fixed = inputs[0].shape[0] if len(inputs) == 1 and inputs[0].shape else None
        n = fixed if isinstance(fixed, int) else 2
        batch = np.random.default_rng(0).random((n, channels, size, size), np.float32)
        answers = session.run(None, {inputs[0].name: batch})
    except Exception as error:  # ONNX Runtime raises classes of its own, undocumented
        words = str(error).splitlines()
        raise ModelError(
            f"{where}: ONNX Runtime cannot run it on (n, {channels}, {size}, {size}) float32: "
            f"{words[0] if words else type(error).__name__}"
        ) from error
    shapes = [tuple(getattr(answer, "shape", ())) for answer in answers]
    if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][0] != n:
        raise ModelError(
            f"{where}: one output (n, d) is expected, found {', '.join(map(str, shapes))} for "
            f"n = {n}: export the pooled, flattened embedding alone"
        )
    if not np.isfinite(answers[0]).all():
        raise ModelError(f"{where}: its answer to noise is not finite")
    return int(shapes[0][1])
