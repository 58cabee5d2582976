"""
Are a supervisor's errors missing knowledge? Accuracy on the facts that tiny-1a has read about, and on all others.

$ python data/tinyworld/known.py               # after train_weak.py and train_strong.py: weak, student, ceiling
$ python data/tinyworld/known.py --measured    # and into data/measured.json

Needs   contract.py, metrics.py, data/tinyworld/{corpus,pretrain}.py
Reads   data/tinyworld/test.jsonl; data/tinyworld/seed*/<run>/labels.jsonl
"""
import argparse
import glob
import json
import os
import sys

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(os.path.dirname(HERE)), os.path.dirname(HERE), HERE]

from contract import fail, read_json, read_labels, read_rows, run_script, write_file  # noqa: E402
from corpus import load_world  # noqa: E402
from metrics import bootstrap, correct  # noqa: E402
from pretrain import MODELS  # noqa: E402

RUNS = ("weak", "student", "student-logconf", "ceiling")
MEASURED = os.path.join(os.path.dirname(HERE), "measured.json")


def accuracy_where(mask, hits, groups):
    """
    Accuracy on some rows, over questions and seeds, as text. (N,) bool; (S, N) hits of S runs; N questions

    >>> accuracy_where(np.array([True, True, False]), np.array([[1.0, 1.0, 0.0]]), ["q1", "q2", "q3"])
    '1.000 [1.000, 1.000]'
    """
    hits = np.asarray(hits)[:, None, mask]
    low, high = np.percentile(bootstrap(hits, np.asarray(groups)[mask]), [2.5, 97.5]).clip(0, 1)
    return f"{hits.mean():.3f} [{low:.3f}, {high:.3f}]"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", action="store_true", help="put the table into data/measured.json too")
    args = parser.parse_args(argv)
    known = {fact["key"] for fact in load_world(MODELS["tiny-1a"][3])["facts"]}
    test = read_rows("tinyworld", "test")
    groups = [row["group"] for row in test]
    read = np.array([group in known for group in groups])
    labels = [row["label"] for row in test]
    texts = {}
    for run in RUNS:
        paths = sorted(glob.glob(os.path.join(HERE, "seed*", run, "labels.jsonl")))
        if paths:
            hits = [correct(read_labels(os.path.dirname(path), test)[:, 1], labels) for path in paths]
            texts[run] = {"seeds": str(len(paths)),
                          "facts that tiny-1a has read about": accuracy_where(read, hits, groups),
                          "all other facts": accuracy_where(~read, hits, groups)}
    if not texts:
        fail("no run of tinyworld is finished. First:  python train_weak.py")
    print(f"tiny-1a has read about {read.mean():.0%} of the {len(test):,} test rows")
    for run, columns in texts.items():
        print(f"{run}: " + " | ".join(f"{column} {text}" for column, text in columns.items()))
    if args.measured:
        from measured import add_texts
        measured = read_json(MEASURED)
        add_texts(measured.setdefault("tinyworld-known", {}), texts)
        write_file(MEASURED, json.dumps(measured, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


if __name__ == "__main__":
    run_script(main)
