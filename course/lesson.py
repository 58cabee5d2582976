"""
What the notebooks of course/ need: run a command of the repository, and grade a function by the repository's tests.

    from lesson import grade, run
    run("python train_weak.py")                            # in this process: nothing is imported twice
    grade(soft_xent, "test_train_weak::test_soft_xent_is_torchs_own_cross_entropy")

$ python course/lesson.py course/solutions/01_supervisor.py            # grade all functions of a file
$ python course/lesson.py handed-in/*.ipynb                # runs the functions of these notebooks: look at them first

A graded function takes the place of the script's own, in every module that uses it, while the tests run. From a file
only imports and functions are executed, and the grade(...) lines are read: what a student's other cells do is left out.
"""
import argparse
import ast
import contextlib
import doctest
import importlib
import io
import json
import os
import shlex
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TESTS = os.path.join(ROOT, "tests")
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)


def run(command):
    """`python SCRIPT FLAGS`, as in a terminal at the repository's root. A command that fails stops the notebook."""
    print(f"$ {command}")
    script, *flags = shlex.split(command)[1:]
    if os.path.dirname(script):                            # data/*/prepare.py: nothing heavy to import
        done = subprocess.run([sys.executable, script, *flags], cwd=ROOT, capture_output=True, text=True)
        print(done.stdout + done.stderr, end="")
        code = done.returncode
    else:
        code = 0
        try:
            importlib.import_module(script.removesuffix(".py")).main(flags)
        except SystemExit as stop:
            code = stop.code
    if code:
        raise RuntimeError(f"{command} ended with exit code {code}; the line above says why")


# --------------------------------------------------------------------------- grading


def modules_of(folder):
    """The imported modules whose file lies in this folder: {name: module}"""
    files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    return {name: sys.modules[name] for name, path in files.items() if path and os.path.dirname(path) == folder}


def script_of(name, tests):
    """
    The function of the repository that is graded: that of the script whose tests are named first.

    "pgr", ["test_metrics::test_pitfall_24_..."] -> metrics.pgr
    """
    return getattr(importlib.import_module(tests[0].split("::")[0].removeprefix("test_")), name)


@contextlib.contextmanager
def replaced(original, function):
    """`function` in the place of `original` in all scripts, and in their tables such as LOSSES."""
    places = []
    for module in modules_of(ROOT).values():
        tables = [value for value in vars(module).values() if isinstance(value, dict)]
        for table in [vars(module), *tables]:
            places += [(table, key) for key, value in list(table.items()) if value is original]
    for table, key in places:
        table[key] = function
    try:
        yield
    finally:
        for table, key in places:
            table[key] = original


class Collector:
    """A plugin of pytest: [(name of the test, "" or what went wrong), ...]"""

    def __init__(self):
        self.found = []

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            message = "" if report.passed else crash.message if crash else str(report.longrepr)
            self.found.append((report.nodeid.split("::", 1)[1], message))


def worked_example(function, original):
    """The docstring's examples, run with `function` -> [("its worked example", what went wrong)], [] without any"""
    import torch
    names = {**vars(sys.modules[original.__module__]), "torch": torch, original.__name__: function}
    test = doctest.DocTestParser().get_doctest(original.__doc__ or "", names, original.__name__, None, 0)
    if not test.examples:
        return []
    out = io.StringIO()
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(test, out=out.write, clear_globs=False)
    return [("its worked example", out.getvalue() if runner.failures else "")]


def run_tests(tests):
    """Tests, "test_file::test_name" each -> [(name of the test, "" if it passes, else what went wrong), ...]"""
    import pytest
    found = Collector()
    nodes = [os.path.join(TESTS, "{}.py::{}".format(*test.split("::", 1))) for test in tests]
    flags = ["-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", "--capture=sys", "--rootdir", ROOT]
    for name in modules_of(TESTS):                         # imported before, they would hold the function of before
        del sys.modules[name]
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(io.StringIO()):
        code = pytest.main([*flags, *nodes], plugins=[found])
    for name in modules_of(TESTS):
        del sys.modules[name]
    if code not in (0, 1) or not found.found:
        raise RuntimeError("the tests did not run:\n" + said.getvalue())
    return found.found


def check(function, tests):
    """A function's checks, its worked example and these tests -> as run_tests"""
    original = script_of(function.__name__, tests)
    with replaced(original, function):
        return worked_example(function, original) + run_tests(tests)


def passes(function, tests):
    """Print in words which checks a function passes. -> True if it passes all of them"""
    name = function.__name__
    cases = {}                                             # a test with several cases is one check
    for title, message in check(function, tests):
        cases.setdefault(title.split("[")[0], []).append(message)
    wrong = {title: [message for message in messages if message] for title, messages in cases.items()}
    n_passed = sum(not messages for messages in wrong.values())
    if all("NotImplementedError" in message for messages in wrong.values() for message in messages or [""]):
        print(f"{name} is not written yet: {len(cases)} checks wait for it")
        return False
    for title, messages in wrong.items():
        of = f" ({len(messages)} of {len(cases[title])} cases)" if messages and len(cases[title]) > 1 else ""
        print(f"{'FAILED' if messages else 'passed'}  {title.removeprefix('test_').replace('_', ' ')}{of}")
        lines = [line.strip() for line in (messages or [""])[0].splitlines() if line.strip()]
        if title == "its worked example":                  # of a traceback the last line, else what was expected
            lines = lines[-1:] if any("Traceback" in line for line in lines) else lines[-4:]
        for line in lines[:4]:
            print(f"        {line[:110]}")
    print(f"{name}: {n_passed} of {len(cases)} checks pass")
    return n_passed == len(cases)


def grade(function, *tests):
    """In a notebook: print in words which of these tests, "test_file::test_name" each, a function passes."""
    passes(function, tests)


# --------------------------------------------------------------------------- grade a file


def code_of(path):
    """The code of a notebook, a text for each cell, or of a Python file, one text."""
    with open(path, encoding="utf-8") as f:
        text = f.read()
    if not path.endswith(".ipynb"):
        return [text]
    return ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]


def functions_and_checks(path):
    """
    Execute a file's imports and functions. -> ({name: function}, {name of a graded function: its tests})

    A function that Python cannot read is missing in the first.
    """
    names = {"__name__": "handed_in"}
    tests = {}
    for source in code_of(path):
        lines = ["" if line[:1] in ("%", "!") else line for line in source.splitlines()]
        try:
            tree = ast.parse("\n".join(lines))
        except SyntaxError as error:
            print(f"a cell is left out, since Python cannot read it ({error.msg}: {(error.text or '').strip()})")
            continue
        for node in tree.body:
            value = getattr(node, "value", None)
            if isinstance(value, ast.Call) and getattr(value.func, "id", "") == "grade":
                function, *ids = value.args
                tests[function.id] = [node_id.value for node_id in ids]
            elif isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef)):
                exec(compile(ast.Module([node], []), "<handed in>", "exec"), names)
    return names, tests


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", help="notebooks of the course, or its solutions")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    total = n_passed = 0
    for path in parser.parse_args(argv).files:
        print(f"\n{os.path.basename(path)}")
        names, tests = functions_and_checks(path)
        for name, ids in tests.items():
            total += 1
            if name in names:
                n_passed += passes(names[name], ids)
            else:
                print(f"{name} is missing")
    print(f"\n{n_passed} of {total} functions pass all their checks")


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    main()
