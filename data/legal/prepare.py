"""
Legal: does this clause of a privacy policy hold the answer to the question? Clauses written for this project, or LegalBench's.

A question is about one thing, a clause about a kind of things: who has a page about Sardinia must find out whether the clause on islands holds for
it. Jurists call it subsumption, and it takes knowledge that stands in neither text. By default the rows are made from a table of policies
(matters.csv: 16 matters, each with three questions and three clauses that answer them) and from tinyworld's facts:

{"id": "legal-test-...", "group": "Sardinia", "label": 0,
 "text": "Q: Is my page about Sardinia passed on to anybody? A: Our partners receive copies of all that is filed under volcano"}

1) Clause and question are always about the same matter, in words of their own. What decides is the kind of the thing, and nothing else: every pair
   has a twin with another kind, and within a split a kind is right as often as it is wrong (tinyworld/prepare.py: wrong_answers).
2) Splits are drawn by thing and by matter: the clauses of test, too, stand in no other split.
3) Only facts that nobody judged in pretraining (corpus.py, "graded"): the tiny models may have read that Sardinia is an island, no more.
4) The kind stands last, without a full stop, where tinyworld's models are used to find the answer that they judge. They are that small: with
   question and clause in other words than Q and A, and a full stop, neither of them learned anything (README.md).

$ python data/legal/prepare.py                                     # 2,980 rows, one second
$ python data/legal/prepare.py --wrong 2                           # up to two wrong clauses for each right one: the task legal-wrong2, 37 % yes
$ python data/legal/prepare.py --hub --task legal-public           # LegalBench, privacy_policy_qa
$ python data/legal/prepare.py --from-file privacy_policy_qa --task legal-public       # the same from a file or folder that was fetched
Writes data/legal/{train1,train2,valid,test}.jsonl, truth/labels.jsonl and, last, task.json

LegalBench has 8 rows in its train split and 10,923 in test (columns question, text, answer: Relevant or Irrelevant): the test rows are dealt
anew, with the clause as the group, and cut to as many of one kind as of the other. --revision is a revision of the hub's parquet copies.
"""
import csv, os, random, sys
from collections import defaultdict

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
from hub import arguments, fail, number, ours_alone, prepare
from safety.prepare import deal_groups, fetch, name_and_write
from tinyworld.prepare import load_facts, split_facts, wrong_answers

KINDS = {"animals": ("class", "kind"), "astronomy": ("kind",), "body": ("kind",), "earth": ("feature",), "elements": ("block", "family"),
         "materials": ("class",), "minerals": ("class",), "plants": ("family", "growth_form")}
TIMES = 2                                                            # so many questions about each fact, each on another matter


def with_article(fact):
    """ "the beaver", but "gold": as tinyworld asks about it. """
    return ("the " if any("the {e}" in question for question in fact["questions"]) else "") + fact["entity"]


def pairs(facts, matters, wrong, rng):
    """Facts and matters (rows of the table) of one split -> rows: each question with its clause, and with `wrong` clauses of other kinds."""
    relations, rows = defaultdict(list), []
    for fact in facts:
        relations[fact["field"], fact["relation"]].append(fact)
    for group in relations.values():
        chosen = [rng.sample(matters, TIMES) for _ in group]
        for turn in range(TIMES):
            others = [wrong_answers(group, rng) for _ in range(wrong)]
            for fact, mine, *kinds in zip(group, chosen, *others):
                question, clause = (mine[turn][f"{what}_{rng.choice('123')}"] for what in ("question", "clause"))
                rows += [{"group": fact["entity"], "text": f"Q: {question.format(e=with_article(fact))} A: {clause.format(v=kind)}",
                          "label": int(kind == fact["value"]), "matter": mine[turn]["matter"], "kind": kind}
                         for kind in (fact["value"], *sorted(set(kinds)))]
    return rows


def shipped_splits(wrong):
    """16 matters and 745 facts, each dealt to the four splits; facts that were judged in pretraining are in none."""
    with open(os.path.join(HERE, "matters.csv"), encoding="utf-8", newline="") as f:
        matters = list(csv.DictReader(f))
    dealt = split_facts(load_facts())
    facts = [f for split in ("train1", "train2", "valid", "test") for f in dealt[split] if f["relation"] in KINDS.get(f["field"], ())]
    where = deal_groups({f["entity"]: 1 for f in facts}, {f["entity"]: f["field"] for f in facts})
    whose = deal_groups({m["matter"]: 1 for m in matters}, {m["matter"]: "all" for m in matters})
    return {split: pairs([f for f in facts if where[f["entity"]] == split], [m for m in matters if whose[m["matter"]] == split], wrong,
                         random.Random("legal " + split)) for split in ("train1", "train2", "valid", "test")}


def rows_of(raw):
    """One row of LegalBench -> [row]"""
    if raw["answer"] not in ("Relevant", "Irrelevant"):
        raise ValueError(f"answer {str(raw['answer'])[:40]!r} is neither Relevant nor Irrelevant")
    return [{"group": raw["text"], "text": f"Clause: {raw['text']} Question: {raw['question']}", "label": int(raw["answer"] == "Relevant")}]


def main():
    parser = arguments(__doc__, "legal", revision="refs/convert/parquet", sizes=True)
    parser.add_argument("--hub", action="store_true", help="read LegalBench from the hub")
    parser.add_argument("--wrong", type=number(int, 1, 8), default=1, help="our own rows: so many wrong clauses for each right one")
    args = parser.parse_args()
    if not args.hub and not args.from_file:
        ours_alone(parser, args)
        return name_and_write("legal" if args.wrong == 1 else f"legal-wrong{args.wrong}", shipped_splits(args.wrong),
                              "data/legal/matters.csv and tinyworld's facts")
    if args.wrong != 1:
        fail("--wrong is for our own rows: a public set has the clauses that it has")
    source = "nguha/legalbench: privacy_policy_qa, test"
    if args.hub:
        source += fetch(args, "nguha/legalbench", "privacy_policy_qa/test/0000.parquet")
    prepare(args, "legal", source, {"all": "test"}, rows_of)


if __name__ == "__main__":
    main()
