"""
Make tinyworld's language models again: the tokenizer, then GPT-2s that read a growing share of the corpus.

The ladder grows in width, but above all in how much of the world it has read: a supervisor's errors are then mostly missing knowledge,
as they are for small models everywhere. tiny-1a, 1b and 1c have read different parts: their ignorance differs.

What it took to make such small models judge answers at all, and not only know facts:
1) weigh the loss toward what can be known (corpus.py);
2) school first: a dozen relations, until judging is learned; then all facts and one-line verdicts; long and noisy documents last (STAGES);
3) documents never share a sequence: a batch holds documents of about equal length, padded at the right;
4) who reads long enough begins to learn verdicts by heart. tiny-4 therefore reads on (--more) with dropout, with facts that it has not met
   before (the library), and with fewer verdicts.

$ python data/tinyworld/pretrain.py --model tokenizer             # first of all, and once: the models share it
$ python data/tinyworld/pretrain.py --model tiny-1a               # ten minutes on one core with fast bf16
$ python data/tinyworld/pretrain.py --model tiny-4                # forty
$ python data/tinyworld/pretrain.py --model tiny-4 --more 2000    # and its revision, fifteen
Writes data/tinyworld/models/NAME/{model.safetensors, config.json, tokenizer.json, ..., pretrain.json}
"""
import argparse, ctypes, json, os, random, sys, time
from collections import Counter
import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import corpus
from prepare import HERE, load_facts

#             layers, width, heads, (where its reading starts, share it reads), steps
MODELS = {"tiny-1a": (3, 96, 4, (0.00, 0.42), 4000),
          "tiny-1b": (3, 96, 4, (0.33, 0.42), 4000),
          "tiny-1c": (3, 96, 4, (0.67, 0.42), 4000),
          "tiny-2": (4, 96, 4, (0.00, 0.58), 4000),
          "tiny-3": (5, 112, 4, (0.00, 0.78), 5000),
          "tiny-4": (6, 128, 4, (0.00, 1.00), 7500)}
STAGES = {"school": 0.20, "facts": 0.35, "everything": 0.45}           # shares of the steps
TOKENS, LR, SEED = 3072, 2e-3, 0
END = "<|endoftext|>"


def make_tokenizer(folder, n_merges=450, size=4096):
    """
    Byte-level BPE, trained on the corpus: any UTF-8 text goes in. The words of the facts, and the most frequent others, become single tokens,
    each with its leading space: with `ignore_merges` a word that is in the vocabulary is taken whole (so does Llama 3), any other is
    spelled by BPE.
    """
    texts = ["".join(text for text, _ in doc) for doc in corpus.documents(corpus.load_world(), corpus.THEN, 60_000, seed=SEED)]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = byte_level, decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=256 + 1 + n_merges, special_tokens=[END], initial_alphabet=byte_level.alphabet(), show_progress=False))
    spec = json.loads(tokenizer.to_str())
    vocab = spec["model"]["vocab"]
    counts = Counter(word for text in texts for word, _ in byte_level.pre_tokenize_str(text))
    facts = [text.format(e=f["entity"], v=f["value"]) for f in load_facts() for text in [" {e} {v}", *f["questions"], *f["statements"]]]
    first = {word for text in facts for word, _ in byte_level.pre_tokenize_str(" " + text)}
    for word in sorted(counts, key=lambda word: (word not in first, -counts[word], word)):
        if len(vocab) < size:
            vocab.setdefault(word, len(vocab))
    spec["model"]["ignore_merges"] = True
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(spec)),
                                        bos_token=END, eos_token=END, pad_token=END, model_max_length=512)
    tokenizer.save_pretrained(folder)
    print(f"tokenizer: {len(tokenizer):,} tokens -> {folder}")


def encode(documents, tokenizer, cache):
    """
    Documents -> list of (ids, weights), an end-of-text token after each.

    Pieces begin at a space, a full stop or a new line, where the tokenizer splits anyway: encoding them one by one gives the same tokens as the
    whole text would (tests/test_tinyworld.py makes sure), and the same pieces come again and again (`cache`).
    """
    end = tokenizer.eos_token_id
    for doc in documents:
        ids, weights = [], []
        for text, weight in doc:
            if text not in cache:
                cache[text] = tokenizer(text)["input_ids"]
            ids += cache[text]
            weights += [weight] * len(cache[text])
        yield ids + [end], weights + [corpus.FILLER]


def batches(world, mix, tokenizer, n_batches, rng):
    """Yield n_batches of about TOKENS tokens: ids (B, T) and weights (B, T), documents of like length together, 0 weight on padding."""
    cache = {}
    while n_batches > 0:
        docs = sorted(encode(corpus.documents(world, mix, 60_000, rng.random()), tokenizer, cache), key=lambda d: len(d[0]))
        chunks, start = [], 0
        for i in range(1, len(docs) + 1):
            if i == len(docs) or (i - start + 1) * len(docs[i][0]) > TOKENS:
                chunks.append(docs[start:i])
                start = i
        rng.shuffle(chunks)
        for chunk in chunks[:n_batches]:
            ids = torch.zeros(len(chunk), len(chunk[-1][0]), dtype=torch.long)
            weights = torch.zeros(ids.shape)
            for row, (i, w) in enumerate(chunk):
                ids[row, :len(i)], weights[row, :len(w)] = torch.tensor(i), torch.tensor(w)
            yield ids, weights
        n_batches -= len(chunks)


def weighted_loss(model, ids, weights):
    """
    Next-token cross entropy, weighted. Of the filler tokens (nine in ten) only a random fifth is predicted, each with five times
    its weight: the same loss on average for a third less work, since the vocabulary is the widest layer of a tiny model.

    ids, weights   (B, T);   returns ()
    """
    weights = weights[:, 1:].reshape(-1)
    sampled = (weights > corpus.FILLER) | (torch.rand(weights.shape) < 0.2)
    keep = (sampled & (weights > 0)).nonzero().squeeze(1)
    weights = weights[keep] * torch.where(weights[keep] > corpus.FILLER, 1.0, 5.0)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.transformer(ids, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)[keep]
        logits = model.lm_head(hidden)
    losses = F.cross_entropy(logits.float(), ids[:, 1:].reshape(-1)[keep], reduction="none")
    return (weights * losses).sum() / weights.sum()


# --------------------------------------------------------------------------- what a model knows

@torch.no_grad()
def log_probs(model, tokenizer, texts, endings):
    """log p(ending | text) for N texts and endings: (N,), summed over the ending's tokens."""
    out = []
    for i in range(0, len(texts), 128):
        start = [tokenizer(text)["input_ids"] for text in texts[i:i + 128]]
        end = [tokenizer(ending)["input_ids"] for ending in endings[i:i + 128]]
        width = max(len(s) + len(e) for s, e in zip(start, end))
        ids = torch.tensor([s + e + [0] * (width - len(s) - len(e)) for s, e in zip(start, end)])
        hidden = model.transformer(ids, use_cache=False).last_hidden_state
        for row, s, e in zip(hidden, start, end):
            scores = F.log_softmax(model.lm_head(row[len(s) - 1:len(s) + len(e) - 1]), -1)
            out.append(scores[torch.arange(len(e)), torch.tensor(e)].sum().item())
    return np.array(out)


def examine(model, tokenizer, rows):
    """
    Zero-shot, on rows that were never graded: does it know the fact (the true answer is the likeliest of its four choices), does it judge
    answers (p(yes) > p(no)), and with the support sentence in the prompt?
    """
    model.eval()
    labels, scores = np.array([row["label"] for row in rows]), {}
    for name, texts in (("judges", [r["text"] for r in rows]), ("judges_with_note", [f"Note: {r['support']}\n{r['text']}" for r in rows])):
        yes, no = (log_probs(model, tokenizer, texts, [word] * len(texts)) for word in (" yes", " no"))
        scores[name] = float(((yes > no) == labels).mean())
    right = [row for row in rows if row["label"] == 1]
    p = log_probs(model, tokenizer, [f"Q: {row['question']} A:" for row in right for _ in range(4)], [" " + c for row in right for c in row["choices"]])
    scores["knows"] = float(np.mean([row["choices"][best] == row["answer"] for row, best in zip(right, p.reshape(-1, 4).argmax(1))]))
    model.train()
    return scores


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["tokenizer", *MODELS], required=True, help="which to make")
    parser.add_argument("--out", default=os.path.join(HERE, "models"), help="folder of the models")
    parser.add_argument("--steps", type=int, help="other than the model's own number of steps")
    parser.add_argument("--more", type=int, default=0, help="read on from the checkpoint that is there: N steps of corpus.REVISION at half the peak rate")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads: two models side by side on one each are faster than two on one")
    args = parser.parse_args()
    if args.model == "tokenizer":
        return make_tokenizer(os.path.join(args.out, "tokenizer"))

    n_layer, n_embd, n_head, window, steps = MODELS[args.model]
    steps, folder = args.more or args.steps or steps, os.path.join(args.out, args.model)
    needed = {os.path.join(args.out, "tokenizer"): "pretrain.py --model tokenizer", os.path.join(HERE, "train1.jsonl"): "prepare.py"}
    if args.more:
        needed[os.path.join(folder, "pretrain.json")] = f"pretrain.py --model {args.model}"
    for path, command in needed.items():
        if not os.path.exists(path):
            print(f"error: no {path}. Make it first:  python data/tinyworld/{command}", file=sys.stderr)
            raise SystemExit(2)
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").mallopt(-1, 1 << 30)             # keep freed memory: 1.2 times faster on CPU
    tokenizer = PreTrainedTokenizerFast.from_pretrained(os.path.join(args.out, "tokenizer"))
    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=len(tokenizer), n_positions=512, n_embd=n_embd, n_layer=n_layer, n_head=n_head, activation_function="gelu",
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0, pad_token_id=0, attn_implementation="eager"))
    before = {"steps": 0, "tokens": 0, "minutes": 0}
    if args.more:                                                 # dropout: who has read long enough begins to learn verdicts by heart
        model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                                resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1).train()
        with open(os.path.join(folder, "pretrain.json"), encoding="utf-8") as f:
            before = json.load(f)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR / 2 if args.more else LR, betas=(0.9, 0.98), weight_decay=0.1 if args.more else 0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1.0, (s + 1) / 200) * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * s / steps))))
    with open(os.path.join(HERE, "train1.jsonl"), encoding="utf-8") as f:
        rows = [json.loads(line) for line in f]                   # to look on: the curriculum was tuned by eye on these rows
    rng, started, tokens = random.Random(SEED), time.time(), 0

    def curriculum():
        if args.more:
            return (yield from batches(corpus.load_world(window, open_library=True), corpus.REVISION, tokenizer, steps, random.Random(SEED + 1)))
        for stage, share in STAGES.items():
            world = corpus.load_world(window, school=stage == "school")
            yield from batches(world, corpus.THEN if stage == "everything" else corpus.FIRST, tokenizer, round(share * steps), rng)

    for step, (ids, weights) in enumerate(curriculum()):
        loss = weighted_loss(model, ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        tokens += int((weights > 0).sum())
        if (step + 1) % 500 == 0 or step + 1 == steps:
            scores = examine(model, tokenizer, rows)
            seconds = time.time() - started
            print(f"{args.model} step {step + 1:,}/{steps:,} | loss {loss.item():.3f} | {tokens / 1e6:.1f} M tokens, {tokens / seconds / 1e3:.0f} k/s | "
                  + " | ".join(f"{k} {v:.3f}" for k, v in scores.items()), flush=True)

    model.config.update({"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0})
    model.half().save_pretrained(folder)                          # 16 bits on disk; load with dtype=torch.float32
    tokenizer.save_pretrained(folder)
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as f:          # a class that transformers 4 knows too
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END, "eos_token": END, "pad_token": END, "model_max_length": 512}, f, indent=1)
    with open(os.path.join(folder, "pretrain.json"), "w", encoding="utf-8") as f:
        json.dump({"model": args.model, "parameters": model.num_parameters(), "window": window, "steps": before["steps"] + steps, "tokens": before["tokens"] + tokens, **scores,
                   "minutes": round(before["minutes"] + (time.time() - started) / 60, 1), "threads": args.threads, "torch": torch.__version__}, f, indent=1)


if __name__ == "__main__":
    main()
