"""
The supervisor: a small model is fine-tuned on the true labels of train1, and labels everything else.

Why: one day people will supervise models that know more than they do. The analogy that can be run today (Burns et al.
2023, https://arxiv.org/abs/2312.09390) lets a small model supervise a big one. This script makes the small one. It is
fine-tuned on one half of the questions, with the truth, and then predicts p(yes) for the other half, which it has never
seen. Those soft labels, often wrong, are all that the student (train_strong.py) is given.

    rows      data/<task>/train1.jsonl       {"id": ..., "group": ..., "text": "Q: ...? A: d-block", "label": 1}
    model     any sequence model of transformers, a local folder or a hub name; its last hidden state -> 2 numbers
              (no, yes)
    training  cross entropy, AdamW, linear warm-up and decay; the best epoch is chosen on a tenth of train1, never
              on test
    labels    soft labels (p_no, p_yes) for train2, valid and test, by id, in float32
    pairs     rows {"id", "group", "text_a", "text_b", "label"}, label 1: b is better. The model is then a reward model:
              one output, the score s of a text. The same cross entropy of (s_a, s_b) is -log sigmoid(s_b - s_a) where
              b is better (Bradley and Terry 1952), and a soft label is (p_a, p_b)

The training loop (`fit`) stands here in plain sight. Every other stage that trains uses it, with another loss function.

$ python data/tinyworld/prepare.py
$ python train_weak.py                                    # tinyworld, tiny-1a: ten seconds on a laptop
$ python train_weak.py --task sciq --model gpt2 --lr 5e-5 # with a GPU and the hub
$ python data/pairs/prepare.py && python train_weak.py --task pairs --also pairs-far

--also TASK labels test of another task, too, which nothing was trained on: does it generalize that far?

Needs   contract.py, metrics.py, models.py
Reads   data/<task>/{task.json, train1.jsonl, train2.jsonl, valid.jsonl, test.jsonl}
Writes  data/<task>/seed<seed>/weak/{checkpoint/, labels.jsonl, config.json, results.json}; results.json is written
        last. A finished run is skipped (--force repeats it).

Simpler than the paper, on purpose: two classes only, so that a soft label is one pair; and the learning rate is not
tuned per task.
"""
import argparse
import math
import os
import time

import numpy as np

from contract import (
    ROOT, add_run_flags, describe_run, fail, is_finished, is_pair, model_folder, number, open_run, read_also, read_rows,
    read_task, run_script, save_checkpoint, task_name, write_labels, write_results)
from metrics import accuracy, all_metrics, format_metrics, to_soft_labels
from models import (
    add_model_flags, autocast, classify, copy_weights, load_classifier, pad, pick_device, predict, restore_weights,
    show_ids, tokenize, use_bf16)

# --------------------------------------------------------------------------- the maths


def soft_xent(logits, soft_labels):
    """
    Cross entropy against probabilities instead of class ids.

    logits       (B, 2)  the model's scores for (no, yes)
    soft_labels  (B, 2)  (p_no, p_yes), each row sums to 1; the truth is (0, 1) or (1, 0)
    returns      (B,)    one loss a row; logits (3, 3) against any label give log 2 = 0.693

    The supervisor's uncertainty is kept on purpose: rounding a 0.55 to 1 would train the student to be certain of a
    guess.
    """
    return -(soft_labels * logits.log_softmax(-1)).sum(-1)


def soft_label_loss(model, batch):
    """The loss of every classifier here: soft_xent of a batch's logits and its "soft_labels" (B, 2) -> (B,)"""
    return soft_xent(classify(model, batch), batch["soft_labels"])


def learning_rate_factor(step, steps):
    """
    10 % linear warm-up, then linear decay to 0.

    >>> [round(learning_rate_factor(step, 20), 3) for step in (0, 1, 2, 11, 19)]
    [0.5, 1.0, 1.0, 0.5, 0.056]
    """
    return min((step + 1) / (0.1 * steps), 1.0, (steps - step) / (0.9 * steps))


# --------------------------------------------------------------------------- the training loop


def batches_of_similar_length(lengths, batch_size, rng):
    """
    The row indices of one epoch, in batches. Rows are shuffled, sorted by length within stretches of 20 batches, cut
    into batches, and the batches are shuffled: little padding, and yet another order every epoch. Every row comes once;
    one batch may be smaller.
    """
    order = rng.permutation(len(lengths))
    stretch = 20 * batch_size
    by_length = []
    for k in range(0, len(order), stretch):
        by_length += sorted(order[k:k + stretch], key=lambda i: lengths[i])
    batches = [by_length[k:k + batch_size] for k in range(0, len(by_length), batch_size)]
    return [batches[k] for k in rng.permutation(len(batches))]


def batch_maker(ids, tokenizer, device, **columns):
    """
    -> make_batch(indices): the rows' token ids, padded, and the same rows of every column.

    ids       N lists of token ids
    columns   name=(N, ...) float32 arrays, for example soft_labels=(N, 2)
    """
    import torch
    columns = {name: torch.tensor(values, device=device) for name, values in columns.items()}

    def make_batch(indices):
        return pad([ids[i] for i in indices], tokenizer, device) | {name: c[indices] for name, c in columns.items()}
    return make_batch


def compute_gradients(model, indices, make_batch, loss_fn, micro_batch_size, precision, target_fn=None, progress=0.0):
    """
    Add the gradient of one batch's mean loss to the parameters. The batch may go through the model in pieces of
    `micro_batch_size` rows: the same gradient, with less memory.

    target_fn   sees the logits of the whole batch, and replaces its soft labels. If the batch is in pieces or the loss
                is not soft_label_loss, the logits are computed once more for it, without gradient
    """
    import torch
    pieces = [make_batch(indices[k:k + micro_batch_size]) for k in range(0, len(indices), micro_batch_size)]
    if target_fn and len(pieces) == 1 and loss_fn is soft_label_loss:
        with precision:
            logits = classify(model, pieces[0])
        targets = target_fn(logits.detach(), pieces[0]["soft_labels"], progress)
        (soft_xent(logits, targets).sum() / len(indices)).backward()
        return
    if target_fn:
        with torch.no_grad(), precision:
            logits = torch.cat([classify(model, piece) for piece in pieces])
        targets = target_fn(logits, torch.cat([piece["soft_labels"] for piece in pieces]), progress)
        for piece, piece_targets in zip(pieces, targets.split(micro_batch_size)):
            piece["soft_labels"] = piece_targets
    for piece in pieces:
        with precision:
            losses = loss_fn(model, piece)                 # (rows of the piece,)
        (losses.sum() / len(indices)).backward()


def fit(model, lengths, make_batch, loss_fn, args, device, target_fn=None, after_step=None):
    """
    Fine-tune a model, in place.

    lengths      N numbers; rows of similar length are batched together
    make_batch   N row indices -> a batch, a dict of tensors (see batch_maker)
    loss_fn      (model, batch) -> (B,), one loss a row (see soft_label_loss)
    args         has epochs, lr, batch_size, micro_batch_size, dtype, seed
    target_fn    (logits (B, 2), soft labels (B, 2), progress in [0, 1)) -> (B, 2) targets; None: the labels themselves
    after_step   called as after_step(step, steps), step = 1, 2, ... steps

    AdamW without weight decay on fp32 weights, 10 % warm-up, linear decay, gradients clipped at norm 1.
    """
    import torch
    from tqdm import tqdm
    rng = np.random.default_rng(args.seed)
    steps = math.ceil(len(lengths) / args.batch_size) * args.epochs
    trainable_params = [p for p in model.parameters() if p.requires_grad]      # with --lora a few, otherwise all
    fused = device.split(":")[0] in ("cpu", "cuda")
    optimizer = torch.optim.AdamW(trainable_params, lr=args.lr, weight_decay=0.0, fused=fused)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps))
    precision = autocast(args.dtype, device, model)
    usual_attention = getattr(model.config, "_attn_implementation", None)
    in_bf16 = use_bf16(args.dtype, device, model.config)
    if device.split(":")[0] == "cpu" and in_bf16 and max(lengths, default=0) <= 128:
        model.set_attn_implementation("eager")             # torch's fused attention takes long for short rows in bf16
    micro_batch_size = args.micro_batch_size or args.batch_size
    step = 0
    with tqdm(total=steps, desc="fine-tuning", unit="step", disable=None, leave=False) as bar:
        for _ in range(args.epochs):
            for indices in batches_of_similar_length(lengths, args.batch_size, rng):
                model.train()                              # after_step may predict; checkpointing needs this mode
                compute_gradients(model, indices, make_batch, loss_fn, micro_batch_size, precision, target_fn,
                                  progress=step / steps)
                torch.nn.utils.clip_grad_norm_(trainable_params, 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                step += 1
                bar.update()
                if after_step:
                    after_step(step, steps)
    if usual_attention and model.config._attn_implementation != usual_attention:
        model.set_attn_implementation(usual_attention)     # predict as the reopened checkpoint will


# --------------------------------------------------------------------------- flags, memory, and the best epoch


def add_training_flags(parser, epochs, lr=1e-4, classifier=True):
    """The flags of every stage that trains. --head and --lora are for classifiers."""
    count = number(int, 1, 10 ** 9)
    parser.set_defaults(lora=None)
    if classifier:
        parser.add_argument("--head", default="lm", choices=["lm", "random"],
                            help="a decoder's head starts from the rows of its label words, or from noise")
        parser.add_argument("--lora", type=count, default=None,
                            help="train adapters of this rank, not the weights (needs peft)")
    parser.add_argument("--epochs", type=count, default=epochs, help="passes over the training rows")
    parser.add_argument("--lr", type=number(float, 1e-9, 1.0), default=lr,
                        help="peak learning rate (gpt2: 5e-5, Qwen: 1e-5)")
    parser.add_argument("--batch-size", type=count, default=32, help="rows per optimizer step")
    parser.add_argument("--micro-batch-size", type=count, default=None,
                        help="rows per forward pass, to save memory (default: the whole batch)")
    parser.add_argument("--gradient-checkpointing", action="store_true",
                        help="compute each layer's activations twice: less memory, more time")


def words_of_head(words, args):
    """The label words, if a head starts from them: describe_run's `words`"""
    return words if args.head == "lm" else None


def prepare_for_training(model, args):
    """
    Two ways to save memory. --gradient-checkpointing keeps only the input of every layer and computes its activations
    once more in the backward pass. --lora R trains a low-rank correction beside each linear layer, and the head, and
    nothing else (Hu et al. 2021, by the package peft). These are fp32; the weights beside them may be bf16 (see
    models.freeze). Then the corrections are rounded to bf16 at the end, when they are added to the weights.

    returns   (the model to train, a function that gives the ordinary model back after training)
    """
    if args.gradient_checkpointing:
        try:
            model.activation_checkpointing_enable({"use_reentrant": False})
        except ValueError:
            fail(f"--gradient-checkpointing: transformers' {model.config.model_type} cannot do it. Leave the flag out, "
                 "or give --micro-batch-size")
    if not args.lora:
        return model, lambda: model
    try:
        import peft
    except ImportError:
        fail("--lora needs the package peft, which nothing else here does:  pip install peft")
    heads = ["score", "classifier", "pre_classifier", "classification_head"]   # trained whole: they start from noise
    without = "|".join([*heads, "router"])
    config = peft.LoraConfig(task_type="SEQ_CLS", r=args.lora, lora_alpha=2 * args.lora, target_modules="all-linear",
                             modules_to_save=heads, exclude_modules=rf"(.*\.)?({without})(\..*)?")
    try:
        wrapped = peft.get_peft_model(model, config)
    except (TypeError, ValueError) as error:
        fail(f"--lora: peft cannot adapt {model.config.model_type} ({str(error).splitlines()[0]}). Leave the flag out")
    return wrapped.get_base_model(), wrapped.merge_and_unload


def split_held_out(rows, seed):
    """A tenth of the questions is held out, whole groups. -> (rows to train on, rows to choose the epoch by)"""
    groups = np.random.default_rng(seed).permutation(sorted({row["group"] for row in rows}))
    held_groups = set(groups[:max(1, len(groups) // 10)])
    kept = [row for row in rows if row["group"] not in held_groups]
    return kept, [row for row in rows if row["group"] in held_groups]


def keep_best(best, score, model, **info):
    """If `score` beats best["score"], remember it, the info and the model's weights in `best`. Of equals the first."""
    if score > best["score"]:
        best.update(score=score, weights=copy_weights(model), **info)


def fit_best_epoch(model, tokenizer, ids, columns, loss_fn, held_ids, score_fn, args, device):
    """
    Fine-tune, and keep the weights of the epoch with the best score on held-out rows.

    ids, columns   N lists of ids, {name: (N, ...) float32}: the batches of batch_maker, for loss_fn (see fit)
    held_ids       M lists of ids
    score_fn       (epoch, (M, 2) soft labels of the held-out rows) -> a number, larger is better
    returns        {"epoch", "score"} of the best epoch; `model` has its weights
    """
    best = {"score": -float("inf")}

    def after_step(step, steps):
        if step % (steps // args.epochs) == 0:
            epoch = step * args.epochs // steps
            score = score_fn(epoch, predict(model, tokenizer, held_ids, device, args.dtype))
            keep_best(best, score, model, epoch=epoch)

    make_batch = batch_maker(ids, tokenizer, device, **columns)
    fit(model, [len(i) for i in ids], make_batch, loss_fn, args, device, after_step=after_step)
    restore_weights(model, best["weights"])
    return {"epoch": best["epoch"], "score": best["score"]}


# --------------------------------------------------------------------------- another task


def add_also_flag(parser):
    parser.add_argument("--also", type=task_name, default="", metavar="TASK",
                        help="label test of this task, too: is what was learned of any use there?")


def also_files(args):
    """The files that --also reads, checked -> paths"""
    return [os.path.join(ROOT, "data", args.also, "test.jsonl")] if read_also(args) else []


# --------------------------------------------------------------------------- the stage


def train_supervisor(rows, words, args, device):
    """
    Fine-tune on rows with labels; a tenth of the questions chooses the epoch.

    returns   (model, tokenizer, max_length, fit_best_epoch's {"epoch", "score"}; the score is accuracy)
    """
    import torch
    torch.manual_seed(args.seed)
    model, tokenizer, max_length = load_classifier(args.model, args.head, words, device, args, is_pair(rows[0]))
    model, restore_ordinary = prepare_for_training(model, args)
    kept, held = split_held_out(rows, args.seed)
    if not kept:
        fail(f"data/{args.task}/train1.jsonl: one group is too few to train on and to choose the epoch by")
    ids = tokenize(tokenizer, kept, max_length)
    held_ids = tokenize(tokenizer, held, max_length)
    truth = to_soft_labels([row["label"] for row in kept])
    held_labels = [row["label"] for row in held]
    print(f"data: {len(kept):,} rows of train1 to train on ({truth[:, 1].mean():.1%} yes), {len(held):,} to choose "
          "the epoch by")
    print(f"one example, exactly as the model sees it:\n  {show_ids(tokenizer, ids[0])} -> truth {kept[0]['label']}")

    def held_out_accuracy(epoch, soft_labels):
        held_accuracy = accuracy(soft_labels[:, 1], held_labels)
        print(f"epoch {epoch}: accuracy {held_accuracy:.3f} on {len(held):,} held-out rows")
        return held_accuracy
    best = fit_best_epoch(model, tokenizer, ids, {"soft_labels": truth}, soft_label_loss, held_ids, held_out_accuracy,
                          args, device)
    return restore_ordinary(), tokenizer, max_length, best


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_flags(parser, out="weak")
    add_model_flags(parser, model="tiny-1a")
    add_training_flags(parser, epochs=3)
    add_also_flag(parser)
    return parser


def main(argv=None):
    parser = build_parser()
    args = parser.parse_args(argv)
    started = time.time()
    files, words = read_task(args.task, pairs=True)
    truth_folder = os.path.join(ROOT, "data", args.task, "truth")
    # a run is finished if it had this identity and these contents of its inputs; it must not overwrite its sources
    identity = {"role": "supervisor", **vars(args)}
    inputs = [*files, *also_files(args), model_folder(args.model)]
    folder, config = describe_run(__file__, parser, args, identity, inputs, [truth_folder], words_of_head(words, args))
    if is_finished(folder, config, args.force):
        return
    with open_run(folder):
        device = pick_device(args.device)
        train1 = read_rows(args.task, "train1", args.max_rows)
        model, tokenizer, max_length, best = train_supervisor(train1, words, args, device)

        # only now are rows of test read: to label them like the other splits, and to measure the labels
        train2, valid, test = (read_rows(args.task, split, args.max_rows) for split in ("train2", "valid", "test"))
        rows = train2 + valid + test
        soft_labels = predict(model, tokenizer, tokenize(tokenizer, rows, max_length), device, args.dtype)
        scores = all_metrics(soft_labels[-len(test):], test)
        line = format_metrics("supervisor", scores)
        also = read_also(args)
        if also:
            also_labels = predict(model, tokenizer, tokenize(tokenizer, also, max_length), device, args.dtype)
            rows = rows + also
            soft_labels = np.concatenate([soft_labels, also_labels])
            also_scores = all_metrics(also_labels, read_rows(args.also, "test", args.max_rows))
            line += f" | on {args.also} {also_scores['accuracy']:.3f}"
        save_checkpoint(folder, model, tokenizer)
        write_labels(folder, rows, soft_labels)
        write_results(folder, config, device, started, line, test=scores, best_epoch=best["epoch"],
                      held_out_accuracy=best["score"])


if __name__ == "__main__":
    run_script(main)
