"""
Public datasets become tasks: what data/{sciq,boolq,cosmos_qa,amazon_polarity,anthropic_hh}/prepare.py share.

    raw     one dict a row, as the hub has it: read by `datasets` at one commit, or with --from-file from files
    rows    {"group", "text", "label", ...}, made by rows_of(raw) of each prepare.py; a group stays in one split
    splits  train1 (the supervisor's), train2 (the student's), valid and test, chosen by the hash of the group
    files   data/<task>/ in the form of contract.py, written by data/tasks.py

Five things go wrong silently with public data. Each takes a few lines here. Rows that are left out are counted and
printed.
1) The same question, passage or review is in the official train and test splits. It stays in test, not in train.
2) The same text has both labels, because people disagree. All its copies are left out. A text that occurs twice with
   one label is kept once.
3) One class is larger, so that a constant answer scores above 0.5. The larger class is cut to the size of the smaller
   one, in each split.
4) A coin flip or a sample that is drawn in the order of rows changes when the file is sorted. Here a hash of the
   row's text decides.
5) A dataset changes on the hub. task.json records the commit that was read, and --revision COMMIT reads it again.

This page has no command line. The shortest script that uses it is data/boolq/prepare.py. Left out on purpose: other
languages, more than two classes, and streaming (amazon_polarity is downloaded whole, 1.1 GB, and read in minutes).

Needs  contract.py, data/tasks.py
"""
import argparse
import glob
import heapq
import json
import os
import re
from collections import Counter

from contract import DAMAGE, fail, fingerprint, import_hub, is_text, number, open_file, show_row, task_name, text_keys
from tasks import (
    DATA, ENDINGS, PLAIN_NAME, hash_fraction, normalize, open_task, read_table, row_id, short_hash, split_of_group,
    write_task)

# --------------------------------------------------------------------------- rows and splits

def coin(key):
    """0 or 1 by the hash of a text. It does not depend on the order of rows, as openai/weak-to-strong's draw does."""
    return int(hash_fraction("coin " + normalize(key)) < 0.5)


def choose(key, options):
    """One of the options, by the hash of a text."""
    return options[int(hash_fraction("choose " + normalize(key)) * len(options))]


def file_row(task, split, row):
    """A row of rows_of -> the row as it is written: with an id, and a hash for its group."""
    more = {k: v for k, v in row.items() if k not in ("key", "group", "label", *text_keys([row]))}
    texts = {key: row[key] for key in text_keys([row])}
    return {"id": row_id(task, split, row), "group": short_hash(row["group"]), **texts, "label": row["label"], **more}


def hash_order(row):
    """Sort key for taking some of many rows: by the hash of the group, so that a group stays together."""
    return hash_fraction("pick " + normalize(row["group"])), show_row(row)


def drop_duplicates(rows):
    """
    Of texts that differ in case and spacing alone, one copy is kept if their labels agree, and none if they do not.

    rows in any order -> (rows kept, number of duplicates, number of contradictory rows)
    """
    labels = {}
    for row in rows:
        labels.setdefault(normalize(show_row(row)), set()).add(row["label"])
    kept = []
    seen = set()
    for row in sorted(rows, key=hash_order):
        key = normalize(show_row(row))
        if len(labels[key]) == 1 and key not in seen:
            kept.append(row)
        seen.add(key)
    contradictory = sum(len(labels[normalize(show_row(row))]) == 2 for row in rows)
    return kept, len(rows) - contradictory - len(kept), contradictory


def balance(rows, size):
    """
    As many yes as no, at most `size` in all. Of the larger class the first rows in hash order are kept.

    [yes, yes, yes, no], size 10   ->   one yes and the no
    """
    sides = [[row for row in rows if row["label"] == label] for label in (0, 1)]
    k = min(size // 2, *map(len, sides))
    return [row for side in sides for row in sorted(side, key=hash_order)[:k]]


def part_of_train(group, sizes):
    """
    train1, train2 or valid, by the group's hash and in the proportions of their sizes.

    >>> [part_of_train(group, {"train1": 10, "train2": 10, "valid": 1, "test": 9}) for group in "abcdef"]
    ['train1', 'train2', 'train2', 'valid', 'train1', 'train2']
    """
    parts = [name for name in sizes if name != "test"]
    u = hash_fraction("split " + group) * sum(sizes[name] for name in parts)
    for name in parts:
        u -= sizes[name]
        if u < 0:
            return name
    return parts[-1]


def candidates(rows, most, left_out):
    """
    The first `most` rows in hash order that have a text and a group, without duplicates. split_rows asks for four times
    what it needs, a reserve for duplicates and balance. Every order of the source gives the same rows, and millions of
    reviews need not fit into memory.
    """
    def usable():
        for row in rows:
            good = all(is_text(row[key]) for key in ("group", *text_keys([row])))
            left_out["beyond the size asked for" if good else "without text"] += 1
            if good:
                yield row

    chosen = heapq.nsmallest(most, usable(), key=hash_order)
    left_out["beyond the size asked for"] -= len(chosen)
    chosen, doubles, contradictory = drop_duplicates(chosen)
    left_out["doubles"] += doubles
    left_out["texts with both labels"] += contradictory
    return chosen


def split_rows(pools, sizes):
    """
    Official splits -> the four splits of a task: no duplicates, disjoint by group, balanced, of at most these sizes.

    pools    {"train": rows, "test": rows}: train is split into train1, train2 and valid in proportion to their sizes,
             and test stays test; or {"all": rows}: one file, split by split_of_group
    sizes    {"train1": 10000, "train2": 10000, "valid": 2000, "test": 10000}
    returns  (splits, {reason: number of rows left out})
    """
    left_out = Counter()
    splits = {name: [] for name in sizes}
    test_groups = set()
    for pool in sorted(pools, key=lambda name: name != "test"):      # test first: its groups are left out of train
        for row in candidates(pools[pool], 4 * sum(sizes.values()), left_out):
            group = short_hash(row["group"])
            if pool == "train" and group in test_groups:
                left_out["of train whose group is in test"] += 1
            elif pool == "train":
                splits[part_of_train(group, sizes)].append(row)
            else:
                splits["test" if pool == "test" else split_of_group(group)].append(row)
        test_groups.update(short_hash(row["group"]) for row in splits["test"])
    for name, rows in splits.items():
        splits[name] = balance(rows, sizes[name])
        even = 2 * min(sum(row["label"] == label for row in rows) for label in (0, 1))
        left_out["for balance"] += len(rows) - even
        left_out["beyond the size asked for"] += even - len(splits[name])
    return splits, {reason: n for reason, n in left_out.items() if n}


# --------------------------------------------------------------------------- raw rows

def find_files(path, splits):
    """
    A file -> {"all": [file]}; a folder -> {split: [files]}. The files of a split have names such as train.jsonl,
    train-00000-of-00001.parquet or train/0000.parquet.
    """
    if os.path.isfile(path):
        if not path.lower().endswith(ENDINGS):
            fail(f"--from-file {path}: the ending must be one of {' '.join(ENDINGS)}")
        return {"all": [path]}
    if not os.path.isdir(path):
        fail(f"--from-file {path}: no such file or folder")
    names = sorted(n for n in glob.glob(os.path.join(path, "**"), recursive=True) if n.lower().endswith(ENDINGS))
    found = {}
    for split in splits:
        found[split] = [name for name in names if re.match(split + r"[-_.]", os.path.basename(name))
                        or os.path.basename(os.path.dirname(name)) == split]
        if not found[split]:
            fail(f"--from-file {path}: no file called {split}-....parquet, {split}.json or the like in this folder")
    return found


def fail_without_hub(what, repo, revision, error, advice):
    """No network, no such revision, a full disk: in each case one line says what to fetch and where to put it."""
    reason = (str(error).strip().splitlines() or [""])[0][:80]
    fail(f"cannot read {what} at {revision} from the hub ({type(error).__name__}: {reason}). "
         f"On a machine with a network:  hf download {repo} --repo-type dataset --revision {revision} {advice}")


def find_commit(repo, revision):
    """
    The commit that a dataset's revision means now on the hub. None if the hub cannot be asked (HF_HUB_OFFLINE=1). A
    revision that the hub does not have is an error.
    """
    hub = import_hub()
    from huggingface_hub.errors import RevisionNotFoundError
    try:
        return hub.HfApi().dataset_info(repo, revision=revision, timeout=10).sha
    except RevisionNotFoundError:
        raise
    except Exception:                                      # whatever else a network makes it raise
        return None


def open_hub(repo, revision, splits, advice):
    """
    A dataset of the hub -> ({official split: rows}, the commit that they were read from)

    The revision may move (main does). So it is first resolved to a commit, and the dataset is loaded by that commit:
    the commit that is recorded is the one that was read. Without the hub it is the last one in the cache.
    """
    try:
        commit = find_commit(repo, revision)               # imports huggingface_hub before `datasets` does
        import datasets
        builder = datasets.load_dataset_builder(repo, revision=commit or revision)
        if commit is None and not re.fullmatch("[0-9a-f]{40}", revision):
            print(f"note: the hub was not asked what {revision} is now; {repo} is read from the cache")
        elif builder.hash != (commit or revision):         # `datasets` falls back on whatever its cache holds
            raise RuntimeError(f"got {builder.hash} from the cache instead")
        builder.download_and_prepare()
        return {split: builder.as_dataset(split=split) for split in splits}, builder.hash
    except Exception as error:
        fail_without_hub(repo, repo, revision, error, advice)


def download_file(repo, name, revision):
    """
    One file of a dataset on the hub -> (its path on this machine, the commit that it was read from). Without the hub
    it is the last one in the cache.
    """
    try:
        hub = import_hub()
        commit = find_commit(repo, revision)
        if commit:
            return hub.hf_hub_download(repo, name, repo_type="dataset", revision=commit), commit
        snapshots = os.path.join(hub.constants.HF_HUB_CACHE, "datasets--" + repo.replace("/", "--"), "snapshots")
        which = revision if re.fullmatch("[0-9a-f]{40}", revision) else "*"
        path = max(glob.glob(os.path.join(snapshots, which, name)), key=os.path.getmtime)      # ValueError: none
        if which == "*":
            print(f"note: the hub was not asked what {revision} is now; {repo} is read from the cache")
        return path, os.path.relpath(path, snapshots).split(os.sep)[0]
    except Exception as error:
        fail_without_hub(f"{name} of {repo}", repo, revision, error,
                         f"--include {name} --local-dir raw  then give --from-file raw/{name}")


def convert(raw, rows_of, where):
    """Apply rows_of to raw rows, one after the other. A raw row that lacks a column is named."""
    for n, item in enumerate(raw, 1):
        try:
            rows = rows_of(item)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            fail(f"{where}, row {n}: not in the hub's format ({type(error).__name__}: {error}); "
                 f"its columns are {', '.join(map(str, item))}")
        yield from rows


# --------------------------------------------------------------------------- flags, and the steps of a public dataset

def is_prepared(folder, source, flags):
    """Was this task made before, from the same source with the same flags, and are all its files unchanged?"""
    try:
        with open_file(os.path.join(folder, "task.json")) as f:
            spec = json.load(f)
        same = {k: v for k, v in spec["source"].items() if k != "commit"} == source and spec["flags"] == flags
        return same and all(fingerprint(os.path.join(folder, name)) == was for name, was in spec["files"].items())
    except DAMAGE:
        return False


def build_parser(doc, task, revision="main", sizes=False):
    """The flags that these scripts spell alike. sizes: with --rows and --test-rows"""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from-file", default="", help="a file or folder in the hub's raw format: needs no hub")
    parser.add_argument("--revision", default=revision, help=f"commit, branch or tag on the hub (default: {revision})")
    parser.add_argument("--task", type=task_name, default=task, help=f"folder of data/ to write to (default: {task})")
    parser.add_argument("--force", action="store_true", help="repeat it though it is done")
    if sizes:
        parser.add_argument("--rows", type=number(int, 4, 10 ** 7), default=20_000,
                            help="at most so many in train1 and train2 together")
        parser.add_argument("--test-rows", type=number(int, 2, 10 ** 7), default=10_000, help="at most so many in test")
    return parser


def refuse_public_flags(parser, args):
    """For rows made from tinyworld's tables: flags that select rows of a public set are refused, not ignored."""
    for key in ("task", "revision", "rows", "test_rows"):
        if getattr(args, key) != parser.get_default(key):
            hub = ", or --hub" if "hub" in vars(args) else ""
            fail(f"--{key.replace('_', '-')} is for a public set: give --from-file FILE with it{hub}")


def check_task(name, script_task):
    """--task: a plain name, and of the tasks of this repository only the script's own."""
    taken = name != script_task and os.path.exists(os.path.join(DATA, name, "prepare.py"))
    if not re.fullmatch(PLAIN_NAME, name) or taken:
        fail(f"--task {name!r}: letters, digits, '-' and '_' only, and not the name of another task of this repository")


def pools_of_files(files, official, rows_of):
    """{official split or "all": [files]} -> {our split or "all": rows}; `official` maps ours to theirs"""
    def rows_in(names):
        for name in names:
            yield from convert((row for _, row in read_table(name)), rows_of, name)

    ours = {theirs: name for name, theirs in official.items()}
    return {ours.get(pool, pool): rows_in(names) for pool, names in files.items()}


def describe_source(repo, revision, path, splits):
    """-> (files to read, {} for the hub; what task.json records: the revision, or the files' fingerprints)"""
    if not path:
        return {}, {"dataset": repo, "revision": revision}
    files = find_files(path, splits)
    home = os.path.dirname(path.rstrip(os.sep)) or "."
    names = [name for split_files in files.values() for name in split_files]
    return files, {"dataset": repo, "files": {os.path.relpath(name, home): fingerprint(name) for name in names}}


def prepare(args, task, repo, official, rows_of, split=None, hide=None, path=None):
    """
    Make data/<args.task>/ from a public dataset: read, convert, split, name, write.

    task       the task of the calling script; ids begin with it
    official   the hub's splits, {"train": "train", "test": "validation"}: ours -> theirs
    rows_of    raw row -> list of rows
    split      pools -> (splits, left out); by default split_rows with the sizes of --rows and --test-rows
    hide       splits -> (splits, {file name: rows}): moves what a student must not see to files of truth/
    path       file or folder to read in place of the hub (default: --from-file)
    """
    path = path or args.from_file
    check_task(args.task, task)
    folder = os.path.join(DATA, args.task)
    files, source = describe_source(repo, args.revision, path, official.values())
    flags = {k: v for k, v in vars(args).items() if k not in ("force", "from_file", "revision")}
    if not args.force and is_prepared(folder, source, flags):
        print(f"already done: {os.path.relpath(os.path.join(folder, 'task.json'))} (--force repeats it)")
        return

    if files:
        pools = pools_of_files(files, official, rows_of)
    else:
        advice = (f"--local-dir {task}-raw  then bring the folder {task}-raw here:  "
                  f"python data/{task}/prepare.py --from-file {task}-raw")
        raw, source["commit"] = open_hub(repo, args.revision, official.values(), advice)
        print(f"{repo}, commit {source['commit']}")
        pools = {name: convert(raw[theirs], rows_of, f"{repo}, {theirs}") for name, theirs in official.items()}

    if split is None:
        half = args.rows // 2
        sizes = {"train1": half, "train2": half, "valid": max(2, args.rows // 10), "test": args.test_rows}
        splits, left_out = split_rows(pools, sizes)
    else:
        splits, left_out = split(pools)
    splits, truth = hide(splits) if hide else (splits, {})
    for name, rows in splits.items():
        if len({row["label"] for row in rows}) < 2:
            fail(f"no {name} rows of both labels: more raw rows are needed than {path or repo} has")
        rows = [file_row(task, name, row) for row in rows]
        splits[name] = sorted(rows, key=lambda row: hash_fraction("order " + row["id"]))

    with open_task(folder):
        print("left out: " + (", ".join(f"{n:,} {reason}" for reason, n in left_out.items()) or "nothing"))
        write_task(folder, args.task, splits, source, truth, flags=flags, left_out=left_out)
