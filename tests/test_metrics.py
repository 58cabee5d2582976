"""
Metrics, PGR and its interval, on cases small enough to check by hand.

python -m pytest tests/test_metrics.py           # 2 s, CPU, no network
"""
import math

import numpy as np
import pytest

from metrics import accuracy, all_metrics, auroc, bootstrap, compare_models, ece, format_comparison, pgr, pgr_interval

FOUR_YES = [{"label": 1, "group": str(k)} for k in range(4)]
ALL_CORRECT = np.array([[0.1, 0.9]] * 4)                   # soft labels of FOUR_YES
ALL_WRONG = np.array([[0.9, 0.1]] * 4)


# --------------------------------------------------------------------------- one model


def test_pitfall_07_a_constant_scorer_has_half_right_and_auroc_one_half():
    labels = [1, 1, 1, 0]
    assert accuracy([0.5] * 4, labels) == 0.5
    assert auroc([0.5] * 4, labels) == 0.5


def test_auroc_counts_ordered_pairs():
    rng = np.random.default_rng(0)
    p = rng.random(200).round(2)                           # rounded: ties occur
    y = rng.integers(0, 2, 200)
    pairs = [(a > b) + 0.5 * (a == b) for a in p[y == 1] for b in p[y == 0]]
    assert math.isclose(auroc(p, y), np.mean(pairs), rel_tol=1e-12)


def test_auroc_is_nan_with_one_class():
    assert math.isnan(auroc([0.1, 0.9], [1, 1]))


def test_ece_is_small_for_a_calibrated_scorer_and_large_for_an_overconfident_one():
    rng = np.random.default_rng(0)
    p = rng.random(20000)
    y = (rng.random(20000) < p).astype(int)
    assert ece(p, y) < 0.02
    assert ece(np.where(p > 0.5, 0.999, 0.001), y) > 0.2


def test_all_metrics_of_four_rows_by_hand():
    soft_labels = np.array([[0.1, 0.9], [0.8, 0.2], [0.4, 0.6], [0.7, 0.3]])
    rows = [{"label": label, "group": str(k)} for k, label in enumerate((1, 0, 0, 0))]
    m = all_metrics(soft_labels, rows)
    assert m["n"] == 4
    assert m["accuracy"] == 0.75
    assert m["share_yes"] == 0.25
    assert m["says_yes"] == 0.5
    assert m["chance"] == 0.75
    assert math.isclose(m["se"], math.sqrt(0.75 * 0.25 / 4))                   # four questions: the binomial one


def test_the_standard_error_counts_questions_not_rows():
    """400 questions of five equal rows each tell as much as 400 rows."""
    p = np.random.default_rng(0).random((400, 2))
    rows = [{"label": 1, "group": str(k)} for k in range(400)]
    five_each = [row for row in rows for _ in range(5)]
    assert math.isclose(all_metrics(np.repeat(p, 5, 0), five_each)["se"], all_metrics(p, rows)["se"])


# --------------------------------------------------------------------------- supervisor, student, ceiling


def test_pitfall_24_no_pgr_without_a_gap_and_the_reason_is_said():
    out = compare_models(FOUR_YES, ALL_CORRECT, ALL_WRONG, ALL_WRONG)
    assert "pgr" not in out
    assert "not above" in out["pgr_reason"]
    assert "no --ceiling" in compare_models(FOUR_YES, ALL_CORRECT, ALL_WRONG)["pgr_reason"]
    assert math.isnan(pgr(0.8, 0.9, 0.8))


def test_pitfall_25_a_ceiling_below_its_supervisor_is_flagged_in_the_last_line():
    comparison = compare_models(FOUR_YES, ALL_CORRECT, ALL_CORRECT, ALL_WRONG)
    line = format_comparison(comparison, all_metrics(ALL_CORRECT, FOUR_YES))
    assert "no PGR: the ceiling (0.000) is not above the supervisor (1.000)" in line


def test_agreement_is_counted_where_the_supervisor_is_right_and_where_it_is_wrong():
    rows = [{"label": label, "group": str(k)} for k, label in enumerate([1, 1, 0, 0])]
    supervisor = np.array([[0.1, 0.9], [0.9, 0.1], [0.9, 0.1], [0.1, 0.9]])    # right, wrong, right, wrong
    student = np.array([[0.1, 0.9], [0.1, 0.9], [0.9, 0.1], [0.1, 0.9]])       # agrees, not, agrees, agrees
    out = compare_models(rows, supervisor, student, student)
    assert out["agrees_where_supervisor_right"] == 1.0
    assert out["agrees_where_supervisor_wrong"] == 0.5
    assert out["supervisor"] == 0.5
    assert out["student"] == 0.75


# --------------------------------------------------------------------------- intervals


def test_pgr_interval_of_a_known_case():
    """
    Supervisor 60 %, student 80 %, ceiling 100 % of 2,000 independent rows: PGR 0.5. 1 - PGR = (1 - student) /
    (1 - supervisor) = 0.2 / 0.4, and all errors of the student are also the supervisor's: binomial among 800.
    """
    n = 2000
    supervisor = np.arange(n) % 10 < 6
    student = np.arange(n) % 10 < 8
    low, high, without = pgr_interval(bootstrap([[supervisor, student, np.ones(n)]], np.arange(n)))
    half_width = 1.96 * math.sqrt(0.5 * 0.5 / 800)
    assert low == pytest.approx(0.5 - half_width, abs=0.008)
    assert high == pytest.approx(0.5 + half_width, abs=0.008)
    assert without == 0


def test_bootstrap_draws_a_question_with_all_its_rows():
    """100 copies of each of 50 rows tell no more than 50 rows: the interval must not shrink."""
    hits = np.random.default_rng(0).random(50) < 0.7
    alone = bootstrap([[hits]], np.arange(50)).std()
    copied = bootstrap([[np.repeat(hits, 100)]], np.repeat(np.arange(50), 100)).std()
    assert copied == pytest.approx(alone, rel=0.1)


def test_bootstrap_over_seeds_widens_the_interval_when_seeds_differ():
    same = bootstrap([[np.ones(1000) * 0.5]] * 4, np.arange(1000)).std()
    different = bootstrap([[np.ones(1000) * a] for a in (0.2, 0.4, 0.6, 0.8)], np.arange(1000)).std()
    assert same < 1e-9
    assert different > 0.05


def test_the_interval_is_open_when_the_gap_is_noise():
    """70 % each: in half of the draws the ceiling is not above the supervisor."""
    row = np.arange(200)
    supervisor = row < 140
    student = row % 10 < 7
    ceiling = row >= 60
    low, high, without = pgr_interval(bootstrap([[supervisor, student, ceiling]], row))
    assert math.isnan(low) and math.isnan(high)
    assert 0.4 < without < 0.6
