"""
Solutions of 09_culture.ipynb: the functions as they stand in cdeval.py. Made by course/build.py.

$ python course/lesson.py course/solutions/09_culture.py               # grades them
"""
import matplotlib.pyplot as plt
import numpy as np
from lesson import grade, run

from cdeval import build_prompt, choice_probability, consistency, orientation, read_questions
from contract import read_results, run_folder
from metrics import sigmoid


def choice_probability(log_p, tokens):
    """
    P(option 1): softmax over the two answers' mean log p per token, so that a longer answer is not penalized. For whole
    sentences the mean is closer to 0.5 than the model's own choice would be, because two sentences differ at few of
    their tokens. Sums would let a model that cannot copy choose the more common words.

    log_p    (N, 2)  sum of log p over the tokens of the answers for option 1 and option 2
    tokens   (N, 2)  how many tokens these are
    returns  (N,)

    >>> choice_probability([[-1.0, -2.0], [-6.0, -3.0]], [[1, 1], [4, 2]]).round(3).tolist()   # second: -1.5 per token
    [0.731, 0.5]
    """
    mean = np.asarray(log_p, float) / np.asarray(tokens, float)
    return sigmoid(mean[:, 0] - mean[:, 1])


def orientation(probs, weights=1.0):
    """
    P(option 1) of each question: the mean over its forms. A style counts only if both of its orders were answered. A
    bias toward "A" has opposite signs in the two, so it cancels (exactly for a neutral model, else to first order).

    probs    (N, S, 2)  P(option 1) by style and order (normal, swapped); nan: no readable answer
    weights  (S,)       of the styles; equal by default
    returns  (N,)       nan where no style is complete

    >>> orientation(np.array([[[0.9, 0.1], [0.8, 0.6]], [[1.0, np.nan], [0.4, 0.4]]])).round(3).tolist()
    [0.6, 0.4]
    """
    by_style = probs.mean(2)                               # (N, S)
    w = np.where(np.isnan(by_style), 0.0, weights)
    with np.errstate(invalid="ignore"):
        return (np.nan_to_num(by_style) * w).sum(1) / w.sum(1)


def agreement(a, b):
    """
    Share of questions for which two ways of asking choose the same option. Ties count half, unanswered questions do not
    count. (N,), (N,) of P(option 1) -> float

    >>> agreement(np.array([0.9, 0.2, 0.5, np.nan]), np.array([0.6, 0.7, 0.9, 0.1]))     # same, different, tie, none
    0.5
    """
    answered = ~np.isnan(a + b)
    same = np.sign(a[answered] - 0.5) * np.sign(b[answered] - 0.5)
    return float(((same + 1) / 2).mean()) if answered.any() else float("nan")


grade(choice_probability,
      "test_cdeval::test_choice_probability_by_hand_and_for_any_length")
grade(orientation,
      "test_cdeval::test_orientation_takes_a_style_only_with_both_of_its_orders",
      "test_cdeval::test_a_planted_label_bias_is_removed_by_the_two_orders")
grade(agreement,
      "test_cdeval::test_consistency_by_hand")
