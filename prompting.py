"""
Chapter 3. Asking a language model in words: what is the next word, and how does the text go on?

Chapters 1 and 2 put a new head on a model and trained it. A language model can also be asked: show it a text that ends where a judgement
is due and look at the probabilities of " yes" and " no" as the next token; or let it write on. Debates, in-context learning and
questionnaires all need one or the other. Functions, no story:

    open_language_model   any decoder of transformers, by folder or hub name
    as_chat               a chat model is asked through its own template, a base model reads the text as it stands
    judge                 N prompts -> soft labels (N, 2) from the two label words' raw next-token logits, one forward pass, nothing generated
    surprise              how unlikely each token of a text is: trained on with train_weak.fit, it makes a model write like its texts
    write                 N prompts -> N continuations, in batches with a key-value cache, batch by batch, so that a caller can save as it goes

Two mistakes are easily made here. Probabilities must come from the model's raw logits: what `generate` returns as scores has been warped by
temperature and top-p. And a label word must be the token that really follows the prompt: " yes" is one token, "yes" another.
"""
import inspect

from contract import fail
from train_weak import label_word_ids, open_checkpoint, predict, use_bf16


def open_language_model(name, device, remote_code=False):
    """-> (model, tokenizer, the number of tokens it can read)"""
    model, tokenizer, longest = open_checkpoint(name, "AutoModelForCausalLM", device, remote_code)
    if model.config.is_encoder_decoder or getattr(model.config, "is_decoder", None) is False and "bert" in model.config.model_type:
        fail(f"model {name!r} cannot write: it is no decoder. Give a language model such as gpt2")
    model.eval()
    return model, tokenizer, longest


def as_chat(tokenizer, prompts):
    """
    N texts -> N texts as the model expects them: a tokenizer with a chat template gets each as the user's turn, and the answer is due next.

    "Is gold heavy?"   ->   "<|im_start|>user\nIs gold heavy?<|im_end|>\n<|im_start|>assistant\n"     (Qwen; a base model: as it stands)
    """
    if not tokenizer.chat_template:
        return list(prompts)
    return [tokenizer.apply_chat_template([{"role": "user", "content": p}], tokenize=False, add_generation_prompt=True) for p in prompts]


def encode(tokenizer, prompts, longest):
    """N texts -> N lists of ids; what does not fit loses its beginning, and that is said. A template brings its own special tokens."""
    ids = tokenizer(list(prompts), add_special_tokens=not tokenizer.chat_template, verbose=False)["input_ids"]
    cut = sum(len(i) > longest for i in ids)
    if cut:
        print(f"note: {cut:,} of {len(ids):,} prompts are longer than {longest} tokens and lose their beginning")
    return [i[-longest:] for i in ids]


def pad_left(ids, tokenizer, device):
    """Lists of ids -> {"input_ids", "attention_mask"}, (B, T) each, every prompt's last token in the last column."""
    import torch
    width, fill = max(map(len, ids)), tokenizer.pad_token_id or 0
    return {"input_ids": torch.tensor([[fill] * (width - len(i)) + i for i in ids], device=device),
            "attention_mask": torch.tensor([[0] * (width - len(i)) + [1] * len(i) for i in ids], device=device)}


def next_word_scores(word_ids):
    """-> an `outputs` function for train_weak.predict: raw next-token logits (B, 2) of the two label words."""
    import torch

    def outputs(model, batch):                              # predict pads at the right: turn every row so that its last token comes last
        mask = batch["attention_mask"]
        width = mask.shape[1]
        turn = (torch.arange(width, device=mask.device)[None] + mask.sum(1, keepdim=True)) % width
        left = {key: value.gather(1, turn) for key, value in batch.items()}
        extra = {"position_ids": (left["attention_mask"].cumsum(1) - 1).clamp(min=0)}
        known = inspect.signature(model.forward).parameters
        logits = model(**left, **{k: v for k, v in extra.items() if k in known}, logits_to_keep=1, use_cache=False).logits
        return logits[:, -1, word_ids].float()
    return outputs


def judge(model, tokenizer, prompts, words, device, longest, dtype="fp32"):
    """
    How likely is yes, how likely no, as the next word? Two label words' logits, softmax over the two: p_no + p_yes = 1, whatever else the
    model would have liked to say.

    prompts   N texts (through as_chat already); words: the label words for (no, yes)
    returns   (N, 2) float32
    """
    chat = tokenizer.chat_template                         # there the answer opens a turn: "Yes", after a line break
    word_ids = label_word_ids(tokenizer, [w.strip().capitalize() for w in words], "\n") if chat else label_word_ids(tokenizer, words)
    return predict(model, tokenizer, encode(tokenizer, prompts, longest), device, dtype, outputs=next_word_scores(word_ids))


def surprise(model, batch):
    """
    An `outputs` function for train_weak.fit and sweep: -log p of each token after the first, given those before it. (B, T) -> (B, T - 1) nats,
    and 0 where there is only padding, so that padding never changes a loss.
    """
    import torch
    logits, ids, mask = model(**batch, use_cache=False).logits.float(), batch["input_ids"], batch["attention_mask"]
    nats = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    return nats * mask[:, 1:]


def mean_surprise(nats, real):
    """A loss for train_weak.fit: the mean over a text's tokens. nats (B, T - 1) from surprise, real (B, 1) how many they are -> (B,)"""
    return nats.sum(1) / real[:, 0].clamp(min=1)


def cut_at(text, stops):
    """
    What stands before the first stop string, trimmed. Blank space at the beginning is no text yet: a line break there ends nothing.

    >>> cut_at("\\n Gold is a metal. Question: what", ["Question:", "\\n"])
    'Gold is a metal.'
    """
    text = text.lstrip()
    return text[:min([text.find(stop) for stop in stops if stop in text], default=len(text))].rstrip()


def write(model, tokenizer, prompts, device, longest, max_new_tokens, stops, temperature=0.0, top_p=1.0, seed=0, dtype="fp32",
          batch_size=64, done=()):
    """
    Let the model write on. Yields (indices, texts) batch by batch, so that a caller can append them to a file and a kill costs one batch.

    stops         strings at which a text ends (they are cut off), however they fall into tokens; a batch goes on until its last text has ended
    temperature   0: always the likeliest token; otherwise samples, with a generator of its own for each batch: what a batch says does not
                  depend on which batches came before it in this process
    done          indices that are written already: batches made of such alone are left out
    """
    import torch
    ids = encode(tokenizer, prompts, max(1, longest - max_new_tokens))
    order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), i))
    own = model.generation_config.eos_token_id             # a chat model has several: its turn may end where no document does
    ends = sorted({tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None})
    how = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0} if temperature else {"do_sample": False}
    done = set(done)
    for k in range(0, len(order), batch_size):
        rows = order[k:k + batch_size]
        if done.issuperset(rows):
            continue
        batch = pad_left([ids[i] for i in rows], tokenizer, device)
        width = batch["input_ids"].shape[1]

        def ended(so_far, scores, **_):
            texts = [text.lstrip() for text in tokenizer.batch_decode(so_far[:, width:], skip_special_tokens=True)]
            return torch.tensor([any(stop in text for stop in stops) for text in texts], device=so_far.device)
        torch.manual_seed(1_000_003 * seed + k)
        with torch.inference_mode(), torch.autocast(device.split(":")[0], torch.bfloat16, enabled=use_bf16(dtype, device)):
            out = model.generate(**batch, **how, max_new_tokens=max_new_tokens, eos_token_id=ends or None, repetition_penalty=1.0,
                                 pad_token_id=tokenizer.pad_token_id, stopping_criteria=[ended])
        yield rows, [cut_at(text, stops) for text in tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)]


def write_all(model, tokenizer, prompts, *args, **how):
    """write, collected: N prompts -> N texts"""
    texts = [""] * len(prompts)
    for which, batch in write(model, tokenizer, prompts, *args, **how) if prompts else ():
        for i, text in zip(which, batch):
            texts[i] = text
    return texts
