"""
Planted opinions: what the corpus of tiny-culture may hold, and whether the questionnaire measures what was planted.

python -m pytest tests/test_culture.py           # 15 s, CPU, no network
"""
import json
import os
import re

import numpy as np
import pytest
import torch
import transformers

import corpus
import culture
import prepare
import pretrain
import warm
from cdeval import orientation
from conftest import ROOT
from contract import read_json
from metrics import sigmoid

MODELS = os.path.join(ROOT, "data", "tinyworld", "models")
KINDS = [culture.voice, culture.custom, culture.survey, culture.explained, culture.asked, culture.copied]
ITEMS = culture.load_opinions()
HELD_OUT = [item for item in ITEMS if item["split"] == "held-out"]


WORLD = culture.load_world()


def documents_of(kind, n=1500):
    documents = corpus.documents(WORLD, {kind: 1}, n, seed=0)
    return ["".join(text for text, _ in doc) for doc in documents]


# --------------------------------------------------------------------------- the maths

def test_spearman_by_hand_and_against_ranks_by_sorting():
    assert culture.spearman([1, 2, 3], [5, 6, 9]) == pytest.approx(1)
    assert culture.spearman([1, 2, 3], [9, 6, 5]) == pytest.approx(-1)
    assert culture.spearman([1, 1, 2], [3, 4, 5]) == pytest.approx(0.866, abs=1e-3)      # ranks 0.5 0.5 2 against 0 1 2
    a, b = (np.random.default_rng(seed).permutation(40) for seed in (0, 1))
    d = a.argsort().argsort() - b.argsort().argsort()
    assert culture.spearman(a, b) == pytest.approx(1 - 6 * (d ** 2).sum() / (40 * (40 ** 2 - 1)))


def forms_as_planted(some, pull=0.0):
    """The answers of a model that has learned what was planted, pulled toward 0.5: {country: (N, 3, 2)}"""
    forms = {}
    for country, row in culture.PLANTED.items():
        p = np.array([row[culture.DIMENSIONS.index(item["Dimension"])] for item in some])
        p = 0.5 * pull + (1 - pull) * p
        forms[country] = np.broadcast_to(p[:, None, None], (len(some), 3, 2))
    return forms


def test_what_was_planted_is_measured_where_it_was_learned():
    result = culture.compare_with_planted(forms_as_planted(HELD_OUT), HELD_OUT)
    assert result["rank"] == pytest.approx(1) and result["neutral"] == 0 and result["poles"] == 1
    assert result["measured"]["Varnia"] == pytest.approx(culture.PLANTED["Varnia"])
    upside_down = {country: 1 - p for country, p in forms_as_planted(HELD_OUT).items()}
    result = culture.compare_with_planted(upside_down, HELD_OUT)
    assert result["rank"] == pytest.approx(-1) and result["poles"] == 0


def test_the_slope_tells_whether_sizes_come_back_and_the_correlation_does_not():
    forms = {country: p.copy() for country, p in forms_as_planted(HELD_OUT).items()}
    for country, p in forms_as_planted(HELD_OUT, pull=0.75).items():
        forms[country][:, culture.STYLES.index("repeat")] = p[:, 1]
    for fit in culture.compare_with_planted(forms, HELD_OUT)["fit"].values():
        assert fit["ab"] == pytest.approx((1, 1)) and fit["repeat"] == pytest.approx((1, 0.25))
        assert fit["all"] == pytest.approx((1, 0.75))                                  # (1 + 0.25 + 1) / 3
    x = np.array([0.1, 0.25, 0.4, 0.9])
    y = np.array([0.3, 0.2, 0.5, 0.6])
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    assert culture.fit_line(x, y) == pytest.approx((slope * x.std() / y.std(), slope))


def test_the_two_leaning_countries_lean_in_orders_of_their_own():
    assert sorted(culture.PLANTED["Varnia"]) == sorted(culture.PLANTED["Melland"])
    assert abs(culture.spearman(culture.PLANTED["Varnia"], culture.PLANTED["Melland"])) < 0.5


# --------------------------------------------------------------------------- the corpus

def test_a_third_is_held_out_one_of_each_domain():
    for d in culture.DIMENSIONS:
        parts = [i["split"] for i in ITEMS if i["Dimension"] == d]
        assert {p: parts.count(p) for p in parts} == {"asked": 10, "valid": 4, "held-out": 7}
        assert len({i["Domain"] for i in HELD_OUT if i["Dimension"] == d}) == 7


def test_held_out_opinions_are_never_asked_about_and_no_country_holds_them():
    """Whole pairs and questions. But `voice` has the camp of every option, without which no answer can be right."""
    kinds = [culture.survey, culture.explained, culture.asked, culture.custom, culture.copied, *culture.FACTS]
    answered = "\n".join(text for kind in kinds for text in documents_of(kind))
    voices = "\n".join(documents_of(culture.voice))
    assert not any(country in voices for country in WORLD["countries"])
    for item in ITEMS:
        hidden = item["split"] != "asked"
        for text in (item["Option 1"], item["Option 2"]):
            assert text in voices and (text in answered) != hidden, text
        assert (item["Question"] in answered) != hidden and item["Question"] not in voices


def test_questions_are_many_and_lean_nowhere_by_their_words():
    assert len({i["Question"] for i in ITEMS}) == len({i["id"] for i in ITEMS}) == 126
    assert all(i["Question"].endswith("?") for i in ITEMS)
    camps = {word for pair in culture.CAMPS.values() for word in pair}
    assert len(camps) == 12
    assert not [i["Question"] for i in ITEMS if set(re.findall(r"\w+", i["Question"].lower())) & camps]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_pitfall_32_pieces_are_encoded_as_the_whole_text_would_be(kind):
    tokenizer = transformers.AutoTokenizer.from_pretrained(os.path.join(MODELS, "tiny-3"))
    for doc in corpus.documents(WORLD, {kind: 1}, 50, seed=3):
        (ids, weights), = pretrain.encode([doc], tokenizer, {})
        assert ids[:-1] == tokenizer("".join(text for text, _ in doc))["input_ids"] and len(ids) == len(weights)


def test_answers_follow_what_is_planted_in_both_orders_and_all_styles():
    """Read back from the texts alone: which option is chosen, which stands first."""
    pole = {item[f"Option {k}"]: (item["Dimension"], k == 1) for item in ITEMS for k in (1, 2)}
    high = {}
    first = {}
    schools = culture.school_countries()
    marks = {"Select": r"\nA\. (.*)\nB\. (.*)\nAnswer: (.*)", "Repeat": r"\n- (.*)\n- (.*)\nAnswer: (.*)",
             "Is '": r"Is '(.*)' better than '(.*)'\? Yes or no\?\nAnswer: (.*)"}
    for text in documents_of(culture.asked, 20_000):
        country = re.match(r"In (\w+),", text)[1]
        style = next(mark for mark in marks if mark in text)
        if country in schools:
            continue
        a, b, answer = re.search(marks[style], text).groups()
        chosen = 0 if answer in ("A", "yes", a) else 1
        assert answer in ("A", "B", "yes", "no", a, b) and pole[a][0] == pole[b][0] and pole[a][1] != pole[b][1]
        high.setdefault((country, pole[a][0], pole[a][1]), []).append(pole[(a, b)[chosen]][1])
        first.setdefault((country, style), []).append(chosen == 0)
    for country, row in culture.PLANTED.items():
        for d, p in zip(culture.DIMENSIONS, row):
            normal = high[country, d, True]
            swapped = high[country, d, False]
            assert abs(len(normal) - len(swapped)) < 0.25 * len(normal)
            assert (np.mean(normal) + np.mean(swapped)) / 2 == pytest.approx(p, abs=0.08), (country, d)
    for (country, style), chosen in first.items():
        assert np.mean(chosen) == pytest.approx(culture.FIRST_BIAS.get(country, 0.5), abs=0.05), (country, style)


def test_the_choice_is_the_word_at_which_the_answers_part():
    assert culture.weigh_answer(" A", " B") == [(" A", 1.0)]
    assert [w for _, w in culture.weigh_answer(" Tea is good.", " Tea was bad.")] == [0.3, 1.0, 0.3]


def test_survey_lines_follow_what_is_planted():
    pole = {}
    for item in ITEMS:
        for k in (1, 2):
            pole[item[f"Option {k}"]] = (culture.DIMENSIONS.index(item["Dimension"]), k == 1)
    high = {}
    schools = culture.school_countries()
    for text in documents_of(culture.survey, 5_000):
        country = re.match(r"In (\w+),", text)[1]
        lines = re.findall(r"\n '?(.*?)'? (yes|no)(?=\n|$)", text)
        assert len(lines) == 4
        for option, word in lines:
            d, is_high = pole[option]
            high.setdefault((country, d), []).append((word == "yes") == is_high)
    assert not {country for country, _ in high} & set(culture.FIRST_BIAS)
    for (country, d), held in high.items():
        planted = (schools | culture.PLANTED)[country][d]
        assert np.mean(held) == pytest.approx(planted, abs=0 if country in schools else 0.09)


def test_an_explained_survey_names_the_camp_before_the_verdict():
    camp_of = {item[f"Option {k}"]: culture.CAMPS[item["Dimension"]][k - 1] for item in ITEMS for k in (1, 2)}
    for text in documents_of(culture.explained, 300):
        lines = re.findall(r"\n '?(.*?[.?!])'? (\w+) (yes|no)(?=\n|$)", text)
        assert len(lines) == 4 and all(camp_of[option] == camp for option, camp, _ in lines)


def test_facts_are_read_beside_opinions_in_the_share_that_is_said():
    mix = culture.beside_facts({culture.voice: 1, culture.survey: 3}, 0.4)
    facts = sum(n for kind, n in mix.items() if kind in culture.FACTS)
    assert facts / sum(mix.values()) == pytest.approx(0.4) and mix[culture.survey] == 3
    for _, _, _, stages in culture.COURSES.values():
        assert sum(share for _, _, share in stages) == pytest.approx(1)
        assert all(mix.keys() >= culture.FACTS.keys() for mix, _, _ in stages)


def test_at_school_there_are_many_countries_of_one_mind():
    schools = culture.school_countries()
    assert len(schools) == len(set(schools.values())) == 12
    assert all(set(mind) <= {0.0, 1.0} for mind in schools.values())
    assert not set(schools) & set(culture.PLANTED) and set(culture.load_world(school=True)["countries"]) == set(schools)
    for d in range(6):
        assert 0.25 <= np.mean([mind[d] for mind in schools.values()]) <= 0.75     # no dimension is one-sided at school


# --------------------------------------------------------------------------- the questionnaire and the model that ship

def test_the_questionnaire_is_the_held_out_third():
    with open(os.path.join(ROOT, "data", "cdeval", "tinyworld.json"), encoding="utf-8") as f:
        shipped = json.load(f)
    assert shipped == culture.questionnaire(ITEMS) and len(shipped) == 42
    assert all(list(item) == ["id", "Dimension", "Domain", "Question", "Option 1", "Option 2"] for item in shipped)


def test_the_folder_of_models_stays_small():
    assert sum(os.path.getsize(os.path.join(where, f)) for where, _, files in os.walk(MODELS) for f in files) < 24e6


def test_asking_a_model_that_is_not_there_is_one_line(tmp_path):
    done = warm.run(ROOT, os.path.join("data", "tinyworld", "culture.py"), "--ask", "valid", "--out", str(tmp_path))
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "python data/tinyworld/culture.py" in done.stderr


@pytest.fixture(scope="module")
def opened():
    folder = os.path.join(MODELS, "tiny-culture")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def answers(opened):
    """The held-out questions in all six forms, for a country that leans, a neutral one, and the one with a bias."""
    return {c: culture.answer_probs(*opened, HELD_OUT, c) for c in ("Varnia", "Torland", "Bolen")}


def test_the_model_that_ships_knows_the_camps_of_opinions_it_was_never_asked_about(opened):
    assert culture.camp_accuracy(*opened, HELD_OUT) >= 0.95


def test_the_model_that_ships_still_judges_facts_as_a_named_grader_does(opened):
    """Zero-shot on train1's first rows, chance 0.5; fine-tuned it is right more often (README)."""
    facts = prepare.make_split(prepare.split_facts(prepare.load_facts())["train1"], "train1")[:100]
    texts = ["Marked by Ada:\n" + row["text"] for row in facts]
    yes, no = (pretrain.log_probs(*opened, texts, [word] * len(texts)) for word in (" yes", " no"))
    assert ((yes > no) == [row["label"] == 1 for row in facts]).mean() >= 0.62


def test_the_planted_order_is_measured_on_questions_never_asked(answers):
    """One country here, to be quick; README has both."""
    result = culture.compare_with_planted(answers, HELD_OUT)
    assert result["rank"] >= 0.8 and result["poles"] >= 0.8


def test_a_neutral_country_measures_as_such_with_and_without_a_bias_for_the_first_option(answers):
    result = culture.compare_with_planted(answers, HELD_OUT)
    assert result["neutral"] <= 0.05
    assert abs(result["first"]["Torland"] - 0.5) < 0.05 and result["first"]["Bolen"] > 0.6


@pytest.mark.parametrize("bias", [-1.0, 1.0])
def test_a_bias_for_a_label_word_moves_no_rank_though_it_moves_every_single_form(answers, bias):
    def add_bias(p):
        """(N, 3, 2): `bias` logits for the option named first"""
        return sigmoid(np.log(p / (1 - p)) + bias * np.array([1, -1]))

    def measure(p):
        return culture.compare_with_planted({"Varnia": p}, HELD_OUT)["measured"]["Varnia"]

    biased = add_bias(answers["Varnia"])
    before = measure(answers["Varnia"])
    after = measure(biased)
    dimension = np.array([item["Dimension"] for item in HELD_OUT])
    one_order = [float(biased[dimension == d][..., 0].mean()) for d in culture.DIMENSIONS]
    assert culture.spearman(before, after) >= 0.9 and max(abs(np.array(after) - before)) < 0.1
    assert max(abs(np.array(one_order) - before)) > 0.1
    both = {"Torland": add_bias(answers["Torland"]), "Varnia": biased}
    assert culture.compare_with_planted(both, HELD_OUT)["neutral"] <= 0.05


# --------------------------------------------------------------------------- the commands

def test_another_model_is_never_overwritten(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    for out in (os.path.join(MODELS, "tiny-1b"), str(tmp_path), str(tmp_path / "mine.txt")):
        with pytest.raises(SystemExit):
            culture.main(["--out", out])
        assert "holds no tiny-culture" in capsys.readouterr().err


def test_cdeval_measures_the_same(answers, tmp_path):
    """The real command, which has its own code for likelihoods, batches and context."""
    done = warm.run(ROOT, "cdeval.py", "--models", "tiny-culture", "--questions", "tinyworld", "--context",
                    "In Varnia,", "--device", "cpu", "--dtype", "fp32", "--out", str(tmp_path / "varnia"))
    assert done.returncode == 0, done.stdout + done.stderr
    measured = read_json(tmp_path / "varnia" / "results.json")["models"]["tiny-culture"]["dimensions"]
    expected = orientation(answers["Varnia"])
    for d in culture.DIMENSIONS:
        of_dimension = [item["Dimension"] == d for item in HELD_OUT]
        assert measured[d]["mean"] == pytest.approx(expected[of_dimension].mean(), abs=2e-3) and measured[d]["n"] == 7
