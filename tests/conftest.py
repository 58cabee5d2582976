"""Shared by all tests: the scripts are imported from the repository's root, the tinyworld ones from their folder."""
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, "data", "tinyworld")]
os.environ["HF_HUB_OFFLINE"] = "1"                         # a test that reaches for the network fails at once
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")              # models are tiny: a second thread mostly waits
