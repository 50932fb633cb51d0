"""A screening made by hand, with real proxies, real alignments and stand-ins for embeddings."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from functools import cache

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from scipy import ndimage

from diptych.demo.phantoms import Recipe, generate
from diptych.judge import proxy
from diptych.judge.ladder import Relation
from diptych.judge.verify import verify
from diptych.screen.findings import (
    Collection,
    Kind,
    Known,
    Match,
    Outcome,
    Ref,
    Screening,
    Series,
    Stack,
)
from diptych.screen.limits import decide
from diptych.screen.report.given import Pictures
from diptych.screen.terms import Terms

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SECRET_SET = "trial seven (confidential)"
OWNED_UID = "1.2.276.0.7230010.3.1.3.777001"
OWNED_SOURCE = "siemens-ward-4"
OWNED_FACT = "OWNEDSCANNER"
HOSTILE = '<img src=x onerror="alert(1)">\u202egpj.\x07"; =cmd|calc'
SHAPE, PITCH, PIXEL = (40, 96, 96), 4.0, 2.5


@cache
def body(kind, seed):
    phantom = generate(Recipe("x", kind, seed, SHAPE, (PITCH, PIXEL, PIXEL)))
    return phantom.pixels.astype(np.float32), phantom.affine


def encoded(volume, affine):
    return proxy.encode(np.ascontiguousarray(volume, np.float32), affine)


@cache
def volumes():
    """name → proxy as stored."""
    abdomen, affine = body("abdomen", 61)
    head, head_affine = body("head", 70)
    chest, chest_affine = body("chest", 12)
    turned = ndimage.rotate(abdomen, 8, axes=(1, 2), reshape=False, order=1, cval=-1000)
    turned = ndimage.shift(turned, (0, 4, -3), order=1, cval=-1000)
    noise = np.random.default_rng(3).normal(0, 60, SHAPE)
    return {
        "abdomen": encoded(abdomen, affine),
        "abdomen turned": encoded(turned + noise, affine),
        "head": encoded(head, head_affine),
        "head part": encoded(head[8:28], head_affine),
        "chest": encoded(chest, chest_affine),
    }


def path(rng, n, d=24):
    """Vectors that change slowly along a stack."""
    steps = np.cumsum(rng.standard_normal((n, d)), 0)
    return (steps / np.linalg.norm(steps, axis=1, keepdims=True)).astype(np.float32)


@cache
def vectors():
    rng = np.random.default_rng(5)
    abdomen, head, chest = path(rng, 40), path(rng, 40), path(rng, 40)
    near = abdomen + 0.02 * rng.standard_normal(abdomen.shape).astype(np.float32)
    return {
        "abdomen": abdomen,
        "abdomen turned": near,
        "head": head,
        "head part": head[8:28],
        "chest": chest,
    }


AT = {
    Ref("delivery", 1, 1): "abdomen",
    Ref("delivery", 2, 2): "abdomen turned",
    Ref("delivery", 3, 3): "head part",
    Ref("delivery", 4, 4): "chest",
    Ref("delivery", 6, 6): "abdomen",
    Ref("owned", 9): "head",
    Ref(SECRET_SET, 4): "chest",
}
PICTURES = Pictures(
    lambda ref: volumes().get(AT.get(ref, "")), lambda ref: vectors().get(AT.get(ref, ""))
)
NO_PICTURES = Pictures(lambda _: None, lambda _: None)
FACTS = {"Manufacturer": "ACME", "KVP": "120", "ConvolutionKernel": "B30f", "PatientSex": "F"}


@cache
def checked(ours, theirs):
    one, other = (proxy.decode(volumes()[name]) for name in (ours, theirs))
    return verify(0, one, other)


def unique(kind, collection):
    return Match(kind, collection, Relation.UNIQUE, None, 0.1, 0.3, 0.7711, "no", "no-candidate")


def match(kind, collection, relation, other, check, why="aligned"):
    exact = relation is Relation.EXACT
    return Match(
        kind,
        collection,
        relation,
        other,
        1.0 if exact else 0.95,
        1.0,
        0.7711,
        "yes",
        "pixel-digest" if exact else why,
        None if exact else check,
    )


def known(ref, uid, source="", **facts):
    return Known(ref, uid + ".1", uid, source, "CT", "ABDOMEN", 40, {**FACTS, **facts})


def series(number, relation, matches, modality="CT", **more):
    uid = f"1.2.826.0.1.3680043.8.498.{number}"
    stack = Stack(
        Ref("delivery", number, number),
        True,
        relation,
        more.pop("reason", ""),
        more.pop("detail", ""),
        modality,
        "ABDOMEN",
        40,
        40,
        more.pop("flags", ()),
        tuple(matches),
    )
    given = {
        "number": number,
        "place": f"/data/in/batch/part-{number}",
        "kind": "dicom",
        "study_instance_uid": f"{uid}.1",
        "series_instance_uid": uid,
        "modality": modality,
        "transfer_syntax": "1.2.840.10008.1.2.1",
        "files": 40,
        "slices": 40,
        "bytes": 2_000_000,
        "vendor": "",
        "split": "train",
        "price": Decimal("120"),
        "stacks": (stack,),
        "facts": FACTS,
    }
    return Series(**{**given, **more})


INSIDE = Kind.DELIVERY, "delivery"
OWNED = Kind.OWNED, "owned"
SET = Kind.TEST_SET, SECRET_SET


def others(*skipped):
    return [unique(*place) for place in (INSIDE, OWNED, SET) if place not in skipped]


def delivered():
    first = Known(
        Ref("delivery", 1, 1), "1.2.826.0.1.3680043.8.498.1.1", "1.2.826.0.1.3680043.8.498.1", "",
        "CT", "ABDOMEN", 40, {**FACTS, "KVP": "100"},
    )  # fmt: skip
    owned = known(Ref("owned", 9), OWNED_UID, OWNED_SOURCE, Manufacturer=OWNED_FACT)
    leaked = known(Ref(SECRET_SET, 4), "1.2.276.0.7230010.3.1.3.888002", "trial-archive")
    return (
        series(1, Relation.UNIQUE, others()),
        series(
            2,
            Relation.NEAR_DUPLICATE,
            [
                match(
                    *INSIDE, Relation.NEAR_DUPLICATE, first, checked("abdomen turned", "abdomen")
                ),
                *others(INSIDE),
            ],
            facts={**FACTS, "Manufacturer": HOSTILE},
        ),
        series(
            3,
            Relation.UNIQUE,
            [
                match(*OWNED, Relation.PARTIAL, owned, checked("head part", "head")),
                *others(OWNED),
            ],
            modality="MR",
            flags=("cross_source", "geometry_inferred"),
        ),
        series(
            4,
            Relation.UNIQUE,
            [match(*SET, Relation.EXACT, leaked, None), *others(SET)],
            vendor="Other & Sons",
        ),
        series(5, Relation.NOT_SCREENABLE, [], reason="no-informative-slice"),
        series(6, Relation.EXACT, [match(*INSIDE, Relation.EXACT, first, None), *others(INSIDE)]),
        series(
            7,
            Relation.RELATED,
            [match(*INSIDE, Relation.RELATED, first, None, why="refuted"), *others(INSIDE)],
            place="/data/in/=HYPERLINK(1)" + HOSTILE,
        ),
        *(series(number, Relation.UNIQUE, others()) for number in range(8, 21)),
    )


def screening(**changes):
    found = Screening(
        delivery="Lot 7",
        vendor="Acme Imaging",
        inputs=("/data/in/batch", "/data/in/more.zip"),
        began=1_790_000_000_000_000,
        ended=1_790_000_900_000_000,
        seconds=900.0,
        version="0.1.0",
        model="diptych-dino-3",
        fingerprint="5f" * 32,
        policy="bundled/3+0123456789ab",
        collections=(
            Collection(Kind.OWNED, "owned", 31_337),
            Collection(Kind.TEST_SET, SECRET_SET, 51_217),
        ),
        files=803,
        entries=820,
        bytes=41_000_000,
        outcomes=(
            Outcome("readable", "", 800, 40_000_000),
            Outcome("not-screenable", "no-pixel-data", 3, 10_000),
            Outcome("not-an-image", "", 15, 900_000),
            Outcome("unreadable", "damaged", 1, 5_000),
            Outcome("opened", "", 1, 85_000),
        ),
        absent=(("DICOMDIR", "IM/0007", "missing"),),
        series=delivered(),
        complete=True,
    )
    return replace(found, **changes)


def decision(given):
    return decide(given, Terms())
