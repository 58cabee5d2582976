"""
Chapter 0. What passes between stages: rows, labels, and the folder of a run.

Every stage is a script of its own. They meet in plain files under data/, and this page is all they have to agree on:

    data/<task>/{train1,train2,valid,test}.jsonl   rows {"id", "group", "text"}, and "label" in train1 and test only
    data/<task>/truth/labels.jsonl                 the true labels of train2 and valid, a label file like any other
    data/<task>/seed<seed>/<run>/labels.jsonl      {"id", "soft_label": [p_no, p_yes]}: what a run says of train2, valid and test
                                 checkpoint/       its model, an ordinary transformers folder
                                 config.json       its flags, and fingerprints of all that it read
                                 results.json      its scores: written last, so it is there when the run is finished

Three rules keep weak-to-strong experiments honest, and each is a few lines here:
1) Labels are joined by id, never by row order. A shuffled file would train fine, and teach noise.
2) A question (group) stays on one side of every split, and the student's rows carry no truth.
3) A run is done if its results.json says the same flags, the same inputs and the same outputs. Anything else runs again: files are written
   beside and renamed, so what a kill leaves is either whole or not there.

What a user can do wrong ends in one line that says where it is and what to do, and exit code 2. So do a full disk, a folder that may not be
written to, and a second run that would write where one is still writing.
"""
import argparse, atexit, contextlib, hashlib, json, os, shutil, sys, time

from distributed import RANK, agree, join, whole_weights

ROOT = os.path.dirname(os.path.abspath(__file__))
HELD = {}                                                  # folders that this process writes to, each with the open file that holds its lock


def fail(message):
    """What a user can do wrong ends in one line that says what to do next, and exit code 2. What is quoted from a file may be long; it is cut."""
    message = " ".join(str(message).split())
    print("error: " + (message if len(message) < 1000 else f"{message[:700]} ... {message[-200:]}"), file=sys.stderr)
    raise SystemExit(2)


def nobody_reads(text=""):
    """python report.py | head -1: has the reader of what is printed left? Then what is still to be printed goes nowhere."""
    try:
        print(text, end="", flush=True)
        return False
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True


def last_words(kind, error, trace):
    """A script whose reader has left ends without a traceback (exit code 1), as an interrupted one does; the same command goes on from there."""
    if not (issubclass(kind, BrokenPipeError) and nobody_reads("\n")):
        sys.__excepthook__(kind, error, trace)


atexit.register(nobody_reads)                              # what is in the buffer still is printed last of all
sys.excepthook = last_words


# --------------------------------------------------------------------------- rows and labels

def read_lines(path, whole=False):
    """JSON lines (or, `whole`, one JSON object over many lines) -> list of dicts. A broken line is named."""
    rows = []
    try:
        with open(path, "rb") as f:
            for number, line in enumerate([f.read()] if whole else f, 1):
                line = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if line.strip():
                    rows.append(json.loads(line))
                    if not isinstance(rows[-1], dict):
                        raise ValueError("not a {...} object")
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}. Run what makes it first")
    except (ValueError, RecursionError) as error:
        fail(f"{path}, line {number}: {error}. Make the file again")
    return rows


def is_text(value):
    """A string with something in it that UTF-8 can hold (half an emoji, a lone surrogate, it cannot)."""
    return isinstance(value, str) and bool(value.strip()) and value.encode("utf-8", "ignore").decode() == value


def read_rows(task, split, max_rows=None):
    """The rows of one split of data/<task>/, checked: ids once, text, and labels where the split has them (train1, test)."""
    path = os.path.join(ROOT, "data", task, split + ".jsonl")
    if not os.path.exists(path):
        fail(f"no {split} rows at {path}. Make them first:  python data/{task}/prepare.py, or data/own/prepare.py for rows of your own")
    rows, seen = read_lines(path), set()
    for number, row in enumerate(rows, 1):
        for key in ("id", "group", "text"):
            if not is_text(row.get(key)):
                fail(f"{path}, line {number}: no {key!r} (a non-empty string of valid Unicode)")
        if row["id"] in seen:
            fail(f"{path}, line {number}: id {row['id']!r} stands there twice")
        if split in ("train1", "test") and row.get("label") not in (0, 1):
            fail(f"{path}, line {number}, id {row['id']!r}: the label must be 0 or 1, not {row.get('label')!r}")
        seen.add(row["id"])
    if not rows:
        fail(f"{path} is empty. Make it again with prepare.py")
    return rows[:max_rows]


def read_task(task):
    """
    Look a task over before any work: all four splits are there, and no group (question) is in two of them. Nothing but ids and groups is
    looked at here; the labels of test are read after training. -> (files that a result depends on, label words for (no, yes))
    """
    folder, where = os.path.join(ROOT, "data", task), {}
    for split in ("train1", "train2", "valid", "test"):
        for row in read_rows(task, split):
            if where.setdefault(row["group"], split) != split:
                fail(f"data/{task}: group {row['group']!r} is in {where[row['group']]} and in {split}; a question must stay on one side. "
                     "Run prepare.py again")
    spec = (read_lines(os.path.join(folder, "task.json"), whole=True) or [{}])[0]
    words = spec.get("label_words", [" no", " yes"])
    if not (isinstance(words, list) and len(words) == 2 and all(isinstance(word, str) for word in words)):
        fail(f"data/{task}/task.json: label_words must be two strings, for no and yes, not {words!r}")
    return [os.path.join(folder, name) for name in ("train1.jsonl", "train2.jsonl", "valid.jsonl", "test.jsonl", "task.json")], words


def read_labels(folder, rows):
    """
    The soft labels of a supervisor's folder for these rows, joined by id and never by row order: a shuffled file would train fine, and
    teach noise.  labels.jsonl: {"id": "...", "soft_label": [0.38, 0.62]}   ->   (N, 2) float32, in the order of `rows`
    """
    import numpy as np
    path = os.path.join(folder, "labels.jsonl")
    if not os.path.exists(path):
        fail(f"no labels at {path}. Make them first, for example with train_weak.py and the same --task, --seed and --out")
    labels = {}
    for number, row in enumerate(read_lines(path), 1):
        name, pair = row.get("id"), row.get("soft_label")
        if not isinstance(name, str):
            fail(f"{path}, line {number}: no 'id' (a string)")
        if name in labels:
            fail(f"{path}, line {number}: id {name!r} stands there twice")
        if not (isinstance(pair, list) and len(pair) == 2 and all(type(p) in (int, float) and 0 <= p <= 1 for p in pair)
                and abs(sum(pair) - 1) < 0.01):
            fail(f"{path}, line {number}, id {name!r}: soft_label must be [p_no, p_yes], two numbers of 0 to 1 that sum to 1, not {str(pair)[:60]}")
        labels[name] = pair
    missing = [row["id"] for row in rows if row["id"] not in labels]
    if missing:
        fail(f"{path} has no label for {len(missing):,} of {len(rows):,} rows, first {missing[0]!r}. "
             "Made from another split or task, or with other --max-rows?")
    return np.array([labels[row["id"]] for row in rows], dtype=np.float32)


@contextlib.contextmanager
def writing(path):
    """Around all that writes: a full disk, a folder that may not be written to, a name that is taken. Libraries raise errors of their own there."""
    try:
        yield
    except Exception as error:
        fail(f"cannot write to {path}: {getattr(error, 'strerror', None) or error}. Make room, or choose another place (--out)")


def hold(folder):
    """
    Make a folder and be the only process that writes to it. The kernel keeps the lock and drops it when the process ends, however it ends:
    no stale lock is ever left to be removed by hand. (Of torchrun's processes the first one writes.)
    """
    if RANK:
        return
    with writing(folder):
        os.makedirs(folder, exist_ok=True)
    try:
        import fcntl
    except ImportError:                                    # Windows: take care yourself
        return
    path = os.path.realpath(folder)
    if path in HELD:
        return
    with writing(folder):
        handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        fail(f"another run is writing to {folder}. Wait until it is done, or choose another --out")
    except OSError:                                        # a file system without locks
        pass
    HELD[path] = handle


def write_file(path, text):
    """Written beside and renamed: the file is there whole, or as it was before."""
    if RANK:
        return
    with writing(path):
        with open(path + ".tmp", "w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.replace(path + ".tmp", path)


def write_labels(folder, rows, soft_labels, extra=None):
    """rows, (N, 2) float32 -> labels.jsonl; nine digits hold a float32 exactly. extra: {name: N numbers} to stand beside each soft label."""
    def short(x):
        return float(f"{x:.9g}")
    lines = [{"id": row["id"], "soft_label": [short(p) for p in pair]} for row, pair in zip(rows, soft_labels.tolist())]
    for name, values in (extra or {}).items():
        for line, value in zip(lines, values):
            line[name] = short(value)
    write_file(os.path.join(folder, "labels.jsonl"), "".join(json.dumps(line) + "\n" for line in lines))


def save_checkpoint(folder, model, tokenizer):
    """An ordinary transformers folder of safetensors. Renamed at the end: a killed run leaves no half of one."""
    target, half = os.path.join(folder, "checkpoint"), os.path.join(folder, "checkpoint.tmp")
    weights = whole_weights(model)
    if RANK:
        return
    with writing(target):
        shutil.rmtree(half, ignore_errors=True)
        model.save_pretrained(half, state_dict=weights)
        tokenizer.save_pretrained(half)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(half, target)


def fingerprint(path):
    """What a file or a model's folder holds, as 16 hex digits; a hub name stands for itself."""
    if not os.path.exists(path):
        return path
    digest, names = hashlib.sha256(), [path]
    if os.path.isdir(path):
        names = [os.path.join(path, n) for n in sorted(os.listdir(path)) if n.endswith((".safetensors", "config.json", "tokenizer.json", ".jinja"))]
    for name in names:
        with open(name, "rb") as f:
            while block := f.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


# --------------------------------------------------------------------------- the folder of a run

def run_folder(name, task, seed):
    """Where a run lies: a bare name means data/<task>/seed<seed>/<name>, anything with a slash is taken as it stands."""
    return name if "/" in name or os.sep in name else os.path.join(ROOT, "data", task, f"seed{seed}", name)


def model_folder(name):
    """The shipped models go by their short names: tiny-4 is data/tinyworld/models/tiny-4. All other names are passed on."""
    models = os.path.join(ROOT, "data", "tinyworld", "models")
    if name.startswith("tiny-") and not os.path.isdir(os.path.join(models, name)):
        fail(f"no model {name!r} is shipped; there are " + ", ".join(sorted(n for n in os.listdir(models) if n.startswith("tiny-"))))
    return os.path.join(models, name) if name.startswith("tiny-") else name


def start(args, inputs, sources=()):
    """
    Is the run done already, with the same configuration and the same inputs? Then say so and leave. Nothing is written yet.

    inputs    files and folders that the result depends on; what is in them counts, not only their names
    sources   folders of other runs, which this one must not overwrite
    returns   (folder, config)
    """
    folder = run_folder(args.out, args.task, args.seed)
    if not is_text(args.out) or args.out in (".", "..") or os.path.realpath(folder) in map(os.path.realpath, sources):
        fail(f"--out {args.out!r} would overwrite what this run reads, or is no name; choose another")
    config = {"script": os.path.basename(sys.argv[0])} | {k: v for k, v in sorted(vars(args).items()) if k not in ("out", "device", "force")}
    join()
    config["inputs"] = {os.path.relpath(path, ROOT) if os.path.exists(path) else path: fingerprint(path) for path in inputs}
    print("config: " + json.dumps(config))
    line = agree(None if args.force else finished_line(folder, config))
    if line is not None:
        print(f"{line}\nalready done: {os.path.relpath(os.path.join(folder, 'results.json'))} (--force does it again)")
        raise SystemExit(0)
    return folder, config


def finished_line(folder, config):
    """The last line of the finished run of this configuration that lies in a folder; None if there is no such run."""
    done = os.path.join(folder, "results.json")
    if not os.path.exists(done):
        return None
    try:
        with open(done, encoding="utf-8") as f:
            finished = json.load(f)
        return str(finished["line"]) if finished["config"] == config and finished["outputs"] == outputs(folder) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        print(f"{os.path.relpath(done)} cannot be read; the stage runs again")


def begin(folder, config):
    """From here on the folder is this process's alone and unfinished: no results.json. If nothing can be written there, it stays as it was."""
    if RANK:
        return
    hold(folder)
    write_file(os.path.join(folder, "config.json"), json.dumps(config, indent=1))
    if os.path.exists(os.path.join(folder, "results.json")):
        with writing(folder):
            os.remove(os.path.join(folder, "results.json"))


def read_config(folder):
    """The flags of a finished run, {} if its results.json does not say them."""
    config = (read_lines(os.path.join(folder, "results.json"), whole=True) or [{}])[0].get("config")
    return config if isinstance(config, dict) else {}


@contextlib.contextmanager
def as_left(path):
    """Around what takes a file of an earlier run at its word: if somebody has edited or damaged it since, that is the line."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError) as error:
        fail(f"{path} is not as its run left it ({type(error).__name__}: {error}). Run its command again with --force")


def outputs(folder):
    """What a finished run left, so that a damaged or missing file is noticed and made again."""
    paths = {name: os.path.join(folder, name) for name in ("labels.jsonl", "checkpoint")}
    return {name: fingerprint(path) if os.path.exists(path) else None for name, path in paths.items()}


def finish(folder, config, device, started, line, **results):
    """results.json, last of all."""
    if RANK:
        return
    import torch, transformers
    versions = {"python": sys.version.split()[0], "torch": torch.__version__, "transformers": transformers.__version__}
    results = {"config": config, "line": line, "seed": config["seed"], **results, "seconds": round(time.time() - started, 1), "device": device,
               "versions": versions, "outputs": outputs(folder)}
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


def add_common_flags(parser, model, out, epochs):
    """The flags that every trainer spells alike. Without a default `model` there is no --model."""
    count = number(int, 1, 10 ** 9)
    parser.add_argument("--task", default="tinyworld", help="a folder of data/")
    if model is not None:
        parser.add_argument("--model", default=model, help="a shipped model, a local folder, or a hub name")
    parser.add_argument("--out", default=out, help="where to: a bare name means data/<task>/seed<seed>/<name>")
    parser.add_argument("--seed", type=number(int, 0, 2 ** 31), default=0, help="order of the rows, and a random head; splits never depend on it")
    parser.add_argument("--device", default="", help="cuda|mps|cpu (default: the best there is)")
    parser.add_argument("--dtype", default="auto", choices=["auto", "fp32", "bf16"], help="bf16: autocast over fp32 weights; auto: on GPUs")
    parser.add_argument("--head", default="lm", choices=["lm", "random"], help="start of a decoder's head: the rows of its label words, or noise")
    parser.add_argument("--epochs", type=count, default=epochs, help="passes over the training rows")
    parser.add_argument("--lr", type=number(float, 1e-9, 1.0), default=1e-4, help="peak learning rate (gpt2: 5e-5, Qwen: 1e-5)")
    parser.add_argument("--batch-size", type=count, default=32, help="rows per optimizer step")
    parser.add_argument("--micro-batch-size", type=count, default=None, help="rows per forward pass, to save memory (default: the whole batch)")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="compute the inside of each layer twice: less memory, more time")
    parser.add_argument("--lora", type=count, default=None, help="train a correction of this rank, not the weights (needs peft)")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that a hub repository brings; off for good reason")
    parser.add_argument("--max-rows", type=count, default=None, help="use the first N rows of each split, for a quick look")
    parser.add_argument("--force", action="store_true", help="do it again though it is done")
