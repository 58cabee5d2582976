"""
Your own rows: a table of texts, with true labels for some rows or for all, becomes a task that every script here takes.

$ python data/own/prepare.py --rows mails.csv --text body --label is_spam --task spam
$ python train_weak.py --task spam && python train_strong.py --task spam --labels truth --out ceiling
$ python train_strong.py --task spam --labels weak --ceiling ceiling

Reads   a table: .csv or .tsv (comma, semicolon or tab; with a header), .json, .jsonl, each also as .gz, or .parquet
Writes  data/<task>/{train1,train2,valid,test}.jsonl, truth/labels.jsonl and, last, task.json; to-label.csv, 100 random
        rows without a true label, if there are such rows

Labels are 0/1, true/false or yes/no. For other words --yes says which one means yes. Three classes need --one-vs-rest.
--text may be a pattern of columns: "Q: {question} A: {answer}".

**Pairs**: which of two texts is better? --text-a and --text-b in place of --text. The label b, 1 or yes (or the word of
--yes) says that b is better, and so do annotators' labels. A coin flip decides which text comes first in the task, with
labels to match: where a table always has the better one second, the order would give it away.

$ python data/own/prepare.py --rows chats.csv --text-a "{q} {reply}" --text-b "{q} {other}" --label best --task chats

**Rows without a label** (an empty cell, NaN, no such column) go to train2. The others are split so that each split has
its share of both classes: test 20 %, valid 10 %, train1 and train2 35 % each. If the unlabelled rows fill train2, test
gets 50 % of the labelled ones, train1 30 % and valid 20 %. Fewer than 40 labelled groups all go to test. Without any
true label a student can still be trained, but not measured.

The hash of a row's group decides its place: the same rows give the same splits in whatever order they are. Rows with
the same --group value (a conversation, a document, an author) stay in one split, and so do rows whose texts differ in
case and spacing alone. Left out and counted: rows with an empty text or one text twice, all copies of a text but one,
and all copies of a text that has both labels.

**Annotators** (people, rules, an API, somebody's released labels) come as more columns: p_yes, [p_no, p_yes], or the
label's words; empty where an annotator has no opinion. In a column that has 2 or -1, numbers are words, and so are
those of a column of 0 and 1 alone if they occur there too. Each COLUMN of --soft-label becomes a supervisor's folder,
data/<task>/COLUMN/labels.jsonl. --votes reads the long format of crowd platforms, a table of row, annotator, label.

$ python data/own/prepare.py --rows tickets.csv --text body --label urgent --yes urgent --soft-label ann,bob --task t
$ python ensemble.py --task t --supervisors ann,bob --combine bayes --out fused
$ python train_strong.py --task t --labels fused
$ python predict.py --model data/t/seed0/student --rows new-tickets.csv --out labelled.csv

docs/own-labels.md goes through an example. A score that is to be compared with a published one needs every line of the
table. So annotators' labels cover the lines that were left out as well, under ids of their own, and the printed scores
are over all lines of truth/table.jsonl.

Needs  contract.py, metrics.py, data/tasks.py
"""
import argparse
import csv
import hashlib
import io
import json
import math
import os
import re
import sys
from collections import Counter

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))       # data/
sys.path.insert(0, os.path.dirname(sys.path[0]))                                      # the repository's root
from contract import (
    fail, is_pair, is_soft_label, lock_folder, number, read_jsonl, read_labels, run_script, show_row, task_name,
    text_keys, write_file)
from metrics import all_metrics
from tasks import (
    DATA, NO, PLAIN_NAME, SPLITS, TRUE_LABELS, YES, fill_texts, hash_fraction, is_turned, normalize, open_task,
    read_table, row_id, split_groups, text_columns, word_of, write_jsonl, write_task)

FEWEST = 40                                # groups; fewer cannot fill the splits
TO_LABEL = 100                             # rows of to-label.csv


# --------------------------------------------------------------------------- the words of a label

def id_of(value):
    """
    A cell -> the id that it holds, as it is written; None: it is empty. Some tools write the whole numbers 7 as 7.0.

    >>> [id_of(value) for value in (" aB3", "007", 7, "7.0", "12e4", "NA", "1234567890123456789", None, float("nan"))]
    ['aB3', '007', '7', '7', '12e4', 'NA', '1234567890123456789', None, None]
    """
    if value is None or value != value:
        return None
    return re.sub(r"^(\d+)\.0+$", r"\1", str(value).strip()) or None


def parse_soft_label(value, plain=True):
    """
    An annotator's probability, p_yes or [p_no, p_yes] -> a pair; anything else -> None. Some spreadsheets write 0,75.

    plain   is a plain number p_yes? Not in a column of find_scales

    >>> parse_soft_label(0.75), parse_soft_label("0,75"), parse_soft_label("[0.25, 0.75]"), parse_soft_label("maybe")
    ([0.25, 0.75], [0.25, 0.75], [0.25, 0.75], None)
    """
    if isinstance(value, str) and re.fullmatch(r"\s*[01],\d+\s*", value):
        value = value.replace(",", ".")
    try:
        value = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return None
    pair = [1 - value, value] if plain and type(value) in (int, float) else value
    return [float(p) for p in pair] if is_soft_label(pair) else None


def find_scales(path, table, columns, label=None, yes=()):
    """
    Annotators' columns with a number below 0 or above 1: 1 or 2, -1 or 1, one to five stars. All plain numbers there
    are words. Where others are between 0 and 1, nobody can say what they mean: refused.

    A column of nothing but 0 and 1 could hold p_yes or such words. They are words if all occur in a column with larger
    numbers, an annotator's or the true label's. A 1 alone that does not is refused, unless --yes says what it means.

    columns   lists of names. What holds for one column holds for all of its list (annotators of one file of votes)
    returns   the names of these columns
    """
    scales = []
    classes = set()                                        # all numbers of such columns
    undecided = []
    for k, names in enumerate([[label], *columns]):
        found = {}                                         # {word: (line, column) where it stands first}
        for line, row in table:
            for name in names:
                if word := word_of(row.get(name)):
                    found.setdefault(word.replace(",", "."), (line, name))
        numbers = {word: float(word) for word in found if re.fullmatch(r"-?\d+(\.\d+)?(e[-+]\d+)?", word)}
        outside = [word for word, x in numbers.items() if not 0 <= x <= 1]
        between = [word for word, x in numbers.items() if 0 < x < 1]
        if outside:
            classes.update(numbers)
        if k == 0:                                         # the true label's numbers are words in any case
            continue
        if outside and between:
            line, name = found[outside[0]]
            fail(f"{path}, line {line}: {outside[0]} in column {name!r} is no p_yes of 0 to 1, but "
                 f"{between[0]} looks like one. Mend the one, or write classes as words: '5 stars'")
        if outside:
            scales += names
        elif found and found.keys() <= {"0", "1"}:
            undecided.append((names, found))
    for names, found in undecided:
        if found.keys() <= classes:
            scales += names
        elif classes and [*found] == ["1"] and "1" not in map(word_of, yes):
            line, name = found["1"]
            fail(f"{path}, line {line}: does 1, the only number in column {name!r}, mean yes, or is it a class beside "
                 f"{', '.join(sorted(classes, key=float)[:3])}? If it means yes, add  --yes 1 . Otherwise write it "
                 "as a word: '1 star'")
    return scales


def find_words(path, table, label, annotators, scales, yes, one_vs_rest):
    """
    All words of the label column, and those that annotators use -> ({word: 0 or 1}, [no, yes] as they are written)

    More than two classes, or words whose meaning is not known, are refused with the flag to add.
    """
    found = {}                                             # {word: [rows, first line, as it is written]}
    for line, row in table:
        for name in ([label] if label else []) + annotators:
            value = row.get(name)
            word = word_of(value)
            if word and (name == label or parse_soft_label(value, name not in scales) is None
                         and (name in scales or word not in YES | NO)):
                found.setdefault(word, [0, line, str(value).strip()])[0] += 1
    yes = [word_of(word) for word in yes]
    unused = [word for word in yes if word not in found and parse_soft_label(word) is None]
    unknown = [word for word in found if word not in (yes or YES | NO)]
    most = sorted(found, key=lambda word: -found[word][0])
    shown = ", ".join(f"{found[word][2][:30]!r} ({found[word][0]:,})" for word in most[:5])
    shown += f" and {len(found) - 5:,} more" if len(found) > 5 else ""
    if unused:
        fail(f"{path}: --yes {unused[0]!r} is no label there; it has {shown or 'none'}")
    if yes and len(unknown) > 1 and not one_vs_rest:
        fail(f"{path}: {len(found):,} classes: {shown}. Empty the cells that mean neither; or one against the rest:  "
             f"--yes {' --yes '.join(yes)} --one-vs-rest")
    if unknown and not yes:
        word = found[unknown[0]]
        advice = f"Say which word means yes:  --yes {most[0]!r}  or  --yes {most[-1]!r}"
        if len(found) > 2:
            advice = f"Empty the cells that mean neither; or one against the rest:  --yes {most[-1]!r} --one-vs-rest"
        fail(f"{path}, line {word[1]}: the label {word[2][:40]!r} is none of 0/1, true/false, yes/no; "
             f"there are {shown}. {advice}")
    if len(unknown) > 1:
        those = ", ".join(f"{found[word][2][:30]!r} ({found[word][0]:,})" for word in unknown[:10])
        print(f"no means: {those}. Empty the cells that mean neither yes nor no")
    if not yes:
        return {word: int(word in YES) for word in found}, ["no", "yes"]
    written = [found[word][2] if word in found else word for word in [*unknown[:1], yes[0]]]
    return {word: int(word in yes) for word in {*found, *yes}}, [
        written[0] if len(unknown) == 1 else f"not {written[-1]}", written[-1]]


# --------------------------------------------------------------------------- annotators in the long format

def add_votes(table, path, columns, id_column, texts, label=None):
    """
    A table of row, annotator, label -> one more column of `table` for each annotator.

    table      (line, dict); lines with the same value of id_column and the same text are one row
    columns    the names of the three columns
    returns    (the table, names of the new columns: annotators, as folders can be called)
    """
    by_id = {}
    kept = []
    for line, row in table:
        key = id_of(row.get(id_column))
        if key is None:
            fail(f"line {line} of --rows has no {id_column!r}, which --votes refers to")
        if key not in by_id:
            by_id[key] = dict(row)
            kept.append((line, by_id[key]))
        elif fill_texts(row, texts, f"line {line} of --rows") != fill_texts(by_id[key], texts):
            fail(f"line {line} of --rows: {id_column} {row[id_column]!r} occurs twice, with different texts")
        for name, value in row.items():                    # a label may stand on any of the lines of a row
            known = word_of(by_id[key].get(name))
            if name == label and known is not None and word_of(value) not in (None, known):
                fail(f"line {line} of --rows: {id_column} {row[id_column]!r} occurs twice, with different labels")
            if known is None:
                by_id[key][name] = value
    taken = {label, *(str(name) for _, row in table for name in row)}
    votes = {}                                             # {(id, annotator): {word: as it is written}}
    unknown = Counter()
    n_nobody = 0
    for line, vote in read_table(path):
        for name in columns:
            if name not in vote:
                fail(f"{path}, line {line}: no column {name!r}; it has {', '.join(map(str, vote))}. Name the columns "
                     "of row, annotator and label with --votes-columns")
        key, annotator, label = (vote[name] for name in columns)
        if id_of(key) not in by_id:
            unknown[str(key)] += 1
        elif word_of(annotator) is None:
            n_nobody += 1
        elif word_of(label):
            votes.setdefault((id_of(key), id_of(annotator)), {})[word_of(label)] = label
    if unknown:
        print(f"note: {path}: {sum(unknown.values()):,} votes on {len(unknown):,} rows that --rows does not have, "
              f"first {next(iter(unknown))!r}")
    if not votes:
        fail(f"{path}: no vote on a row of --rows; does {columns[0]!r} hold the values of its column {id_column!r}?")
    if n_nobody:
        print(f"note: {path}: {n_nobody:,} votes have no annotator (an empty cell, NA, nan, null) and are left out. If "
              "one is called so, write another name")
    folders = {}
    for _, annotator in votes:
        name = re.sub(r"[^A-Za-z0-9]+", "-", annotator).strip("-") or "annotator"
        while annotator not in folders and (name in taken or re.fullmatch(r"truth|seed\d+", name)):
            name += "-2"
        taken.add(folders.setdefault(annotator, name))
    for (key, annotator), labels in votes.items():
        if len(labels) == 1:
            by_id[key][folders[annotator]] = next(iter(labels.values()))
    n_torn = sum(len(labels) > 1 for labels in votes.values())
    print(f"votes: {len(votes) - n_torn:,} by {len(folders):,} annotators"
          + (f"; {n_torn:,} left out: an annotator gave two labels to one row" if n_torn else ""))
    return kept, sorted(folders.values())


def add_audit(table, path, texts, label):
    """The labels of a filled-in to-label.csv, joined by text, for rows that have none. Changes `table`."""
    if os.path.basename(path) == TRUE_LABELS:
        fail(f"--audit {path}: a model chose most of these rows, for example where it was doubtful, so they would make "
             "a biased test set. Fill in to-label.csv, whose rows are random")
    known = {}
    for _, row in read_table(path):
        if word_of(row.get("label")) is not None:
            known[tuple(normalize(str(row.get(key))) for key in texts)] = row["label"]
    found = []                                             # had the row a true label already?
    joined = set()
    for line, row in table:
        filled = fill_texts(row, texts, f"line {line}")
        key = tuple(map(normalize, filled.values())) if filled else None
        if key in known:
            joined.add(key)
            found.append(word_of(row.get(label)) is not None)
            row[label] = row[label] if found[-1] else known[key]
    if not found:
        fail(f"{path}: {len(known):,} rows with a label, and no text of theirs is in --rows. It must be a to-label.csv "
             f"of this table, filled in, with the columns {', '.join(texts)}, label")
    print(f"audit: {found.count(False):,} true labels from {path}")
    if lost := [" | ".join(key) for key in known if key not in joined]:
        print(f"WARNING: {len(lost):,} labels of {path} are lost, since their texts are not in --rows, first "
              f"{lost[0][:60]!r}. Save the file as UTF-8, with the texts as they were")


# --------------------------------------------------------------------------- rows of the table

def check_columns(path, table, names):
    """Columns that the table lacks, in one line"""
    present = sorted({str(key) for _, row in table for key in row})
    for name in names:
        if name not in present:
            it_has = f"it has {', '.join(present)}" if table else "it has no rows"
            fail(f"{path} has no column {name!r}; {it_has}")


def parse_rows(path, table, texts, words, label=None, group=None, annotators=(), scales=()):
    """
    A table of (line, dict) -> rows {"line", "text", "label": 0, 1 or None, "group", "soft": {annotator: pair}}, and the
    number of rows with an empty text. What cannot be read ends in one line. Pairs have "text_a" and "text_b", and
    "turned": did they change places?
    """
    check_columns(path, table, [*annotators, *filter(None, (label, group))])
    hard = {name: {word_of(row.get(name)) for _, row in table} <= {*words, None} for name in annotators}
    yes_no = {word: int(word in YES) for word in YES | NO}
    rows = []
    names = [row.get(group) for _, row in table if group]
    if odd := [name for name in names if id_of(name) and word_of(name) is None]:
        print(f"note: {path}: {len(odd):,} rows have {odd[0]!r} in column {group!r} and count as rows without a group. "
              "If a group is called so, write another name")
    for line, row in table:
        filled = fill_texts(row, texts, f"{path}, line {line}")
        soft = {}
        for name in annotators:
            word = word_of(row.get(name))
            pair = parse_soft_label(row[name], name not in scales) if word and not hard[name] else None
            if word and pair is None:
                truth = words.get(word, yes_no.get(word))
                if truth is None:
                    fail(f"{path}, line {line}: {str(row[name])[:40]!r} in column {name!r} is neither p_yes nor "
                         "[p_no, p_yes] of 0 to 1, nor one of the label's words")
                pair = [1.0 - truth, float(truth)]
            if pair:
                soft[name] = pair
        if filled and len(set(map(normalize, filled.values()))) == len(filled):                # no pair of equal texts
            word = word_of(row.get(label)) if label else None
            of_group = id_of(row.get(group)) if word_of(row.get(group)) else None
            made = {"line": line, **filled, "label": words[word] if word else None, "group": of_group, "soft": soft}
            rows.append(turn_by_coin(made) if is_pair(made) else made)
    return rows, len(table) - len(rows)


def turn_by_coin(row):
    """A pair -> the same, its texts and all its labels in the order of a coin flip (data/tasks.py)"""
    a, b = row["text_a"], row["text_b"]
    if not is_turned(normalize(a), normalize(b)):
        return {**row, "turned": False}
    label = None if row["label"] is None else 1 - row["label"]
    soft = {name: pair[::-1] for name, pair in row["soft"].items()}
    return {**row, "text_a": b, "text_b": a, "label": label, "soft": soft, "turned": True}


def merge_groups(rows):
    """
    Drop duplicates, and give rows that share a group or a text one group name (union-find over both). Of equal texts
    the first is kept. It gets the true label that any of them has, and the annotators' labels that it lacks.

    returns   (rows with final groups, rows left out, number of duplicates and of contradictory rows among these)
    """
    parent = {}

    def find(x):
        while parent.setdefault(x, x) != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    def merge(x, y):
        a, b = find(x), find(y)
        parent[max(a, b)] = min(a, b)

    labels = {}
    soft = {}
    for row in rows:
        key = normalize(show_row(row))
        labels.setdefault(key, set()).update({row["label"]} - {None})
        soft[key] = {**row["soft"], **soft.get(key, {})}
        if row["group"] is not None:
            merge("group " + row["group"], "text " + key)
        if is_pair(row):                                   # pairs that share a text stay in one split
            for name in text_keys([row]):
                merge("one of a pair " + normalize(row[name]), "text " + key)
    kept = []
    left_out = []
    seen = set()
    for row in rows:
        key = normalize(show_row(row))
        group = hashlib.sha256(find("text " + key).encode()).hexdigest()[:12]
        if len(labels[key]) < 2 and key not in seen:
            label = next(iter(labels[key]), None)
            kept.append({**row, "group": group, "label": label, "soft": soft[key]})
        else:
            left_out.append({**row, "group": group})
        seen.add(key)
    contradictory = sum(len(labels[normalize(show_row(row))]) == 2 for row in rows)
    return kept, left_out, len(left_out) - contradictory, contradictory


# --------------------------------------------------------------------------- splits

def plan_shares(n_groups, n_labelled):
    """
    The share of the labelled groups that each split gets. Unlabelled groups are in train2 in any case.

    >>> plan_shares(1000, 1000)
    {'test': 0.2, 'train1': 0.35, 'train2': 0.35, 'valid': 0.1}
    >>> plan_shares(1000, 87), plan_shares(1000, 12)
    ({'test': 0.5, 'train1': 0.3, 'valid': 0.2}, {'test': 1.0})
    """
    if n_labelled < FEWEST:
        return {"test": 1.0}
    to_train2 = (0.35 * n_groups - (n_groups - n_labelled)) / n_labelled
    if to_train2 <= 0:
        return {"test": 0.5, "train1": 0.3, "valid": 0.2}
    rest = (1 - to_train2) / 0.65
    return {"test": 0.2 * rest, "train1": 0.35 * rest, "train2": to_train2, "valid": 0.1 * rest}


def split_table(task, rows):
    """
    Rows of merge_groups -> ({split: rows}, unlabelled rows of groups that are in train1 or test: left out). Strata are
    groups with label no, with label yes, and with both. A hash decides the order of rows.
    """
    labels = {}
    for row in rows:
        labels.setdefault(row["group"], set()).update({row["label"]} - {None})
    strata = {group: str(sorted(found)) for group, found in labels.items() if found}
    shares = plan_shares(len(labels), len(strata))
    split_of = split_groups(Counter(row["group"] for row in rows if row["group"] in strata), strata, shares)
    splits = {name: [] for name in SPLITS}
    mixed = []
    for row in sorted(rows, key=lambda row: hash_fraction("order " + normalize(show_row(row)))):
        split = split_of.get(row["group"], "train2")
        if row["label"] is None and split in ("train1", "test"):
            mixed.append(row)
        else:
            splits[split].append({**row, "id": row_id(task, split, row)})
    return splits, mixed


def pgr_half_width(n, gap=0.2):
    """
    Half of a PGR's 95 % interval with n independent test rows, in a favourable case: PGR 1/2, and the models' errors
    are nested (each is wrong on a part of the rows that the weaker one is wrong on; tests/test_metrics.py).

    >>> round(pgr_half_width(47), 2), round(pgr_half_width(481), 2)
    (0.32, 0.1)
    """
    return 1.96 * math.sqrt(0.25 / (gap * n))


def describe_truth(splits, n_rows):
    """The line that says how many true labels each split has, and what they are good for."""
    known = {name: sum(row["label"] is not None for row in rows) for name, rows in splits.items()}
    total = sum(known.values())
    if not total:
        return "true labels: none. A student can be trained on annotators' labels, but nothing can be said about it"
    line = f"true labels: {total:,} of {n_rows:,} rows: " + ", ".join(f"{n:,} to {name}" for name, n in known.items())
    n = len({row["group"] for row in splits["test"]})
    line += f". With {n:,} test groups a PGR's interval is about ±{pgr_half_width(n):.2f} or wider"
    enough = math.ceil(1.96 ** 2 * 0.25 / (0.2 * 0.1 ** 2))
    if n < enough:
        more = (enough - n) * total / known["test"] if known["train1"] else 2 * enough
        line += f"; for ±0.10 label some {math.ceil(more / 10) * 10:,} rows more"
    return line


def write_to_label(folder, task, rows):
    """
    to-label.csv: 100 unlabelled rows, drawn at random (the first in an order by hash), for a person to label. The texts
    of a pair stand as in the table. A file that is there already may have been filled in, so it stays. If it has been
    read with --audit, so that none of its rows lacks a label, 100 new rows follow those that are filled in.
    """
    path = os.path.join(folder, "to-label.csv")
    rows = sorted([row for row in rows if row["label"] is None],
                  key=lambda row: hash_fraction("audit " + normalize(show_row(row))))
    if not rows:
        return
    keys = text_keys(rows)
    new = [{key: row[other] for key, other in zip(keys, keys[::-1] if row.get("turned") else keys)} for row in rows]
    old = [row for _, row in read_table(path)] if os.path.exists(path) else []
    texts = {tuple(normalize(row[key]) for key in keys) for row in new}
    if not any(tuple(normalize(str(row.get(key))) for key in keys) in texts for row in old):
        out = io.StringIO()
        old = [row for row in old if word_of(row.get("label"))]
        writer = csv.DictWriter(out, dict.fromkeys([name for row in old for name in row] + [*keys, "label"]))
        writer.writeheader()
        writer.writerows(old + new[:TO_LABEL])
        write_file(path, "\ufeff" + out.getvalue())        # Excel knows UTF-8 by this mark alone
    print(f"to label next: fill in the labels of {os.path.relpath(path)}, random rows of train2, and give the file "
          "back with --audit")


# --------------------------------------------------------------------------- annotators

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
    """One annotator's labels, for all lines of the table that it labels -> a supervisor's folder"""
    with lock_folder(os.path.join(folder, name)):
        write_jsonl(os.path.join(folder, name, "labels.jsonl"),
                    [{"id": row["id"], "soft_label": row["soft"][name]} for row in lines if name in row["soft"]])


def report_supervisor(folder, name, lines):
    """Read the labels back as a student does, and print how good they are over all lines with a true label."""
    n_labelled = sum(name in row["soft"] for row in lines)
    ids = {row["id"] for row in lines if name in row["soft"]}
    rows = [row for row in read_jsonl(os.path.join(folder, "truth", "table.jsonl")) if row["id"] in ids]
    labelled = "" if n_labelled == len(lines) else f" | labels {n_labelled:,} of {len(lines):,} lines"
    if not rows:
        print(f"{name}: no true label to compare with{labelled}")
        return
    soft = read_labels(os.path.join(folder, name), rows)
    m = all_metrics(soft, rows)
    accuracy, ece = released_accuracy_and_ece(soft[:, 1], [row["label"] for row in rows])
    n_ties = int(np.sum(soft[:, 1] == 0.5))
    over = "all lines of the table" if m["n"] == len(lines) else "all lines with both labels"
    print(f"{name}: accuracy {m['accuracy']:.2%} | AUROC {m['auroc']:.3f} | ECE {m['ece']:.3f} | says yes "
          f"{m['says_yes']:.2f} of {m['share_yes']:.2f} | {n_ties:,} ties | n={m['n']:,}, {over}{labelled}")
    if m["n"] == len(lines):
        print(f"{name}: accuracy {accuracy:.2%} | AUROC {m['auroc']:.3f} | ECE {ece:.3f} by the rule of released code "
              "(a tie is a no, bins from 0)")


# --------------------------------------------------------------------------- the steps

def build_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rows", required=True, help="the table: .csv, .tsv, .json, .jsonl (also .gz) or .parquet")
    add("--text", help="column of the text to judge, or a pattern of columns: 'Q: {question} A: {answer}'")
    add("--text-a", metavar="TEXT", help="pairs: column or pattern of one text")
    add("--text-b", metavar="TEXT", help="pairs: column or pattern of the other text, better where the label is yes")
    add("--label", help="column of the true label; cells may be empty")
    add("--yes", action="append", default=[], metavar="WORD", help="the label that means yes (may be repeated)")
    add("--one-vs-rest", action="store_true", help="every label that is not --yes means no")
    add("--group", help="column of what must stay in one split: question, document, author")
    add("--soft-label", action="append", default=[], metavar="COLUMN,...",
        help="columns of annotators' p_yes, [p_no, p_yes] or words: each becomes data/<task>/COLUMN/labels.jsonl")
    add("--votes", metavar="FILE", help="a table of row, annotator, label: each annotator becomes a folder")
    add("--votes-columns", default="row,annotator,label", metavar="A,B,C", help="its columns, if they have other names")
    add("--id", metavar="COLUMN", help="column of --rows that --votes refers to (default: named as in --votes)")
    add("--audit", metavar="FILE", help="a to-label.csv that was filled in: its labels are true ones")
    add("--max-left-out", type=number(float, 0, 1), default=0.2, help="largest share of rows that may be left out")
    add("--task", type=task_name, required=True, help="name of the new folder under data/")
    return parser


def check_args(args):
    if bool(args.text) == bool(args.text_a or args.text_b) or bool(args.text_a) != bool(args.text_b):
        fail("give --text, or for pairs of texts --text-a and --text-b")
    if args.text_a and args.one_vs_rest:
        fail("--one-vs-rest is for single texts: a tie does not say that a is better. Empty the cells of ties")
    if not re.fullmatch(PLAIN_NAME, args.task):
        fail(f"--task {args.task!r}: letters, digits, '-' and '_' only")
    if os.path.exists(os.path.join(DATA, args.task, "prepare.py")):
        fail(f"--task {args.task!r} is taken by a task of this repository; choose another name")
    for name in args.soft_label:
        if not re.fullmatch(PLAIN_NAME, name) or re.fullmatch(r"truth|seed\d+", name):
            fail(f"--soft-label {name!r} becomes a folder: letters, digits, '-' and '_' only, and not 'truth' or "
                 "'seed0'; rename the column")
    if not args.label and not args.soft_label and not args.votes:
        fail("nothing labels these rows: give --label, --soft-label or --votes")
    if args.votes and len(args.votes_columns.split(",")) != 3:
        fail(f"--votes-columns {args.votes_columns!r}: three names, of row, annotator and label")


def check_truth(path, splits, label):
    """Both classes where they are needed, in one line."""
    labels = {row["label"] for rows in splits.values() for row in rows} - {None}
    if len(labels) == 1:
        fail(f"{path}: column {label!r} holds one value only; a binary task needs both")
    for split in ("train1", "test"):
        if splits[split] and len({row["label"] for row in splits[split]}) < 2:
            fail(f"{path}: no {split} rows of both labels; more rows, or finer groups, are needed")


def main(argv=None):
    args = build_parser().parse_args(argv)
    args.soft_label = ",".join(args.soft_label).split(",") if args.soft_label else []
    check_args(args)
    folder = os.path.join(DATA, args.task)

    texts = {"text": args.text} if args.text else {"text_a": args.text_a, "text_b": args.text_b}
    table = list(read_table(args.rows))
    check_columns(args.rows, table, [name for pattern in texts.values() for name in text_columns(pattern)])
    annotators = list(args.soft_label)
    if args.votes:
        columns = args.votes_columns.split(",")
        table, names = add_votes(table, args.votes, columns, args.id or columns[0], texts, args.label)
        annotators += names
    if args.audit:
        args.label = args.label or "label of --audit"      # not "label": a column of the table may be called so
        add_audit(table, args.audit, texts, args.label)
    columns = [args.label, *annotators]
    if args.text_b and not args.yes and any(word_of(row.get(name)) == "b" for _, row in table for name in columns):
        args.yes = ["b"]
    in_votes = annotators[len(args.soft_label):]
    columns = [*([name] for name in args.soft_label), in_votes]
    scales = find_scales(args.rows, table, columns, args.label, args.yes)
    words, names = find_words(args.rows, table, args.label, annotators, scales, args.yes, args.one_vs_rest)
    rows, n_empty = parse_rows(args.rows, table, texts, words, args.label, args.group, annotators, scales)
    rows, left_out, doubles, contradictory = merge_groups(rows)
    n_groups = len({row["group"] for row in rows})
    if n_groups < FEWEST:
        fail(f"{args.rows}: {n_groups} groups of usable rows, at least {FEWEST} are needed")
    splits, mixed = split_table(args.task, rows)
    check_truth(args.rows, splits, args.label)
    why = f"{doubles:,} doubles, {contradictory:,} rows whose text has both labels, {n_empty:,} with an empty text"
    why += f", {len(mixed):,} without a label in groups of train1 or test" if mixed else ""
    n_left_out = n_empty + len(left_out) + len(mixed)
    if n_left_out > args.max_left_out * len(table):
        fail(f"{args.rows}: {n_left_out:,} of {len(table):,} rows would be left out ({why}). Is --text right? If so:  "
             f"--max-left-out {math.ceil(100 * n_left_out / len(table)) / 100}")
    lines = [{**row, "id": f"{args.task}-line-{row['line']}"} for row in left_out + mixed]
    lines = sorted(lines + sum(splits.values(), []), key=lambda row: row["line"])

    with open_task(folder):
        truth = {}
        if annotators:
            truth["table.jsonl"] = [{key: row[key] for key in ("id", "group", *texts, "label")} for row in lines
                                    if row["label"] is not None]
        for name in annotators:
            write_supervisor(folder, name, lines)
        print(f"left out: {why}")
        rows_of = {name: [{key: row[key] for key in ("id", "group", *texts, "label")} for row in members]
                   for name, members in splits.items()}
        write_task(folder, args.task, rows_of, os.path.basename(args.rows), truth, **texts, names=names,
                   annotators=annotators)
    print(describe_truth(splits, sum(map(len, splits.values()))))
    write_to_label(folder, args.task, splits["train2"])
    for name in annotators[:20]:
        report_supervisor(folder, name, lines)
    if len(annotators) > 20:
        print(f"... and {len(annotators) - 20:,} annotators more")


if __name__ == "__main__":
    run_script(main)
