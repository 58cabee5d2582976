"""
Small models of many architectures with random weights, and what works with each: the table of docs/models.md.

python tests/families.py                     # all of them, minutes; needs peft for the last column
python tests/families.py Mamba Olmoe         # some
python tests/families.py /path/to/a/model    # a folder or hub name

tests/test_icl.py and tests/test_models.py take some of these models. Weights are random but large, so that a wrong
position, window or state changes the outputs.
"""
import contextlib
import io
import os
import re
import sys
import tempfile
from types import SimpleNamespace

import numpy as np
import torch
import transformers

import conftest  # noqa: F401
import contract
import icl
import metrics
import models
import train_weak

WORDS = [" no", " yes"]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
         "max_position_embeddings": 128}
GQA = SIZES | {"num_key_value_heads": 2}                   # two query heads share a key head
WINDOW = GQA | {"sliding_window": 16}
HEAD = {"head_dim": 8}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
          "shared_expert_intermediate_size": 32}
LATENT = {"num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "v_head_dim": 8,
          "qk_nope_head_dim": 8, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8,
         "mamba_chunk_size": 16}
JAMBA = {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
         "num_experts": 2, "mamba_d_state": 8, "use_mamba_kernels": False}
DECODERS = {
    "GPT2": GPT, "GPTNeoX": SIZES, "GPTBigCode": GPT, "GPTJ": GPT | {"rotary_dim": 4},
    "CodeGen": GPT | {"rotary_dim": 4},
    "GPTNeo": {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]],
               "window_size": 16, "max_position_embeddings": 128},
    "OPT": SIZES | {"ffn_dim": 64, "word_embed_proj_dim": 32}, "Bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "Falcon": SIZES, "Mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4},
    "XGLM": {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 64, "max_position_embeddings": 128},
    "CTRL": {"n_embd": 32, "n_layer": 2, "n_head": 4, "dff": 64, "n_positions": 128},
    "Llama": GQA, "Mistral": WINDOW, "Mixtral": WINDOW | EXPERTS, "Qwen2": GQA, "Qwen3": GQA | HEAD,
    "Qwen3Moe": GQA | HEAD | EXPERTS, "Gemma": GQA | HEAD, "Gemma2": WINDOW | HEAD,
    "Gemma3Text": WINDOW | HEAD | {"layer_types": ["sliding_attention", "full_attention"]},
    "GptOss": WINDOW | HEAD | EXPERTS,
    "Llama4Text": GQA | HEAD | {"attention_chunk_size": 16, "intermediate_size_mlp": 64, "num_local_experts": 2,
                                "moe_layers": [1]},
    "Phi": SIZES, "Phi3": GQA, "StableLm": GQA, "Starcoder2": WINDOW, "Cohere": GQA, "Cohere2": WINDOW, "Olmo2": GQA,
    "Olmoe": GQA | EXPERTS, "Granite": GQA | {"logits_scaling": 4.0}, "SmolLM3": GQA, "Exaone4": WINDOW,
    "DeepseekV3": SIZES | LATENT | EXPERTS, "Nemotron": GQA, "Glm": GQA | HEAD,
    "Mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "Mamba2": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 2,
               "chunk_size": 16},
    "Rwkv": {"hidden_size": 32, "num_hidden_layers": 2, "context_length": 128},
    "RecurrentGemma": GQA | HEAD | {"lru_width": 32, "attention_window_size": 16, "num_hidden_layers": 3},
    "Lfm2": GQA | {"layer_types": ["conv", "full_attention"]}, "FalconH1": GQA | HEAD | MAMBA, "Jamba": GQA | JAMBA,
    "Qwen3Next": GQA | HEAD | EXPERTS | LINEAR | {"layer_types": ["linear_attention", "full_attention"]},
    "XLNet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}}
BART = {f"{part}_{key}": value for part in ("encoder", "decoder")
        for key, value in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 64))}
ENCODERS = {
    "Bert": SIZES, "Roberta": SIZES, "XLMRoberta": SIZES, "MPNet": SIZES, "ModernBert": SIZES, "EuroBert": SIZES,
    "Electra": SIZES | {"embedding_size": 16}, "Albert": SIZES | {"embedding_size": 16},
    "Deberta": SIZES, "DebertaV2": SIZES | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "DistilBert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "T5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
    "Bart": {"d_model": 32} | BART}


def tinyworld_tokenizer():
    return transformers.AutoTokenizer.from_pretrained(contract.model_folder("tiny-1a"))


def random_model(name, vocab_size=2000, **changes):
    """A model of a family, its weights random and large. Language models, or the body of an encoder."""
    sizes = (DECODERS | ENCODERS)[name] | {"vocab_size": vocab_size} | changes
    special = {"pad_token_id": 0} | ({"bos_token_id": 0, "eos_token_id": 0} if name in DECODERS else {})
    config = getattr(transformers, name + "Config")(**sizes, **special)
    kind = "AutoModelForCausalLM" if name in DECODERS else "AutoModel"
    torch.manual_seed(0)
    model = getattr(transformers, kind).from_config(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model


def save_model(name, folder, **changes):
    """The same with tinyworld's tokenizer, in a folder like any hub model's. -> the model"""
    tokenizer = tinyworld_tokenizer()
    model = random_model(name, len(tokenizer), **changes)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def random_ids(lengths, vocab_size=2000, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(1, vocab_size, n).tolist() for n in lengths]


def plain_probs(model, ids, word_ids):
    """Each row by itself: no batch, no padding, no cache. -> (N, 2)"""
    with torch.no_grad():
        logits = torch.stack([model(torch.tensor([i])).logits[0, -1, word_ids].float() for i in ids])
    return logits.softmax(-1).numpy()


# --------------------------------------------------------------------------- the table


def train_once(folder, ids, lora=None):
    """One step on four rows, save, open again: do the predictions stay? -> "yes" or what is wrong"""
    flags = SimpleNamespace(epochs=1, lr=1e-3, batch_size=4, micro_batch_size=2, dtype="fp32", seed=0, lora=lora,
                            gradient_checkpointing=False)
    model, tokenizer, _ = models.load_classifier(folder, "lm", WORDS, "cpu", flags)
    together = models.predict(model, tokenizer, ids, "cpu")
    alone = np.concatenate([models.predict(model, tokenizer, [i], "cpu") for i in ids])
    if np.abs(together - alone).max() > 1e-4:
        return "padding changes it"
    model, restore_ordinary = train_weak.prepare_for_training(model, flags)
    make_batch = train_weak.batch_maker(ids, tokenizer, "cpu", soft_labels=metrics.to_soft_labels([0, 1, 0, 1]))
    train_weak.fit(model, list(map(len, ids)), make_batch, train_weak.soft_label_loss, flags, "cpu")
    model = restore_ordinary()
    before = models.predict(model, tokenizer, ids, "cpu")
    if np.abs(before - together).max() < 1e-6:
        return "does not learn"
    with tempfile.TemporaryDirectory() as run:
        contract.save_checkpoint(run, model, tokenizer)
        model, tokenizer, _ = models.load_classifier(os.path.join(run, "checkpoint"), "lm", WORDS, "cpu")
    after = models.predict(model, tokenizer, ids, "cpu")
    return "yes" if np.abs(after - before).max() < 1e-4 else "reopened differs"


def score_in_context(folder, ids):
    """Rows after a shared prefix of 60 tokens: exact, and with the cache or without it?"""
    model, tokenizer, _ = models.open_language_model(folder, "cpu")
    word_ids = models.answer_word_ids(tokenizer, WORDS if not tokenizer.chat_template else ["No", "Yes"])
    prefix = random_ids([60], seed=1)[0]
    prompts = [prefix + i for i in ids]
    plain = plain_probs(model, prompts, word_ids)
    error = np.abs(icl.score_prompts(model, tokenizer, prompts, word_ids, "cpu") - plain).max()
    cached = icl.read_prefix(model, prefix, "cpu") is not None
    return f"off by {error:.2f}" if error > 1e-3 else "yes, cached" if cached else "yes"


def write_notes(folder):
    """Greedy texts in a batch, and one at a time."""
    model, tokenizer, length = models.open_language_model(folder, "cpu")
    prompts = models.apply_chat_template(tokenizer, ["Q: Is gold a metal?", "Gold is heavy. Q: What is gold? A:", "Q:"])
    together = models.generate(model, tokenizer, prompts, "cpu", length, 8, [])
    alone = [models.generate(model, tokenizer, [prompt], "cpu", length, 8, [])[0] for prompt in prompts]
    return "yes" if together == alone else "differs in a batch"


def attempt(do, *args):
    """-> its answer, or "no: " and the one line that a user would get"""
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output), contextlib.redirect_stdout(io.StringIO()):
            return do(*args)
    except SystemExit:
        line = re.sub(r"\S*/tmp\S*", "MODEL", output.getvalue().strip().removeprefix("error: "))
        return "no: " + line[:90]
    except Exception as error:
        return f"TRACEBACK {type(error).__name__}: {str(error)[:60]}"


def table_row(name):
    """| family | train and reopen | icl | notes | lora |"""
    with tempfile.TemporaryDirectory() as folder:
        known = name in DECODERS | ENCODERS
        source = folder if known else name
        if known:
            save_model(name, folder)
        ids = random_ids((3, 20, 35, 64), len(tinyworld_tokenizer()) if known else 2000)
        cells = [attempt(train_once, source, ids)]
        if name in ENCODERS:
            cells += ["-", "-"]
        else:
            cells += [attempt(score_in_context, source, ids), attempt(write_notes, source)]
        cells.append(attempt(train_once, source, ids, 2))
    return f"| {os.path.basename(name)} | " + " | ".join(cells) + " |"


def main(names):
    print("| family | train, reopen | icl | notes | lora |\n|---|---|---|---|---|")
    for name in names or [*DECODERS, *ENCODERS]:
        print(table_row(name), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
