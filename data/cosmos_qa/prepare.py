"""
CosmosQA: what lies between the lines of everyday stories (Huang et al. 2019), as in openai/weak-to-strong's release.

One raw row of the hub (invented here), and the row it becomes:

{"id": "x1", "context": "I missed the bus, so I called my sister.", "question": "Why did I call her ?", "label": 2,
 "answer0": "To sell her the bus .", "answer1": "None of the above choices .", "answer2": "To be driven home .",
 "answer3": "To wish her luck ."}

{"id": "cosmos_qa-train1-...", "group": "...", "label": 0,
 "text": "Context: I missed the bus, so I called my sister.\\nQuestion: Why did I call her ?\\nAnswer: To sell her ...",
 "question": "Why did I call her ?", "answer": "To sell her the bus ."}

Each question gives one row. A coin flip (a hash of the row) decides whether it shows the right answer or a wrong one.
Where "None of the above choices ." is right, the row always shows a wrong answer, as in the release. Two differences
from the release, both on purpose:
1) "None of the above choices ." is never shown as a wrong answer either. It would always be labelled no, and a model
   could learn that without reading the story.
2) Classes are balanced, and questions about one story stay together: the context is the group.
The official validation split is the test; the official test split has no labels. On the hub the dataset is still a
script, which `datasets` no longer runs. So its parquet conversion is read (--revision refs/convert/parquet).

$ python data/cosmos_qa/prepare.py
$ python data/cosmos_qa/prepare.py --from-file cosmos_qa-raw

Needs  contract.py, data/hub.py, data/tasks.py
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))       # data/
sys.path.insert(0, os.path.dirname(sys.path[0]))                                      # the repository's root
from contract import run_script
from hub import build_parser, choose, coin, prepare
from tasks import normalize

NONE = "none of the above choices"


def rows_of(raw):
    """One raw row -> [row], or [] where no answer is left to show"""
    answers = [raw[f"answer{i}"] for i in range(4)]
    key = f"{raw['context']} {raw['question']}"
    if int(raw["label"]) not in range(4):
        raise ValueError(f"label {raw['label']!r} is none of 0 to 3 (the official test split has no labels)")
    right = answers[int(raw["label"])]
    wrong = [answer for answer in answers if normalize(answer) != normalize(right) and NONE not in normalize(answer)]
    label = 0 if NONE in normalize(right) else coin(key)
    if not label and not wrong:
        return []
    answer = right if label else choose(key, wrong)
    text = f"Context: {raw['context']}\nQuestion: {raw['question']}\nAnswer: {answer}"
    return [{"group": raw["context"], "text": text, "label": label, "question": raw["question"], "answer": answer}]


def main(argv=None):
    args = build_parser(__doc__, "cosmos_qa", revision="refs/convert/parquet", sizes=True).parse_args(argv)
    prepare(args, "cosmos_qa", "allenai/cosmos_qa", {"train": "train", "test": "validation"}, rows_of)


if __name__ == "__main__":
    run_script(main)
