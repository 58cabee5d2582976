"""
Broken inputs by the hundred: whatever is wrong with a file or a flag, a script says so in one line, with exit code 2, and changes no input.

$ python tests/fuzz.py --house FOLDER --cases 1000 --seed 0       # FOLDER: what small_house of tests/test_robust.py makes

Each case breaks one thing (a line of a file, a whole file, a flag), calls a script's main() in this process, looks, and puts things back. A script that
accepts what it was given is stopped where the work would begin: what is tested is what comes before. Two outcomes are good: one line that
starts with "error:" and exit code 2; or, where the damage is none (a byte order mark, a blank line, a flag that happens to be allowed), the beginning
of the work. All else is a finding, printed with what made it. tests/test_robust.py runs some of them in every test run, W2SG_FUZZ says how many.
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

ODD = ["", " ", ".", "..", "/", "/dev/null", "/proc/none/x", "../../etc", "a" * 300, "ä/ö", "x\ny", "-", "--", "0", "-1", "nan", "inf", "1e999", "9" * 400, "½", "0x10",
       "true", "None", "[1]", "{}", "%s", "$(true)", "'; exit", "\udcff", "weak,weak", ",", "a,b,c", "tiny-9", "tiny-", "meta", "hpu", "cuda:99", "warp"]
JUNK = [b"", b"[]", b"null", b"3", b'"text"', b"{", b'{"id": ', b"\xff\xfe\x00", b"\x00" * 40, b"{}", b"[" * 100_000, b'{"id": "' + b"x" * 1_000_000, b'{"a": 1' + b"0" * 5000 + b"}",
        b"true", b'{"id": "a" "b"}', b"{'id': 'a'}", b"id,label\na,1"]
WRONG_TEXT = [None, 3, "", "  ", [], {}, True, "\ud800", ["a"], 1.5]
WRONG_LABEL = [2, -1, "1", None, [], {}, float("nan"), float("inf"), 0.5, 10 ** 400, "yes"]
WRONG_PAIR = [None, "yes", [], [0.5], [0.2, 0.3, 0.5], [0.9, 0.9], [-0.5, 1.5], [float("nan"), 0.5], ["0.5", "0.5"], [True, False], {}, 0.7, [None, 1], [10 ** 400, 0], [[0.5], [0.5]],
              [float("inf"), 0]]
WRONG_VALUE = [None, -1, 0, 2 ** 40, "x", "", [], {}, float("nan"), 1.5, True, [1, 2]]


class Accepted(BaseException):
    """Raised where the work would begin."""


def accept(*args, **kwargs):
    raise Accepted


# --------------------------------------------------------------------------- ways to break things: bytes -> bytes (None: the file goes away)

def break_line(rng, data, change):
    """One line, parsed, changed, written again."""
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


def replace(key, values):
    return lambda rng, data: break_line(rng, data, lambda row: {**row, key: rng.choice(values)})


def lose(key):
    return lambda rng, data: break_line(rng, data, lambda row: {k: v for k, v in row.items() if k != key})


ANY_FILE = [lambda rng, data: None, lambda rng, data: b"", lambda rng, data: data.decode().encode("utf-16"), lambda rng, data: data[:len(data) // 2], junk_line, cut_line]
HARMLESS = [lambda rng, data: b"\xef\xbb\xbf" + data, lambda rng, data: data.replace(b"\n", b"\r\n"), lambda rng, data: data.replace(b"\n", b"\n\n")]
ROWS = [*ANY_FILE, double_line, replace("id", WRONG_TEXT), replace("group", WRONG_TEXT), replace("text", WRONG_TEXT), lose("id"), lose("group"), lose("text")]
LABELS = [*ANY_FILE[:-2], junk_line, cut_line, double_line, replace("id", WRONG_TEXT), lose("id"), replace("soft_label", WRONG_PAIR), lose("soft_label"),
          replace("id", ["another"])]


def break_json(rng, data):
    """One value somewhere in a JSON object; or the whole of it."""
    if rng.random() < 0.4:
        return rng.choice([junk for junk in JUNK] + [data[:len(data) // 2], None])
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
    k, key = rng.randrange(6), rng.choice(["id", "Dimension", "Domain", "Question", "Option 1", "Option 2"])
    items[k] = rng.choice([{k: v for k, v in items[k].items() if k != key}, {**items[k], key: rng.choice(WRONG_TEXT)}, rng.choice(WRONG_VALUE)])
    return json.dumps(items).encode()


def break_bytes(rng, data):
    """Some bytes anywhere, or the end is missing."""
    if rng.random() < 0.4:
        return data[:rng.randrange(len(data))]
    data = bytearray(data)
    for _ in range(rng.randrange(1, 50)):
        data[rng.randrange(min(len(data), 3000))] = rng.randrange(256)
    return bytes(data)


# --------------------------------------------------------------------------- the cases

def made_by(path):
    """The command that made a finished run, from its config: the script, then those flags that have a value."""
    with open(path, encoding="utf-8") as f:
        config = json.load(f)["config"]
    yield {"table": "align_tasks.py", "culture": "cdeval.py", "writer": "sft.py"}[config["role"]]
    skipped = ("role", "inputs", "code", "seed") + ("task",) * (config["role"] == "culture")
    for key, value in config.items():
        if key not in skipped and value not in (None, False, ""):
            values = [] if value is True else map(str, value) if isinstance(value, list) else [str(value)]
            yield from ["--" + key.replace("_", "-"), *values]


def cases(house, rng, kinds=()):
    """Forever: (what it is, files to break {path: bytes or None}, command, must it be refused?)"""
    world = os.path.join(house, "data", "tinyworld")
    seed0, toxicity, cdeval = os.path.join(world, "seed0"), os.path.join(house, "data", "toxicity"), os.path.join(house, "data", "cdeval")
    table, culture, writer = (list(made_by(os.path.join(folder, "results.json"))) for folder in (
        os.path.join(toxicity, "seed0", "table"), os.path.join(cdeval, "seed0", "culture"), os.path.join(toxicity, "seed0", "student")))
    readers = {"train_weak.py": [], "train_strong.py": ["--labels", "weak", "--ceiling", "ceiling", "--out", "new"], "ensemble.py": ["--supervisor", "weak"],
               "icl.py": ["--labels", "weak", "--out", "new"], "auto_align.py": ["--ladder", "tiny-1b"], "debate.py": ["--mode", "none", "--supervisor", "weak"]}
    others = {"align_tasks.py": table[1:], "cdeval.py": culture[1:], "sft.py": writer[1:], "report.py": []}
    flags = {script: flags_of(script) for script in [*readers, *others]}
    while True:
        kind = rng.choice(kinds or ["rows", "rows", "labels", "labels", "results", "task", "checkpoint", "flag", "flag", "flag", "own", "state", "writer", "table", "culture"])
        script = rng.choice(list(readers))
        command, must = [script, *readers[script]], True
        if kind == "rows":
            split = rng.choice(["train1", "train2", "valid", "test"])
            path, ways = os.path.join(world, split + ".jsonl"), ROWS + [replace("label", WRONG_LABEL), lose("label")] * (split in ("train1", "test"))
            if rng.random() < 0.1:
                ways, must = HARMLESS, False
        elif kind == "labels":
            where, command = rng.choice([("weak", ["train_strong.py", "--labels", "weak", "--out", "new"]), ("truth", ["train_strong.py", "--labels", "truth", "--out", "new"]),
                                         ("ceiling", ["train_strong.py", *readers["train_strong.py"]]), ("weak", ["icl.py", "--labels", "weak", "--out", "new"]),
                                         ("weak", ["debate.py", "--mode", "none", "--supervisor", "weak"]), ("weak", ["ensemble.py", "--supervisor", "weak"]),
                                         ("weak", ["auto_align.py", "--ladder", "tiny-1b"])])
            path, ways = os.path.join(world if where == "truth" else seed0, where, "labels.jsonl"), LABELS
            if rng.random() < 0.1:
                ways, must = HARMLESS, False
            elif command[0] in ("icl.py", "debate.py", "ensemble.py", "auto_align.py"):
                must = False                               # some read a part of the labels alone
        elif kind == "results":                            # whether a run is done, and what a ceiling was made with
            path, command = rng.choice([(os.path.join(seed0, "ceiling", "results.json"), ["train_strong.py", *readers["train_strong.py"]]),
                                        (os.path.join(seed0, "weak", "results.json"), ["train_weak.py", "--epochs", "1"]),
                                        (os.path.join(seed0, "weak", "results.json"), ["auto_align.py", "--ladder", "tiny-1b"]),
                                        (os.path.join(seed0, "weak", "results.json"), ["report.py"]),
                                        (os.path.join(seed0, "interaction", "results.json"), ["report.py"]),
                                        (os.path.join(seed0, "interaction", "results.json"), ["debate.py", "--mode", "interaction", "--show", first_id(world)])])
            ways, must = [break_json], False
        elif kind == "task":
            path, ways, must = os.path.join(world, "task.json"), [break_json], False
        elif kind == "checkpoint":
            model = os.path.join(house, "broken")
            path = os.path.join(model, rng.choice(["config.json", "config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]))
            ways, must = [break_bytes if path.endswith("safetensors") else break_json], False
            command = rng.choice([["train_weak.py", "--model", model], ["icl.py", "--model", model, "--labels", "weak", "--out", "new"]])
        elif kind == "state":                              # what an unfinished run left
            name = rng.choice(["results.json", "evaluator.json", "audits.jsonl"])
            path = glob.glob(os.path.join(seed0, "align", "rounds-*", "round-1", name))[0]
            ways = [break_json] if name.endswith("json") else [junk_line, cut_line, lose("id"), lose("use")]
            must = False
            command = ["auto_align.py", "--ladder", "tiny-1b", "--audit", "4", "--doubt", "0.05", "--epochs", "1"]
        elif kind == "writer":                             # somebody's continuations
            texts = [*ANY_FILE, double_line, replace("id", WRONG_TEXT), lose("id"), replace("text", WRONG_TEXT), lose("text"), replace("nats", WRONG_VALUE), lose("nats")]
            path, ways, learns = rng.choice([
                (os.path.join(toxicity, "train1.jsonl"), ROWS + [replace("continuation", WRONG_TEXT), lose("continuation")] * 3, ["--labels", "train1"]),
                (os.path.join(toxicity, "truth", "continuations.jsonl"), texts, ["--labels", "truth"]),
                (os.path.join(toxicity, "truth", "continuations.jsonl"), texts, ["--labels", "weak", "--truth-budget", "3"]),
                (os.path.join(toxicity, "seed0", "weak", "labels.jsonl"), texts, ["--labels", "weak", "--keep", "0.5"]),
                (os.path.join(toxicity, "seed0", "weak", "labels.jsonl"), texts, ["--labels", "weak,weak-tiny-1c"])])
            command, must = [*writer, *learns, "--out", "new"], False
        elif kind == "table":                              # what align_tasks.py and report.py make tables of
            path, ways = rng.choice([(os.path.join(toxicity, seed, "table", "results.json"), [break_json]) for seed in ("seed0", "seed1")]
                                    + [(os.path.join(toxicity, "seed0", run, name), [*ANY_FILE, lose("id"), lose("texts"), replace("texts", [*WRONG_TEXT, [], [3], ["a"] * 9]), replace("text", WRONG_TEXT)])
                                       for run in ("weak", "student", "ceiling") for name in ("labels.jsonl", "samples.jsonl")])
            command, must = rng.choice([table, table, ["report.py", "--task", "toxicity"]]), False
        elif kind == "culture":                            # questions, and answers of a run that was not finished or is reported
            path, ways, command = rng.choice([
                (os.path.join(cdeval, "own.json"), [break_question, break_question, break_bytes, ANY_FILE[0], ANY_FILE[1], ANY_FILE[2]], culture),
                (os.path.join(cdeval, "seed0", "culture", "answers-tiny-1a.jsonl"),
                 [*ANY_FILE, double_line, lose("id"), lose("p"), *(replace(key, WRONG_VALUE) for key in ("p", "log_p", "tokens", "id", "turn"))], [*culture, "--weighting", "consistency"]),
                (os.path.join(cdeval, "seed0", "culture", "results.json"), [break_json], culture),
                (os.path.join(cdeval, "seed0", "culture", "results.json"), [break_json], ["report.py", "--task", "toxicity"])])
            must = False
        elif kind == "own":
            path, ways, must = os.path.join(house, "own.csv"), [break_bytes, ANY_FILE[0], ANY_FILE[1], ANY_FILE[2]], False
            command = ["data/own/prepare.py", "--rows", path, "--text", rng.choice(["text", "{text}", "{no}", "{", "nothing"]), "--label", rng.choice(["label", "label", "none"]),
                       "--task", rng.choice(["mine", "mine", "mine", "../x", "a b", ""])]
        else:
            script = rng.choice(list(flags))
            flag, takes = rng.choice(flags[script])
            command = [script, *(readers | others)[script], flag, *([rng.choice(ODD)] if takes else [])]
            if rng.random() < 0.15:
                command.append(rng.choice(["--nothing", "stray", "-x", "--task"]))
            yield " ".join(command), {}, command, False
            continue
        with open(path, "rb") as f:
            data = f.read()
        broken = rng.choice(ways)(rng, data)
        if broken != data:
            yield f"{os.path.relpath(path, house)} -> {'gone' if broken is None else repr(broken[:60]) if len(broken) < 60 else difference(data, broken)}: {' '.join(command)}", \
                {path: broken}, command, must


def first_id(world):
    with open(os.path.join(world, "train2.jsonl"), encoding="utf-8") as f:
        return json.loads(f.readline())["id"]


def second_seed(task):
    """The table of seed 0 again, as if seed 1 had come to the same."""
    with open(os.path.join(task, "seed0", "table", "results.json"), encoding="utf-8") as f:
        results = json.load(f)
    results["config"]["seed"] = 1
    os.makedirs(os.path.join(task, "seed1", "table"), exist_ok=True)
    with open(os.path.join(task, "seed1", "table", "results.json"), "w", encoding="utf-8") as f:
        json.dump(results, f)


def difference(a, b):
    k = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return f"byte {k}: {b[max(0, k - 40):k + 40]!r}"


def flags_of(script):
    """[(flag, takes a value?)], from its parser."""
    found = []

    def look(self, *args, **kwargs):
        found.extend((action.option_strings[0], action.nargs != 0) for action in self._actions if action.option_strings and action.dest not in ("help", "docs"))
        raise Accepted
    parse, argparse.ArgumentParser.parse_args = argparse.ArgumentParser.parse_args, look
    try:
        sys.argv = [script]
        importlib.import_module(script[:-3]).main()
    except Accepted:
        pass
    finally:
        argparse.ArgumentParser.parse_args = parse
    return found


def try_one(house, files, command, must):
    """-> None if all is well, else what is not"""
    kept = {}
    for path, data in files.items():
        kept[path] = path + ".kept"
        os.replace(path, kept[path])
        if data is not None:
            with open(path, "wb") as f:
                f.write(data)
    module = importlib.import_module("own.prepare" if command[0].startswith("data") else command[0][:-3])
    err, code, accepted, finding = io.StringIO(), 0, False, None
    sys.argv = command
    before = inputs_of(house)
    try:
        with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8")), contextlib.redirect_stderr(err):
            module.main()
    except Accepted:
        accepted = True
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        finding = traceback.format_exc()
    lines = [line for line in err.getvalue().splitlines() if "error: " in line]
    if finding is None and (code not in (0, 2) or code == 2 and len(lines) != 1):
        finding = f"exit code {code}: {err.getvalue()[-1000:]}"
    if finding is None and code == 2 and "usage:" not in err.getvalue() and not err.getvalue().startswith("error: "):
        finding = f"more than one line: {err.getvalue()[-1000:]}"
    if finding is None and must and code != 2:
        finding = "taken as if nothing was wrong"
    if inputs_of(house) != before:
        finding = (finding or "") + "an input was changed"
    for path in files:
        if os.path.exists(path):
            os.remove(path)
        os.replace(kept[path], path)
    return finding, "accepted" if accepted or code == 0 else "refused"


def inputs_of(house):
    """What no script may change: the rows, the truth, and other runs."""
    world, digest = os.path.join(house, "data", "tinyworld"), hashlib.sha256()
    names = [f"{s}.jsonl" for s in ("train1", "train2", "valid", "test")] + ["task.json", "truth/labels.jsonl", "seed0/weak/labels.jsonl", "seed0/ceiling/labels.jsonl",
             "../toxicity/train1.jsonl", "../toxicity/truth/continuations.jsonl", "../toxicity/seed0/weak/labels.jsonl", "../cdeval/own.json"]
    for path in [*(os.path.join(world, name) for name in names), os.path.join(house, "own.csv")]:
        if os.path.exists(path):
            with open(path, "rb") as f:
                digest.update(f.read())
    return digest.hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--house", required=True)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=[], help="of these kinds only (see cases)")
    args = parser.parse_args()
    sys.path[:0] = [args.house, os.path.join(args.house, "data")]
    os.chdir(args.house)
    os.environ["HF_HUB_OFFLINE"] = "1"
    import contract
    assert os.path.realpath(contract.ROOT) == os.path.realpath(args.house), "the scripts of another folder were imported"
    fingerprints = {}

    def fingerprint(path, real=contract.fingerprint):      # of models, which are large and stay as they are
        if os.sep + "models" + os.sep not in path:
            return real(path)
        return fingerprints.setdefault(path, None) or fingerprints.__setitem__(path, real(path)) or fingerprints[path]
    contract.fingerprint = fingerprint
    begins = {"train_weak": ["open_run"], "train_strong": ["open_run"], "icl": ["open_run"], "ensemble": ["open_run", "train_member"],
              "debate": ["open_run", "open_language_model"],
              "auto_align": ["write_results", "play_round", "score_texts", "choose_evaluator"],
              "align_tasks": ["write_results", "write_file"], "sft": ["open_run"],
              "cdeval": ["write_results", "draw_figures", "answers_by_likelihood", "answers_by_generation"],
              "report": ["write_file", "draw_figures"]}
    for name, functions in begins.items():
        module = importlib.import_module(name)
        for function in functions:
            assert hasattr(module, function), f"{name} has no {function}"
            setattr(module, function, accept)
    sys.modules["align_tasks"].run_all = lambda *_: None                       # what comes after is looked at, too
    for name in ("align_tasks", "cdeval", "auto_align"):
        sys.modules[name].open_run = lambda *_: contextlib.nullcontext()
    with open(os.path.join(args.house, "own.csv"), "w", encoding="utf-8") as f:
        f.write("text,label\n" + "".join(f"Is {k} odd?,{k % 2}\n" for k in range(80)))
    rng, counts = random.Random(args.seed), {"accepted": 0, "refused": 0}
    shutil.copytree(os.path.join(args.house, "data", "tinyworld", "models", "tiny-1a"), os.path.join(args.house, "broken"), dirs_exist_ok=True)
    second_seed(os.path.join(args.house, "data", "toxicity"))
    stream, findings = cases(args.house, rng, args.kinds), 0
    for _ in range(args.cases):
        what, files, command, must = next(stream)
        finding, outcome = try_one(args.house, files, command, must)
        counts[outcome] += 1
        if finding:
            findings += 1
            print(f"FINDING {findings}: {what}\n{finding}\n")
    print(f"{args.cases:,} cases: {counts['refused']:,} refused in one line, {counts['accepted']:,} taken for good enough, {findings} findings")
    raise SystemExit(1 if findings else 0)


if __name__ == "__main__":
    main()
