"""
How fast the loops are, beside the plain way a user would otherwise write each. A benchmark, not a test.

$ python tests/bench.py                                          # CPU, ten minutes on two idle cores; one table
$ python tests/bench.py --cases fine-tune,label --shapes tiny    # some of it
$ python tests/bench.py --device cuda --dtype bf16               # sizes that fill a GPU (never run: no GPU was at hand)
$ MODELS=folder python tests/bench.py                            # real models too: each model's folder in `folder`

Our way and the plain way alternate in one process, on the same model and rows. The ratio is the median of the rounds'
ratios, so other load on the machine slows both. Weights are random, of the shape named; rows have SciQ's lengths (8 to
40 tokens) or are tinyworld's. The plain ways:

fine-tune    a DataLoader of shuffled rows padded to the longest in the file, default AdamW, loss.item() at each step
trainer      transformers' Trainer on the same rows, each batch padded to its longest row (pip install accelerate first,
             which nothing else here needs)
one row      our loop with --micro-batch-size 1, as openai/weak-to-strong trains by default
label        the same DataLoader in order, batches of 32, no gradient
first word   p(yes) by `generate` of 64 tokens, one prompt at a time, as released code for in-context learning does
in-context   the same with one prompt of 16 shared demonstrations at a time
generate     32 tokens, one prompt at a time
attention    our loop with attn_implementation="eager" in place of torch's fused attention
compile      our loop without torch.compile (slow to start, so not among the default cases)
lora         none: memory and seconds a step of a Llama's shape with --lora 16 --gradient-checkpointing
ensemble     three members by train_weak.py, one command after the other, against ensemble.py
open         none: the peak while a Llama's shape is opened, as a multiple of its weights in fp32 (one copy, and half
             for the bf16 file that is being read)
run.sh       the whole of it with the code of 2026-11-27, in a folder of its own (not a default case: four minutes a
             pair; both from git, so what is not committed does not count)

Each target that the project has set itself is printed at the end, met or not met.

MFU is model FLOPs utilisation: 6 FLOPs (labelling: 2) for each weight of the layers' matrices and each real token,
without attention and padding, as a share of the speed of one big matrix product in the same round. (Of the last
layer's MLP we compute one token a row, see models.skip_unread_tokens: 6 % of GPT-2's MFU is work left out.) Peak is
the memory that a case needed beyond what was in use before it (Linux or CUDA).

Needs tinyworld's rows (python data/tinyworld/prepare.py).
"""
import argparse
import ast
import copy
import ctypes
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from types import SimpleNamespace

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import numpy as np
import torch

import icl
from contract import read_labels, read_rows
from models import (
    freeze, fuse_activations, generate, keep_freed_memory, load_classifier, next_word_probs, open_language_model,
    predict)
from train_weak import batch_maker, fit, prepare_for_training, soft_label_loss, soft_xent

WORDS = [" no", " yes"]
SHAPES = {"tiny": {"n_layer": 4, "n_embd": 128, "n_head": 4, "vocab_size": 4096},
          "gpt2": {"n_layer": 12, "n_embd": 768, "n_head": 12},
          "gpt2-large": {"n_layer": 36, "n_embd": 1280, "n_head": 20}}
LLAMAS = {"llama-tiny": {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
                         "vocab_size": 4096},
          "llama-1b": {"num_hidden_layers": 22, "hidden_size": 2048, "intermediate_size": 5632,
                       "num_attention_heads": 16, "vocab_size": 32000},
          "llama-7b": {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 11008,
                       "num_attention_heads": 32, "vocab_size": 32000}}
# rows for (fine-tune, label, first word, generate); plain ways of one row at a time get a few of them
ROWS = {"tiny": (512, 2048, 512, 128), "gpt2": (320, 512, 64, 32), "gpt2-large": (4096, 16384, 2048, 512)}
NEW_TOKENS = 32                                            # of the case "generate"
CLASSIFIER_CASES = {"fine-tune", "trainer", "one row", "label", "attention", "compile"}
# (case, shape or "", dtype or "", what, bound): at least so much, of MiB and of the weights at most
TARGETS = [("trainer", "tiny", "", "ratio", 2.5), ("trainer", "gpt2", "", "ratio", 2),
           ("label", "tiny", "", "ratio", 4), ("label", "gpt2", "fp32", "ratio", 2),
           ("label", "gpt2", "bf16", "ratio", 2.5),
           *[(case, shape, dtype, "mfu", bound) for shape in ("gpt2", "real")
             for case, dtype, bound in (("fine-tune", "fp32", 0.85), ("fine-tune", "bf16", 0.65),
                                        ("label", "fp32", 0.85), ("label", "bf16", 0.7))],
           ("trainer", "real", "", "ratio", 2),
           ("first word", "", "", "ratio", 20), ("in-context", "", "", "ratio", 100), ("generate", "", "", "ratio", 6),
           ("fine-tune", "gpt2-large", "", "mfu", 0.4), ("one row", "gpt2-large", "", "ratio", 20),
           ("trainer", "gpt2-large", "", "ratio", 2), ("run.sh", "", "", "ratio", 1.5),
           ("open", "", "", "of_weights", 1.6), ("lora", "llama-7b", "", "peak_mib", 20 * 1024)]
FIRST_DAY = "ab7814c"                                      # the commit that run.sh's time is set against


# --------------------------------------------------------------------------- the plain ways

def loader(ids, labels, batch_size, shuffle, pad_token):
    width = max(map(len, ids))
    data = []
    for row, soft_label in zip(ids, labels):
        n_pad = width - len(row)
        mask = torch.tensor([1] * len(row) + [0] * n_pad)
        data.append((torch.tensor(row + [pad_token] * n_pad), mask, torch.tensor(soft_label)))
    return torch.utils.data.DataLoader(data, batch_size=batch_size, shuffle=shuffle)


def plain_fit(model, ids, labels, args, device, autocast):
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.0)
    model.train()
    total = 0.0
    for input_ids, mask, soft_labels in loader(ids, labels, args.batch_size, True, model.config.pad_token_id):
        with autocast:
            logits = model(input_ids=input_ids.to(device), attention_mask=mask.to(device)).logits.float()
        loss = soft_xent(logits, soft_labels.to(device)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        total += loss.item()


def trainer_fit(model, tokenizer, ids, labels, args, device, folder):
    """Trainer as its guide has it, with our loss and our learning rate; no evaluation, no saving, no reports."""
    import transformers
    flags = transformers.TrainingArguments(
        folder, per_device_train_batch_size=args.batch_size, num_train_epochs=args.epochs, learning_rate=args.lr,
        bf16=args.dtype == "bf16", use_cpu=device == "cpu", save_strategy="no", report_to=[], disable_tqdm=True)

    def compute_loss(outputs, soft_labels, num_items_in_batch=None):
        return soft_xent(outputs.logits.float(), soft_labels).mean()
    rows = [{"input_ids": row, "labels": soft_label.tolist()} for row, soft_label in zip(ids, labels)]
    trainer = transformers.Trainer(model, flags, train_dataset=rows, compute_loss_func=compute_loss,
                                   data_collator=transformers.DataCollatorWithPadding(tokenizer))
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()


def plain_label(model, ids, device, autocast):
    model.eval()
    probs = []
    with torch.no_grad():
        for input_ids, mask, _ in loader(ids, np.zeros((len(ids), 2), np.float32), 32, False,
                                          model.config.pad_token_id):
            with autocast:
                logits = model(input_ids=input_ids.to(device), attention_mask=mask.to(device)).logits.float()
            probs += logits.softmax(-1).tolist()
    return np.array(probs)


def generate_one_by_one(model, tokenizer, prompts, tokens, device, autocast):
    """generate, one prompt at a time -> raw logits of the first new token for (no, yes), (N, 2)"""
    words = tokenizer("A no yes", add_special_tokens=False)["input_ids"][-2:]
    logits = []
    for prompt in prompts:
        batch = tokenizer(prompt, return_tensors="pt").to(device)
        with torch.no_grad(), autocast:
            out = model.generate(**batch, do_sample=False, max_new_tokens=tokens, min_new_tokens=tokens, pad_token_id=0,
                                 output_logits=True, return_dict_in_generate=True)
        logits.append(out.logits[0][0, words].float().cpu().numpy())
    return np.array(logits)


def first_word_one_by_one(model, tokenizer, prompts, device, autocast):
    """p(no) and p(yes) of the first new token, (N, 2)"""
    logits = generate_one_by_one(model, tokenizer, prompts, 64, device, autocast)
    return torch.tensor(logits).softmax(-1).numpy()


# --------------------------------------------------------------------------- measuring

def memory(device, reset=False):
    """(peak since the last reset, in use now), MiB. Linux forgets a process's peak when 5 is written to clear_refs."""
    if device.startswith("cuda"):
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated() / 2 ** 20, torch.cuda.memory_allocated() / 2 ** 20
    try:
        if reset:
            with open("/proc/self/clear_refs", "w", encoding="utf-8") as f:
                f.write("5")
        with open("/proc/self/status", encoding="utf-8") as f:
            status = dict(line.split(":", 1) for line in f)
        return tuple(int(status[key].split()[0]) / 1024 for key in ("VmHWM", "VmRSS"))
    except OSError:
        return float("nan"), float("nan")


def timed(function, device):
    """-> (seconds, MiB of peak beyond the start, result)"""
    before = memory(device, reset=True)[1]
    started = time.perf_counter()
    result = function()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - started, memory(device)[0] - before, result


def matmul_rate(device, autocast, width):
    """FLOP/s of one product of (2048, C) and (C, 4 C), or on a GPU of three 8192s, the best of ten"""
    n_rows = 2048
    if device.startswith("cuda"):
        n_rows = width = 8192
    a = torch.randn(n_rows, width, device=device)
    b = torch.randn(width, 4 * width if n_rows == 2048 else width, device=device)
    with torch.no_grad(), autocast:
        identity = torch.eye(width, device=device)
        a = a @ identity                                   # now in the type that autocast chooses
        b = identity @ b
        return max(2 * a.shape[0] * b.numel() / timed(lambda: a @ b, device)[0] for _ in range(10))


def keep_memory(ours, device):
    """On a CPU a stage keeps the memory that it frees (models.keep_freed_memory). A plain loop has glibc's defaults."""
    if device == "cpu" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 2 ** 17)                          # M_MMAP_THRESHOLD
        libc.mallopt(-1, 2 ** 17)                          # M_TRIM_THRESHOLD
        libc.malloc_trim(0)                                # neither has what the other freed
        if ours:
            keep_freed_memory()


def compare(name, shape, ours, n, plain, n_plain, args, flops=None, width=None, autocast=None):
    """
    Rounds of our way and the plain way in turn: a row of the table is printed, and added to args.rows.

    ours, plain   functions without arguments; if both return an array, the largest difference is reported
    n, n_plain    the rows that each works on
    flops         of ours, to be set against the matmul rate; None: no MFU
    """
    rounds = []
    for _ in range(args.rounds + 1):                       # the first round warms up
        rate = matmul_rate(args.device, autocast, width) if flops else float("nan")
        keep_memory(True, args.device)
        seconds, peak, result = timed(ours, args.device)
        keep_memory(False, args.device)
        seconds_plain, peak_plain, result_plain = timed(plain, args.device)
        ratio = (n / seconds) / (n_plain / seconds_plain)
        mfu = (flops or rate) / seconds / rate
        rounds.append((n / seconds, peak, n_plain / seconds_plain, peak_plain, ratio, mfu))
    ours_rate, peak, plain_rate, peak_plain, ratio, mfu = map(statistics.median, zip(*rounds[1:] or rounds))
    difference = None
    if result is not None and result_plain is not None:
        difference = float(np.abs(np.asarray(result)[:n_plain] - np.asarray(result_plain)).max())
    row = {"case": name, "shape": shape, "rows_per_second": ours_rate, "plain": plain_rate, "ratio": ratio,
           "peak_mib": peak, "plain_peak_mib": peak_plain, "mfu": mfu if flops else None,
           "largest_difference": difference}
    args.rows.append(row)
    save(args)
    mfu_cell = f"{mfu:.0%}" if flops else ""
    difference_cell = "" if difference is None else f"{difference:.0e}"
    print(f"| {name} | {shape} | {ours_rate:,.1f} | {plain_rate:,.1f} | {ratio:.1f} | {peak:,.0f} | {peak_plain:,.0f} "
          f"| {mfu_cell} | {difference_cell} |", flush=True)


def save(args, **about):
    """What was measured so far goes to --out: a time limit may end this process."""
    if args.out:
        with open(args.out, "w", encoding="utf-8") as f:
            json.dump({"device": args.device, "dtype": args.dtype, "threads": torch.get_num_threads(),
                       "torch": torch.__version__, "rounds": args.rounds, "rows": args.rows, **about}, f, indent=1)


def print_targets(rows, dtype):
    """Which of TARGETS were measured and met. -> list of lines"""
    lines = []
    for case, shape, of_dtype, what, bound in TARGETS:
        for row in rows:
            kind = "real" if row["shape"] not in {*SHAPES, *LLAMAS} else row["shape"]
            if row["case"] == case and shape in ("", kind) and of_dtype in ("", dtype) and row.get(what):
                at_most = what in ("peak_mib", "of_weights")
                met = "met" if (row[what] <= bound if at_most else row[what] >= bound) else "not met"
                lines.append(f"target: {case}, {row['shape']}, {dtype}: {what} {row[what]:.2f}, "
                             f"{'at most' if at_most else 'at least'} {bound}: {met}")
    print("\n".join(lines))
    return lines


# --------------------------------------------------------------------------- the cases

def gpt2_config(shape):
    import transformers
    return transformers.GPT2Config(**SHAPES[shape], n_positions=512, pad_token_id=0, bos_token_id=0, eos_token_id=0,
                                   num_labels=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)


def random_rows(n):
    """-> n lists of token ids with SciQ's lengths, and soft labels (n, 2)"""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(3, 0.35, n), 8, 40).astype(int)
    ids = [rng.integers(5, 4000, length).tolist() for length in lengths]
    p_yes = rng.random(n).astype(np.float32)
    return ids, np.stack([1 - p_yes, p_yes], 1)


def open_for_training(shape, device, **config_changes):
    """A classifier of random weights, or a real one from $MODELS -> (model, tokenizer)"""
    import transformers
    if shape not in SHAPES:
        return load_classifier(os.path.join(os.environ["MODELS"], shape), "random", WORDS, device)[:2]
    config = gpt2_config(shape)
    config._attn_implementation = config_changes.get("attention", "sdpa")
    return transformers.GPT2ForSequenceClassification(config).to(device), open_language_model("tiny-4", "cpu")[1]


def count_matrix_weights(model):
    """The weights that every token is multiplied with: the layers' matrices, not embeddings and head"""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    return sum(p.numel() for p in model.base_model.parameters() if p.dim() == 2 and id(p) not in embeddings)


def bench_classifier(shape, cases, args, autocast):
    """Labelling and fine-tuning, with a classifier of one shape."""
    device = args.device
    n_fit, n_label = (max(8, int(n * args.scale)) for n in ROWS.get(shape, ROWS["gpt2"])[:2])
    n_few = max(8, n_fit // 64)
    ids, labels = random_rows(max(n_fit, n_label))
    fit_ids = ids[:n_fit]
    fit_labels = labels[:n_fit]
    label_ids = ids[:n_label]
    model, tokenizer = open_for_training(shape, device)
    plain_model = copy.deepcopy(model)                     # as transformers makes it
    fuse_activations(model)
    width = model.config.hidden_size
    fit_flops = 6 * count_matrix_weights(model) * sum(map(len, fit_ids))
    label_flops = 2 * count_matrix_weights(model) * sum(map(len, label_ids))
    fit_args = SimpleNamespace(seed=0, lr=1e-5, epochs=1, batch_size=32 if device == "cpu" else 256,
                               micro_batch_size=None, dtype=args.dtype)
    one_row_args = SimpleNamespace(**{**vars(fit_args), "batch_size": 32, "micro_batch_size": 1})

    def our_fit(model=model, n=n_fit, fit_args=fit_args):
        make_batch = batch_maker(fit_ids[:n], tokenizer, device, soft_labels=fit_labels[:n])
        fit(model, [len(i) for i in fit_ids[:n]], make_batch, soft_label_loss, fit_args, device)

    def our_label():
        return predict(model, tokenizer, label_ids, device, args.dtype)

    def against(name, plain, n_plain=n_fit, ours=our_fit):
        compare(name, shape, ours, n_fit, plain, n_plain, args, fit_flops, width, autocast)
    if "label" in cases:
        compare("label", shape, our_label, n_label, lambda: plain_label(plain_model, label_ids, device, autocast),
                n_label, args, label_flops, width, autocast)
    if "fine-tune" in cases:
        against("fine-tune", lambda: plain_fit(plain_model, fit_ids, fit_labels, fit_args, device, autocast))
    if "one row" in cases:
        against("one row", lambda: our_fit(n=n_few, fit_args=one_row_args), n_few)
    if "trainer" in cases and importlib.util.find_spec("accelerate") is None:
        print("trainer: needs the package accelerate")
    elif "trainer" in cases:
        with tempfile.TemporaryDirectory() as folder:
            against("trainer",
                    lambda: trainer_fit(plain_model, tokenizer, fit_ids, fit_labels, fit_args, device, folder))
    if "attention" in cases and shape in SHAPES:
        eager = fuse_activations(open_for_training(shape, device, attention="eager")[0])
        against("attention", lambda: our_fit(eager))
    if "compile" in cases and shape in SHAPES:
        compiled = fuse_activations(open_for_training(shape, device)[0])
        compiled.base_model.compile(dynamic=True)
        against("compile", our_fit, ours=lambda: our_fit(compiled))


def bench_language_model(shape, cases, args, autocast):
    """First words and generation, with a language model of one shape."""
    import transformers
    device = args.device
    n_word, n_generate = (max(8, int(n * args.scale)) for n in ROWS.get(shape, ROWS["gpt2"])[2:])
    if shape in SHAPES:
        model = transformers.GPT2LMHeadModel(gpt2_config(shape)).to(device).eval()
        tokenizer = open_language_model("tiny-4", "cpu")[1]
    else:
        model, tokenizer, _ = open_language_model(os.path.join(os.environ["MODELS"], shape), device)
        tokenizer.chat_template = None                     # its words as they stand, on both sides
    texts = [row["text"] for row in read_rows("tinyworld", "test")]
    texts = [texts[i % len(texts)] for i in range(max(n_word, n_generate))]
    word_texts = texts[:n_word]
    few_word_texts = texts[:max(1, min(8, n_word // 8))]
    generate_texts = texts[:n_generate]
    few_generate_texts = texts[:max(1, min(8, n_generate // 8))]
    model.generation_config.eos_token_id = None            # a text must not end by chance

    def our_first_word():
        return next_word_probs(model, tokenizer, word_texts, WORDS, device, 512, args.dtype)

    def our_generate():
        generate(model, tokenizer, generate_texts, device, 512, NEW_TOKENS, [], dtype=args.dtype)

    def plain_generate():
        generate_one_by_one(model, tokenizer, few_generate_texts, NEW_TOKENS, device, autocast)

    if "first word" in cases:
        compare("first word", shape, our_first_word, n_word,
                lambda: first_word_one_by_one(model, tokenizer, few_word_texts, device, autocast),
                len(few_word_texts), args)
    if "generate" in cases:
        compare("generate", shape, our_generate, n_generate, plain_generate, len(few_generate_texts), args)


def bench_shape(shape, cases, args):
    """Fine-tuning, labelling, first words and generation with a model of one shape."""
    autocast = torch.autocast(args.device.split(":")[0], torch.bfloat16, enabled=args.dtype == "bf16")
    torch.manual_seed(0)
    if CLASSIFIER_CASES & cases:
        bench_classifier(shape, cases, args, autocast)
    if {"first word", "generate"} & cases and "minilm" not in shape:           # an encoder writes nothing
        bench_language_model(shape, cases, args, autocast)


def bench_lora(shape, args):
    """
    Peak memory and seconds a step of a Llama of random weights with --lora 16 --gradient-checkpointing, frozen in bf16.
    Without peft its norms and head are trained: as much memory and time but for the adapters.
    """
    import transformers
    device = args.device
    config = transformers.LlamaConfig(**LLAMAS[shape], num_labels=2, pad_token_id=0, bos_token_id=0, eos_token_id=0)
    before = memory(device, reset=True)[1]
    with torch.device(device):
        model = transformers.AutoModelForSequenceClassification.from_config(config, dtype=torch.bfloat16)
    freeze(model)
    for p in model.parameters():
        p.requires_grad_(p.dim() == 1 or p is model.score.weight)
    adapters = importlib.util.find_spec("peft") is not None
    flags = SimpleNamespace(seed=0, lr=1e-4, epochs=1, batch_size=32, micro_batch_size=8, dtype="bf16",
                            lora=16 if adapters else None, gradient_checkpointing=True)
    model, _ = prepare_for_training(model, flags)
    n_tokens = 128
    ids = [np.random.default_rng(k).integers(5, 4000, n_tokens).tolist() for k in range(64)]
    make_batch = batch_maker(ids, open_language_model("tiny-4", "cpu")[1], device, soft_labels=np.full((64, 2), 0.5))
    seconds = timed(lambda: fit(model, [n_tokens] * 64, make_batch, soft_label_loss, flags, device), device)[0]
    peak = memory(device)[0] - before
    n_weights = sum(p.numel() for p in model.parameters())
    trained = "adapters of rank 16" if adapters else "no peft: norms and head"
    print(f"lora: {shape} of {n_weights:,} weights, {trained}, 32 rows of {n_tokens} tokens: {peak / 1024:.1f} GiB at "
          f"most, {seconds / 2:.2f} seconds a step", flush=True)
    args.rows.append({"case": "lora", "shape": shape, "weights": n_weights, "adapters": adapters, "peak_mib": peak,
                      "seconds_per_step": seconds / 2})
    save(args)


def bench_in_context(args):
    """The shipped tiny-4, 16 demonstrations that all prompts share."""
    model, tokenizer, max_length = open_language_model("tiny-4", args.device)
    test = read_rows("tinyworld", "test")
    pool = sorted(read_rows("tinyworld", "train2"), key=lambda row: row["id"])
    answers = read_labels(os.path.join(ROOT, "data", "tinyworld", "truth"), pool)[:, 1] > 0.5
    shown = icl.sample_per_class(answers, 16, np.random.default_rng(0))
    sheet = [icl.format_demonstration(pool[i]["text"], WORDS[int(answers[i])]) for i in shown]
    texts = [row["text"] for row in test][:max(16, int(len(test) * args.scale))]
    n_plain = max(1, int(16 * min(1, args.scale)))
    prompts = [icl.build_prompt(tokenizer, sheet, text, WORDS) for text in texts[:n_plain]]
    autocast = torch.autocast(args.device.split(":")[0], enabled=False)

    def ours():
        return icl.predict_in_context(model, tokenizer, [sheet], texts, WORDS, args.device, max_length)[0]

    def plain():
        return first_word_one_by_one(model, tokenizer, prompts, args.device, autocast)
    compare("in-context", "tiny-4", ours, len(texts), plain, n_plain, args)


def bench_ensemble(args):
    """Whole commands, imports, labelling and files included; the rows are those that members are trained on."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--device", args.device, "--max-rows", "400", "--epochs", "1", "--force"]

        def command(*words):
            subprocess.run([sys.executable, *words, *flags], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)

        def ours():
            command("ensemble.py", "--members", "3", "--out", folder + "/ensemble")

        def plain():
            for k in range(3):
                command("train_weak.py", "--seed", str(k), "--out", f"{folder}/weak{k}")
        compare("ensemble", "3 of tiny-1a", ours, 3 * 400, plain, 3 * 400, args)


def bench_opening(args):
    """A process of its own, since this one keeps the memory that it frees."""
    with tempfile.TemporaryDirectory() as folder:
        code = f"import sys; sys.path[:0] = '.', 'tests'; import test_memory as t; print(t.measure_opening({folder!r}))"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    mib = ast.literal_eval(done.stdout.splitlines()[-1])
    row = {"case": "open", "shape": "llama", "of_weights": mib["peak"] / mib["weights"]}
    args.rows.append(row)
    save(args)
    print(f"open: a Llama of {mib['weights']:.0f} MiB in fp32 needs {mib['peak']:.0f} MiB at most", flush=True)


def bench_run(args):
    """run.sh from end to end, each in a fresh copy of its commit, on all cores that this process may use"""
    with tempfile.TemporaryDirectory() as folder:
        def run(commit):
            tree = os.path.join(folder, commit)
            os.makedirs(tree, exist_ok=True)
            subprocess.run(f"git archive {commit} | tar x -C {tree}", shell=True, cwd=ROOT, check=True)
            subprocess.run(["bash", "run.sh", "--force"], cwd=tree, check=True, stdout=subprocess.DEVNULL)
        compare("run.sh", "tinyworld", lambda: run("HEAD"), 1, lambda: run(FIRST_DAY), 1, args)


def main():
    names = ["fine-tune", "one row", "label", "first word", "generate", "in-context", "attention", "ensemble", "open"]
    if importlib.util.find_spec("accelerate") is not None:
        names.insert(1, "trainer")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu|cuda")
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16"],
                        help="of both ways; bf16 is autocast over fp32 weights")
    parser.add_argument("--cases", default=",".join(names), help="of the default, compile, lora, run.sh; with commas")
    parser.add_argument("--shapes", default="",
                        help=f"of {', '.join(SHAPES)} (default: tiny,gpt2 on CPU, gpt2-large on a GPU), and names in "
                             "$MODELS")
    parser.add_argument("--llama", default="llama-1b", choices=list(LLAMAS), help="the shape of the case lora")
    parser.add_argument("--rounds", type=int, default=3, help="after one that warms up")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the rows, for a quick look")
    parser.add_argument("--out", default="", help="where the numbers go as JSON (default: nowhere)")
    args = parser.parse_args()
    started = time.time()
    cases = set(args.cases.split(","))
    shapes = (args.shapes or ("tiny,gpt2" if args.device == "cpu" else "gpt2-large")).split(",")
    if "MODELS" in os.environ and not args.shapes:
        shapes += sorted(os.listdir(os.environ["MODELS"]))
    print("| case | shape | rows/s | plain way | ratio | peak MiB | plain | MFU | largest difference |\n"
          "|---|---|---|---|---|---|---|---|---|")
    args.rows = []
    for shape in shapes:
        bench_shape(shape, cases, args)
    if "in-context" in cases:
        bench_in_context(args)
    if "ensemble" in cases:
        bench_ensemble(args)
    if "lora" in cases:
        bench_lora(args.llama, args)
    if "open" in cases:
        bench_opening(args)
    if "run.sh" in cases:
        bench_run(args)
    seconds = round(time.time() - started)
    save(args, seconds=seconds, targets=print_targets(args.rows, args.dtype))
    print(f"{seconds} seconds, {args.device}, {args.dtype}, {torch.get_num_threads()} threads, "
          f"torch {torch.__version__}")


if __name__ == "__main__":
    main()
