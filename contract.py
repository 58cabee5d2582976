"""
What the stages agree on: rows, labels joined by id, and the folder of a run.

Every stage is a script of its own. Stages exchange plain files under data/:

    data/<task>/{train1,train2,valid,test}.jsonl   rows {"id", "group", "text"}, and "label" in train1 and test only
    data/<task>/truth/labels.jsonl                 the true labels of train2 and valid, a label file like any other
    data/<task>/seed<seed>/<run>/labels.jsonl      {"id", "soft_label": [p_no, p_yes]} for train2, valid and test
                                 checkpoint/       its model, an ordinary transformers folder
                                 config.json       its flags, and fingerprints of its code and of all files that it read
                                 results.json      its scores. It is written last: if it exists, the run is complete

Three rules keep weak-to-strong experiments honest, and each takes a few lines here:
1) Labels are joined by id, never by row order. A shuffled file would train without an error, and teach noise.
2) A question (group) stays on one side of every split, and the student's rows carry no truth.
3) A run counts as finished if its results.json holds the same flags, code, inputs and outputs. Any difference repeats
   the run, and one line says which. Files are written beside their place and renamed, so a kill leaves a whole file or
   none.

A user's mistake ends in one line that says where it is and what to do, with exit code 2 (above a wrong flag's line,
argparse prints the usage). So do a full disk, a folder
without write permission, and a second run in a folder where one is still writing.

Needs   nothing else of this project: numpy, and transformers' models only to save them
"""
import argparse
import ast
import contextlib
import hashlib
import json
import os
import shlex
import shutil
import sys
import tempfile
import textwrap
import time

import numpy as np

ROOT = os.path.dirname(os.path.abspath(__file__))
WRITTEN = []                         # paths that this process has written, for the line that Ctrl-C prints
LAUNCHED = False                     # True in processes that distributed.py started
LOADED = {}                          # fingerprints of the code that this process runs: {file: 16 hex digits}


def fail(message):
    """Print one line that says what is wrong and what to do next, and exit with code 2. Long quotes are cut."""
    message = " ".join(str(message).split())
    print("error: " + (message if len(message) < 1000 else f"{message[:700]} ... {message[-200:]}"), file=sys.stderr)
    raise SystemExit(2)


# --------------------------------------------------------------------------- rows and labels

def parse_json_object(text):
    """One JSON object -> dict. Raises ValueError for anything else."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("not a {...} object")
    return value


@contextlib.contextmanager
def reporting_read_errors(path):
    """An unreadable file ends in one line."""
    try:
        yield
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}. Run the command that makes it first")


def read_jsonl(path):
    """A file of JSON lines -> list of dicts. A broken line is an error that names it."""
    rows = []
    number = 1
    with reporting_read_errors(path):
        try:
            with open(path, "rb") as f:
                for number, line in enumerate(f, 1):
                    line = line.decode("utf-8-sig" if number == 1 else "utf-8")
                    if line.strip():
                        rows.append(parse_json_object(line))
        except (ValueError, RecursionError) as error:
            fail(f"{path}, line {number}: {error}. Make the file again")
    return rows


def read_json(path):
    """A file with one JSON object -> dict; an empty file -> {}."""
    with reporting_read_errors(path):
        try:
            with open(path, encoding="utf-8-sig") as f:
                text = f.read()
            return parse_json_object(text) if text.strip() else {}
        except (ValueError, RecursionError) as error:
            fail(f"{path}: {error}. Make the file again")


def is_text(value):
    """A non-empty string that UTF-8 can encode (a lone surrogate, half an emoji, cannot be)."""
    return isinstance(value, str) and bool(value.strip()) and value.encode("utf-8", "ignore").decode() == value


def read_rows(task, split, max_rows=None):
    """
    The rows of one split of data/<task>/, checked: every id once, text everywhere, labels where the split has them
    (train1, test).

    returns   list of dicts {"id", "group", "text", ...}, the first `max_rows` of them
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
        for key in ("id", "group", "text"):
            if not is_text(row.get(key)):
                fail(f"{path}, line {number}: no {key!r} (a non-empty string of valid Unicode)")
        if row["id"] in seen:
            fail(f"{path}, line {number}: id {row['id']!r} occurs twice")
        if split in ("train1", "test") and row.get("label") not in (0, 1):
            fail(f"{path}, line {number}, id {row['id']!r}: the label must be 0 or 1, not {row.get('label')!r}")
        seen.add(row["id"])
    if not rows:
        fail(f"{path} is empty. Make it again with prepare.py")
    return rows[:max_rows]


def without_labels(rows):
    """The same rows without their "label": what a stage may look at before everything is decided."""
    return [{key: value for key, value in row.items() if key != "label"} for row in rows]


def read_task(task):
    """
    Check a task before any work: all four splits exist, and no group (question) is in two of them. Only ids and groups
    are looked at here; the labels of test are read after training.

    returns   (paths that a result depends on, the label words for (no, yes))
    """
    folder = os.path.join(ROOT, "data", task)
    split_of = {}
    for split in ("train1", "train2", "valid", "test"):
        for row in read_rows(task, split):
            if split_of.setdefault(row["group"], split) != split:
                fail(f"data/{task}: group {row['group']!r} is in {split_of[row['group']]} and in {split}; "
                     "a question must stay in one split. Run prepare.py again")
    words = read_json(os.path.join(folder, "task.json")).get("label_words", [" no", " yes"])
    if not (isinstance(words, list) and len(words) == 2 and all(isinstance(word, str) for word in words)):
        fail(f"data/{task}/task.json: label_words must be two strings, for no and yes, not {words!r}")
    names = ("train1.jsonl", "train2.jsonl", "valid.jsonl", "test.jsonl", "task.json")
    return [os.path.join(folder, name) for name in names], words


def is_soft_label(pair):
    """[p_no, p_yes]: two numbers of 0 to 1 that sum to 1."""
    return (isinstance(pair, list) and len(pair) == 2 and all(type(p) in (int, float) and 0 <= p <= 1 for p in pair)
            and abs(sum(pair) - 1) < 0.01)


def read_labels(folder, rows):
    """
    The soft labels of a supervisor's folder for these rows, joined by id.

    labels.jsonl: {"id": "...", "soft_label": [0.38, 0.62]}   ->   (N, 2) float32, in the order of `rows`
    A missing, double or malformed id is an error that names it.
    """
    path = os.path.join(folder, "labels.jsonl")
    if not os.path.exists(path):
        fail(f"no labels at {path}. Run the command that makes them first; a supervisor's is:  python train_weak.py "
             f"--out {os.path.basename(folder)}, with the same --task and --seed")
    labels = {}
    for number, row in enumerate(read_jsonl(path), 1):
        name = row.get("id")
        pair = row.get("soft_label")
        if not isinstance(name, str):
            fail(f"{path}, line {number}: no 'id' (a string)")
        if name in labels:
            fail(f"{path}, line {number}: id {name!r} occurs twice")
        if not is_soft_label(pair):
            fail(f"{path}, line {number}, id {name!r}: soft_label must be [p_no, p_yes], two numbers of 0 to 1 that "
                 f"sum to 1, not {str(pair)[:60]}")
        labels[name] = pair
    missing = [row["id"] for row in rows if row["id"] not in labels]
    if missing:
        fail(f"{path} has no label for {len(missing):,} of {len(rows):,} rows, first {missing[0]!r}. "
             "Made from another split or task, or with other --max-rows?")
    return np.array([labels[row["id"]] for row in rows], dtype=np.float32)


# --------------------------------------------------------------------------- writing

@contextlib.contextmanager
def catch_write_errors(path):
    """A full disk, a missing permission or a taken name ends in one line. Libraries raise errors of their own there."""
    try:
        yield
    except Exception as error:
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
        with tempfile.TemporaryFile(dir=folder):           # a missing permission shows now, not after the training
            pass
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


def write_file(path, text):
    """Write beside the place and rename: the file is there whole, or as it was before."""
    with catch_write_errors(path):
        with open(path + ".tmp", "w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.replace(path + ".tmp", path)
    WRITTEN.append(path)


def append_file(path, text):
    """Add whole lines to the end of a file that is read back line by line."""
    with catch_write_errors(path), open(path, "a", encoding="utf-8") as f:
        f.write(text)
        f.flush()
    WRITTEN.append(path)


def discard_results(folder):
    """An older run's scores and flags go before its labels or checkpoint are replaced: they would belong to no run."""
    for name in ("results.json", "config.json"):
        path = os.path.join(folder, name)
        if os.path.exists(path):
            with catch_write_errors(path):
                os.remove(path)


def write_labels(folder, rows, soft_labels, extra=None):
    """
    rows, (N, 2) float32 -> labels.jsonl. Nine digits hold a float32 exactly.

    extra   {name: N numbers} to stand beside each soft label
    """
    def rounded(x):
        return float(f"{x:.9g}")
    lines = []
    for row, pair in zip(rows, soft_labels.tolist()):
        lines.append({"id": row["id"], "soft_label": [rounded(p) for p in pair]})
    for name, values in (extra or {}).items():
        for line, value in zip(lines, values):
            line[name] = rounded(value)
    discard_results(folder)
    write_file(os.path.join(folder, "labels.jsonl"), "".join(json.dumps(line) + "\n" for line in lines))


def save_checkpoint(folder, model, tokenizer, weights=None):
    """
    folder/checkpoint/, an ordinary transformers folder of safetensors. It is renamed at the end, so a kill leaves no
    half of one.

    weights   a state dict to save in place of the model's own (distributed.py puts one together)
    """
    target = os.path.join(folder, "checkpoint")
    half = os.path.join(folder, "checkpoint.tmp")
    with catch_write_errors(target):
        shutil.rmtree(half, ignore_errors=True)
        model.save_pretrained(half, state_dict=weights)
        tokenizer.save_pretrained(half)
        discard_results(folder)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(half, target)
    WRITTEN.append(target)


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


def model_folder(name):
    """
    tiny-4 -> data/tinyworld/models/tiny-4 (the shipped models have short names); the folder of a run -> its checkpoint;
    any other folder or hub name -> itself.
    """
    models = os.path.join(ROOT, "data", "tinyworld", "models")
    name = path_name(name)
    if os.path.isdir(os.path.join(name, "checkpoint")):
        return os.path.join(name, "checkpoint")
    if os.path.isdir(name) or not name.startswith("tiny-") or "/" in name:
        return name
    if not os.path.isdir(os.path.join(models, name)):
        shipped = sorted(n for n in os.listdir(models) if n.startswith("tiny-")) if os.path.isdir(models) else []
        fail(f"no model {name!r} is shipped; there are " + ", ".join(shipped))
    return os.path.join(models, name)


def fingerprint(path):
    """16 hex digits of what a file or a model's folder holds; a hub name is its own fingerprint."""
    if not os.path.exists(path):
        return path
    digest = hashlib.sha256()
    names = [path]
    if os.path.isdir(path):
        relevant = (".safetensors", "config.json", "tokenizer.json", ".jinja")
        names = [os.path.join(path, name) for name in sorted(os.listdir(path)) if name.endswith(relevant)]
    for name in names:
        with open(name, "rb") as f:
            while block := f.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


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
    The names of all modules that Python code imports, at its top or inside a function.

    >>> sorted(imported_modules("import os, models\\nfrom metrics import ece"))
    ['metrics', 'models', 'os']
    """
    modules = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module)
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
            path = os.path.join(os.path.dirname(stage_file), f"{module}.py")
            if f"{module}.py" not in found and path != stage_file and os.path.exists(path):
                todo[f"{module}.py"] = path
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


def describe_run(stage_file, parser, args, identity, inputs, sources=()):
    """
    Where a run goes, and everything that its results depend on. Nothing is written yet.

        folder, config = describe_run(__file__, parser, args, {"role": "student", **vars(args)}, files, [labels_folder])

    stage_file  the stage's __file__
    identity    {"role": ..., flags}: "role" says what the run is to other stages (supervisor, student, ceiling, ...),
                whatever the script is called; --out, --device and --force are left out of it here
    inputs      files and folders that the result depends on; their contents count, not only their names
    sources     folders of other runs, which this one must not overwrite
    returns     (folder, config)
    """
    torchrun = "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ["WORLD_SIZE"]) > 1
    if torchrun and not LAUNCHED:
        fail(f"for several processes:  torchrun --nproc-per-node N distributed.py {os.path.basename(stage_file)} FLAGS")
    folder = run_folder(args.out, identity["task"], args.seed)
    is_name = is_text(args.out) and args.out.rstrip("/") not in ("", ".", "..")
    if not is_name or os.path.realpath(folder) in map(os.path.realpath, sources):
        fail(f"--out {args.out!r} would overwrite what this run reads, or is no name; choose another")
    flags = typed_flags(parser, args) or "(all flags at their defaults)"
    print(f"{os.path.basename(stage_file)} {flags} -> {os.path.relpath(folder)}")
    config = {key: identity[key] for key in sorted(identity) if key not in ("out", "device", "force")}
    config["inputs"] = {}
    for path in inputs:
        config["inputs"][os.path.relpath(path, ROOT) if os.path.exists(path) else path] = fingerprint(path)
    config["code"] = loaded_code(stage_file)
    return folder, config


def output_fingerprints(folder):
    """Fingerprints of what a finished run left, so that a damaged or missing file is noticed and made again."""
    paths = {name: os.path.join(folder, name) for name in ("labels.jsonl", "checkpoint")}
    return {name: fingerprint(path) if os.path.exists(path) else None for name, path in paths.items()}


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
        with open(path, encoding="utf-8") as f:
            finished = json.load(f)
        line = str(finished["line"])
        old = dict(finished["config"])
        outputs = finished["outputs"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        print(f"note: {os.path.relpath(path)} cannot be read; the stage runs again")
        return None
    difference = what_differs(old, config)
    if difference:
        print(f"note: {os.path.relpath(folder)} holds another finished run ({difference}). "
              "It stays until this run is complete, then it is replaced")
        return None
    if outputs != output_fingerprints(folder):
        print(f"note: {os.path.relpath(folder)} has changed since its run ended; the stage runs again")
        return None
    return line


def is_finished(folder, config, force=False):
    """Is the run of this configuration complete already? Then its last line is printed again."""
    line = broadcast_object(None if force else finished_line(folder, config))
    if line is not None:
        print(f"{line}\nalready done: {os.path.relpath(os.path.join(folder, 'results.json'))} (--force repeats it)")
    return line is not None


def open_run(folder):
    """
    `with open_run(folder):` around a run's work. The folder is made and locked; an older run in it stays whole until
    the new one writes its checkpoint or labels.
    """
    return lock_folder(folder)


def read_config(folder):
    """The configuration of a finished run; {} if its results.json holds none."""
    config = read_json(os.path.join(folder, "results.json")).get("config")
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
    results = {"config": config, "line": line, "seed": config["seed"], **results, "seconds": seconds, "device": device,
               "versions": versions, "outputs": output_fingerprints(folder)}
    write_file(os.path.join(folder, "config.json"), json.dumps(config, indent=1))
    write_file(os.path.join(folder, "results.json"), json.dumps(results, indent=1))
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


def add_run_flags(parser, out, task="tinyworld"):
    """The flags that say which run this is, spelled alike in every stage."""
    parser.add_argument("--task", type=task_name, default=task, help="a folder of data/")
    parser.add_argument("--out", default=out, help="where to: a bare name means data/<task>/seed<seed>/<name>")
    parser.add_argument("--seed", type=number(int, 0, 2 ** 31), default=0,
                        help="of everything random; splits never depend on it")
    parser.add_argument("--max-rows", type=number(int, 1, 10 ** 9), default=None,
                        help="use the first N rows of each split, for a quick look")
    parser.add_argument("--force", action="store_true", help="repeat the run though it is finished")


def stdout_is_closed():
    """python report.py | head -1: has the reader of our output left? Then the rest of the output goes nowhere."""
    try:
        print(flush=True)
        return False
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True


def run_script(main):
    """Call a script's main(). Ctrl-C ends in one line that says what was kept, and a closed pipe in none."""
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
        finally:
            print(end="", flush=True)                      # unlike sys.stdout.flush() it accepts that there is none
    except BrokenPipeError:
        if not stdout_is_closed():
            raise
        raise SystemExit(1) from None
