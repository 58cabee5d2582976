"""
The student: a strong model is fine-tuned on a weak supervisor's labels, and may end up better than its supervisor.

Why: the labels are often wrong, but the student is the stronger model. It can copy the supervisor's errors, or learn
from the labels only which task is meant (Burns et al. 2023, https://arxiv.org/abs/2312.09390). The ceiling is the same
model trained on the true labels. The PGR (metrics.py) is the share of the gap between supervisor and ceiling that the
student closes. One script makes both, and only the labels differ:

$ python train_strong.py --labels truth --out ceiling                 # the ceiling
$ python train_strong.py --labels weak --ceiling ceiling              # the student, and its PGR
$ python train_strong.py --labels crowd --supervisor weak --ceiling ceiling --out student-crowd

--labels names a supervisor's folder, which may be another student's. --supervisor names the one to compare with: if it
is the same for all students, their PGRs are on one scale.

Without the following flags the student is the paper's naive one. With them it may learn more from wrong labels:

    --loss logconf            another target for the cross entropy (see LOSSES; add yours there)
    --clean knn --keep 0.5    keep the least doubtful half of each class's labels (confident, knn or logistic)
    --truth-budget 64         buy 64 true labels. --pick disagree (default): where student and supervisor disagree
                              most; uncertain: where the supervisor is unsure; random: anywhere. Where the task has no
                              truth, people write it into data/<task>/true-labels.csv, and the run stops until then
    --generative-steps 50     first train the language model on 50 batches of the task's texts
    --probe only              train the last layer alone. first: probe, then fine-tune; after: fine-tune, then probe
    --early-stop              keep the weights that agree best with the supervisor's labels of valid
    --oracle-stop             the same with the true labels of valid: unavailable in practice, so marked CHEATING
    --hard                    round the labels to 0 and 1 (a tie stays a tie)
    --chain tiny-2,tiny-4     students in a row, each supervised by the one before; the last is the result. The same
                              model twice is self-training (EleutherAI's "relabel and start over")

The labels of annotators (data/own/prepare.py) or of their fusion may cover some rows only: the student is trained on
these. Without any true label it is trained too, but nothing can be said about it. Classes more uneven than 70/30 are
compared by balanced accuracy (--metric).

Rows may be pairs of texts; then the student is a reward model (train_weak.py). Nothing may depend on which of the two
texts comes first. So losses, cleaning, probes and calibration see each pair in both orders. --also TASK labels test of
another task, too.

Two controls say what a student's score is worth:

    --control untrained       train nothing: is training on the labels worth anything? With --truth-budget 16 --pick
                              random, the model's predictions are calibrated on 16 true labels
    --control dealt           shuffle the labels among the rows of one true class: as many errors, as confident, but
                              without a pattern. If this student is better, the naive one imitates its supervisor

Needs   contract.py, metrics.py, models.py, train_weak.py, data/tasks.py
Reads   labels.jsonl of the supervisor and of the ceiling, and the ceiling's results.json;
        data/<task>/{task.json, train1.jsonl, train2.jsonl, valid.jsonl, test.jsonl};
        data/<task>/truth/labels.jsonl: its labels of valid are checked before training and used after it, to
        print how often the student was right at each step. Training itself uses the truth only with --labels truth,
        --truth-budget, --oracle-stop or --control dealt
Writes  data/<task>/seed<seed>/student/{checkpoint/, labels.jsonl, config.json, results.json}; results.json comes last;
        data/<task>/true-labels.csv, if people must give the labels of --truth-budget.
        A finished run is skipped (--force repeats it). After an edit of this file, such as a new loss, it runs again.
"""
import argparse
import math
import os
import time

import numpy as np

from contract import (
    ROOT, add_run_flags, describe_run, fail, is_finished, is_pair, model_folder, number, open_run, path_name, read_also,
    read_known, read_labels, read_rows, read_task, run_script, save_checkpoint, write_labels, write_results)
from data.tasks import buy_labels, is_corrected
from metrics import (
    METRICS, accuracy, all_metrics, check_comparison, compare_models, compare_on_test, correct, format_metrics,
    format_share, label_warnings, plan_comparison, print_cases, shuffle_test, sigmoid, to_soft_labels, unit_rows)
from models import (
    add_model_flags, classify, forward_all, is_reward_model, label_word_ids, load_classifier, mean_nll, needs_head,
    open_language_model, pick_device, predict, restore_weights, set_weight, show_ids, split_pairs, tokenize)
from train_weak import (
    add_also_flag, add_training_flags, also_files, batch_maker, fit, keep_best, prepare_for_training, soft_label_loss,
    words_of_head)

MODEL = "tiny-4"
KEEP, PICK = 0.5, "disagree"         # defaults of flags that belong to another
FEWEST_TO_TEST = 20                  # rows of valid on which labels are compared with shuffled ones
FEWEST_TO_PROBE = 100                # rows of train2, if valid has no labels

# --------------------------------------------------------------------------- the maths: losses
# Each loss is a cross entropy, and each function here makes its targets (B, 2) for a whole batch, from the student's
# logits (B, 2) without gradient, the supervisor's soft labels (B, 2), and the progress of training in [0, 1).


def xent(logits, labels, progress):
    """The supervisor's soft labels as they are: naive fine-tuning (Burns et al., section 4.2)."""
    return labels


def confidence_weight(progress, largest=0.5):
    """
    The weight a of the student's own predictions: linear from 0 to `largest` over the first fifth of training, then
    constant (Burns et al., appendix A.4; 0.75 for their largest students).

    >>> confidence_weight(0.0), confidence_weight(0.1), confidence_weight(0.2), confidence_weight(0.9)
    (0.0, 0.25, 0.5, 0.5)
    """
    return largest * min(1.0, progress / 0.2)


def harden(logits, share_yes):
    """
    The student's predictions, rounded: 1 for the `share_yes` of the batch with the highest p(yes), 0 for the others.
    With a threshold at 1/2, a student that prefers one class would reinforce itself until it predicts nothing else.

    logits (B, 2), share_yes in [0, 1] -> (B,) with mean share_yes; the row at the threshold may get a fraction

    >>> harden(torch.tensor([[0., 3.], [0., 2.], [0., 1.], [0., 0.]]), 0.5)     # none is below 1/2, half become yes
    tensor([1., 1., 0., 0.])
    """
    margin = logits[:, 1] - logits[:, 0]
    rank = margin.argsort(descending=True, stable=True).argsort()              # (B,) 0 for the highest p(yes)
    return (share_yes * len(margin) - rank).clamp(0, 1)    # 0.6 of 4 rows: 2.4 - (0, 1, 2, 3) -> (1, 1, 0.4, 0)


def confidence_target(logits, labels, a):
    """
    The auxiliary confidence loss (Burns et al., eq. 1):  (1 - a) CE(f, supervisor) + a CE(f, hardened student). Cross
    entropy is linear in its target, so this is CE(f, (1 - a) supervisor + a hardened student).

    The share of rows hardened to yes is the mean p(yes) of the batch's labels: one half for balanced classes, as in the
    paper, and also right for unbalanced ones (the released code does the same).

    >>> confidence_target(torch.tensor([[0., 2.], [0., 1.]]), torch.tensor([[0.6, 0.4], [0.4, 0.6]]), 0.5)[:, 1]
    tensor([0.7000, 0.3000])
    """
    import torch
    student = harden(logits, labels[:, 1].mean())
    return (1 - a) * labels + a * torch.stack([1 - student, student], dim=1)


def logconf(logits, labels, progress):
    """The confidence loss with the paper's weight."""
    return confidence_target(logits, labels, confidence_weight(progress))


def logconf_released(logits, labels, progress):
    """
    The confidence loss with the weight of openai/weak-to-strong: 0.5 * progress for the first tenth of training (at
    most 0.05), then a jump to 0.5. Nothing else differs (their threshold is a quantile: one yes more or less).
    """
    return confidence_target(logits, labels, 0.5 * (1.0 if progress > 0.1 else progress))


def product(logits, labels, progress):
    """
    Student and supervisor combined as if their errors were independent: the target is proportional to
    p_student * p_supervisor (openai/weak-to-strong, product_loss_fn).

    >>> product(torch.zeros(1, 2), torch.tensor([[0.3, 0.7]]), 0.5)     # a student at 1/2 leaves the label as it is
    tensor([[0.3000, 0.7000]])
    """
    joint = logits.softmax(-1) * labels.clamp(1e-6, 1)     # a label of exactly 0 would overrule every student
    return joint / joint.sum(-1, keepdim=True)


def window(logits, labels, progress, radius=0.15):
    """
    Learn only where the student is unsure (EleutherAI/w2s, confidence_window_loss). Where its p is outside
    0.5 ± radius, the target is its own prediction. The cross entropy against that has no gradient.

    >>> window(torch.tensor([[0., 0.], [0., 3.]]), torch.tensor([[0.9, 0.1], [0.9, 0.1]]), 0.5)[:, 0]
    tensor([0.9000, 0.0474])
    """
    student_probs = logits.softmax(-1)
    return student_probs.where(student_probs.max(-1, keepdim=True).values >= 0.5 + radius, labels)


def entropy(logits, labels, progress):
    """
    Penalize unsure predictions:  (1 - a) CE(f, supervisor) + a H(f),  a as in the confidence loss. The gradient of H in
    the logits is that of the cross entropy against  p (1 + log p + H). The target's rows sum to 1, but its numbers may
    be negative.

    In EleutherAI/w2s "entropy" is the cross entropy against the student's own prediction, held fixed. It has no
    gradient (see window), so theirs is naive fine-tuning with 1 - a of its step.

    >>> entropy(torch.zeros(1, 2), torch.tensor([[0.3, 0.7]]), 0.5)     # half the label, half (1/2, 1/2)
    tensor([[0.4000, 0.6000]])
    """
    student_probs = logits.softmax(-1)
    log_probs = logits.log_softmax(-1)
    a = confidence_weight(progress)
    return (1 - a) * labels + a * student_probs * (1 + log_probs - (student_probs * log_probs).sum(-1, keepdim=True))


LOSSES = {"xent": xent, "logconf": logconf, "logconf-released": logconf_released, "product": product, "window": window,
          "entropy": entropy}


def in_both_orders(target_fn):
    """
    A target function for pairs. It sees every pair of a batch in both orders, (s_a, s_b) and (s_b, s_a), so that no
    target depends on which text comes first. The confidence loss then hardens each pair at 1/2: in such a batch just as
    many texts win as lose.

    >>> swapped = in_both_orders(lambda logits, labels, progress: harden(logits, 0.5)[:, None])
    >>> swapped(torch.tensor([[0., 3.], [0., 2.], [0., 1.]]), torch.zeros(3, 2), 0.5)[:, 0]
    tensor([1., 1., 1.])
    """
    import torch

    def targets(logits, labels, progress):
        both = [torch.cat([x, x.flip(1)]) for x in (logits, labels)]
        return target_fn(*both, progress)[:len(logits)]
    return targets

# --------------------------------------------------------------------------- the maths: labels to keep, labels to buy
# Three signs of a wrong label need no truth: the supervisor is unsure (confident, as in Sang et al. 2024), rows with
# similar features of the student have another label (knn), or a linear model of these features predicts another one
# (logistic). A row must not vote on itself: a 1-nearest-neighbour filter whose neighbour is the row confirms every
# label. So a row is predicted without itself, and without the other rows of its question: a wrong answer lies right
# beside the correct one. EleutherAI (blog of 14 June 2024, code EleutherAI/w2s) found no consistent gain from such
# filters. Burns et al. (appendix E) found that confidence thresholds help when the supervisor is bad.


def keep_least_doubtful(soft_labels, doubt, fraction):
    """
    The `fraction` of each class, as labelled, with the least doubt, at least one row. soft_labels (N, 2), doubt (N,)
    -> (N,) bool

    >>> labels = np.array([[.9, .1], [.6, .4], [.2, .8], [.45, .55]])
    >>> keep_least_doubtful(labels, doubt=-labels.max(1), fraction=0.5).tolist()       # by the supervisor's confidence
    [True, False, True, False]
    """
    keep = np.zeros(len(soft_labels), bool)
    is_yes = soft_labels[:, 1] > 0.5
    for rows in (np.flatnonzero(~is_yes), np.flatnonzero(is_yes)):
        order = np.argsort(doubt[rows], kind="stable")
        keep[rows[order[:max(1, round(fraction * len(rows)))]]] = True
    return keep


def knn_prediction(features, soft_labels, groups, k=50):
    """
    The mean label of the k nearest rows by cosine, without the row's own question (EleutherAI/w2s: k = 50; of fewer
    than 500 rows a tenth). Without any other question: 1/2.

    features (N, C), soft_labels (N, 2), groups N -> (N,) p(yes)
    >>> features = np.array([[1., 0.], [1., .1], [0., 1.], [.1, 1.]])
    >>> knn_prediction(features, np.array([[.1, .9], [.2, .8], [.9, .1], [.7, .3]]), ["a", "b", "c", "d"], k=1)
    array([0.8, 0.9, 0.3, 0.1])
    """
    unit = unit_rows(features)
    question = np.unique(groups, return_inverse=True)[1]   # (N,) numbers
    prediction = np.empty(len(unit))
    k = min(k, max(1, len(unit) // 10))
    for start in range(0, len(unit), 1024):                # N x N similarities at once would not fit for large N
        rows = slice(start, start + 1024)
        similarity = unit[rows] @ unit.T
        similarity[question[rows, None] == question] = -np.inf
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        is_other = np.isfinite(np.take_along_axis(similarity, nearest, 1))     # (n, k)
        n_others = is_other.sum(1)
        means = (soft_labels[nearest, 1] * is_other).sum(1) / n_others.clip(1)
        prediction[rows] = np.where(n_others > 0, means, 0.5)
    return prediction


def logistic(features, p_yes, l2, bias=True):
    """
    Logistic regression on soft labels by Newton's method:  min_w  mean_i CE(sigmoid(w x_i), p_i) + l2 / 2 |w|^2.

    features (N, C), p_yes (N,) -> (C,) weights, or (C + 1,) with the bias last; the bias is not penalized
    >>> logistic(np.ones((4, 1)), np.full(4, 0.75), l2=1e-9, bias=False).round(3)      # odds of 3 to 1: log 3
    array([1.099])
    """
    x = np.asarray(features, np.float64)
    ridge = np.full(x.shape[1], l2)
    if bias:
        x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
        ridge = np.append(ridge, 1e-9)
    w = np.zeros(x.shape[1])

    def loss(w):
        z = x @ w
        return np.mean(np.logaddexp(0, z) - p_yes * z) + 0.5 * (ridge * w * w).sum()

    for _ in range(25):
        p = sigmoid(np.clip(x @ w, -30, 30))
        gradient = x.T @ (p - p_yes) / len(x) + ridge * w
        hessian = (x * (p * (1 - p))[:, None]).T @ x / len(x) + np.diag(ridge)
        step = np.linalg.solve(hessian + 1e-10 * np.eye(len(w)), gradient)
        size = 1.0
        while loss(w - size * step) > loss(w) and size > 1e-6:
            size /= 2                                      # far from the minimum a Newton step can be too long
        w -= size * step
        if np.abs(gradient).max() < 1e-7:
            break
    return w


def logistic_prediction(features, soft_labels, groups):
    """
    Ten logistic regressions, each fitted without a tenth of the questions, which it then predicts (EleutherAI/w2s).

    features (N, C), soft_labels (N, 2), groups N -> (N,) p(yes)
    """
    questions, question = np.unique(groups, return_inverse=True)
    if len(questions) < 2:                                 # nothing is left to learn from
        return np.full(len(features), 0.5)
    fold = np.random.default_rng(0).permutation(len(questions))[question] % 10         # (N,) of 0 to 9
    prediction = np.empty(len(features))
    for k in np.unique(fold):
        held = fold == k
        w = logistic(features[~held], soft_labels[~held, 1], l2=1e-2)
        prediction[held] = sigmoid(features[held] @ w[:-1] + w[-1])
    return prediction


def select_rows_to_label(soft_labels, n, how, student_p=None, seed=0):
    """
    The n rows whose true labels to buy: soft_labels (N, 2) -> indices (n,), ascending; of equal rows the first

    how   random; uncertain: the supervisor's p(yes) is nearest to 1/2; disagree: it is farthest from student_p (N,),
          the p(yes) of a student that was trained on the labels
    >>> select_rows_to_label(np.array([[.9, .1], [.55, .45], [.2, .8]]), 1, "uncertain").tolist()
    [1]
    """
    if how == "random":
        order = np.random.default_rng([seed, 1]).permutation(len(soft_labels))
    elif how == "uncertain":
        order = np.argsort(np.abs(soft_labels[:, 1] - 0.5), kind="stable")
    else:
        order = np.argsort(-np.abs(soft_labels[:, 1] - student_p), kind="stable")
    return np.sort(order[:n])


# --------------------------------------------------------------------------- the maths: controls


def deal_labels(soft_labels, truth, seed):
    """
    Soft labels dealt to other rows of the same true class at random: the errors stay as many and as confident, and no
    longer depend on the text. A student cannot imitate them, only average them out.

    soft_labels (N, 2), truth (N,) of 0 and 1 -> (N, 2)
    >>> deal_labels(np.array([[.9, .1], [.4, .6], [.4, .6]]), np.array([0, 1, 1]), seed=0).tolist()
    [[0.9, 0.1], [0.4, 0.6], [0.4, 0.6]]
    """
    dealt = soft_labels.copy()
    rng = np.random.default_rng([seed, 2])
    for side in (0, 1):
        rows = np.flatnonzero(truth == side)
        dealt[rows] = soft_labels[rng.permutation(rows)]
    return dealt


def swap_pairs(soft_labels, which):
    """The soft labels of pairs (N, 2) whose texts change places where `which` (N,) says so"""
    return np.where(which[:, None], soft_labels[:, ::-1], soft_labels)


def calibrate(probs, few, truth):
    """
    Soft labels (N, 2) after a logistic regression of true labels on their log odds. A negative slope inverts them.

    few (n, 2), truth (n,) of 0 and 1: the soft labels of n rows with their true labels -> (N, 2) float32
    >>> few = np.array([[.9, .1], [.8, .2], [.6, .4], [.9, .1]])       # all say no, half of them are wrong
    >>> (calibrate(few, few, np.array([0, 1, 1, 0]))[:, 1] > 0.5).tolist()
    [False, True, True, False]
    """
    def log_odds(p):
        return np.log(p[:, 1:].clip(1e-6)) - np.log(p[:, :1].clip(1e-6))
    w, b = logistic(log_odds(few), truth, l2=1e-2)
    return to_soft_labels(sigmoid(w * log_odds(probs)[:, 0] + b))


# --------------------------------------------------------------------------- one student, step by step


def pretrain_on_texts(model, name, rows, words, args, device):
    """
    --generative-steps: train the language model `name` on the task's texts, correct and wrong answers alike. That makes
    the task more salient (Burns et al., section 5.2.2). Its body and its rows for the label words go to `model`.
    """
    if not hasattr(model, "score") or not needs_head(model):
        fail(f"--generative-steps: {name!r} is no language model. Give the one that it was made from")
    language_model, tokenizer, max_length = open_language_model(name, device, args)
    ids = [i for i in split_pairs(tokenize(tokenizer, rows, max_length)) if len(i) > 1]
    if is_reward_model(model):
        ids.sort()                                         # which text of a pair comes first does not matter
    rng = np.random.default_rng(args.seed)
    n_texts = args.generative_steps * args.batch_size
    order = np.concatenate([rng.permutation(len(ids)) for _ in range(math.ceil(n_texts / len(ids)))])[:n_texts]
    chosen = [ids[i] for i in order]
    one_epoch = argparse.Namespace(**{**vars(args), "epochs": 1})              # the texts are drawn already
    before = forward_all(language_model, tokenizer, ids[:200], device, args.dtype, output_fn=mean_nll).mean()
    make_batch = batch_maker(chosen, tokenizer, device)
    fit(language_model, [len(i) for i in chosen], make_batch, mean_nll, one_epoch, device)
    after = forward_all(language_model, tokenizer, ids[:200], device, args.dtype, output_fn=mean_nll).mean()
    print(f"read {n_texts:,} texts of train2: {before:.2f} -> {after:.2f} nats a token")
    for weight, trained in zip(model.base_model.parameters(), language_model.base_model.parameters()):
        set_weight(weight, trained.detach())
    if args.head == "lm":
        rows = language_model.get_output_embeddings().weight[label_word_ids(tokenizer, words)].detach()
        set_weight(model.score.weight, rows[1:] - rows[:1] if is_reward_model(model) else rows)


def last_layer(model):
    """The linear layer whose two outputs are the logits of no and yes; of a reward model its one output."""
    import torch
    n = model.config.num_labels
    found = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == n]
    if not found:
        fail(f"--probe and --clean: this model has no linear layer with {n} outputs")
    return found[-1]


def compute_features(model, tokenizer, ids, args, device):
    """
    The last layer's inputs for all rows: N lists of ids -> (N, C) float32. Of a pair those of b minus those of a: a
    linear score of the difference is the difference of the scores.
    """
    captured = []
    hook = last_layer(model).register_forward_pre_hook(lambda module, inputs: captured.append(inputs[0]))

    def inputs_of_last_layer(model, batch):
        classify(model, batch)
        inputs = captured.pop()
        return inputs[1::2] - inputs[::2] if is_reward_model(model) else inputs
    features = forward_all(model, tokenizer, ids, device, args.dtype, output_fn=inputs_of_last_layer)
    hook.remove()
    return features


def clean_labels(model, tokenizer, rows, ids, soft_labels, bought, args, device):
    """
    --clean: the ids and soft labels of the rows that are kept, the least doubtful --keep of each class. Pairs are one
    class: the better text stands second. Nobody doubts labels that were bought; `bought` holds their rows' ids.
    """
    pairs = is_reward_model(model)
    if args.clean == "confident":
        doubt = -soft_labels.max(1)
    else:
        features = compute_features(model, tokenizer, ids, args, device)
        predict_from_others = knn_prediction if args.clean == "knn" else logistic_prediction
        prediction = predict_from_others(*add_swapped_pairs(features, soft_labels, rows, pairs))[:len(rows)]
        doubt = np.abs(soft_labels[:, 1] - prediction)
    doubt = np.where([row["id"] in bought for row in rows], -np.inf, doubt)
    keep = keep_least_doubtful(np.sort(soft_labels, axis=1) if pairs else soft_labels, doubt, args.keep)
    print(f"cleaning: {keep.sum():,} of {len(rows):,} rows are kept ({soft_labels[keep, 1].mean():.1%} yes on average)")
    return [ids[i] for i in np.flatnonzero(keep)], soft_labels[keep]


def add_swapped_pairs(features, soft_labels, rows, pairs):
    """Features, soft labels and groups of N rows; pairs are added once more with their texts swapped: 2 N."""
    groups = [row["group"] for row in rows]
    if not pairs:
        return features, soft_labels, groups
    return np.concatenate([features, -features]), np.concatenate([soft_labels, soft_labels[:, ::-1]]), groups * 2


def probe_labels(model, tokenizer, rows, ids, soft_labels, args, device):
    """
    Do labels depend on the texts at all? Where valid has none to test a student by, a linear probe of the model's
    features, before training, predicts those of up to 1,000 rows of train2, each without its own question.

    returns   the p value of shuffle_test; None if there are too few rows or different labels
    """
    p_yes = soft_labels[:1000, 1]
    if len(p_yes) < FEWEST_TO_PROBE or not np.ptp(p_yes):
        return None
    features = compute_features(model, tokenizer, ids[:1000], args, device)
    known = add_swapped_pairs(features, soft_labels[:1000], rows[:1000], is_reward_model(model))
    return shuffle_test(logistic_prediction(*known)[:len(p_yes)], p_yes)


def fit_probe(model, tokenizer, ids, soft_labels, valid_ids, valid_labels, args, device):
    """
    --probe: set the last layer alone, by logistic regression on its inputs, which are computed once. The penalty is
    chosen on valid, with labels of the same supervisor.
    """
    import torch
    layer = last_layer(model)
    pairs = is_reward_model(model)
    has_bias = layer.bias is not None and not pairs        # in a difference of scores it cancels
    x = compute_features(model, tokenizer, ids, args, device)
    x_valid = compute_features(model, tokenizer, valid_ids, args, device)
    n_features = x.shape[1]
    fits = []
    for l2 in (1e-4, 1e-3, 1e-2, 1e-1, 1.0):
        w = logistic(x, soft_labels[:, 1], l2, has_bias)
        z = x_valid @ w[:n_features] + (w[-1] if has_bias else 0.0)            # log odds of yes
        fits.append((np.mean(np.logaddexp(0, z) - valid_labels[:, 1] * z), l2, w))
    loss, l2, w = min(fits, key=lambda fitted: fitted[0])
    w = torch.tensor(w, dtype=torch.float32, device=device) / (1 if pairs else 2)
    with torch.no_grad():                                  # two rows, -w/2 and w/2: their difference is the probe
        set_weight(layer.weight, w[None] if pairs else torch.stack([-w, w])[:, :n_features])
        if has_bias:
            set_weight(layer.bias, torch.stack([-w[-1], w[-1]]))
    print(f"probe: {n_features} features, penalty {l2:g} fits the labels of {len(valid_ids):,} valid rows best "
          f"({loss:.3f} nats)")


def agreement(p_yes, labels):
    """
    Accuracy on the rows whose label is a verdict, the others being nan or a tie of 1/2; None if there are none.
    (M,), (M,) -> float
    """
    known = np.isfinite(labels) & (labels != 0.5)
    return accuracy(p_yes[known], labels[known]) if known.any() else None


def round_labels(soft_labels):
    """
    --hard: labels of 0 and 1, (N, 2) -> (N, 2). A tie of 0.5 has no verdict and stays; so does nan, no label.

    >>> round_labels(np.array([[0.3, 0.7], [0.5, 0.5]])).tolist()
    [[0.0, 1.0], [0.5, 0.5]]
    """
    p_yes = soft_labels[:, 1]
    return to_soft_labels(np.where((p_yes == 0.5) | np.isnan(p_yes), p_yes, p_yes > 0.5))


def fine_tune(model, tokenizer, ids, soft_labels, valid_ids, stop_labels, args, device):
    """
    Train all weights with --loss, and predict valid before training, at each eighth of it, and at steps 2, 4, 8, ... of
    the first eighth, where a student learns which task is meant. --early-stop and --oracle-stop keep the weights that
    agree best with stop_labels (M,) of 0 and 1, nan where there is none.

    returns   the curve: a list of (step, steps, p_yes (M,))
    """
    curve = []
    best = {"score": -1.0}

    def after_step(step, steps):
        eighth = math.ceil(steps / 8)
        is_early = 1 < step < eighth and step & (step - 1) == 0                # 2, 4, 8, ...
        is_due = is_early or step % eighth == 0 or step == steps
        if not valid_ids or not is_due:
            return
        p_yes = predict(model, tokenizer, valid_ids, device, args.dtype)[:, 1]
        curve.append((step, steps, p_yes))
        if step and (args.early_stop or args.oracle_stop):
            keep_best(best, agreement(p_yes, stop_labels), model, step=step)

    after_step(0, math.ceil(len(ids) / args.batch_size) * args.epochs)
    make_batch = batch_maker(ids, tokenizer, device, soft_labels=soft_labels)
    target_fn = None if args.loss == "xent" else LOSSES[args.loss]             # xent needs no logits for its target
    if target_fn and is_reward_model(model):
        target_fn = in_both_orders(target_fn)
    fit(model, [len(i) for i in ids], make_batch, soft_label_loss, args, device, target_fn, after_step)
    if "step" in best:
        restore_weights(model, best["weights"])
        source = "CHEATING, by the truth of valid" if args.oracle_stop else "by the labels of valid"
        print(f"stopped at step {best['step']} of {curve[-1][1]}: {source}")
    return curve


def train_student(plan, name, train2, valid, labels, args, device):
    """
    Train one student, from the checkpoint `name`, on its supervisor's labels of train2 and valid (N + M, 2), nan where
    there is none.

    returns   (model, tokenizer, max_length, curve as in fine_tune, the student's own labels (N + M, 2))
    """
    import torch
    torch.manual_seed(args.seed)
    model, tokenizer, max_length = load_classifier(name, args.head, plan.words, device, args, is_pair(train2[0]))
    all_ids = tokenize(tokenizer, train2 + valid, max_length)
    if args.control == "untrained":
        return model, tokenizer, max_length, [], predict(model, tokenizer, all_ids, device, args.dtype)
    n = len(train2)
    known = np.isfinite(labels[:, 1])                      # usually all rows
    of_train2 = np.flatnonzero(known[:n])
    of_valid = n + np.flatnonzero(known[n:])
    train2 = [train2[i] for i in of_train2]
    ids = [all_ids[i] for i in of_train2]
    soft_labels = labels[of_train2]
    valid_ids = [all_ids[i] for i in of_valid]
    valid_labels = labels[of_valid]
    stop_labels = read_verdicts(plan.truth_folder, valid) if args.oracle_stop else round_labels(labels[n:])[:, 1]
    curve = []
    if not valid_ids and not plan.probed:
        plan.probed = probe_labels(model, tokenizer, train2, ids, soft_labels, args, device)
    print(f"one example, exactly as the model sees it:\n  {show_ids(tokenizer, ids[0])} -> "
          f"soft label (no {soft_labels[0, 0]:.2f}, yes {soft_labels[0, 1]:.2f})")
    if args.generative_steps:
        pretrain_on_texts(model, name, train2, plan.words, args, device)
    if args.clean != "none":
        ids, soft_labels = clean_labels(model, tokenizer, train2, ids, soft_labels, plan.bought, args, device)
    if args.probe in ("only", "first"):
        fit_probe(model, tokenizer, ids, soft_labels, valid_ids, valid_labels, args, device)
    if args.probe != "only":
        model, restore_ordinary = prepare_for_training(model, args)
        curve = fine_tune(model, tokenizer, ids, soft_labels, all_ids[n:], stop_labels, args, device)
        model = restore_ordinary()
    if args.probe == "after":
        fit_probe(model, tokenizer, ids, soft_labels, valid_ids, valid_labels, args, device)
    return model, tokenizer, max_length, curve, predict(model, tokenizer, all_ids, device, args.dtype)


# --------------------------------------------------------------------------- the stage: students in a row, their scores


def train_students(plan, train2, valid, args, device):
    """
    Train one student, or several in a row (--chain): each labels train2 and valid for the next.

    returns   (model, tokenizer, max_length, curve, own labels of the last student, as train_student returns them;
              indices of the rows whose true labels were bought; these labels)
    """
    labels = read_known(plan.labels_folder, train2 + valid)
    n_labelled = int(np.isfinite(labels[:len(train2), 1]).sum())
    print(f"data: {n_labelled:,} rows of train2, labelled by {os.path.relpath(plan.labels_folder)} "
          f"({np.nanmean(labels[:len(train2), 1]):.1%} yes on average)")
    if n_labelled < len(train2):
        print(f"note: {len(train2) - n_labelled:,} of {len(train2):,} rows of train2 have no label; the student is not "
              "trained on them, but labels them")
    if args.control == "dealt":
        truth = read_labels(plan.truth_folder, train2 + valid)[:, 1] > 0.5
        # pairs are of one class: those whose first text is better are swapped, and afterwards swapped back
        swapped = ~truth & is_pair(train2[0])
        labels = swap_pairs(labels, swapped)
        for split in (slice(len(train2)), slice(len(train2), None)):
            labels[split] = deal_labels(labels[split], (truth | swapped)[split], args.seed)
        labels = swap_pairs(labels, swapped)
    if args.hard:
        n_ties = int((labels[:, 1] == 0.5).sum())
        if n_ties:
            print(f"WARNING: --hard: {n_ties:,} of {len(labels):,} labels are ties of exactly 0.5 and stay so")
        labels = round_labels(labels)
    bought = []
    true_labels = np.empty((0, 2))
    if args.truth_budget:
        student_p = None
        if args.pick == "disagree":
            model, *_, probs = train_student(plan, plan.models[0], train2, valid, labels, args, device)
            student_p = probs[:len(train2), 1]
        bought = select_rows_to_label(labels[:len(train2)], args.truth_budget, args.pick, student_p, args.seed)
        true_labels = buy_labels(args.task, [train2[i] for i in bought])
        plan.bought = {train2[i]["id"] for i in bought}
        known = np.where(np.isnan(labels[bought, 1]), np.nan, true_labels[:, 1])
        print(f"truth: {len(bought):,} labels of train2 bought ({args.pick}); the supervisor had "
              f"{format_share(agreement(labels[bought, 1], known))} of them right")
    for k, name in enumerate(plan.models, 1):
        if len(plan.models) > 1:
            print(f"student {k} of {len(plan.models)}: {os.path.basename(name)}")
        if args.truth_budget:
            labels[bought] = true_labels                   # for every student: bought labels stay true
        model = None                                       # the student before, if any, leaves the memory
        model, tokenizer, max_length, curve, probs = train_student(plan, name, train2, valid, labels, args, device)
        labels = probs.copy()
    return model, tokenizer, max_length, curve, probs, bought, true_labels


def score_curve(curve, plan, valid):
    """fine_tune's curve -> list of dicts: at each step, agreement with the labels and with the truth of valid"""
    labels = read_verdicts(plan.labels_folder, valid)
    truth = read_verdicts(plan.truth_folder, valid)
    scored = [{"step": step, "of": steps, "agrees_with_labels": agreement(p_yes, labels),
               "agrees_with_truth": agreement(p_yes, truth)} for step, steps, p_yes in curve]
    if curve:
        points = [f"{c['step']} ({format_share(c['agrees_with_labels'])}, {format_share(c['agrees_with_truth'])})"
                  for c in scored]
        print("agrees on valid with (labels, truth) at step " + ", ".join(points))
    return scored


def find_warnings(plan, train2, valid, probs):
    """
    What is wrong with the labels that the student was trained on: constant, of one class, or unrelated to the texts,
    since the student predicts its supervisor's labels of valid no better than shuffled ones. -> list of sentences

    probs   (N + M, 2), the student's own labels of train2 and valid
    """
    labels = read_known(plan.labels_folder, train2 + valid)[:, 1]
    n = len(train2)
    warnings = label_warnings(labels[:n][np.isfinite(labels[:n])])
    known = n + np.flatnonzero(np.isfinite(labels[n:]))
    if not warnings and len(known) >= FEWEST_TO_TEST and np.ptp(labels[known]):
        p = shuffle_test(probs[known, 1], labels[known])
        if p > 0.05:
            warnings = [f"they may have nothing to do with the texts: the student predicts those of {len(known):,} "
                        f"valid rows no better than shuffled ones (p = {p:.2f})"]
    if plan.probed and plan.probed > 0.05:
        warnings.append("they may have nothing to do with the texts: a probe of the model's features predicts them no "
                        f"better than shuffled ones (p = {plan.probed:.2f})")
    return [f"labels of {os.path.basename(plan.labels_folder)}: {warning}" for warning in warnings]


def print_disagreements(plan, test, probs, scores, comparison):
    """
    Where the student and its supervisor differ: rows that one of them has right, and how often they agree.

    probs (N, 2), the student's soft labels of test; their all_metrics and compare_models
    """
    supervisor = read_known(plan.supervisor_folder, test)
    truth = [row["label"] for row in test]
    known = np.isfinite(supervisor[:, 1])
    supervisor_correct = correct(supervisor[:, 1], truth) == 1
    student_correct = correct(probs[:, 1], truth) == 1
    gains = np.flatnonzero(student_correct & ~supervisor_correct & known)
    losses = np.flatnonzero(~student_correct & supervisor_correct & known)
    print_cases("student right where its supervisor is wrong", gains, test, supervisor, probs)
    print_cases("student wrong where its supervisor is right", losses, test, supervisor, probs)
    print(format_metrics("student", scores))
    print("agrees with its supervisor where that is right "
          f"{format_share(comparison['agrees_where_supervisor_right'])}, where it is wrong "
          f"{format_share(comparison['agrees_where_supervisor_wrong'])}")


def compare_elsewhere(plan, args, probs):
    """How good a model is on --also's test, (N, 2), and its PGR there if a ceiling was given -> a sentence"""
    rows = read_rows(args.also, "test", args.max_rows)
    line = f"on {args.also} {accuracy(probs[:, 1], [row['label'] for row in rows]):.3f}"
    if not plan.supervisor_folder or not plan.ceiling_folder:
        return line
    supervisor = read_known(plan.supervisor_folder, rows)
    if np.isnan(supervisor).all():
        return f"{line} (no PGR: the supervisor labels no row of it)"
    c = compare_models(rows, supervisor, probs, read_labels(plan.ceiling_folder, rows), args.metric)
    pgr = f"PGR {c['pgr']:.2f}" if "pgr" in c else f"no PGR: {c['pgr_reason']}"
    return f"on {args.also} {c['student']:.3f} (supervisor {c['supervisor']:.3f}, ceiling {c['ceiling']:.3f}, {pgr})"


# --------------------------------------------------------------------------- flags, checks, and the story


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_flags(parser, out="student")
    add_model_flags(parser, model=MODEL)
    add_training_flags(parser, epochs=2)
    add_also_flag(parser)
    add = parser.add_argument
    count = number(int, 0, 10 ** 9)
    add("--labels", type=path_name, default="weak", help="a supervisor's folder, or its name; 'truth': the ceiling")
    add("--supervisor", type=path_name, default="", help="folder to compare with (default: that of --labels)")
    add("--ceiling", type=path_name, default="", help="folder of the ceiling, for the PGR")
    add("--metric", default="auto", choices=["auto", *METRICS],
        help="what a PGR compares (auto: balanced accuracy if classes are uneven by more than 70/30, else accuracy)")
    add("--loss", default="xent", choices=list(LOSSES), help="the target of the cross entropy")
    add("--clean", default="none", choices=["none", "confident", "knn", "logistic"], help="how to find doubtful labels")
    add("--keep", type=number(float, 0.01, 1.0), default=KEEP, help="share of each class that --clean keeps")
    add("--truth-budget", type=count, default=0, help="true labels of train2 to buy")
    add("--pick", default=PICK, choices=["random", "uncertain", "disagree"], help="which rows to buy them for")
    add("--generative-steps", type=count, default=0, help="batches of train2's texts to train on first")
    add("--probe", default="none", choices=["none", "only", "first", "after"],
        help="fit the last layer alone: instead of, before or after fine-tuning")
    add("--early-stop", action="store_true", help="keep the weights that agree best with the labels of valid")
    add("--oracle-stop", action="store_true", help="the same with the truth of valid: cheating, for study")
    add("--hard", action="store_true", help="round the supervisor's labels to 0 and 1 (not a student's, after --chain)")
    add("--chain", default="", help="models of students in a row: tiny-2,tiny-3,tiny-4; one model twice: self-training")
    add("--control", default="none", choices=["none", "untrained", "dealt"],
        help="train nothing, or on labels that were dealt to other rows of the same true class")
    return parser


def read_verdicts(folder, rows):
    """The verdicts of a folder's labels: 0, 1, 1/2 for a tie, nan where there is no label; (N,)"""
    return round_labels(read_known(folder, rows))[:, 1]


def check_labels(plan, args):
    """Are there the labels that the flags ask for?"""
    train2 = read_rows(args.task, "train2", args.max_rows)
    valid = read_rows(args.task, "valid", args.max_rows, may_be_empty=True)
    labels = read_known(plan.labels_folder, train2 + valid)
    truth = read_verdicts(plan.truth_folder, valid)        # the curve needs it after training
    name = os.path.relpath(os.path.join(plan.labels_folder, "labels.jsonl"))
    if np.isnan(labels[:len(train2)]).all():
        reason = "no true labels, no ceiling" if plan.labels_folder == plan.truth_folder else "another task?"
        fail(f"{name} has a label for none of the {len(train2):,} rows of train2: {reason}")
    verdicts = round_labels(labels[len(train2):])[:, 1]
    if (args.early_stop or args.probe != "none") and not np.isin(verdicts, (0, 1)).any():
        fail(f"--early-stop and --probe need labels of valid, and {name} has none")
    if args.oracle_stop and np.isnan(truth).all():
        fail("--oracle-stop needs true labels of valid, and there are none")
    if args.truth_budget:
        read_known(plan.truth_folder, train2)              # damaged labels end in one line now, not after training
    if args.control == "dealt" and np.isnan(read_known(plan.truth_folder, train2 + valid)).any():
        fail("--control dealt needs a true label of every row of train2 and valid: on a table of your own leave it out")


def check_args(args):
    """
    Check flags and files before any work.

    returns   the namespace of plan_comparison with more in it: models (one a student, in order), words (for no and
              yes), truth_folder; inputs and sources for describe_run; and what training adds, probed and bought
    """
    truth_folder = os.path.join(ROOT, "data", args.task, "truth")
    plan = plan_comparison(args, truth_folder)
    if plan.role == "ceiling" and (args.ceiling or args.supervisor or args.control != "none"):
        fail("--labels truth makes a ceiling; --ceiling, --supervisor and --control are for students")
    if plan.role == "ceiling" and (args.chain or args.truth_budget):
        fail("--labels truth makes a ceiling: leave out --truth-budget, and --chain, whose last model would "
             "see no true label")
    if args.keep != KEEP and args.clean == "none" or args.pick != PICK and not args.truth_budget:
        fail("--keep belongs to --clean, and --pick to --truth-budget: give both, or neither")
    if args.early_stop and args.oracle_stop:
        fail("--early-stop and --oracle-stop choose weights in two ways: give one")
    if args.control == "untrained":
        unused = ("clean", "probe", "generative_steps", "chain", "loss", "early_stop", "oracle_stop", "hard")
        typed = [key for key in unused if getattr(args, key) not in ("", "none", "xent", 0, False)]
        if typed:
            fail(f"--control untrained trains nothing: leave out --{typed[0].replace('_', '-')}")
        if args.truth_budget and args.pick != "random":
            fail("--control untrained is calibrated on random rows: add --pick random")
    if args.probe == "only" and (args.loss != "xent" or args.early_stop or args.oracle_stop):
        fail("--probe only trains no weights but the last layer's, in one step: leave out --loss, --early-stop and "
             "--oracle-stop")
    plan.models = args.chain.split(",") if args.chain else [args.model]
    if args.model not in (MODEL, plan.models[-1]):
        fail(f"--chain ends with {plan.models[-1]!r}, --model says {args.model!r}: leave one of them out")
    plan.identity["model"] = plan.models[-1]
    files, plan.words = read_task(args.task, pairs=True)
    plan.truth_folder = truth_folder
    plan.probed = None                                     # the p value of probe_labels, once it is known
    plan.bought = set()                                    # ids of the rows whose true labels were bought
    check_labels(plan, args)
    check_comparison(plan.identity, plan.supervisor_folder, plan.ceiling_folder)
    for folder in filter(None, (plan.supervisor_folder, plan.ceiling_folder)):
        read_known(folder, read_also(args))                # made with the same --also? Else one line says so
    label_folders = {plan.labels_folder, plan.supervisor_folder, plan.ceiling_folder} - {None}
    plan.sources = {*label_folders, truth_folder}
    if args.truth_budget or args.oracle_stop or args.control == "dealt":
        label_folders.add(truth_folder)
    plan.inputs = [*files, *also_files(args), *(model_folder(name) for name in dict.fromkeys(plan.models))]
    plan.inputs += [os.path.join(folder, "labels.jsonl") for folder in sorted(label_folders)]
    return plan


def main(argv=None):
    parser = build_parser()
    args = parser.parse_args(argv)
    started = time.time()
    plan = check_args(args)
    folder, config = describe_run(__file__, parser, args, plan.identity, plan.inputs, plan.sources,
                                  words_of_head(plan.words, args))
    if is_finished(folder, config, args.force or is_corrected(folder, args.task)):
        return
    with open_run(folder):
        device = pick_device(args.device)
        train2 = read_rows(args.task, "train2", args.max_rows)
        valid = read_rows(args.task, "valid", args.max_rows, may_be_empty=True)
        model, tokenizer, max_length, curve, probs, bought, true_labels = train_students(plan, train2, valid, args,
                                                                                         device)

        # only now are the rows of test used, and the truth of valid for the curve
        test = read_rows(args.task, "test", args.max_rows, may_be_empty=True)
        also = read_also(args)
        test_probs, also_probs = (predict(model, tokenizer, tokenize(tokenizer, rows, max_length), device, args.dtype)
                                  if rows else np.empty((0, 2), np.float32) for rows in (test, also))
        if args.control == "untrained" and len(bought):
            few = probs[bought]
            truth = true_labels[:, 1]
            if is_pair(train2[0]):                         # in both orders: no preference for the second text
                few, truth = np.concatenate([few, few[:, ::-1]]), np.concatenate([truth, 1 - truth])
            probs, test_probs, also_probs = (calibrate(p, few, truth) for p in (probs, test_probs, also_probs))
        save_checkpoint(folder, model, tokenizer)
        write_labels(folder, train2 + valid + test + also, np.concatenate([probs, test_probs, also_probs]))
        curve = score_curve(curve, plan, valid)
        scores = all_metrics(test_probs, test) if test else None
        comparison = None
        if not test:
            line = (f"{plan.role}: no true labels on test, so nothing can be said about its quality. Label "
                    f"data/{args.task}/to-label.csv and give it to data/own/prepare.py with --audit")
        elif plan.supervisor_folder:
            line, comparison = compare_on_test(plan, test, test_probs, scores, args.metric)
            if comparison:
                print_disagreements(plan, test, test_probs, scores, comparison)
        else:
            line = format_metrics(plan.role, scores)
        if also:
            line += " | " + compare_elsewhere(plan, args, also_probs)
        warnings = find_warnings(plan, train2, valid, probs) if args.control == "none" else []
        line += "".join(f" | WARNING: {warning}" for warning in warnings)
        if args.oracle_stop:
            line += " | CHEATING: stopped by the truth"
        write_results(folder, config, device, started, line, test=scores, comparison=comparison, curve=curve,
                      truth_ids=[train2[i]["id"] for i in bought],
                      truth_labels=[int(pair[1] > 0.5) for pair in true_labels])


if __name__ == "__main__":
    run_script(main)
