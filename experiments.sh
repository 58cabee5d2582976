#!/usr/bin/env bash
# Every table of README.md and docs/results that is marked "measured": these commands, then  python report.py --docs
#
#   bash experiments.sh                                      # everything, seeds 0 to 4
#   bash experiments.sh --seeds 0,1 --chapters debate,icl    # a part; finished runs are skipped
#   bash experiments.sh --dry-run                            # only print the commands
#   bash experiments.sh --jobs 1                             # one at a time (default: one a core, at most 4; with a GPU
#                                                            # or chapters of `real`, whose models are big, 1)
#
#   MODELS=../models ROWS=../rows bash experiments.sh --chapters real --seeds 0,1,2,3    # docs/results/real.md: not in
#                                                            # "everything", since these files are not in the repository
#
# All of it took less than two hours on two cores in bf16 (584 commands, 108 minutes, with tests running beside them,
# 2026-11-28). The runs' seconds, added up, are four hours of one core, and seven in fp32. Seeds 3 and 4 make what
# README.md shows, safety and legal; three seeds make the rest ("more" below). All chapters need `base`; icl and phase2
# need ensembles and debate too.
#
# A chapter has one line for each run: a command, or a function for several alike. Each names every run that it reads,
# and has an --out. So jobs.py starts a command as soon as what it names is finished.
set -euo pipefail
cd "$(dirname "$0")"

die() { echo "error: $1" >&2; exit 2; }

every=base,ladder,methods,systematic,split,ensembles,debate,icl,phase2,tasks,culture,pairs
real=real,real_fusion,real_safety,real_icl,real_culture,real_students,real_pairs,real_oversight,real_more
seeds=0,1,2,3,4 chapters=$every dry="" jobs=()
while [ $# -gt 0 ]; do
    case "$1" in
        --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;       # --flag=value is --flag value
    esac
    case "$1" in
        --dry-run) dry=yes ;;
        --seeds | --chapters | --jobs)
            [ $# -ge 2 ] || die "$1 needs a value"
            case "$1" in --seeds) seeds="$2" ;; --chapters) chapters="$2" ;; --jobs) jobs=(--jobs "$2") ;; esac
            shift ;;
        *) die "unknown flag $1; there are --seeds, --chapters, --jobs and --dry-run" ;;
    esac
    shift
done
[[ "$seeds" =~ ^[0-9]+(,[0-9]+)*$ ]] || die "--seeds '$seeds': give numbers with commas, as in 0,1,2"
all="$every,$real"
[[ "$chapters" =~ ^(${all//,/|})(,(${all//,/|}))*$ ]] || die "--chapters '$chapters': there are $every, and $real"
if [[ "$chapters" == *real* ]]; then
    [ -d "${MODELS:-}" ] && [ -d "${ROWS:-}" ] || die "set MODELS and ROWS to folders: docs/results/real.md"
    [ ${#jobs[@]} -gt 0 ] || jobs=(--jobs 1)
fi

python() {                                                   # in chapters: print the command, so that it can be copied
    local line
    printf -v line '%q ' "$@"
    line="${line% }"
    echo "\$ python ${line//\\,/,}"
}
more() { if [ "$seed" -le 2 ]; then "$@"; fi; }              # three seeds of this

student() {
    python train_strong.py --seed $seed --ceiling ceiling --supervisor weak --labels "$1" --out "student-$2" "${@:3}"
}
crowd() { python ensemble.py --seed $seed --out "$1" "${@:2}"; student "$1" "$1"; }
help() { python debate.py --seed $seed --out "$1" "${@:2}"; }
taught() { help "$@"; student "$1" "$1"; }
shown() { python icl.py --seed $seed --out "icl-$1" "${@:2}"; }
align() { python auto_align.py --seed $seed --ceiling ceiling --out "align$1" "${@:2}"; }

prepare() { [ -f data/$1/task.json ] || python data/$1/prepare.py; }
rows() {                                                     # all runs wait for these
    case $1 in
        base) prepare tinyworld ;;
        split) python data/tinyworld/variants.py swap ;;
        phase2) for bad in coin relation; do python data/tinyworld/variants.py $bad; done ;;
        tasks) for task in safety legal toxicity; do prepare $task; done ;;
        pairs) prepare pairs ;;
    esac
}
real_rows() {
    [ -f data/sciq-gpt2-0/task.json ] && [ -f data/sciq-qwen-pairs/task.json ] || python data/sciq/released.py "$ROWS"
    [ -f data/sciq-sample/task.json ] ||
        python data/sciq/prepare.py --from-file "$ROWS/sciq_sample.json" --task sciq-sample
    [ -f data/safety-sample/task.json ] ||
        python data/safety/prepare.py --from-file "$ROWS/safety_sample.csv" --task safety-sample --rows 1000
}

base() {
    python train_weak.py --seed $seed --out weak
    python train_strong.py --seed $seed --labels truth --out ceiling
    python train_strong.py --seed $seed --labels weak --ceiling ceiling --out student
    # controls: no training; none, but calibrated on as many true labels as phase 2 buys; errors without a pattern
    student weak untrained --control untrained
    student weak calibrated --control untrained --truth-budget 48 --pick random
    student weak dealt --control dealt
    # many epochs show elicitation, then imitation
    python train_strong.py --seed $seed --labels weak --out student-long --epochs 12 --lr 3e-4
}

ladder() {                                                   # every model: trained on the truth, and only asked
    for model in tiny-1a tiny-1b tiny-1c tiny-2 tiny-3; do
        python train_strong.py --seed $seed --model $model --labels truth --out truth-$model
        more shown zero-$model --model $model --labels truth --shots 0
    done
}

methods() {                                                  # train_strong.py: one flag differs from the naive student
    student weak logconf --loss logconf
    more student weak hard --hard
    for loss in logconf-released product window entropy; do more student weak $loss --loss $loss; done
    more student weak chain --chain tiny-2,tiny-3,tiny-4
    for when in only first after; do more student weak probe-$when --probe $when; done
    more student weak generative --generative-steps 50
    for how in confident knn logistic; do more student weak clean-$how --clean $how; done
    more student weak self-train --chain tiny-4,tiny-4
    more student weak budget16 --truth-budget 16
    more student weak budget64 --truth-budget 64
    for how in uncertain random; do more student weak budget64-$how --truth-budget 64 --pick $how; done
    more student weak early-stop --early-stop
    more student weak oracle-stop --oracle-stop
}

systematic() { more rule_students; }                         # errors that a student can imitate (Burns et al., E)

rule_students() {
    python data/tinyworld/variants.py rule --seed $seed --out rule           # it errs by a rule, and nowhere else
    for flags in "" "--hard" "--control dealt" "--loss logconf" "--loss product" "--loss window" "--loss entropy" \
            "--clean knn" "--probe only" "--early-stop" "--truth-budget 64"; do
        name="${flags#--}"                                   # "--loss window" makes rule-student-loss-window
        name="rule-student${name:+-${name// /-}}"
        python train_strong.py --seed $seed --labels rule --ceiling ceiling --out $name $flags
    done
}

split() { more swapped; }                                    # another split: supervisor and student change their halves

swapped() {
    task="--task tinyworld-swap --seed $seed"
    python train_weak.py $task --out weak
    python train_strong.py $task --labels truth --out ceiling
    python train_strong.py $task --labels weak --ceiling ceiling --out student
    python train_strong.py $task --labels weak --ceiling ceiling --out student-logconf --loss logconf
    python train_strong.py $task --labels weak --ceiling ceiling --out student-untrained --control untrained
    python train_strong.py $task --labels weak --ceiling ceiling --out student-dealt --control dealt
}

ensembles() {                                                # five members of one checkpoint, or three checkpoints
    crowd models --by models --members 3
    for by in data features layers; do more crowd $by-5 --by $by; done
    more crowd adaboost --method adaboost
    more crowd gradient --method gradient
    more crowd gradient-released --method gradient-released
    for how in vote loglik dawid-skene bma; do more crowd models-$how --by models --members 3 --combine $how; done
    more crowd models-calibrated --by models --members 3 --calibrate
}

debate() {                                                   # longer debates continue the transcripts of shorter ones
    taught interaction --mode interaction
    for mode in consultancy support; do more taught $mode --mode $mode; done
    for n in 1 2; do more taught debate$n --mode debate --rounds $n; done
    more taught debate1x4 --mode debate --ensemble 4
    more taught interaction-tiny2 --mode interaction --assistant tiny-2
    for n in 1 2; do more taught debate$n-tiny2 --mode debate --rounds $n --assistant tiny-2; done
    more help interaction-prompted --mode interaction --judge prompted
    more help debate1-prompted --mode debate --judge prompted
}

icl() {                                                      # four prompts a row, whatever the retriever
    shown zero --labels truth --shots 0
    for grader in Ada Bob; do shown ${grader,} --labels truth --shots 0 --context "Marked by $grader:"; done
    shown truth --labels truth
    for whose in weak models interaction; do
        shown $whose --labels $whose --supervisor weak --ceiling icl-truth
    done
    for whose in truth weak; do shown $whose-curve --labels $whose --shots 0,1,2,4,8,16; done
    for how in confident bm25 topk votek; do more shown weak-$how --labels weak --retriever $how; done
    more shown weak-oversight --labels weak --retriever oversight --oversight interaction
    more shown weak-calibrate --labels weak --calibrate
    more shown truth-confidence --labels truth --confidence
    more shown weak-confidence --labels weak --ceiling icl-truth-confidence --confidence
    more shown truth-invert --labels truth --invert
    more shown truth-foo-bar --labels truth --label-words foo,bar
    more shown truth-bar-foo --labels truth --label-words bar,foo
    more shown truth-noise --labels truth --noise 0,1,2,3,4
}

phase2() {                                                   # 48 labels are bought unless a flag says otherwise
    align ""
    align -jump --ladder tiny-4 --audit 48                   # equal rows, bought labels and training
    align -best --evaluator weak,models,interaction          # as run.sh does
    more align -same --ladder tiny-4,tiny-4,tiny-4           # recursion without a ladder
    more align -plain --audit 0 --attack-share 0 --doubt 0   # plain bootstrapping, and its jump
    more align -jump-plain --ladder tiny-4 --audit 0 --attack-share 0 --doubt 0
    more align -6rounds --ladder tiny-2,tiny-2,tiny-3,tiny-3,tiny-4,tiny-4
    more align -jump96 --ladder tiny-4 --audit 96            # as many labels as six rounds buy
    for rule in distill ensemble none; do more align -$rule --update $rule; done
    more align -no-attacks --attack-share 0
    more align -no-notes --doubt 0
    more align -audit0 --audit 0
    more align -pairwise --pairwise
    more align -logconf --loss logconf
    for bad in coin relation; do more bad_start $bad; done
}

bad_start() {
    python train_weak.py --task tinyworld-$1 --seed $seed --out weak
    align -$1 --evaluator data/tinyworld-$1/seed$seed/weak
}

tasks() {
    for task in safety legal; do own_metrics $task; done
    more own_metrics toxicity
}
own_metrics() { python align_tasks.py --task $1 --seed $seed --out table; }

culture() { more opinions; }                                 # does training on a supervisor's facts move opinions?

opinions() {
    python train_strong.py --seed $seed --model tiny-culture --labels truth --out ceiling-culture
    python train_strong.py --seed $seed --model tiny-culture --labels weak --ceiling ceiling-culture \
        --out student-culture
    python auto_align.py --seed $seed --ladder tiny-2,tiny-3,tiny-culture --out align-culture
    for country in Varnia Melland Torland Bolen; do
        python cdeval.py --seed $seed --out culture-$country \
            --models tiny-culture data/tinyworld/seed$seed/{student-culture,align-culture} \
            --questions tinyworld --context "In $country,"
    done
}

real() {                                                     # pretrained models on rows with released labels
    for part in fusion safety icl culture students pairs oversight more; do real_$part; done
}

gemma="${MODELS:-}/gemma3-270m" smollm="${MODELS:-}/smollm2-135m" minilm="${MODELS:-}/minilm-22m"

first() { if [ "$seed" = 0 ]; then "$@"; fi; }               # one seed of this: real models are slow on a CPU

released() {                                                 # a student of GPT-2's labels; each seed has a file of them
    python train_strong.py --task sciq-gpt2-$seed --seed $seed --model ${big:-$gemma} --dtype bf16 --max-rows 1000 \
        --epochs 2 --lr 2e-5 --out "$1" "${@:2}"
}

real_fusion() {
    for rule in mean vote dawid-skene bayes loglik bma; do fuse $rule --combine $rule; done
    fuse calibrated --calibrate
    for how in plain with_knowledge; do first qwen $how fused-$how; done
    first qwen plain,with_knowledge fused-both
    first qwen plain,with_knowledge fused-both-calibrated --calibrate
}
qwen() { python ensemble.py --task sciq-qwen --supervisors "$1" --out "$2" "${@:3}"; }
fuse() { python ensemble.py --task sciq-gpt2-$seed --seed $seed --supervisors all --out "fused-$1" "${@:2}"; }

real_students() {                                            # Gemma's runs: 4 to 9 minutes of a core; SmolLM2's: 3 to 5
    released ceiling --labels truth
    gemma_of_gpt2 student
    gemma_of_gpt2 student-logconf --loss logconf
    gemma_of_gpt2 untrained --control untrained
    gemma_of_gpt2 student-budget64 --truth-budget 64
    big=$smollm released smollm-ceiling --labels truth
    big=$smollm released smollm-student --labels gpt2 --ceiling smollm-ceiling
    gemma_of_gpt2 student-hard --hard
    fuse mean --combine mean
    gemma_of_gpt2 student-fused --labels fused-mean --supervisor gpt2
    gemma_of_gpt2 student-chain --chain $smollm,$gemma
    gemma_of_gpt2 student-confident --clean confident
    gemma_of_gpt2 student-window --loss window
    first released ceiling-all --labels truth --max-rows 100000
    first released student-all --labels gpt2 --ceiling ceiling-all --max-rows 100000
}
gemma_of_gpt2() { released "$1" --labels gpt2 --ceiling ceiling "${@:2}"; }

real_pairs() { more reward_models; }                         # docs/results/preferences.md
reward_models() {                                            # MiniLM's reward model supervises SmolLM2's
    two="--task sciq-qwen-pairs --seed $seed --max-rows 1000"
    python train_weak.py $two --model $minilm --lr 1e-4 --out weak
    two="$two --model $smollm --dtype bf16 --epochs 1 --lr 5e-5"
    python train_strong.py $two --labels truth --out ceiling
    python train_strong.py $two --labels weak --ceiling ceiling --out student
    python train_strong.py $two --labels weak --ceiling ceiling --out student-untrained --control untrained
    for rule in mean loglik bma; do
        python ensemble.py --task sciq-qwen-pairs --seed $seed --supervisors all --combine $rule --out fused-$rule
    done
}

real_safety() {                                              # tiny-1a supervises MiniLM, and MiniLM larger models
    safe="--task safety-sample --seed $seed"
    python train_weak.py $safe --out weak
    guard weak $minilm --lr 1e-4
    python train_weak.py $safe --model $minilm --out weak-minilm
    for model in $smollm $gemma; do guard weak-minilm $model --dtype bf16 --lr 5e-5 --epochs 1; done
}
guard() {                                                    # a supervisor's labels, a student, its flags
    python train_strong.py $safe --model "$2" --labels truth --out "ceiling-$(basename $2)" "${@:3}"
    for loss in xent logconf; do
        python train_strong.py $safe --model "$2" --labels "$1" --ceiling "ceiling-$(basename $2)" --loss $loss \
            --out "$(basename $2)-of-$1-$loss" "${@:3}"
    done
}

real_icl() {
    asked="python icl.py --task sciq-gpt2-0 --model $gemma --dtype bf16 --max-rows 200 --orders 2 --shots 0,4,16"
    first $asked --labels truth --out icl-truth
    first $asked --labels gpt2 --supervisor gpt2 --out icl-gpt2
    first $asked --labels truth --invert --out icl-invert
}

real_culture() {
    for model in $smollm $gemma; do
        asked="--models $model --dtype bf16 --out culture-$(basename $model)"
        first python cdeval.py $asked-written --by generation --max-rows 24
        first python cdeval.py $asked
    done
}

real_oversight() { first judges; }
judges() {                                                   # MiniLM and SmolLM2 judge; Gemma and SmolLM2 write
    judge="--task sciq-sample --model $minilm"
    python train_weak.py $judge --out weak
    python debate.py $judge --mode support --out support
    for assistant in $gemma $smollm; do
        for mode in interaction debate; do
            python debate.py $judge --mode $mode --assistant $assistant --out "$mode-$(basename $assistant)"
        done
    done
    # paragraphs are long: with whole batches it needs more than 20 GB
    judge="--task sciq-sample --model $smollm --lr 5e-5 --micro-batch-size 8"
    python train_weak.py $judge --out weak-smollm
    judge="$judge --supervisor weak-smollm"
    python debate.py $judge --mode support --out support-smollm
    for writer in gemma smollm; do
        for mode in interaction debate; do
            python debate.py $judge --mode $mode --assistant ${!writer} --out "$mode-smollm-$writer"
        done
    done
}

real_more() { first others; }
others() {                                                   # one seed: the student is the weaker model
    weaker="--task sciq-qwen --model $gemma --dtype bf16 --max-rows 1000 --epochs 1 --lr 5e-5"
    python train_strong.py $weaker --labels truth --out ceiling
    python train_strong.py $weaker --labels plain --ceiling ceiling --out student-plain
    python train_strong.py $weaker --labels with_knowledge --ceiling ceiling --out student-knowledge
}

pairs() {                                                    # preferences: reward models, and what they do to text
    reward="--task pairs --also pairs-far --seed $seed"
    python train_weak.py $reward --out weak
    python train_strong.py $reward --labels truth --out ceiling
    compared student
    compared student-logconf --loss logconf
    compared student-untrained --control untrained
    compared student-dealt --control dealt
    for model in tiny-1a tiny-4; do
        python sft.py --task pairs --seed $seed --labels train1 --model $model --out writer-$model \
            --samples 32 --prompts 150 --reward weak,student,student-logconf,ceiling
    done
    more compared student-hard --hard
    for loss in product window entropy; do more compared student-$loss --loss $loss; done
    more compared student-clean-knn --clean knn
    more compared student-probe --probe only
    more compared student-budget64 --truth-budget 64
}
compared() { python train_strong.py $reward --labels weak --ceiling ceiling --out "$1" "${@:2}"; }

commands() {
    for chapter in ${chapters//,/ }; do rows $chapter; done
    [[ "$chapters" != *real* ]] || real_rows
    for seed in ${seeds//,/ }; do
        for chapter in ${chapters//,/ }; do $chapter; done
    done
}
if [ -n "$dry" ]; then commands; else commands | command python jobs.py ${jobs[@]+"${jobs[@]}"}; fi
