"""
Solutions of 05_oversight.ipynb: the functions as they stand in debate.py. Made by course/build.py.

$ python course/lesson.py course/solutions/05_oversight.py               # grades them
"""
import matplotlib.pyplot as plt
import numpy as np
from lesson import grade, run

from contract import read_labels, read_results, read_rows, run_folder
from debate import MARKERS, TRIES, render_rounds
from metrics import correct


def speaker_text(row, rounds, side):
    """
    The text that an assistant continues. A note's writer does not see the answer. A debater sees all rounds so far, the
    other side's last argument last.

    >>> speaker_text({"text": "Q: Is gold heavy? A: no"}, [{"for": "It floats.", "against": "It sinks."}], "for")
    'Q: Is gold heavy? A: no For: It floats. Against: It sinks. For:'
    """
    opening = f"Q: {row['question']}" if side == "note" else row["text"]
    return " ".join(filter(None, [opening, render_rounds(rounds, first=side), MARKERS[side]]))


def add_round(rounds, sides, speak):
    """
    One more round for N rows. All sides speak at once: each reads only the rounds before. So neither side has the last
    word, and the judge can read a round in either order.

    rounds    N lists of the rounds so far
    sides     N lists of the sides that speak
    speak     (list of (i, rounds so far, side), number of the try) -> the arguments, "" for an empty one
    returns   N lists, one round longer; an argument that is empty after TRIES samples stays ""
    """
    arguments = {(i, side): "" for i in range(len(rounds)) for side in sides[i]}
    for attempt in range(TRIES):
        empty = [(i, rounds[i], side) for (i, side), argument in arguments.items() if not argument]
        for (i, _, side), argument in zip(empty, speak(empty, attempt)):
            arguments[i, side] = argument
    return [before + [{side: arguments[i, side] for side in sides[i]}] for i, before in enumerate(rounds)]


grade(speaker_text,
      "test_debate::test_each_speaker_continues_from_the_right_place",
      "test_debate::test_the_writer_of_a_note_does_not_see_the_answer")
grade(add_round,
      "test_debate::test_pitfall_30_who_never_says_anything_is_asked_three_times_and_no_more",
      "test_debate::test_only_empty_arguments_are_sampled_again_and_each_round_has_read_the_one_before")
