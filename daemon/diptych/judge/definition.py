"""A policy as it is written down, in TOML or JSON, and back.

Its fields are those of :class:`~diptych.judge.policy.Policy`, whatever these are: an unknown one is
an error, a missing one has its default. ``d_max`` belongs to a model, so a definition may leave it
out: it is then that of the model in use, and follows when the model is switched. A definition that
names its own keeps it through a switch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from hashlib import sha256
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from diptych.judge.policy import Policy

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
LARGEST_VERSION = 999_999
"""Name and version stand in the label of every verdict, whose column has 64 characters."""

_STANDS_IN = 1.0  # any possible d_max: the other numbers can be checked without a model


@dataclass(frozen=True)
class Definition:
    """The numbers of a policy. follows_model: ``d_max`` is the model's, that of ``numbers`` only
    stands in for it."""

    numbers: Policy
    follows_model: bool

    @property
    def key(self) -> tuple[str, int]:
        """(name, version): what a policy is asked for by."""
        return self.numbers.name, self.numbers.version

    @property
    def title(self) -> str:
        """NAME/VERSION, as the commands take it."""
        return f"{self.numbers.name}/{self.numbers.version}"

    @property
    def label(self) -> str:
        """What its row is called: title and the beginning of the hash."""
        return f"{self.title}+{self.sha256()[:12]}"

    def under(self, d_max: float) -> Policy:
        """The policy to judge by, with the model's ``d_max`` unless it has its own."""
        return replace(self.numbers, d_max=d_max) if self.follows_model else self.numbers

    def values(self) -> dict[str, Any]:
        """Every field; ``d_max`` None: the model's."""
        return asdict(self.numbers) | ({"d_max": None} if self.follows_model else {})

    def canonical_json(self) -> str:
        """The same text for the same definition: sorted keys, no spaces."""
        return json.dumps(self.values(), sort_keys=True, separators=(",", ":"), allow_nan=False)

    def sha256(self) -> str:
        """Hex digest of the canonical JSON."""
        return sha256(self.canonical_json().encode()).hexdigest()


BUNDLED = Definition(Policy("bundled", 3, _STANDS_IN), follows_model=True)
"""The policy that ships; the name is its own. ``d_max`` is measured with every model."""


def read(values: Mapping[str, Any]) -> Definition:
    """The definition that these fields make. ValueError: which one is wrong, and why."""
    hints, known = get_type_hints(Policy), {field.name: field for field in fields(Policy)}
    unknown = sorted(values.keys() - known.keys())
    if unknown:
        raise ValueError(f"no such field: {', '.join(unknown)}; a policy has {', '.join(known)}")
    given = {name: value for name, value in values.items() if value is not None or name != "d_max"}
    follows_model = "d_max" not in given
    required = {name for name, f in known.items() if f.default is f.default_factory is MISSING}
    if missing := sorted(required - given.keys() - {"d_max"}):
        raise ValueError(f"{' and '.join(missing)} must be given")
    fitted = {name: _fitted(name, hints[name], value) for name, value in given.items()}
    if not NAME.fullmatch(fitted["name"]):
        raise ValueError(
            f"name {fitted['name']!r}: up to 32 of a-z, 0-9, '.', '_' and '-', no mark first"
        )
    if not 1 <= fitted["version"] <= LARGEST_VERSION:
        raise ValueError(f"version must be 1 to {LARGEST_VERSION}, not {fitted['version']}")
    return Definition(Policy(**{"d_max": _STANDS_IN, **fitted}), follows_model)


def read_json(text: str) -> Definition:
    """What :meth:`Definition.canonical_json` or ``Policy.canonical_json`` wrote. ValueError."""
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError(f"a policy is an object, not {type(values).__name__}")
    return read(values)


def _fitted(name: str, kind: Any, value: object) -> Any:
    """``value`` as the field's type has it; whole numbers are numbers, truth values are not."""
    if get_origin(kind) in (Union, UnionType):
        kinds = get_args(kind)
        if value is None and type(None) in kinds:
            return None
        kind = next(each for each in kinds if each is not type(None))
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    words = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}
    raise ValueError(f"{name} must be {words.get(kind, kind.__name__)}, not {value!r}")
