"""
What the stages agree on: rows, labels joined by id, and the folder of a run.

Every stage is a script of its own. Stages exchange plain files under data/:

    data/<task>/{train1,train2,valid,test}.jsonl   rows {"id", "group", "text"}, and "label" in train1 and test only;
                                                   or pairs {"id", "group", "text_a", "text_b"}, label 1: b is better
    data/<task>/truth/labels.jsonl                 the true labels of train2 and valid, a label file like any other
    data/<task>/true-labels.csv                    rows whose true labels a run asks people for (data/tasks.py)
    data/<task>/seed<seed>/<run>/labels.jsonl      {"id", "soft_label": [p_no, p_yes]} for train2, valid and test
                                 checkpoint/       its model, an ordinary transformers folder
                                 config.json       its flags, and fingerprints of its code and of all files that it read
                                 results.json      its scores. It is written last: if it exists, the run is complete

Three rules keep weak-to-strong experiments honest, and each takes a few lines here:
1) Labels are joined by id, never by row order. A shuffled file would train without an error, and teach noise.
2) A question (group) stays on one side of every split, and the student's rows carry no truth.
3) A run counts as finished if its results.json holds the same flags, code, inputs and outputs. Any difference repeats
   the run, and one line says which. Files are written beside their place and renamed, so a kill leaves a whole file or
   none. An input that is replaced while a run reads it ends the run.

A user's mistake ends in one line that says where it is and what to do, with exit code 2 (above a wrong flag's line,
argparse prints the usage). So do a full disk, a folder without write permission, a second run in a folder where one is
still writing, and an --out that holds anything but a run. Files may come from anybody: what is printed of them is plain
text (plain, escape_markdown), and a pipe or a link in a file's place is refused.

Needs   nothing else of this project: numpy, and transformers' models only to save them
"""
import argparse
import ast
import contextlib
import functools
import glob
import hashlib
import io
import json
import os
import re
import shlex
import shutil
import stat
import sys
import tempfile
import textwrap
import time

import numpy as np

ROOT = os.path.dirname(os.path.abspath(__file__))
WRITTEN = []                         # paths that this process has written, for the line that Ctrl-C prints
LAUNCHED = False                     # True in processes that distributed.py started
LOADED = {}                          # fingerprints of the code that this process runs: {file: 16 hex digits}
LABEL_WORDS = [" no", " yes"]
SPLITS = ("train1", "train2", "valid", "test")
READ = {}                            # {path: fingerprints of all that was read from it} since this run began
RUN_OUTPUTS = ("labels.jsonl", "checkpoint")
UNFINISHED = "unfinished.tmp"        # a run's folder has this file until the run is complete
# what it raises to read a JSON file that was edited or damaged, and to look for what a run writes there
DAMAGE = (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError)
# control characters could colour a terminal, overwrite its lines or reverse its text; they are shown as \x1b, ...
CONTROLS = {k: f"\\x{k:02x}" for k in [*range(32), *range(127, 160)] if chr(k) not in "\n\t"}
CONTROLS |= {k: f"\\u{k:04x}" for k in [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]}


def plain(text):
    """
    A text that does nothing to a terminal but stand there.

    >>> print(plain(chr(27) + "[31mred"))
    \\x1b[31mred
    """
    return str(text).translate(CONTROLS)


def escape_markdown(text):
    """
    A text that comes from a file, for a cell or line of a Markdown page: it stays text, whatever it holds.

    >>> escape_markdown("a|b <script> ![x](http://y)")
    'a\\\\|b &lt;script&gt; !\\\\[x\\\\](http://y)'
    """
    text = " ".join(plain(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([|`*\[\]])", r"\\\1", text)


def table_lines(columns, rows):
    """Titles and rows of texts -> the lines of a Markdown table"""
    lines = ["| " + " | ".join(cells) + " |" for cells in (columns, *rows)]
    return [lines[0], "|---" * len(columns) + "|", *lines[1:]]


def fail(message):
    """Print one line that says what is wrong and what to do next, and exit with code 2. Long quotes are cut."""
    READ.clear()
    message = plain(" ".join(str(message).split()))
    print("error: " + (message if len(message) < 1000 else f"{message[:700]} ... {message[-200:]}"), file=sys.stderr)
    raise SystemExit(2)


# --------------------------------------------------------------------------- rows and labels

def unique_keys(pairs):
    """An object_pairs_hook for json: of two values with one key, neither is taken silently."""
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice in one object")
    return value


def parse_json(text):
    """JSON of any kind -> its value. Raises ValueError; also for double keys, and for halves of an emoji."""
    value = json.loads(text, object_pairs_hook=unique_keys)
    may_have_half = re.search(r"\\u[dD][89a-fA-F]", text)
    if may_have_half and (half := re.search("[\ud800-\udfff]", json.dumps(value, ensure_ascii=False))):
        raise ValueError(f"{half[0]!r} is half a character (a lone surrogate)")
    return value


def parse_json_object(text):
    """One JSON object -> dict. Raises ValueError for anything else."""
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError("not a {...} object")
    return value


@contextlib.contextmanager
def reporting_read_errors(path):
    """An unreadable file ends in one line."""
    try:
        yield
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror or error}. Run the command that makes it first")


def open_file(path):
    """
    Open an ordinary file to read its bytes. Raises OSError for whatever else has its name: a folder, a pipe (reading
    would wait for ever), a device, a link that leads nowhere.
    """
    if not stat.S_ISREG(os.stat(path).st_mode) and not os.path.isdir(path):
        raise OSError(0, "it is no ordinary file", path)
    return open(path, "rb")                                # of a folder: IsADirectoryError


def read_bytes(path):
    """What a file holds. Its fingerprint is noted, so that a run records what it has read, and not what came after."""
    with reporting_read_errors(path), open_file(path) as f:
        data = f.read()
    READ.setdefault(os.path.realpath(path), set()).add(hashlib.sha256(without_words(path, data)).hexdigest()[:16])
    return data


def without_words(path, data):
    """
    The bytes of a file, as they count for its fingerprint: those of a task.json as if it had the usual label words. A
    run that depends on others records them by themselves (describe_run), so that no other run becomes stale.
    """
    if os.path.basename(path) != "task.json":
        return data
    try:
        usual = json.dumps({**json.loads(data), "label_words": LABEL_WORDS}).encode()
        return usual + b"\n" * data.endswith(b"\n")
    except (ValueError, TypeError, RecursionError):
        return data


def read_text(path):
    """A text file in UTF-8 -> str"""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fail(f"{path} is not UTF-8 (byte {error.start}). Make the file again")


def read_jsonl(path):
    """A file of JSON lines -> list of dicts. A broken line is an error that names it."""
    rows = []
    for number, line in enumerate(read_bytes(path).split(b"\n"), 1):
        try:
            line = line.decode("utf-8-sig" if number == 1 else "utf-8")
            if line.strip():
                rows.append(parse_json_object(line))
        except (ValueError, RecursionError) as error:
            fail(f"{path}, line {number}: {error}. Make the file again")
    return rows


def read_json(path):
    """A file with one JSON object -> dict; an empty file -> {}."""
    text = read_text(path)
    try:
        return parse_json_object(text) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        fail(f"{path}: {error}. Make the file again")


def is_text(value):
    """A non-empty string that UTF-8 can encode (a lone surrogate, half an emoji, cannot be)."""
    return isinstance(value, str) and bool(value.strip()) and value.encode("utf-8", "ignore").decode() == value


def is_number(value, low, high):
    """A number of low to high; no truth value, no nan."""
    return type(value) in (int, float) and low <= value <= high


def is_optional_field(key, value):
    """Does a row's field have the type that the stages rely on? Rows need none of them."""
    if key in ("question", "answer"):
        return is_text(value)
    if key in ("support", "continuation"):                 # a sentence may be missing: ""
        return isinstance(value, str)
    return key != "choices" or isinstance(value, list) and all(map(is_text, value))


def is_pair(row):
    """Is it a row with two texts, whose label says which of them is better?"""
    return "text_a" in row or "text_b" in row


def text_keys(rows):
    """The keys of the texts of a task's rows"""
    return ("text_a", "text_b") if rows and is_pair(rows[0]) else ("text",)


def show_row(row):
    """A row's text, for a person to read; of a pair both"""
    return " | ".join(row[key] for key in text_keys([row]))


def read_rows(task, split, max_rows=None, may_be_empty=False):
    """
    The rows of one split of data/<task>/, checked: every id once, text everywhere, labels where the split has them
    (train1, test).

    may_be_empty   a table with few true labels or none (data/own/prepare.py) has no train1, valid or test
    returns        list of dicts {"id", "group", "text", ...}, the first `max_rows` of them
    """
    path = os.path.join(ROOT, "data", task, split + ".jsonl")
    if not os.path.exists(path):
        prepare = f"data/{task}/prepare.py"
        if not os.path.exists(os.path.join(ROOT, prepare)):
            prepare = "data/own/prepare.py for rows of your own, or the prepare.py of another task in data/"
        fail(f"no {split} rows at {path}. Make them first:  python {prepare}")
    rows = read_jsonl(path)
    seen = set()
    for number, row in enumerate(rows, 1):
        for key in ("id", "group", *text_keys(rows)):
            if not is_text(row.get(key)):
                fail(f"{path}, line {number}: no {key!r} (a non-empty string of valid Unicode)")
        where = f"{path}, line {number}, id {row['id']!r}"
        for key, value in row.items():
            if not is_optional_field(key, value):
                kind = "a list of texts" if key == "choices" else "a text"
                fail(f"{where}: {key!r} must be {kind}, not {str(value)[:60]!r}")
        if row["id"] in seen:
            fail(f"{where} occurs twice")
        if split in ("train1", "test") and row.get("label") not in (0, 1):
            fail(f"{where}: the label must be 0 or 1, not {row.get('label')!r}")
        seen.add(row["id"])
    if not rows and not may_be_empty:
        fail(f"{path} is empty. Make it again with prepare.py; this step needs rows of your own table with true labels")
    return rows[:max_rows]


def read_also(args):
    """--also TASK: test of another task, without labels; [] without the flag. Rows of another kind end in one line"""
    if not args.also:
        return []
    rows = read_rows(args.also, "test", args.max_rows)
    if args.also == args.task or text_keys(rows) != text_keys(read_rows(args.task, "train2")):
        fail(f"--also {args.also}: give another task than {args.task}, of the same kind (single texts, or pairs)")
    own = {row["id"] for split in SPLITS for row in read_rows(args.task, split, may_be_empty=True)}
    if shared := own & {row["id"] for row in rows}:
        fail(f"--also {args.also}: its test has ids of {args.task} too ({min(shared)!r}); labels are joined by id")
    return without_labels(rows)


def without_labels(rows):
    """The same rows without their "label": what a stage may look at before everything is decided."""
    return [{key: value for key, value in row.items() if key != "label"} for row in rows]


def read_task(task, pairs=False):
    """
    Check a task before any work: all four splits exist, and no group (question) is in two of them. Only ids and groups
    are looked at here; the labels of test are read after training.

    pairs     can this stage read rows of two texts? If not, a task of pairs ends in one line
    returns   (paths that a result depends on, the label words for (no, yes))
    """
    folder = os.path.join(ROOT, "data", task)
    split_of = {}
    rows_of = {split: read_rows(task, split, may_be_empty=split != "train2") for split in SPLITS}
    kinds = {text_keys(rows) for rows in rows_of.values() if rows}
    if len(kinds) > 1:
        fail(f"data/{task}: some splits hold single texts, and others pairs. Make the task again")
    if not pairs and kinds != {("text",)}:
        fail(f"data/{task} holds pairs of texts, and this command judges single texts. Pairs are for train_weak.py, "
             "train_strong.py, ensemble.py (bagging, or --supervisors) and predict.py")
    spec = read_json(os.path.join(folder, "task.json"))
    counts = spec["splits"] if isinstance(spec.get("splits"), dict) else {}
    for split, rows in rows_of.items():
        made = counts[split].get("rows") if isinstance(counts.get(split), dict) else None
        if made and not rows:
            fail(f"data/{task}/{split}.jsonl is empty, and had {made} rows when it was made. Run prepare.py again")
        if made not in (None, len(rows)):
            print(f"note: data/{task}/{split}.jsonl has {len(rows):,} rows, but {made} when it was made (task.json)")
        for row in rows:
            if split_of.setdefault(row["group"], split) != split:
                fail(f"data/{task}: group {row['group']!r} is in {split_of[row['group']]} and in {split}; "
                     "a question must stay in one split. Run prepare.py again")
    words = spec.get("label_words", LABEL_WORDS)
    if not (isinstance(words, list) and len(words) == 2 and all(map(is_text, words))):
        fail(f"data/{task}/task.json: label_words must be two texts, for no and yes, not {words!r}")
    return [os.path.join(folder, name) for name in (*(f"{split}.jsonl" for split in SPLITS), "task.json")], words


def is_soft_label(pair):
    """[p_no, p_yes]: two numbers of 0 to 1 that sum to 1."""
    return (isinstance(pair, list) and len(pair) == 2 and all(is_number(p, 0, 1) for p in pair)
            and abs(sum(pair) - 1) < 0.01)


def read_labels(folder, rows, gaps=False):
    """The soft labels of a supervisor's folder for these rows: read_label_file of its labels.jsonl"""
    path = os.path.join(folder, "labels.jsonl")
    if not os.path.exists(path):
        home, name = os.path.split(os.path.relpath(folder))
        if name == "labels.jsonl":
            fail(f"{os.path.relpath(folder)}: give the folder of this file, {home}")
        fail(f"no labels at {path}. Run the command that makes them first: " + (
            f"python {home}/prepare.py" if name == "truth" else
            f"a supervisor's is  python train_weak.py --out {name}, with the same --task and --seed"))
    return read_label_file(path, rows, gaps)


def read_label_file(path, rows, gaps=False):
    """
    Soft labels for these rows, joined by id.

    labels.jsonl: {"id": "...", "soft_label": [0.38, 0.62]}   ->   (N, 2) float32, in the order of `rows`
    A missing, double or malformed id is an error that names it. With gaps=True a row without a label is nan, nan.
    """
    labels = {}
    for number, row in enumerate(read_jsonl(path), 1):
        name = row.get("id")
        pair = row.get("soft_label")
        where = f"{path}, line {number}, id {name!r}"
        if not isinstance(name, str):
            fail(f"{path}, line {number}: no 'id' (a string)")
        if name in labels:
            fail(f"{where} occurs twice")
        if not is_soft_label(pair):
            fail(f"{where}: soft_label must be [p_no, p_yes], two numbers of 0 to 1 that sum to 1, not "
                 f"{str(pair)[:60]}")
        labels[name] = pair
    missing = [row["id"] for row in rows if row["id"] not in labels]
    if missing and not gaps:
        fail(f"{path} has no label for {len(missing):,} of {len(rows):,} rows, first {missing[0]!r}. "
             "Made from another split or task, or with other --max-rows?")
    nothing = [float("nan")] * 2
    return np.array([labels.get(row["id"], nothing) for row in rows], dtype=np.float32).reshape(-1, 2)


# --------------------------------------------------------------------------- writing

@contextlib.contextmanager
def catch_write_errors(path):
    """A full disk, a missing permission or a taken name ends in one line. Any other error passes."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and "os error" not in str(error):    # as safetensors and tokenizers say it
            raise
        reason = getattr(error, "strerror", None) or error
        fail(f"cannot write to {path}: {reason}. Make room, or choose another place (--out)")


@contextlib.contextmanager
def lock_folder(folder):
    """
    Make a folder and be the only process that writes to it until the end of the block. The kernel drops the lock when
    the process ends, however it ends, so no stale lock has to be removed by hand.
    """
    with catch_write_errors(folder):
        os.makedirs(folder, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()         # a missing permission shows now, not after the training
    try:
        import fcntl
    except ImportError:              # Windows has no such lock
        yield
        return
    with catch_write_errors(folder):
        handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        fail(f"another run is writing to {folder}. Wait until it is done, or choose another --out")
    except OSError:                  # a file system without locks
        pass
    try:
        yield
    finally:
        os.close(handle)


def note_written(path):
    """A file of this process's own is whole; what was read from its predecessor no longer counts."""
    WRITTEN.append(path)
    READ.pop(os.path.realpath(path), None)


def remove_any(path):
    """A file, a link or a folder goes; what a link leads to stays."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.remove(path)


@contextlib.contextmanager
def replacing(path):
    """
    `with replacing(path) as half:` write a file or folder beside its place, and rename it at the end of the block: it
    is there whole, or as it was before. A link in either place is replaced and not followed. Its folder is made.
    """
    half = path + ".tmp"
    with catch_write_errors(path):
        os.makedirs(os.path.dirname(half) or ".", exist_ok=True)
        remove_any(half)
        yield half
        if os.path.isdir(half):
            remove_any(path)
        os.replace(half, path)
    note_written(path)


def write_file(path, text):
    """Write a text file as `replacing` does."""
    with replacing(path) as half, open(half, "x", encoding="utf-8") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())


def write_jsonl(path, rows):
    """Dicts -> JSON lines. The file is there whole, or as it was before."""
    write_file(path, "".join(json.dumps(row) + "\n" for row in rows))


def append_file(path, text):
    """Add whole lines to the end of a file that is read back line by line. A link is not followed."""
    with catch_write_errors(path):
        if os.path.islink(path):
            raise OSError(0, "it is a link")
        with open(path, "a", encoding="utf-8") as f:
            f.write(text)
    note_written(path)


def discard_results(folder):
    """An older run's scores and flags go before its labels or checkpoint are replaced: they would belong to no run."""
    if all(os.path.exists(os.path.join(folder, name)) for name in ("results.json", "config.json")):
        mark_unfinished(folder)
    with catch_write_errors(folder):
        for name in ("results.json", "config.json"):
            remove_any(os.path.join(folder, name))


def write_labels(folder, rows, soft_labels, extra=None):
    """
    rows, (N, 2) float32 -> labels.jsonl. Nine digits hold a float32 exactly.

    extra   {name: N numbers} to stand beside each soft label
    """
    def rounded(x):
        return float(f"{x:.9g}")
    lines = [{"id": row["id"], "soft_label": [rounded(p) for p in pair]}
             for row, pair in zip(rows, soft_labels.tolist())]
    for name, values in (extra or {}).items():
        for line, value in zip(lines, values):
            line[name] = rounded(value)
    discard_results(folder)
    write_jsonl(os.path.join(folder, "labels.jsonl"), lines)


def save_checkpoint(folder, model, tokenizer, weights=None):
    """
    folder/checkpoint/, an ordinary transformers folder of safetensors. It is renamed at the end, so a kill leaves no
    half of one.

    weights   a state dict to save in place of the model's own (distributed.py puts one together)
    """
    for key in ("is_local", "local_files_only"):           # how it was opened: other bytes with HF_HUB_OFFLINE=1
        getattr(tokenizer, "init_kwargs", {}).pop(key, None)
    with replacing(os.path.join(folder, "checkpoint")) as half:
        model.save_pretrained(half, state_dict=weights)
        tokenizer.save_pretrained(half)
        discard_results(folder)


def broadcast_object(value):
    """The first process's value, in every process (distributed.py replaces this). With one process: the value."""
    return value


# --------------------------------------------------------------------------- the folder of a run

def path_name(text):
    """argparse type: a name or path without the slash at its end that a shell's completion adds."""
    return text.rstrip("/" + os.sep) or text


def task_name(text):
    """argparse type: "tinyworld", "tinyworld/" and "data/tinyworld/" all name the folder data/tinyworld."""
    text = path_name(text)
    if os.path.realpath(os.path.dirname(text) or ".") == os.path.realpath(os.path.join(ROOT, "data")):
        return os.path.basename(text)
    return text


def run_folder(name, task, seed):
    """Where a run lies: a bare name means data/<task>/seed<seed>/<name>; a name with a slash inside is a path."""
    name = path_name(name)
    if "/" not in name and os.sep not in name:
        return os.path.join(ROOT, "data", task, f"seed{seed}", name)
    return name


def labels_folder(name, task, seed):
    """Where labels lie: in the folder of a run, or in data/<task>/<name>: an annotator of your own table, the truth."""
    if not name.strip():
        fail("the name of a run or an annotator is empty: is there a comma too many?")
    folder = run_folder(name, task, seed)
    own = os.path.join(ROOT, "data", task, name)
    is_name = folder != path_name(name)
    if is_name and all(os.path.isfile(os.path.join(home, "labels.jsonl")) for home in (folder, own)):
        fail(f"{name!r} is a run and an annotator of your own table: give the path of one, {os.path.relpath(folder)} "
             f"or {os.path.relpath(own)}")
    return own if is_name and not os.path.exists(folder) and os.path.isfile(f"{own}/labels.jsonl") else folder


def may_have_gaps(folder):
    """
    May labels cover a part of the rows? Those of people and of their fusion may, and the truth of a table of your own;
    those that a model wrote are complete, or from other rows.
    """
    if os.path.basename(os.path.realpath(folder)) == "truth":
        spec = os.path.join(folder, os.pardir, "task.json")
        splits = read_json(spec).get("splits") if os.path.exists(spec) else None
        return isinstance(splits, dict) and any("labelled" in str(counts) for counts in splits.values())
    return not os.path.exists(os.path.join(folder, "results.json")) or read_config(folder).get("role") == "fusion"


def read_known(folder, rows):
    """read_labels, with nan for the rows that an annotator did not label; (N, 2)"""
    return read_labels(folder, rows, gaps=may_have_gaps(folder))


def is_path(name):
    """
    Is a name that is no folder here a mistyped path? Then it must not be looked for on the hub. A hub name is NAME or
    OWNER/NAME, perhaps with @REVISION, and no folder here is called OWNER.

    >>> [is_path(name) for name in ("gpt2", "Qwen/Qwen2.5-0.5B@main", "./gpt2", "~/gpt2", "a/b/c", "/a", "")]
    [False, False, True, True, True, True, True]
    """
    part = r"[A-Za-z0-9][\w.-]*"
    is_hub_name = re.fullmatch(rf"{part}(/{part})?(@[\w./-]+)?", name)
    return not is_hub_name or "/" in name and os.path.isdir(name.split("/")[0])


def import_hub():
    """
    The package huggingface_hub, which reads these variables when it is first imported: no usage figures are sent, and
    the user's token only if the user's environment sets HF_HUB_DISABLE_IMPLICIT_TOKEN=0 (for gated models).
    """
    os.environ.setdefault("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import huggingface_hub
    return huggingface_hub


@functools.cache
def hub_commit(name):
    """
    The commit that a hub name (perhaps with @REVISION) means, the same until this process ends. Without a network, or
    with HF_HUB_OFFLINE=1, it is the one in the cache. None if neither has it.
    """
    hub = import_hub()
    repo, _, revision = name.partition("@")
    try:
        return hub.HfApi().model_info(repo, revision=revision or None, timeout=5).sha
    except Exception:                                      # whatever a network makes it raise
        path = hub.try_to_load_from_cache(repo, "config.json", revision=revision or None)
        return os.path.basename(os.path.dirname(path)) if isinstance(path, str) else None


def model_folder(name):
    """
    tiny-4 -> data/tinyworld/models/tiny-4 (the shipped models have short names); the folder of a run -> its checkpoint;
    any other folder or hub name -> itself.
    """
    models = os.path.join(ROOT, "data", "tinyworld", "models")
    name = path_name(name)
    if os.path.isdir(os.path.join(name, "checkpoint")):
        return os.path.join(name, "checkpoint")
    if os.path.isdir(name):
        return name
    if name.startswith("tiny-") and "/" not in name:
        if not os.path.isdir(os.path.join(models, name)):
            fail(f"no model {name!r} is shipped; there are " + ", ".join(sorted(glob.glob("tiny-*", root_dir=models))))
        return os.path.join(models, name)
    if is_path(name):
        fail(f"no model's folder at {name!r}. Give a folder that is there, a run's, a shipped model, or a hub name "
             "such as Qwen/Qwen2.5-0.5B")
    return name


def model_files(folder):
    """
    The files of a model's folder that decide what it computes: weights, configuration, code, and everything that makes
    the tokenizer (vocab.json, merges.txt, spiece.model, chat templates, ...). -> names, sorted
    """
    endings = (".safetensors", ".json", ".txt", ".model", ".tiktoken", ".vocab", ".bpe", ".jinja", ".py")
    names = [*os.listdir(folder), *glob.glob("additional_chat_templates/*", root_dir=folder)]
    return sorted(name for name in names if name.endswith(endings))


def fingerprint(path):
    """16 hex digits of what a file or a model's folder holds. Of a hub name: its commit, if it can be known."""
    if not os.path.exists(path):
        return path if is_path(path) else hub_commit(path) or path
    digest = hashlib.sha256()
    with reporting_read_errors(path):
        is_folder = os.path.isdir(path)
        for name in model_files(path) if is_folder else [""]:
            with open_file(os.path.join(path, name) if is_folder else path) as f:
                if is_folder:
                    digest.update(f"{name} {os.fstat(f.fileno()).st_size}\n".encode("utf-8", "surrogateescape"))
                elif os.path.basename(path) == "task.json":
                    digest.update(without_words(path, f.read()))
                while block := f.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()[:16]


def input_fingerprint(name):
    """fingerprint of one of a run's config["inputs"]: a path from ROOT, or a hub name"""
    path = os.path.join(ROOT, name)
    return fingerprint(path if os.path.exists(path) or is_path(name) else name)


def check_unchanged(inputs, at_end=False):
    """
    Results must not stand beside fingerprints of other files than those that they were made from. If an input was
    replaced between its reading and its fingerprint, or since then (at_end): an error

    inputs   {path from ROOT: fingerprint}
    """
    for name, digest in inputs.items():
        was_read = READ.get(os.path.realpath(os.path.join(ROOT, name)), {digest})
        if was_read != {digest} or at_end and digest != input_fingerprint(name):
            fail(f"{name} was changed while this run was working with it. Start the same command again")


@functools.cache
def normalize_code(source):
    """Python source -> the same code without comments, docstrings and formatting."""
    tree = ast.parse(textwrap.dedent(source))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            node.body = body[1:] or [ast.Pass()]               # without its docstring
    return ast.unparse(tree)


def imported_modules(code):
    """
    The names of all modules that normalized code imports, at its top or inside a function.

    >>> sorted(imported_modules("import os, models as m\\nfrom metrics import ece"))
    ['metrics', 'models', 'os']
    """
    modules = set(re.findall(r"^ *from (\S+) import ", code, re.M))
    for names in re.findall("^ *import (.+)$", code, re.M):
        modules |= {name.split(" as ")[0] for name in names.split(", ")}
    return modules


def code_fingerprints(stage_file):
    """
    16 hex digits for the stage's file and for each module of this project that it imports, directly or not. Comments,
    docstrings and formatting do not count. So an edited loss repeats a run, and an edited comment does not.

    returns   {"stage": ..., "models.py": ..., ...}: a copy of the stage under another name has the same fingerprint
    """
    stage_file = os.path.abspath(stage_file)
    found = {}
    todo = {"stage": stage_file}
    while todo:
        name, path = todo.popitem()
        with open(path, encoding="utf-8-sig") as f:        # Python accepts a byte order mark too
            code = normalize_code(f.read())
        found[name] = hashlib.sha256(code.encode()).hexdigest()[:16]
        for module in imported_modules(code):
            page = module.replace(".", "/") + ".py"        # data.tasks is data/tasks.py
            path = os.path.join(os.path.dirname(stage_file), page)
            if page not in found and path != stage_file and os.path.exists(path):
                todo[page] = path
    return dict(sorted(found.items()))


def loaded_code(stage_file):
    """
    code_fingerprints of a stage that this process has imported. A notebook keeps running the code that it imported
    first. If a file was edited since, its new fingerprint would stand beside results of the old code: an error.
    """
    code = code_fingerprints(stage_file)
    for name, digest in code.items():
        path = os.path.abspath(stage_file)
        if name != "stage":
            path = os.path.join(os.path.dirname(path), name)
        if LOADED.setdefault(path, digest) != digest:
            fail(f"{os.path.basename(path)} was edited after this process had imported it. Restart the notebook's "
                 "kernel")
    return code


def typed_flags(parser, args):
    """The flags that differ from their defaults, as one would type them."""
    words = []
    for key, value in vars(args).items():
        if value != parser.get_default(key):
            words.append("--" + key.replace("_", "-"))
            if isinstance(value, list) and all(isinstance(v, str) for v in value):
                words += map(shlex.quote, value)               # --models a b
            elif isinstance(value, list):
                words.append(",".join(map(str, value)))        # --shots 0,2,4
            elif value is not True:
                words.append(shlex.quote(str(value)))
    return " ".join(words)


def is_run_folder(folder):
    """Is this the folder of a run, finished (it holds a run's configuration) or not (it holds UNFINISHED)?"""
    if os.path.exists(os.path.join(folder, UNFINISHED)):
        return True
    for name in ("results.json", "config.json"):
        with contextlib.suppress(*DAMAGE), open_file(os.path.join(folder, name)) as f:
            found = json.load(f)
            if isinstance(found.get("config", found)["inputs"], dict):         # a model's config.json has no inputs
                return True
    return False


def check_out(name, folder, sources):
    """
    --out: a run writes into a folder that is absent, empty or a run's, and never over what it reads. Anything else is
    refused before any work. name: as typed; sources: files and folders that the run reads, or hub names
    """
    is_name = is_text(name) and name.rstrip("/") not in ("", ".", "..")
    found = [os.path.realpath(source) + os.sep for source in sources if os.path.exists(source)]
    if not is_name or any(source.startswith(os.path.realpath(folder) + os.sep) for source in found):
        fail(f"--out {name!r} would overwrite what this run reads, or is no name; choose another")
    task, base = os.path.dirname(os.path.dirname(folder)), os.path.basename(folder)
    if folder != path_name(name) and os.path.isfile(os.path.join(task, base, "labels.jsonl")):       # see labels_folder
        fail(f"--out {name!r} is the name of an annotator of {os.path.relpath(task)}, or of its truth; choose another")
    with catch_write_errors(folder):
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    if names and not is_run_folder(folder):
        fail(f"--out {name!r}: {os.path.relpath(folder)} holds {names[0]} and is no run's folder, so nothing is "
             "written there. Choose another --out, or remove that folder")


def describe_run(stage_file, parser, args, identity, inputs, sources=(), words=None):
    """
    Where a run goes, and everything that its results depend on. Nothing is written yet.

        folder, config = describe_run(__file__, parser, args, {"role": "student", **vars(args)}, files, [labels_folder])

    stage_file  the stage's __file__
    identity    {"role": ..., flags}: "role" says what the run is to other stages (supervisor, student, ceiling, ...),
                whatever the script is called; --out, --device and --force are left out of it here
    inputs      files and folders that the result depends on; their contents count, not only their names
    sources     folders of other runs, which this one must not overwrite
    words       the label words of task.json, if the result depends on them
    returns     (folder, config)
    """
    torchrun = "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ["WORLD_SIZE"]) > 1
    if torchrun and not LAUNCHED:
        fail(f"for several processes:  torchrun --nproc-per-node N distributed.py {os.path.basename(stage_file)} FLAGS")
    folder = run_folder(args.out, identity["task"], args.seed)
    check_out(args.out, folder, [*inputs, *sources])
    flags = typed_flags(parser, args) or "(all flags at their defaults)"
    print(f"{os.path.basename(stage_file)} {flags} -> {os.path.relpath(folder)}")
    config = {key: identity[key] for key in sorted(identity) if key not in ("out", "device", "force")}
    if words not in (None, LABEL_WORDS):
        config["words of the task"] = words
    config["inputs"] = {}
    for path in inputs:
        digest = fingerprint(path)
        config["inputs"][os.path.relpath(path, ROOT) if os.path.exists(path) else path] = digest
        note_if_edited(path, digest)
    for run in dict.fromkeys(os.path.dirname(path) for path in inputs if os.path.basename(path) in RUN_OUTPUTS):
        note_if_stale(run)
    check_unchanged(config["inputs"])
    config["code"] = loaded_code(stage_file)
    return folder, config


def digest_results(results):
    """16 hex digits of everything in a results.json but its duration: an edited number is noticed."""
    kept = {key: value for key, value in results.items() if key not in ("digest", "seconds")}
    return hashlib.sha256(json.dumps(json.loads(json.dumps(kept)), sort_keys=True).encode()).hexdigest()[:16]


def read_results(folder):
    """The results.json of a finished run -> dict. One that was changed since is an error that names it."""
    path = os.path.join(folder, "results.json")
    results = read_json(path)
    if results.get("digest", digest_results(results)) != digest_results(results):
        fail(f"{os.path.relpath(path)} was changed since its run ended. Repeat its command with --force")
    return results


def output_fingerprints(folder, names=("labels.jsonl", "samples.jsonl", "checkpoint")):
    """Fingerprints of what a finished run left, so that a damaged or missing file is noticed and made again."""
    paths = {name: os.path.join(folder, name) for name in names}
    return {name: fingerprint(path) if os.path.exists(path) else None for name, path in paths.items()}


def note_if_edited(path, digest):
    """Print a note if an input is another run's output, and was changed since that run ended."""
    results = os.path.join(os.path.dirname(path), "results.json")
    if os.path.basename(path) in RUN_OUTPUTS and os.path.exists(results):
        outputs = read_json(results).get("outputs")
        if isinstance(outputs, dict) and outputs.get(os.path.basename(path)) not in (None, digest):
            print(f"note: {os.path.relpath(path)} was changed since its run ended")


def note_if_stale(folder):
    """Print a note if rows or labels that a run has read were changed since. Its models may be large: not looked at"""
    results = os.path.join(folder, "results.json")
    config = read_json(results).get("config") if os.path.exists(results) else None
    inputs = config.get("inputs") if isinstance(config, dict) else None
    changed = [name for name, old in (inputs.items() if isinstance(inputs, dict) else ())
               if name.endswith((".jsonl", "task.json")) and old != input_fingerprint(name)]
    if changed:
        print(f"note: changed since the run of {os.path.relpath(folder)}: {', '.join(changed)}. Repeat its command")


def what_differs(old, new):
    """Two configs -> one line that says how they differ: flags, inputs, code. "" if they do not."""
    parts = []
    for key in sorted({*old, *new} - {"inputs", "code"}):
        if old.get(key) != new.get(key):
            values = ["(none)" if value in (None, "") else value for value in (old.get(key), new.get(key))]
            parts.append("{} {} -> {}".format(key.replace("_", " "), *values))
    for title, key in (("input", "inputs"), ("code", "code")):
        before = old.get(key) if isinstance(old.get(key), dict) else {}
        names = sorted(name for name in {*before, *new[key]} if before.get(name) != new[key].get(name))
        names = ["this script" if name == "stage" else name for name in names]
        if names:
            parts.append(f"{title} changed: {', '.join(names)}")
    return "; ".join(parts)


def finished_line(folder, config):
    """
    The last line of the finished run of this configuration in a folder, or None. If another finished run is there, one
    line says how it differs; it stays whole until the new one is complete.
    """
    path = os.path.join(folder, "results.json")
    if not os.path.exists(path):
        return None
    try:
        with open_file(path) as f:
            finished = json.load(f)
        line = str(finished["line"])
        old = dict(finished["config"])
        outputs = finished["outputs"]
        if finished.get("digest", digest_results(finished)) != digest_results(finished):
            raise ValueError
    except DAMAGE:
        print(f"note: {os.path.relpath(path)} is damaged; the stage runs again")
        return None
    if difference := what_differs(old, config):
        print(f"note: {os.path.relpath(folder)} holds another finished run ({difference}). "
              "It stays until this run is complete, then it is replaced")
    elif outputs != output_fingerprints(folder):
        print(f"note: {os.path.relpath(folder)} has changed since its run ended; the stage runs again")
    else:
        return line
    return None


def is_finished(folder, config, force=False):
    """Is the run of this configuration complete already? Then its last line is printed again."""
    line = broadcast_object(None if force else finished_line(folder, config))
    if line is not None:
        READ.clear()
        print(f"{line}\nalready done: {os.path.relpath(os.path.join(folder, 'results.json'))} (--force repeats it)")
    return line is not None


@contextlib.contextmanager
def open_run(folder):
    """
    `with open_run(folder):` around a run's work. The folder is made and locked; an older run in it stays whole until
    the new one writes its checkpoint or labels.
    """
    with lock_folder(folder):
        if not os.path.exists(os.path.join(folder, "results.json")):
            mark_unfinished(folder)
        yield


def mark_unfinished(folder):
    """A run that is killed leaves a folder that the same command recognises as a run's."""
    path = os.path.join(folder, UNFINISHED)
    with catch_write_errors(path):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)))


def read_config(folder):
    """The configuration of a finished run; {} if its results.json holds none."""
    config = read_results(folder).get("config")
    return config if isinstance(config, dict) else {}


@contextlib.contextmanager
def reject_damaged(path):
    """Around code that relies on a file of an earlier run: a file that was edited or damaged since ends in one line."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError) as error:
        fail(f"{path} is not as its run left it ({type(error).__name__}: {error}). Repeat its command with --force")


def write_results(folder, config, device, started, line, **results):
    """config.json, then results.json, last of all. started: time.time() at the run's start; line: its last line."""
    import torch
    import transformers
    versions = {"python": sys.version.split()[0], "torch": torch.__version__, "transformers": transformers.__version__}
    seconds = round(time.time() - started, 1)
    check_unchanged(config["inputs"], at_end=True)
    results = {"config": config, "line": line, "seed": config["seed"], **results, "seconds": seconds, "device": device,
               "versions": versions, "outputs": output_fingerprints(folder)}
    spec = os.path.join(ROOT, "data", str(config.get("task")), "task.json")
    if os.path.exists(spec) and "names" in (found := read_json(spec)):
        results["names"] = found["names"]                  # of no and yes in a table of your own: for predict.py
    results["digest"] = digest_results(results)
    write_file(os.path.join(folder, "config.json"), json.dumps(config, indent=1))
    write_file(os.path.join(folder, "results.json"), json.dumps(results, indent=1))
    READ.clear()
    remove_any(os.path.join(folder, UNFINISHED))
    print(f"{line}\nwrote {os.path.relpath(folder)}")


# --------------------------------------------------------------------------- the command line

def number(kind, low, high):
    """argparse type: an int or float of low to high, else one clear line"""
    def parse(text):
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not between {low} and {high}")
        return value
    parse.__name__ = kind.__name__
    return parse


def add_run_flags(parser, out, task="tinyworld", home="data/<task>",
                  max_rows="use the first N rows of each split, for a quick look"):
    """
    The flags that say which run this is, spelled alike in every stage. task: the default, or None for a stage without
    --task; home, max_rows: what the help says of --out and --max-rows
    """
    if task is not None:
        parser.add_argument("--task", type=task_name, default=task, help="a folder of data/")
    parser.add_argument("--out", default=out, help=f"where to: a bare name means {home}/seed<seed>/<name>")
    parser.add_argument("--seed", type=number(int, 0, 2 ** 31), default=0,
                        help="of everything random" + ("; splits never depend on it" if task else ""))
    parser.add_argument("--max-rows", type=number(int, 1, 10 ** 9), default=None, help=max_rows)
    parser.add_argument("--force", action="store_true", help="repeat the run though it is finished")


class PlainOutput(io.TextIOWrapper):
    """
    Standard output without control codes (see `plain`): rows, transcripts and names come from files that anybody may
    have written. A character that the terminal's encoding lacks is shown as "?".
    """

    def write(self, text):
        with self.full_disk_is_one_line():
            return super().write(plain(text))

    def flush(self):
        with self.full_disk_is_one_line():
            super().flush()

    @contextlib.contextmanager
    def full_disk_is_one_line(self):
        try:
            yield
        except BrokenPipeError:                            # the reader has left: see run_script
            raise
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            fail(f"cannot write to standard output: {error.strerror}")


def make_output_plain():
    """Replace standard output by a PlainOutput."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        kept = {name: getattr(sys.stdout, name) for name in ("encoding", "line_buffering", "write_through")}
        sys.stdout = PlainOutput(sys.stdout.detach(), errors="replace", **kept)
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors="backslashreplace")


def run_script(main):
    """
    Call a script's main(). Ctrl-C ends in one line that says what was kept, a file that cannot be used in one that
    names it, and a closed pipe in none.
    """
    make_output_plain()
    try:
        try:
            main()
        except KeyboardInterrupt:
            kept = "nothing was written; the same command starts again"
            if WRITTEN:
                kept = (f"files written and whole: {len(set(WRITTEN)):,}, the last {os.path.relpath(WRITTEN[-1])}; "
                        "the same command uses them")
            print(f"interrupted: {kept}", file=sys.stderr)
            raise SystemExit(130) from None
        except OSError as error:                           # a folder that may not be read, a file that vanished, ...
            if error.filename is None:
                raise
            fail(f"cannot use {error.filename}: {error.strerror}")
        except (MemoryError, RuntimeError) as error:       # torch's error is a RuntimeError
            reason = (str(error).strip().splitlines() or ["no memory is left"])[0]
            if not isinstance(error, MemoryError) and "out of memory" not in reason and "allocate memory" not in reason:
                raise
            fail(f"out of memory: {reason[:200]}. Where a model is trained, try --micro-batch-size 8, which gives the "
                 "same gradients, then --gradient-checkpointing or --lora 16; elsewhere a smaller model")
        finally:
            print(end="", flush=True)                      # unlike sys.stdout.flush() it accepts that there is none
    except BrokenPipeError:
        try:
            print(flush=True)
        except BrokenPipeError:                            # report.py | head -1: the reader of our output has left
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(1) from None
        raise
