"""
Chapter 4, first half. Several supervisors say something of the same row. What is to be believed?

If three are each right 7 times in 10 and err independently, their majority is right 78.4 times in 100:
0.7^3 + 3 * 0.7^2 * 0.3. If they err together it is right 70 times, however many they are. So everything turns on that one word,
and on whom to heed:

    mean, vote     all alike: the mean of what they say, or of their yes and no
    loglik         weights under which the mixture gives the truth the greatest likelihood, on held-out rows
    bma            one of them is the right one; how likely is each, given held-out rows? (Bayesian model averaging)
    dawid-skene    nobody knows the truth: whoever agrees with the others is reliable (Dawid and Skene 1979)

All of it is numpy on stored probabilities: no member is trained, or asked, twice. In this chapter

    p       (M, N, 2)   what M members say of N rows, soft labels (p_no, p_yes)
    there   (M, N)      whether member m may speak of row n: where it has learned the answer, its word is no evidence

A recipe is a dict of plain numbers, {"combine": "loglik", "weights": [...]}: results.json keeps it, and rows that turn up later are mixed alike.
"""
from train_weak import right


# --------------------------------------------------------------------------- one member: log odds and temperature

def log_odds(p):
    """(..., 2) soft labels -> (...) log(p_yes / p_no)"""
    import numpy as np
    p = np.clip(np.asarray(p, float), 1e-9, 1)
    return np.log(p[..., 1]) - np.log(p[..., 0])


def yes(odds):
    """(...) log odds -> (...) p(yes)"""
    import numpy as np
    return 1 / (1 + np.exp(-np.clip(odds, -500, 500)))


def line_search(f, h, y, low=0.0, high=32.0):
    """
    How far to go: the step s in [low, high] with the least logistic loss of f + s h. The loss is convex in s: bisection on its slope.

    f, h, y   (n,) log odds so far, direction, truth of 0 and 1
    >>> round(line_search(0, [1, 1, 1, -1], [1, 1, 0, 0]), 3)      # 3 of 4 are pulled the right way: log odds of ln 3
    1.099
    """
    import numpy as np
    h, sign = np.asarray(h, float), 2.0 * np.asarray(y) - 1
    for _ in range(60):
        s = (low + high) / 2
        low, high = (s, high) if (sign * h * yes(-sign * (f + s * h))).sum() > 0 else (low, s)
    return (low + high) / 2


def temperature(p, y):
    """
    What to divide a member's log odds by, so that it is as sure as it should be: the least log loss on rows it did not learn from (Guo et al.
    2017). Above 1: it was too sure.  (n, 2), (n,) -> a number of 1/32 to 32
    """
    return 1 / line_search(0, log_odds(p), y, low=1 / 32)


def temper(p, temperatures):
    """(M, N, 2), M temperatures -> (M, N, 2)"""
    import numpy as np
    p_yes = yes(log_odds(p) / np.asarray(temperatures, float)[:, None])
    return np.stack([1 - p_yes, p_yes], -1)


# --------------------------------------------------------------------------- how much they disagree

def disagreement(p):
    """
    What the members do not know together, less what each does not know by itself: the entropy of their mean minus the mean of their
    entropies (mutual information of label and member), in nats, 0 to ln 2. (M, N, 2) -> (N,)

    >>> disagreement([[[0.0, 1.0]], [[1.0, 0.0]]]).round(3), disagreement([[[0.5, 0.5]], [[0.5, 0.5]]])      # at odds; and at a loss together
    (array([0.693]), array([0.]))
    """
    import numpy as np
    p = np.asarray(p, float)

    def entropy(q):
        return -(q * np.log(np.clip(q, 1e-12, 1))).sum(-1)
    return np.maximum(entropy(p.mean(0)) - entropy(p).mean(0), 0)


# --------------------------------------------------------------------------- whom to heed, by the truth of some rows

def loglik_weights(q, there, rounds=200):
    """
    Weights on the simplex with the greatest likelihood of the truth under the mixture sum_m w_m q_m: stacking, by expectation-maximisation.

    q, there   (M, n) what member m gives to the truth of row n, and whether it may speak there -> (M,)

    With all there a new weight is the mean share that a member has in what the mixture gives to the truth. Where some are missing, the mixture is
    that of the rest, and the sum of shares is divided by the chances the member had (Hunter 2004): the likelihood still never falls.
    """
    import numpy as np
    there = np.asarray(there, float)
    q, w = np.clip(q, 1e-9, 1) * there, np.full(len(q), 1 / len(q))
    for _ in range(rounds):
        shares = w[:, None] * q / np.maximum(w @ q, 1e-300)                    # (M, n), columns sum to 1
        w = shares.sum(1) / np.maximum((there / np.maximum(w @ there, 1e-300)).sum(1), 1e-300)
        w /= w.sum()
    return w


def bma_weights(q, there):
    """
    Which member is the right one? All being equally likely before, the posterior is proportional to the likelihood that each gives to the
    truth of all rows. (M, n), (M, n) -> (M,). A few hundred rows decide firmly: it selects rather than averages.

    Where members may speak of different rows, a row counts relative to those that speak there (our choice).
    """
    import numpy as np
    there = np.asarray(there, float)
    logq = np.log(np.clip(q, 1e-9, 1)) * there
    evidence = ((logq - logq.sum(0) / np.maximum(there.sum(0), 1)) * there).sum(1)
    w = np.exp(evidence - evidence.max())
    return w / w.sum()


# --------------------------------------------------------------------------- whom to heed, without any truth

def dawid_skene(votes, rounds=200):
    """
    How reliable is each voter, if nobody knows the truth? Guess the truths by majority; see how often each voter agrees; guess again,
    heeding the reliable; and so on (expectation-maximisation). It holds if voters err independently given the truth. Models of one
    kind do not, and what they have in common is then mistaken for knowledge. It takes three voters to tell who is the odd one out.

    votes     (M, N) of 0 and 1, 1/2 for a tie
    returns   (share of yes, (M,) P(says yes | yes), (M,) P(says no | no)); all counts start from 1: nobody is infallible
    """
    import numpy as np
    votes = np.asarray(votes, float)
    truth = votes.mean(0)                                  # (N,) p(yes)
    for _ in range(rounds):
        n_yes, n_no = truth.sum(), (1 - truth).sum()
        share_yes = float((n_yes + 1) / (n_yes + n_no + 2))
        hit, reject = (votes @ truth + 1) / (n_yes + 2), ((1 - votes) @ (1 - truth) + 1) / (n_no + 2)
        truth = heed(votes, share_yes, hit, reject)
    return share_yes, hit, reject


def heed(votes, share_yes, hit, reject, there=1.0):
    """Bayes' rule: p(truth is yes) given the votes (M, N) and how reliable each voter is -> (N,). A tie says nothing."""
    import numpy as np
    votes, hit, reject = np.asarray(votes, float), np.asarray(hit)[:, None], np.asarray(reject)[:, None]
    evidence = np.where(votes > 0.5, np.log(hit / (1 - reject)), np.log((1 - hit) / reject)) * (votes != 0.5)
    return yes(np.log(share_yes / (1 - share_yes)) + (evidence * there).sum(0))


# --------------------------------------------------------------------------- the recipe

def learn_recipe(combine, p, truth, there, votes, calibrate=False, weights=None):
    """
    All that has to be known for mixing.

    p, truth, there   (M, N1, 2), (N1,), (M, N1): train1
    votes             (M, N2) hard votes on rows whose truth nobody looks at (train2, valid): dawid-skene needs no more
    weights           M numbers, where a method brings its own (AdaBoost)
    """
    import numpy as np
    recipe = {"combine": combine}
    if calibrate:
        recipe["temperatures"] = [temperature(soft[ok], truth[ok]) for soft, ok in zip(p, there)]
        p = temper(p, recipe["temperatures"])
    if combine == "dawid-skene" and len(p) < 3:            # one or two voters: nobody can say which of them is reliable
        return {**recipe, "combine": "vote", "weights": [1 / len(p)] * len(p)}
    if combine == "dawid-skene":
        share_yes, hit, reject = dawid_skene(votes)
        return recipe | {"share_yes": share_yes, "hit": hit.tolist(), "reject": reject.tolist()}
    if combine in ("loglik", "bma"):
        weights = (loglik_weights if combine == "loglik" else bma_weights)(np.where(truth == 1, p[..., 1], p[..., 0]), there).tolist()
    return recipe | {"weights": weights or [1 / len(p)] * len(p)}


def mix(p, recipe, there=None):
    """
    M members' soft labels and a recipe -> one soft label a row, (N, 2); nan where nobody may speak.

    >>> p = np.array([[[0.1, 0.9]], [[0.6, 0.4]], [[0.6, 0.4]]])
    >>> [mix(p, {"combine": how, "weights": [1, 1, 1]})[0].round(3).tolist() for how in ("mean", "vote")]      # one is sure, two lean the other way
    [[0.433, 0.567], [0.667, 0.333]]
    """
    import numpy as np
    there = np.ones(p.shape[:2]) if there is None else np.asarray(there, float)
    if "temperatures" in recipe:
        p = temper(p, recipe["temperatures"])
    votes = right(p[..., 1], 1)                            # 1, 0, or 1/2 for a tie
    if recipe["combine"] == "dawid-skene":
        p_yes = heed(votes, recipe["share_yes"], recipe["hit"], recipe["reject"], there)
    elif "steps" in recipe:                                # boosted by gradient (ensemble.py): members add to log odds; as released, their mean predicts
        total = np.tensordot(np.asarray(recipe["steps"], float), log_odds(p) / 4, 1)
        p_yes = yes(total) if recipe["combine"] == "gradient" else np.clip(0.5 + total, 0, 1)
    else:
        weights = np.asarray(recipe["weights"], float)[:, None] * there
        p_yes = (weights * (votes if recipe["combine"] == "vote" else p[..., 1])).sum(0) / np.maximum(weights.sum(0), 1e-300)
    p_yes = np.where(there.any(0), p_yes, np.nan)
    return np.stack([1 - p_yes, p_yes], -1)
