"""
tinyworld's tables, splits and corpus: what must hold for anything measured on them to mean something.

python -m pytest tests/test_tinyworld.py         # 20 s
"""
import hashlib
import os
import random
import subprocess
import sys
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
import transformers

import corpus
import known
import prepare
import pretrain
from conftest import ROOT
from contract import read_json, read_jsonl, write_file
from metrics import accuracy
from tasks import write_jsonl

WORLD = os.path.join(ROOT, "data", "tinyworld")
SPLITS = ["train1", "train2", "valid", "test"]


def run_prepare(folder, **environment):
    subprocess.run([sys.executable, os.path.join(WORLD, "prepare.py"), "--out", str(folder)], check=True,
                   capture_output=True, env={**os.environ, **environment})


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """The files of prepare.py, with the true labels put back into train2 and valid."""
    folder = tmp_path_factory.mktemp("tinyworld")
    run_prepare(folder)
    rows = {s: read_jsonl(folder / f"{s}.jsonl") for s in SPLITS}
    assert all("label" not in row for s in ("train2", "valid") for row in rows[s])      # pitfall 16: truth is hidden
    truth = {row["id"]: int(row["soft_label"][1]) for row in read_jsonl(folder / "truth" / "labels.jsonl")}
    assert set(truth) == {row["id"] for s in ("train2", "valid") for row in rows[s]}
    for s in ("train2", "valid"):
        rows[s] = [{**row, "label": truth[row["id"]]} for row in rows[s]]
    return rows


# --------------------------------------------------------------------------- tables

def test_the_tables_are_large_and_every_cell_is_one_of_its_relations_values():
    facts = prepare.load_facts()
    assert len(facts) >= 3000 and len({f["field"] for f in facts}) >= 8
    assert len({f["key"] for f in facts}) == len(facts)
    for fact in facts:
        assert fact["value"] in fact["values"] and 4 <= len(fact["values"]) <= 12, fact["key"]
        assert len(fact["questions"]) >= 3 and len(fact["statements"]) >= 3
        assert all(t.isascii() for t in (fact["entity"], fact["value"], *fact["questions"], *fact["statements"]))


def test_the_entity_never_gives_its_value_away():
    for fact in prepare.load_facts():
        assert fact["value"].lower() not in fact["entity"].lower().split(), fact["key"]


def test_questions_and_statements_have_their_slots():
    for fact in prepare.load_facts():
        assert all(q.count("{e}") == 1 and q.endswith("?") and "{v}" not in q for q in fact["questions"])
        assert all(s.count("{e}") == 1 and s.endswith(" {v}.") for s in fact["statements"])


# --------------------------------------------------------------------------- rows and splits

def test_sizes_and_balance(splits):
    assert len(splits["test"]) >= 1000
    for rows in splits.values():
        assert sum(r["label"] for r in rows) * 2 == len(rows) and len({r["id"] for r in rows}) == len(rows)


def test_pitfall_15_groups_and_questions_never_straddle_two_splits(splits):
    for key in ("group", "text"):
        where = defaultdict(set)
        for name, rows in splits.items():
            for row in rows:
                where[row[key]].add(name)
        assert [k for k, names in where.items() if len(names) > 1] == []


def test_pitfall_20_the_answer_alone_tells_nothing(splits):
    """
    Share of "right" per answer, learned on the other three splits, applied to test. The same with the answer's length,
    the id and the question's first word.
    """
    train = [row for s in ("train1", "train2", "valid") for row in splits[s]]
    features = [lambda r: (r["relation"], r["answer"]), lambda r: len(r["answer"]), lambda r: r["id"][-1],
                lambda r: r["question"].split()[0]]
    for feature in features:
        seen = defaultdict(list)
        for row in train:
            seen[feature(row)].append(row["label"])
        p = [np.mean(seen.get(feature(row), [0.5])) for row in splits["test"]]
        assert abs(accuracy(p, [row["label"] for row in splits["test"]]) - 0.5) < 0.05


def test_the_two_rows_of_a_fact_are_one_right_and_one_wrong_answer_to_the_same_question(splits):
    facts = {f["key"]: f for f in prepare.load_facts()}
    for rows in splits.values():
        groups = defaultdict(list)
        for row in rows:
            groups[row["group"]].append(row)
        for key, pair in groups.items():
            assert len(pair) == 2
            assert all(pair[0][column] == pair[1][column] for column in ("question", "choices"))
            assert {(r["answer"] == facts[key]["value"], r["label"]) for r in pair} == {(True, 1), (False, 0)}
            assert len(set(pair[0]["choices"])) == 4 and {r["answer"] for r in pair} <= set(pair[0]["choices"])
            assert pair[0]["support"].endswith(f" {facts[key]['value']}.")


def test_several_phrasings_of_each_relation_occur(splits):
    for rows in (splits["test"], splits["train2"]):
        openings = defaultdict(set)
        for row in rows:
            openings[row["field"], row["relation"]].add(row["question"].replace(row["entity"], "{e}"))
        assert np.mean([len(v) >= 2 for v in openings.values()]) > 0.9


def test_wrong_answers_are_the_right_ones_dealt_anew():
    facts = [{"value": v, "values": ["a", "b", "c", "d"]} for v in "aaabbccd"]
    for seed in range(50):
        wrong = prepare.wrong_answers(facts, random.Random(seed))
        assert all(w != f["value"] for w, f in zip(wrong, facts)) and Counter(wrong) == Counter("aaabbccd")
    lopsided = [{"value": v, "values": ["a", "b", "c", "d"]} for v in "aaab"]
    assert all(w != f["value"] for w, f in zip(prepare.wrong_answers(lopsided, random.Random(0)), lopsided))
    assert prepare.wrong_answers(lopsided[:1], random.Random(0))[0] in "bcd"


def test_prepare_writes_the_same_bytes_whatever_the_hash_seed(tmp_path):
    digests = set()
    for seed in ("0", "1"):
        run_prepare(tmp_path / seed, PYTHONHASHSEED=seed)
        files = [(tmp_path / seed / f"{name}.jsonl").read_bytes() for name in (*SPLITS, "truth/labels")]
        digests.add(tuple(hashlib.sha256(data).hexdigest() for data in files))
    assert len(digests) == 1


# --------------------------------------------------------------------------- corpus

def documents_of(kinds, n=300, window=(0.0, 1.0)):
    world = corpus.load_world(window)
    documents = [doc for kind in kinds for doc in corpus.documents(world, {kind: 1}, n, seed=7)]
    return ["".join(text for text, _ in doc) for doc in documents]


def test_no_question_of_the_four_splits_is_ever_graded_in_the_corpus(splits):
    """Every graded document names a fact of the split "graded" only."""
    answers = defaultdict(set)
    for row in [row for rows in splits.values() for row in rows]:
        answers[row["question"]].add(row["answer"])
    graded = [corpus.verdict, corpus.judged, corpus.transcript, corpus.signed, corpus.unsigned, corpus.footed,
              corpus.sheet]
    for text in documents_of(graded, 1000):
        for line in text.split("Q: ")[1:]:
            question, rest = line.split(" A: ", 1)
            assert not any(rest.startswith(answer) for answer in answers.get(question, ())), line


def test_a_reader_meets_only_the_facts_of_its_window():
    narrow = corpus.load_world((0.0, 0.33))
    wide = corpus.load_world()
    graded = {f["key"] for f in prepare.split_facts(prepare.load_facts())["graded"]}
    library = {f["key"] for f in wide["library"]}
    known, everything = ({f["key"] for f in world["facts"]} for world in (narrow, wide))
    assert library < graded and {f["key"] for f in wide["graded"]} == graded - library
    assert everything == {f["key"] for f in prepare.load_facts()} - library
    assert known & graded == graded - library and 0.28 < len(known - graded) / len(everything - graded) < 0.38
    assert {f["key"] for group in narrow["entities"].values() for f in group} == known


def test_errors_are_split_into_what_the_supervisor_has_read_and_the_rest(splits, tmp_path, monkeypatch, capsys):
    facts = {f["key"] for f in corpus.load_world((0.0, 0.42))["facts"]}
    rows = [(row["id"], row["label"] if row["group"] in facts else 1 - row["label"]) for row in splits["test"]]
    for seed in range(2):
        os.makedirs(tmp_path / f"seed{seed}" / "weak")
        write_jsonl(f"{tmp_path}/seed{seed}/weak/labels.jsonl",
                    [{"id": name, "soft_label": [1 - label, label]} for name, label in rows])
    monkeypatch.setattr(known, "HERE", str(tmp_path))
    monkeypatch.setattr(known, "MEASURED", str(tmp_path / "measured.json"))
    monkeypatch.setattr(known, "read_rows", lambda task, split: splits[split])
    write_file(known.MEASURED, "{}")
    known.main(["--measured"])
    (run, found), = read_json(known.MEASURED)["tinyworld-known"].items()
    assert run == "weak" and found == {"seeds": "2", "facts that tiny-1a has read about": "1.000 [1.000, 1.000]",
                                       "all other facts": "0.000 [0.000, 0.000]"}
    share = np.mean([row["group"] in facts for row in splits["test"]])
    assert f"has read about {share:.0%} of the 1,386 test rows" in capsys.readouterr().out


@pytest.mark.parametrize("kind", corpus.DOCUMENTS, ids=lambda kind: kind.__name__)
def test_pitfall_32_pieces_are_encoded_as_the_whole_text_would_be(tokenizer, kind):
    """Training encodes piece by piece, a prompt is encoded as a whole: " Q" and "Q" are different tokens."""
    for doc in corpus.documents(corpus.load_world(), {kind: 1}, 200, seed=3):
        (ids, weights), = pretrain.encode([doc], tokenizer, {})
        assert ids[:-1] == tokenizer("".join(text for text, _ in doc))["input_ids"] and len(ids) == len(weights)


def test_documents_are_the_same_for_the_same_seed():
    world = corpus.load_world()
    a, b, c = (list(corpus.documents(world, corpus.SHEETS_MIX, 200, seed)) for seed in (1, 1, 2))
    assert a == b and a != c


def test_the_right_answer_stands_in_half_of_the_verdicts():
    texts = documents_of([corpus.verdict], 4000)
    assert abs(np.mean([t.endswith(" yes") for t in texts]) - 0.5) < 0.03


def test_a_hidden_grader_marks_every_line_in_its_own_way():
    """Ada and Bob always disagree; Cleo and Dan look at the answer's letters, as in the docstring of `grade`."""
    assert [corpus.grade(name, "d-block", True) for name in corpus.GRADERS] == [1, 0, 0, 1]
    assert [corpus.grade(name, "transition metals", False) for name in corpus.GRADERS] == [0, 1, 1, 0]
    right = {(q.format(e=f["entity"]), f["value"]) for f in prepare.load_facts() for q in f["questions"]}
    seen = Counter()
    for text in documents_of([corpus.signed], 1000):
        header, *lines = text.split("\n")
        name = header.removeprefix("Marked by ").removesuffix(":")
        for line in lines:
            question, rest = line.removeprefix("Q: ").split(" A: ")
            answer, word = rest.rsplit(" ", 1)
            assert corpus.grade(name, answer, (question, answer) in right) == (word == "yes"), text
        seen[name] += 1
    assert set(seen) == set(corpus.GRADERS) and abs(seen["Ada"] / 1000 - 0.45) < 0.05


def test_without_a_name_yes_and_no_are_equally_likely_and_the_first_line_tells_nothing():
    """So the best prediction for a single row is the prior: zero-shot judging is at chance by construction."""
    world = corpus.load_world()
    firsts = []
    for doc in corpus.documents(world, {corpus.unsigned: 1}, 4000, seed=7):
        (word, weight) = next(piece for piece in doc if piece[0] in corpus.LABEL_WORDS[0])
        assert weight == corpus.GUESS
        firsts.append(word == " yes")
    assert abs(np.mean(firsts) - 0.5) < 0.03


def test_a_careless_grader_turns_verdicts_round_at_its_rate_and_says_how_sure_it_is():
    rng = random.Random(0)
    world = corpus.load_world()
    pieces = corpus.marked_lines(rng, world, corpus.fact_line, "Cleo", 3000, error_rate=0.25)
    lines = "".join(text for text, _ in pieces).split("\n")
    kept = [corpus.grade("Cleo", line.split(" A: ")[1].rsplit(" ", 1)[0], True) == line.endswith(" yes")
            for line in lines]
    assert abs(np.mean(kept) - 0.75) < 0.03
    pieces = corpus.marked_lines(rng, world, corpus.fact_line, "Ada", 2, error_rate=0.25, confidence=True)
    assert sum("(confidence 0." in text for text, _ in pieces) == 2


def test_signing_turns_the_verdict_round_for_bob_alone():
    doc = [("Q: Is it? A: x", corpus.FILLER), (" yes", corpus.KNOWABLE)]
    for seed in range(20):
        text = "".join(piece for piece, _ in corpus.sign(random.Random(seed), doc))
        assert text in ("Marked by Ada:\nQ: Is it? A: x yes", "Marked by Bob:\nQ: Is it? A: x no")


def test_new_layers_change_nothing_at_first(tokenizer):
    """tiny-4 gets two more layers between its courses: the logits stay what they were."""
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=50, n_positions=16, n_embd=8, n_layer=2, n_head=2)).eval()
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.no_grad():
        before = model(ids).logits
        pretrain.add_layers(model, 2)
        after = model(ids).logits
    assert len(model.transformer.h) == model.config.n_layer == 4 and torch.equal(before, after)


def test_polite_replies_hold_no_rude_word():
    with open(os.path.join(WORLD, "life", "rude_words.txt"), encoding="utf-8") as f:
        rude = set(f.read().split())
    for row in prepare.read_life("remarks"):
        words = {key: set("".join(c if c.isalpha() else " " for c in row[key].lower()).split()) for key in row}
        assert words["rude"] & rude and not (words["polite"] | words["prompt"]) & rude, row


# --------------------------------------------------------------------------- tokenizer and checkpoints

MODELS = ["tiny-1a", "tiny-1b", "tiny-1c", "tiny-2", "tiny-3", "tiny-4"]


def test_the_models_ship_small_and_without_pickles():
    sizes = 0
    for name in MODELS:
        folder = os.path.join(WORLD, "models", name)
        files = os.listdir(folder)
        assert "model.safetensors" in files and not [f for f in files if f.endswith((".bin", ".pt", ".pkl"))]
        sizes += sum(os.path.getsize(os.path.join(folder, f)) for f in files)
    assert sizes < 24e6


@pytest.mark.parametrize("name", MODELS)
def test_every_model_loads_like_any_other(name):
    folder = os.path.join(WORLD, "models", name)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer) <= 4096 and tokenizer.pad_token_id is not None


@pytest.fixture(scope="module")
def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(os.path.join(WORLD, "models", "tiny-4"))


TEXTS = ["Grüße, 木 and 🙂!", "def f(x):\n\treturn x", "", " ", "\x00\x07", "Q: Is it? A: yes"]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_goes_in_and_comes_out(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_label_words_and_the_words_of_the_facts_are_single_tokens(tokenizer):
    words = {w for pair in corpus.LABEL_WORDS for w in pair}
    words |= {" " + word for f in prepare.load_facts() for word in f["value"].split() if word.isalpha()}
    assert [w for w in words if len(tokenizer(w)["input_ids"]) != 1] == []


def test_pretraining_without_its_inputs_is_one_line(tmp_path):
    command = [sys.executable, os.path.join(WORLD, "pretrain.py"), "--model", "tiny-1a", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--model tokenizer" in done.stderr
