"""A small Mamba learns to copy, and gradient estimates on it are compared with exact effects.

    python scripts/train_mamba.py            # trains about a minute, then prints a table
    python scripts/train_mamba.py --steps 0  # random weights

Edges are compared, too: `eap`, `eap-ig`, and `eap-ig` as a published notebook has it ("current difference"), where the
difference of a layer's write is the corrupted run's minus that of the run at this point of the path, and so shrinks
along the path, in the place of the corrupted run's minus the clean run's. That variant is in no library; it is made
here by plain hooks.

A prompt is eight different tokens and the first few of them again; what comes next is to be said (induction). In the
corrupted prompt the token that is to be said was another one. r is Pearson's over all pairs and units; wrong signs are
counted among effects of at least one percent of the gap; "worst" is the largest error, in units of the gap.
"""

from __future__ import annotations

import argparse
import random
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import transformers
from transformers import MambaConfig, MambaForCausalLM

import veracausa as vc
from veracausa.anatomy import decoder_of
from veracausa.model import Model
from veracausa.tasks.task import Task

VOCABULARY, HALF, LAYERS = 24, 8, 3
#: Effects below this share of the gap have no sign to speak of.
SMALL = 0.01


def sequences(rows: int, generator: torch.Generator) -> torch.Tensor:
    """Rows of different tokens, twice."""
    drawn = torch.rand(rows, VOCABULARY - 1, generator=generator).argsort(1)[:, :HALF] + 1
    return torch.cat([drawn, drawn], 1)


def made(seed: int) -> MambaForCausalLM:
    """A Mamba with random weights."""
    torch.manual_seed(seed)
    config = MambaConfig(
        vocab_size=VOCABULARY, hidden_size=48, num_hidden_layers=LAYERS, state_size=8, conv_kernel=4, time_step_rank=4,
        residual_in_fp32=False, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return MambaForCausalLM(config)


def train(model: MambaForCausalLM, steps: int, seed: int = 0) -> float:
    """Teach it; gives the share of tokens of the second half that it says right."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=max(steps, 1))
    right = 0.0
    for step in range(steps):
        ids = sequences(64, generator)
        logits = model(input_ids=ids, use_cache=False).logits[:, HALF:-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, HALF + 1 :].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        right = float((logits.argmax(-1) == ids[:, HALF + 1 :]).float().mean())
        if step % 100 == 99:
            print(f"step {step + 1}: loss {float(loss.detach()):.3f}, right {right:.0%}", flush=True)
    return right


def pairs(count: int, seed: int = 1) -> Task:
    """Prompts that end behind a repeated token, and the same with another token at the place that is to be copied."""
    generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    clean, corrupted, correct, incorrect = [], [], [], []
    for row in sequences(count, generator).tolist():
        told = 5
        other = rng.choice([token for token in range(1, VOCABULARY) if token not in row])
        prompt = row[: HALF + told]
        clean.append(tuple(prompt))
        corrupted.append(tuple(other if i == told else token for i, token in enumerate(prompt)))
        correct.append((row[told],))
        incorrect.append((other,))
    return Task("copying", tuple(clean), tuple(corrupted), tuple(correct), tuple(incorrect))


def compared(lm: Model, task: Task, name: str) -> Iterator[str]:
    """Rows of the table."""
    gap = float(lm.measure(task).gap.abs().mean())
    for units in ("mixers", "mixers@positions", "channels"):
        for ablation, baseline in (("counterfactual", "corrupted"), ("zero", "zero")):
            exact = vc.exact(lm, task, units=units, ablation=ablation, show_progress=False).values.numpy().ravel()
            for method in ("atp", "ig"):
                options = {"units": units, "method": method, "baseline": baseline, "show_progress": False}
                estimate = vc.attribute(lm, task, **options).values.numpy().ravel()  # type: ignore[arg-type]
                large = np.abs(exact) >= SMALL * gap
                wrong = (np.sign(estimate) != np.sign(exact)) & large
                r = np.corrcoef(estimate, exact)[0, 1]
                worst = np.abs(estimate - exact).max() / gap
                yield (
                    f"| {name} | {units} | {ablation} | {method} | {len(exact):,} | {r:.3f} | "
                    f"{wrong.sum():,} of {large.sum():,} | {worst:.2f} |"
                )


def compared_edges(lm: Model, task: Task, name: str) -> Iterator[str]:
    """Rows of the table, of edges between layers."""
    gap = float(lm.measure(task).gap.abs().mean())
    exact = vc.exact(lm, task, units="edges", show_progress=False).values.numpy()
    estimates = {
        method: vc.attribute(lm, task, units="edges", method=method, show_progress=False).values.numpy()  # type: ignore[arg-type]
        for method in ("eap", "eap-ig")
    }
    ours, estimates["eap-ig, current difference"] = by_hooks(lm, task, False), by_hooks(lm, task, True)
    assert np.abs(ours - estimates["eap-ig"]).max() < 1e-3 * gap, "plain hooks say otherwise"
    for method, estimate in estimates.items():
        large = np.abs(exact) >= SMALL * gap
        wrong = (np.sign(estimate) != np.sign(exact)) & large
        r = np.corrcoef(estimate.ravel(), exact.ravel())[0, 1]
        slope = (estimate * exact).sum() / (exact * exact).sum()
        yield (
            f"| {name} | {method} | {exact.size:,} | {r:.3f} | {slope:.2f} | {wrong.sum():,} of {large.sum():,} | "
            f"{np.abs(estimate - exact).max() / gap:.2f} |"
        )


def by_hooks(lm: Model, task: Task, current: bool, points: int = 5) -> np.ndarray:
    """Scores of all edges by `eap-ig`, [pairs, edges], by plain hooks; `current`: see the module."""
    hf = lm.hf
    clean, corrupted = (hf.backbone.embeddings(torch.tensor(side)).detach() for side in (task.clean, task.corrupted))
    (first, _), (last, _) = (_at(hf, end, task) for end in (clean, corrupted))
    writer, reader = lm.graph.edges
    scores = torch.zeros(len(task), len(writer))
    for k in range(points):
        own, slopes = _at(hf, corrupted + k / points * (clean - corrupted), task)
        for edge, (w, r) in enumerate(zip(writer.tolist(), reader.tolist(), strict=True)):
            difference = last[w] - (own[w] if current and w else first[w])
            scores[:, edge] += (difference * slopes[r]).sum((1, 2)) / points
    return scores.numpy()


def _at(hf: Any, embedded: torch.Tensor, task: Task) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What the embeddings and each layer write, and ∂M/∂(what each layer, and the last norm, sees) in this run."""
    writes, leaves, handles = [embedded], [], []
    for norm in (*(block.norm for block in hf.backbone.layers), hf.backbone.norm_f):
        leaves.append(torch.zeros_like(embedded, requires_grad=True))
        handles.append(norm.register_forward_pre_hook(lambda _, args, leaf=leaves[-1]: (args[0] + leaf,)))
    for block in hf.backbone.layers:
        handles.append(block.mixer.register_forward_hook(lambda _, __, output: writes.append(output.detach())))
    logits = hf(inputs_embeds=embedded, use_cache=False).logits[:, -1]
    for handle in handles:
        handle.remove()
    right, wrong = (logits.gather(1, torch.tensor(side)) for side in (task.correct, task.incorrect))
    return writes, list(torch.autograd.grad((right - wrong).sum(), leaves))


def main() -> None:
    """Train, compare, and compare on random weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--pairs", type=int, default=24)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    models = {"random": made(1)}
    if options.steps:
        trained = made(0)
        right = train(trained, options.steps)
        models = {f"trained ({right:.0%} right)": trained} | models
    task = pairs(options.pairs)
    made_of = {
        name: Model(hf.eval(), None, "mamba-copying", "scripts/train_mamba.py", decoder_of(hf))
        for name, hf in models.items()
    }
    print("| model | units | replaced by | estimate | n | r | wrong signs | worst |\n|---|---|---|---|---|---|---|---|")
    for name, lm in made_of.items():
        for row in compared(lm, task, name):
            print(row, flush=True)
    print("\n| model | estimate of edges | n | r | slope | wrong signs | worst |\n|---|---|---|---|---|---|---|")
    for name, lm in made_of.items():
        for row in compared_edges(lm, task, name):
            print(row, flush=True)


if __name__ == "__main__":
    main()
