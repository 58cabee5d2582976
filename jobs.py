"""
Run commands of this project, several at a time, each as soon as the runs that it names are finished. run.sh uses it.

$ bash run.sh --dry-run --seeds 0,1 | python jobs.py --jobs 2

A line of the input is a command as run.sh prints it: `$ python icl.py --labels weak --out icl --seed 0`. It waits for
every earlier command whose --out and --seed it names. A command without --out (prepare.py, report.py) waits for all
before it, and all after it wait for it. So a command must name every run that it reads. After one has failed no other
is started; those that are running come to their end.

Each command is a process of its own with its share of the cores (OMP_NUM_THREADS, if it is not set). Its files are the
same bytes as those of `python icl.py ...` with that many threads. On Linux without a GPU, processes are forked from
this one, which has imported torch and transformers: that saves each of them 3.5 seconds.

Needs   contract.py
"""
import argparse
import multiprocessing
import multiprocessing.connection
import os
import runpy
import shlex
import sys
import tempfile

import contract


def value_of(flag, words):
    """The value of a flag in a command, "" if it is not there"""
    return words[words.index(flag) + 1] if flag in words[:-1] else ""


def must_wait(words, earlier):
    """
    Does a command need what an earlier one makes?

    >>> weak = "train_weak.py --out weak --seed 0".split()
    >>> [must_wait(line.split(), weak) for line in ("icl.py --labels weak --out icl --seed 0",
    ...     "icl.py --labels weak --out icl --seed 1", "icl.py --labels truth --out icl --seed 0", "report.py")]
    [True, False, False, True]
    """
    out = value_of("--out", earlier)
    if not out or not value_of("--out", words):
        return True
    return out in ",".join(words).split(",") and value_of("--seed", words) == value_of("--seed", earlier)


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
    todo = dict(enumerate(commands))
    running = {}
    code = 0

    def finish(k):
        process, words = running.pop(k)
        process.join()
        if n_jobs > 1:
            print("$ python", shlex.join(words))
            with open(os.path.join(folder, str(k)), "a+", encoding="utf-8", errors="replace") as f:
                f.seek(0)
                print(f.read(), end="", flush=True)
        return process.exitcode
    try:
        while running or todo and not code:
            for k, words in list(todo.items()) if not code else ():
                before = [commands[j] for j in (*todo, *running) if j < k]
                if len(running) == n_jobs or any(must_wait(words, earlier) for earlier in before):
                    continue
                if n_jobs == 1:
                    print("$ python", shlex.join(words), flush=True)
                out = os.path.join(folder, str(k)) if n_jobs > 1 else None
                running[k] = context.Process(target=become, args=(words, out)), todo.pop(k)
                running[k][0].start()
            multiprocessing.connection.wait([process.sentinel for process, _ in running.values()])
            for k in [k for k, (process, _) in running.items() if process.exitcode is not None]:
                code = max(code, abs(finish(k)))           # negative: killed by that signal
    except KeyboardInterrupt:                              # every command has been interrupted, and says what it kept
        for k in list(running):
            finish(k)
        code = 130
    return code


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=contract.number(int, 1, 1000), default=None,
                        help="commands at a time (default: 1 with a GPU, else one for each core, at most 4)")
    n_jobs = parser.parse_args().jobs
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    os.chdir(contract.ROOT)
    commands = [shlex.split(line.removeprefix("$ "))[1:] for line in sys.stdin]
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
