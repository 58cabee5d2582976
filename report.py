"""
The last chapter: every finished run of a task, over its seeds, in one report.

$ python report.py                          # all tasks that have runs
$ python report.py --task tinyworld
$ python report.py --readme                 # and the tables of README.md, from the runs that are there (experiments.sh makes them)

Reads   data/<task>/seed*/<run>/{results.json, labels.jsonl}, data/<task>/test.jsonl, and what cdeval.py left in data/cdeval/
Prints  and writes data/<task>/report.md: a table for each chapter, mean over seeds, one debate to read, and which cultures the models lean to (the same
        in every report: models are asked about no task); with matplotlib also figures beside it, report-*.png
        --readme: data/measured.json, what was measured last of each run, README.md, whose tables are filled from it, and its figures/

Intervals are 95 % by bootstrap over questions and over seeds (measure.py: bootstrap). With one seed they do not know how another seed would
have come out: run three or more before you believe a difference. Runs of one name but with different flags are different rows. A run whose inputs
have changed since is named as stale and left out; a chapter without any run is named as missing.
"""
import argparse, functools, glob, json, os, re, shutil
from collections import defaultdict

from contract import ROOT, as_left, fail, fingerprint, read_labels, read_lines, read_rows, run_folder, write_file, writing
from train_weak import auroc, ece, right
from measure import bootstrap, pgr, pgr_interval
from plots import FIGURES
import align_tasks, cdeval, debate

CHAPTERS = {"train_weak.py": "the supervisor", "train_strong.py": "students and their ceiling", "ensemble.py": "many supervisors", "debate.py": "oversight",
            "icl.py": "without training", "auto_align.py": "phase 2"}
COLUMNS = {"ensemble.py": ["members used", "gain over single [95 %]"], "debate.py": ["gain over single [95 %]", "knew / did not"],
           "train_strong.py": ["PGR [95 %]", "agrees where right / wrong"], "icl.py": ["says yes"],
           "auto_align.py": ["evaluator by round", "attacks succeed", "updates rejected", "labels bought", "PGR [95 %]"]}
MEASURED, README = os.path.join(ROOT, "data", "measured.json"), os.path.join(ROOT, "README.md")
fingerprint = functools.lru_cache(maxsize=None)(fingerprint)                   # of a file that a hundred runs have read


# --------------------------------------------------------------------------- runs and their numbers

def find_runs(task):
    """-> (runs that differ at most in their seed, as lists of (folder, results); names of stale runs)"""
    runs, stale = defaultdict(list), []
    for path in sorted(glob.glob(os.path.join(ROOT, "data", task, "seed*", "*", "results.json"))):
        folder = os.path.dirname(path)
        try:
            results = read_lines(path, whole=True)[0]
            config = results["config"]
            current = all(was == name or fingerprint(os.path.join(ROOT, name)) == was for name, was in config["inputs"].items())
            flags = json.dumps({k: re.sub(r"seed\d+", "seed*", str(v)) for k, v in config.items() if k not in ("seed", "inputs")})
            assert "line" in results
        except (IndexError, KeyError, TypeError, AttributeError, AssertionError):
            fail(f"{path} is not a results.json of this project; delete it")
        if current:
            runs[os.path.basename(folder), flags].append((folder, results))
        else:
            stale.append(os.path.relpath(folder, ROOT))
    return list(runs.values()), stale


@functools.lru_cache(maxsize=None)
def said(task, folder, max_rows):
    """What a run says of test, (N,) p(yes), and where it is right, (N,)"""
    test = read_rows(task, "test", max_rows)
    p_yes = read_labels(folder, test)[:, 1]
    return p_yes, right(p_yes, [row["label"] for row in test])


def interval(mean, draws, form="{:.3f}"):
    """-> mean [low, high] as text"""
    import numpy as np
    return f"{form} [{form}, {form}]".format(mean, *np.percentile(draws, [2.5, 97.5]))


def describe(task, runs):
    """
    Everything a table may say of runs that differ in their seed alone: {column: text}, with "accuracy" (mean, low, high) and "pgr" as numbers for
    the figures. Students are scored beside their supervisor and ceiling, on the same draws of questions and seeds; others beside `weak`.
    """
    import numpy as np
    config = runs[0][1]["config"]
    most = config["max_rows"]
    test = read_rows(task, "test", most)
    truth, groups, script = np.array([row["label"] for row in test]), [row["group"] for row in test], config["script"]
    p = [said(task, folder, most)[0] for folder, _ in runs]

    def beside(*folders_of):                               # (S, M, N)
        return np.array([[said(task, f(folder, r["config"]), most)[1] for f in folders_of] for folder, r in runs])

    def run_of(key):
        return lambda folder, c: run_folder(key(c), task, c["seed"])
    own = lambda folder, c: folder
    hits = beside(own)
    draws, mean = bootstrap(hits, groups), float(hits.mean())
    row = {"run": os.path.basename(runs[0][0]), "script": script, "model": os.path.basename(config["model"]),
           "learns from": config.get("labels") or config.get("evaluator") or "train1", "seeds": str(len(runs)), "n": f"{len(test):,}", "accuracy [95 %]": interval(mean, draws), "accuracy": [mean, *np.percentile(draws, [2.5, 97.5])],
           "AUROC": f"{np.mean([auroc(x, truth) for x in p]):.3f}", "ECE": f"{np.mean([ece(x, truth) for x in p]):.2f}",
           "says yes": f"{np.mean([(x > 0.5).mean() for x in p]):.2f}", "seconds": f"{np.mean([r['seconds'] for _, r in runs]):.0f}"}
    if script == "auto_align.py":
        row |= describe_rounds([r["rounds"] for _, r in runs], runs[0][1].get("labels_to_choose", 0))
    weak = run_of(lambda c: "weak")
    if os.path.basename(runs[0][0]) != "weak" and all(os.path.exists(os.path.join(weak(f, r["config"]), "labels.jsonl")) for f, r in runs):
        two = beside(weak, own)
        draws = bootstrap(two, groups)
        row["gain over single [95 %]"] = interval(mean - two[:, 0].mean(), draws[:, 1] - draws[:, 0], "{:+.3f}")
        row["knew / did not"] = "{:.2f} / {:.2f}".format(*(np.mean([b[a == x].mean() for a, b in two]) for x in (1, 0)))
    if script == "ensemble.py":
        used = sorted(r["members_used"] for _, r in runs)
        row["members used"] = f"{used[0]}-{used[-1]}" if used[0] < used[-1] else str(used[0])
    if config.get("ceiling"):
        above = run_of(lambda c: c.get("supervisor") or c.get("labels") or c["evaluator"].split(",")[0])
        three = beside(above, own, run_of(lambda c: c["ceiling"]))
        reached, (low, high, _) = pgr(*three.mean((0, 2))), pgr_interval(bootstrap(three, groups))
        row["PGR [95 %]"] = "no gap" if np.isnan(reached) else f"{reached:.2f} " + ("[open]" if np.isnan(low) else f"[{low:.2f}, {high:.2f}]")
        row["pgr"] = None if np.isnan(reached) else reached
        taught = beside(run_of(lambda c: c["labels"]), own) if config.get("labels") else three[:, :2]
        row["agrees where right / wrong"] = "{:.2f} / {:.2f}".format(*(np.mean([(b == a)[a == x].mean() for a, b in taught]) for x in (1, 0)))
    return row


def describe_rounds(seeds, bought=0):
    """
    Phase 2, a list of rounds for each seed: the evaluator before and after every round, the last learner, what the guard did, and how many true labels
    it cost, with those bought before the first round.
    """
    import numpy as np
    path = np.mean([[rounds[0]["evaluator"][0]["accuracy"]] + [r["evaluator"][1]["accuracy"] for r in rounds] for rounds in seeds], 0)
    fooled = [rounds[-1]["attack_success"][1] for rounds in seeds]
    return {"evaluator by round": " → ".join(f"{a:.3f}" for a in path),
            "attacks succeed": f"{np.mean(fooled):.3f}" if None not in fooled else "",
            "updates rejected": f"{sum(r['rejected'] for rounds in seeds for r in rounds)} of {sum(map(len, seeds))}",
            "labels bought": str(bought + sum(r["audits"] for r in seeds[0]))}


def describe_task(task, runs):
    """align_tasks.py's own table over all its seeds -> (markdown, {run: {column: text}}): there PGR is on balanced accuracy, or on what is not toxic"""
    table, kind, test, _ = align_tasks.gather(task, [r["config"]["seed"] for _, r in runs])
    texts, headline = {}, "not toxic [95 %]" if kind == "toxicity" else "balanced accuracy [95 %]"
    for row in table:
        low, high = row["headline_interval"]
        texts[row["run"]] = {title: f"{row[key]:.{1 if key == 'perplexity' else 3}f}" for key, title in align_tasks.COLUMNS[kind].items()}
        texts[row["run"]] |= {headline: f"{row['headline']:.3f} [{low:.3f}, {high:.3f}]", "seeds": str(row["seeds"]), "n": f"{len(test):,}"}
        if "pgr" in row:
            texts[row["run"]]["PGR [95 %]"] = f"{row['pgr']:.2f} " + ("[open]" if row["interval"] is None else "[{:.2f}, {:.2f}]".format(*row["interval"]))
    return align_tasks.show(task, kind, table, test), texts


def one_debate(task, found):
    """
    One debate as debate.py --show prints it -> markdown, "" if nobody has talked. Nobody looks for a good one: it is the first row of test, in the
    first run by name (two sides before one), in its first seed.
    """
    runs = [runs[0] for runs in found if runs[0][1]["config"]["script"] == "debate.py" and runs[0][1].get("transcripts")]
    if not runs:
        return ""
    folder, results = min(runs, key=lambda run: (run[1]["config"].get("mode") != "debate", os.path.basename(run[0])))
    with as_left(os.path.relpath(os.path.join(folder, "results.json"))):
        lines = debate.transcript(folder, results, read_rows(task, "test", 1)[0])
    return "\n".join([f"One row of {os.path.relpath(folder, ROOT)}, as a person reads it: the first of test, chosen by its place in the file alone.", "", "```text",
                      *lines, "```", ""])


def cultures(where):
    """cdeval.py's runs: their tables, and their radar figures as links from the folder `where` -> (markdown, "" without runs; names of stale runs)"""
    found, stale = find_runs("cdeval")
    lines, figures = [], []
    for folder, results in (run for runs in found for run in runs if run[1]["config"].get("script") == "cdeval.py"):
        name, radar = os.path.relpath(folder, os.path.join(ROOT, "data", "cdeval")), os.path.join(folder, "radar.png")
        with as_left(os.path.relpath(os.path.join(folder, "results.json"))):
            lines += ["", *cdeval.table(name, results)]
            n = [x["n"] for x in next(iter(results["models"].values()))["dimensions"].values()]
        if os.path.exists(radar):
            figures += ["", f"![{name}]({os.path.relpath(radar, where)})", "",
                        f"{name}: mean P(option 1) of n={sum(n):,} questions, at least {min(n)} a dimension; the intervals are in its table"]
    title = ["## culture: cdeval.py", "", "Mean P(option 1), the high pole of each dimension, and its 95 % interval by bootstrap over questions; 0.5 leans nowhere. Where the two answers",
             "have less than half of the probability, it is hardly an answer."]
    return "\n".join([*title, *lines, *figures, ""]) if lines else "", stale


def culture_texts(found):
    """
    cdeval.py's runs over their seeds, for README -> {run: {dimension: text}}: of the first model the mean with its interval over questions; and
    under "RUN, MODEL" how far another one is from it, mean over seeds [lowest, highest].
    """
    texts = {}
    for runs in found:
        name, seeds = os.path.basename(runs[0][0]), [results for _, results in runs]
        first, *others = seeds[0]["models"].items()
        texts[name] = {d: cdeval.spell(x, "{:.2f}") for d, x in first[1]["dimensions"].items()} | {"seeds": str(len(seeds))}
        for label, model in others:
            moved = [r["differences"][re.sub(r"seed\d+", f"seed{r['config']['seed']}", label)] for r in seeds]
            texts[f"{name}, {os.path.basename(label)}"] = {"seeds": str(len(seeds))} | {
                d: "{:+.3f} [{:+.3f}, {:+.3f}]".format(sum(m) / len(m), min(m), max(m)) for d in model["dimensions"] for m in [[x[d]["mean"] for x in moved]]}
    return texts


def tables(task, rows, stale, talk="", culture=""):
    """-> markdown: a table for each chapter that has runs; below oversight a debate to read, at the end the cultures"""
    order = {"weak": 0, "student": 1, "ceiling": 3}
    lines = [f"# {task}" + ", test accuracy" * bool(rows), ""]
    for script, title in CHAPTERS.items():
        some = sorted([row for row in rows if row["script"] == script], key=lambda r: (order.get(r["run"], 2), r["run"], r["model"]))
        if not some:
            continue
        columns = ["run", "model", "learns from", "seeds", "accuracy [95 %]", "ECE", *COLUMNS.get(script, []), "n"]
        lines += [f"## {title}: {script}", "", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|",
                  *("| " + " | ".join(row.get(c, "") for c in columns) + " |" for row in some), ""]
        lines += [talk] if script == "debate.py" and talk else []
    lines += [culture] if culture else []
    missing = [script for script in CHAPTERS if not any(row["script"] == script for row in rows)] + ["cdeval.py"] * (not culture)
    lines += [f"missing: no run of {', '.join(missing)}"] * bool(missing)
    return "\n".join(lines + [f"stale (made from files that have changed since), left out: {name}" for name in stale]).strip() + "\n"


def draw(task, rows, found):
    """All figures that there is something for -> their paths"""
    paths = []
    for name, function in FIGURES.items():
        try:
            figure = function(rows, found)
        except ImportError:
            print("no figures: matplotlib is not installed")
            return paths
        if figure:
            paths.append(os.path.join(ROOT, "data", task, f"report-{name}.png"))
            figure.savefig(paths[-1], dpi=130, bbox_inches="tight")
            figure.clf()
    return paths


# --------------------------------------------------------------------------- README.md

def fill(text, measured):
    """
    README's tables, from what was measured. A table belongs to a task if a line  <!-- measured: TASK -->  stands before it. In a row whose column
    "run" names a run, each column with a title that this run has numbers for is filled; "student ..." columns take those of student-RUN. All
    else is left as it was written.

    >>> fill("<!-- measured: t -->\\n| run | what | ECE |\\n|---|---|---|\\n| `a` | mine | ? |\\n", {"t": {"a": {"ECE": "0.06"}}}).splitlines()[-1]
    '| `a` | mine | 0.06 |'
    """
    out, task, header = [], None, None
    for line in text.split("\n"):
        if mark := re.fullmatch(r"<!-- measured: (\S+) -->", line):
            task, header = mark[1], None
        elif not line.startswith("|"):
            task, header = (task if not line.strip() and header is None else None), None
        elif task and header is None:
            header = [cell.strip() for cell in line.strip("|").split("|")]
        elif task and not line.startswith("|---"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            run = cells[header.index("run")].strip("`") if "run" in header else ""
            known = measured.get(task, {})
            for k, title in enumerate(header):
                of, column = (("student" if run == "weak" else f"student-{run}"), title[8:]) if title.startswith("student ") else (run, title)
                if title != "run" and column in known.get(of, {}):
                    cells[k] = known[of][column]
            line = "| " + " | ".join(cells) + " |"
        out.append(line)
    return "\n".join(out)


def remember(measured, task, rows):
    """The numbers of these rows into `measured`, {task: {run: {column: text}}}; what was measured with fewer seeds replaces nothing."""
    known = measured.setdefault(task, {})
    for row in sorted(rows, key=lambda row: int(row["seeds"])):
        if int(row["seeds"]) >= int(known.get(row["run"], {}).get("seeds", 0)):
            known[row["run"]] = {key: value for key, value in row.items() if isinstance(value, str) and key not in ("run", "script")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", help="a folder of data/ (default: all that have runs)")
    parser.add_argument("--readme", action="store_true", help="fill the tables of README.md from these runs")
    args = parser.parse_args()
    names = sorted({path.split(os.sep)[-4] for path in glob.glob(os.path.join(ROOT, "data", args.task or "*", "seed*", "*", "results.json"))})
    names = [name for name in names if name != "cdeval"] or names
    if not names:
        fail(f"no finished run under data/{args.task or ''}. Make one first:  bash run.sh")
    measured, readme = {}, ""
    if args.readme and not os.path.exists(README):
        fail("--readme: there is no README.md beside report.py whose tables could be filled")
    if args.readme:
        measured = read_lines(MEASURED, whole=True)[0] if os.path.exists(MEASURED) else {}
        with open(README, encoding="utf-8") as f:
            readme = f.read()
    for task in names:
        found, stale = find_runs(task)
        rows, own, below = [], {}, ""
        for runs in found:
            with as_left(os.path.relpath(os.path.join(runs[0][0], "results.json"))):
                script = runs[0][1]["config"]["script"]
                rows += [describe(task, runs)] if script in CHAPTERS else []
                if script == "align_tasks.py":
                    below, own = describe_task(task, runs)
        culture, old = cultures(os.path.join(ROOT, "data", task))
        text = tables(task, rows, stale + [name for name in old if task != "cdeval"], one_debate(task, found), culture) + below
        paths = draw(task, rows, found)
        write_file(os.path.join(ROOT, "data", task, "report.md"), text + "".join(f"\n![{os.path.basename(p)}]({os.path.basename(p)})\n" for p in paths))
        print(text + f"\nwrote data/{task}/report.md" + "".join(f", {os.path.basename(p)}" for p in paths))
        remember(measured, task, rows)
        for run, texts in own.items():
            known = measured.setdefault(task, {})
            known[run] = known.get(run, {}) | texts
        for path in paths if args.readme else []:
            shown = os.path.join("figures", f"{task}-{os.path.basename(path)[7:]}")
            if shown in readme:
                with writing(shown):
                    os.makedirs(os.path.join(ROOT, "figures"), exist_ok=True)
                    shutil.copy(path, os.path.join(ROOT, shown))
    if args.readme:
        measured["cdeval"] = measured.get("cdeval", {}) | culture_texts(find_runs("cdeval")[0])
        write_file(MEASURED, json.dumps(measured, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
        write_file(README, fill(readme, measured))
        print("filled the tables of README.md; data/measured.json has their numbers")


if __name__ == "__main__":
    main()
