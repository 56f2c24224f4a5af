"""What every preset takes in seconds, against as many passes of the bare model as it counts in token-layers.

    reference = full forward-backward passes of the bare model over the clean prompts (parameters frozen, one batch,
    the metric read off the logits at the last position), a forward token-layer counted as one, a backward one as one

The second table is EAP-IG on nodes with five points against five such passes one after the other: points in the batch
and the shared prefix must make it at least 2.5 times faster, with the same numbers.

    python benchmarks/methods.py
"""

from __future__ import annotations

import torch
from common import header, seconds, table

import veracausa as vc
from veracausa.estimates.presets import PRESETS
from veracausa.tasks.task import Task

PAIRS = 32

#: Not here: the geodesic path, whose second derivatives have no pass of the bare model to compare with.
NAMES = [name for name in PRESETS if name != "geodesic-ig"]


def late_pairs(lm: vc.Model) -> Task:
    """IOI pairs of 18 tokens that first differ at position 13, where the second name is repeated."""
    task = vc.tasks.ioi(lm, n=256, seed=0)
    late = [
        i
        for i, (x, y) in enumerate(zip(task.clean, task.corrupted, strict=True))
        if len(x) == 18 and x[:13] == y[:13] and x[13] != y[13]
    ]
    return task[late[:PAIRS]]


def metric(logits: torch.Tensor, task: Task) -> torch.Tensor:
    """Sum of logit differences at the last position."""
    answers, rows = task.answers(), torch.arange(len(task))
    last = logits[:, -1]
    return (last[rows, answers.tokens[:, 0]] - last[rows, answers.tokens[:, 1]]).sum()


def one_pass(lm: vc.Model, task: Task) -> None:
    """A forward-backward pass over the clean prompts."""
    embeddings = lm.decoder.embeddings(torch.tensor(task.clean)).detach().requires_grad_()
    metric(lm.hf(inputs_embeds=embeddings, logits_to_keep=1).logits, task).backward()


def five_passes(lm: vc.Model, task: Task) -> torch.Tensor:
    """EAP-IG of heads by whole passes: one for each of the five points, one after the other; scores [pairs, heads]."""
    clean, corrupted = (lm.decoder.embeddings(torch.tensor(ids)).detach() for ids in (task.clean, task.corrupted))
    values: dict[str, list[torch.Tensor]] = {}

    def watch(name: str) -> list:
        values[name] = []
        keep = lambda _, args: values[name].append(args[0])  # noqa: E731
        return [block.attention_out.register_forward_pre_hook(keep) for block in lm.decoder.blocks]

    for name, embeddings in (("clean", clean), ("corrupted", corrupted)):
        handles = watch(name)
        with torch.no_grad():
            lm.hf(inputs_embeds=embeddings, logits_to_keep=1)
        for handle in handles:
            handle.remove()
    gradients = [torch.zeros_like(z) for z in values["clean"]]
    for k in range(5):
        handles = watch("point")
        point = (corrupted + k / 5 * (clean - corrupted)).requires_grad_()
        found = torch.autograd.grad(metric(lm.hf(inputs_embeds=point, logits_to_keep=1).logits, task), values["point"])
        for total, gradient in zip(gradients, found, strict=True):
            total += gradient / 5
        for handle in handles:
            handle.remove()
    scores = [
        ((y - x) * g).sum(1).unflatten(-1, (lm.heads, -1)).sum(-1)
        for x, y, g in zip(values["clean"], values["corrupted"], gradients, strict=True)
    ]
    return torch.cat(scores, 1)


def main() -> None:
    lm = vc.load("smollm2-135m", device="cpu")
    for parameter in lm.hf.parameters():
        parameter.requires_grad_(False)
    print(header("python benchmarks/methods.py"))
    task = late_pairs(lm)
    print(f"\n{len(task)} IOI pairs of 18 tokens that first differ at position 13, heads, SmolLM2-135M, float32.\n")
    bare = seconds(lambda: one_pass(lm, task))
    layers = 2 * sum(task.lengths) * lm.layers
    rows = []
    for name in NAMES:
        scores = vc.attribute(lm, task, method=name, show_progress=False)
        took = scores.cost.seconds
        if took < 20:
            took = seconds(lambda name=name: vc.attribute(lm, task, method=name, show_progress=False), 2)
        passes = scores.cost.token_layers / layers
        ratio = took / bare / passes
        rows.append([name, f"{scores.cost.token_layers:,}", f"{passes:.2f}", f"{took:.2f}", f"{ratio:.2f}"])
    print(f"One forward-backward pass of the bare model: {bare:.2f} s.\n")
    print(table(["preset", "token-layers", "= passes", "seconds", "seconds / those passes"], rows))
    print()
    rows = []
    ours = vc.attribute(lm, task, method="eap-ig", show_progress=False)
    theirs = five_passes(lm, task)
    error = float((ours.values - theirs).abs().max() / ours.gap.abs().mean())
    slow = seconds(lambda: five_passes(lm, task), 2)
    fast = seconds(lambda: vc.attribute(lm, task, method="eap-ig", show_progress=False), 2)
    rows.append(["eap-ig, 5 points", f"{slow:.2f}", f"{fast:.2f}", f"{slow / fast:.2f}×", f"{error:.1e}"])
    print(table(["", "five passes s", "vc.attribute s", "ratio", "largest difference / gap"], rows))


if __name__ == "__main__":
    main()
