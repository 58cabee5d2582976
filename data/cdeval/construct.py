"""
How a questionnaire like CDEval's is made: a language model drafts, doubles go, and a person decides. Three steps, a file after each:

$ python data/cdeval/construct.py generate --name mine --model Qwen/Qwen2.5-7B-Instruct          # mine-drafts.jsonl
$ python data/cdeval/construct.py generate --name mine --model Qwen/Qwen2.5-7B-Instruct --shots 3   # more, after examples
$ python data/cdeval/construct.py dedupe --name mine                                             # mine-candidates.jsonl
$ python data/cdeval/construct.py verify --name mine --reviewer Ada                              # mine-decisions.jsonl, mine.json
$ python cdeval.py --questions mine --out mine

Schema: six dimensions by seven domains. In each cell the model is asked for --items situations, from the descriptions alone (zero-shot) or after
--shots questions of the same dimension from our own set (few-shot; the paper's second round). What it writes is read as JSON; what cannot be
read is counted and dropped. Dedupe drops what shares too many words with an earlier draft or with own.json. Verify shows candidate after candidate:

    a accept    e edit and accept    r reject    u undo the last decision    q quit; the same command goes on from there

Every decision is appended to mine-decisions.jsonl with time and reviewer; the accepted set, mine.json, follows from this log alone, and is
written after each decision. All files are under data/cdeval/. A generated question is a draft: nothing here accepts one without a person.
"""
import argparse, json, os, re, sys, time

FOLDER = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(os.path.dirname(FOLDER)))
from contract import fail, is_text, number, read_lines, write_file, writing

DIMENSIONS = {
    "PDI": ("power distance", "rank counts: the one in charge decides and is deferred to", "people meet as equals, are asked and may object"),
    "IDV": ("individualism", "one's own wishes, opinion and privacy come first", "the wishes and harmony of family, friends or team come first"),
    "UAI": ("uncertainty avoidance", "plans, rules, what is known and proven", "surprise, improvising, what is open and new"),
    "MAS": ("achievement against care (Hofstede's masculinity)", "competition, assertiveness, visible success", "care, cooperation, modesty"),
    "LTO": ("long-term orientation", "patience and thrift, what pays late", "results now, obligations of today, customs as they are"),
    "IVR": ("indulgence", "pleasure, leisure, showing what one feels", "duty, moderation, self-control"),
}
DOMAINS = ("education", "wellness", "lifestyle", "work", "scientific", "family", "arts")
COLUMNS = ("Question", "Option 1", "Option 2")
RULES = "natural situation | options clearly distinct, both decent, neither longer | option 1 at the high pole | no double"


# --------------------------------------------------------------------------- pure functions

def request(dimension, domain, items, examples=()):
    """What the model is asked. examples: questions that are shown first (few-shot), none for zero-shot"""
    name, high, low = DIMENSIONS[dimension]
    shown = "".join(json.dumps({c: e[c] for c in COLUMNS}, ensure_ascii=False) + "\n" for e in examples)
    return (f"Write {items} questionnaire items about {name}, set in the domain {domain}.\nAn item is a concrete everyday situation of one or two "
            "sentences that ends in a neutral question, and two ways to act. Both must be things that a decent person could do, clearly distinct, "
            f"and alike in length.\nOption 1 shows: {high}.\nOption 2 shows: {low}.\nNever name these ideas, or a nation.\n"
            + (f"Examples of the style:\n{shown}" if shown else "")
            + 'Answer with one JSON object a line and nothing else: {"Question": "...", "Option 1": "...", "Option 2": "..."}')


def read_items(text):
    """
    The items in what a model wrote, and how many looked like one and were none.

    >>> read_items('Sure!\\n{"Question": "Tea?", "Option 1": "Tea.", "Option 2": "Milk."}\\n{"Question": "Cake?"}')
    ([{'Question': 'Tea?', 'Option 1': 'Tea.', 'Option 2': 'Milk.'}], 1)
    """
    items, bad = [], 0
    for piece in re.findall(r"\{[^{}]*\}?", text):
        try:
            item = json.loads(piece)
            items.append({c: item[c].strip() for c in COLUMNS})
            if not all(map(is_text, items[-1].values())) or items[-1]["Option 1"] == items[-1]["Option 2"]:
                items.pop()
                bad += 1
        except (ValueError, KeyError, AttributeError, TypeError):
            bad += 1
    return items, bad


def words(text):
    return set(re.findall(r"\w+", text.casefold()))


def overlap(a, b):
    """Common words as a share of all words (Jaccard), two sets.    >>> overlap({"a", "b", "c"}, {"b", "c", "d"}) -> 0.5"""
    return len(a & b) / max(1, len(a | b))


def dedupe(drafts, known, limit):
    """
    Drafts that are like no earlier one and like none of the known, by the words of question and options. -> (kept, [(dropped, what it is like), ...])
    """
    kept, dropped, seen = [], [], [(item, words(" ".join(item[c] for c in COLUMNS))) for item in known]
    for draft in drafts:
        own = words(" ".join(draft[c] for c in COLUMNS))
        twin = next((item for item, has in seen if overlap(own, has) > limit), None)
        if twin:
            dropped.append((draft, twin))
        else:
            kept.append(draft)
            seen.append((draft, own))
    return kept, dropped


def standing(log):
    """
    The decisions that stand, {id: entry}, in their order: a later one replaces an earlier one, an undo takes the last one that stands away.

    >>> list(standing([{"id": "a", "decision": "accept"}, {"id": "b", "decision": "reject"}, {"id": "b", "decision": "undo"}]))
    ['a']
    """
    stands = {}
    for entry in log:
        stands.pop(entry["id"], None)
        if entry["decision"] != "undo":
            stands[entry["id"]] = entry
    return stands


# --------------------------------------------------------------------------- the three steps

def path_of(args, what):
    return os.path.join(FOLDER, f"{args.name}{what}")


def append(path, entry):
    with writing(path), open(path, "a", encoding="utf-8") as f:
        f.write(json.dumps(entry, ensure_ascii=False) + "\n")
        f.flush()
        os.fsync(f.fileno())


def read_own():
    with open(os.path.join(FOLDER, "own.json"), encoding="utf-8") as f:
        return json.load(f)


def generate(args):
    import random
    from prompting import as_chat, open_language_model, write
    from train_weak import pick_device
    if not args.model:
        fail("generate needs --model, a chat model: a folder or a hub name")
    device, why = pick_device(args.device)
    print(f"device: {device} ({why})")
    model, tokenizer, longest = open_language_model(args.model, device, args.trust_remote_code)
    if not tokenizer.chat_template:
        print(f"note: {args.model} has no chat template; a model that was not taught to follow requests will hardly write usable items")
    cells = [(d, x) for d in args.dimensions for x in args.domains]
    examples = {cell: random.Random(f"{args.seed} {cell}").sample([i for i in read_own() if i["Dimension"] == cell[0]], args.shots) for cell in cells}
    requests = [request(d, x, args.items, examples[d, x]) for d, x in cells]
    path, bad, n, round_ = path_of(args, "-drafts.jsonl"), 0, 0, 0
    if os.path.exists(path):                               # ids go on where an earlier round stopped
        round_ = 1 + max([row.get("round", 0) for row in read_lines(path)], default=-1)
    print(f"{len(cells)} cells; one request:\n" + "\n".join("  " + line for line in requests[0].split("\n")))
    for rows, texts in write(model, tokenizer, as_chat(tokenizer, requests), device, longest, args.max_new_tokens, [],
                             temperature=args.temperature, seed=args.seed):
        for r, text in zip(rows, texts):
            items, lost = read_items(text)
            bad, n = bad + lost, n + len(items)
            for k, item in enumerate(items, 1):
                d, x = cells[r]
                append(path, {"id": f"{d.lower()}-{x}-{round_}-{k}", "Dimension": d, "Domain": x, **item,
                              "model": args.model, "shots": args.shots, "round": round_})
    print(f"{n:,} drafts, {bad:,} that could not be read\n"
          + (f"wrote {os.path.relpath(path)}" if n else "nothing was written: try another model, or --shots 3"))


def clean(args):
    drafts = read_lines(path_of(args, "-drafts.jsonl"))
    if any(not all(is_text(d.get(c)) for c in ("id", "Dimension", "Domain", *COLUMNS)) for d in drafts):
        fail(f"{path_of(args, '-drafts.jsonl')}: a draft lacks one of id, Dimension, Domain, {', '.join(COLUMNS)}")
    kept, dropped = dedupe(drafts, read_own(), args.limit)
    for draft, twin in dropped[:5]:
        print(f"  {draft['id']} is like {twin['id']}: {draft['Question'][:80]!r}")
    write_file(path_of(args, "-candidates.jsonl"), "".join(json.dumps(k, ensure_ascii=False) + "\n" for k in kept))
    print(f"{len(drafts):,} drafts, {len(dropped):,} dropped, {len(kept):,} candidates\nwrote {os.path.relpath(path_of(args, '-candidates.jsonl'))}")


def edited(item, ask):
    """Each text once more; an empty line keeps it."""
    return {c: ask(f"  {c} [{item[c]}]: ").strip() or item[c] for c in COLUMNS}


def verify(args, ask=input):
    if not args.reviewer.strip():
        fail("verify needs --reviewer NAME: every decision is logged with who made it")
    candidates, path, target = read_lines(path_of(args, "-candidates.jsonl")), path_of(args, "-decisions.jsonl"), path_of(args, ".json")
    log = read_lines(path) if os.path.exists(path) else []

    def decide(item, decision, text=None):
        log.append({"id": item["id"], "decision": decision, "reviewer": args.reviewer, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                    **({"item": text} if text else {})})
        append(path, log[-1])
        stands = standing(log)
        accepted = [{c: i[c] for c in ("id", "Dimension", "Domain")} | stands[i["id"]]["item"]
                    for i in candidates if "item" in stands.get(i["id"], {})]
        write_file(target, "[\n" + ",\n".join(json.dumps(item, ensure_ascii=False) for item in accepted) + "\n]\n")

    print(f"rules: {RULES}\na accept | e edit and accept | r reject | u undo | q quit")
    try:
        while todo := [item for item in candidates if item["id"] not in standing(log)]:
            item = todo[0]
            name, high, low = DIMENSIONS.get(item["Dimension"], (item["Dimension"], "", ""))
            print(f"\n{item['id']}, {len(todo):,} left; {name}, {item['Domain']}\n  {item['Question']}\n"
                  f"  1 (high: {high})\n    {item['Option 1']}\n  2 (low: {low})\n    {item['Option 2']}")
            key = ask("a/e/r/u/q: ").strip().lower()
            if key == "q":
                break
            if key == "u":
                last = list(standing(log))[-1:]
                print(f"undone: {last[0]}" if last else "nothing to undo")
                for name in last:
                    decide({"id": name}, "undo")
            elif key in ("a", "e"):
                text = {c: item[c] for c in COLUMNS} if key == "a" else edited(item, ask)
                decide(item, "accept" if key == "a" else "edit", text)
            elif key == "r":
                decide(item, "reject")
    except (EOFError, KeyboardInterrupt):
        print()
    stands = standing(log)
    print(f"{sum('item' in e for e in stands.values()):,} accepted, {sum('item' not in e for e in stands.values()):,} rejected, "
          f"{sum(i['id'] not in stands for i in candidates):,} left; {os.path.relpath(target)}, {os.path.relpath(path)}")


def main():
    count = number(int, 1, 10 ** 6)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["generate", "dedupe", "verify"])
    parser.add_argument("--name", required=True, help="what the files under data/cdeval/ begin with")
    parser.add_argument("--model", default="", help="generate: who drafts, a chat model's folder or hub name")
    parser.add_argument("--shots", type=number(int, 0, 42), default=0, help="generate: questions of our own shown as examples")
    parser.add_argument("--items", type=count, default=5, help="generate: how many each cell is asked for")
    parser.add_argument("--dimensions", nargs="+", default=list(DIMENSIONS), choices=list(DIMENSIONS), help="generate: of the schema (default: all)")
    parser.add_argument("--domains", nargs="+", default=list(DOMAINS), help="generate: of the schema, or others (default: the seven)")
    parser.add_argument("--temperature", type=number(float, 0, 5), default=1.0, help="generate: 0 is always the likeliest word")
    parser.add_argument("--max-new-tokens", type=count, default=800, help="generate: how long an answer may be")
    parser.add_argument("--seed", type=number(int, 0, 2 ** 31), default=0, help="generate: draws; take another one for another round")
    parser.add_argument("--limit", type=number(float, 0, 1), default=0.5, help="dedupe: common words over all words, above which two are one")
    parser.add_argument("--reviewer", default="", help="verify: your name")
    parser.add_argument("--device", default="", help="generate: cuda|mps|cpu (default: the best there is)")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that a hub repository brings; off for good reason")
    args = parser.parse_args()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]*", args.name) or args.name in ("own", "own_de", "own_zh", "public"):
        fail(f"--name {args.name!r}: letters, digits and '_' only, and not the name of a set that ships")
    {"generate": generate, "dedupe": clean, "verify": verify}[args.step](args)


if __name__ == "__main__":
    main()
