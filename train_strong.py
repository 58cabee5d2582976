"""
Chapter 2, second half. A student learns from labels that are wrong, and may end up better than whoever wrote them.

The student is a stronger model than its supervisor: it has read more. Fine-tuned on the supervisor's soft labels for train2 it could copy
the supervisor's errors, or the labels could merely tell it which of the things it knows is being asked for (Burns et al. 2023,
https://arxiv.org/abs/2312.09390). How much of the way to a model trained on the truth does it go (measure.py: PGR)?

One script makes both, and the only difference is whose labels it reads:

$ python train_strong.py --labels truth --out ceiling             # the ceiling: the same model and rows, true labels
$ python train_strong.py --labels weak --ceiling ceiling          # the student
$ python train_strong.py --labels weak --loss logconf --out student-logconf --ceiling ceiling

What can be done about the wrong labels, in the order of this file: believe them less (--loss), sharpen or choose among them (--hard, --clean,
--truth-budget), train less of the model (--probe), prepare it (--generative-steps), go in small steps (--chain), label again (--self-train),
stop in time (--early-stop). --oracle-stop looks at the truth to stop: cheating, for study, and printed as such.

Reads   a supervisor's folder (labels.jsonl), data/<task>/{train2, valid, test}.jsonl; truth/ only after training, for the curve over the
        steps, or where a flag asks for it (--labels truth, --truth-budget, --oracle-stop)
Writes  data/<task>/seed<seed>/student/{config.json, checkpoint/, labels.jsonl, results.json}: a folder like its supervisor's, so
        that a student can supervise the next

    diff train_weak.py train_strong.py     # where the labels come from, and what the model is to believe of them
"""
import argparse, math, os, time

import distributed
from clean_labels import keep_confident, keep_uncontradicted, knn_opinion, logistic, logistic_opinion, pick_for_truth
from contract import (ROOT, add_common_flags, begin, fail, finish, model_folder, number, read_labels, read_rows, read_task, run_folder,
                      save_checkpoint, start, write_labels)
from measure import check_comparison, compare, last_line, share, show_cases
from prompting import mean_surprise, open_language_model, surprise
from train_weak import (accuracy, classify, fit, label_word_ids, load_model, metrics, pick_device, predict, prepare_for_training, right, say,
                        soft_xent, sweep, tokenise)


# --------------------------------------------------------------------------- the maths: what the student is to believe
# Every loss here is cross entropy against a target: a function of the batch's labels, of the student's own scores (without gradient)
# and of how far training has come. (logits (B, 2), labels (B, 2), progress in [0, 1)) -> (B, 2)

def xent(logits, labels, progress):
    """The supervisor's soft labels as they are: naive fine-tuning."""
    return labels


def confidence_weight(progress, largest=0.5, warmup=0.2):
    """
    The weight a of the student's own opinion: from 0 straight up to `largest` over the first fifth of training, then constant (Burns et al.,
    appendix A.4; 0.75 for their very largest students). Their released code jumps at the end of warm-up, the paper does not.

    >>> confidence_weight(0.0), confidence_weight(0.1), confidence_weight(0.2), confidence_weight(0.9)
    (0.0, 0.25, 0.5, 0.5)
    """
    return largest * min(1.0, progress / warmup) if warmup > 0 else largest


def harden(logits, share_yes):
    """
    The student's opinion as 0 or 1: yes for the `share_yes` of the batch with the highest p(yes), not for all above 1/2. With a fixed
    threshold a student that leans to one class would talk itself into that class alone.

    logits (B, 2), share_yes in [0, 1] -> (B,), whose mean is share_yes: where that is not a whole number of rows, the row at the threshold
    gets the rest

    >>> harden(torch.tensor([[0., 3.], [0., 2.], [0., 1.], [0., 0.]]), 0.5)     # all lean to yes, half may
    tensor([1., 1., 0., 0.])
    """
    lean = logits[:, 1] - logits[:, 0]
    rank = lean.argsort(descending=True, stable=True).argsort()                # (B,) 0 for the surest yes
    return (share_yes * len(lean) - rank).clamp(0, 1)


def logconf(logits, labels, progress):
    """
    The auxiliary confidence loss (Burns et al., eq. 1):  (1 - a) CE(f, supervisor) + a CE(f, own hard opinion), which, cross entropy
    being linear in its target, is CE(f, (1 - a) supervisor + a own hard opinion).

    The threshold lets as many of the whole batch pass as the supervisor's labels say yes on average: half where classes balance, as in
    the paper, and still right where they do not (so does the released code).
    """
    import torch
    own = harden(logits, labels[:, 1].mean())
    a = confidence_weight(progress)
    return (1 - a) * labels + a * torch.stack([1 - own, own], dim=1)


def logconf_released(logits, labels, progress):
    """
    The confidence loss as openai/weak-to-strong has it: the weight is 0.5 * progress for the first tenth of training (so at most 0.05), and
    then jumps to 0.5. Kept to compare; nothing else differs (their threshold is a quantile, which may let one row more or less pass).
    """
    import torch
    own = harden(logits, labels[:, 1].mean())
    a = 0.5 * (1.0 if progress > 0.1 else progress)
    return (1 - a) * labels + a * torch.stack([1 - own, own], dim=1)


def product(logits, labels, progress):
    """
    What supervisor and student say together, as if they had judged independently (openai/weak-to-strong, product_loss_fn):  target is
    proportional to p_student * p_supervisor.

    >>> product(torch.zeros(1, 2), torch.tensor([[0.3, 0.7]]), 0.5)     # a student without opinion leaves the label as it is
    tensor([[0.3000, 0.7000]])
    """
    both = logits.softmax(-1) * labels.clamp(1e-6, 1)      # a label of exactly 0 would forbid the student its opinion
    return both / both.sum(-1, keepdim=True)


def window(logits, labels, progress, radius=0.15):
    """
    Learn only where the student is in doubt (EleutherAI/w2s, confidence_window_loss, radius 0.15): where its p is beyond 0.5 +- radius its
    target is what it says already, and cross entropy against one's own opinion has no gradient.

    >>> window(torch.tensor([[0., 0.], [0., 3.]]), torch.tensor([[0.9, 0.1], [0.9, 0.1]]), 0.5)[:, 0]
    tensor([0.9000, 0.0474])
    """
    own = logits.softmax(-1)
    return own.where(own.max(-1, keepdim=True).values >= 0.5 + radius, labels)


def entropy(logits, labels, progress):
    """
    Be sure of something:  (1 - a) CE(f, supervisor) + a H(f),  a as in the confidence loss. H's gradient with respect to the logits is that of
    cross entropy against  p (1 + log p + H), whose rows sum to 1; it is no distribution, and need not be.

    EleutherAI/w2s calls "entropy" CE against the student's own soft opinion, held fixed: that has no gradient (see window), so theirs is
    naive fine-tuning with 1 - a of its step.
    """
    own, logs = logits.softmax(-1), logits.log_softmax(-1)
    a = confidence_weight(progress)
    return (1 - a) * labels + a * own * (1 + logs - (own * logs).sum(-1, keepdim=True))


LOSSES = {"xent": xent, "logconf": logconf, "logconf-released": logconf_released, "product": product, "window": window, "entropy": entropy}


# --------------------------------------------------------------------------- the student

def last_layer(model):
    """The linear layer whose two outputs are the scores of no and yes."""
    import torch
    found = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == 2]
    return found[-1] if found else fail("--probe and --clean: this model has no linear layer of two outputs at its end")


def read_features(model, tokenizer, ids, args, device):
    """What the last layer reads, computed once for all rows: N lists of ids -> (N, C) float32."""
    read = []
    hook = last_layer(model).register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))

    def inputs_of_last_layer(model, batch):
        read.clear()
        classify(model, batch)
        return read[0]
    features = sweep(model, tokenizer, ids, device, args.dtype, outputs=inputs_of_last_layer)
    hook.remove()
    return features


def fit_probe(model, tokenizer, ids, soft_labels, valid_ids, valid_labels, args, device):
    """
    A linear probe: nothing but the last layer is trained, by logistic regression on features computed once. The strength of its penalty is
    the one that fits the labels of valid best; they are the supervisor's too.
    """
    import numpy as np, torch
    layer = last_layer(model)
    x, x_valid = (read_features(model, tokenizer, i, args, device) for i in (ids, valid_ids))
    best = None
    for l2 in (1e-4, 1e-3, 1e-2, 1e-1, 1.0):
        w = logistic(x, soft_labels[:, 1], l2, bias=layer.bias is not None)
        z = x_valid @ w[:x.shape[1]] + (w[-1] if layer.bias is not None else 0.0)
        loss = float(soft_xent(torch.tensor(np.stack([-z / 2, z / 2], 1)), torch.tensor(valid_labels)).mean())
        if best is None or loss < best[0]:
            best = loss, l2, w
    w = torch.tensor(best[2], dtype=torch.float32, device=device) / 2
    with torch.no_grad():                                  # two rows, -w/2 and w/2: their difference is the probe
        distributed.set_weight(layer.weight, torch.stack([-w, w])[:, :x.shape[1]])
        if layer.bias is not None:
            distributed.set_weight(layer.bias, torch.stack([-w[-1], w[-1]]))
    print(f"probe: {x.shape[1]} features, penalty {best[1]:g} fits the {len(valid_ids):,} valid rows' labels best ({best[0]:.3f} nats)")


def read_the_texts_first(model, name, rows, words, args, device):
    """
    Unsupervised fine-tuning of the language model on the task's texts, right and wrong answers alike (Burns et al., section 5.2.2: it makes what
    the task is about more salient): --generative-steps batches; then its body and its rows for the label words become the classifier's.
    """
    import numpy as np
    if not hasattr(model, "score"):
        fail(f"--generative-steps: {name!r} is no language model")
    writer, tokenizer, longest = open_language_model(name, device, args.trust_remote_code)
    ids = [i for i in tokenise(tokenizer, rows, longest) if len(i) > 1]
    rng, need = np.random.default_rng(args.seed), args.generative_steps * args.batch_size
    order = np.concatenate([rng.permutation(len(ids)) for _ in range(-(-need // len(ids)))])[:need]
    chosen = [ids[i] for i in order]
    once = argparse.Namespace(**{**vars(args), "epochs": 1})
    before = sweep(writer, tokenizer, ids[:200], device, args.dtype, outputs=mean_nats).mean()
    real = np.array([[len(i) - 1] for i in chosen], dtype=np.float32)
    fit(writer, tokenizer, chosen, real, once, device, outputs=surprise, loss=mean_surprise)
    after = sweep(writer, tokenizer, ids[:200], device, args.dtype, outputs=mean_nats).mean()
    print(f"read {need:,} texts of train2: {before:.2f} -> {after:.2f} nats a token")
    for own, read in zip(model.base_model.parameters(), writer.base_model.parameters()):
        distributed.set_weight(own, read.detach())
    if args.head == "lm":
        distributed.set_weight(model.score.weight, writer.get_output_embeddings().weight[label_word_ids(tokenizer, words)].detach())


def mean_nats(model, batch):
    return mean_surprise(surprise(model, batch), batch["attention_mask"].sum(1, keepdim=True) - 1)


def train_student(name, rows, soft_labels, valid, valid_labels, valid_truth, words, args, device):
    """
    One student, from a fresh checkpoint `name`.

    soft_labels (N, 2), valid_labels (M, 2)   what it is taught, and what it may be stopped by
    valid_truth                               (M,) of 0 and 1 with --oracle-stop, else None: nobody sees the truth
    returns     (model, tokenizer, longest, curve): curve holds (step, steps, p_yes (M,)) before and at eight moments of fine-tuning
    """
    import torch
    torch.manual_seed(args.seed)
    model, tokenizer, longest = load_model(name, args.head, words, device, args.trust_remote_code)
    ids, valid_ids = tokenise(tokenizer, rows, longest), tokenise(tokenizer, valid, longest)
    print(f"one example, exactly as the model sees it:\n  {tokenizer.decode(ids[0])!r} -> "
          f"soft label (no {soft_labels[0, 0]:.2f}, yes {soft_labels[0, 1]:.2f})")
    if args.generative_steps:
        read_the_texts_first(model, name, rows, words, args, device)
    if args.clean != "none":
        if args.clean == "confident":
            keep = keep_confident(soft_labels, args.keep)
        else:
            features, ask = read_features(model, tokenizer, ids, args, device), knn_opinion if args.clean == "knn" else logistic_opinion
            keep = keep_uncontradicted(soft_labels, ask(features, soft_labels, [row["group"] for row in rows]), args.keep)
        ids, soft_labels = [i for i, k in zip(ids, keep) if k], soft_labels[keep]
        print(f"cleaning: {len(ids):,} of {len(rows):,} rows are kept ({soft_labels[:, 1].mean():.1%} yes on average)")
    if args.probe in ("only", "first"):
        fit_probe(model, tokenizer, ids, soft_labels, valid_ids, valid_labels, args, device)
    if args.probe == "only":
        return model, tokenizer, longest, []

    model, ordinary = prepare_for_training(model, args)
    curve, best = [], {"score": -1.0}
    judge_by = valid_truth if args.oracle_stop else (valid_labels[:, 1] > 0.5).astype(int)

    def look(step, steps):
        if step % math.ceil(steps / 8) and step < steps:
            return
        p = predict(model, tokenizer, valid_ids, device, args.dtype)[:, 1]
        curve.append((step, steps, p))
        score = accuracy(p, judge_by)
        if step and (args.early_stop or args.oracle_stop) and score > best["score"]:
            best.update(score=score, step=step, weights=distributed.keep_weights(model))

    look(0, math.ceil(len(ids) / args.batch_size) * args.epochs)
    fit(model, tokenizer, ids, soft_labels, args, device, target=None if args.loss == "xent" else LOSSES[args.loss], after_step=look)
    if best.get("step"):
        distributed.put_back(model, best["weights"])
        by = "CHEATING, by the truth of valid" if args.oracle_stop else "by the labels of valid"
        print(f"stopped at step {best['step']} of {curve[-1][1]}: {by}")
    model = ordinary()
    if args.probe == "after":
        fit_probe(model, tokenizer, ids, soft_labels, valid_ids, valid_labels, args, device)
    return model, tokenizer, longest, curve


# --------------------------------------------------------------------------- the story

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_flags(parser, model="tiny-4", out="student", epochs=2)
    parser.add_argument("--labels", default="weak", help="whose labels: a supervisor's folder, or its bare name; 'truth' makes the ceiling")
    parser.add_argument("--supervisor", default="", help="folder whose test labels the student is compared with (default: that of --labels)")
    parser.add_argument("--ceiling", default="", help="folder of the ceiling, for the PGR")
    parser.add_argument("--loss", default="xent", choices=list(LOSSES), help="what to believe of the labels")
    parser.add_argument("--hard", action="store_true", help="round the labels to 0 and 1")
    parser.add_argument("--clean", default="none", choices=["none", "confident", "knn", "logistic"], help="leave out labels that deserve doubt")
    parser.add_argument("--keep", type=number(float, 0.01, 1.0), default=0.5, help="share of each class that --clean keeps")
    parser.add_argument("--truth-budget", type=number(int, 0, 10 ** 9), default=0, help="true labels of train2 that a person gives")
    parser.add_argument("--pick", default="disagree", choices=["random", "uncertain", "disagree"], help="for which rows")
    parser.add_argument("--probe", default="none", choices=["none", "only", "first", "after"],
                        help="train the last layer alone: instead of, before (LP-FT) or after fine-tuning")
    parser.add_argument("--generative-steps", type=number(int, 0, 10 ** 9), default=0, help="batches of train2's texts to read first")
    parser.add_argument("--chain", default="", help="students in between: tiny-2,tiny-3,tiny-4, each taught by the one before")
    parser.add_argument("--self-train", type=number(int, 0, 100), default=0, help="rounds of labelling anew by the student, and starting over")
    parser.add_argument("--early-stop", action="store_true", help="keep the weights that agree best with the labels of valid")
    parser.add_argument("--oracle-stop", action="store_true", help="the same with the truth of valid: cheating, for study")
    args = parser.parse_args()
    started = time.time()

    truth_folder = os.path.join(ROOT, "data", args.task, "truth")
    if os.path.realpath(args.labels) == os.path.realpath(truth_folder):
        args.labels = "truth"
    is_ceiling = args.labels == "truth"
    if is_ceiling and (args.ceiling or args.supervisor):
        fail("--labels truth makes a ceiling; --ceiling and --supervisor are for students")
    if args.chain:
        if args.model not in (parser.get_default("model"), args.chain.split(",")[-1]):
            fail(f"--chain ends with {args.chain.split(',')[-1]!r}, --model says {args.model!r}: leave one of them out")
        args.model = args.chain.split(",")[-1]
    steps = (args.chain.split(",") if args.chain else [args.model]) + [args.model] * args.self_train
    files, words = read_task(args.task)
    labels_folder = truth_folder if is_ceiling else run_folder(args.labels, args.task, args.seed)
    supervisor = None if is_ceiling else run_folder(args.supervisor, args.task, args.seed) if args.supervisor else labels_folder
    ceiling = run_folder(args.ceiling, args.task, args.seed) if args.ceiling else None
    train2, valid = read_rows(args.task, "train2", args.max_rows), read_rows(args.task, "valid", args.max_rows)
    soft_labels, valid_labels = read_labels(labels_folder, train2), read_labels(labels_folder, valid)
    read_labels(truth_folder, valid)                       # is it there and whole? It is wanted after training
    check_comparison(args, supervisor, ceiling)
    sources = {folder for folder in (labels_folder, supervisor, ceiling) if folder}
    if args.truth_budget or args.oracle_stop:
        sources.add(truth_folder)
    inputs = [*files, *map(model_folder, dict.fromkeys(steps)), *(os.path.join(f, "labels.jsonl") for f in sorted(sources))]
    folder, config = start(args, inputs, sources)

    import numpy as np
    device, why = pick_device(args.device)
    print(f"device: {device} ({why})")
    print(f"data: {len(train2):,} rows of train2, labelled by {os.path.relpath(labels_folder)} ({soft_labels[:, 1].mean():.1%} yes on average)")
    begin(folder, config)
    if args.hard:
        soft_labels, valid_labels = (np.eye(2, dtype=np.float32)[(p[:, 1] > 0.5).astype(int)] for p in (soft_labels, valid_labels))
    valid_truth = read_labels(truth_folder, valid)[:, 1] if args.oracle_stop else None

    def student_of(name, labels, labels_of_valid):
        return train_student(name, train2, labels, valid, labels_of_valid, valid_truth, words, args, device)

    bought = np.array([], dtype=int)
    if args.truth_budget:
        p = None
        if args.pick == "disagree":                        # a first student, taught by the supervisor alone, shows where to look
            model, tokenizer, longest, _ = student_of(steps[0], soft_labels, valid_labels)
            p = predict(model, tokenizer, tokenise(tokenizer, train2, longest), device, args.dtype)[:, 1]
        bought = pick_for_truth(soft_labels, args.truth_budget, args.pick, p, args.seed)
        true_labels = read_labels(truth_folder, [train2[i] for i in bought])
        print(f"truth: {len(bought):,} labels of train2 bought ({args.pick}); the supervisor had "
              f"{accuracy(soft_labels[bought, 1], true_labels[:, 1]):.3f} of them right")
        soft_labels[bought] = true_labels
    for k, name in enumerate(steps):
        if len(steps) > 1:
            print(f"student {k + 1} of {len(steps)}: {os.path.basename(name)}")
        model, tokenizer, longest, curve = student_of(name, soft_labels, valid_labels)
        ids = tokenise(tokenizer, train2 + valid, longest)
        own = predict(model, tokenizer, ids, device, args.dtype)
        soft_labels, valid_labels = own[:len(train2)].copy(), own[len(train2):]      # if another student follows, it is taught by this one
        if args.truth_budget:
            soft_labels[bought] = true_labels

    # only now are rows of test read, and the truth of valid, for the curve
    test = read_rows(args.task, "test", args.max_rows)
    everything = train2 + valid + test
    on_test = predict(model, tokenizer, tokenise(tokenizer, test, longest), device, args.dtype)
    save_checkpoint(folder, model, tokenizer)
    write_labels(folder, everything, np.concatenate([own, on_test]))
    scores = metrics(on_test, test)
    taught, true = read_labels(labels_folder, valid)[:, 1], read_labels(truth_folder, valid)[:, 1]
    curve = [{"step": step, "of": of, "agrees_with_labels": accuracy(p, (taught > 0.5).astype(int)), "agrees_with_truth": accuracy(p, true)}
             for step, of, p in curve]
    if curve:
        print("agrees on valid with (labels, truth) at step " + ", ".join(
            f"{c['step']} ({c['agrees_with_labels']:.3f}, {c['agrees_with_truth']:.3f})" for c in curve))
    line, comparison = say("ceiling" if is_ceiling else "student", scores), None
    if supervisor:
        weak = read_labels(supervisor, test)
        comparison = compare(test, weak, on_test, read_labels(ceiling, test) if ceiling else None)
        labels = [row["label"] for row in test]
        weak_right, own_right = right(weak[:, 1], labels) == 1, right(on_test[:, 1], labels) == 1
        show_cases("student right where its supervisor is wrong", np.flatnonzero(own_right & ~weak_right), test, weak, on_test)
        show_cases("student wrong where its supervisor is right", np.flatnonzero(~own_right & weak_right), test, weak, on_test)
        print(f"{line}\nagrees with its supervisor where that is right {share(comparison['agrees_where_supervisor_right'])}, "
              f"where it is wrong {share(comparison['agrees_where_supervisor_wrong'])}")
        line = last_line(comparison, scores) + (" | CHEATING: stopped by the truth" if args.oracle_stop else "")
    finish(folder, config, device, started, line, test=scores, comparison=comparison, curve=curve, truth_ids=[train2[i]["id"] for i in bought])


if __name__ == "__main__":
    main()
