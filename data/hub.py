"""
Public datasets become tasks: what data/{sciq,boolq,cosmos_qa,amazon_polarity,anthropic_hh}/prepare.py share, taught once.

    raw     what the hub holds, one dict a line: read by `datasets` at one commit, or --from-file, from a file or folder in the hub's format
    rows    {"group", "text", "label", ...}, made by each prepare.py's own rows_of(raw): a text, and the group it must not be parted from
    splits  train1 (the supervisor's), train2 (the student's), valid, test: dealt by the hash of the group
    files   data/<task>/, in the form of contract.py; written by data/own/prepare.py's write_task, task.json last

Five things go wrong silently with public data. Each is a few lines here, and what is left out is counted aloud:
1) The same question, passage or review lies in the official train and test. It stays in test, and goes from train.
2) The same text carries both labels (people disagree): all its copies go. The same text twice with one label: one copy stays.
3) One class is larger, and a model that always says it looks clever. The larger one is cut to the smaller, in each split.
4) A coin or a sample drawn by row order changes when the file is sorted anew. Here every choice is made by a hash of the row's own text.
5) "The dataset" changes on the hub. The commit that was read is recorded in task.json; --revision COMMIT reads it again.

This page has no command line; data/boolq/prepare.py is the shortest that has one. Left out, on purpose: other languages, more than two
classes, and streaming (amazon_polarity is downloaded whole, 1.1 GB, and read in some minutes).
"""
import argparse, glob, gzip, hashlib, heapq, json, os, re, sys
from collections import Counter

DATA = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(DATA))
from contract import fail, fingerprint, is_text, number
from own.prepare import normal, read_label, read_table, split_of, unit, write_task

ENDINGS = (".json", ".jsonl", ".jsonl.gz", ".csv", ".parquet")


# --------------------------------------------------------------------------- rows and splits

def short(text):
    """
    A name for a text: twelve hex digits that tell neither its label nor its place in the source.

    >>> short("Is gold heavy?") == short("is  gold heavy?")
    True
    """
    return hashlib.sha256(normal(text).encode()).hexdigest()[:12]


def coin(key):
    """0 or 1, by a hash of the text: the same for a row wherever it stands (openai/weak-to-strong draws in the order of the rows)."""
    return int(unit("coin " + normal(key)) < 0.5)


def choose(key, options):
    """One of the options, by a hash of the text."""
    return options[int(unit("choose " + normal(key)) * len(options))]


def named(task, split, row):
    """
    A row as it will stand in the file. `key`, if rows_of gave one, is what the id is made of instead of the text: rows with another prompt
    (sciq --with-support) then have the same ids, and a supervisor who reads the one can teach a student who reads the other.
    """
    more = {k: v for k, v in row.items() if k not in ("key", "group", "text", "label")}
    name = f"{task}-{split}-{short(row.get('key', row['text']))}"
    return {"id": name, "group": short(row["group"]), "text": row["text"], "label": row["label"], **more}


def by_hash(row):
    """The order in which rows are taken, when not all are: by the hash of their group, so that a group stays together."""
    return unit("pick " + normal(row["group"])), row["text"]


def unique(rows):
    """
    Texts that are the same but for case and spacing: one copy stays if their labels agree, none if not.

    rows of any order -> (rows kept, how many doubles, how many contradictory)
    """
    labels, kept, seen = {}, [], set()
    for row in rows:
        labels.setdefault(normal(row["text"]), set()).add(row["label"])
    for row in sorted(rows, key=by_hash):
        key = normal(row["text"])
        if len(labels[key]) == 1 and key not in seen:
            kept.append(row)
        seen.add(key)
    contradictory = sum(len(labels[normal(row["text"])]) == 2 for row in rows)
    return kept, len(rows) - contradictory - len(kept), contradictory


def balance(rows, size):
    """
    As many yes as no, at most `size` in all; rows of the larger class that are too many go by the hash of their group.

    [yes, yes, yes, no], size 10   ->   one yes and the no
    """
    sides = [[row for row in rows if row["label"] == label] for label in (0, 1)]
    k = min(size // 2, *map(len, sides))
    return [row for side in sides for row in sorted(side, key=by_hash)[:k]]


def deal(pools, sizes):
    """
    Official splits -> the four splits of a task: unique, disjoint by group, balanced, of at most these sizes.

    pools    {"train": rows, "test": rows}: train becomes train1, train2 and valid, in the proportions of their sizes; test stays test
             or {"all": rows}: one file; 35 % of the groups go to train1, 35 to train2, 10 to valid, 20 to test
    sizes    {"train1": 10000, "train2": 10000, "valid": 2000, "test": 10000}
    returns  (splits, {reason: how many rows were left out})
    """
    left, splits, tested = Counter(), {name: [] for name in sizes}, set()
    for pool in sorted(pools, key=lambda name: name != "test"):                # test first: what is in it goes from train
        for row in candidates(pools[pool], 4 * sum(sizes.values()), left):
            group = short(row["group"])
            if pool == "train" and group in tested:
                left["of train whose group is in test"] += 1
            else:
                splits["test" if pool == "test" else part_of_train(group, sizes) if pool == "train" else split_of(group)].append(row)
        tested.update(short(row["group"]) for row in splits["test"])
    for name, rows in splits.items():
        splits[name] = balance(rows, sizes[name])
        even = 2 * min(sum(row["label"] == label for row in rows) for label in (0, 1))
        left["for balance"] += len(rows) - even
        left["beyond the size asked for"] += even - len(splits[name])
    return splits, {reason: n for reason, n in left.items() if n}


def candidates(rows, most, left):
    """
    The rows worth looking at: with text, in the order of their groups' hash, `most` of them (four times what is asked for: a reserve for
    doubles and balance), unique. Any order of the source gives the same, and millions of reviews need not fit into memory.
    """
    def usable():
        for row in rows:
            good = is_text(row["text"]) and is_text(row["group"])
            left["beyond the size asked for" if good else "without text"] += 1
            if good:
                yield row

    chosen = heapq.nsmallest(most, usable(), key=by_hash)
    left["beyond the size asked for"] -= len(chosen)
    chosen, doubles, contradictory = unique(chosen)
    left["doubles"] += doubles
    left["texts with both labels"] += contradictory
    return chosen


def part_of_train(group, sizes):
    """
    train1, train2 or valid, by the group's hash and in the proportions of their sizes.

    >>> [part_of_train(group, {"train1": 10, "train2": 10, "valid": 1, "test": 9}) for group in "abcdef"]
    ['train1', 'train2', 'train2', 'valid', 'train1', 'train2']
    """
    parts = [name for name in sizes if name != "test"]
    u = unit("split " + group) * sum(sizes[name] for name in parts)
    for name in parts:
        u -= sizes[name]
        if u < 0:
            return name


# --------------------------------------------------------------------------- raw rows

def read_file(path):
    """A file in one of the hub's formats -> its rows, one dict after the other"""
    if path.endswith(".parquet"):
        try:
            import pyarrow.parquet
            for batch in pyarrow.parquet.ParquetFile(path).iter_batches():     # some hold a million reviews
                yield from batch.to_pylist()
        except (OSError, ValueError) as error:
            fail(f"cannot read {path}: {str(error).splitlines()[0]}")
    elif path.endswith((".json", ".jsonl.gz")):
        try:
            with (gzip.open if path.endswith(".gz") else open)(path, "rt", encoding="utf-8-sig") as f:
                rows = json.load(f) if path.endswith(".json") else [json.loads(line) for line in f if line.strip()]
        except (OSError, ValueError, EOFError, RecursionError) as error:
            fail(f"cannot read {path}: {str(error).splitlines()[0]}")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            fail(f"{path}: not a list of {{...}} objects")
        yield from rows
    else:
        yield from (row for _, row in read_table(path))


def find_files(path, splits):
    """A file -> {"all": [file]}; a folder -> {split: [files]}: a split's files are called train-00000-of-00001.parquet or train/0000.parquet"""
    if os.path.isfile(path):
        if not path.endswith(ENDINGS):
            fail(f"--from-file {path}: the ending must be one of {' '.join(ENDINGS)}")
        return {"all": [path]}
    if not os.path.isdir(path):
        fail(f"--from-file {path}: no such file or folder")
    names = sorted(n for n in glob.glob(os.path.join(path, "**"), recursive=True) if n.endswith(ENDINGS))
    found = {split: [n for n in names if re.match(split + r"[-_.]", os.path.basename(n)) or os.path.basename(os.path.dirname(n)) == split]
             for split in splits}
    for split, files in found.items():
        if not files:
            fail(f"--from-file {path}: no file called {split}-....parquet, {split}.json or the like in this folder")
    return found


def open_hub(repo, revision, splits, advice):
    """
    -> ({official split: its rows}, the commit they were read from)

    The revision, perhaps a moving one such as main, is first resolved to a commit, and the dataset is then asked for by that commit, so
    that what is recorded is what was read. On any failure: one line that says what to fetch, and where to put it.
    """
    try:
        import datasets, huggingface_hub
        commit = huggingface_hub.HfApi().dataset_info(repo, revision=revision).sha
        builder = datasets.load_dataset_builder(repo, revision=commit)
        if builder.hash != commit:                         # `datasets` falls back on whatever its cache holds
            raise RuntimeError(f"got {builder.hash} from the cache instead")
        builder.download_and_prepare()
        return {split: builder.as_dataset(split=split) for split in splits}, commit
    except Exception as error:                             # no network, no such revision, a script, a full disk: the way out is the same
        reason = (str(error).strip().splitlines() or [""])[0][:80]
        fail(f"cannot read {repo} at {revision} from the hub ({type(error).__name__}: {reason}). {advice}")


def convert(raw, rows_of, where):
    """rows_of over raw rows, one after the other; a row that lacks a column is named"""
    for n, item in enumerate(raw, 1):
        try:
            rows = rows_of(item)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            fail(f"{where}, row {n}: not in the hub's format ({type(error).__name__}: {error}); its columns are {', '.join(map(str, item))}")
        yield from rows


def yes_or_no(value):
    """True, 1, "true" (csv files know strings only) -> 1; False, 0, "no" -> 0; anything else is an error"""
    if read_label(value) is None:
        raise ValueError(f"label {str(value)[:40]!r} is none of 0/1, true/false")
    return read_label(value)


# --------------------------------------------------------------------------- the story

def arguments(doc, task, revision="main", sizes=None):
    """The flags that these scripts spell alike."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from-file", default="", help="a file or folder in the hub's raw format, for machines without a hub")
    parser.add_argument("--revision", default=revision, help=f"commit, branch or tag of the dataset on the hub (default: {revision})")
    parser.add_argument("--task", default=task, help=f"folder under data/ to write to (default: {task})")
    parser.add_argument("--force", action="store_true", help="do it again though it is done")
    if sizes:
        parser.add_argument("--rows", type=number(int, 4, 10 ** 7), default=20_000, help="at most so many in train1 and train2 together")
        parser.add_argument("--test-rows", type=number(int, 2, 10 ** 7), default=10_000, help="at most so many in test")
    return parser


def ours_alone(parser, args):
    """Rows of our own are what they are: flags that change what is read from a public set are refused, not ignored."""
    for key in ("task", "revision", "rows", "test_rows"):
        if getattr(args, key) != parser.get_default(key):
            fail(f"--{key.replace('_', '-')} is for a public set: give --from-file FILE with it" + (", or --hub" if "hub" in vars(args) else ""))


def prepare(args, task, repo, official, rows_of, split=None):
    """
    What a prepare.py does once its flags are read. -> nothing; writes data/<task>/

    official   the hub's splits, {"train": "train", "test": "validation"}: ours -> theirs
    rows_of    raw row -> list of rows
    split      {"train": rows, "test": rows} or {"all": rows} -> (splits, left out); by default deal, by --rows and --test-rows
    """
    folder = os.path.join(DATA, args.task)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", args.task) or args.task != task and os.path.exists(os.path.join(folder, "prepare.py")):
        fail(f"--task {args.task!r}: letters, digits, '-' and '_' only, and not the name of another task of this repository")
    files = find_files(args.from_file, official.values()) if args.from_file else {}
    source = {"dataset": repo, "revision": args.revision} if not files else {
        "dataset": repo, "files": {os.path.relpath(n, os.path.dirname(args.from_file.rstrip(os.sep)) or "."): fingerprint(n)
                                   for names in files.values() for n in names}}
    flags = {k: v for k, v in vars(args).items() if k not in ("force", "from_file", "revision")}
    if not args.force and done(folder, source, flags):
        return print(f"already done: {os.path.relpath(os.path.join(folder, 'task.json'))} (--force does it again)")

    if files:
        ours = {theirs: name for name, theirs in official.items()}
        pools = {ours.get(pool, pool): (row for n in names for row in convert(read_file(n), rows_of, n)) for pool, names in files.items()}
    else:
        raw, source["commit"] = open_hub(repo, args.revision, official.values(), (
            f"Where there is a network:  hf download {repo} --repo-type dataset --revision {args.revision} --local-dir {task}-raw  then bring "
            f"the folder {task}-raw here:  python data/{task}/prepare.py --from-file {task}-raw"))
        print(f"{repo}, commit {source['commit']}")
        pools = {name: convert(raw[theirs], rows_of, f"{repo}, {theirs}") for name, theirs in official.items()}
    splits, left = split(pools) if split else deal(pools, {"train1": args.rows // 2, "train2": args.rows // 2, "valid": max(2, args.rows // 10),
                                                           "test": args.test_rows})
    for name, rows in splits.items():
        if len({row["label"] for row in rows}) < 2:
            fail(f"no {name} rows of both labels: more raw rows are needed than {args.from_file or repo} has")
        splits[name] = sorted((named(task, name, row) for row in rows), key=lambda row: unit("order " + row["id"]))
    write_task(folder, args.task, splits, source, flags=flags, left_out=left)
    print(f"left out: {', '.join(f'{n:,} {reason}' for reason, n in left.items()) or 'nothing'}\nwrote {os.path.relpath(folder)}")


def done(folder, source, flags):
    """Was this made before, from the same source with the same flags, and are all its files as they were written?"""
    try:
        with open(os.path.join(folder, "task.json"), encoding="utf-8") as f:
            spec = json.load(f)
        same = {k: v for k, v in spec["source"].items() if k != "commit"} == source and spec["flags"] == flags
        return same and all(fingerprint(os.path.join(folder, name)) == was for name, was in spec["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
