"""
Several processes do what one does: every loss, uneven parts, split weights; and what happens when one of them is killed.

python -m pytest tests/test_distributed.py          # a minute: torchrun with two gloo processes on CPU, four times
"""
import doctest
import glob
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace

import numpy as np
import pytest
import torch


if __name__ == "__main__":                                 # one of torchrun's processes: those of the house
    sys.path.insert(0, sys.argv[2])
import contract
import debate
import distributed
import models
import train_strong
import train_weak
from contract import model_folder
from test_commands import build_house, call, must

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
WORDS = [" no", " yes"]
# name: (loss, flags that differ from those in train(), is the model split?). 33 rows in batches of 7: parts of 4 and 3, at last 3 and 2.
# "window" is missing: where the student is sure its gradient is rounding noise, and AdamW blows that up, with one process as with two.
CASES = {"logconf, micro-batches": ("logconf", {"micro_batch_size": 3}, True),
         "product, checkpoints, last batch of one row": ("product", {"gradient_checkpointing": True, "batch_size": 8}, True),
         "xent, whole weights": ("xent", {}, False),
         "xent, split weights": ("xent", {}, True),
         "entropy, random head": ("entropy", {"head": "random"}, True)}


FAMILIES = ("qwen2-tied", "llama-untied", "bert")          # random weights; rotary angles are buffers that stand in no file


def build_models(folder):
    """A small model of each family, with the tokenizer of tiny-1a."""
    import transformers
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder("tiny-1a"))
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
             "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    for name, made in {"qwen2-tied": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**sizes, num_key_value_heads=2, tie_word_embeddings=True)),
                       "llama-untied": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, num_key_value_heads=2, tie_word_embeddings=False)),
                       "bert": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**sizes))}.items():
        torch.manual_seed(5)
        made().save_pretrained(os.path.join(folder, name))
        tokenizer.save_pretrained(os.path.join(folder, name))


def rows(n=33):
    """Ids of unequal lengths, and soft labels."""
    rng = np.random.default_rng(1)
    p = rng.random(n).astype(np.float32)
    return [rng.integers(5, 500, rng.integers(2, 12)).tolist() for _ in range(n)], np.stack([1 - p, p], 1)


def train(name, model_name="tiny-1a"):
    """One case -> the losses of every step, all weights, and what the model then says."""
    loss, flags, split = CASES[name]
    args = Namespace(**{"epochs": 1, "batch_size": 7, "micro_batch_size": None, "lr": 3e-4, "seed": 3, "dtype": "fp32", "head": "lm", "lora": None,
                        "gradient_checkpointing": False, **flags})
    torch.manual_seed(args.seed)
    if split:
        model, tokenizer, _ = models.load_classifier(model_name, args.head, WORDS, "cpu")
    else:
        model, tokenizer, _ = models.open_checkpoint(model_name, "AutoModelForSequenceClassification", "cpu", num_labels=2)
    (ids, labels), curve = rows(), []
    model, _ = train_weak.prepare_for_training(model, args)
    first = models.forward_all(model, tokenizer, ids, "cpu", tokens=60)        # before training too, as train_strong.py does

    def target_fn(logits, soft_labels, progress):
        targets = train_strong.LOSSES[loss](logits, soft_labels, progress)
        curve.append(float(train_weak.soft_xent(logits, targets).mean()))
        return targets
    clip, norms = torch.nn.utils.clip_grad_norm_, []

    def clip_and_tell(parameters, most):                   # AdamW hardly minds a wrong factor of the gradient; its norm tells
        norm = clip(parameters, most)
        norms.append(float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm))
    torch.nn.utils.clip_grad_norm_ = clip_and_tell
    try:
        make_batch = train_weak.batch_maker(ids, tokenizer, "cpu", soft_labels=labels)
        train_weak.fit(model, [len(i) for i in ids], make_batch, train_weak.soft_label_loss, args, "cpu", target_fn=target_fn)
    finally:
        torch.nn.utils.clip_grad_norm_ = clip
    weights = distributed.full_weights(model)
    return {"first": first, "curve": np.array(curve), "norms": np.array(norms),
            "says": models.forward_all(model, tokenizer, ids, "cpu", tokens=60),
            "weights": {k: v.numpy().copy() for k, v in (model.state_dict() if weights is None else weights).items()}}


COMMAND = ["train_strong.py", "--labels", "truth", "--model", "tiny-1a", "--out", "ceiling", "--loss", "logconf", "--max-rows", "96", "--batch-size", "7"]
ALL_IN_ONE = ["--epochs", "1", "--generative-steps", "3", "--clean", "knn", "--probe", "first"]             # all that uses a model before it is trained
ICL = ["icl.py", "--labels", "truth", "--out", "icl-ceiling", "--max-rows", "96", "--orders", "2", "--shots", "0,4"]
DEBATE = ["debate.py", "--mode", "interaction", "--judge", "prompted", "--out", "talk", "--max-rows", "80", "--temperature", "0.7"]      # 320 rows: 3 blocks


def swap(found, kind, other):
    """Arrays for tensors or the other way round, however deep in a dict: torch.load reads tensors without unpickling anything."""
    if isinstance(found, dict):
        return {key: swap(value, kind, other) for key, value in found.items()}
    return other(found) if isinstance(found, kind) else found


def as_worker(path, house):
    """What each of torchrun's processes does: the command, as a shell would, then all cases. Each writes what it found."""
    distributed.join_processes()
    distributed.replace_functions()
    importlib.reload(train_strong)
    train_strong.main([*COMMAND[1:], *ALL_IN_ONE])
    for stage, command in (("icl", ICL), ("debate", DEBATE)):
        sys.modules.pop(stage, None)                       # imported anew, with the replaced functions
        importlib.import_module(stage).main(command[1:])
    found = {name: train(name) for name in CASES} | {family: train("xent, split weights", os.path.join(house, family)) for family in FAMILIES}
    opened = []
    for where, name in ((models, "open_checkpoint"), (distributed, "open_empty")):
        really = getattr(where, name)

        def spy(*args, really=really, name=name, **kwargs):
            opened.append(name)
            return really(*args, **kwargs)
        setattr(where, name, spy)
    model = models.load_classifier("tiny-1a", "lm", WORDS, "cpu")[0]
    found["opened"], head = " ".join(opened), model.score.weight
    found["held"] = sum(distributed.local(p).numel() for p in model.parameters()) / sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        models.set_weight(head, torch.arange(head.numel()).float().view(head.shape))
    kept = models.copy_weights(model)
    for p in model.parameters():
        distributed.local(p.data).zero_()
    models.restore_weights(model, kept)
    found["head"] = head.full_tensor().detach()
    found["agreed"] = contract.broadcast_object(f"process {distributed.RANK}")
    torch.save(swap(found, np.ndarray, torch.from_numpy), f"{path}.{distributed.RANK}")


# --------------------------------------------------------------------------- who does what

def test_examples_in_the_docstrings():
    assert doctest.testmod(distributed).failed == 0 and doctest.testmod(distributed).attempted >= 2


@pytest.mark.parametrize("n,size", [(1, 1), (1, 4), (5, 2), (7, 3), (8, 4), (33, 5)])
def test_every_row_counts_once_and_all_processes_work_equally_often(n, size):
    parts = [distributed.shard_indices(n, rank, size) for rank in range(size)]
    assert sorted(i for mine, real in parts for i in mine[:real]) == list(range(n))
    assert len({len(mine) for mine, _ in parts}) == 1 and all(len(mine) - real in (0, 1) and max(mine) < n for mine, real in parts)
    done = [distributed.shard_work([str(i) for i in range(n)], rank, size) for rank in range(size)]
    assert sorted(int(piece) for some in done for piece, counts in some if counts) == list(range(n)) and len({len(some) for some in done}) == 1


def test_one_process_does_what_it_did_before():
    """The functions that the launcher replaces are those for one process until it does."""
    assert distributed.SIZE == 1 and distributed.shard_indices(3, 0, 1) == ([0, 1, 2], 3)
    assert contract.broadcast_object("x") == "x" and list(models.map_in_order(len, ["a", "bc"])) == [1, 2]
    assert train_weak.compute_gradients.__module__ == "train_weak" and models.forward_all.__module__ == "models"
    assert distributed.full_weights(torch.nn.Linear(2, 2)) is None


# --------------------------------------------------------------------------- two processes

def torchrun(*command, cwd=None):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*TORCHRUN, *map(str, command)], cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run of two processes of which one is killed while it trains. -> (house, folder of the run, exit code, stderr)"""
    house = build_house(tmp_path_factory.mktemp("house"))
    build_models(house)
    process = torchrun("distributed.py", *COMMAND, "--epochs", "500", cwd=house)
    while "one example" not in (line := process.stdout.readline()):            # from then on it trains
        assert line, process.stderr.read()
    workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    assert len(workers) == 2
    os.kill(int(workers[1]), signal.SIGKILL)
    said = process.communicate(timeout=60)
    folder = os.path.join(house, "data", "tinyworld", "seed0", "ceiling")
    return house, folder, process.returncode, said[1], os.listdir(folder)


@pytest.fixture(scope="module")
def silenced(killed):
    """A debate of two processes of which one is killed when the first two blocks have been saved. -> (stderr, lines of transcripts.jsonl)"""
    process, pattern = torchrun("distributed.py", *DEBATE, cwd=killed[0]), os.path.join(killed[0], "data", "tinyworld", "seed0", "transcripts", "*", "transcripts.jsonl")
    while not (kept := glob.glob(pattern)) or not os.path.getsize(kept[0]):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.kill(int(subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()[1]), signal.SIGKILL)
    said = process.communicate(timeout=60)[1]
    assert process.returncode
    return said, open(kept[0]).read().splitlines()


@pytest.fixture(scope="module")
def two(killed, silenced, tmp_path_factory):
    """What two processes print and find, each of them, when they run the same command to its end, and then the cases."""
    path = tmp_path_factory.mktemp("two") / "found"
    process = torchrun(os.path.abspath(__file__), path, killed[0])
    said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return said, [swap(torch.load(f"{path}.{rank}", weights_only=True), torch.Tensor, torch.Tensor.numpy) for rank in (0, 1)]


@pytest.mark.parametrize("name", [*CASES, *FAMILIES])
def test_two_processes_find_what_one_finds(killed, two, name):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)                               # as torchrun does: two threads add up in another order
    try:
        one = train(name) if name in CASES else train("xent, split weights", os.path.join(killed[0], name))
    finally:
        torch.set_num_threads(threads)
    two = two[1]
    for found in (found[name] for found in two):
        assert np.array_equal(one["first"], found["first"])                    # the same batches, each by one of them: the same bits
        assert len(one["curve"]) == 5 and np.abs(one["curve"] - found["curve"]).max() < 1e-4
        assert np.abs(one["norms"] / found["norms"] - 1).max() < 1e-3
        p, q = (torch.tensor(x["says"]).softmax(-1) for x in (one, found))
        assert (p - q).abs().max() < 1e-5
        assert np.abs(one["says"] - one["first"]).max() > 0.01                 # and something was learned at all
    weights = two[0][name]["weights"]
    assert weights.keys() == one["weights"].keys()
    apart = np.concatenate([np.abs(weights[k] - one["weights"][k]).ravel() for k in weights])
    assert (apart < 1e-5).mean() > 0.99 and apart.max() < 3e-4                 # AdamW turns gradients of 1e-12 into steps; such a weight moves nothing


def test_the_first_process_alone_reads_weights_each_holds_half_of_them_and_head_and_copies_are_right(two):
    # the first one opens the language model too, for the head
    assert [found["opened"] for found in two[1]] == ["open_checkpoint open_checkpoint", "open_empty"]
    for found in two[1]:
        assert 0.45 < found["held"] < 0.55 and found["agreed"] == "process 0"
        assert np.array_equal(found["head"].flatten(), np.arange(found["head"].size))


# --------------------------------------------------------------------------- real commands

def test_a_killed_worker_ends_the_run_in_words_and_leaves_nothing_half_written(killed):
    house, folder, code, said, left = killed
    assert code and "another process of this run has died" in said and "start the same command again" in said
    assert left == []


def test_two_processes_leave_the_folder_that_one_leaves(killed, two):
    house, folder, *_ = killed
    (printed, complaints), _ = two
    assert printed.count("ceiling 0.") == 2 and printed.count("wrote ") == 3 and "Warning" not in complaints
    before = results_of(folder)
    assert "already done" in must(house, *COMMAND, *ALL_IN_ONE)            # one process knows the run of two
    must(house, *COMMAND, *ALL_IN_ONE, "--force")
    after = results_of(folder)
    assert before["ids"] == after["ids"] and np.abs(before["labels"] - after["labels"]).max() < 1e-5
    assert before["files"] == after["files"] and before["config"] == after["config"]               # an ordinary folder of safetensors
    assert before["test"] == pytest.approx(after["test"], abs=1e-5)


def results_of(folder):
    lines = [json.loads(line) for line in open(os.path.join(folder, "labels.jsonl"))]
    return {"ids": [line["id"] for line in lines], "labels": np.array([line["soft_label"] for line in lines]),
            "files": sorted(os.path.relpath(path, folder) for path in glob.glob(os.path.join(folder, "**"), recursive=True)),
            "config": [open(os.path.join(folder, *name)).read() for name in (("config.json",), ("checkpoint", "config.json"))],
            "test": json.load(open(os.path.join(folder, "results.json")))["test"]}


def test_prompts_are_judged_as_by_one_process_byte_for_byte(killed, two):
    folder = os.path.join(killed[0], "data", "tinyworld", "seed0", "icl-ceiling")
    before = bytes_of(folder)
    must(killed[0], *ICL, "--force")
    assert before == bytes_of(folder) and len(before) == 2


def test_debates_are_written_as_by_one_process_and_a_kill_leaves_whole_blocks(killed, silenced, two):
    said, lines = silenced
    assert "another process of this run has died" in said and len(lines) == 2 * debate.BLOCK and all(json.loads(line)["rounds"] for line in lines)
    seed0 = os.path.join(killed[0], "data", "tinyworld", "seed0")
    kept, = glob.glob(os.path.join(seed0, "transcripts", "*"))
    before = bytes_of(kept) | bytes_of(os.path.join(seed0, "talk"))                # two processes have gone on from the two blocks
    assert before["transcripts.jsonl"].decode().splitlines()[:len(lines)] == lines and "already done" in must(killed[0], *DEBATE)
    shutil.rmtree(kept)
    must(killed[0], *DEBATE, "--force")
    assert before == bytes_of(kept) | bytes_of(os.path.join(seed0, "talk"))


def bytes_of(folder):
    """The files of a run but for results.json, which has seconds in it."""
    return {name: open(os.path.join(folder, name), "rb").read() for name in os.listdir(folder) if name != "results.json"}


@pytest.mark.parametrize("script", ["sft.py", "align_tasks.py", "report.py"])
def test_a_script_that_was_not_made_for_it_says_so(killed, script):
    done = call(killed[0], "distributed.py", script)
    assert done.returncode == 2 and f"{script} runs in one process" in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_several_processes_without_the_launcher_are_refused_before_any_work(killed):
    env = {**os.environ, "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    done = subprocess.run([sys.executable, "train_weak.py"], cwd=killed[0], env=env, capture_output=True, text=True)
    assert done.returncode == 2 and "torchrun --nproc-per-node N distributed.py train_weak.py" in done.stderr
    assert call(killed[0], "distributed.py", "debate.py", "--judge", "human").returncode == 2


def test_the_launcher_with_one_process_is_the_stage_itself(killed):
    assert "already done" in must(killed[0], "distributed.py", *ICL)


if __name__ == "__main__":
    as_worker(*sys.argv[1:])
