"""
Amazon polarity: is this product review a good one? (Zhang et al. 2015), as in openai/weak-to-strong's release.

One raw row of the hub (invented here), and the row it becomes:

{"label": 0, "title": "Broke in a week", "content": "The handle came off while I was stirring soup."}

{"id": "amazon_polarity-train1-...", "group": "...", "label": 0, "text": "Broke in a week The handle came off while I was stirring soup."}

Label 1 is a good review (four or five stars), 0 a bad one (one or two). There are 3,600,000 official train rows and 400,000 test rows: of these
20,000 are taken for train1 and train2 together (--rows), 2,000 more for valid, and 10,000 for test (--test-rows), by the hash of the text; the
release takes the first ones. A review is its own group: the products' names are not in the data.

$ python data/amazon_polarity/prepare.py                                       # downloads 1.1 GB
$ python data/amazon_polarity/prepare.py --from-file amazon_polarity-raw       # one of the four train files and the test file are enough
"""
import os, sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from hub import arguments, prepare, yes_or_no


def rows_of(raw):
    """One raw row -> [row]"""
    text = f"{raw['title'] or ''} {raw['content'] or ''}".strip()
    return [{"group": text, "text": text, "label": yes_or_no(raw["label"])}]


def main():
    args = arguments(__doc__, "amazon_polarity", sizes=True).parse_args()
    prepare(args, "amazon_polarity", "fancyzhx/amazon_polarity", {"train": "train", "test": "test"}, rows_of)


if __name__ == "__main__":
    main()
