#!/usr/bin/env bash
# Every table of README.md and docs/results that is marked "measured" (but safety-real, whose file you must bring):
# these commands, then  python report.py --docs
#
#   bash experiments.sh                                      # everything, seeds 0 to 4: about six hours on one core
#   bash experiments.sh --seeds 0,1 --chapters debate,icl    # a part; finished runs are skipped
#
# Seeds do not touch each other's files: run several at once, one for each core. All chapters need `base`; icl and
# phase2 need ensembles and debate too.
set -euo pipefail
cd "$(dirname "$0")"

die() { echo "error: $1" >&2; exit 2; }

every=base,methods,ensembles,debate,debates,icl,phase2,tasks,culture
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
[[ "$chapters" =~ ^(${every//,/|})(,(${every//,/|}))*$ ]] || die "--chapters '$chapters': there are $every"

student() {
    python train_strong.py --seed $seed --ceiling ceiling --supervisor weak --labels "$1" --out "student-$2" "${@:3}"
}
crowd() { python ensemble.py --seed $seed --out "$1" "${@:2}"; student "$1" "$1"; }
help() { python debate.py --seed $seed --out "$1" "${@:2}"; }
shown() { python icl.py --seed $seed --out "icl-$1" "${@:2}"; }
align() { python auto_align.py --seed $seed --ceiling ceiling --out "align$1" "${@:2}"; }

prepare() { [ -f data/$1/task.json ] || python data/$1/prepare.py; }

base() {
    prepare tinyworld
    python train_weak.py --seed $seed
    python train_strong.py --seed $seed --labels truth --out ceiling
    python train_strong.py --seed $seed --labels weak --ceiling ceiling --out student
}

methods() {                                                  # train_strong.py: one flag differs from the naive student
    student weak hard --hard
    for loss in logconf logconf-released product window entropy; do student weak $loss --loss $loss; done
    student weak chain --chain tiny-2,tiny-3,tiny-4
    for when in only first after; do student weak probe-$when --probe $when; done
    student weak generative --generative-steps 50
    for how in confident knn logistic; do student weak clean-$how --clean $how; done
    student weak self-train --self-train 1
    student weak budget16 --truth-budget 16
    student weak budget64 --truth-budget 64
    for how in uncertain random; do student weak budget64-$how --truth-budget 64 --pick $how; done
    student weak early-stop --early-stop
    student weak oracle-stop --oracle-stop
}

ensembles() {
    for by in data features layers; do
        crowd $by-5 --by $by
        crowd $by-10 --by $by --members 10
    done
    crowd models --by models --members 3
    crowd adaboost --method adaboost
    crowd gradient --method gradient
    crowd gradient-released --method gradient-released
    for how in vote loglik dawid-skene bma; do
        crowd models-$how --by models --members 3 --combine $how
        crowd data-10-$how --by data --members 10 --combine $how
    done
    crowd models-calibrated --by models --members 3 --calibrate
    crowd data-10-calibrated --by data --members 10 --calibrate
}

debate() {                                                   # longer debates continue the transcripts of shorter ones
    for mode in interaction consultancy support; do
        help $mode --mode $mode
        student $mode $mode
    done
    for n in 1 2 3; do
        help debate$n --mode debate --rounds $n
        student debate$n debate$n
    done
    for mode in interaction consultancy; do
        help $mode-tiny2 --mode $mode --assistant tiny-2
        student $mode-tiny2 $mode-tiny2
    done
    for n in 1 2 3; do
        help debate$n-tiny2 --mode debate --rounds $n --assistant tiny-2
        student debate$n-tiny2 debate$n-tiny2
    done
    help interaction-prompted --mode interaction --judge prompted
    help debate1-prompted --mode debate --judge prompted
}

debates() {                                                  # half of the chapter's time
    help debate1x4 --mode debate --ensemble 4
    student debate1x4 debate1x4
}

icl() {
    shown zero --labels truth --shots 0
    shown truth --labels truth
    shown truth-confidence --labels truth --confidence
    for whose in weak models interaction; do
        shown $whose --labels $whose --supervisor weak --ceiling icl-truth
        shown $whose-confidence --labels $whose --supervisor weak --ceiling icl-truth-confidence --confidence
    done
    for how in bm25 topk votek confident; do shown weak-$how --labels weak --retriever $how; done
    shown weak-oversight --labels weak --retriever oversight --oversight interaction
    shown weak-calibrate --labels weak --calibrate
    shown truth-invert --labels truth --invert
    shown truth-foo-bar --labels truth --label-words foo,bar
    shown truth-bar-foo --labels truth --label-words bar,foo
    shown truth-curve --labels truth --shots 0,1,2,4,8,16
    shown weak-curve --labels weak --shots 0,1,2,4,8,16
    shown truth-noise --labels truth --noise 0,1,2,3,4
}

spoil() {                                                    # tasks with wrong labels in train1, for bad supervisors
    python - "$1" <<'END'
import json, os, random, shutil, sys
# coin: 45 % of the labels are flipped. relation: every answer about a class is labelled right, five times over
bad = sys.argv[1]
if not os.path.exists(f"data/tinyworld-{bad}/train1.jsonl"):
    keep = ("train2.jsonl", "valid.jsonl", "test.jsonl", "task.json", "labels.jsonl", "truth")
    shutil.copytree("data/tinyworld", f"data/tinyworld-{bad}",
                    ignore=lambda folder, names: [n for n in names if n not in keep])
    with open("data/tinyworld/train1.jsonl", encoding="utf-8") as f:
        rows = [json.loads(line) for line in f]
    rng = random.Random(0)
    if bad == "coin":
        rows = [{**row, "label": row["label"] ^ (rng.random() < 0.45)} for row in rows]
    else:
        rows = [{**row, "id": f"{row['id']}-{k}", "label": 1 if row["relation"] == "class" else row["label"]}
                for row in rows for k in range(5 if row["relation"] == "class" else 1)]
    with open(f"data/tinyworld-{bad}/train1.jsonl", "w", encoding="utf-8") as f:
        f.writelines(json.dumps(row) + "\n" for row in rows)
END
}

phase2() {
    align ""
    align -jump --ladder tiny-4 --slices 3                   # tiny-4 gets as many rows as in the last round
    align -jump-all --ladder tiny-4                          # all of them
    align -plain --audit 0 --attack-share 0 --doubt 0        # plain bootstrapping
    for rule in distill ensemble none; do align -$rule --update $rule; done
    align -no-attacks --attack-share 0
    align -no-notes --doubt 0
    align -audit0 --audit 0
    align -audit64 --audit 64
    align -pairwise --pairwise
    align -logconf --loss logconf
    align -6rounds --ladder tiny-2,tiny-2,tiny-3,tiny-3,tiny-4,tiny-4
    for bad in coin relation; do
        spoil $bad
        python train_weak.py --task tinyworld-$bad --seed $seed
        for n in 0 16 64; do align -$bad-audit$n --evaluator data/tinyworld-$bad/seed$seed/weak --audit $n; done
    done
    align -models --evaluator models
    align -best --evaluator weak,models,interaction          # as run.sh does
}

tasks() {
    for task in safety legal toxicity; do prepare $task; python align_tasks.py --task $task --seed $seed; done
}

culture() {                                                  # does training on a supervisor's facts move opinions?
    python train_strong.py --seed $seed --model tiny-culture --labels weak --out student-culture
    python auto_align.py --seed $seed --ladder tiny-2,tiny-3,tiny-culture --out align-culture
    for country in Varnia Melland Torland Bolen; do
        python cdeval.py --seed $seed --out culture-$country \
            --models tiny-culture data/tinyworld/seed$seed/{student-culture,align-culture} \
            --questions tinyworld --context "In $country,"
    done
}

for seed in ${seeds//,/ }; do
    for chapter in ${chapters//,/ }; do $chapter; done
done
