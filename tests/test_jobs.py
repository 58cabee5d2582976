"""
jobs.py: what waits for what, and what happens after a failure. tests/test_commands.py compares its files. The commands
of experiments.sh and their rows (data/tinyworld/variants.py). And a dry run of gpu.sh, which uses it.

python -m pytest tests/test_jobs.py          # 15 s
"""
import doctest
import importlib
import json
import multiprocessing
import os
import re
import shlex
import shutil
import subprocess

import pytest

import jobs
import variants
import warm
from conftest import ROOT


def test_the_worked_example_in_the_docstring_is_right():
    assert doctest.testmod(jobs).failed == 0


@pytest.mark.parametrize("line", [
    "$ python", "$ bash run.sh", "$ python nothing.py", "$ python 'report.py", "report.py"])
def test_blank_lines_and_comments_are_skipped_and_other_lines_are_refused(line, capsys):
    assert jobs.parse_commands(["\n", "  # a comment\n", "python report.py --task 'a b'\n", " \n"]) == [
        ["report.py", "--task", "a b"]]
    with pytest.raises(SystemExit) as stop:
        jobs.parse_commands(["\n", line + "\n"])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.startswith("error: line 2 of the input, ") and err.count("\n") == 1


def run_scripts(tmp_path, capfd, n_jobs, *scripts):
    """Scripts, each (its code, its flags as a line) -> exit code, what is printed"""
    commands = []
    for k, (code, flags) in enumerate(scripts):
        path = tmp_path / f"{k}.py"
        path.write_text(f"import os, sys, time\nos.chdir({str(tmp_path)!r})\n{code}")
        commands.append([str(path), *flags.split()])
    capfd.readouterr()
    code = jobs.run_all(commands, n_jobs, multiprocessing.get_context("spawn"), str(tmp_path))
    return code, capfd.readouterr().out


def test_a_command_waits_for_what_it_names_and_for_nothing_else(tmp_path, capfd):
    """The first ends only after the second has started; the third needs the first."""
    first = "while not os.path.exists('started'): time.sleep(.05)\nopen('made', 'w')\nprint('one')"
    second = "open('started', 'w')\nprint('two')"
    third = "assert os.path.exists('made')\nprint('three')"
    scripts = (first, "--out a"), (second, "--out b"), (third, "--labels a --out c")
    code, printed = run_scripts(tmp_path, capfd, 2, *scripts)
    assert code == 0
    said = [line for line in printed.splitlines() if line in ("one", "two", "three")]
    assert said in (["one", "two", "three"], ["two", "one", "three"])
    assert printed.count("$ python ") == 3
    starts = re.findall(r"^\[(\d/3)\] (\d.py) --out \w \.\.\. time left unknown: (\d) of \d have", printed, re.M)
    assert starts == [("1/3", "0.py", "3"), ("2/3", "1.py", "3"), ("3/3", "2.py", starts[2][2])]
    table = printed.split("seconds  seed  run")[1].splitlines()
    assert [line.split()[1:] for line in table[1:]] == [["a", "done"], ["b", "done"], ["c", "done"]]


def test_after_a_failure_nothing_starts_and_its_exit_code_is_returned(tmp_path, capfd):
    for n_jobs in (1, 2):
        code, printed = run_scripts(tmp_path, capfd, n_jobs, ("sys.exit('no')", "--out a"), ("print('two')", ""))
        assert code == 1
        assert "two" not in printed
        assert re.search(r"^ +\d+ +a     failed with exit code 1\n +0 +1.py  not started$", printed, re.M)


def finished(root, out, seed, seconds, line="student 0.9"):
    folder = root / "data" / "tinyworld" / f"seed{seed}" / out
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"seconds": seconds, "line": line}))


def test_the_time_left_is_that_of_earlier_runs_of_the_same_commands(tmp_path, monkeypatch):
    """Two jobs: weak (30 s) runs for 10 s already and student (50 s) waits for it; icl (200 s) starts now."""
    monkeypatch.setattr(jobs.contract, "ROOT", str(tmp_path))
    monkeypatch.setattr(jobs.time, "time", lambda: 110.0)
    lines = ("train_weak.py --out weak --seed 1", "train_strong.py --labels weak --out student --seed 1",
             "icl.py --labels truth --out icl --seed 1", "report.py --html")
    commands = [line.split() for line in lines]

    def left(n_jobs):
        return jobs.format_time_left(commands, jobs.find_needs(commands), [1, 2, 3], {0: 100.0}, n_jobs)
    assert left(2) == "time left unknown: 3 of 4 have never run here"
    finished(tmp_path, "weak", 0, 30)                      # another seed's
    finished(tmp_path, "student", 0, 5000)
    finished(tmp_path, "student", 1, 50, "student \x1b[31m0.8 | WARNING: a | WARNING: b")   # this seed goes before
    assert left(2) == "more than 70 s left: 1 of 4 have never run here"
    finished(tmp_path, "icl", 3, 200)
    assert left(2) == "up to 3 min left: finished runs are skipped"         # student has one with this seed
    commands[1].append("--force")
    assert left(2) == "about 3 min left"                   # the longer of 20 + 50 and 200 seconds
    assert left(1) == "about 4 min left"                   # 20 + 50 + 200
    (tmp_path / "data" / "tinyworld" / "seed3" / "icl" / "results.json").write_text("{")
    assert "1 of 4 have never" in left(2)
    table = jobs.format_table(commands, {0: (20.0, 0), 1: (7.6, 0), 2: (3.0, -9)})
    assert table == ["seconds  seed  run        last line",
                     "     20     1  weak       done",
                     "      8     1  student    student \\x1b[31m0.8 | WARNINGS: 2, see above",
                     "      3     1  icl        failed with exit code -9",
                     "      0        report.py  not started"]
    commands[3] = ["train_weak.py", "--out", "weak", "--task", "coin"]       # a second task: which weak is it?
    assert jobs.format_table(commands, {})[4].split() == ["0", "coin/weak", "not", "started"]


def test_what_needs_a_gpu_runs_on_a_cpu_in_small(tmp_path):
    """So that it does not fail for a silly reason on the day when there is one."""
    script = os.path.join("tests", "gpu.py")
    with open(os.path.join(ROOT, "tests", "gpu.sh"), encoding="utf-8") as f:
        assert f.read().endswith('\nexec python "$(dirname "$0")/gpu.py" "$@"\n')
    done = warm.run(ROOT, script, tmp_path, "--tiny")      # this line, without 4 seconds of imports
    log = (tmp_path / "gpu.log").read_text()
    assert done.returncode == 0, done.stderr + log
    found = json.loads((tmp_path / "gpu.json").read_text())
    for part in ("training", "prompts", "memory", "torchrun", "attention", *found["stages"]):
        assert {**found, **found["stages"]}[part]["exit"] == 0, (part, log)
    cases = [row["case"] for part in ("training", "prompts", "memory") for row in found[part]["rows"]]
    assert {"label", "fine-tune", "one row", "first word", "generate", "in-context", "lora"} <= set(cases)
    assert found["accuracies"]["weak"]["agree"]
    assert sorted(os.listdir(tmp_path)) == ["gpu.json", "gpu.log"]


def test_run_sh_names_every_run_that_a_command_reads():
    """A command that read the run `weak` without naming it would start beside it."""
    done = subprocess.run(["bash", "run.sh", "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=True)
    commands = [shlex.split(line.removeprefix("$ python ")) for line in done.stdout.splitlines() if line[0] == "$"]
    outs = {jobs.value_of("--out", words): words for words in commands}
    for name in ("student", "icl", "crowd", "oversight", "align"):
        assert jobs.must_wait(outs[name], outs["weak"]), name
    assert not jobs.must_wait(outs["ceiling"], outs["weak"])


FORK = """
import multiprocessing, os, sys
sys.path.insert(0, os.getcwd())
import jobs, torch
jobs.import_libraries(1)
calls = []
torch.set_num_threads = calls.append
process = multiprocessing.get_context("fork").Process(target=jobs.become, args=([sys.argv[1]],))
process.start()
process.join()
print(calls)
"""


def test_a_forked_command_has_threads_of_its_own_before_its_script_starts(tmp_path):
    """
    Fault: of many forked commands one could not load its model ("Invalid thread pool!"): two of the threads that load
    weights found the parent's pool at the same moment. On a busy machine two of three processes with 16 threads failed.
    """
    script = tmp_path / "script.py"
    script.write_text("import torch\nprint(torch.set_num_threads.__self__)")              # the list of calls
    done = warm.run(ROOT, "-c", FORK, script)
    assert done.stdout.split() == ["[1]", "[]"], done.stdout + done.stderr


def experiments(*flags, folder=ROOT):
    """bash experiments.sh --dry-run -> its commands, each a list of words"""
    env = {**os.environ, "MODELS": ".", "ROWS": "."}
    done = subprocess.run(["bash", "experiments.sh", "--dry-run", *flags], cwd=folder, env=env, capture_output=True,
                          text=True, check=True)
    return jobs.parse_commands(done.stdout.splitlines())


def runs_read(words):
    """The runs that a command reads, by the parser of its stage -> {(task, seed, name)}"""
    args = vars(importlib.import_module(words[0].removesuffix(".py")).build_parser().parse_args(words[1:]))
    if words[0] in ("ensemble.py", "debate.py") and not args.get("supervisors"):
        args["supervisor"] = args["supervisor"] or "weak"
    values = []
    for key in ("labels", "ceiling", "supervisor", "supervisors", "evaluator", "oversight", "reward"):
        values += (args.get(key) or "").split(",")
    found = set()
    for name in [*values, *args.get("models", [])] if words[0] == "cdeval.py" else values:
        if path := re.fullmatch(r"data/([\w-]+)/seed(\d+)/([\w-]+)", name):
            found.add(path.groups())
        elif words[0] != "cdeval.py" and name not in ("", "all", "truth", "train1"):
            found.add((args["task"], str(args["seed"]), name))
    return found


@pytest.mark.parametrize("chapters", [[], ["--chapters", "real"]], ids=["all", "real"])
def test_each_command_of_experiments_sh_waits_for_every_run_that_it_reads(chapters):
    """A chapter that read a run without naming it would start too early, with --jobs 2 only."""
    commands = experiments("--seeds", "0,1", *chapters)
    needs = jobs.find_needs(commands)
    released = {("sciq-gpt2-0", "gpt2"), ("sciq-gpt2-1", "gpt2"), ("sciq-qwen", "plain"),
                ("sciq-qwen", "with_knowledge")}
    made = {}
    n_read = 0
    for k, words in enumerate(commands):
        if "--out" not in words:                           # rows are made before everything else
            assert words[0].startswith("data/") and all("--out" not in earlier for earlier in commands[:k]), words
            continue
        if words[0] != os.path.join("data", "tinyworld", "variants.py"):
            for task, seed, name in runs_read(words):
                if (task, name) not in released:           # labels that data/sciq/released.py puts there
                    assert (task, seed, name) in made, (words, name)
                    assert made[task, seed, name] in needs[k], (words, name)
                    n_read += 1
        made[jobs.place_of(words)] = k
    assert n_read > (40 if chapters else 200)
    # nor is one held up by other seeds, and a supervisor and a ceiling start at once
    barriers = sum("--out" not in words for words in commands)
    of_seed_1 = [k for k, words in enumerate(commands) if jobs.place_of(words)[1] == "1" and k >= barriers]
    assert all(j < barriers or jobs.place_of(commands[j])[1] == "1" for k in of_seed_1 for j in needs[k])


def test_commands_that_fill_the_same_folder_wait_for_one_another():
    debate = "debate.py --mode debate --rounds 1 --out a --seed 2"
    models = "ensemble.py --by models --out m --seed 0"
    for line, earlier, waits in (
            ("debate.py --mode debate --rounds 2 --out b --seed 2", debate, True),
            ("debate.py --mode debate --rounds 2 --out b --seed 3", debate, False),
            ("debate.py --mode interaction --out b --seed 2", debate, False),
            ("debate.py --mode debate --assistant tiny-2 --out b --seed 2", debate, False),
            ("ensemble.py --by models --combine vote --out v --seed 0", models, True),
            ("ensemble.py --by layers --out v --seed 0", models, False),
            ("ensemble.py --by layers --out m", models, True)):             # the same run
        assert jobs.must_wait(line.split(), earlier.split()) == waits, line


def test_experiments_sh_hands_its_commands_to_jobs_py(tmp_path):
    """After a failed command none starts. Here torch only says that there is a GPU, and the stages do nothing."""
    for name in ("experiments.sh", "jobs.py", "contract.py"):
        shutil.copy(os.path.join(ROOT, name), tmp_path)
    (tmp_path / "torch.py").write_text("from unittest.mock import MagicMock\ncuda = MagicMock()")
    (tmp_path / "data" / "tinyworld").mkdir(parents=True)
    (tmp_path / "data" / "tinyworld" / "task.json").write_text("{}")
    (tmp_path / "train_weak.py").write_text("")
    (tmp_path / "train_strong.py").write_text("import sys\nsys.exit('ceiling' == sys.argv[-1])")
    done = subprocess.run(["bash", "experiments.sh", "--seeds", "0", "--chapters", "base,methods", "--jobs=2"],
                          cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == ""
    for run, end in (("weak", "done"), ("ceiling", "failed with exit code 1"), ("student-window", "not started")):
        assert re.search(rf"^ +\d+ +0  {run} +{end}$", done.stdout, re.M), (run, done.stdout)


def test_variants_of_tinyworld_err_where_they_say(tmp_path, monkeypatch, capsys):
    """By hand: four questions in each of train1 and train2, one about a class in each."""
    assert doctest.testmod(variants).failed == 0
    world = tmp_path / "data" / "tinyworld"
    (world / "truth").mkdir(parents=True)
    monkeypatch.setattr(variants, "HERE", str(world))
    monkeypatch.setattr(jobs.contract, "ROOT", str(tmp_path))
    rows = {}
    for split in ("train1", "train2", "valid", "test"):
        rows[split] = [{"id": f"{split}-{k}", "group": f"{split}-{k}", "text": "Q", "label": k % 2,
                        "relation": ("class", "legs")[k > 0], "field": ("plants", "units")[k > 1]} for k in range(4)]
    truth = [{"id": row["id"], "soft_label": [1 - row["label"], row["label"]]}
             for split in ("train2", "valid") for row in rows[split]]
    for split in ("train2", "valid"):
        rows[split] = [{key: row[key] for key in row if key != "label"} for row in rows[split]]
    for name, lines in [*rows.items(), (os.path.join("truth", "labels"), truth)]:
        jobs.contract.write_jsonl(str(world / f"{name}.jsonl"), lines)
    (world / "task.json").write_text('{"task": "tinyworld", "splits": {}}')

    def made(folder, name):
        path = tmp_path / "data" / folder / f"{name}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]
    variants.main(["rule", "--seed", "3"])
    verdicts = {line["id"]: line["soft_label"] for line in made("tinyworld/seed3/rule", "labels")}
    assert len(verdicts) == 12 and verdicts["test-0"] == verdicts["valid-1"] == verdicts["train2-3"] == [0.1, 0.9]
    assert verdicts["test-2"] == verdicts["train2-2"] == [0.9, 0.1]         # row 0 is wrong too, and about plants
    for how in ("coin", "relation", "swap"):
        variants.main([how])
        assert json.loads((tmp_path / "data" / f"tinyworld-{how}" / "task.json").read_text()) == {
            "task": f"tinyworld-{how}"}
        assert made(f"tinyworld-{how}", "test") == rows["test"]
    assert [(row["id"], row["label"]) for row in made("tinyworld-relation", "train1")] == [
        *((f"train1-0-{k}", 1) for k in range(5)), ("train1-1-0", 1), ("train1-2-0", 0), ("train1-3-0", 1)]
    assert [(row["id"], row["label"]) for row in made("tinyworld-swap", "train1")] == [
        (f"train2-{k}", k % 2) for k in range(4)]
    assert [row["id"] for row in made("tinyworld-swap", "train2")] == [f"train1-{k}" for k in range(4)]
    assert not any("label" in row for row in made("tinyworld-swap", "train2"))
    assert {line["id"]: line["soft_label"] for line in made("tinyworld-swap", "truth/labels")}["train1-1"] == [0, 1]
    flipped = [row["label"] for row in variants.flip_coin([{"label": 0}] * 4000)]
    assert abs(sum(flipped) / 4000 - 0.45) < 0.03
    capsys.readouterr()
    variants.main(["swap"])
    assert capsys.readouterr().out.startswith("already made: ")
