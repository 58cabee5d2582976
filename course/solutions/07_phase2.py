"""
Solutions of 07_phase2.ipynb: the functions as they stand in auto_align.py. Made by course/build.py.

$ python course/lesson.py course/solutions/07_phase2.py               # grades them
"""
import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from lesson import grade, run

from contract import read_results, run_folder


def is_worse(old_correct, new_correct, level=0.05):
    """
    Is the new evaluator worse than the old one beyond chance? The exact sign test on the audited rows where only one of
    them is correct: were they equally good, each of these rows would be a fair coin.

    old_correct, new_correct   (N,) bool -> (bool, p-value)
    >>> is_worse([True] * 5 + [False], [False] * 5 + [False])          # five losses and no win: 1 / 32
    (True, 0.03125)
    """
    lost = sum(bool(old) and not new for old, new in zip(old_correct, new_correct))
    won = sum(bool(new) and not old for old, new in zip(old_correct, new_correct))
    p_value = sum(math.comb(lost + won, k) for k in range(lost, lost + won + 1)) / 2 ** (lost + won)
    return lost > won and p_value < level, p_value


def propose_attacks(rows, share, score_fn):
    """
    For each question the highest-scoring of its choices that no row asks about; of these the highest-scoring of all.
    Which answers are wrong is unknown here: the critic has to find out.

    rows       N rows with "group", "question", "answer", "choices"
    share      the number of attacks, as a share of N
    score_fn   M rows -> (M,) scores of yes
    returns    rows in the form of `rows`, ids ending in -attack, the highest-scoring first
    """
    asked = {}
    first = {}
    for row in rows:
        asked.setdefault(row["group"], set()).add(row["answer"].strip().lower())
        first.setdefault(row["group"], row)
    candidates = []
    for row in first.values():
        for answer in dict.fromkeys(row["choices"]):
            if answer.strip().lower() not in asked[row["group"]]:
                text = answer.join(row["text"].rsplit(row["answer"], 1))
                candidates.append({**row, "id": row["id"] + "-attack", "answer": answer, "text": text})
                candidates[-1].pop("support", None)        # it supports the old answer
    best = {}
    for _, row in sorted(zip(score_fn(candidates), candidates), key=lambda pair: (-pair[0], pair[1]["id"])):
        best.setdefault(row["group"], row)
    return list(best.values())[:round(share * len(rows))]


def bradley_terry(better, worse, weights):
    """
    -w log sigma(s_better - s_worse): an answer is preferred with probability sigma of the difference of two scores
    (Bradley and Terry 1952).

    better, worse, weights   (B,) tensors -> (B,)
    >>> import torch
    >>> bradley_terry(torch.tensor([1., 2.]), torch.tensor([1., 0.]), torch.ones(2))       # log 2, log(1 + e^-2)
    tensor([0.6931, 0.1269])
    """
    import torch
    return weights * torch.nn.functional.softplus(worse - better)


grade(is_worse,
      "test_auto_align::test_the_guard_rejects_a_planted_bad_update_and_accepts_a_good_one",
      "test_auto_align::test_the_guard_keeps_its_promise_of_one_false_alarm_in_twenty")
grade(propose_attacks,
      "test_auto_align::test_the_attacker_finds_a_planted_weakness",
      "test_auto_align::test_the_attacker_asks_nothing_that_was_asked_and_needs_no_label")
grade(bradley_terry,
      "test_auto_align::test_bradley_terry_by_hand")
