"""
SciQ: science exam questions with four answers become "is this answer right?", as Sang et al. made them.

One raw row of the hub (invented here; the real ones are CC BY-NC 3.0), and the two rows it becomes:

{"question": "What gas do plants take in?", "correct_answer": "carbon dioxide", "distractor1": "oxygen", "distractor2": "helium",
 "distractor3": "methane", "support": "Plants take in carbon dioxide and give off oxygen."}

{"id": "sciq-train1-...", "group": "...", "label": 1, "text": "Q: What gas do plants take in? A: carbon dioxide", "question": ...,
 "answer": "carbon dioxide", "choices": [the four, shuffled], "support": ...}       and one with a distractor, label 0

The setting of Sang et al. (2024, arXiv:2402.00667; their released code): the first 10,000 questions of the official train split, halves by
question with seed 42 as `datasets` cuts them, one right row and one with a random distractor each. So train1 and train2 have 10,000 rows
each, valid (the official validation) and test 2,000 each. Two differences, both on purpose:
1) Their test for questions that occur twice compares the wrong things and finds none. Here a question that occurs twice, or in two official
   splits, stays once (in test before valid before train), and the next question after the 10,000 takes its place.
2) Their distractor is drawn in the order of rows; here by a hash of the question, so that no other question changes it.

$ python data/sciq/prepare.py                                            # from the hub
$ python data/sciq/prepare.py --from-file sciq-raw                       # a folder with the hub's files, or one file in its format
$ python data/sciq/prepare.py --with-support --task sciq-support         # "Note: Plants take in ..." before each question; the same ids
"""
import os, random, sys
from collections import Counter

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from hub import arguments, choose, is_text, normal, prepare, short, split_of

FIRST = 10_000                             # questions of the official train split that are used
ANSWERS = ("correct_answer", "distractor1", "distractor2", "distractor3")


def rows_of(raw, with_support=False):
    """One raw row -> [right row, wrong row], or [] where a distractor is the right answer too, or a text is missing."""
    question, support, answers = raw["question"], raw["support"] or "", [raw[name] for name in ANSWERS]
    if not all(map(is_text, (question, *answers))) or normal(answers[0]) in map(normal, answers[1:]):
        return []
    note = f"Note: {support}\n" if with_support and support.strip() else ""
    choices = sorted(answers)
    random.Random("choices " + normal(question)).shuffle(choices)
    return [{"key": f"{question} {answer}", "group": question, "text": f"{note}Q: {question} A: {answer}", "label": label,
             "question": question, "answer": answer, "choices": choices, "support": support}
            for answer, label in ((answers[0], 1), (choose(question, answers[1:]), 0))]


def halves(n, seed=42):
    """
    The places of train1 and of train2 among n questions: those of datasets' train_test_split(test_size=0.5, seed=42), train then test.

    >>> halves(6)
    ([0, 1, 4], [2, 3, 5])
    """
    import numpy as np
    order = np.random.default_rng(seed).permutation(n).tolist()
    return sorted(order[(n + 1) // 2:]), sorted(order[:(n + 1) // 2])


def split(pools):
    """{"train": questions, "valid": ..., "test": ...} or {"all": questions}, each a list of two rows -> (splits of rows, left out)"""
    left, seen = Counter(), {}

    def fresh(rows, pool):
        """Usable, and not seen before? Counted aloud where not."""
        group = short(rows[0]["group"]) if rows else ""
        if not rows:
            left["questions without four usable answers"] += 1
        elif group in seen:
            left[f"questions twice in {pool}" if seen[group] == pool else f"questions of {pool} that are in {seen[group]}"] += 1
        else:
            seen[group] = pool
            return True

    kept = {pool: [rows for rows in pools[pool] if fresh(rows, pool)] for pool in ("test", "valid", "all") if pool in pools}
    if "all" in kept:
        kept = {name: [rows for rows in kept["all"] if split_of(short(rows[0]["group"])) == name] for name in ("train1", "train2", "valid", "test")}
    else:
        questions = list(pools["train"])
        places = [rows if fresh(rows, "train") else None for rows in questions[:FIRST]]
        spare = (rows for rows in questions[FIRST:] if fresh(rows, "train"))
        places = [rows or next(spare, []) for rows in places]                  # whoever fills a place goes to that place's half
        first, second = halves(len(places))
        kept = {"train1": [places[i] for i in first], "train2": [places[i] for i in second], "valid": kept["valid"], "test": kept["test"]}
    return {name: [row for rows in questions for row in rows] for name, questions in kept.items()}, dict(left)


def main():
    parser = arguments(__doc__, "sciq")
    parser.add_argument("--with-support", action="store_true", help="the paragraph that the question was made from before each question")
    args = parser.parse_args()
    prepare(args, "sciq", "allenai/sciq", {"train": "train", "valid": "validation", "test": "test"},
            rows_of=lambda raw: [rows_of(raw, args.with_support)], split=split)


if __name__ == "__main__":
    main()
