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
"""
import argparse, csv, hashlib, json, os, re, sys

DATA = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
YES = {"1", "1.0", "true", "yes"}
NO = {"0", "0.0", "false", "no"}
FEWEST = 40                                # groups; fewer cannot fill four splits


def fail(message):
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


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


def check(path, table, text, label, group):
    """-> rows {"text", "label", "group"}; one line for the first thing that is wrong"""
    columns = sorted({str(key) for _, row in table for key in row})
    for name in (text, label, *([group] if group else [])):
        if name not in columns:
            fail(f"{path} has no column {name!r}; it has {', '.join(columns) or 'none'}")
    rows = []
    for number, row in table:
        body, given = row.get(text), row.get(label)
        if not isinstance(body, str) or not body.strip():
            fail(f"{path}, line {number}: empty text in column {text!r}")
        if body.encode("utf-8", "ignore").decode() != body:
            fail(f"{path}, line {number}: half a character (a lone surrogate) in column {text!r}")
        if read_label(given) is None:
            fail(f"{path}, line {number}: label {str(given)[:40]!r} in column {label!r} is none of 0/1, true/false, yes/no")
        if group and row.get(group) in (None, ""):
            fail(f"{path}, line {number}: empty group in column {group!r}")
        rows.append({"text": body.strip(), "label": read_label(given), "group": str(row[group]) if group else None})
    if len({row["label"] for row in rows}) < 2:
        fail(f"{path}: column {label!r} holds one value only; a binary task needs both")
    return rows


def merge(rows):
    """
    Drop doubles, and let rows that share a group or a text share one group name (by union-find over both).

    -> (rows with final groups, number of doubles, number of contradictory rows)
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
    kept, seen = [], set()
    for row in rows:
        key = normal(row["text"])
        if len(labels[key]) == 1 and key not in seen:
            kept.append({**row, "group": hashlib.sha256(find("text " + key).encode()).hexdigest()[:12]})
        seen.add(key)
    contradictory = sum(len(labels[normal(row["text"])]) == 2 for row in rows)
    return kept, len(rows) - contradictory - len(kept), contradictory


def split_of(group):
    """test 20 %, valid 10 %, train1 and train2 35 % each, by the group's hash."""
    u = unit("split " + group)
    return "test" if u < 0.2 else "valid" if u < 0.3 else "train1" if u < 0.65 else "train2"


def write_lines(path, rows):
    with open(path + ".tmp", "w", encoding="utf-8") as f:
        f.writelines(json.dumps(row) + "\n" for row in rows)
    os.replace(path + ".tmp", path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", required=True, help="FILE.csv, .jsonl or .parquet")
    parser.add_argument("--text", required=True, help="column of the text to judge")
    parser.add_argument("--label", required=True, help="column of the label: 0/1, true/false or yes/no")
    parser.add_argument("--group", help="column of what must not be torn apart: question, document, author")
    parser.add_argument("--task", required=True, help="name of the new folder under data/")
    args = parser.parse_args()
    folder = os.path.join(DATA, args.task)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", args.task):
        fail(f"--task {args.task!r}: letters, digits, '-' and '_' only")
    if os.path.exists(os.path.join(folder, "prepare.py")):
        fail(f"--task {args.task!r} is taken by a task of this repository; choose another name")

    rows, doubles, contradictory = merge(check(args.rows, read_table(args.rows), args.text, args.label, args.group))
    if len({row["group"] for row in rows}) < FEWEST:
        fail(f"{args.rows}: {len({row['group'] for row in rows})} groups of usable rows, at least {FEWEST} are needed")
    splits = {name: [] for name in ("train1", "train2", "valid", "test")}
    for row in sorted(rows, key=lambda row: unit("order " + normal(row["text"]))):       # independent of the file's order
        split = split_of(row["group"])
        splits[split].append({"id": f"{args.task}-{split}-{hashlib.sha256(normal(row['text']).encode()).hexdigest()[:12]}",
                              "group": row["group"], "text": row["text"], "label": row["label"]})
    for split, members in splits.items():
        if len({row["label"] for row in members}) < 2:
            fail(f"{args.rows}: no {split} rows of both labels; more rows, or finer groups than {args.group!r}, are needed")

    os.makedirs(os.path.join(folder, "truth"), exist_ok=True)
    if os.path.exists(os.path.join(folder, "task.json")):
        os.remove(os.path.join(folder, "task.json"))       # until all files are new, the task is unfinished and no trainer takes it
    counts = {split: {"rows": len(r), "groups": len({x["group"] for x in r}), "share_yes": sum(x["label"] for x in r) / len(r)}
              for split, r in splits.items()}
    truth = [{"id": r["id"], "soft_label": [1.0 - r["label"], float(r["label"])]} for split in ("train2", "valid") for r in splits[split]]
    for split, members in splits.items():
        hidden = split in ("train2", "valid")
        write_lines(os.path.join(folder, split + ".jsonl"), [{k: v for k, v in r.items() if not (hidden and k == "label")} for r in members])
        print(f"{split:7s} {len(members):6,} rows of {counts[split]['groups']:6,} groups, {counts[split]['share_yes']:.1%} yes")
    write_lines(os.path.join(folder, "truth", "labels.jsonl"), truth)
    write_lines(os.path.join(folder, "task.json"),
                [{"task": args.task, "label_words": [" no", " yes"], "source": os.path.basename(args.rows), "splits": counts}])
    print(f"left out: {doubles:,} doubles, {contradictory:,} rows whose text has both labels\nwrote {os.path.relpath(folder)}")


if __name__ == "__main__":
    main()
