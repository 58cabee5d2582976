"""
The loss, batches and the training loop, on cases small enough to check by hand.

python -m pytest tests/test_train_weak.py        # 20 s, CPU, no network
"""
import doctest
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import contract
import metrics
import models
import train_strong
import train_weak
from models import load_classifier, predict
from test_models import SIZES, TINY, ragged, random_model, tiny  # noqa: F401 (a fixture)
from train_weak import batch_maker, batches_of_similar_length, soft_label_loss, soft_xent


def fit(model, tokenizer, ids, soft_labels, args, target_fn=None):
    """train_weak.fit on soft labels"""
    make_batch = batch_maker(ids, tokenizer, "cpu", soft_labels=soft_labels)
    train_weak.fit(model, [len(i) for i in ids], make_batch, soft_label_loss, args, "cpu", target_fn=target_fn)


def quick(**flags):
    return SimpleNamespace(**{"seed": 0, "lr": 1e-3, "batch_size": 8, "micro_batch_size": None, "epochs": 1, "dtype": "fp32", **flags})


@pytest.mark.parametrize("module", [contract, metrics, models, train_weak])
def test_the_worked_examples_in_docstrings_are_right(module):
    assert doctest.testmod(module, extraglobs={"torch": torch}).failed == 0


def test_soft_xent_of_equal_scores_is_log_2_whatever_the_label():
    loss = soft_xent(torch.tensor([[3.0, 3.0]]), torch.tensor([[0.38, 0.62]]))
    assert math.isclose(loss.item(), math.log(2), rel_tol=1e-6)


def test_soft_xent_is_torchs_own_cross_entropy():
    logits, soft = torch.randn(8, 2), torch.rand(8, 2).softmax(-1)
    assert torch.allclose(soft_xent(logits, soft).mean(), torch.nn.functional.cross_entropy(logits, soft))


@pytest.mark.parametrize("n,size,steps", [(33, 32, 2), (32, 32, 1), (7, 3, 3), (1, 32, 1), (1000, 32, 32)])
def test_pitfall_19_every_row_comes_once_and_the_last_batch_may_be_smaller(n, size, steps):
    batches = batches_of_similar_length([n - i for i in range(n)], size, np.random.default_rng(0))
    assert sorted(i for batch in batches for i in batch) == list(range(n)) and len(batches) == steps


def test_pitfall_23_the_order_changes_between_epochs_and_repeats_with_the_seed():
    lengths = np.random.default_rng(1).integers(5, 30, 500).tolist()
    first, again = np.random.default_rng(0), np.random.default_rng(0)
    epochs = [batches_of_similar_length(lengths, 32, first) for _ in range(2)]
    assert epochs[0] != epochs[1] and epochs == [batches_of_similar_length(lengths, 32, again) for _ in range(2)]


def trained(target=None, **flags):
    torch.manual_seed(0)
    model, tokenizer, _ = load_classifier(TINY, "lm", [" no", " yes"], "cpu")
    ids = ragged(24)
    soft = np.random.default_rng(3).random(24).astype(np.float32)
    fit(model, tokenizer, ids, np.stack([1 - soft, soft], 1), quick(**flags), target)
    return model


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_pitfall_22_same_seed_same_weights_other_seed_other_weights():
    a, b, c = flat(trained()), flat(trained()), flat(trained(seed=1))
    assert torch.equal(a, b) and not torch.equal(a, c)


def first_gradient(monkeypatch, target, **flags):
    """The gradient of the first step, clipped, as the optimizer sees it."""
    seen, step = [], torch.optim.AdamW.step

    def spy(self, *a, **k):
        if not seen:
            seen.append(torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for g in self.param_groups for p in g["params"]]))
        return step(self, *a, **k)
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", spy)
        trained(target, **flags)
    return seen[0]


@pytest.mark.parametrize("loss", list(train_strong.LOSSES))
def test_pitfall_05_micro_batches_change_nothing_threshold_included(loss, monkeypatch):
    target = train_strong.LOSSES[loss]
    whole = first_gradient(monkeypatch, target)
    for flags in ({"micro_batch_size": 1}, {"micro_batch_size": 3}):
        assert (first_gradient(monkeypatch, target, **flags) - whole).abs().max() < 1e-4 * whole.abs().max()


def saved_for_backward(function):
    """Bytes that autograd keeps at the same time while `function` runs, at most."""
    now = {"bytes": 0, "most": 0}

    class Kept:
        def __init__(self, tensor):
            self.tensor, self.size = tensor, tensor.numel() * tensor.element_size()
            now["bytes"] += self.size
            now["most"] = max(now["most"], now["bytes"])

        def __del__(self):
            now["bytes"] -= self.size
    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        function()
    return now["most"]


def test_pitfall_10_checkpointing_saves_memory_and_micro_batches_keep_no_graphs():
    def bytes_of(**flags):
        model, tokenizer, _ = load_classifier("tiny-4", "lm", [" no", " yes"], "cpu")
        args = quick(gradient_checkpointing=flags.pop("checkpointing", False), lora=None, lr=1e-4, **flags)
        model, _ = train_weak.prepare_for_training(model, args)
        ids, soft = [list(range(5, 45))] * 16, np.full((16, 2), 0.5, np.float32)
        return saved_for_backward(lambda: fit(model, tokenizer, ids, soft, args)), flat(model)

    plain, weights = bytes_of(batch_size=16)
    checkpointed, same_weights = bytes_of(batch_size=16, checkpointing=True)
    # what is computed once more in the backward pass is that of one layer at a time: far less than all layers at once
    assert checkpointed < 0.5 * plain and torch.allclose(weights, same_weights, atol=1e-5)
    quarter, _ = bytes_of(batch_size=16, micro_batch_size=4)
    assert quarter < 0.35 * plain


def test_pitfall_09_one_step_moves_the_weights_also_under_bf16_autocast():
    before = flat(load_classifier(TINY, "lm", [" no", " yes"], "cpu")[0])
    after = trained(batch_size=24, lr=1e-5, dtype="bf16")
    assert all(p.dtype == torch.float32 for p in after.parameters())
    weights = torch.cat([p.detach().flatten() for n, p in after.named_parameters() if ".h." in n and "attn.c_attn.bias" not in n])
    old = torch.cat([p.detach().flatten() for n, p in load_classifier(TINY, "lm", [" no", " yes"], "cpu")[0].named_parameters() if ".h." in n and "attn.c_attn.bias" not in n])
    assert (weights != old).float().mean() > 0.99 and before.shape == flat(after).shape


def test_without_peft_lora_is_one_line_that_says_what_to_install(tiny, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(SystemExit) as stop:
        train_weak.prepare_for_training(tiny[0], SimpleNamespace(gradient_checkpointing=False, lora=4))
    assert stop.value.code == 2 and "pip install peft" in capsys.readouterr().err


def test_lora_moves_few_weights_and_gives_an_ordinary_model_back(tmp_path):
    pytest.importorskip("peft")
    model, tokenizer, _ = load_classifier(TINY, "lm", [" no", " yes"], "cpu")
    args, ids = quick(gradient_checkpointing=False, lora=2, batch_size=4), ragged(12)
    soft = np.tile(np.array([[0.1, 0.9]], np.float32), (12, 1))
    training, ordinary = train_weak.prepare_for_training(model, args)
    assert sum(p.numel() for p in training.parameters() if p.requires_grad) < 0.05 * sum(p.numel() for p in training.parameters())
    fit(training, tokenizer, ids, soft, args)
    before = predict(training, tokenizer, ids, "cpu")
    plain = ordinary()
    contract.save_checkpoint(str(tmp_path), plain, tokenizer)
    again = load_classifier(str(tmp_path / "checkpoint"), "lm", [" no", " yes"], "cpu")[0]
    assert np.abs(predict(again, tokenizer, ids, "cpu") - before).max() < 1e-5 and not any("lora" in n for n, _ in again.named_parameters())


@pytest.mark.parametrize("name", list(SIZES))
def test_every_architecture_trains_saves_loads_and_says_the_same_again(tmp_path, name):
    random_model(tmp_path / "base", name, "AutoModel" if "Bert" in name else "AutoModelForCausalLM")
    torch.manual_seed(0)
    model, tokenizer, max_length = load_classifier(str(tmp_path / "base"), "lm", [" no", " yes"], "cpu")
    ids, soft = ragged(12), np.tile(np.array([[0.1, 0.9]], np.float32), (12, 1))
    args = quick(gradient_checkpointing=True, lora=None, epochs=2)
    before = predict(model, tokenizer, ids, "cpu")
    fit(train_weak.prepare_for_training(model, args)[0], tokenizer, ids, soft, args)
    p = predict(model, tokenizer, ids, "cpu")
    assert p[:, 1].mean() > before[:, 1].mean() + 0.005                        # it moves towards the labels
    assert np.abs(np.concatenate([predict(model, tokenizer, [row], "cpu") for row in ids]) - p).max() < 1e-5
    contract.save_checkpoint(str(tmp_path), model, tokenizer)
    again = load_classifier(str(tmp_path / "checkpoint"), "lm", [" no", " yes"], "cpu")[0]
    assert np.array_equal(predict(again, tokenizer, ids, "cpu"), p)
