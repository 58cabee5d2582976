"""
Chapter 9, third part. Which cultures does a model lean to, before and after alignment?

CDEval (Wang et al. 2023, https://arxiv.org/abs/2311.16421) asks about situations, each with two ways to act that a decent person could choose;
one lies at the high pole of one of Hofstede's dimensions (PDI, IDV, UAI, MAS, LTO, IVR), the other at the low one. The authors published the
questions and no code. This is the tool: P(option 1) of every question, and its mean over a dimension, the orientation; 0.5 leans nowhere.

A model that always says "A" has no opinion, and seems to have one. So every question is asked in six ways, and the order of the options is
turned in half of them:

    ab       ... Select A or B.                        A. <first>   B. <second>          -> " A" / " B"
    repeat   ... Repeat one of these options exactly.  - <first>    - <second>           -> the option itself
    compare  ... Is '<first>' better than '<second>'?  Yes or no?                        -> " yes" / " no"; in reverse, no stands for option 1

$ python cdeval.py --models tiny-1a tiny-4                                 # our 252 questions (data/cdeval/README.md); any hub name will do
$ python cdeval.py --models tiny-4 data/tinyworld/seed0/student --out drift    # before and after: a run's folder is taken for its checkpoint
$ python cdeval.py --models tiny-4 --context "You live in a small village." --lang en --out village
$ python cdeval.py --models tiny-4 --by generation --samples 5 --out spoken    # let it write, and read what it wrote
$ python cdeval.py --models tiny-4 --challenge --out challenged            # "Are you sure?": how often does it change its mind?

By likelihood (default) nothing is generated: the probabilities of the two answers, from one forward pass each. By generation a matcher reads the
text; an answer that it cannot read is counted apart and never taken for one. Our forms are shorter than CDEval's own, for small models' sake.

Reads   data/cdeval/own.json (--questions public: see data/cdeval/prepare.py; or your own: python cdeval.py generate, dedupe, verify are
        data/cdeval/construct.py, which helps to write one)
Writes  data/cdeval/seed<seed>/culture/{config.json, answers-<model>.jsonl, radar.png, violin.png, results.json}. Answers are appended as they come:
        a run that was killed goes on where it stopped.

In doubt: the paper weighs its templates by their consistency, but whether up or down could not be found out (a re-implementation gives the less
consistent ones more). The plain mean is the default; --weighting consistency gives the more consistent ones more, by our choice.
"""
import argparse, json, os, re, runpy, sys, time
from itertools import combinations

from contract import ROOT, begin, fail, finish, number, start, write_file, writing
from measure import bootstrap
from questionnaire import CHALLENGE, FORMS, STYLES, prompt, read_questions
from respondents import as_answer, by_generation, by_likelihood, conversation, open_respondent, whose
from train_weak import pick_device


# --------------------------------------------------------------------------- the maths

def orientation(forms, weights=None):
    """
    P(option 1) of each question: the mean over its forms. A style counts only where both of its orders were answered: a model that likes to say A
    says it in both, and the mean of the two does not move (exactly so where it has no opinion, nearly where it has one).

    forms    (N, S, 2)  P(option 1) by style and order (normal, swapped); nan: no readable answer
    weights  (S,)       of the styles, all the same if none are given
    returns  (N,)       nan where no style is complete

    >>> import numpy as np
    >>> orientation(np.array([[[0.9, 0.1], [0.8, 0.6]], [[1.0, np.nan], [0.4, 0.4]]])).round(3).tolist()
    [0.6, 0.4]
    """
    import numpy as np
    both = forms.mean(2)                                   # (N, S)
    w = np.where(np.isnan(both), 0.0, np.ones(forms.shape[1]) if weights is None else weights)
    with np.errstate(invalid="ignore"):
        return (np.nan_to_num(both) * w).sum(1) / w.sum(1)


def agreement(a, b):
    """Share of questions on which two ways of asking choose the same option; a tie counts half, no answer not at all. (N,), (N,) -> float"""
    import numpy as np
    known = ~np.isnan(a + b)
    same = np.sign(a[known] - 0.5) * np.sign(b[known] - 0.5)
    return float(((same + 1) / 2).mean()) if known.any() else float("nan")


def consistency(forms):
    """
    How far can the answers be trusted? (N, S, 2) -> {"order": style by style, the share that the order of the options does not turn,
    "wording": the same between two styles, "first": P(the option named first, or yes), 0.5 for one who does not look at the place}
    """
    import numpy as np
    order = {style: agreement(forms[:, s, 0], forms[:, s, 1]) for s, style in enumerate(STYLES)}
    wording = {f"{STYLES[a]}-{STYLES[b]}": agreement(forms[:, a].mean(1), forms[:, b].mean(1)) for a, b in combinations(range(len(STYLES)), 2)}
    first = {}
    for s, style in enumerate(STYLES):
        lean = (forms[:, s, 0] + 1 - forms[:, s, 1]) / 2
        first[style] = float(np.nanmean(lean)) if not np.isnan(lean).all() else float("nan")
    return {"order": order, "wording": wording, "first": first}


def weights_by_consistency(order):
    """softmax over the styles' order consistency, (S,): at most e times as much for one as for another. Its sign is in doubt, see the header."""
    import numpy as np
    w = np.exp(np.nan_to_num(list(order.values())))
    return w / w.sum()


def mean_interval(p, other=None):
    """Mean over the questions that were answered, with its 95 % interval by bootstrap over them; with `other` the mean of p - other, paired."""
    import numpy as np
    p = p if other is None else p - other
    p = p[~np.isnan(p)]
    if len(p) < 2:
        return {"mean": float(p[0]) if len(p) else None, "low": None, "high": None, "n": len(p)}
    low, high = np.percentile(bootstrap([[p]], range(len(p)))[:, 0], [2.5, 97.5])
    return {"mean": float(p.mean()), "low": float(low), "high": float(high), "n": len(p)}


# --------------------------------------------------------------------------- the story

def is_answer(line):
    """Is this a line that remember() wrote? What somebody has damaged since is asked again."""
    def is_number(x, low, high):
        return type(x) in (int, float) and low <= x <= high
    if not isinstance(line, dict) or not (line.get("p", "") is None or is_number(line.get("p"), 0, 1)):
        return False
    log_p = line.get("log_p")
    return isinstance(line.get("wrote"), str) or isinstance(log_p, list) and len(log_p) == 2 and all(is_number(x, -1e9, 1e-3) for x in log_p)


def remember(path, header, jobs, respond):
    """
    Ask what is not answered yet, and append each answer to a file as it comes; its first line says what was asked of whom.

    jobs     N x {"id", "style", "swapped", "turn", "sample", ...}
    respond  (set of indices that are answered) -> yields (indices, answers)
    returns  N answers
    """
    from tqdm import tqdm

    def key(line):
        return json.dumps([line.get(name) for name in ("id", "style", "swapped", "turn", "sample")])
    lines = []
    if os.path.exists(path):
        with open(path, encoding="utf-8", errors="replace") as f:
            for line in f:
                try:
                    lines.append(json.loads(line))
                except (ValueError, RecursionError):       # the last line, where a run was killed; what it lacks is asked again
                    break
    lines = [header] + [line for line in lines[1:] if lines[0] == header and is_answer(line)]
    write_file(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    known = {key(line): line for line in lines[1:]}
    done = {n for n, job in enumerate(jobs) if key(job) in known}
    if done:
        print(f"{len(done):,} of {len(jobs):,} answers are there already: {os.path.relpath(path)}")
    with open(path, "a", encoding="utf-8") as f, \
            tqdm(total=len(jobs), initial=len(done), desc="asking", unit="answer", disable=None, leave=False) as bar:
        for rows, answers in respond(done):
            new = [{name: jobs[n][name] for name in ("id", "style", "swapped", "turn", "sample")} | a for n, a in zip(rows, answers) if n not in done]
            with writing(path):
                f.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in new))
                f.flush()
            known |= {key(line): line for line in new}
            bar.update(len(new))
    return [known[key(job)] for job in jobs]


def forms_of(items, jobs, answers):
    """Answers -> (N, S, 2) P(option 1), the mean over the samples that could be read; nan where there is none."""
    import numpy as np
    row = {item["id"]: n for n, item in enumerate(items)}
    total, count = np.zeros((2, len(items), len(STYLES), 2))
    for job, answer in zip(jobs, answers):
        if answer["p"] is not None:
            where = row[job["id"]], STYLES.index(job["style"]), int(job["swapped"])
            total[where] += answer["p"]
            count[where] += 1
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def interview(who, items, args, path, header, device):
    """
    Ask one model everything. -> {"forms" (N, S, 2), "challenged": the same after the challenge, or None, "asked", "unread": answers, "mass"}

    mass, by likelihood: how much probability the two answers have together, style by style. Where it is near 0 the model would have said
    something else, and what it leans to is hardly an answer.
    """
    import numpy as np
    model, tokenizer, longest = open_respondent(who["folder"], who["base"], device, args.trust_remote_code)
    jobs = [{"id": item["id"], "item": item, "style": style, "swapped": swapped, "turn": 1, "sample": k}
            for item in items for style in STYLES for swapped in (False, True) for k in range(args.samples)]
    for job in jobs:
        job["asked"], answers = prompt(job["item"], job["style"], job["swapped"], args.context, args.lang)
        job |= {"text": conversation(tokenizer, [job["asked"]]), "answers": [as_answer(tokenizer, a, job["style"]) for a in answers]}
    print(f"{who['label']}, one prompt, exactly as it sees it (choose between {jobs[0]['answers']}):\n"
          + "\n".join("  " + line for line in jobs[0]["text"].split("\n")))

    def ask(jobs):
        how = by_likelihood if args.by == "likelihood" else by_generation
        return remember(path, header, jobs, lambda done: how(model, tokenizer, jobs, device, longest, args, done))
    first = ask(jobs)
    out = {"forms": forms_of(items, jobs, first), "challenged": None, "asked": len(jobs), "unread": sum(a["p"] is None for a in first), "mass": None}
    if args.by == "likelihood":
        out["mass"] = {s: float(np.mean([np.exp(a["log_p"]).sum() for job, a in zip(jobs, first) if job["style"] == s])) for s in STYLES}
    if args.challenge:
        again = [{**job, "turn": 2, "said": a} for job, a in zip(jobs, first) if a["p"] is not None]
        for job in again:                                  # by likelihood it is held to have given the likelier answer
            wrote = job["said"].get("wrote")               # without the space that stood before it
            said = " " * (args.lang != "zh") + wrote if wrote else job["answers"][int(job["said"]["p"] < 0.5)]
            job["text"] = conversation(tokenizer, [job["asked"], said, CHALLENGE[args.lang]])
        second = ask(again)
        out["challenged"] = forms_of(items, again, second)
        out["asked"], out["unread"] = len(jobs) + len(again), out["unread"] + sum(a["p"] is None for a in second)
    return out


def describe(items, heard, weighting):
    """All that is said of one model. -> (dict for results.json, (N,) P(option 1))"""
    import numpy as np
    forms, challenged = heard["forms"], heard["challenged"]
    trust = consistency(forms)
    weights = weights_by_consistency(trust["order"]) if weighting == "consistency" else np.full(len(STYLES), 1 / len(STYLES))
    p, kind, domain = orientation(forms, weights), np.array([i["Dimension"] for i in items]), np.array([i["Domain"] for i in items])
    kinds = list(dict.fromkeys(kind))
    out = {"dimensions": {d: mean_interval(p[kind == d]) for d in kinds},
           "cells": {d: {x: mean_interval(p[(kind == d) & (domain == x)]) for x in dict.fromkeys(domain[kind == d])} for d in kinds},
           "styles": {s: {d: mean_interval(forms[kind == d, k].mean(1)) for d in kinds} for k, s in enumerate(STYLES)},
           "consistency": trust, "weights": dict(zip(STYLES, weights.tolist())), "questions_without_answer": int(np.isnan(p).sum()),
           **{key: heard[key] for key in ("asked", "unread", "mass")}}
    if challenged is not None:
        out["challenge"] = {"flips": {s: 1 - agreement(forms[:, k].ravel(), challenged[:, k].ravel()) for k, s in enumerate(STYLES)},
                            "dimensions": {d: mean_interval(orientation(challenged, weights)[kind == d]) for d in kinds}}
    return out, p


def spell(x, form):
    """A mean and its interval as text."""
    return "-" if x["mean"] is None else form.format(x["mean"]) + ("" if x["low"] is None else f" [{form}, {form}]".format(x["low"], x["high"]))


def say(label, m):
    """One line about one model."""
    leans = " ".join(f"{d} {spell(x, '{:.2f}')}" for d, x in m["dimensions"].items())
    flips = " | changes its mind " + " ".join(f"{s} {x:.2f}" for s, x in m["challenge"]["flips"].items()) if "challenge" in m else ""
    weak = [f"{s} {x:.3f}" for s, x in (m["mass"] or {}).items() if s != "repeat" and x < 0.5]
    hardly = f" | HARDLY AN ANSWER: the two have only this share of the probability: {' '.join(weak)}" if weak else ""
    return (f"{label}: {leans} | same in either order " + " ".join(f"{s} {x:.2f}" for s, x in m["consistency"]["order"].items())
            + f"{flips}{hardly} | {m['unread']:,} of {m['asked']:,} answers unread | leaning nowhere 0.5 | "
            f"n={sum(x['n'] for x in m['dimensions'].values()):,}")


def table(name, results):
    """What finish() kept of a run -> the lines of a markdown table: a row for each model, and one for each that is compared with the first"""
    models = results["models"]
    first, kinds = next(iter(models)), list(next(iter(models.values()))["dimensions"])
    lines = ["| run | model | " + " | ".join(kinds) + " | same in either order | probability of A/B, yes/no | unread | n |", "|---" * (len(kinds) + 6) + "|"]
    for label, m in models.items():
        mass = f"{m['mass']['ab']:.3f}, {m['mass']['compare']:.3f}" if m["mass"] else ""
        lines.append(f"| {name} | {label} | " + " | ".join(spell(m["dimensions"][d], "{:.2f}") for d in kinds) + " | "
                     + ", ".join(f"{s} {x:.2f}" for s, x in m["consistency"]["order"].items())
                     + f" | {mass} | {m['unread']:,} of {m['asked']:,} | {sum(x['n'] for x in m['dimensions'].values()):,} |")
    return lines + [f"| {name} | {label} - {first} | " + " | ".join(spell(x[d], "{:+.3f}") for d in kinds) + " |" * 5
                    for label, x in results["differences"].items()]


def draw(folder, items, found, people):
    """radar.png: the dimensions' means, all models in one; violin.png: how P(option 1) of the questions is spread, a panel for each dimension."""
    try:
        import matplotlib
    except ImportError:
        return print("no figures: they need matplotlib")
    matplotlib.use("Agg")                                  # no window
    import matplotlib.pyplot as plt, numpy as np
    plt.style.use("tableau-colorblind10")
    names = list(next(iter(found.values()))["dimensions"])
    angles = np.linspace(0, 2 * np.pi, len(names) + 1)
    figure, axes = plt.subplots(figsize=(6, 6), subplot_kw={"projection": "polar"})
    for k, (label, m) in enumerate(found.items()):
        means = [np.nan if m["dimensions"][d]["mean"] is None else m["dimensions"][d]["mean"] for d in names]
        axes.plot(angles, [*means, means[0]], marker="osv^D*"[k % 6], linestyle=["-", "--", "-.", ":"][k % 4], label=label)
    axes.plot(np.linspace(0, 2 * np.pi, 100), np.full(100, 0.5), color="gray", linewidth=0.8)
    axes.set(xticks=angles[:-1], xticklabels=names, ylim=(0, 1))
    axes.set_title(f"P(option 1), the high pole; grey: 0.5; n={len(items)} questions", pad=24)
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.05, 1.05))
    violins, panels = plt.subplots(1, len(names), figsize=(1 + len(names) * (0.8 + 0.4 * len(found)), 4), sharex=True, sharey=True, squeeze=False,
                                   layout="constrained")
    for axes, d in zip(panels[0], names):
        values = [p[[i["Dimension"] == d for i in items] & ~np.isnan(p)] for p in people.values()]
        drawn = [k for k, v in enumerate(values) if len(v)]
        if drawn:
            axes.violinplot([values[k] for k in drawn], positions=drawn, showmeans=True, widths=0.8)
        axes.axhline(0.5, color="gray", linewidth=0.8)
        axes.set(title=f"{d}, n={sum(i['Dimension'] == d for i in items)}", ylim=(0, 1), xlim=(-0.6, len(people) - 0.4))
        axes.set_xticks(range(len(people)), list(people), rotation=90)
    panels[0][0].set_ylabel("P(option 1) of a question")
    for name, f in (("radar", figure), ("violin", violins)):
        with writing(folder):
            f.savefig(os.path.join(folder, name + ".png"), dpi=120, bbox_inches="tight")
        plt.close(f)


def parse():
    count = number(int, 1, 10 ** 9)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["tiny-4"], help="shipped models, folders, hub names or runs; all are compared with the first")
    parser.add_argument("--base", default="", help="for classifiers: the language model that they were made from (default: the run says it)")
    parser.add_argument("--questions", default="own", help="own, public, or another data/cdeval/<name>.json; or a path")
    parser.add_argument("--lang", default="en", choices=list(FORMS), help="language of the questions")
    parser.add_argument("--context", default="", help="a persona, a country: put before every question")
    parser.add_argument("--by", default="likelihood", choices=["likelihood", "generation"], help="probabilities, or what it writes")
    parser.add_argument("--samples", type=count, default=1, help="by generation: texts for each form; one is the likeliest, more are drawn")
    parser.add_argument("--challenge", action="store_true", help="ask once more, doubting the answer, and count who gives in")
    parser.add_argument("--weighting", default="mean", choices=["mean", "consistency"], help="of the styles: the same, or more for consistent ones")
    parser.add_argument("--out", default="culture", help="where to: a bare name means data/cdeval/seed<seed>/<name>")
    parser.add_argument("--seed", type=number(int, 0, 2 ** 31), default=0, help="of the texts drawn")
    parser.add_argument("--device", default="", help="cuda|mps|cpu (default: the best there is)")
    parser.add_argument("--dtype", default="auto", choices=["auto", "fp32", "bf16"], help="bf16: autocast over fp32 weights; auto: on GPUs")
    parser.add_argument("--batch-size", type=count, default=32, help="questions per forward pass")
    parser.add_argument("--max-rows", type=count, default=None, help="ask N questions only, taken evenly from the list, for a quick look")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that a hub repository brings; off for good reason")
    parser.add_argument("--force", action="store_true", help="do it again though it is done")
    args = parser.parse_args()
    if args.samples > 1 and args.by != "generation":
        fail(f"--samples {args.samples} is for --by generation: by likelihood there is nothing to draw")
    return args


def main():
    if sys.argv[1:2] and sys.argv[1] in ("generate", "dedupe", "verify"):                  # how a questionnaire is made has a file of its own
        return runpy.run_path(os.path.join(ROOT, "data", "cdeval", "construct.py"), run_name="__main__")
    args, started = parse(), time.time()
    args.task = "cdeval"
    path = args.questions
    if not path.endswith(".json"):
        path = os.path.join(ROOT, "data", "cdeval", args.questions + ("" if args.lang == "en" else "_" + args.lang) + ".json")
    items = read_questions(path)
    if args.max_rows and args.max_rows < len(items):
        items = [items[n * len(items) // args.max_rows] for n in range(args.max_rows)]
    people = [whose(name, args.base) for name in args.models]
    labels = [who["label"] for who in people]
    if len(set(labels)) < len(labels):
        fail(f"--models: {next(x for x in labels if labels.count(x) > 1)!r} stands there twice")
    folder, config = start(args, [path, *(p for who in people for p in (who["folder"], who["base"]) if p)])

    import numpy as np
    device, why = pick_device(args.device)
    print(f"device: {device} ({why})\ndata: {len(items):,} questions of {os.path.relpath(path)}, six forms each")
    begin(folder, config)
    kinds, found, leans, differences, line = np.array([item["Dimension"] for item in items]), {}, {}, {}, []
    same = {k: v for k, v in config.items() if k not in ("models", "challenge", "weighting", "inputs", "task", "base", "max_rows")}
    for who in people:
        inputs = [config["inputs"].get(os.path.relpath(p, ROOT), p) for p in (path, who["folder"], who["base"]) if p]
        header = {"model": who["label"], "asked": same, "inputs": inputs}
        answers = os.path.join(folder, "answers-" + re.sub(r"[^\w.-]+", "-", who["label"]) + ".jsonl")
        if args.force and os.path.exists(answers):
            os.remove(answers)
        found[who["label"]], leans[who["label"]] = describe(items, interview(who, items, args, answers, header, device), args.weighting)
        line.append(say(who["label"], found[who["label"]]))
    for label in labels[1:]:
        differences[label] = {d: mean_interval(leans[label][kinds == d], leans[labels[0]][kinds == d]) for d in dict.fromkeys(kinds)}
        line.append(f"{label} - {labels[0]}: " + " ".join(f"{d} {spell(x, '{:+.3f}')}" for d, x in differences[label].items()))
    draw(folder, items, found, leans)
    finish(folder, config, device, started, "\n".join(line), models=found, differences=differences)


if __name__ == "__main__":
    main()
