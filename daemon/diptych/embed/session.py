"""The ONNX Runtime session: prepared slices in, unit vectors out."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from diptych.embed.manifest import ModelEntry
from diptych.embed.prepare import normalise
from diptych.errors import ModelError
from diptych.log import get_logger

BATCH = 16
"""Slices per run: as fast as 32 on a CPU, and a short series fills up less."""

SHORTEST = 1e-6
"""Length of a model's answer below which it has no direction."""

CUDA = "CUDAExecutionProvider"

log = get_logger(__name__)


class Embedder:
    """A model ready to embed. Thread-safe, as ONNX Runtime's ``run`` is.

    ``threads`` is the number of cores one run may use (0: ONNX Runtime decides). Spinning is off:
    a worker that waits for slices must not take the receiver's core. The provider is CUDA where
    ONNX Runtime was built with it and a device answers, else the CPU; ``fell_back``: it was built
    with CUDA, and no device answered.
    Raises ModelError for a wrong checksum, a graph that is not what the manifest says, or two ONNX
    Runtimes installed over each other.
    """

    def __init__(self, model: ModelEntry, threads: int = 0) -> None:
        if threads < 0:
            raise ValueError(f"threads is 0 or more, found {threads}")
        refuse_two_runtimes()
        content = model.read()
        self.model = model
        self._session = _open(content, model, threads)
        self._input: str = self._session.get_inputs()[0].name
        _refuse_other_shapes(self._session, model)
        fixed = next(iter(self._session.get_inputs()[0].shape or []), None)
        self._batch: int = fixed if isinstance(fixed, int) else BATCH
        self.provider: str = self._session.get_providers()[0]
        built_for_cuda = CUDA in ort.get_available_providers()
        self.fell_back: bool = built_for_cuda and self.provider != CUDA
        log.info("model-loaded", model=model.name, provider=self.provider)

    @property
    def dimension(self) -> int:
        return self.model.dimension

    @property
    def fingerprint(self) -> str:
        return self.model.fingerprint

    def embed(self, prepared: NDArray[np.float32]) -> NDArray[np.float32]:
        """Unit vectors, float32 (n, dimension), of prepared slices (n, size, size) in [0, 1].

        ``size`` is the model's ``input_size``; n may be 0. What the model answers is divided by its
        length. A slice's vector does not depend on the slices beside it: every run has the same
        batch size, the last one filled up with zeros. Raises ValueError for another shape,
        ModelError when the model answers with anything but finite vectors that have a direction.
        """
        size = self.model.input_size
        if prepared.ndim != 3 or prepared.shape[1:] != (size, size):
            raise ValueError(f"prepared slices are (n, {size}, {size}), found {prepared.shape}")
        vectors = np.empty((len(prepared), self.model.dimension), np.float32)
        for start in range(0, len(prepared), self._batch):
            part = prepared[start : start + self._batch]
            vectors[start : start + len(part)] = self._run(part)
        lengths = np.linalg.norm(vectors, axis=1)
        if not np.all(np.isfinite(lengths) & (lengths > SHORTEST)):
            worst = lengths[np.argmin(np.nan_to_num(lengths, nan=-1, posinf=-1))]
            raise ModelError(f"model {self.model.name!r}: a vector has length {worst}")
        vectors /= lengths[:, np.newaxis]
        return vectors

    def _run(self, part: NDArray[np.float32]) -> NDArray[np.float32]:
        inputs = normalise(part, self.model.mean, self.model.std)
        if len(part) < self._batch:
            room = np.zeros((self._batch - len(part), *inputs.shape[1:]), np.float32)
            inputs = np.concatenate([inputs, room])
        try:
            answer: NDArray[np.float32] = self._session.run(None, {self._input: inputs})[0]
        except Exception as error:  # ONNX Runtime raises classes of its own, undocumented
            raise ModelError(f"model {self.model.name!r}: it cannot be run: {error}") from error
        if answer.shape != (self._batch, self.model.dimension):
            raise ModelError(
                f"model {self.model.name!r}: its answer to {self._batch} slices is "
                f"{answer.shape}, not ({self._batch}, {self.model.dimension})"
            )
        return answer[: len(part)]


def refuse_two_runtimes() -> None:
    """ModelError when onnxruntime and onnxruntime-gpu share one environment.

    They install into the same folder; whichever came last wins, silently: usually the CPU's.
    """
    found = [name for name in ("onnxruntime", "onnxruntime-gpu") if _installed(name)]
    if len(found) == 2:
        raise ModelError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; repair: "
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'diptych[gpu]' "
            "(or 'diptych[cpu]')"
        )


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _open(content: bytes, model: ModelEntry, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    wanted = [CUDA, "CPUExecutionProvider"]
    available = ort.get_available_providers()
    try:
        return ort.InferenceSession(
            content, options, providers=[name for name in wanted if name in available]
        )
    except Exception as error:  # ONNX Runtime raises classes of its own, undocumented
        raise ModelError(f"model {model.name!r}: ONNX Runtime refuses it: {error}") from error


def _refuse_other_shapes(session: Any, model: ModelEntry) -> None:
    """The graph takes one (n, channels, size, size) float and gives one (n, dimension) float.

    n may be free or fixed; a size the file leaves open is settled by the first run.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise ModelError(
            f"model {model.name!r}: one input and one output are expected, "
            f"found {len(inputs)} and {len(outputs)}"
        )
    size = model.input_size
    for what, node, expected in (
        ("input", inputs[0], [model.channels, size, size]),
        ("output", outputs[0], [model.dimension]),
    ):
        found = list(node.shape or [])[1:]
        if node.shape and (
            len(found) != len(expected)
            or any(isinstance(n, int) and n != m for n, m in zip(found, expected, strict=True))
        ):
            raise ModelError(
                f"model {model.name!r}: the manifest says {what} (n, {_words(expected)}), "
                f"the file says (n, {_words(found)})"
            )
        if node.type != "tensor(float)":
            raise ModelError(f"model {model.name!r}: {what} is float32, found {node.type}")


def _words(shape: list[Any]) -> str:
    return ", ".join(str(n) for n in shape)
