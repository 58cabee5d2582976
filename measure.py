"""
Chapter 2, first half. How far did a student come, and could it be chance?

    PGR = (student - supervisor) / (ceiling - supervisor)         performance gap recovered: 0 = no better, 1 = all of it

A PGR is a quotient of two small differences, so it deserves suspicion: one point of accuracy can be thirty points of PGR. Three habits keep
it honest. Supervisor, student and ceiling are scored on the same rows, and differ in nothing but the labels they learned from. Its interval
comes from resampling questions, not rows, and runs, where there are several. And where the ceiling is not clearly above the supervisor,
there is no PGR but a sentence that says so.
"""
import os

from contract import fail, read_config, read_labels, read_rows
from train_weak import right


def pgr(supervisor, student, ceiling):
    """
    Performance gap recovered (Burns et al., section 3).

    >>> round(pgr(supervisor=0.60, student=0.75, ceiling=0.80), 2)
    0.75
    >>> pgr(supervisor=0.80, student=0.75, ceiling=0.80)           # no gap to recover
    nan
    """
    gap = ceiling - supervisor
    return (student - supervisor) / gap if gap > 0 else float("nan")


def bootstrap(hits, groups, n_draws=2000, seed=0):
    """
    Accuracies on 2,000 resampled worlds: questions are drawn with replacement, and runs too where there are several.

    hits      (S, M, N)  1, 0.5 or 0: in run (seed) s, was model m right on row n? Paired: all models are scored on the same draw
    groups    N          the question a row belongs to; its rows are not independent and are drawn together
    returns   (n_draws, M)
    """
    import numpy as np
    hits, rng = np.asarray(hits, float), np.random.default_rng(seed)
    names, member = np.unique(groups, return_inverse=True)
    sums = np.stack([[np.bincount(member, weights=h, minlength=len(names)) for h in run] for run in hits])        # (S, M, G)
    sizes = np.bincount(member, minlength=len(names))                                                             # (G,)
    questions = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), n_draws)                         # (draws, G)
    runs = rng.multinomial(len(hits), np.full(len(hits), 1 / len(hits)), n_draws) / len(hits)                     # (draws, S)
    return np.einsum("ds,smd->dm", runs, sums @ questions.T) / (questions @ sizes)[:, None]


def pgr_interval(draws):
    """
    95 % interval of the PGR from bootstrap draws (n_draws, 3) of the accuracies of supervisor, student and ceiling.

    returns   (low, high, share of draws without a gap); where more than 1 draw in 40 has none the interval is open: nan, nan
    """
    import numpy as np
    weak, student, ceiling = draws.T
    gap = ceiling - weak
    without = float((gap <= 0).mean())
    if without > 0.025:
        return float("nan"), float("nan"), without
    low, high = np.percentile((student - weak)[gap > 0] / gap[gap > 0], [2.5, 97.5])
    return float(low), float(high), without


def compare(rows, weak, student, ceiling=None):
    """
    Everything said about a student, on the same rows as its supervisor and ceiling.

    rows with label and group; weak, student, ceiling: (N, 2) soft labels -> dict
    """
    import numpy as np
    truth = [row["label"] for row in rows]
    hits = {name: right(p[:, 1], truth) for name, p in (("supervisor", weak), ("student", student), ("ceiling", ceiling)) if p is not None}
    same = (student[:, 1] > 0.5) == (weak[:, 1] > 0.5)
    knew = hits["supervisor"] == 1
    out = {name: float(h.mean()) for name, h in hits.items()}
    out["agrees_where_supervisor_right"] = float(same[knew].mean()) if knew.any() else None
    out["agrees_where_supervisor_wrong"] = float(same[~knew].mean()) if (~knew).any() else None
    if ceiling is None:
        out["pgr_reason"] = "no --ceiling was given"
    elif out["ceiling"] <= out["supervisor"]:
        out["pgr_reason"] = f"the ceiling ({out['ceiling']:.3f}) is not above the supervisor ({out['supervisor']:.3f}): no gap to recover"
    else:
        out["pgr"] = pgr(out["supervisor"], out["student"], out["ceiling"])
        low, high, without = pgr_interval(bootstrap([list(hits.values())], [row["group"] for row in rows]))
        out |= {"pgr_interval": None if np.isnan(low) else [low, high], "pgr_draws_without_gap": without}
    return out


def share(value):
    return "(no such rows)" if value is None else f"{value:.3f}"


def last_line(c, m):
    """supervisor | student | ceiling | PGR [interval] | chance | n"""
    interval = "[interval open: the gap is within its noise]" if c.get("pgr_interval") is None else "[{:.2f}, {:.2f}]".format(*c["pgr_interval"])
    recovered = f"PGR {c['pgr']:.2f} {interval}" if "pgr" in c else f"no PGR: {c['pgr_reason']}"
    ceiling = f"ceiling {c['ceiling']:.3f}" if "ceiling" in c else "ceiling unknown"
    return (f"supervisor {c['supervisor']:.3f} | student {m['accuracy']:.3f} ±{m['se']:.3f} | {ceiling} | {recovered} | "
            f"chance {m['chance']:.3f} | n={m['n']:,}")


# --------------------------------------------------------------------------- what is compared with what

def check_comparison(args, supervisor, ceiling, script="train_strong.py",
                     same=("task", "model", "head", "epochs", "lr", "lora", "batch_size", "max_rows", "seed")):
    """
    Mistakes that would show only after training are found before it. A PGR needs a ceiling that differs from the student in its labels alone: made by
    the same script, with the same flags.
    """
    test_ids = [{"id": row["id"]} for row in read_rows(args.task, "test", args.max_rows)]          # ids alone: nobody looks at test yet
    for name, folder in (("--supervisor", supervisor), ("--ceiling", ceiling)):
        if folder and not os.path.exists(os.path.join(folder, "labels.jsonl")):
            fail(f"{name}: no labels at {os.path.relpath(folder)}/labels.jsonl. Run its command first")
        if folder:
            read_labels(folder, test_ids)
    if ceiling:
        config = read_config(ceiling)
        if config.get("script") != script or config.get("labels") != "truth":
            fail(f"--ceiling {os.path.relpath(ceiling)} was not made by {script} --labels truth: it is no ceiling")
        for key in same:
            if config.get(key) != vars(args)[key]:
                fail(f"--ceiling {os.path.relpath(ceiling)} was made with --{key.replace('_', '-')} {config.get(key)}, this run has "
                     f"{vars(args)[key]}: they must differ in their labels alone")


def show_cases(title, which, rows, weak, student, n=3):
    print(f"{title}: {len(which):,} of {len(rows):,}")
    for i in which[:n]:
        print(f"  {rows[i]['id']}  truth {'yes' if rows[i]['label'] else 'no'} | supervisor yes {weak[i, 1]:.2f} | student yes {student[i, 1]:.2f} | "
              f"{rows[i]['text'][-110:]!r}")
