"""
Chapter 2, between its halves. Which of the supervisor's labels deserve belief?

Three labels in ten are wrong, and nobody says which. What can be known without the truth: how sure the supervisor is (confident), whether the rows
that look alike to the student have the same label (knn), whether a simple rule over the student's features would say the same (logistic). A row
whose label is contradicted may be left out. And where a person can be asked about a few rows, which are worth asking about?

The mistake to make here is to ask a row about itself (pitfall: a 1-nearest-neighbour filter whose neighbour is the row finds every label
right). Every opinion below is formed without the row, and without the other rows of its question: the wrong answer to a question
lies right beside the right one, with the other label.

EleutherAI's experiments (blog of 14 June 2024, code EleutherAI/w2s) found no consistent gain from such filters; Burns et al. (appendix E) found that
confidence thresholds help when the supervisor is bad. Try them; the README has what they did on tinyworld.
"""


def keep_confident(soft_labels, fraction):
    """
    The surest `fraction` of each class (by the label's own class, so that both stay): the choice of Sang et al., by confidence.

    soft_labels (N, 2) -> (N,) bool
    >>> import numpy as np
    >>> keep_confident(np.array([[.9, .1], [.6, .4], [.2, .8], [.45, .55]]), 0.5).tolist()
    [True, False, True, False]
    """
    import numpy as np
    keep, says = np.zeros(len(soft_labels), bool), soft_labels[:, 1] > 0.5
    for side in (False, True):
        rows = np.flatnonzero(says == side)
        sure = np.argsort(-soft_labels[rows].max(1), kind="stable")
        keep[rows[sure[:round(fraction * len(rows))]]] = True
    return keep


def keep_uncontradicted(soft_labels, opinion, fraction):
    """
    The `fraction` of each class whose labels lie nearest to an opinion formed without them.

    soft_labels (N, 2), opinion (N,) p(yes) -> (N,) bool
    """
    import numpy as np
    keep, says = np.zeros(len(soft_labels), bool), soft_labels[:, 1] > 0.5
    for side in (False, True):
        rows = np.flatnonzero(says == side)
        near = np.argsort(np.abs(soft_labels[rows, 1] - opinion[rows]), kind="stable")
        keep[rows[near[:round(fraction * len(rows))]]] = True
    return keep


def knn_opinion(features, soft_labels, groups, k=50):
    """
    Mean label of the k rows that are nearest by cosine, the row's own question left out (EleutherAI: k = 50).

    features (N, C), soft_labels (N, 2), groups N -> (N,) p(yes)
    """
    import numpy as np
    unit = features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
    member = np.unique(groups, return_inverse=True)[1]
    opinion = np.empty(len(unit))
    for start in range(0, len(unit), 1024):                # by stretches of rows: N x N similarities at once would not fit for large N
        rows = slice(start, start + 1024)
        near = unit[rows] @ unit.T
        near[member[rows, None] == member[None]] = -np.inf
        opinion[rows] = soft_labels[np.argsort(-near, axis=1, kind="stable")[:, :k], 1].mean(1)
    return opinion


def logistic(features, p_yes, l2, bias=True, steps=25):
    """
    Logistic regression on soft labels by Newton's method:  min_w  mean_i CE(sigma(w x_i), p_i) + l2 / 2 |w|^2   (the bias is not penalised)

    features (N, C), p_yes (N,) -> (C,) weights, or (C + 1,) with the bias last
    """
    import numpy as np
    x = np.concatenate([features, np.ones((len(features), 1))], 1) if bias else np.asarray(features)
    x = x.astype(np.float64)
    ridge = l2 * np.ones(x.shape[1])
    ridge[-1] = 1e-9 if bias else l2
    w = np.zeros(x.shape[1])

    def loss(w):
        z = x @ w
        return np.mean(np.logaddexp(0, z) - p_yes * z) + 0.5 * (ridge * w * w).sum()

    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
        gradient = x.T @ (p - p_yes) / len(x) + ridge * w
        curvature = (x * (p * (1 - p))[:, None]).T @ x / len(x) + np.diag(ridge)
        step, size = np.linalg.solve(curvature + 1e-10 * np.eye(len(w)), gradient), 1.0
        while loss(w - size * step) > loss(w) and size > 1e-6:
            size /= 2                                      # Newton may overshoot far from the minimum: halve until it goes down
        w = w - size * step
        if np.abs(gradient).max() < 1e-7:
            break
    return w


def logistic_opinion(features, soft_labels, groups, l2=1e-2, folds=10, seed=0):
    """
    What a logistic regression says of rows it has not seen: ten fits, each without a tenth of the questions (EleutherAI: l2 = 1e-2).

    features (N, C), soft_labels (N, 2), groups N -> (N,) p(yes)
    """
    import numpy as np
    member = np.unique(groups, return_inverse=True)[1]
    folds = min(folds, member.max() + 1)
    fold = np.random.default_rng(seed).permutation(member.max() + 1)[member] % folds
    opinion = np.empty(len(features))
    for k in range(folds):
        out = fold == k
        w = logistic(features[~out], soft_labels[~out, 1], l2)
        opinion[out] = 1 / (1 + np.exp(-(features[out] @ w[:-1] + w[-1])))
    return opinion


def pick_for_truth(soft_labels, n, how, student_p=None, seed=0):
    """
    Which n rows to ask a person about.

    random      any
    uncertain   where the supervisor's label is nearest to 1/2
    disagree    where a student trained on the labels is farthest from them: student_p (N,) is its p(yes)

    returns     (n,) indices, in ascending order; ties go to the earlier row
    >>> import numpy as np
    >>> pick_for_truth(np.array([[.9, .1], [.55, .45], [.2, .8]]), 1, "uncertain").tolist()
    [1]
    """
    import numpy as np
    if how == "random":
        order = np.random.default_rng([seed, 1]).permutation(len(soft_labels))
    elif how == "uncertain":
        order = np.argsort(np.abs(soft_labels[:, 1] - 0.5), kind="stable")
    else:
        order = np.argsort(-np.abs(soft_labels[:, 1] - student_p), kind="stable")
    return np.sort(order[:n])
