"""
Open a model, feed it batches, read its predictions: everything about models that more than one stage needs.

    open       pick_device, open_checkpoint, load_classifier, open_language_model
    batches    tokenize, truncate, pad
    predict    classify (two logits a row), forward_all (any outputs, any number of rows), predict (soft labels)
    compare    a reward model gives each text one score; the scores of a pair are its two logits
    prompt     apply_chat_template, encode_prompts, next_word_probs: p(yes) as the next word, nothing is generated
    text       token_nll, mean_nll: how unlikely a text is;  generate: continue N prompts

Three mistakes are easily made here. Reading a decoder at "the last id that is not padding" goes wrong when padding and
end-of-text share an id; the mask tells the last token. Probabilities must come from raw logits: what `generate` returns
as scores has been changed by temperature and top-p. A label word must be the token that really follows the prompt:
" yes" is one token, "yes" another.

Needs   contract.py
"""
import contextlib
import copy
import ctypes
import itertools
import json
import os
import platform
import re
import threading

import numpy as np

from contract import fail, hub_commit, import_hub, model_folder, number, path_name, read_json, text_keys

TEMPLATE_SECONDS = 20                # a chat template needs a millisecond
GENERATED_TOKENS = 2 ** 16           # of prompts and texts in a batch: 8.5 GB with Gemma 3 270M, 13 without a limit
WIDE = 256                           # what saves little in narrower models keeps their last digits as they were
PAIR = -1                            # in a list of ids: here the first text of a pair ends, and the second begins

# --------------------------------------------------------------------------- device and checkpoint


def add_model_flags(parser, model=None):
    """The flags of every stage that opens a model. Without a default `model` there is no --model."""
    if model is not None:
        parser.add_argument("--model", type=path_name, default=model,
                            help="a shipped model, a local folder (also a run's), a hub name, or name@revision")
    parser.add_argument("--device", default="", help="cuda|mps|cpu (default: the best there is)")
    parser.add_argument("--dtype", default="auto", choices=["auto", "fp32", "bf16"],
                        help="bf16: autocast over fp32 weights; auto: bf16 on GPUs and CPUs that are fast at it")
    parser.add_argument("--trust-remote-code", action="store_true",
                        help="run code that a hub repository brings; off for safety")
    parser.add_argument("--max-length", type=number(int, 8, 1 << 24), default=1024,
                        help="tokens of a row or prompt that are read, if the model can read so many")
    parser.add_argument("--truncate", default="start", choices=["start", "end"],
                        help="what a row that is too long loses; a question and its answer often stand at the end")


def add_prompt_flags(parser):
    """The flag of stages that prompt a model in words."""
    parser.add_argument("--no-chat-template", action="store_true",
                        help="prompt a model that has a chat template as a base model (Qwen's base models ship one)")


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
    if device.split(":")[0] == "cpu":
        keep_freed_memory()
    return device


def keep_freed_memory():
    """
    glibc hands large blocks that are freed back to the kernel, and each training step then waits for pages to be filled
    with zeros. From now on this process keeps them: the same numbers, 1.1 to 1.5 times as fast (docs/scaling.md). Other
    C libraries (macOS, Windows, musl) have no such switch and are left alone.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        trim, mmap = -1, -3                                # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
        if mallopt(mmap, 2 ** 30) or mallopt(mmap, 2 ** 25):                   # older ones refuse more than 2^25
            mallopt(trim, 2 ** 31 - 1)                     # alone it would make things slower


def use_bf16(dtype, device, config):
    """
    Is bf16 autocast on for the model of this config? auto: on GPUs that are fast at it, and on CPUs that are (AVX-512
    BF16 or AMX). docs/scaling.md has what it gives and how far numbers move.
    """
    import torch
    if config.model_type == "deberta":                     # it masks with the smallest fp32, which bf16 cannot hold
        if dtype == "bf16":
            fail("--dtype bf16: transformers' DeBERTa (version 1) cannot be computed in bf16; use --dtype fp32")
        return False
    if dtype != "auto":
        return dtype == "bf16"
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.split(":")[0] != "cpu":
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def autocast(dtype, device, model):
    """The forward pass's precision: bf16 over fp32 weights where use_bf16, else fp32."""
    import torch
    enabled = use_bf16(dtype, device, model.config)
    return torch.autocast(device.split(":")[0], torch.bfloat16, enabled=enabled, cache_enabled=False)


def trusts_code(flags):
    """--trust-remote-code: may code of a hub repository run? Weights are always safetensors, which hold no code."""
    return getattr(flags, "trust_remote_code", False)


def find_source(name):
    """
    A model's name -> (what from_pretrained takes, its keyword arguments). A hub name (perhaps with @revision) is read
    at the commit that the run records.
    """
    import_hub()
    path = model_folder(name)
    if os.path.isdir(path):
        return path, {}
    commit = hub_commit(path)
    if commit is None:
        raise OSError("neither the hub nor its cache on this machine has it.")
    return path.partition("@")[0], {"revision": commit}


def check_ranges(config):
    """
    A config.json is only text: with 10^9 layers or labels it would keep this process busy for ever. Numbers that no
    model has, and token ids that are no numbers, raise ValueError. config: the parsed file, or a part of it

    >>> check_ranges({"n_layer": 2, "eos_token_id": [0, 5], "text_config": {"num_hidden_layers": 10 ** 9}})
    Traceback (most recent call last):
    ValueError: its configuration says num_hidden_layers 1000000000
    """
    counts = ("n_", "num_", "hidden_size", "vocab_size", "intermediate_size", "max_position")
    for key, value in config.items():
        good = True
        if isinstance(value, dict):
            check_ranges(value)
        elif key.endswith("token_id"):
            ids = value if isinstance(value, list) else [0 if value is None else value]
            good = all(type(i) is int and -1 <= i < 2 ** 24 for i in ids)
        elif type(value) is int and key.startswith(counts):
            good = 0 <= value <= (1000 if "layer" in key else 2 ** 24)
        if not good:
            raise ValueError(f"its configuration says {key} {value!r}")


def open_config(name, flags=None, **config_changes):
    """
    A model's folder or hub name -> (tokenizer, config, the number of tokens to read at most). Dropout is set to 0: two
    epochs carry little risk of overfitting, and runs compare better.
    """
    path, source = find_source(name)                       # before transformers imports huggingface_hub
    import transformers
    check_ranges(transformers.PreTrainedConfig.get_config_dict(path, **source)[0])
    source["trust_remote_code"] = trusts_code(flags)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, **source)
    config = transformers.AutoConfig.from_pretrained(path, **config_changes, **source)
    for key, value in config.to_dict().items():
        if "drop" in key and isinstance(value, float):
            setattr(config, key, 0.0)
    if len(tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens)) < 2:      # transformers makes an empty one
        raise ValueError("its folder holds no tokenizer. Save that there too:  tokenizer.save_pretrained(FOLDER)")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    config.pad_token_id = tokenizer.pad_token_id
    tokenizer.truncation_side = "right" if getattr(flags, "truncate", "start") == "end" else "left"
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or 0
    max_length = min(positions if positions > 0 else 1 << 24, tokenizer.model_max_length,
                     getattr(flags, "max_length", 1024))
    if max_length < 2 or not all(isinstance(name, str) for name in config.architectures or []):
        raise ValueError(f"a length of {max_length} tokens, architectures {config.architectures}?")
    return tokenizer, config, max_length


def add_classifier_class(config):
    """
    Half of transformers' language models have no class for sequence classification. Theirs is made here as transformers
    makes that of Llama: the body, and a linear head on the last token's hidden state (Burns et al. do the same).
    """
    import transformers
    from transformers.modeling_layers import GenericForSequenceClassification
    kind = type(config)
    pools_padding = config.model_type in ("ctrl", "xlnet")                     # their classes read the last column
    if kind in transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING and not pools_padding:
        return
    if kind not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING or kind not in transformers.MODEL_MAPPING:
        return                                             # transformers says what is wrong with it
    body = transformers.MODEL_MAPPING[kind]
    body = body[0] if isinstance(body, (list, tuple)) else body
    family = next(parent for parent in body.__mro__ if parent.__name__.endswith("PreTrainedModel"))
    name = body.__name__.removesuffix("Model") + "ForSequenceClassification"
    attributes = {"config_class": kind, "base_model_prefix": family.base_model_prefix or "model",
                  "__module__": body.__module__}           # weights of foreign modules are initialized in another way
    made = type(name, (GenericForSequenceClassification, family), attributes)
    transformers.AutoModelForSequenceClassification.register(kind, made, exist_ok=True)


def open_checkpoint(name, kind, device, flags=None, frozen=False, **config_changes):
    """
    Model (fp32, no dropout), tokenizer, and the number of tokens to read at most.

    kind          a class of transformers by name, for example "AutoModelForSequenceClassification"
    flags         the run's flags, of which those of add_model_flags count here; None: their defaults
    frozen        the model will not be trained, and always runs with flags.dtype: if that is bf16, so are its matrices
                  (see freeze)
    A damaged folder ends in one line.
    """
    import_hub()
    import torch
    import transformers
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        tokenizer, config, max_length = open_config(name, flags, **config_changes)
        in_bf16 = frozen and use_bf16(getattr(flags, "dtype", "fp32"), device, config)
        add_classifier_class(config)
        path, source = find_source(name)
        model, info = getattr(transformers, kind).from_pretrained(
            path, config=config, dtype="auto" if in_bf16 else torch.float32, use_safetensors=True,
            output_loading_info=True, trust_remote_code=trusts_code(flags), **source)
        if getattr(model, "generation_config", None) is not None:
            check_ranges(model.generation_config.to_dict())
    except Exception as error:                             # whatever a damaged folder makes transformers raise
        fail(f"cannot load model {name!r} ({type(error).__name__}): "
             + explain_failure(name, error, config_changes.get("num_labels")))
    prefix = model.base_model_prefix + "."
    missing = [key for key in info["missing_keys"] if key.startswith(prefix) and "pooler" not in key]
    if missing:
        fail(f"model {name!r} lacks {len(missing)} of its weights, first {missing[0]!r}: "
             "its config.json is another model's")
    if kind == "AutoModelForCausalLM" and info["missing_keys"]:
        fail(f"model {name!r} is no language model: it has no {min(info['missing_keys'])!r}. Give the one that it was "
             "made from")
    check_vocabulary(name, model, tokenizer)
    if in_bf16:
        freeze(model)
    return fuse_activations(model).to(device), tokenizer, min(max_length, count_positions(model))


def explain_failure(name, error, n_outputs=None):
    """Why a model cannot be opened, and what to give instead: a line. n_outputs: those of the classifier to be made"""
    reason = (str(error).strip().splitlines() or [""])[0]
    path = model_folder(name)
    names = os.listdir(path) if os.path.isdir(path) else []
    if "config.json" in names and "mismatched" in reason:
        config = read_json(os.path.join(path, "config.json"))
        is_classifier = str((config.get("architectures") or [""])[0]).endswith("ForSequenceClassification")
        labels = config.get("id2label") or {0: "no", 1: "yes"}                 # not saved where there are two
        if len(labels) != (n_outputs or 2) and (is_classifier or "id2label" in config):
            needed = "pairs need a model with one output" if n_outputs == 1 else "two are needed"
            return (f"it is a classifier of {len(labels)} labels ({', '.join(map(str, labels.values()))}), and "
                    f"{needed}. Give the model that it was made from")
    copy = f"M.from_pretrained({path!r}){{}}.save_pretrained('NEW')\"  with the tokenizer's files, and give NEW"
    if "adapter_config.json" in names and "config.json" not in names:
        return ("it is a PEFT adapter, not a model. Merge it into its base model once:  python -c \"from peft import "
                "AutoPeftModelForCausalLM as M; " + copy.format(".merge_and_unload()"))
    if any(n.startswith("pytorch_model") for n in names) and not any(n.endswith(".safetensors") for n in names):
        return ("its weights are a pickle (pytorch_model.bin), which can run code when it is opened. If you trust it, "
                "convert it:  python -c \"from transformers import AutoModelForCausalLM as M; " + copy.format(""))
    if "results.json" in names:
        return "it is the folder of a run that left no checkpoint. Give that of a stage that trains, or a model's"
    if "gated" in str(error).lower():
        return (f"{reason} Accept its terms on its page, log in with  hf auth login  and allow the token to be sent:  "
                "HF_HUB_DISABLE_IMPLICIT_TOKEN=0 python ...")
    reason = re.sub(r"<class '[\w.]*?(\w+)'>", r"\1", reason)                  # a class without its modules
    return f"{reason} Give a folder, a hub name or a shipped model"


def count_positions(model):
    """How many tokens can it read? RoBERTa's first positions stand for padding: its 514 hold 512 tokens."""
    import torch
    counts = [1 << 24]
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None and "position" in name:
            counts.append(module.num_embeddings - module.padding_idx - 1)
    return min(counts)


def freeze(model):
    """
    Weights that will not be trained, in place: the matrices of linear layers in bf16, everything else (embeddings,
    norms, biases, states, experts in one tensor, a classifier's head) in fp32. Autocast rounds these matrices to bf16
    in every forward pass anyway. So no output changes, not even in its last bit, with half the memory.
    """
    import torch
    from transformers.pytorch_utils import Conv1D  # GPT-2's
    body = model if model.get_output_embeddings() is not None else model.base_model
    body.requires_grad_(False)
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    rounded = {id(m.weight) for m in model.modules() if isinstance(m, (torch.nn.Linear, Conv1D))} - embeddings
    for p in model.parameters():
        p.data = p.data.to(torch.bfloat16 if id(p) in rounded and not p.requires_grad else torch.float32)


def fuse_activations(model):
    """
    GPT-2's activation in one operation of torch in place of transformers' eight: the same function, less time and
    memory (docs/scaling.md). In a narrow model it gains little, and tinyworld's numbers keep their last digits.
    """
    import torch
    from transformers.activations import NewGELUActivation
    if getattr(model.config.get_text_config(), "hidden_size", 0) >= WIDE:
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, NewGELUActivation):
                    setattr(module, name, torch.nn.GELU(approximate="tanh"))
    return model


def check_vocabulary(name, model, tokenizer):
    """
    A token without an embedding would fail in the middle of training. Some tokenizers have one or two more than their
    model (Gemma 3: an image's); `encode` refuses texts with these. More of them: it is another model's tokenizer.
    """
    tokenizer.n_embeddings = model.get_input_embeddings().weight.shape[0]
    extra = {i for i in tokenizer.get_vocab().values() if i >= tokenizer.n_embeddings}
    if extra - tokenizer.added_tokens_decoder.keys():
        fail(f"model {name!r}: its tokenizer has {len(tokenizer):,} tokens, the model only "
             f"{tokenizer.n_embeddings:,}: it is another model's")
    if (tokenizer.pad_token_id or 0) >= tokenizer.n_embeddings:
        fail(f"model {name!r} has no embedding for the padding token {tokenizer.pad_token!r} of its tokenizer. Give it "
             "a token that the model has:  tokenizer.pad_token = tokenizer.eos_token  and save it again")


HEAD_ADVICE = "Give --head random, which needs no words"
PROMPT_ADVICE = "Give two others with --label-words"


def label_word_ids(tokenizer, words, before="A", advice=HEAD_ADVICE):
    """
    The token that each label word becomes after `before`, the end of a prompt. Each must be a single token, and they
    must differ; else one line names the word and says what to do (advice). [" no", " yes"] -> [id, id]
    """
    stem = tokenizer(before, add_special_tokens=False)["input_ids"]
    ids = []
    for word in words:
        whole = tokenizer(before + word, add_special_tokens=False)["input_ids"]
        if whole[:len(stem)] != stem or len(whole) != len(stem) + 1:
            n = max(0, len(whole) - len(stem))
            fail(f"the label word {word!r} is {n} tokens for this tokenizer, and must be one. {advice}")
        ids.append(whole[-1])
    if ids[0] == ids[1]:
        fail(f"the label words {words} are one and the same token for this tokenizer. {advice}")
    return ids


def needs_head(model):
    """Was a decoder's classification head made anew, because the checkpoint holds a language model?"""
    fresh = not (model.config.architectures or [""])[0].endswith("ForSequenceClassification")
    return fresh and hasattr(model, "score")


def read_matrix_rows(name, key, rows):
    """Some rows of one matrix in a model's safetensors; nothing else is read. -> (R, C) fp32; None: no such matrix"""
    import safetensors
    import torch
    from transformers.utils import cached_file

    folder, source = find_source(name)                     # a local folder or the hub's cache
    optional = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    path = cached_file(folder, "model.safetensors", **source, **optional)
    if path is None:                                       # a large model is split into several files
        index = cached_file(folder, "model.safetensors.index.json", **source)
        with open(index, encoding="utf-8") as f:
            file_of = json.load(f)["weight_map"]
        if key not in file_of:
            return None
        path = cached_file(folder, file_of[key], **source)
    with safetensors.safe_open(path, "pt") as f:
        if key not in f.keys():                            # noqa: SIM118 (it is no dict)
            return None
        matrix = f.get_slice(key)
        return torch.cat([matrix[row:row + 1] for row in rows]).float()


def label_word_rows(classifier, name, ids, flags=None):
    """
    The rows of the language model's output matrix for two tokens. -> (2, C) fp32

    classifier   opened from the same checkpoint. Where its language model's input and output share one matrix ("tied"),
                 the classifier holds it. Otherwise the rows are read from the file: a whole second model would need
                 twice the memory.
    """
    import torch
    import transformers
    with torch.device("meta"):                             # names without weights
        language_model = transformers.AutoModelForCausalLM.from_config(classifier.config,
                                                                       trust_remote_code=trusts_code(flags))
    head = language_model.get_output_embeddings()
    key = next(key for key, module in language_model.named_modules() if module is head) + ".weight"
    rows = read_matrix_rows(name, key, ids)
    if rows is None and head.weight is language_model.get_input_embeddings().weight:
        rows = classifier.get_input_embeddings().weight[ids]
    if rows is None:                                       # an architecture that renames the matrix when it is opened
        language_model, _, _ = open_checkpoint(name, "AutoModelForCausalLM", "cpu", flags)
        rows = language_model.get_output_embeddings().weight[ids]
    return rows.detach().float() * logit_scale(classifier.config)


def logit_scale(config):
    """What a language model multiplies its logits by, after the output matrix. Few do."""
    if config.model_type.startswith("cohere"):
        return config.logit_scale
    if config.model_type.startswith("granite"):
        return 1 / config.logits_scaling
    return config.lm_head_multiplier if config.model_type == "falcon_h1" else 1.0


def is_reward_model(model):
    """Does it give each text one score? Its rows are pairs of texts."""
    return model.config.num_labels == 1


def load_classifier(name, head, words, device, flags=None, pairs=False):
    """
    A sequence classifier with two outputs (no, yes), its tokenizer, and the number of tokens it can read. For pairs it
    has one output, the score of a text.

    The head of a decoder starts from the language model's own rows for the two label words (Burns et al. 2023, appendix
    A): before any training its two logits are those of " no" and " yes" as the next token (but for a bias, which few
    models have there). The one output of a reward model is yes minus no: a text is better if it is more likely to be
    followed by yes. The head of an encoder, or with --head random, starts from small noise. A checkpoint that is a
    classifier already keeps its head.
    """
    kind = "AutoModelForSequenceClassification"
    frozen = bool(getattr(flags, "lora", None))            # adapters are trained, not the weights
    n_outputs = 1 if pairs else 2
    model, tokenizer, max_length = open_checkpoint(name, kind, device, flags, frozen, num_labels=n_outputs)
    if needs_head(model) and head != "random":
        rows = label_word_rows(model, name, label_word_ids(tokenizer, words), flags).to(device)
        set_weight(model.score.weight, rows[1:] - rows[:1] if pairs else rows)
    return model, tokenizer, max_length


def is_causal(model, device, dtype):
    """Do a token's logits depend on nothing after it? Those of BERT and XLNet do, whatever their class is called."""
    import torch
    with torch.inference_mode(), autocast(dtype, device, model):
        one, other = model(input_ids=torch.tensor([[1, 2, 3], [1, 2, 4]], device=device)).logits[:, 0].float()
    tolerance = 1e-2 if use_bf16(dtype, device, model.config) else 1e-5
    return torch.allclose(one, other, rtol=0, atol=tolerance * float(one.abs().max()))


def open_language_model(name, device, flags=None, frozen=False):
    """
    Any decoder of transformers, to be trained or not -> (model, tokenizer, the number of tokens to read at most). With
    --no-chat-template the tokenizer has none.
    """
    model, tokenizer, max_length = open_checkpoint(name, "AutoModelForCausalLM", device, flags, frozen)
    model.eval()
    if model.config.is_encoder_decoder or not is_causal(model, device, getattr(flags, "dtype", "fp32")):
        fail(f"model {name!r} cannot write: it is no decoder. Give a language model such as gpt2")
    if getattr(flags, "no_chat_template", False):
        tokenizer.chat_template = None
    return model, tokenizer, max_length


# --------------------------------------------------------------------------- weights (replaced by distributed.py)


def set_weight(weight, value):
    """weight <- value"""
    weight.data.copy_(value)


def copy_weights(model):
    """A copy of all weights that are trained as they are now, in the computer's memory."""
    return [p.detach().to("cpu", copy=True) for p in model.parameters() if p.requires_grad]


def restore_weights(model, weights):
    """Put copy_weights' result back."""
    for p, value in zip((p for p in model.parameters() if p.requires_grad), weights):
        p.data.copy_(value)


# --------------------------------------------------------------------------- batches


def encode(tokenizer, texts, special_tokens=True):
    """N texts -> N lists of ids, however long. A token that the model has no embedding for is an error."""
    ids = tokenizer(list(texts), add_special_tokens=special_tokens, verbose=False)["input_ids"]
    n_embeddings = getattr(tokenizer, "n_embeddings", 1 << 62)
    for text, text_ids in zip(texts, ids):
        if max(text_ids, default=0) >= n_embeddings:
            token = tokenizer.convert_ids_to_tokens(max(text_ids))
            fail(f"the model has no embedding for the token {token!r} of the text {text[:60]!r}. Change the text")
    return ids


def cut(ids, tokenizer, max_length, first=0, last=0, side=None):
    """
    A list of ids -> the same with at most max_length. Special tokens in front (BOS, CLS) and at the end (SEP, EOS)
    stay. Of the others the beginning goes, or with --truncate end the end.

    first, last   so many tokens in front and at the end stay too: a chat template's
    side          "left": the beginning goes, whatever --truncate says
    """
    if len(ids) <= max_length:
        return ids
    first = max(first, int(ids[0] in {tokenizer.cls_token_id, tokenizer.bos_token_id}))
    last = max(last, int(ids[-1] in {tokenizer.sep_token_id, tokenizer.eos_token_id}))
    n_kept = max(0, max_length - first - last)
    middle = ids[first:len(ids) - last]
    middle = middle[len(middle) - n_kept:] if (side or tokenizer.truncation_side) == "left" else middle[:n_kept]
    return (ids[:first] + middle + ids[len(ids) - last:])[-max_length:]


def truncate(ids, tokenizer, max_length, what, first=0, last=0, side=None):
    """`cut` for N lists, and a note that says how many of them ("rows", "prompts") were longer."""
    lengths = [len(i) for i in ids if len(i) > max_length]
    if lengths:
        part = "beginning" if (side or tokenizer.truncation_side) == "left" else "end"
        print(f"note: {len(lengths):,} of {len(ids):,} {what} are longer than {max_length:,} tokens, the longest "
              f"{max(lengths):,}, and lose their {part} (--max-length, --truncate)")
    return [cut(i, tokenizer, max_length, first, last, side) for i in ids]


def tokenize(tokenizer, rows, max_length):
    """
    Every row's "text" once -> list of id lists, see truncate. Of a pair each text is read by itself; the row is one
    list: the ids of text_a, PAIR, the ids of text_b.
    """
    keys = text_keys(rows)
    ids = encode(tokenizer, [row[key] for row in rows for key in keys])
    for k, text_ids in enumerate(ids):
        if not text_ids:
            fail(f"the tokenizer makes no token of row {rows[k // len(keys)]['id']!r}: is its folder complete?")
    ids = truncate(ids, tokenizer, max_length, "rows" if len(keys) == 1 else "texts")
    return ids if len(keys) == 1 else [a + [PAIR] + b for a, b in zip(ids[::2], ids[1::2])]


def split_pairs(ids):
    """
    Lists of ids -> a list for each text.

    >>> split_pairs([[5, 6, PAIR, 7], [8, PAIR, 9]]), split_pairs([[5, 6]])
    ([[5, 6], [7], [8], [9]], [[5, 6]])
    """
    texts = []
    for row_ids in ids:
        end = row_ids.index(PAIR) if PAIR in row_ids else len(row_ids)
        texts += [row_ids[:end], row_ids[end + 1:]] if end < len(row_ids) else [row_ids]
    return texts


def show_ids(tokenizer, ids):
    """A row's ids -> its text as the model reads it, in quotes; of a pair both"""
    return " or ".join(repr(tokenizer.decode(text_ids)) for text_ids in split_pairs([ids]))


def pad(ids, tokenizer, device, side="right"):
    """
    Lists of ids -> {"input_ids", "attention_mask"}, (B, T) each. B pairs are 2 B texts, each a before its b: (2 B, T).

    side   where the padding stands. "left", for generation: every prompt's last token is in the last column
    """
    import torch
    ids = split_pairs(ids)
    width = max(map(len, ids))

    def filled(rows, filler):
        gaps = [[filler] * (width - len(row)) for row in rows]
        halves = zip(rows, gaps) if side == "right" else zip(gaps, rows)
        return torch.tensor([left + right for left, right in halves], device=device)
    return {"input_ids": filled(ids, tokenizer.pad_token_id or 0),
            "attention_mask": filled([[1] * len(i) for i in ids], 0)}


# --------------------------------------------------------------------------- predictions


def classify(model, batch):
    """
    Scores for (no, yes): a batch with "input_ids" and "attention_mask", (B, T) each -> (B, 2) float32 logits.

    Of a pair the logits are the scores of its two texts, (s_a, s_b). Their softmax is the model of Bradley and Terry,
    p(b is better) = sigmoid(s_b - s_a), so whatever is done with two logits is done with pairs too.
    """
    outputs = run_head(model, batch)
    return outputs.view(-1, 2) if is_reward_model(model) else outputs


def run_head(model, batch):
    """
    A classifier's outputs for each text: (B, T) ids and mask -> (B, 2), or (B, 1) of a reward model.

    A decoder is read at its last real token, which the mask tells. An encoder pools in its own way, and uses the mask.
    T5 and BART read the text twice, and their decoder is read at its last token too: an end-of-text token if the
    tokenizer adds one. (Their own pooling fails where a text has this token inside, or a tokenizer adds none.)
    """
    import torch
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    head = getattr(model, "score", None)
    if model.config.is_encoder_decoder and hasattr(model, "classification_head"):
        head = model.classification_head
        start = torch.full_like(inputs["input_ids"][:, :1], model.config.decoder_start_token_id)
        inputs["decoder_input_ids"] = torch.cat([start, inputs["input_ids"][:, :-1]], dim=1)
    if head is None:
        with heads_in_fp32(model):
            return model(**inputs).logits
    last = inputs["attention_mask"].sum(1) - 1                                 # (B,) padding is at the right
    rows = torch.arange(len(last), device=last.device)
    with skip_unread_tokens(model, rows, last, width=inputs["input_ids"].shape[1]):
        hidden = model.base_model(**inputs).last_hidden_state                  # (B, T, C)
    return run_in_fp32(head)(hidden[rows, last])


def run_in_fp32(function):
    """
    The same function of tensors in fp32, whatever autocast is on. A head's outputs in bf16 would hold 8 bits: of 3,522
    soft labels by tiny-1a 75 were exactly 0.5, and 110 different ones were left.
    """
    import torch

    def in_fp32(*tensors):
        with torch.autocast(tensors[0].device.type, enabled=False):
            return function(*(x.float() for x in tensors))
    return in_fp32


@contextlib.contextmanager
def heads_in_fp32(model):
    """For an encoder's class, which calls its head itself: what it has beside the body runs in fp32 meanwhile."""
    core = model.get_base_model() if hasattr(model, "get_base_model") else model         # inside peft's wrappers
    heads = [child for child in core.children() if child is not core.base_model]
    for child in heads:
        child.forward = run_in_fp32(child.forward)
    try:
        yield
    finally:
        for child in heads:
            del child.forward                              # its class's again


@contextlib.contextmanager
def skip_unread_tokens(model, rows, last, width):
    """
    A forward pass of which only the last token of each row is read: the last block's MLP computes that one alone, and
    every one of the row's `width` tokens gets its output. What they become is not read. rows, last: (B,) indices

    It saves 6 % of a GPT-2's work. Narrow models keep the last digits of their numbers. Gradient checkpointing computes
    blocks once more, when this is over, so there it does nothing.
    """
    config = model.config.get_text_config()
    blocks = next((blocks for blocks in model.base_model.modules() if type(blocks).__name__ == "ModuleList"
                   and len(blocks) == getattr(config, "num_hidden_layers", 0)), [None])
    mlp = getattr(blocks[-1], "mlp", None)
    is_dense = type(mlp).__name__.endswith("MLP") and not hasattr(mlp, "router")         # no mixture of experts
    repeated = model.training and getattr(blocks[-1], "gradient_checkpointing", False)
    if not is_dense or repeated or getattr(config, "hidden_size", 0) < WIDE:
        yield
        return
    before = mlp.register_forward_pre_hook(lambda _, inputs: (inputs[0][rows, last][:, None], *inputs[1:]))
    after = mlp.register_forward_hook(lambda _, inputs, output: output.expand(-1, width, -1).contiguous())
    try:
        yield
    finally:
        before.remove()
        after.remove()


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


def map_in_order(do, pieces):
    """Yields do(piece) for each piece, in order. distributed.py replaces this function: each process then does some."""
    return map(do, pieces)


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
    batches = batches_by_tokens([len(i) for i in ids], tokens)

    def outputs_of(indices):
        with torch.no_grad(), autocast(dtype, device, model):
            return output_fn(model, pad([ids[i] for i in indices], tokenizer, device)).float().cpu().numpy()
    with tqdm(total=len(ids), desc="predicting", unit="row", disable=None, leave=False) as bar:
        for indices, outputs in zip(batches, map_in_order(outputs_of, batches)):
            if out is None:
                out = np.zeros((len(ids), *outputs.shape[1:]), dtype=np.float32)
            out[indices] = outputs
            bar.update(len(indices))
    if not np.isfinite(out).all():
        fail("the model's outputs are not finite: training diverged (use a smaller --lr), or its weights are damaged")
    return out


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
    unchanged). A template that knows enable_thinking (Qwen3's) asks the model not to think first.
    """
    if not tokenizer.chat_template:
        return list(prompts)
    return render_dialogues(tokenizer, [[{"role": "user", "content": prompt}] for prompt in prompts])


def render_dialogues(tokenizer, dialogues):
    """
    N lists of turns {"role", "content"} -> N texts, by the tokenizer's chat template.

    A template is a small program that comes with the model. One that fails, that drops the text, or that does not end
    within some seconds is an error of one line.
    """
    texts = []
    errors = []

    def render():
        try:
            for turns in dialogues:
                texts.append(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True,
                                                           enable_thinking=False))
        except Exception as error:                         # a template may raise anything
            errors.append(f"{type(error).__name__}: {error}")
    worker = threading.Thread(target=render, daemon=True)
    worker.start()
    worker.join(TEMPLATE_SECONDS + 0.01 * len(dialogues))
    if worker.is_alive():
        errors.append(f"it does not end within {TEMPLATE_SECONDS} seconds")
    for turns, text in zip(dialogues, texts):
        if not errors and turns[-1]["content"].strip() not in text:
            errors.append("it leaves out the text that it is given")
    if errors:
        fail(f"the model's chat template cannot be used: {errors[0]}. Repair its chat_template.jinja or "
             "tokenizer_config.json, or give another model")
    return texts


def encode_prompts(tokenizer, prompts, max_length, side=None):
    """
    N texts -> N lists of ids, see truncate. What has been through apply_chat_template has its special tokens already,
    and the template's own words stay.
    """
    if tokenizer.chat_template:
        frame = apply_chat_template(tokenizer, ["[[TEXT]]"])[0].split("[[TEXT]]", 1)
        if all(prompt.startswith(frame[0]) for prompt in prompts):
            ids = encode(tokenizer, prompts, special_tokens=False)
            first, last = (len(part) for part in encode(tokenizer, frame, special_tokens=False))
            return truncate(ids, tokenizer, max_length, "prompts", first, last, side)
    return truncate(encode(tokenizer, prompts), tokenizer, max_length, "prompts", side=side)


def split_label_words(text):
    """--label-words no,yes -> [" no", " yes"], and "" -> None; anything else ends in one line."""
    words = [word.strip() for word in text.split(",")] if text else []
    if text and (len(words) != 2 or len({*words} - {""}) != 2):
        fail(f"--label-words {text!r}: give two different words, for no and yes, as in no,yes")
    return [" " + word for word in words] or None


def answer_word_ids(tokenizer, words):
    """
    The label words as tokens where a verdict is due: a base model's follows the text (" yes"), a chat model's begins a
    line ("Yes", capitalised by the caller).
    """
    if tokenizer.chat_template:
        return label_word_ids(tokenizer, [word.strip() for word in words], "\n", PROMPT_ADVICE)
    return label_word_ids(tokenizer, words, advice=PROMPT_ADVICE)


@contextlib.contextmanager
def head_reads_only(model, columns):
    """
    Within the block, a language model computes the logits of K tokens a row: those in `columns`, (B, K). Logits of all
    tokens would not fit into memory with a vocabulary of 262,000.
    """
    import torch
    rows = torch.arange(len(columns), device=columns.device)[:, None]
    head = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][rows, columns],))
    try:
        yield
    finally:
        handle.remove()


def next_word_logits(word_ids, prefix_cache=None):
    """
    -> an output_fn for forward_all: the raw logits (B, 2) of two tokens as the one after each row's last.

    prefix_cache   transformers' DynamicCache of one row, if all prompts begin with what it holds

    Padding stands at the right, where no token of a decoder sees it. So positions, sliding windows and recurrent states
    are those of a row by itself, whatever the architecture.
    """
    import torch

    def outputs(model, batch):
        mask = batch["attention_mask"]
        last = mask.sum(1, keepdim=True) - 1               # (B, 1)
        cache = {"use_cache": False}
        if prefix_cache is not None:
            repeated = copy.deepcopy(prefix_cache)         # the forward pass appends to it
            repeated.batch_repeat_interleave(len(mask))
            mask = torch.cat([mask.new_ones(len(mask), repeated.get_seq_length()), mask], dim=1)
            cache = {"use_cache": True, "past_key_values": repeated}
        with head_reads_only(model, last):
            logits = model(input_ids=batch["input_ids"], attention_mask=mask, **cache).logits
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


def without_thinking(text):
    """
    A reply without the thinking in front of it: "" if it has not come to an end. GPT-OSS thinks in one channel and
    answers in another; of its channels the final one is kept.

    >>> [without_thinking(text) for text in ("<think>Hm.</think>\\n\\nGold.", "Hm.</think> Gold.", "<think>Hm")]
    ['Gold.', 'Gold.', '']
    >>> hm = "<|channel|>analysis<|message|>Hm.<|end|>"
    >>> [without_thinking(hm + text) for text in ("<|start|>assistant<|channel|>final<|message|>Gold.<|return|>", "")]
    ['Gold.', '']
    """
    if "<|channel|>" in text:
        channel, _, text = text.rpartition("<|channel|>")[2].partition("<|message|>")
        text = re.split(r"<\|(?:end|return|call|endoftext)\|>", text)[0] if channel.split()[:1] == ["final"] else ""
    text = text.rpartition("</think>")[2]
    return "" if "<think>" in text else text.lstrip()


def decode_replies(tokenizer, ids):
    """N rows of generated ids -> N texts without thinking. GPT-OSS's channels are special tokens."""
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    whole = tokenizer.batch_decode(ids) if "<|channel|>" in tokenizer.get_added_vocab() else texts
    return [without_thinking(w if "<|channel|>" in w else text) for w, text in zip(whole, texts)]


def same_state(model, indices, lengths):
    """
    Indices, sorted by length, in pieces that can be generated together: all at once, except that the state of some
    recurrent models reads padding at the left too (RecurrentGemma's), and that RWKV's takes a single text.
    """
    if not model._is_stateful:
        return [indices]
    one_by_one = model.config.model_type == "rwkv"
    return [list(piece) for _, piece in itertools.groupby(indices, lambda i: (lengths[i], i * one_by_one))]


def generation_batches(lengths, batch_size, new_tokens):
    """
    Indices of prompts, sorted by length, in batches of at most batch_size. Batches of long prompts hold fewer, so that
    memory suffices (GENERATED_TOKENS, padding and new tokens included).

    >>> generation_batches([3, 1, 2], batch_size=2, new_tokens=8)
    [[1, 2], [0]]
    """
    batches = []
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        n = len(batches[-1]) + 1 if batches else 0
        if 0 < n <= batch_size and n * (lengths[i] + new_tokens) <= GENERATED_TOKENS:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def generate_batches(model, tokenizer, prompts, device, max_length, max_new_tokens, stops, temperature=0.0, top_p=1.0,
                     seed=0, dtype="fp32", batch_size=64, done=(), top_k=0, no_repeat=0):
    """
    Continue N prompts. Yields (indices, texts) batch by batch, so that a caller can save them and a kill costs one
    batch.

    stops         strings that end a text (they are cut off), however they fall into tokens; a batch continues until its
                  last text has ended
    temperature   0: always the likeliest token; otherwise samples. Each batch has a seed of its own, so its texts do
                  not depend on which batches came before it in this process
    top_k         sample from so many of the likeliest tokens; 0: from all
    no_repeat     no run of so many tokens occurs twice in prompt and text; 0: it may
    batch_size    see generation_batches
    done          indices that are written already: batches of nothing else are skipped
    """
    import torch
    if max_length <= max_new_tokens:
        fail(f"the model reads {max_length} tokens (--max-length), too few to write {max_new_tokens}")
    ids = encode_prompts(tokenizer, prompts, max_length - max_new_tokens, side="left")
    ends = model.generation_config.eos_token_id            # a chat model has several: its turn ends before the text
    ends = sorted({tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None})
    sampling = {"do_sample": False}
    if temperature:
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": top_k}
    sampling["no_repeat_ngram_size"] = no_repeat
    done = set(done)
    first = 0
    for indices in generation_batches([len(i) for i in ids], batch_size, max_new_tokens):
        batch_seed = 1_000_003 * seed + first
        first += len(indices)
        if done.issuperset(indices):
            continue
        torch.manual_seed(batch_seed)
        texts = []
        for piece in same_state(model, indices, [len(i) for i in ids]):
            batch = pad([ids[i] for i in piece], tokenizer, device, side="left")
            width = batch["input_ids"].shape[1]

            def ended(tokens, scores, width=width, **_):
                texts = decode_replies(tokenizer, tokens[:, width:])
                return torch.tensor([any(stop in text for stop in stops) for text in texts], device=tokens.device)
            with torch.inference_mode(), autocast(dtype, device, model):
                out = model.generate(**batch, **sampling, max_new_tokens=max_new_tokens, eos_token_id=ends or None,
                                     repetition_penalty=1.0, pad_token_id=tokenizer.pad_token_id,
                                     stopping_criteria=[ended])
            texts += decode_replies(tokenizer, out[:, width:])
        yield indices, [cut_at_stop(text, stops) for text in texts]


def generate(model, tokenizer, prompts, *args, **kwargs):
    """generate_batches, collected: N prompts -> N texts"""
    texts = [""] * len(prompts)
    for indices, batch in generate_batches(model, tokenizer, prompts, *args, **kwargs) if prompts else ():
        for i, text in zip(indices, batch):
            texts[i] = text
    return texts
