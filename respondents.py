"""
Chapter 9, second part. A model is asked: whose words are these, and how does it answer?

    whose            a name, or a run's folder -> which model that is; a classifier is asked through the language model that it was made from
    by_likelihood    the probabilities of a question's two answers, from one forward pass each -> P(option 1)
    by_generation    what it writes, read by questionnaire.py -> option 1, option 2, or nothing that can be read

Functions, no story; cdeval.py tells it. Two things go wrong easily. A chat model begins a turn with " A" or with "A", as its template has it, and the
tokens differ. And of two sentences the shorter one is nearly always the likelier: what counts is the mean over its tokens.
"""
import inspect, os

from contract import ROOT, fail, model_folder, read_lines
from prompting import as_chat, encode, open_language_model, pad_left, write
from questionnaire import read_answer
from train_weak import open_checkpoint, use_bf16


# --------------------------------------------------------------------------- who is asked

def whose(name, base):
    """
    A model's name, or a run's folder -> {"label", "folder", "base"}. Base is for classifiers, which cannot speak: the model they were made from.
    """
    folder, label = model_folder(name), name
    if os.path.isdir(os.path.join(folder, "checkpoint")):
        folder = os.path.join(folder, "checkpoint")
    if os.path.basename(os.path.normpath(folder)) == "checkpoint":
        label = os.path.relpath(os.path.dirname(os.path.abspath(folder)), os.path.join(ROOT, "data"))
        label = label if not label.startswith("..") else os.path.basename(os.path.dirname(os.path.abspath(folder)))
    config = os.path.join(folder, "config.json")
    kind = ((read_lines(config, whole=True) or [{}])[0].get("architectures") or [""])[0] if os.path.exists(config) else ""
    if not kind.endswith("ForSequenceClassification"):
        return {"label": label, "folder": folder, "base": ""}
    run = os.path.join(os.path.dirname(os.path.abspath(folder)), "config.json")
    base = base or (os.path.exists(run) and (read_lines(run, whole=True) or [{}])[0].get("model")) or ""
    if not base:
        fail(f"{name} is a classifier and cannot be asked in words. Say with --base which language model it was made from")
    return {"label": label, "folder": folder, "base": model_folder(base)}


def open_respondent(folder, base, device, remote_code=False):
    """
    -> (model, tokenizer, longest). A classifier's trained body gets its base model's head back, as that was before the training.

    What this can show and what not: training moved the body, and the two rows of the classifier's own head, which began as those of its label
    words. All other rows of the language model's head nobody trained; they read the moved body as well as they can. Input and output
    embeddings, one matrix in many models, are two from here on: the first is the trained one.
    """
    import torch
    if not base:
        return open_language_model(folder, device, remote_code)
    model, tokenizer, longest = open_language_model(base, device, remote_code)
    trained, own, _ = open_checkpoint(folder, "AutoModelForSequenceClassification", device, remote_code)
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    try:
        model.base_model.load_state_dict(trained.base_model.state_dict())
    except RuntimeError:
        fail(f"{folder} was not made from {base}: their weights have other shapes. Say with --base which language model it was made from")
    return model, own, longest


# --------------------------------------------------------------------------- what it answers

def choice(log_p, tokens):
    """
    P(option 1) from how likely the two answers are: softmax over the two means of log p, so that an answer is not worth less for being longer.

    log_p, tokens  (N, 2), (N, 2): the sum of log p over the answer's tokens, and how many they are  ->  (N,)

    >>> choice([[-1.0, -2.0], [-6.0, -3.0]], [[1, 1], [4, 2]]).round(3).tolist()           # the second: -1.5 nats a token, both
    [0.731, 0.5]

    For one-token answers this is what the model says. For whole sentences it is milder than what the model would write: the choice falls at a few
    tokens, the mean is over all. By the sum, a model that cannot copy would choose whichever words are more common. The answers' file keeps
    both numbers, to compare.
    """
    import numpy as np
    each = np.asarray(log_p, float) / np.asarray(tokens, float)
    return 1 / (1 + np.exp(np.clip(each[:, 1] - each[:, 0], -700, 700)))


def as_answer(tokenizer, answer, style):
    """How the answer begins: after a space where the prompt is continued, with a capital letter where it is a turn of its own."""
    if not tokenizer.chat_template:
        return answer
    return answer.strip() if style == "repeat" else answer.strip().capitalize()


def conversation(tokenizer, turns):
    """[question] or [question, answer, question] -> the text that the model is to go on from"""
    if not tokenizer.chat_template:
        return "".join(turns)
    if len(turns) == 1:
        return as_chat(tokenizer, turns)[0]
    messages = [{"role": ("user", "assistant")[n % 2], "content": turn.strip()} for n, turn in enumerate(turns)]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def tail_ids(tokenizer, text, answer):
    """The tokens that the answer becomes when it follows the text."""
    stem = tokenizer(text[-1], add_special_tokens=False)["input_ids"]
    both = tokenizer(text[-1] + answer, add_special_tokens=False)["input_ids"]
    return both[len(stem):] if both[:len(stem)] == stem and len(both) > len(stem) else tokenizer(answer, add_special_tokens=False)["input_ids"]


def log_probs(model, tokenizer, prompts, answers, device, dtype="fp32"):
    """
    How likely is each of two answers? B lists of ids, B pairs of lists of ids -> (B, 2) sums of log p over the answer's tokens.

    The model reads the prompt and all of the answer but its last token. Where both answers are one token long, that is the prompt alone: one pass
    for the two.
    """
    import numpy as np, torch
    place, said = {}, np.zeros((len(prompts), 2))
    for ids, pair in zip(prompts, answers):
        for answer in pair:
            place.setdefault(tuple(ids + answer[:-1]), len(place))
    keep = max(len(answer) for pair in answers for answer in pair)
    batch = pad_left([list(ids) for ids in place], tokenizer, device)
    with torch.inference_mode(), torch.autocast(device.split(":")[0], torch.bfloat16, enabled=use_bf16(dtype, device)):
        if "position_ids" in inspect.signature(model.forward).parameters:
            batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
        logits = model(**batch, logits_to_keep=keep, use_cache=False).logits.float()       # (rows, keep, V)
        total = logits.logsumexp(-1)
    for b, (ids, pair) in enumerate(zip(prompts, answers)):
        for k, answer in enumerate(pair):
            row, n = place[tuple(ids + answer[:-1])], len(answer)
            said[b, k] = float((logits[row, -n:].gather(1, torch.tensor(answer, device=device)[:, None])[:, 0] - total[row, -n:]).sum())
    if not np.isfinite(said).all():
        fail("the model's scores are not numbers: are its weights whole? With --dtype bf16, try fp32")
    return said


def by_likelihood(model, tokenizer, asked, device, longest, args, done):
    """asked: N x {"text", "answers"}. Yields (indices, N x {"p": P(option 1)}) batch by batch, as prompting.write does."""
    pairs = [[tail_ids(tokenizer, a["text"], answer) for answer in a["answers"]] for a in asked]
    longest_answer = [max(map(len, pair)) for pair in pairs]
    for a, pair in zip(asked, pairs):
        if not all(pair) or pair[0] == pair[1]:
            fail(f"this model's tokenizer cannot tell {a['answers'][0]!r} from {a['answers'][1]!r}: try another model, or another --lang")
    ids = encode(tokenizer, [a["text"] for a in asked], max(1, longest - max(longest_answer)))
    order = sorted(range(len(asked)), key=lambda i: (longest_answer[i] > 1, len(ids[i]), i))       # one-token answers apart: one pass for both
    for k in range(0, len(order), args.batch_size):
        rows = order[k:k + args.batch_size]
        if not done.issuperset(rows):
            log_p = log_probs(model, tokenizer, [ids[i] for i in rows], [pairs[i] for i in rows], device, args.dtype)
            tokens = [[len(answer) for answer in pairs[i]] for i in rows]
            yield rows, [{"p": round(float(x), 6), "log_p": [round(y, 4) for y in two], "tokens": n}
                         for x, two, n in zip(choice(log_p, tokens), log_p.tolist(), tokens)]


def by_generation(model, tokenizer, asked, device, longest, args, done):
    """The same, from what the model writes: {"wrote": text, "p": 1, 0 or None}. One sample is the likeliest text, more are drawn."""
    room = 16 + max(len(tail_ids(tokenizer, ":", " " + a["item"][option])) for a in asked for option in ("Option 1", "Option 2"))
    for rows, texts in write(model, tokenizer, [a["text"] for a in asked], device, longest, room, ["\n"], temperature=float(args.samples > 1),
                             seed=args.seed, dtype=args.dtype, batch_size=args.batch_size, done=done):
        said = [read_answer(text, asked[i]["item"], asked[i]["style"], asked[i]["swapped"], args.lang) for i, text in zip(rows, texts)]
        yield rows, [{"wrote": text, "p": None if s is None else float(s == 1)} for text, s in zip(texts, said)]
