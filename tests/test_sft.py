"""
sft.py: the loss on continuations by hand, padding, whose texts a student is trained on, bad files.

python -m pytest tests/test_sft.py               # 20 s
"""
import copy
import doctest
import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

import align_tasks
import cdeval
import models
import predict
import sft
import warm
from models import open_language_model, pad, token_nll
from test_align_tasks import QUICK, build, call, house_of_rows, must, read_bytes


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(sft).failed == 0


# --------------------------------------------------------------------------- the loss on continuations


@pytest.fixture(scope="module")
def writer():
    return open_language_model("tiny-1a", "cpu")


PROMPTS = ["Prompt: I am cold. Reply:", "Prompt: I have a toothache today and it is bad. Reply:"]
TEXTS = ["Here, take my warm coat.", "Oh no."]


def test_pitfall_31_padding_and_prompt_never_change_a_loss(writer):
    model, tokenizer, max_length = writer
    ids, span = sft.encode_pairs(tokenizer, PROMPTS, TEXTS, max_length, end=True)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id                    # masking by id would drop the end
    batch = pad(ids, tokenizer, "cpu") | {"span": torch.tensor(span)}
    with torch.no_grad():
        together = sft.continuation_loss(model, batch)
        for i in (0, 1):
            alone = pad([ids[i]], tokenizer, "cpu")
            loss = sft.continuation_loss(model, alone | {"span": batch["span"][i:i + 1]})
            assert loss[0] == pytest.approx(together[i].item(), abs=1e-5)
            log_probs = model(**alone).logits[0].log_softmax(-1)               # by hand, with the end of the text
            start = int(span[i, 0])
            by_hand = -np.mean([log_probs[t - 1, ids[i][t]].item() for t in range(start, len(ids[i]))])
            assert together[i].item() == pytest.approx(by_hand, abs=1e-5) and ids[i][-1] == tokenizer.eos_token_id
        wide = {"input_ids": torch.nn.functional.pad(batch["input_ids"], (0, 17), value=tokenizer.eos_token_id),
                "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (0, 17))}
        assert torch.allclose(sft.mean_over_span(token_nll(model, wide), batch["span"]), together, atol=1e-5)
    nll, n_tokens = sft.continuation_nll(model, tokenizer, PROMPTS, TEXTS, max_length, "cpu")
    assert np.allclose(nll / n_tokens, together.numpy(), atol=1e-4)


def test_the_prompt_gets_no_gradient_of_its_own(writer):
    """Only the tokens of the continuation count, and all of them do."""
    model, tokenizer, max_length = writer
    ids, span = sft.encode_pairs(tokenizer, PROMPTS, TEXTS, max_length, end=True)
    nll = torch.zeros(2, max(map(len, ids)) - 1, requires_grad=True)
    sft.mean_over_span(nll, torch.tensor(span)).sum().backward()
    for i in (0, 1):
        counted = nll.grad[i].nonzero()[:, 0] + 1                              # column t is about token t + 1
        assert counted.tolist() == list(range(int(span[i, 0]), int(span[i, 1])))


def test_pitfall_32_a_continuation_is_scored_in_the_tokens_it_is_written_in(writer):
    """Prompt and continuation, tokenized apart, are the tokens of the whole text."""
    _, tokenizer, max_length = writer
    with open(os.path.join(house_of_rows(), "toxicity", "train1.jsonl"), encoding="utf-8") as f:
        row = json.loads(f.readline())
    ids, _ = sft.encode_pairs(tokenizer, [row["text"]], [row["continuation"]], max_length, end=False)
    assert ids[0] == tokenizer(row["text"] + " " + row["continuation"])["input_ids"]


def test_a_writer_needs_a_token_that_ends_a_text(writer, monkeypatch, capsys):
    model, tokenizer, max_length = writer
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.eos_token = None
    monkeypatch.setattr(sft, "open_language_model", lambda *_: (model, tokenizer, max_length))
    with pytest.raises(SystemExit):
        sft.train_on_texts([], [], SimpleNamespace(model="mine", seed=0), "cpu")
    assert "'mine' has no end-of-text token" in capsys.readouterr().err


def test_a_long_prompt_loses_its_beginning_and_an_empty_continuation_is_its_end(writer, capsys):
    _, tokenizer, _ = writer
    prompts = ["one two three four five six seven eight nine ten eleven", "Hello"]
    ids, span = sft.encode_pairs(tokenizer, prompts, ["the end", ""], 8, end=True)
    text = tokenizer.decode(ids[0])
    assert len(ids[0]) == 8 and text.endswith(" the end" + tokenizer.eos_token) and "one" not in text
    assert span[1, 1] - span[1, 0] == 1
    assert "1 of 2 prompts lose their beginning" in capsys.readouterr().out
    with_bos = [tokenizer.bos_token + prompt for prompt in prompts]            # as the tokenizers of Llama and Gemma do
    ids, _ = sft.encode_pairs(tokenizer, with_bos, ["the end", ""], 8, end=True)
    assert [i[0] for i in ids] == [tokenizer.bos_token_id] * 2 and tokenizer.decode(ids[0][1:]) in text
    assert "lose their end" not in capsys.readouterr().out
    ids, span = sft.encode_pairs(tokenizer, prompts, ["one two three four five", "x"], 8, end=True)
    assert span[0].tolist() == [4, 8] and tokenizer.eos_token_id not in ids[0]
    assert "1 of 2 continuations lose their end: they are longer than 4 tokens" in capsys.readouterr().out


# --------------------------------------------------------------------------- whose continuations


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_keep_and_truth_budget_choose_by_the_supervisors_loss(tmp_path, monkeypatch):
    good = tmp_path / "good.jsonl"
    write_jsonl(good, [{"id": i, "text": "good " + i} for i in "abcd"])
    nats = {"a": 0.3, "b": 0.1, "c": 0.4, "d": 0.2}
    write_jsonl(tmp_path / "labels.jsonl", [{"id": i, "text": i.upper(), "nats": x} for i, x in nats.items()])
    monkeypatch.setattr(sft, "read_rows", lambda *_: [{"id": i} for i in "abcd"])
    monkeypatch.setattr(sft, "truth_file", lambda task: str(good))

    def load(keep, budget):
        args = SimpleNamespace(task="t", labels="weak", max_rows=None, keep=keep, truth_budget=budget, sampled=False)
        return sft.load_examples(args, [str(tmp_path)], "cpu")
    rows, texts, rewritten = load(keep=0.5, budget=0)
    assert [row["id"] for row in rows] == ["b", "d"] and texts == ["B", "D"] and rewritten == []
    rows, texts, rewritten = load(keep=1.0, budget=1)
    assert texts == ["A", "B", "good c", "D"] and rewritten == ["c"]
    rows, texts, rewritten = load(keep=0.25, budget=9)
    assert texts == ["good a", "good b", "good c", "good d"]


def test_texts_are_joined_by_id(tmp_path, capsys):
    path = tmp_path / "labels.jsonl"
    write_jsonl(path, [{"id": i, "text": f"text {i}", "nats": 1.0} for i in "cab"])
    assert sft.read_texts(str(path), [{"id": "a"}, {"id": "b"}]) == ["text a", "text b"]
    assert sft.read_texts(str(path), [{"id": "a"}], "nats") == [1.0]
    with pytest.raises(SystemExit):
        sft.read_texts(str(path), [{"id": "z"}])
    assert "'z'" in capsys.readouterr().err
    path.write_text('{"id": "a", "text": "no nats"}\n', encoding="utf-8")
    with pytest.raises(SystemExit):
        sft.read_texts(str(path), [{"id": "a"}], "nats")
    assert "line 1" in capsys.readouterr().err


def test_the_text_that_all_supervisors_find_likeliest_is_chosen(tmp_path, monkeypatch, capsys):
    """Supervisor a gives text A 1 nat a token and text B 3, supervisor b gives A 2 and B 1: means 1.5 and 2, so A."""
    rows = [{"id": "1", "text": "Prompt"}]
    for name in "ab":
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "labels.jsonl", [{"id": "1", "text": name.upper()}])
    nats = {("a", "A"): 1.0, ("a", "B"): 3.0, ("b", "A"): 2.0, ("b", "B"): 1.0}
    monkeypatch.setattr(sft, "open_language_model", lambda path, *_, frozen: (path.split(os.sep)[-2], None, 64))

    def planted_nll(model, tokenizer, prompts, texts, *rest):
        return np.array([5 * nats[model, text] for text in texts]), np.array([5] * len(texts))
    monkeypatch.setattr(sft, "continuation_nll", planted_nll)
    texts, nll = sft.most_agreed_texts([str(tmp_path / "a"), str(tmp_path / "b")], rows, "cpu", BF16)
    assert texts == ["A"] and nll.tolist() == [1.5]
    assert "from each supervisor: a 1.00, b 0.00" in capsys.readouterr().out


# --------------------------------------------------------------------------- models that are not trained


BF16 = SimpleNamespace(dtype="bf16", seed=0)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Three folders with a GPT-2 of 256 columns: a language model, a classifier and a reward model made from it"""
    folders = {}
    torch.manual_seed(0)
    tokenizer = open_language_model("tiny-1a", "cpu")[1]
    for name, kind, n_outputs in (("base", "LMHeadModel", 2), ("classifier", "ForSequenceClassification", 2),
                                  ("reward", "ForSequenceClassification", 1)):
        config = transformers.GPT2Config(vocab_size=len(tokenizer), n_embd=256, n_layer=1, n_head=4, n_positions=64,
                                         num_labels=n_outputs, pad_token_id=0, bos_token_id=0, eos_token_id=0)
        folders[name] = str(tmp_path_factory.mktemp(name))
        getattr(transformers, "GPT2" + kind)(config).save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


ROWS = [{"id": str(i), "text": prompt, "label": i} for i, prompt in enumerate(PROMPTS)]


def choose_between_supervisors(wide, folder):
    """sft.py --labels a,b: two supervisors score each other's texts"""
    for name, texts in (("a", TEXTS), ("b", TEXTS[::-1])):
        (folder / name).mkdir(exist_ok=True)
        shutil.copytree(wide["base"], folder / name / "checkpoint", dirs_exist_ok=True)
        write_jsonl(folder / name / "labels.jsonl", [{**row, "text": text} for row, text in zip(ROWS, texts)])
    return sft.most_agreed_texts([str(folder / "a"), str(folder / "b")], ROWS, "cpu", BF16)[1]


def score_by_reward(wide, folder):
    """sft.py --reward"""
    return sft.score_samples(wide["reward"], ROWS, [TEXTS, TEXTS[::-1]], BF16, "cpu")


def measure_perplexity(wide, folder):
    """align_tasks.py --reader"""
    args = SimpleNamespace(**vars(BF16), scorer="rude-words", reader=wide["base"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(align_tasks, "read_texts", lambda *_: TEXTS)
        patch.setattr(align_tasks, "read_samples", lambda *_: [TEXTS, TEXTS])
        table = align_tasks.score_writers("toxicity", [("supervisor", "weak", [])], ROWS, args, "cpu")
    return np.array(table[0]["perplexity"])


def ask_a_classifier(wide, folder):
    """cdeval.py: a classifier's body under the head of its language model"""
    model, tokenizer, _ = cdeval.open_as_language_model(wide["classifier"], wide["base"], "cpu", BF16)
    return cdeval.answer_log_probs(model, tokenizer, [[5, 6, 7], [8, 9]], [[[10], [11, 12]]] * 2, "cpu", "bf16")


def label_a_table(wide, folder):
    """predict.py"""
    write_jsonl(folder / "new.jsonl", [{"text": prompt} for prompt in PROMPTS])
    out = folder / "out.jsonl"
    out.unlink(missing_ok=True)
    predict.main(["--model", wide["classifier"], "--rows", str(folder / "new.jsonl"), "--out", str(out),
                  "--dtype", "bf16"])
    return np.array([json.loads(line)["p_yes"] for line in out.read_text(encoding="utf-8").splitlines()])


@pytest.mark.parametrize("use", [choose_between_supervisors, score_by_reward, measure_perplexity, ask_a_classifier,
                                 label_a_table])
def test_a_model_that_is_not_trained_has_bf16_matrices_and_gives_the_bytes_of_fp32_ones(wide, tmp_path, use):
    frozen = []
    freeze = models.freeze

    def spied(model):
        freeze(model)
        frozen.append(sum(p.dtype == torch.bfloat16 for p in model.parameters()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "freeze", spied)
        found = use(wide, tmp_path)
        patch.setattr(models, "freeze", lambda model: None)
        masters = use(wide, tmp_path)
    assert frozen and all(n == 4 for n in frozen)          # the four matrices of its block
    assert np.array_equal(found, masters) and np.isfinite(found).all()


# --------------------------------------------------------------------------- the real command, few rows


SFT = ["sft.py", *QUICK, "--samples", "2"]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """With one supervisor."""
    home = str(tmp_path_factory.mktemp("sft"))
    build(home)
    must(home, *SFT, "--labels", "train1", "--model", "tiny-1a", "--out", "weak")
    return home


def test_a_student_is_trained_on_its_supervisors_texts_whatever_the_truth_is(house):
    student = [*SFT, "--labels", "weak", "--model", "tiny-1b", "--out", "student"]
    must(house, *student)
    folder = os.path.join(house, "data", "toxicity", "seed0", "student")
    before = read_bytes(folder, "labels.jsonl")
    truth = os.path.join(house, "data", "toxicity", "truth", "continuations.jsonl")
    with open(truth, encoding="utf-8") as f:
        original = f.read()
    with open(truth, "w", encoding="utf-8") as f:
        f.writelines(json.dumps({**json.loads(line), "text": "You fool."}) + "\n" for line in original.splitlines())
    must(house, *student, "--force")
    assert read_bytes(folder, "labels.jsonl") == before
    with open(truth, "w", encoding="utf-8") as f:
        f.write(original)


def test_what_has_been_trained_is_frozen_in_bf16_after_it_is_saved_and_writes_the_same(house):
    folder = os.path.join(house, "data", "toxicity", "seed0", "half")
    command = [*SFT, "--labels", "weak", "--model", "tiny-1b", "--out", "half", "--dtype", "bf16"]
    found = []
    for before in ("import models; models.freeze = lambda model: print('not frozen')", ""):
        done = warm.run(house, *command, "--force", before=before)
        assert done.returncode == 0 and done.stdout.count("not frozen") == bool(before), done.stdout + done.stderr
        found.append([read_bytes(folder, *name) for name in (
            ("labels.jsonl",), ("samples.jsonl",), ("checkpoint", "model.safetensors"))])
    assert found[0] == found[1]


@pytest.mark.parametrize("command,words", [
    (["--labels", "nobody", "--out", "x"], ["nobody", "Run the command"]),
    (["--labels", "weak", "--out", "weak"], ["overwrite"]),
    (["--labels", "weak,"], ["--labels weak,: a name is empty"]),
    (["--labels", "train1", "--reward", "weak,weak"], ["--reward weak,weak", "occurs twice"]),
    (["--labels", "truth", "--keep", "0.5"], ["--keep", "has none"]),
    (["--labels", "train1", "--lora", "4"], ["--lora"]),                       # for classifiers, as is --head
    (["--labels", "train1", "--head", "random"], ["--head"]),
    (["--labels", "train1", "--sampled"], ["give one run as --labels"]),
    (["--task", "safety", "--labels", "train1"], ["continuation"]),
])
def test_mistakes_are_one_line(house, command, words):
    done = call(house, *SFT, *command)
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and len([x for x in lines if "rror:" in x]) == 1, done.stdout + done.stderr
    assert all(word in lines[-1] for word in words), lines
