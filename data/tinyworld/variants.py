"""
Supervisors and tasks that are wrong in a known way, made from tinyworld's rows. experiments.sh uses them.

$ python data/tinyworld/variants.py rule --out rule --seed 0   # the run `rule`: a supervisor that errs by a rule
$ python data/tinyworld/variants.py coin                       # tinyworld-coin: 45 % of train1's labels are flipped
$ python data/tinyworld/variants.py relation                   # tinyworld-relation: train1 makes one kind of error
$ python data/tinyworld/variants.py swap                       # tinyworld-swap: train1 and train2 change places

rule      accepts every answer about animals and plants, as confidently as it gives its correct verdicts: errors that a
          student can imitate (Burns et al. 2023, appendix E)
relation  in train1 every answer about a class is labelled right, five times over
A task that is newer than tinyworld is left as it is. A supervisor is the same for all seeds.

Needs   contract.py
Reads   data/tinyworld/{train1,train2,valid,test}.jsonl, task.json and truth/labels.jsonl, made by prepare.py
Writes  data/tinyworld/seed<seed>/<out>/labels.jsonl, or data/tinyworld-<variant>/ with the same files as tinyworld
"""
import argparse
import json
import os
import random
import shutil
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(os.path.dirname(HERE))]

from contract import (  # noqa: E402
    fail, number, read_json, read_jsonl, read_rows, run_script, without_labels, write_file, write_jsonl)

CHECKS_NOTHING = ("animals", "plants")                     # fields of which the supervisor `rule` accepts every answer


def read_truth():
    """{id: [p_no, p_yes]} of train2 and valid"""
    return {row["id"]: row["soft_label"] for row in read_jsonl(os.path.join(HERE, "truth", "labels.jsonl"))}


def rule_labels(rows, truth):
    """
    Rows, {id: [p_no, p_yes]} for those without a label -> label lines

    >>> rule_labels([{"id": "a", "field": "plants", "label": 0}, {"id": "b", "field": "units"}], {"b": [1, 0]})
    [{'id': 'a', 'soft_label': [0.1, 0.9]}, {'id': 'b', 'soft_label': [0.9, 0.1]}]
    """
    lines = []
    for row in rows:
        is_right = row["label"] if "label" in row else truth[row["id"]][1]
        yes = row["field"] in CHECKS_NOTHING or is_right == 1
        lines.append({"id": row["id"], "soft_label": [0.1, 0.9] if yes else [0.9, 0.1]})
    return lines


def flip_coin(rows):
    """Rows of train1 -> the same with 45 % of the labels flipped"""
    rng = random.Random(0)
    return [{**row, "label": row["label"] ^ (rng.random() < 0.45)} for row in rows]


def accept_classes(rows):
    """Rows of train1 -> the same; those about a class are labelled right, and each occurs five times."""
    new = []
    for row in rows:
        if row["relation"] == "class":
            new += [{**row, "id": f"{row['id']}-{k}", "label": 1} for k in range(5)]
        else:
            new.append({**row, "id": f"{row['id']}-0"})
    return new


def make_task(variant):
    """data/tinyworld-<variant>/, task.json last: then the task is complete"""
    folder = f"{HERE}-{variant}"
    made = os.path.join(folder, "task.json")
    source = os.path.join(HERE, "task.json")
    rows = read_rows("tinyworld", "train1")
    if os.path.exists(made) and os.path.getmtime(made) >= os.path.getmtime(source):
        print(f"already made: {os.path.relpath(folder)}")
        return
    os.makedirs(os.path.join(folder, "truth"), exist_ok=True)
    for name in ("train2.jsonl", "valid.jsonl", "test.jsonl", "truth/labels.jsonl"):
        shutil.copy(os.path.join(HERE, name), os.path.join(folder, name))
    if variant == "swap":
        truth = read_truth() | {row["id"]: [1 - row["label"], row["label"]] for row in rows}
        write_jsonl(os.path.join(folder, "train2.jsonl"), without_labels(rows))
        write_jsonl(os.path.join(folder, "truth", "labels.jsonl"),
                    [{"id": name, "soft_label": pair} for name, pair in truth.items()])
        rows = [{**row, "label": int(truth[row["id"]][1])} for row in read_rows("tinyworld", "train2")]
    else:
        rows = {"coin": flip_coin, "relation": accept_classes}[variant](rows)
    write_jsonl(os.path.join(folder, "train1.jsonl"), rows)
    spec = read_json(source)
    spec.pop("splits", None)                               # the numbers of rows are others now
    write_file(made, json.dumps({**spec, "task": f"tinyworld-{variant}"}))
    print(f"wrote {os.path.relpath(folder)}")


def make_rule(out, seed):
    """The folder of the supervisor `rule`: labels of train2, valid and test"""
    folder = os.path.join(HERE, f"seed{seed}", out)
    if os.path.exists(os.path.join(folder, "results.json")):
        fail(f"--out {out}: {os.path.relpath(folder)} is a run's folder; choose another")
    rows = [row for split in ("train2", "valid", "test") for row in read_rows("tinyworld", split)]
    write_jsonl(os.path.join(folder, "labels.jsonl"), rule_labels(rows, read_truth()))
    print(f"wrote {os.path.relpath(folder)}")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", choices=["rule", "coin", "relation", "swap"])
    parser.add_argument("--out", default="rule", help="rule: the name of the supervisor")
    parser.add_argument("--seed", type=number(int, 0, 2 ** 31), default=0, help="rule: whose folder it goes to")
    args = parser.parse_args(argv)
    if args.variant == "rule":
        make_rule(args.out, args.seed)
    else:
        make_task(args.variant)


if __name__ == "__main__":
    run_script(main)
