"""
Pitfall 10: memory does not grow with the number of micro-batches, and gradient checkpointing saves memory.

python -m pytest tests/test_memory.py          # 6 s: one process of its own, whose peak is read after each step
"""
import json
import resource
import subprocess
import sys
from argparse import Namespace

import conftest  # noqa: F401 (it says where the scripts are)

N_TOKENS = 48
STEPS = {"2 micro-batches": {"batch_size": 16, "micro_batch_size": 8},
         "16 micro-batches": {"batch_size": 128, "micro_batch_size": 8},
         "16 micro-batches, and a target of the whole batch": {"batch_size": 128, "micro_batch_size": 8},
         "whole batch, checkpoints": {"batch_size": 128, "gradient_checkpointing": True},
         "whole batch": {"batch_size": 128}}


def peak_memory():
    """
    The peak of this process so far, in MiB. On Linux a process inherits ru_maxrss from the process that started it, and
    a test suite is large, so /proc is read there.
    """
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 ** 2
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmHWM")) / 1024


def measure():
    """One training step each, smallest first, because a peak never falls. -> {name: MiB beyond a warm-up step's}"""
    import numpy as np
    import torch

    from models import load_classifier
    from train_strong import logconf
    from train_weak import batch_maker, fit, prepare_for_training, soft_label_loss
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    defaults = {"epochs": 1, "micro_batch_size": None, "lr": 1e-4, "seed": 0, "dtype": "fp32", "lora": None,
                "gradient_checkpointing": False}
    peaks = {}
    for name, flags in {"warm-up": {"batch_size": 4}, **STEPS}.items():
        args = Namespace(**{**defaults, **flags})
        model, tokenizer, _ = load_classifier("tiny-4", "lm", [" no", " yes"], "cpu")
        model, _ = prepare_for_training(model, args)
        ids = [rng.integers(5, 500, N_TOKENS).tolist() for _ in range(args.batch_size)]
        make_batch = batch_maker(ids, tokenizer, "cpu", soft_labels=np.full((len(ids), 2), 0.5, np.float32))
        target_fn = logconf if "target" in name else None
        fit(model, [N_TOKENS] * len(ids), make_batch, soft_label_loss, args, "cpu", target_fn=target_fn)
        peaks[name] = peak_memory()
    return {name: peak - peaks["warm-up"] for name, peak in peaks.items()}


def test_pitfall_10_peak_memory_does_not_grow_with_the_number_of_micro_batches():
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peaks = json.loads(done.stdout.splitlines()[-1])
    two, many, target, checkpoints, whole = (peaks[name] for name in STEPS)
    assert many < two + 0.1 * whole, peaks                 # eight times the rows, hardly more memory
    assert target < two + 0.1 * whole, peaks
    assert whole > 4 * many, peaks                         # without micro-batches memory does grow
    assert whole > 1.2 * checkpoints, peaks


if __name__ == "__main__":
    print(json.dumps(measure()))
