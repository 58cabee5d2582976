"""
Amazon polarity: is this product review a good one? (Zhang et al. 2015), as in openai/weak-to-strong's release.

One raw row of the hub (invented here), and the row it becomes:

{"label": 0, "title": "Broke in a week", "content": "The handle came off while I was stirring soup."}

{"id": "amazon_polarity-train1-...", "group": "...", "label": 0,
 "text": "Broke in a week The handle came off while I was stirring soup."}

Label 1 is a good review (four or five stars), 0 a bad one (one or two). There are 3,600,000 official train rows and
400,000 test rows. Of these, 20,000 are taken for train1 and train2 together (--rows), 2,000 more for valid, and 10,000
for test (--test-rows), in the order of a hash of the text; the release takes the first ones. Each review is a group of
its own, since the data do not name the products.

$ python data/amazon_polarity/prepare.py                                    # downloads 1.1 GB
$ python data/amazon_polarity/prepare.py --from-file amazon_polarity-raw    # one of four train files is enough

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
    text = f"{raw['title'] or ''} {raw['content'] or ''}".strip()
    return [{"group": text, "text": text, "label": binary_label(raw["label"])}]


def main(argv=None):
    args = build_parser(__doc__, "amazon_polarity", sizes=True).parse_args(argv)
    prepare(args, "amazon_polarity", "fancyzhx/amazon_polarity", {"train": "train", "test": "test"}, rows_of)


if __name__ == "__main__":
    run_script(main)
