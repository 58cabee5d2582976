"""
How a task is made: rows in, four splits and the files of contract.py out. Every prepare.py of data/ uses this page.

    hashes   a number in [0, 1) from a text: splits, orders and coin flips depend on no seed and on no order of rows
    splits   whole groups (questions, documents) go to train1, train2, valid or test
    tables   .csv, .tsv, .json, .jsonl (each also as .gz) and .parquet files as rows
    truth    true labels that a run asks people for: data/<task>/true-labels.csv
    files    data/<task>/{train1,train2,valid,test}.jsonl, truth/labels.jsonl and, last, task.json

This page has no command line. data/tinyworld/prepare.py uses it for rows that it makes itself, data/own/prepare.py for
a table of yours. data/hub.py adds what public datasets need.

Needs  contract.py
"""
import contextlib
import csv
import gzip
import hashlib
import io
import json
import os
import re
from collections import defaultdict

import numpy as np

from contract import (
    DAMAGE, catch_write_errors, fail, fingerprint, is_text, lock_folder, open_file, parse_json, parse_json_object,
    read_json, read_known, read_rows, remove_any, show_row, text_keys, without_labels, write_file, write_jsonl)

DATA = os.path.dirname(os.path.abspath(__file__))
SPLITS = ("train1", "train2", "valid", "test")
ENDINGS = (".csv", ".tsv", ".json", ".jsonl", ".csv.gz", ".tsv.gz", ".json.gz", ".jsonl.gz", ".parquet")
DELIMITERS = ",;\t"
TRUE_LABELS = "true-labels.csv"
MOST_UNPACKED = 1 << 28                                    # bytes of a small .gz
YES = {"1", "1.0", "true", "yes"}
NO = {"0", "0.0", "false", "no"}
MISSING = {"", "nan", "na", "n/a", "null", "#n/a", "<na>"}         # words for "there is no label"
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
    return f"{task}-{split}-{short_hash(row.get('key') or show_row(row))}"


def is_turned(a, b):
    """
    Which of two texts comes first in a pair? A coin flip by their hash says whether b does. So neither the order of a
    table nor the alphabet says which is better.

    >>> is_turned("Eight minutes.", "Eggs are nice."), is_turned("Eggs are nice.", "Eight minutes.")
    (False, True)
    """
    return (a < b) == (hash_fraction("pair " + "\n".join(sorted([a, b]))) < 0.5)


def pair_row(better, worse):
    """Two texts -> {"text_a", "text_b", "label"}, label 1 where b is better; see is_turned"""
    if is_turned(worse, better):
        return {"text_a": better, "text_b": worse, "label": 0}
    return {"text_a": worse, "text_b": better, "label": 1}


def word_of(value):
    """
    A cell -> its word in lower case, numbers in their shortest form; None: there is no label

    >>> [word_of(value) for value in (" Urgent", True, 1.0, "-1", "1234567", None, float("nan"), "N/A")]
    ['urgent', 'true', '1', '-1', '1234567', None, None, None]
    """
    word = "" if value is None else str(value).strip().casefold()
    if word in MISSING:
        return None
    try:
        return str(float(word)).removesuffix(".0")
    except ValueError:
        return word


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

def find_encoding(head):
    """
    The encoding of a table, by its first four bytes: Excel writes UTF-16, or UTF-8 with a byte order mark.

    >>> find_encoding("text".encode("utf-16-le")), find_encoding(b"text")
    ('utf-16-le', 'utf-8-sig')
    """
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if len(head) > 3 and (head[0] == 0) != (head[1] == 0):
        return "utf-16-be" if head[0] == 0 else "utf-16-le"
    return "utf-8-sig"


def find_delimiter(sample, default=","):
    """
    Comma, semicolon or tab: the one that cuts most records of a table's first characters into as many fields as its
    header has. Of equals the one with more fields.

    >>> find_delimiter("id;text\\n1;Red, or blue?\\n2;No, green\\n")
    ';'
    """
    def quality(delimiter):
        try:
            records = list(csv.reader(sample.splitlines(True)[:50], delimiter=delimiter))
        except csv.Error:
            return 0, 0
        width = len(records[0]) if records else 0
        same = sum(len(record) == width for record in records[:-1] or records)         # the last may be cut
        return (same, width) if width > 1 else (0, 0)
    best = max(DELIMITERS, key=quality)
    return best if quality(best) > (0, 0) else default


def read_csv(path, f, default):
    """An open text file of fields -> (line number, dict). A header with one name twice, or a field too many, raises."""
    sample = re.sub('^"?sep=.*\n', "", f.read(1 << 16), flags=re.I)             # Excel may name the delimiter first
    f.seek(0)
    csv.field_size_limit(1 << 30)
    reader = csv.reader(f, delimiter=find_delimiter(sample, default), strict=True)
    header = None
    short = []
    try:
        for fields in reader:
            if header is None and fields[:1] and fields[0].lower().startswith("sep="):
                continue
            if header is None:
                header = [name.strip() for name in fields]
                doubles = [name for name in header if header.count(name) > 1]
                if doubles:
                    raise ValueError(f"the header names the column {doubles[0]!r} twice; rename one of them")
                continue
            if any(field.strip() for field in fields[len(header):]):
                raise ValueError(f"{len(fields)} fields, the header has {len(header)}. A {reader.dialect.delimiter!r} "
                                 "in a text without quotes? Put the text into double quotes")
            if fields and len(fields) < len(header):
                short.append(reader.line_num)
            if fields:
                yield reader.line_num, dict(zip(header, fields + [""] * (len(header) - len(fields))))
    except UnicodeDecodeError:                             # a ValueError, too
        raise
    except (ValueError, csv.Error) as error:
        fail(f"cannot read {path}, line {max(reader.line_num, 1)}: {error}")
    if short:
        print(f"note: {path}: {len(short):,} lines have fewer fields than the header, first line {short[0]}. The last "
              "columns count as empty there")


def check_unpacked_size(path):
    """A .gz of texts unpacks to some 3 to 20 times its size. One of a thousand times would fill the memory."""
    most = max(MOST_UNPACKED, 100 * os.path.getsize(path))
    size = 0
    with gzip.open(path, "rb") as f:
        while block := f.read(1 << 20):
            size += len(block)
            if size > most:
                raise ValueError(f"it unpacks to over {most:,} bytes, a hundred times its size: it is no table")


def read_table(path):
    """
    A file in one of the formats of ENDINGS -> (line number, dict), row by row. A broken line is named.

    The delimiter of .csv and .tsv is found by itself, and so is UTF-16.
    """
    if not os.path.isfile(path):
        fail(f"no file at {path}")
    name = path.lower()
    if not name.endswith(ENDINGS):
        fail(f"{path}: the ending must be one of {' '.join(ENDINGS)}")
    number = 0
    try:
        if name.endswith(".parquet"):
            import pyarrow.parquet  # comes with `datasets`
            for batch in pyarrow.parquet.ParquetFile(path).iter_batches():     # some files hold a million reviews
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
            return
        open_either = gzip.open if name.endswith(".gz") else open
        if name.endswith(".gz"):
            check_unpacked_size(path)
        with open_either(path, "rb") as f:
            head = f.read(4)
        if head == b"PK\x03\x04":
            fail(f"{path} is an Excel workbook (or a zip file) by its content. Save it as CSV in UTF-8")
        encoding = find_encoding(head)
        name = name.removesuffix(".gz")
        with open_either(path, "rt", encoding=encoding, newline="" if name.endswith(("csv", "tsv")) else None) as f:
            if name.endswith(("csv", "tsv")):
                yield from read_csv(path, f, default="\t" if name.endswith("tsv") else ",")
            elif name.endswith(".json"):
                rows = parse_json(f.read())
                if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                    fail(f"{path}: not a list of {{...}} objects")
                yield from enumerate(rows, 1)
            else:
                for number, line in enumerate(f, 1):
                    if line.strip():
                        yield number, parse_json_object(line)
    except UnicodeDecodeError as error:
        fail(f"{path} is not UTF-8 (byte {error.start}). Save it as UTF-8, for example:  "
             f"iconv -f ITS-ENCODING -t utf-8 {path} > utf8-{os.path.basename(path)}")
    except Exception as error:                             # gzip, zlib, json and pyarrow raise errors of many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        fail(f"cannot read {path}{f', line {number}' if number else ''}: {reason}")


def text_columns(pattern):
    """
    The columns that a --text names.

    >>> text_columns("body"), text_columns("Q: {question} A: {answer}")
    (['body'], ['question', 'answer'])
    """
    return re.findall(r"\{([^{}]+)\}", pattern) or [pattern]


def fill_text(row, pattern, where=""):
    """
    The text of a table's row by --text, a column or a pattern of columns; numbers are texts. -> None if a part is empty

    where   file and line, for the error of a row that holds no text

    >>> fill_text({"q": "How many?", "a": 3}, "Q: {q} A: {a}"), fill_text({"q": " ", "a": 3}, "Q: {q} A: {a}")
    ('Q: How many? A: 3', None)
    """
    columns = text_columns(pattern)
    parts = {}
    for name in columns:
        value = row.get(name)
        if isinstance(value, (dict, list)):
            fail(f"{where}: column {name!r} holds no text but {str(value)[:40]}")
        parts[name] = "" if value is None or value != value else str(value)
        if not parts[name].strip():
            return None
        if parts[name].encode("utf-8", "ignore").decode() != parts[name]:
            fail(f"{where}: half a character (a lone surrogate) in column {name!r}")
    if columns == [pattern]:
        return parts[pattern].strip()
    return re.sub(r"\{([^{}]+)\}", lambda part: parts[part[1]], pattern).strip()


def fill_texts(row, texts, where=""):
    """The texts of a table's row: {"text": pattern}, or of a pair two -> {key: text}; None if one of them is empty"""
    filled = {key: fill_text(row, pattern, where) for key, pattern in texts.items()}
    return filled if all(filled.values()) else None


# --------------------------------------------------------------------------- true labels that people give on request

def read_answer(cell, names, where):
    """
    A cell that a person has filled in -> 0, 1, or None if it is empty. Anything else ends in one line.

    names   the words for 0 and 1; 0/1, true/false and yes/no are understood too, unless one of the names is a usual
            word for the other label

    >>> [read_answer(cell, ("wrong", "right"), "here") for cell in ("Right ", "no", "1.0", "", None)]
    [1, 0, 1, None, None]
    >>> [read_answer(cell, ("1.0", "2.0"), "here") for cell in ("1", "2", "1.0")]
    [0, 1, 0]
    """
    word = word_of(cell)                                   # the numbers 1 (Excel) and 1.0 (pandas) are one word
    no, yes = map(word_of, names)
    meaning = {usual: int(usual in YES) for usual in YES | NO}
    if no in YES or yes in NO:                             # of the classes "1" and "2", 1 is no
        meaning = {}
    meaning |= {no: 0, yes: 1}
    if word not in {None, *meaning}:
        fail(f"{where}: the label {word[:40]!r} is neither {names[1]!r} nor {names[0]!r}")
    return meaning.get(word)


def read_answers(task, keys):
    """
    What people have written into data/<task>/true-labels.csv -> (the words for no and yes, {id: line of the table},
    {id: 0, 1 or None}). keys: those of a row's texts
    """
    names = ["a", "b"] if len(keys) > 1 else read_json(os.path.join(DATA, task, "task.json")).get("names")
    if not (isinstance(names, list) and len(names) == 2 and all(map(is_text, names))):
        names = ["no", "yes"]
    path = os.path.join(DATA, task, TRUE_LABELS)
    table = {}
    answers = {}
    for line, row in read_table(path) if os.path.exists(path) else ():
        name = row.get("id")
        if not name or name in table:
            fail(f"{path}, line {line}: " + (f"id {name!r} occurs twice" if name else "no id"))
        table[name] = row
        answers[name] = read_answer(row.get("label"), names, f"{path}, line {line}, id {name!r}")
    return names, table, answers


def known_labels(task, rows):
    """The true labels of n rows of train2: those of truth/, else of true-labels.csv; (n, 2), nan where none is known"""
    labels = read_known(os.path.join(DATA, task, "truth"), rows)
    unknown = np.flatnonzero(np.isnan(labels[:, 1]))
    answers = read_answers(task, text_keys(rows))[-1] if len(unknown) else {}
    for i in unknown:
        if (answer := answers.get(rows[i]["id"])) is not None:
            labels[i] = 1 - answer, answer
    return labels


def buy_labels(task, rows):
    """
    The true labels of n rows of train2: those of truth/, and for the others what people have written into
    data/<task>/true-labels.csv. Rows without any are added to that table, and the run stops until they have a label.

    returns   (n, 2), for no and yes
    """
    labels = known_labels(task, rows)
    missing = [row for row, pair in zip(rows, labels) if np.isnan(pair[1])]
    if missing:
        keys = text_keys(rows)
        names, table, _ = read_answers(task, keys)
        for row in missing:
            table.setdefault(row["id"], {key: row[key] for key in ("id", *keys)})
        out = io.StringIO()
        columns = [name for row in table.values() for name in row]
        writer = csv.DictWriter(out, dict.fromkeys(["id", *keys, "label", *columns]))
        writer.writeheader()
        writer.writerows(table.values())
        path = os.path.join(DATA, task, TRUE_LABELS)
        write_file(path, "\ufeff" + out.getvalue())        # Excel knows UTF-8 by this mark alone
        fail(f"people must give {len(missing):,} true label(s): write {names[1]!r} or {names[0]!r} into the column "
             f"label of {os.path.relpath(path)}, then give the same command again")
    return labels


def changed_labels(task, bought):
    """The rows whose true label is another one today, or gone. bought: {id: 0 or 1}, as a run has used it -> ids"""
    if not bought:
        return []
    rows = [row for row in read_rows(task, "train2") if row["id"] in bought]
    p_yes = known_labels(task, rows)[:, 1].round()         # nan, gone, is equal to nothing
    return [row["id"] for row, p in zip(rows, p_yes) if p != bought[row["id"]]]


def is_corrected(folder, task):
    """Was a true label that the finished run in a folder has bought changed since? One line says so"""
    bought = {}
    with contextlib.suppress(*DAMAGE), open_file(os.path.join(folder, "results.json")) as f:
        results = json.load(f)
        bought = dict(zip(results["truth_ids"], results["truth_labels"]))
    changed = changed_labels(task, bought)
    if changed:
        print(f"note: the true label of {changed[0]} was changed since the run of {os.path.relpath(folder)}")
    return bool(changed)


# --------------------------------------------------------------------------- files

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
            remove_any(os.path.join(folder, "task.json"))
        yield


def write_splits(folder, splits):
    """
    {split: rows} -> <split>.jsonl and truth/labels.jsonl. The labels of train2 and valid are written to
    truth/labels.jsonl alone, so that a student cannot see them by accident. The label of a row may be None: unknown.

    returns   {split: {"rows": ..., "groups": ..., "share_yes": ...}}; "labelled" counts the known labels, if any lack
    """
    counts = {}
    for split, rows in splits.items():
        n_groups = len({row["group"] for row in rows})
        labels = [row["label"] for row in rows if row["label"] is not None]
        share_yes = sum(labels) / len(labels) if labels else None
        counts[split] = {"rows": len(rows), "groups": n_groups, "share_yes": share_yes}
        line = f"{split:7s} {len(rows):6,} rows of {n_groups:6,} groups"
        if len(labels) < len(rows):
            counts[split]["labelled"] = len(labels)
            line += f", {len(labels):,} with a true label"
        if split in ("train2", "valid"):
            rows = without_labels(rows)
        write_jsonl(os.path.join(folder, split + ".jsonl"), rows)
        print(line + (f", {share_yes:.1%} yes" if labels else ""))
    truth = []
    for row in [*splits["train2"], *splits["valid"]]:
        if row["label"] is not None:
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
