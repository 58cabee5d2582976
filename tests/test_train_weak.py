"""
The loss, batches and the training loop, on cases small enough to check by hand.

python -m pytest tests/test_train_weak.py        # 20 s, CPU, no network
"""
import doctest
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import contract
import families
import metrics
import models
import train_strong
import train_weak
from models import load_classifier, predict
from test_models import SIZES, TINY, ragged, random_model, tiny  # noqa: F401 (a fixture)
from train_weak import batch_maker, batches_of_similar_length, soft_label_loss, soft_xent

WORDS = [" no", " yes"]


def fit(model, tokenizer, ids, soft_labels, args, target_fn=None):
    """train_weak.fit on soft labels"""
    make_batch = batch_maker(ids, tokenizer, "cpu", soft_labels=soft_labels)
    train_weak.fit(model, [len(i) for i in ids], make_batch, soft_label_loss, args, "cpu", target_fn=target_fn)


def make_args(**flags):
    defaults = {"seed": 0, "lr": 1e-3, "batch_size": 8, "micro_batch_size": None, "epochs": 1, "dtype": "fp32",
                "lora": None, "gradient_checkpointing": False}
    return SimpleNamespace(**{**defaults, **flags})


def same_label(n):
    """(n, 2) soft labels, all of them 0.9 for yes"""
    return np.tile(np.array([[0.1, 0.9]], np.float32), (n, 1))


# --------------------------------------------------------------------------- the maths


@pytest.mark.parametrize("module", [contract, metrics, models, train_weak])
def test_the_worked_examples_in_docstrings_are_right(module):
    assert doctest.testmod(module, extraglobs={"torch": torch}).failed == 0


def test_soft_xent_of_equal_scores_is_log_2_whatever_the_label():
    loss = soft_xent(torch.tensor([[3.0, 3.0]]), torch.tensor([[0.38, 0.62]]))
    assert math.isclose(loss.item(), math.log(2), rel_tol=1e-6)


def test_soft_xent_is_torchs_own_cross_entropy():
    logits = torch.randn(8, 2)
    soft_labels = torch.rand(8, 2).softmax(-1)
    expected = torch.nn.functional.cross_entropy(logits, soft_labels)
    assert torch.allclose(soft_xent(logits, soft_labels).mean(), expected)


# --------------------------------------------------------------------------- batches


@pytest.mark.parametrize("n,size,steps", [(33, 32, 2), (32, 32, 1), (7, 3, 3), (1, 32, 1), (1000, 32, 32)])
def test_pitfall_19_every_row_comes_once_and_the_last_batch_may_be_smaller(n, size, steps):
    batches = batches_of_similar_length([n - i for i in range(n)], size, np.random.default_rng(0))
    assert sorted(i for batch in batches for i in batch) == list(range(n))
    assert len(batches) == steps


def test_pitfall_23_the_order_changes_between_epochs_and_repeats_with_the_seed():
    lengths = np.random.default_rng(1).integers(5, 30, 500).tolist()
    first = np.random.default_rng(0)
    second = np.random.default_rng(0)
    epochs = [batches_of_similar_length(lengths, 32, first) for _ in range(2)]
    assert epochs[0] != epochs[1]
    assert epochs == [batches_of_similar_length(lengths, 32, second) for _ in range(2)]


# --------------------------------------------------------------------------- the loop


def train_tiny(target_fn=None, **flags):
    """tiny-1a after an epoch on 24 random rows. -> model"""
    torch.manual_seed(0)
    model, tokenizer, _ = load_classifier(TINY, "lm", WORDS, "cpu")
    ids = ragged(24)
    p_yes = np.random.default_rng(3).random(24).astype(np.float32)
    fit(model, tokenizer, ids, np.stack([1 - p_yes, p_yes], 1), make_args(**flags), target_fn)
    return model


def flat_weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_pitfall_22_same_seed_same_weights_other_seed_other_weights():
    first = flat_weights(train_tiny())
    assert torch.equal(first, flat_weights(train_tiny()))
    assert not torch.equal(first, flat_weights(train_tiny(seed=1)))


def first_gradient(monkeypatch, target_fn, **flags):
    """The gradient of the first step, clipped, as the optimizer gets it."""
    gradients = []
    adamw_step = torch.optim.AdamW.step

    def recording_step(self, *args, **kwargs):
        if not gradients:
            parameters = [p for group in self.param_groups for p in group["params"]]
            gradients.append(torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten()
                                        for p in parameters]))
        return adamw_step(self, *args, **kwargs)
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", recording_step)
        train_tiny(target_fn, **flags)
    return gradients[0]


@pytest.mark.parametrize("loss", list(train_strong.LOSSES))
def test_pitfall_05_micro_batches_change_nothing_threshold_included(loss, monkeypatch):
    target_fn = train_strong.LOSSES[loss]
    whole = first_gradient(monkeypatch, target_fn)
    for size in (1, 3):
        in_pieces = first_gradient(monkeypatch, target_fn, micro_batch_size=size)
        assert (in_pieces - whole).abs().max() < 1e-4 * whole.abs().max()


@pytest.mark.parametrize(("flags", "passes"), [({}, 1), ({"micro_batch_size": 8}, 6)])
def test_a_loss_of_the_whole_batch_takes_a_second_pass_only_in_pieces(flags, passes, monkeypatch):
    seen = []
    classify = train_weak.classify
    monkeypatch.setattr(train_weak, "classify", lambda *inputs: seen.append(1) or classify(*inputs))
    train_tiny(train_strong.LOSSES["logconf"], batch_size=24, epochs=1, **flags)
    assert len(seen) == passes                             # 24 rows: one step


def test_pitfall_09_one_step_moves_the_weights_also_under_bf16_autocast(monkeypatch):
    def layer_weights(model):
        """Of all layers. The bias of the keys has no gradient: it cancels in the softmax of the attention."""
        return torch.cat([p.detach().flatten() for name, p in model.named_parameters()
                          if ".h." in name and "attn.c_attn.bias" not in name])
    before = load_classifier(TINY, "lm", WORDS, "cpu")[0]
    used = []                                              # the attention of each forward pass
    classify = train_weak.classify
    monkeypatch.setattr(train_weak, "classify", lambda model, *inputs: used.append(model.config._attn_implementation)
                        or classify(model, *inputs))
    after = train_tiny(batch_size=24, lr=1e-5, dtype="bf16")
    assert all(p.dtype == torch.float32 for p in after.parameters())
    assert set(used) == {"eager"}                          # in training alone: labels are made as a reopened model does
    assert before.config._attn_implementation == after.config._attn_implementation == "sdpa"
    assert flat_weights(before).shape == flat_weights(after).shape
    assert (layer_weights(before) != layer_weights(after)).float().mean() > 0.99


# --------------------------------------------------------------------------- memory


def peak_saved_bytes(function):
    """The most bytes that autograd keeps for the backward pass at one time while `function` runs."""
    total = {"now": 0, "peak": 0}

    class Saved:
        def __init__(self, tensor):
            self.tensor = tensor
            self.size = tensor.numel() * tensor.element_size()
            total["now"] += self.size
            total["peak"] = max(total["peak"], total["now"])

        def __del__(self):
            total["now"] -= self.size
    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        function()
    return total["peak"]


def test_pitfall_10_checkpointing_saves_memory_and_micro_batches_keep_no_graphs():
    def train(**flags):
        """One step of 16 rows of tiny-4 -> (bytes, weights)"""
        args = make_args(lr=1e-4, batch_size=16, **flags)
        model, tokenizer, _ = load_classifier("tiny-4", "lm", WORDS, "cpu")
        model, _ = train_weak.prepare_for_training(model, args)
        ids = [list(range(5, 45))] * 16
        soft_labels = np.full((16, 2), 0.5, np.float32)
        n_bytes = peak_saved_bytes(lambda: fit(model, tokenizer, ids, soft_labels, args))
        return n_bytes, flat_weights(model)

    plain, weights = train()
    checkpointed, same_weights = train(gradient_checkpointing=True)
    assert checkpointed < 0.5 * plain                      # one layer at a time is computed again, not all at once
    assert torch.allclose(weights, same_weights, atol=1e-5)
    quarter, _ = train(micro_batch_size=4)
    assert quarter < 0.35 * plain


def test_without_peft_lora_is_one_line_that_says_what_to_install(tiny, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(SystemExit) as stop:
        train_weak.prepare_for_training(tiny[0], make_args(lora=4))
    assert stop.value.code == 2
    assert "pip install peft" in capsys.readouterr().err


def test_lora_moves_few_weights_and_gives_an_ordinary_model_back(tmp_path):
    pytest.importorskip("peft")
    model, tokenizer, _ = load_classifier(TINY, "lm", WORDS, "cpu")
    args = make_args(lora=2, batch_size=4)
    ids = ragged(12)
    adapted, restore_ordinary = train_weak.prepare_for_training(model, args)
    n_trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert n_trainable < 0.05 * sum(p.numel() for p in adapted.parameters())
    fit(adapted, tokenizer, ids, same_label(12), args)
    before = predict(adapted, tokenizer, ids, "cpu")
    contract.save_checkpoint(str(tmp_path), restore_ordinary(), tokenizer)
    reloaded = load_classifier(str(tmp_path / "checkpoint"), "lm", WORDS, "cpu")[0]
    assert np.abs(predict(reloaded, tokenizer, ids, "cpu") - before).max() < 1e-5
    assert not any("lora" in name for name, _ in reloaded.named_parameters())


BF16 = SimpleNamespace(dtype="bf16", lora=2)


@pytest.mark.parametrize("name", ["GPT2", "Llama", "GPTNeoX"])
def test_frozen_weights_in_bf16_change_no_output_of_the_bf16_forward_pass(tmp_path, name):
    """Autocast over fp32 weights, against matrices in bf16 and everything else in fp32: the same bytes."""
    random_model(tmp_path, name, "AutoModelForCausalLM")
    path = str(tmp_path)
    yes_or_no = models.next_word_logits([5, 6])
    for open_model, output_fn in ((lambda flags: models.open_language_model(path, "cpu", flags, flags is BF16),
                                   yes_or_no),
                                  (lambda flags: load_classifier(path, "lm", WORDS, "cpu", flags), models.classify)):
        masters, tokenizer, _ = open_model(None)
        frozen = open_model(BF16)[0]
        outputs = [models.forward_all(model, tokenizer, ragged(), "cpu", "bf16", output_fn=output_fn)
                   for model in (masters, frozen)]
        assert np.array_equal(*outputs)
        matrices = [p for key, p in frozen.named_parameters() if p.dim() > 1 and ".layers." in key or ".h." in key]
        assert {p.dtype for p in matrices if p.dim() > 1} == {torch.bfloat16}
        assert {p.dtype for p in frozen.parameters() if p.dim() == 1} == {torch.float32}
        assert all(p.dtype == torch.float32 for p in masters.parameters())
    assert frozen.score.weight.requires_grad               # the head is trained beside the adapters
    assert frozen.score.weight.dtype == torch.float32


@pytest.mark.parametrize("name", ["Mixtral", "Mamba"])     # their experts and states are no weights of linear layers
def test_frozen_weights_that_autocast_does_not_round_stay_in_fp32(name):
    model = families.random_model(name)
    ids = torch.randint(1, 2000, (2, 12), generator=torch.Generator().manual_seed(0))
    outputs = []
    for _ in range(2):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            outputs.append(model(input_ids=ids, use_cache=False).logits)
        models.freeze(model)
    assert torch.equal(*outputs)
    assert torch.bfloat16 in {p.dtype for p in model.parameters()}


def test_a_language_model_to_be_trained_has_fp32_weights_and_a_frozen_one_cannot_be_trained():
    trained = models.open_language_model(TINY, "cpu", BF16)[0]
    assert all(p.requires_grad and p.dtype == torch.float32 for p in trained.parameters())
    frozen = models.open_language_model(TINY, "cpu", BF16, frozen=True)[0]
    assert not any(p.requires_grad for p in frozen.parameters())
    assert models.copy_weights(frozen) == []               # nothing to restore


def test_lora_beside_frozen_bf16_weights_learns_what_it_learns_beside_fp32(tmp_path):
    pytest.importorskip("peft")
    ids = ragged(24)
    args = make_args(lora=4, batch_size=4, dtype="bf16", epochs=2)
    after = []
    for flags in (None, args):
        model, tokenizer, _ = load_classifier(TINY, "lm", WORDS, "cpu", flags)
        torch.manual_seed(0)
        adapted, restore_ordinary = train_weak.prepare_for_training(model, args)
        assert all(p.dtype == torch.float32 for p in adapted.parameters() if p.requires_grad)
        fit(adapted, tokenizer, ids, same_label(24), args)
        after.append(predict(adapted, tokenizer, ids, "cpu", "bf16"))
    assert np.abs(after[0] - after[1]).max() < 0.02
    contract.save_checkpoint(str(tmp_path), restore_ordinary(), tokenizer)     # corrections are rounded to bf16 here
    reloaded = load_classifier(str(tmp_path / "checkpoint"), "lm", WORDS, "cpu", args)[0]
    assert np.abs(predict(reloaded, tokenizer, ids, "cpu", "bf16") - after[1]).max() < 0.02


@pytest.mark.parametrize("shards", ["1GB", "50KB"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_heads_rows_are_read_without_opening_a_second_model(tmp_path, monkeypatch, shards, tied):
    """In one file or several, in a matrix of their own or in the embeddings."""
    lm = random_model(tmp_path, "Llama", "AutoModelForCausalLM", tie_word_embeddings=tied)
    (tmp_path / "model.safetensors").unlink()
    lm.save_pretrained(tmp_path, max_shard_size=shards)
    assert (tmp_path / "model.safetensors").exists() == (shards == "1GB")
    opened = []
    open_checkpoint = models.open_checkpoint
    monkeypatch.setattr(models, "open_checkpoint", lambda *args, **flags: opened.append(args[1]) or
                        open_checkpoint(*args, **flags))
    model, tokenizer, _ = load_classifier(str(tmp_path), "lm", WORDS, "cpu")
    assert torch.equal(model.score.weight, lm.get_output_embeddings().weight[models.label_word_ids(tokenizer, WORDS)])
    assert opened == ["AutoModelForSequenceClassification"]


# --------------------------------------------------------------------------- other architectures


@pytest.mark.parametrize("name", list(SIZES))
def test_every_architecture_trains_saves_loads_and_predicts_the_same_again(tmp_path, name):
    random_model(tmp_path / "base", name, "AutoModel" if "Bert" in name else "AutoModelForCausalLM")
    torch.manual_seed(0)
    model, tokenizer, _ = load_classifier(str(tmp_path / "base"), "lm", WORDS, "cpu")
    ids = ragged(12)
    args = make_args(gradient_checkpointing=True, epochs=2)
    before = predict(model, tokenizer, ids, "cpu")
    fit(train_weak.prepare_for_training(model, args)[0], tokenizer, ids, same_label(12), args)
    after = predict(model, tokenizer, ids, "cpu")
    assert after[:, 1].mean() > before[:, 1].mean() + 0.005                    # it moves towards the labels
    alone = np.concatenate([predict(model, tokenizer, [row], "cpu") for row in ids])
    assert np.abs(alone - after).max() < 1e-5
    contract.save_checkpoint(str(tmp_path), model, tokenizer)
    reloaded = load_classifier(str(tmp_path / "checkpoint"), "lm", WORDS, "cpu")[0]
    assert np.array_equal(predict(reloaded, tokenizer, ids, "cpu"), after)
