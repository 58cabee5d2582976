"""
Run commands of this project, several at a time, each as soon as the runs that it names are finished. run.sh and
experiments.sh use it.

$ bash run.sh --dry-run --seeds 0,1 | python jobs.py --jobs 2

A line of the input is a command as run.sh prints it: `$ python icl.py --labels weak --out icl --seed 0`. It waits for
every earlier command of the same --task and --seed whose --out it names, and for every run that it names by its path.
A command without --out (prepare.py, report.py) waits for all before it, and all after it wait for it. So a command must
name every run that it reads, but for `weak`, the default of some flags. Commands that fill the same folder of members
(ensemble.py) or transcripts (debate.py) wait for one another. After one command has failed no other is started; those
that are running come to their end.

Before each command a line says which of how many it is, and the time left: the seconds in the results.json of the same
run, of this seed or another, spread over the jobs. It may be less, since finished runs are skipped. Commands that never
ran are counted and not guessed. At the end a table has each command's seconds and each stage's last line.

Each command is a process of its own with its share of the cores (OMP_NUM_THREADS, if it is not set). Its files are the
same bytes as those of `python icl.py ...` with that many threads. On Linux without a GPU, processes are forked from
this one, which has imported torch and transformers: that saves each of them 3.5 seconds.

Needs   contract.py
"""
import argparse
import contextlib
import functools
import glob
import heapq
import json
import multiprocessing
import multiprocessing.connection
import os
import runpy
import shlex
import sys
import tempfile
import time

import contract


def value_of(flag, words):
    """The value of a flag in a command, "" if it is not there"""
    return words[words.index(flag) + 1] if flag in words[:-1] else ""


# the flags that name `weak` if they are not there, and those by which commands share a folder
DEFAULT_WEAK = {"ensemble.py": "--supervisor", "debate.py": "--supervisor", "auto_align.py": "--evaluator",
                "icl.py": "--labels", "sft.py": "--labels", "train_strong.py": "--labels"}
SHARED = {"ensemble.py": ("--method", "--by"), "debate.py": ("--mode", "--assistant")}


def place_of(words):
    """Where a command's run is -> (task, seed, --out)"""
    task = value_of("--task", words) or ("cdeval" if words[0] == "cdeval.py" else "tinyworld")
    return task, value_of("--seed", words) or "0", value_of("--out", words)


def must_wait(words, earlier):
    """
    Does a command need what an earlier one makes, or write where it writes?

    >>> weak = "train_weak.py --out weak --seed 0".split()
    >>> [must_wait(line.split(), weak) for line in ("icl.py --labels weak --out icl --seed 0",
    ...     "icl.py --labels weak --out icl --seed 1", "icl.py --labels truth --out icl --seed 0", "report.py",
    ...     "cdeval.py --models data/tinyworld/seed0/weak --out culture", "icl.py --task legal --out icl --seed 0")]
    [True, False, False, True, True, False]
    """
    task, seed, out = place_of(earlier)
    own_task, own_seed, own_out = place_of(words)
    if not out or not own_out:
        return True
    named = ",".join(words).split(",")
    if any(f"{name}/".startswith(f"data/{task}/seed{seed}/{out}/") for name in named):
        return True
    if (task, seed) != (own_task, own_seed):
        return False
    script = words[0]
    shares = script == earlier[0] and script in SHARED and all(
        value_of(flag, words) == value_of(flag, earlier) for flag in SHARED[script])
    reads_weak = script in DEFAULT_WEAK and DEFAULT_WEAK[script] not in words
    return out in named or shares or reads_weak and out == "weak"


def find_needs(commands):
    """
    For each command the indices of the earlier ones that it must wait for

    >>> find_needs([line.split() for line in ("a.py --out a", "b.py --out b", "c.py --out c --labels a,b")])
    [[], [], [0, 1]]
    """
    return [[j for j in range(k) if must_wait(words, commands[j])] for k, words in enumerate(commands)]


def start_order(needs):
    """
    Indices of the commands. Of several that could start, the one starts for which most others wait; among equals, the
    one that waits for most. So the longest chain of commands is not left for the end, when other cores are idle.

    >>> start_order([[], [], [1], [1, 2]])                 # find_needs of four commands
    [1, 2, 3, 0]
    """
    all_needs = []                                         # for each command all that must be finished before it
    for named in needs:
        all_needs.append(set(named).union(*(all_needs[j] for j in named)))
    n_waiting = [sum(k in others for others in all_needs) for k in range(len(needs))]
    return sorted(range(len(needs)), key=lambda k: (-n_waiting[k], -len(all_needs[k])))


@functools.cache
def read_results(path, changed):
    """The "seconds" and "line" of a results.json; {} if it is damaged. changed: when, so that a new one is read"""
    with contextlib.suppress(*contract.DAMAGE), open(path, encoding="utf-8") as f:
        results = json.load(f)
        if isinstance(results["seconds"], (int, float)) and isinstance(results["line"], str):
            return {key: results[key] for key in ("seconds", "line")}
    return {}


def read_run(words, other_seeds=False):
    """
    What read_results says of a command's run; {} if there is none. other_seeds: if this seed has none, take another's
    """
    task, seed, out = place_of(words)
    folder = os.path.join(contract.ROOT, "data", task)
    paths = [os.path.join(folder, f"seed{seed}", out, "results.json")]
    if other_seeds:
        paths += sorted(glob.glob(os.path.join(glob.escape(folder), "seed*", glob.escape(out), "results.json")))
    for path in paths if out else []:
        if os.path.isfile(path) and (results := read_results(path, os.stat(path).st_mtime_ns)):
            return results
    return {}


def simulate(needs, left, n_jobs):
    """
    Seconds until all commands are finished, if each starts as soon as a job is free and what it waits for is finished.
    left: {index of a command: its seconds}, first those that are running, then the others in the order of their start

    >>> needs = find_needs([line.split() for line in ("a.py --out a", "b.py --out b --labels a", "c.py --out c")])
    >>> [simulate(needs, {0: 10, 1: 5, 2: 20}, n_jobs) for n_jobs in (1, 2)]
    [35, 20]
    """
    waits_for = {k: [j for j in needs[k] if j in left] for k in left}
    free_at = [0] * n_jobs
    end_of = {}
    while len(end_of) < len(left):
        ready = [k for k in left if k not in end_of and all(j in end_of for j in waits_for[k])]
        start_of = {k: max([free_at[0], *(end_of[j] for j in waits_for[k])]) for k in ready}
        k = min(ready, key=start_of.get)                   # among equals the first in `left`
        end_of[k] = start_of[k] + left[k]
        heapq.heapreplace(free_at, end_of[k])
    return max(end_of.values(), default=0)


def format_seconds(seconds):
    """
    >>> [format_seconds(s) for s in (0.4, 89, 100, 9000)]
    ['0 s', '89 s', '2 min', '2.5 h']
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def format_time_left(commands, needs, todo, running, n_jobs):
    """The time until all is done, from earlier runs. todo: indices of commands; running: {index: its start}"""
    left = {}
    n_unknown = 0
    for k in [*running, *todo]:
        seconds = read_run(commands[k], other_seeds=True).get("seconds", 0)
        n_unknown += bool(value_of("--out", commands[k])) and not seconds        # prepare.py and report.py take seconds
        left[k] = max(0, seconds - (time.time() - running[k] if k in running else 0))
    total = simulate(needs, left, n_jobs)
    n_skipped = sum("--force" not in commands[k] and read_run(commands[k]) != {} for k in todo)
    if not n_unknown and n_skipped:
        return f"up to {format_seconds(total)} left: finished runs are skipped"
    if not n_unknown:
        return f"about {format_seconds(total)} left" if total else "seconds left"
    known = "time left unknown" if not total else f"more than {format_seconds(total)} left"
    return f"{known}: {n_unknown} of {len(left)} have never run here"


def format_table(commands, seconds):
    """Each run's seconds and last line -> lines. seconds: {index: (how long it took, its exit code)}"""
    rows = [("seconds", "seed", "run", "last line")]
    several_tasks = len({value_of("--task", words) for words in commands if value_of("--out", words)}) > 1
    for k, words in enumerate(commands):
        took, code = seconds.get(k, (0, None))
        line = "not started" if code is None else f"failed with exit code {code}" if code else ""
        line, *warnings = (line or read_run(words).get("line", "done")).split(" | WARNING: ")
        line += f" | WARNINGS: {len(warnings)}, see above" if warnings else ""
        name = value_of("--out", words) or os.path.basename(words[0])
        if several_tasks and value_of("--task", words):
            name = f"{value_of('--task', words)}/{name}"
        rows.append((f"{took:.0f}", value_of("--seed", words), name, contract.plain(line)))
    widths = [max(len(row[k]) for row in rows) for k in range(3)]
    return [f"{row[0]:>{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:{widths[2]}}  {row[3]}" for row in rows]


def has_gpu():
    """Asks the driver: a process in which CUDA has started cannot be forked."""
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    import torch
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def import_libraries(n_threads):
    """What takes every stage seconds to import. The pages of this project are imported by each stage anew."""
    contract.import_hub()
    import torch
    import transformers
    torch.set_num_threads(n_threads)                       # forked processes read no OMP_NUM_THREADS
    for name in ("AutoModelForCausalLM", "AutoModelForSequenceClassification", "AutoTokenizer", "GPT2LMHeadModel"):
        getattr(transformers, name)                        # transformers imports a part when it is first named
    del sys.modules["contract"]


def become(words, out=None):
    """Turn a new process into `python WORDS`. out: a file for everything that it prints"""
    if torch := sys.modules.get("torch"):
        # a fork leaves torch's pool of threads behind, and the next call makes another: if that were one of the threads
        # in which transformers loads weights, another one could find none ("Invalid thread pool!")
        torch.set_num_threads(torch.get_num_threads())
    if out:
        file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
    sys.argv = words
    sys.path[0] = os.path.dirname(os.path.abspath(words[0]))
    runpy.run_path(words[0], run_name="__main__")


def run_all(commands, n_jobs, context, folder):
    """
    Run commands, each a list of words, n_jobs at a time. -> exit code

    context   multiprocessing's: how a process starts
    folder    for files of what commands print; with one at a time it is printed at once
    """
    needs = find_needs(commands)
    todo = {k: commands[k] for k in (start_order(needs) if n_jobs > 1 else range(len(commands)))}
    running = {}
    started = {}
    seconds = {}
    code = 0

    def finish(k):
        process, words = running.pop(k)
        process.join()
        seconds[k] = time.time() - started.pop(k), process.exitcode
        if n_jobs > 1:
            print("$ python", shlex.join(words))
            with open(os.path.join(folder, str(k)), "a+", encoding="utf-8", errors="replace") as f:
                f.seek(0)
                print(f.read(), end="", flush=True)
        return process.exitcode
    try:
        while running or todo and not code:
            for k, words in list(todo.items()) if not code else ():
                if len(running) == n_jobs or any(j in todo or j in running for j in needs[k]):
                    continue
                left = format_time_left(commands, needs, todo, started, n_jobs)
                flags = [f"{flag} {value_of(flag, words)}" for flag in ("--task", "--out", "--seed") if flag in words]
                number = len(commands) - len(todo) + 1
                print(f"[{number}/{len(commands)}]", os.path.basename(words[0]), *flags, f"... {left}", flush=True)
                if n_jobs == 1:
                    print("$ python", shlex.join(words), flush=True)
                out = os.path.join(folder, str(k)) if n_jobs > 1 else None
                started[k] = time.time()
                running[k] = context.Process(target=become, args=(words, out)), todo.pop(k)
                running[k][0].start()
            multiprocessing.connection.wait([process.sentinel for process, _ in running.values()])
            for k in [k for k, (process, _) in running.items() if process.exitcode is not None]:
                code = max(code, abs(finish(k)))           # negative: killed by that signal
    except KeyboardInterrupt:                              # every command has been interrupted, and says what it kept
        for k in list(running):
            finish(k)
        code = 130
    print("\n" + "\n".join(format_table(commands, seconds)), flush=True)
    return code


def parse_commands(lines):
    """
    Lines as run.sh prints them -> commands, each a list of words. Empty lines and comments are skipped.

    >>> parse_commands(["$ python report.py --html", "", "# a comment"])
    [['report.py', '--html']]
    """
    commands = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            python, script, *flags = shlex.split(line.removeprefix("$ "))
        except ValueError:                                 # fewer words than two, or a quote without its end
            python, script, flags = "", "", []
        if python != "python" or not os.path.isfile(os.path.join(contract.ROOT, script)):
            contract.fail(f"line {number} of the input, {line.strip()!r}, is no command like: $ python report.py")
        commands.append([script, *flags])
    return commands


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=contract.number(int, 1, 1000), default=None,
                        help="commands at a time (default: 1 with a GPU, else one for each core, at most 4)")
    n_jobs = parser.parse_args().jobs
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    os.chdir(contract.ROOT)
    commands = parse_commands(sys.stdin)
    gpu = has_gpu()
    n_jobs = n_jobs or (1 if gpu else min(cores, 4))
    n_threads = int(os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // n_jobs))))
    can_fork = sys.platform == "linux" and not gpu
    if can_fork:
        import_libraries(n_threads)
    context = multiprocessing.get_context("fork" if can_fork else "spawn")
    with tempfile.TemporaryDirectory() as folder:
        raise SystemExit(run_all(commands, n_jobs, context, folder))


if __name__ == "__main__":
    main()
