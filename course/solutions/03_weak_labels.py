"""
Solutions of 03_weak_labels.ipynb: the functions as they stand in train_strong.py. Made by course/build.py.

$ python course/lesson.py course/solutions/03_weak_labels.py               # grades them
"""
import matplotlib.pyplot as plt
import numpy as np
import torch
from lesson import grade, run

import train_strong
from contract import read_labels, read_results, read_rows, run_folder
from metrics import correct, paired_gain, unit_rows
from train_strong import confidence_weight, harden


def confidence_target(logits, labels, a):
    """
    The auxiliary confidence loss (Burns et al., eq. 1):  (1 - a) CE(f, supervisor) + a CE(f, hardened student). Cross
    entropy is linear in its target, so this is CE(f, (1 - a) supervisor + a hardened student).

    The share of rows hardened to yes is the mean p(yes) of the batch's labels: one half for balanced classes, as in the
    paper, and also right for unbalanced ones (the released code does the same).

    >>> confidence_target(torch.tensor([[0., 2.], [0., 1.]]), torch.tensor([[0.6, 0.4], [0.4, 0.6]]), 0.5)[:, 1]
    tensor([0.7000, 0.3000])
    """
    import torch
    student = harden(logits, labels[:, 1].mean())
    return (1 - a) * labels + a * torch.stack([1 - student, student], dim=1)


def product(logits, labels, progress):
    """
    Student and supervisor combined as if their errors were independent: the target is proportional to
    p_student * p_supervisor (openai/weak-to-strong, product_loss_fn).

    >>> product(torch.zeros(1, 2), torch.tensor([[0.3, 0.7]]), 0.5)     # a student at 1/2 leaves the label as it is
    tensor([[0.3000, 0.7000]])
    """
    joint = logits.softmax(-1) * labels.clamp(1e-6, 1)     # a label of exactly 0 would overrule every student
    return joint / joint.sum(-1, keepdim=True)


def knn_prediction(features, soft_labels, groups, k=50):
    """
    The mean label of the k nearest rows by cosine, without the row's own question (EleutherAI/w2s: k = 50; of fewer
    than 500 rows a tenth). Without any other question: 1/2.

    features (N, C), soft_labels (N, 2), groups N -> (N,) p(yes)
    >>> features = np.array([[1., 0.], [1., .1], [0., 1.], [.1, 1.]])
    >>> knn_prediction(features, np.array([[.1, .9], [.2, .8], [.9, .1], [.7, .3]]), ["a", "b", "c", "d"], k=1)
    array([0.8, 0.9, 0.3, 0.1])
    """
    unit = unit_rows(features)
    question = np.unique(groups, return_inverse=True)[1]   # (N,) numbers
    prediction = np.empty(len(unit))
    k = min(k, max(1, len(unit) // 10))
    for start in range(0, len(unit), 1024):                # N x N similarities at once would not fit for large N
        rows = slice(start, start + 1024)
        similarity = unit[rows] @ unit.T
        similarity[question[rows, None] == question] = -np.inf
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        is_other = np.isfinite(np.take_along_axis(similarity, nearest, 1))     # (n, k)
        n_others = is_other.sum(1)
        means = (soft_labels[nearest, 1] * is_other).sum(1) / n_others.clip(1)
        prediction[rows] = np.where(n_others > 0, means, 0.5)
    return prediction


grade(confidence_target,
      "test_train_strong::test_logconf_is_the_sum_of_its_two_cross_entropies",
      "test_train_strong::test_logconf_starts_as_plain_cross_entropy",
      "test_train_strong::test_pitfall_04_as_many_pass_the_threshold_as_the_supervisor_says_yes")
grade(product,
      "test_train_strong::test_product_is_bayes_rule_for_two_independent_predictions")
grade(knn_prediction,
      "test_train_strong::test_knn_by_hand",
      "test_train_strong::test_pitfall_34_one_nearest_neighbour_on_random_labels_agrees_half_of_the_time",
      "test_train_strong::test_pitfall_34_a_twin_of_the_same_question_has_no_vote_either",
      "test_train_strong::test_filters_find_planted_wrong_labels[knn_prediction]")
