"""
Two processes do what one does: every loss, uneven parts, split weights. And what happens when one of them is killed.

python -m pytest tests/test_distributed.py          # half a minute: two gloo processes on CPU, started three times
"""
import doctest
import functools
import glob
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from argparse import Namespace

import numpy as np
import pytest
import torch


if __name__ == "__main__":                                 # one of torchrun's processes imports the copy's scripts
    sys.path.insert(0, sys.argv[2])
import contract
import debate
import distributed
import models
import train_strong
import train_weak
import warm
from contract import model_folder
from test_commands import build_house, call, must

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
WORDS = [" no", " yes"]

# AdamW divides a gradient by its own size. Where it is 0 but for rounding (biases of keys; a token that only a row
# without loss has), steps are full-size, and another order of the sum gives others: weights differ by 9e-5 then, and
# outputs by 2e-5. With this eps in place of 1e-8 rounding makes no steps, and everything differs by less than 2e-6.
DAMPED = "import functools, torch; torch.optim.AdamW = functools.partial(torch.optim.AdamW, eps=1e-6)\n"

# name: (loss, flags that differ from those in train(), is the model split?). 33 rows in batches of 7 are parts of 4 and
# 3, at last 3 and 2.
CASES = {"logconf, micro-batches": ("logconf", {"micro_batch_size": 3}, True),
         "product, checkpoints, last batch of one row": ("product", {"gradient_checkpointing": True, "batch_size": 8},
                                                         True),
         "window, whole weights": ("window", {}, False),
         "xent, split weights": ("xent", {}, True),
         "entropy, random head": ("entropy", {"head": "random"}, True)}
FAMILIES = ("qwen2-tied", "llama-untied", "bert")          # random weights; no file holds their rotary angles

COMMAND = ["train_strong.py", "--labels", "truth", "--model", "tiny-1a", "--out", "ceiling", "--loss", "logconf",
           "--max-rows", "96", "--batch-size", "7", "--dtype", "fp32"]
# with every use of a model before it is trained
ALL_IN_ONE = ["--epochs", "1", "--generative-steps", "3", "--clean", "knn", "--probe", "first"]
ICL = ["icl.py", "--labels", "truth", "--out", "icl-ceiling", "--model", "tiny-1b", "--max-rows", "96", "--orders", "2",
       "--shots", "0,4"]
DEBATE = ["debate.py", "--mode", "interaction", "--judge", "prompted", "--assistant", "tiny-1b", "--out", "talk",
          "--max-rows", "66", "--temperature", "0.7"]      # 264 rows: 3 blocks


def build_models(folder):
    """A small model of each family, with the tokenizer of tiny-1a."""
    import transformers
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder("tiny-1a"))
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
             "num_attention_heads": 4, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0,
             "pad_token_id": 0}
    qwen2 = transformers.Qwen2Config(**sizes, num_key_value_heads=2, tie_word_embeddings=True)
    llama = transformers.LlamaConfig(**sizes, num_key_value_heads=2, tie_word_embeddings=False)
    bert = transformers.BertConfig(**sizes)
    for name, kind, config in (("qwen2-tied", transformers.Qwen2ForCausalLM, qwen2),
                               ("llama-untied", transformers.LlamaForCausalLM, llama),
                               ("bert", transformers.BertForMaskedLM, bert)):
        torch.manual_seed(5)
        kind(config).save_pretrained(os.path.join(folder, name))
        tokenizer.save_pretrained(os.path.join(folder, name))


def random_rows(n=33):
    """N lists of ids of unequal lengths, and soft labels (N, 2)"""
    rng = np.random.default_rng(1)
    p_yes = rng.random(n).astype(np.float32)
    ids = [rng.integers(5, 500, rng.integers(2, 12)).tolist() for _ in range(n)]
    return ids, np.stack([1 - p_yes, p_yes], 1)


def train(case, model_name="tiny-1a"):
    """
    Train one of CASES.

    returns   {"first": outputs before training, "curve": mean loss of every step, "norms": of its gradient, "last":
              outputs after training, "weights": all of them, whole, in process 0}
    """
    loss, flags, is_split = CASES[case]
    defaults = {"epochs": 1, "batch_size": 7, "micro_batch_size": None, "lr": 3e-4, "seed": 3, "dtype": "fp32",
                "head": "lm", "lora": None, "gradient_checkpointing": False}
    args = Namespace(**{**defaults, **flags})
    torch.manual_seed(args.seed)
    if is_split:
        model, tokenizer, _ = models.load_classifier(model_name, args.head, WORDS, "cpu")
    else:
        kind = "AutoModelForSequenceClassification"
        model, tokenizer, _ = models.open_checkpoint(model_name, kind, "cpu", num_labels=2)
    ids, soft_labels = random_rows()
    model, _ = train_weak.prepare_for_training(model, args)
    first = models.forward_all(model, tokenizer, ids, "cpu", tokens=60)        # before training too, as train_strong.py
    curve = []
    norms = []

    def target_fn(logits, labels, progress):
        targets = train_strong.LOSSES[loss](logits, labels, progress)
        curve.append(float(train_weak.soft_xent(logits, targets).mean()))
        return targets
    clip, adamw = torch.nn.utils.clip_grad_norm_, torch.optim.AdamW

    def recording_clip(parameters, max_norm):              # AdamW hides a wrong factor of the gradient; norms do not
        norm = clip(parameters, max_norm)
        norms.append(float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm))
    torch.nn.utils.clip_grad_norm_ = recording_clip
    exec(DAMPED)
    try:
        make_batch = train_weak.batch_maker(ids, tokenizer, "cpu", soft_labels=soft_labels)
        train_weak.fit(model, [len(i) for i in ids], make_batch, train_weak.soft_label_loss, args, "cpu",
                       target_fn=target_fn)
    finally:
        torch.nn.utils.clip_grad_norm_, torch.optim.AdamW = clip, adamw
    weights = distributed.full_weights(model)
    if weights is None:
        weights = model.state_dict()
    return {"first": first, "curve": np.array(curve), "norms": np.array(norms),
            "last": models.forward_all(model, tokenizer, ids, "cpu", tokens=60),
            "weights": {name: weight.numpy().copy() for name, weight in weights.items()}}


def convert(found, kind, to_other):
    """Arrays to tensors or back, however deep in a dict: torch.load reads tensors without unpickling anything."""
    if isinstance(found, dict):
        return {key: convert(value, kind, to_other) for key, value in found.items()}
    return to_other(found) if isinstance(found, kind) else found


def run_cases(house):
    """The results of all cases, in one of torchrun's processes."""
    found = {case: train(case) for case in CASES}
    for family in FAMILIES:
        found[family] = train("xent, split weights", os.path.join(house, family))
    return found


def check_split_model():
    """What one of torchrun's processes reads and holds of a split model, and what it gets from the others."""
    opened = []

    def recording(function):
        @functools.wraps(function)
        def call_and_record(*args, **kwargs):
            opened.append(function.__name__)
            return function(*args, **kwargs)
        return call_and_record
    models.open_checkpoint = recording(models.open_checkpoint)
    distributed.open_empty = recording(distributed.open_empty)
    model = models.load_classifier("tiny-1a", "lm", WORDS, "cpu")[0]
    n_held = sum(distributed.local(p).numel() for p in model.parameters())
    found = {"opened": " ".join(opened), "held": n_held / sum(p.numel() for p in model.parameters())}
    head = model.score.weight
    with torch.no_grad():
        models.set_weight(head, torch.arange(head.numel()).float().view(head.shape))
    copies = models.copy_weights(model)
    for p in model.parameters():
        distributed.local(p.data).zero_()
    models.restore_weights(model, copies)
    found["head"] = head.full_tensor().detach()
    found["agreed"] = contract.broadcast_object(f"process {distributed.RANK}")
    return found


def run_as_worker(path, house):
    """Each of torchrun's processes runs the commands, then the cases, and saves what it found as <path>.<rank>."""
    distributed.join_processes()
    distributed.replace_functions()
    importlib.reload(train_strong)
    exec(DAMPED)
    train_strong.main([*COMMAND[1:], *ALL_IN_ONE])
    for stage, command in (("icl", ICL), ("debate", DEBATE)):
        sys.modules.pop(stage, None)                       # imported anew, with the replaced functions
        importlib.import_module(stage).main(command[1:])
    found = run_cases(house) | check_split_model()
    torch.save(convert(found, np.ndarray, torch.from_numpy), f"{path}.{distributed.RANK}")


# --------------------------------------------------------------------------- which rows a process takes


def test_examples_in_the_docstrings():
    assert doctest.testmod(distributed).failed == 0


@pytest.mark.parametrize("n,size", [(1, 1), (1, 4), (5, 2), (7, 3), (8, 4), (33, 5)])
def test_every_row_counts_once_and_all_processes_work_equally_often(n, size):
    shards = [distributed.shard_indices(n, rank, size) for rank in range(size)]
    assert sorted(i for shard, n_counted in shards for i in shard[:n_counted]) == list(range(n))
    assert len({len(shard) for shard, _ in shards}) == 1
    for shard, n_counted in shards:
        assert len(shard) - n_counted in (0, 1)
        assert max(shard) < n


def test_one_process_uses_the_ordinary_functions():
    """The launcher has replaced nothing yet."""
    assert distributed.SIZE == 1
    assert distributed.shard_indices(3, 0, 1) == ([0, 1, 2], 3)
    assert contract.broadcast_object("x") == "x"
    assert list(models.map_in_order(len, ["a", "bc"])) == [1, 2]
    assert train_weak.compute_gradients.__module__ == "train_weak"
    assert models.forward_all.__module__ == "models"
    assert distributed.full_weights(torch.nn.Linear(2, 2)) is None


# --------------------------------------------------------------------------- two processes


def run_two(house, *command, before=""):
    """A command in two processes with the environment that torchrun gives them, but without seconds of imports."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    code = f"import os, torch\nos.environ |= {env!r}\nos.environ['LOCAL_RANK'] = os.environ['RANK']\n"
    code += "torch.set_num_threads(1)\n"
    return warm.run(house, *command, before=code + before, processes=2)


def seed0(house, *names):
    return os.path.join(house, "data", "tinyworld", "seed0", *names)


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the project, with a model of each family"""
    house = build_house(tmp_path_factory.mktemp("house"))
    build_models(house)
    return house


@pytest.fixture(scope="module")
def killed_training(house):
    """torchrun trains with two processes, and one is killed. -> (stderr, what it left in its folder)"""
    process = subprocess.Popen([*TORCHRUN, "distributed.py", *COMMAND, "--epochs", "500"], cwd=house, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while "one example" not in (line := process.stdout.readline()):            # from then on it trains
        assert line, process.stderr.read()
    workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    assert len(workers) == 2
    os.kill(int(workers[1]), signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode
    return errors, os.listdir(seed0(house, "ceiling"))


@pytest.fixture(scope="module")
def killed_debate(house):
    """A debate of which process 1 dies when two blocks are saved. -> (stderr, lines of transcripts.jsonl)"""
    pattern = seed0(house, "transcripts", "*", "transcripts.jsonl")
    dies = "if os.environ['RANK'] == '1':\n" + textwrap.indent(warm.die_when(pattern), "    ")
    done = run_two(house, "distributed.py", *DEBATE, before=dies)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with open(glob.glob(pattern)[0], encoding="utf-8") as f:
        return done.stderr, f.read().splitlines()


@pytest.fixture(scope="module")
def two(house, killed_training, killed_debate, tmp_path_factory):
    """
    The same commands run to their end by two processes, and then the cases.

    returns   (stdout, stderr, [what process 0 found, what process 1 found])
    """
    path = tmp_path_factory.mktemp("two") / "found"
    done = run_two(house, os.path.abspath(__file__), path, house)
    assert done.returncode == 0, done.stdout + done.stderr
    found = [torch.load(f"{path}.{rank}", weights_only=True) for rank in (0, 1)]
    return done.stdout, done.stderr, [convert(one, torch.Tensor, torch.Tensor.numpy) for one in found]


@pytest.fixture
def one_thread():
    """As torchrun sets it: two threads add numbers in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", [*CASES, *FAMILIES])
def test_two_processes_find_what_one_finds(house, two, one_thread, name):
    one = train(name) if name in CASES else train("xent, split weights", os.path.join(house, name))
    *_, found = two
    for process in found:
        result = process[name]
        assert np.array_equal(one["first"], result["first"])                   # the same batches, each by one process
        assert len(one["curve"]) == 5
        assert np.abs(one["curve"] - result["curve"]).max() < 1e-5
        assert one["norms"] == pytest.approx(result["norms"], rel=1e-5, abs=1e-6)        # of "window" some are 1e-7
        probs, expected = (torch.tensor(x["last"]).softmax(-1) for x in (result, one))
        assert (probs - expected).abs().max() < 1e-5
        assert np.abs(one["last"] - one["first"]).max() > 0.01                 # training has changed the outputs at all
    weights = found[0][name]["weights"]
    assert weights.keys() == one["weights"].keys()
    assert max(np.abs(weights[key] - one["weights"][key]).max() for key in weights) < 1e-5


def test_the_first_process_alone_reads_weights_each_holds_half_of_them_and_head_and_copies_are_right(two):
    *_, found = two
    assert [process["opened"] for process in found] == ["open_checkpoint", "open_empty"]
    for process in found:
        assert 0.45 < process["held"] < 0.55
        assert process["agreed"] == "process 0"
        assert np.array_equal(process["head"].flatten(), np.arange(process["head"].size))


# --------------------------------------------------------------------------- real commands


def test_a_killed_worker_ends_the_run_with_a_line_and_leaves_nothing_half_written(killed_training):
    errors, left = killed_training
    assert "another process of this run has died" in errors
    assert "start the same command again" in errors
    assert left == [contract.UNFINISHED]


def results_of(folder):
    """What a run of train_strong.py leaves, in parts that can be compared."""
    with open(os.path.join(folder, "labels.jsonl"), encoding="utf-8") as f:
        lines = [json.loads(line) for line in f]
    configs = []
    for name in ("config.json", os.path.join("checkpoint", "config.json")):
        with open(os.path.join(folder, name), encoding="utf-8") as f:
            configs.append(f.read())
    with open(os.path.join(folder, "results.json"), encoding="utf-8") as f:
        scores = json.load(f)["test"]
    return {"ids": [line["id"] for line in lines], "labels": np.array([line["soft_label"] for line in lines]),
            "files": sorted(glob.glob("**", root_dir=folder, recursive=True)), "configs": configs, "test": scores}


def test_two_processes_leave_the_folder_that_one_leaves(house, two):
    printed, errors, _ = two
    assert printed.count("ceiling 0.") == 2
    assert printed.count("wrote ") == 3                    # process 0 alone prints
    assert "Warning" not in errors
    folder = seed0(house, "ceiling")
    by_two = results_of(folder)
    assert "already done" in must(house, *COMMAND, *ALL_IN_ONE)                # one process knows the run of two
    assert warm.run(house, *COMMAND, *ALL_IN_ONE, "--force", before=DAMPED).returncode == 0
    by_one = results_of(folder)
    assert by_two["ids"] == by_one["ids"]
    assert np.abs(by_two["labels"] - by_one["labels"]).max() < 1e-5
    assert by_two["files"] == by_one["files"]              # an ordinary folder of safetensors
    assert by_two["configs"] == by_one["configs"]
    assert by_two["test"] == pytest.approx(by_one["test"], abs=1e-5)


def bytes_of(folder):
    """The files of a run without results.json, which has seconds in it. -> {name: bytes}"""
    found = {}
    for name in os.listdir(folder):
        if name != "results.json":
            with open(os.path.join(folder, name), "rb") as f:
                found[name] = f.read()
    return found


def test_prompts_are_scored_as_by_one_process_byte_for_byte(house, two):
    folder = seed0(house, "icl-ceiling")
    by_two = bytes_of(folder)
    must(house, *ICL, "--force")
    assert by_two == bytes_of(folder)
    assert len(by_two) == 2


def test_debates_are_written_as_by_one_process_and_a_kill_leaves_whole_blocks(house, killed_debate, two):
    errors, lines = killed_debate
    assert "another process of this run has died" in errors
    assert len(lines) == 2 * debate.BLOCK
    assert all(json.loads(line)["rounds"] for line in lines)
    transcripts, = glob.glob(seed0(house, "transcripts", "*"))
    by_two = bytes_of(transcripts) | bytes_of(seed0(house, "talk"))
    # two processes have continued after the two blocks
    assert by_two["transcripts.jsonl"].decode().splitlines()[:len(lines)] == lines
    assert "already done" in must(house, *DEBATE)
    shutil.rmtree(transcripts)
    must(house, *DEBATE, "--force")
    assert by_two == bytes_of(transcripts) | bytes_of(seed0(house, "talk"))


@pytest.mark.parametrize("script", ["sft.py", "align_tasks.py", "report.py"])
def test_a_script_that_was_not_made_for_it_says_so(house, script):
    done = call(house, "distributed.py", script)
    assert done.returncode == 2
    assert f"{script} runs in one process" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_several_processes_without_the_launcher_are_refused_before_any_work(house):
    done = run_two(house, "train_weak.py")
    assert done.returncode == 2
    assert "torchrun --nproc-per-node N distributed.py train_weak.py" in done.stderr
    assert call(house, "distributed.py", "debate.py", "--judge", "human").returncode == 2


def test_the_launcher_with_one_process_is_the_stage_itself(house, two):
    assert "already done" in must(house, "distributed.py", *ICL)


if __name__ == "__main__":
    run_as_worker(*sys.argv[1:])
