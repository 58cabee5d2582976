"""
What was measured, and the pages of this project that show it: nobody types a number into a marked
table of README.md or docs/results/.

$ python report.py --docs                   # after the runs of experiments.sh

A table belongs to a task if a line  <!-- measured: TASK -->  stands before it. Its cells come from data/measured.json,
which keeps the last measurement of each run; fewer seeds never replace more.

Needs   contract.py
Reads   the reports of report.py; data/measured.json
Writes  data/measured.json, README.md, docs/results/*.md, the accuracies in the answers of course/, and figures/
"""
import glob
import json
import os
import re
import shutil

from contract import ROOT, fail, read_json, read_text, replacing, write_file

MEASURED = os.path.join(ROOT, "data", "measured.json")


def fill_tables(text, measured):
    """
    A page's tables, from what was measured. In a row whose column "run" names a run, each column with a title that this
    run has numbers for is filled; "student ..." columns take those of student-RUN. The cells of a run that was not
    measured become empty, so that no number of an older world stays. Everything else stays as it was written.

    >>> page = "<!-- measured: t -->\\n| run | what | ECE |\\n|---|---|---|\\n| `a` | mine | ? |\\n"
    >>> fill_tables(page, {"t": {"a": {"ECE": "0.06"}}}).splitlines()[-1]
    '| `a` | mine | 0.06 |'
    """
    out = []
    task = header = None
    for line in text.split("\n"):
        if mark := re.fullmatch(r"<!-- measured: (\S+) -->", line):
            task = mark[1]
            header = None
        elif not line.startswith("|"):
            task = task if not line.strip() and header is None else None
            header = None
        elif task and header is None:
            header = [cell.strip() for cell in line.strip("|").split("|")]
        elif task and not line.startswith("|---"):
            line = fill_row(line, header, measured.get(task, {}))
        out.append(line)
    return "\n".join(out)


def fill_row(line, header, known):
    """One row of a table (see fill_tables). known: {run: {column: text}}"""
    columns = {column for texts in known.values() for column in texts}
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    if len(cells) != len(header):
        fail(f"a marked table has {len(header)} columns, and a row of it {len(cells)}: {line}")
    run = cells[header.index("run")].strip("`") if "run" in header else ""
    for k, title in enumerate(header):
        source = run
        column = title
        if title.startswith("student "):
            source = "student" if run == "weak" else f"student-{run}"
            column = title.removeprefix("student ")
        if title != "run" and column in known.get(source, {}):
            cells[k] = known[source][column]
        elif run and column in columns and source not in known:
            cells[k] = ""
    return "| " + " | ".join(cells) + " |"


def fill_quotes(text, known):
    """
    Accuracies in running text, such as those in the answers of course/. known: {run: {column: text}}

    >>> fill_quotes("Here `a` 0.500 wins, `b` 0.400 loses.", {"a": {"accuracy [95 %]": "0.853 [0.817, 0.882]"}})
    'Here `a` 0.853 wins, `b` 0.400 loses.'
    """
    def measured_now(match):
        accuracy = known.get(match[1], {}).get("accuracy [95 %]", match[2])
        return f"`{match[1]}` {accuracy.split()[0]}"

    return re.sub(r"`([\w-]+)` (0\.\d{3})", measured_now, text)


def update_measured(measured, task, rows, task_texts):
    """
    Put the texts of report.describe_runs' rows and of other tables into `measured`, {task: {run: {column: text}}}.
    Fewer seeds never replace more.
    """
    known = measured.setdefault(task, {})
    for row in sorted(rows, key=lambda row: int(row["seeds"])):
        if int(row["seeds"]) >= int(known.get(row["run"], {}).get("seeds", 0)):
            texts = {key: value for key, value in row.items() if isinstance(value, str)}
            known[row["run"]] = {key: value for key, value in texts.items() if key not in ("run", "stage")}
    add_texts(known, task_texts)


def add_texts(known, new):
    """Put {run: {column: text}} into the known ones; fewer seeds never replace more."""
    for run, texts in new.items():
        if int(texts["seeds"]) >= int(known.get(run, {}).get("seeds", 0)):
            known[run] = known.get(run, {}) | texts


def pages_with_tables():
    """-> {path: text} of README.md and docs/results/*.md"""
    pages = {}
    for pattern in ("README.md", os.path.join("docs", "results", "*.md")):
        for path in sorted(glob.glob(os.path.join(ROOT, pattern))):
            pages[path] = read_text(path)
    if not pages:
        fail("--docs: there is neither README.md nor docs/results beside report.py, so no table can be filled")
    return pages


def copy_figures(task, paths, pages):
    """Copy those figures of a report into figures/ that a page shows."""
    for path in paths:
        name = f"{task}-{os.path.basename(path).removeprefix('report-')}"
        if any(f"figures/{name}" in text for text in pages.values()):
            with replacing(os.path.join(ROOT, "figures", name)) as half:
                shutil.copy(path, half)


def fill_docs(reports, cultures):
    """
    report.py --docs: measured.json, the tables and texts that are filled from it, and the figures that a page shows.

    reports   {task: what report.report_task returns}; cultures: report.culture_texts of cdeval.py's runs
    """
    pages = pages_with_tables()
    measured = read_json(MEASURED) if os.path.exists(MEASURED) else {}
    for task, (rows, texts, figures) in reports.items():
        update_measured(measured, task, rows, texts)
        copy_figures(task, figures, pages)
    add_texts(measured.setdefault("cdeval", {}), cultures)
    write_file(MEASURED, json.dumps(measured, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    for path, text in pages.items():
        write_file(path, fill_tables(text, measured))
    for pattern in ("*.md", "*.ipynb", os.path.join("chapters", "*.md")):
        for path in glob.glob(os.path.join(ROOT, "course", pattern)):
            write_file(path, fill_quotes(read_text(path), measured.get("tinyworld", {})))
    print(f"filled the tables of {len(pages)} pages; data/measured.json has their numbers")
