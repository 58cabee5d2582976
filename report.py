"""
Every finished run of a task, over its seeds, in one report: tables, figures, one debate to read.

$ python report.py                          # all tasks that have runs
$ python report.py --task tinyworld
$ python report.py --html                   # also one page to look at: charts, rows to read, debates, audits
$ python report.py --docs                   # also fill the tables of README.md and docs/results from these runs
$ python report.py --task tickets --check fused,student,ceiling     # is this result sound? any label files will do

Needs   contract.py, metrics.py, models.py, train_weak.py, page.py, data/tasks.py, and sft.py, align_tasks.py,
        debate.py, cdeval.py, since it prints their tables and one debate; page.html for --html, data/measured.py for
        --docs
Reads   data/<task>/seed*/<run>/{results.json, labels.jsonl}, data/<task>/test.jsonl, and cdeval.py's runs in
        data/cdeval/
Writes  data/<task>/report.md and prints it: a table for each stage, mean over seeds; one debate; the cultural
        orientations (the same in every report: they belong to no task). With matplotlib also report-*.png.
        --html: data/<task>/report.html, which opens from disk (page.py)
        --docs: data/measured.json, the tables and figures of this project's pages, and the accuracies in course/
        (data/measured.py)

Intervals are 95 % by bootstrap over questions and over seeds (metrics.bootstrap). With one seed they do not include the
variation between seeds: run three or more before you believe a difference. "minus student" is the paired difference to
the naive student, on the same questions and seeds. "helps" or "costs" stands there only if its interval is clear of 0.

Runs of one name with different flags are different rows, and these name the flags. A run whose inputs have changed
since is named as stale and left out. A stage without any run is named as missing.
"""
import argparse
import functools
import glob
import json
import os
import re
from collections import defaultdict

import numpy as np

import align_tasks
import cdeval
import debate
import page
from contract import (
    ROOT, escape_markdown, fail, fingerprint, is_text, labels_folder, may_have_gaps, note_if_edited, plain, read_config,
    read_jsonl, read_label_file, read_labels, read_results, read_rows, reject_damaged, replacing, run_folder,
    run_script, table_lines, task_name, write_file)
from data.tasks import is_corrected
from metrics import (
    METRIC_NAMES, METRICS, all_metrics, auroc, bootstrap, bootstrap_scores, compare_models, correct, ece,
    format_difference, format_metrics, pgr, pick_metric)

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
        if os.path.basename(os.path.dirname(folder)) != f"seed{config.get('seed')}":     # it would count as one more
            print(f"left out: {os.path.relpath(folder, ROOT)} was made with --seed {config.get('seed')}: a copy?")
            continue
        is_current = align_tasks.is_current(config, cached_fingerprint) and not is_corrected(folder, task)
        if str(config.get("role")) in STAGE_OF_ROLE and is_current:
            runs[os.path.basename(folder), json.dumps(flags_of(config))].append((folder, results))
            labels = os.path.join(folder, "labels.jsonl")
            if os.path.exists(labels):
                note_if_edited(labels, cached_fingerprint(labels))
        else:
            stale.append(os.path.relpath(folder, ROOT))
    return list(runs.values()), stale


def flags_of(config):
    """What a run was told, without its seed -> {flag: value}"""
    flags = json.dumps({key: value for key, value in config.items() if key not in ("seed", "inputs", "code")})
    return json.loads(re.sub(r"seed\d+", "seed*", flags))


def name_flags(rows):
    """
    Rows of one run's name differ in some flags. Write these into row["flags"], which is "" for all other rows.

    >>> rows = [{"run": "a", "stage": "s", "config": {"lr": 0.1, "epochs": n, "hard": n > 2}} for n in (2, 4)]
    >>> [row["flags"] for row in name_flags(rows)]
    [' (--epochs 2, no --hard)', ' (--epochs 4, --hard)']
    """
    for row in rows:
        same = [flags_of(other["config"]) for other in rows
                if (other["run"], other["stage"]) == (row["run"], row["stage"])]
        told = []
        for key, value in flags_of(row["config"]).items():
            if key != "role" and any(flags.get(key) != value for flags in same):
                flag = "--" + key.replace("_", "-")
                if value is False or value is None or value == "":
                    told.append(f"no {flag}")
                else:
                    text = ",".join(map(str, value)) if isinstance(value, list) else value
                    told.append(flag if value is True else f"{flag} {text}")
        row["flags"] = f" ({', '.join(told)})" if told else ""
    return rows


def stage_of(runs):
    """A list of (folder, results) -> the script that made them"""
    return STAGE_OF_ROLE[runs[0][1]["config"]["role"]]


@functools.cache
def predictions_on_test(task, folder, max_rows):
    """A run's labels of test: (N,) p(yes), and where its verdict is correct, (N,); nan where an annotator has none"""
    test = read_rows(task, "test", max_rows)
    p_yes = read_labels(folder, test, gaps=may_have_gaps(folder))[:, 1]
    return p_yes, np.where(np.isnan(p_yes), np.nan, correct(p_yes, [row["label"] for row in test]))


def predictions_of(on, configs, *models):
    """
    predictions_on_test of M models on test of the task `on` -> (S, M, 2, N)

    configs   of the S runs, one for each seed; models: M lists of the names or folders of S runs
    """
    found = []
    for config, *names in zip(configs, *models):
        folders = [labels_folder(name, config["task"], config["seed"]) for name in names]
        found.append([predictions_on_test(on, folder, config["max_rows"]) for folder in folders])
    return np.array(found)


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


def describe_accuracy(on, configs, folders):
    """Test accuracy of S runs, one for each seed, on the task `on` -> [mean, low, high], and texts {column: text}"""
    test = read_rows(on, "test", configs[0]["max_rows"])
    hits = predictions_of(on, configs, folders)[:, :, 1]
    low, high = np.percentile(bootstrap(hits, [row["group"] for row in test]), [2.5, 97.5]).clip(0, 1)
    accuracy = [float(hits.mean()), low, high]
    return accuracy, {"accuracy [95 %]": format_interval(*accuracy), **accuracy_by_kind(test, hits)}


def describe_pgr(on, configs, *models):
    """
    PGR of S runs, one for each seed, on test of the task `on`, in the metric of their comparison (--metric; "auto"
    looks at the classes of that test) -> (the number, None without one; text)

    models   supervisors, students and ceilings, as in predictions_of
    """
    test = read_rows(on, "test", configs[0]["max_rows"])
    probs, hits = np.moveaxis(predictions_of(on, configs, *models), 2, 0)
    known = np.isfinite(hits).all((0, 1))                  # annotators may have labelled a part of test, or nothing
    if not known.any():
        return None, "no labels"
    truth, groups = (np.array([row[key] for row in test])[known] for key in ("label", "group"))
    metric = pick_metric(configs[0].get("metric", "auto"), truth)
    if metric == "auroc":
        value = pgr(*np.mean([[auroc(p, truth) for p in of_seed] for of_seed in probs[..., known]], axis=0))
        return None, "no gap (AUROC)" if np.isnan(value) else f"{value:.2f} (AUROC)"
    found = align_tasks.recovered(hits[..., known], None if metric == "accuracy" else truth, groups)
    if "pgr" not in found:
        return None, "no gap"
    of = "" if metric == "accuracy" else f" ({METRIC_NAMES[metric]})"
    return found["pgr"], align_tasks.format_pgr(found["pgr"], found["interval"]) + of


def describe_runs(task, runs):
    """
    Everything a table may hold about runs that differ in their seed alone: {column: text}, with "accuracy" (mean, low,
    high) and "pgr" as numbers for the figures. Students are scored beside their supervisor and ceiling, on the same
    draws of questions and seeds; others beside `weak`.
    """
    folders = [folder for folder, _ in runs]
    configs = [results["config"] for _, results in runs]
    config = configs[0]
    test = read_rows(task, "test", config["max_rows"])
    truth = np.array([row["label"] for row in test])
    groups = [row["group"] for row in test]
    stage = stage_of(runs)
    accuracy, texts = describe_accuracy(task, configs, folders)
    probs = predictions_of(task, configs, folders)[:, 0, 0]
    codes = {json.dumps(c.get("code"), sort_keys=True) for c in configs}
    row = {"run": os.path.basename(folders[0]), "stage": stage, "config": config,
           "model": os.path.basename(config["model"]),
           "learns from": config.get("labels") or config.get("evaluator") or config.get("supervisors") or "train1",
           "mixed code": [c["seed"] for c in configs] if len(codes) > 1 else [],
           "seeds": str(len(runs)), "n": f"{len(test):,}", "accuracy": accuracy, **texts,
           "AUROC": f"{np.mean([auroc(p, truth) for p in probs]):.3f}",
           "ECE": f"{np.mean([ece(p, truth) for p in probs]):.2f}",
           "says yes": f"{np.mean([(p > 0.5).mean() for p in probs]):.2f}",
           "seconds": f"{np.mean([results['seconds'] for _, results in runs]):.0f}"}
    if config.get("judge") in ("prompted", "human"):       # debate.py: it is trained on nothing
        row |= {"learns from": "nothing"} | ({"model": "human"} if config["judge"] == "human" else {})
    if stage == "auto_align.py":
        row |= describe_rounds([results["rounds"] for _, results in runs], runs[0][1].get("labels_to_choose", 0))
    if stage == "ensemble.py":
        used = sorted(results.get("members_used") or len(results["supervisors"]) for _, results in runs)
        row["members used"] = f"{used[0]}-{used[-1]}" if used[0] < used[-1] else str(used[0])
    notes = [results.get("by_transcript", {}).get("yes if the note states the answer") for _, results in runs]
    if all(notes):                                         # debate.py's control, a rule that judges without a model
        row["string match"] = f"{np.mean([note['correct'] for note in notes]):.3f}"
    if also := config.get("also"):                         # another task, which nothing was trained on
        there = describe_accuracy(also, configs, folders)[1]
        row[f"on {also} [95 %]"] = there.pop("accuracy [95 %]")
        row |= {f"{also}: {kinds}": text for kinds, text in there.items()}
    if (pair := hits_beside("weak", task, configs, folders)) is not None:
        weak, own = pair
        gain = align_tasks.paired_difference(own, weak, None, groups)
        row["gain over single [95 %]"] = format_interval(*gain, "{:+.3f}")
        row["knew / did not"] = format_split(own, weak)
    baseline = "rule-student" if config.get("labels") == "rule" else BASELINES.get(stage)
    if "ceiling" in config["role"]:
        baseline = None
    if baseline and (pair := hits_beside(baseline, task, configs, folders)) is not None:
        difference = align_tasks.paired_difference(pair[1], pair[0], None, groups)
        row[f"minus {baseline} [95 %]"] = format_difference(*difference)
    return row | describe_comparison(task, runs)


def hits_beside(name, task, configs, folders):
    """
    The hits of the run `name` and of these S runs, each (S, N). None if they are that run, or if a seed has no such run
    on the same rows.
    """
    baseline = [run_folder(name, task, c["seed"]) for c in configs]
    files = [os.path.join(folder, end) for folder in baseline for end in ("labels.jsonl", "results.json")]
    if os.path.basename(folders[0]) == name or not all(map(os.path.exists, files)):
        return None
    its = [read_config(folder) for folder in baseline]
    if any(i.get("max_rows") != c["max_rows"] or i.get("role") == "writer" for i, c in zip(its, configs)):
        return None
    return predictions_of(task, configs, baseline, folders)[:, :, 1].swapaxes(0, 1)


def describe_comparison(task, runs):
    """Students beside their supervisor and ceiling -> {column: text}, and "pgr", a number; {} without a ceiling"""
    folders = [folder for folder, _ in runs]
    configs = [results["config"] for _, results in runs]
    ceilings = [results.get("ceiling", c.get("ceiling")) for c, (_, results) in zip(configs, runs)]
    several = any("," in str(ceiling) for ceiling in ceilings)       # auto_align.py before it kept the one it used
    if not all(ceilings) or several or not all(results.get("comparison", True) for _, results in runs):
        return {}
    supervisors = [results.get("supervisor") or c.get("supervisor") or c.get("labels") or c["evaluator"]
                   for c, (_, results) in zip(configs, runs)]
    for k, folder in enumerate(folders):
        if os.path.exists(os.path.join(folder, "evaluator", "labels.jsonl")):            # auto_align.py: as it began
            supervisors[k] = os.path.join(folder, "evaluator")
    number, text = describe_pgr(task, configs, supervisors, folders, ceilings)
    row = {"PGR [95 %]": text} | ({"pgr": number} if number is not None else {})
    if also := configs[0].get("also"):
        row[f"PGR on {also} [95 %]"] = describe_pgr(also, configs, supervisors, folders, ceilings)[1]
    sources = [c.get("labels") for c in configs] if configs[0].get("labels") else supervisors
    source, own = predictions_of(task, configs, sources, folders)[:, :, 1].swapaxes(0, 1)
    return row | {"agrees where right / wrong": format_split(own == source, source)}


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
    rows = [[escape_markdown(name), *(cells[title] for title in columns)] for name, cells in texts.items()]
    return "\n".join(["## best of n samples by a reward model: sft.py --reward", "",
                      "Means over seeds [lowest, highest].", "",
                      *table_lines(["writer, reward model", *columns], rows), ""])


def describe_rounds(seeds, bought=0):
    """
    Phase 2, a list of rounds for each seed: the evaluator's accuracy before and after every round, that of each round's
    student before training, calibrated like the evaluator (the control), attacks that fool the last learner, rejected
    updates, and the number of true labels bought, `bought` of them before the first round.
    """
    untrained = np.mean([[r["untrained"]["accuracy"] for r in rounds] for rounds in seeds], 0)
    path = np.mean([page.evaluator_path(rounds) for rounds in seeds], 0)
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


def fenced_lines(lines):
    """Lines of any text -> the same as a block of a Markdown page; no line of it can end the block."""
    text = plain("\n".join(lines))
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return [fence + "text", *text.split("\n"), fence]


def markdown_report(task, rows, stale, debate_text="", culture_text="", task_table="", left_out=()):
    """
    -> markdown: a table for each stage that has runs, with a debate below oversight; cultures; the task's table

    left_out   stages with runs that are in no table
    """
    order = {"weak": 0, "student": 1, "ceiling": 3}
    lines = [f"# {task}, test accuracy" if rows else f"# {task}", ""]
    missing = []
    name_flags(rows)
    for stage, (title, more) in STAGES.items():
        stage_rows = [row for row in rows if row["stage"] == stage]
        stage_rows.sort(key=lambda row: (order.get(row["run"], 2), row["run"], row["model"]))
        if not stage_rows:
            missing += [stage] if stage not in left_out else []
            continue
        columns = ["run", "model", "learns from", "seeds", "accuracy [95 %]", "ECE", *more, "n"]
        cells = []
        for row in stage_rows:                             # names come from folders and flags, numbers from here
            names = {key: escape_markdown(row[key]) for key in ("model", "learns from")}
            names["run"] = escape_markdown(row["run"] + row["flags"])
            cells.append([(row | names).get(column, "") for column in columns])
        lines += [f"## {title}: {stage}", "", *table_lines(columns, cells), ""]
        if stage == "debate.py" and debate_text:
            lines.append(debate_text)
    if any(row["seeds"] == "1" for row in rows):
        lines += ["Rows with one seed: their intervals are about questions alone. Another seed may lie outside.", ""]
    if culture_text:
        lines.append(culture_text)
    else:
        missing.append("cdeval.py")
    lines += [f"note: {escape_markdown(row['run'])}: seeds {', '.join(map(str, row['mixed code']))} were made by "
              f"different versions of {row['stage']}" for row in rows if row.get("mixed code")]
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
    width = max(7, 3.5 + 0.08 * max(map(len, names), default=0))               # inches: long names do not take the axis
    figure, axes = new_figure(chart, (width, 1.7 + 0.21 * len(names)))
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
                bars = [[max(0, m["mean"] - m["low"])], [max(0, m["high"] - m["mean"])]]         # not -1e-17
                axes.errorbar(m["mean"], y, xerr=bars, marker="os"[k], color=COLOURS[k], capsize=2, label=m["kind"])
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


# --------------------------------------------------------------------------- a check-up of label files

def read_truth(path, task):
    """--truth, rows of {"id", "label"} and perhaps "group"; without it test of the task -> rows"""
    rows = read_jsonl(path) if path else read_rows(task, "test")
    seen = set()
    for number, row in enumerate(rows, 1):
        if row.get("label") not in (0, 1) or not isinstance(row.get("id"), str):
            fail(f"{path}, line {number}: not {{\"id\": ..., \"label\": 0 or 1}}")
        if row["id"] in seen:
            fail(f"{path}, line {number}, id {row['id']!r} occurs twice")
        if not is_text(group := row.get("group", row["id"])) and type(group) is not int:
            fail(f"{path}, line {number}: 'group' must be a text or a whole number, not {str(group)[:60]!r}. Leave it "
                 "out if every row is a question of its own")
        seen.add(row["id"])
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
    Is a weak-to-strong result sound? N rows with id, group, label; models {"supervisor", "student", "ceiling",
    controls: (N, 2) soft labels, nan where there is none} -> lines. It needs label files only, whoever made them.
    """
    known = np.isfinite(list(models.values())).all((0, 2))
    common = [row for row, is_known in zip(rows, known) if is_known]
    if not common:
        fail("--check: no row of the truth has a label of all these models; are they of one task?")
    labels = np.array([row["label"] for row in common])
    groups = [row["group"] for row in common]
    soft = {name: soft_labels[known] for name, soft_labels in models.items()}
    p = {name: soft_labels[:, 1] for name, soft_labels in soft.items()}
    c = compare_models(common, soft["supervisor"], soft["student"], soft["ceiling"], metric)
    n_groups = len(set(groups))
    lines = [f"truth: {len(common):,} of {len(rows):,} rows have all labels; {n_groups:,} groups, {labels.mean():.0%} "
             f"yes; compared by {METRIC_NAMES[c['metric']]}"]
    lines += [format_metrics(name, all_metrics(soft[name], common)) for name in models]
    draws = bootstrap_scores(c["metric"], [p["supervisor"], p["ceiling"]], labels, groups)
    low, high = np.percentile(draws[:, 1] - draws[:, 0], [2.5, 97.5])
    verdict = "there is a gap" if low > 0 else "the gap is within its noise, so a PGR says nothing"
    if high < 0:
        verdict = "the ceiling is below the supervisor: no gap to recover"
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

def report_task(task, as_html=False):
    """
    One task: print and write its report -> (rows of describe_runs; texts of its other tables, {run: {column: text}};
    paths of its figures)
    """
    found, stale = find_runs(task)
    unmeasured = [runs for runs in found if not all(is_measured(task, results) for _, results in runs)]
    found = [runs for runs in found if runs not in unmeasured]
    left_out = {stage_of(runs) for runs in unmeasured}     # stages that are not missing, though no table has them
    left_out |= {STAGE_OF_ROLE.get(str(read_config(os.path.join(ROOT, name)).get("role"))) for name in stale}
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
    for name, _ in (run for runs in unmeasured for run in runs):
        print(f"left out: {os.path.relpath(name)}. There are no true labels of test, or it labels a part of them")
    text = markdown_report(task, rows, stale, one_debate(task, found), culture_text,
                           task_table + best_of_table(best_of), left_out)
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
    return rows, task_texts | best_of, figures


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
    parser.add_argument("--docs", action="store_true",
                        help="fill the tables of README.md and docs/results and the accuracies in course/, too")
    return parser


def main(argv=None):
    args = build_parser().parse_args(argv)
    if not args.check and (args.truth or args.metric != "auto"):
        fail("--truth and --metric belong to --check SUPERVISOR,STUDENT,CEILING")
    if args.check:
        names = args.check.split(",")
        if len(names) < 3:
            fail("--check needs three label files: SUPERVISOR,STUDENT,CEILING")
        task = args.task or "tinyworld"
        roles = ["supervisor", "student", "ceiling", *(f"control {k}" for k in range(1, len(names) - 2))]
        rows = read_truth(args.truth, task)
        models = {}
        for role, name in zip(roles, names):
            path = name if os.path.isfile(name) else os.path.join(labels_folder(name, task, 0), "labels.jsonl")
            models[role] = read_label_file(path, rows, gaps=True)
        print("\n".join(check_up(rows, models, args.metric)))
        return
    paths = glob.glob(os.path.join(ROOT, "data", args.task or "*", "seed*", "*", "results.json"))
    tasks = sorted({path.split(os.sep)[-4] for path in paths})
    if not tasks:
        fail(f"no finished run under data/{args.task or ''}. Make one first:  bash run.sh")
    if args.docs:
        from data.measured import fill_docs, pages_with_tables
        pages_with_tables()                                # now, and not after all the reports
    cached_fingerprint.cache_clear()                       # a notebook may call main() again after new runs
    predictions_on_test.cache_clear()
    reports = {}
    for task in [task for task in tasks if task != "cdeval"] or tasks:     # cdeval's tables stand in every report
        reports[task] = report_task(task, args.html)
    if args.docs:
        fill_docs(reports, culture_texts(find_runs("cdeval")[0]))


if __name__ == "__main__":
    run_script(main)
