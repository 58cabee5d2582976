"""
Solutions of 01_supervisor.ipynb: the functions as they stand in train_weak.py, metrics.py. Made by course/build.py.

$ python course/lesson.py course/solutions/01_supervisor.py               # grades them
"""
import json

import matplotlib.pyplot as plt
import numpy as np
import torch
from lesson import grade, run

from contract import read_labels, read_rows, run_folder
from metrics import correct


def soft_xent(logits, soft_labels):
    """
    Cross entropy against probabilities instead of class ids.

    logits       (B, 2)  the model's scores for (no, yes)
    soft_labels  (B, 2)  (p_no, p_yes), each row sums to 1; the truth is (0, 1) or (1, 0)
    returns      (B,)    one loss a row; logits (3, 3) against any label give log 2 = 0.693

    The supervisor's uncertainty is kept on purpose: rounding a 0.55 to 1 would train the student to be certain of a
    guess.
    """
    return -(soft_labels * logits.log_softmax(-1)).sum(-1)


def ece(p_yes, labels, bins=10):
    """
    Expected calibration error: |confidence - accuracy|, averaged over ten equal bins of confidence from 0.5 to 1.

    >>> round(ece([0.8, 0.8, 0.8, 0.8], [1, 1, 0, 0]), 3)     # confidence 80 %, correct half of the time
    0.3
    """
    confidence = np.maximum(p_yes, 1 - np.asarray(p_yes, float))
    bin_of = np.minimum(((confidence - 0.5) * 2 * bins + 1e-5).astype(int), bins - 1)    # 0.9 is 0.89999998 in float32
    hits = correct(p_yes, labels)
    return float(sum(abs((confidence - hits)[bin_of == b].sum()) for b in range(bins)) / len(hits))


def batches_of_similar_length(lengths, batch_size, rng):
    """
    The row indices of one epoch, in batches. Rows are shuffled, sorted by length within stretches of 20 batches, cut
    into batches, and the batches are shuffled: little padding, and yet another order every epoch. Every row comes once;
    one batch may be smaller.
    """
    order = rng.permutation(len(lengths))
    stretch = 20 * batch_size
    by_length = []
    for k in range(0, len(order), stretch):
        by_length += sorted(order[k:k + stretch], key=lambda i: lengths[i])
    batches = [by_length[k:k + batch_size] for k in range(0, len(by_length), batch_size)]
    return [batches[k] for k in rng.permutation(len(batches))]


grade(soft_xent,
      "test_train_weak::test_soft_xent_of_equal_scores_is_log_2_whatever_the_label",
      "test_train_weak::test_soft_xent_is_torchs_own_cross_entropy")
grade(ece,
      "test_metrics::test_ece_is_small_for_a_calibrated_scorer_and_large_for_an_overconfident_one")
grade(batches_of_similar_length,
      "test_train_weak::test_pitfall_19_every_row_comes_once_and_the_last_batch_may_be_smaller",
      "test_train_weak::test_pitfall_23_the_order_changes_between_epochs_and_repeats_with_the_seed")
