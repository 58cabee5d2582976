#!/usr/bin/env bash
# The whole experiment, in the order the README tells it: one small model supervises one big model.
#
#   bash run.sh                     # tinyworld, offline, half a minute on two cores: ends with the table in README.md
#   bash run.sh --seed 1            # --seed --task --epochs --lr --device ... go to every trainer
#   bash run.sh --task mine         # rows of your own, made by data/own/prepare.py
#
# Each command also runs alone: copy it, paste it, change a flag. What is finished is not done again.
set -euo pipefail                   # stop at the first failure: no stage may run on what a failed one left behind
cd "$(dirname "$0")"

for flag in "$@"; do
    case "$flag" in
        --model* | --out* | --labels* | --loss* | --supervisor* | --ceiling*)
            echo "error: $flag differs between the stages; run their commands one by one (they are in run.sh)" >&2; exit 2 ;;
    esac
done

# 1. data (seconds): four disjoint splits, so that the student never trains on its supervisor's questions
python data/tinyworld/prepare.py

# 2. supervisor (6 s): a small model and the true labels of train1 -> soft labels for everything else
python train_weak.py "$@"

# 3. ceiling (8 s): the big model and the true labels of train2
python train_strong.py --labels truth --out ceiling "$@"

# 4. student (8 s): the same model and rows, the supervisor's labels
python train_strong.py --labels weak --out student --ceiling ceiling "$@"

# 5. the table, over every seed that was run
python report.py
