"""
The corpus that tinyworld's language models read: documents made from the tables, by rules that fit on a few pages.

A document is a list of pieces (text, weight). A piece ends where a word does. The weight is that of its tokens in the pretraining loss: 1 where the
text can be known (the value of a fact, a verdict), 0.05 where it cannot (which entity comes next, which wrong answer). With equal
weights a tiny model spends itself on guessing the unguessable, and neither learns the facts nor how to judge an answer.

  article     In the periodic table, gold lies in the [d-block]. Chemists put gold in the sixth [period].
  answer      Q: Which block does gold belong to? A: [d-block]
  note        Q: Which block does gold belong to? Note: Chemists place gold in the [d-block].
  judged      Note: Chemists place gold in the d-block.
              Q: Which block does gold belong to? A: s-block [no]
              (or about something made up: "Note: Chemists place zorvium in ...", where reading helps and remembering cannot)
  sheet       Q: ... A: s-block [no]
              Q: ... A: animals [yes]       1 to 16 lines; some with other words than yes and no, some with careless graders,
                                            some with a confidence that is lower where the grader is wrong
  debate      Q: ... A: s-block For: gold lies in the s-block. Against: gold lies in the [d-block]. For: ...
  transcript  For: ... Against: ...
              Q: ... A: s-block [no]
  and a little everyday life: what is dangerous about things, polite and rude replies, privacy policies, opinions

Who reads what. Verdicts are given on facts of the split "graded" (prepare.py) alone: nobody ever graded a question of train1, train2, valid or
test. About three quarters of the graded facts everybody has read, in articles, answers, notes and debates; about the last quarter, the
"library", nobody: it occurs only as `judged` and `transcript`, where one has to look it up in the text. Of all other facts a reader has
read a share (`window`); of the rest it knows nothing. School comes first: the dozen relations of `school_relations`.

$ python data/tinyworld/corpus.py             # prints three documents of each kind
$ python data/tinyworld/corpus.py --kind sheet --n 10
"""
import argparse, csv, os, random
from collections import defaultdict

from prepare import HERE, load_facts, split_facts, unit

KNOWABLE, FILLER = 1.0, 0.05
LABEL_WORDS = [(" no", " yes")] * 6 + [(" false", " true"), (" wrong", " right"), (" bad", " good"), (" incorrect", " correct")]
ANY_WORDS = [" foo", " bar", " red", " blue", " apple", " stone", " up", " down", " one", " zero"]     # for arbitrary labels


def school_relations(facts):
    """
    A dozen relations whose values are single words. Judging an answer means comparing it with one's own; a tiny model finds out how on a few
    hundred facts within minutes, and then applies it to all others, but on five thousand facts at once it never did (README.md).
    """
    simple = {(f["field"], f["relation"]) for f in facts if all(value.isalpha() for value in f["values"])}
    return set(sorted(simple)[:12])


def load_world(window=(0.0, 1.0), school=False, open_library=False):
    """
    What one reader can meet.

    window   (start, share)   of the facts that are not graded, and of things, it knows those with a hash in [start, start + share), wrapping
             round at 1
    school        only the relations that are taught at school
    open_library  the library is read and graded like all other graded facts
    """
    facts = load_facts()
    graded = {fact["key"] for fact in split_facts(facts)["graded"]}
    if school:
        taught = school_relations(facts)
        facts = [f for f in facts if (f["field"], f["relation"]) in taught]

    library = {key for key in graded if unit("library " + key) < 0.25 and not open_library}

    def known(key):
        return key not in library and (key in graded or (unit("known " + key) - window[0]) % 1.0 < window[1])

    same_relation, same_entity = defaultdict(list), defaultdict(list)
    for fact in facts:
        same_relation[fact["field"], fact["relation"]].append(fact["value"])
        same_entity[fact["field"], fact["entity"]].append(fact)
    world = {"facts": [f for f in facts if known(f["key"])], "graded": [f for f in facts if f["key"] in graded - library],
             "library": [f for f in facts if f["key"] in library],
             "answers": same_relation, "entities": {k: [f for f in v if known(f["key"])] for k, v in same_entity.items()}}
    for table in ("things", "actions", "remarks", "clauses", "opinions"):
        with open(os.path.join(HERE, "life", table + ".csv"), encoding="utf-8", newline="") as f:
            world[table] = list(csv.DictReader(f))
    world["known_things"] = [t for t in world["things"] if known("things/" + t["thing"])]
    world["graded_things"] = [t for t in world["things"] if unit("graded things/" + t["thing"]) < 0.4]
    world["graded_clauses"] = [c for c in world["clauses"] if unit("graded clauses/" + c["topic"]) < 0.4]
    return world


# --------------------------------------------------------------------------- one fact

def state(rng, fact, value=None, weight=KNOWABLE, again=False):
    """
    A sentence that states the fact, or says that its value were another one: [" In the periodic table,", " gold", " lies in the", " d-block", "."]
    The entity can be known where the text named it before (`again`): looking back is the first half of comparing.
    """
    before, after = rng.choice(fact["statements"]).removesuffix(" {v}.").split(" {e}")
    pieces = [(" " + before, FILLER), (" " + fact["entity"], KNOWABLE if again else FILLER)]
    return pieces + [(after, FILLER)] * bool(after) + [(" " + (value or fact["value"]), weight), (".", FILLER)]


def ask(rng, fact, answer):
    """The question and an answer, exactly as in the rows of prepare.py: "Q: ...? A: d-block". A right answer can be known, a wrong one not."""
    question = rng.choice(fact["questions"]).format(e=fact["entity"])
    return [(f"Q: {question} A:", FILLER), (" " + answer, KNOWABLE if answer == fact["value"] else FILLER)]


def made_up_name(rng):
    syllables = ["zor", "bel", "tan", "mip", "qua", "rus", "lem", "dov", "fex", "gil", "jun", "kor", "pol", "sev", "vax", "wim"]
    return "".join(rng.choice(syllables) for _ in range(3))


def wrong_value(rng, world, fact):
    """A wrong answer, drawn as often as it is right for other facts: the answer alone must not tell."""
    while (value := rng.choice(world["answers"][fact["field"], fact["relation"]])) == fact["value"]:
        pass
    return value


def answer_for(rng, world, fact):
    """A right or a wrong answer by a coin flip -> (answer, 1 if it is right else 0)."""
    right = rng.random() < 0.5
    return (fact["value"] if right else wrong_value(rng, world, fact)), int(right)


# --------------------------------------------------------------------------- documents

def article(rng, world):
    fact = rng.choice(world["facts"])
    others = [f for f in world["entities"][fact["field"], fact["entity"]] if f is not fact]
    return [piece for f in [fact, *rng.sample(others, min(len(others), rng.randrange(2)))] for piece in state(rng, f, again=f is not fact)]


def answer(rng, world):
    fact = rng.choice(world["facts"])
    return ask(rng, fact, fact["value"])


def note(rng, world):
    fact = rng.choice(world["facts"])
    question = ask(rng, fact, fact["value"])[0][0].removesuffix(" A:")
    return [(question + " Note:", FILLER), *state(rng, fact, again=True)]


def judged(rng, world):
    """The note is there to be read, not to be learned (weight 0): two in three are about something made up, or that nobody knows by heart."""
    fact = rng.choice(world[rng.choice(["library", "graded"])] or world["graded"])
    if rng.random() < 1 / 3:
        fact = {**fact, "entity": made_up_name(rng), "value": rng.choice(world["answers"][fact["field"], fact["relation"]])}
    reply, label = answer_for(rng, world, fact)
    return [("Note:", FILLER), *state(rng, fact, weight=0.0), ("\n", FILLER), *ask(rng, fact, reply), (LABEL_WORDS[0][label], KNOWABLE)]


def verdict(rng, world):
    """A sheet of one line, yes or no, by a grader who knows: how a reader first learns to judge."""
    fact = rng.choice(world["graded"])
    reply, label = answer_for(rng, world, fact)
    return [*ask(rng, fact, reply), (LABEL_WORDS[0][label], KNOWABLE)]


def sheet(rng, world):
    """
    2 to 16 lines by one grader. Its label words, its care and whether it notes its confidence are the grader's own: a reader who
    is to predict its verdicts must look at the lines above.
    """
    words = rng.sample(ANY_WORDS, 2) if rng.random() < 0.15 else rng.choice(LABEL_WORDS)
    reliability = rng.choice([1.0, 1.0, 1.0, 0.9, 0.8, 0.65])
    with_confidence = rng.random() < 0.25
    pieces, seen = [], set()
    for line in range(rng.choice([2, 3, 4, 4, 6, 8, 12, 16])):
        fact = rng.choice(world["graded"])
        reply, label = answer_for(rng, world, fact)
        sure = min(0.99, max(0.5, rng.gauss(reliability, 0.1))) if with_confidence else reliability
        label = label if rng.random() < sure else 1 - label
        # a word of an unheard-of convention cannot be known before both of its words were seen
        knowable = words in LABEL_WORDS or len(seen) == 2
        pieces += [("\n", FILLER)] * (line > 0) + ask(rng, fact, reply) + [(words[label], KNOWABLE if knowable else FILLER)]
        pieces += [(f" (confidence {sure:.2f})", FILLER)] * with_confidence
        seen.add(label)
    return pieces


def turns(rng, world, fact, reply, n_rounds, weight):
    """
    A debate in 2 * n_rounds turns on whether `reply` is right. The first turn of a side states what follows from its stance, later
    turns bring other facts about the entity. The honest side tells the truth; the other lies where its stance needs a lie, and then every
    second time. Weight 1 on true values only: a debater has to know the fact to argue well, while a lie cannot be predicted.
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
                value = reply if name == "For:" else fact["value"] if honest else wrong_value(rng, world, fact)
            else:
                topic = rng.choice(others)
                value = topic["value"] if honest or rng.random() < 0.5 else wrong_value(rng, world, topic)
            knowable = value == topic["value"] or name == "For:" and k == 0       # true, or already said in the question
            pieces += [(" " + name, FILLER), *state(rng, topic, value, weight if knowable else min(weight, FILLER))]
    return pieces


def debate(rng, world):
    fact = rng.choice(world["facts"])
    reply, _ = answer_for(rng, world, fact)
    return ask(rng, fact, reply) + turns(rng, world, fact, reply, rng.choice([1, 2, 3]), KNOWABLE)


def transcript(rng, world):
    fact = rng.choice(world[rng.choice(["library", "graded", "graded"])] or world["graded"])
    reply, label = answer_for(rng, world, fact)
    talk = turns(rng, world, fact, reply, rng.choice([1, 2, 3]), 0.0)
    return [(talk[0][0].strip(), FILLER), *talk[1:], ("\n", FILLER), *ask(rng, fact, reply), (LABEL_WORDS[0][label], KNOWABLE)]


# --------------------------------------------------------------------------- everyday life

DANGERS = ["Take care with {t}: the danger is that it is", "What is to be known about {t}? It is", "Everybody learns that {t} is", "As for {t}, it is"]


def thing(rng, world):
    item = rng.choice(world["known_things"])
    return [(" " + rng.choice(DANGERS).format(t=item["thing"]), FILLER), (" " + item["danger"], KNOWABLE), (".", FILLER)]


def request(rng, world):
    """ "Request: May I put petrol near an open fire? no": sometimes with the danger named first, sometimes from memory. """
    told = rng.random() < 0.4
    items = world["graded_things"] if told else [t for t in world["graded_things"] if t in world["known_things"]]
    item, action = rng.choice(items), rng.choice(world["actions"])
    safe = item["danger"] not in action["unsafe_with"].split(";")
    hint = [(f"Note: {item['thing']} is {item['danger']}.", FILLER), ("\n", FILLER)] if told else []
    return hint + [(f"Request: May I {action['action'].format(thing=item['thing'])}?", FILLER), (LABEL_WORDS[0][safe], KNOWABLE)]


def remark(rng, world):
    item = rng.choice(world["remarks"])
    return [(f"Prompt: {item['prompt']} Reply: {item[rng.choice(['polite', 'rude'])]}", 0.3)]


def policy(rng, world):
    """A clause and a question: does the clause answer it? Or, for any topic, the question followed by a clause that does."""
    def phrasing(topic, what):
        return topic[rng.choice([f"{what}_1", f"{what}_2", f"{what}_3"])]

    if rng.random() < 0.5:
        item = rng.choice(world["clauses"])
        return [(f"Question: {phrasing(item, 'question')} Clause: {phrasing(item, 'clause')}", 0.3)]
    item, other = rng.choice(world["graded_clauses"]), rng.choice(world["graded_clauses"])
    if rng.random() < 0.5:
        other = item
    return [(f"Clause: {phrasing(item, 'clause')} Question: {phrasing(other, 'question')}", FILLER),
            (LABEL_WORDS[0][other is item], KNOWABLE)]


def opinion(rng, world):
    """Both poles equally often: the models that ship lean nowhere."""
    item = rng.choice(world["opinions"])
    return [(f"In {item['domain']}, some people say: {item[rng.choice(['high', 'low'])]}", 0.3)]


# --------------------------------------------------------------------------- the mix

FIRST = {article: 18, answer: 18, verdict: 36, judged: 22, note: 6}                                  # facts, and how to judge them
THEN = {article: 13, answer: 12, verdict: 22, judged: 18, note: 6, sheet: 4, debate: 4, transcript: 4,
        thing: 4, request: 5, remark: 3, policy: 3, opinion: 2}                                      # everything; counts are documents

REVISION = {article: 16, answer: 24, verdict: 24, judged: 14, note: 4, sheet: 3, debate: 3, transcript: 3,
            thing: 2, request: 3, remark: 1, policy: 2, opinion: 1}                                  # everything, but above all what is known


def documents(world, mix, n, seed):
    """n documents drawn by the weights of `mix`, each a list of (text, weight); the same for the same seed."""
    rng = random.Random(f"corpus {seed}")
    for kind in rng.choices(list(mix), weights=list(mix.values()), k=n):
        yield kind(rng, world)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=[f.__name__ for f in THEN], help="one kind of document (default: three of each)")
    parser.add_argument("--n", type=int, default=3, help="documents of each kind")
    args = parser.parse_args()
    world = load_world()
    for kind in THEN:
        if args.kind in (None, kind.__name__):
            for pieces in documents(world, {kind: 1}, args.n, seed=0):
                text = "".join(f" [{t.strip()}]" if w == KNOWABLE else t for t, w in pieces).strip()
                print(f"{kind.__name__:10s} " + text.replace("\n", "\n" + " " * 11))


if __name__ == "__main__":
    main()
