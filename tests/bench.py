"""
How fast the loops are, next to the plain way a user would otherwise write each. A benchmark, not a test.

$ python tests/bench.py                                             # CPU, five minutes on two idle cores; one table
$ python tests/bench.py --cases fine-tune,label --shapes tiny       # some of it
$ python tests/bench.py --device cuda --dtype bf16                  # sizes that fill a GPU (never run: no GPU was at hand)

Ours and the plain way take turns in one process, on the same model and rows; the ratio is the median of the rounds' ratios, so what else the
machine does hits both. Weights are random, of the shape named; rows have SciQ's lengths (8 to 40 tokens) or are tinyworld's. The plain ways:

fine-tune    a DataLoader of shuffled rows padded to the longest in the file, AdamW as it comes, loss.item() at each step
trainer      transformers' Trainer on the same rows, each batch padded to its longest (pip install accelerate first, which nothing else here needs)
label        the same DataLoader in order, batches of 32, no gradient
first word   p(yes) by `generate` of one token, one prompt at a time
generate     32 tokens, one prompt at a time
in-context   `generate` of one token, one prompt of 16 shared demonstrations at a time
ensemble     three members by train_weak.py, one command after the other, against ensemble.py

MFU is model FLOPs utilisation: 6 FLOPs (labelling: 2) a weight of the layers' matrices and real token, attention and padding not counted, as a
share of what one big matrix product reached in the same round. Peak is the memory a case needed beyond what was there before (Linux or CUDA).

Needs tinyworld's rows (python data/tinyworld/prepare.py).
"""
import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import numpy as np
import torch

import icl
from contract import read_labels, read_rows
from models import generate, next_word_probs, open_language_model, predict
from train_weak import batch_maker, fit, soft_label_loss, soft_xent

WORDS = [" no", " yes"]
SHAPES = {"tiny": {"n_layer": 4, "n_embd": 128, "n_head": 4, "vocab_size": 4096}, "gpt2": {"n_layer": 12, "n_embd": 768, "n_head": 12},
          "gpt2-large": {"n_layer": 36, "n_embd": 1280, "n_head": 20}}
# rows for (fine-tune, label, first word, generate); the plain way of the last two gets an eighth of them
ROWS = {"tiny": (512, 2048, 512, 128), "gpt2": (96, 256, 64, 32), "gpt2-large": (4096, 16384, 2048, 512)}
WRITTEN = 32                                               # tokens


# --------------------------------------------------------------------------- the plain ways

def loader(ids, labels, batch_size, shuffle):
    width = max(map(len, ids))
    data = [(torch.tensor(i + [0] * (width - len(i))), torch.tensor([1] * len(i) + [0] * (width - len(i))), torch.tensor(soft)) for i, soft in zip(ids, labels)]
    return torch.utils.data.DataLoader(data, batch_size=batch_size, shuffle=shuffle)


def plain_fit(model, ids, labels, args, device, autocast):
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.0)
    model.train()
    total = 0.0
    for input_ids, mask, soft in loader(ids, labels, args.batch_size, True):
        with autocast:
            logits = model(input_ids=input_ids.to(device), attention_mask=mask.to(device)).logits.float()
        loss = soft_xent(logits, soft.to(device)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        total += loss.item()


def trainer_fit(model, tokenizer, ids, labels, args, device, folder):
    """Trainer as its guide has it, with our loss and our learning rate; no evaluation, no saving, no reports."""
    import transformers
    flags = transformers.TrainingArguments(folder, per_device_train_batch_size=args.batch_size, num_train_epochs=args.epochs, learning_rate=args.lr,
                                           bf16=args.dtype == "bf16", use_cpu=device == "cpu", save_strategy="no", report_to=[], disable_tqdm=True)
    rows = [{"input_ids": i, "labels": soft.tolist()} for i, soft in zip(ids, labels)]
    trainer = transformers.Trainer(model, flags, train_dataset=rows, data_collator=transformers.DataCollatorWithPadding(tokenizer),
                                   compute_loss_func=lambda out, soft, num_items_in_batch=None: soft_xent(out.logits.float(), soft).mean())
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()


def plain_label(model, ids, device, autocast):
    model.eval()
    found = []
    with torch.no_grad():
        for input_ids, mask, _ in loader(ids, np.zeros((len(ids), 2), np.float32), 32, False):
            with autocast:
                logits = model(input_ids=input_ids.to(device), attention_mask=mask.to(device)).logits.float()
            found += logits.softmax(-1).tolist()
    return np.array(found)


def one_by_one(model, tokenizer, prompts, tokens, device, autocast):
    """generate, one prompt at a time -> raw scores of the first new token for (no, yes), (N, 2)"""
    words = tokenizer("A no yes", add_special_tokens=False)["input_ids"][-2:]
    found = []
    for prompt in prompts:
        batch = tokenizer(prompt, return_tensors="pt").to(device)
        with torch.no_grad(), autocast:
            out = model.generate(**batch, do_sample=False, max_new_tokens=tokens, min_new_tokens=tokens, pad_token_id=0, output_logits=True,
                                 return_dict_in_generate=True)
        found.append(out.logits[0][0, words].float().cpu().numpy())
    return np.array(found)


# --------------------------------------------------------------------------- measuring

def memory(device, reset=False):
    """Peak since the last reset, and what is used now, MiB. Linux forgets a process's peak when 5 is written to clear_refs."""
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
    """FLOP/s of one product of (2048, C) and (C, 4 C), the best of ten"""
    a, b = torch.randn(2048, width, device=device), torch.randn(width, 4 * width, device=device)
    with torch.no_grad(), autocast:
        a, b = (a @ torch.eye(width, device=device)), (torch.eye(width, device=device) @ b)        # in the type that autocast chooses
        return max(2 * a.shape[0] * b.numel() / timed(lambda: a @ b, device)[0] for _ in range(10))


def compare(name, shape, ours, n, plain, n_plain, args, flops=None, width=None, autocast=None):
    """Rounds of ours and the plain way in turn -> a row of the table. flops: of ours, if they are to be set against the matmul rate."""
    found = []
    for _ in range(args.rounds + 1):                       # the first round warms up
        rate = matmul_rate(args.device, autocast, width) if flops else float("nan")
        seconds, peak, a = timed(ours, args.device)
        seconds_plain, peak_plain, b = timed(plain, args.device)
        found.append((n / seconds, peak, n_plain / seconds_plain, peak_plain, (n / seconds) / (n_plain / seconds_plain), (flops or rate) / seconds / rate))
    ours_rate, peak, plain_rate, peak_plain, ratio, mfu = (statistics.median(column) for column in zip(*found[1:] or found))
    apart = float(np.abs(np.asarray(a)[:n_plain] - np.asarray(b)).max()) if a is not None and b is not None else None
    row = {"case": name, "shape": shape, "rows_per_second": ours_rate, "plain": plain_rate, "ratio": ratio, "peak_mib": peak, "plain_peak_mib": peak_plain,
           "mfu": mfu if flops else None, "largest_difference": apart}
    print(f"| {name} | {shape} | {ours_rate:,.1f} | {plain_rate:,.1f} | {ratio:.1f} | {peak:,.0f} | {peak_plain:,.0f} | {f'{mfu:.0%}' if flops else ''} | "
          f"{'' if apart is None else f'{apart:.0e}'} |", flush=True)
    return row


# --------------------------------------------------------------------------- the cases

def bench_shape(shape, cases, args):
    """Fine-tuning, labelling, first words and generation with a model of one shape."""
    from types import SimpleNamespace

    import transformers
    n_fit, n_label, n_word, n_write = (max(8, int(n * args.scale)) for n in ROWS[shape])
    device, rng = args.device, np.random.default_rng(0)
    autocast = torch.autocast(device.split(":")[0], torch.bfloat16, enabled=args.dtype == "bf16")
    torch.manual_seed(0)
    tokenizer = open_language_model("tiny-4", "cpu")[1]
    config = transformers.GPT2Config(**SHAPES[shape], n_positions=512, pad_token_id=0, bos_token_id=0, eos_token_id=0, num_labels=2, resid_pdrop=0.0,
                                     embd_pdrop=0.0, attn_pdrop=0.0)
    ids = [rng.integers(5, 4000, n).tolist() for n in np.clip(rng.lognormal(3, 0.35, max(n_fit, n_label)), 8, 40).astype(int)]
    p = rng.random(len(ids)).astype(np.float32)
    labels, rows = np.stack([1 - p, p], 1), []
    if {"fine-tune", "trainer", "label"} & cases:
        model = transformers.GPT2ForSequenceClassification(config).to(device)
        weights = sum(w.numel() for name, w in model.named_parameters() if w.dim() == 2 and ".h." in name)
        how = SimpleNamespace(seed=0, lr=1e-5, epochs=1, batch_size=32 if device == "cpu" else 256, micro_batch_size=None, dtype=args.dtype)
        tokens = [sum(map(len, ids[:n])) for n in (n_fit, n_label)]

        def our_fit():
            make_batch = batch_maker(ids[:n_fit], tokenizer, device, soft_labels=labels[:n_fit])
            fit(model, [len(i) for i in ids[:n_fit]], make_batch, soft_label_loss, how, device)
        if "label" in cases:
            rows.append(compare("label", shape, lambda: predict(model, tokenizer, ids[:n_label], device, args.dtype), n_label,
                                lambda: plain_label(model, ids[:n_label], device, autocast), n_label, args, 2 * weights * tokens[1], config.n_embd, autocast))
        if "fine-tune" in cases:
            rows.append(compare("fine-tune", shape, our_fit, n_fit,
                                lambda: plain_fit(model, ids[:n_fit], labels[:n_fit], how, device, autocast), n_fit, args, 6 * weights * tokens[0],
                                config.n_embd, autocast))
        if "trainer" in cases:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(compare("trainer", shape, our_fit, n_fit,
                                    lambda: trainer_fit(model, tokenizer, ids[:n_fit], labels[:n_fit], how, device, folder), n_fit, args,
                                    6 * weights * tokens[0], config.n_embd, autocast))
    if {"first word", "generate"} & cases:
        model = transformers.GPT2LMHeadModel(config).to(device).eval()
        texts = [row["text"] for row in read_rows("tinyworld", "test")]
        texts = [texts[i % len(texts)] for i in range(max(n_word, n_write))]
        if "first word" in cases:
            few = texts[:n_word // 8]
            rows.append(compare("first word", shape, lambda: next_word_probs(model, tokenizer, texts[:n_word], WORDS, device, 512, args.dtype), n_word,
                                lambda: torch.tensor(one_by_one(model, tokenizer, few, 1, device, autocast)).softmax(-1).numpy(), len(few), args))
        if "generate" in cases:
            few = texts[:n_write // 8]
            model.generation_config.eos_token_id = None    # a model of random weights must not stop by chance
            rows.append(compare("generate", shape, lambda: generate(model, tokenizer, texts[:n_write], device, 512, WRITTEN, [], dtype=args.dtype) and None,
                                n_write, lambda: one_by_one(model, tokenizer, few, WRITTEN, device, autocast) is None, len(few), args))
    return rows


def bench_in_context(args):
    """The shipped tiny-4, 16 demonstrations that all prompts share."""
    model, tokenizer, max_length = open_language_model("tiny-4", args.device)
    test, pool = read_rows("tinyworld", "test"), sorted(read_rows("tinyworld", "train2"), key=lambda row: row["id"])
    says = read_labels(os.path.join(ROOT, "data", "tinyworld", "truth"), pool)[:, 1] > 0.5
    shown = icl.sample_per_class(says, 16, np.random.default_rng(0))
    sheet = [icl.format_demonstration(pool[i]["text"], WORDS[int(says[i])]) for i in shown]
    texts, n = [row["text"] for row in test], 40
    autocast = torch.autocast(args.device.split(":")[0], enabled=False)
    prompts = [icl.build_prompt(tokenizer, sheet, text, WORDS) for text in texts[:n]]
    return compare("in-context", "tiny-4", lambda: icl.predict_in_context(model, tokenizer, [sheet], texts, WORDS, args.device, max_length)[0], len(texts),
                   lambda: torch.tensor(one_by_one(model, tokenizer, prompts, 1, args.device, autocast)).softmax(-1).numpy(), n, args)


def bench_ensemble(args):
    """Whole commands, imports, labelling and files included; rows are those that members are trained on."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--device", args.device, "--max-rows", "400", "--epochs", "1", "--force"]

        def command(*words):
            subprocess.run([sys.executable, *words, *flags], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return compare("ensemble", "3 of tiny-1a", lambda: command("ensemble.py", "--members", "3", "--out", folder + "/ensemble"), 3 * 400,
                       lambda: [command("train_weak.py", "--seed", str(k), "--out", f"{folder}/weak{k}") for k in range(3)] and None, 3 * 400, args)


def main():
    names = ["fine-tune", *["trainer"] * (importlib.util.find_spec("accelerate") is not None), "label", "first word", "generate", "in-context", "ensemble"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu|cuda")
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16"], help="both ways; bf16 is autocast over fp32 weights")
    parser.add_argument("--cases", default=",".join(names), help="which")
    parser.add_argument("--shapes", default="", help=f"of {', '.join(SHAPES)} (default: tiny,gpt2 on CPU, gpt2-large on a GPU)")
    parser.add_argument("--rounds", type=int, default=3, help="after one that warms up")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the rows, for a quick look")
    parser.add_argument("--out", default="", help="where the numbers go as JSON (default: nowhere)")
    args = parser.parse_args()
    cases, started = set(args.cases.split(",")), time.time()
    print("| case | shape | rows/s | plain way | ratio | peak MiB | plain | MFU | largest difference |\n|---|---|---|---|---|---|---|---|---|")
    rows = []
    for shape in (args.shapes or ("tiny,gpt2" if args.device == "cpu" else "gpt2-large")).split(","):
        rows += bench_shape(shape, cases, args)
    rows += [bench(args) for name, bench in (("in-context", bench_in_context), ("ensemble", bench_ensemble)) if name in cases]
    about = {"device": args.device, "dtype": args.dtype, "threads": torch.get_num_threads(), "torch": torch.__version__, "rounds": args.rounds,
             "seconds": round(time.time() - started), "rows": rows}
    print(f"{about['seconds']} seconds, {args.device}, {args.dtype}, {about['threads']} threads, torch {torch.__version__}")
    if args.out:
        with open(args.out, "w", encoding="utf-8") as f:
            json.dump(about, f, indent=1)


if __name__ == "__main__":
    main()
