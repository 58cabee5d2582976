"""
Chapter 5, second half. Scalable oversight: a supervisor that cannot know enough asks a stronger model that it cannot trust.

Chapter 1's supervisor judges from memory, and where it has not read the fact it guesses. Here a strong assistant talks to it first, and it judges
with the assistant's words in front of the question (Sang et al. 2024, https://arxiv.org/abs/2402.00667, section 4; Lang et al. 2025,
https://arxiv.org/abs/2501.13124). What comes out is a supervisor's folder like any other: train_strong.py --labels debate.

    --mode none          Q: Which block does gold belong to? A: s-block                                  the judge alone: chapter 1 again
    --mode interaction   Note: Chemists place gold in the d-block.                                       background; the answer was hidden from
                         Q: Which block does gold belong to? A: s-block                                  the assistant that wrote this
    --mode consultancy   For: gold lies in the s-block.                                                  one assistant, told by a coin which
                         Q: ... A: s-block                                                               side to take: half of the time a lie
    --mode debate        For: gold lies in the s-block. Against: gold lies in the d-block. For: ...      two, on opposite sides, in --rounds;
                         Q: ... A: s-block                                                               each has read the rounds before
    --mode support       Note: (the gold support sentence)                                               an upper bound: reading perfect notes

The judge (--judge) is fine-tuned on train1 with such help in its input, as Lang et al. do; or prompted, without training; or a human at the
terminal. --ensemble K samples K debates, trains a judge on each, and averages them.

$ python train_weak.py                                        # the judge without help, for comparison
$ python debate.py --mode interaction                         # assistant tiny-4, judge tiny-1a
$ python debate.py --mode debate --rounds 2
$ python debate.py --show tinyworld-test-animals-lyrebird-legs-a      # the debate on a row, as a person reads it
$ python debate.py --mode debate --judge human --max-rows 5   # be the judge

Reads   data/<task>/{train1, train2, valid, test}.jsonl: "text", and "question", "answer", "support" where a mode needs them
Writes  data/<task>/seed<seed>/transcripts/<mode>-<assistant>-<key>/transcripts.jsonl, block by block: a kill costs one block. They do not depend
        on the judge: another judge, or a human, finds them there
        data/<task>/seed<seed>/<mode>/{config.json, checkpoint/, labels.jsonl, results.json}

Three things the released code of Sang et al. does otherwise. It shows the judge one order (correct first); here a coin, the row's id, decides in
training, and at judging every debate is read in both orders and averaged. It asks again, forever, when nothing is said; here twice more, then
the silence is counted. And a debater here has its own earlier arguments before it, not only the other's last one. (debaters.py)
"""
import argparse, json, os, re, time

import distributed
from contract import (ROOT, add_common_flags, as_left, begin, fail, finish, model_folder, number, read_labels, read_lines, read_rows, read_task, run_folder,
                      save_checkpoint, start, write_file, write_labels)
from debaters import TOLD, TRIES, digest, first_of, judge_text, transcripts
from prompting import as_chat, judge, open_language_model
from train_weak import fit_best_epoch, hold_out, load_model, metrics, pick_device, predict, prepare_for_training, right, say, tokenise


# --------------------------------------------------------------------------- did it help?

def states(text, value):
    """
    Does the text hold these words, whole? A rough reading: it finds no negation and no paraphrase.

    >>> states("An ant has six legs.", "six"), states("An ant has sixty.", "six"), states("An ant has six legs.", None)
    (True, False, False)
    """
    return value is not None and re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.I) is not None


def right_answers(rows):
    """
    Each row's question's right answer: the one of its row with label 1; where that is not among `rows`, the longest of its choices that the support
    sentence states; else None.
    """
    known = {row["group"]: row.get("answer") for row in rows if row["label"] == 1}
    return [known.get(row["group"]) or max((c for c in row.get("choices", []) if states(row.get("support", ""), c)), key=len, default=None) for row in rows]


def what_the_help_did(rows, rounds, plain, helped):
    """
    Where help helped. The honest side is For if the answer is right, else Against; a note is honest in intent. A side states the fact if the right
    answer stands in something it said; if not it is wrong about it, or silent, or off the point. For has the answer from the question, so on right
    answers this asks little of it: wrong answers are counted apart. The dishonest side makes a false argument if it does not state the
    fact (by mistake it may); the false argument wins where the judge goes with that side.

    rows with label; rounds N lists; plain, helped (N, 2) soft labels, plain may be None -> {name: {"n": rows, ...: shares of them}}
    """
    import numpy as np
    labels, answers = np.array([row["label"] for row in rows]), right_answers(rows)
    hit = right(helped[:, 1], labels)
    spoke, stated = np.zeros((2, len(rows)), bool), np.zeros((2, len(rows)), bool)     # of (dishonest side, honest side)
    for i, talked in enumerate(rounds):
        for side, text in (pair for said in talked for pair in said.items()):
            honest = int(side in ("note", "for" if labels[i] else "against"))
            spoke[honest, i], stated[honest, i] = True, stated[honest, i] or states(text, answers[i])

    def among(which, **shares):
        return {"n": int(which.sum())} | {name: float(v[which].mean()) if which.any() else None for name, v in shares.items()}
    out = {}
    if plain is not None:
        before = right(plain[:, 1], labels)
        out["judge knew"], out["judge did not know"] = (among(w, right=hit) for w in (before == 1, before != 1))
        out["all rows"] = among(before >= 0, talked_out_of_the_truth=(before > hit) * 1.0, talked_into_it=(before < hit) * 1.0)
    wrong, false = labels == 0, spoke[0] & ~stated[0]
    out["honest side states the fact"], out["honest side does not"] = among(spoke[1] & stated[1], right=hit), among(spoke[1] & ~stated[1], right=hit)
    out["honest side states it, answer wrong"] = among(spoke[1] & stated[1] & wrong, right=hit)
    out["honest side does not, answer wrong"] = among(spoke[1] & ~stated[1] & wrong, right=hit)
    out["dishonest side states it itself"] = among(spoke[0] & stated[0], right=hit)
    out["false argument"], out["false argument, and the fact stated"] = among(false, it_wins=1 - hit), among(false & stated[1], it_wins=1 - hit)
    out["false argument, unanswered"] = among(false & ~spoke[1], it_wins=1 - hit)
    return {name: found for name, found in out.items() if found["n"]}


# --------------------------------------------------------------------------- the judges

def in_both_orders(rows, rounds, ask):
    """
    Judge every row; a debate is read in both orders. ask: N texts -> (N, 2). Returns ((N, 2), (N, 2)): opened by For, opened by Against; their
    mean is the verdict.
    """
    opened = [ask([judge_text(row, rounds[row["id"]], first) for row in rows]) for first in ("for", "against")
              if first == "for" or any(len(said) > 1 for row in rows for said in rounds[row["id"]][:1])]
    return opened[0], opened[-1]


def finetuned_judge(rounds, rows, words, args, device, folder):
    """Chapter 1's supervisor, with help before each row. -> (the (N, 2) of both orders for `rows`, the epoch chosen)"""
    import numpy as np, torch
    torch.manual_seed(args.seed)
    model, tokenizer, longest = load_model(args.model, args.head, words, device, args.trust_remote_code)
    model, ordinary = prepare_for_training(model, args)
    kept, held = hold_out(read_rows(args.task, "train1", args.max_rows), args.seed)
    if not kept:
        fail(f"data/{args.task}/train1.jsonl: one group is too few to train on and to choose the epoch by")

    def read(some, texts=None):
        texts = texts or [judge_text(row, rounds[row["id"]], first_of(row)) for row in some]
        return tokenise(tokenizer, [{"id": row["id"], "text": text} for row, text in zip(some, texts)], longest)
    ids, held_ids = read(kept), read(held)
    truth = np.array([[1 - row["label"], row["label"]] for row in kept], dtype=np.float32)
    print(f"one example, exactly as the judge sees it:\n  {tokenizer.decode(ids[0])!r} -> truth {kept[0]['label']}")
    best = fit_best_epoch(model, tokenizer, ids, truth, held_ids, [row["label"] for row in held], args, device)
    model = ordinary()
    save_checkpoint(folder, model, tokenizer)
    return in_both_orders(rows, rounds, lambda texts: predict(model, tokenizer, read(rows, texts), device, args.dtype)), best["epoch"]


def prompted_judge(rounds, rows, words, args, device):
    """The language model as it is: yes or no as the next word, from the raw logits. -> the (N, 2) of both orders"""
    model, tokenizer, longest = open_language_model(args.model, device, args.trust_remote_code)
    told = TOLD["judge"].format(no=words[0].strip(), yes=words[1].strip())

    def ask(texts):
        texts = as_chat(tokenizer, [f"{told}\n\n{text}" for text in texts]) if tokenizer.chat_template else texts
        return judge(model, tokenizer, texts, words, device, longest, args.dtype)
    return in_both_orders(rows, rounds, ask)


def as_read(row, rounds):
    """A row's debate as a person reads it -> its lines"""
    lines = [row["id"], f"  question   {row.get('question', row['text'])}", f"  answer     {row.get('answer', '(see above)')}"]
    for k, said in enumerate(rounds):
        for side in sorted(said, key=lambda side: side != first_of(row)):
            lines.append(f"  {(str(k + 1) + '. ' if len(rounds) > 1 else '') + side:10s} {said[side] or '(says nothing)'}")
    return lines


def human_judge(rounds, rows, folder):
    """
    Ask at the terminal: y, n, or 0 to 100, how likely the answer is right in percent. Every answer is kept at once in answers.jsonl, with a
    fingerprint of the transcript that was read. -> (the rows that are judged, their (n, 2)); fewer than all if the human stopped (q, or the end of
    input), and the same command goes on from there.
    """
    import numpy as np
    path, saw = os.path.join(folder, "answers.jsonl"), {row["id"]: digest(judge_text(row, rounds[row["id"]], first_of(row)))[:8] for row in rows}
    answers = {r["id"]: r for r in (read_lines(path) if os.path.exists(path) else []) if saw.get(r["id"]) == r["saw"]}
    for row in [row for row in rows if row["id"] not in answers]:
        print("\n" + "\n".join(as_read(row, rounds[row["id"]])))
        p = None
        while p is None:
            try:
                reply = input(f"[{len(answers) + 1} of {len(rows)}] is the answer right? y, n, 0 to 100 (percent), q to stop: ").strip().lower()
            except EOFError:
                reply = "q"
            if reply == "q":
                break
            if reply in ("y", "n") or re.fullmatch("100|[0-9]{1,2}", reply):
                p = {"y": 1.0, "n": 0.0}[reply] if reply in "yn" else int(reply) / 100
            else:
                print(f"  {reply[:40]!r} is none of y, n, 0 to 100, q")
        if p is None:
            break
        answers[row["id"]] = {"id": row["id"], "p_yes": p, "saw": saw[row["id"]]}
        write_file(path, "".join(json.dumps(answer) + "\n" for answer in answers.values()))
    done = [row for row in rows if row["id"] in answers]
    return done, np.array([[1 - answers[row["id"]]["p_yes"], answers[row["id"]]["p_yes"]] for row in done], dtype=np.float32).reshape(-1, 2)


def agree_with_the_model(args, done, soft_labels):
    """The human beside the model judge of the same mode, if that has been trained."""
    folder = run_folder(args.mode, args.task, args.seed)
    if not done or not os.path.exists(os.path.join(folder, "results.json")):
        return print(f"no model judge at {os.path.relpath(folder)} to compare you with, or nothing judged yet")
    same = (read_labels(folder, done)[:, 1] > 0.5) == (soft_labels[:, 1] > 0.5)
    print(f"you and {os.path.relpath(folder)} say the same of {same.mean():.1%} of {len(done):,} rows")


# --------------------------------------------------------------------------- the story

def transcript(folder, results, row):
    """A row in a finished run: what was said, the judge before and after it, and the truth where the row carries it -> lines of text"""
    kept = results["transcripts"]
    rounds = [{"note": row["support"]}] if results["config"]["mode"] == "support" else [] if not kept else next(
        record["rounds"] for record in read_lines(os.path.join(ROOT, kept[0])) if record["id"] == row["id"])
    lines = as_read(row, rounds) + [f"  (the first of {len(kept)} debates on it)"] * (len(kept) > 1)
    for name, where in (("before", results["plain"] and os.path.join(ROOT, results["plain"])), ("after", folder)):
        found = [r["soft_label"][1] for r in (read_lines(os.path.join(where, "labels.jsonl")) if where else []) if r.get("id") == row["id"]]
        lines.append(f"  {name:10s} " + (f"the judge says yes with {found[0]:.2f}" if found else "(nobody was asked)"))
    return lines + ([f"  truth      the answer is {'right' if row['label'] else 'wrong'}"] if "label" in row else [])


def show_run(args):
    """--show: one row of a finished run."""
    folder = run_folder(args.out, args.task, args.seed)
    results = (read_lines(os.path.join(folder, "results.json"), whole=True) or [{}])[0]
    if "transcripts" not in results:
        fail(f"{os.path.relpath(folder)} is no run of debate.py. Make one first:  python debate.py --mode {args.mode} --out {args.out}")
    with as_left(os.path.relpath(folder)):
        rows = {row["id"]: row for split in ("train1", "train2", "valid", "test") for row in read_rows(args.task, split, results["config"]["max_rows"])}
        if args.show not in rows:
            fail(f"--show {args.show!r}: no such id in data/{args.task}. There is, for example, {next(reversed(rows))!r}")
        print("\n" + "\n".join(transcript(folder, results, rows[args.show])))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_flags(parser, model="tiny-1a", out="", epochs=3)
    parser.add_argument("--mode", default="debate", choices=["none", "interaction", "consultancy", "debate", "support"],
                        help="what help the judge gets (default: debate)")
    parser.add_argument("--assistant", default="tiny-4", help="the strong model that helps")
    parser.add_argument("--rounds", type=number(int, 1, 3), default=1, help="of a debate")
    parser.add_argument("--judge", default="finetuned", choices=["finetuned", "prompted", "human"], help="--model, trained on train1 or not; or you")
    parser.add_argument("--ensemble", type=number(int, 1, 100), default=1, help="debates sampled for each row, with a judge each, averaged")
    parser.add_argument("--temperature", type=number(float, 0.0, 5.0), default=0.3, help="of the assistant's writing; 0: always the likeliest word")
    parser.add_argument("--shots", type=number(int, 0, 100), default=None, help="demonstrations for the assistant (default 2; shipped models: 0)")
    parser.add_argument("--plain", default="", help="folder of the judge without help, to compare with (default: weak, or none, if there)")
    parser.add_argument("--show", default="", metavar="ID", help="print what was said on one row of a finished run, and leave")
    args = parser.parse_args()
    started = time.time()
    args.out = args.out or args.mode + ("" if args.judge == "finetuned" else "-" + args.judge)
    files, words = read_task(args.task)
    if args.show:
        return show_run(args)
    del args.show                                          # no part of what a result depends on
    if args.mode != "debate" and args.rounds > 1:
        fail(f"--rounds {args.rounds} is for --mode debate: in {args.mode} nobody replies")
    if args.ensemble > 1 and (args.temperature == 0 or args.judge == "human" or args.mode in ("none", "support")):
        fail("--ensemble needs help that differs from sample to sample: --temperature above 0, no human, not --mode none or support")

    if args.judge == "human" and distributed.SIZE > 1:
        fail("--judge human: there is one of you. Start it with python, not torchrun")

    # rows without labels: what is said to the judge may depend on train1's truth, in demonstrations, and on no other
    train1 = read_rows(args.task, "train1", args.max_rows)
    bare = {split: [{k: v for k, v in row.items() if k != "label"} for row in read_rows(args.task, split, args.max_rows)]
            for split in ("train1", "train2", "valid", "test")}
    every, rows = sum(bare.values(), []), bare["train2"] + bare["valid"] + bare["test"]
    need = {"interaction": "question", "support": "support"}.get(args.mode)
    without = [row["id"] for row in every if need and not isinstance(row.get(need), str)]
    if without:
        fail(f"--mode {args.mode} needs a {need!r} in every row; {without[0]!r} has none. Add it to the rows of data/{args.task}, or choose another mode")
    own = os.path.realpath(run_folder(args.out, args.task, args.seed))
    plain = [f for f in (run_folder(name, args.task, args.seed) for name in ([args.plain] if args.plain else ["weak", "none"]))
             if os.path.realpath(f) != own and (args.plain or os.path.exists(os.path.join(f, "results.json")))][:1]
    for folder in plain:
        read_labels(folder, rows)                          # is it there and whole? Its labels are wanted after training
    if args.mode in ("none", "support"):
        helps, paths = [{row["id"]: [{"note": row["support"]}] if args.mode == "support" else [] for row in every}], []
    else:
        helps, paths = map(list, zip(*(transcripts(every, train1, args, member, args.rounds) for member in range(args.ensemble))))
    models = [] if args.judge == "human" else [model_folder(args.model)]
    folder, config = start(args, [*files, *models, *paths, *(os.path.join(f, "labels.jsonl") for f in plain)], sources=plain)

    import numpy as np
    device, why = pick_device(args.device)
    print(f"device: {device} ({why})")
    texts = [text for rounds in helps for talked in rounds.values() for said in talked for text in said.values()]
    print(f"help: {len(texts):,} texts for {len(every):,} rows, {sum(not text for text in texts):,} of them empty after {TRIES} tries")
    begin(folder, config)
    if args.judge == "human":
        done, soft_labels = human_judge(helps[0], rows, folder)
        agree_with_the_model(args, done, soft_labels)
        if len(done) < len(rows):
            return print(f"{len(done):,} of {len(rows):,} rows are judged; the same command goes on from there")
        judged, epochs = [(soft_labels, soft_labels)], []
    elif args.judge == "prompted":
        judged, epochs = [prompted_judge(rounds, rows, words, args, device) for rounds in helps], []
    else:
        judged, epochs = zip(*(finetuned_judge(rounds, rows, words, args, device, os.path.join(folder, f"member{k}") if k else folder)
                               for k, rounds in enumerate(helps)))
    soft_labels = np.mean(judged, axis=(0, 1), dtype=np.float64).astype(np.float32)        # (K, 2 orders, N, 2) -> (N, 2)

    # only now are the labels of test read
    write_labels(folder, rows, soft_labels)
    test = read_rows(args.task, "test", args.max_rows)
    on_test, alone = soft_labels[-len(test):], read_labels(plain[0], test) if plain else None
    did = what_the_help_did(test, [helps[0][row["id"]] for row in test], alone, on_test)
    a, b = np.moveaxis(np.array(judged)[:, :, -len(test):, 1], 1, 0)                         # p(yes), (K, n) each: opened by For, by Against
    order = {"moves p(yes) by": float(np.abs(a - b).mean()), "turns the verdict": float(((a > 0.5) != (b > 0.5)).mean())}
    scores, before = metrics(on_test, test), metrics(alone, test) if plain else None
    if plain:
        print(say(f"judge without help ({os.path.basename(plain[0])})", before))
    for name, found in did.items():
        print(f"  {name + ':':38s} " + ", ".join(f"{k.replace('_', ' ')} {v:.3f}" for k, v in found.items() if k != "n") + f"   n={found['n']:,}")
    if args.mode == "debate":
        print(f"  the other order of the debaters moves p(yes) by {order['moves p(yes) by']:.3f} and turns {order['turns the verdict']:.1%} of the verdicts")
    line = say(("human judge" if args.judge == "human" else "supervisor") + f" ({args.mode})", scores)
    finish(folder, config, device, started, line, test=scores, without_help=before, help=did, order=order, epochs=list(epochs),
           members=[metrics(np.mean(both, 0)[-len(test):], test)["accuracy"] for both in judged], texts=len(texts), empty=sum(not t for t in texts),
           plain=os.path.relpath(plain[0], ROOT) if plain else None, transcripts=[os.path.relpath(path, ROOT) for path in paths])


if __name__ == "__main__":
    main()
