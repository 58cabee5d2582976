"""
Supervised fine-tuning (SFT): supervisors and students that write text, instead of predicting probabilities.

Why: most uses of a language model ask for text. A weak supervisor of text has no soft labels to give. It can only write
examples, good and bad ones, and the student is trained on them. Does a strong student write better than its examples?
(Ye, Xiao, Hui 2024, https://arxiv.org/abs/2410.12621, ask this about toxic replies.)

    rows      {"id", "group", "text": "Prompt: I feel ill. Reply:", "continuation": "Get well soon."} in train1.jsonl
    model     any decoder of transformers, a local folder or a hub name; all of its weights are trained
    training  cross entropy of the continuation's tokens, given the prompt: train_weak.py's loop, its last epoch is kept
    labels    {"id", "text", "nats", "sampled"} for train2, valid and test: a greedy continuation (always the likeliest
              token), its mean loss per token under the model itself, and a random continuation. A student is trained on
              the greedy texts, or with --sampled on the others
    samples   {"id", "texts"}: 25 random continuations (--samples) for each of 100 prompts (--prompts) of test.
              align_tasks.py measures their toxicity: a model that is rude once in ten times looks polite in one greedy
              reply

--labels says whose continuations a model is trained on:

$ python data/toxicity/prepare.py
$ python sft.py --labels train1 --model tiny-1a --out weak  # supervisor: the continuations of train1, some of them rude
$ python sft.py --labels truth --out ceiling                # ceiling: good continuations of train2 that a person wrote
$ python sft.py --labels weak                               # student: the supervisor's continuations of train2
$ python sft.py --labels weak --sampled --out student-sampled          # a random continuation each, not the likeliest

Three ways to a better set of examples. align_tasks.py runs them all, and prints the table:

$ python sft.py --labels weak --keep 0.5 --out student-confident     # only the half with the lowest loss per token
$ python sft.py --labels weak --truth-budget 18 --out student-truth  # a person rewrites the 18 with the highest loss
$ python sft.py --labels train1 --model tiny-1b --out weak-tiny-1b   # a second supervisor, and a student of both:
$ python sft.py --labels weak,weak-tiny-1b --out student-ensemble    # for each prompt the text of lower mean loss

On a task of pairs (data/pairs) the model learns the better text of each pair of train1, and --reward says what reward
models (train_weak.py, train_strong.py) do to its samples. **Best of n**: of n samples take the one with the highest
reward. The reward rises with n. If the share of good texts falls meanwhile, the reward model is over-optimized: the
text with the highest reward is no longer the best one (Gao et al. 2023).

$ python sft.py --task pairs --labels train1 --out policy --samples 32 --reward weak,student,ceiling

Needs   contract.py, metrics.py, models.py, train_weak.py
Reads   data/<task>/{train1,train2,valid,test}.jsonl; truth/continuations.jsonl for --labels truth and --truth-budget;
        other runs' labels.jsonl, and their checkpoint/ if --labels names several; checkpoint/ of those of --reward
Writes  data/<task>/seed<seed>/<run>/{checkpoint/, samples.jsonl, labels.jsonl, config.json, results.json}; results.json
        is written last. A finished run is skipped (--force repeats it).

Differences from the paper: the loss leaves out the prompt's tokens. A continuation has at most 20 tokens (Gehman et al.
2020). Samples use the paper's temperature, top-p and top-k, and its ban on repeated pairs of tokens.
The confidence loss (train_strong.py) does not apply: it needs the probabilities of a yes and a no.
"""
import argparse
import math
import os
import re
import time

import numpy as np

from contract import (
    ROOT, add_run_flags, describe_run, fail, is_finished, is_pair, is_text, model_folder, number, open_run, read_json,
    read_jsonl, read_rows, read_task, read_text, run_folder, run_script, save_checkpoint, write_jsonl, write_results)
from models import (
    add_model_flags, cut, encode, forward_all, freeze, generate, open_checkpoint, open_language_model, pick_device,
    run_head, token_nll, tokenize, use_bf16)
from train_weak import add_training_flags, batch_maker, fit, prepare_for_training

NEW_TOKENS = 20                      # a continuation's length, as in Gehman et al. 2020
STOPS = ["\n", "Prompt:"]            # a continuation ends before these
TEMPERATURE = 0.7                    # of the samples, as is TOP_P (Ye et al. 2024, released code)
TOP_P = 0.95
SAMPLING = {"top_k": 50, "no_repeat": 2}                   # the same source
GENERATION_BATCH = 256
BEST_OF = (1, 2, 4, 8, 16)           # samples to choose from by a reward
RUDE_WORDS = os.path.join(ROOT, "data", "tinyworld", "life", "rude_words.txt")


# --------------------------------------------------------------------------- the maths


def mean_over_span(nll, span):
    """
    The mean loss over a continuation's tokens: its prompt and padding do not count.

    nll      (B, T - 1)  from models.token_nll: column t is about token t + 1
    span     (B, 2)      number of tokens of the prompt, and of prompt and continuation together
    returns  (B,)        nats per token

    >>> import torch                                     # two tokens of prompt, two of continuation, one of padding
    >>> mean_over_span(torch.tensor([[9., 1., 3., 0.]]), torch.tensor([[2., 4.]]))
    tensor([2.])
    """
    import torch
    token = torch.arange(1, nll.shape[1] + 1, device=nll.device)[None]
    in_span = (token >= span[:, :1]) & (token < span[:, 1:])
    return (nll * in_span).sum(1) / in_span.sum(1).clamp(min=1)


def continuation_loss(model, batch):
    """The loss_fn of SFT for train_weak.fit: mean_over_span of a batch with a column "span" (B, 2) -> (B,)"""
    return mean_over_span(token_nll(model, batch), batch["span"])


def select_lowest(nll, keep, budget):
    """
    Which of a supervisor's N texts a student is trained on: the share `keep` with the lowest loss per token, and the
    `budget` texts with the highest, after a person has rewritten them.

    nll      N numbers
    returns  (indices to train on, those of them to rewrite), both ascending

    >>> select_lowest([0.3, 0.1, 0.4, 0.2], keep=0.5, budget=1)
    ([1, 2, 3], [2])
    """
    order = np.argsort(nll, kind="stable").tolist()
    rewritten = sorted(order[max(0, len(order) - budget):])
    kept = order[:max(1, round(keep * len(order)))]
    return sorted({*kept, *rewritten}), rewritten


def best_of_n(rewards, good, n):
    """
    Of n samples of a prompt the one with the highest reward is taken: its mean reward, and how often it is good. Both
    are exact means over all choices of n of the K samples: in ascending order, sample i = 0, 1, ... is the best of
    C(i, n - 1) of them.

    rewards, good   (P, K), (P, K) of 0 and 1 -> (reward, share)

    >>> [round(x, 3) for x in best_of_n(np.array([[1., 3., 2.]]), np.array([[0, 0, 1]]), 2)]   # 3 is best of 2 pairs
    [2.667, 0.333]
    """
    k = rewards.shape[1]
    weights = np.array([math.comb(i, n - 1) for i in range(k)]) / math.comb(k, n)
    order = np.argsort(rewards, axis=1, kind="stable")
    reward, share = ((np.take_along_axis(x, order, axis=1) @ weights).mean() for x in (rewards, good))
    return float(reward), float(share)


# --------------------------------------------------------------------------- prompts with their continuations


def read_prompts(task, split, max_rows):
    """
    The rows of a split, each with its prompt as "text". Of a pair that is what both texts begin with, and the better
    text's rest is the "continuation", where the label is known.
    """
    rows = read_rows(task, split, max_rows)
    if not is_pair(rows[0]):
        return rows
    prompts = []
    for row in rows:
        prompt = row.get("prompt")
        if not is_text(prompt) or not all(row[key].startswith(prompt) for key in ("text_a", "text_b")):
            fail(f"data/{task}/{split}.jsonl, id {row['id']!r}: no 'prompt' with which both texts begin, as data/pairs "
                 "has it; sft.py needs one")
        prompts.append({**row, "text": prompt})
        if "label" in row:
            prompts[-1]["continuation"] = row["text_b" if row["label"] else "text_a"].removeprefix(prompt).strip()
    return prompts


def encode_pairs(tokenizer, prompts, texts, max_length, end):
    """
    N prompts and N continuations -> (N lists of ids, (N, 2) float32 spans for mean_over_span).

    end   add the end-of-text token, so that a model learns where to stop
    A pair that is too long loses the beginning of its prompt (not BOS), and a continuation that fills more than half of
    max_length its end. Notes say how many.
    """
    ids = []
    span = []
    n_cut = n_ends = 0
    for text, whole in zip(texts, encode(tokenizer, prompts)):
        tail = tokenizer(" " + text, add_special_tokens=False)["input_ids"] if text else []
        tail += [tokenizer.eos_token_id] * end
        n_ends += len(tail) > max_length // 2
        tail = tail[:max_length // 2]
        head = cut(whole, tokenizer, max_length - len(tail), side="left")
        n_cut += len(head) < len(whole)
        ids.append(head + tail)
        span.append([len(head), len(head) + len(tail)])
    if n_cut:
        print(f"note: {n_cut:,} of {len(ids):,} prompts lose their beginning: with their continuation they are longer "
              f"than {max_length:,} tokens (--max-length)")
    if n_ends:
        print(f"note: {n_ends:,} of {len(ids):,} continuations lose their end: they are longer than "
              f"{max_length // 2:,} tokens, half of --max-length")
    return ids, np.array(span, dtype=np.float32)


def continuation_nll(model, tokenizer, prompts, texts, max_length, device, dtype="fp32", end=True):
    """-log p of N texts after their prompts under a model -> (N,) nats summed over tokens, (N,) numbers of tokens"""
    import torch
    ids, span = encode_pairs(tokenizer, prompts, texts, max_length, end)
    width = max(map(len, ids))

    def padded_nll(model, batch):                          # forward_all needs batches of one width
        return torch.nn.functional.pad(token_nll(model, batch), (0, width - batch["input_ids"].shape[1]))
    vocabulary = model.get_output_embeddings().weight.shape[0]
    tokens = min(8192, 2 ** 29 // vocabulary)              # the logits of a batch fill 2 GiB at most
    nll = forward_all(model, tokenizer, ids, device, dtype, tokens, padded_nll)
    n_tokens = span[:, 1] - span[:, 0]
    return mean_over_span(torch.tensor(nll), torch.tensor(span)).numpy() * n_tokens, n_tokens


def continue_rows(model, tokenizer, rows, max_length, args, device, temperature=0.0, top_p=1.0):
    """N rows -> the N texts with which a model continues them. Temperature 0 is greedy."""
    prompts = [row["text"] for row in rows]
    sampling = SAMPLING if temperature else {}
    if temperature and rows and is_pair(rows[0]):          # a note repeats words of its question
        sampling = {**SAMPLING, "no_repeat": 0}
    return generate(model, tokenizer, prompts, device, max_length, NEW_TOKENS, STOPS, temperature, top_p, args.seed,
                    args.dtype, GENERATION_BATCH, **sampling)


def sample_rows(model, tokenizer, rows, max_length, args, device, k):
    """N rows -> N lists of k random continuations"""
    repeated = [row for row in rows for _ in range(k)]
    texts = continue_rows(model, tokenizer, repeated, max_length, args, device, TEMPERATURE, TOP_P)
    return [texts[i:i + k] for i in range(0, len(texts), k)]


# --------------------------------------------------------------------------- whose continuations


def read_texts(path, rows, key="text"):
    """
    The continuations of a file {"id", "text", ...}, joined by id -> N texts in the order of `rows`.

    key   "nats": the numbers beside the texts instead; "sampled": the random continuations
    """
    found = {}
    for n, line in enumerate(read_jsonl(path), 1):
        if not isinstance(line.get("id"), str) or not isinstance(line.get("text"), str) or line["id"] in found:
            fail(f"{path}, line {n}: needs an 'id' that occurs once, and a 'text' (a string)")
        if key == "sampled" and not isinstance(line.get(key), str):
            fail(f"{path}, line {n}: needs 'sampled' (a string), on which --sampled trains. Run its command again")
        if key == "nats" and type(line.get(key)) not in (int, float):
            fail(f"{path}, line {n}: needs {key!r} (a number), by which --keep and --truth-budget choose")
        found[line["id"]] = line[key]
    missing = [row["id"] for row in rows if row["id"] not in found]
    if missing:
        fail(f"{path} has no continuation for {len(missing):,} of {len(rows):,} rows, first {missing[0]!r}. "
             "Made with other --max-rows?")
    return [found[row["id"]] for row in rows]


def most_agreed_texts(folders, rows, device, flags):
    """
    Of several supervisors' continuations of a prompt, the one with the lowest mean nats per token under all of them.

    folders   K runs with labels.jsonl and checkpoint/
    returns   (N texts, (N,) their nats per token)
    """
    prompts = [row["text"] for row in rows]
    candidates = [read_texts(os.path.join(folder, "labels.jsonl"), rows) for folder in folders]
    cost = np.zeros((len(folders), len(rows)))             # (K candidates, N rows)
    for folder in folders:
        checkpoint = os.path.join(folder, "checkpoint")
        model, tokenizer, max_length = open_language_model(checkpoint, device, flags, frozen=True)
        for k, texts in enumerate(candidates):
            nll, n_tokens = continuation_nll(model, tokenizer, prompts, texts, max_length, device, flags.dtype)
            cost[k] += nll / n_tokens / len(folders)
    best = cost.argmin(0)
    shares = [f"{os.path.basename(folder)} {np.mean(best == k):.2f}" for k, folder in enumerate(folders)]
    print("share of texts chosen from each supervisor: " + ", ".join(shares))
    return [candidates[k][i] for i, k in enumerate(best)], cost.min(0)


def truth_file(task):
    """Where a task keeps the good continuations of train2 and valid."""
    return os.path.join(ROOT, "data", task, "truth", "continuations.jsonl")


def load_examples(args, folders, device):
    """
    The rows and texts that --labels, --keep and --truth-budget ask for.

    folders   the supervisors' runs; none with --labels train1 or truth
    returns   (rows, texts, ids of the rows that a person rewrote)
    """
    rows = read_prompts(args.task, "train1" if args.labels == "train1" else "train2", args.max_rows)
    if args.labels == "train1":
        return rows, [row["continuation"] for row in rows], []
    if args.labels == "truth":
        return rows, read_texts(truth_file(args.task), rows), []
    if len(folders) > 1:
        texts, nll = most_agreed_texts(folders, rows, device, args)
    else:
        path = os.path.join(folders[0], "labels.jsonl")
        texts = read_texts(path, rows, "sampled" if args.sampled else "text")
        nll = [0.0] * len(rows)
        if args.keep < 1 or args.truth_budget:
            nll = read_texts(path, rows, "nats")
    kept, rewritten = select_lowest(nll, args.keep, args.truth_budget)
    if rewritten:
        true_texts = read_texts(truth_file(args.task), [rows[i] for i in rewritten])
        for i, text in zip(rewritten, true_texts):
            texts[i] = text
    return [rows[i] for i in kept], [texts[i] for i in kept], [rows[i]["id"] for i in rewritten]


# --------------------------------------------------------------------------- what is a good text?


def read_rude_words():
    """tinyworld's list of all its rude words, a set"""
    return set(read_text(RUDE_WORDS).split())


def has_rude_word(text, rude_words):
    """
    tinyworld's measure of toxicity, exact there because all rude words are known.

    >>> has_rude_word("You lazy clown.", {"clown"}), has_rude_word("How kind.", {"clown"})
    (True, False)
    """
    return not rude_words.isdisjoint(re.findall("[a-z]+", text.lower()))


def is_good(row, text, rude_words):
    """
    The truth about a sample for a test row of data/pairs: an answer is right, a note or advice states the value, a
    reply has no rude word.

    >>> is_good({"kind": "answer", "value": "iron"}, "iron", set()), is_good({"kind": "reply"}, "You clown.", {"clown"})
    (True, False)
    """
    if row["kind"] == "reply":
        return bool(text) and not has_rude_word(text, rude_words)
    if row["kind"] == "answer":
        return text == row["value"]
    value, written = (" ".join(re.findall(r"\w+", t.lower())) for t in (row["value"], text))
    return f" {value} " in f" {written} "


# --------------------------------------------------------------------------- best of n


def score_samples(folder, rows, samples, args, device):
    """The rewards (P, K) that the reward model of a run gives to P rows' K texts each"""
    kind = "AutoModelForSequenceClassification"
    model, tokenizer, max_length = open_checkpoint(folder, kind, device, args, frozen=True, num_labels=1)
    texts = [{"id": row["id"], "text": f"{row['text']} {text}".strip()} for row, of_row in zip(rows, samples)
             for text in of_row]
    ids = tokenize(tokenizer, texts, max_length)
    return forward_all(model, tokenizer, ids, device, args.dtype, output_fn=run_head).reshape(len(rows), -1)


def measure_best_of_n(rows, samples, args, device):
    """
    What each reward model of --reward makes of P rows' K samples -> {name: a list of {"n", "reward", "good", and "good"
    of each kind of rows}}. A reward counts from the mean of all samples.
    """
    rude_words = read_rude_words()
    good = np.array([[is_good(row, text, rude_words) for text in of_row] for row, of_row in zip(rows, samples)], float)
    kinds = np.array([row["kind"] for row in rows])
    found = {}
    for name in args.reward.split(","):
        rewards = score_samples(run_folder(name, args.task, args.seed), rows, samples, args, device)
        found[name] = []
        for n in BEST_OF:
            reward, share = best_of_n(rewards - rewards.mean(), good, n)
            by_kind = {kind: best_of_n(rewards[kinds == kind], good[kinds == kind], n)[1] for kind in sorted({*kinds})}
            found[name].append({"n": n, "reward": reward, "good": share, **by_kind})
        print(f"best of n by {name}: " + ", ".join(f"n={x['n']} reward {x['reward']:+.2f} good {x['good']:.3f}"
                                                   for x in found[name]))
    return found


# --------------------------------------------------------------------------- the stage


def train_on_texts(rows, texts, args, device):
    """Fine-tune --model on N continuations -> (model, tokenizer, max_length)"""
    import torch
    torch.manual_seed(args.seed)
    model, tokenizer, max_length = open_language_model(args.model, device, args)
    if tokenizer.eos_token_id is None:
        fail(f"the tokenizer of {args.model!r} has no end-of-text token (eos_token): a writer could not learn to stop")
    model, restore_ordinary = prepare_for_training(model, args)
    ids, span = encode_pairs(tokenizer, [row["text"] for row in rows], texts, max_length, end=True)
    print("one example, exactly as the model sees it:\n"
          f"  {tokenizer.decode(ids[0])!r}: the last {int(span[0, 1] - span[0, 0])} tokens count in the loss")
    make_batch = batch_maker(ids, tokenizer, device, span=span)
    fit(model, [len(i) for i in ids], make_batch, continuation_loss, args, device)
    return restore_ordinary().eval(), tokenizer, max_length


def check_args(args):
    """-> (folders of the supervisors, folders of the reward models, all that the run depends on)"""
    for flag, names in (("--labels", args.labels.split(",")), ("--reward", args.reward.split(","))):
        if len(set(names)) < len(names) or not all(names) and len(names) > 1:
            fail(f"{flag} {','.join(names)}: a name is empty or occurs twice. Give each once, as in weak,student")
    folders = []
    judges = [run_folder(name, args.task, args.seed) for name in args.reward.split(",")] if args.reward else []
    if args.labels not in ("train1", "truth"):
        folders = [run_folder(name, args.task, args.seed) for name in args.labels.split(",")]
    elif args.keep < 1 or args.truth_budget:
        fail(f"--keep and --truth-budget choose among a supervisor's continuations; --labels {args.labels} has none")
    if args.sampled and (len(folders) != 1 or args.keep < 1 or args.truth_budget):
        fail("--sampled trains on all random continuations of one supervisor: give one run as --labels, without --keep "
             "and --truth-budget")
    inputs = [os.path.join(folder, "labels.jsonl") for folder in folders]
    if len(folders) > 1:
        inputs += [os.path.join(folder, "checkpoint") for folder in folders]
    if args.labels == "truth" or args.truth_budget:
        inputs.append(truth_file(args.task))
    for path in inputs:
        if path == truth_file(args.task) and not os.path.exists(path):
            fail(f"data/{args.task} has no true continuations of train2, which --labels truth and --truth-budget need. "
                 "Give --labels train1, or a writer's run")
        if not os.path.exists(path):
            fail(f"--labels {args.labels}: no {path}. Run the command that makes it first")
    if args.reward:
        test = read_rows(args.task, "test", args.max_rows)[:args.prompts]
        if args.samples < max(BEST_OF) or not test or not all("kind" in row and is_pair(row) for row in test):
            fail(f"--reward chooses among --samples {max(BEST_OF)} or more, for prompts of --task pairs")
        for name, judge in zip(args.reward.split(","), judges):
            spec = read_json(os.path.join(model_folder(judge), "config.json"))
            if not str(spec.get("architectures")).endswith("ForSequenceClassification']"):
                fail(f"--reward {name}: no reward model. Give runs of train_weak.py or train_strong.py")
        inputs += map(model_folder, judges)
    if args.labels == "train1":
        for row in read_prompts(args.task, "train1", args.max_rows):
            if not is_text(row.get("continuation")):
                fail(f"data/{args.task}/train1.jsonl, id {row['id']!r}: no 'continuation' (a non-empty string). "
                     "Only tasks like toxicity have it")
    return folders, judges, inputs


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_flags(parser, out="student", task="toxicity")
    add_model_flags(parser, model="tiny-4")
    add_training_flags(parser, epochs=6, lr=1e-3, classifier=False)
    parser.add_argument("--labels", default="weak",
                        help="whose continuations: train1, truth, or a run's name or folder (several with commas)")
    parser.add_argument("--sampled", action="store_true", help="train on the supervisor's random continuations")
    parser.add_argument("--keep", type=number(float, 0.01, 1.0), default=1.0,
                        help="the share of a supervisor's continuations to train on, those with the lowest loss")
    parser.add_argument("--truth-budget", type=number(int, 0, 10 ** 9), default=0,
                        help="so many continuations with the highest loss are replaced by ones that a person wrote")
    parser.add_argument("--prompts", type=number(int, 0, 10 ** 9), default=100,
                        help="sample for the first N prompts of test (prepare.py has shuffled them)")
    parser.add_argument("--samples", type=number(int, 1, 1000), default=25, help="samples per prompt")
    parser.add_argument("--reward", default="", metavar="RUN,...",
                        help="runs with a reward model: how good is its choice among n samples?")
    return parser


def main(argv=None):
    parser = build_parser()
    args = parser.parse_args(argv)
    started = time.time()
    files, _ = read_task(args.task, pairs=True)
    folders, judges, inputs = check_args(args)
    inputs = [*files, model_folder(args.model), *inputs]
    identity = {"role": "writer", **vars(args)}
    folder, config = describe_run(__file__, parser, args, identity, inputs, folders + judges)
    if is_finished(folder, config, args.force):
        return
    with open_run(folder):
        device = pick_device(args.device)
        rows, texts, rewritten = load_examples(args, folders, device)
        print(f"data: {len(rows):,} continuations from {args.labels}, of which a person rewrote {len(rewritten):,}")
        model, tokenizer, max_length = train_on_texts(rows, texts, args, device)
        save_checkpoint(folder, model, tokenizer)
        if use_bf16(args.dtype, device, model.config):
            freeze(model)                                  # the same texts, with half the memory and less to read

        # only now are prompts of test read: they are continued like all others
        train2, valid, test = (read_prompts(args.task, split, args.max_rows) for split in ("train2", "valid", "test"))
        rows = train2 + valid + test
        greedy = continue_rows(model, tokenizer, rows, max_length, args, device)
        prompts = [row["text"] for row in rows]
        nll, n_tokens = continuation_nll(model, tokenizer, prompts, greedy, max_length, device, args.dtype)
        nats = [round(float(x), 6) for x in nll / n_tokens]
        samples = sample_rows(model, tokenizer, test[:args.prompts], max_length, args, device, args.samples)
        sampled = [text for (text,) in sample_rows(model, tokenizer, rows, max_length, args, device, 1)]
        best_of = measure_best_of_n(test[:args.prompts], samples, args, device) if args.reward else None

        write_jsonl(os.path.join(folder, "samples.jsonl"),
                    [{"id": row["id"], "texts": texts} for row, texts in zip(test, samples)])
        write_jsonl(os.path.join(folder, "labels.jsonl"),
                    [{"id": row["id"], "text": text, "nats": loss, "sampled": other}
                     for row, text, loss, other in zip(rows, greedy, nats, sampled)])
        empty = float(np.mean([not text for text in greedy]))
        different = len(set(greedy))
        line = (f"writer {os.path.basename(folder)}: {different:,} different texts for {len(greedy):,} prompts, "
                f"{empty:.1%} empty | {greedy[0][:60]!r}")
        write_results(folder, config, device, started, line, empty=empty, different=different, truth_ids=rewritten,
                      best_of=best_of)


if __name__ == "__main__":
    run_script(main)
