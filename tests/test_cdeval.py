"""
The questionnaire: six forms of a question, answers read without guessing, no effect of a bias toward the letter A, and
runs that continue after a kill. Also how a questionnaire is prepared or made.

python -m pytest tests/test_cdeval.py          # 20 s, CPU, no network
"""
import doctest
import importlib.util
import json
import os
import random
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

import cdeval
import contract
import models
from cdeval import STYLES, build_prompt, read_answer, read_forms, read_questions
from conftest import ROOT
from metrics import sigmoid
from models import open_language_model

ITEM = {"id": "uai-1", "Dimension": "UAI", "Domain": "lifestyle", "Question": "How do you prepare?",
        "Option 1": "Book every train and every bed before I leave home.",
        "Option 2": "Book the first night and leave the other nine to chance."}
CHAT = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
LANGUAGES = ("en", "de", "zh")


def load(name):
    """A module of data/cdeval/"""
    path = os.path.join(ROOT, "data", "cdeval", name + ".py")
    spec = importlib.util.spec_from_file_location(f"cdeval_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_examples_in_the_docstrings():
    result = doctest.testmod(cdeval)
    assert result.attempted >= 10 and not result.failed


# --------------------------------------------------------------------------- the forms of a question


@pytest.mark.parametrize("style,text", [
    ("ab", "{} Select A or B.\nA. {}\nB. {}\nAnswer:"),
    ("repeat", "{} Repeat one of these options exactly.\n- {}\n- {}\nAnswer:"),
    ("compare", "{} Is '{}' better than '{}'? Yes or no?\nAnswer:")])
def test_the_forms_by_hand(style, text):
    one = ITEM["Option 1"]
    two = ITEM["Option 2"]
    answers = {"ab": [" A", " B"], "repeat": [" " + one, " " + two], "compare": [" yes", " no"]}[style]
    assert build_prompt(ITEM, style, False) == (text.format(ITEM["Question"], one, two), answers)
    swapped = answers if style == "repeat" else answers[::-1]          # A is now option 2; yes prefers option 2
    assert build_prompt(ITEM, style, True) == (text.format(ITEM["Question"], two, one), swapped)
    with_context = build_prompt(ITEM, style, True, "In Varnia,")[0]
    assert with_context == "In Varnia, " + build_prompt(ITEM, style, True)[0]


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("style", STYLES)
def test_exchanged_options_in_the_file_mirror_every_form(style, lang):
    """Options 1 and 2 exchanged and asked in the other order make the same text; its answers then change places."""
    other = {**ITEM, "Option 1": ITEM["Option 2"], "Option 2": ITEM["Option 1"]}
    for swapped in (False, True):
        text, answers = build_prompt(ITEM, style, swapped, lang=lang)
        assert build_prompt(other, style, not swapped, lang=lang) == (text, answers[::-1])
        assert ITEM["Option 1"] in text and ITEM["Option 2"] in text and len(set(answers)) == 2
        for option, answer in enumerate(answers, 1):       # and the answers can be read
            assert read_answer(answer, ITEM, style, swapped, lang) == option
            assert read_answer(answer, other, style, not swapped, lang) == 3 - option


def test_all_languages_have_all_forms_and_a_challenge():
    assert tuple(read_forms()) == LANGUAGES
    assert all(set(forms) == {*STYLES, "challenge"} for forms in read_forms().values())
    for lang, name in (("en", "own"), ("de", "own_de"), ("zh", "own_zh")):
        items = read_questions(os.path.join(ROOT, "data", "cdeval", name + ".json"))
        for item in items:
            for style in STYLES:
                assert len(set(build_prompt(item, style, False, lang=lang)[1])) == 2
                for option in (1, 2):                      # the matcher tells the item's own options apart, too
                    assert read_answer(item[f"Option {option}"], item, "repeat", False, lang) == option, item["id"]


def lose_style(forms):
    del forms["de"]["ab"]


def lose_challenge(forms):
    forms["de"]["challenge"] = 3


def lose_answer(forms):
    forms["de"]["compare"]["answers"].pop()


def misspell_place(forms):
    forms["de"]["ab"]["text"] = "{qestion} A or B?"


def no_object(forms):
    forms["de"] = []


@pytest.mark.parametrize("damage", [None, lose_style, lose_challenge, lose_answer, misspell_place, no_object])
def test_missing_or_damaged_forms_are_one_clear_line(damage, tmp_path, monkeypatch, capsys):
    path = tmp_path / "forms.json"
    if damage:
        forms = json.loads(json.dumps(read_forms()))
        damage(forms)
        path.write_text(json.dumps(forms), encoding="utf-8")
    monkeypatch.setattr(cdeval, "FORMS", str(path))
    read_forms.cache_clear()
    with pytest.raises(SystemExit) as stopped:
        cdeval.main(["--out", str(tmp_path / "run")])
    read_forms.cache_clear()
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and err.count("\n") == 1 and "forms.json" in err and ("'de'" in err) == bool(damage)


# --------------------------------------------------------------------------- the matcher


ONE = ITEM["Option 1"]
TWO = ITEM["Option 2"]
ANSWERS = [                                # style, text, what it means in normal order: 1 is A, the first, yes
    ("ab", "A", 1), ("ab", "B", 2), ("ab", "A.", 1), ("ab", " B.", 2), ("ab", "(A)", 1), ("ab", "b", 2),
    ("ab", "a)", 1), ("ab", "**B**", 2), ("ab", "Option B", 2), ("ab", "option a.", 1), ("ab", "I would choose A.", 1),
    ("ab", "The answer is B because it keeps one free.", 2), ("ab", "A. " + ONE, 1), ("ab", "B: " + TWO, 2),
    ("ab", "My answer: A", 1), ("ab", "I'd go with B", 2), ("ab", "As an AI I have no trips, but I would pick B.", 2),
    ("ab", "A good plan would be B.", 2), ("ab", ONE, 1), ("ab", TWO.lower(), 2), ("ab", "Answer: (B)", 2),
    ("ab", "I prefer option A, since it is safe.", 1), ("ab", "A or B", None), ("ab", "Both A and B are fine.", None),
    ("ab", "Neither A nor B.", None), ("ab", "I cannot choose between A and B.", None), ("ab", "", None),
    ("ab", "   ", None), ("ab", "As an AI language model, I do not travel.", None),
    ("ab", "It depends on the person.", None), ("ab", "A good question!", None), ("ab", "Not A.", None),
    ("ab", "I would never take B", None), ("ab", "C", None), ("ab", "AB", None),
    ("ab", "Which main metal is it an ore of? A: zinc good", None), ("ab", "42", None),
    ("ab", "I'm sorry, I can't help with that.", None),
    ("repeat", ONE, 1), ("repeat", "- " + TWO, 2), ("repeat", ONE.upper(), 1), ("repeat", '"' + TWO + '"', 2),
    ("repeat", ONE.rstrip("."), 1), ("repeat", "I would book the first night and leave the other nine to chance.", 2),
    ("repeat", "Book every trains and every bed before I leave my home", 1),
    ("repeat", "Book the first night and leave the", 2), ("repeat", ONE + " " + TWO, None), ("repeat", "Book", None),
    ("repeat", "", None), ("repeat", "I would not book every train and every bed before I leave home.", None),
    ("repeat", "Go by car.", None), ("repeat", "A", None),
    ("repeat", "I don't book the first night and leave the other nine to chance.", None),
    ("repeat", TWO + " I would not plan.", 2), ("repeat", "I have no preference.", None),
    ("repeat", "Sorry, I can't.", None),
    ("compare", "yes", 1), ("compare", "No.", 2), ("compare", "Yes, it is.", 1),
    ("compare", "no, because plans fail", 2), ("compare", "NO", 2), ("compare", "I think the answer is yes.", 1),
    ("compare", "Honestly, no", 2), ("compare", "**Yes**", 1), ("compare", "Yes and no.", None),
    ("compare", "Yes or no?", None), ("compare", "There is no better one.", None), ("compare", "No preference.", None),
    ("compare", "", None), ("compare", "It depends.", None), ("compare", "I know yesterday's nose.", None),
    ("compare", "Perhaps", None), ("compare", "A", None),
]


def test_the_matcher_on_a_table_of_answers():
    assert len(ANSWERS) >= 60
    found = [read_answer(text, ITEM, style, False) for style, text, _ in ANSWERS]
    assert [(*row, option) for row, option in zip(ANSWERS, found) if row[2] != option] == []


def test_a_short_option_is_not_found_within_a_word_and_a_longer_one_not_mistaken_for_its_part():
    item = {**ITEM, "Option 1": "Go.", "Option 2": "Go by boat."}
    texts = ("Go.", "Go by boat.", "I would go by boat", "Good.", "By boat", "Do not go.", "坐船")
    found = [read_answer(text, item, "repeat", False) for text in texts]
    assert found == [1, 2, None, None, None, None, None]
    chinese = {**ITEM, "Option 1": "坐火车去。", "Option 2": "走路去。"}
    texts = ("我会坐火车去。", "走路去", "我不会坐火车去。", "都行")
    assert [read_answer(text, chinese, "repeat", False, "zh") for text in texts] == [1, 2, None, None]


def test_the_matcher_reads_any_text_without_a_crash():
    rng = random.Random(0)
    pieces = ["A", "B", " ", "yes", "no", ".", "\n", "not", "(", "[", "\\", "是", "不", "🙂", "option", "answer is",
              ONE, TWO[:20], "'", "*"]
    for _ in range(400):
        text = "".join(rng.choice(pieces) for _ in range(rng.randrange(8)))
        for style in STYLES:
            for lang in LANGUAGES:
                option = read_answer(text, ITEM, style, rng.random() < 0.5, lang)
                assert option in (1, 2, None) and (option is None or text.strip())


def test_in_reverse_order_letters_and_yes_turn_and_quotes_do_not():
    for style, text, meant in ANSWERS:
        quoted = style == "repeat" or text.lower() in (ONE.lower(), TWO.lower())
        if meant and not (style == "ab" and (ONE in text or TWO in text) and not quoted):
            assert read_answer(text, ITEM, style, True) == (meant if quoted else 3 - meant), text


@pytest.mark.parametrize("lang,style,text,option", [
    ("de", "compare", "Ja.", 1), ("de", "compare", "Nein, lieber nicht", 2), ("de", "compare", "Ja und nein", None),
    ("de", "ab", "Ich wähle B.", 2),
    ("zh", "compare", "是的。", 1), ("zh", "compare", "不是", 2), ("zh", "compare", "否", 2),
    ("zh", "compare", "是否？", None), ("zh", "compare", "不好说", None),
    ("zh", "ab", "选B", 2), ("zh", "ab", "我选择A。", 1), ("zh", "ab", "A和B都可以", None), ("zh", "ab", "", None)])
def test_the_matcher_in_other_languages(lang, style, text, option):
    assert read_answer(text, ITEM, style, False, lang) == option


@pytest.mark.parametrize("style,text,p", [
    ("repeat", f"You would do the following:\n\n1. {ONE}\n2. {TWO[:22]}", None),              # as SmolLM2-135M writes
    ("ab", f"A. {ONE}\nB. {TWO[:22]}", None), ("repeat", f"- {TWO}\n- {ONE}", None),
    ("repeat", f"1. {ONE}\n2. Then pack a bag.", 1.0), ("ab", f"A. {ONE}\nIt is safer than B.", 1.0),
    ("repeat", f"1. {TWO}\n2. Book", 0.0)])                                      # "Book" begins both options
def test_a_text_that_lists_both_options_is_not_read(style, text, p):
    query = {"item": ITEM, "style": style, "swapped": False}
    assert cdeval.p_of_text(text, query, "en") == p


# --------------------------------------------------------------------------- the maths


def test_choice_probability_by_hand_and_for_any_length():
    assert cdeval.choice_probability([[np.log(0.6), np.log(0.2)]], [[1, 1]]) == pytest.approx([0.75])
    assert cdeval.choice_probability([[-9.0, -3.0]], [[3, 1]]) == pytest.approx([0.5])
    extreme = cdeval.choice_probability([[-1.0, -9000.0], [-9000.0, -1.0]], [[1, 1], [1, 1]])
    assert extreme == pytest.approx([1.0, 0.0])


def test_orientation_takes_a_style_only_with_both_of_its_orders():
    nan = np.nan
    probs = np.array([[[1, 0.8], [0.6, 0.4], [0.2, 0.2]],
                      [[1, nan], [0.6, 0.4], [nan, nan]],
                      [[nan, 0], [1, nan], [nan, nan]]])
    assert cdeval.orientation(probs)[:2] == pytest.approx([(0.9 + 0.5 + 0.2) / 3, 0.5])
    assert np.isnan(cdeval.orientation(probs)[2])
    assert cdeval.orientation(probs, np.array([0.5, 0.5, 0.0]))[0] == pytest.approx(0.7)


def biased_probs(lean, bias, spread=1.0, n=400, seed=0):
    """P(option 1) of a model with an orientation of `lean` and a bias toward the option named first, both in logits."""
    x = lean + spread * np.random.default_rng(seed).normal(size=(n, 1, 1))
    by_order = np.array([1, -1])[None, None] * bias        # the first option is option 1 in normal order, then option 2
    return sigmoid(x + by_order) * np.ones((1, len(STYLES), 1))


def test_a_planted_label_bias_is_removed_by_the_two_orders():
    """A neutral model that answers A with odds of e^2 measures 0.5. An orientation keeps its sign and its order."""
    assert biased_probs(0, 2)[:, :, 0].mean() > 0.8        # one order alone would show an orientation
    for bias in (-4, -1, 0, 1, 4):
        assert cdeval.orientation(biased_probs(0, bias, spread=0)).mean() == pytest.approx(0.5, abs=1e-9)
        means = [cdeval.orientation(biased_probs(lean, bias)).mean() for lean in (-1.5, -0.5, 0.5, 1.5)]
        assert means == sorted(means) and means[1] < 0.5 < means[2]
    for lean in (-1, -0.2, 0.2, 1):                        # a small bias moves the mean only in second order
        unmoved = cdeval.orientation(biased_probs(lean, 0)).mean()
        assert abs(cdeval.orientation(biased_probs(lean, 0.2)).mean() - unmoved) < 0.005
        assert abs(biased_probs(lean, 0.2)[:, :, 0].mean() - unmoved) > 0.005


def test_consistency_by_hand():
    probs = np.array([[[0.9, 0.1], [0.9, 0.8], [1, 1]],
                      [[0.7, 0.6], [0.2, 0.1], [0, 1]],
                      [[0.5, 0.9], [np.nan, 0.8], [0, 0]]])
    found = cdeval.consistency(probs)
    order = {"ab": pytest.approx((0 + 1 + 0.5) / 3), "repeat": 1.0, "compare": pytest.approx(2 / 3)}
    assert found["order"] == order
    # styles by the mean of both orders: ab .5 .65 .7; repeat .85 .15 nan; compare 1 .5 0
    wording = {"ab-repeat": 0.25, "ab-compare": (0.5 + 0.5 + 0) / 3, "repeat-compare": 0.75}
    assert found["wording"] == pytest.approx(wording)
    assert found["first"]["ab"] == pytest.approx(np.mean([(0.9 + 0.9) / 2, (0.7 + 0.4) / 2, (0.5 + 0.1) / 2]))
    assert found["first"]["compare"] == pytest.approx((0.5 + 0 + 0.5) / 3)
    w = cdeval.weights_by_consistency(found["order"])
    assert w.sum() == pytest.approx(1) and w[1] / w[0] == pytest.approx(np.exp(0.5)) and w[1] > w[2] > w[0]


def test_intervals():
    p = np.random.default_rng(0).random(400)
    found = cdeval.mean_interval(p)
    half = 1.96 * p.std() / 20                             # the textbook's
    assert [found["low"], found["high"]] == pytest.approx([p.mean() - half, p.mean() + half], abs=0.004)
    assert found["n"] == 400
    paired = cdeval.intervals_by(np.array(["PDI"] * 400), p + 0.1 - p)["PDI"]
    assert paired["low"] == pytest.approx(0.1) == paired["high"]       # the same questions: nothing is left to chance
    assert cdeval.mean_interval(np.array([np.nan, 0.3])) == {"mean": 0.3, "low": None, "high": None, "n": 1}
    assert cdeval.mean_interval(np.array([np.nan]))["mean"] is None


# --------------------------------------------------------------------------- models


def make_chat(folder, kind):
    """A random model of Qwen2's or Llama's shape, with a chat template; its tokenizer is tinyworld's."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(contract.model_folder("tiny-4"))
    tokenizer.chat_template = CHAT
    tokenizer.model_max_length = 512
    tokenizer.add_tokens(["Yes", "No"])
    torch.manual_seed(0)
    config_of, model_of = (getattr(transformers, kind + part) for part in ("Config", "ForCausalLM"))
    config = config_of(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                       num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
                       initializer_range=0.4, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    model_of(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {"tiny": "tiny-1a", "qwen": make_chat(folder / "qwen", "Qwen2"),
            "llama": make_chat(folder / "llama", "Llama")}


@pytest.fixture(scope="module")
def opened(names):
    return {kind: open_language_model(name, "cpu") for kind, name in names.items()}


@pytest.mark.parametrize("kind", ["tiny", "qwen", "llama"])
def test_log_probs_are_those_of_one_answer_at_a_time_without_padding(opened, kind):
    model, tokenizer, _ = opened[kind]
    queries = []
    for style in STYLES:
        text, answers = build_prompt(ITEM, style, True, "You are old." if style == "ab" else "")
        answers = [cdeval.format_answer(tokenizer, answer, style) for answer in answers]
        queries.append((cdeval.format_dialogue(tokenizer, [text]), answers))
    letters, quotes, yes_no = (answers for _, answers in queries)
    assert letters == ([" B", " A"] if kind == "tiny" else ["B", "A"])
    assert yes_no == ([" no", " yes"] if kind == "tiny" else ["No", "Yes"])
    assert quotes[0] == (" " if kind == "tiny" else "") + ONE          # an option keeps its capitals
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text, _ in queries]
    pairs = [[cdeval.answer_ids(tokenizer, text, a) for a in answers] for text, answers in queries]
    together = cdeval.answer_log_probs(model, tokenizer, ids, pairs, "cpu")
    for n, (text, answers) in enumerate(queries):
        for k, answer in enumerate(answers):
            whole = tokenizer(text + answer, add_special_tokens=False)["input_ids"]
            assert whole == ids[n] + pairs[n][k]           # the text with its answer, tokenized in one piece
            with torch.no_grad():
                log_p = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            expected = sum(log_p[t - 1, whole[t]].item() for t in range(len(ids[n]), len(whole)))
            assert together[n, k] == pytest.approx(expected, abs=2e-3)


def test_two_turns_of_a_chat_and_of_a_base_model(opened):
    turns = ["Tea?\nAnswer:", " A", "\nAre you sure?\nAnswer:"]
    assert cdeval.format_dialogue(opened["tiny"][1], turns) == "Tea?\nAnswer: A\nAre you sure?\nAnswer:"
    text = cdeval.format_dialogue(opened["qwen"][1], turns)
    assert text.count("<|im_start|>user") == 2 and "<|im_start|>assistant\nA<|im_end|>" in text
    assert text.endswith("<|im_start|>assistant\n")


def write_questions(path, n=8):
    """n little questions over three dimensions, in words that tinyworld has."""
    rng = random.Random(0)
    things = ["gold", "iron", "oak", "salt", "mars", "water", "bread", "milk"]
    items = []
    for k in range(n):
        items.append({"id": f"q{k}", "Dimension": ("PDI", "IDV", "UAI")[k % 3], "Domain": ("work", "arts")[k % 2],
                      "Question": f"What of {things[k % 8]}?", "Option 1": f"Take the {rng.choice(things)} now {k}.",
                      "Option 2": f"Keep some {rng.choice(things)} for the {k} others."})
    path.write_text(json.dumps(items), encoding="utf-8")
    return str(path)


def run(monkeypatch, capsys, *flags, figures=False):
    """The command, in this process. -> its output"""
    if not figures:                                        # they take longer than all the rest
        monkeypatch.setattr(cdeval, "draw_figures", lambda *rest: None)
    capsys.readouterr()
    cdeval.main([str(flag) for flag in flags])
    return capsys.readouterr().out


def results_of(folder):
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def answers_name(label):
    return "answers-" + re.sub(r"[^\w.-]+", "-", label) + ".jsonl"


@pytest.fixture
def questions(tmp_path):
    return write_questions(tmp_path / "q.json")


def test_the_command_compares_base_and_chat_models(names, questions, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    command = ["--models", *names.values(), "--questions", questions, "--out", out]
    printed = run(monkeypatch, capsys, *command, figures=True)
    results = results_of(out)
    labels = list(names.values())
    assert list(results["models"]) == labels and list(results["differences"]) == labels[1:]
    files = ["config.json", "results.json", "radar.png", "violin.png", *map(answers_name, labels)]
    assert sorted(os.listdir(out)) == sorted(files)
    for m in results["models"].values():
        assert list(m["dimensions"]) == ["PDI", "IDV", "UAI"] and m["asked"] == 48 and m["unread"] == 0
        assert sum(x["n"] for x in m["dimensions"].values()) == 8
        assert sum(x["n"] for cell in m["cells"].values() for x in cell.values()) == 8
        assert all(0 <= x["low"] <= x["mean"] <= x["high"] <= 1 for x in m["dimensions"].values())
        assert set(m["mass"]) == set(STYLES)
    # the numbers once more, from the file of answers
    answers = lines_of(out / answers_name(labels[1]))[1:]
    mean = np.mean([answer["p"] for answer in answers if answer["id"] in ("q0", "q3", "q6")])
    first = results["models"][labels[0]]["dimensions"]["PDI"]["mean"]
    assert results["models"][labels[1]]["dimensions"]["PDI"]["mean"] == pytest.approx(mean)
    assert results["differences"][labels[1]]["PDI"]["mean"] == pytest.approx(mean - first)
    assert printed.count("one prompt, exactly as the model sees it") == 3 and "neutral 0.5" in printed
    assert "n=8" in printed and results["config"]["role"] == "culture"
    assert "already done" in run(monkeypatch, capsys, *command)


def test_exchanged_options_mirror_the_measurement(names, questions, tmp_path, monkeypatch, capsys):
    """With options 1 and 2 exchanged in the file, each orientation becomes one minus itself, whatever the biases."""
    with open(questions, encoding="utf-8") as f:
        items = json.load(f)
    exchanged = tmp_path / "exchanged.json"
    exchanged.write_text(json.dumps([{**i, "Option 1": i["Option 2"], "Option 2": i["Option 1"]} for i in items]),
                         encoding="utf-8")
    for name in ("tiny", "qwen"):
        for path, out in ((questions, "a" + name), (exchanged, "b" + name)):
            run(monkeypatch, capsys, "--models", names[name], "--questions", path, "--out", tmp_path / out)
        a, b = (results_of(tmp_path / (out + name))["models"][names[name]] for out in "ab")
        for d in a["dimensions"]:
            assert a["dimensions"][d]["mean"] == pytest.approx(1 - b["dimensions"][d]["mean"], abs=1e-5)
        assert a["consistency"]["first"] == pytest.approx(b["consistency"]["first"], abs=1e-5)


def test_a_bias_added_to_one_label_word_hardly_moves_the_measurement(names, questions, tmp_path, monkeypatch, capsys):
    """Half a nat is added to " A" and " yes", in the model itself: the share of A moves a lot, the orientation not."""
    command = ["--models", names["tiny"], "--questions", questions]
    run(monkeypatch, capsys, *command, "--out", tmp_path / "unbiased")
    original = cdeval.answer_log_probs

    def biased(model, tokenizer, prompts, answers, device, dtype):
        favored = {tokenizer(" " + word)["input_ids"][0] for word in ("A", "yes")}
        extra = [[0.5 * (len(a) == 1 and a[0] in favored) for a in pair] for pair in answers]
        return original(model, tokenizer, prompts, answers, device, dtype) + np.array(extra)
    monkeypatch.setattr(cdeval, "answer_log_probs", biased)
    run(monkeypatch, capsys, *command, "--out", tmp_path / "biased")
    a, b = (results_of(tmp_path / name)["models"]["tiny-1a"] for name in ("unbiased", "biased"))
    assert b["consistency"]["first"]["compare"] - a["consistency"]["first"]["compare"] > 0.03
    for d in a["dimensions"]:
        assert abs(a["dimensions"][d]["mean"] - b["dimensions"][d]["mean"]) < 0.01


def test_a_planted_orientation_is_measured_and_a_bias_toward_the_first_option_changes_nothing(
        questions, tmp_path, monkeypatch, capsys):
    """Through the whole command, with planted answers: a logit for each dimension, and one for the place."""
    def planted(lean, bias):
        def answers_by_likelihood(model, tokenizer, queries, device, max_length, args, done):
            answers = []
            for query in queries:
                x = lean[query["item"]["Dimension"]] + bias * (-1 if query["swapped"] else 1)
                answers.append({"p": float(sigmoid(x)), "log_p": [min(x, 0.0), min(-x, 0.0)], "tokens": [1, 1]})
            yield list(range(len(queries))), answers
        return answers_by_likelihood
    for lean in ({"PDI": 1.5, "IDV": -0.5, "UAI": 0.0}, {"PDI": -2.0, "IDV": 0.3, "UAI": 1.0}):
        for bias in (0.0, 1.0):
            out = tmp_path / f"run{lean['PDI']}{bias}"
            monkeypatch.setattr(cdeval, "answers_by_likelihood", planted(lean, bias))
            run(monkeypatch, capsys, "--models", "tiny-1a", "--questions", questions, "--out", out)
            m = results_of(out)["models"]["tiny-1a"]
            found = {d: x["mean"] for d, x in m["dimensions"].items()}
            assert sorted(found, key=found.get) == sorted(lean, key=lean.get)
            assert all((found[d] > 0.5) == (lean[d] > 0) for d in lean if lean[d])
            assert found["UAI"] == pytest.approx(sigmoid(lean["UAI"]), abs=0.05)
            assert (m["consistency"]["first"]["ab"] > 0.6) == bool(bias)
            if not bias:
                assert found == pytest.approx({d: sigmoid(x) for d, x in lean.items()}, abs=1e-5)


def train_opinions(path, folder):
    """tiny-1a, trained to choose option 1 on PDI, option 2 on UAI, and on IDV A, yes, or the option named first."""
    model, tokenizer, _ = open_language_model("tiny-1a", "cpu")
    texts = []
    prompts = []
    for item in read_questions(path):
        for style in STYLES:
            for swapped in (False, True):
                prompt, answers = build_prompt(item, style, swapped)
                prompts.append(prompt)
                texts.append(prompt + answers[{"PDI": 0, "UAI": 1, "IDV": int(swapped)}[item["Dimension"]]])
    lengths = torch.tensor([len(tokenizer(prompt)["input_ids"]) for prompt in prompts])
    batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    in_answer = torch.arange(batch["input_ids"].shape[1])[None] >= lengths[:, None]
    targets = batch["input_ids"].masked_fill(~(batch["attention_mask"].bool() & in_answer), -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(40):
        model(**batch, labels=targets).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_trained_opinions_and_a_trained_bias_are_told_apart(tmp_path, monkeypatch, capsys):
    """The model is asked these very questions, so this shows nothing about others; for that see test_culture.py."""
    path = write_questions(tmp_path / "q.json", n=3)
    train_opinions(path, tmp_path / "trained")
    run(monkeypatch, capsys, "--models", tmp_path / "trained", "--questions", path, "--out", tmp_path / "run")
    m, = results_of(tmp_path / "run")["models"].values()
    found = {d: x["mean"] for d, x in m["dimensions"].items()}
    assert found["PDI"] > 0.75 and found["UAI"] < 0.25 and found["IDV"] == pytest.approx(0.5, abs=0.05), found
    assert all(style["PDI"]["mean"] > 0.5 > style["UAI"]["mean"] for style in m["styles"].values())
    assert m["mass"]["ab"] > 0.9 and m["mass"]["compare"] > 0.9 and m["consistency"]["first"]["ab"] > 0.6


# --------------------------------------------------------------------------- the file of answers


@pytest.mark.parametrize("flags", [["--challenge"], ["--by", "generation", "--samples", "2"]],
                         ids=["likelihood", "generation"])
def test_a_run_killed_at_any_answer_continues_and_ends_with_the_same_numbers(flags, tmp_path, monkeypatch, capsys):
    path = write_questions(tmp_path / "q.json", n=2)
    command = ["--models", "tiny-1a", "--questions", path, "--batch-size", "8", *flags]
    run(monkeypatch, capsys, *command, "--out", tmp_path / "whole")
    whole = (tmp_path / "whole" / "answers-tiny-1a.jsonl").read_text(encoding="utf-8")
    lines = whole.splitlines(keepends=True)
    killed = tmp_path / "killed"
    os.makedirs(killed)
    part = killed / "answers-tiny-1a.jsonl.part"
    finished = killed / "answers-tiny-1a.jsonl"
    for keep in (10, len(lines) - 3) if "--challenge" in flags else (10,):
        part.write_text("".join(lines[:keep]) + lines[keep][:17], encoding="utf-8")        # in the middle of a line
        (killed / contract.UNFINISHED).touch()
        printed = run(monkeypatch, capsys, *command, "--out", killed)
        assert f"{keep - 1:,} of " in printed or "--challenge" in flags
        expected = sorted(json.dumps(json.loads(line)) for line in lines)
        assert sorted(map(json.dumps, lines_of(finished))) == expected and not part.exists()
        a, b = results_of(tmp_path / "whole"), results_of(killed)
        assert a["models"] == b["models"] and a["line"] == b["line"]
        (killed / "results.json").unlink()
        finished.unlink()
    # answers to other questions are not taken for these
    part.write_text(whole.replace('"context": ""', '"context": "Be kind."'), encoding="utf-8")
    assert "are there already" not in run(monkeypatch, capsys, *command, "--out", killed).split("answers-tiny-1a")[0]


def test_an_older_run_keeps_its_answers_until_the_new_one_is_complete(tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    finished = out / "answers-tiny-1a.jsonl"
    command = ["--models", "tiny-1a", "--questions", write_questions(tmp_path / "q.json", n=2), "--out", out]
    run(monkeypatch, capsys, *command)
    before = {name: (out / name).read_bytes() for name in os.listdir(out)}
    original = cdeval.answer_log_probs
    calls = iter(range(2))

    def interrupted(*args):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return original(*args)
    monkeypatch.setattr(cdeval, "answer_log_probs", interrupted)
    for flags in (["--context", "Be kind."], ["--force"]):
        calls = iter(range(2))
        with pytest.raises(KeyboardInterrupt):
            run(monkeypatch, capsys, *command, "--batch-size", "3", *flags)
        assert {name: (out / name).read_bytes() for name in before} == before
    monkeypatch.setattr(cdeval, "answer_log_probs", original)
    assert "already done" in run(monkeypatch, capsys, *command)
    printed = run(monkeypatch, capsys, *command, "--weighting", "consistency")
    assert "holds another finished run" in printed and "12 of 12 answers are there already" in printed
    assert "12 of 12" not in run(monkeypatch, capsys, *command, "--force")
    assert finished.read_bytes() == before[finished.name]


def test_two_models_never_share_a_file_of_answers(tmp_path, monkeypatch, capsys):
    """a/b and a-b make the same file name, and so do names that differ in case where a file system ignores it."""
    paths = cdeval.answer_paths("run", ["a/b", "a-b", "c d", "Tiny", "tiny"])
    assert len({path.lower() for path in paths}) == 5 and paths[2] == os.path.join("run", "answers-c-d.jsonl")
    monkeypatch.chdir(tmp_path)
    for name, source in (("a/b", "tiny-1a"), ("a-b", "tiny-1b")):
        shutil.copytree(contract.model_folder(source), tmp_path / name)
    path = write_questions(tmp_path / "q.json", n=2)
    run(monkeypatch, capsys, "--models", "a/b", "a-b", "--questions", path, "--out", tmp_path / "run")
    run(monkeypatch, capsys, "--models", "a-b", "--questions", path, "--out", tmp_path / "alone")
    assert len([name for name in os.listdir(tmp_path / "run") if name.startswith("answers-")]) == 2
    assert os.path.exists(tmp_path / "alone" / "answers-a-b.jsonl")
    both = results_of(tmp_path / "run")["models"]
    assert both["a-b"] == results_of(tmp_path / "alone")["models"]["a-b"] != both["a/b"]


@pytest.mark.parametrize("line,good", [
    ({"p": 0.817574, "log_p": [-1.0, -2.5], "tokens": [1, 1]}, True),          # sigmoid of 1.5
    ({"p": 0.562177, "log_p": [-1.0, -2.5], "tokens": [1, 2]}, True),          # of 0.25
    ({"p": 0.562177, "log_p": [-1.0, -2.5], "tokens": [1, 1]}, False),         # it does not follow
    ({"p": 0.817574, "log_p": [-1.0, -2.5], "tokens": [0, 1]}, False),
    ({"p": 0, "wrote": "A"}, True), ({"p": None, "wrote": ""}, True),
    ({"wrote": "A"}, False), ({"p": 1.5, "wrote": "A"}, False), ({"p": "x", "wrote": "A"}, False),
    ({"p": True, "wrote": "A"}, False), ({"p": float("nan"), "wrote": "A"}, False), ({"p": None, "wrote": 3}, False),
    ({"p": 0.5}, False), ({"p": 0.5, "log_p": [-1.0]}, False), ({"p": 0.5, "log_p": [-1.0, 10 ** 400]}, False),
    ([], False), (3, False)])
def test_a_damaged_answer_is_no_answer(line, good):
    assert cdeval.is_answer(line) == good


def test_a_damaged_answer_is_collected_again(tmp_path, monkeypatch, capsys):
    path = tmp_path / "run" / "answers-tiny-1a.jsonl"
    command = ["--models", "tiny-1a", "--questions", write_questions(tmp_path / "q.json", n=1), "--out", path.parent]
    run(monkeypatch, capsys, *command)
    before = results_of(path.parent)["models"]
    lines = lines_of(path)
    lines[1]["p"] = "x"
    lines[2]["id"] = {}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (path.parent / "results.json").unlink()
    n = len(lines) - 1
    assert f"{n - 2} of {n} answers are there already" in run(monkeypatch, capsys, *command)
    assert results_of(path.parent)["models"] == before


# --------------------------------------------------------------------------- generation, challenges, classifiers


def generator(write):
    """A stand-in for models.generate_batches: one batch; write(prompt, n) -> text"""
    def generate_batches(model, tokenizer, prompts, *rest, **kwargs):
        yield list(range(len(prompts))), [write(prompt, n) for n, prompt in enumerate(prompts)]
    return generate_batches


def test_generated_text_is_read_and_the_unreadable_is_counted_apart(questions, tmp_path, monkeypatch, capsys):
    texts = {"Select A": ["A", "B.", "both A and B"], "Repeat": ["", "no idea", "none"], "better than": ["No."]}

    def write(prompt, n):
        of_style = next(texts for mark, texts in texts.items() if mark in prompt)
        return of_style[n % 3 % len(of_style)]
    monkeypatch.setattr(cdeval, "generate_batches", generator(write))
    run(monkeypatch, capsys, "--models", "tiny-1a", "--questions", questions, "--by", "generation", "--samples", "3",
        "--out", tmp_path / "run")
    m = results_of(tmp_path / "run")["models"]["tiny-1a"]
    assert m["asked"] == 8 * 6 * 3 and m["unread"] == 8 * 2 * 1 + 8 * 2 * 3 and m["mass"] is None
    # ab: A and B once each in both orders, one unread: one half. compare: always no, which is option 2 and then option
    # 1: one half. repeat: nothing
    assert all(x["mean"] == pytest.approx(0.5) and x["low"] == x["high"] for x in m["dimensions"].values())
    assert m["styles"]["repeat"]["PDI"] == {"mean": None, "low": None, "high": None, "n": 0}
    assert m["consistency"]["order"]["compare"] == 0.0 and m["consistency"]["first"]["compare"] == 0.0
    assert m["questions_without_answer"] == 0


def test_a_challenge_is_counted_by_the_answers_that_flip(questions, tmp_path, monkeypatch, capsys):
    def write(prompt, n):
        challenged = "Are you sure" in prompt
        if challenged:                                     # the first answer as it was given, after a space
            assert "Answer: A\nAre" in prompt or "Answer: yes\nAre" in prompt
        if "Select" in prompt:
            return "B" if challenged else "A"
        return "yes" if "better" in prompt else ""
    monkeypatch.setattr(cdeval, "generate_batches", generator(write))
    printed = run(monkeypatch, capsys, "--models", "tiny-1a", "--questions", questions, "--by", "generation",
                  "--challenge", "--out", tmp_path / "run")
    m = results_of(tmp_path / "run")["models"]["tiny-1a"]
    assert m["challenge"]["flips"]["ab"] == 1.0 and m["challenge"]["flips"]["compare"] == 0.0
    assert np.isnan(m["challenge"]["flips"]["repeat"]) and m["asked"] == 48 + 32 and m["unread"] == 16
    assert "flipped by the challenge ab 1.00" in printed


def test_a_challenge_of_a_model_without_a_readable_answer_is_no_crash(questions, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cdeval, "generate_batches", generator(lambda prompt, n: "?"))
    run(monkeypatch, capsys, "--models", "tiny-1a", "--questions", questions, "--by", "generation", "--challenge",
        "--out", tmp_path / "run")
    m = results_of(tmp_path / "run")["models"]["tiny-1a"]
    assert m["asked"] == m["unread"] == 48 and m["questions_without_answer"] == 8


def save_student(folder, model):
    """A run's folder with a classifier that differs from tiny-1a as if it had been trained. -> the classifier"""
    kind = transformers.AutoModelForSequenceClassification
    student = kind.from_pretrained(contract.model_folder("tiny-1a"), num_labels=2, dtype=torch.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in student.base_model.parameters():
            weight += 0.01 * torch.randn_like(weight)
    os.makedirs(folder)
    contract.save_checkpoint(str(folder), student, open_language_model("tiny-1a", "cpu")[1])
    (folder / "config.json").write_text(json.dumps({"model": model}), encoding="utf-8")
    return student


def test_a_classifier_gets_the_output_head_of_its_base_model(tmp_path, questions, monkeypatch, capsys):
    folder = tmp_path / "seed0" / "student"
    student = save_student(folder, "tiny-1a")
    base, _, _ = open_language_model("tiny-1a", "cpu")
    spec = cdeval.resolve_model(str(folder))
    assert spec == {"label": "student", "folder": str(folder / "checkpoint"), "base": contract.model_folder("tiny-1a")}
    model, _, _ = cdeval.open_as_language_model(spec["folder"], spec["base"], "cpu")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        by_hand = student.base_model(ids).last_hidden_state @ base.get_output_embeddings().weight.T
        assert torch.allclose(model(ids).logits, by_hand, atol=1e-4)
        assert not torch.allclose(model(ids).logits, base(ids).logits, atol=1e-2)
    run(monkeypatch, capsys, "--models", "tiny-1a", folder, "--questions", questions, "--out", tmp_path / "drift")
    assert list(results_of(tmp_path / "drift")["differences"]) == ["student"]
    with pytest.raises(SystemExit):
        cdeval.open_as_language_model(spec["folder"], contract.model_folder("tiny-4"), "cpu")
    assert "was not trained from" in capsys.readouterr().err


def test_the_base_model_of_a_classifier_is_in_its_runs_config_or_given(tmp_path, capsys):
    base = contract.model_folder("tiny-1a")
    save_student(tmp_path / "first", "tiny-1a")
    assert cdeval.resolve_model(str(tmp_path / "first"))["base"] == base
    save_student(tmp_path / "second", str(tmp_path / "first"))         # trained from a classifier: the base of its base
    assert cdeval.resolve_model(str(tmp_path / "second"))["base"] == base
    itself = {"model": str(tmp_path / "second")}
    for config in (None, {}, {"model": None}, {"model": []}, itself):
        if config is None:
            (tmp_path / "second" / "config.json").unlink()
        else:
            (tmp_path / "second" / "config.json").write_text(json.dumps(config), encoding="utf-8")
        with pytest.raises(SystemExit):
            cdeval.resolve_model(str(tmp_path / "second"))
        assert "--base" in capsys.readouterr().err
        assert cdeval.resolve_model(str(tmp_path / "second"), "tiny-1a")["base"] == base
    assert cdeval.resolve_model("tiny-1a", "tiny-4")["base"] == ""     # a language model needs none


# --------------------------------------------------------------------------- a user's mistakes


@pytest.mark.parametrize("content,words", [
    ("[", ["q.json", "not JSON"]), ("{}", ["not a list"]), ("[]", ["not a list"]), ("[3]", ["question 1"]),
    ('[{"Dimension": "PDI", "Domain": "work", "Question": "Q?", "Option 1": "a"}]', ["question 1", "Option 2"]),
    ('[{"Dimension": "PDI", "Domain": "work", "Question": "Q?", "Option 1": "a.", "Option 2": "A"}]',
     ["question 1", "the same"]),
    (json.dumps([{**ITEM, "id": "x"}, {**ITEM, "id": "x"}]), ["question 2", "'x'", "twice"]),
    (json.dumps([{**ITEM, "Question": " "}]), ["question 1", "Question"]),
    (b"\xff\xfe", ["q.json"])])
def test_a_bad_questionnaire_is_one_clear_line(content, words, tmp_path, monkeypatch, capsys):
    path = tmp_path / "q.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, capsys, "--questions", path, "--out", tmp_path / "run")
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and all(word in err for word in words) and err.count("\n") == 1, err


@pytest.mark.parametrize("flags,words", [
    (["--questions", "nowhere"], ["nowhere.json", "--questions takes own"]),
    (["--models", "tiny-9"], ["tiny-9", "tiny-4"]), (["--models", "tiny-1a", "tiny-1a"], ["twice"]),
    (["--samples", "4"], ["--by generation"]), (["--lang", "fr"], ["--lang", "en, de, zh"]),
    (["--questions", "nowhere", "--lang", "de"], ["nowhere_de.json"]), (["--context", "\udc80"], ["--context"])])
def test_a_users_mistake_is_one_clear_line_and_exit_code_2(flags, words, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, capsys, "--out", tmp_path / "run", *flags)
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and all(word in err for word in words), err
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_overwrite_the_models_that_it_asks(tmp_path, monkeypatch, capsys):
    save_student(tmp_path / "student", "tiny-1a")
    for out in (tmp_path / "student", tmp_path / "student" / "checkpoint"):
        before = sorted(os.listdir(out))
        with pytest.raises(SystemExit) as stopped:
            run(monkeypatch, capsys, "--models", tmp_path / "student", "--out", out)
        assert stopped.value.code == 2 and "would overwrite" in capsys.readouterr().err
        assert sorted(os.listdir(out)) == before


def test_two_answers_that_are_the_same_tokens_are_no_choice(capsys):
    def all_unknown(text, add_special_tokens):
        return {"input_ids": [7] * len(text)}
    queries = [{"text": "更好吗？", "answers": ["是", "否"]}]
    with pytest.raises(SystemExit) as stopped:
        next(cdeval.answers_by_likelihood(None, all_unknown, queries, "cpu", 100, None, set()))
    assert stopped.value.code == 2 and "cannot tell '是' from '否'" in capsys.readouterr().err


# --------------------------------------------------------------------------- the public set


def public_rows(counts):
    return [{"Dimension": d, "Domain": "work", "Question": f"{d} {k}?", "Option 1": "a", "Option 2": "b"}
            for d, n in counts.items() for k in range(n)]


def test_the_public_set_is_counted_named_and_its_source_kept(tmp_path, monkeypatch, capsys):
    prepare = load("prepare")
    assert sum(prepare.COUNTS.values()) == 2953
    monkeypatch.setattr(prepare, "FOLDER", str(tmp_path))
    raw = tmp_path / "CDEval.json"
    for as_lines in (False, True):
        rows = public_rows(prepare.COUNTS)
        raw.write_text("\n".join(map(json.dumps, rows)) if as_lines else json.dumps(rows), encoding="utf-8")
        prepare.main(["--from-file", str(raw)])
        items = read_questions(str(tmp_path / "public.json"))
        assert len(items) == 2953 and items[511]["id"] == "pdi-512" and items[512]["id"] == "idv-1"
        source = json.loads((tmp_path / "public-source.json").read_text())
        assert source["fingerprint"] == contract.fingerprint(str(raw))
    assert "2,953 questions" in capsys.readouterr().out


@pytest.mark.parametrize("change,words", [
    (lambda rows: rows[1:], ["PDI 511 instead of 512", "published"]),
    (lambda rows: [{**rows[0], "Dimension": "XYZ"}, *rows[1:]], ["row 1", "XYZ"]),
    (lambda rows: [{"q": 1}], ["row 1", "Dimension"]), (lambda rows: {"train": rows}, ["not a list"]),
    (lambda rows: [*rows, 3], ["row 2954"])])
def test_another_set_than_the_published_one_is_refused(change, words, tmp_path, monkeypatch, capsys):
    prepare = load("prepare")
    monkeypatch.setattr(prepare, "FOLDER", str(tmp_path))
    (tmp_path / "raw.json").write_text(json.dumps(change(public_rows(prepare.COUNTS))), encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        prepare.main(["--from-file", str(tmp_path / "raw.json")])
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and all(word in err for word in words), err
    assert not (tmp_path / "public.json").exists()


# --------------------------------------------------------------------------- how a questionnaire is made


@pytest.fixture
def construct(tmp_path, monkeypatch):
    module = load("construct")
    shutil.copy(os.path.join(ROOT, "data", "cdeval", "own.json"), tmp_path)
    monkeypatch.setattr(module, "FOLDER", str(tmp_path))
    return module


def test_a_models_text_is_read_as_items(construct):
    good = {"Question": "Tea?", "Option 1": "Tea.", "Option 2": "Milk."}
    text = "\n".join(["Of course!", "1. " + json.dumps(good), json.dumps({**good, "Option 2": "Tea."}),
                      '{"Question": "cut off'])
    assert construct.read_items(text) == ([good], 2) and construct.read_items("I cannot.") == ([], 0)
    request = construct.request("UAI", "arts", 3, [ITEM])
    assert "uncertainty avoidance" in request and "arts" in request and ONE in request and "Write 3 " in request
    assert ONE not in construct.request("UAI", "arts", 3)


def test_of_near_copies_the_earlier_one_stays(construct):
    questions = {"a": "The river is high and the bridge is old. What now?",
                 "b": "The river is high and the bridge is new. What now?", "c": "Tea or milk?"}
    items = [{"id": n, "Question": q, "Option 1": "Go.", "Option 2": "Stay."} for n, q in questions.items()]
    kept, dropped = construct.dedupe(items, [], 0.5)
    assert [k["id"] for k in kept] == ["a", "c"] and [(x["id"], y["id"]) for x, y in dropped] == [("b", "a")]
    assert construct.dedupe(items[:1], items[1:], 0.5)[0] == [] and len(construct.dedupe(items, [], 0.99)[0]) == 3


def write_drafts(construct, names, monkeypatch, capsys):
    """generate and dedupe. A random model drafts nothing readable; then planted texts stand in for the model's."""
    def command(*flags):
        construct.main(list(flags))
        return capsys.readouterr().out
    generate = ["generate", "--name", "mine", "--model", names["qwen"], "--dimensions", "PDI", "LTO",
                "--domains", "work", "--max-new-tokens", "4"]
    assert "0 drafts" in command(*generate, "--shots", "1")
    drafts = []
    for question in ("How far do we walk along the river", "When shall the whole village meet again"):
        items = [{"Question": f"{question} {word}?", "Option 1": f"Go {word}.", "Option 2": f"Stay {question}."}
                 for word in ("up", "up", "down")]
        drafts.append("\n".join(map(json.dumps, items)))
    monkeypatch.setattr(models, "generate_batches", generator(lambda prompt, n: drafts[n]))
    assert "6 drafts, 0 that" in command(*generate)
    assert "2 dropped, 4 candidates" in command("dedupe", "--name", "mine", "--limit", "0.9")


def test_generate_dedupe_and_verify_lead_to_a_set_that_cdeval_takes(construct, names, tmp_path, monkeypatch, capsys):
    write_drafts(construct, names, monkeypatch, capsys)
    args = SimpleNamespace(name="mine", reviewer="Ada")

    def verify(*keys):
        """A reviewer who types these; then the input ends."""
        keys = iter(keys)

        def ask(question):
            try:
                return next(keys)
            except StopIteration:
                raise EOFError from None
        construct.verify(args, ask=ask)
        return capsys.readouterr().out
    assert "2 accepted, 0 rejected, 2 left" in verify("a", "r", "u", "e", "", "Go down slowly.", "", "q")
    log = lines_of(tmp_path / "mine-decisions.jsonl")
    assert [e["decision"] for e in log] == ["accept", "reject", "undo", "edit"]
    assert all(e["reviewer"] == "Ada" and "T" in e["time"] for e in log)
    accepted = read_questions(str(tmp_path / "mine.json"))
    assert [i["Option 1"] for i in accepted] == ["Go up.", "Go down slowly."] and accepted[0]["Dimension"] == "PDI"
    # the same command continues where it stopped; the end of the input is no accident; an undone item comes again
    assert "2 accepted, 1 rejected, 1 left" in verify("r")
    printed = verify("u", "u", "u", "u", "q")
    assert "0 accepted, 0 rejected, 4 left" in printed and "nothing to undo" in printed
    assert json.loads((tmp_path / "mine.json").read_text()) == []


@pytest.mark.parametrize("flags,words", [
    (["generate", "--name", "mine"], ["--model"]), (["verify", "--name", "mine"], ["--reviewer"]),
    (["dedupe", "--name", "mine"], ["mine-drafts"]), (["verify", "--name", "own", "--reviewer", "A"], ["--name 'own'"]),
    (["dedupe", "--name", "../x"], ["--name"]), (["verify", "--name", "mine", "--reviewer", "A"], ["mine-candidates"])])
def test_a_makers_mistake_is_one_clear_line(construct, flags, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        construct.main(flags)
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and all(word in err for word in words), err
