"""
Many weak supervisors: bagging, boosting, and the fusion of their labels.

Why: let each of three supervisors be right on 70 % of the rows. If their errors are independent, their majority is
right on 78.4 % (0.7^3 + 3 * 0.7^2 * 0.3). If they make the same errors, it stays at 70 %. So members must differ, and
the fusion must weigh them. Sang et al. (2024, https://arxiv.org/abs/2402.00667, section 3) train a student on such
fused labels.

    --method bagging             members are trained independently of each other
             adaboost            in turn: rows that were misclassified so far weigh more (SAMME, Zhu et al. 2009)
             gradient            in turn: each fits the residuals y - p(yes) of those before it (Friedman 2001)
             gradient-released   the same as the authors' code does it (see gradient_released)
    --by     data                bagging: a bootstrap sample of train1's questions for each (Breiman 1996)
             features            the head of each sees a random half of the hidden features
             layers              each is truncated after another block, the deepest first
             models              each starts from another checkpoint (--models), pretrained on other texts
    --combine mean, vote         equal weights: the mean of the soft labels (default of bagging), or of the verdicts,
                                 which are labels rounded at 1/2
             loglik              weights under which the mixture gives held-out labels the greatest likelihood
             bma                 Bayesian model averaging: the probability that each member is the right one
             dawid-skene         needs no truth: members that agree with the others are reliable
             bayes               Bayes' rule, with each member's errors on held-out labels
             samme               adaboost: its weights on the verdicts, as its algorithm says. The default of adaboost
                                 gives these weights to the soft labels (gradient boosting adds up its steps)
    --calibrate                  divides each member's log odds by a temperature before the fusion

$ python train_weak.py                                          # a single supervisor, to compare with
$ python ensemble.py                                            # bagging by data: the mean of five members
$ python ensemble.py --combine dawid-skene --out bagging-ds     # the same members, another fusion: nothing is trained
$ python ensemble.py --calibrate --members 3 --out bagging-3    # the first three of them, each with a temperature
$ python ensemble.py --by models --members 3 --out models       # --models tiny-1a,tiny-1b,tiny-1c, taken in turn
$ python ensemble.py --jobs 2                                   # two members at a time, the same files
$ python ensemble.py --method adaboost --out adaboost --supervisor models      # compared with models, not with weak
$ python train_strong.py --labels models --ceiling ceiling --out student-models

--supervisors fuses labels that were not made here, and nothing is trained. Annotators may label some rows only. A
reliability table shows the errors of each; with true labels in train1, --calibrate, bayes, loglik and bma use them:

$ python ensemble.py --task tickets --supervisors ann,bob,rule --combine dawid-skene --out fused     # or: all

Epochs, the number of members used, weights and temperatures are chosen on rows of train1 that a member was not trained
on: those outside its bag, or the tenth that train_weak.py holds out too. The authors' code chooses on test.

Needs   contract.py, metrics.py, models.py, train_weak.py
Reads   data/<task>/train1.jsonl with its labels; the texts of train2, valid and test; test's labels after all choices
Writes  data/<task>/seed<seed>/ensemble/{config.json, labels.jsonl, results.json}: a supervisor's folder without a
        checkpoint. labels.jsonl also has the members' disagreement on each row.
        With --supervisors only the rows that somebody labelled.
        data/<task>/seed<seed>/members-.../member-<k>/{checkpoint/, labels.jsonl, member.json}: each member is trained
        once for all fusions and sizes. It takes the disk space of its checkpoint (tiny-1a 3.6 MB, gpt2 0.5 GB).

Simpler than the paper, on purpose: a bag holds as many questions as there are (they try several sizes), and --by layers
truncates one model.
"""
import argparse
import concurrent.futures
import contextlib
import functools
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time

import numpy as np

from contract import (
    DAMAGE, ROOT, SPLITS, WRITTEN, add_run_flags, describe_run, fail, is_finished, is_pair, is_text, labels_folder,
    lock_folder, make_output_plain, may_have_gaps, model_folder, number, open_file, open_run, output_fingerprints,
    read_json, read_labels, read_rows, read_task, run_folder, run_script, save_checkpoint, without_labels, write_file,
    write_labels, write_results)
from metrics import (
    accuracy, all_metrics, check_comparison, clustered_se, correct, format_metrics, label_warnings, paired_gain,
    sigmoid, to_soft_labels)
from models import add_model_flags, classify, load_classifier, pick_device, predict, tokenize
from train_weak import (
    add_training_flags, fit_best_epoch, prepare_for_training, soft_xent, split_held_out, words_of_head)

FEWEST_TO_CALIBRATE = 10             # true labels; a temperature from fewer is chance

# --------------------------------------------------------------------------- fusion
#
#   probs      (M, N, 2)   the soft labels (p_no, p_yes) of M members for N rows
#   oob_mask   (M, N)      out of bag: True where member m was not trained on row n, so that its label is evidence


def log_odds(probs):
    """(..., 2) soft labels -> (...) log(p_yes / p_no)"""
    probs = np.clip(np.asarray(probs, float), 1e-9, 1)
    return np.log(probs[..., 1]) - np.log(probs[..., 0])


def line_search(f, h, y, low=0.0, high=32.0):
    """
    The step s in [low, high] with the least logistic loss of f + s h. The loss is convex in s: bisection on its slope.

    f, h, y   (n,) log odds so far, direction, truth of 0 and 1

    >>> round(line_search(0, [1, 1, 1, -1], [1, 1, 0, 0]), 3)      # h has the sign of y on 3 of 4 rows: ln 3
    1.099
    """
    h = np.asarray(h, float)
    sign = 2.0 * np.asarray(y) - 1
    for _ in range(60):
        s = (low + high) / 2
        if (sign * h * sigmoid(-sign * (f + s * h))).sum() > 0:
            low = s
        else:
            high = s
    return (low + high) / 2


def temperature(probs, y):
    """
    The divisor of a member's log odds with the least log loss on rows that it was not trained on (Guo et al. 2017,
    section 4.2). Above 1: it was overconfident. Nobody is infallible: a member without an error counts as if one more
    row were wrong. (n, 2), (n,) of 0 and 1 -> a number of 1/32 to 10,000

    >>> round(temperature([[0.1, 0.9]] * 4, [1, 1, 1, 0]), 2)      # log odds of ln 9, right on 3 of 4: ln 9 / ln 3
    2.0
    """
    least = 1 / 32
    h = log_odds(probs)
    y = np.asarray(y, float)
    if (h * (2 * y - 1) >= 0).all():                       # a tie is no error
        h = np.append(h, np.abs(h).mean())
        y = np.append(y, 0)
    step = line_search(0, h, y, low=least)
    if step < least * (1 + 1e-9):                          # labels of 0 and 1, as people give them: log odds of +-20.7
        step = line_search(0, h, y, low=1e-4, high=least)
    return 1 / step


def apply_temperature(probs, temperatures):
    """Divide each member's log odds; 0.9 at temperature 2 becomes 0.75. (M, N, 2), M numbers or None -> (M, N, 2)"""
    if temperatures is None:
        return probs
    p_yes = sigmoid(log_odds(probs) / np.asarray(temperatures, float)[:, None])
    return np.stack([1 - p_yes, p_yes], -1)


def disagreement(probs, mask=1.0):
    """
    The entropy of the members' mean minus the mean of their entropies: the mutual information of label and member, in
    nats, 0 to ln 2. Large where members contradict each other, 0 where they agree. (M, N, 2) -> (N,)

    mask   (M, N) 1 where a member has labelled the row

    >>> disagreement([[[0.0, 1.0]], [[1.0, 0.0]]]).round(3), disagreement([[[0.5, 0.5]], [[0.5, 0.5]]])
    (array([0.693]), array([0.]))
    """
    probs = np.asarray(probs, float)
    weights = np.broadcast_to(np.asarray(mask, float), probs.shape[:2])
    weights = weights / weights.sum(0)

    def entropy(q):
        return -(q * np.log(np.clip(q, 1e-12, 1))).sum(-1)
    return np.maximum(entropy((weights[..., None] * probs).sum(0)) - (weights * entropy(probs)).sum(0), 0)


def loglik_weights(q, oob_mask, rounds=200):
    """
    Weights on the simplex with the greatest likelihood of the truth under the mixture sum_m w_m q_m: stacking, by
    expectation-maximisation. A new weight is the mean share that a member has in the mixture's probability of the
    truth. Where some members were trained on a row, the mixture is that of the others, and the sum of shares is divided
    by the chances that the member had (Hunter 2004): the likelihood still never falls.

    q, oob_mask   (M, n) probability that member m gives to the truth of row n, (M, n) bool -> (M,)

    >>> loglik_weights([[0.9, 0.9, 0.1], [0.5, 0.5, 0.5]], np.ones((2, 3))).round(3).tolist()
    [0.417, 0.583]
    """
    q = np.clip(q, 1e-9, 1) * oob_mask
    w = np.full(len(q), 1 / len(q))
    for _ in range(rounds):
        shares = w[:, None] * q / np.maximum(w @ q, 1e-300)                    # (M, n), columns sum to 1
        w = shares.sum(1) / np.maximum((oob_mask / np.maximum(w @ oob_mask, 1e-300)).sum(1), 1e-300)
        w /= w.sum()
    return w


def bma_weights(q, oob_mask):
    """
    Bayesian model averaging: from equal priors, a member's weight is proportional to the likelihood that it gives to
    the truth of all rows. Some hundred rows decide firmly: it selects rather than averages. A row counts relative to
    the members that were not trained on it (our choice). Arguments and result as in loglik_weights.

    >>> bma_weights([[0.9, 0.8], [0.5, 0.5]], np.ones((2, 2))).round(3).tolist()       # 0.9 * 0.8 against 0.5 * 0.5
    [0.742, 0.258]
    """
    logq = np.log(np.clip(q, 1e-9, 1)) * oob_mask
    evidence = ((logq - logq.sum(0) / np.maximum(oob_mask.sum(0), 1)) * oob_mask).sum(1)
    w = np.exp(evidence - evidence.max())
    return w / w.sum()


def reliability(votes, truth, mask=1.0):
    """
    How often each voter is right on either class. All counts start from 1, so that no voter is infallible.

    votes     (M, N) of 0 and 1, 1/2 for a tie; truth (N,) p(yes), known or estimated
    mask      (M, N) 1 where the voter has voted, 0 where not
    returns   sensitivity (M,) = P(votes yes | yes), specificity (M,) = P(votes no | no)

    >>> reliability(np.array([[1, 1, 0, 0]]), np.array([1, 1, 1, 0]))                  # (2 + 1) / (3 + 2), (1 + 1) / 3
    (array([0.6]), array([0.66666667]))
    """
    mask = np.broadcast_to(np.asarray(mask, float), votes.shape)
    sensitivity = ((mask * votes) @ truth + 1) / (mask @ truth + 2)
    specificity = ((mask * (1 - votes)) @ (1 - truth) + 1) / (mask @ (1 - truth) + 2)
    return sensitivity, specificity


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


def posterior(votes, share_yes, sensitivity, specificity, oob_mask=1.0):
    """
    Bayes' rule: p(yes) given votes (M, N) and the voters' reliability (M,), (M,) -> (N,). A tie is no evidence.

    >>> posterior([[1], [0]], 0.5, [0.9, 0.6], [0.9, 0.6]).round(3).tolist()           # log odds of ln 9 - ln 1.5
    [0.857]
    """
    votes = np.asarray(votes, float)
    sensitivity = np.asarray(sensitivity)[:, None]
    specificity = np.asarray(specificity)[:, None]
    for_yes = np.log(sensitivity / (1 - specificity))
    for_no = np.log((1 - sensitivity) / specificity)
    evidence = np.where(votes > 0.5, for_yes, for_no) * (votes != 0.5)
    return sigmoid(np.log(share_yes / (1 - share_yes)) + (evidence * oob_mask).sum(0))


def learn_recipe(fusion, probs, truth, oob_mask, votes, calibrate=False, voted=1.0):
    """
    What a fusion needs to label new rows, a dict of plain numbers: {"combine": "loglik", "weights": [0.4, 0.6]}

    probs, truth, oob_mask   (M, N1, 2), (N1,), (M, N1): train1
    votes, voted             (M, N2) verdicts on train2 and valid (annotators: train1, too), and who gave one: for
                             dawid-skene
    """
    recipe = {"combine": fusion}
    weights = [1 / len(probs)] * len(probs)
    held = oob_mask[0]                                     # boosting: the same rows for every member
    if fusion == "gradient":
        return recipe | {"steps": gradient(log_odds(probs) / 4, truth, held)[0]}
    if fusion == "gradient-released":
        return recipe | {"steps": weights}
    if calibrate:                                          # an annotator may have labelled next to no row of train1
        recipe["temperatures"] = [temperature(p[oob], truth[oob]) if oob.sum() >= FEWEST_TO_CALIBRATE else 1.0
                                  for p, oob in zip(probs, oob_mask)]
        probs = apply_temperature(probs, recipe["temperatures"])
    if fusion == "bayes" or fusion == "dawid-skene" and len(probs) >= 3:
        if fusion == "bayes":
            share_yes = float((truth.sum() + 1) / (len(truth) + 2))
            sensitivity, specificity = reliability(correct(probs[..., 1], 1), truth, oob_mask)
        else:
            share_yes, sensitivity, specificity = dawid_skene(votes, voted)
        return recipe | {"share_yes": share_yes, "sensitivity": sensitivity.tolist(),
                         "specificity": specificity.tolist()}
    if fusion == "dawid-skene":
        recipe["combine"] = "vote"                         # of two voters, either may be the wrong one
    elif fusion in ("adaboost", "samme"):                  # the only weights that come from training rows
        alphas = adaboost(misclassified(probs, truth, ~held))[0]
        weights = alphas if any(alphas) else weights       # none is better than a coin: equal weights
    elif fusion in ("loglik", "bma"):
        q = np.where(truth == 1, probs[..., 1], probs[..., 0])
        weights = (loglik_weights if fusion == "loglik" else bma_weights)(q, oob_mask).tolist()
    return recipe | {"weights": weights}


def combine(probs, recipe, oob_mask=None):
    """
    Soft labels of M members and a recipe -> one soft label a row, (N, 2); nan where all members were trained on it.

    >>> probs = np.array([[[0.1, 0.9]], [[0.6, 0.4]], [[0.6, 0.4]]])                   # one is sure, two lean to no
    >>> [combine(probs, {"combine": how, "weights": [1, 1, 1]})[0, 1].round(3).item() for how in ("mean", "vote")]
    [0.567, 0.333]
    """
    oob_mask = np.ones(probs.shape[:2]) if oob_mask is None else np.asarray(oob_mask, float)
    probs = apply_temperature(probs, recipe.get("temperatures"))
    votes = correct(probs[..., 1], 1)                      # 1, 0, or 1/2 for a tie
    if recipe["combine"] in ("dawid-skene", "bayes"):
        p_yes = posterior(votes, recipe["share_yes"], recipe["sensitivity"], recipe["specificity"], oob_mask)
    elif "steps" in recipe:                                # gradient boosting
        total = np.tensordot(np.asarray(recipe["steps"], float), log_odds(probs) / 4, 1)
        p_yes = sigmoid(total) if recipe["combine"] == "gradient" else np.clip(0.5 + total, 0, 1)
    else:
        weights = np.maximum(np.asarray(recipe["weights"], float), 1e-12)[:, None] * oob_mask     # bma's may be 0
        values = votes if recipe["combine"] in ("vote", "samme") else probs[..., 1]
        p_yes = (weights * values).sum(0) / np.maximum(weights.sum(0), 1e-300)
    p_yes = np.where(oob_mask.any(0), p_yes, np.nan)
    return np.stack([1 - p_yes, p_yes], -1).astype(np.float32).astype(float)   # as in labels.jsonl: a tie is a tie


# --------------------------------------------------------------------------- bagging and boosting


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


def misclassified(probs, truth, rows):
    """Is member m wrong, or undecided, on the rows of a mask? (M, N, 2), (N,), (N,) bool -> (M, n) bool"""
    return correct(probs[:, rows, 1], truth[rows]) < 1


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


def gradient(h, y, held):
    """
    Gradient boosting with logistic loss (Friedman 2001, algorithm 1): f = s_0 h_0 + s_1 h_1 + ... Each h is fitted by
    least squares to the pseudo-residuals y - p(yes) of those before it; each step s is found by line search.

    h         (M, N) the members' directions on train1, y (N,) its truth
    held      (N,) bool, rows that no member was trained on. The line search runs there: a network fits its training
              rows so well that no step would be too long
    returns   (M steps, (N,) residuals for the next member)

    >>> steps, residuals = gradient(np.array([[1, 1, 1, -1]]), np.array([1, 1, 0, 0]), np.ones(4, bool))
    >>> [round(s, 3) for s in steps], residuals.round(3).tolist()            # the step is ln 3: p(yes) = 3/4 or 1/4
    ([1.099], [0.25, 0.25, -0.75, -0.25])
    """
    f = np.zeros(len(y))
    steps = []
    for direction in h:
        steps.append(line_search(f[held], direction[held], y[held]))
        f = f + steps[-1] * direction
    return steps, y - sigmoid(f)


def gradient_released(h, y):
    """
    The authors' code, with squared error: the first member fits y itself; f = 0.2 h_0, later f <- (f + 0.2 h) / 2, and
    later members fit 2 (y - f). The prediction is not f but the plain mean of all h, cut to [0, 1].

    h, y      (M, N) the members' outputs on train1, (N,) its truth
    returns   (N,) what the next member fits

    >>> gradient_released(np.array([[1.0, 0.5]]), np.array([1, 0])).round(3).tolist()
    [1.6, -0.2]
    """
    f = np.zeros(len(y))
    target = np.asarray(y, float)
    for k, direction in enumerate(h):
        f = 0.2 * direction if k == 0 else (f + 0.2 * direction) / 2
        target = 2 * (y - f)
    return target


def choose_size(losses, groups):
    """
    How many members to use: the largest number that is worse than the best one by at most a standard error of their
    difference (our choice: few rows decide by chance, and more members cost only time).

    losses, groups   (M, n) losses of the first 1, 2, ... M members on the same n held-out rows, the rows' questions

    >>> choose_size(np.array([[0.3, 0.3, 0.3], [0.1, 0.2, 0.3], [0.2, 0.2, 0.2]]), ["a", "b", "c"])
    3
    """
    excess = losses - losses[losses.mean(1).argmin()]                          # (M, n)
    return max(m for m, d in enumerate(excess, 1) if d.mean() <= clustered_se(d, groups))


# --------------------------------------------------------------------------- what one member is trained on
#
#   counts     (N1,)   how often each row of train1 is trained on; rows with 0 are held out

METHODS = ("bagging", "adaboost", "gradient", "gradient-released")
GRADIENT_BOOSTING = ("gradient", "gradient-released")


def member_targets(method, probs, truth, counts):
    """
    What the next member learns: the truth, with a weight for each row (1 on average), or a correction of the log odds.

    probs, truth, counts   (M, N1, 2) of the members before, (N1,), (N1,)
    returns                {"soft_labels": (N1, 2), "row_weights": (N1,)} or {"residuals": (N1,)}
    """
    if method == "gradient":
        return {"residuals": gradient(log_odds(probs) / 4, truth, counts == 0)[1]}
    if method == "gradient-released":                      # there 1/2 plus a quarter of the log odds is a p(yes)
        return {"residuals": gradient_released(0.5 + log_odds(probs) / 4, truth) - 0.5}
    trained = counts > 0
    weights = counts.astype(float)                         # a row that was drawn three times weighs three times as much
    if method == "adaboost":
        weights[trained] = adaboost(misclassified(probs, truth, trained))[2]
    return {"soft_labels": to_soft_labels(truth), "row_weights": weights * (trained.sum() / weights.sum())}


def member_loss(model, batch):
    """
    A loss_fn for train_weak.fit, (B,): cross entropy times the rows' weights. A correction is a quarter of the log
    odds, and its loss the squared distance to the residuals. Near 0 it is p(yes) - 1/2: the head starts well.
    """
    logits = classify(model, batch)
    if "residuals" in batch:
        return ((logits[:, 1] - logits[:, 0]) / 4 - batch["residuals"]) ** 2
    return batch["row_weights"] * soft_xent(logits, batch["soft_labels"])


def member_score(probs, targets):
    """How good an epoch is on held-out rows, larger is better. (n, 2), {name: (n, ...)} -> float"""
    if "residuals" in targets:
        return -float(np.mean((log_odds(probs) / 4 - targets["residuals"]) ** 2))
    return accuracy(probs[:, 1], targets["soft_labels"][:, 1])


# --------------------------------------------------------------------------- train the members


def truncate_layers(model, k):
    """Cut the last k (modulo n) of n blocks off, in place: an ordinary, smaller transformers model. The norm stays."""
    import torch
    config = model.config.get_text_config()                # a model of texts and images has another one for images
    n_layers = config.num_hidden_layers
    keep = n_layers - k % n_layers
    found = [(name, blocks) for name, blocks in model.base_model.named_modules()
             if isinstance(blocks, torch.nn.ModuleList) and len(blocks) == n_layers]
    if not found:
        fail("--by layers: this model does not keep its blocks in one list; take another --by")
    name, blocks = found[0]
    parent, _, leaf = name.rpartition(".")
    setattr(model.base_model.get_submodule(parent), leaf, blocks[:keep])
    kinds = (getattr(config, "layer_types", None) or ["attention"])[:keep]
    try:
        config.num_hidden_layers = keep
        if getattr(config, "layer_types", None):
            config.layer_types = kinds
        type(model.config).from_dict(model.config.to_dict())               # would it open again?
    except (AttributeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        fail(f"--by layers: {config.model_type} with {keep} layers is no model ({reason}); take another --by")
    if not any("attention" in kind and "linear" not in kind for kind in kinds):
        fail(f"--by layers: the first {keep} layers of {config.model_type} are all recurrent; take another --by")


def mask_head(model, rng):
    """Set a random half of the head's columns to 0. Their gradient is set to 0 too, so that they stay 0 in training."""
    import torch
    heads = [p for name, p in model.named_parameters() if name.startswith("score.") and p.requires_grad and p.ndim == 2]
    if len(heads) != 1:
        fail("--by features needs a decoder, whose head is one linear layer; take another --by")
    head = heads[0]                                        # (2, C)
    visible = rng.permutation(head.shape[1]) < (head.shape[1] + 1) // 2
    visible = torch.tensor(visible, dtype=head.dtype, device=head.device)
    head.data *= visible
    head.register_hook(lambda grad: grad * visible)


def row_counts(train1, args):
    """(M, N1), how often each member is trained on each row: its bag, or once on all but the tenth that is held out."""
    groups = [row["group"] for row in train1]
    if args.method == "bagging" and args.by == "data":
        counts = np.array([bag_counts(groups, np.random.default_rng([args.seed, k])) for k in range(args.members)])
    else:
        kept_groups = {row["group"] for row in split_held_out(train1, args.seed)[0]}
        counts = np.array([[int(group in kept_groups) for group in groups]] * args.members)
    if counts.all(1).any() or not counts.any(1).all():
        fail(f"data/{args.task}/train1.jsonl has too few groups: some must train a member, and others choose its epoch")
    return counts


def checkpoint_names(args):
    """The checkpoints that members start from, taken in turn."""
    return [name.strip() for name in args.models.split(",")] if args.by == "models" else [args.model]


def load_member(k, words, args, device, pairs=False):
    """Member k before training. -> (model, tokenizer, max_length, prepare_for_training's restore_ordinary)"""
    import torch
    names = checkpoint_names(args)
    torch.manual_seed(args.seed)                           # a new head is noise, the same for all members
    model, tokenizer, max_length = load_classifier(names[k % len(names)], args.head, words, device, args, pairs)
    if args.by == "layers":
        truncate_layers(model, k)
    torch.manual_seed(1000 * args.seed + k)                # adapters (--lora) differ from member to member
    model, restore_ordinary = prepare_for_training(model, args)
    if args.by == "features":
        mask_head(model, np.random.default_rng([args.seed, k]))
    return model, tokenizer, max_length, restore_ordinary


def train_member(k, rows, words, counts, targets, args, device):
    """
    Fine-tune member k on the rows of train1 with counts > 0. The others choose its epoch. Then it labels all rows.

    rows      N rows, those of train1 first; counts (N1,), targets {name: (N1, ...)}
    returns   (model, tokenizer, soft labels (N, 2), epoch)
    """
    model, tokenizer, max_length, restore_ordinary = load_member(k, words, args, device, is_pair(rows[0]))
    ids = tokenize(tokenizer, rows, max_length)
    kept = np.flatnonzero(counts)
    held = np.flatnonzero(counts == 0)
    kept_ids = [ids[i] for i in kept]
    held_ids = [ids[i] for i in held]
    kept_targets = {name: values[kept].astype(np.float32) for name, values in targets.items()}
    held_targets = {name: values[held] for name, values in targets.items()}
    member_args = argparse.Namespace(**{**vars(args), "seed": [args.seed, k]})         # each has its own order of rows
    best = fit_best_epoch(model, tokenizer, kept_ids, kept_targets, member_loss, held_ids,
                          lambda epoch, soft_labels: member_score(soft_labels, held_targets), member_args, device)
    model = restore_ordinary()
    return model, tokenizer, predict(model, tokenizer, ids, device, args.dtype), best["epoch"]


def is_trained(folder, config):
    """Does member.json hold the same configuration, and the folder what the member left?"""
    try:
        with open_file(os.path.join(folder, "member.json")) as f:
            member = json.load(f)
        return member["config"] == config and member["outputs"] == output_fingerprints(folder)
    except DAMAGE:
        return False


def make_member(k, rows, words, counts, targets, config, folder, args, device):
    """Train member k and write its folder, member.json last. -> (path of that file, a line about the member)"""
    model, tokenizer, soft_labels, epoch = train_member(k, rows, words, counts, targets, args, device)
    save_checkpoint(folder, model, tokenizer)
    write_labels(folder, rows, soft_labels)
    path = os.path.join(folder, "member.json")
    member = {"config": config, "epoch": epoch, "outputs": output_fingerprints(folder)}
    write_file(path, json.dumps(member, indent=1))
    return path, (f"member {k}: trained on {(counts > 0).sum():,} rows; epoch {epoch} of {args.epochs} was best on "
                  f"{(counts == 0).sum():,} held-out rows")


def start_worker(n_threads, device):
    """What a new process needs before its first member. It ends when the process that started it is killed."""
    import torch
    import tqdm

    def end_with_parent():
        multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
        os._exit(1)
    threading.Thread(target=end_with_parent, daemon=True).start()
    make_output_plain()
    tqdm.tqdm.set_lock(threading.RLock())                  # its own would be a semaphore that Ctrl-C leaves behind
    torch.set_num_threads(n_threads)
    with contextlib.redirect_stdout(None):                 # the line about the device is printed already
        pick_device(device)


def make_side_by_side(tasks, args, device):
    """
    make_member for several members, args.jobs at a time, each in a process with its share of the threads. After one
    has failed, those that have started come to their end and are kept. tasks: lists of make_member's arguments
    """
    import torch
    n_jobs = min(args.jobs, len(tasks))
    n_threads = torch.get_num_threads()
    if "OMP_NUM_THREADS" not in os.environ:
        n_threads = max(1, n_threads // n_jobs)
    # a fork has imported torch already; a process in which CUDA or threads have started cannot be forked safely
    can_fork = device == "cpu" and sys.platform == "linux" and len(os.listdir("/proc/self/task")) == 1
    context = multiprocessing.get_context("fork" if can_fork else "spawn")
    pool = concurrent.futures.ProcessPoolExecutor(n_jobs, context, start_worker, (n_threads, device))
    # new processes inherit that Ctrl-C is blocked, so it is ours; one that comes meanwhile waits. Windows cannot block
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if hasattr(signal, "pthread_sigmask") else None
    try:
        try:
            futures = [pool.submit(make_member, *task, args, device) for task in tasks]
        finally:
            if mask is not None:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for future in concurrent.futures.as_completed(futures):
            path, line = future.result()
            WRITTEN.append(path)
            print(line, flush=True)
    except KeyboardInterrupt:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    except concurrent.futures.process.BrokenProcessPool:
        fail("a process that trained a member was killed, perhaps because the memory was full. Finished members are "
             "kept; the same command with fewer --jobs trains the others")
    finally:
        pool.shutdown(cancel_futures=True)


def adaboost_end(probs, truth, trained):
    """
    How many members to keep if boosting ends with the last of these, else None. Arguments: (M, N1, 2), (N1,), and
    (N1,) bool, the rows that members were trained on
    """
    k = len(probs) - 1
    error = adaboost(misclassified(probs, truth, trained))[1][-1]
    print(f"member {k}: weighted error {error:.3f} on its training rows, plain error "
          f"{1 - accuracy(probs[k, ~trained, 1], truth[~trained]):.3f} on held-out rows")
    if 0 < error < 0.5:
        return None
    print("boosting ends here: " + ("no better than a coin" if error else "nothing is left to learn"))
    return k + 1 if error == 0 or k == 0 else k


def train_members(rows, truth, counts, words, config, home, args, device):
    """
    All members, in order. Finished ones are read from their folders.

    rows, truth, counts   N rows, those of train1 first; (N1,); (M, N1) from row_counts
    config                everything that members depend on
    home                  their folder. Runs with other fusions share it, so it is locked once there is one to train
    returns               (M, N, 2) soft labels; fewer members where boosting ended
    """
    n1 = len(truth)
    probs = np.zeros((args.members, len(rows), 2))
    side_by_side = args.jobs > 1                           # bagging alone (check_args): its members need no other

    def member_task(k):
        """make_member's arguments for member k, once those before it are in `probs`"""
        member_config = config | {"member": k}
        if args.method != "bagging" and k:                 # its targets depend on the member before
            member_config["after"] = output_fingerprints(os.path.join(home, f"member-{k - 1}"))["labels.jsonl"]
        targets = member_targets(args.method, probs[:k, :n1], truth, counts[k])
        return k, rows, words, counts[k], targets, member_config, os.path.join(home, f"member-{k}")

    def is_missing(task):
        *_, member_config, folder = task
        return args.force or not is_trained(folder, member_config)

    with contextlib.ExitStack() as stack:
        lock = functools.cache(lambda: stack.enter_context(lock_folder(home)))         # once, until the block ends
        if side_by_side:
            tasks = [member_task(k) for k in range(args.members)]
            missing = [task for task in tasks if is_missing(task)]
            if missing:
                lock()
                make_side_by_side(missing, args, device)
        for k in range(args.members):
            if not side_by_side:
                task = member_task(k)
                if is_missing(task):
                    lock()
                    _, line = make_member(*task, args, device)
                    print(line)
            probs[k] = read_labels(os.path.join(home, f"member-{k}"), rows)
            if args.method == "adaboost" and (n_kept := adaboost_end(probs[:k + 1, :n1], truth, counts[k] > 0)):
                return probs[:n_kept]
    return probs


# --------------------------------------------------------------------------- fuse their labels, and measure


def fuse_members(fusion, probs, train1, oob_mask, n_test, calibrate):
    """
    Fuse the first 1, 2, ... M members, and choose how many of them to use. A row of train1 is labelled by those members
    alone that were not trained on it.

    probs, oob_mask   (M, N, 2), rows of train1 first and the n_test of test last; (M, N1)
    returns           (number of members to use, M recipes, (M, n) p(yes) of the rows that member 0 was not trained on)
    """
    n1 = len(train1)
    truth = np.array([row["label"] for row in train1])
    held = oob_mask[0]                                     # the curve begins with member 0: only here is it fair
    votes = correct(probs[:, n1:-n_test, 1], 1)
    recipes = []
    p_yes = []
    for m in range(1, len(probs) + 1):
        recipes.append(learn_recipe(fusion, probs[:m, :n1], truth, oob_mask[:m], votes[:m], calibrate))
        p_yes.append(combine(probs[:m, :n1], recipes[-1], oob_mask[:m])[held, 1])
    groups = [row["group"] for row, is_held in zip(train1, held) if is_held]
    return choose_size((np.array(p_yes) - truth[held]) ** 2, groups), recipes, np.array(p_yes)


def measure_members(probs, truth, oob_mask, test):
    """Each member by itself on test, and on the rows of train1 that it was not trained on. -> M dicts"""
    members = []
    for k, oob in enumerate(oob_mask):
        scores = all_metrics(probs[k, -len(test):], test)
        held_out_accuracy = accuracy(probs[k, :len(truth)][oob, 1], truth[oob])
        members.append({"held_out_accuracy": held_out_accuracy, "test": scores})
        print(f"{format_metrics(f'member {k}', scores)} | held out {held_out_accuracy:.3f}")
    return members


def measure_gains(p_yes, baselines, test):
    """Accuracy on test minus that of each baseline. (n,), {name: (n,)} -> {name: {"gain", "interval"}}"""
    gains = {}
    for name, baseline in baselines.items():
        gain, low, high = paired_gain(p_yes, baseline, test)
        gains[name] = {"gain": gain, "interval": [low, high]}
        print(f"gain over {name}: {gain:+.3f} [{low:+.3f}, {high:+.3f}]")
    return gains


def measure_curve(recipes, held_p_yes, held_truth, test_probs, test):
    """The first 1, 2, ... M members together, on held-out rows (M, n), (n,) and on test (M, n_test, 2). -> M dicts"""
    curve = []
    for m, (recipe, p_yes) in enumerate(zip(recipes, held_p_yes), 1):
        scores = all_metrics(combine(test_probs[:m], recipe), test)
        curve.append({"members": m, "held_out_accuracy": accuracy(p_yes, held_truth),
                      "test": {name: scores[name] for name in ("accuracy", "auroc", "ece")}})
    return curve


# --------------------------------------------------------------------------- labels that were not made here


def read_annotators(names, rows, n_train1, args):
    """
    Labels, perhaps of some rows only. A model's run has none of train1, on which it may have been trained.

    rows      N rows, the n_train1 of train1 first
    returns   (M, N, 2) with 1/2 where there is no label, (M, N) bool: where there is one
    """
    probs = []
    for folder in (labels_folder(name, args.task, args.seed) for name in names):
        if may_have_gaps(folder):
            probs.append(read_labels(folder, rows, gaps=True))
        else:
            probs.append(np.concatenate([np.full((n_train1, 2), np.nan), read_labels(folder, rows[n_train1:])]))
    probs = np.array(probs, float)
    has_label = np.isfinite(probs[..., 1])
    return np.where(has_label[..., None], probs, 0.5), has_label


def describe_annotators(names, probs, has_label, fused, recipe, truth, most=20):
    """
    Print what is odd about each annotator's labels, and a confusion matrix for each, one a line: on the true labels of
    train1, else on the fused labels. For Dawid and Skene these hold their estimate; the rows of test count here, and
    not in the recipe.

    probs (M, N, 2), has_label (M, N), fused (N, 2), truth (N1,) of train1, whose rows come first
    """
    for name, p, has in zip(names, probs, has_label):
        for warning in label_warnings(p[has, 1]) if has.any() else ["they label no row of this task"]:
            print(f"WARNING: labels of {name}: {warning}")
    n_known = int(has_label[:, :len(truth)].any(0).sum())
    source = f"counted on {n_known:,} true labels of train1"
    is_estimate = recipe["combine"] == "dawid-skene"
    if is_estimate or not n_known:
        truth = np.nan_to_num(fused[:, 1], nan=0.5)
        source = "as Dawid-Skene estimates them, without any truth" if is_estimate else "counted on the fused labels"
    has_label = has_label[:, :len(truth)]
    votes = correct(probs[:, :len(truth), 1], 1)
    sensitivity, specificity = reliability(votes, truth, has_label)
    width = max(map(len, names[:most]))
    print(f"verdicts of each annotator, {source}:\n{'':{width}}  {'':7}  truth is no   truth is yes\n"
          f"{'':{width}}  {'rows':>7}  no     yes    no     yes")
    for k, name in enumerate(names[:most]):
        right = sensitivity[k] + specificity[k] - 1        # 1: always right, 0: knows nothing, below: inverted
        odd = " BELOW CHANCE: inverted?" if right < -0.1 else " knows next to nothing" if right < 0.1 else ""
        if len(set(votes[k][has_label[k]])) < 2:
            odd = " always the same verdict" if has_label[k].any() else " no such row"
        print(f"{name:{width}}  {has_label[k].sum():7,}  {specificity[k]:.2f}   {1 - specificity[k]:.2f}   "
              f"{1 - sensitivity[k]:.2f}   {sensitivity[k]:.2f}{odd}")
    if len(names) > most:
        print(f"... and {len(names) - most:,} more")


def fuse_labels(names, rows, truth, n_test, args):
    """
    Fuse the labels of annotators.

    rows      N rows without labels: those of train1 with the truth (N1,), of train2, of valid, and the n_test of test
    returns   (fused (N, 2), nan where nobody has labelled a row; recipe; (M, N, 2) labels as they were fused; (M, N)
              bool: who has labelled what)
    """
    fusion = args.combine or "mean"
    probs, has_label = read_annotators(names, rows, len(truth), args)
    known = np.flatnonzero(has_label[:, :len(truth)].any(0))
    if args.calibrate or fusion in ("bayes", "loglik", "bma"):
        flag = "--calibrate" if args.calibrate else f"--combine {fusion}"
        unknown = [name for name, has in zip(names, has_label) if not has[:len(truth)].any()]
        if not len(known):
            fail(f"{flag} needs true labels in train1 of rows that the supervisors labelled; there are none (runs of "
                 "models label no row of train1). --combine dawid-skene needs none")
        if unknown:
            print(f"WARNING: {flag} has no true label to measure {', '.join(unknown)}: no label for a row of train1")
    votes = correct(probs[:, :len(rows) - n_test, 1], 1)
    recipe = learn_recipe(fusion, probs[:, known], truth[known], has_label[:, known], votes, args.calibrate,
                          has_label[:, :len(rows) - n_test])
    if recipe["combine"] != fusion:
        print(f"note: {fusion} needs three annotators; with {len(names)} it is a vote")
    fused = combine(probs, recipe, has_label).astype(np.float32)
    describe_annotators(names, probs, has_label, fused, recipe, truth)
    return fused, recipe, apply_temperature(probs, recipe.get("temperatures")), has_label


def fuse_supervisors(parser, args, started):
    """--supervisors: the stage without training. Annotators' labels in, one label for each row that anybody labelled"""
    files, _ = check_args(parser, args)
    names = args.supervisors.split(",")
    if names == ["all"]:
        names = read_json(files[-1]).get("annotators")
        if not (isinstance(names, list) and names and all(map(is_text, names))):
            fail(f"--supervisors all: data/{args.task}/task.json names no annotators; name them, as in ann,bob")
    folders = [labels_folder(name, args.task, args.seed) for name in names]
    if not all(map(is_text, names)) or len(set(map(os.path.realpath, folders))) < len(names):
        fail(f"--supervisors {','.join(names)}: a name is empty or occurs twice. Give each once, as in ann,bob")
    if run_folder(args.out, args.task, args.seed) in [run_folder(name, args.task, args.seed) for name in names]:
        fail(f"--out {args.out} is the name of a supervisor too, and would stand in its place; choose another")
    read_annotators(names, [], 0, args)                    # is everybody there, with valid labels?
    identity = {"role": "fusion", **vars(args), "supervisors": ",".join(names), "model": ",".join(names),
                "models": None, "combine": args.combine or "mean", "supervisor": ""}
    del identity["jobs"]
    inputs = [*files, *(os.path.join(folder, "labels.jsonl") for folder in folders)]
    sources = [*folders, os.path.join(ROOT, "data", args.task, "truth")]
    folder, config = describe_run(__file__, parser, args, identity, inputs, sources)
    if is_finished(folder, config, args.force):
        return
    with open_run(folder):
        train1, train2, valid, test = (read_rows(args.task, split, args.max_rows, may_be_empty=True)
                                       for split in SPLITS)
        truth = np.array([row["label"] for row in train1], float)
        rows = without_labels(train1 + train2 + valid + test)
        fused, recipe, probs, has_label = fuse_labels(names, rows, truth, len(test), args)
        is_labelled = np.isfinite(fused[:, 1])
        write = np.flatnonzero(is_labelled & (np.arange(len(rows)) >= len(train1)))
        extra = {"disagreement": disagreement(probs[:, write], has_label[:, write]),
                 "annotators": has_label[:, write].sum(0)}
        write_labels(folder, [rows[i] for i in write], fused[write], extra)

        # only now are the labels of test read
        n_test = len(test)
        of_test = fused[len(rows) - n_test:]
        known = is_labelled[len(rows) - n_test:]
        test = [row for row, is_known in zip(test, known) if is_known]
        scores = all_metrics(of_test[known], test) if test else None
        n_labelled = is_labelled[len(train1):len(train1) + len(train2)].sum()
        covers = f"labels {n_labelled:,} of {len(train2):,} train2 rows"
        who = f"supervisor ({recipe['combine']} of {len(names)} annotators)"
        line = f"{who}: there is no true label of test to compare it with | {covers}"
        if test:
            line = f"{format_metrics(who, scores)} of {n_test:,} test rows | {covers}"
        write_results(folder, config, "cpu", started, line, test=scores, recipe=recipe, supervisors=names)


# --------------------------------------------------------------------------- the stage


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_flags(parser, out="ensemble")
    add_model_flags(parser, model="tiny-1a")
    add_training_flags(parser, epochs=3)
    add = parser.add_argument
    add("--method", default="bagging", choices=METHODS, help="how members are trained")
    add("--by", default="data", choices=["data", "features", "layers", "models"], help="how members differ")
    add("--members", type=number(int, 1, 1000), default=5,
        help="members to train; how many of them are used is chosen on held-out rows")
    add("--jobs", type=number(int, 1, 1000), default=1,
        help="bagging: train so many members at a time, each with its share of the threads. They share a GPU's memory")
    add("--models", default="tiny-1a,tiny-1b,tiny-1c", help="--by models: checkpoints, taken in turn")
    add("--combine", default=None, choices=["mean", "vote", "loglik", "dawid-skene", "bma", "bayes", "samme"],
        help="the fusion (default: the mean for bagging; for boosting its own weights or steps)")
    add("--calibrate", action="store_true",
        help="temperature scaling: divide each member's log odds by a number from held-out rows, before the fusion "
             "(icl.py's --calibrate is another method)")
    add("--supervisors", default="", metavar="A,B,C",
        help="fuse these labels, train nothing: runs, annotators of your own table, or 'all' of them")
    add("--supervisor", default="", help="the run to compare with (default: weak, if it is there)")
    return parser


def check_args(parser, args):
    """Every check of flags, before any work. -> (files that the result depends on, the task's label words)"""
    if args.supervisors:
        for key in ("method", "by", "members", "models", "epochs", "lr", "model", "head", "lora", "batch_size",
                    "supervisor", "jobs"):
            if getattr(args, key) != parser.get_default(key):
                fail(f"--supervisors trains and compares nothing: leave out --{key.replace('_', '-')}")
    if args.combine == "samme" and args.method != "adaboost":
        fail("--combine samme has the weights of --method adaboost")
    typed = [key for key in ("model", "models") if getattr(args, key) != parser.get_default(key)]
    if args.by == "models" and "model" in typed or args.by != "models" and "models" in typed:
        fail("--models belongs to --by models, and --model to every other --by: leave one of them out")
    if args.by == "models" and args.members < len(checkpoint_names(args)):
        fail(f"--members {args.members} would leave out {', '.join(checkpoint_names(args)[args.members:])} of --models")
    if args.jobs > 1 and args.method != "bagging":
        fail(f"--method {args.method}: each member is trained on the errors of those before it, so --jobs has nothing "
             "to train side by side; leave it out")
    if args.method in GRADIENT_BOOSTING and (args.combine or args.calibrate):
        fail("members of gradient boosting are corrections, not supervisors: leave out --combine and --calibrate")
    files, words = read_task(args.task, pairs=True)
    if args.combine in ("dawid-skene", "bayes") and is_pair(read_rows(args.task, "train2")[0]):
        fail(f"--combine {args.combine} counts errors on no and on yes, and pairs have no such classes; take mean, "
             "vote, loglik or bma")                        # which text comes first is a coin flip
    return files, words


def supervisor_to_compare(args):
    """--supervisor -> (name, folder). Without the flag it is weak; if there is no such run, the name is empty."""
    name = args.supervisor or "weak"
    folder = run_folder(name, args.task, args.seed)
    if not args.supervisor and not os.path.exists(os.path.join(folder, "labels.jsonl")):
        print(f"note: no labels at {os.path.relpath(folder)}, so the gain over a single supervisor is not measured")
        return "", folder
    check_comparison(vars(args), folder, ceiling=None)
    return name, folder


def find_members(config, folder, args):
    """The part of the configuration that members depend on, and the folder that runs with the same part share."""
    config = {key: config[key] for key in config if key not in ("combine", "calibrate", "members", "supervisor")}
    config["inputs"] = {path: value for path, value in config["inputs"].items() if not path.endswith("labels.jsonl")}
    key = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]
    name = f"members-{args.method}-{args.by}-{key}"
    return config, os.path.join(os.path.dirname(os.path.abspath(folder)), name)


def train_and_fuse(parser, args, started):
    """The stage with training: members, the fusion of their labels, and what it is worth"""
    files, words = check_args(parser, args)
    supervisor, supervisor_folder = supervisor_to_compare(args)
    names = checkpoint_names(args)
    fusion = args.combine or ("mean" if args.method == "bagging" else args.method)
    identity = {"role": "ensemble", **vars(args), "model": ",".join(names), "models": None,      # "model" holds them
                "combine": fusion, "supervisor": supervisor}
    del identity["jobs"]                                   # the same files
    inputs = [*files, *map(model_folder, names)]
    if supervisor:
        inputs.append(os.path.join(supervisor_folder, "labels.jsonl"))
    sources = [supervisor_folder, os.path.join(ROOT, "data", args.task, "truth")]
    folder, config = describe_run(__file__, parser, args, identity, inputs, sources, words_of_head(words, args))
    if is_finished(folder, config, args.force):
        return
    with open_run(folder):
        device = pick_device(args.device)
        train1 = read_rows(args.task, "train1", args.max_rows)
        train2, valid, test = (without_labels(read_rows(args.task, split, args.max_rows))
                               for split in ("train2", "valid", "test"))
        others = train2 + valid + test
        truth = np.array([row["label"] for row in train1])
        members_config, home = find_members(config, folder, args)
        counts = row_counts(train1, args)
        probs = train_members(train1 + others, truth, counts, words, members_config, home, args, device)

        oob_mask = counts[:len(probs)] == 0
        used, recipes, held_p_yes = fuse_members(fusion, probs, train1, oob_mask, len(test), args.calibrate)
        recipe = recipes[used - 1]
        others_probs = probs[:used, len(train1):]
        soft_labels = combine(others_probs, recipe).astype(np.float32)
        n_alone = len(probs)
        extra = {"disagreement": disagreement(apply_temperature(others_probs, recipe.get("temperatures")))}
        if args.method in GRADIENT_BOOSTING:               # only the first member labels anything by itself
            n_alone = 1
            extra = None
        write_labels(folder, others, soft_labels, extra)

        # only now are the labels of test read
        test = read_rows(args.task, "test", args.max_rows)
        of_test = soft_labels[-len(test):]
        members = measure_members(probs[:n_alone], truth, oob_mask[:n_alone], test)
        best = int(np.argmax([member["held_out_accuracy"] for member in members]))
        baselines = {f"member {best}, the best on held-out rows": probs[best, -len(test):, 1]}
        if supervisor:
            baselines[f"supervisor {supervisor}"] = read_labels(supervisor_folder, test)[:, 1]
        gains = measure_gains(of_test[:, 1], baselines, test)
        curve = measure_curve(recipes, held_p_yes, truth[oob_mask[0]], probs[:, -len(test):], test)
        scores = all_metrics(of_test, test)
        line = format_metrics(f"supervisor ({fusion} of {used} of {len(probs)} members)", scores)
        write_results(folder, config, device, started, line, test=scores, members_used=used, recipe=recipe,
                      curve=curve, members=members, gains=gains, members_folder=os.path.basename(home))


def main(argv=None):
    parser = build_parser()
    args = parser.parse_args(argv)
    stage = fuse_supervisors if args.supervisors else train_and_fuse
    stage(parser, args, time.time())


if __name__ == "__main__":
    run_script(main)
