"""
Models: pooling, padding, heads, damaged folders; the next word from raw logits; generation in batches, stops, and resuming.

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
from conftest import ROOT
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


@pytest.fixture(scope="module")
def tiny():
    return load_classifier(TINY, "lm", [" no", " yes"], "cpu")


def ragged(n=12, seed=0, vocabulary=2000):
    """Token ids of many lengths; 0 is padding and end-of-text here, and stands inside some of them, at the end too."""
    rng = np.random.default_rng(seed)
    ids = [rng.integers(0, vocabulary, rng.integers(1, 30)).tolist() for _ in range(n)]
    ids[0][-1], ids[1][0], ids[2][len(ids[2]) // 2] = 0, 0, 0
    return ids


def test_pitfall_01_pooling_reads_the_last_real_token_whatever_its_id(tiny):
    model, tokenizer, _ = tiny
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 0
    ids = ragged()
    with torch.no_grad():
        together = classify(model, pad(ids, tokenizer, "cpu"))
        for i, row in enumerate(ids):                                          # a batch of one, read at its true end, by the language model's own body
            alone = model.score(model.transformer(torch.tensor([row])).last_hidden_state[0, -1])
            assert torch.allclose(together[i], alone, atol=1e-4), i


@pytest.mark.parametrize("extra", [1, 7, 40])
def test_pitfall_02_padding_changes_nothing(tiny, extra):
    model, tokenizer, _ = tiny
    batch = pad(ragged(), tokenizer, "cpu")
    wider = {k: torch.nn.functional.pad(v, (0, extra)) for k, v in batch.items()}
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
    tokenizer = transformers.AutoTokenizer.from_pretrained(contract.model_folder(TINY))
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_an_encoder_is_padding_invariant_and_goes_through_the_same_functions(encoder):
    torch.manual_seed(0)
    model, tokenizer, max_length = load_classifier(encoder, "lm", [" no", " yes"], "cpu")
    ids = ragged()
    alone = np.concatenate([predict(model, tokenizer, [row], "cpu") for row in ids])
    assert np.abs(alone - predict(model, tokenizer, ids, "cpu")).max() < 1e-5


def test_the_head_starts_as_the_language_models_opinion(tiny):
    model, tokenizer, _ = tiny
    lm = transformers.AutoModelForCausalLM.from_pretrained(contract.model_folder(TINY), dtype=torch.float32)
    ids = tokenizer("Q: In which block of the periodic table is the element gold? A: d-block")["input_ids"]
    with torch.no_grad():
        expected = lm(torch.tensor([ids])).logits[0, -1, label_word_ids(tokenizer, [" no", " yes"])]
        assert torch.allclose(classify(model, pad([ids], tokenizer, "cpu"))[0], expected, atol=1e-4)


def test_label_words_of_more_than_one_token_are_refused(tiny, capsys):
    with pytest.raises(SystemExit):
        label_word_ids(tiny[1], [" no", " Zyzzogeton"])
    assert "one token each" in capsys.readouterr().err


def test_too_long_rows_lose_their_beginning_and_it_is_said(tiny, capsys):
    _, tokenizer, _ = tiny
    rows = [{"text": "gold " * 50 + "Q: Is it? A: yes"}, {"text": "Q: Is it? A: yes"}]
    long, short = tokenize(tokenizer, rows, 12)
    assert len(long) == 12 and tokenizer.decode(long).endswith("A: yes") and tokenizer.decode(short) == rows[1]["text"]
    assert "1 of 2 rows" in capsys.readouterr().out


def test_prediction_returns_every_row_in_its_place_and_distinct_doubts_stay_distinct(tiny):
    model, tokenizer, _ = tiny
    ids = ragged(33)
    p = predict(model, tokenizer, ids, "cpu", tokens=64)
    assert p.dtype == np.float32 and p.shape == (33, 2) and np.allclose(p.sum(1), 1, atol=1e-6) and not (p == 0.5).any()
    order = np.random.default_rng(0).permutation(33)
    assert np.abs(predict(model, tokenizer, [ids[i] for i in order], "cpu", tokens=64) - p[order]).max() < 1e-5


def test_dropout_is_off(encoder):
    assert transformers.AutoConfig.from_pretrained(encoder).hidden_dropout_prob == 0.1
    model = load_classifier(encoder, "lm", [" no", " yes"], "cpu")[0]
    drops = [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    assert len(drops) > 3 and not any(drops)


def test_a_saved_checkpoint_gives_the_same_predictions_and_keeps_its_head(tmp_path, tiny):
    model, tokenizer, max_length = tiny
    contract.save_checkpoint(str(tmp_path), model, tokenizer)
    again, tokenizer_again, _ = load_classifier(str(tmp_path / "checkpoint"), "lm", [" no", " yes"], "cpu")
    rows = [{"text": "Q: Is gold a metal? A: yes"}]
    assert np.array_equal(predict(model, tokenizer, tokenize(tokenizer, rows, max_length), "cpu"),
                          predict(again, tokenizer_again, tokenize(tokenizer_again, rows, max_length), "cpu"))
    assert sorted(n for n in os.listdir(tmp_path / "checkpoint") if n.endswith((".bin", ".pt", ".pkl"))) == []


def copy_of_tiny(tmp_path, drop=(), **config):
    folder = tmp_path / "model"
    shutil.copytree(contract.model_folder(TINY), folder)
    for name in drop:
        os.remove(folder / name)
    if config:
        spec = json.loads((folder / "config.json").read_text()) | config
        (folder / "config.json").write_text(json.dumps(spec))
    return folder


def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path, capsys):
    def refused(name, *words):
        with pytest.raises(SystemExit) as stop:
            load_classifier(str(name), "lm", [" no", " yes"], "cpu")
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.count("\n") == 1 and all(word in error for word in words), error

    refused("no-such-model", "no-such-model")
    refused("tiny-9", "tiny-9", "tiny-4")
    refused(copy_of_tiny(tmp_path / "a", drop=["model.safetensors"]), "cannot load")
    truncated = copy_of_tiny(tmp_path / "b")
    (truncated / "model.safetensors").write_bytes((truncated / "model.safetensors").read_bytes()[:5000])
    refused(truncated, "cannot load")
    refused(copy_of_tiny(tmp_path / "c", n_layer=9), "lacks", "config.json")   # weights that are not there would be random, silently


def test_a_folder_without_tokenizer_is_one_line(tmp_path, capsys):
    folder = copy_of_tiny(tmp_path, drop=["tokenizer.json", "tokenizer_config.json"])
    with pytest.raises(SystemExit) as stop:
        model, tokenizer, max_length = load_classifier(str(folder), "random", [" no", " yes"], "cpu")
        tokenize(tokenizer, [{"id": "a", "text": "gold"}], max_length)
    assert stop.value.code == 2 and "Traceback" not in capsys.readouterr().err


def test_scores_that_are_no_numbers_stop_the_run(tiny, capsys):
    model, tokenizer, _ = load_classifier(TINY, "lm", [" no", " yes"], "cpu")
    model.score.weight.data[:] = float("nan")
    with pytest.raises(SystemExit):
        predict(model, tokenizer, [[1, 2, 3]], "cpu")
    assert "diverged" in capsys.readouterr().err


SIZES = {"GPT2": {}, "OPT": dict(ffn_dim=64, word_embed_proj_dim=32), "Llama": dict(tie_word_embeddings=False), "Qwen2": dict(num_key_value_heads=1),
         "Qwen3": dict(num_key_value_heads=1, head_dim=16), "Gemma": dict(num_key_value_heads=1, head_dim=16), "GPTNeoX": {}, "Bert": {}, "ModernBert": {}}


def random_model(folder, name, kind):
    """A model of two layers with random weights, and tinyworld's tokenizer, in a folder like any hub model's."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(contract.model_folder(TINY))
    sizes = dict(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=64, pad_token_id=0)
    sizes |= SIZES[name] | ({} if name in ("GPT2", "OPT") else {"intermediate_size": 64})
    torch.manual_seed(0)
    model = getattr(transformers, kind).from_config(getattr(transformers, name + "Config")(**sizes)).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", ["GPT2", "GPTNeoX", "Llama", "Qwen2", "Qwen3", "OPT", "Gemma"])
def test_other_decoders_pool_at_the_end_and_start_from_their_own_rows(tmp_path, name):
    """Random weights, untied embeddings where the architecture has them: padded in a batch = alone, and the head is the language model's."""
    lm = random_model(tmp_path, name, "AutoModelForCausalLM")
    model, tokenizer, max_length = load_classifier(str(tmp_path), "lm", [" no", " yes"], "cpu")
    ids = ragged(8)
    with torch.no_grad():
        together = classify(model.eval(), pad(ids, tokenizer, "cpu"))
        for i, row in enumerate(ids):
            assert torch.allclose(together[i], lm(torch.tensor([row])).logits[0, -1, label_word_ids(tokenizer, [" no", " yes"])], atol=1e-4)


PROMPTS = ["Q: Which block does gold belong to? A: s-block", "Q: As what do people mostly use butane? A: fuel",
           "Note: In a correct drawing of the adult lyrebird, the number of legs is two.\nQ: How many legs has an adult lyrebird? A: two", "Q: A:"]


TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def make_chat_model(folder):
    """A random Qwen2 of two layers with a chat template, as a hub folder would hold it: nobody taught it anything."""
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
    tokenizer = AutoTokenizer.from_pretrained(os.path.join(ROOT, "data", "tinyworld", "models", "tiny-4"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.add_tokens(["Yes", "No"])
    tokenizer.eos_token, tokenizer.chat_template = "<|im_end|>", TEMPLATE
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                                         num_key_value_heads=2, max_position_embeddings=512, eos_token_id=tokenizer.eos_token_id,
                                         pad_token_id=tokenizer.pad_token_id, initializer_range=0.5, tie_word_embeddings=False))
    model.generation_config.update(do_sample=True, temperature=0.01, top_k=1, repetition_penalty=1.5)        # what a hub folder may bring along
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", params=["tiny-1a", "chat"])
def opened(request, tmp_path_factory):
    """(model, tokenizer, max_length, prompts as it expects them, its label words)"""
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
    together = next_word_probs(model, tokenizer, prompts, [" no", " yes"], "cpu", max_length)
    for text, pair in zip(prompts, together):
        with torch.no_grad():
            logits = model(torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])).logits[0, -1, [no[0], yes[0]]]
        assert pair == pytest.approx(logits.softmax(-1).tolist(), abs=1e-5)
        assert next_word_probs(model, tokenizer, [text], [" no", " yes"], "cpu", max_length)[0] == pytest.approx(pair, abs=1e-5)
    assert together.sum(1) == pytest.approx(1, abs=1e-6) and len(set(together[:, 1].tolist())) == len(prompts) and together.dtype == "float32"


def test_label_words_that_are_not_single_tokens_are_one_clear_line(opened, capsys):
    model, tokenizer, max_length, prompts = opened
    with pytest.raises(SystemExit) as stop:
        next_word_probs(model, tokenizer, prompts, [" zygomorphic-unheard", " yes"], "cpu", max_length)
    assert stop.value.code == 2 and "not one token each" in capsys.readouterr().err


def test_a_chat_model_is_asked_through_its_template_and_a_base_model_as_the_text_stands(opened):
    _, tokenizer, _, prompts = opened
    if tokenizer.chat_template:
        assert prompts[3] == "<|im_start|>user\nQ: A:<|im_end|>\n<|im_start|>assistant\n"
        assert [tokenizer.decode(i) for i in encode_prompts(tokenizer, prompts, 512)] == prompts               # nothing is put before or after the template's own
    else:
        assert prompts == PROMPTS


def test_a_prompt_that_is_too_long_loses_its_beginning_and_that_is_said(opened, capsys):
    _, tokenizer, _, prompts = opened
    ids = encode_prompts(tokenizer, prompts, 10)
    assert [len(i) for i in ids[:3]] == [10] * 3 and ids[0] == tokenizer(prompts[0], add_special_tokens=False)["input_ids"][-10:]
    assert "lose their beginning" in capsys.readouterr().out


def test_an_encoder_cannot_write(tmp_path, capsys):
    from transformers import AutoTokenizer, BertConfig, BertLMHeadModel
    tokenizer = AutoTokenizer.from_pretrained(os.path.join(ROOT, "data", "tinyworld", "models", "tiny-1a"))
    tokenizer.save_pretrained(tmp_path)
    BertLMHeadModel(BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)).save_pretrained(tmp_path)
    with pytest.raises(SystemExit) as stop:
        open_language_model(str(tmp_path), "cpu")
    assert stop.value.code == 2 and "no decoder" in capsys.readouterr().err


def written(opened, **how):
    model, tokenizer, max_length, prompts = opened
    texts = {}
    for where, found in generate_batches(model, tokenizer, prompts, "cpu", max_length, **{"max_new_tokens": 12, "stops": ["\n"], **how}):
        texts.update(zip(where, found))
    return texts


def test_written_in_a_batch_as_one_at_a_time(opened):
    assert written(opened) == written(opened, batch_size=1) and len(written(opened)) == len(PROMPTS)


def test_greedy_writing_takes_the_likeliest_token_whatever_the_folder_recommends(opened):
    """By hand, token after token, without a cache."""
    model, tokenizer, max_length, prompts = opened
    ids = tokenizer(prompts[0], add_special_tokens=False)["input_ids"]
    start = len(ids)
    for _ in range(12):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    assert written(opened)[0] == cut_at_stop(tokenizer.decode(ids[start:], skip_special_tokens=True), ["\n"])


def test_sampling_depends_on_its_seed_alone_and_not_on_what_came_before(opened):
    how = {"temperature": 1.0, "batch_size": 2}
    first = written(opened, **how)
    torch.randn(7)
    assert written(opened, **how) == first != written(opened, seed=1, **how)


def test_what_is_done_is_left_out_and_the_rest_stays_as_it_was(opened):
    """Batches of two, shortest first. One is written: only the other is. A batch that a kill tore is written again, whole."""
    how = {"temperature": 1.0, "batch_size": 2}
    whole = written(opened, **how)
    model, tokenizer, max_length, prompts = opened
    batches = [where for where, _ in generate_batches(model, tokenizer, prompts, "cpu", max_length, 12, ["\n"], **how)]
    assert written(opened, done=batches[0], **how) == {i: whole[i] for i in batches[1]}
    assert written(opened, done=[*batches[0], batches[1][0]], **how) == {i: whole[i] for i in batches[1]}
    assert written(opened, done=range(4), **how) == {}


def test_writing_stops_where_a_stop_string_does_however_it_falls_into_tokens():
    """tiny-4 argues on and on; " Against:" is several of its tokens."""
    model, tokenizer, max_length = open_language_model("tiny-4", "cpu")
    steps = []
    hook = model.register_forward_pre_hook(lambda *_: steps.append(1))
    [(_, [text])] = generate_batches(model, tokenizer, ["Q: Which type of fruit or seed case does alfalfa form? A: legume pod For:"], "cpu", max_length, 60, ["Against:", "\n"])
    hook.remove()
    assert text.endswith("legume pod.") and "Against" not in text and len(steps) < 30


def test_cutting():
    assert cut_at_stop("gold. Q: what\nFor: x", ["For:", "Q:", "\n"]) == "gold." and cut_at_stop("\n For: x", ["For:", "\n"]) == "" and cut_at_stop(" gold ", []) == "gold"


def test_label_words_follow_a_line_break_in_a_chat():
    """ "Yes" after "assistant\\n", " yes" after an answer: different tokens."""
    tokenizer = open_language_model("tiny-4", "cpu")[1]
    tokenizer.add_tokens(["Yes", "No"])
    assert label_word_ids(tokenizer, ["No", "Yes"], "\n") != label_word_ids(tokenizer, [" no", " yes"])


def test_pitfall_31_padding_never_changes_how_unlikely_a_text_is(opened):
    model, tokenizer, _, prompts = opened
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in prompts[:2]]
    with torch.no_grad():
        alone = [float(torch.nn.functional.cross_entropy(model(torch.tensor([i])).logits[0, :-1], torch.tensor(i[1:]))) for i in ids]
        for extra in (0, 5):
            batch = padded(ids, tokenizer, extra)
            assert mean_nll(model, batch).tolist() == pytest.approx(alone, abs=1e-4)


def padded(ids, tokenizer, extra):
    """Right padding as train_weak.pad has it, and `extra` columns more."""
    batch = pad([*ids, ids[0] + [0] * extra], tokenizer, "cpu")
    return {key: value[:-1] for key, value in batch.items()}
