"""
The table: every finished run of a task, over its seeds.

$ python report.py                          # all tasks that have runs
$ python report.py --task tinyworld

Reads   data/<task>/seed*/<run>/{results.json, labels.jsonl} and data/<task>/test.jsonl
Prints  and writes data/<task>/report.md: a row for each kind of run, mean over seeds

Intervals are 95 % by bootstrap over questions and over seeds (train_strong.py: bootstrap). With one seed they do not know how
another seed would have come out: run three or more before you believe a difference. Runs whose labels have since been made anew
are named as stale and left out.
"""
import argparse, glob, json, os
from collections import defaultdict

from train_weak import ROOT, ece, fail, fingerprint, read_labels, read_rows, right, run_folder
from train_strong import bootstrap, pgr, pgr_interval


def find_runs(task):
    """-> {run name: {seed: (folder, results)}}, and the names of stale runs"""
    runs, stale = defaultdict(dict), []
    for path in sorted(glob.glob(os.path.join(ROOT, "data", task, "seed*", "*", "results.json"))):
        folder = os.path.dirname(path)
        try:
            with open(path, encoding="utf-8") as f:
                results = json.load(f)
            current = all(fingerprint(os.path.join(ROOT, name)) == was for name, was in results["config"]["inputs"].items() if name.startswith("data" + os.sep))
        except (ValueError, KeyError):
            fail(f"{path} is not a results.json of this project; delete it")
        if current:
            runs[os.path.basename(folder)][results["seed"]] = (folder, results)
        else:
            stale.append(os.path.relpath(folder, ROOT))
    return runs, stale


def describe(task, name, by_seed, test):
    """One row of the table: means over seeds, with intervals over questions and seeds."""
    import numpy as np
    truth, groups = [row["label"] for row in test], [row["group"] for row in test]
    configs = [results["config"] for _, results in by_seed.values()]
    own = [read_labels(folder, test)[:, 1] for folder, _ in by_seed.values()]
    hits = [[right(p, truth)] for p in own]
    row = {"run": name, "model": configs[0]["model"], "labels": configs[0].get("labels", "truth of train1"), "seeds": len(by_seed),
           "ece": float(np.mean([ece(p, truth) for p in own]))}
    comparison = {config.get("ceiling") for config in configs}
    if comparison != {""} and comparison != {None} and len(comparison) == 1:                     # a student with a ceiling
        others = [[run_folder(c["supervisor"] or c["labels"], task, c["seed"]), run_folder(c["ceiling"], task, c["seed"])] for c in configs]
        hits = [[right(read_labels(weak, test)[:, 1], truth), own_hits, right(read_labels(top, test)[:, 1], truth)]
                for (weak, top), (own_hits,) in zip(others, hits)]
    draws = bootstrap(hits, groups)
    means = np.asarray(hits).mean((0, 2))
    mine = 1 if len(means) == 3 else 0
    row["accuracy"], (row["low"], row["high"]) = float(means[mine]), np.percentile(draws[:, mine], [2.5, 97.5])
    if len(means) == 3:
        row["pgr"], row["pgr_interval"] = pgr(*means), pgr_interval(draws)[:2]
    return row


def table(task):
    """-> markdown"""
    runs, stale = find_runs(task)
    test = read_rows(task, "test")
    rows = [describe(task, name, by_seed, test) for name, by_seed in runs.items()]
    order = {"weak": 0, "student": 1, "ceiling": 3}
    lines = [f"{task}: {len(test):,} test rows, {sum(r['label'] for r in test) / len(test):.1%} yes", "",
             "| run | model | learns from | seeds | accuracy [95 %] | ECE | PGR [95 %] |", "|---|---|---|---|---|---|---|"]
    for r in sorted(rows, key=lambda r: (order.get(r["run"], 2), r["run"])):
        recovered = "" if "pgr" not in r else "no gap" if r["pgr"] != r["pgr"] else f"{r['pgr']:.2f} " + (
            "[open]" if r["pgr_interval"][0] != r["pgr_interval"][0] else "[{:.2f}, {:.2f}]".format(*r["pgr_interval"]))
        lines.append(f"| {r['run']} | {r['model']} | {r['labels']} | {r['seeds']} | {r['accuracy']:.3f} [{r['low']:.3f}, {r['high']:.3f}] | {r['ece']:.3f} | {recovered} |")
    lines += ["", *[f"stale (made from files that have changed since), left out: {name}" for name in stale]]
    return "\n".join(lines).strip() + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", help="a folder of data/ (default: all that have runs)")
    args = parser.parse_args()
    tasks = [args.task] if args.task else sorted({path.split(os.sep)[-4] for path in glob.glob(os.path.join(ROOT, "data", "*", "seed*", "*", "results.json"))})
    if not tasks:
        fail("no finished run under data/. Make one first:  bash run.sh")
    for task in tasks:
        text = table(task)
        print(text)
        with open(os.path.join(ROOT, "data", task, "report.md"), "w", encoding="utf-8") as f:
            f.write(text)


if __name__ == "__main__":
    main()
