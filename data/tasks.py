"""
How a task is made: rows in, four splits and the files of contract.py out. Every prepare.py of data/ uses this page.

    hashes   a number in [0, 1) from a text: splits, orders and coin flips depend on no seed and on no order of rows
    splits   whole groups (questions, documents) go to train1, train2, valid or test
    tables   .csv, .json, .jsonl, .jsonl.gz and .parquet files as rows
    files    data/<task>/{train1,train2,valid,test}.jsonl, truth/labels.jsonl and, last, task.json

This page has no command line. data/tinyworld/prepare.py uses it for rows that it makes itself, data/own/prepare.py for
a table of yours. data/hub.py adds what public datasets need.

Needs  contract.py
"""
import contextlib
import csv
import gzip
import hashlib
import json
import os
from collections import defaultdict

from contract import catch_write_errors, fail, fingerprint, lock_folder, parse_json_object, write_file

DATA = os.path.dirname(os.path.abspath(__file__))
SPLITS = ("train1", "train2", "valid", "test")
ENDINGS = (".json", ".jsonl", ".jsonl.gz", ".csv", ".parquet")
YES = {"1", "1.0", "true", "yes"}
NO = {"0", "0.0", "false", "no"}
PLAIN_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"                  # of a folder: such a name cannot lead out of data/


# --------------------------------------------------------------------------- texts and hashes

def normalize(text):
    """
    Texts that differ in case and spacing alone count as the same text.

    >>> normalize("  Is gold\\nheavy? ")
    'is gold heavy?'
    """
    return " ".join(text.lower().split())


def hash_fraction(key):
    """
    A number in [0, 1) that depends on the text alone: the same on every machine and in every order of rows.

    >>> round(hash_fraction("elements/gold/block"), 3)
    0.375
    """
    return int(hashlib.sha256(key.encode()).hexdigest()[:13], 16) / 16 ** 13


def short_hash(text):
    """
    Twelve hex digits that name a text. They reveal neither its label nor its place in the source.

    >>> short_hash("Is gold heavy?") == short_hash("is  gold heavy?")
    True
    """
    return hashlib.sha256(normalize(text).encode()).hexdigest()[:12]


def row_id(task, split, row):
    """
    The id of a row: task, split and the hash of its text. If the row has a "key", that is hashed instead: rows with
    another prompt (sciq --with-support) then have the same ids, and a supervisor that reads one prompt can teach a
    student that reads the other.
    """
    return f"{task}-{split}-{short_hash(row.get('key', row['text']))}"


def binary_label(value):
    """
    A label in one of the usual spellings (csv files hold strings only) -> 0 or 1. Anything else raises ValueError.

    >>> binary_label(True), binary_label("no"), binary_label("1.0")
    (1, 0, 1)
    """
    word = str(value).strip().lower()
    if word not in YES | NO:
        raise ValueError(f"label {str(value)[:40]!r} is none of 0/1, true/false, yes/no")
    return int(word in YES)


# --------------------------------------------------------------------------- splits

def split_of_group(group):
    """The split of a group, by its hash: test 20 %, valid 10 %, train1 and train2 35 % each."""
    u = hash_fraction("split " + group)
    for split, end in (("test", 0.2), ("valid", 0.3), ("train1", 0.65)):
        if u < end:
            return split
    return "train2"


def split_groups(sizes, strata, shares):
    """
    Assign whole groups to splits, so that every stratum has each split's share as nearly as whole groups allow.

    sizes    {group: number of members}
    strata   {group: stratum}
    shares   {split: share}, with valid last
    returns  {group: split}
    """
    split_of = {}
    members = defaultdict(list)
    for group in sorted(sizes, key=lambda name: hash_fraction("split " + name)):
        members[strata[group]].append(group)
    for groups in members.values():
        total = sum(sizes[group] for group in groups)
        before = 0
        for group in groups:
            middle = (before + sizes[group] / 2) / total
            start = 0.0
            for split, share in shares.items():
                if start <= middle < start + share or split == "valid":
                    split_of[group] = split
                    break
                start += share
            before += sizes[group]
    return split_of


# --------------------------------------------------------------------------- tables

def read_table(path):
    """A file in one of the formats of ENDINGS -> (line number, dict), row by row. A broken line is named."""
    if not os.path.isfile(path):
        fail(f"no file at {path}")
    number = 0
    reader = None
    try:
        if path.endswith(".parquet"):
            import pyarrow.parquet  # comes with `datasets`
            for batch in pyarrow.parquet.ParquetFile(path).iter_batches():     # some files hold a million reviews
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        elif path.endswith(".csv"):
            csv.field_size_limit(1 << 30)
            with open(path, encoding="utf-8-sig", newline="") as f:
                reader = csv.DictReader(f, strict=True)
                for row in reader:
                    yield reader.line_num, row
        elif path.endswith(".json"):
            with open(path, encoding="utf-8-sig") as f:
                rows = json.load(f)
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                fail(f"{path}: not a list of {{...}} objects")
            yield from enumerate(rows, 1)
        elif path.endswith((".jsonl", ".jsonl.gz")):
            with (gzip.open if path.endswith(".gz") else open)(path, "rt", encoding="utf-8-sig") as f:
                for number, line in enumerate(f, 1):
                    if line.strip():
                        yield number, parse_json_object(line)
        else:
            fail(f"{path}: the ending must be one of {' '.join(ENDINGS)}")
    except UnicodeDecodeError as error:
        fail(f"{path} is not UTF-8 (byte {error.start}). Save it as UTF-8, for example:  "
             f"iconv -f ITS-ENCODING -t utf-8 {path} > utf8-{os.path.basename(path)}")
    except (ValueError, csv.Error, RecursionError, OSError, EOFError) as error:
        line = reader.line_num if reader else number
        fail(f"cannot read {path}{f', line {line}' if line else ''}: {str(error).splitlines()[0]}")


# --------------------------------------------------------------------------- files

def write_jsonl(path, rows):
    """Dicts -> JSON lines. The file is there whole, or as it was before."""
    write_file(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_json_list(path, items):
    """Dicts -> a JSON list with one item a line."""
    write_file(path, "[\n" + ",\n".join(json.dumps(item, ensure_ascii=False) for item in items) + "\n]\n")


@contextlib.contextmanager
def open_task(folder):
    """
    Around all that writes a task: the folder is made and locked. Until task.json is written again, last of all, the
    task is unfinished and every trainer refuses it.
    """
    with lock_folder(folder):
        with catch_write_errors(folder):
            os.makedirs(os.path.join(folder, "truth"), exist_ok=True)
            if os.path.exists(os.path.join(folder, "task.json")):
                os.remove(os.path.join(folder, "task.json"))
        yield


def write_splits(folder, splits):
    """
    {split: rows with labels} -> <split>.jsonl and truth/labels.jsonl. The labels of train2 and valid are written to
    truth/labels.jsonl alone, so that a student cannot see them by accident.

    returns   {split: {"rows": ..., "groups": ..., "share_yes": ...}}
    """
    counts = {}
    for split, rows in splits.items():
        n_groups = len({row["group"] for row in rows})
        share_yes = sum(row["label"] for row in rows) / len(rows)
        counts[split] = {"rows": len(rows), "groups": n_groups, "share_yes": share_yes}
        if split in ("train2", "valid"):
            rows = [{k: v for k, v in row.items() if k != "label"} for row in rows]
        write_jsonl(os.path.join(folder, split + ".jsonl"), rows)
        print(f"{split:7s} {len(rows):6,} rows of {n_groups:6,} groups, {share_yes:.1%} yes")
    truth = []
    for row in [*splits["train2"], *splits["valid"]]:
        truth.append({"id": row["id"], "soft_label": [1.0 - row["label"], float(row["label"])]})
    write_jsonl(os.path.join(folder, "truth", "labels.jsonl"), truth)
    return counts


def write_task(folder, task, splits, source, truth=None, **more):
    """
    {split: rows with labels} -> all files of a task. To be called inside `with open_task(folder):`.

    source   where the rows come from; task.json records it, with the fingerprints of the other files
    truth    {file name: rows}: more files of truth/
    more     more keys of task.json
    """
    for name, rows in (truth or {}).items():
        write_jsonl(os.path.join(folder, "truth", name), rows)
    counts = write_splits(folder, splits)
    names = [*(split + ".jsonl" for split in splits), "truth/labels.jsonl"]
    files = {name: fingerprint(os.path.join(folder, name)) for name in names}
    spec = {"task": task, "label_words": [" no", " yes"], "source": source, "splits": counts, "files": files, **more}
    write_jsonl(os.path.join(folder, "task.json"), [spec])
    print(f"wrote {os.path.relpath(folder)}")


def write_shipped_task(task, splits, source, truth=None):
    """Rows that safety, legal and toxicity make from tinyworld's tables -> a task: with ids, in the order of a hash."""
    named = {}
    for split, rows in splits.items():
        rows = [{"id": row_id(task, split, row), **row} for row in rows]
        named[split] = sorted(rows, key=lambda row: hash_fraction("order " + row["id"]))
    folder = os.path.join(DATA, task)
    with open_task(folder):
        write_task(folder, task, named, source, truth)
