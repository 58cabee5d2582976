"""
Chapter 6, first half. Which examples to show, and what their labels are worth: pure numpy.

    per_class     k rows, half of each class, at random or the surest ones
    bm25, cosine  how alike are rows of test and of the pool: by rare words, by hidden states; most_similar takes the k best of each row
    vote_k        a hundred rows that stand for the whole pool
    flip          exactly n of the labels shown turned round
    calibrate     what the prompt makes a model say of nothing at all, divided out

Functions, no story; icl.py tells it. Retrieval reads texts and the supervisor's labels, never those of test.
"""
import math, re
from collections import Counter, defaultdict


def per_class(says, k, rng, rank=None):
    """
    k of N rows, half of each class (of an odd k, a coin decides who gets one more; a class that has too few leaves its places to the other).

    says (N,) bool, rank (N,): the highest of each class, the earlier of equals; none: at random  ->  (k,) indices in random order
    >>> import numpy as np
    >>> sorted(per_class(np.array([True, True, False, False]), 2, np.random.default_rng(0), rank=np.array([.6, .9, .7, .7])).tolist())
    [1, 2]
    """
    import numpy as np
    order = rng.permutation(len(says)) if rank is None else np.argsort(-rank, kind="stable")
    no, yes = order[~says[order]], order[says[order]]
    n_yes = k // 2 + (k % 2) * int(rng.integers(2))
    n_yes = min(max(n_yes, k - len(no)), len(yes))
    return rng.permutation(np.concatenate([yes[:n_yes], no[:k - n_yes]]))


def bm25(queries, pool, k1=1.5, b=0.75):
    """
    How much of a query's rare words a text has (Robertson and Zaragoza 2009, eq. 3.15, with an idf that is never negative). M, N texts -> (M, N)

        score = sum over the query's words of  log(1 + (N - n + 0.5) / (n + 0.5)) * tf (k1 + 1) / (tf + k1 (1 - b + b length / mean length))

    n: how many texts of the pool have the word; tf: how often this one has it. A text full of the same word gains less and less (k1), a long one
    has to have more (b).
    """
    import numpy as np
    texts = [Counter(re.findall(r"\w+", text.lower())) for text in pool]
    lengths = np.array([text.total() for text in texts])
    where, tf, scores = defaultdict(list), defaultdict(list), np.zeros((len(queries), len(pool)), np.float32)
    for j, text in enumerate(texts):
        for word, count in text.items():
            where[word].append(j)
            tf[word].append(count)
    worth = {}
    for word, has in where.items():
        count = np.array(tf[word])
        rare = math.log(1 + (len(pool) - len(has) + 0.5) / (len(has) + 0.5))
        worth[word] = rare * count * (k1 + 1) / (count + k1 * (1 - b + b * lengths[has] / lengths.mean()))
    for i, query in enumerate(queries):
        for word in re.findall(r"\w+", query.lower()):
            if word in worth:
                scores[i, where[word]] += worth[word]
    return scores


def cosine(a, b):
    """(M, C), (N, C) -> (M, N)"""
    import numpy as np
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-12) for x in (a, b))
    return a @ b.T


def most_similar(similarity, k):
    """(M, N) -> (M, k) indices, the most similar LAST, next to the question; of equals the earlier row of the pool is the more similar."""
    import numpy as np
    return np.argsort(-similarity, axis=1, kind="stable")[:, :k][:, ::-1]


def vote_k(features, n, neighbours, rho=10.0):
    """
    n rows that stand for all (Su et al. 2022, https://arxiv.org/abs/2209.01975, section 2.1). Every row votes for its nearest neighbours. The row
    with the most votes is taken, again and again; but a vote counts rho times less with every neighbour of its voter that has been taken.

    features (N, C) -> (n,) indices in the order taken; rows already taken have no vote, ties go to the earlier row
    """
    import numpy as np
    similarity = cosine(features, features)
    np.fill_diagonal(similarity, -np.inf)                  # nobody votes for itself
    votes = np.zeros(similarity.shape, np.float32)         # votes[v, u] = 1: v votes for u
    np.put_along_axis(votes, np.argsort(-similarity, axis=1, kind="stable")[:, :min(neighbours, len(features) - 1)], 1, axis=1)
    taken, free, served = [], np.ones(len(features), bool), np.zeros(len(features))
    while len(taken) < min(n, len(features)):
        score = np.where(free, ((free * rho ** -served) @ votes).round(9), -1)             # rounded: ten tenths are a tie with one
        taken.append(int(score.argmax()))
        free[taken[-1]] = False
        served += votes[:, taken[-1]]
    return np.array(taken)


def flip(labels, n, rng):
    """Exactly n of each row's k labels turned round, others with more n: those of a smaller n are among them. (M, k) bool -> (M, k) bool"""
    import numpy as np
    return labels ^ (rng.permuted(np.tile(np.arange(labels.shape[1]), (len(labels), 1)), axis=1) < n)


def calibrate(soft_labels, content_free):
    """
    Contextual calibration (Zhao et al. 2021, https://arxiv.org/abs/2102.09690, section 5): what the prompt makes the model say of nothing at all
    ("N/A") is its bias, and is divided out.   p'_i  ~  p_i / p_i(content-free)

    (N, 2), (N, 2) or (1, 2) -> (N, 2)
    >>> import numpy as np
    >>> calibrate(np.array([[0.6, 0.4]]), np.array([[0.75, 0.25]])).round(3).tolist()        # leans to no less than it does for nothing
    [[0.333, 0.667]]
    """
    odds = soft_labels / content_free.clip(1e-6)
    return odds / odds.sum(1, keepdims=True)
