"""
tinyworld: hand-written tables of true science facts become yes/no questions in four disjoint splits.

A fact is (entity, relation, value): gold, block, d-block. The tables in facts/*.csv have one row per entity and one
column per relation; facts/*.json hold each relation's possible values and several ways to ask for it and to state it.
One fact gives one question, three distractors of the same relation, a support sentence, and two rows, one right and one
wrong:

{"id": "tinyworld-test-elements-gold-block-a", "group": "elements/gold/block", "label": 1,
 "text": "Q: Which block does the element gold belong to? A: d-block", "question": ..., "answer": "d-block",
 "choices": [four answers, shuffled], "support": "Chemists place gold in the d-block.", "field": ..., "entity": ...,
 "relation": ...}

Three things here decide whether anything measured later means anything:
1) Splits are drawn by fact (the group), never by row: the two rows of a fact are one question.
2) The facts of the four splits never occur in a graded sheet of the pretraining corpus, since corpus.py grades other
   facts. The tiny models may have read the fact, as a large model has read the internet, but never a verdict on it.
3) Within a relation the wrong answers are the right answers of other facts, in another order. So each answer is right
   as often as it is wrong, and a model that reads only the answer stays at chance (pitfall: label artefacts).

$ python data/tinyworld/prepare.py            # 2 s; deterministic: no seed, the same bytes everywhere

Needs   contract.py, data/tasks.py
Reads   facts/*.csv and facts/*.json beside this file
Writes  train1.jsonl (the supervisor's half, with labels), train2.jsonl and valid.jsonl (without), test.jsonl (with:
        only the final evaluation reads them), truth/labels.jsonl (the true labels of train2 and valid, as if a perfect
        supervisor had made them) and, last, task.json. If one value has over half of a relation's facts, a few of the
        relation's rows stay unbalanced.
"""
import argparse
import os
import random
import re
import sys
from collections import defaultdict

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))       # data/
sys.path.insert(0, os.path.dirname(sys.path[0]))                                      # the repository's root
from contract import fail, is_text, read_bytes, read_json, run_script
from tasks import SPLITS, hash_fraction, open_task, read_table, write_jsonl, write_splits

HERE = os.path.dirname(os.path.abspath(__file__))
KINDS = {"animals": ("class", "kind"), "astronomy": ("kind",), "body": ("kind",), "earth": ("feature",),
         "elements": ("block", "family"), "materials": ("class",), "minerals": ("class",),
         "plants": ("family", "growth_form")}              # the relations whose values are kinds of things
BOTH = [{"poisonous", "corrosive"}, {"poisonous", "flammable"}, {"corrosive", "flammable"},
        {"explosive", "flammable"}, {"explosive", "corrosive"}, {"explosive", "hot"}, {"flammable", "hot"},
        {"electric", "hot"}, {"electric", "heavy"}, {"electric", "sharp"}, {"heavy", "hot"},
        {"heavy", "sharp"}]                                # dangers that one thing may well have together
SHARES = {"test": 0.17, "train1": 0.16, "train2": 0.20, "valid": 0.06}    # of the facts; corpus.py grades the rest


def read_rows_of(path):
    """A shipped table -> list of dicts. One that does not end with a whole line was cut short."""
    if os.path.isfile(path) and not read_bytes(path).endswith(b"\n"):
        fail(f"{path} does not end with a whole line. Fetch it again from the repository")
    return [row for _, row in read_table(path)]


def read_life(name):
    """life/<name>.csv: things, cautions, remarks, clauses, filings or opinions -> list of dicts"""
    return read_rows_of(os.path.join(HERE, "life", name + ".csv"))


def may_be_both(one, other):
    """Whether a thing with danger `one` may well have the danger `other` too (petrol burns and is poisonous)."""
    return one == other or {one, other} in BOTH


def with_article(fact):
    """ "the beaver", but "gold": as its questions name it. """
    article = "the " if any("the {e}" in question for question in fact["questions"]) else ""
    return article + fact["entity"]


def check_relation(spec):
    """What a relation lacks, in words, or None. spec: {"values": [...], "questions": [...], "statements": [...]}"""
    for key, slots in (("values", ()), ("questions", ("e",)), ("statements", ("e", "v"))):
        texts = spec.get(key) if isinstance(spec, dict) else None
        if not isinstance(texts, list) or not texts or not all(map(is_text, texts)):
            return f"{key!r} must be a list of texts"
        if slots and not all(sorted(re.findall(r"\{(.*?)\}", text)) == list(slots) for text in texts):
            return f"each of {key!r} needs {' and '.join('{' + slot + '}' for slot in slots)}, once"
    if len(set(spec["values"])) < max(4, len(spec["values"])):
        return "there must be four values or more, each once"
    return None


def check_table(name, spec, rows):
    """A table and its description, facts/<name>.csv and .json, must fit together; else one line says where not."""
    table = f"facts/{name}.csv"
    page = f"facts/{name}.json"
    relations = spec.get("relations")
    if not isinstance(relations, dict) or not relations:
        fail(f'{page}: needs "relations": {{name: ...}}')
    for relation, description in relations.items():
        if lack := check_relation(description):
            fail(f"{page}, relation {relation!r}: {lack}")
    if len(rows) != spec.get("entities"):
        fail(f'{table} has {len(rows)} rows, and {page} says "entities": {spec.get("entities")}. Was the table cut '
             "short? If you added or removed things, correct that number")
    seen = set()
    for row in rows:
        entity = row.get("entity")
        if not is_text(entity) or entity in seen:
            fail(f"{table}: entity {entity!r} must be a text that occurs once")
        seen.add(entity)
        for relation, description in relations.items():
            if relation not in row or row[relation] not in ("", *description["values"]):
                fail(f"{table}, {entity}: {relation} {row.get(relation)!r} is none of the values in {page}")


def load_facts():
    """
    Every filled cell of every table, as a list of dicts in a fixed order.

    {"key": "elements/gold/block", "field": "elements", "entity": "gold", "relation": "block", "value": "d-block",
     "values": [...], "questions": [...], "statements": [...]}       the last three are shared by the relation's facts
    """
    folder = os.path.join(HERE, "facts")
    facts = []
    for field in sorted(name[:-5] for name in os.listdir(folder) if name.endswith(".json")):
        description = read_json(os.path.join(folder, field + ".json"))
        rows = read_rows_of(os.path.join(folder, field + ".csv"))
        check_table(field, description, rows)
        for row in rows:
            for relation, spec in description["relations"].items():
                if row[relation]:
                    facts.append({"key": f"{field}/{row['entity']}/{relation}", "field": field, "entity": row["entity"],
                                  "relation": relation, "value": row[relation], **spec})
    return facts


def by_relation(facts):
    """Facts -> {(field, relation): facts}"""
    relations = defaultdict(list)
    for fact in facts:
        relations[fact["field"], fact["relation"]].append(fact)
    return relations


def split_facts(facts):
    """{"test": [...], "train1": ..., "train2": ..., "valid": ..., "graded": ...}: SHARES of each relation's facts."""
    splits = defaultdict(list)
    for group in by_relation(facts).values():
        group.sort(key=lambda fact: hash_fraction("split " + fact["key"]))
        start = 0.0
        for split, share in [*SHARES.items(), ("graded", 1 - sum(SHARES.values()))]:
            splits[split] += group[round(start * len(group)):round((start + share) * len(group))]
            start += share
    return splits


def wrong_answers(facts, rng):
    """
    One wrong answer for each fact of one relation: the facts' own values, shuffled so that no fact gets its own.

    A swap repairs a clash. Where no swap can (one value has more than half of the facts), any other value serves.
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
    """The two rows of a fact, one right and one wrong. A coin flip decides which of them is called "a"."""
    rng = random.Random("rows " + fact["key"])
    others = [v for v in fact["values"] if v not in (fact["value"], wrong)]
    choices = [fact["value"], wrong, *rng.sample(others, 2)]
    rng.shuffle(choices)
    question = rng.choice(fact["questions"]).format(e=fact["entity"])
    support = rng.choice(fact["statements"]).format(e=fact["entity"], v=fact["value"])
    answers = [(fact["value"], 1), (wrong, 0)]
    rng.shuffle(answers)
    slug = "-".join([fact["field"], fact["entity"].replace(" ", "_"), fact["relation"]])
    rows = []
    for letter, (answer, label) in zip("ab", answers):
        rows.append({"id": f"tinyworld-{split}-{slug}-{letter}", "group": fact["key"],
                     "text": f"Q: {question} A: {answer}", "label": label,
                     "question": question, "answer": answer, "choices": choices, "support": support,
                     "field": fact["field"], "entity": fact["entity"], "relation": fact["relation"]})
    return rows


def make_split(facts, split):
    """All rows of a split, with labels, in random order."""
    rows = []
    for (field, relation), group in by_relation(facts).items():
        wrong = wrong_answers(group, random.Random(f"wrong {split} {field} {relation}"))
        for fact, answer in zip(group, wrong):
            rows += rows_of(fact, answer, split)
    random.Random("order " + split).shuffle(rows)
    return rows


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=HERE, help="folder to write to (default: this one)")
    return parser


def check_out(folder):
    """--out: rows of another task are not overwritten."""
    for split in SPLITS:
        path = os.path.join(folder, split + ".jsonl")
        if os.path.exists(path) and not read_bytes(path).startswith(b'{"id": "tinyworld-'):
            fail(f"--out {folder}: {split}.jsonl there is another task's. Choose another --out, or remove it")


def main(argv=None):
    args = build_parser().parse_args(argv)
    check_out(args.out)
    members = split_facts(load_facts())                    # before anything of an older task is touched
    splits = {split: make_split(facts, split) for split, facts in members.items() if split in SPLITS}
    if not all(splits.values()):
        fail("facts/ has too few facts to fill four splits")
    with open_task(args.out):
        counts = write_splits(args.out, splits)
        write_jsonl(os.path.join(args.out, "task.json"),
                    [{"task": "tinyworld", "label_words": [" no", " yes"], "splits": counts}])
    print(f"{sum(map(len, members.values())):,} facts in all; {len(members['graded']):,} are left for graded sheets of "
          f"the corpus\nwrote {os.path.relpath(args.out)}")


if __name__ == "__main__":
    run_script(main)
