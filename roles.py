"""
Chapter 7, first half. The roles of phase 2: evaluator, attacker, critic, human, learner.

    evaluator   {"members": [{"checkpoint", "weight"}, ...], "temperature", "bias"}: p(yes) = sigma(z / temperature + bias), z the members' weighted score
    attacker    propose_attacks: of the answers nobody has asked about, those that the student believes most; invent_answers writes more of them
    critic      criticise: the evaluator's scores, after a note where it is in doubt
    human       hire_humans: a few true labels, half at random, to calibrate and to guard, half where critic and student differ, to correct
    learner     train_learner: the student on the critic's labels, and on pairs of a better and a worse answer
    guard       is_worse: has the update made the evaluator worse, beyond chance?

Functions, no story; auto_align.py plays the rounds. What is easily got wrong: a label that was bought to judge must neither train nor calibrate what it judges.
"""
import argparse, math, os

from clean_labels import pick_for_truth
from contract import ROOT, as_left, fail, read_labels, read_lines, read_rows, save_checkpoint
from prompting import write_all
from train_strong import LOSSES
from train_weak import classify, fit, load_model, pad, prepare_for_training, right, sweep, tokenise


# --------------------------------------------------------------------------- the maths

def sigmoid(z):
    import numpy as np
    return 1 / (1 + np.exp(-np.clip(np.asarray(z, float), -60, 60)))


def soft(p_yes):
    """(N,) -> (N, 2) float32 soft labels"""
    import numpy as np
    return np.stack([1 - p_yes, p_yes], axis=1).astype(np.float32)


def calibrate(z, labels, prior=0.1):
    """
    Temperature T and bias b that make sigma(z / T + b) fit true labels best (Platt 1999; Guo et al. 2017 for T alone), with a weak pull to T = 1,
    b = 0, so that eight labels cannot turn the evaluator round.

    z (N,) scores of yes over no, labels (N,) of 0 and 1  ->  (T, b); (1, 0) from no labels
    """
    import numpy as np
    z, labels = np.asarray(z, float), np.asarray(labels, float)
    a, b = 0.0, 0.0                                        # slope exp(a) = 1 / T: positive, whatever the labels say
    for _ in range(200):
        p = sigmoid(np.exp(a) * z + b)
        slope = np.array([((p - labels) * np.exp(a) * z).sum(), (p - labels).sum()]) + 2 * prior * np.array([a, b])
        w = p * (1 - p)
        bend = np.array([[(w * (np.exp(a) * z) ** 2).sum(), (w * np.exp(a) * z).sum()], [(w * np.exp(a) * z).sum(), w.sum()]]) + 2 * prior * np.eye(2)
        step = np.clip(np.linalg.solve(bend, slope), -0.5, 0.5)
        a, b = a - step[0], b - step[1]
        if np.abs(step).max() < 1e-9:
            break
    return float(np.exp(-a)), float(b)


def calibrated_by_others(z, labels):
    """
    p(yes) of each row by the calibration that all other rows give: what judges an evaluator must not have been fitted on the row that it is judged by.

    z, labels (N,) -> (N,)
    """
    import numpy as np
    z, labels, fits = np.asarray(z, float), np.asarray(labels), []
    for k in range(len(z)):
        fits.append(calibrate(np.delete(z, k), np.delete(labels, k)))
    return np.array([sigmoid(x / temperature + bias) for x, (temperature, bias) in zip(z, fits)])


def is_worse(old_right, new_right, level=0.05):
    """
    Is the new evaluator worse than the old beyond chance? The exact sign test on the audited rows where only one of them is right: were they
    equally good, each such row would be a fair coin.

    old_right, new_right (N,) bool -> (bool, p-value)
    >>> is_worse([True] * 5 + [False], [False] * 5 + [False])       # five rows lost, none won: 1 / 32
    (True, 0.03125)
    """
    lost = sum(bool(o) and not n for o, n in zip(old_right, new_right))
    won = sum(bool(n) and not o for o, n in zip(old_right, new_right))
    p = sum(math.comb(lost + won, k) for k in range(lost, lost + won + 1)) / 2 ** (lost + won)
    return lost > won and p < level, p


def mixing_weight(z_old, z_new, labels):
    """
    The share w of the new evaluator in the mixed score (1 - w) z_old + w z_new that fits audited labels best, of 0, 0.1, ... 1; one half from
    no labels. Of equals the one nearest to one half. (These are the audits that then guard: unlike the calibration, one choice of eleven is not made
    anew without each row.)
    """
    import numpy as np
    if not len(labels):
        return 0.5
    sign = 2 * np.asarray(labels) - 1
    loss = {w: float(np.logaddexp(0, -sign * ((1 - w) * z_old + w * z_new)).mean()) for w in (np.arange(11) / 10).tolist()}
    return min(loss, key=lambda w: (round(loss[w], 9), abs(w - 0.5)))


def bradley_terry(scores, weights):
    """
    -log sigma(s_better - s_worse): the chance that the better answer is preferred is sigma of the difference of their scores (Bradley and Terry 1952).
    A loss for train_weak.fit: scores (B, 2) of (better, worse), weights (B, 1) -> (B,)
    """
    import torch
    return weights[:, 0] * torch.nn.functional.softplus(scores[:, 1] - scores[:, 0])


# --------------------------------------------------------------------------- evaluator, attacker, critic

def score_texts(checkpoint, rows, words, args, device):
    """Scores of yes over no, log p_yes - log p_no: N rows -> (N,)"""
    model, tokenizer, longest = load_model(checkpoint, args.head, words, device, args.trust_remote_code)
    logits = sweep(model, tokenizer, tokenise(tokenizer, rows, longest), device, args.dtype)
    return logits[:, 1] - logits[:, 0]


def evaluate(evaluator, rows, words, args, device):
    """An evaluator is a file: {"members": [{"checkpoint", "weight"}], "temperature", "bias"}.  N rows -> (N,) raw scores, before calibration"""
    return sum(m["weight"] * score_texts(os.path.join(ROOT, m["checkpoint"]), rows, words, args, device) for m in evaluator["members"])


def open_evaluator(folder):
    """A supervisor's folder -> an evaluator: its checkpoint, or the members of a bagging ensemble with equal weights"""
    path, homes = os.path.join(folder, "results.json"), [folder]
    results = (read_lines(path, whole=True) or [{}])[0] if os.path.exists(path) else {}
    with as_left(path):
        if results.get("config", {}).get("method") == "bagging":
            homes = [os.path.join(os.path.dirname(folder), results["members_folder"], f"member-{k}") for k in range(results["members_used"])]
    checkpoints = [os.path.join(home, "checkpoint") for home in homes]
    if not all(os.path.exists(os.path.join(checkpoint, "config.json")) for checkpoint in checkpoints):
        fail(f"--evaluator {os.path.relpath(folder)} has no checkpoint to judge new rows with. Make one, for example:  python train_weak.py")
    return {"members": [{"checkpoint": os.path.relpath(c, ROOT), "weight": 1 / len(checkpoints)} for c in checkpoints], "temperature": 1.0, "bias": 0.0}


def choose_evaluator(names, evaluators, task, words, args, device):
    """Of several the one that judges most rows of valid right, without help and by their truth: humans have labelled these too. -> (evaluator, audits)"""
    valid = read_rows(task, "valid", args.max_rows)
    truth = read_labels(os.path.join(ROOT, "data", task, "truth"), valid)[:, 1]
    reached = [float(right(p_of(e, evaluate(e, valid, words, args, device)), truth).mean()) for e in evaluators]
    best = reached.index(max(reached))
    print("evaluator: " + ", ".join(f"{name} is right on {share:.3f}" for name, share in zip(names, reached)) + f" of the {len(valid):,} rows of valid, "
          f"whose true labels this choice costs; {names[best]} it is")
    return evaluators[best], [{"id": row["id"], "use": "choose", "label": int(t > 0.5)} for row, t in zip(valid, truth)]


def p_of(evaluator, z):
    """Raw scores (N,) -> calibrated p(yes) (N,)"""
    return sigmoid(z / evaluator["temperature"] + evaluator["bias"])


def propose_attacks(rows, share, believed):
    """
    The attacker. Of each question's answers that no row has asked about yet (its other choices, and whatever a language model wrote), the one the
    student believes most; then the boldest of all, `share` of the rows. Nobody tells it which answers are wrong: the critic has to know.

    rows       N rows with "group", "question", "answer", "choices"
    believed   list of rows -> (M,) how much the student believes each
    returns    rows in the form of `rows`, ids ending in -attack, the boldest first
    """
    asked, first = {}, {}
    for row in rows:
        asked.setdefault(row["group"], set()).add(row["answer"].strip().lower())
        first.setdefault(row["group"], row)
    candidates = [{**{k: v for k, v in row.items() if k != "support"}, "id": row["id"] + "-attack", "answer": answer,
                   "text": answer.join(row["text"].rsplit(row["answer"], 1))}
                  for row in first.values() for answer in dict.fromkeys(row["choices"]) if answer.strip().lower() not in asked[row["group"]]]
    if not candidates or not share:
        return []
    z, best = believed(candidates), {}
    for row, score in zip(candidates, z):
        if row["group"] not in best or score > best[row["group"]][0]:
            best[row["group"]] = (score, row)
    boldest = sorted(best.values(), key=lambda pair: (-pair[0], pair[1]["id"]))
    return [row for _, row in boldest[:round(share * len(rows))]]


def invent_answers(model, tokenizer, longest, rows, args, device):
    """A language model writes an answer to each question, at temperature 1: it joins the choices. A list of rows with one more choice each."""
    texts = write_all(model, tokenizer, [f"Q: {row['question']} A:" for row in rows], device, longest, 12, ["\n", "Q:", ".", "?"], temperature=1.0,
                      seed=args.seed, dtype=args.dtype)
    return [{**row, "choices": [*row["choices"], text]} if text else row for row, text in zip(rows, texts)]


def attack_success(rows, checkpoint, words, args, device):
    """
    Share of questions for which the likeliest of the answers nobody asked about is taken for right. Where each question's right answer is among
    its rows, as in tinyworld and SciQ, all of these are wrong, and no label is needed to know it.
    """
    attacks = propose_attacks(rows, 1.0, lambda candidates: score_texts(checkpoint, candidates, words, args, device))
    return float((score_texts(checkpoint, attacks, words, args, device) > 0).mean()) if attacks else None


def criticise(evaluator, rows, doubt, notes_for, words, args, device):
    """
    The critic: the evaluator's raw scores, and where its p(yes) is within `doubt` of one half, its mean with the score it gives after reading a
    note on the question.  -> ((N,) raw scores, number of notes read)
    """
    import numpy as np
    z = evaluate(evaluator, rows, words, args, device)
    unsure = np.flatnonzero(np.abs(p_of(evaluator, z) - 0.5) < doubt)
    if len(unsure):
        notes = notes_for([rows[i] for i in unsure])
        noted = [{**rows[i], "text": f"Note: {note}\n{rows[i]['text']}" if note else rows[i]["text"]} for i, note in zip(unsure, notes)]
        z = z.copy()
        z[unsure] = (z[unsure] + evaluate(evaluator, noted, words, args, device)) / 2
    return z, len(unsure)


# --------------------------------------------------------------------------- human and learner

def hire_humans(rows, p_critic, p_student, args, truth_folder, k):
    """
    The audits of a round: half of the budget at random, to guard; half where pick_for_truth says, to correct. Every true label that is used anywhere is
    in the list, and there are at most --audit of them.

    returns   list of {"id", "use": "guard" | "correct", "label"}
    """
    import numpy as np
    n_guard = (args.audit + 1) // 2
    guard = pick_for_truth(soft(p_critic), n_guard, "random", seed=1000 * args.seed + k)
    others = np.setdiff1d(np.arange(len(rows)), guard)
    correct = others[pick_for_truth(soft(p_critic[others]), args.audit - n_guard, args.audit_by, p_student[others], seed=1000 * args.seed + k + 1)]
    chosen = [(i, "guard") for i in guard] + [(i, "correct") for i in correct]
    truth = read_labels(truth_folder, [rows[i] for i, _ in chosen]) if chosen else []
    return [{"id": rows[i]["id"], "use": use, "label": int(pair[1] > 0.5)} for (i, use), pair in zip(chosen, truth)]


def train_learner(name, rows, p_yes, pairs, words, args, device, folder):
    """
    A model from checkpoint `name`, trained on soft labels and, if there are any, on pairs of (better row, worse row, weight). Saved as
    `folder`/checkpoint.
    """
    import numpy as np, torch
    torch.manual_seed(args.seed)
    model, tokenizer, longest = load_model(name, args.head, words, device, args.trust_remote_code)
    model, ordinary = prepare_for_training(model, args)
    ids = tokenise(tokenizer, rows, longest)
    fit(model, tokenizer, ids, soft(p_yes), args, device, target=None if args.loss == "xent" else LOSSES[args.loss])
    if pairs:
        both = [tokenise(tokenizer, [pair[side] for pair in pairs], longest) for side in (0, 1)]

        def collate(some, tokenizer, device):
            return pad([better for better, _ in some] + [worse for _, worse in some], tokenizer, device)

        def margins(model, batch):                         # (2 B, T) -> (B, 2): the scores of yes over no of better and worse
            logits = classify(model, batch)
            return (logits[:, 1] - logits[:, 0]).view(2, -1).T
        once = argparse.Namespace(**{**vars(args), "epochs": 1})
        fit(model, tokenizer, list(zip(*both)), np.array([[pair[2]] for pair in pairs], np.float32), once, device, loss=bradley_terry,
            outputs=margins, collate=collate)
    save_checkpoint(folder, ordinary(), tokenizer)
    return os.path.join(folder, "checkpoint")
