"""
Metrics, PGR and its interval, on cases small enough to check by hand.

python -m pytest tests/test_metrics.py           # 2 s, CPU, no network
"""
import doctest
import math

import numpy as np
import pytest

import metrics
from metrics import (
    accuracy, all_metrics, auroc, balanced_accuracy, bootstrap, bootstrap_scores, choose_threshold, compare_models, ece,
    format_comparison, format_metrics, label_warnings, pgr, pgr_interval, pick_metric, shuffle_test)

FOUR_YES = [{"label": 1, "group": str(k)} for k in range(4)]
ALL_CORRECT = np.array([[0.1, 0.9]] * 4)                   # soft labels of FOUR_YES
ALL_WRONG = np.array([[0.9, 0.1]] * 4)


def test_the_worked_examples_in_docstrings_are_right():
    assert doctest.testmod(metrics).failed == 0


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
    assert math.isnan(pgr(0.1 + 0.2, 0.9, 0.3)) and math.isnan(pgr(0.3, 0.9, 0.1 + 0.2))       # fault: PGR 10^16


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
    supervisor[1:3] = 0.5                                  # ties are neither right nor wrong
    out = compare_models(rows, supervisor, student, student)
    assert out["agrees_where_supervisor_right"] == out["agrees_where_supervisor_wrong"] == 1.0
    out = compare_models(rows, np.full((4, 2), 0.5), student, student)
    assert out["agrees_where_supervisor_right"] is out["agrees_where_supervisor_wrong"] is None


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


@pytest.mark.parametrize("n_seeds", [3, 5])
def test_intervals_over_few_seeds_hold_the_true_mean_nineteen_times_in_twenty(n_seeds):
    """Fault: percentiles of draws of the seeds alone hold it 0.75 (three seeds) to 0.86 (five) of the time."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        seeds = 0.5 + 0.05 * rng.standard_normal(n_seeds)
        draws = bootstrap(np.tile(seeds[:, None, None], (1, 1, 4)), range(4), n_draws=800)
        low, high = np.percentile(draws, [2.5, 97.5])
        covered += low <= 0.5 <= high
    assert 0.92 <= covered / 400 <= 0.98


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


# --------------------------------------------------------------------------- rare classes, degenerate labels


def soft(p_yes):
    return np.stack([1 - np.asarray(p_yes, float), p_yes], 1)


def rare(n=300, n_yes=12, seed=0):
    """n rows with few yes: a supervisor, a student that orders all rows well and never says yes, a ceiling"""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) < n_yes).astype(int)
    rows = [{"label": int(label), "group": str(k)} for k, label in enumerate(labels)]
    supervisor = np.where(rng.random(n) < np.where(labels == 1, 0.6, 0.1), 0.8, 0.2)
    student = 0.1 + 0.3 * labels + 0.05 * rng.random(n)
    ceiling = np.where(rng.random(n) < 0.95, 0.1 + 0.8 * labels, 0.9 - 0.8 * labels)
    return rows, labels, supervisor, student, ceiling


def test_with_a_rare_class_balanced_accuracy_is_compared_and_a_model_of_one_class_is_named():
    rows, labels, supervisor, student, ceiling = rare()
    assert auroc(student, labels) == 1 and accuracy(student, labels) == 0.96
    c = compare_models(rows, soft(supervisor), soft(student), soft(ceiling))
    assert c["metric"] == "balanced" and c["student"] == 0.5 and c["chance"] == 0.5
    line = format_comparison(c, all_metrics(soft(student), rows))
    assert line.startswith("balanced accuracy: supervisor ") and "WARNING: the student says no on every row" in line
    by_order = compare_models(rows, soft(supervisor), soft(student), soft(ceiling), "auroc")
    assert by_order["student"] == 1 and by_order["pgr"] > 1
    by_accuracy = compare_models(rows, soft(supervisor), soft(student), soft(ceiling), "accuracy")
    assert by_accuracy["student"] == 0.96 and by_accuracy["chance"] == 0.96
    line = format_metrics("student", all_metrics(soft(student), rows))
    assert "it says no on every row" in line and "balanced 0.500" in line and "BELOW" not in line
    assert "BELOW CHANCE" in format_metrics("inverted", all_metrics(soft(1 - ceiling), rows))


def test_bootstrap_of_balanced_accuracy_and_auroc_by_brute_force():
    """The same draws of questions, each written out as a list of rows."""
    rng = np.random.default_rng(1)
    n = 60
    groups = np.arange(n) // 2
    labels = (rng.random(n) < 0.3).astype(int)
    probs = (rng.random((2, n)) + 0.3 * labels).round(1).clip(0, 1)            # rounded: ties occur
    questions = np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30), 50)
    for metric, score in (("balanced", balanced_accuracy), ("auroc", auroc)):
        draws = bootstrap_scores(metric, probs, labels, groups, n_draws=50)
        expected = []
        for drawn in questions:
            rows = np.repeat(np.arange(n), drawn[groups])
            if 0 < labels[rows].mean() < 1:
                expected.append([score(p[rows], labels[rows]) for p in probs])
        assert np.allclose(draws, expected)


def test_rows_that_the_supervisor_did_not_label_are_left_out_for_all():
    rows = [{"label": k % 2, "group": str(k)} for k in range(40)]
    right = np.array([0.1, 0.9] * 20)
    supervisor = np.where(np.arange(40) % 5 == 0, 1 - right, right)
    supervisor[20:] = np.nan
    student = np.where(np.arange(40) < 20, right, 1 - right)                   # wrong where nobody can compare
    c = compare_models(rows, soft(supervisor), soft(student), soft(right))
    assert c["n"] == 20 and c["student"] == 1 and c["supervisor"] == 0.8 and c["pgr"] == 1
    assert "n=20 of 40 that the supervisor labels" in format_comparison(c, all_metrics(soft(student), rows))


def test_supervisors_at_and_below_chance_are_announced():
    rows = [{"label": int(k < 29), "group": str(k)} for k in range(51)]        # the own task of 51 rows of the issue
    labels = np.array([row["label"] for row in rows])
    guess = np.where(np.arange(51) % 17 < 8, labels, 1 - labels)               # 0.471
    c = compare_models(rows, soft(guess), soft(labels), soft(labels))
    assert c["supervisor"] == pytest.approx(0.471, abs=1e-3) and c["chance"] == pytest.approx(0.569, abs=1e-3)
    assert any("chance" in warning for warning in c["warnings"])
    inverted = compare_models(rows, soft(1 - labels), soft(labels), soft(labels))
    assert "the supervisor is below chance: are its labels inverted, or its threshold wrong?" in inverted["warnings"]
    assert not compare_models(rows, soft(labels * 0.8), soft(labels), soft(labels))["warnings"]


def test_degenerate_labels_are_announced():
    for value in (0.5, 0.7, 1.0):
        assert label_warnings([value] * 9) == [f"they are {value:.3g} on every row: nothing can be learned from them"]
    assert label_warnings([0.6, 0.9, 1.0]) == ["they say yes on every row"]
    assert label_warnings([0.5, 0.9, 0.1]) == ["1 of 3 are ties of exactly 0.5"]


def test_unrelated_labels_are_found_and_related_ones_seldom_accused():
    rng = np.random.default_rng(0)
    related = 0
    unrelated = 0
    for _ in range(100):
        prediction = rng.random(60)
        labels = np.where(rng.random(60) < 0.25, 1 - (prediction > 0.5), prediction > 0.5)
        related += shuffle_test(prediction, labels) > 0.05
        unrelated += shuffle_test(prediction, rng.permutation(labels)) > 0.05
    assert related <= 5 and unrelated >= 88


def test_a_threshold_moves_only_where_it_is_clearly_better():
    _, labels, _, student, _ = rare()
    assert balanced_accuracy(student - choose_threshold(student, labels) + 0.5, labels) == 1
    rng = np.random.default_rng(0)
    moved = 0
    for _ in range(50):
        labels = rng.integers(0, 2, 30)
        p_yes = np.clip(0.5 + 0.2 * (2 * labels - 1) + 0.3 * rng.normal(size=30), 0, 1)
        moved += choose_threshold(p_yes, labels) != 0.5
    assert moved <= 10
    assert choose_threshold([], []) == 0.5 and choose_threshold([0.1, 0.2], [1, 1]) == 0.5
    assert pick_metric("auto", [0, 0, 0, 1, 1, 1, 1, 1, 1, 1]) == "accuracy"    # exactly 70/30


def test_a_confidence_in_float32_is_in_the_bin_of_its_number():
    """Fault: 0.9 is 0.89999998 in float32, and fell into the bin below: 0.51."""
    assert ece(np.array([0.9, 0.92], np.float32), [1, 0]) == pytest.approx(0.41, abs=1e-6)


def test_a_student_that_is_undecided_does_not_agree():
    """Fault: a tie counted as agreement with every no."""
    rows = [{"id": str(i), "group": str(i), "label": i % 2} for i in range(4)]
    c = compare_models(rows, soft(np.array([0.1, 0.9, 0.1, 0.9])), soft(np.array([0.5, 0.5, 0.1, 0.9])))
    assert c["agrees_where_supervisor_right"] == 0.5
