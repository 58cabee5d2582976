"""
Make a questionnaire like CDEval's: a language model drafts, near copies are dropped, and a person decides.

Three steps, with a file after each (all under data/cdeval/):

$ python data/cdeval/construct.py generate --name mine --model Qwen/Qwen2.5-7B-Instruct              # mine-drafts.jsonl
$ python data/cdeval/construct.py generate --name mine --model Qwen/Qwen2.5-7B-Instruct --shots 3    # more, few-shot
$ python data/cdeval/construct.py dedupe --name mine                                # mine-candidates.jsonl
$ python data/cdeval/construct.py verify --name mine --reviewer Ada                 # mine-decisions.jsonl, mine.json
$ python cdeval.py --questions mine --out mine

The schema is six dimensions by seven domains; --dimensions and --domains select cells. In each cell the model is asked
for --items situations, from the descriptions alone (zero-shot) or after --shots questions of the same dimension from
own.json (few-shot; the paper's second round). A draft that is not readable JSON is counted and dropped. dedupe drops a
draft that shares too many words (--limit) with an earlier draft or with own.json. verify shows one candidate after the
other:

    a accept    e edit and accept    r reject    u undo the last decision    q quit; the same command continues there

Every decision is appended to mine-decisions.jsonl with time and reviewer. The accepted set, mine.json, follows from
this log alone and is written after each decision. A generated question is a draft: only a person accepts it.

Needs  contract.py, models.py, data/tasks.py
"""
import argparse
import json
import os
import random
import re
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))       # data/
sys.path.insert(0, os.path.dirname(sys.path[0]))                                      # the repository's root
import models
from contract import append_file, fail, is_text, number, read_jsonl, read_text, run_script, write_file
from tasks import write_json_list

FOLDER = os.path.dirname(os.path.abspath(__file__))
DIMENSIONS = {                             # name, high pole, low pole
    "PDI": ("power distance",
            "rank counts: the one in charge decides and is deferred to",
            "people meet as equals, are asked and may object"),
    "IDV": ("individualism",
            "one's own wishes, opinion and privacy come first",
            "the wishes and harmony of family, friends or team come first"),
    "UAI": ("uncertainty avoidance",
            "plans, rules, what is known and proven",
            "surprise, improvising, what is open and new"),
    "MAS": ("achievement against care (Hofstede's masculinity)",
            "competition, assertiveness, visible success",
            "care, cooperation, modesty"),
    "LTO": ("long-term orientation",
            "patience and thrift, what pays late",
            "results now, obligations of today, customs as they are"),
    "IVR": ("indulgence",
            "pleasure, leisure, showing what one feels",
            "duty, moderation, self-control"),
}
DOMAINS = ("education", "wellness", "lifestyle", "work", "scientific", "family", "arts")
COLUMNS = ("Question", "Option 1", "Option 2")
RULES = "natural situation | options distinct, both decent, neither longer | option 1 at the high pole | no double"


# --------------------------------------------------------------------------- pure functions

def request(dimension, domain, items, examples=()):
    """The request to the model. examples: items that are shown first (few-shot), none for zero-shot"""
    name, high, low = DIMENSIONS[dimension]
    shown = "".join(json.dumps({c: e[c] for c in COLUMNS}, ensure_ascii=False) + "\n" for e in examples)
    return (f"Write {items} questionnaire items about {name}, set in the domain {domain}.\n"
            "An item is a concrete everyday situation of one or two sentences that ends in a neutral question, and two "
            "ways to act. Both must be things that a decent person could do, clearly distinct, and alike in length.\n"
            f"Option 1 shows: {high}.\nOption 2 shows: {low}.\nNever name these ideas, or a nation.\n"
            + (f"Examples of the style:\n{shown}" if shown else "")
            + "Answer with one JSON object a line and nothing else: "
            '{"Question": "...", "Option 1": "...", "Option 2": "..."}')


def read_items(text):
    """
    The items in a model's text, and the number of pieces that look like an item and are none.

    >>> read_items('Sure!\\n{"Question": "Tea?", "Option 1": "Tea.", "Option 2": "Milk."}\\n{"Question": "Cake?"}')
    ([{'Question': 'Tea?', 'Option 1': 'Tea.', 'Option 2': 'Milk.'}], 1)
    """
    items = []
    bad = 0
    for piece in re.findall(r"\{[^{}]*\}?", text):
        try:
            parsed = json.loads(piece)
            item = {c: parsed[c].strip() for c in COLUMNS}
        except (ValueError, KeyError, AttributeError, TypeError):
            bad += 1
            continue
        if all(map(is_text, item.values())) and item["Option 1"] != item["Option 2"]:
            items.append(item)
        else:
            bad += 1
    return items, bad


def words(item):
    """The set of words of an item's question and options"""
    return set(re.findall(r"\w+", " ".join(item[c] for c in COLUMNS).casefold()))


def overlap(a, b):
    """
    Common words as a share of all words (Jaccard). a, b: sets

    >>> overlap({"a", "b", "c"}, {"b", "c", "d"})
    0.5
    """
    return len(a & b) / max(1, len(a | b))


def dedupe(drafts, known, limit):
    """
    Keep the drafts whose words overlap at most `limit` with every earlier draft and every known item.

    returns   (drafts kept, [(draft dropped, the item that it is like), ...])
    """
    kept = []
    dropped = []
    seen = [(item, words(item)) for item in known]
    for draft in drafts:
        draft_words = words(draft)
        twin = next((item for item, item_words in seen if overlap(draft_words, item_words) > limit), None)
        if twin:
            dropped.append((draft, twin))
        else:
            kept.append(draft)
            seen.append((draft, draft_words))
    return kept, dropped


def standing_decisions(log):
    """
    The decisions that are in force, {id: entry}, in their order. A later decision about an id replaces an earlier one,
    and an undo removes it.

    >>> list(standing_decisions([{"id": "a", "decision": "accept"}, {"id": "b", "decision": "reject"},
    ...                          {"id": "b", "decision": "undo"}]))
    ['a']
    """
    decisions = {}
    for entry in log:
        decisions.pop(entry["id"], None)
        if entry["decision"] != "undo":
            decisions[entry["id"]] = entry
    return decisions


# --------------------------------------------------------------------------- files

def path_of(args, ending):
    return os.path.join(FOLDER, f"{args.name}{ending}")


def json_line(entry):
    return json.dumps(entry, ensure_ascii=False) + "\n"


def read_own():
    return json.loads(read_text(os.path.join(FOLDER, "own.json")))


# --------------------------------------------------------------------------- generate

def few_shot_examples(cells, shots, seed):
    """{(dimension, domain): `shots` items of own.json of that dimension}, drawn for each cell by itself"""
    examples = {}
    for cell in cells:
        same_dimension = [item for item in read_own() if item["Dimension"] == cell[0]]
        examples[cell] = random.Random(f"{seed} {cell}").sample(same_dimension, shots)
    return examples


def generate(args):
    """Ask the model for items in every cell; each batch of drafts is appended to NAME-drafts.jsonl as it comes."""
    device = models.pick_device(args.device)
    model, tokenizer, max_length = models.open_language_model(args.model, device, args, frozen=True)
    if not tokenizer.chat_template:
        print(f"note: {args.model} has no chat template; a model not tuned to follow requests rarely writes items")
    cells = [(dimension, domain) for dimension in args.dimensions for domain in args.domains]
    examples = few_shot_examples(cells, args.shots, args.seed)
    requests = [request(dimension, domain, args.items, examples[dimension, domain]) for dimension, domain in cells]
    path = path_of(args, "-drafts.jsonl")
    round_number = 0
    if os.path.exists(path):                               # ids continue where an earlier round stopped
        round_number = 1 + max([row.get("round", 0) for row in read_jsonl(path)], default=-1)
    print(f"{len(cells)} cells; one request:\n" + "\n".join("  " + line for line in requests[0].split("\n")))

    n = 0
    bad = 0
    prompts = models.apply_chat_template(tokenizer, requests)
    batches = models.generate_batches(model, tokenizer, prompts, device, max_length, args.max_new_tokens, stops=[],
                                      temperature=args.temperature, seed=args.seed, dtype=args.dtype)
    for indices, texts in batches:
        for i, text in zip(indices, texts):
            items, n_bad = read_items(text)
            dimension, domain = cells[i]
            for k, item in enumerate(items, 1):
                name = f"{dimension.lower()}-{domain}-{round_number}-{k}"
                draft = {"id": name, "Dimension": dimension, "Domain": domain, **item,
                         "model": args.model, "shots": args.shots, "round": round_number}
                append_file(path, json_line(draft))
            n += len(items)
            bad += n_bad
    print(f"{n:,} drafts, {bad:,} that could not be read\n"
          + (f"wrote {os.path.relpath(path)}" if n else "nothing was written: try another model, or --shots 3"))


# --------------------------------------------------------------------------- dedupe

def drop_near_copies(args):
    """NAME-drafts.jsonl -> NAME-candidates.jsonl"""
    source = path_of(args, "-drafts.jsonl")
    target = path_of(args, "-candidates.jsonl")
    drafts = read_jsonl(source)
    for draft in drafts:
        if not all(is_text(draft.get(c)) for c in ("id", "Dimension", "Domain", *COLUMNS)):
            fail(f"{source}: a draft lacks one of id, Dimension, Domain, {', '.join(COLUMNS)}")
    kept, dropped = dedupe(drafts, read_own(), args.limit)
    for draft, twin in dropped[:5]:
        print(f"  {draft['id']} is like {twin['id']}: {draft['Question'][:80]!r}")
    write_file(target, "".join(map(json_line, kept)))
    print(f"{len(drafts):,} drafts, {len(dropped):,} dropped, {len(kept):,} candidates")
    print(f"wrote {os.path.relpath(target)}")


# --------------------------------------------------------------------------- verify

def accepted_items(candidates, log):
    """The accepted candidates in their order, with the texts as the reviewer left them"""
    decisions = standing_decisions(log)
    accepted = []
    for item in candidates:
        if "item" in decisions.get(item["id"], {}):
            accepted.append({c: item[c] for c in ("id", "Dimension", "Domain")} | decisions[item["id"]]["item"])
    return accepted


def edit_texts(item, ask):
    """Ask for each text; an empty answer keeps it."""
    return {c: ask(f"  {c} [{item[c]}]: ").strip() or item[c] for c in COLUMNS}


def print_candidate(item, n_left):
    name, high, low = DIMENSIONS.get(item["Dimension"], (item["Dimension"], "", ""))
    print(f"\n{item['id']}, {n_left:,} left; {name}, {item['Domain']}\n  {item['Question']}\n"
          f"  1 (high: {high})\n    {item['Option 1']}\n  2 (low: {low})\n    {item['Option 2']}")


def verify(args, ask=input):
    """Show the candidates without a decision one by one, and log what the reviewer decides."""
    candidates = read_jsonl(path_of(args, "-candidates.jsonl"))
    path = path_of(args, "-decisions.jsonl")
    target = path_of(args, ".json")
    log = read_jsonl(path) if os.path.exists(path) else []

    def decide(name, decision, text=None):
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        entry = {"id": name, "decision": decision, "reviewer": args.reviewer, "time": now}
        log.append(entry | ({"item": text} if text else {}))
        append_file(path, json_line(log[-1]))
        write_json_list(target, accepted_items(candidates, log))

    print(f"rules: {RULES}\na accept | e edit and accept | r reject | u undo | q quit")
    try:
        while todo := [item for item in candidates if item["id"] not in standing_decisions(log)]:
            item = todo[0]
            print_candidate(item, len(todo))
            key = ask("a/e/r/u/q: ").strip().lower()
            if key == "q":
                break
            if key == "u":
                last = list(standing_decisions(log))[-1:]
                print(f"undone: {last[0]}" if last else "nothing to undo")
                for name in last:
                    decide(name, "undo")
            elif key == "a":
                decide(item["id"], "accept", {c: item[c] for c in COLUMNS})
            elif key == "e":
                decide(item["id"], "edit", edit_texts(item, ask))
            elif key == "r":
                decide(item["id"], "reject")
    except (EOFError, KeyboardInterrupt):
        print()
    decisions = standing_decisions(log)
    n_accepted = sum("item" in entry for entry in decisions.values())
    n_left = sum(item["id"] not in decisions for item in candidates)
    print(f"{n_accepted:,} accepted, {len(decisions) - n_accepted:,} rejected, {n_left:,} left; "
          f"{os.path.relpath(target)}, {os.path.relpath(path)}")


# --------------------------------------------------------------------------- flags

STEPS = {"generate": generate, "dedupe": drop_near_copies, "verify": verify}


def build_parser():
    count = number(int, 1, 10 ** 6)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=list(STEPS))
    parser.add_argument("--name", required=True, help="beginning of the file names under data/cdeval/")
    parser.add_argument("--model", default="", help="generate: a chat model's folder or hub name")
    parser.add_argument("--shots", type=number(int, 0, 42), default=0, help="generate: items of own.json as examples")
    parser.add_argument("--items", type=count, default=5, help="generate: items asked for in each cell")
    parser.add_argument("--dimensions", nargs="+", default=list(DIMENSIONS), choices=list(DIMENSIONS),
                        help="generate: dimensions of the schema (default: all)")
    parser.add_argument("--domains", nargs="+", default=list(DOMAINS),
                        help="generate: domains of the schema, or others (default: the seven)")
    parser.add_argument("--temperature", type=number(float, 0, 5), default=1.0,
                        help="generate: 0 always takes the likeliest token")
    parser.add_argument("--max-new-tokens", type=count, default=800, help="generate: length of an answer at most")
    parser.add_argument("--max-length", type=count, default=4096,
                        help="generate: tokens of a request and its answer, if the model can read so many")
    parser.add_argument("--seed", type=number(int, 0, 2 ** 31), default=0,
                        help="generate: of the samples and examples; take another one for another round")
    parser.add_argument("--limit", type=number(float, 0, 1), default=0.5,
                        help="dedupe: two items with more common words, as a share of all their words, count as one")
    parser.add_argument("--reviewer", default="", help="verify: your name")
    parser.add_argument("--device", default="", help="generate: cuda|mps|cpu (default: the best there is)")
    parser.add_argument("--dtype", default="auto", choices=["auto", "fp32", "bf16"],
                        help="generate: auto is bf16 on GPUs and CPUs that are fast at it")
    parser.add_argument("--trust-remote-code", action="store_true", help="generate: run code from a hub repository")
    return parser


def check_args(args):
    taken = os.path.exists(path_of(args, ".json")) and not os.path.exists(path_of(args, "-candidates.jsonl"))
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]*", args.name) or taken or args.name == "public":
        fail(f"--name {args.name!r}: letters, digits and '_' only, and not the name of a set that ships")
    if args.step == "generate" and not args.model:
        fail("generate needs --model, a chat model: a folder or a hub name")
    if args.step == "verify" and not args.reviewer.strip():
        fail("verify needs --reviewer NAME: every decision is logged with its reviewer")


def main(argv=None):
    args = build_parser().parse_args(argv)
    check_args(args)
    STEPS[args.step](args)


if __name__ == "__main__":
    run_script(main)
