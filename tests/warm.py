"""
A warm start for tests that run real commands: one process imports torch and transformers, and forks for each command.

A command then costs what it computes, without three seconds of imports. Nothing else differs from `python SCRIPT FLAGS`
in a shell: each command has its own process, output and exit code, and its script runs as __main__ from its own folder.
"""
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


def run(house, *command, env=None, before=""):
    """
    python COMMAND in the folder `house` -> returncode, stdout, stderr

    before   Python code that the command's process runs first, to break something
    """
    global _server
    if not command[0].endswith(".py") or env or not hasattr(os, "fork"):
        return subprocess.run([sys.executable, *command], cwd=house, capture_output=True, text=True, env=env)
    if _server is None or _server.poll() is not None:
        _server = subprocess.Popen([sys.executable, os.path.abspath(__file__)],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out")
        err = os.path.join(folder, "err")
        _server.stdin.write(json.dumps([str(house), list(map(str, command)), out, err, before]) + "\n")
        _server.stdin.flush()
        code = int(_server.stdout.readline())
        text = [open(path, encoding="utf-8").read() for path in (out, err)]
    return SimpleNamespace(returncode=code, stdout=text[0], stderr=text[1])


def become(house, command, out, err, before):
    """Turn the forked process into the command."""
    import runpy
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.chdir(house)
    script = os.path.join(house, command[0])
    sys.argv = command
    sys.path[0] = os.path.dirname(script)
    exec(before, {})
    runpy.run_path(script, run_name="__main__")


def exit_code(stop):
    """The exit code of a process that ends with this SystemExit: none is 0, a message is 1."""
    if stop.code is None:
        return 0
    return stop.code if isinstance(stop.code, int) else 1


def main():
    from transformers import (  # noqa: F401
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        GPT2LMHeadModel,
    )
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                become(*json.loads(line))
                code = 0
            except SystemExit as stop:
                code = exit_code(stop)
            except BaseException:
                import traceback
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
