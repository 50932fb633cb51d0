"""A published checkpoint becomes an ONNX file that answers as it does. Only this needs torch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from diptych.embed.prepare import normalise
from diptych.errors import ModelError, UsageError
from diptych.registry.official import IMAGENET_MEAN, IMAGENET_STD, SIZE, Checkpoint

if TYPE_CHECKING:
    from diptych.registry.vit import VisionTransformer

OPSET = 17
PARITY = 1e-4
"""Largest absolute difference of a component of a unit vector between torch and ONNX Runtime."""

_NAMED = 3  # keys named in a refusal; there may be hundreds


def require_torch() -> None:
    """UsageError with the command that installs what is missing."""
    try:
        import onnx  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"{error}: official checkpoints need torch and onnx once, to become an ONNX file: "
            "pip install 'diptych[cpu,export]' (torch's CPU build is enough: add "
            "--extra-index-url https://download.pytorch.org/whl/cpu), or export on another machine "
            "and use --onnx"
        ) from error


def load(path: Path, checkpoint: Checkpoint) -> VisionTransformer:
    """The network with the file's weights at the size we use; every name and shape must agree.

    Nothing of the file is executed (``weights_only``). ModelError says what differs.
    """
    import torch

    from diptych.registry.vit import VisionTransformer

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever pickle, zipfile and itself raise
        words = str(error).splitlines()
        raise ModelError(
            f"{path.name} is no checkpoint that torch reads as weights: "
            f"{words[0] if words else type(error).__name__}"
        ) from error
    network: VisionTransformer = VisionTransformer(**checkpoint.network)  # type: ignore[arg-type]
    _refuse_others(path, checkpoint, state, network.state_dict())
    network.load_state_dict(state, strict=True)
    fitted: VisionTransformer = network.fit(SIZE).eval()
    return fitted


def export(network: VisionTransformer, target: Path) -> None:
    """Write the network and the division by the length as ONNX, fp32, with a free batch size."""
    import onnx
    import torch
    from torch import nn

    class Embedding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, slices: torch.Tensor) -> torch.Tensor:
            return self.network.embed(slices)

    example = torch.rand(2, network.patch_embed.proj.in_channels, SIZE, SIZE)
    with warnings.catch_warnings():
        # That the shapes are fixed but for n, and that another exporter (with one more package to
        # install) is the default now: both are known, and parity is what counts.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Embedding().eval(), (example,), str(target), dynamo=False, opset_version=OPSET,
            input_names=["slices"], output_names=["embedding"],
            dynamic_axes={"slices": {0: "n"}, "embedding": {0: "n"}},
        )  # fmt: skip
    model = onnx.load(target)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = network.pos_embed.shape[2]
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)


def parity(network: VisionTransformer, target: Path) -> float:
    """Largest absolute difference of the exported file from torch; ModelError above PARITY.

    Asked with noise, smooth pictures, black and white, normalised as slices are.
    """
    import torch

    random = np.random.default_rng(0)
    smooth = np.cumsum(np.cumsum(random.normal(size=(4, SIZE, SIZE)), -1), -2)
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    pictures = [random.random((2, SIZE, SIZE)), smooth, np.zeros((1, SIZE, SIZE))]
    prepared = np.concatenate([*pictures, np.ones((1, SIZE, SIZE))]).astype(np.float32)
    inputs = normalise(prepared, IMAGENET_MEAN, IMAGENET_STD)
    with torch.no_grad():
        expected: NDArray[np.float32] = network.embed(torch.from_numpy(inputs)).numpy()
    session = ort.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: inputs})[0]
    difference = float(np.abs(found - expected).max())
    if not difference <= PARITY:  # NaN is no agreement
        raise ModelError(
            f"the exported file differs from torch by {difference:.2e}, more than {PARITY:.0e}"
        )
    return difference


def _refuse_others(path: Path, checkpoint: Checkpoint, state: Any, wanted: Any) -> None:
    """ModelError unless names and shapes are the published ones."""
    if not isinstance(state, dict) or not all(hasattr(v, "shape") for v in state.values()):
        raise ModelError(
            f"{path.name} is not a dictionary of weights: {checkpoint.name} is the file "
            f"{checkpoint.file_name} (backbone only)"
        )
    differing = {
        "missing": sorted(set(wanted) - set(state)),
        "unknown": sorted(set(state) - set(wanted)),
        "of another shape": [
            f"{key} {tuple(state[key].shape)}, not {tuple(wanted[key].shape)}"
            for key in sorted(set(wanted) & set(state))
            if state[key].shape != wanted[key].shape
        ],
    }
    if any(differing.values()):
        said = [
            f"{len(keys)} {what} ({', '.join(keys[:_NAMED])}{' …' if len(keys) > _NAMED else ''})"
            for what, keys in differing.items()
            if keys
        ]
        raise ModelError(f"{path.name} does not hold {checkpoint.name}: weights {'; '.join(said)}")
