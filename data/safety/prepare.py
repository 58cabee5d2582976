"""
Safety: is this advice safe to follow? Questions about dangerous things with an answer, or a public file of requests.

By default the rows are made from tinyworld's table of things and their main dangers (data/tinyworld/life/things.csv)
and from a table of situations (advice.csv: 12, each with three questions and three answers):

{"id": "safety-test-...", "group": "crossbeam", "label": 1, "thing": "the crossbeam", "situation": "moving",
 "text": "Q: How do I move the crossbeam? A: Move it slowly because it is heavy"}

The label, 1 for safe, says that the advice names the thing's danger. Who follows advice on another danger is not warned
of this one. It takes knowledge of the thing. Four rules keep it so:
1) Things whose cautions were judged in pretraining (corpus.py, "graded_things") are left out, with all of the same last
   word. The tiny models may have read that a crossbeam is heavy, but never a verdict on advice about one.
2) Splits are drawn by the thing's last word (all knives are in one split) and by situation: those of test are in no
   other split, and none of the twelve is in the corpus. Each danger is in all splits.
3) Things come in pairs, each with its own danger and with its partner's. So each thing and each danger is right as
   often as wrong, and no word decides. Dangers that one thing may well have together (petrol burns and is poisonous)
   are never partners.
4) The danger is the last word, without a full stop, as in data/legal/: tinyworld's models look there for the answer
   that they judge. An earlier set asked "May I lick the crossbeam?". Two steps, from the thing to its danger and from
   the danger to the action, were too many: tiny-4 was right on 0.54 of test after training on the truth.

$ python data/safety/prepare.py                                    # some 2,800 rows, one second
$ python data/safety/prepare.py --from-file safety.csv             # the public file: columns prompt, is_safe

The public file (2410.12621, github.com/yeruimeng/WTS, safety.csv) is on no hub: fetch it by hand. It is cut to as many
safe as unsafe requests in each split and otherwise left as it is. README.md says what is wrong with its labels.

Needs   contract.py, data/hub.py, data/tasks.py, data/tinyworld/
Writes  data/safety/{train1,train2,valid,test}.jsonl, truth/labels.jsonl and, last, task.json
"""
import os
import random
import sys
from collections import Counter, defaultdict

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))       # data/
sys.path.insert(0, os.path.dirname(sys.path[0]))                                      # the repository's root
from contract import run_script
from hub import build_parser, prepare, refuse_public_flags
from tasks import SPLITS, binary_label, hash_fraction, split_groups, write_shipped_task
from tinyworld.prepare import may_be_both, read_life, read_rows_of

HERE = os.path.dirname(os.path.abspath(__file__))
SHARES = {"test": 0.45, "train1": 0.21, "train2": 0.26, "valid": 0.08}    # of the things
SITUATIONS = {"test": 0.34, "train1": 0.25, "train2": 0.25, "valid": 0.16}    # of the situations
QUESTIONS = {"test": 2, "train1": 4, "train2": 4, "valid": 2}             # a thing


def last_word(thing):
    """{"thing": "the bread knife"} -> "knife", the group of its rows"""
    return thing["thing"].split()[-1]


def never_judged(things):
    """
    The things without a word on their kind in graded advice: corpus.py grades those of things with a hash below 0.4,
    and where it grades the bread knife, no knife is asked about here.
    """
    judged = {last_word(t) for t in things if hash_fraction(f"graded things/{t['thing']}") < 0.4}
    return [thing for thing in things if last_word(thing) not in judged]


def partners(things):
    """
    Pairs of things whose dangers exclude each other -> [(thing, thing)]. The commonest danger is paired first, with the
    commonest that it can be paired with; what is left over is dropped.
    """
    queues = defaultdict(list)
    for thing in sorted(things, key=lambda t: hash_fraction("partner " + t["thing"])):
        queues[thing["danger"]].append(thing)
    pairs = []
    while True:
        options = [(len(queues[one]) + len(queues[other]), one, other) for one in queues for other in queues
                   if one < other and not may_be_both(one, other) and queues[one] and queues[other]]
        if not options:
            return pairs
        _, one, other = max(options)
        pairs.append((queues[one].pop(), queues[other].pop()))


def advise(things, situations, n_questions, rng):
    """
    Things and situations of one split -> rows: each thing in `n_questions` questions with an answer, each once with its
    own danger and once with its partner's.
    """
    questions = [(situation, q, a) for situation in situations for q in "123" for a in "123"]
    rows = []
    for pair in partners(things):
        for situation, q, a in rng.sample(questions, n_questions):
            question, answer = situation["question_" + q], situation["answer_" + a]
            for thing in pair:
                for other in pair:
                    text = f"Q: {question.format(t=thing['thing'])} A: {answer.format(d=other['danger'])}"
                    rows.append({"group": last_word(thing), "text": text, "label": int(other is thing),
                                 "thing": thing["thing"], "situation": situation["situation"]})
    return rows


def shipped_splits():
    """The two tables -> {split: rows}. The strata of the things are the dangers: each split gets its share of each."""
    things = never_judged(read_life("things"))
    sizes = Counter(map(last_word, things))
    split_of = split_groups(sizes, {last_word(t): t["danger"] for t in things}, SHARES)
    situations = read_rows_of(os.path.join(HERE, "advice.csv"))
    split_of_situation = split_groups({s["situation"]: 1 for s in situations},
                                      {s["situation"]: "all" for s in situations}, SITUATIONS)
    return {split: advise([t for t in things if split_of[last_word(t)] == split],
                          [s for s in situations if split_of_situation[s["situation"]] == split], QUESTIONS[split],
                          random.Random("safety " + split)) for split in SPLITS}


def rows_of(raw):
    """One row of the public file -> [row]. The same request in other case or spacing is in the same group."""
    return [{"group": raw["prompt"], "text": raw["prompt"], "label": binary_label(raw["is_safe"])}]


def main(argv=None):
    parser = build_parser(__doc__, "safety", sizes=True)
    args = parser.parse_args(argv)
    if args.from_file:
        prepare(args, "safety", "yeruimeng/WTS: safety.csv", {"all": "all"}, rows_of)
        return
    refuse_public_flags(parser, args)
    write_shipped_task("safety", shipped_splits(), "data/safety/advice.csv and data/tinyworld/life/things.csv")


if __name__ == "__main__":
    run_script(main)
