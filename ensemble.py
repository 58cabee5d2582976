"""
Chapter 4, second half. Many weak supervisors: how do they come to know different things?

Members that err together are one member (fusion.py). Sang et al. (2024, https://arxiv.org/abs/2402.00667, section 3) let supervisors differ in
what they are shown, in what they may look at, or in what they have to repair, and give the student what the crowd says:

    bagging     members learn side by side     by data: each has a bootstrap sample of train1's questions (Breiman 1996)
                                               by features: each head sees a random share of the hidden features
                                               by layers: each is cut off after another block, the deepest first
                                               by models: each starts from another checkpoint, which has read other things
    adaboost    members learn in turn          what was judged wrong so far weighs more (SAMME for two classes, Zhu et al. 2009)
    gradient                                   each fits what is left of the truth, y - p(yes) (Friedman 2001)

$ python train_weak.py                                                       # the single supervisor, to compare with
$ python ensemble.py                                                         # bagging by data: five members, the mean of what they say
$ python ensemble.py --combine dawid-skene --out bagging-ds                  # the same members, another fusion: nothing is trained
$ python ensemble.py --by models --out models                                # tiny-1a, tiny-1b and tiny-1c
$ python ensemble.py --method adaboost --out adaboost
$ python train_strong.py --labels models --ceiling ceiling --out student-models

What is chosen (a member's epoch, how many members are used, weights, temperatures) is chosen on rows of train1 that a member did not learn
from: the questions left out of its bag, or the tenth of train1 that train_weak.py holds out as well. The released code chose on test.

Reads   data/<task>/train1.jsonl with its truth; of train2, valid and test the texts; test's labels when all is settled
Writes  data/<task>/seed<seed>/ensemble/{config.json, labels.jsonl, results.json}, a supervisor's folder but for the checkpoint: its members lie in
        data/<task>/seed<seed>/members-.../member-k/{checkpoint/, labels.jsonl, member.json}, trained once for all fusions and sizes, and each takes
        the disk space of its checkpoint (tiny-1a 3.6 MB, gpt2 0.5 GB). labels.jsonl also has the members' disagreement on each row.

Simpler than the paper, on purpose: a bag holds as many questions as there are (they try several sizes), and layers are those of one model.
"""
import argparse, copy, functools, hashlib, json, os, shutil, time

from contract import (ROOT, add_common_flags, begin, fail, finish, hold, model_folder, number, outputs, read_labels, read_rows, read_task,
                      run_folder, save_checkpoint, start, write_file, write_labels, writing)
from fusion import disagreement, learn_recipe, line_search, log_odds, mix, temper, yes
from measure import bootstrap
from train_weak import accuracy, fit, hold_out, load_model, metrics, pick_device, predict, prepare_for_training, right, say, soft_xent, tokenise


# --------------------------------------------------------------------------- the maths

def draw_questions(groups, rng):
    """
    A bootstrap sample: as many questions as there are, drawn with replacement. A row drawn three times is not read three times but weighs
    three times as much: the same loss, in two thirds of the time.

    groups    N, the question of each row
    returns   (N,) how often each row was drawn; for 1/e = 36.8 % of the questions, on average, that is never: they are out of the bag
    """
    import numpy as np
    names, member = np.unique(groups, return_inverse=True)
    return rng.multinomial(len(names), np.full(len(names), 1 / len(names)))[member]


def adaboost(wrong):
    """
    What the members' mistakes make members and rows weigh.

    wrong     (M, n) bool: member m, trained under the weights that the members before it left, judges row n wrong
    returns   (members' weights ln((1 - e) / e), their weighted errors e, (n,) row weights for the next member, which sum to 1)

    Rows judged right are multiplied by 1 / (2 (1 - e)), rows judged wrong by 1 / (2 e): under the new weights the last member is
    right half of the time, so the next one has to know something else. Two kinds of member end it. One with e = 0 has left nothing to
    learn: it counts as if half a row were wrong (smoothing as in Schapire and Singer 1999). One with e >= 1/2 is no better than a coin: it
    weighs 0 (Freund and Schapire 1997).

    >>> alphas, errors, weights = adaboost([[True, False, False, False]])
    >>> [round(a, 3) for a in alphas], errors, weights.round(3).tolist()             # ln 3; a quarter; half of all weight on the mistake
    ([1.099], [0.25], [0.5, 0.167, 0.167, 0.167])
    """
    import numpy as np
    wrong = np.asarray(wrong, bool)
    alphas, errors, weights = [], [], np.full(wrong.shape[1], 1 / wrong.shape[1])
    for missed in wrong:
        e = float(weights[missed].sum())
        errors.append(e)
        if not 0 < e < 0.5:
            alphas.append(0.0 if e else float(np.log(2 * len(weights) - 1)))
            break
        alphas.append(float(np.log((1 - e) / e)))
        weights = weights * np.where(missed, 1 / (2 * e), 1 / (2 * (1 - e)))
        weights /= weights.sum()                           # 1 already, but for rounding
    return alphas, errors, weights


def gradient(h, y, held):
    """
    Gradient boosting with logistic loss: f = s_0 h_0 + s_1 h_1 + ..., each h fitted by least squares to the pseudo-residuals y - p(yes) that the
    ones before it left, each step s found by line search.

    h         (M, N) the members' directions on train1, y (N,) its truth
    held      (N,) bool, rows that no member learned from: the search runs there. A network knows its own rows too well, no step would be too long
    returns   (M steps, (N,) residuals for the next member)
    """
    import numpy as np
    f, steps = np.zeros(len(y)), []
    for direction in h:
        steps.append(line_search(f[held], direction[held], y[held]))
        f = f + steps[-1] * direction
    return steps, y - yes(f)


def gradient_released(h, y, held):
    """
    What the authors' code does in its place, with squared error: the first member fits y itself; f = 0.2 h_0, later f <- (f + 0.2 h) / 2, and
    later members fit 2 (y - f). It then predicts not with f but with the plain mean of all h, cut to [0, 1]. Signature as above; held is not used.
    """
    import numpy as np
    f, target = np.zeros(len(y)), np.asarray(y, float)
    for k, direction in enumerate(h):
        f = 0.2 * direction if k == 0 else (f + 0.2 * direction) / 2
        target = 2 * (y - f)
    return [1 / len(h)] * len(h) if len(h) else [], target


def how_many(losses, groups):
    """
    How many members to use. Averaging more costs nothing but time, and a few rows judge by chance: the largest number that is not worse
    than the best number by more than one standard error of their difference (our choice; the released code takes the best on test).

    losses   (M, n) loss of the first 1, 2, ... M members together, on the same n held-out rows, which are of these groups -> 1 to M
    """
    import numpy as np
    member = np.unique(groups, return_inverse=True)[1]
    excess = losses - losses[losses.mean(1).argmin()]                          # (M, n)
    se = [np.sqrt((np.bincount(member, d - d.mean()) ** 2).sum()) / len(d) for d in excess]
    return max(m for m in range(1, len(losses) + 1) if excess[m - 1].mean() <= se[m - 1])


# --------------------------------------------------------------------------- one member

def cut_layers(model, keep):
    """Without its last blocks: the first `keep` remain, and the final norm: an ordinary, smaller transformers model."""
    import torch
    config, base = model.config, model.base_model
    for name, blocks in base.named_modules():
        if isinstance(blocks, torch.nn.ModuleList) and len(blocks) == config.num_hidden_layers:
            parent, _, leaf = name.rpartition(".")
            setattr(base.get_submodule(parent), leaf, blocks[:keep])
            config.num_hidden_layers = keep
            if getattr(config, "layer_types", None):
                config.layer_types = config.layer_types[:keep]
            return
    fail("--by layers: this model does not keep its blocks in one list; take another --by")


def shape_member(model, by, share, rng, k):
    """
    Member k's body and head, made from the whole model in place -> a function to be called with what will be trained.

    by features: the head's other columns are 0, and, their gradient being 0 too, stay so.
    """
    import torch
    if by == "layers":
        n = model.config.num_hidden_layers
        cut_layers(model, n - k % n)                       # once through all layers, only the order of the rows still differs
    if by != "features":
        return lambda moving: None
    if not isinstance(getattr(model, "score", None), torch.nn.Linear):
        fail("--by features needs a decoder, whose head is one linear layer; take another --by")
    head = model.score.weight                              # (2, C)
    visible = torch.tensor(rng.permutation(head.shape[1]) < max(1, round(share * head.shape[1])), dtype=head.dtype, device=head.device)
    head.data *= visible
    return lambda moving: [p.register_hook(lambda grad: grad * visible) for p in moving.parameters() if p.shape == head.shape and p.requires_grad]


def weighted(logits, labels):
    """Cross entropy. labels (B, 3): a soft label, and what the row weighs -> (B,)"""
    return labels[:, 2] * soft_xent(logits, labels[:, :2])


def squares(logits, labels):
    """labels (B, 1): a number to predict -> (B,). A quarter of the log odds predicts it: near 0 that is p(yes) - 1/2, so the head starts well."""
    return ((logits[:, 1] - logits[:, 0]) / 4 - labels[:, 0]) ** 2


def lesson(method, p, truth, times):
    """
    What the next member is to learn.

    p, truth, times   (M, N1, 2), (N1,), (N1,): what members say of train1 so far, its truth, how often each row is to be learned from (0: held out)
    returns           (labels (N1, K), a loss that reads them, how good an epoch is: soft labels of the held out -> a number, the higher the better)
    """
    import numpy as np
    held = times == 0
    if method in BOOST:
        offset = 0.0 if method == "gradient" else 0.5      # as released a member says p(yes), otherwise a correction
        goal = BOOST[method](offset + log_odds(p) / 4, truth, held)[1] - offset
        return goal[:, None].astype(np.float32), squares, lambda soft: -float(np.mean((log_odds(soft) / 4 - goal[held]) ** 2))
    weights = times.astype(float)
    if method == "adaboost":
        weights[~held] = adaboost(right(p[:, ~held, 1], truth[~held]) < 1)[2]
    weights *= (~held).sum() / weights.sum()               # 1 on average
    return np.column_stack([1 - truth, truth, weights]).astype(np.float32), weighted, lambda soft: accuracy(soft[:, 1], truth[held])


BOOST = {"gradient": gradient, "gradient-released": gradient_released}


def train_member(k, opened, times, labels, loss, quality, args, folder, everything):
    """
    Member k, fine-tuned on the rows of train1 with times > 0; the others choose its epoch; then it labels everything.

    opened    (model as it was loaded, tokenizer, ids of everything, device): the model is copied, not loaded again
    """
    import numpy as np, torch
    pristine, tokenizer, ids, device = opened
    torch.manual_seed(1000 * args.seed + k)                # --lora starts from noise
    model = copy.deepcopy(pristine)
    ready = shape_member(model, args.by, args.share, np.random.default_rng([args.seed, k]), k)
    moving, ordinary = prepare_for_training(model, args)
    ready(moving)
    held_ids, best = [ids[i] for i in np.flatnonzero(times == 0)], {"quality": -float("inf")}

    def keep_the_best(step, steps):
        if step % (steps // args.epochs):
            return
        reached = quality(predict(moving, tokenizer, held_ids, device, args.dtype))
        if reached > best["quality"]:                      # the earliest of equals
            best.update(quality=reached, epoch=step * args.epochs // steps, weights={n: v.to("cpu", copy=True) for n, v in moving.state_dict().items()})

    own = argparse.Namespace(**vars(args) | {"seed": [args.seed, k]})          # every member meets its rows in an order of its own
    fit(moving, tokenizer, [ids[i] for i in np.flatnonzero(times)], labels[times > 0], own, device, loss=loss, after_step=keep_the_best)
    moving.load_state_dict(best["weights"])
    model = ordinary()
    save_checkpoint(folder, model, tokenizer)
    write_labels(folder, everything, predict(model, tokenizer, ids, device, args.dtype))
    return best["epoch"]


def is_trained(folder, config):
    """member.json says the same configuration, and what the member left is as it left it."""
    try:
        with open(os.path.join(folder, "member.json"), encoding="utf-8") as f:
            member = json.load(f)
        return member["config"] == config and member["outputs"] == outputs(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return False


# --------------------------------------------------------------------------- the story

def grow(args, names, words, device, rows, others, config, home):
    """All members, one after the other; those that are there already are read. -> (M, N, 2) soft labels of rows and others, there (M, N1) bool"""
    import numpy as np
    everything, truth, groups = rows + others, np.array([row["label"] for row in rows]), [row["group"] for row in rows]

    @functools.lru_cache(maxsize=1)
    def opened(name):                                      # loaded and tokenised once for all members of a checkpoint
        model, tokenizer, longest = load_model(name, args.head, words, device, args.trust_remote_code)
        return model, tokenizer, tokenise(tokenizer, everything, longest), device

    tenth = np.isin([row["id"] for row in rows], [row["id"] for row in hold_out(rows, args.seed)[1]])      # the one that train_weak.py holds out too
    p, there = np.empty((0, len(everything), 2)), np.empty((0, len(rows)), bool)
    for k in range(args.members):
        times = (~tenth).astype(int)
        if (args.method, args.by) == ("bagging", "data"):
            times = draw_questions(groups, np.random.default_rng([args.seed, k]))
        held = times == 0
        if held.all() or not held.any():
            fail(f"data/{args.task}/train1.jsonl has too few groups: members must learn from some and be judged by others")
        folder, mine = os.path.join(home, f"member-{k}"), config | {"member": k}
        if args.method != "bagging" and k:                 # it repairs what this one left
            mine["after"] = outputs(os.path.join(home, f"member-{k - 1}"))["labels.jsonl"]
        if args.force or not is_trained(folder, mine):
            what = lesson(args.method, p[:, :len(rows)], truth, times)
            hold(home)                                     # ensembles that differ in their fusion alone share it
            with writing(folder):
                shutil.rmtree(folder, ignore_errors=True)
                os.makedirs(folder)
            epoch = train_member(k, opened(names[k % len(names)]), times, *what, args, folder, everything)
            write_file(os.path.join(folder, "member.json"), json.dumps({"config": mine, "epoch": epoch, "outputs": outputs(folder)}, indent=1))
            print(f"member {k}: trained on {(~held).sum():,} rows; of {args.epochs} epochs number {epoch} was best on {held.sum():,} others")
        p = np.concatenate([p, read_labels(folder, everything)[None].astype(float)])
        there = np.concatenate([there, held[None]])
        if args.method == "adaboost":
            e = adaboost(right(p[:, :len(rows)][:, ~held, 1], truth[~held]) < 1)[1][-1]
            print(f"member {k}: weighted error {e:.3f}; wrong on {1 - accuracy(p[k, :len(rows)][~held, 1], truth[~held]):.3f} of the rows it learned "
                  f"from, on {1 - accuracy(p[k, :len(rows)][held, 1], truth[held]):.3f} of those it did not")
            if not 0 < e < 0.5:
                print("boosting ends here: " + ("no better than a coin" if e else "nothing is left to learn"))
                keep = k + 1 if e == 0 or k == 0 else k
                return p[:keep], there[:keep]
    return p, there


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_flags(parser, model="tiny-1a", out="ensemble", epochs=3)
    parser.add_argument("--method", default="bagging", choices=["bagging", "adaboost", *BOOST], help="how members come about; gradient-released: see there")
    parser.add_argument("--by", default="data", choices=["data", "features", "layers", "models"], help="in what members differ")
    parser.add_argument("--members", type=number(int, 1, 1000), default=5, help="train so many; how many of them are used is chosen on held-out rows")
    parser.add_argument("--models", default="tiny-1a,tiny-1b,tiny-1c", help="--by models: their names, taken in turn")
    parser.add_argument("--share", type=number(float, 0.001, 1.0), default=0.5, help="--by features: share of the hidden features that a head sees")
    parser.add_argument("--combine", default="own", choices=["own", "mean", "vote", "loglik", "dawid-skene", "bma"],
                        help="the fusion; own: the mean for bagging, for boosting its own weights or steps")
    parser.add_argument("--calibrate", action="store_true", help="a temperature for each member, from held-out rows, before mixing")
    parser.add_argument("--single", default="", help="the supervisor to compare with (default: weak, if it is there)")
    args = parser.parse_args()
    started = time.time()
    if args.method in BOOST and (args.combine != "own" or args.calibrate):
        fail("members of gradient boosting are corrections, not judges: --combine and --calibrate are not for them")
    names = [name.strip() for name in args.models.split(",")] if args.by == "models" else [args.model]
    args.model, args.models, args.share = ",".join(names), None, args.share if args.by == "features" else None
    args.combine = {"bagging": "mean"}.get(args.method, args.method) if args.combine == "own" else args.combine
    files, words = read_task(args.task)
    splits = {split: read_rows(args.task, split, args.max_rows) for split in ("train2", "valid", "test")}
    others = [{key: row[key] for key in ("id", "group", "text")} for split in splits.values() for row in split]      # nobody looks at test's labels yet
    n_test = len(splits.pop("test"))
    single = run_folder(args.single or "weak", args.task, args.seed)
    if args.single or os.path.exists(os.path.join(single, "labels.jsonl")):
        args.single = args.single or "weak"
        read_labels(single, others[-n_test:])
    compared = [os.path.join(single, "labels.jsonl")] if args.single else []
    folder, config = start(args, [*files, *map(model_folder, names), *compared], [single, os.path.join(ROOT, "data", args.task, "truth")])

    import numpy as np
    device, why = pick_device(args.device)
    print(f"device: {device} ({why})")
    rows = read_rows(args.task, "train1", args.max_rows)
    n1, truth, groups = len(rows), np.array([row["label"] for row in rows]), np.array([row["group"] for row in rows])
    # members do not depend on how they are mixed, nor on how many there are
    key = {k: v for k, v in config.items() if k not in ("combine", "calibrate", "members", "single")}
    key["inputs"] = {name: v for name, v in key["inputs"].items() if not name.endswith("labels.jsonl")}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:8]
    home = os.path.join(os.path.dirname(os.path.abspath(folder)), f"members-{args.method}-{args.by}-{digest}")
    p, there = grow(args, names, words, device, rows, others, key, home)
    begin(folder, config)

    # the first 1, 2, ... members together, judged on the rows that the first did not learn from, by those who did not either
    judged, recipes, curve = there[0], [], []
    for m in range(1, len(p) + 1):
        if args.method in BOOST:
            recipe = {"combine": args.method, "steps": BOOST[args.method](log_odds(p[:m, :n1]) / 4, truth, judged)[0]}
        else:                                              # AdaBoost's weights come from the rows it learned from
            alphas = adaboost(right(p[:m, :n1][:, ~judged, 1], truth[~judged]) < 1)[0] if args.combine == "adaboost" else None
            alphas = alphas if alphas and any(alphas) else None
            recipe = learn_recipe(args.combine, p[:m, :n1], truth, there[:m], right(p[:m, n1:-n_test, 1], 1), args.calibrate, alphas)
        own = mix(p[:m, :n1], recipe, there[:m])[judged, 1]
        recipes.append(recipe)
        curve.append({"members": m, "held_out_accuracy": accuracy(own, truth[judged]), "held_out_brier": (own - truth[judged]) ** 2})
    used = how_many(np.array([c["held_out_brier"] for c in curve]), groups[judged])
    recipe = recipes[used - 1]
    soft_labels = mix(p[:used, n1:], recipe).astype(np.float32)
    said = temper(p[:used, n1:], recipe["temperatures"]) if args.calibrate else p[:used, n1:]
    write_labels(folder, others, soft_labels, None if args.method in BOOST else {"disagreement": disagreement(said)})

    # all is settled; only now are the labels of test read
    test = read_rows(args.task, "test", args.max_rows)
    on_test, scores = soft_labels[-n_test:], metrics(soft_labels[-n_test:], test)
    for c, r in zip(curve, recipes):
        c["held_out_brier"] = float(c["held_out_brier"].mean())
        c["test"] = {key: value for key, value in metrics(mix(p[:c["members"], -n_test:], r), test).items() if key in ("accuracy", "auroc", "ece")}
    judges = p[:1] if args.method in BOOST else p          # what corrects others is no judge by itself
    held_out = [accuracy(soft[:n1][ok, 1], truth[ok]) for soft, ok in zip(judges, there)]
    members = [{"held_out_accuracy": h, "test": metrics(soft[-n_test:], test)} for h, soft in zip(held_out, judges)]
    for k, member in enumerate(members):
        print(f"{say(f'member {k}', member['test'])} | held out {member['held_out_accuracy']:.3f}")
    best, gains = int(np.argmax(held_out)), {}
    rivals = {f"the best member, {best} by held-out rows": p[best, -n_test:]}
    if args.single:
        rivals[f"the single supervisor, {args.single}"] = read_labels(single, test)
    for name, rival in rivals.items():
        hits = [right(soft[:, 1], [row["label"] for row in test]) for soft in (on_test, rival)]
        draws = bootstrap([hits], [row["group"] for row in test])
        low, high = np.percentile(draws[:, 0] - draws[:, 1], [2.5, 97.5])
        gains[name] = {"gain": float(hits[0].mean() - hits[1].mean()), "interval": [float(low), float(high)]}
        print(f"gain over {name}: {gains[name]['gain']:+.3f} [{low:+.3f}, {high:+.3f}]")
    finish(folder, config, device, started, say(f"supervisor ({args.combine} of {used} of {len(p)} members)", scores), test=scores, members_used=used,
           recipe=recipe, curve=curve, members=members, gains=gains, members_folder=os.path.basename(home))


if __name__ == "__main__":
    main()
