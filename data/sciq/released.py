"""
SciQ rows with the labels that other people's supervisors gave them: no supervisor has to be trained here.

FOLDER holds, each if it is there:

    sciq_gpt2_labels_seed{0,1,2,3}.parquet    question, answer, label, and p(yes) of gpt2, gpt2-medium, gpt2-large and
                                              gpt2-xl (github.com/mayankmahajan24/weak-to-strong): tasks sciq-gpt2-0...3
    sciq_qwen_labels.jsonl                    question, answer, label, and [p_no, p_yes] of Qwen-1.8B-chat, plain and
                                              with_knowledge (github.com/ADaM-BJTU/W2SG): tasks sciq-qwen, and
                                              sciq-qwen-pairs: which of a question's two answers is the right one?

$ python data/sciq/released.py FOLDER
$ python train_strong.py --task sciq-gpt2-0 --labels gpt2 --model google/gemma-3-270m --lr 2e-5
$ python ensemble.py --task sciq-gpt2-0 --supervisors all --combine bayes --out bayes      # nothing is trained
$ python data/sciq/released.py --measured     # runs of the four gpt2 tasks (seed k with file k) -> data/measured.json

The supervisors were fine-tuned on other rows, one half of SciQ for each file. The hash of the question decides its
split. The four gpt2 files share questions, and each has a quarter of all questions as its test: their tests are
disjoint, so that they count as four independent runs. train2 and valid are small, since each step of a real model takes
seconds on a CPU. What is left is train1, whose true labels the fusion rules of ensemble.py use.

A label of a pair is p(b is better) = sigma(log odds of b - log odds of a), from the labels of its two answers.

Needs   contract.py, metrics.py, data/tasks.py; with --measured also align_tasks.py, report.py
Writes  data/sciq-gpt2-{0,1,2,3}/, data/sciq-qwen/, data/sciq-qwen-pairs/: a task each, and a folder for each supervisor
"""
import argparse
import glob
import json
import os
import sys

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))       # data/
sys.path.insert(0, os.path.dirname(sys.path[0]))                                      # the repository's root
from contract import (
    fail, is_soft_label, is_text, labels_folder, lock_folder, read_json, read_results, read_rows, run_script,
    write_file)
from metrics import auroc, bootstrap, ece, sigmoid
from tasks import (
    DATA, SPLITS, hash_fraction, normalize, open_task, pair_row, read_table, row_id, short_hash, write_jsonl,
    write_task)

SIZES = {"valid": 50, "train2": 2000}                      # rows
GPT2 = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
QWEN = ("plain", "with_knowledge")
FILES = 4                                                  # of GPT-2's labels


def split_rows(rows, part, parts):
    """
    {split: rows}: the questions whose hash lies in the part-th of `parts` equal parts of [0, 1) are test. Of the others
    the first by another hash are valid and train2, and the rest is train1.
    """
    splits = {name: [] for name in SPLITS}
    for row in sorted(rows, key=lambda row: (hash_fraction("order " + row["group"]), row["text"])):
        if int(hash_fraction("released " + row["group"]) * parts) == part:
            splits["test"].append(row)
            continue
        for name, size in SIZES.items():
            # a question stays in one split, though it may have two rows
            if len(splits[name]) < size or splits[name][-1]["group"] == row["group"]:
                splits[name].append(row)
                break
        else:
            splits["train1"].append(row)
    return splits


def parse_p_yes(value):
    """p(yes) or [p_no, p_yes] -> the pair; anything else -> None"""
    pair = [1 - value, value] if isinstance(value, float) else value
    return pair if is_soft_label(pair) else None


def read_released(path, supervisors):
    """A file of released labels -> rows with "soft": {supervisor: [p_no, p_yes]}; of equal texts the first"""
    rows = {}
    for line, raw in read_table(path):
        if not (is_text(raw.get("question")) and is_text(raw.get("answer")) and raw.get("label") in (0, 1)):
            fail(f"{path}, row {line}: question and answer must be texts, and label 0 or 1")
        soft = {name: parse_p_yes(raw.get(name)) for name in supervisors}
        if None in soft.values():
            fail(f"{path}, row {line}: {', '.join(supervisors)} must be p(yes) or [p_no, p_yes]")
        text = f"Q: {raw['question'].strip()} A: {raw['answer'].strip()}"
        rows.setdefault(normalize(text), {"group": short_hash(raw["question"]), "text": text, "label": raw["label"],
                                          "question": raw["question"], "answer": raw["answer"], "soft": soft})
    return list(rows.values())


def pairs_of(rows):
    """The questions with one right and one wrong answer among these rows -> rows of two texts"""
    answers = {}
    for row in rows:
        answers.setdefault(row["group"], {0: [], 1: []})[row["label"]].append(row)
    pairs = []
    for group, of in answers.items():
        if len(of[0]) == len(of[1]) == 1:
            right, wrong = of[1][0], of[0][0]
            row = pair_row(right["text"], wrong["text"])
            a, b = (right, wrong) if row["label"] == 0 else (wrong, right)
            p_b = {name: float(sigmoid(log_odds(b["soft"][name]) - log_odds(a["soft"][name]))) for name in a["soft"]}
            pairs.append({"group": group, **row, "soft": {name: [1 - p, p] for name, p in p_b.items()}})
    return pairs


def log_odds(pair, eps=1e-6):
    """[p_no, p_yes] -> log p_yes - log p_no"""
    return np.log(max(pair[1], eps)) - np.log(max(pair[0], eps))


def write_released(task, path, supervisors, splits):
    """{split: rows with "soft"} -> data/<task>/, and a folder of labels for each supervisor"""
    folder = os.path.join(DATA, task)
    with open_task(folder):
        named = {name: [{"id": row_id(task, name, row), **row} for row in members] for name, members in splits.items()}
        for name in supervisors:
            with lock_folder(os.path.join(folder, name)):
                write_jsonl(os.path.join(folder, name, "labels.jsonl"),
                            [{"id": row["id"], "soft_label": row["soft"][name]} for row in sum(named.values(), [])])
        bare = {name: [{key: row[key] for key in row if key != "soft"} for row in members]
                for name, members in named.items()}
        write_task(folder, task, bare, os.path.basename(path), annotators=list(supervisors))


# --------------------------------------------------------------------------- one table over the four files

def describe(name):
    """
    A run, or one of GPT-2's label folders, over all files that have it -> {column: text}. Intervals are over files and
    questions, which no two tests share. Differences are on the same rows.
    """
    import align_tasks
    import report
    pairs = []
    triples = []
    scores = []
    for k in range(FILES):
        task = f"sciq-gpt2-{k}"
        folder = labels_folder(name, task, k)
        if not os.path.exists(os.path.join(folder, "labels.jsonl")):
            continue
        results = read_results(folder) if os.path.exists(os.path.join(folder, "results.json")) else {"config": {}}
        config = results["config"]
        p_yes, hits = report.predictions_on_test(task, folder, config.get("max_rows"))
        truth = np.array([row["label"] for row in read_rows(task, "test", config.get("max_rows"))])
        best = report.predictions_on_test(task, labels_folder(GPT2[-1], task, k), config.get("max_rows"))[1]
        pairs.append([best, hits])
        scores.append([auroc(p_yes, truth), ece(p_yes, truth), (p_yes > 0.5).mean(), results.get("seconds", np.nan)])
        if config.get("ceiling"):
            names = (config["supervisor"], name, config["ceiling"])
            triples.append([report.predictions_on_test(task, labels_folder(n, task, k), config["max_rows"])[1]
                            for n in names])
    n = min(len(hits) for _, hits in pairs)
    hits = np.array([[h[:n] for h in pair] for pair in pairs])                 # (files, 2, n)
    draws = bootstrap(hits, range(n))
    accuracy = hits[:, 1].mean()
    mean_auroc, mean_ece, says_yes, seconds = np.mean(scores, 0)
    texts = {"accuracy [95 %]": report.format_interval(accuracy, *np.percentile(draws[:, 1], [2.5, 97.5])),
             "AUROC": f"{mean_auroc:.3f}", "ECE": f"{mean_ece:.3f}", "says yes": f"{says_yes:.2f}",
             "seeds": str(len(pairs)), "n": f"{hits[:, 1].size:,}"}
    if name != GPT2[-1]:
        low, high = np.percentile(draws[:, 1] - draws[:, 0], [2.5, 97.5])
        texts["minus gpt2-xl [95 %]"] = report.format_difference(accuracy - hits[:, 0].mean(), low, high)
    if np.isfinite(seconds):
        texts["minutes"] = f"{seconds / 60:.1f}"
    if triples:
        triples = np.array([[h[:n] for h in triple] for triple in triples])
        found = align_tasks.recovered(triples, None, range(n))
        texts["gpt2"] = f"{triples[:, 0].mean():.3f}"
        texts["PGR [95 %]"] = (align_tasks.format_pgr(found["pgr"], found["interval"]) if "pgr" in found else "no gap")
    for point in results.get("curve") or ():               # icl.py, one file
        if "shots" in point:
            texts[f"{point['shots']} shots"] = f"{point['accuracy']:.3f}"
    return texts


def measure():
    """--measured: every run of the four tasks -> the task "sciq-gpt2" of data/measured.json"""
    from data.measured import add_texts
    path = os.path.join(DATA, "measured.json")
    if not glob.glob(os.path.join(DATA, "sciq-gpt2-*", "task.json")):
        fail("there are no tasks sciq-gpt2-0 ... 3. Make them first:  python data/sciq/released.py FOLDER")
    runs = {os.path.basename(os.path.dirname(found)) for k in range(FILES)
            for found in glob.glob(os.path.join(DATA, f"sciq-gpt2-{k}", f"seed{k}", "*", "results.json"))}
    measured = read_json(path)
    add_texts(measured.setdefault("sciq-gpt2", {}), {name: describe(name) for name in (*GPT2, *sorted(runs))})
    write_file(path, json.dumps(measured, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    for name, texts in measured["sciq-gpt2"].items():
        print(f"{name}: " + " | ".join(f"{column} {text}" for column, text in texts.items()))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default="", help="where the files of released labels are")
    parser.add_argument("--measured", action="store_true", help="no new tasks: put finished runs into measured.json")
    args = parser.parse_args(argv)
    if args.measured:
        measure()
        return
    folder = args.folder
    found = False
    for k in range(FILES):
        path = os.path.join(folder, f"sciq_gpt2_labels_seed{k}.parquet")
        if os.path.isfile(path):
            found = True
            write_released(f"sciq-gpt2-{k}", path, GPT2, split_rows(read_released(path, GPT2), k, FILES))
    path = os.path.join(folder, "sciq_qwen_labels.jsonl")
    if os.path.isfile(path):
        found = True
        splits = split_rows(read_released(path, QWEN), 0, 5)
        write_released("sciq-qwen", path, QWEN, splits)
        write_released("sciq-qwen-pairs", path, QWEN, {name: pairs_of(rows) for name, rows in splits.items()})
    if not found:
        fail(f"{folder or 'FOLDER'} has neither sciq_gpt2_labels_seed0.parquet (or 1, 2, 3) nor sciq_qwen_labels.jsonl")


if __name__ == "__main__":
    run_script(main)
