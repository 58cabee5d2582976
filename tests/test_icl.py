"""
In-context labels: which rows are shown, how a prompt is built, and that reading the shared prefix once changes nothing.

python -m pytest tests/test_icl.py          # 20 s
"""
import argparse
import doctest
import json
import math
import os
import random
import re
import shutil
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

import contract
import families
import icl
import warm
from conftest import ROOT
from contract import model_folder, read_rows
from metrics import cosine_similarity
from models import (
    answer_word_ids, apply_chat_template, forward_all, next_word_logits, next_word_probs, open_checkpoint,
    open_language_model, predict)

NEEDS = ("icl.py", "contract.py", "metrics.py", "models.py")       # as its header says
WORDS = [" no", " yes"]
CHAT = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


@pytest.fixture(scope="module")
def tiny():
    return open_language_model("tiny-4", "cpu")


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    """A model of Qwen2's shape with random weights and a chat template, its tokenizer tinyworld's."""
    folder = str(tmp_path_factory.mktemp("models") / "qwen")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder("tiny-4"))
    tokenizer.chat_template = CHAT
    tokenizer.model_max_length = 300
    tokenizer.add_tokens(["No", "Yes"])                    # as Qwen has them, without a space
    torch.manual_seed(0)
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=300, initializer_range=0.4, bos_token_id=0, eos_token_id=0,
        pad_token_id=0))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_examples_in_the_docstrings():
    result = doctest.testmod(icl)
    assert result.attempted >= 9 and not result.failed


# --------------------------------------------------------------------------- which rows to show


def test_sample_per_class_takes_half_of_each_and_fills_up_from_the_other():
    is_yes = np.array([True] * 10 + [False] * 3)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        assert is_yes[icl.sample_per_class(is_yes, 4, rng)].sum() == 2
        assert is_yes[icl.sample_per_class(is_yes, 5, rng)].sum() in (2, 3)
        chosen = icl.sample_per_class(is_yes, 10, rng)
        assert len(set(chosen.tolist())) == 10
        assert is_yes[chosen].sum() == 7                   # only three rows are labelled no
        assert sorted(icl.sample_per_class(is_yes, 13, rng).tolist()) == list(range(13))
    draws = {tuple(icl.sample_per_class(is_yes, 4, np.random.default_rng(seed)).tolist()) for seed in range(20)}
    assert len(draws) > 15
    single = [icl.sample_per_class(is_yes, 1, np.random.default_rng(seed)) for seed in range(20)]
    assert {int(is_yes[chosen].sum()) for chosen in single} == {0, 1}


def test_another_seed_draws_others():
    is_yes = np.arange(50) % 2 == 0
    draws = [icl.sample_per_class(is_yes, 4, np.random.default_rng([seed, 0])).tolist() for seed in range(2)]
    assert draws[0] != draws[1]


def test_confident_takes_the_most_confident_of_each_class_and_the_earlier_of_equals():
    soft = np.array([[.1, .9], [.6, .4], [.2, .8], [.9, .1], [.1, .9], [.95, .05], [.9, .1]])
    chosen = icl.sample_per_class(soft[:, 1] > 0.5, 4, np.random.default_rng(0), confidence=soft.max(1))
    assert sorted(chosen.tolist()) == [0, 3, 4, 5]         # 3 and 6 have the same confidence: the earlier


def test_bm25_by_hand():
    pool = ["gold is heavy", "ants are light", "gold gold gold is a metal of the d-block"]
    scores = icl.bm25(["Is GOLD heavy?", "zebra"], pool)
    lengths = [3, 3, 10]
    mean = 16 / 3
    idf = {n: math.log(1 + (3 - n + 0.5) / (n + 0.5)) for n in (1, 2)}

    def part(n, tf, length):
        return idf[n] * tf * 2.5 / (tf + 1.5 * (1 - 0.75 + 0.75 * length / mean))
    assert scores[0, 0] == pytest.approx(part(2, 1, 3) + part(2, 1, 3) + part(1, 1, 3))
    assert scores[0, 2] == pytest.approx(part(2, 1, lengths[2]) + part(2, 3, lengths[2]))
    assert scores[0, 1] == 0
    assert (scores[1] == 0).all()


def test_the_most_similar_come_last_and_ties_go_to_the_earlier_row():
    assert icl.most_similar(np.array([[0.1, 0.9, 0.5, 0.9]]), 3).tolist() == [[2, 3, 1]]
    assert icl.most_similar(np.zeros((1, 4)), 2).tolist() == [[1, 0]]
    near = cosine_similarity(np.array([[2.0, 0.0]]), np.array([[0.0, 5.0], [0.1, 0.0], [3.0, 3.0]]))
    assert near == pytest.approx(np.array([[0.0, 1.0, math.sqrt(0.5)]]))
    assert icl.most_similar(near, 2).tolist() == [[2, 1]]


def test_every_retriever_has_as_many_prompts_and_each_has_rows_of_its_own():
    """Fault: random averaged four draws, the others had one prompt: averaging alone made random look better."""
    similarity = np.random.default_rng(0).random((3, 40))
    draws = [icl.most_similar(similarity, 4, draw, 4) for draw in range(4)]
    best = np.argsort(-similarity, axis=1)[:, :16]
    for row in range(3):
        assert sorted(np.concatenate([d[row] for d in draws])) == sorted(best[row])        # the 16 best, once each
        assert [d[row, -1] for d in draws] == best[row, :4].tolist()           # each draw has one of the four best
    is_yes = np.arange(40) % 2 == 0
    sure = np.linspace(1, 0.5, 40)
    chosen = [icl.sample_per_class(is_yes, 4, np.random.default_rng(0), sure, draw, 4).tolist() for draw in range(4)]
    assert sorted(sum(chosen, [])) == list(range(16)) and all(is_yes[c].sum() == 2 for c in chosen)
    few = [icl.most_similar(similarity[:, :5], 4, draw, 4) for draw in range(4)]
    assert all(np.array_equal(d, few[0]) for d in few)     # too few rows: the draws share them


def test_vote_k_by_hand():
    """
    On a line by angle, one neighbour each: rows 0, 1, 2 lie together, 3 and 4 together. 0 votes for 1, 1 for 0, 2 for
    1, 3 and 4 for each other. Row 1 has two votes and is selected first. Its voters then count a tenth, so 3 with a
    whole vote comes before 0 and 2.
    """
    angles = np.array([0.0, 0.10, 0.21, 1.0, 1.1])
    rows = np.stack([np.cos(angles), np.sin(angles)], 1)
    assert icl.vote_k(rows, 2, n_neighbours=1).tolist() == [1, 3]
    # then row 3, the voter of 4, is selected and has no vote; nor has row 1, the voter of 0: the earlier row is first
    assert icl.vote_k(rows, 5, n_neighbours=1).tolist() == [1, 3, 0, 2, 4]
    assert sorted(icl.vote_k(rows, 9, n_neighbours=9).tolist()) == [0, 1, 2, 3, 4]


def test_vote_k_agrees_with_a_plain_loop():
    rows = np.random.default_rng(0).normal(size=(40, 5))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    voters = {u: [] for u in range(40)}
    for v in range(40):
        near = sorted((u for u in range(40) if u != v), key=lambda u: -unit[v] @ unit[u])[:6]
        for u in near:
            voters[u].append(v)
    selected = []
    n_selected = Counter()
    while len(selected) < 12:
        votes = {}
        for u in set(range(40)) - set(selected):
            votes[u] = sum(10.0 ** -n_selected[v] for v in voters[u] if v not in selected)
        selected.append(max(votes, key=lambda u: (round(votes[u], 9), -u)))
        n_selected.update(voters[selected[-1]])
    assert icl.vote_k(rows, 12, n_neighbours=6).tolist() == selected


def test_noise_flips_exactly_n_labels_and_more_noise_adds_to_less():
    labels = np.random.default_rng(3).random((50, 8)) < 0.5
    before = np.zeros_like(labels)
    for n in range(9):
        flipped = icl.flip_labels(labels, n, np.random.default_rng(7)) != labels
        assert (flipped.sum(1) == n).all()
        assert (flipped | ~before).all()
        before = flipped
    flipped = icl.flip_labels(labels, 3, np.random.default_rng(7)) != labels
    assert flipped.any(0).all()                            # every position is flipped in some row


def test_contextual_calibration_by_hand():
    p = np.array([[0.6, 0.4], [0.75, 0.25], [0.2, 0.8]])
    out = icl.contextual_calibration(p, np.array([[0.75, 0.25]]))
    no = 0.6 / 0.75
    yes = 0.4 / 0.25
    assert out[0] == pytest.approx([no / (no + yes), yes / (no + yes)])
    assert out[1] == pytest.approx([0.5, 0.5])             # the prediction for a text without content becomes a half
    assert icl.contextual_calibration(p, np.full((3, 2), 0.5)) == pytest.approx(p)
    assert np.isfinite(icl.contextual_calibration(p, np.array([[1.0, 0.0]]))).all()


# --------------------------------------------------------------------------- the prompt


def test_the_prompt_is_a_sheet_in_the_format_of_the_pretraining_corpus(tiny):
    _, tokenizer, _ = tiny
    lines = [icl.format_demonstration("Q: Is it? A: six", " yes", 0.871),
             icl.format_demonstration("Q: Was it? A: two", " no", 1.0),
             icl.format_demonstration("Q: How? A: so", " no")]
    assert icl.build_prompt(tokenizer, lines, "Q: What? A: this", WORDS).split("\n") == [
        "Q: Is it? A: six yes (confidence 0.87)", "Q: Was it? A: two no (confidence 0.99)", "Q: How? A: so no",
        "Q: What? A: this"]
    assert icl.build_prompt(tokenizer, [], "Q: What? A: this", WORDS) == "Q: What? A: this"


def test_the_prompt_has_the_tokens_of_the_pretraining_sheets(tiny):
    """
    pretrain.py encodes piece by piece. A prompt that is encoded whole must come out the same (README of tinyworld,
    "What it took").
    """
    import corpus
    _, tokenizer, _ = tiny
    world = corpus.load_world()
    rng = random.Random(0)
    for _ in range(20):
        pieces = [text for text, _ in corpus.sheet(rng, world)]
        last = [i for i, text in enumerate(pieces) if text.startswith("Q:")][-1]
        lines = "".join(pieces[:last]).removesuffix("\n").split("\n")
        prompt = icl.build_prompt(tokenizer, lines, "".join(pieces[last:last + 2]), WORDS)
        by_piece = [token for piece in pieces[:last + 2] for token in tokenizer(piece)["input_ids"]]
        assert tokenizer(prompt)["input_ids"] == by_piece


def test_a_chat_model_gets_an_instruction_in_its_own_template(chat):
    tokenizer = transformers.AutoTokenizer.from_pretrained(chat)
    text = icl.build_prompt(tokenizer, ["A. Yes"], "B.", (" No", " Yes"))
    assert text.startswith("<|im_start|>user\n")
    assert text.endswith("A. Yes\nB.<|im_end|>\n<|im_start|>assistant\n")
    assert "in one word: Yes or No" in text
    assert "may be wrong" not in icl.build_prompt(tokenizer, [], "B.", (" No", " Yes"))


def test_a_long_prompt_drops_the_farthest_demonstrations_and_never_the_question(tiny):
    _, tokenizer, _ = tiny
    lines = [f"Q: Is gold number {n} heavy? A: six yes" for n in range(9)]
    texts = ["Q: short? A: two", "Q: " + "very " * 40 + "long? A: two"]
    room = len(tokenizer("\n".join([*lines[4:], texts[0]]))["input_ids"])      # for five lines and the short question
    ids, dropped = icl.fit_to_context(tokenizer, [lines, lines], texts, WORDS, max_length=room)
    assert dropped[0] == 4
    assert dropped[1] > dropped[0]
    assert len(ids[0]) == room
    assert len(ids[1]) <= room < len(ids[1]) + len(tokenizer(lines[0] + "\n")["input_ids"])    # one more would not fit
    assert [tokenizer.decode(i) for i in ids] == ["\n".join([*lines[d:], t]) for d, t in zip(dropped, texts)]
    ids, dropped = icl.fit_to_context(tokenizer, [lines, lines], texts, WORDS, max_length=room, context="By Ada:")
    assert (dropped > 0).all() and all(tokenizer.decode(i).startswith("By Ada:\n") for i in ids)     # it stays in front
    ids, dropped = icl.fit_to_context(tokenizer, [lines, []], texts, WORDS, max_length=1000)
    assert dropped.tolist() == [0, 0]
    assert tokenizer.decode(ids[1]) == texts[1]


def test_a_note_says_when_a_question_is_too_long_by_itself(tiny, capsys):
    _, tokenizer, _ = tiny
    text = "Q: " + "very " * 40 + "long? A: two"
    ids, dropped = icl.fit_to_context(tokenizer, [["Q: a? A: b no"]], [text], WORDS, max_length=20)
    assert len(ids[0]) == 20
    assert dropped[0] == 1
    assert "lose their beginning" in capsys.readouterr().out


def test_content_free_text():
    row = {"text": "Q: Is two two? A: two", "question": "Is two two?", "answer": "two"}
    assert icl.content_free_text(row) == "Q: N/A A: N/A"
    assert icl.content_free_text({"text": "buy now"}) == "N/A"
    assert icl.content_free_text({**row, "answer": "nine"}) == "N/A"


# --------------------------------------------------------------------------- scoring


def test_shared_prefix_length():
    assert icl.shared_prefix_length([[1, 2, 3], [1, 2, 3]]) == 2               # something is left to read
    assert icl.shared_prefix_length([[1], [1, 2]]) == 0
    assert icl.shared_prefix_length([[4, 1], [5, 1]]) == 0
    rng = random.Random(0)
    for _ in range(200):
        lists = [[rng.randrange(2) for _ in range(rng.randrange(1, 6))] for _ in range(rng.randrange(1, 5))]
        n = icl.shared_prefix_length(lists)
        assert all(i[:n] == lists[0][:n] and len(i) > n for i in lists)
        assert any(len(i) == n + 1 or i[n] != lists[0][n] for i in lists)


def texts_and_lines(words, k=12):
    test = read_rows("tinyworld", "test", 20)
    pool = read_rows("tinyworld", "train2", k)
    lines = [icl.format_demonstration(row["text"], words[i % 2]) for i, row in enumerate(pool)]
    return [row["text"] for row in test], lines


@pytest.mark.parametrize("which", ["tiny-4", "chat"])
def test_pitfall_2_with_and_without_the_cache_the_scores_are_the_same(which, tiny, chat):
    model, tokenizer, max_length = tiny if which == "tiny-4" else open_language_model(chat, "cpu")
    words = [" No", " Yes"] if tokenizer.chat_template else WORDS
    texts, lines = texts_and_lines(words)
    ids, dropped = icl.fit_to_context(tokenizer, [lines] * len(texts), texts, words, max_length)
    word_ids = answer_word_ids(tokenizer, words)
    assert icl.shared_prefix_length(ids) > 40 or (which == "chat" and dropped.any())
    plain = predict(model, tokenizer, ids, "cpu", output_fn=next_word_logits(word_ids))
    assert np.ptp(plain[:, 1]) > 0.01
    for i, probs in zip(ids, plain):                       # no batch, no padding, no cache
        alone = model(torch.tensor([i])).logits[0, -1, word_ids].softmax(-1).tolist()
        assert np.abs(probs - alone).max() < 1e-4
    for tokens in (1, 500, 8192):
        cached = icl.score_prompts(model, tokenizer, ids, word_ids, "cpu", tokens=tokens)
        assert np.abs(cached - plain).max() < 1e-4
    shared, _ = icl.predict_in_context(model, tokenizer, [lines], texts, words, "cpu", max_length)
    each, _ = icl.predict_in_context(model, tokenizer, [lines] * len(texts), texts, words, "cpu", max_length)
    assert np.abs(shared - plain).max() < 1e-4
    assert np.abs(each - plain).max() < 1e-4


EXACT = ("GPT2", "GPTNeoX", "OPT", "Bloom", "Falcon", "Mpt", "Llama", "Mistral", "Qwen3", "Gemma2", "Gemma3Text",
         "GptOss", "Llama4Text", "Phi3", "Cohere2", "Olmoe", "DeepseekV3")
RECURRENT = ("Mamba", "Rwkv", "RecurrentGemma", "Lfm2", "FalconH1")


@pytest.mark.parametrize("family", EXACT + RECURRENT)
def test_the_scores_are_those_of_a_plain_forward_pass_for_every_architecture(family):
    """
    Prompts of 45 to 74 tokens with 44 in common, more than a sliding window of 16, in batches of unequal length. Each
    is compared with the model's own answer to it alone. A recurrent state cannot be repeated for each row: no cache.
    """
    model = families.random_model(family)
    prefix, *rows = families.random_ids([44, 1, 9, 30, 30, 17, 24])
    prompts = [prefix + row for row in rows]
    plain = families.plain_probs(model, prompts, [5, 7])
    tokenizer = SimpleNamespace(pad_token_id=0)
    assert np.ptp(plain[:, 1]) > 0.02
    assert (icl.read_prefix(model, prefix, "cpu") is not None) == (family in EXACT)
    for tokens in (300, 8192):
        scores = icl.score_prompts(model, tokenizer, prompts, [5, 7], "cpu", tokens=tokens)
        assert np.abs(scores - plain).max() < 1e-4
    whole = predict(model, tokenizer, prompts, "cpu", output_fn=next_word_logits([5, 7]))
    assert np.abs(whole - plain).max() < 1e-4


def test_a_cache_that_depends_on_the_length_is_not_used(capsys):
    """LongRoPE has other positions for long prompts: a beginning that was read with short ones would be wrong."""
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [8.0] * 4,
            "original_max_position_embeddings": 60}
    model = families.random_model("Phi3", rope_parameters=rope, original_max_position_embeddings=60)
    prefix, *rows = families.random_ids([50, 30, 30, 30])
    prompts = [prefix + row for row in rows]
    scores = icl.score_prompts(model, SimpleNamespace(pad_token_id=0), prompts, [5, 7], "cpu")
    assert np.abs(scores - families.plain_probs(model, prompts, [5, 7])).max() < 1e-4
    assert "not exact" in capsys.readouterr().out


def test_without_demonstrations_it_is_next_word_probs(tiny):
    model, tokenizer, max_length = tiny
    texts, _ = texts_and_lines(WORDS)
    probs, dropped = icl.predict_in_context(model, tokenizer, [[]], texts, WORDS, "cpu", max_length)
    prompts = apply_chat_template(tokenizer, texts)
    assert np.abs(probs - next_word_probs(model, tokenizer, prompts, WORDS, "cpu", max_length)).max() < 1e-5
    assert not dropped.any()
    inverted, _ = icl.predict_in_context(model, tokenizer, [[]], texts, WORDS[::-1], "cpu", max_length)
    assert inverted[:, ::-1] == pytest.approx(probs)


@pytest.mark.parametrize("kind", ["AutoModelForCausalLM", "AutoModel"])
def test_features_are_the_mean_over_real_tokens(kind):
    model, tokenizer, _ = open_checkpoint("tiny-1a", kind, "cpu")
    ids = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [14]]
    features = forward_all(model, tokenizer, ids, "cpu", output_fn=icl.mean_hidden)
    for row, i in zip(features, ids):
        hidden = model.base_model(torch.tensor([i])).last_hidden_state[0]
        assert row == pytest.approx(hidden.mean(0).detach().numpy(), abs=1e-4)


# --------------------------------------------------------------------------- the command itself


@pytest.fixture(scope="module", autouse=True)
def house(tmp_path_factory):
    """
    What a fork of this stage needs and nothing else, and two supervisors' labels, written and not trained: good ones
    and doubtful ones. All tests here read its rows: a fresh clone has none.
    """
    folder = tmp_path_factory.mktemp("house")
    for name in NEEDS:
        shutil.copy(os.path.join(ROOT, name), folder)
    world = folder / "data" / "tinyworld"
    os.makedirs(world)
    shutil.copy(os.path.join(ROOT, "data", "tasks.py"), folder / "data")
    shutil.copytree(os.path.join(ROOT, "data", "tinyworld", "facts"), world / "facts")
    shutil.copy(os.path.join(ROOT, "data", "tinyworld", "prepare.py"), world)
    os.symlink(os.path.join(ROOT, "data", "tinyworld", "models"), world / "models")
    assert warm.run(folder, "data/tinyworld/prepare.py").returncode == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "ROOT", str(folder))
        for name, noise in (("weak", 0.3), ("interaction", 0.15)):
            write_random_labels(world / "seed0" / name, noise, random.Random(name))
        yield str(folder)


def write_random_labels(folder, noise, rng):
    """labels.jsonl with a fixed label for each id, a share `noise` of them flipped"""
    os.makedirs(folder)
    with open(folder / "labels.jsonl", "w", encoding="utf-8") as f:
        for split in ("train2", "valid", "test"):
            for row in read_rows("tinyworld", split):
                is_yes = (random.Random(row["id"]).random() < 0.5) != (rng.random() < noise)
                p_yes = rng.uniform(0.5, 1.0) if is_yes else rng.uniform(0.0, 0.5)
                f.write(json.dumps({"id": row["id"], "soft_label": [1 - p_yes, p_yes]}) + "\n")


def in_process(house, monkeypatch, capsys, *flags, max_rows=64):
    """The same command without the seconds that imports take: on the files of `house`."""
    for module in (contract, icl):
        monkeypatch.setattr(module, "ROOT", house)
    monkeypatch.chdir(house)
    if capsys:
        capsys.readouterr()
    icl.main(["--max-rows", str(max_rows), *flags])
    return capsys.readouterr().out if capsys else ""


def folder_of(house, name):
    return os.path.join(house, "data", "tinyworld", "seed0", name)


def results_of(house, name):
    return contract.read_json(os.path.join(folder_of(house, name), "results.json"))


def labels_of(house, name):
    """The lines of a run's labels.jsonl"""
    return contract.read_jsonl(os.path.join(folder_of(house, name), "labels.jsonl"))


def label_bytes(house, name):
    with open(os.path.join(folder_of(house, name), "labels.jsonl"), "rb") as f:
        return f.read()


def record_demonstrations(monkeypatch):
    """-> a list that format_demonstration's (text, word) are added to as they are shown"""
    shown = []

    def record(text, word, confidence=None):
        shown.append((text, word))
        return text + word
    monkeypatch.setattr(icl, "format_demonstration", record)
    return shown


@pytest.fixture(scope="module")
def chain(house):
    """The ceiling, and the student as typed."""
    flags = ["--shots", "2", "--orders", "2"]
    with pytest.MonkeyPatch.context() as monkeypatch:
        in_process(house, monkeypatch, None, *flags, "--labels", "truth", "--out", "icl-ceiling")
    done = warm.run(house, "icl.py", "--max-rows", "64", *flags, "--ceiling", "icl-ceiling")
    assert done.returncode == 0, done.stderr
    return house, done.stdout


def test_the_command_leaves_a_folder_prints_its_result_and_ends_with_the_same_bytes(chain, monkeypatch, capsys):
    house, printed = chain
    results = results_of(house, "icl")
    assert sorted(os.listdir(folder_of(house, "icl"))) == ["config.json", "labels.jsonl", "results.json"]
    labels = labels_of(house, "icl")
    test = read_rows("tinyworld", "test", 64)
    assert [line["id"] for line in labels] == [row["id"] for row in test]
    last_line = r"^supervisor 0\.\d+ \| student 0\.\d+ ±0\.\d+ \| ceiling 0\.\d+ \| (PGR -?\d+\.\d+ \[|no PGR: )"
    assert re.search(last_line, printed, re.M)
    assert "one prompt, exactly as the model sees it" in printed
    assert re.search(r"^  Q: .* A: .* (yes|no)\n  Q: .* A: .* (yes|no)\n  Q: ", printed, re.M)
    hits = [(line["soft_label"][1] > 0.5) == row["label"] for line, row in zip(labels, test)]
    assert results["test"]["accuracy"] == pytest.approx(np.mean(hits))
    point, = results["curve"]
    assert point["shots"] == 2
    assert len(point["draws"]) == 2
    assert point["accuracy"] == pytest.approx(np.mean(point["draws"]))
    assert point["spread"] == pytest.approx(np.std(point["draws"], ddof=1))
    assert point["demonstrations_dropped"] == 0
    before = label_bytes(house, "icl")
    flags = ["--shots", "2", "--orders", "2", "--ceiling", "icl-ceiling"]
    assert "already done" in in_process(house, monkeypatch, capsys, *flags)
    runs = []
    for _ in range(2):
        in_process(house, monkeypatch, capsys, *flags, "--force")
        runs.append(label_bytes(house, "icl"))
    assert runs[0] == runs[1]
    repeated = labels_of(house, "icl")                     # another number of threads adds in another order
    for old, new in zip(map(json.loads, before.splitlines()), repeated):
        assert old["soft_label"] == pytest.approx(new["soft_label"], abs=1e-5)


def test_the_truth_by_word_or_by_folder_makes_the_ceiling_and_a_role_says_so(chain, monkeypatch, capsys):
    house, _ = chain
    flags = ["--shots", "2", "--orders", "2", "--labels", "data/tinyworld/truth/", "--out", "icl-ceiling"]
    assert "already done" in in_process(house, monkeypatch, capsys, *flags)
    config = results_of(house, "icl-ceiling")["config"]
    assert config["role"] == "icl-ceiling"
    assert config["labels"] == "truth"
    assert config["shots"] == [2]
    assert results_of(house, "icl")["config"]["role"] == "icl-student"
    flags = ["--shots", "2", "--orders", "2", "--labels", "weak/", "--ceiling", "icl-ceiling/"]
    assert "already done" in in_process(house, monkeypatch, capsys, *flags)


def test_the_supervisor_by_default_and_by_its_name_is_the_same_run(chain, monkeypatch, capsys):
    house, _ = chain
    assert results_of(house, "icl")["config"]["supervisor"] == "weak"
    assert results_of(house, "icl-ceiling")["config"]["supervisor"] == ""      # a ceiling has none
    student = ["--shots", "2", "--orders", "2", "--ceiling", "icl-ceiling"]
    for flags in (student, [*student, "--supervisor", "weak"], [*student, "--labels", "weak", "--supervisor", "weak/"]):
        assert "already done" in in_process(house, monkeypatch, capsys, *flags), flags

    shutil.copytree(folder_of(house, "icl"), folder_of(house, "compared"))
    other = [*student, "--supervisor", "interaction", "--out", "compared"]
    assert "supervisor weak -> interaction" in in_process(house, monkeypatch, capsys, *other)

    annotator = os.path.join(house, "data", "tinyworld", "ann")                # as data/own/prepare.py makes them
    os.makedirs(annotator)
    shutil.copy(os.path.join(folder_of(house, "weak"), "labels.jsonl"), annotator)
    plan = icl.check_args(icl.build_parser().parse_args(["--labels", "ann", "--max-rows", "64"]))
    assert plan.labels_folder == plan.supervisor_folder == annotator


def test_a_ceiling_of_train_strong_is_no_ceiling_here(chain, monkeypatch, capsys):
    house, _ = chain
    results = results_of(house, "icl-ceiling")
    shutil.copytree(folder_of(house, "icl-ceiling"), folder_of(house, "trained"))
    results["config"]["role"] = "ceiling"
    results.pop("digest", None)                            # of a run that was not edited
    contract.write_file(os.path.join(folder_of(house, "trained"), "results.json"), json.dumps(results))
    with pytest.raises(SystemExit):
        in_process(house, monkeypatch, capsys, "--shots", "2", "--orders", "2", "--ceiling", "trained", "--out", "x")
    assert "no ceiling" in capsys.readouterr().err


def test_every_flag_of_this_stage_has_a_use_in_the_header():
    common = {"help", "task", "out", "seed", "max_rows", "force", "model", "device", "dtype", "trust_remote_code",
              "max_length", "truncate"}
    flags = {action.dest for action in icl.build_parser()._actions} - common
    assert len(flags) == 14
    assert [flag for flag in sorted(flags) if "--" + flag.replace("_", "-") not in icl.__doc__] == []


def test_pitfalls_14_and_16_neither_the_truth_of_test_nor_that_of_train2_reaches_a_prompt(
        chain, tmp_path, monkeypatch, capsys):
    house, _ = chain
    other = str(tmp_path / "other")
    rng = random.Random(0)
    shutil.copytree(house, other, symlinks=True)
    world = os.path.join(other, "data", "tinyworld")
    for path in (os.path.join(world, "test.jsonl"), os.path.join(world, "truth", "labels.jsonl")):
        rows = contract.read_jsonl(path)
        for row in rows:
            row.update({"label": rng.randrange(2)} if "label" in row else
                       {"soft_label": rng.choice([[0.0, 1.0], [1.0, 0.0]])})
        contract.write_file(path, "".join(json.dumps(row) + "\n" for row in rows))
    single = ["--orders", "1", "--shots", "3"]
    for n, flags in enumerate([
            ["--shots", "2", "--orders", "2"],
            [*single, "--retriever", "bm25", "--calibrate"],
            [*single, "--retriever", "topk", "--noise", "1"],
            [*single, "--retriever", "votek"],
            [*single, "--retriever", "confident", "--confidence"],
            [*single, "--retriever", "oversight", "--oversight", "interaction"]]):
        for where in (house, other):
            in_process(where, monkeypatch, capsys, *flags, "--model", "tiny-1b", "--out", f"run{n}", max_rows=24)
        assert label_bytes(house, f"run{n}") == label_bytes(other, f"run{n}"), flags
        assert results_of(house, f"run{n}")["test"] != results_of(other, f"run{n}")["test"]


def test_curves_and_words_and_confidence(chain, monkeypatch, capsys):
    house, _ = chain
    printed = in_process(
        house, monkeypatch, capsys, "--labels", "truth", "--out", "curve", "--shots", "0,2,4", "--noise", "0,3",
        "--orders", "2", "--label-words", "foo,bar", "--invert", "--confidence")
    curve = results_of(house, "curve")["curve"]
    points = [(point["shots"], point["noise"], len(point["draws"])) for point in curve]
    assert points == [(0, 0, 1), (2, 0, 2), (4, 0, 2), (4, 3, 2)]
    words = re.findall(r"^  Q: .* A: .* (foo|bar) \(confidence 0\.99\)$", printed, re.M)
    assert sorted(words) == ["bar", "bar", "foo", "foo"]
    assert "[' bar', ' foo']" in printed
    labels = [line["soft_label"] for line in labels_of(house, "curve")]
    assert np.allclose(np.sum(labels, axis=1), 1)
    assert np.ptp([p_yes for _, p_yes in labels]) > 0


def test_demonstrations_come_from_the_pool_with_their_labels_and_are_never_a_copy_of_a_test_row(
        chain, tmp_path, monkeypatch, capsys):
    """A text of test is planted in train2, twice: bm25 would show it to itself."""
    other = str(tmp_path / "other")
    shutil.copytree(chain[0], other, symlinks=True)
    path = os.path.join(other, "data", "tinyworld", "train2.jsonl")
    planted = read_rows("tinyworld", "test", 1)[0]["text"]
    rows = contract.read_jsonl(path)
    for row in rows[:2]:
        row["text"] = planted
    rows[3]["text"] = rows[2]["text"]
    contract.write_file(path, "".join(json.dumps(row) + "\n" for row in rows))
    shown = record_demonstrations(monkeypatch)
    flags = ["--retriever", "bm25", "--shots", "37", "--orders", "1", "--out", "bm"]
    printed = in_process(other, monkeypatch, capsys, *flags, max_rows=40)
    assert "37 rows of train2" in printed
    n_dropped = results_of(other, "bm")["curve"][0]["demonstrations_dropped"]
    assert n_dropped > 40
    assert f"{n_dropped:,} demonstrations did not fit into 40 prompts" in printed
    assert shown
    assert planted not in {text for text, _ in shown}
    p_yes = {line["id"]: line["soft_label"][1] for line in labels_of(other, "weak")}
    word_of = {}
    for row in sorted(rows[:40], key=lambda row: row["id"], reverse=True):     # of equal texts the first id counts
        word_of[row["text"]] = " yes" if p_yes[row["id"]] > 0.5 else " no"
    assert all(word_of[text] == word for text, word in shown)


def test_oversight_shows_only_labels_that_both_supervisors_give(chain, monkeypatch, capsys):
    house, _ = chain
    weak, interaction = ({line["id"]: line["soft_label"][1] > 0.5 for line in labels_of(house, name)}
                         for name in ("weak", "interaction"))
    rows = read_rows("tinyworld", "train2", 64)
    agreed = {row["text"] for row in rows if weak[row["id"]] == interaction[row["id"]]}
    shown = record_demonstrations(monkeypatch)
    flags = ["--retriever", "oversight", "--oversight", "interaction", "--shots", "6", "--out", "ov", "--force"]
    printed = in_process(house, monkeypatch, capsys, *flags)
    assert f"{len(agreed)} rows of train2 that both supervisors label the same" in printed
    texts = {text for text, _ in shown}
    assert len(texts) > 6
    assert texts <= agreed
    assert len(agreed) < 64


def test_a_tie_is_no_verdict_to_show_and_neither_is_a_missing_label(monkeypatch):
    rows = [{"id": str(k), "text": f"text {k}"} for k in range(6)]
    p_yes = {"weak": [0.9, 0.5, 0.1, 0.5, 0.9, np.nan], "other": [0.5, 0.9, 0.2, 0.5, 0.6, 0.9]}
    monkeypatch.setattr(icl, "read_rows", lambda *a: rows)
    monkeypatch.setattr(icl, "read_known", lambda name, pool: np.array([[1 - p, p] for p in p_yes[name]]))
    args = argparse.Namespace(task="t", max_rows=None, retriever="random", shots=[1])
    for other, ids in (("", "024"), ("other", "24")):
        plan = argparse.Namespace(labels_folder="weak", oversight_folder=other)
        pool, labels = icl.read_pool(plan, [], args)
        assert "".join(row["id"] for row in pool) == ids
        assert labels[:, 1].tolist() == [p_yes["weak"][int(i)] for i in ids]


def test_a_chat_model_runs(chain, chat, monkeypatch, capsys):
    house, _ = chain
    flags = ["--model", chat, "--retriever", "votek", "--shots", "3", "--out", "chat"]
    printed = in_process(house, monkeypatch, capsys, *flags)
    assert "<|im_start|>assistant" in printed
    assert "in one word: Yes or No" in printed
    assert results_of(house, "chat")["test"]["n"] == 64


@pytest.mark.parametrize("flags,words", [
    (["--labels", "nobody"], ["--labels: no labels at"]),
    (["--label-words", "definitely not,yes"], ["' definitely not'", "must be one", "--label-words"]),
    (["--label-words", "yes,yes"], ["two different words"]),
    (["--label-words", "yes"], ["two different words"]),
    (["--shots", "65"], ["--shots 65", "64 rows"]),
    (["--shots", "two"], ["--shots"]),
    (["--shots", "2", "--noise", "3"], ["--noise 3", "2 labels"]),
    (["--shots", "2", "--noise", "0,3"], ["--noise 3", "2 labels"]),
    (["--retriever", "oversight"], ["--oversight FOLDER"]),
    (["--oversight", "interaction"], ["--retriever oversight"]),
    (["--retriever", "oversight", "--oversight", "nobody"], ["no labels at"]),
    (["--retriever", "magic"], ["--retriever"]),
    (["--labels", "truth", "--ceiling", "icl-ceiling", "--out", "x"], ["for students"]),
    (["--ceiling", "weak"], ["cannot read"]),
    (["--ceiling", "icl-ceiling", "--shots", "3", "--orders", "2"], ["--shots [2]", "labels alone"]),
    (["--out", "weak"], ["overwrite"]),
    (["--model", "tiny-9"], ["tiny-4"]),
])
def test_a_users_mistake_is_one_clear_line_and_exit_code_2(chain, monkeypatch, capsys, flags, words):
    with pytest.raises(SystemExit) as stopped:
        in_process(chain[0], monkeypatch, capsys, *flags)
    printed = capsys.readouterr().err
    assert stopped.value.code == 2
    assert all(word in printed for word in words), printed
