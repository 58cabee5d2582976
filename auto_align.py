"""
Phase 2: the evaluator becomes the supervisor, and every round updates it with a stronger student.

The idea is one sentence in Sang et al. (2024, https://arxiv.org/abs/2402.00667): an automatic alignment evaluator
supervises, and it is updated recursively, so that its capability grows with that of its students. Huang et al. (2024,
https://arxiv.org/abs/2412.11145) name the parts: an attacker searches for inputs that fool the learner, a critic judges
and explains, the learner improves, and a few human experts keep watch. No public code has the loop; the choices below
are ours. The critic is the evaluator at work; attacker, student and learner are one model, before, during and after its
training. Train2's questions are cut into one slice a round. Round k takes the next student of --ladder and its slice,
without labels:

    1 attacker   For each question it takes the answer that no row asks about and to which the student gives the highest
                 p(yes). The highest-scoring of these join the rows: --attack-share times as many as there are rows.
    2 critic     The evaluator scores all rows. Where its p(yes) is within --doubt of 1/2 (0: nowhere), the student's
                 language model writes a note on the question, and the scores with and without it are averaged.
    3 human      --audit true labels. A random half calibrates and guards the evaluator; nothing is trained on it. The
                 other half corrects rows. --audit-by picks these: where critic and student disagree most (disagree),
                 where the critic is least certain (uncertain), or random. Rows whose truth the task does not have are
                 written to data/<task>/true-labels.csv. The run stops until people have labelled them there.
    4 learner    The student is trained on these labels with --loss. With --pairwise it is also trained on pairs: the
                 likeliest answer to a question should score above the one that fooled the student.
    5 update     --update picks the next round's evaluator: the trained student (student); the old evaluator's first
                 model, trained on the student's labels (distill); old evaluator and student together (ensemble); the
                 old evaluator, calibrated again (none). Except with none, its threshold makes the share of yes the mean
                 of the labels' p(yes). The random audits then fit its confidence, and move its threshold a little.
    6 guard      The update is rejected, with a line, if the new evaluator is worse than the old one, beyond chance, on
                 the random audits of all rounds so far.

The mistake to avoid: a label that judges an evaluator must not have trained or calibrated it. So the questions of the
guard's audits are left out of training, and each audit is judged by a calibration on the others, for the old evaluator
as for the new one.

Does the loop do anything? Each round prints a control: its student before training, calibrated on the same audits as
the new evaluator. If that is as good, the loop has only bought a larger model. The second control is a direct jump with
the same budget: as many rows, bought labels and training steps.

$ python auto_align.py --ceiling ceiling                              # from weak, up tiny-2, -3, -4: half a minute
$ python auto_align.py --ladder tiny-4 --audit 48 --out align-jump    # the jump to tiny-4, with the same budget
$ python auto_align.py --evaluator weak,crowd --out align-best        # from the one with the better accuracy on valid
$ python auto_align.py --audit 0 --out align-audit0                   # without human labels: study collapse
$ python auto_align.py --audit-by random --out align-random           # does it pay to choose the rows to correct?
$ python auto_align.py --update ensemble --loss logconf --pairwise --out align-ensemble

Needs   contract.py, metrics.py, models.py, train_weak.py, train_strong.py, data/tasks.py
Reads   a supervisor's folder with a checkpoint, or a bagging ensemble's; data/<task>/{train2,valid,test}.jsonl, with
        "question", "answer" and "choices" for the attacker; of truth/ and true-labels.csv the audited rows alone
Writes  data/<task>/seed<seed>/align/{checkpoint/, labels.jsonl, audits.jsonl, config.json, results.json} of the last
        student; evaluator/labels.jsonl: the starting evaluator's labels of test, over which the PGR is; and
        rounds-<key>/round-<k>/{evaluator.json, learner/, labels.jsonl, audits.jsonl, results.json};
        data/<task>/true-labels.csv, if people must label the audited rows.
        The key is a digest of flags, inputs and code: a killed run goes on after its last whole round, and rounds of
        other flags or code are never mixed in. When this run is complete, its own rounds stay, and those of other flags
        or code are removed. An audits.jsonl lists every true label that was used: a round's, or the run's own for the
        choice among several evaluators.
"""
import argparse
import functools
import glob
import hashlib
import json
import math
import os
import shutil
import time
from collections import Counter

import numpy as np

from contract import (
    DAMAGE, ROOT, add_run_flags, describe_run, digest_results, fail, is_finished, model_folder, number, open_file,
    open_run, output_fingerprints, read_config, read_json, read_jsonl, read_known, read_labels, read_results, read_rows,
    read_task, reject_damaged, run_folder, run_script, save_checkpoint, without_labels, write_file, write_jsonl,
    write_labels, write_results)
from data.tasks import buy_labels, changed_labels, is_corrected
from metrics import (
    accuracy, all_metrics, check_comparison, compare_models, format_comparison, format_metrics, sigmoid, to_soft_labels)
from models import (
    add_model_flags, classify, forward_all, generate, load_classifier, open_language_model, pad, pick_device, tokenize)
from train_strong import LOSSES, select_rows_to_label
from train_weak import add_training_flags, batch_maker, fit, prepare_for_training, soft_label_loss, words_of_head

# --------------------------------------------------------------------------- the maths


def matching_threshold(z, share):
    """
    The score that this share of the rows exceed. With the mean p(yes) of the labels that a model was trained on as the
    share, its evaluator says yes as often as these labels expect. At threshold 0 it does not: trained on labels of 0.47
    on average, a student that separates right from wrong poorly scores most rows just below 0, and critics of later
    rounds say yes less and less (docs/results/phase2.md). Burns et al. choose the threshold of their confidence loss in
    the same way (A.4).

    >>> matching_threshold([-3., -2., -1., 0.], 0.5)
    -1.5
    """
    return float(np.quantile(z, 1 - share))


def platt_scaling(z, labels, prior=(0.1, 12.5)):
    """
    The temperature T and bias b for which sigma(z / T + b) fits true labels best (Platt 1999; Guo et al. 2017 for T
    alone), by Newton's method on (log 1/T, b), each with a Gaussian prior around 0 of variance 1 / (2 prior). That of b
    is narrow: a standard deviation of 0.2 lets the share of yes move by 0.05. A round has 8 random audits, and their
    share of yes is off by 0.18: followed more closely, it would be noise that the next student learns.

    z, labels   (N,) scores of yes over no, (N,) of 0 and 1 -> (T, b); (1, 0) from no labels
    >>> temperature, bias = platt_scaling([4., 4., 4., 4., -4., -4., -4., -4.], [1, 1, 1, 0, 0, 0, 0, 1])
    >>> round(float(sigmoid(4 / temperature + bias)), 2)       # was 0.98; 3 of 4 are correct, the rest is the prior
    0.77
    """
    z = np.asarray(z, float)
    labels = np.asarray(labels, float)
    prior = np.asarray(prior)
    params = np.zeros(2)                                   # log 1/T, b

    def objective(params):
        score = np.exp(params[0]) * z + params[1]
        return (np.logaddexp(0, score) - labels * score).sum() + (prior * params ** 2).sum()

    for _ in range(200):
        scale = np.exp(params[0])                          # 1/T, always positive
        p = sigmoid(scale * z + params[1])
        error = p - labels
        gradient = np.array([(error * scale * z).sum(), error.sum()]) + 2 * prior * params
        w = p * (1 - p)
        mixed = (w * scale * z).sum()                      # Gauss-Newton: the Hessian's term in `error` is left out
        hessian = np.array([[(w * (scale * z) ** 2).sum(), mixed], [mixed, w.sum()]]) + 2 * np.diag(prior)
        step = np.clip(np.linalg.solve(hessian, gradient), -0.5, 0.5)
        while objective(params - step) > objective(params) and np.abs(step).max() > 1e-9:
            step /= 2                                      # without that term a step may be too long
        params -= step
        if np.abs(step).max() < 1e-9:
            break
    return float(np.exp(-params[0])), float(params[1])


def leave_one_out_calibration(z, labels):
    """p(yes) of each row by Platt scaling on all other rows: none is judged by a fit to itself. (N,), (N,) -> (N,)"""
    z = np.asarray(z, float)
    p_yes = np.zeros(len(z))
    for k in range(len(z)):
        temperature, bias = platt_scaling(np.delete(z, k), np.delete(labels, k))
        p_yes[k] = sigmoid(z[k] / temperature + bias)
    return p_yes


def is_worse(old_correct, new_correct, level=0.05):
    """
    Is the new evaluator worse than the old one beyond chance? The exact sign test on the audited rows where only one of
    them is correct: were they equally good, each of these rows would be a fair coin.

    old_correct, new_correct   (N,) bool -> (bool, p-value)
    >>> is_worse([True] * 5 + [False], [False] * 5 + [False])          # five losses and no win: 1 / 32
    (True, 0.03125)
    """
    lost = sum(bool(old) and not new for old, new in zip(old_correct, new_correct))
    won = sum(bool(new) and not old for old, new in zip(old_correct, new_correct))
    p_value = sum(math.comb(lost + won, k) for k in range(lost, lost + won + 1)) / 2 ** (lost + won)
    return lost > won and p_value < level, p_value


def mixing_weight(z_old, z_new, labels):
    """
    The weight w in 0, 0.1, ... 1 for which the score (1 - w) z_old + w z_new fits audited labels best; of equals the
    one nearest to 1/2. The guard uses the same audits: it leaves each one out of the calibration, but not out of this.

    z_old, z_new, labels   (N,), (N,), (N,) of 0 and 1 -> w; 1/2 from no labels
    >>> mixing_weight(np.array([1., -1., 1.]), np.array([2., -2., -2.]), [1, 0, 0])     # the new one is correct on all
    1.0
    """
    if not len(labels):
        return 0.5
    sign = 2 * np.asarray(labels) - 1

    def loss(w):
        return round(float(np.logaddexp(0, -sign * ((1 - w) * z_old + w * z_new)).mean()), 9)
    return min([k / 10 for k in range(11)], key=lambda w: (loss(w), abs(w - 0.5)))


def bradley_terry(better, worse, weights):
    """
    -w log sigma(s_better - s_worse): an answer is preferred with probability sigma of the difference of two scores
    (Bradley and Terry 1952).

    better, worse, weights   (B,) tensors -> (B,)
    >>> import torch
    >>> bradley_terry(torch.tensor([1., 2.]), torch.tensor([1., 0.]), torch.ones(2))       # log 2, log(1 + e^-2)
    tensor([0.6931, 0.1269])
    """
    import torch
    return weights * torch.nn.functional.softplus(worse - better)


# --------------------------------------------------------------------------- the evaluator
# {"members": [{"checkpoint", "weight"}, ...], "threshold", "temperature", "bias"}: p(yes) = sigma((z - threshold) /
# temperature + bias), where z is the weighted sum of the members' scores.
#
# main() makes two functions that hold the run's flags, and the functions below are given them:
#   score(checkpoint, rows)                         score_texts
#   train(checkpoint, rows, p_yes, pairs, folder)   train_learner


def score_texts(checkpoint, rows, words, args, device):
    """
    Scores of yes over no, log p_yes - log p_no: N rows -> (N,)

    A head that starts from noise (--head random) is the same at every call, and the one that training starts from.
    """
    import torch
    if not rows:
        return np.zeros(0)
    torch.manual_seed(args.seed)
    model, tokenizer, max_length = load_classifier(checkpoint, args.head, words, device, args)
    logits = forward_all(model, tokenizer, tokenize(tokenizer, rows, max_length), device, args.dtype)
    return logits[:, 1] - logits[:, 0]


def evaluator_scores(members, rows, score):
    """The members' weighted score, before calibration: N rows -> (N,)"""
    return sum(m["weight"] * score(m["checkpoint"], rows) for m in members)


def calibrated_probability(evaluator, z):
    """Scores (N,) -> calibrated p(yes) (N,)"""
    return sigmoid((z - evaluator["threshold"]) / evaluator["temperature"] + evaluator["bias"])


def evaluator_p_yes(evaluator, rows, score):
    """N rows -> (N,) calibrated p(yes)"""
    return calibrated_probability(evaluator, evaluator_scores(evaluator["members"], rows, score))


def open_evaluator(folder):
    """
    A supervisor's folder -> an evaluator: its checkpoint, or a bagging ensemble's members with equal weights. A judge
    of debate.py judges without help from here on.
    """
    path = os.path.join(folder, "results.json")
    results = read_results(folder) if os.path.exists(path) else {}
    config = results.get("config", {})
    homes = [folder]
    with reject_damaged(path):
        if config.get("control") == "untrained" and config.get("truth_budget"):
            fail(f"--evaluator {os.path.relpath(folder)}: its labels are calibrated, and its checkpoint is not. Give "
                 "the run of a supervisor or student that was trained")
        if config.get("method") == "bagging":
            members_folder = os.path.join(os.path.dirname(folder), results["members_folder"])
            homes = [os.path.join(members_folder, f"member-{k}") for k in range(results["members_used"])]
    checkpoints = [os.path.join(home, "checkpoint") for home in homes]
    if not all(os.path.exists(os.path.join(checkpoint, "config.json")) for checkpoint in checkpoints):
        fail(f"--evaluator {os.path.relpath(folder)} has no checkpoint to judge new rows with. Make one, for example:  "
             "python train_weak.py")
    members = [{"checkpoint": checkpoint, "weight": 1 / len(checkpoints)} for checkpoint in checkpoints]
    return {"members": members, "threshold": 0.0, "temperature": 1.0, "bias": 0.0}


def calibrate(members, threshold, guard_rows, score):
    """
    The evaluator of these members with this threshold, calibrated on the guards: the rows of the random audits of all
    rounds so far, with their true "label".
    """
    z = evaluator_scores(members, guard_rows, score) - threshold
    temperature, bias = platt_scaling(z, [row["label"] for row in guard_rows])
    return {"members": members, "threshold": threshold, "temperature": temperature, "bias": bias}


def truth_folder(task):
    """The folder of a task's true labels."""
    return os.path.join(ROOT, "data", task, "truth")


def choose_evaluator(names, evaluators, args, score):
    """The most accurate of several on valid, whose true labels count as bought. -> (its index, audits)"""
    valid = read_rows(args.task, "valid", args.max_rows)
    truth = read_labels(truth_folder(args.task), valid)[:, 1]
    accuracies = [accuracy(evaluator_p_yes(e, valid, score), truth) for e in evaluators]
    best = accuracies.index(max(accuracies))
    scores = ", ".join(f"{name} {accuracy:.3f}" for name, accuracy in zip(names, accuracies))
    print(f"evaluator: {names[best]} has the best accuracy on valid ({scores}); this costs {len(valid):,} true labels")
    return best, [{"id": row["id"], "use": "choose", "label": int(t > 0.5)} for row, t in zip(valid, truth)]


# --------------------------------------------------------------------------- 1 attacker


def can_be_attacked(rows):
    """True if every row has its question, its answer and the other answers that were possible."""
    kinds = {"question": str, "answer": str, "choices": list}
    return all(isinstance(row.get(key), kind) for row in rows for key, kind in kinds.items())


def propose_attacks(rows, share, score_fn):
    """
    For each question the highest-scoring of its choices that no row asks about; of these the highest-scoring of all.
    Which answers are wrong is unknown here: the critic has to find out.

    rows       N rows with "group", "question", "answer", "choices"
    share      the number of attacks, as a share of N
    score_fn   M rows -> (M,) scores of yes
    returns    rows in the form of `rows`, ids ending in -attack, the highest-scoring first
    """
    asked = {}
    first = {}
    for row in rows:
        asked.setdefault(row["group"], set()).add(row["answer"].strip().lower())
        first.setdefault(row["group"], row)
    candidates = []
    for row in first.values():
        for answer in dict.fromkeys(row["choices"]):
            if answer.strip().lower() not in asked[row["group"]]:
                text = answer.join(row["text"].rsplit(row["answer"], 1))
                candidates.append({**row, "id": row["id"] + "-attack", "answer": answer, "text": text})
                candidates[-1].pop("support", None)        # it supports the old answer
    best = {}
    for _, row in sorted(zip(score_fn(candidates), candidates), key=lambda pair: (-pair[0], pair[1]["id"])):
        best.setdefault(row["group"], row)
    return list(best.values())[:round(share * len(rows))]


def invent_answers(language_model, rows, args, device):
    """A language model writes an answer to each question, at temperature 1. -> the rows with one more choice each"""
    model, tokenizer, max_length = language_model
    prompts = [f"Q: {row['question']} A:" for row in rows]
    texts = generate(model, tokenizer, prompts, device, max_length, 12, ["\n", "Q:", ".", "?"], temperature=1.0,
                     seed=args.seed, dtype=args.dtype)
    return [{**row, "choices": [*row["choices"], text]} if text else row for row, text in zip(rows, texts)]


def attack_success(checkpoint, rows, score):
    """
    The share of questions whose likeliest unasked answer scores above the median row; None without attacks. Where the
    correct answer to each question is among its rows, as in tinyworld and SciQ, all of these are wrong: no label is
    needed. The median makes models comparable, because each accepts half of the rows. At the threshold 1/2 a model that
    says "no" more often would seem harder to attack.
    """
    attacks = propose_attacks(rows, 1.0, functools.partial(score, checkpoint)) if can_be_attacked(rows) else []
    return float((score(checkpoint, attacks) > np.median(score(checkpoint, rows))).mean()) if attacks else None


# --------------------------------------------------------------------------- 2 critic


def add_notes(language_model, rows, args, device):
    """A language model writes a note on each row's question, at temperature 0. -> the rows with it before their text"""
    model, tokenizer, max_length = language_model
    prompts = []
    for row in rows:
        has_question = isinstance(row.get("question"), str)
        prompts.append((f"Q: {row['question']}" if has_question else row["text"]) + " Note:")
    notes = generate(model, tokenizer, prompts, device, max_length, 32, ["\n", "Q:"], dtype=args.dtype)
    return [{**row, "text": f"Note: {note}\n{row['text']}" if note else row["text"]} for row, note in zip(rows, notes)]


def critic_p_yes(evaluator, language_model, rows, score, args, device):
    """
    The evaluator's p(yes). Where it is within --doubt of 1/2, the scores with and without a note are averaged first.

    N rows -> (N,) calibrated p(yes), the number of notes
    """
    z = evaluator_scores(evaluator["members"], rows, score)
    unsure = np.flatnonzero(np.abs(calibrated_probability(evaluator, z) - 0.5) < args.doubt)
    if len(unsure):
        noted = add_notes(language_model, [rows[i] for i in unsure], args, device)
        z[unsure] = (z[unsure] + evaluator_scores(evaluator["members"], noted, score)) / 2
    return calibrated_probability(evaluator, z), len(unsure)


# --------------------------------------------------------------------------- 3 human


def buy_audits(rows, p_critic, p_student, args, k):
    """
    All true labels that round k uses: half of --audit at random, to guard; half where --audit-by says, to correct. The
    corrections are on other questions than the guards.

    p_critic, p_student   (N,) p(yes) of N rows
    returns               list of {"id", "use": "guard" | "correct", "label"}
    """
    n_guard = (args.audit + 1) // 2
    seed = 1000 * args.seed + k
    guard = select_rows_to_label(to_soft_labels(p_critic), n_guard, "random", seed=seed)
    guarded = {rows[i]["group"] for i in guard}
    others = np.array([i for i, row in enumerate(rows) if row["group"] not in guarded], dtype=int)
    critic = to_soft_labels(p_critic[others])
    chosen = select_rows_to_label(critic, args.audit - n_guard, args.audit_by, p_student[others], seed=seed + 1)
    uses = [(i, "guard") for i in guard] + [(i, "correct") for i in others[chosen]]
    labels = buy_labels(args.task, [rows[i] for i, _ in uses]) if uses else []
    return [{"id": rows[i]["id"], "use": use, "label": int(pair[1] > 0.5)} for (i, use), pair in zip(uses, labels)]


def read_guard_rows(rows, audits):
    """The rows that a round's audits guard with, each with its true "label"."""
    row_of = {row["id"]: row for row in rows}
    return [{**row_of[audit["id"]], "label": int(audit["label"])} for audit in audits if audit["use"] == "guard"]


def apply_corrections(p_yes, rows, audits):
    """p(yes) (N,) of N rows, with the true labels of the audits that correct."""
    label_of = {audit["id"]: audit["label"] for audit in audits if audit["use"] == "correct"}
    return np.array([label_of.get(row["id"], p) for row, p in zip(rows, p_yes)], dtype=float)


# --------------------------------------------------------------------------- 4 learner


def rows_to_train_on(rows, attacks, p_yes, audits):
    """
    Which of N rows and M attacks to train on, by the critic's p_yes (N + M,): indices into rows + attacks. Everything
    about a guard's question is left out: its other answer tells nearly as much as the guard itself. Each attack takes
    the place of the row whose label is nearest to its own: so rounds with and without attacks train equally long and
    on as many yes, and the learner is not taught that most answers are wrong. Audited rows are never replaced.

    >>> rows, attacks = [{"id": k, "group": k} for k in "abc"], [{"id": "a-attack", "group": "a"}]
    >>> rows_to_train_on(rows, attacks, [0.9, 0.3, 0.6, 0.4], [])                      # the attack replaces b
    [0, 2, 3]
    """
    use_of = {audit["id"]: audit["use"] for audit in audits}
    guarded = {row["group"] for row in rows if use_of.get(row["id"]) == "guard"}
    kept = [i for i, row in enumerate(rows + attacks) if row["group"] not in guarded]
    unaudited = [i for i in kept if i < len(rows) and rows[i]["id"] not in use_of]
    for attack in kept[::-1]:
        if attack >= len(rows) and unaudited:
            nearest = min(unaudited, key=lambda i: abs(p_yes[i] - p_yes[attack]))
            unaudited.remove(nearest)
            kept.remove(nearest)
    return kept


def preference_pairs(rows, attacks, p_yes):
    """
    Each attack beside the likeliest row of its question; the weight is by how much the critic prefers the row.
    N rows, M attacks, p_yes (N + M,) -> M tuples (row, attack, weight)
    """
    likeliest = {}
    for row, p in zip(rows, p_yes):
        if row["group"] not in likeliest or p > likeliest[row["group"]][1]:
            likeliest[row["group"]] = (row, p)
    pairs = []
    for attack, p_attack in zip(attacks, p_yes[len(rows):]):
        row, p = likeliest[attack["group"]]
        pairs.append((row, attack, float(max(0.0, p - p_attack))))
    return pairs


def fit_pairs(model, tokenizer, better_ids, worse_ids, weights, args, device):
    """One epoch on N pairs: Bradley-Terry on the scores of yes over no. N lists of ids, N lists of ids, N numbers"""
    import torch
    weights = torch.tensor(weights, dtype=torch.float32, device=device)

    def make_batch(indices):                               # B better rows, then B worse rows
        ids = [better_ids[i] for i in indices] + [worse_ids[i] for i in indices]
        return pad(ids, tokenizer, device) | {"weights": weights[indices]}

    def pair_loss(model, batch):
        logits = classify(model, batch)                    # (2 B, 2)
        better, worse = (logits[:, 1] - logits[:, 0]).chunk(2)
        return bradley_terry(better, worse, batch["weights"])

    one_epoch = argparse.Namespace(**{**vars(args), "epochs": 1})
    longest = max(map(len, better_ids + worse_ids))        # of one length: it does not order the pairs
    fit(model, [longest] * len(weights), make_batch, pair_loss, one_epoch, device)


def train_learner(checkpoint, rows, p_yes, pairs, folder, words, args, device):
    """Fine-tune on N rows and p_yes (N,), then on pairs (better row, worse row, weight). -> the new checkpoint"""
    import torch
    torch.manual_seed(args.seed)
    model, tokenizer, max_length = load_classifier(checkpoint, args.head, words, device, args)
    model, restore_ordinary = prepare_for_training(model, args)
    ids = tokenize(tokenizer, rows, max_length)
    make_batch = batch_maker(ids, tokenizer, device, soft_labels=to_soft_labels(p_yes))
    target_fn = None if args.loss == "xent" else LOSSES[args.loss]
    fit(model, [len(i) for i in ids], make_batch, soft_label_loss, args, device, target_fn=target_fn)
    if pairs:
        better, worse, weights = zip(*pairs)
        better_ids, worse_ids = (tokenize(tokenizer, side, max_length) for side in (better, worse))
        fit_pairs(model, tokenizer, better_ids, worse_ids, weights, args, device)
    save_checkpoint(folder, restore_ordinary(), tokenizer)
    return os.path.join(folder, "checkpoint")


# --------------------------------------------------------------------------- 5 update, 6 guard


def update_members(evaluator, learner, learner_threshold, rows, guard_rows, score, train, args, folder):
    """
    The members of the next round's evaluator, as --update says.

    learner             a checkpoint, trained on these rows
    learner_threshold   what its threshold would be if it were the evaluator by itself
    """
    members = evaluator["members"]
    if args.update == "none":
        return members
    if args.update == "student":
        return [{"checkpoint": learner, "weight": 1.0}]
    if args.update == "distill":
        p_yes = sigmoid(score(learner, rows))
        distilled = train(members[0]["checkpoint"], rows, p_yes, [], os.path.join(folder, "evaluator"))
        return [{"checkpoint": distilled, "weight": 1.0}]
    z_old = evaluator_scores(members, guard_rows, score) - evaluator["threshold"]
    z_new = score(learner, guard_rows) - learner_threshold
    w = mixing_weight(z_old, z_new, [row["label"] for row in guard_rows])
    return [{**m, "weight": m["weight"] * (1 - w)} for m in members] + [{"checkpoint": learner, "weight": w}]


def guard_update(old, new, guard_rows, score):
    """
    Compare two evaluators on the guards; neither was trained on them. Each guard is predicted by a calibration on the
    others, for both alike: the old evaluator's own calibration has seen some of them.

    returns   (the next round's evaluator, {"rejected", "guard_p", "guard_accuracy": [old, new]})
    """
    labels = np.array([row["label"] for row in guard_rows], dtype=int)
    corrects = []
    for evaluator in (old, new):
        z = evaluator_scores(evaluator["members"], guard_rows, score) - evaluator["threshold"]
        corrects.append((leave_one_out_calibration(z, labels) > 0.5) == labels)
    rejected, p_value = is_worse(*corrects)
    accuracies = [float(hits.mean()) if guard_rows else None for hits in corrects]
    if rejected:
        print(f"update REJECTED: on {len(guard_rows)} random audits the old evaluator scores {accuracies[0]:.3f}, the "
              f"new one {accuracies[1]:.3f} (sign test p = {p_value:.3f})")
    return old if rejected else new, {"rejected": rejected, "guard_p": p_value, "guard_accuracy": accuracies}


# --------------------------------------------------------------------------- the rounds


def slice_of(rows, k, n):
    """The k-th of n slices of the rows: whole questions, in a fixed random order."""
    groups = np.random.default_rng(0).permutation(sorted({row["group"] for row in rows}))
    selected = set(groups[k::n].tolist())
    return [row for row in rows if row["group"] in selected]


def play_round(k, evaluator, guard_rows, rows, score, train, args, device, folder):
    """
    Round k = 0, 1, ... with the k-th student of --ladder, written to `folder`.

    rows      the round's slice of train2, without labels
    returns   (the next round's evaluator, the control: the untrained student as evaluator, calibrated alike, the
              round's results but for those of test)
    """
    student = args.ladder.split(",")[k]
    z_student = score(student, rows)
    language_model = open_language_model(student, device, args, frozen=True)
    # 1 attacker
    attacks = []
    if args.attack_share:
        rows_with_invented = invent_answers(language_model, rows, args, device)
        attacks = propose_attacks(rows_with_invented, args.attack_share, functools.partial(score, student))
    all_rows = rows + attacks
    # 2 critic
    p_yes, n_notes = critic_p_yes(evaluator, language_model, all_rows, score, args, device)
    # 3 human
    audits = buy_audits(rows, p_yes[:len(rows)], sigmoid(z_student), args, k)
    write_jsonl(os.path.join(folder, "audits.jsonl"), audits)
    guard_rows = guard_rows + read_guard_rows(rows, audits)
    p_yes = apply_corrections(p_yes, all_rows, audits)
    # 4 learner
    kept = rows_to_train_on(rows, attacks, p_yes, audits)
    kept_rows = [all_rows[i] for i in kept]
    pairs = []
    if args.pairwise:
        pairs = [pair for i, pair in enumerate(preference_pairs(rows, attacks, p_yes), len(rows)) if i in set(kept)]
    learner = train(student, kept_rows, p_yes[kept], pairs, os.path.join(folder, "learner"))
    write_labels(folder, kept_rows, to_soft_labels(p_yes[kept]))
    # 5 update
    share = float(p_yes[:len(rows)].mean())
    learner_threshold = matching_threshold(score(learner, rows), share)
    members = update_members(evaluator, learner, learner_threshold, kept_rows, guard_rows, score, train, args, folder)
    threshold = evaluator["threshold"]
    if args.update != "none":
        threshold = matching_threshold(evaluator_scores(members, rows, score), share)
    new = calibrate(members, threshold, guard_rows, score)
    # 6 guard
    evaluator, verdict = guard_update(evaluator, new, guard_rows, score)
    control = [{"checkpoint": student, "weight": 1.0}]     # before training
    untrained = calibrate(control, matching_threshold(z_student, share), guard_rows, score)
    return evaluator, untrained, {
        "student": student, "rows": len(kept), "attacks": len(attacks), "notes": n_notes, "audits": len(audits),
        "guards": len(guard_rows), **verdict, "critic_says_yes": share}


def score_round(evaluators, student, learner, test, supervisor, ceiling, score):
    """
    What the round has reached, on test, for the record: nothing is decided by it. -> results

    evaluators            the old one, the new one and the control
    student, learner      checkpoints, before and after the round's training
    supervisor, ceiling   folders, for the learner's PGR; without a ceiling there is none
    """
    unlabelled = without_labels(test)
    p_learner = to_soft_labels(sigmoid(score(learner, unlabelled)))
    old, new, untrained = (all_metrics(to_soft_labels(evaluator_p_yes(e, unlabelled, score)), test) for e in evaluators)
    results = {"attack_success": [attack_success(checkpoint, unlabelled, score) for checkpoint in (student, learner)],
               "evaluator": [old, new], "untrained": untrained, "learner_test": all_metrics(p_learner, test)}
    if ceiling:
        comparison = compare_models(test, read_labels(supervisor, test), p_learner, read_labels(ceiling, test))
        results["pgr"] = comparison.get("pgr")
    return results


ROUND_OUTPUTS = ("evaluator.json", "audits.jsonl", "labels.jsonl", "learner/checkpoint", "evaluator/checkpoint")


def save_round(folder, evaluator, results):
    """evaluator.json, whose checkpoints are paths from the folder of this file, then results.json"""
    members = [{**m, "checkpoint": os.path.relpath(m["checkpoint"], ROOT)} for m in evaluator["members"]]
    write_file(os.path.join(folder, "evaluator.json"), json.dumps({**evaluator, "members": members}, indent=1))
    results = {**results, "outputs": output_fingerprints(folder, ROUND_OUTPUTS)}
    results["digest"] = digest_results(results)
    write_file(os.path.join(folder, "results.json"), json.dumps(results, indent=1))


def load_round(folder, train2):
    """
    A complete round -> (the next round's evaluator, the round's guards with "label", its results). A file that is not
    as the round left it raises a ValueError that names it.
    """
    path = os.path.join(folder, "results.json")
    try:
        with open_file(path) as f:
            results = json.load(f)
        intact = results["digest"] == digest_results(results)
    except DAMAGE:
        intact = False
    if not intact:
        raise ValueError(f"{os.path.relpath(path)} is damaged or was changed")
    for name, now in output_fingerprints(folder, ROUND_OUTPUTS).items():
        if results["outputs"].get(name) != now:
            raise ValueError(f"{os.path.relpath(os.path.join(folder, name))} was changed or is missing")
    saved = read_json(os.path.join(folder, "evaluator.json"))
    members = [{**m, "checkpoint": os.path.join(ROOT, m["checkpoint"])} for m in saved["members"]]
    guard_rows = read_guard_rows(train2, read_jsonl(os.path.join(folder, "audits.jsonl")))
    return {**saved, "members": members}, guard_rows, results


def read_audits(folder):
    """The true labels that a round has used -> {id: 0 or 1}"""
    return {audit["id"]: audit["label"] for audit in read_jsonl(os.path.join(folder, "audits.jsonl"))}


def format_round(k, results, n_bought):
    """One line about a round; n_bought: how many true labels were used so far."""
    old, new = results["evaluator"]
    learner = results["learner_test"]
    before, after = ("-" if share is None else f"{share:.2f}" for share in results["attack_success"])
    pgr = f"PGR {results['pgr']:.2f} | " if results.get("pgr") is not None else ""
    rejected = " | update rejected" if results["rejected"] else ""
    return (f"round {k + 1}, {results['student']} on {results['rows']} rows: evaluator {old['accuracy']:.3f} -> "
            f"{new['accuracy']:.3f} (untrained {results['untrained']['accuracy']:.3f}; ECE {old['ece']:.3f} -> "
            f"{new['ece']:.3f}) | attacks succeed {before} -> {after} | learner {learner['accuracy']:.3f} "
            f"±{learner['se']:.3f} | {pgr}labels bought {n_bought}{rejected}")


def play_rounds(evaluator, train2, test, supervisor, ceilings, n_bought, score, train, args, device, folder):
    """
    All rounds. A round that is complete already is only read, except with --force, or if an earlier one was played now.
    A round whose files have changed is played again, with a line.

    supervisor, ceilings   a folder, {model: folder}: for the PGR of the round whose student is that model
    n_bought               how many true labels have chosen the evaluator
    returns                (the rounds' results, the checkpoint of the last learner)
    """
    ladder = args.ladder.split(",")
    guard_rows = []
    rounds = []
    repeat = args.force
    for k, student in enumerate(ladder):
        home = os.path.join(folder, f"round-{k + 1}")
        learner = os.path.join(home, "learner", "checkpoint")
        ceiling = ceilings.get(student)
        found = None
        if not repeat and os.path.exists(os.path.join(home, "results.json")):
            try:
                found = load_round(home, train2)
                if changed := changed_labels(args.task, read_audits(home)):
                    raise ValueError(f"the true label of {changed[0]} was changed")
            except ValueError as error:
                found = None
                print(f"note: {error}; round {k + 1} and those after it are played again")
        if found is None:
            repeat = True
            rows = slice_of(train2, k, len(ladder))
            new, untrained, results = play_round(k, evaluator, guard_rows, rows, score, train, args, device, home)
            evaluators = (evaluator, new, untrained)
            results |= score_round(evaluators, student, learner, test, supervisor, ceiling, score)
            save_round(home, new, results)
            found = load_round(home, train2)
        evaluator, new_guard_rows, results = found
        guard_rows = guard_rows + new_guard_rows
        rounds.append(results)
        print(format_round(k, results, n_bought + sum(r["audits"] for r in rounds)))
    return rounds, learner


# --------------------------------------------------------------------------- the stage


AUDIT_BY = "disagree"


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_flags(parser, out="align")
    add_model_flags(parser)
    add_training_flags(parser, epochs=2)
    share = number(float, 0.0, 0.5)
    parser.add_argument("--evaluator", default="weak",
                        help="the folder of the supervisor to start from; of several with commas, the best on valid")
    parser.add_argument("--ladder", default="tiny-2,tiny-3,tiny-4", help="the students, one a round, ever stronger")
    parser.add_argument("--update", default="student", choices=["student", "distill", "ensemble", "none"],
                        help="what evaluates the next round")
    parser.add_argument("--attack-share", type=share, default=0.25, help="share of a round's rows that are attacks")
    parser.add_argument("--doubt", type=share, default=0.2, help="a note where p(yes) is this near to 1/2; 0: never")
    parser.add_argument("--audit", type=number(int, 0, 10 ** 6), default=16, help="true labels bought in each round")
    parser.add_argument("--audit-by", default=AUDIT_BY, choices=["random", "uncertain", "disagree"],
                        help="which rows the correcting half of the audits goes to")
    parser.add_argument("--pairwise", action="store_true",
                        help="train on pairs too: a question's likeliest answer over the one that fooled the student")
    parser.add_argument("--loss", default="xent", choices=list(LOSSES), help="the learner's loss (train_strong.py)")
    parser.add_argument("--ceiling", default="", help="folders of ceilings, one for each student that gets a PGR")
    return parser


def fits(rows, audit):
    """
    Do these rows hold so many audits, and one row to train on? The questions of the guards, half of the audits, are
    left out of training, and the other half is on the rest.
    """
    sizes = sorted(Counter(row["group"] for row in rows).values())
    left = len(rows) - sum(sizes[-((audit + 1) // 2):] if audit else [])       # if guards fall on the largest questions
    return left >= max(1, audit // 2) and audit <= len(rows)


def check_slices(train2, n_rounds, audit):
    """Every round's slice of train2 must be large enough for --audit."""
    slices = [slice_of(train2, k, n_rounds) for k in range(n_rounds)]
    if not all(fits(rows, audit) for rows in slices):
        smallest = min(map(len, slices))
        most = max((n for n in range(smallest + 1) if all(fits(rows, n) for rows in slices)), default=0)
        fewer_audits = f"--audit {most}, or " if smallest else ""
        fail(f"train2 has {len(train2)} rows: a slice of {smallest} is too small for --audit {audit}; "
             f"use {fewer_audits}larger slices (a shorter --ladder, more rows)")


def check_args(args):
    """Find mistakes before any work. -> (folders of --evaluator, their evaluators, {model: name of its ceiling})"""
    if args.pairwise and not args.attack_share:
        fail("--pairwise makes pairs of the answers that attack: give --attack-share too")
    if args.audit < 2 and args.audit_by != AUDIT_BY:
        fail(f"--audit-by chooses the second half of --audit's rows, and --audit {args.audit} has none")
    train2 = read_rows(args.task, "train2", args.max_rows)
    check_slices(train2, len(args.ladder.split(",")), args.audit)
    names = args.evaluator.split(",")
    sources = [run_folder(name, args.task, args.seed) for name in names]
    if not all(names) or len({os.path.realpath(source) for source in sources}) < len(names):
        fail(f"--evaluator {args.evaluator}: a name is empty or occurs twice")
    evaluators = [open_evaluator(source) for source in sources]
    if args.audit:
        read_known(truth_folder(args.task), train2)        # damaged labels end in one line now, not after the scoring
    valid = read_rows(args.task, "valid", args.max_rows, may_be_empty=True)
    if len(names) > 1 and (not valid or np.isnan(read_known(truth_folder(args.task), valid)).any()):
        fail(f"--evaluator {args.evaluator} compares these on valid, which has no true labels here, or not for every "
             "row: name one of them")
    ceilings = {}
    for name in filter(None, args.ceiling.split(",")):
        folder = run_folder(name, args.task, args.seed)
        identity = {**vars(args), "model": read_config(folder).get("model")}   # that of the student of the same model
        check_comparison(identity, None, folder)
        if identity["model"] not in args.ladder.split(","):
            fail(f"--ceiling {name} is for a student {identity['model']}, and --ladder {args.ladder} has none")
        ceilings[identity["model"]] = name
    if args.attack_share and not can_be_attacked(train2):
        fail(f"--attack-share needs 'question', 'answer' and 'choices' in each row of data/{args.task}/train2.jsonl; "
             "use --attack-share 0")
    return sources, evaluators, ceilings


def main(argv=None):
    parser = build_parser()
    args = parser.parse_args(argv)
    started = time.time()
    files, words = read_task(args.task)
    sources, evaluators, ceiling_names = check_args(args)
    ceilings = {model: run_folder(name, args.task, args.seed) for model, name in ceiling_names.items()}
    ladder = args.ladder.split(",")
    inputs = [*files, *map(model_folder, dict.fromkeys(ladder))]
    inputs += [member["checkpoint"] for evaluator in evaluators for member in evaluator["members"]]
    inputs += [os.path.join(source, "labels.jsonl") for source in (*sources, *ceilings.values())]
    identity = {"role": "align", **vars(args), "model": ladder[-1]}
    read_only = [*sources, truth_folder(args.task), *ceilings.values()]
    folder, config = describe_run(__file__, parser, args, identity, inputs, read_only, words_of_head(words, args))
    if is_finished(folder, config, args.force or is_corrected(folder, args.task)):
        return
    key = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]
    rounds_folder = os.path.join(folder, f"rounds-{key}")
    with open_run(folder):
        device = pick_device(args.device)
        score = functools.partial(score_texts, words=words, args=args, device=device)
        train = functools.partial(train_learner, words=words, args=args, device=device)
        train2, test = (read_rows(args.task, split, args.max_rows) for split in ("train2", "test"))
        valid = read_rows(args.task, "valid", args.max_rows, may_be_empty=True)
        start = 0
        choice = []                                        # the audits that chose among several evaluators
        if len(evaluators) > 1:
            start, choice = choose_evaluator(args.evaluator.split(","), evaluators, args, score)
        # what the evaluator says of test at the start is what the learners' PGR begins at
        at_start = os.path.join(folder, "evaluator")
        p_yes = evaluator_p_yes(evaluators[start], without_labels(test), score)
        write_labels(at_start, test, to_soft_labels(p_yes))
        rounds, learner = play_rounds(evaluators[start], train2, test, at_start, ceilings, len(choice), score, train,
                                      args, device, rounds_folder)

        # the last learner is the run's student: it labels all rows, and is compared with the supervisor at the start
        rows = train2 + valid + test
        soft_labels = to_soft_labels(sigmoid(score(learner, rows)))
        model, tokenizer, _ = load_classifier(learner, args.head, words, device, args)
        save_checkpoint(folder, model, tokenizer)
        write_labels(folder, rows, soft_labels)
        write_jsonl(os.path.join(folder, "audits.jsonl"), choice)
        truth = {}
        for k in range(len(ladder)):
            truth |= read_audits(os.path.join(rounds_folder, f"round-{k + 1}"))
        on_test = soft_labels[-len(test):]
        scores = all_metrics(on_test, test)
        ceiling = read_labels(ceilings[ladder[-1]], test) if ladder[-1] in ceilings else None
        comparison = compare_models(test, read_labels(at_start, test), on_test, ceiling)
        print(format_metrics("learner", scores))
        write_results(folder, config, device, started, format_comparison(comparison, scores), test=scores,
                      comparison=comparison, rounds=rounds, rounds_folder=os.path.basename(rounds_folder),
                      truth_ids=list(truth), truth_labels=list(truth.values()), labels_to_choose=len(choice),
                      supervisor=args.evaluator.split(",")[start], ceiling=ceiling_names.get(ladder[-1], ""))
        for other in set(glob.glob(os.path.join(glob.escape(folder), "rounds-*"))) - {rounds_folder}:
            shutil.rmtree(other, ignore_errors=True)


if __name__ == "__main__":
    run_script(main)
