"""
CDEval's public questionnaire: 2,953 situations with two options each, from the hub or from a file.

$ python data/cdeval/prepare.py                                # from the hub, Rykeryuhang/CDEval
$ python data/cdeval/prepare.py --from-file CDEval.json        # the same file, fetched by hand
$ python cdeval.py --questions public --out public

One raw row:   {"Dimension": "PDI", "Domain": "education", "Question": "...", "Option 1": "...", "Option 2": "..."}
becomes the same with an id, "pdi-17": the 17th of its dimension in the order of the file. Option 1 is the high pole.

Writes  data/cdeval/public.json, and public-source.json: the commit it was read from, or the fingerprint of the file

The paper's figure counts 512 PDI, 472 IDV, 530 UAI, 452 MAS, 485 LTO and 502 IVR. Anything else is another set than the published one, and
refused. Our own questionnaire, own.json, needs none of this.
"""
import argparse, json, os, sys
from collections import Counter

FOLDER = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(FOLDER))
from hub import fail, fingerprint, is_text, open_hub
from contract import write_file

REPO = "Rykeryuhang/CDEval"
COUNTS = {"PDI": 512, "IDV": 472, "UAI": 530, "MAS": 452, "LTO": 485, "IVR": 502}
COLUMNS = ("Dimension", "Domain", "Question", "Option 1", "Option 2")


def read_raw(path):
    """A JSON list, or one JSON object a line -> list"""
    try:
        with open(path, encoding="utf-8-sig") as f:
            text = f.read()
        try:
            return json.loads(text)
        except ValueError:
            return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        fail(f"cannot read {path}: {error}. Give CDEval.json as the hub has it")


def check(raw, where):
    """Raw rows -> items with an id, in their order; anything unexpected is one clear line."""
    count, items = Counter(), []
    if not isinstance(raw, list):
        fail(f"{where}: not a list of questions")
    for n, row in enumerate(raw, 1):
        lacks = [c for c in COLUMNS if not isinstance(row, dict) or not is_text(row.get(c))]
        if lacks:
            fail(f"{where}, row {n}: no {lacks[0]!r}; the columns must be {', '.join(COLUMNS)}")
        kind = row["Dimension"].strip().upper()
        if kind not in COUNTS:
            fail(f"{where}, row {n}: dimension {row['Dimension']!r} is none of {', '.join(COUNTS)}")
        count[kind] += 1
        items.append({"id": f"{kind.lower()}-{count[kind]}"} | {c: row[c].strip() for c in COLUMNS} | {"Dimension": kind})
    wrong = [f"{kind} {count[kind]:,} instead of {expected:,}" for kind, expected in COUNTS.items() if count[kind] != expected]
    if wrong:
        fail(f"{where} is not the published set of {sum(COUNTS.values()):,} questions: it has {', '.join(wrong)}. "
             "Choose another --revision, or give the file to cdeval.py --questions as it is")
    return items


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from-file", default="", help="CDEval.json, for machines without a hub")
    parser.add_argument("--revision", default="main", help="commit, branch or tag of the dataset on the hub (default: main)")
    args = parser.parse_args()
    if args.from_file:
        raw = read_raw(args.from_file)
        source = {"dataset": REPO, "file": os.path.basename(args.from_file), "fingerprint": fingerprint(args.from_file)}
    else:
        splits, commit = open_hub(REPO, args.revision, ["train"], (
            f"Where there is a network:  hf download {REPO} --repo-type dataset --revision {args.revision} --local-dir cdeval-raw  then bring the "
            "folder here:  python data/cdeval/prepare.py --from-file cdeval-raw/CDEval.json"))
        raw, source = list(splits["train"]), {"dataset": REPO, "revision": args.revision, "commit": commit}
    items = check(raw, args.from_file or REPO)
    path = os.path.join(FOLDER, "public.json")
    write_file(path, "[\n" + ",\n".join(json.dumps(item, ensure_ascii=False) for item in items) + "\n]\n")
    write_file(os.path.join(FOLDER, "public-source.json"), json.dumps(source | {"questions": len(items), "written": fingerprint(path)}, indent=1))
    print(f"{len(items):,} questions: " + ", ".join(f"{kind} {n}" for kind, n in COUNTS.items()) + f"\nwrote {os.path.relpath(path)}")


if __name__ == "__main__":
    main()
