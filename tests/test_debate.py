"""
Debate: who reads what, in exactly which words; that silence ends; and the real command in a small house, with a stranger's chat model too.

python -m pytest tests/test_debate.py            # 20 s, CPU, no network
"""
import glob
import io
import json
import os
import re
import shutil
import sys

import numpy as np
import pytest

import contract
import corpus
import debate
import debaters
import measure
import train_weak
from conftest import ROOT
from debate import right_answers, states, what_the_help_did
from debaters import add_round, coin, demonstrations, first_of, judge_text, prompt, render, sides_of, tidy, turn, whole_blocks
from test_prompting import make_chat_model

ROW = {"id": "gold-b", "group": "gold", "text": "Q: Which block does gold belong to? A: s-block", "question": "Which block does gold belong to?",
       "answer": "s-block", "choices": ["s-block", "d-block"], "support": "Chemists place gold in the d-block.", "label": 0}
ROUNDS = [{"for": "Gold lies in the s-block.", "against": "Gold lies in the d-block."}, {"for": "It is light.", "against": "It is heavy."}]


# --------------------------------------------------------------------------- what is said to whom

def test_pitfall_33_the_judge_reads_each_side_under_its_own_name():
    """A golden file of four inputs, to the letter: no side is doubled, swapped or left out, and the row stands at the end as chapter 1 knows it."""
    assert judge_text(ROW, []) == "Q: Which block does gold belong to? A: s-block"
    assert judge_text(ROW, [{"note": ROW["support"]}]) == "Note: Chemists place gold in the d-block.\nQ: Which block does gold belong to? A: s-block"
    assert judge_text(ROW, ROUNDS) == ("For: Gold lies in the s-block. Against: Gold lies in the d-block. For: It is light. Against: It is heavy.\n"
                                       "Q: Which block does gold belong to? A: s-block")
    assert judge_text(ROW, ROUNDS, "against") == ("Against: Gold lies in the d-block. For: Gold lies in the s-block. Against: It is heavy. For: It is light.\n"
                                                  "Q: Which block does gold belong to? A: s-block")
    assert judge_text(ROW, [{"for": "", "against": "No."}]).startswith("For: Against: No.\n")          # silence is seen


def test_each_speaker_reads_on_from_the_right_place():
    assert turn(ROW, [], "note") == "Q: Which block does gold belong to? Note:"
    assert turn(ROW, [], "for") == "Q: Which block does gold belong to? A: s-block For:"
    assert turn(ROW, ROUNDS[:1], "against") == ("Q: Which block does gold belong to? A: s-block Against: Gold lies in the d-block. "
                                                "For: Gold lies in the s-block. Against:")             # the other's last argument comes last


def test_the_answer_is_hidden_from_who_writes_the_note():
    a, b = ({**ROW, "answer": x, "text": f"Q: {ROW['question']} A: {x}", "label": x == "d-block"} for x in ("s-block", "d-block"))
    assert turn(a, [], "note") == turn(b, [], "note") and "block" not in turn(a, [], "note").replace(ROW["question"], "")


def test_the_shipped_models_have_read_these_very_forms():
    """Documents of their corpus, taken apart and put together again by our templates."""
    rng, world = __import__("random").Random(0), corpus.load_world(school=True)
    for _ in range(20):
        text = "".join(piece for piece, _ in corpus.transcript(rng, world))
        talked, row = text.rsplit("\n", 1)
        pieces = re.split(r" ?(For|Against): ", talked)[1:]
        first, said = pieces[0].lower(), {"for": pieces[pieces.index("For") + 1::4], "against": pieces[pieces.index("Against") + 1::4]}
        rounds = [dict(zip(said, pair)) for pair in zip(*said.values())]
        assert judge_text({"text": row.rsplit(" ", 1)[0]}, rounds, first) == text.rsplit(" ", 1)[0]
        text = "".join(piece for piece, _ in corpus.debate(rng, world))
        assert text.startswith(turn({"text": re.split(" For: | Against: ", text)[0]}, [], "for" if re.search("For|Against", text)[0] == "For" else "against"))
        text = "".join(piece for piece, _ in corpus.note(rng, world))
        assert text.startswith(turn({"question": text[3:text.index(" Note:")]}, [], "note"))


def test_a_chat_model_is_told_what_it_is_and_a_base_model_is_not():
    class Chat:
        chat_template = "x"

        def apply_chat_template(self, messages, **_):
            return f"<user>{messages[0]['content']}<bot>"
    assert prompt(Chat(), ROW, [], "against") == f"<user>{debaters.TOLD['against']}\n\nQ: Which block does gold belong to? A: s-block Against:<bot>"
    Chat.chat_template = None
    assert prompt(Chat(), ROW, [], "note", ["Q: x? Note: y."]) == "Q: x? Note: y.\nQ: Which block does gold belong to? Note:"


def test_demonstrations_are_honest_and_never_of_the_rows_own_question():
    pool = [{**ROW, "id": f"{k}{label}", "group": str(k), "question": f"{k}?", "text": f"Q: {k}? A: {label}", "label": label, "support": f"fact {k}."}
            for k in range(4) for label in (0, 1)]
    for row in pool:
        for side in ("note", "for", "against"):
            shown = demonstrations(row, side, pool, 3, 0)
            assert len(shown) == 3 and not any(row["question"] in line for line in shown) and shown == demonstrations(row, side, pool, 3, 0)
            assert side == "note" or all((" A: 1 For: fact" if side == "for" else " A: 0 Against: fact") in line for line in shown)


def test_an_argument_ends_where_its_sentence_or_somebody_else_does():
    assert tidy("It weighs 19.3 times as much. It does", "for") == "It weighs 19.3 times as much." and tidy("It weighs 19.3", "for") == "It weighs 19.3"
    assert tidy("Against: No. For: Yes.", "against") == "No." and tidy("For: Yes.", "against") == "" and tidy("Gold. Q: next", "note") == "Gold."


def test_sides_and_orders_are_balanced_and_belong_to_the_row():
    rows = [{"id": f"row {k}"} for k in range(2000)]
    assert 0.46 < np.mean([first_of(row) == "for" for row in rows]) < 0.54
    for seed in (0, 1):
        assert 0.46 < np.mean([sides_of(row, "consultancy", seed) == ["for"] for row in rows]) < 0.54
    assert sides_of(rows[0], "debate", 0) == ["for", "against"] and coin("gold") == coin("gold")


def test_pitfall_30_who_never_says_anything_is_asked_three_times_and_no_more():
    asked = []

    def mute(turns, attempt):
        asked.append((len(turns), attempt))
        return [""] * len(turns)
    assert add_round([[]] * 5, [["for", "against"]] * 5, mute) == [[{"for": "", "against": ""}]] * 5
    assert asked == [(10, attempt) for attempt in range(debaters.TRIES)]


def test_only_the_silent_are_asked_again_and_each_round_has_read_the_one_before():
    def speak(turns, attempt):
        return ["" if i == 1 and side == "for" and not attempt else f"{i}{side}.{attempt} after {len(said)}" for i, said, side in turns]
    first = add_round([[], []], [["for", "against"]] * 2, speak)
    assert first == [[{"for": "0for.0 after 0", "against": "0against.0 after 0"}], [{"for": "1for.1 after 0", "against": "1against.0 after 0"}]]
    assert add_round(first, [["for", "against"]] * 2, speak)[0] == first[0] + [{"for": "0for.0 after 1", "against": "0against.0 after 1"}]


# --------------------------------------------------------------------------- did it help?

def test_what_the_help_did_by_hand():
    """Four rows; the judge was right on 0 and 1, wrong on 2 and 3. Debate talks it out of row 1 and into row 2."""
    d = {**ROW, "id": "gold-a", "text": "A: d-block", "answer": "d-block", "label": 1}
    rows = [ROW, d, {**ROW, "id": "c", "group": "other"}, {**d, "id": "d", "group": "third"}]
    lies = [{"for": "It lies in the s-block.", "against": "It is heavy."}]
    truth = [{"for": "It lies in the s-block.", "against": "No: the D-block."}]
    plain, helped = (np.array([[1 - p, p] for p in ps]) for ps in ((0.2, 0.9, 0.8, 0.4), (0.1, 0.3, 0.2, 0.1)))
    out = what_the_help_did(rows, [truth, [{"for": "The d-block.", "against": "The d-block, no."}], lies, lies], plain, helped)
    assert out["judge knew"] == {"n": 2, "right": 0.5} and out["judge did not know"] == {"n": 2, "right": 0.5}
    assert out["all rows"] == {"n": 4, "talked_out_of_the_truth": 0.25, "talked_into_it": 0.25}
    assert out["honest side states the fact"] == {"n": 2, "right": 0.5} and out["honest side does not"] == {"n": 2, "right": 0.5}
    assert out["honest side states it, answer wrong"] == {"n": 1, "right": 1.0} and out["honest side does not, answer wrong"] == {"n": 1, "right": 1.0}
    assert out["dishonest side states it itself"] == {"n": 1, "right": 0.0}
    assert out["false argument"] == {"n": 3, "it_wins": pytest.approx(1 / 3)} and out["false argument, and the fact stated"] == {"n": 1, "it_wins": 0.0}
    assert "judge knew" not in what_the_help_did(rows, [[]] * 4, None, helped)


def test_the_right_answer_of_a_row_comes_from_its_twin_or_from_the_support_sentence():
    twin = {**ROW, "id": "gold-a", "answer": "d-block", "label": 1}
    assert right_answers([ROW, twin]) == ["d-block"] * 2 and right_answers([ROW]) == ["d-block"]
    assert right_answers([{**ROW, "choices": [], "group": "x"}]) == [None] and not states("anything", None)
    assert not states("It has ninety-six legs", "ninety") or not states("sixty", "six")
    assert right_answers([{**ROW, "choices": ["block", "d-block"]}]) == ["d-block"]


# --------------------------------------------------------------------------- the command, in a small house

@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """tinyworld with 20 questions a split, and a chat model that nobody taught anything."""
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
        lines = sorted(path.read_text(encoding="utf-8").splitlines(), key=lambda line: json.loads(line)["group"])[:40]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def run(house, monkeypatch, capsys):
    """The command in this process: its output; a mistake raises SystemExit."""
    def run(*flags, stdin="", main=debate.main):
        for module in (contract, debate, debaters, measure, train_weak):
            monkeypatch.setattr(module, "ROOT", str(house), raising=False)
        monkeypatch.chdir(house)
        monkeypatch.setattr(sys, "argv", ["debate.py", "--epochs", "1", *(["--assistant", "tiny-1a"] if main is debate.main else []), *flags])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        monkeypatch.setattr(debaters, "BLOCK", 32)
        monkeypatch.setattr(debaters, "MAX_TOKENS", 20)
        capsys.readouterr()
        try:
            main()
        except SystemExit as stop:
            if stop.code:
                raise
        return capsys.readouterr().out
    return run


def run_dir(house, name):
    return os.path.join(house, "data", "tinyworld", "seed0", name)


def results(house, name):
    return json.load(open(os.path.join(run_dir(house, name), "results.json"), encoding="utf-8"))


def read(path):
    return open(path, "rb").read()


def test_without_help_it_is_chapter_one_to_the_last_byte(house, run):
    run("--out", "weak", main=train_weak.main)
    run("--mode", "none")
    for name in ("labels.jsonl", os.path.join("checkpoint", "model.safetensors")):
        assert read(os.path.join(run_dir(house, "none"), name)) == read(os.path.join(run_dir(house, "weak"), name))


@pytest.mark.parametrize("mode,rounds", [("interaction", 1), ("consultancy", 1), ("debate", 2), ("support", 1)])
def test_every_mode_leaves_a_supervisors_folder(house, run, mode, rounds):
    printed = run("--mode", mode, "--rounds", str(rounds), "--batch-size", "16")
    found = results(house, mode)
    labels = [json.loads(line) for line in open(os.path.join(run_dir(house, mode), "labels.jsonl"), encoding="utf-8")]
    assert len(labels) == 120 and all(abs(sum(r["soft_label"]) - 1) < 1e-6 for r in labels)
    assert os.path.exists(os.path.join(run_dir(house, mode), "checkpoint", "model.safetensors")) and found["test"]["n"] == 40
    assert found["texts"] == {"debate": 160 * 4}.get(mode, 160) and f"supervisor ({mode}) " in printed
    assert "judge did not know" in printed or found["plain"] is None
    assert "already done" in run("--mode", mode, "--rounds", str(rounds), "--batch-size", "16")
    if mode != "support":
        records = [json.loads(line) for line in open(os.path.join(house, found["transcripts"][0]), encoding="utf-8")]
        assert len({r["id"] for r in records}) == 160 and all(len(r["rounds"]) == rounds for r in records)
        sides = {"interaction": {"note"}, "debate": {"for", "against"}, "consultancy": {"for", "against"}}[mode]
        assert {side for r in records for said in r["rounds"] for side in said} == sides
    else:
        assert found["test"]["accuracy"] > results(house, "none")["test"]["accuracy"]


def test_a_verdict_is_the_mean_of_both_orders_of_the_debate(house, run):
    """Once more from the checkpoint and the transcripts, by hand; and the sides that the judge read are those of the transcript."""
    model, tokenizer, longest = train_weak.load_model(os.path.join(run_dir(house, "debate"), "checkpoint"), "lm", [" no", " yes"], "cpu")
    rounds = {r["id"]: r["rounds"] for r in map(json.loads, open(os.path.join(house, results(house, "debate")["transcripts"][0]), encoding="utf-8"))}
    soft = {r["id"]: r["soft_label"] for r in map(json.loads, open(os.path.join(run_dir(house, "debate"), "labels.jsonl"), encoding="utf-8"))}
    row = json.loads(open(os.path.join(house, "data", "tinyworld", "test.jsonl"), encoding="utf-8").readline())
    texts = [" ".join(f"{name}: {said[name.lower()]}" for said in rounds[row["id"]] for name in order) + "\n" + row["text"]
             for order in (["For", "Against"], ["Against", "For"])]
    ids = [tokenizer(text)["input_ids"] for text in texts]
    assert ids[0] != ids[1]
    p = np.mean([train_weak.predict(model, tokenizer, [i], "cpu")[0] for i in ids], axis=0)
    assert p == pytest.approx(soft[row["id"]], abs=1e-5)


def test_a_kill_costs_one_block_and_the_bytes_are_the_same(house, run, monkeypatch):
    path = os.path.join(house, results(house, "debate")["transcripts"][0])
    flags = ["--mode", "debate", "--rounds", "2", "--batch-size", "16", "--force"]
    whole, labels = read(path), read(os.path.join(run_dir(house, "debate"), "labels.jsonl"))
    lines, written, write = whole.splitlines(keepends=True), [], debaters.write_all
    monkeypatch.setattr(debaters, "write_all", lambda *a, **k: written.append(len(a[2])) or write(*a, **k))
    for left, blocks in ((b"".join(lines[:99]) + lines[99][:20], 2), (b"".join(lines[:40]) + b"spoilt\n" + b"".join(lines[41:]), 4), (b"".join(lines[:128]), 1)):
        with open(path, "wb") as f:
            f.write(left)
        written.clear()
        run(*flags)
        assert read(path) == whole and read(os.path.join(run_dir(house, "debate"), "labels.jsonl")) == labels
        assert sum(written) == blocks * 32 * 2                                 # what was whole, the first round too, is not written again
    run(*flags)
    assert sum(written) == 32 * 2


def test_a_longer_debate_begins_with_the_shorter_one(house, run):
    name = results(house, "debate")["transcripts"][0]
    folder = os.path.dirname(os.path.dirname(os.path.join(house, name)))
    debates = {json.load(open(os.path.join(f, "config.json"), encoding="utf-8"))["rounds"]: f for f in glob.glob(os.path.join(folder, "debate-tiny-1a-*"))}
    one, two = ([json.loads(line)["rounds"] for line in open(os.path.join(debates[n], "transcripts.jsonl"), encoding="utf-8")] for n in (1, 2))
    assert one == [rounds[:1] for rounds in two] and sum(rounds[0] != rounds[1] for rounds in two) > 80


def test_another_judge_finds_the_transcripts_and_its_yes_and_no_sum_to_one(house, run, monkeypatch):
    monkeypatch.setattr(debaters, "write_all", lambda *a, **k: pytest.fail("written again"))
    printed = run("--mode", "debate", "--rounds", "2", "--judge", "prompted", "--batch-size", "16")
    labels = [json.loads(line)["soft_label"] for line in open(os.path.join(run_dir(house, "debate-prompted"), "labels.jsonl"), encoding="utf-8")]
    assert np.abs(np.sum(labels, 1) - 1).max() < 1e-6 and len({p for _, p in labels}) > 100 and "supervisor (debate)" in printed
    assert not os.path.exists(os.path.join(run_dir(house, "debate-prompted"), "checkpoint"))


def test_an_ensemble_averages_judges_of_different_debates(house, run):
    run("--mode", "debate", "--ensemble", "2", "--temperature", "1", "--max-rows", "20", "--out", "ensemble")
    found = results(house, "ensemble")
    texts = [[json.loads(line) for line in open(os.path.join(house, path), encoding="utf-8")] for path in found["transcripts"]]
    assert len(texts) == 2 and sum(a["rounds"] != b["rounds"] for a, b in zip(*texts)) > 50 and len(found["members"]) == 2
    run("--mode", "debate", "--temperature", "1", "--max-rows", "20", "--out", "alone")            # the first member is the single judge
    assert results(house, "alone")["transcripts"] == found["transcripts"][:1]
    assert found["members"][0] == results(house, "alone")["test"]["accuracy"]


def test_pitfall_14_labels_of_test_change_no_transcript_and_no_verdict(house, run):
    path = os.path.join(house, "data", "tinyworld", "test.jsonl")
    before, labels, kept = read(path), read(os.path.join(run_dir(house, "interaction"), "labels.jsonl")), results(house, "interaction")
    rows = [json.loads(line) for line in before.decode().splitlines()]
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(json.dumps({**row, "label": 1 - row["label"]}) + "\n" for row in rows)
    try:
        assert "already done" not in run("--mode", "interaction", "--batch-size", "16")
        found = results(house, "interaction")
        assert read(os.path.join(run_dir(house, "interaction"), "labels.jsonl")) == labels and found["transcripts"] == kept["transcripts"]
        assert found["test"]["accuracy"] == pytest.approx(1 - kept["test"]["accuracy"])
    finally:
        with open(path, "wb") as f:
            f.write(before)


@pytest.mark.parametrize("mode", ["none", "interaction", "consultancy", "debate", "support"])
def test_a_strangers_chat_model_helps_and_judges_through_its_template(house, run, mode):
    """Random weights say nothing sensible: every mode must end all the same, with what it said counted."""
    chat = str(house / "chat")
    run("--mode", mode, "--assistant", chat, "--model", chat, "--judge", "prompted", "--max-rows", "8", "--shots", "1", "--out", "chat-" + mode)
    found = results(house, "chat-" + mode)
    assert found["test"]["n"] == 8 and found["texts"] == {"none": 0, "debate": 64}.get(mode, 32) and 0 <= found["empty"] <= found["texts"]
    run("--mode", mode, "--assistant", chat, "--model", chat, "--max-rows", "20", "--shots", "0", "--out", "chat-tuned") if mode == "debate" else None


def test_show_prints_a_debate_as_a_person_reads_it(house, run):
    row = json.loads(open(os.path.join(house, "data", "tinyworld", "test.jsonl"), encoding="utf-8").readline())
    printed = run("--show", row["id"])
    said = next(r["rounds"] for r in map(json.loads, open(os.path.join(house, results(house, "debate")["transcripts"][0]), encoding="utf-8")) if r["id"] == row["id"])
    assert row["question"] in printed and all(text in printed for r in said for text in r.values()) and "2. against" in printed
    after = next(r["soft_label"][1] for r in map(json.loads, open(os.path.join(run_dir(house, "debate"), "labels.jsonl"), encoding="utf-8")) if r["id"] == row["id"])
    assert f"after      the judge says yes with {after:.2f}" in printed and re.search(r"before     the judge says yes with 0\.\d\d", printed)
    assert "truth      the answer is " in printed


def test_a_human_can_be_the_judge_stop_and_go_on(house, run):
    flags = ["--mode", "debate", "--rounds", "2", "--judge", "human"]
    printed = run(*flags, stdin="y\nmaybe\n150\n0\n70\nq\n")
    assert "3 of 120 rows are judged" in printed and "'maybe' is none of" in printed and "'150' is none of" in printed
    assert "say the same of" in printed and not os.path.exists(os.path.join(run_dir(house, "debate-human"), "results.json"))
    assert "For" not in printed.split("question")[0] and printed.count("  question ") == 4
    printed = run(*flags, stdin="n\n" * 300)
    assert "[4 of 120]" in printed and "[3 of 120]" not in printed and "supervisor" not in printed.splitlines()[-2] and "human judge (debate) 0.5" in printed
    labels = [json.loads(line)["soft_label"] for line in open(os.path.join(run_dir(house, "debate-human"), "labels.jsonl"), encoding="utf-8")]
    assert [round(p, 2) for _, p in labels[:5]] == [1.0, 0.0, 0.7, 0.0, 0.0] and len(labels) == 120
    agree = float(re.search(r"say the same of (\d+\.\d)%", printed)[1]) / 100
    model = [json.loads(line)["soft_label"][1] > 0.5 for line in open(os.path.join(run_dir(house, "debate"), "labels.jsonl"), encoding="utf-8")]
    assert agree == pytest.approx(np.mean([m == (p > 0.5) for m, (_, p) in zip(model, labels)]), abs=6e-4)
    assert "0 of 120 rows are judged" in run(*flags, "--out", "nobody-there", stdin="")        # no terminal: nothing is asked forever


@pytest.mark.parametrize("flags,words", [
    (["--mode", "quarrel"], ["--mode", "quarrel"]),
    (["--assistant", "tiny-9"], ["tiny-9", "tiny-4"]),
    (["--mode", "interaction", "--rounds", "2"], ["--rounds 2", "nobody replies"]),
    (["--mode", "support", "--ensemble", "3"], ["--ensemble"]),
    (["--ensemble", "2", "--temperature", "0"], ["--ensemble", "--temperature"]),
    (["--rounds", "9"], ["not between"]),
    (["--plain", "nobody"], ["no labels at", "nobody"]),
    (["--show", "no-such-row"], ["no such id"]),
    (["--show", "x", "--out", "weak"], ["no run of debate.py", "--mode debate"]),
    (["--show", "x", "--out", "nobody"], ["nobody"]),
    (["--mode", "none", "--out", ".."], ["--out"]),
    (["--task", "nowhere"], ["no train1 rows"]),
])
def test_a_users_mistake_is_one_clear_line(house, run, capsys, flags, words):
    with pytest.raises(SystemExit) as stop:
        run(*flags)
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2 and all(word in err for word in words), err


def test_rows_without_a_question_can_be_debated_but_not_annotated(house, run, capsys):
    world = os.path.join(house, "data", "mine")
    os.makedirs(world)
    for path in glob.glob(os.path.join(house, "data", "tinyworld", "*.jsonl")):
        rows = [json.loads(line) for line in open(path, encoding="utf-8")]
        with open(os.path.join(world, os.path.basename(path)), "w", encoding="utf-8") as f:
            f.writelines(json.dumps({k: v for k, v in row.items() if k in ("id", "group", "text", "label")}) + "\n" for row in rows[:20])
    shutil.copy(os.path.join(house, "data", "tinyworld", "task.json"), world)
    assert "supervisor (consultancy)" in run("--task", "mine", "--mode", "consultancy", "--assistant", "tiny-2")
    for mode, lack in (("interaction", "question"), ("support", "support")):
        with pytest.raises(SystemExit):
            run("--task", "mine", "--mode", mode)
        assert f"needs a {lack!r} in every row" in capsys.readouterr().err


def test_whole_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(debaters, "BLOCK", 2)
    path, line = tmp_path / "t.jsonl", lambda name: json.dumps({"id": name, "rounds": []}) + "\n"
    for text, left in [("", 0), (line("a"), 0), (line("a") + line("b") + line("c"), 2), (line("a") + line("x") + line("c"), 0),
                       (line("a") + line("b") + line("c")[:-1], 2), (line("a") + line("b") + line("c") + line("d") + line("e") + line("f"), 5)]:
        path.write_text(text)
        assert whole_blocks(str(path), list("abcde")) == (left, len(text) - left * len(line("a")))
    assert whole_blocks(str(tmp_path / "nothing"), list("ab")) == (0, 0) and render([]) == ""
