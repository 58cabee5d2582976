#!/usr/bin/env bash
# Every table of README.md and docs/results that is marked "measured" (but safety-real, whose file you must bring):
# these commands, then  python report.py --docs
#
#   bash experiments.sh                                      # everything, seeds 0 to 4
#   bash experiments.sh --seeds 0,1 --chapters debate,icl    # a part; finished runs are skipped
#
#   MODELS=../models ROWS=../rows bash experiments.sh --chapters real --seeds 0,1,2      # docs/results/real.md: not in
#                                                            # "everything", since these files are not in the repository
#
# Seeds do not touch each other's files. All of it takes some eight hours of one core (the runs' seconds, added up):
#   bash experiments.sh --seeds 0,3,4 & bash experiments.sh --seeds 1,2; wait
# Seeds 3 and 4 make only what README.md shows; three seeds make the rest ("more" below). All chapters need `base`; icl
# and phase2 need ensembles and debate too.
set -euo pipefail
cd "$(dirname "$0")"

die() { echo "error: $1" >&2; exit 2; }

every=base,ladder,methods,systematic,split,ensembles,debate,icl,phase2,tasks,culture,pairs
real=real,real_fusion,real_safety,real_icl,real_culture,real_students,real_pairs,real_oversight,real_more
seeds=0,1,2,3,4 chapters=$every
while [ $# -gt 0 ]; do
    case "$1" in
        --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;       # --flag=value is --flag value
    esac
    [ $# -ge 2 ] || die "$1 needs a value; there are --seeds and --chapters"
    case "$1" in
        --seeds) seeds="$2" ;;
        --chapters) chapters="$2" ;;
        *) die "unknown flag $1; there are --seeds and --chapters" ;;
    esac
    shift 2
done
[[ "$seeds" =~ ^[0-9]+(,[0-9]+)*$ ]] || die "--seeds '$seeds': give numbers with commas, as in 0,1,2"
all="$every,$real"
[[ "$chapters" =~ ^(${all//,/|})(,(${all//,/|}))*$ ]] || die "--chapters '$chapters': there are $every, and $real"
if [[ "$chapters" == *real* ]]; then
    [ -d "${MODELS:-}" ] && [ -d "${ROWS:-}" ] || die "set MODELS and ROWS to folders: docs/results/real.md"
fi

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

base() {
    prepare tinyworld
    python train_weak.py --seed $seed
    python train_strong.py --seed $seed --labels truth --out ceiling
    python train_strong.py --seed $seed --labels weak --ceiling ceiling --out student
    # controls: no training; none, but calibrated on as many true labels as phase 2 buys; errors without a pattern
    student weak untrained --control untrained
    student weak calibrated --control untrained --truth-budget 48 --pick random
    student weak dealt --control dealt
    # many epochs show elicitation, then imitation
    python train_strong.py --seed $seed --labels weak --out student-long --epochs 12 --lr 3e-4
}

ladder() { more rungs; }                                     # every model: trained on the truth, and only asked

rungs() {
    for model in tiny-1a tiny-1b tiny-1c tiny-2 tiny-3; do
        python train_strong.py --seed $seed --model $model --labels truth --out truth-$model
        shown zero-$model --model $model --labels truth --shots 0
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
    more student weak self-train --self-train 1
    more student weak budget16 --truth-budget 16
    more student weak budget64 --truth-budget 64
    for how in uncertain random; do more student weak budget64-$how --truth-budget 64 --pick $how; done
    more student weak early-stop --early-stop
    more student weak oracle-stop --oracle-stop
}

systematic() { more rule_students; }                         # errors that a student can imitate (Burns et al., E)

rule_students() {
    rule_supervisor
    for flags in "" "--hard" "--control dealt" "--loss logconf" "--loss product" "--loss window" "--loss entropy" \
            "--clean knn" "--probe only" "--early-stop" "--truth-budget 64"; do
        name="${flags#--}"                                   # "--loss window" makes rule-student-loss-window
        name="rule-student${name:+-${name// /-}}"
        python train_strong.py --seed $seed --labels rule --ceiling ceiling --out $name $flags
    done
}

rule_supervisor() {                                          # it errs by a rule, and nowhere else
    python - "$seed" <<'END'
import json, os, sys
# It accepts every answer about animals and plants, as confidently as it gives its correct verdicts.
world = "data/tinyworld"
folder = f"{world}/seed{sys.argv[1]}/rule"
with open(f"{world}/truth/labels.jsonl", encoding="utf-8") as f:
    truth = {row["id"]: row["soft_label"][1] for row in map(json.loads, f)}
lines = []
for split in ("train2", "valid", "test"):
    with open(f"{world}/{split}.jsonl", encoding="utf-8") as f:
        for row in map(json.loads, f):
            yes = row["field"] in ("animals", "plants") or row.get("label", truth.get(row["id"])) == 1
            lines.append({"id": row["id"], "soft_label": [0.1, 0.9] if yes else [0.9, 0.1]})
os.makedirs(folder, exist_ok=True)
with open(f"{folder}/labels.jsonl", "w", encoding="utf-8") as f:
    f.writelines(json.dumps(line) + "\n" for line in lines)
END
}

split() { more swapped; }                                    # another split: supervisor and student change their halves

swapped() {
    change_task swap
    task="--task tinyworld-swap --seed $seed"
    python train_weak.py $task
    python train_strong.py $task --labels truth --out ceiling
    python train_strong.py $task --labels weak --ceiling ceiling --out student
    python train_strong.py $task --labels weak --ceiling ceiling --out student-logconf --loss logconf
    python train_strong.py $task --labels weak --ceiling ceiling --out student-untrained --control untrained
    python train_strong.py $task --labels weak --ceiling ceiling --out student-dealt --control dealt
}

change_task() {                                              # tinyworld with another train1
    python - "$1" <<'END'
import json, os, random, shutil, sys
# coin: 45 % of the labels are flipped. relation: every answer about a class is labelled right, five times over.
# swap: train1 and train2 change places.
how = sys.argv[1]
old, new = "data/tinyworld", f"data/tinyworld-{how}"

def read(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]

def write(path, rows):
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(row) + "\n" for row in rows)

made, source = f"{new}/task.json", f"{old}/task.json"
if not os.path.exists(made) or os.path.getmtime(made) < os.path.getmtime(source):
    os.makedirs(f"{new}/truth", exist_ok=True)
    for name in ("train2.jsonl", "valid.jsonl", "test.jsonl", "truth/labels.jsonl"):
        shutil.copy(f"{old}/{name}", f"{new}/{name}")
    rows = read(f"{old}/train1.jsonl")
    rng = random.Random(0)
    if how == "coin":
        rows = [{**row, "label": row["label"] ^ (rng.random() < 0.45)} for row in rows]
    elif how == "relation":
        rows = [{**row, "id": f"{row['id']}-{k}", "label": 1 if row["relation"] == "class" else row["label"]}
                for row in rows for k in range(5 if row["relation"] == "class" else 1)]
    else:
        truth = {row["id"]: row["soft_label"] for row in read(f"{old}/truth/labels.jsonl")}
        truth |= {row["id"]: [1 - row["label"], row["label"]] for row in rows}
        others = read(f"{old}/train2.jsonl")
        write(f"{new}/train2.jsonl", [{key: x for key, x in row.items() if key != "label"} for row in rows])
        write(f"{new}/truth/labels.jsonl", [{"id": name, "soft_label": pair} for name, pair in truth.items()])
        rows = [{**row, "label": int(truth[row["id"]][1])} for row in others]
    write(f"{new}/train1.jsonl", rows)
    with open(f"{old}/task.json", encoding="utf-8") as f:
        spec = json.load(f)
    del spec["splits"]                                       # the numbers of rows are others now
    with open(f"{new}/task.json", "w", encoding="utf-8") as f:                 # last: the task is complete
        json.dump({**spec, "task": f"tinyworld-{how}"}, f)
END
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
    more align -audit64 --audit 64
    more align -jump192 --ladder tiny-4 --audit 192          # as many as three rounds of 64
    for rule in distill ensemble none; do more align -$rule --update $rule; done
    more align -no-attacks --attack-share 0
    more align -no-notes --doubt 0
    more align -audit0 --audit 0
    more align -pairwise --pairwise
    more align -logconf --loss logconf
    for bad in coin relation; do more bad_start $bad; done
}

bad_start() {
    change_task $1
    python train_weak.py --task tinyworld-$1 --seed $seed
    align -$1 --evaluator data/tinyworld-$1/seed$seed/weak
}

tasks() {
    for task in safety legal toxicity; do
        prepare $task
        if [ $task = toxicity ]; then more own_metrics $task; else own_metrics $task; fi
    done
}
own_metrics() { python align_tasks.py --task $1 --seed $seed; }

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

real_tasks() {
    gemma=$MODELS/gemma3-270m smollm=$MODELS/smollm2-135m minilm=$MODELS/minilm-22m
    [ -f data/sciq-gpt2-0/task.json ] && [ -f data/sciq-qwen-pairs/task.json ] || python data/sciq/released.py "$ROWS"
    [ -f data/sciq-sample/task.json ] ||
        python data/sciq/prepare.py --from-file "$ROWS/sciq_sample.json" --task sciq-sample
    [ -f data/safety-sample/task.json ] ||
        python data/safety/prepare.py --from-file "$ROWS/safety_sample.csv" --task safety-sample --rows 1000
}

first() { if [ "$seed" = 0 ]; then "$@"; fi; }               # one seed of this: real models are slow on a CPU

released() {                                                 # a student of GPT-2's labels; each seed has a file of them
    python train_strong.py --task sciq-gpt2-$seed --seed $seed --model ${big:-$gemma} --dtype bf16 --max-rows 1000 \
        --epochs 2 --lr 2e-5 --out "$1" "${@:2}"
}

real_fusion() {
    real_tasks
    for rule in mean vote dawid-skene bayes loglik bma; do fuse $rule --combine $rule; done
    fuse calibrated --calibrate
    for how in plain with_knowledge; do first qwen $how fused-$how; done
    first qwen plain,with_knowledge fused-both
    first qwen plain,with_knowledge fused-both-calibrated --calibrate
}
qwen() { python ensemble.py --task sciq-qwen --supervisors "$1" --out "$2" "${@:3}"; }
fuse() { python ensemble.py --task sciq-gpt2-$seed --seed $seed --supervisors all --out "fused-$1" "${@:2}"; }

real_students() {                                            # Gemma's runs: 4 to 9 minutes of a core; SmolLM2's: 3 to 5
    real_tasks
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
}
gemma_of_gpt2() { released "$1" --labels gpt2 --ceiling ceiling "${@:2}"; }

real_pairs() { real_tasks; more reward_models; }             # docs/results/preferences.md
reward_models() {                                            # MiniLM's reward model supervises SmolLM2's
    two="--task sciq-qwen-pairs --seed $seed --max-rows 1000"
    python train_weak.py $two --model $minilm --lr 1e-4
    two="$two --model $smollm --dtype bf16 --epochs 1 --lr 5e-5"
    python train_strong.py $two --labels truth --out ceiling
    python train_strong.py $two --labels weak --ceiling ceiling --out student
    python train_strong.py $two --labels weak --ceiling ceiling --out student-untrained --control untrained
    for rule in mean loglik bma; do
        python ensemble.py --task sciq-qwen-pairs --seed $seed --supervisors all --combine $rule --out fused-$rule
    done
}

real_safety() {                                              # tiny-1a and MiniLM supervise; MiniLM learns
    real_tasks
    safe="--task safety-sample --seed $seed"
    python train_weak.py $safe --out weak
    guard weak $minilm --lr 1e-4
}
guard() {                                                    # a supervisor's labels, a student, its flags
    python train_strong.py $safe --model "$2" --labels truth --out "ceiling-$(basename $2)" "${@:3}"
    for loss in xent logconf; do
        python train_strong.py $safe --model "$2" --labels "$1" --ceiling "ceiling-$(basename $2)" --loss $loss \
            --out "$(basename $2)-of-$1-$loss" "${@:3}"
    done
}

real_icl() {
    real_tasks
    asked="python icl.py --task sciq-gpt2-0 --model $gemma --dtype bf16 --max-rows 200 --orders 2 --shots 0,4,16"
    first $asked --labels truth --out icl-truth
    first $asked --labels gpt2 --supervisor gpt2 --out icl-gpt2
    first $asked --labels truth --invert --out icl-invert
}

real_culture() {
    real_tasks
    for model in $smollm $gemma; do
        asked="--models $model --dtype bf16 --out culture-$(basename $model)"
        first python cdeval.py $asked-written --by generation --max-rows 24
        first python cdeval.py $asked
    done
}

real_oversight() { real_tasks; first judges; }
judges() {                                                   # MiniLM judges; Gemma and SmolLM2 write
    judge="--task sciq-sample --model $minilm"
    python train_weak.py $judge
    python debate.py $judge --mode support
    for assistant in $gemma $smollm; do
        for mode in interaction debate; do
            python debate.py $judge --mode $mode --assistant $assistant --out "$mode-$(basename $assistant)"
        done
    done
}

real_more() { real_tasks; first others; }
others() {                                                   # one seed each
    python train_weak.py --task safety-sample --model $minilm --out weak-minilm
    safe="--task safety-sample --seed 0"
    for model in $smollm $gemma; do guard weak-minilm $model --dtype bf16 --lr 5e-5 --epochs 1; done
    weaker="--task sciq-qwen --model $gemma --dtype bf16 --max-rows 1000 --epochs 1 --lr 5e-5"
    python train_strong.py $weaker --labels truth --out ceiling
    python train_strong.py $weaker --labels plain --ceiling ceiling --out student-plain
    python train_strong.py $weaker --labels with_knowledge --ceiling ceiling --out student-knowledge
}

pairs() {                                                    # preferences: reward models, and what they do to text
    prepare pairs
    reward="--task pairs --also pairs-far --seed $seed"
    python train_weak.py $reward
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
    more python ensemble.py --task pairs --seed $seed --out bagging
    more compared student-bagging --labels bagging --supervisor weak
}
compared() { python train_strong.py $reward --labels weak --ceiling ceiling --out "$1" "${@:2}"; }

for seed in ${seeds//,/ }; do
    for chapter in ${chapters//,/ }; do $chapter; done
done
