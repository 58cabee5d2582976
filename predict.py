"""
Apply a trained checkpoint to a new table: the same table comes back with p_yes and a label for each row.

$ python predict.py --model data/tickets/seed0/student --rows new.csv --out new-labelled.csv

The table may have any size: it is read, labelled and written in pieces of 1,000 rows. A run that was killed goes on
where it stopped when the same command is given again, and ends with the same bytes. A table or a model that is
replaced meanwhile ends the run.

p_yes says how sure the model is; the label is yes where p_yes is above a threshold. The threshold is chosen on the true
labels of valid, which the student was not trained on: 1/2, unless another one is clearly better there (a student of a
rare class often orders the rows well and yet says yes to none). Rows with an empty text get neither.

A model is only as good on new rows as they are like its training rows. So a note says if the texts are much longer or
shorter than those of train2, or have more unknown words.

A reward model compares two texts: --text-a and --text-b name their columns, and p_yes is the probability that b is
better. Its threshold is 1/2.

Needs   contract.py, metrics.py, models.py, data/tasks.py
Reads   the folder of a run of train_weak.py, train_strong.py, ...: its checkpoint, results.json and labels.jsonl; its
        task's rows; the table: .csv, .tsv, .json, .jsonl (also .gz) or .parquet
Writes  --out, a .csv, .tsv or .jsonl; until it is complete OUT.part/, with the rows so far and how far they go
"""
import argparse
import csv
import glob
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import time

import numpy as np

from contract import (
    DAMAGE, ROOT, append_file, catch_write_errors, check_unchanged, digest_results, fail, fingerprint, is_text,
    loaded_code, lock_folder, model_folder, note_if_edited, note_if_stale, number, open_file, path_name, read_config,
    read_json, read_labels, read_results, read_rows, reject_damaged, run_script, text_keys, write_file)
from data.tasks import fill_texts, read_table, text_columns
from metrics import choose_threshold
from models import add_model_flags, open_checkpoint, pick_device, predict, tokenize

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
    of train2, the keys of a row's texts). For any other model nothing is known, and the threshold is 1/2.
    """
    runs = [] if os.path.isdir(folder) else glob.glob(
        os.path.join(ROOT, "data", "*", "seed*", glob.escape(folder), "checkpoint"))
    if runs:
        fail(f"--model {folder}: give the run's folder, as in {os.path.relpath(os.path.dirname(min(runs)))}")
    config = read_config(folder) if os.path.exists(os.path.join(folder, "results.json")) else {}
    if not config and {"results.json", "checkpoint"} <= set(os.listdir(folder) if os.path.isdir(folder) else ()):
        fail(f"{folder}/results.json does not say how the run was made. Repeat the run's command with --force")
    for name in ("labels.jsonl", "checkpoint") if config else ():
        path = os.path.join(folder, name)
        if os.path.exists(path):
            note_if_edited(path, fingerprint(path))
    if config:
        note_if_stale(folder)
    if config.get("role") == "writer":
        fail(f"--model {folder} writes text. Give a run of train_weak.py or train_strong.py")
    if config.get("role") == "oversight" or config.get("control") == "untrained" and config.get("truth_budget"):
        fail(f"--model {folder}: its checkpoint alone does not make its labels: they are calibrated, or it reads "
             "transcripts")
    task = os.path.join(ROOT, "data", str(config.get("task")))
    if not os.path.exists(os.path.join(task, "task.json")):
        if config:
            print(f"note: no {os.path.relpath(task, ROOT)}/task.json: the classes are called no and yes, the threshold "
                  'is 1/2, and the column of texts is "text" unless --text names it')
        return config, 0.5, "its task is not there to choose it on", {}, [], ("text",)
    valid = read_rows(config["task"], "valid", config.get("max_rows"), may_be_empty=True)
    truth = read_labels(os.path.join(task, "truth"), valid, gaps=True)[:, 1]
    p_yes = read_labels(folder, valid, gaps=True)[:, 1]
    known = np.isfinite(truth) & np.isfinite(p_yes)
    threshold = choose_threshold(p_yes[known], truth[known])
    rows = read_rows(config["task"], "train2", 2000)
    keys = text_keys(rows)
    texts = [row[key] for row in rows for key in keys]
    chosen_on = f"chosen on {known.sum():,} valid rows" if known.any() else "valid has no true labels to choose it on"
    if len(keys) > 1:
        threshold, chosen_on = 0.5, "as for all pairs"
    return config, threshold, chosen_on, read_spec(task, folder, config), texts, keys


def read_spec(task, folder, config):
    """The task.json of a run's task, for its names of the classes and its columns of texts; see data/own/prepare.py."""
    path = os.path.join(task, "task.json")
    spec = read_json(path)
    names = spec.get("names", ["no", "yes"])
    columns = [spec.get(key, key) for key in ("text", "text_a", "text_b")]
    if not (isinstance(names, list) and len(names) == 2 and all(map(is_text, [*names, *columns]))):
        fail(f"{path}: 'names' must be two texts, and 'text' one. Make the task again")
    name = os.path.relpath(path, ROOT)
    with reject_damaged(os.path.join(folder, "results.json")):
        if (then := read_results(folder).get("names", names)) != names:
            fail(f"{name} says {names[1]!r} for yes, and said {then[1]!r} when {folder} was made. Repeat that command")
    return spec


def patterns_of_texts(args, task, keys):
    """The columns or patterns of a row's texts: those of the flags, else of the task's own table -> {key: pattern}"""
    pair = {"text_a": args.text_a, "text_b": args.text_b}
    given = [key for key in ("text", "text_a", "text_b") if getattr(args, key)]
    if given and given not in (["text"], list(pair)) or given == ["text"] and len(keys) > 1:
        fail("give --text for a model that judges single texts, --text-a and --text-b for one that compares two")
    if given == list(pair):
        return pair
    return {key: args.text or task.get(key, key) for key in keys}


def open_texts(args, n_done):
    """
    The table, piece by piece -> (its columns, the first texts, an iterator of (rows, texts)). A row's texts are {key:
    text}, or None if one is empty.

    n_done   rows that are labelled already
    """
    def texts_of(line, row):
        return fill_texts(row, args.texts, f"{args.rows}, line {line}")

    table = read_table(args.rows)
    first = list(itertools.islice(table, PIECE))
    if not first:
        fail(f"{args.rows} has no rows, so there is nothing to label")
    columns = list(dict.fromkeys(name for _, row in first for name in row))
    for name in sum(map(text_columns, args.texts.values()), []):
        if name not in columns:
            fail(f"{args.rows} has no column {name!r}; it has {', '.join(map(str, columns))}. Name the "
                 f"column of the texts with {' and '.join('--' + key.replace('_', '-') for key in args.texts)}")
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
            yield [row for _, row in piece], [texts_of(line, row) for line, row in piece]
    first_texts = [text for line, row in first for text in (texts_of(line, row) or {}).values()]
    return columns, first_texts, pieces()


def format_rows(rows, columns, path):
    """Rows -> text in the format of a file's ending"""
    if path.endswith(".jsonl"):
        return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    out = io.StringIO()
    writer = csv.writer(out, delimiter="\t" if path.endswith(".tsv") else ",", lineterminator="\n")
    writer.writerows([row.get(name) for name in columns] for row in rows)
    return out.getvalue()


def label_rows(rows, texts, model, tokenizer, max_length, threshold, names, args, device):
    """Rows and their {key: text} (None: empty) -> rows with p_yes and label, each None where there is no text"""
    known = [k for k, filled in enumerate(texts) if filled]
    p_yes = [None] * len(rows)
    if known:
        ids = tokenize(tokenizer, [{"id": str(k), **texts[k]} for k in known], max_length)
        for k, pair in zip(known, predict(model, tokenizer, ids, device, args.dtype)):
            p_yes[k] = float(f"{pair[1]:.6g}")
    labels = [None if p is None else names[int(p > threshold)] for p in p_yes]
    return [{**row, "p_yes": p, "label": label} for row, p, label in zip(rows, p_yes, labels)]


def digest_start(path, n_bytes):
    """The sha256 of a file's first bytes, to be continued with update()"""
    digest = hashlib.sha256()
    with open_file(path) as f:
        while n_bytes > 0 and (block := f.read(min(n_bytes, 1 << 20))):
            digest.update(block)
            n_bytes -= len(block)
    return digest


def start_or_resume(part, config):
    """
    PART/progress.json says how far the same command came before it was killed; half a piece after that is cut off. If
    one of its two files is not as it was left, a note says so, and the table is labelled from its first row.

    returns   ({"config", "bytes", "rows", "empty", "yes"}, the sha256 of the rows that are labelled already)
    """
    path = os.path.join(part, "rows")
    start = {"config": config, "bytes": 0, "rows": 0, "empty": 0, "yes": 0}
    try:
        with open_file(os.path.join(part, "progress.json")) as f:
            progress = json.load(f)
        intact = progress["digest"] == digest_results(progress)
        if intact and progress["config"] == config:
            digest = digest_start(path, progress["bytes"])
            intact = progress["sha256"] == digest.hexdigest() and not os.path.islink(path)
            if intact:
                print(f"going on after {progress['rows']:,} rows that are labelled already")
                with catch_write_errors(path), open(path, "r+b") as f:
                    f.truncate(progress["bytes"])
                return {key: progress[key] for key in start}, digest
    except FileNotFoundError:
        intact = True                                      # nothing was begun
    except DAMAGE:
        intact = False
    if not intact:
        print(f"note: {os.path.relpath(part)} is damaged; the table is labelled from its first row")
    write_file(path, "")
    return start, hashlib.sha256()


def label_table(args, config, threshold, names, train_texts):
    """
    Read the table piece by piece, label it, write it to OUT.part/rows, and at the end to OUT. -> (progress as in
    start_or_resume, rows a second)
    """
    from tqdm import tqdm
    _, first_texts, _ = open_texts(args, 0)
    unlike = unlike_training(first_texts, train_texts) if first_texts and train_texts else ""
    if unlike:
        print(f"WARNING: the texts look unlike the training rows: {unlike}")
    device = pick_device(args.device)
    kind = "AutoModelForSequenceClassification"
    n_outputs = 1 if len(args.texts) > 1 else 2            # a reward model has one
    model, tokenizer, max_length = open_checkpoint(args.model, kind, device, args, frozen=True, num_labels=n_outputs)
    if not (model.config.architectures or [""])[0].endswith("ForSequenceClassification"):
        fail(f"--model {args.model} is no classifier. Give the folder of a run of train_strong.py or train_weak.py")
    second = model.config.id2label.get(1, "LABEL_1")
    if second != "LABEL_1":                                # a classifier from elsewhere
        print(f"note: p_yes and {names[1]!r} stand for {second!r}, the second class of the model")
    part = args.out + ".part"
    with lock_folder(part):                                # only now: a table or model that is wrong leaves no file
        progress, digest = start_or_resume(part, config)
        columns, _, pieces = open_texts(args, progress["rows"])
        columns += ADDED
        before = progress["rows"]
        started = time.time()
        with tqdm(desc="labelling", unit="row", initial=before, disable=None, leave=False) as bar:
            for rows, texts in pieces:
                rows = label_rows(rows, texts, model, tokenizer, max_length, threshold, names, args, device)
                text = format_rows(rows, columns, args.out)
                if not progress["rows"] and not args.out.endswith(".jsonl"):
                    text = format_rows([dict(zip(columns, columns))], columns, args.out) + text
                append_file(os.path.join(part, "rows"), text)
                digest.update(text.encode("utf-8"))
                progress["bytes"] += len(text.encode("utf-8"))
                progress["rows"] += len(rows)
                progress["empty"] += sum(row["label"] is None for row in rows)
                progress["yes"] += sum(row["label"] == names[1] for row in rows)
                saved = {**progress, "sha256": digest.hexdigest()}
                saved["digest"] = digest_results(saved)
                write_file(os.path.join(part, "progress.json"), json.dumps(saved))
                bar.update(len(rows))
        check_unchanged(config["inputs"], at_end=True)
        with catch_write_errors(args.out):
            os.replace(os.path.join(part, "rows"), args.out)
            shutil.rmtree(part)
    return progress, (progress["rows"] - before) / (time.time() - started)


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=path_name, required=True, help="the folder of a run, or any classifier with two classes")
    add("--rows", required=True, help="the table: .csv, .tsv, .json, .jsonl (also .gz) or .parquet")
    add("--text", help="column of the text, or a pattern of columns (default: that of the task's own table)")
    add("--text-a", metavar="TEXT", help="pairs: the same for one of the two texts")
    add("--text-b", metavar="TEXT", help="pairs: and for the other one, better where the label is yes")
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
    run, threshold, chosen_on, task, train_texts, keys = read_run(args.model)
    args.texts = patterns_of_texts(args, task, keys)
    names = task.get("names", ["no", "yes"] if len(args.texts) == 1 else ["a", "b"])
    for key in ("max_length", "truncate"):                 # the model reads rows as it did in training
        if getattr(args, key) == parser.get_default(key):
            setattr(args, key, run.get(key, getattr(args, key)))
    if args.threshold is not None:
        threshold = args.threshold
        chosen_on = "by --threshold"
    inputs = {os.path.relpath(path, ROOT) if os.path.exists(path) else path: fingerprint(path)
              for path in (model_folder(args.model), args.rows)}
    config = {"inputs": inputs, "code": loaded_code(__file__), "texts": args.texts, "threshold": threshold,
              "names": names, "dtype": args.dtype, "max_length": args.max_length, "truncate": args.truncate}
    progress, rate = label_table(args, config, threshold, names, train_texts)
    n = progress["rows"] - progress["empty"]
    empty = f" ({progress['empty']:,} more have no text)" if progress["empty"] else ""
    print(f"labelled {n:,} rows{empty} | says {names[1]} {progress['yes'] / max(1, n):.2f} | threshold "
          f"{threshold:.3g}, {chosen_on} | {rate:,.0f} rows/s\n"
          f"wrote {os.path.relpath(args.out)}")


if __name__ == "__main__":
    run_script(main)
