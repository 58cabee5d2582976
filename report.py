"""
The table: every finished run of a task, over its seeds.

$ python report.py                          # all tasks that have runs
$ python report.py --task tinyworld

Reads   data/<task>/seed*/<run>/{results.json, labels.jsonl} and data/<task>/test.jsonl
Prints  and writes data/<task>/report.md: a row for each kind of run, mean over seeds; and, with matplotlib and where there are ensembles,
        data/<task>/report-ensembles.png: accuracy over the number of members

Intervals are 95 % by bootstrap over questions and over seeds (train_strong.py: bootstrap). With one seed they do not know how another
seed would have come out: run three or more before you believe a difference. Runs of one name but with different flags are different rows.
Runs whose inputs have changed since are named as stale and left out.
"""
import argparse, glob, json, os
from collections import defaultdict

from contract import ROOT, fail, fingerprint, read_labels, read_rows, run_folder
from train_weak import ece, right
from measure import bootstrap, pgr, pgr_interval


def find_runs(task):
    """-> (runs that differ at most in their seed, as lists of (folder, config); names of stale runs)"""
    runs, stale = defaultdict(list), []
    for path in sorted(glob.glob(os.path.join(ROOT, "data", task, "seed*", "*", "results.json"))):
        folder = os.path.dirname(path)
        try:
            with open(path, encoding="utf-8") as f:
                config = json.load(f)["config"]
            current = all(was == name or fingerprint(os.path.join(ROOT, name)) == was for name, was in config["inputs"].items())
            flags = json.dumps({k: v for k, v in config.items() if k not in ("seed", "inputs")})
        except (ValueError, KeyError, TypeError, AttributeError):
            fail(f"{path} is not a results.json of this project; delete it")
        if current:
            runs[os.path.basename(folder), flags].append((folder, config))
        else:
            stale.append(os.path.relpath(folder, ROOT))
    return list(runs.values()), stale


def describe(task, runs):
    """One row of the table: means over seeds, with intervals over questions and seeds."""
    import numpy as np
    config = runs[0][1]
    test = read_rows(task, "test", config["max_rows"])
    truth, groups = [row["label"] for row in test], [row["group"] for row in test]

    def hits(folder):
        return right(read_labels(folder, test)[:, 1], truth)

    row = {"run": os.path.basename(runs[0][0]), "model": os.path.basename(config["model"]), "labels": config.get("labels", "train1"),
           "seeds": len(runs), "n": len(test), "ece": float(np.mean([ece(read_labels(folder, test)[:, 1], truth) for folder, _ in runs]))}
    if config.get("ceiling"):                              # a student: scored beside its supervisor and its ceiling
        scored = [[hits(run_folder(c["supervisor"] or c["labels"], task, c["seed"])), hits(folder), hits(run_folder(c["ceiling"], task, c["seed"]))]
                  for folder, c in runs]
    else:
        scored = [[hits(folder)] for folder, _ in runs]
    draws, means = bootstrap(scored, groups), np.asarray(scored).mean((0, 2))
    own = 1 if config.get("ceiling") else 0
    row |= {"accuracy": float(means[own]), "interval": np.percentile(draws[:, own], [2.5, 97.5]).tolist(), "pgr": ""}
    if config.get("ceiling"):
        low, high, _ = pgr_interval(draws)
        row["pgr"] = "no gap" if np.isnan(pgr(*means)) else f"{pgr(*means):.2f} " + ("[open]" if np.isnan(low) else f"[{low:.2f}, {high:.2f}]")
    return row


def table(task):
    """-> markdown"""
    found, stale = find_runs(task)
    order = {"weak": 0, "student": 1, "ceiling": 3}
    lines = [f"{task}, test accuracy", "", "| run | model | learns from | seeds | accuracy [95 %] | ECE | PGR [95 %] | n |", "|---" * 8 + "|"]
    for r in sorted([describe(task, runs) for runs in found], key=lambda r: (order.get(r["run"], 2), r["run"], r["model"])):
        low, high = r["interval"]
        lines.append(f"| {r['run']} | {r['model']} | {r['labels']} | {r['seeds']} | {r['accuracy']:.3f} [{low:.3f}, {high:.3f}] | {r['ece']:.3f} "
                     f"| {r['pgr']} | {r['n']:,} |")
    return "\n".join([*lines, "", *[f"stale (made from files that have changed since), left out: {name}" for name in stale]]).strip() + "\n"


def draw_ensembles(task):
    """
    Test accuracy over the number of members, each kind of ensemble a line (mean over its seeds, a bar from the worst seed to the best), the single
    supervisor dashed. -> path of the figure, None if there is nothing to draw
    """
    import numpy as np
    curves = {}
    for runs in find_runs(task)[0]:
        for folder, _ in runs:
            with open(os.path.join(folder, "results.json"), encoding="utf-8") as f:
                curve = json.load(f).get("curve") or [{}]
            if "members" in curve[0]:
                curves.setdefault(os.path.basename(folder), []).append([point["test"]["accuracy"] for point in curve])
    if not curves:
        return None
    import matplotlib
    matplotlib.use("Agg")                                  # no window
    import matplotlib.pyplot as plt
    plt.style.use("tableau-colorblind10")
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for k, (name, seeds) in enumerate(sorted(curves.items())):
        n = min(map(len, seeds))                           # boosting may stop early, with some seeds
        a, members = np.array([seed[:n] for seed in seeds]), np.arange(1, n + 1)
        reach = [a.mean(0) - a.min(0), a.max(0) - a.mean(0)]
        axes.errorbar(members, a.mean(0), reach, marker="osv^D*"[k % 6], capsize=2, label=f"{name}, {len(seeds)} seeds")
    single = [describe(task, runs)["accuracy"] for runs in find_runs(task)[0] if os.path.basename(runs[0][0]) == "weak"]
    for accuracy in single:
        axes.axhline(accuracy, linestyle="--", color="gray", label="the single supervisor")
    axes.set(xlabel="members", ylabel="test accuracy", title=f"{task}: ensembles of supervisors (bars: worst and best seed)")
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.02, 1))
    path = os.path.join(ROOT, "data", task, "report-ensembles.png")
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", help="a folder of data/ (default: all that have runs)")
    args = parser.parse_args()
    tasks = sorted({path.split(os.sep)[-4] for path in glob.glob(os.path.join(ROOT, "data", args.task or "*", "seed*", "*", "results.json"))})
    if not tasks:
        fail(f"no finished run under data/{args.task or ''}. Make one first:  bash run.sh")
    for task in tasks:
        text = table(task)
        print(text)
        with open(os.path.join(ROOT, "data", task, "report.md"), "w", encoding="utf-8") as f:
            f.write(text)
        try:
            figure = draw_ensembles(task)
        except ImportError:
            figure = None
            print("no figures: matplotlib is not installed")
        if figure:
            print(f"wrote {os.path.relpath(figure)}")


if __name__ == "__main__":
    main()
