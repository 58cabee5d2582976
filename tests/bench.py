"""
In-context scoring against a plain loop that calls `generate` for one prompt at a time, as released code does: rows per second, same process,
same prompts, same verdicts.

$ python tests/bench.py            # a benchmark, not a test: three alternating rounds, medians

Needs tinyworld's rows (python data/tinyworld/prepare.py). Other loops will be measured here too.
"""
import os
import statistics
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np
import torch

import icl
from contract import ROOT, read_labels, read_rows
from prompting import open_language_model

WORDS = [" no", " yes"]


def sheets_for(kind, shots, pool, says, test):
    """One list of demonstrations for all rows (shared), or one for each by bm25."""
    if kind == "shared":
        chosen = icl.per_class(says, shots, np.random.default_rng(0))[None]
    else:
        chosen = icl.most_similar(icl.bm25([row["text"] for row in test], [row["text"] for row in pool]), shots)
    return [[icl.demonstration(pool[i]["text"], WORDS[int(says[i])]) for i in some] for some in chosen]


def loop(model, tokenizer, sheets, texts, longest, max_new_tokens, to_the_end=False):
    """
    One prompt at a time: tokenise, generate, read the verdict off the text. -> said yes, (N,)

    to_the_end   write all the tokens, as a model does that does not know when to stop (a base model of the hub; tiny-4 ends its documents)
    """
    said = []
    for i, text in enumerate(texts):
        lines = sheets[i % len(sheets)]
        batch = tokenizer(icl.fill(tokenizer, lines, text, WORDS), return_tensors="pt")
        width = batch["input_ids"].shape[1]
        n = min(max_new_tokens, longest - width)
        with torch.inference_mode():
            out = model.generate(**batch, do_sample=False, max_new_tokens=n, min_new_tokens=n if to_the_end else None, pad_token_id=tokenizer.pad_token_id)
        said.append(tokenizer.decode(out[0, width:]).startswith(WORDS[1]))
    return np.array(said)


def rows_per_second(function, n):
    started = time.time()
    result = function()
    return n / (time.time() - started), result


def main(rounds=3, n_slow=60):
    model, tokenizer, longest = open_language_model("tiny-4", "cpu")
    test, pool = read_rows("tinyworld", "test"), sorted(read_rows("tinyworld", "train2"), key=lambda row: row["id"])
    says, texts = read_labels(os.path.join(ROOT, "data", "tinyworld", "truth"), pool)[:, 1] > 0.5, [row["text"] for row in test]
    for kind, shots in (("shared", 16), ("own", 5)):
        sheets = sheets_for(kind, shots, pool, says, test)
        rates = {}
        for _ in range(rounds):
            for name, tokens, to_the_end in (("generate(64)", 64, False), ("generate(64), never stops", 64, True), ("generate(1)", 1, False)):
                rate, said = rows_per_second(lambda: loop(model, tokenizer, sheets, texts[:n_slow], longest, tokens, to_the_end), n_slow)
                rates.setdefault(name, []).append(rate)
            rate, (soft, _) = rows_per_second(lambda: icl.judge_after(model, tokenizer, sheets, texts, WORDS, "cpu", longest), len(texts))
            rates.setdefault("icl.py", []).append(rate)
        same = np.mean(said == (soft[:n_slow, 1] > 0.5))
        middle = {name: statistics.median(r) for name, r in rates.items()}
        print(f"{kind} demonstrations, {shots} shots: " + " | ".join(f"{name} {r:,.1f} rows/s (1/{middle['icl.py'] / r:.0f})" for name, r in middle.items())
              + f" | same verdict on {same:.0%} of {n_slow}", flush=True)


if __name__ == "__main__":
    main()
