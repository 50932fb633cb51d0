"""The JSON of an evaluation: a contract (``--json FILE``, ``results.json``).

The keys of the contract hold plain numbers. Beside them, at each level, ``bounds`` gives the 95 %
bound of a number under the same key and ``counts`` its [hits, of]; for an AUC [copies, strangers].
Everything is finite or null.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diptych.evaluate.answers import Protocol, Transform
from diptych.evaluate.paper_results import PaperResults, PaperSet
from diptych.evaluate.product_results import ProductResults, ProductSet
from diptych.evaluate.scores import K
from diptych.evaluate.statistics import UNKNOWN, Estimate, Stages

Document = dict[str, Any]

_RATES = ("sensitivity_stage1", "sensitivity_stage2", "specificity_stage1", "specificity_stage2")


def document(
    protocol: Protocol, paper: PaperResults, product: ProductResults, extra: Mapping[str, Any]
) -> Document:
    """extra: further keys of the top level. ValueError when it takes a key of the contract."""
    contract = {
        "protocol": _protocol(protocol),
        "paper": _paper(paper),
        "product": product_document(product),
    }
    if taken := contract.keys() & extra.keys():
        raise ValueError(f"extra keys are already taken: {', '.join(sorted(taken))}")
    return contract | dict(extra)


def _protocol(protocol: Protocol) -> Document:
    return {
        "cases": protocol.cases,
        "database": protocol.database,
        "nonduplicates": protocol.nonduplicates,
        "model": protocol.model,
        "index": protocol.index,
        "threshold_from": protocol.threshold_from,
        "slices": protocol.slices,
        "known_pairs": protocol.known_pairs,
        "unreadable": [{"path": path, "reason": reason} for path, reason in protocol.unreadable],
    }


def _paper(paper: PaperResults) -> Document:
    fit = paper.calibration.fit if paper.calibration else None
    return {
        "k": K,
        "index": paper.index,
        "threshold": paper.threshold,
        "threshold_until": fit.until if fit else None,
        **estimates(
            {
                "mean_sensitivity_stage1": paper.mean_sensitivity_stage1,
                "mean_sensitivity_stage2": paper.mean_sensitivity_stage2,
                "specificity_stage1": paper.specificity_stage1,
                "specificity_stage2": paper.specificity_stage2,
                "mean_stage2_all_24": paper.mean_stage2_all_24,
                "mean_stage2_all_24_t_opt": paper.mean_stage2_all_24_t_opt,
                "specificity_transformed": paper.specificity_transformed,
                "specificity_removed": paper.specificity_removed,
            }
        ),
        "sets": [
            _paper_set(one, transformed, removed)
            for one, transformed, removed in zip(
                paper.headline, paper.transformed, paper.removed, strict=True
            )
        ],
    }


def _paper_set(one: PaperSet, transformed: Estimate, removed: Estimate) -> Document:
    own, top1 = one.at_t_roc[K], one.at_t_roc[1]
    found = {"auc_top1": one.auc[1], "auc_top3": one.auc[3]}
    found |= _four(own, "") | _four(one.at_t_opt, "_t_opt") | _four(top1, "_top1")
    found |= {"specificity_transformed": transformed, "specificity_removed": removed}
    return {
        **_named(one.transform),
        "t_roc": own.threshold if own else None,
        "t_roc_top1": top1.threshold if top1 else None,
        **estimates(found),
    }


def product_document(product: ProductResults) -> Document:
    """The ladder's figures: the contract's ``product``."""
    strangers = product.untransformed
    return {
        "policy": product.policy,
        **estimates(
            {
                "mean_sensitivity": product.mean_sensitivity,
                "mean_sensitivity_all": product.mean_sensitivity_all,
                "specificity": product.specificity,
                "specificity_transformed": product.specificity_transformed,
            }
        ),
        "nonduplicates": strangers.strangers,
        "false_positives": strangers.false_positives if strangers.strangers else None,
        "seconds_per_case": product.seconds_per_case,
        "seconds_median": product.seconds_median,
        "sets": [_product_set(one) for one in product.sets],
    }


def _product_set(one: ProductSet) -> Document:
    return {
        **_named(one.transform),
        **estimates({"sensitivity": one.sensitivity, "specificity": one.specificity}),
        "wrong_case": one.wrong_case if one.copies else None,
        "false_positives": one.false_positives if one.strangers else None,
        "copies": one.copies,
        "strangers": one.strangers,
        "copies_unscreenable": one.copies_unscreenable,
        "strangers_unscreenable": one.strangers_unscreenable,
    }


def _named(transform: Transform) -> Document:
    return {"transform": transform.name, "strength": transform.strength}


def _four(stages: Stages | None, suffix: str) -> dict[str, Estimate]:
    return {f"{name}{suffix}": getattr(stages, name) if stages else UNKNOWN for name in _RATES}


def estimates(found: Mapping[str, Estimate]) -> Document:
    """Each number, and its bound and counts under the same key."""
    return {
        **{name: estimate.value for name, estimate in found.items()},
        "bounds": {name: [one.low, one.high] for name, one in found.items()},
        "counts": {name: list(one.counts) for name, one in found.items()},
    }
