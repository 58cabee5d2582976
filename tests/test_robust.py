"""
Hard to break: two runs at once, a full disk, kills, broken inputs, and differences that must not matter.
docs/pitfalls.md says which test catches which pitfall.

python -m pytest tests/test_robust.py                              # half a minute
W2SG_KILLS=20 W2SG_FUZZ=2000 python -m pytest tests/test_robust.py # more kills and more broken inputs
"""
import argparse
import ast
import glob
import inspect
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
from test_commands import build_house, contents, must, seed0
from warm import run as call

KILLS = int(os.environ.get("W2SG_KILLS", 1))
FUZZ = int(os.environ.get("W2SG_FUZZ", 10))
STAGES = {
    "weak": ["train_weak.py", "--epochs", "1"],
    "student": ["train_strong.py", "--labels", "weak", "--ceiling", "ceiling", "--model", "tiny-1b", "--epochs", "1"],
    "ensemble": ["ensemble.py", "--members", "2", "--epochs", "1"],
    "interaction": ["debate.py", "--mode", "interaction", "--assistant", "tiny-1b", "--epochs", "1"],
    "icl": ["icl.py", "--labels", "weak", "--model", "tiny-1b", "--shots", "1"],
    "align": ["auto_align.py", "--ladder", "tiny-1b", "--audit", "4", "--doubt", "0.05", "--epochs", "1"],
    "table": ["align_tasks.py", "--task", "toxicity", "--max-rows", "6", "--epochs", "1", "--prompts", "4",
              "--samples", "2", "--model", "tiny-1b", "--ladder", "tiny-1c", "--members", "tiny-1a,tiny-1c",
              "--reader", "tiny-1a"],
    "culture": ["cdeval.py", "--models", "tiny-1a", "tiny-1b", "--max-rows", "6", "--batch-size", "4", "--challenge"],
}
CEILING = ["train_strong.py", "--labels", "truth", "--out", "ceiling", "--model", "tiny-1b", "--epochs", "1"]
# the folders that a stage makes, where they are not just data/tinyworld/seed0/NAME
MAKES = {
    "table": ["data/toxicity/seed0"],
    "culture": ["data/cdeval/seed0"],
    "ensemble": ["data/tinyworld/seed0/members-*", "data/tinyworld/seed0/ensemble"],
    "interaction": ["data/tinyworld/seed0/transcripts", "data/tinyworld/seed0/interaction"],
}
SECONDS = {"prepare": 0.5}                                 # each stage's duration, so that a kill comes within it


def keep_lines(path, keep):
    """Of a file of JSON lines only those stay for which keep(number, id) is true. -> their ids"""
    lines = []
    ids = set()
    with open(path, encoding="utf-8") as f:
        for number, line in enumerate(f):
            row_id = json.loads(line)["id"]
            if keep(number, row_id):
                lines.append(line)
                ids.add(row_id)
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(lines)
    return ids


def small_house(folder, rows=24, stages=True):
    """A house where everything is quick: 24 rows in each split, and one run of each stage."""
    house = build_house(folder)
    for name in glob.glob("*.py", root_dir=ROOT):
        shutil.copy(os.path.join(ROOT, name), house)
    world = os.path.join(house, "data", "tinyworld")
    ids = set()
    for name in ("train1.jsonl", "train2.jsonl", "valid.jsonl", "test.jsonl"):
        ids |= keep_lines(os.path.join(world, name), lambda number, row_id: number < rows)
    keep_lines(os.path.join(world, "truth", "labels.jsonl"), lambda number, row_id: row_id in ids)
    for name in ("own/prepare.py", "hub.py", "safety/prepare.py", "toxicity/prepare.py", "cdeval/own.json",
                 "cdeval/forms.json"):
        os.makedirs(os.path.dirname(os.path.join(house, "data", name)), exist_ok=True)
        shutil.copy(os.path.join(ROOT, "data", name), os.path.join(house, "data", name))
    os.symlink(os.path.join(ROOT, "data", "tinyworld", "life"), os.path.join(world, "life"))
    must(house, "data/toxicity/prepare.py")
    call(house, "contract.py")                             # does nothing, but starts the tests' server before the clock
    if stages:
        for name, command in {"weak": STAGES["weak"], "ceiling": CEILING, **STAGES}.items():
            started = time.time()
            must(house, *command)
            SECONDS.setdefault(name, time.time() - started)
    return house


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """
    A small house, made by processes with one seed of Python's hashes. All later processes have another seed, and have
    to leave the same bytes.
    """
    house = small_house(tmp_path_factory.mktemp("robust") / "house")
    if warm._server:
        warm._server.stdin.close()
        warm._server.wait()
    before = os.environ.get("PYTHONHASHSEED")
    os.environ["PYTHONHASHSEED"] = "1"
    call(house, "report.py", "--help")                     # starts the server of the tests anew
    os.environ.pop("PYTHONHASHSEED")
    if before is not None:
        os.environ["PYTHONHASHSEED"] = before
    return house


def copy_house(house, folder):
    return shutil.copytree(house, folder, symlinks=True)


# --------------------------------------------------------------------------- two runs at once

def one_line(done):
    """The command ended with exit code 2, no traceback, and one line of error. -> that line"""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    printed = done.stdout[-500:] + done.stderr[-2000:]
    assert done.returncode == 2 and len(lines) == 1 and "Traceback" not in done.stderr, printed
    return lines[0]


@pytest.fixture
def locked():
    """A function that locks a folder, as another process would, until the test ends."""
    fcntl = pytest.importorskip("fcntl")
    handles = []

    def lock(folder):
        os.makedirs(folder, exist_ok=True)
        handles.append(os.open(folder, os.O_RDONLY))
        fcntl.flock(handles[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    yield lock
    for handle in handles:
        os.close(handle)


@pytest.mark.parametrize("name", ["weak", "student", "icl", "align"])
def test_of_two_runs_in_one_folder_the_second_stops_with_one_line(house, locked, name):
    folder = seed0(house, name)
    before = contents(folder)
    locked(folder)
    assert f"another run is writing to {folder}" in one_line(call(house, *STAGES[name], "--force"))
    assert contents(folder) == before


def test_folders_that_runs_share_are_locked_too(house, locked, tmp_path):
    """The members of an ensemble, and transcripts: two runs with different --out write to the same folder."""
    members = glob.glob(seed0(house, "members-*"))[0]
    before = contents(members)
    locked(members)
    done = call(house, *STAGES["ensemble"], "--out", "second", "--members", "3")
    assert f"another run is writing to {members}" in one_line(done)
    assert contents(members) == before

    shared = glob.glob(seed0(house, "transcripts", "*"))[0]
    transcripts = os.path.join(shared, "transcripts.jsonl")
    shutil.copy(transcripts, tmp_path)
    os.truncate(transcripts, os.path.getsize(transcripts) - 10)      # something is left to be written
    before = contents(shared)
    locked(shared)
    done = call(house, *STAGES["interaction"], "--judge", "prompted")
    assert f"another run is writing to {shared}" in one_line(done)
    assert contents(shared) == before
    shutil.copy(tmp_path / "transcripts.jsonl", shared)


def test_of_two_prepare_commands_the_second_stops_with_one_line(house, locked):
    world = os.path.join(house, "data", "tinyworld")
    locked(world)
    assert "another run is writing" in one_line(call(house, "data/tinyworld/prepare.py"))
    assert os.path.exists(os.path.join(world, "task.json"))          # nothing was touched


def test_the_lock_ends_with_its_process_however_that_ends(tmp_path, capsys):
    pytest.importorskip("fcntl")
    code = f"""
import sys, time
sys.path.insert(0, {ROOT!r})
import contract
with contract.lock_folder({str(tmp_path)!r}):
    print('held', flush=True)
    time.sleep(60)
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(SystemExit), contract.lock_folder(str(tmp_path)):
        pass
    assert "another run is writing" in capsys.readouterr().err
    other.kill()
    other.wait()
    for _ in range(2):                                     # the lock ends with its block, as a notebook needs it
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


def test_a_full_disk_inside_a_library_is_one_line_too(tmp_path):
    """safetensors and tokenizers write from Rust and raise their own errors. Here a file has a limited length."""
    pytest.importorskip("resource")
    (tmp_path / "save.py").write_text(f"""
import resource, sys
sys.path.insert(0, {ROOT!r})
import contract, models
model, tokenizer, _ = models.load_classifier('tiny-1a', 'lm', [' no', ' yes'], 'cpu')
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
contract.save_checkpoint({str(tmp_path)!r}, model, tokenizer)
""")
    os.makedirs(tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "config.json").write_text("the old one")
    for limit in (500, 100_000):                           # bytes
        assert f"cannot write to {tmp_path}/checkpoint: " in one_line(call(tmp_path, "save.py", limit))
        assert (tmp_path / "checkpoint" / "config.json").read_text() == "the old one"


@pytest.mark.parametrize("command,limit,file", [(STAGES["culture"], 6000, ".part"),
                                                (["report.py"], 16_000, ".png")])
def test_a_disk_that_fills_while_a_file_grows_is_one_line(house, tmp_path, command, limit, file):
    """Answers are appended to their file; matplotlib writes its own. Here no file may be longer than `limit` bytes."""
    pytest.importorskip("resource")
    other = copy_house(house, tmp_path / "house")
    shutil.rmtree(other / "data" / "cdeval" / "seed0")
    done = call(other, *command, before=f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit},) * 2)")
    assert re.search(rf"cannot write to \S+{file}: File too large", one_line(done)), done.stderr
    assert not [path for path in other.rglob("*.png*") if path.stat().st_size == limit and path.suffix == ".png"]
    if file == ".part":
        must(other, *command)
        assert finished_files(other / "data" / "cdeval") == finished_files(os.path.join(house, "data", "cdeval"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_output_to_a_full_disk_is_one_line(tmp_path):
    (tmp_path / "other.py").write_text(f"""
import sys
sys.path.insert(0, {ROOT!r})
import contract
contract.run_script(lambda: print('x' * 100_000))
""")
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, tmp_path / "other.py"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: cannot write to standard output: No space left on device\n"


@pytest.mark.parametrize("command", [
    ["train_weak.py", "--out", "report.py/weak"],
    ["train_weak.py", "--out", "/dev/null/x"],
    ["train_weak.py", "--out", "report.py/.."],
    ["data/tinyworld/prepare.py", "--out", "/dev/null/x"],
])
def test_an_out_path_that_leads_through_a_file_is_one_line(house, command):
    """It fails for the superuser too, as a read-only folder does for an ordinary user."""
    line = one_line(call(house, *command))
    assert "cannot write to" in line or "would overwrite what this run reads" in line


# --------------------------------------------------------------------------- kills

RESUMES = ("interaction", "ensemble", "align", "culture")  # they leave partial results, and go on from there


def folders_made(house, name, prepared):
    """The folders that a stage makes; those of prepare.py lie in `prepared`."""
    if name == "prepare":
        return [prepared]
    found = []
    for pattern in MAKES.get(name, [seed0(house, name)]):
        found += glob.glob(os.path.join(house, pattern))
    return found


def finished_files(folder):
    """The files that have their final name."""
    return {name: data for name, data in contents(folder).items() if ".tmp" not in name}


@pytest.mark.parametrize("name", [*STAGES, "prepare"])
def test_pitfall_12_killed_and_with_a_full_disk_the_same_command_ends_with_the_same_bytes(house, tmp_path, name):
    """
    W2SG_KILLS times, a stage starts from nothing and is killed at a random moment, another in each run of the tests. It
    starts again, and finds a full disk when it puts its n-th file in place. Then it runs to its end. It leaves the same
    bytes as a run without disturbance.
    """
    rng = random.Random()
    n_killed = 0
    command = STAGES.get(name, ["data/tinyworld/prepare.py", "--out", str(tmp_path)])
    if name == "prepare":
        must(house, *command)
    folders = folders_made(house, name, str(tmp_path))
    before = [contents(folder) for folder in folders]
    for _ in range(KILLS):
        for folder in folders:
            shutil.rmtree(folder)
        moment = rng.uniform(0.02, SECONDS[name])
        n = rng.randrange(40 if name == "table" else 3)
        case = f"killed after {moment} s, disk full after {n} files"
        alarm = f"import signal; signal.setitimer(signal.ITIMER_REAL, {moment})"
        n_killed += call(house, *command, before=alarm).returncode == -signal.SIGALRM
        done = call(house, *command, before=FULL.format(n=n))
        assert done.returncode == 0 or "No space left on device" in one_line(done), case
        if name not in RESUMES:
            for folder, old in zip(folders, before):
                for file, data in finished_files(folder).items():
                    assert data == old[file], case
        must(house, *command)
        assert [finished_files(folder) for folder in folders] == before, case
    print(f"{name}: killed {n_killed} times of {KILLS}")


# --------------------------------------------------------------------------- a reader who leaves

@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("command", [["report.py"], STAGES["weak"], ["cdeval.py", "--help"]],
                         ids=lambda command: command[0])
def test_a_reader_who_leaves_early_gets_no_traceback(house, command, buffered):
    """
    python report.py | head -1. Output that fits into the buffer fails at the very end, all other output at once. The
    report is written all the same.
    """
    path = os.path.join(house, "data", "tinyworld", "report.md")
    if os.path.exists(path):
        os.remove(path)
    env = os.environ | {"PYTHONUNBUFFERED": "" if buffered else "1"}
    run = subprocess.Popen([sys.executable, *command], cwd=house, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           text=True, env=env)
    run.stdout.close()                                     # before the first line
    assert run.stderr.read() == ""
    if buffered:
        assert run.wait() in (0, 1)
    else:
        # argparse of Python 3.11.7 passes over the error; with that of 3.11.2 it reaches run_script
        passes_over = "OSError" in inspect.getsource(argparse.ArgumentParser._print_message)
        assert run.wait() == (0 if "--help" in command and passes_over else 1)
    assert os.path.exists(path) == (command == ["report.py"])
    run.stderr.close()


def test_another_broken_pipe_is_still_a_traceback(tmp_path):
    (tmp_path / "other.py").write_text(f"""
import sys
sys.path.insert(0, {ROOT!r})
import contract
def main():
    raise BrokenPipeError('a socket')
contract.run_script(main)
""")
    done = subprocess.run([sys.executable, tmp_path / "other.py"], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" in done.stderr and "a socket" in done.stderr


# --------------------------------------------------------------------------- broken inputs

@pytest.fixture(scope="module")
def fuzz_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def test_broken_inputs_are_refused_or_named_and_never_change_a_number_silently(fuzz_folder):
    """W2SG_FUZZ cases, always the same ones (tests/fuzz.py). The table of counts has 0 in each column of findings."""
    done = call(ROOT, "tests/fuzz.py", "--folder", fuzz_folder, "--cases", FUZZ)
    assert done.returncode == 0 and ", 0 findings" in done.stdout, done.stdout[-4000:] + done.stderr[-2000:]
    table = [line.split() for line in done.stdout.splitlines()[-FUZZ - 3:] if line.startswith(("kind ", "all "))]
    assert table[0][-4:] == ["traceback", "silent", "hang", "changed"] and table[1][-4:] == ["0"] * 4
    print(done.stdout)


def test_the_fuzzer_finds_what_is_planted(fuzz_folder):
    """
    A contract.py that no longer checks soft labels lets "yes" pass for one (case 111 of this kind). The fuzzer
    reports the traceback.
    """
    path = fuzz_folder / "deep" / "below" / "pristine" / "contract.py"
    text = path.read_text(encoding="utf-8")
    check = "        if not is_soft_label(pair):\n"
    assert text.count(check) == 1
    path.write_text(text.replace(check, "        if False:\n"), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != text
    done = call(ROOT, "tests/fuzz.py", "--folder", fuzz_folder, "--kinds", "labels", "--first", "111", "--cases", "1")
    assert done.returncode == 1 and "FINDING" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]


# --------------------------------------------------------------------------- hostile models

@pytest.mark.parametrize("change,words", [
    ({"n_layer": 10 ** 9}, ["n_layer 1000000000"]),
    ({"n_head": 10 ** 9}, ["n_head"]),
    ({"n_head": -1}, ["n_head -1"]),
    ({"num_labels": 10 ** 9}, ["num_labels"]),
    ({"vocab_size": 2 ** 40}, ["vocab_size"]),
    ({"eos_token_id": "x"}, ["eos_token_id 'x'"]),
    ({"pad_token_id": 10 ** 9}, ["pad_token_id"]),
    ({"bos_token_id": [0, None]}, ["bos_token_id"]),
])
def test_a_configuration_that_would_keep_us_busy_for_ever_is_one_line(tmp_path, capsys, change, words):
    from models import open_checkpoint
    source = contract.model_folder("tiny-1a")
    for name in os.listdir(source):
        os.symlink(os.path.join(source, name), tmp_path / name)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    started = time.time()
    with pytest.raises(SystemExit) as stop:
        open_checkpoint(str(tmp_path), "AutoModelForCausalLM", "cpu")
    error = capsys.readouterr().err
    assert stop.value.code == 2 and all(word in error for word in words) and error.count("\n") == 1, error
    assert time.time() - started < 30


def test_a_chat_template_that_fails_drops_the_text_or_never_ends_is_one_line(monkeypatch, capsys):
    import models
    monkeypatch.setattr(models, "TEMPLATE_SECONDS", 0.2)
    forever = [True]

    def never_ends(turns):
        while forever:
            time.sleep(0.01)
    for template, words in ((lambda turns: 1 // 0, "ZeroDivisionError"), (lambda turns: "", "leaves out the text"),
                            (lambda turns: "User: " + turns[0]["content"][:3], "leaves out the text"),
                            (never_ends, "does not end within")):
        tokenizer = SimpleNamespace(chat_template="x", apply_chat_template=lambda turns, t=template, **_: t(turns))
        with pytest.raises(SystemExit):
            models.apply_chat_template(tokenizer, ["Is gold heavy?"])
        assert words in capsys.readouterr().err
    forever.clear()
    tokenizer.apply_chat_template = lambda turns, **_: f"<user>{turns[0]['content'].strip()}</user>"
    assert models.apply_chat_template(tokenizer, [" Is gold heavy? "]) == ["<user>Is gold heavy?</user>"]


@pytest.mark.parametrize("name", ["./nothing", "nowhere/at/all", "/nowhere", "~/model", "data/tinyworld-model"])
def test_a_mistyped_path_is_never_looked_for_on_the_hub(monkeypatch, capsys, name):
    import huggingface_hub
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda *_: pytest.fail("the hub was asked"))
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit):
        contract.model_folder(name)
    assert f"no model's folder at {name!r}" in capsys.readouterr().err
    assert contract.model_folder("Qwen/Qwen2.5-0.5B") == "Qwen/Qwen2.5-0.5B"


# --------------------------------------------------------------------------- what must not matter

def p_yes_by_id(house, name):
    with open(seed0(house, name, "labels.jsonl"), encoding="utf-8") as f:
        return {row["id"]: row["soft_label"][1] for row in map(json.loads, f)}


def largest_difference(a, b):
    """Of two dicts id -> p(yes), which have to hold the same ids."""
    assert a.keys() == b.keys()
    return max(abs(a[k] - b[k]) for k in a)


def test_the_order_of_lines_does_not_matter_where_it_should_not(house, tmp_path):
    """
    The lines of label files and of test, in another order, give the same weights to the last byte, and the same
    verdicts but for their last digits (rows are padded with other neighbours). The order of train2 does matter: with
    the seed it decides the order of training.
    """
    other = copy_house(house, tmp_path / "house")
    rng = random.Random(0)
    world = other / "data" / "tinyworld"
    for name in ("test.jsonl", "truth/labels.jsonl", "seed0/weak/labels.jsonl", "seed0/ceiling/labels.jsonl"):
        lines = (world / name).read_text(encoding="utf-8").splitlines(keepends=True)
        rng.shuffle(lines)
        (world / name).write_text("".join(lines), encoding="utf-8")
    must(other, *STAGES["student"], "--force")
    weights = [contents(seed0(h, "student"))["checkpoint/model.safetensors"] for h in (house, other)]
    assert weights[0] == weights[1]
    assert largest_difference(p_yes_by_id(house, "student"), p_yes_by_id(other, "student")) < 1e-5


def test_two_threads_agree_with_one_but_for_the_last_digits(house, tmp_path):
    """Sums are taken in another order. The bytes may differ, the verdicts do not; no more than that is promised."""
    other = copy_house(house, tmp_path / "house")
    before = "import torch; torch.set_num_threads(1 if torch.get_num_threads() > 1 else 2)"
    done = call(other, *STAGES["weak"], "--force", before=before)
    assert done.returncode == 0, done.stdout + done.stderr
    assert largest_difference(p_yes_by_id(house, "weak"), p_yes_by_id(other, "weak")) < 1e-3


def test_pitfall_06_predictions_during_training_change_nothing():
    """
    There is no buffer, no dropout and no state of a random generator, so the weights do not depend on predictions
    between two steps.
    """
    import torch

    from models import load_classifier, predict, tokenize
    from train_strong import LOSSES
    from train_weak import batch_maker, fit, soft_label_loss
    rows = [{"id": str(k), "text": f"Q: Is {k} odd? A: {'yes' * (k % 3)}"} for k in range(12)]
    labels = np.tile(np.array([[0.3, 0.7], [0.8, 0.2]], np.float32), (6, 1))
    args = SimpleNamespace(seed=0, lr=1e-3, batch_size=4, micro_batch_size=None, epochs=2, dtype="fp32")
    weights = []
    for predicts in (False, True):
        model, tokenizer, max_length = load_classifier("tiny-1a", "lm", [" no", " yes"], "cpu")
        ids = tokenize(tokenizer, rows, max_length)

        def predict_some(*_, model=model, tokenizer=tokenizer, ids=ids):
            predict(model, tokenizer, ids[:5], "cpu")
        make_batch = batch_maker(ids, tokenizer, "cpu", soft_labels=labels)
        fit(model, [len(i) for i in ids], make_batch, soft_label_loss, args, "cpu", target_fn=LOSSES["logconf"],
            after_step=predict_some if predicts else None)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*weights)


# --------------------------------------------------------------------------- no text is ever run, or becomes a path

NEVER_IMPORTED = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "requests",
                  "urllib", "http", "socket", "ftplib"}
NEVER_CALLED = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "torch.hub.load"}
NEVER_PASSED = {("shell", "True"), ("trust_remote_code", "True"), ("allow_pickle", "True")}


def scripts():
    names = [*glob.glob("*.py", root_dir=ROOT), *glob.glob("data/**/*.py", root_dir=ROOT, recursive=True)]
    return [os.path.join(ROOT, name) for name in names]


@pytest.mark.parametrize("path", scripts(), ids=lambda path: os.path.relpath(path, ROOT))
def test_nothing_is_unpickled_evaluated_or_given_to_a_shell(path):
    with open(path, encoding="utf-8") as f:
        tree = ast.parse(f.read())
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            where = f"{called}, line {node.lineno}"
            assert called not in NEVER_CALLED, where
            for keyword in node.keywords:
                assert (keyword.arg, ast.unparse(keyword.value)) not in NEVER_PASSED, where
    assert not imported & NEVER_IMPORTED


def files_outside_runs(folder):
    found = set()
    for where, _, names in os.walk(folder):
        if "seed0" not in where and "__pycache__" not in where:
            found |= {os.path.join(where, name) for name in names}
    return found


def test_the_id_of_a_row_is_never_a_path(house, tmp_path):
    """
    Ids and groups are paths out of the folder, and hold line breaks and control characters. Every run writes to its
    usual place.
    """
    other = copy_house(house, tmp_path / "deep" / "house")
    world = other / "data" / "tinyworld"
    before = files_outside_runs(tmp_path)
    escapes = ["../" * k + "escape" for k in range(1, 6)]
    escapes += [str(tmp_path / "escape"), "a\nb", "\x1b[31mred", "..", "/", "~/escape", "$HOME/escape", "C:\\escape"]
    for split in ("train1", "train2", "valid", "test"):
        path = world / f"{split}.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for k, row in enumerate(rows):
            escape = escapes[k % len(escapes)]
            row["id"] = f"{escape}-{split}-{k}"
            row["group"] += escape
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    shutil.rmtree(world / "seed0")
    for name in ("weak", "interaction"):
        must(other, *STAGES[name], "--max-rows", "16")
    assert files_outside_runs(tmp_path) == before
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


def test_pitfall_25_a_model_below_chance_is_flagged_beside_its_score():
    from metrics import all_metrics, format_metrics
    rows = [{"label": k % 2, "group": str(k)} for k in range(100)]
    labels = np.array([row["label"] for row in rows])
    p_yes = np.where(labels == 1, 0.1, 0.9)                # wrong on every row
    p_yes[90::2] = 0.1                                     # except on the last five "no" rows: wrong on 95 of 100
    assert "BELOW CHANCE" in format_metrics("supervisor", all_metrics(np.stack([1 - p_yes, p_yes], 1), rows))
    assert "BELOW CHANCE" not in format_metrics("supervisor", all_metrics(np.stack([p_yes, 1 - p_yes], 1), rows))
