"""
Pitfall 10: what a batch costs in memory does not grow with its micro-batches, and gradient checkpointing saves what it promises.

python -m pytest tests/test_memory.py          # 6 s: one process of its own, whose peak is read after each step
"""
import json
import resource
import subprocess
import sys
from argparse import Namespace

import conftest  # noqa: F401 (it says where the scripts are)

TOKENS = 48
STEPS = [("2 micro-batches", {"batch_size": 16, "micro_batch_size": 8}), ("16 micro-batches", {"batch_size": 128, "micro_batch_size": 8}),
         ("16 micro-batches, and a target of the whole batch", {"batch_size": 128, "micro_batch_size": 8, "target": True}),
         ("whole batch, checkpoints", {"batch_size": 128, "gradient_checkpointing": True}), ("whole batch", {"batch_size": 128})]


def peak():
    """MiB of this process. Not ru_maxrss where there is better: on Linux a process inherits that from whoever started it, and a test suite is large."""
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 ** 2
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmHWM")) / 1024


def measure():
    """One step each, smallest first, because a peak never falls. -> MiB beyond what the model and one warm-up step took"""
    import numpy as np
    import torch

    from models import load_classifier
    from train_strong import logconf
    from train_weak import batch_maker, fit, prepare_for_training, soft_label_loss
    torch.set_num_threads(1)
    peaks, rng = {}, np.random.default_rng(0)
    for name, flags in [("start", {"batch_size": 4}), *STEPS]:
        args = Namespace(**{"epochs": 1, "micro_batch_size": None, "lr": 1e-4, "seed": 0, "dtype": "fp32", "lora": None, "gradient_checkpointing": False, **flags})
        model, tokenizer, _ = load_classifier("tiny-4", "lm", [" no", " yes"], "cpu")
        model, _ = prepare_for_training(model, args)
        ids = [rng.integers(5, 500, TOKENS).tolist() for _ in range(args.batch_size)]
        make_batch = batch_maker(ids, tokenizer, "cpu", soft_labels=np.full((len(ids), 2), 0.5, np.float32))
        target_fn = logconf if "target" in flags else None
        fit(model, [TOKENS] * len(ids), make_batch, soft_label_loss, args, "cpu", target_fn=target_fn)
        peaks[name] = peak()
    return {name: peak - peaks["start"] for name, peak in peaks.items()}


def test_pitfall_10_peak_memory_does_not_grow_with_the_number_of_micro_batches():
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peaks = json.loads(done.stdout.splitlines()[-1])
    two, many, target, checkpoints, whole = (peaks[name] for name, _ in STEPS)
    assert many < two + 0.1 * whole and target < two + 0.1 * whole, peaks      # eight times the rows, hardly more memory
    assert whole > 4 * many and whole > 1.2 * checkpoints, peaks                 # and without either it would show


if __name__ == "__main__":
    print(json.dumps(measure()))
