"""
Broken inputs by the hundred. A script names the fault in one line, exits with code 2, and changes no input.

$ python tests/fuzz.py --house FOLDER --cases 1000 --seed 0       # FOLDER: what small_house of test_robust.py makes

Each case breaks one thing (a line of a file, a whole file, a flag), calls a script's main() in this process, judges the
outcome, and restores the file. Only the checks before the work are tested: a script that accepts its input is stopped
where the work would begin. Two outcomes are good:
1) One line that starts with "error:", and exit code 2.
2) The beginning of the work, if the change does no harm (a byte order mark, a blank line, an allowed value of a flag).
Any other outcome is a finding, printed with the case that caused it. tests/test_robust.py runs some cases in every test
run; W2SG_FUZZ says how many.
"""
import argparse
import contextlib
import glob
import hashlib
import importlib
import io
import json
import os
import random
import shutil
import sys
import traceback

ODD_FLAG_VALUES = [
    "", " ", ".", "..", "/", "/dev/null", "/proc/none/x", "../../etc", "a" * 300, "ä/ö", "x\ny", "-", "--",
    "0", "-1", "nan", "inf", "1e999", "9" * 400, "½", "0x10", "true", "None", "[1]", "{}",
    "%s", "$(true)", "'; exit", "\udcff", "weak,weak", ",", "a,b,c", "tiny-9", "tiny-",
    "meta", "hpu", "cuda:99", "warp",
]
JUNK = [
    b"", b"[]", b"null", b"3", b'"text"', b"{", b'{"id": ', b"\xff\xfe\x00", b"\x00" * 40, b"{}", b"[" * 100_000,
    b'{"id": "' + b"x" * 1_000_000, b'{"a": 1' + b"0" * 5000 + b"}", b"true", b'{"id": "a" "b"}', b"{'id': 'a'}",
    b"id,label\na,1",
]
WRONG_TEXT = [None, 3, "", "  ", [], {}, True, "\ud800", ["a"], 1.5]
WRONG_LABEL = [2, -1, "1", None, [], {}, float("nan"), float("inf"), 0.5, 10 ** 400, "yes"]
WRONG_PAIR = [
    None, "yes", [], [0.5], [0.2, 0.3, 0.5], [0.9, 0.9], [-0.5, 1.5], [float("nan"), 0.5], ["0.5", "0.5"],
    [True, False], {}, 0.7, [None, 1], [10 ** 400, 0], [[0.5], [0.5]], [float("inf"), 0],
]
WRONG_VALUE = [None, -1, 0, 2 ** 40, "x", "", [], {}, float("nan"), 1.5, True, [1, 2]]


class Accepted(BaseException):
    """Raised where the work would begin."""


def accept(*args, **kwargs):
    raise Accepted


# --------------------------------------------------------------------------- ways to break a file
# Each is a function (rng, bytes of the file) -> other bytes, or None if the file is to be missing.

def break_line(rng, data, change):
    """One line is parsed, changed and written again."""
    lines = data.splitlines()
    k = rng.randrange(len(lines))
    lines[k] = json.dumps(change(json.loads(lines[k]))).encode()
    return b"\n".join(lines)


def cut_line(rng, data):
    lines = data.splitlines()
    k = rng.randrange(len(lines))
    lines[k] = lines[k][:rng.randrange(1, len(lines[k]))]
    return b"\n".join(lines)


def junk_line(rng, data):
    lines = data.splitlines()
    lines[rng.randrange(len(lines))] = rng.choice([junk for junk in JUNK if junk.strip()])
    return b"\n".join(lines)


def double_line(rng, data):
    lines = data.splitlines()
    return b"\n".join(lines + [rng.choice(lines)])


def without(row, key):
    return {k: v for k, v in row.items() if k != key}


def replace(key, values):
    """-> a way to break a file: one line has another value of this key"""
    return lambda rng, data: break_line(rng, data, lambda row: {**row, key: rng.choice(values)})


def lose(key):
    """-> a way to break a file: one line lacks this key"""
    return lambda rng, data: break_line(rng, data, lambda row: without(row, key))


def break_json(rng, data):
    """One value somewhere in a JSON object, or the whole of it."""
    if rng.random() < 0.4:
        return rng.choice([*JUNK, data[:len(data) // 2], None])
    whole = json.loads(data)
    place = whole
    while True:
        key = rng.choice(list(place))
        if not isinstance(place[key], dict) or not place[key] or rng.random() < 0.5:
            break
        place = place[key]
    if rng.random() < 0.3:
        del place[key]
    else:
        place[key] = rng.choice(WRONG_VALUE)
    return json.dumps(whole).encode()


def break_question(rng, data):
    """One question of a questionnaire loses or changes a value."""
    items = json.loads(data)
    k = rng.randrange(6)
    key = rng.choice(["id", "Dimension", "Domain", "Question", "Option 1", "Option 2"])
    changed = {**items[k], key: rng.choice(WRONG_TEXT)}
    items[k] = rng.choice([without(items[k], key), changed, rng.choice(WRONG_VALUE)])
    return json.dumps(items).encode()


def break_bytes(rng, data):
    """Some bytes anywhere are changed, or the end is missing."""
    if rng.random() < 0.4:
        return data[:rng.randrange(len(data))]
    data = bytearray(data)
    for _ in range(rng.randrange(1, 50)):
        data[rng.randrange(min(len(data), 3000))] = rng.randrange(256)
    return bytes(data)


def remove(rng, data):
    return None


def empty(rng, data):
    return b""


def to_utf16(rng, data):
    return data.decode().encode("utf-16")


def cut_in_half(rng, data):
    return data[:len(data) // 2]


def add_byte_order_mark(rng, data):
    return b"\xef\xbb\xbf" + data


def windows_line_ends(rng, data):
    return data.replace(b"\n", b"\r\n")


def add_blank_lines(rng, data):
    return data.replace(b"\n", b"\n\n")


WHOLE_FILE = [remove, empty, to_utf16]
ANY_FILE = [*WHOLE_FILE, cut_in_half, junk_line, cut_line]
HARMLESS = [add_byte_order_mark, windows_line_ends, add_blank_lines]
ROWS = [
    *ANY_FILE, double_line, replace("id", WRONG_TEXT), replace("group", WRONG_TEXT), replace("text", WRONG_TEXT),
    lose("id"), lose("group"), lose("text"),
]
LABELS = [
    *WHOLE_FILE, cut_in_half, junk_line, cut_line, double_line, replace("id", WRONG_TEXT), lose("id"),
    replace("soft_label", WRONG_PAIR), lose("soft_label"), replace("id", ["another"]),
]
TEXTS = [
    *ANY_FILE, double_line, replace("id", WRONG_TEXT), lose("id"), replace("text", WRONG_TEXT), lose("text"),
    replace("nats", WRONG_VALUE), lose("nats"),
]
SAMPLES = [
    *ANY_FILE, lose("id"), lose("texts"), replace("texts", [*WRONG_TEXT, [], [3], ["a"] * 9]),
    replace("text", WRONG_TEXT),
]
ANSWERS = [
    *ANY_FILE, double_line, lose("id"), lose("p"), replace("p", WRONG_VALUE), replace("log_p", WRONG_VALUE),
    replace("tokens", WRONG_VALUE), replace("id", WRONG_VALUE), replace("turn", WRONG_VALUE),
]


# --------------------------------------------------------------------------- the commands that read those files

STUDENT = ["train_strong.py", "--labels", "weak", "--ceiling", "ceiling", "--out", "new"]
ALIGN = ["auto_align.py", "--ladder", "tiny-1b"]
ICL = ["icl.py", "--labels", "weak", "--out", "new"]
OVERSIGHT = ["debate.py", "--mode", "none", "--supervisor", "weak"]
ENSEMBLE = ["ensemble.py", "--supervisor", "weak"]
ROW_READERS = [["train_weak.py"], STUDENT, ENSEMBLE, ICL, ALIGN, OVERSIGHT]         # each reads rows of a task


def data_path(house, *names):
    return os.path.join(house, "data", *names)


def read_json(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def rebuild_command(folder):
    """The command that made a finished run, from its config: the script, then the flags that have a value."""
    config = read_json(os.path.join(folder, "results.json"))["config"]
    command = [{"table": "align_tasks.py", "culture": "cdeval.py", "writer": "sft.py"}[config["role"]]]
    skipped = {"role", "inputs", "code", "seed"}
    if config["role"] == "culture":
        skipped.add("task")
    for key, value in config.items():
        if key in skipped or value in (None, False, ""):
            continue
        command.append("--" + key.replace("_", "-"))
        if isinstance(value, list):
            command += map(str, value)
        elif value is not True:
            command.append(str(value))
    return command


def first_id(house):
    with open(data_path(house, "tinyworld", "train2.jsonl"), encoding="utf-8") as f:
        return json.loads(f.readline())["id"]


# --------------------------------------------------------------------------- the cases, by kind
# Each function chooses a file, ways to break it, and a command that reads it.
# (rng, house, row_reader, runs) -> (path, ways, command, must the command refuse?)
# row_reader: one of ROW_READERS, already chosen; runs: the commands of three finished runs (see cases).

def rows_case(rng, house, row_reader, runs):
    split = rng.choice(["train1", "train2", "valid", "test"])
    path = data_path(house, "tinyworld", split + ".jsonl")
    if rng.random() < 0.1:
        return path, HARMLESS, row_reader, False
    ways = ROWS
    if split in ("train1", "test"):                        # these rows carry their labels
        ways = ROWS + [replace("label", WRONG_LABEL), lose("label")]
    return path, ways, row_reader, True


def labels_case(rng, house, row_reader, runs):
    run, command = rng.choice([
        ("seed0/weak", ["train_strong.py", "--labels", "weak", "--out", "new"]),
        ("truth", ["train_strong.py", "--labels", "truth", "--out", "new"]),
        ("seed0/ceiling", STUDENT),
        ("seed0/weak", ICL),
        ("seed0/weak", OVERSIGHT),
        ("seed0/weak", ENSEMBLE),
        ("seed0/weak", ALIGN),
    ])
    path = data_path(house, "tinyworld", run, "labels.jsonl")
    if rng.random() < 0.1:
        return path, HARMLESS, command, False
    reads_all_labels = command[0] == "train_strong.py"     # the others read some of them, and may miss the damage
    return path, LABELS, command, reads_all_labels


def results_case(rng, house, row_reader, runs):
    """A results.json says whether a run is finished, and with which flags a ceiling was made."""
    run, command = rng.choice([
        ("ceiling", STUDENT),
        ("weak", ["train_weak.py", "--epochs", "1"]),
        ("weak", ALIGN),
        ("weak", ["report.py"]),
        ("interaction", ["report.py"]),
        ("interaction", ["debate.py", "--mode", "interaction", "--show", first_id(house)]),
    ])
    return data_path(house, "tinyworld", "seed0", run, "results.json"), [break_json], command, False


def task_case(rng, house, row_reader, runs):
    return data_path(house, "tinyworld", "task.json"), [break_json], row_reader, False


def checkpoint_case(rng, house, row_reader, runs):
    model = os.path.join(house, "broken")
    name = rng.choice(["config.json", "config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
    ways = [break_bytes] if name == "model.safetensors" else [break_json]
    command = rng.choice([
        ["train_weak.py", "--model", model],
        ["icl.py", "--model", model, "--labels", "weak", "--out", "new"],
    ])
    return os.path.join(model, name), ways, command, False


def state_case(rng, house, row_reader, runs):
    """The files of a round, as an unfinished run of phase 2 leaves them."""
    name = rng.choice(["results.json", "evaluator.json", "audits.jsonl"])
    path = glob.glob(data_path(house, "tinyworld", "seed0", "align", "rounds-*", "round-1", name))[0]
    ways = [break_json] if name.endswith("json") else [junk_line, cut_line, lose("id"), lose("use")]
    return path, ways, [*ALIGN, "--audit", "4", "--doubt", "0.05", "--epochs", "1"], False


def writer_case(rng, house, row_reader, runs):
    """Continuations that sft.py learns from."""
    rows = ROWS + [replace("continuation", WRONG_TEXT), lose("continuation")] * 3
    name, ways, flags = rng.choice([
        ("train1.jsonl", rows, ["--labels", "train1"]),
        ("truth/continuations.jsonl", TEXTS, ["--labels", "truth"]),
        ("truth/continuations.jsonl", TEXTS, ["--labels", "weak", "--truth-budget", "3"]),
        ("seed0/weak/labels.jsonl", TEXTS, ["--labels", "weak", "--keep", "0.5"]),
        ("seed0/weak/labels.jsonl", TEXTS, ["--labels", "weak,weak-tiny-1c"]),
    ])
    return data_path(house, "toxicity", name), ways, [*runs["writer"], *flags, "--out", "new"], False


def table_case(rng, house, row_reader, runs):
    """Files that align_tasks.py and report.py make tables of."""
    choices = [(f"{seed}/table/results.json", [break_json]) for seed in ("seed0", "seed1")]
    for run in ("weak", "student", "ceiling"):
        choices += [(f"seed0/{run}/{name}", SAMPLES) for name in ("labels.jsonl", "samples.jsonl")]
    name, ways = rng.choice(choices)
    command = rng.choice([runs["table"], runs["table"], ["report.py", "--task", "toxicity"]])
    return data_path(house, "toxicity", name), ways, command, False


def culture_case(rng, house, row_reader, runs):
    """The questions, and the answers of a run that is unfinished or reported."""
    command = runs["culture"]
    name, ways, command = rng.choice([
        ("own.json", [break_question, break_question, break_bytes, *WHOLE_FILE], command),
        ("seed0/culture/answers-tiny-1a.jsonl", ANSWERS, [*command, "--weighting", "consistency"]),
        ("seed0/culture/results.json", [break_json], command),
        ("seed0/culture/results.json", [break_json], ["report.py", "--task", "toxicity"]),
    ])
    return data_path(house, "cdeval", name), ways, command, False


def own_case(rng, house, row_reader, runs):
    """A table of one's own rows."""
    path = os.path.join(house, "own.csv")
    command = [
        "data/own/prepare.py", "--rows", path,
        "--text", rng.choice(["text", "{text}", "{no}", "{", "nothing"]),
        "--label", rng.choice(["label", "label", "none"]),
        "--task", rng.choice(["mine", "mine", "mine", "../x", "a b", ""]),
    ]
    return path, [break_bytes, *WHOLE_FILE], command, False


def flag_case(rng, commands, flags):
    """-> a command with one flag that has an odd value, and sometimes with one word too many"""
    script = rng.choice(list(flags))
    flag, takes_value = rng.choice(flags[script])
    command = [*commands[script], flag]
    if takes_value:
        command.append(rng.choice(ODD_FLAG_VALUES))
    if rng.random() < 0.15:
        command.append(rng.choice(["--nothing", "stray", "-x", "--task"]))
    return command


KINDS = {"rows": rows_case, "labels": labels_case, "results": results_case, "task": task_case,
         "checkpoint": checkpoint_case, "own": own_case, "state": state_case, "writer": writer_case,
         "table": table_case, "culture": culture_case}     # and "flag", which breaks no file
MIX = ["rows", "rows", "labels", "labels", "results", "task", "checkpoint", "flag", "flag", "flag", "own", "state",
       "writer", "table", "culture"]


def cases(house, rng, kinds=()):
    """Yields cases for ever: (description, files to break {path: bytes or None}, command, must it be refused?)"""
    runs = {"table": rebuild_command(data_path(house, "toxicity", "seed0", "table")),
            "culture": rebuild_command(data_path(house, "cdeval", "seed0", "culture")),
            "writer": rebuild_command(data_path(house, "toxicity", "seed0", "student"))}
    every_command = [*ROW_READERS, runs["table"], runs["culture"], runs["writer"], ["report.py"]]
    commands = {command[0]: command for command in every_command}
    flags = {script: flags_of(script) for script in commands}
    while True:
        kind = rng.choice(kinds or MIX)
        row_reader = rng.choice(ROW_READERS)               # drawn for every kind, so that a seed gives the same cases
        if kind == "flag":
            command = flag_case(rng, commands, flags)
            yield " ".join(command), {}, command, False
            continue
        path, ways, command, must = KINDS[kind](rng, house, row_reader, runs)
        with open(path, "rb") as f:
            data = f.read()
        broken = rng.choice(ways)(rng, data)
        if broken != data:
            change = describe_change(data, broken)
            yield f"{os.path.relpath(path, house)} -> {change}: {' '.join(command)}", {path: broken}, command, must


def describe_change(data, broken):
    """What a case did to a file: it is gone, it is short enough to be shown, or the bytes around the first change."""
    if broken is None:
        return "gone"
    if len(broken) < 60:
        return repr(broken[:60])
    changed = (i for i, (x, y) in enumerate(zip(data, broken)) if x != y)
    k = next(changed, min(len(data), len(broken)))
    return f"byte {k}: {broken[max(0, k - 40):k + 40]!r}"


def flags_of(script):
    """[(flag, takes a value?)], from the script's parser"""
    found = []

    def list_flags(self, *args, **kwargs):
        for action in self._actions:
            if action.option_strings and action.dest not in ("help", "docs"):
                found.append((action.option_strings[0], action.nargs != 0))
        raise Accepted
    parse_args = argparse.ArgumentParser.parse_args
    argparse.ArgumentParser.parse_args = list_flags
    try:
        sys.argv = [script]
        importlib.import_module(script[:-3]).main()
    except Accepted:
        pass
    finally:
        argparse.ArgumentParser.parse_args = parse_args
    return found


# --------------------------------------------------------------------------- one case

@contextlib.contextmanager
def broken_files(files):
    """The files {path: bytes or None} are broken within the block, and whole again after it."""
    kept = {path: path + ".kept" for path in files}
    for path, data in files.items():
        os.replace(path, kept[path])
        if data is not None:
            with open(path, "wb") as f:
                f.write(data)
    yield
    for path in files:
        if os.path.exists(path):
            os.remove(path)
        os.replace(kept[path], path)


def judge_exit(code, error, must):
    """What is wrong with the way a script ended, or None. error: its stderr; must: should it have refused?"""
    n_errors = sum("error: " in line for line in error.splitlines())
    if code not in (0, 2) or code == 2 and n_errors != 1:
        return f"exit code {code}: {error[-1000:]}"
    if code == 2 and "usage:" not in error and not error.startswith("error: "):
        return f"more than one line: {error[-1000:]}"
    if must and code != 2:
        return "taken as if nothing was wrong"
    return None


def try_case(house, files, command, must):
    """-> (None if all is well, otherwise what went wrong; "accepted" or "refused")"""
    with broken_files(files):
        module = importlib.import_module("own.prepare" if command[0].startswith("data") else command[0][:-3])
        code = 0
        accepted = False
        finding = None
        sys.argv = command
        before = inputs_of(house)
        out = io.TextIOWrapper(io.BytesIO(), "utf-8")
        err = io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                module.main()
        except Accepted:
            accepted = True
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException:
            finding = traceback.format_exc()
        if finding is None:
            finding = judge_exit(code, err.getvalue(), must)
        if inputs_of(house) != before:
            finding = (finding or "") + "an input was changed"
    return finding, "accepted" if accepted or code == 0 else "refused"


def inputs_of(house):
    """A hash of all that no script may change: the rows, the truth, and other runs."""
    digest = hashlib.sha256()
    paths = [data_path(house, *names) for names in (
        ("tinyworld", "train1.jsonl"), ("tinyworld", "train2.jsonl"), ("tinyworld", "valid.jsonl"),
        ("tinyworld", "test.jsonl"), ("tinyworld", "task.json"), ("tinyworld", "truth", "labels.jsonl"),
        ("tinyworld", "seed0", "weak", "labels.jsonl"), ("tinyworld", "seed0", "ceiling", "labels.jsonl"),
        ("toxicity", "train1.jsonl"), ("toxicity", "truth", "continuations.jsonl"),
        ("toxicity", "seed0", "weak", "labels.jsonl"), ("cdeval", "own.json"),
    )]
    for path in [*paths, os.path.join(house, "own.csv")]:
        if os.path.exists(path):
            with open(path, "rb") as f:
                digest.update(f.read())
    return digest.hexdigest()


# --------------------------------------------------------------------------- preparations

def fingerprint_models_once():
    """The shipped models are large and stay as they are, so one fingerprint each is enough."""
    import contract
    compute = contract.fingerprint
    known = {}

    def fingerprint(path):
        if os.sep + "models" + os.sep not in path:
            return compute(path)
        if path not in known:
            known[path] = compute(path)
        return known[path]
    contract.fingerprint = fingerprint


WORK_BEGINS_IN = {
    "train_weak": ["open_run"],
    "train_strong": ["open_run"],
    "icl": ["open_run"],
    "ensemble": ["open_run", "train_member"],
    "debate": ["open_run", "open_language_model"],
    "auto_align": ["write_results", "play_round", "score_texts", "choose_evaluator"],
    "align_tasks": ["write_results", "write_file"],
    "sft": ["open_run"],
    "cdeval": ["write_results", "draw_figures", "answers_by_likelihood", "answers_by_generation"],
    "report": ["write_file", "draw_figures"],
}


def stop_before_the_work():
    """The functions that begin the work of a stage raise Accepted instead."""
    for name, functions in WORK_BEGINS_IN.items():
        module = importlib.import_module(name)
        for function in functions:
            assert hasattr(module, function), f"{name} has no {function}"
            setattr(module, function, accept)
    sys.modules["align_tasks"].run_all = lambda *_: None   # the checks that follow it are tested too
    for name in ("align_tasks", "cdeval", "auto_align"):
        sys.modules[name].open_run = lambda *_: contextlib.nullcontext()


def make_inputs(house):
    """A table of own rows, a model to be broken, and a table of seed 1 that is a copy of seed 0's."""
    with open(os.path.join(house, "own.csv"), "w", encoding="utf-8") as f:
        f.write("text,label\n" + "".join(f"Is {k} odd?,{k % 2}\n" for k in range(80)))
    tiny = data_path(house, "tinyworld", "models", "tiny-1a")
    shutil.copytree(tiny, os.path.join(house, "broken"), dirs_exist_ok=True)
    results = read_json(data_path(house, "toxicity", "seed0", "table", "results.json"))
    results["config"]["seed"] = 1
    os.makedirs(data_path(house, "toxicity", "seed1", "table"), exist_ok=True)
    with open(data_path(house, "toxicity", "seed1", "table", "results.json"), "w", encoding="utf-8") as f:
        json.dump(results, f)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--house", required=True)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=[], help=f"of these kinds only: flag, {', '.join(KINDS)}")
    args = parser.parse_args()
    sys.path[:0] = [args.house, os.path.join(args.house, "data")]
    os.chdir(args.house)
    os.environ["HF_HUB_OFFLINE"] = "1"
    import contract
    assert os.path.realpath(contract.ROOT) == os.path.realpath(args.house), "another folder's scripts were imported"
    fingerprint_models_once()
    stop_before_the_work()
    make_inputs(args.house)
    stream = cases(args.house, random.Random(args.seed), args.kinds)
    counts = {"accepted": 0, "refused": 0}
    findings = 0
    for _ in range(args.cases):
        description, files, command, must = next(stream)
        finding, outcome = try_case(args.house, files, command, must)
        counts[outcome] += 1
        if finding:
            findings += 1
            print(f"FINDING {findings}: {description}\n{finding}\n")
    print(f"{args.cases:,} cases: {counts['refused']:,} refused in one line, {counts['accepted']:,} accepted, "
          f"{findings} findings")
    raise SystemExit(1 if findings else 0)


if __name__ == "__main__":
    main()
