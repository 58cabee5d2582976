"""
Hard to break: two runs at once, a full disk, kills, broken inputs; and what must not matter does not. tests/README.md says which test catches which
pitfall.

python -m pytest tests/test_robust.py                            # half a minute
W2SG_KILLS=20 W2SG_FUZZ=1000 python -m pytest tests/test_robust.py          # as often as one likes
"""
import ast
import glob
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

import contract
import warm
from conftest import ROOT
from test_commands import build_house, call, contents, must

KILLS, FUZZ = int(os.environ.get("W2SG_KILLS", 1)), int(os.environ.get("W2SG_FUZZ", 120))
STAGES = {"weak": ["train_weak.py", "--epochs", "1"],
          "student": ["train_strong.py", "--labels", "weak", "--ceiling", "ceiling", "--model", "tiny-1b", "--epochs", "1"],
          "ensemble": ["ensemble.py", "--members", "2", "--epochs", "1"],
          "interaction": ["debate.py", "--mode", "interaction", "--assistant", "tiny-1b", "--epochs", "1"],
          "icl": ["icl.py", "--labels", "weak", "--model", "tiny-1b", "--shots", "1"],
          "align": ["auto_align.py", "--ladder", "tiny-1b", "--audit", "4", "--epochs", "1"]}
CEILING = ["train_strong.py", "--labels", "truth", "--out", "ceiling", "--model", "tiny-1b", "--epochs", "1"]


def small_house(folder, rows=24):
    """A house where everything is quick: 24 rows in each split, and one run of each stage."""
    house = build_house(folder)
    world, kept = os.path.join(house, "data", "tinyworld"), set()
    for name in ("train1.jsonl", "train2.jsonl", "valid.jsonl", "test.jsonl", "truth/labels.jsonl"):
        with open(os.path.join(world, name), encoding="utf-8") as f:
            lines = [line for k, line in enumerate(f) if (json.loads(line)["id"] in kept if "truth" in name else k < rows)]
        with open(os.path.join(world, name), "w", encoding="utf-8") as f:
            f.writelines(lines)
        kept |= {json.loads(line)["id"] for line in lines}
    os.makedirs(os.path.join(house, "data", "own"))
    shutil.copy(os.path.join(ROOT, "data", "own", "prepare.py"), os.path.join(house, "data", "own"))
    for command in (STAGES["weak"], CEILING, *list(STAGES.values())[1:]):
        must(house, *command)
    return house


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    return small_house(tmp_path_factory.mktemp("robust") / "house")


def seed0(house, *names):
    return os.path.join(house, "data", "tinyworld", "seed0", *names)
