"""
Anthropic HH: is this the answer that people preferred? (Bai et al. 2022), as in openai/weak-to-strong's release.

One raw row of the hub (invented here), and the two rows it becomes:

{"chosen": "\\n\\nHuman: How do I boil an egg?\\n\\nAssistant: Eight minutes in boiling water.",
 "rejected": "\\n\\nHuman: How do I boil an egg?\\n\\nAssistant: Eggs are nice."}

{"id": "anthropic_hh-train1-...", "group": "...", "label": 1,
 "text": "\\n\\nHuman: How do I boil an egg?\\n\\nAssistant: Eight minutes in boiling water."}
{"id": "anthropic_hh-train1-...", "group": "...", "label": 0,
 "text": "\\n\\nHuman: How do I boil an egg?\\n\\nAssistant: Eggs are nice."}

Each row is one whole dialogue. The release shows one dialogue of each pair, by a coin flip. Here both are shown, so
that a model gains nothing by learning which openings were rejected. The group is the first thing the human says. The
two dialogues of a pair share it, and so do the many pairs that were cut from one dialogue at different turns. A label
is one person's preference between two answers, and the model sees one answer at a time: a hard task with a low
ceiling.

With --pairs the two stay together, and the label says which of them was preferred, 1 for b. A coin flip decides which
comes first:

{"id": "anthropic_hh-train1-...", "group": "...", "label": 0,
 "text_a": "\\n\\nHuman: How do I boil an egg?\\n\\nAssistant: Eight minutes in boiling water.",
 "text_b": "\\n\\nHuman: How do I boil an egg?\\n\\nAssistant: Eggs are nice."}

$ python data/anthropic_hh/prepare.py
$ python data/anthropic_hh/prepare.py --pairs --task hh-pairs       # for reward models, as in Burns et al.
$ python data/anthropic_hh/prepare.py --from-file anthropic_hh-raw

Needs  contract.py, data/hub.py, data/tasks.py
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))       # data/
sys.path.insert(0, os.path.dirname(sys.path[0]))                                      # the repository's root
from contract import run_script
from hub import build_parser, prepare
from tasks import pair_row


def opening(dialogue):
    """
    The first thing the human says.

    >>> opening("\\n\\nHuman: How do I boil an egg?\\n\\nAssistant: Eggs are nice.\\n\\nHuman: And?")
    'How do I boil an egg?'
    """
    return dialogue.split("\n\nAssistant:")[0].replace("\n\nHuman:", " ").strip()


def rows_of(raw):
    """One raw pair -> [chosen, rejected]"""
    group = opening(raw["chosen"]) or "(nothing)"
    return [{"group": group, "text": raw[name], "label": label} for name, label in (("chosen", 1), ("rejected", 0))]


def pairs_of(raw):
    """One raw pair -> [the same as one row]; none if both answers are the same"""
    if raw["chosen"] == raw["rejected"]:
        return []
    return [{"group": opening(raw["chosen"]) or "(nothing)", **pair_row(raw["chosen"], raw["rejected"])}]


def main(argv=None):
    parser = build_parser(__doc__, "anthropic_hh", sizes=True)
    parser.add_argument("--pairs", action="store_true", help="rows of two dialogues each: which was preferred?")
    args = parser.parse_args(argv)
    if args.pairs and args.task == "anthropic_hh":
        args.task = "hh-pairs"                             # not in the place of the rows with one text
    official = {"train": "train", "test": "test"}
    prepare(args, "anthropic_hh", "Anthropic/hh-rlhf", official, pairs_of if args.pairs else rows_of)


if __name__ == "__main__":
    run_script(main)
