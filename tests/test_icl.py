"""
Judging with a prompt: which examples are shown, how a prompt is filled, and that the shared beginning, read once, changes nothing.

python -m pytest tests/test_icl.py          # 20 s
"""
import glob
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
import transformers

import contract
import icl
import warm
from conftest import ROOT
from contract import model_folder, read_rows
from prompting import as_chat, judge, next_word_scores, open_language_model
from train_weak import label_word_ids, open_checkpoint, predict, sweep

CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


@pytest.fixture(scope="module")
def tiny():
    return open_language_model("tiny-4", "cpu")


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    """A model of Qwen2's shape with random weights and a chat template, its tokenizer tinyworld's."""
    folder = str(tmp_path_factory.mktemp("models") / "qwen")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder("tiny-4"))
    tokenizer.chat_template, tokenizer.model_max_length = CHAT, 300
    tokenizer.add_tokens(["No", "Yes"])                    # as Qwen has them, without a space
    torch.manual_seed(0)
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=300, initializer_range=0.4, bos_token_id=0, eos_token_id=0, pad_token_id=0))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# --------------------------------------------------------------------------- which examples

def test_per_class_takes_half_of_each_and_fills_up_from_the_other():
    says = np.array([True] * 10 + [False] * 3)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        assert says[icl.per_class(says, 4, rng)].sum() == 2
        assert says[icl.per_class(says, 5, rng)].sum() in (2, 3)
        chosen = icl.per_class(says, 10, rng)
        assert len(set(chosen.tolist())) == 10 and says[chosen].sum() == 7     # only three say no
        assert sorted(icl.per_class(says, 13, rng).tolist()) == list(range(13))
    draws = {tuple(icl.per_class(says, 4, np.random.default_rng(seed)).tolist()) for seed in range(20)}
    assert len(draws) > 15
    assert {int(says[icl.per_class(says, 1, np.random.default_rng(seed))].sum()) for seed in range(20)} == {0, 1}


def test_confident_takes_the_surest_of_each_class_and_the_earlier_of_equals():
    soft = np.array([[.1, .9], [.6, .4], [.2, .8], [.9, .1], [.1, .9], [.95, .05], [.9, .1]])
    chosen = icl.per_class(soft[:, 1] > 0.5, 4, np.random.default_rng(0), rank=soft.max(1))
    assert sorted(chosen.tolist()) == [0, 3, 4, 5]         # 3 and 6 are equally sure: the earlier


def test_bm25_by_hand():
    pool = ["gold is heavy", "ants are light", "gold gold gold is a metal of the d-block"]
    scores = icl.bm25(["Is GOLD heavy?", "zebra"], pool)
    lengths, mean = [3, 3, 10], 16 / 3
    idf = {n: math.log(1 + (3 - n + 0.5) / (n + 0.5)) for n in (1, 2)}

    def part(n, tf, length):
        return idf[n] * tf * 2.5 / (tf + 1.5 * (1 - 0.75 + 0.75 * length / mean))
    assert scores[0, 0] == pytest.approx(part(2, 1, 3) + part(2, 1, 3) + part(1, 1, 3))
    assert scores[0, 2] == pytest.approx(part(2, 1, lengths[2]) + part(2, 3, lengths[2]))
    assert scores[0, 1] == 0 and (scores[1] == 0).all()


def test_the_most_similar_come_last_and_ties_go_to_the_earlier_row():
    assert icl.most_similar(np.array([[0.1, 0.9, 0.5, 0.9]]), 3).tolist() == [[2, 3, 1]]
    assert icl.most_similar(np.zeros((1, 4)), 2).tolist() == [[1, 0]]
    near = icl.cosine(np.array([[2.0, 0.0]]), np.array([[0.0, 5.0], [0.1, 0.0], [3.0, 3.0]]))
    assert near == pytest.approx(np.array([[0.0, 1.0, math.sqrt(0.5)]])) and icl.most_similar(near, 2).tolist() == [[2, 1]]


def test_vote_k_by_hand():
    """
    On a line by angle, one neighbour each: rows 0, 1, 2 lie together, 3 and 4 together. 0 votes 1, 1 votes 0 or 2, 2 votes 1, 3 and 4 each other.
    Row 1 has two votes and is taken; then those who were served count a tenth: 3 with a whole vote comes before 0 and 2.
    """
    angles = np.array([0.0, 0.10, 0.21, 1.0, 1.1])
    rows = np.stack([np.cos(angles), np.sin(angles)], 1)
    assert icl.vote_k(rows, 2, neighbours=1).tolist() == [1, 3]
    # then 4's voter, row 3, is taken and has no vote; so has row 1, who voted for 0: nobody is left to vote, the earlier row comes first
    assert icl.vote_k(rows, 5, neighbours=1).tolist() == [1, 3, 0, 2, 4]
    assert sorted(icl.vote_k(rows, 9, neighbours=9).tolist()) == [0, 1, 2, 3, 4]


def test_vote_k_agrees_with_a_plain_loop():
    rows = np.random.default_rng(0).normal(size=(40, 5))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    voters = {u: [] for u in range(40)}
    for v in range(40):
        near = sorted((u for u in range(40) if u != v), key=lambda u: -unit[v] @ unit[u])[:6]
        for u in near:
            voters[u].append(v)
    taken, served = [], Counter()
    while len(taken) < 12:
        votes = {u: sum(10.0 ** -served[v] for v in voters[u] if v not in taken) for u in range(40) if u not in taken}
        taken.append(max(votes, key=lambda u: (round(votes[u], 9), -u)))
        served.update(voters[taken[-1]])
    assert icl.vote_k(rows, 12, neighbours=6).tolist() == taken


def test_noise_turns_exactly_n_labels_and_more_noise_adds_to_less():
    labels = np.random.default_rng(3).random((50, 8)) < 0.5
    before = np.zeros_like(labels)
    for n in range(9):
        turned = icl.flip(labels, n, np.random.default_rng(7)) != labels
        assert (turned.sum(1) == n).all() and (turned | ~before).all()
        before = turned
    assert (icl.flip(labels, 3, np.random.default_rng(7)) != labels).any(0).all()        # every position has its turn


def test_calibration_by_hand():
    p = np.array([[0.6, 0.4], [0.75, 0.25], [0.2, 0.8]])
    out = icl.calibrate(p, np.array([[0.75, 0.25]]))
    assert out[1] == pytest.approx([0.5, 0.5])             # what it says of nothing becomes a half
    assert out[0] == pytest.approx([(0.6 / 0.75) / (0.6 / 0.75 + 0.4 / 0.25), (0.4 / 0.25) / (0.6 / 0.75 + 0.4 / 0.25)])
    assert icl.calibrate(p, np.full((3, 2), 0.5)) == pytest.approx(p)
    assert np.isfinite(icl.calibrate(p, np.array([[1.0, 0.0]]))).all()


# --------------------------------------------------------------------------- the prompt

def test_the_prompt_is_a_sheet_as_the_tiny_models_know_it(tiny):
    _, tokenizer, _ = tiny
    lines = [icl.demonstration("Q: Is it? A: six", " yes", 0.871), icl.demonstration("Q: Was it? A: two", " no", 1.0), icl.demonstration("Q: How? A: so", " no")]
    assert icl.fill(tokenizer, lines, "Q: What? A: this", (" no", " yes")) == (
        "Q: Is it? A: six yes (confidence 0.87)\nQ: Was it? A: two no (confidence 0.99)\nQ: How? A: so no\nQ: What? A: this")
    assert icl.fill(tokenizer, [], "Q: What? A: this", (" no", " yes")) == "Q: What? A: this"


def test_the_prompt_has_the_tokens_of_the_pretraining_sheets(tiny):
    """pretrain.py encodes piece by piece; a prompt made whole must come out the same (README of tinyworld, "What it took")."""
    import corpus
    _, tokenizer, _ = tiny
    world, rng = corpus.load_world(), random.Random(0)
    for _ in range(20):
        pieces = [text for text, _ in corpus.sheet(rng, world)]
        answers = [i for i, text in enumerate(pieces) if text.startswith("Q:")]
        lines = "".join(pieces).split("\n")
        mine = icl.fill(tokenizer, lines[:-1], "".join(pieces[answers[-1]:answers[-1] + 2]), (" no", " yes"))
        assert tokenizer(mine)["input_ids"] == [t for piece in pieces[:answers[-1] + 2] for t in tokenizer(piece)["input_ids"]]


def test_a_chat_model_is_told_what_to_do_in_its_own_template(chat):
    tokenizer = transformers.AutoTokenizer.from_pretrained(chat)
    text = icl.fill(tokenizer, ["A. Yes"], "B.", (" No", " Yes"))
    assert text.startswith("<|im_start|>user\n") and text.endswith("A. Yes\nB.<|im_end|>\n<|im_start|>assistant\n") and "in one word: Yes or No" in text
    assert "may be wrong" not in icl.fill(tokenizer, [], "B.", (" No", " Yes"))


def test_what_does_not_fit_drops_the_farthest_demonstrations_and_never_the_question(tiny):
    _, tokenizer, _ = tiny
    lines = [f"Q: Is gold number {n} heavy? A: six yes" for n in range(9)]
    texts = ["Q: short? A: two", "Q: " + "very " * 40 + "long? A: two"]
    room = len(tokenizer("\n".join([*lines[4:], texts[0]]))["input_ids"])      # exactly what five lines and the short question need
    ids, dropped = icl.fit_to_context(tokenizer, [lines, lines], texts, (" no", " yes"), longest=room)
    assert dropped[0] == 4 and dropped[1] > dropped[0] and all(len(i) <= room for i in ids)
    assert [tokenizer.decode(i) for i in ids] == ["\n".join([*lines[d:], t]) for d, t in zip(dropped, texts)]
    assert len(ids[0]) == room and len(ids[1]) + len(tokenizer(lines[0] + "\n")["input_ids"]) > room          # one more would not have fitted
    ids, dropped = icl.fit_to_context(tokenizer, [lines, []], texts, (" no", " yes"), longest=1000)
    assert dropped.tolist() == [0, 0] and tokenizer.decode(ids[1]) == texts[1]


def test_a_question_too_long_by_itself_is_said_aloud(tiny, capsys):
    _, tokenizer, _ = tiny
    ids, dropped = icl.fit_to_context(tokenizer, [["Q: a? A: b no"]], ["Q: " + "very " * 40 + "long? A: two"], (" no", " yes"), longest=20)
    assert len(ids[0]) == 20 and dropped[0] == 1 and "lose their beginning" in capsys.readouterr().out


def test_content_free():
    row = {"text": "Q: Is two two? A: two", "question": "Is two two?", "answer": "two"}
    assert icl.content_free(row) == "Q: N/A A: N/A"
    assert icl.content_free({"text": "buy now"}) == "N/A" and icl.content_free({**row, "answer": "nine"}) == "N/A"


# --------------------------------------------------------------------------- scoring

def test_shared_beginning():
    assert icl.shared_beginning([[1, 2, 3], [1, 2, 3]]) == 2                   # something is left to read
    assert icl.shared_beginning([[1], [1, 2]]) == 0 and icl.shared_beginning([[4, 1], [5, 1]]) == 0
    rng = random.Random(0)
    for _ in range(200):
        lists = [[rng.randrange(2) for _ in range(rng.randrange(1, 6))] for _ in range(rng.randrange(1, 5))]
        n = icl.shared_beginning(lists)
        assert all(i[:n] == lists[0][:n] and len(i) > n for i in lists)
        assert any(len(i) == n + 1 or i[n] != lists[0][n] for i in lists)


def rows_and_lines(words, k=12):
    test, pool = read_rows("tinyworld", "test", 20), read_rows("tinyworld", "train2", k)
    return [row["text"] for row in test], [icl.demonstration(row["text"], words[i % 2]) for i, row in enumerate(pool)]


@pytest.mark.parametrize("which", ["tiny-4", "chat"])
def test_pitfall_2_with_and_without_the_cache_the_scores_are_the_same(which, tiny, chat):
    model, tokenizer, longest = tiny if which == "tiny-4" else open_language_model(chat, "cpu")
    words = [" No", " Yes"] if tokenizer.chat_template else [" no", " yes"]
    texts, lines = rows_and_lines(words)
    ids, dropped = icl.fit_to_context(tokenizer, [lines] * len(texts), texts, words, longest)
    word_ids = label_word_ids(tokenizer, [w.strip() for w in words], "\n") if tokenizer.chat_template else label_word_ids(tokenizer, words)
    assert icl.shared_beginning(ids) > 40 or (which == "chat" and dropped.any())
    plain = predict(model, tokenizer, ids, "cpu", outputs=next_word_scores(word_ids))
    alone = [model(torch.tensor([i])).logits[0, -1, word_ids].softmax(-1).tolist() for i in ids]             # no batch, no padding, no cache
    assert np.ptp(plain[:, 1]) > 0.01
    for tokens in (1, 500, 8192):
        assert np.abs(icl.score(model, tokenizer, ids, word_ids, "cpu", tokens=tokens) - plain).max() < 1e-4
    assert np.abs(plain - alone).max() < 1e-4
    shared, _ = icl.judge_after(model, tokenizer, [lines], texts, words, "cpu", longest)
    each, _ = icl.judge_after(model, tokenizer, [lines] * len(texts), texts, words, "cpu", longest)
    assert np.abs(shared - plain).max() < 1e-4 and np.abs(each - plain).max() < 1e-4


def test_zero_shot_is_prompting_judge(tiny):
    model, tokenizer, longest = tiny
    texts, _ = rows_and_lines([" no", " yes"])
    mine, dropped = icl.judge_after(model, tokenizer, [[]], texts, [" no", " yes"], "cpu", longest)
    assert np.abs(mine - judge(model, tokenizer, as_chat(tokenizer, texts), [" no", " yes"], "cpu", longest)).max() < 1e-5 and not dropped.any()
    inverted, _ = icl.judge_after(model, tokenizer, [[]], texts, [" yes", " no"], "cpu", longest)
    assert inverted[:, ::-1] == pytest.approx(mine)


@pytest.mark.parametrize("kind", ["AutoModelForCausalLM", "AutoModel"])
def test_features_are_the_mean_over_real_tokens(kind):
    model, tokenizer, _ = open_checkpoint("tiny-1a", kind, "cpu")
    ids = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [14]]
    features = sweep(model, tokenizer, ids, "cpu", outputs=icl.mean_hidden)
    for row, i in zip(features, ids):
        assert row == pytest.approx(model.base_model(torch.tensor([i])).last_hidden_state[0].mean(0).detach().numpy(), abs=1e-4)


# --------------------------------------------------------------------------- the real command

@pytest.fixture(scope="module", autouse=True)
def house(tmp_path_factory):
    """
    A copy of what the command needs, and two supervisors, written rather than trained: a good one and a doubtful one. All tests here read its
    rows: a fresh clone has none of its own.
    """
    folder = tmp_path_factory.mktemp("house")
    for path in glob.glob(os.path.join(ROOT, "*.py")):
        shutil.copy(path, folder)
    world = folder / "data" / "tinyworld"
    os.makedirs(world)
    shutil.copytree(os.path.join(ROOT, "data", "tinyworld", "facts"), world / "facts")
    shutil.copy(os.path.join(ROOT, "data", "tinyworld", "prepare.py"), world)
    os.symlink(os.path.join(ROOT, "data", "tinyworld", "models"), world / "models")
    subprocess.run([sys.executable, str(world / "prepare.py")], check=True, capture_output=True)
    patch = pytest.MonkeyPatch()
    patch.setattr(contract, "ROOT", str(folder))
    for name, noise in (("weak", 0.3), ("interaction", 0.15)):
        rng = random.Random(name)
        os.makedirs(world / "seed0" / name)
        with open(world / "seed0" / name / "labels.jsonl", "w", encoding="utf-8") as f:
            for split in ("train2", "valid", "test"):
                for row in read_rows("tinyworld", split):
                    p = rng.uniform(0.5, 1.0) if (hash_of(row["id"]) < 0.5) != (rng.random() < noise) else rng.uniform(0.0, 0.5)
                    f.write(json.dumps({"id": row["id"], "soft_label": [1 - p, p]}) + "\n")
    yield str(folder)
    patch.undo()


def hash_of(text):
    return random.Random(text).random()


def in_process(house, monkeypatch, capsys, *flags, max_rows=64):
    """The same command without the seconds that imports take: on the files of `house`."""
    for module in (contract, icl):
        monkeypatch.setattr(module, "ROOT", house)
    monkeypatch.chdir(house)
    monkeypatch.setattr(sys, "argv", ["icl.py", "--max-rows", str(max_rows), *flags])
    if capsys:
        capsys.readouterr()
    icl.main()
    return capsys.readouterr().out if capsys else ""


def folder_of(house, name):
    return os.path.join(house, "data", "tinyworld", "seed0", name)


def results_of(house, name):
    with open(os.path.join(folder_of(house, name), "results.json"), encoding="utf-8") as f:
        return json.load(f)


@pytest.fixture(scope="module")
def chain(house):
    """The ceiling, and the student as typed."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        in_process(house, monkeypatch, None, "--shots", "2", "--orders", "2", "--labels", "truth", "--out", "icl-ceiling")
    done = warm.run(house, "icl.py", "--max-rows", "64", "--shots", "2", "--orders", "2", "--ceiling", "icl-ceiling")
    assert done.returncode == 0, done.stderr
    return house, done.stdout


def test_the_command_leaves_a_folder_says_what_it_did_and_ends_with_the_same_bytes(chain, monkeypatch, capsys):
    house, printed = chain
    results = results_of(house, "icl")
    assert sorted(os.listdir(folder_of(house, "icl"))) == ["config.json", "labels.jsonl", "results.json"]
    labels = [json.loads(line) for line in open(os.path.join(folder_of(house, "icl"), "labels.jsonl"), encoding="utf-8")]
    assert [r["id"] for r in labels] == [r["id"] for r in read_rows("tinyworld", "test", 64)]
    assert re.search(r"^supervisor 0\.\d+ \| student 0\.\d+ ±0\.\d+ \| ceiling 0\.\d+ \| (PGR -?\d+\.\d+ \[|no PGR: )", printed, re.M)
    assert "one prompt, exactly as the model sees it" in printed and re.search(r"^  Q: .* A: .* (yes|no)\n  Q: .* A: .* (yes|no)\n  Q: ", printed, re.M)
    truth = {r["id"]: r["label"] for r in read_rows("tinyworld", "test", 64)}
    assert results["test"]["accuracy"] == pytest.approx(np.mean([(r["soft_label"][1] > 0.5) == truth[r["id"]] for r in labels]))
    point, = results["curve"]
    assert point["shots"] == 2 and len(point["draws"]) == 2 and point["accuracy"] == pytest.approx(np.mean(point["draws"]))
    assert point["spread"] == pytest.approx(np.std(point["draws"], ddof=1)) and point["demonstrations_dropped"] == 0
    before = open(os.path.join(folder_of(house, "icl"), "labels.jsonl"), "rb").read()
    flags = ["--shots", "2", "--orders", "2", "--ceiling", "icl-ceiling"]
    with pytest.raises(SystemExit) as stopped:
        in_process(house, monkeypatch, capsys, *flags)
    assert stopped.value.code == 0 and "already done" in capsys.readouterr().out
    runs = []
    for _ in range(2):
        in_process(house, monkeypatch, capsys, *flags, "--force")
        runs.append(open(os.path.join(folder_of(house, "icl"), "labels.jsonl"), "rb").read())
    assert runs[0] == runs[1]
    soft = [np.array([json.loads(line)["soft_label"] for line in text.splitlines()]) for text in (before, runs[0])]
    assert soft[0] == pytest.approx(soft[1], abs=1e-5)     # with another number of threads sums are taken in another order


def test_pitfalls_14_and_16_neither_the_truth_of_test_nor_that_of_train2_reaches_a_prompt(chain, tmp_path, monkeypatch, capsys):
    house, _ = chain
    other, rng = str(tmp_path / "other"), random.Random(0)
    shutil.copytree(house, other, symlinks=True)
    world = os.path.join(other, "data", "tinyworld")
    for path in (os.path.join(world, "test.jsonl"), os.path.join(world, "truth", "labels.jsonl")):
        rows = [json.loads(line) for line in open(path, encoding="utf-8")]
        with open(path, "w", encoding="utf-8") as f:
            for row in rows:
                spoilt = {"label": rng.randrange(2)} if "label" in row else {"soft_label": rng.choice([[0.0, 1.0], [1.0, 0.0]])}
                f.write(json.dumps({**row, **spoilt}) + "\n")
    for n, flags in enumerate([["--shots", "2", "--orders", "2"], ["--retriever", "bm25", "--calibrate"], ["--retriever", "topk", "--noise", "1"],
                               ["--retriever", "votek"], ["--retriever", "confident", "--confidence"],
                               ["--retriever", "oversight", "--oversight", "interaction"]]):
        flags += ["--out", f"run{n}"] + ([] if "--orders" in flags else ["--orders", "1", "--shots", "3"])
        for where in (house, other):
            in_process(where, monkeypatch, capsys, *flags)
        clean, spoilt = (open(os.path.join(folder_of(h, f"run{n}"), "labels.jsonl"), "rb").read() for h in (house, other))
        assert clean == spoilt, flags
        assert results_of(house, f"run{n}")["test"] != results_of(other, f"run{n}")["test"]


def test_curves_and_words_and_confidence(chain, monkeypatch, capsys):
    house, _ = chain
    printed = in_process(house, monkeypatch, capsys, "--labels", "truth", "--out", "curve", "--shots", "0,2,4", "--noise", "0,3", "--orders", "2",
                         "--label-words", "foo,bar", "--invert", "--confidence")
    curve = results_of(house, "curve")["curve"]
    assert [(p["shots"], p["noise"], len(p["draws"])) for p in curve] == [(0, 0, 1), (2, 0, 2), (4, 0, 2), (4, 3, 2)]
    sheet = re.findall(r"^  Q: .* A: .* (foo|bar) \(confidence 0\.99\)$", printed, re.M)
    assert sorted(sheet) == ["bar", "bar", "foo", "foo"] and "[' bar', ' foo']" in printed
    labels = [json.loads(line)["soft_label"] for line in open(os.path.join(folder_of(house, "curve"), "labels.jsonl"), encoding="utf-8")]
    assert np.allclose(np.sum(labels, axis=1), 1) and np.ptp([p for _, p in labels]) > 0


def test_the_demonstrations_are_the_pools_with_their_own_labels_and_never_a_copy_of_what_is_judged(chain, tmp_path, monkeypatch, capsys):
    """A text of test is planted in train2, twice: bm25 would show it to itself."""
    house, other = chain[0], str(tmp_path / "other")
    shutil.copytree(house, other, symlinks=True)
    world = os.path.join(other, "data", "tinyworld")
    planted = read_rows("tinyworld", "test", 1)[0]["text"]
    rows = [json.loads(line) for line in open(os.path.join(world, "train2.jsonl"), encoding="utf-8")]
    for row in rows[:2]:
        row["text"] = planted
    rows[3]["text"] = rows[2]["text"]
    with open(os.path.join(world, "train2.jsonl"), "w", encoding="utf-8") as f:
        f.writelines(json.dumps(row) + "\n" for row in rows)
    shown = []
    monkeypatch.setattr(icl, "demonstration", lambda text, word, sure=None: shown.append((text, word)) or text + word)
    printed = in_process(other, monkeypatch, capsys, "--retriever", "bm25", "--shots", "37", "--orders", "1", "--out", "bm", max_rows=40)
    assert "37 rows of train2" in printed and planted not in {text for text, _ in shown} and results_of(other, "bm")["curve"][0]["demonstrations_dropped"] > 40
    labels = {json.loads(line)["id"]: json.loads(line)["soft_label"] for line in open(os.path.join(folder_of(other, "weak"), "labels.jsonl"), encoding="utf-8")}
    right = {row["text"]: " yes" if labels[row["id"]][1] > 0.5 else " no" for row in sorted(rows[:40], key=lambda r: r["id"], reverse=True)}
    assert all(right[text] == word for text, word in shown)


def test_oversight_shows_only_labels_that_survived(chain, monkeypatch, capsys):
    house, _ = chain
    soft = [{r["id"]: r["soft_label"][1] > 0.5 for r in map(json.loads, open(os.path.join(folder_of(house, n), "labels.jsonl"), encoding="utf-8"))}
            for n in ("weak", "interaction")]
    survived = {row["text"] for row in read_rows("tinyworld", "train2", 64) if soft[0][row["id"]] == soft[1][row["id"]]}
    shown = []
    monkeypatch.setattr(icl, "demonstration", lambda text, word, sure=None: shown.append(text) or text + word)
    in_process(house, monkeypatch, capsys, "--retriever", "oversight", "--oversight", "interaction", "--shots", "6", "--out", "ov", "--force")
    assert len(set(shown)) > 6 and set(shown) <= survived and len(survived) < 64


def test_a_chat_model_and_an_encoder_of_another_kind_run(chain, chat, monkeypatch, capsys):
    house, _ = chain
    printed = in_process(house, monkeypatch, capsys, "--model", chat, "--retriever", "votek", "--encoder", "tiny-1a", "--shots", "3", "--out", "chat")
    assert "<|im_start|>assistant" in printed and "in one word: Yes or No" in printed and results_of(house, "chat")["test"]["n"] == 64


def test_another_seed_draws_others():
    draws = [icl.per_class(np.arange(50) % 2 == 0, 4, np.random.default_rng([seed, 0])).tolist() for seed in range(2)]
    assert draws[0] != draws[1]


@pytest.mark.parametrize("flags,words", [
    (["--labels", "nobody"], ["no labels at"]),
    (["--label-words", "definitely not,yes"], ["label words", "one token"]),
    (["--label-words", "yes,yes"], ["two different words"]),
    (["--label-words", "yes"], ["two different words"]),
    (["--shots", "65"], ["--shots 65", "64 rows"]),
    (["--shots", "two"], ["--shots"]),
    (["--shots", "2", "--noise", "3"], ["--noise 3", "2 labels"]),
    (["--retriever", "oversight"], ["--oversight FOLDER"]),
    (["--oversight", "interaction"], ["--retriever oversight"]),
    (["--retriever", "oversight", "--oversight", "nobody"], ["no labels at"]),
    (["--retriever", "magic"], ["--retriever"]),
    (["--encoder", "tiny-1a"], ["--encoder", "topk"]),
    (["--labels", "truth", "--ceiling", "icl-ceiling", "--out", "x"], ["for students"]),
    (["--ceiling", "weak"], ["cannot read"]),
    (["--ceiling", "icl-ceiling", "--shots", "3", "--orders", "2"], ["--shots [2]", "labels alone"]),
    (["--out", "weak"], ["overwrite"]),
    (["--model", "tiny-9"], ["tiny-4"]),
])
def test_a_users_mistake_is_one_clear_line_and_exit_code_2(chain, monkeypatch, capsys, flags, words):
    with pytest.raises(SystemExit) as stopped:
        in_process(chain[0], monkeypatch, capsys, *flags)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and all(word in said for word in words), said
