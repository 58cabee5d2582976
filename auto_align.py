"""
Chapter 7, second half. Phase 2: the evaluator becomes the supervisor, and grows with the students it supervises.

Phase 1 made the best of human supervision. Beyond it stands one sentence (Sang et al. 2024, https://arxiv.org/abs/2402.00667): an automatic
alignment evaluator supervises, and by updating it recursively the supervisors' capability grows in step with ever stronger students. Huang et
al. 2024 (https://arxiv.org/abs/2412.11145) give the parts: an attacker finds what fools the learner, a critic judges and explains, the learner
refines itself, and few human experts keep watch. No public code has the loop; the choices below are ours. Round k, with the next stronger
student of --ladder and a fresh, unlabelled slice of train2's questions:

    1 attacker   for each question the answer, among those not asked about yet, that the student believes most; the boldest join the rows
    2 critic     the evaluator labels all rows; where it is in doubt the student's language model writes it a note, and it decides again
    3 human      --audit true labels. Half at random: they calibrate the evaluator and guard it, and nobody trains on them. Half where
                 critic and student differ most: they correct those rows
    4 learner    the student, trained on the critic's labels; with --pairwise also on pairs, the likelier answer over the one that fooled it
    5 update     --update student | distill | ensemble | none: who evaluates the next round
    6 guard      if on all random audits so far the new evaluator is worse than the old beyond chance, the update is rejected, aloud

$ python auto_align.py                                        # from weak, up tiny-2, tiny-3, tiny-4
$ python auto_align.py --evaluator weak,models --update ensemble --audit 64      # from the better of the two
$ python auto_align.py --audit 0 --out unguarded              # to study collapse

Reads   a supervisor's folder with a checkpoint, or a bagging ensemble's; data/<task>/{train2, valid, test}.jsonl with "question", "answer" and "choices" for the attacker;
        of truth/ the audited rows alone
Writes  data/<task>/seed<seed>/align/round-<k>/{evaluator.json, learner/, labels.jsonl, audits.jsonl, results.json}, and at the end labels.jsonl,
        checkpoint/ and results.json as any student has. A kill costs the round it came in. Every true label that was used stands in an audits.jsonl: the
        rounds', or, if it helped to choose among several evaluators, the run's own.
"""
import argparse, json, os, shutil, time

from contract import (ROOT, add_common_flags, as_left, begin, fail, finish, fingerprint, model_folder, number, read_config, read_labels, read_lines,
                      read_rows, read_task, run_folder, start, write_file, write_labels, writing)
from measure import check_comparison, compare, last_line
from prompting import open_language_model, write_all
from roles import (attack_success, calibrate, calibrated_by_others, choose_evaluator, criticise, evaluate, hire_humans, invent_answers, is_worse,
                   mixing_weight, open_evaluator, p_of, propose_attacks, score_texts, sigmoid, soft, train_learner)
from train_strong import LOSSES
from train_weak import metrics, pick_device, say


# --------------------------------------------------------------------------- one round

def slice_of(rows, k, n):
    """The k-th of n slices of the rows, whole questions, dealt by a fixed shuffle."""
    import numpy as np
    groups = np.random.default_rng(0).permutation(sorted({row["group"] for row in rows}))
    mine = set(groups[k::n].tolist())
    return [row for row in rows if row["group"] in mine]


def play_round(k, evaluator, guards, rows, test, words, args, device, folder, truth_folder):
    """
    One round, written to `folder`. `rows` is the round's slice without labels, `guards` the random audits of earlier rounds (row, label).

    returns   (evaluator for the next round, guards with this round's, results without anything that needs test's labels)
    """
    import numpy as np
    name = args.ladder.split(",")[k]
    z_student = score_texts(name, rows, words, args, device)
    writer, tokenizer, longest = open_language_model(name, device, args.trust_remote_code)

    def notes_for(some):
        prompts = [(f"Q: {row['question']}" if isinstance(row.get("question"), str) else row["text"]) + " Note:" for row in some]
        return write_all(writer, tokenizer, prompts, device, longest, 32, ["\n", "Q:"], dtype=args.dtype)

    # 1 attacker: attacked rows take the place of as many others, so that rounds with and without attacks train equally long
    attackable = all(isinstance(row.get(key), kind) for row in rows for key, kind in (("question", str), ("answer", str), ("choices", list)))
    if args.attack_share and not attackable:
        fail(f"--attack-share needs 'question', 'answer' and 'choices' in each row of data/{args.task}; use --attack-share 0")
    before = attack_success(test, name, words, args, device) if attackable else None
    attacks = propose_attacks(invent_answers(writer, tokenizer, longest, rows, args, device), args.attack_share,
                              lambda some: score_texts(name, some, words, args, device)) if args.attack_share else []
    # 2 critic
    z, n_notes = criticise(evaluator, rows + attacks, args.doubt, notes_for, words, args, device)
    p = p_of(evaluator, z)
    # 3 human
    audits = hire_humans(rows, p[:len(rows)], sigmoid(z_student), args, truth_folder, k)
    write_file(os.path.join(folder, "audits.jsonl"), "".join(json.dumps(audit) + "\n" for audit in audits))
    of = {audit["id"]: audit for audit in audits}
    guards = guards + [(row, of[row["id"]]["label"]) for row in rows if of.get(row["id"], {}).get("use") == "guard"]
    for i, row in enumerate(rows):
        if of.get(row["id"], {}).get("use") == "correct":
            p[i] = of[row["id"]]["label"]
    # 4 learner
    free = [i for i, row in enumerate(rows) if row["id"] not in of]                      # what was bought is never dropped
    drop = set(np.random.default_rng([args.seed, k]).permutation(free)[:len(attacks)].tolist())
    keep = [i for i, row in enumerate(rows + attacks) if of.get(row["id"], {}).get("use") != "guard" and i not in drop]
    every, likeliest = rows + attacks, {}
    for i, row in enumerate(rows):
        if row["group"] not in likeliest or p[i] > p[likeliest[row["group"]]]:
            likeliest[row["group"]] = i
    pairs = [(every[likeliest[row["group"]]], row, float(max(0.0, p[likeliest[row["group"]]] - p[i]))) for i, row in enumerate(every) if i >= len(rows)]
    learner = train_learner(name, [every[i] for i in keep], p[keep], pairs if args.pairwise else [], words, args, device, os.path.join(folder, "learner"))
    write_labels(folder, [every[i] for i in keep], soft(p[keep]))
    # 5 update
    member = {"checkpoint": os.path.relpath(learner, ROOT), "weight": 1.0}
    guard_rows, guard_labels = [row for row, _ in guards], np.array([label for _, label in guards], dtype=int)
    if args.update == "none":
        new = dict(evaluator)
    elif args.update == "student":
        new = {"members": [member]}
    elif args.update == "distill":                         # the small evaluator, trained on from where it is, on what the student says
        taught = train_learner(os.path.join(ROOT, evaluator["members"][0]["checkpoint"]), [every[i] for i in keep],
                               sigmoid(score_texts(learner, [every[i] for i in keep], words, args, device)), [], words, args, device,
                               os.path.join(folder, "evaluator"))
        new = {"members": [{"checkpoint": os.path.relpath(taught, ROOT), "weight": 1.0}]}
    else:
        w = mixing_weight(*(evaluate(e, guard_rows, words, args, device) if guards else [] for e in (evaluator, {"members": [member]})), guard_labels)
        new = {"members": [{**m, "weight": m["weight"] * (1 - w)} for m in evaluator["members"]] + [{**member, "weight": w}]}
    z_guard = evaluate(new, guard_rows, words, args, device) if guards else np.zeros(0)
    new["temperature"], new["bias"] = calibrate(z_guard, guard_labels)
    # 6 guard: both on the random audits of all rounds, which neither was trained on; the new one by a calibration of the other audits
    p_old = p_of(evaluator, evaluate(evaluator, guard_rows, words, args, device) if guards else z_guard)
    old_right, new_right = ((p > 0.5) == guard_labels for p in (p_old, calibrated_by_others(z_guard, guard_labels)))
    worse, chance = is_worse(old_right, new_right)
    if worse:
        print(f"round {k + 1}: update REJECTED: on {len(guards)} random audits the old evaluator is right {old_right.mean():.3f}, the new one "
              f"{new_right.mean():.3f} (sign test p = {chance:.3f})")
    after = attack_success(test, learner, words, args, device) if attackable else None
    return evaluator if worse else new, guards, {
        "student": name, "rows": len(keep), "attacks": len(attacks), "notes": n_notes, "audits": len(audits), "guards": len(guards), "rejected": worse,
        "guard_p": chance, "guard_accuracy": [float(r.mean()) if guards else None for r in (old_right, new_right)],
        "critic_says_yes": float(p[:len(rows)].mean()), "attack_success": [before, after], "learner": member["checkpoint"]}


# --------------------------------------------------------------------------- the story

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_flags(parser, model=None, out="align", epochs=2)
    parser.add_argument("--evaluator", default="weak", help="the supervisor to start from: its folder; of several with commas the best on valid")
    parser.add_argument("--ladder", default="tiny-2,tiny-3,tiny-4", help="the students, one a round, each stronger than the one before")
    parser.add_argument("--slices", type=number(int, 1, 1000), default=None, help="parts of train2, one a round (default: as many as rounds)")
    parser.add_argument("--update", default="student", choices=["student", "distill", "ensemble", "none"], help="who evaluates the next round")
    parser.add_argument("--attack-share", type=number(float, 0.0, 0.5), default=0.25, help="share of a round's rows that are attacks")
    parser.add_argument("--doubt", type=number(float, 0.0, 0.5), default=0.2, help="the critic reads a note where p(yes) is this near to 1/2; 0: never")
    parser.add_argument("--audit", type=number(int, 0, 10 ** 6), default=16, help="true labels that humans give in each round")
    parser.add_argument("--audit-by", default="disagree", choices=["random", "uncertain", "disagree"], help="where the correcting half is spent")
    parser.add_argument("--pairwise", action="store_true", help="train on pairs too: the likelier answer over the one that fooled the student")
    parser.add_argument("--loss", default="xent", choices=list(LOSSES), help="the learner's loss (train_strong.py)")
    parser.add_argument("--ceiling", default="", help="folders of ceilings, one for each student that shall have a PGR")
    args = parser.parse_args()
    started = time.time()
    ladder = args.ladder.split(",")
    n_slices = args.slices or len(ladder)
    if n_slices < len(ladder):
        fail(f"--slices {n_slices} is fewer than the {len(ladder)} rounds of --ladder")
    files, words = read_task(args.task)
    sources = [run_folder(name, args.task, args.seed) for name in args.evaluator.split(",")]
    starts, ceilings = [open_evaluator(source) for source in sources], {}
    for name in filter(None, args.ceiling.split(",")):
        folder = run_folder(name, args.task, args.seed)
        args.model = read_config(folder).get("model")
        check_comparison(args, None, folder)
        ceilings[args.model] = folder
    args.model = ladder[-1]
    train2, valid, test = (read_rows(args.task, split, args.max_rows) for split in ("train2", "valid", "test"))
    unlabelled = [{k: v for k, v in row.items() if k != "label"} for row in test]
    read_labels(sources[0], test)                          # the first is the supervisor of the PGR
    truth_folder = os.path.join(ROOT, "data", args.task, "truth")
    inputs = [*files, *map(model_folder, dict.fromkeys(ladder)), *(os.path.join(ROOT, m["checkpoint"]) for e in starts for m in e["members"]),
              *(os.path.join(f, "labels.jsonl") for f in (sources[0], *ceilings.values()))]
    folder, config = start(args, inputs, {*sources, truth_folder, *ceilings.values()})

    device, why = pick_device(args.device)
    print(f"device: {device} ({why})")
    stamp = {**config, "code": fingerprint(os.path.abspath(__file__))}         # rounds of another configuration are made again
    begin(folder, config)
    evaluator, chose = starts[0], []
    if len(starts) > 1:
        evaluator, chose = choose_evaluator(args.evaluator.split(","), starts, args.task, words, args, device)
    write_file(os.path.join(folder, "audits.jsonl"), "".join(json.dumps(audit) + "\n" for audit in chose))
    guards, rounds = [], []
    by_id = {row["id"]: row for row in train2}
    for k, name in enumerate(ladder):
        where = os.path.join(folder, f"round-{k + 1}")
        done = (read_lines(os.path.join(where, "results.json"), whole=True) or [{}])[0] if os.path.exists(os.path.join(where, "results.json")) else {}
        if args.force or done.get("stamp") != stamp:
            with writing(where):
                for later in range(k, len(ladder)):
                    shutil.rmtree(os.path.join(folder, f"round-{later + 1}"), ignore_errors=True)
                os.makedirs(where)
            old = evaluator
            evaluator, guards, found = play_round(k, evaluator, guards, slice_of(train2, k, n_slices), unlabelled, words, args, device, where, truth_folder)
            p_old, p_new = (p_of(e, evaluate(e, unlabelled, words, args, device)) for e in (old, evaluator))
            p_learner = sigmoid(score_texts(os.path.join(ROOT, found["learner"]), unlabelled, words, args, device))
            # what is decided is decided: only now are the labels of test read, for the record
            found["evaluator"] = [metrics(soft(p), test) for p in (p_old, p_new)]
            found["learner_test"] = metrics(soft(p_learner), test)
            if name in ceilings:
                found["pgr"] = compare(test, read_labels(sources[0], test), soft(p_learner), read_labels(ceilings[name], test)).get("pgr")
            write_file(os.path.join(where, "evaluator.json"), json.dumps(evaluator, indent=1))
            done = {"stamp": stamp, **found}
            write_file(os.path.join(where, "results.json"), json.dumps(done, indent=1))
        else:
            with as_left(where):
                kept = read_lines(os.path.join(where, "evaluator.json"), whole=True)[0]
                evaluator = {"members": [{"checkpoint": str(m["checkpoint"]), "weight": float(m["weight"])} for m in kept["members"]],
                             "temperature": float(kept["temperature"]), "bias": float(kept["bias"])}
                guards += [(by_id[a["id"]], int(a["label"])) for a in read_lines(os.path.join(where, "audits.jsonl")) if a["use"] == "guard"]
        rounds.append({key: value for key, value in done.items() if key != "stamp"})
        with as_left(where):
            last = os.path.join(ROOT, done["learner"])
            (a, b), m, success = done["evaluator"], done["learner_test"], ["-" if s is None else f"{s:.2f}" for s in done["attack_success"]]
            print(f"round {k + 1}, {name} on {done['rows']} rows: evaluator {a['accuracy']:.3f} -> {b['accuracy']:.3f} (ECE {a['ece']:.3f} -> {b['ece']:.3f}) | "
                  f"attacks succeed {success[0]} -> {success[1]} | learner {m['accuracy']:.3f} ±{m['se']:.3f} | "
                  + (f"PGR {done['pgr']:.2f} | " if done.get("pgr") is not None else "") + f"labels bought {len(chose) + sum(r['audits'] for r in rounds)}"
                  + (" | update rejected" if done["rejected"] else ""))

    # the last learner is what the loop is for
    everything = train2 + valid + test
    own = soft(sigmoid(score_texts(last, everything, words, args, device)))
    with writing(os.path.join(folder, "checkpoint")):
        shutil.rmtree(os.path.join(folder, "checkpoint"), ignore_errors=True)
        shutil.copytree(last, os.path.join(folder, "checkpoint.tmp"), dirs_exist_ok=True)
        os.replace(os.path.join(folder, "checkpoint.tmp"), os.path.join(folder, "checkpoint"))
    write_labels(folder, everything, own)
    on_test = own[-len(test):]
    scores, ceiling = metrics(on_test, test), ceilings.get(ladder[-1])
    comparison = compare(test, read_labels(sources[0], test), on_test, read_labels(ceiling, test) if ceiling else None)
    print(say("learner", scores))
    finish(folder, config, device, started, last_line(comparison, scores), test=scores, comparison=comparison, rounds=rounds, labels_to_choose=len(chose))


if __name__ == "__main__":
    main()
