"""
Pairs: which of two texts is better? Answers, notes, replies and advice from tinyworld's tables, for reward models.

A row has two texts that begin alike. Label 1 says that b is better (a coin flip decides which comes first):

{"id": "pairs-train1-...", "group": "elements/gold/block", "label": 0, "kind": "answer", "field": "elements",
 "prompt": "Q: Which block does the element gold belong to? A:",
 "text_a": "Q: Which block does the element gold belong to? A: d-block",
 "text_b": "Q: Which block does the element gold belong to? A: s-block"}

    kind      better                                    worse
    answer    the right answer                          a wrong one
    note      a helpful note: it states the fact        a note that states a wrong value
    reply     a polite reply                            a rude one
    advice    advice that names a thing's danger        the same, with the danger of another thing

Two tasks are made. A reward model is trained on data/pairs: answers and notes about matter (elements, minerals,
astronomy, ...), and replies. data/pairs-far has answers and notes about living things (animals, plants, body, health),
and advice, a kind that the other task does not have: does what was learned from a supervisor hold there?

Facts, remarks and things are split as in data/tinyworld, data/toxicity and data/safety. The tiny models have never read
a verdict on the facts and things. Each value is right as often as it is wrong. So nothing but knowledge tells a right
answer from a wrong one.

$ python data/pairs/prepare.py
$ python train_weak.py --task pairs --also pairs-far

Needs   contract.py, data/tasks.py, data/tinyworld/, data/safety/, data/toxicity/
Writes  data/{pairs,pairs-far}/{train1,train2,valid,test}.jsonl, truth/labels.jsonl and, last, task.json
"""
import argparse
import os
import random
import sys
from collections import defaultdict

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))       # data/
sys.path.insert(0, os.path.dirname(sys.path[0]))                                      # the repository's root
from contract import run_script
from safety.prepare import shipped_splits as safety_splits
from tasks import SPLITS, pair_row, split_groups, write_shipped_task
from tinyworld.prepare import by_relation, load_facts, read_life, split_facts, wrong_answers
from toxicity.prepare import SHARES

FAR = ("animals", "plants", "body", "health")              # fields of data/pairs-far


def pair(kind, field, group, prompt, better, worse, value=""):
    """
    A row without an id: the same prompt before the better and the worse text. value: what a good text states, the truth
    for sft.py; it stands in test alone
    """
    texts = pair_row(f"{prompt} {better}", f"{prompt} {worse}")
    return {"group": group, **texts, "kind": kind, "field": field, "prompt": prompt, "value": value}


def fact_pairs(facts, split):
    """An answer and a note for each fact of a split -> rows"""
    rows = []
    for (field, relation), group in by_relation(facts).items():
        wrong = wrong_answers(group, random.Random(f"wrong {split} {field} {relation}"))
        for fact, wrong_value in zip(group, wrong):
            rng = random.Random("pair " + fact["key"])
            question = "Q: " + rng.choice(fact["questions"]).format(e=fact["entity"])
            value = fact["value"]
            rows.append(pair("answer", field, fact["key"], question + " A:", value, wrong_value, value))
            note = rng.choice(fact["statements"])
            helpful, wrong_note = (note.format(e=fact["entity"], v=v) for v in (value, wrong_value))
            rows.append(pair("note", field, fact["key"], question + " Note:", helpful, wrong_note, value))
    return rows


def reply_pairs(split):
    """A polite and a rude reply to each remark of a split -> rows"""
    remarks = read_life("remarks")
    split_of = split_groups({r["prompt"]: 1 for r in remarks}, {r["prompt"]: "all" for r in remarks}, SHARES)
    return [pair("reply", "remarks", r["prompt"], f"Prompt: {r['prompt']} Reply:", r["polite"], r["rude"])
            for r in remarks if split_of[r["prompt"]] == split]


def advice_pairs(rows):
    """Rows of data/safety, two for each thing and situation, safe and unsafe -> rows"""
    found = defaultdict(dict)
    for row in rows:
        found[row["thing"], row["situation"]][row["label"]] = row
    pairs = []
    for twins in found.values():
        prompt = twins[1]["text"].partition(" A: ")[0] + " A:"
        better, worse = (twins[label]["text"].removeprefix(prompt + " ") for label in (1, 0))
        pairs.append(pair("advice", "things", twins[1]["group"], prompt, better, worse, better.split()[-1]))
    return pairs


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    facts = split_facts(load_facts())
    advice = safety_splits()
    near = {}
    far = {}
    for split in SPLITS:
        rows = fact_pairs(facts[split], split)
        near[split] = [row for row in rows if row["field"] not in FAR] + reply_pairs(split)
        far[split] = [row for row in rows if row["field"] in FAR] + advice_pairs(advice[split])
        if split != "test":
            for row in near[split] + far[split]:
                del row["value"]
    for task, splits in (("pairs", near), ("pairs-far", far)):
        write_shipped_task(task, splits, "data/tinyworld/{facts,life}")


if __name__ == "__main__":
    run_script(main)
