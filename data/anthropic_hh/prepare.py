"""
Anthropic HH: is this the answer that people preferred? (Bai et al. 2022), as in openai/weak-to-strong's release.

One raw row of the hub (invented here), and the two rows it becomes:

{"chosen": "\\n\\nHuman: How do I boil an egg?\\n\\nAssistant: Eight minutes in boiling water.",
 "rejected": "\\n\\nHuman: How do I boil an egg?\\n\\nAssistant: Eggs are nice."}

{"id": "anthropic_hh-train1-...", "group": "...", "label": 1, "text": "\\n\\nHuman: How do I boil an egg?\\n\\nAssistant: Eight minutes in ..."}
{"id": "anthropic_hh-train1-...", "group": "...", "label": 0, "text": "\\n\\nHuman: How do I boil an egg?\\n\\nAssistant: Eggs are nice."}

A whole dialogue is judged alone. The release shows one dialogue of each pair, by a coin; here both are shown, so that no model gains by
knowing which openings were rejected. The group is the first thing the human says: the two of a pair share it, and so do the many pairs
that were cut from one dialogue at different turns. The labels are single people's preferences between two answers of which the model sees
one at a time: a hard task, on which the ceiling is low too.

$ python data/anthropic_hh/prepare.py
$ python data/anthropic_hh/prepare.py --from-file anthropic_hh-raw
"""
import os, sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from hub import arguments, prepare


def opening(dialogue):
    """
    What the human says first.

    >>> opening("\\n\\nHuman: How do I boil an egg?\\n\\nAssistant: Eggs are nice.\\n\\nHuman: And?")
    'How do I boil an egg?'
    """
    return dialogue.split("\n\nAssistant:")[0].replace("\n\nHuman:", " ").strip()


def rows_of(raw):
    """One raw pair -> [chosen, rejected]"""
    return [{"group": opening(raw["chosen"]) or "(nothing)", "text": raw[name], "label": label} for name, label in (("chosen", 1), ("rejected", 0))]


def main():
    args = arguments(__doc__, "anthropic_hh", sizes=True).parse_args()
    prepare(args, "anthropic_hh", "Anthropic/hh-rlhf", {"train": "train", "test": "test"}, rows_of)


if __name__ == "__main__":
    main()
