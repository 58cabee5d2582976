"""
The notebooks of the course and their solutions, from the texts in course/chapters/ and the functions of the scripts.

$ python course/build.py                       # write all notebooks; cells that did not change keep their outputs
$ python course/build.py --run                 # and execute them, one after the other (needs nbclient and ipykernel)
$ python course/build.py --run 03_weak_labels  # only this chapter
$ python course/build.py --check               # write nothing; fail if a notebook is not what this command would write

Reads   course/chapters/NAME.md, and the functions that these name, from the scripts
Writes  course/NAME.ipynb and course/solutions/NAME.py. Executing a notebook makes runs in data/tinyworld/seed0 and in
        data/safety, like the commands it shows; finished ones are skipped.

A chapter is Markdown. What becomes something else in the notebook:

    ```python ... ```                          a cell of code
    <!-- source: metrics.pgr -->               the function's source, with its worked example
    <!-- blank: metrics.ece | difficulty 3 | importance 4 | 20 minutes -->
                                               a function to write: its docstring stays, its body is left out
    <!-- hint -->                              what follows, to the next mark, is folded away
    <!-- checks: test_metrics::test_... ... -->            ends a blank: the tests that grade it
    ## 3. Title (...)                          an exercise to predict: its ```sh commands become a cell to run them
"""
import argparse
import ast
import glob
import json
import os
import re
import sys
import textwrap

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
REPOSITORY = ""                      # <- the address of your public copy: https://github.com/OWNER/NAME
TIMEOUT = 900                        # seconds that one cell may take, on a slow machine

COLAB = """\
*Chapter {number} of {count}, about {script}. It runs on a laptop's CPU, without a key and without the hub. {colab}*"""
COLAB_LINK = "[Open in Colab]({})"
COLAB_BY_HAND = ("Open in Colab: upload this file there, and write the address of your copy of the repository into the "
                 "first cell.")
SETUP = """\
# The first cell finds the repository. In Colab it fetches it (REPOSITORY), and the packages that Colab lacks.
import os
import sys

REPOSITORY = "{repository}"          # <- only for Colab: what you would give to git clone
if "google.colab" in sys.modules and not os.path.exists("w2sg"):
    os.system(f"git clone --quiet {{REPOSITORY}} w2sg")
    os.system("pip install --quiet $(grep -oE '^(transformers|pytest)[=><.0-9]+' w2sg/requirements.txt)")
for folder in ("..", "w2sg"):
    if not os.path.exists("contract.py") and os.path.exists(os.path.join(folder, "contract.py")):
        os.chdir(folder)
if not os.path.exists("contract.py"):
    raise RuntimeError("the repository is not here: start Jupyter in its folder, or (in Colab) fill in REPOSITORY")
sys.path[:0] = [os.getcwd(), os.path.abspath("course")]"""
FIRST = """\
> **Predict first.** At the end of this notebook you are asked for a number before a command runs ({exercises}), and
> some of the cells on the way give the answer away. Read the questions now, write your numbers down, and come back."""
PREDICT = """\
# Predict, then run

Write your prediction down, with a number, before you run. Then compare, and only then open the answer. A wrong
prediction is where you learn most. Accuracies in the answers are means over the seeds of
[the tables]({tables}), unless they say "seed 0". One seed can be three points off: where a difference is small, also
run with `--seed 1` and `--seed 2` before you trust it. The minutes are for two CPU cores."""
BLANK_BODY = 'raise NotImplementedError("write this function")'


def read_text(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def write_text(path, text):
    with open(path + ".tmp", "w", encoding="utf-8") as f:
        f.write(text)
    os.replace(path + ".tmp", path)


# --------------------------------------------------------------------------- functions of the scripts


def function_source(name, with_body=True):
    """
    "metrics.pgr" -> its source as it stands in metrics.py; without its body, up to the end of its docstring.
    """
    module, function = name.split(".")
    text = read_text(os.path.join(ROOT, module + ".py"))
    found = [node for node in ast.parse(text).body
             if isinstance(node, ast.FunctionDef) and node.name == function]
    if not found:
        sys.exit(f"error: {module}.py has no function {function}")
    node = found[0]
    last = node if with_body else node.body[0]
    return "\n".join(text.split("\n")[node.lineno - 1:last.end_lineno])


def blank_source(name):
    """The function with a body that is still to be written."""
    return f"{function_source(name, with_body=False)}\n    {BLANK_BODY}"


# --------------------------------------------------------------------------- cells


def make_cell(kind, text, number):
    lines = text.strip("\n").splitlines(keepends=True)
    cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": lines}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def dots(n):
    """3 -> three of five dots"""
    return "●" * n + "○" * (5 - n)


def blank_cells(mark, body):
    """<!-- blank: ... --> and what follows, to its checks -> [(kind, text), ...] and (name, tests)"""
    name, difficulty, importance, minutes = [part.strip() for part in mark.split("|")]
    body, checks = re.fullmatch(r"(.*?)<!-- checks: (.*?) -->\s*", body, re.S).groups()
    task, *hints = body.split("<!-- hint -->")
    script, function = name.split(".")
    head = (f"### Write `{function}`\n\nDifficulty {dots(int(difficulty.split()[1]))}, importance "
            f"{dots(int(importance.split()[1]))}, {minutes}. The script's own stands in `{script}.py`: write yours "
            "first, complete in this cell.")
    folded = [f"<details><summary>Hint {k}</summary>\n\n{hint.strip()}\n\n</details>"
              for k, hint in enumerate(hints, 1)]
    text = "\n\n".join([head, task.strip(), *folded])
    tests = checks.split()
    call = "\n".join([f"grade({function},", *(f'      "{test}",' for test in tests)]).removesuffix(",") + ")"
    return [("markdown", text), ("code", blank_source(name)), ("code", call)], (name, tests)


def exercise_cells(text):
    """An exercise to predict -> the question, a cell to run its commands in, the folded answer"""
    question, answer = text.split("<details>", 1)
    commands = re.findall(r"^python .*$", "\n".join(re.findall(r"```sh\n(.*?)```", question, re.S)), re.M)
    lines = ['prediction = ""                      # write it down first; then take the # away and run']
    for command in commands:
        pieces = textwrap.wrap(command, 100, drop_whitespace=False, break_on_hyphens=False)
        lines.append("# run(" + "\n#     ".join(f'"{piece}"' for piece in pieces) + ")")
    return [("markdown", question), ("code", "\n".join(lines)), ("markdown", "<details>" + answer)]


def split_chapter(text):
    """A chapter's Markdown -> [(kind, text), ...] and its blanks [(name, tests), ...]"""
    cells = []
    blanks = []
    pattern = r"<!-- blank: (?P<mark>.*?) -->\n(?P<body>.*?<!-- checks: .*? -->\n)|```python\n(?P<code>.*?)```\n"
    position = 0
    for found in [*re.finditer(pattern, text, re.S), None]:
        between = text[position:found.start() if found else len(text)]
        between = re.sub(r"<!-- source: (\S+) -->", lambda m: f"```python\n{function_source(m[1])}\n```", between)
        for part in re.split(r"^(?=##? )", between, flags=re.M):
            if part.strip():
                is_exercise = re.match(r"## \d+\. ", part)
                cells += exercise_cells(part) if is_exercise else [("markdown", part)]
        if found and found["code"]:
            cells.append(("code", found["code"]))
        elif found:
            more, blank = blank_cells(found["mark"], found["body"])
            cells += more
            blanks.append(blank)
        position = found.end() if found else len(text)
    return cells, blanks


def chapters():
    """The names of all chapters, in order."""
    paths = glob.glob(os.path.join(HERE, "chapters", "*.md"))
    return sorted(os.path.basename(path).removesuffix(".md") for path in paths)


def read_chapter(name):
    """-> the lines of its head {"script": ..., "tables": ...}, and its text"""
    text = read_text(os.path.join(HERE, "chapters", name + ".md"))
    head, text = re.fullmatch(r"<!--\n(.*?)-->\n(.*)", text, re.S).groups()
    return dict(line.split(": ", 1) for line in head.strip().splitlines()), text


def make_notebook(name):
    """A chapter -> (its notebook, a dict; its solutions, a Python file's text)"""
    names = chapters()
    head, text = read_chapter(name)
    title, rest = text.strip().split("\n", 1)
    colab = COLAB_BY_HAND
    if REPOSITORY:
        where = REPOSITORY.removeprefix("https://github.com/")
        colab = COLAB_LINK.format(f"https://colab.research.google.com/github/{where}/blob/main/course/{name}.ipynb")
    line = COLAB.format(number=names.index(name) + 1, count=len(names), script=head["script"], colab=colab)
    before, exercises = rest.split("<!-- predict -->\n")
    first, before = re.split(r"^(?=```python$)", before, maxsplit=1, flags=re.M)
    numbers = re.findall(r"^## (\d+)\. ", exercises, re.M)
    which = f"exercises {numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else f"exercise {numbers[0]}"
    body, blanks = split_chapter("\n\n".join([first.strip(), FIRST.format(exercises=which), before,
                                             PREDICT.format(tables=head["tables"]), exercises]))
    cells = [("markdown", f"{title}\n\n{line}"), ("code", SETUP.format(repository=REPOSITORY)), *body]
    notebook = {"cells": [make_cell(kind, cell, k) for k, (kind, cell) in enumerate(cells)],
                "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                             "language_info": {"name": "python"}},
                "nbformat": 4, "nbformat_minor": 5}
    imports = re.search(r"```python\n((?:from|import) .*?)```", text, re.S)[1]
    return notebook, make_solutions(name, imports, blanks)


def make_solutions(name, imports, blanks):
    """The functions that a chapter leaves blank, as they stand in the scripts, and the calls that grade them."""
    scripts = ", ".join(dict.fromkeys(function.split(".")[0] + ".py" for function, _ in blanks))
    header = (f'"""\nSolutions of {name}.ipynb: the functions as they stand in {scripts}. Made by course/build.py.\n\n'
              f'$ python course/lesson.py course/solutions/{name}.py               # grades them\n"""\n')
    calls = []
    for function, tests in blanks:
        ids = ", ".join(f'\n      "{test}"' for test in tests)
        calls.append(f"grade({function.split('.')[1]}, {ids})".replace(" \n", "\n"))
    functions = [function_source(function) for function, _ in blanks]
    return header + imports.strip() + "\n\n\n" + "\n\n\n".join([*functions, "\n".join(calls)]) + "\n"


# --------------------------------------------------------------------------- outputs


def to_text(notebook):
    """As nbformat writes it."""
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def without_outputs(notebook):
    """The notebook as it is before it runs."""
    cells = [cell | {"outputs": [], "execution_count": None} if cell["cell_type"] == "code" else cell
             for cell in notebook["cells"]]
    return notebook | {"cells": cells}


def keep_outputs(notebook, old):
    """Outputs of cells whose source has not changed go from the old notebook to the new one."""
    known = {"".join(cell["source"]): cell for cell in old["cells"] if cell["cell_type"] == "code"}
    for cell in notebook["cells"]:
        before = known.get("".join(cell["source"]))
        if cell["cell_type"] == "code" and before:
            cell |= {"outputs": before["outputs"], "execution_count": before["execution_count"]}
    return notebook


def clean_outputs(notebook):
    """
    Outputs without what differs from run to run or is about this machine: progress bars, warnings, paths. Lines that
    were printed one by one become one output.
    """
    for cell in notebook["cells"]:
        outputs = []
        for output in cell.get("outputs", []):
            output.get("metadata", {}).clear()
            if output["output_type"] == "stream" and output["name"] == "stderr":
                continue                                   # an error would have stopped the notebook
            if output["output_type"] == "stream":
                text = "".join(output["text"]).replace(ROOT + os.sep, "").replace(ROOT, ".")
                if outputs and outputs[-1]["output_type"] == "stream":
                    text = "".join(outputs.pop()["text"]) + text
                output["text"] = text.splitlines(keepends=True)
            elif "data" in output:
                output["data"] = {kind: "".join(value).splitlines(keepends=True) if kind.startswith("text/") else value
                                  for kind, value in output["data"].items() if kind in ("text/plain", "image/png")}
                if "image/png" in output["data"]:
                    output["data"] = {"image/png": "".join(value for value in output["data"]["image/png"])}
            outputs.append(output)
        if cell["cell_type"] == "code":
            cell["outputs"] = outputs
            cell["metadata"] = {}
    return notebook


def execute(notebook):
    """Run all cells in a kernel of their own, in course/, as Jupyter does. An error in a cell ends everything."""
    import nbclient
    import nbformat
    node = nbformat.reads(to_text(notebook), as_version=4)
    nbclient.NotebookClient(node, timeout=TIMEOUT, kernel_name="python3",
                            resources={"metadata": {"path": HERE}}).execute()
    return clean_outputs(json.loads(nbformat.writes(node)))


def read_notebook(name):
    """The notebook that is checked in; None if there is none."""
    path = os.path.join(HERE, name + ".ipynb")
    return json.loads(read_text(path)) if os.path.exists(path) else None


def differences(name):
    """How the files that are checked in differ from what this command makes of the chapter and the scripts -> lines"""
    notebook, solutions = make_notebook(name)
    old = read_notebook(name)
    found = []
    if old is None or to_text(without_outputs(old)) != to_text(notebook):
        found.append(f"course/{name}.ipynb is not what its chapter and the scripts make")
    path = os.path.join(HERE, "solutions", name + ".py")
    if not os.path.exists(path) or read_text(path) != solutions:
        found.append(f"course/solutions/{name}.py is not what the scripts make")
    return found


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="chapters, such as 01_supervisor (default: all)")
    parser.add_argument("--run", action="store_true", help="execute the notebooks, and keep what they print and draw")
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if a file has to be made again")
    args = parser.parse_args(argv)
    names = args.names or chapters()
    unknown = sorted(set(names) - set(chapters()))
    if unknown:
        sys.exit(f"error: no chapter {unknown[0]!r}; there are {', '.join(chapters())}")
    if args.check:
        found = [line for name in names for line in differences(name)]
        sys.exit("\n".join([*found, "Run  python course/build.py"]) if found else 0)
    for name in names:
        notebook, solutions = make_notebook(name)
        write_text(os.path.join(HERE, "solutions", name + ".py"), solutions)
        old = read_notebook(name)
        if args.run:
            notebook = execute(notebook)
        elif old:
            notebook = keep_outputs(notebook, old)
        write_text(os.path.join(HERE, name + ".ipynb"), to_text(notebook))
        print(f"wrote course/{name}.ipynb" + (", executed" if args.run else ""))


if __name__ == "__main__":
    main()
