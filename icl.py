"""
Weak-to-strong without training: the strong model reads a few labelled rows in its prompt, and labels the next one.

Why: fine-tuning moves a strong model's weights toward its supervisor, errors included. A prompt changes no weight; it
shows the task: k demonstrations with the supervisor's labels, then the row to label. The probabilities of the two label
words as the next word are the prediction (Sang et al. 2024, https://arxiv.org/abs/2402.00667, section 5).

    Q: Which block does gold belong to? A: s-block no (confidence 0.87)   <- demonstrations: rows of train2 with the
    Q: How many legs has an ant? A: six yes (confidence 0.71)                supervisor's labels (and --confidence)
    Q: As what do people mostly use butane? A: fuel                       <- a row of test: p(" yes") against p(" no")

$ python icl.py --labels truth --shots 0 --out icl-zero           # no demonstrations, so no labels
$ python icl.py --labels truth --out icl-ceiling                  # the ceiling: four demonstrations with true labels
$ python icl.py --labels weak --ceiling icl-ceiling               # the student: the same with the supervisor's labels
$ python icl.py --labels crowd --supervisor weak --out icl-crowd  # other labels, compared with the supervisor weak
$ python icl.py --labels truth --shots 0,1,2,4,8,16 --out curve   # a curve; its last number is the run's result
$ python icl.py --labels truth --shots 0 --context "Marked by Ada:" --out ada        # a line in front tells the task

Which rows to demonstrate with (--retriever):

    random       half of each class, the same rows for the whole test set
    confident    of the rows on which the supervisor is most confident, half of each class
    oversight    as random, from the rows that a second supervisor (--oversight oversight) labels the same
    bm25         for each row of test the rows that share rare words with it
    topk         for each row of test the rows with the nearest mean hidden state
    votek        as topk, but from a hundred rows that represent all of them (Su et al. 2022)

Do the labels in the prompt matter? Min et al. (2022) found that they often hardly do. Three ways to see:

    --noise 0,2,4            flip that many labels in each prompt; the first number is the run's result
    --invert                 use the word for no as yes, and the other way round
    --label-words foo,bar    use two other words for no and yes

A single prompt is a noisy measurement. --orders 8 averages eight draws (which rows, in which order, which labels are
flipped) instead of four. bm25, topk, votek and confident leave nothing to chance; of four draws, draw d takes the rows
of rank d, d + 4, d + 8, ... --calibrate is contextual calibration (Zhao et al. 2021): p(yes) is divided by what the
same prompt gives for a text without content, and p(no) likewise. It needs no true labels.

A model with a chat template gets an instruction and answers in a turn; --no-chat-template prompts it as a base model.

Two shortcuts save most of the time. One forward pass gives the logits of both words; to generate an answer would cost
tens of times as much. The beginning that all prompts share is read once, and its keys and values are kept; not those of
recurrent layers, which cannot be repeated for each row.

Needs   contract.py, metrics.py, models.py
Reads   labels.jsonl of the supervisors and of the ceiling, and the ceiling's results.json;
        data/<task>/{task.json, train1.jsonl, train2.jsonl, valid.jsonl, test.jsonl}: train1 and valid only to check
        that no question is in two splits; data/<task>/truth/labels.jsonl only with --labels truth
Writes  data/<task>/seed<seed>/icl/{config.json, labels.jsonl, results.json}: soft labels of test, averaged over draws;
        "curve" in results.json has each draw by itself, and their spread. Nothing is trained: no checkpoint.
        A finished run is skipped (--force repeats it).
"""
import argparse
import functools
import math
import os
import re
import time
from collections import Counter, defaultdict

import numpy as np

from contract import (
    ROOT, add_run_flags, describe_run, fail, is_finished, is_text, labels_folder, model_folder, number, open_run,
    path_name, read_known, read_rows, read_task, run_script, without_labels, write_labels, write_results)
from metrics import all_metrics, check_comparison, compare_on_test, cosine_similarity, format_metrics, plan_comparison
from models import (
    add_model_flags, add_prompt_flags, answer_word_ids, apply_chat_template, autocast, encode_prompts, forward_all,
    head_reads_only, next_word_logits, open_language_model, pick_device, predict, split_label_words, tokenize, use_bf16)

N_VOTED = 100                        # vote-k selects so many rows: the larger of the paper's two budgets
MAY_DIFFER_FROM_CEILING = {"labels", "supervisor", "ceiling", "out", "device", "force"}


# --------------------------------------------------------------------------- the maths: which rows and labels to show


def sample_per_class(is_yes, k, rng, confidence=None, draw=0, draws=1):
    """
    k of N rows, half of each class, in random order. If k is odd, a coin decides which class gets one more. If a class
    has too few rows, the other one fills its places.

    is_yes       (N,) bool, the supervisor's labels
    confidence   (N,); the rows with the highest are taken, of equals the earlier; None: rows are taken at random
    draw, draws  with confidence, of each class: the rows with ranks draw, draw + draws, ... (see ranks_of_draw)
    returns      (k,) indices

    >>> is_yes = np.array([True, True, False, False])
    >>> sorted(sample_per_class(is_yes, 2, np.random.default_rng(0), confidence=np.array([.6, .9, .7, .7])).tolist())
    [1, 2]
    """
    order = rng.permutation(len(is_yes)) if confidence is None else np.argsort(-confidence, kind="stable")
    no = order[~is_yes[order]]
    yes = order[is_yes[order]]
    if confidence is not None:
        no, yes = (side[ranks_of_draw(len(side), (k + 1) // 2, draw, draws)] for side in (no, yes))
    n_yes = k // 2 + (k % 2) * int(rng.integers(2))
    n_yes = min(max(n_yes, k - len(no)), len(yes))
    return rng.permutation(np.concatenate([yes[:n_yes], no[:k - n_yes]]))


def bm25(queries, pool, k1=1.5, b=0.75):
    """
    How many of a query's rare words a text has (Robertson and Zaragoza 2009, eq. 3.15, with an idf that is never
    negative). M texts, N texts -> (M, N) float32

        score = sum over the query's words of  idf * tf (k1 + 1) / (tf + k1 (1 - b + b length / mean length))
        idf   = log(1 + (N - n + 0.5) / (n + 0.5))

    n: how many of the N texts have the word; tf: how often this one has it. Repetitions count less and less (k1), and a
    long text needs more of them (b).

    >>> print(bm25(["Gold?"], ["gold is heavy", "ants are light"]))        # log(1 + 1.5 / 1.5) * 2.5 / (1 + 1.5)
    [[0.6931472 0.       ]]
    """
    word_counts = [Counter(re.findall(r"\w+", text.lower())) for text in pool]
    lengths = np.array([counts.total() for counts in word_counts])
    texts_with = defaultdict(list)                         # word -> indices of the texts that have it
    for j, counts in enumerate(word_counts):
        for word in counts:
            texts_with[word].append(j)
    gains = {}                                             # word -> what it adds to the scores of these texts
    for word, rows in texts_with.items():
        tf = np.array([word_counts[j][word] for j in rows])
        idf = math.log(1 + (len(pool) - len(rows) + 0.5) / (len(rows) + 0.5))
        gains[word] = idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * lengths[rows] / lengths.mean()))
    scores = np.zeros((len(queries), len(pool)), np.float32)
    for i, query in enumerate(queries):
        for word in re.findall(r"\w+", query.lower()):
            if word in gains:
                scores[i, texts_with[word]] += gains[word]
    return scores


def ranks_of_draw(n, k, draw, draws):
    """
    The ranks among n rows that one of several draws takes its k rows from, best first: with four draws, draw 1 has the
    ranks 1, 5, 9, ... Draws share rows only where n is too small. Behind them stand all other ranks.

    >>> ranks_of_draw(9, 2, draw=1, draws=4).tolist()
    [1, 5, 0, 2, 3, 4, 6, 7, 8]
    """
    stride = max(1, min(draws, n // max(k, 1)))
    mine = np.arange(draw % stride, n, stride)[:k]
    return np.concatenate([mine, np.setdiff1d(np.arange(n), mine)])


def most_similar(similarity, k, draw=0, draws=1):
    """
    The k most similar rows, the most similar LAST, next to the question. Of equals the earlier row counts as more
    similar. Of several draws each has rows of its own (see ranks_of_draw). (M, N) -> (M, k) indices

    >>> most_similar(np.array([[0.1, 0.9, 0.5, 0.9]]), 3).tolist()
    [[2, 3, 1]]
    """
    ranks = ranks_of_draw(similarity.shape[1], k, draw, draws)[:k]
    return np.argsort(-similarity, axis=1, kind="stable")[:, ranks][:, ::-1]


def vote_k(features, n, n_neighbours, rho=10.0):
    """
    n rows that represent all rows (Su et al. 2022, https://arxiv.org/abs/2209.01975, section 2.1). Every row votes for
    its nearest neighbours, and the row with the most votes is selected, n times. A vote is divided by rho for each
    neighbour of its voter that is selected already. Selected rows have no vote. Of equals the earlier row is selected.
    (N, C) features -> (n,) indices in the order of selection

    >>> angles = np.array([0.0, 0.10, 0.21, 1.0, 1.1])         # two groups: rows 0 to 2, and rows 3 and 4
    >>> vote_k(np.stack([np.cos(angles), np.sin(angles)], axis=1), 2, n_neighbours=1).tolist()
    [1, 3]
    """
    similarity = cosine_similarity(features, features)
    np.fill_diagonal(similarity, -np.inf)                  # no row votes for itself
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :min(n_neighbours, len(features) - 1)]
    votes = np.zeros(similarity.shape, np.float32)         # votes[v, u] = 1: v votes for u
    np.put_along_axis(votes, nearest, 1, axis=1)
    selected = []
    free = np.ones(len(features), bool)
    n_selected = np.zeros(len(features))                   # of each row's neighbours
    for _ in range(min(n, len(features))):
        weights = free * rho ** -n_selected
        score = np.where(free, (weights @ votes).round(9), -1)             # rounded: ten tenths tie with one
        best = int(score.argmax())
        selected.append(best)
        free[best] = False
        n_selected += votes[:, best]
    return np.array(selected)


def flip_labels(labels, n, rng):
    """
    Exactly n of each row's k labels flipped. With the same rng state a larger n flips the same labels and some more.
    (M, k) bool -> (M, k) bool

    >>> int(flip_labels(np.array([[True, True, True]]), 2, np.random.default_rng(0)).sum())
    1
    """
    ranks = rng.permuted(np.tile(np.arange(labels.shape[1]), (len(labels), 1)), axis=1)
    return labels ^ (ranks < n)


# --------------------------------------------------------------------------- the prompt


def format_demonstration(text, word, confidence=None):
    """
    One line of the prompt. A confidence above 0.99 is shown as 0.99.

    >>> format_demonstration("Q: ...? A: six", " yes", 0.871)
    'Q: ...? A: six yes (confidence 0.87)'
    """
    if confidence is None:
        return text + word
    return f"{text}{word} (confidence {min(confidence, 0.99):.2f})"


def build_prompt(tokenizer, lines, text, words, context=""):
    """
    The context (--context), the demonstrations, a line each, then the text. A base model continues it; a chat model
    gets an instruction.
    """
    body = "\n".join([*([context] if context else []), *lines, text])
    if not tokenizer.chat_template:
        return body
    no, yes = (word.strip() for word in words)
    instruction = "Give your verdict on this text"
    if lines:
        instruction = "Each text ends in somebody's verdict, which may be wrong. Give your own on the last text"
    return apply_chat_template(tokenizer, [f"{instruction}, in one word: {yes} or {no}.\n\n{body}"])[0]


def fit_to_context(tokenizer, demonstrations, texts, words, max_length, context=""):
    """
    Prompts as token ids. A prompt that is too long loses the demonstrations farthest from its question, the first ones.
    Only a question that is too long by itself is cut (models.truncate), and a note says so.

    demonstrations   N lists of lines
    returns          (N lists of ids, (N,) how many lines were left out)
    """
    prompts = [""] * len(texts)
    dropped = np.zeros(len(texts), int)
    todo = list(range(len(texts)))
    while todo:
        for i in todo:
            prompts[i] = build_prompt(tokenizer, demonstrations[i][dropped[i]:], texts[i], words, context)
        lengths = map(len, encode_prompts(tokenizer, [prompts[i] for i in todo], max_length=1 << 30))
        todo = [i for i, n in zip(todo, lengths) if n > max_length and dropped[i] < len(demonstrations[i])]
        dropped[todo] += 1
    return encode_prompts(tokenizer, prompts, max_length), dropped


def content_free_text(row):
    """
    The row's text without content, for contextual_calibration.

    >>> content_free_text({"text": "Q: Is it? A: six", "question": "Is it?", "answer": "six"})
    'Q: N/A A: N/A'
    >>> content_free_text({"text": "buy now"})
    'N/A'
    """
    question = row.get("question")
    answer = row.get("answer")
    if not all(isinstance(part, str) and part and part in row["text"] for part in (question, answer)):
        return "N/A"
    return "N/A".join(row["text"].replace(question, "N/A", 1).rsplit(answer, 1))


# --------------------------------------------------------------------------- scoring


def contextual_calibration(soft_labels, content_free):
    """
    Divide by the prompt's bias, its prediction for a text without content such as "N/A" (Zhao et al. 2021,
    https://arxiv.org/abs/2102.09690, section 5):  p'_i  ~  p_i / p_i(content-free).  (N, 2), (N, 2) or (1, 2) -> (N, 2)

    >>> contextual_calibration(np.array([[0.6, 0.4]]), np.array([[0.75, 0.25]])).round(3).tolist()     # bias toward no
    [[0.333, 0.667]]
    """
    ratio = soft_labels / content_free.clip(1e-6)
    return ratio / ratio.sum(1, keepdims=True)


def shared_prefix_length(ids):
    """
    How many tokens all lists begin with; at least one token of each list is left over.

    >>> shared_prefix_length([[5, 6, 7, 1], [5, 6, 8], [5, 6, 7]])
    2
    """
    first = min(ids)                                       # lists are ordered like the words of a dictionary: the words
    last = max(ids)                                        # between "cat" and "cats" all begin with "cat"
    longest = min(map(len, ids)) - 1
    return next((n for n in range(longest) if first[n] != last[n]), longest)


def read_prefix(model, prefix, device, dtype="fp32"):
    """
    Token ids -> their keys and values as a cache, or None if this model's cache cannot be repeated for each row: that
    of a recurrent layer (Mamba, LFM2) cannot.
    """
    import torch
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
    model.eval()
    ids = torch.tensor([prefix], device=device)
    last = torch.tensor([[len(prefix) - 1]], device=device)
    with torch.inference_mode(), autocast(dtype, device, model), head_reads_only(model, last):
        cache = getattr(model(ids, use_cache=True), "past_key_values", None)
    if type(cache) is not DynamicCache or {type(c) for c in cache.layers} - {DynamicLayer, DynamicSlidingWindowLayer}:
        return None
    return cache


def score_prompts(model, tokenizer, ids, word_ids, device, dtype="fp32", tokens=8192):
    """
    Soft labels (N, 2) of N prompts, by the raw next-token logits of two words. A shared prefix is read once. The
    longest prompt is also read whole: if the two ways disagree, the others are read whole too.
    """
    import torch
    whole = next_word_logits(word_ids)
    n_prefix = shared_prefix_length(ids)
    cache = read_prefix(model, ids[0][:n_prefix], device, dtype) if n_prefix >= 16 and len(ids) > 2 else None
    if cache is None:
        return predict(model, tokenizer, ids, device, dtype, tokens, whole)
    rest = [i[n_prefix:] for i in ids]
    after_prefix = next_word_logits(word_ids, cache)
    longest = max(rest, key=len)
    in_two_ways = [predict(model, tokenizer, [ids[0][:n_prefix] + longest], device, dtype, tokens, whole),
                   predict(model, tokenizer, [longest], device, dtype, tokens, after_prefix)]
    is_bf16 = use_bf16(dtype, device, model.config) or model.dtype == torch.bfloat16
    if np.abs(in_two_ways[0] - in_two_ways[1]).max() > (0.05 if is_bf16 else 1e-3):
        print("note: this model's cache is not exact (its positions depend on the length); every prompt is read whole")
        return predict(model, tokenizer, ids, device, dtype, tokens, whole)
    tokens = tokens * len(longest) // (n_prefix + len(longest))        # attention also looks at the repeated prefix
    return predict(model, tokenizer, rest, device, dtype, tokens, after_prefix)


def predict_in_context(model, tokenizer, demonstrations, texts, words, device, max_length, dtype="fp32", context=""):
    """
    The model's soft labels of N texts, each after its demonstrations.

    demonstrations   N lists of lines, or a single list for all texts
    returns          ((N, 2) soft labels, (N,) number of lines that did not fit)
    """
    word_ids = answer_word_ids(tokenizer, words)
    shared = len(demonstrations) == 1
    lines = demonstrations * len(texts) if shared else demonstrations
    ids, dropped = fit_to_context(tokenizer, lines, texts, words, max_length, context)
    group_of = dropped if shared else np.zeros(len(ids))   # prompts with the same lines left begin alike
    soft_labels = np.empty((len(ids), 2), np.float32)
    for group in np.unique(group_of):
        rows = np.flatnonzero(group_of == group)
        soft_labels[rows] = score_prompts(model, tokenizer, [ids[i] for i in rows], word_ids, device, dtype)
    return soft_labels, dropped


# --------------------------------------------------------------------------- the stage


def read_pool(plan, test, args):
    """
    The rows to demonstrate with, sorted by id: labelled rows of train2 without duplicate texts, without texts of test,
    and without ties, which are no verdict to show. With --oversight only those to which both supervisors give the same.

    returns   (N rows, (N, 2) the supervisor's soft labels)
    """
    pool = []
    seen = {row["text"] for row in test}
    for row in sorted(read_rows(args.task, "train2", args.max_rows), key=lambda row: row["id"]):
        if row["text"] not in seen:
            seen.add(row["text"])
            pool.append(row)
    soft_labels = read_known(plan.labels_folder, pool)
    verdicts = np.sign(soft_labels[:, 1] - 0.5)            # -1, 0, 1: no, a tie, yes; nan: not labelled
    if np.isnan(verdicts).all():
        reason = "no true labels, no ceiling" if plan.role == "ceiling" else "another task?"
        fail(f"{os.path.relpath(plan.labels_folder)} has a label for none of {len(pool):,} rows of train2: {reason}")
    shown = np.isin(verdicts, (-1, 1))
    if plan.oversight_folder:
        shown &= verdicts == np.sign(read_known(plan.oversight_folder, pool)[:, 1] - 0.5)
    pool = [row for row, is_shown in zip(pool, shown) if is_shown]
    soft_labels = soft_labels[shown]
    n_candidates = min(len(pool), N_VOTED) if args.retriever == "votek" else len(pool)
    if max(args.shots) > n_candidates:
        fail(f"--shots {max(args.shots)}: there are only {n_candidates:,} rows to choose demonstrations from")
    return pool, soft_labels


def choose_words(words, args, tokenizer):
    """The task's words for (no, yes) -> those of the prompt, one token each; else one line says that they are not."""
    words = split_label_words(args.label_words) or words
    if args.invert:
        words = words[::-1]
    if tokenizer.chat_template:
        words = [" " + word.strip().capitalize() for word in words]
    answer_word_ids(tokenizer, words)
    return words


def mean_hidden(model, batch):
    """An output_fn for forward_all: the mean over a text's tokens of the last hidden state, (B, T) -> (B, C)."""
    mask = batch["attention_mask"][..., None]
    return (model.base_model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)


def make_retriever(args, pool, soft_labels, test, model, tokenizer, max_length, device):
    """-> retrieve(k, rng, draw) -> indices into the pool, (1, k) for all rows together or (M, k), most similar last"""
    if args.retriever in ("random", "confident", "oversight"):
        confidence = soft_labels.max(1) if args.retriever == "confident" else None
        is_yes = soft_labels[:, 1] > 0.5
        return lambda k, rng, draw: sample_per_class(is_yes, k, rng, confidence, draw, args.orders)[None]
    if args.retriever == "bm25":
        similarity = bm25([row["text"] for row in test], [row["text"] for row in pool])
        return lambda k, rng, draw: most_similar(similarity, k, draw, args.orders)
    ids = tokenize(tokenizer, pool + test, max_length)
    features = forward_all(model, tokenizer, ids, device, args.dtype, output_fn=mean_hidden)
    candidates = np.arange(len(pool))
    if args.retriever == "votek":
        candidates = np.sort(vote_k(features[:len(pool)], N_VOTED, n_neighbours=max(3, len(pool) // 20)))
    similarity = cosine_similarity(features[len(pool):], features[candidates])
    return lambda k, rng, draw: candidates[most_similar(similarity, k, draw, args.orders)]


def draw_demonstrations(args, pool, soft_labels, words, retrieve, shots, noise, draw):
    """`shots` demonstrations, `noise` of their labels flipped -> a single list of lines for all M rows of test, or M"""
    if not shots:
        return [[]]
    chosen = retrieve(shots, np.random.default_rng([args.seed, draw]), draw)                   # (1 or M, shots)
    shown = flip_labels(soft_labels[chosen, 1] > 0.5, noise, np.random.default_rng([args.seed, draw, 1]))
    confidence = soft_labels.max(1) if args.confidence else [None] * len(pool)
    demonstrations = []
    for indices, labels in zip(chosen, shown):
        demonstrations.append([format_demonstration(pool[i]["text"], words[int(label)], confidence[i])
                               for i, label in zip(indices, labels)])
    return demonstrations


def predict_curve(args, test, demonstrate, predict_texts):
    """
    Every point of the curve, --orders times if it has demonstrations. There is no point with more flips than shots.

    demonstrate   (shots, noise, draw) -> demonstrations
    returns       {(shots, noise): [(soft labels, number of lines that did not fit), one a draw]}
    """
    predictions = {}
    points = [(shots, noise) for shots in args.shots for noise in args.noise if noise <= shots]
    for shots, noise in points:
        predictions[shots, noise] = []
        for draw in range(args.orders if shots else 1):
            demonstrations = demonstrate(shots, noise, draw)
            soft_labels, dropped = predict_texts(demonstrations, [row["text"] for row in test])
            if args.calibrate:
                content_free, _ = predict_texts(demonstrations, [content_free_text(row) for row in test])
                soft_labels = contextual_calibration(soft_labels, content_free)
            predictions[shots, noise].append((soft_labels, int(dropped.sum())))
    return predictions


def measure_curve(predictions, test):
    """predict_curve's predictions, rows with labels -> a dict for each point: means over draws, and their spread"""
    curve = []
    for (shots, noise), draws in predictions.items():
        scores = [all_metrics(soft_labels, test) for soft_labels, _ in draws]
        accuracies = [m["accuracy"] for m in scores]
        point = {"shots": shots, "noise": noise, "draws": accuracies}
        for key in ("accuracy", "auroc", "ece", "says_yes"):
            point[key] = float(np.mean([m[key] for m in scores]))
        spread = float(np.std(accuracies, ddof=1)) if len(draws) > 1 else None
        n_dropped = sum(dropped for _, dropped in draws)
        curve.append({**point, "spread": spread, "demonstrations_dropped": n_dropped})
        over = "one draw" if spread is None else f"±{spread:.3f} over {len(draws)} draws"
        print(f"{shots} shots, {noise} flipped: accuracy {point['accuracy']:.3f} ({over}) | "
              f"AUROC {point['auroc']:.3f} | ECE {point['ece']:.3f} | says yes {point['says_yes']:.2f}")
        if n_dropped:
            print(f"note: {n_dropped:,} demonstrations did not fit into {len(draws) * len(test):,} prompts")
    return curve


# --------------------------------------------------------------------------- flags, checks, and the story


def numbers(text):
    """argparse type: "0,1,2,4" -> [0, 1, 2, 4]"""
    return [number(int, 0, 1000)(part) for part in text.split(",")]


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_flags(parser, out="icl")
    add_model_flags(parser, model="tiny-4")
    add_prompt_flags(parser)
    add = parser.add_argument
    add("--labels", type=path_name, default="weak", help="a supervisor's folder, or its name; 'truth': the ceiling")
    add("--shots", type=numbers, default=[4], help="demonstrations; of a list the last is the result")
    add("--noise", type=numbers, default=[0], help="flipped labels; of a list the first is the result")
    add("--orders", type=number(int, 1, 10 ** 9), default=4, help="draws of demonstrations and flips, averaged")
    add("--retriever", default="random", choices=["random", "confident", "oversight", "bm25", "topk", "votek"],
        help="which demonstrations: see above")
    add("--oversight", type=path_name, default="", help="--retriever oversight: the second supervisor's folder")
    add("--context", default="", help="a first line of every prompt, for example one that names the task")
    add("--confidence", action="store_true", help="show the supervisor's confidence after each label")
    add("--label-words", default="", help="for no and yes, as in no,yes (default: those of task.json)")
    add("--invert", action="store_true", help="use the word for no as yes, and the other way round")
    add("--calibrate", action="store_true",
        help="contextual calibration: divide by the prompt's prediction for a text without content (Zhao et al. 2021; "
             "ensemble.py's --calibrate is another method)")
    add("--supervisor", type=path_name, default="", help="folder to compare with (default: that of --labels)")
    add("--ceiling", type=path_name, default="", help="folder of the ceiling, for the PGR")
    return parser


def check_args(args):
    """
    Check flags and files before any work.

    returns   the namespace of plan_comparison with more in it: words (of the task, for no and yes), oversight_folder
              (or None); inputs and sources for describe_run
    """
    split_label_words(args.label_words)
    if (args.retriever == "oversight") != bool(args.oversight):
        fail("--retriever oversight and --oversight FOLDER go together: labels that both give are shown")
    if args.context and not is_text(args.context):
        fail(f"--context {args.context!r}: give a line of valid Unicode")
    if args.noise[0] > args.shots[-1] or max(args.noise) > max(args.shots):
        fail(f"--noise {max(args.noise)}: there are only {args.shots[-1]} labels to flip (--shots)")
    truth_folder = os.path.join(ROOT, "data", args.task, "truth")
    plan = plan_comparison(args, truth_folder, stage="icl-")
    if plan.role == "ceiling" and (args.ceiling or args.supervisor):
        fail("--labels truth makes a ceiling; --ceiling and --supervisor are for students")
    files, plan.words = read_task(args.task)
    plan.oversight_folder = labels_folder(args.oversight, args.task, args.seed) if args.oversight else None
    same_flags = sorted(vars(args).keys() - MAY_DIFFER_FROM_CEILING)
    check_comparison(plan.identity, plan.supervisor_folder, plan.ceiling_folder, "icl-ceiling", same_flags)
    plan.sources = {plan.labels_folder, plan.supervisor_folder, plan.ceiling_folder, plan.oversight_folder} - {None}
    plan.inputs = [*files, model_folder(args.model)]
    plan.inputs += [os.path.join(folder, "labels.jsonl") for folder in sorted(plan.sources)]
    return plan


def main(argv=None):
    parser = build_parser()
    args = parser.parse_args(argv)
    started = time.time()
    plan = check_args(args)
    test = without_labels(read_rows(args.task, "test", args.max_rows))
    pool, soft_labels = read_pool(plan, test, args)
    folder, config = describe_run(__file__, parser, args, plan.identity, plan.inputs, plan.sources,
                                  None if args.label_words else plan.words)
    if is_finished(folder, config, args.force):
        return
    with open_run(folder):
        device = pick_device(args.device)
        model, tokenizer, max_length = open_language_model(args.model, device, args, frozen=True)
        words = choose_words(plan.words, args, tokenizer)
        retrieve = make_retriever(args, pool, soft_labels, test, model, tokenizer, max_length, device)
        demonstrate = functools.partial(draw_demonstrations, args, pool, soft_labels, words, retrieve)
        predict_texts = functools.partial(predict_in_context, model, tokenizer, words=words, device=device,
                                          max_length=max_length, dtype=args.dtype, context=args.context)
        which = "rows of train2 that both supervisors label the same" if args.oversight else "rows of train2"
        print(f"data: {len(pool):,} {which} to demonstrate with ({(soft_labels[:, 1] > 0.5).mean():.1%} yes, by "
              f"{os.path.relpath(plan.labels_folder)}); {len(test):,} rows of test to label")
        lines = demonstrate(args.shots[-1], args.noise[0], 0)[0]
        prompt = build_prompt(tokenizer, lines, test[0]["text"], words, args.context).replace("\n", "\n  ")
        print(f"one prompt, exactly as the model sees it (it continues with one of {words}):\n  {prompt}")

        predictions = predict_curve(args, test, demonstrate, predict_texts)
        result = np.mean([probs for probs, _ in predictions[args.shots[-1], args.noise[0]]], axis=0).astype(np.float32)
        write_labels(folder, test, result)

        # only now are the labels of test used
        test = read_rows(args.task, "test", args.max_rows)
        curve = measure_curve(predictions, test)
        scores = all_metrics(result, test)
        line = format_metrics(plan.role, scores)
        comparison = None
        if plan.supervisor_folder:
            print(line)
            line, comparison = compare_on_test(plan, test, result, scores)
        write_results(folder, config, device, started, line, test=scores, comparison=comparison, curve=curve)


if __name__ == "__main__":
    run_script(main)
