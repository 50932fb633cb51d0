"""What the stand-ins change: the ladder's figures with and without them, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diptych.evaluate.answers import Protocol
from diptych.evaluate.beyond import product_table
from diptych.evaluate.cells import NOTHING, Record, Table, number, rate_columns, rate_text
from diptych.evaluate.document import Document, product_document
from diptych.evaluate.product_results import ProductResults


@dataclass(frozen=True)
class Crowded:
    """The ladder's results with the stand-ins in its archive, and the facts about these
    (:meth:`Run.crowd_facts`)."""

    product: ProductResults
    facts: Mapping[str, Any]


def crowd_tables(protocol: Protocol, alone: ProductResults, crowded: Crowded) -> list[Table]:
    """The comparison, what it took, and the ladder's table with the stand-ins."""
    return [
        _compared(protocol, alone, crowded),
        _took(crowded.facts),
        product_table(
            crowded.product, "product-crowded", "The daemon's own ladder among the stand-ins"
        ),
    ]


def crowd_words(crowded: Crowded, alone: ProductResults) -> str:
    """A sentence for the summary."""
    product, facts = crowded.product, crowded.facts
    strangers = product.untransformed
    ratio = _ratio(product.seconds_per_case, alone.seconds_per_case)
    return (
        f"With {facts['stand_ins']} stand-ins of {facts['slices']} slices in its archive it finds "
        f"{rate_text(product.mean_sensitivity)} of the copies in the seven sets and "
        f"{rate_text(product.mean_sensitivity_all)} in all 25, and calls "
        f"{strangers.false_positives} of {strangers.strangers} strangers a duplicate, in {ratio} "
        f"times the time per case."
    )


def crowd_document(crowded: Crowded, alone: ProductResults) -> Document:
    """The facts, the ratio of the times, and the contract's ``product`` once more."""
    times = crowded.product.seconds_per_case, alone.seconds_per_case
    ratio = times[0] / times[1] if times[0] is not None and times[1] else None
    product = product_document(crowded.product)
    return {**crowded.facts, "seconds_ratio": ratio, "product": product}


def _compared(protocol: Protocol, alone: ProductResults, crowded: Crowded) -> Table:
    both = (alone, crowded.product)
    rows: list[tuple[str, ...]] = [
        (
            "Cases in the archive",
            str(protocol.database),
            str(protocol.database + crowded.facts["stand_ins"]),
        ),
    ]
    records: list[Record] = []
    for name, words in (
        ("mean_sensitivity", "Mean sensitivity, seven sets"),
        ("mean_sensitivity_all", "Mean sensitivity, all 25 sets"),
        ("specificity", "Specificity, untransformed strangers"),
        ("specificity_transformed", "Specificity, mean of the 24 transforms"),
    ):
        rows.append((words, *(rate_text(getattr(one, name)) for one in both)))
        for where, one in zip(("alone", "crowded"), both, strict=True):
            record: Record = {"measure": name, "archive": where}
            records.append(record | rate_columns("value", getattr(one, name)))
    wrong = [sum(each.wrong_case for each in one.sets) for one in both]
    rows.append(("Copies that point at a wrong case", *map(str, wrong)))
    for name, words in (
        ("seconds_per_case", "Seconds per judged case, mean"),
        ("seconds_median", "Seconds per judged case, median"),
    ):
        rows.append((words, *(number(getattr(one, name)) for one in both)))
    rows.append(
        (
            "Time per judged case, ratio",
            "1",
            _ratio(both[1].seconds_per_case, alone.seconds_per_case),
        )
    )
    return Table(
        "stand-ins",
        "Beyond the paper: the ladder in a large archive",
        "The same queries, once in the archive of the database alone and once with the stand-ins "
        "in it: warped copies of other volumes, and generated bodies. Seconds are those from the "
        "volume to the verdict.",
        ("", "Database alone", "With the stand-ins"),
        tuple(rows),
        tuple(records),
    )


def _took(facts: Mapping[str, Any]) -> Table:
    rows = (
        ("Stand-ins", f"{facts['stand_ins']}, of {facts['sources']} volumes"),
        ("Their informative slices", str(facts["slices"])),
        ("Nodes of the index, database included", str(facts["nodes"])),
        ("Making them, processor seconds", _whole(facts["making_seconds"])),
        ("Adding all cases to the index, seconds", _whole(facts["index_seconds"])),
        ("Peak memory, MB", _megabytes(facts.get("peak_memory_bytes"))),
        ("Peak memory of the largest child process, MB", _megabytes(facts.get("child_bytes"))),
        ("On disk, MB", _megabytes(facts["bytes_on_disk"])),
        ("Correlation with their source, median and highest", _likeness(facts, "source")),
        ("Correlation with a sibling, median and highest", _likeness(facts, "sibling")),
    )
    return Table(
        "stand-ins-cost",
        "The stand-ins, and what they took",
        "The correlations are those of the ladder's own verification, of a sample of pairs; "
        "confirmed is what it would call the same scan.",
        ("", ""),
        rows,
        ({name: value for name, value in facts.items() if not isinstance(value, list | dict)},),
    )


def _likeness(facts: Mapping[str, Any], side: str) -> str:
    return (
        f"{number(facts[f'{side}_median'])}, {number(facts[f'{side}_highest'])} "
        f"({facts[f'{side}_confirmed']} of {facts[f'{side}_pairs']} confirmed)"
    )


def _whole(seconds: float) -> str:
    return f"{seconds:.0f}"


def _megabytes(size: int | None) -> str:
    return NOTHING if size is None else f"{size / 1e6:.0f}"


def _ratio(crowded: float | None, alone: float | None) -> str:
    return NOTHING if crowded is None or not alone else f"{crowded / alone:.2f}"
