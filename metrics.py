"""
How good are labels, how far did a student come, and could it be chance?

    PGR = (student - supervisor) / (ceiling - supervisor)       performance gap recovered: 0 = no better, 1 = all of it

A PGR is a quotient of two small differences: one point of accuracy can be thirty points of PGR. Three habits keep it
honest. Supervisor, student and ceiling are scored on the same rows, and differ only in the labels they learned from.
Its interval comes from resampling questions, not rows, and runs, where there are several. Where the ceiling is not
above the supervisor, a sentence says so and no PGR is printed. Where the gap is within its noise, the PGR has no
interval.

Where one class is rare, a model that never says yes has a high accuracy. So all three are compared by balanced accuracy
if the classes are uneven by more than 70/30 (--metric accuracy, balanced or auroc chooses). A model that says only one
class is named, and so is a supervisor that is not above chance.

Needs   contract.py
"""
import os
from types import SimpleNamespace

import numpy as np

from contract import fail, labels_folder, read_config, read_known, read_labels, read_rows, run_folder, show_row

# --------------------------------------------------------------------------- small helpers


def sigmoid(z):
    """(...) log odds -> (...) probabilities, without overflow"""
    return 1 / (1 + np.exp(-np.clip(np.asarray(z, float), -500, 500)))


def to_soft_labels(p_yes):
    """N p(yes), or true labels of 0 and 1 -> (N, 2) float32, (p_no, p_yes)"""
    p_yes = np.asarray(p_yes)
    return np.stack([1 - p_yes, p_yes], axis=1).astype(np.float32)


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


def balanced_accuracy(p_yes, labels):
    """
    The mean of the accuracies on the two classes: 1/2 for a model that says always the same. nan if a class is missing.

    >>> balanced_accuracy([0.1, 0.2, 0.3, 0.4], [0, 0, 0, 1])      # accuracy 0.75, yet it never says yes
    0.5
    """
    hits = correct(p_yes, labels)
    is_yes = np.asarray(labels) == 1
    if is_yes.all() or not is_yes.any():
        return float("nan")
    return float((hits[is_yes].mean() + hits[~is_yes].mean()) / 2)


METRICS = {"accuracy": accuracy, "balanced": balanced_accuracy, "auroc": auroc}
METRIC_NAMES = {"accuracy": "accuracy", "balanced": "balanced accuracy", "auroc": "AUROC"}


def pick_metric(name, labels):
    """
    --metric auto: balanced accuracy where classes are uneven by more than 70/30, else accuracy. Other names stay.

    >>> pick_metric("auto", [0, 0, 0, 1]), pick_metric("auto", [0, 1]), pick_metric("auroc", [0, 1])
    ('balanced', 'accuracy', 'auroc')
    """
    share_yes = float(np.mean(labels))
    if share_yes in (0.0, 1.0):
        return "accuracy"                                  # the others need both classes
    return name if name != "auto" else "accuracy" if 0.3 <= share_yes <= 0.7 else "balanced"


def only_word(p_yes):
    """
    The only verdict that a model gives, "no" or "yes"; "" if it gives both, or nothing but ties.

    >>> only_word([0.1, 0.4]), only_word([0.1, 0.6])
    ('no', '')
    """
    p_yes = np.asarray(p_yes)
    return "no" if (p_yes < 0.5).all() else "yes" if (p_yes > 0.5).all() else ""


def label_warnings(p_yes):
    """
    What is wrong with labels at first sight, before anybody is trained on them. (N,) -> list of sentences

    >>> label_warnings([0.7, 0.7, 0.7]), label_warnings([0.1, 0.3]), label_warnings([0.1, 0.9])
    (['they are 0.7 on every row: nothing can be learned from them'], ['they say no on every row'], [])
    """
    p_yes = np.asarray(p_yes, float)
    if np.ptp(p_yes) < 1e-6:
        return [f"they are {p_yes[0]:.3g} on every row: nothing can be learned from them"]
    warnings = [f"they say {only_word(p_yes)} on every row"] if only_word(p_yes) else []
    n_ties = int((p_yes == 0.5).sum())
    if n_ties > 0.05 * len(p_yes):
        warnings.append(f"{n_ties:,} of {len(p_yes):,} are ties of exactly 0.5")
    return warnings


def shuffle_test(prediction, p_yes, n=199, seed=0):
    """
    Do labels depend on what a prediction was made from? The p value of a permutation test: the share of shuffled labels
    that correlate with the prediction as much as the labels do. (N,), (N,) -> 1/200 to 1

    >>> shuffle_test(np.arange(8), [0, 0, 0, 0, 1, 1, 1, 1]) < 0.05, shuffle_test(np.arange(4), [0, 1, 1, 0]) < 0.05
    (True, False)
    """
    x = np.asarray(prediction, float)
    x = x - x.mean()
    y = np.asarray(p_yes, float)
    rng = np.random.default_rng(seed)
    shuffled = np.array([x @ rng.permutation(y) for _ in range(n)])
    return float((1 + (shuffled >= x @ y - 1e-12).sum()) / (n + 1))


def choose_threshold(p_yes, labels):
    """
    The threshold of p(yes) with the best balanced accuracy on rows that no label was learned from: 1/2, unless another
    one is better by more than 1.64 standard errors of the difference. The best of many thresholds may be so by chance:
    where 1/2 is right, another one is taken in a sixth of all cases, and costs 0.03 with 20 rows, 0.004 with 300.

    p_yes, labels   (N,), (N,) of 0 and 1
    >>> choose_threshold([0.1, 0.1, 0.2, 0.3, 0.3, 0.4] * 5, [0, 0, 0, 1, 1, 1] * 5)       # it never says yes, in order
    0.25
    >>> choose_threshold([0.1, 0.9, 0.6], [0, 1, 0])
    0.5
    """
    p_yes = np.asarray(p_yes, float)
    is_yes = np.asarray(labels) == 1
    if not len(p_yes) or is_yes.all() or not is_yes.any():
        return 0.5
    weights = np.where(is_yes, 0.5 / is_yes.mean(), 0.5 / (~is_yes).mean())    # of mean 1: balanced accuracy is a mean
    values = np.unique(p_yes)
    best = 0.5
    best_hits = weights * ((p_yes > 0.5) == is_yes)
    default = best_hits
    for threshold in (values[1:] + values[:-1]) / 2:
        hits = weights * ((p_yes > threshold) == is_yes)
        if hits.mean() > best_hits.mean():
            best = float(threshold)
            best_hits = hits
    gain = best_hits - default
    return best if gain.mean() > 1.64 * gain.std() / np.sqrt(len(gain)) else 0.5


def ece(p_yes, labels, bins=10):
    """
    Expected calibration error: |confidence - accuracy|, averaged over ten equal bins of confidence from 0.5 to 1.

    >>> round(ece([0.8, 0.8, 0.8, 0.8], [1, 1, 0, 0]), 3)     # confidence 80 %, correct half of the time
    0.3
    """
    confidence = np.maximum(p_yes, 1 - np.asarray(p_yes, float))
    bin_of = np.minimum(((confidence - 0.5) * 2 * bins + 1e-5).astype(int), bins - 1)    # 0.9 is 0.89999998 in float32
    hits = correct(p_yes, labels)
    return float(sum(abs((confidence - hits)[bin_of == b].sum()) for b in range(bins)) / len(hits))


def all_metrics(soft_labels, rows):
    """
    Every number that is reported about a model, on rows that carry their true label.

    soft_labels (N, 2), N rows -> dict: n, accuracy, balanced (accuracy), se (of accuracy, clustered by group), chance
    (share of the larger class), auroc, ece, share_yes (of the truth), says_yes (share of verdicts "yes")
    """
    p_yes = np.asarray(soft_labels, float)[:, 1]
    labels = np.array([row["label"] for row in rows])
    hits = correct(p_yes, labels)
    share_yes = float(labels.mean())
    return {"n": len(rows), "accuracy": float(hits.mean()), "balanced": balanced_accuracy(p_yes, labels),
            "se": float(clustered_se(hits, [row["group"] for row in rows])),
            "chance": max(share_yes, 1 - share_yes), "auroc": auroc(p_yes, labels), "ece": ece(p_yes, labels),
            "share_yes": share_yes, "says_yes": float((p_yes > 0.5).mean())}


def format_metrics(name, m):
    """One line about one model: its accuracy, the standard error, and what to compare it with."""
    uneven = pick_metric("auto", [m["share_yes"], m["share_yes"]]) == "balanced"
    balanced = f" | balanced {m['balanced']:.3f}" if uneven else ""
    score, chance = (m["balanced"], 0.5) if uneven else (m["accuracy"], m["chance"])
    below = " | BELOW CHANCE: diverged?" if score + 2 * m["se"] < chance else ""
    if m["says_yes"] in (0, 1) and 0 < m["share_yes"] < 1:
        below += f" | WARNING: it says {'yes' if m['says_yes'] else 'no'} on every row"
    return (f"{name} {m['accuracy']:.3f} ±{m['se']:.3f}{balanced} | AUROC {m['auroc']:.3f} | ECE {m['ece']:.3f} | "
            f"says yes {m['says_yes']:.2f} of {m['share_yes']:.2f} | chance {m['chance']:.3f} | n={m['n']:,}{below}")


# --------------------------------------------------------------------------- supervisor, student, ceiling


NO_GAP = 1e-9                        # a smaller gap is the rounding of two equal scores


def pgr(supervisor, student, ceiling):
    """
    Performance gap recovered (Burns et al. 2023, section 3); nan where there is no gap.

    >>> round(pgr(supervisor=0.60, student=0.75, ceiling=0.80), 2)
    0.75
    >>> pgr(supervisor=0.80, student=0.75, ceiling=0.80)           # no gap to recover
    nan
    """
    gap = ceiling - supervisor
    return (student - supervisor) / gap if gap > NO_GAP else float("nan")


T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)     # 97.5 %, of 1, 2, ... degrees


def stretch_of_runs(n):
    """
    By how much n runs drawn with replacement vary too little: sqrt(n / (n - 1)), since the mean is theirs too, and the
    t quantile over the normal one. From ten runs on the last quantile is kept.

    >>> [round(stretch_of_runs(n), 2) for n in (1, 3, 5, 10)]
    [1.0, 2.69, 1.58, 1.22]
    """
    return 1.0 if n == 1 else (n / (n - 1)) ** 0.5 * T_QUANTILES[min(n - 2, len(T_QUANTILES) - 1)] / 1.96


def bootstrap(hits, groups, n_draws=2000, seed=0):
    """
    Accuracies on 2,000 resampled test sets: questions are drawn with replacement, and runs too where there are several.
    Few runs drawn with replacement vary too little. So the runs' part of each draw is stretched until percentiles are
    as wide as Student's t interval of as many runs (in simulations 0.93 to 1.00 of the intervals of five runs hold the
    true value, also with one run of the five gone wrong; without it 0.83 to 0.98). But where each run fails with
    probability 1/5, and falls far, only 0.64 of them do: in a third of the fives none has failed. One run has no such
    part: its interval is about questions alone.

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
    runs = 1 / n_runs + stretch_of_runs(n_runs) * (runs - 1 / n_runs)
    return np.einsum("ds,smd->dm", runs, sums @ questions.T) / (questions @ sizes)[:, None]


def bootstrap_scores(metric, probs, labels, groups, n_draws=2000, seed=0):
    """
    Scores of M models of one run on 2,000 resampled test sets, as in `bootstrap`, for a metric of METRICS.

    probs (M, N) p(yes), labels (N,) of 0 and 1, groups N -> (at most n_draws, M); draws without one of the classes are
    left out
    """
    labels = np.asarray(labels)
    if metric == "accuracy":
        return bootstrap([[correct(p, labels) for p in probs]], groups, n_draws, seed)
    names, member = np.unique(groups, return_inverse=True)
    rng = np.random.default_rng(seed)
    questions = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), n_draws)      # (draws, G)
    out = []
    for drawn in np.array_split(questions, max(1, len(labels) * n_draws // 10 ** 6)):          # to save memory
        weights = drawn[:, member].astype(float)                                               # (draws, N)
        yes = weights * (labels == 1)
        no = weights * (labels == 0)
        both = yes.any(1) & no.any(1)
        yes = yes[both] / yes[both].sum(1, keepdims=True)
        no = no[both] / no[both].sum(1, keepdims=True)
        if metric == "balanced":
            out.append(np.stack([(yes + no) @ correct(p, labels) / 2 for p in probs], 1))
            continue
        columns = []
        for p in probs:                                    # P(a yes scores above a no), ties half
            order = np.argsort(p, kind="stable")
            first = np.unique(np.asarray(p)[order], return_index=True)[1]
            no_at = np.add.reduceat(no[:, order], first, axis=1)                               # (draws, values)
            yes_at = np.add.reduceat(yes[:, order], first, axis=1)
            columns.append((yes_at * (no_at.cumsum(1) - no_at / 2)).sum(1))
        out.append(np.stack(columns, 1))
    return np.concatenate(out)


def pgr_interval(draws):
    """
    95 % interval of the PGR from bootstrap draws (n_draws, 3) of the accuracies of supervisor, student and ceiling.

    returns   (low, high, share of draws without a gap); if more than 1 draw in 40 has none, the interval is open: nan,
              nan
    """
    weak, student, ceiling = draws.T
    gap = ceiling - weak
    has_gap = gap > NO_GAP
    without = float((~has_gap).mean())
    if without > 0.025:
        return float("nan"), float("nan"), without
    low, high = np.percentile((student - weak)[has_gap] / gap[has_gap], [2.5, 97.5])
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


def format_difference(mean, low, high):
    """
    A paired difference with its interval, and what it shows: nothing, if the interval holds 0.

    >>> format_difference(0.05, 0.02, 0.08), format_difference(0.05, -0.02, 0.12)
    ('+0.050 [+0.020, +0.080] helps', '+0.050 [-0.020, +0.120]')
    """
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]" + (" helps" if low > 0 else " costs" if high < 0 else "")


def compare_models(rows, supervisor, student, ceiling=None, metric="auto"):
    """
    Every number that relates a student to its supervisor and ceiling, all on the same rows: those that all have
    labelled.

    rows with label and group; supervisor, student, ceiling: (N, 2) soft labels, nan where there is none -> dict
    metric   of METRICS, or "auto" (pick_metric): what supervisor, student, ceiling, se, chance and pgr are in
    """
    probs = {"supervisor": supervisor, "student": student, "ceiling": ceiling}
    probs = {name: np.asarray(p, float)[:, 1] for name, p in probs.items() if p is not None}
    known = np.isfinite(list(probs.values())).all(0)
    probs = {name: p[known] for name, p in probs.items()}
    rows = [row for row, is_known in zip(rows, known) if is_known]
    truth = np.array([row["label"] for row in rows])
    groups = [row["group"] for row in rows]
    metric = pick_metric(metric, truth)
    agrees = ((probs["student"] > 0.5) == (probs["supervisor"] > 0.5)) & (probs["student"] != 0.5)
    its_verdicts = correct(probs["supervisor"], truth)     # 1/2 for a tie, which is neither right nor wrong
    out = {name: METRICS[metric](p, truth) for name, p in probs.items()}
    for name, which in (("right", its_verdicts == 1), ("wrong", its_verdicts == 0)):
        out[f"agrees_where_supervisor_{name}"] = float(agrees[which].mean()) if which.any() else None
    draws = bootstrap_scores(metric, list(probs.values()), truth, groups)
    share_yes = float(truth.mean())
    out |= {"metric": metric, "n": len(rows), "chance": max(share_yes, 1 - share_yes) if metric == "accuracy" else 0.5,
            "se": float(clustered_se(correct(probs["student"], truth), groups) if metric == "accuracy"
                        else draws[:, 1].std())}
    one_class = share_yes in (0.0, 1.0)
    out["warnings"] = [f"the {name} says {only_word(p)} on every row" for name, p in probs.items()
                       if only_word(p) and not one_class]
    low, high = np.percentile(draws[:, 0], [2.5, 97.5])
    if high < out["chance"]:
        out["warnings"].append("the supervisor is below chance: are its labels inverted, or its threshold wrong?")
    elif low <= out["chance"] and not one_class:
        out["warnings"].append("the supervisor is not clearly above chance, so a PGR says little")
    if ceiling is None:
        out["pgr_reason"] = "no --ceiling was given"
    elif not out["ceiling"] - out["supervisor"] > NO_GAP:
        out["pgr_reason"] = (f"the ceiling ({out['ceiling']:.3f}) is not above the supervisor "
                             f"({out['supervisor']:.3f}): no gap to recover")
    else:
        out["pgr"] = pgr(out["supervisor"], out["student"], out["ceiling"])
        low, high, _ = pgr_interval(draws)
        out["pgr_interval"] = None if np.isnan(low) else [low, high]
    return out


def format_share(value):
    """0.8781 -> "0.878"; None -> "(no such rows)" """
    return "(no such rows)" if value is None else f"{value:.3f}"


def format_comparison(c, m):
    """
    compare_models' and all_metrics' dicts -> "supervisor | student | ceiling | PGR [interval] | chance | n", with the
    metric in front if it is not accuracy, and warnings at the end
    """
    interval = "[interval open: the gap is within its noise]"
    if c.get("pgr_interval") is not None:
        interval = "[{:.2f}, {:.2f}]".format(*c["pgr_interval"])
    recovered = f"PGR {c['pgr']:.2f} {interval}" if "pgr" in c else f"no PGR: {c['pgr_reason']}"
    ceiling = f"ceiling {c['ceiling']:.3f}" if "ceiling" in c else "ceiling unknown"
    metric = "" if c["metric"] == "accuracy" else f"{METRIC_NAMES[c['metric']]}: "
    n = f"{c['n']:,}" if c["n"] == m["n"] else f"{c['n']:,} of {m['n']:,} that the supervisor labels"
    return (f"{metric}supervisor {c['supervisor']:.3f} | student {c['student']:.3f} ±{c['se']:.3f} | {ceiling} | "
            f"{recovered} | chance {c['chance']:.3f} | n={n}"
            + "".join(f" | WARNING: {warning}" for warning in c["warnings"]))


def compare_on_test(plan, test, student, scores, metric="auto"):
    """
    Compare a student with the supervisor and the ceiling of plan_comparison, whose labels are read.

    student (N, 2), its soft labels of test; scores, their all_metrics -> (last line, the dict of compare_models, or
    None if the supervisor labels no row of test)
    """
    supervisor = read_known(plan.supervisor_folder, test)
    ceiling = read_labels(plan.ceiling_folder, test) if plan.ceiling_folder else None
    if np.isnan(supervisor).all():
        return format_metrics("student", scores) + " | no PGR: the supervisor labels no row of test", None
    comparison = compare_models(test, supervisor, student, ceiling, metric)
    return format_comparison(comparison, scores), comparison


def print_cases(title, indices, rows, supervisor, student, n=3):
    """Print how many of these rows there are, and the first n with both verdicts. supervisor, student: (N, 2)"""
    print(f"{title}: {len(indices):,} of {len(rows):,}")
    for i in indices[:n]:
        truth = "yes" if rows[i]["label"] else "no"
        print(f"  {rows[i]['id']}  truth {truth} | supervisor yes {supervisor[i, 1]:.2f} | "
              f"student yes {student[i, 1]:.2f} | {show_row(rows[i])[-110:]!r}")


# --------------------------------------------------------------------------- which runs may be compared


SAME_IN_STUDENT_AND_CEILING = ("task", "model", "head", "epochs", "lr", "lora", "batch_size", "max_rows", "max_length",
                               "truncate", "seed")
PLAIN_TRAINING = {"loss": "xent", "probe": "none", "generative_steps": 0, "clean": "none", "early_stop": False,
                  "oracle_stop": False, "hard": False}     # a student's method may differ from a plain ceiling's


def plan_comparison(args, truth_folder, stage=""):
    """
    Which labels a student or a ceiling learns from, and which runs it is compared with. Nothing is read yet.

    args      flags: labels, supervisor, ceiling, task, seed and others
    stage     of another stage than train_strong.py the beginning of its roles: "icl-" makes icl-student
    returns   a namespace: role (student; ceiling, if --labels is the truth, by its name or its path); labels_folder,
              supervisor_folder and ceiling_folder (the last two None where there is none); identity for describe_run
    """
    is_ceiling = args.labels == "truth" or os.path.realpath(args.labels) == os.path.realpath(truth_folder)
    role = "ceiling" if is_ceiling else "student"
    labels = "truth" if is_ceiling else args.labels
    supervisor = "" if is_ceiling else args.supervisor or args.labels          # by default and by name: the same run
    return SimpleNamespace(
        role=role,
        labels_folder=truth_folder if is_ceiling else labels_folder(labels, args.task, args.seed),
        supervisor_folder=labels_folder(supervisor, args.task, args.seed) if supervisor else None,
        ceiling_folder=run_folder(args.ceiling, args.task, args.seed) if args.ceiling else None,
        identity={**vars(args), "role": stage + role, "labels": labels, "supervisor": supervisor})


def check_comparison(identity, supervisor, ceiling, role="ceiling", same=SAME_IN_STUDENT_AND_CEILING):
    """
    Find before training what would otherwise show only after it. A PGR needs a ceiling that differs from the student in
    its labels alone: a run of role `role`, with the same flags (a student's method may differ from a plain ceiling).

    identity              the student's {"task", "seed", "max_rows", ...}, as it will stand in its config
    supervisor, ceiling   folders, or None
    """
    rows = read_rows(identity["task"], "test", identity["max_rows"], may_be_empty=True)
    test_ids = [{"id": row["id"]} for row in rows]             # ids alone: nothing else of test is used yet
    own = "--labels" if identity.get("supervisor") == identity.get("labels") else "--supervisor"
    for name, folder in ((own, supervisor), ("--ceiling", ceiling)):
        if folder and not os.path.exists(os.path.join(folder, "labels.jsonl")):
            fail(f"{name}: no labels at {os.path.relpath(folder)}/labels.jsonl. Run the command that makes them first")
        if folder:
            read_known(folder, test_ids)
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
    for key, plain in PLAIN_TRAINING.items():
        if config.get(key, plain) not in (plain, identity.get(key, plain)):
            fail(f"--ceiling {os.path.relpath(ceiling)} was made with --{key.replace('_', '-')} {config[key]}, this "
                 "run was not: give one that was trained plainly")
