"""
tinyworld: hand-written tables of true science facts become yes/no questions in four disjoint splits.

A fact is (entity, relation, value): gold, block, d-block. The tables in facts/*.csv have one row per entity and one column
per relation; facts/*.json hold each relation's possible values and several ways to ask and to state it. One fact gives one
question, three distractors of the same relation, a support sentence, and two rows, one right and one wrong:

{"id": "tinyworld-test-elements-gold-block-a", "group": "elements/gold/block", "label": 1,
 "text": "Q: Which block does the element gold belong to? A: d-block", "question": ..., "answer": "d-block",
 "choices": [four answers, shuffled], "support": "Chemists place gold in the d-block.", "field": ..., "entity": ..., "relation": ...}

Three things here decide whether anything measured later means anything:
1) Splits are drawn by fact (the group), never by row: the two rows of a fact are one question.
2) The facts of the four splits never occur in a graded sheet of the pretraining corpus (corpus.py grades the rest): the
   tiny models may have read the fact, as a model has read the internet, but never somebody's verdict on it.
3) Within a relation the wrong answers are the right answers of other facts, dealt anew. So every answer is right as often as
   it is wrong, and a model that reads only the answer stays at chance (pitfall: label artefacts).

$ python data/tinyworld/prepare.py            # 2 s; deterministic: no seed, the same bytes everywhere
Writes train1.jsonl (the supervisor's half, with labels), train2.jsonl and valid.jsonl (without), test.jsonl (with: only the
final evaluation reads them), truth/labels.jsonl (the true labels of train2 and valid, as if a perfect supervisor had made
them) and, last, task.json. A few rows of each relation's split can be left unbalanced when one value is over half of it.
"""
import argparse, csv, hashlib, json, os, random, sys
from collections import defaultdict

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.path.dirname(os.path.dirname(HERE)))
from contract import hold, write_file, writing
SHARES = {"test": 0.17, "train1": 0.16, "train2": 0.20, "valid": 0.06}    # of the facts; the rest, "graded", is for corpus.py


def load_facts(folder=os.path.join(HERE, "facts")):
    """
    Every filled cell of every table, as a list of dicts in a fixed order.

    {"key": "elements/gold/block", "field": "elements", "entity": "gold", "relation": "block", "value": "d-block",
     "values": [...], "questions": [...], "statements": [...]}       the last three are shared by the relation's facts
    """
    facts = []
    for name in sorted(n[:-5] for n in os.listdir(folder) if n.endswith(".json")):
        with open(os.path.join(folder, name + ".json"), encoding="utf-8") as f:
            relations = json.load(f)["relations"]
        with open(os.path.join(folder, name + ".csv"), encoding="utf-8", newline="") as f:
            for row in csv.DictReader(f):
                facts += [{"key": f"{name}/{row['entity']}/{rel}", "field": name, "entity": row["entity"], "relation": rel,
                           "value": row[rel], **spec} for rel, spec in relations.items() if row[rel]]
    return facts


def unit(key):
    """
    A number in [0, 1) that depends on the text alone: the same on every machine and in every order of rows.

    >>> round(unit("elements/gold/block"), 3)
    0.443
    """
    return int(hashlib.sha256(key.encode()).hexdigest()[:13], 16) / 16 ** 13


def split_facts(facts):
    """{"test": [...], "train1": ..., "train2": ..., "valid": ..., "graded": ...}: each relation is dealt out by SHARES."""
    relations, splits = defaultdict(list), defaultdict(list)
    for fact in facts:
        relations[fact["field"], fact["relation"]].append(fact)
    for group in relations.values():
        group.sort(key=lambda fact: unit("split " + fact["key"]))
        start = 0.0
        for split, share in [*SHARES.items(), ("graded", 1 - sum(SHARES.values()))]:
            splits[split] += group[round(start * len(group)):round((start + share) * len(group))]
            start += share
    return splits


def wrong_answers(facts, rng):
    """
    One wrong answer for each fact of one relation: the facts' own values, dealt anew so that nobody gets its own.

    Swapping repairs a clash. Where no swap can (one value has more than half of the facts), any other value serves.
    Values [solid, gas, liquid] become, for example, [gas, liquid, solid]: every answer once right and once wrong.
    """
    right = [fact["value"] for fact in facts]
    wrong = rng.sample(right, len(right))
    for i, value in enumerate(right):
        if wrong[i] == value:
            others = [j for j in range(len(right)) if right[j] != value and wrong[j] != value]
            if others:
                j = rng.choice(others)
                wrong[i], wrong[j] = wrong[j], wrong[i]
            else:
                wrong[i] = rng.choice([v for v in facts[i]["values"] if v != value])
    return wrong


def rows_of(fact, wrong, split):
    """The two rows of a fact, one right and one wrong; which of them is called "a" is a coin flip."""
    rng = random.Random("rows " + fact["key"])
    others = [v for v in fact["values"] if v not in (fact["value"], wrong)]
    choices = [fact["value"], wrong, *rng.sample(others, 2)]
    rng.shuffle(choices)
    question = rng.choice(fact["questions"]).format(e=fact["entity"])
    support = rng.choice(fact["statements"]).format(e=fact["entity"], v=fact["value"])
    answers = [(fact["value"], 1), (wrong, 0)]
    rng.shuffle(answers)
    slug = "-".join([fact["field"], fact["entity"].replace(" ", "_"), fact["relation"]])
    return [{"id": f"tinyworld-{split}-{slug}-{letter}", "group": fact["key"], "text": f"Q: {question} A: {answer}", "label": label,
             "question": question, "answer": answer, "choices": choices, "support": support,
             "field": fact["field"], "entity": fact["entity"], "relation": fact["relation"]}
            for letter, (answer, label) in zip("ab", answers)]


def write_lines(path, rows):
    """JSON lines, written beside and renamed: a file is there whole or not at all."""
    write_file(path, "".join(json.dumps(row) + "\n" for row in rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=HERE, help="folder to write to (default: this one)")
    args = parser.parse_args()
    hold(args.out)
    with writing(args.out):
        os.makedirs(os.path.join(args.out, "truth"), exist_ok=True)
        if os.path.exists(os.path.join(args.out, "task.json")):
            os.remove(os.path.join(args.out, "task.json")) # until all files are new, the task is unfinished and no trainer takes it

    facts = load_facts()
    counts, truth = {}, []
    for split, members in split_facts(facts).items():
        if split == "graded":
            continue
        relations, rows = defaultdict(list), []
        for fact in members:
            relations[fact["field"], fact["relation"]].append(fact)
        for (field, relation), group in relations.items():
            wrong = wrong_answers(group, random.Random(f"wrong {split} {field} {relation}"))
            for fact, answer in zip(group, wrong):
                rows += rows_of(fact, answer, split)
        random.Random("order " + split).shuffle(rows)
        counts[split] = {"rows": len(rows), "groups": len(members), "share_yes": sum(r["label"] for r in rows) / len(rows)}
        if split in ("train2", "valid"):                   # the student must not see the truth by accident
            truth += [{"id": row["id"], "soft_label": [1.0 - row["label"], float(row["label"])]} for row in rows]
            rows = [{k: v for k, v in row.items() if k != "label"} for row in rows]
        write_lines(os.path.join(args.out, split + ".jsonl"), rows)
        print(f"{split:7s} {len(rows):5,} rows of {len(members):5,} facts -> {split}.jsonl")
    write_lines(os.path.join(args.out, "truth", "labels.jsonl"), truth)
    write_lines(os.path.join(args.out, "task.json"), [{"task": "tinyworld", "label_words": [" no", " yes"], "splits": counts}])
    print(f"{len(facts):,} facts in all; {len(facts) - sum(c['groups'] for c in counts.values()):,} are left for graded sheets in the corpus")


if __name__ == "__main__":
    main()
