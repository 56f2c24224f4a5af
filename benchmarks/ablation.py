"""Prompts per second of an ablation study: units one at a time, greedy answers, against Hugging Face's `generate`.

    python benchmarks/ablation.py [--n 10000] [--sample 40] [--busy] [--device cuda] [--out DIR]

Hugging Face's side: `model.generate(max_new_tokens=1)` with a hook that zeroes the head or puts its mean there, one
prompt at a time, and with all prompts of one length in batches of 64; both on a sample of the prompts and of the
conditions, scaled up. Our side is timed whole: recording the reference set for the means, the clean runs, every
condition, and the metric, which is read in the same pass. With fewer prompts the reference set is smaller in
proportion.
On a machine that others use `--busy` takes one thread and counts processor seconds. `--out`: finished pieces are kept
there, and the same command goes on; the study's seconds are then those of all calls.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from common import header, peak_gib, table
from torch import Tensor

import veracausa as vc
from veracausa.engine.guard import hooks

#: The six heads of SmolLM2-135M with the largest exact effect on indirect objects, 16 pairs.
UNITS = ("a23.h3", "a20.h0", "a17.h4", "a29.h1", "a24.h4", "a29.h0")
ABLATIONS = ("zero", "mean")
Clock = Callable[[], float]


def generated(lm: vc.Model, ids: Tensor, name: str, value: Tensor) -> Tensor:
    """Greedy tokens of prompts of one length, with a head's value replaced at every position."""
    layer, head = int(name[1:3]), int(name[-1])
    width = lm.decoder.head_dim
    columns = slice(head * width, (head + 1) * width)

    def replace(_: object, args: tuple) -> tuple:
        changed = args[0].clone()
        changed[..., columns] = value
        return (changed, *args[1:])

    with hooks(lm.hf.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(replace)):
        found = lm.hf.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=False, pad_token_id=0
        )
    return found[:, -1].cpu()


def means(lm: vc.Model, task: vc.Task, reference: vc.Task) -> dict[str, Tensor]:
    """Each head's mean over all positions of the reference set."""
    from veracausa.cost import Cost
    from veracausa.effects.replacements import replacement
    from veracausa.units.resolve import resolve_units

    units = resolve_units(lm, list(UNITS), max(task.lengths))
    source = replacement(lm, task, units, "mean", "noising", reference, 0, Cost())
    width = lm.decoder.head_dim
    found = {}
    for name, layer, head in zip(UNITS, units.layer.tolist(), units.index.tolist(), strict=True):
        found[name] = source.means[layer][0, head * width : (head + 1) * width]  # type: ignore[attr-defined]
    return found


def ours(
    lm: vc.Model, task: vc.Task, reference: vc.Task, clock: Clock, out: Path | None
) -> tuple[vc.behaviour.AblationStudy, float]:
    """The study and its seconds, those of calls that were cut off included."""
    kept, began = None if out is None else out / "seconds.txt", clock()
    before = float(kept.read_text()) if kept is not None and kept.exists() else 0.0
    try:
        study = vc.behaviour.ablation_study(
            lm, task, units=UNITS, ablations=ABLATIONS, together=False, reference=reference, out=out
        )
    finally:
        spent = before + clock() - began
        if kept is not None:
            kept.write_text(f"{spent}")
    return study, spent


def theirs(
    lm: vc.Model,
    task: vc.Task,
    conditions: Sequence[tuple[str, Tensor]],
    size: int,
    groups: Sequence[Sequence[int]],
    clock: Clock,
) -> tuple[float, list[tuple[int, int, int]]]:
    """Prompt-conditions a second, and the answers (condition, prompt, token), of batches of at most `size`."""
    answers, count, spent = [], 0, 0.0
    for members in groups:
        ids = torch.tensor([task.clean[i] for i in members], device=lm.device)
        for c, (name, value) in enumerate(conditions):
            for rows, where in zip(ids.split(size), torch.tensor(members).split(size), strict=True):
                began = clock()
                tokens = generated(lm, rows, name, value)
                spent += clock() - began
                count += len(rows)
                answers += [(c, int(i), int(token)) for i, token in zip(where, tokens, strict=True)]
    return count / spent, answers


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=10_000, help="prompts")
    parser.add_argument("--sample", type=int, default=40, help="prompts that Hugging Face runs one at a time")
    parser.add_argument("--out", type=Path, help="keep finished pieces here, and go on from them")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--busy", action="store_true", help="one thread, processor seconds")
    asked = parser.parse_args()
    clock: Clock = time.process_time if asked.busy else time.perf_counter
    if asked.busy:
        torch.set_num_threads(1)
    lm = vc.load("smollm2-135m", device=asked.device)
    began = clock()
    task = vc.tasks.ioi(lm, n=asked.n, seed=0)
    drawing, before = clock() - began, peak_gib()

    reference = task[: max(1, min(256, asked.n * 256 // 10_000))]
    mean = means(lm, task, reference)
    conditions = [(name, torch.zeros(()) if kind == "zero" else mean[name]) for kind in ABLATIONS for name in UNITS]
    sample = list(range(min(asked.sample, len(task))))
    theirs(lm, task, conditions[:1], 1, [[i] for i in sample[:3]], clock)  # warm
    single, answers = theirs(lm, task, conditions, 1, [[i] for i in sample], clock)
    longest = max(set(task.lengths), key=task.lengths.count)
    batch = [i for i, length in enumerate(task.lengths) if length == longest][:64]
    batched, _ = theirs(lm, task, conditions[::3], 64, [batch], clock)

    study, seconds = ours(lm, task, reference, clock, asked.out)
    peak = peak_gib() - before
    rate = len(task) * len(conditions) / seconds
    wrong = sum(int(study.tokens[1 + c, i, 0]) != token for c, i, token in answers)
    again, _ = theirs(lm, task, conditions, 1, [[i] for i in sample[:10]], clock)

    on = "" if lm.device.type == "cpu" else f" --device {asked.device}"
    if on:
        print(torch.cuda.get_device_name(lm.device))
    print(header(f"python benchmarks/ablation.py --n {asked.n}{' --busy' * asked.busy}{on}"), "\n")
    print(f"{len(task):,} IOI prompts of {min(task.lengths)} to {max(task.lengths)} tokens, made in {drawing:.1f} s; "
          f"{len(UNITS)} heads, {len(ABLATIONS)} ablations; SmolLM2-135M, float32.\n")  # fmt: skip
    slow = (single + again) / 2
    total = len(task) * len(conditions)
    rows = [
        [how, f"{speed:.1f}", f"{total / speed / 60:.1f}", f"{speed / slow:.1f}×"]
        for how, speed in (
            ("generate with a hook, one prompt at a time", slow),
            ("generate with a hook, batches of 64 of one length", batched),
            ("vc.behaviour.ablation_study", rate),
        )
    ]
    print(table(["", "prompts × conditions a second", "minutes for all", "ratio"], rows))
    print(
        f"\nDifferent greedy answers: {wrong} of {len(answers)} compared. Peak memory of the study above what was in "
        f"use before: {peak:.2f} GiB. generate, scaled up: {len(sample)} prompts × {len(conditions)} conditions timed "
        f"before ours ({single:.1f}/s) and {len(sample[:10])} prompts after ({again:.1f}/s)."
    )
    print(f"\n{study.table().round(4).to_string(index=False)}")


if __name__ == "__main__":
    main()
