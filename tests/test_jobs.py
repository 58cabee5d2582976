"""
jobs.py: what waits for what, and what happens after a failure. tests/test_commands.py compares its files. And a dry run
of gpu.sh, which uses it.

python -m pytest tests/test_jobs.py          # 15 s
"""
import doctest
import json
import multiprocessing
import os
import shlex
import subprocess

import conftest
import jobs
from conftest import ROOT


def test_the_worked_example_in_the_docstring_is_right():
    assert doctest.testmod(jobs).failed == 0


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
    said = [line for line in printed.splitlines() if not line.startswith("$")]
    assert said in (["one", "two", "three"], ["two", "one", "three"])
    assert printed.count("$ python ") == 3


def test_after_a_failure_nothing_starts_and_its_exit_code_is_returned(tmp_path, capfd):
    for n_jobs in (1, 2):
        code, printed = run_scripts(tmp_path, capfd, n_jobs, ("sys.exit('no')", "--out a"), ("print('two')", ""))
        assert code == 1
        assert "two" not in printed


def test_what_needs_a_gpu_runs_on_a_cpu_in_small(tmp_path):
    """So that it does not fail for a silly reason on the day when there is one."""
    script = os.path.join(conftest.ROOT, "tests", "gpu.sh")
    done = subprocess.run(["bash", script, str(tmp_path), "--tiny"], capture_output=True, text=True)
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
