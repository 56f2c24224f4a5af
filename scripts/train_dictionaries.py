"""Train the dictionaries that come with this library: TopK features of two sites of SmolLM2, and two transcoders.

    apt-get download wordnet-base && dpkg-deb -x wordnet-base_*.deb out/wordnet
    python scripts/train_dictionaries.py --wordnet out/wordnet/usr/share/wordnet

Seven minutes of one core. With `--every-layer` a transcoder of each of the 30 MLPs, small ones (64 features of 2,304
bytes: 4.5 MB in all), and attribution graphs over all of them, checked against the live model
(docs/results/attribution-graphs.md has what came out). Files that are there are kept, so an interrupted run goes on.
Half of the text takes 128 s of one core to record and 14 s for each transcoder, the whole of it about twice that; 15
layers at a time take 5 GB of memory:

    python scripts/train_dictionaries.py --wordnet … --every-layer --share 0.5 --out out/transcoders

The text, all of it free:

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
from dataclasses import asdict, replace
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
#: Of every layer: what its transcoders are like, how many are trained on one recording (two sites each), and the rows
#: of held-out text that each is judged on.
SMALL, TOGETHER, JUDGED = replace(PLAN, features=64, k=8), 15, 4
#: Prompts whose graphs are made, features that are nodes, and nodes of each graph that are run.
PROMPTS, NODES, TOP = 4, 500, 100
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


def train(
    lm: vc.Model, sites: dict[str, tuple[str, str]], plan: Plan, seen: list[tuple[int, ...]],
    held: list[tuple[int, ...]], out: Path, keep: bool = False,
) -> list[Path]:
    """A dictionary of each of some sites, judged on what was held out; where their files are. Files there are kept."""
    paths = {name: out / f"{name}.safetensors" for name in sites}
    sites = {name: site for name, site in sites.items() if not (keep and paths[name].exists())}
    if not sites:
        return [*paths.values()]
    began, names = time.process_time(), dict.fromkeys(name for pair in sites.values() for name in pair)
    found = activations(lm, seen, [Site.of(name) for name in names])
    tokens = len(next(iter(found.values())))
    print(f"{tokens:,} tokens at {len(names)} sites: {time.process_time() - began:.0f} s", flush=True)
    for name, (reads, writes) in sites.items():
        dic = trained(found[Site.of(reads)], found[Site.of(writes)], plan, site=reads, writes=writes)
        told = {
            "model": MODEL, "trained": asdict(plan) | {"tokens": tokens},
            "text": "glosses of WordNet 3.0; topics of Python's documentation; prompts of ioi and greater_than",
            "source": f"scripts/train_dictionaries.py, {plan.features} features of {tokens:,} tokens",
        }  # fmt: skip
        judged = save(dic, out / "judged.safetensors", dtype=torch.float16, told=told)
        quality = vc.dictionary(lm, judged).check(lm, held)
        judged.unlink()
        save(dic, paths[name], dtype=torch.float16, told=told | {"quality": quality.figures()})
        print(f"{time.process_time() - began:.0f} s  {name}\n{quality}", flush=True)
    return [*paths.values()]


def graphs(lm: vc.Model, paths: list[Path], out: Path) -> None:
    """Attribution graphs over all of these transcoders, of pairs of IOI; how influence, frozen and live effects of
    their nodes agree, by distance to the logits and by kind."""
    coders, task = [vc.dictionary(lm, path) for path in paths], vc.tasks.ioi(lm, n=PROMPTS)
    how = {"dictionary": coders, "max_features": NODES, "out": out}
    made = [vc.graphs.attribution_graph(lm, task, pair=i, **how) for i in range(PROMPTS)]
    for one in made:
        print(f"{one}\nreplacement score {one.replacement_score:.3f}, completeness {one.completeness_score:.3f}")
    check = vc.graphs.check(lm, made, task, dictionary=coders, top=TOP)
    check.save(out / "check.safetensors")
    for by in ("", "band", "kind"):
        print(check.agreement(by=by).to_string(index=False), flush=True)
    print(check.circuit_table().to_string(index=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wordnet", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=None, help=f"default: {DATA}; of every layer there is none")
    parser.add_argument("--share", type=float, default=1.0, help="of the text and of the steps")
    parser.add_argument("--every-layer", action="store_true", help="a small transcoder of every MLP, and a graph")
    parser.add_argument("--features", type=int, default=SMALL.features, help="of each of these")
    asked = parser.parse_args()
    if asked.every_layer and asked.out is None:
        parser.error("--every-layer needs --out: its files do not come with the library")
    lm = vc.load(MODEL)
    seen, held = text(lm, asked.wordnet, asked.share)
    plan = replace(SMALL, features=asked.features) if asked.every_layer else PLAN
    plan = replace(plan, steps=max(1, int(plan.steps * asked.share)))
    if not asked.every_layer:
        train(lm, SITES, plan, seen, held, asked.out or DATA)
        return
    every = [f"{layer}" for layer in range(lm.layers)]
    parts = [every[at : at + TOGETHER] for at in range(0, lm.layers, TOGETHER)]
    sites = [{f"{MODEL}-m{k}": (f"n{k}", f"m{k}") for k in part} for part in parts]
    paths = [path for some in sites for path in train(lm, some, plan, seen, held[:JUDGED], asked.out, keep=True)]
    graphs(lm, paths, asked.out / "graphs")


if __name__ == "__main__":
    main()
