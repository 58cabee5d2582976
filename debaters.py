"""
Chapter 5, first half. A strong assistant talks: what it is told, what it reads, what is kept of what it says.

    render       rounds of {side: text} -> one line: "For: gold lies in the s-block. Against: gold lies in the d-block."
    judge_text   that line and the row: what the judge of debate.py reads, in training and at judging
    prompt       what a speaker reads on from: demonstrations, the row, the rounds so far, and its own name
    add_round    one more round of both sides, silence asked again a few times and then kept as silence
    transcripts  the rounds of all rows, from the folder where they are kept; what is missing is written

Functions, no story; debate.py tells it. Three things go wrong easily. The writer of a note must not see the answer that is judged. A row's own
question must not be among its demonstrations. And a transcript must not change with who else is talking: each block of rows has its own seed.
"""
import hashlib, json, os, re

import distributed
from contract import ROOT, fingerprint, hold, model_folder, read_lines, write_file, writing
from prompting import as_chat, cut_at, open_language_model, write_all
from train_weak import pick_device

# The templates, all of them. A language model reads on after the marker of whoever speaks; a chat model is told first what this is.
MARKER = {"note": "Note:", "for": "For:", "against": "Against:"}
TOLD = {"note": "Write one or two sentences of background knowledge that help to answer the last question. Do not answer it.",
        "for": "Two people argue whether an answer is right. You say it is. In one or two sentences, argue For, replying to the other side.",
        "against": "Two people argue whether an answer is right. You say it is wrong. In one or two sentences, argue Against, replying to the other side.",
        "judge": "Is the last answer right? What stands before it may be false. Reply in one word: {yes} or {no}."}
STOPS = ["\n", "Q:", "Question:", *MARKER.values()]        # where a turn ends: at its line, or where somebody else begins to speak
MAX_TOKENS, TRIES, BLOCK = 64, 3, 128                      # a turn; how often it is asked for; rows written at a time


# --------------------------------------------------------------------------- what is said to whom

def coin(text):
    """0 or 1, the same for the same text on every machine."""
    return hashlib.sha256(text.encode()).digest()[0] & 1


def render(rounds, first="for"):
    """
    Rounds of {side: what it said} -> one line. `first` opens every round.

    >>> render([{"for": "It is heavy.", "against": "It floats."}, {"for": "It sinks.", "against": "No."}], first="against")
    'Against: It floats. For: It is heavy. Against: No. For: It sinks.'
    """
    return " ".join(f"{MARKER[side]} {said[side]}".strip() for said in rounds for side in sorted(said, key=lambda side: side != first))


def judge_text(row, rounds, first="for"):
    """What the judge reads: the help, a new line, and the row as it stands. The one place where these meet, in training and at judging."""
    return f"{render(rounds, first)}\n{row['text']}" if rounds else row["text"]


def turn(row, rounds, side):
    """What a speaker reads on from. A note's writer sees no answer; a debater sees the rounds so far, the other's last argument last."""
    opening = f"Q: {row['question']}" if side == "note" else row["text"]
    return " ".join(filter(None, [opening, render(rounds, first=side), MARKER[side]]))


def demonstrations(row, side, pool, shots, seed):
    """
    `shots` rows of train1 with what an honest speaker says of them, the gold support sentence: for a note any row, For a right answer, Against
    a wrong one. Never of the row's own question.
    """
    import random
    if not shots:
        return []
    fits = [r for r in pool if r["group"] != row["group"] and (side == "note" or r["label"] == (side == "for"))]
    return [f"{turn(r, [], side)} {r['support']}" for r in random.Random(f"{seed} {side} {row['id']}").sample(fits, min(shots, len(fits)))]


def prompt(tokenizer, row, rounds, side, examples=()):
    """A turn as its speaker's model expects it (see TOLD), after its demonstrations."""
    lines = "\n".join([*examples, turn(row, rounds, side)])
    return as_chat(tokenizer, [f"{TOLD[side]}\n\n{lines}"])[0] if tokenizer.chat_template else lines


def tidy(text, side):
    """
    What a speaker wrote -> its argument: without its own name in front, up to where somebody else begins to speak, and without the beginning of a
    sentence that the length limit cut off (a full stop inside a number ends none; without any end it stays as it stands).

    >>> tidy("For: Its density is 19.3 times that of water. Gold al", "for"), tidy("Heavy. Against: no", "for")
    ('Its density is 19.3 times that of water.', 'Heavy.')
    """
    text = cut_at(text.removeprefix(MARKER[side]), STOPS)
    found = re.match(r"(.*[.!?])(?=\s|$)", text, re.S)
    return found[1] if found else text


def sides_of(row, mode, seed):
    """Who speaks in each round."""
    return {"none": [], "support": [], "interaction": ["note"], "debate": ["for", "against"],
            "consultancy": [("for", "against")[coin(f"side {seed} {row['id']}")]]}[mode]


def add_round(rounds, sides, speak):
    """
    One more round for N rows. Both sides speak at once, having read the rounds before: neither has the last word, and a round can be shown in
    either order.

    rounds    N lists of rounds so far; sides: N lists of who speaks
    speak     (list of (i, rounds so far, side), number of the try) -> what each says, "" for nothing
    returns   N lists, one longer; what stays empty after TRIES is ""
    """
    said = {(i, side): "" for i in range(len(rounds)) for side in sides[i]}
    for attempt in range(TRIES):
        asked = [(i, rounds[i], side) for (i, side), text in said.items() if not text]
        for (i, _, side), text in zip(asked, speak(asked, attempt) if asked else []):
            said[i, side] = text
    return [before + [{side: said[i, side] for side in sides[i]}] for i, before in enumerate(rounds)]


# --------------------------------------------------------------------------- transcripts, kept for every judge

def transcripts(rows, pool, args, member, n_rounds):
    """
    The rounds of all rows, from the folder where they are kept; what is missing is written now, a block of rows at a time. A longer debate begins
    with the shorter one.

    rows      without labels; pool: rows of train1 with their truth, for demonstrations
    returns   ({id: rounds}, path of the file)
    """
    from tqdm import tqdm
    before = transcripts(rows, pool, args, member, n_rounds - 1)[0] if n_rounds > 1 else {row["id"]: [] for row in rows}
    shots = args.shots if args.shots is not None else 0 if args.assistant.startswith("tiny-") else 2
    pool = [r for r in pool if r.get("support")] if shots else []
    key = {k: vars(args)[k] for k in ("task", "mode", "assistant", "temperature", "seed", "dtype", "max_rows")} | {
        "rounds": n_rounds, "member": member, "shots": shots, "weights": fingerprint(model_folder(args.assistant)),
        "templates": digest([MARKER, {k: v for k, v in TOLD.items() if k != "judge"}, STOPS, MAX_TOKENS, TRIES, BLOCK]),
        "rows": digest([[row.get(k) for k in ("id", "group", "text", "question")] for row in rows] + [[r["support"], r["label"]] for r in pool])}
    name = f"{args.mode}-{os.path.basename(os.path.normpath(args.assistant))}-{digest(key)[:8]}"
    folder = os.path.join(ROOT, "data", args.task, f"seed{args.seed}", "transcripts", name)
    path = os.path.join(folder, "transcripts.jsonl")
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i]["text"]), i))          # like lengths together: little padding
    distributed.join()                                     # if torchrun started several processes: each writes its blocks, the first one saves them
    n_kept, damaged = distributed.agree(whole_blocks(path, [rows[i]["id"] for i in order]))
    if n_kept < len(rows) or damaged:
        hold(folder)                                       # judges that differ share it; nobody else is writing now: look again
        n_kept, damaged = distributed.agree(whole_blocks(path, [rows[i]["id"] for i in order]))
        if damaged and not distributed.RANK:
            with writing(path):
                os.truncate(path, os.path.getsize(path) - damaged)
    if n_kept < len(rows):
        write_file(os.path.join(folder, "config.json"), json.dumps(key, indent=1))
        device, _ = pick_device(args.device)
        model, tokenizer, longest = open_language_model(args.assistant, device, args.trust_remote_code)
        if shots and not pool:
            print("note: no row of train1 has a 'support' sentence to show as an example; the assistant gets none")
        blocks = [[rows[i] for i in order[k:k + BLOCK]] for k in range(0, len(rows), BLOCK)]

        def talk(k):
            """One more round of the rows of block k. Its seed depends on nothing but the block: who writes it, and after which others, does not matter."""
            block = blocks[k]

            def speak(asked, attempt):
                prompts = [prompt(tokenizer, block[i], said, side, demonstrations(block[i], side, pool, shots, args.seed)) for i, said, side in asked]
                stops = [] if tokenizer.chat_template else STOPS                         # a chat model ends its turn itself
                texts = write_all(model, tokenizer, prompts, device, longest, MAX_TOKENS, stops, dtype=args.dtype, batch_size=2 * BLOCK,
                                  temperature=max(args.temperature, 0.7) if attempt else args.temperature,
                                  seed=int(digest([args.seed, member, k * BLOCK, n_rounds - 1, attempt])[:8], 16))
                return [tidy(text, side) for text, (_, _, side) in zip(texts, asked)]
            return add_round([before[row["id"]] for row in block], [sides_of(row, args.mode, args.seed) for row in block], speak)

        with tqdm(total=len(rows), initial=n_kept, desc=f"{args.mode} by {args.assistant}", unit="row", disable=None, leave=False) as bar:
            todo = range(n_kept // BLOCK, len(blocks))
            for block, rounds in zip(blocks[n_kept // BLOCK:], distributed.share_out(todo, talk)):
                if not distributed.RANK:
                    with writing(path), open(path, "a", encoding="utf-8") as f:
                        f.write("".join(json.dumps({"id": row["id"], "mode": args.mode, "first": first_of(row), "rounds": said}) + "\n"
                                        for row, said in zip(block, rounds)))
                bar.update(len(block))
    distributed.agree(None)                                # nobody reads the file before the first process has written all of it
    return {record["id"]: record["rounds"] for record in read_lines(path)}, path


def digest(thing):
    return hashlib.sha256(json.dumps(thing, sort_keys=True).encode()).hexdigest()


def first_of(row):
    """Who opens when the row's debate is shown once: For on half of the rows."""
    return ("for", "against")[coin(f"first {row['id']}")]


def whole_blocks(path, ids):
    """
    How many lines of a transcript file are whole and those of `ids`, in order, up to the end of a block, and how many bytes follow them (a kill left
    half a block, or a line is damaged): those are to be cut off and written again, the same ones, since each block has its own seed.
    """
    kept = []
    if os.path.exists(path):
        with open(path, "rb") as f:
            for line in f:
                try:
                    record = json.loads(line)
                    if not line.endswith(b"\n") or len(kept) == len(ids) or record["id"] != ids[len(kept)] or not isinstance(record["rounds"], list):
                        break
                except (ValueError, KeyError, TypeError):
                    break
                kept.append(len(line))
        if len(kept) < len(ids):
            kept = kept[:len(kept) // BLOCK * BLOCK]
        return len(kept), os.path.getsize(path) - sum(kept)
    return 0, 0
