"""``diptych calibrate``: ask the cases of the archive in random order, then count.

It reads only, and beside a running daemon: cases that come meanwhile are not asked. What was asked
until an interruption is a random sample, and is counted as one.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from diptych import __version__, policies
from diptych.active import model_in_use
from diptych.audit import population
from diptych.audit.population import Member
from diptych.audit.store import Store
from diptych.calibration.figures import Figures, count, named
from diptych.calibration.nulls import COPIES, Asked, Nulls
from diptych.calibration.report import Setting
from diptych.calibration.strangers import Population, groups, left_out
from diptych.config import Config
from diptych.embed.session import Embedder
from diptych.errors import UsageError
from diptych.evaluate.answers import SEVEN, TRANSFORMS, Transform
from diptych.evaluate.progress import Progress
from diptych.judge.ladder import Relation
from diptych.lookup import Indexes
from diptych.receive.spool import Spool
from diptych.registry import volumes
from diptych.volume.decoders import DecoderPool
from diptych.worker import open_index, open_layouts

FEWEST = 2


@dataclass(frozen=True)
class Options:
    """transforms: all, seven, none, or a list; sample: None for every case; policy: None for the
    one in use."""

    transforms: str
    sample: int | None
    seed: int
    policy: str | None


def calibrate(config: Config, store: Store, options: Options) -> tuple[Figures, Setting]:
    """Raises UsageError: fewer than two cases, no such policy or transform."""
    transforms = chosen(options.transforms)
    model = model_in_use(config, store)
    with store.read() as connection:
        definition = (
            policies.in_use(connection)
            if options.policy is None
            else policies.definition(connection, options.policy)
        )
        fingerprint_id = population.fingerprint_id(connection, model.fingerprint)
        copies = population.links(connection, COPIES)
    everything = (
        None
        if fingerprint_id is None
        else Population(store, fingerprint_id, model.dimension, copies)
    )
    if everything is None or fingerprint_id is None or len(everything.members) < FEWEST:
        raise UsageError(
            f"{config.data} holds {len(everything.members) if everything else 0} cases embedded by "
            f"{model.name}: a case is held against the others, so it needs at least {FEWEST}"
        )
    policy = definition.under(model.d_max)
    embedder = Embedder(model, config.model.threads or 1)
    indexes = Indexes(
        open_index(config, store, embedder, fingerprint_id), open_layouts(config, store)
    )
    spool = Spool(config.spool_folder, config.source_names())
    decode = config.decode
    members = _drawn(everything.members, options)
    believed = groups(everything.members, copies)
    answers: list[Asked] = []
    interrupted = False
    with DecoderPool(
        children=decode.children,
        seconds_per_instance=decode.seconds_per_instance,
        memory_bytes=decode.memory_bytes,
    ) as decoders:
        nulls = Nulls(
            everything,
            indexes,
            embedder,
            policy,
            believed,
            groups(everything.members, [c for c in copies if c.relation == Relation.EXACT]),
            lambda wanted: volumes.of(wanted, spool.path, decoders),
        )
        logging.getLogger("diptych").setLevel(logging.ERROR)
        with Progress().phase("cases", len(members), len(members)) as phase:
            try:
                for member in members:
                    answers.append(nulls.ask(member, transforms))
                    phase.finished(1)
            except KeyboardInterrupt:
                interrupted = True
    setting = Setting(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
        cases=len(everything.members),
        planned=len(members),
        seed=options.seed if len(members) < len(everything.members) or interrupted else None,
        model=model.name,
        fingerprint=model.fingerprint,
        policy=policy,
        search=indexes.slices.name,
        interrupted=interrupted,
        left_out=left_out(everything.members, copies, believed),
    )
    return count(answers, transforms, policy.threshold), setting


def chosen(text: str) -> tuple[Transform, ...]:
    """The transforms that ``--transforms`` names, in the paper's order. Raises UsageError."""
    whole = {"all": TRANSFORMS, "seven": SEVEN, "none": ()}
    if text in whole:
        return whole[text]
    wanted = {part.strip() for part in text.split(",")}
    found = tuple(t for t in TRANSFORMS if {t.name, named(t)} & wanted)
    unknown = wanted - {word for t in found for word in (t.name, named(t))}
    if unknown or not found:
        raise UsageError(
            f"--transforms {text!r}: {', '.join(sorted(unknown))}: no such transform; all, seven, "
            f"none, or a list of {', '.join(dict.fromkeys(t.name for t in TRANSFORMS))} and single "
            f"strengths ({named(TRANSFORMS[5])})"
        )
    return found


def _drawn(members: list[Member], options: Options) -> list[Member]:
    """In random order, so that what is done before an interruption is a sample."""
    order = np.random.default_rng(options.seed).permutation(len(members))
    return [members[place] for place in order[: options.sample]]
