#!/usr/bin/env bash
# The whole experiment, in the order the README tells it: one small model supervises one big model.
#
#   bash run.sh                     # tinyworld, offline, a minute on a laptop: ends with the table in README.md
#   bash run.sh --seed 1            # extra flags go to every trainer
#   bash run.sh --task own-task --epochs 3
#
# Each command also runs alone: copy it, paste it, change a flag. What is finished is not done again.
set -euo pipefail                   # stop at the first failure: no stage may run on what a failed one left behind
cd "$(dirname "$0")"

# 1. data (seconds): four disjoint splits, so that the student never trains on its supervisor's questions
python data/tinyworld/prepare.py

# 2. supervisor: a small model and the true labels of train1 -> soft labels for everything else
python train_weak.py "$@"

# 3. ceiling: the big model and the true labels of train2
python train_strong.py --labels truth --out ceiling "$@"

# 4. student: the same model and rows, the supervisor's labels
python train_strong.py --labels weak --out student --ceiling ceiling "$@"

# 5. the table, of every seed that was run
python report.py
