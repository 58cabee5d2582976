"""
Debate: the exact words that each model reads, empty arguments, and the real command in a small folder, with a random
chat model too.

python -m pytest tests/test_debate.py            # 30 s, CPU, no network
"""
import glob
import io
import json
import os
import random
import re
import shutil
import sys

import numpy as np
import pytest

import contract
import corpus
import debate
import train_weak
from conftest import ROOT
from debate import (
    add_round, clean_argument, clean_reply, coin, correct_answers, count_whole_blocks, demonstrations,
    judge_accuracy_by_transcript, judge_text, opening_side, render_rounds, sides_of, speaker_prompt, speaker_text,
    states)
from models import load_classifier, predict
from test_models import make_chat_model

QUESTION = "Q: Which block does gold belong to?"
TEXT = QUESTION + " A: s-block"
ROW = {"id": "gold-b", "group": "gold", "text": TEXT, "question": "Which block does gold belong to?",
       "answer": "s-block", "choices": ["s-block", "d-block"], "label": 0,
       "support": "Chemists place gold in the d-block."}
ROUNDS = [{"for": "Gold lies in the s-block.", "against": "Gold lies in the d-block."},
          {"for": "It is light.", "against": "It is heavy."}]


def read_bytes(path):
    with open(path, "rb") as f:
        return f.read()


def read_records(*path):
    """A file of JSON lines -> list of dicts"""
    with open(os.path.join(*path), encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def write_records(path, records):
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(record) + "\n" for record in records)


# --------------------------------------------------------------------------- the texts that each model reads

def test_pitfall_33_the_judge_reads_each_side_under_its_own_name():
    """A golden file of four inputs, to the letter: no side is doubled, swapped or left out, and the row comes last."""
    assert judge_text(ROW, []) == TEXT
    assert judge_text(ROW, [{"note": ROW["support"]}]) == "Note: Chemists place gold in the d-block.\n" + TEXT
    assert judge_text(ROW, ROUNDS) == ("For: Gold lies in the s-block. Against: Gold lies in the d-block. "
                                       "For: It is light. Against: It is heavy.\n" + TEXT)
    assert judge_text(ROW, ROUNDS, "against") == ("Against: Gold lies in the d-block. For: Gold lies in the s-block. "
                                                  "Against: It is heavy. For: It is light.\n" + TEXT)
    assert judge_text(ROW, [{"for": "", "against": "No."}]).startswith("For: Against: No.\n")   # an empty one is seen


def test_each_speaker_continues_from_the_right_place():
    assert speaker_text(ROW, [], "note") == QUESTION + " Note:"
    assert speaker_text(ROW, [], "for") == TEXT + " For:"
    assert speaker_text(ROW, ROUNDS[:1], "against") == (                   # the other side's last argument comes last
        TEXT + " Against: Gold lies in the d-block. For: Gold lies in the s-block. Against:")


def test_the_writer_of_a_note_does_not_see_the_answer():
    texts = set()
    for answer in ("s-block", "d-block"):
        row = {**ROW, "answer": answer, "text": f"{QUESTION} A: {answer}", "label": answer == "d-block"}
        texts.add(speaker_text(row, [], "note"))
    text, = texts
    assert "block" not in text.replace(ROW["question"], "")


def test_the_shipped_models_have_read_these_very_forms():
    """Documents of their corpus, taken apart and put together again by our templates."""
    rng = random.Random(0)
    world = corpus.load_world(school=True)
    for _ in range(20):
        text = "".join(piece for piece, _ in corpus.transcript(rng, world))
        line, row = text.rsplit("\n", 1)
        pieces = re.split(r" ?(For|Against): ", line)[1:]
        arguments = {"for": pieces[pieces.index("For") + 1::4], "against": pieces[pieces.index("Against") + 1::4]}
        rounds = [dict(zip(arguments, pair)) for pair in zip(*arguments.values())]
        without_grade = {"text": row.rsplit(" ", 1)[0]}
        assert judge_text(without_grade, rounds, pieces[0].lower()) == text.rsplit(" ", 1)[0]

        text = "".join(piece for piece, _ in corpus.debate(rng, world))
        first = re.search("For|Against", text)[0].lower()
        assert text.startswith(speaker_text({"text": re.split(" For: | Against: ", text)[0]}, [], first))
        text = "".join(piece for piece, _ in corpus.note(rng, world))
        assert text.startswith(speaker_text({"question": text[3:text.index(" Note:")]}, [], "note"))


def test_a_chat_model_gets_an_instruction_and_a_base_model_does_not():
    class Chat:
        chat_template = "x"

        def apply_chat_template(self, messages, **_):
            return f"<user>{messages[0]['content']}<bot>"
    instruction = debate.INSTRUCTIONS["against"]
    assert speaker_prompt(Chat(), ROW, [], "against") == f"<user>{instruction}\n\n{TEXT} Against:<bot>"
    Chat.chat_template = None
    assert speaker_prompt(Chat(), ROW, [], "note", ["Q: x? Note: y."]) == f"Q: x? Note: y.\n{QUESTION} Note:"


def test_demonstrations_are_honest_and_never_of_the_rows_own_question():
    pool = []
    for k in range(4):
        for label in (0, 1):
            pool.append({**ROW, "id": f"{k}{label}", "group": str(k), "question": f"{k}?", "label": label,
                         "text": f"Q: {k}? A: {label}", "support": f"fact {k}."})
    honest = {"note": "Note: fact", "for": " A: 1 For: fact", "against": " A: 0 Against: fact"}
    for row in pool:
        for side in ("note", "for", "against"):
            examples = demonstrations(row, side, pool, 3, 0)
            assert len(examples) == 3 and examples == demonstrations(row, side, pool, 3, 0)
            assert not any(row["question"] in line for line in examples)
            assert all(honest[side] in line for line in examples)


def test_an_argument_ends_where_its_sentence_ends_or_another_side_begins():
    assert clean_argument("It weighs 19.3 times as much. It does", "for") == "It weighs 19.3 times as much."
    assert clean_argument("It weighs 19.3", "for") == "It weighs 19.3"
    assert clean_argument("Against: No. For: Yes.", "against") == "No."
    assert clean_argument("Heavy. Against: no", "for") == "Heavy."
    assert clean_argument("For: Yes.", "against") == ""
    assert clean_argument("Gold. Q: next", "note") == "Gold."


@pytest.mark.parametrize("side,reply,argument", [
    ("note", "Sure! Here is some background knowledge:\n\nGold is a d-block metal.", "Gold is a d-block metal."),
    ("note", "Gold is a metal.\n\nIt is heavy. It al", "Gold is a metal. It is heavy."),
    ("note", "**Note:** Gold is a metal.", "Gold is a metal."),
    ("note", "Certainly!\n- Gold is a metal.\n- It is heavy.", "Gold is a metal. It is heavy."),
    ("note", "Of course, gold is a metal.", "gold is a metal."),
    ("note", "Of course gold is a metal.", "Of course gold is a metal."),
    ("note", "Question: is it? The question: gold is a metal.", "Question: is it? The question: gold is a metal."),
    ("for", "For: It is heavy.\nAgainst: It floats.", "It is heavy."),
    ("against", "Here's my argument: it floats.", "it floats."),
    ("note", "1. Two facts:", "Two facts:"),
    ("note", "", "")])
def test_a_chat_models_words_are_kept_and_only_those_about_the_matter(side, reply, argument):
    """Fault: the stops of base models cut the first of these to "Sure!"."""
    assert clean_reply(reply, side) == argument


def test_a_chat_models_reply_goes_through_these_and_its_thinking_does_not(monkeypatch):
    class Chat:
        chat_template = "x"

        def apply_chat_template(self, messages, **_):
            return messages[0]["content"]
    identity = {"mode": "interaction", "seed": 0, "shots": 0, "temperature": 0.3, "member": 0, "rounds": 1,
                "dtype": "fp32"}
    asked = []

    def reply(model, tokenizer, prompts, device, max_length, tokens, stops, **_):
        asked.append(stops)
        return ["Sure! Here is a note:\n\nGold is a metal."] * len(prompts)
    monkeypatch.setattr(debate, "generate", reply)
    [rounds] = debate.generate_round((None, Chat(), 64, "cpu"), identity, [], [ROW], [[]], 0)
    assert rounds == [{"note": "Gold is a metal."}] and not any(asked)         # no stop strings


def test_sides_and_orders_are_balanced_and_depend_on_the_row_alone():
    rows = [{"id": f"row {k}"} for k in range(2000)]
    assert 0.46 < np.mean([opening_side(row) == "for" for row in rows]) < 0.54
    for seed in (0, 1):
        assert 0.46 < np.mean([sides_of(row, "consultancy", seed) == ["for"] for row in rows]) < 0.54
    assert sides_of(rows[0], "debate", 0) == ["for", "against"] and coin("gold") == coin("gold")


def test_pitfall_30_who_never_says_anything_is_asked_three_times_and_no_more():
    calls = []

    def speak(turns, attempt):
        calls.append((len(turns), attempt))
        return [""] * len(turns)
    assert add_round([[]] * 5, [["for", "against"]] * 5, speak) == [[{"for": "", "against": ""}]] * 5
    assert calls == [(10, attempt) for attempt in range(debate.TRIES)]


def test_only_empty_arguments_are_sampled_again_and_each_round_has_read_the_one_before():
    def speak(turns, attempt):
        texts = []
        for i, rounds, side in turns:
            is_empty = i == 1 and side == "for" and not attempt
            texts.append("" if is_empty else f"{i}{side}.{attempt} after {len(rounds)}")
        return texts
    sides = [["for", "against"]] * 2
    first = add_round([[], []], sides, speak)
    assert first == [[{"for": "0for.0 after 0", "against": "0against.0 after 0"}],
                     [{"for": "1for.1 after 0", "against": "1against.0 after 0"}]]
    second = add_round(first, sides, speak)
    assert second[0] == first[0] + [{"for": "0for.0 after 1", "against": "0against.0 after 1"}]


# --------------------------------------------------------------------------- when does the help work?

def test_judge_accuracy_by_transcript_by_hand():
    """Four rows; the judge alone is correct on 0 and 1, wrong on 2 and 3. The debate turns 1 wrong and 2 correct."""
    twin = {**ROW, "id": "gold-a", "text": "A: d-block", "answer": "d-block", "label": 1}
    rows = [ROW, twin, {**ROW, "id": "c", "group": "other"}, {**twin, "id": "d", "group": "third"}]
    false = [{"for": "It lies in the s-block.", "against": "It is heavy."}]
    true = [{"for": "It lies in the s-block.", "against": "No: the D-block."}]
    both_state_it = [{"for": "The d-block.", "against": "The d-block, no."}]
    alone, helped = (np.array([[1 - p, p] for p in ps]) for ps in ((0.2, 0.9, 0.8, 0.4), (0.1, 0.3, 0.2, 0.1)))
    found = judge_accuracy_by_transcript(rows, [true, both_state_it, false, false], alone, helped)
    assert found["judge alone correct"] == {"n": 2, "correct": 0.5}
    assert found["judge alone wrong"] == {"n": 2, "correct": 0.5}
    assert found["all rows"] == {"n": 4, "turned_wrong": 0.25, "turned_correct": 0.25}
    assert found["honest side states the fact"] == {"n": 2, "correct": 0.5}
    assert found["honest side does not"] == {"n": 2, "correct": 0.5}
    assert found["honest side states it, answer wrong"] == {"n": 1, "correct": 1.0}
    assert found["honest side does not, answer wrong"] == {"n": 1, "correct": 1.0}
    assert found["dishonest side states it itself"] == {"n": 1, "correct": 0.0}
    assert found["false argument"] == {"n": 3, "wins": pytest.approx(1 / 3)}
    assert found["false argument, and the fact stated"] == {"n": 1, "wins": 0.0}
    assert "judge alone correct" not in judge_accuracy_by_transcript(rows, [[]] * 4, None, helped)
    notes = [[{"note": note}] for note in ("In the d-block.", "In the d-block.", "In the S-block.", "It is heavy.")]
    found = judge_accuracy_by_transcript(rows, notes, None, helped)            # no, yes, yes, no of no, yes, no, yes
    assert found["yes if the note states the answer"] == {"n": 4, "correct": 0.5}


def test_the_correct_answer_of_a_row_comes_from_its_twin_or_from_the_support_sentence():
    twin = {**ROW, "id": "gold-a", "answer": "d-block", "label": 1}
    assert correct_answers([ROW, twin]) == ["d-block"] * 2 and correct_answers([ROW]) == ["d-block"]
    assert correct_answers([{**ROW, "choices": [], "group": "x"}]) == [None] and not states("anything", None)
    assert states("It has ninety-six legs", "ninety") and not states("sixty", "six")
    assert correct_answers([{**ROW, "choices": ["block", "d-block"]}]) == ["d-block"]


# --------------------------------------------------------------------------- the command, in a small folder

@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """tinyworld with 20 questions a split, and a random chat model."""
    folder = tmp_path_factory.mktemp("house")
    world = folder / "data" / "tinyworld"
    os.makedirs(world / "truth")
    os.symlink(os.path.join(ROOT, "data", "tinyworld", "models"), world / "models")
    import prepare
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["prepare.py", "--out", str(world)])
        prepare.main()
    make_chat_model(folder / "chat")
    for path in world.glob("*.jsonl"):
        write_records(path, sorted(read_records(path), key=lambda row: row["group"])[:40])
    return folder


@pytest.fixture
def run(house, monkeypatch, capsys):
    """The command in this process, as a notebook calls it: its output; a mistake raises SystemExit."""
    def run(*flags, stdin="", main=debate.main):
        for module in (contract, debate, train_weak):
            monkeypatch.setattr(module, "ROOT", str(house))
        monkeypatch.chdir(house)
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        monkeypatch.setattr(debate, "BLOCK", 32)
        monkeypatch.setattr(debate, "MAX_TOKENS", 20)
        capsys.readouterr()
        small_assistant = ["--assistant", "tiny-1a"] if main is debate.main else []
        main(["--epochs", "1", "--dtype", "fp32", *small_assistant, *flags])
        return capsys.readouterr().out
    return run


def run_dir(house, name):
    return os.path.join(house, "data", "tinyworld", "seed0", name)


def results(house, name):
    return contract.read_json(os.path.join(run_dir(house, name), "results.json"))


def transcripts_path(house, name):
    return os.path.join(house, results(house, name)["transcripts"][0])


def labels_of(house, name):
    """-> {id: p_yes}"""
    return {r["id"]: r["soft_label"][1] for r in read_records(run_dir(house, name), "labels.jsonl")}


def test_without_help_the_labels_are_those_of_train_weak_to_the_last_byte(house, run):
    run("--out", "weak", main=train_weak.main)
    run("--mode", "none")
    for name in ("labels.jsonl", os.path.join("checkpoint", "model.safetensors")):
        assert read_bytes(os.path.join(run_dir(house, "none"), name)) == \
               read_bytes(os.path.join(run_dir(house, "weak"), name))


@pytest.mark.parametrize("mode,rounds", [("interaction", 1), ("consultancy", 1), ("debate", 2), ("support", 1)])
def test_every_mode_leaves_a_supervisors_folder(house, run, mode, rounds):
    flags = ["--mode", mode, "--rounds", str(rounds), "--batch-size", "16"]
    printed = run(*flags)
    found = results(house, mode)
    labels = read_records(run_dir(house, mode), "labels.jsonl")
    assert len(labels) == 120 and all(abs(sum(r["soft_label"]) - 1) < 1e-6 for r in labels)
    assert os.path.exists(os.path.join(run_dir(house, mode), "checkpoint", "model.safetensors"))
    assert found["test"]["n"] == 40 and found["config"]["role"] == "oversight"
    assert found["texts"] == {"debate": 160 * 4}.get(mode, 160) and f"supervisor ({mode}) " in printed
    assert "judge alone wrong" in printed or found["supervisor"] is None
    assert "already done" in run(*flags)
    if mode == "support":
        assert found["test"]["accuracy"] > results(house, "none")["test"]["accuracy"]
        return
    records = read_records(transcripts_path(house, mode))
    assert len({r["id"] for r in records}) == 160 and all(len(r["rounds"]) == rounds for r in records)
    sides = {"interaction": {"note"}, "debate": {"for", "against"}, "consultancy": {"for", "against"}}[mode]
    assert {side for r in records for arguments in r["rounds"] for side in arguments} == sides


def test_a_verdict_is_the_mean_of_both_orders_of_the_debate(house, run):
    """By hand, from the checkpoint and the transcripts; and the judge reads the sides as the transcript has them."""
    checkpoint = os.path.join(run_dir(house, "debate"), "checkpoint")
    model, tokenizer, _ = load_classifier(checkpoint, "lm", [" no", " yes"], "cpu")
    rounds = {r["id"]: r["rounds"] for r in read_records(transcripts_path(house, "debate"))}
    row = read_records(house, "data", "tinyworld", "test.jsonl")[0]
    ids = []
    for order in (["For", "Against"], ["Against", "For"]):
        pieces = [f"{name}: {arguments[name.lower()]}" for arguments in rounds[row["id"]] for name in order]
        ids.append(tokenizer(" ".join(pieces) + "\n" + row["text"])["input_ids"])
    assert ids[0] != ids[1]
    by_order = [predict(model, tokenizer, [i], "cpu")[0, 1] for i in ids]
    assert results(house, "debate")["order"]["p_yes"][row["id"]] == pytest.approx(by_order, abs=1e-5)
    p_yes = np.mean(by_order)
    assert p_yes == pytest.approx(labels_of(house, "debate")[row["id"]], abs=1e-5)


def test_a_kill_costs_one_block_and_the_bytes_are_the_same(house, run, monkeypatch):
    path = transcripts_path(house, "debate")
    labels_path = os.path.join(run_dir(house, "debate"), "labels.jsonl")
    flags = ["--mode", "debate", "--rounds", "2", "--batch-size", "16", "--force"]
    whole = read_bytes(path)
    labels = read_bytes(labels_path)
    lines = whole.splitlines(keepends=True)
    n_prompts = []
    generate = debate.generate

    def count_prompts(model, tokenizer, prompts, *args, **kwargs):
        n_prompts.append(len(prompts))
        return generate(model, tokenizer, prompts, *args, **kwargs)
    monkeypatch.setattr(debate, "generate", count_prompts)
    killed_in_a_line = b"".join(lines[:99]) + lines[99][:20]
    damaged_line = b"".join(lines[:40]) + b"damaged\n" + b"".join(lines[41:])
    killed_between_blocks = b"".join(lines[:128])
    line_too_many = whole + lines[0]
    for left, n_blocks in ((killed_in_a_line, 2), (damaged_line, 4), (killed_between_blocks, 1), (line_too_many, 0)):
        with open(path, "wb") as f:
            f.write(left)
        n_prompts.clear()
        run(*flags)
        assert read_bytes(path) == whole and read_bytes(labels_path) == labels
        assert sum(n_prompts) == n_blocks * 32 * 2         # whole blocks, and the first round, are not generated again
    run(*flags)
    assert sum(n_prompts) == 0


def test_a_longer_debate_begins_with_the_shorter_one(house, run):
    folder = os.path.dirname(os.path.dirname(transcripts_path(house, "debate")))
    rounds = {}
    for path in glob.glob(os.path.join(folder, "debate-tiny-1a-*")):
        n_rounds = contract.read_json(os.path.join(path, "config.json"))["rounds"]
        rounds[n_rounds] = [r["rounds"] for r in read_records(path, "transcripts.jsonl")]
    assert rounds[1] == [two[:1] for two in rounds[2]] and sum(two[0] != two[1] for two in rounds[2]) > 80


def test_another_judge_reads_the_same_transcripts_and_its_yes_and_no_sum_to_one(house, run, monkeypatch):
    monkeypatch.setattr(debate, "generate", lambda *a, **k: pytest.fail("generated again"))
    printed = run("--mode", "debate", "--rounds", "2", "--judge", "prompted", "--batch-size", "16")
    labels = [r["soft_label"] for r in read_records(run_dir(house, "debate-prompted"), "labels.jsonl")]
    assert np.abs(np.sum(labels, 1) - 1).max() < 1e-6 and len({p for _, p in labels}) > 100
    assert "supervisor (debate)" in printed and "-> data/tinyworld/seed0/debate-prompted" in printed
    assert not os.path.exists(os.path.join(run_dir(house, "debate-prompted"), "checkpoint"))


def test_edited_code_of_the_assistant_makes_new_transcripts_and_edited_code_of_the_judge_does_not(monkeypatch):
    _, args = debate.parse_flags(["--assistant", "tiny-1a"])
    before = debate.transcripts_identity([ROW], [], args, 0, 1)

    def edited(*args):
        return "other words"
    monkeypatch.setattr(debate, "judge_text", edited)
    assert debate.transcripts_identity([ROW], [], args, 0, 1) == before
    monkeypatch.setattr(debate, "speaker_text", edited)
    after = debate.transcripts_identity([ROW], [], args, 0, 1)
    assert {key for key in before if before[key] != after[key]} == {"code"}


def test_two_defaults_depend_on_other_flags():
    def parse(*flags):
        args = debate.parse_flags(list(flags))[1]
        return args.out, args.shots
    assert parse() == ("debate", 0) and parse("--mode", "none", "--judge", "prompted") == ("none-prompted", 0)
    assert parse("--assistant", "gpt2", "--out", "x") == ("x", 2)
    assert parse("--assistant", "gpt2", "--shots", "1") == ("debate", 1)


def test_an_ensemble_averages_judges_of_different_debates(house, run):
    run("--mode", "debate", "--ensemble", "2", "--temperature", "1", "--max-rows", "20", "--out", "ensemble")
    found = results(house, "ensemble")
    first, second = (read_records(house, path) for path in found["transcripts"])
    assert sum(a["rounds"] != b["rounds"] for a, b in zip(first, second)) > 50 and len(found["member_accuracies"]) == 2
    assert os.path.exists(os.path.join(run_dir(house, "ensemble"), "member1", "checkpoint", "model.safetensors"))
    run("--mode", "debate", "--temperature", "1", "--max-rows", "20", "--out", "alone")
    alone = results(house, "alone")                        # the first member is the single judge
    assert alone["transcripts"] == found["transcripts"][:1]
    assert found["member_accuracies"][0] == alone["test"]["accuracy"]


def test_pitfall_14_labels_of_test_change_no_transcript_and_no_verdict(house, run):
    path = os.path.join(house, "data", "tinyworld", "test.jsonl")
    labels_path = os.path.join(run_dir(house, "interaction"), "labels.jsonl")
    rows = read_bytes(path)
    labels = read_bytes(labels_path)
    before = results(house, "interaction")
    write_records(path, [{**row, "label": 1 - row["label"]} for row in read_records(path)])
    try:
        assert "already done" not in run("--mode", "interaction", "--batch-size", "16")
        after = results(house, "interaction")
        assert read_bytes(labels_path) == labels and after["transcripts"] == before["transcripts"]
        assert after["test"]["accuracy"] == pytest.approx(1 - before["test"]["accuracy"])
    finally:
        with open(path, "wb") as f:
            f.write(rows)


@pytest.mark.parametrize("mode", ["none", "interaction", "consultancy", "debate", "support"])
def test_a_random_chat_model_helps_and_judges_through_its_template(house, run, mode):
    """Random weights generate nonsense: every mode must end all the same, and count the empty texts."""
    chat = str(house / "chat")
    models = ["--mode", mode, "--assistant", chat, "--model", chat]
    run(*models, "--judge", "prompted", "--max-rows", "8", "--shots", "1", "--out", "chat-" + mode)
    found = results(house, "chat-" + mode)
    assert found["test"]["n"] == 8 and found["texts"] == {"none": 0, "debate": 64}.get(mode, 32)
    assert 0 <= found["empty"] <= found["texts"]
    if mode == "debate":
        run(*models, "--max-rows", "20", "--shots", "0", "--out", "chat-tuned")


def test_show_prints_a_debate_as_a_person_reads_it(house, run):
    row = read_records(house, "data", "tinyworld", "test.jsonl")[0]
    printed = run("--show", row["id"])
    rounds = next(r["rounds"] for r in read_records(transcripts_path(house, "debate")) if r["id"] == row["id"])
    assert all(text in printed for arguments in rounds for text in arguments.values())
    assert row["question"] in printed and "2. against" in printed
    assert f"after      the judge's p(yes) is {labels_of(house, 'debate')[row['id']]:.2f}" in printed
    assert f"before     the judge's p(yes) is {labels_of(house, 'weak')[row['id']]:.2f}" in printed
    assert "truth      the answer is " in printed


def test_a_human_can_be_the_judge_stop_and_go_on(house, run):
    flags = ["--mode", "debate", "--rounds", "2", "--judge", "human"]
    printed = run(*flags, stdin="y\nmaybe\n150\n0\n70\nq\n")
    assert "3 of 120 rows are judged" in printed and "'maybe' is none of" in printed and "'150' is none of" in printed
    assert "agree on" in printed and not os.path.exists(os.path.join(run_dir(house, "debate-human"), "results.json"))
    assert "For" not in printed.split("question")[0] and printed.count("  question ") == 4
    printed = run(*flags, stdin="n\n" * 300)
    assert "[4 of 120]" in printed and "[3 of 120]" not in printed and "human judge (debate) 0.5" in printed
    assert "supervisor" not in printed.splitlines()[-2]
    human = list(labels_of(house, "debate-human").values())
    assert [round(p, 2) for p in human[:5]] == [1.0, 0.0, 0.7, 0.0, 0.0] and len(human) == 120
    agreement = float(re.search(r"agree on (\d+\.\d)%", printed)[1]) / 100
    model = labels_of(house, "debate").values()
    assert agreement == pytest.approx(np.mean([(a > 0.5) == (b > 0.5) for a, b in zip(model, human)]), abs=6e-4)
    printed = run(*flags, "--out", "nobody-there", stdin="")               # the end of input ends the questions
    assert "0 of 120 rows are judged" in printed


def test_a_human_is_compared_on_the_rows_that_the_model_has_judged(tmp_path, monkeypatch, capsys):
    """Fault: a model with a smaller --max-rows ended the command after the last answer, which was never written."""
    monkeypatch.setattr(contract, "ROOT", str(tmp_path))
    args = debate.parse_flags(["--mode", "none", "--task", "t"])[1]
    folder = tmp_path / "data" / "t" / "seed0" / "none"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text("{}")
    write_records(folder / "labels.jsonl", [{"id": "a", "soft_label": [0, 1]}, {"id": "b", "soft_label": [1, 0]}])
    for ids, words in (("abc", "agree on 50.0% of 2 rows"), ("bca", "agree on 50.0% of 2 rows"), ("c", "on 0 rows")):
        debate.print_agreement([{"id": name} for name in ids], np.array([[0.1, 0.9]] * len(ids)), args)
        assert words in capsys.readouterr().out


def test_a_damaged_answer_of_a_human_is_named_and_asked_again(house, run):
    flags = ["--mode", "debate", "--rounds", "2", "--judge", "human", "--out", "damaged-answers"]
    run(*flags, stdin="y\nq\n")
    path = os.path.join(run_dir(house, "damaged-answers"), "answers.jsonl")
    answer, = read_records(path)
    for damaged in ({"id": answer["id"], "p_yes": 1}, {**answer, "p_yes": "yes"}, {**answer, "id": []},
                    {**answer, "p_yes": 7}, {**answer, "p_yes": float("nan")}, {**answer, "p_yes": True}):
        write_records(path, [damaged])
        printed = run(*flags, stdin="q\n")
        assert "answers.jsonl, answer 1 is damaged; its question is asked again" in printed, damaged
        assert "[1 of 120]" in printed, damaged
    write_records(path, [{**answer, "saw": "other text"}])                 # whole, but about another transcript
    assert "[1 of 120]" in run(*flags, stdin="q\n")


def test_the_header_shows_a_row_of_a_run_that_it_has_made():
    """Fault: the header's --show looked for a run "debate", which none of its commands makes."""
    commands = re.findall(r"^\$ python debate.py (.*?)(?: +#|$)", debate.__doc__, re.M)
    flags = [debate.parse_flags(command.split())[1] for command in commands]
    made = {args.out for args in flags if not args.show}
    shown = [args.out for args in flags if args.show]
    assert shown and set(shown) <= made


@pytest.mark.parametrize("flags,words", [
    (["--mode", "quarrel"], ["--mode", "quarrel"]),
    (["--assistant", "tiny-9"], ["tiny-9", "tiny-4"]),
    (["--mode", "interaction", "--rounds", "2"], ["--rounds 2", "no side replies"]),
    (["--mode", "support", "--ensemble", "3"], ["--ensemble"]),
    (["--ensemble", "2", "--temperature", "0"], ["--ensemble", "--temperature"]),
    (["--rounds", "9"], ["not between"]),
    (["--supervisor", "nobody"], ["no labels at", "nobody"]),
    (["--mode", "none", "--supervisor", "none"], ["--out", "overwrite"]),
    (["--show", "no-such-row"], ["no such id"]),
    (["--show", "x", "--out", "weak"], ["no run of debate.py", "--mode debate"]),
    (["--show", "x", "--out", "nobody"], ["nobody is no run of debate.py", "--out nobody"]),
    (["--mode", "none", "--out", ".."], ["--out"]),
    (["--task", "nowhere"], ["no train1 rows"]),
])
def test_a_users_mistake_is_one_clear_line(house, run, capsys, flags, words):
    with pytest.raises(SystemExit) as stop:
        run(*flags)
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2 and all(word in err for word in words), err


def test_rows_without_a_question_can_be_debated_but_get_no_notes(house, run, capsys):
    world = os.path.join(house, "data", "mine")
    os.makedirs(world)
    for path in glob.glob(os.path.join(house, "data", "tinyworld", "*.jsonl")):
        kept = []
        for row in read_records(path)[:20]:
            kept.append({key: row[key] for key in ("id", "group", "text", "label") if key in row})
        write_records(os.path.join(world, os.path.basename(path)), kept)
    shutil.copy(os.path.join(house, "data", "tinyworld", "task.json"), world)
    assert "supervisor (consultancy)" in run("--task", "mine", "--mode", "consultancy", "--assistant", "tiny-2")
    for mode, lack in (("interaction", "question"), ("support", "support")):
        with pytest.raises(SystemExit):
            run("--task", "mine", "--mode", mode)
        assert f"needs a {lack!r} in every row" in capsys.readouterr().err


def test_count_whole_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(debate, "BLOCK", 2)
    path = tmp_path / "t.jsonl"

    def rows(names):
        return [{"id": name} for name in names]

    def lines(names, rounds):
        return "".join(json.dumps({"id": name, "rounds": rounds}) + "\n" for name in names)
    identity = {"mode": "debate", "seed": 0, "rounds": 1}
    earlier = {name: [] for name in "abcde"}
    whole = [{"for": "x", "against": ""}]
    for text, n_kept in [("", 0), (lines("a", whole), 0), (lines("abc", whole), 2), (lines("axc", whole), 0),
                         (lines("abc", whole)[:-1], 2), (lines("abcdef", whole), 5)]:
        path.write_text(text)
        expected = n_kept, len(text.splitlines()) - n_kept
        assert count_whole_blocks(str(path), rows("abcde"), identity, earlier) == expected
    assert count_whole_blocks(str(tmp_path / "nothing"), rows("ab"), identity, earlier) == (0, 0)
    assert render_rounds([]) == ""
    for damaged in ([], [7], ["for"], {}, "", [[]], [{"judge": "x"}], [{"for": "x"}], [{"for": 7, "against": ""}], None,
                    whole + whole):
        path.write_text(lines("ab", whole) + lines("cd", damaged))
        assert count_whole_blocks(str(path), rows("abcd"), identity, earlier)[0] == 2, damaged
    path.write_text(lines("abcd", whole))
    assert count_whole_blocks(str(path), rows("abcd"), identity, earlier)[0] == 4
    two_rounds = identity | {"rounds": 2}                  # the second round continues the first
    path.write_text(lines("abcd", whole + whole))
    assert count_whole_blocks(str(path), rows("abcd"), two_rounds, {name: whole for name in "abcd"})[0] == 4
    assert count_whole_blocks(str(path), rows("abcd"), two_rounds, {name: [{}] for name in "abcd"})[0] == 0
