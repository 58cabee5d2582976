"""
Open a model, feed it batches, read its predictions: everything about models that more than one stage needs.

    open       pick_device, open_checkpoint, load_classifier, open_language_model
    batches    tokenize, pad, pad_left, position_ids
    predict    classify (two logits a row), forward_all (any outputs, any number of rows), predict (soft labels)
    prompt     apply_chat_template, encode_prompts, next_word_probs: p(yes) as the next word, nothing is generated
    text       token_nll, mean_nll: how unlikely a text is;  generate: continue N prompts

Three mistakes are easily made here. Reading a decoder at "the last id that is not padding" goes wrong when padding and
end-of-text share an id; the mask tells the last token. Probabilities must come from raw logits: what `generate` returns
as scores has been changed by temperature and top-p. A label word must be the token that really follows the prompt:
" yes" is one token, "yes" another.

Needs   contract.py
"""
import inspect

import numpy as np

from contract import fail, model_folder, path_name

# --------------------------------------------------------------------------- device and checkpoint


def add_model_flags(parser, model=None):
    """The flags of every stage that opens a model. Without a default `model` there is no --model."""
    if model is not None:
        parser.add_argument("--model", type=path_name, default=model,
                            help="a shipped model, a local folder (also a run's), or a hub name")
    parser.add_argument("--device", default="", help="cuda|mps|cpu (default: the best there is)")
    parser.add_argument("--dtype", default="auto", choices=["auto", "fp32", "bf16"],
                        help="bf16: autocast over fp32 weights; auto: bf16 on GPUs that have it")
    parser.add_argument("--trust-remote-code", action="store_true",
                        help="run code that a hub repository brings; off for safety")


def pick_device(asked):
    """--device, or the best device there is; prints it with the reason. -> "cuda", "mps", "cpu", "cuda:1", ..."""
    import torch
    if asked:
        try:
            torch.zeros(1, device=asked).item()            # raises on "meta", which holds no numbers
        except (RuntimeError, AssertionError, ImportError) as error:
            fail(f"--device {asked}: {str(error).splitlines()[0]}")
        device = asked
        reason = "asked for with --device"
    elif torch.cuda.is_available():
        device = "cuda"
        reason = "found"
    elif torch.backends.mps.is_available():
        device = "mps"
        reason = "found; no CUDA"
    else:
        device = "cpu"
        reason = "no CUDA and no MPS here"
    print(f"device: {device} ({reason})")
    return device


def use_bf16(dtype, device):
    """Is bf16 autocast on? auto: on GPUs that are fast at it. On CPU only if asked: the numbers move a little."""
    import torch
    if dtype == "auto":
        return device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
    return dtype == "bf16"


def autocast(dtype, device):
    """The forward pass's precision: bf16 over fp32 weights where use_bf16, else fp32."""
    import torch
    return torch.autocast(device.split(":")[0], torch.bfloat16, enabled=use_bf16(dtype, device), cache_enabled=False)


def open_config(name, remote_code=False, **config_changes):
    """
    A model's folder or hub name -> (tokenizer, config, the number of tokens it can read). Dropout is set to 0: two
    epochs carry little risk of overfitting, and runs compare better.
    """
    import transformers
    path = model_folder(name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=remote_code)
    config = transformers.AutoConfig.from_pretrained(path, **config_changes, trust_remote_code=remote_code)
    for key, value in config.to_dict().items():
        if "drop" in key and isinstance(value, float):
            setattr(config, key, 0.0)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    config.pad_token_id = tokenizer.pad_token_id
    positions = getattr(config, "max_position_embeddings", None) or 1 << 20
    max_length = min(positions, tokenizer.model_max_length, 1024)
    if max_length < 2 or not all(isinstance(name, str) for name in config.architectures or []):
        raise ValueError(f"a length of {max_length} tokens, architectures {config.architectures}?")
    return tokenizer, config, max_length


def open_checkpoint(name, kind, device, remote_code=False, **config_changes):
    """
    Model (fp32, no dropout), tokenizer, and the number of tokens it can read.

    kind          a class of transformers by name, for example "AutoModelForSequenceClassification"
    remote_code   run code from a hub repository (--trust-remote-code); weights are always safetensors
    A damaged folder ends in one line.
    """
    import torch
    import transformers
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        tokenizer, config, max_length = open_config(name, remote_code, **config_changes)
        model, info = getattr(transformers, kind).from_pretrained(
            model_folder(name), config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True,
            trust_remote_code=remote_code)
    except Exception as error:                             # whatever a damaged folder makes transformers raise
        reason = (str(error).strip().splitlines() or [""])[0]
        fail(f"cannot load model {name!r} ({type(error).__name__}): {reason} "
             "Give a folder, a hub name or a shipped model")
    prefix = model.base_model_prefix + "."
    missing = [key for key in info["missing_keys"] if key.startswith(prefix) and "pooler" not in key]
    if missing:
        fail(f"model {name!r} lacks {len(missing)} of its weights, first {missing[0]!r}: "
             "its config.json is another model's")
    check_vocabulary(name, model, tokenizer)
    return model.to(device), tokenizer, max_length


def check_vocabulary(name, model, tokenizer):
    """A tokenizer with more tokens than the model has embeddings would fail in the middle of training."""
    n_embeddings = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > n_embeddings:
        fail(f"model {name!r}: its tokenizer has {len(tokenizer):,} tokens, the model only {n_embeddings:,}")


def label_word_ids(tokenizer, words, before="A"):
    """
    The token that each label word becomes after `before`, the end of a prompt. Each must be a single token, and they
    must differ. [" no", " yes"] -> [id, id]
    """
    stem = tokenizer(before, add_special_tokens=False)["input_ids"]
    ids = [tokenizer(before + word, add_special_tokens=False)["input_ids"][len(stem):] for word in words]
    if any(len(i) != 1 for i in ids) or ids[0] == ids[1]:
        fail(f"label words {words} are not one token each for this tokenizer; use --head random, or other words in "
             "task.json")
    return [i[0] for i in ids]


def needs_head(model):
    """Was a decoder's classification head made anew, because the checkpoint holds a language model?"""
    fresh = not (model.config.architectures or [""])[0].endswith("ForSequenceClassification")
    return fresh and hasattr(model, "score")


def label_word_rows(name, ids, device, remote_code=False):
    """The rows of the language model's output matrix for two tokens. -> (2, C)"""
    language_model, _, _ = open_checkpoint(name, "AutoModelForCausalLM", device, remote_code)
    return language_model.get_output_embeddings().weight[ids].detach()


def load_classifier(name, head, words, device, remote_code=False):
    """
    A sequence classifier with two outputs (no, yes), its tokenizer, and the number of tokens it can read.

    The head of a decoder starts from the language model's own rows for the two label words (Burns et al. 2023, appendix
    A): before any training its two logits are those of " no" and " yes" as the next token (but for a bias, which few
    models have there). The head of an encoder, or with --head random, starts from small noise. A checkpoint that is a
    classifier already keeps its head.
    """
    kind = "AutoModelForSequenceClassification"
    model, tokenizer, max_length = open_checkpoint(name, kind, device, remote_code, num_labels=2)
    if needs_head(model) and head != "random":
        rows = label_word_rows(name, label_word_ids(tokenizer, words), device, remote_code)
        set_weight(model.score.weight, rows.to(device))
    return model, tokenizer, max_length


def open_language_model(name, device, remote_code=False):
    """Any decoder of transformers -> (model, tokenizer, the number of tokens it can read)"""
    model, tokenizer, max_length = open_checkpoint(name, "AutoModelForCausalLM", device, remote_code)
    encoder = getattr(model.config, "is_decoder", None) is False and "bert" in model.config.model_type
    if model.config.is_encoder_decoder or encoder:
        fail(f"model {name!r} cannot write: it is no decoder. Give a language model such as gpt2")
    model.eval()
    return model, tokenizer, max_length


# --------------------------------------------------------------------------- weights (replaced by distributed.py)


def set_weight(weight, value):
    """weight <- value"""
    weight.data.copy_(value)


def copy_weights(model):
    """A copy of all weights as they are now, in the computer's memory."""
    return [p.detach().to("cpu", copy=True) for p in model.parameters()]


def restore_weights(model, weights):
    """Put copy_weights' result back."""
    for p, value in zip(model.parameters(), weights):
        p.data.copy_(value)


# --------------------------------------------------------------------------- batches


def tokenize(tokenizer, rows, max_length):
    """
    Every row's "text" once -> list of id lists. A row that is too long loses its beginning, since question and answer
    stand at its end; a note says how many do. A first special token (CLS, BOS) stays in front.
    """
    ids = tokenizer([row["text"] for row in rows], truncation=False, verbose=False)["input_ids"]
    for row, row_ids in zip(rows, ids):
        if not row_ids:
            fail(f"the tokenizer makes no token of row {row['id']!r}: is its folder complete?")
    n_cut = sum(len(i) > max_length for i in ids)
    if n_cut:
        print(f"note: {n_cut:,} of {len(rows):,} rows are longer than {max_length} tokens and lose their beginning")
    first = {tokenizer.cls_token_id, tokenizer.bos_token_id} - {None}

    def cut(i):
        if len(i) <= max_length:
            return i
        return i[:1] + i[len(i) - max_length + 1:] if i[0] in first else i[-max_length:]
    return [cut(i) for i in ids]


def pad(ids, tokenizer, device):
    """Lists of ids -> {"input_ids", "attention_mask"}, (B, T) each, padded at the right."""
    import torch
    width = max(map(len, ids))
    filler = tokenizer.pad_token_id or 0
    return {"input_ids": torch.tensor([i + [filler] * (width - len(i)) for i in ids], device=device),
            "attention_mask": torch.tensor([[1] * len(i) + [0] * (width - len(i)) for i in ids], device=device)}


def pad_left(ids, tokenizer, device):
    """The same, padded at the left: every prompt's last token is in the last column, as generation needs it."""
    import torch
    width = max(map(len, ids))
    filler = tokenizer.pad_token_id or 0
    return {"input_ids": torch.tensor([[filler] * (width - len(i)) + i for i in ids], device=device),
            "attention_mask": torch.tensor([[0] * (width - len(i)) + [1] * len(i) for i in ids], device=device)}


def move_padding_left(batch):
    """A batch padded at the right -> the same rows padded at the left: each row is rotated by its padding."""
    import torch
    mask = batch["attention_mask"]
    width = mask.shape[1]
    source = (torch.arange(width, device=mask.device)[None] + mask.sum(1, keepdim=True)) % width
    return {key: value.gather(1, source) for key, value in batch.items()}


def position_ids(model, mask, n_before=0):
    """
    Positions that ignore padding at the left, for models that take them. mask (B, T) -> {"position_ids": (B, T)} or {}

    n_before   tokens that stand before these in a cache
    """
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return {}
    return {"position_ids": n_before + (mask.cumsum(1) - 1).clamp(min=0)}


# --------------------------------------------------------------------------- predictions


def classify(model, batch):
    """
    Scores for (no, yes): a batch with "input_ids" and "attention_mask", (B, T) each -> (B, 2) float32 logits.

    A decoder is read at its last real token, which the mask tells. An encoder pools in its own way, and uses the mask.
    """
    import torch
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    if not hasattr(model, "score"):
        return model(**inputs).logits.float()
    hidden = model.base_model(**inputs).last_hidden_state                      # (B, T, C)
    last = inputs["attention_mask"].sum(1) - 1                                 # (B,) padding is at the right
    return model.score(hidden[torch.arange(len(last), device=last.device), last]).float()


def batches_by_tokens(lengths, tokens):
    """Indices in batches of about `tokens` tokens, longest first: if memory does not suffice, it shows at once."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    batches = []
    end = len(order)
    while end:
        start = max(0, end - max(1, tokens // lengths[order[end - 1]]))
        batches.append(order[start:end])
        end = start
    return batches


def forward_all(model, tokenizer, ids, device, dtype="fp32", tokens=8192, output_fn=classify):
    """
    A model's outputs for N lists of ids, in their order, without gradient.

    tokens      a batch holds about so many; on a CPU fewer if the model is wide, since activations that leave the cache
                are slow (1.7 times for GPT-2's shape)
    output_fn   (model, batch) -> (B, D...); the two logits by default
    returns     (N, D...) float32
    """
    import torch
    from tqdm import tqdm
    if device == "cpu":
        tokens = min(tokens, 2 ** 20 // getattr(model.config, "hidden_size", 1))
    out = None
    model.eval()
    with torch.no_grad(), tqdm(total=len(ids), desc="predicting", unit="row", disable=None, leave=False) as bar:
        for indices in batches_by_tokens([len(i) for i in ids], tokens):
            with autocast(dtype, device):
                outputs = output_fn(model, pad([ids[i] for i in indices], tokenizer, device)).float().cpu().numpy()
            if out is None:
                out = np.zeros((len(ids), *outputs.shape[1:]), dtype=np.float32)
            out[indices] = outputs
            bar.update(len(indices))
    return check_finite(out)


def check_finite(outputs):
    """The outputs as they are, if they are numbers; else one line."""
    if not np.isfinite(outputs).all():
        fail("the model's outputs are not finite: training diverged. Use a smaller --lr")
    return outputs


def predict(model, tokenizer, ids, device, dtype="fp32", tokens=8192, output_fn=classify):
    """
    Soft labels (N, 2) float32 for N lists of ids. The softmax is taken in float32, whatever the forward pass used: bf16
    would write many different probabilities as 0.5.
    """
    import torch
    logits = forward_all(model, tokenizer, ids, device, dtype, tokens, output_fn)
    return torch.from_numpy(logits).softmax(-1).numpy()


# --------------------------------------------------------------------------- prompts: the next word


def apply_chat_template(tokenizer, prompts):
    """
    N texts -> N texts as the model expects them: with a chat template each is the user's turn, and the answer is due
    next.

    "Is gold heavy?"  ->  "<|im_start|>user\nIs gold heavy?<|im_end|>\n<|im_start|>assistant\n"    (Qwen; a base model:
    unchanged)
    """
    if not tokenizer.chat_template:
        return list(prompts)
    turns = [[{"role": "user", "content": prompt}] for prompt in prompts]
    return [tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) for turn in turns]


def encode_prompts(tokenizer, prompts, max_length):
    """
    N texts -> N lists of ids. A prompt that is too long loses its beginning, and a note says so. A chat template brings
    its own special tokens.
    """
    ids = tokenizer(list(prompts), add_special_tokens=not tokenizer.chat_template, verbose=False)["input_ids"]
    n_cut = sum(len(i) > max_length for i in ids)
    if n_cut:
        print(f"note: {n_cut:,} of {len(ids):,} prompts are longer than {max_length} tokens and lose their beginning")
    return [i[-max_length:] for i in ids]


def answer_word_ids(tokenizer, words):
    """
    The label words as tokens where a verdict is due: a base model's follows the text (" yes"), a chat model's begins a
    line ("Yes", capitalised by the caller).
    """
    if tokenizer.chat_template:
        return label_word_ids(tokenizer, [word.strip() for word in words], "\n")
    return label_word_ids(tokenizer, words)


def next_word_logits(word_ids):
    """-> an output_fn for forward_all: the raw next-token logits (B, 2) of two tokens."""
    def outputs(model, batch):
        left = move_padding_left(batch)                    # forward_all pads at the right
        logits = model(**left, **position_ids(model, left["attention_mask"]), logits_to_keep=1, use_cache=False).logits
        return logits[:, -1, word_ids].float()
    return outputs


def next_word_probs(model, tokenizer, prompts, words, device, max_length, dtype="fp32"):
    """
    p(no) and p(yes) as the next word: softmax over the two label words' logits, so p_no + p_yes = 1 whatever other
    words are likely. One forward pass, nothing is generated.

    prompts   N texts (already through apply_chat_template); words: the label words for (no, yes)
    returns   (N, 2) float32
    """
    if tokenizer.chat_template:
        words = [word.strip().capitalize() for word in words]
    word_ids = answer_word_ids(tokenizer, words)
    ids = encode_prompts(tokenizer, prompts, max_length)
    return predict(model, tokenizer, ids, device, dtype, output_fn=next_word_logits(word_ids))


# --------------------------------------------------------------------------- text: how likely, and how it continues


def token_nll(model, batch):
    """
    -log p of each token after the first, given those before it: (B, T) ids and mask -> (B, T - 1) nats, 0 at padding,
    so that padding never changes a loss.
    """
    import torch
    ids = batch["input_ids"]
    mask = batch["attention_mask"]
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
    nll = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    return nll * mask[:, 1:]


def mean_nll(model, batch):
    """The mean of token_nll over each text's tokens, (B,) nats. A loss_fn for train_weak.fit, and an output_fn."""
    n_tokens = (batch["attention_mask"].sum(1) - 1).float()
    return token_nll(model, batch).sum(1) / n_tokens.clamp(min=1)


def cut_at_stop(text, stops):
    """
    The text before the first stop string, trimmed. White space at the beginning is no text yet: a line break there ends
    nothing.

    >>> cut_at_stop("\\n Gold is a metal. Question: what", ["Question:", "\\n"])
    'Gold is a metal.'
    """
    text = text.lstrip()
    return text[:min([text.find(stop) for stop in stops if stop in text], default=len(text))].rstrip()


def generate_batches(model, tokenizer, prompts, device, max_length, max_new_tokens, stops, temperature=0.0, top_p=1.0,
                     seed=0, dtype="fp32", batch_size=64, done=()):
    """
    Continue N prompts. Yields (indices, texts) batch by batch, so that a caller can save them and a kill costs one
    batch.

    stops         strings that end a text (they are cut off), however they fall into tokens; a batch continues until its
                  last text has ended
    temperature   0: always the likeliest token; otherwise samples. Each batch has a seed of its own, so its texts do
                  not depend on which batches came before it in this process
    done          indices that are written already: batches of nothing else are skipped
    """
    import torch
    ids = encode_prompts(tokenizer, prompts, max(1, max_length - max_new_tokens))
    order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), i))
    ends = model.generation_config.eos_token_id            # a chat model has several: its turn ends before the text
    ends = sorted({tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None})
    sampling = {"do_sample": False}
    if temperature:
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    done = set(done)
    for k in range(0, len(order), batch_size):
        indices = order[k:k + batch_size]
        if done.issuperset(indices):
            continue
        batch = pad_left([ids[i] for i in indices], tokenizer, device)
        width = batch["input_ids"].shape[1]

        def ended(tokens, scores, width=width, **_):
            texts = [text.lstrip() for text in tokenizer.batch_decode(tokens[:, width:], skip_special_tokens=True)]
            return torch.tensor([any(stop in text for stop in stops) for text in texts], device=tokens.device)
        torch.manual_seed(1_000_003 * seed + k)
        with torch.inference_mode(), autocast(dtype, device):
            out = model.generate(**batch, **sampling, max_new_tokens=max_new_tokens, eos_token_id=ends or None,
                                 repetition_penalty=1.0, pad_token_id=tokenizer.pad_token_id, stopping_criteria=[ended])
        texts = tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
        yield indices, [cut_at_stop(text, stops) for text in texts]


def generate(model, tokenizer, prompts, *args, **kwargs):
    """generate_batches, collected: N prompts -> N texts"""
    texts = [""] * len(prompts)
    for indices, batch in generate_batches(model, tokenizer, prompts, *args, **kwargs) if prompts else ():
        for i, text in zip(indices, batch):
            texts[i] = text
    return texts


def map_in_order(do, pieces):
    """Yields do(piece) for each piece, in order. distributed.py replaces this function: each process then does some."""
    return map(do, pieces)
