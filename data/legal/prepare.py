"""
Legal: does this clause of a privacy policy hold the answer to the question? Clauses written for this project, or LegalBench's.

By default the rows are made from tinyworld's table (data/tinyworld/life/clauses.csv): 84 topics, each with three wordings of a clause and three
questions that it answers. A row is a clause and a question, in the words in which the tiny models met such pairs:

{"id": "legal-test-...", "group": "keeping photos", "label": 1,
 "text": "Clause: Any picture you upload is stored for twelve months at most. Question: When do you erase the photos I upload?"}

1) Topics whose pairs were judged in pretraining (corpus.py, "graded clauses") are left out; of the others the models have read questions with
   their clauses, as one reads them on a company's site, but no verdict.
2) Splits are drawn by topic, and the question of a wrong pair is about another topic of the same split.
3) A question that shares words with a clause need not be about it. Each wording of a clause comes with its three questions and four wrong
   ones: the two that share most words with it, and two at random. So 43 % of the rows are yes.

$ python data/legal/prepare.py                                     # 1,050 rows, one second
$ python data/legal/prepare.py --hub                               # LegalBench, privacy_policy_qa
$ python data/legal/prepare.py --from-file privacy_policy_qa       # the same from a file or folder that was fetched
Writes data/legal/{train1,train2,valid,test}.jsonl, truth/labels.jsonl and, last, task.json

LegalBench has 8 rows in its train split and 10,923 in test (columns question, text, answer: Relevant or Irrelevant): the test rows are dealt
anew, with the clause as the group, and cut to as many of one kind as of the other. --revision is a revision of the hub's parquet copies.
"""
import os, re, sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
from hub import arguments, prepare, unit
from safety.prepare import deal_groups, fetch, name_and_write, never_judged, read_life

FILLERS = set("a an and any are at be by can do does for from how i if in is it me my not of on or our that the their this to us we what when "
              "which who will with you your".split())


def content_words(text):
    """
    The words that carry a text's matter, cut to five letters so that "stored" meets "store".

    >>> sorted(content_words("How long are my pictures stored?"))
    ['long', 'pictu', 'store']
    """
    return {word[:5] for word in re.findall("[a-z]+", text.lower()) if word not in FILLERS}


def pairs(topics):
    """Topics (rows of the table) of one split -> rows: each wording of a clause with its own three questions and four of other topics."""
    rows = []
    for topic in topics:
        others = [other[f"question_{k}"] for other in topics if other is not topic for k in "123"]
        for k in "123":
            clause = topic[f"clause_{k}"]
            by_chance = sorted(others, key=lambda q: unit(f"wrong {clause} {q}"))
            alike = sorted(by_chance, key=lambda q: -len(content_words(q) & content_words(clause)))[:2]
            wrong = alike + [q for q in by_chance if q not in alike][:2]
            asked = [(topic[f"question_{j}"], 1) for j in "123"] + [(q, 0) for q in wrong]
            rows += [{"group": topic["topic"], "text": f"Clause: {clause} Question: {q}", "label": label, "clause": clause, "question": q}
                     for q, label in asked]
    return rows


def shipped_splits():
    topics = never_judged("clauses", "topic", read_life("clauses"))
    where = deal_groups({t["topic"]: 1 for t in topics}, {t["topic"]: "all" for t in topics})
    return {split: pairs([t for t in topics if where[t["topic"]] == split]) for split in ("train1", "train2", "valid", "test")}


def rows_of(raw):
    """One row of LegalBench -> [row]"""
    if raw["answer"] not in ("Relevant", "Irrelevant"):
        raise ValueError(f"answer {str(raw['answer'])[:40]!r} is neither Relevant nor Irrelevant")
    return [{"group": raw["text"], "text": f"Clause: {raw['text']} Question: {raw['question']}", "label": int(raw["answer"] == "Relevant")}]


def main():
    parser = arguments(__doc__, "legal", revision="refs/convert/parquet", sizes=True)
    parser.add_argument("--hub", action="store_true", help="read LegalBench from the hub")
    args = parser.parse_args()
    if not args.hub and not args.from_file:
        return name_and_write("legal", shipped_splits(), "data/tinyworld/life/clauses.csv")
    source = "nguha/legalbench: privacy_policy_qa, test"
    if args.hub:
        source += fetch(args, "nguha/legalbench", "privacy_policy_qa/test/0000.parquet")
    prepare(args, "legal", source, {"all": "test"}, rows_of)


if __name__ == "__main__":
    main()
