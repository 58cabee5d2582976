"""
A questionnaire: asked in six ways, read without guessing, unmoved by a love of the letter A, resumed after a kill; and how one is made.

python -m pytest tests/test_cdeval.py          # 20 s, CPU, no network
"""
import importlib.util
import json
import os
import random
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

import cdeval
import contract
import questionnaire
import respondents
from conftest import ROOT
from prompting import open_language_model
from questionnaire import FORMS, STYLES, prompt, read_answer, read_questions

ITEM = {"id": "uai-1", "Dimension": "UAI", "Domain": "lifestyle", "Question": "How do you prepare?",
        "Option 1": "Book every train and every bed before I leave home.", "Option 2": "Book the first night and leave the other nine to chance."}
CHAT = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def load(name):
    spec = importlib.util.spec_from_file_location(f"cdeval_{name}", os.path.join(ROOT, "data", "cdeval", name + ".py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --------------------------------------------------------------------------- asking

@pytest.mark.parametrize("style,text", [
    ("ab", "{} Select A or B.\nA. {}\nB. {}\nAnswer:"), ("repeat", "{} Repeat one of these options exactly.\n- {}\n- {}\nAnswer:"),
    ("compare", "{} Is '{}' better than '{}'? Yes or no?\nAnswer:")])
def test_the_forms_by_hand(style, text):
    one, two = ITEM["Option 1"], ITEM["Option 2"]
    short = {"ab": (" A", " B"), "repeat": (" " + one, " " + two), "compare": (" yes", " no")}[style]
    assert prompt(ITEM, style, False) == (text.format(ITEM["Question"], one, two), list(short))
    turned = list(short) if style == "repeat" else list(short[::-1])           # A is now option 2; yes now says that option 2 is better
    assert prompt(ITEM, style, True) == (text.format(ITEM["Question"], two, one), turned)
    assert prompt(ITEM, style, True, "In Varnia,")[0] == "In Varnia, " + prompt(ITEM, style, True)[0]


@pytest.mark.parametrize("lang", list(FORMS))
@pytest.mark.parametrize("style", STYLES)
def test_naming_the_options_the_other_way_round_in_the_file_mirrors_everything(style, lang):
    """Option 1 and 2 exchanged and asked in the other order is the same text; its answers then belong to the other option."""
    other = {**ITEM, "Option 1": ITEM["Option 2"], "Option 2": ITEM["Option 1"]}
    for swapped in (False, True):
        text, answers = prompt(ITEM, style, swapped, lang=lang)
        assert prompt(other, style, not swapped, lang=lang) == (text, answers[::-1])
        assert ITEM["Option 1"] in text and ITEM["Option 2"] in text and len(set(answers)) == 2
        for option, answer in enumerate(answers, 1):       # and what is asked for can be read
            assert read_answer(answer, ITEM, style, swapped, lang) == option
            assert read_answer(answer, other, style, not swapped, lang) == 3 - option


def test_all_languages_have_all_forms_and_a_challenge():
    assert set(questionnaire.CHALLENGE) == set(FORMS) and all(set(forms) == set(STYLES) for forms in FORMS.values())
    for lang, name in (("en", "own"), ("de", "own_de"), ("zh", "own_zh")):
        items = read_questions(os.path.join(ROOT, "data", "cdeval", name + ".json"))
        for item in items:
            for style in STYLES:
                assert len(set(prompt(item, style, False, lang=lang)[1])) == 2
                for option in (1, 2):                      # the item's own options are told apart by the matcher, too
                    assert read_answer(item[f"Option {option}"], item, "repeat", False, lang) == option, item["id"]


# --------------------------------------------------------------------------- the matcher

ONE, TWO = ITEM["Option 1"], ITEM["Option 2"]
ANSWERS = [                                                # style, text, what it means in normal order: 1 is A, the first, yes
    ("ab", "A", 1), ("ab", "B", 2), ("ab", "A.", 1), ("ab", " B.", 2), ("ab", "(A)", 1), ("ab", "b", 2), ("ab", "a)", 1), ("ab", "**B**", 2),
    ("ab", "Option B", 2), ("ab", "option a.", 1), ("ab", "I would choose A.", 1), ("ab", "The answer is B because it keeps one free.", 2),
    ("ab", "A. " + ONE, 1), ("ab", "B: " + TWO, 2), ("ab", "My answer: A", 1), ("ab", "I'd go with B", 2),
    ("ab", "As an AI I have no trips, but I would pick B.", 2),
    ("ab", "A good plan would be B.", 2), ("ab", ONE, 1), ("ab", TWO.lower(), 2), ("ab", "Answer: (B)", 2),
    ("ab", "I prefer option A, since it is safe.", 1),
    ("ab", "A or B", None), ("ab", "Both A and B are fine.", None), ("ab", "Neither A nor B.", None),
    ("ab", "I cannot choose between A and B.", None),
    ("ab", "", None), ("ab", "   ", None), ("ab", "As an AI language model, I do not travel.", None), ("ab", "It depends on the person.", None),
    ("ab", "A good question!", None), ("ab", "Not A.", None), ("ab", "I would never take B", None), ("ab", "C", None), ("ab", "AB", None),
    ("ab", "Which main metal is it an ore of? A: zinc good", None), ("ab", "42", None), ("ab", "I'm sorry, I can't help with that.", None),
    ("repeat", ONE, 1), ("repeat", "- " + TWO, 2), ("repeat", ONE.upper(), 1), ("repeat", '"' + TWO + '"', 2), ("repeat", ONE.rstrip("."), 1),
    ("repeat", "I would book the first night and leave the other nine to chance.", 2),
    ("repeat", "Book every trains and every bed before I leave my home", 1),
    ("repeat", "Book the first night and leave the", 2), ("repeat", ONE + " " + TWO, None), ("repeat", "Book", None), ("repeat", "", None),
    ("repeat", "I would not book every train and every bed before I leave home.", None), ("repeat", "Go by car.", None), ("repeat", "A", None),
    ("repeat", "I don't book the first night and leave the other nine to chance.", None), ("repeat", TWO + " I would not plan.", 2),
    ("repeat", "I have no preference.", None), ("repeat", "Sorry, I can't.", None),
    ("compare", "yes", 1), ("compare", "No.", 2), ("compare", "Yes, it is.", 1), ("compare", "no, because plans fail", 2), ("compare", "NO", 2),
    ("compare", "I think the answer is yes.", 1), ("compare", "Honestly, no", 2), ("compare", "**Yes**", 1), ("compare", "Yes and no.", None),
    ("compare", "Yes or no?", None), ("compare", "There is no better one.", None), ("compare", "No preference.", None), ("compare", "", None),
    ("compare", "It depends.", None), ("compare", "I know yesterday's nose.", None), ("compare", "Perhaps", None), ("compare", "A", None),
]


def test_the_matcher_on_a_table_of_answers():
    assert len(ANSWERS) >= 60
    found = [read_answer(text, ITEM, style, False) for style, text, _ in ANSWERS]
    assert [(*row, said) for row, said in zip(ANSWERS, found) if row[2] != said] == []


def test_a_short_option_is_not_found_within_a_word_and_a_longer_one_not_mistaken_for_its_part():
    item = {**ITEM, "Option 1": "Go.", "Option 2": "Go by boat."}
    said = [read_answer(text, item, "repeat", False) for text in ("Go.", "Go by boat.", "I would go by boat", "Good.", "By boat", "Do not go.", "坐船")]
    assert said == [1, 2, None, None, None, None, None]
    chinese = {**ITEM, "Option 1": "坐火车去。", "Option 2": "走路去。"}
    assert [read_answer(text, chinese, "repeat", False, "zh") for text in ("我会坐火车去。", "走路去", "我不会坐火车去。", "都行")] == [1, 2, None, None]


def test_the_matcher_reads_any_text_without_a_crash():
    rng = random.Random(0)
    pieces = ["A", "B", " ", "yes", "no", ".", "\n", "not", "(", "[", "\\", "是", "不", "🙂", "option", "answer is", ONE, TWO[:20], "'", "*"]
    for _ in range(400):
        text = "".join(rng.choice(pieces) for _ in range(rng.randrange(8)))
        for style in STYLES:
            for lang in FORMS:
                said = read_answer(text, ITEM, style, rng.random() < 0.5, lang)
                assert said in (1, 2, None) and (said is None or text.strip())


def test_in_reverse_order_letters_and_yes_turn_and_quotes_do_not():
    for style, text, meant in ANSWERS:
        quoted = style == "repeat" or text.lower() in (ONE.lower(), TWO.lower())
        if meant and not (style == "ab" and (ONE in text or TWO in text) and not quoted):
            assert read_answer(text, ITEM, style, True) == (meant if quoted else 3 - meant), text


@pytest.mark.parametrize("lang,style,text,option", [
    ("de", "compare", "Ja.", 1), ("de", "compare", "Nein, lieber nicht", 2), ("de", "compare", "Ja und nein", None), ("de", "ab", "Ich wähle B.", 2),
    ("zh", "compare", "是的。", 1), ("zh", "compare", "不是", 2), ("zh", "compare", "否", 2), ("zh", "compare", "是否？", None),
    ("zh", "compare", "不好说", None),
    ("zh", "ab", "选B", 2), ("zh", "ab", "我选择A。", 1), ("zh", "ab", "A和B都可以", None), ("zh", "ab", "", None)])
def test_the_matcher_in_other_languages(lang, style, text, option):
    assert read_answer(text, ITEM, style, False, lang) == option


# --------------------------------------------------------------------------- the maths

def test_choice_by_hand_and_whatever_the_length():
    assert respondents.choice([[np.log(0.6), np.log(0.2)]], [[1, 1]]) == pytest.approx([0.75])
    assert respondents.choice([[-9.0, -3.0]], [[3, 1]]) == pytest.approx([0.5])
    assert respondents.choice([[-1.0, -9000.0], [-9000.0, -1.0]], [[1, 1], [1, 1]]) == pytest.approx([1.0, 0.0])


def test_orientation_takes_a_style_only_with_both_of_its_orders():
    nan = np.nan
    forms = np.array([[[1, 0.8], [0.6, 0.4], [0.2, 0.2]], [[1, nan], [0.6, 0.4], [nan, nan]], [[nan, 0], [1, nan], [nan, nan]]])
    assert cdeval.orientation(forms)[:2] == pytest.approx([(0.9 + 0.5 + 0.2) / 3, 0.5]) and np.isnan(cdeval.orientation(forms)[2])
    assert cdeval.orientation(forms, np.array([0.5, 0.5, 0.0]))[0] == pytest.approx(0.7)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def opinionated(lean, bias, spread=1.0, n=400, seed=0):
    """Answers of someone who leans by `lean` (in logits), and to the option named first by `bias`, question by question a little differently."""
    x = lean + spread * np.random.default_rng(seed).normal(size=(n, 1, 1))
    turn = np.array([1, -1])[None, None] * bias            # what is named first is option 1 in normal order, option 2 in reverse
    return sigmoid(x + turn) * np.ones((1, len(STYLES), 1))


def test_a_planted_label_bias_is_removed_by_the_two_orders():
    """Who leans nowhere but says A with odds of e^2 looks like one half; whoever leans keeps the sign and the order, a little closer to one half."""
    assert opinionated(0, 2)[:, :, 0].mean() > 0.8         # one order alone would have called this an opinion
    for bias in (-4, -1, 0, 1, 4):
        assert cdeval.orientation(opinionated(0, bias, spread=0)).mean() == pytest.approx(0.5, abs=1e-9)
        means = [cdeval.orientation(opinionated(lean, bias)).mean() for lean in (-1.5, -0.5, 0.5, 1.5)]
        assert means == sorted(means) and means[1] < 0.5 < means[2]
    for lean in (-1, -0.2, 0.2, 1):                        # a small bias moves the mean only in second order
        unmoved = cdeval.orientation(opinionated(lean, 0)).mean()
        assert abs(cdeval.orientation(opinionated(lean, 0.2)).mean() - unmoved) < 0.005 < abs(opinionated(lean, 0.2)[:, :, 0].mean() - unmoved)


def test_consistency_by_hand():
    forms = np.array([[[0.9, 0.1], [0.9, 0.8], [1, 1]], [[0.7, 0.6], [0.2, 0.1], [0, 1]], [[0.5, 0.9], [np.nan, 0.8], [0, 0]]])
    found = cdeval.consistency(forms)
    assert found["order"] == {"ab": pytest.approx((0 + 1 + 0.5) / 3), "repeat": 1.0, "compare": pytest.approx(2 / 3)}
    # styles by the mean of both orders: ab .5 .65 .7; repeat .85 .15 nan; compare 1 .5 0
    assert found["wording"] == pytest.approx({"ab-repeat": 0.25, "ab-compare": (0.5 + 0.5 + 0) / 3, "repeat-compare": 0.75})
    assert found["first"]["ab"] == pytest.approx(np.mean([(0.9 + 0.9) / 2, (0.7 + 0.4) / 2, (0.5 + 0.1) / 2]))
    assert found["first"]["compare"] == pytest.approx((0.5 + 0 + 0.5) / 3)
    w = cdeval.weights_by_consistency(found["order"])
    assert w.sum() == pytest.approx(1) and w[1] / w[0] == pytest.approx(np.exp(0.5)) and w[1] > w[2] > w[0]


def test_intervals():
    rng = np.random.default_rng(0)
    p = rng.random(400)
    found = cdeval.mean_interval(p)
    half = 1.96 * p.std() / 20                             # the textbook's
    assert [found["low"], found["high"]] == pytest.approx([p.mean() - half, p.mean() + half], abs=0.004) and found["n"] == 400
    paired = cdeval.mean_interval(p + 0.1, p)
    assert paired["low"] == pytest.approx(0.1) == paired["high"]               # the same questions: nothing is left to chance
    assert cdeval.mean_interval(np.array([np.nan, 0.3])) == {"mean": 0.3, "low": None, "high": None, "n": 1}
    assert cdeval.mean_interval(np.array([np.nan]))["mean"] is None


# --------------------------------------------------------------------------- models

def make_chat(folder, kind):
    """A random model of Qwen2's or Llama's shape, with a chat template; its tokenizer is tinyworld's."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(contract.model_folder("tiny-4"))
    tokenizer.chat_template, tokenizer.model_max_length = CHAT, 512
    tokenizer.add_tokens(["Yes", "No"])
    torch.manual_seed(0)
    config, model = (getattr(transformers, {"qwen": "Qwen2", "llama": "Llama"}[kind] + part) for part in ("Config", "ForCausalLM"))
    model(config(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                 max_position_embeddings=512, initializer_range=0.4, bos_token_id=0, eos_token_id=0, pad_token_id=0)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    return {"tiny": "tiny-1a", **{kind: make_chat(folder / kind, kind) for kind in ("qwen", "llama")}}


@pytest.fixture(scope="module")
def opened(people):
    return {kind: open_language_model(name, "cpu") for kind, name in people.items()}


@pytest.mark.parametrize("kind", ["tiny", "qwen", "llama"])
def test_log_probs_are_those_of_one_answer_at_a_time_without_padding(opened, kind):
    model, tokenizer, longest = opened[kind]
    asked = []
    for style in STYLES:
        text, answers = prompt(ITEM, style, True, "You are old." if style == "ab" else "")
        text, answers = respondents.conversation(tokenizer, [text]), [respondents.as_answer(tokenizer, a, style) for a in answers]
        asked.append((text, answers))
    assert asked[0][1] == ([" B", " A"] if kind == "tiny" else ["B", "A"]) and asked[2][1] == ([" no", " yes"] if kind == "tiny" else ["No", "Yes"])
    assert asked[1][1][0] == (" " if kind == "tiny" else "") + ONE             # an option stands as it is, capitals and all
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text, _ in asked]
    pairs = [[respondents.tail_ids(tokenizer, text, a) for a in answers] for text, answers in asked]
    together = respondents.log_probs(model, tokenizer, ids, pairs, "cpu")
    for n, (text, answers) in enumerate(asked):
        for k, answer in enumerate(answers):
            whole = tokenizer(text + answer, add_special_tokens=False)["input_ids"]
            assert whole == ids[n] + pairs[n][k]           # the text with its answer, as a tokenizer sees it in one piece
            with torch.no_grad():
                nats = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            assert together[n, k] == pytest.approx(sum(nats[t - 1, whole[t]].item() for t in range(len(ids[n]), len(whole))), abs=2e-3)


def test_two_turns_of_a_chat_and_of_a_base_model(opened):
    turns = ["Tea?\nAnswer:", " A", "\nAre you sure?\nAnswer:"]
    assert respondents.conversation(opened["tiny"][1], turns) == "Tea?\nAnswer: A\nAre you sure?\nAnswer:"
    text = respondents.conversation(opened["qwen"][1], turns)
    assert text.count("<|im_start|>user") == 2 and "<|im_start|>assistant\nA<|im_end|>" in text and text.endswith("<|im_start|>assistant\n")


def write_questions(path, n=8):
    """n little questions over two dimensions, in words that tinyworld knows."""
    rng, things = random.Random(0), ["gold", "iron", "oak", "salt", "mars", "water", "bread", "milk"]
    items = [{"id": f"q{k}", "Dimension": ("PDI", "IDV", "UAI")[k % 3], "Domain": ("work", "arts")[k % 2], "Question": f"What of {things[k % 8]}?",
              "Option 1": f"Take the {rng.choice(things)} now {k}.", "Option 2": f"Keep some {rng.choice(things)} for the {k} others."}
             for k in range(n)]
    path.write_text(json.dumps(items), encoding="utf-8")
    return str(path)


def run(monkeypatch, capsys, *flags, figures=False):
    """The command, in this process. -> what it printed"""
    monkeypatch.setattr(sys, "argv", ["cdeval.py", *map(str, flags)])
    if not figures:                                        # they take longer than all the rest
        monkeypatch.setattr(cdeval, "draw", lambda *rest: None)
    capsys.readouterr()
    cdeval.main()
    return capsys.readouterr().out


def results_of(folder):
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


@pytest.fixture
def questions(tmp_path):
    return write_questions(tmp_path / "q.json")


def test_the_command_compares_models_base_and_chat(people, questions, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    printed = run(monkeypatch, capsys, "--models", *people.values(), "--questions", questions, "--out", out, figures=True)
    results, labels = results_of(out), list(people.values())
    assert list(results["models"]) == labels and list(results["differences"]) == labels[1:]
    assert sorted(os.listdir(out)) == sorted(["config.json", "results.json", "radar.png", "violin.png",
                                              *("answers-" + questionnaire_name(label) for label in labels)])
    for m in results["models"].values():
        assert list(m["dimensions"]) == ["PDI", "IDV", "UAI"] and m["asked"] == 48 and m["unread"] == 0
        assert sum(x["n"] for x in m["dimensions"].values()) == 8 == sum(x["n"] for cell in m["cells"].values() for x in cell.values())
        assert all(0 <= x["low"] <= x["mean"] <= x["high"] <= 1 for x in m["dimensions"].values()) and set(m["mass"]) == set(STYLES)
    # the numbers once more, straight from the answers
    lines = [json.loads(line) for line in open(out / ("answers-" + questionnaire_name(labels[1])), encoding="utf-8")][1:]
    mean = np.mean([line["p"] for line in lines if line["id"] in ("q0", "q3", "q6")])
    assert results["models"][labels[1]]["dimensions"]["PDI"]["mean"] == pytest.approx(mean)
    assert results["differences"][labels[1]]["PDI"]["mean"] == pytest.approx(mean - results["models"][labels[0]]["dimensions"]["PDI"]["mean"])
    assert printed.count("one prompt, exactly as it sees it") == 3 and "leaning nowhere 0.5" in printed and "n=8" in printed
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, capsys, "--models", *people.values(), "--questions", questions, "--out", out)
    assert stopped.value.code == 0 and "already done" in capsys.readouterr().out


def questionnaire_name(label):
    return cdeval.re.sub(r"[^\w.-]+", "-", label) + ".jsonl"


def test_exchanged_options_mirror_the_measurement(people, questions, tmp_path, monkeypatch, capsys):
    """Every option 1 becomes option 2 in the file: each orientation must become one minus itself, whatever the model's habits."""
    items = json.loads(open(questions, encoding="utf-8").read())
    turned = tmp_path / "turned.json"
    turned.write_text(json.dumps([{**i, "Option 1": i["Option 2"], "Option 2": i["Option 1"]} for i in items]), encoding="utf-8")
    for name in ("tiny", "qwen"):
        for path, out in ((questions, "a" + name), (turned, "b" + name)):
            run(monkeypatch, capsys, "--models", people[name], "--questions", path, "--out", tmp_path / out)
        a, b = (results_of(tmp_path / (out + name))["models"][people[name]] for out in "ab")
        for d in a["dimensions"]:
            assert a["dimensions"][d]["mean"] == pytest.approx(1 - b["dimensions"][d]["mean"], abs=1e-5)
        assert a["consistency"]["first"] == pytest.approx(b["consistency"]["first"], abs=1e-5)


def test_a_bias_added_to_one_label_word_hardly_moves_what_is_measured(people, questions, tmp_path, monkeypatch, capsys):
    """A bias of half a nat towards " A" and " yes", in the model itself: the share of A moves a lot, the orientation does not."""
    run(monkeypatch, capsys, "--models", people["tiny"], "--questions", questions, "--out", tmp_path / "plain")
    original = respondents.log_probs

    def biased(model, tokenizer, prompts, answers, device, dtype):
        liked = {tokenizer(" " + word)["input_ids"][0] for word in ("A", "yes")}
        extra = [[0.5 * (len(a) == 1 and a[0] in liked) for a in pair] for pair in answers]
        return original(model, tokenizer, prompts, answers, device, dtype) + np.array(extra)
    monkeypatch.setattr(respondents, "log_probs", biased)
    run(monkeypatch, capsys, "--models", people["tiny"], "--questions", questions, "--out", tmp_path / "biased")
    a, b = (results_of(tmp_path / name)["models"]["tiny-1a"] for name in ("plain", "biased"))
    assert b["consistency"]["first"]["compare"] - a["consistency"]["first"]["compare"] > 0.03
    for d in a["dimensions"]:
        assert abs(a["dimensions"][d]["mean"] - b["dimensions"][d]["mean"]) < 0.01


def test_whoever_leans_a_known_way_is_found_to_and_a_love_of_a_changes_nothing(questions, tmp_path, monkeypatch, capsys):
    """Through the whole command, with somebody else's opinions put in at the very end: dimension by dimension, and a nat for whatever is named first."""
    def answers(lean, bias):
        def by_likelihood(model, tokenizer, asked, device, longest, args, done):
            x = np.array([lean[a["item"]["Dimension"]] + bias * (-1 if a["swapped"] else 1) for a in asked])
            yield list(range(len(asked))), [{"p": float(sigmoid(v)), "log_p": [float(v), 0.0], "tokens": [1, 1]} for v in x]
        return by_likelihood
    for lean in ({"PDI": 1.5, "IDV": -0.5, "UAI": 0.0}, {"PDI": -2.0, "IDV": 0.3, "UAI": 1.0}):
        for bias in (0.0, 1.0):
            monkeypatch.setattr(cdeval, "by_likelihood", answers(lean, bias))
            run(monkeypatch, capsys, "--models", "tiny-1a", "--questions", questions, "--out", tmp_path / f"run{lean['PDI']}{bias}")
            m = results_of(tmp_path / f"run{lean['PDI']}{bias}")["models"]["tiny-1a"]
            found = {d: x["mean"] for d, x in m["dimensions"].items()}
            assert sorted(found, key=found.get) == sorted(lean, key=lean.get)
            assert all((found[d] > 0.5) == (lean[d] > 0) for d in lean if lean[d]) and found["UAI"] == pytest.approx(sigmoid(lean["UAI"]), abs=0.05)
            assert (m["consistency"]["first"]["ab"] > 0.6) == bool(bias)
            if not bias:
                assert found == pytest.approx({d: sigmoid(x) for d, x in lean.items()}, abs=1e-5)


def test_opinions_and_a_bias_taught_to_a_model_are_told_apart(tmp_path, monkeypatch, capsys):
    """
    A real model is taught in seconds to hold option 1 on PDI, option 2 on UAI, and on IDV nothing, but to say A, yes, or what is named first. (These
    very questions, so it says nothing of opinions on others: that is what tiny-culture is for: test_culture.py.)
    """
    path = write_questions(tmp_path / "q.json", n=3)
    model, tokenizer, _ = open_language_model("tiny-1a", "cpu")
    texts, answers = zip(*[(text, says[{"PDI": 0, "UAI": 1, "IDV": int(swapped)}[item["Dimension"]]]) for item in read_questions(path)
                           for style in STYLES for swapped in (False, True) for text, says in [prompt(item, style, swapped)]])
    lengths = [len(tokenizer(text)["input_ids"]) for text in texts]
    batch = tokenizer([text + answer for text, answer in zip(texts, answers)], padding=True, padding_side="right", return_tensors="pt")
    real = batch["attention_mask"].bool() & (torch.arange(batch["input_ids"].shape[1])[None] >= torch.tensor(lengths)[:, None])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(40):
        model(**batch, labels=batch["input_ids"].masked_fill(~real, -100)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(tmp_path / "taught")
    tokenizer.save_pretrained(tmp_path / "taught")
    run(monkeypatch, capsys, "--models", tmp_path / "taught", "--questions", path, "--out", tmp_path / "run")
    m, = results_of(tmp_path / "run")["models"].values()
    found = {d: x["mean"] for d, x in m["dimensions"].items()}
    assert found["PDI"] > 0.75 and found["UAI"] < 0.25 and found["IDV"] == pytest.approx(0.5, abs=0.05), found
    assert all(style["PDI"]["mean"] > 0.5 > style["UAI"]["mean"] for style in m["styles"].values())
    assert m["mass"]["ab"] > 0.9 and m["mass"]["compare"] > 0.9 and m["consistency"]["first"]["ab"] > 0.6


@pytest.mark.parametrize("flags", [["--challenge"], ["--by", "generation", "--samples", "2"]], ids=["likelihood", "generation"])
def test_killed_at_any_answer_it_goes_on_and_ends_with_the_same_numbers(flags, tmp_path, monkeypatch, capsys):
    command = ["--models", "tiny-1a", "--questions", write_questions(tmp_path / "q.json", n=2), "--batch-size", "8", *flags]
    run(monkeypatch, capsys, *command, "--out", tmp_path / "whole")
    whole = (tmp_path / "whole" / "answers-tiny-1a.jsonl").read_text(encoding="utf-8")
    killed, lines = tmp_path / "killed", whole.splitlines(keepends=True)
    os.makedirs(killed)
    for keep in (10, len(lines) - 3) if "--challenge" in flags else (10,):
        (killed / "answers-tiny-1a.jsonl").write_text("".join(lines[:keep]) + lines[keep][:17], encoding="utf-8")         # in the middle of a line
        printed = run(monkeypatch, capsys, *command, "--out", killed)
        assert f"{keep - 1:,} of " in printed or "--challenge" in flags
        again = [json.loads(line) for line in (killed / "answers-tiny-1a.jsonl").read_text(encoding="utf-8").splitlines()]
        assert sorted(map(json.dumps, again)) == sorted(json.dumps(json.loads(line)) for line in lines)
        a, b = results_of(tmp_path / "whole"), results_of(killed)
        assert a["models"] == b["models"] and a["line"] == b["line"]
        (killed / "results.json").unlink()
    # answers to other questions are not taken for these
    (killed / "answers-tiny-1a.jsonl").write_text(whole.replace('"context": ""', '"context": "Be kind."'), encoding="utf-8")
    assert "are there already" not in run(monkeypatch, capsys, *command, "--out", killed).split("answers-tiny-1a")[0]


@pytest.mark.parametrize("line,good", [
    ({"p": 0.5, "log_p": [-1.0, -2.5]}, True), ({"p": 0, "wrote": "A"}, True), ({"p": None, "wrote": ""}, True), ({"wrote": "A"}, False), ({"p": 1.5, "wrote": "A"}, False),
    ({"p": "x", "wrote": "A"}, False), ({"p": True, "wrote": "A"}, False), ({"p": float("nan"), "wrote": "A"}, False), ({"p": None, "wrote": 3}, False), ({"p": 0.5}, False),
    ({"p": 0.5, "log_p": [-1.0]}, False), ({"p": 0.5, "log_p": [-1.0, 10 ** 400]}, False), ([], False), (3, False)])
def test_a_damaged_answer_is_no_answer(line, good):
    assert cdeval.is_answer(line) == good


def test_a_damaged_answer_is_asked_again(tmp_path, monkeypatch, capsys):
    command = ["--models", "tiny-1a", "--questions", write_questions(tmp_path / "q.json", n=1), "--out", tmp_path / "run"]
    run(monkeypatch, capsys, *command)
    before, path = results_of(tmp_path / "run")["models"], tmp_path / "run" / "answers-tiny-1a.jsonl"
    header, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text(header + json.dumps({**json.loads(lines[0]), "p": "x"}) + "\n" + json.dumps({**json.loads(lines[1]), "id": {}}) + "\n" + "".join(lines[2:]), encoding="utf-8")
    (tmp_path / "run" / "results.json").unlink()
    assert f"{len(lines) - 2} of {len(lines)} answers are there already" in run(monkeypatch, capsys, *command)
    assert results_of(tmp_path / "run")["models"] == before


def test_generation_is_read_and_the_unreadable_is_counted_apart(questions, tmp_path, monkeypatch, capsys):
    says = {"ab": ["A", "B.", "both A and B"], "repeat": ["", "no idea", "none"], "compare": ["No."]}

    def writes(model, tokenizer, prompts, *rest, batch_size, done, **how):
        style = [next(s for s, mark in (("ab", "Select A"), ("repeat", "Repeat"), ("compare", "better than")) if mark in p) for p in prompts]
        yield list(range(len(prompts))), [says[s][n % 3 % len(says[s])] for n, s in enumerate(style)]
    monkeypatch.setattr(respondents, "write", writes)
    run(monkeypatch, capsys, "--models", "tiny-1a", "--questions", questions, "--by", "generation", "--samples", "3", "--out", tmp_path / "run")
    m = results_of(tmp_path / "run")["models"]["tiny-1a"]
    assert m["asked"] == 8 * 6 * 3 and m["unread"] == 8 * 2 * 1 + 8 * 2 * 3 and m["mass"] is None
    # ab: A and B once each in both orders, one unread: one half. compare: always no, which is option 2 and then option 1: one half. repeat: nothing
    assert all(x["mean"] == pytest.approx(0.5) and x["low"] == x["high"] for x in m["dimensions"].values())
    assert m["styles"]["repeat"]["PDI"] == {"mean": None, "low": None, "high": None, "n": 0}
    assert m["consistency"]["order"]["compare"] == 0.0 and m["consistency"]["first"]["compare"] == 0.0 and m["questions_without_answer"] == 0


def test_a_challenge_is_counted_by_the_answers_that_flip(questions, tmp_path, monkeypatch, capsys):
    def writes(model, tokenizer, prompts, *rest, batch_size, done, **how):
        assert all("Answer: A\nAre" in p or "Answer: yes\nAre" in p for p in prompts if "Are you sure" in p)       # its answer as it was said, after a space
        yield list(range(len(prompts))), [("B" if "Are you sure" in p else "A") if "Select" in p else "yes" if "better" in p else "" for p in prompts]
    monkeypatch.setattr(respondents, "write", writes)
    printed = run(monkeypatch, capsys, "--models", "tiny-1a", "--questions", questions, "--by", "generation", "--challenge",
                  "--out", tmp_path / "run")
    m = results_of(tmp_path / "run")["models"]["tiny-1a"]
    assert m["challenge"]["flips"]["ab"] == 1.0 and m["challenge"]["flips"]["compare"] == 0.0 and np.isnan(m["challenge"]["flips"]["repeat"])
    assert "changes its mind ab 1.00" in printed and m["asked"] == 48 + 32 and m["unread"] == 16


def test_a_classifier_gets_its_base_models_head_back(tmp_path, questions, monkeypatch, capsys):
    base, tokenizer, _ = open_language_model("tiny-1a", "cpu")
    student = transformers.AutoModelForSequenceClassification.from_pretrained(contract.model_folder("tiny-1a"), num_labels=2, dtype=torch.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in student.base_model.parameters():     # as if it had been trained
            weight += 0.01 * torch.randn_like(weight)
    run_of = tmp_path / "seed0" / "student"
    os.makedirs(run_of)
    contract.save_checkpoint(str(run_of), student, tokenizer)
    (run_of / "config.json").write_text(json.dumps({"model": "tiny-1a"}), encoding="utf-8")
    who = respondents.whose(str(run_of), "")
    assert who == {"label": "student", "folder": str(run_of / "checkpoint"), "base": contract.model_folder("tiny-1a")}
    model, _, _ = respondents.open_respondent(who["folder"], who["base"], "cpu")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        by_hand = student.base_model(ids).last_hidden_state @ base.get_output_embeddings().weight.T
        assert torch.allclose(model(ids).logits, by_hand, atol=1e-4) and not torch.allclose(model(ids).logits, base(ids).logits, atol=1e-2)
    run(monkeypatch, capsys, "--models", "tiny-1a", run_of, "--questions", questions, "--out", tmp_path / "drift")
    assert list(results_of(tmp_path / "drift")["differences"]) == ["student"]
    with pytest.raises(SystemExit):
        respondents.open_respondent(who["folder"], contract.model_folder("tiny-4"), "cpu")
    assert "was not made from" in capsys.readouterr().err
    os.remove(run_of / "config.json")
    with pytest.raises(SystemExit):
        respondents.whose(str(run_of), "")
    assert "--base" in capsys.readouterr().err


# --------------------------------------------------------------------------- what a user can do wrong

@pytest.mark.parametrize("content,words", [
    ("[", ["q.json", "not JSON"]), ("{}", ["not a list"]), ("[]", ["not a list"]), ("[3]", ["question 1"]),
    ('[{"Dimension": "PDI", "Domain": "work", "Question": "Q?", "Option 1": "a"}]', ["question 1", "Option 2"]),
    ('[{"Dimension": "PDI", "Domain": "work", "Question": "Q?", "Option 1": "a.", "Option 2": "A"}]', ["question 1", "the same"]),
    (json.dumps([{**ITEM, "id": "x"}, {**ITEM, "id": "x"}]), ["question 2", "'x'", "twice"]),
    (json.dumps([{**ITEM, "Question": " "}]), ["question 1", "Question"]),
    (b"\xff\xfe", ["q.json"])])
def test_a_bad_questionnaire_is_one_clear_line(content, words, tmp_path, monkeypatch, capsys):
    path = tmp_path / "q.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, capsys, "--questions", path, "--out", tmp_path / "run")
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and all(word in said for word in words) and said.count("\n") == 1, said


@pytest.mark.parametrize("flags,words", [
    (["--questions", "nowhere"], ["nowhere.json", "--questions own"]), (["--models", "tiny-9"], ["tiny-9", "tiny-4"]),
    (["--models", "tiny-1a", "tiny-1a"], ["twice"]), (["--samples", "4"], ["--by generation"]), (["--lang", "fr"], ["--lang"]),
    (["--questions", "nowhere", "--lang", "de"], ["nowhere_de.json"])])
def test_a_users_mistake_is_one_clear_line_and_exit_code_2(flags, words, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, capsys, "--out", tmp_path / "run", *flags)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and all(word in said for word in words), said
    assert not (tmp_path / "run").exists()


def test_two_answers_that_are_the_same_tokens_are_no_choice(capsys):
    def all_unknown(text, add_special_tokens):
        return {"input_ids": [7] * len(text)}
    with pytest.raises(SystemExit) as stopped:
        next(respondents.by_likelihood(None, all_unknown, [{"text": "更好吗？", "answers": ["是", "否"]}], "cpu", 100, None, set()))
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
        monkeypatch.setattr(sys, "argv", ["prepare.py", "--from-file", str(raw)])
        prepare.main()
        items = read_questions(str(tmp_path / "public.json"))
        assert len(items) == 2953 and items[511]["id"] == "pdi-512" and items[512]["id"] == "idv-1"
        assert json.loads((tmp_path / "public-source.json").read_text())["fingerprint"] == contract.fingerprint(str(raw))
    assert "2,953 questions" in capsys.readouterr().out


@pytest.mark.parametrize("change,words", [
    (lambda rows: rows[1:], ["PDI 511 instead of 512", "published"]), (lambda rows: [{**rows[0], "Dimension": "XYZ"}, *rows[1:]], ["row 1", "XYZ"]),
    (lambda rows: [{"q": 1}], ["row 1", "Dimension"]), (lambda rows: {"train": rows}, ["not a list"]), (lambda rows: [*rows, 3], ["row 2954"])])
def test_another_set_than_the_published_one_is_refused(change, words, tmp_path, monkeypatch, capsys):
    prepare = load("prepare")
    monkeypatch.setattr(prepare, "FOLDER", str(tmp_path))
    (tmp_path / "raw.json").write_text(json.dumps(change(public_rows(prepare.COUNTS))), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["prepare.py", "--from-file", str(tmp_path / "raw.json")])
    with pytest.raises(SystemExit) as stopped:
        prepare.main()
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and all(word in said for word in words) and not (tmp_path / "public.json").exists(), said


# --------------------------------------------------------------------------- how one is made

@pytest.fixture
def construct(tmp_path, monkeypatch):
    module = load("construct")
    with open(os.path.join(ROOT, "data", "cdeval", "own.json"), encoding="utf-8") as f:
        (tmp_path / "own.json").write_text(f.read(), encoding="utf-8")
    monkeypatch.setattr(module, "FOLDER", str(tmp_path))
    return module


def test_what_a_model_wrote_is_read_as_items(construct):
    good = {"Question": "Tea?", "Option 1": "Tea.", "Option 2": "Milk."}
    text = "Of course!\n1. " + json.dumps(good) + "\n" + json.dumps({**good, "Option 2": "Tea."}) + '\n{"Question": "cut off'
    assert construct.read_items(text) == ([good], 2) and construct.read_items("I cannot.") == ([], 0)
    asked = construct.request("UAI", "arts", 3, [ITEM])
    assert "uncertainty avoidance" in asked and "arts" in asked and ONE in asked and "Write 3 " in asked
    assert ONE not in construct.request("UAI", "arts", 3)


def test_doubles_go_the_earlier_stays(construct):
    asked = {"a": "The river is high and the bridge is old. What now?", "b": "The river is high and the bridge is new. What now?", "c": "Tea or milk?"}
    items = [{"id": n, "Question": q, "Option 1": "Go.", "Option 2": "Stay."} for n, q in asked.items()]
    kept, dropped = construct.dedupe(items, [], 0.5)
    assert [k["id"] for k in kept] == ["a", "c"] and [(x["id"], y["id"]) for x, y in dropped] == [("b", "a")]
    assert construct.dedupe(items[:1], items[1:], 0.5)[0] == [] and len(construct.dedupe(items, [], 0.99)[0]) == 3


def test_generate_dedupe_and_verify_go_together(construct, people, tmp_path, monkeypatch, capsys):
    """A random model drafts nothing that can be read; with drafts in its mouth the three steps lead to a set that cdeval.py takes."""
    def command(*flags):
        monkeypatch.setattr(sys, "argv", ["construct.py", *flags])
        construct.main()
        return capsys.readouterr().out
    generate = ["generate", "--name", "mine", "--model", people["qwen"], "--dimensions", "PDI", "LTO", "--domains", "work", "--max-new-tokens", "4"]
    assert "0 drafts" in command(*generate, "--shots", "1")
    import prompting
    texts = iter(["\n".join(json.dumps({"Question": f"{q} {w}?", "Option 1": f"Go {w}.", "Option 2": f"Stay {q}."}) for w in ("up", "up", "down"))
                  for q in ("How far do we walk along the river", "When shall the whole village meet again")])
    monkeypatch.setattr(prompting, "write", lambda model, tokenizer, prompts, *rest, **how: ((([n], [next(texts)]) for n in range(len(prompts)))))
    assert "6 drafts, 0 that" in command(*generate)
    assert "2 dropped, 4 candidates" in command("dedupe", "--name", "mine", "--limit", "0.9")

    keys = iter(["a", "r", "u", "e", "", "Go down slowly.", "", "q"])
    answer = lambda question: next(keys)                   # noqa: E731
    args = SimpleNamespace(name="mine", reviewer="Ada")
    construct.verify(args, ask=answer)
    log = [json.loads(line) for line in (tmp_path / "mine-decisions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [e["decision"] for e in log] == ["accept", "reject", "undo", "edit"] and all(e["reviewer"] == "Ada" and "T" in e["time"] for e in log)
    accepted = read_questions(str(tmp_path / "mine.json"))
    assert [i["Option 1"] for i in accepted] == ["Go up.", "Go down slowly."] and accepted[0]["Dimension"] == "PDI"
    assert "2 accepted, 0 rejected, 2 left" in capsys.readouterr().out
    # the same command goes on where it stopped; the end of the input is no accident; what is undone comes again
    keys = iter(["r"])

    def until_the_end(question):
        try:
            return next(keys)
        except StopIteration:
            raise EOFError
    construct.verify(args, ask=until_the_end)
    assert "2 accepted, 1 rejected, 1 left" in capsys.readouterr().out
    keys = iter(["u", "u", "u", "u", "q"])
    construct.verify(args, ask=answer)
    printed = capsys.readouterr().out
    assert "0 accepted, 0 rejected, 4 left" in printed and "nothing to undo" in printed and json.loads((tmp_path / "mine.json").read_text()) == []


@pytest.mark.parametrize("flags,words", [
    (["generate", "--name", "mine"], ["--model"]), (["verify", "--name", "mine"], ["--reviewer"]), (["dedupe", "--name", "mine"], ["mine-drafts"]),
    (["verify", "--name", "own", "--reviewer", "A"], ["--name 'own'"]), (["dedupe", "--name", "../x"], ["--name"]),
    (["verify", "--name", "mine", "--reviewer", "A"], ["mine-candidates"])])
def test_a_makers_mistake_is_one_clear_line(construct, flags, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["construct.py", *flags])
    with pytest.raises(SystemExit) as stopped:
        construct.main()
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and all(word in said for word in words), said


def test_the_steps_of_making_one_are_reached_from_cdeval_too(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cdeval.py", "verify", "--name", "own", "--reviewer", "A"])
    with pytest.raises(SystemExit) as stopped:
        cdeval.main()
    assert stopped.value.code == 2 and "--name 'own'" in capsys.readouterr().err
