"""
Every finished run of a task, over its seeds, in one report: tables, figures, one debate to read.

$ python report.py                          # all tasks that have runs
$ python report.py --task tinyworld
$ python report.py --docs                   # also fill the tables of README.md and docs/results from these runs

Needs   contract.py, metrics.py, models.py, train_weak.py, and sft.py, align_tasks.py, debate.py, cdeval.py, since it
        prints their tables and one debate
Reads   data/<task>/seed*/<run>/{results.json, labels.jsonl}, data/<task>/test.jsonl, and cdeval.py's runs in
        data/cdeval/
Writes  data/<task>/report.md and prints it: a table for each stage, mean over seeds; one debate; the cultural
        orientations (the same in every report: they belong to no task). With matplotlib also report-*.png.
        --docs: data/measured.json (the last measurement of each run), the tables of README.md and docs/results/*.md,
        whose numbers come from it, and figures/

Intervals are 95 % by bootstrap over questions and over seeds (metrics.bootstrap). With one seed they do not include the
variation between seeds: run three or more before you believe a difference. Runs of one name with different flags are
different rows. A run whose inputs have changed since is named as stale and left out. A stage without any run is named
as missing.
"""
import argparse
import functools
import glob
import json
import os
import re
import shutil
from collections import defaultdict

import numpy as np

import align_tasks
import cdeval
import debate
from contract import (
    ROOT,
    catch_write_errors,
    fail,
    fingerprint,
    read_json,
    read_labels,
    read_rows,
    reject_damaged,
    run_folder,
    run_script,
    task_name,
    write_file,
)
from metrics import auroc, bootstrap, correct, ece, pgr, pgr_interval

STAGES = {                           # script -> (title of its table, columns beside those that all tables have)
    "train_weak.py": ("the supervisor", []),
    "train_strong.py": ("students and their ceiling", ["PGR [95 %]", "agrees where right / wrong"]),
    "ensemble.py": ("many supervisors", ["members used", "gain over single [95 %]"]),
    "debate.py": ("oversight", ["gain over single [95 %]", "knew / did not"]),
    "icl.py": ("without training", ["says yes"]),
    "auto_align.py": ("phase 2", ["evaluator by round", "attacks succeed", "updates rejected", "labels bought",
                                  "PGR [95 %]"])}
STAGE_OF_ROLE = {"supervisor": "train_weak.py", "student": "train_strong.py", "ceiling": "train_strong.py",
                 "ensemble": "ensemble.py", "oversight": "debate.py", "icl-student": "icl.py", "icl-ceiling": "icl.py",
                 "align": "auto_align.py", "table": "align_tasks.py", "writer": "sft.py", "culture": "cdeval.py"}
MEASURED = os.path.join(ROOT, "data", "measured.json")


# --------------------------------------------------------------------------- runs and their numbers


cached_fingerprint = functools.cache(fingerprint)          # a hundred runs have read the same file


def find_runs(task):
    """-> (lists of (folder, results) that differ in their seed alone; names of stale runs)"""
    runs = defaultdict(list)
    stale = []
    for path in sorted(glob.glob(os.path.join(ROOT, "data", task, "seed*", "*", "results.json"))):
        folder = os.path.dirname(path)
        results = read_json(path)
        config = results.get("config")
        if not isinstance(config, dict) or not isinstance(config.get("inputs"), dict) or "line" not in results:
            fail(f"{path} is not a results.json of this project; delete it")
        if str(config.get("role")) in STAGE_OF_ROLE and align_tasks.is_current(config, cached_fingerprint):
            flags = json.dumps({key: value for key, value in config.items() if key not in ("seed", "inputs", "code")})
            runs[os.path.basename(folder), re.sub(r"seed\d+", "seed*", flags)].append((folder, results))
        else:
            stale.append(os.path.relpath(folder, ROOT))
    return list(runs.values()), stale


def stage_of(runs):
    """A list of (folder, results) -> the script that made them"""
    return STAGE_OF_ROLE[runs[0][1]["config"]["role"]]


@functools.cache
def predictions_on_test(task, folder, max_rows):
    """A run's labels of test: (N,) p(yes), and where its verdict is correct, (N,)"""
    test = read_rows(task, "test", max_rows)
    p_yes = read_labels(folder, test)[:, 1]
    return p_yes, correct(p_yes, [row["label"] for row in test])


def format_interval(mean, low, high, form="{:.3f}"):
    """-> "mean [low, high]" """
    return f"{form} [{form}, {form}]".format(mean, low, high)


def format_split(values, hits):
    """The mean of values (S, N) where hits (S, N) are 1, and where they are 0, over seeds -> "0.88 / 0.19" """
    means = [np.mean([v[h == x].mean() for v, h in zip(values, hits)]) for x in (1, 0)]
    return "{:.2f} / {:.2f}".format(*means)


def describe_runs(task, runs):
    """
    Everything a table may hold about runs that differ in their seed alone: {column: text}, with "accuracy" (mean, low,
    high) and "pgr" as numbers for the figures. Students are scored beside their supervisor and ceiling, on the same
    draws of questions and seeds; others beside `weak`.
    """
    folders = [folder for folder, _ in runs]
    configs = [results["config"] for _, results in runs]
    config = configs[0]
    max_rows = config["max_rows"]
    test = read_rows(task, "test", max_rows)
    truth = np.array([row["label"] for row in test])
    groups = [row["group"] for row in test]
    stage = stage_of(runs)

    def hits_of(*models):
        """M models, each S names or folders of runs, one a seed -> (S, M, N)"""
        hits = []
        for c, *names in zip(configs, *models):
            of_seed = [run_folder(name, task, c["seed"]) for name in names]
            hits.append([predictions_on_test(task, folder, max_rows)[1] for folder in of_seed])
        return np.array(hits)
    hits = hits_of(folders)
    mean = float(hits.mean())
    low, high = np.percentile(bootstrap(hits, groups), [2.5, 97.5])
    probs = [predictions_on_test(task, folder, max_rows)[0] for folder in folders]
    row = {"run": os.path.basename(folders[0]), "stage": stage, "model": os.path.basename(config["model"]),
           "learns from": config.get("labels") or config.get("evaluator") or "train1", "seeds": str(len(runs)),
           "n": f"{len(test):,}", "accuracy": [mean, low, high], "accuracy [95 %]": format_interval(mean, low, high),
           "AUROC": f"{np.mean([auroc(p, truth) for p in probs]):.3f}",
           "ECE": f"{np.mean([ece(p, truth) for p in probs]):.2f}",
           "says yes": f"{np.mean([(p > 0.5).mean() for p in probs]):.2f}",
           "seconds": f"{np.mean([results['seconds'] for _, results in runs]):.0f}"}
    if stage == "auto_align.py":
        row |= describe_rounds([results["rounds"] for _, results in runs], runs[0][1].get("labels_to_choose", 0))
    if stage == "ensemble.py":
        used = sorted(results["members_used"] for _, results in runs)
        row["members used"] = f"{used[0]}-{used[-1]}" if used[0] < used[-1] else str(used[0])
    weak = [run_folder("weak", task, c["seed"]) for c in configs]
    if row["run"] != "weak" and all(os.path.exists(os.path.join(folder, "labels.jsonl")) for folder in weak):
        hits = hits_of(weak, folders)
        draws = bootstrap(hits, groups)
        low, high = np.percentile(draws[:, 1] - draws[:, 0], [2.5, 97.5])
        row["gain over single [95 %]"] = format_interval(mean - hits[:, 0].mean(), low, high, "{:+.3f}")
        row["knew / did not"] = format_split(hits[:, 1], hits[:, 0])
    if config.get("ceiling"):
        supervisors = [c.get("supervisor") or c.get("labels") or c["evaluator"].split(",")[0] for c in configs]
        hits = hits_of(supervisors, folders, [c["ceiling"] for c in configs])
        value = pgr(*hits.mean((0, 2)))
        row["PGR [95 %]"] = "no gap"
        if not np.isnan(value):
            low, high, _ = pgr_interval(bootstrap(hits, groups))
            row["pgr"] = value
            row["PGR [95 %]"] = align_tasks.format_pgr(value, None if np.isnan(low) else [low, high])
        if config.get("labels"):                           # agreement is with the run whose labels were trained on
            hits = hits_of([c["labels"] for c in configs], folders)
        row["agrees where right / wrong"] = format_split(hits[:, 1] == hits[:, 0], hits[:, 0])
    return row


def evaluator_path(rounds):
    """The evaluator's accuracy before the first round, and after each one"""
    return [rounds[0]["evaluator"][0]["accuracy"]] + [r["evaluator"][1]["accuracy"] for r in rounds]


def describe_rounds(seeds, bought=0):
    """
    Phase 2, a list of rounds for each seed: the evaluator's accuracy before and after every round, attacks that fool
    the last learner, rejected updates, and the number of true labels bought, `bought` of them before the first round.
    """
    path = np.mean([evaluator_path(rounds) for rounds in seeds], 0)
    success = [rounds[-1]["attack_success"][1] for rounds in seeds]
    n_rejected = sum(r["rejected"] for rounds in seeds for r in rounds)
    return {"evaluator by round": " → ".join(f"{a:.3f}" for a in path),
            "attacks succeed": f"{np.mean(success):.3f}" if None not in success else "",
            "updates rejected": f"{n_rejected} of {sum(map(len, seeds))}",
            "labels bought": str(bought + sum(r["audits"] for r in seeds[0]))}


def describe_task_table(task, runs):
    """align_tasks.py's table over all its seeds -> (markdown, {run: {column: text}})"""
    table, kind, test, _ = align_tasks.gather_tables(task, [results["config"]["seed"] for _, results in runs])
    headline = "not toxic [95 %]" if kind == "toxicity" else "balanced accuracy [95 %]"
    texts = {}
    for row in table:
        cells = align_tasks.format_columns(kind, row)
        cells[headline] = format_interval(row["headline"], *row["headline_interval"])
        cells |= {"seeds": str(row["seeds"]), "n": f"{len(test):,}"}
        if "pgr" in row:
            cells["PGR [95 %]"] = align_tasks.format_pgr(row["pgr"], row["interval"])
        texts[row["run"]] = cells
    return align_tasks.markdown_table(task, kind, table, test), texts


def one_debate(task, found):
    """
    One debate as debate.py --show prints it -> markdown, "" without a run. Its content does not matter: it is the first
    row of test, in the first run by name (two sides before one), in its first seed.
    """
    runs = [runs[0] for runs in found if stage_of(runs) == "debate.py" and runs[0][1].get("transcripts")]
    if not runs:
        return ""
    folder, results = min(runs, key=lambda run: (run[1]["config"].get("mode") != "debate", os.path.basename(run[0])))
    with reject_damaged(os.path.relpath(os.path.join(folder, "results.json"))):
        lines = debate.transcript_lines(folder, results, read_rows(task, "test", 1)[0])
    intro = f"One row of {os.path.relpath(folder, ROOT)}: the first of test, chosen by its place in the file alone."
    return "\n".join([intro, "", "```text", *lines, "```", ""])


def culture_tables(report_folder):
    """cdeval.py's runs: tables, and links to their radar figures -> (markdown, "" without runs; names of stale runs)"""
    found, stale = find_runs("cdeval")
    lines = []
    figures = []
    for folder, results in (run for runs in found for run in runs):
        name = os.path.relpath(folder, os.path.join(ROOT, "data", "cdeval"))
        radar = os.path.join(folder, "radar.png")
        with reject_damaged(os.path.relpath(os.path.join(folder, "results.json"))):
            lines += ["", *cdeval.markdown_table(name, results)]
            n = [x["n"] for x in next(iter(results["models"].values()))["dimensions"].values()]
        if os.path.exists(radar):
            figures += ["", f"![{name}]({os.path.relpath(radar, report_folder)})", "",
                        f"{name}: mean P(option 1) of n={sum(n):,} questions, at least {min(n)} a dimension; "
                        "the intervals are in its table"]
    title = ["## culture: cdeval.py", "",
             "Mean P(option 1), the high pole of each dimension, and its 95 % interval by bootstrap over questions;",
             "0.5 is neutral. If both answers together have less than half of the probability, it is hardly an answer."]
    return "\n".join([*title, *lines, *figures, ""]) if lines else "", stale


def culture_texts(found):
    """
    cdeval.py's runs, for the docs -> {run: {dimension: text}}: the first model's mean with its interval over questions,
    in the first seed; and under "RUN, MODEL" another model's difference from it, mean over seeds [lowest, highest].
    """
    texts = {}
    for runs in found:
        name = os.path.basename(runs[0][0])
        seeds = [results for _, results in runs]
        (_, first), *others = seeds[0]["models"].items()
        texts[name] = {d: cdeval.format_interval(x, "{:.2f}") for d, x in first["dimensions"].items()}
        texts[name]["seeds"] = str(len(seeds))
        for label, model in others:
            cells = {"seeds": str(len(seeds))}
            labels = [re.sub(r"seed\d+", f"seed{results['config']['seed']}", label) for results in seeds]
            for d in model["dimensions"]:
                moved = [results["differences"][key][d]["mean"] for key, results in zip(labels, seeds)]
                cells[d] = format_interval(sum(moved) / len(moved), min(moved), max(moved), "{:+.3f}")
            texts[f"{name}, {os.path.basename(label)}"] = cells
    return texts


def markdown_report(task, rows, stale, debate_text="", culture_text="", task_table=""):
    """-> markdown: a table for each stage that has runs, with a debate below oversight; cultures; the task's table"""
    order = {"weak": 0, "student": 1, "ceiling": 3}
    lines = [f"# {task}, test accuracy" if rows else f"# {task}", ""]
    missing = []
    for stage, (title, more) in STAGES.items():
        stage_rows = [row for row in rows if row["stage"] == stage]
        stage_rows.sort(key=lambda row: (order.get(row["run"], 2), row["run"], row["model"]))
        if not stage_rows:
            missing.append(stage)
            continue
        columns = ["run", "model", "learns from", "seeds", "accuracy [95 %]", "ECE", *more, "n"]
        lines += [f"## {title}: {stage}", "", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
        lines += ["| " + " | ".join(row.get(column, "") for column in columns) + " |" for row in stage_rows]
        lines.append("")
        if stage == "debate.py" and debate_text:
            lines.append(debate_text)
    if culture_text:
        lines.append(culture_text)
    else:
        missing.append("cdeval.py")
    if missing:
        lines.append(f"missing: no run of {', '.join(missing)}")
    lines += [f"stale (made from files that have changed since), left out: {name}" for name in stale]
    return "\n".join([*lines, "", task_table]).strip() + "\n"


# --------------------------------------------------------------------------- figures
# Each function draws the runs that its figure is about, or returns None if there are none. rows: describe_runs' dicts;
# found: see find_runs. Markers and labels tell lines apart without their colours.


def new_figure(title, xlabel, ylabel, size=(7, 4.5)):
    import matplotlib
    matplotlib.use("Agg")                                  # no window
    import matplotlib.pyplot as plt
    plt.style.use("tableau-colorblind10")
    figure, axes = plt.subplots(figsize=size)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    return figure, axes


def draw_mean_line(axes, x, seeds, label, k):
    """Mean over seeds, with a bar from the worst to the best. seeds (S, len(x))"""
    a = np.array(seeds)
    axes.errorbar(x, a.mean(0), [a.mean(0) - a.min(0), a.max(0) - a.mean(0)], marker="osv^D*"[k % 6], capsize=2,
                  label=f"{label}, {len(a)} seeds")


def draw_dot(axes, row, y, marker, color, label=None):
    """A run's accuracy with its interval."""
    mean, low, high = row["accuracy"]
    axes.errorbar(mean, y, xerr=[[mean - low], [high - mean]], marker=marker, color=color, capsize=2, label=label)


def draw_students(rows, found):
    """Each run with a PGR as a dot with its interval, between supervisor and ceiling."""
    students = [r for r in rows if r.get("pgr") is not None and r["stage"] in ("train_strong.py", "auto_align.py")]
    students.sort(key=lambda row: row["accuracy"][0])
    if not students:
        return None
    title = f"students (squares: phase 2), 95 % intervals, n={students[0]['n']}"
    figure, axes = new_figure(title, "test accuracy", "", (7, 1.5 + 0.18 * len(students)))
    for k, row in enumerate(students):
        draw_dot(axes, row, k, "o" if row["stage"] == "train_strong.py" else "s", "C0")
    axes.set_yticks(range(len(students)), [f"{r['run']} ({r['seeds']} seeds)" for r in students], fontsize=7)
    for name, label, style in (("weak", "supervisor", ":"), ("ceiling", "ceiling", "--")):
        for row in rows:
            if row["run"] == name:
                axes.axvline(row["accuracy"][0], linestyle=style, color="black", label=label)
    axes.legend(fontsize="small", loc="lower right")
    return figure


def draw_ensembles(rows, found):
    """Test accuracy over the number of members, a line for each kind of ensemble; the single supervisor dashed."""
    curves = {}
    for runs in found:
        if stage_of(runs) == "ensemble.py":
            points = [[point["test"]["accuracy"] for point in results["curve"]] for _, results in runs]
            curves[os.path.basename(runs[0][0])] = points
    if not curves:
        return None
    figure, axes = new_figure("ensembles of supervisors (bars: worst and best seed)", "members", "test accuracy")
    for k, (name, seeds) in enumerate(sorted(curves.items())):
        n = min(map(len, seeds))                           # boosting may stop early with some seeds
        draw_mean_line(axes, range(1, n + 1), [seed[:n] for seed in seeds], name, k)
    for row in rows:
        if row["run"] == "weak":
            axes.axhline(row["accuracy"][0], linestyle="--", color="gray", label="the single supervisor")
    axes.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1.02, 1))
    return figure


def draw_oversight(rows, found):
    """The judge with each kind of help, and the student trained on its labels, each with its interval."""
    judges = [row for row in rows if row["stage"] == "debate.py" or row["run"] == "weak"]
    judges.sort(key=lambda row: row["accuracy"][0])
    if len(judges) < 2:
        return None
    title = f"judges with help, and the students that they teach; 95 %, n={judges[0]['n']}"
    figure, axes = new_figure(title, "test accuracy", "", (7, 1.5 + 0.28 * len(judges)))
    by_run = {row["run"]: row for row in rows}
    for k, judge in enumerate(judges):
        student = by_run.get("student" if judge["run"] == "weak" else "student-" + judge["run"])
        draw_dot(axes, judge, k, "o", "C0", None if k else "judge")
        if student:
            draw_dot(axes, student, k, "s", "C1", None if k else "student")
    names = ["no help" if row["run"] == "weak" else row["run"] for row in judges]
    axes.set_yticks(range(len(judges)), [f"{n} ({r['seeds']} seeds)" for n, r in zip(names, judges)], fontsize=8)
    axes.legend(fontsize="small")
    return figure


def draw_icl_curves(rows, found, key, title):
    """icl.py's accuracy over the number of demonstrations ("shots") or of flipped labels ("noise")"""
    curves = {}
    for runs in found:
        points = [results.get("curve") or [{}] for _, results in runs]
        if len(points[0]) > 1 and len({point.get(key) for point in points[0]}) == len(points[0]):
            curves[os.path.basename(runs[0][0])] = points
    if not curves:
        return None
    figure, axes = new_figure(f"{title} (one prompt; bars: worst and best seed)", title, "test accuracy")
    for k, (name, seeds) in enumerate(sorted(curves.items())):
        accuracies = [[point["accuracy"] for point in points] for points in seeds]
        draw_mean_line(axes, range(len(seeds[0])), accuracies, name, k)
        axes.set_xticks(range(len(seeds[0])), [point[key] for point in seeds[0]])
    axes.axhline(0.5, linestyle=":", color="gray", label="chance")
    axes.legend(fontsize="small")
    return figure


def draw_rounds(rows, found):
    """Phase 2: evaluator and learner over the rounds of `align`, mean over seeds; the ceiling dashed."""
    aligned = [runs for runs in found if stage_of(runs) == "auto_align.py" and os.path.basename(runs[0][0]) == "align"]
    if not aligned:
        return None
    seeds = [results["rounds"] for _, results in aligned[0]]
    n = len(seeds[0])
    figure, axes = new_figure("phase 2 (bars: worst and best seed)", "round", "test accuracy")
    draw_mean_line(axes, range(n + 1), [evaluator_path(rounds) for rounds in seeds], "evaluator", 0)
    draw_mean_line(axes, range(1, n + 1), [[r["learner_test"]["accuracy"] for r in s] for s in seeds], "learner", 1)
    axes.set_xticks(range(n + 1), ["start"] + [f"{k + 1}: {r['student']}" for k, r in enumerate(seeds[0])])
    for row in rows:
        if row["run"] == "ceiling":
            axes.axhline(row["accuracy"][0], linestyle="--", color="black", label=f"ceiling ({row['model']})")
    axes.legend(fontsize="small")
    return figure


FIGURES = {"students": draw_students, "ensembles": draw_ensembles, "oversight": draw_oversight,
           "shots": functools.partial(draw_icl_curves, key="shots", title="demonstrations"),
           "noise": functools.partial(draw_icl_curves, key="noise", title="flipped labels"), "rounds": draw_rounds}


def draw_figures(task, rows, found):
    """All figures that there are runs for -> their paths"""
    paths = []
    for name, function in FIGURES.items():
        try:
            figure = function(rows, found)
        except ImportError:
            print("no figures: matplotlib is not installed")
            return paths
        if figure:
            paths.append(os.path.join(ROOT, "data", task, f"report-{name}.png"))
            with catch_write_errors(paths[-1]):
                figure.savefig(paths[-1], dpi=130, bbox_inches="tight")
            figure.clf()
    return paths


# --------------------------------------------------------------------------- the tables of README.md and docs/


def fill_tables(text, measured):
    """
    A page's tables, from what was measured. A table belongs to a task if a line  <!-- measured: TASK -->  stands before
    it. In a row whose column "run" names a run, each column with a title that this run has numbers for is filled;
    "student ..." columns take those of student-RUN. Everything else stays as it was written.

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
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    run = cells[header.index("run")].strip("`") if "run" in header else ""
    for k, title in enumerate(header):
        source = run
        column = title
        if title.startswith("student "):
            source = "student" if run == "weak" else f"student-{run}"
            column = title.removeprefix("student ")
        if title != "run" and column in known.get(source, {}):
            cells[k] = known[source][column]
    return "| " + " | ".join(cells) + " |"


def update_measured(measured, task, rows, task_texts):
    """
    Put the texts of describe_runs and describe_task_table into `measured`, {task: {run: {column: text}}}. Fewer seeds
    never replace more.
    """
    known = measured.setdefault(task, {})

    def n_seeds(run):
        return int(known.get(run, {}).get("seeds", 0))
    for row in sorted(rows, key=lambda row: int(row["seeds"])):
        if int(row["seeds"]) >= n_seeds(row["run"]):
            texts = {key: value for key, value in row.items() if isinstance(value, str)}
            known[row["run"]] = {key: value for key, value in texts.items() if key not in ("run", "stage")}
    for run, texts in task_texts.items():
        if int(texts["seeds"]) >= n_seeds(run):
            known[run] = known.get(run, {}) | texts


def pages_with_tables():
    """-> {path: text} of README.md and docs/results/*.md"""
    pages = {}
    for pattern in ("README.md", os.path.join("docs", "results", "*.md")):
        for path in sorted(glob.glob(os.path.join(ROOT, pattern))):
            with open(path, encoding="utf-8") as f:
                pages[path] = f.read()
    if not pages:
        fail("--docs: there is neither README.md nor docs/results beside report.py, so no table can be filled")
    return pages


def update_docs(pages, measured, figures):
    """--docs: data/measured.json, the tables that are filled from it, and the figures that a page shows."""
    write_file(MEASURED, json.dumps(measured, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    for path, text in pages.items():
        write_file(path, fill_tables(text, measured))
    for task, paths in figures.items():
        for path in paths:
            name = f"{task}-{os.path.basename(path).removeprefix('report-')}"
            if any(f"figures/{name}" in text for text in pages.values()):
                with catch_write_errors(name):
                    os.makedirs(os.path.join(ROOT, "figures"), exist_ok=True)
                    shutil.copy(path, os.path.join(ROOT, "figures", name))
    print(f"filled the tables of {len(pages)} pages; data/measured.json has their numbers")


# --------------------------------------------------------------------------- the report


def report_task(task, measured):
    """One task: print and write its report, and put its numbers into `measured`. -> paths of the figures"""
    found, stale = find_runs(task)
    rows = []
    task_table = ""
    task_texts = {}
    for runs in found:
        with reject_damaged(os.path.relpath(os.path.join(runs[0][0], "results.json"))):
            if stage_of(runs) in STAGES:
                rows.append(describe_runs(task, runs))
            elif stage_of(runs) == "align_tasks.py":
                task_table, task_texts = describe_task_table(task, runs)
    folder = os.path.join(ROOT, "data", task)
    culture_text, stale_cultures = culture_tables(folder)
    if task != "cdeval":
        stale += stale_cultures
    text = markdown_report(task, rows, stale, one_debate(task, found), culture_text, task_table)
    figures = draw_figures(task, rows, found)
    names = [os.path.basename(path) for path in figures]
    write_file(os.path.join(folder, "report.md"), text + "".join(f"\n![{name}]({name})\n" for name in names))
    print(text + f"\nwrote data/{task}/report.md" + "".join(f", {name}" for name in names))
    update_measured(measured, task, rows, task_texts)
    return figures


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", type=task_name, help="a folder of data/ (default: all that have runs)")
    parser.add_argument("--docs", action="store_true", help="fill the tables of README.md and docs/results, too")
    return parser


def main(argv=None):
    args = build_parser().parse_args(argv)
    paths = glob.glob(os.path.join(ROOT, "data", args.task or "*", "seed*", "*", "results.json"))
    tasks = sorted({path.split(os.sep)[-4] for path in paths})
    if not tasks:
        fail(f"no finished run under data/{args.task or ''}. Make one first:  bash run.sh")
    cached_fingerprint.cache_clear()                       # a notebook may call main() again after new runs
    predictions_on_test.cache_clear()
    pages = pages_with_tables() if args.docs else {}
    measured = read_json(MEASURED) if args.docs and os.path.exists(MEASURED) else {}
    figures = {}
    for task in [task for task in tasks if task != "cdeval"] or tasks:     # cdeval's tables stand in every report
        figures[task] = report_task(task, measured)
    if args.docs:
        measured["cdeval"] = measured.get("cdeval", {}) | culture_texts(find_runs("cdeval")[0])
        update_docs(pages, measured, figures)


if __name__ == "__main__":
    run_script(main)
