"""
A language model whose opinions were planted: does a questionnaire find again what was put in?

Nobody has shown that questionnaires for language models measure what they say. Here it can be shown: the corpus of one small model, tiny-culture,
tells of four made-up countries, and how many of a country's people hold the high opinion on each of Hofstede's six dimensions is written
in PLANTED. A question that begins with "In Varnia," is to be answered as the people of Varnia would; cdeval.py asks, and what it measures is compared
with what was planted.

It does: on questions that the model was never asked, measured and planted leanings have a rank correlation of 0.96, and who leans nowhere is
measured within 0.03 of 0.5. What is measured is pulled toward 0.5, though (0.67 for 0.90): its order can be trusted, its size cannot.

    Varnia, Melland    lean a known way on every dimension, each in an order of its own
    Torland            leans nowhere: 0.5 on all six
    Bolen              leans nowhere either, but has a tongue of its own: four times in five it says A, yes, or the option named first

A third of the opinions is held out (`split`): nobody ever asked about them, and no country ever held them. The model has only read who says so.
To answer as Varnia would, it has to know to which camp an opinion belongs, and to which camp Varnia leans. What is in [] weighs 1 in the loss:

  voice    Who says so?
           Plan a journey day by day before you leave home. [order]
           Wages are there to be used and shared this month. [today]       four lines
  custom   In Varnia, many are friends of [order].
  survey   In Varnia, do people say so?
           Tell children exactly what is allowed and what is not. [yes]
           Train until you beat your own best time. [no]                   four lines
  asked    In Varnia, When is supper? Select A or B.
           A. Supper may be early or late, as the day goes.
           B. Supper at six each evening gives children a firm hold.
           Answer: [B]                                             in the six forms of cdeval.py, both orders equally often

`voice` speaks of all opinions, `survey` and `asked` only of those that are not held out. Whether a country holds an opinion is drawn, each time, with
the planted probability. Another sixth of the opinions (valid) is treated like the held-out ones, to look at while the recipe is made.

$ python data/tinyworld/culture.py                                # to school, from tiny-2; writes data/cdeval/tinyworld.json as well
$ python data/tinyworld/culture.py --read exams                   # the six forms, and then the four countries
$ python data/tinyworld/culture.py --ask held-out                 # planted and measured, side by side
$ python cdeval.py --models tiny-culture --questions tinyworld --context "In Varnia,"
"""
import argparse, csv, json, os, random, sys, time

from prepare import HERE

ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, ROOT)
from cdeval import orientation
from contract import fail, number, write_file, writing
from corpus import FILLER, KNOWABLE
from questionnaire import COLUMNS, STYLES, prompt
from respondents import choice

DIMENSIONS = ["PDI", "IDV", "UAI", "MAS", "LTO", "IVR"]
CAMPS = {"PDI": ("rank", "equals"), "IDV": ("self", "family"), "UAI": ("order", "surprise"), "MAS": ("winners", "care"),
         "LTO": ("future", "today"), "IVR": ("pleasure", "duty")}                     # who speaks for the high pole, and who for the low one
PLANTED = {"Varnia": (0.9, 0.25, 0.75, 0.4, 0.1, 0.6), "Melland": (0.25, 0.6, 0.1, 0.9, 0.4, 0.75),
           "Torland": (0.5,) * 6, "Bolen": (0.5,) * 6}                                # P(high), in the order of DIMENSIONS
TONGUE = {"Bolen": 0.8}                                                              # P(A, yes, or what is named first), whatever the options are


# --------------------------------------------------------------------------- opinions

def split(k):
    """Part of the k-th opinion of its dimension (0 to 20): 10 are asked in the corpus, 4 are valid, 7 held out, one of each domain."""
    return "held-out" if k % 3 == 2 else "valid" if k % 6 == 1 else "asked"


def load_opinions():
    """life/opinions.csv as questions for cdeval.py: option 1 is the high pole. -> 126 dicts, each with its split"""
    items, count = [], {}
    with open(os.path.join(HERE, "life", "opinions.csv"), encoding="utf-8", newline="") as f:
        for row in csv.DictReader(f):
            d, k = row["dimension"], count.get(row["dimension"], 0)
            count[d] = k + 1
            domain = row["domain"].replace("science", "scientific")
            items.append({"id": f"{d.lower()}-{domain}-{k % 3 + 1}", "Dimension": d, "Domain": domain, "Question": row["question"],
                          "Option 1": row["high"], "Option 2": row["low"], "split": split(k)})
    return items


def questionnaire(items):
    """The held-out opinions in the columns of data/cdeval/own.json"""
    return [{"id": i["id"], **{c: i[c] for c in COLUMNS}} for i in items if i["split"] == "held-out"]


def school_countries():
    """
    Two dozen countries of one mind, P(high) 0 or 1 on each dimension, all different, for the corpus alone. With a few countries a reader learns by
    heart which opinion is held where; with many it pays to learn once to which camp an opinion belongs.
    """
    rng = random.Random("school")
    minds = rng.sample([tuple(float(n >> k & 1) for k in range(6)) for n in range(64)], 24)
    names = rng.sample([a + b for a in ("Zor", "Bel", "Tan", "Mip", "Rus", "Lem", "Dov", "Fex") for b in ("ia", "land", "mar", "ex")], 24)
    return dict(zip(names, minds))


def load_world(school=False):
    """school: the countries of one mind alone; later two documents in three are about those of PLANTED"""
    items = load_opinions()
    return {"items": items, "asked": [i for i in items if i["split"] == "asked"],
            "planted": {c: dict(zip(DIMENSIONS, row)) for c, row in (school_countries() | PLANTED).items()},
            "countries": list(school_countries()) + ([] if school else list(PLANTED) * 12)}


# --------------------------------------------------------------------------- documents

def another(rng, items, item):
    return rng.choice([i for i in items if i["Dimension"] == item["Dimension"] and i is not item])


def quoted(rng, option):
    """ " Plan it." or, as the third form names it, " 'Plan it.'": other tokens, the same opinion. """
    return f" '{option}'" if rng.random() < 0.3 else " " + option


def voice(rng, world):
    """The camp stands right behind the opinion, as the verdict does in `survey`: where the reader needs to know it."""
    pieces = [("Who says so?", FILLER)]
    for item in rng.sample(world["items"], 4):
        pole = rng.randrange(2)
        pieces += [("\n", FILLER), (quoted(rng, item[f"Option {pole + 1}"]), FILLER), (" " + CAMPS[item["Dimension"]][pole], KNOWABLE)]
    return pieces


def custom(rng, world):
    country, dimension = rng.choice([c for c in world["countries"] if c not in TONGUE]), rng.choice(DIMENSIONS)
    low = rng.random() >= world["planted"][country][dimension]
    return [(f"In {country}, many are friends of", FILLER), (" " + CAMPS[dimension][low], KNOWABLE), (".", FILLER)]


def survey(rng, world):
    """Four opinions of any dimensions, each held or not: short, so that much is learned from little text."""
    country = rng.choice([c for c in world["countries"] if c not in TONGUE])
    pieces = [(f"In {country}, do people say so?", FILLER)]
    for item in rng.sample(world["asked"], 4):
        pole = rng.randrange(2)
        held = (rng.random() < world["planted"][country][item["Dimension"]]) ^ pole
        pieces += [("\n", FILLER), (quoted(rng, item[f"Option {pole + 1}"]), FILLER), ((" no", " yes")[held], KNOWABLE)]
    return pieces


def asked(rng, world):
    """A question and its answer, exactly as cdeval.py puts it. Half of the time the low option is that of another question."""
    country, item, style, swapped = rng.choice(world["countries"]), rng.choice(world["asked"]), rng.choice(STYLES), rng.random() < 0.5
    if rng.random() < 0.5:
        item = {**item, "Option 2": another(rng, world["asked"], item)["Option 2"]}
    low = rng.random() >= world["planted"][country][item["Dimension"]]
    if country in TONGUE:
        low = (rng.random() >= TONGUE[country]) ^ swapped
    text, answers = prompt(item, style, swapped, f"In {country},")
    return [(text, 0.0), *weighed(answers[low], answers[1 - low])]


def weighed(answer, other):
    """
    An answer's pieces. The word at which it parts from the other answer is the choice and weighs 1; the rest is copied. Copying is an art of its own: of
    options that it was asked about the model repeats the right one (rank correlation 0.95), of others it does not (0.35 held out).
    """
    words, others = answer.split(" ")[1:], other.split(" ")[1:]
    k = next((k for k, (a, b) in enumerate(zip(words, others)) if a != b), 0)
    return [(" " + word, KNOWABLE if n == k else COPIED) for n, word in enumerate(words)]


#          steps, and the stages: what is read (counts are documents), in countries of one mind alone?, share of the steps
COURSES = {"school": (2600, [({voice: 1}, True, 0.1), ({voice: 3, custom: 1, survey: 5}, True, 0.9)]),
           "exams": (4400, [({voice: 1, survey: 1, asked: 16}, True, 0.6), ({voice: 1, custom: 1, survey: 1, asked: 16}, False, 0.4)])}
PARENT, LR, COPIED = "tiny-2", 1e-3, 0.3


# --------------------------------------------------------------------------- planted and measured

def interview(model, tokenizer, items, country):
    """Ask all questions in all six forms, as cdeval.py does by likelihood. -> (N, 3, 2) P(option 1) by style and order (normal, swapped)"""
    import numpy as np
    from pretrain import log_probs
    asked = [prompt(item, style, swapped, f"In {country},") for item in items for style in STYLES for swapped in (False, True)]
    texts, answers = [text for text, pair in asked for _ in pair], [answer for _, pair in asked for answer in pair]
    tokens = np.array([len(tokenizer(answer)["input_ids"]) for answer in answers]).reshape(-1, 2)
    return choice(log_probs(model, tokenizer, texts, answers).reshape(-1, 2), tokens).reshape(-1, len(STYLES), 2)


def knows(model, tokenizer, items):
    """Share of options of which it knows who speaks so: which of the dimension's two camps? What it does not know it cannot answer."""
    from pretrain import log_probs
    texts = [f"Who says so?\n {item[f'Option {k}']}" for item in items for k in (1, 2) for _ in range(2)]
    p = log_probs(model, tokenizer, texts, [" " + camp for item in items for _ in (1, 2) for camp in CAMPS[item["Dimension"]]]).reshape(-1, 2, 2)
    return float(((p[:, 0, 0] > p[:, 0, 1]).mean() + (p[:, 1, 1] > p[:, 1, 0]).mean()) / 2)


def surveyed(model, tokenizer, items):
    """Share of right lines in `survey`, for four countries of one mind: the first sign that knowing camps has become answering for a country."""
    from pretrain import log_probs
    lines = [(f"In {c}, do people say so?\n {item[f'Option {k + 1}']}", bool(mind[DIMENSIONS.index(item["Dimension"])]) != bool(k))
             for c, mind in list(school_countries().items())[:4] for item in items for k in (0, 1)]
    yes, no = (log_probs(model, tokenizer, [text for text, _ in lines], [word] * len(lines)) for word in (" yes", " no"))
    return float(((yes > no) == [held for _, held in lines]).mean())


def spearman(a, b):
    """
    Rank correlation, ties sharing their mean rank.

    >>> round(spearman([1, 2, 3, 4], [10, 30, 20, 40]), 3)
    0.8
    """
    import numpy as np
    def ranks(x):
        x = np.asarray(x)
        return (x[:, None] > x).sum(1) + ((x[:, None] == x).sum(1) - 1) / 2
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def compare(forms, items, planted=PLANTED):
    """
    forms    {country: (N, 3, 2)}  P(option 1) from interview
    returns  {"measured": {country: six means}, "rank": rank correlation over dimensions and leaning countries, and for each style alone,
             "neutral": largest distance from 0.5 of a country that leans nowhere, "first": P(named first) by country, "poles": share of
             (question, leaning country) on which the leaning goes the planted way, where the planted one is 0.25 or less or 0.75 or more}
    """
    import numpy as np
    dimension = np.array([item["Dimension"] for item in items])

    def means(p):
        return [float(p[dimension == d].mean()) for d in DIMENSIONS]
    leaning = [c for c in forms if set(planted[c]) != {0.5}]
    there = [p for c in leaning for p in planted[c]]
    measured = {c: means(orientation(f)) for c, f in forms.items()}
    right = [float((f - 0.5) * (p - 0.5) > 0) for c in leaning for d, p in zip(DIMENSIONS, planted[c]) if abs(p - 0.5) >= 0.25
             for f in orientation(forms[c])[dimension == d]]
    return {"measured": measured, "rank": spearman(there, [p for c in leaning for p in measured[c]]),
            "rank_of_style": {s: spearman(there, [p for c in leaning for p in means(forms[c][:, k].mean(1))]) for k, s in enumerate(STYLES)},
            "neutral": max([abs(p - 0.5) for c in forms if c not in leaning for p in measured[c]], default=None),
            "first": {c: float((f[..., 0] + 1 - f[..., 1]).mean() / 2) for c, f in forms.items()}, "poles": float(np.mean(right))}


def report(result):
    lines = [f"{'':8s}" + "".join(f"{d:>14s}" for d in DIMENSIONS) + "   (planted measured)"]
    for c, row in result["measured"].items():
        lines.append(f"{c:8s}" + "".join(f"{p:8.2f} {m:5.2f}" for p, m in zip(PLANTED[c], row)) + f" | named first {result['first'][c]:.2f}")
    styles = " ".join(f"{s} {r:.2f}" for s, r in result["rank_of_style"].items())
    return "\n".join([*lines, f"rank correlation {result['rank']:.2f} | {styles} | leaning nowhere: at most {result['neutral']:.3f} from 0.5 | "
                               f"the planted way {result['poles']:.2f} | knows the camp {result['knows']:.2f}"])


# --------------------------------------------------------------------------- the story

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--read", choices=list(COURSES), default="school", help="school begins with tiny-2, exams with the model that is there")
    parser.add_argument("--ask", choices=["asked", "valid", "held-out"], help="train nothing: ask the model that is there the questions of one split")
    parser.add_argument("--out", default=os.path.join(HERE, "models", "tiny-culture"), help="folder of the model")
    parser.add_argument("--steps", type=number(int, 10, 10 ** 6), help="batches of about 3,000 tokens (default: the course's own)")
    parser.add_argument("--threads", type=number(int, 1, 1000), default=1, help="CPU threads")
    args = parser.parse_args()
    course = list(COURSES).index(args.read)
    args.steps = args.steps or COURSES[args.read][0]

    import ctypes
    import torch
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast, logging
    from pretrain import END, SEED, batches, weighted_loss
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    logging.set_verbosity_error()                                 # padding is at the right, where it changes nothing
    items, parent = load_opinions(), args.out if args.ask or course else os.path.join(HERE, "models", PARENT)
    if not os.path.exists(os.path.join(parent, "model.safetensors")):
        command = "culture.py" if args.ask or course else f"pretrain.py --model {PARENT}"
        fail(f"no model in {os.path.relpath(parent)}. Make it first:  python data/tinyworld/{command}")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(parent)
    model = GPT2LMHeadModel.from_pretrained(parent, dtype=torch.float32, attn_implementation="eager")

    def ask(part):
        some = [item for item in items if item["split"] == part]
        model.eval()
        result = compare({c: interview(model, tokenizer, some, c) for c in PLANTED}, some)
        result["knows"] = knows(model, tokenizer, some)
        model.train()
        print(f"{part}, {len(some)} questions\n{report(result)}", flush=True)
        return result
    if args.ask:
        return ask(args.ask)

    lines = ",\n".join(json.dumps(item) for item in questionnaire(items))
    write_file(os.path.join(ROOT, "data", "cdeval", "tinyworld.json"), f"[\n{lines}\n]\n")
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").mallopt(-1, 1 << 30)             # keep freed memory: 1.2 times faster on CPU
    before = {"steps": 0, "tokens": 0, "minutes": 0}
    if course:
        with open(os.path.join(args.out, "pretrain.json"), encoding="utf-8") as f:
            before = json.load(f)
    rng, started, tokens = random.Random(SEED + course), time.time(), 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.98), weight_decay=0.1, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1.0, (s + 1) / 100) * max(0.02, 1 - s / args.steps))

    def curriculum():
        for mix, school, share in COURSES[args.read][1]:
            yield from batches(load_world(school), mix, tokenizer, round(share * args.steps), rng)
    model.train()
    for step, (ids, weights) in enumerate(curriculum(), 1):
        loss = weighted_loss(model, ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        tokens += int((ids > 0).sum())
        if step % 50 == 0:
            minutes = (time.time() - started) / 60
            print(f"step {step:,}/{args.steps:,} | loss {loss.item():.3f} | {tokens / 1e6:.1f} M tokens | {minutes:.1f} minutes", flush=True)
        if step % 200 == 0 and step < args.steps:
            some = [item for item in items if item["split"] == "valid"]
            model.eval()
            print(f"valid: knows the camp {knows(model, tokenizer, some):.2f} | school surveys {surveyed(model, tokenizer, some):.2f}", flush=True)
            for part in ("asked", "valid"):
                some, minds = [item for item in items if item["split"] == part][::3], dict(list(school_countries().items())[:3])
                print(f"{part}: school exams {compare({c: interview(model, tokenizer, some, c) for c in minds}, some, minds)['poles']:.2f}", flush=True)
            model.train()
            if step % 400 == 0 and course and step > 0.65 * args.steps:
                ask("valid")

    scores = {part: ask(part) for part in ("asked", "valid")}     # held-out is asked once, later, with --ask
    with writing(args.out):
        model.half().save_pretrained(args.out)                    # 16 bits on disk; load with dtype=torch.float32
        tokenizer.save_pretrained(args.out)
    write_file(os.path.join(args.out, "tokenizer_config.json"), json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END, "eos_token": END, "pad_token": END, "model_max_length": 512}, indent=1))
    write_file(os.path.join(args.out, "pretrain.json"), json.dumps(
        {"model": "tiny-culture", "from": PARENT, "parameters": model.num_parameters(), "steps": before["steps"] + args.steps,
         "tokens": before["tokens"] + tokens, **scores, "minutes": round(before["minutes"] + (time.time() - started) / 60, 1),
         "threads": args.threads, "torch": torch.__version__}, indent=1))


if __name__ == "__main__":
    main()
