"""
Asking a language model: the next word from raw logits, writing on in batches, stops, and going on where a run was killed.

python -m pytest tests/test_prompting.py         # 10 s, CPU, no network
"""
import os

import pytest
import torch

from conftest import ROOT
from prompting import as_chat, cut_at, encode, judge, mean_surprise, open_language_model, surprise, write
from train_weak import label_word_ids, pad

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
    """(model, tokenizer, longest, prompts as it expects them, its label words)"""
    name = request.param if request.param != "chat" else make_chat_model(tmp_path_factory.mktemp("chat"))
    model, tokenizer, longest = open_language_model(name, "cpu")
    return model, tokenizer, longest, as_chat(tokenizer, PROMPTS)


# --------------------------------------------------------------------------- judging

def test_pitfalls_2_and_28_a_verdict_is_the_softmax_of_two_raw_logits_however_the_batch_is_padded(opened):
    model, tokenizer, longest, prompts = opened
    if tokenizer.chat_template:
        no, yes = (tokenizer(word, add_special_tokens=False)["input_ids"] for word in ("No", "Yes"))
    else:
        no, yes = (tokenizer("A" + word)["input_ids"][1:] for word in (" no", " yes"))
    assert len(no) == len(yes) == 1
    together = judge(model, tokenizer, prompts, [" no", " yes"], "cpu", longest)
    for text, pair in zip(prompts, together):
        with torch.no_grad():
            logits = model(torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])).logits[0, -1, [no[0], yes[0]]]
        assert pair == pytest.approx(logits.softmax(-1).tolist(), abs=1e-5)
        assert judge(model, tokenizer, [text], [" no", " yes"], "cpu", longest)[0] == pytest.approx(pair, abs=1e-5)
    assert together.sum(1) == pytest.approx(1, abs=1e-6) and len(set(together[:, 1].tolist())) == len(prompts) and together.dtype == "float32"


def test_label_words_that_are_not_single_tokens_are_one_clear_line(opened, capsys):
    model, tokenizer, longest, prompts = opened
    with pytest.raises(SystemExit) as stop:
        judge(model, tokenizer, prompts, [" zygomorphic-unheard", " yes"], "cpu", longest)
    assert stop.value.code == 2 and "not one token each" in capsys.readouterr().err


def test_a_chat_model_is_asked_through_its_template_and_a_base_model_as_the_text_stands(opened):
    _, tokenizer, _, prompts = opened
    if tokenizer.chat_template:
        assert prompts[3] == "<|im_start|>user\nQ: A:<|im_end|>\n<|im_start|>assistant\n"
        assert [tokenizer.decode(i) for i in encode(tokenizer, prompts, 512)] == prompts               # nothing is put before or after the template's own
    else:
        assert prompts == PROMPTS


def test_a_prompt_that_is_too_long_loses_its_beginning_and_that_is_said(opened, capsys):
    _, tokenizer, _, prompts = opened
    ids = encode(tokenizer, prompts, 10)
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


# --------------------------------------------------------------------------- writing

def written(opened, **how):
    model, tokenizer, longest, prompts = opened
    texts = {}
    for where, found in write(model, tokenizer, prompts, "cpu", longest, **{"max_new_tokens": 12, "stops": ["\n"], **how}):
        texts.update(zip(where, found))
    return texts


def test_written_in_a_batch_as_one_at_a_time(opened):
    assert written(opened) == written(opened, batch_size=1) and len(written(opened)) == len(PROMPTS)


def test_greedy_writing_takes_the_likeliest_token_whatever_the_folder_recommends(opened):
    """By hand, token after token, without a cache."""
    model, tokenizer, longest, prompts = opened
    ids = tokenizer(prompts[0], add_special_tokens=False)["input_ids"]
    start = len(ids)
    for _ in range(12):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    assert written(opened)[0] == cut_at(tokenizer.decode(ids[start:], skip_special_tokens=True), ["\n"])


def test_sampling_depends_on_its_seed_alone_and_not_on_what_came_before(opened):
    how = {"temperature": 1.0, "batch_size": 2}
    first = written(opened, **how)
    torch.randn(7)
    assert written(opened, **how) == first != written(opened, seed=1, **how)


def test_what_is_done_is_left_out_and_the_rest_stays_as_it_was(opened):
    """Batches of two, shortest first. One is written: only the other is. A batch that a kill tore is written again, whole."""
    how = {"temperature": 1.0, "batch_size": 2}
    whole = written(opened, **how)
    model, tokenizer, longest, prompts = opened
    batches = [where for where, _ in write(model, tokenizer, prompts, "cpu", longest, 12, ["\n"], **how)]
    assert written(opened, done=batches[0], **how) == {i: whole[i] for i in batches[1]}
    assert written(opened, done=[*batches[0], batches[1][0]], **how) == {i: whole[i] for i in batches[1]}
    assert written(opened, done=range(4), **how) == {}


def test_writing_stops_where_a_stop_string_does_however_it_falls_into_tokens():
    """tiny-4 argues on and on; " Against:" is several of its tokens."""
    model, tokenizer, longest = open_language_model("tiny-4", "cpu")
    steps = []
    hook = model.register_forward_pre_hook(lambda *_: steps.append(1))
    [(_, [text])] = write(model, tokenizer, ["Q: Which type of fruit or seed case does alfalfa form? A: legume pod For:"], "cpu", longest, 60, ["Against:", "\n"])
    hook.remove()
    assert text.endswith("legume pod.") and "Against" not in text and len(steps) < 30


def test_cutting():
    assert cut_at("gold. Q: what\nFor: x", ["For:", "Q:", "\n"]) == "gold." and cut_at("\n For: x", ["For:", "\n"]) == "" and cut_at(" gold ", []) == "gold"


def test_label_words_follow_a_line_break_in_a_chat():
    """ "Yes" after "assistant\\n", " yes" after an answer: different tokens."""
    tokenizer = open_language_model("tiny-4", "cpu")[1]
    tokenizer.add_tokens(["Yes", "No"])
    assert label_word_ids(tokenizer, ["No", "Yes"], "\n") != label_word_ids(tokenizer, [" no", " yes"])


def test_pitfall_31_padding_never_changes_how_unlikely_a_text_is(opened):
    model, tokenizer, _, prompts = opened
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in prompts[:2]]
    real = torch.tensor([[len(i) - 1.0] for i in ids])
    with torch.no_grad():
        alone = [float(torch.nn.functional.cross_entropy(model(torch.tensor([i])).logits[0, :-1], torch.tensor(i[1:]))) for i in ids]
        for extra in (0, 5):
            batch = padded(ids, tokenizer, extra)
            assert mean_surprise(surprise(model, batch), real).tolist() == pytest.approx(alone, abs=1e-4)


def padded(ids, tokenizer, extra):
    """Right padding as train_weak.pad has it, and `extra` columns more."""
    batch = pad([*ids, ids[0] + [0] * extra], tokenizer, "cpu")
    return {key: value[:-1] for key, value in batch.items()}
