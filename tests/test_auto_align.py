"""
Phase 2: each part of the loop on a case with a known answer, then the loop itself: budget, honesty, kills.

python -m pytest tests/test_auto_align.py        # 60 s, CPU, no network
"""
import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import auto_align
from auto_align import slice_of
from prompting import open_language_model
from roles import (attack_success, bradley_terry, calibrate, calibrated_by_others, hire_humans, invent_answers, is_worse, mixing_weight, propose_attacks, sigmoid,
                   soft)
from test_commands import build_house, call, contents, must, rewrite
from train_weak import classify, fit, load_model, pad, soft_xent


# --------------------------------------------------------------------------- the maths

def test_calibration_recovers_a_planted_temperature_and_bias():
    rng = np.random.default_rng(0)
    true = rng.normal(0, 1.5, 4000)
    labels = rng.random(4000) < sigmoid(true)
    t, b = calibrate(3.0 * (true - 0.5), labels)           # said three times too surely, and half a nat too often no
    assert t == pytest.approx(3.0, rel=0.1) and b == pytest.approx(0.5, abs=0.1)


def test_calibration_from_few_labels_stays_near_the_evaluator_and_from_none_leaves_it():
    assert calibrate(np.zeros(0), []) == pytest.approx((1.0, 0.0))
    t, b = calibrate(np.array([2.0, -2.0, 1.0]), [1, 0, 1])                    # all right already: no infinite confidence
    assert 0.1 < t < 1.5 and abs(b) < 1.5
    t, b = calibrate(np.array([2.0, -2.0] * 8), [0, 1] * 8)                    # always wrong: it may doubt itself, not turn round
    assert t > 5


def test_an_audit_is_judged_by_a_calibration_that_has_not_seen_it():
    z, labels = np.array([1.0, -0.5, 2.0, 0.3]), np.array([1, 0, 0, 1])
    found = calibrated_by_others(z, labels)
    t, b = calibrate(z[[0, 1, 3]], labels[[0, 1, 3]])
    assert found[2] == pytest.approx(float(sigmoid(2.0 / t + b))) and len(calibrated_by_others(np.zeros(0), [])) == 0
    turned = calibrated_by_others(z, np.array([1, 0, 1, 1]))                   # its own label does not matter, the others' do
    assert turned[2] == pytest.approx(found[2]) and turned[0] != pytest.approx(found[0])


def test_the_guard_rejects_a_planted_bad_update_and_accepts_a_good_one():
    rng = np.random.default_rng(0)
    good, bad = rng.random(60) < 0.9, rng.random(60) < 0.55
    assert is_worse(good, bad)[0] and not is_worse(bad, good)[0] and not is_worse(good, good)[0]
    assert is_worse([], []) == (False, 1.0)                # no audits: unguarded


def test_the_guard_keeps_its_promise_of_one_false_alarm_in_twenty():
    rng = np.random.default_rng(0)
    alarms = [is_worse(rng.random(40) < 0.8, rng.random(40) < 0.8)[0] for _ in range(1000)]
    assert np.mean(alarms) < 0.06


def test_the_mixing_weight_goes_to_who_knows():
    labels = np.random.default_rng(0).integers(0, 2, 200)
    knows, guesses = 4.0 * (2 * labels - 1), np.random.default_rng(1).normal(0, 3, 200)
    assert mixing_weight(guesses, knows, labels) >= 0.8 and mixing_weight(knows, guesses, labels) <= 0.2
    assert mixing_weight(knows, knows, labels) == 0.5 == mixing_weight([], [], [])


def test_bradley_terry_by_hand():
    loss = bradley_terry(torch.tensor([[1.0, 1.0], [2.0, 0.0]]), torch.tensor([[1.0], [0.5]]))
    assert loss.tolist() == pytest.approx([np.log(2), 0.5 * np.log(1 + np.exp(-2.0))], rel=1e-5)


def test_slices_are_disjoint_whole_questions_and_cover_all():
    rows = [{"id": f"{g}{a}", "group": str(g)} for g in range(20) for a in "ab"]
    parts = [slice_of(rows, k, 3) for k in range(3)]
    assert sorted(r["id"] for p in parts for r in p) == sorted(r["id"] for r in rows)
    groups = [{r["group"] for r in p} for p in parts]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]


# --------------------------------------------------------------------------- attacker and humans

def questions(n=12):
    return [{"id": f"q{k}{s}", "group": str(k), "question": f"What is {k}?", "answer": a, "choices": ["one", "two", "three", "four"],
             "text": f"Q: What is {k}? A: {a}"} for k in range(n) for s, a in (("a", "one"), ("b", "two"))]


def test_the_attacker_finds_a_planted_weakness():
    """A learner that believes "three" of every question whose number is a multiple of 3, and else nothing new."""
    def believed(rows):
        return np.array([5.0 if r["answer"] == "three" and int(r["group"]) % 3 == 0 else -5.0 for r in rows])
    found = propose_attacks(questions(), 4 / 24, believed)
    assert [r["text"] for r in found] == [f"Q: What is {k}? A: three" for k in (0, 3, 6, 9)]
    assert all(r["id"].endswith("-attack") for r in found)


def test_the_attacker_asks_nothing_that_was_asked_and_needs_no_label():
    rows = questions()
    found = propose_attacks(rows, 1.0, lambda some: np.zeros(len(some)))
    assert len(found) == 12 and {r["answer"] for r in found} <= {"three", "four"} and not any("label" in r for r in found)
    assert propose_attacks(rows, 0.0, lambda some: np.zeros(len(some))) == []


ARGS = SimpleNamespace(seed=0, dtype="fp32", head="lm", trust_remote_code=False, audit=6, audit_by="uncertain")


def test_a_language_model_invents_answers():
    model, tokenizer, longest = open_language_model("tiny-1a", "cpu")
    rows = questions(4)
    more = invent_answers(model, tokenizer, longest, rows, ARGS, "cpu")
    assert any(len(r["choices"]) == 5 and r["choices"][4] for r in more) and all(len(r["choices"]) == 4 for r in rows)


def test_humans_are_asked_as_often_as_the_budget_says_and_about_different_rows(tmp_path):
    rows = questions(10)
    os.makedirs(tmp_path / "truth")
    with open(tmp_path / "truth" / "labels.jsonl", "w", encoding="utf-8") as f:
        f.writelines(json.dumps({"id": r["id"], "soft_label": [0.0, 1.0] if r["answer"] == "one" else [1.0, 0.0]}) + "\n" for r in rows)
    p = np.linspace(0.01, 0.99, 20)
    for budget in (0, 1, 6, 7, 40):
        audits = hire_humans(rows, p, 1 - p, SimpleNamespace(**{**vars(ARGS), "audit": budget}), str(tmp_path / "truth"), 0)
        assert len(audits) == min(budget, 20) == len({a["id"] for a in audits})
        assert all(a["label"] == int(a["id"].endswith("a")) for a in audits)
    audits = hire_humans(rows, p, 1 - p, ARGS, str(tmp_path / "truth"), 0)
    assert [a["use"] for a in audits] == ["guard"] * 3 + ["correct"] * 3


def test_pairs_pull_the_better_answer_above_the_worse_whatever_the_batch():
    model, tokenizer, _ = load_model("tiny-1a", "lm", [" no", " yes"], "cpu")
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(1, 2000, rng.integers(3, 12)).tolist(), rng.integers(1, 2000, rng.integers(3, 12)).tolist()) for _ in range(16)]
    args = SimpleNamespace(seed=0, lr=1e-3, batch_size=8, micro_batch_size=4, epochs=4, dtype="fp32")

    def margins(model, batch):
        logits = classify(model, batch)
        return (logits[:, 1] - logits[:, 0]).view(2, -1).T

    def collate(some, tokenizer, device):
        return pad([a for a, _ in some] + [b for _, b in some], tokenizer, device)

    def mean_margin():
        with torch.no_grad():
            s = margins(model.eval(), collate(pairs, tokenizer, "cpu"))
        return float((s[:, 0] - s[:, 1]).mean())
    before = mean_margin()
    fit(model, tokenizer, pairs, np.ones((16, 1), np.float32), args, "cpu", loss=bradley_terry, outputs=margins, collate=collate)
    assert mean_margin() > before + 0.5


# --------------------------------------------------------------------------- the loop

QUICK = ["--max-rows", "72", "--epochs", "1"]
LOOP = ["auto_align.py", "--ladder", "tiny-1b,tiny-2", "--audit", "6", *QUICK]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    house = build_house(tmp_path_factory.mktemp("phase2"))
    must(house, "train_weak.py", *QUICK)
    return house, must(house, *LOOP)


def folder(house, name="align"):
    return os.path.join(house, "data", "tinyworld", "seed0", name)


def test_the_loop_prints_a_line_a_round_and_leaves_its_state(house):
    house, printed = house
    lines = [line for line in printed.splitlines() if line.startswith("round ")]
    assert len(lines) == 2 and all(word in lines[0] for word in ("evaluator", "ECE", "attacks succeed", "learner", "labels bought 6"))
    assert "labels bought 12" in lines[1]
    for k in (1, 2):
        where = os.path.join(folder(house), f"round-{k}")
        assert {"evaluator.json", "learner", "labels.jsonl", "audits.jsonl", "results.json"} <= set(os.listdir(where))
    results = json.load(open(os.path.join(folder(house), "results.json"), encoding="utf-8"))
    assert len(results["rounds"]) == 2 and results["rounds"][0]["attacks"] > 0
    load_model(os.path.join(folder(house), "checkpoint"), "lm", [" no", " yes"], "cpu")


def test_every_true_label_used_is_listed_and_the_others_may_be_noise(house, tmp_path):
    """Truth of rows nobody audited turned round: every file but the record of the truth's fingerprint is the same."""
    house, _ = house
    audited = {json.loads(line)["id"] for k in (1, 2) for line in open(os.path.join(folder(house), f"round-{k}", "audits.jsonl"), encoding="utf-8")}
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
        where = os.path.join(folder(house), f"round-{k}")
        audits, taught = ([json.loads(line) for line in open(os.path.join(where, name), encoding="utf-8")] for name in ("audits.jsonl", "labels.jsonl"))
        soft = {row["id"]: row["soft_label"] for row in taught}
        assert all((audit["id"] in soft) == (audit["use"] == "correct") for audit in audits)
        assert all(soft[audit["id"]][audit["label"]] == 1 for audit in audits if audit["use"] == "correct")


def test_killed_in_the_second_round_it_goes_on_there_and_ends_with_the_same_bytes(house):
    house, _ = house
    before = contents(folder(house))
    code = ("import os, sys, auto_align\n"
            "play, k = auto_align.play_round, []\n"
            "def dies(*a): k.append(1); return os._exit(9) if len(k) == 2 else play(*a)\n"
            f"auto_align.play_round = dies; sys.argv = {[*LOOP, '--force']!r}; auto_align.main()")
    shutil.rmtree(folder(house))
    assert call(house, "-c", code).returncode == 9
    assert os.path.exists(os.path.join(folder(house), "round-1", "results.json")) and not os.path.exists(os.path.join(folder(house), "results.json"))
    marker = os.path.join(folder(house), "round-1", "learner", "checkpoint", "model.safetensors")
    made = os.path.getmtime(marker)
    must(house, *LOOP)
    assert os.path.getmtime(marker) == made                # round 1 was not played again
    assert contents(folder(house)) == before


@pytest.mark.parametrize("flags", [["--update", "distill", "--pairwise"], ["--update", "ensemble", "--doubt", "0", "--loss", "logconf"],
                                   ["--update", "none", "--audit", "0", "--attack-share", "0", "--slices", "3"]])
def test_every_update_rule_runs(house, flags):
    printed = must(house[0], "auto_align.py", "--ladder", "tiny-1b,tiny-1c", "--out", "other", *QUICK, *flags)
    assert printed.count("\nround ") == 2
    if "none" in flags:
        rounds = json.load(open(os.path.join(folder(house[0], "other"), "results.json"), encoding="utf-8"))["rounds"]
        assert rounds[0]["evaluator"][0] == rounds[1]["evaluator"][1] and rounds[0]["audits"] == 0


def test_rows_without_a_question_apart_can_be_judged_but_not_attacked(house, tmp_path):
    other = build_house(tmp_path / "bare")
    for split in ("train1", "train2", "valid", "test"):
        rewrite(os.path.join(other, "data", "tinyworld", split + ".jsonl"), lambda row: {k: v for k, v in row.items() if k in ("id", "group", "text", "label")})
    must(other, "train_weak.py", *QUICK)
    loop = ["auto_align.py", "--ladder", "tiny-1b", "--doubt", "0.5", *QUICK]
    assert "attacks succeed - -> -" in must(other, *loop, "--attack-share", "0")
    done = call(other, *loop, "--out", "attacked")
    assert done.returncode == 2 and "--attack-share 0" in done.stderr


@pytest.mark.parametrize("flags,words", [(["--evaluator", "nobody"], ["nobody", "checkpoint", "train_weak.py"]), (["--ladder", "tiny-9"], ["tiny-9"]),
                                         (["--slices", "1"], ["--slices"]), (["--audit", "-1"], ["not between"])])
def test_a_users_mistake_is_one_line(house, flags, words):
    done = call(house[0], "auto_align.py", "--out", "wrong", *QUICK, *flags)
    assert done.returncode == 2 and "Traceback" not in done.stderr and all(word in done.stderr for word in words), done.stderr


def test_of_several_evaluators_the_best_on_valid_starts_and_an_ensemble_is_one(house):
    house, _ = house
    must(house, "ensemble.py", "--members", "2", "--out", "pair", *QUICK)
    printed = must(house, "auto_align.py", "--evaluator", "weak,pair", "--ladder", "tiny-1b", "--update", "none", "--audit", "0", "--out", "chosen", *QUICK)
    line = next(line for line in printed.splitlines() if line.startswith("evaluator: "))
    reached = dict(re.findall(r"(\w+) is right on (\d\.\d+)", line))
    assert set(reached) == {"weak", "pair"} and line.endswith(max(reached, key=lambda name: float(reached[name])) + " it is")
    chose = [json.loads(line) for line in open(os.path.join(folder(house, "chosen"), "audits.jsonl"), encoding="utf-8")]
    assert len(chose) == 72 and {audit["use"] for audit in chose} == {"choose"} and "labels bought 72" in printed      # all of valid was paid for
    pair = auto_align.open_evaluator(folder(house, "pair"))
    used = json.load(open(os.path.join(folder(house, "pair"), "results.json"), encoding="utf-8"))["members_used"]
    assert len(pair["members"]) == used and sum(m["weight"] for m in pair["members"]) == pytest.approx(1)
    assert all("member-" in m["checkpoint"] for m in pair["members"])
