"""
Chapter 6, second half. Without training: the strong model sees a few labelled examples in its prompt, and judges the next one.

Fine-tuning asks a strong model to become its supervisor. A prompt only shows it what is wanted: k demonstrations with the supervisor's
labels, then the row to be judged, and the next word is the verdict (Sang et al. 2024, https://arxiv.org/abs/2402.00667, section 5).

    Q: Which block does gold belong to? A: s-block no (confidence 0.87)         <- demonstrations: rows of train2 and their supervisor's label,
    Q: How many legs has an ant? A: six yes (confidence 0.71)                      with --confidence how sure it was
    Q: As what do people mostly use butane? A: fuel                             <- a row of test: p(" yes") against p(" no")

$ python icl.py --labels truth --out icl-ceiling                  # the ceiling: the same prompts with true labels
$ python icl.py --labels weak --ceiling icl-ceiling               # the student
$ python icl.py --labels truth --out curve --shots 0,1,2,4,8,16   # a curve; --noise 0,2,4,8 flips that many labels

Which examples to show (--retriever):

    random       half of each class, drawn once for all rows and once more for each of --orders (so is each of the two below)
    confident    those of which the supervisor is surest, half of each class (only their order differs from draw to draw)
    oversight    drawn from the rows that another supervisor (--oversight interaction, say) labels the same
    bm25         for each row of test its own, those that share rare words with it
    topk         for each row its own, those nearest by mean hidden state, of the model itself or of --encoder
    votek        the same, among a hundred that stand for the whole pool (Su et al. 2022)

Three things are easily got wrong. Do the labels shown matter at all? Flip them (--noise, --invert) and see (Min et al. 2022 found that they
often hardly do). Was an answer generated where a word was asked for? One forward pass gives both words' logits; 64 tokens of text parsed
for a yes cost tens of times as much. And what the prompts have in common is read once: its keys and values are kept.

Reads   a supervisor's folder (labels.jsonl), data/<task>/{train2, test}.jsonl; never truth/, unless that is the supervisor
Writes  data/<task>/seed<seed>/icl/{config.json, labels.jsonl, results.json}: soft labels of test only, averaged over --orders draws (several
        prompts judge a little better than one: "curve" in results.json has each draw by itself, and their spread). Nothing is trained: no checkpoint.

    diff train_strong.py icl.py     # the labels go into the prompt, not into the weights
"""
import argparse, copy, inspect, os, time

from contract import ROOT, begin, fail, finish, model_folder, number, read_labels, read_rows, read_task, run_folder, start, write_labels
from measure import check_comparison, compare, last_line
from prompting import as_chat, encode, next_word_scores, open_language_model
from retrieval import bm25, calibrate, cosine, flip, most_similar, per_class, vote_k
from train_weak import label_word_ids, metrics, open_checkpoint, pick_device, predict, say, sweep, tokenise, use_bf16


# --------------------------------------------------------------------------- the prompt

def demonstration(text, word, confidence=None):
    """One line of the sheet. Nobody is surer than 0.99.  ("Q: ...? A: six", " yes", 0.871)  ->  "Q: ...? A: six yes (confidence 0.87)" """
    return text + word + ("" if confidence is None else f" (confidence {min(confidence, 0.99):.2f})")


def fill(tokenizer, lines, text, words):
    """
    The template: the demonstrations, a line each, and the text to judge. A base model reads on from there; a chat model is told what to do first.
    """
    sheet = "\n".join([*lines, text])
    if not tokenizer.chat_template:
        return sheet
    no, yes = (word.strip() for word in words)
    told = "Each text ends in somebody's verdict, which may be wrong. Give your own on the last text" if lines else "Give your verdict on this text"
    return as_chat(tokenizer, [f"{told}, in one word: {yes} or {no}.\n\n{sheet}"])[0]


def fit_to_context(tokenizer, sheets, texts, words, longest):
    """
    N lists of lines, N texts -> (N lists of ids, (N,) number of lines left out): a prompt longer than the context loses the lines farthest from
    its question, the first ones. Only a question that is too long all by itself loses its beginning (prompting.encode says so).
    """
    import numpy as np
    dropped, ids, todo = np.zeros(len(texts), int), [None] * len(texts), range(len(texts))
    while len(todo):
        for i, found in zip(todo, encode(tokenizer, [fill(tokenizer, sheets[i][dropped[i]:], texts[i], words) for i in todo], 1 << 30)):
            ids[i] = found
        todo = [i for i in todo if len(ids[i]) > longest and dropped[i] < len(sheets[i])]
        dropped[list(todo)] += 1
    too_long = [i for i in range(len(texts)) if len(ids[i]) > longest]
    for i, found in zip(too_long, encode(tokenizer, [fill(tokenizer, [], texts[i], words) for i in too_long], longest) if too_long else []):
        ids[i] = found
    return ids, dropped


# --------------------------------------------------------------------------- scoring

def answer_ids(tokenizer, words):
    """The label words as tokens: a base model's verdict follows the answer (" yes"), a chat model's begins a line ("Yes")."""
    return label_word_ids(tokenizer, [w.strip() for w in words], "\n") if tokenizer.chat_template else label_word_ids(tokenizer, words)


def shared_beginning(ids):
    """
    How many tokens all lists begin with, a last one left to each.

    >>> shared_beginning([[5, 6, 7, 1], [5, 6, 8], [5, 6, 7]])
    2
    """
    first, last = min(ids), max(ids)                       # in alphabetical order: what these two share, all share
    return next((n for n in range(min(map(len, ids)) - 1) if first[n] != last[n]), min(map(len, ids)) - 1)


def next_word_scores_after(beginning, word_ids):
    """
    An `outputs` function for train_weak.predict, as prompting.next_word_scores, for prompts whose beginning has been read: a DynamicCache of
    one row. Its P keys and values a layer are the same for each row of the batch, so they are repeated, not computed.
    """
    import torch

    def outputs(model, batch):
        mask, n_read = batch["attention_mask"], beginning.get_seq_length()
        rows, width = mask.shape
        turn = (torch.arange(width, device=mask.device)[None] + mask.sum(1, keepdim=True)) % width      # the last token into the last column
        ids, mask = batch["input_ids"].gather(1, turn), mask.gather(1, turn)
        read = copy.deepcopy(beginning)                    # the forward pass appends to it
        read.batch_repeat_interleave(rows)
        extra = {"position_ids": n_read + (mask.cumsum(1) - 1).clamp(min=0)}
        known = inspect.signature(model.forward).parameters
        logits = model(input_ids=ids, attention_mask=torch.cat([mask.new_ones(rows, n_read), mask], dim=1), past_key_values=read, use_cache=True,
                       logits_to_keep=1, **{k: v for k, v in extra.items() if k in known}).logits
        return logits[:, -1, word_ids].float()
    return outputs


def score(model, tokenizer, ids, word_ids, device, dtype="fp32", tokens=8192):
    """
    Soft labels (N, 2) of N prompts from the raw next-token logits of two words. What all prompts begin with is read once.
    """
    import torch
    n = shared_beginning(ids)
    if n < 16 or len(ids) < 2:
        return predict(model, tokenizer, ids, device, dtype, tokens, next_word_scores(word_ids))
    model.eval()
    with torch.inference_mode(), torch.autocast(device.split(":")[0], torch.bfloat16, enabled=use_bf16(dtype, device)):
        beginning = model(torch.tensor([ids[0][:n]], device=device), use_cache=True, logits_to_keep=1).past_key_values
    rest = [i[n:] for i in ids]
    width = max(map(len, rest))                            # the repeated beginning counts: what a batch holds is what attention looks at
    return predict(model, tokenizer, rest, device, dtype, tokens * width // (n + width), next_word_scores_after(beginning, word_ids))


def judge_after(model, tokenizer, sheets, texts, words, device, longest, dtype="fp32"):
    """
    What the model says of N texts, each after its demonstrations.

    sheets    N lists of lines, or a single one for all
    returns   ((N, 2) soft labels, (N,) number of lines that did not fit)
    """
    import numpy as np
    word_ids = answer_ids(tokenizer, words)
    ids, dropped = fit_to_context(tokenizer, sheets if len(sheets) > 1 else sheets * len(texts), texts, words, longest)
    soft_labels, same = np.empty((len(ids), 2), np.float32), dropped if len(sheets) == 1 else np.zeros(len(ids))
    for n in np.unique(same):                              # who shares its demonstrations still does after losing as many
        rows = np.flatnonzero(same == n)
        soft_labels[rows] = score(model, tokenizer, [ids[i] for i in rows], word_ids, device, dtype)
    return soft_labels, dropped


# --------------------------------------------------------------------------- the story

def content_free(row):
    """The row's text with nothing to judge: "Q: N/A A: N/A" where question and answer are known, otherwise just "N/A"."""
    if all(isinstance(row.get(key), str) and row[key] and row[key] in row["text"] for key in ("question", "answer")):
        return "N/A".join(row["text"].replace(row["question"], "N/A", 1).rsplit(row["answer"], 1))
    return "N/A"


def mean_hidden(model, batch):
    """An `outputs` function for train_weak.sweep: the mean over a text's tokens of the last hidden state, (B, T) -> (B, C)."""
    body, mask = model.base_model, batch["attention_mask"][..., None]
    return (body(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)


def read_pool(args, labels_folder, oversight, test):
    """
    -> (rows to demonstrate with, sorted by id; their soft labels). A text stands there once, and not if it is one that will be judged.
    """
    rows, seen = [], {row["text"] for row in test}
    for row in sorted(read_rows(args.task, "train2", args.max_rows), key=lambda row: row["id"]):
        if row["text"] not in seen:
            seen.add(row["text"])
            rows.append(row)
    soft_labels = read_labels(labels_folder, rows)
    if oversight:
        same = (soft_labels[:, 1] > 0.5) == (read_labels(oversight, rows)[:, 1] > 0.5)
        print(f"data: {os.path.relpath(oversight)} says the same of {same.sum():,} of {len(rows):,} rows; demonstrations come from these")
        rows, soft_labels = [row for row, s in zip(rows, same) if s], soft_labels[same]
    return rows, soft_labels


def retriever(args, pool, soft_labels, test, model, tokenizer, longest, device):
    """-> a function (k, rng) -> indices into the pool: (1, k), the same for all rows, or (M, k), each row its own, the nearest last"""
    import numpy as np
    says = soft_labels[:, 1] > 0.5
    if args.retriever in ("random", "oversight"):
        return lambda k, rng: per_class(says, k, rng)[None]
    if args.retriever == "confident":
        return lambda k, rng: per_class(says, k, rng, rank=soft_labels.max(1))[None]
    if args.retriever == "bm25":
        similarity = bm25([row["text"] for row in test], [row["text"] for row in pool])
        return lambda k, rng: most_similar(similarity, k)
    if args.encoder:
        model, tokenizer, longest = open_checkpoint(args.encoder, "AutoModel", device, args.trust_remote_code)
    features = sweep(model, tokenizer, tokenise(tokenizer, pool + test, longest), device, args.dtype, outputs=mean_hidden)
    known, asked = features[:len(pool)], features[len(pool):]
    if args.retriever == "topk":
        similarity = cosine(asked, known)
        return lambda k, rng: most_similar(similarity, k)
    chosen = np.sort(vote_k(known, VOTED, neighbours=max(3, len(pool) // 20)))
    similarity = cosine(asked, known[chosen])
    return lambda k, rng: chosen[most_similar(similarity, k)]


RETRIEVERS = ("random", "bm25", "topk", "votek", "confident", "oversight")
VOTED = 100                                                # of which vote-k's demonstrations come: the larger of the paper's two budgets


def counts(text):
    """argparse type: "0,1,2,4" -> [0, 1, 2, 4]"""
    return [number(int, 0, 1000)(part) for part in text.split(",")]


def parse(parser):
    count = number(int, 1, 10 ** 9)
    parser.add_argument("--task", default="tinyworld", help="a folder of data/")
    parser.add_argument("--model", default="tiny-4", help="who reads the prompts: a shipped model, a local folder, or a hub name")
    parser.add_argument("--labels", default="weak", help="whose labels are shown: a supervisor's folder, or its bare name; 'truth' makes the ceiling")
    parser.add_argument("--out", default="icl", help="where to: a bare name means data/<task>/seed<seed>/<name>")
    parser.add_argument("--shots", type=counts, default=[4], help="demonstrations in a prompt; of a list (a curve) the last is the run's result")
    parser.add_argument("--noise", type=counts, default=[0], help="how many of their labels are turned; of a list the first is the run's result")
    parser.add_argument("--orders", type=count, default=4, help="draws (which demonstrations, in what order, which labels turned), averaged")
    parser.add_argument("--retriever", default="random", choices=RETRIEVERS, help="which demonstrations: see above")
    parser.add_argument("--encoder", default="", help="for topk and votek: whose mean hidden states (default: the model's own)")
    parser.add_argument("--oversight", default="", help="for the retriever of that name: the other supervisor's folder")
    parser.add_argument("--confidence", action="store_true", help="show how sure the supervisor was of each label")
    parser.add_argument("--label-words", default="", help="two words for no and yes, as in no,yes (default: those of task.json)")
    parser.add_argument("--invert", action="store_true", help="the word for no stands for yes, and the other way round")
    parser.add_argument("--calibrate", action="store_true", help="divide by what the same prompt makes the model say of N/A (Zhao et al. 2021)")
    parser.add_argument("--supervisor", default="", help="folder whose test labels the student is compared with (default: that of --labels)")
    parser.add_argument("--ceiling", default="", help="folder of the ceiling, for the PGR")
    parser.add_argument("--seed", type=number(int, 0, 2 ** 31), default=0, help="of the draws; splits never depend on it")
    parser.add_argument("--device", default="", help="cuda|mps|cpu (default: the best there is)")
    parser.add_argument("--dtype", default="auto", choices=["auto", "fp32", "bf16"], help="bf16: autocast over fp32 weights; auto: on GPUs")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that a hub repository brings; off for good reason")
    parser.add_argument("--max-rows", type=count, default=None, help="use the first N rows of each split, for a quick look")
    parser.add_argument("--force", action="store_true", help="do it again though it is done")
    args = parser.parse_args()
    if args.label_words and (args.label_words.count(",") != 1 or len({word.strip() for word in args.label_words.split(",")} - {""}) != 2):
        fail(f"--label-words {args.label_words!r}: give two different words, for no and yes, as in no,yes")
    if (args.retriever == "oversight") != bool(args.oversight):
        fail("--retriever oversight and --oversight FOLDER go together: the labels that this other supervisor shares are shown")
    if args.encoder and args.retriever not in ("topk", "votek"):
        fail(f"--encoder is for --retriever topk and votek, not {args.retriever}")
    if args.noise[0] > args.shots[-1]:
        fail(f"--noise {args.noise[0]}: there are only {args.shots[-1]} labels to turn round (--shots)")
    return args


def main():
    args = parse(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    started = time.time()
    truth_folder = os.path.join(ROOT, "data", args.task, "truth")
    if os.path.realpath(args.labels) == os.path.realpath(truth_folder):
        args.labels = "truth"
    is_ceiling = args.labels == "truth"
    if is_ceiling and (args.ceiling or args.supervisor):
        fail("--labels truth makes a ceiling; --ceiling and --supervisor are for students")
    files, words = read_task(args.task)
    words = [" " + word.strip() for word in args.label_words.split(",")] if args.label_words else words
    words = words[::-1] if args.invert else words
    labels_folder = truth_folder if is_ceiling else run_folder(args.labels, args.task, args.seed)
    supervisor = None if is_ceiling else run_folder(args.supervisor, args.task, args.seed) if args.supervisor else labels_folder
    ceiling = run_folder(args.ceiling, args.task, args.seed) if args.ceiling else None
    oversight = run_folder(args.oversight, args.task, args.seed) if args.oversight else None
    check_comparison(args, supervisor, ceiling, "icl.py", sorted(set(vars(args)) - {"labels", "supervisor", "ceiling", "out", "device", "force"}))
    test = [{key: value for key, value in row.items() if key != "label"} for row in read_rows(args.task, "test", args.max_rows)]
    texts = [row["text"] for row in test]
    pool, soft_labels = read_pool(args, labels_folder, oversight, test)
    most = min(len(pool), VOTED) if args.retriever == "votek" else len(pool)
    if max(args.shots) > most:
        fail(f"--shots {max(args.shots)}: there are only {most:,} rows to choose demonstrations from")
    sources = {folder for folder in (labels_folder, supervisor, ceiling, oversight) if folder}
    models = [model_folder(name) for name in (args.model, args.encoder) if name]
    folder, config = start(args, [*files, *models, *(os.path.join(f, "labels.jsonl") for f in sorted(sources))], sources)

    import numpy as np
    device, why = pick_device(args.device)
    print(f"device: {device} ({why})")
    model, tokenizer, longest = open_language_model(args.model, device, args.trust_remote_code)
    words = [" " + word.strip().capitalize() for word in words] if tokenizer.chat_template else words
    answer_ids(tokenizer, words)                           # words that are no tokens show now, not after the retrieval
    says, sure = soft_labels[:, 1] > 0.5, soft_labels.max(1)
    retrieve = retriever(args, pool, soft_labels, test, model, tokenizer, longest, device)

    def sheets(shots, noise, draw):
        """-> one list of lines for all rows, or one each"""
        if not shots:
            return [[]]
        chosen = retrieve(shots, np.random.default_rng([args.seed, draw]))
        shown = flip(says[chosen], noise, np.random.default_rng([args.seed, draw, 1]))
        return [[demonstration(pool[i]["text"], words[int(label)], sure[i] if args.confidence else None) for i, label in zip(some, those)]
                for some, those in zip(chosen, shown)]

    def ask(shots, noise, draw):
        lines = sheets(shots, noise, draw)
        said, dropped = judge_after(model, tokenizer, lines, texts, words, device, longest, args.dtype)
        if args.calibrate:
            nothing = judge_after(model, tokenizer, lines, [content_free(row) for row in test], words, device, longest, args.dtype)[0]
            said = calibrate(said, nothing)
        return said, int(dropped.sum())

    print(f"data: {len(pool):,} rows of train2 to demonstrate with, labelled by {os.path.relpath(labels_folder)} ({says.mean():.1%} yes); "
          f"{len(test):,} rows of test to judge")
    print("one prompt, exactly as the model sees it (it continues with one of " + f"{words}):\n"
          + "\n".join("  " + line for line in fill(tokenizer, sheets(args.shots[-1], args.noise[0], 0)[0], texts[0], words).split("\n")))
    begin(folder, config)

    said = {}                                              # (shots, noise) -> a list of (soft labels, lines that did not fit), one a draw
    for shots, noise in [(s, n) for s in args.shots for n in args.noise if n <= s]:
        chance_has_a_part = shots and (noise or args.retriever in ("random", "confident", "oversight"))
        said[shots, noise] = [ask(shots, noise, draw) for draw in range(args.orders if chance_has_a_part else 1)]
    result = np.mean([s for s, _ in said[args.shots[-1], args.noise[0]]], axis=0).astype(np.float32)
    write_labels(folder, test, result)

    # only now are the labels of test read
    test, curve = read_rows(args.task, "test", args.max_rows), []
    for (shots, noise), draws in said.items():
        each = [metrics(s, test) for s, _ in draws]
        point = {"shots": shots, "noise": noise, "draws": [m["accuracy"] for m in each]}
        point |= {key: float(np.mean([m[key] for m in each])) for key in ("accuracy", "auroc", "ece", "says_yes")}
        point |= {"spread": float(np.std(point["draws"], ddof=1)) if len(each) > 1 else None, "demonstrations_dropped": sum(n for _, n in draws)}
        curve.append(point)
        spread = f"±{point['spread']:.3f} over {len(each)} draws" if len(each) > 1 else "one draw"
        print(f"{shots} shots, {noise} turned round: {point['accuracy']:.3f} ({spread}) | AUROC {point['auroc']:.3f} | "
              f"ECE {point['ece']:.3f} | says yes {point['says_yes']:.2f} | "
              f"{point['demonstrations_dropped']:,} demonstrations did not fit into {len(each) * len(test):,} prompts")
    scores = metrics(result, test)
    line, comparison = say("ceiling" if is_ceiling else "student", scores), None
    if supervisor:
        comparison = compare(test, read_labels(supervisor, test), result, read_labels(ceiling, test) if ceiling else None)
        print(line)
        line = last_line(comparison, scores)
    finish(folder, config, device, started, line, test=scores, comparison=comparison, curve=curve)


if __name__ == "__main__":
    main()
