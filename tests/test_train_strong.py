"""
The student's losses, label cleaning, probe and generative fine-tuning, on cases small enough to check by hand; and the
stage's identity: what counts as a ceiling, and which edits repeat a run.

python -m pytest tests/test_train_strong.py      # 30 s, CPU, no network
"""
import doctest
import inspect
import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import train_strong
import warm
from conftest import ROOT
from models import load_classifier, open_language_model, predict
from train_strong import (
    LOSSES, confidence_weight, entropy, fit_probe, harden, keep_least_doubtful, knn_prediction, last_layer, logconf,
    logconf_released, logistic, logistic_prediction, pretrain_on_texts, product, compute_features, select_rows_to_label,
    window)
from train_weak import soft_xent


def batch(n=40, share=0.5, seed=0):
    rng = torch.Generator().manual_seed(seed)
    yes = (torch.rand(n, generator=rng) * 2 * share).clamp(0, 1)
    return torch.randn(n, 2, generator=rng), torch.stack([1 - yes, yes], 1)


def test_the_worked_examples_in_docstrings_are_right():
    assert doctest.testmod(train_strong, extraglobs={"torch": torch}).failed == 0


# --------------------------------------------------------------------------- the confidence loss

def test_pitfall_03_the_weight_rises_in_a_straight_line_without_a_jump():
    steps = 500
    weights = [confidence_weight(k / steps) for k in range(steps)]
    assert weights[0] == 0 and weights[100] == 0.5 and weights[-1] == 0.5
    assert all(0 <= b - a <= 0.5 / (0.2 * steps) + 1e-9 for a, b in zip(weights, weights[1:]))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_pitfall_04_as_many_pass_the_threshold_as_the_supervisor_says_yes(share):
    logits, labels = batch(200)
    labels = torch.tensor([[1 - share, share]]).repeat(200, 1)
    hardened = (logconf(logits, labels, 1.0) - 0.5 * labels) / 0.5             # back from (1 - a) labels + a hardened
    assert hardened[:, 1].mean().item() == pytest.approx(share, abs=1e-5)
    assert torch.allclose(hardened.sum(1), torch.ones(200))


@pytest.mark.parametrize("n", [40, 33, 1])
def test_pitfall_04_swapping_the_classes_mirrors_the_loss_exactly(n):
    logits, labels = batch(n, share=0.7)
    for loss in LOSSES.values():
        targets = loss(logits, labels, 0.7)
        mirrored = loss(logits.flip(1), labels.flip(1), 0.7)
        assert torch.allclose(targets, mirrored.flip(1), atol=1e-5)
        assert torch.allclose(soft_xent(logits, targets), soft_xent(logits.flip(1), mirrored), atol=1e-4)


def test_logconf_is_the_sum_of_its_two_cross_entropies():
    """eq. 1 of Burns et al., written out with torch's own loss"""
    logits, labels = batch()
    labels = torch.tensor([[0.6, 0.4], [0.4, 0.6]]).repeat(20, 1)              # mean 1/2: a whole number of rows
    hardened = harden(logits, labels[:, 1].mean()).round().long()
    cross_entropy = torch.nn.functional.cross_entropy
    by_hand = 0.5 * cross_entropy(logits, labels) + 0.5 * cross_entropy(logits, hardened)
    assert torch.allclose(soft_xent(logits, logconf(logits, labels, 0.9)).mean(), by_hand)


def test_logconf_starts_as_plain_cross_entropy():
    logits, labels = batch()
    assert torch.equal(logconf(logits, labels, 0.0), labels)


def test_of_tied_rows_the_right_number_still_passes():
    assert harden(torch.zeros(10, 2), 0.3).sum().item() == pytest.approx(3)


# --------------------------------------------------------------------------- the other losses

def gradient(loss, logits):
    logits = logits.clone().requires_grad_()
    loss(logits).sum().backward()
    return logits.grad


def test_the_released_confidence_loss_jumps_where_the_papers_rises():
    logits, labels = batch()
    labels = torch.tensor([[0.6, 0.4], [0.4, 0.6]]).repeat(20, 1)
    hardened = harden(logits, labels[:, 1].mean())
    for progress, a in ((0.0, 0.0), (0.1, 0.05), (0.101, 0.5), (0.9, 0.5)):
        by_hand = (1 - a) * labels + a * torch.stack([1 - hardened, hardened], 1)
        assert torch.allclose(logconf_released(logits, labels, progress), by_hand)
    assert torch.allclose(logconf_released(logits, labels, 0.5), logconf(logits, labels, 0.5))


def test_product_is_bayes_rule_for_two_independent_predictions():
    """Odds multiply: a student at 3:1 and a supervisor at 1:2 make 3:2."""
    logits = torch.tensor([[np.log(3.0), 0.0]]).float()
    assert torch.allclose(product(logits, torch.tensor([[1 / 3, 2 / 3]]), 0.5), torch.tensor([[0.6, 0.4]]))
    assert torch.isfinite(product(torch.tensor([[200.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.5)).all()


def test_outside_the_window_nothing_is_learned_and_inside_all_is():
    logits = torch.tensor([[0.0, 0.1], [0.0, 5.0]])
    labels = torch.tensor([[0.9, 0.1], [0.9, 0.1]])
    grad = gradient(lambda z: soft_xent(z, window(z.detach(), labels, 0.5)), logits)
    plain = gradient(lambda z: soft_xent(z, labels), logits)
    assert torch.allclose(grad[0], plain[0]) and grad[1].abs().max() < 1e-6 < plain[1].abs().max()


def test_the_entropy_target_has_the_gradient_of_the_entropy():
    """against autograd on (1 - a) CE + a H, written out"""
    logits, labels = batch()

    def by_hand(z):
        probs = z.softmax(-1)
        return 0.5 * soft_xent(z, labels) - 0.5 * (probs * probs.log()).sum(-1)
    by_target = gradient(lambda z: soft_xent(z, entropy(z.detach(), labels, 0.9)), logits)
    assert torch.allclose(by_target, gradient(by_hand, logits), atol=1e-6)


# --------------------------------------------------------------------------- label cleaning

def as_soft_labels(p):
    return np.stack([1 - np.asarray(p), p], 1).astype(np.float32)


def planted(n=400, noise=0.3, seed=0):
    """n questions of one row each; class = sign of the first of 8 features; a label errs with probability `noise`."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, n)
    x = rng.normal(size=(n, 8)) + 2.5 * np.eye(8)[0] * (2 * truth - 1)[:, None]
    labels = np.where(rng.random(n) < noise, 1 - truth, truth)
    return x, as_soft_labels(np.where(labels == 1, 0.9, 0.1)), truth, np.arange(n).astype(str)


def agreement(prediction, soft_labels):
    return ((prediction > 0.5) == (soft_labels[:, 1] > 0.5)).mean()


def test_pitfall_34_one_nearest_neighbour_on_random_labels_agrees_half_of_the_time():
    x, _, _, groups = planted()
    labels = as_soft_labels(np.random.default_rng(1).integers(0, 2, 400).astype(float))
    assert 0.4 < agreement(knn_prediction(x, labels, groups, k=1), labels) < 0.6
    assert 0.4 < agreement(logistic_prediction(x, labels, groups), labels) < 0.6


def test_pitfall_34_a_twin_of_the_same_question_has_no_vote_either():
    x, _, _, groups = planted()
    twice = np.repeat(x, 2, 0)
    labels = as_soft_labels(np.repeat(np.random.default_rng(1).integers(0, 2, 400), 2).astype(float))
    for predict_from_others in (lambda *a: knn_prediction(*a, k=1), logistic_prediction):
        assert 0.4 < agreement(predict_from_others(twice, labels, np.repeat(groups, 2)), labels) < 0.6


def test_knn_by_hand():
    x = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    prediction = knn_prediction(x, as_soft_labels([0.9, 0.8, 0.1, 0.3]), list("abcd"), k=1)
    assert prediction.tolist() == pytest.approx([0.8, 0.9, 0.3, 0.1])


def test_pitfall_34_with_few_rows_the_own_label_has_no_vote():
    labels = as_soft_labels([1.0, 0.0, 0.0, 0.0])
    x = np.array([[1, 0], [1, 0.1], [1, 0.3], [1, 0.6]])   # a tenth of the rows, at least one: 1, 0, 1, 2 are nearest
    assert knn_prediction(x, labels, list("abcd")).tolist() == [0, 1, 0, 0]
    assert knn_prediction(x, labels, ["a"] * 4).tolist() == [0.5] * 4          # nobody else to ask
    angle = 0.05 * 1.1 ** np.arange(20)
    x = np.stack([np.cos(angle), np.sin(angle)], 1)
    twenty = knn_prediction(x, as_soft_labels(np.arange(20.0) % 2), np.arange(20).astype(str))
    assert twenty[:4].tolist() == [0.5, 0, 1, 0]           # two neighbours: 1 and 2, 0 and 2, 1 and 3, 2 and 4


def test_of_a_small_class_one_row_is_kept_and_bought_labels_always_are(monkeypatch):
    soft = as_soft_labels([0.9, 0.8, 0.2, 0.1])
    assert keep_least_doubtful(soft, np.zeros(4), 0.01).tolist() == [True, False, True, False]
    rows = [{"id": str(k), "group": str(k)} for k in range(4)]
    model = SimpleNamespace(config=SimpleNamespace(num_labels=2))
    args = SimpleNamespace(clean="confident", keep=0.5)
    for bought, kept in ((set(), [0, 3]), ({"1"}, [1, 3])):
        ids, labels = train_strong.clean_labels(model, None, rows, [[0], [1], [2], [3]], soft, bought, args, "cpu")
        assert ids == [[k] for k in kept] and np.array_equal(labels, soft[kept])


def test_a_tie_is_no_verdict_to_agree_with():
    labels = np.array([0.5, 0.5, 1.0, np.nan])
    assert train_strong.agreement(np.array([0.9, 0.1, 0.9, 0.9]), labels) == 1.0
    assert train_strong.agreement(np.array([0.1, 0.1, 0.1, 0.9]), labels) == 0.0
    assert train_strong.agreement(np.array([0.9, 0.1, 0.9, 0.9]), labels * 0 + 0.5) is None


def test_rows_of_one_question_say_nothing_of_each_other():
    """Fault: a traceback, since no other question is left to learn from."""
    for predict_from_others in (knn_prediction, logistic_prediction):
        assert predict_from_others(np.eye(2), np.array([[0.1, 0.9], [0.8, 0.2]]), ["a", "a"]).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("predict_from_others", [knn_prediction, logistic_prediction])
def test_filters_find_planted_wrong_labels(predict_from_others):
    x, soft, truth, groups = planted()
    is_correct = (soft[:, 1] > 0.5) == truth
    keep = keep_least_doubtful(soft, np.abs(soft[:, 1] - predict_from_others(x, soft, groups)), 0.5)
    assert keep.mean() == pytest.approx(0.5, abs=0.01) and is_correct[keep].mean() > 0.9 > is_correct.mean()


def test_both_classes_stay_in_their_proportion():
    soft = as_soft_labels(np.array([0.9] * 30 + [0.2] * 10))
    for doubt in (-soft.max(1), np.zeros(40)):
        keep = keep_least_doubtful(soft, doubt, 0.5)
        assert keep[:30].sum() == 15 and keep[30:].sum() == 5


@pytest.mark.parametrize("bias", [True, False])
def test_logistic_regression_is_the_one_torch_finds(bias):
    rng = np.random.default_rng(0)
    x, p, l2 = rng.normal(size=(200, 5)), rng.random(200), 1e-2
    w = torch.zeros(5 + bias, dtype=torch.float64, requires_grad=True)
    xs = torch.tensor(np.concatenate([x, np.ones((200, 1))], 1) if bias else x)
    optimizer = torch.optim.LBFGS([w], max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-14)

    def closure():
        optimizer.zero_grad()
        cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(xs @ w, torch.tensor(p))
        loss = cross_entropy + l2 / 2 * (w[:5] ** 2).sum()
        loss.backward()
        return loss
    optimizer.step(closure)
    assert np.abs(logistic(x, p, l2, bias) - w.detach().numpy()).max() < 1e-5


def test_logistic_regression_survives_labels_that_a_line_separates():
    x = np.linspace(-1, 1, 20)[:, None] * np.ones((1, 3))
    w = logistic(x, (x[:, 0] > 0).astype(float), 1e-4)
    assert np.isfinite(w).all() and ((x @ w[:-1] + w[-1] > 0) == (x[:, 0] > 0)).all()


def test_which_true_labels_are_bought():
    soft = as_soft_labels([0.9, 0.52, 0.2, 0.45, 0.9])
    assert select_rows_to_label(soft, 2, "uncertain").tolist() == [1, 3]
    assert select_rows_to_label(soft, 2, "disagree", np.array([0.1, 0.5, 0.2, 0.4, 0.3])).tolist() == [0, 4]
    assert select_rows_to_label(soft, 99, "random").tolist() == [0, 1, 2, 3, 4]      # never more than there are
    first, again = (select_rows_to_label(soft, 3, "random", seed=1).tolist() for _ in range(2))
    assert first == again


# --------------------------------------------------------------------------- the probe, and generative fine-tuning

@pytest.fixture
def tiny():
    return load_classifier("tiny-1a", "lm", [" no", " yes"], "cpu")


ARGS = SimpleNamespace(seed=0, lr=1e-3, batch_size=8, micro_batch_size=None, epochs=1, dtype="fp32", generative_steps=6,
                       head="lm", trust_remote_code=False)


def test_features_are_what_the_last_layer_reads(tiny):
    model, tokenizer, _ = tiny
    ids = [[5, 6, 7], [8, 9], [1, 2, 3, 4, 5]]
    features = compute_features(model, tokenizer, ids, ARGS, "cpu")
    with torch.no_grad():
        logits = last_layer(model)(torch.tensor(features))
    assert np.abs(logits.softmax(-1).numpy() - predict(model, tokenizer, ids, "cpu")).max() < 1e-6
    assert not last_layer(model)._forward_pre_hooks


def test_the_probe_is_the_logistic_regression_and_moves_nothing_but_the_last_layer(tiny):
    model, tokenizer, _ = tiny
    rng = np.random.default_rng(0)
    ids = [rng.integers(1, 2000, 6).tolist() for _ in range(60)]
    body = {k: v.clone() for k, v in model.base_model.state_dict().items()}
    x = compute_features(model, tokenizer, ids, ARGS, "cpu")
    p = 1 / (1 + np.exp(-x @ rng.normal(size=x.shape[1]) / 10))                # labels that a line can explain
    soft = as_soft_labels(p)
    fit_probe(model, tokenizer, ids, soft, ids, soft, ARGS, "cpu")
    w = logistic(x, soft[:, 1], 1e-4, bias=False)                              # valid = train: the weakest penalty wins
    assert np.abs(predict(model, tokenizer, ids, "cpu")[:, 1] - 1 / (1 + np.exp(-x @ w))).max() < 1e-4
    assert all(torch.equal(v, body[k]) for k, v in model.base_model.state_dict().items())


def test_generative_fine_tuning_lowers_the_loss_of_the_texts_and_the_classifier_gets_body_and_head(tiny, capsys):
    model, tokenizer, _ = tiny
    rows = [{"id": str(k), "text": f"Q: What is the block of the element number {k}? A: d-block"} for k in range(40)]
    pretrain_on_texts(model, "tiny-1a", rows, [" no", " yes"], ARGS, "cpu")
    before, after = (float(word) for word in capsys.readouterr().out.split(": ")[1].split(" nats")[0].split(" -> "))
    assert after < before - 0.1
    untouched = open_language_model("tiny-1a", "cpu")[0]
    assert not torch.equal(untouched.base_model.wte.weight, model.base_model.wte.weight)
    assert not torch.equal(load_classifier("tiny-1a", "lm", [" no", " yes"], "cpu")[0].score.weight, model.score.weight)


# --------------------------------------------------------------------------- the stage in a house of its own

SMALL = ["--task", "small", "--epochs", "1", "--batch-size", "8", "--model", "tiny-1a"]


@pytest.fixture
def house(tmp_path):
    """The stage, the pages that its header names, and a task of 48 short rows with a made-up supervisor `weak`."""
    needed = next(line for line in train_strong.__doc__.splitlines() if line.startswith("Needs"))
    for folder in ("data/tinyworld", "data/small/truth", "data/small/seed0/weak"):
        os.makedirs(tmp_path / folder)
    for name in ["train_strong.py", *needed.removeprefix("Needs").replace(",", " ").split()]:
        shutil.copy(os.path.join(ROOT, name), tmp_path / name)
    os.symlink(os.path.join(ROOT, "data", "tinyworld", "models"), tmp_path / "data" / "tinyworld" / "models")
    rng = np.random.default_rng(0)
    truth = []
    weak = []
    for split in ("train1", "train2", "valid", "test"):
        rows = []
        for k in range(12):
            text = f"Q: Is {k // 2} even? A: {('yes', 'no')[k % 2]}"
            row = {"id": f"{split}-{k}", "group": f"{split}-{k // 2}", "text": text}
            label = int((k // 2 % 2 == 0) == (k % 2 == 0))
            p_yes = 0.8 if label == (rng.random() < 0.8) else 0.2
            truth.append({"id": row["id"], "soft_label": [1 - label, label]})
            weak.append({"id": row["id"], "soft_label": [1 - p_yes, p_yes]})
            rows.append({**row, "label": label} if split in ("train1", "test") else row)
        write_lines(tmp_path / "data" / "small" / f"{split}.jsonl", rows)
    (tmp_path / "data" / "small" / "task.json").write_text('{"label_words": [" no", " yes"]}')
    write_lines(tmp_path / "data" / "small" / "truth" / "labels.jsonl", truth)
    write_lines(tmp_path / "data" / "small" / "seed0" / "weak" / "labels.jsonl", weak)
    return tmp_path


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def must(house, script, *flags):
    done = warm.run(house, script, *SMALL, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def config_of(house, run):
    return json.loads((house / "data" / "small" / "seed0" / run / "results.json").read_text())["config"]


def test_a_forked_stage_under_another_name_makes_a_ceiling_and_students_accept_it(house):
    shutil.copy(house / "train_strong.py", house / "my_loss.py")
    must(house, "my_loss.py", "--labels", "truth", "--out", "my-ceiling")
    printed = must(house, "train_strong.py", "--labels", "weak", "--ceiling", "my-ceiling")
    assert "| ceiling 0." in printed and "no --ceiling" not in printed
    assert config_of(house, "my-ceiling")["role"] == "ceiling" and config_of(house, "student")["role"] == "student"
    must(house, "my_loss.py", "--labels", "weak", "--ceiling", "my-ceiling", "--out", "my-student", "--loss", "logconf")
    done = warm.run(house, "my_loss.py", *SMALL, "--labels", "weak", "--ceiling", "student", "--out", "another")
    assert done.returncode == 2 and "it is no ceiling" in done.stderr           # a student is none, whoever made it


def test_other_label_words_repeat_the_runs_whose_head_starts_from_them(house):
    command = ["train_strong.py", "--labels", "weak"]
    random = [*command, "--head", "random", "--out", "random"]
    must(house, *command)
    must(house, *random)
    (house / "data" / "small" / "task.json").write_text('{"label_words": [" false", " true"]}')
    assert "already done" in must(house, *random)
    assert "words of the task (none) -> [' false', ' true']" in must(house, *command)
    assert config_of(house, "student")["words of the task"] == [" false", " true"]


def test_an_edited_loss_repeats_the_run_and_an_edited_docstring_does_not(house):
    command = ["train_strong.py", "--labels", "weak", "--loss", "logconf"]
    must(house, *command)
    assert "already done" in must(house, *command)
    stage = house / "train_strong.py"
    whole = stage.read_text()
    loss = inspect.getsource(logconf)

    stage.write_text(whole.replace(loss, loss.replace('"""The confidence', '"""With other words: the confidence')))
    assert stage.read_text() != whole and "already done" in must(house, *command)

    edited = loss.replace("confidence_weight(progress)", "confidence_weight(progress, 0.75)")
    stage.write_text(whole.replace(loss, edited))
    assert stage.read_text() != whole
    printed = must(house, *command)
    assert "code changed: this script)" in printed and "already done" not in printed
    assert "already done" in must(house, *command)


def test_the_truth_makes_the_same_ceiling_by_its_name_and_by_its_path(house):
    must(house, "train_strong.py", "--labels", "truth", "--out", "ceiling")
    for labels in ("truth/", "data/small/truth", str(house / "data" / "small" / "truth") + "/"):
        assert "already done" in must(house, "train_strong.py", "--labels", labels, "--out", "ceiling"), labels
    assert config_of(house, "ceiling")["labels"] == "truth"


def test_the_supervisor_by_default_and_by_its_name_is_the_same_run(house):
    """run.sh names it, the README's commands do not: neither trains again what the other has made."""
    must(house, "train_strong.py", "--labels", "truth", "--out", "ceiling")
    assert config_of(house, "ceiling")["supervisor"] == ""                     # a ceiling has none
    student = ["train_strong.py", "--labels", "weak", "--ceiling", "ceiling"]
    named = [*student, "--supervisor", "weak"]
    must(house, *named)
    assert config_of(house, "student")["supervisor"] == "weak"
    for command in (student, named, [*student, "--supervisor", "weak/"]):
        assert "already done" in must(house, *command), command

    shutil.copytree(house / "data" / "small" / "seed0" / "weak", house / "data" / "small" / "seed0" / "other")
    assert "supervisor weak -> other" in must(house, *student, "--supervisor", "other")
    assert "supervisor other -> weak" in must(house, *student)


def test_the_last_of_a_chain_is_the_model_of_the_run(house):
    flags = [flag for flag in SMALL if flag not in ("--model", "tiny-1a")]
    done = warm.run(house, "train_strong.py", *flags, "--labels", "weak", "--chain", "tiny-1a,tiny-1b")
    assert done.returncode == 0 and "student 2 of 2: tiny-1b" in done.stdout
    config = config_of(house, "student")
    assert config["model"] == "tiny-1b" and config["chain"] == "tiny-1a,tiny-1b"
    assert {os.path.basename(path) for path in config["inputs"] if "models" in path} == {"tiny-1a", "tiny-1b"}


def test_checking_the_flags_leaves_them_as_they_were_typed(house, monkeypatch):
    monkeypatch.setattr("contract.ROOT", str(house))
    monkeypatch.setattr("train_strong.ROOT", str(house))
    args = train_strong.build_parser().parse_args(
        ["--task", "small", "--labels", str(house / "data" / "small" / "truth"), "--model", "tiny-1b"])
    typed = dict(vars(args))
    plan = train_strong.check_args(args)
    assert vars(args) == typed
    with_slash = train_strong.build_parser().parse_args(["--labels", "weak/", "--ceiling", "ceiling/"])
    assert (with_slash.labels, with_slash.ceiling) == ("weak", "ceiling")      # as a shell completes them
    assert plan.models == ["tiny-1b"] and plan.supervisor_folder is None
    assert {key: plan.identity[key] for key in ("role", "labels", "model")} == {
        "role": "ceiling", "labels": "truth", "model": "tiny-1b"}


# --------------------------------------------------------------------------- controls


def test_dealt_labels_are_the_same_labels_and_errors_without_a_pattern():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 400)
    systematic = np.where(np.arange(400) < 120, 1 - truth, truth)              # all errors are on the first 120 rows
    p_yes = np.where(systematic == 1, 0.9, 0.1) + rng.uniform(-0.1, 0.1, 400)
    labels = np.stack([1 - p_yes, p_yes], axis=1)
    dealt = train_strong.deal_labels(labels, truth, seed=0)
    for side in (0, 1):
        assert sorted(dealt[truth == side, 1]) == sorted(labels[truth == side, 1])         # as many errors, as sure
    wrong = (dealt[:, 1] > 0.5) != (truth == 1)
    assert wrong.sum() == 120 and 20 < wrong[:120].sum() < 52                  # by chance 36 of them
    assert not np.array_equal(dealt, train_strong.deal_labels(labels, truth, seed=1))


def test_the_controls_are_students_of_their_own(house, monkeypatch):
    def labels_of(run):
        lines = (house / "data" / "small" / "seed0" / run / "labels.jsonl").read_text().splitlines()
        return {row["id"]: row["soft_label"][1] for row in map(json.loads, lines)}

    student = ["train_strong.py", "--labels", "weak", "--dtype", "fp32"]
    printed = must(house, *student, "--control", "untrained", "--out", "untrained")
    model, tokenizer, _ = load_classifier("tiny-1a", "lm", [" no", " yes"], "cpu")
    rows = [json.loads(line) for line in (house / "data" / "small" / "test.jsonl").read_text().splitlines()]
    expected = predict(model, tokenizer, [tokenizer(row["text"])["input_ids"] for row in rows], "cpu")[:, 1]
    found = labels_of("untrained")
    assert [found[row["id"]] for row in rows] == pytest.approx(expected.tolist(), abs=1e-5)
    assert "fine-tuning" not in printed and "agrees on valid with (labels" not in printed

    must(house, *student, "--control", "untrained", "--truth-budget", "8", "--pick", "random", "--out", "calibrated")
    calibrated = labels_of("calibrated")
    order = sorted(found, key=found.get)
    slopes = np.diff([calibrated[name] for name in order])
    assert (slopes >= 0).all() or (slopes <= 0).all()                          # a monotone function of the old ones
    truth_ids = json.loads((house / "data/small/seed0/calibrated/results.json").read_text())["truth_ids"]
    assert len(truth_ids) == 8 and set(truth_ids) < set(found)

    must(house, *student, "--out", "naive")
    must(house, *student, "--control", "dealt", "--out", "dealt")
    assert labels_of("dealt") != labels_of("naive")
    for flags, words in ((["--probe", "only", "--loss", "window"], "leave out --loss"),
                         (["--probe", "only", "--early-stop"], "leave out --loss"),
                         (["--control", "untrained", "--truth-budget", "8"], "--pick random"),
                         (["--control", "untrained", "--probe", "only"], "trains nothing"),
                         (["--control", "dealt", "--labels", "truth"], "are for students"),
                         (["--keep", "0.3"], "--keep belongs to --clean"),
                         (["--pick", "random"], "--pick to --truth-budget"),
                         (["--early-stop", "--oracle-stop"], "give one"),
                         (["--labels", "truth", "--chain", "tiny-1a,tiny-1a"], "leave out --truth-budget, and --chain"),
                         (["--labels", "truth", "--truth-budget", "4"], "leave out --truth-budget"),
                         (["--model", "data/small/seed0/naive", "--generative-steps", "1"], "no language model")):
        done = warm.run(house, *student, *SMALL, *flags, "--out", "wrong")
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr
