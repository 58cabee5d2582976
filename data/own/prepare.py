"""
Your own rows: a table with a text column and a two-valued label column becomes a task that every script here takes.

$ python data/own/prepare.py --rows mails.csv --text body --label is_spam --task spam
$ python train_weak.py --task spam && python train_strong.py --task spam --labels truth --out ceiling
$ python train_strong.py --task spam --labels weak --ceiling ceiling

Reads   a .csv (with a header), .json, .jsonl, .jsonl.gz or .parquet file; parquet by the pyarrow that `datasets` brings
Writes  data/<task>/{train1,train2,valid,test}.jsonl, truth/labels.jsonl and, last, task.json

The hash of a row's group decides its split: 20 % of the groups go to test, 10 % to valid, 35 % each to train1 and
train2. The same file gives the same splits in whatever order its rows are. Rows with the same --group value (a
conversation, a document, an author) stay in one split, and so do rows whose texts differ in case and spacing alone.
The same text with the same label is kept once. The same text with both labels is contradictory: all its copies are
left out, and counted.

A foreign supervisor (a crowd, an API, somebody's released labels) comes as one more column of the table, p_yes or
[p_no, p_yes]. Each --soft-label COLUMN becomes a supervisor's folder, data/<task>/COLUMN/labels.jsonl, and its accuracy
is printed at once. --text may be a pattern of columns:

$ python data/own/prepare.py --rows judged.jsonl --text "Q: {question} A: {answer}" --group question --label label \\
      --soft-label plain --task judged
$ python train_strong.py --task judged --labels data/judged/plain

A student needs clean splits, while a score that is to be compared with a published one needs every line. So the labels
cover the lines that were left out as well, under ids of their own. truth/table.jsonl has all lines with their true
labels, and the printed scores are over all of them.

Needs  contract.py, metrics.py, data/tasks.py
"""
import argparse
import hashlib
import json
import os
import re
import sys

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))       # data/
sys.path.insert(0, os.path.dirname(sys.path[0]))                                      # the repository's root
from contract import fail, is_soft_label, is_text, lock_folder, read_jsonl, read_labels, run_script, task_name
from metrics import all_metrics
from tasks import (
    DATA,
    PLAIN_NAME,
    SPLITS,
    binary_label,
    hash_fraction,
    normalize,
    open_task,
    read_table,
    row_id,
    split_of_group,
    write_jsonl,
    write_task,
)

FEWEST = 40                                # groups; fewer cannot fill four splits


# --------------------------------------------------------------------------- rows of the table

def parse_soft_label(value):
    """
    A supervisor's label in the table, p_yes or [p_no, p_yes] -> a pair; anything else -> None

    >>> parse_soft_label(0.75), parse_soft_label("0.75"), parse_soft_label("[0.25, 0.75]"), parse_soft_label("maybe")
    ([0.25, 0.75], [0.25, 0.75], [0.25, 0.75], None)
    """
    try:
        value = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return None
    pair = [1 - value, value] if type(value) in (int, float) else value
    return [float(p) for p in pair] if is_soft_label(pair) else None


def parse_row(where, row, text, columns, label, group, soft_labels):
    """
    One row of the table, checked -> {"text", "label", "group", "soft": {column: pair}}. Errors begin with `where`.

    text      a column, or a pattern of columns such as "Q: {question} A: {answer}"
    columns   the columns that `text` names
    """
    for name in columns:
        if not isinstance(row.get(name), str) or not row[name].strip():
            fail(f"{where}: empty text in column {name!r}")
        if not is_text(row[name]):
            fail(f"{where}: half a character (a lone surrogate) in column {name!r}")
    try:
        truth = binary_label(row.get(label))
    except ValueError as error:
        fail(f"{where}, column {label!r}: {error}")
    if group and row.get(group) in (None, ""):
        fail(f"{where}: empty group in column {group!r}")
    soft = {name: parse_soft_label(row.get(name)) for name in soft_labels}
    for name, pair in soft.items():
        if pair is None:
            given = str(row.get(name))[:40]
            fail(f"{where}: {given!r} in column {name!r} is neither p_yes nor [p_no, p_yes] of 0 to 1")
    body = row[text] if columns == [text] else re.sub(r"\{([^{}]+)\}", lambda part: row[part[1]], text)
    return {"text": body.strip(), "label": truth, "group": str(row[group]) if group else None, "soft": soft}


def parse_rows(path, table, text, label, group, soft_labels=()):
    """A table of (line number, dict) -> rows of parse_row, with their "line". The first mistake ends in one line."""
    present = sorted({str(key) for _, row in table for key in row})
    columns = re.findall(r"\{([^{}]+)\}", text) or [text]
    for name in (*columns, label, *soft_labels, *([group] if group else [])):
        if name not in present:
            fail(f"{path} has no column {name!r}; it has {', '.join(present) or 'none'}")
    rows = []
    for line, row in table:
        parsed = parse_row(f"{path}, line {line}", row, text, columns, label, group, soft_labels)
        rows.append({**parsed, "line": line})
    if len({row["label"] for row in rows}) < 2:
        fail(f"{path}: column {label!r} holds one value only; a binary task needs both")
    return rows


def merge_groups(rows):
    """
    Drop duplicates, and give rows that share a group or a text one group name (union-find over both).

    returns   (rows with final groups, rows left out, number of duplicates and of contradictory rows among these)
    """
    parent = {}

    def find(x):
        while parent.setdefault(x, x) != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    labels = {}
    for row in rows:
        labels.setdefault(normalize(row["text"]), set()).add(row["label"])
        if row["group"] is not None:
            a = find("group " + row["group"])
            b = find("text " + normalize(row["text"]))
            parent[max(a, b)] = min(a, b)
    kept = []
    left_out = []
    seen = set()
    for row in rows:
        key = normalize(row["text"])
        group = hashlib.sha256(find("text " + key).encode()).hexdigest()[:12]
        good = len(labels[key]) == 1 and key not in seen
        (kept if good else left_out).append({**row, "group": group})
        seen.add(key)
    contradictory = sum(len(labels[normalize(row["text"])]) == 2 for row in rows)
    return kept, left_out, len(left_out) - contradictory, contradictory


def split_table(task, rows, left_out):
    """
    Rows kept and left out -> ({split: rows as they are written}, all lines of the table with their ids). A hash decides
    the order of rows, so it does not depend on the file's.
    """
    splits = {name: [] for name in SPLITS}
    lines = [{**row, "id": f"{task}-line-{row['line']}"} for row in left_out]
    for row in sorted(rows, key=lambda row: hash_fraction("order " + normalize(row["text"]))):
        split = split_of_group(row["group"])
        name = row_id(task, split, row)
        splits[split].append({"id": name, "group": row["group"], "text": row["text"], "label": row["label"]})
        lines.append({**row, "id": name})
    return splits, sorted(lines, key=lambda row: row["line"])


# --------------------------------------------------------------------------- a foreign supervisor

def released_accuracy_and_ece(p_yes, labels):
    """
    Accuracy and ECE by the rule of most released code: a tie is a no, and ten bins of confidence go from 0 to 1, so
    that five stay empty. p_yes, labels: (N,), (N,) of 0 and 1

    metrics.py counts a tie half (a constant 0.5 is no better than chance) and bins 0.5 to 1. Labels that were rounded
    to 8 bits tie often.

    >>> released_accuracy_and_ece([0.5, 0.5, 0.9, 0.2], [0, 1, 1, 0])     # 3 of 4 right; bins are off by 0, 0.2, 0.1
    (0.75, 0.075)
    """
    p_yes = np.asarray(p_yes, float)
    labels = np.asarray(labels)
    hits = (p_yes > 0.5) == (labels == 1)
    confidence = np.maximum(p_yes, 1 - p_yes)
    bin_of = np.minimum((confidence * 10).astype(int), 9)
    gaps = [abs((confidence - hits)[bin_of == b].sum()) for b in range(10)]
    return float(hits.mean()), round(float(sum(gaps) / len(hits)), 6)


def write_supervisor(folder, name, lines):
    """The labels of one column, for all lines of the table -> a supervisor's folder"""
    with lock_folder(os.path.join(folder, name)):
        write_jsonl(os.path.join(folder, name, "labels.jsonl"),
                    [{"id": row["id"], "soft_label": row["soft"][name]} for row in lines])


def report_supervisor(folder, name):
    """Read the labels back as a student does, and print how good they are over all lines of the table."""
    rows = read_jsonl(os.path.join(folder, "truth", "table.jsonl"))
    soft = read_labels(os.path.join(folder, name), rows)
    m = all_metrics(soft, rows)
    accuracy, ece = released_accuracy_and_ece(soft[:, 1], [row["label"] for row in rows])
    n_ties = int(np.sum(soft[:, 1] == 0.5))
    print(f"{name}: accuracy {m['accuracy']:.2%} | AUROC {m['auroc']:.3f} | ECE {m['ece']:.3f} | says yes "
          f"{m['says_yes']:.2f} of {m['share_yes']:.2f} | {n_ties:,} ties | n={m['n']:,}, all lines of the table")
    print(f"{name}: accuracy {accuracy:.2%} | AUROC {m['auroc']:.3f} | ECE {ece:.3f} by the rule of released code "
          "(a tie is a no, bins from 0)")


# --------------------------------------------------------------------------- the steps

def build_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", required=True, help="the table: a .csv, .json, .jsonl, .jsonl.gz or .parquet file")
    parser.add_argument("--text", required=True, help="column of the text to judge, or a pattern of columns: "
                                                      "'Q: {question} A: {answer}'")
    parser.add_argument("--label", required=True, help="column of the label: 0/1, true/false or yes/no")
    parser.add_argument("--group", help="column of what must stay in one split: question, document, author")
    parser.add_argument("--soft-label", action="append", default=[], metavar="COLUMN",
                        help="column of a supervisor's p_yes or [p_no, p_yes]: becomes data/<task>/COLUMN/labels.jsonl "
                             "(may be repeated)")
    parser.add_argument("--task", type=task_name, required=True, help="name of the new folder under data/")
    return parser


def check_args(args):
    if not re.fullmatch(PLAIN_NAME, args.task):
        fail(f"--task {args.task!r}: letters, digits, '-' and '_' only")
    if os.path.exists(os.path.join(DATA, args.task, "prepare.py")):
        fail(f"--task {args.task!r} is taken by a task of this repository; choose another name")
    for name in args.soft_label:
        if not re.fullmatch(PLAIN_NAME, name) or re.fullmatch(r"truth|seed\d+", name):
            fail(f"--soft-label {name!r} becomes a folder: letters, digits, '-' and '_' only, and not 'truth' or "
                 "'seed0'; rename the column")


def main(argv=None):
    args = build_parser().parse_args(argv)
    check_args(args)
    folder = os.path.join(DATA, args.task)

    table = list(read_table(args.rows))
    rows = parse_rows(args.rows, table, args.text, args.label, args.group, args.soft_label)
    rows, left_out, doubles, contradictory = merge_groups(rows)
    n_groups = len({row["group"] for row in rows})
    if n_groups < FEWEST:
        fail(f"{args.rows}: {n_groups} groups of usable rows, at least {FEWEST} are needed")
    splits, lines = split_table(args.task, rows, left_out)
    for split, members in splits.items():
        if len({row["label"] for row in members}) < 2:
            fail(f"{args.rows}: no {split} rows of both labels; more rows, or finer groups than {args.group!r}, "
                 "are needed")

    with open_task(folder):
        truth = {}
        if args.soft_label:
            truth["table.jsonl"] = [{key: row[key] for key in ("id", "group", "text", "label")} for row in lines]
        for name in args.soft_label:
            write_supervisor(folder, name, lines)
        print(f"left out: {doubles:,} doubles, {contradictory:,} rows whose text has both labels")
        write_task(folder, args.task, splits, os.path.basename(args.rows), truth)
    for name in args.soft_label:
        report_supervisor(folder, name)


if __name__ == "__main__":
    run_script(main)
