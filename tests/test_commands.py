"""
The real commands, in a copy of the repository: the chain, what is skipped and what is not, kills, damage, and leaks.

python -m pytest tests/test_commands.py          # a minute
"""
import ast
import functools
import glob
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from types import SimpleNamespace

import pytest

import contract
import train_weak
import warm
from conftest import ROOT

SCRIPTS = ["train_weak.py", "train_strong.py", "ensemble.py", "debate.py", "icl.py", "auto_align.py", "sft.py",
           "align_tasks.py", "cdeval.py", "report.py", "predict.py"]       # these have a command line
PAGES = ["contract.py", "metrics.py", "models.py", "page.py", "distributed.py"]
QUICK = ["--max-rows", "96", "--epochs", "1"]


@functools.cache
def copy_models():
    """tinyworld's models as they are now. A run must not see that somebody makes them again while the tests run."""
    folder = tempfile.TemporaryDirectory()                 # removed when Python ends
    shutil.copytree(os.path.join(ROOT, "data", "tinyworld", "models"), os.path.join(folder.name, "models"))
    return folder


def build_house(folder):
    """A copy of what the commands need: scripts, tinyworld's rows, and a link to a copy of its models."""
    os.makedirs(folder, exist_ok=True)
    for name in [*SCRIPTS, *PAGES, "page.html", "jobs.py", "run.sh"]:
        shutil.copy(os.path.join(ROOT, name), folder)
    source = os.path.join(ROOT, "data", "tinyworld")
    world = os.path.join(folder, "data", "tinyworld")
    os.makedirs(world)
    shutil.copy(os.path.join(ROOT, "data", "tasks.py"), os.path.join(folder, "data"))
    shutil.copy(os.path.join(source, "prepare.py"), world)
    shutil.copytree(os.path.join(source, "facts"), os.path.join(world, "facts"))
    os.symlink(os.path.join(copy_models().name, "models"), os.path.join(world, "models"))
    must(str(folder), os.path.join("data", "tinyworld", "prepare.py"))
    return str(folder)


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    return build_house(tmp_path_factory.mktemp("house"))


def call(house, *command):
    return warm.run(house, *command)


def must(house, *command):
    """The command has to succeed -> what it prints"""
    done = call(house, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def seed0(house, *names):
    """A path in the folder of tinyworld's runs with seed 0."""
    return os.path.join(house, "data", "tinyworld", "seed0", *names)


def read_results(folder):
    with open(os.path.join(folder, "results.json"), encoding="utf-8") as f:
        return json.load(f)


def contents(folder):
    """The bytes of every file that a run leaves; of results.json all values but the seconds, and no digest of them."""
    found = {}
    for path in sorted(glob.glob(os.path.join(folder, "**"), recursive=True)):
        if os.path.isfile(path):
            data = open(path, "rb").read()
            if path.endswith("results.json"):
                data = {k: v for k, v in json.loads(data).items() if k not in ("seconds", "digest")}
            found[os.path.relpath(path, folder)] = data
    return found


def rewrite(path, change):
    """Each row of a JSON lines file is replaced by change(row)."""
    rows = [json.loads(line) for line in open(path, encoding="utf-8")]
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(change(row)) + "\n" for row in rows)


def swap_classes(row):
    return {**row, "soft_label": row["soft_label"][::-1]}


WEAK = ["train_weak.py", *QUICK]
CEILING = ["train_strong.py", "--labels", "truth", "--out", "ceiling", "--model", "tiny-2", *QUICK]
STUDENT = ["train_strong.py", "--labels", "weak", "--ceiling", "ceiling", "--model", "tiny-2", *QUICK]


@pytest.fixture(scope="module")
def chain(house):
    """Supervisor, ceiling, student and table are made -> the house, and what each command printed."""
    return {"house": house,
            "weak": must(house, *WEAK),
            "ceiling": must(house, *CEILING),
            "student": must(house, *STUDENT),
            "report": must(house, "report.py")}


# --------------------------------------------------------------------------- the chain

def test_the_chain_leaves_complete_folders(chain):
    for name in ("weak", "ceiling", "student"):
        folder = seed0(chain["house"], name)
        results = read_results(folder)
        assert {"config", "line", "test", "seconds", "device", "versions", "seed", "outputs"} <= set(results)
        assert {"n", "accuracy", "se", "chance", "auroc", "ece", "share_yes", "says_yes"} <= set(results["test"])
        labels = [json.loads(line) for line in open(os.path.join(folder, "labels.jsonl"))]
        assert len(labels) == 3 * 96
        assert all(abs(sum(row["soft_label"]) - 1) < 1e-6 for row in labels)
        assert os.path.exists(os.path.join(folder, "checkpoint", "model.safetensors"))
        assert not glob.glob(os.path.join(folder, "*.tmp"))


def test_stages_print_their_scores_and_the_flags_that_were_typed(chain):
    assert re.search(r"^supervisor 0\.\d+ ±0\.\d+ \| AUROC", chain["weak"], re.M)
    last_line = (r"^supervisor 0\.\d+ \| student 0\.\d+ ±0\.\d+ \| ceiling 0\.\d+ "
                 r"\| (PGR -?\d+\.\d+ \[|no PGR: )")
    assert re.search(last_line, chain["student"], re.M)
    assert "student right where its supervisor is wrong" in chain["student"]
    assert "one example, exactly as the model sees it" in chain["student"]
    assert "device: " in chain["weak"]
    assert "train_weak.py --max-rows 96 --epochs 1 -> " in chain["weak"]       # these flags alone, not thirty keys
    assert "| student | tiny-2 | weak | 1 |" in chain["report"]


def test_the_accuracy_in_results_json_follows_from_the_label_file(chain):
    """The student's accuracy once more, straight from labels.jsonl and test.jsonl."""
    test_path = os.path.join(chain["house"], "data", "tinyworld", "test.jsonl")
    rows = [json.loads(line) for line in list(open(test_path))[:96]]
    labels = map(json.loads, open(seed0(chain["house"], "student", "labels.jsonl")))
    p_yes = {row["id"]: row["soft_label"][1] for row in labels}
    hits = sum((p_yes[row["id"]] > 0.5) == (row["label"] == 1) for row in rows)
    accuracy = read_results(seed0(chain["house"], "student"))["test"]["accuracy"]
    assert accuracy == pytest.approx(hits / 96)


def test_several_commands_at_a_time_leave_the_bytes_that_each_leaves(chain):
    folders = [seed0(chain["house"], name) for name in ("weak", "ceiling", "student")]
    by_hand = [contents(folder) for folder in folders]
    commands = [[*WEAK, "--out", "weak"], CEILING, [*STUDENT, "--out", "student"]]
    lines = "".join(f"$ python {shlex.join([*command, '--force'])}\n" for command in commands)
    done = warm.run(chain["house"], "jobs.py", "--jobs", "2",
                    before=f"import io, sys\nsys.stdin = io.StringIO({lines!r})")
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("weak", "ceiling", "student"):
        assert f"wrote data/tinyworld/seed0/{name}\n" in done.stdout, done.stdout + done.stderr
    for folder, before in zip(folders, by_hand):
        after = contents(folder)
        differing = [name for name in {*before, *after} if before.get(name) != after.get(name)]
        assert not differing, (folder, differing, before["results.json"], after["results.json"], done.stdout)


@pytest.mark.parametrize("flags,words", [
    (["--chain", "tiny-1a,tiny-2,tiny-2", "--truth-budget", "8", "--early-stop", "--hard"],
     ["student 1 of 3: tiny-1a", "student 3 of 3: tiny-2", "truth: 8 labels of train2 bought (disagree)",
      "by the labels of valid"]),
    (["--probe", "first", "--clean", "knn", "--generative-steps", "2"],
     ["48 of 96 rows are kept", "probe: ", "read 64 texts"]),
    (["--probe", "after", "--clean", "logistic", "--keep", "0.25", "--oracle-stop"],
     ["CHEATING, by the truth of valid", "| CHEATING: stopped by the truth"]),
    (["--probe", "only", "--clean", "confident", "--truth-budget", "4", "--pick", "random"],
     ["bought (random)", "probe: "]),
    (["--probe", "first", "--loss", "window"], ["probe: "]),
])
def test_every_method_runs_and_prints_what_it_did(chain, flags, words):
    command = ["train_strong.py", "--labels", "weak", "--out", "student-method", *flags, *QUICK]
    if "--chain" not in flags:
        command += ["--model", "tiny-1a"]
    printed = must(chain["house"], *command)
    assert all(word in printed for word in words), printed
    results = read_results(seed0(chain["house"], "student-method"))
    budget = int(flags[flags.index("--truth-budget") + 1]) if "--truth-budget" in flags else 0
    assert len(results["truth_ids"]) == budget
    assert bool(results["curve"]) == ("only" not in flags)


def test_bought_true_labels_replace_the_supervisors(chain, noisy_house):
    """All labels are bought, so the supervisor's labels no longer matter."""
    command = ["train_strong.py", "--labels", "weak", "--model", "tiny-1a", "--truth-budget", "96", "--pick", "random",
               "--out", "all", *QUICK]
    must(noisy_house, *command)
    before = contents(seed0(noisy_house, "all"))["labels.jsonl"]
    rewrite(seed0(noisy_house, "weak", "labels.jsonl"), swap_classes)
    must(noisy_house, *command)
    assert contents(seed0(noisy_house, "all"))["labels.jsonl"] == before


def test_a_finished_run_is_skipped_and_any_changed_flag_repeats_it(chain):
    assert "already done" in must(chain["house"], *WEAK)
    assert "already done" not in must(chain["house"], *WEAK, "--lr", "2e-4")
    assert "already done" not in must(chain["house"], *WEAK)         # the folder held the run with the other flag


def test_pitfall_13_every_flag_that_can_change_results_is_part_of_the_config(tmp_path):
    parser = train_weak.build_parser()
    args = vars(parser.parse_args(["--out", str(tmp_path / "run")]))

    def config_of(args):
        identity = {"role": "supervisor", **args}
        return contract.describe_run(train_weak.__file__, parser, SimpleNamespace(**args), identity, [])[1]
    config = config_of(args)
    relevant = set(args) - {"out", "device", "force"}
    assert relevant <= set(config)
    for key in relevant - {"task", "seed"}:
        assert config_of({**args, key: "another"}) != config, key
    # two models of the same name in different places are different models
    for name in "ab":
        os.makedirs(tmp_path / name / "model")
        (tmp_path / name / "model" / "config.json").write_text(name)
    assert contract.fingerprint(str(tmp_path / "a" / "model")) != contract.fingerprint(str(tmp_path / "b" / "model"))


# --------------------------------------------------------------------------- kills and damage

def test_pitfall_12_killed_at_any_moment_the_same_command_ends_with_the_same_bytes(chain):
    house = chain["house"]
    folder = seed0(house, "student")
    before = contents(folder)
    shutil.rmtree(folder)
    started = time.time()
    must(house, *STUDENT)
    seconds = time.time() - started
    rng = random.Random(0)
    assert contents(folder) == before
    for _ in range(2):
        shutil.rmtree(folder)
        warm.run(house, *STUDENT, before=warm.die_after(rng.uniform(0.05, 1.0) * seconds))
        must(house, *STUDENT)
        assert contents(folder) == before


@pytest.mark.parametrize("step", ["checkpoint", "labels", "results"])
def test_pitfall_12_killed_between_two_files_the_stage_is_not_done(chain, step):
    """
    Another run (--lr) in a finished run's folder dies just before it writes each of its files. Before the first one the
    finished run is whole. After it the folder counts as damaged, and the next run completes.
    """
    house = chain["house"]
    folder = seed0(house, "weak")
    before = contents(folder)
    writer = {"checkpoint": "save_checkpoint", "labels": "write_labels", "results": "write_results"}[step]
    code = f"""
import os
import train_weak
train_weak.{writer} = lambda *a, **k: os._exit(9)
train_weak.main({[*WEAK[1:], '--lr', '2e-4']!r})
"""
    assert call(house, "-c", code).returncode == 9
    if step == "checkpoint":
        assert contents(folder) == before
    assert ("already done" in must(house, *WEAK)) == (step == "checkpoint")
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["labels.jsonl", "checkpoint/model.safetensors", "results.json"])
def test_pitfall_11_a_damaged_run_is_repeated_not_used(chain, name):
    house = chain["house"]
    folder = seed0(house, "weak")
    before = contents(folder)
    with open(os.path.join(folder, name), "r+b") as f:
        f.seek(os.path.getsize(os.path.join(folder, name)) // 2)
        f.write(b"#")
    assert "already done" not in must(house, *WEAK)
    assert contents(folder) == before


# --------------------------------------------------------------------------- nothing leaks

@pytest.fixture
def noisy_house(chain, tmp_path):
    """The same house with its own copy of the rows and of the runs, so that a test can spoil labels."""
    other = build_house(tmp_path / "noisy")
    shutil.copytree(seed0(chain["house"]), seed0(other))
    return other


def test_pitfall_16_the_truth_of_train2_and_valid_never_reaches_the_student(chain, noisy_house):
    rng = random.Random(0)
    truth_path = os.path.join(noisy_house, "data", "tinyworld", "truth", "labels.jsonl")
    rewrite(truth_path, lambda row: {**row, "soft_label": rng.choice([[0.0, 1.0], [1.0, 0.0]])})
    must(noisy_house, *STUDENT, "--force")
    spoilt = contents(seed0(noisy_house, "student"))
    clean = contents(seed0(chain["house"], "student"))
    # the curve alone is compared with the truth, after training
    spoilt_curve = spoilt["results.json"].pop("curve")
    clean_curve = clean["results.json"].pop("curve")
    assert spoilt == clean
    assert [c["agrees_with_labels"] for c in spoilt_curve] == [c["agrees_with_labels"] for c in clean_curve]
    assert spoilt_curve != clean_curve


def test_pitfall_14_nothing_is_chosen_on_test(chain, noisy_house):
    """Other test labels: other scores, but the same checkpoints and the same soft labels."""
    rng = random.Random(0)
    test_path = os.path.join(noisy_house, "data", "tinyworld", "test.jsonl")
    rewrite(test_path, lambda row: {**row, "label": rng.randrange(2)})
    for name, command in (("weak", WEAK), ("student", STUDENT)):
        must(noisy_house, *command, "--force")
        spoilt = contents(seed0(noisy_house, name))
        clean = contents(seed0(chain["house"], name))
        assert spoilt["labels.jsonl"] == clean["labels.jsonl"]
        assert spoilt["checkpoint/model.safetensors"] == clean["checkpoint/model.safetensors"]
        assert spoilt["results.json"]["test"] != clean["results.json"]["test"]


def test_pitfalls_18_and_35_a_supervisor_that_lacks_a_test_row_is_an_error_that_names_it(chain, noisy_house):
    path = seed0(noisy_house, "weak", "labels.jsonl")
    lines = open(path).read().splitlines()
    missing_id = json.loads(lines.pop())["id"]
    open(path, "w").write("\n".join(lines))
    done = call(noisy_house, *STUDENT)
    assert done.returncode == 2 and missing_id in done.stderr and "Traceback" not in done.stderr
    assert "epoch 1" not in done.stdout                              # the error comes before training, not after it


def test_a_mistake_leaves_a_finished_run_whole(chain):
    folder = seed0(chain["house"], "weak")
    before = contents(folder)
    assert call(chain["house"], *WEAK, "--model", "tiny-9").returncode == 2
    assert call(chain["house"], *WEAK, "--device", "warp", "--force").returncode == 2
    assert contents(folder) == before


def test_runs_with_other_flags_are_another_row_of_the_table(chain, noisy_house):
    must(noisy_house, *WEAK, "--seed", "1", "--lr", "2e-4")
    rows = [line for line in must(noisy_house, "report.py").splitlines() if line.startswith("| weak ")]
    assert len(rows) == 2 and all("| 1 |" in row for row in rows)


def test_run_sh_refuses_flags_that_differ_between_stages(house):
    done = subprocess.run(["bash", "run.sh", "--model", "tiny-2"], cwd=house, capture_output=True, text=True)
    assert done.returncode == 2 and "one by one" in done.stderr


@pytest.mark.parametrize("preset", ["tinyworld", "laptop", "sciq", "paper"])
def test_every_command_of_every_preset_exists(preset):
    """They cannot run without a hub, but every script that --dry-run prints exists, and knows its flags."""
    command = ["bash", "run.sh", "--preset", preset, "--dry-run", "--seed", "3"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    commands = [line.split()[1:] for line in printed.splitlines() if line.startswith("$ python ")]
    assert len(commands) >= 5 and len(commands) == len(printed.splitlines())
    for _, script, *rest in commands:
        assert all(flag in usage(script) for flag in rest if flag.startswith("--")), script
        assert "prepare" in script or script == "report.py" or rest[-2:] == ["--seed", "3"]


def dry_run(*flags):
    """The commands that run.sh would run with these flags."""
    done = subprocess.run(["bash", "run.sh", "--dry-run", *flags], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("row,mode,attacks", [
    ({"text": "x"}, "debate", False), ({"text": "x", "question": "q", "answer": "a"}, "interaction", False),
    ({"text": "x", "question": "q", "answer": "a", "choices": ["a", "b"]}, "interaction", True)])
def test_run_sh_asks_own_rows_only_for_what_they_have(row, mode, attacks, tmp_path):
    folder = tmp_path / "data" / "mine"
    folder.mkdir(parents=True)
    (folder / "train1.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    shutil.copy(os.path.join(ROOT, "run.sh"), tmp_path)
    command = ["bash", "run.sh", "--dry-run", "--task", "mine"]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert f"--mode {mode} " in printed and ("--attack-share 0" in printed) != attacks


@pytest.mark.parametrize("row,n_truths,scripts", [
    ({"text": "x"}, 2, "weak strong strong icl ensemble strong debate strong align report"),
    ({"text_a": "x", "text_b": "y"}, 2, "weak strong strong ensemble strong report"),
    ({"text": "x"}, 1, None), (None, 2, None)])
def test_run_sh_runs_own_rows_that_have_all_labels(row, n_truths, scripts, tmp_path):
    """Pairs go to the stages that take them; with few true labels one line says what to do, before any work."""
    folder = tmp_path / "data" / "mine"
    (folder / "truth").mkdir(parents=True)
    (folder / "task.json").write_text("{}")
    for split in ("train1", "train2", "valid"):
        (folder / f"{split}.jsonl").write_text(json.dumps(row) + "\n" if row or split != "train1" else "")
    (folder / "truth" / "labels.jsonl").write_text("{}\n" * n_truths)
    shutil.copy(os.path.join(ROOT, "run.sh"), tmp_path)
    command = ["bash", "run.sh", "--dry-run", "--task", "mine"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    if scripts is None:
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "docs/own-labels.md" in done.stderr
    else:
        found = re.findall(r"python (?:train_|auto_)?(\w+)\.py", done.stdout)
        assert " ".join(found) == scripts, done.stderr


def test_run_sh_takes_flag_equals_value_and_a_task_as_a_path():
    expected = dry_run("--task", "tinyworld", "--seed", "1", "--max-rows", "50")
    assert dry_run("--task=data/tinyworld/", "--seed=1", "--max-rows=50") == expected
    stages = [line for line in expected if "prepare" not in line and "report" not in line]
    assert all(line.endswith("--max-rows 50 --task tinyworld --seed 1") for line in stages)
    assert expected[-1] == "$ python report.py --html --task tinyworld"


def test_what_a_dry_run_prints_can_be_pasted_into_a_shell():
    lines = dry_run("--device", "a b; exit")
    quoted = ["--device a\\ b\\;\\ exit" in line for line in lines]
    assert quoted == [False] + [True] * (len(lines) - 2) + [False]     # the first is prepare.py, the last report.py


@pytest.mark.parametrize("flags,words", [
    (["--seeds"], "--seeds needs a value"),
    (["--task="], "--task needs a value"),
    (["--seeds", "*"], "give numbers with commas"),
    (["--seeds", "0;1"], "give numbers with commas"),
])
def test_run_sh_refuses_a_flag_without_its_value_in_one_line(flags, words):
    done = subprocess.run(["bash", "run.sh", "--dry-run", *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and words in done.stderr and done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize("flags,words", [
    (["--chapters", "base,rm"], "--chapters 'base,rm': there are base,ladder"),
    (["--seeds", "*"], "give numbers with commas"),
    (["--chapters"], "--chapters needs a value"),
    (["--chapters", "real"], "set MODELS and ROWS"),
    (["--seed", "1"], "unknown flag --seed"),
])
def test_experiments_sh_runs_nothing_but_its_chapters(flags, words):
    done = subprocess.run(["bash", "experiments.sh", *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and words in done.stderr and done.stderr.count("\n") == 1


def test_run_sh_help_is_its_header():
    done = subprocess.run(["bash", "run.sh", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("The whole experiment") and "--preset paper --dry-run" in done.stdout


def test_run_sh_refuses_an_unknown_preset(house):
    done = subprocess.run(["bash", "run.sh", "--preset", "huge"], cwd=house, capture_output=True, text=True)
    assert done.returncode == 2 and "no preset 'huge'" in done.stderr


def test_stale_runs_are_named_and_left_out_of_the_table(chain, noisy_house):
    rewrite(seed0(noisy_house, "weak", "labels.jsonl"), swap_classes)
    printed = must(noisy_house, "report.py")
    assert "stale" in printed and "seed0/student" in printed and "| student |" not in printed


# --------------------------------------------------------------------------- what a user can do wrong

@pytest.mark.parametrize("command,words", [
    (["train_weak.py", "--task", "nowhere"], ["no train1 rows", "prepare.py"]),
    (["train_weak.py", "--model", "tiny-9"], ["tiny-9", "tiny-4"]),
    (["train_weak.py", "--device", "warp", "--force"], ["--device warp"]),
    (["train_weak.py", "--epochs", "0"], ["not between"]),
    (["train_weak.py", "--max-rows", "-3"], ["not between"]),
    (["train_weak.py", "--lr", "fast"], ["--lr"]),
    (["train_weak.py", "--out", "/proc/nothing"], ["cannot write"]),
    (["train_strong.py", "--labels", "nobody"], ["no labels at", "train_weak.py"]),
    (["train_strong.py", "--labels", "./report.py"], ["no labels at"]),
    (["train_strong.py", "--labels", "truth", "--out", "c", "--ceiling", "ceiling"], ["for students"]),
    (["train_strong.py", "--labels", "weak", "--ceiling", "nobody"], ["--ceiling", "nobody"]),
    (["train_strong.py", "--labels", "weak", "--ceiling", "weak"], ["no ceiling"]),
    (["train_strong.py", "--labels", "weak", "--ceiling", "ceiling", "--model", "tiny-2", "--lr", "3e-4"],
     ["--lr 0.0001", "labels alone"]),
    (["train_strong.py", "--labels", "weak", "--ceiling", "ceiling", "--model", "tiny-2", "--max-length", "8"],
     ["--max-length 1024", "labels alone"]),
    (["train_strong.py", "--labels", "weak", "--out", "weak"], ["overwrite"]),
    # the truth, named by its path
    (["train_strong.py", "--labels", "data/tinyworld/truth", "--out", "c", "--ceiling", "ceiling"], ["for students"]),
    (["train_weak.py", "--out", ".."], ["--out"]),
    (["train_weak.py", "--seed", "-1"], ["not between"]),
    (["train_weak.py", "--lr", "nan"], ["not between"]),
    (["train_strong.py", "--loss", "magic"], ["--loss", "logconf"]),
    (["train_strong.py", "--chain", "tiny-2,tiny-9"], ["tiny-9"]),
    (["train_strong.py", "--chain", "tiny-2,tiny-3", "--model", "tiny-1a"], ["--chain ends with 'tiny-3'"]),
    (["train_strong.py", "--keep", "0"], ["not between"]),
    (["report.py", "--task", "nowhere"], ["nowhere"]),
])
def test_a_users_mistake_is_one_clear_line_and_exit_code_2(chain, command, words):
    if command[0] != "report.py" and not {"--epochs", "--max-rows"} & set(command):
        command = command + QUICK
    done = call(chain["house"], *command)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert all(word in done.stderr for word in words), done.stderr


# --------------------------------------------------------------------------- documentation and style

def documents():
    found = ["README.md", "CONTRIBUTING.md", "run.sh", *PAGES, *SCRIPTS]
    for pattern in ("docs/*.md", "docs/*/*.md", "data/*/*.py", "data/*/README.md"):
        found += sorted(glob.glob(pattern, root_dir=ROOT))
    return found


def shown_commands():
    """[(document, "python SCRIPT FLAGS")], each once"""
    shown = set()
    for name in documents():
        with open(os.path.join(ROOT, name), encoding="utf-8") as f:
            commands = re.findall(r"^\$? ?(python (?!-m)[\w/]+\.py[^#\n&|]*)", f.read(), re.M)
        shown |= {(name, command.strip()) for command in commands}
    return sorted(shown)


@functools.cache
def usage(script):
    """What SCRIPT --help prints, in a process where an import of torch, transformers or datasets fails."""
    path = os.path.join(ROOT, script)
    code = f"""
import runpy, sys
sys.modules.update(torch=None, transformers=None, datasets=None, pyarrow=None, huggingface_hub=None)
sys.argv = [{script!r}, '--help']
sys.path.insert(0, {os.path.dirname(path)!r})
runpy.run_path({path!r}, run_name='__main__')
"""
    return must(tempfile.gettempdir(), "-c", code)


@pytest.mark.parametrize("where,command", shown_commands())
def test_pitfall_36_every_shown_command_and_flag_exists(where, command):
    text = usage(command.split()[1]).split("options:")[-1]
    for flag in re.findall(r"--[\w-]+", command):
        assert flag in text, f"{where} shows {flag}: {command}"


@pytest.mark.parametrize("script", [*SCRIPTS, *sorted(glob.glob("data/*/prepare.py", root_dir=ROOT)),
                                    *sorted(glob.glob("data/tinyworld/[cp]*.py", root_dir=ROOT))])
def test_help_is_instant_and_needs_neither_torch_nor_network(script):
    assert usage(script).startswith("usage:")


def sources():
    names = [*glob.glob("*.py", root_dir=ROOT), *glob.glob("data/*/*.py", root_dir=ROOT)]
    return [os.path.join(ROOT, name) for name in names]


@pytest.mark.parametrize("path", sources(), ids=lambda p: os.path.relpath(p, ROOT))
def test_sources_use_no_pickle_and_name_every_encoding(path):
    with open(path, encoding="utf-8") as f:
        text = f.read()
    if "prepare" not in path:                                        # trainers run on prepared files
        assert "import datasets" not in text and "from datasets" not in text
    assert "import pickle" not in text and "torch.load" not in text and "trust_remote_code=True" not in text
    tree = ast.parse(text, feature_version=(3, 10))                  # the oldest Python that is promised
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "open":
            mode = node.args[1].value if len(node.args) > 1 else "r"
            names_encoding = any(keyword.arg == "encoding" for keyword in node.keywords)
            assert "b" in mode or names_encoding, f"open() without encoding, line {node.lineno}"


def test_the_line_counts_in_readmes_table_of_files_are_those_of_the_files():
    """Within a tenth: a small edit needs no new number, a file that doubled does."""
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as f:
        text = f.read()
    counted = re.findall(r"^\| `([\w/]+\.py)` \|.*\| (\d+) \|[^|]*\|$", text, re.M)
    assert len(counted) == 18
    for name, written in counted:
        with open(os.path.join(ROOT, name), encoding="utf-8") as f:
            n_lines = len(f.readlines())
        assert int(written) == pytest.approx(n_lines, rel=0.1), name
    assert len(text.splitlines()) <= 220
    assert all(len(line) <= 120 for line in text.splitlines() if not line.startswith("|"))


def local_imports(name):
    """The project's modules that a module imports, at its top or inside a function."""
    with open(os.path.join(ROOT, name + ".py"), encoding="utf-8") as f:
        found = set(re.findall(r"^ *(?:from|import) (\w+)", f.read(), re.M))
    return {module for module in found if os.path.exists(os.path.join(ROOT, module + ".py"))}


SHARED = {"contract", "metrics", "models", "train_weak"}             # a stage may import all of these
ALLOWED = {
    "contract": set(),
    "metrics": {"contract"},
    "models": {"contract"},
    "train_weak": {"contract", "metrics", "models"},
    "auto_align": SHARED | {"train_strong"},
    "report": SHARED | {"align_tasks", "cdeval", "debate", "page"},
    "align_tasks": SHARED | {"sft", "report"},
}


@pytest.mark.parametrize("name", sorted(n[:-3] for n in glob.glob("*.py", root_dir=ROOT)))
def test_a_stage_imports_the_shared_pages_alone(name):
    assert local_imports(name) <= ALLOWED.get(name, SHARED)


def test_the_house_has_at_most_17_files_and_short_mains():
    names = glob.glob("*.py", root_dir=ROOT)
    assert len(names) <= 17, names
    for name in names:
        with open(os.path.join(ROOT, name), encoding="utf-8") as f:
            tree = ast.parse(f.read())
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name == "main":
                n_lines = node.end_lineno - node.lineno + 1
                assert n_lines <= 60, f"{name}: main() has {n_lines} lines"
            calls = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
            assert not calls, f"{name}, line {node.lineno}: a side effect at import"


# --------------------------------------------------------------------------- a fork

FORKS = {
    "train_weak": ["--model", "tiny-1a"],
    "train_strong": ["--labels", "truth", "--model", "tiny-1b"],
    "ensemble": ["--members", "2"],
    "debate": ["--mode", "support"],
    "icl": ["--labels", "truth", "--model", "tiny-1b"],
    "auto_align": ["--evaluator", "weak", "--ladder", "tiny-1b", "--doubt", "0.05"],
    "sft": ["--labels", "train1", "--model", "tiny-1a", "--prompts", "2", "--samples", "2"],
    "align_tasks": ["--task", "toxicity", "--model", "tiny-1b", "--ladder", "tiny-1c", "--members", "tiny-1a",
                    "--reader", "tiny-1a", "--prompts", "2", "--samples", "2", "--max-rows", "6"],
    "cdeval": ["--models", "tiny-1a", "--max-rows", "4"],
    "report": [],
}


def needed_files(stage):
    """The files that a stage's header names after "Needs"."""
    with open(os.path.join(ROOT, stage + ".py"), encoding="utf-8") as f:
        header = ast.get_docstring(ast.parse(f.read()))
    until = r"(?=^(?:Reads|Writes|Prints|\S)|^$)"                     # the next entry, or an empty line
    needs = re.search(r"^Needs +(.*?)" + until, header + "\n\n", re.M | re.S)[1]
    return set(re.findall(r"(?<![\w/])\w+\.py", needs)) | {stage + ".py"}           # those of data/ are there already


@pytest.mark.parametrize("stage", FORKS)
def test_a_stage_runs_with_the_files_that_its_header_names_and_no_others(chain, tmp_path, stage):
    """The stage, copied into an empty folder with exactly these files, and data/."""
    for name in needed_files(stage):
        shutil.copy(os.path.join(ROOT, name), tmp_path)
    data = tmp_path / "data"
    shutil.copytree(os.path.join(chain["house"], "data"), data, symlinks=True)
    for name in ("hub.py", "own", "toxicity", "cdeval"):
        source = os.path.join(ROOT, "data", name)
        if os.path.isdir(source):
            shutil.copytree(source, data / name, dirs_exist_ok=True)
        elif os.path.exists(source):
            shutil.copy(source, data)
    if not os.path.exists(data / "tinyworld" / "life"):
        os.symlink(os.path.join(ROOT, "data", "tinyworld", "life"), data / "tinyworld" / "life")
    if stage in ("sft", "align_tasks"):
        must(tmp_path, "data/toxicity/prepare.py")
    flags = list(FORKS[stage])
    if stage != "report":
        flags += ["--out", "fork"]
    if stage != "report" and "--max-rows" not in flags:
        flags += ["--max-rows", "24"]
    if stage not in ("report", "cdeval", "icl"):
        flags += ["--epochs", "1"]
    must(tmp_path, stage + ".py", *flags)


def test_an_edited_loss_runs_again_and_an_edited_comment_does_not(noisy_house):
    """A run's identity includes its code. One line says what changed, before any work."""
    path = os.path.join(noisy_house, "train_weak.py")
    with open(path, encoding="utf-8") as f:
        text = f.read()

    def run_edited(old, new):
        assert text.count(old) == 1
        with open(path, "w", encoding="utf-8") as f:
            f.write(text.replace(old, new))
        return must(noisy_house, *WEAK)
    loss = "return -(soft_labels * logits"
    run_edited(loss, "return -(1.0 * soft_labels * logits")
    assert "already done" in must(noisy_house, *WEAK)
    assert "code changed: this script" in run_edited(loss, "return -(2.0 * soft_labels * logits")
    printed = run_edited(loss, loss)
    assert "holds another finished run (code changed: this script)" in printed
    assert "It stays until this run is complete" in printed
    docstring = "Cross entropy against probabilities instead of class ids."
    assert "already done" in run_edited(docstring, "Another docstring.")
    with open(os.path.join(noisy_house, "models.py"), "a", encoding="utf-8") as f:
        f.write("\n\ndef unused():\n    return 1\n")
    assert "code changed: models.py" in must(noisy_house, *WEAK)


def test_a_stage_under_another_name_is_the_same_stage(chain, noisy_house):
    """cp train_strong.py my_loss.py: its ceiling counts as a ceiling, and the report shows its student."""
    shutil.copy(os.path.join(noisy_house, "train_strong.py"), os.path.join(noisy_house, "my_loss.py"))
    assert "already done" in must(noisy_house, "my_loss.py", *CEILING[1:])
    must(noisy_house, "my_loss.py", "--labels", "weak", "--ceiling", "ceiling", "--out", "student-forked",
         "--model", "tiny-2", "--loss", "logconf", *QUICK)
    assert "| student-forked |" in must(noisy_house, "report.py")


def test_names_work_with_a_trailing_slash_and_as_paths(chain):
    """A trailing slash from the shell's completion, the path of a task, and a run's folder as a model."""
    house = chain["house"]
    for flags in (["--task", "data/tinyworld"], ["--task", "data/tinyworld/"], ["--task", "tinyworld/"],
                  ["--out", "weak/"], ["--out", "data/tinyworld/seed0/weak/"], ["--model", "tiny-1a/"]):
        assert "already done" in must(house, *WEAK, *flags), flags
    for model in ("data/tinyworld/seed0/student", "data/tinyworld/seed0/student/",
                  "data/tinyworld/seed0/student/checkpoint"):
        must(house, "train_weak.py", "--model", model, "--out", "from-a-run", *QUICK)


def test_a_notebook_can_call_a_stage_twice_in_one_process_and_no_lock_stays(chain):
    """Nothing imports distributed.py, so an installed package of that name cannot get in the way."""
    code = f"""
import fcntl, os, sys
sys.path.append(os.getcwd())
import train_weak
flags = {[*WEAK[1:], '--out', 'notebook']!r}
train_weak.main([*flags, '--force'])
train_weak.main(flags)
train_weak.main([*flags, '--force'])
handle = os.open('data/tinyworld/seed0/notebook', os.O_RDONLY)
fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
print('no lock; distributed', 'distributed' in sys.modules)
"""
    done = call(chain["house"], "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote ") == 2 and done.stdout.count("already done") == 1
    assert "no lock; distributed False" in done.stdout


def test_ctrl_c_ends_in_one_line_that_says_what_is_kept(chain):
    done = warm.run(chain["house"], "train_weak.py", "--epochs", "500", "--out", "stopped",
                    before=warm.die_after(0.2, "one example", interrupt=True))
    lines = [line for line in done.stderr.splitlines() if "it/s" not in line and line.strip()]
    assert done.returncode == 130 and len(lines) == 1, done.stderr
    assert lines[0] == "interrupted: nothing was written; the same command starts again"


def test_a_run_with_other_flags_says_so_and_loses_nothing_before_it_is_complete(chain):
    house = chain["house"]
    folder = seed0(house, "weak")
    before = contents(folder)
    flags = ["--lr", "3e-4", "--epochs", "500"]
    done = warm.run(house, *WEAK, *flags, before=warm.die_after(0.2, "one example"))
    assert done.returncode == -signal.SIGALRM
    changes = r"weak holds another finished run \(epochs 1 -> 500; lr 0.0001 -> 0.0003\)\. It stays until"
    assert re.search(changes, done.stdout)
    assert contents(folder) == before
    assert "already done" in must(house, *WEAK)
