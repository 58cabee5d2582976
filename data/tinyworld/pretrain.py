"""
Make tinyworld's language models again: the tokenizer, then GPT-2s that read a growing share of the corpus.

From model to model the width grows, and above all the share of the world that was read. A supervisor's errors are then
mostly missing knowledge, as they are for small models everywhere. tiny-1a, 1b and 1c have read different parts, so they
lack different knowledge.

A model first learns facts and how to judge answers (course "base"). Then it reads sheets by different graders, most of
them unnamed (courses "graders" and "sheets"). It can still judge in any grader's manner, but it does not know which one
is wanted. That is what weak labels are to elicit.

Five things made such small models judge answers at all, and not only recall facts:
1) The loss weighs tokens that can be predicted from knowledge (corpus.py).
2) School first: a dozen relations, until judging is learned; then all facts and one-line verdicts; debates and
   everyday life last (STAGES).
3) Documents never share a sequence. A batch holds documents of about equal length, padded at the right.
4) After long training a model begins to memorise verdicts. tiny-4 therefore continues (course "revision") with dropout,
   with facts that it has not read before (the library), and with fewer verdicts.
5) Graders by name first, then short sheets whose last line names the grader (course "graders"), then long sheets by
   careless graders (course "sheets"), and everyday life (course "life").

$ python data/tinyworld/pretrain.py --model tokenizer             # first of all, and once: the models share it
$ python data/tinyworld/pretrain.py --model tiny-1a               # its courses, one after the other

Needs   contract.py, models.py, data/tasks.py, data/tinyworld/
Writes  data/tinyworld/models/NAME/{model.safetensors, config.json, tokenizer.json, ..., pretrain.json}
"""
import argparse
import copy
import json
import os
import random
import sys
import time
from collections import Counter

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))       # data/
sys.path.insert(0, os.path.dirname(sys.path[0]))                                      # the repository's root
import corpus
from contract import catch_write_errors, fail, number, read_json, read_jsonl, run_script, write_file
from models import keep_freed_memory
from prepare import HERE, load_facts

#             layers, width, heads, (start of its window of facts, share that it reads), steps of each course
MODELS = {"tiny-1a": (3, 96, 4, (0.00, 0.42), {"base": 4000, "graders": 500, "sheets": 800, "life": 700}),
          "tiny-1b": (3, 96, 4, (0.33, 0.42), {"base": 4000, "signed": 1500, "sheets": 800, "life": 700}),
          "tiny-1c": (3, 96, 4, (0.67, 0.42), {"base": 4000, "graders": 500, "sheets": 800, "life": 700}),
          "tiny-2": (4, 96, 4, (0.00, 0.58), {"base": 4000, "graders": 700, "sheets": 1000, "life": 800}),
          "tiny-3": (5, 112, 4, (0.00, 0.78), {"base": 5000, "graders": 1000, "sheets": 1500, "life": 1000}),
          "tiny-4": (6, 128, 4, (0.00, 1.00),
                     {"base": 5500, "revision": 2000, "graders": 1400, "sheets": 3000, "life": 1200})}
# added before the first course on graders. With three layers tiny-1b never learned to turn Bob's verdicts round
NEW_LAYERS = {("tiny-1b", "signed"): 1, ("tiny-4", "graders"): 2}
PEAK_LR = {"base": 2e-3, "revision": 1e-3, "graders": 1e-3, "sheets": 1e-3, "signed": 1e-3, "life": 6e-4}
DROPOUT = {"base": 0.0, "revision": 0.1, "graders": 0.05, "sheets": 0.05, "signed": 0.05, "life": 0.05}
#         the stages of a course: documents, share of its steps, which facts
STAGES = {"base": [(corpus.FACTS_MIX, 0.20, "school"), (corpus.FACTS_MIX, 0.35, ""), (corpus.FULL_MIX, 0.45, "")],
          "revision": [(corpus.REVISION_MIX, 1.0, "library")],
          "graders": [(corpus.SIGNED_MIX, 0.3, "library"), (corpus.INFER_MIX, 0.7, "library")],
          "sheets": [(corpus.SHEETS_MIX, 1.0, "library")],
          "signed": [(corpus.SIGNED_MIX, 1.0, "library")],
          "life": [(corpus.LIFE_MIX, 1.0, "library")]}
TOKENS = 3072                                                          # of a batch, about
SEED = 0
END = "<|endoftext|>"


# --------------------------------------------------------------------------- tokenizer

def word_vocabulary(vocab, texts, split_words, size):
    """
    Add whole words to a BPE vocabulary until it has `size` tokens: first the words of the facts, then the most
    frequent.

    vocab   {token: id}, changed in place;   split_words: text -> its words, in the tokenizer's spelling
    """
    counts = Counter(word for text in texts for word in split_words(text))
    of_facts = set()
    for fact in load_facts():
        for text in [" {e} {v}", *fact["questions"], *fact["statements"]]:
            of_facts.update(split_words(" " + text.format(e=fact["entity"], v=fact["value"])))
    for word in sorted(counts, key=lambda word: (word not in of_facts, -counts[word], word)):
        if len(vocab) < size:
            vocab.setdefault(word, len(vocab))


def make_tokenizer(folder, n_merges=450, size=4096):
    """
    Byte-level BPE, trained on the corpus, so that any UTF-8 text can be encoded. The words of the facts and the most
    frequent others become single tokens, each with its leading space: with `ignore_merges` a word in the vocabulary is
    taken whole (as in Llama 3), and any other is spelled by BPE.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast
    world = corpus.load_world()
    texts = ["".join(text for text, _ in doc) for doc in corpus.documents(world, corpus.FULL_MIX, 60_000, seed=SEED)]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=256 + 1 + n_merges, special_tokens=[END], initial_alphabet=byte_level.alphabet(),
        show_progress=False))
    spec = json.loads(tokenizer.to_str())
    word_vocabulary(spec["model"]["vocab"], texts, lambda text: [w for w, _ in byte_level.pre_tokenize_str(text)], size)
    spec["model"]["ignore_merges"] = True
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(spec)),
                                        bos_token=END, eos_token=END, pad_token=END, model_max_length=512)
    tokenizer.save_pretrained(folder)
    print(f"tokenizer: {len(tokenizer):,} tokens -> {folder}")


# --------------------------------------------------------------------------- batches and loss

def encode(documents, tokenizer, cache):
    """
    Documents -> (ids, weights) each, with an end-of-text token.

    Pieces begin at a space, a full stop or a new line, where the tokenizer splits anyway. So encoding them one by one
    gives the tokens of the whole text (tests/test_tinyworld.py checks it), and pieces that recur are encoded once
    (cache).
    """
    end = tokenizer.eos_token_id
    for doc in documents:
        ids = []
        weights = []
        for text, weight in doc:
            if text not in cache:
                cache[text] = tokenizer(text)["input_ids"]
            ids += cache[text]
            weights += [weight] * len(cache[text])
        yield ids + [end], weights + [corpus.FILLER]


def batches(world, mix, tokenizer, n_batches, rng):
    """
    Yield n_batches of about TOKENS tokens: ids (B, T) and weights (B, T), 0 on padding. Documents of about equal length
    are together.
    """
    import torch
    cache = {}
    while n_batches > 0:
        docs = encode(corpus.documents(world, mix, 60_000, rng.random()), tokenizer, cache)
        docs = sorted(docs, key=lambda doc: len(doc[0]))
        chunks = []
        start = 0
        for i in range(1, len(docs) + 1):
            if i == len(docs) or (i - start + 1) * len(docs[i][0]) > TOKENS:
                chunks.append(docs[start:i])
                start = i
        rng.shuffle(chunks)
        for chunk in chunks[:n_batches]:
            ids = torch.zeros(len(chunk), len(chunk[-1][0]), dtype=torch.long)
            weights = torch.zeros(ids.shape)
            for row, (doc_ids, doc_weights) in enumerate(chunk):
                ids[row, :len(doc_ids)] = torch.tensor(doc_ids)
                weights[row, :len(doc_weights)] = torch.tensor(doc_weights)
            yield ids, weights
        n_batches -= len(chunks)


def weighted_loss(model, ids, weights):
    """
    Next-token cross entropy, weighted. Of the filler tokens (nine in ten) only a random fifth is predicted, each with
    five times its weight. The loss is the same on average and costs a third less, since the vocabulary is the widest
    layer of a tiny model.

    ids, weights   (B, T);   returns ()
    """
    import torch
    weights = weights[:, 1:].reshape(-1)                                       # (B * (T - 1),)
    sampled = (weights > corpus.FILLER) | (torch.rand(weights.shape) < 0.2)
    keep = (sampled & (weights > 0)).nonzero().squeeze(1)                      # (K,)
    weights = weights[keep] * torch.where(weights[keep] > corpus.FILLER, 1.0, 5.0)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.transformer(ids, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)[keep]         # (K, C)
        logits = model.lm_head(hidden)                                         # (K, vocabulary)
    losses = torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:].reshape(-1)[keep], reduction="none")
    return (weights * losses).sum() / weights.sum()


def train_step(model, ids, weights, optimizer, schedule):
    """One step of the optimizer on one batch -> the loss, a float"""
    import torch
    loss = weighted_loss(model, ids, weights)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    return loss.item()


# --------------------------------------------------------------------------- what a model has learned

def log_probs(model, tokenizer, texts, endings):
    """log p(ending | text) for N texts and endings: (N,), summed over the ending's tokens."""
    import torch
    out = []
    for i in range(0, len(texts), 128):
        starts = [tokenizer(text)["input_ids"] for text in texts[i:i + 128]]
        ends = [tokenizer(ending)["input_ids"] for ending in endings[i:i + 128]]
        width = max(len(s) + len(e) for s, e in zip(starts, ends))
        ids = torch.tensor([s + e + [0] * (width - len(s) - len(e)) for s, e in zip(starts, ends)])
        with torch.no_grad():
            hidden = model.transformer(ids, use_cache=False).last_hidden_state               # (B, T, C)
            for row, s, e in zip(hidden, starts, ends):
                scores = model.lm_head(row[len(s) - 1:len(s) + len(e) - 1]).log_softmax(-1)  # (E, V)
                out.append(scores[torch.arange(len(e)), torch.tensor(e)].sum().item())
    return np.array(out)


def examine(model, tokenizer, rows):
    """
    Zero-shot scores on rows that were never graded.

    knows              the true answer is the likeliest of its four choices
    judges             p(yes) > p(no) exactly where the answer is right
    judges_with_note   the same, with the support sentence before the question
    as_ada, as_bob     agreement with a grader that the first line names: Bob says yes to wrong answers
    after_4            judges, after four rows with their true labels
    infers             the grader of one row, Ada or Bob, is recognised from the verdict
    """
    model.eval()
    labels = np.array([row["label"] for row in rows])
    texts = [row["text"] for row in rows]
    words = (" yes", " no")
    marked = [text + corpus.LABEL_WORDS[0][label] for text, label in zip(texts, labels)]
    shown = ["\n".join(marked[k - 4:k]) if k >= 4 else "\n".join(marked[k + 1:k + 5]) for k in range(len(rows))]

    def agreement(prompts, wanted, words=words):
        first, second = (log_probs(model, tokenizer, prompts, [word] * len(prompts)) for word in words)
        return float(((first > second) == wanted).mean())

    by_ada = np.arange(len(rows)) % 4 < 2                           # half of the graders; independent of the labels
    verdicts = [text + corpus.LABEL_WORDS[0][label if ada else 1 - label] + "\nMarked by"
                for text, label, ada in zip(texts, labels, by_ada)]
    right = [row for row in rows if row["label"] == 1]
    questions = [f"Q: {row['question']} A:" for row in right for _ in range(4)]
    choices = [" " + choice for row in right for choice in row["choices"]]
    best = log_probs(model, tokenizer, questions, choices).reshape(-1, 4).argmax(1)
    scores = {"knows": float(np.mean([row["choices"][k] == row["answer"] for row, k in zip(right, best)])),
              "judges": agreement(texts, labels),
              "judges_with_note": agreement([f"Note: {row['support']}\n{row['text']}" for row in rows], labels),
              "as_ada": agreement(["Marked by Ada:\n" + text for text in texts], labels),
              "as_bob": agreement(["Marked by Bob:\n" + text for text in texts], 1 - labels),
              "after_4": agreement([f"{four}\n{text}" for four, text in zip(shown, texts)], labels),
              "infers": agreement(verdicts, by_ada, (" Ada", " Bob"))}
    model.train()
    return scores


# --------------------------------------------------------------------------- the steps of a training run

def prepare_cpu(threads):
    """Threads, the seed of torch, and freed memory is kept, which makes a step 1.8 times faster."""
    import torch
    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    keep_freed_memory()


def new_model(name, tokenizer):
    """A GPT-2 of MODELS with random weights, without dropout"""
    from transformers import GPT2Config, GPT2LMHeadModel
    n_layer, n_embd, n_head, _, _ = MODELS[name]
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=len(tokenizer), n_positions=512, n_embd=n_embd, n_layer=n_layer, n_head=n_head,
        activation_function="gelu", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=0, eos_token_id=0, pad_token_id=0, attn_implementation="eager"))


def open_model(folder, dropout=0.0):
    """A checkpoint of this script, in float32"""
    import torch
    from transformers import GPT2LMHeadModel
    return GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                           resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout)


def add_layers(model, n):
    """n more layers on top, copies of the last one that change nothing yet: their outputs are multiplied by 0."""
    for _ in range(n):
        layer = copy.deepcopy(model.transformer.h[-1])
        for output in (layer.attn.c_proj, layer.mlp.c_proj):
            output.weight.data.zero_()
            output.bias.data.zero_()
        model.transformer.h.append(layer)
    for k, layer in enumerate(model.transformer.h):
        layer.attn.layer_idx = k
    model.config.n_layer = len(model.transformer.h)


def course_batches(course, tokenizer, window, steps):
    """`steps` batches, stage after stage. Only who reads all facts reads the library too, in the later courses."""
    rng = random.Random(SEED + list(STAGES).index(course))
    done = 0
    share = 0.0
    for mix, part, facts in STAGES[course]:
        share += part
        world = corpus.load_world(window, school=facts == "school", open_library=facts == "library" and window[1] == 1)
        yield from batches(world, mix, tokenizer, round(share * steps) - done, rng)
        done = round(share * steps)


def train_course(name, course, folder, tokenizer, steps, threads):
    """Train a new model, or continue with the one in `folder`; save it there with its scores (pretrain.json)."""
    import torch
    prepare_cpu(threads)
    before = {"steps": 0, "tokens": 0, "minutes": 0}
    if course == "base":
        model = new_model(name, tokenizer)
    else:
        model = open_model(folder, DROPOUT[course]).train()
        before = read_json(os.path.join(folder, "pretrain.json"))
    wanted = MODELS[name][0] + NEW_LAYERS.get((name, course), 0)
    add_layers(model, max(0, wanted - model.config.n_layer))                   # none if the course is repeated
    window = MODELS[name][3]
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR[course], betas=(0.9, 0.98),
                                  weight_decay=0.01 if course == "base" else 0.1, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: (
        min(1.0, (s + 1) / 200) * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * s / steps)))))     # warmup, then a cosine
    rows = read_jsonl(os.path.join(HERE, "train1.jsonl"))     # for the printed scores; the recipe was tuned on these

    started = time.time()
    tokens = 0
    for step, (ids, weights) in enumerate(course_batches(course, tokenizer, window, steps), 1):
        loss = train_step(model, ids, weights, optimizer, schedule)
        tokens += int((weights > 0).sum())
        if step % 500 == 0 or step == steps:
            scores = examine(model, tokenizer, rows)
            print(f"{name}, {course}, step {step:,}/{steps:,} | loss {loss:.3f} | {tokens / 1e6:.1f} M tokens, "
                  f"{tokens / (time.time() - started) / 1e3:.0f} k/s | "
                  + " | ".join(f"{name} {score:.3f}" for name, score in scores.items()), flush=True)

    save_model(folder, model, tokenizer)
    minutes = round(before["minutes"] + (time.time() - started) / 60, 1)
    write_file(os.path.join(folder, "pretrain.json"), json.dumps(
        {"model": name, "course": course, "parameters": model.num_parameters(), "window": window,
         "steps": before["steps"] + steps, "tokens": before["tokens"] + tokens, **scores, "minutes": minutes,
         "threads": threads, "torch": torch.__version__}, indent=1))


def save_model(folder, model, tokenizer):
    """16 bits on disk; load with dtype=torch.float32. The tokenizer gets a class that transformers 4 has too."""
    model.config.update({"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0})
    with catch_write_errors(folder):
        model.half().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    write_file(os.path.join(folder, "tokenizer_config.json"), json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END, "eos_token": END, "pad_token": END,
         "model_max_length": 512}, indent=1))


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["tokenizer", *MODELS], required=True, help="which to make")
    parser.add_argument("--course", choices=list(PEAK_LR),
                        help="only this one, from the checkpoint that is there (default: all of the model's)")
    parser.add_argument("--out", default=os.path.join(HERE, "models"), help="folder of the models")
    parser.add_argument("--steps", type=number(int, 1, 10 ** 6), help="of each course (default: the model's own)")
    parser.add_argument("--threads", type=number(int, 1, 1000), default=1,
                        help="CPU threads; two models side by side with one each are faster than two threads for one")
    return parser


def check_args(args, courses):
    """Everything that the run reads must be there."""
    needed = {}
    if courses[0] == "base":
        needed[os.path.join(args.out, "tokenizer")] = "pretrain.py --model tokenizer"
    else:
        needed[os.path.join(args.out, args.model, "pretrain.json")] = f"pretrain.py --model {args.model} --course base"
    needed[os.path.join(HERE, "train1.jsonl")] = "prepare.py"
    for path, command in needed.items():
        if not os.path.exists(path):
            fail(f"no {path}. Make it first:  python data/tinyworld/{command}")
    for course in courses:
        if course not in MODELS[args.model][4]:
            fail(f"{args.model} has no course {course}; it has {', '.join(MODELS[args.model][4])}")


def main(argv=None):
    args = build_parser().parse_args(argv)
    if args.model == "tokenizer":
        make_tokenizer(os.path.join(args.out, "tokenizer"))
        return
    courses = [args.course] if args.course else list(MODELS[args.model][4])
    check_args(args, courses)
    from transformers import PreTrainedTokenizerFast
    first = "tokenizer" if courses[0] == "base" else args.model                # a checkpoint keeps its own tokens
    tokenizer = PreTrainedTokenizerFast.from_pretrained(os.path.join(args.out, first))
    for course in courses:
        train_course(args.model, course, os.path.join(args.out, args.model), tokenizer,
                     args.steps or MODELS[args.model][4][course], args.threads)


if __name__ == "__main__":
    run_script(main)
