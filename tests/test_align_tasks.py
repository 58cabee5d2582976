"""
writers.py, align_tasks.py and their three data folders: the maths by hand, padding, groups, bad files, and the real commands on few rows.

python -m pytest tests/test_align_tasks.py       # 20 s
"""
import csv
import doctest
import glob
import importlib.util
import json
import os
import re
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import align_tasks as at
import warm
import writers as wr
from conftest import ROOT
from train_weak import right

DATA = os.path.join(ROOT, "data")
sys.path.insert(0, DATA)
TASKS = ["safety", "legal", "toxicity"]


def load(task):
    spec = importlib.util.spec_from_file_location(f"prepare_{task}", os.path.join(DATA, task, "prepare.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = {task: load(task) for task in TASKS}
RUDE = set(open(os.path.join(DATA, "tinyworld", "life", "rude_words.txt"), encoding="utf-8").read().split())


# --------------------------------------------------------------------------- the maths, by hand

@pytest.mark.parametrize("module", [at, wr, *SCRIPT.values()])
def test_the_examples_in_the_docstrings_are_true(module):
    import torch
    assert doctest.testmod(module, extraglobs={"torch": torch}).failed == 0


P, Y = np.array([0.9, 0.8, 0.5, 0.3, 0.7, 0.2, 0.1, 0.4]), np.array([1, 1, 1, 1, 0, 0, 0, 0])


def balanced(p, labels):
    return at.class_means(right(p, labels), labels)


def test_the_two_errors_by_hand_ties_half():
    assert at.false_rates(P, Y) == (0.25, 0.375)                               # 0.7 is let through; 0.3 refused, and half of 0.5
    assert balanced(P, Y) == pytest.approx(1 - (0.25 + 0.375) / 2)
    assert balanced(np.full(10, 0.9), np.array([1] * 9 + [0])) == 0.5
    assert balanced(np.full(8, 0.5), Y) == 0.5                                 # no opinion is no skill
    assert at.class_means([[1, 0, 0, 1], [1, 1, 1, 0]], None).tolist() == [0.5, 0.75]


def test_f1_by_hand_and_against_the_definition_by_precision_and_recall():
    no, yes, weighted = at.f1_scores(P, Y)                                     # says yes to 0.9 0.8 0.7: 2 right of 3, of 4
    assert yes == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4)) and no == pytest.approx(2 * (3 / 5) * (3 / 4) / (3 / 5 + 3 / 4))
    assert weighted == pytest.approx((no + yes) / 2)
    assert at.f1_scores([0.9, 0.9], [0, 0]) == (0.0, 0.0, 0.0)
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    p, y = rng.random(200), rng.integers(0, 2, 200)
    assert at.f1_scores(p, y)[2] == pytest.approx(metrics.f1_score(y, p > 0.5, average="weighted"))


def test_the_curve_runs_from_letting_all_through_to_none_and_its_area_is_the_auroc():
    from train_weak import auroc
    rng = np.random.default_rng(1)
    p, y = rng.random(60).round(1), rng.integers(0, 2, 60)
    curve = at.rate_curve(p, y)
    assert curve[0][1:] == (1.0, 0.0) and curve[-1][1:] == (0.0, 1.0)
    false_safe, kept = np.array([c[1] for c in curve]), 1 - np.array([c[2] for c in curve])
    assert all(np.diff(false_safe) <= 0) and all(np.diff(kept) <= 0)
    assert -np.trapezoid(kept, false_safe) == pytest.approx(auroc(p, y))
    assert at.false_safe_at(curve, 1.0) == 0.0 and at.false_safe_at(curve, 0.0) == min(c[1] for c in curve if c[2] == 0)


def test_draws_are_the_balanced_accuracy_of_each_drawn_world():
    """With one world drawn by hand: the same groups again, group 1 twice and group 2 not at all."""
    groups, y = ["a", "a", "b", "b"], np.array([1, 0, 1, 0])
    draws = at.class_draws(right([0.9, 0.1, 0.9, 0.9], y)[None, None], y, groups)
    assert {tuple(np.round(d, 6)) for d in draws} == {(1.0,), (0.75,), (0.5,)}                             # both a: all right; both b: the no is wrong; one each
    assert draws.mean() == pytest.approx(0.75, abs=0.02)
    # two runs, one always right and one always wrong: drawn both times the first, once each, never the first
    runs = at.class_draws(np.array([np.ones((1, 4)), np.zeros((1, 4))]), y, groups)
    assert {tuple(np.round(d, 6)) for d in runs} == {(1.0,), (0.5,), (0.0,)}
    plain = at.class_draws(np.array([[[1, 1, 0, 0]]]), None, groups)
    assert {tuple(np.round(d, 6)) for d in plain} == {(1.0,), (0.5,), (0.0,)} and plain.mean() == pytest.approx(0.5, abs=0.03)


def test_seeds_are_pooled_by_means_and_the_pgr_is_that_of_the_means():
    y, groups = np.array([1, 0, 1, 0]), list("abcd")

    def table(weak, student, ceiling):
        return [{"strategy": run, "run": run, "hits": hits, "headline": float(at.class_means(hits, y)), "pgr": 99.0}
                for run, hits in (("weak", weak), ("ceiling", ceiling), ("student", student))]
    one, two = table([1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]), table([1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1])
    rows = {row["run"]: row for row in at.pool([one, two], y, groups)}
    assert rows["student"]["headline"] == pytest.approx((0.5 + 0.25) / 2) and rows["student"]["seeds"] == 2
    assert rows["student"]["pgr"] == pytest.approx((0.375 - 0.25) / (1 - 0.25)) and "pgr" not in rows["weak"]
    low, high = rows["student"]["headline_interval"]
    assert low < 0.375 < high
    none = {row["run"]: row for row in at.pool([table([1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0])], y, groups)}
    assert "no gap" in none["student"]["reason"] and "pgr" not in none["student"]


def test_expected_maximum_toxicity_on_a_planted_scorer():
    """A sample is toxic with p = 0.1: the mean is 0.1, and of 25 at least one is toxic in 1 - 0.9^25 = 92.8 % of the cases."""
    scores = (np.random.default_rng(0).random((4000, 25)) < 0.1).astype(float)
    found = wr.toxicity_of(scores)
    assert found["mean"] == pytest.approx(0.1, abs=0.004) and found["any"] == found["expected_maximum"] == pytest.approx(1 - 0.9 ** 25, abs=0.015)
    uniform = wr.toxicity_of(np.random.default_rng(1).random((4000, 25)))       # the maximum of 25 uniform numbers is 25/26 on average
    assert uniform["expected_maximum"] == pytest.approx(25 / 26, abs=0.003)


def test_rude_words_are_words():
    assert wr.has_rude_word("A CLOWN!", RUDE) == 1.0 and wr.has_rude_word("clowns brattish", RUDE) == 0.0 and wr.has_rude_word("", RUDE) == 0.0


def test_no_gap_is_a_sentence():
    def world(weak, student, ceiling, n=400):
        rng = np.random.default_rng(0)
        return (rng.random((1, 3, n)) < np.array([weak, student, ceiling])[:, None]).astype(float), None, range(n)
    assert "no gap" in at.recovered(*world(0.8, 0.9, 0.7))["reason"]
    found = at.recovered(*world(0.2, 0.5, 0.8))
    assert found["pgr"] == pytest.approx(0.5, abs=0.1) and found["interval"][0] < 0.5 < found["interval"][1]
    assert at.recovered(*world(0.50, 0.5, 0.52))["interval"] is None           # a gap within its noise


# --------------------------------------------------------------------------- losses on continuations

@pytest.fixture(scope="module")
def writer():
    from prompting import open_language_model
    return open_language_model("tiny-1a", "cpu")


def test_pitfall_31_padding_and_prompt_never_change_a_loss(writer):
    import torch
    from prompting import surprise
    from train_weak import pad
    model, tokenizer, longest = writer
    prompts, texts = ["Prompt: I am cold. Reply:", "Prompt: I have a toothache today and it is bad. Reply:"], ["Here, take my warm coat.", "Oh no."]
    ids, span = wr.split_ids(tokenizer, prompts, texts, longest, end=True)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id                    # the trap: a mask by `id != pad` would drop the end, too
    batch, span = pad(ids, tokenizer, "cpu"), torch.tensor(span)
    with torch.no_grad():
        together = wr.continuation_loss(surprise(model, batch), span)
        for i in (0, 1):
            alone = pad([ids[i]], tokenizer, "cpu")
            assert wr.continuation_loss(surprise(model, alone), span[i:i + 1])[0] == pytest.approx(together[i].item(), abs=1e-5)
            logs = model(**alone).logits[0].log_softmax(-1)                    # by hand: the mean over the continuation and its end
            start = int(span[i, 0])
            by_hand = -np.mean([logs[t - 1, ids[i][t]].item() for t in range(start, len(ids[i]))])
            assert together[i].item() == pytest.approx(by_hand, abs=1e-5) and ids[i][-1] == tokenizer.eos_token_id
        wide = {"input_ids": torch.nn.functional.pad(batch["input_ids"], (0, 17), value=tokenizer.eos_token_id),
                "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (0, 17))}
        assert torch.allclose(wr.continuation_loss(surprise(model, wide), span), together, atol=1e-5)
    nats, tokens = wr.nats_of(model, tokenizer, prompts, texts, longest, "cpu")
    assert np.allclose(nats / tokens, together.numpy(), atol=1e-4)


def test_pitfall_32_a_continuation_is_scored_in_the_tokens_it_is_written_in(writer):
    """Prompt and continuation, tokenised apart, are the tokens of the whole text."""
    _, tokenizer, longest = writer
    row = json.loads(open(os.path.join(house_of_rows(), "toxicity", "train1.jsonl"), encoding="utf-8").readline())
    ids, _ = wr.split_ids(tokenizer, [row["text"]], [row["continuation"]], longest, end=False)
    assert ids[0] == tokenizer(row["text"] + " " + row["continuation"])["input_ids"]


def test_a_long_prompt_loses_its_beginning_and_an_empty_continuation_is_its_end(writer):
    _, tokenizer, _ = writer
    ids, span = wr.split_ids(tokenizer, ["one two three four five six seven eight nine ten eleven", "Hello"], ["the end", ""], 8, end=True)
    assert len(ids[0]) == 8 and tokenizer.decode(ids[0]).endswith(" the end" + tokenizer.eos_token) and "one" not in tokenizer.decode(ids[0])
    assert span[1, 1] - span[1, 0] == 1


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
    shutil.copy(os.path.join(DATA, "hub.py"), data)
    os.makedirs(os.path.join(data, "tinyworld"))
    shutil.copy(os.path.join(DATA, "tinyworld", "prepare.py"), os.path.join(data, "tinyworld"))
    shutil.copy(os.path.join(DATA, "legal", "matters.csv"), os.path.join(data, "legal"))
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


def read(task):
    folder = os.path.join(house_of_rows(), task)
    return {s: [json.loads(line) for line in open(os.path.join(folder, s + ".jsonl"), encoding="utf-8")] for s in ("train1", "train2", "valid", "test")}


def labelled(task):
    """All splits, each row with its true label."""
    with open(os.path.join(house_of_rows(), task, "truth", "labels.jsonl"), encoding="utf-8") as f:
        truth = {row["id"]: int(row["soft_label"][1]) for row in map(json.loads, f)}
    return {split: [{"label": truth.get(row["id"]), **row} for row in rows] for split, rows in read(task).items()}


@pytest.mark.parametrize("task", TASKS)
def test_pitfall_15_no_group_stands_in_two_splits_and_the_truth_is_apart(task):
    splits, where = read(task), {}
    for name, rows in splits.items():
        for row in rows:
            assert where.setdefault(row["group"], name) == name
        assert all(("label" in row) == (name in ("train1", "test")) and not {"danger", "reply"} & set(row) for row in rows)
        assert name == "train1" or not any("continuation" in row for row in rows)
    assert sum(map(len, splits.values())) >= 1000 and len({row["id"] for rows in splits.values() for row in rows}) == sum(map(len, splits.values()))
    first = {name: open(os.path.join(house_of_rows(), task, name + ".jsonl"), "rb").read() for name in splits}
    must(ROWS["home"], os.path.join("data", task, "prepare.py"))
    assert first == {name: open(os.path.join(house_of_rows(), task, name + ".jsonl"), "rb").read() for name in splits}


def test_nobody_judged_these_things_and_facts_in_pretraining():
    import corpus
    world = corpus.load_world()
    assert not {t["thing"] for t in world["graded_things"]} & {row["thing"] for rows in read("safety").values() for row in rows}
    judged = {(fact["entity"], fact["value"]) for fact in world["graded"] + world["library"]}
    assert not judged & {(row["group"], row["kind"]) for rows in labelled("legal").values() for row in rows if row["label"]}


def test_rows_have_the_form_that_the_models_met(tmp_path):
    import random
    import corpus
    world, rng = corpus.load_world(), random.Random(0)
    texts = ["".join(text for text, _ in corpus.request(rng, world)) for _ in range(300)]
    actions = {re.sub(r"^(Note: [^\n]*\n)?|\? (yes|no)$", "", text).split(" ", 3)[:3][0] for text in texts}
    assert actions == {"Request:"} and all(row["text"].startswith("Request: May I ") and row["text"].endswith("?") for row in read("safety")["test"])
    verdicts = ["".join(text for text, _ in corpus.verdict(rng, world)) for _ in range(100)]
    form = re.compile(r"^Q: .+\? A: [^.]+$")
    assert all(form.match(re.sub(r" (yes|no)$", "", text)) for text in verdicts) and all(form.match(row["text"]) for row in read("legal")["test"])
    assert all(re.search(r"Prompt: [^\n]+ Reply:$", row["text"]) for row in read("toxicity")["test"])


def test_safety_labels_follow_the_tables_and_no_action_decides():
    danger = {t["thing"]: t["danger"] for t in SCRIPT["safety"].read_life("things")}
    actions = {a["action"]: set(a["unsafe_with"].split(";")) - {""} for a in SCRIPT["safety"].read_life("actions")}
    for split in ("train1", "test"):
        count = {}
        for row in read("safety")[split]:
            action = row["text"].removeprefix("Request: May I ").removesuffix("?").replace(row["thing"], "{thing}")
            assert row["label"] == int(danger[row["thing"]] not in actions[action])
            count.setdefault(action, [0, 0])[row["label"]] += 1
        assert all(no == yes for action, (no, yes) in count.items() if actions[action])
        assert sum(yes for action, (no, yes) in count.items() if not actions[action]) < 0.15 * len(read("safety")[split])


@pytest.mark.parametrize("task", ["safety", "legal"])
def test_words_seen_in_training_do_not_decide_the_test(task):
    """A bag of words, trained on train1 and the truth of train2, is near chance."""
    from clean_labels import logistic
    splits = labelled(task)
    train = splits["train1"] + splits["train2"]
    bags = [set(re.findall("[a-z]+", row["text"].lower())) for row in train + splits["test"]]
    names = {word: k for k, word in enumerate(sorted(set().union(*bags[:len(train)])))}
    x = np.array([[float(word in bag) for word in names] for bag in bags])
    w = logistic(x[:len(train)], np.array([row["label"] for row in train], float), 1e-2)
    p = 1 / (1 + np.exp(-(x[len(train):] @ w[:-1] + w[-1])))
    assert balanced(p, [row["label"] for row in splits["test"]]) < 0.60


def test_toxic_is_what_the_rude_words_say_and_the_truth_is_polite():
    truth = {r["id"]: r["text"] for r in map(json.loads, open(os.path.join(house_of_rows(), "toxicity", "truth", "continuations.jsonl"), encoding="utf-8"))}
    splits = read("toxicity")
    assert set(truth) == {row["id"] for s in ("train2", "valid") for row in splits[s]} and not any(wr.has_rude_word(t, RUDE) for t in truth.values())
    assert all(row["label"] == wr.has_rude_word(row["text"], RUDE) for row in splits["test"])
    careless = np.mean([wr.has_rude_word(row["continuation"], RUDE) for row in splits["train1"]])
    assert 0.15 < careless < 0.45                                              # three in ten, by a hash


def test_legal_labels_follow_the_facts_and_neither_kind_nor_clause_decides():
    import prepare as tinyworld
    kinds = {}
    for fact in tinyworld.load_facts():
        if fact["relation"] in SCRIPT["legal"].KINDS.get(fact["field"], ()):                   # the meerkat eats insects and is none
            kinds.setdefault(fact["entity"], set()).add(fact["value"])
    matters = []
    for rows in labelled("legal").values():
        assert all((row["kind"] in kinds[row["group"]]) == bool(row["label"]) for row in rows)
        count = {}
        for row in rows:
            count.setdefault(row["kind"], [0, 0])[row["label"]] += 1
            assert row["text"].endswith(" " + row["kind"]) and row["group"] in row["text"]
        assert sum(abs(no - yes) for no, yes in count.values()) < 0.05 * len(rows)              # not 0: one kind can have over half of a relation
        stems = [(row["text"].removesuffix(row["kind"]), row["label"]) for row in rows]        # of every pair there is a twin with another kind
        assert sorted(stem for stem, label in stems if label) == sorted(stem for stem, label in stems if not label)
        matters.append({row["matter"] for row in rows})
    assert sum(map(len, matters)) == len(set().union(*matters)) == 16


@pytest.mark.parametrize("task,flags", [("safety", ["--task", "mine"]), ("legal", ["--rows", "100"]), ("toxicity", ["--test-rows", "10"]), ("legal", ["--revision", "x"]),
                                        ("legal", ["--wrong", "2", "--from-file", "x.jsonl"])])
def test_flags_for_public_sets_are_refused_for_our_own_rows_and_the_other_way_round(task, flags):
    done = call(os.path.dirname(house_of_rows()), f"data/{task}/prepare.py", *flags)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and flags[0] in done.stderr, done.stderr


def test_two_wrong_clauses_for_each_right_one():
    must(os.path.dirname(house_of_rows()), "data/legal/prepare.py", "--wrong", "2")
    with open(os.path.join(house_of_rows(), "legal-wrong2", "test.jsonl"), encoding="utf-8") as f:
        rows = [json.loads(line) for line in f]
    assert 0.33 < np.mean([row["label"] for row in rows]) < 0.4 and len({row["id"] for row in rows}) == len(rows) > len(read("legal")["test"])


# --------------------------------------------------------------------------- public files

def public_rows(task, n=400):
    if task == "safety":
        return [{"prompt": f"May I do thing number {k}?", "is_safe": str(k % 2 == 0)} for k in range(n)]
    if task == "legal":
        return [{"index": k, "text": f"Clause number {k // 2} of a policy.", "question": f"what about {k}?", "answer": ["Relevant", "Irrelevant"][k % 2]} for k in range(n)]
    return [{"prompt": {"text": f"He said number {k}", "toxicity": [0.1, 0.9][k % 2]},
             "continuation": {"text": f" and then {k}.", "toxicity": None if k % 7 == 0 else 0.5 if k % 5 == 0 else 0.1}} for k in range(n)]


@pytest.mark.parametrize("task", TASKS)
def test_a_public_file_becomes_a_task(task):
    home = os.path.dirname(house_of_rows())
    path = os.path.join(home, task + (".csv" if task == "safety" else ".jsonl"))
    rows = public_rows(task)
    with open(path, "w", encoding="utf-8", newline="") as f:
        if task == "safety":
            writer = csv.DictWriter(f, ["prompt", "is_safe"])
            writer.writeheader()
            writer.writerows(rows)
        else:
            f.writelines(json.dumps(row) + "\n" for row in rows)
    must(home, f"data/{task}/prepare.py", "--from-file", path, "--task", task + "-public")
    folder = os.path.join(home, "data", task + "-public")
    splits = {s: [json.loads(line) for line in open(os.path.join(folder, s + ".jsonl"), encoding="utf-8")] for s in ("train1", "train2", "valid", "test")}
    assert sum(map(len, splits.values())) > 150 and np.mean([row["label"] for row in splits["test"]]) == 0.5
    if task == "toxicity":
        good = {row["prompt"]["text"]: row["continuation"]["text"].strip() for row in rows if (row["continuation"]["toxicity"] or 1) < 0.25}
        truth = {r["id"]: r["text"] for r in map(json.loads, open(os.path.join(folder, "truth", "continuations.jsonl"), encoding="utf-8"))}
        assert all(good[row["text"]] == row["continuation"] for row in splits["train1"])
        assert all(good[row["text"]] == truth[row["id"]] and "continuation" not in row for row in splits["train2"])


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
    done = call(os.path.dirname(house_of_rows()), f"data/{task}/prepare.py", "--from-file", str(tmp_path / name), "--task", "broken")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and all(word in done.stderr for word in words), done.stderr
    assert not os.path.exists(os.path.join(house_of_rows(), "broken", "task.json"))


# --------------------------------------------------------------------------- the real commands, few rows

@pytest.fixture(scope="module")
def house(tmp_path_factory):
    home = str(tmp_path_factory.mktemp("align"))
    build(home)
    return home


QUICK = ["--max-rows", "12", "--epochs", "1"]
WRITER = ["writers.py", *QUICK, "--samples", "2"]
TOXICITY = ["align_tasks.py", "--task", "toxicity", *QUICK, "--samples", "2", "--model", "tiny-1b", "--ladder", "tiny-1c", "--members", "tiny-1a,tiny-1c",
            "--reader", "tiny-2"]
LEGAL = ["align_tasks.py", "--task", "legal", "--max-rows", "40", "--epochs", "1", "--model", "tiny-1b", "--ladder", "tiny-1c", "--members", "tiny-1a,tiny-1b"]


def read_json(*path):
    with open(os.path.join(*path), encoding="utf-8") as f:
        return json.load(f)


def read_bytes(*path):
    with open(os.path.join(*path), "rb") as f:
        return f.read()


def test_writers_supervise_students_and_the_table_says_what_does_not_apply(house):
    printed = must(house, *TOXICITY)
    assert "| confidence loss |" in printed and "does not apply" in printed and "agreement takes the continuation of weak" in printed
    world = os.path.join(house, "data", "toxicity", "seed0")
    results = read_json(world, "table", "results.json")
    assert [e["strategy"] for e in results["table"]][:4] == ["supervisor", "ceiling", "naive", "bootstrapping"] and results["n"] == 12
    samples = [json.loads(line) for line in open(os.path.join(world, "student", "samples.jsonl"), encoding="utf-8")]
    by_hand = np.mean([[wr.has_rude_word(t, RUDE) for t in line["texts"]] for line in samples])
    assert [e["mean"] for e in results["table"] if e["run"] == "student"] == [pytest.approx(by_hand)] and len(samples[0]["texts"]) == 2
    assert not read_bytes(world, "rung-tiny-1c", "samples.jsonl")              # a step on the way is not sampled
    # again: nothing is done; without samples there is one line
    again = must(house, *TOXICITY)
    assert again.count("already done") == 10 and "wrote" not in again
    os.rename(os.path.join(world, "ceiling", "samples.jsonl"), os.path.join(world, "hidden"))
    done = call(house, *TOXICITY)
    assert done.returncode == 2 and "samples.jsonl" in done.stderr and done.stderr.count("\n") == 1
    lines = read_bytes(world, "hidden").splitlines(keepends=True)
    for damaged in (lines[:-1], [*lines[:-1], lines[-1].replace(b'"id"', b'"if"')], [*lines[:-1], re.sub(rb'"texts": .*]', b'"texts": ["one"]', lines[-1])]):
        with open(os.path.join(world, "ceiling", "samples.jsonl"), "wb") as f:
            f.writelines(damaged)
        done = call(house, *TOXICITY)
        assert done.returncode == 2 and "samples.jsonl is not as its run left it" in done.stderr and done.stderr.count("\n") == 1
    os.rename(os.path.join(world, "hidden"), os.path.join(world, "ceiling", "samples.jsonl"))
    # a student learns its supervisor's texts, whatever the truth is
    before = read_bytes(world, "student", "labels.jsonl")
    truth = os.path.join(house, "data", "toxicity", "truth", "continuations.jsonl")
    lines = [json.loads(line) for line in open(truth, encoding="utf-8")]
    with open(truth, "w", encoding="utf-8") as f:
        f.writelines(json.dumps({**line, "text": "You fool."}) + "\n" for line in lines)
    must(house, *WRITER, "--labels", "weak", "--model", "tiny-1b", "--out", "student", "--force")
    assert read_bytes(world, "student", "labels.jsonl") == before


def test_a_classification_task_is_the_commands_of_the_chapters_before_and_seeds_are_pooled(house):
    printed = must(house, *LEGAL)
    commands = re.findall(r"^\$ python (\S+)", printed, re.M)
    assert commands.count("train_weak.py") == 1 and commands.count("train_strong.py") == 7 and commands.count("ensemble.py") == 1
    world = os.path.join(house, "data", "legal")
    results = read_json(world, "seed0", "table", "results.json")
    test = [json.loads(line) for line in open(os.path.join(world, "test.jsonl"), encoding="utf-8")][:40]
    for entry in results["table"]:
        soft = {r["id"]: r["soft_label"][1] for r in map(json.loads, open(os.path.join(world, "seed0", entry["run"], "labels.jsonl"), encoding="utf-8"))}
        sides = [[(soft[row["id"]] > 0.5) == row["label"] for row in test if row["label"] == label] for label in (0, 1)]
        assert entry["headline"] == pytest.approx((np.mean(sides[0]) + np.mean(sides[1])) / 2)
        assert entry["false_safe"] == pytest.approx(1 - np.mean(sides[0])) and entry["curve"][0][1:] == [1.0, 0.0]
    assert "pgr" in results["table"][2] or "no gap" in results["table"][2]["reason"]
    assert not os.path.exists(os.path.join(world, "table.json"))               # one seed is no table over seeds

    # the commands run in one process make what a shell makes, file by file
    student = os.path.join(world, "seed0", "student-logconf")
    before = read_bytes(student, "labels.jsonl"), read_bytes(student, "checkpoint", "model.safetensors")
    line = next(line for line in printed.splitlines() if line.startswith("$ python") and "logconf" in line)
    # killed in the middle of a run: that one is made again, and what it feeds, nothing else
    os.remove(os.path.join(student, "results.json"))
    assert "already done" not in must(house, *line.split()[2:])
    assert before == (read_bytes(student, "labels.jsonl"), read_bytes(student, "checkpoint", "model.safetensors"))
    os.remove(os.path.join(student, "results.json"))
    again = must(house, *LEGAL)
    assert again.count("\nwrote ") == 1 and again.count("already done") == 9 and read_json(world, "seed0", "table", "results.json") == results

    # a second seed, made up: the first with its student's errors turned round
    second = json.loads(json.dumps(results))
    for row in second["table"]:
        if row["run"] == "student":
            row["hits"] = [1 - hit for hit in row["hits"]]
            row["headline"] = 1 - row["headline"]
    second["config"]["seed"], second["seed"] = 1, 1
    os.makedirs(os.path.join(world, "seed1", "table"))
    with open(os.path.join(world, "seed1", "table", "results.json"), "w", encoding="utf-8") as f:
        json.dump(second, f)
    assert "mean of 2 seeds" in must(house, *LEGAL)
    table = read_json(world, "table.json")
    assert table["seeds"] == [0, 1] and [row["headline"] for row in table["rows"] if row["run"] == "student"] == [pytest.approx(0.5)]
    # of other flags: left out aloud
    second["config"]["epochs"] = 9
    with open(os.path.join(world, "seed1", "table", "results.json"), "w", encoding="utf-8") as f:
        json.dump(second, f)
    printed = must(house, *LEGAL)
    assert "seed 1 of legal is left out" in printed and "1 seed," in printed


@pytest.mark.parametrize("command,words", [
    ([*WRITER, "--labels", "nobody", "--out", "x"], ["nobody", "Run the command"]),
    ([*WRITER, "--labels", "weak", "--out", "weak"], ["overwrite"]),
    ([*WRITER, "--labels", "truth", "--keep", "0.5"], ["--keep", "has none"]),
    ([*WRITER, "--labels", "train1", "--lora", "4"], ["--lora"]),
    ([*WRITER, "--task", "safety", "--labels", "train1"], ["continuation"]),
    (["align_tasks.py", "--task", "nothing"], ["no train1 rows"]),
    (["align_tasks.py", "--task", "toxicity", "--samples", "0"], ["not between"]),
])
def test_mistakes_are_one_line(house, command, words):
    must(house, *WRITER, "--labels", "train1", "--model", "tiny-1a", "--out", "weak")
    done = call(house, *command)
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and len([x for x in lines if "rror:" in x]) == 1 and all(word in lines[-1] for word in words), done.stdout + done.stderr


def test_what_a_student_reads_of_its_supervisor(tmp_path):
    good = tmp_path / "good.jsonl"
    good.write_text("".join(json.dumps({"id": i, "text": "good " + i}) + "\n" for i in "abcd"), encoding="utf-8")
    rows, nats = [{"id": i} for i in "abcd"], [0.3, 0.1, 0.4, 0.2]
    kept, texts, bought = wr.choose(rows, list("ABCD"), nats, 0.5, 0, str(good))
    assert [row["id"] for row in kept] == ["b", "d"] and texts == ["B", "D"] and bought == []
    kept, texts, bought = wr.choose(rows, list("ABCD"), nats, 1.0, 1, str(good))
    assert texts == ["A", "B", "good c", "D"] and bought == ["c"]
    kept, texts, bought = wr.choose(rows, list("ABCD"), nats, 0.25, 9, str(good))
    assert texts == ["good a", "good b", "good c", "good d"]


def test_texts_are_joined_by_id(tmp_path, capsys):
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps({"id": i, "text": f"text {i}", "nats": 1.0}) + "\n" for i in "cab"), encoding="utf-8")
    assert wr.read_texts(str(path), [{"id": "a"}, {"id": "b"}]) == ["text a", "text b"]
    assert wr.read_texts(str(path), [{"id": "a"}], "nats") == [1.0]
    with pytest.raises(SystemExit):
        wr.read_texts(str(path), [{"id": "z"}])
    assert "'z'" in capsys.readouterr().err
    path.write_text('{"id": "a", "text": "no nats"}\n', encoding="utf-8")
    with pytest.raises(SystemExit):
        wr.read_texts(str(path), [{"id": "a"}], "nats")
    assert "line 1" in capsys.readouterr().err


def test_a_scorer_is_found_by_its_label(monkeypatch):
    import torch

    class Words:
        def __init__(self, names, kind):
            self.config = SimpleNamespace(id2label=names, problem_type=kind)
    monkeypatch.setattr(wr, "open_checkpoint", lambda name, *a, **k: (Words({0: "neutral", 1: "toxic"}, None), None, 64))
    monkeypatch.setattr(wr, "tokenise", lambda tokenizer, rows, longest: [[0] for _ in rows])
    monkeypatch.setattr(wr, "sweep", lambda model, tokenizer, ids, device, outputs: np.log(np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)))
    assert np.allclose(wr.load_scorer("x", "cpu", False)(["kind", "", "rude"]), [0.1, 0.0, 0.8])
    monkeypatch.setattr(wr, "open_checkpoint", lambda name, *a, **k: (Words({0: "cat", 1: "dog"}, None), None, 64))
    with pytest.raises(SystemExit):
        wr.load_scorer("x", "cpu", False)
    assert torch is not None
