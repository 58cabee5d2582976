"""
Your own rows: a table with a text column and a two-valued label column becomes a task folder that every script here takes.

$ python data/own/prepare.py --rows mails.csv --text body --label is_spam --task spam
$ python train_weak.py --task spam && python train_strong.py --task spam --labels truth --out ceiling
$ python train_strong.py --task spam --labels weak --ceiling ceiling

Reads   a .csv (with a header), .jsonl or .parquet file; parquet by the pyarrow that `datasets` brings
Writes  data/<task>/{train1,train2,valid,test}.jsonl, truth/labels.jsonl and, last, task.json

A fifth of the groups goes to test, an eighth of the rest to valid, and the remainder in halves to train1 and train2, by the hash of the
group: the same file gives the same splits, whatever the order of its rows. Rows with the same --group value (a conversation, a document,
an author) stay on one side of every split; so do rows whose texts are the same but for case and spacing. The same text with the same label
is kept once; with both labels it is contradictory: all its copies are left out, and counted.

A foreign supervisor (a crowd, an API, somebody's released labels) comes as one more column of the table, p_yes or [p_no, p_yes]. Each
--soft-label COLUMN becomes a supervisor's folder, data/<task>/COLUMN/labels.jsonl, and what it is worth is said at once. --text may be a
pattern of columns:

$ python data/own/prepare.py --rows judged.jsonl --text "Q: {question} A: {answer}" --group question --label label --soft-label plain --task judged
$ python train_strong.py --task judged --labels data/judged/plain

A student needs clean splits, a score to compare with a published one needs every line. So the labels cover the lines that were left out
too, under ids of their own, and truth/table.jsonl has all lines with their true labels: the scores printed are over all of them.
"""
import argparse, csv, hashlib, json, os, re, sys

DATA = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.dirname(DATA))
from contract import fail, fingerprint, hold, is_text, read_labels, read_lines, write_file, writing

YES = {"1", "1.0", "true", "yes"}
NO = {"0", "0.0", "false", "no"}
FEWEST = 40                                # groups; fewer cannot fill four splits


def read_table(path):
    """-> list of (line number, dict)"""
    if not os.path.isfile(path):
        fail(f"no file at {path}")
    number, reader = 1, None
    try:
        if path.endswith(".csv"):
            csv.field_size_limit(1 << 30)
            with open(path, encoding="utf-8-sig", newline="") as f:
                reader = csv.DictReader(f, strict=True)
                return [(reader.line_num, row) for row in reader]
        if path.endswith(".jsonl"):
            rows = []
            with open(path, encoding="utf-8-sig") as f:
                for number, line in enumerate(f, 1):
                    if line.strip():
                        rows.append((number, json.loads(line)))
                        if not isinstance(rows[-1][1], dict):
                            fail(f"{path}, line {number}: not a {{...}} object")
            return rows
        if path.endswith(".parquet"):
            import pyarrow.parquet                                            # comes with `datasets`
            return list(enumerate(pyarrow.parquet.read_table(path).to_pylist(), 1))
    except UnicodeDecodeError as error:
        fail(f"{path} is not UTF-8 (byte {error.start}). Save it as UTF-8, for example:  "
             f"iconv -f ITS-ENCODING -t utf-8 {path} > utf8-{os.path.basename(path)}")
    except (ValueError, csv.Error, RecursionError, OSError) as error:
        fail(f"{path}, line {reader.line_num if reader else number}: {str(error).splitlines()[0]}")
    fail(f"{path}: the ending must be .csv, .jsonl or .parquet")


def read_label(value):
    """0, 1, true, no, ... -> 0 or 1; anything else -> None"""
    word = str(value).strip().lower()
    return 1 if word in YES else 0 if word in NO else None


def normal(text):
    """
    Texts that differ in case and spacing alone are the same text.

    >>> normal("  Is gold\\nheavy? ")
    'is gold heavy?'
    """
    return " ".join(text.lower().split())


def unit(key):
    """A number in [0, 1) from the text alone."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:13], 16) / 16 ** 13


def read_soft(value):
    """
    What a supervisor says of a row, p_yes or (p_no, p_yes), as a pair; anything else -> None

    >>> read_soft(0.75), read_soft("0.75"), read_soft("[0.25, 0.75]"), read_soft("maybe")
    ([0.25, 0.75], [0.25, 0.75], [0.25, 0.75], None)
    """
    try:
        value = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return None
    pair = value if isinstance(value, list) else [1 - value, value] if type(value) in (int, float) else []
    good = len(pair) == 2 and all(type(p) in (int, float) and 0 <= p <= 1 for p in pair) and abs(sum(pair) - 1) < 0.01
    return [float(p) for p in pair] if good else None


def check(path, table, text, label, group, soft=()):
    """-> rows {"text", "label", "group", "line", "soft": {column: pair}}; one line for the first thing that is wrong"""
    columns, parts = sorted({str(key) for _, row in table for key in row}), re.findall(r"\{([^{}]+)\}", text) or [text]
    for name in (*parts, label, *soft, *([group] if group else [])):
        if name not in columns:
            fail(f"{path} has no column {name!r}; it has {', '.join(columns) or 'none'}")
    rows = []
    for number, row in table:
        given = row.get(label)
        for name in parts:
            if not isinstance(row.get(name), str) or not row[name].strip():
                fail(f"{path}, line {number}: empty text in column {name!r}")
            if not is_text(row[name]):
                fail(f"{path}, line {number}: half a character (a lone surrogate) in column {name!r}")
        if read_label(given) is None:
            fail(f"{path}, line {number}: label {str(given)[:40]!r} in column {label!r} is none of 0/1, true/false, yes/no")
        if group and row.get(group) in (None, ""):
            fail(f"{path}, line {number}: empty group in column {group!r}")
        pairs = {name: read_soft(row.get(name)) for name in soft}
        for name in soft:
            if pairs[name] is None:
                fail(f"{path}, line {number}: {str(row.get(name))[:40]!r} in column {name!r} is neither p_yes nor [p_no, p_yes] of 0 to 1")
        body = row[text] if parts == [text] else re.sub(r"\{([^{}]+)\}", lambda part: row[part[1]], text)
        rows.append({"text": body.strip(), "label": read_label(given), "group": str(row[group]) if group else None, "line": number, "soft": pairs})
    if len({row["label"] for row in rows}) < 2:
        fail(f"{path}: column {label!r} holds one value only; a binary task needs both")
    return rows


def merge(rows):
    """
    Drop doubles, and let rows that share a group or a text share one group name (by union-find over both).

    -> (rows with final groups, rows left out, number of doubles and number of contradictory rows among these)
    """
    parent = {}

    def find(x):
        while parent.setdefault(x, x) != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    labels = {}
    for row in rows:
        labels.setdefault(normal(row["text"]), set()).add(row["label"])
        if row["group"] is not None:
            a, b = find("group " + row["group"]), find("text " + normal(row["text"]))
            parent[max(a, b)] = min(a, b)
    kept, left_out, seen = [], [], set()
    for row in rows:
        key = normal(row["text"])
        good = len(labels[key]) == 1 and key not in seen
        (kept if good else left_out).append({**row, "group": hashlib.sha256(find("text " + key).encode()).hexdigest()[:12]})
        seen.add(key)
    contradictory = sum(len(labels[normal(row["text"])]) == 2 for row in rows)
    return kept, left_out, len(left_out) - contradictory, contradictory


def split_of(group):
    """test 20 %, valid 10 %, train1 and train2 35 % each, by the group's hash."""
    u = unit("split " + group)
    return "test" if u < 0.2 else "valid" if u < 0.3 else "train1" if u < 0.65 else "train2"


def write_lines(path, rows):
    write_file(path, "".join(json.dumps(row) + "\n" for row in rows))


def begin_task(folder):
    """Until task.json is written again, last of all, the task is unfinished and no trainer takes it."""
    hold(folder)
    with writing(folder):
        os.makedirs(os.path.join(folder, "truth"), exist_ok=True)
        if os.path.exists(os.path.join(folder, "task.json")):
            os.remove(os.path.join(folder, "task.json"))


def write_task(folder, task, splits, source, **more):
    """
    Four lists of rows with labels -> a task's folder in the form of contract.py; prints the counts.

    The labels of train2 and valid go to truth/labels.jsonl alone, so that a student cannot see them by accident. task.json comes last and
    records the source and what the other files hold.
    """
    begin_task(folder)
    counts = {split: {"rows": len(r), "groups": len({x["group"] for x in r}), "share_yes": sum(x["label"] for x in r) / len(r)}
              for split, r in splits.items()}
    truth = [{"id": r["id"], "soft_label": [1.0 - r["label"], float(r["label"])]} for split in ("train2", "valid") for r in splits[split]]
    for split, members in splits.items():
        hidden = split in ("train2", "valid")
        write_lines(os.path.join(folder, split + ".jsonl"), [{k: v for k, v in r.items() if not (hidden and k == "label")} for r in members])
        print(f"{split:7s} {len(members):6,} rows of {counts[split]['groups']:6,} groups, {counts[split]['share_yes']:.1%} yes")
    write_lines(os.path.join(folder, "truth", "labels.jsonl"), truth)
    files = {name: fingerprint(os.path.join(folder, name)) for name in (*(split + ".jsonl" for split in splits), "truth/labels.jsonl")}
    write_lines(os.path.join(folder, "task.json"),
                [{"task": task, "label_words": [" no", " yes"], "source": source, "splits": counts, "files": files, **more}])


def as_published(p_yes, labels):
    """
    Accuracy and ECE by the rule of most released code: a tie is a no, and the ten bins of confidence go from 0 to 1 (five stay empty).

    train_weak.py counts a tie half (a model that always says 0.5 knows nothing) and bins 0.5 to 1. Labels rounded to 8 bits tie often:

    >>> as_published([0.5, 0.5, 0.9, 0.2], [0, 1, 1, 0])     # (accuracy, ECE): 3 of 4 right, and bins 0.5, 0.8 and 0.9 off by 0, 0.2, 0.1
    (0.75, 0.075)
    """
    import numpy as np
    p_yes, labels = np.asarray(p_yes, float), np.asarray(labels)
    hit, confidence = (p_yes > 0.5) == (labels == 1), np.maximum(p_yes, 1 - p_yes)
    which = np.minimum((confidence * 10).astype(int), 9)
    return float(hit.mean()), round(float(sum(abs((confidence - hit)[which == b].sum()) for b in range(10)) / len(hit)), 6)


def report_supervisor(folder, name):
    """Read the labels back as a student does, join them with all lines of the table, and say what they are worth."""
    import numpy as np
    from train_weak import metrics
    rows = read_lines(os.path.join(folder, "truth", "table.jsonl"))
    soft = read_labels(os.path.join(folder, name), rows)
    m, (accuracy, ece) = metrics(soft, rows), as_published(soft[:, 1], [row["label"] for row in rows])
    print(f"{name}: accuracy {m['accuracy']:.2%} | AUROC {m['auroc']:.3f} | ECE {m['ece']:.3f} | says yes {m['says_yes']:.2f} of "
          f"{m['share_yes']:.2f} | {int(np.sum(soft[:, 1] == 0.5)):,} ties | n={m['n']:,}, all lines of the table\n"
          f"{name}: accuracy {accuracy:.2%} | AUROC {m['auroc']:.3f} | ECE {ece:.3f} by the rule of released code (a tie is a no, bins from 0)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", required=True, help="FILE.csv, .jsonl or .parquet")
    parser.add_argument("--text", required=True, help="column of the text to judge, or a pattern of columns: 'Q: {question} A: {answer}'")
    parser.add_argument("--label", required=True, help="column of the label: 0/1, true/false or yes/no")
    parser.add_argument("--group", help="column of what must not be torn apart: question, document, author")
    parser.add_argument("--soft-label", action="append", default=[], metavar="COLUMN",
                        help="column of a supervisor's p_yes or [p_no, p_yes]: becomes data/<task>/COLUMN/labels.jsonl (may be repeated)")
    parser.add_argument("--task", required=True, help="name of the new folder under data/")
    args = parser.parse_args()
    folder = os.path.join(DATA, args.task)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", args.task):
        fail(f"--task {args.task!r}: letters, digits, '-' and '_' only")
    if os.path.exists(os.path.join(folder, "prepare.py")):
        fail(f"--task {args.task!r} is taken by a task of this repository; choose another name")

    for name in args.soft_label:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) or re.fullmatch(r"truth|seed\d+", name):
            fail(f"--soft-label {name!r} becomes a folder: letters, digits, '-' and '_' only, and not 'truth' or 'seed0'; rename the column")

    table = check(args.rows, read_table(args.rows), args.text, args.label, args.group, args.soft_label)
    rows, left_out, doubles, contradictory = merge(table)
    if len({row["group"] for row in rows}) < FEWEST:
        fail(f"{args.rows}: {len({row['group'] for row in rows})} groups of usable rows, at least {FEWEST} are needed")
    splits = {name: [] for name in ("train1", "train2", "valid", "test")}
    everything = [{**row, "id": f"{args.task}-line-{row['line']}"} for row in left_out]
    for row in sorted(rows, key=lambda row: unit("order " + normal(row["text"]))):       # independent of the file's order
        split = split_of(row["group"])
        name = f"{args.task}-{split}-{hashlib.sha256(normal(row['text']).encode()).hexdigest()[:12]}"
        splits[split].append({"id": name, "group": row["group"], "text": row["text"], "label": row["label"]})
        everything.append({**row, "id": name})
    for split, members in splits.items():
        if len({row["label"] for row in members}) < 2:
            fail(f"{args.rows}: no {split} rows of both labels; more rows, or finer groups than {args.group!r}, are needed")

    begin_task(folder)
    if args.soft_label:
        everything.sort(key=lambda row: row["line"])
        write_lines(os.path.join(folder, "truth", "table.jsonl"), [{k: row[k] for k in ("id", "group", "text", "label")} for row in everything])
    for name in args.soft_label:
        hold(os.path.join(folder, name))
        write_lines(os.path.join(folder, name, "labels.jsonl"), [{"id": row["id"], "soft_label": row["soft"][name]} for row in everything])
    write_task(folder, args.task, splits, os.path.basename(args.rows))
    print(f"left out: {doubles:,} doubles, {contradictory:,} rows whose text has both labels\nwrote {os.path.relpath(folder)}")
    for name in args.soft_label:
        report_supervisor(folder, name)


if __name__ == "__main__":
    main()
