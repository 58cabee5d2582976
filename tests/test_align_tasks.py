"""
align_tasks.py and its three data folders: the maths by hand, groups, bad files, and the real commands on few rows.

python -m pytest tests/test_align_tasks.py       # 20 s
"""
import csv
import doctest
import glob
import importlib
import importlib.util
import json
import os
import re
import shutil
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

import align_tasks as at
import warm
from conftest import ROOT
from metrics import auroc, correct, sigmoid, stretch_of_runs
from train_strong import logistic

DATA = os.path.join(ROOT, "data")
sys.path.insert(0, DATA)
TASKS = ["safety", "legal", "toxicity"]


def load(task):
    spec = importlib.util.spec_from_file_location(f"prepare_{task}", os.path.join(DATA, task, "prepare.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = {task: load(task) for task in TASKS}
with open(os.path.join(DATA, "tinyworld", "life", "rude_words.txt"), encoding="utf-8") as f:
    RUDE = set(f.read().split())


# --------------------------------------------------------------------------- the maths, by hand

@pytest.mark.parametrize("module", [at, *SCRIPT.values()])
def test_the_examples_in_the_docstrings_are_true(module):
    assert doctest.testmod(module).failed == 0


P = np.array([0.9, 0.8, 0.5, 0.3, 0.7, 0.2, 0.1, 0.4])
Y = np.array([1, 1, 1, 1, 0, 0, 0, 0])


def balanced(p, labels):
    return at.class_means(correct(p, labels), labels)


def test_the_two_errors_by_hand_ties_half():
    assert at.false_rates(P, Y) == (0.25, 0.375)               # 0.7 is judged safe; 0.3 unsafe, and half of 0.5
    assert balanced(P, Y) == pytest.approx(1 - (0.25 + 0.375) / 2)
    assert balanced(np.full(10, 0.9), np.array([1] * 9 + [0])) == 0.5
    assert balanced(np.full(8, 0.5), Y) == 0.5                 # a constant has no skill
    assert at.class_means([[1, 0, 0, 1], [1, 1, 1, 0]], None).tolist() == [0.5, 0.75]


def test_f1_by_hand_and_against_the_definition_by_precision_and_recall():
    no, yes, weighted = at.f1_scores(P, Y)                     # yes to 0.9 0.8 0.7: 2 of 3 are correct, of 4 in all
    assert yes == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert no == pytest.approx(2 * (3 / 5) * (3 / 4) / (3 / 5 + 3 / 4))
    assert weighted == pytest.approx((no + yes) / 2)
    assert at.f1_scores([0.9, 0.9], [0, 0]) == (0.0, 0.0, 0.0)
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    p = rng.random(200)
    y = rng.integers(0, 2, 200)
    assert at.f1_scores(p, y)[2] == pytest.approx(metrics.f1_score(y, p > 0.5, average="weighted"))


def test_the_curve_runs_from_all_judged_safe_to_none_and_its_area_is_the_auroc():
    rng = np.random.default_rng(1)
    p = rng.random(60).round(1)
    y = rng.integers(0, 2, 60)
    curve = at.rate_curve(p, y)
    assert curve[0][1:] == (1.0, 0.0) and curve[-1][1:] == (0.0, 1.0)
    false_safe = np.array([c[1] for c in curve])
    kept = 1 - np.array([c[2] for c in curve])
    assert all(np.diff(false_safe) <= 0) and all(np.diff(kept) <= 0)
    assert -np.trapezoid(kept, false_safe) == pytest.approx(auroc(p, y))
    assert at.false_safe_at(curve, 1.0) == 0.0
    assert at.false_safe_at(curve, 0.0) == min(c[1] for c in curve if c[2] == 0)


def test_draws_are_the_balanced_accuracy_of_each_drawn_test_set():
    """Two groups: a draw has group a twice (all correct), group b twice (the no is wrong), or each once."""
    groups = ["a", "a", "b", "b"]
    y = np.array([1, 0, 1, 0])
    draws = at.class_draws(correct([0.9, 0.1, 0.9, 0.9], y)[None, None], y, groups)
    assert {tuple(np.round(d, 6)) for d in draws} == {(1.0,), (0.75,), (0.5,)}
    assert draws.mean() == pytest.approx(0.75, abs=0.02)
    # two runs, one always correct and one always wrong: a draw has the first twice, once, or never
    runs = at.class_draws(np.array([np.ones((1, 4)), np.zeros((1, 4))]), y, groups)
    far = stretch_of_runs(2) / 2                           # two runs say little about others: metrics.bootstrap
    assert {tuple(np.round(d, 6)) for d in runs} == {(round(x, 6),) for x in (0.5 + far, 0.5, 0.5 - far)}
    plain = at.class_draws(np.array([[[1, 1, 0, 0]]]), None, groups)
    assert {tuple(np.round(d, 6)) for d in plain} == {(1.0,), (0.5,), (0.0,)}
    assert plain.mean() == pytest.approx(0.5, abs=0.03)


def test_seeds_are_pooled_by_means_and_the_pgr_is_that_of_the_means():
    y = np.array([1, 0, 1, 0])
    test = [{"group": group, "label": int(label)} for group, label in zip("abcd", y)]

    def table(weak, student, ceiling):
        rows = []
        for run, hits in (("weak", weak), ("ceiling", ceiling), ("student", student)):
            headline = float(at.class_means(hits, y))
            rows.append({"strategy": run, "run": run, "hits": hits, "headline": headline, "pgr": 99.0})
        return rows
    one = table([1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1])
    two = table([1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1])
    rows = {row["run"]: row for row in at.pool_seeds([one, two], "safety", test)}
    assert rows["student"]["headline"] == pytest.approx((0.5 + 0.25) / 2) and rows["student"]["seeds"] == 2
    assert rows["student"]["pgr"] == pytest.approx((0.375 - 0.25) / (1 - 0.25)) and "pgr" not in rows["weak"]
    low, high = rows["student"]["headline_interval"]
    assert 0 <= low < 0.375 < high <= 1
    mean, low, high = rows["student"]["minus"]["supervisor"]
    assert mean == pytest.approx(0.125) and low < mean < high
    assert set(rows["student"]["minus"]) == {"supervisor"} and rows["weak"]["minus"] == {}
    table_text = at.markdown_table("t", "toxicity", [
        {**{key: 0.1 for key in at.COLUMNS["toxicity"]}, "strategy": "naive", "run": "student", "seeds": 2,
         "minus": {"supervisor": [0.2, 0.1, 0.3]}, "reason": "no gap"}], test)
    assert "| +0.200 [+0.100, +0.300] helps | no gap |" in table_text
    assert len({line.count("|") for line in table_text.splitlines()[2:]}) == 1
    without = table([1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0])
    none = {row["run"]: row for row in at.pool_seeds([without], "safety", test)}
    assert "no gap" in none["student"]["reason"] and "pgr" not in none["student"]


def test_no_gap_is_a_sentence():
    def recovered(*accuracies):
        """Of supervisor, student and ceiling on 400 random rows."""
        hits = np.random.default_rng(0).random((1, 3, 400)) < np.array(accuracies)[:, None]
        return at.recovered(hits.astype(float), None, range(400))
    assert "no gap" in recovered(0.8, 0.9, 0.7)["reason"]
    tied = np.ones((3, 3, 10))                             # fault: means of 0.1 that differ by 1e-17, PGR 10^16
    tied[:, 0], tied[:, 2] = (np.arange(10) < np.array([[0], [0], [3]])), (np.arange(10) < np.array([[0], [1], [2]]))
    assert "no gap" in at.recovered(tied, None, range(10))["reason"]
    found = recovered(0.2, 0.5, 0.8)
    assert found["pgr"] == pytest.approx(0.5, abs=0.1) and found["interval"][0] < 0.5 < found["interval"][1]
    assert recovered(0.50, 0.5, 0.52)["interval"] is None      # a gap within its noise


# --------------------------------------------------------------------------- how toxic texts are


def test_expected_maximum_toxicity_on_a_planted_scorer():
    """A sample is toxic with p = 0.1: the mean is 0.1, and 1 - 0.9^25 = 92.8 % of prompts have one or more in 25."""
    scores = (np.random.default_rng(0).random((4000, 25)) < 0.1).astype(float)
    found = at.toxicity_metrics(scores)
    assert found["mean"] == pytest.approx(0.1, abs=0.004)
    assert found["any"] == found["expected_maximum"] == pytest.approx(1 - 0.9 ** 25, abs=0.015)
    uniform = at.toxicity_metrics(np.random.default_rng(1).random((4000, 25)))
    assert uniform["expected_maximum"] == pytest.approx(25 / 26, abs=0.003)    # of 25 uniform numbers, on average


def test_rude_words_are_words():
    assert at.has_rude_word("A CLOWN!", RUDE) == 1.0
    assert at.has_rude_word("clowns brattish", RUDE) == 0.0
    assert at.has_rude_word("", RUDE) == 0.0


def test_a_scorer_is_found_by_its_label_and_read_as_it_was_trained(monkeypatch, capsys):
    def plant(names, logits):
        model = SimpleNamespace(config=SimpleNamespace(id2label=names, problem_type=None))
        monkeypatch.setattr(at, "open_checkpoint", lambda *args, **kwargs: (model, None, 64))
        monkeypatch.setattr(at, "tokenize", lambda tokenizer, rows, max_length: [[0] for _ in rows])
        monkeypatch.setattr(at, "forward_all", lambda *args, **kwargs: np.array(logits, np.float32))
    plant({0: "neutral", 1: "toxic"}, np.log([[0.9, 0.1], [0.2, 0.8]]))
    assert np.allclose(at.load_scorer("x", "cpu", False)(["kind", "", "rude"]), [0.1, 0.0, 0.8])
    plant({0: "LABEL_0"}, [[0.0], [np.log(3)]])                                # one output: a sigmoid
    assert np.allclose(at.load_scorer("x", "cpu", False)(["kind", "rude"]), [0.5, 0.75])
    six = ["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"]
    plant(dict(enumerate(six)), [[np.log(19), 2, 2, 2, 2, 2]])                 # unitary/toxic-bert has no problem_type
    assert np.allclose(at.load_scorer("x", "cpu", False)(["rude"]), [0.95])
    assert "'toxic', read by sigmoid" in capsys.readouterr().out
    for names in ({0: "cat", 1: "dog"}, {0: "toxic", 1: "LABEL_1", 2: "LABEL_2"}):
        plant(names, [])
        with pytest.raises(SystemExit):
            at.load_scorer("x", "cpu", False)
    assert "problem_type" in capsys.readouterr().err


# --------------------------------------------------------------------------- rows

ROWS = {}


def house_of_rows():
    """The three tasks, prepared once in a temporary copy of data/."""
    if not ROWS:
        import tempfile
        home = tempfile.mkdtemp()
        ROWS["home"] = home
        build(home)
    return os.path.join(ROWS["home"], "data")


def build(folder):
    for path in glob.glob(os.path.join(ROOT, "*.py")):
        shutil.copy(path, folder)
    data = os.path.join(folder, "data")
    for task in (*TASKS, "own"):
        os.makedirs(os.path.join(data, task))
        shutil.copy(os.path.join(DATA, task, "prepare.py"), os.path.join(data, task))
    for name in ("hub.py", "tasks.py"):
        shutil.copy(os.path.join(DATA, name), data)
    os.makedirs(os.path.join(data, "tinyworld"))
    shutil.copy(os.path.join(DATA, "tinyworld", "prepare.py"), os.path.join(data, "tinyworld"))
    shutil.copy(os.path.join(DATA, "legal", "matters.csv"), os.path.join(data, "legal"))
    shutil.copy(os.path.join(DATA, "safety", "advice.csv"), os.path.join(data, "safety"))
    for name in ("life", "models", "facts"):
        os.symlink(os.path.join(DATA, "tinyworld", name), os.path.join(data, "tinyworld", name))
    for task in TASKS:
        must(folder, os.path.join("data", task, "prepare.py"))


def call(folder, *command):
    return warm.run(folder, *command)


def must(folder, *command):
    done = call(folder, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def read_jsonl(*path):
    with open(os.path.join(*path), encoding="utf-8") as f:
        return [json.loads(line) for line in f]


SPLITS = ("train1", "train2", "valid", "test")


def read(task):
    """{split: rows}"""
    return {split: read_jsonl(house_of_rows(), task, split + ".jsonl") for split in SPLITS}


def labelled(task):
    """All splits, each row with its true label."""
    lines = read_jsonl(house_of_rows(), task, "truth", "labels.jsonl")
    truth = {line["id"]: int(line["soft_label"][1]) for line in lines}
    return {split: [{"label": truth.get(row["id"]), **row} for row in rows] for split, rows in read(task).items()}


@pytest.mark.parametrize("task", TASKS)
def test_pitfall_15_no_group_stands_in_two_splits_and_the_truth_is_apart(task):
    splits = read(task)
    split_of = {}
    for name, rows in splits.items():
        for row in rows:
            assert split_of.setdefault(row["group"], name) == name
            assert ("label" in row) == (name in ("train1", "test")) and not {"danger", "reply"} & set(row)
            assert name == "train1" or "continuation" not in row
    n = sum(map(len, splits.values()))
    assert n >= 1000 and len({row["id"] for rows in splits.values() for row in rows}) == n
    first = {name: read_bytes(house_of_rows(), task, name + ".jsonl") for name in splits}
    must(ROWS["home"], os.path.join("data", task, "prepare.py"))
    assert first == {name: read_bytes(house_of_rows(), task, name + ".jsonl") for name in splits}


def test_these_things_and_facts_are_not_judged_in_pretraining():
    import corpus
    world = corpus.load_world()
    things = {row["thing"] for rows in read("safety").values() for row in rows}
    assert not {t["thing"] for t in world["graded_things"]} & things
    judged = {(fact["entity"], fact["value"]) for fact in world["graded"] + world["library"]}
    rows = [row for split in labelled("legal").values() for row in split]
    assert not judged & {(row["group"], row["kind"]) for row in rows if row["label"]}


def test_rows_have_the_form_that_the_models_have_read():
    import random

    import corpus
    world = corpus.load_world()
    rng = random.Random(0)
    verdicts = ["".join(text for text, _ in corpus.verdict(rng, world)) for _ in range(100)]
    form = re.compile(r"^Q: .+\? A: [^.]+$")
    assert all(form.match(re.sub(r" (yes|no)$", "", text)) for text in verdicts)
    assert all(form.match(row["text"]) for task in ("safety", "legal") for row in read(task)["test"])
    assert all(re.search(r"Prompt: [^\n]+ Reply:$", row["text"]) for row in read("toxicity")["test"])


def test_safety_labels_follow_the_table_and_neither_thing_nor_danger_decides():
    danger = {t["thing"]: t["danger"] for t in SCRIPT["safety"].read_life("things")}
    situations = {}
    for name, rows in labelled("safety").items():
        count = {}
        for row in rows:
            named = row["text"].split()[-1]
            own = danger[row["thing"]]
            assert row["label"] == (named == own)
            assert row["label"] or not SCRIPT["safety"].may_be_both(named, own)        # petrol is poisonous too
            assert situations.setdefault(row["situation"], name) == name
            for key in (row["thing"], named):
                count.setdefault(key, [0, 0])[row["label"]] += 1
        assert all(no == yes for no, yes in count.values())
    assert len({row["group"] for row in read("safety")["test"]}) >= 200
    read_situations = {c["situation"] for c in SCRIPT["safety"].read_life("cautions")}         # in pretraining
    assert len(situations) == 12 and not read_situations & set(situations)


def test_the_matters_of_legal_are_not_in_the_corpus():
    matters = {row["matter"] for rows in labelled("legal").values() for row in rows}
    assert len(matters) == 16 and not matters & {f["topic"] for f in SCRIPT["safety"].read_life("filings")}


@pytest.mark.parametrize("task", ["safety", "legal"])
def test_words_seen_in_training_do_not_decide_the_test(task):
    """A classifier by words and pairs of words, trained on train1 and the truth of train2, is near chance."""
    splits = labelled(task)
    train = splits["train1"] + splits["train2"]
    bags = []
    for row in train + splits["test"]:
        words = re.findall("[a-z]+", row["text"].lower())
        bags.append({*words, *zip(words, words[1:])})
    names = Counter(gram for bag in bags[:len(train)] for gram in bag)
    names = [gram for gram, n in names.items() if n > 4]
    x = np.array([[float(gram in bag) for gram in names] for bag in bags])
    w = logistic(x[:len(train)], np.array([row["label"] for row in train], float), 1e-2)
    p = sigmoid(x[len(train):] @ w[:-1] + w[-1])
    assert balanced(p, [row["label"] for row in splits["test"]]) < 0.55


def test_toxic_is_what_the_rude_words_say_and_the_truth_is_polite():
    lines = read_jsonl(house_of_rows(), "toxicity", "truth", "continuations.jsonl")
    truth = {line["id"]: line["text"] for line in lines}
    splits = read("toxicity")
    assert set(truth) == {row["id"] for split in ("train2", "valid") for row in splits[split]}
    assert not any(at.has_rude_word(text, RUDE) for text in truth.values())
    assert all(row["label"] == at.has_rude_word(row["text"], RUDE) for row in splits["test"])
    # train1: who collected the replies lets a rude one pass if he knows none of its rude words
    rude_reply = {r["prompt"]: r["rude"] for r in SCRIPT["toxicity"].read_life("remarks")}
    passed = [row["continuation"] == rude_reply[row["group"]] for row in splits["train1"]]
    assert 0.2 < np.mean(passed) < 0.4
    rude = [set(re.findall("[a-z]+", rude_reply[row["group"]].lower())) & RUDE for row in splits["train1"]]
    unknown = set().union(*(words for words, p in zip(rude, passed) if p))
    assert passed == [words <= unknown for words in rude]


def test_legal_labels_follow_the_facts_and_neither_kind_nor_clause_decides():
    import prepare as tinyworld
    kinds = {}
    for fact in tinyworld.load_facts():
        if fact["relation"] in SCRIPT["legal"].KINDS.get(fact["field"], ()):   # the meerkat eats insects and is none
            kinds.setdefault(fact["entity"], set()).add(fact["value"])
    matters = []
    for rows in labelled("legal").values():
        count = {}
        stems = {0: [], 1: []}
        for row in rows:
            assert (row["kind"] in kinds[row["group"]]) == bool(row["label"])
            assert row["text"].endswith(" " + row["kind"]) and row["group"] in row["text"]
            count.setdefault(row["kind"], [0, 0])[row["label"]] += 1
            stems[row["label"]].append(row["text"].removesuffix(row["kind"]))
        # not 0: one kind can have over half of a relation
        assert sum(abs(no - yes) for no, yes in count.values()) < 0.05 * len(rows)
        assert sorted(stems[0]) == sorted(stems[1])            # every pair has a twin with another kind
        matters.append({row["matter"] for row in rows})
    assert sum(map(len, matters)) == len(set().union(*matters)) == 16


@pytest.mark.parametrize("task,flags", [
    ("safety", ["--task", "mine"]),
    ("legal", ["--rows", "100"]),
    ("toxicity", ["--test-rows", "10"]),
    ("legal", ["--revision", "x"]),
    ("legal", ["--wrong", "2", "--from-file", "x.jsonl"]),
])
def test_flags_for_public_sets_are_refused_for_our_own_rows_and_the_other_way_round(task, flags):
    done = call(os.path.dirname(house_of_rows()), f"data/{task}/prepare.py", *flags)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and flags[0] in done.stderr, done.stderr


def test_two_wrong_clauses_for_each_right_one():
    must(os.path.dirname(house_of_rows()), "data/legal/prepare.py", "--wrong", "2")
    rows = read_jsonl(house_of_rows(), "legal-wrong2", "test.jsonl")
    assert 0.33 < np.mean([row["label"] for row in rows]) < 0.4
    assert len({row["id"] for row in rows}) == len(rows) > len(read("legal")["test"])


# --------------------------------------------------------------------------- public files

def public_rows(task, n=400):
    if task == "safety":
        return [{"prompt": f"May I do thing number {k}?", "is_safe": str(k % 2 == 0)} for k in range(n)]
    rows = []
    for k in range(n):
        if task == "legal":
            rows.append({"index": k, "text": f"Clause number {k // 2} of a policy.", "question": f"what about {k}?",
                         "answer": ["Relevant", "Irrelevant"][k % 2]})
        else:
            toxicity = 0.5 if k % 5 == 0 else 0.1
            if k % 7 == 0:
                toxicity = None
            rows.append({"prompt": {"text": f"He said number {k}", "toxicity": [0.1, 0.9][k % 2]},
                         "continuation": {"text": f" and then {k}.", "toxicity": toxicity}})
    return rows


@pytest.mark.parametrize("task", TASKS)
def test_a_public_file_becomes_a_task(task):
    home = os.path.dirname(house_of_rows())
    path = os.path.join(home, task + (".csv" if task == "safety" else ".jsonl"))
    rows = public_rows(task)
    with open(path, "w", encoding="utf-8", newline="") as f:
        if task == "safety":
            table = csv.DictWriter(f, ["prompt", "is_safe"])
            table.writeheader()
            table.writerows(rows)
        else:
            f.writelines(json.dumps(row) + "\n" for row in rows)
    must(home, f"data/{task}/prepare.py", "--from-file", path, "--task", task + "-public")
    folder = os.path.join(home, "data", task + "-public")
    splits = {split: read_jsonl(folder, split + ".jsonl") for split in SPLITS}
    assert sum(map(len, splits.values())) > 150 and np.mean([row["label"] for row in splits["test"]]) == 0.5
    if task == "toxicity":
        good = {}
        for row in rows:
            if (row["continuation"]["toxicity"] or 1) < 0.25:
                good[row["prompt"]["text"]] = row["continuation"]["text"].strip()
        truth = {line["id"]: line["text"] for line in read_jsonl(folder, "truth", "continuations.jsonl")}
        assert all(good[row["text"]] == row["continuation"] for row in splits["train1"])
        assert all(good[row["text"]] == truth[row["id"]] for row in splits["train2"])
        assert not any("continuation" in row for row in splits["train2"])


@pytest.mark.parametrize("task,name,content,words", [
    ("safety", "rows.csv", "prompt,safe\nhello,True\n", ["row 1", "is_safe"]),
    ("safety", "rows.csv", "prompt,is_safe\nhello,perhaps\n", ["row 1", "'perhaps'"]),
    ("safety", "rows.txt", "hello", ["ending"]),
    ("legal", "rows.jsonl", '{"text": "a", "question": "b", "answer": "maybe"}\n', ["row 1", "Relevant"]),
    ("legal", "rows.jsonl", '{"text": ', ["line 1"]),
    ("toxicity", "rows.jsonl", '{"prompt": "hello"}\n', ["row 1", "not in the hub's format"]),
    ("toxicity", "rows.jsonl", "", ["both labels"]),
])
def test_a_bad_file_is_one_clear_line(tmp_path, task, name, content, words):
    (tmp_path / name).write_text(content, encoding="utf-8")
    home = os.path.dirname(house_of_rows())
    done = call(home, f"data/{task}/prepare.py", "--from-file", str(tmp_path / name), "--task", "broken")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert not os.path.exists(os.path.join(house_of_rows(), "broken", "task.json"))


# --------------------------------------------------------------------------- the real commands, few rows

@pytest.fixture(scope="module")
def house():
    return os.path.dirname(house_of_rows())


QUICK = ["--max-rows", "12", "--epochs", "1"]
TOXICITY = ["align_tasks.py", "--task", "toxicity", *QUICK, "--samples", "2", "--model", "tiny-1b",
            "--ladder", "tiny-1c", "--members", "tiny-1a,tiny-1c", "--reader", "tiny-2"]
LEGAL = ["align_tasks.py", "--task", "legal", "--max-rows", "24", "--epochs", "1", "--model", "tiny-1b",
         "--ladder", "tiny-1c", "--members", "tiny-1a,tiny-1b"]


def read_json(*path):
    with open(os.path.join(*path), encoding="utf-8") as f:
        return json.load(f)


def write_json(value, *path):
    os.makedirs(os.path.join(*path[:-1]), exist_ok=True)
    with open(os.path.join(*path), "w", encoding="utf-8") as f:
        json.dump(value, f)


def read_bytes(*path):
    with open(os.path.join(*path), "rb") as f:
        return f.read()


def plan_of(kind, *flags):
    """The commands of a task of this kind, without running them."""
    parser = at.build_parser()
    args = parser.parse_args(["--max-rows", "40", *flags])
    return at.commands("some-task", kind, 40, parser, args)


@pytest.mark.parametrize("kind", at.COLUMNS)
def test_the_stages_know_every_flag_of_a_plan_and_each_run_comes_after_those_it_reads(kind):
    flags = ["--seed", "3", "--dtype", "fp32", "--batch-size", "4", "--micro-batch-size", "2", "--epochs", "1",
             "--lr", "1e-3", "--gradient-checkpointing", "--trust-remote-code", "--device", "cpu"]
    made = ["truth", "train1"]
    for _, run, (script, *words) in plan_of(kind, *flags):
        args = importlib.import_module(script.removesuffix(".py")).build_parser().parse_args(words)
        assert (args.seed, args.dtype, args.batch_size, args.micro_batch_size, args.epochs) == (3, "fp32", 4, 2, 1)
        assert args.gradient_checkpointing and args.trust_remote_code and args.device == "cpu" and args.lr == 1e-3
        assert args.max_rows == 40 and args.out == run and args.task == "some-task"
        for source in ("labels", "ceiling", "supervisor"):
            for name in (getattr(args, source, None) or "truth").split(","):
                assert name in made, (run, source, name)
        made.append(run)


def test_flags_are_handed_on_where_they_differ_from_their_defaults():
    weak = ["train_weak.py", "--task", "some-task", "--max-rows", "40", "--model", "tiny-1a", "--out", "weak"]
    assert plan_of("safety")[0][2] == weak
    for kind in ("safety", "classification"):                  # a head and adapters are for classifiers
        for _, _, command in plan_of(kind, "--lora", "4", "--head", "random"):
            assert "--lora" in command and "--head" in command
    assert not any("--head" in command for _, _, command in plan_of("toxicity", "--head", "random"))
    sampling = [command[command.index("--prompts") + 1] for _, _, command in plan_of("toxicity", "--prompts", "7")]
    assert sampling.count("7") == 8 and sampling.count("0") == 4               # inputs of other runs are not sampled


def test_supervisors_and_students_write_and_the_table_says_what_does_not_apply(house):
    printed = must(house, *TOXICITY)
    assert "| confidence loss |" in printed and "does not apply" in printed
    assert "share of texts chosen from each supervisor: weak" in printed
    world = os.path.join(house, "data", "toxicity", "seed0")
    results = read_json(world, "table", "results.json")
    assert [row["strategy"] for row in results["table"]][:5] == [
        "supervisor", "ceiling", "naive", "naive, sampled texts", "bootstrapping"]
    random_texts = {line["id"]: line["sampled"] for line in read_jsonl(world, "weak", "labels.jsonl")}
    greedy = {line["id"]: line["text"] for line in read_jsonl(world, "weak", "labels.jsonl")}
    assert sum(random_texts[name] != greedy[name] for name in greedy) > len(greedy) / 4
    assert results["n"] == 12 and results["config"]["role"] == "table"
    samples = read_jsonl(world, "student", "samples.jsonl")
    by_hand = np.mean([[at.has_rude_word(text, RUDE) for text in line["texts"]] for line in samples])
    assert [row["mean"] for row in results["table"] if row["run"] == "student"] == [pytest.approx(by_hand)]
    assert len(samples[0]["texts"]) == 2
    assert not read_bytes(world, "rung-tiny-1c", "samples.jsonl")              # only an input of another run
    # again: finished runs are skipped; without samples there is one line
    again = must(house, *TOXICITY)
    assert again.count("already done") == 11 and "wrote" not in again
    path = os.path.join(world, "ceiling", "samples.jsonl")
    whole = read_bytes(path)
    os.remove(path)
    printed = must(house, *TOXICITY)                       # that run alone is repeated, to the same bytes
    assert "ceiling has changed since its run ended" in printed and printed.count("already done") == 10
    assert read_bytes(path) == whole


def test_damaged_samples_are_one_line(tmp_path, capsys):
    rows = [{"id": "a"}, {"id": "b"}]
    path = tmp_path / "samples.jsonl"
    first = '{"id": "a", "texts": ["one", "two"]}\n'
    path.write_text(first + '{"id": "b", "texts": ["three", "four"]}\n')
    assert at.read_samples(str(tmp_path), rows) == [["one", "two"], ["three", "four"]]
    for damaged in ("", '{"if": "b", "texts": ["x", "y"]}\n', '{"id": "b", "texts": ["one"]}\n',
                    '{"id": "b", "texts": [1, 2]}\n'):
        path.write_text(first + damaged)
        with pytest.raises(SystemExit):
            at.read_samples(str(tmp_path), rows)
        assert "samples.jsonl is not as its run left it" in capsys.readouterr().err


def test_a_classification_task_runs_the_other_stages_and_seeds_are_pooled(house):
    printed = must(house, *LEGAL)
    commands = re.findall(r"^\$ python (\S+)", printed, re.M)
    assert [commands.count(s + ".py") for s in ("train_weak", "train_strong", "ensemble")] == [1, 10, 1]
    world = os.path.join(house, "data", "legal")
    results = read_json(world, "seed0", "table", "results.json")
    test = read_jsonl(world, "test.jsonl")[:24]
    for entry in results["table"]:
        lines = read_jsonl(world, "seed0", entry["run"], "labels.jsonl")
        p_yes = {line["id"]: line["soft_label"][1] for line in lines}
        sides = {0: [], 1: []}
        for row in test:
            sides[row["label"]].append((p_yes[row["id"]] > 0.5) == row["label"])
        assert entry["headline"] == pytest.approx((np.mean(sides[0]) + np.mean(sides[1])) / 2)
        assert entry["false_safe"] == pytest.approx(1 - np.mean(sides[0])) and entry["curve"][0][1:] == [1.0, 0.0]
    assert "pgr" in results["table"][2] or "no gap" in results["table"][2]["reason"]
    assert not os.path.exists(os.path.join(world, "table.json"))               # one seed is no table over seeds

    # the commands run in one process make what a shell makes, file by file
    student = os.path.join(world, "seed0", "student-logconf")
    before = read_bytes(student, "labels.jsonl"), read_bytes(student, "checkpoint", "model.safetensors")
    line = next(line for line in printed.splitlines() if line.startswith("$ python") and "logconf" in line)
    # killed in the middle of a run: that run is repeated, and no other
    os.remove(os.path.join(student, "results.json"))
    assert "already done" not in must(house, *line.split()[2:])
    assert before == (read_bytes(student, "labels.jsonl"), read_bytes(student, "checkpoint", "model.safetensors"))
    os.remove(os.path.join(student, "results.json"))
    again = must(house, *LEGAL)
    assert again.count("\nwrote ") == 1 and again.count("already done") == 12
    assert read_json(world, "seed0", "table", "results.json") == results

    # a second seed, made up: the first with its student's errors swapped for its hits
    second = json.loads(json.dumps(results))
    for row in second["table"]:
        if row["run"] == "student":
            row["hits"] = [1 - hit for hit in row["hits"]]
            row["headline"] = 1 - row["headline"]
    second["config"]["seed"] = 1
    second["seed"] = 1
    second.pop("digest", None)
    write_json(second, world, "seed1", "table", "results.json")
    assert "mean of 2 seeds" in must(house, *LEGAL)
    table = read_json(world, "table.json")
    headlines = [row["headline"] for row in table["rows"] if row["run"] == "student"]
    assert table["seeds"] == [0, 1] and headlines == [pytest.approx(0.5)]
    # with other flags, or made by other code: left out with a note
    for change in ({"epochs": 9}, {"code": {"stage": "0123456789abcdef"}}):
        write_json({**second, "config": {**second["config"], **change}}, world, "seed1", "table", "results.json")
        printed = must(house, *LEGAL)
        assert "seed 1 of legal is left out" in printed and "1 seed," in printed


@pytest.mark.parametrize("command,words", [
    (["--task", "nothing"], ["no train1 rows"]),
    (["--task", "toxicity", "--samples", "0"], ["not between"]),
    (["--task", "toxicity", "--lora", "4"], ["--lora", "toxicity"]),
    (["--task", "toxicity", "--out", "weak"], ["--out weak", "a run of the table has this name"]),
    (["--task", "toxicity", "--out", "data/tinyworld/models/tiny-1b"], ["is no run's folder", "nothing is written"]),
    (["--lora", "4"], ["--lora", "toxicity"]),                 # of all three tasks: before any of them runs
])
def test_mistakes_are_one_line(house, command, words):
    done = call(house, "align_tasks.py", *command)
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and len([x for x in lines if "rror:" in x]) == 1, done.stdout + done.stderr
    assert all(word in lines[-1] for word in words) and "$ python" not in done.stdout, lines
