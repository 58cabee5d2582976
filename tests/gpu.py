"""
What needs a GPU, most important first, each part with a time limit: see gpu.sh, which starts this.

stages      run.sh's commands on the GPU in bf16, beside the same commands on the CPU at the same time: are accuracies
            within twice their standard error?
training    fine-tuning and labelling with GPT-2-large's shape, beside a plain loop, Trainer and one row at a time
prompts     first words, in-context scoring and generation, beside one prompt at a time
memory      a Llama of 7B random weights under --lora 16 --gradient-checkpointing: peak memory, seconds a step
torchrun    a stage by the launcher in one process, weights split by FSDP2 over nccl
attention   torch's fused attention beside eager
compile     torch.compile beside none

Each part is a process of its own: one that fails or takes too long costs the others nothing. gpu.json is written anew
after each.
"""
import glob
import json
import multiprocessing
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
import jobs  # noqa: E402 (where it stands is said above)

SECONDS = {"stages": 130, "training": 100, "prompts": 80, "memory": 40, "torchrun": 40, "attention": 30, "compile": 50}
BENCH = {"training": "fine-tune,trainer,one row,label", "prompts": "first word,generate,in-context", "memory": "lora",
         "attention": "attention", "compile": "compile"}


def make_tree(folder):
    """A copy of the repository without runs, so that runs there touch nothing here"""
    ignore = shutil.ignore_patterns(".*", "seed*", "transcripts", "__pycache__", "docs")
    return shutil.copytree(ROOT, folder, ignore=ignore)


def run_part(context, words, log, seconds):
    """`python WORDS` in a process of its own -> {"exit": 0, "seconds": ...}; exit None: it took too long"""
    with open(log, "a", encoding="utf-8") as f:
        f.write(f"\n$ python {shlex.join(words)}\n")
    started = time.time()
    process = context.Process(target=jobs.become, args=(words, log))
    process.start()
    process.join(max(1, seconds))
    code = process.exitcode
    if code is None:
        process.kill()
        process.join()
    return {"exit": code, "seconds": round(time.time() - started, 1)}


def accuracies(tree):
    """-> {run: (accuracy on test, its standard error)} of all finished runs in a copy of the repository"""
    found = {}
    for path in glob.glob(os.path.join(tree, "data", "tinyworld", "seed0", "*", "results.json")):
        with open(path, encoding="utf-8") as f:
            test = json.load(f).get("test") or {}
        if "se" in test:
            found[os.path.basename(os.path.dirname(path))] = test["accuracy"], test["se"]
    return found


def compare_accuracies(here, there):
    """Two of these -> {run: {"gpu", "cpu", "agree"}}: do they differ by less than two standard errors?"""
    return {name: {"gpu": here[name][0], "cpu": there[name][0],
                   "agree": abs(here[name][0] - there[name][0]) <= 2 * max(here[name][1], there[name][1])}
            for name in sorted(here.keys() & there.keys())}


def run_stages(context, tree, device, log, tiny):
    """run.sh's commands one by one on the device -> {command: as run_part}"""
    flags = ["--device", device, "--dtype", "bf16", *(["--max-rows", "24", "--epochs", "1"] if tiny else [])]
    printed = subprocess.run(["bash", "run.sh", "--dry-run", *flags], cwd=tree, check=True, capture_output=True,
                             text=True).stdout
    commands = [shlex.split(line)[2:] for line in printed.splitlines()]
    end = time.time() + SECONDS["stages"]
    os.chdir(tree)
    return {shlex.join(words): run_part(context, words, log, end - time.time())
            for words in (commands[:2] if tiny else commands)}


def run_bench(context, name, tree, device, log, tiny):
    """One part of the benchmark -> as run_part, with what bench.py has measured"""
    sizes = ["--rounds", "2", "--scale", "0.5", "--shapes", "gpt2-large", "--llama", "llama-7b"]
    if tiny:
        sizes = ["--rounds", "0", "--scale", "0.01", "--shapes", "tiny", "--llama", "llama-tiny"]
    path = os.path.join(tree, name + ".json")
    words = [os.path.join(tree, "tests", "bench.py"), "--device", device, "--dtype", "bf16", *sizes,
             "--cases", BENCH[name], "--out", path]
    found = run_part(context, words, log, SECONDS[name])
    if os.path.exists(path):
        with open(path, encoding="utf-8") as f:
            found |= json.load(f)
    return found


def run_torchrun(tree, device, log, tiny):
    """A stage by the launcher in one process, as worker() below -> its exit code; None: it took too long"""
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1",
             os.path.join(tree, "tests", "gpu.py"), "worker", device, "24" if tiny else "2000"]
    with open(log, "a", encoding="utf-8") as f:
        try:
            done = subprocess.run([sys.executable, *words], stdout=f, stderr=f, timeout=SECONDS["torchrun"])
        except subprocess.TimeoutExpired:
            return {"exit": None}
    return {"exit": done.returncode}


def describe(device):
    """The card, versions, and which of the optional packages are there"""
    code = ("import importlib.util, json, sys, torch, transformers; "
            "print(json.dumps({'torch': torch.__version__, 'transformers': transformers.__version__, "
            "'python': sys.version.split()[0], 'card': torch.cuda.get_device_name() if torch.cuda.is_available() "
            "else 'none', **{name: importlib.util.find_spec(name) is not None for name in ('peft', 'accelerate')}}))")
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return {"date": time.strftime("%Y-%m-%d"), "device": device, **json.loads(printed)}


def main():
    out = os.path.abspath(sys.argv[1])
    tiny = "--tiny" in sys.argv[2:]
    device = "cpu" if tiny else "cuda"
    if tiny:                                               # a test, perhaps on a busy machine
        SECONDS.update(dict.fromkeys(SECONDS, 600))
    os.makedirs(out, exist_ok=True)
    log = os.path.join(out, "gpu.log")
    open(log, "w", encoding="utf-8").close()
    found = describe(device)

    def save(**parts):
        found.update(parts)
        with open(os.path.join(out, "gpu.json"), "w", encoding="utf-8") as f:
            json.dump(found, f, indent=1)
        print(time.strftime("%X"), "done:", *parts, flush=True)
    can_fork = tiny and sys.platform == "linux"
    context = multiprocessing.get_context("fork" if can_fork else "spawn")
    if can_fork:
        jobs.import_libraries(1)
    with tempfile.TemporaryDirectory() as folder:
        tree = make_tree(os.path.join(folder, "gpu"))
        cpu_tree = tree
        if not tiny:
            cpu_tree = make_tree(os.path.join(folder, "cpu"))
            env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "2"}
            on_cpu = subprocess.Popen(["bash", "run.sh", "--device", "cpu", "--jobs", "4"], cwd=cpu_tree, env=env,
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        save(stages=run_stages(context, tree, device, log, tiny))
        for name in ("training", "prompts", "memory"):
            save(**{name: run_bench(context, name, tree, device, log, tiny)})
        save(torchrun=run_torchrun(tree, device, log, tiny))
        for name in ("attention",) if tiny else ("attention", "compile"):      # to compile takes a minute
            save(**{name: run_bench(context, name, tree, device, log, tiny)})
        if not tiny and on_cpu.poll() is None:
            on_cpu.kill()                                  # what it has finished is compared
        save(accuracies=compare_accuracies(accuracies(tree), accuracies(cpu_tree)))


def worker(device, max_rows):
    """torchrun's one process: what several processes do, in one. The stage is imported with the replaced functions."""
    import distributed
    distributed.join_processes()
    distributed.replace_functions()
    import train_weak
    train_weak.main(["--out", "split", "--device", device, "--max-rows", max_rows, "--epochs", "1"])


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        worker(*sys.argv[2:])
    else:
        main()
