"""Tables beyond the paper: strangers under every transform, true cases removed, the daemon's
ladder, natural duplicates, and what could not be read."""

from __future__ import annotations

from collections.abc import Sequence

from diptych.evaluate.answers import TRANSFORMS, Protocol
from diptych.evaluate.cells import (
    NOTHING,
    Record,
    Table,
    label,
    named,
    number,
    rate_columns,
    rate_text,
)
from diptych.evaluate.paper_results import PaperResults
from diptych.evaluate.product_results import ProductResults
from diptych.evaluate.scores import NaturalDuplicate
from diptych.evaluate.statistics import Estimate


def beyond_tables(
    protocol: Protocol, paper: PaperResults, product: ProductResults, origin: str
) -> list[Table]:
    """origin: where the shared threshold comes from. Without data a table has no rows."""
    return [
        _quiet_table(
            "strangers-transformed",
            "Beyond the paper: strangers under every transform",
            "Specificity at the shared threshold: strangers whose c(3) does not surpass it.",
            paper.transformed,
            ("Mean of the 24 transforms", paper.specificity_transformed),
            origin,
        ),
        _quiet_table(
            "true-case-removed",
            "Beyond the paper: copies whose true case was taken out of the candidates",
            "Specificity at the shared threshold: only other cases are left to be found.",
            paper.removed,
            ("Mean", paper.specificity_removed),
            origin,
        ),
        product_table(product, "product", "Beyond the paper: the daemon's own ladder"),
        _natural_table(paper, product),
        _unreadable_table(protocol),
    ]


def _quiet_table(
    name: str,
    title: str,
    note: str,
    by_transform: Sequence[Estimate],
    mean: tuple[str, Estimate],
    origin: str,
) -> Table:
    asked = [
        (transform, estimate)
        for transform, estimate in zip(TRANSFORMS, by_transform, strict=True)
        if estimate.counts[1]
    ]
    rows = [(label(transform), rate_text(estimate)) for transform, estimate in asked]
    if rows:
        rows.append((mean[0], rate_text(mean[1])))
    records = [
        named(transform) | rate_columns("specificity", estimate) | {"threshold_from": origin}
        for transform, estimate in asked
    ]
    return Table(name, title, note, ("Set", "Specificity"), tuple(rows), tuple(records))


def product_table(product: ProductResults, name: str, title: str) -> Table:
    """What the ladder said of every query set."""
    rows: list[tuple[str, ...]] = []
    records: list[Record] = []
    for one in product.sets:
        if not (one.copies or one.strangers):
            continue
        rows.append(
            (
                label(one.transform),
                rate_text(one.sensitivity),
                f"{one.wrong_case}/{one.copies}",
                rate_text(one.specificity),
                f"{one.false_positives}/{one.strangers}",
                f"{one.copies_unscreenable} + {one.strangers_unscreenable}",
            )
        )
        records.append(
            named(one.transform)
            | rate_columns("sensitivity", one.sensitivity)
            | {"wrong_case": one.wrong_case, "copies_unscreenable": one.copies_unscreenable}
            | rate_columns("specificity", one.specificity)
            | {"false_positives": one.false_positives}
            | {"strangers_unscreenable": one.strangers_unscreenable}
            | {"threshold_from": f"policy {product.policy}"}
        )
    if rows:
        seven, every = rate_text(product.mean_sensitivity), rate_text(product.mean_sensitivity_all)
        strangers = rate_text(product.specificity_transformed)
        rows.append(("Mean of the seven sets", seven, "", "", "", ""))
        rows.append(("Mean of all 25 sets", every, "", "", "", ""))
        rows.append(("Mean of the 24 transforms", "", "", strangers, "", ""))
    return Table(
        name,
        title,
        f"Policy {product.policy}, not fitted on this data. Found is exact, near-duplicate or "
        "partial with the true case; any of these for a stranger under the same transform is a "
        "false positive.",
        (
            "Set",
            "Sensitivity",
            "Wrong case",
            "Specificity",
            "False positives",
            "Not screenable (copies + strangers)",
        ),
        tuple(rows),
        tuple(records),
    )


def _natural_table(paper: PaperResults, product: ProductResults) -> Table:
    looked_up = {one.case: one for one in paper.natural}
    rows: list[tuple[str, ...]] = []
    records: list[Record] = []
    for case in sorted(looked_up.keys() | product.natural.keys()):
        one = looked_up.get(case)
        known, relation, matched = product.natural.get(case, ((), None, None))
        found = None if one is None else _found(one, paper.threshold)
        record: Record = {
            "case": case,
            "known": " | ".join(one.known if one else known),
            "c3": one.score if one else None,
            "top": one.top if one else None,
            "found": None if found is None else int(found),
            "relation": relation,
            "matched": matched,
        }
        records.append(record)
        rows.append(
            (
                case,
                str(record["known"]),
                number(one.score if one else None),
                (one and one.top) or NOTHING,
                NOTHING if found is None else ("yes" if found else "no"),
                relation or NOTHING,
                matched or NOTHING,
            )
        )
    return Table(
        "natural-duplicates",
        "Beyond the paper: known natural duplicates among the strangers",
        "Taken out of the negatives. Found: c(3) surpasses the shared threshold and the top case "
        "is one of the known.",
        ("Case", "Known as", "c(3)", "Top case", "Found", "Ladder", "Matched"),
        tuple(rows),
        tuple(records),
    )


def _found(one: NaturalDuplicate, threshold: float | None) -> bool | None:
    return None if threshold is None else one.score > threshold and one.top in one.known


def _unreadable_table(protocol: Protocol) -> Table:
    return Table(
        "unreadable",
        "Inputs that became no case",
        "",
        ("Path", "Reason"),
        protocol.unreadable,
        tuple({"path": path, "reason": reason} for path, reason in protocol.unreadable),
    )
