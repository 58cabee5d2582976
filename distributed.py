"""
Optional: run a stage on more than one GPU, or on more than one machine. The results are the same.

$ torchrun --nproc-per-node 4 distributed.py train_weak.py                          # four processes, one GPU each
$ torchrun --nproc-per-node 4 distributed.py train_strong.py --labels weak --ceiling ceiling
$ torchrun --nproc-per-node 4 distributed.py icl.py                                 # prompts are scored, and
$ torchrun --nproc-per-node 4 distributed.py debate.py                              # debates generated, four at a time

This page is a launcher. Stages and shared pages know nothing of several processes. Before a stage is imported, the
functions at the end of this file (`replace_functions`) take the place of a few functions of contract.py, models.py and
train_weak.py.

Training a model of P parameters takes 16 P bytes (weights, gradients and Adam's two moments, 4 bytes each). Two ideas
help:

1) Split the rows. Every process takes its part of each batch and of whatever is labelled. The batch stays what
   --batch-size says, with the same rows in the same order. The gradient is the sum over the processes of (the losses of
   their rows / rows of the whole batch), which is the mean over the batch however unequal the parts are. A loss that
   looks at the whole batch (the confidence loss ranks its rows) gets the logits of all rows. Where a model generates
   text, every process takes blocks of rows with seeds of their own: a sample does not depend on the number of
   processes.
2) Split the weights (Zhao et al. 2023, https://arxiv.org/abs/2304.11277; torch's fully_shard). Every process keeps 1/N
   of each weight, of its gradient and of Adam's moments. Process 0 reads the model and broadcasts it layer by layer. A
   layer's weights are gathered just before the layer computes and dropped after it.

So N processes do the arithmetic of one, in another order: fp32 loss curves agree to 1e-5
(tests/test_distributed.py). Where nothing is trained, the files are the same byte for byte. Process 0 alone prints,
writes and decides whether a run is finished. Stages that were not made for several processes are refused.

Needs   contract.py, metrics.py, models.py, train_weak.py, and the stage
"""
import contextlib
import datetime
import importlib
import os
import signal
import sys

import contract
import models
import train_weak

TORCHRUN = "TORCHELASTIC_RUN_ID" in os.environ
RANK = int(os.environ["RANK"]) if TORCHRUN else 0
SIZE = int(os.environ["WORLD_SIZE"]) if TORCHRUN else 1
STAGES = ("train_weak.py", "train_strong.py", "icl.py", "debate.py")


# --------------------------------------------------------------------------- which rows a process takes


def shard_indices(n, rank, size):
    """
    Of n rows of a batch those that a process takes, and how many of them count. All processes take equally many,
    because they must call the model equally often: where one is short, number 0 is computed once more and does not
    count.

    >>> shard_indices(5, 0, 2), shard_indices(5, 1, 2), shard_indices(5, 0, 1)
    (([0, 2, 4], 3), ([1, 3, 0], 2), ([0, 1, 2, 3, 4], 5))
    """
    shard = list(range(rank, n, size))
    return shard + [0] * (-(-n // size) - len(shard)), len(shard)


# --------------------------------------------------------------------------- communication


def join_processes():
    """Connect the processes. All but process 0 print nothing. If one of them dies, all end with one line."""
    import torch
    if RANK:
        os.environ["TQDM_DISABLE"] = "1"
        sys.stdout = open(os.devnull, "w", encoding="utf-8")           # noqa: SIM115 (until the process ends)
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "cpu:gloo,cuda:nccl" if has_gpu else "gloo"
    torch.distributed.init_process_group(backend, timeout=datetime.timedelta(hours=1))

    def exit_on_peer_failure(*_):
        print(f"error: process {RANK} stops because another process of this run has died (its own line says why; "
              "without a line it was killed, or out of memory). The run is not complete, and no file is half-written: "
              "start the same command again", file=sys.stderr, flush=True)
        os._exit(1)

    def uncaught(kind, error, trace):
        words = ("gloo", "nccl", "peer", "connection")
        if issubclass(kind, RuntimeError) and any(word in str(error).lower() for word in words):
            exit_on_peer_failure()
        sys.__excepthook__(kind, error, trace)

    signal.signal(signal.SIGTERM, exit_on_peer_failure)                # torchrun ends the other processes so
    sys.excepthook = uncaught


def broadcast_object(value):
    """Replaces contract.broadcast_object: process 0's value, in every process."""
    import torch
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def all_reduce_sum(x):
    """Sum over the processes, in every process; x is overwritten. Where all but one hold zeros the sum is exact."""
    import torch
    torch.distributed.all_reduce(x)
    return x


def map_in_order(do, pieces):
    """
    Replaces models.map_in_order: yields do(piece) for every piece, in order, in every process; but each piece is done
    by one process, SIZE pieces at a time. Where fewer than SIZE are left, the other processes do them once more:
    all must call a split model equally often. Results travel between processes as objects of Python.
    """
    import torch
    pieces = list(pieces)
    for k in range(0, len(pieces), SIZE):
        group = pieces[k:k + SIZE]
        results = [None] * SIZE
        torch.distributed.all_gather_object(results, do(group[RANK % len(group)]))
        yield from results[:len(group)]


# --------------------------------------------------------------------------- split weights


def broadcast_weights(unit, device):
    """
    Weights and buffers that only process 0 has read, in every process. Split weights are left alone. A tensor with two
    names (tied weights) stays one tensor.
    """
    import torch
    replaced = {}                                          # id of the old tensor -> (the old tensor, the new one)
    for module in unit.modules():
        for tensors in (module._parameters, module._buffers):
            for name, old in tensors.items():
                if old is None or hasattr(old, "to_local"):
                    continue
                if id(old) not in replaced:
                    new = torch.empty(old.shape, dtype=old.dtype, device=device)
                    if RANK == 0:
                        new = old.detach().to(device).contiguous()
                    torch.distributed.broadcast(new, src=0)
                    is_parameter = tensors is module._parameters
                    replaced[id(old)] = old, torch.nn.Parameter(new, old.requires_grad) if is_parameter else new
                tensors[name] = replaced[id(old)][1]


def shard_model(model, device):
    """
    Split all weights over the processes, in place, one unit after the other. A unit is gathered at a time: a layer,
    whose class transformers names in _no_split_modules; decoders, T5 and BART are called as body and head apart
    (models.classify), so each of the two is a unit. Process 0 holds the weights in the computer's memory, the
    others hold none (device "meta"). So no GPU, and no process but the first, ever holds more than its part and one
    unit.
    """
    import warnings

    import torch
    from torch.distributed.fsdp import fully_shard
    warnings.filterwarnings("ignore", message=".*returned a view tensor")      # no code here changes it in place
    mesh = torch.distributed.init_device_mesh(torch.device(device).type, (SIZE,))
    layers = [m for m in model.modules() if type(m).__name__ in (model._no_split_modules or ())]
    head = getattr(model, "score", getattr(model, "classification_head", None))
    parts = [model.base_model, head] if head is not None else [model]
    for unit in [*layers, *parts]:
        broadcast_weights(unit, device)
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)
        unit.set_gradient_divide_factor(1.0)               # gradients are added; the loss is divided by all rows
        unit.set_force_sum_reduction_for_comms(True)       # gloo has no other reduction
    return model


def open_empty(name, flags, **config_changes):
    """models.open_checkpoint of a classifier, without the weights: a model on device "meta"."""
    import torch
    import transformers
    transformers.logging.set_verbosity_error()
    try:
        tokenizer, config, max_length = models.open_config(name, flags, **config_changes)
        models.add_classifier_class(config)
        with torch.device("meta"):
            model = transformers.AutoModelForSequenceClassification.from_config(
                config, dtype=torch.float32, trust_remote_code=models.trusts_code(flags))
    except Exception as error:                             # process 0 meets the same error, and says more about it
        contract.fail(f"process {RANK}: cannot load model {name!r} ({type(error).__name__})")
    return model.eval(), tokenizer, min(max_length, models.count_positions(model))


def load_classifier(name, head, words, device, flags=None, pairs=False, load_one=models.load_classifier):
    """Replaces models.load_classifier: process 0 reads the weights, and every process gets its part of them."""
    if getattr(flags, "lora", None):
        contract.fail("--lora works in one process; without it weights, gradients and Adam's moments are split")
    if RANK == 0:
        model, tokenizer, max_length = load_one(name, head, words, "cpu", flags, pairs)
    else:
        model, tokenizer, max_length = open_empty(name, flags, num_labels=1 if pairs else 2)
    return shard_model(model, device), tokenizer, max_length


def local(tensor):
    """The part of a weight that this process holds."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def set_weight(weight, value):
    """Replaces models.set_weight: every process has the whole value, and keeps its part."""
    if hasattr(weight, "to_local"):
        from torch.distributed.tensor import distribute_tensor
        value = distribute_tensor(value, weight.device_mesh, weight.placements, src_data_rank=None)
    weight.data.copy_(value)


def copy_weights(model):
    """Replaces models.copy_weights: each process copies what it holds."""
    return [local(p).detach().to("cpu", copy=True) for p in model.parameters()]


def restore_weights(model, weights):
    """Replaces models.restore_weights."""
    for p, value in zip(model.parameters(), weights):
        local(p.data).copy_(value)


def full_weights(model):
    """All weights put together in process 0, as save_pretrained wants them, {} in the others; None if none is split."""
    if not any(hasattr(p, "to_local") for p in model.parameters()):
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


# --------------------------------------------------------------------------- split rows


def pick_device(asked, pick_one=models.pick_device):
    """Replaces models.pick_device: one GPU for each process."""
    import torch
    if asked in ("", "cuda") and torch.cuda.is_available():
        asked = f"cuda:{os.environ['LOCAL_RANK']}"
    return pick_one(asked)


def compute_gradients(model, indices, make_batch, loss_fn, micro_batch_size, precision, target_fn=None, progress=0.0):
    """Replaces train_weak.compute_gradients: this process's rows of the batch, then the sum over the processes."""
    import torch
    shard, n_counted = shard_indices(len(indices), RANK, SIZE)
    starts = range(0, len(shard), micro_batch_size)
    pieces = [make_batch([indices[i] for i in shard[k:k + micro_batch_size]]) for k in starts]
    if target_fn:
        with torch.no_grad(), precision:
            logits = torch.cat([models.classify(model, piece) for piece in pieces])
        every_logit = logits.new_zeros(len(indices), *logits.shape[1:])
        every_logit[shard[:n_counted]] = logits[:n_counted]
        labels = make_batch(indices)["soft_labels"]        # of all rows: the target may depend on them
        targets = target_fn(all_reduce_sum(every_logit), labels, progress)
        for k, piece in zip(starts, pieces):
            piece["soft_labels"] = targets[shard[k:k + micro_batch_size]]
    for k, piece in zip(starts, pieces):
        with precision:
            losses = loss_fn(model, piece)
        (losses[:max(0, n_counted - k)].sum() / len(indices)).backward()
    for p in model.parameters():                           # gradients of split weights are summed already
        if p.grad is not None and not hasattr(p, "to_local"):
            all_reduce_sum(p.grad)


# --------------------------------------------------------------------------- the launcher


def save_checkpoint(folder, model, tokenizer, weights=None, save_one=contract.save_checkpoint):
    """Replaces contract.save_checkpoint: the parts are put together, and process 0 writes."""
    weights = full_weights(model)
    if RANK == 0:
        save_one(folder, model, tokenizer, weights)


def replace_functions():
    """Put the functions of this page in the place of those for one process. Stages that are imported later get them."""
    contract.LAUNCHED = True
    contract.broadcast_object = broadcast_object
    contract.save_checkpoint = save_checkpoint
    if RANK:
        for name in ("write_file", "append_file", "write_labels", "write_results", "mark_unfinished"):
            setattr(contract, name, lambda *args, **kwargs: None)
        contract.lock_folder = lambda folder: contextlib.nullcontext()
    for function in (pick_device, load_classifier, map_in_order, set_weight, copy_weights, restore_weights):
        setattr(models, function.__name__, function)
    importlib.reload(train_weak)                           # its own imports are the replaced functions now
    train_weak.compute_gradients = compute_gradients


def launch():
    """python distributed.py STAGE.py FLAGS, in each of torchrun's processes"""
    folder, stage = os.path.split(sys.argv[1] if len(sys.argv) > 1 else "")
    if folder and os.path.realpath(folder) != os.path.realpath(contract.ROOT):
        contract.fail(f"{sys.argv[1]}: the stage must stand beside distributed.py")
    if stage not in STAGES:
        contract.fail(f"{stage or 'no stage'} runs in one process: start it with python. Several processes:  torchrun "
                      f"--nproc-per-node N distributed.py STAGE.py FLAGS, with one of {', '.join(STAGES)}")
    flags = sys.argv[2:]
    if "--judge=human" in flags or ("--judge", "human") in zip(flags, flags[1:]):
        contract.fail("--judge human: one person answers. Start it with python, not torchrun")
    if SIZE > 1:
        join_processes()
        replace_functions()
    importlib.import_module(stage[:-3]).main(flags)


if __name__ == "__main__":
    contract.run_script(launch)
