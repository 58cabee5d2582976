"""
Legal: does this clause of a privacy policy hold the answer to the question? Clauses written for this project, or
LegalBench's.

A question is about one thing, a clause about a kind of things. The owner of a page about Sardinia must find out whether
the clause on islands holds for it. Jurists call this subsumption, and it takes knowledge that is in neither text. By
default the rows are made from a table of policies (matters.csv: 16 matters, each with three questions and three clauses
that answer them) and from tinyworld's facts:

{"id": "legal-test-...", "group": "Sardinia", "label": 0, "matter": "partners", "kind": "volcano",
 "text": "Q: Is my page about Sardinia passed on to anybody?
          A: Our partners receive copies of all that is filed under volcano"}        (in one line)

1) Clause and question are always about the same matter, in words of their own. Only the kind of the thing decides.
   Every pair has a twin with another kind, and within a split a kind is right as often as it is wrong
   (tinyworld/prepare.py, wrong_answers).
2) Splits are drawn by thing and by matter: the clauses of test are in no other split either.
3) Only facts that were never judged in pretraining (corpus.py, "graded"): the tiny models may have read that Sardinia
   is an island, no more.
4) The kind is the last word, without a full stop, because tinyworld's models look there for the answer that they judge.
   They are that small: with other words than Q and A, and a full stop, none of them learned anything (README.md).

$ python data/legal/prepare.py                                     # 2,980 rows, one second
$ python data/legal/prepare.py --wrong 2                           # legal-wrong2: up to two wrong clauses a right one
$ python data/legal/prepare.py --hub --task legal-public           # LegalBench, privacy_policy_qa
$ python data/legal/prepare.py --from-file 0000.parquet --task legal-public       # the same from a file you fetched

LegalBench has 8 rows in its train split and 10,923 in test (columns question, text, answer: Relevant or Irrelevant).
The test rows are split anew, with the clause as the group, and cut to as many of one kind as of the other. --revision
is a revision of the hub's parquet copies.

Needs   contract.py, data/hub.py, data/tasks.py, data/tinyworld/
Writes  data/legal/{train1,train2,valid,test}.jsonl, truth/labels.jsonl and, last, task.json
"""
import os
import random
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))       # data/
sys.path.insert(0, os.path.dirname(sys.path[0]))                                      # the repository's root
from contract import fail, number, run_script
from hub import build_parser, download_file, prepare, refuse_public_flags
from tasks import SPLITS, split_groups, write_shipped_task
from tinyworld.prepare import KINDS, by_relation, load_facts, read_rows_of, split_facts, with_article, wrong_answers

HERE = os.path.dirname(os.path.abspath(__file__))
SHARES = {"test": 0.36, "train1": 0.25, "train2": 0.29, "valid": 0.10}
MATTERS_PER_FACT = 2                                       # each fact gives a question about each of so many matters


def pairs(facts, matters, wrong, rng):
    """
    Facts and matters (rows of the table) of one split -> rows: each question with its clause, and with `wrong` clauses
    of other kinds.
    """
    rows = []
    for group in by_relation(facts).values():
        chosen = [rng.sample(matters, MATTERS_PER_FACT) for _ in group]
        for k in range(MATTERS_PER_FACT):
            others = [wrong_answers(group, rng) for _ in range(wrong)]
            for fact, fact_matters, *other_kinds in zip(group, chosen, *others):
                matter = fact_matters[k]
                question = matter["question_" + rng.choice("123")].format(e=with_article(fact))
                clause = matter["clause_" + rng.choice("123")]
                for kind in (fact["value"], *sorted(set(other_kinds))):
                    rows.append({"group": fact["entity"], "text": f"Q: {question} A: {clause.format(v=kind)}",
                                 "label": int(kind == fact["value"]), "matter": matter["matter"], "kind": kind})
    return rows


def shipped_splits(wrong):
    """16 matters and 745 facts, each in one of the four splits. Facts that were judged in pretraining are in none."""
    matters = read_rows_of(os.path.join(HERE, "matters.csv"))
    by_split = split_facts(load_facts())
    facts = [fact for split in SPLITS for fact in by_split[split] if fact["relation"] in KINDS.get(fact["field"], ())]
    split_of_entity = split_groups({f["entity"]: 1 for f in facts}, {f["entity"]: f["field"] for f in facts}, SHARES)
    split_of_matter = split_groups({m["matter"]: 1 for m in matters}, {m["matter"]: "all" for m in matters}, SHARES)
    splits = {}
    for split in SPLITS:
        some_facts = [fact for fact in facts if split_of_entity[fact["entity"]] == split]
        some_matters = [matter for matter in matters if split_of_matter[matter["matter"]] == split]
        splits[split] = pairs(some_facts, some_matters, wrong, random.Random("legal " + split))
    return splits


def rows_of(raw):
    """One row of LegalBench -> [row]"""
    if raw["answer"] not in ("Relevant", "Irrelevant"):
        raise ValueError(f"answer {str(raw['answer'])[:40]!r} is neither Relevant nor Irrelevant")
    text = f"Clause: {raw['text']} Question: {raw['question']}"
    return [{"group": raw["text"], "text": text, "label": int(raw["answer"] == "Relevant")}]


def main(argv=None):
    parser = build_parser(__doc__, "legal", revision="refs/convert/parquet", sizes=True)
    parser.add_argument("--hub", action="store_true", help="read LegalBench from the hub")
    parser.add_argument("--wrong", type=number(int, 1, 8), default=1,
                        help="rows of the shipped table: so many wrong clauses for each right one")
    args = parser.parse_args(argv)
    if not args.hub and not args.from_file:
        refuse_public_flags(parser, args)
        task = "legal" if args.wrong == 1 else f"legal-wrong{args.wrong}"
        write_shipped_task(task, shipped_splits(args.wrong), "data/legal/matters.csv and tinyworld's facts")
        return
    if args.wrong != 1:
        fail("--wrong is for the shipped rows: a public set has the clauses that it has")
    path = args.from_file
    source = "nguha/legalbench: privacy_policy_qa, test"
    if args.hub:
        path, commit = download_file("nguha/legalbench", "privacy_policy_qa/test/0000.parquet", args.revision)
        source += f" at {commit}"
    prepare(args, "legal", source, {"all": "test"}, rows_of, path=path)


if __name__ == "__main__":
    run_script(main)
