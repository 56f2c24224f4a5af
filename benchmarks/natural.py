"""What natural text costs beside equal pairs: 8 to 120 tokens, differing anywhere, against as many of one length.

    python benchmarks/natural.py --pairs 128

Prints seconds (of the processor) per token that each pair would take alone: its shared prefix once, the rest twice. The
text is that of this project's guides, cut anywhere; in the corrupted prompts one token is another.
"""

from __future__ import annotations

import argparse
import random
import re
import time
from pathlib import Path

import veracausa as vc
from veracausa.model import Model
from veracausa.tasks.task import Task

GUIDES = ("decisions.md", "methods.md", "recipes.md", "circuits.md", "receipts.md", "ground-truth.md")
VERBS = {
    "measure": lambda lm, task: lm.measure(task),
    "atp, heads": lambda lm, task: vc.attribute(lm, task, units="heads", method="atp", show_progress=False),
    "eap, edges": lambda lm, task: vc.attribute(lm, task, units="edges", method="eap", show_progress=False),
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=128)
    count = parser.parse_args().pairs
    lm, drawn = vc.load("smollm2-135m", device="cpu"), random.Random(0)
    lengths = [drawn.randint(8, 120) for _ in range(count)]
    mean = round(sum(lengths) / count)
    natural = pairs(lm, lengths, [drawn.randrange(length - 1) for length in lengths])
    equal = pairs(lm, [mean] * count, [mean // 2] * count)
    print(f"{count} pairs of 8 to 120 tokens, {mean} on average; {len(set(lengths))} lengths")
    for name, verb in VERBS.items():
        found = {}
        for kind, task in (("equal", equal), ("natural", natural)) * 2:
            began = time.process_time()
            verb(lm, task)
            tokens = sum(2 * n - start for n, start in zip(task.lengths, task.first_difference, strict=True))
            own = (time.process_time() - began) / tokens
            found[kind] = min(own, found.get(kind, own))
        ratio = found["natural"] / found["equal"]
        equals, naturals = (f"{found[kind] * 1e3:.2f}" for kind in ("equal", "natural"))
        print(f"{name}: {equals} ms a token equal, {naturals} natural, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
