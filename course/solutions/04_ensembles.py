"""
Solutions of 04_ensembles.ipynb: the functions as they stand in ensemble.py. Made by course/build.py.

$ python course/lesson.py course/solutions/04_ensembles.py               # grades them
"""
import matplotlib.pyplot as plt
import numpy as np
from lesson import grade, run

from contract import read_labels, read_results, read_rows, run_folder
from ensemble import posterior, reliability
from metrics import correct


def bag_counts(groups, rng):
    """
    A bootstrap sample: as many questions as there are, drawn with replacement. A row drawn three times is read once and
    weighs three times as much: the same loss, in two thirds of the time.

    groups    N, the question of each row
    returns   (N,) how often each was drawn; on average 1/e = 36.8 % of the questions are out of the bag, with 0

    >>> bag_counts(["q1", "q1", "q2", "q2", "q3", "q3"], np.random.default_rng(1)).tolist()
    [1, 1, 2, 2, 0, 0]
    """
    questions, question_of_row = np.unique(groups, return_inverse=True)
    return rng.multinomial(len(questions), np.full(len(questions), 1 / len(questions)))[question_of_row]


def dawid_skene(votes, mask=1.0):
    """
    The reliability of each voter without any truth (Dawid and Skene 1979): estimate the truth by majority, the voters'
    reliability from it, the truth once more from their reliability, and so on (expectation-maximisation). It assumes
    that errors are independent given the truth. Errors that models share count as knowledge. It needs three voters.

    votes, mask   as in reliability; a row counts if somebody has voted on it
    returns       (share of yes, sensitivity (M,), specificity (M,))

    >>> share_yes, sensitivity, specificity = dawid_skene([[1, 0] * 20, [1, 0] * 20, [1, 1] * 20])
    >>> round(share_yes, 2), sensitivity.round(2), specificity.round(2)                # the third always votes yes
    (0.5, array([0.95, 0.95, 0.95]), array([0.95, 0.95, 0.05]))
    """
    votes = np.asarray(votes, float)
    mask = np.broadcast_to(np.asarray(mask, float), votes.shape)
    votes = votes[:, mask.any(0)]
    mask = mask[:, mask.any(0)]
    truth = (mask * votes).sum(0) / mask.sum(0)            # (N,) p(yes): the majority
    for _ in range(200):
        share_yes = float((truth.sum() + 1) / (len(truth) + 2))
        sensitivity, specificity = reliability(votes, truth, mask)
        truth = posterior(votes, share_yes, sensitivity, specificity, mask)
    return share_yes, sensitivity, specificity


def adaboost(wrong):
    """
    The weights of members and rows, given the members' errors (SAMME for two classes, Zhu et al. 2009, algorithm 2).

    wrong     (M, n) bool: member m, trained under the row weights left by those before it, misclassifies row n
    returns   (members' weights ln((1 - e) / e), their weighted errors e, (n,) row weights for the next one, of sum 1)

    Weights of correct rows are divided by 2 (1 - e), of wrong rows by 2 e. Under the new weights the last member is
    right half of the time, so the next one has to learn something else. Boosting ends after e = 0, where nothing is
    left to learn: the member counts as if half a row were wrong (smoothing as in Schapire and Singer 1999). It also
    ends at e >= 1/2: the member is no better than a coin, and weighs 0 (Freund and Schapire 1997).

    >>> alphas, errors, weights = adaboost([[True, False, False, False]])
    >>> [round(a, 3) for a in alphas], errors, weights.round(3).tolist()   # ln 3; 1/4; half of all weight on the error
    ([1.099], [0.25], [0.5, 0.167, 0.167, 0.167])
    """
    wrong = np.asarray(wrong, bool)
    weights = np.full(wrong.shape[1], 1 / wrong.shape[1])
    alphas = []
    errors = []
    for missed in wrong:
        e = float(weights[missed].sum())
        errors.append(e)
        if not 0 < e < 0.5:
            alphas.append(0.0 if e else float(np.log(2 * len(weights) - 1)))
            break
        alphas.append(float(np.log((1 - e) / e)))
        weights = weights * np.where(missed, 1 / (2 * e), 1 / (2 * (1 - e)))
        weights /= weights.sum()                           # 1 already, but for rounding
    return alphas, errors, weights


grade(bag_counts,
      "test_ensemble::test_pitfall_26_bags_differ_and_hold_63_percent_of_the_questions")
grade(dawid_skene,
      "test_ensemble::test_dawid_skene_recovers_planted_accuracies_from_2000_rows_without_truth",
      "test_ensemble::test_dawid_skene_takes_errors_that_voters_share_for_knowledge",
      "test_ensemble::test_a_row_that_nobody_labels_changes_nothing")
grade(adaboost,
      "test_ensemble::test_adaboost_on_four_points_by_hand",
      "test_ensemble::test_pitfall_27_under_the_new_weights_the_last_member_is_right_half_of_the_time",
      "test_ensemble::test_adaboost_ends_where_nothing_is_left_and_where_a_member_is_no_better_than_a_coin")
