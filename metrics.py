"""
How good are labels, how far did a student come, and could it be chance?

    PGR = (student - supervisor) / (ceiling - supervisor)       performance gap recovered: 0 = no better, 1 = all of it

A PGR is a quotient of two small differences: one point of accuracy can be thirty points of PGR. Three habits keep it
honest. Supervisor, student and ceiling are scored on the same rows, and differ only in the labels they learned from.
Its interval comes from resampling questions, not rows, and runs, where there are several. Where the ceiling is not
clearly above the supervisor, a sentence says so and no PGR is printed.

Needs   contract.py
"""
import os

import numpy as np

from contract import fail, read_config, read_labels, read_rows

# --------------------------------------------------------------------------- small helpers


def sigmoid(z):
    """(...) log odds -> (...) probabilities, without overflow"""
    return 1 / (1 + np.exp(-np.clip(np.asarray(z, float), -500, 500)))


def unit_rows(x):
    """(N, C) -> (N, C), each row of length 1"""
    return x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-12)


def cosine_similarity(a, b):
    """(M, C), (N, C) -> (M, N)"""
    return unit_rows(a) @ unit_rows(b).T


def clustered_se(values, groups):
    """
    Standard error of a mean whose rows come in groups (the answers to one question) that succeed or fail together; a
    plain standard error would be too small. values (N,), groups N -> float

    >>> round(float(clustered_se(np.array([1., 1., 0., 0.]), ["a", "a", "b", "b"])), 3)     # 4 rows, 2 questions
    0.354
    """
    member = np.unique(groups, return_inverse=True)[1]
    return np.sqrt((np.bincount(member, values - values.mean()) ** 2).sum()) / len(values)


# --------------------------------------------------------------------------- one model


def correct(p_yes, labels):
    """
    Row by row: 1.0 if the verdict at 1/2 is correct, 0.5 for a tie, 0.0 if it is wrong. A model that always outputs 0.5
    knows nothing and scores 0.5. (N,), (N,) of 0 and 1 -> (N,)
    """
    p_yes = np.asarray(p_yes, float)
    labels = np.asarray(labels)
    return np.where(p_yes == 0.5, 0.5, (p_yes > 0.5) == (labels == 1)).astype(float)


def accuracy(p_yes, labels):
    """
    Share of correct verdicts, ties half.

    p_yes, labels   (N,), (N,) of 0 and 1
    >>> accuracy([0.9, 0.2, 0.5, 0.6], [1, 0, 1, 0])
    0.625
    """
    return float(correct(p_yes, labels).mean())


def auroc(p_yes, labels):
    """
    Chance that a random row with label 1 scores above a random row with label 0 (ties half), by the rank sum of Mann
    and Whitney. nan if one class is missing.

    >>> auroc([0.9, 0.8, 0.3, 0.2], [1, 0, 1, 0])     # of 4 pairs, 3 are in order
    0.75
    """
    p_yes = np.asarray(p_yes, float)
    labels = np.asarray(labels)
    n_yes = int((labels == 1).sum())
    n_no = int((labels == 0).sum())
    if not n_yes or not n_no:
        return float("nan")
    _, inverse, counts = np.unique(p_yes, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]             # 1-based; tied rows share their mean rank
    return float((ranks[labels == 1].sum() - n_yes * (n_yes + 1) / 2) / (n_yes * n_no))


def ece(p_yes, labels, bins=10):
    """
    Expected calibration error: |confidence - accuracy|, averaged over ten equal bins of confidence from 0.5 to 1.

    >>> round(ece([0.8, 0.8, 0.8, 0.8], [1, 1, 0, 0]), 3)     # confidence 80 %, correct half of the time
    0.3
    """
    confidence = np.maximum(p_yes, 1 - np.asarray(p_yes, float))
    bin_of = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    hits = correct(p_yes, labels)
    return float(sum(abs((confidence - hits)[bin_of == b].sum()) for b in range(bins)) / len(hits))


def all_metrics(soft_labels, rows):
    """
    Every number that is reported about a model, on rows that carry their true label.

    soft_labels (N, 2), N rows -> dict: n, accuracy, se (clustered by group), chance (share of the larger class), auroc,
    ece, share_yes (of the truth), says_yes (share of verdicts "yes")
    """
    p_yes = np.asarray(soft_labels, float)[:, 1]
    labels = np.array([row["label"] for row in rows])
    hits = correct(p_yes, labels)
    share_yes = float(labels.mean())
    return {"n": len(rows), "accuracy": float(hits.mean()),
            "se": float(clustered_se(hits, [row["group"] for row in rows])),
            "chance": max(share_yes, 1 - share_yes), "auroc": auroc(p_yes, labels), "ece": ece(p_yes, labels),
            "share_yes": share_yes, "says_yes": float((p_yes > 0.5).mean())}


def format_metrics(name, m):
    """One line about one model: its accuracy, the standard error, and what to compare it with."""
    below = " | BELOW CHANCE: diverged?" if m["accuracy"] + 2 * m["se"] < m["chance"] else ""
    return (f"{name} {m['accuracy']:.3f} ±{m['se']:.3f} | AUROC {m['auroc']:.3f} | ECE {m['ece']:.3f} | "
            f"says yes {m['says_yes']:.2f} of {m['share_yes']:.2f} | chance {m['chance']:.3f} | n={m['n']:,}{below}")


# --------------------------------------------------------------------------- supervisor, student, ceiling


def pgr(supervisor, student, ceiling):
    """
    Performance gap recovered (Burns et al. 2023, section 3); nan where there is no gap.

    >>> round(pgr(supervisor=0.60, student=0.75, ceiling=0.80), 2)
    0.75
    >>> pgr(supervisor=0.80, student=0.75, ceiling=0.80)           # no gap to recover
    nan
    """
    gap = ceiling - supervisor
    return (student - supervisor) / gap if gap > 0 else float("nan")


def bootstrap(hits, groups, n_draws=2000, seed=0):
    """
    Accuracies on 2,000 resampled test sets: questions are drawn with replacement, and runs too where there are several.

    hits      (S, M, N)  1, 0.5 or 0: in run (seed) s, is model m correct on row n? All models share each draw (paired)
    groups    N          the question a row belongs to; its rows are not independent and are drawn together
    returns   (n_draws, M)
    """
    hits = np.asarray(hits, float)
    rng = np.random.default_rng(seed)
    names, member = np.unique(groups, return_inverse=True)
    n_groups = len(names)
    n_runs = len(hits)
    sums = np.stack([[np.bincount(member, weights=h, minlength=n_groups) for h in run] for run in hits])    # (S, M, G)
    sizes = np.bincount(member, minlength=n_groups)                                                         # (G,)
    questions = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), n_draws)                         # (draws, G)
    runs = rng.multinomial(n_runs, np.full(n_runs, 1 / n_runs), n_draws) / n_runs                           # (draws, S)
    return np.einsum("ds,smd->dm", runs, sums @ questions.T) / (questions @ sizes)[:, None]


def pgr_interval(draws):
    """
    95 % interval of the PGR from bootstrap draws (n_draws, 3) of the accuracies of supervisor, student and ceiling.

    returns   (low, high, share of draws without a gap); if more than 1 draw in 40 has none, the interval is open: nan,
              nan
    """
    weak, student, ceiling = draws.T
    gap = ceiling - weak
    without = float((gap <= 0).mean())
    if without > 0.025:
        return float("nan"), float("nan"), without
    low, high = np.percentile((student - weak)[gap > 0] / gap[gap > 0], [2.5, 97.5])
    return float(low), float(high), without


def paired_gain(p_yes, baseline, rows):
    """
    Accuracy of one model minus that of another on the same rows, with a 95 % bootstrap interval over questions.

    p_yes, baseline (N,), rows with label and group -> (gain, low, high)
    """
    labels = [row["label"] for row in rows]
    hits = [correct(p, labels) for p in (p_yes, baseline)]
    draws = bootstrap([hits], [row["group"] for row in rows])
    low, high = np.percentile(draws[:, 0] - draws[:, 1], [2.5, 97.5])
    return float(hits[0].mean() - hits[1].mean()), float(low), float(high)


def compare_models(rows, supervisor, student, ceiling=None):
    """
    Every number that relates a student to its supervisor and ceiling, all on the same rows.

    rows with label and group; supervisor, student, ceiling: (N, 2) soft labels -> dict
    """
    truth = [row["label"] for row in rows]
    hits = {}
    for name, probs in (("supervisor", supervisor), ("student", student), ("ceiling", ceiling)):
        if probs is not None:
            hits[name] = correct(probs[:, 1], truth)
    agrees = (student[:, 1] > 0.5) == (supervisor[:, 1] > 0.5)
    supervisor_correct = hits["supervisor"] == 1
    out = {name: float(h.mean()) for name, h in hits.items()}
    for name, which in (("right", supervisor_correct), ("wrong", ~supervisor_correct)):
        out[f"agrees_where_supervisor_{name}"] = float(agrees[which].mean()) if which.any() else None
    if ceiling is None:
        out["pgr_reason"] = "no --ceiling was given"
    elif out["ceiling"] <= out["supervisor"]:
        out["pgr_reason"] = (f"the ceiling ({out['ceiling']:.3f}) is not above the supervisor "
                             f"({out['supervisor']:.3f}): no gap to recover")
    else:
        out["pgr"] = pgr(out["supervisor"], out["student"], out["ceiling"])
        low, high, without = pgr_interval(bootstrap([list(hits.values())], [row["group"] for row in rows]))
        out["pgr_interval"] = None if np.isnan(low) else [low, high]
        out["pgr_draws_without_gap"] = without
    return out


def format_share(value):
    """0.8781 -> "0.878"; None -> "(no such rows)" """
    return "(no such rows)" if value is None else f"{value:.3f}"


def format_comparison(c, m):
    """compare_models' and all_metrics' dicts -> "supervisor | student | ceiling | PGR [interval] | chance | n" """
    interval = "[interval open: the gap is within its noise]"
    if c.get("pgr_interval") is not None:
        interval = "[{:.2f}, {:.2f}]".format(*c["pgr_interval"])
    recovered = f"PGR {c['pgr']:.2f} {interval}" if "pgr" in c else f"no PGR: {c['pgr_reason']}"
    ceiling = f"ceiling {c['ceiling']:.3f}" if "ceiling" in c else "ceiling unknown"
    return (f"supervisor {c['supervisor']:.3f} | student {m['accuracy']:.3f} ±{m['se']:.3f} | {ceiling} | {recovered} "
            f"| chance {m['chance']:.3f} | n={m['n']:,}")


def print_cases(title, indices, rows, supervisor, student, n=3):
    """Print how many of these rows there are, and the first n with both verdicts. supervisor, student: (N, 2)"""
    print(f"{title}: {len(indices):,} of {len(rows):,}")
    for i in indices[:n]:
        truth = "yes" if rows[i]["label"] else "no"
        print(f"  {rows[i]['id']}  truth {truth} | supervisor yes {supervisor[i, 1]:.2f} | "
              f"student yes {student[i, 1]:.2f} | {rows[i]['text'][-110:]!r}")


# --------------------------------------------------------------------------- which runs may be compared


SAME_IN_STUDENT_AND_CEILING = ("task", "model", "head", "epochs", "lr", "lora", "batch_size", "max_rows", "seed")


def check_comparison(identity, supervisor, ceiling, role="ceiling", same=SAME_IN_STUDENT_AND_CEILING):
    """
    Find before training what would otherwise show only after it. A PGR needs a ceiling that differs from the student in
    its labels alone: a run of role `role`, with the same flags.

    identity              the student's {"task", "seed", "max_rows", ...}, as it will stand in its config
    supervisor, ceiling   folders, or None
    """
    rows = read_rows(identity["task"], "test", identity["max_rows"])
    test_ids = [{"id": row["id"]} for row in rows]             # ids alone: nothing else of test is used yet
    for name, folder in (("--supervisor", supervisor), ("--ceiling", ceiling)):
        if folder and not os.path.exists(os.path.join(folder, "labels.jsonl")):
            fail(f"{name}: no labels at {os.path.relpath(folder)}/labels.jsonl. Run the command that makes them first")
        if folder:
            read_labels(folder, test_ids)
    if not ceiling:
        return
    config = read_config(ceiling)
    if config.get("role") != role:
        reason = f"its role is {config['role']}" if "role" in config else "it has no role: run its command again"
        fail(f"--ceiling {os.path.relpath(ceiling)} was not made with --labels truth ({reason}): it is no ceiling")
    for key in same:
        if config.get(key) != identity[key]:
            fail(f"--ceiling {os.path.relpath(ceiling)} was made with --{key.replace('_', '-')} {config.get(key)}, "
                 f"this run has {identity[key]}: they must differ in their labels alone")
