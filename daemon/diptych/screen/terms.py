"""The terms under which a delivery is accepted: a TOML file over the defaults.

``deploy/screen-policy.example.toml`` documents every key; a test holds the two together. A limit is
a share of the series that could be judged ("0.5 %"), a number of series (7), or "no limit". What is
exactly at its limit is accepted.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError, model_validator

from diptych.config import explain
from diptych.errors import UsageError
from diptych.judge.ladder import Relation
from diptych.sections import Section

from .findings import Kind

NO_LIMIT = "no limit"
# Six decimals: a share is exact in decimal numbers, and so is what it is of any delivery.
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)\s*%", re.ASCII)
_IN_WORDS = 'should be a share such as "0.5 %", a number of series such as 7, or "no limit"'


@dataclass(frozen=True)
class Limit:
    """The most that is accepted. text: as written; neither count nor share: whatever there is."""

    text: str
    count: int | None = None
    share: Decimal | None = None

    def exceeded(self, found: int, of: int) -> bool:
        """Whether ``found`` of ``of`` is more than that."""
        if self.count is not None:
            return found > self.count
        return self.share is not None and found > self.share * of

    @property
    def set(self) -> bool:
        """Whether there is one."""
        return self.count is not None or self.share is not None


def limit(value: Any) -> Limit:
    """Of what the file says. ValueError when that is none."""
    if isinstance(value, Limit):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise ValueError(_IN_WORDS)
        return Limit(str(value), count=value)
    if isinstance(value, str):
        text = value.strip()
        if text == NO_LIMIT:
            return Limit(NO_LIMIT)
        found = _SHARE.fullmatch(text)
        if found and Decimal(found[1]) <= 100:
            return Limit(f"{found[1]} %", share=Decimal(found[1]) / 100)
    # 0.5 could be half a percent or a half: who reads a contract must not wonder.
    raise ValueError(_IN_WORDS)


def _as_written(found: Limit) -> str | int:
    return found.text if found.count is None else found.count


Written = Annotated[Limit, BeforeValidator(limit), PlainSerializer(_as_written)]
UNLIMITED = limit(NO_LIMIT)


class Limits(Section):
    """Of copies of one kind of collection: together, and by relation."""

    copies: Written = UNLIMITED
    exact: Written = UNLIMITED
    near_duplicate: Written = UNLIMITED
    partial: Written = UNLIMITED

    def of(self, relation: Relation | None) -> Limit:
        """None: of all copies together."""
        found = {
            None: self.copies,
            Relation.EXACT: self.exact,
            Relation.NEAR_DUPLICATE: self.near_duplicate,
            Relation.PARTIAL: self.partial,
        }
        return found[relation]


class Kinds(Section):
    """Limits for each kind of collection."""

    delivery: Limits = Limits()
    owned: Limits = Limits()
    test_set: Limits = Limits()

    def at(self, kind: Kind) -> Limits:
        """Those for one kind."""
        return {Kind.DELIVERY: self.delivery, Kind.OWNED: self.owned}.get(kind, self.test_set)


class Scope(Kinds):
    """Limits on a part of the delivery, beside those on all of it. Empty: any."""

    modality: str = ""
    vendor: str = ""

    @model_validator(mode="after")
    def _of_something(self) -> Scope:
        if not self.modality and not self.vendor:
            raise ValueError("needs a modality, a vendor, or both")
        return self


class Bought(Limits):
    """Where nothing else is said: copies cost money, and a few come of honest work."""

    copies: Written = limit("0.5 %")


class Reserved(Limits):
    """Where nothing else is said: one leak makes every later measurement doubtful."""

    copies: Written = limit(0)


class Unjudged(Section):
    """Limits on what was not looked at."""

    unreadable: Written = limit("1 %")
    not_screenable: Written = limit("5 %")


class Fact(Section):
    """Series of which the fact ``keyword`` contains a text, in capitals or not."""

    why: str = Field(min_length=1, max_length=100)
    keyword: str = Field(min_length=1)
    contains: str = Field(min_length=1)


class Exclude(Section):
    """What is not counted, though listed."""

    localizers: bool = True
    phantoms: bool = True
    modalities: tuple[str, ...] = ()
    min_slices: int = Field(0, ge=0)
    fact: tuple[Fact, ...] = ()


class Terms(Kinds):
    """All of them."""

    name: str = Field("default", min_length=1, max_length=100)
    delivery: Bought = Bought()
    owned: Bought = Bought()
    test_set: Reserved = Reserved()
    unjudged: Unjudged = Unjudged()
    exclude: Exclude = Exclude()
    scope: tuple[Scope, ...] = ()

    @model_validator(mode="after")
    def _every_scope_once(self) -> Terms:
        scopes = [(scope.modality, scope.vendor) for scope in self.scope]
        if len(set(scopes)) != len(scopes):
            raise ValueError("scope: every pair of modality and vendor once")
        return self


def load(file: Path | None = None) -> Terms:
    """The defaults, or a file over them. UsageError names the file, the key and what is wrong."""
    if file is None:
        return Terms()
    try:
        return Terms.model_validate(tomllib.loads(file.read_text("utf-8")))
    except OSError as error:
        raise UsageError(f"policy {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"policy {file} is not TOML: {error}") from error
    except ValidationError as error:
        raise UsageError(f"policy {file}: {'; '.join(map(explain, error.errors()))}") from None
