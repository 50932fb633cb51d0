"""Every metric Diptych exports: its name, its meaning, its labels and their closed value sets.

Counters and histograms live in SQL and grow in the transaction of what they count
(``audit.counters``), so they are exact after a SIGKILL and across processes. Every child exists
at 0 from the first scrape, or the first burst would be invisible to ``increase()``. Label values
are bounded: ``source`` is a configured name, ``modality`` one of ``MODALITIES``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

MODALITIES = ("CT", "MR", "PT", "NM", "US", "CR", "DX", "MG", "XA", "RF", "SC", "OT", "other")
RELATIONS = (
    "exact",
    "near-duplicate",
    "partial",
    "related",
    "unique",
    "not-screenable",
    "not-an-image",
)
STAGES = ("decode", "assemble", "prepare", "embed", "search", "judge", "verify")
STORE_FAILURES = (
    "storage",
    "database",
    "mismatch",
    "unparsable",
    "not-authorised",
    "low-space",
    "backlog",
)
REJECTIONS = ("calling-ae", "called-ae", "congestion", "low-space", "backlog")
DROPS = ("silent", "crowded", "tls", "not-dicom")
COLLISION_PARTS = ("pixels", "identity", "private", "other")
FORWARD_FAILURES = (
    "unreachable",
    "tls",
    "rejected",
    "aborted",
    "resources",
    "refused",
    "context",
    "uncommitted",
    "lost",
)
COMMITMENTS = ("committed", "failed")
LABELS = ("modality", "body_part")
LABEL_AUDITS = ("agrees", "disagrees", "unlabelled", "too-few")

CHECKS = (
    "diptych_audit_problems",
    "diptych_index_recall",
    "diptych_index_vectors",
    "diptych_provider_fallback",
)
"""Gauges that are read at their own time, not at the scrape, and kept in SQL."""

# Seconds; a stage of a small series takes milliseconds, a 2,000-slice CT minutes.
DURATION_BUCKETS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)


@dataclass(frozen=True)
class Metric:
    """One metric family. ``values`` maps a label to its closed set (None: filled at start)."""

    name: str
    help: str
    labels: Mapping[str, tuple[str, ...] | None]

    def children(self, open_sets: Mapping[str, tuple[str, ...]]) -> list[dict[str, str]]:
        """All label combinations, with ``open_sets`` for the labels without a closed set."""
        sets = [open_sets[k] if v is None else v for k, v in self.labels.items()]
        return [dict(zip(self.labels, values, strict=True)) for values in product(*sets)]


COUNTERS = {
    metric.name: metric
    for metric in (
        Metric("diptych_receipts_total", "Instances acknowledged with 0x0000.", {"source": None}),
        Metric(
            "diptych_received_bytes_total",
            "Bytes of data sets acknowledged with 0x0000.",
            {"source": None},
        ),
        Metric(
            "diptych_store_failures_total",
            "C-STORE requests answered with a failure status.",
            {"reason": STORE_FAILURES},
        ),
        Metric(
            "diptych_associations_rejected_total",
            "Associations rejected.",
            {"reason": REJECTIONS},
        ),
        Metric(
            "diptych_connections_dropped_total",
            "Connections closed before they had requested an association.",
            {"reason": DROPS},
        ),
        Metric("diptych_series_total", "Series sealed for the first time.", {"source": None}),
        Metric(
            "diptych_resends_total",
            "Sealed series that brought only content already known from the same source.",
            {"source": None},
        ),
        Metric(
            "diptych_verdicts_total",
            "Verdicts on series at revision 0.",
            {"source": None, "modality": MODALITIES, "relation": RELATIONS},
        ),
        Metric(
            "diptych_revision_verdicts_total",
            "Verdicts on later revisions of series (late slices).",
            {"source": None, "relation": RELATIONS},
        ),
        Metric(
            "diptych_cross_source_total",
            "Series at revision 0 whose match came from another source.",
            {"source": None},
        ),
        Metric(
            "diptych_collisions_total",
            "SOP Instance UIDs seen again with other content, by the part that differs.",
            {"source": None, "part": COLLISION_PARTS},
        ),
        Metric(
            "diptych_label_disagreements_total",
            "Series at revision 0 that say another modality or body part than their neighbours.",
            {"source": None, "label": LABELS},
        ),
        Metric(
            "diptych_label_audits_total",
            "Series at revision 0 by what came of the label audit; unlabelled and too-few: nothing "
            "could be said.",
            {"source": None, "label": LABELS, "outcome": LABEL_AUDITS},
        ),
        Metric(
            "diptych_failures_total",
            "Instances and stacks that ended with a reason instead of a relation.",
            {"stage": STAGES, "reason": None},
        ),
        Metric(
            "diptych_forward_sent_total",
            "Instances that a destination took (at least once).",
            {"destination": None},
        ),
        Metric(
            "diptych_forward_failures_total",
            "Attempts to send on that failed, of an instance or of a whole association.",
            {"destination": None, "reason": FORWARD_FAILURES},
        ),
        Metric(
            "diptych_commitments_total",
            "Instances by what was decided of them for storage commitment.",
            {"outcome": COMMITMENTS},
        ),
        Metric("diptych_purged_bytes_total", "Spool bytes purged after their verdict.", {}),
    )
}

HISTOGRAMS = {
    metric.name: metric
    for metric in (
        Metric("diptych_stage_duration_seconds", "Seconds per series.", {"stage": STAGES}),
        Metric(
            "diptych_series_duration_seconds",
            "Seconds from the last receipt of a series to its verdict.",
            {},
        ),
    )
}

GAUGES = {
    metric.name: metric
    for metric in (
        Metric("diptych_pending_series", "Series received and not yet judged.", {}),
        Metric(
            "diptych_pending_series_limit",
            "Pending series at which new associations are rejected; 0: no limit.",
            {},
        ),
        Metric("diptych_oldest_pending_seconds", "Age of the oldest series not yet judged.", {}),
        Metric(
            "diptych_forward_pending_instances",
            "Instances owed to a destination.",
            {"destination": None},
        ),
        Metric(
            "diptych_forward_oldest_pending_seconds",
            "Age of the oldest instance owed to a destination.",
            {"destination": None},
        ),
        Metric(
            "diptych_commitment_pending_requests",
            "Requests for storage commitment not yet reported.",
            {},
        ),
        Metric(
            "diptych_commitment_oldest_pending_seconds",
            "Age of the oldest request for storage commitment not yet reported.",
            {},
        ),
        Metric(
            "diptych_last_receipt_timestamp_seconds",
            "When the newest instance was acknowledged, Unix time; none without an instance.",
            {"source": None},
        ),
        Metric(
            "diptych_alert_duplicate_ratio_limit",
            "Share of duplicates to alert at, from the configuration.",
            {"source": None},
        ),
        Metric(
            "diptych_alert_minimum_series",
            "Screenable series below which a share says nothing, from the configuration.",
            {"source": None},
        ),
        Metric(
            "diptych_alert_silent_seconds",
            "Seconds without an instance to alert after, from the configuration; 0: never.",
            {"source": None},
        ),
        Metric("diptych_spool_free_bytes", "Bytes free on the spool's file system.", {}),
        Metric("diptych_spool_free_bytes_limit", "Free bytes below which nothing is accepted.", {}),
        Metric("diptych_spool_bytes", "Bytes of pixels kept in the spool.", {}),
        Metric("diptych_quarantine_files", "Files in quarantine.", {}),
        Metric("diptych_index_vectors", "Vectors in the index.", {}),
        Metric("diptych_index_recall", "Recall@1 of HNSW against an exact scan, last check.", {}),
        Metric("diptych_index_snapshot_age_seconds", "Age of the last index snapshot.", {}),
        Metric(
            "diptych_audit_problems",
            "What `diptych audit verify` finds changed, last check.",
            {},
        ),
        Metric(
            "diptych_provider_fallback",
            "1 when ONNX Runtime was installed for a GPU and the model runs on the CPU.",
            {},
        ),
        Metric(
            "diptych_check_timestamp_seconds",
            "When a reading that is not taken at the scrape was taken, Unix time.",
            {"check": CHECKS},
        ),
        Metric("diptych_ready", "1 when /readyz answers 200.", {}),
    )
}

INFOS = {
    "diptych_build_info": "Version of the daemon.",
    "diptych_model_info": "Model, fingerprint and execution provider in use.",
}


def modality_label(modality: str | None) -> str:
    """The bounded label for a Modality (0008,0060) from the wire."""
    return modality if modality in MODALITIES else "other"
