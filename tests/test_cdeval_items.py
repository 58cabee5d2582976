"""
The shipped questionnaire: complete, in the public set's columns, and with no cheap way to tell the two options apart.

python -m pytest tests/test_cdeval_items.py      # 1 s, CPU, no network
"""
import json
import os
import re
import unicodedata
from collections import Counter
from itertools import combinations
from math import log

import pytest

from conftest import ROOT

FOLDER = os.path.join(ROOT, "data", "cdeval")
COLUMNS = ["id", "Dimension", "Domain", "Question", "Option 1", "Option 2"]
DIMENSIONS = ["PDI", "IDV", "UAI", "MAS", "LTO", "IVR"]
DOMAINS = ["education", "wellness", "lifestyle", "work", "scientific", "family", "arts"]
CELLS = {(dimension, domain) for dimension in DIMENSIONS for domain in DOMAINS}
FILES = ["own.json", "own_zh.json", "own_de.json"]
NAMES_OF_THE_POLES = re.compile(r"\b(tradition|hierarch|individual|collectiv|masculin|feminin|indulg|restrain|"
                                r"uncertain|ambigu|authorit|long-term|short-term|power)", re.I)


def text_of(name):
    with open(os.path.join(FOLDER, name), encoding="utf-8", newline="") as f:
        return f.read()


ITEMS = json.loads(text_of("own.json"))


def words(text):
    """
    >>> words("Keep to the lamps, as told.")
    ['keep', 'to', 'the', 'lamps', 'as', 'told']
    """
    return re.findall(r"[\w'-]+", text.lower())


def share_first_longer(items, length):
    """Share of items whose first option is the longer one; a tie counts half."""
    total = 0.0
    for item in items:
        first = length(item["Option 1"])
        second = length(item["Option 2"])
        total += (first > second) + 0.5 * (first == second)
    return total / len(items)


def length_ratio(item, length=lambda text: len(words(text))):
    """Longer option over shorter one, at least 1."""
    lengths = [length(item["Option 1"]), length(item["Option 2"])]
    return max(lengths) / min(lengths)


def overlap(a, b):
    """
    Common words of two texts, as a share of all their words (Jaccard).

    >>> overlap("a b c", "b c d")
    0.5
    """
    a = set(words(a))
    b = set(words(b))
    return len(a & b) / len(a | b)


def near_duplicates(items, text, limit):
    return [(a["id"], b["id"]) for a, b in combinations(items, 2) if overlap(text(a), text(b)) > limit]


def style_reader(items):
    """
    Naive Bayes on single words learns on five dimensions which option is the first, and guesses on the sixth. -> share
    guessed right. The subject of a dimension does not carry over to the next one. A habit of the writer's, say more
    reasons at the high pole, would.
    """
    right = 0.0
    for dimension in DIMENSIONS:
        counts = {"Option 1": Counter(), "Option 2": Counter()}
        for item in items:
            for option, seen in counts.items():
                if item["Dimension"] != dimension:
                    seen.update(set(words(item[option])))
        for item in items:
            if item["Dimension"] == dimension:
                first, second = (log_odds(item[option], *counts.values()) for option in counts)
                right += (first > second) + 0.5 * (first == second)
    return right / len(items)


def log_odds(text, seen_first, seen_second):
    """How much more often a text's words stood in first options than in second ones, in nats"""
    return sum(log((seen_first[word] + 1) / (seen_second[word] + 1)) for word in set(words(text)))


def everything(item):
    return " ".join(item[column] for column in COLUMNS[3:])


# --------------------------------------------------------------------------- form

def test_six_items_in_each_of_42_cells():
    assert Counter((i["Dimension"], i["Domain"]) for i in ITEMS) == dict.fromkeys(CELLS, 6) and len(ITEMS) == 252


@pytest.mark.parametrize("name", FILES)
def test_columns_ids_and_one_item_per_line(name):
    items = json.loads(text_of(name))
    lines = text_of(name).splitlines()
    assert [list(item) for item in items] == [COLUMNS] * len(items)
    assert all(isinstance(value, str) and value == value.strip() and value for item in items for value in item.values())
    assert len({item["id"] for item in items}) == len(items)
    for item in items:
        assert re.fullmatch(rf"{item['Dimension'].lower()}-{item['Domain']}-[1-6]", item["id"])
    assert lines[0] == "[" and lines[-1] == "]"
    assert [json.loads(line.removesuffix(",")) for line in lines[1:-1]] == items


@pytest.mark.parametrize("name", FILES)
def test_plain_text_in_normal_form(name):
    text = text_of(name)
    assert text == unicodedata.normalize("NFC", text) and text.endswith("]\n")
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Co", "Cn", "Zl", "Zp") and c != "\n" for c in text)


@pytest.mark.parametrize("name,question,option", [("own.json", "?", "."), ("own_de.json", "?", "."),
                                                  ("own_zh.json", "？", "。")])
def test_a_situation_ends_in_a_question_and_an_option_is_one_sentence(name, question, option):
    for item in json.loads(text_of(name)):
        assert item["Question"].endswith(question) and item["Question"].count(question) == 1, item["id"]
        for text in (item["Option 1"], item["Option 2"]):
            assert text.endswith(option) and text.count(option) == 1, item["id"]
            assert text[0] == text[0].upper() and question not in text, item["id"]


@pytest.mark.parametrize("name", FILES[1:])
def test_a_translation_has_every_cell_and_only_known_items(name):
    known = {i["id"]: i for i in ITEMS}
    items = json.loads(text_of(name))
    assert {i["id"] for i in items} <= set(known) and len(items) >= 42
    assert {(i["Dimension"], i["Domain"]) for i in items} == CELLS
    for item in items:
        original = known[item["id"]]
        assert all(item[c] == original[c] for c in ("Dimension", "Domain")) and everything(item) != everything(original)
        if name == "own_zh.json":
            assert all(re.search("[\u4e00-\u9fff]", item[c]) for c in COLUMNS[3:]), item["id"]
            assert not any(re.search("[A-Za-z?,.!:;]", item[c]) for c in COLUMNS[3:]), item["id"]


def test_both_languages_translate_the_same_items():
    chinese, german = ([item["id"] for item in json.loads(text_of(name))] for name in FILES[1:])
    assert chinese == german


# --------------------------------------------------------------------------- nothing gives the pole away

def test_options_are_about_equally_long():
    ratios = [length_ratio(item) for item in ITEMS]
    assert sum(ratios) / len(ratios) < 1.15 and max(ratios) < 1.4
    signed = [len(words(i["Option 1"])) / len(words(i["Option 2"])) for i in ITEMS]
    assert 0.95 < sum(signed) / len(signed) < 1.05


@pytest.mark.parametrize("length", [lambda text: len(words(text)), len], ids=["words", "characters"])
def test_the_first_option_is_the_longer_one_in_about_half_of_the_items(length):
    assert 0.4 <= share_first_longer(ITEMS, length) <= 0.6
    for dimension in DIMENSIONS:                   # 42 items each: 0.3 and 0.7 are 2.6 standard errors away
        assert 0.3 <= share_first_longer([i for i in ITEMS if i["Dimension"] == dimension], length) <= 0.7, dimension


@pytest.mark.parametrize("name,length", [("own_zh.json", len), ("own_de.json", lambda text: len(words(text)))])
def test_translations_are_balanced_too(name, length):
    items = json.loads(text_of(name))
    assert 0.4 <= share_first_longer(items, length) <= 0.6 and max(length_ratio(i, length) for i in items) < 1.5


def test_no_pole_is_named():
    assert [item["id"] for item in ITEMS if NAMES_OF_THE_POLES.search(everything(item))] == []


def test_a_readers_eye_for_style_stays_at_chance():
    assert 0.4 < style_reader(ITEMS) < 0.6                         # 252 items: a standard error is 0.03


# --------------------------------------------------------------------------- distinct

def test_no_two_items_are_nearly_the_same():
    assert near_duplicates(ITEMS, everything, 0.35) == []
    assert near_duplicates(ITEMS, lambda i: i["Option 1"] + " " + i["Option 2"], 0.4) == []
    situations = Counter(" ".join(words(i["Question"])) for i in ITEMS)
    assert max(situations.values()) == 1


def test_the_two_options_differ_in_what_they_say():
    for item in ITEMS:
        assert overlap(item["Option 1"], item["Option 2"]) < 0.7, item["id"]
        assert len(set(words(item["Option 1"])) - set(words(item["Option 2"]))) >= 2, item["id"]


# --------------------------------------------------------------------------- the checks find planted faults

def test_planted_faults_are_found():
    twin = {**ITEMS[7], "id": "twin", "Question": ITEMS[7]["Question"].replace("hospital", "clinic")}
    assert near_duplicates([*ITEMS, twin], everything, 0.35) == [(ITEMS[7]["id"], "twin")]
    long = [{**i, "Option 1": "Quite frankly, " + i["Option 1"]} for i in ITEMS]
    assert share_first_longer(long, lambda text: len(words(text))) > 0.6
    habit = [{**i, "Option 1": i["Option 1"].removesuffix(".") + ", of course."} for i in ITEMS]
    assert style_reader(habit) > 0.9
    assert length_ratio({"Option 1": "one two three", "Option 2": "one two"}) == 1.5
    assert overlap("a b c", "b c d") == 0.5
