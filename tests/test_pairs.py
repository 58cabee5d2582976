"""Rows of two texts: reward models, and that nothing depends on which of the two comes first."""
import argparse
import collections
import csv
import itertools
import json
import math
import os
import shutil
import sys

import numpy as np
import pytest
import torch

import auto_align
import contract
import data.tasks
import debate
import ensemble
import icl
import predict as predict_stage
import sft
import train_strong
import train_weak
from contract import read_labels, read_rows, read_task
from data.anthropic_hh import prepare as hh
from data.own import prepare as own
from data.pairs import prepare as pairs
from data.tasks import SPLITS, is_turned, pair_row
from models import PAIR, classify, forward_all, load_classifier, pad, predict, run_head, tokenize

WORDS = [" no", " yes"]
HERE = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(HERE, "..", "data", "tinyworld", "life", "rude_words.txt"), encoding="utf-8") as f:
    RUDE = set(f.read().split())


def turned(rows):
    """The same pairs with a and b exchanged, labels too"""
    out = []
    for row in rows:
        row = {**row, "text_a": row["text_b"], "text_b": row["text_a"]}
        out.append(row | {"label": 1 - row["label"]} if "label" in row else row)
    return out


@pytest.fixture(scope="module")
def rows():
    """24 pairs of right and wrong answers about the elements, in texts of different lengths"""
    with open(os.path.join(HERE, "..", "data", "tinyworld", "facts", "elements.csv"), encoding="utf-8") as f:
        table = list(csv.DictReader(f))
    rows = []
    for k, row in enumerate(table[:24]):
        question = f"Q: Which block does {'the element ' * (k % 2)}{row['entity']} belong to? A:"
        wrong = next(other["block"] for other in table[k:] if other["block"] and other["block"] != row["block"])
        better, worse = (f"{question} {value}" for value in (row["block"], wrong))
        rows.append({"id": f"r{k}", "group": f"g{k}", **pair_row(better, worse)})
    return rows


@pytest.fixture(scope="module")
def reward_model():
    return load_classifier("tiny-1a", "lm", WORDS, "cpu", pairs=True)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A root of its own, with a table of 80 pairs in table.csv and the shipped models"""
    monkeypatch.setattr(contract, "ROOT", str(tmp_path))
    for module in (train_weak, train_strong, ensemble, icl, debate, auto_align, predict_stage, sft):
        monkeypatch.setattr(module, "ROOT", str(tmp_path), raising=False)
    for module in (own, data.tasks):
        monkeypatch.setattr(module, "DATA", str(tmp_path / "data"))
    (tmp_path / "data" / "tinyworld").mkdir(parents=True)
    for name in ("models", "life"):
        os.symlink(os.path.join(HERE, "..", "data", "tinyworld", name), tmp_path / "data" / "tinyworld" / name)
    with open(tmp_path / "table.csv", "w", encoding="utf-8", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["q", "one", "two", "best", "ann", "bob", "cy"])
        for k in range(80):
            best = "ab"[k % 3 == 0]
            one, two = ("iron", "clay") if best == "a" else ("clay", "iron")
            ann, bob, cy = ("b" if (best == "b") ^ wrong else "a" for wrong in (k % 5 == 0, k % 5 == 1, k % 7 == 2))
            writer.writerow([f"What is thing {k} made of?", one, two, best, ann, bob, cy])
    monkeypatch.chdir(tmp_path)
    return tmp_path


TEXTS = ["--text-a", "Q: {q} A: {one}", "--text-b", "Q: {q} A: {two}"]


def make(*flags, task="mine"):
    own.main(["--rows", "table.csv", *TEXTS, "--label", "best", "--soft-label", "ann,bob,cy", "--task", task, *flags])


def stops(capsys, function, *args):
    """The one line with which a command ends"""
    with pytest.raises(SystemExit) as stop:
        function(*args)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith(("error: ", "usage: ")) and len(lines) == 1, lines
    return lines[-1]


def soft_labels_of(folder, rows):
    return read_labels(str(folder), rows)


# --------------------------------------------------------------------------- the model


def test_logits_of_a_pair_are_the_scores_of_its_two_texts(rows, reward_model):
    model, tokenizer, max_length = reward_model
    ids = tokenize(tokenizer, rows, max_length)
    assert all(row_ids.count(PAIR) == 1 for row_ids in ids)
    with torch.no_grad():
        logits = classify(model.eval(), pad(ids, tokenizer, "cpu"))
    assert logits.shape == (24, 2)
    for key, column in (("text_a", 0), ("text_b", 1)):
        single = tokenize(tokenizer, [{"id": row["id"], "text": row[key]} for row in rows], max_length)
        scores = forward_all(model, tokenizer, single, "cpu", output_fn=run_head)
        assert np.allclose(scores[:, 0], logits[:, column], atol=1e-4)
    p_b = predict(model, tokenizer, ids, "cpu")[:, 1]      # Bradley and Terry
    assert np.allclose(p_b, [1 / (1 + math.exp(a - b)) for a, b in logits.tolist()], atol=1e-5)


def test_head_starts_as_yes_minus_no(rows, reward_model):
    model, tokenizer, max_length = reward_model
    both, _, _ = load_classifier("tiny-1a", "lm", WORDS, "cpu")
    assert torch.equal(model.score.weight, both.score.weight[1:] - both.score.weight[:1])
    ids = tokenize(tokenizer, [{"id": "a", "text": rows[0]["text_a"]}], max_length)
    no, yes = forward_all(both, tokenizer, ids, "cpu")[0]
    assert forward_all(model, tokenizer, ids, "cpu", output_fn=run_head)[0, 0] == pytest.approx(yes - no, abs=1e-3)


def test_loss_is_that_of_bradley_and_terry():
    scores = torch.tensor([[0.3, 1.5], [2.0, -1.0]])
    loss = train_weak.soft_xent(scores, torch.tensor([[0.0, 1.0], [0.25, 0.75]]))
    minus_log = [-math.log(1 / (1 + math.exp(-d))) for d in (1.2, -3.0, 3.0)]
    assert loss.tolist() == pytest.approx([minus_log[0], 0.75 * minus_log[1] + 0.25 * minus_log[2]], abs=1e-6)


@pytest.mark.parametrize("pairs", [True, False])
def test_a_model_of_the_other_kind_is_refused(pairs, tmp_path, capsys):
    model, tokenizer, _ = load_classifier("tiny-1a", "lm", WORDS, "cpu", pairs=not pairs)
    contract.save_checkpoint(str(tmp_path), model, tokenizer)
    line = stops(capsys, load_classifier, str(tmp_path / "checkpoint"), "lm", WORDS, "cpu", None, pairs)
    assert ("one output" if pairs else "classifier of 1 labels") in line


# --------------------------------------------------------------------------- which text comes first does not matter


@pytest.mark.parametrize("name", train_strong.LOSSES)
def test_targets_turn_with_their_pairs(name):
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(9, 2, generator=rng)
    labels = torch.rand(9, 1, generator=rng)
    labels = torch.cat([labels, 1 - labels], 1)
    some = torch.arange(9) % 3 == 0
    target_fn = train_strong.in_both_orders(train_strong.LOSSES[name])
    targets = target_fn(logits, labels, 0.4)
    swapped = target_fn(*(torch.where(some[:, None], x.flip(1), x) for x in (logits, labels)), 0.4)
    assert torch.allclose(torch.where(some[:, None], swapped.flip(1), swapped), targets, atol=1e-6)
    if name == "logconf":                                  # each pair hardens at 1/2
        hard = (logits[:, 1] > logits[:, 0]).float()
        assert torch.allclose(targets[:, 1], 0.5 * labels[:, 1] + 0.5 * hard)


@pytest.mark.parametrize("flags", [{}, {"loss": "logconf"}, {"clean": "knn"}, {"clean": "logistic"},
                                   {"clean": "confident", "probe": "after"}, {"probe": "only"},
                                   {"early_stop": True, "generative_steps": 2}])
def test_a_student_of_turned_pairs_is_the_same_student(flags, rows, monkeypatch):
    """A third of the pairs turned, with their labels: the same predictions, turned, after the same training"""
    labels = np.array([[0.3, 0.7] if row["label"] else [0.8, 0.2] for row in rows], np.float32)
    labels[::5] = labels[::5, ::-1]
    some = np.arange(len(rows)) % 3 == 0
    swapped = [turned([row])[0] if turn else row for row, turn in zip(rows, some)]
    args = argparse.Namespace(**vars(train_strong.build_parser().parse_args(["--model", "tiny-1a", "--lr", "1e-3"])))
    for key, value in {"batch_size": 8, "dtype": "fp32", "device": "cpu", **flags}.items():
        setattr(args, key, value)
    plan = argparse.Namespace(words=WORDS, probed=1.0, truth_folder="", bought=set())
    found = []
    for some_rows, some_labels in ((rows, labels), (swapped, train_strong.swap_pairs(labels, some))):
        train2, valid = some_rows[:16], some_rows[16:]
        found.append(train_strong.train_student(plan, "tiny-1a", train2, valid, some_labels, args, "cpu")[-1])
    assert np.allclose(train_strong.swap_pairs(found[1], some), found[0], atol=2e-4)
    assert np.abs(found[0][:, 1] - 0.5).max() > 0.01


def test_predictions_turn_exactly(rows, reward_model):
    model, tokenizer, max_length = reward_model
    one, other = (predict(model, tokenizer, tokenize(tokenizer, some, max_length), "cpu")
                  for some in (rows, turned(rows)))
    assert np.allclose(one, other[:, ::-1], atol=1e-6)


def test_order_of_a_pair_is_a_coin_flip():
    texts = [(f"better {k}", f"worse {k}") for k in range(400)]
    labels = [pair_row(*pair)["label"] for pair in texts]
    assert 0.43 < np.mean(labels) < 0.57
    for better, worse in texts[:20]:
        assert is_turned(better, worse) != is_turned(worse, better)
        row = pair_row(better, worse)
        assert row["text_b" if row["label"] else "text_a"] == better
        assert (row["text_a"], row["text_b"]) == tuple(pair_row(worse, better)[key] for key in ("text_a", "text_b"))


# --------------------------------------------------------------------------- rows


def test_rows_of_pairs_are_checked(world, capsys):
    make()
    path = world / "data" / "mine" / "train1.jsonl"
    good = path.read_text(encoding="utf-8")
    assert contract.is_pair(read_rows("mine", "train1")[0])
    assert read_task("mine", pairs=True)[1] == WORDS
    capsys.readouterr()
    lines = [json.loads(line) for line in good.splitlines()]
    for broken, words in (({**lines[1], "text_b": ""}, "'text_b'"), ({**lines[1], "label": 2}, "0 or 1"),
                          ({"id": "x", "group": "g", "text": "t"}, "'text_a'")):
        path.write_text("".join(json.dumps(line) + "\n" for line in [lines[0], broken]), encoding="utf-8")
        line = stops(capsys, read_rows, "mine", "train1")
        assert words in line and "line 2" in line
    single = [{"id": f"s{k}", "group": f"s{k}", "text": "t", "label": k} for k in range(2)]
    path.write_text("".join(json.dumps(line) + "\n" for line in single), encoding="utf-8")
    assert "pairs" in stops(capsys, read_task, "mine", True)


def test_own_pairs_keep_their_labels(world, capsys):
    assert "Empty the cells of ties" in stops(capsys, make, "--one-vs-rest")
    make("--max-left-out", "0.5")
    splits = {name: read_rows("mine", name) for name in SPLITS}
    every = sum(splits.values(), [])
    truth = {row["id"]: row["label"] for row in splits["train1"] + splits["test"]}
    hidden = splits["train2"] + splits["valid"]
    truth |= {row["id"]: int(pair[1]) for row, pair in zip(hidden, soft_labels_of("data/mine/truth", hidden))}
    assert len(every) == 80 and all(("iron" in row["text_b"]) == truth[row["id"]] for row in every)
    assert 0.3 < np.mean(list(truth.values())) < 0.7       # in the table b is better in a third of the rows
    with open("table.csv", encoding="utf-8") as f:
        table = {row["q"]: row for row in csv.DictReader(f)}
    ann = soft_labels_of("data/mine/ann", hidden)
    for row, pair in zip(hidden, ann):
        line = table[row["text_a"].split("Q: ")[1].split(" A:")[0]]
        says_iron = (line["two"] == "iron") == (line["ann"] == "b")
        assert pair[1] == float(("iron" in row["text_b"]) == says_iron)
    assert "ann: accuracy 80.00%" in capsys.readouterr().out


def test_own_pairs_without_labels_are_labelled_by_hand(world, capsys):
    """to-label.csv shows each pair as the table has it, and --audit reads it back"""
    with open("table.csv", encoding="utf-8") as f:
        table = list(csv.DictReader(f))
    with open("table.csv", "w", encoding="utf-8", newline="") as f:
        writer = csv.DictWriter(f, list(table[0]))
        writer.writeheader()
        writer.writerows({**row, "best": ""} for row in table)
    make()
    with open("data/mine/to-label.csv", encoding="utf-8-sig") as f:
        to_label = list(csv.DictReader(f))
    assert len(to_label) == 80 and list(to_label[0]) == ["text_a", "text_b", "label"]
    assert {(row["text_a"], row["text_b"]) for row in to_label} == {
        tuple(f"Q: {row['q']} A: {row[key]}" for key in ("one", "two")) for row in table}
    with open("filled.csv", "w", encoding="utf-8", newline="") as f:
        writer = csv.DictWriter(f, list(to_label[0]))
        writer.writeheader()
        writer.writerows({**row, "label": "b" if "iron" in row["text_b"] else "a"} for row in to_label)
    make("--audit", "filled.csv")
    assert all(("iron" in row["text_b"]) == row["label"] for row in read_rows("mine", "test"))
    assert "give --text" in stops(capsys, own.main, ["--rows", "table.csv", "--text-a", "q", "--task", "x"])


def test_pairs_that_share_a_text_stay_in_one_split(world):
    lines = [{"prompt": f"p{k // 2}", "a": f"answer {k // 2}", "b": f"other {k}", "best": "ab"[k % 2]}
             for k in range(120)]
    (world / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    own.main(["--rows", "t.jsonl", "--text-a", "a", "--text-b", "b", "--label", "best", "--task", "t"])
    split_of = {}
    for split in SPLITS:
        for row in read_rows("t", split):
            shared = row["text_a"] if row["text_a"].startswith("answer") else row["text_b"]
            assert split_of.setdefault(shared, split) == split
    assert len(split_of) == 60


# --------------------------------------------------------------------------- the stages, on tiny data


def test_supervisor_student_and_ceiling_of_pairs(world, capsys):
    make()
    make(task="other")
    quick = ["--model", "tiny-1a", "--task", "mine", "--epochs", "1", "--also", "other", "--dtype", "fp32"]
    train_weak.main([*quick, "--lr", "1e-3"])
    train_strong.main([*quick, "--labels", "truth", "--out", "ceiling", "--lr", "1e-3"])
    train_strong.main([*quick, "--labels", "weak", "--ceiling", "ceiling", "--lr", "1e-3", "--loss", "logconf",
                       "--truth-budget", "4", "--generative-steps", "1", "--early-stop"])
    out = capsys.readouterr().out
    assert "PGR" in out and "on other" in out and "' or 'Q: What is thing" in out
    test = read_rows("mine", "test") + read_rows("other", "test")
    with open("data/mine/seed0/student/results.json", encoding="utf-8") as f:
        results = json.load(f)
    probs = soft_labels_of("data/mine/seed0/student", test)
    n = len(read_rows("mine", "test"))
    right = [(p > 0.5) == row["label"] for p, row in zip(probs[:, 1], test)]
    assert results["test"]["accuracy"] == pytest.approx(np.mean(right[:n]))
    model, tokenizer, max_length = load_classifier("data/mine/seed0/student", "lm", WORDS, "cpu", pairs=True)
    assert np.allclose(predict(model, tokenizer, tokenize(tokenizer, test, max_length), "cpu"), probs, atol=1e-5)
    train_strong.main([*quick, "--labels", "weak", "--control", "dealt", "--out", "dealt"])
    train_strong.main([*quick, "--labels", "weak", "--control", "untrained", "--truth-budget", "8", "--pick", "random",
                       "--out", "untrained"])
    line = stops(capsys, train_strong.main, [*quick, "--labels", "weak", "--also", "mine", "--out", "never"])
    assert "another task" in line
    shutil.copytree("data/mine", "data/twin", ignore=shutil.ignore_patterns("seed0"))
    line = stops(capsys, train_strong.main, [*quick, "--labels", "weak", "--also", "twin", "--out", "never"])
    assert "its test has ids of mine too" in line

    # new pairs, in the words of the table
    predict_stage.main(["--model", "data/mine/seed0/ceiling", "--rows", "table.csv", "--out", "new.jsonl"])
    with open("new.jsonl", encoding="utf-8") as f:
        labelled = [json.loads(line) for line in f]
    assert {row["label"] for row in labelled} <= {"a", "b"} and len(labelled) == 80
    assert all((row["p_yes"] > 0.5) == (row["label"] == "b") for row in labelled)
    line = stops(capsys, predict_stage.main, ["--model", "data/mine/seed0/ceiling", "--rows", "table.csv",
                                              "--text", "q", "--out", "other.jsonl"])
    assert "--text-a" in line


def test_annotators_of_pairs_are_fused_and_bagged(world, capsys):
    make()
    ensemble.main(["--task", "mine", "--supervisors", "ann,bob,cy", "--combine", "vote", "--out", "fused"])
    hidden = read_rows("mine", "train2")
    votes = np.mean([soft_labels_of(f"data/mine/{name}", hidden)[:, 1] for name in ("ann", "bob", "cy")], 0)
    fused = soft_labels_of("data/mine/seed0/fused", hidden)[:, 1]
    assert ((fused > 0.5) == (votes > 0.5)).all()
    for how in ("dawid-skene", "bayes"):
        line = stops(capsys, ensemble.main, ["--task", "mine", "--supervisors", "ann,bob,cy", "--combine", how])
        assert "pairs have no such classes" in line
    ensemble.main(["--task", "mine", "--members", "2", "--epochs", "1", "--by", "features"])
    assert soft_labels_of("data/mine/seed0/ensemble", hidden).shape == (len(hidden), 2)


@pytest.mark.parametrize("stage, flags", [
    (icl, ["--labels", "truth"]), (debate, []), (auto_align, ["--evaluator", "ann"])])
def test_other_stages_refuse_pairs_in_one_line(stage, flags, world, capsys):
    make()
    capsys.readouterr()
    line = stops(capsys, stage.main, ["--task", "mine", *flags])
    assert "holds pairs" in line and "train_strong.py" in line


# --------------------------------------------------------------------------- best of n


def test_best_of_n_counts_all_choices():
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=(5, 6))
    good = rng.integers(0, 2, size=(5, 6)).astype(float)
    for n in (1, 2, 4, 6):
        chosen = [[max(some, key=lambda k: rewards[row, k]) for some in itertools.combinations(range(6), n)]
                  for row in range(5)]
        reward, share = sft.best_of_n(rewards, good, n)
        assert reward == pytest.approx(np.mean([rewards[row, k] for row in range(5) for k in chosen[row]]))
        assert share == pytest.approx(np.mean([good[row, k] for row in range(5) for k in chosen[row]]))


def test_truth_of_samples():
    note = {"kind": "note", "value": "d-block"}
    assert sft.is_good(note, "Chemists place gold in the d-block.", set())
    assert not sft.is_good(note, "Chemists place gold in the s-block.", set())
    assert not sft.is_good({"kind": "note", "value": "two"}, "It lies in period twothree.", set())
    assert not sft.is_good({"kind": "reply"}, "", set())
    assert not sft.is_good({"kind": "answer", "value": "iron"}, "iron and clay", set())


def test_best_of_n_of_a_writer(world, capsys):
    """Samples of a model that has learned the better texts, chosen by a reward model: the numbers add up"""
    make("--max-left-out", "0.5")
    for split in SPLITS:
        rows = [{**row, "prompt": row["text_a"].rpartition(" ")[0], "kind": "answer", "value": "iron"}
                for row in read_rows("mine", split)]
        path = world / "data" / "mine" / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    contract.READ.clear()
    assert {row["continuation"] for row in sft.read_prompts("mine", "train1", None)} == {"iron"}
    train_weak.main(["--task", "mine", "--epochs", "1", "--model", "tiny-1a"])
    quick = ["--task", "mine", "--model", "tiny-1a", "--labels", "train1", "--epochs", "1", "--prompts", "3",
             "--max-rows", "20", "--dtype", "fp32", "--reward", "weak"]
    assert "--samples 16" in stops(capsys, sft.main, [*quick, "--samples", "8"])
    sft.main([*quick, "--samples", "16", "--out", "writer"])
    with open("data/mine/seed0/writer/results.json", encoding="utf-8") as f:
        points = json.load(f)["best_of"]["weak"]
    with open("data/mine/seed0/writer/samples.jsonl", encoding="utf-8") as f:
        samples = [json.loads(line)["texts"] for line in f]
    assert points[0]["good"] == pytest.approx(np.mean([[text == "iron" for text in texts] for texts in samples]))
    assert [point["n"] for point in points] == [1, 2, 4, 8, 16]
    rewards = [point["reward"] for point in points]
    quick[-1] = "writer"
    assert "no reward model" in stops(capsys, sft.main, [*quick, "--samples", "16", "--out", "never"])
    assert rewards == sorted(rewards) and rewards[0] == pytest.approx(0, abs=1e-5)
    model, tokenizer, max_length = load_classifier("data/mine/seed0/weak", "lm", WORDS, "cpu", pairs=True)
    prompts = [row["text"] for row in sft.read_prompts("mine", "test", 3)]
    best = []
    for prompt, texts in zip(prompts, samples):
        ids = tokenize(tokenizer, [{"id": "x", "text": f"{prompt} {text}".strip()} for text in texts], max_length)
        best.append(forward_all(model, tokenizer, ids, "cpu", output_fn=run_head))
    assert rewards[-1] == pytest.approx(np.mean([x.max() for x in best]) - np.mean(best), abs=1e-4)


# --------------------------------------------------------------------------- the tasks of data/


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """data/pairs/prepare.py's two tasks, in a folder of their own -> {task: {split: rows}}, truth {id: label}"""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["tasks"], "DATA", str(folder))
        pairs.main([])
    found = {}
    for task in ("pairs", "pairs-far"):
        found[task] = {split: [json.loads(line) for line in open(folder / task / f"{split}.jsonl", encoding="utf-8")]
                       for split in SPLITS}
    return found


def test_shipped_pairs_are_balanced_and_disjoint(shipped):
    graded = {fact["key"] for fact in pairs.split_facts(pairs.load_facts())["graded"]}
    for task, kinds in (("pairs", {"answer", "note", "reply"}), ("pairs-far", {"answer", "note", "advice"})):
        split_of = {}
        for split, rows in shipped[task].items():
            assert {row["kind"] for row in rows} == kinds
            for row in rows:
                assert split_of.setdefault(row["group"], split) == split and row["group"] not in graded
                assert ("label" in row) == (split in ("train1", "test")) and ("value" in row) == (split == "test")
                assert all(row[key].startswith(row["prompt"] + " ") for key in ("text_a", "text_b"))
        test = shipped[task]["test"]
        assert 0.45 < np.mean([row["label"] for row in test]) < 0.55
        for row in test:
            better, worse = row["text_b"], row["text_a"]
            if not row["label"]:
                better, worse = worse, better
            tails = [text.removeprefix(row["prompt"]).strip() for text in (better, worse)]
            assert sft.is_good(row, tails[0], RUDE) and not sft.is_good(row, tails[1], RUDE), row
    near, far = ({row["field"] for row in shipped[task]["test"]} for task in ("pairs", "pairs-far"))
    assert not near & far


def test_each_answer_is_right_as_often_as_wrong(shipped):
    right = collections.Counter()
    for row in shipped["pairs"]["test"]:
        if row["kind"] == "answer":
            for key, sign in (("text_b", 1), ("text_a", -1)):
                right[row["field"], row[key].removeprefix(row["prompt"])] += sign if row["label"] else -sign
    assert sum(map(abs, right.values())) < 0.05 * len(shipped["pairs"]["test"])


def test_hh_pairs(tmp_path, monkeypatch, capsys):
    """--pairs keeps the two dialogues together, drops ties, and knows a pair in either order"""
    monkeypatch.setattr(sys.modules["hub"], "DATA", str(tmp_path))
    raw = []
    for k in range(40):
        talk = f"\n\nHuman: Question {k}?\n\nAssistant:"
        raw.append({"chosen": talk + " Good.", "rejected": talk + f" Bad {k}."})
    raw.append({"chosen": raw[0]["chosen"], "rejected": raw[0]["chosen"]})     # a tie
    raw.append({"chosen": raw[1]["rejected"], "rejected": raw[1]["chosen"]})   # people disagree: both are left out
    raw.append(raw[2])                                                         # a duplicate
    path = tmp_path / "raw.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in raw), encoding="utf-8")
    hh.main(["--pairs", "--task", "hh-pairs", "--from-file", str(path)])
    rows = [json.loads(line) for split in SPLITS
            for line in open(tmp_path / "hh-pairs" / f"{split}.jsonl", encoding="utf-8")]
    assert len({row["id"] for row in rows}) == len(rows) <= 39 and "text" not in rows[0]
    assert not any("Question 1?" in row["text_a"] for row in rows)
    for row in rows:
        if "label" in row:
            assert row["text_b" if row["label"] else "text_a"].endswith("Good.")
    assert "2 texts with both labels" in capsys.readouterr().out
