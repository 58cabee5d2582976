"""
The last chapter's figures. Each function looks at all runs, draws what it has something for, and says None where there is nothing.

    rows     report.py's rows: {"run", "script", "model", "seeds": "5", "n", "accuracy": [mean, low, high], "pgr", ...}, one for each run over its seeds
    found    the runs themselves: for each row a list of (folder, results.json) over the seeds

Functions, no story. Colours are those of tableau-colorblind10, and no line is told from another by its colour alone; intervals and numbers of seeds
stand in every figure. matplotlib is imported where it is needed: without it there are no figures, and everything else works.
"""
import os


def canvas(title, xlabel, ylabel, size=(7, 4.5)):
    import matplotlib
    matplotlib.use("Agg")                                  # no window
    import matplotlib.pyplot as plt
    plt.style.use("tableau-colorblind10")
    figure, axes = plt.subplots(figsize=size)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    return figure, axes


def seeds_line(axes, x, seeds, label, k):
    """Mean over seeds, with a bar from the worst to the best. seeds (S, len(x))"""
    import numpy as np
    a = np.array(seeds)
    axes.errorbar(x, a.mean(0), [a.mean(0) - a.min(0), a.max(0) - a.mean(0)], marker="osv^D*"[k % 6], capsize=2, label=f"{label}, {len(a)} seeds")


def draw_students(rows, found):
    """Each run with a PGR as a dot with its interval, between supervisor and ceiling."""
    some = sorted([r for r in rows if r.get("pgr") is not None and r["script"] in ("train_strong.py", "auto_align.py")], key=lambda r: r["accuracy"][0])
    if not some:
        return None
    figure, axes = canvas(f"students (squares: phase 2), 95 % intervals, n={some[0]['n']}", "test accuracy", "", (7, 1.5 + 0.18 * len(some)))
    for k, r in enumerate(some):
        mean, low, high = r["accuracy"]
        axes.errorbar(mean, k, xerr=[[mean - low], [high - mean]], marker="o" if r["script"] == "train_strong.py" else "s", color="C0", capsize=2)
    axes.set_yticks(range(len(some)), [f"{r['run']} ({r['seeds']} seeds)" for r in some], fontsize=7)
    for name, style in (("weak", ":"), ("ceiling", "--")):
        for r in rows:
            if r["run"] == name:
                axes.axvline(r["accuracy"][0], linestyle=style, color="black", label="supervisor" if name == "weak" else name)
    axes.legend(fontsize="small", loc="lower right")
    return figure


def draw_ensembles(rows, found):
    """Test accuracy over the number of members, each kind of ensemble a line; the single supervisor dashed."""
    curves = {os.path.basename(runs[0][0]): [[point["test"]["accuracy"] for point in r["curve"]] for _, r in runs]
              for runs in found if runs[0][1]["config"]["script"] == "ensemble.py"}
    if not curves:
        return None
    figure, axes = canvas("ensembles of supervisors (bars: worst and best seed)", "members", "test accuracy")
    for k, (name, seeds) in enumerate(sorted(curves.items())):
        n = min(map(len, seeds))                           # boosting may stop early, with some seeds
        seeds_line(axes, range(1, n + 1), [seed[:n] for seed in seeds], name, k)
    for r in rows:
        if r["run"] == "weak":
            axes.axhline(r["accuracy"][0], linestyle="--", color="gray", label="the single supervisor")
    axes.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1.02, 1))
    return figure


def draw_oversight(rows, found):
    """The judge with each kind of help, and the student taught by it, each with its interval."""
    judges = sorted([r for r in rows if r["script"] == "debate.py" or r["run"] == "weak"], key=lambda r: r["accuracy"][0])
    if len(judges) < 2:
        return None
    figure, axes = canvas(f"judges with help, and the students that they teach; 95 %, n={judges[0]['n']}", "test accuracy", "", (7, 1.5 + 0.28 * len(judges)))
    taught = {r["run"]: r for r in rows}
    for k, judge in enumerate(judges):
        for r, marker, colour in ((judge, "o", "C0"), (taught.get("student" if judge["run"] == "weak" else "student-" + judge["run"]), "s", "C1")):
            if r:
                mean, low, high = r["accuracy"]
                axes.errorbar(mean, k, xerr=[[mean - low], [high - mean]], marker=marker, color=colour, capsize=2,
                              label=("judge" if marker == "o" else "student") if not k else None)
    axes.set_yticks(range(len(judges)), [f"{'no help' if r['run'] == 'weak' else r['run']} ({r['seeds']} seeds)" for r in judges], fontsize=8)
    axes.legend(fontsize="small")
    return figure


def draw_curves(key, title):
    """-> a function that draws icl.py's accuracy over the number of demonstrations ("shots") or of turned labels ("noise")"""
    def draw(rows, found):
        curves = {}
        for runs in found:
            points = [r.get("curve") or [{}] for _, r in runs]
            if len(points[0]) > 1 and len({point.get(key) for point in points[0]}) == len(points[0]):
                curves[os.path.basename(runs[0][0])] = points
        if not curves:
            return None
        figure, axes = canvas(f"{title} (one prompt; bars: worst and best seed)", title, "test accuracy")
        for k, (name, seeds) in enumerate(sorted(curves.items())):
            seeds_line(axes, range(len(seeds[0])), [[point["accuracy"] for point in points] for points in seeds], name, k)
            axes.set_xticks(range(len(seeds[0])), [point[key] for point in seeds[0]])
        axes.axhline(0.5, linestyle=":", color="gray", label="chance")
        axes.legend(fontsize="small")
        return figure
    return draw


def draw_rounds(rows, found):
    """Phase 2: evaluator and learner over the rounds of `align`, mean over seeds; the ceiling dashed."""
    runs = next((runs for runs in found if runs[0][1]["config"]["script"] == "auto_align.py" and os.path.basename(runs[0][0]) == "align"), None)
    if not runs:
        return None
    rounds = [r["rounds"] for _, r in runs]
    figure, axes = canvas("phase 2 (bars: worst and best seed)", "round", "test accuracy")
    seeds_line(axes, range(len(rounds[0]) + 1), [[s[0]["evaluator"][0]["accuracy"]] + [r["evaluator"][1]["accuracy"] for r in s] for s in rounds], "evaluator", 0)
    seeds_line(axes, range(1, len(rounds[0]) + 1), [[r["learner_test"]["accuracy"] for r in s] for s in rounds], "learner", 1)
    axes.set_xticks(range(len(rounds[0]) + 1), ["start"] + [f"{k + 1}: {r['student']}" for k, r in enumerate(rounds[0])])
    for r in rows:
        if r["run"] == "ceiling":
            axes.axhline(r["accuracy"][0], linestyle="--", color="black", label=f"ceiling ({r['model']})")
    axes.legend(fontsize="small")
    return figure


FIGURES = {"students": draw_students, "ensembles": draw_ensembles, "oversight": draw_oversight, "shots": draw_curves("shots", "demonstrations"),
           "noise": draw_curves("noise", "turned labels"), "rounds": draw_rounds}
