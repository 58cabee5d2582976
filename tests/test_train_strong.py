"""
The student's losses, its probe and what it reads first, on cases small enough to check by hand.

python -m pytest tests/test_train_strong.py      # 5 s, CPU, no network
"""
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import train_strong
from clean_labels import logistic
from prompting import open_language_model
from train_strong import (LOSSES, confidence_weight, entropy, fit_probe, harden, last_layer, logconf, logconf_released, product, read_features,
                          window)
from train_weak import load_model, predict, soft_xent


def batch(n=40, share=0.5, seed=0):
    rng = torch.Generator().manual_seed(seed)
    yes = (torch.rand(n, generator=rng) * 2 * share).clamp(0, 1)
    return torch.randn(n, 2, generator=rng), torch.stack([1 - yes, yes], 1)


# --------------------------------------------------------------------------- the confidence loss

def test_pitfall_03_the_weight_rises_in_a_straight_line_without_a_jump():
    steps = 500
    weights = [confidence_weight(k / steps) for k in range(steps)]
    assert weights[0] == 0 and weights[100] == 0.5 and weights[-1] == 0.5
    assert all(0 <= b - a <= 0.5 / (0.2 * steps) + 1e-9 for a, b in zip(weights, weights[1:]))
    assert confidence_weight(0.0, warmup=0.0) == 0.5                           # and no division by zero


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_pitfall_04_as_many_pass_the_threshold_as_the_supervisor_says_yes(share):
    logits, labels = batch(200)
    labels = torch.tensor([[1 - share, share]]).repeat(200, 1)
    own = (logconf(logits, labels, 1.0) - 0.5 * labels) / 0.5                  # back from (1 - a) labels + a own
    assert own[:, 1].mean().item() == pytest.approx(share, abs=1e-5)
    assert torch.allclose(own.sum(1), torch.ones(200))


@pytest.mark.parametrize("n", [40, 33, 1])
def test_pitfall_04_swapping_the_classes_mirrors_the_loss_exactly(n):
    logits, labels = batch(n, share=0.7)
    for target in LOSSES.values():
        there, back = target(logits, labels, 0.7), target(logits.flip(1), labels.flip(1), 0.7).flip(1)
        assert torch.allclose(there, back, atol=1e-5) and torch.allclose(soft_xent(logits, there), soft_xent(logits.flip(1), back.flip(1)), atol=1e-4)


def test_logconf_is_the_sum_of_its_two_cross_entropies():
    """eq. 1 of Burns et al., written out the long way with torch's own loss"""
    logits, labels = batch()
    labels = torch.tensor([[0.6, 0.4], [0.4, 0.6]]).repeat(20, 1)              # mean 1/2: a whole number of rows
    own = harden(logits, labels[:, 1].mean()).round().long()
    cross_entropy = torch.nn.functional.cross_entropy
    long_way = 0.5 * cross_entropy(logits, labels) + 0.5 * cross_entropy(logits, own)
    assert torch.allclose(soft_xent(logits, logconf(logits, labels, 0.9)).mean(), long_way)


def test_logconf_starts_as_plain_cross_entropy():
    logits, labels = batch()
    assert torch.equal(logconf(logits, labels, 0.0), labels)


def test_tied_students_still_pass_the_right_number():
    assert harden(torch.zeros(10, 2), 0.3).sum().item() == pytest.approx(3)


# --------------------------------------------------------------------------- the other losses

def gradient(loss, logits):
    logits = logits.clone().requires_grad_()
    loss(logits).sum().backward()
    return logits.grad


def test_the_released_confidence_loss_jumps_where_the_papers_rises():
    logits, labels = batch()
    labels = torch.tensor([[0.6, 0.4], [0.4, 0.6]]).repeat(20, 1)
    own = harden(logits, labels[:, 1].mean())
    for progress, a in ((0.0, 0.0), (0.1, 0.05), (0.101, 0.5), (0.9, 0.5)):
        by_hand = (1 - a) * labels + a * torch.stack([1 - own, own], 1)
        assert torch.allclose(logconf_released(logits, labels, progress), by_hand)
    assert torch.allclose(logconf_released(logits, labels, 0.5), logconf(logits, labels, 0.5))


def test_product_is_bayes_rule_for_two_independent_judges():
    """Odds multiply: a student at 3:1 and a supervisor at 1:2 together say 3:2."""
    logits = torch.tensor([[np.log(3.0), 0.0]]).float()
    assert torch.allclose(product(logits, torch.tensor([[1 / 3, 2 / 3]]), 0.5), torch.tensor([[0.6, 0.4]]))
    assert torch.isfinite(product(torch.tensor([[200.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.5)).all()


def test_outside_the_window_nothing_is_learned_and_inside_all_is():
    logits, labels = torch.tensor([[0.0, 0.1], [0.0, 5.0]]), torch.tensor([[0.9, 0.1], [0.9, 0.1]])
    grad = gradient(lambda z: soft_xent(z, window(z.detach(), labels, 0.5)), logits)
    plain = gradient(lambda z: soft_xent(z, labels), logits)
    assert torch.allclose(grad[0], plain[0]) and grad[1].abs().max() < 1e-6 < plain[1].abs().max()


def test_the_entropy_target_has_the_gradient_of_the_entropy():
    """against autograd on (1 - a) CE + a H, written out"""
    logits, labels = batch()

    def long_way(z):
        own = z.softmax(-1)
        return 0.5 * soft_xent(z, labels) - 0.5 * (own * own.log()).sum(-1)
    short = gradient(lambda z: soft_xent(z, entropy(z.detach(), labels, 0.9)), logits)
    assert torch.allclose(short, gradient(long_way, logits), atol=1e-6)


# --------------------------------------------------------------------------- the probe, and reading first

@pytest.fixture
def tiny():
    return load_model("tiny-1a", "lm", [" no", " yes"], "cpu")


ARGS = SimpleNamespace(seed=0, lr=1e-3, batch_size=8, micro_batch_size=None, epochs=1, dtype="fp32", generative_steps=6, head="lm", trust_remote_code=False)


def test_features_are_what_the_last_layer_reads(tiny):
    model, tokenizer, _ = tiny
    ids = [[5, 6, 7], [8, 9], [1, 2, 3, 4, 5]]
    features = read_features(model, tokenizer, ids, ARGS, "cpu")
    with torch.no_grad():
        scores = last_layer(model)(torch.tensor(features))
    assert np.abs(scores.softmax(-1).numpy() - predict(model, tokenizer, ids, "cpu")).max() < 1e-6
    assert not last_layer(model)._forward_pre_hooks


def test_the_probe_is_the_logistic_regression_and_moves_nothing_but_the_last_layer(tiny):
    model, tokenizer, _ = tiny
    rng = np.random.default_rng(0)
    ids = [rng.integers(1, 2000, 6).tolist() for _ in range(60)]
    body = {k: v.clone() for k, v in model.base_model.state_dict().items()}
    x = read_features(model, tokenizer, ids, ARGS, "cpu")
    p = 1 / (1 + np.exp(-x @ rng.normal(size=x.shape[1]) / 10))                # labels that a line can explain
    soft = np.stack([1 - p, p], 1).astype(np.float32)
    fit_probe(model, tokenizer, ids, soft, ids, soft, ARGS, "cpu")
    w = logistic(x, soft[:, 1], 1e-4, bias=False)                              # valid = train: the weakest penalty fits best
    assert np.abs(predict(model, tokenizer, ids, "cpu")[:, 1] - 1 / (1 + np.exp(-x @ w))).max() < 1e-4
    assert all(torch.equal(v, body[k]) for k, v in model.base_model.state_dict().items())


def test_reading_the_texts_makes_them_less_surprising_and_the_classifier_gets_body_and_head(tiny, capsys):
    model, tokenizer, _ = tiny
    rows = [{"id": str(k), "text": f"Q: What is the block of the element number {k}? A: d-block"} for k in range(40)]
    train_strong.read_the_texts_first(model, "tiny-1a", rows, [" no", " yes"], ARGS, "cpu")
    before, after = (float(word) for word in capsys.readouterr().out.split(": ")[1].split(" nats")[0].split(" -> "))
    assert after < before - 0.1
    untouched = open_language_model("tiny-1a", "cpu")[0]
    assert not torch.equal(untouched.base_model.wte.weight, model.base_model.wte.weight)
    assert not torch.equal(load_model("tiny-1a", "lm", [" no", " yes"], "cpu")[0].score.weight, model.score.weight)
