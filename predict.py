"""
Apply a trained checkpoint to a new table: the same table comes back with p_yes and a label for each row.

$ python predict.py --model data/tickets/seed0/student --rows new.csv --out new-labelled.csv

The table may have any size: it is read, labelled and written in pieces of 1,000 rows. A run that was killed goes on
where it stopped when the same command is given again, and ends with the same bytes.

p_yes says how sure the model is; the label is yes where p_yes is above a threshold. The threshold is chosen on the true
labels of valid, which the student was not trained on: 1/2, unless another one is clearly better there (a student of a
rare class often orders the rows well and yet says yes to none). Rows with an empty text get neither.

A model is only as good on new rows as they are like its training rows. So a note says if the texts are much longer or
shorter than those of train2, or have more unknown words.

Needs   contract.py, metrics.py, models.py, data/tasks.py
Reads   the folder of a run of train_weak.py, train_strong.py, ...: its checkpoint, results.json and labels.jsonl; its
        task's rows; the table: .csv, .tsv, .json, .jsonl (also .gz) or .parquet
Writes  --out, a .csv, .tsv or .jsonl; while it is being written OUT.part and OUT.part.json, how far it has come
"""
import argparse
import csv
import io
import itertools
import json
import os
import re
import time

import numpy as np

from contract import (
    ROOT,
    append_file,
    catch_write_errors,
    fail,
    fingerprint,
    model_folder,
    number,
    path_name,
    read_config,
    read_json,
    read_labels,
    read_rows,
    run_script,
    write_file,
)
from data.tasks import fill_text, read_table, text_columns
from metrics import choose_threshold
from models import add_model_flags, load_classifier, pick_device, predict, tokenize

PIECE = 1000                         # rows
ADDED = ("p_yes", "label")           # columns


def words_of(text):
    """
    >>> words_of("Gold, isn't it?")
    ['gold', 'isn', 't', 'it']
    """
    return re.findall(r"\w+", text.lower())


def share_unknown(texts, known):
    """The share of words that are not in a set of known ones."""
    words = [word for text in texts for word in words_of(text)]
    return sum(word not in known for word in words) / max(1, len(words))


def unlike_training(texts, train_texts):
    """
    How new texts differ from the training texts -> a sentence, "" if they do not. The share of unknown words is
    compared with that of the second half of the training texts given the first half: some words are always new.

    >>> unlike_training(["eins zwei drei"] * 20, ["one two three"] * 40)
    '100 % of their words are unknown (0 % among the training texts)'
    """
    parts = []
    length, train_length = (float(np.mean([len(words_of(text)) for text in t])) for t in (texts, train_texts))
    if not 0.5 <= length / max(train_length, 1) <= 2:
        parts.append(f"they have {length:.0f} words on average, the training texts {train_length:.0f}")
    half = len(train_texts) // 2
    usual = share_unknown(train_texts[half:], {word for text in train_texts[:half] for word in words_of(text)})
    unknown = share_unknown(texts, {word for text in train_texts for word in words_of(text)})
    if unknown > 2 * usual + 0.05:
        parts.append(f"{100 * unknown:.0f} % of their words are unknown ({100 * usual:.0f} % among the training texts)")
    return "; ".join(parts)


def read_run(folder):
    """
    What a run's folder tells about its model: (config, threshold, what it was chosen on, the task.json, texts
    of train2). For any other model nothing is known, and the threshold is 1/2.
    """
    config = read_config(folder) if os.path.exists(os.path.join(folder, "results.json")) else {}
    if config.get("role") == "oversight" or config.get("control") == "untrained" and config.get("truth_budget"):
        fail(f"--model {folder}: its checkpoint alone does not make its labels: they are calibrated, or it reads "
             "transcripts")
    task = os.path.join(ROOT, "data", str(config.get("task")))
    if not os.path.exists(os.path.join(task, "task.json")):
        return config, 0.5, "its task is not there to choose it on", {}, []
    valid = read_rows(config["task"], "valid", config.get("max_rows"), may_be_empty=True)
    truth = read_labels(os.path.join(task, "truth"), valid, gaps=True)[:, 1]
    p_yes = read_labels(folder, valid, gaps=True)[:, 1]
    known = np.isfinite(truth) & np.isfinite(p_yes)
    threshold = choose_threshold(p_yes[known], truth[known])
    texts = [row["text"] for row in read_rows(config["task"], "train2", 2000)]
    chosen_on = f"chosen on {known.sum():,} valid rows" if known.any() else "valid has no true labels to choose it on"
    return config, threshold, chosen_on, read_json(os.path.join(task, "task.json")), texts


def open_texts(args, n_done):
    """
    The table, piece by piece -> (its columns, the first texts, an iterator of (rows, texts)). A text is None if it is
    empty.

    n_done   rows that are labelled already
    """
    def text_of(line, row):
        return fill_text(row, args.text, f"{args.rows}, line {line}")

    table = read_table(args.rows)
    first = list(itertools.islice(table, PIECE))
    columns = list(dict.fromkeys(name for _, row in first for name in row))
    for name in text_columns(args.text):
        if name not in columns:
            fail(f"{args.rows} has no column {name!r}; it has {', '.join(map(str, columns)) or 'none'}. Name the "
                 "column of the texts with --text")
    for name in set(ADDED) & set(columns):
        fail(f"{args.rows} has a column {name!r} already; rename it, since predict.py adds one")

    def pieces():
        rest = itertools.islice(itertools.chain(first, table), n_done, None)
        while piece := list(itertools.islice(rest, PIECE)):
            for line, row in piece:
                new = [name for name in row if name not in columns]
                if new and not args.out.endswith(".jsonl"):
                    fail(f"{args.rows}, line {line}: the column {new[0]!r} is new here; give an --out that ends in "
                         ".jsonl")
            yield [row for _, row in piece], [text_of(line, row) for line, row in piece]
    return columns, [text for text in (text_of(line, row) for line, row in first) if text], pieces()


def format_rows(rows, columns, path):
    """Rows -> text in the format of a file's ending"""
    if path.endswith(".jsonl"):
        return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    out = io.StringIO()
    writer = csv.writer(out, delimiter="\t" if path.endswith(".tsv") else ",", lineterminator="\n")
    writer.writerows([row.get(name) for name in columns] for row in rows)
    return out.getvalue()


def label_rows(rows, texts, model, tokenizer, max_length, threshold, names, args, device):
    """Rows and their texts (None: empty) -> rows with p_yes and label, each None where there is no text"""
    known = [k for k, text in enumerate(texts) if text]
    p_yes = [None] * len(rows)
    if known:
        ids = tokenize(tokenizer, [{"id": str(k), "text": texts[k]} for k in known], max_length)
        for k, pair in zip(known, predict(model, tokenizer, ids, device, args.dtype)):
            p_yes[k] = float(f"{pair[1]:.6g}")
    labels = [None if p is None else names[int(p > threshold)] for p in p_yes]
    return [{**row, "p_yes": p, "label": label} for row, p, label in zip(rows, p_yes, labels)]


def start_or_resume(path, config):
    """
    OUT.part.json says how far the same command came before it was killed; half a piece after that is cut off.

    returns   {"config", "bytes", "rows", "empty", "yes"}
    """
    part = path + ".part"
    if os.path.isfile(part) and not os.path.islink(part) and os.path.isfile(part + ".json"):
        progress = read_json(part + ".json")
        if progress.get("config") == config and os.path.getsize(part) >= progress["bytes"]:
            print(f"going on after {progress['rows']:,} rows that are labelled already")
            with catch_write_errors(part), open(part, "r+b") as f:
                f.truncate(progress["bytes"])
            return progress
    write_file(part, "")
    return {"config": config, "bytes": 0, "rows": 0, "empty": 0, "yes": 0}


def label_table(args, config, threshold, names, train_texts):
    """
    Read the table piece by piece, label it, write it to OUT.part. -> (progress as in start_or_resume, rows a second)
    """
    from tqdm import tqdm
    _, first_texts, _ = open_texts(args, 0)
    unlike = unlike_training(first_texts, train_texts) if first_texts and train_texts else ""
    if unlike:
        print(f"WARNING: the texts look unlike the training rows: {unlike}")
    device = pick_device(args.device)
    model, tokenizer, max_length = load_classifier(args.model, "random", [], device, args)
    if not (model.config.architectures or [""])[0].endswith("ForSequenceClassification"):
        fail(f"--model {args.model} is no classifier. Give the folder of a run of train_strong.py or train_weak.py")
    progress = start_or_resume(args.out, config)           # only now: a table or model that is wrong leaves no file
    columns, _, pieces = open_texts(args, progress["rows"])
    columns += ADDED
    before = progress["rows"]
    started = time.time()
    with tqdm(desc="labelling", unit="row", initial=progress["rows"], disable=None, leave=False) as bar:
        for rows, texts in pieces:
            rows = label_rows(rows, texts, model, tokenizer, max_length, threshold, names, args, device)
            text = format_rows(rows, columns, args.out)
            if not progress["rows"] and not args.out.endswith(".jsonl"):
                text = format_rows([dict(zip(columns, columns))], columns, args.out) + text
            append_file(args.out + ".part", text)
            progress["bytes"] += len(text.encode("utf-8"))
            progress["rows"] += len(rows)
            progress["empty"] += sum(row["label"] is None for row in rows)
            progress["yes"] += sum(row["label"] == names[1] for row in rows)
            write_file(args.out + ".part.json", json.dumps(progress))
            bar.update(len(rows))
    return progress, (progress["rows"] - before) / (time.time() - started)


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=path_name, required=True, help="the folder of a run, or any classifier with two classes")
    add("--rows", required=True, help="the table: .csv, .tsv, .json, .jsonl (also .gz) or .parquet")
    add("--text", help="column of the text, or a pattern of columns (default: that of the task's own table)")
    add("--out", required=True, help="where to: a .csv, .tsv or .jsonl file")
    add("--threshold", type=number(float, 0, 1), default=None,
        help="label yes above this p_yes (default: chosen on the true labels of valid)")
    add_model_flags(parser)
    return parser


def check_args(args):
    if not args.out.endswith((".csv", ".tsv", ".jsonl")):
        fail(f"--out {args.out}: the ending must be .csv, .tsv or .jsonl")
    if os.path.exists(args.out):
        fail(f"--out {args.out} exists already; remove it or choose another name")
    if not os.path.isfile(args.rows):
        fail(f"no file at {args.rows}")


def main(argv=None):
    parser = build_parser()
    args = parser.parse_args(argv)
    check_args(args)
    run, threshold, chosen_on, task, train_texts = read_run(args.model)
    names = task.get("names", ["no", "yes"])
    args.text = args.text or task.get("text", "text")
    for key in ("max_length", "truncate"):                 # the model reads rows as it did in training
        if getattr(args, key) == parser.get_default(key):
            setattr(args, key, run.get(key, getattr(args, key)))
    if args.threshold is not None:
        threshold = args.threshold
        chosen_on = "by --threshold"
    config = {"model": fingerprint(model_folder(args.model)), "rows": fingerprint(args.rows), "text": args.text,
              "threshold": threshold, "names": names, "max_length": args.max_length, "truncate": args.truncate}
    progress, rate = label_table(args, config, threshold, names, train_texts)
    with catch_write_errors(args.out):
        os.remove(args.out + ".part.json")
        os.replace(args.out + ".part", args.out)
    n = progress["rows"] - progress["empty"]
    empty = f" ({progress['empty']:,} more have no text)" if progress["empty"] else ""
    print(f"labelled {n:,} rows{empty} | says {names[1]} {progress['yes'] / max(1, n):.2f} | threshold "
          f"{threshold:.3g}, {chosen_on} | {rate:,.0f} rows/s\n"
          f"wrote {os.path.relpath(args.out)}")


if __name__ == "__main__":
    run_script(main)
