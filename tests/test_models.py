"""
Models: pooling, padding, heads, damaged folders; the next word from raw logits; generation in batches, stops, resuming.

python -m pytest tests/test_models.py         # 30 s, CPU, no network
"""
import json
import os
import shutil

import numpy as np
import pytest
import torch
import transformers

import contract
from models import (
    apply_chat_template,
    classify,
    cut_at_stop,
    encode_prompts,
    generate_batches,
    label_word_ids,
    load_classifier,
    mean_nll,
    next_word_probs,
    open_language_model,
    pad,
    predict,
    tokenize,
)

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


def test_label_words_of_more_than_one_token_are_refused(tiny, capsys):
    with pytest.raises(SystemExit):
        label_word_ids(tiny[1], [" no", " Zyzzogeton"])
    assert "one token each" in capsys.readouterr().err


def test_too_long_rows_lose_their_beginning_and_it_is_said(tiny, capsys):
    _, tokenizer, _ = tiny
    rows = [{"text": "gold " * 50 + "Q: Is it? A: yes"}, {"text": "Q: Is it? A: yes"}]
    long, short = tokenize(tokenizer, rows, 12)
    assert len(long) == 12
    assert tokenizer.decode(long).endswith("A: yes")
    assert tokenizer.decode(short) == rows[1]["text"]
    assert "1 of 2 rows" in capsys.readouterr().out


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


def random_model(folder, name, kind):
    """A model of two layers with random weights, and tinyworld's tokenizer, in a folder like any hub model's."""
    tokenizer = tokenizer_of(TINY)
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
             "max_position_embeddings": 64, "pad_token_id": 0}
    if name not in ("GPT2", "OPT"):
        sizes["intermediate_size"] = 64
    config = getattr(transformers, name + "Config")(**sizes, **SIZES[name])
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


# --------------------------------------------------------------------------- the next word

PROMPTS = ["Q: Which block does gold belong to? A: s-block",
           "Q: As what do people mostly use butane? A: fuel",
           "Note: In a correct drawing of the adult lyrebird, the number of legs is two.\n"
           "Q: How many legs has an adult lyrebird? A: two",
           "Q: A:"]

TEMPLATE = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


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
    assert "not one token each" in capsys.readouterr().err


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
    ids = encode_prompts(tokenizer, prompts, 10)
    assert [len(i) for i in ids[:3]] == [10] * 3
    assert ids[0] == tokenizer(prompts[0], add_special_tokens=False)["input_ids"][-10:]
    assert "lose their beginning" in capsys.readouterr().out


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
