"""
PGR and its interval, on cases small enough to check by hand.

python -m pytest tests/test_measure.py           # 2 s, CPU, no network
"""
import math

import numpy as np
import pytest

from measure import bootstrap, compare, last_line, pgr, pgr_interval
from train_weak import metrics


def test_pitfall_24_no_pgr_without_a_gap_and_the_reason_is_said():
    rows = [{"label": 1, "group": str(k)} for k in range(4)]
    good, bad = np.array([[0.1, 0.9]] * 4), np.array([[0.9, 0.1]] * 4)
    out = compare(rows, good, bad, bad)
    assert "pgr" not in out and "not above" in out["pgr_reason"]
    assert "no --ceiling" in compare(rows, good, bad)["pgr_reason"]
    assert math.isnan(pgr(0.8, 0.9, 0.8))


def test_pitfall_25_a_ceiling_below_its_supervisor_is_flagged_in_the_last_line():
    rows = [{"label": 1, "group": str(k)} for k in range(4)]
    good, bad = np.array([[0.1, 0.9]] * 4), np.array([[0.9, 0.1]] * 4)
    assert "no PGR: the ceiling (0.000) is not above the supervisor (1.000)" in last_line(compare(rows, good, good, bad), metrics(good, rows))


def test_pgr_interval_of_a_known_case():
    """Supervisor 60 %, student 80 %, ceiling 100 % of 2,000 independent rows: PGR 0.5; the delta method gives its spread."""
    n = 2000
    weak, student = np.arange(n) % 10 < 6, np.arange(n) % 10 < 8
    draws = bootstrap([[weak, student, np.ones(n)]], np.arange(n))
    low, high, without = pgr_interval(draws)
    # 1 - PGR = (1 - student) / (1 - weak) = 0.2 / 0.4, and all of the student's errors are also the supervisor's: binomial among 800
    spread = 1.96 * math.sqrt(0.5 * 0.5 / 800)
    assert low == pytest.approx(0.5 - spread, abs=0.008) and high == pytest.approx(0.5 + spread, abs=0.008) and without == 0


def test_bootstrap_draws_a_question_with_all_its_rows():
    """100 copies of each of 50 rows tell no more than 50 rows: the interval must not shrink."""
    hit = np.random.default_rng(0).random(50) < 0.7
    alone = bootstrap([[hit]], np.arange(50)).std()
    copied = bootstrap([[np.repeat(hit, 100)]], np.repeat(np.arange(50), 100)).std()
    assert copied == pytest.approx(alone, rel=0.1)


def test_bootstrap_over_seeds_widens_the_interval_when_seeds_differ():
    same = bootstrap([[np.ones(1000) * 0.5]] * 4, np.arange(1000)).std()
    apart = bootstrap([[np.ones(1000) * a] for a in (0.2, 0.4, 0.6, 0.8)], np.arange(1000)).std()
    assert same < 1e-9 and apart > 0.05


def test_the_interval_is_open_when_the_gap_is_noise():
    row = np.arange(200)
    weak, student, ceiling = row < 140, row % 10 < 7, row >= 60                # 70 % each: in half of the draws the ceiling is not ahead
    low, high, without = pgr_interval(bootstrap([[weak, student, ceiling]], row))
    assert math.isnan(low) and math.isnan(high) and 0.4 < without < 0.6


def test_agreement_is_counted_where_the_supervisor_is_right_and_where_it_is_wrong():
    rows = [{"label": label, "group": str(k)} for k, label in enumerate([1, 1, 0, 0])]
    weak = np.array([[0.1, 0.9], [0.9, 0.1], [0.9, 0.1], [0.1, 0.9]])          # right, wrong, right, wrong
    student = np.array([[0.1, 0.9], [0.1, 0.9], [0.9, 0.1], [0.1, 0.9]])       # agrees, not, agrees, agrees
    out = compare(rows, weak, student, student)
    assert out["agrees_where_supervisor_right"] == 1.0 and out["agrees_where_supervisor_wrong"] == 0.5
    assert out["supervisor"] == 0.5 and out["student"] == 0.75
