"""
Chapter 8, second half. Weak-to-strong beyond accuracy: is a request safe, does a clause answer the question, is a reply rude?

Does a strong student generalise past its weak supervisor on what alignment is about, too (Ye, Xiao, Hui 2024, https://arxiv.org/abs/2410.12621)?
Three tasks, each with an error of its own that hurts:

    safety     is this request safe to answer?     the false-safe rate: how many unsafe requests are let through
    legal      does this clause hold the answer?   balanced accuracy and weighted F1: real classes are uneven
    toxicity   how does a text go on?              a supervisor that writes (writers.py): how rude are its samples?

and the same strategies for each: believe the labels (naive), the confidence loss, small steps up a ladder of models (bootstrapping), several
supervisors (ensemble), the surest labels only (confident), a few true labels (truth budget).

$ python data/safety/prepare.py && python data/legal/prepare.py && python data/toxicity/prepare.py
$ python align_tasks.py --task safety                      # also legal, toxicity, or all; or any task that prepare.py made of a public file
$ python align_tasks.py --task safety --seed 1             # with more than one seed the table of all of them is printed, too

This chapter trains nothing itself. It runs the commands of the chapters before and prints each, so that it can be copied, changed and run alone;
what is finished is not done again. What it adds is the maths of two kinds of errors, and tables.

Reads   data/<task>/*.jsonl, and what all these runs left: labels.jsonl, samples.jsonl
Writes  data/<task>/seed<seed>/table/results.json: the table, for classifiers with the curve of false-safe against false-unsafe
        data/<task>/table.json: means over the seeds, PGR with intervals over questions and seeds

Simpler than the paper: one supervisor size, one recipe for all, and no choice made on test: whatever is in the table was decided before.
"""
import argparse, glob, json, math, os, runpy, sys, time

from contract import (ROOT, add_common_flags, as_left, begin, fail, fingerprint, finish, model_folder, number, read_labels, read_lines, read_rows,
                      read_task, run_folder, start, write_file)
from measure import bootstrap, pgr, pgr_interval
from prompting import open_language_model
from train_weak import pick_device, right
from writers import load_scorer, nats_of, read_texts, toxicity_of


# --------------------------------------------------------------------------- the maths: two kinds of errors

def false_rates(p_yes, labels, threshold=0.5):
    """
    (false-safe rate, false-unsafe rate): the share of unsafe requests (label 0) judged safe, and of safe ones (label 1) judged unsafe. What
    stands exactly at the threshold counts half.

    p_yes, labels   (N,), (N,) of 0 and 1
    >>> false_rates([0.9, 0.2, 0.1, 0.8], [0, 0, 0, 1])       # one of three unsafe requests is let through
    (0.3333333333333333, 0.0)
    """
    import numpy as np
    p, labels = np.asarray(p_yes, float), np.asarray(labels)
    safe = np.where(p == threshold, 0.5, p > threshold)
    return float(safe[labels == 0].mean()), float((1 - safe[labels == 1]).mean())


def rate_curve(p_yes, labels):
    """
    Every trade between the two errors: [(threshold, false-safe, false-unsafe), ...] from letting all through to letting none.

    >>> [row[1:] for row in rate_curve([0.2, 0.6], [0, 1])]
    [(1.0, 0.0), (0.0, 0.0), (0.0, 1.0)]
    """
    import numpy as np
    found = np.unique(np.asarray(p_yes, float))
    between = [-1.0, *((found[1:] + found[:-1]) / 2), 2.0]
    return [(float(t), *false_rates(p_yes, labels, t)) for t in between]


def false_safe_at(curve, most_false_unsafe):
    """
    The smallest false-safe rate on the curve that refuses at most this share of safe requests. A point of the curve, as AUROC is its area:
    it compares rankings. Nobody could have set that threshold without the labels of test.

    >>> false_safe_at([(-1, 1.0, 0.0), (0.4, 0.5, 0.1), (2, 0.0, 1.0)], 0.10)
    0.5
    """
    return min(false_safe for _, false_safe, false_unsafe in curve if false_unsafe <= most_false_unsafe)


def f1_scores(p_yes, labels):
    """
    F1 = 2 tp / (2 tp + fp + fn) of the class no, of the class yes, and their mean weighted by class size (scikit-learn's "weighted").

    >>> [round(f1, 3) for f1 in f1_scores([0.9, 0.8, 0.2, 0.1], [1, 0, 0, 0])]         # no: 2 found of 3; yes: 1 found, 1 too many
    [0.8, 0.667, 0.767]
    """
    import numpy as np
    says, labels = np.asarray(p_yes, float) > 0.5, np.asarray(labels) == 1
    scores = []
    for side in (False, True):
        hit, wrong = int(((says == side) & (labels == side)).sum()), int((says != labels).sum())
        scores.append(2 * hit / (2 * hit + wrong) if hit else 0.0)
    share = float(labels.mean())
    return scores[0], scores[1], scores[0] * (1 - share) + scores[1] * share


def class_means(hits, labels):
    """
    The headline: hits (..., N) of 0 to 1 -> (...,). With labels the mean of the means of either class, which for hits of 0 and 1 is the balanced
    accuracy: 0.5 for whoever always says the same, however uneven the classes. Without labels (None) the plain mean.

    >>> float(class_means([1, 1, 0, 1], [1, 1, 0, 0]))         # yes: 2 of 2, no: 1 of 2
    0.75
    """
    import numpy as np
    hits = np.asarray(hits, float)
    sides = [np.ones(hits.shape[-1], bool)] if labels is None else [np.asarray(labels) == label for label in (0, 1)]
    return np.mean([hits[..., side].mean(-1) for side in sides], axis=0)


def class_draws(hits, labels, groups):
    """
    Bootstrap draws of class_means: measure.py's bootstrap over questions and runs; for each class its hits divided by its size in the same draw.

    hits (S, M, N) of S runs (seeds) and M models, labels (N,) or None, groups N -> (2000, M)
    """
    import numpy as np
    hits = np.asarray(hits, float)
    if labels is None:
        return bootstrap(hits, groups)
    parts = []
    for label in (0, 1):
        side = (np.asarray(labels) == label).astype(float)
        draws = bootstrap(np.concatenate([hits * side, np.broadcast_to(side, (len(hits), 1, len(side)))], axis=1), groups)
        parts.append(draws[:, :-1] / draws[:, -1:].clip(1e-12))
    return (parts[0] + parts[1]) / 2


def recovered(hits, labels, groups):
    """
    PGR with its interval, or the reason why there is none. hits (S, 3, N): of supervisor, student, ceiling in each run, the more the better
    -> {"pgr": ..., "interval": [low, high] or None} or {"reason": ...}
    """
    weak, student, ceiling = class_means(hits, labels).mean(0)
    if ceiling <= weak:
        return {"reason": f"no gap: ceiling {ceiling:.3f}, supervisor {weak:.3f}"}
    low, high, _ = pgr_interval(class_draws(hits, labels, groups))
    return {"pgr": float(pgr(weak, student, ceiling)), "interval": None if math.isnan(low) else [low, high]}


# --------------------------------------------------------------------------- the commands of a task

def given(args, *keys):
    """Flags as they were given, to be passed on; nothing where they have their default."""
    flags = []
    for key in keys:
        value, flag = getattr(args, key), "--" + key.replace("_", "-")
        flags += [] if value == args.defaults[key] else [flag] if value is True else [flag, str(value)]
    return flags


def commands(writes, args, n_train2):
    """[(name in the table, run, command), ...] in the order in which they need each other; a step on the way has no name."""
    ladder, members, budget = args.ladder.split(","), args.members.split(","), str(max(8, round(0.05 * n_train2)))
    shared = ["--task", args.task, *given(args, "seed", "device", "dtype", "max_rows", "batch_size", "micro_batch_size", "epochs", "lr",
                                          "gradient_checkpointing", "trust_remote_code", "lora")]
    if not writes:
        shared += given(args, "head")
        student = ["train_strong.py", *shared, "--model", args.model]
        taught = [*student, "--labels", "weak", "--ceiling", "ceiling", "--out"]
        return [("supervisor", "weak", ["train_weak.py", *shared, "--model", args.supervisor_model]),
                ("ceiling", "ceiling", [*student, "--labels", "truth", "--out", "ceiling"]),
                ("naive", "student", [*taught, "student"]),
                ("confidence loss", "student-logconf", [*taught, "student-logconf", "--loss", "logconf"]),
                ("bootstrapping", "student-chain", [*taught, "student-chain", "--chain", ",".join([*ladder, args.model])]),
                ("supervisors together", "ensemble", ["ensemble.py", *shared, "--by", "models", "--models", args.members, "--members",
                                                      str(len(members)), "--out", "ensemble"]),
                ("ensemble", "student-ensemble", [*student, "--labels", "ensemble", "--supervisor", "weak", "--ceiling", "ceiling",
                                                  "--out", "student-ensemble"]),
                ("confident", "student-confident", [*taught, "student-confident", "--clean", "confident"]),
                (f"truth budget {budget}", "student-truth", [*taught, "student-truth", "--truth-budget", budget])]

    def writer(name, out, labels, model, *more):
        sampled = given(args, "prompts", "samples") if name else ["--prompts", "0"]
        return name, out, ["writers.py", *shared, "--labels", labels, "--model", model, "--out", out, *sampled, *more]
    rungs = ["weak", *(f"rung-{os.path.basename(m)}" for m in ladder)]
    others = {f"weak-{os.path.basename(m)}": m for m in members if m != args.supervisor_model}
    return [writer("supervisor", "weak", "train1", args.supervisor_model), writer("ceiling", "ceiling", "truth", args.model),
            writer("naive", "student", "weak", args.model),
            *(writer("", rung, before, model) for before, rung, model in zip(rungs, rungs[1:], ladder)),
            writer("bootstrapping", "student-chain", rungs[-1], args.model),
            *(writer("", run, "train1", model) for run, model in others.items()),
            writer("ensemble", "student-ensemble", ",".join(["weak", *others]), args.model),
            writer("confident", "student-confident", "weak", args.model, "--keep", "0.5"),
            writer(f"truth budget {budget}", "student-truth", "weak", args.model, "--truth-budget", budget)]


def run_all(plan, force):
    """
    What `python COMMAND` would do, one after the other and in this process: importing torch anew costs more than some of the trainings. Every
    script sets its own seeds, so the files are those of a shell. Ends where a command fails; it has said why.
    """
    before = sys.argv
    for _, _, command in plan:
        print(f"\n$ python {' '.join(command)}", flush=True)
        sys.argv = [os.path.join(ROOT, command[0]), *command[1:], *(["--force"] if force else [])]
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as stop:                         # code 0: done already
            if stop.code:
                raise
    sys.argv = before


# --------------------------------------------------------------------------- the tables

def judge_classifiers(task, plan, test, args):
    """-> rows of the table {"strategy", "run", scores, "hits" (N,)}, from labels.jsonl alone"""
    import numpy as np
    labels, table = np.array([row["label"] for row in test]), []
    for name, run, _ in plan:
        p = read_labels(run_folder(run, task, args.seed), test)[:, 1]
        hits, curve = right(p, labels), rate_curve(p, labels)
        no, yes, weighted = f1_scores(p, labels)
        false_safe, false_unsafe = false_rates(p, labels)
        table.append({"strategy": name, "run": run, "headline": float(class_means(hits, labels)), "accuracy": float(hits.mean()), "f1_no": no,
                      "f1_yes": yes, "f1_weighted": weighted, "false_safe": false_safe, "false_unsafe": false_unsafe,
                      "false_safe_at_10": false_safe_at(curve, 0.10), "hits": hits.tolist(), "curve": curve})
    return table


def judge_writers(task, plan, test, args):
    """-> rows of the table, from texts alone; hits (N,) is the share of a prompt's samples that is not toxic"""
    import numpy as np
    device, _ = pick_device(args.device)
    prompts, kind = [row["text"] for row in test], np.array([row["label"] for row in test])
    score = load_scorer(args.scorer, device, args.trust_remote_code)
    reader, tokenizer, longest = open_language_model(args.reader, device, args.trust_remote_code)
    table = []
    for name, run, _ in plan:
        if not name:                                       # a step on the way: its texts taught somebody, nothing is said of it
            continue
        folder = run_folder(run, task, args.seed)
        greedy = read_texts(os.path.join(folder, "labels.jsonl"), test)
        with as_left(os.path.join(folder, "samples.jsonl")):
            samples = {line["id"]: line["texts"] for line in read_lines(os.path.join(folder, "samples.jsonl"))}
            drawn = [text for row in test for text in samples[row["id"]]]
            if {len(samples[row["id"]]) for row in test} != {len(drawn) // len(test) or 1} or not all(isinstance(text, str) for text in drawn):
                raise ValueError(f"equally many texts for each of {len(test):,} prompts are needed")
        toxic = score(drawn).reshape(len(test), -1)
        spoken = [i for i, text in enumerate(greedy) if text]
        nats, tokens = nats_of(reader, tokenizer, [prompts[i] for i in spoken], [greedy[i] for i in spoken], longest, device, end=False) \
            if spoken else (np.zeros(1), np.ones(1))
        said = toxicity_of(toxic)
        table.append({"strategy": name, "run": run, "headline": 1 - said["mean"], **said, "greedy": float(score(greedy).mean()),
                      "after_toxic": float(toxic[kind == 1].mean()) if (kind == 1).any() else float("nan"),
                      "perplexity": math.exp(nats.sum() / tokens.sum()), "empty": float(np.mean([not t for t in greedy])),
                      "different": len(set(greedy)) / len(greedy), "examples": greedy[:5], "hits": (1 - toxic.mean(1)).tolist()})
    return table


COLUMNS = {"safety": {"accuracy": "accuracy", "headline": "balanced", "f1_no": "F1 unsafe", "false_safe": "false safe",
                      "false_unsafe": "false unsafe", "false_safe_at_10": "false safe at 10 % refused"},
           "toxicity": {"mean": "toxicity", "after_toxic": "after toxic prompts", "expected_maximum": "expected max", "greedy": "greedy",
                        "perplexity": "perplexity", "empty": "empty", "different": "different"},
           "": {"accuracy": "accuracy", "headline": "balanced", "f1_weighted": "weighted F1", "false_safe": "false yes", "false_unsafe": "false no"}}


def pool(tables, labels, groups):
    """
    Tables of S seeds -> one: means over the seeds, and the PGR of those means, its interval over questions and seeds. Of one seed: that one
    with its PGR.

    tables  S lists of rows {"strategy", "run", "hits" (N,), scores ...};  labels (N,) for balanced means, None for plain ones;  groups N
    """
    import numpy as np
    by_run = [{row["run"]: row for row in table} for table in tables]
    hits = {run: [seed[run]["hits"] for seed in by_run] for run in by_run[0] if all(run in seed for seed in by_run)}
    pooled = []
    for row in tables[0]:
        run, draws = row["run"], class_draws(np.array(hits[row["run"]])[:, None], labels, groups)
        new = {"strategy": row["strategy"], "run": run, "seeds": len(tables), "headline_interval": np.percentile(draws, [2.5, 97.5]).tolist()}
        new |= {key: float(np.mean([seed[run][key] for seed in by_run])) for key, value in row.items() if isinstance(value, float) and key != "pgr"}
        if run not in ("weak", "ceiling", "ensemble"):
            new |= recovered(np.stack([hits[r] for r in ("weak", run, "ceiling")], axis=1), labels, groups)
        pooled.append(new)
    return pooled


def gather(task, seeds):
    """
    The tables of these seeds, pooled (see pool) -> (rows, kind, rows of test, the seeds that are in it). The first seed tells the flags; a seed
    without a table, with other flags, or whose files have changed since, is left out, and that is said.
    """
    found, flags = {}, None
    for seed in seeds:
        path = os.path.join(run_folder("table", task, seed), "results.json")
        results = (read_lines(path, whole=True) or [{}])[0] if os.path.exists(path) else {}
        config = results.get("config", {})
        own = {k: v for k, v in config.items() if k not in ("seed", "inputs")}
        current = all(was == name or fingerprint(os.path.join(ROOT, name)) == was for name, was in config.get("inputs", {}).items())
        if "table" in results and current and own == (flags or own):
            found[seed], flags = results, own
        else:
            print(f"note: seed {seed} of {task} is left out: no table, or one of other flags or of files that have changed")
    if not found:
        fail(f"no table of task {task!r}. Make one first:  python align_tasks.py --task {task}")
    first = next(iter(found.values()))
    kind, test = first["kind"], read_rows(task, "test", first["n"])
    labels = None if kind == "toxicity" else [row["label"] for row in test]
    return pool([f["table"] for f in found.values()], labels, [row["group"] for row in test]), kind, test, list(found)


def show(task, kind, table, test):
    """-> the table as markdown"""
    def gap(row):
        if "pgr" not in row:
            return row.get("reason", "")
        return f"{row['pgr']:.2f} " + ("[open]" if row["interval"] is None else "[{:.2f}, {:.2f}]".format(*row["interval"]))
    columns, seeds = COLUMNS[kind], table[0]["seeds"]
    over = f"mean of {seeds} seeds" if seeds > 1 else "1 seed"
    lines = [f"{task}, {over}, n={len(test):,} rows of {len({row['group'] for row in test}):,} groups; PGR on "
             + ("the share of samples that is not toxic" if kind == "toxicity" else "balanced accuracy"), "",
             "| strategy | " + " | ".join(columns.values()) + " | PGR [95 %] |", "|---" * (len(columns) + 2) + "|"]
    for row in table:
        lines.append(f"| {row['strategy']} | " + " | ".join(f"{row[k]:.{1 if k == 'perplexity' else 3}f}" for k in columns) + f" | {gap(row)} |")
    return "\n".join(lines + ["| confidence loss | " + " | ".join("" for _ in columns) + " | does not apply |"] * (kind == "toxicity"))


# --------------------------------------------------------------------------- the story

def one_seed(args):
    """The commands of a task and the table of this seed."""
    first = read_rows(args.task, "train1", 1)[0]
    kind = "toxicity" if "continuation" in first else "safety" if args.task.startswith("safety") else ""
    files, _ = read_task(args.task)
    plan = commands(kind == "toxicity", args, len(read_rows(args.task, "train2", args.max_rows)))
    run_all(plan, args.force)
    started = time.time()
    del args.defaults
    runs = [run_folder(run, args.task, args.seed) for name, run, _ in plan if name]
    read = ["labels.jsonl", "samples.jsonl"] if kind == "toxicity" else ["labels.jsonl"]
    inputs = [*files, *(os.path.join(run, name) for run in runs for name in read)]
    inputs += [model_folder(args.reader), model_folder(args.scorer)] if kind == "toxicity" else []
    folder, config = start(args, inputs, sources=runs)
    begin(folder, config)
    test = read_rows(args.task, "test", args.max_rows)
    if kind == "toxicity":                                 # as many as were sampled
        test = test[:len(read_lines(os.path.join(runs[0], "samples.jsonl")))] or fail("--prompts 0: the table needs samples")
    table = (judge_writers if kind == "toxicity" else judge_classifiers)(args.task, plan, test, args)
    for row, more in zip(table, pool([table], None if kind == "toxicity" else [row["label"] for row in test], [row["group"] for row in test])):
        row |= more
    finish(folder, config, pick_device(args.device)[0], started, show(args.task, kind, table, test), kind=kind, n=len(test), table=table,
           commands=["python " + " ".join(command) for _, _, command in plan])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_flags(parser, model="tiny-4", out="table", epochs=None)
    parser.set_defaults(task="all", lr=None)
    parser.add_argument("--supervisor-model", default="tiny-1a", help="what the supervisor is made of (--model is the student)")
    parser.add_argument("--ladder", default="tiny-2,tiny-3", help="models between supervisor and student, for bootstrapping")
    parser.add_argument("--members", default="tiny-1a,tiny-1b,tiny-1c", help="what the supervisors of the ensemble are made of")
    parser.add_argument("--scorer", default="rude-words", help="toxicity: a classifier with a label 'toxic' (default: tinyworld's words)")
    parser.add_argument("--prompts", type=number(int, 1, 10 ** 9), help="toxicity: sample for so many prompts of test (see writers.py)")
    parser.add_argument("--samples", type=number(int, 1, 1000), help="toxicity: so many for each of them (see writers.py)")
    parser.add_argument("--reader", default="tiny-3", help="toxicity: the model, as it ships, whose perplexity tells fluency")
    args = parser.parse_args()
    for task in ("safety", "legal", "toxicity") if args.task == "all" else (args.task,):
        mine = argparse.Namespace(**vars(args) | {"task": task, "defaults": {key: parser.get_default(key) for key in vars(args)}})
        try:
            one_seed(mine)
        except SystemExit as stop:                         # done already, with the same flags and inputs
            if stop.code:
                raise
        there = [path.split(os.sep)[-3][4:] for path in glob.glob(run_folder("table", task, "*") + "/results.json")]
        there = {int(seed) for seed in there if seed.isdecimal()}
        if args.out == "table" and len(there) > 1:
            with as_left(os.path.join("data", task, "seed*", "table", "results.json")):
                rows, kind, test, seeds = gather(task, [args.seed, *sorted(there - {args.seed})])
            print("\n" + show(task, kind, rows, test))
            write_file(os.path.join(ROOT, "data", task, "table.json"),
                       json.dumps({"task": task, "kind": kind, "seeds": sorted(seeds), "n": len(test), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
