"""
Chapter 2. A student learns from labels that are wrong, and may end up better than whoever wrote them.

The student is a stronger model than its supervisor: it has read more. Fine-tuned on the supervisor's soft labels for train2 it could copy
the supervisor's errors, or the labels could merely tell it which of the things it knows is being asked for (Burns et al. 2023,
https://arxiv.org/abs/2312.09390). How much of the way to a model trained on the truth does it go?

    PGR = (student - supervisor) / (ceiling - supervisor)         performance gap recovered: 0 = no better, 1 = all of it

One script makes both, and the only difference is whose labels it reads:

$ python train_strong.py --labels truth --out ceiling             # the ceiling: the same model and rows, true labels
$ python train_strong.py --labels weak --ceiling ceiling          # the student
$ python train_strong.py --labels weak --loss logconf --out student-logconf --ceiling ceiling

Reads   a supervisor's folder (labels.jsonl), data/<task>/{train2, valid, test}.jsonl; never truth/, unless that is the supervisor
Writes  data/<task>/seed<seed>/student/{config.json, checkpoint/, labels.jsonl, results.json}: a folder like its supervisor's, so
        that a student can supervise the next

    diff train_weak.py train_strong.py     # where the labels come from, what the model is to believe of them, and PGR
"""
import argparse, os, time

from contract import (ROOT, add_common_flags, begin, fail, finish, model_folder, read_labels, read_lines, read_rows, read_task, run_folder,
                      save_checkpoint, start, write_labels)
from train_weak import fit, load_model, metrics, pick_device, predict, right, say, tokenise


# --------------------------------------------------------------------------- the maths: what the student is to believe
# Every loss here is cross entropy against a target: a function of the batch's labels, of the student's own scores (without gradient)
# and of how far training has come. (logits (B, 2), labels (B, 2), progress in [0, 1)) -> (B, 2)

def xent(logits, labels, progress):
    """The supervisor's soft labels as they are: naive fine-tuning."""
    return labels


def confidence_weight(progress, largest=0.5, warmup=0.2):
    """
    The weight a of the student's own opinion: from 0 straight up to `largest` over the first fifth of training, then constant (Burns et al.,
    appendix A.4; 0.75 for their very largest students). Their released code jumps at the end of warm-up, the paper does not.

    >>> confidence_weight(0.0), confidence_weight(0.1), confidence_weight(0.2), confidence_weight(0.9)
    (0.0, 0.25, 0.5, 0.5)
    """
    return largest * min(1.0, progress / warmup) if warmup > 0 else largest


def harden(logits, share_yes):
    """
    The student's opinion as 0 or 1: yes for the `share_yes` of the batch with the highest p(yes), not for all above 1/2. With a fixed
    threshold a student that leans to one class would talk itself into that class alone.

    logits (B, 2), share_yes in [0, 1] -> (B,), whose mean is share_yes: where that is not a whole number of rows, the row at the threshold
    gets the rest

    >>> harden(torch.tensor([[0., 3.], [0., 2.], [0., 1.], [0., 0.]]), 0.5)     # all lean to yes, half may
    tensor([1., 1., 0., 0.])
    """
    lean = logits[:, 1] - logits[:, 0]
    rank = lean.argsort(descending=True, stable=True).argsort()                # (B,) 0 for the surest yes
    return (share_yes * len(lean) - rank).clamp(0, 1)


def logconf(logits, labels, progress):
    """
    The auxiliary confidence loss (Burns et al., eq. 1):  (1 - a) CE(f, supervisor) + a CE(f, own hard opinion), which, cross entropy
    being linear in its target, is CE(f, (1 - a) supervisor + a own hard opinion).

    The threshold lets as many of the whole batch pass as the supervisor's labels say yes on average: half where classes balance, as in
    the paper, and still right where they do not (so does the released code).
    """
    import torch
    own = harden(logits, labels[:, 1].mean())
    a = confidence_weight(progress)
    return (1 - a) * labels + a * torch.stack([1 - own, own], dim=1)


LOSSES = {"xent": xent, "logconf": logconf}


# --------------------------------------------------------------------------- the maths: how far the student came

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


# --------------------------------------------------------------------------- the story

def check_comparison(args, supervisor, ceiling):
    """Mistakes that would show only after training are found before it; a PGR needs a ceiling that differs from the student in its labels alone."""
    test_ids = [{"id": row["id"]} for row in read_rows(args.task, "test", args.max_rows)]          # ids alone: nobody looks at test yet
    for name, folder in (("--supervisor", supervisor), ("--ceiling", ceiling)):
        if folder and not os.path.exists(os.path.join(folder, "labels.jsonl")):
            fail(f"{name}: no labels at {os.path.relpath(folder)}/labels.jsonl. Run its command first")
        if folder:
            read_labels(folder, test_ids)
    if ceiling:
        config = (read_lines(os.path.join(ceiling, "results.json"), whole=True) or [{}])[0].get("config", {})
        if config.get("labels") != "truth":
            fail(f"--ceiling {os.path.relpath(ceiling)} was not trained with --labels truth: it is no ceiling")
        for key in ("task", "model", "head", "epochs", "lr", "batch_size", "max_rows", "seed"):
            if config.get(key) != vars(args)[key]:
                fail(f"--ceiling {os.path.relpath(ceiling)} was made with --{key.replace('_', '-')} {config.get(key)}, this run has "
                     f"{vars(args)[key]}: they must differ in their labels alone")


def show_cases(title, which, rows, weak, student, n=3):
    print(f"{title}: {len(which):,} of {len(rows):,}")
    for i in which[:n]:
        print(f"  {rows[i]['id']}  truth {'yes' if rows[i]['label'] else 'no'} | supervisor yes {weak[i, 1]:.2f} | student yes {student[i, 1]:.2f} | "
              f"{rows[i]['text'][-110:]!r}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_flags(parser, model="tiny-4", out="student", epochs=2)
    parser.add_argument("--labels", default="weak", help="whose labels: a supervisor's folder, or its bare name; 'truth' makes the ceiling")
    parser.add_argument("--loss", default="xent", choices=list(LOSSES), help="what to believe of the labels")
    parser.add_argument("--supervisor", default="", help="folder whose test labels the student is compared with (default: that of --labels)")
    parser.add_argument("--ceiling", default="", help="folder of the ceiling, for the PGR")
    args = parser.parse_args()
    started = time.time()

    truth_folder = os.path.join(ROOT, "data", args.task, "truth")
    if os.path.realpath(args.labels) == os.path.realpath(truth_folder):
        args.labels = "truth"
    is_ceiling = args.labels == "truth"
    if is_ceiling and (args.ceiling or args.supervisor):
        fail("--labels truth makes a ceiling; --ceiling and --supervisor are for students")
    files, words = read_task(args.task)
    labels_folder = truth_folder if is_ceiling else run_folder(args.labels, args.task, args.seed)
    supervisor = None if is_ceiling else run_folder(args.supervisor, args.task, args.seed) if args.supervisor else labels_folder
    ceiling = run_folder(args.ceiling, args.task, args.seed) if args.ceiling else None
    train2, valid = read_rows(args.task, "train2", args.max_rows), read_rows(args.task, "valid", args.max_rows)
    soft_labels, valid_labels = read_labels(labels_folder, train2), read_labels(labels_folder, valid)
    check_comparison(args, supervisor, ceiling)
    sources = {folder for folder in (labels_folder, supervisor, ceiling) if folder}
    folder, config = start(args, [*files, model_folder(args.model), *(os.path.join(f, "labels.jsonl") for f in sorted(sources))], sources)

    import numpy as np, torch
    torch.manual_seed(args.seed)
    device, why = pick_device(args.device)
    print(f"device: {device} ({why})")
    model, tokenizer, longest = load_model(args.model, args.head, words, device, args.trust_remote_code)
    ids, valid_ids = tokenise(tokenizer, train2, longest), tokenise(tokenizer, valid, longest)
    print(f"data: {len(ids):,} rows of train2, labelled by {os.path.relpath(labels_folder)} ({soft_labels[:, 1].mean():.1%} yes on average)")
    print(f"one example, exactly as the model sees it:\n  {tokenizer.decode(ids[0])!r} -> "
          f"soft label (no {soft_labels[0, 0]:.2f}, yes {soft_labels[0, 1]:.2f})")
    begin(folder, config)

    def agreement(step, steps):
        if step % (steps // args.epochs):
            return
        epoch = step * args.epochs // steps
        p = predict(model, tokenizer, valid_ids, device, args.dtype)[:, 1]
        says = np.mean((p > 0.5) == (valid_labels[:, 1] > 0.5))
        print(f"epoch {epoch}: agrees with its labels on {says:.3f} of the {len(valid):,} valid rows")

    fit(model, tokenizer, ids, soft_labels, args, device, target=None if args.loss == "xent" else LOSSES[args.loss], after_step=agreement)

    # only now are rows of test read
    test = read_rows(args.task, "test", args.max_rows)
    everything = train2 + valid + test
    own = predict(model, tokenizer, ids + valid_ids + tokenise(tokenizer, test, longest), device, args.dtype)
    save_checkpoint(folder, model, tokenizer)
    write_labels(folder, everything, own)
    on_test = own[-len(test):]
    scores = metrics(on_test, test)
    line, comparison = say("ceiling" if is_ceiling else "student", scores), None
    if supervisor:
        weak = read_labels(supervisor, test)
        comparison = compare(test, weak, on_test, read_labels(ceiling, test) if ceiling else None)
        truth = [row["label"] for row in test]
        weak_right, own_right = right(weak[:, 1], truth) == 1, right(on_test[:, 1], truth) == 1
        show_cases("student right where its supervisor is wrong", np.flatnonzero(own_right & ~weak_right), test, weak, on_test)
        show_cases("student wrong where its supervisor is right", np.flatnonzero(~own_right & weak_right), test, weak, on_test)
        print(f"{line}\nagrees with its supervisor where that is right {share(comparison['agrees_where_supervisor_right'])}, "
              f"where it is wrong {share(comparison['agrees_where_supervisor_wrong'])}")
        line = last_line(comparison, scores)
    finish(folder, config, device, started, line, test=scores, comparison=comparison)


if __name__ == "__main__":
    main()
