"""
What a report shows beside its numbers: charts, rows to read, debates, audits. And report.html, the page that holds it.

$ python report.py --html                   # data/<task>/report.html: one file, opens from disk, needs no network

report.py computes the numbers and writes the page. Every chart is a plain dict here; report.py draws it with
matplotlib, page.html draws the same dict in the browser. There are two kinds:

    lines   {"lines": [{"name", "x", "mean", "low", "high"}], "levels": [{"name", "at"}], "ticks": [[x, text]], ...}
    dots    {"groups": [{"name", "dots": [{"name", "run", "marks": [{"kind", "mean", "low", "high"}]}]}], "levels", ...}

Both have "title", "xlabel", "ylabel" and "bars", which says what the error bars are.

The page shows rows, debates and audits of one seed, the first with supervisor, student and ceiling; tables and charts
have all seeds. What has no run yet is named with the command that makes it. Texts come from anybody's files: they are
written into the page as JSON without a single "<", and the browser puts them in as text.

Needs   contract.py, metrics.py, page.html
"""
import functools
import html
import json
import os
import re
import shlex

import numpy as np

from contract import ROOT, is_pair, labels_folder, plain, read_jsonl, read_rows, read_text, write_file
from metrics import correct, ece

MAX_TEXT = 600                       # characters of a row's text on the page
MAX_TEXTS = 400_000                  # characters of all rows together: a long test set is cut, and the page says so
MAX_DEBATES = 40                     # rows of test whose transcripts are on the page, for each run of debate.py
WITHOUT_LABELS = ("writer", "table", "culture")            # roles of runs that do not label test
DEFAULT_RUNS = {"supervisor": "weak", "student": "student", "ceiling": "ceiling"}


# --------------------------------------------------------------------------- readable names

LOSS_NAMES = {"logconf": "confidence loss", "logconf-released": "confidence loss, as released",
              "product": "product with its own probabilities", "window": "learns where it is unsure",
              "entropy": "penalty on unsure predictions"}
CLEAN_NAMES = {"confident": "most confident labels", "knn": "labels that neighbours confirm",
               "logistic": "labels that a linear model confirms"}
PROBE_NAMES = {"only": "probe: last layer alone", "first": "probe, then fine-tuning",
               "after": "fine-tuning, then probe"}
PICK_NAMES = {"random": "random", "uncertain": "unsure", "disagree": "disputed"}
HELP_NAMES = {"interaction": "notes by {}", "consultancy": "consultant {}", "debate": "debate of two {}",
              "support": "gold notes", "none": "no help"}
MEMBER_NAMES = {"data": "resampled rows", "features": "parts of the features", "layers": "different layers",
                "models": "different models"}


def name_ensemble(config):
    """
    >>> name_ensemble({"by": "models", "method": "bagging", "combine": "bma"})
    'different models, bma'
    """
    parts = [config.get("method"), MEMBER_NAMES.get(config.get("by"), config.get("by")), config.get("combine")]
    return ", ".join(part for part in parts if part and part not in ("bagging", "mean"))


def name_supervisor(config, run):
    """A short readable name of a supervisor, from the flags of its run"""
    if config.get("role") == "oversight" and config.get("mode") in HELP_NAMES:
        return HELP_NAMES[config["mode"]].format(config.get("assistant"))
    if config.get("role") == "ensemble":
        return f"{config.get('members')} members: {name_ensemble(config)}"
    return run


def name_rounds(config):
    """
    Phase 2: the rounds, and what differs from auto_align.py's defaults

    >>> name_rounds({"evaluator": "weak", "ladder": "tiny-4", "audit": 48})
    '1 round of tiny-4, 48 audits'
    >>> name_rounds({"evaluator": "data/task-coin/seed0/weak", "ladder": "tiny-2,tiny-4", "audit": 16, "doubt": 0.0})
    '2 rounds, tiny-2 to tiny-4, from task-coin/weak, no notes'
    """
    get = config.get
    ladder = [os.path.basename(model) for model in str(get("ladder")).split(",")]
    models = f" of {ladder[0]}" if len(set(ladder)) == 1 else f", {ladder[0]} to {ladder[-1]}"
    parts = [count(len(ladder), "round") + models]
    starts = str(get("evaluator")).split(",")
    if len(starts) > 1:
        parts.append(f"from the best of {len(starts)}")
    elif starts != ["weak"]:
        place = [part for part in starts[0].split("/") if part != "data" and not part.startswith("seed")]
        parts.append("from " + "/".join(place[-2:]))
    if get("update", "student") != "student":
        parts.append(f"update: {get('update')}")
    if get("audit", 16) != 16:
        parts.append(f"{get('audit') or 'no'} audits")
    parts += [f"no {name}" for key, name in (("attack_share", "attacks"), ("doubt", "notes")) if get(key) == 0]
    if get("pairwise"):
        parts.append("pairs too")
    if get("loss", "xent") != "xent":
        parts.append(LOSS_NAMES.get(get("loss"), get("loss")))
    return ", ".join(parts)


def name_student(config, run, supervisors):
    """
    A student's flags -> (group of methods, readable name). supervisors: {run: readable name}

    >>> name_student({"labels": "weak", "loss": "logconf"}, "student-x", {})
    ('losses', 'confidence loss')
    >>> name_student({"labels": "crowd", "supervisor": "weak"}, "student-crowd", {"crowd": "3 members"})
    ('other supervisors', '3 members')
    """
    get = config.get
    if get("role") == "align":
        return "phase 2", name_rounds(config)
    budget = get("truth_budget")
    parts = []
    if get("control") == "untrained":
        parts.append(("controls", f"no training, calibrated on {budget} true labels" if budget else "no training"))
        budget = 0
    if get("control") == "dealt":
        parts.append(("controls", "errors dealt to random rows"))
    if get("labels") != (get("supervisor") or "weak") and get("labels") in supervisors:
        parts.append(("other supervisors", supervisors[get("labels")]))
    if get("loss", "xent") != "xent":
        parts.append(("losses", LOSS_NAMES.get(get("loss"), get("loss"))))
    if get("hard"):
        parts.append(("losses", "labels rounded to 0 and 1"))
    if get("clean", "none") != "none":
        parts.append(("fewer labels", f"{CLEAN_NAMES.get(get('clean'), get('clean'))}, {get('keep'):.0%} kept"))
    if budget:
        parts.append(("a few true labels", f"{budget} true labels, {PICK_NAMES.get(get('pick'), get('pick'))} rows"))
    if get("early_stop"):
        parts.append(("early stopping", "by the weak labels of valid"))
    if get("oracle_stop"):
        parts.append(("early stopping", "by the truth of valid (cheating)"))
    if get("chain"):
        parts.append(("several students", " → ".join(get("chain").split(","))))
    if get("generative_steps"):
        parts.append(("other training", "reads the task's texts first"))
    if get("probe", "none") != "none":
        parts.append(("other training", PROBE_NAMES.get(get("probe"), get("probe"))))
    if not parts:
        return "naive", "naive student" if run == "student" else run
    return parts[0][0], ", ".join(text for _, text in parts)


GROUPS = ("naive", "losses", "fewer labels", "a few true labels", "other supervisors", "early stopping",
          "other training", "several students", "phase 2", "controls")


def tell_apart(items):
    """Of dicts with "name" and "run", those with one name get their run's name, too."""
    names = [item["name"] for item in items]
    for item in items:
        if names.count(item["name"]) > 1:
            item["name"] = f"{item['name']} ({item['run']})"
    return items


def count(n, noun):
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


# --------------------------------------------------------------------------- charts
# Each function has the same arguments and returns a chart, or None where no run has what it shows.
# rows    report.describe_runs' dicts: "run", "stage", "config", "accuracy" (mean, low, high), "seeds", "pgr", ...
# found   report.find_runs' lists of (folder, results), one list for the runs that differ in their seed alone


def run_name(runs):
    return os.path.basename(runs[0][0])


def config_of(runs):
    return runs[0][1]["config"]


def supervisor_names(rows):
    return {row["run"]: name_supervisor(row["config"], row["run"]) for row in rows}


def find_levels(rows, *names):
    """The accuracy of `weak` and `ceiling` as lines across a chart"""
    titles = {"weak": "supervisor", "ceiling": "ceiling"}
    return [{"name": titles[row["run"]], "at": row["accuracy"][0]} for name in names for row in rows
            if row["run"] == name]


def mean_line(name, x, seeds):
    """
    A line of means over seeds, from the worst to the best one. seeds (S, len(x))

    >>> mean_line("a", [0], [[0.1]] * 3)["mean"]           # and not 0.10000000000000002, above the best seed
    [0.1]
    """
    a = np.array(seeds, float)
    low, high = a.min(0), a.max(0)
    return {"name": f"{name}, {count(len(a), 'seed')}", "x": list(x), "mean": a.mean(0).clip(low, high).tolist(),
            "low": low.tolist(), "high": high.tolist()}


SEED_BARS = "error bars: worst and best seed"
INTERVAL_BARS = "error bars: 95 % intervals over questions and seeds"


def elicitation_chart(runs, rows):
    """
    A student's agreement with the truth and with its supervisor's labels over the steps of training, on valid. The
    x-axis is log2(1 + step), so that step 0 has its place.
    """
    curves = [results.get("curve") for _, results in runs]
    if not all(curves) or len({len(curve) for curve in curves}) > 1:
        return None
    if any(None in point.values() or "agrees_with_truth" not in point for curve in curves for point in curve):
        return None                                        # valid without labels or without truth; icl.py's curve
    steps = [point["step"] for point in curves[0]]
    x = np.log2(1 + np.array(steps)).tolist()
    lines = [mean_line(label, x, [[point[key] for point in curve] for curve in curves])
             for key, label in (("agrees_with_truth", "correct"), ("agrees_with_labels", "same as its supervisor"))]
    ticks = [[at, str(step)] for at, step in zip(x, steps) if step & (step - 1) == 0 or step == steps[-1]]
    return {"title": "elicitation, then imitation", "lines": lines, "levels": find_levels(rows, "weak", "ceiling"),
            "ticks": ticks, "xlabel": "training step", "ylabel": "share of valid", "bars": SEED_BARS}


def elicitation(rows, found):
    """Of the run with many epochs if there is one, else of the naive student"""
    by_name = {run_name(runs): runs for runs in found if config_of(runs)["role"] == "student"}
    runs = by_name.get("student-long") or by_name.get("student")
    return elicitation_chart(runs, rows) if runs else None


def mark(kind, row):
    mean, low, high = row["accuracy"]
    return {"kind": kind, "mean": mean, "low": low, "high": high}


def students(rows, found):
    """
    Each run with a PGR between supervisor and ceiling, the methods in groups, the best of a group on top. Students of
    another supervisor than `weak`, or of an evaluator from another task, are left out: it is another gap.
    """
    shown = [row for row in rows if row.get("pgr") is not None and row["stage"] in ("train_strong.py", "auto_align.py")]
    if any(row["run"] == "weak" for row in rows):
        shown = [row for row in shown if (row["config"].get("supervisor") or row["config"].get("labels")) == "weak"
                 or row["stage"] == "auto_align.py" and "/" not in row["config"]["evaluator"].replace(os.sep, "/")]
    if not shown:
        return None
    names = supervisor_names(rows)
    by_group = {}
    for row in sorted(shown, key=lambda row: -row["accuracy"][0]):
        group, name = name_student(row["config"], row["run"], names)
        by_group.setdefault(group, []).append({"name": name, "run": row["run"], "seeds": row["seeds"],
                                               "marks": [mark("student", row)]})
    groups = [{"name": name, "dots": tell_apart(by_group[name])} for name in GROUPS if name in by_group]
    return {"title": "students between supervisor and ceiling", "groups": groups, "kinds": ["student"],
            "levels": find_levels(rows, "weak", "ceiling"), "xlabel": f"test accuracy, n={shown[0]['n']}",
            "bars": INTERVAL_BARS}


def oversight(rows, found):
    """The judge with each kind of help, and the student trained on its labels"""
    judges = [row for row in rows if row["stage"] == "debate.py" or row["run"] == "weak"]
    if len(judges) < 2:
        return None
    by_run = {row["run"]: row for row in rows}
    dots = []
    for judge in sorted(judges, key=lambda row: -row["accuracy"][0]):
        run = judge["run"]
        student = by_run.get("student" if run == "weak" else "student-" + run)
        name = "no help" if run == "weak" else name_supervisor(judge["config"], run)
        marks = [mark("judge", judge)] + ([mark("student", student)] if student else [])
        dots.append({"name": name, "run": run, "seeds": judge["seeds"], "marks": marks})
    return {"title": "judges with help, and the students that they teach",
            "groups": [{"name": "", "dots": tell_apart(dots)}], "kinds": ["judge", "student"],
            "levels": find_levels(rows, "ceiling"), "xlabel": f"test accuracy, n={judges[0]['n']}",
            "bars": INTERVAL_BARS}


def ensembles(rows, found):
    """Test accuracy over the number of members, a line for each kind of ensemble"""
    lines = []
    for runs in sorted(found, key=run_name):
        if config_of(runs)["role"] == "ensemble" and "curve" in runs[0][1]:
            seeds = [[point["test"]["accuracy"] for point in results["curve"]] for _, results in runs]
            n = min(map(len, seeds))                       # boosting may stop early with some seeds
            line = mean_line(name_ensemble(config_of(runs)), range(1, n + 1), [seed[:n] for seed in seeds])
            lines.append({**line, "run": run_name(runs)})
    if not lines:
        return None
    most = max(line["x"][-1] for line in lines)
    return {"title": "ensembles of supervisors", "lines": tell_apart(lines), "levels": find_levels(rows, "weak"),
            "ticks": [[k, str(k)] for k in range(1, most + 1)], "xlabel": "members", "ylabel": "test accuracy",
            "bars": SEED_BARS}


def icl_curves(rows, found, key, title):
    """icl.py's accuracy over the number of demonstrations ("shots") or of flipped labels ("noise")"""
    shown = []
    for runs in sorted(found, key=run_name):
        curves = [results.get("curve") or [{}] for _, results in runs]
        values = [point.get(key) for point in curves[0]]
        if len(values) > 1 and None not in values and len(set(values)) == len(values):
            shown.append((runs, curves, values))
    if not shown:
        return None
    place = {value: k for k, value in enumerate(sorted({value for *_, values in shown for value in values}))}
    lines = []
    for runs, curves, values in shown:
        labels = config_of(runs)["labels"]
        name = "true labels" if labels == "truth" else f"labels of {labels}"
        line = mean_line(name, [place[value] for value in values],
                         [[point["accuracy"] for point in curve] for curve in curves])
        lines.append({**line, "run": run_name(runs)})
    return {"title": f"in-context learning: {title}", "lines": tell_apart(lines),
            "levels": [{"name": "chance", "at": 0.5}], "ticks": [[k, str(value)] for value, k in place.items()],
            "xlabel": f"{title} in the prompt (one prompt)", "ylabel": "test accuracy", "bars": SEED_BARS}


def evaluator_path(rounds):
    """The evaluator's accuracy before the first round, and after each one"""
    return [rounds[0]["evaluator"][0]["accuracy"]] + [r["evaluator"][1]["accuracy"] for r in rounds]


def rounds(rows, found):
    """Phase 2: evaluator, learner and control over the rounds of `align`; the ceiling as a level"""
    aligned = [runs for runs in found if config_of(runs)["role"] == "align" and run_name(runs) == "align"]
    if not aligned:
        return None
    seeds = [results["rounds"] for _, results in aligned[0]]
    n = len(seeds[0])
    lines = [mean_line("evaluator", range(n + 1), [evaluator_path(s) for s in seeds])]
    for key, name in (("learner_test", "learner"), ("untrained", "untrained, calibrated like the evaluator")):
        lines.append(mean_line(name, range(1, n + 1), [[r[key]["accuracy"] for r in s] for s in seeds]))
    ticks = [[0, "start"]] + [[k + 1, f"{k + 1}: {r['student']}"] for k, r in enumerate(seeds[0])]
    return {"title": "phase 2: evaluator and learner over the rounds", "lines": lines,
            "levels": find_levels(rows, "ceiling"), "ticks": ticks, "xlabel": "round", "ylabel": "test accuracy",
            "bars": SEED_BARS}


CHARTS = {"elicitation": elicitation, "students": students, "ensembles": ensembles, "oversight": oversight,
          "shots": functools.partial(icl_curves, key="shots", title="demonstrations"),
          "noise": functools.partial(icl_curves, key="noise", title="flipped labels"), "rounds": rounds}


def draw_charts(rows, found):
    """-> {name: chart} of all charts that there are runs for"""
    charts = {name: function(rows, found) for name, function in CHARTS.items()}
    return {name: chart for name, chart in charts.items() if chart}


# --------------------------------------------------------------------------- the parts of the page

def read_tables(markdown):
    """
    The tables of a Markdown report -> [{"title", "columns", "rows"}], rows of texts

    >>> read_tables("## students\\n\\n| run | n |\\n|---|---|\\n| a\\\\|b | 3 &lt; 4 |")
    [{'title': 'students', 'columns': ['run', 'n'], 'rows': [['a|b', '3 < 4']]}]
    """
    tables = []
    title = fence = ""
    open_table = False
    for line in markdown.split("\n"):
        if line.startswith("```") and not fence:           # what a fence holds, such as a debate, is anybody's text
            fence = re.match("`+", line)[0]
        elif fence:
            fence = "" if line == fence else fence
        elif line.startswith("|"):
            cells = [html.unescape(re.sub(r"\\([|`*\[\]])", r"\1", cell)).strip()
                     for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if not open_table:
                tables.append({"title": title, "columns": cells, "rows": []})
            elif not line.startswith("|---"):
                tables[-1]["rows"].append(cells)
        open_table = line.startswith("|")
        if line.startswith("#"):
            title = line.lstrip("# ")
    return tables


def first_numbers(text):
    """
    >>> first_numbers("0.889 [0.866, 0.910]")
    [0.889, 0.866, 0.91]
    """
    return [float(x) for x in re.findall(r"-?\d+\.?\d*", text)][:3]


def choose_roles(rows):
    """
    Which run is the supervisor, the student, the ceiling? `weak`, `student` and `ceiling` if they exist; in a table of
    your own the first student, what it learns from, and its ceiling. Nothing is chosen by its score.

    returns   {role: row of describe_runs}, only those that exist
    """
    by_run = {row["run"]: row for row in reversed(rows)}
    of_role = {role: [row for row in rows if row["config"]["role"] in roles] for role, roles in
               (("supervisor", ("supervisor", "fusion", "ensemble", "oversight")), ("student", ("student",)),
                ("ceiling", ("ceiling",)), ("phase 2", ("align",)))}
    student = by_run.get("student") or next(iter(of_role["student"]), None)
    config = student["config"] if student else {}
    wanted = {"supervisor": [config.get("supervisor"), config.get("labels"), "weak"], "student": ["student"],
              "phase 2": ["align"], "ceiling": [config.get("ceiling"), "ceiling"]}
    chosen = {}
    for role, names in wanted.items():
        named = [by_run[name] for name in names if name in by_run]
        others = [] if role == "phase 2" else of_role[role]
        if role == "supervisor" and config:
            others = []                                    # not a supervisor that the student has not seen
        for row in (named + others)[:1]:
            chosen[role] = row
    return chosen


ABOUT = {"supervisor": "weak, trained on true labels", "student": "strong, trained on the supervisor's labels",
         "phase 2": "the supervisor improves with its students", "ceiling": "strong, trained on true labels",
         "fusion": "annotators, combined", "ensemble": "weak models, combined", "oversight": "weak, with help"}


def tell_story(task, rows, task_texts):
    """Supervisor, student, phase 2 and ceiling for the picture on top, and what is missing of them"""
    models = []
    measure = "accuracy"
    pgr = ""
    for role, row in choose_roles(rows).items():
        about = ABOUT.get(row["config"]["role"]) or ABOUT[role]
        models.append({"role": role, "run": row["run"], "model": row["model"], "seeds": row["seeds"], "about": about,
                       **mark(role, row)})
        if role == "student":
            pgr = row.get("PGR [95 %]", "")
    for role, run in DEFAULT_RUNS.items():
        texts = task_texts.get(run, {})
        if not rows and "not toxic [95 %]" in texts:
            measure = "share of samples that are not toxic"
            mean, low, high = first_numbers(texts["not toxic [95 %]"])
            models.append({"role": role, "run": run, "model": "", "seeds": texts["seeds"], "about": ABOUT[role],
                           "kind": role, "mean": mean, "low": low, "high": high})
            pgr = texts.get("PGR [95 %]", pgr)
    return {"models": models, "measure": measure, "pgr": pgr, "n": rows[0]["n"] if rows else ""}


def calibration(runs, predict):
    """
    Ten equal bins of confidence from 0.5 to 1 over all seeds -> {"bins": [[confidence, share correct, rows]], "ece"}.
    Calibrated means that confidence and share agree.
    """
    max_rows = config_of(runs)["max_rows"]
    p_yes, hits = (np.concatenate(x) for x in zip(*(predict(folder, max_rows) for folder, _ in runs)))
    known = np.isfinite(hits)
    confidence = np.maximum(p_yes, 1 - p_yes)[known]
    bin_of = np.minimum(((confidence - 0.5) * 20).astype(int), 9)
    bins = [[confidence[bin_of == b].mean(), hits[known][bin_of == b].mean(), int((bin_of == b).sum())]
            for b in range(10) if (bin_of == b).any()]
    labels = np.where(hits[known] == 1, p_yes[known] > 0.5, p_yes[known] <= 0.5)
    return {"run": run_name(runs), "seeds": len(runs), "bins": bins, "ece": ece(p_yes[known], labels)}


def pack(p_yes):
    """
    p(yes) (N,) -> two digits a row, "--" where there is none. Rounding never changes a verdict: 50 is a tie.

    >>> pack(np.array([0.0, 0.499, 0.5, 0.501, 0.876, 1.0, float("nan")]))
    '004950518899--'
    """
    digits = []
    for p in p_yes:
        if np.isnan(p):
            digits.append("--")
        else:
            percent = 100 * float(p)
            rounded = round(percent) if round(percent) != 50 or p == 0.5 else (51 if p > 0.5 else 49)
            digits.append(f"{min(rounded, 99):02d}")
    return "".join(digits)


def cut(text):
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " …"


def show_text(row):
    """A row's text as the page shows it; of a pair both, one above the other"""
    return f"A: {cut(row['text_a'])}\nB: {cut(row['text_b'])}" if is_pair(row) else cut(row["text"])


def single_runs(found, is_wanted):
    """The single runs (folder, results) whose config is wanted, sorted by folder"""
    return sorted((run for runs in found for run in runs if is_wanted(run[1]["config"])), key=lambda run: run[0])


def rows_to_read(task, found, roles, predict):
    """
    Rows of test with the labels of every run of one seed -> {"seed", "rows": [text, label, field index], "fields",
    "models": [{"run", "p": see pack}], "roles", "n"}; for writers each model has "texts" instead of "p". None without a
    run that labels test.
    """
    judges = single_runs(found, lambda config: config["role"] not in WITHOUT_LABELS)
    shown = judges or single_runs(found, lambda config: config["role"] == "writer")
    if not shown:
        return None
    roles = roles or DEFAULT_RUNS
    seeds = sorted({results["config"]["seed"] for _, results in shown})

    def n_roles(seed):
        names = {os.path.basename(folder) for folder, results in shown if results["config"]["seed"] == seed}
        return len(names & set(roles.values()))
    seed = max(seeds, key=lambda seed: (n_roles(seed), -seed))           # the first seed that has most of them
    shown = [(folder, results) for folder, results in shown if results["config"]["seed"] == seed]
    first = next((results for folder, results in shown if os.path.basename(folder) in roles.values()), shown[0][1])
    max_rows = first["config"]["max_rows"]
    test = read_rows(task, "test", max_rows)
    n_shown = max(1, int(np.searchsorted(np.cumsum([len(show_text(row)) for row in test]), MAX_TEXTS, "right")))
    names = [str(row.get("field") or row.get("kind") or "") for row in test[:n_shown]]
    fields = sorted(set(names))
    models = []
    for folder, results in shown:
        if results["config"]["max_rows"] != max_rows:
            continue
        model = {"run": os.path.basename(folder)}
        if judges:
            model["p"] = pack(predict(folder, max_rows)[0][:n_shown])
        else:
            lines = read_jsonl(os.path.join(folder, "labels.jsonl"))
            texts = {line.get("id"): str(line.get("text", "")) for line in lines}
            model["texts"] = [cut(texts.get(row["id"], "")) for row in test[:n_shown]]
        models.append(model)
    return {"seed": seed, "n": len(test), "models": models, "fields": fields, "roles": roles,
            "rows": [[show_text(row), row["label"], fields.index(name)] for row, name in zip(test, names)]}


def p_by_id(folder):
    """A folder's labels.jsonl -> {id: p(yes)}; {} where there is none"""
    path = os.path.join(folder, "labels.jsonl")
    rows = read_jsonl(path) if folder and os.path.exists(path) else []
    return {row.get("id"): row["soft_label"][1] for row in rows if isinstance(row.get("soft_label"), list)}


def debates_to_read(task, found, seed):
    """
    The first rows of test in each run of debate.py with a transcript, in one seed -> [{"run", "name", "order", "rows"}]
    A row has its transcript, the judge's p(yes) before and after it (for a debate the mean of both orders), and the
    truth. The rows are chosen by their place in the file alone.
    """
    shown = []
    for folder, results in single_runs(found, lambda config: (config["role"], config["seed"]) == ("oversight", seed)):
        if not results.get("transcripts"):
            continue
        config = results["config"]
        test = read_rows(task, "test", min(MAX_DEBATES, config["max_rows"] or MAX_DEBATES))
        wanted = {row["id"] for row in test}
        path = os.path.join(ROOT, results["transcripts"][0])
        spoken = {line["id"]: line["rounds"] for line in read_jsonl(path) if line["id"] in wanted}
        before = p_by_id(os.path.join(ROOT, results["supervisor"]) if results.get("supervisor") else "")
        after = p_by_id(folder)
        order = dict(results.get("order") or {})
        by_order = order.pop("p_yes", {})                  # runs of an earlier version have only the mean
        rows = []
        for row in test:
            rounds = [{side: cut(text) for side, text in speeches.items()} for speeches in spoken.get(row["id"], [])]
            rows.append({"question": cut(row.get("question") or show_text(row)), "answer": cut(row.get("answer") or ""),
                         "label": row["label"], "rounds": rounds, "before": before.get(row["id"]),
                         "after": after.get(row["id"]), "orders": by_order.get(row["id"])})
        run = os.path.basename(folder)
        shown.append({"run": run, "name": name_supervisor(config, run), "mode": config["mode"], "seed": seed,
                      "order": order, "rows": rows})
    return tell_apart(sorted(shown, key=lambda run: run["mode"] != "debate"))


def audits_to_read(task, found, seed):
    """
    The runs of auto_align.py in one seed -> [{"run", "seed", "rounds": table, "audits": table}]. p(yes) of an audited
    row is that of the supervisor that the loop starts from, with its help if it had help, and that of the last student;
    the first one's run may be gone.
    """
    columns = ["round", "row of train2", "truth", "used to", "p(yes) before", "p(yes) after"]
    shown = []
    for folder, results in single_runs(found, lambda config: (config["role"], config["seed"]) == ("align", seed)):
        config = results["config"]
        before = p_by_id(labels_folder(str(results.get("supervisor") or config["evaluator"]), task, seed))
        after = p_by_id(folder)
        text_of = {row["id"]: show_text(row) for row in read_rows(task, "train2", config["max_rows"])}
        rows = []
        for k in range(1, len(results["rounds"]) + 1):
            path = os.path.join(folder, str(results.get("rounds_folder")), f"round-{k}", "audits.jsonl")
            for audit in read_jsonl(path) if os.path.exists(path) else []:
                verdicts = []
                for p in (before.get(audit["id"]), after.get(audit["id"])):
                    verdicts.append("" if p is None else f"{p:.2f} {judge(p, audit['label'])}")
                rows.append([str(k), text_of.get(audit["id"], audit["id"]), "yes" if audit["label"] else "no",
                             str(audit["use"]), *verdicts])
        shown.append({"run": os.path.basename(folder), "seed": seed, "rounds": rounds_table(results["rounds"]),
                      "audits": {"columns": columns, "rows": rows}})
    return sorted(shown, key=lambda run: run["run"] != "align")


def rounds_table(results):
    """Phase 2, a list of rounds -> {"columns", "rows"}"""
    rows = []
    for k, r in enumerate(results, 1):
        success, guards = (" → ".join(f"{x:.2f}" for x in r.get(key) or [] if x is not None)
                           for key in ("attack_success", "guard_accuracy"))
        rows.append([str(k), r["student"], str(r["rows"]), str(r["attacks"]), str(r["audits"]), success, guards,
                     "rejected" if r["rejected"] else "accepted",
                     " → ".join(f"{e['accuracy']:.3f}" for e in r["evaluator"]),
                     f"{r['learner_test']['accuracy']:.3f}", f"{r['untrained']['accuracy']:.3f}"])
    columns = ["round", "student", "rows", "attacks", "labels bought", "attacks succeed", "guards right", "update",
               "evaluator", "learner", "untrained"]
    return {"columns": columns, "rows": rows}


def judge(p_yes, label):
    """"right" or "wrong"; "tie" at 1/2"""
    return {1.0: "right", 0.5: "tie", 0.0: "wrong"}[float(correct([p_yes], [label])[0])]


SECTIONS = ["story", "students", "curves", "calibration", "reading", "oversight", "others", "phase2", "tables"]


def sections_of(task):
    """The sections of a task's page. Where models write texts there are no labels; cdeval is a questionnaire."""
    if task == "cdeval":
        return ["tables"]
    train1 = os.path.join(ROOT, "data", task, "train1.jsonl")
    rows = read_rows(task, "train1", 1, may_be_empty=True) if os.path.exists(train1) else []
    return ["story", "reading", "tables"] if rows and "continuation" in rows[0] else SECTIONS


def missing_stages(task, data):
    """What the page cannot show yet -> {section: [what is missing, the command that makes it]}"""
    flag = "" if task == "tinyworld" else f" --task {task}"
    if data["sections"] != SECTIONS:
        command = f"python align_tasks.py --task {task}"
        return {section: ["no texts yet", command] for section in ("story", "reading")
                if not data["reading"] or section == "story" and not data["story"]["models"]}
    run_of = {model["role"]: model["run"] for model in data["story"]["models"]}
    labels = shlex.quote(run_of.get("supervisor", "weak"))
    weak = "train_weak.py"
    student = f"train_strong.py --labels {labels} --ceiling ceiling"
    if "ceiling" not in run_of:
        student = "train_strong.py --labels truth --out ceiling"             # comes first
    align = f"auto_align.py --evaluator {labels} --ceiling ceiling"
    known = {**data, **data["charts"], "story": {"student", "ceiling"} <= set(run_of)}
    commands = {
        "story": ["no student yet", student] if "ceiling" in run_of else ["no ceiling yet", student],
        "students": ["no student with a ceiling yet", student],
        "curves": ["no curve: no student, or valid has no labels", student],
        "calibration": ["no run that labels test yet", weak],
        "reading": ["no run that labels test yet", weak],
        "oversight": ["no judge with help yet", "debate.py --mode interaction"],
        "debates": ["no transcript yet", "debate.py --mode debate"],
        "ensembles": ["no ensemble yet", "ensemble.py --by models --members 3 --out models"],
        "shots": ["no curve over demonstrations yet", f"icl.py --labels {labels} --shots 0,1,2,4,8,16 --out icl-curve"],
        "rounds": ["no run `align` yet", align],
        "audits": ["no run of phase 2 yet", align]}
    if not {"supervisor", "student"} & set(run_of):        # a student's supervisor may be annotators, which are no run
        commands["story"] = ["no supervisor yet", weak]
    return {section: [what, f"python {command}{flag}"] for section, (what, command) in commands.items()
            if not known.get(section)}


# --------------------------------------------------------------------------- the page

def collect(task, rows, found, markdown, task_texts, predict):
    """
    Everything that the page shows -> a plain dict

    rows, found     as the charts take them; only rows that are current and measured
    markdown        report.md's text: the page has its tables
    task_texts      the cells of align_tasks.py's table, {run: {column: text}}
    predict         function (folder, max_rows) -> p(yes) (N,) and hits (N,) on test
    """
    judges = [runs for runs in found if config_of(runs)["role"] not in WITHOUT_LABELS]
    roles = {role: row["run"] for role, row in choose_roles(rows).items()}
    roles.pop("phase 2", None)
    reading = rows_to_read(task, found, roles, predict)
    seed = reading["seed"] if reading else 0
    names = supervisor_names(rows)
    curves = []
    for runs in found:
        chart = elicitation_chart(runs, rows) if config_of(runs)["role"] == "student" else None
        if chart:
            name = name_student(config_of(runs), run_name(runs), names)[1]
            curves.append({"run": run_name(runs), "name": name, **chart})
    curves.sort(key=lambda curve: (curve["run"] != "student-long", curve["run"] != "student", curve["run"]))
    notes = ("missing:", "stale", "Rows with one seed")
    data = {
        "task": task, "sections": sections_of(task),
        "seeds": sorted({results["config"]["seed"] for runs in found for _, results in runs}),
        "story": tell_story(task, rows, task_texts), "charts": draw_charts(rows, found),
        "curves": tell_apart(curves),
        "calibration": [calibration(runs, predict) for runs in judges],
        "reading": reading, "debates": debates_to_read(task, found, seed), "audits": audits_to_read(task, found, seed),
        "tables": read_tables(markdown),
        "notes": [line for line in markdown.split("\n") if line.startswith(notes)]}
    return {**data, "missing": missing_stages(task, data)}


def printable(value):
    """Texts without control characters, numbers with six digits, None for nan: what JSON and a reader can take."""
    if isinstance(value, dict):
        return {key: printable(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [printable(x) for x in value]
    if isinstance(value, (float, np.floating)):
        return round(float(value), 6) if np.isfinite(value) else None
    return plain(value) if isinstance(value, str) else value


def write_page(path, data):
    """Write report.html: the template page.html with the data as JSON in it."""
    template = read_text(os.path.join(os.path.dirname(os.path.abspath(__file__)), "page.html"))
    text = json.dumps(printable(data), separators=(",", ":"), allow_nan=False)         # ASCII: U+2028 is escaped, too
    for c in "<>&":
        text = text.replace(c, f"\\u{ord(c):04x}")
    title = html.escape(plain(data["task"]))
    write_file(path, template.replace("{{task}}", title).replace("{{data}}", text))
