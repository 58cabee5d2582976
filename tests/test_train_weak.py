"""
Metrics, pooling, models, batches and the fine-tuning loop, on cases small enough to check by hand.

python -m pytest tests/test_train_weak.py        # 20 s, CPU, no network
"""
import doctest
import json
import math
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

import clean_labels
import contract
import measure
import prompting
import train_strong
import train_weak
from train_weak import (accuracy, auroc, batches_of_like_length, classify, ece, fit, label_word_ids, load_model, metrics, pad, predict,
                        soft_xent, tokenise)

TINY = "tiny-1a"


@pytest.fixture(scope="module")
def tiny():
    return load_model(TINY, "lm", [" no", " yes"], "cpu")


def quick(**flags):
    return SimpleNamespace(**{"seed": 0, "lr": 1e-3, "batch_size": 8, "micro_batch_size": None, "epochs": 1, "dtype": "fp32", **flags})


# --------------------------------------------------------------------------- by hand

@pytest.mark.parametrize("module", [train_weak, train_strong, clean_labels, measure, prompting])
def test_the_worked_examples_in_docstrings_are_right(module):
    assert doctest.testmod(module, extraglobs={"torch": torch}).failed == 0


def test_soft_xent_of_equal_scores_is_log_2_whatever_the_label():
    loss = soft_xent(torch.tensor([[3.0, 3.0]]), torch.tensor([[0.38, 0.62]]))
    assert math.isclose(loss.item(), math.log(2), rel_tol=1e-6)


def test_soft_xent_is_torchs_own_cross_entropy():
    logits, soft = torch.randn(8, 2), torch.rand(8, 2).softmax(-1)
    assert torch.allclose(soft_xent(logits, soft).mean(), torch.nn.functional.cross_entropy(logits, soft))


def test_pitfall_07_a_constant_scorer_has_half_right_and_auroc_one_half():
    labels = [1, 1, 1, 0]
    assert accuracy([0.5] * 4, labels) == 0.5 and auroc([0.5] * 4, labels) == 0.5


def test_auroc_counts_ordered_pairs():
    rng = np.random.default_rng(0)
    p, y = rng.random(200).round(2), rng.integers(0, 2, 200)                   # rounded: ties occur
    pairs = [(a > b) + 0.5 * (a == b) for a in p[y == 1] for b in p[y == 0]]
    assert math.isclose(auroc(p, y), np.mean(pairs), rel_tol=1e-12)


def test_auroc_is_nan_with_one_class():
    assert math.isnan(auroc([0.1, 0.9], [1, 1]))


def test_ece_of_a_calibrated_scorer_is_small_and_of_a_boaster_is_not():
    rng = np.random.default_rng(0)
    p = rng.random(20000)
    y = (rng.random(20000) < p).astype(int)
    assert ece(p, y) < 0.02 and ece(np.where(p > 0.5, 0.999, 0.001), y) > 0.2


def test_metrics_count_everything():
    m = metrics(np.array([[0.1, 0.9], [0.8, 0.2], [0.4, 0.6], [0.7, 0.3]]), [{"label": v, "group": str(k)} for k, v in enumerate((1, 0, 0, 0))])
    assert m["n"] == 4 and m["accuracy"] == 0.75 and m["share_yes"] == 0.25 and m["says_yes"] == 0.5 and m["chance"] == 0.75
    assert math.isclose(m["se"], math.sqrt(0.75 * 0.25 / 4))                   # rows of different questions: the binomial one


def test_the_standard_error_knows_that_rows_of_one_question_go_together():
    """400 questions of five equal rows each tell as much as 400 rows."""
    p = np.random.default_rng(0).random((400, 2))
    rows = [{"label": 1, "group": str(k)} for k in range(400)]
    assert math.isclose(metrics(np.repeat(p, 5, 0), [row for row in rows for _ in range(5)])["se"], metrics(p, rows)["se"])


# --------------------------------------------------------------------------- pooling and padding

def ragged(n=12, seed=0, vocabulary=2000):
    """Token ids of many lengths; 0 is padding and end-of-text here, and stands inside some of them, at the end too."""
    rng = np.random.default_rng(seed)
    ids = [rng.integers(0, vocabulary, rng.integers(1, 30)).tolist() for _ in range(n)]
    ids[0][-1], ids[1][0], ids[2][len(ids[2]) // 2] = 0, 0, 0
    return ids


def test_pitfall_01_pooling_reads_the_last_real_token_whatever_its_id(tiny):
    model, tokenizer, _ = tiny
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 0
    ids = ragged()
    with torch.no_grad():
        together = classify(model, pad(ids, tokenizer, "cpu"))
        for i, row in enumerate(ids):                                          # a batch of one, read at its true end, by the language model's own body
            alone = model.score(model.transformer(torch.tensor([row])).last_hidden_state[0, -1])
            assert torch.allclose(together[i], alone, atol=1e-4), i


@pytest.mark.parametrize("extra", [1, 7, 40])
def test_pitfall_02_padding_changes_nothing(tiny, extra):
    model, tokenizer, _ = tiny
    batch = pad(ragged(), tokenizer, "cpu")
    wider = {k: torch.nn.functional.pad(v, (0, extra)) for k, v in batch.items()}
    with torch.no_grad():
        assert torch.allclose(classify(model, batch), classify(model, wider), atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_pitfall_02_the_tokenizers_padding_side_does_not_matter(tiny, side):
    model, tokenizer, longest = tiny
    rows = [{"text": t} for t in ("Q: Is gold a metal? A: yes", "Q: Who? A: me", "!")]
    before = predict(model, tokenizer, tokenise(tokenizer, rows, longest), "cpu")
    tokenizer.padding_side = side
    after = predict(model, tokenizer, tokenise(tokenizer, rows, longest), "cpu")
    assert np.array_equal(before, after)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A BERT with random weights and tinyworld's tokenizer: encoders pool in their own way and use the mask."""
    folder = str(tmp_path_factory.mktemp("bert"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(contract.model_folder(TINY))
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_an_encoder_is_padding_invariant_and_goes_through_the_same_functions(encoder):
    torch.manual_seed(0)
    model, tokenizer, longest = load_model(encoder, "lm", [" no", " yes"], "cpu")
    ids = ragged()
    alone = np.concatenate([predict(model, tokenizer, [row], "cpu") for row in ids])
    assert np.abs(alone - predict(model, tokenizer, ids, "cpu")).max() < 1e-5


def test_the_head_starts_as_the_language_models_opinion(tiny):
    model, tokenizer, _ = tiny
    lm = transformers.AutoModelForCausalLM.from_pretrained(contract.model_folder(TINY), dtype=torch.float32)
    ids = tokenizer("Q: In which block of the periodic table is the element gold? A: d-block")["input_ids"]
    with torch.no_grad():
        expected = lm(torch.tensor([ids])).logits[0, -1, label_word_ids(tokenizer, [" no", " yes"])]
        assert torch.allclose(classify(model, pad([ids], tokenizer, "cpu"))[0], expected, atol=1e-4)


def test_label_words_of_more_than_one_token_are_refused(tiny, capsys):
    with pytest.raises(SystemExit):
        label_word_ids(tiny[1], [" no", " Zyzzogeton"])
    assert "one token each" in capsys.readouterr().err


def test_too_long_rows_lose_their_beginning_and_it_is_said(tiny, capsys):
    _, tokenizer, _ = tiny
    rows = [{"text": "gold " * 50 + "Q: Is it? A: yes"}, {"text": "Q: Is it? A: yes"}]
    long, short = tokenise(tokenizer, rows, 12)
    assert len(long) == 12 and tokenizer.decode(long).endswith("A: yes") and tokenizer.decode(short) == rows[1]["text"]
    assert "1 of 2 rows" in capsys.readouterr().out


# --------------------------------------------------------------------------- batches, training, prediction

@pytest.mark.parametrize("n,size,steps", [(33, 32, 2), (32, 32, 1), (7, 3, 3), (1, 32, 1), (1000, 32, 32)])
def test_pitfall_19_every_row_comes_once_and_the_last_batch_may_be_smaller(n, size, steps):
    batches = batches_of_like_length([n - i for i in range(n)], size, np.random.default_rng(0))
    assert sorted(i for batch in batches for i in batch) == list(range(n)) and len(batches) == steps


def test_pitfall_23_the_order_changes_between_epochs_and_repeats_with_the_seed():
    lengths = np.random.default_rng(1).integers(5, 30, 500).tolist()
    first, again = np.random.default_rng(0), np.random.default_rng(0)
    epochs = [batches_of_like_length(lengths, 32, first) for _ in range(2)]
    assert epochs[0] != epochs[1] and epochs == [batches_of_like_length(lengths, 32, again) for _ in range(2)]


def test_prediction_returns_every_row_in_its_place_and_distinct_doubts_stay_distinct(tiny):
    model, tokenizer, _ = tiny
    ids = ragged(33)
    p = predict(model, tokenizer, ids, "cpu", tokens=64)
    assert p.dtype == np.float32 and p.shape == (33, 2) and np.allclose(p.sum(1), 1, atol=1e-6) and not (p == 0.5).any()
    order = np.random.default_rng(0).permutation(33)
    assert np.abs(predict(model, tokenizer, [ids[i] for i in order], "cpu", tokens=64) - p[order]).max() < 1e-5


def trained(target=None, **flags):
    torch.manual_seed(0)
    model, tokenizer, _ = load_model(TINY, "lm", [" no", " yes"], "cpu")
    ids = ragged(24)
    soft = np.random.default_rng(3).random(24).astype(np.float32)
    fit(model, tokenizer, ids, np.stack([1 - soft, soft], 1), quick(**flags), "cpu", target=target)
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
        model, tokenizer, _ = load_model("tiny-4", "lm", [" no", " yes"], "cpu")
        args = quick(gradient_checkpointing=flags.pop("checkpointing", False), lora=None, lr=1e-4, **flags)
        model, _ = train_weak.prepare_for_training(model, args)
        ids, soft = [list(range(5, 45))] * 16, np.full((16, 2), 0.5, np.float32)
        return saved_for_backward(lambda: fit(model, tokenizer, ids, soft, args, "cpu")), flat(model)

    plain, weights = bytes_of(batch_size=16)
    checkpointed, same_weights = bytes_of(batch_size=16, checkpointing=True)
    # what is computed once more in the backward pass is that of one layer at a time: far less than all layers at once
    assert checkpointed < 0.5 * plain and torch.allclose(weights, same_weights, atol=1e-5)
    quarter, _ = bytes_of(batch_size=16, micro_batch_size=4)
    assert quarter < 0.35 * plain


def test_pitfall_09_one_step_moves_the_weights_also_under_bf16_autocast():
    before = flat(load_model(TINY, "lm", [" no", " yes"], "cpu")[0])
    after = trained(batch_size=24, lr=1e-5, dtype="bf16")
    assert all(p.dtype == torch.float32 for p in after.parameters())
    weights = torch.cat([p.detach().flatten() for n, p in after.named_parameters() if ".h." in n and "attn.c_attn.bias" not in n])
    old = torch.cat([p.detach().flatten() for n, p in load_model(TINY, "lm", [" no", " yes"], "cpu")[0].named_parameters() if ".h." in n and "attn.c_attn.bias" not in n])
    assert (weights != old).float().mean() > 0.99 and before.shape == flat(after).shape


def test_dropout_is_off(encoder):
    assert transformers.AutoConfig.from_pretrained(encoder).hidden_dropout_prob == 0.1
    model = load_model(encoder, "lm", [" no", " yes"], "cpu")[0]
    drops = [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    assert len(drops) > 3 and not any(drops)


def test_a_saved_checkpoint_gives_the_same_predictions_and_keeps_its_head(tmp_path, tiny):
    model, tokenizer, longest = tiny
    contract.save_checkpoint(str(tmp_path), model, tokenizer)
    again, tokenizer_again, _ = load_model(str(tmp_path / "checkpoint"), "lm", [" no", " yes"], "cpu")
    rows = [{"text": "Q: Is gold a metal? A: yes"}]
    assert np.array_equal(predict(model, tokenizer, tokenise(tokenizer, rows, longest), "cpu"),
                          predict(again, tokenizer_again, tokenise(tokenizer_again, rows, longest), "cpu"))
    assert sorted(n for n in os.listdir(tmp_path / "checkpoint") if n.endswith((".bin", ".pt", ".pkl"))) == []


def copy_of_tiny(tmp_path, drop=(), **config):
    folder = tmp_path / "model"
    shutil.copytree(contract.model_folder(TINY), folder)
    for name in drop:
        os.remove(folder / name)
    if config:
        spec = json.loads((folder / "config.json").read_text()) | config
        (folder / "config.json").write_text(json.dumps(spec))
    return folder


def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path, capsys):
    def refused(name, *words):
        with pytest.raises(SystemExit) as stop:
            load_model(str(name), "lm", [" no", " yes"], "cpu")
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.count("\n") == 1 and all(word in error for word in words), error

    refused("no-such-model", "no-such-model")
    refused("tiny-9", "tiny-9", "tiny-4")
    refused(copy_of_tiny(tmp_path / "a", drop=["model.safetensors"]), "cannot load")
    truncated = copy_of_tiny(tmp_path / "b")
    (truncated / "model.safetensors").write_bytes((truncated / "model.safetensors").read_bytes()[:5000])
    refused(truncated, "cannot load")
    refused(copy_of_tiny(tmp_path / "c", n_layer=9), "lacks", "config.json")   # weights that are not there would be random, silently


def test_a_folder_without_tokenizer_is_one_line(tmp_path, capsys):
    folder = copy_of_tiny(tmp_path, drop=["tokenizer.json", "tokenizer_config.json"])
    with pytest.raises(SystemExit) as stop:
        model, tokenizer, longest = load_model(str(folder), "random", [" no", " yes"], "cpu")
        tokenise(tokenizer, [{"id": "a", "text": "gold"}], longest)
    assert stop.value.code == 2 and "Traceback" not in capsys.readouterr().err


def test_without_peft_lora_is_one_line_that_says_what_to_install(tiny, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(SystemExit) as stop:
        train_weak.prepare_for_training(tiny[0], SimpleNamespace(gradient_checkpointing=False, lora=4))
    assert stop.value.code == 2 and "pip install peft" in capsys.readouterr().err


def test_lora_moves_few_weights_and_gives_an_ordinary_model_back(tmp_path):
    pytest.importorskip("peft")
    model, tokenizer, _ = load_model(TINY, "lm", [" no", " yes"], "cpu")
    args, ids = quick(gradient_checkpointing=False, lora=2, batch_size=4), ragged(12)
    soft = np.tile(np.array([[0.1, 0.9]], np.float32), (12, 1))
    training, ordinary = train_weak.prepare_for_training(model, args)
    assert sum(p.numel() for p in training.parameters() if p.requires_grad) < 0.05 * sum(p.numel() for p in training.parameters())
    fit(training, tokenizer, ids, soft, args, "cpu")
    before = predict(training, tokenizer, ids, "cpu")
    plain = ordinary()
    contract.save_checkpoint(str(tmp_path), plain, tokenizer)
    again = load_model(str(tmp_path / "checkpoint"), "lm", [" no", " yes"], "cpu")[0]
    assert np.abs(predict(again, tokenizer, ids, "cpu") - before).max() < 1e-5 and not any("lora" in n for n, _ in again.named_parameters())


def test_scores_that_are_no_numbers_stop_the_run(tiny, capsys):
    model, tokenizer, _ = load_model(TINY, "lm", [" no", " yes"], "cpu")
    model.score.weight.data[:] = float("nan")
    with pytest.raises(SystemExit):
        predict(model, tokenizer, [[1, 2, 3]], "cpu")
    assert "diverged" in capsys.readouterr().err


SIZES = {"GPT2": {}, "OPT": dict(ffn_dim=64, word_embed_proj_dim=32), "Llama": dict(tie_word_embeddings=False), "Qwen2": dict(num_key_value_heads=1),
         "Qwen3": dict(num_key_value_heads=1, head_dim=16), "Gemma": dict(num_key_value_heads=1, head_dim=16), "GPTNeoX": {}, "Bert": {}, "ModernBert": {}}


def random_model(folder, name, kind):
    """A model of two layers with random weights, and tinyworld's tokenizer, in a folder like any hub model's."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(contract.model_folder(TINY))
    sizes = dict(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=64, pad_token_id=0)
    sizes |= SIZES[name] | ({} if name in ("GPT2", "OPT") else {"intermediate_size": 64})
    torch.manual_seed(0)
    model = getattr(transformers, kind).from_config(getattr(transformers, name + "Config")(**sizes)).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", ["GPT2", "GPTNeoX", "Llama", "Qwen2", "Qwen3", "OPT", "Gemma"])
def test_other_decoders_pool_at_the_end_and_start_from_their_own_rows(tmp_path, name):
    """Random weights, untied embeddings where the architecture has them: padded in a batch = alone, and the head is the language model's."""
    lm = random_model(tmp_path, name, "AutoModelForCausalLM")
    model, tokenizer, longest = load_model(str(tmp_path), "lm", [" no", " yes"], "cpu")
    ids = ragged(8)
    with torch.no_grad():
        together = classify(model.eval(), pad(ids, tokenizer, "cpu"))
        for i, row in enumerate(ids):
            assert torch.allclose(together[i], lm(torch.tensor([row])).logits[0, -1, label_word_ids(tokenizer, [" no", " yes"])], atol=1e-4)


@pytest.mark.parametrize("name", list(SIZES))
def test_every_architecture_trains_saves_loads_and_says_the_same_again(tmp_path, name):
    random_model(tmp_path / "base", name, "AutoModel" if "Bert" in name else "AutoModelForCausalLM")
    torch.manual_seed(0)
    model, tokenizer, longest = load_model(str(tmp_path / "base"), "lm", [" no", " yes"], "cpu")
    ids, soft = ragged(12), np.tile(np.array([[0.1, 0.9]], np.float32), (12, 1))
    args = quick(gradient_checkpointing=True, lora=None, epochs=2)
    before = predict(model, tokenizer, ids, "cpu")
    fit(train_weak.prepare_for_training(model, args)[0], tokenizer, ids, soft, args, "cpu")
    p = predict(model, tokenizer, ids, "cpu")
    assert p[:, 1].mean() > before[:, 1].mean() + 0.005                        # it moves towards the labels
    assert np.abs(np.concatenate([predict(model, tokenizer, [row], "cpu") for row in ids]) - p).max() < 1e-5
    contract.save_checkpoint(str(tmp_path), model, tokenizer)
    again = load_model(str(tmp_path / "checkpoint"), "lm", [" no", " yes"], "cpu")[0]
    assert np.array_equal(predict(again, tokenizer, ids, "cpu"), p)
