"""
Pitfall 10: memory does not grow with the number of micro-batches, and gradient checkpointing saves memory. A model is
opened without a second copy, and frozen in bf16 it takes what docs/scaling.md computes.

python -m pytest tests/test_memory.py          # 4 s: two processes, whose peaks are read after each step
"""
import ctypes
import json
import os
import platform
import resource
import sys
from argparse import Namespace

import pytest

import conftest
import warm

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


def forget_peak():
    """Linux: from now on the peak is that of what follows. -> the memory in use, MiB"""
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")
    return peak_memory()


def measure_opening(folder):
    """
    A Llama of 14 M weights, a third of them in its language model's head, is opened for fine-tuning.

    returns   MiB: {"peak": beyond what was in use before, "weights": of the classifier in fp32, "frozen": in bf16,
              "computed": 2 bytes for each weight of a matrix, 4 for all others}
    """
    import transformers

    from models import load_classifier, open_language_model
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(-3, 2 ** 16)             # no freed tensor is kept, which could hide a second copy
    words = [" no", " yes"]
    tokenizer = open_language_model("tiny-4", "cpu")[1]
    sizes = {"vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2,
             "num_attention_heads": 4, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, tie_word_embeddings=False))
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    del model
    load_classifier(folder, "random", words, "cpu")        # imports this architecture
    before = forget_peak()
    classifier = load_classifier(folder, "lm", words, "cpu")[0]
    peak = peak_memory() - before
    frozen = load_classifier(folder, "lm", words, "cpu", Namespace(dtype="bf16", lora=1))[0]
    forget_peak()
    n_matrices = 2 * (4 * 512 ** 2 + 3 * 512 * 1024)
    n_others = 8192 * 512 + 5 * 512 + 2 * 512              # embeddings, norms, the new head

    def held(model):
        return sum(p.numel() * p.element_size() for p in model.parameters()) / 2 ** 20
    return {"peak": peak, "weights": held(classifier), "frozen": held(frozen),
            "computed": (2 * n_matrices + 4 * n_others) / 2 ** 20}


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


def in_new_process(*words):
    """What this file prints as JSON in a process of its own: freed memory of other measurements would blur a peak."""
    done = warm.run(conftest.ROOT, os.path.abspath(__file__), *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_pitfall_10_peak_memory_does_not_grow_with_the_number_of_micro_batches():
    peaks = in_new_process()
    two, many, target, checkpoints, whole = (peaks[name] for name in STEPS)
    assert many < two + 0.1 * whole, peaks                 # eight times the rows, hardly more memory
    assert target < two + 0.1 * whole, peaks
    assert whole > 4 * many, peaks                         # without micro-batches memory does grow
    assert whole > 1.2 * checkpoints, peaks


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak")
def test_a_model_is_opened_without_a_second_copy_and_frozen_in_half_the_memory(tmp_path):
    found = in_new_process(tmp_path)
    assert found["peak"] < 1.6 * found["weights"], found   # a second copy would make it 2 at least
    assert found["frozen"] == pytest.approx(found["computed"])
    assert found["frozen"] < 0.75 * found["weights"]


if __name__ == "__main__":
    print(json.dumps(measure_opening(sys.argv[1]) if sys.argv[1:] else measure()))
