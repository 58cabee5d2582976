"""
Solutions of 02_student.ipynb: the functions as they stand in metrics.py, train_strong.py. Made by course/build.py.

$ python course/lesson.py course/solutions/02_student.py               # grades them
"""
import matplotlib.pyplot as plt
import numpy as np
import torch
from lesson import grade, run

from contract import read_labels, read_results, read_rows, run_folder
from metrics import NO_GAP, bootstrap, correct, pgr_interval


def pgr(supervisor, student, ceiling):
    """
    Performance gap recovered (Burns et al. 2023, section 3); nan where there is no gap.

    >>> round(pgr(supervisor=0.60, student=0.75, ceiling=0.80), 2)
    0.75
    >>> pgr(supervisor=0.80, student=0.75, ceiling=0.80)           # no gap to recover
    nan
    """
    gap = ceiling - supervisor
    return (student - supervisor) / gap if gap > NO_GAP else float("nan")


def clustered_se(values, groups):
    """
    Standard error of a mean whose rows come in groups (the answers to one question) that succeed or fail together; a
    plain standard error would be too small. values (N,), groups N -> float

    >>> round(float(clustered_se(np.array([1., 1., 0., 0.]), ["a", "a", "b", "b"])), 3)     # 4 rows, 2 questions
    0.354
    """
    member = np.unique(groups, return_inverse=True)[1]
    return np.sqrt((np.bincount(member, values - values.mean()) ** 2).sum()) / len(values)


def deal_labels(soft_labels, truth, seed):
    """
    Soft labels dealt to other rows of the same true class at random: the errors stay as many and as confident, and no
    longer depend on the text. A student cannot imitate them, only average them out.

    soft_labels (N, 2), truth (N,) of 0 and 1 -> (N, 2)
    >>> deal_labels(np.array([[.9, .1], [.4, .6], [.4, .6]]), np.array([0, 1, 1]), seed=0).tolist()
    [[0.9, 0.1], [0.4, 0.6], [0.4, 0.6]]
    """
    dealt = soft_labels.copy()
    rng = np.random.default_rng([seed, 2])
    for side in (0, 1):
        rows = np.flatnonzero(truth == side)
        dealt[rows] = soft_labels[rng.permutation(rows)]
    return dealt


grade(pgr,
      "test_metrics::test_pitfall_24_no_pgr_without_a_gap_and_the_reason_is_said")
grade(clustered_se,
      "test_metrics::test_the_standard_error_counts_questions_not_rows",
      "test_metrics::test_all_metrics_of_four_rows_by_hand")
grade(deal_labels,
      "test_train_strong::test_dealt_labels_are_the_same_labels_and_errors_without_a_pattern")
