"""
SciQ: science exam questions with four answers become "is this answer right?", as Sang et al. made them.

One raw row of the hub (invented here; the real ones are CC BY-NC 3.0), and the two rows it becomes:

{"question": "What gas do plants take in?", "correct_answer": "carbon dioxide", "distractor1": "oxygen",
 "distractor2": "helium", "distractor3": "methane", "support": "Plants take in carbon dioxide and give off oxygen."}

{"id": "sciq-train1-...", "group": "...", "label": 1, "text": "Q: What gas do plants take in? A: carbon dioxide",
 "question": ..., "answer": "carbon dioxide", "choices": [the four, shuffled], "support": ...}
and one row with a distractor and label 0

The setting is that of Sang et al. (2024, arXiv:2402.00667; their released code). They take the first 10,000 questions
of the official train split, in halves by question with seed 42 as `datasets` cuts them. Of each question they make one
right row and one with a random distractor. So train1 and train2 have 10,000 rows each, valid (the official validation
split) and test 2,000 each. Two differences, both on purpose:
1) Their search for questions that occur twice compares the wrong things and finds none. Here a question that occurs
   twice, or in two official splits, is kept once (in test before valid before train), and the next question after the
   10,000 takes its place.
2) They draw the distractor in the order of rows. Here a hash of the question draws it: other questions do not matter.

$ python data/sciq/prepare.py                                       # from the hub
$ python data/sciq/prepare.py --from-file sciq-raw                  # a folder with the hub's files, or one such file
$ python data/sciq/prepare.py --with-support --task sciq-support    # "Note: Plants ..." before each question; same ids

Needs  contract.py, data/hub.py, data/tasks.py
"""
import os
import random
import sys
from collections import Counter

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))       # data/
sys.path.insert(0, os.path.dirname(sys.path[0]))                                      # the repository's root
from contract import is_text, run_script
from hub import build_parser, choose, prepare
from tasks import SPLITS, normalize, short_hash, split_of_group

FIRST = 10_000                             # questions of the official train split that are used
ANSWERS = ("correct_answer", "distractor1", "distractor2", "distractor3")


def rows_of(raw, with_support=False):
    """One raw row -> [right row, wrong row], or [] where a distractor is the right answer too, or a text is missing."""
    question = raw["question"]
    support = raw["support"] or ""
    answers = [raw[name] for name in ANSWERS]
    if not all(map(is_text, (question, *answers))) or normalize(answers[0]) in map(normalize, answers[1:]):
        return []
    note = f"Note: {support}\n" if with_support and support.strip() else ""
    choices = sorted(answers)
    random.Random("choices " + normalize(question)).shuffle(choices)
    rows = []
    for answer, label in ((answers[0], 1), (choose(question, answers[1:]), 0)):
        rows.append({"key": f"{question} {answer}", "group": question, "text": f"{note}Q: {question} A: {answer}",
                     "label": label, "question": question, "answer": answer, "choices": choices, "support": support})
    return rows


def halves(n, seed=42):
    """
    The places of train1 and of train2 among n questions: those of datasets' train_test_split(test_size=0.5, seed=42),
    train then test.

    >>> halves(6)
    ([0, 1, 4], [2, 3, 5])
    """
    order = np.random.default_rng(seed).permutation(n).tolist()
    return sorted(order[(n + 1) // 2:]), sorted(order[:(n + 1) // 2])


def split_questions(pools):
    """
    pools    {"train": questions, "valid": ..., "test": ...} or {"all": questions}, each question a list of two rows
    returns  (splits of rows, {reason: number of questions left out})
    """
    left_out = Counter()
    pool_of = {}

    def is_new(rows, pool):
        """Is this question usable and not seen before? If not, the reason is counted."""
        if not rows:
            left_out["questions without four usable answers"] += 1
            return False
        group = short_hash(rows[0]["group"])
        if group not in pool_of:
            pool_of[group] = pool
            return True
        earlier = pool_of[group]
        left_out[f"questions twice in {pool}" if earlier == pool else f"questions of {pool} that are in {earlier}"] += 1
        return False

    kept = {}
    for pool in ("test", "valid", "all"):
        if pool in pools:
            kept[pool] = [rows for rows in pools[pool] if is_new(rows, pool)]
    if "all" in kept:
        questions = {name: [] for name in SPLITS}
        for rows in kept["all"]:
            questions[split_of_group(short_hash(rows[0]["group"]))].append(rows)
    else:
        train = list(pools["train"])
        places = [rows if is_new(rows, "train") else None for rows in train[:FIRST]]
        spare = (rows for rows in train[FIRST:] if is_new(rows, "train"))
        places = [rows or next(spare, []) for rows in places]          # the next question takes the place and its half
        first, second = halves(len(places))
        questions = {"train1": [places[i] for i in first], "train2": [places[i] for i in second],
                     "valid": kept["valid"], "test": kept["test"]}
    return {name: [row for rows in members for row in rows] for name, members in questions.items()}, dict(left_out)


def main(argv=None):
    parser = build_parser(__doc__, "sciq")
    parser.add_argument("--with-support", action="store_true", help="the paragraph behind a question stands before it")
    args = parser.parse_args(argv)
    prepare(args, "sciq", "allenai/sciq", {"train": "train", "valid": "validation", "test": "test"},
            rows_of=lambda raw: [rows_of(raw, args.with_support)], split=split_questions)


if __name__ == "__main__":
    run_script(main)
