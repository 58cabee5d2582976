"""
Chapter 1. A supervisor is a small model, the true labels of train1, and its doubts about everything else.

Why: one day people will supervise models that know more than they do. The analogy that can be run today (Burns et al. 2023,
https://arxiv.org/abs/2312.09390) lets a small model supervise a big one. This file makes the small one: it is fine-tuned on one half
of the questions, with the truth, and then says p(yes) for the other half, which it has never seen. Those soft labels, wrong as they
often are, are all that the student of chapter 2 (train_strong.py) is given.

Everything about models that later chapters share is taught here: metrics, pooling, batches, the fine-tuning loop, prediction.

    rows      data/<task>/train1.jsonl       {"id": ..., "group": ..., "text": "Q: ...? A: d-block", "label": 1}
    model     any sequence model of transformers, a local folder or a hub name; its last hidden state -> 2 numbers (no, yes)
    training  cross entropy, AdamW, linear warm-up and decay; the best epoch is chosen on a tenth of train1, never on test
    labels    soft labels (p_no, p_yes) for train2, valid and test, by id, in float32

$ python data/tinyworld/prepare.py
$ python train_weak.py                                    # tinyworld, tiny-1a: ten seconds on a laptop
$ python train_weak.py --task sciq --model gpt2 --lr 5e-5 # with a GPU and the hub

Reads   data/<task>/{task.json, train1.jsonl, train2.jsonl, valid.jsonl, test.jsonl}
Writes  data/<task>/seed<seed>/weak/{config.json, checkpoint/, labels.jsonl, results.json}; results.json last: it is there, so the
        stage finished, and the same command again does nothing (--force does).

Simpler than the paper, on purpose: two classes only, so that a soft label is one pair; and the learning rate is not tuned per task.
"""
import argparse, math, os, time

import distributed
from contract import (ROOT, add_common_flags, begin, fail, finish, model_folder, read_rows, read_task, save_checkpoint, start, write_labels)


# --------------------------------------------------------------------------- the maths

def soft_xent(logits, soft_labels):
    """
    Cross entropy against probabilities instead of class ids.

    logits       (B, 2)  the model's scores for (no, yes)
    soft_labels  (B, 2)  (p_no, p_yes), each row sums to 1; the truth is (0, 1) or (1, 0)
    returns      (B,)    one loss a row; logits (3, 3) against any label give log 2 = 0.693

    The supervisor's doubt is kept on purpose: rounding a 0.55 to 1 would teach its student to be certain of a coin flip.
    """
    return -(soft_labels * logits.log_softmax(-1)).sum(-1)


def accuracy(p_yes, labels):
    """
    Share of rows judged right at 1/2. A tie counts half: a model that always says 0.5 knows nothing and scores 0.5.

    p_yes, labels   (N,), (N,) of 0 and 1
    >>> accuracy([0.9, 0.2, 0.5, 0.6], [1, 0, 1, 0])
    0.625
    """
    return float(right(p_yes, labels).mean())


def right(p_yes, labels):
    """Row by row: 1.0 where judged right, 0.5 for a tie, 0.0 where wrong. (N,), (N,) -> (N,)"""
    import numpy as np
    p_yes, labels = np.asarray(p_yes, float), np.asarray(labels)
    return np.where(p_yes == 0.5, 0.5, (p_yes > 0.5) == (labels == 1)).astype(float)


def auroc(p_yes, labels):
    """
    Chance that a random right answer scores above a random wrong one (ties half), by the rank sum of Mann and Whitney.

    >>> auroc([0.9, 0.8, 0.3, 0.2], [1, 0, 1, 0])     # of 4 pairs, 3 are in order
    0.75
    """
    import numpy as np
    p_yes, labels = np.asarray(p_yes, float), np.asarray(labels)
    n_yes, n_no = int((labels == 1).sum()), int((labels == 0).sum())
    if not n_yes or not n_no:
        return float("nan")
    values, inverse, counts = np.unique(p_yes, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]             # 1-based; tied rows share their mean rank
    return float((ranks[labels == 1].sum() - n_yes * (n_yes + 1) / 2) / (n_yes * n_no))


def ece(p_yes, labels, bins=10):
    """
    Expected calibration error: |confidence - accuracy|, averaged over ten equal bins of confidence from 0.5 to 1.

    >>> round(ece([0.8, 0.8, 0.8, 0.8], [1, 1, 0, 0]), 3)     # says 80 %, is right half of the time
    0.3
    """
    import numpy as np
    confidence = np.maximum(p_yes, 1 - np.asarray(p_yes, float))
    which = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    hit = right(p_yes, labels)
    return float(sum(abs((confidence - hit)[which == b].sum()) for b in range(bins)) / len(hit))


def metrics(soft_labels, rows):
    """
    What is said of every model, on rows that carry their true label. soft_labels (N, 2), N rows -> dict.

    The standard error knows that the rows of one question (group) stand or fall together; a plain binomial one would be too small.
    """
    import numpy as np
    p_yes, labels = np.asarray(soft_labels, float)[:, 1], np.array([row["label"] for row in rows])
    hit, share_yes, n = right(p_yes, labels), float(labels.mean()), len(rows)
    member = np.unique([row["group"] for row in rows], return_inverse=True)[1]
    return {"n": n, "accuracy": float(hit.mean()), "se": float(np.sqrt((np.bincount(member, hit - hit.mean()) ** 2).sum()) / n),
            "chance": max(share_yes, 1 - share_yes), "auroc": auroc(p_yes, labels), "ece": ece(p_yes, labels),
            "share_yes": share_yes, "says_yes": float((p_yes > 0.5).mean())}


# --------------------------------------------------------------------------- model and device

def pick_device(asked):
    """(device, why): a slow run explains itself."""
    import torch
    asked = distributed.own_device(asked)
    if asked:
        try:
            torch.zeros(1, device=asked).item()            # "meta" has no numbers in it
        except (RuntimeError, AssertionError, ImportError) as error:
            fail(f"--device {asked}: {str(error).splitlines()[0]}")
        return asked, "asked for with --device"
    if torch.cuda.is_available():
        return "cuda", "found"
    if torch.backends.mps.is_available():
        return "mps", "found; no CUDA"
    return "cpu", "no CUDA and no MPS here"


def use_bf16(dtype, device):
    """bf16 autocast over fp32 master weights where the hardware is fast at it. On CPU only if asked: the numbers move a little."""
    import torch
    return dtype == "bf16" or dtype == "auto" and device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)


def label_word_ids(tokenizer, words, before="A"):
    """The token that each label word becomes when it follows a text (or whatever stands before it); they must be single and different."""
    stem = tokenizer(before, add_special_tokens=False)["input_ids"]
    ids = [tokenizer(before + word, add_special_tokens=False)["input_ids"][len(stem):] for word in words]
    if any(len(i) != 1 for i in ids) or ids[0] == ids[1]:
        fail(f"label words {words} are not one token each for this tokenizer; use --head random, or other words in task.json")
    return [i[0] for i in ids]


def open_checkpoint(name, kind, device, remote_code=False, empty=False, **config_changes):
    """
    What every chapter opens: model (fp32, no dropout), tokenizer, and the length it can read.

    kind           a class of transformers by name, "AutoModelForSequenceClassification" for example
    remote_code    run code that a hub repository brings along (--trust-remote-code); weights are always safetensors
    empty          the model without its weights, on device "meta": distributed.shard brings them
    """
    import torch, transformers
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    path, trust = model_folder(name), {"trust_remote_code": remote_code}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, **trust)
        config = transformers.AutoConfig.from_pretrained(path, **config_changes, **trust)
        for key, value in config.to_dict().items():
            if "drop" in key and isinstance(value, float):
                setattr(config, key, 0.0)                  # no dropout: two epochs are no danger, and runs compare better
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        config.pad_token_id = tokenizer.pad_token_id
        longest = min(getattr(config, "max_position_embeddings", None) or 1 << 20, tokenizer.model_max_length, 1024)
        if longest < 2 or not all(isinstance(name, str) for name in config.architectures or []):
            raise ValueError(f"a length of {longest} tokens, architectures {config.architectures}?")
        if empty:
            with torch.device("meta"):
                return getattr(transformers, kind).from_config(config, dtype=torch.float32, **trust).eval(), tokenizer, longest
        model, info = getattr(transformers, kind).from_pretrained(
            path, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **trust)
        body = [key for key in info["missing_keys"] if key.startswith(model.base_model_prefix + ".") and "pooler" not in key]
        if body:
            fail(f"model {name!r} lacks {len(body)} of its weights, first {body[0]!r}: its config.json is another model's")
    except Exception as error:                             # whatever a damaged folder makes transformers raise: one line
        reason = (str(error).strip().splitlines() or [""])[0]
        fail(f"cannot load model {name!r} ({type(error).__name__}): {reason} Give a folder, a hub name or a shipped model")
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        fail(f"model {name!r}: its tokenizer has {len(tokenizer):,} tokens, the model only {model.get_input_embeddings().weight.shape[0]:,}")
    return model.to(device), tokenizer, longest


def load_model(name, head, words, device, remote_code=False):
    """
    A sequence classifier, its tokenizer, and the length it can read.

    The head of a decoder starts from the language model's own rows for the two label words (Burns et al., appendix A): before any
    training its two logits are those of " no" and " yes" as the next token (but for a bias, which few models have there). An encoder, or
    --head random, starts from small noise. A checkpoint that is a classifier already keeps its head.

    Of torchrun's processes the first one reads the weights, and the model that each of them gets is split (distributed.shard).
    """
    several, first = distributed.SIZE > 1, distributed.RANK == 0
    where = "cpu" if several else device
    model, tokenizer, longest = open_checkpoint(name, "AutoModelForSequenceClassification", where, remote_code, empty=not first, num_labels=2)
    model = distributed.shard(model, device)
    fresh = not (model.config.architectures or [""])[0].endswith("ForSequenceClassification")
    if fresh and hasattr(model, "score") and head != "random":
        ids, rows = label_word_ids(tokenizer, words), None
        if first:
            rows = open_checkpoint(name, "AutoModelForCausalLM", where, remote_code)[0].get_output_embeddings().weight[ids].detach()
        distributed.set_weight(model.score.weight, distributed.agree(rows).to(device))
    return model, tokenizer, longest


def prepare_for_training(model, args):
    """
    What saves memory: --gradient-checkpointing keeps only the input of every layer and computes its inside once more in the backward pass;
    --lora R trains a correction of rank R beside each linear layer, and the head (Hu et al. 2021, by the package peft), and nothing else.

    -> (model to train, a function that gives the ordinary model back after training)
    """
    if args.gradient_checkpointing:
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable      # its new and its old name
        enable({"use_reentrant": False})
    if args.lora and distributed.SIZE > 1:
        fail("--lora works in one process; without it torchrun splits the weights, their gradients and Adam's moments")
    if not args.lora:
        return model, lambda: model
    try:
        import peft
    except ImportError:
        fail("--lora needs the package peft, which nothing else here does:  pip install peft")
    wrapped = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", r=args.lora, lora_alpha=2 * args.lora, target_modules="all-linear"))
    return wrapped.get_base_model(), wrapped.merge_and_unload


def tokenise(tokenizer, rows, longest):
    """
    Every row once -> list of id lists. What is too long loses its beginning, not its end, where question and answer stand; said aloud.
    """
    ids = tokenizer([row["text"] for row in rows], truncation=False, verbose=False)["input_ids"]
    for row, i in zip(rows, ids):
        if not i:
            fail(f"the tokenizer makes nothing of row {row['id']!r}: is its folder complete?")
    cut = sum(len(i) > longest for i in ids)
    if cut:
        print(f"note: {cut:,} of {len(rows):,} rows are longer than {longest} tokens and lose their beginning")
    first = {tokenizer.cls_token_id, tokenizer.bos_token_id} - {None}          # stays in front, where the tokenizer put one
    return [i if len(i) <= longest else i[:1] + i[len(i) - longest + 1:] if i[0] in first else i[-longest:] for i in ids]


def pad(ids, tokenizer, device):
    """Lists of ids -> {"input_ids", "attention_mask"}, (B, T) each, padded at the right whatever the tokenizer would do."""
    import torch
    width = max(map(len, ids))
    fill = tokenizer.pad_token_id or 0
    return {"input_ids": torch.tensor([i + [fill] * (width - len(i)) for i in ids], device=device),
            "attention_mask": torch.tensor([[1] * len(i) + [0] * (width - len(i)) for i in ids], device=device)}


def classify(model, batch):
    """
    Scores for (no, yes): (B, T) ids and mask -> (B, 2) logits.

    A decoder is read at its last real token, which the mask tells: looking for the last id that is not padding, as is often done, goes
    wrong when padding and end-of-text share an id. An encoder has its own way of pooling, and uses the mask itself.
    """
    import torch
    if not hasattr(model, "score"):
        return model(**batch).logits
    hidden = model.base_model(**batch).last_hidden_state                       # (B, T, C)
    last = batch["attention_mask"].sum(1) - 1                                  # (B,) padding is at the right
    return model.score(hidden[torch.arange(len(last), device=last.device), last])


# --------------------------------------------------------------------------- fine-tuning and prediction

def batches_of_like_length(lengths, batch_size, rng):
    """
    Indices of one epoch, in batches. Rows are shuffled, sorted by length within stretches of 20 batches, cut, and the batches shuffled
    again: little padding, and yet another order every epoch. Every row comes once; the last batch may be smaller.
    """
    order = rng.permutation(len(lengths))
    stretch = 20 * batch_size
    order = [i for k in range(0, len(order), stretch) for i in sorted(order[k:k + stretch], key=lambda i: lengths[i])]
    batches = [order[k:k + batch_size] for k in range(0, len(order), batch_size)]
    return [batches[k] for k in rng.permutation(len(batches))]


def fit(model, tokenizer, ids, soft_labels, args, device, target=None, loss=soft_xent, outputs=classify, collate=pad, after_step=None):
    """
    Fine-tune on soft labels.

    ids          N lists of token ids, or whatever `collate` makes a batch of
    soft_labels  (N, 2) float32; with a loss of your own as many columns as that one reads
    target       what the model is to believe, if not the labels themselves: (logits (B, 2), labels (B, 2), progress) -> (B, 2), a
                 function of the whole batch, without gradient (train_strong.py has some)
    outputs      (model, batch of ids and mask) -> (B, ...): what of the model is trained, the two logits if nothing else is said
    loss         (outputs, labels (B, K)) -> (B,), one number a row
    after_step   called as after_step(step, steps), step = 1, 2, ... steps, with the model as it then is

    AdamW without weight decay (fp32 weights, fused), 10 % warm-up, linear decay, gradients clipped at 1. The mean over the batch may be
    taken in pieces of --micro-batch-size rows, to save memory: same gradients. So may torchrun's processes take it (distributed.py): each its part.
    """
    import numpy as np, torch
    from tqdm import tqdm
    rng, labels = np.random.default_rng(args.seed), torch.tensor(soft_labels, device=device)
    moving = [p for p in model.parameters() if p.requires_grad]                # with --lora a few, otherwise all
    optimizer = torch.optim.AdamW(moving, lr=args.lr, weight_decay=0.0, fused=device.split(":")[0] in ("cpu", "cuda"))
    steps = math.ceil(len(ids) / args.batch_size) * args.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min((s + 1) / (0.1 * steps), 1.0, (steps - s) / (0.9 * steps)))
    micro = args.micro_batch_size or args.batch_size
    autocast = torch.autocast(device.split(":")[0], torch.bfloat16, enabled=use_bf16(args.dtype, device), cache_enabled=False)
    step, lengths = 0, [len(i) for i in ids]

    def said(piece):
        with autocast:
            return outputs(model, collate([ids[i] for i in piece], tokenizer, device)).float()

    with tqdm(total=steps, desc="fine-tuning", unit="step", disable=None, leave=False) as bar:
        for _ in range(args.epochs):
            for batch in batches_of_like_length(lengths, args.batch_size, rng):
                model.train()                              # no dropout is left to switch on, but gradient checkpointing works in this mode alone
                believed, (mine, real) = labels[batch], distributed.part(len(batch))       # all rows are mine, unless there are other processes
                pieces = [mine[k:k + micro] for k in range(0, len(mine), micro)]
                if target:                                 # it looks at the whole batch: one more pass, without gradient
                    with torch.no_grad():
                        scores = torch.cat([said([batch[i] for i in piece]) for piece in pieces])
                        believed = target(distributed.whole_batch(scores, mine, real, len(batch)), believed, step / steps)
                for k, piece in enumerate(pieces):
                    losses = loss(said([batch[i] for i in piece]), believed[piece])
                    (losses[:real - k * micro].sum() / len(batch)).backward()
                distributed.total_gradients(moving)
                torch.nn.utils.clip_grad_norm_(moving, 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                step += 1
                bar.update()
                if after_step:
                    after_step(step, steps)


def sweep(model, tokenizer, ids, device, dtype="fp32", tokens=8192, outputs=classify):
    """
    What a model says of N lists of ids, in their order: (N, D) float32, D as `outputs` has it (see fit). No gradient. Batches are sorted
    by length and hold about `tokens` tokens; on a CPU fewer if the model is wide: what leaves the cache is slow (GPT-2's shape: 1.7 times).
    """
    import numpy as np, torch
    from tqdm import tqdm
    if device == "cpu":
        tokens = min(tokens, 2 ** 20 // getattr(model.config, "hidden_size", 1))
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    out, batches, end = None, [], len(order)
    while end:                                             # longest first: if memory does not suffice, it shows at once
        start = max(0, end - max(1, tokens // len(ids[order[end - 1]])))
        batches.append(order[start:end])
        end = start
    model.eval()
    with torch.no_grad(), tqdm(total=len(ids), desc="reading", unit="row", disable=None, leave=False) as bar:
        for rows, counts in distributed.turns(batches):    # all of them, unless there are other processes
            with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=use_bf16(dtype, device), cache_enabled=False):
                said = outputs(model, pad([ids[i] for i in rows], tokenizer, device)).float().cpu().numpy()
            out = np.zeros((len(ids), *said.shape[1:]), dtype=np.float32) if out is None else out
            if counts:
                out[rows] = said
            bar.update(len(rows))
    distributed.total(torch.from_numpy(out))
    if not np.isfinite(out).all():
        fail("the model's scores are not numbers any more: training diverged. Use a smaller --lr")
    return out


def predict(model, tokenizer, ids, device, dtype="fp32", tokens=8192, outputs=classify):
    """
    Soft labels (N, 2) float32 for N lists of ids, in their order. The softmax is taken in float32, whatever the forward pass used: in bf16
    many different doubts would all be written as 0.5.
    """
    import torch
    return torch.from_numpy(sweep(model, tokenizer, ids, device, dtype, tokens, outputs)).softmax(-1).numpy()


def hold_out(rows, seed):
    """A tenth of the questions, whole groups, so that a question is never on both sides. -> (rows to learn from, rows to choose by)"""
    import numpy as np
    groups = np.random.default_rng(seed).permutation(sorted({row["group"] for row in rows}))
    held = set(groups[:max(1, len(groups) // 10)])
    return [row for row in rows if row["group"] not in held], [row for row in rows if row["group"] in held]


def fit_best_epoch(model, tokenizer, ids, soft_labels, held_ids, held_labels, args, device, **how):
    """
    fit, and keep the weights of the epoch that judges held-out rows best, the earliest of equals. held_ids, held_labels: M lists of ids, (M,)
    of 0 and 1; `how` goes on to fit.  -> {"epoch": ..., "accuracy": ...}, and `model` has those weights
    """
    best = {"accuracy": -1.0}

    def keep_the_best(step, steps):
        if step % (steps // args.epochs) == 0:
            acc, epoch = accuracy(predict(model, tokenizer, held_ids, device, args.dtype)[:, 1], held_labels), step * args.epochs // steps
            print(f"epoch {epoch}: {acc:.3f} right of the {len(held_ids):,} held out")
            if acc > best["accuracy"]:
                best.update(accuracy=acc, epoch=epoch, weights=distributed.keep_weights(model))

    fit(model, tokenizer, ids, soft_labels, args, device, after_step=keep_the_best, **how)
    distributed.put_back(model, best.pop("weights"))
    return best


def say(name, m):
    """One line about one model: the number, its standard error, and what it is to be compared with."""
    flag = " | BELOW CHANCE: diverged?" if m["accuracy"] + 2 * m["se"] < m["chance"] else ""
    return (f"{name} {m['accuracy']:.3f} ±{m['se']:.3f} | AUROC {m['auroc']:.3f} | ECE {m['ece']:.3f} | "
            f"says yes {m['says_yes']:.2f} of {m['share_yes']:.2f} | chance {m['chance']:.3f} | n={m['n']:,}{flag}")


# --------------------------------------------------------------------------- the story

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_flags(parser, model="tiny-1a", out="weak", epochs=3)
    args = parser.parse_args()
    started = time.time()
    files, words = read_task(args.task)
    folder, config = start(args, [*files, model_folder(args.model)], sources=[os.path.join(ROOT, "data", args.task, "truth")])

    import numpy as np, torch
    torch.manual_seed(args.seed)
    device, why = pick_device(args.device)
    print(f"device: {device} ({why})")
    model, tokenizer, longest = load_model(args.model, args.head, words, device, args.trust_remote_code)
    model, ordinary = prepare_for_training(model, args)

    # a tenth of the questions chooses the epoch
    kept, held = hold_out(read_rows(args.task, "train1", args.max_rows), args.seed)
    if not kept:
        fail(f"data/{args.task}/train1.jsonl: one group is too few to train on and to choose the epoch by")
    ids, held_ids = tokenise(tokenizer, kept, longest), tokenise(tokenizer, held, longest)
    truth = np.array([[1 - row["label"], row["label"]] for row in kept], dtype=np.float32)
    print(f"data: {len(kept):,} rows of train1 to learn from ({truth[:, 1].mean():.1%} yes), {len(held):,} to choose the epoch by")
    print(f"one example, exactly as the model sees it:\n  {tokenizer.decode(ids[0])!r} -> truth {kept[0]['label']}")
    begin(folder, config)
    best = fit_best_epoch(model, tokenizer, ids, truth, held_ids, [row["label"] for row in held], args, device)
    model = ordinary()

    # only now are rows of test read: to be labelled like the other splits, and to see how good the labels are
    train2, valid, test = (read_rows(args.task, split, args.max_rows) for split in ("train2", "valid", "test"))
    everything = train2 + valid + test
    soft_labels = predict(model, tokenizer, tokenise(tokenizer, everything, longest), device, args.dtype)
    save_checkpoint(folder, model, tokenizer)
    write_labels(folder, everything, soft_labels)
    scores = metrics(soft_labels[-len(test):], test)
    finish(folder, config, device, started, say("supervisor", scores), test=scores, best_epoch=best["epoch"], held_out_accuracy=best["accuracy"])


if __name__ == "__main__":
    main()
