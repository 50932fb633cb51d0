"""The paper's equations, curves and Algorithm 1 on inputs small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, mannwhitneyu

from answered import answer
from diptych.evaluate.answers import DUPLICATE, SEVEN, TRANSFORMS
from diptych.evaluate.scores import calibrate, collect
from diptych.evaluate.statistics import (
    Stages,
    algorithm_1,
    auc,
    mean_over_sets,
    mean_specificity_stage2,
    rate,
    roc,
    t_roc,
)

# FACTS: the paper's stage-1 true positives and wrong-case positives behind Table V.
TABLE_V = {
    "duplicate": (442, 0, 0.9977, 0.9977, 0.8559, 0.8559),
    "crop": (437, 0, 0.9865, 0.9865, 0.8559, 0.8559),
    "translation": (420, 0, 0.9481, 0.9481, 0.8559, 0.8559),
    "rotation": (392, 1, 0.8849, 0.8826, 0.8559, 0.8539),
    "blur": (427, 53, 0.9639, 0.8442, 0.8559, 0.7646),
    "jpeg": (442, 19, 0.9977, 0.9549, 0.8559, 0.8207),
    "noise": (431, 1, 0.9729, 0.9707, 0.8559, 0.8539),
}
MEAN_V = (0.9645, 0.9407, 0.8559, 0.8373)


def four(stages: Stages) -> tuple[float, ...]:
    estimates = (
        stages.sensitivity_stage1,
        stages.sensitivity_stage2,
        stages.specificity_stage1,
        stages.specificity_stage2,
    )
    return tuple(float(one.value or 0.0) for one in estimates)


def table_v(name: str) -> Stages:
    positives, wrong = TABLE_V[name][:2]
    return Stages(0.7711, 443, positives, wrong, 444, 444 - 380)


@pytest.mark.parametrize("name", TABLE_V)
def test_every_cell_of_table_v_follows_from_its_counts(name: str):
    assert tuple(round(value, 4) for value in four(table_v(name))) == TABLE_V[name][2:]


def test_the_means_of_table_v_follow_from_its_counts():
    means = np.mean([four(table_v(name)) for name in TABLE_V], axis=0)
    assert tuple(np.round(means, 4)) == MEAN_V


def test_the_means_over_sets_give_table_vs_last_row_from_queries():
    """The same row again, from one outcome per query, as an evaluation computes it."""
    columns = list(TABLE_V.values())
    case = np.arange(443)[:, None]
    stage1 = (case < [c[0] for c in columns]).astype(float)
    wrong = (case < [c[1] for c in columns]).astype(float)
    alarms = (np.arange(444) < 64).astype(float)
    means = [
        mean_over_sets(stage1),
        mean_over_sets(stage1 - wrong),
        rate(380, 444),
        mean_specificity_stage2(alarms, wrong),
    ]
    assert tuple(round(float(one.value or 0), 4) for one in means) == MEAN_V
    assert means[0].counts == (2991, 3101)
    assert means[3].counts == (7 * 380, 7 * 444 + 74)
    for one in means:
        assert one.low is not None
        assert one.high is not None
        assert one.low < float(one.value or 0) < one.high


def test_equations_1_and_2_give_the_scores_of_a_query():
    lookups = collect([answer("a", ("a", 5), ("b", 3), ("c", 1), ("d", 1))])
    scores = lookups.copies(DUPLICATE)
    assert (scores.c[1][0], scores.c[3][0]) == (0.5, 0.9)
    assert scores.right.tolist() == [True]


def test_fewer_than_three_cases_are_summed_and_none_scores_zero():
    lookups = collect([answer("a", ("b", 4), ("a", 6)), answer("b", ("b", 4), n=5), answer("c")])
    scores = lookups.copies(DUPLICATE)
    assert scores.c[3].tolist() == [1.0, 0.8, 0.0]
    assert scores.right.tolist() == [False, True, False]


def test_a_rates_bound_is_clopper_pearsons():
    one = rate(380, 444)
    # By the beta quantiles' defining tails: each bound makes the observed count a 2.5 % event.
    assert one.low is not None
    assert one.high is not None
    assert binomtest(380, 444, one.low, alternative="greater").pvalue == pytest.approx(0.025)
    assert binomtest(380, 444, one.high, alternative="less").pvalue == pytest.approx(0.025)
    assert rate(30, 30).low == pytest.approx(0.025 ** (1 / 30))
    assert rate(0, 0).value is None


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="3 of 2"):
        rate(3, 2)
    with pytest.raises(ValueError, match="copies"):
        Stages(0.5, 10, 5, 6, 10, 0)
    with pytest.raises(ValueError, match="strangers"):
        Stages(0.5, 10, 5, 5, 10, 11)


def test_a_curves_points_are_scores_above_the_threshold():
    curve = roc(np.array([0.9, 0.5]), np.array([0.5, 0.1]))
    assert curve.thresholds.tolist() == [0.9, 0.5, 0.1, -np.inf]
    assert curve.sensitivity.tolist() == [0, 0.5, 1, 1]
    assert curve.false_positive_rate.tolist() == [0, 0, 0.5, 1]
    with pytest.raises(ValueError, match="no curve"):
        roc(np.array([]), np.array([0.5]))


def test_the_auc_is_the_area_under_the_curve_and_mann_whitneys():
    random = np.random.default_rng(3)
    copies = random.integers(3, 12, 40) / 12
    strangers = random.integers(0, 9, 55) / 12
    curve, one = roc(copies, strangers), auc(copies, strangers)
    area = np.trapezoid(curve.sensitivity, curve.false_positive_rate)
    assert one.value == pytest.approx(area)
    assert one.value == pytest.approx(mannwhitneyu(copies, strangers).statistic / (40 * 55))
    assert one.counts == (40, 55)


def test_the_aucs_bound_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(5)
    # Two normals a standard deviation apart have P(copy > stranger) = Φ(1/√2) = 0.7602.
    inside = 0
    for _ in range(400):
        one = auc(random.normal(1, 1, 40), random.normal(0, 1, 60))
        assert one.low is not None
        assert one.high is not None
        inside += one.low <= 0.760250 <= one.high
    assert 0.92 <= inside / 400 <= 0.98


def test_sides_that_do_not_overlap_still_have_a_bound():
    one = auc(np.full(50, 0.9), np.full(50, 0.1))
    assert (one.value, one.high) == (1.0, 1.0)
    assert one.low is not None
    assert 0.8 < one.low < 0.93
    single = auc(np.array([0.9]), np.array([0.1]))
    assert single.low is not None
    assert single.low < 0.01
    assert auc(np.array([]), np.array([0.1])).value is None


def test_t_roc_is_youdens_and_not_the_point_nearest_to_the_corner():
    # At t = 0.6 the point is (0, 0.70): Youden's index 0.70, 0.30 from the corner (0, 1).
    # At t = 0.1 it is (0.20, 0.88): 0.68, but only 0.23 from the corner.
    copies = np.array([0.9] * 70 + [0.5] * 18 + [0.05] * 12)
    strangers = np.array([0.6] * 20 + [0.1] * 80)
    curve = roc(copies, strangers)
    corner = np.hypot(1 - curve.sensitivity, curve.false_positive_rate)
    assert curve.thresholds[corner.argmin()] == 0.1
    assert t_roc(curve) == 0.6


def test_of_equal_youdens_the_highest_threshold_is_taken():
    # sens + spec is 1.5 at t = 0.2 and again at t = 0.6.
    curve = roc(np.array([0.9, 0.5]), np.array([0.6, 0.2]))
    sums = dict(zip(curve.thresholds, curve.sensitivity - curve.false_positive_rate, strict=True))
    assert sums[0.2] == sums[0.6] == max(sums.values())
    assert t_roc(curve) == 0.6


def test_a_hopeless_curve_has_a_finite_threshold():
    assert t_roc(roc(np.array([0.1, 0.2]), np.array([0.8, 0.9]))) == 0.9


def test_algorithm_1_takes_the_candidate_with_the_best_mean_over_all_sets():
    strangers = np.array([0.1, 0.2, 0.3, 0.6])
    easy = np.array([0.9, 0.9, 0.8, 0.8])  # its own best is t = 0.6: 1 + 1
    hard = np.array([0.5, 0.5, 0.4, 0.4])  # its own best is t = 0.3: 1 + 3/4
    fit = algorithm_1([easy, hard], strangers)
    assert fit.thresholds == (0.6, 0.3)
    # At 0.6: (1 + 0) / 2 + 1 = 1.5; at 0.3: (1 + 1) / 2 + 3/4 = 1.75.
    assert fit.sensitivity == (0.5, 1.0)
    assert fit.specificity == (1.0, 0.75)
    assert (fit.t_opt, fit.until) == (0.3, 0.4)


def test_of_equal_candidates_algorithm_1_takes_the_highest():
    strangers = np.array([0.1, 0.5])
    low, high = np.array([0.3, 0.3]), np.array([0.7, 0.7])
    # At 0.1: (1 + 1)/2 + 1/2 = 1.5; at 0.5: (0 + 1)/2 + 1 = 1.5.
    for sets in ([low, high], [high, low]):
        fit = algorithm_1(sets, strangers)
        assert set(fit.thresholds) == {0.1, 0.5}
        assert fit.t_opt == 0.5


def test_surpassing_is_being_greater_not_equal():
    strangers = np.array([0.25, 0.5])
    fit = algorithm_1([np.array([0.5, 1.0])], strangers)
    # "At least 0.5" would reach sens 1, spec 1/2; greater than 0.5 reaches 1/2 and 1: the higher.
    assert (fit.t_opt, fit.sensitivity, fit.specificity) == (0.5, (0.5,), (1.0,))


def test_algorithm_1_needs_both_sides():
    with pytest.raises(ValueError, match="at least one"):
        algorithm_1([], np.array([0.5]))
    with pytest.raises(ValueError, match="no curve"):
        algorithm_1([np.array([0.5])], np.array([]))


def test_calibration_uses_the_seven_sets_top_3_hnsw_and_untransformed_strangers():
    blur_8 = TRANSFORMS[TRANSFORMS.index(SEVEN[4]) + 3]
    stranger = {"side": "stranger"}
    seven = [answer("a", ("a", 4), ("b", 3), ("c", 2), transform=t) for t in SEVEN]
    lookups = collect(
        [
            *seven,
            answer("s", ("a", 3), ("b", 2), ("c", 1), ("d", 1), **stranger),
            # None of these may matter:
            answer("a", ("a", 1), transform=blur_8),
            answer("a", ("b", 10), removed=True),
            answer("a", ("a", 1), index="exact"),
            answer("s", ("b", 10), transform=SEVEN[1], **stranger),
            answer("k", ("b", 10), known=("b",), **stranger),
        ]
    )
    found = calibrate(lookups)
    assert found is not None
    assert found.sets == SEVEN
    assert (found.fit.t_opt, found.fit.until) == (0.6, 0.9)
    assert calibrate(collect(seven)) is None


def test_whole_cases_are_drawn_for_the_bound_of_a_mean():
    """Seven equal answers of a case say no more than one."""
    once = (np.arange(60) < 45).astype(float)[:, None]
    narrow, wide = mean_over_sets(once), mean_over_sets(np.repeat(once, 7, axis=1))
    assert narrow.value == wide.value == 0.75
    assert (narrow.low, narrow.high) == pytest.approx((wide.low, wide.high))
    exact = rate(45, 60)
    assert narrow.low == pytest.approx(exact.low, abs=0.04)
    assert narrow.high == pytest.approx(exact.high, abs=0.04)
    assert wide.counts == (315, 420)


def test_a_perfect_mean_is_bounded_by_its_number_of_cases():
    assert mean_over_sets(np.ones((30, 7))).low == rate(30, 30).low
    assert mean_over_sets(np.zeros((30, 7))).high == rate(0, 30).high


def test_sets_of_unequal_size_weigh_the_same_in_a_mean():
    hits = np.array([[1, 1], [1, np.nan], [0, np.nan], [0, np.nan]])
    assert mean_over_sets(hits).value == 0.75
    assert mean_over_sets(np.full((3, 2), np.nan)).value is None


def test_the_same_answers_give_the_same_bounds():
    hits = (np.random.default_rng(1).random((80, 7)) < 0.9).astype(float)
    assert mean_over_sets(hits) == mean_over_sets(hits)
