"""
Hard to break: two runs at once, a full disk, kills, broken inputs; and what must not matter does not. docs/pitfalls.md says
which test catches which pitfall.

python -m pytest tests/test_robust.py                            # half a minute
W2SG_KILLS=20 W2SG_FUZZ=1000 python -m pytest tests/test_robust.py          # as often as one likes
"""
import ast
import glob
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

import contract
import warm
from conftest import ROOT
from test_commands import build_house, contents, must
from warm import run as call

KILLS, FUZZ = int(os.environ.get("W2SG_KILLS", 1)), int(os.environ.get("W2SG_FUZZ", 160))
STAGES = {"weak": ["train_weak.py", "--epochs", "1"],
          "student": ["train_strong.py", "--labels", "weak", "--ceiling", "ceiling", "--model", "tiny-1b", "--epochs", "1"],
          "ensemble": ["ensemble.py", "--members", "2", "--epochs", "1"],
          "interaction": ["debate.py", "--mode", "interaction", "--assistant", "tiny-1b", "--epochs", "1"],
          "icl": ["icl.py", "--labels", "weak", "--model", "tiny-1b", "--shots", "1"],
          "align": ["auto_align.py", "--ladder", "tiny-1b", "--audit", "4", "--doubt", "0.05", "--epochs", "1"],
          "table": ["align_tasks.py", "--task", "toxicity", "--max-rows", "6", "--epochs", "1", "--prompts", "4", "--samples", "2", "--model", "tiny-1b",
                    "--ladder", "tiny-1c", "--members", "tiny-1a,tiny-1c", "--reader", "tiny-1a"],
          "culture": ["cdeval.py", "--models", "tiny-1a", "tiny-1b", "--max-rows", "6", "--batch-size", "4", "--challenge"]}
MAKES = {"table": ["data/toxicity/seed0"], "culture": ["data/cdeval/seed0"], "ensemble": ["data/tinyworld/seed0/members-*", "data/tinyworld/seed0/ensemble"],
         "interaction": ["data/tinyworld/seed0/transcripts", "data/tinyworld/seed0/interaction"]}         # where it is more than data/tinyworld/seed0/NAME
CEILING = ["train_strong.py", "--labels", "truth", "--out", "ceiling", "--model", "tiny-1b", "--epochs", "1"]


def small_house(folder, rows=24, stages=True):
    """A house where everything is quick: 24 rows in each split, and one run of each stage."""
    house = build_house(folder)
    for name in glob.glob("*.py", root_dir=ROOT):
        shutil.copy(os.path.join(ROOT, name), house)
    world, kept = os.path.join(house, "data", "tinyworld"), set()
    for name in ("train1.jsonl", "train2.jsonl", "valid.jsonl", "test.jsonl", "truth/labels.jsonl"):
        with open(os.path.join(world, name), encoding="utf-8") as f:
            lines = [line for k, line in enumerate(f) if (json.loads(line)["id"] in kept if "truth" in name else k < rows)]
        with open(os.path.join(world, name), "w", encoding="utf-8") as f:
            f.writelines(lines)
        kept |= {json.loads(line)["id"] for line in lines}
    for name in ("own/prepare.py", "hub.py", "safety/prepare.py", "toxicity/prepare.py", "cdeval/own.json",
                 "cdeval/forms.json"):
        os.makedirs(os.path.dirname(os.path.join(house, "data", name)), exist_ok=True)
        shutil.copy(os.path.join(ROOT, "data", name), os.path.join(house, "data", name))
    os.symlink(os.path.join(ROOT, "data", "tinyworld", "life"), os.path.join(world, "life"))
    must(house, "data/toxicity/prepare.py")
    call(house, "contract.py")                             # does nothing; the start of the tests' server is no part of a stage's time
    for name, command in {"weak": STAGES["weak"], "ceiling": CEILING, **STAGES}.items() if stages else ():
        started = time.time()
        must(house, *command)
        SECONDS.setdefault(name, time.time() - started)
    return house


SECONDS = {"prepare": 0.5}                                 # how long each stage took, to kill it within


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """Made by processes with one seed of Python's hashes; all that comes later has another one, and must come to the same bytes."""
    house = small_house(tmp_path_factory.mktemp("robust") / "house")
    if warm._server:
        warm._server.stdin.close()
        warm._server.wait()
    before, os.environ["PYTHONHASHSEED"] = os.environ.get("PYTHONHASHSEED"), "1"
    call(house, "report.py", "--help")                     # starts the server of the tests anew
    os.environ.pop("PYTHONHASHSEED")
    if before is not None:
        os.environ["PYTHONHASHSEED"] = before
    return house


def seed0(house, *names):
    return os.path.join(house, "data", "tinyworld", "seed0", *names)


# --------------------------------------------------------------------------- two runs at once

def one_line(done):
    """Exit code 2, no traceback, one line of error: -> that line"""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(lines) == 1 and "Traceback" not in done.stderr, done.stdout[-500:] + done.stderr[-2000:]
    return lines[0]


@pytest.fixture
def locked():
    """A function that holds a folder as another process would, until the test ends."""
    fcntl, handles = pytest.importorskip("fcntl"), []

    def lock(folder):
        os.makedirs(folder, exist_ok=True)
        handles.append(os.open(folder, os.O_RDONLY))
        fcntl.flock(handles[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    yield lock
    for handle in handles:
        os.close(handle)


@pytest.mark.parametrize("name", ["weak", "student", "icl", "align"])
def test_of_two_runs_in_one_folder_the_second_stops_with_one_line(house, locked, name):
    before = contents(seed0(house, name))
    locked(seed0(house, name))
    assert f"another run is writing to {seed0(house, name)}" in one_line(call(house, *STAGES[name], "--force"))
    assert contents(seed0(house, name)) == before


def test_folders_that_runs_share_are_locked_too(house, locked, tmp_path):
    """Members of an ensemble, and transcripts: the other run may have another --out."""
    for name, shared, command in (("ensemble", glob.glob(seed0(house, "members-*"))[0], [*STAGES["ensemble"], "--out", "second", "--members", "3"]),
                                  ("interaction", glob.glob(seed0(house, "transcripts", "*"))[0], [*STAGES["interaction"], "--judge", "prompted"])):
        transcripts = os.path.join(shared, "transcripts.jsonl")
        if name == "interaction":
            shutil.copy(transcripts, tmp_path)
            os.truncate(transcripts, os.path.getsize(transcripts) - 10)        # something is left to be written
        before = contents(shared)
        locked(shared)
        assert f"another run is writing to {shared}" in one_line(call(house, *command))
        assert contents(shared) == before
        if name == "interaction":
            shutil.copy(tmp_path / "transcripts.jsonl", shared)


def test_two_that_prepare_a_task(house, locked):
    locked(os.path.join(house, "data", "tinyworld"))
    assert "another run is writing" in one_line(call(house, "data/tinyworld/prepare.py"))
    assert os.path.exists(os.path.join(house, "data", "tinyworld", "task.json"))                   # nothing was touched


def test_the_lock_ends_with_its_process_however_that_ends(tmp_path, capsys):
    pytest.importorskip("fcntl")
    code = f"import sys, time; sys.path.insert(0, {ROOT!r}); import contract\nwith contract.lock_folder({str(tmp_path)!r}): print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(SystemExit), contract.lock_folder(str(tmp_path)):
        pass
    assert "another run is writing" in capsys.readouterr().err
    other.kill()
    other.wait()
    for _ in range(2):                                     # the lock ends with its block, so a notebook can run a stage twice
        with contract.lock_folder(str(tmp_path)):
            pass


# --------------------------------------------------------------------------- a full disk

FULL = """
import os
replace, left = os.replace, [{n}]
def full(*paths):
    left[0] -= 1
    if left[0] < 0:
        raise OSError(28, "No space left on device")
    replace(*paths)
os.replace = full
"""


def test_what_libraries_say_of_a_full_disk_is_one_line_too(tmp_path):
    """safetensors and tokenizers write from Rust and raise errors of their own; here no file may be longer than 100 kB."""
    pytest.importorskip("resource")
    code = ("import resource, sys, contract, models\n"
            "model, tokenizer, _ = models.load_classifier('tiny-1a', 'lm', [' no', ' yes'], 'cpu')\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)\n"
            f"contract.save_checkpoint({str(tmp_path)!r}, model, tokenizer)\n")
    os.makedirs(tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "config.json").write_text("the old one")
    (tmp_path / "save.py").write_text(f"import sys; sys.path.insert(0, {ROOT!r})\n" + code)
    for limit in (500, 100_000):
        assert f"cannot write to {tmp_path}/checkpoint: " in one_line(call(tmp_path, "save.py", limit))
        assert (tmp_path / "checkpoint" / "config.json").read_text() == "the old one"


@pytest.mark.parametrize("command", [["train_weak.py", "--out", "report.py/weak"], ["train_weak.py", "--out", "/dev/null/x"], ["train_weak.py", "--out", "report.py/.."],
                                     ["data/tinyworld/prepare.py", "--out", "/dev/null/x"]])
def test_where_nothing_can_be_written_is_one_line(house, command):
    """A path that leads through a file: what a read-only folder is to an ordinary user, who is no superuser."""
    assert "cannot write to" in one_line(call(house, *command))


# --------------------------------------------------------------------------- kills

@pytest.mark.parametrize("name", [*STAGES, "prepare"])
def test_pitfall_12_killed_and_with_a_full_disk_the_same_command_ends_with_the_same_bytes(house, tmp_path, name):
    """
    W2SG_KILLS times: the stage starts from nothing, is killed at a moment drawn anew each time the tests run, meets a full disk when file n is to be put
    in its place, and then may end. What it leaves is what a run left that nobody disturbed.
    """
    rng = random.Random()
    killed = 0
    command = STAGES.get(name, ["data/tinyworld/prepare.py", "--out", str(tmp_path)])
    if name == "prepare":
        must(house, *command)
    made = [str(tmp_path)] if name == "prepare" else [folder for where in MAKES.get(name, [seed0(house, name)]) for folder in glob.glob(os.path.join(house, where))]
    before = [contents(folder) for folder in made]

    def whole():                                           # what is there under its own name
        return [{k: v for k, v in contents(folder).items() if ".tmp" not in k} for folder in made]
    for _ in range(KILLS):
        for folder in made:
            shutil.rmtree(folder)
        moment, n = rng.uniform(0.02, SECONDS[name]), rng.randrange(40 if name == "table" else 3)
        killed += call(house, *command, before=f"import signal; signal.setitimer(signal.ITIMER_REAL, {moment})").returncode == -signal.SIGALRM
        done = call(house, *command, before=FULL.format(n=n))
        assert done.returncode == 0 or "No space left on device" in one_line(done), f"killed after {moment} s, disk full after {n} files"
        assert name in ("interaction", "ensemble", "align", "culture") or all(files[k] == was[k] for files, was in zip(whole(), before) for k in files), (moment, n)
        must(house, *command)
        assert whole() == before, f"killed after {moment} s, disk full after {n} files"
    print(f"{name}: killed {killed} times of {KILLS}")


# --------------------------------------------------------------------------- a reader who leaves

@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("command", [["report.py"], STAGES["weak"], ["cdeval.py", "--help"]], ids=lambda command: command[0])
def test_whoever_stops_reading_gets_no_traceback(house, command, buffered):
    """python report.py | head -1. What fits into the buffer fails last of all, all else at once; the report is there all the same."""
    path = os.path.join(house, "data", "tinyworld", "report.md")
    if os.path.exists(path):
        os.remove(path)
    run = subprocess.Popen([sys.executable, *command], cwd=house, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                           env=os.environ | {"PYTHONUNBUFFERED": "" if buffered else "1"})
    run.stdout.close()                                     # before the first line
    assert run.stderr.read() == "" and run.wait() in ((0, 1) if buffered else (0,) if "--help" in command else (1,))
    assert os.path.exists(path) == (command == ["report.py"])
    run.stderr.close()


def test_a_pipe_of_somebody_else_that_breaks_is_still_a_traceback(tmp_path):
    (tmp_path / "other.py").write_text(f"import sys; sys.path.insert(0, {ROOT!r})\nimport contract\n"
                                       "def main():\n    raise BrokenPipeError('a socket')\ncontract.run_script(main)\n")
    done = subprocess.run([sys.executable, tmp_path / "other.py"], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" in done.stderr and "a socket" in done.stderr


# --------------------------------------------------------------------------- broken inputs

def test_broken_inputs_are_refused_in_one_line_and_never_changed(house, tmp_path):
    """W2SG_FUZZ cases, always the same ones (tests/fuzz.py)."""
    other = shutil.copytree(house, tmp_path / "house", symlinks=True)
    done = call(other, os.path.join(ROOT, "tests", "fuzz.py"), "--house", other, "--cases", FUZZ)
    assert done.returncode == 0 and "0 findings" in done.stdout, done.stdout[-4000:] + done.stderr[-2000:]
    print(done.stdout.splitlines()[-1])


def test_the_fuzzer_finds_what_is_planted(house, tmp_path):
    """A script that no longer checks its label file: tracebacks, or labels that are no probabilities, and the fuzzer says so."""
    other = shutil.copytree(house, tmp_path / "house", symlinks=True)
    path = other / "contract.py"
    text = path.read_text(encoding="utf-8")
    check = "        if not is_soft_label(pair):\n"
    assert text.count(check) == 1
    path.write_text(text.replace(check, "        if False:\n"), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != text
    done = call(other, os.path.join(ROOT, "tests", "fuzz.py"), "--house", other, "--cases", "40", "--kinds", "labels")
    assert done.returncode == 1 and "FINDING" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]


# --------------------------------------------------------------------------- what must not matter

def labels_of(house, name):
    with open(seed0(house, name, "labels.jsonl"), encoding="utf-8") as f:
        return {row["id"]: row["soft_label"][1] for row in map(json.loads, f)}


def test_the_order_of_lines_does_not_matter_where_it_should_not(house, tmp_path):
    """
    Lines of label files and of test, in another order: the same weights to the last byte, the same verdict on every row but for its last digits (rows
    are padded with other neighbours). The order of train2 does matter: with the seed it decides the order of training.
    """
    other, rng = shutil.copytree(house, tmp_path / "house", symlinks=True), random.Random(0)
    world = other / "data" / "tinyworld"
    for path in (world / "test.jsonl", world / "truth" / "labels.jsonl", world / "seed0" / "weak" / "labels.jsonl", world / "seed0" / "ceiling" / "labels.jsonl"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        rng.shuffle(lines)
        path.write_text("".join(lines), encoding="utf-8")
    must(other, *STAGES["student"], "--force")
    weights = [contents(seed0(h, "student"))["checkpoint/model.safetensors"] for h in (house, other)]
    assert weights[0] == weights[1]
    a, b = labels_of(house, "student"), labels_of(other, "student")
    assert a.keys() == b.keys() and max(abs(a[k] - b[k]) for k in a) < 1e-5


def test_two_threads_say_what_one_says_but_for_the_last_digits(house, tmp_path):
    """Sums are taken in another order: the bytes may differ, the verdicts do not. That is all that is promised."""
    other = shutil.copytree(house, tmp_path / "house", symlinks=True)
    done = call(other, *STAGES["weak"], "--force", before="import torch; torch.set_num_threads(1 if torch.get_num_threads() > 1 else 2)")
    assert done.returncode == 0, done.stdout + done.stderr
    a, b = labels_of(house, "weak"), labels_of(other, "weak")
    assert a.keys() == b.keys() and max(abs(a[k] - b[k]) for k in a) < 1e-3


def test_pitfall_06_looking_at_the_model_while_it_trains_changes_nothing():
    """No buffer, no dropout, no state of a random generator: weights are the same whether or not somebody asks the model after each step."""
    import torch

    from models import load_classifier, predict, tokenize
    from train_strong import LOSSES
    from train_weak import batch_maker, fit, soft_label_loss
    rows = [{"id": str(k), "text": f"Q: Is {k} odd? A: {'yes' * (k % 3)}"} for k in range(12)]
    labels = np.tile(np.array([[0.3, 0.7], [0.8, 0.2]], np.float32), (6, 1))
    args, weights = SimpleNamespace(seed=0, lr=1e-3, batch_size=4, micro_batch_size=None, epochs=2, dtype="fp32"), []
    for asks in (False, True):
        model, tokenizer, max_length = load_classifier("tiny-1a", "lm", [" no", " yes"], "cpu")
        ids = tokenize(tokenizer, rows, max_length)

        def look(*_, model=model, tokenizer=tokenizer, ids=ids):
            predict(model, tokenizer, ids[:5], "cpu")
        make_batch = batch_maker(ids, tokenizer, "cpu", soft_labels=labels)
        fit(model, [len(i) for i in ids], make_batch, soft_label_loss, args, "cpu", target_fn=LOSSES["logconf"],
            after_step=look if asks else None)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*weights)


# --------------------------------------------------------------------------- nothing of a row, a label or a model is ever run, or is a path

def scripts():
    return [os.path.join(ROOT, name) for name in [*glob.glob("*.py", root_dir=ROOT), *glob.glob("data/**/*.py", root_dir=ROOT, recursive=True)]]


@pytest.mark.parametrize("path", scripts(), ids=lambda path: os.path.relpath(path, ROOT))
def test_nothing_is_unpickled_evaluated_or_given_to_a_shell(path):
    with open(path, encoding="utf-8") as f:
        tree = ast.parse(f.read())
    imported = {name.split(".")[0] for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))
                for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""])}
    assert not imported & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "requests", "urllib", "http", "socket", "ftplib"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "torch.hub.load"), f"{called}, line {node.lineno}"
            for word in node.keywords:
                assert (word.arg, ast.unparse(word.value)) not in (("shell", "True"), ("trust_remote_code", "True"), ("allow_pickle", "True")), f"{called}, line {node.lineno}"


def everything_under(folder):
    return {os.path.join(where, name) for where, _, names in os.walk(folder) for name in names if "seed0" not in where and "__pycache__" not in where}


def test_the_id_of_a_row_is_never_a_path(house, tmp_path):
    """Rows whose ids and groups are paths out of the folder, with line breaks and control characters: every run writes where it always does."""
    other = shutil.copytree(house, tmp_path / "deep" / "house", symlinks=True)
    world = other / "data" / "tinyworld"
    before = everything_under(tmp_path)
    escape = ["../" * k + "escape" for k in range(1, 6)] + [str(tmp_path / "escape"), "a\nb", "\x1b[31mred", "..", "/", "~/escape", "$HOME/escape", "C:\\escape"]
    for split in ("train1", "train2", "valid", "test"):
        path = world / f"{split}.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for k, row in enumerate(rows):
            row["id"], row["group"] = f"{escape[k % len(escape)]}-{split}-{k}", row["group"] + escape[k % len(escape)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    shutil.rmtree(world / "seed0")
    for name in ("weak", "interaction"):
        must(other, *STAGES[name], "--max-rows", "16")
    assert everything_under(tmp_path) == before
    assert sorted(os.listdir(world / "seed0")) == ["interaction", "transcripts", "weak"]


# --------------------------------------------------------------------------- the table of pitfalls

def test_every_pitfall_has_its_line_and_every_test_named_there_exists():
    with open(os.path.join(ROOT, "docs", "pitfalls.md"), encoding="utf-8") as f:
        table = re.findall(r"^\| (\d+) \| [^|]+ \| ([^|]+) \|$", f.read(), re.M)
    assert [int(number) for number, _ in table] == list(range(1, 37))
    for number, where in table:
        for file, name in re.findall(r"`(test_\w+)::(test_\w+)`", where):
            with open(os.path.join(ROOT, "tests", file + ".py"), encoding="utf-8") as f:
                assert f"def {name}(" in f.read(), f"pitfall {number}: tests/{file}.py has no {name}"
        assert "`test_" in where or where.startswith("cannot arise: "), f"pitfall {number}: {where}"


def test_pitfall_25_a_model_below_chance_is_flagged_where_its_score_is_said():
    from metrics import all_metrics, format_metrics
    rows = [{"label": k % 2, "group": str(k)} for k in range(100)]
    p_yes = np.array([0.1 if row["label"] else 0.9 if k < 90 else 0.1 for k, row in enumerate(rows)])      # wrong on 95 of 100
    assert "BELOW CHANCE" in format_metrics("supervisor", all_metrics(np.stack([1 - p_yes, p_yes], 1), rows))
    assert "BELOW CHANCE" not in format_metrics("supervisor", all_metrics(np.stack([p_yes, 1 - p_yes], 1), rows))
