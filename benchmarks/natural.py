"""What natural text costs beside equal pairs: 8 to 120 tokens, differing anywhere, against as many of one length.

    python benchmarks/natural.py --pairs 512 --only measure --repeat 3
    python benchmarks/natural.py --pairs 512 --count

Prints seconds (of the processor) per token that each pair would take alone: its shared prefix once, the rest twice, and
the rest as often again as a call runs it forward or backward. Both kinds are run in turn; the ratio is that of their
medians, and its range over the turns stands beside it. The text is that of this project's guides, cut anywhere; in the
corrupted prompts one token is another.

`--count` runs nothing: it says how many batches there are, how many tokens they run beside those that each pair would
alone (padding, and positions that a longer partner starts at), how much beginning every pass costs in tokens (`BEGIN`,
weights read once and modules walked once), and which ratio follows. It depends on no machine.
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import veracausa as vc
from veracausa.circuits.runs.tapes import circuit_buckets
from veracausa.cost import Cost
from veracausa.engine.measure import measured_groups
from veracausa.engine.mixing import BEGIN
from veracausa.model import Model
from veracausa.tasks.task import Task

GUIDES = ("decisions.md", "methods.md", "recipes.md", "circuits.md", "receipts.md", "ground-truth.md")
#: Layers whose heads are patched, steps and pairs a step of a mask.
PATCHED, STEPS, BATCH = (10, 15, 20), 10, 24
#: Shares of the edges of the circuits that are run.
SIZES = (0.005, 0.02, 0.05, 0.1)


Groups = list[tuple[int, tuple[int, ...]]]


def estimate(units: str, method: str) -> Callable[[Model, Task], Any]:
    return lambda lm, task: vc.attribute(lm, task, units=units, method=method, show_progress=False)


def heads_of(lm: Model) -> list[str]:
    return [f"a{layer}.h{head}" for layer in PATCHED for head in range(lm.heads)]


def heads(lm: Model, task: Task) -> Any:
    return vc.exact(lm, task, units=heads_of(lm), show_progress=False)


def circuits(lm: Model, task: Task) -> Callable[[], Any]:
    few = pairs(lm, [32] * 4, [8, 12, 16, 20])
    ranking = vc.attribute(lm, few, units="edges", method="eap", show_progress=False)
    return lambda: vc.curve(lm, task, ranking, sizes=SIZES, show_progress=False)


def mask(lm: Model, task: Task) -> Any:
    return vc.estimates.learn_mask(lm, task, units="heads", steps=STEPS, batch=BATCH, show_progress=False)


#: What is called, and how often it runs each pair behind its prefix beside recording it, given pairs and layers.
VERBS: dict[str, tuple[Callable[[Model, Task], Any], Callable[[int, int], float]]] = {
    "measure": (lambda lm, task: lm.measure(task), lambda pairs, layers: 0),
    "atp, heads": (estimate("heads", "atp"), lambda pairs, layers: 1),
    "eap, edges": (estimate("edges", "eap"), lambda pairs, layers: 1),
    "eap-ig, edges": (estimate("edges", "eap-ig"), lambda pairs, layers: 10),
    "exact, heads": (heads, lambda pairs, layers: 9 * sum(layers - one for one in PATCHED) / layers),
    "exact, mlps": (
        lambda lm, task: vc.exact(lm, task, units="mlps", show_progress=False),
        lambda pairs, layers: (layers - 1) / 2,
    ),
    "circuits": (circuits, lambda pairs, layers: 5),
    "mask, heads": (mask, lambda pairs, layers: 2 + 2 * STEPS * min(BATCH, pairs) / pairs),
}


def pairs(lm: Model, lengths: list[int], starts: list[int]) -> Task:
    """Pairs of these lengths that differ at these tokens."""
    docs = Path(__file__).parents[1] / "docs"
    text = " ".join(re.sub(r"```.*?```", "", (docs / name).read_text(), flags=re.S) for name in GUIDES)
    ids, drawn, at = lm.tokenizer(text)["input_ids"], random.Random(1), 0
    clean, corrupted = [], []
    for length, start in zip(lengths, starts, strict=True):
        at = at if at + length <= len(ids) else 0
        own, at = ids[at : at + length], at + length
        other = drawn.choice([token for token in set(ids) if token != own[start]])
        clean.append(tuple(own))
        corrupted.append((*own[:start], other, *own[start + 1 :]))
    return Task("text", tuple(clean), tuple(corrupted), ((5,),) * len(clean), ((7,),) * len(clean))


def groups_of(name: str, lm: Model, task: Task) -> Groups:
    """The pairs that a verb runs together."""
    verb, _, units = name.partition(", ")
    if verb == "measure":
        return measured_groups(lm, task)
    if verb == "circuits":
        return circuit_buckets(lm, task)
    if verb == "mask":
        found: Groups = vc.estimates.learn_mask.work(lm, task, units=units, steps=STEPS, batch=BATCH).groups()
        return found
    if verb == "exact":
        work = vc.exact.work(lm, task, units=heads_of(lm) if units == "heads" else units)
        return work.plan(Cost()).buckets(True)  # type: ignore[no-any-return]
    return vc.attribute.work(lm, task, units=units, method=verb).groups()  # type: ignore[no-any-return]


def counted(name: str, lm: Model, task: Task, times: float) -> tuple[int, float, float]:
    """Batches; tokens run, and tokens that beginning all passes costs, in units of what each pair takes alone."""
    groups = groups_of(name, lm, task)
    lengths, passes = task.lengths, 5 if name.startswith("exact") else 3 + times  # rows of exact effects: one chunk
    own = sum(2 * n - start + times * (n - start) for n, start in zip(lengths, task.first_difference, strict=True))
    run = sum(
        len(members) * (2 * lengths[members[0]] - start + times * (lengths[members[0]] - start))
        for start, members in groups
    )
    return len(groups), run / own, len(groups) * passes * BEGIN / own


def seconds(verb: Callable[[Model, Task], Any], lm: Model, task: Task, times: float) -> float:
    """Seconds per token of a call; what a verb has to prepare is not counted."""
    call = verb(lm, task) if verb is circuits else lambda: verb(lm, task)
    tokens = sum(
        2 * n - start + times * (n - start) for n, start in zip(task.lengths, task.first_difference, strict=True)
    )
    began = time.process_time()
    call()
    return (time.process_time() - began) / tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--only", action="append", choices=VERBS)
    parser.add_argument("--count", action="store_true", help="count batches and tokens; run nothing")
    given = parser.parse_args()
    lm, drawn = vc.load("smollm2-135m", device="cpu"), random.Random(0)
    lengths = [drawn.randint(8, 120) for _ in range(given.pairs)]
    starts = [drawn.randrange(length - 1) for length in lengths]
    mean, start = round(statistics.mean(lengths)), round(statistics.mean(starts))
    tasks = {"natural": pairs(lm, lengths, starts), "equal": pairs(lm, [mean] * len(lengths), [start] * len(lengths))}
    print(f"{given.pairs} pairs of 8 to 120 tokens, {mean} on average; {len(set(lengths))} lengths", flush=True)
    for name in given.only or VERBS:
        verb, times = VERBS[name]
        if given.count:
            natural, equal = (counted(name, lm, task, times(given.pairs, lm.layers)) for task in tasks.values())
            ratio = sum(natural[1:]) / sum(equal[1:])
            print(
                f"{name}: {natural[0]} batches ({equal[0]} equal), tokens run {natural[1]:.2f} ({equal[1]:.2f}), begun "
                f"{natural[2]:.2f} ({equal[2]:.2f}): ratio {ratio:.2f}",
                flush=True,
            )
            continue
        found: dict[str, list[float]] = {kind: [] for kind in tasks}
        for _ in range(given.repeat):
            for kind, task in tasks.items():
                found[kind].append(seconds(verb, lm, task, times(given.pairs, lm.layers)))
        median_natural, median_equal = (statistics.median(found[kind]) for kind in tasks)
        turns = sorted(n / e for n, e in zip(found["natural"], found["equal"], strict=True))
        print(
            f"{name}: {median_equal * 1e3:.2f} ms a token equal, {median_natural * 1e3:.2f} natural, ratio "
            f"{median_natural / median_equal:.2f} "
            f"({turns[0]:.2f} to {turns[-1]:.2f} over {given.repeat} turns)",
            flush=True,
        )


if __name__ == "__main__":
    main()
