"""Export a trained checkpoint as ONNX, check parity, and write its manifest entry.

    python models/export.py --checkpoint models/runs/second/checkpoint.pt --name diptych-dino-3

The graph takes (n, 1, 112, 112) prepared slices and gives (n, d) unit vectors; n is free. The
teacher (the moving average) is what is exported. Parity with torch is printed, and a difference
above 1e-4 is an error. ``--random SEED`` exports the network untrained: a peer for the comparison.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import entry
import networks
from diptych.embed.prepare import PREPARATION_VERSION

HERE = Path(__file__).resolve().parent
OPSET = 17
PARITY = 1e-4  # largest absolute difference of a component of a unit vector
LARGEST = 25 * 2**20  # bytes of a bundled file
UNMEASURED = 0.05  # d_max until measure.py has run: so small that only exact copies are hits


class Embedding(nn.Module):
    """What is exported: the network and the division by the length."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        return self.network.embed(slices)


def main() -> None:
    options = arguments()
    state = torch.load(options.checkpoint, map_location="cpu", weights_only=True)
    config = state["config"]
    if options.random is not None:
        torch.manual_seed(options.random)
    network = networks.build(config)
    if options.random is None:
        network.load_state_dict(state["teacher"])
    target = options.manifest.parent / "bundled" / f"{options.name}.onnx"
    target.parent.mkdir(exist_ok=True)
    export(network, target)
    difference = parity(network, target)
    size = target.stat().st_size
    print(f"{target.name}: {size / 1e6:.1f} MB, largest difference from torch {difference:.2e}")
    if size > LARGEST:
        raise SystemExit(f"{size} bytes are more than {LARGEST}")
    write_entry(options, config, target)
    if options.facts:
        facts = {
            "network": config["network"],
            "parameters": sum(p.numel() for p in network.parameters()),
            "mmac": round(multiplications(network) / 1e6, 1),
            "steps": 0 if options.random is not None else state["step"],
        }
        target.with_suffix(".json").write_text(json.dumps(facts) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--manifest", type=Path, default=HERE / "manifest.toml")
    parser.add_argument("--licence", default="Apache-2.0")
    parser.add_argument("--random", type=int, help="leave the weights as this seed draws them")
    parser.add_argument("--facts", action="store_true", help="size and cost beside it, as JSON")
    return parser.parse_args()


def multiplications(network: nn.Module) -> float:
    """Multiply-accumulates of one slice, as torch counts them (matrices and convolutions)."""
    size = network.config["img_size"]
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network.eval()(torch.rand(1, 1, size, size))
    return counter.get_total_flops() / 2


def export(network: nn.Module, target: Path) -> None:
    """Write the network as ONNX with a free batch size."""
    network.eval()
    size = network.config["img_size"]
    example = torch.rand(2, 1, size, size)
    torch.onnx.export(
        Embedding(network), (example,), str(target), dynamo=False, opset_version=OPSET,
        input_names=["slices"], output_names=["embedding"],
        dynamic_axes={"slices": {0: "n"}, "embedding": {0: "n"}},
    )  # fmt: skip
    model = onnx.load(target)
    model = onnx.shape_inference.infer_shapes(model)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = networks.dimension(
        network.config
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)


def parity(network: nn.Module, target: Path) -> float:
    """Largest absolute difference between ONNX Runtime and torch; SystemExit above PARITY."""
    session = ort.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape[1:]
    random = np.random.default_rng(0)
    smooth = np.cumsum(np.cumsum(random.normal(size=(5, *shape)), -1), -2)
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    inputs = np.concatenate(
        [random.random((3, *shape)), smooth, np.zeros((1, *shape)), np.ones((1, *shape))]
    ).astype(np.float32)
    with torch.no_grad():
        expected = network.eval().embed(torch.from_numpy(inputs)).numpy()
    found = session.run(None, {session.get_inputs()[0].name: inputs})[0]
    difference = float(np.abs(found - expected).max())
    if not difference <= PARITY:
        raise SystemExit(f"ONNX differs from torch by {difference}, more than {PARITY}")
    return difference


def write_entry(options: argparse.Namespace, config: dict, target: Path) -> None:
    entry.change(
        options.manifest,
        options.name,
        file=str(target.relative_to(options.manifest.parent)),
        sha256=hashlib.sha256(target.read_bytes()).hexdigest(),
        input_size=config["img_size"], channels=1, mean=[0.0], std=[1.0],
        dimension=networks.dimension(config), precision="fp32", licence=options.licence,
        preparation=PREPARATION_VERSION, d_max=UNMEASURED, card="CARD.md",
    )  # fmt: skip
    print(f"{options.manifest.name}: {options.name} written; now run measure.py for its d_max")


if __name__ == "__main__":
    main()
