"""
Phase 2: each part of the loop on a case with a known answer, then the loop itself: budget, honesty, kills.

python -m pytest tests/test_auto_align.py        # 90 s, CPU, no network
"""
import csv
import doctest
import glob
import json
import os
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import auto_align
import warm
from auto_align import (
    apply_corrections, bradley_terry, buy_audits, fit_pairs, guard_update, invent_answers, is_worse,
    leave_one_out_calibration, mixing_weight, platt_scaling, preference_pairs, propose_attacks, rows_to_train_on,
    score_texts, slice_of, train_learner)
from data import tasks
from metrics import sigmoid
from models import classify, load_classifier, open_language_model, pad
from test_commands import build_house, call, contents, must, rewrite

# --------------------------------------------------------------------------- the maths


def test_the_examples_in_the_docstrings_are_correct():
    assert doctest.testmod(auto_align).failed == 0


def test_calibration_recovers_a_planted_temperature_and_bias():
    rng = np.random.default_rng(0)
    true = rng.normal(0, 1.5, 4000)
    labels = rng.random(4000) < sigmoid(true)
    t, b = platt_scaling(3.0 * (true - 0.5), labels)       # three times too confident, half a nat toward no
    assert t == pytest.approx(3.0, rel=0.1) and b == pytest.approx(0.5, abs=0.1)


def test_calibration_from_few_labels_stays_near_the_evaluator_and_from_none_leaves_it():
    assert platt_scaling(np.zeros(0), []) == pytest.approx((1.0, 0.0))
    t, b = platt_scaling(np.array([2.0, -2.0, 1.0]), [1, 0, 1])    # all correct: no infinite confidence
    assert 0.1 < t < 1.5 and abs(b) < 1.5
    t, b = platt_scaling(np.array([2.0, -2.0] * 8), [0, 1] * 8)    # always wrong: unsure, not inverted
    assert t > 5


@pytest.mark.parametrize("z, labels", [([1, 1, -1, -1], [0, 0, 1, 1]), ([3, 2, -1, 2, -2], [0, 0, 1, 1, 0])])
def test_calibration_finds_the_minimum_for_an_evaluator_below_chance_too(z, labels):
    """Fault: Newton's steps jumped to and fro over it, and round 200 ended anywhere."""
    def objective(log_scale, b):
        p = sigmoid(np.exp(log_scale) * np.array(z) + b)
        return -np.log(np.where(labels, p, 1 - p)).sum() + 0.1 * log_scale ** 2 + 12.5 * b ** 2
    grid = min((objective(s, b), s, b) for s in np.linspace(-4, 1, 501) for b in np.linspace(-0.2, 0.2, 81))
    t, b = platt_scaling(z, labels)
    assert np.log(1 / t) == pytest.approx(grid[1], abs=0.01) and b == pytest.approx(grid[2], abs=0.005)


def test_an_audit_is_judged_by_a_calibration_that_has_not_seen_it():
    z, labels = np.array([1.0, -0.5, 2.0, 0.3]), np.array([1, 0, 0, 1])
    assert len(leave_one_out_calibration(np.zeros(0), [])) == 0
    found = leave_one_out_calibration(z, labels)
    t, b = platt_scaling(z[[0, 1, 3]], labels[[0, 1, 3]])
    assert found[2] == pytest.approx(float(sigmoid(2.0 / t + b)))
    turned = leave_one_out_calibration(z, np.array([1, 0, 1, 1]))              # the row's own label does not matter
    assert turned[2] == pytest.approx(found[2]) and turned[0] != pytest.approx(found[0])


def test_the_guard_rejects_a_planted_bad_update_and_accepts_a_good_one():
    rng = np.random.default_rng(0)
    good, bad = rng.random(60) < 0.9, rng.random(60) < 0.55
    assert is_worse(good, bad)[0] and not is_worse(bad, good)[0] and not is_worse(good, good)[0]
    assert is_worse([], []) == (False, 1.0)                # no audits: unguarded


def test_a_rejected_update_keeps_the_old_evaluator_and_prints_a_line(monkeypatch, capsys):
    guards = [{"id": str(k), "label": k % 2} for k in range(20)]
    scores = {"good": np.tile([-2.0, 2.0], 10), "bad": np.tile([2.0, 2.0], 10)}
    monkeypatch.setattr(auto_align, "evaluator_scores", lambda members, *_: scores[members[0]["checkpoint"]])
    good, bad = ({"members": [{"checkpoint": name}], "threshold": 0.0} for name in ("good", "bad"))
    kept, verdict = guard_update(good, bad, guards, None)
    assert kept is good and verdict["rejected"] and verdict["guard_accuracy"][0] == 1.0
    assert "update REJECTED: on 20 random audits" in capsys.readouterr().out
    kept, verdict = guard_update(bad, good, guards, None)
    assert kept is good and not verdict["rejected"] and capsys.readouterr().out == ""


def test_the_guard_judges_old_and_new_evaluator_alike(monkeypatch):
    """Fault: the old one was calibrated on audits that judged it, the new one was not: a bias toward rejecting."""
    guards = [{"id": str(k), "label": k % 2} for k in range(30)]
    z = np.random.default_rng(0).normal(0, 1, 30) + 0.3 * np.tile([-1, 1], 15)
    monkeypatch.setattr(auto_align, "evaluator_scores", lambda *_: z)
    old = {"members": [], "threshold": 0.0, "temperature": 9.0, "bias": -7.0}  # its own calibration plays no part
    _, verdict = guard_update(old, {"members": [], "threshold": 0.0}, guards, None)
    expected = np.mean((leave_one_out_calibration(z, np.tile([0, 1], 15)) > 0.5) == np.tile([0, 1], 15))
    assert verdict == {"rejected": False, "guard_p": 1.0, "guard_accuracy": [expected, expected]}


def test_an_unlucky_draw_of_audits_does_not_move_the_threshold(monkeypatch):
    """
    Fault: a good model whose scores all lie a little below 0, and eight audits that happen to be wrong answers, made an
    evaluator that said no to everything; its student learned that.
    """
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    z = rng.normal(0, 0.2, 400) + 0.4 * labels - 0.7
    monkeypatch.setattr(auto_align, "evaluator_scores", lambda members, rows, *_: z[[row["id"] for row in rows]])
    rows = [{"id": k, "label": int(labels[k])} for k in range(400)]
    unlucky = [row for row in rows if row["label"] == 0][:8]
    threshold = auto_align.matching_threshold(z, 0.5)
    evaluator = auto_align.calibrate([], threshold, unlucky, None)
    p_yes = auto_align.calibrated_probability(evaluator, z)
    assert np.mean((p_yes > 0.5) == labels) > 0.8 and abs(np.mean(p_yes > 0.5) - 0.5) < 0.1
    many = [{**row, "label": 0} for row in rows]           # but audits that all say no are believed in the end
    evaluator = auto_align.calibrate([], threshold, many, None)
    assert auto_align.calibrated_probability(evaluator, z).max() < 0.2


def test_the_guard_keeps_its_promise_of_one_false_alarm_in_twenty():
    rng = np.random.default_rng(0)
    alarms = [is_worse(rng.random(40) < 0.8, rng.random(40) < 0.8)[0] for _ in range(1000)]
    assert np.mean(alarms) < 0.06


def test_the_mixing_weight_goes_to_the_better_evaluator():
    labels = np.random.default_rng(0).integers(0, 2, 200)
    knows, guesses = 4.0 * (2 * labels - 1), np.random.default_rng(1).normal(0, 3, 200)
    assert mixing_weight(guesses, knows, labels) >= 0.8 and mixing_weight(knows, guesses, labels) <= 0.2
    assert mixing_weight(knows, knows, labels) == 0.5 == mixing_weight([], [], [])


def test_bradley_terry_by_hand():
    loss = bradley_terry(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.5]))
    assert loss.tolist() == pytest.approx([np.log(2), 0.5 * np.log(1 + np.exp(-2.0))], rel=1e-5)


def test_slices_are_disjoint_whole_questions_and_cover_all():
    rows = [{"id": f"{g}{a}", "group": str(g)} for g in range(20) for a in "ab"]
    parts = [slice_of(rows, k, 3) for k in range(3)]
    assert sorted(r["id"] for p in parts for r in p) == sorted(r["id"] for r in rows)
    groups = [{r["group"] for r in p} for p in parts]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]


# --------------------------------------------------------------------------- attacker, humans, learner

def questions(n=12):
    rows = []
    for k in range(n):
        for side, answer in (("a", "one"), ("b", "two")):
            rows.append({"id": f"q{k}{side}", "group": str(k), "question": f"What is {k}?", "answer": answer,
                         "choices": ["one", "two", "three", "four"], "text": f"Q: What is {k}? A: {answer}"})
    return rows


def test_the_attacker_finds_a_planted_weakness():
    """A learner that says yes to "three" for every question whose number is a multiple of 3, and otherwise no."""
    def score(rows):
        return np.array([5.0 if r["answer"] == "three" and int(r["group"]) % 3 == 0 else -5.0 for r in rows])
    found = propose_attacks(questions(), 4 / 24, score)
    assert [r["text"] for r in found] == [f"Q: What is {k}? A: three" for k in (0, 3, 6, 9)]
    assert all(r["id"].endswith("-attack") for r in found)


def test_attacks_are_counted_at_a_matched_rate_of_yes():
    """Fault: at a fixed threshold a learner that says no more often seemed harder to attack."""
    strength = {"one": 4.0, "two": -4.0, "three": 1.0, "four": -9.0}
    for shift in (-20, 0, 20):                             # a cautious and a bold copy of one model
        def score(_, rows, shift=shift):
            return np.array([strength[r["answer"]] + shift for r in rows])
        assert auto_align.attack_success("model", questions(), score) == 1.0
        strength["three"] = -1.0
        assert auto_align.attack_success("model", questions(), score) == 0.0
        strength["three"] = 1.0
    assert auto_align.attack_success("model", [{"text": "no question"}], None) is None


def test_the_attacker_asks_nothing_that_was_asked_and_needs_no_label():
    rows = [{**row, "support": "One comes first."} for row in questions()]
    found = propose_attacks(rows, 1.0, lambda some: np.zeros(len(some)))
    assert len(found) == 12 and {r["answer"] for r in found} <= {"three", "four"}
    assert not any("label" in r or "support" in r for r in found) and all("support" in r for r in rows)
    assert propose_attacks(rows, 0.0, lambda some: np.zeros(len(some))) == []


ARGS = SimpleNamespace(task="tinyworld", seed=0, dtype="fp32", head="lm", trust_remote_code=False, audit=6,
                       audit_by="uncertain")


def test_an_untrained_student_with_a_random_head_scores_as_the_model_that_training_starts_from(monkeypatch, tmp_path):
    """Fault: the head came from an unseeded generator whenever a student was opened: other scores at every call."""
    rows = questions(4)
    words = [" no", " yes"]
    args = SimpleNamespace(**{**vars(ARGS), "head": "random", "loss": "xent", "lora": None,
                              "gradient_checkpointing": False})
    first = score_texts("tiny-1a", rows, words, args, "cpu")
    assert first.any() and np.array_equal(first, score_texts("tiny-1a", rows, words, args, "cpu"))
    monkeypatch.setattr(auto_align, "fit", lambda *_, **__: None)
    learner = train_learner("tiny-1a", rows, np.full(8, 0.5), [], str(tmp_path), words, args, "cpu")
    assert np.array_equal(first, score_texts(learner, rows, words, args, "cpu"))
    other_seed = SimpleNamespace(**{**vars(args), "seed": 1})
    assert not np.array_equal(first, score_texts("tiny-1a", rows, words, other_seed, "cpu"))


def test_a_language_model_invents_answers():
    rows = questions(4)
    more = invent_answers(open_language_model("tiny-1a", "cpu"), rows, ARGS, "cpu")
    assert any(len(r["choices"]) == 5 and r["choices"][4] for r in more) and all(len(r["choices"]) == 4 for r in rows)


def test_humans_are_asked_as_often_as_the_budget_says_and_about_different_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "DATA", str(tmp_path))
    rows = questions(10)
    os.makedirs(tmp_path / ARGS.task / "truth")
    with open(tmp_path / ARGS.task / "truth" / "labels.jsonl", "w", encoding="utf-8") as f:
        for row in rows:
            soft_label = [0.0, 1.0] if row["answer"] == "one" else [1.0, 0.0]
            f.write(json.dumps({"id": row["id"], "soft_label": soft_label}) + "\n")
    p = np.linspace(0.01, 0.99, 20)
    for budget in (0, 1, 6, 7):
        audits = buy_audits(rows, p, 1 - p, SimpleNamespace(**{**vars(ARGS), "audit": budget}), 0)
        assert len(audits) == min(budget, 20) == len({a["id"] for a in audits})
        assert all(a["label"] == int(a["id"].endswith("a")) for a in audits)
    audits = buy_audits(rows, p, 1 - p, ARGS, 0)
    assert [a["use"] for a in audits] == ["guard"] * 3 + ["correct"] * 3
    question = {use: {a["id"][:-1] for a in audits if a["use"] == use} for use in ("guard", "correct")}
    assert not question["guard"] & question["correct"]     # a correction beside a guard would be thrown away


def test_corrections_replace_the_critics_labels_and_guards_do_not():
    rows = questions(2)
    audits = [{"id": "q0a", "use": "guard", "label": 1}, {"id": "q1b", "use": "correct", "label": 0}]
    assert apply_corrections(np.array([0.1, 0.2, 0.3, 0.4]), rows, audits).tolist() == [0.1, 0.2, 0.3, 0.0]


def test_the_learner_trains_on_as_many_rows_with_attacks_as_without_and_never_on_a_guards_question():
    """Fault: the other answer to a guard's question, and attacks on it, were trained on."""
    rows = questions(6)
    attacks = propose_attacks(rows, 0.25, lambda some: np.zeros(len(some)))
    assert attacks[0]["group"] == "0"
    audits = [{"id": "q0a", "use": "guard"}, {"id": "q1a", "use": "correct"}]
    p_yes = np.array([0.2, 0.9] * 6 + [0.4] * len(attacks))
    for some in ([], attacks):
        kept = rows_to_train_on(rows, some, p_yes, audits)
        assert len(kept) == len(set(kept)) == 10 and 2 in kept
        assert all((len(rows) + k in kept) == (attack["group"] != "0") for k, attack in enumerate(some))
        assert not {0, 1} & set(kept)
        assert {3, 5, 7, 9, 11} <= set(kept)               # an attack takes the place of a row with such a label


def test_an_attack_is_paired_with_the_likeliest_answer_to_its_question():
    rows = questions(2)
    attacks = [{"id": "q1a-attack", "group": "1"}, {"id": "q0a-attack", "group": "0"}]
    pairs = preference_pairs(rows, attacks, np.array([0.9, 0.2, 0.3, 0.4, 0.1, 0.95]))
    assert [(better["id"], worse["id"]) for better, worse, _ in pairs] == [("q1b", "q1a-attack"), ("q0a", "q0a-attack")]
    assert [weight for *_, weight in pairs] == pytest.approx([0.3, 0.0])


def test_pairs_pull_the_better_answer_above_the_worse_whatever_the_batch():
    model, tokenizer, _ = load_classifier("tiny-1a", "lm", [" no", " yes"], "cpu")
    rng = np.random.default_rng(0)
    better, worse = ([rng.integers(1, 2000, rng.integers(3, 12)).tolist() for _ in range(16)] for _ in range(2))
    args = SimpleNamespace(seed=0, lr=1e-3, batch_size=8, micro_batch_size=4, epochs=9, dtype="fp32")

    def mean_margin():
        with torch.no_grad():
            logits = classify(model.eval(), pad(better + worse, tokenizer, "cpu"))
        margins = (logits[:, 1] - logits[:, 0]).view(2, -1)
        return float((margins[0] - margins[1]).mean())
    before = mean_margin()
    for _ in range(4):                                     # one epoch each, whatever args.epochs is
        fit_pairs(model, tokenizer, better, worse, [1.0] * 16, args, "cpu")
    assert mean_margin() > before + 0.5


# --------------------------------------------------------------------------- the loop

QUICK = ["--max-rows", "72", "--epochs", "1"]
LOOP = ["auto_align.py", "--ladder", "tiny-1b,tiny-2", "--audit", "6", *QUICK]
SHORT = [*LOOP, "--attack-share", "0", "--doubt", "0"]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    house = build_house(tmp_path_factory.mktemp("phase2"))
    must(house, "train_weak.py", *QUICK)
    return house, must(house, *LOOP)


def folder(house, name="align"):
    return os.path.join(house, "data", "tinyworld", "seed0", name)


def rounds_of(house, name="align"):
    """The folder of a finished run's rounds: there is one."""
    found = glob.glob(os.path.join(folder(house, name), "rounds-*"))
    assert len(found) == 1, found
    return found[0]


def load(*path):
    with open(os.path.join(*path), encoding="utf-8") as f:
        return [json.loads(line) for line in f] if path[-1].endswith("jsonl") else json.load(f)


def kill_in_round_2(house, loop):
    """Run the loop, and let its process die in the second round. The run's folder is locked then."""
    code = ("import os, contract\n"
            "write = contract.write_file\n"
            "def dies(path, text):\n"
            "    if 'round-2' not in path: return write(path, text)\n"
            "    try:\n"
            "        with contract.lock_folder(path.split('/rounds-')[0]): os._exit(1)\n"
            "    except SystemExit: os._exit(9)\n"
            "contract.write_file = dies")
    done = warm.run(house, *loop, before=code)
    assert done.returncode == 9, done.stdout + done.stderr


def test_the_loop_prints_a_line_a_round_and_leaves_its_state(house):
    house, printed = house
    lines = [line for line in printed.splitlines() if line.startswith("round ")]
    words = ("evaluator", "ECE", "attacks succeed", "learner", "labels bought 6")
    assert len(lines) == 2 and all(word in lines[0] for word in words)
    assert "labels bought 12" in lines[1]
    for k in (1, 2):
        files = set(os.listdir(os.path.join(rounds_of(house), f"round-{k}")))
        assert {"evaluator.json", "learner", "labels.jsonl", "audits.jsonl", "results.json"} <= files
    results = load(folder(house), "results.json")
    assert len(results["rounds"]) == 2 and results["rounds"][0]["attacks"] > 0
    assert results["config"]["role"] == "align" and results["config"]["model"] == "tiny-2"
    assert results["rounds_folder"] == os.path.basename(rounds_of(house))
    load_classifier(os.path.join(folder(house), "checkpoint"), "lm", [" no", " yes"], "cpu")


def test_every_true_label_used_is_listed_and_the_others_may_be_noise(house, tmp_path):
    """The truth of rows that were not audited is inverted: every file stays the same."""
    house, _ = house
    audited = {audit["id"] for k in (1, 2) for audit in load(rounds_of(house), f"round-{k}", "audits.jsonl")}
    assert len(audited) == 12
    other = build_house(tmp_path / "noisy")
    shutil.copytree(folder(house, "weak"), folder(other, "weak"))
    rewrite(os.path.join(other, "data", "tinyworld", "truth", "labels.jsonl"),
            lambda row: row if row["id"] in audited else {**row, "soft_label": row["soft_label"][::-1]})
    must(other, *LOOP)
    assert contents(folder(other)) == contents(folder(house))


def test_every_correction_that_was_bought_is_trained_on_and_no_guard_is(house):
    house, _ = house
    for k in (1, 2):
        audits, taught = (load(rounds_of(house), f"round-{k}", name) for name in ("audits.jsonl", "labels.jsonl"))
        soft = {row["id"]: row["soft_label"] for row in taught}
        assert all((audit["id"] in soft) == (audit["use"] == "correct") for audit in audits)
        assert all(soft[audit["id"]][audit["label"]] == 1 for audit in audits if audit["use"] == "correct")
        question = {row["id"]: row["group"] for row in load(house, "data", "tinyworld", "train2.jsonl")}
        guarded = {question[audit["id"]] for audit in audits if audit["use"] == "guard"}
        assert guarded and not guarded & {question[name.removesuffix("-attack")] for name in soft}


def test_the_control_is_the_untrained_student_calibrated_on_the_same_audits(house, monkeypatch):
    house, printed = house
    rows = {row["id"]: row for row in load(house, "data", "tinyworld", "train2.jsonl")}
    guards = []
    args = SimpleNamespace(**{**vars(ARGS), "seed": 0})
    words = [" no", " yes"]
    test = load(house, "data", "tinyworld", "test.jsonl")[:72]
    for k, student in ((1, "tiny-1b"), (2, "tiny-2")):
        guards += [(rows[a["id"]], a["label"]) for a in load(rounds_of(house), f"round-{k}", "audits.jsonl")
                   if a["use"] == "guard"]
        results = load(rounds_of(house), f"round-{k}", "results.json")
        train2 = slice_of(load(house, "data", "tinyworld", "train2.jsonl")[:72], k - 1, 2)
        threshold = np.quantile(score_texts(student, train2, words, args, "cpu"), 1 - results["critic_says_yes"])
        z = score_texts(student, [row for row, _ in guards], words, args, "cpu") - threshold
        t, b = platt_scaling(z, [label for _, label in guards])
        p = sigmoid((score_texts(student, test, words, args, "cpu") - threshold) / t + b)
        found = results["untrained"]["accuracy"]
        assert found == pytest.approx(np.mean((p > 0.5) == [row["label"] for row in test]))
        assert f"(untrained {found:.3f}; ECE" in printed


def test_killed_in_the_second_round_it_goes_on_there_and_ends_with_the_same_bytes(house):
    house, _ = house
    before = contents(folder(house))
    shutil.rmtree(folder(house))
    kill_in_round_2(house, [*LOOP, "--force"])
    assert os.path.exists(os.path.join(rounds_of(house), "round-1", "results.json"))
    assert not os.path.exists(os.path.join(folder(house), "results.json"))
    marker = os.path.join(rounds_of(house), "round-1", "learner", "checkpoint", "model.safetensors")
    made = os.path.getmtime(marker)
    must(house, *LOOP)
    assert os.path.getmtime(marker) == made                # round 1 was not played again
    assert contents(folder(house)) == before


def test_a_finished_run_stays_whole_until_a_run_with_other_flags_is_complete(house):
    house, _ = house
    shutil.copytree(folder(house), folder(house, "kept"))
    before = contents(folder(house, "kept"))
    old_rounds = rounds_of(house, "kept")
    kill_in_round_2(house, [*LOOP, "--audit", "8", "--out", "kept"])
    after = contents(folder(house, "kept"))
    assert {name: after.get(name) for name in before} == before
    assert "already done" in must(house, *LOOP, "--out", "kept")
    printed = must(house, *LOOP, "--audit", "8", "--out", "kept")
    assert "audit 6 -> 8" in printed and printed.count("\nround ") == 2
    assert rounds_of(house, "kept") != old_rounds          # now those of the old run are gone


def test_a_finished_run_stays_whole_if_a_forced_repeat_is_killed(house):
    house, _ = house
    before = contents(folder(house))
    kill_in_round_2(house, [*LOOP, "--force"])
    after = contents(folder(house))
    assert {name: after.get(name) for name in before} == before
    assert "already done" in must(house, *LOOP)


def damages():
    """(file of a round, how to damage its text)"""
    def changed(**values):
        return lambda text: json.dumps(json.loads(text) | values)
    yield from (("evaluator.json", changed(temperature=x)) for x in (-1, 0, float("inf")))
    yield from (("evaluator.json", lambda text, x=x: text.replace('"weight": 1.0', f'"weight": {x}'))
                for x in ("0", "-1", "1e308", '"one"'))
    yield from (("audits.jsonl", lambda text, x=x: re.sub(r'"label": \d', f'"label": {x}', text, count=1))
                for x in (7, 0.9, '"1"'))
    yield from ((name, lambda text: "") for name in ("audits.jsonl", "evaluator.json", "labels.jsonl"))
    yield from (("results.json", lambda text: text[:50]), ("results.json", lambda text: "[]"),
                ("results.json", lambda text: "{}"), ("results.json", changed(audits=64)),
                ("results.json", changed(evaluator=None)), ("results.json", lambda text: "\x00" + text))


def test_whatever_a_round_wrote_is_checked_before_it_is_used(house, tmp_path):
    """A temperature of -1, weights of 0, a label of 7, emptied audits, ...: each is named."""
    home = shutil.copytree(os.path.join(rounds_of(house[0]), "round-1"), tmp_path / "round-1")
    train2 = load(house[0], "data", "tinyworld", "train2.jsonl")
    evaluator, guards, results = auto_align.load_round(home, train2)
    assert evaluator["temperature"] > 0 and len(guards) == 3 and results["audits"] == 6
    for name, damage in damages():
        text = (home / name).read_text()
        assert damage(text) != text, name
        (home / name).write_text(damage(text))
        with pytest.raises(ValueError, match=name):
            auto_align.load_round(home, train2)
        (home / name).write_text(text)
    (home / "learner" / "checkpoint" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="learner/checkpoint was changed or is missing"):
        auto_align.load_round(home, train2)


def test_a_damaged_round_is_played_again_and_the_run_ends_with_the_same_bytes(house):
    house, _ = house
    before = contents(folder(house))
    path = os.path.join(rounds_of(house), "round-2", "evaluator.json")
    with open(path, encoding="utf-8") as f:
        text = f.read()
    with open(path, "w", encoding="utf-8") as f:
        f.write(text.replace('"temperature": ', '"temperature": -'))
    os.remove(os.path.join(folder(house), "results.json"))                     # as if it had been killed
    first = os.path.join(rounds_of(house), "round-1", "learner", "checkpoint", "model.safetensors")
    made = os.path.getmtime(first)
    printed = must(house, *LOOP)
    assert "round-2/evaluator.json was changed or is missing; round 2 and those after it are played again" in printed
    assert contents(folder(house)) == before and os.path.getmtime(first) == made


def test_an_edited_role_plays_all_rounds_again(house):
    """Fault: rounds were recognised by the loop's own file, so an edited role mixed old and new rounds."""
    house, _ = house
    script = os.path.join(house, "auto_align.py")
    kill_in_round_2(house, [*SHORT, "--out", "edited"])
    old = load(rounds_of(house, "edited"), "round-1", "evaluator.json")
    with open(script, encoding="utf-8") as f:
        code = f.read()
    assert code.count("prior=(0.1, 12.5)") == 1
    try:
        with open(script, "w", encoding="utf-8") as f:
            f.write(code.replace("prior=(0.1, 12.5)", "prior=(0.1, 50.0)"))
        must(house, *SHORT, "--out", "edited")
    finally:
        with open(script, "w", encoding="utf-8") as f:
            f.write(code)
    new = load(rounds_of(house, "edited"), "round-1", "evaluator.json")
    assert abs(new["bias"]) < abs(old["bias"])             # the stronger prior is in round 1, too


@pytest.mark.parametrize("flags", [
    ["--update", "distill", "--pairwise"],
    ["--update", "ensemble", "--doubt", "0", "--loss", "logconf"],
    ["--update", "none", "--audit", "0", "--attack-share", "0"]])
def test_every_update_rule_runs(house, flags):
    printed = must(house[0], "auto_align.py", "--ladder", "tiny-1b,tiny-1c", "--out", "other", *QUICK, *flags)
    assert printed.count("\nround ") == 2
    if "none" in flags:
        rounds = load(folder(house[0], "other"), "results.json")["rounds"]
        assert rounds[0]["evaluator"][0] == rounds[1]["evaluator"][1] and rounds[0]["audits"] == 0


def test_rows_without_a_question_can_be_judged_but_not_attacked(house, tmp_path):
    other = build_house(tmp_path / "bare")
    for split in ("train1", "train2", "valid", "test"):
        rewrite(os.path.join(other, "data", "tinyworld", split + ".jsonl"),
                lambda row: {k: v for k, v in row.items() if k in ("id", "group", "text", "label")})
    must(other, "train_weak.py", *QUICK)
    loop = ["auto_align.py", "--ladder", "tiny-1b", "--doubt", "0.5", *QUICK]
    assert "attacks succeed - -> -" in must(other, *loop, "--attack-share", "0")
    done = call(other, *loop, "--out", "attacked")
    assert done.returncode == 2 and "--attack-share 0" in done.stderr
    assert not os.path.exists(folder(other, "attacked"))   # found before any work


@pytest.mark.parametrize("flags,words", [
    (["--evaluator", "nobody"], ["nobody", "checkpoint", "train_weak.py"]), (["--ladder", "tiny-9"], ["tiny-9"]),
    (["--audit", "-1"], ["not between"]),
    (["--ceiling", "weak"], ["--ceiling", "it is no ceiling"]),
    (["--evaluator", "weak,weak"], ["--evaluator weak,weak", "twice"]),
    (["--evaluator", "weak,data/tinyworld/seed0/weak"], ["--evaluator", "twice"]),
    (["--evaluator", "weak,"], ["--evaluator", "empty"]),
    (["--pairwise", "--attack-share", "0"], ["--pairwise", "--attack-share"]),
    (["--audit", "0", "--audit-by", "random"], ["--audit-by", "--audit 0 has none"])])
def test_a_users_mistake_is_one_line(house, flags, words):
    done = call(house[0], "auto_align.py", "--out", "wrong", *QUICK, *flags)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words), done.stderr


@pytest.mark.parametrize("n_rows,per_question,n_rounds,most", [
    (20, 1, 3, 6), (20, 1, 1, 20), (10, 4, 3, 0), (20, 2, 1, 13), (5, 1, 1, 5), (1, 1, 1, 0), (2, 1, 3, None)])
def test_audits_are_bounded_by_the_smallest_slice_that_is_played(n_rows, per_question, n_rounds, most, capsys):
    """Fault: 20 rows, three rounds and 16 audits ended in an IndexError, since no row was left to train on."""
    train2 = [{"id": f"r{i}", "group": f"q{i // per_question}"} for i in range(n_rows)]
    if most is not None:
        auto_align.check_slices(train2, n_rounds, most)    # accepted, and it leaves rows to train on in every round
        for k in range(n_rounds):
            rows = slice_of(train2, k, n_rounds)
            audits = [{"id": row["id"], "use": "guard"} for row in rows[:(most + 1) // 2]]
            assert len(rows_to_train_on(rows, [], np.ones(len(rows)), audits)) >= max(1, most // 2)
    with pytest.raises(SystemExit):
        auto_align.check_slices(train2, n_rounds, 0 if most is None else most + 1)     # the next one is not,
    message = capsys.readouterr().err                      # and the message names the bound
    assert message.count("\n") == 1 and f"train2 has {n_rows} rows" in message and "--ladder" in message
    assert re.findall(r"use --audit (\d+), or ", message) == ([] if most is None else [str(most)])


def test_a_task_of_20_rows_is_refused_in_one_line_and_runs_with_the_audits_that_it_names(house):
    house, _ = house
    small = ["auto_align.py", "--ladder", "tiny-1b,tiny-1b,tiny-1b", "--doubt", "0", "--attack-share", "0",
             "--epochs", "1", "--max-rows", "20", "--out", "tiny"]
    done = call(house, *small)
    assert done.returncode == 2 and "Traceback" not in done.stderr and "too small for --audit 16" in done.stderr
    assert not os.path.exists(folder(house, "tiny"))       # found before any work
    audit = re.search(r"use (--audit) (\d+)", done.stderr)
    assert must(house, *small, *audit.groups()).count("\nround ") == 3


def test_a_ceiling_gives_a_pgr_to_the_round_of_its_own_model(house):
    house, _ = house
    must(house, "train_strong.py", "--labels", "truth", "--model", "tiny-1b", "--out", "ceiling", *QUICK)
    must(house, *SHORT, "--ceiling", "ceiling", "--out", "compared")
    results = load(folder(house, "compared"), "results.json")
    assert ["pgr" in r for r in results["rounds"]] == [True, False]            # tiny-1b, tiny-2
    assert results["comparison"]["pgr_reason"] == "no --ceiling was given"     # for the last student, tiny-2
    assert results["ceiling"] == ""
    done = call(house, *SHORT, "--ceiling", "ceiling", "--ladder", "tiny-2", "--out", "other")
    assert done.returncode == 2 and "--ceiling ceiling is for a student tiny-1b" in done.stderr
    assert "| compared |" in must(house, "report.py")


def test_the_pgr_begins_at_what_the_evaluator_says_itself(house):
    """A judge of debate.py has labelled test with help, and judges without it from here on."""
    house, _ = house
    must(house, "debate.py", "--mode", "support", "--out", "helped", *QUICK)
    must(house, *SHORT, "--evaluator", "helped", "--out", "from-helped")
    results = load(folder(house, "from-helped"), "results.json")
    found = results["comparison"]["supervisor"]
    assert found == results["rounds"][0]["evaluator"][0]["accuracy"]
    assert found != load(folder(house, "helped"), "results.json")["test"]["accuracy"]
    rows = load(folder(house, "from-helped"), "evaluator", "labels.jsonl")
    test = load(house, "data", "tinyworld", "test.jsonl")[:72]
    assert found == np.mean([(row["soft_label"][1] > 0.5) == t["label"] for row, t in zip(rows, test, strict=True)])
    must(house, "train_strong.py", "--model", "tiny-1b", "--control", "untrained", "--truth-budget", "8", "--pick",
         "random", "--out", "calibrated", *QUICK)
    done = call(house, *SHORT, "--evaluator", "calibrated", "--out", "other")
    assert done.returncode == 2 and "its labels are calibrated" in done.stderr


def test_where_the_task_has_no_truth_people_write_it_and_the_result_is_the_same(house, tmp_path):
    house, _ = house
    must(house, *SHORT, "--out", "told")
    other = build_house(tmp_path / "unlabelled")
    must(other, "train_weak.py", *QUICK)
    task = os.path.join(other, "data", "tinyworld")
    spec = load(task, "task.json")
    with open(os.path.join(task, "task.json"), "w", encoding="utf-8") as f:    # as data/own/prepare.py writes it
        json.dump(spec | {"splits": {"train2": {"rows": len(load(task, "train2.jsonl")), "labelled": 0}}}, f)
    truth = {line["id"]: round(line["soft_label"][1]) for line in load(task, "truth", "labels.jsonl")}
    with open(os.path.join(task, "truth", "labels.jsonl"), "w", encoding="utf-8"):
        pass
    must(other, "train_weak.py", *QUICK, "--out", "second", "--seed", "0", "--lr", "1e-5")
    done = call(other, *SHORT, "--evaluator", "weak,second")
    assert done.returncode == 2 and "compares these on valid, which has no true labels here" in done.stderr
    asked = os.path.join(task, "true-labels.csv")
    for k in (1, 2):                                       # each round asks once
        done = call(other, *SHORT, "--out", "told")
        assert done.returncode == 2 and "people must give 6 true label(s)" in done.stderr, done.stderr
        assert not os.path.exists(os.path.join(folder(other, "told"), "results.json"))
        with open(asked, encoding="utf-8-sig", newline="") as f:
            rows = list(csv.DictReader(f))
        assert len(rows) == 6 * k and all(row["label"] == "" for row in rows[6 * k - 6:])
        with open(asked, "w", encoding="utf-8", newline="") as f:
            writer = csv.DictWriter(f, rows[0])
            writer.writeheader()
            writer.writerows({**row, "label": truth[row["id"]]} for row in rows)
    must(other, *SHORT, "--out", "told")
    assert load(folder(other, "told"), "labels.jsonl") == load(folder(house, "told"), "labels.jsonl")
    # somebody corrects a label of the second round: that round is played again, and the first is read
    assert "already done" in must(other, *SHORT, "--out", "told")
    with open(asked, encoding="utf-8") as f:
        lines = f.read().splitlines(True)
    lines[-1] = lines[-1].replace(*((",1\n", ",0\n") if lines[-1].endswith(",1\n") else (",0\n", ",1\n")))
    with open(asked, "w", encoding="utf-8") as f:
        f.writelines(lines)
    printed = must(other, *SHORT, "--out", "told")
    assert re.search("note: the true label of .* was changed; round 2 and those after it are played again", printed)
    # fault: each request of another run made all finished runs of the task stale
    with open(asked, "a", encoding="utf-8") as f:
        f.write("of another run,its text,\n")
    assert "already done" in must(other, *SHORT, "--out", "told")


def test_of_several_evaluators_the_best_on_valid_starts_and_an_ensemble_is_one(house):
    house, _ = house
    must(house, "ensemble.py", "--members", "2", "--out", "pair", *QUICK)
    printed = must(house, "auto_align.py", "--evaluator", "weak,pair", "--ladder", "tiny-1b", "--update", "none",
                   "--audit", "0", "--out", "chosen", *QUICK)
    line = next(line for line in printed.splitlines() if line.startswith("evaluator: "))
    reached = dict(re.findall(r"(\w+) (\d\.\d+)", line))
    best = max(reached, key=lambda name: float(reached[name]))
    assert set(reached) == {"weak", "pair"} and line.startswith(f"evaluator: {best} has the best accuracy on valid")
    chose = load(folder(house, "chosen"), "audits.jsonl")
    assert len(chose) == 72 and {audit["use"] for audit in chose} == {"choose"}
    assert "labels bought 72" in printed                   # all of valid was paid for
    results = load(folder(house, "chosen"), "results.json")                    # and the PGR is over the chosen one
    started = load(folder(house, best), "results.json")["test"]["accuracy"]
    assert results["supervisor"] == best and results["comparison"]["supervisor"] == pytest.approx(started)
    pair = auto_align.open_evaluator(folder(house, "pair"))
    used = load(folder(house, "pair"), "results.json")["members_used"]
    assert len(pair["members"]) == used and sum(m["weight"] for m in pair["members"]) == pytest.approx(1)
    assert all("member-" in m["checkpoint"] for m in pair["members"])
