"""
BoolQ: yes/no questions about a passage (Clark et al. 2019), as in openai/weak-to-strong's release.

One raw row of the hub (invented here), and the row it becomes:

{"question": "is the great tit a migratory bird", "answer": false,
 "passage": "The great tit is a resident bird. Most stay all winter."}

{"id": "boolq-train1-...", "group": "...", "label": 0, "text":
 "Passage: The great tit is a resident bird. Most stay all winter.\\nQuestion: is the great tit a migratory bird"}

The label is the answer. The official train split becomes train1, train2 and valid. The official validation split is the
test, since no other split has labels. Several questions can share a passage, so the passage is the group. About 62 % of
the answers are yes. The release keeps them; here they are cut to half.

$ python data/boolq/prepare.py
$ python data/boolq/prepare.py --from-file boolq-raw

Needs  contract.py, data/hub.py, data/tasks.py
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))       # data/
sys.path.insert(0, os.path.dirname(sys.path[0]))                                      # the repository's root
from contract import run_script
from hub import build_parser, prepare
from tasks import binary_label


def rows_of(raw):
    """One raw row -> [row]"""
    text = f"Passage: {raw['passage']}\nQuestion: {raw['question']}"
    return [{"group": raw["passage"], "text": text, "label": binary_label(raw["answer"])}]


def main(argv=None):
    args = build_parser(__doc__, "boolq", sizes=True).parse_args(argv)
    prepare(args, "boolq", "google/boolq", {"train": "train", "test": "validation"}, rows_of)


if __name__ == "__main__":
    run_script(main)
