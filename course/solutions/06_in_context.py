"""
Solutions of 06_in_context.ipynb: the functions as they stand in icl.py. Made by course/build.py.

$ python course/lesson.py course/solutions/06_in_context.py               # grades them
"""
import math
import re
from collections import Counter, defaultdict

import matplotlib.pyplot as plt
import numpy as np
from lesson import grade, run

from contract import read_labels, read_results, read_rows, run_folder
from icl import format_demonstration, ranks_of_draw


def contextual_calibration(soft_labels, content_free):
    """
    Divide by the prompt's bias, its prediction for a text without content such as "N/A" (Zhao et al. 2021,
    https://arxiv.org/abs/2102.09690, section 5):  p'_i  ~  p_i / p_i(content-free).  (N, 2), (N, 2) or (1, 2) -> (N, 2)

    >>> contextual_calibration(np.array([[0.6, 0.4]]), np.array([[0.75, 0.25]])).round(3).tolist()     # bias toward no
    [[0.333, 0.667]]
    """
    ratio = soft_labels / content_free.clip(1e-6)
    return ratio / ratio.sum(1, keepdims=True)


def sample_per_class(is_yes, k, rng, confidence=None, draw=0, draws=1):
    """
    k of N rows, half of each class, in random order. If k is odd, a coin decides which class gets one more. If a class
    has too few rows, the other one fills its places.

    is_yes       (N,) bool, the supervisor's labels
    confidence   (N,); the rows with the highest are taken, of equals the earlier; None: rows are taken at random
    draw, draws  with confidence, of each class: the rows with ranks draw, draw + draws, ... (see ranks_of_draw)
    returns      (k,) indices

    >>> is_yes = np.array([True, True, False, False])
    >>> sorted(sample_per_class(is_yes, 2, np.random.default_rng(0), confidence=np.array([.6, .9, .7, .7])).tolist())
    [1, 2]
    """
    order = rng.permutation(len(is_yes)) if confidence is None else np.argsort(-confidence, kind="stable")
    no = order[~is_yes[order]]
    yes = order[is_yes[order]]
    if confidence is not None:
        no, yes = (side[ranks_of_draw(len(side), (k + 1) // 2, draw, draws)] for side in (no, yes))
    n_yes = k // 2 + (k % 2) * int(rng.integers(2))
    n_yes = min(max(n_yes, k - len(no)), len(yes))
    return rng.permutation(np.concatenate([yes[:n_yes], no[:k - n_yes]]))


def bm25(queries, pool, k1=1.5, b=0.75):
    """
    How many of a query's rare words a text has (Robertson and Zaragoza 2009, eq. 3.15, with an idf that is never
    negative). M texts, N texts -> (M, N) float32

        score = sum over the query's words of  idf * tf (k1 + 1) / (tf + k1 (1 - b + b length / mean length))
        idf   = log(1 + (N - n + 0.5) / (n + 0.5))

    n: how many of the N texts have the word; tf: how often this one has it. Repetitions count less and less (k1), and a
    long text needs more of them (b).

    >>> print(bm25(["Gold?"], ["gold is heavy", "ants are light"]))        # log(1 + 1.5 / 1.5) * 2.5 / (1 + 1.5)
    [[0.6931472 0.       ]]
    """
    word_counts = [Counter(re.findall(r"\w+", text.lower())) for text in pool]
    lengths = np.array([counts.total() for counts in word_counts])
    texts_with = defaultdict(list)                         # word -> indices of the texts that have it
    for j, counts in enumerate(word_counts):
        for word in counts:
            texts_with[word].append(j)
    gains = {}                                             # word -> what it adds to the scores of these texts
    for word, rows in texts_with.items():
        tf = np.array([word_counts[j][word] for j in rows])
        idf = math.log(1 + (len(pool) - len(rows) + 0.5) / (len(rows) + 0.5))
        gains[word] = idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * lengths[rows] / lengths.mean()))
    scores = np.zeros((len(queries), len(pool)), np.float32)
    for i, query in enumerate(queries):
        for word in re.findall(r"\w+", query.lower()):
            if word in gains:
                scores[i, texts_with[word]] += gains[word]
    return scores


grade(contextual_calibration,
      "test_icl::test_contextual_calibration_by_hand")
grade(sample_per_class,
      "test_icl::test_sample_per_class_takes_half_of_each_and_fills_up_from_the_other",
      "test_icl::test_confident_takes_the_most_confident_of_each_class_and_the_earlier_of_equals",
      "test_icl::test_another_seed_draws_others")
grade(bm25,
      "test_icl::test_bm25_by_hand")
