"""
Broken inputs by the hundred. Each is given to a real command that runs to its end, in a copy of a small project.

$ python tests/fuzz.py --folder FOLDER --cases 300                    # the cases 0 to 299
$ python tests/fuzz.py --folder FOLDER --cases 1 --first 217          # one of them again

A case breaks one thing: a line of a file, a whole file, the kind of a file (a pipe in its place), a flag. The process
of the command is forked from this one, which has imported torch. What it leaves is compared with what it leaves without
damage:

    refused     exit code 2, and one line that begins with "error: "
    same        exit code 0, and the same numbers: the damage does no harm, or what was damaged is made again
    named       exit code 0, other numbers, and a line "note: ..." that says why
    other       exit code 0, other numbers, from a file of the user's own that is valid still, or with another flag

Everything else is a finding, printed with its case: a traceback, other numbers without a word (silent), a command that
does not end (hang), or an input that was changed. A table of counts comes last. tests/test_robust.py runs some cases in
every test run; W2SG_FUZZ says how many.
"""
import argparse
import glob
import importlib
import json
import os
import random
import re
import resource
import runpy
import shutil
import signal
import sys
import traceback
from collections import Counter, defaultdict

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NORMALIZED = {}                                            # source of Python files: contract.normalize_code of it
LIMIT = 60                                                 # seconds of a CPU that a command may take; it needs one
PATIENCE = 900                                             # seconds until it must have ended, on a busy machine too
GOOD = ("refused", "same", "named", "other")
BAD = ("traceback", "silent", "hang", "changed")
ODD_FLAG_VALUES = [
    "", " ", ".", "..", "/", "/dev/null", "/proc/none/x", "../../etc", "a" * 300, "ä/ö", "x\ny", "-", "--",
    "0", "-1", "nan", "inf", "1e999", "9" * 400, "½", "0x10", "true", "None", "[1]", "{}",
    "%s", "$(true)", "'; exit", "\udcff", "weak,weak", ",", "a,b,c", "tiny-9", "tiny-", "\x1b[31m", "data/nowhere/x",
    "meta", "hpu", "cuda:99", "warp", "micro/config.json", "data/tinyworld", "pipe",
]
JUNK = [
    b"", b"[]", b"null", b"3", b'"text"', b"{", b'{"id": ', b"\xff\xfe\x00", b"\x00" * 40, b"{}", b"[" * 100_000,
    b'{"id": "' + b"x" * 1_000_000, b'{"a": 1' + b"0" * 5000 + b"}", b"true", b'{"id": "a" "b"}', b"{'id': 'a'}",
    b"id,label\na,1", b'{"id": "a", "id": "b"}', b'{"id": "\\ud800"}',
]
WRONG_TEXT = [None, 3, "", "  ", [], {}, True, "\ud800", ["a"], 1.5]
WRONG_LABEL = [2, -1, "1", None, [], {}, float("nan"), float("inf"), 0.5, 10 ** 400, "yes"]
WRONG_PAIR = [
    None, "yes", [], [0.5], [0.2, 0.3, 0.5], [0.9, 0.9], [-0.5, 1.5], [float("nan"), 0.5], ["0.5", "0.5"],
    [True, False], {}, 0.7, [None, 1], [10 ** 400, 0], [[0.5], [0.5]], [float("inf"), 0],
]
WRONG_VALUE = [None, -1, 0, 7, 10 ** 9, 2 ** 40, 1e308, "x", "", "\x1b[2J", [], {}, float("nan"), 1.5, True, [1, 2]]
TEMPLATES = [
    "{{ raise_exception('no') }}", "{% for", "", " ", "{{ messages[9].content }}", "{{ 1 // 0 }}", "no text",
    "{{ x.y }}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(9) %}{% endfor %}{% endfor %}{% endfor %}",
]


# --------------------------------------------------------------------------- ways to break a file
# Each is a function (rng, bytes of the file) -> other bytes, or one of the kinds of files of put_in_place.

def break_line(rng, data, change):
    """One line is parsed, changed and written again."""
    lines = data.splitlines()
    k = rng.randrange(len(lines))
    lines[k] = json.dumps(change(json.loads(lines[k]))).encode()
    return b"\n".join(lines) + b"\n"


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
    return b"\n".join(lines + [rng.choice(lines)]) + b"\n"


def lose_line(rng, data):
    lines = data.splitlines(keepends=True)
    del lines[rng.randrange(len(lines))]
    return b"".join(lines)


def swap_lines(rng, data):
    """The order of lines never matters: all is joined by id."""
    lines = data.splitlines(keepends=True)
    return b"".join(rng.sample(lines, len(lines)))


def replace(key, values):
    """-> a way to break a file: one line has another value of this key"""
    return lambda rng, data: break_line(rng, data, lambda row: {**row, key: rng.choice(values)})


def lose(key):
    """-> a way to break a file: one line lacks this key"""
    return lambda rng, data: break_line(rng, data, lambda row: {k: v for k, v in row.items() if k != key})


def break_json(rng, data):
    """One value somewhere in a JSON object, or the whole of it."""
    if rng.random() < 0.3:
        return rng.choice([*JUNK, data[:len(data) // 2]])
    whole = json.loads(data)
    place = whole
    while True:
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if not isinstance(place[key], (dict, list)) or not place[key] or rng.random() < 0.4:
            break
        place = place[key]
    if rng.random() < 0.3:
        del place[key]
    else:
        place[key] = rng.choice(WRONG_VALUE)
    return json.dumps(whole).encode()


def break_bytes(rng, data):
    """Some bytes anywhere are changed, or the end is missing."""
    if rng.random() < 0.4:
        return data[:rng.randrange(len(data))]
    data = bytearray(data)
    for _ in range(rng.randrange(1, 50)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def new_template(rng, data):
    return json.dumps({**json.loads(data), "chat_template": rng.choice(TEMPLATES)}).encode()


def kind_of_file(kind):
    return lambda rng, data: kind


MISSING, PIPE, FOLDER, LOOP = "missing", "pipe", "folder", "loop"              # in place of the file
WHOLE_FILE = [
    *map(kind_of_file, (MISSING, PIPE, FOLDER, LOOP)), lambda rng, data: b"",
    lambda rng, data: data.decode().encode("utf-16"), lambda rng, data: data[:len(data) // 2],
]
HARMLESS = [
    lambda rng, data: b"\xef\xbb\xbf" + data, lambda rng, data: data.replace(b"\n", b"\r\n"),
    lambda rng, data: data.replace(b"\n", b"\n\n"),
]
ANY_LINES = [*WHOLE_FILE, junk_line, cut_line, double_line, lose_line, replace("id", WRONG_TEXT), lose("id")]
ROWS = [*ANY_LINES, *HARMLESS]
for field in ("group", "text", "question", "answer", "support", "choices"):
    ROWS += [replace(field, WRONG_TEXT), lose(field)]
LABELED_ROWS = [*ROWS, replace("label", WRONG_LABEL), lose("label")]
LABELS = [
    *ANY_LINES, *HARMLESS, swap_lines, replace("id", ["another"]), replace("soft_label", WRONG_PAIR),
    lose("soft_label"), replace("soft_label", [[0.9, 0.1], [0.1, 0.9]]),
]
WRONG_ROUNDS = [*WRONG_VALUE, [], [{}], [{"note": 3}], [{"note": "x"}, {"note": "y"}], [{"judge": "x"}]]
TRANSCRIPTS = [*ANY_LINES, swap_lines, lose("rounds"), replace("rounds", WRONG_ROUNDS)]
HUMAN = [*ANY_LINES, swap_lines, lose("p_yes"), lose("saw"), replace("p_yes", [7, -3, "x", None, True, float("nan")]),
         replace("saw", [None, "", 3])]
AUDITS = [*ANY_LINES, lose("use"), replace("label", WRONG_LABEL), replace("use", [*WRONG_TEXT, "x"])]
ANSWERS = [*ANY_LINES, lose("p")]
ANSWERS += [replace(key, WRONG_VALUE) for key in ("p", "log_p", "tokens", "id", "turn", "style")]
TEXTS = [*ANY_LINES, replace("text", WRONG_TEXT), lose("text")]
SAMPLES = [*ANY_LINES, swap_lines, lose("texts"), replace("texts", [*WRONG_VALUE, ["a", "b"], [3], [None]])]
JSON_FILE = [*WHOLE_FILE, *[break_json] * 10]


# --------------------------------------------------------------------------- the commands, and what they leave

WORLD = "data/tinyworld"
SEED0 = WORLD + "/seed0"
QUIZ = "data/quiz"                                         # a user's own table, with two annotators
MICRO = ["--model", "micro", "--epochs", "1"]
NEW = ["--out", "new"]
# name -> (command, the folders or files that it leaves)
COMMANDS = {
    "weak": (["train_weak.py", *MICRO], [f"{SEED0}/weak"]),
    "ceiling": (["train_strong.py", "--labels", "truth", "--out", "ceiling", *MICRO], [f"{SEED0}/ceiling"]),
    "student": (["train_strong.py", "--labels", "weak", "--ceiling", "ceiling", *MICRO], [f"{SEED0}/student"]),
    "ensemble": (["ensemble.py", "--members", "2", *MICRO], [f"{SEED0}/ensemble"]),
    "interaction": (["debate.py", "--mode", "interaction", "--assistant", "micro", *MICRO], [f"{SEED0}/interaction"]),
    "human": (["debate.py", "--mode", "none", "--judge", "human", "--max-rows", "2", *MICRO], [f"{SEED0}/none-human"]),
    "icl": (["icl.py", "--labels", "weak", "--model", "micro", "--shots", "1"], [f"{SEED0}/icl"]),
    "align": (["auto_align.py", "--ladder", "micro", "--audit", "2", "--doubt", "0.05", "--epochs", "1"],
              [f"{SEED0}/align"]),
    "culture": (["cdeval.py", "--models", "micro", "chat", "--max-rows", "4", "--batch-size", "12"],
                ["data/cdeval/seed0/culture"]),
    "report": (["report.py", "--task", "tinyworld", "--html"], [f"{WORLD}/report.md"]),
    "writer": (["sft.py", "--labels", "train1", "--out", "weak", "--prompts", "2", "--samples", "1", *MICRO],
               ["data/toxicity/seed0/weak"]),
    "learner": (["sft.py", "--labels", "weak", "--keep", "0.5", "--truth-budget", "2", "--prompts", "2", "--samples",
                 "1", *MICRO], ["data/toxicity/seed0/student"]),
    "own": (["data/own/prepare.py", "--rows", "own.csv", "--text", "text", "--label", "label", "--task", "mine"],
            ["data/mine"]),
    "own-gz": (["data/own/prepare.py", "--rows", "own.jsonl.gz", "--text", "text", "--label", "label", "--task",
                "mine"], ["data/mine"]),
    "own-parquet": (["data/own/prepare.py", "--rows", "own.parquet", "--text", "text", "--label", "label", "--task",
                     "mine"], ["data/mine"]),
    "prepare": (["data/tinyworld/prepare.py", "--out", "world"], ["world"]),
    "quiz": (["data/own/prepare.py", "--rows", "own.csv", "--text", "Is it so? {text}", "--label", "label",
              "--soft-label", "ann,bob", "--task", "quiz"], [QUIZ]),
    "fused": (["ensemble.py", "--task", "quiz", "--supervisors", "ann,bob", "--combine", "dawid-skene", "--out",
               "fused"], [f"{QUIZ}/seed0/fused"]),
    "marker": (["train_weak.py", "--task", "quiz", *MICRO], [f"{QUIZ}/seed0/weak"]),
    "predict": (["predict.py", "--model", f"{QUIZ}/seed0/weak", "--rows", "new.csv", "--out", "labelled.csv"],
                ["labelled.csv"]),
    "predict-jsonl": (["predict.py", "--model", f"{QUIZ}/seed0/weak", "--rows", "new.jsonl", "--text", "text", "--out",
                       "labelled.jsonl"], ["labelled.jsonl"]),
    "table": (["align_tasks.py", "--task", "toxicity", "--epochs", "1", "--prompts", "2", "--samples", "1", "--model",
               "micro", "--supervisor-model", "micro", "--ladder", "micro", "--members", "micro,chat", "--reader",
               "micro"], ["data/toxicity/seed0/table", "data/toxicity/table.json"]),
}
MADE = ["weak", "ceiling", "student", "ensemble", "interaction", "human", "icl", "align", "culture", "writer",
        "quiz", "fused", "marker", "table"]              # are finished before the first case
READ_ROWS = ["new weak", "new student", "new ensemble", "new icl", "new align", "new interaction"]
for name in ("weak", "student", "ensemble", "icl", "align", "interaction"):
    COMMANDS["new " + name] = ([*COMMANDS[name][0], *NEW], [f"{SEED0}/new"])
COMMANDS["again align"] = ([*COMMANDS["align"][0], "--force"], [f"{SEED0}/align"])
COMMANDS["other judge"] = ([*COMMANDS["interaction"][0], "--judge", "prompted", *NEW], [f"{SEED0}/new"])
COMMANDS["new ceiling"] = (["train_strong.py", "--labels", "truth", *NEW, *MICRO], [f"{SEED0}/new"])
COMMANDS["other fusion"] = ([*COMMANDS["ensemble"][0], "--combine", "vote", *NEW], [f"{SEED0}/new"])
COMMANDS["new fused"] = ([*COMMANDS["fused"][0][:-1], "new"], [f"{QUIZ}/seed0/new"])
COMMANDS["new marker"] = ([*COMMANDS["marker"][0], *NEW], [f"{QUIZ}/seed0/new"])
COMMANDS["new learner"] = ([*COMMANDS["learner"][0], *NEW], ["data/toxicity/seed0/new"])
COMMANDS["new writer"] = ([*COMMANDS["writer"][0][:3], *NEW, *COMMANDS["writer"][0][5:]], ["data/toxicity/seed0/new"])
COMMANDS["weighted"] = ([*COMMANDS["culture"][0], "--weighting", "consistency"], ["data/cdeval/seed0/culture"])
COMMANDS["report table"] = (["report.py", "--task", "toxicity"], ["data/toxicity/report.md"])
for name in ("weak", "icl"):                               # with a model that is to be broken
    words = ["broken" if word == "micro" else word for word in COMMANDS["new " + name][0]]
    COMMANDS["broken " + name] = (words, [f"{SEED0}/new"])
COMMANDS["broken culture"] = (["cdeval.py", "--models", "broken", "--max-rows", "2", *NEW], ["data/cdeval/seed0/new"])

# kind -> a list of (pattern of files, ways to break them, names of commands that read them, is it a user's own file?)
KINDS = {
    "rows": [(f"{WORLD}/{split}.jsonl", LABELED_ROWS if split in ("train1", "test") else ROWS, READ_ROWS, False)
             for split in ("train1", "train2", "valid", "test")],
    "labels": [(f"{SEED0}/weak/labels.jsonl", LABELS, ["new student", "new icl", "new ensemble", "new align"], False),
               (f"{SEED0}/ceiling/labels.jsonl", LABELS, ["new student", "report"], False),
               (f"{WORLD}/truth/labels.jsonl", LABELS[:-1], ["new ceiling", "new align"], False)],
    "results": [(f"{SEED0}/weak/results.json", JSON_FILE, ["weak", "report", "new align", "new student"], False),
                (f"{SEED0}/ceiling/results.json", JSON_FILE, ["new student", "report", "ceiling"], False),
                (f"{SEED0}/interaction/results.json", JSON_FILE, ["interaction", "report"], False),
                (f"{SEED0}/align/results.json", JSON_FILE, ["align", "again align", "report"], False),
                ("data/cdeval/seed0/culture/results.json", JSON_FILE, ["culture", "report"], False)],
    "task": [(f"{WORLD}/task.json", JSON_FILE, READ_ROWS, False)],
    "model": [("broken/config.json", JSON_FILE, ["broken weak", "broken icl", "broken culture"], True),
              ("broken/tokenizer*.json", JSON_FILE, ["broken weak", "broken icl"], True),
              ("broken/generation_config.json", JSON_FILE, ["broken culture"], True),
              ("broken/model.safetensors", [break_bytes, *WHOLE_FILE[:5]], ["broken weak", "broken icl"], True),
              ("broken/tokenizer_config.json", [new_template], ["broken icl", "broken culture"], True)],
    "rounds": [(f"{SEED0}/align/rounds-*/round-1/{name}", ways, ["align", "again align"], False)
               for name, ways in (("results.json", JSON_FILE), ("evaluator.json", JSON_FILE),
                                  ("audits.jsonl", AUDITS))],
    "transcripts": [(f"{SEED0}/transcripts/*/transcripts.jsonl", TRANSCRIPTS, ["interaction", "other judge"], False),
                    (f"{SEED0}/transcripts/*/config.json", JSON_FILE, ["interaction", "other judge"], False)],
    "human": [(f"{SEED0}/none-human/answers.jsonl", HUMAN, ["human"], False)],
    "members": [(f"{SEED0}/members-*/member-0/member.json", JSON_FILE, ["other fusion"], False),
                (f"{SEED0}/members-*/member-0/labels.jsonl", LABELS, ["other fusion"], False)],
    "texts": [("data/toxicity/truth/continuations.jsonl", TEXTS, ["new learner"], False),
              ("data/toxicity/seed0/weak/labels.jsonl",
               [*TEXTS, replace("nats", WRONG_VALUE), lose("nats")], ["new learner"], False),
              ("data/toxicity/train1.jsonl",
               [*LABELED_ROWS, replace("continuation", WRONG_TEXT), lose("continuation")], ["new writer"], False)],
    "culture": [("data/cdeval/own.json", JSON_FILE, ["culture"], True),
                ("data/cdeval/forms.json", JSON_FILE, ["culture"], True),
                ("data/cdeval/seed0/culture/answers-*.jsonl", ANSWERS, ["weighted"], False)],
    "own": [("own.csv", [break_bytes, *WHOLE_FILE, *HARMLESS], ["own"], True),
            ("own.jsonl.gz", [break_bytes, *WHOLE_FILE[:5]], ["own-gz"], True),
            ("own.parquet", [break_bytes, *WHOLE_FILE[:5]], ["own-parquet"], True)],
    "annotators": [(f"{QUIZ}/ann/labels.jsonl", LABELS, ["new fused"], True),
                   (f"{QUIZ}/task.json", JSON_FILE, ["new fused", "new marker", "predict"], False)],
    "predict": [("new.csv", [break_bytes, *WHOLE_FILE, *HARMLESS], ["predict"], True),
                ("new.jsonl", [*ANY_LINES, *HARMLESS, replace("text", WRONG_TEXT), replace("day", WRONG_VALUE)],
                 ["predict-jsonl"], True),
                (f"{QUIZ}/seed0/weak/results.json", JSON_FILE, ["predict"], False),
                (f"{QUIZ}/seed0/weak/labels.jsonl", LABELS, ["predict"], False),
                (f"{QUIZ}/seed0/weak/checkpoint/config.json", JSON_FILE, ["predict"], False),
                (f"{QUIZ}/truth/labels.jsonl", LABELS[:-1], ["predict"], False),
                ("labelled.csv.part/rows", [break_bytes, *WHOLE_FILE], ["predict"], False),
                ("labelled.csv.part/progress.json", JSON_FILE, ["predict"], False)],
    "table": [("data/toxicity/seed[01]/table/results.json", JSON_FILE, ["table", "report table"], False),
              ("data/toxicity/seed0/*/samples.jsonl", SAMPLES, ["table"], False),
              ("data/toxicity/seed0/*/labels.jsonl", TEXTS, ["table"], False)],
    "facts": [(f"{WORLD}/facts/body.json", JSON_FILE, ["prepare"], True),
              (f"{WORLD}/facts/body.csv", [*WHOLE_FILE, *HARMLESS, lose_line, double_line, cut_line], ["prepare"],
               True)],
    "flag": [],                                            # breaks no file
}


def remember_code(house):
    """Every command fingerprints its code, which takes as long as the rest of it. Unchanged files are in NORMALIZED."""
    normalize = import_contract(house)
    for path in glob.glob(os.path.join(house, "**", "*.py"), recursive=True):
        with open(path, encoding="utf-8") as f:
            source = f.read()
        NORMALIZED[source] = normalize(source)
    del sys.modules["contract"]


def import_contract(house):
    """The house's contract.py, with a normalize_code that looks into NORMALIZED first -> its own normalize_code"""
    sys.path[0] = house
    contract = importlib.import_module("contract")
    normalize = contract.normalize_code
    contract.normalize_code = lambda source: NORMALIZED.get(source) or normalize(source)
    return normalize


def fork_command(house, command, stdin="", encoding="utf-8"):
    """
    python COMMAND in the folder `house`, in a process that is forked from this one -> (exit code, or None if it did
    not end in time, its output, its errors)
    """
    paths = [os.path.join(house, name) for name in ("stdin", "stdout", "stderr")]
    with open(paths[0], "w", encoding="utf-8") as f:
        f.write(stdin)
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT))
            for stream, path in enumerate(paths):
                os.dup2(os.open(path, os.O_RDWR | (os.O_CREAT | os.O_TRUNC if stream else 0)), stream)
            sys.stdin, sys.stdout, sys.stderr = (open(k, mode, encoding=encoding, closefd=False, errors=errors)
                                                 for k, mode, errors in ((0, "r", "strict"), (1, "w", "strict"),
                                                                         (2, "w", "backslashreplace")))
            os.chdir(house)
            import_contract(house)
            script = os.path.join(house, command[0])
            sys.argv = command
            sys.path[0] = os.path.dirname(script)
            runpy.run_path(script, run_name="__main__")
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGXCPU))
    signal.alarm(PATIENCE)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    signal.alarm(0)
    texts = []
    for path in paths[1:]:
        with open(path, encoding="utf-8", errors="replace") as f:
            texts.append(f.read())
    return None if code == -signal.SIGXCPU else code, *texts


def without_passing(value):
    """A results.json, or a part of it, without what says nothing about the numbers: times, flags, fingerprints"""
    passing = ("config", "outputs", "seconds", "versions", "digest", "rounds_folder", "members_folder", "transcripts",
               "supervisor")
    if isinstance(value, list):
        return [without_passing(item) for item in value]
    if isinstance(value, dict):
        return {key: without_passing(item) for key, item in value.items() if key not in passing}
    return value


def numbers_of(house, outputs):
    """Everything that a command has found out -> a text that can be compared"""
    found = {}
    for output in outputs:
        path = os.path.join(house, output)
        if os.path.exists(os.path.join(path, "results.json")):
            found[output] = without_passing(read_json(os.path.join(path, "results.json")))
        names = [path] if os.path.isfile(path) else glob.glob(os.path.join(path, "*.jsonl"))
        for name in names:
            if "answers" not in name and "audits" not in name and os.path.exists(path):
                with open(name, encoding="utf-8", errors="replace") as f:
                    found[os.path.relpath(name, house)] = re.sub("rounds-[0-9a-f]+", "", f.read())
    return json.dumps(found, sort_keys=True)


def notes_of(printed):
    """The lines that say what was ignored or made again, without the numbers in them."""
    return {line for line in printed.splitlines() if "note: " in line or line.startswith(("stale", "missing"))}


def read_json(path):
    """A file that a command left unreadable is like no other numbers, and ends up as a finding."""
    with open(path, "rb") as f:
        data = f.read()
    try:
        return json.loads(data)                            # in UTF-16 too, as the commands read it
    except ValueError:
        return repr(data)


# --------------------------------------------------------------------------- the small project

def make_micro_model(house):
    """A language model of 16 dimensions with tinyworld's tokenizer: micro/, a copy to be broken, and a chat model."""
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel
    tokenizer = AutoTokenizer.from_pretrained(os.path.join(house, WORLD, "models", "tiny-1a"))
    torch.manual_seed(0)
    end = tokenizer.eos_token_id
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_positions=128, n_embd=16, n_layer=1, n_head=2,
                                       bos_token_id=end, eos_token_id=end))
    for name in ("micro", "chat", "broken"):
        if name == "chat":
            tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
        model.save_pretrained(os.path.join(house, name))
        tokenizer.save_pretrained(os.path.join(house, name))
        tokenizer.chat_template = None


def keep_rows(folder, rows):
    """The first rows of each split of a task, and what truth/ has about them."""
    spec = read_json(os.path.join(folder, "task.json"))
    ids = set()
    splits = [os.path.join(folder, split + ".jsonl") for split in ("train1", "train2", "valid", "test")]
    for path in splits + glob.glob(os.path.join(folder, "truth", "*.jsonl")):
        with open(path, encoding="utf-8") as f:
            lines = f.readlines()
        if path in splits:
            lines = lines[:rows]
            ids |= {json.loads(line)["id"] for line in lines}
            spec["splits"][os.path.basename(path)[:-6]]["rows"] = rows
        with open(path, "w", encoding="utf-8") as f:
            f.writelines(line for line in lines if json.loads(line)["id"] in ids)
    with open(os.path.join(folder, "task.json"), "w", encoding="utf-8") as f:
        json.dump(spec, f)


def make_house(house, rows=12):
    """A copy of the project with few rows, a model that is quick, and one finished run of every command in MADE."""
    names = ["*.py", "page.html", "data/*.py", "data/own/prepare.py", "data/cdeval/own.json", "data/cdeval/forms.json",
             "data/toxicity/prepare.py", f"{WORLD}/prepare.py", f"{WORLD}/facts/*"]
    for name in sorted(name for pattern in names for name in glob.glob(pattern, root_dir=ROOT)):
        os.makedirs(os.path.dirname(os.path.join(house, name)), exist_ok=True)
        shutil.copy(os.path.join(ROOT, name), os.path.join(house, name))
    for name in ("life", "models"):
        os.symlink(os.path.join(ROOT, WORLD, name), os.path.join(house, WORLD, name))
    make_micro_model(house)
    for task in ("tinyworld", "toxicity"):
        done = fork_command(house, [f"data/{task}/prepare.py"])
        assert done[0] == 0, done
        keep_rows(os.path.join(house, "data", task), rows)
    make_own_tables(house)
    for name in MADE:
        done = fork_command(house, COMMANDS[name][0], stdin="y\nn\n" * 9)
        assert done[0] == 0, (name, done)
    tables = os.path.join(house, "data", "toxicity", "seed{}", "table")
    shutil.copytree(tables.format(0), tables.format(1))    # a second seed, with the same numbers
    begin_to_predict(house)


def begin_to_predict(house):
    """Leave what predict.py leaves if it is killed after six rows."""
    path = os.path.join(house, "begin.py")
    with open(path, "w", encoding="utf-8") as f:
        f.write("import predict\n"
                "predict.PIECE = 6\n"
                "append_file = predict.append_file\n"
                "predict.append_file = lambda path, text: append_file(path, text) if \"p_yes\" in text else exit(9)\n"
                f"predict.main({COMMANDS['predict'][0][1:]})\n")
    done = fork_command(house, ["begin.py"])
    assert done[0] == 9, done
    os.remove(path)


def make_own_tables(house):
    import gzip

    import pyarrow
    import pyarrow.parquet
    rows = [{"text": f"Is {k} odd?", "label": k % 2, "day": k} for k in range(200)]
    with open(os.path.join(house, "own.csv"), "w", encoding="utf-8") as f:
        f.write("text,label,ann,bob\n")
        f.writelines(f"{row['text']},{row['label']},{k % 7 % 2},{k % 3 % 2}\n" for k, row in enumerate(rows))
    with open(os.path.join(house, "new.csv"), "w", encoding="utf-8") as f:
        f.write("text,day\n" + "".join(f"Is {k} even?,{k}\n" for k in range(12)))
    with open(os.path.join(house, "new.jsonl"), "w", encoding="utf-8") as f:
        f.writelines(json.dumps({"id": str(k), "text": f"Is {k} even?", "day": k}) + "\n" for k in range(12))
    with gzip.open(os.path.join(house, "own.jsonl.gz"), "wt", encoding="utf-8") as f:
        f.write("".join(json.dumps(row) + "\n" for row in rows))
    table = pyarrow.table({"text": [row["text"] for row in rows], "label": [row["label"] for row in rows],
                           "day": pyarrow.array([row["day"] for row in rows], pyarrow.timestamp("ns"))})
    pyarrow.parquet.write_table(table, os.path.join(house, "own.parquet"))


def put_in_place(path, broken):
    """Bytes, nothing, a pipe, a folder or a circle of links in the place of a file."""
    os.remove(path)
    if isinstance(broken, bytes):
        with open(path, "wb") as f:
            f.write(broken)
    elif broken == PIPE:
        os.mkfifo(path)
    elif broken == FOLDER:
        os.mkdir(path)
    elif broken == LOOP:
        os.symlink(path, path)


# --------------------------------------------------------------------------- the cases

def flags_of(house, script):
    """[(flag, takes a value?)], from the script's --help"""
    printed = fork_command(house, [script, "--help"])[1].split("options:")[-1]
    found = re.findall(r"^  (?:-h, )?(--[\w-]+)( [A-Z{\[][^\n]*)?", printed, re.M)
    return [(flag, bool(value)) for flag, value in found if flag not in ("--help", "--docs", "--hub")]


def make_case(rng, house, kinds, flags):
    """-> (kind, file to break or None, its broken contents, name of a command or words, is the file a user's own?)"""
    kind = rng.choice(kinds)
    if kind == "flag":
        name = rng.choice([n for n in COMMANDS if "broken" not in n and "own-" not in n and n != "quiz"])
        command = COMMANDS[name][0]
        flag, takes_value = rng.choice(flags(command[0]))
        words = [*command, flag]
        if takes_value:
            words.append(rng.choice(ODD_FLAG_VALUES))
        if rng.random() < 0.1:
            words.append(rng.choice(["--nothing", "stray", "-x", "--task"]))
        return kind, None, None, words, True
    while True:
        pattern, ways, names, is_users = rng.choice(KINDS[kind])
        path = rng.choice(sorted(glob.glob(os.path.join(house, pattern))))
        with open(path, "rb") as f:
            data = f.read()
        if not data:                                       # there is nothing to break
            continue
        broken = rng.choice(ways)(rng, data)
        if broken != data:
            return kind, os.path.relpath(path, house), broken, rng.choice(names), is_users


def describe(path, broken, words):
    """A case in a line: the file, what was done to it, and the command"""
    change = "" if path is None else f"{path} -> {broken if isinstance(broken, str) else broken[:300]!r}: "
    return change + " ".join(words)


def inputs_of(house):
    """The bytes of all files that no command may change."""
    found = {}
    for pattern in (f"{WORLD}/*.jsonl", f"{WORLD}/truth/*", f"{WORLD}/facts/*", "data/toxicity/*.jsonl", "own.*",
                    "new.*", f"{QUIZ}/*.jsonl", f"{QUIZ}/*/labels.jsonl", "data/cdeval/*.json", "micro/*", "*.py"):
        for path in glob.glob(os.path.join(house, pattern)):
            if os.path.isfile(path):
                with open(path, "rb") as f:
                    found[os.path.relpath(path, house)] = f.read()
    return found


def judge(done, numbers, expected, is_users):
    """
    done          (exit code, output, errors) of the broken command
    numbers       numbers_of its outputs; expected: (those of the undamaged command, its output)
    returns       one of GOOD or BAD
    """
    code, printed, errors = done
    n_errors = sum(bool(re.match(r"(\w+\.py: )?error: ", line)) for line in errors.splitlines())
    if code is None:
        return "hang"
    if "Traceback" in errors or code not in (0, 2) or code == 2 and n_errors != 1 or "\x1b" in printed + errors:
        return "traceback"
    if code == 2:
        return "refused"
    if expected and numbers == expected[0]:
        return "same"
    if is_users:
        return "other"
    return "named" if notes_of(printed) - notes_of(expected[1]) else "silent"


def run_case(pristine, folder, path, broken, words, stdin="", encoding="utf-8"):
    """Break a fresh copy of the project, and run the command. -> (what fork_command returns, was an input changed?)"""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(pristine, folder, symlinks=True)
    os.mkfifo(os.path.join(folder, "pipe"))                # for a flag's value
    if path:
        put_in_place(os.path.join(folder, path), broken)
    before = inputs_of(folder)
    done = fork_command(folder, words, stdin, encoding)
    return done, inputs_of(folder) != before


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="what is prepared there is used again")
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in ("torch", "transformers", "datasets", "matplotlib.figure", "pyarrow.parquet"):
        importlib.import_module(name)
    import transformers
    for name in ("AutoConfig", "AutoTokenizer", "AutoModelForCausalLM", "AutoModelForSequenceClassification",
                 "GPT2LMHeadModel", "GPT2ForSequenceClassification"):
        getattr(transformers, name)
    pristine = os.path.join(args.folder, "deep", "below", "pristine")
    folder = os.path.join(args.folder, "deep", "below", "case")
    sys.dont_write_bytecode = False                        # a command then starts in half the time
    transformers.logging.set_verbosity_error()
    if not os.path.exists(pristine):
        make_house(pristine)
    remember_code(pristine)
    for name in ("AutoModelForCausalLM", "AutoModelForSequenceClassification"):            # fills transformers' caches
        getattr(transformers, name).from_pretrained(os.path.join(pristine, "micro"))

    saved = os.path.join(args.folder, "expected.json")     # command -> its numbers and output without damage
    expected = read_json(saved) if os.path.exists(saved) else {}
    known_flags = {}

    def flags(script):
        if script not in known_flags:
            known_flags[script] = flags_of(pristine, script)
        return known_flags[script]

    counts = defaultdict(Counter)
    for number in range(args.first, args.first + args.cases):
        rng = random.Random(f"{args.seed} {number}")
        kind, path, broken, words, is_users = make_case(rng, pristine, args.kinds, flags)
        encoding = rng.choice(["utf-8"] * 4 + ["ascii"])
        outputs = []
        key = None
        if isinstance(words, str):
            key = words
            words, outputs = COMMANDS[key]
        if key and key not in expected:
            done, _ = run_case(pristine, folder, None, None, words)
            assert done[0] == 0, (words, done)
            expected[key] = numbers_of(folder, outputs), done[1]
            with open(saved, "w", encoding="utf-8") as f:
                json.dump(expected, f)
        done, changed = run_case(pristine, folder, path, broken, words, encoding=encoding)
        numbers = numbers_of(folder, outputs) if done[0] == 0 else None
        verdict = "changed" if changed else judge(done, numbers, expected.get(key), is_users)
        counts[kind][verdict] += 1
        if verdict in BAD:
            printed = done[1][-1500:] + done[2][-2500:]
            print(f"FINDING {number} ({verdict}, {kind}): {describe(path, broken, words)}\n{printed}\n", flush=True)
    print(f"{'kind':12s}" + "".join(f"{verdict:>10s}" for verdict in GOOD + BAD))
    for kind, count in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        print(f"{kind:12s}" + "".join(f"{count[verdict]:10,}" for verdict in GOOD + BAD))
    n_findings = sum(count[verdict] for count in counts.values() for verdict in BAD)
    print(f"{args.cases:,} cases, {n_findings} findings")
    shutil.rmtree(folder, ignore_errors=True)
    raise SystemExit(1 if n_findings else 0)


if __name__ == "__main__":
    main()
