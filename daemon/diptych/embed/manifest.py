"""Models: an ONNX file and what must be known about it, checked before anything is believed.

``models/manifest.toml`` of the source tree is shipped in the wheel as ``diptych/_models/``;
``diptych model add`` keeps another of the same format in the data folder. ``file`` is relative to
the manifest that names it.
"""

from __future__ import annotations

import hashlib
import math
import re
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from diptych.embed.prepare import PREPARATION_VERSION
from diptych.errors import ModelError

MANIFEST_VERSION = 1
PRECISIONS = ("fp32", "fp16", "int8")
LARGEST_DISTANCE = 2.0
"""L2 distance of opposite unit vectors."""
LARGEST_INPUT = 1024
"""Pixels a side: a manifest that asks for more is a typing error."""


@dataclass(frozen=True)
class ModelEntry:
    """One model of a manifest; an impossible one cannot be constructed (ModelError).

    ``d_max``: the L2 distance of unit vectors within which a slice counts as a hit: the 0.1 %
    quantile of the distances from a slice to its nearest neighbour among strangers' slices;
    ``calibration`` says of which slices. ``source``: where the weights came from.
    """

    name: str
    path: Path
    sha256: str
    input_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dimension: int
    precision: str
    licence: str
    preparation: str
    d_max: float
    card: str = ""
    source: str = ""
    calibration: str = ""

    def __post_init__(self) -> None:
        where = f"model {self.name!r}"
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", self.name):
            raise ModelError(f"{where}: a name is up to 64 of a-z, 0-9, '.', '_' and '-'")
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ModelError(f"{where}: sha256 is 64 hexadecimal digits, found {self.sha256!r}")
        if not 1 <= self.input_size <= LARGEST_INPUT:
            raise ModelError(
                f"{where}: input_size is 1 to {LARGEST_INPUT}, found {self.input_size}"
            )
        if self.channels not in (1, 3):
            raise ModelError(f"{where}: channels is 1 or 3, found {self.channels}")
        if not len(self.mean) == len(self.std) == self.channels:
            raise ModelError(
                f"{where}: {self.channels} channels, {len(self.mean)} means, {len(self.std)} std"
            )
        if not all(math.isfinite(m) for m in self.mean):
            raise ModelError(f"{where}: mean is finite, found {self.mean}")
        if not all(math.isfinite(s) and s > 0 for s in self.std):
            raise ModelError(f"{where}: std is above 0, found {self.std}")
        if self.dimension < 1:
            raise ModelError(f"{where}: dimension is at least 1, found {self.dimension}")
        if self.precision not in PRECISIONS:
            raise ModelError(f"{where}: precision is one of {PRECISIONS}, found {self.precision!r}")
        if self.preparation != PREPARATION_VERSION:
            raise ModelError(
                f"{where}: made for preparation {self.preparation!r}, "
                f"this is {PREPARATION_VERSION!r}"
            )
        if not 0 < self.d_max <= LARGEST_DISTANCE:
            raise ModelError(f"{where}: d_max is above 0 and at most 2, found {self.d_max}")

    @property
    def fingerprint(self) -> str:
        """sha256 of the ONNX file's sha256, the preparation version and the precision.

        Vectors of different fingerprints never meet in one comparison.
        """
        parts = "\n".join((self.sha256, self.preparation, self.precision))
        return hashlib.sha256(parts.encode()).hexdigest()

    def read(self) -> bytes:
        """The ONNX file's bytes, whose checksum is the manifest's; ModelError otherwise."""
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise ModelError(
                f"model {self.name!r}: cannot read {self.path} ({error.strerror})"
            ) from error
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise ModelError(
                f"model {self.name!r}: checksum of {self.path.name} is wrong: "
                f"expected sha256 {self.sha256}, found {found}"
            )
        return content


def load_model(
    name: str | None = None, manifest: Path | None = None, registered: Path | None = None
) -> ModelEntry:
    """The named model (default: the manifest's ``default``) of a manifest (default: the bundled).

    ``registered``: a second manifest to look in, which need not exist. A name that both have is
    nobody's: it must not depend on the order. Reads the manifests only; :meth:`ModelEntry.read`
    checks the file. Raises ModelError.
    """
    path = bundled_manifest() if manifest is None else manifest
    content = _parse(path)
    known = {entry.name: entry for entry in models(path)}
    if registered is not None and registered.exists():
        for entry in models(registered):
            if entry.name in known:
                raise ModelError(
                    f"two models are called {entry.name!r}: one is bundled, the other is in "
                    f"{registered}, and `diptych model remove {entry.name}` removes that one"
                )
            known[entry.name] = entry
    wanted = content["default"] if name is None else name
    if wanted not in known:
        raise ModelError(f"{path.name} has no model {wanted!r}; it has {sorted(known)}")
    return known[wanted]


def models(manifest: Path) -> list[ModelEntry]:
    """Every model of a manifest, in its order. Raises ModelError."""
    return [_entry(raw, manifest) for raw in _parse(manifest)["model"]]


def bundled_manifest() -> Path:
    """The manifest shipped in the wheel, or the source tree's in a checkout."""
    package = Path(__file__).resolve().parent.parent
    places = (
        package / "_models" / "manifest.toml",
        package.parent.parent / "models" / "manifest.toml",
    )
    for place in places:
        if place.is_file():
            return place
    raise ModelError(f"no bundled model: neither {places[0]} nor {places[1]} exists")


def _parse(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"cannot read the model manifest {path} ({error.strerror})") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ModelError(f"the model manifest {path} is not TOML: {error}") from error
    if content.get("version") != MANIFEST_VERSION:
        raise ModelError(
            f"{path.name}: version is {MANIFEST_VERSION}, found {content.get('version')!r}"
        )
    if not isinstance(content.get("default"), str):
        raise ModelError(f"{path.name}: 'default' names a model, found {content.get('default')!r}")
    models = content.get("model")
    if not isinstance(models, list) or not all(isinstance(raw, dict) for raw in models):
        raise ModelError(f"{path.name}: models are [[model]] tables")
    return content


_OPTIONAL = {"card", "source", "calibration"}
_KINDS: dict[str, type | tuple[type, ...]] = {
    "name": str, "file": str, "sha256": str, "input_size": int, "channels": int, "mean": list,
    "std": list, "dimension": int, "precision": str, "licence": str, "preparation": str,
    "d_max": (int, float), "card": str, "source": str, "calibration": str,
}  # fmt: skip


def _entry(raw: dict[str, Any], manifest: Path) -> ModelEntry:
    """A table as an entry; every key known, none missing, each of its kind."""
    where = f"{manifest.name}, model {raw.get('name', '?')!r}"
    missing = set(_KINDS) - set(raw) - _OPTIONAL
    unknown = set(raw) - set(_KINDS)
    if missing or unknown:
        raise ModelError(f"{where}: missing {sorted(missing)}, unknown {sorted(unknown)}")
    for key, value in raw.items():
        if not isinstance(value, _KINDS[key]) or isinstance(value, bool):
            raise ModelError(f"{where}: {key} is {value!r}")
    values = dict(raw)
    values["path"] = manifest.parent / values.pop("file")
    for key in ("mean", "std"):
        if not all(isinstance(x, int | float) for x in values[key]):
            raise ModelError(f"{where}: {key} is numbers, found {values[key]!r}")
        values[key] = tuple(float(x) for x in values[key])
    values["d_max"] = float(values["d_max"])
    assert values.keys() <= {field.name for field in fields(ModelEntry)}
    return ModelEntry(**values)
