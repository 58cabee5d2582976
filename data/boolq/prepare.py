"""
BoolQ: yes/no questions about a passage (Clark et al. 2019), as in openai/weak-to-strong's release.

One raw row of the hub (invented here), and the row it becomes:

{"question": "is the great tit a migratory bird", "answer": false, "passage": "The great tit is a resident bird. Most stay all winter."}

{"id": "boolq-train1-...", "group": "...", "label": 0,
 "text": "Passage: The great tit is a resident bird. Most stay all winter.\\nQuestion: is the great tit a migratory bird"}

The label is the answer. The official train split becomes train1, train2 and valid, the official validation split is the test (there is no
other with labels). Several questions can share a passage: the passage is the group. About 62 % of the answers are yes: the release keeps
them, here they are cut to half.

$ python data/boolq/prepare.py
$ python data/boolq/prepare.py --from-file boolq-raw
"""
import os, sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from hub import arguments, prepare, yes_or_no


def rows_of(raw):
    """One raw row -> [row]"""
    return [{"group": raw["passage"], "text": f"Passage: {raw['passage']}\nQuestion: {raw['question']}", "label": yes_or_no(raw["answer"])}]


def main():
    args = arguments(__doc__, "boolq", sizes=True).parse_args()
    prepare(args, "boolq", "google/boolq", {"train": "train", "test": "validation"}, rows_of)


if __name__ == "__main__":
    main()
