"""Figure 3 of Truong et al. 2023 and the ROC curves, for this data. PNG and SVG, no display."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from diptych.evaluate.answers import DUPLICATE, TRANSFORMS, Transform
from diptych.evaluate.cells import KINDS, index_name, strength
from diptych.evaluate.paper_results import PaperResults, PaperSet
from diptych.evaluate.scores import TOP_K, K, Lookups, Scores
from diptych.evaluate.statistics import Floats, roc

# Okabe and Ito's: told apart by colour-blind readers too. The roles are the paper's.
GREEN, GREY, RED, BLUE = "#009E73", "#B0B0B0", "#D55E00", "#0072B2"
STRENGTHS = ("#440154", "#31688E", "#35B779", "#E5A700")
"""Weakest to strongest: viridis, its yellow darkened for white paper."""

DPI = 150
MANY = 4000
"""Bars beyond which an SVG holds them as a picture: it stays small."""

STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "diptych",  # the same figure is the same file
    "svg.fonttype": "none",
}


def draw(out: Path, lookups: Lookups, paper: PaperResults, heading: str) -> tuple[Path, ...]:
    """Write every figure below out. heading stands on top of each. Returns the paths."""
    with rc_context(STYLE):  # type: ignore[arg-type]
        written = save(figure_3(lookups, paper, heading), out, "figure-3")
        for k in TOP_K:
            written += save(roc_curves(lookups, paper, k, heading), out, f"roc-top{k}")
    return written


def figure_3(lookups: Lookups, paper: PaperResults, heading: str) -> Figure:
    """Case-level normalised counts, one bar a query, top 1 above top 3.

    Grey: duplicates; red: duplicates whose top case is not the true one; green: non-duplicates;
    each from its highest score to its lowest. The blue line is t_ROC, the highest Youden's index.
    """
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    figure.suptitle(f"Normalised counts, {index_name(lookups.index)}\n{heading}", fontsize=10)
    copies, strangers = lookups.copies(DUPLICATE), lookups.strangers()
    duplicates = next((one for one in paper.headline if one.transform == DUPLICATE), None)
    for axes, k in zip(figure.subplots(len(TOP_K), 1, sharex=True), TOP_K, strict=True):
        _bars(axes, copies, strangers, k)
        stages = duplicates.at_t_roc[k] if duplicates else None
        if stages:
            name = f"t_ROC = {stages.threshold:.4f}"
            axes.axhline(stages.threshold, color=BLUE, linewidth=1.8, label=name)
        if k == K and paper.threshold is not None:
            name = f"shared threshold = {paper.threshold:.4f}"
            axes.axhline(paper.threshold, color="black", linewidth=1, linestyle=":", label=name)
        axes.set(ylim=(0, 1.02), ylabel=f"c({k})", title=f"Top {k}")
        if copies.cases or strangers.cases:
            legend = axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
            for handle in legend.legend_handles:
                if isinstance(handle, LineCollection):  # its colour is seen however thin the bars
                    handle.set_linewidth(6)
        else:
            _say(axes, "no untransformed queries")
    figure.axes[-1].set_xlabel("query: copies, then strangers, each by falling count")
    return figure


def roc_curves(lookups: Lookups, paper: PaperResults, k: int, heading: str) -> Figure:
    """A panel per kind of transform: its four strengths, the duplicates in grey.

    A curve's point is "score > t"; the dot is t_ROC. Area under straight lines, as the AUC.
    """
    figure = Figure(figsize=(10, 7), layout="constrained")
    title = f"ROC curves, {index_name(lookups.index)}, top {k}\n{heading}"
    figure.suptitle(title, fontsize=10)
    sets = {one.transform: one for one in paper.headline}
    strangers = lookups.strangers().c[k]
    kinds = list(dict.fromkeys(transform.name for transform in TRANSFORMS[1:]))
    for axes, kind in zip(figure.subplots(2, 3).flat, kinds, strict=True):
        of_kind = [transform for transform in TRANSFORMS if transform.name == kind]
        axes.plot([0, 1], [0, 1], color="#DDDDDD", linewidth=0.8, zorder=0)
        # Thick below thin: curves that coincide are all seen.
        for transform, colour, width in zip(
            (DUPLICATE, *of_kind), (GREY, *STRENGTHS), (6.5, 4.6, 3.4, 2.3, 1.2), strict=True
        ):
            copies = lookups.copies(transform).c[k]
            if copies.size and strangers.size:
                _curve(axes, copies, strangers, sets[transform], k, colour, width)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", title=KINDS[kind])
        axes.set(xlabel="1 - specificity (stage 1)", ylabel="sensitivity (stage 1)")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower right", framealpha=0.85, edgecolor="none", fontsize=8)
        else:
            _say(axes, "no copies or no strangers")
    return figure


def _bars(axes: Axes, copies: Scores, strangers: Scores, k: int) -> None:
    falling = np.argsort(-copies.c[k], kind="stable")
    score, right = copies.c[k][falling], copies.right[falling]
    place = np.arange(score.size)
    others = np.sort(strangers.c[k])[::-1]
    rasterized = score.size + others.size > MANY
    # Bars touch up to a few hundred queries; the wrong ones never become hair-thin.
    width = max(0.4, min(8.0, 500 / max(1, score.size + others.size)))
    for x, height, colour, name, least in (
        (place[right], score[right], GREY, "duplicate", 0.0),
        (score.size + np.arange(others.size), others, GREEN, "non-duplicate", 0.0),
        (place[~right], score[~right], RED, "duplicate, wrong top case", 1.5),
    ):
        axes.vlines(
            x,
            0,
            height,
            colors=colour,
            linewidth=max(width, least),
            label=f"{name} ({x.size})",
            rasterized=rasterized,
        )


def _curve(
    axes: Axes,
    copies: Floats,
    strangers: Floats,
    one: PaperSet,
    k: int,
    colour: str,
    width: float,
) -> None:
    curve = roc(copies, strangers)
    name = f"{_short(one.transform)}  AUC {one.auc[k].value:.4f}"
    x, y = curve.false_positive_rate, curve.sensitivity
    axes.plot(x, y, color=colour, linewidth=width, label=name, solid_joinstyle="round")
    stages = one.at_t_roc[k]
    if stages:
        at = int(np.flatnonzero(curve.thresholds == stages.threshold)[0])
        axes.plot(x[at], y[at], "o", color=colour, markersize=width + 3, markeredgecolor="white")


def _short(transform: Transform) -> str:
    return strength(transform) or "duplicate"


def _say(axes: Axes, what: str) -> None:
    axes.text(0.5, 0.5, what, ha="center", va="center", transform=axes.transAxes)


def save(figure: Figure, out: Path, name: str) -> tuple[Path, ...]:
    """As PNG and as SVG."""
    paths = (out / f"{name}.png", out / f"{name}.svg")
    for path in paths:
        # No date inside: the same figure is the same file.
        figure.savefig(path, dpi=DPI, metadata={"Date": None} if path.suffix == ".svg" else None)
        figure.set_layout_engine("none")  # the second picture keeps the layout of the first
    return paths
