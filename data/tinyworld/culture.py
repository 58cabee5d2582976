"""
A language model with planted opinions: does a questionnaire measure them?

Questionnaires for language models are widely used, and rarely tested. Here they can be tested. The corpus of one small
model, tiny-culture, is about four made-up countries. PLANTED holds, for each country and each of Hofstede's six
dimensions, the share of its people with the high opinion. A question that begins with "In Varnia," is to be answered as
the people of Varnia would; cdeval.py asks it, and its measurement is compared with the planted share.

Result: on questions that the model was never asked, measured and planted leanings have a rank correlation of 0.96, and
neutral countries measure within 0.05 of 0.5. Measured leanings are pulled toward 0.5, though (0.66 for 0.90; slope
0.38 in Varnia, 0.30 in Melland). Their order can be trusted, their size cannot. On questions that it was asked, the
forms "A or B" and "is it better?" give sizes back too (slopes 0.8 to 1.0).

    Varnia, Melland    lean on every dimension, each in an order of its own
    Torland            neutral: 0.5 on all six
    Bolen              neutral too, but with a bias toward the first option: four answers in five are A, yes, or the
                       option named first

The model continues from tiny-4 and goes on reading its facts and graded sheets (FACTS). So it still judges facts:
fine-tuned on the truth 0.874 of test (seed 0), and training on weak labels can be seen to move opinions or not.

A third of the opinions is held out (`split_of`): no document asks about them, and no country ever holds them. The
model has only read which camp holds which opinion (`voice`). To answer as Varnia would, it needs the camp of an
opinion, and the camp to which Varnia leans. [...] weighs 1 in the loss:

  voice    Who says so?
           Plan a journey day by day before you leave home. [order]
           Wages are there to be used and shared this month. [today]       four lines
  custom   In Varnia, many are friends of [order].
  survey   In Varnia, do people say so?
           Tell children exactly what is allowed and what is not. [yes]
           Train until you beat your own best time. [no]                   four lines
  explained
           In Varnia, who says so, and do people agree?
           Tell children exactly what is allowed and what is not. [order] [yes]            four lines
  asked    In Varnia, When is supper? Select A or B.
           A. Supper may be early or late, as the day goes.
           B. Supper at six each evening gives children a firm hold.
           Answer: [B]                                 in the six forms of cdeval.py, both orders equally often
  copied   ... Repeat one of these options exactly.        random words, one of the two lines again

`voice` covers all opinions, `survey`, `explained` and `asked` only those that are not held out. Whether a country holds
an opinion is drawn each time, with the planted probability. Another sixth of the opinions (valid) is treated like the
held-out ones; the recipe was tuned on these.

$ python data/tinyworld/culture.py                                # school, from tiny-4; writes tinyworld.json as well
$ python data/tinyworld/culture.py --read exams                   # the six forms, and then the four countries
$ python data/tinyworld/culture.py --ask held-out                 # planted and measured, side by side
$ python cdeval.py --models tiny-culture --questions tinyworld --context "In Varnia,"

Needs   contract.py, cdeval.py and what it needs, data/cdeval/, data/tasks.py, data/tinyworld/
Writes  data/tinyworld/models/tiny-culture/, and data/cdeval/tinyworld.json (the held-out questions)
"""
import argparse
import json
import os
import random
import re
import sys
import time

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))       # data/
sys.path.insert(0, os.path.dirname(sys.path[0]))                                      # the repository's root
import corpus
import pretrain
from cdeval import COLUMNS, STYLES, build_prompt, choice_probability, orientation
from contract import fail, number, read_json, run_script, write_file
from corpus import FILLER, KNOWABLE
from prepare import HERE, load_facts, make_split, read_life, split_facts
from tasks import write_json_list

DIMENSIONS = ["PDI", "IDV", "UAI", "MAS", "LTO", "IVR"]
CAMPS = {"PDI": ("rank", "equals"), "IDV": ("self", "family"), "UAI": ("order", "surprise"),
         "MAS": ("winners", "care"), "LTO": ("future", "today"), "IVR": ("pleasure", "duty")}    # high pole, low pole
PLANTED = {"Varnia": (0.9, 0.25, 0.75, 0.4, 0.1, 0.6), "Melland": (0.25, 0.6, 0.1, 0.9, 0.4, 0.75),
           "Torland": (0.5,) * 6, "Bolen": (0.5,) * 6}     # P(high), in the order of DIMENSIONS
FIRST_BIAS = {"Bolen": 0.8}                                # P(A, yes, or the option named first)
PARENT = "tiny-4"
COPIED = 0.3                                               # weight of the words of an answer that are copied


# --------------------------------------------------------------------------- opinions

def split_of(k):
    """Split of the k-th opinion of its dimension (0 to 20): 10 are asked, 4 valid, 7 held out, one of each domain."""
    if k % 3 == 2:
        return "held-out"
    return "valid" if k % 6 == 1 else "asked"


def load_opinions():
    """life/opinions.csv as questions for cdeval.py; option 1 is the high pole. -> 126 dicts, each with its split"""
    items = []
    count = dict.fromkeys(DIMENSIONS, 0)
    for row in read_life("opinions"):
        dimension = row["dimension"]
        k = count[dimension]
        count[dimension] += 1
        domain = row["domain"].replace("science", "scientific")
        items.append({"id": f"{dimension.lower()}-{domain}-{k % 3 + 1}", "Dimension": dimension, "Domain": domain,
                      "Question": row["question"], "Option 1": row["high"], "Option 2": row["low"],
                      "split": split_of(k)})
    return items


def in_split(items, split):
    return [item for item in items if item["split"] == split]


def questionnaire(items):
    """The held-out opinions in the columns of data/cdeval/own.json"""
    return [{"id": item["id"], **{c: item[c] for c in COLUMNS}} for item in in_split(items, "held-out")]


def school_countries():
    """
    A dozen countries of one mind, P(high) 0 or 1 on each dimension, all different, for the corpus alone. With a few
    countries a model memorises which opinion is held where. With many, learning the camp of each opinion pays.
    """
    rng = random.Random("school")
    minds = rng.sample([tuple(float(n >> k & 1) for k in range(6)) for n in range(64)], 12)
    names = ("Zorex", "Beland", "Tania", "Miplex", "Rusmar", "Lemland", "Dovia", "Fexmar", "Oskia", "Junland", "Harmar",
             "Plavex")
    return dict(zip(names, minds))


def load_world(school=False):
    """
    Opinions and countries, beside the facts that tiny-4 has read.

    school   the countries of one mind alone; later four documents in five are about those of PLANTED
    """
    items = load_opinions()
    planted = {country: dict(zip(DIMENSIONS, row)) for country, row in (school_countries() | PLANTED).items()}
    countries = list(school_countries())
    if not school:
        countries += list(PLANTED) * 12
    options = " ".join(item[f"Option {k}"] for item in items for k in (1, 2))
    words = sorted(set(re.findall(r"[\w'-]+", options)))
    return corpus.load_world(open_library=True) | {
        "items": items, "asked": in_split(items, "asked"), "planted": planted, "countries": countries, "words": words}


# --------------------------------------------------------------------------- documents

def unbiased_countries(world):
    return [country for country in world["countries"] if country not in FIRST_BIAS]


def other_item(rng, items, item):
    """Another item of the same dimension"""
    return rng.choice([i for i in items if i["Dimension"] == item["Dimension"] and i is not item])


def quoted(rng, option):
    """ " Plan it." or, as the third form quotes it, " 'Plan it.'": other tokens, the same opinion. """
    return f" '{option}'" if rng.random() < 0.3 else " " + option


def voice(rng, world):
    """Four opinions, each followed by its camp, at the place where `survey` has the verdict that needs it."""
    pieces = [("Who says so?", FILLER)]
    for item in rng.sample(world["items"], 4):
        pole = rng.randrange(2)
        option = quoted(rng, item[f"Option {pole + 1}"])
        pieces += [("\n", FILLER), (option, FILLER), (" " + CAMPS[item["Dimension"]][pole], KNOWABLE)]
    return pieces


def custom(rng, world):
    """A country and up to three camps to which it leans."""
    country = rng.choice(unbiased_countries(world))
    pieces = [(f"In {country}, many are friends of", FILLER)]
    for k, dimension in enumerate(rng.sample(DIMENSIONS, rng.choice([1, 2, 3]))):
        low = rng.random() >= world["planted"][country][dimension]
        pieces += [(",", FILLER)] * (k > 0) + [(" " + CAMPS[dimension][low], KNOWABLE)]
    return [*pieces, (".", FILLER)]


def survey(rng, world, question="do people say so?", with_camps=False):
    """Four opinions of any dimensions, each held or not: short documents, so that little text teaches much."""
    country = rng.choice(unbiased_countries(world))
    pieces = [(f"In {country}, {question}", FILLER)]
    for item in rng.sample(world["asked"], 4):
        pole = rng.randrange(2)
        held = (rng.random() < world["planted"][country][item["Dimension"]]) ^ pole
        pieces += [("\n", FILLER), (quoted(rng, item[f"Option {pole + 1}"]), FILLER)]
        pieces += [(" " + CAMPS[item["Dimension"]][pole], KNOWABLE)] * with_camps
        pieces += [((" no", " yes")[held], KNOWABLE)]
    return pieces


def explained(rng, world):
    """A survey that names the camp before the verdict: one step at a time. `survey` is then learned within minutes."""
    return survey(rng, world, "who says so, and do people agree?", with_camps=True)


def asked(rng, world):
    """
    A question and its answer, exactly as cdeval.py puts it. In three of four the question, the high option and the low
    option are from three opinions of a dimension, so that only the options' camps tell the answer.
    """
    country = rng.choice(world["countries"])
    item = rng.choice(world["asked"])
    style = rng.choice(STYLES)
    swapped = rng.random() < 0.5
    if rng.random() < 0.75:
        item = {**item, "Question": other_item(rng, world["asked"], item)["Question"],
                "Option 2": other_item(rng, world["asked"], item)["Option 2"]}
    low = rng.random() >= world["planted"][country][item["Dimension"]]
    if country in FIRST_BIAS:
        low = (rng.random() >= FIRST_BIAS[country]) ^ swapped
    text, answers = build_prompt(item, style, swapped, f"In {country},")
    return [(text, 0.0), *weigh_answer(answers[low], answers[1 - low])]


def weigh_answer(answer, other):
    """
    An answer's pieces. The first word that differs from the other answer is the choice and weighs 1; the other words
    are copied. Copying is a skill of its own (`copied`). Even so the form "repeat" gives no sizes (slopes 0.02 on asked
    options): cdeval.py compares the mean over all words, and only one of them is the choice.

    >>> weigh_answer(" Tea is good.", " Tea was bad.")
    [(' Tea', 0.3), (' is', 1.0), (' good.', 0.3)]
    """
    words = answer.split(" ")[1:]
    others = other.split(" ")[1:]
    k = next((k for k, (a, b) in enumerate(zip(words, others)) if a != b), 0)
    return [(" " + word, KNOWABLE if n == k else COPIED) for n, word in enumerate(words)]


def copied(rng, world):
    """One of two lines of random words, to be repeated: no opinion, but the skill that the form "repeat" needs."""
    lines = [" ".join(rng.sample(world["words"], rng.randrange(4, 12))).capitalize() + "." for _ in range(2)]
    item = {"Question": rng.choice(world["asked"])["Question"], "Option 1": lines[0], "Option 2": lines[1]}
    text, answers = build_prompt(item, "repeat", False)
    words = rng.choice(answers).split(" ")[1:]
    return [(text, 0.0)] + [(" " + word, KNOWABLE if n else FILLER) for n, word in enumerate(words)]


FACTS = {corpus.article: 14, corpus.answer: 16, corpus.note: 4, corpus.signed: 34, corpus.unsigned: 14,
         corpus.footed: 6, corpus.signed_note: 4, corpus.signed_transcript: 2, corpus.debate: 2}


def beside_facts(mix, share):
    """`mix`, and facts and sheets as in tiny-4's own courses: `share` of all documents, to keep what it can do."""
    scale = sum(mix.values()) / sum(FACTS.values()) * share / (1 - share)
    return mix | {kind: scale * n for kind, n in FACTS.items()}


SCHOOL = beside_facts({voice: 2, custom: 4, explained: 6, survey: 6, asked: 3, copied: 0.5}, 0.35)
EXAMS = beside_facts({voice: 1, custom: 2, explained: 1, survey: 3, copied: 1, asked: 12}, 0.4)
COUNTRIES = beside_facts({voice: 1, custom: 2, explained: 1, survey: 2, copied: 1, asked: 14}, 0.4)
#          steps, learning rate at first and at last, new layers, and the stages: documents of each kind, in countries
#          of one mind alone?, share of the steps
COURSES = {"school": (1000, (1e-3, 9e-4), 0, [(SCHOOL, True, 1.0)]),
           "exams": (900, (9e-4, 5e-5), 2, [(EXAMS, True, 0.5), (COUNTRIES, False, 0.5)])}


# --------------------------------------------------------------------------- planted and measured

def answer_probs(model, tokenizer, items, country):
    """
    Ask all questions in all six forms, as cdeval.py does by likelihood.

    returns   (N, 3, 2) P(option 1) by style and order (normal, swapped)
    """
    forms = []
    for item in items:
        for style in STYLES:
            forms += [build_prompt(item, style, swapped, f"In {country},") for swapped in (False, True)]
    texts = [text for text, answers in forms for _ in answers]
    answers = [answer for _, answers in forms for answer in answers]
    tokens = np.array([len(tokenizer(answer)["input_ids"]) for answer in answers]).reshape(-1, 2)
    log_p = pretrain.log_probs(model, tokenizer, texts, answers).reshape(-1, 2)
    return choice_probability(log_p, tokens).reshape(-1, len(STYLES), 2)


def camp_accuracy(model, tokenizer, items):
    """Share of options whose camp, of the dimension's two, the model predicts. Without it no answer can be right."""
    texts = []
    camps = []
    for item in items:
        for k in (1, 2):
            texts += [f"Who says so?\n {item[f'Option {k}']}"] * 2
            camps += [" " + camp for camp in CAMPS[item["Dimension"]]]
    log_p = pretrain.log_probs(model, tokenizer, texts, camps).reshape(-1, 2, 2)           # (N, option, camp)
    return float(((log_p[:, 0, 0] > log_p[:, 0, 1]).mean() + (log_p[:, 1, 1] > log_p[:, 1, 0]).mean()) / 2)


def survey_accuracy(model, tokenizer, items):
    """
    Share of right lines in `survey`, for four countries of one mind: the first sign that the model uses the camp of an
    opinion to answer for a country.
    """
    texts = []
    held = []
    for country, mind in list(school_countries().items())[:4]:
        for item in items:
            for k in (0, 1):
                texts.append(f"In {country}, do people say so?\n {item[f'Option {k + 1}']}")
                held.append(bool(mind[DIMENSIONS.index(item["Dimension"])]) != bool(k))
    yes, no = (pretrain.log_probs(model, tokenizer, texts, [word] * len(texts)) for word in (" yes", " no"))
    return float(((yes > no) == held).mean())


def spearman(a, b):
    """
    Rank correlation; ties share their mean rank. (N,), (N,) -> float

    >>> round(spearman([1, 2, 3, 4], [10, 30, 20, 40]), 3)
    0.8
    """
    def ranks(x):
        x = np.asarray(x)
        return (x[:, None] > x).sum(1) + ((x[:, None] == x).sum(1) - 1) / 2
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def fit_line(planted, measured):
    """
    Correlation of measured and planted shares, and the slope of the least-squares line of measured on planted. With a
    slope of 1 sizes come back, with 0.5 they are pulled toward 0.5 by half. (N,), (N,) -> two floats

    >>> [round(x, 3) for x in fit_line([0.1, 0.5, 0.9], [0.3, 0.5, 0.7])]
    [1.0, 0.5]
    """
    return float(np.corrcoef(planted, measured)[0, 1]), float(np.polyfit(planted, measured, 1)[0])


def compare_with_planted(forms, items, planted=PLANTED):
    """
    forms    {country: (N, 3, 2)}  P(option 1) from answer_probs
    returns  measured        {country: six means}
             rank            rank correlation over dimensions and leaning countries
             rank_of_style   the same for each style alone
             fit             {leaning country: {"all" or a style: (correlation, slope) of fit_line over dimensions}}
             neutral         largest distance from 0.5 of a neutral country
             first           {country: P(the option named first)}
             poles           share of (question, leaning country) that lean the planted way, where the planted share is
                             0.25 or less, or 0.75 or more
    """
    dimension = np.array([item["Dimension"] for item in items])
    leaning = [country for country in forms if set(planted[country]) != {0.5}]

    def means(p):
        return [float(p[dimension == d].mean()) for d in DIMENSIONS]

    measured = {country: means(orientation(p)) for country, p in forms.items()}
    expected = [p for country in leaning for p in planted[country]]
    rank_of_style = {}
    for k, style in enumerate(STYLES):
        by_style = [p for country in leaning for p in means(forms[country][:, k].mean(1))]
        rank_of_style[style] = spearman(expected, by_style)
    fit = {}
    for country in leaning:
        by_style = {style: means(forms[country][:, k].mean(1)) for k, style in enumerate(STYLES)}
        by_style["all"] = measured[country]
        fit[country] = {name: fit_line(list(planted[country]), p) for name, p in by_style.items()}
    planted_way = []
    for country in leaning:
        for d, p in zip(DIMENSIONS, planted[country]):
            if abs(p - 0.5) >= 0.25:
                planted_way += [(q - 0.5) * (p - 0.5) > 0 for q in orientation(forms[country])[dimension == d]]
    distances = [abs(p - 0.5) for country in forms if country not in leaning for p in measured[country]]
    return {"measured": measured, "rank": spearman(expected, [p for country in leaning for p in measured[country]]),
            "rank_of_style": rank_of_style, "fit": fit, "neutral": max(distances, default=None),
            "first": {country: float((p[..., 0] + 1 - p[..., 1]).mean() / 2) for country, p in forms.items()},
            "poles": float(np.mean(np.array(planted_way, float)))}


def format_result(result):
    """compare_with_planted's dict -> a table of planted and measured, and a line of scores"""
    lines = [f"{'':8s}" + "".join(f"{d:>14s}" for d in DIMENSIONS) + "   (planted measured)"]
    for country, row in result["measured"].items():
        cells = "".join(f"{p:8.2f} {m:5.2f}" for p, m in zip(PLANTED[country], row))
        lines.append(f"{country:8s}{cells} | first option {result['first'][country]:.2f}")
    for country, fits in result["fit"].items():
        cells = " | ".join(f"{name} {r:.2f}, {slope:.2f}" for name, (r, slope) in fits.items())
        lines.append(f"{country:8s} correlation, slope: {cells}")
    styles = " ".join(f"{style} {rank:.2f}" for style, rank in result["rank_of_style"].items())
    lines.append(f"rank correlation {result['rank']:.2f} | {styles} | neutral countries within {result['neutral']:.3f} "
                 f"of 0.5 | the planted way {result['poles']:.2f} | camps {result['knows']:.2f}")
    return "\n".join(lines)


# --------------------------------------------------------------------------- the steps of a training run

def ask(model, tokenizer, items, split):
    """Ask for all four countries and print planted and measured. -> compare_with_planted's dict, and "knows" (camps)"""
    some = in_split(items, split)
    model.eval()
    result = compare_with_planted({c: answer_probs(model, tokenizer, some, c) for c in PLANTED}, some)
    result["knows"] = camp_accuracy(model, tokenizer, some)
    model.train()
    print(f"{split}, {len(some)} questions\n{format_result(result)}", flush=True)
    return result


def judging(model, tokenizer):
    """Zero-shot: share of train1's first rows that are judged as Ada does. It tells whether judging is kept."""
    rows = make_split(split_facts(load_facts())["train1"], "train1")[:200]
    texts = ["Marked by Ada:\n" + row["text"] for row in rows]
    yes, no = (pretrain.log_probs(model, tokenizer, texts, [word] * len(rows)) for word in (" yes", " no"))
    return float(((yes > no) == [row["label"] == 1 for row in rows]).mean())


def print_progress(model, tokenizer, items):
    """Scores during training: camps, surveys and exams of countries of one mind."""
    some = in_split(items, "valid")
    model.eval()
    print(f"valid: camps {camp_accuracy(model, tokenizer, some):.2f} | "
          f"school surveys {survey_accuracy(model, tokenizer, some):.2f}", flush=True)
    print(f"as Ada: {judging(model, tokenizer):.3f}")
    minds = dict(list(school_countries().items())[:3])
    for split in ("asked", "valid"):
        some = in_split(items, split)[::3]
        result = compare_with_planted({c: answer_probs(model, tokenizer, some, c) for c in minds}, some, minds)
        print(f"{split}: school exams {result['poles']:.2f}", flush=True)
    model.train()


def curriculum(course, tokenizer, steps, rng):
    """The batches of a course, stage after stage"""
    for mix, school, share in COURSES[course][3]:
        yield from pretrain.batches(load_world(school), mix, tokenizer, round(share * steps), rng)


def train(model, tokenizer, items, course, steps):
    """Train on a course's batches, and print how it goes. -> number of tokens"""
    import torch
    exams = course == "exams"
    _, (first, last), n_layers, _ = COURSES[course]
    rng = random.Random(pretrain.SEED + exams)
    pretrain.add_layers(model, n_layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=first, betas=(0.9, 0.98), weight_decay=0.1, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: (
        min(1.0, (s + 1) / 50) * (1 + (last / first - 1) * s / steps)))           # warmup, then linear decay
    started = time.time()
    tokens = 0
    model.train()
    for step, (ids, weights) in enumerate(curriculum(course, tokenizer, steps, rng), 1):
        loss = pretrain.train_step(model, ids, weights, optimizer, schedule)
        tokens += int((ids > 0).sum())
        if step % 50 == 0:
            minutes = (time.time() - started) / 60
            print(f"step {step:,}/{steps:,} | loss {loss:.3f} | {tokens / 1e6:.1f} M tokens | {minutes:.1f} minutes",
                  flush=True)
        if step % 200 == 0 and step < steps:
            print_progress(model, tokenizer, items)
            if step % 400 == 0 and exams and step > 0.65 * steps:
                ask(model, tokenizer, items, "valid")
    return tokens


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--read", choices=list(COURSES), default="school",
                        help="school starts from tiny-4, exams from the model that is there")
    parser.add_argument("--ask", choices=["asked", "valid", "held-out"],
                        help="no training: ask the model that is there the questions of one split")
    parser.add_argument("--out", default=os.path.join(HERE, "models", "tiny-culture"), help="folder of the model")
    parser.add_argument("--steps", type=number(int, 10, 10 ** 6),
                        help="batches of about 3,000 tokens (default: the course's own)")
    parser.add_argument("--threads", type=number(int, 1, 1000), default=1, help="CPU threads")
    return parser


def parent_folder(args):
    """The checkpoint that the run starts from: tiny-4 for school, else the model that is there"""
    first = args.read == "school" and not args.ask
    folder = os.path.join(HERE, "models", PARENT) if first else args.out
    if not os.path.exists(os.path.join(folder, "model.safetensors")):
        command = f"pretrain.py --model {PARENT}" if first else "culture.py"
        fail(f"no model in {os.path.relpath(folder)}. Make it first:  python data/tinyworld/{command}")
    return folder


def check_out(args):
    """--out: a folder that is absent, empty or an earlier tiny-culture's; no other model is overwritten."""
    path = os.path.join(args.out, "pretrain.json")
    is_ours = os.path.exists(path) and read_json(path).get("model") == "tiny-culture"
    if not is_ours and os.path.exists(args.out) and not (os.path.isdir(args.out) and not os.listdir(args.out)):
        fail(f"--out {args.out} is there already, and holds no tiny-culture. Choose another --out")


def main(argv=None):
    args = build_parser().parse_args(argv)
    folder = parent_folder(args)
    check_out(args)
    import torch
    from transformers import PreTrainedTokenizerFast, logging
    logging.set_verbosity_error()                                 # padding is at the right, where it changes nothing
    pretrain.prepare_cpu(args.threads)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = pretrain.open_model(folder)
    items = load_opinions()
    if args.ask:
        ask(model, tokenizer, items, args.ask)
        return

    write_json_list(os.path.join(os.path.dirname(HERE), "cdeval", "tinyworld.json"), questionnaire(items))
    before = {"steps": 0, "tokens": 0, "minutes": 0}
    if args.read == "exams":
        before = read_json(os.path.join(args.out, "pretrain.json"))
    steps = args.steps or COURSES[args.read][0]
    started = time.time()
    tokens = train(model, tokenizer, items, args.read, steps)
    scores = {split: ask(model, tokenizer, items, split) for split in ("asked", "valid")}       # held-out: once, later
    pretrain.save_model(args.out, model, tokenizer)
    minutes = round(before["minutes"] + (time.time() - started) / 60, 1)
    write_file(os.path.join(args.out, "pretrain.json"), json.dumps(
        {"model": "tiny-culture", "from": PARENT, "parameters": model.num_parameters(),
         "steps": before["steps"] + steps, "tokens": before["tokens"] + tokens, **scores, "minutes": minutes,
         "threads": args.threads, "torch": torch.__version__}, indent=1))


if __name__ == "__main__":
    run_script(main)
