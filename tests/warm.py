"""
A warm start for tests that run real commands: a process that has imported torch and transformers, and forks itself for every command.

A command then costs what it computes, not three seconds of imports as well. Nothing else differs from `python SCRIPT FLAGS` in a shell: a
process of its own, the script run as __main__ from its own folder, its own output and exit code.
"""
import json
import os
import subprocess
import sys
import tempfile
from types import SimpleNamespace

_server = None


def run(house, *command, env=None, before=""):
    """python COMMAND in the folder `house` -> returncode, stdout, stderr. before: Python that its process runs first, to break something."""
    global _server
    if not command[0].endswith(".py") or env or not hasattr(os, "fork"):
        return subprocess.run([sys.executable, *command], cwd=house, capture_output=True, text=True, env=env)
    if _server is None or _server.poll() is not None:
        _server = subprocess.Popen([sys.executable, os.path.abspath(__file__)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with tempfile.TemporaryDirectory() as folder:
        out, err = os.path.join(folder, "out"), os.path.join(folder, "err")
        _server.stdin.write(json.dumps([str(house), list(map(str, command)), out, err, before]) + "\n")
        _server.stdin.flush()
        code = int(_server.stdout.readline())
        text = [open(path, encoding="utf-8").read() for path in (out, err)]
    return SimpleNamespace(returncode=code, stdout=text[0], stderr=text[1])


def child(house, command, out, err, before):
    """Become the command."""
    import runpy
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.chdir(house)
    sys.argv, sys.path[0] = command, os.path.dirname(os.path.join(house, command[0]))
    exec(before, {})
    runpy.run_path(os.path.join(house, command[0]), run_name="__main__")


def main():
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, GPT2LMHeadModel      # noqa
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                child(*json.loads(line))
                code = 0
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
            except BaseException:
                import traceback
                traceback.print_exc()
                code = 1
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
