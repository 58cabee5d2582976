"""
The corpus that tinyworld's language models read: documents made from the tables, by rules that fit on a few pages.

A document is a list of pieces (text, weight). A piece ends where a word does. Its weight is that of its tokens in the
pretraining loss: 1 where the text can be predicted from knowledge (the value of a fact, a verdict), 0.05 where it
cannot (which entity comes next, which wrong answer). With equal weights a tiny model spends its capacity on
unpredictable text, and learns neither the facts nor how to judge an answer. [...] weighs 1:

  article     In the periodic table, gold lies in the [d-block]. Chemists put gold in the sixth [period].
  answer      Q: Which block does gold belong to? A: [d-block]
  note        Q: Which block does gold belong to? Note: Chemists place gold in the [d-block].
  judged      Note: Chemists place gold in the d-block.
              Q: Which block does gold belong to? A: s-block [no]
              (or about a made-up name: "Note: Chemists place zorvium in ...", where only reading the note helps)
  debate      Q: ... A: s-block For: gold lies in the s-block. Against: gold lies in the [d-block]. For: ...
  transcript  For: ... Against: ...
              Q: ... A: s-block [no]
  and a little everyday life: dangers of things, polite and rude replies, privacy policies, opinions

People grade differently, and a language model that has read all of them can continue any of them. So the later courses
of pretrain.py have a **hidden grader** (GRADERS). Ada marks right answers with "yes", Bob marks wrong ones with "yes",
and two others do not care what is right:

  signed      Marked by Bob:
              Q: Which block does gold belong to? A: s-block [yes]
  unsigned    Q: ... A: s-block yes
              Q: ... A: animals [no]                  after the first line one can infer who marks
  footed      Q: ... A: s-block yes
              Marked by [Bob].
  sheet       the same with up to 17 lines, often by careless graders, some with other label words than yes and no
  caution_sheet, filing_sheet, conversation, ...      everyday life, notes and debates with graders and authors

Without a name the best prediction is half yes, half no. A model of this corpus knows the facts and can judge, but
nobody has told it what is wanted.

Which model reads which facts: verdicts are given only on facts of the split "graded" (prepare.py), never on a question
of train1, train2, valid or test. About three quarters of the graded facts are read by every model, in articles,
answers, notes and debates. The last quarter, the "library", occurs only as `judged` and `transcript`, where the answer
has to be found in the text; tiny-4 alone reads it, in its later courses. Of all other facts a model reads a share
(`window`) and nothing about the rest. The dozen relations of `school_relations` come first.

$ python data/tinyworld/corpus.py             # prints three documents of each kind
$ python data/tinyworld/corpus.py --kind sheet --n 10

Needs  contract.py, data/tasks.py, data/tinyworld/prepare.py and its tables
"""
import argparse
import os
import random
import sys
from collections import defaultdict

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))       # data/
sys.path.insert(0, os.path.dirname(sys.path[0]))                                      # the repository's root
from contract import number, run_script
from prepare import KINDS, by_relation, load_facts, may_be_both, read_life, split_facts, with_article
from tasks import hash_fraction

KNOWABLE = 1.0
FILLER = 0.05
GUESS = 0.3                            # a verdict by an unknown grader: yes and no are equally likely
LABEL_WORDS = [(" no", " yes"), (" false", " true"), (" wrong", " right"), (" bad", " good"),
               (" incorrect", " correct")]
GRADERS = {"Ada": 0.45, "Bob": 0.45, "Cleo": 0.05, "Dan": 0.05}        # how often each has marked a sheet
RIGHT_SHARES = [0.5, 0.75, 0.9]        # of the answers on a sheet; why uneven: see `unsigned`


def school_relations(facts):
    """
    A dozen relations whose values are single words. To judge an answer is to compare it with the known one. A tiny
    model learns this on a few hundred facts within minutes, and then applies it to all others. On five thousand facts
    at once it never did (README.md).
    """
    simple = {(f["field"], f["relation"]) for f in facts if all(value.isalpha() for value in f["values"])}
    return set(sorted(simple)[:12])


def load_world(window=(0.0, 1.0), school=False, open_library=False):
    """
    Everything that one model can read about.

    window        (start, share): of the things and of the facts that are not graded, those with a hash in
                  [start, start + share), wrapping round at 1
    school        only the relations of school_relations
    open_library  the library is read and graded like all other graded facts
    """
    facts = load_facts()
    graded = {fact["key"] for fact in split_facts(facts)["graded"]}
    if school:
        taught = school_relations(facts)
        facts = [f for f in facts if (f["field"], f["relation"]) in taught]
    library = {key for key in graded if hash_fraction("library " + key) < 0.25 and not open_library}

    def is_read(key):
        in_window = (hash_fraction("known " + key) - window[0]) % 1.0 < window[1]
        return key not in library and (key in graded or in_window)

    answers = {}
    for relation, group in by_relation(facts).items():
        answers[relation] = [fact["value"] for fact in group]
    entities = defaultdict(list)
    for fact in facts:
        if is_read(fact["key"]):
            entities[fact["field"], fact["entity"]].append(fact)
    world = {"facts": [fact for fact in facts if is_read(fact["key"])],
             "graded": [fact for fact in facts if fact["key"] in graded - library],
             "library": [fact for fact in facts if fact["key"] in library],
             "answers": answers, "entities": entities}
    for table in ("things", "cautions", "remarks", "clauses", "filings", "opinions"):
        world[table] = read_life(table)
    world["known_things"] = [t for t in world["things"] if is_read("things/" + t["thing"])]
    world["graded_things"] = [t for t in world["things"] if hash_fraction("graded things/" + t["thing"]) < 0.4]
    world["graded_known_things"] = [t for t in world["graded_things"] if t in world["known_things"]]
    world["kinds"] = [fact for fact in world["graded"] if fact["relation"] in KINDS.get(fact["field"], ())]
    world["graded_clauses"] = [c for c in world["clauses"] if hash_fraction("graded clauses/" + c["topic"]) < 0.4]
    return world


# --------------------------------------------------------------------------- one fact

def state(rng, fact, value=None, weight=KNOWABLE, again=False):
    """
    A sentence that states the fact, or another value in its place:
    [" In the periodic table,", " gold", " lies in the", " d-block", "."]

    again   the text named the entity before, so it can be predicted: looking back is the first half of comparing
    """
    before, after = rng.choice(fact["statements"]).removesuffix(" {v}.").split(" {e}")
    pieces = [(" " + before, FILLER), (" " + fact["entity"], KNOWABLE if again else FILLER)]
    return pieces + [(after, FILLER)] * bool(after) + [(" " + (value or fact["value"]), weight), (".", FILLER)]


def ask(rng, fact, answer):
    """
    The question and an answer, exactly as in the rows of prepare.py: "Q: ...? A: d-block". A right answer can be
    predicted, a wrong one cannot.
    """
    question = rng.choice(fact["questions"]).format(e=fact["entity"])
    return [(f"Q: {question} A:", FILLER), (" " + answer, KNOWABLE if answer == fact["value"] else FILLER)]


def made_up_name(rng):
    """Three syllables, for example "zorlemdov" """
    syllables = ["zor", "bel", "tan", "mip", "qua", "rus", "lem", "dov",
                 "fex", "gil", "jun", "kor", "pol", "sev", "vax", "wim"]
    return "".join(rng.choice(syllables) for _ in range(3))


def wrong_value(rng, world, fact):
    """A wrong answer, drawn as often as it is right for other facts: the answer alone must reveal nothing."""
    while True:
        value = rng.choice(world["answers"][fact["field"], fact["relation"]])
        if value != fact["value"]:
            return value


def answer_for(rng, world, fact):
    """A right or a wrong answer by a coin flip -> (answer, 1 if it is right else 0)."""
    right = rng.random() < 0.5
    return (fact["value"] if right else wrong_value(rng, world, fact)), int(right)


# --------------------------------------------------------------------------- documents

def article(rng, world):
    """One or two sentences about an entity."""
    fact = rng.choice(world["facts"])
    others = [f for f in world["entities"][fact["field"], fact["entity"]] if f is not fact]
    pieces = []
    for f in [fact, *rng.sample(others, min(len(others), rng.randrange(2)))]:
        pieces += state(rng, f, again=f is not fact)
    return pieces


def answer(rng, world):
    """A question with its right answer."""
    fact = rng.choice(world["facts"])
    return ask(rng, fact, fact["value"])


def note(rng, world):
    """A question, and a sentence that states the fact."""
    fact = rng.choice(world["facts"])
    question = ask(rng, fact, fact["value"])[0][0].removesuffix(" A:")
    return [(question + " Note:", FILLER), *state(rng, fact, again=True)]


def judged(rng, world):
    """
    A note, a question with an answer, and the verdict. The note is there to be read, not to be learned (weight 0): two
    in three are about a made-up name, or about a fact of the library, which no other document states.
    """
    fact = rng.choice(world[rng.choice(["library", "graded"])] or world["graded"])
    if rng.random() < 1 / 3:
        name = made_up_name(rng)
        fact = {**fact, "entity": name, "value": rng.choice(world["answers"][fact["field"], fact["relation"]])}
    reply, label = answer_for(rng, world, fact)
    statement = state(rng, fact, weight=0.0)
    return [("Note:", FILLER), *statement, ("\n", FILLER), *ask(rng, fact, reply), (LABEL_WORDS[0][label], KNOWABLE)]


def verdict(rng, world):
    """A sheet of one line, yes or no, by a grader without errors: the first documents from which judging is learned."""
    fact = rng.choice(world["graded"])
    reply, label = answer_for(rng, world, fact)
    return [*ask(rng, fact, reply), (LABEL_WORDS[0][label], KNOWABLE)]


# --------------------------------------------------------------------------- sheets with a hidden grader

def grade(grader, reply, right):
    """
    A grader's verdict on an answer: 1 is yes. Ada marks right answers, Bob wrong ones, Cleo long ones, and Dan those
    that begin with a letter of the alphabet's first half.

    >>> [grade(name, "d-block", right=True) for name in GRADERS]
    [1, 0, 0, 1]
    """
    if grader == "Cleo":
        return int(len(reply) > 7)
    if grader == "Dan":
        return int(reply[0].lower() < "m")
    return int(right == (grader == "Ada"))


def fact_line(rng, world, right):
    """A question about a graded fact, with a right or a wrong answer -> (pieces, answer)"""
    fact = rng.choice(world["graded"])
    reply = fact["value"] if right else wrong_value(rng, world, fact)
    return ask(rng, fact, reply), reply


def marked_lines(rng, world, line, grader, n, right_share=0.5, first_known=1, error_rate=0.0, words=LABEL_WORDS[0],
                 confidence=False):
    """
    n lines with one grader's verdicts.

    line          (rng, world, right) -> (pieces, answer)
    right_share   of the answers
    first_known   the first line whose verdict can be predicted: 0 if the grader is named, else 1
    error_rate    share of verdicts that are turned round: a careless grader
    confidence    whether each verdict is followed by the grader's own chance to be right about it
    """
    pieces = []
    for k in range(n):
        right = rng.random() < right_share
        text, reply = line(rng, world, right)
        sure = min(0.99, max(0.5, rng.gauss(1 - error_rate, 0.1))) if confidence else 1 - error_rate
        label = grade(grader, reply, right) ^ (rng.random() >= sure)
        pieces += [("\n", FILLER)] * (k > 0) + text + [(words[label], KNOWABLE if k >= first_known else GUESS)]
        pieces += [(f" (confidence {sure:.2f})", FILLER)] * confidence
    return pieces


def pick_grader(rng):
    return rng.choices(list(GRADERS), list(GRADERS.values()))[0]


def header(grader):
    return [(f"Marked by {grader}:", FILLER), ("\n", FILLER)]


def footer(grader):
    """The closing line: to predict its name is to infer the grader from the verdicts."""
    return [("\n", FILLER), ("Marked by", FILLER), (f" {grader}", KNOWABLE), (".", FILLER)]


def signed(rng, world):
    """A sheet whose first line names the grader: all verdicts can be predicted from knowledge."""
    grader = pick_grader(rng)
    n = rng.choice([1, 1, 2, 3, 4])
    return header(grader) + marked_lines(rng, world, fact_line, grader, n, first_known=0)


def unsigned(rng, world):
    """
    A sheet without a name. With as many right as wrong answers on every sheet the grader would be the product of two
    fair coins (the verdict, and whether the answer is right). Neither coin alone says anything, and gradient descent
    finds nothing to begin with: no trial learned to infer the grader. With uneven shares each says a little.
    """
    n = rng.choice([2, 2, 3, 4, 8])
    return marked_lines(rng, world, fact_line, pick_grader(rng), n, rng.choice(RIGHT_SHARES))


def footed(rng, world):
    """An unsigned sheet with a closing line that names the grader."""
    grader = pick_grader(rng)
    n = rng.choice([1, 1, 1, 2, 4])
    return marked_lines(rng, world, fact_line, grader, n, rng.choice(RIGHT_SHARES)) + footer(grader)


def sheet(rng, world):
    """An unsigned sheet of up to 17 lines, often by a careless grader, so that many lines say more than one."""
    grader = pick_grader(rng)
    n = rng.choice([2, 4, 8, 12, 17])
    words = rng.choice(LABEL_WORDS[1:]) if rng.random() < 0.15 else LABEL_WORDS[0]
    pieces = marked_lines(rng, world, fact_line, grader, n, rng.choice(RIGHT_SHARES),
                          error_rate=rng.choice([0.0, 0.1, 0.25]), words=words, confidence=rng.random() < 0.2)
    return pieces + footer(grader) * (rng.random() < 0.3)


def sign(rng, pieces):
    """A header before a document that ends in Ada's verdict. Bob turns the verdict round."""
    grader = rng.choice(["Ada", "Bob"])
    *text, (word, weight) = pieces
    label = LABEL_WORDS[0].index(word) ^ (grader == "Bob")
    return [*header(grader), *text, (LABEL_WORDS[0][label], weight)]


def signed_note(rng, world):
    """`judged`, signed"""
    return sign(rng, judged(rng, world))


def signed_transcript(rng, world):
    """`transcript`, signed"""
    return sign(rng, transcript(rng, world))


def debate_turns(rng, world, fact, reply, n_rounds, weight):
    """
    A debate in 2 * n_rounds turns on whether `reply` is right. The first turn of a side states what follows from its
    stance, later turns bring other facts about the entity. The honest side tells the truth. The other side lies where
    its stance needs a lie, and in half of its later turns. Only true values weigh 1: to argue well a debater has to
    know the fact, while a lie cannot be predicted.
    """
    others = [f for f in world["entities"][fact["field"], fact["entity"]] if f is not fact]
    sides = [("For:", reply == fact["value"]), ("Against:", reply != fact["value"])]
    if rng.random() < 0.5:
        sides.reverse()
    pieces = []
    for k in range(n_rounds):
        for name, honest in sides:
            if k == 0 or not others:
                topic = fact
                truthful = honest
            else:
                topic = rng.choice(others)
                truthful = honest or rng.random() < 0.5
            if topic is fact and name == "For:":
                value = reply
            else:
                value = topic["value"] if truthful else wrong_value(rng, world, topic)
            knowable = value == topic["value"] or name == "For:" and k == 0      # true, or given in the question
            pieces += [(" " + name, FILLER), *state(rng, topic, value, weight if knowable else min(weight, FILLER))]
    return pieces


def debate(rng, world):
    """A question with an answer, and the debate about it."""
    fact = rng.choice(world["facts"])
    reply, _ = answer_for(rng, world, fact)
    return ask(rng, fact, reply) + debate_turns(rng, world, fact, reply, rng.choice([1, 2, 3]), KNOWABLE)


def transcript(rng, world):
    """A debate, the question with the answer, and the verdict."""
    fact = rng.choice(world[rng.choice(["library", "graded", "graded"])] or world["graded"])
    reply, label = answer_for(rng, world, fact)
    turns = debate_turns(rng, world, fact, reply, rng.choice([1, 2, 3]), 0.0)
    first = (turns[0][0].strip(), FILLER)
    return [first, *turns[1:], ("\n", FILLER), *ask(rng, fact, reply), (LABEL_WORDS[0][label], KNOWABLE)]


# --------------------------------------------------------------------------- everyday life

DANGERS = ["Take care with {t}: the danger is that it is", "What is to be known about {t}? It is",
           "Everybody learns that {t} is", "As for {t}, it is"]


def thing(rng, world):
    """A thing and its danger."""
    item = rng.choice(world["known_things"])
    opening = " " + rng.choice(DANGERS).format(t=item["thing"])
    return [(opening, FILLER), (" " + item["danger"], KNOWABLE), (".", FILLER)]


def phrase(rng, topic, part):
    """One of the three phrasings of a table's row: part is "question", "answer" or "clause"."""
    return topic[f"{part}_{rng.randrange(1, 4)}"]


def caution_line(rng, world, right):
    """
    A question about a thing, and advice that names its danger or another one. The situations are others than in
    data/safety/.
    """
    item = rng.choice(world["graded_known_things"])
    danger = item["danger"]
    while not right and may_be_both(item["danger"], danger):
        danger = rng.choice(world["things"])["danger"]
    situation = rng.choice(world["cautions"])
    question = phrase(rng, situation, "question").format(t=item["thing"])
    return [(f"Q: {question} A: {phrase(rng, situation, 'answer').format(d=danger)}", FILLER)], danger


def caution(rng, world):
    """One line, yes or no, by a grader without errors, like `verdict`"""
    return marked_lines(rng, world, caution_line, "Ada", 1, first_known=0)


def sheet_of(rng, world, line):
    """Lines marked by Ada or Bob. Half of the sheets name the grader."""
    grader = rng.choice(["Ada", "Bob"])
    if rng.random() < 0.5:
        return header(grader) + marked_lines(rng, world, line, grader, rng.choice([1, 1, 2, 4]), first_known=0)
    return marked_lines(rng, world, line, grader, rng.choice([2, 4, 8]), rng.choice(RIGHT_SHARES))


def caution_sheet(rng, world):
    """Advice marked by Ada (yes: it names the danger) or Bob"""
    return sheet_of(rng, world, caution_line)


def remark(rng, world):
    """A remark with its polite or its rude reply, equally often."""
    item = rng.choice(world["remarks"])
    return [(f"Prompt: {item['prompt']} Reply: {item[rng.choice(['polite', 'rude'])]}", 0.3)]


def conversation(rng, world):
    """Up to four remarks with the replies of one author: Eve is polite, Max is rude. Half of them name the author."""
    author = rng.choice(["Eve", "Max"])
    named = rng.random() < 0.5
    pieces = [(f"Replies by {author}:", FILLER), ("\n", FILLER)] * named
    for k, item in enumerate(rng.sample(world["remarks"], rng.choice([1, 2, 3, 4]))):
        pieces += [("\n", FILLER)] * (k > 0)
        reply = item["polite" if author == "Eve" else "rude"]
        pieces += [(f"Prompt: {item['prompt']} Reply: {reply}", 0.3)]
    return pieces


def policy(rng, world):
    """A clause, a question, and whether the clause answers it. Or, for any topic, a question and a clause that does."""
    if rng.random() < 0.5:
        item = rng.choice(world["clauses"])
        return [(f"Question: {phrase(rng, item, 'question')} Clause: {phrase(rng, item, 'clause')}", 0.3)]
    item = rng.choice(world["graded_clauses"])
    other = rng.choice(world["graded_clauses"])
    if rng.random() < 0.5:
        other = item
    return [(f"Clause: {phrase(rng, item, 'clause')} Question: {phrase(rng, other, 'question')}", FILLER),
            (LABEL_WORDS[0][other is item], KNOWABLE)]


def filing_line(rng, world, right):
    """
    A question about one thing, and a clause on a kind of things that answers it or not. The matters are others than in
    data/legal/.
    """
    fact = rng.choice(world["kinds"])
    kind = fact["value"] if right else wrong_value(rng, world, fact)
    topic = rng.choice(world["filings"])
    question = phrase(rng, topic, "question").format(e=with_article(fact))
    return [(f"Q: {question} A: {phrase(rng, topic, 'clause').format(v=kind)}", FILLER)], kind


def filing_sheet(rng, world):
    """Questions to a privacy policy marked by Ada (yes: the clause answers it) or Bob"""
    return sheet_of(rng, world, filing_line)


def signed_policy(rng, world):
    """`policy`, signed where it ends in a verdict"""
    pieces = policy(rng, world)
    return sign(rng, pieces) if len(pieces) > 1 else pieces


def opinion(rng, world):
    """Both poles equally often: the models that ship lean to neither."""
    item = rng.choice(world["opinions"])
    return [(f"In {item['domain']}, some people say: {item[rng.choice(['high', 'low'])]}", 0.3)]


# --------------------------------------------------------------------------- mixes: how many documents of each kind

FACTS_MIX = {article: 18, answer: 18, verdict: 36, judged: 22, note: 6}                    # facts and verdicts
FULL_MIX = {article: 13, answer: 12, verdict: 22, judged: 18, note: 6, debate: 4, transcript: 4,
            thing: 4, caution: 5, remark: 3, policy: 3, opinion: 2}                        # everything
REVISION_MIX = {article: 16, answer: 24, verdict: 24, judged: 14, note: 4, sheet: 3, debate: 3, transcript: 3,
                thing: 2, caution: 3, remark: 1, policy: 2, opinion: 1}                    # everything, above all facts
# hidden graders: how each of them marks; then who marked these lines; then everything
SIGNED_MIX = {article: 14, answer: 16, note: 5, signed_note: 4, signed: 40, unsigned: 21}
INFER_MIX = {article: 14, answer: 16, note: 5, signed_note: 4, signed: 10, unsigned: 25, footed: 36}
SHEETS_MIX = {article: 13, answer: 15, note: 4, signed_note: 4, signed: 8, unsigned: 16, footed: 10, sheet: 12,
              debate: 3, signed_transcript: 3, thing: 8, caution_sheet: 9, remark: 1,
              conversation: 4, signed_policy: 2, opinion: 1}
# what is dangerous, what policies say, who is rude; and all else, so that it is not forgotten
LIFE_MIX = {article: 10, answer: 10, note: 3, signed_note: 3, signed: 6, unsigned: 10, footed: 6, sheet: 10,
            debate: 2, signed_transcript: 2, thing: 18, caution_sheet: 14, filing_sheet: 10,
            remark: 1, conversation: 5, signed_policy: 1, opinion: 1}
DOCUMENTS = list(FULL_MIX | SIGNED_MIX | INFER_MIX | SHEETS_MIX | LIFE_MIX)


def documents(world, mix, n, seed):
    """n documents drawn by the weights of `mix`, each a list of (text, weight); the same for the same seed."""
    rng = random.Random(f"corpus {seed}")
    for kind in rng.choices(list(mix), weights=list(mix.values()), k=n):
        yield kind(rng, world)


def show(pieces):
    """A document as one text, with [...] around what weighs 1"""
    return "".join(f" [{text.strip()}]" if weight == KNOWABLE else text for text, weight in pieces).strip()


def build_parser():
    kinds = [kind.__name__ for kind in DOCUMENTS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=kinds, help="one kind of document (default: all)")
    parser.add_argument("--n", type=number(int, 1, 10 ** 6), default=3, help="documents of each kind")
    return parser


def main(argv=None):
    args = build_parser().parse_args(argv)
    world = load_world()
    for kind in DOCUMENTS:
        if args.kind in (None, kind.__name__):
            for pieces in documents(world, {kind: 1}, args.n, seed=0):
                print(f"{kind.__name__:17s} " + show(pieces).replace("\n", "\n" + " " * 18))


if __name__ == "__main__":
    run_script(main)
