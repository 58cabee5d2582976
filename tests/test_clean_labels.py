"""
Cleaning of labels: opinions formed without the row itself, and choices that can be checked by hand.

python -m pytest tests/test_clean_labels.py      # 3 s, CPU, no network
"""
import numpy as np
import pytest
import torch

from clean_labels import keep_confident, keep_uncontradicted, knn_opinion, logistic, logistic_opinion, pick_for_truth


def two(p):
    return np.stack([1 - np.asarray(p), p], 1).astype(np.float32)


def planted(n=400, noise=0.3, seed=0):
    """n questions of one row each; class = sign of the first of 8 features; labels are wrong with probability `noise`."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, n)
    x = rng.normal(size=(n, 8)) + 2.5 * np.eye(8)[0] * (2 * truth - 1)[:, None]
    labels = np.where(rng.random(n) < noise, 1 - truth, truth)
    return x, two(np.where(labels == 1, 0.9, 0.1)), truth, np.arange(n).astype(str)


def test_pitfall_34_one_nearest_neighbour_on_random_labels_agrees_half_of_the_time():
    x, _, _, groups = planted()
    labels = two(np.random.default_rng(1).integers(0, 2, 400).astype(float))
    agree = ((knn_opinion(x, labels, groups, k=1) > 0.5) == (labels[:, 1] > 0.5)).mean()
    assert 0.4 < agree < 0.6
    agree = ((logistic_opinion(x, labels, groups) > 0.5) == (labels[:, 1] > 0.5)).mean()
    assert 0.4 < agree < 0.6


def test_pitfall_34_a_twin_of_the_same_question_is_not_asked_either():
    x, _, _, groups = planted()
    twice, labels = np.repeat(x, 2, 0), two(np.repeat(np.random.default_rng(1).integers(0, 2, 400), 2).astype(float))
    for ask in (lambda *a: knn_opinion(*a, k=1), logistic_opinion):
        agree = ((ask(twice, labels, np.repeat(groups, 2)) > 0.5) == (labels[:, 1] > 0.5)).mean()
        assert 0.4 < agree < 0.6


def test_knn_by_hand():
    x = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    assert knn_opinion(x, two([0.9, 0.8, 0.1, 0.3]), list("abcd"), k=1).tolist() == pytest.approx([0.8, 0.9, 0.3, 0.1])


@pytest.mark.parametrize("ask", [knn_opinion, logistic_opinion])
def test_filters_find_planted_wrong_labels(ask):
    x, soft, truth, groups = planted()
    right = (soft[:, 1] > 0.5) == truth
    keep = keep_uncontradicted(soft, ask(x, soft, groups), 0.5)
    assert keep.mean() == pytest.approx(0.5, abs=0.01) and right[keep].mean() > 0.9 > right.mean()


def test_both_classes_stay_in_their_proportion():
    soft = two(np.array([0.9] * 30 + [0.2] * 10))
    for keep in (keep_confident(soft, 0.5), keep_uncontradicted(soft, soft[:, 1], 0.5)):
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
        loss = torch.nn.functional.binary_cross_entropy_with_logits(xs @ w, torch.tensor(p)) + l2 / 2 * (w[:5] ** 2).sum()
        loss.backward()
        return loss
    optimizer.step(closure)
    assert np.abs(logistic(x, p, l2, bias) - w.detach().numpy()).max() < 1e-5


def test_logistic_regression_survives_labels_that_a_line_separates():
    x = np.linspace(-1, 1, 20)[:, None] * np.ones((1, 3))
    w = logistic(x, (x[:, 0] > 0).astype(float), 1e-4)
    assert np.isfinite(w).all() and ((x @ w[:-1] + w[-1] > 0) == (x[:, 0] > 0)).all()


def test_which_rows_are_worth_a_question():
    soft = two([0.9, 0.52, 0.2, 0.45, 0.9])
    assert pick_for_truth(soft, 2, "uncertain").tolist() == [1, 3]
    assert pick_for_truth(soft, 2, "disagree", np.array([0.1, 0.5, 0.2, 0.4, 0.3])).tolist() == [0, 4]
    assert pick_for_truth(soft, 99, "random").tolist() == [0, 1, 2, 3, 4]      # never more than there are
    assert pick_for_truth(soft, 3, "random", seed=1).tolist() == pick_for_truth(soft, 3, "random", seed=1).tolist()
