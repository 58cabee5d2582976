"""
Models: pooling, padding, heads, damaged folders; the next word from raw logits; generation in batches, stops, resuming.

python -m pytest tests/test_models.py         # 30 s, CPU, no network
"""
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import tokenizers
import torch
import transformers

import contract
import ensemble
import families
import models
from conftest import ROOT
from models import (
    answer_word_ids, apply_chat_template, classify, cut, cut_at_stop, decode_replies, encode_prompts, generate_batches,
    label_word_ids, load_classifier, mean_nll, next_word_probs, open_language_model, pad, predict, tokenize,
    without_thinking)
from train_weak import prepare_for_training

TINY = "tiny-1a"
WORDS = [" no", " yes"]


def tokenizer_of(name):
    return transformers.AutoTokenizer.from_pretrained(contract.model_folder(name))


@pytest.fixture(scope="module")
def tiny():
    return load_classifier(TINY, "lm", WORDS, "cpu")


def ragged(n=12, seed=0, vocabulary=2000):
    """Token ids of many lengths. 0 is padding and end-of-text here; it occurs inside some of them, and at one end."""
    rng = np.random.default_rng(seed)
    ids = [rng.integers(0, vocabulary, rng.integers(1, 30)).tolist() for _ in range(n)]
    ids[0][-1] = 0
    ids[1][0] = 0
    ids[2][len(ids[2]) // 2] = 0
    return ids


# --------------------------------------------------------------------------- pooling, padding, heads


def test_pitfall_01_pooling_reads_the_last_real_token_whatever_its_id(tiny):
    model, tokenizer, _ = tiny
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 0
    ids = ragged()
    with torch.no_grad():
        together = classify(model, pad(ids, tokenizer, "cpu"))
        for i, row in enumerate(ids):                      # a batch of one, read at its true end
            alone = model.score(model.transformer(torch.tensor([row])).last_hidden_state[0, -1])
            assert torch.allclose(together[i], alone, atol=1e-4), i


@pytest.mark.parametrize("extra", [1, 7, 40])
def test_pitfall_02_padding_changes_nothing(tiny, extra):
    model, tokenizer, _ = tiny
    batch = pad(ragged(), tokenizer, "cpu")
    wider = {key: torch.nn.functional.pad(value, (0, extra)) for key, value in batch.items()}
    with torch.no_grad():
        assert torch.allclose(classify(model, batch), classify(model, wider), atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_pitfall_02_the_tokenizers_padding_side_does_not_matter(tiny, side):
    model, tokenizer, max_length = tiny
    rows = [{"text": t} for t in ("Q: Is gold a metal? A: yes", "Q: Who? A: me", "!")]
    before = predict(model, tokenizer, tokenize(tokenizer, rows, max_length), "cpu")
    tokenizer.padding_side = side
    after = predict(model, tokenizer, tokenize(tokenizer, rows, max_length), "cpu")
    assert np.array_equal(before, after)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A BERT with random weights and tinyworld's tokenizer: encoders pool in their own way and use the mask."""
    folder = str(tmp_path_factory.mktemp("bert"))
    tokenizer = tokenizer_of(TINY)
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2,
                                     num_attention_heads=2, intermediate_size=64)
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_an_encoder_is_padding_invariant_and_goes_through_the_same_functions(encoder):
    torch.manual_seed(0)
    model, tokenizer, _ = load_classifier(encoder, "lm", WORDS, "cpu")
    ids = ragged()
    alone = np.concatenate([predict(model, tokenizer, [row], "cpu") for row in ids])
    assert np.abs(alone - predict(model, tokenizer, ids, "cpu")).max() < 1e-5


def test_the_head_starts_with_the_language_models_logits(tiny):
    model, tokenizer, _ = tiny
    lm = transformers.AutoModelForCausalLM.from_pretrained(contract.model_folder(TINY), dtype=torch.float32)
    ids = tokenizer("Q: In which block of the periodic table is the element gold? A: d-block")["input_ids"]
    with torch.no_grad():
        expected = lm(torch.tensor([ids])).logits[0, -1, label_word_ids(tokenizer, WORDS)]
        assert torch.allclose(classify(model, pad([ids], tokenizer, "cpu"))[0], expected, atol=1e-4)


def test_a_label_word_of_more_than_one_token_is_named_with_the_way_out(tiny, capsys):
    with pytest.raises(SystemExit):
        label_word_ids(tiny[1], [" no", " Zyzzogeton"])
    error = capsys.readouterr().err
    assert "' Zyzzogeton'" in error and "' no'" not in error and "--head random" in error
    with pytest.raises(SystemExit):                        # a prompted model has no head
        answer_word_ids(tiny[1], [" no", " Zyzzogeton"])
    error = capsys.readouterr().err
    assert "--label-words" in error and "--head" not in error
    with pytest.raises(SystemExit):
        label_word_ids(tiny[1], [" no", " no"])
    assert "the same token" in capsys.readouterr().err


def test_too_long_rows_lose_their_beginning_and_it_is_said(tiny, capsys):
    _, tokenizer, _ = tiny
    rows = [{"text": "gold " * 50 + "Q: Is it? A: yes"}, {"text": "Q: Is it? A: yes"}]
    long, short = tokenize(tokenizer, rows, 12)
    assert len(long) == 12
    assert tokenizer.decode(long).endswith("A: yes")
    assert tokenizer.decode(short) == rows[1]["text"]
    assert "1 of 2 rows" in capsys.readouterr().out


def test_one_rule_cuts_rows_and_prompts_and_special_tokens_stay():
    """1 is BOS, 2 EOS. Fault: rows kept BOS, prompts lost it."""
    tokenizer = SimpleNamespace(bos_token_id=1, cls_token_id=None, eos_token_id=2, sep_token_id=None,
                                truncation_side="left")
    assert cut([1, 5, 6, 7, 8, 2], tokenizer, 4) == [1, 7, 8, 2]
    assert cut([5, 6, 7, 8], tokenizer, 2) == [7, 8]
    assert cut([1, 3, 3, 5, 6, 7, 4, 4], tokenizer, 6, first=3, last=2) == [1, 3, 3, 7, 4, 4]  # a chat template's
    tokenizer.truncation_side = "right"                    # --truncate end
    assert cut([1, 5, 6, 7, 8, 2], tokenizer, 4) == [1, 5, 6, 2]
    assert cut([1, 5, 6, 7, 8, 2], tokenizer, 4, side="left") == [1, 7, 8, 2]
    assert cut([1, 5, 6, 2], tokenizer, 4) == [1, 5, 6, 2]


def test_max_length_and_truncate_reach_rows_and_prompts_and_bos_stays(tmp_path, capsys):
    """tinyworld's tokenizer, made to add BOS like Llama's; a model of 128 positions."""
    families.save_model("Llama", tmp_path)
    tokenizer = tokenizer_of(TINY)
    bos = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)])
    tokenizer.save_pretrained(tmp_path)
    text = " ".join(["gold is heavy"] * 50 + ["ants are light"])
    for flags, length in (({}, 128), ({"max_length": 20}, 20), ({"max_length": 20, "truncate": "end"}, 20)):
        _, tokenizer, max_length = open_language_model(str(tmp_path), "cpu", SimpleNamespace(**flags))
        whole = tokenizer(text)["input_ids"]
        [row] = tokenize(tokenizer, [{"id": "a", "text": text}], max_length)
        assert len(whole) > 150 and len(row) == length and row[0] == tokenizer.bos_token_id
        assert row[1:] == (whole[1:length] if flags.get("truncate") else whole[1 - length:])
        assert encode_prompts(tokenizer, [text], max_length) == [row]
        part = "end" if flags.get("truncate") else "beginning"
        printed = capsys.readouterr().out
        assert f"longer than {length} tokens, the longest {len(whole)}, and lose their {part}" in printed


def test_prediction_returns_every_row_in_its_place_and_distinct_doubts_stay_distinct(tiny):
    model, tokenizer, _ = tiny
    ids = ragged(33)
    p = predict(model, tokenizer, ids, "cpu", tokens=64)
    assert p.dtype == np.float32
    assert p.shape == (33, 2)
    assert np.allclose(p.sum(1), 1, atol=1e-6)
    assert not (p == 0.5).any()
    order = np.random.default_rng(0).permutation(33)
    shuffled = predict(model, tokenizer, [ids[i] for i in order], "cpu", tokens=64)
    assert np.abs(shuffled - p[order]).max() < 1e-5


def test_freed_memory_is_kept_with_glibc_and_other_c_libraries_are_left_alone(monkeypatch):
    called = []
    largest = 2 ** 30

    def mallopt(parameter, n_bytes):                       # 0: refused
        called.append((parameter, n_bytes))
        return int(parameter != -3 or n_bytes <= largest)

    class Library:
        def __init__(self, name):
            self.mallopt = mallopt
    monkeypatch.setattr(models.ctypes, "CDLL", Library)
    monkeypatch.setattr(models.platform, "libc_ver", lambda: ("", ""))         # macOS, Windows; of musl ("libc", "1.2")
    models.pick_device("cpu")
    assert not called
    monkeypatch.setattr(models.platform, "libc_ver", lambda: ("glibc", "2.36"))
    models.pick_device("cpu")
    assert called == [(-3, 2 ** 30), (-1, 2 ** 31 - 1)]
    called.clear()
    largest = 2 ** 25                                      # older versions
    models.pick_device("cpu")
    assert called == [(-3, 2 ** 30), (-3, 2 ** 25), (-1, 2 ** 31 - 1)]
    called.clear()
    largest = 0                                            # the other setting alone would make things slower
    models.pick_device("cpu")
    assert called == [(-3, 2 ** 30), (-3, 2 ** 25)]


def test_auto_takes_bf16_on_a_cpu_that_has_it(monkeypatch):
    config = transformers.LlamaConfig(hidden_size=128)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for has_it in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has_it=has_it: has_it)
        assert models.use_bf16("auto", "cpu", config) == has_it
        assert [models.use_bf16(dtype, "cpu", config) for dtype in ("fp32", "bf16")] == [False, True]
        deberta = transformers.DebertaConfig(hidden_size=models.WIDE)
        assert not models.use_bf16("auto", "cpu", deberta)                     # its mask overflows in bf16
        with pytest.raises(SystemExit):
            models.use_bf16("bf16", "cpu", deberta)


@pytest.mark.parametrize("name", ["GPT2", "Bert", "T5"])
def test_pitfall_8_soft_labels_in_bf16_are_not_rounded_to_a_few_values(name, tmp_path):
    """In bf16 the body runs, and not the head: its outputs would have 8 bits."""
    families.save_model(name, tmp_path)
    model, tokenizer, _ = load_classifier(str(tmp_path), "random", WORDS, "cpu")
    ids = families.random_ids([12] * 200, len(tokenizer))
    in_bf16 = predict(model, tokenizer, ids, "cpu", "bf16")
    assert len(set(in_bf16[:, 1])) == 200 and not (in_bf16[:, 1] == 0.5).any()
    assert 0 < np.abs(in_bf16 - predict(model, tokenizer, ids, "cpu", "fp32")).max() < 0.1
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_wide_gpt2_gets_one_operation_for_its_activation_and_the_same_logits(tmp_path, tiny):
    wide = transformers.GPT2Config(n_embd=models.WIDE, n_layer=2, n_head=4, vocab_size=len(tiny[1]), n_positions=64)
    transformers.set_seed(0)
    transformers.GPT2LMHeadModel(wide).save_pretrained(tmp_path)
    tiny[1].save_pretrained(tmp_path)
    model, tokenizer, _ = load_classifier(str(tmp_path), "lm", WORDS, "cpu")
    body = transformers.AutoModel.from_pretrained(tmp_path).eval()
    assert [type(block.mlp.act) for block in model.transformer.h] == [torch.nn.GELU] * 2
    assert model.config.activation_function == body.config.activation_function == "gelu_new"     # files are as before
    ids = torch.randint(5, len(tokenizer), (8, 30), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = model.eval().transformer(input_ids=ids).last_hidden_state
        assert (ours - body(input_ids=ids).last_hidden_state).abs().max() < 1e-5
    assert not any(isinstance(m, torch.nn.GELU) for m in tiny[0].modules())    # tinyworld's keep their last digits


@pytest.mark.parametrize("name", ["GPT2", "Llama", "Gemma2", "Bloom", "Falcon", "GptOss"])
def test_a_wide_model_skips_the_last_mlp_of_tokens_that_are_not_read(name, monkeypatch, tmp_path):
    """Falcon adds in place, Bloom inside its MLP; GPT-OSS's "MLP" is a mixture of experts."""
    families.save_model(name, tmp_path)
    model, tokenizer, _ = load_classifier(str(tmp_path), "lm", WORDS, "cpu")
    ids = families.random_ids((20, 11, 1, 7), len(tokenizer))
    results = []
    read = []
    for module in model.base_model.modules():
        if type(module).__name__.endswith("MLP"):
            module.register_forward_hook(lambda _, inputs, output: read.append(inputs[0].shape[1]))
    for wide in (10 ** 9, 1):
        monkeypatch.setattr(models, "WIDE", wide)
        outputs = models.run_head(model, pad(ids, tokenizer, "cpu"))
        model.zero_grad()
        outputs[:, 1].sum().backward()
        results.append([outputs.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    assert read == ([20] * 4 if name == "GptOss" else [20, 20, 20, 1])
    for plain, ours in zip(*results, strict=True):
        assert (plain - ours).abs().max() <= 1e-5 * max(1, plain.abs().max())


def test_dropout_is_off(encoder):
    assert transformers.AutoConfig.from_pretrained(encoder).hidden_dropout_prob == 0.1
    model = load_classifier(encoder, "lm", WORDS, "cpu")[0]
    rates = [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    assert len(rates) > 3
    assert not any(rates)


# --------------------------------------------------------------------------- saved and damaged folders


def test_a_saved_checkpoint_gives_the_same_predictions_and_keeps_its_head(tmp_path, tiny):
    model, tokenizer, max_length = tiny
    contract.save_checkpoint(str(tmp_path), model, tokenizer)
    with open(tmp_path / "checkpoint" / "tokenizer_config.json", encoding="utf-8") as f:
        assert not {"local_files_only", "is_local"} & set(json.load(f))       # as HF_HUB_OFFLINE was when it was opened
    reloaded, its_tokenizer, _ = load_classifier(str(tmp_path / "checkpoint"), "lm", WORDS, "cpu")
    rows = [{"text": "Q: Is gold a metal? A: yes"}]
    before = predict(model, tokenizer, tokenize(tokenizer, rows, max_length), "cpu")
    after = predict(reloaded, its_tokenizer, tokenize(its_tokenizer, rows, max_length), "cpu")
    assert np.array_equal(before, after)
    assert not [name for name in os.listdir(tmp_path / "checkpoint") if name.endswith((".bin", ".pt", ".pkl"))]


def copy_of_tiny(folder, drop=(), **config_changes):
    """tiny-1a's folder without some files, or with changes in its config.json"""
    shutil.copytree(contract.model_folder(TINY), folder)
    for name in drop:
        os.remove(folder / name)
    if config_changes:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | config_changes))
    return folder


def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path, capsys):
    def assert_refused(name, *words):
        with pytest.raises(SystemExit) as stop:
            load_classifier(str(name), "lm", WORDS, "cpu")
        error = capsys.readouterr().err
        assert stop.value.code == 2
        assert error.count("\n") == 1
        assert all(word in error for word in words), error

    assert_refused("no-such-model", "no-such-model")
    assert_refused("tiny-9", "tiny-9", "tiny-4")
    assert_refused(copy_of_tiny(tmp_path / "without weights", drop=["model.safetensors"]), "cannot load")
    truncated = copy_of_tiny(tmp_path / "truncated")
    (truncated / "model.safetensors").write_bytes((truncated / "model.safetensors").read_bytes()[:5000])
    assert_refused(truncated, "cannot load")
    # missing layers would start from random weights, without a word
    assert_refused(copy_of_tiny(tmp_path / "more layers", n_layer=9), "lacks", "config.json")


def test_a_folder_without_tokenizer_is_one_line(tmp_path, capsys):
    folder = copy_of_tiny(tmp_path / "model", drop=["tokenizer.json", "tokenizer_config.json"])
    with pytest.raises(SystemExit) as stop:
        _, tokenizer, max_length = load_classifier(str(folder), "random", WORDS, "cpu")
        tokenize(tokenizer, [{"id": "a", "text": "gold"}], max_length)
    assert stop.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_tokenizer_that_is_missing_or_has_odd_special_tokens_is_one_line(tmp_path, capsys):
    """Faults: transformers made an empty tokenizer, and all texts were alike; a traceback from a new padding token."""
    tokenizer = tokenizer_of(TINY)
    config = transformers.BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1,
                                     num_attention_heads=2, intermediate_size=16)
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    n = load_classifier(TINY, "lm", WORDS, "cpu")[0].get_input_embeddings().num_embeddings
    folder = copy_of_tiny(tmp_path / "padded")
    tokenizer.add_tokens([f"<image_{k}>" for k in range(n - len(tokenizer))], special_tokens=True)
    tokenizer.add_special_tokens({"pad_token": "<new>"})
    tokenizer.save_pretrained(folder)
    for name, word in (("bert", "its folder holds no tokenizer"), ("padded", "padding token '<new>'")):
        with pytest.raises(SystemExit):
            load_classifier(str(tmp_path / name), "random", WORDS, "cpu")
        error = capsys.readouterr().err
        assert word in error and error.count("\n") == 1, error


def test_a_context_too_short_to_write_in_is_one_line(capsys):
    model, tokenizer, _ = open_language_model(TINY, "cpu")
    with pytest.raises(SystemExit):
        list(generate_batches(model, tokenizer, ["Q: Is it?"], "cpu", 16, 16, stops=[]))
    assert "too few to write 16" in capsys.readouterr().err


def test_a_folder_that_is_no_model_to_train_says_what_it_is_and_what_to_give(tmp_path, capsys):
    def refusal(name):
        with pytest.raises(SystemExit):
            load_classifier(str(tmp_path / name), "lm", WORDS, "cpu")
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    tokenizer = tokenizer_of(TINY)
    config = transformers.BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1,
                                     num_attention_heads=2, intermediate_size=16, num_labels=6)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "six")
    tokenizer.save_pretrained(tmp_path / "six")
    capsys.readouterr()
    assert "a classifier of 6 labels" in refusal("six")
    with pytest.raises(SystemExit):                        # it would have written with a random output matrix
        open_language_model(str(tmp_path / "six"), "cpu")
    assert "is no language model" in capsys.readouterr().err
    old = copy_of_tiny(tmp_path / "old", drop=["model.safetensors"])
    (old / "pytorch_model.bin").write_bytes(b"a pickle")
    assert "pytorch_model.bin" in (line := refusal("old")) and "python -c" in line and "save_pretrained" in line
    for name, file, word in (("adapter", "adapter_config.json", "PEFT adapter"), ("icl", "results.json", "checkpoint")):
        (tmp_path / name).mkdir()
        tokenizer.save_pretrained(tmp_path / name)
        (tmp_path / name / file).write_text("{}")
        assert word in refusal(name)


def test_a_token_without_embedding_is_refused_only_if_a_text_has_it(tmp_path, capsys):
    """Gemma 3 1B's tokenizer has one token more than its embedding, that of an image."""
    folder = copy_of_tiny(tmp_path / "model")
    tokenizer = tokenizer_of(TINY)
    n = load_classifier(TINY, "lm", WORDS, "cpu")[0].get_input_embeddings().num_embeddings
    tokenizer.add_tokens([f"<image_{k}>" for k in range(n - len(tokenizer) + 1)], special_tokens=True)
    tokenizer.save_pretrained(folder)
    _, tokenizer, max_length = load_classifier(str(folder), "lm", WORDS, "cpu")
    assert len(tokenizer) == n + 1
    tokenize(tokenizer, [{"id": "a", "text": "gold"}], max_length)
    with pytest.raises(SystemExit):
        tokenize(tokenizer, [{"id": "a", "text": f"an {tokenizer.convert_ids_to_tokens(n)}"}], max_length)
    assert "no embedding" in capsys.readouterr().err
    tokenizer_of("tiny-4").save_pretrained(folder)         # another model's: 4,000 tokens for 2,000 embeddings
    if len(tokenizer_of("tiny-4")) > n:
        with pytest.raises(SystemExit):
            load_classifier(str(folder), "lm", WORDS, "cpu")
        assert "another model's" in capsys.readouterr().err


def test_a_model_of_the_hub_is_read_and_recorded_at_one_commit(tmp_path, monkeypatch, capsys):
    """A cache as a cluster's node has it: no network, main at one commit, then at another."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--someone--tiny"
    commits = {"a" * 40: TINY, "b" * 40: "tiny-4"}
    for commit, name in commits.items():
        shutil.copytree(contract.model_folder(name), repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    widths = []
    for commit in commits:
        (repo / "refs" / "main").write_text(commit)
        contract.hub_commit.cache_clear()                  # another process
        assert contract.fingerprint("someone/tiny") == contract.input_fingerprint("someone/tiny") == commit
        assert contract.fingerprint(f"someone/tiny@{'a' * 40}") == "a" * 40
        assert contract.fingerprint("someone/other") == "someone/other"        # not to be known
        widths.append(load_classifier("someone/tiny", "lm", WORDS, "cpu")[0].config.hidden_size)
    configs = [transformers.AutoConfig.from_pretrained(contract.model_folder(name)) for name in commits.values()]
    assert widths == [config.hidden_size for config in configs] and widths[0] != widths[1]
    assert load_classifier(f"someone/tiny@{'a' * 40}", "lm", WORDS, "cpu")[0].config.hidden_size == widths[0]
    contract.hub_commit.cache_clear()
    with pytest.raises(SystemExit):
        load_classifier("someone/other", "lm", WORDS, "cpu")
    assert "neither the hub nor its cache" in capsys.readouterr().err


def test_the_hub_gets_the_users_token_only_if_the_user_says_so():
    code = ("import contract; hub = contract.import_hub(); from huggingface_hub.utils import get_token_to_send; "
            "print(get_token_to_send(None), hub.constants.HF_HUB_DISABLE_TELEMETRY)")
    for asked, expected in (("", "None True"), ("0", "secret True")):
        unset = {"HF_TOKEN": "secret", "HF_HUB_DISABLE_IMPLICIT_TOKEN": asked}
        environment = {**os.environ, **{key: value for key, value in unset.items() if value}}
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.stdout.strip() == expected, done.stderr


def test_scores_that_are_no_numbers_stop_the_run(capsys):
    model, tokenizer, _ = load_classifier(TINY, "lm", WORDS, "cpu")
    model.score.weight.data[:] = float("nan")
    with pytest.raises(SystemExit):
        predict(model, tokenizer, [[1, 2, 3]], "cpu")
    assert "diverged" in capsys.readouterr().err


# --------------------------------------------------------------------------- other architectures

SIZES = {"GPT2": {},
         "OPT": {"ffn_dim": 64, "word_embed_proj_dim": 32},
         "Llama": {"tie_word_embeddings": False},
         "Qwen2": {"num_key_value_heads": 1},
         "Qwen3": {"num_key_value_heads": 1, "head_dim": 16},
         "Gemma": {"num_key_value_heads": 1, "head_dim": 16},
         "GPTNeoX": {},
         "Bert": {},
         "ModernBert": {}}


def random_model(folder, name, kind, **changes):
    """A model of two layers with random weights, and tinyworld's tokenizer, in a folder like any hub model's."""
    tokenizer = tokenizer_of(TINY)
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
             "max_position_embeddings": 64, "pad_token_id": 0}
    if name not in ("GPT2", "OPT"):
        sizes["intermediate_size"] = 64
    config = getattr(transformers, name + "Config")(**sizes | SIZES[name] | changes)
    torch.manual_seed(0)
    model = getattr(transformers, kind).from_config(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", ["GPT2", "GPTNeoX", "Llama", "Qwen2", "Qwen3", "OPT", "Gemma"])
def test_other_decoders_pool_at_the_end_and_start_from_their_own_rows(tmp_path, name):
    """Random weights, untied embeddings where there are some: padded = alone, and the head is the language model's."""
    lm = random_model(tmp_path, name, "AutoModelForCausalLM")
    model, tokenizer, _ = load_classifier(str(tmp_path), "lm", WORDS, "cpu")
    word_ids = label_word_ids(tokenizer, WORDS)
    ids = ragged(8)
    with torch.no_grad():
        together = classify(model.eval(), pad(ids, tokenizer, "cpu"))
        for i, row in enumerate(ids):
            assert torch.allclose(together[i], lm(torch.tensor([row])).logits[0, -1, word_ids], atol=1e-4)


OTHERS = ("Mamba", "Olmoe", "Cohere", "Granite", "FalconH1", "CTRL", "Roberta", "T5", "Bart")


@pytest.mark.parametrize("name", OTHERS)
def test_other_architectures_train_and_open_again(name, tmp_path):
    """
    No class for sequence classification (Mamba, OLMoE, Cohere, Falcon-H1), one that reads padding (CTRL), a tokenizer
    without end-of-text where T5 and BART look for it. tests/families.py does this with all architectures.
    """
    lm = families.save_model(name, tmp_path)
    ids = families.random_ids((3, 20, 35, 64), len(tokenizer_of(TINY)))
    assert families.train_once(str(tmp_path), ids) == "yes"
    if name in families.DECODERS and name != "CTRL":       # whose output matrix has a bias
        model, tokenizer, _ = load_classifier(str(tmp_path), "lm", WORDS, "cpu")
        plain = families.plain_probs(lm, ids, label_word_ids(tokenizer, WORDS))
        assert np.abs(predict(model, tokenizer, ids, "cpu") - plain).max() < 1e-4


def test_positions_that_stand_for_padding_hold_no_token(tmp_path):
    """RoBERTa's 514 hold 512 tokens. Here padding is token 0, so 40 hold 39; a row of 40 ended in a traceback."""
    families.save_model("Roberta", tmp_path, max_position_embeddings=40)
    model, tokenizer, max_length = load_classifier(str(tmp_path), "lm", WORDS, "cpu")
    assert max_length == 39
    predict(model, tokenizer, families.random_ids([39]), "cpu")


def test_t5_and_bart_give_what_their_own_classes_give(tmp_path):
    """With one end-of-text token, at the end: then their own pooling works."""
    for name in ("T5", "Bart"):
        families.save_model(name, tmp_path / name, eos_token_id=5)
        model, tokenizer, _ = load_classifier(str(tmp_path / name), "lm", WORDS, "cpu")
        batch = pad([[i for i in ids if i != 5] + [5] for ids in families.random_ids([4, 9, 1])], tokenizer, "cpu")
        with torch.no_grad():
            assert torch.allclose(classify(model, batch), model(**batch).logits, atol=1e-5)


def test_what_an_architecture_cannot_do_is_one_line(tmp_path, capsys):
    for name in ("Albert", "Mamba", "XLNet"):
        families.save_model(name, tmp_path / name)
    albert = load_classifier(str(tmp_path / "Albert"), "lm", WORDS, "cpu")[0]
    mamba = load_classifier(str(tmp_path / "Mamba"), "lm", WORDS, "cpu")[0]
    checkpointing = SimpleNamespace(gradient_checkpointing=True)
    capsys.readouterr()
    for words, refused in (
            ("--gradient-checkpointing", lambda: prepare_for_training(albert, checkpointing)),
            ("--by layers", lambda: ensemble.truncate_layers(mamba, 1)),
            ("no decoder", lambda: open_language_model(str(tmp_path / "XLNet"), "cpu"))):    # it sees later tokens
        with pytest.raises(SystemExit):
            refused()
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1


def test_a_model_of_texts_and_images_is_an_ordinary_classifier_of_texts(tmp_path):
    """Gemma 3 4B's configuration holds one for texts and one for images. --by layers looked into the outer one."""
    tokenizer = tokenizer_of(TINY)
    config = transformers.Gemma3Config(
        text_config=families.DECODERS["Gemma3Text"] | {"vocab_size": len(tokenizer), "pad_token_id": 0},
        vision_config={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                       "image_size": 28, "patch_size": 14},
        image_token_index=5, boi_token_index=6, eoi_token_index=7, mm_tokens_per_image=4)
    torch.manual_seed(0)
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, tokenizer, max_length = load_classifier(str(tmp_path), "lm", WORDS, "cpu")
    assert max_length == 128
    ensemble.truncate_layers(model, 1)                     # one of two
    assert model.config.get_text_config().num_hidden_layers == 1
    ids = families.random_ids([3, 20, 35])
    before = predict(model, tokenizer, ids, "cpu")
    contract.save_checkpoint(str(tmp_path / "run"), model, tokenizer)
    after = predict(load_classifier(str(tmp_path / "run"), "lm", WORDS, "cpu")[0], tokenizer, ids, "cpu")
    assert np.abs(after - before).max() < 1e-5


@pytest.mark.parametrize("name", ["RecurrentGemma", "Rwkv", "Gemma2"])
def test_texts_do_not_depend_on_padding_at_the_left(name, tmp_path):
    """Fault: the recurrent state of the first two reads it."""
    families.save_model(name, tmp_path)
    assert families.write_notes(str(tmp_path)) == "yes"


# --------------------------------------------------------------------------- the next word

PROMPTS = ["Q: Which block does gold belong to? A: s-block",
           "Q: As what do people mostly use butane? A: fuel",
           "Note: In a correct drawing of the adult lyrebird, the number of legs is two.\n"
           "Q: How many legs has an adult lyrebird? A: two",
           "Q: A:"]

TEMPLATE = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


TEMPLATE_FRAME = ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")


def make_chat_model(folder):
    """A random Qwen2 of two layers with a chat template, as a hub folder would hold it. -> its folder"""
    tokenizer = tokenizer_of("tiny-4")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.add_tokens(["Yes", "No"])
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.chat_template = TEMPLATE
    config = transformers.Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, initializer_range=0.5, tie_word_embeddings=False)
    torch.manual_seed(0)
    model = transformers.Qwen2ForCausalLM(config)
    # a hub folder may bring such settings along
    model.generation_config.update(do_sample=True, temperature=0.01, top_k=1, repetition_penalty=1.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", params=["tiny-1a", "chat"])
def opened(request, tmp_path_factory):
    """A base model and a chat model -> (model, tokenizer, max_length, PROMPTS through its template)"""
    name = request.param if request.param != "chat" else make_chat_model(tmp_path_factory.mktemp("chat"))
    model, tokenizer, max_length = open_language_model(name, "cpu")
    return model, tokenizer, max_length, apply_chat_template(tokenizer, PROMPTS)


def test_pitfalls_2_and_28_a_verdict_is_the_softmax_of_two_raw_logits_however_the_batch_is_padded(opened):
    model, tokenizer, max_length, prompts = opened
    if tokenizer.chat_template:
        no, yes = (tokenizer(word, add_special_tokens=False)["input_ids"] for word in ("No", "Yes"))
    else:
        no, yes = (tokenizer("A" + word)["input_ids"][1:] for word in (" no", " yes"))
    assert len(no) == len(yes) == 1
    together = next_word_probs(model, tokenizer, prompts, WORDS, "cpu", max_length)
    for text, pair in zip(prompts, together):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1, [no[0], yes[0]]]
        assert pair == pytest.approx(logits.softmax(-1).tolist(), abs=1e-5)
        alone = next_word_probs(model, tokenizer, [text], WORDS, "cpu", max_length)[0]
        assert alone == pytest.approx(pair, abs=1e-5)
    assert together.sum(1) == pytest.approx(1, abs=1e-6)
    assert len(set(together[:, 1].tolist())) == len(prompts)
    assert together.dtype == "float32"


def test_label_words_that_are_not_single_tokens_are_one_clear_line(opened, capsys):
    model, tokenizer, max_length, prompts = opened
    with pytest.raises(SystemExit) as stop:
        next_word_probs(model, tokenizer, prompts, [" zygomorphic-unheard", " yes"], "cpu", max_length)
    assert stop.value.code == 2
    assert "zygomorphic" in (error := capsys.readouterr().err).lower() and "--label-words" in error


def test_a_chat_model_gets_prompts_through_its_template_and_a_base_model_gets_them_unchanged(opened):
    _, tokenizer, _, prompts = opened
    if tokenizer.chat_template:
        assert prompts[3] == "<|im_start|>user\nQ: A:<|im_end|>\n<|im_start|>assistant\n"
        # no special token is put before or after the template's own
        assert [tokenizer.decode(ids) for ids in encode_prompts(tokenizer, prompts, 512)] == prompts
    else:
        assert prompts == PROMPTS


def test_a_prompt_that_is_too_long_loses_its_beginning_and_that_is_said(opened, capsys):
    _, tokenizer, _, prompts = opened
    length = 16 if tokenizer.chat_template else 10
    ids = encode_prompts(tokenizer, prompts, length)
    assert [len(i) for i in ids[:3]] == [length] * 3
    whole = tokenizer(prompts[0], add_special_tokens=False)["input_ids"]
    if tokenizer.chat_template:                            # its own words stay
        first, last = (len(tokenizer(part)["input_ids"]) for part in TEMPLATE_FRAME)
        assert 0 < first + last < length and ids[0] == whole[:first] + whole[first - length:]
    else:
        assert ids[0] == whole[-10:]
    assert "lose their beginning" in capsys.readouterr().out


def test_a_model_is_asked_not_to_think_and_what_it_thinks_is_no_text(tmp_path):
    tokenizer = tokenizer_of(TINY)
    tokenizer.chat_template = "{{ messages[0].content }}{% if not enable_thinking %}<think></think>{% endif %}"
    assert apply_chat_template(tokenizer, ["Gold?"]) == ["Gold?<think></think>"]
    assert without_thinking("<think>\nHm, \n</think>\n\nGold is heavy.") == "Gold is heavy."
    assert without_thinking("Hm. </think>Gold.") == "Gold."                    # the template has opened it
    assert without_thinking("<think>\nFirst I have to") == ""                  # cut off: nothing of it is an answer
    assert without_thinking("  Gold.") == "Gold."


def test_of_gpt_oss_s_channels_the_final_one_is_kept():
    """Its channels are special tokens, which decoding would remove: "analysisHm.assistantfinalGold." """
    tokenizer = tokenizer_of(TINY)

    def reply(text):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return decode_replies(tokenizer, [ids])[0]
    tokenizer.add_special_tokens({"additional_special_tokens": [
        "<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|return|>"]})
    thinks = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    assert reply(thinks + "<|channel|>final<|message|>Gold is heavy.<|return|>") == "Gold is heavy."
    assert reply(thinks + "<|channel|>final<|message|>Gold is") == "Gold is"                   # cut off in the answer
    assert reply(thinks) == reply(thinks + "<|channel|>final") == reply(thinks[:20]) == ""     # or before it
    assert reply("Gold is heavy.<|return|>") == "Gold is heavy."                               # no channels
    assert reply(thinks + "<|channel|>final json<|message|>{}<|end|>") == "{}"


def test_with_no_chat_template_a_chat_model_is_prompted_as_a_base_model(tmp_path):
    _, tokenizer, _ = open_language_model(make_chat_model(tmp_path), "cpu", SimpleNamespace(no_chat_template=True))
    assert apply_chat_template(tokenizer, PROMPTS) == PROMPTS
    assert answer_word_ids(tokenizer, WORDS) == label_word_ids(tokenizer, WORDS)


def test_label_words_follow_a_line_break_in_a_chat():
    """ "Yes" after "assistant\\n", " yes" after an answer: different tokens."""
    tokenizer = tokenizer_of("tiny-4")
    tokenizer.add_tokens(["Yes", "No"])
    assert label_word_ids(tokenizer, ["No", "Yes"], "\n") != label_word_ids(tokenizer, WORDS)


# --------------------------------------------------------------------------- generation


def test_an_encoder_cannot_write(tmp_path, capsys):
    tokenizer = tokenizer_of(TINY)
    tokenizer.save_pretrained(tmp_path)
    config = transformers.BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1,
                                     num_attention_heads=2, intermediate_size=16)
    transformers.BertLMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(SystemExit) as stop:
        open_language_model(str(tmp_path), "cpu")
    assert stop.value.code == 2
    assert "no decoder" in capsys.readouterr().err


def generated_batches(opened, **settings):
    model, tokenizer, max_length, prompts = opened
    settings = {"max_new_tokens": 12, "stops": ["\n"], **settings}
    return list(generate_batches(model, tokenizer, prompts, "cpu", max_length, **settings))


def generated(opened, **settings):
    """-> {index of the prompt: text}"""
    texts = {}
    for indices, batch in generated_batches(opened, **settings):
        texts.update(zip(indices, batch))
    return texts


def test_texts_are_the_same_in_a_batch_and_one_at_a_time(opened):
    assert generated(opened) == generated(opened, batch_size=1)
    assert len(generated(opened)) == len(PROMPTS)


def test_long_prompts_are_generated_in_smaller_batches(opened, monkeypatch):
    """Fault: 256 notes about SciQ's paragraphs by a model of 0.3 billion parameters took 9 GB."""
    expected = generated(opened)
    lengths = [len(opened[1](prompt)["input_ids"]) for prompt in opened[3]]
    monkeypatch.setattr(models, "GENERATED_TOKENS", 2 * (max(lengths) + 12))
    batches = [indices for indices, _ in generated_batches(opened)]
    assert sorted(sum(batches, [])) == list(range(len(lengths))) and len(batches) > 1
    assert all(len(indices) * (max(lengths[i] for i in indices) + 12) <= models.GENERATED_TOKENS for indices in batches)
    assert generated(opened) == expected
    monkeypatch.setattr(models, "GENERATED_TOKENS", 1)               # a prompt alone is never refused
    assert [len(indices) for indices, _ in generated_batches(opened)] == [1] * len(lengths)


def test_greedy_generation_takes_the_likeliest_token_whatever_the_folder_recommends(opened):
    """By hand, token after token, without a cache."""
    model, tokenizer, _, prompts = opened
    ids = tokenizer(prompts[0], add_special_tokens=False)["input_ids"]
    start = len(ids)
    for _ in range(12):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    expected = cut_at_stop(tokenizer.decode(ids[start:], skip_special_tokens=True), ["\n"])
    assert generated(opened)[0] == expected


def test_samples_depend_on_their_seed_alone_and_not_on_what_came_before(opened):
    sampling = {"temperature": 1.0, "batch_size": 2}
    first = generated(opened, **sampling)
    torch.randn(7)
    assert generated(opened, **sampling) == first
    assert generated(opened, seed=1, **sampling) != first


def test_top_k_and_the_ban_on_repeated_tokens(opened):
    greedy = generated(opened)
    assert generated(opened, temperature=1.0, top_k=1) == greedy
    once = generated(opened, no_repeat=1)
    assert once != greedy
    if not opened[1].chat_template:                        # a text of the chat model is not cut into its tokens again
        tokens = [opened[1](text)["input_ids"] for text in once.values()]
        assert all(len(ids) == len(set(ids)) for ids in tokens)                # no token occurs twice


def test_batches_that_are_done_are_skipped_and_the_others_stay_as_they_were(opened):
    """Batches of two, shortest first. A batch of which a kill left a half is generated again, whole."""
    sampling = {"temperature": 1.0, "batch_size": 2}
    everything = generated(opened, **sampling)
    (first, _), (second, _) = generated_batches(opened, **sampling)
    texts_of_second = {i: everything[i] for i in second}
    assert generated(opened, done=first, **sampling) == texts_of_second
    assert generated(opened, done=[*first, second[0]], **sampling) == texts_of_second
    assert generated(opened, done=range(4), **sampling) == {}


def test_generation_stops_at_a_stop_string_however_it_falls_into_tokens():
    """tiny-4 never ends an argument; " Against:" is several of its tokens."""
    model, tokenizer, max_length = open_language_model("tiny-4", "cpu")
    prompt = "Q: Which type of fruit or seed case does alfalfa form? A: legume pod For:"
    steps = []
    hook = model.register_forward_pre_hook(lambda *_: steps.append(1))
    [(_, [text])] = generate_batches(model, tokenizer, [prompt], "cpu", max_length, 60, ["Against:", "\n"])
    hook.remove()
    assert text.endswith("legume pod.")
    assert "Against" not in text
    assert len(steps) < 30


def test_a_text_is_cut_at_the_first_stop_string_after_its_beginning():
    assert cut_at_stop("gold. Q: what\nFor: x", ["For:", "Q:", "\n"]) == "gold."
    assert cut_at_stop("\n For: x", ["For:", "\n"]) == ""
    assert cut_at_stop(" gold ", []) == "gold"


# --------------------------------------------------------------------------- how likely a text is


def pad_with_extra(ids, tokenizer, extra):
    """models.pad, and `extra` columns of padding more"""
    longest = max(ids, key=len)
    batch = pad([*ids, longest + [0] * extra], tokenizer, "cpu")
    return {key: value[:-1] for key, value in batch.items()}


def test_pitfall_31_padding_never_changes_how_unlikely_a_text_is(opened):
    model, tokenizer, _, prompts = opened
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in prompts[:2]]
    with torch.no_grad():
        alone = []
        for row in ids:
            logits = model(torch.tensor([row])).logits[0, :-1]
            alone.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor(row[1:]))))
        for extra in (0, 5):
            assert mean_nll(model, pad_with_extra(ids, tokenizer, extra)).tolist() == pytest.approx(alone, abs=1e-4)
