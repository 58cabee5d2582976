"""
jobs.py: what waits for what, and what happens after a failure. tests/test_commands.py compares its files. And a dry run
of gpu.sh, which uses it.

python -m pytest tests/test_jobs.py          # 15 s
"""
import doctest
import json
import multiprocessing
import os
import re
import shlex
import subprocess

import pytest

import jobs
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
             "icl.py --out icl --seed 1", "report.py --html")
    commands = [line.split() for line in lines]

    def left(n_jobs):
        return jobs.format_time_left(commands, [1, 2, 3], {0: 100.0}, n_jobs)
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
