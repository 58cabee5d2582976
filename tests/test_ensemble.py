"""
Many supervisors: how members differ and how their labels are fused, on cases with known answers; and the real commands
on a few rows.

python -m pytest tests/test_ensemble.py          # half a minute, CPU, no network
"""
import contextlib
import copy
import doctest
import glob
import io
import itertools
import json
import os
import re
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import contract
import ensemble
import models
import train_strong
import train_weak
import warm
from conftest import ROOT
from ensemble import (
    adaboost, apply_temperature, bag_counts, bma_weights, choose_size, combine, dawid_skene, disagreement, gradient,
    gradient_released, learn_recipe, line_search, log_odds, loglik_weights, member_targets, posterior, temperature)
from metrics import sigmoid
from test_commands import build_house, must

STAGES = {"ensemble.py": ensemble, "train_strong.py": train_strong}


def soft(p_yes):
    """(...) p(yes) -> (..., 2)"""
    p_yes = np.asarray(p_yes, float)
    return np.stack([1 - p_yes, p_yes], -1)


def test_the_examples_in_the_docstrings():
    result = doctest.testmod(ensemble)
    assert result.attempted > 15 and not result.failed


# --------------------------------------------------------------------------- fusion

def test_the_majority_of_three_independent_members_of_70_percent_is_right_on_78_4_percent_of_the_rows():
    """Exactly: all eight ways to be right and wrong, each with its probability."""
    ways = np.array(list(itertools.product([0, 1], repeat=3))).T               # (3, 8); the truth is yes
    chance = np.prod(np.where(ways == 1, 0.7, 0.3), axis=0)
    p = combine(soft(0.2 + 0.6 * ways), {"combine": "vote", "weights": [1 / 3] * 3})
    assert chance @ (p[:, 1] > 0.5) == pytest.approx(0.784)


def test_a_tied_vote_is_a_half_and_a_tied_member_votes_a_half():
    recipe = {"combine": "vote", "weights": [0.5, 0.5]}
    assert combine(soft([[0.9], [0.1]]), recipe)[0, 1] == 0.5
    assert combine(soft([[0.9], [0.5]]), recipe)[0, 1] == 0.75


def test_members_1_equals_the_single_member_whatever_the_fusion():
    rng = np.random.default_rng(0)
    p = soft(rng.uniform(size=(1, 40)))
    truth = rng.integers(0, 2, 40)
    oob_mask = np.ones((1, 40), bool)
    votes = p[..., 1] > 0.5
    for fusion in ("mean", "loglik", "bma"):
        assert np.allclose(combine(p, learn_recipe(fusion, p, truth, oob_mask, votes)), p[0])
    for fusion in ("vote", "dawid-skene"):
        fused = combine(p, learn_recipe(fusion, p, truth, oob_mask, votes))
        assert ((fused[:, 1] > 0.5) == votes[0]).all()


def test_a_member_does_not_label_rows_that_it_was_trained_on():
    p = soft([[0.9, 0.9, 0.9], [0.2, 0.2, 0.2]])
    oob_mask = np.array([[1, 0, 0], [1, 1, 0]], bool)
    fused = combine(p, {"combine": "mean", "weights": [0.5, 0.5]}, oob_mask)
    assert fused[:2, 1] == pytest.approx([0.55, 0.2]) and np.isnan(fused[2]).all()


def test_dawid_skene_recovers_planted_accuracies_from_2000_rows_without_truth():
    planted = np.array([0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9])
    errors = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        truth = rng.integers(0, 2, 2000)
        votes = np.where(rng.uniform(size=(7, 2000)) < planted[:, None], truth, 1 - truth)
        share_yes, sensitivity, specificity = dawid_skene(votes)
        errors.append(share_yes * sensitivity + (1 - share_yes) * specificity - (votes == truth).mean(1))
        weighed = posterior(votes, share_yes, sensitivity, specificity)
        counted = votes.mean(0)
        assert ((weighed > 0.5) == truth).mean() > ((counted > 0.5) == truth).mean()       # good voters weigh more
        assert abs(share_yes - truth.mean()) < 0.02
    assert np.abs(errors).max() < 0.03 and np.abs(errors).mean() < 0.01 and np.abs(errors[0]).max() < 0.02


def test_dawid_skene_takes_errors_that_voters_share_for_knowledge():
    """Three copies of a 60 % voter outvote two independent ones of 85 %: the documented weakness, shown."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 2000)
    copied = np.where(rng.uniform(size=(1, 2000)) < 0.6, truth, 1 - truth)
    good = np.where(rng.uniform(size=(2, 2000)) < 0.85, truth, 1 - truth)
    share_yes, sensitivity, specificity = dawid_skene(np.concatenate([copied] * 3 + [good]))
    assert (share_yes * sensitivity + (1 - share_yes) * specificity)[0] > 0.9


def planted_annotators(n=400):
    """Five annotators with known errors, the last one inverted; each labels a part of the rows."""
    rng = np.random.default_rng(0)
    truth = (rng.random(n) < 0.4).astype(int)
    sensitivity = np.array([0.9, 0.8, 0.7, 0.6, 0.3])
    specificity = np.array([0.85, 0.6, 0.9, 0.6, 0.35])
    votes = rng.random((5, n)) < np.where(truth == 1, sensitivity[:, None], 1 - specificity[:, None])
    mask = rng.random((5, n)) < np.array([0.9, 0.7, 0.5, 0.8, 0.4])[:, None]
    return truth, np.where(mask, votes, 0.5), mask, sensitivity, specificity


def test_dawid_skene_with_gaps_against_crowd_kit():
    """
    Values of crowd-kit 1.4.2, DawidSkene(n_iter=500, tol=0), on the same votes. It does not start its counts from 1;
    with each row a hundred times that is next to nothing.
    """
    truth, votes, mask, planted_sensitivity, planted_specificity = planted_annotators()
    share_yes, sensitivity, specificity = dawid_skene(np.tile(votes, 100), np.tile(mask, 100))
    assert share_yes == pytest.approx(0.3659, abs=1e-3)
    assert sensitivity == pytest.approx([0.8745, 0.8684, 0.7797, 0.6296, 0.1385], abs=1e-3)
    assert specificity == pytest.approx([0.8640, 0.6560, 0.8455, 0.5490, 0.2805], abs=1e-3)
    p = posterior(votes, share_yes, sensitivity, specificity, mask)
    assert p[:8] == pytest.approx([0.0112, 0.1250, 0.9289, 0.6703, 0.0145, 0.5929, 0.1026, 0.0220], abs=2e-3)
    assert p.sum() == pytest.approx(146.354, abs=0.3)
    share_yes, sensitivity, specificity = dawid_skene(votes, mask)             # each row once: near what was planted
    assert np.abs(sensitivity - planted_sensitivity).max() < 0.14
    assert np.abs(specificity - planted_specificity).max() < 0.08


def test_a_row_that_nobody_labels_changes_nothing():
    _, votes, mask, _, _ = planted_annotators(100)
    more = [np.concatenate([x, np.full((5, 50), fill)], 1) for x, fill in ((votes, 0.5), (mask, False))]
    for before, after in zip(dawid_skene(votes, mask), dawid_skene(*more)):
        assert before == pytest.approx(after)
    p = combine(soft(more[0]), {"combine": "mean", "weights": [1] * 5}, more[1])
    assert np.isnan(p[100:]).all() and np.isfinite(p[:100][mask.any(0)]).all()


def test_bayes_counts_errors_on_known_rows():
    """Member 0 is right on 3 of 3 yes rows and 2 of 3 no rows; member 1 has labelled one row of each class."""
    probs = soft([[0.9, 0.8, 0.7, 0.6, 0.1, 0.2], [0.9, 0.5, 0.5, 0.5, 0.5, 0.2]])
    has_label = np.array([[1] * 6, [1, 0, 0, 0, 0, 1]], bool)
    recipe = learn_recipe("bayes", probs, np.array([1, 1, 1, 0, 0, 0]), has_label, None)
    assert recipe["sensitivity"] == pytest.approx([4 / 5, 2 / 3]) and recipe["share_yes"] == 0.5
    assert recipe["specificity"] == pytest.approx([3 / 5, 2 / 3])
    fused = combine(probs[:, :1], recipe, np.array([[1], [0]]))
    assert fused[0, 1] == pytest.approx(0.8 / (0.8 + 0.4))                     # one yes of a member with these errors


def test_disagreement_is_that_of_the_members_that_labelled_a_row():
    p = soft([[0.9, 0.9], [0.1, 0.1], [0.2, 0.2]])
    mask = np.array([[1, 1], [0, 1], [1, 1]])
    assert disagreement(p, mask) == pytest.approx([disagreement(p[[0, 2], :1])[0], disagreement(p[:, 1:])[0]])


def test_temperature_recovers_a_planted_one_and_applying_it_undoes_it():
    rng = np.random.default_rng(0)
    z = rng.normal(0, 2, 20000)
    truth = rng.uniform(size=20000) < sigmoid(z)                               # z is calibrated
    for planted in (0.5, 1.0, 3.0):
        probs = soft(sigmoid(z / planted))
        t = temperature(probs, truth)
        assert t == pytest.approx(1 / planted, rel=0.04)
        assert np.abs(apply_temperature(probs[None], [t])[0, :, 1] - sigmoid(z)).max() < 0.02


@pytest.mark.parametrize("percent,calibrated", [(90, 0.9), (65, 0.65), (55, 0.55), (50, 0.5), (30, 0.5)])
def test_labels_of_0_and_1_are_calibrated_to_the_share_that_is_right(percent, calibrated):
    """Fault: temperatures ended at 32, so that people who are right on 30 to 65 % of the rows all got 0.656."""
    truth = np.arange(200) % 2
    said = np.where(np.arange(200) // 2 < percent, truth, 1 - truth)
    probs = soft(said.astype(float))
    confident = apply_temperature(probs[None], [temperature(probs, truth)])[0].max(-1)
    assert confident == pytest.approx(calibrated, abs=1e-3)


@pytest.mark.parametrize("ties", [0, 3])
def test_a_member_without_an_error_is_not_infallible(ties):
    """Faults: right on all rows it was sharpened without end; with a tie among them it still was."""
    probs = soft(np.array([0.9] * 100 + [0.5] * ties))
    confident = apply_temperature(probs[None], [temperature(probs, np.ones(100 + ties, int))])[0].max(-1)
    assert 0.985 < confident[0] < 0.9905 and (confident[100:] == 0.5).all()              # 100 of 101


def test_loglik_weights_are_the_optimum_with_and_without_missing_members():
    rng = np.random.default_rng(0)
    q = rng.uniform(0.1, 0.9, (3, 300))
    everywhere = np.ones((3, 300), bool)
    q[1] = np.clip(q[1] + 0.15, 0, 1)

    def likelihood(w, mask):
        return np.log((w[:, None] * q * mask).sum(0) / (w[:, None] * mask).sum(0)).sum()
    grid = []
    for a in np.linspace(0, 1, 51):
        grid += [(a, b, 1 - a - b) for b in np.linspace(0, 1 - a, 51)]
    grid = np.array(grid).clip(1e-6)
    for mask in (everywhere, rng.uniform(size=(3, 300)) < 0.6):
        mask = mask | ~mask.any(0)
        w = loglik_weights(q, mask, rounds=2000)
        assert w.sum() == pytest.approx(1)
        assert likelihood(w, mask) >= max(likelihood(g, mask) for g in grid) - 1e-3


def test_bma_is_bayes_rule_where_all_members_count():
    q = np.array([[0.9, 0.8, 0.6], [0.5, 0.5, 0.5]])
    w = bma_weights(q, np.ones((2, 3), bool))
    assert w[0] == pytest.approx(0.432 / (0.432 + 0.125))                      # 0.9 * 0.8 * 0.6 against 0.5 ** 3
    many = bma_weights(np.repeat(q, 500, 1), np.ones((2, 1500), bool))
    assert many[0] == pytest.approx(1)                                         # it selects
    halves = np.arange(2000) % 2 == 0                      # rows of different difficulty, equal members: neither wins
    w = bma_weights(np.where(halves, [[0.9], [0.9]], 0.5), np.array([halves, ~halves]))
    assert w == pytest.approx([0.5, 0.5])


def test_disagreement_is_mutual_information():
    rng = np.random.default_rng(0)
    p = soft(rng.uniform(size=(5, 50)))
    joint = p / 5                                          # (member, row, label), members drawn evenly
    both = joint.sum(0, keepdims=True) * joint.sum(2, keepdims=True)           # p(label) p(member)
    assert np.allclose(disagreement(p), (joint * np.log(joint / both)).sum((0, 2)))
    assert disagreement(np.repeat(p[:1], 5, 0)) == pytest.approx(np.zeros(50), abs=1e-12)


# --------------------------------------------------------------------------- boosting

def test_adaboost_on_four_points_by_hand():
    # round 1: point 0 wrong, e = 1/4, ln 3; weights 1/2, 1/6, 1/6, 1/6
    # round 2: point 1 wrong, e = 1/6, ln 5; weights .3, .5, .1, .1
    # round 3: points 2 and 3 wrong, e = 1/5, ln 4
    wrong = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]])
    alphas, errors, weights = adaboost(wrong)
    assert np.exp(alphas) == pytest.approx([3, 5, 4]) and errors == pytest.approx([1 / 4, 1 / 6, 1 / 5])
    assert weights == pytest.approx([0.3 / 1.6, 0.5 / 1.6, 0.25, 0.25])
    # together right on all four: each mistake (ln 3; ln 5; ln 4) is outvoted by the other two
    truth = np.array([1, 0, 1, 0])
    votes = np.where(wrong, 1 - truth, truth)
    assert ((combine(soft(votes), {"combine": "adaboost", "weights": alphas})[:, 1] > 0.5) == truth).all()


def test_samme_is_the_vote_and_the_default_mixes_probabilities():
    """Weights ln 3, ln 5, ln 4: the first two outvote the third, however sure it is."""
    recipe = {"weights": np.log([3, 5, 4]).tolist()}
    probs = soft([[0.6], [0.6], [0.01]])
    assert combine(probs, recipe | {"combine": "samme"})[0, 1] == pytest.approx(np.log(15) / np.log(60))
    assert combine(probs, recipe | {"combine": "adaboost"})[0, 1] < 0.5


@pytest.mark.parametrize("n", [7, 96, 1000])
def test_pitfall_27_under_the_new_weights_the_last_member_is_right_half_of_the_time(n):
    rng = np.random.default_rng(n)
    wrong = np.array([rng.permutation(n) < max(1, n // (3 + m)) for m in range(3)])
    for m in range(1, 4):
        alphas, errors, weights = adaboost(wrong[:m])
        if len(alphas) < m or alphas[-1] == 0:             # worse than a coin under these weights: it has ended
            assert errors[-1] >= 0.5
            break
        assert weights.sum() == pytest.approx(1) and weights[wrong[m - 1]].sum() == pytest.approx(0.5)


def test_adaboost_ends_where_nothing_is_left_and_where_a_member_is_no_better_than_a_coin():
    alphas, errors, weights = adaboost([[0] * 7, [1] + [0] * 6])
    assert errors == [0.0] and np.allclose(weights, 1 / 7)
    assert alphas == pytest.approx([np.log((1 - 1 / 14) / (1 / 14))])
    assert adaboost([[1, 1, 0, 0]])[:2] == ([0.0], [0.5])
    twice = adaboost([[1, 0, 0, 0], [1, 0, 0, 0]])[0]      # the same mistake again: it has half of all weight by now
    assert twice == pytest.approx([np.log(3), 0])
    assert adaboost(np.empty((0, 7)))[2] == pytest.approx([1 / 7] * 7)


def test_adaboost_against_scikit_learn():
    sklearn = pytest.importorskip("sklearn.ensemble")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    y = (x.sum(1) + rng.normal(size=200) > 0).astype(int)
    model = sklearn.AdaBoostClassifier(n_estimators=8).fit(x, y)
    alphas, errors, _ = adaboost([m.predict(x) != y for m in model.estimators_])
    assert alphas == pytest.approx(model.estimator_weights_) and errors == pytest.approx(model.estimator_errors_)


def test_line_search_finds_the_least_logistic_loss():
    rng = np.random.default_rng(0)
    f, h = rng.normal(size=(2, 50))
    y = rng.integers(0, 2, 50)

    def loss(s):
        return np.log1p(np.exp(-(2 * y - 1) * (f + s * h))).sum()
    h = h if loss(0.01) < loss(0) else -h                  # downhill
    s = line_search(f, h, y)
    assert 0 < s < 32 and loss(s) < loss(0) and loss(s) <= min(loss(t) for t in np.linspace(0, 32, 3201)) + 1e-6
    assert line_search(f, -h, y) == pytest.approx(0, abs=1e-9)                 # uphill: stay
    assert line_search(0, [1.0, 1.0], [1, 1]) == pytest.approx(32)             # all right: as far as allowed


def test_gradient_boosting_lowers_the_logistic_loss_step_by_step():
    """Members are the best step function on one of three features: fitted by least squares to the residuals."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3))
    y = (x.sum(1) > 0).astype(int)
    h = np.empty((0, 400))
    losses = []
    for k in range(6):
        steps, residuals = gradient(h, y, np.ones(400, bool))
        f = np.tensordot(np.array(steps), h, 1) if k else np.zeros(400)
        assert residuals == pytest.approx(y - 1 / (1 + np.exp(-f)))
        losses.append(np.log1p(np.exp(-(2 * y - 1) * f)).mean())
        side = x[:, k % 3] > 0
        h = np.vstack([h, np.where(side, residuals[side].mean(), residuals[~side].mean())])
    assert losses[0] == pytest.approx(np.log(2)) and losses[-1] < 0.45
    assert all(after < before for before, after in zip(losses, losses[1:]))


def test_the_released_variant_by_hand():
    y = np.array([1, 0])
    h = np.array([[1.0, 0.5], [0.5, 0.0]])
    assert gradient_released(h[:0], y) == pytest.approx([1, 0])                # first y itself
    assert gradient_released(h[:1], y) == pytest.approx([2 * (1 - 0.2), -2 * 0.1])                   # f = 0.2 h_0
    # f = (0.2 + 0.1) / 2, (0.1 + 0) / 2
    assert gradient_released(h, y) == pytest.approx([2 * (1 - 0.15), -2 * 0.05])
    p = soft(sigmoid(4 * (h - 0.5)))
    recipe = learn_recipe("gradient-released", p, y, np.ones((2, 2), bool), None)
    assert recipe == {"combine": "gradient-released", "steps": [0.5, 0.5]}
    assert combine(p, recipe)[:, 1] == pytest.approx([0.75, 0.25])             # the mean of h


# --------------------------------------------------------------------------- members

def test_pitfall_26_bags_differ_and_hold_63_percent_of_the_questions():
    groups = [f"q{i // 2}" for i in range(2000)]           # two rows a question
    bags = np.array([bag_counts(groups, np.random.default_rng([0, k])) for k in range(20)])          # (20, 2000)
    assert (bags.sum(1) == 2000).all()
    assert (bags[:, 0::2] == bags[:, 1::2]).all()          # a question is in the bag with all its rows
    assert (bags > 0).mean() == pytest.approx(1 - 1 / np.e, abs=0.01) and len(set(map(bytes, bags))) == 20
    both = np.mean([((a > 0) & (b > 0)).mean() for a, b in itertools.combinations(bags, 2)])
    assert both == pytest.approx((1 - 1 / np.e) ** 2, abs=0.01)                # independent draws


def test_weighing_a_row_is_the_same_loss_as_repeating_it(monkeypatch):
    rng = np.random.default_rng(0)
    counts = bag_counts(list(range(30)), rng)
    truth = rng.integers(0, 2, 30)
    targets = member_targets("bagging", np.empty((0, 30, 2)), truth, counts)
    logits = torch.randn(30, 2, dtype=torch.float64)
    monkeypatch.setattr(ensemble, "classify", lambda model, batch: logits)
    drawn = torch.tensor(np.repeat(np.arange(30), counts))
    batch = {name: torch.tensor(values) for name, values in targets.items()}
    once = ensemble.member_loss(None, batch)[torch.tensor(counts > 0)].mean()
    repeated = torch.nn.functional.cross_entropy(logits[drawn], torch.tensor(truth)[drawn])
    assert once.item() == pytest.approx(repeated.item(), rel=1e-6)


def test_all_members_are_used_unless_fewer_are_clearly_better():
    groups = np.arange(400)
    noise = np.random.default_rng(0).normal(0, 0.1, (3, 400))
    assert choose_size(np.zeros((4, 400)), groups) == 4
    assert choose_size(0.2 + np.array([[0.0], [0.0], [0.1]]) + noise, groups) == 2
    assert choose_size(np.array([[0.2] * 400]), groups) == 1


@pytest.fixture(scope="module")
def tiny():
    model, tokenizer, _ = models.load_classifier("tiny-1a", "lm", [" no", " yes"], "cpu")
    return model, tokenizer


def test_a_truncated_member_reads_a_hidden_layer_and_is_an_ordinary_model(tiny, tmp_path):
    import transformers
    model, tokenizer = tiny
    batch = models.pad([[5, 6, 7], [8, 9]], tokenizer, "cpu")
    kept = model.config.num_hidden_layers - 1
    member = copy.deepcopy(model)
    ensemble.truncate_layers(member, 1)
    assert member.config.num_hidden_layers == kept == len(member.transformer.h)
    hidden = []

    def keep_hidden(module, inputs, out):
        hidden.append(out[0] if isinstance(out, tuple) else out)
    hook = model.transformer.h[kept - 1].register_forward_hook(keep_hidden)
    with torch.no_grad():
        models.classify(model, batch)
        hook.remove()
        last = batch["attention_mask"].sum(1) - 1
        expected = model.score(model.transformer.ln_f(hidden[0])[torch.arange(2), last])
        assert torch.allclose(models.classify(member, batch), expected, atol=1e-5)
        member.save_pretrained(tmp_path / "m")
        again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "m")
        again.config.pad_token_id = tokenizer.pad_token_id
        assert torch.allclose(models.classify(again.eval(), batch), expected, atol=1e-5)


def test_hidden_features_that_a_head_does_not_see_stay_unseen_in_training(tiny):
    model, tokenizer = tiny
    member = copy.deepcopy(model)
    ensemble.mask_head(member, np.random.default_rng(3))
    masked = (member.score.weight == 0).all(0)
    before = member.score.weight.detach().clone()
    args = SimpleNamespace(seed=0, lr=1e-3, batch_size=4, epochs=3, micro_batch_size=None, dtype="fp32")
    ids = [[i, i + 1, i + 2] for i in range(8, 24)]
    soft_labels = np.eye(2, dtype=np.float32)[np.arange(16) % 2]
    make_batch = train_weak.batch_maker(ids, tokenizer, "cpu", soft_labels=soft_labels)
    train_weak.fit(member, [3] * 16, make_batch, train_weak.soft_label_loss, args, "cpu")
    assert masked.float().mean() == 0.5 and (member.score.weight[:, masked] == 0).all()
    assert (member.score.weight != before)[:, ~masked].all()


def test_only_the_head_is_masked_and_no_adapter_of_the_same_shape():
    """With --lora 2 there are adapters of shape (2, C), too."""
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.adapter = torch.nn.Parameter(torch.ones(2, 8))
            self.score = torch.nn.Linear(8, 2, bias=False)
    model = Model()
    ensemble.mask_head(model, np.random.default_rng(0))
    (model.adapter.sum() + model.score.weight.sum()).backward()
    assert (model.adapter == 1).all() and (model.adapter.grad == 1).all()
    assert ((model.score.weight == 0) == (model.score.weight.grad == 0)).all()
    assert (model.score.weight == 0).sum() == 8


def test_targets_weigh_and_score_only_rows_that_belong_to_them():
    truth = np.array([1, 0, 1, 0, 1])
    counts = np.array([1, 1, 1, 1, 0])
    p = soft([[0.9, 0.1, 0.9, 0.9, 0.1]])                  # wrong on row 3, and on row 4, which is held out
    targets = member_targets("adaboost", p, truth, counts)
    assert targets["row_weights"] == pytest.approx([4 / 6, 4 / 6, 4 / 6, 4 / 2, 0])
    residuals = member_targets("gradient", p[:0], truth, counts)["residuals"]
    assert residuals == pytest.approx(truth - 0.5)
    held_targets = {"residuals": residuals[counts == 0]}
    assert ensemble.member_score(soft([sigmoid(2.0)]), held_targets) == pytest.approx(0)
    residuals = member_targets("gradient-released", p[:0], truth, counts)["residuals"]
    assert residuals == pytest.approx(truth - 0.5)         # y, as p(yes) = 1/2 + log odds / 4
    assert log_odds(soft([sigmoid(2.0)])) / 4 == pytest.approx(0.5)


# --------------------------------------------------------------------------- the real commands

ENSEMBLE = ["ensemble.py", "--max-rows", "96", "--epochs", "1", "--members", "2"]


def run(house, script, *flags):
    """A stage's main() in this process, as if it lay in that house: a command without the seconds that imports take."""
    module = STAGES[script]
    out = io.StringIO()
    err = io.StringIO()
    code = 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(house)
        for place in (contract, module):
            patch.setattr(place, "ROOT", house)
        try:
            module.main(list(flags))
        except SystemExit as end:
            code = end.code or 0
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def ok(house, *command):
    done = run(house, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    folder = build_house(tmp_path_factory.mktemp("house"))
    ok(folder, *ENSEMBLE)
    return folder


def seed_folder(house):
    return os.path.join(house, "data", "tinyworld", "seed0")


def read_jsonl(*path):
    with open(os.path.join(*path), encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def contents(house):
    """The bytes of the ensemble and of its members, but for the seconds in results.json."""
    found = {}
    for path in sorted(glob.glob(os.path.join(seed_folder(house), "*", "**"), recursive=True)):
        if os.path.isfile(path):
            with open(path, "rb") as f:
                data = f.read()
            if path.endswith("results.json"):
                data = {key: value for key, value in json.loads(data).items() if key != "seconds"}
            found[os.path.relpath(path, house)] = data
    return found


def results(house, name):
    with open(os.path.join(seed_folder(house), name, "results.json"), encoding="utf-8") as f:
        return json.load(f)


def test_the_folder_is_a_supervisors_and_a_student_can_read_it(house):
    labels = read_jsonl(seed_folder(house), "ensemble", "labels.jsonl")
    assert len(labels) == 3 * 96 and all(abs(sum(r["soft_label"]) - 1) < 1e-6 for r in labels)
    assert all(0 <= r["disagreement"] <= np.log(2) for r in labels)
    r = results(house, "ensemble")
    assert {"config", "line", "test", "recipe", "curve", "members", "gains", "members_used", "outputs"} <= set(r)
    assert r["config"]["role"] == "ensemble"
    assert [c["members"] for c in r["curve"]] == [1, 2]
    assert {"accuracy", "auroc", "ece"} == set(r["curve"][0]["test"])
    assert r["curve"][0]["test"]["accuracy"] == pytest.approx(r["members"][0]["test"]["accuracy"])
    flags = ["--max-rows", "96", "--epochs", "1", "--labels", "ensemble", "--out", "student-ensemble"]
    assert "supervisor 0." in ok(house, "train_strong.py", *flags)
    shutil.rmtree(os.path.join(seed_folder(house), "student-ensemble"))


def test_labels_and_disagreement_are_those_of_the_cached_members(house):
    r = results(house, "ensemble")
    home = os.path.join(seed_folder(house), r["members_folder"])
    labels = []
    for name in ("member-0", "member-1"):
        rows = read_jsonl(home, name, "labels.jsonl")
        labels.append({row["id"]: row["soft_label"] for row in rows})
        assert len(rows) == 4 * 96                         # train1 too
    for row in read_jsonl(seed_folder(house), "ensemble", "labels.jsonl"):
        used = np.array([member[row["id"]] for member in labels])[:r["members_used"]]
        assert row["soft_label"] == pytest.approx(used.mean(0), abs=1e-6)
        assert row["disagreement"] == pytest.approx(disagreement(used[:, None])[0], abs=1e-6)


def test_another_fusion_or_size_trains_no_member_again(house):
    before = contents(house)
    assert "already done" in ok(house, *ENSEMBLE)
    for flags in (["--combine", "vote"], ["--combine", "dawid-skene"], ["--combine", "loglik", "--calibrate"],
                  ["--combine", "bma"], ["--members", "1"]):
        assert "trained on" not in ok(house, *ENSEMBLE, *flags, "--out", "other")
        assert results(house, "other")["test"]["n"] == 96
    r = results(house, "other")
    assert r["test"] == r["members"][0]["test"]            # one member is itself
    shutil.rmtree(os.path.join(seed_folder(house), "other"))
    assert contents(house) == before
    printed = ok(house, *ENSEMBLE, "--members", "3", "--out", "other")         # a third joins the two
    assert "member 2: trained on" in printed and "member 1: trained on" not in printed
    r = results(house, "other")
    shutil.rmtree(os.path.join(seed_folder(house), "other"))
    shutil.rmtree(os.path.join(seed_folder(house), r["members_folder"], "member-2"))
    assert contents(house) == before


def test_another_supervisor_to_compare_with_trains_no_member_again(house):
    printed = ok(house, *ENSEMBLE, "--supervisor", "ensemble", "--combine", "vote", "--out", "other")
    r = results(house, "other")
    shutil.rmtree(os.path.join(seed_folder(house), "other"))
    assert "trained on" not in printed and "gain over supervisor ensemble: " in printed
    assert r["config"]["supervisor"] == "ensemble" and "supervisor ensemble" in r["gains"]


@pytest.mark.parametrize("locked", [True, False])
def test_members_are_locked_only_while_there_is_something_to_train(house, locked):
    """Another run may train further members: what is complete can be read meanwhile, and nothing else is written."""
    fcntl = pytest.importorskip("fcntl")
    home = os.path.join(seed_folder(house), results(house, "ensemble")["members_folder"])
    before = contents(house)
    handle = os.open(home, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        flags = ["--members", "3"] if locked else ["--combine", "vote"]
        done = run(house, *ENSEMBLE, *flags, "--out", "other")
    finally:
        os.close(handle)
        shutil.rmtree(os.path.join(seed_folder(house), "other"))
    assert done.returncode == (2 if locked else 0)
    assert ("another run is writing to " + home in done.stderr) == locked
    assert contents(house) == before


def test_killed_after_the_first_member_it_resumes_and_ends_with_the_same_bytes(house):
    before = contents(house)
    home = os.path.join(seed_folder(house), results(house, "ensemble")["members_folder"])
    shutil.rmtree(os.path.join(seed_folder(house), "ensemble"))
    shutil.rmtree(home)
    first = os.path.join(home, "member-0", "member.json")
    done = warm.run(house, *ENSEMBLE, before=warm.die_when(first))
    assert done.returncode == -signal.SIGKILL, done.stderr
    stamp = os.stat(first).st_mtime_ns
    assert not os.path.exists(os.path.join(seed_folder(house), "ensemble", "results.json"))
    printed = must(house, *ENSEMBLE)
    assert "member 0: trained on" not in printed and "member 1: trained on" in printed
    assert os.stat(first).st_mtime_ns == stamp
    assert contents(house) == before


def test_members_side_by_side_leave_the_same_bytes(house):
    before = contents(house)
    for name in ("ensemble", results(house, "ensemble")["members_folder"]):
        shutil.rmtree(os.path.join(seed_folder(house), name))
    printed = must(house, *ENSEMBLE, "--jobs", "2")
    assert sorted(re.findall(r"^(member \d): trained on ", printed, re.M)) == ["member 0", "member 1"]
    assert contents(house) == before
    assert "already done" in ok(house, *ENSEMBLE)          # --jobs is no part of what a run is


def test_of_members_side_by_side_the_finished_ones_are_kept_when_one_fails(house, tmp_path):
    shutil.copytree(os.path.join(house, "data", "tinyworld", "models", "tiny-1b"), tmp_path / "broken")
    os.truncate(tmp_path / "broken" / "model.safetensors", 1000)
    before = set(os.listdir(seed_folder(house)))
    flags = ["--by", "models", "--models", f"tiny-1a,{tmp_path / 'broken'}", "--out", "other"]
    done = warm.run(house, *ENSEMBLE, *flags, "--jobs", "2")
    assert done.returncode == 2 and re.fullmatch("error: .*broken.*\n", done.stderr), done.stderr
    made = set(os.listdir(seed_folder(house))) - before
    kept = glob.glob(os.path.join(seed_folder(house), "members-*", "member-*", "*"))
    kept = {os.path.relpath(path, seed_folder(house)) for path in kept if path.split(os.sep)[-3] in made}
    assert sorted(path.split(os.sep, 1)[1] for path in kept) == [
        "member-0/checkpoint", "member-0/labels.jsonl", "member-0/member.json"]
    assert os.listdir(os.path.join(seed_folder(house), "other")) == [contract.UNFINISHED]
    for name in made:
        shutil.rmtree(os.path.join(seed_folder(house), name))


def test_the_curves_over_the_number_of_members_are_drawn(house):
    pytest.importorskip("matplotlib")
    printed = must(house, "report.py", "--task", "tinyworld")
    assert "report-ensembles.png" in printed
    with open(os.path.join(house, "data", "tinyworld", "report-ensembles.png"), "rb") as f:
        assert f.read(8) == b"\x89PNG\r\n\x1a\n"


def test_a_damaged_member_is_trained_again(house):
    before = contents(house)
    home = os.path.join(seed_folder(house), results(house, "ensemble")["members_folder"])
    path = os.path.join(home, "member-1", "labels.jsonl")
    with open(path, "r+b") as f:
        f.truncate(os.path.getsize(path) // 2)
    shutil.rmtree(os.path.join(seed_folder(house), "ensemble"))
    printed = ok(house, *ENSEMBLE)
    assert "member 0: trained on" not in printed and "member 1: trained on" in printed
    assert contents(house) == before


def test_pitfall_14_nothing_is_chosen_on_test(house, tmp_path):
    other = str(tmp_path / "noisy")
    shutil.copytree(house, other, symlinks=True, ignore=shutil.ignore_patterns("seed0"))
    path = os.path.join(other, "data", "tinyworld", "test.jsonl")
    rng = np.random.default_rng(0)
    rows = [row | {"label": int(rng.integers(2))} for row in read_jsonl(path)]
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(row) + "\n" for row in rows)
    ok(other, *ENSEMBLE)
    name = os.path.join("data", "tinyworld", "seed0", "ensemble", "labels.jsonl")
    assert contents(other)[name] == contents(house)[name]
    noisy = results(other, "ensemble")
    clean = results(house, "ensemble")
    assert noisy["recipe"] == clean["recipe"] and noisy["members_used"] == clean["members_used"]
    assert noisy["test"] != clean["test"]


@pytest.mark.parametrize("flags", [
    ["--by", "features"], ["--by", "layers"], ["--by", "models", "--members", "3"], ["--method", "adaboost"],
    ["--method", "adaboost", "--combine", "samme"], ["--method", "gradient"], ["--method", "gradient-released"]],
    ids=" ".join)
def test_every_method_makes_a_supervisor(house, flags):
    before = set(os.listdir(seed_folder(house)))
    printed = ok(house, *ENSEMBLE, *flags, "--max-rows", "64", "--out", "other")
    labels = read_jsonl(seed_folder(house), "other", "labels.jsonl")
    assert len(labels) == 3 * 64 and "supervisor (" in printed
    assert ("disagreement" in labels[0]) == ("gradient" not in " ".join(flags))
    for name in set(os.listdir(seed_folder(house))) - before:
        shutil.rmtree(os.path.join(seed_folder(house), name))


def test_the_same_seed_makes_the_same_random_head(house):
    """--head random. Random numbers that were drawn earlier in the same process must not change it."""
    before = set(os.listdir(seed_folder(house)))
    labels = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        ok(house, *ENSEMBLE, "--members", "1", "--max-rows", "40", "--head", "random", "--out", "random", "--force")
        labels.append(read_jsonl(seed_folder(house), "random", "labels.jsonl"))
    assert labels[0] == labels[1]
    for name in set(os.listdir(seed_folder(house))) - before:
        shutil.rmtree(os.path.join(seed_folder(house), name))


@pytest.mark.parametrize("flags,words", [
    (["--method", "gradient", "--combine", "vote"], ["corrections"]),
    (["--combine", "samme"], ["adaboost"]),
    (["--by", "models", "--models", "tiny-1a,tiny-9"], ["tiny-9"]),
    (["--supervisor", "nobody"], ["no labels at", "nobody"]),
    (["--members", "0"], ["not between"]),
    (["--models", "tiny-1a,tiny-1b"], ["--models belongs to --by models"]),
    (["--by", "models", "--model", "tiny-2"], ["--model to every other --by"]),
    (["--by", "models", "--members", "2"], ["--members 2 would leave out tiny-1c of --models"]),
    (["--method", "adaboost", "--jobs", "2"], ["--jobs has nothing to train side by side"]),
    (["--combine", "own"], ["invalid choice"]),
    (["--supervisor", "ensemble", "--out", "ensemble"], ["overwrite"]),
    (["--max-rows", "1"], ["too few groups"]),
    (["--out", "/proc/nothing"], ["cannot write"]),
    (["--by", "features", "--model", "encoder"], ["decoder"]),
])
def test_a_users_mistake_is_one_clear_line_and_leaves_what_is_finished(house, tmp_path, flags, words):
    if "encoder" in flags:
        import transformers
        config = transformers.BertConfig(vocab_size=4096, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                         intermediate_size=16)
        transformers.BertModel(config).save_pretrained(tmp_path / "encoder")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            source = os.path.join(ROOT, "data", "tinyworld", "models", "tiny-1a", name)
            shutil.copy(source, tmp_path / "encoder")
        flags = [str(tmp_path / "encoder") if flag == "encoder" else flag for flag in flags]
    before = contents(house)
    done = run(house, *ENSEMBLE, *flags)
    assert done.returncode == 2 and all(word in done.stderr for word in words), done.stderr
    after = contents(house)
    assert {name: after.get(name) for name in before} == before


# --------------------------------------------------------------------------- labels that were not made here


@pytest.fixture
def annotated(tmp_path):
    """A task of 4 x 40 rows. ann is right on 85 %, bob on 75 %, inv on 20 %; cy always says yes; all have gaps."""
    folder = tmp_path / "data" / "t"
    rng = np.random.default_rng(0)
    labels = {name: [] for name in ("ann", "bob", "inv", "cy")}
    truth = []
    for split in ("train1", "train2", "valid", "test"):
        rows = []
        for k in range(40):
            row = {"id": f"{split}-{k}", "group": f"{split}-{k}", "text": f"text {split} {k}"}
            label = k % 2
            truth.append({"id": row["id"], "soft_label": [1 - label, label]})
            rows.append(row | ({"label": label} if split in ("train1", "test") else {}))
            for name, right in (("ann", 0.85), ("bob", 0.75), ("inv", 0.2), ("cy", None)):
                said = 1 if right is None else label if rng.random() < right else 1 - label
                if rng.random() < 0.8 and k != 7:
                    labels[name].append({"id": row["id"], "soft_label": [1 - said, said]})
        write_jsonl(folder / f"{split}.jsonl", rows)
    write_jsonl(folder / "truth" / "labels.jsonl", truth)
    for name, rows in labels.items():
        write_jsonl(folder / name / "labels.jsonl", rows)
    (folder / "task.json").write_text('{"annotators": ["ann", "bob", "inv", "cy"]}')
    return tmp_path


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


FUSE = ["--task", "t", "--supervisors", "ann,bob,inv"]


@pytest.mark.parametrize("flags", [[], ["--combine", "vote"], ["--combine", "dawid-skene"], ["--combine", "bayes"],
                                   ["--combine", "loglik"], ["--combine", "bma"], ["--calibrate"]], ids=" ".join)
def test_foreign_labels_are_fused_and_gaps_stay_gaps(annotated, flags):
    printed = ok(str(annotated), "ensemble.py", *FUSE, *flags, "--out", "fused")
    folder = annotated / "data" / "t" / "seed0" / "fused"
    fused = {row["id"]: row for row in read_jsonl(folder, "labels.jsonl")}
    named = {name: {row["id"]: row["soft_label"][1] for row in read_jsonl(annotated, "data", "t", name, "labels.jsonl")}
             for name in ("ann", "bob", "inv")}
    ids = {f"{split}-{k}" for split in ("train2", "valid", "test") for k in range(40)}
    assert set(fused) == {name for name in ids if any(name in of for of in named.values())}
    assert not {"train2-7", "test-7"} & set(fused)         # nobody has labelled them
    for name, row in fused.items():
        said = [of[name] for of in named.values() if name in of]
        assert row["annotators"] == len(said)
        assert "--calibrate" in flags or (row["disagreement"] > 1e-6) == (len(set(said)) > 1)
        if not flags:
            assert row["soft_label"][1] == pytest.approx(np.mean(said))
    accuracy = json.loads((folder / "results.json").read_text())["test"]["accuracy"]
    assert accuracy > (0.75 if set(flags) & {"dawid-skene", "bayes"} else 0.4)         # these two invert inv
    assert "of 40 test rows | labels 39 of 40 train2 rows" in printed or "labels 3" in printed
    assert "already done" in ok(str(annotated), "ensemble.py", *FUSE, *flags, "--out", "fused")


def test_the_table_of_annotators_names_what_is_odd(annotated):
    printed = ok(str(annotated), "ensemble.py", "--task", "t", "--supervisors", "all", "--out", "fused")
    assert "true labels of train1" in printed
    lines = {line.split()[0]: line for line in printed.splitlines() if line.startswith(("ann", "bob", "inv", "cy"))}
    assert "BELOW CHANCE" in lines["inv"] and "always the same verdict" in lines["cy"]
    assert "CHANCE" not in lines["ann"] and "WARNING: labels of cy: they are 1 on every row" in printed
    numbers = [float(word) for word in lines["ann"].split()[2:6]]
    assert numbers[0] + numbers[1] == pytest.approx(1, abs=0.02) and numbers[0] > 0.6 < numbers[3]


def add_run(home, name, p_yes):
    """A model's run: it labels all rows but those of train1."""
    folder = home / "data" / "t" / "seed0" / name
    ids = [f"{split}-{k}" for split in ("train2", "valid", "test") for k in range(40)]
    write_jsonl(folder / "labels.jsonl", [{"id": name, "soft_label": [1 - p_yes, p_yes]} for name in ids])
    (folder / "results.json").write_text('{"config": {"role": "supervisor"}}')


def test_runs_are_fused_alone_and_with_annotators(annotated):
    home = str(annotated)
    add_run(annotated, "weak", 0.5)
    add_run(annotated, "student", 0.875)
    folder = annotated / "data" / "t" / "seed0"
    ok(home, "ensemble.py", "--task", "t", "--supervisors", "weak,student", "--out", "runs")
    fused = read_jsonl(folder, "runs", "labels.jsonl")
    assert len(fused) == 120 and all(row["soft_label"] == [0.3125, 0.6875] for row in fused)
    done = run(home, "ensemble.py", "--task", "t", "--supervisors", "weak,student", "--calibrate", "--out", "x")
    assert done.returncode == 2 and "--calibrate needs true labels in train1" in done.stderr
    # with an annotator: Bayes' rule takes a run that no true label measures for no evidence, and says so
    of = {}
    for names in ("ann", "ann,student"):
        flags = ["--supervisors", names, "--combine", "bayes", "--out", f"of-{names}"]
        printed = ok(home, "ensemble.py", "--task", "t", *flags)
        of[names] = {row["id"]: row["soft_label"] for row in read_jsonl(folder, f"of-{names}", "labels.jsonl")}
    assert "WARNING: --combine bayes has no true label to measure student:" in printed
    assert re.search(r"^student +0 .* no such row$", printed, re.M)
    assert len(of["ann,student"]) == 120 and of["ann"].items() <= of["ann,student"].items()
    (folder / "student" / "labels.jsonl").write_text('{"id": "test-0", "soft_label": [0.5, 0.5]}\n')
    done = run(home, "ensemble.py", "--task", "t", "--supervisors", "weak,student", "--out", "x")
    assert done.returncode == 2 and "no label for 119 of 120 rows, first 'train2-0'" in done.stderr


def test_without_any_truth_labels_are_fused_and_nothing_is_claimed(annotated):
    for split in ("train1", "valid", "test"):
        (annotated / "data" / "t" / f"{split}.jsonl").write_text("")
    printed = ok(str(annotated), "ensemble.py", *FUSE, "--combine", "dawid-skene", "--out", "fused")
    assert "as Dawid-Skene estimates them, without any truth" in printed and "no true label of test" in printed
    for flags in (["--combine", "bayes"], ["--calibrate"]):
        done = run(str(annotated), "ensemble.py", *FUSE, *flags, "--out", "other")
        assert done.returncode == 2 and "needs true labels in train1" in done.stderr


@pytest.mark.parametrize("flags,words", [
    (["--supervisors", "ann,nobody"], ["no labels at", "nobody"]), (["--members", "3"], ["leave out --members"]),
    (["--supervisors", "ann,"], ["an annotator is empty"]), (["--supervisors", "ann,bob,ann/"], ["occurs twice"]),
    (["--supervisors", "ann", "--out", "ann/"], ["--out ann"]), (["--combine", "samme"], ["adaboost"])])
def test_mistakes_with_foreign_labels_are_one_line(annotated, flags, words):
    done = run(str(annotated), "ensemble.py", *FUSE, *flags)
    assert done.returncode == 2 and all(word in done.stderr for word in words), done.stderr
    assert not (annotated / "data" / "t" / "seed0").exists()
