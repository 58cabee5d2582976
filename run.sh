#!/usr/bin/env bash
# The whole experiment, in the README's order. Phase 1: human supervision is made better. Phase 2: the evaluator is
# updated recursively with its students.
#
#   bash run.sh                            # tinyworld, offline, minutes on two cores: ends with the tables of report.py
#   bash run.sh --seeds 0,1,2,3,4          # once for each seed (--seed 1: only that one); tables over all seeds
#   bash run.sh --task mine                # rows of your own, made by data/own/prepare.py
#   bash run.sh --epochs 3                 # --epochs --lr --device --max-rows ... go to every trainer
#   bash run.sh --preset laptop            # SmolLM2-135M-Instruct supervises Gemma 3 270M on SciQ: no GPU, the hub
#   bash run.sh --preset sciq              # gpt2 supervises gpt2-large on SciQ: one GPU and the hub
#   bash run.sh --preset paper             # Qwen2.5-0.5B supervises Qwen2.5-7B: one GPU of 80 GB, and pip install peft
#   bash run.sh --preset paper --dry-run   # only print the commands, to copy them line by line
#   bash run.sh --jobs 1                   # one command at a time (default: one a core, at most 4; 1 with a GPU)
#
# Each command also runs alone: copy it, change a flag. Finished runs are skipped; --force repeats them. jobs.py says
# which of how many commands starts and how long the rest will take. It ends with the last line of every stage.
set -euo pipefail                          # stop at the first failure: no stage runs on what a failed one left behind
cd "$(dirname "$0")"

die() { echo "error: $1" >&2; exit 2; }

preset=tinyworld task="" seeds=0 dry="" jobs=() all=() trainers=()
while [ $# -gt 0 ]; do
    case "$1" in
        --dry-run=* | --force=* | --trust-remote-code=* | --help=*) die "${1%%=*} takes no value" ;;
        --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;       # --flag=value is --flag value
    esac
    case "$1" in
        --preset | --seed | --seeds | --task | --device | --dtype | --max-rows | --max-length | --truncate | --jobs)
            [ -n "${2-}" ] || die "$1 needs a value" ;;
    esac
    case "$1" in
        -h | --help) sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' run.sh; exit 0 ;;
        --preset) preset="$2"; shift ;;
        --seed | --seeds) seeds="$2"; shift ;;
        --dry-run) dry=yes ;;
        --jobs) jobs=(--jobs "$2"); shift ;;
        --task) task="${2%/}" task="${task#./}" task="${task#data/}"; shift ;;
        --device | --dtype | --max-rows | --max-length | --truncate) all+=("$1" "$2"); shift ;;
        --force | --trust-remote-code) all+=("$1") ;;
        --model* | --out* | --labels* | --loss* | --supervisor* | --ceiling*)
            die "$1 differs between the stages; run them one by one (--dry-run prints the commands)" ;;
        *) trainers+=("$1") ;;
    esac
    shift
done
[[ "$seeds" =~ ^[0-9]+(,[0-9]+)*$ ]] || die "--seeds '$seeds': give numbers with commas, as in 0,1,2"
[ -z "$task" ] || all+=(--task "$task")

big="--lora 16 --lr 1e-4 --gradient-checkpointing --micro-batch-size 8"
case "$preset" in
    tinyworld)
        prepare=data/tinyworld/prepare.py
        weak="" strong="" helper="" crowd="--by models --members 3" assistant="--assistant tiny-4" ladder="" ;;
    sciq)
        prepare=data/sciq/prepare.py
        weak="--task sciq --model gpt2 --lr 5e-5"
        strong="--task sciq --model gpt2-large --lr 1e-5"
        helper="--task sciq --model gpt2-large"
        crowd="--by data" assistant="--assistant gpt2-large"
        ladder="--task sciq --ladder gpt2-medium,gpt2-large --lr 1e-5" ;;
    laptop)                                              # Gemma is gated: see docs/models.md
        prepare=data/sciq/prepare.py
        weak="--task sciq --model HuggingFaceTB/SmolLM2-135M-Instruct --lr 5e-5"
        strong="--task sciq --model google/gemma-3-270m --lr 2e-5"
        helper="--task sciq --model google/gemma-3-270m"
        crowd="--by data --members 3" assistant="--assistant google/gemma-3-270m"
        ladder="--task sciq --ladder HuggingFaceTB/SmolLM2-135M-Instruct,google/gemma-3-270m --lr 2e-5"
        [[ " ${all[*]-} " == *" --max-rows "* ]] || all+=(--max-rows 500)
        [ ${#jobs[@]} -gt 0 ] || jobs=(--jobs 1) ;;      # a command needs up to 8 GB
    paper)
        prepare=data/sciq/prepare.py
        weak="--task sciq --model Qwen/Qwen2.5-0.5B --lr 1e-5"
        strong="--task sciq --model Qwen/Qwen2.5-7B $big"
        helper="--task sciq --model Qwen/Qwen2.5-7B"
        crowd="--by data" assistant="--assistant Qwen/Qwen2.5-7B"
        ladder="--task sciq --ladder Qwen/Qwen2.5-1.5B,Qwen/Qwen2.5-7B $big" ;;
    *)
        die "no preset '$preset'; there are tinyworld, laptop, sciq and paper" ;;
esac
oversight="--mode interaction" attacks="" pairs=""
if [ -n "$task" ] && [ "$task" != tinyworld ]; then      # rows of your own: perhaps without question and choices
    prepare=""
    rows="data/$task/train1.jsonl" truth="data/$task/truth/labels.jsonl"
    grep -qs '"question"' "$rows" || oversight="--mode debate"
    grep -qs '"choices"' "$rows" || attacks="--attack-share 0"
    if grep -qs '"text_a"' "$rows"; then pairs=yes; fi   # icl.py, debate.py and auto_align.py read single texts
    if [ -f "data/$task/task.json" ]; then
        [ -s "$rows" ] && [ -f "$truth" ] &&
            [ "$(cat "$truth" | wc -l)" -ge "$(cat "data/$task"/{train2,valid}.jsonl | wc -l)" ] ||
            die "data/$task has rows without a true label: run the stages one by one, as docs/own-labels.md says"
    fi
fi
# print a command so that it can be copied
run() { echo "\$ $(printf '%q ' "$@" | sed 's/\\,/,/g; s/ $//')"; }
ask() { run python "$@" ${all[@]+"${all[@]}"} --seed "$seed"; }
train() { ask "$@" ${trainers[@]+"${trainers[@]}"}; }
student() { train train_strong.py --labels "$1" --out "$2" --supervisor weak --ceiling ceiling $strong; }

commands() {
    # data (seconds): four disjoint splits, so that the student never trains on its supervisor's questions
    [ -z "$prepare" ] || run python $prepare

    for seed in ${seeds//,/ }; do
        # phase 1. The supervisor: a small model and the true labels of train1 -> soft labels for everything else
        train train_weak.py $weak --out weak
        # the ceiling: the big model and the true labels of train2. The student: the same, with the supervisor's labels
        train train_strong.py --labels truth --out ceiling $strong
        student weak student
        # without training: the supervisor's labels in the student's prompt
        [ -n "$pairs" ] || ask icl.py --labels weak --out icl $helper
        # better supervision: several supervisors, and one that the strong model assists, each with its student
        train ensemble.py $weak $crowd --supervisor weak --out crowd
        student crowd student-crowd
        [ -z "$pairs" ] || continue
        train debate.py $oversight --supervisor weak --out oversight $weak $assistant
        student oversight student-oversight
        # phase 2: the best of these supervisors on valid becomes the evaluator, updated with every stronger student
        train auto_align.py --evaluator weak,crowd,oversight --ceiling ceiling --out align $attacks $ladder
    done

    # the tables and report.html, a page to look at, over every seed that was run
    run python report.py --html ${task:+--task "$task"}
}
if [ -n "$dry" ]; then commands; else commands | python jobs.py ${jobs[@]+"${jobs[@]}"}; fi
