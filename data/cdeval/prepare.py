"""
CDEval's public questionnaire: 2,953 situations with two options each, from the hub or from a file.

$ python data/cdeval/prepare.py                                # from the hub, Rykeryuhang/CDEval
$ python data/cdeval/prepare.py --from-file CDEval.json        # the same file, fetched by hand
$ python cdeval.py --questions public --out public

One raw row  {"Dimension": "PDI", "Domain": "education", "Question": "...", "Option 1": "...", "Option 2": "..."}
becomes the same with an id, "pdi-17": the 17th of its dimension in the order of the file. Option 1 is the high pole.

The paper's figure counts 512 PDI, 472 IDV, 530 UAI, 452 MAS, 485 LTO and 502 IVR. A file with other counts is not the
published set, and is refused. The questionnaire of this project, own.json, needs none of this.

Needs   contract.py, data/hub.py, data/tasks.py
Writes  data/cdeval/public.json, and public-source.json: the commit that was read, or the fingerprint of the file
"""
import argparse
import json
import os
import sys
from collections import Counter

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))       # data/
sys.path.insert(0, os.path.dirname(sys.path[0]))                                      # the repository's root
from contract import fail, fingerprint, is_text, parse_json, read_text, run_script, write_file
from hub import open_hub
from tasks import write_json_list

FOLDER = os.path.dirname(os.path.abspath(__file__))
REPO = "Rykeryuhang/CDEval"
COUNTS = {"PDI": 512, "IDV": 472, "UAI": 530, "MAS": 452, "LTO": 485, "IVR": 502}
COLUMNS = ("Dimension", "Domain", "Question", "Option 1", "Option 2")


def read_raw(path):
    """A JSON list, or one JSON object a line -> list"""
    text = read_text(path)
    try:
        try:
            return parse_json(text)
        except ValueError:
            return [parse_json(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        fail(f"cannot read {path}: {error}. Give CDEval.json as the hub has it")


def make_items(raw, where):
    """Raw rows -> items with ids, in their order. Anything unexpected is one clear line."""
    if not isinstance(raw, list):
        fail(f"{where}: not a list of questions")
    count = Counter()
    items = []
    for n, row in enumerate(raw, 1):
        missing = [c for c in COLUMNS if not isinstance(row, dict) or not is_text(row.get(c))]
        if missing:
            fail(f"{where}, row {n}: no {missing[0]!r}; the columns must be {', '.join(COLUMNS)}")
        dimension = row["Dimension"].strip().upper()
        if dimension not in COUNTS:
            fail(f"{where}, row {n}: dimension {row['Dimension']!r} is none of {', '.join(COUNTS)}")
        count[dimension] += 1
        texts = {c: row[c].strip() for c in COLUMNS}
        items.append({"id": f"{dimension.lower()}-{count[dimension]}"} | texts | {"Dimension": dimension})
    wrong = [f"{d} {count[d]:,} instead of {expected:,}" for d, expected in COUNTS.items() if count[d] != expected]
    if wrong:
        fail(f"{where} is not the published set of {sum(COUNTS.values()):,} questions: it has {', '.join(wrong)}. "
             "Choose another --revision, or give the file to cdeval.py --questions as it is")
    return items


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from-file", default="", help="CDEval.json, for machines without a hub")
    parser.add_argument("--revision", default="main", help="commit, branch or tag on the hub (default: main)")
    return parser


def main(argv=None):
    args = build_parser().parse_args(argv)
    if args.from_file:
        raw = read_raw(args.from_file)
        source = {"dataset": REPO, "file": os.path.basename(args.from_file), "fingerprint": fingerprint(args.from_file)}
    else:
        advice = ("--local-dir cdeval-raw  then bring the folder cdeval-raw here:  "
                  "python data/cdeval/prepare.py --from-file cdeval-raw/CDEval.json")
        splits, commit = open_hub(REPO, args.revision, ["train"], advice)
        raw = list(splits["train"])
        source = {"dataset": REPO, "revision": args.revision, "commit": commit}
    items = make_items(raw, args.from_file or REPO)
    path = os.path.join(FOLDER, "public.json")
    write_json_list(path, items)
    source |= {"questions": len(items), "written": fingerprint(path)}
    write_file(os.path.join(FOLDER, "public-source.json"), json.dumps(source, indent=1))
    print(f"{len(items):,} questions: " + ", ".join(f"{d} {n}" for d, n in COUNTS.items()))
    print(f"wrote {os.path.relpath(path)}")


if __name__ == "__main__":
    run_script(main)
