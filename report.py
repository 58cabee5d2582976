"""
Every finished run of a task, over its seeds, in one report: tables, figures, one debate to read.

$ python report.py                          # all tasks that have runs
$ python report.py --task tinyworld
$ python report.py --html                   # also one page to look at: charts, rows to read, debates, audits
$ python report.py --docs                   # also fill the tables of README.md and docs/results from these runs
$ python report.py --task tickets --check fused,student,ceiling     # is this result sound? any label files will do

Needs   contract.py, metrics.py, models.py, train_weak.py, page.py, and sft.py, align_tasks.py, debate.py, cdeval.py,
        since it prints their tables and one debate; page.html for --html
Reads   data/<task>/seed*/<run>/{results.json, labels.jsonl}, data/<task>/test.jsonl, and cdeval.py's runs in
        data/cdeval/
Writes  data/<task>/report.md and prints it: a table for each stage, mean over seeds; one debate; the cultural
        orientations (the same in every report: they belong to no task). With matplotlib also report-*.png.
        --html: data/<task>/report.html, which opens from disk (page.py)
        --docs: data/measured.json (the last measurement of each run), the tables of README.md and docs/results/*.md and
        the accuracies in the answers of course/, whose numbers come from it, and figures/

Intervals are 95 % by bootstrap over questions and over seeds (metrics.bootstrap). With one seed they do not include the
variation between seeds: run three or more before you believe a difference. "minus student" is the paired difference to
the naive student, on the same questions and seeds. "helps" or "costs" stands there only if its interval is clear of 0.

Runs of one name with different flags are different rows. A run whose inputs have changed since is named as stale and
left out. A stage without any run is named as missing.
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
import page
from contract import (
    ROOT,
    catch_write_errors,
    escape_markdown,
    fail,
    fenced_lines,
    fingerprint,
    is_soft_label,
    labels_folder,
    may_have_gaps,
    read_json,
    read_jsonl,
    read_labels,
    read_results,
    read_rows,
    read_text,
    reject_damaged,
    replacing,
    run_folder,
    run_script,
    task_name,
    write_file,
)
from metrics import (
    METRIC_NAMES,
    METRICS,
    all_metrics,
    auroc,
    bootstrap,
    bootstrap_scores,
    compare_models,
    correct,
    ece,
    format_difference,
    format_metrics,
    pick_metric,
)

STAGES = {                           # script -> (title of its table, columns beside those that all tables have)
    "train_weak.py": ("the supervisor", []),
    "train_strong.py": ("students and their ceiling", ["PGR [95 %]", "minus student [95 %]",
                                                       "agrees where right / wrong"]),
    "ensemble.py": ("many supervisors", ["members used", "gain over single [95 %]"]),
    "debate.py": ("oversight", ["gain over single [95 %]", "knew / did not", "string match"]),
    "icl.py": ("without training", ["says yes", "minus icl-weak [95 %]"]),
    "auto_align.py": ("phase 2", ["evaluator by round", "untrained by round", "attacks succeed", "updates rejected",
                                  "labels bought", "PGR [95 %]", "minus align-jump [95 %]"])}
BASELINES = {"train_strong.py": "student", "icl.py": "icl-weak", "auto_align.py": "align-jump"}
STAGE_OF_ROLE = {"supervisor": "train_weak.py", "student": "train_strong.py", "ceiling": "train_strong.py",
                 "ensemble": "ensemble.py", "fusion": "ensemble.py", "oversight": "debate.py", "icl-student": "icl.py",
                 "icl-ceiling": "icl.py", "align": "auto_align.py", "table": "align_tasks.py", "writer": "sft.py",
                 "culture": "cdeval.py"}
MEASURED = os.path.join(ROOT, "data", "measured.json")


# --------------------------------------------------------------------------- runs and their numbers


cached_fingerprint = functools.cache(fingerprint)          # a hundred runs have read the same file


def find_runs(task):
    """-> (lists of (folder, results) that differ in their seed alone; names of stale runs)"""
    runs = defaultdict(list)
    stale = []
    for path in sorted(glob.glob(os.path.join(ROOT, "data", task, "seed*", "*", "results.json"))):
        folder = os.path.dirname(path)
        results = read_results(folder)
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
    """A run's labels of test: (N,) p(yes), and where its verdict is correct, (N,); nan where an annotator has none"""
    test = read_rows(task, "test", max_rows)
    p_yes = read_labels(folder, test, gaps=may_have_gaps(folder))[:, 1]
    return p_yes, np.where(np.isnan(p_yes), np.nan, correct(p_yes, [row["label"] for row in test]))


def is_measured(task, results):
    """Are there true labels to measure a run by, and does it label each row of test? Fused annotators may not."""
    test = results.get("test", {})
    if test is None or results["config"]["role"] != "fusion":
        return test is not None
    return test["n"] == len(read_rows(task, "test", results["config"]["max_rows"]))


def format_interval(mean, low, high, form="{:.3f}"):
    """-> "mean [low, high]" """
    return f"{form} [{form}, {form}]".format(mean, low, high)


def format_split(values, hits):
    """The mean of values (S, N) where hits (S, N) are 1, and where they are 0, over seeds -> "0.88 / 0.19" """
    means = [np.mean([v[h == x].mean() for v, h in zip(values, hits)]) for x in (1, 0)]
    return "{:.2f} / {:.2f}".format(*means)


def string_match(results):
    """debate.py's control, "yes if the note states the answer": its accuracy in one run; nan without notes"""
    groups = results.get("by_transcript", {})
    return groups.get("yes if the note states the answer", {}).get("correct", float("nan"))


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

    def hits_of(*models, on=task):
        """M models, each S names or folders of runs, one a seed -> (S, M, N), on test of this or of another task"""
        hits = []
        for c, *names in zip(configs, *models):
            of_seed = [labels_folder(name, task, c["seed"]) for name in names]
            hits.append([predictions_on_test(on, folder, max_rows)[1] for folder in of_seed])
        return np.array(hits)
    hits = hits_of(folders)
    mean = float(hits.mean())
    low, high = np.percentile(bootstrap(hits, groups), [2.5, 97.5]).clip(0, 1)
    probs = [predictions_on_test(task, folder, max_rows)[0] for folder in folders]
    row = {"run": os.path.basename(folders[0]), "stage": stage, "config": config,
           "model": os.path.basename(config["model"]),
           "learns from": config.get("labels") or config.get("evaluator") or config.get("supervisors") or "train1",
           "seeds": str(len(runs)), "n": f"{len(test):,}", "accuracy": [mean, low, high],
           "accuracy [95 %]": format_interval(mean, low, high),
           "AUROC": f"{np.mean([auroc(p, truth) for p in probs]):.3f}",
           "ECE": f"{np.mean([ece(p, truth) for p in probs]):.2f}",
           "says yes": f"{np.mean([(p > 0.5).mean() for p in probs]):.2f}",
           "seconds": f"{np.mean([results['seconds'] for _, results in runs]):.0f}"}
    row |= accuracy_by_kind(test, hits)
    if stage == "auto_align.py":
        row |= describe_rounds([results["rounds"] for _, results in runs], runs[0][1].get("labels_to_choose", 0))
    if stage == "ensemble.py":
        used = sorted(results.get("members_used") or len(results["supervisors"]) for _, results in runs)
        row["members used"] = f"{used[0]}-{used[-1]}" if used[0] < used[-1] else str(used[0])
    matches = [string_match(results) for _, results in runs]
    if not np.isnan(matches).any():
        row["string match"] = f"{np.mean(matches):.3f}"

    def hits_beside(name):
        """The hits of the run `name` and of these runs, (S, 2, N); None if a seed has no such run"""
        baseline = [run_folder(name, task, c["seed"]) for c in configs]
        if row["run"] == name or not all(os.path.exists(os.path.join(folder, "labels.jsonl")) for folder in baseline):
            return None
        return hits_of(baseline, folders)
    if config.get("also"):                                 # another task, which nothing was trained on
        rows_there = read_rows(config["also"], "test", max_rows)
        elsewhere = hits_of(folders, on=config["also"])
        low, high = np.percentile(bootstrap(elsewhere, [row["group"] for row in rows_there]), [2.5, 97.5]).clip(0, 1)
        row[f"on {config['also']} [95 %]"] = format_interval(float(elsewhere.mean()), low, high)
        row |= {f"{config['also']}: {kinds}": text for kinds, text in accuracy_by_kind(rows_there, elsewhere).items()}
    hits = hits_beside("weak")
    if hits is not None:
        draws = bootstrap(hits, groups)
        low, high = np.percentile(draws[:, 1] - draws[:, 0], [2.5, 97.5])
        row["gain over single [95 %]"] = format_interval(mean - hits[:, 0].mean(), low, high, "{:+.3f}")
        row["knew / did not"] = format_split(hits[:, 1], hits[:, 0])
    baseline = "rule-student" if config.get("labels") == "rule" else BASELINES.get(stage, "")
    hits = hits_beside(baseline) if baseline and "ceiling" not in config["role"] else None
    if hits is not None:
        draws = bootstrap(hits, groups)
        low, high = np.percentile(draws[:, 1] - draws[:, 0], [2.5, 97.5])
        row[f"minus {baseline} [95 %]"] = format_difference(mean - hits[:, 0].mean(), low, high)
    if config.get("ceiling") and all(results.get("comparison", True) for _, results in runs):
        supervisors = [results.get("supervisor") or c.get("supervisor") or c.get("labels") or c["evaluator"]
                       for c, (_, results) in zip(configs, runs)]
        hits = hits_of(supervisors, folders, [c["ceiling"] for c in configs])
        known = np.isfinite(hits).all((0, 1))              # annotators may have labelled a part of test
        metric = pick_metric(config.get("metric", "auto"), truth[known])
        labels = None if metric == "accuracy" else truth[known]
        found = align_tasks.recovered(hits[..., known], labels, np.array(groups)[known])
        row["PGR [95 %]"] = "no gap"
        if metric == "auroc":
            values = [results["comparison"].get("pgr", float("nan")) for _, results in runs]
            row["PGR [95 %]"] = f"{np.mean(values):.2f} (AUROC)"
        elif "pgr" in found:
            row["pgr"] = found["pgr"]
            of = "" if metric == "accuracy" else f" ({METRIC_NAMES[metric]})"
            row["PGR [95 %]"] = align_tasks.format_pgr(found["pgr"], found["interval"]) + of
        if config.get("also"):
            elsewhere = hits_of(supervisors, folders, [c["ceiling"] for c in configs], on=config["also"])
            groups_there = [row["group"] for row in read_rows(config["also"], "test", max_rows)]
            found = align_tasks.recovered(elsewhere, None, np.array(groups_there))
            pgr_there = align_tasks.format_pgr(found["pgr"], found["interval"]) if "pgr" in found else "no gap"
            row[f"PGR on {config['also']} [95 %]"] = pgr_there
        if config.get("labels"):                           # agreement is with the run whose labels were trained on
            hits = hits_of([c["labels"] for c in configs], folders)
        row["agrees where right / wrong"] = format_split(hits[:, 1] == hits[:, 0], hits[:, 0])
    return row


def accuracy_by_kind(test, hits):
    """Where rows have a "kind": (S, 1, N) hits -> {"answer / note": "0.81 / 0.70"}, means over seeds"""
    kinds = sorted({row.get("kind", "") for row in test})
    if len(kinds) < 2:
        return {}
    kind_of = np.array([row.get("kind", "") for row in test])
    return {" / ".join(kinds): " / ".join(f"{hits[..., kind_of == kind].mean():.3f}" for kind in kinds)}


def describe_best_of(runs):
    """
    sft.py --reward over its seeds -> {"RUN, REWARD": {column: text}}: how often the best of n samples by a reward model
    is good, and its reward, means over seeds [lowest, highest].
    """
    texts = {}
    for judge in runs[0][1]["best_of"]:
        cells = {"seeds": str(len(runs))}
        for points in zip(*(results["best_of"][judge] for _, results in runs)):
            n = points[0]["n"]
            for title, key, form in ((f"good, n = {n}", "good", "{:.3f}"), (f"reward, n = {n}", "reward", "{:+.2f}")):
                values = [point[key] for point in points]
                cells[title] = format_interval(np.mean(values), min(values), max(values), form)
            kinds = sorted(set(points[0]) - {"n", "reward", "good"})
            cells[f"{' / '.join(kinds)}, n = {n}"] = " / ".join(
                f"{np.mean([point[kind] for point in points]):.3f}" for kind in kinds)
        texts[f"{os.path.basename(runs[0][0])}, {judge}"] = cells
    return texts


def best_of_table(texts):
    """describe_best_of's texts -> markdown, "" without any"""
    if not texts:
        return ""
    columns = ["seeds", *(title for title in next(iter(texts.values())) if title.startswith(("good", "reward")))]
    lines = ["## best of n samples by a reward model: sft.py --reward", "", "Means over seeds [lowest, highest].", "",
             "| writer, reward model | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    lines += [f"| {escape_markdown(name)} | " + " | ".join(cells[title] for title in columns) + " |"
              for name, cells in texts.items()]
    return "\n".join([*lines, ""])


def evaluator_path(rounds):
    """The evaluator's accuracy before the first round, and after each one"""
    return [rounds[0]["evaluator"][0]["accuracy"]] + [r["evaluator"][1]["accuracy"] for r in rounds]


def describe_rounds(seeds, bought=0):
    """
    Phase 2, a list of rounds for each seed: the evaluator's accuracy before and after every round, that of each round's
    student before training, calibrated like the evaluator (the control), attacks that fool the last learner, rejected
    updates, and the number of true labels bought, `bought` of them before the first round.
    """
    untrained = np.mean([[r["untrained"]["accuracy"] for r in rounds] for rounds in seeds], 0)
    path = np.mean([evaluator_path(rounds) for rounds in seeds], 0)
    success = [rounds[-1]["attack_success"][1] for rounds in seeds]
    n_rejected = sum(r["rejected"] for rounds in seeds for r in rounds)
    return {"evaluator by round": " → ".join(f"{a:.3f}" for a in path),
            "untrained by round": " → ".join(f"{a:.3f}" for a in untrained),
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
        cells |= {f"minus {name} [95 %]": format_difference(*row["minus"][name]) for name in row["minus"]}
        if "pgr" in row:
            cells["PGR [95 %]"] = align_tasks.format_pgr(row["pgr"], row["interval"])
        texts[row["run"]] = cells
    return f"## strategies: align_tasks.py\n\n{align_tasks.markdown_table(task, kind, table, test)}", texts


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
    name = escape_markdown(os.path.relpath(folder, ROOT))
    intro = f"One row of {name}: the first of test, chosen by its place in the file alone."
    return "\n".join([intro, "", *fenced_lines(lines), ""])


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
            link = re.sub(r"[\s()<>]", lambda c: f"%{ord(c[0]):02X}", os.path.relpath(radar, report_folder))
            name = escape_markdown(name)
            figures += ["", f"![{name}]({link})", "",
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
        for row in stage_rows:                             # names come from folders and flags, numbers from here
            names = {key: escape_markdown(row[key]) for key in ("run", "model", "learns from")}
            lines.append("| " + " | ".join((row | names).get(column, "") for column in columns) + " |")
        lines.append("")
        if stage == "debate.py" and debate_text:
            lines.append(debate_text)
    if any(row["seeds"] == "1" for row in rows):
        lines += ["Rows with one seed: their intervals are about questions alone. Another seed may lie outside.", ""]
    if culture_text:
        lines.append(culture_text)
    else:
        missing.append("cdeval.py")
    if missing:
        lines.append(f"missing: no run of {', '.join(missing)}")
    lines += [f"stale (made from files that have changed since), left out: {escape_markdown(name)}" for name in stale]
    return "\n".join([*lines, "", task_table]).strip() + "\n"


# --------------------------------------------------------------------------- figures
# page.py says what each chart shows; here it becomes a picture. Markers, dashes and labels tell lines apart without
# their colours. The type is large, so that a figure can be read at half of a page's width.


COLOURS = ("#0072b2", "#d55e00", "#007a5e", "#a8548a", "#7a5c00", "#333333")           # after Okabe and Ito
DASHES = {"supervisor": ":", "ceiling": "--", "chance": (0, (1, 4))}


def new_figure(chart, size):
    from matplotlib.figure import Figure
    figure = Figure(figsize=size, layout="constrained")    # without pyplot: no window, and nothing to close
    axes = figure.subplots()
    figure.suptitle(chart["title"], x=0.02, ha="left", fontsize=12)
    axes.set_xlabel(f"{chart['xlabel']}\n{chart['bars']}")
    axes.grid(alpha=0.3)
    return figure, axes


def apart(ticks, nearest=0.05):
    """
    Ticks [[x, text]] without those nearer to the one before than this share of the axis. Both ends stay.

    >>> apart([[0, "0"], [1, "2"], [1.01, "3"], [1.99, "9"], [2, "10"]])
    [[0, '0'], [1, '2'], [2, '10']]
    """
    distance = nearest * (ticks[-1][0] - ticks[0][0])
    kept = ticks[:1]
    for tick in ticks[1:]:
        if tick[0] - kept[-1][0] >= distance and (ticks[-1][0] - tick[0] >= distance or tick == ticks[-1]):
            kept.append(tick)
    return kept


def draw_lines(chart):
    """A chart of lines over steps, members, demonstrations or rounds: means with bars"""
    figure, axes = new_figure(chart, (6, 4.6 + 0.2 * len(chart["lines"])))
    for k, line in enumerate(chart["lines"]):
        mean, low, high = (np.array(line[key]) for key in ("mean", "low", "high"))
        axes.errorbar(line["x"], mean, [mean - low, high - mean], marker="osv^D*"[k % 6], color=COLOURS[k % 6],
                      capsize=2, label=line["name"])
    for level in chart["levels"]:
        axes.axhline(level["at"], linestyle=DASHES[level["name"]], color="black",
                     label=f"{level['name']}, {level['at']:.3f}")
    axes.set_ylabel(chart["ylabel"])
    axes.set_xticks(*zip(*apart(chart["ticks"])))
    figure.legend(loc="outside lower left", ncols=1 if len(chart["lines"]) < 4 else 2, frameon=False)
    return figure


def draw_dots(chart):
    """A chart of dots with intervals: a line for each method, methods in groups"""
    names = []
    for group in chart["groups"]:
        names += [group["name"]] * bool(group["name"]) + [f"{dot['name']} ({dot['seeds']})" for dot in group["dots"]]
    figure, axes = new_figure(chart, (7, 1.7 + 0.21 * len(names)))
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)                  # the first line on top
    for text in axes.get_yticklabels():
        if text.get_text() in [group["name"] for group in chart["groups"]]:
            text.set_fontweight("bold")
    y = -1
    for group in chart["groups"]:
        y += bool(group["name"])
        for dot in group["dots"]:
            y += 1
            for m in dot["marks"]:
                k = chart["kinds"].index(m["kind"])
                axes.errorbar(m["mean"], y, xerr=[[m["mean"] - m["low"]], [m["high"] - m["mean"]]], marker="os"[k],
                              color=COLOURS[k], capsize=2, label=m["kind"])
    for level in chart["levels"]:
        axes.axvline(level["at"], linestyle=DASHES[level["name"]], color="black",
                     label=f"{level['name']}, {level['at']:.3f}")
    axes.set_xlabel(axes.get_xlabel() + "\nin brackets: seeds")
    handles, labels = axes.get_legend_handles_labels()
    of_label = dict(zip(labels, handles))                  # each label once
    figure.legend(of_label.values(), of_label, loc="outside lower left", ncols=3, frameon=False)
    return figure


def draw_figures(task, charts):
    """charts {name: page.py's chart} -> paths of the figures"""
    paths = []
    for name, chart in charts.items():
        try:
            figure = draw_lines(chart) if "lines" in chart else draw_dots(chart)
        except ImportError:
            print("no figures: matplotlib is not installed")
            return paths
        paths.append(os.path.join(ROOT, "data", task, f"report-{name}.png"))
        with replacing(paths[-1]) as half:
            figure.savefig(half, format="png", dpi=160, bbox_inches="tight")
    return paths


# --------------------------------------------------------------------------- the tables of README.md and docs/


def fill_tables(text, measured):
    """
    A page's tables, from what was measured. A table belongs to a task if a line  <!-- measured: TASK -->  stands before
    it. In a row whose column "run" names a run, each column with a title that this run has numbers for is filled;
    "student ..." columns take those of student-RUN. The cells of a run that was not measured become empty, so that no
    number of an older world stays. Everything else stays as it was written.

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
            pages[path] = read_text(path)
    if not pages:
        fail("--docs: there is neither README.md nor docs/results beside report.py, so no table can be filled")
    return pages


def update_docs(pages, measured, figures):
    """--docs: data/measured.json, the tables that are filled from it, and the figures that a page shows."""
    write_file(MEASURED, json.dumps(measured, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    for path, text in pages.items():
        write_file(path, fill_tables(text, measured))
    for pattern in ("*.md", "*.ipynb", os.path.join("chapters", "*.md")):
        for path in glob.glob(os.path.join(ROOT, "course", pattern)):
            write_file(path, fill_quotes(read_text(path), measured.get("tinyworld", {})))
    for task, paths in figures.items():
        for path in paths:
            name = f"{task}-{os.path.basename(path).removeprefix('report-')}"
            if any(f"figures/{name}" in text for text in pages.values()):
                with catch_write_errors(name):
                    os.makedirs(os.path.join(ROOT, "figures"), exist_ok=True)
                with replacing(os.path.join(ROOT, "figures", name)) as half:
                    shutil.copy(path, half)
    print(f"filled the tables of {len(pages)} pages; data/measured.json has their numbers")


# --------------------------------------------------------------------------- a check-up of label files


def read_p_yes(name, task):
    """A labels.jsonl, a folder that holds one, or a run or annotator of the task -> {id: p(yes)}"""
    path = name if os.path.isfile(name) else os.path.join(labels_folder(name, task, 0), "labels.jsonl")
    p_yes = {}
    for number, row in enumerate(read_jsonl(path), 1):
        if not is_soft_label(row.get("soft_label")) or not isinstance(row.get("id"), str) or row["id"] in p_yes:
            fail(f"{path}, line {number}: not {{\"id\", \"soft_label\": [p_no, p_yes]}}, or an id that occurs twice")
        p_yes[row["id"]] = row["soft_label"][1]
    return p_yes


def read_truth(path, task):
    """--truth, rows of {"id", "label"} and perhaps "group"; without it test of the task -> rows"""
    rows = read_jsonl(path) if path else read_rows(task, "test")
    for number, row in enumerate(rows, 1):
        if row.get("label") not in (0, 1) or not isinstance(row.get("id"), str):
            fail(f"{path}, line {number}: not {{\"id\": ..., \"label\": 0 or 1}}")
    return [{"group": row["id"], **row} for row in rows]


def repeated_errors(p_yes, supervisor, labels):
    """
    Does a model make the errors of its supervisor? -> (share of the supervisor's errors that it makes too, share of
    wrong verdicts where the supervisor is right, kappa of the two: 1 = the same errors, 0 = as if by chance)

    >>> [round(x, 2) for x in repeated_errors(np.array([.1, .9, .1, .9]), np.array([.1, .1, .1, .9]), [1, 1, 0, 1])]
    [0.5, 0.0, 0.5]
    """
    wrong = correct(p_yes, labels) < 1
    supervisor_wrong = correct(supervisor, labels) < 1
    a, b = wrong.mean(), supervisor_wrong.mean()
    by_chance = a * b + (1 - a) * (1 - b)
    kappa = ((wrong == supervisor_wrong).mean() - by_chance) / (1 - by_chance) if by_chance < 1 else 0.0
    shares = [wrong[rows].mean() if rows.any() else 0.0 for rows in (supervisor_wrong, ~supervisor_wrong)]
    return float(shares[0]), float(shares[1]), float(kappa)


def check_up(rows, models, metric="auto"):
    """
    Is a weak-to-strong result sound? rows with id, group, label; models {"supervisor", "student", "ceiling", controls:
    {id: p(yes)}} -> lines. It needs label files only, whoever made them.
    """
    common = [row for row in rows if all(row["id"] in p_yes for p_yes in models.values())]
    if not common:
        fail("--check: no row of the truth has a label of all these models; are they of one task?")
    labels = np.array([row["label"] for row in common])
    groups = [row["group"] for row in common]
    p = {name: np.array([p_yes[row["id"]] for row in common]) for name, p_yes in models.items()}
    soft = {name: np.stack([1 - x, x], 1) for name, x in p.items()}
    c = compare_models(common, soft["supervisor"], soft["student"], soft["ceiling"], metric)
    n_groups = len(set(groups))
    lines = [f"truth: {len(common):,} of {len(rows):,} rows have all labels; {n_groups:,} groups, {labels.mean():.0%} "
             f"yes; compared by {METRIC_NAMES[c['metric']]}"]
    lines += [format_metrics(name, all_metrics(soft[name], common)) for name in models]
    draws = bootstrap_scores(c["metric"], [p["supervisor"], p["ceiling"]], labels, groups)
    low, high = np.percentile(draws[:, 1] - draws[:, 0], [2.5, 97.5])
    verdict = "there is a gap" if low > 0 else "the gap is within its noise, so a PGR says nothing"
    lines.append(f"gap: {format_interval(c['ceiling'] - c['supervisor'], low, high, '{:+.3f}')}: {verdict}")
    if c.get("pgr_interval"):
        low, high = c["pgr_interval"]
        lines.append(f"PGR {format_interval(c['pgr'], low, high, '{:.2f}')}; to halve this interval: {3 * n_groups:,} "
                     "test groups more")
    else:
        lines.append("no interval of the PGR: " + c.get("pgr_reason", f"PGR {c.get('pgr', 0):.2f}, the gap is noise"))
    kappas = {}
    for name in list(models)[1:]:
        wrong, right, kappas[name] = repeated_errors(p[name], p["supervisor"], labels)
        lines.append(f"errors: {name} repeats {wrong:.0%} of the supervisor's, and errs on {right:.0%} of the rows "
                     f"where that is right (kappa {kappas[name]:.2f})")
    others = [kappa for name, kappa in kappas.items() if name != "student"]
    inherited = "more" if kappas["student"] > max(others) + 0.05 else "no more"
    lines.append(f"the student repeats them {inherited} than models do that were trained without these labels")
    return lines + [f"WARNING: {warning}" for warning in c["warnings"]]


# --------------------------------------------------------------------------- the report


def report_task(task, measured, as_html=False):
    """One task: print and write its report, and put its numbers into `measured`. -> paths of the figures"""
    found, stale = find_runs(task)
    unmeasured = [runs for runs in found if not all(is_measured(task, results) for _, results in runs)]
    found = [runs for runs in found if runs not in unmeasured]
    rows = []
    task_table = ""
    task_texts = {}
    best_of = {}
    for runs in found:
        with reject_damaged(os.path.relpath(os.path.join(runs[0][0], "results.json"))):
            if stage_of(runs) in STAGES:
                rows.append(describe_runs(task, runs))
            elif stage_of(runs) == "align_tasks.py":
                task_table, task_texts = describe_task_table(task, runs)
            elif runs[0][1].get("best_of"):
                best_of |= describe_best_of(runs)
    folder = os.path.join(ROOT, "data", task)
    culture_text, stale_cultures = culture_tables(folder)
    if task != "cdeval":
        stale += stale_cultures
    for checkpoint in sorted(glob.glob(os.path.join(folder, "seed*", "*", "checkpoint"))):
        run = os.path.dirname(checkpoint)
        if not os.path.exists(os.path.join(run, "results.json")):
            print(f"missing: {os.path.relpath(run)} has no results.json, so it is left out. Run its command again")
    for left_out, _ in (run for runs in unmeasured for run in runs):
        print(f"left out: {os.path.relpath(left_out)}. There are no true labels of test, or it labels a part of them")
    text = markdown_report(task, rows, stale, one_debate(task, found), culture_text,
                           task_table + best_of_table(best_of))
    with reject_damaged(f"a run in data/{task}"):
        charts = page.draw_charts(rows, found)
    figures = draw_figures(task, charts)
    names = [os.path.basename(path) for path in figures]
    write_file(os.path.join(folder, "report.md"), text + "".join(f"\n![{name}]({name})\n" for name in names))
    if as_html:
        predict = functools.partial(predictions_on_test, task)
        with reject_damaged(f"a run in data/{task}"):
            data = page.collect(task, rows, found, text, task_texts, predict)
        page.write_page(os.path.join(folder, "report.html"), data)
        names.append("report.html")
    print(text + f"\nwrote data/{task}/report.md" + "".join(f", {name}" for name in names))
    update_measured(measured, task, rows, task_texts | best_of)
    return figures


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", type=task_name, help="a folder of data/ (default: all that have runs)")
    parser.add_argument("--check", metavar="SUPERVISOR,STUDENT,CEILING[,CONTROL...]",
                        help="a check-up of these labels: runs of the task, folders or labels.jsonl files. Controls "
                             "are models that were trained without the supervisor, as the ceiling is")
    parser.add_argument("--truth", default="", metavar="FILE",
                        help='--check: rows of {"id", "label"} (default: test of the task)')
    parser.add_argument("--metric", default="auto", choices=["auto", *METRICS], help="--check: what a PGR compares")
    parser.add_argument("--html", action="store_true", help="also write report.html, one page to look at")
    parser.add_argument("--docs", action="store_true", help="fill the tables of README.md and docs/results, too")
    return parser


def main(argv=None):
    args = build_parser().parse_args(argv)
    if args.check:
        names = args.check.split(",")
        if len(names) < 3:
            fail("--check needs three label files: SUPERVISOR,STUDENT,CEILING")
        roles = ["supervisor", "student", "ceiling", *(f"control {k}" for k in range(1, len(names) - 2))]
        models = {role: read_p_yes(name, args.task or "tinyworld") for role, name in zip(roles, names)}
        print("\n".join(check_up(read_truth(args.truth, args.task or "tinyworld"), models, args.metric)))
        return
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
        figures[task] = report_task(task, measured, args.html)
    if args.docs:
        measured["cdeval"] = measured.get("cdeval", {}) | culture_texts(find_runs("cdeval")[0])
        update_docs(pages, measured, figures)


if __name__ == "__main__":
    run_script(main)
