"""
More than one GPU, or more than one machine: the same scripts, the same results.

$ torchrun --nproc-per-node 4 train_weak.py                       # four processes, a GPU each
$ torchrun --nproc-per-node 4 train_strong.py --labels weak --ceiling ceiling
$ torchrun --nproc-per-node 4 icl.py                              # prompts are judged, and
$ torchrun --nproc-per-node 4 debate.py                           # debates written, by four at a time

A model of P parameters needs 16 P bytes to be trained (weights, gradients and Adam's two moments, 4 bytes each), and one GPU holds perhaps
80 GB. Two ideas help, and both are here:

1) Split the rows. Every process takes its part of each batch and of whatever is labelled. The batch stays what --batch-size says, its rows
   and their order too; the gradient is the sum over the processes of (their rows' losses / rows of the whole batch), which is the mean over
   the batch however unequal the parts are. A loss that looks at the whole batch (the confidence loss ranks its rows) is given the scores of
   all rows, put together. Where a model writes, every process writes a block of rows of its own, which has its own seed: what is sampled does
   not depend on how many processes there are, and process 0 saves it block by block.
2) Split the weights (Zhao et al. 2023, https://arxiv.org/abs/2304.11277; torch's fully_shard). Every process keeps 1/N of each weight, of its
   gradient and of Adam's moments; process 0 alone reads the model, and hands it out layer by layer. A layer's weights are gathered just
   before the layer computes and dropped after it, and its gradient is summed where it is kept.

So a run of N processes does the arithmetic of one, in another order: fp32 loss curves agree to some 1e-6 (tests/test_distributed.py), and
the folder it leaves is the same; where nothing is trained it is the same byte for byte. Process 0 alone prints, writes and says whether a run is
done already. Scripts that were not made for several processes say so at once.

What one process does differently here is nothing: SIZE is 1 and every function below returns what it is given.
"""
import os, signal, sys

LAUNCHED = "TORCHELASTIC_RUN_ID" in os.environ             # torchrun says who we are
RANK, SIZE = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE")) if LAUNCHED else (0, 1)
SCRIPTS = ("train_weak.py", "train_strong.py", "icl.py", "debate.py")          # the stages that were made for it
HERE, SCRIPT = os.path.split(os.path.realpath(sys.argv[0]))

if SIZE > 1 and HERE == os.path.dirname(os.path.realpath(__file__)) and SCRIPT not in SCRIPTS:
    print(f"error: {SCRIPT} runs in one process: start it with python, not torchrun. Only {', '.join(SCRIPTS)} share their work", file=sys.stderr)
    raise SystemExit(2)


# --------------------------------------------------------------------------- who does what

def part(n, rank=RANK, size=SIZE):
    """
    Which of a batch's n rows a process takes, and how many of them count. All processes take equally many, because they must call the model
    equally often: where rows are short, row 0 is computed once more and does not count.

    >>> part(5, 0, 2), part(5, 1, 2), part(5, 0, 1)
    (([0, 2, 4], 3), ([1, 3, 0], 2), ([0, 1, 2, 3, 4], 5))
    """
    mine = list(range(rank, n, size))
    return mine + [0] * (-(-n // size) - len(mine)), len(mine)


def turns(work, rank=RANK, size=SIZE):
    """
    Which pieces of work a process does, equally many each again. -> list of (piece, does it count)

    >>> turns(["a", "b", "c"], 1, 2)
    [('b', True), ('a', False)]
    """
    mine, real = part(len(work), rank, size)
    return [(work[i], k < real) for k, i in enumerate(mine)]


def share_out(work, do):
    """
    Yields do(piece) for every piece of work, in their order, in every process; but each piece is done by one process alone, SIZE pieces at a time.
    A caller can save what has come before the next are done. The results travel between processes: texts, not tensors.

    >>> list(share_out([3, 1, 2], lambda n: n * "a"))
    ['aaa', 'a', 'aa']
    """
    for k in range(0, len(work), SIZE):
        those = work[k:k + SIZE]
        done = [do(those[RANK]) if RANK < len(those) else None]
        if SIZE > 1:
            import torch
            mine, done = done[0], [None] * SIZE
            torch.distributed.all_gather_object(done, mine)
        yield from done[:len(those)]


# --------------------------------------------------------------------------- what processes tell each other

def own_device(asked):
    """The GPU of this process, one each; with one process, what was asked for."""
    import torch
    return f"cuda:{os.environ['LOCAL_RANK']}" if SIZE > 1 and asked in ("", "cuda") and torch.cuda.is_available() else asked


def join():
    """Meet the other processes, and from now on be quiet unless this is process 0. If one of them dies, all end with one line."""
    import datetime, torch
    if SIZE == 1 or torch.distributed.is_initialized():
        return
    if RANK:
        os.environ["TQDM_DISABLE"] = "1"
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=datetime.timedelta(hours=1))

    def bereaved(*_):
        print(f"error: process {RANK} stops because another process of this run has died (its own line says why; if it has none it was killed, or out of memory). "
              "The run is not done, and no file is half-written: start the same command again", file=sys.stderr, flush=True)
        os._exit(1)

    def uncaught(kind, error, trace):
        about_peers = issubclass(kind, RuntimeError) and any(word in str(error).lower() for word in ("gloo", "nccl", "peer", "connection"))
        bereaved() if about_peers else sys.__excepthook__(kind, error, trace)

    signal.signal(signal.SIGTERM, bereaved)                # torchrun ends the others so
    sys.excepthook = uncaught


def agree(value):
    """What process 0 says, in every process: a decision that all must take alike."""
    if SIZE == 1:
        return value
    import torch
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def total(x):
    """Sum over the processes, in every process; x is overwritten. Where all but one hold zeros the sum is exact."""
    if SIZE > 1:
        import torch
        torch.distributed.all_reduce(x)
    return x


def whole_batch(scores, mine, real, n):
    """Scores of this process's rows (see part), (len(mine), K) -> scores of all n rows of the batch, (n, K), in every process."""
    if SIZE == 1:
        return scores
    everything = scores.new_zeros(n, *scores.shape[1:])
    everything[mine[:real]] = scores[:real]
    return total(everything)


def total_gradients(parameters):
    """Sum the gradients of weights that are whole in every process; those of split weights are summed already."""
    for p in parameters if SIZE > 1 else ():
        if p.grad is not None and not hasattr(p, "to_local"):
            total(p.grad)


# --------------------------------------------------------------------------- split weights

def hand_out(unit, device):
    """
    Weights and buffers that process 0 alone has read, in every process. What is split already is left as it is; what has two names (tied weights)
    stays one tensor.
    """
    import torch
    same = {}                                              # id of the old tensor -> (it, the new one); while it is kept no other has that id
    for module in unit.modules():
        for tensors in (module._parameters, module._buffers):
            for name, old in tensors.items():
                if old is not None and not hasattr(old, "to_local"):
                    if id(old) not in same:
                        new = old.detach().to(device).contiguous() if RANK == 0 else torch.empty(old.shape, dtype=old.dtype, device=device)
                        torch.distributed.broadcast(new, src=0)
                        same[id(old)] = old, torch.nn.Parameter(new, old.requires_grad) if tensors is module._parameters else new
                    tensors[name] = same[id(old)][1]


def shard(model, device):
    """
    Split all weights over the processes, in place. The unit that is gathered at a time is a layer; transformers names its class in
    _no_split_modules. A decoder is called as body and head apart (train_weak.classify), so each of the two is a unit of its own.

    Process 0 has the weights in the computer's memory, the others have none of them (device "meta"): unit by unit they are handed out and split,
    so no GPU, and no process but the first, ever holds more than its part and one unit.
    """
    if SIZE == 1:
        return model
    import torch, warnings
    from torch.distributed.fsdp import fully_shard
    warnings.filterwarnings("ignore", message=".*returned a view tensor")      # nobody changes it in place
    mesh = torch.distributed.init_device_mesh(torch.device(device).type, (SIZE,))
    layers = [m for m in model.modules() if type(m).__name__ in (model._no_split_modules or ())]
    for unit in [*layers, *([model.base_model, model.score] if hasattr(model, "score") else [model])]:
        hand_out(unit, device)
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)
        unit.set_gradient_divide_factor(1.0)               # gradients are to be added; fit has divided by the rows of the batch
        unit.set_force_sum_reduction_for_comms(True)       # gloo knows no other way
    return model


def local(tensor):
    """What of a weight this process holds."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def keep_weights(model):
    """A copy of the weights as they are now, in the computer's memory: each process copies what it holds."""
    return [local(p).detach().to("cpu", copy=True) for p in model.parameters()]


def put_back(model, kept):
    """Undo what training did since keep_weights."""
    for p, value in zip(model.parameters(), kept):
        local(p.data).copy_(value)


def set_weight(weight, value):
    """weight <- value, also where the weight is split; every process has the whole value."""
    if hasattr(weight, "to_local"):
        from torch.distributed.tensor import distribute_tensor
        value = distribute_tensor(value, weight.device_mesh, weight.placements, src_data_rank=None)
    weight.data.copy_(value)


def whole_weights(model):
    """All weights put together in process 0, as save_pretrained wants them. None where nothing is split, {} in other processes."""
    if not any(hasattr(p, "to_local") for p in model.parameters()):
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
