"""Train the dictionaries that come with this library: TopK features of two sites of SmolLM2, and two transcoders.

    apt-get download wordnet-base && dpkg-deb -x wordnet-base_*.deb out/wordnet
    python scripts/train_dictionaries.py --wordnet out/wordnet/usr/share/wordnet

Seven minutes of one core. The text, all of it free:

* glosses of WordNet 3.0 with their example sentences (Debian's `wordnet-base`; the WordNet licence, which lets anybody
  use, copy and change it): everyday words of all kinds, defined and used;
* the topics of Python's own documentation (`pydoc_data.topics`, in every Python; the PSF licence): prose and code;
* prompts of this library's own tasks, so that what tasks are about is among what was seen.

A twenty-fifth of the text is held out: the figures in the files' headers are of that. Seeded: on one machine, with one
thread, every run gives the same files. They are kept in float16, and judged as kept.
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import asdict
from pathlib import Path
from pydoc_data import topics

import torch

import veracausa as vc
from veracausa.dictionaries import Site
from veracausa.fitting.sites import LENGTH, activations
from veracausa.fitting.training import Plan, trained
from veracausa.loading.dictionaries.own import save
from veracausa.tasks.tokens import encode

DATA = Path(__file__).parent.parent / "src" / "veracausa" / "loading" / "dictionaries" / "data"
MODEL = "smollm2-135m"
#: Name → (site read, site written).
SITES = {
    f"{MODEL}-r10": ("r10", "r10"), f"{MODEL}-r20": ("r20", "r20"),
    f"{MODEL}-m10": ("n10", "m10"), f"{MODEL}-m20": ("n20", "m20"),
}  # fmt: skip
PLAN = Plan(features=768, k=32, steps=800, rows=512, rate=2e-3)
#: Tokens of WordNet, of Python's documentation, and pairs of every task.
WORDNET, PYTHON, PAIRS = 40_000, 20_000, 64
TASKS = ("ioi", "greater_than")


def glosses(folder: Path, generator: random.Random) -> list[str]:
    """What words mean and how they are used: "bank: sloping land …; "they pulled the canoe up on the bank"."."""
    found = []
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{part}").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("  ") or " | " not in line:
                continue  # the licence, at the head of every file
            entry, gloss = line.split(" | ", 1)
            if '"' in gloss or generator.random() < 0.2:  # most of those with an example sentence
                found.append(f"{entry.split()[4].replace('_', ' ').capitalize()}: {gloss.strip()}.")
    generator.shuffle(found)
    return found


def rows_of(lm: vc.Model, texts: list[str], tokens: int) -> list[tuple[int, ...]]:
    """Texts one behind the other, cut into rows of 128 tokens."""
    ids: list[int] = []
    for text in texts:
        ids += encode(lm.tokenizer, text + "\n")
        if len(ids) >= tokens:
            break
    return [tuple(ids[at : at + LENGTH]) for at in range(0, len(ids) - LENGTH + 1, LENGTH)]


def text(lm: vc.Model, wordnet: Path, share: float) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Rows to train on, and rows held out."""
    generator = random.Random(0)
    rows = rows_of(lm, glosses(wordnet, generator), int(WORDNET * share))
    pages = [topics.topics[key] for key in sorted(topics.topics)]
    generator.shuffle(pages)
    rows += rows_of(lm, pages, int(PYTHON * share))
    generator.shuffle(rows)
    cut = max(1, len(rows) // 25)
    tasks = [getattr(vc.tasks, name)(lm, n=PAIRS, seed=1) for name in TASKS]
    return rows[cut:] + [ids for task in tasks for ids in (*task.clean, *task.corrupted)], rows[:cut]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wordnet", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=DATA)
    parser.add_argument("--share", type=float, default=1.0, help="of the text and of the steps")
    asked = parser.parse_args()
    lm, began = vc.load(MODEL), time.perf_counter()
    seen, held = text(lm, asked.wordnet, asked.share)
    sites = [Site.of(name) for name in dict.fromkeys(name for pair in SITES.values() for name in pair)]
    found = activations(lm, seen, sites)
    tokens = len(found[sites[0]])
    print(
        f"{tokens:,} tokens and {len(held)} rows held out, at {len(sites)} sites: {time.perf_counter() - began:.0f} s",
        flush=True,
    )
    plan = Plan(**{**asdict(PLAN), "steps": max(1, int(PLAN.steps * asked.share))})
    for name, (reads, writes) in SITES.items():
        x, y = found[Site.of(reads)], found[Site.of(writes)]
        dic = trained(x, y, plan, site=reads, writes=writes, show_progress=True)
        told = {
            "model": MODEL, "trained": asdict(plan) | {"tokens": tokens},
            "text": "glosses of WordNet 3.0; topics of Python's documentation; prompts of ioi and greater_than",
            "source": f"scripts/train_dictionaries.py, {plan.features} features of {tokens:,} tokens",
        }  # fmt: skip
        path = save(dic, asked.out / f"{name}.safetensors", dtype=torch.float16, told=told)
        kept = vc.dictionary(lm, path)
        quality = kept.check(lm, held)
        save(dic, path, dtype=torch.float16, told=told | {"quality": quality.figures()})
        print(f"{time.perf_counter() - began:.0f} s  {path.name}\n{quality}", flush=True)


if __name__ == "__main__":
    main()
