#!/usr/bin/env bash
# The whole experiment, in the order the README tells it: one small model supervises one big model.
#
#   bash run.sh                            # tinyworld, offline, half a minute on two cores: ends with the table in README.md
#   bash run.sh --seed 1                   # --seed --task --epochs --lr --device ... go to every trainer
#   bash run.sh --task mine                # rows of your own, made by data/own/prepare.py
#   bash run.sh --preset sciq              # gpt2 supervises gpt2-large on SciQ: one GPU and the hub
#   bash run.sh --preset paper             # Qwen2.5-0.5B supervises Qwen2.5-7B: 112 GB for the student's weights; --lora 16 needs 30
#   bash run.sh --preset paper --dry-run   # only print the commands, to copy them line by line
#
# Each command also runs alone: copy it, paste it, change a flag. What is finished is not done again.
set -euo pipefail                          # stop at the first failure: no stage may run on what a failed one left behind
cd "$(dirname "$0")"

preset=tinyworld dry="" flags=()
while [ $# -gt 0 ]; do
    case "$1" in
        --preset) preset="${2:-}"; shift ;;
        --dry-run) dry=yes ;;
        --model* | --out* | --labels* | --loss* | --supervisor* | --ceiling*)
            echo "error: $1 differs between the stages; run their commands one by one (--dry-run prints them)" >&2; exit 2 ;;
        *) flags+=("$1") ;;
    esac
    shift
done
case "$preset" in
    tinyworld) prepare=data/tinyworld/prepare.py weak="" strong="" ;;
    sciq)      prepare=data/sciq/prepare.py
               weak="--task sciq --model gpt2 --lr 5e-5"
               strong="--task sciq --model gpt2-large --lr 1e-5" ;;
    paper)     prepare=data/sciq/prepare.py
               weak="--task sciq --model Qwen/Qwen2.5-0.5B --lr 1e-5"
               strong="--task sciq --model Qwen/Qwen2.5-7B --lr 1e-5 --gradient-checkpointing --micro-batch-size 8" ;;
    *)         echo "error: no preset '$preset'; there are tinyworld, sciq and paper" >&2; exit 2 ;;
esac
run() { echo "\$ $*"; [ -n "$dry" ] || "$@"; }
train() { run python "$@" ${flags[@]+"${flags[@]}"}; }

# 1. data (seconds): four disjoint splits, so that the student never trains on its supervisor's questions
run python $prepare

# 2. supervisor (6 s on tinyworld): a small model and the true labels of train1 -> soft labels for everything else
train train_weak.py $weak

# 3. ceiling (9 s): the big model and the true labels of train2
train train_strong.py --labels truth --out ceiling $strong

# 4. student (9 s): the same model and rows, the supervisor's labels
train train_strong.py --labels weak --out student --ceiling ceiling $strong

# 5. the table, over every seed that was run
run python report.py
