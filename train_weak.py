"""
Chapter 1. A supervisor is a small model, the true labels of train1, and its doubts about everything else.

Why: one day people will supervise models that know more than they do. The analogy that can be run today (Burns et al. 2023,
https://arxiv.org/abs/2312.09390) lets a small model supervise a big one. This file makes the small one: it is fine-tuned on one half
of the questions, with the truth, and then says p(yes) for the other half, which it has never seen. Those soft labels, wrong as they
often are, are all that the student of chapter 2 (train_strong.py) is given.

Everything later chapters share is taught here: rows, labels, batches, the fine-tuning loop, prediction, metrics, folders.

    rows      data/<task>/train1.jsonl       {"id": ..., "group": ..., "text": "Q: ...? A: d-block", "label": 1}
    model     any sequence model of transformers, a local folder or a hub name; its last hidden state -> 2 numbers (no, yes)
    training  cross entropy, AdamW, linear warm-up and decay; the best epoch is chosen on a tenth of train1, never on test
    labels    soft labels (p_no, p_yes) for train2, valid and test, by id, in float32

$ python data/tinyworld/prepare.py
$ python train_weak.py                                    # tinyworld, tiny-1a: half a minute on a laptop
$ python train_weak.py --task sciq --model gpt2 --lr 5e-5 # with a GPU and the hub

Reads   data/<task>/{task.json, train1.jsonl, train2.jsonl, valid.jsonl, test.jsonl}
Writes  data/<task>/seed<seed>/weak/{config.json, checkpoint/, labels.jsonl, results.json}; results.json last: it is there, so the
        stage finished, and the same command again does nothing (--force does).

Simpler than the paper, on purpose: two classes only, so that a soft label is one pair; and the learning rate is not tuned per task.
"""
import argparse, hashlib, json, math, os, shutil, sys, time

ROOT = os.path.dirname(os.path.abspath(__file__))


def fail(message):
    """What a user can do wrong ends in one line that says what to do next, and exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


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
    """What is said of every model, on rows that carry their true label. soft_labels (N, 2), N rows -> dict."""
    import numpy as np
    p_yes, labels = np.asarray(soft_labels, float)[:, 1], np.array([row["label"] for row in rows])
    acc, share_yes, n = accuracy(p_yes, labels), float(labels.mean()), len(rows)
    return {"n": n, "accuracy": acc, "se": math.sqrt(acc * (1 - acc) / n), "chance": max(share_yes, 1 - share_yes),
            "auroc": auroc(p_yes, labels), "ece": ece(p_yes, labels), "share_yes": share_yes, "says_yes": float((p_yes > 0.5).mean())}


# --------------------------------------------------------------------------- rows, labels, folders

def read_lines(path):
    """JSON lines -> list of dicts. A broken line is named."""
    rows = []
    try:
        with open(path, encoding="utf-8-sig") as f:
            for number, line in enumerate(f, 1):
                if line.strip():
                    rows.append(json.loads(line))
                    if not isinstance(rows[-1], dict):
                        raise ValueError("not a {...} object")
    except (ValueError, RecursionError) as error:
        fail(f"{path}, line {locals().get('number', 0) + isinstance(error, UnicodeDecodeError)}: {error}. Make the file again.")
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}")
    return rows


def read_rows(task, split, max_rows=None):
    """The rows of one split of data/<task>/, checked: ids once, text, and labels where the split has them (train1, test)."""
    path = os.path.join(ROOT, "data", task, split + ".jsonl")
    if not os.path.exists(path):
        fail(f"no {split} rows at {path}. Make them first:  python {os.path.relpath(os.path.dirname(path), ROOT)}/prepare.py")
    rows, seen = read_lines(path), set()
    for number, row in enumerate(rows, 1):
        missing = [key for key in ("id", "group", "text") if not isinstance(row.get(key), str) or not row[key]]
        if missing:
            fail(f"{path}, line {number}: no {missing[0]!r} (a non-empty string)")
        if row["id"] in seen:
            fail(f"{path}, line {number}: id {row['id']!r} stands there twice")
        if split in ("train1", "test") and row.get("label") not in (0, 1):
            fail(f"{path}, line {number}, id {row['id']!r}: the label must be 0 or 1, not {row.get('label')!r}")
        seen.add(row["id"])
    if not rows:
        fail(f"{path} is empty. Make it again with prepare.py")
    return rows[:max_rows]


def read_labels(folder, rows):
    """
    The soft labels of a supervisor's folder for these rows, joined by id and never by row order: a shuffled file would train fine, and
    teach noise.  labels.jsonl: {"id": "...", "soft_label": [0.38, 0.62]}   ->   (N, 2) float32, in the order of `rows`
    """
    import numpy as np
    path = os.path.join(folder, "labels.jsonl")
    if not os.path.exists(path):
        fail(f"no labels at {path}. Make them first, for example:  python train_weak.py")
    labels = {}
    for number, row in enumerate(read_lines(path), 1):
        name, pair = row.get("id"), row.get("soft_label")
        if not isinstance(name, str):
            fail(f"{path}, line {number}: no 'id' (a string)")
        if name in labels:
            fail(f"{path}, line {number}: id {name!r} stands there twice")
        if not (isinstance(pair, list) and len(pair) == 2 and all(type(p) in (int, float) and 0 <= p <= 1 for p in pair)
                and abs(sum(pair) - 1) < 0.01):
            fail(f"{path}, line {number}, id {name!r}: soft_label must be [p_no, p_yes], two numbers of 0 to 1 that sum to 1, not {str(pair)[:60]}")
        labels[name] = pair
    missing = [row["id"] for row in rows if row["id"] not in labels]
    if missing:
        fail(f"{path} has no label for {len(missing):,} of {len(rows):,} rows, first {missing[0]!r}. Made from another split or task?")
    return np.array([labels[row["id"]] for row in rows], dtype=np.float32)


def label_words(task):
    """The words for (no, yes) of a task, as they follow a text: (" no", " yes") unless its task.json says otherwise."""
    return read_lines(os.path.join(ROOT, "data", task, "task.json"))[0].get("label_words", [" no", " yes"])


def write_file(path, text):
    """Written beside and renamed: the file is there whole, or as it was before."""
    with open(path + ".tmp", "w", encoding="utf-8") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    os.replace(path + ".tmp", path)


def write_labels(folder, rows, soft_labels):
    """rows, (N, 2) float32 -> labels.jsonl; nine digits hold a float32 exactly."""
    write_file(os.path.join(folder, "labels.jsonl"), "".join(
        json.dumps({"id": row["id"], "soft_label": [float(f"{p:.9g}") for p in pair]}) + "\n" for row, pair in zip(rows, soft_labels.tolist())))


def save_checkpoint(folder, model, tokenizer):
    """An ordinary transformers folder of safetensors. Renamed at the end: a killed run leaves no half of one."""
    target, half = os.path.join(folder, "checkpoint"), os.path.join(folder, "checkpoint.tmp")
    shutil.rmtree(half, ignore_errors=True)
    model.save_pretrained(half)
    tokenizer.save_pretrained(half)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(half, target)


def fingerprint(path):
    """What a file or a model's folder holds, as 16 hex digits; a hub name stands for itself."""
    if os.path.isdir(path):
        path = [os.path.join(path, n) for n in sorted(os.listdir(path)) if n.endswith((".safetensors", "config.json", "tokenizer.json"))]
    elif not os.path.exists(path):
        return path
    digest = hashlib.sha256()
    for name in [path] if isinstance(path, str) else path:
        with open(name, "rb") as f:
            while block := f.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def run_folder(name, task, seed):
    """Where a run lies: a bare name means data/<task>/seed<seed>/<name>, anything with a slash is taken as it stands."""
    return name if os.sep in name or "/" in name else os.path.join(ROOT, "data", task, f"seed{seed}", name)


def model_folder(name):
    """The shipped models go by their short names: tiny-4 is data/tinyworld/models/tiny-4. All other names are passed on."""
    shipped = os.path.join(ROOT, "data", "tinyworld", "models", name)
    return shipped if name.startswith("tiny-") and os.path.isdir(shipped) else name


def start(args, inputs):
    """
    Open the run's folder. Finished with the same configuration and the same inputs? Then say so and leave.

    inputs   files and folders that the result depends on; what is in them counts, not only their names
    returns  (folder, config)
    """
    folder = run_folder(args.out, args.task, args.seed)
    config = {"script": os.path.basename(sys.argv[0])} | {k: v for k, v in sorted(vars(args).items()) if k not in ("out", "device", "force")}
    config["inputs"] = {os.path.relpath(path, ROOT) if os.path.exists(path) else path: fingerprint(path) for path in inputs}
    print("config: " + json.dumps(config))
    done = os.path.join(folder, "results.json")
    if os.path.exists(done):
        try:
            with open(done, encoding="utf-8") as f:
                finished = json.load(f)
            if finished["config"] == config and finished["outputs"] == outputs(folder) and not args.force:
                print(f"{finished['line']}\nalready done: {os.path.relpath(done)} (--force does it again)")
                raise SystemExit(0)
        except (ValueError, KeyError, TypeError):
            print(f"{os.path.relpath(done)} cannot be read; the stage runs again")
    try:
        os.makedirs(folder, exist_ok=True)
        if os.path.exists(done):
            os.remove(done)                                # from here on the folder is unfinished
        write_file(os.path.join(folder, "config.json"), json.dumps(config, indent=1))
    except OSError as error:
        fail(f"cannot write to {folder}: {error.strerror}. Choose another --out")
    return folder, config


def outputs(folder):
    """What a finished run left, so that a damaged or missing file is noticed and made again."""
    return {name: fingerprint(os.path.join(folder, name)) for name in ("labels.jsonl", "checkpoint")}


def finish(folder, config, device, started, line, **results):
    """results.json, last of all."""
    import torch, transformers
    versions = {"python": sys.version.split()[0], "torch": torch.__version__, "transformers": transformers.__version__}
    results = {"config": config, "line": line, "seed": config["seed"], **results, "seconds": round(time.time() - started, 1), "device": device,
               "versions": versions, "outputs": outputs(folder)}
    write_file(os.path.join(folder, "results.json"), json.dumps(results, indent=1))
    print(f"{line}\nwrote {os.path.relpath(folder)}")


# --------------------------------------------------------------------------- model and device

def pick_device(asked):
    """(device, why): a slow run explains itself."""
    import torch
    if asked:
        try:
            torch.zeros(1, device=asked)
        except (RuntimeError, AssertionError) as error:
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
    return dtype == "bf16" or dtype == "auto" and device.startswith("cuda") and torch.cuda.is_bf16_supported()


def label_word_ids(tokenizer, words):
    """The token that each label word becomes when it follows a text; they must be single and different."""
    stem = tokenizer("A", add_special_tokens=False)["input_ids"]
    ids = [tokenizer("A" + word, add_special_tokens=False)["input_ids"][len(stem):] for word in words]
    if any(len(i) != 1 for i in ids) or ids[0] == ids[1]:
        fail(f"label words {words} are not one token each for this tokenizer; use --head random, or other words in task.json")
    return [i[0] for i in ids]


def load_model(name, head, words, device):
    """
    A sequence classifier with fp32 weights, its tokenizer, and the length it can read.

    The head of a decoder starts from the language model's own rows for the two label words (Burns et al., appendix A): before any
    training its two logits are those of " no" and " yes" as the next token. An encoder, or --head random, starts from small noise. A
    checkpoint that is a classifier already keeps its head.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    path = model_folder(name)
    try:
        tokenizer, config = AutoTokenizer.from_pretrained(path), AutoConfig.from_pretrained(path, num_labels=2)
        for key, value in config.to_dict().items():
            if "drop" in key and isinstance(value, float):
                setattr(config, key, 0.0)                  # no dropout: two epochs are no danger, and runs compare better
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        config.pad_token_id = tokenizer.pad_token_id
        attention = "eager" if device == "cpu" and config.to_dict().get("hidden_size", 0) < 256 else "sdpa"   # measured, see README.md
        try:
            model = AutoModelForSequenceClassification.from_pretrained(path, config=config, dtype=torch.float32, attn_implementation=attention)
        except ValueError:                                 # an architecture without that attention
            model = AutoModelForSequenceClassification.from_pretrained(path, config=config, dtype=torch.float32)
        fresh = not (config.architectures or [""])[0].endswith("ForSequenceClassification")
        if fresh and hasattr(model, "score") and head != "random":
            rows = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).get_output_embeddings().weight
            model.score.weight.data = rows[label_word_ids(tokenizer, words)].detach().clone()
    except (OSError, ValueError) as error:
        fail(f"cannot load model {name!r}: {str(error).splitlines()[0]} Give a folder, a hub name, or one of {', '.join(sorted(os.listdir(os.path.join(ROOT, 'data', 'tinyworld', 'models'))))}")
    longest = min(getattr(config, "max_position_embeddings", None) or 1 << 20, tokenizer.model_max_length, 1024)
    return model.to(device), tokenizer, longest


def tokenise(tokenizer, rows, longest):
    """
    Every row once -> list of id lists. What is too long loses its beginning, not its end, where question and answer stand; said aloud.
    """
    ids = tokenizer([row["text"] for row in rows], truncation=False, verbose=False)["input_ids"]
    cut = sum(len(i) > longest for i in ids)
    if cut:
        print(f"note: {cut:,} of {len(rows):,} rows are longer than {longest} tokens and lose their beginning")
    special = tokenizer.cls_token_id
    return [i if len(i) <= longest else ([i[0]] if i[0] == special else []) + i[len(i) - longest + (i[0] == special):] for i in ids]


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


def fit(model, tokenizer, ids, soft_labels, args, device, target=None, after_epoch=None):
    """
    Fine-tune on soft labels.

    ids          N lists of token ids
    soft_labels  (N, 2) float32
    target       what the model is to believe, if not the labels themselves: (logits (B, 2), labels (B, 2), progress) -> (B, 2), a
                 function of the whole batch, without gradient (train_strong.py has some)
    after_epoch  called as after_epoch(epoch) with the model as it then is

    AdamW without weight decay (fp32 weights, fused), 10 % warm-up, linear decay, gradients clipped at 1. The mean over the batch may be
    taken in pieces of --micro-batch-size rows, to save memory: same gradients.
    """
    import numpy as np, torch
    from tqdm import tqdm
    rng, labels = np.random.default_rng(args.seed), torch.tensor(soft_labels, device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.0, fused=device.split(":")[0] in ("cpu", "cuda"))
    steps = math.ceil(len(ids) / args.batch_size) * args.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min((s + 1) / (0.1 * steps), 1.0, (steps - s) / (0.9 * steps)))
    micro = args.micro_batch_size or args.batch_size
    autocast = torch.autocast(device.split(":")[0], torch.bfloat16, enabled=use_bf16(args.dtype, device))
    step, lengths = 0, [len(i) for i in ids]
    with tqdm(total=steps, desc="fine-tuning", unit="step", disable=None, leave=False) as bar:
        for epoch in range(args.epochs):
            model.train()
            for batch in batches_of_like_length(lengths, args.batch_size, rng):
                pieces = [batch[k:k + micro] for k in range(0, len(batch), micro)]

                def logits(piece):
                    with autocast:
                        return classify(model, pad([ids[i] for i in piece], tokenizer, device)).float()

                believed, first = labels[batch], logits(batch) if len(pieces) == 1 else None
                if target:                                 # it looks at the whole batch, so pieces take one pass more
                    with torch.no_grad():
                        seen = first if first is not None else torch.cat([logits(piece) for piece in pieces])
                        believed = target(seen.detach(), believed, step / steps)
                for piece, believed_piece in zip(pieces, believed.split(micro)):
                    scores = first if first is not None else logits(piece)
                    (soft_xent(scores, believed_piece).sum() / len(batch)).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                step += 1
                bar.update()
            if after_epoch:
                after_epoch(epoch + 1)


def predict(model, tokenizer, ids, device, dtype="fp32", tokens=8192):
    """
    Soft labels (N, 2) float32 for N lists of ids, in their order. Batches are sorted by length and hold about `tokens` tokens; softmax in
    float32, whatever the forward pass used: in bf16 many different doubts would all be written as 0.5.
    """
    import numpy as np, torch
    from tqdm import tqdm
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    out = np.empty((len(ids), 2), dtype=np.float32)
    model.eval()
    with torch.inference_mode(), tqdm(total=len(ids), desc="labelling", unit="row", disable=None, leave=False) as bar:
        end = len(order)
        while end:                                         # longest first: if memory does not suffice, it shows at once
            start = max(0, end - max(1, tokens // len(ids[order[end - 1]])))
            rows = order[start:end]
            with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=use_bf16(dtype, device)):
                logits = classify(model, pad([ids[i] for i in rows], tokenizer, device))
            out[rows] = logits.float().softmax(-1).cpu().numpy()
            bar.update(len(rows))
            end = start
    return out


def say(name, m):
    """One line about one model: the number, its standard error, and what it is to be compared with."""
    flag = " | BELOW CHANCE: diverged?" if m["accuracy"] < m["chance"] else ""
    return (f"{name} {m['accuracy']:.3f} ±{m['se']:.3f} | AUROC {m['auroc']:.3f} | ECE {m['ece']:.3f} | "
            f"says yes {m['says_yes']:.2f} of {m['share_yes']:.2f} | chance {m['chance']:.3f} | n={m['n']:,}{flag}")


# --------------------------------------------------------------------------- the story

def positive(text):
    """argparse type: a whole number of 1 or more"""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def add_common_flags(parser, model, out, epochs):
    """The flags that every trainer spells alike."""
    parser.add_argument("--task", default="tinyworld", help="a folder of data/")
    parser.add_argument("--model", default=model, help="a shipped model, a local folder, or a hub name")
    parser.add_argument("--out", default=out, help="where to: a bare name means data/<task>/seed<seed>/<name>")
    parser.add_argument("--seed", type=int, default=0, help="order of the rows, and a random head; splits never depend on it")
    parser.add_argument("--device", default="", help="cuda|mps|cpu (default: the best there is)")
    parser.add_argument("--dtype", default="auto", choices=["auto", "fp32", "bf16"], help="bf16 = autocast over fp32 weights; auto: on GPUs that have it")
    parser.add_argument("--head", default="lm", choices=["lm", "random"], help="start of a decoder's head: the rows of its label words, or noise")
    parser.add_argument("--epochs", type=positive, default=epochs, help="passes over the training rows")
    parser.add_argument("--lr", type=float, default=1e-4, help="peak learning rate (gpt2: 5e-5, Qwen: 1e-5)")
    parser.add_argument("--batch-size", type=positive, default=32, help="rows per optimizer step")
    parser.add_argument("--micro-batch-size", type=int, default=0, help="rows per forward pass, to save memory (0 = the whole batch)")
    parser.add_argument("--max-rows", type=positive, default=None, help="use the first N rows of each split, for a quick look")
    parser.add_argument("--force", action="store_true", help="do it again though it is done")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_flags(parser, model="tiny-1a", out="weak", epochs=3)
    args = parser.parse_args()
    started = time.time()
    train1 = os.path.join(ROOT, "data", args.task, "train1.jsonl")
    rows = read_rows(args.task, "train1", args.max_rows)
    folder, config = start(args, [train1, model_folder(args.model)])

    import numpy as np, torch
    torch.manual_seed(args.seed)
    device, why = pick_device(args.device)
    print(f"device: {device} ({why})")
    model, tokenizer, longest = load_model(args.model, args.head, label_words(args.task), device)

    # a tenth of the questions chooses the epoch: whole groups, so that a question is never on both sides
    groups = np.random.default_rng(args.seed).permutation(sorted({row["group"] for row in rows}))
    held_groups = set(groups[:max(1, len(groups) // 10)])
    kept, held = [r for r in rows if r["group"] not in held_groups], [r for r in rows if r["group"] in held_groups]
    if not kept:
        fail(f"{train1}: one group is too few to train on and to choose the epoch by")
    ids, held_ids = tokenise(tokenizer, kept, longest), tokenise(tokenizer, held, longest)
    truth = np.array([[1 - row["label"], row["label"]] for row in kept], dtype=np.float32)
    print(f"data: {len(kept):,} rows of train1 to learn from ({truth[:, 1].mean():.1%} yes), {len(held):,} to choose the epoch by")
    print(f"one example, exactly as the model sees it:\n  {tokenizer.decode(ids[0])!r} -> truth {kept[0]['label']}")

    best = {"accuracy": -1.0}

    def keep_the_best(epoch):
        acc = accuracy(predict(model, tokenizer, held_ids, device, args.dtype)[:, 1], [row["label"] for row in held])
        print(f"epoch {epoch}: {acc:.3f} right of the {len(held):,} held out of train1")
        if acc > best["accuracy"]:                         # the earliest of equals
            best.update(accuracy=acc, epoch=epoch, weights={k: v.detach().clone() for k, v in model.state_dict().items()})

    fit(model, tokenizer, ids, truth, args, device, after_epoch=keep_the_best)
    model.load_state_dict(best["weights"])

    # only now is test read: to be labelled like the other splits, and to see how good the labels are
    train2, valid, test = (read_rows(args.task, split, args.max_rows) for split in ("train2", "valid", "test"))
    everything = train2 + valid + test
    soft_labels = predict(model, tokenizer, tokenise(tokenizer, everything, longest), device, args.dtype)
    scores = metrics(soft_labels[-len(test):], test)
    save_checkpoint(folder, model, tokenizer)
    write_labels(folder, everything, soft_labels)
    finish(folder, config, device, started, say("supervisor", scores), test=scores, best_epoch=best["epoch"], held_out_accuracy=best["accuracy"])


if __name__ == "__main__":
    main()
