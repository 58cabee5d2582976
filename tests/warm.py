"""
A warm start for tests that run real commands: one process imports torch and transformers, and forks for each command.

A command then costs what it computes, without three seconds of imports. Nothing else differs from `python SCRIPT FLAGS`
in a shell: each command has its own process, output and exit code, and its script runs as __main__ from its own folder.
"""
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from types import SimpleNamespace

_server = None


def default_sigint():
    """preexec_fn of a process that a test interrupts: one that a shell started with & would ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(house, *command, env=None, before="", processes=1):
    """
    python COMMAND in the folder `house` -> returncode, stdout, stderr

    command     a script and its flags, or "-c" and Python code
    before      Python code that the command's process runs first, to break something
    processes   so many at once; each of several finds its number in os.environ["RANK"]
    """
    global _server
    if env or not hasattr(os, "fork"):
        return subprocess.run([sys.executable, *map(str, command)], cwd=house, capture_output=True, text=True, env=env)
    if _server is None or _server.poll() is not None:
        _server = subprocess.Popen([sys.executable, os.path.abspath(__file__)],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out")
        err = os.path.join(folder, "err")
        _server.stdin.write(json.dumps([processes, str(house), list(map(str, command)), out, err, before]) + "\n")
        _server.stdin.flush()
        code = int(_server.stdout.readline())
        text = [open(path, encoding="utf-8").read() for path in (out, err)]
    return SimpleNamespace(returncode=code, stdout=text[0], stderr=text[1])


def become(house, command, out, err, before):
    """Turn the forked process into the command."""
    import runpy
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.chdir(house)
    script = os.path.join(house, command[0])
    sys.path[0] = "" if command[0] == "-c" else os.path.dirname(script)
    exec(before, {})
    if command[0] == "-c":
        sys.argv = ["-c", *command[2:]]
        exec(command[1], {"__name__": "__main__"})
    else:
        sys.argv = command
        runpy.run_path(script, run_name="__main__")


def die_when(pattern):
    """Code for `before`: the process is killed as soon as a file with a name of this pattern holds anything."""
    return f"""
import glob, os, signal, threading, time
def wait_and_die():
    while not any(map(os.path.getsize, glob.glob({pattern!r}))):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=wait_and_die, daemon=True).start()
"""


def die_after(seconds, words="", interrupt=False):
    """
    Code for `before`: the process is killed (exit code -SIGALRM), or interrupted as by Ctrl-C, some seconds after it
    has printed a line with `words`; without words, after its start.
    """
    handler = "default_int_handler" if interrupt else "SIG_DFL"
    return f"""
import builtins, signal
say = builtins.print
def start_clock():
    signal.setitimer(signal.ITIMER_REAL, {seconds})
def print_and_start(*text, **how):
    say(*text, **{{**how, "flush": True}})
    if {words!r} in " ".join(map(str, text)):
        start_clock()
signal.signal(signal.SIGALRM, signal.{handler})
if {words!r}:
    builtins.print = print_and_start
else:
    start_clock()
"""


def become_and_report(request):
    """become, and then the exit code of `python COMMAND`"""
    code = 0
    try:
        become(*request)
    except SystemExit as stop:                             # without a code it is 0; with a message 1
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def main():
    from transformers import (  # noqa: F401
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        GPT2LMHeadModel,
    )
    with contextlib.suppress(ImportError):                 # a table that is made when a first model is opened
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping
        get_checkpoint_conversion_mapping("gpt2")
    for line in sys.stdin:
        processes, *request = json.loads(line)
        pids = []
        for rank in range(processes):
            pids.append(os.fork())
            if pids[-1] == 0:
                if processes > 1:
                    os.environ["RANK"] = str(rank)
                os._exit(become_and_report(request))
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        print(max(codes, key=abs), flush=True)


if __name__ == "__main__":
    main()
